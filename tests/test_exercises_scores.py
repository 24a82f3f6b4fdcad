"""Solutions of notebook 02's exercises, and wrong answers with the words that they meet."""

from __future__ import annotations

import math

import torch


def gaussian_score(x, mean, std):
    return -(x - mean) / std**2


def langevin_step(x, s, eps, z):
    return x + eps * s + math.sqrt(2 * eps) * z


def denoising_loss(score, x, sigma, noise):
    return ((score(x + sigma * noise) + noise / sigma) ** 2).sum(dim=1).mean() / 2


def noise_levels(levels, low, high):
    return torch.logspace(math.log10(low), math.log10(high), levels, dtype=torch.float64)


SOLUTIONS = {
    "check_gaussian_score": gaussian_score,
    "check_langevin_step": langevin_step,
    "check_denoising_loss": denoising_loss,
    "check_noise_levels": noise_levels,
}


def density(x, mean, std):
    return torch.distributions.Normal(mean, std).log_prob(x).sum(1, keepdim=True).exp()


# (check, wrong answer, words of the message that it must get)
PLANTED = [
    ("check_gaussian_score", lambda x, m, std: (x - m) / std**2, "points away from the mean"),
    ("check_gaussian_score", lambda x, m, std: (m - x) / std, "divide by the variance std², not"),
    ("check_gaussian_score", lambda x, m, std: m - x, "how steep is it?"),
    ("check_gaussian_score", lambda x, m, std: (m - x) / std**2 / 2, "too small by 2"),
    ("check_gaussian_score", lambda x, m, std: 2 * (m - x) / std**2, "too large by 2"),
    ("check_gaussian_score", lambda x, m, std: -x / std**2, "where is the mean?"),
    (
        "check_gaussian_score",
        lambda x, m, std: -((x - m) ** 2) / (2 * std**2),
        "the exponent, coordinate by coordinate",
    ),
    (
        "check_gaussian_score",
        lambda x, m, std: -((x - m) ** 2).sum(1) / (2 * std**2),
        "this is the exponent: now differentiate",
    ),
    (
        "check_gaussian_score",
        lambda x, m, std: gaussian_score(x, m, std) * density(x, m, std),
        "this is ∇p, the slope of the density",
    ),
    ("check_langevin_step", lambda x, s, e, z: x + e * s + e**0.5 * z, "the noise is too weak"),
    (
        "check_langevin_step",
        lambda x, s, e, z: x + e * s / 2 + e**0.5 * z,
        "this is Song and Ermon's ε, twice ours",
    ),
    ("check_langevin_step", lambda x, s, e, z: x + e * s + 2 * e * z, "add up like √ε"),
    ("check_langevin_step", lambda x, s, e, z: x + e * s + 2**0.5 * e * z, "under the root, too"),
    ("check_langevin_step", lambda x, s, e, z: x + e * s + z, "the noise lacks its √(2ε)"),
    ("check_langevin_step", lambda x, s, e, z: x + e * s, "the noise is missing: this climbs"),
    ("check_langevin_step", lambda x, s, e, z: x - e * s + (2 * e) ** 0.5 * z, "walk uphill"),
    ("check_langevin_step", lambda x, s, e, z: x + s + (2 * e) ** 0.5 * z, "lacks its ε"),
    ("check_langevin_step", lambda x, s, e, z: e * s + (2 * e) ** 0.5 * z, "add it to x"),
    (
        "check_denoising_loss",
        lambda s, x, sigma, e: (s(x + sigma * e) - e / sigma).square().sum(1).mean() / 2,
        "the target has the wrong sign",
    ),
    (
        "check_denoising_loss",
        lambda s, x, sigma, e: (s(x + sigma * e) + e / sigma**2).square().sum(1).mean() / 2,
        "the target is −ε/σ, not −ε/σ²",
    ),
    (
        "check_denoising_loss",
        lambda s, x, sigma, e: (s(x + sigma * e) + e).square().sum(1).mean() / 2,
        "the target lacks its 1/σ",
    ),
    (
        "check_denoising_loss",
        lambda s, x, sigma, e: (s(x) + e / sigma).square().sum(1).mean() / 2,
        "ask for the score at the noisy point",
    ),
    (
        "check_denoising_loss",
        lambda s, x, sigma, e: (s(x + e) + e / sigma).square().sum(1).mean() / 2,
        "the noise lacks its σ",
    ),
    (
        "check_denoising_loss",
        lambda s, x, sigma, e: (s(x + sigma * e) + e / sigma).square().sum(1) / 2,
        "one number per particle so far",
    ),
    (
        "check_denoising_loss",
        lambda s, x, sigma, e: (s(x + sigma * e) + e / sigma).square().sum(1).mean(),
        "the ½ is missing",
    ),
    (
        "check_denoising_loss",
        lambda s, x, sigma, e: (s(x + sigma * e) + e / sigma).square().mean() / 2,
        "sum over the coordinates",
    ),
    (
        "check_denoising_loss",
        lambda s, x, sigma, e: (s(x + sigma * e) + e / sigma).square().sum() / 2,
        "not the sum",
    ),
    (
        "check_denoising_loss",
        lambda s, x, sigma, e: (sigma * s(x + sigma * e) + e).square().sum(1).mean() / 2,
        "weighted by σ², as NCSN does",
    ),
    ("check_noise_levels", lambda n, a, b: torch.linspace(a, b, n), "Make the ratio constant"),
    ("check_noise_levels", lambda n, a, b: noise_levels(n, b, a), "they fall"),
    (
        "check_noise_levels",
        lambda n, a, b: torch.tensor([a * (b / a) ** (i / n) for i in range(n)]),
        "falls short of sigma_max",
    ),
    (
        "check_noise_levels",
        lambda n, a, b: torch.tensor([a * (b / a) ** (i / n) for i in range(n + 1)]),
        "these are L + 1 levels",
    ),
    ("check_noise_levels", lambda n, a, b: noise_levels(n, a, b).log(), "now take exp"),
    (
        "check_noise_levels",
        lambda n, a, b: torch.linspace(a**0.5, b**0.5, n) ** 2,
        "the steps of √σ equal",
    ),
    (
        "check_noise_levels",
        lambda n, a, b: torch.linspace(a**2, b**2, n).double() ** 0.5,
        "the steps of the variance equal",
    ),
]
