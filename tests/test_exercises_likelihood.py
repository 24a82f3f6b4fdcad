"""Solutions of notebook 07's exercises, and wrong answers with the words that they meet."""

from __future__ import annotations

import math

import pytest
import torch

from diffflow_edu import DiffFlow, Schedule, exercises
from diffflow_edu.processes.likelihood import family_drift as library_drift
from diffflow_edu.processes.likelihood import importance_weighted as library_weighted


def family_drift(f, s, g, lam):
    return f - (1 + lam * lam) / 2 * g * g * s


def log_normal(x):
    return -0.5 * x.square().sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)


def ode_log_prob(x, divergence, dt):
    return log_normal(x) + torch.einsum("nb,n->b", divergence, dt)


def importance_weighted(bounds):
    low = bounds.min(0).values
    return low - (low - bounds).exp().mean(0).log()


def excess(rate, dt, g):
    return (rate.square() * (dt * (dt / g) ** 2 / 2)).sum((0, 2))


SOLUTIONS = {
    "check_family_drift": family_drift,
    "check_ode_log_prob": ode_log_prob,
    "check_importance_weighted": importance_weighted,
    "check_excess": excess,
}


# (check, wrong answer, words of the message that it must get)
PLANTED = [
    ("check_family_drift", lambda f, s, g, lam: f - g**2 * s, "this is λ = 1"),
    ("check_family_drift", lambda f, s, g, lam: f - g**2 * s / 2, "this is λ = 0"),
    ("check_family_drift", lambda f, s, g, lam: f - lam**2 * g**2 * s / 2, "keeps half of it"),
    ("check_family_drift", lambda f, s, g, lam: f - (lam * g) ** 2 * s, "undoes noise λ g"),
    ("check_family_drift", lambda f, s, g, lam: f - (1 + lam**2) * g**2 * s, "the ½ is missing"),
    ("check_family_drift", lambda f, s, g, lam: f - (1 + lam) / 2 * g**2 * s, "λ², not λ"),
    (
        "check_family_drift",
        lambda f, s, g, lam: f - (1 + lam) ** 2 / 2 * g**2 * s,
        "(1 + λ)² is not 1 + λ²",
    ),
    (
        "check_family_drift",
        lambda f, s, g, lam: family_drift(f, s, g**0.5, lam),
        "g counts squared",
    ),
    ("check_family_drift", lambda f, s, g, lam: family_drift(f, -s, g, lam), "wrong sign: time"),
    (
        "check_family_drift",
        lambda f, s, g, lam: f - (1 - lam**2) / 2 * g**2 * s,
        "the family run *forward*",
    ),
    ("check_family_drift", lambda f, s, g, lam: family_drift(0, s, g, lam), "f is missing"),
    (
        "check_ode_log_prob",
        lambda x, v, dt: ode_log_prob(x, -v, dt),
        "the divergence has the wrong",
    ),
    ("check_ode_log_prob", lambda x, v, dt: -ode_log_prob(x, v, dt), "asked for is log p"),
    ("check_ode_log_prob", lambda x, v, dt: dt @ v, "the end is missing"),
    ("check_ode_log_prob", lambda x, v, dt: log_normal(x), "of the end alone"),
    (
        "check_ode_log_prob",
        lambda x, v, dt: dt @ v - x.square().sum(1) / 2,
        "− d/2 log 2π is missing",
    ),
    (
        "check_ode_log_prob",
        lambda x, v, dt: dt @ v - x.square().sum(1) / 2 - math.log(2 * math.pi) / 2,
        "has its own ½ log 2π",
    ),
    (
        "check_ode_log_prob",
        lambda x, v, dt: ode_log_prob(x, v, torch.ones_like(dt)),
        "divergence times Δt",
    ),
    ("check_ode_log_prob", lambda x, v, dt: log_normal(x) + v.mean(0), "weigh each divergence"),
    ("check_ode_log_prob", lambda x, v, dt: log_normal(x) + dt @ v / len(v), "no 1/N left"),
    ("check_ode_log_prob", lambda x, v, dt: ode_log_prob(x, v, dt).mean(), "keep the B apart"),
    ("check_importance_weighted", lambda b: b.mean(0), "the loosest of the three"),
    ("check_importance_weighted", lambda b: -torch.logsumexp(-b, 0), "log K is missing"),
    (
        "check_importance_weighted",
        lambda b: importance_weighted(b) - 2 * math.log(len(b)),
        "log K has the wrong sign",
    ),
    ("check_importance_weighted", lambda b: -importance_weighted(b), "has the other sign"),
    ("check_importance_weighted", lambda b: -importance_weighted(-b), "must count little"),
    (
        "check_importance_weighted",
        lambda b: b.amin(0),
        "is no bound: it lies below the importance-weighted bound, and with many paths below",
    ),
    ("check_importance_weighted", lambda b: importance_weighted(b.T), "not over the particles"),
    ("check_importance_weighted", lambda b: importance_weighted(b).mean(), "keep the B apart"),
    (
        "check_importance_weighted",
        lambda b: importance_weighted(b.flatten()[:, None])[0],
        "the paths of each particle only",
    ),
    ("check_importance_weighted", lambda b: -(-b).exp().mean(0).log(), "exp(−2000) is 0"),
    ("check_excess", lambda r, dt, g: 2 * excess(r, dt, g), "too large by 2"),
    ("check_excess", lambda r, dt, g: excess(r, dt, g) / dt, "one Δt is missing"),
    ("check_excess", lambda r, dt, g: excess(r, dt, g) / dt**2, "not ḟ Δt^{1/2}/g"),
    ("check_excess", lambda r, dt, g: excess(r, dt, g) * dt**3, "square Δt^{3/2} once"),
    ("check_excess", lambda r, dt, g: excess(r, dt, g**0.5), "g counts squared: δB"),
    ("check_excess", lambda r, dt, g: excess(r, dt, 1), "g is missing"),
    ("check_excess", lambda r, dt, g: excess(r, dt, 1 / g), "do not multiply"),
    ("check_excess", lambda r, dt, g: excess(r, dt, g) / len(r), "sum over the N steps"),
    ("check_excess", lambda r, dt, g: excess(r, dt, g) / r.shape[2], "sum over the d coordinates"),
    (
        "check_excess",
        lambda r, dt, g: (dt**1.5 / g * r).square().sum(2).sqrt().sum(0) / 2,
        "not ‖δB‖",
    ),
    ("check_excess", lambda r, dt, g: excess(r, dt, g).mean(), "keep the B apart"),
]


# The truths of the checks are those of the library -----------------------------------------------


def test_the_family_of_the_exercise_is_that_of_the_sampler():
    """The library's drift of the paper's chain, fields chosen so that they are the case's own."""

    def library(f, s, g, lam):
        schedule = Schedule.euler(torch.linspace(0, 1, 3), g=float(g))
        model = DiffFlow(lambda x, t: f, lambda x, t: s, schedule)
        half_way = torch.tensor(0.5, dtype=torch.float64)
        return library_drift(model, torch.zeros_like(f), half_way, float(lam))

    assert exercises.check_family_drift(library) is True


def test_the_importance_weighted_bound_is_that_of_the_library():
    assert exercises.check_importance_weighted(library_weighted) is True


def test_the_ode_log_prob_is_that_of_a_linear_flow():
    # v = a x for T = 1: x_T = eᵃ x, and the density of a Gaussian N(0, e^{−2a} I) at the data.
    a, x = 0.4, torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    divergence = torch.full((10, 6), 2 * a, dtype=torch.float64)
    dt = torch.full((10,), 0.1, dtype=torch.float64)
    zero = torch.zeros((), dtype=torch.float64)
    normal = torch.distributions.Normal(zero, zero + math.exp(-a))
    found = ode_log_prob(math.exp(a) * x, divergence, dt)
    assert found.tolist() == pytest.approx(normal.log_prob(x).sum(1).tolist(), abs=1e-9)


def test_the_excess_is_what_the_loss_has_too_much_where_g_is_small():
    # f = (t², 0) moves every particle alike: δB + δF = (f_{i+1} − f_i) Δt/(g √Δt), exactly.
    steps, g = 20, 0.01
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)

    def f(x, t):
        return t**2 * x.new_tensor([1.0, 0.0]).expand_as(x)

    schedule = Schedule.euler(times, g)
    model = DiffFlow(f, lambda x, t: torch.zeros_like(x), schedule).double()
    x, term = torch.zeros(4, 2, dtype=torch.float64), 0.0
    for i in range(steps):
        noise = torch.zeros_like(x)  # without noise the excess is all there is
        x_next = model.forward_step(x, i, noise)
        term = term + 0.5 * model.backward_noise(x, x_next, i).square().sum(1)
        x = x_next
    dt = times[1]
    rate = torch.stack([(f(x, b) - f(x, a)) / dt for a, b in zip(times, times[1:], strict=False)])
    expected = excess(rate, dt, g)
    assert term.detach().tolist() == pytest.approx(expected.tolist(), rel=1e-9)
