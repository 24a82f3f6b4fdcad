"""Mixtures of equal isotropic Gaussians."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .density import Density, mixture_moments, normal_nodes


class Gaussians(Density):
    """p(x) = (1/K) Σ N(x; centre, width² I). The mode is the nearest centre's index.

    centres: (K, 2) raw units.
    """

    def __init__(self, name: str, centres: Tensor, width: float) -> None:
        self.centres = centres.double()
        count = len(centres)
        weights = torch.full((count,), 1 / count, dtype=torch.float64)
        mean, variance = mixture_moments(self.centres, weights, width**2)
        super().__init__(
            name,
            width=width,
            n_modes=count,
            n_parts=2 * count,
            mean=mean,
            variance=variance,
            raw_leak_distance=5 * width,
        )

    def _raw_sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        index = torch.randint(len(self.centres), (n,), generator=generator)
        noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        return self.centres[index] + self.width * noise

    def _raw_log_prob(self, raw: Tensor) -> Tensor:
        square = (raw[:, None] - self.centres.to(raw.device)).square().sum(2)
        constant = math.log(len(self.centres) * 2 * math.pi * self.width**2)
        return torch.logsumexp(-0.5 * square / self.width**2, dim=1) - constant

    def _nearest(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        offset = raw[:, None] - self.centres.to(raw.device)
        return torch.linalg.vector_norm(offset, dim=2).min(dim=1)

    def _quadrature(self) -> Iterator[tuple[Tensor, Tensor]]:
        z, weight = normal_nodes(48)
        grid = self.width * torch.cartesian_prod(z, z)
        weights = (weight[:, None] * weight).flatten() / len(self.centres)
        for centre in self.centres:
            yield centre + grid, weights
