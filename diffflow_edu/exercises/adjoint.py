"""Notebooks 05 and 11: memory, the reverse sweep, network units; grids and the last step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffflow_edu.exercises.checking import Slip, check_function, find_fault


def check_memory(answer: Any) -> bool:
    """Exercise 1: answer(N, step, state) is what autograd and what the adjoint keep, two numbers.

    N: steps; step: the activations of one step, state: one state x_i, both in MiB.
    """
    cases = [(30, 18.5, 0.015), (4, 2.0, 0.5)]
    slips = [
        Slip(
            lambda n, step, state: torch.tensor([n * step, (n + 1) * state]),
            "the adjoint's number lacks a part: while a step is rebuilt, its own activations are "
            "there too, those of one step.",
        ),
        Slip(
            lambda n, step, state: torch.tensor([n * step, n * state + step]),
            "count the states again: x_0 … x_N are one more than there are steps.",
        ),
        Slip(
            lambda n, step, state: torch.tensor([n * step, n * state]),
            "count the states again, x_0 … x_N are N + 1; and one step's activations are there "
            "too, while it is rebuilt.",
        ),
        Slip(
            lambda n, step, state: torch.tensor([n * step, state + step]),
            "the forward sweep keeps all the states, not only the latest: without x_i and x_{i+1} "
            "the noise of step i is not known.",
        ),
        Slip(
            lambda n, step, state: torch.tensor([step, (n + 1) * state + step]),
            "autograd frees nothing before backward: the activations of every step wait, N times.",
        ),
        Slip(
            lambda n, step, state: torch.tensor([n * step, (n + 1) * (state + step)]),
            "the adjoint frees a step's activations before it rebuilds the next: only states add "
            "up.",
        ),
        Slip(
            lambda n, step, state: torch.tensor(
                [n * step + (n + 1) * state, (n + 1) * state + step]
            ),
            "autograd keeps no states besides: x_i is the input of step i, so it is among that "
            "step's activations already.",
        ),
        Slip(
            lambda n, step, state: _memory(n, step, state).flip(0),
            "the two have changed places: first autograd, then the adjoint.",
        ),
    ]
    praise = "right: N steps' activations against N + 1 states and one step's activations."
    return check_function("memory", answer, _memory, slips, cases, praise)


def check_reverse_step(answer: Any) -> bool:
    """Exercise 2: answer(x, x_next, a_next, mean, energy) is a_i, Algorithm 2's reverse step.

    x, x_next, a_next: (B, d), x_i, x_{i+1} and a_{i+1}; mean(x): where step i carries x on average,
    (B, d); energy(x, x_next): ℓ_i of every particle, (B,). Returns (B, d).
    """
    draw = torch.Generator().manual_seed(5)
    cases = []
    for dt, g in ((0.3, 0.7), (0.1, 1.6)):
        x, noise, a_next = torch.randn(3, 6, 2, generator=draw, dtype=torch.float64)
        mean, energy = _step(dt, g)
        cases.append((x, mean(x) + g * dt**0.5 * noise, a_next, mean, energy))

    def slip(wrong: Callable[..., Tensor], message: str) -> Slip:
        """wrong(a_{i+1}, ∂ℓ/∂x_i, ∂ℓ/∂x_{i+1}, pull), where pull(u) = u · ∂x_{i+1}/∂x_i."""
        return Slip(lambda *case: wrong(case[2], *_parts(*case)), message)

    slips = [
        slip(
            lambda a, at_x, at_next, pull: pull(a) + at_x,
            "∂ℓ_i/∂x_{i+1} is missing: x_{i+1} has an effect on ℓ_i too, so it belongs into u "
            "before u is pulled back.",
        ),
        slip(
            lambda a, at_x, at_next, pull: pull(a + at_next),
            "∂ℓ_i/∂x_i is missing: x_i enters ℓ_i directly, not only by way of x_{i+1}.",
        ),
        slip(
            lambda a, at_x, at_next, pull: pull(a),
            "the energy ℓ_i is missing: this is the adjoint of a chain whose steps cost nothing.",
        ),
        slip(
            lambda a, at_x, at_next, pull: a + at_next + at_x,
            "u must be pulled back through the step: u · ∂x_{i+1}/∂x_i, a vector-Jacobian product.",
        ),
        slip(
            lambda a, at_x, at_next, pull: pull(a) + at_next + at_x,
            "∂ℓ_i/∂x_{i+1} lives at x_{i+1}: add it to a_{i+1} first, then pull back the sum.",
        ),
        slip(
            lambda a, at_x, at_next, pull: pull(a + at_next + at_x),
            "∂ℓ_i/∂x_i lives at x_i already: add it after u was pulled back, not before.",
        ),
        slip(
            lambda a, at_x, at_next, pull: pull(a + at_x) + at_next,
            "the two derivatives of ℓ_i have changed places: ∂ℓ_i/∂x_{i+1} belongs into u.",
        ),
        slip(
            lambda a, at_x, at_next, pull: pull(a - at_next) - at_x,
            "the signs of ℓ_i's derivatives are turned: the loss adds ℓ_i.",
        ),
        slip(
            lambda a, at_x, at_next, pull: pull(a - at_next) + at_x,
            "the sign inside u: it is a_{i+1} + ∂ℓ_i/∂x_{i+1}, since both count what x_{i+1} "
            "adds to the loss.",
        ),
        slip(
            lambda a, at_x, at_next, pull: at_x - pull(a + at_next),
            "the sign of u: it is pulled back and *added* to ∂ℓ_i/∂x_i.",
        ),
        slip(
            lambda a, at_x, at_next, pull: a + at_next,
            "this is u, at x_{i+1}: pull it back through the step, and add ∂ℓ_i/∂x_i.",
        ),
    ]
    praise = "right: that is Algorithm 2, one line of it."
    return check_function("reverse_step", answer, _reverse_step, slips, cases, praise)


def check_adjoint_sweep(answer: Any) -> bool:
    """Exercise 3: answer(states, mean, energy) is a_0, the gradient of a whole path by x_0.

    states: (N + 1, B, d), x_0 … x_N; mean(x, i): where step i carries x on average, (B, d);
    energy(x, x_next, i): ℓ_i of every particle, (B,). The loss is −log p_B(x_N) + Σ ℓ_i. Returns
    (B, d).
    """
    draw = torch.Generator().manual_seed(8)
    cases = []
    for steps in (3, 5):
        mean, energy = _chain(steps)
        states = [torch.randn(4, 2, generator=draw, dtype=torch.float64)]
        for i in range(steps):
            z = torch.randn(4, 2, generator=draw, dtype=torch.float64)
            states.append(mean(states[i], i) + 0.3 * z)
        cases.append((torch.stack(states), mean, energy))

    def slip(
        message: str,
        start: Callable[[Tensor], Tensor] = lambda states: states[-1],
        order: Callable[[int], list[int]] = lambda n: list(range(n))[::-1],
        step: Callable[..., Tensor] = lambda a, at_x, at_next, pull: pull(a + at_next) + at_x,
        shift: int = 0,
    ) -> Slip:
        """A sweep with another start, another order or another step."""

        def wrong(states: Tensor, mean: Callable[..., Tensor], energy: Callable[..., Tensor]):  # noqa: ANN202
            n = len(states) - 1
            a = start(states)
            for i in order(n):
                k = (i + shift) % n
                parts = _parts(
                    states[i],
                    states[i + 1],
                    a,
                    lambda x, k=k: mean(x, k),
                    lambda x, y, k=k: energy(x, y, k),
                )
                a = step(a, *parts)
            return a

        return Slip(wrong, message)

    slips = [
        slip(
            "the sweep starts at a_N = −∂log p_B(x_N)/∂x_N, which is x_N and not 0.",
            start=lambda states: torch.zeros_like(states[-1]),
        ),
        slip(
            "the sign of the start: a_N is the slope of *minus* log p_B = ½‖x_N‖² + …, so x_N.",
            start=lambda states: -states[-1],
        ),
        slip(
            "the sweep runs from the noise to the data, i = N − 1 … 0: a_i needs a_{i+1}.",
            order=lambda n: list(range(n)),
        ),
        slip("it stops at a_1: step 0 is missing.", order=lambda n: list(range(1, n))[::-1]),
        slip(
            "step N − 1 is missing: the first step of the sweep leads from x_N to x_{N−1}.",
            order=lambda n: list(range(n - 1))[::-1],
        ),
        slip(
            "mean and energy are of the wrong step: between x_i and x_{i+1} it is step i.",
            shift=1,
        ),
        slip(
            "∂ℓ_i/∂x_{i+1} is missing in every step: it belongs into u.",
            step=lambda a, at_x, at_next, pull: pull(a) + at_x,
        ),
        slip(
            "∂ℓ_i/∂x_i is missing in every step: x_i enters ℓ_i directly, too.",
            step=lambda a, at_x, at_next, pull: pull(a + at_next),
        ),
        slip(
            "the energies are missing: this is the gradient of −log p_B(x_N) alone.",
            step=lambda a, at_x, at_next, pull: pull(a),
        ),
        slip(
            "the sign inside u: it is a_{i+1} + ∂ℓ_i/∂x_{i+1}.",
            step=lambda a, at_x, at_next, pull: pull(a - at_next) + at_x,
        ),
    ]
    praise = "right: the gradient by the data, with the memory of one step."
    return check_function("adjoint_sweep", answer, _adjoint_sweep, slips, cases, praise)


UNITS = {
    "autograd": (9, {}),
    "step by step": (
        12,
        {
            9: "step by step costs more than autograd: the activations were thrown away, so 3 N "
            "forward passes are done again. That is the price of the memory.",
            14: "step by step makes its 3 calls twice and sends one gradient through each of the "
            "3: 3 + 3 + 3·2.",
        },
    ),
    "bound": (
        8,
        {
            6: "bound makes its 2 calls a step twice, once for the value and once in the reverse "
            "sweep: 2 + 2 + 2·2, not 2 + 2·2.",
            12: "with f_{i+1}(x_{i+1}) evaluated once, a step of bound has 2 calls instead of 3.",
            14: "bound has 2 calls a step, made twice, and 2 backward passes: 2 + 2 + 2·2.",
        },
    ),
    "loss": (
        7,
        {
            5: "loss walks forward before it goes back, and the walk calls the drift once a step: "
            "1 + 2 + 2·2. You have left out two of these.",
            6: "loss has to walk forward first, with the drift, 1 call a step: 1 + 2 + 2·2.",
            8: "loss is cheaper than bound: its cotangents, 1/B each, are known beforehand, so "
            "that its forward sweep needs the drift alone; the score waits for the reverse sweep.",
            12: "with f_{i+1}(x_{i+1}) evaluated once, the reverse sweep of loss has 2 calls a "
            "step instead of 3, and its forward sweep 1.",
            14: "loss makes its value and its gradient in the same reverse sweep: count it once, "
            "1 + 2 + 2·2.",
        },
    ),
}
"""By way: the units a step, and what to say to other numbers."""


def check_network_units(answer: Any) -> bool:
    """Exercise 4: answer(N) is the network units of four gradients, to leading order in N.

    A forward pass of drift or score is 1 unit, a backward pass 2. Autograd, Algorithm 2 step by
    step, `bound` and `loss`, in this order.
    """
    slips = [
        Slip(
            lambda n: torch.tensor([6 * n, 9 * n, 6 * n, 5 * n]),
            "a backward pass counts 2: it makes the derivatives by the inputs and by the weights.",
        ),
        Slip(
            lambda n: torch.tensor([6 * n, 8 * n, 8 * n, 7 * n]),
            "autograd and step by step do not share: f_{i+1}(x_{i+1}) is evaluated for the "
            "backward noise of step i and again for the forward step i + 1: 3 calls a step.",
        ),
        Slip(
            lambda n: torch.tensor([9.0, 12.0, 8.0, 7.0]),
            "this is for a single step: multiply by N.",
        ),
    ]
    cases, seen = [(30,), (7,)], []

    def recorded(n: int) -> Any:  # noqa: ANN401
        seen.append(answer(n))
        return seen[-1]

    asked = recorded if callable(answer) else answer
    hint = find_fault("network_units", asked, _network_units, slips, cases)
    if hint is not None and hint.startswith("not yet"):
        given = torch.as_tensor(seen[0]).detach().double() / 30
        for value, (right, words) in zip(given.tolist(), UNITS.values(), strict=True):
            if abs(value - right) > 1e-6:
                hint = words.get(round(value, 6), hint)
                break
    praise = "right: 9, 12, 8 and 7 a step. Now count them."
    print(f"✓ network_units: {praise}" if hint is None else f"✗ network_units: {hint}")
    return hint is None


def check_flexible_grid(answer: Any) -> bool:
    """Exercise 1 of 11: answer(alpha, T, beta) is one grid of L̂_β, (N + 1,); alpha: (N − 1,).

    t_i = [α_i ((i−1)/(N−1))^β + (1−α_i)(i/(N−1))^β] T for 0 < i < N; t_0 = 0 and t_N = T.
    """
    draw = torch.Generator().manual_seed(6)
    cases = [
        (torch.rand(n - 1, generator=draw, dtype=torch.float64), T, beta)
        for n, T, beta in ((6, 0.5, 0.9), (3, 2.0, 2.0))
    ]

    def with_ends(inner: Tensor, T: float) -> Tensor:
        return torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), T)])

    def mixed(alpha: Tensor, beta: float, parts: int) -> Tensor:
        i = torch.arange(1, len(alpha) + 1, dtype=alpha.dtype)
        return alpha * ((i - 1) / parts) ** beta + (1 - alpha) * (i / parts) ** beta

    slips = [
        Slip(
            lambda alpha, T, beta: _flexible_grid(alpha, T, beta)[1:-1],
            "these are the N − 1 times inside: put t_0 = 0 before and t_N = T behind them.",
        ),
        Slip(
            lambda alpha, T, beta: with_ends(mixed(alpha, beta, len(alpha) + 1) * T, T),
            "divide by N − 1, not by N: N − 1 inner times share [0, T] among them, one in each "
            "interval.",
        ),
        Slip(
            lambda alpha, T, beta: _flexible_grid(1 - alpha, T, beta),
            "α and 1 − α have changed places. As a random grid that is just as good, since 1 − α "
            "is uniform too; the paper's α_i leans towards the data, (i−1)/(N−1).",
        ),
        Slip(
            lambda alpha, T, beta: _flexible_grid(alpha, T, 1.0),
            "the exponent β is missing: each of the two ends of an interval is raised to it.",
        ),
        Slip(
            lambda alpha, T, beta: T * (_flexible_grid(alpha, T, 1.0) / T) ** beta,
            "mix after the power, not before: α_i stands between two times of the grid.",
        ),
        Slip(
            lambda alpha, T, beta: with_ends(_shifted(alpha, beta) * T, T),
            "one interval too far: t_i lies between ((i−1)/(N−1))^β T and (i/(N−1))^β T.",
        ),
        Slip(
            lambda alpha, T, beta: with_ends(_flexible_grid(alpha, T, beta)[1:-1] / T, T),
            "the inner times lack their T.",
        ),
        Slip(
            lambda alpha, T, beta: (
                T * (torch.arange(len(alpha) + 2, dtype=alpha.dtype) / (len(alpha) + 1)) ** beta
            ),
            "this is the fixed grid L_β; α has no part in it yet.",
        ),
    ]
    praise = "right: one time in every interval, and both ends stay."
    return check_function("flexible_grid", answer, _flexible_grid, slips, cases, praise)


def check_denoise(answer: Any) -> bool:
    """Exercise 3 of 11: answer(x, score, alpha, sigma) is E[x_0 | x] = (x + σ² s)/α (Tweedie).

    x = α x_0 + σ ε: (B, d), score: of x at that time, (B, d); alpha, sigma: 0-d. Returns (B, d).
    """
    draw = torch.Generator().manual_seed(7)
    cases = []
    for alpha, sigma in ((0.9, 0.4), (0.6, 1.3)):
        x, score = torch.randn(2, 5, 3, generator=draw, dtype=torch.float64)
        cases.append((x, score, *torch.tensor([alpha, sigma], dtype=torch.float64)))
    slips = [
        Slip(
            lambda x, s, alpha, sigma: (x + sigma * s) / alpha,
            "σ² multiplies the score, not σ: with s = −ε/σ that leaves x − σ ε.",
        ),
        Slip(
            lambda x, s, alpha, sigma: (x - sigma**2 * s) / alpha,
            "the sign: the score points to where the data is, so go along it, + σ² s.",
        ),
        Slip(
            lambda x, s, alpha, sigma: x + sigma**2 * s,
            "this is the mean of α x_0: divide by α.",
        ),
        Slip(
            lambda x, s, alpha, sigma: x / alpha + sigma**2 * s,
            "α divides both: solve x = α x_0 + σ ε for x_0 first.",
        ),
        Slip(
            lambda x, s, alpha, sigma: (x + 0.5 * sigma**2 * s) / alpha,
            "the whole σ² s: half of it is a step of the probability flow.",
        ),
        Slip(
            lambda x, s, alpha, sigma: (x + sigma**2 * s) * alpha,
            "divide by α: the noisy particle is α times the data, so the data is larger.",
        ),
        Slip(
            lambda x, s, alpha, sigma: x / alpha,
            "the score has no part in it yet: this is right only without noise.",
        ),
        Slip(
            lambda x, s, alpha, sigma: (x - sigma * s) / alpha,
            "the score is not the noise: ε = −σ s, so − σ ε = + σ² s.",
        ),
    ]
    praise = "right: the mean of all data that may be behind this particle."
    return check_function("denoise", answer, _denoise, slips, cases, praise)


def check_sample_loop(answer: Any) -> bool:
    """Exercise 2 of 11: answer(x, mean, b, noise) carries x_N to x_0, the last step without noise.

    x: x_N (B, d); mean(x, i): the mean of x_i given x_{i+1}, (B, d); b: (N,), the standard
    deviation of backward step i; noise: (N, B, d), noise[i] that of step i. Returns x_0, (B, d).
    """
    draw = torch.Generator().manual_seed(9)
    cases = []
    for n in (3, 5):
        noise = torch.randn(n, 4, 2, generator=draw, dtype=torch.float64)
        b = 0.2 + torch.rand(n, generator=draw, dtype=torch.float64)
        x = torch.randn(4, 2, generator=draw, dtype=torch.float64)
        cases.append((x, _back, b, noise))

    def slip(message: str, **options: Any) -> Slip:  # noqa: ANN401
        return Slip(lambda *case: _sample_loop(*case, **options), message)

    slips = [
        slip("the last step, i = 0, must stop at the mean: no noise there.", quiet=()),
        slip("the noise is missing in all steps; only step 0 goes without.", quiet=range(9)),
        slip(
            "it is step 0, which arrives at the data, that goes without noise, not the first one "
            "of the walk.",
            quiet=("first",),
        ),
        slip("a backward walk takes i = N − 1 first and 0 last.", upwards=True),
        slip("step 0 is missing: this is x_1.", steps_left_out=1),
        slip("b is the standard deviation already: do not square it.", power=2.0),
        slip("take the root of nothing: b is a standard deviation, no variance.", power=0.5),
        slip("every step has a noise of its own: noise[i], not always the same.", same=True),
        slip("step i has the standard deviation b[i]: you took another step's.", shift=1),
        slip("the noise is not scaled: multiply noise[i] by b[i].", power=0.0),
    ]
    praise = "right: that is `sample`, and its last step is the denoised mean."
    return check_function("sample_loop", answer, _sample_loop, slips, cases, praise)


# The truths --------------------------------------------------------------------------------------


def _memory(n: int, step: float, state: float) -> Tensor:
    return torch.tensor([n * step, (n + 1) * state + step])


def _step(dt: float, g: float) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """The mean of a step of equation 11 and its energy ½‖δB‖², for made-up fields."""

    def drift(x: Tensor) -> Tensor:
        return torch.sin(2 * x.flip(-1)) - 0.3 * x

    def mean(x: Tensor) -> Tensor:
        return x + drift(x) * dt

    def energy(x: Tensor, x_next: Tensor) -> Tensor:
        score = torch.cos(x_next.flip(-1)) - x_next
        back = x_next - (drift(x_next) - g**2 * score) * dt
        return 0.5 * ((x - back) / (g * dt**0.5)).square().sum(1)

    return mean, energy


def _reverse_step(
    x: Tensor,
    x_next: Tensor,
    a_next: Tensor,
    mean: Callable[[Tensor], Tensor],
    energy: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """By autograd through the whole step, its noise held fixed: not the way of Algorithm 2."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        after = mean(x) + (x_next - mean(x)).detach()
        rest = (a_next * after).sum()  # linear in x_{i+1}, so that its derivative there is a_{i+1}
        return torch.autograd.grad(energy(x, after).sum() + rest, x)[0]


def _parts(
    x: Tensor,
    x_next: Tensor,
    a_next: Tensor,
    mean: Callable[[Tensor], Tensor],
    energy: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """∂ℓ/∂x_i, ∂ℓ/∂x_{i+1}, and pull(u) = u · ∂x_{i+1}/∂x_i, of which the slips are made."""
    with torch.enable_grad():
        x, x_next = x.detach().requires_grad_(), x_next.detach().requires_grad_()
        at_x, at_next = torch.autograd.grad(energy(x, x_next).sum(), (x, x_next))

    def pull(u: Tensor) -> Tensor:
        with torch.enable_grad():
            return torch.autograd.grad(mean(x), x, u)[0]

    return at_x, at_next, pull


def _network_units(n: int) -> Tensor:
    return torch.tensor([9.0, 12.0, 8.0, 7.0]) * n


def _flexible_grid(alpha: Tensor, T: float, beta: float) -> Tensor:
    knots = (torch.arange(len(alpha) + 1, dtype=alpha.dtype) / len(alpha)) ** beta * T
    inner = alpha * knots[:-1] + (1 - alpha) * knots[1:]
    return torch.cat([knots[:1], inner, knots[-1:]])


def _denoise(x: Tensor, score: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    return (x + sigma**2 * score) / alpha


def _shifted(alpha: Tensor, beta: float) -> Tensor:
    i = torch.arange(1, len(alpha) + 1, dtype=alpha.dtype)
    return alpha * (i / len(alpha)) ** beta + (1 - alpha) * ((i + 1) / len(alpha)) ** beta


def _back(x: Tensor, i: int) -> Tensor:
    """A made-up mean of backward step i."""
    return torch.cos(x.flip(-1) + i) + (0.6 + 0.1 * i) * x


def _sample_loop(
    x: Tensor,
    mean: Callable[[Tensor, int], Tensor],
    b: Tensor,
    noise: Tensor,
    quiet: Sequence[Any] = (0,),
    upwards: bool = False,
    steps_left_out: int = 0,
    power: float = 1.0,
    same: bool = False,
    shift: int = 0,
) -> Tensor:
    """The walk; every option is a slip. quiet: the steps without noise."""
    n = len(b)
    order = list(range(n)) if upwards else list(range(steps_left_out, n))[::-1]
    for i in order:
        x = mean(x, i)
        if i not in quiet and not ("first" in quiet and i == order[0]):
            x = x + b[(i + shift) % n] ** power * noise[0 if same else i]
    return x


def _chain(steps: int) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Means and energies of a made-up chain whose steps differ."""
    parts = [_step(0.1 + 0.1 * i, 0.6 + 0.2 * i) for i in range(steps)]

    def mean(x: Tensor, i: int) -> Tensor:
        return parts[i][0](x)

    def energy(x: Tensor, x_next: Tensor, i: int) -> Tensor:
        return parts[i][1](x, x_next)

    return mean, energy


def _adjoint_sweep(
    states: Tensor, mean: Callable[..., Tensor], energy: Callable[..., Tensor]
) -> Tensor:
    """By autograd through the whole path, every noise held fixed."""
    with torch.enable_grad():
        start = states[0].detach().requires_grad_()
        x, loss = start, 0.0
        for i in range(len(states) - 1):
            noise = (states[i + 1] - mean(states[i], i)).detach()
            x_next = mean(x, i) + noise
            loss = loss + energy(x, x_next, i).sum()
            x = x_next
        return torch.autograd.grad(loss + 0.5 * x.square().sum(), start)[0]
