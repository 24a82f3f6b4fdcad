"""What is computed beforehand, step by step, about the particles of a panel."""

from __future__ import annotations

import numpy as np
import torch

from diffflow_edu.figures.style import spread_indices
from diffflow_edu.metrics import DATA_SEED, leak, sliced_w2
from diffflow_edu.toy import Density

PROJECTIONS = 32
"""A quarter of the default: 31 steps × 3 panels must be ready before the reader looks up."""

MOST = 1000
"""So many particles tell distances to two digits; the leak counts all."""


def step_metrics(states: np.ndarray, density: Density) -> dict[str, list[float | None]]:
    """How far particles (N + 1, B, 2) are from data and from N(0, I) at every step.

    "W2 to data", "W2 to N(0, I)": sliced W2 over at most `MOST` of the finite particles, in
    their units, to as many fresh points; None where no particle is finite. "leak": the share of
    particles off the density's set, those that are not finite included.

    >>> from diffflow_edu import toy
    >>> density = toy.load("ring")
    >>> step_metrics(density.sample(100, seed=0)[None].numpy(), density)["leak"]
    [0.0]
    """
    count = min(states.shape[1], MOST)
    data = density.sample(count, seed=DATA_SEED)
    noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(DATA_SEED))
    result: dict[str, list[float | None]] = {"W2 to data": [], "W2 to N(0, I)": [], "leak": []}
    for step in states:
        x = torch.from_numpy(step).float()
        finite = x[x.isfinite().all(dim=1)]
        finite = finite[spread_indices(len(finite), MOST)]
        for name, target in (("W2 to data", data), ("W2 to N(0, I)", noise)):
            value = sliced_w2(finite, target, PROJECTIONS) if len(finite) else None
            result[name].append(value)
        result["leak"].append(leak(x, density))
    return result
