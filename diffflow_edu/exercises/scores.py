"""Notebook 02: Euler–Maruyama, the score of a Gaussian, the denoising loss, annealed Langevin.

A Langevin step and the noise levels of NCSN are checked here too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffflow_edu.exercises.checking import Slip, check_function

FLAT = Callable[[Tensor], Tensor]
"""A score as these exercises see it: x (B, d) -> (B, d)."""


def check_euler_maruyama(answer: Any) -> bool:
    """Exercise 1: answer(f, g, x, times, noise) are the particles at the last time, (B, d).

    dx = f(x, t) dt + g dw in steps. f: (x (B, d), t 0-d) -> (B, d); g: a number; x: (B, d) at
    times[0]; times: (N + 1,), rising, not evenly; noise: (N, B, d), standard normal.
    """
    draw = torch.Generator().manual_seed(5)
    cases = []
    for steps, d, g in ((4, 1, 0.7), (6, 3, 1.4)):
        times = (torch.rand(steps + 1, generator=draw, dtype=torch.float64) + 0.1).cumsum(0)
        x, noise = (
            torch.randn(shape, generator=draw, dtype=torch.float64)
            for shape in ((5, d), (steps, 5, d))
        )
        cases.append((lambda x, t: torch.sin(x + t) - x, g, x, times, noise))

    def walk(step: Callable[..., Tensor], order: Callable[[int], Any] = range) -> Any:
        """A loop whose step is step(f, g, x, times, i, z)."""

        def wrong(f: Any, g: float, x: Tensor, times: Tensor, noise: Tensor) -> Tensor:
            for i in order(len(noise)):
                x = step(f, g, x, times, i, noise[i])
            return x

        return wrong

    def moved(f: Any, g: float, x: Tensor, times: Tensor, i: int, z: Tensor) -> Tensor:
        dt = times[i + 1] - times[i]
        return x + f(x, times[i]) * dt + g * dt.sqrt() * z

    def with_scale(scale: Callable[[float, Tensor], Any]) -> Any:
        def step(f: Any, g: float, x: Tensor, times: Tensor, i: int, z: Tensor) -> Tensor:
            dt = times[i + 1] - times[i]
            return x + f(x, times[i]) * dt + scale(g, dt) * z

        return walk(step)

    def with_drift(drift: Callable[..., Tensor]) -> Any:
        def step(f: Any, g: float, x: Tensor, times: Tensor, i: int, z: Tensor) -> Tensor:
            dt = times[i + 1] - times[i]
            return x + drift(f, x, times, i, dt) + g * dt.sqrt() * z

        return walk(step)

    def from_the_start(f: Any, g: float, x: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        return moved(f, g, x, times, len(noise) - 1, noise[-1])

    def all_states(f: Any, g: float, x: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        states = [x]
        for i in range(len(noise)):
            states.append(moved(f, g, states[-1], times, i, noise[i]))
        return torch.stack(states)

    def equal_steps(f: Any, g: float, x: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        even = torch.linspace(float(times[0]), float(times[-1]), len(times), dtype=times.dtype)
        return walk(moved)(f, g, x, even, noise)

    slips = [
        Slip(
            with_scale(lambda g, dt: g * dt),
            "the noise grows with √Δt, not with Δt: variances add up, standard deviations do not.",
        ),
        Slip(
            with_scale(lambda g, dt: g),
            "the noise lacks its √Δt: with smaller steps the particle would be shaken more often, "
            "and as strongly.",
        ),
        Slip(
            with_scale(lambda g, dt: g**2 * dt.sqrt()),
            "g multiplies the noise once: g² Δt is the variance, g √Δt the standard deviation.",
        ),
        Slip(with_scale(lambda g, dt: dt.sqrt()), "the noise lacks its g."),
        Slip(
            with_scale(lambda g, dt: 0.0), "the noise is missing: this is Euler's method, no SDE."
        ),
        Slip(
            with_drift(lambda f, x, times, i, dt: f(x, times[i])),
            "the drift lacks its Δt: f is a velocity, f Δt the way it goes.",
        ),
        Slip(
            with_drift(lambda f, x, times, i, dt: -f(x, times[i]) * dt),
            "the drift has the wrong sign: in a time dt a particle moves by + f dt.",
        ),
        Slip(with_drift(lambda f, x, times, i, dt: 0 * x), "the drift is missing."),
        Slip(
            with_drift(lambda f, x, times, i, dt: f(x, times[i + 1]) * dt),
            "the drift is evaluated where the step begins, at times[i].",
        ),
        Slip(
            with_drift(lambda f, x, times, i, dt: f(x, times[0]) * dt),
            "the drift depends on the time: evaluate it at times[i] in step i.",
        ),
        Slip(
            from_the_start,
            "every step begins at the first x: let each begin where the one before it ended.",
        ),
        Slip(all_states, "these are the states of all times; return the last one."),
        Slip(
            walk(moved, lambda n: range(n - 1)),
            "the last step is missing: N + 1 times make N steps.",
        ),
        Slip(
            equal_steps,
            "the times need not be equally spaced: the step i is times[i + 1] − times[i] long.",
        ),
    ]
    praise = "right, Euler–Maruyama: with it any SDE of this course can be simulated."
    return check_function("euler_maruyama", answer, walk(moved), slips, cases, praise)


def check_annealed_langevin(answer: Any) -> bool:
    """Exercise 4: answer(score, sigmas, x, eta, noise) are samples of annealed Langevin.

    score: (x (B, d), sigma 0-d) -> (B, d); sigmas: (L,), rising; x: (B, d), where it begins; eta:
    the step length over σ²; noise: (L, K, B, d), K steps at each level. Tweedie's formula at σ_1
    comes last.
    """
    draw = torch.Generator().manual_seed(6)
    cases = []
    for levels, steps, d, eta in ((3, 2, 2, 0.3), (4, 3, 3, 0.1)):
        sigmas = (0.1 + torch.rand(levels, generator=draw, dtype=torch.float64)).cumsum(0)
        x, noise = (
            torch.randn(shape, generator=draw, dtype=torch.float64)
            for shape in ((5, d), (levels, steps, 5, d))
        )
        cases.append((lambda x, sigma: -torch.tanh(x) / (1 + sigma), sigmas, x, eta, noise))

    def walk(
        length: Callable[[float, Tensor], Any] = lambda eta, sigma: eta * sigma**2,
        scale: Callable[[Any], Any] = lambda eps: (2 * eps) ** 0.5,
        down: bool = True,
        last: float = 1.0,
        steps: int | None = None,
        at: int | None = None,
    ) -> Any:
        def wrong(score: Any, sigmas: Tensor, x: Tensor, eta: float, noise: Tensor) -> Tensor:
            order = range(len(sigmas))
            for i in reversed(order) if down else order:
                eps = length(eta, sigmas[i])
                for z in noise[i, :steps]:
                    s = score(x, sigmas[i if at is None else at])
                    x = x + eps * s + scale(eps) * z
            return x + last * sigmas[0] ** 2 * score(x, sigmas[0])

        return wrong

    slips = [
        Slip(
            walk(down=False),
            "begin with the widest level, the last of sigmas, and end with the narrowest.",
        ),
        Slip(
            walk(last=0.0),
            "the last step is missing: Tweedie's formula at σ_1, x + σ_1² s, removes the last "
            "noise.",
        ),
        Slip(
            walk(length=lambda eta, sigma: torch.as_tensor(eta)),
            "the step is as long at every level: it must be ε_i = η σ_i², small against the blur.",
        ),
        Slip(
            walk(length=lambda eta, sigma: eta * sigma),
            "the step is ε_i = η σ_i²: a step has the unit of x squared.",
        ),
        Slip(
            walk(scale=lambda eps: eps**0.5),
            "the noise is too weak: √(2ε), not √ε, keeps the balance.",
        ),
        Slip(walk(scale=lambda eps: 2 * eps), "the noise is √(2ε) z: its variance is 2ε."),
        Slip(
            walk(scale=lambda eps: 0.0),
            "the noise is missing: without it the particles climb to the nearest peak.",
        ),
        Slip(
            walk(scale=lambda eps: 1.0), "the noise lacks its √(2ε).",
        ),
        Slip(
            walk(steps=1),
            "one step a level so far: noise[i] holds the K draws of level i, so take K steps.",
        ),
        Slip(
            walk(at=0),
            "the score is evaluated at σ_1 at every level: ask score(x, sigmas[i]).",
        ),
        Slip(
            walk(at=-1),
            "the score is evaluated at the widest level throughout: ask score(x, sigmas[i]).",
        ),
        Slip(
            walk(last=0.5),
            "Tweedie's formula is x + σ_1² s, without the ½.",
        ),
    ]  # fmt: skip
    praise = "right: wide levels decide where a particle goes, narrow ones refine it."
    return check_function("annealed_langevin", answer, walk(), slips, cases, praise)


def check_gaussian_score(answer: Any) -> bool:
    """Exercise 2: answer(x, mean, std) is ∇ log N(x; mean, std² I), (B, d).

    x: (B, d); mean: (d,); std: a tensor with one number.
    """
    draw = torch.Generator().manual_seed(1)
    cases = [
        (
            torch.randn(6, d, generator=draw, dtype=torch.float64),
            torch.randn(d, generator=draw, dtype=torch.float64),
            torch.tensor(std, dtype=torch.float64),
        )
        for d, std in ((2, 0.5), (3, 1.7))
    ]
    slips = [
        Slip(
            lambda x, mean, std: (x - mean) / std**2,
            "the sign is turned: this points away from the mean. The score points uphill.",
        ),
        Slip(
            lambda x, mean, std: (mean - x) / std,
            "divide by the variance std², not by std: the exponent is −‖x − mean‖²/(2 std²).",
        ),
        Slip(
            lambda x, mean, std: mean - x,
            "the direction is right; how steep is it? Divide by the variance std².",
        ),
        Slip(
            lambda x, mean, std: (mean - x) / (2 * std**2),
            "too small by 2: the derivative of the square brings a 2 that cancels the ½.",
        ),
        Slip(
            lambda x, mean, std: 2 * (mean - x) / std**2,
            "too large by 2: the exponent has a factor ½, which cancels the 2 of the square.",
        ),
        Slip(
            lambda x, mean, std: -x / std**2,
            "this is the score of N(0, std² I): where is the mean?",
        ),
        Slip(
            lambda x, mean, std: -0.5 * (x - mean).square() / std**2,
            "this is the exponent, coordinate by coordinate: differentiate it with respect to x.",
        ),
        Slip(
            lambda x, mean, std: -0.5 * (x - mean).square().sum(1) / std**2,
            "this is the exponent: now differentiate it with respect to x.",
        ),
        Slip(
            lambda x, mean, std: (
                (mean - x)
                / std**2
                * (-0.5 * (x - mean).square().sum(1, keepdim=True) / std**2).exp()
                / (2 * torch.pi * std**2) ** (0.5 * x.shape[1])
            ),
            "this is ∇p, the slope of the density. The score is the slope of its logarithm, ∇p/p.",
        ),
    ]
    praise = "right: back to the mean, the more strongly the narrower the Gaussian."
    return check_function("gaussian_score", answer, _gaussian_score, slips, cases, praise)


def check_langevin_step(answer: Any) -> bool:
    """Answer(x, s, eps, z) is one Langevin step, x + ε s + √(2ε) z.

    x, s, z: (B, d), particles, score and standard normal noise; eps: a tensor with one number.
    """
    draw = torch.Generator().manual_seed(2)
    cases = [
        (
            *torch.randn(2, 6, 2, generator=draw, dtype=torch.float64),
            torch.tensor(eps, dtype=torch.float64),
            torch.randn(6, 2, generator=draw, dtype=torch.float64),
        )
        for eps in (0.01, 0.3)
    ]
    slips = [
        Slip(
            lambda x, s, eps, z: x + eps * s + eps.sqrt() * z,
            "the noise is too weak: √(2ε), not √ε, balances a pull of ε. (Song and Ermon write "
            "ε/2 and √ε, the same thing with ε twice as large.)",
        ),
        Slip(
            lambda x, s, eps, z: x + eps / 2 * s + eps.sqrt() * z,
            "this is Song and Ermon's ε, twice ours: here the pull is ε s and the noise √(2ε) z.",
        ),
        Slip(
            lambda x, s, eps, z: x + eps * s + 2 * eps * z,
            "random steps add up like √ε, not like ε: the noise is √(2ε) z.",
        ),
        Slip(
            lambda x, s, eps, z: x + eps * s + 2**0.5 * eps * z,
            "the ε of the noise stands under the root, too: √(2ε) z.",
        ),
        Slip(
            lambda x, s, eps, z: x + eps * s + z,
            "the noise lacks its √(2ε): with z alone, small steps would shake as much as large.",
        ),
        Slip(
            lambda x, s, eps, z: x + eps * s,
            "the noise is missing: this climbs to the nearest peak and stays there.",
        ),
        Slip(
            lambda x, s, eps, z: x - eps * s + (2 * eps).sqrt() * z,
            "the pull has the wrong sign: walk uphill, along the score.",
        ),
        Slip(
            lambda x, s, eps, z: x + s + (2 * eps).sqrt() * z,
            "the score lacks its ε: a small step takes a small part of it.",
        ),
        Slip(
            lambda x, s, eps, z: eps * s + (2 * eps).sqrt() * z,
            "this is how far to go: add it to x.",
        ),
    ]
    praise = "right: a pull of ε, a shake of √(2ε)."
    return check_function("langevin_step", answer, _langevin_step, slips, cases, praise)


def check_denoising_loss(answer: Any) -> bool:
    """Exercise 3: answer(score, x, sigma, noise) is the mean of ½‖s(x + σε) + ε/σ‖², 0-d.

    score: x (B, d) -> (B, d); x, noise: (B, d); sigma: a tensor with one number.
    """
    draw = torch.Generator().manual_seed(3)
    scores: tuple[FLAT, ...] = (lambda x: -x, lambda x: torch.sin(2 * x.flip(1)))
    cases = [
        (
            score,
            torch.randn(n, d, generator=draw, dtype=torch.float64),
            torch.tensor(sigma, dtype=torch.float64),
            torch.randn(n, d, generator=draw, dtype=torch.float64),
        )
        for score, sigma, n, d in zip(scores, (0.5, 1.6), (7, 5), (2, 3), strict=True)
    ]

    def per_particle(error: Tensor) -> Tensor:
        return 0.5 * error.square().sum(1)

    slips = [
        Slip(
            lambda score, x, sigma, noise: per_particle(
                score(x + sigma * noise) - noise / sigma
            ).mean(),
            "the target has the wrong sign: at x + σε the way back to x is −ε, so the score "
            "should be −ε/σ, and the error is s + ε/σ.",
        ),
        Slip(
            lambda score, x, sigma, noise: per_particle(
                score(x + sigma * noise) + noise / sigma**2
            ).mean(),
            "the target is −ε/σ, not −ε/σ²: the way back is −σε long, over σ² leaves one σ.",
        ),
        Slip(
            lambda score, x, sigma, noise: per_particle(score(x + sigma * noise) + noise).mean(),
            "the target lacks its 1/σ: this trains −ε, the noise, and not the score −ε/σ.",
        ),
        Slip(
            lambda score, x, sigma, noise: per_particle(score(x) + noise / sigma).mean(),
            "evaluate the score at the noisy point x + σε: at x nothing tells the noise.",
        ),
        Slip(
            lambda score, x, sigma, noise: per_particle(score(x + noise) + noise / sigma).mean(),
            "the noisy point is x + σε: the noise lacks its σ.",
        ),
        Slip(
            lambda score, x, sigma, noise: per_particle(score(x + sigma * noise) + noise / sigma),
            "one number per particle so far: take the mean.",
        ),
        Slip(
            lambda score, x, sigma, noise: (
                2 * per_particle(score(x + sigma * noise) + noise / sigma).mean()
            ),
            "the ½ is missing.",
        ),
        Slip(
            lambda score, x, sigma, noise: (
                (score(x + sigma * noise) + noise / sigma).square().mean()
            ),
            "this is the mean over all coordinates, as F.mse_loss takes it: right in two "
            "dimensions by chance. ½‖·‖² is half the sum over the d coordinates of a particle.",
        ),
        Slip(
            lambda score, x, sigma, noise: (
                per_particle(score(x + sigma * noise) + noise / sigma).mean() / x.shape[1]
            ),
            "sum over the coordinates before you take the mean over particles: ‖·‖² is a sum.",
        ),
        Slip(
            lambda score, x, sigma, noise: per_particle(
                score(x + sigma * noise) + noise / sigma
            ).sum(),
            "take the mean over the particles, not the sum.",
        ),
        Slip(
            lambda score, x, sigma, noise: (
                sigma**2 * per_particle(score(x + sigma * noise) + noise / sigma).mean()
            ),
            "this is weighted by σ², as NCSN does across levels; at one level leave it out.",
        ),
    ]
    praise = "right: the noise that was added tells the way back."
    return check_function("denoising_loss", answer, _denoising_loss, slips, cases, praise)


def check_noise_levels(answer: Any) -> bool:
    """Answer(levels, sigma_min, sigma_max) are σ_1 < … < σ_L in constant ratio, (L,).

    levels: a whole number, 2 or more; sigma_min, sigma_max: positive numbers.
    """
    cases = [(10, 0.01, 1.0), (7, 0.02, 5.0), (2, 0.5, 3.0)]

    def linear(levels: int, low: float, high: float) -> Tensor:
        return torch.linspace(low, high, levels, dtype=torch.float64)

    slips = [
        Slip(
            linear,
            "equal steps spend nearly all levels on the coarse end, and the first step from "
            "σ_min is a giant one. Make the ratio constant, not the difference.",
        ),
        Slip(
            lambda levels, low, high: _noise_levels(levels, low, high).flip(0),
            "they fall. Time runs from data to noise here: σ_1 is the smallest.",
        ),
        Slip(
            lambda levels, low, high: _noise_levels(levels + 1, low, high)[:-1],
            "the last level falls short of sigma_max: from σ_1 to σ_L there are L − 1 ratios.",
        ),
        Slip(
            lambda levels, low, high: _noise_levels(levels + 1, low, high),
            "these are L + 1 levels: from σ_1 to σ_L there are L − 1 ratios.",
        ),
        Slip(
            lambda levels, low, high: _noise_levels(levels, low, high).log(),
            "these are the logarithms, equally spaced: now take exp.",
        ),
        Slip(
            lambda levels, low, high: linear(levels, low**0.5, high**0.5).square(),
            "this makes the steps of √σ equal. Make the ratio of neighbours constant.",
        ),
        Slip(
            lambda levels, low, high: linear(levels, low**2, high**2).sqrt(),
            "this makes the steps of the variance equal. Make the ratio of neighbours constant.",
        ),
    ]
    praise = "right: every level is as far from the next as any other."
    return check_function("noise_levels", answer, _noise_levels, slips, cases, praise)


def _gaussian_score(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (mean - x) / std**2


def _langevin_step(x: Tensor, s: Tensor, eps: Tensor, z: Tensor) -> Tensor:
    return x + eps * s + (2 * eps).sqrt() * z


def _denoising_loss(score: FLAT, x: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    return 0.5 * (score(x + sigma * noise) + noise / sigma).square().sum(1).mean()


def _noise_levels(levels: int, sigma_min: float, sigma_max: float) -> Tensor:
    i = torch.arange(levels, dtype=torch.float64) / (levels - 1)
    return sigma_min * (sigma_max / sigma_min) ** i
