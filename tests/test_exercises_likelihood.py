"""Solutions of the exercises of notebooks 07 and 12, and wrong answers with what they meet."""

from __future__ import annotations

import math

import pytest
import torch

from diffflow_edu import DiffFlow, Schedule, exercises
from diffflow_edu.processes.likelihood import family_drift as library_drift
from diffflow_edu.processes.likelihood import importance_weighted as library_weighted
from diffflow_edu.processes.likelihood import theorem_one


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


def all_bounds(bound, x, noise):
    return torch.stack([bound(x, each) for each in noise])


def tight_bound(bound, x, noise):
    return importance_weighted(all_bounds(bound, x, noise))


def combined(wrong):
    """An answer that combines the K path bounds in another way."""
    return lambda *case: wrong(all_bounds(*case))


def raw_nats(nats, W):
    return nats - W.det().abs().log()


def best_look(curve):
    best = min(range(len(curve)), key=lambda i: curve[i, 2])
    return curve[best][[0, 3]]


def look(choose, column=3):
    return lambda c: c[int(choose(c))][[0, column]]


def compare(a, b):
    gain = a - b
    return torch.stack([gain.mean(), (gain.var() / len(gain)).sqrt()])


def with_error(error, gain=lambda a, b: (a - b).mean()):
    return lambda a, b: torch.stack([gain(a, b), error(a, b)])


SOLUTIONS = {
    "check_family_drift": family_drift,
    "check_ode_log_prob": ode_log_prob,
    "check_importance_weighted": importance_weighted,
    "check_excess": excess,
    "check_tight_bound": tight_bound,
    "check_raw_nats": raw_nats,
    "check_best_look": best_look,
    "check_compare": compare,
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
    (
        "check_family_drift",
        lambda f, s, g, lam: -family_drift(f, s, g, lam),
        "on the reversed clock",
    ),
    ("check_tight_bound", combined(lambda b: b.mean(0)), "the mean of the K path bounds"),
    ("check_tight_bound", combined(lambda b: -torch.logsumexp(-b, 0)), "log K is missing"),
    ("check_tight_bound", combined(lambda b: b.amin(0)), "the best of K paths is no bound"),
    ("check_tight_bound", combined(lambda b: -importance_weighted(b)), "this estimates log p"),
    ("check_tight_bound", combined(lambda b: b[0]), "this is one path only"),
    ("check_tight_bound", combined(lambda b: b[-1]), "only the last path is left"),
    ("check_tight_bound", combined(lambda b: importance_weighted(b[1:])), "the first path is"),
    ("check_tight_bound", combined(lambda b: importance_weighted(b[:-1])), "the last path is m"),
    ("check_tight_bound", combined(lambda b: importance_weighted(b).mean()), "keep the B"),
    (
        "check_tight_bound",
        combined(lambda b: importance_weighted(b.reshape(-1, 1))[0]),
        "not over the particles",
    ),
    ("check_tight_bound", lambda bound, x, noise: bound(x, noise.mean(0)), "is not a noise"),
    ("check_tight_bound", all_bounds, "now combine them"),
    ("check_tight_bound", combined(lambda b: -(-b).exp().mean(0).log()), "exp(−1500) is 0"),
    ("check_raw_nats", lambda n, W: 2 * n - raw_nats(n, W), "the sign: where W stretches"),
    ("check_raw_nats", lambda n, W: n, "the change of variables is missing"),
    ("check_raw_nats", lambda n, W: n - W.det().abs(), "the log is missing"),
    ("check_raw_nats", lambda n, W: n - W.det(), "take |det W|, and its log"),
    ("check_raw_nats", lambda n, W: n - W.diagonal().abs().log().sum(), "of a triangular W only"),
    ("check_raw_nats", lambda n, W: n + (raw_nats(n, W) - n) / len(W), "not divided by d"),
    ("check_raw_nats", lambda n, W: n + (raw_nats(n, W) - n) * len(W), "once for each coordinate"),
    ("check_raw_nats", lambda n, W: raw_nats(n, W) / math.log(2), "these are bits"),
    ("check_raw_nats", lambda n, W: raw_nats(n, W).mean(), "one number a row"),
    ("check_raw_nats", lambda n, W: n + (raw_nats(n, W) - n) / 2, "belongs to a covariance"),
    ("check_raw_nats", lambda n, W: n - W.logdet(), "det W may be negative"),
    ("check_best_look", look(lambda c: c[:, 1].argmin()), "training rows always choose"),
    ("check_best_look", look(lambda c: c[:, 3].argmin()), "the test rows must not choose"),
    ("check_best_look", look(lambda c: -1), "this is the last look"),
    (
        "check_best_look",
        look(lambda c: next(i for i in range(len(c)) if c[i + 1, 2] > c[i, 2])),
        "the first rise of validation",
    ),
    ("check_best_look", look(lambda c: c[:, 2].argmin(), 2), "report the *test* value"),
    ("check_best_look", look(lambda c: c[:, 2].argmin(), 1), "not that of training"),
    (
        "check_best_look",
        lambda c: torch.stack([c[:, 2].argmin().double(), best_look(c)[1]]),
        "the first number is the row",
    ),
    ("check_best_look", look(lambda c: c[:, 2].argmax()), "better where it is lower"),
    ("check_best_look", lambda c: best_look(c).flip(0), "first the step, then"),
    ("check_best_look", look(lambda c: (c[:, 2] - c[:, 1]).argmin()), "choose by validation alone"),
    (
        "check_compare",
        with_error(lambda a, b: ((a.var() + b.var()) / len(a)).sqrt()),
        "a hard row is hard for both",
    ),
    (
        "check_compare",
        with_error(lambda a, b: compare(a, b)[1], lambda a, b: (b - a).mean()),
        "so b gains a − b",
    ),
    ("check_compare", with_error(lambda a, b: (a - b).std()), "the spread of single rows"),
    ("check_compare", with_error(lambda a, b: (a - b).std() / len(a)), "falls with √n"),
    ("check_compare", with_error(lambda a, b: (a - b).var() / len(a)), "take its root"),
    (
        "check_compare",
        with_error(lambda a, b: compare(a, b)[1], lambda a, b: (a - b).sum()),
        "a mean over rows",
    ),
    (
        "check_compare",
        with_error(lambda a, b: b.std() / len(b) ** 0.5, lambda a, b: b.mean()),
        "this is b alone",
    ),
    (
        "check_compare",
        with_error(lambda a, b: (a.std() - b.std()).abs() / len(a) ** 0.5),
        "spreads do not subtract",
    ),
    ("check_compare", lambda a, b: compare(a, b).flip(0), "first the gain"),
    ("check_compare", lambda a, b: a - b, "the gains row by row"),
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


def test_what_equation_b_leaves_out_without_noise_is_a_share_of_order_dt():
    """The second term of the expansion against ½‖δB‖² of the walk without noise, for two g."""
    matrix = torch.tensor([[0.8, 0.5], [-0.6, 0.4]], dtype=torch.float64)

    def bend(x, t):
        return torch.tanh(x @ matrix.T) * (1 + 0.5 * t)

    cloud = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = {}
    for steps in (10, 100):
        x, second, dt = cloud, 0.0, 1 / steps
        for i in range(steps):
            t, f = i * dt, bend(x, i * dt)
            rate = (bend(x + 1e-4 * f, t + 1e-4) - bend(x - 1e-4 * f, t - 1e-4)) / 2e-4
            second = second + dt * float(rate.square().sum(1).mean())
            x = x + dt * f
        found = theorem_one(bend, cloud, steps=(steps,), g=(0.1, 0.001))
        ratio = found.excess[0] / (0.5 * (dt / found.g) ** 2 * second)
        assert ratio[0] == pytest.approx(float(ratio[1]), rel=1e-6)  # the share knows no g
        shares[steps] = abs(float(ratio[0]) - 1)
    assert shares[10] < 0.02 and 6 < shares[10] / shares[100] < 15
