"""Notebook 00: which end is the data, the gap of a model, what leaks, and a sampler."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from diffflow_edu import toy
from diffflow_edu.exercises.checking import Slip, check_function
from diffflow_edu.processes.base import Trajectory


def check_data_side(answer: Any) -> bool:
    """Exercise 1: answer(trajectory) is the particles at t = 0, (B, d)."""
    draw = torch.Generator().manual_seed(1)
    times = torch.linspace(0, 1, 5, dtype=torch.float64)
    states = torch.randn(5, 6, 2, generator=draw, dtype=torch.float64)
    slips = [
        Slip(
            lambda trajectory: trajectory.end,
            "that is the noise side. Time runs from the data (t = 0) to the noise (t = T), "
            "whichever way the process ran.",
        ),
        Slip(
            lambda trajectory: trajectory.states,
            "these are the particles at every time; only those at t = 0 are asked for.",
        ),
        Slip(
            lambda trajectory: trajectory.states[:, 0],
            "this is one particle at every time: the first axis of states is time.",
        ),
        Slip(lambda trajectory: trajectory.times, "these are the times; where are the particles?"),
    ]
    praise = "right: the data side is the start, even of a sample."
    cases = [(Trajectory(times, states),), (Trajectory(times[:3], states[:3]),)]
    return check_function("data_side", answer, lambda path: path.start, slips, cases, praise)


@dataclass(frozen=True)
class _Model:
    """Stands for a model whose bound at x is offset + ‖x‖² nats."""

    offset: float

    def bound(self, x: Tensor) -> Tensor:
        return self.offset + x.square().sum(1)

    def loss(self, x: Tensor) -> Tensor:
        return self.bound(x).mean()


def check_gap(answer: Any) -> bool:
    """Exercise 2: answer(model, density, x) is mean bound − entropy, in nats."""
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(50, 2, generator=draw, dtype=torch.float64)
    cases = [(_Model(0.7), toy.load("ring"), x), (_Model(1.9), toy.load("checkerboard"), x / 2)]
    slips = [
        Slip(
            lambda model, density, x: model.bound(x) - density.entropy(),
            "one number per particle so far: take the mean over x.",
        ),
        Slip(
            lambda model, density, x: model.bound(x).mean(),
            "this is the bound itself. Even a perfect model pays the entropy; subtract it.",
        ),
        Slip(
            lambda model, density, x: model.bound(x).mean() + density.entropy(),
            "the entropy is subtracted: it is the least that −log p can be on average.",
        ),
        Slip(
            lambda model, density, x: density.entropy() - model.bound(x).mean(),
            "the sign is turned: the bound lies above the entropy, so the gap is positive.",
        ),
        Slip(
            lambda model, density, x: model.bound(x).sum() - density.entropy(),
            "take the mean over x, not the sum: the entropy is that of one particle.",
        ),
    ]
    praise = "right: nats above the best that anyone can do."
    return check_function("gap", answer, _gap, slips, cases, praise)


def check_leak(answer: Any) -> bool:
    """Exercise 3: answer(x, density) is the share of x farther than five widths from every ring."""
    cases = []
    for name in ("ring", "olympic_rings"):
        density = toy.load(name, width=0.05)
        x = density.sample(400, seed=3).double()
        x[:60] += 0.3
        x[60:70] = torch.nan
        cases.append((x, density))

    def counted(x: Tensor, density: toy.Density, widths: float, scale: float) -> Tensor:
        near = density.distance(x) <= widths * density.width / scale
        return 1 - near.double().mean()

    slips = [
        Slip(
            lambda x, d: (d.distance(x) > 5 * d.width / d.scale).double().mean(),
            "a NaN is compared with nothing: `distance > …` is False for it, so it was not "
            "counted. Count what is near, and take the rest.",
        ),
        Slip(
            lambda x, d: 1 - counted(x, d, 5, d.scale),
            "this is the share that did not leak.",
        ),
        Slip(
            lambda x, d: counted(x, d, 1, d.scale),
            "one width is not far: a third of the true data lies outside. Use five.",
        ),
        Slip(
            lambda x, d: counted(x, d, 5, 1.0),
            "the width is in raw units, the distance in normalised ones: divide by density.scale.",
        ),
        Slip(
            lambda x, d: len(x) * counted(x, d, 5, d.scale),
            "this is the number of points; the leak is their share.",
        ),
        Slip(
            lambda x, d: 1 - (d.distance(x) <= 5 * d.width / d.scale).double(),
            "one number per point so far: take the mean.",
        ),
    ]
    praise = "right, NaN and all."
    return check_function(
        "leak", answer, lambda x, d: counted(x, d, 5, d.scale), slips, cases, praise
    )


class _Chain:
    """Stands for a model of N steps whose backward means and noises all differ."""

    def __init__(self, steps: int) -> None:
        self.schedule = SimpleNamespace(steps=steps)

    def backward_mean(self, x: Tensor, i: int) -> Tensor:
        return 0.9 * x + torch.sin(x + i)

    def backward_std(self) -> Tensor:
        return 0.3 + 0.2 * torch.arange(self.schedule.steps, dtype=torch.float64)


def check_walk_back(answer: Any) -> bool:
    """Exercise 4: answer(model, x_N, noise) are the particles at t = 0 of the backward chain.

    x_N: (B, d); noise: (N, B, d), that of step i in noise[i]; the step i = 0 adds none. Returns
    (B, d).
    """
    draw = torch.Generator().manual_seed(4)
    cases = []
    for steps, d in ((4, 2), (6, 3)):
        x_last = torch.randn(5, d, generator=draw, dtype=torch.float64)
        noise = torch.randn(steps, 5, d, generator=draw, dtype=torch.float64)
        cases.append((_Chain(steps), x_last, noise))

    def walk(order: Any, scale: Any = lambda b, i: b[i] if i > 0 else 0.0) -> Any:
        def wrong(model: _Chain, x: Tensor, noise: Tensor) -> Tensor:
            for i in order(model.schedule.steps):
                x = model.backward_mean(x, i) + scale(model.backward_std(), i) * noise[i]
            return x

        return wrong

    def down(steps: int) -> Any:
        return reversed(range(steps))

    def all_states(model: _Chain, x: Tensor, noise: Tensor) -> Tensor:
        states = [x]
        for i in down(model.schedule.steps):
            step = model.backward_std()[i] * noise[i] if i > 0 else 0.0
            states.append(model.backward_mean(states[-1], i) + step)
        return torch.stack(states)

    def last_alone(model: _Chain, x: Tensor, noise: Tensor) -> Tensor:
        return model.backward_mean(x, 0)

    def added(model: _Chain, x: Tensor, noise: Tensor) -> Tensor:
        for i in down(model.schedule.steps):
            step = model.backward_std()[i] * noise[i] if i > 0 else 0.0
            x = x + model.backward_mean(x, i) + step
        return x

    slips = [
        Slip(
            walk(range),
            "the steps run from data to noise: begin with i = N − 1 and count down.",
        ),
        Slip(
            walk(down, lambda b, i: b[i]),
            "the last step, i = 0, adds no noise: leave the particles at its mean.",
        ),
        Slip(
            walk(down, lambda b, i: 0.0), "the noise is missing: every step but the last adds b z."
        ),
        Slip(
            walk(down, lambda b, i: b[i] ** 2 if i > 0 else 0.0),
            "backward_std is a standard deviation already: do not square it.",
        ),
        Slip(
            walk(down, lambda b, i: b[i] ** 0.5 if i > 0 else 0.0),
            "backward_std is a standard deviation already: take no root.",
        ),
        Slip(
            walk(down, lambda b, i: 1.0 if i > 0 else 0.0),
            "the noise is to be multiplied by backward_std()[i].",
        ),
        Slip(
            walk(lambda n: range(n - 1, 0, -1)),
            "the step i = 0 is missing: range(N − 1, 0, −1) stops at 1.",
        ),
        Slip(
            walk(lambda n: range(n - 2, -1, -1)),
            "the first step from the noise, i = N − 1, is missing.",
        ),
        Slip(last_alone, "every step begins at x_N: let each begin where the one before it ended."),
        Slip(all_states, "these are all states; return the last one, the particles at t = 0."),
        Slip(added, "backward_mean is where the particle goes, not how far: do not add x to it."),
    ]
    praise = "right, that is the sampler of every diffusion in this course."
    return check_function("walk_back", answer, walk(down), slips, cases, praise)


def _gap(model: _Model, density: toy.Density, x: Tensor) -> Tensor:
    return model.bound(x).mean() - density.entropy()
