"""Solutions of notebook 01's exercises, and wrong answers with the words that they meet."""

from __future__ import annotations

import math

import pytest
import torch


def normal(z):
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)


def flow_log_prob(z, log_dets):
    return normal(z) + log_dets.sum(0)


def coupling_inverse(y_1, y_2, s, t):
    return torch.cat([y_1, (y_2 - t(y_1)) / s(y_1).exp()], 1)


def back(second):
    """A wrong inverse whose x₂ is second(y₁, y₂, s, t)."""
    return lambda y_1, y_2, s, t: torch.cat([y_1, second(y_1, y_2, s, t)], 1)


def log_p_rate(f, x):
    x = x.requires_grad_()
    total = 0
    for i, f_i in enumerate(f(x).unbind(1)):
        total = total - torch.autograd.grad(f_i.sum(), x, retain_graph=True)[0][:, i]
    return total


def whole_jacobian(f, x):
    x = x.requires_grad_()
    return torch.autograd.grad(f(x).sum(), x)[0].sum(1)


def jacobians(f, x):
    return torch.func.vmap(torch.func.jacrev(lambda row: f(row[None])[0]))(x)


def least_leak(D, L):
    return math.erf(D / (2 * L) / math.sqrt(2))


def phi(value):
    return 0.5 * (1 + math.erf(value / math.sqrt(2)))


def coupling_log_prob(x, layers, sign=1, swap=True, constant=True, average=False):
    log_det = torch.zeros(len(x), dtype=x.dtype)
    for a, c in layers:
        x_1, x_2 = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
        y = torch.exp(a(x_1)) * x_2 + c(x_1)
        log_det += sign * (a(x_1).mean(1) if average else a(x_1).sum(1))
        x = torch.cat([y, x_1] if swap else [x_1, y], 1)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)
    return (normal if constant else -0.5 * (x**2).sum(1)) + log_det


SOLUTIONS = {
    "check_coupling_log_prob": coupling_log_prob,
    "check_flow_log_prob": flow_log_prob,
    "check_coupling_inverse": coupling_inverse,
    "check_coupling_log_det": lambda x_1, s: s(x_1).sum(dim=1),
    "check_log_p_rate": log_p_rate,
    "check_least_leak": least_leak,
}
P, B, D, R, Q = list(SOLUTIONS)[1:]  # the checks but the chain, in this order
PLANTED = [
    ("check_coupling_log_prob", lambda x, n: coupling_log_prob(x, n, sign=-1), "wrong sign"),
    ("check_coupling_log_prob", lambda x, n: coupling_log_prob(x, n, sign=0), "log p of the noise"),
    ("check_coupling_log_prob", lambda x, n: coupling_log_prob(x, n, swap=False), "change places"),
    (
        "check_coupling_log_prob",
        lambda x, n: coupling_log_prob(x, n, constant=False),
        "−d/2 log 2π",
    ),
    (
        "check_coupling_log_prob",
        lambda x, n: coupling_log_prob(x, n, average=True),
        "do not average",
    ),
    ("check_coupling_log_prob", lambda x, n: coupling_log_prob(x, n[::-1]), "in their order"),
    ("check_coupling_log_prob", lambda x, n: -coupling_log_prob(x, n), "this is −log p"),
    ("check_coupling_log_prob", lambda x, n: coupling_log_prob(x, n).mean(), "one number each"),
    ("check_coupling_log_prob", lambda x, n: coupling_log_prob(x, n[:1]), "only the first layer"),
    (P, lambda z, dets: None, "it returned None"),
    (P, lambda z, dets: normal(z) - dets.sum(0), "the determinants have the wrong sign"),
    (P, lambda z, dets: normal(z), "The determinants are missing"),
    (P, lambda z, dets: -flow_log_prob(z, dets), "this is −log p, the loss"),
    (P, lambda z, dets: -z.square().sum(1) / 2 + dets.sum(0), "the constant of N(0, I) is missing"),
    (
        P,
        lambda z, dets: -z.square().sum(1) / 2 - math.log(2 * math.pi) / 2 + dets.sum(0),
        "once for each of the d coordinates",
    ),
    (P, lambda z, dets: normal(z) + dets.mean(0), "summed, not averaged"),
    (P, lambda z, dets: normal(z) + dets.sum(), "each particle has its own determinants"),
    (P, lambda z, dets: normal(z) + dets[-1], "only the last step is counted"),
    (P, lambda z, dets: normal(z) + dets.prod(0), "sum, not product"),
    (P, lambda z, dets: flow_log_prob(z, dets).mean(), "keep the B particles apart"),
    (B, lambda y_1, y_2, s, t: None, "it returned None"),
    (B, back(lambda a, b, s, t: b / s(a).exp() - t(a)), "the shift comes off first"),
    (B, back(lambda a, b, s, t: (b - t(a)) * s(a).exp()), "the scale must be undone"),
    (B, back(lambda a, b, s, t: (b - t(a)) / s(a)), "scaled by e^a, not by a"),
    (B, back(lambda a, b, s, t: (b + t(a)) / s(a).exp()), "the shift has the wrong sign"),
    (B, back(lambda a, b, s, t: b * s(a).exp() + t(a)), "the layer itself, forward"),
    (B, back(lambda a, b, s, t: (b - t(b)) / s(b).exp()), "they never saw y₂"),
    (B, lambda a, b, s, t: (b - t(a)) / s(a).exp(), "this is x₂ alone"),
    (B, lambda a, b, s, t: torch.cat([(b - t(a)) / s(a).exp(), a], 1), "have changed places"),
    (D, lambda x_1, s: None, "it returned None"),
    (D, lambda x_1, s: s(x_1).exp().sum(1), "without the exp"),
    (D, lambda x_1, s: s(x_1).exp().prod(1), "this is the determinant"),
    (D, lambda x_1, s: -s(x_1).sum(1), "the log-det of the inverse"),
    (D, lambda x_1, s: s(x_1).mean(1), "each is stretched"),
    (D, lambda x_1, s: s(x_1).prod(1), "sum, not product"),
    (D, lambda x_1, s: s(x_1).abs().sum(1), "may be negative, where space shrinks"),
    (D, lambda x_1, s: s(x_1).sum(0), "not over the particles"),
    (D, lambda x_1, s: s(x_1).sum(), "one number per particle"),
    (D, lambda x_1, s: s(x_1), "one number per coordinate so far"),
    (R, lambda f, x: None, "it returned None"),
    (R, lambda f, x: -log_p_rate(f, x), "where the flow spreads (tr > 0), the density falls"),
    (R, lambda f, x: -whole_jacobian(f, x), "Take each f_i alone"),
    (R, whole_jacobian, "this sums the whole Jacobian, and the sign is turned"),
    (R, lambda f, x: -torch.linalg.det(jacobians(f, x)), "an infinitesimal step needs the trace"),
    (R, lambda f, x: -jacobians(f, x).det().abs().log(), "f is a velocity here"),
    (R, lambda f, x: -jacobians(f, x)[:, 0, 0], "only the first coordinate"),
    (R, lambda f, x: -jacobians(f, x).diagonal(0, 1, 2), "this is the diagonal: sum it"),
    (R, lambda f, x: -f(x).sum(1), "this sums f itself"),
    (Q, lambda D, L: None, "it returned None"),
    (Q, lambda D, L: 2 * phi(D / L) - 1, "D/L wide in all, from −D/2L to D/2L"),
    (Q, lambda D, L: phi(D / L) - 0.5, "gives one mode more than the other"),
    (Q, lambda D, L: phi(D / L / 2) - 0.5, "the other half leaks as well"),
    (Q, lambda D, L: phi(D / L / 2), "subtract what lies left of −D/2L"),
    (Q, lambda D, L: 2 - 2 * phi(D / L / 2), "what leaks is the rest"),
    (Q, lambda D, L: 2 * phi(D * L / 2) - 1, "the gap *before* it is D/L"),
    (Q, lambda D, L: D / L / math.sqrt(2 * math.pi), "right for large L only"),
    (Q, lambda D, L: math.erf(D / (2 * L)), "erf has its own unit"),
]


def test_the_least_leak_is_what_a_linear_map_between_two_modes_leaks():
    # The bound is reached in one dimension: x = Lz leaks what falls between −D/2 and D/2.
    z = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    leaked = (3.0 * z).abs() < 0.5
    assert leaked.double().mean().item() == pytest.approx(least_leak(1.0, 3.0), abs=0.003)
