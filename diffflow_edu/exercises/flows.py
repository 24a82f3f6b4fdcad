"""Notebook 01: a coupling layer back, log p of a chain of them, the trace, the least leak.

Each truth is a formula of the notebook; each slip is a wrong answer with the sentence that teaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffflow_edu.exercises.checking import Slip, check_function
from diffflow_edu.processes.base import standard_normal_log_prob

Net = Callable[[Tensor], Tensor]


def check_flow_log_prob(answer: Any) -> bool:
    """Answer(z, log_dets) is log p(x) = log N(z; 0, I) + Σ log|det ∂F_i/∂x_i|.

    z: (B, d), where the particles end; log_dets: (N, B), one row a step. Returns (B,).
    """
    draw = torch.Generator().manual_seed(1)
    cases = [
        tuple(torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((6, d), (n, 6)))
        for d, n in ((2, 4), (3, 7))
    ]

    def half_constant(z: Tensor, log_dets: Tensor) -> Tensor:
        return -0.5 * z.square().sum(1) - 0.5 * math.log(2 * math.pi) + log_dets.sum(0)

    slips = [
        Slip(
            lambda z, log_dets: standard_normal_log_prob(z) - log_dets.sum(0),
            "the determinants have the wrong sign. Where F stretches space (det > 1), many z share "
            "few x: the density of x is higher there than that of z.",
        ),
        Slip(
            lambda z, log_dets: standard_normal_log_prob(z),
            "this is log p of z. The determinants are missing: bending space changes densities.",
        ),
        Slip(
            lambda z, log_dets: -_flow_log_prob(z, log_dets),
            "this is −log p, the loss; log p itself is asked for.",
        ),
        Slip(
            lambda z, log_dets: -0.5 * z.square().sum(1) + log_dets.sum(0),
            "the constant of N(0, I) is missing, −d/2 log 2π. Training does not see it, nats do.",
        ),
        Slip(half_constant, "−½ log 2π counts once for each of the d coordinates."),
        Slip(
            lambda z, log_dets: standard_normal_log_prob(z) + log_dets.mean(0),
            "the steps' log-determinants are summed, not averaged: determinants multiply.",
        ),
        Slip(
            lambda z, log_dets: standard_normal_log_prob(z) + log_dets.sum(),
            "each particle has its own determinants: sum over the steps (the first axis) only.",
        ),
        Slip(
            lambda z, log_dets: standard_normal_log_prob(z) + log_dets[-1],
            "only the last step is counted; sum over all of them.",
        ),
        Slip(
            lambda z, log_dets: standard_normal_log_prob(z) + log_dets.prod(0),
            "determinants multiply, so their logarithms add up: sum, not product.",
        ),
        Slip(
            lambda z, log_dets: _flow_log_prob(z, log_dets).mean(),
            "keep the B particles apart: one number each.",
        ),
    ]
    praise = "right: the density where it lands, times how much space was stretched on the way."
    return check_function("flow_log_prob", answer, _flow_log_prob, slips, cases, praise)


def check_coupling_inverse(answer: Any) -> bool:
    """Exercise 1: answer(y_1, y_2, a, c) is (x₁, x₂) side by side, given y₂ = e^{a(x₁)} x₂ + c(x₁).

    y_1, y_2: (B, d/2) each; a, c: callables (B, d/2) -> (B, d/2). Returns (B, d).
    """
    draw = torch.Generator().manual_seed(2)
    cases = [
        (
            *torch.randn(2, 5, half, generator=draw, dtype=torch.float64),
            lambda x, k=half: torch.sin(k * x),
            lambda x, k=half: x.square() - k,
        )
        for half in (1, 3)
    ]

    def joined(inverse: Callable[[Tensor, Tensor, Net, Net], Tensor]) -> Callable[..., Tensor]:
        return lambda y_1, y_2, s, t: torch.cat([y_1, inverse(y_1, y_2, s, t)], 1)

    slips = [
        Slip(
            joined(lambda y_1, y_2, s, t: y_2 * (-s(y_1)).exp() - t(y_1)),
            "the shift comes off first, then the scale: the layer did it the other way round.",
        ),
        Slip(
            joined(lambda y_1, y_2, s, t: (y_2 - t(y_1)) * s(y_1).exp()),
            "the scale must be undone: multiply by e^{−a}.",
        ),
        Slip(
            joined(lambda y_1, y_2, s, t: (y_2 - t(y_1)) / s(y_1)),
            "the layer scaled by e^a, not by a.",
        ),
        Slip(
            joined(lambda y_1, y_2, s, t: (y_2 + t(y_1)) * (-s(y_1)).exp()),
            "the shift has the wrong sign: it was added, so subtract it.",
        ),
        Slip(
            joined(lambda y_1, y_2, s, t: y_2 * s(y_1).exp() + t(y_1)),
            "this is the layer itself, forward. Solve y₂ = e^a x₂ + c for x₂.",
        ),
        Slip(
            joined(lambda y_1, y_2, s, t: (y_2 - t(y_2)) * (-s(y_2)).exp()),
            "the networks look at the half that stays, y₁ = x₁; they never saw y₂.",
        ),
        Slip(
            lambda y_1, y_2, s, t: (y_2 - t(y_1)) * (-s(y_1)).exp(),
            "this is x₂ alone: put x₁ before it, torch.cat([x_1, x_2], 1).",
        ),
        Slip(
            lambda y_1, y_2, s, t: torch.cat([(y_2 - t(y_1)) * (-s(y_1)).exp(), y_1], 1),
            "the halves have changed places: x₁ comes first.",
        ),
    ]
    praise = "right, and no network had to be inverted."
    return check_function("coupling_inverse", answer, _coupling_inverse, slips, cases, praise)


def check_coupling_log_prob(answer: Any) -> bool:
    """Exercise 2: answer(x, layers) is log p(x) of a chain of coupling layers, (B,).

    x: (B, d); layers: pairs (a, c) of callables (B, d/2) -> (B, d/2). A layer makes (x₁, x₂) into
    (e^{a(x₁)} x₂ + c(x₁), x₁): the second half changes, then the halves change places. At the end
    is N(0, I).
    """
    draw = torch.Generator().manual_seed(6)
    cases = []
    for half, count in ((1, 2), (2, 3)):
        layers = [
            (lambda x, k=k: torch.sin((k + 1) * x), lambda x, k=k: torch.cos(x) - 0.4 * k)
            for k in range(count)
        ]
        cases.append((torch.randn(5, 2 * half, generator=draw, dtype=torch.float64), layers))

    def chain(
        part: Callable[[Tensor], Tensor] = lambda a: a.sum(1),
        swap: bool = True,
        end: Callable[[Tensor], Tensor] = standard_normal_log_prob,
        scale: Callable[[Tensor], Tensor] = torch.exp,
        read: int = 0,
        back: bool = False,
    ) -> Callable[..., Tensor]:
        def wrong(x: Tensor, layers: Any) -> Tensor:
            total: Any = 0.0
            for a, c in reversed(layers) if back else layers:
                halves = x.chunk(2, 1)
                changed = scale(a(halves[read])) * halves[1] + c(halves[read])
                total = total + part(a(halves[read]))
                x = torch.cat([changed, halves[0]] if swap else [halves[0], changed], 1)
            return end(x) + total

        return wrong

    def unnormalised(x: Tensor) -> Tensor:
        return -0.5 * x.square().sum(1)

    slips = [
        Slip(
            chain(part=lambda a: -a.sum(1)),
            "the log-determinants have the wrong sign: where the map to the noise stretches, many "
            "z come from few x, and the density of x is higher.",
        ),
        Slip(
            chain(part=lambda a: 0.0 * a.sum(1)),
            "this is log p of the noise: the log-determinants are missing.",
        ),
        Slip(
            chain(part=lambda a: a.exp().sum(1)),
            "the diagonal holds e^a; the log of its product is the sum of the a, without the exp.",
        ),
        Slip(chain(part=lambda a: a.mean(1)), "sum the a over the coordinates, do not average."),
        Slip(
            chain(part=lambda a: a.sum()),
            "every particle has its own log-determinant: sum over the coordinates only.",
        ),
        Slip(
            chain(swap=False),
            "the halves do not change places: after a layer the changed half comes first.",
        ),
        Slip(
            chain(end=unnormalised),
            "the constant of N(0, I) is missing, −d/2 log 2π. Training does not see it, nats do.",
        ),
        Slip(
            chain(end=lambda x: unnormalised(x) - 0.5 * math.log(2 * math.pi)),
            "−½ log 2π counts once for each of the d coordinates.",
        ),
        Slip(chain(scale=lambda a: a), "the layer scales by e^a, not by a."),
        Slip(
            chain(read=1),
            "a and c look at the half that stays, x₁; otherwise the layer has no simple inverse.",
        ),
        Slip(chain(back=True), "data go through the layers in their order, the first one first."),
        Slip(
            lambda x, layers: -chain()(x, layers), "this is −log p, the loss; log p is asked for."
        ),
        Slip(
            lambda x, layers: chain()(x, layers).mean(),
            "keep the B particles apart: one number each.",
        ),
        Slip(lambda x, layers: chain()(x, layers[:1]), "only the first layer is counted."),
    ]
    praise = "right: a flow's exact density, and its loss but for the sign."
    return check_function("coupling_log_prob", answer, chain(), slips, cases, praise)


def check_coupling_log_det(answer: Any) -> bool:
    """Answer(x_1, a) is log|det ∂y/∂x| of y = (x₁, e^{a(x₁)} x₂ + c(x₁)).

    x_1: (B, d/2); a: a callable (B, d/2) -> (B, d/2). Returns (B,).
    """
    draw = torch.Generator().manual_seed(3)
    cases = [
        (
            torch.randn(5, half, generator=draw, dtype=torch.float64),
            lambda x, k=half: torch.sin(x + k),
        )
        for half in (1, 2, 4)
    ]
    slips = [
        Slip(
            lambda x_1, s: s(x_1).exp().sum(1),
            "the diagonal holds e^a; the log of its product is the sum of the a, without the exp.",
        ),
        Slip(
            lambda x_1, s: s(x_1).exp().prod(1),
            "this is the determinant; its logarithm is asked for.",
        ),
        Slip(
            lambda x_1, s: -s(x_1).sum(1),
            "this is the log-det of the inverse: from x to y the layer multiplies by e^{+a}.",
        ),
        Slip(lambda x_1, s: s(x_1).mean(1), "sum over the coordinates: each is stretched."),
        Slip(lambda x_1, s: s(x_1).prod(1), "logarithms of factors add up: sum, not product."),
        Slip(
            lambda x_1, s: s(x_1).abs().sum(1),
            "|det| > 0 already, since e^a is; its logarithm may be negative, where space shrinks.",
        ),
        Slip(lambda x_1, s: s(x_1).sum(0), "sum over the coordinates, not over the particles."),
        Slip(
            lambda x_1, s: s(x_1).sum(), "one number per particle: sum over the coordinates only."
        ),
        Slip(lambda x_1, s: s(x_1), "one number per coordinate so far: sum over them."),
    ]
    praise = "right: a determinant for the price of a sum."
    return check_function(
        "coupling_log_det", answer, lambda x_1, s: s(x_1).sum(1), slips, cases, praise
    )


def check_log_p_rate(answer: Any) -> bool:
    """Exercise 3: answer(f, x) is d log p/dt = −tr(∂f/∂x) along the particles' paths.

    f: a callable (B, d) -> (B, d); x: (B, d). Returns (B,).
    """
    draw = torch.Generator().manual_seed(4)
    mix = torch.randn(3, 3, generator=draw, dtype=torch.float64)
    fields = (
        (2, lambda x: torch.stack([x[:, 0] * x[:, 1], x[:, 0].sin() + x[:, 1] ** 3], 1)),
        (3, lambda x: torch.tanh(x @ mix.to(x)) - 0.5 * x),
    )
    cases = [(f, torch.randn(6, d, generator=draw, dtype=torch.float64)) for d, f in fields]

    def jacobian(f: Net, x: Tensor) -> Tensor:
        total = torch.autograd.functional.jacobian(lambda x: f(x).sum(0), x)
        return total.movedim(1, 0)

    def trace(f: Net, x: Tensor) -> Tensor:
        return jacobian(f, x).diagonal(dim1=1, dim2=2).sum(1)

    slips = [
        Slip(
            trace,
            "the sign is turned: where the flow spreads (tr > 0), the density falls.",
        ),
        Slip(
            lambda f, x: -jacobian(f, x).sum((1, 2)),
            "this sums the whole Jacobian: grad(f(x).sum(), x) mixes in the ∂f_i/∂x_j with i ≠ j. "
            "Take each f_i alone and keep the i-th entry of its gradient.",
        ),
        Slip(
            lambda f, x: jacobian(f, x).sum((1, 2)),
            "this sums the whole Jacobian, and the sign is turned: take the diagonal, and −.",
        ),
        Slip(
            lambda f, x: -torch.linalg.det(jacobian(f, x)),
            "the determinant belongs to a whole map; an infinitesimal step needs the trace.",
        ),
        Slip(
            lambda f, x: -torch.linalg.slogdet(jacobian(f, x)).logabsdet,
            "log|det ∂f/∂x| belongs to a map x → f(x); f is a velocity here. Take the trace.",
        ),
        Slip(
            lambda f, x: -jacobian(f, x)[:, 0, 0],
            "only the first coordinate is counted: sum the whole diagonal.",
        ),
        Slip(
            lambda f, x: -jacobian(f, x).diagonal(dim1=1, dim2=2),
            "this is the diagonal: sum it, one number per particle.",
        ),
        Slip(lambda f, x: -f(x).sum(1), "this sums f itself; its derivatives are asked for."),
    ]
    praise = "right: −tr ∂f/∂x, the diagonal alone."
    return check_function("log_p_rate", answer, lambda f, x: -trace(f, x), slips, cases, praise)


def check_least_leak(answer: Any) -> bool:
    """Exercise 4: answer(D, L) is 2Φ(D/2L) − 1, what a map of Lipschitz constant L must leak.

    D: the distance of two modes of equal mass; L: the Lipschitz constant of the map that carries
    N(0, I) to them. Both 0-d tensors. Returns a number.
    """
    cases = [
        (_number(d), _number(constant)) for d, constant in ((2.0, 1.5), (0.6, 4.0), (1.0, 0.7))
    ]

    def phi(value: Tensor) -> Tensor:
        return torch.special.ndtr(value)

    slips = [
        Slip(
            lambda d, c: 2 * phi(d / c) - 1,
            "this leaves D/L on either side of the middle: the gap between the preimages is D/L "
            "wide in all, from −D/2L to D/2L.",
        ),
        Slip(
            lambda d, c: phi(d / c) - 0.5,
            "a gap that begins in the middle gives one mode more than the other. The modes have "
            "equal mass, so the gap lies in the middle, from −D/2L to D/2L.",
        ),
        Slip(
            lambda d, c: phi(d / (2 * c)) - 0.5,
            "this is one half of the gap, from 0 to D/2L; the other half leaks as well.",
        ),
        Slip(
            lambda d, c: phi(d / (2 * c)),
            "this is all the mass to the left of D/2L; subtract what lies left of −D/2L.",
        ),
        Slip(
            lambda d, c: 2 - 2 * phi(d / (2 * c)),
            "this is the mass of the two modes; what leaks is the rest.",
        ),
        Slip(
            lambda d, c: 2 * phi(d * c / 2) - 1,
            "the map stretches by L at most, so the gap *before* it is D/L, not D L.",
        ),
        Slip(
            lambda d, c: d / c / math.sqrt(2 * math.pi),
            "nearly: that is the gap's width times the density at 0, right for large L only. "
            "Integrate the normal density over the gap.",
        ),
        Slip(
            lambda d, c: torch.special.erf(d / (2 * c)),
            "erf has its own unit: Φ(a) − Φ(−a) is erf(a/√2).",
        ),
    ]
    praise = "right: to leak half as much, stretch twice as far."
    return check_function(
        "least_leak", answer, lambda d, c: 2 * phi(d / (2 * c)) - 1, slips, cases, praise
    )


def _flow_log_prob(z: Tensor, log_dets: Tensor) -> Tensor:
    return standard_normal_log_prob(z) + log_dets.sum(0)


def _coupling_inverse(y_1: Tensor, y_2: Tensor, s: Net, t: Net) -> Tensor:
    return torch.cat([y_1, (y_2 - t(y_1)) * (-s(y_1)).exp()], 1)


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
