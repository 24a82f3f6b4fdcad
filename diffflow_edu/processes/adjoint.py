"""The stochastic adjoint, Algorithm 2 of the paper: exact gradients from cached states alone.

Plain autograd keeps every activation of N steps. Here the forward sweep keeps only the states
x_0 … x_N. The reverse sweep rebuilds one step at a time from (x_i, x_{i+1}): the noise that was
drawn need not be kept, since the states tell it.

Drift and score meet a state x_j twice, in the backward noise of step j − 1 and in the forward step
j. So the sweep stops once at every state, evaluates f_j = f(x_j, t_j) and s_j = s(x_j, t_j) once,
and sends back both cotangents together. With ℓ_i = ½‖δB_i‖² and a_j = dL/dx_j, from a_N on:

    dL/df_j = h_j a_{j+1} + ∂ℓ_{j−1}/∂f_j            dL/ds_j = ∂ℓ_{j−1}/∂s_j
    a_j     = k_j a_{j+1} + ∂ℓ_j/∂x_j + ∂ℓ_{j−1}/∂x_j + dL/df_j · ∂f_j/∂x_j + dL/ds_j · ∂s_j/∂x_j

In network units (1 a forward pass, 2 a backward pass, of drift or score) the scalar loss costs
N + 6 N, the bound of every particle 2 N + 6 N, since its cotangents are known only when backward
begins. Algorithm 2 step by step, with f_j evaluated on either side of x_j, costs 12 N.

Where the scalar loss counts only n of the ℓ_i, drawn at random and each N/n times, its value and
gradient keep their means. The score is then evaluated at n states only: N + 3 N of the drift and
3 n of the score.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffflow_edu.processes.base import Field, standard_normal_log_prob
from diffflow_edu.schedules import Schedule

if TYPE_CHECKING:
    from diffflow_edu.processes.diffflow import DiffFlow


def path_bound(model: DiffFlow, schedule: Schedule, x: Tensor, noise: Tensor | None) -> Tensor:
    """`DiffFlow.bound` with the adjoint's gradient. x: (B, *shape), noise: (N, B, *shape). (B,)."""
    b = model.backward_std(schedule)
    path = _apply(_PathBound, model, schedule, noise, x, b, *_parameters(model, schedule, x))
    return path + model.constant(schedule, x)


def path_loss(
    model: DiffFlow,
    schedule: Schedule,
    x: Tensor,
    noise: Tensor | None,
    counted: list[int] | None = None,
) -> Tensor:
    """The mean of `path_bound`, its gradient made in the same reverse sweep as its value. 0-d.

    counted: the backward steps i that count, each N/len(counted) times; by default all.
    """
    b = model.backward_std(schedule)
    parameters = _parameters(model, schedule, x)
    learns = torch.is_grad_enabled() and any(p.requires_grad for p in (x, b, *parameters))
    if counted is None:
        counted = list(range(schedule.steps))
        if not learns:
            return path_bound(model, schedule, x, noise).mean()
    path = _apply(_PathLoss, model, schedule, noise, counted, x, b, *parameters)
    return path + model.constant(schedule, x)


def some_steps(steps: int, n: int) -> list[int]:
    """n of the N steps, spread evenly from a random start: each is as likely as any other.

    The start is drawn from torch's global generator of the CPU.
    """
    start = float(torch.rand((), dtype=torch.float64))
    return [min(steps - 1, int((start + m) * steps / n)) for m in range(n)]


def _parameters(model: DiffFlow, schedule: Schedule, x: Tensor) -> list[Tensor]:
    """What drift and score learn, each parameter once even where the two share some."""
    found: dict[Tensor, None] = {}
    times = schedule.times.to(x)
    for field, met in ((model.drift, times), (model.score, times[1:])):
        if isinstance(field, nn.Module):
            found |= dict.fromkeys(p for p in field.parameters() if p.requires_grad)
        elif torch.is_grad_enabled():  # a function; it may use parameters, others at every time
            for t in met:
                found |= dict.fromkeys(leaves(field(x.detach(), t)))
    if not found and torch.is_grad_enabled():  # then no reverse sweep may come to find it out
        for name in ("drift", "score"):
            field = getattr(model, name)
            refuse_hidden(name, field, x.detach(), times[-1], None, model.parameters())
    return list(found)


def leaves(output: Tensor) -> list[Tensor]:
    """The tensors that an output depends on and that gather a gradient."""
    found, seen, stack = [], set(), [getattr(output, "grad_fn", None)]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        stack.extend(parent for parent, _ in node.next_functions)
    return found


def refuse_hidden(
    name: str, field: Field, x: Tensor, t: Tensor, output: Tensor | None, known: Iterable[Tensor]
) -> None:
    """Raise a ValueError for a module whose output depends on learnables that nobody knows of.

    The adjoint asks a module for its parameters, so those of a network that it keeps in a list
    would get no gradient. output: field(x, t), where it is there already.
    """
    if not isinstance(field, nn.Module):
        return
    ids = {id(tensor) for tensor in known}
    with torch.enable_grad():
        unknown = leaves(field(x, t) if output is None else output)
        unknown = [leaf for leaf in unknown if id(leaf) not in ids]
        # What the field makes on the way is another one the next time.
        again = {id(leaf) for leaf in leaves(field(x, t))} if unknown else set()
    hidden = [leaf for leaf in unknown if id(leaf) in again]
    if hidden:
        raise ValueError(
            f"{name} is a {type(field).__name__} that depends on "
            f"{sum(leaf.numel() for leaf in hidden)} learnable numbers which its parameters() do "
            "not hold, so the adjoint cannot give them a gradient. Keep networks as attributes, in "
            "an nn.ModuleList or an nn.ModuleDict, freeze them with requires_grad_(False), or take "
            "plain autograd: gradient='autograd' in a DiffFlow's bound, 'direct' in a CNF"
        )


@dataclass
class _Chain:
    """The coefficients of a schedule, ready for use: numbers, and times 0-d like x."""

    k: list[float]
    h: list[float]
    s: list[float]
    e: list[float]
    b: list[float]
    times: Tensor

    @property
    def steps(self) -> int:
        return len(self.k)

    @staticmethod
    def of(schedule: Schedule, b: Tensor, x: Tensor) -> _Chain:
        """b: the backward std of every step, (N,), learned or not."""
        c = schedule
        numbers = (values.tolist() for values in (c.k, c.h, c.s, c.e, b.detach()))
        return _Chain(*numbers, times=c.times.to(x))

    def backward_noise(
        self, i: int, x: Tensor, x_next: Tensor, drift: Tensor, score: Tensor
    ) -> Tensor:
        """δB_i (equation 15), given drift and score at x_next."""
        mean = (x_next - self.h[i] * drift + self.e[i] * score) / self.k[i]
        return (x - mean) / self.b[i]


@dataclass
class _Gradients:
    x: Tensor
    b: Tensor
    parameters: list[Tensor | None]


def _half_square(noise: Tensor) -> Tensor:
    """½‖δ‖² of every particle, (B,)."""
    return 0.5 * noise.square().flatten(1).sum(1)


def _forward_sweep(
    model: DiffFlow, chain: _Chain, x: Tensor, noise: Tensor | None, with_backward: bool
) -> tuple[Tensor, Tensor]:
    """Equation 11, N times.

    Returns the states x_0 … x_N, (N + 1, B, *shape), and the path term Σ ½(‖δB_i‖² − ‖δF_i‖²),
    (B,); without its first part, which needs the score, unless `with_backward`.
    """
    states = x.new_empty((chain.steps + 1, *x.shape))
    states[0] = x
    path = x.new_zeros(len(x))
    for j in range(chain.steps + 1 if with_backward else chain.steps):
        drift = model.drift_at(states[j], chain.times[j])
        if with_backward and j > 0:
            score = model.score_at(states[j], chain.times[j])
            path += _half_square(
                chain.backward_noise(j - 1, states[j - 1], states[j], drift, score)
            )
        if j < chain.steps:
            delta = torch.randn_like(x) if noise is None else noise[j]
            states[j + 1] = chain.k[j] * states[j] + chain.h[j] * drift + chain.s[j] * delta
            path -= _half_square(delta)
    return states, path


def _reverse_sweep(
    model: DiffFlow,
    chain: _Chain,
    states: Tensor,
    parameters: list[Tensor],
    weight: Tensor,
    needs_x: bool,
    counted: list[int] | None = None,
) -> tuple[Tensor, _Gradients]:
    """Algorithm 2: Σ_i ℓ_i of every particle, (B,), and the gradients of Σ_n weight_n bound_n.

    weight: (B,), the cotangent of every particle's bound. counted: the i of the sum, each N/n
    times; by default all.
    """
    times = 1.0 if counted is None else chain.steps / len(counted)
    weight = weight.reshape(-1, *[1] * (states.ndim - 2))
    backward = states.new_zeros(states.shape[1])
    grads: list[Tensor | None] = [None] * len(parameters)
    grad_b: list[Tensor] = []
    adjoint = weight * states[-1]  # a_N = −∂log p_B(x_N)/∂x_N
    incoming = 0.0  # ∂ℓ_j/∂x_j, from the step on the noise side

    for j in range(chain.steps, -1, -1):
        # The one stop at x_j. At j = 0 no backward step begins, so the score has no part.
        counts = j > 0 and (counted is None or j - 1 in counted)
        with torch.enable_grad():
            x = states[j].detach().requires_grad_(j > 0 or needs_x)
            drift = model.drift_at(x, chain.times[j])
            score = model.score_at(x, chain.times[j]) if counts else None
        if j == chain.steps:
            known = [x, *parameters, *model.parameters()]
            for name, output in (("drift", drift), ("score", score)):
                if output is not None:
                    refuse_hidden(name, getattr(model, name), x, chain.times[j], output, known)
        outputs, cotangents = [drift], [torch.zeros_like(adjoint)]

        if j < chain.steps:  # the forward step j: x_{j+1} = k x_j + h f_j + s δF
            cotangents[0] = chain.h[j] * adjoint
            adjoint = chain.k[j] * adjoint + incoming

        i = j - 1
        if not counts:
            incoming = 0.0
            grad_b.extend([weight.new_zeros(())] * (i >= 0))
        else:  # the backward noise of step i = j − 1 (equation 15)
            noise = chain.backward_noise(i, states[i], states[j], drift.detach(), score.detach())
            half_square = times * _half_square(noise)
            backward += half_square
            grad_b.append(-2 * (weight.flatten() * half_square).sum() / chain.b[i])
            incoming = weight * noise / (chain.b[i] / times)
            adjoint = adjoint - incoming / chain.k[i]
            cotangents[0] += incoming * (chain.h[i] / chain.k[i])
            outputs.append(score)
            cotangents.append(incoming * (-chain.e[i] / chain.k[i]))

        adjoint = _pull_back(outputs, cotangents, x, parameters, adjoint, grads)
    return backward, _Gradients(adjoint, torch.stack(grad_b[::-1]).cpu().double(), grads)


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
    with _without_hooks(parameters):
        found = torch.autograd.grad(
            [o for o, _ in pairs], inputs, [c for _, c in pairs], allow_unused=True
        )
    if x.requires_grad:
        if found[0] is not None:
            adjoint = adjoint + found[0]
        found = found[1:]
    for n, grad in enumerate(found):
        if grad is not None:  # a copy: a net in a CUDA graph writes its next gradient over this one
            grads[n] = grad.clone() if grads[n] is None else grads[n] + grad
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
        chain = _Chain.of(schedule, b, x)
        with _without_cast_cache(x):
            states, path = _forward_sweep(model, chain, x, noise, with_backward=True)
        ctx.model, ctx.chain = model, chain
        ctx.autocast = _autocast_state(x)
        ctx.save_for_backward(states, *parameters)
        return path - standard_normal_log_prob(states[-1])

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        states, *parameters = ctx.saved_tensors
        with torch.autocast(**ctx.autocast):
            _, grads = _reverse_sweep(
                ctx.model, ctx.chain, states, parameters, weight, ctx.needs_input_grad[3]
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
        counted: list[int],
        x: Tensor,
        b: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        weight = x.new_full((len(x),), 1 / len(x))
        chain = _Chain.of(schedule, b, x)
        with _without_cast_cache(x):
            states, path = _forward_sweep(model, chain, x, noise, with_backward=False)
            backward, grads = _reverse_sweep(
                model, chain, states, list(parameters), weight, x.requires_grad, counted
            )
        saved = [grads.x, grads.b, *grads.parameters]
        ctx.has_gradient = [grad is not None for grad in saved]
        ctx.save_for_backward(*(grad for grad in saved if grad is not None))
        return (path + backward - standard_normal_log_prob(states[-1])).mean()

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        found = iter(ctx.saved_tensors)
        # The gradient of b lives on the CPU, as b does.
        here = (next(found) if has else None for has in ctx.has_gradient)
        grads = [None if grad is None else weight.to(grad.device) * grad for grad in here]
        return None, None, None, None, *grads


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    """Run it, and say in our words that torch.func's transforms cannot see through it."""
    try:
        return function.apply(*arguments)
    except RuntimeError as error:
        if "setup_context" not in str(error):
            raise
        raise RuntimeError(
            "the adjoint knows no transforms of torch.func such as grad and vmap; use "
            "bound(x, gradient='autograd') for them"
        ) from error


def _refuse_second_derivatives() -> None:
    if torch.is_grad_enabled():  # autograd enables it in backward for create_graph=True alone
        raise RuntimeError(
            "the adjoint has no second derivatives; use bound(x, gradient='autograd') for them"
        )


@contextmanager
def _without_hooks(parameters: list[Tensor]) -> Iterator[None]:
    """Keep the parameters' own hooks for the whole gradient: a step sees only its share of it."""
    hooks = [(p._backward_hooks, dict(p._backward_hooks)) for p in parameters if p._backward_hooks]
    for live, _ in hooks:
        live.clear()
    try:
        yield
    finally:
        for live, kept in hooks:
            live.update(kept)


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
