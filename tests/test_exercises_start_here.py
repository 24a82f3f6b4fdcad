"""Exercises of notebook 00: the solution passes, a planted slip is told what is wrong."""

from __future__ import annotations

import pytest
import torch

from diffflow_edu import exercises


def gap(model, density, x):
    return float(model.bound(x).mean()) - density.entropy()


def leak(x, density):
    return 1 - (density.distance(x) <= 5 * density.width / density.scale).float().mean()


SOLUTIONS = [
    ("check_data_side", lambda path: path.states[0].numpy()),
    ("check_gap", gap),
    ("check_leak", leak),
]
PLANTED = [
    ("check_data_side", lambda path: None, "it returned None"),
    ("check_data_side", lambda path: path.states[-1], "that is the noise side"),
    ("check_data_side", lambda path: path.states, "the particles at every time"),
    ("check_data_side", lambda path: path.states[:, 0], "the first axis of states is time"),
    ("check_data_side", lambda path: path.times, "these are the times"),
    ("check_gap", lambda model, density, x: None, "it returned None"),
    ("check_gap", lambda m, d, x: m.bound(x) - d.entropy(), "take the mean over x"),
    ("check_gap", lambda m, d, x: m.bound(x).mean(), "subtract it"),
    ("check_gap", lambda m, d, x: m.bound(x).mean() + d.entropy(), "the entropy is subtracted"),
    ("check_gap", lambda m, d, x: d.entropy() - m.bound(x).mean(), "the sign is turned"),
    ("check_gap", lambda m, d, x: m.bound(x).sum() - d.entropy(), "not the sum"),
    ("check_leak", lambda x, d: None, "it returned None"),
    (
        "check_leak",
        lambda x, d: (d.distance(x) > 5 * d.width / d.scale).float().mean(),
        "a NaN is compared with nothing",
    ),
    ("check_leak", lambda x, d: 1 - leak(x, d), "the share that did not leak"),
    (
        "check_leak",
        lambda x, d: 1 - (d.distance(x) <= d.width / d.scale).float().mean(),
        "one width is not far",
    ),
    (
        "check_leak",
        lambda x, d: 1 - (d.distance(x) <= 5 * d.width).float().mean(),
        "divide by density.scale",
    ),
    ("check_leak", lambda x, d: leak(x, d) * len(x), "the leak is their share"),
    ("check_leak", lambda x, d: torch.tensor(float("nan")), "NaN or infinity"),
]


@pytest.mark.parametrize(("check", "answer"), SOLUTIONS)
def test_the_solution_passes(check, answer, capsys):
    assert getattr(exercises, check)(answer) is True
    assert capsys.readouterr().out.startswith("✓")


@pytest.mark.parametrize(("check", "answer", "words"), PLANTED)
def test_a_planted_slip_is_told_what_is_wrong(check, answer, words, capsys):
    assert getattr(exercises, check)(answer) is False
    assert words in capsys.readouterr().out
