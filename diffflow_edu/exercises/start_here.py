"""Notebook 00: which end is the data, the gap of a model, and what leaks."""

from __future__ import annotations

from dataclasses import dataclass
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


def _gap(model: _Model, density: toy.Density, x: Tensor) -> Tensor:
    return model.bound(x).mean() - density.entropy()
