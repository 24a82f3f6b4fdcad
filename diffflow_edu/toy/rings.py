"""Rings: a 1-D Gaussian rotated about a centre, and mixtures of such rings."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .density import Density, mixture_moments, normal_nodes


class Rings(Density):
    """Equal rings of radius 1: the angle uniform, the signed radius R ~ N(1, width²).

    A negative R is the point opposite, so r = |R| and, exactly for every width,
    p(x) = [N(r; 1, width²) + N(r; −1, width²)] / (2π r).

    centres: (K, 2) raw units. The mode is the ring's index.
    """

    def __init__(self, name: str, centres: list[tuple[float, float]], width: float) -> None:
        self.centres = torch.tensor(centres, dtype=torch.float64)
        count = len(centres)
        weights = torch.full((count,), 1 / count, dtype=torch.float64)
        # On a ring E‖x − c‖² = E R² = 1 + width², shared equally by the two coordinates.
        mean, variance = mixture_moments(self.centres, weights, (1 + width**2) / 2)
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
        ring = torch.randint(len(self.centres), (n,), generator=generator)
        angle = 2 * math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
        radius = 1 + self.width * torch.randn(n, generator=generator, dtype=torch.float64)
        return self.centres[ring] + _polar(radius, angle)

    def _radii(self, raw: Tensor) -> Tensor:
        """Distance of points (n, 2) from each centre, (n, K)."""
        return torch.linalg.vector_norm(raw[:, None] - self.centres.to(raw.device), dim=2)

    def _raw_log_prob(self, raw: Tensor) -> Tensor:
        r = self._radii(raw)
        radial = torch.logaddexp(
            -0.5 * ((r - 1) / self.width) ** 2, -0.5 * ((r + 1) / self.width) ** 2
        )
        constant = math.log(len(self.centres) * (2 * math.pi) ** 1.5 * self.width)
        # The density has a pole, of no mass to speak of, at the centre: keep its log finite.
        return torch.logsumexp(radial - r.clamp_min(1e-12).log(), dim=1) - constant

    def _nearest(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        return (self._radii(raw) - 1).abs().min(dim=1)

    def _quadrature(self) -> Iterator[tuple[Tensor, Tensor]]:
        z, radial_weight = normal_nodes(32)
        # A single ring is the same at every angle; crossings need a few nodes per width.
        count = 1 if len(self.centres) == 1 else max(64, math.ceil(4 * math.pi / self.width))
        angle = 2 * math.pi * torch.arange(count, dtype=torch.float64) / count
        for part in angle.split(2**14):
            points = _polar((1 + self.width * z)[:, None], part).flatten(0, 1)
            weights = radial_weight[:, None].expand(-1, len(part)).flatten()
            for centre in self.centres:
                yield centre + points, weights / (count * len(self.centres))


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
