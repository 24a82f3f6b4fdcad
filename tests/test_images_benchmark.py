"""The benchmark of training on images: what it counts, and what the README says of its results."""

import json

import pytest
import torch

from benchmarks import images as benchmark
from diffflow_edu.unet import UNet, cost
from tools import readme

TINY = benchmark.Setting(
    (1, 8, 8), "tiny", batch=3, few=2, steps=3, matrix=16, rounds=1
)  # as long as a test may take
CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["ddpm", "diffflow"])
def test_the_products_of_a_step_are_those_of_the_nets_that_it_runs(kind, monkeypatch):
    # Pictures through a net without a gradient count once, with one three times.
    seen = []
    forward = UNet.forward

    def counted(self, x, t):
        seen.append(x.flatten(0, -4).shape[0] * (3 if torch.is_grad_enabled() else 1))
        return forward(self, x, t)

    monkeypatch.setattr(UNet, "forward", counted)
    _, step = benchmark.training_step(kind, "32 bits", TINY, CPU)
    step()
    monkeypatch.undo()
    one = cost(UNet(1, "tiny"), TINY.shape).flops
    assert benchmark.flops_of(kind, TINY) == sum(seen) * one


def test_a_matrix_product_and_a_step_take_time_and_all_rows_are_written():
    record = benchmark.measure_steps(TINY, CPU)
    assert len(record["rows"]) == len(benchmark.KINDS) * len(benchmark.VARIANTS)
    for row in record["rows"]:
        assert row["seconds"] > 0
        assert row["images_per_second"] == pytest.approx(TINY.batch / row["seconds"], rel=0.02)
        flops = 1e9 * record["gflop_per_step"][row["kind"]]
        assert row["tflops"] == pytest.approx(flops / row["seconds"] / 1e12, rel=0.03)


def test_what_is_written_leaves_other_records_there(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path / "images.json")
    benchmark.write(CPU, "steps, a", {"rows": [1]})
    benchmark.write(CPU, "memory, a", {"rows": [2]})
    benchmark.write(CPU, "steps, a", {"rows": [3]})
    found = json.loads((tmp_path / "images.json").read_text())
    assert found == {"cpu": {"steps, a": {"rows": [3]}, "memory, a": {"rows": [2]}}}


@pytest.fixture(scope="module")
def results():
    return json.loads(benchmark.RESULTS.read_text())


def test_the_peak_memory_of_the_adjoint_was_nearly_flat_in_n_and_autograds_was_not(results):
    records = {
        key: record
        for device in results.values()
        for key, record in device.items()
        if key.startswith("memory")
    }
    assert "memory, 1×14×14 tiny" in records
    for record in records.values():
        assert record["n_50_over_n_5"]["adjoint"] <= 1.3
        assert record["n_50_over_n_5"]["autograd"] > 5


def test_what_the_readme_says_of_layouts_and_precisions_was_measured(results):
    gains, costs, bf16 = {}, [], {}
    for name in ("1×14×14 tiny", "3×32×32 tiny"):
        rows = results["cpu"][f"steps, {name}"]["rows"]
        seconds = {(row["kind"], row["variant"]): row["seconds"] for row in rows}
        for kind in benchmark.KINDS:
            plain, last, half, both = (seconds[kind, variant] for variant in benchmark.VARIANTS)
            gains[kind, name] = round(100 * (plain / last - 1))
            costs.append(round(100 * (both / half - 1)))
            bf16[kind, name] = round(100 * (1 - half / plain))
        shares = [row["share_of_peak"] for row in rows if row["variant"] == "32 bits"]
        assert max(shares) - min(shares) < 0.1  # as large a part of more products
    page = " ".join(readme.everything().split())
    assert gains["diffflow", "3×32×32 tiny"] >= 5 and gains["ddpm", "3×32×32 tiny"] >= 5
    low, high = sorted(gains[kind, "3×32×32 tiny"] for kind in benchmark.KINDS)
    assert f"Channels-last gains {in_words(low, high)} % on colour pictures" in page
    assert all(abs(gains[kind, "1×14×14 tiny"]) <= 3 for kind in benchmark.KINDS)
    assert f"in bf16 it costs {min(costs)} to {max(costs)} %" in page
    faster = [gain for case, gain in bf16.items() if case != ("ddpm", "1×14×14 tiny")]
    assert f"bf16 without it takes {min(faster)} to {max(faster)} % less time" in page
    assert abs(bf16["ddpm", "1×14×14 tiny"]) <= 3


def in_words(low, high):
    return f"{low}" if low == high else f"{low} to {high}"


def test_the_table_has_a_row_for_every_measurement(results):
    table = readme.images_table()
    rows = [line for line in table.splitlines() if line.startswith("| D")]
    measured = sum(
        len(record["rows"])
        for device in results.values()
        for key, record in device.items()
        if key.startswith("steps")
    )
    assert len(rows) == measured
    assert "| adjoint, 1×14×14 tiny on a CPU | " in table
