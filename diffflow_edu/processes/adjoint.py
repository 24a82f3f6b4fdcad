"""The stochastic adjoint, Algorithm 2 of the paper: exact gradients from cached states alone.

Plain autograd keeps every activation of N steps. Here the forward sweep keeps only the states
x_0 … x_N. The reverse sweep rebuilds one step at a time from (x_i, x_{i+1}): the noise that was
drawn need not be kept, since the states tell it.

Drift and score meet a state x_j twice, in the backward noise of step j − 1 and in the forward step
j. So the sweep stops once at every state, evaluates f_j = f(x_j, t_j) and s_j = s(x_j, t_j) once,
and sends back both cotangents together. With ℓ_i = ½‖δB_i‖² and a_j = dL/dx_j, from a_N on:

    dL/df_j = h_j a_{j+1} + ∂ℓ_{j−1}/∂f_j            dL/ds_j = ∂ℓ_{j−1}/∂s_j
    a_j     = k_j a_{j+1} + ∂ℓ_j/∂x_j + ∂ℓ_{j−1}/∂x_j + dL/df_j · ∂f_j/∂x_j + dL/ds_j · ∂s_j/∂x_j

In network units (1 a forward, 2 a backward pass) the scalar loss costs N + 6 N, the bound of every
particle 2 N + 6 N, since its cotangents are known only when backward begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from diffflow_edu.processes.base import standard_normal_log_prob
from diffflow_edu.schedules import Schedule

if TYPE_CHECKING:
    from diffflow_edu.processes.diffflow import DiffFlow


def path_bound(model: DiffFlow, schedule: Schedule, x: Tensor, noise: Tensor | None) -> Tensor:
    """`DiffFlow.bound` with the adjoint's gradient. x: (B, *shape), noise: (N, B, *shape). (B,)."""
    b = model.backward_std(schedule)
    path = _PathBound.apply(model, schedule, noise, x, b, *_parameters(model))
    return path + model.constant(schedule, x)


def path_loss(model: DiffFlow, schedule: Schedule, x: Tensor, noise: Tensor | None) -> Tensor:
    """The mean of `path_bound`, its gradient made in the same reverse sweep as its value. 0-d."""
    b = model.backward_std(schedule)
    parameters = _parameters(model)
    if not torch.is_grad_enabled() or not any(p.requires_grad for p in (x, b, *parameters)):
        return path_bound(model, schedule, x, noise).mean()
    path = _PathLoss.apply(model, schedule, noise, x, b, *parameters)
    return path + model.constant(schedule, x)


def _parameters(model: DiffFlow) -> list[nn.Parameter]:
    """The trained parameters of drift and score, each once even where the two share some."""
    modules = [m for m in (model.drift, model.score) if isinstance(m, nn.Module)]
    return [p for p in nn.ModuleList(modules).parameters() if p.requires_grad]


@dataclass
class _Gradients:
    x: Tensor
    b: Tensor
    parameters: list[Tensor | None]


def _forward_sweep(
    model: DiffFlow, schedule: Schedule, x: Tensor, noise: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Equation 11, N times. Returns the states (N + 1, B, *shape) and Σ ½‖δF_i‖², (B,)."""
    states = x.new_empty((schedule.steps + 1, *x.shape))
    states[0] = x
    forward = x.new_zeros(len(x))
    for i in range(schedule.steps):
        delta = torch.randn_like(x) if noise is None else noise[i]
        states[i + 1] = model.forward_step(states[i], i, delta, schedule)
        forward += 0.5 * delta.square().flatten(1).sum(1)
    return states, forward


def _reverse_sweep(
    model: DiffFlow,
    schedule: Schedule,
    states: Tensor,
    b: Tensor,
    parameters: list[Tensor],
    weight: Tensor,
    needs_x: bool,
) -> tuple[Tensor, _Gradients]:
    """Algorithm 2: Σ_i ℓ_i of every particle, (B,), and the gradients of Σ_n weight_n bound_n.

    weight: (B,), the cotangent of every particle's bound.
    """
    c = {name: getattr(schedule, name).tolist() for name in "khe"}
    times = schedule.times.to(states)
    stds = b.to(states)
    steps = schedule.steps
    weight = weight.reshape(-1, *[1] * (states.ndim - 2))

    backward = states.new_zeros(states.shape[1])
    grad_b = torch.zeros_like(b)
    grads: list[Tensor | None] = [None] * len(parameters)
    adjoint = weight * states[-1]  # a_N = −∂log p_B(x_N)/∂x_N
    incoming = None  # ∂ℓ_j/∂x_j of the step to the right, weighted

    for j in range(steps, -1, -1):
        # The one stop at x_j. At j = 0 no backward step begins, so the score has no part.
        with torch.enable_grad():
            x = states[j].detach().requires_grad_(j > 0 or needs_x)
            drift = model.drift(x, times[j]).to(x)
            score = model.score(x, times[j]).to(x) if j > 0 else None

        if j < steps:  # through the forward step j: x_{j+1} = k x_j + h f_j + s δF
            drift_cotangent = c["h"][j] * adjoint
            adjoint = c["k"][j] * adjoint + incoming
        else:
            drift_cotangent = torch.zeros_like(adjoint)

        outputs, cotangents = [drift], [drift_cotangent]
        if j > 0:  # through the backward noise of step i = j − 1 (equation 15)
            i = j - 1
            k, h, e = c["k"][i], c["h"][i], c["e"][i]
            mean = (x.detach() - h * drift.detach() + e * score.detach()) / k
            delta = (states[i] - mean) / stds[i]
            half_square = 0.5 * delta.square().flatten(1).sum(1)
            backward += half_square
            incoming = weight * delta / stds[i]
            grad_b[i] = -2 * (weight.flatten() * half_square).sum() / stds[i]
            adjoint = adjoint - incoming / k
            cotangents[0] = drift_cotangent + incoming * (h / k)
            outputs.append(score)
            cotangents.append(incoming * (-e / k))

        adjoint = _pull_back(outputs, cotangents, x, parameters, adjoint, grads)
    return backward, _Gradients(adjoint, grad_b, grads)


def _pull_back(
    outputs: list[Tensor],
    cotangents: list[Tensor],
    x: Tensor,
    parameters: list[Tensor],
    adjoint: Tensor,
    grads: list[Tensor | None],
) -> Tensor:
    """Send the cotangents of f_j and s_j to x_j (returned) and the parameters (added to grads)."""
    pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
    inputs = [x, *parameters] if x.requires_grad else parameters
    if not pairs or not inputs:
        return adjoint
    found = torch.autograd.grad(
        [o for o, _ in pairs], inputs, [c for _, c in pairs], allow_unused=True
    )
    if x.requires_grad:
        if found[0] is not None:
            adjoint = adjoint + found[0]
        found = found[1:]
    for n, grad in enumerate(found):
        if grad is not None:
            grads[n] = grad if grads[n] is None else grads[n] + grad
    return adjoint


class _PathBound(torch.autograd.Function):
    """−log p_B(x_N) + Σ ½(‖δB‖² − ‖δF‖²) of every particle; backward is one reverse sweep."""

    @staticmethod
    def forward(
        ctx: Any,
        model: DiffFlow,
        schedule: Schedule,
        noise: Tensor | None,
        x: Tensor,
        b: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        with _without_cast_cache(x):
            states, forward = _forward_sweep(model, schedule, x, noise)
            backward = torch.zeros_like(forward)
            for i in range(schedule.steps):
                delta = model.backward_noise(states[i], states[i + 1], i, schedule)
                backward += 0.5 * delta.square().flatten(1).sum(1)
        ctx.model, ctx.schedule = model, schedule
        ctx.autocast = _autocast_state(x)
        ctx.save_for_backward(states, b, *parameters)
        return backward - forward - standard_normal_log_prob(states[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        states, b, *parameters = ctx.saved_tensors
        with torch.autocast(**ctx.autocast):
            _, grads = _reverse_sweep(
                ctx.model, ctx.schedule, states, b, parameters, weight, ctx.needs_input_grad[3]
            )
        return None, None, None, grads.x, grads.b, *grads.parameters


class _PathLoss(torch.autograd.Function):
    """The mean of `_PathBound`; every cotangent is 1/B, so value and gradient share a sweep."""

    @staticmethod
    def forward(
        ctx: Any,
        model: DiffFlow,
        schedule: Schedule,
        noise: Tensor | None,
        x: Tensor,
        b: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        weight = x.new_full((len(x),), 1 / len(x))
        with _without_cast_cache(x):
            states, forward = _forward_sweep(model, schedule, x, noise)
            backward, grads = _reverse_sweep(
                model, schedule, states, b, list(parameters), weight, x.requires_grad
            )
        saved = [grads.x, grads.b, *grads.parameters]
        ctx.has_gradient = [grad is not None for grad in saved]
        ctx.save_for_backward(*(grad for grad in saved if grad is not None))
        return (backward - forward - standard_normal_log_prob(states[-1])).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        found = iter(ctx.saved_tensors)
        grads = [weight * next(found) if has else None for has in ctx.has_gradient]
        return None, None, None, *grads


def _autocast_state(x: Tensor) -> dict[str, Any]:
    """What torch.autocast needs to do in backward what it did in forward."""
    device = x.device.type
    return {
        "device_type": device,
        "dtype": torch.get_autocast_dtype(device),
        "enabled": torch.is_autocast_enabled(device),
        "cache_enabled": False,
    }


@contextmanager
def _without_cast_cache(x: Tensor) -> Iterator[None]:
    # A weight cast under no_grad would be cached without its gradient and used again with.
    with torch.autocast(**_autocast_state(x)):
        yield
