"""The cost of equal quality: read off planted curves, and one short run."""

from __future__ import annotations

import json

import pytest

from benchmarks import equal_quality as benchmark


def planted(kind: str, budget: float, gap: float, steps: int = 5, seed: int = 0) -> dict:
    return {
        "kind": kind,
        "steps": steps,
        "seed": seed,
        "budget": budget,
        "cpu_seconds": budget,
        "gap": gap,
        "leak": gap / 10,
    }


# Halves with every doubling of the time, from 2 after 2 s.
HALVING = [planted("diffflow", t, 4 / t) for t in benchmark.BUDGETS["diffflow"]]


@pytest.mark.parametrize(
    ("level", "ratio", "reached"),
    [(4.0, 0.5, True), (0.5, 2.0, True), (0.375, 2.0 * 2**0.5, True), (0.01, 32.0, False)],
)
def test_the_ratio_is_read_off_the_line_between_two_lengths(level, ratio, reached):
    records = [*HALVING[::-1], planted("ddpm", 4, level)]
    assert benchmark.cost_ratio(records, "gap", 4) == (pytest.approx(ratio), reached)


def test_a_curve_that_gets_worse_again_has_still_been_good_enough():
    assert benchmark.seconds_to([(2, 3.0), (8, 1.0), (32, 2.0)], 1.0) == 8.0


def test_assembling_keeps_seeds_apart(tmp_path):
    for number, name in enumerate(benchmark.names()):
        kind, steps, budget, seed = name.split("/")
        gap = 0.5 * (1 + int(seed)) if kind == "ddpm" else 4 / float(budget)
        record = planted(kind, float(budget), gap, int(steps), int(seed))
        benchmark.write_json(benchmark.file_of(tmp_path, name), record)
        assert number < 81
    rows = benchmark.assemble(tmp_path)["rows"]
    assert len(rows) == 3 * 2 * 2
    assert rows[0]["ratios"] == [2.0, 1.0, pytest.approx(0.707, abs=0.06)] and all(
        rows[0]["reached"]
    )


def test_a_run_leaves_its_record(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "PARTICLES", 500)
    monkeypatch.setattr(benchmark, "calibrate", lambda *_: None)
    benchmark.run("diffflow/5/0.1/1", tmp_path, "a commit")
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    assert (record["steps"], record["seed"], record["commit"]) == (5, 1, "a commit")
    assert record["recipe"]["training"]["optimizer"] == "muon" and record["cpu_seconds"] > 0


def test_both_have_about_as_many_weights():
    report = json.loads(benchmark.RESULTS.read_text())
    counts = {kind: {r["parameters"] for r in report["records"] if r["kind"] == kind}
              for kind in benchmark.BUDGETS}  # fmt: skip
    assert len(counts["ddpm"]) == 1
    assert all(abs(n / max(counts["ddpm"]) - 1) < 0.05 for n in counts["diffflow"])


def test_the_committed_rows_follow_from_the_committed_records(tmp_path):
    report = json.loads(benchmark.RESULTS.read_text())
    assert len(report["records"]) == len(benchmark.names())
    for number, record in enumerate(report["records"]):
        benchmark.write_json(tmp_path / f"a--{number}.json", record)
    assert benchmark.assemble(tmp_path)["rows"] == report["rows"]
