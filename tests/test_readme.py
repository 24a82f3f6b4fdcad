"""What the README and the pages of docs/ say is what the repository does."""

from __future__ import annotations

import json
import re

import pytest
import torch

from diffflow_edu import metrics
from tools import readme


@pytest.fixture(scope="module")
def page() -> str:
    return readme.everything()


def test_the_readme_example_learns_the_points():
    names: dict = {}
    exec(readme.example(readme.README.read_text("utf-8")), names)
    points = readme.to_tensor(names["points"])
    learned = metrics.sliced_w2(names["model"].sample(2000, seed=1).start, points)
    noise = metrics.sliced_w2(torch.randn(2000, 2), points)
    assert learned < 0.3 * noise  # measured: .05 against .4


@pytest.mark.parametrize("path", readme.pages(), ids=lambda path: path.name)
def test_the_tables_of_a_page_are_those_of_the_cards_and_results(path):
    text = path.read_text("utf-8")
    assert readme.rewritten(text) == text, "run python -m tools.readme --tables"


def test_every_table_is_on_a_page(page):
    assert [name for name in readme.TABLES if f"<!-- {name} table: " not in page] == []


def test_the_readme_is_read_in_three_screens():
    assert len(readme.README.read_text("utf-8")) < 10_000


@pytest.fixture(scope="module")
def cells():
    """Of the toy table: what was measured, by machine, set and quantity."""
    report = readme.toy_report()

    def value(machine: str, what: str, name: str = "olympic_rings") -> float:
        return report["cells"][machine][name][what]["mean"]

    value.sets = list(report["floors"])
    return value


def test_a_row_of_the_toy_table_reads_as_the_json_says(page, cells):
    (row,) = re.findall(r"^\| DiffFlow \| 5 \| 5 \| (.*?) \|", page, re.MULTILINE)
    gap, leak, w2 = re.findall(r"(?:^| )(\d+\.\d+)", row)[0], *re.findall(r"· (\d+\.\d+)", row)
    assert float(gap) == pytest.approx(cells("diffflow-5", "gap"), abs=0.006)
    assert float(leak) == pytest.approx(100 * cells("diffflow-5", "leak"), abs=0.06)
    assert float(w2) == pytest.approx(cells("diffflow-5", "sliced_w2"), abs=6e-4)


def test_what_the_readme_says_of_the_machines_was_measured(page, cells):
    # The grid decides most.
    assert cells("ddpm-linear-30", "leak") > 80 * cells("ddpm-log_snr-30", "leak")
    assert cells("ddpm-linear-1000", "gap") < 0.3 * cells("ddpm-linear-30", "gap")
    again = cells("ddpm-linear-1000-at-30", "gap")
    assert again == pytest.approx(cells("ddpm-linear-30", "gap"), rel=0.05)
    # The learned drift pays at few steps.
    better = {
        steps: [
            name
            for name in cells.sets
            if cells(f"diffflow-{steps}", "gap", name) < cells(f"ddpm-log_snr-{steps}", "gap", name)
        ]
        for steps in (5, 10, 30)
    }
    assert better[5] == cells.sets
    assert better[10] == [name for name in cells.sets if name != "fractal_tree"]
    assert better[30] == []
    for name in cells.sets:
        assert cells("diffflow-10", "leak", name) > cells("ddpm-log_snr-10", "leak", name)
    costs = readme.toy_report()["costs"]
    assert 10.5 < costs["diffflow-30"]["step"] / costs["ddpm-log_snr-30"]["step"] < 11.5
    # Flows: a good likelihood on one piece and on blocks, and leak.
    chains = [f"{kind}-{n}" for kind in ("diffflow", "ddpm-log_snr") for n in (5, 10, 30)]
    chains.append("ddpm-linear-30")
    for name in ("rotated_gaussian", "checkerboard"):
        best = min(cells(chain, "gap", name) for chain in chains)
        assert cells("coupling-8", "gap", name) < best
    for name in cells.sets:
        for flow in ("coupling-8", "cnf"):
            for chain in ("diffflow-30", "ddpm-log_snr-30"):
                assert cells(flow, "leak", name) > 3 * cells(chain, "leak", name)
    assert cells("coupling-8", "sliced_w2", "rotated_gaussian") > 1
    # The probability flow.
    report = readme.toy_report()

    def ode_gap(machine: str, name: str) -> float:
        return -cells(machine, "log_prob", name) - report["floors"][name]["entropy"]

    bounds = [cells("ddpm-log_snr-10", "gap", name) for name in cells.sets]
    assert 0.38 < min(bounds) and max(bounds) < 2.25
    for name in cells.sets:
        ten = ode_gap("ddpm-log_snr-10", name)
        assert ten < 0.16
        others = [row for row in report["cells"] if "log_prob" in report["cells"][row][name]]
        # Five steps are as good on the tree.
        assert all(ten < ode_gap(row, name) + 0.005 for row in others)
        assert ten < ode_gap("ddpm-log_snr-30", name)
        assert ode_gap("ddpm-linear-1000", name) > ten + 0.5
    # NCSN.
    rows = readme.toy_report()["cells"]
    assert min(rows, key=lambda row: cells(row, "leak")) == "ncsn-30"
    assert cells("ncsn-30", "evaluations") == 301 and "gap" not in rows["ncsn-30"]["checkerboard"]


def test_what_the_readme_says_of_small_images_was_measured(page):
    path = readme.ROOT / "benchmarks" / "results" / "small_images.json"
    report = json.loads(path.read_text())
    (row,) = [row for row in report["diffflow"]["rows"] if row["steps"] == 10]
    (gaussian,) = report["gaussian"]["rows"]
    flat = " ".join(page.split())
    assert f"with ten steps at most {row['bits_per_dim']:.2f} bits/dim on 2000" in flat
    assert f"the training pictures needs {gaussian['bits_per_dim']:.2f}" in flat
    assert f"FID-LeNet is {row['fid']:.0f} " in flat
    assert 10.5 < report["diffflow"]["cpu_seconds"] / 60 < 11.5
    (flow,) = report["coupling"]["rows"]
    ten = [
        r["fid"] for key in ("ddpm", "diffflow") for r in report[key]["rows"] if r["steps"] == 10
    ]
    assert flow["fid"] < min(ten)
    assert f"better than both at ten steps (FID-LeNet {flow['fid']:.0f})" in flat
    assert 2.54 < flow["median"] < 2.55
    assert "half of the test pictures need less than 2.55 bits/dim" in flat
    assert round(1 / flow["above_8"], -1) == 40
    assert "one in forty more than 8" in flat
    assert f"the mean is {flow['bits_per_dim']:.2f} ± {flow['error']:.2f}." in flat
    assert abs(report["coupling"]["cpu_seconds"] / report["diffflow"]["cpu_seconds"] - 1) < 0.1


def test_the_readme_has_no_placeholder(page):
    assert re.findall(r"TIME\d\d|[A-Z]+TEXT|FINDING", page) == []


@pytest.mark.parametrize("path", readme.pages(), ids=lambda path: path.name)
def test_the_files_that_a_page_names_exist(path):
    named = re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8"))
    local = [name for name in named if "://" not in name]
    assert len(local) >= (4 if path == readme.README else 0)
    assert [name for name in local if not (path.parent / name).exists()] == []


def test_the_pictures_of_the_lecturers_guide_are_in_the_notebooks_that_it_names():
    rows = re.findall(
        r"^\| \d+ \| (\d\d), \"(.*?)\" \|", (readme.DOCS / "teaching.md").read_text("utf-8"), re.M
    )
    assert len(rows) > 8
    for number, title in rows:
        (notebook,) = (readme.ROOT / "notebooks").glob(f"{number}_*.py")
        assert f'"{title}"' in notebook.read_text("utf-8"), title


def test_every_page_is_reached_from_the_readme():
    linked = readme.README.read_text("utf-8")
    assert [p.name for p in readme.pages()[1:] if f"](docs/{p.name})" not in linked] == []


def test_the_times_that_the_notebooks_state_were_measured():
    record = json.loads((readme.ROOT / "benchmarks/results/notebooks.json").read_text("utf-8"))
    for name, used in record["notebooks"].items():
        text = (readme.ROOT / "notebooks" / name).with_suffix(".py").read_text("utf-8")
        stated = r"\*\*Time and memory:\*\* about (\d+) s of processor time.*?, and (\d+) MB"
        seconds, megabytes = map(int, re.search(stated, text, re.DOTALL).groups())
        assert seconds == pytest.approx(used["cpu_seconds"], rel=0.35, abs=3), name
        assert megabytes == pytest.approx(used["peak_bytes"] / 1e6, rel=0.25), name
