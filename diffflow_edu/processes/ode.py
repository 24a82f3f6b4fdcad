"""Ordinary differential equations for particles, with the divergence integrated beside them.

A particle that follows dx/dt = f(x, t) carries its density along (Chen et al. 2018, "Neural
ordinary differential equations", the instantaneous change of variables):

    d log p(x(t), t)/dt = −tr(∂f/∂x)

so log p at one end is log p at the other plus the integral of the trace. The trace is exact, from
all rows of the Jacobian at once, or Hutchinson's estimate vᵀ(∂f/∂x)v with E v vᵀ = I (Grathwohl et
al. 2019, FFJORD). The solvers are those of torchdiffeq.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint

from diffflow_edu.devices import has_double
from diffflow_edu.processes.adjoint import leaves
from diffflow_edu.processes.base import Field
from diffflow_edu.schedules import check_positive, check_whole, shortly

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "adaptive_heun")
FIXED_STEP = ("rk4", "midpoint", "euler")
LARGEST_EXACT = 16
"""In more dimensions than this Hutchinson's estimate is the default."""


class SolverError(ArithmeticError):
    """A solver gave up: it cannot reach its tolerance, or the field is not finite."""


@dataclass(frozen=True)
class Solver:
    """How to integrate: adaptive to a tolerance, or in equal steps.

    method: "dopri5" (default), "dopri8", "bosh3" or "adaptive_heun" choose their own steps so that
        the local error of each stays below atol + rtol |x|; "rk4", "midpoint" and "euler" take
        `steps` equal ones.
    max_evaluations: of the field, before an adaptive solver gives up with a SolverError.
    error: of a step, over the particles: "rms", the root mean square, or "max", the worst
        particle's. All particles of a batch share their steps, so with "rms" the log p of one
        depends a little on the others: of a DDPM on olympic_rings at 1e-4, the worst of 25 points
        among 400 is .007 nats from the truth; with "max" it is .0004, for 350 evaluations in place
        of 218. One particle far out makes the steps of all short: where that ends in a
        SolverError, or costs too much, integrate it in a batch of its own.

    >>> Solver(rtol=1e-7, atol=1e-7)
    Solver(dopri5, rtol=1e-07, atol=1e-07)
    >>> Solver("rk4", steps=8)
    Solver(rk4, steps=8)
    """

    method: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    steps: int | None = None
    max_evaluations: int = 10_000
    error: Literal["rms", "max"] = "rms"

    def __post_init__(self) -> None:
        if self.method not in ADAPTIVE + FIXED_STEP:
            known = ", ".join(ADAPTIVE + FIXED_STEP)
            raise ValueError(f"method must be one of {known}, got {shortly(self.method)}")
        check_positive(rtol=self.rtol, atol=self.atol)
        check_whole("max_evaluations", self.max_evaluations)
        if self.error not in ("rms", "max"):
            raise ValueError(f"error must be 'rms' or 'max', got {shortly(self.error)}")
        if self.adaptive and self.steps is not None:
            raise ValueError(
                f"steps belongs to a fixed-step method ({', '.join(FIXED_STEP)}); {self.method} "
                f"chooses its own by rtol and atol, got steps={shortly(self.steps)}"
            )
        if not self.adaptive:
            check_whole("steps", self.steps)

    @property
    def adaptive(self) -> bool:
        """Whether it chooses its own steps."""
        return self.method in ADAPTIVE

    def __repr__(self) -> str:
        how = f"rtol={self.rtol:g}, atol={self.atol:g}" if self.adaptive else f"steps={self.steps}"
        if self.adaptive and self.error == "max":
            how += ", error='max'"
        return f"Solver({self.method}, {how})"


@dataclass(frozen=True, eq=False)
class Solution:
    """What an integration leaves behind, at each of the K times asked for.

    times: (K,). states: (K, B, *shape).
    log_det: (K, B), the integral of tr(∂f/∂x) from times[0], nats: log|det ∂x(t_k)/∂x(t_0)|.
        Zero where no divergence was asked for.
    kinetic, jacobian: (B,), the integrals of ‖f‖² and ‖∂f/∂x‖²_F over |dt|; None unless asked for.
    evaluations: how often the field was called for the whole batch.
    """

    times: Tensor
    states: Tensor
    log_det: Tensor
    kinetic: Tensor | None
    jacobian: Tensor | None
    evaluations: int


def divergence(
    field: Field, x: Tensor, t: Tensor, probes: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """f, tr(∂f/∂x) and ‖∂f/∂x‖²_F at x (B, *shape) and t (0-d).

    probes: None gives them exactly, by one batched product with all unit vectors at once; probes
        (P, B, *shape) with E v vᵀ = I give the unbiased estimates vᵀ(∂f/∂x)v and ‖vᵀ(∂f/∂x)‖²,
        averaged over the P.
    Returns (B, *shape), (B,), (B,); differentiable where autograd is recording.

    >>> f, trace, square = divergence(lambda x, t: 2 * x, torch.ones(5, 3), torch.tensor(0.0))
    >>> trace[0], square[0]
    (tensor(6.), tensor(12.))
    """
    recording = torch.is_grad_enabled()
    with torch.enable_grad():
        fresh = not (recording and x.requires_grad)
        if fresh:
            x = x.detach().requires_grad_()
        f = field(x, t)
        if fresh and recording:  # is there anything but our own x to differentiate by?
            recording = any(leaf is not x for leaf in leaves(f))
        if probes is None:
            probes, share = _unit_vectors(x), 1.0
        else:
            share = 1 / len(probes)
        rows = _rows(f, x, probes, recording)
        trace = share * (rows * probes).flatten(2).sum((0, 2))
        square = share * rows.square().flatten(2).sum((0, 2))
    return (f, trace, square) if recording else (f.detach(), trace.detach(), square.detach())


def jacobian(field: Field, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """f and ∂f/∂x at x (B, *shape) and t (0-d), without gradients.

    Returns (B, *shape) and (B, d, d), rows of f by columns of x.

    >>> jacobian(lambda x, t: x.flip(1), torch.ones(1, 2), torch.tensor(0.0))[1]
    tensor([[[0., 1.],
             [1., 0.]]])
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        f = field(x, t)
        rows = _rows(f, x, _unit_vectors(x), create_graph=False)
    return f.detach(), rows.flatten(2).transpose(0, 1)


def _unit_vectors(x: Tensor) -> Tensor:
    """One probe a coordinate, (d, *x.shape)."""
    d = x[0].numel()
    unit = torch.eye(d, dtype=x.dtype, device=x.device).reshape(d, 1, *x.shape[1:])
    return unit.expand(d, *x.shape)


def _rows(f: Tensor, x: Tensor, probes: Tensor, create_graph: bool) -> Tensor:
    """vᵀ ∂f/∂x for every probe v: (P, B, *shape) like the probes."""
    if not f.requires_grad:
        return torch.zeros_like(probes)
    options = {"retain_graph": True, "create_graph": create_graph, "allow_unused": True}
    try:
        (rows,) = torch.autograd.grad(f, x, probes, is_grads_batched=True, **options)
    except RuntimeError:  # a field with an operation that vmap does not know
        each = [torch.autograd.grad(f, x, probe, **options)[0] for probe in probes]
        rows = None if each[0] is None else torch.stack(each)
    return torch.zeros_like(probes) if rows is None else rows


def draw_probes(
    x: Tensor,
    count: int = 1,
    kind: Literal["rademacher", "gaussian"] = "rademacher",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Random v with E v vᵀ = I, (count, *x.shape): signs, or standard normal numbers.

    Signs have the smaller variance: 2 Σ_{i≠j} of the squared symmetric part of the Jacobian, to
    which normal numbers add twice the squared diagonal.
    """
    check_whole("probes", count)
    if kind not in ("rademacher", "gaussian"):
        raise ValueError(f"probe must be 'rademacher' or 'gaussian', got {shortly(kind)}")
    shape = (count, *x.shape)
    if kind == "gaussian":
        return torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
    signs = torch.randint(0, 2, shape, generator=generator, device=x.device)
    return signs.to(x) * 2 - 1


def integrate(
    field: Field,
    x: Tensor,
    times: Tensor,
    solver: Solver | None = None,
    with_divergence: bool = True,
    probes: Tensor | None = None,
    penalties: bool = False,
    gradient: Literal["direct", "adjoint"] = "direct",
    parameters: Sequence[Tensor] | None = None,
    kinks: Tensor | None = None,
) -> Solution:
    """Follow dx/dt = field(x, t) from x at times[0] through all the other times.

    field: (x (B, *shape), t 0-d) -> (B, *shape). x: (B, *shape). times: (K,), K ≥ 2, strictly
    rising or strictly falling.
    probes: (P, B, *shape) for Hutchinson's estimate (`draw_probes`), fixed along the way; None for
        the exact trace.
    penalties: also integrate ‖f‖² and ‖∂f/∂x‖²_F (RNODE, Finlay et al. 2020).
    gradient: "direct" goes through the solver's own steps and keeps them all; "adjoint" keeps the
        ends and solves a second ODE backwards, right to the tolerance.
    parameters: of the field, those that get a gradient from "adjoint", () for none. By default
        all of a module; a plain function is asked at times[0] what it depends on.
    kinks: (n,), times at which the field has a bend in t. An adaptive solver then ends a step
        there: across a bend it cannot tell how large its error is.

    Raises ValueError for times that do not go one way, SolverError where an adaptive solver gives
    up, with the tolerance, the time and the step it had reached, and what to try.
    """
    solver = Solver() if solver is None else solver
    if not isinstance(solver, Solver):
        raise ValueError(f"solver must be a Solver, got {shortly(solver)}")
    if gradient not in ("direct", "adjoint"):
        raise ValueError(f"gradient must be 'direct' or 'adjoint', got {shortly(gradient)}")
    times = torch.as_tensor(times).detach().to(x)
    steps = times.diff()
    if times.ndim != 1 or len(times) < 2 or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(
            f"times must be two or more, rising or falling, got {shortly(times.tolist())}"
        )

    dynamics = _Dynamics(field, times, solver, with_divergence, probes, penalties, x.dtype)
    state = (x, *(x.new_zeros(len(x)) for _ in range(dynamics.integrals)))
    # Without step_t an adaptive solver steps beyond the end, and interpolates.
    inner = times[:0] if kinks is None else kinks.detach().to(times).flatten().unique()
    inner = inner[(inner > times.min()) & (inner < times.max())]
    there = {"grid_constructor": dynamics.grid}
    back = there
    if solver.adaptive:
        there = {"step_t": torch.cat([inner, times[-1:]])}
        back = {"step_t": torch.cat([inner, times[:1]])}
        if solver.error == "max":
            there["norm"] = worst_particle
        if not has_double(x.device):  # in which torchdiffeq otherwise keeps times and errors
            there["dtype"] = back["dtype"] = x.dtype
    numbers = {"rtol": solver.rtol, "atol": solver.atol}
    numbers |= {"method": solver.method, "options": there}
    if gradient == "adjoint" and torch.is_grad_enabled():
        parameters = learned(field, x, times[0]) if parameters is None else parameters
        options = {"adjoint_params": tuple(parameters), "adjoint_options": back}
        found = odeint_adjoint(dynamics, state, times, **options, **numbers)
    else:
        found = odeint(dynamics, state, times, **numbers)
    states, *integrals = found
    evaluations, dynamics.evaluations = dynamics.evaluations, 0  # the adjoint's count anew
    return Solution(
        times=times,
        states=states,
        log_det=integrals[0] if with_divergence else x.new_zeros(len(times), len(x)),
        kinetic=integrals[-2][-1] if penalties else None,
        jacobian=integrals[-1][-1] if penalties else None,
        evaluations=evaluations,
    )


def worst_particle(state: tuple[Tensor, ...]) -> Tensor:
    """The size of an error, tensors (B, ...): root mean square within a particle, then the worst.

    >>> worst_particle((torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([1.0, -2.0])))
    tensor(3.5355)
    """
    sizes = [part.reshape(len(part), -1).square().mean(1).max().sqrt() for part in state]
    return torch.stack(sizes).max()


def learned(field: Field, x: Tensor, t: Tensor) -> list[Tensor]:
    """What a field learns: its parameters; a plain function is asked what it depends on."""
    if isinstance(field, nn.Module):
        return [p for p in field.parameters() if p.requires_grad]
    with torch.enable_grad():
        return leaves(field(x.detach(), t))


class _Dynamics:
    """The right-hand side for torchdiffeq: particles first, then the integrals beside them."""

    def __init__(
        self,
        field: Field,
        times: Tensor,
        solver: Solver,
        with_divergence: bool,
        probes: Tensor | None,
        penalties: bool,
        dtype: torch.dtype,
    ) -> None:
        self.field, self.solver, self.probes = field, solver, probes
        self.with_divergence, self.penalties = with_divergence, penalties
        self.first, self.last = float(times[0]), float(times[-1])
        self.dtype = dtype
        self.evaluations = 0
        self.integrals = int(with_divergence) + 2 * int(penalties)

    def __call__(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = state[0]
        # To guess its first step the solver may look beyond the end, where no field need be.
        t = t.clamp(min(self.first, self.last), max(self.first, self.last))
        self.evaluations += 1
        if not self.integrals:
            return (self.field(x, t),)
        f, trace, square = divergence(self.field, x, t, self.probes)
        rates = (trace,) if self.with_divergence else ()
        if self.penalties:
            # Over |dt|, so that a penalty is positive whichever way time runs.
            forward = 1.0 if self.last > self.first else -1.0
            rates += (forward * f.square().flatten(1).sum(1), forward * square)
        return (f, *rates)

    def grid(self, func: object, y0: object, times: Tensor) -> Tensor:
        """Equal steps that meet all the times asked for: no state is interpolated."""
        longest = abs(self.last - self.first) / self.solver.steps
        pieces = [times[:1]]
        for a, b in zip(times[:-1], times[1:], strict=True):
            count = max(1, math.ceil(abs(float(b - a)) / longest - 1e-3))
            inner = a + (b - a) * torch.arange(1, count, device=times.device) / count
            pieces += [inner.to(times), b.reshape(1)]
        return torch.cat(pieces)

    def callback_step(self, t: Tensor, state: tuple[Tensor, ...], dt: Tensor) -> None:
        """Called before every step: the place to give up with a message that helps."""
        if not self.solver.adaptive:
            return
        t, dt = t.item(), dt.item()
        if not all(part.isfinite().all() for part in state):
            raise SolverError(
                f"the field is not finite: particles became NaN or infinite by t = {t:.6g}. "
                "Check the field there, or where the particles start."
            )
        vanished = t + dt == t
        if vanished or self.evaluations >= self.solver.max_evaluations:
            why = "its step vanished" if vanished else f"that is {self.evaluations} evaluations"
            precise = "" if self.dtype == torch.float64 else "float64 in place of float32, "
            raise SolverError(
                f"{self.solver.method} cannot reach its tolerance (rtol={self.solver.rtol:g}, "
                f"atol={self.solver.atol:g}): at t = {t:.6g}, on the way from "
                f"{self.first:g} to {self.last:g}, with a step of {dt:.3g}, {why}. Try a "
                f"larger rtol and atol, {precise}more max_evaluations "
                f"(now {self.solver.max_evaluations}), or fixed steps: Solver('rk4', steps=100)."
            )

    callback_step_adjoint = callback_step
