"""Rings by label: the record that is committed, and how it is measured."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks import by_class
from benchmarks.records import read_json
from benchmarks.train_zoo import data_width
from diffflow_edu import toy

DENSITY = toy.load(by_class.DENSITY)
REPORT = read_json(by_class.RESULTS)


def test_the_record_is_of_all_models_by_the_recipes_that_are_here():
    plans = by_class.plans(data_width(DENSITY))
    assert set(REPORT) == set(plans)
    for name, (recipe, training) in plans.items():
        assert REPORT[name]["recipe"] == recipe | {"training": training | {"labels": True}}


@pytest.mark.parametrize("name", REPORT)
def test_at_thirty_steps_less_than_one_sample_in_a_hundred_lies_off_the_ring_of_its_label(name):
    unguided = REPORT[name]["by_guidance"][0]
    assert unguided["guidance"] == 0 and len(unguided["leak"]) == DENSITY.n_modes
    assert max(unguided["leak"]) < 0.01 or REPORT[name]["steps"] == 10
    assert all(o <= leak for o, leak in zip(unguided["other"], unguided["leak"], strict=True))


@pytest.mark.parametrize("name", REPORT)
def test_bounds_lie_above_their_entropies_and_the_label_is_worth_what_it_tells(name):
    record = REPORT[name]
    assert record["bound_given"] > record["entropy_given"]
    assert record["bound"] > record["entropy"]
    # log 5, less what points near a crossing do not tell.
    told = record["entropy"] - record["entropy_given"]
    assert 0.98 * math.log(5) < told < math.log(5)


@pytest.mark.parametrize("name", REPORT)
def test_on_a_ring_guidance_takes_samples_from_the_data(name):
    rows = REPORT[name]["by_guidance"]
    w2 = [sum(row["sliced_w2"]) / len(row["sliced_w2"]) for row in rows]
    assert w2 == sorted(w2) and w2[-1] > 2 * w2[0]


def test_a_point_is_on_the_ring_of_its_label_and_on_no_other():
    x, label = DENSITY.sample_labelled(2000, seed=0)
    on = torch.stack([by_class.on_own_ring(x, DENSITY, y) for y in range(DENSITY.n_modes)])
    own = on.gather(0, label[None])[0]
    assert own.float().mean() > 0.9999 or (~own).sum() == DENSITY.leaked(x).sum()
    assert on.float().sum(0).mean() < 1.1  # of two where they cross
    far = torch.zeros(1, 2) + 50
    assert not any(by_class.on_own_ring(far, DENSITY, y) for y in range(DENSITY.n_modes))


def test_the_table_has_a_line_for_every_model_and_guidance():
    lines = by_class.table(REPORT).splitlines()
    rows = sum(1 + len(record["by_guidance"]) for record in REPORT.values())
    assert len(lines) == 1 + rows
