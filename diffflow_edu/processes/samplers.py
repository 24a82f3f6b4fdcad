"""Other ways home for a trained score: DDIM, and the reverse SDE with a corrector.

A score network knows p_t at every t. The chain it was trained on is one way to walk from noise to
data with it; here are two more, for any grid of times. None of them trains anything.
"""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from diffflow_edu.processes.base import Trajectory, check_shape
from diffflow_edu.processes.ddpm import DDPM
from diffflow_edu.processes.diffflow import DiffFlow
from diffflow_edu.processes.walk import Keep, Normals, Seed, Walk
from diffflow_edu.schedules import check_whole, shortly


@torch.no_grad()
def ddim(
    model: DDPM,
    n: int,
    eta: float = 0.0,
    seed: Seed = None,
    shape: tuple[int, ...] | None = None,
    *,
    keep: Keep = "all",
    batch: int | None = None,
) -> Trajectory:
    """Carry n particles from N(0, I) to data by equation 12 of Song, Meng and Ermon 2020 (DDIM).

        x_i = α_i x̂_0 + √(σ_i² − η² β̃_i) ε̂ + η √β̃_i z

    x̂_0 and ε̂ are the network's view of data and noise in x_{i+1}; z ~ N(0, I) is fresh. eta = 0
    draws nothing but x_N, and is `model.sample(n, lam=0)`; eta = 1 is DDPM with the posterior's
    variance. On few steps of a long grid: `ddim(model.respaced(30), n)`. The last step is x̂_0.
    seed, shape, keep, batch: as for `DiffFlow.sample`.
    Raises ValueError unless the model is a DDPM and eta lies in [0, 1].
    """
    _check_ddpm(model)
    if not (isinstance(eta, Real) and 0 <= eta <= 1):
        raise ValueError(f"eta must be a number from 0 to 1, got {shortly(eta)}")
    c, draw = model.schedule, _normals(model, n, seed, shape)
    alpha, sigma = c.noise_process.alpha(c.times), c.noise_process.sigma(c.times)
    std = eta * c.s * sigma[:-1] / sigma[1:]  # η √β̃
    walk = Walk(draw(), c.steps, keep, batch, backward=True)
    for i in reversed(range(c.steps)):

        def step(x: Tensor, z: Tensor | None, i: int = i) -> Tensor:
            score = model.score_at(x, c.times[i + 1].to(x))
            noise = -float(sigma[i + 1]) * score
            data = (x - float(sigma[i + 1]) * noise) / float(alpha[i + 1])
            # Never negative, but for rounding: β̃ = (s σ/σ')² ≤ σ².
            direction = float((sigma[i].square() - std[i].square()).clamp_min(0).sqrt())
            x = float(alpha[i]) * data + direction * noise
            return x if z is None else x + float(std[i]) * z

        walk.move(step, draw() if std[i] > 0 else None)
    return Trajectory(walk.times(c.times), model._leave(walk.states))


@torch.no_grad()
def ddim_encode(
    model: DDPM,
    x: Tensor,
    iterations: int = 1,
    *,
    keep: Keep = "all",
    batch: int | None = None,
) -> Trajectory:
    """Carry data x (B, *shape) to the noise from which DDIM with eta = 0 would return.

        x_{i+1} = k x_i + (σ_{i+1} − k σ_i) ε(x_{i+1}, t_{i+1}),    k = α_{i+1}/α_i

    is the DDIM step, solved for where it came from. The unknown stands on both sides; a fixed
    point is sought from x_{i+1} = k x_i. One iteration is what is usually called DDIM inversion,
    more make it exact where the steps are short enough for the iteration to contract.

    The way back is `model.decode(z, lam=0)`. keep, batch: as for `DiffFlow.sample`.
    """
    _check_ddpm(model)
    x = model._enter(x)
    check_whole("iterations", iterations)
    c = model.schedule
    sigma = c.noise_process.sigma(c.times)
    walk = Walk(x, c.steps, keep, batch)
    for i in range(c.steps):

        def step(x: Tensor, i: int = i) -> Tensor:
            shrunk, t = float(c.k[i]) * x, c.times[i + 1].to(x)
            gain = float((sigma[i + 1] - c.k[i] * sigma[i]) * sigma[i + 1])
            x_next = shrunk
            for _ in range(iterations):
                x_next = shrunk - gain * model.score_at(x_next, t)
            return x_next

        walk.move(step)
    return Trajectory(walk.times(c.times), model._leave(walk.states))


@torch.no_grad()
def reverse_sde(
    model: DiffFlow,
    n: int,
    times: Tensor | None = None,
    corrector_steps: int = 0,
    snr: float = 0.16,
    seed: Seed = None,
    shape: tuple[int, ...] | None = None,
    *,
    keep: Keep = "all",
    batch: int | None = None,
) -> Trajectory:
    """Carry n particles from N(0, I) to data along the reverse SDE, by Euler–Maruyama.

        x ← x − [ℓ(t) x + γ(t) f(x, t) − g(t)² s(x, t)] Δt + g(t) √Δt z        (predictor)
        x ← x + ε s(x, t) + √(2ε) z,    ε = 2 k² (snr ‖z‖/‖s‖)²                 (corrector)

    The predictor discretises the SDE itself, where `model.sample` uses the exact step of its
    chain; the last one is without noise. The corrector is Langevin dynamics at a fixed time
    (Song et al. 2021, algorithm 5; k² = (α_{i+1}/α_i)² is their 1 − β_i), norms averaged over
    the batch; there is none at t = 0, where no score is known.

    times: (M + 1,), where to stop, rising from t_0 ≥ 0 to T; by default the model's own grid.
    corrector_steps: Langevin steps after each predictor. snr: how large they are. seed, shape,
    keep, batch: as for `DiffFlow.sample`; but a corrector's step is one for all n particles, so
    that with it even a particle with a seed of its own depends on its company.
    Raises ValueError for times that do not rise to T, and for snr ≤ 0.
    """
    if not isinstance(model, DiffFlow):
        raise ValueError(f"model must be a DDPM or DiffFlow, got {type(model).__name__}")
    check_whole("corrector_steps", corrector_steps, least=0)
    if not (isinstance(snr, Real) and 0 < snr < math.inf):
        raise ValueError(f"snr must be positive and finite, got {shortly(snr)}")
    times = model.schedule.times if times is None else _checked_times(times, model)
    sde, draw = model.schedule.noise_process, _normals(model, n, seed, shape)
    dt = times.diff()
    shrink = (sde.alpha(times[1:]) / sde.alpha(times[:-1])).square()
    walk = Walk(draw(), len(dt), keep, batch, backward=True)
    for i in reversed(range(len(dt))):
        t = times[i + 1]
        linear, gain, g = float(sde.linear(t)), float(sde.gain(t)), float(sde.g(t))

        def predict(
            x: Tensor,
            z: Tensor | None,
            t: Tensor = t,
            dt: float = float(dt[i]),
            coefficients: tuple[float, ...] = (linear, gain, g),
        ) -> Tensor:
            linear, gain, g = coefficients
            drift, score = model.drift_at(x, t.to(x)), model.score_at(x, t.to(x))
            x = x - (linear * x + gain * drift - g**2 * score) * dt
            return x if z is None else x + g * math.sqrt(dt) * z

        walk.move(predict, draw() if i > 0 else None)
        for _ in range(corrector_steps if times[i] > 0 else 0):
            score, z = walk.ask(lambda x, t=times[i]: model.score_at(x, t.to(x))), draw()
            ratio = z.flatten(1).norm(dim=1).mean() / score.flatten(1).norm(dim=1).mean()
            step = 2 * float(shrink[i]) * (snr * ratio).square()
            walk.stay(lambda x, s, z, e=step: x + e * s + (2 * e).sqrt() * z, score, z)
    return Trajectory(walk.times(times), model._leave(walk.states))


def _normals(model: DiffFlow, n: int, seed: Seed, shape: tuple[int, ...] | None) -> Normals:
    """Draws of n particles in the dtype and on the device of a model."""
    check_whole("n", n)
    shape = model.shape if shape is None else shape
    check_shape(shape)
    return Normals(seed, (n, *shape), model.log_b_ratio)


def _check_ddpm(model: object) -> None:
    if not isinstance(model, DDPM):
        raise ValueError(
            f"model must be a DDPM, whose drift is fixed, got {type(model).__name__}; "
            "DDPM.of(model) is the one inside a DiffFlow"
        )


def _checked_times(times: Tensor, model: DiffFlow) -> Tensor:
    if not isinstance(times, Tensor) or times.ndim != 1 or len(times) < 2:
        got = tuple(times.shape) if isinstance(times, Tensor) else times
        raise ValueError(f"times must be a tensor (M + 1,) with M ≥ 1, got {shortly(got)}")
    times, horizon = times.detach().cpu().double(), float(model.schedule.times[-1])
    rise = bool((times.diff() > 0).all()) and times[0] >= 0
    if not rise or abs(float(times[-1]) - horizon) > 1e-6 * horizon:
        raise ValueError(
            f"times must rise strictly from 0 or more to T = {horizon:g}, where particles are "
            f"N(0, I), got {times[0]:g} … {times[-1]:g}"
        )
    return times
