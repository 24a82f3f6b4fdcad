"""How a model with noise can still tell the density of a point (section 7 of the paper's facts).

A DiffFlow and its score s define a whole family of processes, one for every λ ≥ 0,

    dx = [F − ½(1 + λ²) g² s] dt + λ g dw,        F(x, t) = ℓ(t) x + γ(t) f(x, t),

run from noise to data. When s is the score of the forward process, all have its marginals at every
time (equation 17). λ = 1 is the backward SDE. λ = 0 is an ordinary differential equation, the
probability flow, a continuous normalizing flow whose density can be computed:

    log p(x_0) = log N(x_T; 0, I) + ∫_0^T tr ∂/∂x [F − ½ g² s] dt.

When s is not quite the score they part, and so do the numbers that tell how good the model is:

    path bound ≥ importance-weighted bound ≥ −log p of the backward chain

always, in the mean; the ODE's −log p belongs to another density, and may lie on either side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Literal

import torch
from torch import Tensor, nn

from diffflow_edu.devices import cast_like, double
from diffflow_edu.labels import bare, only
from diffflow_edu.nets import DataPrediction
from diffflow_edu.processes.base import (
    Field,
    Trajectory,
    check_particles,
    check_shape,
    generator_for,
)
from diffflow_edu.processes.between import Between, How
from diffflow_edu.processes.cnf import CNF
from diffflow_edu.processes.diffflow import DiffFlow, check_lam
from diffflow_edu.processes.ode import Solver, divergence, jacobian
from diffflow_edu.processes.walk import Keep, Normals, Seed, Walk
from diffflow_edu.schedules import Schedule, check_positive, check_time, check_whole, shortly

SMALLEST = 1e-8
"""Times below this share of T are taken for it: there −g² s = g² ε/σ is its limit, to rounding."""

TOGETHER = 2**14
"""Numbers in a batch of `path_bounds`: paths of few particles go through the nets together."""

MANY = 100
"""On grids of more times an interpolated field is smooth enough for a solver to step over them."""


# The family --------------------------------------------------------------------------------------


def family_drift(
    model: DiffFlow,
    x: Tensor,
    t: float | Tensor,
    lam: float = 0.0,
    between: How | Between | None = None,
) -> Tensor:
    """F − ½(1 + λ²) g² s at x (B, *shape) and t, 0-d: the drift of the λ family. Like x.

    x is in the units of the networks, whatever the model's standardisation, as for `drift_at`.
    between: how f and s are known between the grid's times, see `Between`.
    Raises ValueError for what is no model or no particles, for t outside (0, T], and for a bad λ.
    """
    _check_model(model)
    check_lam(lam)
    check_particles(x)
    check_time(t, model.schedule)
    sde, t = model.schedule.noise_process, torch.as_tensor(t).to(x)
    fields = between if isinstance(between, Between) else Between(model, between)
    forward = sde.linear(t) * x + sde.gain(t) * fields.drift(x, t)
    return forward - 0.5 * (1 + lam**2) * sde.g(t).square() * fields.score(x, t)


@torch.no_grad()
def sample_family(
    model: DiffFlow,
    n: int,
    lam: float = 1.0,
    substeps: int = 10,
    seed: Seed = None,
    shape: tuple[int, ...] | None = None,
    noise: Tensor | None = None,
    last_noise: bool = False,
    between: How | None = None,
    *,
    keep: Keep = "all",
    batch: int | None = None,
) -> Trajectory:
    """Carry n particles from N(0, I) to data along the λ family, in fine steps.

    `model.sample(n, lam=…)` makes the chain's own N steps, whose errors depend on λ; here each is
    cut into `substeps`, towards continuous time, where λ changes nothing but the paths if the
    score is right. From t' to t, with k = α'/α and s² = σ'² − k²σ², the linear part exact and
    the noise that of the forward step:

        x = [x' − h f(x', t') + (λ² s² + (1 − λ²) σ'(σ' − kσ)) s(x', t')]/k + λ s z

    lam: λ ≥ 0; 0 is the probability flow, without noise. noise: (n, *shape), where to start; by
    default it is drawn. last_noise: whether the last substep adds noise. between: how f and s are
    known between the grid's times, see `Between`. seed, keep, batch: as for `DiffFlow.sample`.
    Returns a Trajectory at the schedule's N + 1 times. Raises ValueError for a bad λ or substeps,
    and for noise that is no float tensor of this shape in the dtype of the model's networks.
    """
    _check_model(model)
    check_lam(lam)
    check_whole("n", n)
    check_whole("substeps", substeps)
    shape = model.shape if shape is None else shape
    check_shape(shape)
    if noise is not None:
        model._check_data(noise, "noise")
        if noise.shape != (n, *shape):
            raise ValueError(f"noise must have shape {(n, *shape)}, got {tuple(noise.shape)}")
    like = model.log_b_ratio if noise is None else noise
    fields, draw = Between(model, between), Normals(seed, (n, *shape), like)

    sde, grid = model.schedule.noise_process, model.schedule.times
    walk = Walk(draw() if noise is None else noise, model.schedule.steps, keep, batch, True)
    for i in reversed(range(model.schedule.steps)):
        share = torch.linspace(0, 1, substeps + 1, dtype=torch.float64)
        times = torch.lerp(grid[i], grid[i + 1], share)
        alpha, sigma = sde.alpha(times), sde.sigma(times)
        k = alpha[1:] / alpha[:-1]
        variance = (sigma[1:].square() - (k * sigma[:-1]).square()).clamp_min(0)
        pull = lam**2 * variance + (1 - lam**2) * sigma[1:] * (sigma[1:] - k * sigma[:-1])
        h = sde.gain(0.5 * (times[1:] + times[:-1])) * times.diff()
        std = lam * variance.sqrt()
        for j in reversed(range(substeps)):
            numbers = (float(values[j]) for values in (h, pull, k, std))
            step = partial(_substep, fields, times[j + 1], tuple(numbers))
            noisy = lam > 0 and (i > 0 or j > 0 or last_noise)
            onward = walk.move if j == substeps - 1 else walk.stay
            onward(step, draw() if noisy else None)
    return Trajectory(walk.times(grid), model._leave(walk.states))


def _substep(
    fields: Between, t: Tensor, numbers: tuple[float, ...], x: Tensor, z: Tensor | None
) -> Tensor:
    """One substep of `sample_family` from t, 0-d; numbers: its h, pull, k and std."""
    h, pull, k, std = numbers
    drift, score = fields.drift(x, t.to(x)), fields.score(x, t.to(x))
    x = (x - h * drift + pull * score) / k
    return x if z is None else x + std * z


def fokker_planck_residual(
    model: DiffFlow,
    log_density: Field,
    x: Tensor,
    t: float,
    lam: float = 0.0,
    between: How | None = None,
) -> Tensor:
    """How far p_t is from being the marginal of the λ family: 0 where it is, in 1/time.

    With V = F − ½(1 + λ²) g² s the family's Fokker–Planck equation, divided by p, reads

        ∂_t log p + ∇·V + V·∇log p + ½ λ² g² (Δ log p + ‖∇log p‖²) = 0.

    log_density: (x (B, *shape), t 0-d) -> (B,), log p_t(x), differentiable in both. x: (B, *shape);
    t: in (0, T]. between: how f and s are known between the grid's times, see `Between`.
    Returns the left-hand side, (B,). Raises ValueError for another t and for a bad λ.
    """
    _check_model(model)
    check_lam(lam)
    check_particles(x)
    check_time(t, model.schedule)
    time = torch.as_tensor(t).to(x)
    fields = Between(model, between)

    def slope(y: Tensor, t: Tensor) -> Tensor:
        if not y.requires_grad:
            y = y.detach().requires_grad_()
        return torch.autograd.grad(log_density(y, t).sum(), y, create_graph=True)[0]

    g = model.schedule.noise_process.g(time)
    rate = _rate(log_density, x, time)
    with torch.no_grad():
        drift, spread, _ = divergence(lambda y, t: family_drift(model, y, t, lam, fields), x, time)
        score, laplacian, _ = divergence(slope, x, time)
    advection = (drift * score).flatten(1).sum(1)
    diffusion = laplacian + score.square().flatten(1).sum(1)
    return rate + spread + advection + 0.5 * lam**2 * g.square() * diffusion


def _rate(log_density: Field, x: Tensor, t: Tensor) -> Tensor:
    """∂ log p/∂t of every particle at the one t, (B,).

    vᵀ ∂(log p)/∂t is linear in v; its gradient in v is what all particles have at once.
    """
    with torch.enable_grad():
        t = t.detach().requires_grad_()
        values = log_density(x.detach(), t)
        if not isinstance(values, Tensor) or values.shape != (len(x),):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"log_density must return one number a particle, ({len(x)},), got {got}"
            )
        v = torch.zeros_like(values, requires_grad=True)
        if not values.requires_grad:
            return torch.zeros_like(values)
        (product,) = torch.autograd.grad(values, t, v, create_graph=True)
        return torch.autograd.grad(product, v)[0]


# The probability flow ----------------------------------------------------------------------------


class _Velocity(nn.Module):
    """dx/du of the probability flow, u in [0, 1], where t = t_0 + (T − t_0) u².

    In t it may be singular at the data: g²/σ grows like 1/√t where g(0) > 0. In u it is smooth.
    """

    def __init__(self, model: DiffFlow, start: float, fields: Between) -> None:
        super().__init__()
        self.model, self.start, self.fields = model, start, fields
        self.T = float(model.schedule.times[-1])

    def time(self, u: Tensor) -> Tensor:
        """t of u, both of any shape."""
        return self.start + (self.T - self.start) * u.square()

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        if not bool(u.isfinite()):  # a solver whose steps are lost; it says why itself
            return x * u
        t = self.time(u).clamp(SMALLEST * self.T, self.T)
        return 2 * (self.T - self.start) * u * family_drift(self.model, x, t, between=self.fields)


class ProbabilityFlow(CNF):
    """The ODE inside a DiffFlow or DDPM (λ = 0): a CNF with a density, and a way there and back.

    model: held, not copied; its networks may even be trained by this likelihood.
    start: t_0, where the flow stops on the side of the data. A score −ε/σ has no value at t = 0,
        but the flow has: −½ g² s = ½ g² ε/σ, integrated in √t, is finite there. So t_0 = 0 by
        default. Only a network that predicts x_0, where it is asked near t = 0, has an
        ε = (x − α x_0)/σ that does not settle: there t_0 is a tenth of the first grid time. To
        stop at t_0 > 0 is to take the density of data blurred by σ(t_0). Where the data is a
        Gaussian of width w, that costs ½[log(1 + ρ²) + 1/(1 + ρ²) − 1] nats a dimension,
        ρ = σ(t_0)/w: 2.5e-5 at ρ = .1, .0018 at .3, .097 at 1.
    between: "interpolate" asks the networks at the grid's times alone, where they were trained,
        and interpolates; "ask" asks them at any t; by default what suits the model, see `Between`.
    trace, probe, probes, solver, gradient: as for `CNF`. The default tolerance is 1e-4, the error
        of log p then far below what a learned score brings.

    Its Trajectories stop at the schedule's times, to be laid beside those of the chain.

    >>> _ = torch.manual_seed(0)
    >>> flow = ProbabilityFlow(DiffFlow.mlp(Schedule.log_snr(steps=10)))
    >>> flow.log_prob(torch.randn(3, 2)).shape, len(flow.sample(5, seed=0)), flow.evaluations > 0
    (torch.Size([3]), 11, True)
    """

    def __init__(
        self,
        model: DiffFlow,
        start: float | None = None,
        trace: Literal["exact", "hutchinson"] | None = None,
        probe: Literal["rademacher", "gaussian"] = "rademacher",
        probes: int = 1,
        solver: Solver | None = None,
        gradient: Literal["direct", "adjoint"] | None = None,
        between: How | None = None,
    ) -> None:
        _check_model(model)
        fields = Between(model, between)
        if start is None:
            predicts_data = isinstance(bare(model.score), DataPrediction) and fields.how == "ask"
            start = float(model.schedule.times[1]) / 10 if predicts_data else 0.0
        horizon = float(model.schedule.times[-1])
        if not (isinstance(start, Real) and 0 <= start < horizon):
            raise ValueError(
                f"start must be a time in [0, T) = [0, {horizon:g}), got {shortly(start)}"
            )
        super().__init__(
            _Velocity(model, float(start), fields),
            T=1.0,
            trace=trace,
            probe=probe,
            probes=probes,
            solver=Solver(rtol=1e-4, atol=1e-4) if solver is None else solver,
            gradient=gradient,
            frames=model.schedule.steps,
        )

    def _keeper(self) -> DiffFlow:
        return self.drift.model

    def _check_data(self, x: Tensor, name: str = "x") -> None:
        self.drift.model._check_data(x, name)

    def _times(self, times: Sequence[float] | Tensor | None) -> Tensor:
        start, horizon = self.drift.start, self.drift.T
        if times is None:
            grid = self.drift.model.schedule.times
            times = torch.cat([grid.new_tensor([start]), grid[grid > start]])
        times = torch.as_tensor(times, dtype=torch.float64).detach().cpu()
        rising = times.ndim == 1 and len(times) > 1 and bool((times.diff() > 0).all())
        near = 1e-6 * horizon
        if not rising or abs(times[0] - start) > near or abs(times[-1] - horizon) > near:
            raise ValueError(
                f"times must rise strictly from {start:g} to T = {horizon:g}, "
                f"got {shortly(times.tolist())}"
            )
        u = ((times - start) / (horizon - start)).clamp(0, 1).sqrt()
        u[0], u[-1] = 0.0, 1.0
        return u

    def _kinks(self) -> Tensor | None:
        fields, start, horizon = self.drift.fields, self.drift.start, self.drift.T
        if fields.how == "ask" or len(fields.times) > MANY:
            return None
        return ((fields.times - start) / (horizon - start)).clamp(0, 1).sqrt()

    def _carry(self, x: Tensor, times: Tensor, keep: Keep, batch: int | None) -> Trajectory:
        path = super()._carry(x, times, keep, batch)
        return Trajectory(self.drift.time(path.times), path.states)


# Three numbers -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class ThreeNumbers:
    """What can be said of −log p for one model, nats; each (B,).

    bound: the path bound, the mean over K paths a particle. importance: −log of the mean of K
    importance weights, another bound, tighter on average the more paths. Both bound the chain's
    −log p. ode: −log p of the probability flow, another density, with `evaluations` of the ODE.
    """

    bound: Tensor
    importance: Tensor
    ode: Tensor
    samples: int
    evaluations: int

    def __repr__(self) -> str:
        def mean(values: Tensor) -> str:
            values = double(values)
            error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
            return f"{float(values.mean()):.3f} ± {error:.3f}"

        return (
            f"ThreeNumbers(chain ≤ {mean(self.importance)} (K = {self.samples}) ≤ "
            f"{mean(self.bound)} (path bound); ODE {mean(self.ode)}, "
            f"{self.evaluations} evaluations; nats)"
        )


@torch.no_grad()
def path_bounds(model: DiffFlow, x: Tensor, samples: int, seed: int | None = None) -> Tensor:
    """The path bound −log p_B(path)/p_F(path | x) of `samples` paths a particle, nats.

    x: (B, *shape). Returns (samples, B). The grid is the model's own, never a flexible draw.
    """
    _check_model(model)
    check_whole("samples", samples)
    check_particles(x)
    generator = generator_for(seed, x.device)
    training = model.training
    model.eval()
    try:
        bounds = []
        while len(bounds) < samples:
            # Several paths at a time, of noise drawn path by path: how many changes no number.
            paths = min(samples - len(bounds), max(1, TOGETHER // x.numel()))
            shape = (model.schedule.steps, *x.shape)
            noise = [
                torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
                for _ in range(paths)
            ]
            several = torch.arange(len(x)).repeat(paths)
            with only(several):
                bounds += model.bound(x[several], torch.cat(noise, 1)).chunk(paths)
    finally:
        model.train(training)
    return torch.stack(bounds)


def importance_weighted(bounds: Tensor) -> Tensor:
    """−log mean_k exp(−bound_k), nats: the bound of Burda et al. 2016 from K paths a particle.

    Its mean falls with K, from the path bound at K = 1 to the chain's −log p. bounds: (K, B) from
    `path_bounds`. Returns (B,), never above their mean.

    >>> importance_weighted(torch.tensor([[1.0], [1.0]]))
    tensor([1.])
    """
    numbers = isinstance(bounds, Tensor) and bounds.is_floating_point()
    if not numbers or bounds.ndim != 2 or len(bounds) == 0:
        got = (tuple(bounds.shape), bounds.dtype) if isinstance(bounds, Tensor) else bounds
        raise ValueError(f"bounds must be a float tensor (K, B) with K ≥ 1, got {shortly(got)}")
    return math.log(len(bounds)) - cast_like(torch.logsumexp(-double(bounds), 0), bounds)


@torch.no_grad()
def three_numbers(
    model: DiffFlow, x: Tensor, samples: int = 64, seed: int = 0, **options
) -> ThreeNumbers:
    """Path bound, importance-weighted bound and the ODE's −log p, side by side.

    x: (B, *shape). samples: K paths a particle. options: those of `ProbabilityFlow`.
    """
    bounds = path_bounds(model, x, samples, seed)
    flow = ProbabilityFlow(model, **options)
    ode = -flow.log_prob(x, seed=seed)
    return ThreeNumbers(
        bound=bounds.mean(0),
        importance=importance_weighted(bounds),
        ode=ode,
        samples=samples,
        evaluations=flow.evaluations,
    )


# Theorem 1 ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TheoremOne:
    """The path term on grids of N steps and noises g, beside the flow's −Σ log det, nats.

    steps: (n,) whole numbers N. g: (m,). path: (n, m), mean of Σ ½(‖δB‖² − ‖δF‖²). flow: (n,),
    −Σ log|det ∂x_{i+1}/∂x_i| of the noiseless Euler steps. excess: (n, m), what the theorem's
    limit leaves out, (Δt²/2g²) ∫ ‖df/dt‖² dt. All are means over the particles. T: N steps of
    Δt = T/N each.
    """

    steps: Tensor
    g: Tensor
    path: Tensor
    flow: Tensor
    excess: Tensor
    T: float = 1.0

    def __repr__(self) -> str:
        head = "     N   flow " + "".join(f"  g={float(g):<7.3g}" for g in self.g)
        lines = [
            f"{int(n):6d} {float(flow):6.3f} " + "".join(f" {float(p):9.3f}" for p in row)
            for n, flow, row in zip(self.steps, self.flow, self.path, strict=True)
        ]
        return "\n".join([head, *lines])


@torch.no_grad()
def theorem_one(
    drift: Field,
    x: Tensor,
    steps: Sequence[int] = (10, 100, 1000),
    g: Sequence[float] = (1.0, 0.1, 0.01, 0.001),
    T: float = 1.0,
    score: Field | None = None,
    seed: int = 0,
) -> TheoremOne:
    """Does DiffFlow's loss become a flow's as g → 0 (Theorem 1)? It needs Δt ≪ g.

    Put the forward step into equation 15, with ḟ = ∂f/∂t + (∂f/∂x) f the change of f on the way:

        δB = −δF + (∂f/∂x) δF Δt + ḟ Δt^{3/2}/g − g s √Δt + …

        E ½(‖δB‖² − ‖δF‖²) = −tr(∂f/∂x) Δt + ‖ḟ‖² Δt³/(2g²)
                             + O(g² Δt) + O(Δt²) + O(Δt⁴/g²)

    in the mean over δF; a path has terms of mean zero beside these, like −δFᵀ ḟ Δt^{3/2}/g. The
    first term is the theorem. The second, summed over the steps, is (Δt²/2g²) ∫ ‖ḟ‖² dt: it
    vanishes only where Δt ≪ g, and at fixed N it has no limit as g → 0, because the backward Euler
    step is not the inverse of the forward one. The remainder sums to O(g²) + O(Δt) + O(Δt³/g²); its
    last part, a share O(Δt) of the second term, is in `excess` too: that is ½‖δB‖² of the walk
    without noise, ḟ Δt the change of f in one of its steps.

    drift: f. x: (B, *shape), float64 wanted. steps, g: one or more of N and of g. score: by default
    zero: it comes with a factor g. Raises ValueError for what is none of these.
    """
    if not callable(drift):
        raise ValueError(f"drift must be callable as drift(x, t), got {shortly(drift)}")
    steps, g = _several("steps", steps), _several("g", g)
    for n in steps:
        check_whole("steps", n)
    for v in g:
        check_positive(g=v)
    check_positive(T=T)
    check_particles(x)
    if x.dtype != torch.float64:
        raise ValueError(f"x must be float64, for ‖δB‖² − ‖δF‖² cancels; got {x.dtype}")
    score = (lambda y, t: torch.zeros_like(y)) if score is None else score
    path, flow, excess = [], [], []
    for n in steps:
        times = torch.linspace(0, T, n + 1, dtype=torch.float64)
        log_det, change = _noiseless(drift, x, times)
        flow.append(-log_det)
        path.append(
            [_path_term(DiffFlow(drift, score, Schedule.euler(times, v)), x, seed) for v in g]
        )
        excess.append([0.5 * (T / n / v) ** 2 * change for v in g])
    return TheoremOne(
        steps=torch.tensor(steps),
        g=torch.tensor(g, dtype=torch.float64),
        path=torch.tensor(path),
        flow=torch.tensor(flow),
        excess=torch.tensor(excess),
        T=float(T),
    )


def _noiseless(drift: Field, x: Tensor, times: Tensor) -> tuple[float, float]:
    """Means over particles of Σ log|det| of the Euler steps, and of ∫ ‖df/dt‖² dt on the way."""
    dt = float(times[1] - times[0])
    log_det, change = x.new_zeros(len(x)), x.new_zeros(len(x))
    for i in range(len(times) - 1):
        f, rows = jacobian(drift, x, times[i])
        unit = torch.eye(rows.shape[-1], dtype=x.dtype, device=x.device)
        log_det += torch.linalg.slogdet(unit + dt * rows).logabsdet
        x = x + dt * f
        rate = (drift(x, times[i + 1]) - f) / dt
        change += dt * rate.square().flatten(1).sum(1)
    return float(log_det.mean()), float(change.mean())


def _path_term(model: DiffFlow, x: Tensor, seed: int) -> float:
    """The mean of Σ ½(‖δB‖² − ‖δF‖²) over the particles, one path each."""
    generator = generator_for(seed, x.device)
    total = x.new_zeros(len(x))
    for i in range(model.schedule.steps):
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        x_next = model.forward_step(x, i, noise)
        back = model.backward_noise(x, x_next, i)
        total += 0.5 * (back.square() - noise.square()).flatten(1).sum(1)
        x = x_next
    return float(total.mean())


# Arguments ---------------------------------------------------------------------------------------


def _check_model(model: object) -> None:
    if not isinstance(model, DiffFlow):
        raise ValueError(f"model must be a DDPM or DiffFlow, got {type(model).__name__}")


def _several(name: str, values: Sequence[float]) -> list[float]:
    """A list of them. Raises ValueError unless there is one at least."""
    values = values.tolist() if isinstance(values, Tensor) else values
    try:
        several = list(values)
    except TypeError:
        raise ValueError(
            f"{name} must be a sequence of numbers, such as ({shortly(values)},), "
            f"got {shortly(values)}"
        ) from None
    if not several:
        raise ValueError(f"{name} must hold at least one number, got {shortly(values)}")
    return several
