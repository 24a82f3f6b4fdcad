"""How much noise a data set needs: the range of a log-SNR grid, and whether x_T is only noise.

A fixed diffusion ends at x_T = (x_0 + r ε)/√(1 + r²), r = r_max, and sampling starts from N(0, I).
So what is left of the data there is an error of every sample: of the mean, m/√(1 + r²), and in a
direction of standard deviation λ a variance of (λ² + r²)/(1 + r²). The mean is subtracted before
training (`fit(…, standardise=True)`, or the training mean of pictures in `scale.train`); r_max
follows from the loudest direction. The first noise, r_min, must be as fine as the data are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffflow_edu.images import Images
from diffflow_edu.processes.base import Process
from diffflow_edu.schedules import Schedule, check_positive, check_seed

MEASURED = 4000
"""Particles that the range is measured on."""

LEFT = 0.15
"""By how much the loudest direction of x_T may exceed N(0, I), as a share of its variance."""

FEW = 8
"""Up to so many numbers a particle, the finest scale is that of neighbourhoods."""

NEIGHBOURS = 16
"""Particles in one of them."""


@dataclass(frozen=True)
class NoiseRange:
    """What `noise_range` measures, in units of the data.

    r_min, r_max: for `Schedule.log_snr`. loudest, finest: the standard deviations that they follow
    from. mean_norm: ‖mean‖, which should be subtracted before training where it is not small.
    """

    r_min: float
    r_max: float
    loudest: float
    finest: float
    mean_norm: float

    def schedule(self, steps: int) -> Schedule:
        """The log-SNR grid of N = steps over this range."""
        return Schedule.log_snr(steps, r_min=self.r_min, r_max=self.r_max)


def noise_range(data: Any, scale: float = 1.0, seed: int = 0) -> NoiseRange:
    """r_min and r_max for a data set, centred, from its finest scale and its loudest direction.

    r_max = λ/√0.15 for the largest standard deviation λ in any direction: at the end its variance
    is (λ² + r²)/(1 + r²) < 1.15. r_min is the finest scale: of up to 8 numbers a particle, the
    smallest standard deviation within 16 neighbours among 4000 particles (the width of a thin ring;
    of smooth data, what so many particles resolve), a median; of more, that of all particles in any
    direction, and of `Images` at least that of the noise which dequantises them.

    data: a density with .sample(n, seed), or a tensor or array (n, *shape). scale: the data are
    divided by it first, as a model does that keeps a standardisation. seed: of draws from a
    density. Raises ValueError for data of fewer than two particles or that do not vary.

    >>> from diffflow_edu import toy
    >>> found = noise_range(toy.load("olympic_rings"))
    >>> 0.005 < found.r_min < 0.02 and found.r_max > 1
    True
    """
    check_seed(seed)
    check_positive(scale=scale)
    if callable(getattr(data, "sample", None)):
        rows = data.sample(MEASURED, seed=seed)
    else:
        rows = torch.as_tensor(data)
        rows = rows[:: max(1, len(rows) // MEASURED)] if rows.ndim else rows
    if rows.ndim < 2 or len(rows) < 2:
        raise ValueError(
            f"data must hold two particles or more, (n, *shape), got {tuple(rows.shape)}"
        )
    x = rows.detach().cpu().double().flatten(1) / scale
    mean = x.mean(0)
    x = x - mean
    # The covariance of few particles has directions without any variance: they say nothing.
    std = torch.linalg.eigvalsh(x.T @ x / len(x)).clamp_min(0).sqrt()[-min(x.shape) :]
    loudest, finest = float(std[-1]), float(std[0])
    if not loudest > 0:
        raise ValueError("data must vary, got particles that are all the same")
    if x.shape[1] <= FEW:
        finest = _within_neighbourhoods(x)
    if isinstance(data, Images):
        finest = max(finest, 2 / data.levels / math.sqrt(12) / scale)
    r_max = max(loudest / math.sqrt(LEFT), 1.0)
    finest = max(finest, 1e-4 * loudest)
    # Two digits, so that another processor finds the same grid.
    r_min, r_max = (float(f"{r:.2g}") for r in (min(finest, r_max / 10), r_max))
    return NoiseRange(r_min, r_max, loudest, finest, float(mean.norm()))


def _within_neighbourhoods(x: Tensor) -> float:
    """The median over particles of the smallest standard deviation among their neighbours."""
    some = x[:500]
    count = min(NEIGHBOURS, len(x))
    near = torch.cdist(some, x).topk(count, largest=False).indices
    around = x[near]
    around = around - around.mean(1, keepdim=True)
    values = torch.linalg.svdvals(around) / math.sqrt(max(1, count - 1))
    return float(values[:, -1].median())


@dataclass(frozen=True)
class End:
    """What `look_at_end` measures of n paths' x_T in ℝ^d, beside n draws of N(0, I).

    mean_norm, mean_floor: ‖mean‖ and √(d/n). top_variance, top_floor: largest eigenvalues of the
    sample covariances.
    """

    n: int
    d: int
    mean_norm: float
    mean_floor: float
    top_variance: float
    top_floor: float

    @property
    def drowned(self) -> bool:
        """Whether x_T passes for noise: variance within 15 %, mean within 1.5 times its floor."""
        loud = self.top_variance <= (1 + LEFT) * self.top_floor
        return loud and self.mean_norm <= 1.5 * self.mean_floor

    def __str__(self) -> str:
        return (
            f"x_T of {self.n} paths: mean of norm {self.mean_norm:.2f} (noise {self.mean_floor:.2f}"
            f"), top variance {self.top_variance:.2f} (noise {self.top_floor:.2f})"
        )


@torch.no_grad()
def look_at_end(model: Process, x: Tensor, seed: int = 0) -> End:
    """Where the forward paths of data x (n, *shape) end, against as many draws of N(0, I).

    Sampling starts from N(0, I), so the two should look alike. Raises ValueError for fewer than two
    particles.
    """
    if len(x) < 2:
        raise ValueError(f"x must hold two particles or more, got {len(x)}")
    end = torch.cat([model.encode(part, seed=seed + i, keep="end").end.cpu().double().flatten(1)
                     for i, part in enumerate(x.split(250))])  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(end.shape, generator=generator, dtype=end.dtype)
    n, d = end.shape
    return End(n, d, float(end.mean(0).norm()), math.sqrt(d / n), _top(end), _top(noise))


def _top(x: Tensor) -> float:
    x = x - x.mean(0)
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    return float(torch.linalg.eigvalsh(gram)[-1]) / (len(x) - 1)
