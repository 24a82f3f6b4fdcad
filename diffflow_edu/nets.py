"""The small network for points in the plane (or any vector), and how its output is a score."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diffflow_edu.schedules import NoiseProcess, check_whole


class MLP(nn.Module):
    """A field (x, t) -> ℝ^dim: Fourier features of x, sines of t, and a few GELU layers.

    Near a thin ring a score changes over a hundredth of a unit; sin and cos of 2^k x
    (k = 0 … frequencies − 1) put such detail within reach of a small net.

    x: (..., dim). t: 0-d, or any shape that broadcasts against x without its last axis; at a
    single t the time embedding is computed once, whatever the batch. Returns (..., dim).

    zero_init: the last layer starts at zero, so the field does. horizon: T, the largest t.
    """

    takes_many_times = True

    def __init__(
        self,
        dim: int = 2,
        hidden: int = 128,
        depth: int = 3,
        frequencies: int = 6,
        zero_init: bool = False,
        horizon: float = 1.0,
    ) -> None:
        super().__init__()
        check_whole("dim", dim)
        check_whole("hidden", hidden)
        check_whole("depth", depth)
        check_whole("frequencies", frequencies, least=0)
        self.dim = dim
        self.register_buffer("x_frequencies", 2.0 ** torch.arange(frequencies), persistent=False)
        t_frequencies = torch.exp(torch.linspace(0, math.log(100.0), 16)) / horizon
        self.register_buffer("t_frequencies", t_frequencies, persistent=False)
        width = dim * (1 + 2 * frequencies)
        self.layers = nn.ModuleList(
            nn.Linear(width if i == 0 else hidden, hidden) for i in range(depth)
        )
        self.time = nn.Linear(2 * len(t_frequencies), depth * hidden, bias=False)
        self.last = nn.Linear(hidden, dim)
        if zero_init:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The field at x and t, of the shape of x."""
        if x.shape[-1] != self.dim:
            raise ValueError(
                f"x must have {self.dim} numbers a particle, got shape {tuple(x.shape)}"
            )
        phase = t.unsqueeze(-1) * self.t_frequencies
        times = self.time(torch.cat([phase.sin(), phase.cos()], -1)).chunk(len(self.layers), -1)
        waves = (x.unsqueeze(-1) * self.x_frequencies).flatten(-2)
        hidden = torch.cat([x, waves.sin(), waves.cos()], -1)
        for layer, time in zip(self.layers, times, strict=True):
            hidden = nn.functional.gelu(layer(hidden) + time)
        return self.last(hidden)


class NoisePrediction(nn.Module):
    """The score −ε(x, t)/σ(t) of a network ε that predicts the noise (Ho et al. 2020).

    The score grows like 1/σ towards the data; the noise stays of order one, which is what a
    network likes to learn.
    """

    def __init__(self, net: nn.Module, noise_process: NoiseProcess) -> None:
        super().__init__()
        if not isinstance(noise_process, NoiseProcess):
            raise ValueError(f"noise_process must be a NoiseProcess, got {noise_process!r}")
        self.net = net
        self.noise_process = noise_process
        self.takes_many_times = getattr(net, "takes_many_times", False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The score at x (B, *shape) and t > 0, 0-d or of leading axes of x."""
        sigma = self.noise_process.sigma(t)
        return -self.net(x, t) / sigma.reshape(sigma.shape + (1,) * (x.ndim - sigma.ndim))
