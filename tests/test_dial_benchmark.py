"""The noise dial: one number, one family, equal training; its JSON and the weights agree."""

from __future__ import annotations

import json
import math

import pytest
import torch

from benchmarks import dial
from diffflow_edu import DiffFlow, metrics, pretrained, toy, zoo

DENSITY = toy.load("olympic_rings")
REPORT = json.loads(dial.RESULTS.read_text())
MEASURES = {"gap", "leak", "sliced_w2", "mode_survival", "mode_survival_chance", "w2_to_normal"}


# The family --------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", zoo.NOISE_BUDGETS)
@pytest.mark.parametrize("steps", [5, 10])
def test_the_budget_is_the_integral_of_g_squared(budget, steps):
    schedule = zoo.build(dial.recipe(steps, budget, DENSITY)).schedule
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    integral = torch.trapezoid(schedule.noise_process.g(t).square(), t)
    # The trapezium rule on 20 000 intervals of a function that rises e^{6 t} or slower.
    assert integral.item() == pytest.approx(budget, rel=1e-4)


def test_settings_of_one_n_differ_in_the_budget_alone():
    first, *others = (dial.recipe(10, budget, DENSITY) for budget in dial.BUDGETS[10])
    for other in others:
        differing = {key for key in first if first[key] != other[key]}
        assert differing == {"kind", "schedule"}
        grids = first["schedule"][1], other["schedule"][1]
        assert {key for key in grids[0] if grids[0][key] != grids[1][key]} == {"r_max"}


def test_the_dial_turns_from_a_flow_to_a_diffusion():
    low, high = (
        zoo.build(dial.recipe(10, budget, DENSITY)).schedule.noise_process
        for budget in (dial.BUDGETS[10][0], dial.BUDGETS[10][-1])
    )
    end = torch.tensor(1.0)
    # What is left of the data where the drift is zero: nearly all, and next to nothing.
    assert low.alpha(end) > 0.999 and high.alpha(end) < 0.15


def test_the_ends_of_the_dial_come_first():
    names = dial.settings()
    assert len(names) == len(set(names)) == sum(map(len, dial.BUDGETS.values()))
    assert {"10/0.001", "10/4"} == set(names[:2])


@pytest.mark.parametrize("budget", [0.0, -1.0, math.inf, math.nan])
def test_a_budget_that_is_none_is_refused(budget):
    with pytest.raises(ValueError, match="budget must be positive and finite, got"):
        dial.r_max(budget)


# A run -------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    """Runs of a few steps, and few particles to measure."""
    monkeypatch.setenv("DIFFFLOW_EDU_PROGRESS", "0")
    training = {"steps": 2, "batch_size": 20, "lr": 5e-3, "warm_start": 2}
    monkeypatch.setattr(dial, "TRAINING", training)
    monkeypatch.setattr(dial, "PARTICLES", 100)
    monkeypatch.setattr(dial, "LATENT_PARTICLES", 100)
    monkeypatch.setattr(dial, "CALIBRATION_PARTICLES", 200)


@pytest.mark.usefixtures("small")
def test_runs_are_assembled_and_shipped_under_their_names(tmp_path):
    runs, package = tmp_path / "runs", tmp_path / "package"
    package.mkdir()
    for name in ("10/4/0", "10/4/1", "10/0.001/0", "5/0.3/0"):
        dial.train(name, runs, commit="abc")
    report = dial.assemble(runs)
    found = [(r["N"], r["budget"], dial.seed_of(r)) for r in report["records"]]
    assert found == [(10, 0.001, 0), (10, 4, 0), (10, 4, 1), (5, 0.3, 0)]
    first, second = (r["metrics"]["bound"] for r in report["records"] if r["budget"] == 4)
    assert first != second
    assert set(report["best"]) == {"10", "5"} and report["best"]["5"]["mean"]["gap"] == 0.3
    assert report["best"]["10"]["1"]["gap"] == 4 and report["best"]["10"]["2"] == {}
    for record in report["records"]:
        assert record["metrics"].keys() >= MEASURES and record["commit"] == "abc"
    shipped = {path.name for path in dial.ship(runs, package)}
    assert shipped == {f"diffflow_noise_{b}-olympic_rings-10.safetensors" for b in ("0.001", "4")}
    model = zoo.load(package / "diffflow_noise_4-olympic_rings-10.safetensors")
    assert type(model) is DiffFlow and model.card["command"].endswith("--only 10/4 --seeds 0")
    assert model.log_b_ratio.abs().sum() > 0  # calibrated


def test_the_best_place_is_where_a_measure_is_least_and_a_failed_run_is_never_it():
    def record(budget, gap):
        return {"budget": budget, "metrics": dict.fromkeys(MEASURES, 1.0) | {"gap": gap}}

    records = [record(0.1, None), record(0.3, 0.7), record(1.0, 0.9)]
    assert dial.best_places(records)["gap"] == 0.3
    assert (
        dial.best_places([*records, record(0.3, 1.3)])["gap"] == 1.0
    )  # .9 is less than their mean
    assert dial.best_places([]) == {}


# What was measured -------------------------------------------------------------------------------


def test_the_results_hold_every_setting_of_the_dial():
    found = [(r["N"], r["budget"], dial.seed_of(r)) for r in REPORT["records"]]
    wanted = {(n, b, seed) for n in dial.BUDGETS for b in dial.BUDGETS[n] for seed in dial.SEEDS}
    assert set(found) == wanted and len(found) == len(wanted)


@pytest.mark.parametrize("n", dial.BUDGETS)
def test_all_settings_of_one_n_trained_alike(n):
    own = [r for r in REPORT["records"] if r["N"] == n]
    assert len({json.dumps(r["recipe"]["training"] | {"seed": 0}) for r in own}) == 1
    assert len({r["parameters"] for r in own}) == 1
    seconds = [r["seconds"] for r in own]
    # The steps are equal; a busy machine stretches the clock of some.
    assert max(seconds) < 1.6 * min(seconds)


@pytest.mark.parametrize("budget", [0.1, 4.0])
def test_the_shipped_weights_measure_what_the_results_say(budget):
    (record,) = [
        r for r in REPORT["records"] if (r["N"], r["budget"], dial.seed_of(r)) == (10, budget, 0)
    ]
    model = pretrained(f"diffflow_noise_{budget:g}", "olympic_rings", steps=10)
    found = metrics.evaluate_latent(model, DENSITY, n=dial.LATENT_PARTICLES)
    # The same seeds: only rounding may differ between machines.
    assert found["mode_survival"] == pytest.approx(record["metrics"]["mode_survival"], abs=2e-3)
    assert found["w2_to_normal"] == pytest.approx(record["metrics"]["w2_to_normal"], abs=1e-3)


def test_every_setting_of_ten_steps_is_shipped():
    kinds = {f"diffflow_noise_{budget:g}/olympic_rings/10" for budget in zoo.NOISE_BUDGETS}
    assert kinds <= set(zoo.names())
