"""What is computed beforehand, step by step, about the particles of a panel."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from diffflow_edu.figures.style import spread_indices
from diffflow_edu.metrics import DATA_SEED, leak, sliced_w2, unit_directions
from diffflow_edu.toy import Density

PROJECTIONS = 32
"""A quarter of the default: 31 steps × 3 panels must be ready before the reader looks up."""

MOST = 1000
"""So many particles tell distances to two digits; the leak counts all."""


def step_metrics(states: np.ndarray, density: Density) -> dict[str, Any]:
    """How far particles (N + 1, B, 2) are from data and from N(0, I) at every step.

    "W2 to data", "W2 to N(0, I)": sliced W2 over at most `MOST` of the finite particles, in
    their units, to as many fresh points; None where no particle is finite. "leak": the share of
    particles off the density's set, those that are not finite included. "n", "floor": how many
    points stand on either side, and the W2 that so many of the data have to so many others.

    >>> from diffflow_edu import toy
    >>> density = toy.load("ring")
    >>> step_metrics(density.sample(100, seed=0)[None].numpy(), density)["leak"]
    [0.0]
    """
    count = min(states.shape[1], MOST)
    noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(DATA_SEED))
    targets = {"W2 to data": density.sample(count, seed=DATA_SEED), "W2 to N(0, I)": noise}
    x = torch.from_numpy(states).float()
    finite = x.isfinite().all(dim=2)
    whole = finite.all(dim=1).numpy()  # steps that lack no particle are measured together
    others = density.sample(count, seed=DATA_SEED + 1)[None]
    floor = _sliced_w2_of_many(others, targets["W2 to data"]).item()
    result: dict[str, Any] = {"n": count, "floor": floor}
    together = x[whole][:, spread_indices(states.shape[1], MOST)]
    for name, target in targets.items():
        values = np.full(len(states), np.nan)
        values[whole] = _sliced_w2_of_many(together, target)
        for i in np.flatnonzero(~whole):
            there = x[i][finite[i]]
            if len(there):
                kept = there[spread_indices(len(there), MOST)]
                values[i] = sliced_w2(kept, target, PROJECTIONS)
        result[name] = [None if np.isnan(value) else float(value) for value in values]
    result["leak"] = [leak(step, density) for step in x]
    return result


def _sliced_w2_of_many(x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """`sliced_w2` of every x (k, n, 2) to one y (n, 2), as (k,): the same sum, sorted once."""
    directions = unit_directions(PROJECTIONS, 2, seed=0)
    quantiles = [
        np.sort((each.double() @ directions).mT.contiguous().numpy(), axis=-1) for each in (x, y)
    ]
    return np.sqrt(np.square(quantiles[0] - quantiles[1]).mean(axis=(-1, -2)))
