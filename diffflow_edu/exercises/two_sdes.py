"""Notebook 04: one step, the backward noise, the constant, the bound of a path, the loss as a loop.

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
    """Equation 11: answer(x, f, dt, g, noise) is x_{i+1}.

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
    """Exercise 1, equation 15: answer(x, x_next, f_next, s_next, dt, g_next) is δB_i.

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
            "a slip of the slides: the overall sign and the sign of s are both turned. "
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
            lambda x, x_next, f, s, dt, g: _backward_noise(x, x_next, f, s / 2, dt, g),
            "half of g² s belongs to the probability flow; the backward SDE has all of it.",
        ),
        Slip(
            lambda x, x_next, f, s, dt, g: _backward_noise(x_next, x, f, s, dt, g),
            "x and x_next have changed places: solve equation 12 for δB, and x_i − x_{i+1} stands "
            "in front.",
        ),
        Slip(
            lambda *case: _backward_noise(*case) * case[4],
            "mind the order of operations: `a / g * sqrt(dt)` multiplies by √Δt. Put the divisor "
            "in parentheses: a / (g * sqrt(dt)).",
        ),
        Slip(
            lambda *case: _backward_noise(*case) * case[5],
            "divide by the standard deviation g' √Δt, not by √Δt alone.",
        ),
        Slip(
            lambda x, x_next, f, s, dt, g: (x - x_next + (f - g**2 * s)) / (g * dt.sqrt()),
            "the bracket lacks its Δt.",
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
    """Exercise 2: answer(g, d) is the constant of the path KL, d log(g_N/g_0), in nats.

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
    """The bound of each path: answer(x_N, delta_F, delta_B, g) in nats.

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
        Slip(
            lambda x, f, b, g: truth(x, f, b, g) - _log_constant(g, x.shape[1] - 1),
            "the constant lacks its d: every coordinate has a Gaussian of its own to normalise.",
        ),
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


def check_diffflow_loss(answer: Any) -> bool:
    """Exercise 3, equation 16 as a loop: answer(drift, score, times, g, x, noise), in nats.

    drift, score: (x (B, d), t 0-d) -> (B, d); times, g: (N + 1,); x: (B, d), the data; noise: δF,
    (N, B, d). Returns a number.
    """
    draw = torch.Generator().manual_seed(5)
    cases = []
    for steps, n, d in ((3, 6, 2), (5, 4, 3)):
        times = (0.1 + torch.rand(steps + 1, generator=draw, dtype=torch.float64)).cumsum(0) / 3
        g = 0.5 + torch.rand(steps + 1, generator=draw, dtype=torch.float64)
        x = torch.randn(n, d, generator=draw, dtype=torch.float64)
        noise = torch.randn(steps, n, d, generator=draw, dtype=torch.float64)
        cases.append((_example_drift, _example_score, times, g, x, noise))

    def loop(
        weights: tuple[float, ...] = (1.0, 1.0, -1.0, 1.0, 1.0),
        here: bool = False,
        stand: bool = False,
        score_weight: float = 1.0,
        steps: int | None = None,
        std: Any = lambda g, dt: g * dt.sqrt(),
    ) -> Any:
        """The loss with parts weighted: end, ½‖δB‖², ½‖δF‖², constant, d/2 log 2π."""

        def wrong(drift: Any, score: Any, times: Any, g: Any, x: Any, noise: Any) -> Tensor:
            end, backward, forward, constant, normaliser = weights
            d, total = x.shape[1], constant * x.shape[1] * (g[-1] / g[0]).log()
            for i in range(len(noise))[:steps]:
                dt = times[i + 1] - times[i]
                x_next = x + drift(x, times[i]) * dt + std(g[i], dt) * noise[i]
                at, t = (x, times[i]) if here else (x_next, times[i + 1])
                s = score_weight * score(at, t)
                delta = _backward_noise(x, x_next, drift(at, t), s, dt, g[i + 1])
                squares = backward * delta.square() + forward * noise[i].square()
                total = total + 0.5 * squares.sum(1)
                x = x if stand else x_next
            total = total + normaliser * 0.5 * d * math.log(2 * math.pi)
            return total + end * 0.5 * x.square().sum(1)

        return wrong

    def mean(*options: Any, **named: Any) -> Any:
        return lambda *case: loop(*options, **named)(*case).mean()

    def without_d(*case: Any) -> Tensor:
        g, d = case[3], case[4].shape[1]
        return mean()(*case) - (d - 1) * (g[-1] / g[0]).log()

    def one_log(*case: Any) -> Tensor:
        return mean()(*case) - 0.5 * (case[4].shape[1] - 1) * math.log(2 * math.pi)

    slips = [
        Slip(loop(), "one number a particle so far: take the mean over the batch."),
        Slip(
            lambda *case: loop()(*case).sum(), "take the mean over the batch, not the sum."
        ),
        Slip(
            mean((1, 1, -1, 0, 1)),
            "the constant is missing: add d log(g_N/g_0), or these are no nats.",
        ),
        Slip(mean((1, 1, -1, -1, 1)), "the constant has the wrong sign: + d log(g_N/g_0)."),
        Slip(without_d, "the constant lacks its d: every coordinate has a Gaussian of its own."),
        Slip(
            mean((1, 1, -1, 1, 0)),
            "½‖x_N‖² is not yet − log N(x_N; 0, I): d/2 log 2π is missing.",
        ),
        Slip(one_log, "½ log 2π counts once for each of the d coordinates."),
        Slip(
            mean((0, 1, -1, 1, 0)),
            "the end is missing: − log p_B(x_N), with p_B(x_N) = N(x_N; 0, I).",
        ),
        Slip(
            mean((-1, 1, -1, 1, -1)),
            "the end has the wrong sign: it is − log p_B(x_N).",
        ),
        Slip(
            mean((1, 1, 0, 1, 1)),
            "− ½‖δF‖² is missing: no gradient would notice, but the number is N d/2 nats too big.",
        ),
        Slip(mean((1, 2, -2, 1, 1)), "the squares lack their ½."),
        Slip(mean((1, -1, 1, 1, 1)), "the order is turned: it is ½(‖δB‖² − ‖δF‖²)."),
        Slip(
            mean(here=True),
            "the backward step begins at x_{i+1}: evaluate drift and score there, at t_{i+1}.",
        ),
        Slip(mean(stand=True), "x does not move on: the next step begins at x_{i+1}."),
        Slip(
            mean(score_weight=-1.0), "the score has the wrong sign: the backward drift is f − g² s."
        ),
        Slip(
            mean(score_weight=0.5),
            "half of g² s belongs to the probability flow; the backward SDE has all of it.",
        ),
        Slip(mean(steps=-1), "the last step is missing: there are N terms, i = 0 … N − 1."),
        Slip(
            mean(std=lambda g, dt: g * dt),
            "the forward noise grows with √Δt, not with Δt.",
        ),
    ]  # fmt: skip
    praise = "right: this is DiffFlow's loss, in nats."
    return check_function("diffflow_loss", answer, mean(), slips, cases, praise)


def _example_drift(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(2 * x.flip(-1) + t)


def _example_score(x: Tensor, t: Tensor) -> Tensor:
    return torch.sin(3 * x) - x * (1 + t)


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
