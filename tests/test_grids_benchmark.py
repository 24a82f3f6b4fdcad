"""The benchmark of time grids: both sides are equal but for what is asked, and its JSON holds."""

from __future__ import annotations

import json
import math
import statistics

import pytest
import torch
from torch import nn

from benchmarks import adjoint, shipped
from benchmarks import grids as benchmark
from diffflow_edu import DiffFlow, metrics, toy

COSTS = {"5": 0.01, "10": 0.02, "20": 0.04, "30": 0.06}


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A folder where a run is a step or two, and few particles to measure."""
    monkeypatch.setattr(benchmark, "PARTICLES", 60)
    monkeypatch.setattr(benchmark, "CURVE_PARTICLES", 20)
    monkeypatch.setattr(benchmark, "OTHER_STEPS", (5, 10))
    monkeypatch.setattr(benchmark, "HIDDEN", 8)
    monkeypatch.setenv("DIFFFLOW_EDU_PROGRESS", "0")
    benchmark.write_json(tmp_path / "costs.json", dict.fromkeys(COSTS, 8.0))
    return tmp_path


def some_model(hidden: int = 8) -> DiffFlow:
    torch.manual_seed(0)
    model = DiffFlow.mlp(benchmark.schedule(5), hidden=hidden)
    nn.init.normal_(model.drift.last.weight, std=0.3)
    return model


# The plan ----------------------------------------------------------------------------------------


def test_every_stage_costs_the_same_share_of_the_same_budget():
    for stages in benchmark.STAGES.values():
        steps = benchmark.steps_for(stages, 12.0, COSTS)
        spent = [k * COSTS[str(n)] for n, k in zip(stages, steps, strict=True)]
        assert spent == pytest.approx([12.0 / len(stages)] * len(stages), abs=0.06)
    assert benchmark.steps_for((30,), 0.01, COSTS) == [1]


def test_seed_zero_of_everything_comes_first():
    names = benchmark.run_names(benchmark.PARTS, range(3))
    assert len(names) == len(set(names)) == 3 * (2 + 2 * 4 + 2 * 3)
    assert [name[-1] for name in names] == sorted(name[-1] for name in names)


def test_the_sides_of_the_first_question_differ_in_the_times_alone():
    fixed, flexible = benchmark.schedule(10), benchmark.schedule(10, flexible=True)
    assert torch.equal(fixed.times, flexible.times) and torch.equal(fixed.s, flexible.s)
    assert fixed.draw() is fixed and not torch.equal(flexible.draw().times, fixed.times)


def test_the_nets_go_on_from_one_number_of_steps_to_the_next():
    """They are held, not copied, and their score's σ(t) is that of every N."""
    model = some_model()
    other = benchmark.at_steps(model, 20)
    assert other.drift is model.drift and other.score is model.score
    assert other.schedule.steps == 20
    t = torch.linspace(0.05, 1, 20, dtype=torch.float64)
    five, twenty = (benchmark.schedule(n).noise_process.sigma(t) for n in (5, 20))
    torch.testing.assert_close(five, twenty, rtol=1e-12, atol=0)
    torch.testing.assert_close(five, 0.3 * t.sqrt(), rtol=1e-12, atol=0)  # ∫g² dt = g² t


def test_the_cost_of_a_step_is_measured_for_every_n(monkeypatch):
    monkeypatch.setattr(benchmark, "HIDDEN", 8)
    monkeypatch.setenv("DIFFFLOW_EDU_PROGRESS", "0")
    costs = benchmark.step_cost(rounds=1, steps=2)
    assert set(costs) == {"5", "10", "20", "30"} and all(value > 0 for value in costs.values())


# Measuring ---------------------------------------------------------------------------------------


def test_the_stopwatch_does_not_count_what_happens_aside(monkeypatch):
    clock = iter([10.0, 11.0, 11.0, 15.0, 16.0])  # made, read, aside from 11 to 15, read
    monkeypatch.setattr(benchmark.time, "process_time", lambda: next(clock))
    watch = benchmark.Stopwatch()
    assert watch.seconds == 1
    assert watch.aside(lambda: 0.5) == 0.5
    assert watch.paused == 4 and watch.seconds == 2


def test_the_bound_is_that_of_the_model_on_the_grid_asked_for_and_leaves_the_random_state_alone():
    model, data = some_model(), toy.load("checkerboard").sample(50, seed=0)
    state = torch.get_rng_state()
    found = benchmark.bound_at(model, 7, data, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    with torch.no_grad():
        expected = DiffFlow(model.drift, model.score, benchmark.schedule(7)).eval().bound(data)
    assert found == pytest.approx(expected.double().mean().item(), rel=1e-6)


def test_roughness_is_zero_where_nothing_changes_and_the_rate_of_what_does():
    """f = x e^{3t} changes three times its size in a unit of time; σ s = −x never."""
    process = benchmark.schedule(5).noise_process
    model = DiffFlow(
        lambda x, t: x * torch.exp(3 * t),
        lambda x, t: -x / process.sigma(t),
        benchmark.schedule(5),
    )
    data = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    found = benchmark.roughness(model, 0.1 * data, seed=0)
    # Differences over 1/300 of the time are off by 3/600 of the value.
    assert found["drift"] == pytest.approx(3, rel=0.01)
    assert found["score"] == pytest.approx(0, abs=1e-3)


def test_the_spread_of_the_data_across_its_rings_is_one_width():
    rings = toy.load("olympic_rings")
    x = rings.sample(20_000, seed=0)
    # Four standard errors of a standard deviation, 1/√(2n); near a crossing the nearer ring
    # counts, which makes a few particles seem nearer than they are.
    assert benchmark.ring_spread(x, rings) == pytest.approx(1, abs=4 / math.sqrt(40_000) + 0.01)
    lost = torch.cat([x, 50 + x])
    assert benchmark.ring_spread(lost, rings) == pytest.approx(benchmark.ring_spread(x, rings))


# One run, and going on ---------------------------------------------------------------------------


def test_both_sides_of_the_grids_take_the_same_steps_and_leave_a_record(small, monkeypatch):
    monkeypatch.setattr(benchmark, "GRID_SECONDS", 100.0)
    records = {}
    for side in benchmark.SIDES:
        benchmark.run(f"grids/{side}/0", small, "abc")
        path = benchmark.file_of(small, f"grids/{side}/0")
        records[side] = json.loads(path.read_text())
    fixed, flexible = records.values()
    assert fixed["training"] == flexible["training"]
    assert fixed["training"]["steps"] == [12] and len(fixed["loss"]) == 2
    assert set(fixed["bound"]) == {"5", "10"} and fixed["commit"] == "abc"
    assert fixed["bound"] != flexible["bound"]


def test_a_progressive_run_ends_at_the_last_n_with_a_curve_that_ends_where_it_does(
    small, monkeypatch
):
    benchmark.run("progressive/progressive/64/1", small, "abc")
    record = json.loads(benchmark.file_of(small, "progressive/progressive/64/1").read_text())
    assert record["training"]["stages"] == [5, 10, 20, 30]
    assert record["training"]["steps"] == [2, 2, 2, 2]
    seconds = [s for s, _ in record["curve"]]
    assert seconds == sorted(seconds) and seconds[-1] <= record["cpu_seconds"]
    assert all(math.isfinite(value) for _, value in record["curve"])


def test_the_same_run_gives_the_same_numbers(small, tmp_path_factory):
    again = tmp_path_factory.mktemp("again")
    (again / "costs.json").write_text((small / "costs.json").read_text())
    found = []
    for folder in (small, again):
        benchmark.run("progressive/start/16/0", folder, "abc")
        record = json.loads(benchmark.file_of(folder, "progressive/start/16/0").read_text())
        found.append((record["bound"], [value for _, value in record["curve"]]))
    assert found[0] == found[1]


def test_the_last_step_without_noise_is_the_sampler_s_own(small):
    record = benchmark.last_step_run("diffflow", 5, seed=0)
    assert record["weights"] == shipped.sha256("diffflow", benchmark.ZOO_SET, 5)
    density = toy.load(benchmark.ZOO_SET)
    x = benchmark.pretrained("diffflow", benchmark.ZOO_SET, steps=5).sample(60, seed=0).start
    assert record["without"]["leak"] == metrics.leak(x, density)
    assert record["with"]["spread"] != record["without"]["spread"]


def test_a_run_whose_record_is_there_is_not_repeated(tmp_path):
    names = benchmark.run_names(["grids"], [0, 1])
    benchmark.write_json(benchmark.file_of(tmp_path, names[1]), {})
    assert benchmark.missing(names, tmp_path) == [names[0], *names[2:]]


def test_a_last_step_of_weights_that_were_replaced_is_measured_anew(tmp_path, monkeypatch):
    names = ["last_step/ddpm/5/0", "last_step/diffflow/5/0", "last_step/diffflow/10/0"]
    shas = {"ddpm": "old", "diffflow": "other"}
    monkeypatch.setattr(benchmark, "sha256", lambda kind, name, steps: shas[kind])
    for name in names[:2]:
        record = {"weights": shas[name.split("/")[1]]}
        benchmark.write_json(benchmark.file_of(tmp_path, name), record)
    assert benchmark.missing(names, tmp_path) == names[2:]
    shas["diffflow"] = "new"
    assert benchmark.missing(names, tmp_path) == names[1:]


def test_lower_is_what_is_lower_in_every_seed():
    def seeds(*values):
        return benchmark.over_seeds(values)

    assert benchmark.lower(seeds(1, 2), seeds(2, 3)) == "first"
    assert benchmark.lower(seeds(3, 4), seeds(2, 3)) == "second"
    assert benchmark.lower(seeds(1, 4), seeds(2, 3)) == "neither"
    assert benchmark.lower(seeds(1, 2), seeds(1, 2)) == "neither"


# The results that are in the repository ----------------------------------------------------------


@pytest.fixture(scope="module")
def report():
    return json.loads(benchmark.RESULTS.read_text())


def test_the_summaries_of_the_results_are_made_of_their_records(report):
    records = {record["run"]: record for record in report["records"]}
    for side, summary in report["grids"].items():
        own = [records[f"grids/{side}/{seed}"] for seed in report["setting"]["seeds"]["grids"]]
        assert benchmark.grid_summary(own) == summary
    for arm, budgets in report["progressive"].items():
        for b, cell in budgets.items():
            seeds = report["setting"]["seeds"]["progressive"]
            values = [records[f"progressive/{arm}/{b}/{seed}"]["bound"] for seed in seeds]
            assert cell["values"] == values
            assert cell["mean"] == pytest.approx(statistics.fmean(values))


def test_the_two_sides_of_every_comparison_were_given_the_same(report):
    records = {record["run"]: record for record in report["records"]}
    for seed in report["setting"]["seeds"]["grids"]:
        fixed, flexible = (records[f"grids/{side}/{seed}"] for side in benchmark.SIDES)
        assert fixed["training"] == flexible["training"]
    for name, record in records.items():
        part, *rest = name.split("/")
        if part == "progressive":
            stages = benchmark.STAGES[rest[0]]
            steps = benchmark.steps_for(stages, float(rest[1]), report["costs"])
            assert record["training"]["steps"] == steps


def test_no_bound_of_the_results_is_below_the_entropy(report):
    entropy = report["setting"]["entropy"]
    assert entropy == pytest.approx(toy.load(benchmark.SET).entropy(), abs=1e-6)
    for record in report["records"]:
        bounds = record.get("bound", [])
        for value in bounds.values() if isinstance(bounds, dict) else [bounds] if bounds else []:
            assert value > entropy


def test_the_table_for_the_readme_has_a_row_for_every_question(report):
    table = benchmark.readme_table(report)
    assert table.count("\n| DDPM |") == table.count("\n| DiffFlow |") == 3
    for cell in (report["grids"]["fixed"]["bound"]["10"], report["progressive"]["start"]["8"]):
        assert f"{cell['mean']:.2f} ± {cell['spread']:.2f}" in table


def test_the_adjoint_s_table_against_n_says_what_its_results_say():
    report = json.loads(adjoint.RESULTS.read_text())
    table = adjoint.against_n_table(report)
    row = report["against_n"]["results"]["autograd"]["100"]
    assert f"| 100 | {row['saved_mebibytes']:.0f}, {row['resident_rise_mebibytes']:.0f} |" in table
    assert table.count("\n| ") == len(adjoint.MANY_STEPS)


def test_the_adjoint_s_memory_hardly_grows_with_n_and_autograd_s_in_proportion():
    results = json.loads(adjoint.RESULTS.read_text())["against_n"]["results"]
    kept = {way: [row[n]["saved_mebibytes"] for n in ("5", "100")] for way, row in results.items()}
    assert kept["autograd"][1] == pytest.approx(20 * kept["autograd"][0], rel=0.05)
    # What is left to grow is the cached states, two numbers a particle and step.
    assert kept["loss"][1] - kept["loss"][0] == pytest.approx(95 * 500 * 2 * 4 / 2**20, rel=0.05)
