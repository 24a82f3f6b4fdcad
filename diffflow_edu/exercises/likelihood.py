"""Notebooks 07 and 12: the λ family, densities, importance weights, Theorem 1; real data.

Each truth is a line of the library; each slip is a wrong answer with the sentence that teaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
            "the score has the wrong sign: time rises towards the noise, and on the way back the "
            "score term is subtracted.",
        ),
        Slip(
            lambda f, s, g, lam: f - 0.5 * (1 - lam**2) * g**2 * s,
            "this is the family run *forward*, where its noise spreads what the drift contracts. "
            "On the way back, + ½ λ² g² Δp stands on the other side: 1 + λ².",
        ),
        Slip(
            lambda f, s, g, lam: 0.5 * (1 + lam**2) * g**2 * s - f,
            "this is the drift on the reversed clock T − t, where all signs turn. Here t is the "
            "time of the forward process, and dt < 0 on the way back: f − ….",
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
            "paths would always lower the number.",
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
    """Exercise 5: answer(rate, dt, g) is Σ_i ‖ḟ_i‖² Δt³/(2 g²), what Theorem 1 leaves out.

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


def check_tight_bound(answer: Any) -> bool:
    """Exercise 4: answer(bound, x, noise) is −log mean_k exp(−bound(x, noise[k])), a loop.

    bound(x, noise): the path bound of every particle along one path, (B,), x (B, d) and noise
    (N, B, d); noise: (K, N, B, d), K paths a particle. Returns (B,).
    """
    draw = torch.Generator().manual_seed(6)
    cases = []
    for paths, level in ((6, 0.0), (9, 1500.0)):
        x = torch.randn(5, 2, generator=draw, dtype=torch.float64)
        noise = torch.randn(paths, 4, 5, 2, generator=draw, dtype=torch.float64)
        cases.append((_made_up_bound(level), x, noise))

    def slip(combine: Callable[[Tensor], Any], message: str) -> Slip:
        return Slip(lambda bound, x, noise: combine(_bounds(bound, x, noise)), message)

    slips = [
        slip(lambda b: b.mean(0), "this is the mean of the K path bounds: average exp(−bound)."),
        slip(
            lambda b: -torch.logsumexp(-b, 0),
            "log K is missing: it is the *mean* of the K weights, not their sum.",
        ),
        slip(lambda b: b.min(0).values, "the best of K paths is no bound: average the weights."),
        slip(
            lambda b: -importance_weighted(b),
            "this estimates log p; a bound on − log p has the other sign.",
        ),
        slip(lambda b: b[0], "this is one path only: go through all of noise[k]."),
        slip(lambda b: b[-1], "only the last path is left: collect the bounds of all."),
        slip(lambda b: importance_weighted(b[1:]), "the first path is missing."),
        slip(lambda b: importance_weighted(b[:-1]), "the last path is missing."),
        slip(lambda b: importance_weighted(b).mean(), "keep the B particles apart, shape (B,)."),
        slip(
            lambda b: importance_weighted(b.reshape(-1, 1)).squeeze(),
            "average over the paths of each particle only, not over the particles.",
        ),
        Slip(
            lambda bound, x, noise: bound(x, noise.mean(0)),
            "the mean of K noises is not a noise: one path for each noise[k].",
        ),
        slip(
            lambda b: torch.stack([b[k] for k in range(len(b))]),
            "these are the K path bounds; now combine them to one number a particle.",
        ),
    ]
    name = "tight_bound"

    def truth(bound: Callable[..., Tensor], x: Tensor, noise: Tensor) -> Tensor:
        return importance_weighted(_bounds(bound, x, noise))

    hint = find_fault(name, answer, truth, slips, cases)
    if hint is not None and find_fault(name, answer, truth, slips, cases[:1]) is None:
        hint = "right for small bounds; but exp(−1500) is 0. Use torch.logsumexp."
    praise = "right: a tighter bound of the same chain, paid with K walks."
    print(f"✓ {name}: {praise}" if hint is None else f"✗ {name}: {hint}")
    return hint is None


def check_raw_nats(answer: Any) -> bool:
    """Exercise 1 of 12: answer(nats, W) is −log p of rows x, given that of z = W (x − μ).

    nats: (B,), −log q(z); W: (d, d). Returns (B,), −log q(z) − log |det W|.
    """
    draw = torch.Generator().manual_seed(7)
    cases = []
    for d, sign in ((3, -1.0), (4, 1.0)):
        W = torch.randn(d, d, generator=draw, dtype=torch.float64)
        W[0] = W[0] * sign * W.det().sign()
        cases.append((3 + torch.randn(6, generator=draw, dtype=torch.float64), 2 * W))

    def log_det(W: Tensor) -> Tensor:
        return W.det().abs().log()

    slips = [
        Slip(
            lambda nats, W: nats + log_det(W),
            "the sign: where W stretches, the rows x stood closer together, so their density is "
            "higher and −log p lower.",
        ),
        Slip(lambda nats, W: nats, "the change of variables is missing: − log |det W|."),
        Slip(lambda nats, W: nats - W.det().abs(), "the log is missing: − log |det W|."),
        Slip(lambda nats, W: nats - W.det(), "take |det W|, and its log."),
        Slip(
            lambda nats, W: nats - W.diagonal().abs().log().sum(),
            "the product of the diagonal is the determinant of a triangular W only.",
        ),
        Slip(
            lambda nats, W: nats - log_det(W) / len(W),
            "log |det W| once for a row, not divided by d.",
        ),
        Slip(
            lambda nats, W: nats - len(W) * log_det(W),
            "log |det W| once for a row, not once for each coordinate.",
        ),
        Slip(
            lambda nats, W: (nats - log_det(W)) / math.log(2),
            "these are bits; nats are asked for.",
        ),
        Slip(
            lambda nats, W: (nats - log_det(W)).mean(),
            "one number a row, please: keep the B apart, shape (B,).",
        ),
        Slip(
            lambda nats, W: nats - 0.5 * log_det(W),
            "½ log det belongs to a covariance; W is its inverse root, so − log |det W| in full.",
        ),
    ]
    hint = find_fault("raw_nats", answer, _raw_nats, slips, cases)
    if hint is not None and find_fault("raw_nats", answer, _raw_nats, slips, cases[1:]) is None:
        hint = "det W may be negative: take torch.linalg.slogdet(W), or the log of |det W|."
    praise = "right: the change of variables of notebook 01, on real units."
    print(f"✓ raw_nats: {praise}" if hint is None else f"✗ raw_nats: {hint}")
    return hint is None


def check_best_look(answer: Any) -> bool:
    """Exercise 2 of 12: answer(curve) is the step whose weights are kept, and their test −log p.

    curve: (n, 4), rows of step, training, validation and test −log p on the way. Returns two
    numbers: the step at which validation is least, and the test value there.
    """
    step = 20.0 * torch.arange(1, 9, dtype=torch.float64)
    train = torch.tensor([88.0, 80, 72, 66, 61, 57, 54, 52], dtype=torch.float64)
    validation = torch.tensor([91.0, 82, 77, 78, 74, 76, 81, 88], dtype=torch.float64)
    test = torch.tensor([92.0, 83, 76.5, 75, 75.5, 79, 83, 90], dtype=torch.float64)
    short = torch.stack([step, train, validation, test], 1)
    cases = [(short,), (torch.cat([short[2:], short[1:2] + 200]) * 0.5,)]

    def at(row: Callable[[Tensor], Tensor], column: int = 3) -> Callable[[Tensor], Tensor]:
        return lambda curve: torch.stack([curve[row(curve), 0], curve[row(curve), column]])

    def first_rise(curve: Tensor) -> Tensor:
        return (curve[1:, 2] > curve[:-1, 2]).int().argmax()

    slips = [
        Slip(
            at(lambda c: c[:, 1].argmin()),
            "training rows always choose the last look: choose by validation.",
        ),
        Slip(
            at(lambda c: c[:, 3].argmin()),
            "the test rows must not choose: whoever takes the best test value reports a number "
            "that no new row will repeat.",
        ),
        Slip(at(lambda c: torch.tensor(len(c) - 1)), "this is the last look, not the best."),
        Slip(
            at(first_rise),
            "the first rise of validation is not yet the end: look at the whole curve.",
        ),
        Slip(
            at(lambda c: c[:, 2].argmin(), 2),
            "report the *test* value: validation has been chosen to be low.",
        ),
        Slip(at(lambda c: c[:, 2].argmin(), 1), "report the test value, not that of training."),
        Slip(
            lambda c: torch.stack([c[:, 2].argmin().double(), c[c[:, 2].argmin(), 3]]),
            "the first number is the row; the step stands in column 0.",
        ),
        Slip(
            at(lambda c: c[:, 2].argmax()),
            "−log p is better where it is lower: argmin.",
        ),
        Slip(
            lambda c: at(lambda c: c[:, 2].argmin())(c).flip(0),
            "the two have changed places: first the step, then the test value.",
        ),
        Slip(
            at(lambda c: (c[:, 2] - c[:, 1]).argmin()),
            "the gap between validation and training says how far a model has adapted to its "
            "rows, not how good it is: choose by validation alone.",
        ),
    ]
    praise = "right: validation chooses, test reports."
    return check_function("best_look", answer, _best_look, slips, cases, praise)


def check_compare(answer: Any) -> bool:
    """Exercise 3 of 12: answer(a, b) is the mean gain of b over a in nats, and its standard error.

    a, b: (n,), −log p of the same rows by two models. Returns two numbers: mean(a − b), and the
    standard deviation of a − b over √n.
    """
    draw = torch.Generator().manual_seed(8)
    cases = []
    for n in (12, 40):
        hard = 5 * torch.randn(n, generator=draw, dtype=torch.float64)
        a, b = hard + 1 + 0.3 * torch.randn(2, n, generator=draw, dtype=torch.float64)
        cases.append((a, b - 0.7))

    def two(mean: Tensor, error: Tensor) -> Tensor:
        return torch.stack([mean, error])

    slips = [
        Slip(
            lambda a, b: two((a - b).mean(), ((a.var() + b.var()) / len(a)).sqrt()),
            "both models see the same rows, and a hard row is hard for both: take the spread of "
            "the differences a − b, not the two spreads together.",
        ),
        Slip(
            lambda a, b: two((b - a).mean(), (a - b).std() / len(a) ** 0.5),
            "the sign: −log p is better where it is lower, so b gains a − b.",
        ),
        Slip(
            lambda a, b: two((a - b).mean(), (a - b).std()),
            "this is the spread of single rows; the error of their mean is smaller by √n.",
        ),
        Slip(
            lambda a, b: two((a - b).mean(), (a - b).std() / len(a)),
            "the error falls with √n, not with n.",
        ),
        Slip(
            lambda a, b: two((a - b).mean(), (a - b).var() / len(a)),
            "this is the square of the error: take its root.",
        ),
        Slip(
            lambda a, b: two((a - b).sum(), (a - b).std() / len(a) ** 0.5),
            "the gain is a mean over rows, not a sum.",
        ),
        Slip(
            lambda a, b: two(b.mean(), b.std() / len(b) ** 0.5),
            "this is b alone; compare it with a, row by row.",
        ),
        Slip(
            lambda a, b: two((a - b).mean(), (a.std() - b.std()).abs() / len(a) ** 0.5),
            "spreads do not subtract: take the spread of the differences a − b.",
        ),
        Slip(
            lambda a, b: two((a - b).std() / len(a) ** 0.5, (a - b).mean()),
            "the two have changed places: first the gain, then its error.",
        ),
        Slip(
            lambda a, b: a - b, "these are the gains row by row; return their mean and its error."
        ),
    ]
    praise = "right: on the same rows a small gain can be certain."
    return check_function("compare", answer, _compare, slips, cases, praise)


def _family_drift(f: Tensor, s: Tensor, g: Tensor, lam: Tensor) -> Tensor:
    return f - 0.5 * (1 + lam**2) * g**2 * s


def _ode_log_prob(x: Tensor, divergence: Tensor, dt: Tensor) -> Tensor:
    return standard_normal_log_prob(x) + (dt[:, None] * divergence).sum(0)


def _excess(rate: Tensor, dt: Tensor, g: Tensor) -> Tensor:
    return 0.5 * (rate.square().sum(2) * dt**3 / g**2).sum(0)


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _made_up_bound(level: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A bound of every particle along one path, spread by a few nats about a level."""

    def bound(x: Tensor, noise: Tensor) -> Tensor:
        return level + 0.3 * noise.square().sum((0, 2)) + (x * noise[0]).sum(1)

    return bound


def _bounds(bound: Callable[..., Tensor], x: Tensor, noise: Tensor) -> Tensor:
    return torch.stack([bound(x, each) for each in noise])


def _raw_nats(nats: Tensor, W: Tensor) -> Tensor:
    return nats - torch.linalg.slogdet(W).logabsdet


def _best_look(curve: Tensor) -> Tensor:
    best = curve[:, 2].argmin()
    return torch.stack([curve[best, 0], curve[best, 3]])


def _compare(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([(a - b).mean(), (a - b).std() / len(a) ** 0.5])
