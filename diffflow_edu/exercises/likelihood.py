"""Notebook 07: the λ family, a density by its ODE, importance weights, what Theorem 1 leaves out.

Each truth is a line of the library; each slip is a wrong answer with the sentence that teaches.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from diffflow_edu.exercises.checking import Slip, check_function, find_fault
from diffflow_edu.processes.base import standard_normal_log_prob
from diffflow_edu.processes.likelihood import importance_weighted


def check_family_drift(answer: Any) -> bool:
    """Exercise 1, equation 17: answer(f, s, g, lam) is f − ½(1 + λ²) g² s.

    f, s: (B, d), drift and score at x; g, lam: 0-d. Returns (B, d).
    """
    draw = torch.Generator().manual_seed(1)
    cases = []
    for g, lam in ((0.7, 0.0), (1.3, 0.5), (0.4, 2.0)):
        f, s = torch.randn(2, 5, 3, generator=draw, dtype=torch.float64)
        cases.append((f, s, _number(g), _number(lam)))
    slips = [
        Slip(
            lambda f, s, g, lam: f - g**2 * s,
            "this is λ = 1, the backward SDE: for other λ the factor ½(1 + λ²) is not 1.",
        ),
        Slip(
            lambda f, s, g, lam: f - 0.5 * g**2 * s,
            "this is λ = 0, the probability flow: where there is noise, more score is needed.",
        ),
        Slip(
            lambda f, s, g, lam: f - 0.5 * lam**2 * g**2 * s,
            "at λ = 0 nothing is left of the score, but the probability flow keeps half of it: "
            "the forward noise ½ g² Δp has to be undone whatever λ is.",
        ),
        Slip(
            lambda f, s, g, lam: f - lam**2 * g**2 * s,
            "this is the drift that undoes noise λ g. The forward process has noise g: look again "
            "at which of the two halves carries λ².",
        ),
        Slip(
            lambda f, s, g, lam: f - (1 + lam**2) * g**2 * s,
            "the ½ is missing: at λ = 1 this must be f − g² s.",
        ),
        Slip(
            lambda f, s, g, lam: f - 0.5 * (1 + lam) * g**2 * s,
            "the noise is λ g, and Fokker–Planck sees its square: λ², not λ.",
        ),
        Slip(
            lambda f, s, g, lam: f - 0.5 * (1 + lam) ** 2 * g**2 * s,
            "(1 + λ)² is not 1 + λ²: two noises, each with its own square.",
        ),
        Slip(
            lambda f, s, g, lam: f - 0.5 * (1 + lam**2) * g * s,
            "g counts squared: ½ g² is what stands before Δp.",
        ),
        Slip(
            lambda f, s, g, lam: f + 0.5 * (1 + lam**2) * g**2 * s,
            "the score has the wrong sign: time rises towards the noise, and the drift of the way "
            "home is subtracted.",
        ),
        Slip(
            lambda f, s, g, lam: f - 0.5 * (1 - lam**2) * g**2 * s,
            "this is the family run *forward*, where its noise spreads what the drift contracts. "
            "Running home, + ½ λ² g² Δp stands on the other side: 1 + λ².",
        ),
        Slip(
            lambda f, s, g, lam: -0.5 * (1 + lam**2) * g**2 * s,
            "f is missing: the family keeps the forward drift.",
        ),
    ]
    praise = "right, that is equation 17."
    return check_function("family_drift", answer, _family_drift, slips, cases, praise)


def check_ode_log_prob(answer: Any) -> bool:
    """Exercise 2: answer(x_T, divergence, dt) is log N(x_T; 0, I) + Σ_i div_i Δt_i in nats.

    x_T: (B, d), where the flow ends; divergence: (N, B), tr ∂v/∂x of every particle at N times
    from data to noise; dt: (N,). Returns log p(x_0), (B,).
    """
    draw = torch.Generator().manual_seed(2)
    cases = []
    for steps, d in ((4, 2), (7, 3)):
        x = torch.randn(5, d, generator=draw, dtype=torch.float64)
        divergence = torch.randn(steps, 5, generator=draw, dtype=torch.float64)
        dt = 0.1 + torch.rand(steps, generator=draw, dtype=torch.float64)
        cases.append((x, divergence, dt))

    def total(divergence: Tensor, dt: Tensor) -> Tensor:
        return (dt[:, None] * divergence).sum(0)

    slips = [
        Slip(
            lambda x, v, dt: standard_normal_log_prob(x) - total(v, dt),
            "the divergence has the wrong sign: where the flow spreads particles on their way to "
            "the noise, they stood closer together at the data, and the density there is higher.",
        ),
        Slip(
            lambda x, v, dt: -_ode_log_prob(x, v, dt),
            "this is − log p, the price; asked for is log p.",
        ),
        Slip(
            lambda x, v, dt: total(v, dt),
            "the end is missing: this is how far log p changed on the way. Add log N(x_T; 0, I).",
        ),
        Slip(
            lambda x, v, dt: standard_normal_log_prob(x),
            "this is log p of the end alone: the flow squeezed or stretched on the way.",
        ),
        Slip(
            lambda x, v, dt: -0.5 * x.square().sum(1) + total(v, dt),
            "− ½‖x_T‖² is not yet log N(x_T; 0, I): − d/2 log 2π is missing.",
        ),
        Slip(
            lambda x, v, dt: -0.5 * x.square().sum(1) - 0.5 * math.log(2 * math.pi) + total(v, dt),
            "every one of the d coordinates has its own ½ log 2π.",
        ),
        Slip(
            lambda x, v, dt: standard_normal_log_prob(x) + v.sum(0),
            "the steps are missing: an integral is a sum of divergence times Δt.",
        ),
        Slip(
            lambda x, v, dt: standard_normal_log_prob(x) + v.mean(0),
            "the steps differ in length: weigh each divergence with its own Δt and sum.",
        ),
        Slip(
            lambda x, v, dt: standard_normal_log_prob(x) + (dt[:, None] * v).mean(0),
            "sum over the N steps, do not average: an integral has no 1/N left.",
        ),
        Slip(
            lambda x, v, dt: _ode_log_prob(x, v, dt).mean(),
            "one number per particle, please: keep the B apart, shape (B,).",
        ),
    ]
    praise = "right: a noisy model's density, by integrating a divergence."
    return check_function("ode_log_prob", answer, _ode_log_prob, slips, cases, praise)


def check_importance_weighted(answer: Any) -> bool:
    """Exercise 3: answer(bounds) is −log mean_k exp(−bound_k), the importance-weighted bound.

    bounds: (K, B), path bounds in nats of K paths a particle. Returns (B,).
    """
    draw = torch.Generator().manual_seed(3)
    small = 2 * torch.randn(8, 5, generator=draw, dtype=torch.float64)
    # Images cost thousands of nats: exp(−2000) is 0 even in float64.
    large = 2000 + 3 * torch.randn(16, 4, generator=draw, dtype=torch.float64)
    slips = [
        Slip(
            lambda b: b.mean(0),
            "this is the mean of the path bounds, the loosest of the three. Average the weights "
            "exp(−bound), then take the log.",
        ),
        Slip(
            lambda b: -torch.logsumexp(-b, 0),
            "log K is missing: it is the *mean* of K weights, not their sum. Without it, more "
            "paths would lower the number for ever.",
        ),
        Slip(
            lambda b: -torch.logsumexp(-b, 0) - math.log(len(b)),
            "log K has the wrong sign: −log(Σ/K) = log K − log Σ.",
        ),
        Slip(
            lambda b: -importance_weighted(b),
            "this is the estimate of log p; a bound on − log p has the other sign.",
        ),
        Slip(
            lambda b: torch.logsumexp(b, 0) - math.log(len(b)),
            "the weights are exp(−bound): a path with a high bound is an unlikely one and must "
            "count little.",
        ),
        Slip(
            lambda b: b.min(0).values,
            "the best of K paths alone is no bound: it lies below the importance-weighted bound, "
            "and with many paths below − log p. Average the weights.",
        ),
        Slip(
            lambda b: math.log(b.shape[1]) - torch.logsumexp(-b, 1),
            "average over the K paths, dim 0, not over the particles.",
        ),
        Slip(
            lambda b: importance_weighted(b).mean(),
            "one number per particle, please: keep the B apart, shape (B,).",
        ),
        Slip(
            lambda b: importance_weighted(b.reshape(-1, 1)).squeeze(),
            "average over the paths of each particle only: − log p is a mean of logs over the "
            "data, and a log of a mean over the paths.",
        ),
    ]
    name, cases = "importance_weighted", [(small,), (large,)]
    hint = find_fault(name, answer, importance_weighted, slips, cases)
    if hint is not None and find_fault(name, answer, importance_weighted, slips, cases[:1]) is None:
        hint = (
            "right for small bounds; but exp(−2000) is 0, and its log is not finite. Use "
            "torch.logsumexp, which takes the largest exponent out first."
        )
    praise = "right: the more paths, the nearer to − log p."
    print(f"✓ {name}: {praise}" if hint is None else f"✗ {name}: {hint}")
    return hint is None


def check_excess(answer: Any) -> bool:
    """Exercise 4: answer(rate, dt, g) is Σ_i ‖ḟ_i‖² Δt³/(2 g²), what Theorem 1 leaves out.

    rate: (N, B, d), df/dt along the paths at N steps; dt, g: 0-d. Returns nats, (B,).
    """
    draw = torch.Generator().manual_seed(4)
    cases = []
    for (steps, d), dt, g in (((4, 2), 0.3, 0.7), ((7, 3), 0.04, 1.6)):
        rate = torch.randn(steps, 5, d, generator=draw, dtype=torch.float64)
        cases.append((rate, _number(dt), _number(g)))
    slips = [
        Slip(
            lambda r, dt, g: 2 * _excess(r, dt, g),
            "too large by 2: the squares of the loss carry a ½.",
        ),
        Slip(
            lambda r, dt, g: _excess(r, dt, g) / dt,
            "one Δt is missing: δB holds ḟ Δt^{3/2}/g, whose square is ‖ḟ‖² Δt³/g².",
        ),
        Slip(
            lambda r, dt, g: _excess(r, dt, g) / dt**2,
            "δB holds ḟ Δt^{3/2}/g, not ḟ Δt^{1/2}/g: its square has Δt³.",
        ),
        Slip(
            lambda r, dt, g: _excess(r, dt, g) * dt**3,
            "square Δt^{3/2} once: that is Δt³.",
        ),
        Slip(
            lambda r, dt, g: _excess(r, dt, g) * g,
            "g counts squared: δB has a factor 1/g, ‖δB‖² has 1/g².",
        ),
        Slip(
            lambda r, dt, g: _excess(r, dt, g) * g**2,
            "g is missing. It is the whole point: the smaller g, the larger the excess.",
        ),
        Slip(
            lambda r, dt, g: _excess(r, dt, g) * g**4,
            "divide by g², do not multiply: the smaller g, the larger the excess.",
        ),
        Slip(
            lambda r, dt, g: _excess(r, dt, g) / len(r),
            "sum over the N steps, do not average: every step leaves its excess behind.",
        ),
        Slip(
            lambda r, dt, g: _excess(r, dt, g) / r.shape[2],
            "sum over the d coordinates, do not average: ‖ḟ‖² is a sum of squares.",
        ),
        Slip(
            lambda r, dt, g: 0.5 * (dt**1.5 / g * r).norm(dim=2).sum(0),
            "the square is missing: it is ‖δB‖², not ‖δB‖.",
        ),
        Slip(
            lambda r, dt, g: _excess(r, dt, g).mean(),
            "one number per particle, please: keep the B apart, shape (B,).",
        ),
    ]
    praise = "right: it vanishes only where Δt is much smaller than g."
    return check_function("excess", answer, _excess, slips, cases, praise)


def _family_drift(f: Tensor, s: Tensor, g: Tensor, lam: Tensor) -> Tensor:
    return f - 0.5 * (1 + lam**2) * g**2 * s


def _ode_log_prob(x: Tensor, divergence: Tensor, dt: Tensor) -> Tensor:
    return standard_normal_log_prob(x) + (dt[:, None] * divergence).sum(0)


def _excess(rate: Tensor, dt: Tensor, g: Tensor) -> Tensor:
    return 0.5 * (rate.square().sum(2) * dt**3 / g**2).sum(0)


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
