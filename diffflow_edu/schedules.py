"""Time grids and step coefficients: where a chain stops, and how far and how noisily it steps.

A chain of N steps carries x between data (t = 0) and noise (t = T):

    forward    x_{i+1} = k_i x_i + h_i f(x_i, t_i) + s_i δF_i
    backward   x_i     = [x' − h_i f(x', t') + e_i score(x', t')] / k_i + b_i δB_i

with x' = x_{i+1} and t' = t_{i+1}. The paper's equations 11 and 12 are k = 1, h = Δt,
s_i = g_i √Δt, e_i = g_{i+1}² Δt and b_i = g_{i+1} √Δt. DDPM is the same chain with f = 0 and
k < 1. Either is a discretisation of a stochastic differential equation,

    dx = [ℓ(t) x + γ(t) f(x, t)] dt + g(t) dw,

which does not know N: a `NoiseProcess` holds its ℓ, γ and g.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

USUAL_STEPS = 30
"""On the variance-preserving chains γ(t) = g(t) √30, so that h is close to s where N = 30."""


class NoiseProcess:
    """The SDE behind a chain, for any t in [0, T], as a 0-d tensor or a tensor of any shape.

    With the drift at zero, x(t) given x(0) is N(α(t) x(0), σ(t)² I).
    """

    def alpha(self, t: Tensor) -> Tensor:
        """α(t), what is left of the data."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        """σ(t), the standard deviation of the noise that has come in."""
        raise NotImplementedError

    def linear(self, t: Tensor) -> Tensor:
        """ℓ(t), the rate of the part of the drift that is linear and fixed."""
        raise NotImplementedError

    def gain(self, t: Tensor) -> Tensor:
        """γ(t), the factor before the learned drift."""
        raise NotImplementedError

    def g(self, t: Tensor) -> Tensor:
        """g(t), the diffusion coefficient."""
        raise NotImplementedError


class VariancePreserving(NoiseProcess):
    """dx = −½ β(t) x dt + √β(t) dw, known by its noise-to-signal ratio r(t) = σ/α."""

    def r(self, t: Tensor) -> Tensor:
        """r(t) = σ/α, the noise-to-signal ratio; zero at t = 0."""
        raise NotImplementedError

    def beta(self, t: Tensor) -> Tensor:
        """β(t) = d log(1 + r²)/dt."""
        raise NotImplementedError

    def alpha(self, t: Tensor) -> Tensor:
        """α = 1/√(1 + r²)."""
        return 1 / torch.sqrt(1 + self.r(t).square())

    def sigma(self, t: Tensor) -> Tensor:
        """σ = r α, so that α² + σ² = 1."""
        return self.r(t) * self.alpha(t)

    def linear(self, t: Tensor) -> Tensor:
        """ℓ = −β/2."""
        return -0.5 * self.beta(t)

    def gain(self, t: Tensor) -> Tensor:
        """γ = √30 g."""
        return math.sqrt(USUAL_STEPS) * self.g(t)

    def g(self, t: Tensor) -> Tensor:
        """g = √β."""
        return self.beta(t).sqrt()


@dataclass(frozen=True)
class LogSNR(VariancePreserving):
    """r(t) = r_min [(1 + r_max/r_min)^t − 1]: zero at t = 0, r_max at t = 1, soon geometric."""

    r_min: float
    r_max: float

    @property
    def rate(self) -> float:
        """How fast log(r + r_min) rises."""
        return math.log1p(self.r_max / self.r_min)

    def r(self, t: Tensor) -> Tensor:
        """r_min [exp(rate t) − 1]."""
        return self.r_min * torch.expm1(self.rate * t)

    def time_of(self, r: Tensor) -> Tensor:
        """The t at which the noise-to-signal ratio is r."""
        return torch.log1p(r / self.r_min) / self.rate

    def beta(self, t: Tensor) -> Tensor:
        """2 r r'/(1 + r²), with r' = rate (r + r_min)."""
        r = self.r(t)
        return 2 * r * self.rate * (r + self.r_min) / (1 + r.square())


@dataclass(frozen=True)
class LinearBeta(VariancePreserving):
    """β(t) from 0.1 to 20 (Ho et al. 2020 at N = 1000), integrated exactly."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def beta(self, t: Tensor) -> Tensor:
        """Linear in t."""
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def r(self, t: Tensor) -> Tensor:
        """√(exp ∫β dt − 1)."""
        integral = self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t.square()
        return torch.expm1(integral).sqrt()


@dataclass(frozen=True)
class Cosine(VariancePreserving):
    """ᾱ(t) = α² = f(t)/f(0), f = cos²(φ(t)), φ = π/2 (t + offset)/(1 + offset).

    Nichol and Dhariwal 2021, equation 17; ᾱ is 0, and r infinite, at t = 1.
    """

    offset: float = 0.008

    def angle(self, t: Tensor) -> Tensor:
        """φ(t), which ends at π/2."""
        return 0.5 * math.pi * (t + self.offset) / (1 + self.offset)

    def r(self, t: Tensor) -> Tensor:
        """√(f(0)/f − 1), written as √(sin(φ − φ_0) sin(φ + φ_0))/cos φ without cancellation."""
        start = 0.5 * math.pi * self.offset / (1 + self.offset)
        apart = torch.sin(0.5 * math.pi * t / (1 + self.offset))
        return (apart * torch.sin(self.angle(t) + start)).sqrt() / self._cosine(t)

    def beta(self, t: Tensor) -> Tensor:
        """2 φ' tan φ."""
        return math.pi / (1 + self.offset) * torch.sin(self.angle(t)) / self._cosine(t)

    def _cosine(self, t: Tensor) -> Tensor:
        # sin(π/2 − φ): exact near t = 1, where cos of a rounded φ is not.
        return torch.sin(0.5 * math.pi * (1 - t) / (1 + self.offset))


@dataclass(frozen=True, eq=False, repr=False)
class EulerNoise(NoiseProcess):
    """The paper's dx = f dt + g(t) dw, g and the variance ∫g² dt read off the grid.

    Between grid times g is interpolated linearly and so is the variance Σ g_i² Δt_i.
    """

    times: Tensor
    grid_g: Tensor
    grid_variance: Tensor

    def __repr__(self) -> str:
        return f"EulerNoise({len(self.times) - 1} steps, T={self.times[-1]:g})"

    def _interpolate(self, t: Tensor, values: Tensor) -> Tensor:
        times, values = self.times.to(t), values.to(t)
        right = torch.searchsorted(times, t.contiguous()).clamp(1, len(times) - 1)
        weight = (t - times[right - 1]) / (times[right] - times[right - 1])
        return torch.lerp(values[right - 1], values[right], weight)

    def alpha(self, t: Tensor) -> Tensor:
        """1: nothing shrinks the data."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """√(∫g² dt)."""
        return self._interpolate(t, self.grid_variance).sqrt()

    def linear(self, t: Tensor) -> Tensor:
        """0: all the drift is learned."""
        return torch.zeros_like(t)

    def gain(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def g(self, t: Tensor) -> Tensor:
        """g, as given at the grid times."""
        return self._interpolate(t, self.grid_g)


@dataclass(frozen=True)
class GeometricNoise(NoiseProcess):
    """dx = f dt + g dw, whose noise rises by a constant ratio from one N-th of [0, 1] to the next.

    σ² = s_min² (q^{Nt} − 1)/(q − 1), q the ratio of two steps' variances: at t = i/N the sum of
    the first i of them, smooth in between, with g² = dσ²/dt. (A g interpolated linearly would let
    in more than the chain does: 1.6 times its variance on ten steps from .008 to .3.)
    """

    steps: int
    s_min: float
    log_ratio: float
    """log q; 0 where every step has the same noise."""

    def _unit(self) -> float:
        """dσ²/dt at t = 0."""
        if self.log_ratio == 0:
            return self.s_min**2 * self.steps
        rate = self.steps * self.log_ratio
        return self.s_min**2 * rate / math.expm1(self.log_ratio)

    def alpha(self, t: Tensor) -> Tensor:
        """1: nothing shrinks the data."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """√(∫g² dt)."""
        rate = self.steps * self.log_ratio
        growth = t if rate == 0 else torch.expm1(rate * t) / rate
        return (self._unit() * growth).sqrt()

    def linear(self, t: Tensor) -> Tensor:
        """0: all the drift is learned."""
        return torch.zeros_like(t)

    def gain(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def g(self, t: Tensor) -> Tensor:
        """√(dσ²/dt)."""
        return (self._unit() * torch.exp(self.steps * self.log_ratio * t)).sqrt()


@dataclass(frozen=True, eq=False, repr=False)
class Schedule:
    """A time grid and the coefficients of every step (see the top of this file).

    times: (N + 1,) rising from 0. k, h, s, e, b: (N,), one number a step; k, s and b positive.
    e_ode: (N,), the factor of the score where λ = 0 (the probability flow): e/2 in an Euler
        step, DDIM's coefficient where the linear part is integrated exactly.
    noise_process: the SDE in continuous time.
    redraw: makes another grid of the same kind, for grids that change from batch to batch.

    All numbers are kept as float64 on the CPU. Raises ValueError, with the coefficient, the step
    and the value, for numbers that make no chain.

    >>> Schedule.log_snr(steps=10)
    Schedule(steps=10, T=1, k 1 … 0.463, h 0.0102 … 1.62, s 0.006 … 0.886, b 0.006 … 0.886)
    """

    times: Tensor
    k: Tensor
    h: Tensor
    s: Tensor
    e: Tensor
    b: Tensor
    e_ode: Tensor
    noise_process: NoiseProcess
    redraw: Callable[[], Schedule] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", _rising(self.times))
        for name in ("k", "h", "s", "e", "b", "e_ode"):
            values = _numbers(name, getattr(self, name))
            if values.shape != (self.steps,):
                raise ValueError(
                    f"{name} must hold one number a step, ({self.steps},), "
                    f"got {tuple(values.shape)}"
                )
            positive = name in ("k", "s", "b")
            bad = ~(values.isfinite() & (values > 0)) if positive else ~values.isfinite()
            if bad.any():
                i = int(bad.nonzero()[0])
                kind = "positive and finite" if positive else "finite"
                raise ValueError(f"{name} must be {kind}, got {values[i]:g} at step {i}")
            object.__setattr__(self, name, values)
        if not isinstance(self.noise_process, NoiseProcess):
            raise ValueError(
                "noise_process must be a NoiseProcess such as LogSNR(0.006, 8.0), "
                f"got {shortly(self.noise_process)}"
            )
        if not (self.redraw is None or callable(self.redraw)):
            raise ValueError(f"redraw must be callable as redraw(), got {shortly(self.redraw)}")

    @property
    def steps(self) -> int:
        """N, the number of steps."""
        return len(self.times) - 1

    def __repr__(self) -> str:
        first_to_last = ", ".join(
            f"{name} {float(values[0]):.3g} … {float(values[-1]):.3g}"
            for name, values in (("k", self.k), ("h", self.h), ("s", self.s), ("b", self.b))
        )
        flexible = "" if self.redraw is None else ", flexible"
        return f"Schedule(steps={self.steps}, T={self.times[-1]:g}, {first_to_last}{flexible})"

    def draw(self) -> Schedule:
        """The grid for one training batch: a fresh one if the grid is flexible, else itself."""
        return self if self.redraw is None else self.redraw()

    @staticmethod
    def euler(times: Tensor, g: Tensor | float) -> Schedule:
        """The chain of the paper, equations 11 and 12.

        times: (N + 1,) rising from 0. g: (N + 1,) or a number, positive.

        >>> Schedule.euler(torch.tensor([0.0, 0.5, 1.0]), g=1.0).s
        tensor([0.7071, 0.7071], dtype=torch.float64)
        """
        times = _rising(times)
        g = _numbers("g", g)
        if g.ndim == 0:
            g = g.expand(len(times))
        if g.shape != times.shape:
            raise ValueError(
                f"g must be a number or have the shape of times {tuple(times.shape)}, "
                f"got {tuple(g.shape)}"
            )
        bad = g[~((g > 0) & g.isfinite())]
        if len(bad) > 0:
            raise ValueError(f"g must be positive and finite, got {bad[0]:g}")
        dt = times.diff()
        s = g[:-1] * dt.sqrt()
        e = g[1:].square() * dt
        variance = _with_zero(s.square().cumsum(0))
        return Schedule(
            times=times,
            k=torch.ones_like(dt),
            h=dt,
            s=s,
            e=e,
            b=g[1:] * dt.sqrt(),
            e_ode=e / 2,
            noise_process=EulerNoise(times, g, variance),
        )

    @staticmethod
    def polynomial(
        steps: int, T: float = 0.05, beta: float = 0.9, g: float = 1.0, flexible: bool = False
    ) -> Schedule:
        """The paper's grids: L_β, t_i = (i/N)^β T, or the flexible L̂_β.

        flexible: `draw` then gives t_i = [α_i ((i−1)/(N−1))^β + (1−α_i)(i/(N−1))^β] T for
        0 < i < N, with a fresh α_i ~ U(0, 1) each; t_0 = 0 and t_N = T.

        >>> Schedule.polynomial(steps=4, T=1.0, beta=1.0).times
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000], dtype=torch.float64)
        """
        check_whole("steps", steps)
        check_positive(T=T, beta=beta, g=g)
        i = torch.arange(steps + 1, dtype=torch.float64)
        fixed = Schedule.euler((i / steps) ** beta * T, g)
        # A partial, not a closure, so that a model with this schedule can be pickled.
        redraw = partial(_draw_flexible, steps, T, beta, g)
        return replace(fixed, redraw=redraw) if flexible and steps > 1 else fixed

    @staticmethod
    def log_snr(steps: int = 30, r_min: float = 6e-3, r_max: float = 8.0) -> Schedule:
        """Variance preserving; r = σ/α is 0, then geometric from r_min to r_max.

        r_min should be a little below the finest width of the data, r_max large enough to
        drown it, or small where a learned drift does the rest.

        >>> Schedule.log_snr(steps=3, r_min=0.01, r_max=1.0).times
        tensor([0.0000, 0.1502, 0.5196, 1.0000], dtype=torch.float64)
        """
        check_whole("steps", steps)
        check_positive(r_min=r_min, r_max=r_max)
        if r_min >= r_max:
            raise ValueError(f"r_min must be below r_max, got r_min={r_min} and r_max={r_max}")
        _check_size(r_min=r_min, r_max=r_max)
        noise = LogSNR(r_min, r_max)
        times = noise.time_of(_with_zero(_geometric(steps, r_min, r_max)))
        return _variance_preserving(times, noise)

    @staticmethod
    def linear_beta(steps: int = 1000) -> Schedule:
        """DDPM's schedule, β(t) linear from 0.1 to 20 on t in [0, 1], integrated exactly at any N.

        >>> Schedule.linear_beta(steps=1000).s[0]  # the usual β_1 = 1e-4
        tensor(0.0105, dtype=torch.float64)
        """
        check_whole("steps", steps)
        times = torch.arange(steps + 1, dtype=torch.float64) / steps
        return _variance_preserving(times, LinearBeta())

    @staticmethod
    def cosine(steps: int = 1000, offset: float = 0.008) -> Schedule:
        """The cosine schedule of Nichol and Dhariwal 2021, times even on [0, 1] but the last.

        At t = 1 nothing would be left of the data, and the last β = 1 − k² would be 1. The paper
        clips it at 0.999; here the last time is the one, just below 1, where it is 0.999. That is
        the same chain, and it stays on the curve ᾱ(t).

        >>> Schedule.cosine(steps=4).times
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 0.9923], dtype=torch.float64)
        """
        check_whole("steps", steps)
        check_positive(offset=offset)
        _check_size(offset=offset)
        noise = Cosine(offset)
        times = torch.arange(steps + 1, dtype=torch.float64) / steps
        # f(T) = 0.001 f(t_{N−1}), solved for T; cos φ is sin(π/2 (1 − t)/(1 + offset)).
        last = torch.asin(math.sqrt(1e-3) * torch.cos(noise.angle(times[-2])))
        times[-1] = 1 - (1 + offset) * 2 / math.pi * last
        return _variance_preserving(times, noise)

    @staticmethod
    def at(times: Tensor, noise_process: VariancePreserving) -> Schedule:
        """The chain that stops at any times of a variance-preserving SDE, its linear part exact.

        times: (N + 1,) rising from 0. Whatever was trained on one grid of the SDE can be sampled
        on another.

        >>> Schedule.at(torch.tensor([0.0, 0.1, 1.0]), LinearBeta()).steps
        2
        """
        if not isinstance(noise_process, VariancePreserving):
            raise ValueError(
                "noise_process must be variance preserving such as LinearBeta(), "
                f"got {shortly(noise_process)}"
            )
        return _variance_preserving(_rising(times), noise_process)

    def respaced(self, steps: int) -> Schedule:
        """Every (N/steps)-th time of this grid, both ends kept: a net trained here knows them all.

        Raises ValueError for more steps than there are, and where no linear part is integrated.

        >>> Schedule.linear_beta(1000).respaced(4).times
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000], dtype=torch.float64)
        """
        check_whole("steps", steps)
        if steps > self.steps:
            raise ValueError(
                f"steps must be at most the {self.steps} of this grid, got {shortly(steps)}"
            )
        if not isinstance(self.noise_process, VariancePreserving):
            raise ValueError(
                "only a chain whose linear part is integrated can be respaced (log_snr, "
                f"linear_beta, cosine), got {self}; make a schedule of {steps} steps and train it"
            )
        kept = torch.linspace(0, self.steps, steps + 1, dtype=torch.float64).round().long()
        return Schedule.at(self.times[kept], self.noise_process)

    @staticmethod
    def geometric(steps: int = 10, s_min: float = 0.008, s_max: float = 0.3) -> Schedule:
        """Flow-like: k = 1, h = 1/N; the noise s rises from s_min on the data side to s_max.

        Nothing pulls the particles to N(0, I) but the learned drift.

        >>> Schedule.geometric(steps=3, s_min=0.01, s_max=1.0).s
        tensor([0.0100, 0.1000, 1.0000], dtype=torch.float64)
        """
        check_whole("steps", steps)
        check_positive(s_min=s_min, s_max=s_max)
        _check_size(s_min=s_min, s_max=s_max)
        s = _geometric(steps, s_min, s_max)
        times = torch.arange(steps + 1, dtype=torch.float64) / steps
        log_ratio = 2 * math.log(s_max / s_min) / (steps - 1) if steps > 1 else 0.0
        e = s.square()
        return Schedule(
            times=times,
            k=torch.ones_like(s),
            h=torch.full_like(s, 1 / steps),
            s=s,
            e=e,
            b=s.clone(),
            e_ode=e / 2,
            noise_process=GeometricNoise(steps, float(s[0]), log_ratio),
        )


def _variance_preserving(times: Tensor, noise: VariancePreserving) -> Schedule:
    alpha, sigma = noise.alpha(times), noise.sigma(times)
    k = alpha[1:] / alpha[:-1]
    # s² = σ'² − k²σ² = α'² (r'² − r²), the second form without cancellation at small r.
    r = sigma / alpha
    s = alpha[1:] * ((r[1:] - r[:-1]) * (r[1:] + r[:-1])).sqrt()
    return Schedule(
        times=times,
        k=k,
        h=s * (USUAL_STEPS * times.diff()).sqrt(),
        s=s,
        e=s.square(),
        b=s.clone(),
        e_ode=sigma[1:].square() - k * sigma[:-1] * sigma[1:],
        noise_process=noise,
    )


def _draw_flexible(steps: int, T: float, beta: float, g: float) -> Schedule:
    """One grid of L̂_β, from torch's global generator."""
    # Equal times would divide by zero: α keeps clear of 0 and 1.
    a = torch.rand(steps - 1, dtype=torch.float64).clamp(1e-3, 1 - 1e-3)
    knots = (torch.arange(steps, dtype=torch.float64) / (steps - 1)) ** beta * T
    inner = a * knots[:-1] + (1 - a) * knots[1:]
    return Schedule.euler(torch.cat([knots[:1], inner, knots[-1:]]), g)


def _geometric(count: int, first: float, last: float) -> Tensor:
    """Numbers in constant ratio, (count,); a single one is the last."""
    i = torch.arange(count, dtype=torch.float64) - (count - 1)
    return last * (last / first) ** (i / max(count - 1, 1))


def _with_zero(values: Tensor) -> Tensor:
    return torch.cat([values.new_zeros(1), values])


LEAST, MOST = 1e-18, 1e18
"""Of r and s: particles are float32, and so must the squares be."""


def _check_size(**named: float) -> None:
    for name, value in named.items():
        if not LEAST <= value <= MOST:
            raise ValueError(
                f"{name} must be from {LEAST:g} to {MOST:g}, got {shortly(value)}: beyond, the "
                "steps' coefficients are 0 or infinite in float32"
            )


def shortly(value: object) -> str:
    """What came in place of an argument, short enough for a message.

    >>> shortly("yes"), shortly(torch.zeros(3, 2)), shortly(torch.tensor(2.5))
    ("'yes'", 'a tensor of shape (3, 2)', '2.5')
    """
    if isinstance(value, Tensor | np.ndarray | np.generic):
        if value.ndim == 0:
            return repr(value.item())
        kind = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{kind} of shape {tuple(value.shape)}"
    words = " ".join(repr(value).split())
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}…"


LONGEST = 80
"""Letters of a value in a message."""


def check_seed(seed: int, name: str = "seed") -> None:
    """Raise a ValueError that names the argument unless seed is a whole number from 0 to 2⁶³ − 1.

    >>> check_seed(2**70)
    Traceback (most recent call last):
    ValueError: seed must be below 2**63, got 1180591620717411303424
    """
    check_whole(name, seed, least=0)
    if seed >= 2**63:
        raise ValueError(f"{name} must be below 2**63, got {shortly(seed)}")


def check_whole(name: str, value: int, least: int = 1) -> None:
    """Raise a ValueError that names the argument unless value is a whole number, least or more."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number, {least} or more, got {shortly(value)}")


def check_positive(**named: float) -> None:
    """Raise a ValueError that names the argument unless it is a positive, finite number."""
    for name, value in named.items():
        real = isinstance(value, Real) and not isinstance(value, bool)
        if not (real and value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {shortly(value)}")


def check_time(t: float | Tensor, schedule: Schedule) -> None:
    """Raise a ValueError unless every t is in (0, T], up to rounding: there σ > 0."""
    T = float(schedule.times[-1])
    value = torch.as_tensor(t).detach()
    good = (value > 0) & (value <= T * (1 + 1e-6))
    if not good.all():
        raise ValueError(f"t must be a time in (0, T] = (0, {T:g}], got {float(value[~good][0])!r}")


def _numbers(name: str, values: object) -> Tensor:
    try:
        return torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be numbers, got {shortly(values)}") from None


def _rising(times: Tensor) -> Tensor:
    times = _numbers("times", times)
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times must have shape (N + 1,) with N ≥ 1, got {tuple(times.shape)}")
    if not times.isfinite().all():
        raise ValueError(f"times must be finite, got {times[~times.isfinite()][0]:g}")
    if times[0] != 0:
        raise ValueError(f"times must start at 0 (the data side), got {times[0]:g}")
    if not (times.diff() > 0).all():
        i = int((times.diff() <= 0).nonzero()[0])
        raise ValueError(
            f"times must rise strictly, got {times[i]:g} then {times[i + 1]:g} at step {i}"
        )
    return times
