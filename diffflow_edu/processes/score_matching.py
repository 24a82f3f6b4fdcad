"""Scores: the exact one of a known density, and four losses that learn one from samples.

A score is s(x) = ∇ log p(x), the direction in which the density rises fastest. All losses are for
the same kind of model, a callable score(x, t) as in `base.Field`, give one number a particle,
(B,), in units of 1/length², and have the same minimiser (for the denoising one: on blurred data):

    explicit     ½‖s(x) − ∇ log p(x)‖²             the Fisher divergence; needs the truth
    implicit     ½‖s(x)‖² + tr ∂s/∂x               Hyvärinen, JMLR 2005
    sliced       ½‖s(x)‖² + vᵀ (∂s/∂x) v           Song, Garg, Shi and Ermon, UAI 2019
    denoising    ½‖s(x + σε) + ε/σ‖²               Vincent, Neural Computation 2011

On average they differ by constants that no parameter changes:

    explicit  = implicit + ½ E‖∇ log p‖² = sliced + ½ E‖∇ log p‖²
    denoising = explicit of p_σ + ½ (d/σ² − E‖∇ log p_σ‖²),    p_σ = p * N(0, σ² I).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffflow_edu.devices import cast_like, double
from diffflow_edu.processes.base import Field, check_particles, generator_for
from diffflow_edu.schedules import check_positive, check_whole, shortly
from diffflow_edu.toy.blurred import blurred_log_prob
from diffflow_edu.toy.density import Density

TABLE = 2**22  # numbers in one (points, centres) table: 32 MiB in float64, whatever the sizes


# The truth ---------------------------------------------------------------------------------------


def exact_score(density: Density | Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """∇ log p(x) by autograd. x: (B, *shape). Returns the same shape and dtype, no gradient kept.

    density: a toy density, or anything with `log_prob`, or itself x -> log p (B,). Toy densities
    compute in float64, so thin sets are safe in float32: at z widths off a ring the score is
    −z/width. Zero where the density is flat, as inside a square of the checkerboard, and, by
    convention, also where it is zero, as between the squares, since log 0 has no slope. NaN where
    x is not a number.

    >>> from diffflow_edu import toy
    >>> exact_score(lambda x: -0.5 * x.square().sum(1), torch.tensor([[1.0, -2.0]]))
    tensor([[-1.,  2.]])
    >>> exact_score(toy.load("checkerboard"), torch.zeros(1, 2))
    tensor([[0., 0.]])
    """
    check_particles(x)
    log_prob = getattr(density, "log_prob", density)
    if not callable(log_prob):
        raise ValueError(f"density must have log_prob or be x -> log p, got {shortly(density)}")
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        log_p = log_prob(x)
        if not isinstance(log_p, Tensor) or log_p.shape != x.shape[:1]:
            got = tuple(log_p.shape) if isinstance(log_p, Tensor) else type(log_p).__name__
            raise ValueError(f"density must give log p (B,) = {tuple(x.shape[:1])}, got {got}")
        score = _gradient(log_p.sum(), x).detach()
    known = x.detach().isfinite() & _per_particle(log_p.detach() > -math.inf, x)
    score = torch.where(known, score, 0.0)
    return torch.where(x.detach().isnan(), math.nan, score)


def smoothed_score(density: Density | Tensor, x: Tensor, sigma: float) -> Tensor:
    """∇ log p_σ(x), the score of the data blurred by N(0, σ² I): what denoising learns.

    density: a toy density (exact, by autograd through `blurred_log_prob`), or data (n, d) itself,
    of which it is Tweedie's formula with the mean of the clean points behind a noisy one,

        ∇ log p_σ(x) = (E[x_0 | x] − x)/σ²,    E[x_0 | x] = Σ_j w_j x_j,
        w_j ∝ exp(−‖x − x_j‖²/(2σ²)),

    the best that denoising score matching can do on those n points.

    x: (B, d). Returns the same shape and dtype. Raises ValueError for sigma ≤ 0.

    >>> smoothed_score(torch.zeros(1, 2), torch.tensor([[1.0, -2.0]]), sigma=2.0)
    tensor([[-0.2500,  0.5000]])
    """
    check_particles(x)
    check_positive(sigma=sigma)
    if isinstance(density, Density):
        return exact_score(lambda y: blurred_log_prob(density, y, sigma), x)
    check_particles(density, "density")
    data = double(density.to(x.device))
    if x.ndim != 2 or data.shape[1:] != x.shape[1:]:
        raise ValueError(f"x must be (B, {data.shape[1]}) like the data, got {tuple(x.shape)}")
    scores = []
    for points in double(x).split(max(1, TABLE // len(data))):
        exact = "donot_use_mm_for_euclid_dist"  # the fast mode rounds small distances away
        square = torch.cdist(points, data, compute_mode=exact).square()
        weight = (-0.5 * square / sigma**2).softmax(dim=1)
        scores.append((weight @ data - points) / sigma**2)
    return cast_like(torch.cat(scores), x)


# The losses --------------------------------------------------------------------------------------


def explicit_score_matching(score: Field, x: Tensor, truth: Tensor, t: float = 0.0) -> Tensor:
    """½‖s(x) − ∇ log p(x)‖² of each particle, where the truth, like x (B, *shape), is known."""
    check_particles(x)
    if not isinstance(truth, Tensor) or truth.shape != x.shape:
        got = tuple(truth.shape) if isinstance(truth, Tensor) else type(truth).__name__
        raise ValueError(f"truth must be a tensor like x, {tuple(x.shape)}, got {got}")
    return 0.5 * _sum_squares(score_at(score, x, t) - truth)


def implicit_score_matching(score: Field, x: Tensor, t: float = 0.0) -> Tensor:
    """½‖s(x)‖² + tr ∂s/∂x of each particle (Hyvärinen 2005): the truth integrated away by parts.

    The trace is exact and costs one backward pass a dimension. x: (B, *shape). Returns (B,).
    """
    check_particles(x)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        s = score_at(score, x, t)
        trace = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for j in range(x[0].numel()):
            trace = trace + _gradient(s.flatten(1)[:, j].sum(), x).flatten(1)[:, j]
        return 0.5 * _sum_squares(s) + trace


def sliced_score_matching(
    score: Field, x: Tensor, t: float = 0.0, projections: int = 1, seed: int | None = None
) -> Tensor:
    """½‖s(x)‖² + vᵀ (∂s/∂x) v of each particle, averaged over random directions v.

    Song et al. 2019, the variant with less variance: E[vᵀ A v] = tr A where E[v vᵀ] = I, so one
    backward pass a projection stands for the trace whatever the dimension is. v has entries ±1
    (Rademacher), from the global generator where seed is None. x: (B, *shape). Returns (B,).
    """
    check_particles(x)
    check_whole("projections", projections)
    generator = generator_for(seed, x.device)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        s = score_at(score, x, t)
        curvature = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for _ in range(projections):
            v = 2.0 * torch.randint(2, x.shape, generator=generator, device=x.device).to(x) - 1
            curvature = curvature + (_gradient((s * v).sum(), x) * v).flatten(1).sum(1)
        return 0.5 * _sum_squares(s) + curvature / projections


def denoising_score_matching(
    score: Field, x: Tensor, sigma: float, t: float = 0.0, noise: Tensor | None = None
) -> Tensor:
    """½‖s(x + σε) + ε/σ‖² of each particle (Vincent 2011): no truth, no derivative of s.

    ε/σ pointed from the noisy point back at the clean one is the score of N(x, σ² I), and its mean
    over the clean points that may lie behind a noisy one is the score of the blurred density.

    x: (B, *shape). noise: ε, like x; drawn from the global generator where it is None. Returns
    (B,). Raises ValueError for sigma ≤ 0.
    """
    check_particles(x)
    check_positive(sigma=sigma)
    epsilon = torch.randn_like(x) if noise is None else noise
    if not isinstance(epsilon, Tensor) or epsilon.shape != x.shape:
        got = tuple(noise.shape) if isinstance(noise, Tensor) else type(noise).__name__
        raise ValueError(f"noise must be a tensor like x, {tuple(x.shape)}, got {got}")
    return 0.5 * _sum_squares(score_at(score, x + sigma * epsilon, t) + epsilon / sigma)


# Shared ------------------------------------------------------------------------------------------


def score_at(score: Field, x: Tensor, t: float | Tensor) -> Tensor:
    """s(x, t), like x (B, *shape); t is passed on 0-d. Raises ValueError for any other shape."""
    value = score(x, torch.as_tensor(t, dtype=x.dtype, device=x.device))
    if not isinstance(value, Tensor) or value.shape != x.shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"score must return a tensor like x, {tuple(x.shape)}, got {got}")
    return value


def _gradient(value: Tensor, x: Tensor) -> Tensor:
    """∂value/∂x, itself differentiable; zero where value does not depend on x."""
    if not value.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(value, x, create_graph=True, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient


def _sum_squares(x: Tensor) -> Tensor:
    return x.square().flatten(1).sum(1)


def _per_particle(values: Tensor, x: Tensor) -> Tensor:
    """(B,) made to broadcast against x (B, *shape)."""
    return values.reshape(-1, *[1] * (x.ndim - 1))
