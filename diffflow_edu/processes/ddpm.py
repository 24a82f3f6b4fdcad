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
from diffflow_edu.processes.diffflow import DiffFlow
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
        if prediction == "noise":
            score = NoisePrediction(score, schedule.noise_process)
        super().__init__(no_drift, score, schedule, learn_backward_std)

    @classmethod
    def mlp(
        cls, schedule: Schedule, dim: int = 2, hidden: int = 128, learn_backward_std: bool = False
    ) -> DDPM:
        """The model of this course for points in ℝ^dim: one MLP that predicts the noise."""
        net = MLP(dim, hidden, horizon=float(schedule.times[-1]))
        return cls(net, schedule, learn_backward_std=learn_backward_std)

    @classmethod
    def of(cls, model: DiffFlow) -> DDPM:
        """The fixed-drift diffusion inside a DiffFlow: same score network, same backward std."""
        ddpm = cls(model.score, model.schedule, prediction="score")
        ddpm.log_b_ratio = model.log_b_ratio
        return ddpm

    def loss(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """An unbiased estimate of the mean of `bound`, in nats, 0-d, without simulating paths.

        Every particle visits one step i of its own, the steps in equal shares, and pays N times
        that step's KL divergence KL(p_F(x_i | x_{i+1}, x_0) ‖ p_B(x_i | x_{i+1})), both Gaussian.
        noise: (N, B, *shape) simulates whole paths instead, as `bound` does.
        """
        if noise is not None:
            return self.bound(x, noise).mean()
        c = self._checked(x, noise)
        steps, d = c.steps, x[0].numel()
        if len(x) < steps:  # every particle visits every step
            x = x.repeat(math.ceil(steps / len(x)), *[1] * (x.ndim - 1))
        rows = x[: len(x) // steps * steps].unflatten(0, (steps, -1))  # (N, B/N, *shape)

        def column(values: Tensor) -> Tensor:
            return values.to(x).reshape(steps, *[1] * x.ndim)

        alpha, sigma = c.noise_process.alpha(c.times), c.noise_process.sigma(c.times)
        x_next = column(alpha[1:]) * rows + column(sigma[1:]) * torch.randn_like(rows)
        mean = (x_next + column(c.e) * self._scores(x_next, c.times[1:].to(x))) / column(c.k)

        # p_F(x_i | x_{i+1}, x_0) = N(posterior_mean, posterior_variance I).
        share = (sigma[:-1] / sigma[1:]).square() * c.k
        posterior_mean = column(share) * x_next + column(alpha[:-1] - share * alpha[1:]) * rows
        posterior_variance = (c.s * sigma[:-1] / sigma[1:]).square()
        b = self.backward_std(c)
        error = (posterior_mean - mean).square().flatten(2).sum(2) / d
        kl = 0.5 * d * ((error + column(posterior_variance)[..., 0]) / column(b)[..., 0] ** 2)
        ratio = torch.cat([posterior_variance.new_tensor([1.0]), posterior_variance[1:]])
        # The first step has no posterior: its term is −log p_B(x_0 | x_1).
        entropy = 0.5 * d * (1 + ratio.log())
        entropy[0] = -0.5 * d * math.log(2 * math.pi)
        constant = (d * b.log() - entropy.to(b)).sum().to(x)
        # KL(p_F(x_N | x_0) ‖ N(0, I)), with E over the batch
        signal = 0.5 * (float(alpha[-1]) ** 2) * x.square().flatten(1).sum(1).mean()
        noise_term = 0.5 * d * (sigma[-1] ** 2 - 1 - 2 * sigma[-1].log())
        return steps * kl.mean() + constant + signal + float(noise_term)

    def _scores(self, x: Tensor, times: Tensor) -> Tensor:
        """The score of x (N, m, *shape), row by row at times (N,)."""
        if getattr(self.score, "takes_many_times", False):
            return self.score(x, times[:, None])
        return torch.stack([self.score(x[i], t) for i, t in enumerate(times)])
