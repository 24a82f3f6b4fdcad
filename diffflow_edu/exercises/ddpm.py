"""Notebook 03: the jump into the noise, DDPM's sampler, a KL of two Gaussians, a DDIM step.

The drift of the reverse SDE is checked here too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffflow_edu.exercises.checking import Slip, check_function


def check_jump(answer: Any) -> bool:
    """Exercise 1: answer(x_0, eps, bar) is x_t = √ᾱ x_0 + √(1 − ᾱ) ε.

    x_0, eps: (B, d); bar: ᾱ, a 0-d tensor. Returns (B, d).
    """
    draw = torch.Generator().manual_seed(1)
    cases = []
    for bar in (0.8, 0.15):
        cases.append((*torch.randn(2, 5, 3, generator=draw, dtype=torch.float64), _number(bar)))
    slips = [
        Slip(
            lambda x, eps, bar: bar * x + (1 - bar) * eps,
            "the roots are missing: ᾱ and 1 − ᾱ are shares of the variance, and x_t adds standard "
            "deviations.",
        ),
        Slip(
            lambda x, eps, bar: bar * x + (1 - bar).sqrt() * eps,
            "x_0 is multiplied by √ᾱ, not by ᾱ: then √ᾱ² + √(1 − ᾱ)² = 1, and the variance stays.",
        ),
        Slip(
            lambda x, eps, bar: bar.sqrt() * x + (1 - bar) * eps,
            "the noise is multiplied by √(1 − ᾱ): its variance is 1 − ᾱ.",
        ),
        Slip(
            lambda x, eps, bar: bar.sqrt() * x + (1 - bar.sqrt()) * eps,
            "1 − √ᾱ is not √(1 − ᾱ): subtract first, then take the root.",
        ),
        Slip(
            lambda x, eps, bar: _jump(eps, x, bar),
            "data and noise have changed places: ᾱ = 1 must give x_0 back.",
        ),
        Slip(
            lambda x, eps, bar: x + (1 - bar).sqrt() * eps,
            "x_0 does not shrink: with noise added and nothing taken away the variance would grow.",
        ),
        Slip(lambda x, eps, bar: bar.sqrt() * x, "the noise is missing."),
    ]
    praise = "right: one jump instead of a thousand steps."
    return check_function("jump", answer, _jump, slips, cases, praise)


def check_ddpm_sample(answer: Any) -> bool:
    """Exercise 2: answer(score, betas, x, noise) are DDPM's samples, (B, d), with b_i² = β_i.

    score: (x (B, d), i) -> (B, d), the score at t_i; betas: (N,); x: (B, d), at t_N; noise:
    (N, B, d), noise[i] that of the step from t_{i+1} to t_i. The step to the data adds none.
    """
    draw = torch.Generator().manual_seed(5)
    cases = []
    for steps, d in ((4, 2), (6, 3)):
        betas = 0.1 + 0.7 * torch.rand(steps, generator=draw, dtype=torch.float64)
        x = torch.randn(5, d, generator=draw, dtype=torch.float64)
        noise = torch.randn(steps, 5, d, generator=draw, dtype=torch.float64)
        cases.append((lambda x, i: torch.sin(x + i) - x, betas, x, noise))

    def walk(
        mean: Any = lambda x, beta, s: (x + beta * s) / (1 - beta).sqrt(),
        std: Any = lambda beta: beta.sqrt(),
        order: Any = lambda n: range(n - 1, -1, -1),
        at: int = 1,
        last_noise: bool = False,
    ) -> Any:
        def wrong(score: Any, betas: Tensor, x: Tensor, noise: Tensor) -> Tensor:
            for i in order(len(betas)):
                x = mean(x, betas[i], score(x, i + at))
                if i > 0 or last_noise:
                    x = x + std(betas[i]) * noise[i]
            return x

        return wrong

    slips = [
        Slip(walk(order=range), "the steps run from data to noise: begin with i = N − 1."),
        Slip(walk(last_noise=True), "the last step, i = 0, adds no noise."),
        Slip(walk(std=lambda beta: 0.0), "the noise is missing: its variance is β_i."),
        Slip(walk(std=lambda beta: beta), "the noise has the variance β_i: multiply by √β_i."),
        Slip(walk(std=lambda beta: 1.0), "the noise lacks its √β_i."),
        Slip(
            walk(at=0),
            "a step begins at x_{i+1}: evaluate the score there, score(x, i + 1).",
        ),
        Slip(
            walk(lambda x, beta, s: x + beta * s),
            "the mean lacks its 1/√(1 − β_i): the forward step shrank x_i, the way back undoes it.",
        ),
        Slip(
            walk(lambda x, beta, s: (x + beta * s) / (1 - beta)),
            "divide the mean by √(1 − β_i), not by 1 − β_i.",
        ),
        Slip(
            walk(lambda x, beta, s: (x + beta * s) * (1 - beta).sqrt()),
            "divide by √(1 − β_i): the way back undoes the shrinking.",
        ),
        Slip(
            walk(lambda x, beta, s: (x - beta * s) / (1 - beta).sqrt()),
            "the score has the wrong sign: the way back goes uphill, x + β_i s.",
        ),
        Slip(
            walk(lambda x, beta, s: (x + 0.5 * beta * s) / (1 - beta).sqrt()),
            "half of β s belongs to the probability flow, which adds no noise.",
        ),
        Slip(
            walk(lambda x, beta, s: (x + beta.sqrt() * s) / (1 - beta).sqrt()),
            "the score is multiplied by g² Δt = β_i, not by its root.",
        ),
        Slip(
            walk(lambda x, beta, s: x / (1 - beta).sqrt() + beta * s),
            "the 1/√(1 − β_i) multiplies the score term, too.",
        ),
        Slip(walk(order=lambda n: range(n - 1, 0, -1)), "the step i = 0, to the data, is missing."),
    ]
    praise = "right: DDPM's sampler, in ten lines."
    return check_function("ddpm_sample", answer, walk(), slips, cases, praise)


def check_reverse_drift(answer: Any) -> bool:
    """Answer(x, score, beta) is the drift of the reverse SDE, −½ β x − β score.

    x, score: (B, d); beta: β(t), a 0-d tensor. Returns (B, d).
    """
    draw = torch.Generator().manual_seed(2)
    cases = []
    for beta in (0.7, 12.0):
        cases.append((*torch.randn(2, 5, 3, generator=draw, dtype=torch.float64), _number(beta)))
    slips = [
        Slip(
            lambda x, s, beta: -0.5 * beta * x - 0.5 * beta * s,
            "half of the score is the probability flow, which adds no noise. The SDE shakes the "
            "particles on the way back, and takes the whole g² s to hold them together.",
        ),
        Slip(
            lambda x, s, beta: -0.5 * beta * x + beta * s,
            "the score has the wrong sign: the drift is f − g² s. Time runs down here, dt < 0, so "
            "− g² s dt moves the particles up the density.",
        ),
        Slip(
            lambda x, s, beta: 0.5 * beta * x + beta * s,
            "this is the drift's negative, what a step to smaller t adds. The SDE is written with "
            "dt, which is negative on the way back: f − g² s.",
        ),
        Slip(
            lambda x, s, beta: 0.5 * beta * x - beta * s,
            "the forward drift is f = − ½ β x: it shrinks. It enters as it is.",
        ),
        Slip(
            lambda x, s, beta: -beta * s,
            "the forward drift − ½ β x is missing: the reverse SDE keeps it.",
        ),
        Slip(
            lambda x, s, beta: -0.5 * beta * x,
            "the score is missing: this is still the forward drift.",
        ),
        Slip(
            lambda x, s, beta: -beta * x - beta * s,
            "f = − ½ β x, with a half: that is what keeps the variance where g² = β.",
        ),
        Slip(
            lambda x, s, beta: -0.5 * beta * x - beta.sqrt() * s,
            "the score is multiplied by g² = β, not by g = √β.",
        ),
    ]
    praise = "right, that is Anderson's reverse drift f − g² s."
    return check_function("reverse_drift", answer, _reverse_drift, slips, cases, praise)


def check_gaussian_kl(answer: Any) -> bool:
    """Exercise 3: answer(mean_1, var_1, mean_2, var_2) is KL(N(m₁, v₁ I) ‖ N(m₂, v₂ I)), nats.

    mean_1, mean_2: (B, d); var_1, var_2: 0-d tensors. Returns (B,).
    """
    draw = torch.Generator().manual_seed(3)
    cases = []
    for d, v_1, v_2 in ((2, 0.3, 0.8), (5, 1.7, 0.6)):
        means = torch.randn(2, 4, d, generator=draw, dtype=torch.float64)
        cases.append((means[0], _number(v_1), means[1], _number(v_2)))

    def parts(m: Tensor, v: Tensor, n: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
        """‖m − n‖²/w, v/w, log(v/w) and d."""
        return (m - n).square().sum(1) / w, v / w, (v / w).log(), m.shape[1]

    def slip(wrong: Any, message: str) -> Slip:
        return Slip(lambda *case: wrong(*parts(*case)), message)

    slips = [
        Slip(
            lambda m, v, n, w: _gaussian_kl(n, w, m, v),
            "this is KL(2 ‖ 1), the other way round: what divides is the variance of the second.",
        ),
        slip(
            lambda far, ratio, log, d: 0.5 * (far + ratio - 1 - log),
            "d is missing: each of the d coordinates pays for its own variance.",
        ),
        slip(
            lambda far, ratio, log, d: far + d * (ratio - 1 - log),
            "too large by 2: every term carries the ½ of the Gaussian's exponent.",
        ),
        slip(
            lambda far, ratio, log, d: 0.5 * (far + d * (ratio - 1 + log)),
            "the log has the wrong sign: ratio − 1 + log ratio may be negative, and a KL may not.",
        ),
        slip(
            lambda far, ratio, log, d: 0.5 * (far + d * (ratio - log)),
            "− d/2 is missing: a Gaussian must be at distance 0 from itself.",
        ),
        slip(
            lambda far, ratio, log, d: 0.5 * (far + d * (ratio - 1)),
            "the log of the variances is missing.",
        ),
        slip(
            lambda far, ratio, log, d: 0 * far + 0.5 * d * (ratio - 1 - log),
            "the means are missing: this is what the variances alone cost.",
        ),
        slip(
            lambda far, ratio, log, d: 0.5 * far,
            "this is what the means cost; where the variances differ there is more to pay.",
        ),
        Slip(
            lambda m, v, n, w: (
                _gaussian_kl(m, v, n, w) + (m - n).square().sum(1) * (1 / v - 1 / w) / 2
            ),
            "the distance of the means is measured in units of var_2, the model's, not of var_1.",
        ),
        Slip(
            lambda m, v, n, w: _gaussian_kl(n, w, m, v),
            "the two Gaussians have changed places: the mean is over the first, so var_2 divides.",
        ),
        Slip(
            lambda m, v, n, w: _gaussian_kl(m, v, n, w).mean(),
            "one number per particle, please: keep the B apart, shape (B,).",
        ),
        Slip(
            lambda m, v, n, w: _gaussian_kl(m, v, n, w) / m.shape[1],
            "sum over the d coordinates, do not average: log densities of independent ones add up.",
        ),
        Slip(
            lambda m, v, n, w: _gaussian_kl(m, v**2, n, w**2),
            "var_1 and var_2 are variances already: do not square them.",
        ),
    ]
    praise = "right: every term of the bound but one is this number."
    return check_function("gaussian_kl", answer, _gaussian_kl, slips, cases, praise)


def check_ddim_step(answer: Any) -> bool:
    """Exercise 4: answer(x, eps, bar, bar_before) is the DDIM step without noise (η = 0).

    x: (B, d) at time t_{i+1}, eps: the noise that the network sees in it; bar, bar_before: ᾱ at
    t_{i+1} and at t_i, 0-d. Returns x_i, (B, d).
    """
    draw = torch.Generator().manual_seed(4)
    cases = []
    for bar, before in ((0.2, 0.5), (0.7, 0.95)):
        tensors = torch.randn(2, 5, 3, generator=draw, dtype=torch.float64)
        cases.append((*tensors, _number(bar), _number(before)))

    def clean(x: Tensor, eps: Tensor, bar: Tensor) -> Tensor:
        return (x - (1 - bar).sqrt() * eps) / bar.sqrt()

    slips = [
        Slip(
            lambda x, eps, bar, before: clean(x, eps, bar),
            "this is x̂_0, the guess of the data: now put it at t_i, with less of the same noise.",
        ),
        Slip(
            lambda x, eps, bar, before: before.sqrt() * clean(x, eps, bar),
            "the noise is missing: at t_i there is still √(1 − ᾱ_i) of it, the same ε.",
        ),
        Slip(
            lambda x, eps, bar, before: _jump(clean(x, eps, bar), eps, bar),
            "you jumped back to where you came from: x̂_0 and ε go to t_i, with bar_before.",
        ),
        Slip(
            lambda x, eps, bar, before: before.sqrt() * clean(x, eps, bar) + (1 - bar).sqrt() * eps,
            "the noise at t_i is √(1 − ᾱ_i) ε, with bar_before; yours is that of t_{i+1}.",
        ),
        Slip(
            lambda x, eps, bar, before: _ddim_step(x, eps, before, bar),
            "bar and bar_before have changed places: solve at t_{i+1}, jump to t_i.",
        ),
        Slip(
            lambda x, eps, bar, before: clean(x, eps, bar) + (1 - before).sqrt() * eps,
            "x̂_0 must be shrunk by √ᾱ_i on its way to t_i.",
        ),
        Slip(
            lambda x, eps, bar, before: _jump((x - (1 - bar).sqrt() * eps), eps, before),
            "x̂_0 lacks its 1/√ᾱ: x = √ᾱ x_0 + √(1 − ᾱ) ε, solved for x_0.",
        ),
        Slip(
            lambda x, eps, bar, before: _jump(
                (x + (1 - bar).sqrt() * eps) / bar.sqrt(), eps, before
            ),
            "the noise is to be taken away from x, not added once more.",
        ),
    ]
    praise = "right: guess the data, jump back in with the same noise."
    return check_function("ddim_step", answer, _ddim_step, slips, cases, praise)


def _jump(x_0: Tensor, eps: Tensor, bar: Tensor) -> Tensor:
    return bar.sqrt() * x_0 + (1 - bar).sqrt() * eps


def _reverse_drift(x: Tensor, score: Tensor, beta: Tensor) -> Tensor:
    return -0.5 * beta * x - beta * score


def _gaussian_kl(mean_1: Tensor, var_1: Tensor, mean_2: Tensor, var_2: Tensor) -> Tensor:
    ratio, d = var_1 / var_2, mean_1.shape[1]
    far = (mean_1 - mean_2).square().sum(1) / var_2
    return 0.5 * (far + d * (ratio - 1 - ratio.log()))


def _ddim_step(x: Tensor, eps: Tensor, bar: Tensor, bar_before: Tensor) -> Tensor:
    clean = (x - (1 - bar).sqrt() * eps) / bar.sqrt()
    return bar_before.sqrt() * clean + (1 - bar_before).sqrt() * eps


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
