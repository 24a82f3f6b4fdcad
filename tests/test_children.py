"""Benchmarks that run children: all of them run, and one that failed is named."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from benchmarks import children, dial, grids, time_to_leak, toy

ROOT = Path(__file__).parents[1]


def python(code: str) -> list[str]:
    """A child that imports nothing of ours."""
    return [sys.executable, "-S", "-c", code]


def test_every_child_runs_and_none_that_failed_goes_unnamed(tmp_path, capfd):
    names = ["good", "bad", "worse", "last"]
    commands = {name: python(f"open(r'{tmp_path / name}', 'w')") for name in names}
    commands["bad"] = python("raise SystemExit(3)")
    commands["worse"] = python("raise RuntimeError('why it failed')")
    with pytest.raises(SystemExit) as stopped:
        children.run_all(commands, jobs=2, pause=0.01)
    message = "2 of 4 runs failed: bad (exit status 3), worse (exit status 1)"
    # A string makes the status of the whole 1. The two may end in either order.
    assert sorted(re.findall(r"\w+ \(exit status \d\)", str(stopped.value))) == sorted(
        re.findall(r"\w+ \(exit status \d\)", message)
    )
    assert str(stopped.value).startswith("2 of 4 runs failed")
    assert {path.name for path in tmp_path.iterdir()} == {"good", "last"}
    assert "why it failed" in capfd.readouterr().err


def test_children_that_all_succeed_end_in_silence():
    assert children.run_all({"one": python("pass")}, jobs=4, pause=0.01) is None
    assert children.run_all({}, jobs=1) is None


def test_no_jobs_is_no_way_to_run():
    with pytest.raises(ValueError, match="jobs must be 1 or more, got 0"):
        children.run_all({"one": python("pass")}, jobs=0)


@pytest.mark.parametrize(
    ("module", "arguments", "run"),
    [
        (dial, ["--only", "10/4", "--seeds", "0"], "10/4/0"),
        (grids, ["--only", "grids", "--seeds", "0", "--jobs", "2"], "grids/fixed/0"),
        (toy, ["--only", "cnf", "--sets", "checkerboard", "--seeds", "0"], "cnf/checkerboard/0"),
    ],
    ids=["dial", "grids", "toy"],
)
def test_a_benchmark_whose_child_fails_fails_and_names_it(
    module, arguments, run, tmp_path, monkeypatch
):
    monkeypatch.setenv("DIFFFLOW_EDU_PROGRESS", "0")
    monkeypatch.setattr(dial, "FOLDER", tmp_path / "dial")
    if module is not dial:
        arguments = [*arguments, "--folder", str(tmp_path)]
        (tmp_path / "costs.json").write_text('{"cnf": {"step": 1.0}}')
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
    real = children.run_all

    def failing(commands, jobs):
        assert all(command[1:3] == ["-m", module.__name__] for command in commands.values())
        real({name: python("raise SystemExit(2)") for name in commands}, jobs, pause=0.01)

    monkeypatch.setattr(module, "run_all", failing)
    with pytest.raises(SystemExit, match=rf"{run} \(exit status 2\)"):
        module.main()


def test_a_benchmark_that_needs_its_neighbours_is_nowhere_called_as_a_script():
    # `python benchmarks/X.py` puts benchmarks/ on the path and not the folder above it.
    folders = ("benchmarks/*.py", "notebooks/*.py", "README.md", "docs/*.md")
    texts = [path for folder in folders for path in ROOT.glob(folder)]
    named = {
        name
        for path in texts
        for name in re.findall(r"python benchmarks/(\w+)\.py", path.read_text())
    }
    assert named  # train_zoo is one
    for name in named:
        code = (ROOT / "benchmarks" / f"{name}.py").read_text()
        assert not re.search(r"^\s*(from|import) benchmarks", code, re.MULTILINE), name


def test_an_interrupted_benchmark_keeps_what_was_finished_and_goes_on(tmp_path, monkeypatch):
    calls = []

    def ours(steps, seed):
        calls.append((steps, seed))
        if (steps, seed) == (2, 1) and calls.count((2, 1)) == 1:
            raise KeyboardInterrupt
        return {"updates": steps, "leak": 0.01 if steps == 2 else 0.5, "cpu_seconds": 1.0}

    public = [{"updates": 1, "leak": 0.9}]
    for name, value in {
        "ours": ours, "public_recipe": lambda seed: calls.append("public") or public,
        "LENGTHS": (1, 2, 3), "SEEDS": (0, 1), "RUNS": tmp_path / "runs",
        "RESULTS": tmp_path / "time_to_leak.json",
    }.items():  # fmt: skip
        monkeypatch.setattr(time_to_leak, name, value)
    monkeypatch.setattr(sys, "argv", ["time_to_leak", "--commit", "abc"])
    with pytest.raises(KeyboardInterrupt):
        time_to_leak.main()
    time_to_leak.main()
    assert calls == [(1, 0), (1, 1), (2, 0), (2, 1), (2, 1), "public"]
    record = json.loads((tmp_path / "time_to_leak.json").read_text("utf-8"))
    assert record["ours"]["updates"] == 2 and len(record["ours"]["rows"]) == 4
    assert record["public"]["rows"] == public
    monkeypatch.setattr(sys, "argv", ["time_to_leak", "--commit", "another"])
    time_to_leak.main()
    assert len(calls) == 6 + 5  # another commit's numbers are not these


def test_rounds_of_the_player_s_benchmark_outlive_an_interruption(tmp_path, monkeypatch):
    player = pytest.importorskip("benchmarks.player", reason="playwright is not installed")
    calls, kinds = [], ("python", "saved page", "JupyterLab")

    def one_round(lab, browser, cell):
        calls.append(cell)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return {kind: {"fps": float(len(calls))} for kind in kinds}

    engine = MagicMock()
    engine.return_value.__enter__.return_value.chromium.launch.return_value.version = "9"
    for name, value in {
        "one_round": one_round, "sync_playwright": engine, "serving": MagicMock(),
        "in_python": lambda cell: None, "RUNS": tmp_path, "RESULTS": tmp_path / "player.json",
        "current_commit": lambda: "abc",
    }.items():  # fmt: skip
        monkeypatch.setattr(player, name, value)
    with pytest.raises(KeyboardInterrupt):
        player.main()
    player.main()
    assert len(calls) == 2 * player.ROUNDS + 1
    rows = json.loads((tmp_path / "player.json").read_text("utf-8"))["rows"]
    assert [row["saved page"]["fps"]["range"] for row in rows] == [[1.0, 3.0], [5.0, 7.0]]
