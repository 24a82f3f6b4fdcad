"""Curves: polylines blurred by a Gaussian, with a closed-form density."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .density import Density, mixture_moments, normal_nodes


class Curves(Density):
    """A uniform point on a set of polylines plus isotropic Gaussian noise of std `width`.

    With t the coordinate along a segment of length L, d the one across, and Λ the total length,
    p(x) = Σ over segments of N(d; 0, width²) [Φ(t / width) − Φ((t − L) / width)] / Λ.

    polylines: tensors (m, 2) in raw units; labels: the mode of each.
    """

    def __init__(
        self, name: str, polylines: Sequence[Tensor], labels: Sequence[int], width: float
    ) -> None:
        lines = [line.double() for line in polylines]
        self.begin = torch.cat([line[:-1] for line in lines])
        step = torch.cat([line[1:] for line in lines]) - self.begin
        self.length = torch.linalg.vector_norm(step, dim=1)
        self.direction = step / self.length[:, None]
        counts = torch.tensor([len(line) - 1 for line in lines])
        self.label = torch.tensor(labels).repeat_interleave(counts)
        weights = self.length / self.length.sum()
        # A uniform point on a segment has variance L²/12 along it: L²/24 a coordinate.
        spread = float(weights @ self.length.square()) / 24 + width**2
        mean, variance = mixture_moments(self.begin + step / 2, weights, spread)
        super().__init__(
            name,
            width=width,
            n_modes=max(labels) + 1,
            n_parts=len(self.begin),
            mean=mean,
            variance=variance,
            raw_leak_distance=5 * width,
        )

    def _raw_sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        index = torch.multinomial(self.length, n, replacement=True, generator=generator)
        along = self.length[index] * torch.rand(n, generator=generator, dtype=torch.float64)
        noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        return self.begin[index] + along[:, None] * self.direction[index] + self.width * noise

    def _frame(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points (n, 2) in each segment's frame: along (n, K), across (n, K); its length (K,)."""
        begin, direction = self.begin.to(raw.device), self.direction.to(raw.device)
        normal = torch.stack([-direction[:, 1], direction[:, 0]], dim=1)
        # Matrix products instead of an (n, K, 2) table of differences.
        along = raw @ direction.T - (begin * direction).sum(1)
        across = raw @ normal.T - (begin * normal).sum(1)
        return along, across, self.length.to(raw.device)

    def _raw_log_prob(self, raw: Tensor) -> Tensor:
        along, across, length = self._frame(raw)
        log_along = log_normal_mass((along - length) / self.width, along / self.width)
        log_across = -0.5 * (across / self.width) ** 2
        constant = math.log(float(self.length.sum()) * math.sqrt(2 * math.pi) * self.width)
        return torch.logsumexp(log_along + log_across, dim=1) - constant

    def _nearest(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        along, across, length = self._frame(raw)
        beyond = along - along.clamp_min(0).minimum(length)
        distance, segment = torch.hypot(beyond, across).min(dim=1)
        return distance, self.label.to(raw.device)[segment]

    def _quadrature(self) -> Iterator[tuple[Tensor, Tensor]]:
        z, across_weight = normal_nodes(16)
        total = float(self.length.sum())
        for begin, direction, length in zip(self.begin, self.direction, self.length, strict=True):
            # Trapezia two per width: of spectral accuracy, because the weight dies at both ends.
            reach = 7 * self.width
            count = math.ceil(2 * (float(length) + 2 * reach) / self.width) + 1
            t = torch.linspace(-reach, float(length) + reach, count, dtype=torch.float64)
            mass = log_normal_mass((t - length) / self.width, t / self.width).exp()
            normal = torch.stack([-direction[1], direction[0]])
            nodes = t[:, None, None] * direction + (self.width * z)[:, None] * normal + begin
            weights = (mass * (t[1] - t[0]) / total)[:, None] * across_weight
            yield nodes.flatten(0, 1), weights.flatten()


def log_normal_mass(low: Tensor, high: Tensor) -> Tensor:
    """log[Φ(high) − Φ(low)] for low < high, accurate in both tails.

    >>> log_normal_mass(torch.tensor([30.0, -31.0]).double(), torch.tensor([31.0, -30.0]).double())
    tensor([-454.3212, -454.3212], dtype=torch.float64)
    """
    # Φ is near 1 in the right tail and differences cancel there: mirror to the left tail.
    mirror = low + high > 0
    low, high = torch.where(mirror, -high, low), torch.where(mirror, -low, high)
    log_high = torch.special.log_ndtr(high)
    return log_high + torch.log(-torch.expm1(torch.special.log_ndtr(low) - log_high))
