"""Solutions of the exercises of notebooks 05 and 11, and wrong answers with what they meet."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffflow_edu import DiffFlow, Schedule, exercises
from diffflow_edu.schedules import _draw_flexible


def memory(n, step, state):
    return torch.tensor([n * step, (n + 1) * state + step])


def parts(x, x_next, a_next, mean, energy):
    """∂ℓ/∂x_i, ∂ℓ/∂x_{i+1}, and u -> u · ∂x_{i+1}/∂x_i."""
    x, x_next = x.detach().requires_grad_(), x_next.detach().requires_grad_()
    at_x, at_next = torch.autograd.grad(energy(x, x_next).sum(), (x, x_next))
    return at_x, at_next, lambda u: torch.autograd.grad(mean(x), x, u)[0]


def reverse_step(x, x_next, a_next, mean, energy):
    at_x, at_next, pull = parts(x, x_next, a_next, mean, energy)
    u = a_next + at_next
    return pull(u) + at_x


def network_units(n):
    return torch.tensor([3 * n + 6 * n, 3 * n + 9 * n, 2 * n + 6 * n, n + 6 * n])


def flexible_grid(alpha, T, beta):
    i = torch.arange(1, len(alpha) + 1, dtype=alpha.dtype)
    inner = alpha * ((i - 1) / len(alpha)) ** beta + (1 - alpha) * (i / len(alpha)) ** beta
    return T * torch.cat([torch.zeros(1), inner, torch.ones(1)])


def denoise(x, score, alpha, sigma):
    noise = -sigma * score
    return (x - sigma * noise) / alpha


def adjoint_sweep(states, mean, energy):
    return sweep(states, mean, energy)


def sweep(states, mean, energy, start=None, steps=None, step=None, shift=0):
    """The solution, and with an option a slip."""
    n = len(states) - 1
    a = states[-1] if start is None else start(states[-1])
    for i in reversed(range(n)) if steps is None else steps(n):
        k = (i + shift) % n

        def at(x, k=k):
            return mean(x, k)

        def cost(x, y, k=k):
            return energy(x, y, k)

        if step is None:
            a = reverse_step(states[i], states[i + 1], a, at, cost)
        else:
            a = step(a, *parts(states[i], states[i + 1], a, at, cost))
    return a


def sample_loop(x, mean, b, noise):
    for i in reversed(range(len(b))):
        x = mean(x, i) if i == 0 else mean(x, i) + b[i] * noise[i]
    return x


def noisy_loop(spread, steps=lambda n: range(n - 1, -1, -1), quiet=lambda i, n: i == 0):
    """A loop with another spread of the noise, spread(b, noise, i), order or quiet step."""

    def wrong(x, mean, b, noise):
        for i in steps(len(b)):
            x = mean(x, i) + (0 if quiet(i, len(b)) else spread(b, noise, i))
        return x

    return wrong


SOLUTIONS = {
    "check_memory": memory,
    "check_reverse_step": reverse_step,
    "check_network_units": network_units,
    "check_flexible_grid": flexible_grid,
    "check_denoise": denoise,
    "check_adjoint_sweep": adjoint_sweep,
    "check_sample_loop": sample_loop,
}


def step_slip(wrong):
    """A wrong reverse step made of a_{i+1} and the three parts of the right one."""
    return lambda *case: wrong(case[2], *parts(*case))


def inner_over(n_of):
    """The flexible grid with a wrong number of intervals."""

    def wrong(alpha, T, beta):
        i, n = torch.arange(1, len(alpha) + 1, dtype=alpha.dtype), n_of(alpha)
        inner = alpha * ((i - 1) / n) ** beta + (1 - alpha) * (i / n) ** beta
        return T * torch.cat([torch.zeros(1), inner, torch.ones(1)])

    return wrong


# (check, wrong answer, words of the message that it must get)
PLANTED = [
    ("check_memory", lambda n, a, s: torch.tensor([n * a, (n + 1) * s]), "lacks a part"),
    ("check_memory", lambda n, a, s: torch.tensor([n * a, n * s + a]), "one more than there are"),
    ("check_memory", lambda n, a, s: torch.tensor([n * a, n * s]), "x_0 … x_N are N + 1"),
    ("check_memory", lambda n, a, s: torch.tensor([n * a, a + s]), "not only the latest"),
    ("check_memory", lambda n, a, s: torch.tensor([a, (n + 1) * s + a]), "frees nothing before"),
    ("check_memory", lambda n, a, s: torch.tensor([n * a, (n + 1) * (s + a)]), "only states add"),
    ("check_memory", lambda *case: memory(*case).flip(0), "changed places: first autograd"),
    (
        "check_reverse_step",
        step_slip(lambda a, at_x, at_next, pull: pull(a) + at_x),
        "∂ℓ_i/∂x_{i+1} is missing",
    ),
    (
        "check_reverse_step",
        step_slip(lambda a, at_x, at_next, pull: pull(a + at_next)),
        "∂ℓ_i/∂x_i is missing",
    ),
    (
        "check_reverse_step",
        step_slip(lambda a, at_x, at_next, pull: pull(a)),
        "whose steps cost nothing",
    ),
    (
        "check_reverse_step",
        step_slip(lambda a, at_x, at_next, pull: a + at_next + at_x),
        "u must be pulled back",
    ),
    (
        "check_reverse_step",
        step_slip(lambda a, at_x, at_next, pull: pull(a) + at_next + at_x),
        "lives at x_{i+1}",
    ),
    (
        "check_reverse_step",
        step_slip(lambda a, at_x, at_next, pull: pull(a + at_next + at_x)),
        "lives at x_i already",
    ),
    (
        "check_reverse_step",
        step_slip(lambda a, at_x, at_next, pull: pull(a + at_x) + at_next),
        "have changed places: ∂ℓ_i",
    ),
    (
        "check_reverse_step",
        step_slip(lambda a, at_x, at_next, pull: pull(a - at_next) - at_x),
        "the loss adds ℓ_i",
    ),
    (
        "check_reverse_step",
        step_slip(lambda a, at_x, at_next, pull: a + at_next),
        "this is u, at x_{i+1}",
    ),
    ("check_network_units", lambda n: n * torch.tensor([6, 9, 6, 5]), "a backward pass counts 2"),
    ("check_network_units", lambda n: n * torch.tensor([9, 9, 8, 7]), "the price of the memory"),
    ("check_network_units", lambda n: n * torch.tensor([9, 12, 8, 8]), "cheaper than bound"),
    ("check_network_units", lambda n: n * torch.tensor([6, 8, 8, 7]), "do not share"),
    ("check_network_units", lambda n: n * torch.tensor([9, 12, 12, 7]), "a step of bound has 2"),
    ("check_network_units", lambda n: n * torch.tensor([9, 12, 8, 12]), "reverse sweep of loss"),
    ("check_network_units", lambda n: n * torch.tensor([9, 12, 6, 7]), "2 + 2 + 2·2, not 2 + 2·2"),
    ("check_network_units", lambda n: n * torch.tensor([9, 12, 8, 5]), "left out two of these"),
    ("check_network_units", lambda n: n * torch.tensor([9, 12, 8, 6]), "walk forward first"),
    (
        "check_network_units",
        lambda n: n * torch.tensor([9, 12, 8, 14]),
        "in the same reverse sweep",
    ),
    ("check_network_units", lambda n: n * torch.tensor([9, 14, 8, 7]), "3 + 3 + 3·2"),
    ("check_network_units", lambda n: n * torch.tensor([9, 12, 14, 7]), "and 2 backward passes"),
    (
        "check_memory",
        lambda n, a, s: torch.tensor([n * a + (n + 1) * s, (n + 1) * s + a]),
        "autograd keeps no states besides",
    ),
    (
        "check_reverse_step",
        step_slip(lambda a, at_x, at_next, pull: pull(a - at_next) + at_x),
        "the sign inside u",
    ),
    (
        "check_reverse_step",
        step_slip(lambda a, at_x, at_next, pull: -pull(a + at_next) + at_x),
        "the sign of u",
    ),
    ("check_adjoint_sweep", lambda *c: sweep(*c, start=torch.zeros_like), "which is x_N and not 0"),
    ("check_adjoint_sweep", lambda *c: sweep(*c, start=torch.neg), "the sign of the start"),
    ("check_adjoint_sweep", lambda *c: sweep(*c, steps=range), "from the noise to the data"),
    (
        "check_adjoint_sweep",
        lambda *c: sweep(*c, steps=lambda n: range(n - 1, 0, -1)),
        "it stops at a_1",
    ),
    (
        "check_adjoint_sweep",
        lambda *c: sweep(*c, steps=lambda n: range(n - 2, -1, -1)),
        "step N − 1 is missing",
    ),
    ("check_adjoint_sweep", lambda *c: sweep(*c, shift=1), "of the wrong step"),
    (
        "check_adjoint_sweep",
        lambda *c: sweep(*c, step=lambda a, at_x, at_next, pull: pull(a) + at_x),
        "∂ℓ_i/∂x_{i+1} is missing in every step",
    ),
    (
        "check_adjoint_sweep",
        lambda *c: sweep(*c, step=lambda a, at_x, at_next, pull: pull(a + at_next)),
        "∂ℓ_i/∂x_i is missing in every step",
    ),
    (
        "check_adjoint_sweep",
        lambda *c: sweep(*c, step=lambda a, at_x, at_next, pull: pull(a)),
        "of −log p_B(x_N) alone",
    ),
    (
        "check_adjoint_sweep",
        lambda *c: sweep(*c, step=lambda a, at_x, at_next, pull: pull(a - at_next) + at_x),
        "the sign inside u",
    ),
    (
        "check_sample_loop",
        noisy_loop(lambda b, z, i: b[i] * z[i], quiet=lambda i, n: False),
        "must stop at the mean",
    ),
    ("check_sample_loop", noisy_loop(lambda b, z, i: 0), "the noise is missing in all steps"),
    (
        "check_sample_loop",
        noisy_loop(lambda b, z, i: b[i] * z[i], quiet=lambda i, n: i == n - 1),
        "not the first one of the walk",
    ),
    ("check_sample_loop", noisy_loop(lambda b, z, i: b[i] * z[i], steps=range), "takes i = N − 1"),
    (
        "check_sample_loop",
        noisy_loop(lambda b, z, i: b[i] * z[i], steps=lambda n: range(n - 1, 0, -1)),
        "this is x_1",
    ),
    ("check_sample_loop", noisy_loop(lambda b, z, i: b[i] ** 2 * z[i]), "do not square it"),
    ("check_sample_loop", noisy_loop(lambda b, z, i: b[i].sqrt() * z[i]), "no variance"),
    ("check_sample_loop", noisy_loop(lambda b, z, i: b[i] * z[0]), "a noise of its own"),
    (
        "check_sample_loop",
        noisy_loop(lambda b, z, i: b[(i + 1) % len(b)] * z[i]),
        "you took another step's",
    ),
    ("check_sample_loop", noisy_loop(lambda b, z, i: z[i]), "the noise is not scaled"),
    (
        "check_flexible_grid",
        lambda a, T, b: torch.cat(
            [
                torch.zeros(1),
                T
                * (
                    a * (torch.arange(1, len(a) + 1) / len(a)) ** b
                    + (1 - a) * (torch.arange(2, len(a) + 2) / len(a)) ** b
                ),
                torch.tensor([T]),
            ]
        ),
        "one interval too far",
    ),
    ("check_denoise", lambda x, s, a, c: (x + c**2 * s) * a, "so the data is larger"),
    ("check_denoise", lambda x, s, a, c: x / a, "the score has no part"),
    ("check_network_units", lambda n: network_units(1), "multiply by N"),
    ("check_flexible_grid", lambda *case: flexible_grid(*case)[1:-1], "the N − 1 times inside"),
    ("check_flexible_grid", inner_over(lambda alpha: len(alpha) + 1), "divide by N − 1"),
    ("check_flexible_grid", lambda a, T, b: flexible_grid(1 - a, T, b), "changed places. As a"),
    ("check_flexible_grid", lambda a, T, b: flexible_grid(a, T, 1.0), "the exponent β is missing"),
    (
        "check_flexible_grid",
        lambda a, T, b: T * flexible_grid(a, 1.0, 1.0) ** b,
        "mix after the power",
    ),
    (
        "check_flexible_grid",
        lambda a, T, b: torch.cat([flexible_grid(a, 1.0, b)[:-1], torch.tensor([T])]),
        "the inner times lack their T",
    ),
    (
        "check_flexible_grid",
        lambda a, T, b: Schedule.polynomial(len(a) + 1, T=T, beta=b).times,
        "this is the fixed grid",
    ),
    ("check_denoise", lambda x, s, a, c: (x + c * s) / a, "σ² multiplies the score"),
    ("check_denoise", lambda x, s, a, c: (x - c**2 * s) / a, "the sign: the score points"),
    ("check_denoise", lambda x, s, a, c: x + c**2 * s, "the mean of α x_0"),
    ("check_denoise", lambda x, s, a, c: x / a + c**2 * s, "α divides both"),
    ("check_denoise", lambda x, s, a, c: (x + c**2 * s / 2) / a, "the whole σ² s"),
    ("check_denoise", lambda x, s, a, c: (x - c * s) / a, "the score is not the noise"),
]


# That a solution passes and a planted answer is recognised is tested in test_exercises.py, for all
# notebooks at once. Here: the truths of the checks are those of the library.


def test_reverse_steps_one_after_the_other_give_the_library_s_gradient_by_x():
    """The solution on a whole chain of the library, against autograd in float64."""
    torch.manual_seed(0)
    model = DiffFlow.mlp(Schedule.polynomial(6, T=1.0, g=0.5), hidden=16).double()
    nn.init.normal_(model.drift.last.weight, std=0.3)
    noise = torch.randn(6, 5, 2, dtype=torch.float64)
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(model.bound(x, noise, gradient="autograd").sum(), x)
    states = [x.detach()]
    for i in range(6):
        states.append(model.forward_step(states[i], i, noise[i]).detach())
    a = states[-1]  # −∂log p_B(x_N)/∂x_N
    for i in reversed(range(6)):

        def energy(before, after, i=i):
            return 0.5 * model.backward_noise(before, after, i).square().sum(1)

        a = reverse_step(
            states[i], states[i + 1], a, lambda y, i=i: model.forward_mean(y, i), energy
        )
    assert (a - expected).norm() < 1e-12 * expected.norm()


def test_the_flexible_grid_is_the_library_s():
    torch.manual_seed(3)
    library = _draw_flexible(8, 0.5, 0.9, 1.0).times
    torch.manual_seed(3)
    alpha = torch.rand(7, dtype=torch.float64).clamp(1e-3, 1 - 1e-3)
    torch.testing.assert_close(flexible_grid(alpha, 0.5, 0.9), library, rtol=1e-12, atol=0)


@pytest.mark.parametrize("steps", [2, 10])
def test_the_last_step_of_a_chain_without_drift_is_tweedie_s_formula(steps):
    score = torch.sin
    model = DiffFlow(
        lambda x, t: torch.zeros_like(x), lambda x, t: score(3 * x), Schedule.log_snr(steps)
    ).double()
    t, process = model.schedule.times[1], model.schedule.noise_process
    x = torch.linspace(-1, 1, 10, dtype=torch.float64).reshape(5, 2)
    expected = denoise(x, score(3 * x), process.alpha(t), process.sigma(t))
    torch.testing.assert_close(model.backward_mean(x, 0), expected, rtol=1e-10, atol=1e-12)


def test_memory_counts_the_states_and_one_step():
    assert exercises.check_memory(lambda n, a, s: (n * a, a + s * n + s)) is True
