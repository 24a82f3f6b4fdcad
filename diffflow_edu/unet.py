"""The U-Net of DDPM (Ho et al. 2020) for images, in a few sizes.

Down: residual blocks, and half the height and width from level to level. Up: the same way back,
each block also sees what the way down left at its level. Time goes into every block as a bias.

    block    h ← h + W₂ silu(norm(W₁ silu(norm(h)) + τ(t)))

It is deterministic (no dropout), since the adjoint runs it twice. A process calls it with one t for
the whole batch, so that the embedding of time is computed once a step, whatever the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffflow_edu.labels import ClassEmbedding, check_label
from diffflow_edu.schedules import check_whole, shortly

GROUPS = 8


@dataclass(frozen=True)
class Size:
    """channels: of the first level; times `factors` at each level. blocks: a level, on either way.

    attention: at which levels pixels attend to one another, counted from 0. patch: the first level
    sees squares of patch × patch pixels as one pixel of patch² times the channels, which costs a
    patch²-th.
    """

    channels: int
    factors: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    patch: int = 1


SIZES = {
    "tiny": Size(channels=16, factors=(1, 2), blocks=1, attention=()),
    # As many weights in one net as in two tiny ones: what a DDPM gets beside a tiny DiffFlow.
    "tiny2": Size(channels=24, factors=(1, 2), blocks=1, attention=()),
    # For 28×28 and 32×32 on a CPU: most of its weights where pictures are small.
    "compact": Size(channels=16, factors=(1, 2, 4), blocks=1, attention=()),
    "compact_drift": Size(channels=8, factors=(1, 2, 4), blocks=1, attention=()),
    "small": Size(channels=64, factors=(1, 2, 2), blocks=1, attention=(2,)),
    # Ho et al. have 128 channels on CIFAR-10; two nets of 88 hold as many weights as one of theirs.
    "paper": Size(channels=88, factors=(1, 2, 2, 2), blocks=2, attention=(1,)),
}


class UNet(nn.Module):
    """A field (x, t) -> like x on images.

    x: (..., channels, H, W), H and W at least 2^(levels − 1). t: 0-d, or any shape that broadcasts
    against x without its last axis and is the same for all pixels of an image, such as (n, 1, 1).

    channels: C of an image. size: of `SIZES`, from "tiny", which a CPU trains, to "paper", or your
    own.
    zero_init: the last layer starts at zero, so the field does. horizon: T, the largest t.
    classes: of a label, as for `MLP`.

    >>> _ = torch.manual_seed(0)
    >>> UNet(channels=1, size="tiny")(torch.randn(2, 1, 8, 8), torch.tensor(0.5)).shape
    torch.Size([2, 1, 8, 8])
    """

    takes_many_times = True
    classes = 0

    def __init__(
        self,
        channels: int,
        size: str | Size = "small",
        zero_init: bool = False,
        horizon: float = 1.0,
        classes: int = 0,
    ) -> None:
        super().__init__()
        check_whole("channels", channels)
        check_whole("classes", classes, least=0)
        size = find_size(size)
        self.channels = channels
        self.config = {"channels": channels, "size": size, "horizon": horizon}
        self.levels = len(size.factors)
        widths = [size.channels * factor for factor in size.factors]
        embedding = 4 * size.channels

        frequencies = torch.exp(torch.linspace(0, math.log(1000.0), size.channels)) / horizon
        self.register_buffer("t_frequencies", frequencies, persistent=False)
        self.time = nn.Sequential(
            nn.Linear(2 * size.channels, embedding),
            nn.SiLU(),
            nn.Linear(embedding, embedding),
            nn.SiLU(),
        )

        self.patch = size.patch
        pixel = channels * size.patch**2
        self.first = nn.Conv2d(pixel, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width, skips = widths[0], [widths[0]]
        for level, new_width in enumerate(widths):
            attends = level in size.attention
            for _ in range(size.blocks):
                self.down.append(Block(width, new_width, embedding, attends))
                width = new_width
                skips.append(width)
            if level < self.levels - 1:
                self.down.append(Halve(width))
                skips.append(width)
        self.middle = nn.ModuleList(
            [Block(width, width, embedding, attends=True), Block(width, width, embedding)]
        )
        for level, new_width in reversed(list(enumerate(widths))):
            attends = level in size.attention
            for _ in range(size.blocks + 1):
                self.up.append(Block(width + skips.pop(), new_width, embedding, attends))
                width = new_width
            if level > 0:
                self.up.append(Double(width))
        self.norm = nn.GroupNorm(GROUPS, width)
        self.last = nn.Conv2d(width, pixel, 3, padding=1)
        if zero_init:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)
        if classes:
            self.classes = self.config["classes"] = classes
            self.label = ClassEmbedding(classes, embedding)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The field at x and t, of the shape of x. label: whole numbers, of leading axes of x."""
        side = 2 ** (self.levels - 1)
        if x.ndim < 4 or x.shape[-3] != self.channels or min(x.shape[-2:]) < side:
            raise ValueError(
                f"x must be images (..., {self.channels}, H, W) with H, W ≥ {side}, got "
                f"{tuple(x.shape)}"
            )
        check_label(label, self.classes)
        leading = x.shape[:-3]
        t = t[(..., *[0] * (t.ndim - len(leading)))]  # all pixels of an image have one time
        phase = t.unsqueeze(-1) * self.t_frequencies
        waves = torch.cat([phase.sin(), phase.cos()], -1)
        if self.classes:
            time = self.time[-1](self.time[:-1](waves) + self.label(label))
        else:
            time = self.time(waves)
        if time.ndim > 1:
            time = time.expand(*leading, -1).flatten(0, -2)
        h = self.first(F.pixel_unshuffle(x.flatten(0, -4), self.patch))
        skips = [h]
        for layer in self.down:
            h = layer(h, time)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, time)
        for layer in self.up:
            if isinstance(layer, Double):
                h = layer(h, skips[-1].shape[-2:])
            else:
                h = layer(torch.cat([h, skips.pop()], 1), time)
        out = self.last(F.silu(self.norm(h)))
        return F.pixel_shuffle(out, self.patch).reshape(x.shape)


class Block(nn.Module):
    """Two convolutions around a bias from time, a skip, and attention where `attends`."""

    def __init__(self, width: int, new_width: int, embedding: int, attends: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, width)
        self.conv1 = nn.Conv2d(width, new_width, 3, padding=1)
        self.time = nn.Linear(embedding, new_width)
        self.norm2 = nn.GroupNorm(GROUPS, new_width)
        self.conv2 = nn.Conv2d(new_width, new_width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)  # the block starts as its skip
        nn.init.zeros_(self.conv2.bias)
        self.skip = nn.Conv2d(width, new_width, 1) if width != new_width else nn.Identity()
        self.attention = Attention(new_width) if attends else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x: (B, width, H, W). time: (embedding,) or (B, embedding)."""
        h = self.conv1(F.silu(self.norm1(x))) + self.time(time)[..., None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return self.attention(self.skip(x) + h)


class Attention(nn.Module):
    """Every pixel looks at every other, with one head; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, width, H, W)."""
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, -1)
        seen = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.out(seen.transpose(1, 2).reshape(x.shape))


class Halve(nn.Module):
    """Half the height and width, rounded up, by a convolution of stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x: (B, width, H, W). time: not looked at."""
        return self.conv(x)


class Double(nn.Module):
    """Twice the height and width: each pixel repeated, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """x: (B, width, H, W). size: that of the level above, since 7 pixels halve to 4."""
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


def find_size(size: str | Size) -> Size:
    """The `Size` of that name. Raises ValueError for any other."""
    if isinstance(size, Size):
        return size
    if not isinstance(size, str) or size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)} or a Size, got {shortly(size)}")
    return SIZES[size]


def check_image_shape(shape: tuple[int, ...]) -> None:
    """Raise a ValueError unless shape is that of an image, three positive whole numbers."""
    if not isinstance(shape, Sequence) or isinstance(shape, str) or len(shape) != 3:
        raise ValueError(f"shape must be (C, H, W), got {shortly(shape)}")
    for length in shape:
        check_whole("shape", length)


@dataclass(frozen=True)
class Cost:
    """parameters: trained numbers. flops: of one evaluation of one image, a multiply-add is 2."""

    parameters: int
    flops: int

    def __str__(self) -> str:
        return f"{self.parameters / 1e6:.2f} M parameters, {self.flops / 1e6:.0f} MFLOP an image"


def cost(net: nn.Module, shape: tuple[int, ...]) -> Cost:
    """What a field costs on particles of a shape, counted by running it once on one of them.

    >>> print(cost(UNet(channels=1, size="tiny"), (1, 14, 14)))
    0.17 M parameters, 24 MFLOP an image
    """
    like = next(net.parameters())
    x = torch.zeros(1, *shape, dtype=like.dtype, device=like.device)
    # Of the ways to attend, this one is made of products that the counter knows on any device.
    plain = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), plain, FlopCounterMode(display=False) as counter:
        net(x, torch.ones((), dtype=like.dtype, device=like.device))
    parameters = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return Cost(parameters, counter.get_total_flops())
