"""DDPM (Ho, Jain and Abbeel 2020): DiffFlow whose drift is frozen at zero.

Without a learned drift the way to the noise is known in closed form,

    x_i = α_i x_0 + σ_i ε,    ε ~ N(0, I),

so training needs no simulation: any step can be visited directly. Equation numbers are those of
Ho et al.; their β_i is 1 − k_i², their ᾱ_i is α_i².
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffflow_edu.devices import cast_like
from diffflow_edu.labels import Labels, only
from diffflow_edu.nets import MLP, PREDICTIONS
from diffflow_edu.processes.base import Field, generator_for
from diffflow_edu.processes.diffflow import DiffFlow, check_schedule
from diffflow_edu.schedules import Schedule, check_time, shortly
from diffflow_edu.unet import Size, UNet, check_image_shape

PredictionName = Literal["noise", "x0", "v", "score"]
VarianceName = Literal["beta", "posterior"]


def no_drift(x: Tensor, t: Tensor) -> Tensor:
    """f = 0: the particles only diffuse."""
    return torch.zeros_like(x)


def posterior_std(schedule: Schedule) -> Tensor:
    """√β̃, the standard deviation of p_F(x_i | x_{i+1}, x_0), (N,) float64.

    b_i = s_i σ_i/σ_{i+1} (equation 7). At the last step to the data it is 0: x_0 is given. A
    backward step without noise has no density, so that step takes the value of the one before
    it, as Ho et al. clip it; a chain of one step takes s. Where that neighbour is much shorter
    than the first step, as on a long log-SNR grid, the clipped value is far too small.
    """
    sigma = schedule.noise_process.sigma(schedule.times)
    b = schedule.s * sigma[:-1] / sigma[1:]
    b[0] = b[1] if schedule.steps > 1 else schedule.s[0]
    return b


@dataclass(frozen=True, eq=False, repr=False)
class BoundTerms:
    """Where a bound spends its nats (equation 5 of Ho et al.); all parts in nats, per particle.

    reconstruction: (B,), −log p_B(x_0 | x_1); the one term that may be negative.
    kl: (N − 1, B), KL(p_F(x_i | x_{i+1}, x_0) ‖ p_B(x_i | x_{i+1})) for i = 1 … N − 1.
    prior: (B,), KL(p_F(x_N | x_0) ‖ N(0, I)).
    """

    reconstruction: Tensor
    kl: Tensor
    prior: Tensor

    @property
    def total(self) -> Tensor:
        """The bound, (B,): the sum of all terms."""
        return self.reconstruction + self.kl.sum(0) + self.prior

    def __repr__(self) -> str:
        parts = (self.reconstruction, self.kl.sum(0), self.prior, self.total)
        a, b, c, total = (float(part.mean()) for part in parts)
        return (
            f"BoundTerms({a:.3f} reconstruction + {b:.3f} in {len(self.kl)} KLs + {c:.3f} prior "
            f"= {total:.3f} nats)"
        )


class DDPM(DiffFlow):
    """A fixed forward diffusion and a learned way back.

    score: a callable (x (B, *shape), t 0-d) -> (B, *shape).
    prediction: what `score` returns: "noise", ε with score −ε/σ(t); "x0", the clean data; "v",
        α ε − σ x_0 (Salimans and Ho 2022); or "score" itself. `model.score` is the score always.
    variance: the backward std of every step, b = s ("beta") or that of the posterior given x_0
        ("posterior", see `posterior_std`); where learned, the start.
    learn_backward_std, shape: as in `DiffFlow`.

    >>> _ = torch.manual_seed(0)
    >>> DDPM.mlp(Schedule.log_snr(steps=10)).bound(torch.randn(3, 2)).shape
    torch.Size([3])
    """

    def __init__(
        self,
        score: Field,
        schedule: Schedule,
        prediction: PredictionName = "noise",
        learn_backward_std: bool = False,
        variance: VarianceName = "beta",
        shape: tuple[int, ...] | None = None,
    ) -> None:
        if prediction not in (*PREDICTIONS, "score"):
            raise ValueError(
                f"prediction must be 'noise', 'x0', 'v' or 'score', got {shortly(prediction)}"
            )
        if variance not in ("beta", "posterior"):
            raise ValueError(f"variance must be 'beta' or 'posterior', got {shortly(variance)}")
        if not callable(score):
            raise ValueError(f"score must be callable as score(x, t), got {shortly(score)}")
        check_schedule(schedule)
        if prediction != "score":
            score = PREDICTIONS[prediction](score, schedule.noise_process)
        super().__init__(no_drift, score, schedule, learn_backward_std, shape)
        if variance == "posterior":
            with torch.no_grad():
                self.log_b_ratio.copy_((posterior_std(schedule) / schedule.b).log())

    @classmethod
    def mlp(
        cls,
        schedule: Schedule,
        dim: int = 2,
        hidden: int = 128,
        learn_backward_std: bool = False,
        prediction: Literal["noise", "x0", "v"] = "noise",
        smooth: bool = False,
        classes: int = 0,
    ) -> DDPM:
        """The model of this course for points in ℝ^dim: one MLP; `prediction` is what it says.

        smooth: it has no detail much finer than the noise at its t, see `MLP`. classes: that a
        `label` may name.
        """
        check_schedule(schedule)
        blur = schedule.noise_process if smooth else None
        net = MLP(dim, hidden, horizon=float(schedule.times[-1]), smooth=blur, classes=classes)
        return cls(net, schedule, prediction, learn_backward_std, shape=(dim,))

    @classmethod
    def unet(
        cls,
        schedule: Schedule,
        shape: tuple[int, int, int],
        size: str | Size = "small",
        learn_backward_std: bool = False,
        prediction: Literal["noise", "x0", "v"] = "noise",
        classes: int = 0,
    ) -> DDPM:
        """The model for images of a shape (C, H, W): one U-Net; `prediction` is what it says.

        classes: that a `label` may name.
        """
        check_schedule(schedule)
        check_image_shape(shape)
        net = UNet(shape[0], size, horizon=float(schedule.times[-1]), classes=classes)
        net.shape = tuple(shape)  # a U-Net takes any size: it is told ours
        return cls(net, schedule, prediction, learn_backward_std, shape=tuple(shape))

    @classmethod
    def of(cls, model: DiffFlow) -> DDPM:
        """The fixed-drift diffusion inside a DiffFlow: same score network, same backward std."""
        if not isinstance(model, DiffFlow):
            raise ValueError(f"model must be a DiffFlow, got {type(model).__name__}")
        ddpm = cls(model.score, model.schedule, prediction="score")
        ddpm.log_b_ratio = model.log_b_ratio
        ddpm.taught = model.taught
        return ddpm.in_units_of(model).train(model.training)

    def on(self, schedule: Schedule, variance: VarianceName = "beta") -> DDPM:
        """The same network on another grid of the same SDE; it is held, not copied.

        The backward std is the schedule's or the posterior's: one learned for a grid fits no
        other. Raises ValueError for a schedule of another SDE, whose times mean other noise.
        """
        check_schedule(schedule)
        ours, theirs = self.schedule.noise_process, schedule.noise_process
        if ours != theirs:
            raise ValueError(
                f"schedule must have the noise process that the model was made for, {ours}, "
                f"got {theirs}; Schedule.at(times, model.schedule.noise_process) makes one"
            )
        ddpm = DDPM(self.score, schedule, prediction="score", variance=variance)
        ddpm.log_b_ratio.data = ddpm.log_b_ratio.data.to(self.log_b_ratio)
        ddpm.taught = self.schedule.times if self.taught is None else self.taught
        return ddpm.in_units_of(self).train(self.training)

    def respaced(self, steps: int, variance: VarianceName = "beta") -> DDPM:
        """The same network on every (N/steps)-th time of its grid (Nichol and Dhariwal 2021)."""
        return self.on(self.schedule.respaced(steps), variance)

    def denoised(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t = x] by Tweedie's formula, (x + σ² score)/α, in the networks' units.

        x: (B, *shape). t: 0-d, in (0, T]; ValueError for any other.
        """
        check_time(t, self.schedule)
        t = t if t.device == x.device else t.to(x)
        noise = self.schedule.noise_process
        return (x + noise.sigma(t).square() * self.score_at(x, t)) / noise.alpha(t)

    def loss(self, x: Tensor, noise: Tensor | None = None, label: Labels | None = None) -> Tensor:
        """An unbiased estimate of the mean of `bound`, in nats, 0-d, without simulating paths.

        Given x_0 the path term of every step is a divergence of two Gaussians,

            KL(p_F(x_i | x_{i+1}, x_0) ‖ p_B(x_i | x_{i+1})) = cross entropy − entropy,

        so every particle visits one step, drawn in equal shares, and stands for all of them. At
        i = 0 nothing is left of the first Gaussian, and the cross entropy is −log p_B(x_0 | x_1).

        x: (B, *shape). noise: (N, B, *shape) simulates whole paths instead, as `bound` does.
        label: as in `bound`.
        """
        if label is not None:
            return self.given(label).loss(x, noise)
        if noise is not None:
            return self.bound(x, noise).mean()
        c, x = self._checked(x, noise)
        # The order is drawn, for x may be sorted; particles return if there are fewer than steps.
        copies = math.ceil(c.steps / len(x))
        order = torch.randperm(copies * len(x), device=x.device) % len(x)
        chosen = order[: len(order) // c.steps * c.steps].unflatten(0, (c.steps, -1))
        x_0 = x[chosen]
        with only(chosen):
            squares, constants = self._divergences(c, x_0, torch.randn_like(x_0), slice(0, c.steps))
        end_square, end = self._prior(c, x)
        return (
            squares.mean(1).sum()
            + end_square.mean()
            + cast_like(constants.sum() + end, x)
            + self._volume(x)
        )

    @torch.no_grad()
    def bound_terms(self, x: Tensor, seed: int | None = None) -> BoundTerms:
        """Where the bound spends its nats: its terms, one particle in every step (equation 5).

        x: (B, *shape). One draw of every x_{i+1} given x_0 a particle, independent of the others,
        where `bound` walks along one path; what can be averaged exactly is. The mean of the sum
        is that of `bound`.
        """
        c, x = self._checked(x, None, seed)
        generator = generator_for(seed, x.device)
        rows = max(1, 32_768 // len(x))  # many steps at once are fast, all of 1000 would be big
        parts = []
        for first in range(0, c.steps, rows):
            steps = slice(first, min(first + rows, c.steps))
            x_0 = x.expand(steps.stop - first, *x.shape)
            noise = torch.randn(x_0.shape, generator=generator, dtype=x.dtype, device=x.device)
            with only(torch.arange(len(x)).expand(x_0.shape[:2])):
                squares, constants = self._divergences(c, x_0, noise, steps)
            parts.append(squares + constants.to(x)[:, None])
        terms = torch.cat(parts)
        end_square, end = self._prior(c, x)
        return BoundTerms(terms[0] + self._volume(x), terms[1:], end_square + end.to(x))

    def _divergences(
        self, c: Schedule, x_0: Tensor, noise: Tensor, steps: slice
    ) -> tuple[Tensor, Tensor]:
        """What steps add to the bound: of every particle, and of none in particular.

        x_0, noise: (n, m, *shape) for n steps. Returns (n, m) and (n,) float64; their sum is a KL,
        at i = 0 the cross entropy −log p_B(x_0 | x_1).
        """
        d = x_0[0, 0].numel()
        alpha, sigma = c.noise_process.alpha(c.times), c.noise_process.sigma(c.times)
        before, after = (alpha[:-1][steps], sigma[:-1][steps]), (alpha[1:][steps], sigma[1:][steps])
        k, s, b = c.k[steps], c.s[steps], self.backward_std(c)[steps]

        def column(values: Tensor) -> Tensor:
            """One number a step, against rows (n, m, *shape)."""
            return cast_like(values, x_0).reshape(-1, *[1] * (x_0.ndim - 1))

        x_next = column(after[0]) * x_0 + column(after[1]) * noise

        # p_F(x_i | x_{i+1}, x_0) = N(mean, variance I)
        kept = k * (before[1] / after[1]).square()
        variance = (s * before[1] / after[1]).square()
        mean = column(kept) * x_next + column(before[0] - kept * after[0]) * x_0

        # p_B(x_i | x_{i+1}) = N(model_mean, b² I)
        score = self._scores(x_next, c.times[1:][steps].to(x_0)).to(x_0)
        model_mean = (x_next + column(c.e[steps]) * score) / column(k)

        squares = ((mean - model_mean) / column(b)).square().flatten(2).sum(2)
        cross_entropy = 0.5 * d * (2 * math.pi * b.square()).log() + 0.5 * d * variance / b.square()
        entropy = 0.5 * d * (2 * math.pi * math.e * variance).log()
        return 0.5 * squares, cross_entropy - entropy.where(variance > 0, 0.0)

    def _prior(self, c: Schedule, x: Tensor) -> tuple[Tensor, Tensor]:
        """KL(p_F(x_N | x_0) ‖ N(0, I)): the part of each particle, (B,), and the constant, 0-d."""
        end = c.times[-1]
        alpha, sigma = c.noise_process.alpha(end), c.noise_process.sigma(end)
        squares = 0.5 * float(alpha) ** 2 * x.square().flatten(1).sum(1)
        return squares, 0.5 * x[0].numel() * (sigma.square() - 1 - 2 * sigma.log())

    def _scores(self, x: Tensor, times: Tensor) -> Tensor:
        """The score of x (N, m, *shape), row by row at times (N,)."""
        if getattr(self.score, "takes_many_times", False):
            return self.score(x, times.reshape(-1, *[1] * (x.ndim - 2)))
        scores = []
        for i, t in enumerate(times):
            with only(i):
                scores.append(self.score_at(x[i], t))
        return torch.stack(scores)
