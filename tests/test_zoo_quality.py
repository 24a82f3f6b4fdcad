"""The shipped weights are as good as the README says, measured again here.

Five crossing rings, width 0.01, 10 000 samples. The cards give the numbers; the limits below are
the project's promises, with the distance to the measured values as the margin.
"""

from __future__ import annotations

import functools

import pytest

from diffflow_edu import metrics, pretrained, toy


@functools.cache
def measured(kind: str, steps: int) -> dict:
    return metrics.evaluate(pretrained(kind, "olympic_rings", steps), toy.load("olympic_rings"))


@pytest.mark.parametrize("kind", ["diffflow", "ddpm"])
def test_thirty_steps_draw_clean_rings(kind):
    m = measured(kind, 30)
    assert m["leak"] <= 0.005
    assert m["sliced_w2"] <= 0.06
    assert m["gap"] <= 0.65


def test_ten_steps_of_diffflow_leak_little():
    m = measured("diffflow", 10)
    assert m["leak"] <= 0.015
    assert m["gap"] <= 1.0


def test_five_steps_of_diffflow_beat_a_ddpm_trained_as_long():
    diffflow, ddpm = measured("diffflow", 5), measured("ddpm", 5)
    seconds = [pretrained(k, "olympic_rings", 5).card["seconds"] for k in ("diffflow", "ddpm")]
    assert seconds[0] == pytest.approx(seconds[1], rel=0.1)
    assert diffflow["bound"] < ddpm["bound"] - 0.3
    assert diffflow["leak"] < 0.7 * ddpm["leak"]


def test_a_continuous_flow_has_the_best_likelihood_and_still_cannot_tear():
    density = toy.load("olympic_rings")
    cnf, coupling = (
        metrics.evaluate(pretrained(kind, "olympic_rings"), density, n=2000)
        for kind in ("cnf", "coupling")
    )
    chain = measured("diffflow", 30)
    # Means of 2000 log p with a standard deviation near 1: four standard errors are .09.
    assert cnf["gap"] < 0.4 < chain["gap"] < 0.6
    assert chain["leak"] < 0.01 < 0.04 < cnf["leak"] < 0.15 < coupling["leak"] < 0.45


def test_annealed_langevin_draws_clean_rings():
    model = pretrained("ncsn", "olympic_rings")
    m = metrics.evaluate(model, toy.load("olympic_rings"), n=2000)
    assert m["leak"] <= 0.005 and m["sliced_w2"] <= 0.08  # the floor at 2000 samples is .02 or so


@pytest.mark.parametrize(("kind", "steps"), [("diffflow", 10), ("ddpm", 30)])
def test_a_card_holds_what_its_weights_measure(kind, steps):
    card = pretrained(kind, "olympic_rings", steps).card["metrics"]
    m = measured(kind, steps)
    # The same seeds: only rounding may differ between machines.
    assert m["bound"] == pytest.approx(card["bound"], abs=1e-3)
    assert m["leak"] == pytest.approx(card["leak"], abs=2e-4)
    assert m["sliced_w2"] == pytest.approx(card["sliced_w2"], abs=1e-3)
