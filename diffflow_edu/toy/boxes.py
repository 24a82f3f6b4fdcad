"""Boxes: uniform on the filled cells of a square lattice."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from .density import Density, mixture_moments


class Boxes(Density):
    """Uniform on the filled cells of a G × G lattice over the unit square; −inf outside.

    filled: (G, G) bool, cell [i, j] spans x in [i, i + 1] / G and y in [j, j + 1] / G.
    labels: (G, G) int64, the mode of each filled cell.
    """

    def __init__(self, name: str, filled: Tensor, labels: Tensor) -> None:
        self.filled = filled
        self.labels = labels
        self.side = 1 / len(filled)
        self.corners = filled.nonzero().double() * self.side
        count = len(self.corners)
        weights = torch.full((count,), 1 / count, dtype=torch.float64)
        mean, variance = mixture_moments(self.corners + self.side / 2, weights, self.side**2 / 12)
        super().__init__(
            name,
            width=None,
            n_modes=int(labels[filled].max()) + 1,
            n_parts=2 * filled.numel(),
            mean=mean,
            variance=variance,
            raw_leak_distance=0.01 * self.side,
        )
        # Rounding to float32 may carry a sample over an edge by one unit in the last place.
        extent = float(torch.stack([mean, 1 - mean]).max())
        self.tolerance = torch.finfo(torch.float32).eps * max(extent, self.scale)

    def _raw_sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        index = torch.randint(len(self.corners), (n,), generator=generator)
        place = torch.rand(n, 2, generator=generator, dtype=torch.float64)
        return self.corners[index] + self.side * place

    def _raw_log_prob(self, raw: Tensor) -> Tensor:
        filled, last = self.filled.to(raw.device), len(self.filled) - 1
        inside = torch.zeros(len(raw), dtype=torch.bool, device=raw.device)
        for dx in (-self.tolerance, self.tolerance):
            for dy in (-self.tolerance, self.tolerance):
                moved = (raw.detach() + raw.new_tensor([dx, dy])) / self.side
                on_lattice = ((moved >= 0) & (moved < last + 1)).all(dim=1)
                cell = moved.nan_to_num().clamp(0, last).long()
                inside |= on_lattice & filled[cell[:, 0], cell[:, 1]]
        # Zero times x keeps the constant in the autograd graph: the score is 0 inside.
        log_p = torch.where(inside, 0 * raw.sum(1) - self._raw_entropy, -math.inf)
        return torch.where(raw.isnan().any(dim=1), math.nan, log_p)

    @cached_property
    def _raw_entropy(self) -> float:
        return math.log(len(self.corners) * self.side**2)

    def _nearest(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        filled, labels = self.filled.to(raw.device), self.labels.to(raw.device)
        centre = (torch.arange(len(filled), device=raw.device).double() + 0.5) * self.side
        # How far outside each column (x) and each row (y) of the lattice: (n, 2, G).
        outside = ((raw[:, :, None] - centre).abs() - self.side / 2).clamp_min(0).square()
        square = outside[:, 0, :, None] + outside[:, 1, None, :]
        nearest, cell = square.masked_fill(~filled, math.inf).flatten(1).min(dim=1)
        distance = torch.where(raw.isnan().any(dim=1), math.nan, nearest.sqrt())
        return distance, labels.flatten()[cell]
