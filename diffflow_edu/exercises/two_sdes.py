"""Notebook 04: one step, the backward noise, the constant, and the bound of a path.

Each truth is the paper's equation; each slip is a wrong answer with the sentence that teaches.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from diffflow_edu.exercises.checking import Slip, check_function
from diffflow_edu.processes.base import standard_normal_log_prob


def check_forward_step(answer: Any) -> bool:
    """Exercise 1, equation 11: answer(x, f, dt, g, noise) is x_{i+1}.

    x, f, noise: (B, d), f the drift's value at x; dt, g: 0-d tensors. Returns (B, d).
    """
    draw = torch.Generator().manual_seed(1)
    cases = []
    for dt, g in ((0.3, 0.7), (0.04, 1.6)):
        x, f, noise = torch.randn(3, 5, 3, generator=draw, dtype=torch.float64)
        cases.append((x, f, _number(dt), _number(g), noise))
    slips = [
        Slip(
            lambda x, f, dt, g, noise: x + f * dt + g * dt * noise,
            "the noise grows with √Δt, not with Δt: variances add up, standard deviations do not.",
        ),
        Slip(
            lambda x, f, dt, g, noise: x + f * dt + g * noise,
            "the noise lacks its √Δt: as written, halving the step doubles the noise per time.",
        ),
        Slip(
            lambda x, f, dt, g, noise: x + f * dt + g**2 * dt.sqrt() * noise,
            "g multiplies the noise once: g is its standard deviation, g² would be its variance.",
        ),
        Slip(
            lambda x, f, dt, g, noise: x + f * dt,
            "the noise is missing: so far this is an Euler step of a flow, not of an SDE.",
        ),
        Slip(
            lambda x, f, dt, g, noise: x + f + g * dt.sqrt() * noise,
            "the drift lacks its Δt: f is a velocity, f Δt the way it goes.",
        ),
        Slip(
            lambda x, f, dt, g, noise: x - f * dt + g * dt.sqrt() * noise,
            "the drift has the wrong sign: forward in time is + f Δt.",
        ),
        Slip(
            lambda x, f, dt, g, noise: f * dt + g * dt.sqrt() * noise,
            "this is the step alone: add it to x.",
        ),
    ]
    praise = "right, that is equation 11."
    return check_function("forward_step", answer, _forward_step, slips, cases, praise)


def check_backward_noise(answer: Any) -> bool:
    """Exercise 2, equation 15: answer(x, x_next, f_next, s_next, dt, g_next) is δB_i.

    All but the last two are (B, d): particles at t_i and t_{i+1}, drift and score at x_{i+1};
    dt, g_next: 0-d tensors. Returns (B, d).
    """
    draw = torch.Generator().manual_seed(2)
    cases = []
    for dt, g in ((0.3, 0.7), (0.04, 1.6)):
        tensors = torch.randn(4, 5, 3, generator=draw, dtype=torch.float64)
        cases.append((*tensors, _number(dt), _number(g)))

    def wrong_score_sign(
        x: Tensor, x_next: Tensor, f_next: Tensor, s_next: Tensor, dt: Tensor, g_next: Tensor
    ) -> Tensor:
        return _backward_noise(x, x_next, f_next, -s_next, dt, g_next)

    slips = [
        Slip(
            lambda *case: -wrong_score_sign(*case),
            "the sign slip in circulation: the overall sign and the sign of s are both turned. "
            "Equation 15 is {x − x' + [f' − g'² s'] Δt} / (g' √Δt).",
        ),
        Slip(
            lambda *case: -_backward_noise(*case),
            "this is −δB. Its square is the same, so the loss would not notice, but a step with "
            "it would land on the wrong side. Solve equation 12 for δB: x comes first.",
        ),
        Slip(
            wrong_score_sign,
            "the score has the wrong sign: the backward drift is f − g² s, and it is subtracted.",
        ),
        Slip(
            lambda x, x_next, f, s, dt, g: _backward_noise(x, x_next, -f, -s, dt, g),
            "the bracket [f − g² s] Δt has the wrong sign: equation 12 subtracts it from x', so "
            "solving for δB adds it.",
        ),
        Slip(
            lambda x, x_next, f, s, dt, g: _backward_noise(x, x_next, f, s / g, dt, g),
            "the score is multiplied by g², here by g only.",
        ),
        Slip(
            lambda x, x_next, f, s, dt, g: _backward_noise(x, x_next, f, 0 * s, dt, g),
            "the score is missing: without − g² s nobody brings the particles back.",
        ),
        Slip(
            lambda *case: _backward_noise(*case) * case[5] * case[4].sqrt(),
            "so far this is the displacement the noise must explain: divide it by g' √Δt.",
        ),
        Slip(
            lambda *case: _backward_noise(*case) / case[4].sqrt(),
            "divide by the standard deviation g' √Δt, not by g' Δt.",
        ),
        Slip(
            lambda *case: _backward_noise(*case) * case[4].sqrt(),
            "divide by the standard deviation g' √Δt, not by g' alone.",
        ),
    ]
    praise = "right, that is equation 15, signs and all."
    return check_function("backward_noise", answer, _backward_noise, slips, cases, praise)


def check_log_constant(answer: Any) -> bool:
    """Exercise 3: answer(g, d) is the constant of the path KL, d log(g_N/g_0), in nats.

    g: (N + 1,), positive; d: the dimension, a whole number. Returns a number.
    """
    cases = [
        (torch.linspace(0.5, 1.5, 11, dtype=torch.float64), 2),
        (torch.tensor([1.2, 0.3, 0.8, 0.4], dtype=torch.float64), 5),
    ]
    slips = [
        Slip(
            lambda g, d: d * (g[0] / g[-1]).log(),
            "the sign is turned: −log p_B carries + log g_{i+1} and + log p_F carries − log g_i. "
            "With g_0/g_N the bound falls below the truth.",
        ),
        Slip(
            lambda g, d: (g[-1] / g[0]).log(),
            "d is missing: every one of the d coordinates has its own Gaussian to normalise.",
        ),
        Slip(
            lambda g, d: (g[0] / g[-1]).log(),
            "the constant of the slides: the sign is turned and d is missing.",
        ),
        Slip(
            lambda g, d: d * (g[1:] / g[:-1]).log(),
            "these are the N terms: now sum them, and see the sum telescope.",
        ),
        Slip(
            lambda g, d: d / 2 * (g[-1] / g[0]).log(),
            "too small by 2: g is a standard deviation, and log √(g²) = log g. No ½ is left.",
        ),
        Slip(
            lambda g, d: 2 * d * (g[-1] / g[0]).log(),
            "too large by 2: the normaliser of a Gaussian holds its standard deviation g, not g².",
        ),
        Slip(
            lambda g, d: d * (g[-1] / g[0]),
            "the logarithm is missing.",
        ),
    ]
    praise = "right, d log(g_N/g_0)."
    return check_function("log_constant", answer, _log_constant, slips, cases, praise)


def check_path_bound(answer: Any) -> bool:
    """Exercise 4, the bound of each path: answer(x_N, delta_F, delta_B, g) in nats.

    x_N: (B, d); delta_F, delta_B: (N, B, d); g: (N + 1,). Returns (B,).
    """
    draw = torch.Generator().manual_seed(4)
    cases = []
    for steps, d in ((4, 2), (7, 3)):
        x_last = torch.randn(5, d, generator=draw, dtype=torch.float64)
        deltas = torch.randn(2, steps, 5, d, generator=draw, dtype=torch.float64)
        g = 0.4 + torch.rand(steps + 1, generator=draw, dtype=torch.float64)
        cases.append((x_last, *deltas, g))

    def parts(x: Tensor, f: Tensor, b: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """−log p_B(x_N), Σ ½‖δB‖², Σ ½‖δF‖² and the constant."""
        return (
            -standard_normal_log_prob(x),
            0.5 * b.square().sum((0, 2)),
            0.5 * f.square().sum((0, 2)),
            _log_constant(g, x.shape[1]),
        )

    def truth(x: Tensor, f: Tensor, b: Tensor, g: Tensor) -> Tensor:
        end, backward, forward, constant = parts(x, f, b, g)
        return end + backward - forward + constant

    def slip(weights: tuple[float, float, float, float], message: str) -> Slip:
        def wrong(*case: Tensor) -> Tensor:
            return sum(w * part for w, part in zip(weights, parts(*case), strict=True))

        return Slip(wrong, message)

    slips = [
        slip((1, 1, -1, 0), "the constant is missing: add d log(g_N/g_0) to speak of nats."),
        slip((1, 1, -1, -1), "the constant has the wrong sign: it is + d log(g_N/g_0)."),
        slip((-1, 1, -1, 1), "the end has the wrong sign: it is − log p_B(x_N), always positive."),
        slip((1, -1, 1, 1), "the order is turned: it is ½(‖δB‖² − ‖δF‖²)."),
        slip(
            (1, 1, 0, 1),
            "− ½‖δF‖² is missing. No gradient would notice, but the number is N d/2 nats too big.",
        ),
        slip((1, 2, -2, 1), "the squares have a factor ½, from the exponent of the Gaussian."),
        slip((0, 1, -1, 1), "the end is missing: − log p_B(x_N) asks the path to end in N(0, I)."),
        Slip(
            lambda x, f, b, g: truth(x, f, b, g) - 0.5 * x.shape[1] * math.log(2 * math.pi),
            "½‖x_N‖² is not yet − log N(x_N; 0, I): d/2 log 2π is missing.",
        ),
        Slip(
            lambda x, f, b, g: truth(x, f[:-1], b[:-1], g),
            "the last step is missing: there are N terms, i = 0 … N−1 (equation 13 drops one too).",
        ),
        Slip(
            lambda *case: truth(*case).mean(),
            "one number per path, please: keep the B paths apart, shape (B,).",
        ),
        Slip(
            lambda x, f, b, g: truth(x, f / len(f) ** 0.5, b / len(b) ** 0.5, g),
            "sum over the N steps, do not average: a path's log probability is a sum.",
        ),
    ]
    praise = "right: paths in, nats out."
    return check_function("path_bound", answer, truth, slips, cases, praise)


def _forward_step(x: Tensor, f: Tensor, dt: Tensor, g: Tensor, noise: Tensor) -> Tensor:
    return x + f * dt + g * dt.sqrt() * noise


def _backward_noise(
    x: Tensor, x_next: Tensor, f_next: Tensor, s_next: Tensor, dt: Tensor, g_next: Tensor
) -> Tensor:
    return (x - x_next + (f_next - g_next**2 * s_next) * dt) / (g_next * dt.sqrt())


def _log_constant(g: Tensor, d: int) -> Tensor:
    return d * (g[-1] / g[0]).log()


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
