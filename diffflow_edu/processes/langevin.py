"""Sampling with nothing but a score: Langevin dynamics, and NCSN, which anneals it.

    x ← x + ε s(x) + √(2ε) z,    z ~ N(0, I)

settles on p where s = ∇ log p and ε is small. A learned s is right only where there was data to
learn from, and a step of ε crosses no gap between modes. The noise-conditional score network (NCSN,
Song and Ermon, NeurIPS 2019 and 2020) blurs the data at many scales σ, learns the score of all,
and walks from the widest blur, where there is a single mode, to the narrowest.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from diffflow_edu.nets import MLP
from diffflow_edu.processes.base import (
    Field,
    Process,
    Trajectory,
    check_particles,
    check_shape,
)
from diffflow_edu.processes.score_matching import score_at
from diffflow_edu.processes.walk import Keep, Normals, Seed, Walk
from diffflow_edu.schedules import (
    LogSNR,
    NoiseProcess,
    Schedule,
    check_positive,
    check_whole,
    shortly,
)


@torch.no_grad()
def langevin(
    score: Field,
    x: Tensor,
    step: float,
    steps: int,
    seed: Seed = None,
    t: float = 0.0,
    every: int = 1,
    *,
    keep: Keep = "all",
    batch: int | None = None,
) -> Trajectory:
    """Unadjusted Langevin dynamics: x ← x + ε s(x, t) + √(2ε) z, `steps` times.

    score: a callable (x, t). x: where the particles begin, (B, *shape). step: ε > 0, in squared
    units of x; the samples come out too wide by a share of about ε/(4 v) along a direction of
    variance v, and for ε ≥ 2 v they run away. t: passed to the score, which is the same at every
    step. every: keep one state in so many, to save memory; must divide `steps`. keep: "end" holds
    the first and the last state alone. seed (one for all, or one a particle), batch: as for
    `DiffFlow.sample`.

    Returns a Trajectory of steps/every + 1 states in the house's direction, data first: `start` is
    the *last* state, which looks like data, `end` the given x; times rise from 0 by ε a step, so
    t = 0 is when the walk ended. One network evaluation a step.

    Raises ValueError for step ≤ 0, steps < 1, an x that is not (B, *shape).

    >>> path = langevin(lambda x, t: -x, torch.zeros(5, 2), step=0.1, steps=20, seed=0)
    >>> len(path), path.end.abs().max().item(), round(path.times[-1].item(), 2)
    (21, 0.0, 2.0)
    """
    check_particles(x)
    _check_callable("score", score)
    check_positive(step=step)
    check_whole("steps", steps)
    check_whole("every", every)
    if steps % every:
        raise ValueError(f"every must divide steps, got every={every} and steps={steps}")
    draw, walk = Normals(seed, x.shape, x), Walk(x, steps // every, keep, batch, backward=True)
    for i in range(steps):
        onward = walk.move if i % every == 0 else walk.stay
        onward(lambda x, z: langevin_step(score, x, step, t, z), draw())
    times = torch.arange(steps // every + 1, dtype=x.dtype, device=x.device) * (step * every)
    return Trajectory(walk.times(times), walk.states)


def langevin_step(score: Field, x: Tensor, step: float, t: float | Tensor, z: Tensor) -> Tensor:
    """x + ε s(x, t) + √(2ε) z: one step of Langevin dynamics, like x (B, *shape), z ~ N(0, I)."""
    return x + step * score_at(score, x, t).to(x) + (2 * step) ** 0.5 * z


class VarianceExploding(NoiseProcess):
    """dx = g(t) dw: nothing shrinks, noise only comes in; σ(0) = 0 and σ(1) = sigma_max.

    σ(t) = sigma_min [(1 + sigma_max/sigma_min)^t − 1], which is soon geometric.
    """

    def __init__(self, sigma_min: float, sigma_max: float) -> None:
        self.curve = LogSNR(sigma_min, sigma_max)

    def alpha(self, t: Tensor) -> Tensor:
        """1: nothing shrinks the data."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """σ(t), the standard deviation of all noise so far."""
        return self.curve.r(t)

    def linear(self, t: Tensor) -> Tensor:
        """0: no drift."""
        return torch.zeros_like(t)

    def gain(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def g(self, t: Tensor) -> Tensor:
        """√(dσ²/dt)."""
        sigma = self.sigma(t)
        return (2 * sigma * self.curve.rate * (sigma + self.curve.r_min)).sqrt()


def variance_exploding(levels: int, sigma_min: float, sigma_max: float) -> Schedule:
    """The chain that adds noise only; after step i its std is σ_i, geometric.

    Raises ValueError for levels < 2 and unless 0 < sigma_min < sigma_max.

    >>> schedule = variance_exploding(levels=3, sigma_min=0.01, sigma_max=1.0)
    >>> schedule.noise_process.sigma(schedule.times)
    tensor([0.0000, 0.0100, 0.1000, 1.0000], dtype=torch.float64)
    """
    check_whole("levels", levels, least=2)
    check_positive(sigma_min=sigma_min)
    check_positive(sigma_max=sigma_max)
    if sigma_min >= sigma_max:
        raise ValueError(
            f"sigma_min must be below sigma_max, got sigma_min={sigma_min} and "
            f"sigma_max={sigma_max}"
        )
    noise = VarianceExploding(sigma_min, sigma_max)
    i = torch.arange(levels, dtype=torch.float64) / (levels - 1)
    sigma = torch.cat([torch.zeros(1).double(), sigma_min * (sigma_max / sigma_min) ** i])
    times = noise.curve.time_of(sigma)
    s = ((sigma[1:] - sigma[:-1]) * (sigma[1:] + sigma[:-1])).sqrt()
    return Schedule(
        times=times,
        k=torch.ones_like(s),
        h=times.diff(),
        s=s,
        e=s.square(),
        b=s.clone(),
        e_ode=sigma[1:] * (sigma[1:] - sigma[:-1]),
        noise_process=noise,
    )


class RescaledNoisePrediction(nn.Module):
    """The score −ε(x/√(1 + σ²), t)/σ of a network ε that predicts the noise.

    Blurred data has a variance of about 1 + σ²; rescaled, the network sees the same size of x at
    every noise level (Karras et al. 2022 call the factor c_in).
    """

    def __init__(self, net: nn.Module, noise_process: NoiseProcess) -> None:
        super().__init__()
        self.net = net
        self.noise_process = noise_process
        self.takes_many_times = getattr(net, "takes_many_times", False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The score at x (B, *shape) and t > 0, 0-d or of leading axes of x."""
        sigma = self.noise_process.sigma(t)
        sigma = sigma.reshape(sigma.shape + (1,) * (x.ndim - sigma.ndim))
        return -self.net(x / (1 + sigma.square()).sqrt(), t) / sigma


class NCSN(Process):
    """One score network for all noise levels, sampled by annealed Langevin dynamics.

    score: a callable (x (B, *shape), t 0-d) -> (B, *shape), the score of the data blurred to the
        level that `schedule` has at t. Modules are held, not copied, and trained.
    levels, sigma_min, sigma_max: L noise levels σ_1 < … < σ_L in constant ratio. sigma_min should
        be a little below the finest width of the data, sigma_max about as large as its largest
        distance (Song and Ermon 2020, technique 1).
    langevin_steps: K, steps a level. langevin_step: a step of level i is ε_i = langevin_step · σ_i²
        long; below 2, or the walk runs away.
    shape: of one particle, for `sample`; by default what the network tells, or the data it sees.

    A sample costs `evaluations` = L K + 1 network evaluations.

    >>> _ = torch.manual_seed(0)
    >>> model = NCSN.mlp(levels=10, langevin_steps=5)
    >>> len(model.sample(5, seed=0)), len(model.encode(torch.randn(3, 2), seed=0))
    (11, 11)
    """

    def __init__(
        self,
        score: Field,
        levels: int,
        sigma_min: float = 6e-3,
        sigma_max: float = 4.0,
        langevin_steps: int = 10,
        langevin_step: float = 0.2,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        _check_callable("score", score)
        check_whole("langevin_steps", langevin_steps)
        check_positive(langevin_step=langevin_step)
        if langevin_step >= 2:
            raise ValueError(
                f"langevin_step must be below 2 to be stable, got {shortly(langevin_step)}"
            )
        self.score = score
        self.schedule = variance_exploding(levels, sigma_min, sigma_max)
        self.langevin_steps = langevin_steps
        self.langevin_step = langevin_step
        if shape is not None:
            self.shape = shape

    @classmethod
    def mlp(
        cls,
        levels: int = 10,
        sigma_min: float = 6e-3,
        sigma_max: float = 4.0,
        dim: int = 2,
        hidden: int = 128,
        **options: Any,
    ) -> NCSN:
        """The model of this course for points in ℝ^dim: one MLP that predicts the noise.

        options: langevin_steps and langevin_step.
        """
        noise = variance_exploding(levels, sigma_min, sigma_max).noise_process
        score = RescaledNoisePrediction(MLP(dim, hidden), noise)
        return cls(score, levels, sigma_min, sigma_max, **{"shape": (dim,), **options})

    @property
    def sigmas(self) -> Tensor:
        """σ_0 = 0 (the data itself), then the noise levels, rising; (L + 1,) float64."""
        return self.schedule.noise_process.sigma(self.schedule.times)

    @property
    def evaluations(self) -> int:
        """Network evaluations of one sample: K a level and one to denoise."""
        return self.schedule.steps * self.langevin_steps + 1

    # The objective -------------------------------------------------------------------------------

    def bound(self, x: Tensor, seed: Seed = None) -> Tensor:
        """Raises NotImplementedError: annealed Langevin dynamics has no tractable likelihood."""
        raise NotImplementedError(
            "NCSN has no bound on −log p: it is trained by denoising score matching and sampled by "
            "Langevin dynamics, and neither says how likely a given x is; compare samples instead"
        )

    def loss(self, x: Tensor) -> Tensor:
        """Denoising score matching at all levels, weighted by λ(σ) = σ² (Song and Ermon 2019).

            1/L Σ_i σ_i² ½ E‖s(x_0 + σ_i ε, t_i) + ε/σ_i‖² = 1/L Σ_i ½ E‖σ_i s + ε‖²,  0-d

        so that every level weighs the same. No unit, and no bound on anything: it falls from d/2
        towards the error that even the exact score makes. x: (B, *shape). Every particle visits one
        level, drawn in equal shares.
        """
        x = self._enter(x)
        levels = self.schedule.steps
        # The order is drawn, for x may be sorted; particles return if there are fewer than levels.
        copies = -(-levels // len(x))
        order = torch.randperm(copies * len(x), device=x.device) % len(x)
        x_0 = x[order[: len(order) // levels * levels]].unflatten(0, (levels, -1))
        sigma = self.sigmas[1:].to(x).reshape(-1, *[1] * x.ndim)
        epsilon = torch.randn_like(x_0)
        error = sigma * self._scores(x_0 + sigma * epsilon).to(x) + epsilon
        return 0.5 * error.square().flatten(2).sum(2).mean()

    def _scores(self, x: Tensor) -> Tensor:
        """The score of x (L, m, *shape), row i at level i + 1."""
        times = self.schedule.times[1:].to(x)
        if getattr(self.score, "takes_many_times", False):
            return self.score(x, times.reshape(-1, *[1] * (x.ndim - 2)))
        return torch.stack([score_at(self.score, x[i], t) for i, t in enumerate(times)])

    # The particles -------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(
        self, x: Tensor, seed: Seed = None, *, keep: Keep = "all", batch: int | None = None
    ) -> Trajectory:
        """Blur data x (B, *shape) level by level: x_i = x_{i−1} + √(σ_i² − σ_{i−1}²) z_i.

        One Brownian path a particle, so that state i is x + σ_i ε with one more bit of noise than
        state i − 1, not fresh noise. seed, keep, batch: as in `sample`.
        """
        x = self._enter(x)
        draw, walk = Normals(seed, x.shape, x), Walk(x, self.schedule.steps, keep, batch)
        for s in self.schedule.s:
            walk.move(lambda x, z, s=float(s): x + s * z, draw())
        return self._trajectory(walk)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        seed: Seed = None,
        shape: tuple[int, ...] | None = None,
        *,
        keep: Keep = "all",
        batch: int | None = None,
    ) -> Trajectory:
        """Annealed Langevin dynamics (Song and Ermon 2019, algorithm 1), n particles of `shape`.

        Drawn from N(0, (1 + σ_L²) I), then K steps at each level from σ_L to σ_1. State i is what
        level i left behind, state 0 that of level 1 denoised by Tweedie's formula,
        x + σ_1² s(x, t_1) (Song and Ermon 2020 do so too), so state i is like that of `encode`.

        seed: a whole number decides all particles together, so the first ten of twenty are others
            than ten alone; a sequence of n has one for each, which then does not depend on n.
        keep: "end" holds the two ends alone; batch: how many particles go through the network at a
            time. Neither changes a sample, but for rounding by `batch`.
        """
        check_whole("n", n)
        shape = self.shape if shape is None else shape
        check_shape(shape)
        like = next(self.parameters(), torch.empty(0))
        draw = Normals(seed, (int(n), *shape), like)
        widest = (1 + self.sigmas[-1].item() ** 2) ** 0.5
        return self._anneal(widest * draw(), draw, keep, batch)

    @torch.no_grad()
    def decode(
        self, z: Tensor, seed: Seed = None, *, keep: Keep = "all", batch: int | None = None
    ) -> Trajectory:
        """Annealed Langevin dynamics from given noise z (B, *shape), such as `encode(x).end`.

        z is as wide as the blurred data, √(1 + σ_L²). The widest level walks on from it, so that
        `end` is no longer z, and little of it is left in the data: this is no inverse of `encode`.
        seed: of the walk; the others are those of `sample`.
        """
        self._check_data(z, "z")
        return self._anneal(z, Normals(seed, z.shape, z), keep, batch)

    def _anneal(self, x: Tensor, draw: Normals, keep: Keep, batch: int | None) -> Trajectory:
        times, sigmas = self.schedule.times.to(x), self.sigmas.tolist()
        walk = Walk(x, self.schedule.steps, keep, batch, backward=True)
        for i in range(self.schedule.steps, 0, -1):
            step = partial(self._walk, self.langevin_step * sigmas[i] ** 2, times[i])
            for k in range(self.langevin_steps):
                # The widest level has no state before its own.
                onward = walk.move if k == 0 and i < self.schedule.steps else walk.stay
                onward(step, draw())
        walk.move(lambda x: x + sigmas[1] ** 2 * score_at(self.score, x, times[1]))
        return self._trajectory(walk)

    def _walk(self, step: float, t: Tensor, x: Tensor, z: Tensor) -> Tensor:
        return langevin_step(self.score, x, step, t, z)

    def _trajectory(self, walk: Walk) -> Trajectory:
        """In the units of the data."""
        return Trajectory(walk.times(self.schedule.times), self._leave(walk.states))


def _check_callable(name: str, field: Field) -> None:
    if not callable(field):
        raise ValueError(f"{name} must be callable as {name}(x, t), got {shortly(field)}")
