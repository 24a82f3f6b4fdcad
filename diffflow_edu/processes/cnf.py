"""The continuous normalizing flow, FFJORD (Grathwohl et al. 2019, arXiv 1810.01367).

    dx = f(x, t) dt        data at t = 0, noise at t = T

DiffFlow without noise: one field carries particles both ways, and the density is exact,

    log p(x_0) = log N(x_T; 0, I) + ∫_0^T tr(∂f/∂x) dt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Literal

import torch
from torch import Tensor, nn

from diffflow_edu.labels import only
from diffflow_edu.nets import MLP
from diffflow_edu.processes.adjoint import refuse_hidden
from diffflow_edu.processes.base import (
    Field,
    Process,
    Trajectory,
    check_shape,
    field_like,
    generator_for,
    standard_normal_log_prob,
)
from diffflow_edu.processes.ode import (
    LARGEST_EXACT,
    Solution,
    Solver,
    draw_probes,
    integrate,
    learned,
)
from diffflow_edu.processes.walk import Keep, Normals, Seed, check_keep, check_seeds
from diffflow_edu.schedules import check_whole, shortly

SLOWER = 20.0
"""The sines of t in `CNF.mlp` are so many times slower than those of a score."""


class CNF(Process):
    """A flow in continuous time, trained by its exact likelihood.

    drift: a callable (x (B, *shape), t 0-d) -> (B, *shape); a module is held, not copied.
    T: the time at which particles are noise.
    trace: "exact", or "hutchinson" with `probes` random vectors of kind `probe` ("rademacher" or
        "gaussian"); by default exact up to 16 dimensions.
    solver: how the ODE is integrated; by default dopri5 to 1e-5.
    train_steps: in training mode `loss` takes so many steps of rk4 instead: cheap, and of a known
        cost. It is rk4's −log p, which a field that bends too fast for so few steps makes look
        better than it is; ``-model.log_prob(x)`` is the truth. Measured in 3-D, five clouds of
        width .15, 64 wide, 300 steps: with 4 the loss says .31 nats where .57 are true, with 8,
        at twice the time, .417 where .416 are true. None trains through `solver`.
    gradient: "direct" goes through every step and keeps them all, "adjoint" keeps only the ends and
        solves a second ODE; by default direct in fixed steps, adjoint in adaptive ones.
    kinetic, jacobian: weights of the regularisers ∫‖f‖² dt and ∫‖∂f/∂x‖²_F dt in `loss` (RNODE,
        Finlay et al. 2020); straight paths and tame Jacobians need fewer evaluations.
    frames: steps of the Trajectories.
    shape: of one particle, for `sample`; by default what the network tells, or the data it sees.

    `evaluations` counts the drift's calls in the latest pass, each for the whole batch; where
    particles were carried in several batches, the calls of all.

    >>> _ = torch.manual_seed(0)
    >>> model = CNF.mlp(hidden=16)
    >>> model.log_prob(torch.randn(3, 2)).shape, len(model.sample(5, seed=0))
    (torch.Size([3]), 31)
    """

    bound_is_exact = True

    def __init__(
        self,
        drift: Field,
        T: float = 1.0,
        trace: Literal["exact", "hutchinson"] | None = None,
        probe: Literal["rademacher", "gaussian"] = "rademacher",
        probes: int = 1,
        solver: Solver | None = None,
        train_steps: int | None = None,
        gradient: Literal["direct", "adjoint"] | None = None,
        kinetic: float = 0.0,
        jacobian: float = 0.0,
        frames: int = 30,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        if not callable(drift):
            raise ValueError(f"drift must be callable as drift(x, t), got {shortly(drift)}")
        _check_horizon(T)
        if trace not in (None, "exact", "hutchinson"):
            raise ValueError(f"trace must be 'exact' or 'hutchinson', got {shortly(trace)}")
        if probe not in ("rademacher", "gaussian"):
            raise ValueError(f"probe must be 'rademacher' or 'gaussian', got {shortly(probe)}")
        if not (solver is None or isinstance(solver, Solver)):
            raise ValueError(f"solver must be a Solver, got {shortly(solver)}")
        if gradient not in (None, "direct", "adjoint"):
            raise ValueError(f"gradient must be 'direct' or 'adjoint', got {shortly(gradient)}")
        for name, weight in (("kinetic", kinetic), ("jacobian", jacobian)):
            if not (isinstance(weight, Real) and 0 <= weight < math.inf):
                raise ValueError(
                    f"{name} must be a finite number, 0 or more, got {shortly(weight)}"
                )
        check_whole("probes", probes)
        check_whole("frames", frames)
        if train_steps is not None:
            check_whole("train_steps", train_steps)
        self.drift = drift
        self.T = float(T)
        self.trace, self.probe, self.probes = trace, probe, probes
        self.solver = Solver() if solver is None else solver
        self.train_steps = train_steps
        self.gradient = gradient
        self.kinetic, self.jacobian = float(kinetic), float(jacobian)
        self.frames = frames
        self.evaluations = 0
        if shape is not None:
            self.shape = shape

    @classmethod
    def mlp(
        cls,
        dim: int = 2,
        hidden: int = 192,
        frequencies: int = 4,
        train_steps: int | None = 4,
        **options,
    ) -> CNF:
        """The model of this course for points in ℝ^dim: one MLP, about 90 k parameters at 192 wide.

        It starts at zero, hence at the identity; `options` are those of the class.

        Its field must be smooth in x and t. Likelihood pays for whatever the few steps of training
        do not see: with the fast waves that suit a score, rk4's −log p falls without end, while the
        true one, by the adaptive solver, rises.
        """
        horizon = options.get("T", 1.0)
        _check_horizon(horizon)
        slow = SLOWER * float(horizon)
        net = MLP(dim, hidden, frequencies=frequencies, zero_init=True, horizon=slow)
        return cls(net, train_steps=train_steps, **{"shape": (dim,), **options})

    def extra_repr(self) -> str:
        """What `print(model)` shows beside the network."""
        training = "" if self.train_steps is None else f", train_steps={self.train_steps}"
        trace = self.trace or f"exact up to {LARGEST_EXACT} dimensions"
        return (
            f"T={self.T:g}, {self.solver}{training}, trace={trace}, evaluations={self.evaluations}"
        )

    def drift_at(self, x: Tensor, t: Tensor) -> Tensor:
        """f(x, t), like x (B, *shape), at t, 0-d. Raises ValueError for any other shape."""
        return field_like("drift", self.drift(x, t), x)

    # Likelihood ----------------------------------------------------------------------------------

    def log_prob(self, x: Tensor, seed: int | None = None) -> Tensor:
        """log p(x) in nats, by the ODE: log N(x_T; 0, I) + ∫ tr(∂f/∂x) dt.

        x: (B, *shape). seed: of Hutchinson's probes; None takes torch's global generator.
        Returns (B,), exact to the solver's tolerance, or an unbiased estimate of it. The particles
        share their steps: within the tolerance, one depends on its batch (`Solver.error`).
        """
        x = self._enter(x)
        end = self._flow(x, self.solver, generator_for(seed, x.device))
        return self._per_data(standard_normal_log_prob(end.states[-1]) + end.log_det[-1], x)

    def bound(self, x: Tensor, seed: int | None = None) -> Tensor:
        """−log p(x) in nats: a flow's bound is tight. x: (B, *shape). Returns (B,)."""
        return -self.log_prob(x, seed)

    def rough_bound(self, x: Tensor, seed: int | None = None) -> Tensor:
        """What `loss` takes for −log p(x) in training mode, by `train_steps` of rk4. Like `bound`.

        How far its mean is from that of `bound` is what the training had no eye for.
        """
        x = self._enter(x)
        end = self._flow(x, self._training_solver(), generator_for(seed, x.device))
        return -self._per_data(standard_normal_log_prob(end.states[-1]) + end.log_det[-1], x)

    def _training_solver(self) -> Solver:
        return self.solver if self.train_steps is None else Solver("rk4", steps=self.train_steps)

    def loss(self, x: Tensor) -> Tensor:
        """Mean −log p(x) plus the regularisers, 0-d.

        In training mode by `train_steps` steps of rk4, whose error the field learns to use: it may
        lie below the true −log p, which `log_prob` gives, and the loss in eval mode. `fit` measures
        both at its end, `History.bound` and `History.rough_bound`, and warns where they differ.
        """
        x = self._enter(x)
        solver = self._training_solver() if self.training else self.solver
        penalties = self.kinetic > 0 or self.jacobian > 0
        end = self._flow(x, solver, None, penalties)
        log_p = standard_normal_log_prob(end.states[-1]) + end.log_det[-1]
        loss = -self._per_data(log_p, x).mean()
        if penalties:
            loss = loss + (self.kinetic * end.kinetic + self.jacobian * end.jacobian).mean()
        return loss

    def _flow(
        self,
        x: Tensor,
        solver: Solver,
        generator: torch.Generator | None,
        penalties: bool = False,
    ) -> Solution:
        """From data in the network's units to noise, with the trace."""
        exact = self.trace == "exact" or (self.trace is None and x[0].numel() <= LARGEST_EXACT)
        probes = None if exact else draw_probes(x, self.probes, self.probe, generator)
        gradient = self.gradient or ("adjoint" if solver.adaptive else "direct")
        parameters = ()
        if gradient == "adjoint" and torch.is_grad_enabled():
            module = isinstance(self.drift, nn.Module)
            parameters = learned(self.drift if module else self.drift_at, x, x.new_tensor(0.0))
            known = self.parameters()
            refuse_hidden("drift", self.drift, x.detach(), x.new_tensor(0.0), None, known)
        solution = integrate(
            self.drift_at,
            x,
            torch.tensor([0.0, self.T]),
            solver,
            probes=probes,
            penalties=penalties,
            gradient=gradient,
            parameters=parameters,
            kinks=self._kinks(),
        )
        self.evaluations = solution.evaluations
        return solution

    # Particles -----------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(
        self,
        x: Tensor,
        seed: Seed = None,
        times: Sequence[float] | Tensor | None = None,
        *,
        keep: Keep = "all",
        batch: int | None = None,
    ) -> Trajectory:
        """Carry data x (B, *shape) to noise. Nothing is random: seed is there for all processes.

        times: (K,) rising from 0 to T, where to look; by default frames + 1 equally spaced ones.
        keep, batch: as in `sample`.
        """
        x = self._enter(x)
        check_seeds(seed, len(x))
        return self._carry(x, self._times(times), keep, batch)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        seed: Seed = None,
        shape: tuple[int, ...] | None = None,
        times: Sequence[float] | Tensor | None = None,
        *,
        keep: Keep = "all",
        batch: int | None = None,
    ) -> Trajectory:
        """Carry n particles from N(0, I) back to data, by the same ODE.

        seed: a whole number decides all of them together, so the first ten of twenty are others
            than ten alone; a sequence of n has one for each, which then does not depend on n.
        shape: of one particle; by default that of the model's network, or of the data it saw.
        times: as in `encode`.
        keep: "end" holds the two ends alone, times (0, T). batch: how many particles are integrated
            at a time. An adaptive solver chooses its steps for all that it carries together, so a
            batch, like company, changes a particle up to the solver's tolerance.
        """
        check_whole("n", n)
        shape = self.shape if shape is None else shape
        check_shape(shape)
        like = next(self.parameters(), torch.empty(0))
        draw = Normals(seed, (n, *shape), like)
        return self._carry(draw(), self._times(times).flip(0), keep, batch)

    @torch.no_grad()
    def decode(
        self,
        z: Tensor,
        seed: Seed = None,
        times: Sequence[float] | Tensor | None = None,
        *,
        keep: Keep = "all",
        batch: int | None = None,
    ) -> Trajectory:
        """Carry given noise z (B, *shape) back to data: the inverse of `encode`.

        Nothing is random: seed is there for all processes. The others are those of `sample`.
        """
        self._check_data(z, "z")
        check_seeds(seed, len(z))
        return self._carry(z, self._times(times).flip(0), keep, batch)

    def _carry(self, x: Tensor, times: Tensor, keep: Keep, batch: int | None) -> Trajectory:
        """From times[0] to times[-1], whichever way; leaves in the units of the data."""
        check_keep(keep, batch)
        times = times.to(x)
        legs = [times]
        if keep == "end":
            # Fixed steps meet every time asked for; adaptive ones only look at them in passing.
            legs = [times[[0, -1]]] if self.solver.adaptive else times.unfold(0, 2, 1)
        carried, evaluations = [], 0
        size = batch or len(x)
        for rows in (slice(begin, begin + size) for begin in range(0, len(x), size)):
            first = part = x[rows]
            for leg in legs:
                with only(rows):
                    solution = integrate(
                        self.drift_at,
                        part,
                        leg,
                        self.solver,
                        with_divergence=False,
                        kinks=self._kinks(),
                    )
                part = solution.states[-1]
                evaluations += solution.evaluations
            carried.append(solution.states if keep == "all" else torch.stack([first, part]))
        self.evaluations = evaluations
        states = carried[0] if len(carried) == 1 else torch.cat(carried, 1)
        times = times if keep == "all" else times[[0, -1]]
        if times[0] > times[-1]:
            times, states = times.flip(0), states.flip(0)
        return Trajectory(times, self._leave(states))

    def _kinks(self) -> Tensor | None:
        """Times at which the drift has a bend, for the solver; a smooth network has none."""
        return None

    def _times(self, times: Sequence[float] | Tensor | None) -> Tensor:
        if times is None:
            return torch.linspace(0, self.T, self.frames + 1, dtype=torch.float64)
        times = torch.as_tensor(times, dtype=torch.float64)
        rising = times.ndim == 1 and len(times) > 1 and bool((times.diff() > 0).all())
        if not rising or times[0] != 0 or abs(float(times[-1]) - self.T) > 1e-6 * self.T:
            raise ValueError(
                f"times must rise strictly from 0 to T = {self.T:g}, got {shortly(times.tolist())}"
            )
        return times


def _check_horizon(T: float) -> None:
    if not (isinstance(T, Real) and T > 0 and math.isfinite(T)):
        raise ValueError(f"T must be positive and finite, got {shortly(T)}")
