"""Exercises of notebook 00: the solution passes, a planted slip is told what is wrong."""

from __future__ import annotations

import pytest
import torch

from diffflow_edu import exercises


def gap(model, density, x):
    return float(model.bound(x).mean()) - density.entropy()


def leak(x, density):
    return 1 - (density.distance(x) <= 5 * density.width / density.scale).float().mean()


def walk_back(model, x, noise):
    for i in range(model.schedule.steps - 1, -1, -1):
        x = model.backward_mean(x, i) + (i > 0) * model.backward_std()[i] * noise[i]
    return x


def wrong_walk(order=lambda n: range(n - 1, -1, -1), noise_of=lambda b, i: b[i] * (i > 0)):
    def answer(model, x, noise):
        for i in order(model.schedule.steps):
            x = model.backward_mean(x, i) + noise_of(model.backward_std(), i) * noise[i]
        return x

    return answer


def fresh_noise(model, x, noise):
    return walk_back(model, x, torch.randn_like(noise))


def one_particle_alone(model, x, noise):
    for i in range(model.schedule.steps):
        x_0 = model.backward_mean(x, model.schedule.steps - 1 - i)
    return x_0


SOLUTIONS = [
    ("check_data_side", lambda path: path.states[0].numpy()),
    ("check_gap", gap),
    ("check_leak", leak),
    ("check_walk_back", walk_back),
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
    ("check_walk_back", lambda model, x, noise: None, "it returned None"),
    ("check_walk_back", wrong_walk(order=range), "count down"),
    ("check_walk_back", wrong_walk(noise_of=lambda b, i: b[i]), "i = 0, adds no noise"),
    ("check_walk_back", wrong_walk(noise_of=lambda b, i: 0), "the noise is missing"),
    ("check_walk_back", wrong_walk(noise_of=lambda b, i: b[i] ** 2 * (i > 0)), "do not square"),
    ("check_walk_back", wrong_walk(noise_of=lambda b, i: b[i] ** 0.5 * (i > 0)), "take no root"),
    ("check_walk_back", wrong_walk(noise_of=lambda b, i: i > 0), "multiplied by backward_std"),
    ("check_walk_back", wrong_walk(order=lambda n: range(n - 1, 0, -1)), "stops at 1"),
    ("check_walk_back", wrong_walk(order=lambda n: range(n - 2, -1, -1)), "i = N − 1, is missing"),
    ("check_walk_back", one_particle_alone, "every step begins at x_N"),
    ("check_walk_back", fresh_noise, "another answer each time"),
]


@pytest.mark.parametrize(("check", "answer"), SOLUTIONS)
def test_the_solution_passes(check, answer, capsys):
    assert getattr(exercises, check)(answer) is True
    assert capsys.readouterr().out.startswith("✓")


@pytest.mark.parametrize(("check", "answer", "words"), PLANTED)
def test_a_planted_slip_is_told_what_is_wrong(check, answer, words, capsys):
    assert getattr(exercises, check)(answer) is False
    assert words in capsys.readouterr().out
