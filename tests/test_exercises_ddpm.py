"""Solutions of notebook 03's exercises, and wrong answers with the words that they meet."""

from __future__ import annotations

import math

import torch
from torch.distributions import Independent, Normal, kl_divergence

from diffflow_edu import DDPM, Schedule, exercises
from diffflow_edu.processes.samplers import reverse_sde
from diffflow_edu.schedules import LinearBeta


def jump(x_0, eps, bar):
    return x_0 * bar**0.5 + eps * (1 - bar) ** 0.5


def reverse_drift(x, score, beta):
    return -beta * (x / 2 + score)


def gaussian_kl(m, v, n, w):
    d = m.shape[1]
    return (m - n).square().sum(1) / (2 * w) + d / 2 * (v / w - 1 - math.log(v / w))


def clean(x, eps, bar):
    return (x - eps * (1 - bar) ** 0.5) / bar**0.5


def ddim_step(x, eps, bar, before):
    return jump(clean(x, eps, bar), eps, before)


def ddpm_sample(score, betas, x, noise, last=0.0):
    for i in range(len(betas) - 1, -1, -1):
        std = betas[i] ** 0.5 if i > 0 else last
        x = (x + betas[i] * score(x, i + 1)) / (1 - betas[i]) ** 0.5 + std * noise[i]
    return x


def sampler(step, at=1):
    """step(x, beta, s, z): the wrong step; the last without noise."""

    def answer(score, betas, x, noise):
        for i in range(len(betas) - 1, -1, -1):
            x = step(x, betas[i], score(x, i + at), noise[i] * (i > 0))
        return x

    return answer


SOLUTIONS = {
    "check_ddpm_sample": ddpm_sample,
    "check_jump": jump,
    "check_reverse_drift": reverse_drift,
    "check_gaussian_kl": gaussian_kl,
    "check_ddim_step": ddim_step,
}

# (check, wrong answer, words of the message that it must get)
PLANTED = [
    (
        "check_ddpm_sample",
        sampler(lambda x, b, s, z: (x + b * s) / (1 - b) ** 0.5),
        "the noise is missing",
    ),
    (
        "check_ddpm_sample",
        sampler(lambda x, b, s, z: (x + b * s) / (1 - b) ** 0.5 + b * z),
        "multiply by √β_i",
    ),
    (
        "check_ddpm_sample",
        sampler(lambda x, b, s, z: (x + b * s) / (1 - b) ** 0.5 + z),
        "lacks its √β_i",
    ),
    (
        "check_ddpm_sample",
        sampler(lambda x, b, s, z: (x + b * s) / (1 - b) ** 0.5 + b**0.5 * z, at=0),
        "score(x, i + 1)",
    ),
    ("check_ddpm_sample", sampler(lambda x, b, s, z: x + b * s + b**0.5 * z), "the mean lacks its"),
    (
        "check_ddpm_sample",
        sampler(lambda x, b, s, z: (x + b * s) / (1 - b) + b**0.5 * z),
        "not by 1 − β_i",
    ),
    (
        "check_ddpm_sample",
        sampler(lambda x, b, s, z: (x - b * s) / (1 - b) ** 0.5 + b**0.5 * z),
        "goes uphill",
    ),
    (
        "check_ddpm_sample",
        sampler(lambda x, b, s, z: (x + b * s / 2) / (1 - b) ** 0.5 + b**0.5 * z),
        "the probability flow",
    ),
    (
        "check_ddpm_sample",
        sampler(lambda x, b, s, z: x / (1 - b) ** 0.5 + b * s + b**0.5 * z),
        "the score term, too",
    ),
    (
        "check_ddpm_sample",
        lambda s, b, x, z: ddpm_sample(s, b, x, z, last=b[0] ** 0.5),
        "adds no noise",
    ),
    (
        "check_ddpm_sample",
        lambda s, b, x, z: ddpm_sample(s, b, x, torch.randn_like(z)),
        "another answer each time",
    ),
    (
        "check_gaussian_kl",
        lambda m, v, n, w: (
            0.5 * ((m - n).square().sum(1) / v + m.shape[1] * (v / w - 1 - (v / w).log()))
        ),
        "not of var_1",
    ),
    (
        "check_ddim_step",
        lambda x, e, bar, before: (
            before**0.5 * (x - (1 - bar) ** 0.5 * e) / bar**0.5 + (1 - bar) ** 0.5 * e
        ),
        "yours is that of t_{i+1}",
    ),
    ("check_jump", lambda x, e, a: a * x + (1 - a) * e, "the roots are missing"),
    ("check_jump", lambda x, e, a: a * x + (1 - a) ** 0.5 * e, "by √ᾱ, not by ᾱ"),
    ("check_jump", lambda x, e, a: a**0.5 * x + (1 - a) * e, "its variance is 1 − ᾱ"),
    ("check_jump", lambda x, e, a: a**0.5 * x + (1 - a**0.5) * e, "subtract first"),
    ("check_jump", lambda x, e, a: jump(e, x, a), "have changed places: ᾱ = 1"),
    ("check_jump", lambda x, e, a: x + (1 - a) ** 0.5 * e, "x_0 does not shrink"),
    ("check_jump", lambda x, e, a: a**0.5 * x, "the noise is missing"),
    ("check_reverse_drift", lambda x, s, b: -b / 2 * (x + s), "the probability flow"),
    ("check_reverse_drift", lambda x, s, b: -b * (x / 2 - s), "the score has the wrong sign"),
    ("check_reverse_drift", lambda x, s, b: b * (x / 2 + s), "this is the drift's negative"),
    ("check_reverse_drift", lambda x, s, b: b * x / 2 - b * s, "enters as it is"),
    ("check_reverse_drift", lambda x, s, b: -b * s, "the forward drift − ½ β x is missing"),
    ("check_reverse_drift", lambda x, s, b: -b * x / 2, "still the forward drift"),
    ("check_reverse_drift", lambda x, s, b: -b * (x + s), "with a half"),
    ("check_reverse_drift", lambda x, s, b: -b * x / 2 - b**0.5 * s, "not by g = √β"),
    ("check_gaussian_kl", lambda m, v, n, w: gaussian_kl(n, w, m, v), "the other way round"),
    (
        "check_gaussian_kl",
        lambda m, v, n, w: (m - n).square().sum(1) / (2 * w) + (v / w - 1 - math.log(v / w)) / 2,
        "d is missing: each",
    ),
    ("check_gaussian_kl", lambda *case: 2 * gaussian_kl(*case), "too large by 2"),
    (
        "check_gaussian_kl",
        lambda m, v, n, w: gaussian_kl(m, v, n, w) + m.shape[1] * math.log(v / w),
        "the log has the wrong sign",
    ),
    (
        "check_gaussian_kl",
        lambda m, v, n, w: gaussian_kl(m, v, n, w) + m.shape[1] / 2,
        "− d/2 is missing",
    ),
    (
        "check_gaussian_kl",
        lambda m, v, n, w: gaussian_kl(m, v, n, w) + m.shape[1] / 2 * math.log(v / w),
        "the log of the variances is missing",
    ),
    (
        "check_gaussian_kl",
        lambda m, v, n, w: gaussian_kl(m, v, m, w),
        "the means are missing",
    ),
    (
        "check_gaussian_kl",
        lambda m, v, n, w: (m - n).square().sum(1) / (2 * w),
        "this is what the means cost",
    ),
    ("check_gaussian_kl", lambda *case: gaussian_kl(*case).mean(), "keep the B apart"),
    (
        "check_gaussian_kl",
        lambda m, v, n, w: gaussian_kl(m, v, n, w) / m.shape[1],
        "do not average",
    ),
    (
        "check_gaussian_kl",
        lambda m, v, n, w: gaussian_kl(m, v**2, n, w**2),
        "do not square them",
    ),
    ("check_ddim_step", lambda x, e, a, b: clean(x, e, a), "this is x̂_0"),
    ("check_ddim_step", lambda x, e, a, b: b**0.5 * clean(x, e, a), "the noise is missing: at t_i"),
    ("check_ddim_step", lambda x, e, a, b: x, "you jumped back to where you came from"),
    ("check_ddim_step", lambda x, e, a, b: ddim_step(x, e, b, a), "have changed places: solve"),
    (
        "check_ddim_step",
        lambda x, e, a, b: clean(x, e, a) + (1 - b) ** 0.5 * e,
        "x̂_0 must be shrunk",
    ),
    (
        "check_ddim_step",
        lambda x, e, a, b: jump(x - (1 - a) ** 0.5 * e, e, b),
        "x̂_0 lacks its 1/√ᾱ",
    ),
    ("check_ddim_step", lambda x, e, a, b: jump(clean(x, -e, a), e, b), "not added once more"),
]


# The truths of the checks are those of the library and of torch -----------------------------------


def test_the_kl_is_that_of_torch():
    def library(m, v, n, w):
        first, second = Normal(m, v.sqrt()), Normal(n, w.sqrt())
        return kl_divergence(Independent(first, 1), Independent(second, 1))

    assert exercises.check_gaussian_kl(library) is True


def test_the_reverse_drift_is_that_of_the_sampler():
    """One step of the library, its field chosen so that it returns the case's own numbers."""

    def library_drift(x, score, beta):
        # One Euler step of length dt, without noise, from a T at which β(T) is beta.
        sde = LinearBeta(beta_max=float(beta))
        schedule = Schedule.at([0.0, 0.5, 1.0], sde)
        model = DDPM(lambda y, s: score, schedule, prediction="score").double()
        times = torch.tensor([1 - 1e-3, 1.0], dtype=torch.float64)
        path = reverse_sde(model, len(x), times=times, shape=x.shape[1:], seed=0)
        drift = (path.end - path.start) / 1e-3
        return drift + sde.linear(times[1]) * (x - path.end)  # its x is drawn, the case's is given

    assert exercises.check_reverse_drift(library_drift) is True
