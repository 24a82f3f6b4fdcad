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


def euler_maruyama(f, g, x, times, noise):
    for t, dt, z in zip(times, times.diff(), noise, strict=False):
        x = x + dt * f(x, t) + g * dt**0.5 * z
    return x


def em_with(step):
    """A loop with a step of its own: step(f, g, x, t, dt, z)."""

    def answer(f, g, x, times, noise):
        for i, z in enumerate(noise):
            x = step(f, g, x, times[i], times[i + 1] - times[i], z)
        return x

    return answer


def annealed_langevin(score, sigmas, x, eta, noise):
    for sigma, draws in zip(sigmas.flip(0), noise.flip(0), strict=True):
        for z in draws:
            x = x + eta * sigma**2 * score(x, sigma) + sigma * math.sqrt(2 * eta) * z
    return x + sigmas[0] ** 2 * score(x, sigmas[0])


def al_with(eps=lambda eta, sigma: eta * sigma**2, std=lambda e: (2 * e) ** 0.5, last=True, k=99):
    def answer(score, sigmas, x, eta, noise):
        for i in range(len(sigmas) - 1, -1, -1):
            for z in noise[i][:k]:
                e = eps(eta, sigmas[i])
                x = x + e * score(x, sigmas[i]) + std(e) * z
        return x + last * sigmas[0] ** 2 * score(x, sigmas[0])

    return answer


SOLUTIONS = {
    "check_euler_maruyama": euler_maruyama,
    "check_annealed_langevin": annealed_langevin,
    "check_gaussian_score": gaussian_score,
    "check_langevin_step": langevin_step,
    "check_denoising_loss": denoising_loss,
    "check_noise_levels": noise_levels,
}


def density(x, mean, std):
    return torch.distributions.Normal(mean, std).log_prob(x).sum(1, keepdim=True).exp()


# (check, wrong answer, words of the message that it must get)
PLANTED = [
    (
        "check_euler_maruyama",
        em_with(lambda f, g, x, t, dt, z: x + f(x, t) * dt + g * dt * z),
        "not with Δt",
    ),
    (
        "check_euler_maruyama",
        em_with(lambda f, g, x, t, dt, z: x + f(x, t) * dt + g * z),
        "lacks its √Δt",
    ),
    (
        "check_euler_maruyama",
        em_with(lambda f, g, x, t, dt, z: x + f(x, t) * dt + g**2 * dt**0.5 * z),
        "multiplies the noise once",
    ),
    (
        "check_euler_maruyama",
        em_with(lambda f, g, x, t, dt, z: x + f(x, t) * dt + dt**0.5 * z),
        "lacks its g",
    ),
    ("check_euler_maruyama", em_with(lambda f, g, x, t, dt, z: x + f(x, t) * dt), "no SDE"),
    (
        "check_euler_maruyama",
        em_with(lambda f, g, x, t, dt, z: x + f(x, t) + g * dt**0.5 * z),
        "the drift lacks its Δt",
    ),
    (
        "check_euler_maruyama",
        em_with(lambda f, g, x, t, dt, z: x - f(x, t) * dt + g * dt**0.5 * z),
        "wrong sign",
    ),
    (
        "check_euler_maruyama",
        em_with(lambda f, g, x, t, dt, z: x + g * dt**0.5 * z),
        "the drift is missing",
    ),
    (
        "check_euler_maruyama",
        em_with(lambda f, g, x, t, dt, z: x + f(x, t + dt) * dt + g * dt**0.5 * z),
        "where the step begins",
    ),
    (
        "check_euler_maruyama",
        lambda f, g, x, times, noise: em_with(
            lambda f, g, x, t, dt, z: x + f(x, times[0]) * dt + g * dt**0.5 * z
        )(f, g, x, times, noise),
        "depends on the time",
    ),
    (
        "check_euler_maruyama",
        lambda f, g, x, times, noise: euler_maruyama(f, g, x, times[:-1], noise[:-1]),
        "the last step is missing",
    ),
    (
        "check_euler_maruyama",
        lambda f, g, x, times, noise: euler_maruyama(
            f, g, x, torch.linspace(times[0], times[-1], len(times)).double(), noise
        ),
        "equally spaced",
    ),
    (
        "check_euler_maruyama",
        lambda f, g, x, times, noise: euler_maruyama(f, g, x, times, torch.randn_like(noise)),
        "another answer each time",
    ),
    (
        "check_annealed_langevin",
        lambda s, sigmas, x, eta, z: annealed_langevin(s, sigmas.flip(0), x, eta, z.flip(0)),
        "off by up to",
    ),
    ("check_annealed_langevin", al_with(last=False), "the last step is missing"),
    ("check_annealed_langevin", al_with(eps=lambda eta, sigma: eta), "as long at every level"),
    (
        "check_annealed_langevin",
        al_with(eps=lambda eta, sigma: eta * sigma),
        "the unit of x squared",
    ),
    ("check_annealed_langevin", al_with(std=lambda e: e**0.5), "the noise is too weak"),
    ("check_annealed_langevin", al_with(std=lambda e: 2 * e), "its variance is 2ε"),
    ("check_annealed_langevin", al_with(std=lambda e: 0.0), "the noise is missing"),
    ("check_annealed_langevin", al_with(std=lambda e: 1.0), "the noise lacks its √(2ε)"),
    ("check_annealed_langevin", al_with(k=1), "one step a level"),
    (
        "check_annealed_langevin",
        lambda s, sigmas, x, eta, z: annealed_langevin(
            lambda x, _: s(x, sigmas[0]), sigmas, x, eta, z
        ),
        "evaluated at σ_1 at every level",
    ),
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
        "evaluate the score at the noisy point",
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
        lambda s, x, sigma, e: torch.nn.functional.mse_loss(s(x + sigma * e), -e / sigma),
        "right in two dimensions by chance",
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
