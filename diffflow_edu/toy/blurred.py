"""The exact log density of a toy set blurred by N(0, σ² I), as a diffusion blurs it."""

from __future__ import annotations

import copy
import math
from numbers import Real

import torch
from torch import Tensor

from diffflow_edu.devices import cast_like
from diffflow_edu.schedules import shortly

from .boxes import Boxes
from .curves import Curves, log_normal_mass
from .density import Density, check_points, normal_nodes
from .gaussians import Gaussians
from .rings import Rings


def blurred_log_prob(density: Density, x: Tensor, sigma: float) -> Tensor:
    """log p_σ(x) in nats, p_σ = p * N(0, σ² I). x: (n, 2) float. Returns (n,) in x's dtype.

    σ is in normalised units, like x. Closed form for Gaussians, curves and boxes, Gauss-Hermite
    quadrature across rings; computed in float64 and differentiable, as `Density.log_prob` is.
    Raises ValueError for sigma ≤ 0, for a bad x, and for other kinds of density.

    >>> from diffflow_edu import toy
    >>> x = torch.tensor([[0.0, 0.0]])
    >>> blurred_log_prob(toy.load("ring"), x, sigma=100.0)  # by now, all but N(0, 100² I)
    tensor([-11.0483])
    """
    if not isinstance(density, (Gaussians, Curves, Rings, Boxes)):
        raise ValueError(f"density must be one of toy.names(), got {shortly(density)}")
    check_points(x)
    real = isinstance(sigma, Real) and not isinstance(sigma, bool)
    if not (real and 0 < sigma < math.inf):
        raise ValueError(f"sigma must be positive and finite, got {shortly(sigma)}")
    raw_sigma = sigma * density.scale
    if isinstance(density, (Gaussians, Curves)):  # isotropic Gaussian noise already: more of it
        wider = copy.copy(density)
        wider.width = math.hypot(density.width, raw_sigma)
        return wider.log_prob(x)
    if isinstance(density, Rings):
        log_p = density._in_chunks(lambda raw: _rings(density, raw, raw_sigma), x)
    else:
        log_p = density._in_chunks(lambda raw: _boxes(density, raw, raw_sigma), x)
    return cast_like(log_p + 2 * math.log(density.scale), x)


def _rings(rings: Rings, raw: Tensor, sigma: float) -> Tensor:
    """A blurred circle of radius ρ is exp(−(r² + ρ²)/2σ²) I₀(rρ/σ²)/(2πσ²); ρ ~ N(1, width²)."""
    r, variance = rings._radii(raw), rings.width**2 + sigma**2
    # N(ρ; 1, width²) exp(−(r − ρ)²/2σ²) is a Gaussian in ρ again; the rest varies slowly.
    mean = (sigma**2 + rings.width**2 * r) / variance
    z, weight = (values.to(raw.device) for values in normal_nodes(16))
    argument = r[..., None] * (mean[..., None] + rings.width * sigma / variance**0.5 * z)
    argument = argument / sigma**2
    # i0e is exp(−|·|) I₀, so a negative ρ, far in the tail, gets its exponent back.
    log_bessel = torch.special.i0e(argument).log() + argument.abs() - argument
    log_circle = torch.logsumexp(log_bessel + weight.log(), dim=2)
    log_across = -0.5 * (r - 1).square() / variance
    constant = math.log(len(rings.centres) * 2 * math.pi * sigma * variance**0.5)
    return torch.logsumexp(log_across + log_circle, dim=1) - constant


def _boxes(boxes: Boxes, raw: Tensor, sigma: float) -> Tensor:
    """Each square is a product of two intervals, and a blurred interval is Φ − Φ."""
    low = raw[:, None] - boxes.corners.to(raw.device)
    log_sides = log_normal_mass((low - boxes.side) / sigma, low / sigma).sum(2)
    return torch.logsumexp(log_sides, dim=1) - math.log(len(boxes.corners) * boxes.side**2)
