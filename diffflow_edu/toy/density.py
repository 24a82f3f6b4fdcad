"""What every toy density can do: sample, exact log density, entropy, mode labels, leak."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from diffflow_edu.devices import cast_like, double
from diffflow_edu.schedules import check_seed, check_whole

CHUNK = 2**18  # numbers in one (points, parts) table: 2 MiB in float64, whatever n is


class Density:
    """A 2-D probability density with exact truth, normalised to unit scale.

    It is built in raw units (a ring has radius 1) and then shifted by its exact mean and divided
    by one number, so that the mean over the two coordinates of the variance is 1:
    ``x = (raw - shift) / scale``. Every public method speaks normalised coordinates.

    name: the name that `load` knows.
    width: thickness in raw units, or None for sets without one.
    n_modes: how many labels `mode` gives.
    shift, scale: the normalisation, (2,) float64 and a number.
    leak_distance: how far from the set a point must lie to count as leaked, normalised units.
    """

    name: str
    width: float | None
    n_modes: int
    shift: Tensor
    scale: float
    leak_distance: float

    def __init__(
        self,
        name: str,
        *,
        width: float | None,
        n_modes: int,
        n_parts: int,
        mean: Tensor,
        variance: float,
        raw_leak_distance: float,
    ) -> None:
        self.name = name
        self.width = width
        self.n_modes = n_modes
        self.shift = mean
        self.scale = math.sqrt(variance)
        self.leak_distance = raw_leak_distance / self.scale
        self._rows = max(1, CHUNK // n_parts)

    def sample(self, n: int, seed: int | None = None) -> Tensor:
        """Draw n points, (n, 2) float32 on the CPU, the same to the last bit for the same seed.

        Without a seed, torch's global generator decides. Raises ValueError for n < 1 and for a
        seed that is no whole number, 0 or more.
        """
        check_whole("n", n)
        if seed is not None:
            check_seed(seed)
        generator = None if seed is None else torch.Generator().manual_seed(int(seed))
        raw = self._raw_sample(int(n), generator)
        return ((raw - self.shift) / self.scale).float()

    def sample_labelled(self, n: int, seed: int | None = None) -> tuple[Tensor, Tensor]:
        """What `sample` draws, (n, 2), and for each point its `mode`, (n,) int64."""
        x = self.sample(n, seed)
        return x, self.mode(x)

    def log_prob(self, x: Tensor) -> Tensor:
        """The exact log density in nats. x: (n, 2) float. Returns (n,) in x's dtype.

        Computed in float64 whatever x is, and differentiable, so that autograd gives the exact
        score. Finite on the set's own samples in float32, −inf outside squares, NaN for a NaN.
        Raises ValueError when x is not a floating-point tensor of shape (n, 2).
        """
        log_p = self._in_chunks(self._raw_log_prob, x) + 2 * math.log(self.scale)
        return cast_like(log_p, x)

    def entropy(self) -> float:
        """The differential entropy in nats, in closed form or by quadrature (error below 1e-3)."""
        return self._raw_entropy - 2 * math.log(self.scale)

    @torch.no_grad()
    def mode(self, x: Tensor) -> Tensor:
        """The label of the nearest ring, arm, Gaussian or square. x: (n, 2). Returns (n,) int64."""
        return self._in_chunks(lambda raw: self._nearest(raw)[1], x).to(x.device)

    @torch.no_grad()
    def distance(self, x: Tensor) -> Tensor:
        """The distance to the nearest ring, curve, centre or square. x: (n, 2). Returns (n,).

        In normalised units; 0 on a curve and inside a square; NaN for a NaN.
        """
        return self._distance(x).to(x)

    @torch.no_grad()
    def leaked(self, x: Tensor) -> Tensor:
        """Which points lie off the set. x: (n, 2). Returns (n,) bool.

        Off means farther than 5 widths from every ring, curve or centre, or outside every square
        by more than 1 % of its side. A NaN has leaked.
        """
        return ~(self._distance(x) <= self.leak_distance).to(x.device)

    def __repr__(self) -> str:
        width = "" if self.width is None else f", width={self.width:g}"
        return f'toy.load("{self.name}"{width})'

    def _distance(self, x: Tensor) -> Tensor:
        return self._in_chunks(lambda raw: self._nearest(raw)[0], x) / self.scale

    def _in_chunks(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Apply a function of raw float64 points to x a few rows at a time, to bound the memory."""
        check_points(x)
        pieces = (double(c) for c in x.split(self._rows))
        return torch.cat([function(c * self.scale + self.shift.to(c)) for c in pieces])

    @cached_property
    def _raw_entropy(self) -> float:
        total = 0.0
        with torch.no_grad():
            for nodes, weights in self._quadrature():
                log_p = torch.cat([self._raw_log_prob(c) for c in nodes.split(self._rows)])
                total -= float(weights @ log_p)
        return total

    # What a family of densities fills in, all in raw units and float64.

    def _raw_sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        """n points, (n, 2)."""
        raise NotImplementedError

    def _raw_log_prob(self, raw: Tensor) -> Tensor:
        """The log density of points (n, 2), as (n,)."""
        raise NotImplementedError

    def _nearest(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Distance (n,) to the nearest part of the set and that part's label (n,) int64."""
        raise NotImplementedError

    def _quadrature(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Nodes (M, 2) and weights (M,) with sum over all of w f(x) = the mean of f."""
        raise NotImplementedError


def check_points(x: Tensor, name: str = "x") -> None:
    """Raise a ValueError that names the argument unless x is a float tensor (n, 2), n >= 1."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} must be a torch.Tensor of shape (n, 2), got {type(x).__name__}")
    if not x.is_floating_point():
        raise ValueError(f"{name} must be floating point (float32 or float64), got {x.dtype}")
    if x.ndim != 2 or x.shape[1] != 2 or len(x) == 0:
        raise ValueError(f"{name} must have shape (n, 2) with n >= 1, got {tuple(x.shape)}")


def normal_nodes(count: int) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite nodes and weights (count,) of the standard normal; the weights sum to 1."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())


def mixture_moments(means: Tensor, weights: Tensor, spread: float) -> tuple[Tensor, float]:
    """Mean (2,) and variance (averaged over the two coordinates) of a mixture.

    means: (K, 2), weights: (K,) summing to 1, spread: the parts' own weighted mean variance.
    """
    mean = weights @ means
    return mean, float(weights @ (means - mean).square().mean(1)) + spread
