"""DDPM (Ho, Jain and Abbeel 2020): DiffFlow whose drift is frozen at zero.

Without a learned drift the way to the noise is known in closed form,

    x_i = α_i x_0 + σ_i ε,    ε ~ N(0, I),

so training needs no simulation: any step can be visited directly.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from diffflow_edu.nets import MLP, NoisePrediction
from diffflow_edu.processes.base import Field
from diffflow_edu.processes.diffflow import DiffFlow, check_schedule
from diffflow_edu.schedules import Schedule


def no_drift(x: Tensor, t: Tensor) -> Tensor:
    """f = 0: the particles only diffuse."""
    return torch.zeros_like(x)


class DDPM(DiffFlow):
    """A fixed forward diffusion and a learned way back.

    score: a callable (x (B, *shape), t 0-d) -> (B, *shape).
    prediction: what `score` returns: "noise", ε with score −ε/σ(t), or "score" itself.

    >>> _ = torch.manual_seed(0)
    >>> DDPM.mlp(Schedule.log_snr(steps=10)).bound(torch.randn(3, 2)).shape
    torch.Size([3])
    """

    def __init__(
        self,
        score: Field,
        schedule: Schedule,
        prediction: Literal["noise", "score"] = "noise",
        learn_backward_std: bool = False,
    ) -> None:
        if prediction not in ("noise", "score"):
            raise ValueError(f"prediction must be 'noise' or 'score', got {prediction!r}")
        if not callable(score):
            raise ValueError(f"score must be callable as score(x, t), got {score!r}")
        if not isinstance(schedule, Schedule):
            raise ValueError(f"schedule must be a Schedule, got {schedule!r}")
        if prediction == "noise":
            score = NoisePrediction(score, schedule.noise_process)
        super().__init__(no_drift, score, schedule, learn_backward_std)

    @classmethod
    def mlp(
        cls, schedule: Schedule, dim: int = 2, hidden: int = 128, learn_backward_std: bool = False
    ) -> DDPM:
        """The model of this course for points in ℝ^dim: one MLP that predicts the noise."""
        check_schedule(schedule)
        net = MLP(dim, hidden, horizon=float(schedule.times[-1]))
        model = cls(net, schedule, learn_backward_std=learn_backward_std)
        model.shape = (dim,)
        return model

    @classmethod
    def of(cls, model: DiffFlow) -> DDPM:
        """The fixed-drift diffusion inside a DiffFlow: same score network, same backward std."""
        ddpm = cls(model.score, model.schedule, prediction="score")
        ddpm.log_b_ratio = model.log_b_ratio
        ddpm.shape = model.shape
        return ddpm

    def loss(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """An unbiased estimate of the mean of `bound`, in nats, 0-d, without simulating paths.

        Given x_0 the path term of every step is a divergence of two Gaussians,

            KL(p_F(x_i | x_{i+1}, x_0) ‖ p_B(x_i | x_{i+1})) = cross entropy − entropy,

        so every particle visits one step, drawn in equal shares, and stands for all of them. At
        i = 0 nothing is left of the first Gaussian, and the cross entropy is −log p_B(x_0 | x_1).

        x: (B, *shape). noise: (N, B, *shape) simulates whole paths instead, as `bound` does.
        """
        if noise is not None:
            return self.bound(x, noise).mean()
        c = self._checked(x, noise)
        steps, d = c.steps, x[0].numel()
        alpha, sigma = c.noise_process.alpha(c.times), c.noise_process.sigma(c.times)
        b = self.backward_std(c)

        def column(values: Tensor) -> Tensor:
            """One number a step, against rows (N, B/N, *shape)."""
            return values.to(x).reshape(steps, *[1] * x.ndim)

        # The order is drawn, for x may be sorted; particles return if there are fewer than steps.
        copies = math.ceil(steps / len(x))
        order = torch.randperm(copies * len(x), device=x.device) % len(x)
        x_0 = x[order[: len(order) // steps * steps]].unflatten(0, (steps, -1))
        x_next = column(alpha[1:]) * x_0 + column(sigma[1:]) * torch.randn_like(x_0)

        # p_F(x_i | x_{i+1}, x_0) = N(mean, variance I)
        kept = c.k * (sigma[:-1] / sigma[1:]).square()
        variance = (c.s * sigma[:-1] / sigma[1:]).square()
        mean = column(kept) * x_next + column(alpha[:-1] - kept * alpha[1:]) * x_0

        # p_B(x_i | x_{i+1}) = N(model_mean, b² I)
        score = self._scores(x_next, c.times[1:].to(x)).to(x)
        model_mean = (x_next + column(c.e) * score) / column(c.k)

        squares = ((mean - model_mean) / column(b)).square().flatten(2).sum(2).mean(1)
        cross_entropy = 0.5 * d * (2 * math.pi * b.square()).log() + 0.5 * d * variance / b.square()
        entropy = 0.5 * d * (2 * math.pi * math.e * variance[1:]).log()
        # KL(p_F(x_N | x_0) ‖ N(0, I))
        end_square = 0.5 * float(alpha[-1]) ** 2 * x.square().flatten(1).sum(1).mean()
        end = 0.5 * d * (sigma[-1].square() - 1 - 2 * sigma[-1].log())
        constant = cross_entropy.sum() - entropy.sum() + end
        return 0.5 * squares.sum() + end_square + constant.to(x)

    def _scores(self, x: Tensor, times: Tensor) -> Tensor:
        """The score of x (N, m, *shape), row by row at times (N,)."""
        if getattr(self.score, "takes_many_times", False):
            return self.score(x, times.reshape(-1, *[1] * (x.ndim - 2)))
        return torch.stack([self.score_at(x[i], t) for i, t in enumerate(times)])
