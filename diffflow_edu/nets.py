"""The small network for points in the plane (or any vector), and how its output is a score.

The score is −ε/σ. Whether the network is asked for the noise ε, for the clean data x_0 or for a
mixture v of both is a choice that training notices: see `Prediction`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diffflow_edu.labels import ClassEmbedding, check_label
from diffflow_edu.schedules import NoiseProcess, check_whole, shortly

FADE = 0.5
"""The width, in units of the noise, by which a smooth `MLP` blurs its waves."""


class MLP(nn.Module):
    """A field (x, t) -> ℝ^dim: Fourier features of x, sines of t, and a few GELU layers.

    Near a thin ring a score changes over a hundredth of a unit; sin and cos of 2^k x
    (k = 0 … frequencies − 1) put such detail within reach of a small net.

    x: (..., dim). t: 0-d, or any shape that broadcasts against x without its last axis; at a
    single t the time embedding is computed once, whatever the batch. Returns (..., dim).

    zero_init: the last layer starts at zero, so the field does. horizon: T, the largest t.

    smooth: a noise process whose σ(t) fades the waves: at t, sin and cos of k x are multiplied by
    exp(−½ (FADE k σ)²), what noise of FADE σ would leave of them. A score of data blurred by σ has
    no detail finer than σ, but a net with waves that fine learns some from its few samples. The
    denoising loss hardly minds; the divergence of the field, and so an ODE's density, does.
    (Waves faded by a width are the integrated positional encoding of Barron et al. 2021, mip-NeRF.)

    classes: the field may then depend on a label, 0 … classes − 1, or `classes` for "none", which
    no label is, too: an embedding of it, at first zero, is added to that of t.
    """

    takes_many_times = True
    classes = 0

    def __init__(
        self,
        dim: int = 2,
        hidden: int = 128,
        depth: int = 3,
        frequencies: int = 6,
        zero_init: bool = False,
        horizon: float = 1.0,
        smooth: NoiseProcess | None = None,
        classes: int = 0,
    ) -> None:
        super().__init__()
        if not (smooth is None or isinstance(smooth, NoiseProcess)):
            raise ValueError(f"smooth must be a NoiseProcess, got {shortly(smooth)}")
        self.smooth = smooth
        check_whole("dim", dim)
        check_whole("hidden", hidden)
        check_whole("depth", depth)
        check_whole("frequencies", frequencies, least=0)
        check_whole("classes", classes, least=0)
        self.dim = dim
        self.config = {"dim": dim, "hidden": hidden, "depth": depth, "frequencies": frequencies}
        self.config |= {"horizon": horizon, "smooth": smooth}
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
        if classes:
            self.classes = self.config["classes"] = classes
            self.label = ClassEmbedding(classes, depth * hidden)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The field at x and t, of the shape of x. label: whole numbers, of leading axes of x."""
        if x.shape[-1] != self.dim:
            raise ValueError(
                f"x must have {self.dim} numbers a particle, got shape {tuple(x.shape)}"
            )
        check_label(label, self.classes)
        phase = t.unsqueeze(-1) * self.t_frequencies
        times = self.time(torch.cat([phase.sin(), phase.cos()], -1))
        if self.classes:
            times = times + self.label(label)
        times = times.chunk(len(self.layers), -1)
        waves = (x.unsqueeze(-1) * self.x_frequencies).flatten(-2)
        sin, cos = waves.sin(), waves.cos()
        if self.smooth is not None:
            blur = FADE * self.smooth.sigma(t).unsqueeze(-1) * self.x_frequencies
            left = torch.exp(-0.5 * blur.square())
            left = torch.cat([left] * self.dim, -1)
            sin, cos = left * sin, left * cos
        hidden = torch.cat([x, sin, cos], -1)
        for layer, time in zip(self.layers, times, strict=True):
            hidden = nn.functional.gelu(layer(hidden) + time)
        return self.last(hidden)


class ResidualMLP(nn.Module):
    """A field (x, t) -> ℝ^dim for rows of a table: residual blocks that are told the time.

    Rows are seldom thin curves, but their spread may differ a hundredfold from one to the next,
    like that of a flat and of a rough image patch. So the first layer looks through several
    magnifications at once, and t turns each of them up or down:

        h = asinh(e^{c(t)} m ⊙ W x) + τ(t),      m = 1, 4, 16, 64

    asinh is linear in what is small and a logarithm of what is large. Then `blocks` times
    h ← h + B gelu(A LayerNorm(h) + τ(t)), and a last layer that sees h and x.

    x: (..., dim). t: 0-d, or any shape that broadcasts against x without its last axis. Returns
    (..., dim). zero_init: the last layer starts at zero, so the field does. horizon: T.
    """

    takes_many_times = True

    def __init__(
        self,
        dim: int,
        hidden: int = 256,
        blocks: int = 2,
        magnifications: int = 4,
        zero_init: bool = False,
        horizon: float = 1.0,
    ) -> None:
        super().__init__()
        check_whole("dim", dim)
        check_whole("hidden", hidden)
        check_whole("blocks", blocks)
        check_whole("magnifications", magnifications)
        self.dim = dim
        self.config = {"dim": dim, "hidden": hidden, "blocks": blocks}
        self.config |= {"magnifications": magnifications, "horizon": horizon}
        magnification = 4.0 ** (torch.arange(hidden) % magnifications)
        self.register_buffer("magnification", magnification, persistent=False)
        t_frequencies = torch.exp(torch.linspace(0, math.log(100.0), 16)) / horizon
        self.register_buffer("t_frequencies", t_frequencies, persistent=False)
        # No bias: magnified like W x, it would drown what is small.
        self.first = nn.Linear(dim, hidden, bias=False)
        self.gain = nn.Linear(2 * len(t_frequencies), hidden, bias=False)
        nn.init.zeros_(self.gain.weight)
        self.time = nn.Linear(2 * len(t_frequencies), (1 + blocks) * hidden, bias=False)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(blocks))
        self.inner = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(blocks))
        self.last = nn.Linear(hidden + dim, dim)
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
        waves = torch.cat([phase.sin(), phase.cos()], -1)
        first_time, *times = self.time(waves).chunk(1 + len(self.inner), -1)
        magnification = self.magnification * self.gain(waves).exp()
        hidden = torch.asinh(magnification * self.first(x)) + first_time
        for norm, inner, outer, time in zip(self.norms, self.inner, self.outer, times, strict=True):
            hidden = hidden + outer(nn.functional.gelu(inner(norm(hidden)) + time))
        return self.last(torch.cat([hidden, x], -1))


class Prediction(nn.Module):
    """The score −ε(x, t)/σ(t) of a network that predicts ε, or something that ε follows from.

    net: a callable (x, t) -> like x. noise_process: its α and σ; x = α x_0 + σ ε.
    """

    def __init__(self, net: nn.Module, noise_process: NoiseProcess) -> None:
        super().__init__()
        if not isinstance(noise_process, NoiseProcess):
            raise ValueError(f"noise_process must be a NoiseProcess, got {shortly(noise_process)}")
        self.net = net
        self.noise_process = noise_process
        self.takes_many_times = getattr(net, "takes_many_times", False)

    def noise(self, output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """ε from what the network returned. All broadcast against x. Returns ε like x."""
        raise NotImplementedError

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The score at x (B, *shape) and t > 0, 0-d or of leading axes of x.

        label: for a net with classes, of leading axes of x, too.
        """
        alpha, sigma = (
            value.reshape(value.shape + (1,) * (x.ndim - value.ndim))
            for value in (self.noise_process.alpha(t), self.noise_process.sigma(t))
        )
        output = self.net(x, t) if label is None else self.net(x, t, label)
        return -self.noise(output, x, alpha, sigma) / sigma


class NoisePrediction(Prediction):
    """The network predicts the noise ε itself (Ho et al. 2020).

    The score grows like 1/σ towards the data; the noise stays of order one, which is what a
    network likes to learn.
    """

    def noise(self, output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The output."""
        return output


class DataPrediction(Prediction):
    """The network predicts the clean x_0, so that ε = (x − α x_0)/σ.

    An error of x_0 is multiplied by α/σ on its way to ε: good in much noise, poor in little.
    """

    def noise(self, output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """(x − α x_0)/σ."""
        return (x - alpha * output) / sigma


class VPrediction(Prediction):
    """The network predicts v = α ε − σ x_0 (Salimans and Ho 2022): ε = (σ x + α v)/(α² + σ²).

    Near the data v is the noise, in pure noise it is the data (with a minus): whichever of the
    two is not to be seen in x.
    """

    def noise(self, output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """(σ x + α v)/(α² + σ²); the denominator is 1 where the variance is preserved."""
        return (sigma * x + alpha * output) / (alpha.square() + sigma.square())


PREDICTIONS = {"noise": NoisePrediction, "x0": DataPrediction, "v": VPrediction}
"""By the name that `DDPM` takes."""
