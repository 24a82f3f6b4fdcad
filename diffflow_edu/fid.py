"""Fréchet distance between sets of images, in the features of a net whose name is always told.

FID (Heusel et al. 2017) compares Gaussians fitted to features:

    ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^{1/2}).

Its number depends on the feature net and on how many images there are, and is not zero between two
sets of real images. So here it is called "FID-LeNet" or, in colour, "FID-ResNet" after a small
classifier trained by `benchmarks/feature_nets.py`, is taken on as many images on either side, and
comes with its floor, training against test images. It compares models with one another, not with
published FIDs, which take the features of Inception.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from diffflow_edu.devices import double
from diffflow_edu.schedules import check_whole, shortly

FOLDER = Path(__file__).parent / "weights" / "features"


class LeNet(nn.Module):
    """Two convolutions, 128 features, 10 classes; for grey images of one size.

    x: (B, 1, H, W) in [−1, 1], H and W multiples of 2 from 8 on. Returns the logits, (B, 10).
    """

    name = "LeNet"

    def __init__(self, side: int = 28) -> None:
        super().__init__()
        check_whole("side", side, least=8)
        self.side = side
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.hidden = nn.Linear(64 * (side // 4) ** 2, 128)
        self.out = nn.Linear(128, 10)

    def features(self, x: Tensor) -> Tensor:
        """(B, 128), the layer below the classes."""
        _check_images(x, 1, self.side)
        h = F.max_pool2d(F.relu(self.conv1(x)), 2)
        h = F.max_pool2d(F.relu(self.conv2(h)), 2)
        return F.relu(self.hidden(h.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (B, 10)."""
        return self.out(self.features(x))


class ResNet(nn.Module):
    """Three residual blocks after a convolution, 128 features, 10 classes; for colour images.

    x: (B, 3, 32, 32) in [−1, 1]. Returns the logits, (B, 10). Height and width halve in the first
    convolution and in every block but the first; features are means over what is left.
    """

    name = "ResNet"

    def __init__(self, side: int = 32) -> None:
        super().__init__()
        check_whole("side", side, least=16)
        self.side = side
        self.first = nn.Conv2d(3, 32, 4, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.blocks = nn.Sequential(
            Residual(32, 32), Residual(32, 64, stride=2), Residual(64, 128, stride=2)
        )
        self.out = nn.Linear(128, 10)

    def features(self, x: Tensor) -> Tensor:
        """(B, 128), the layer below the classes."""
        _check_images(x, 3, self.side)
        return self.blocks(F.relu(self.norm(self.first(x)))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (B, 10)."""
        return self.out(self.features(x))


class Residual(nn.Module):
    """relu(skip(x) + two convolutions of x), as in He et al. 2016; x: (B, width, H, W)."""

    def __init__(self, width: int, new_width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, new_width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(new_width)
        self.conv2 = nn.Conv2d(new_width, new_width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(new_width)
        self.skip = nn.Identity()
        if (width, stride) != (new_width, 1):
            self.skip = nn.Conv2d(width, new_width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, new_width, H/stride, W/stride)."""
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.skip(x) + self.norm2(self.conv2(h)))


NETS = {net.name: net for net in (LeNet, ResNet)}


def _check_images(x: Tensor, channels: int, side: int) -> None:
    if x.shape[1:] != (channels, side, side):
        raise ValueError(f"x must be images (B, {channels}, {side}, {side}), got {tuple(x.shape)}")


def feature_net(images: str) -> LeNet | ResNet:
    """The shipped feature net for a set of `images.names()`, in eval mode.

    Its `card` has the test accuracy, the floor of the distance and the command that made it; its
    `sha256` is that of the weights file. Raises ValueError where none is shipped.
    """
    known = {path.stem.split("-", 1)[1]: path for path in sorted(FOLDER.glob("*-*.safetensors"))}
    if images not in known:
        raise ValueError(
            f"no feature net for {shortly(images)} is shipped, only for {', '.join(known)}"
        )
    path = known[images]
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads(file.metadata()["card"])
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"weights file {path} cannot be used: {error}") from error
    net = NETS[card.get("net", LeNet.name)](card["side"])
    net.load_state_dict(weights)
    net.card = card
    net.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return net.eval()


@torch.no_grad()
def features(net: LeNet | ResNet, x: Tensor, batch: int = 500) -> Tensor:
    """Features of x (n, C, H, W), taken a batch at a time: (n, 128). What is outside is cut off."""
    x = x.clamp(-1, 1)
    weight = next(net.parameters())
    return torch.cat([net.features(part.to(weight)).cpu() for part in x.split(batch)])


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^{1/2}). a: (n, d), b: (m, d) features.

    Raises ValueError for unlike shapes, fewer than two rows, and numbers that are not finite.

    >>> x = torch.randn(1000, 3, dtype=torch.float64)
    >>> round(frechet_distance(x, x + 2), 6)  # the same covariance: the squared shift
    12.0
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            "a and b must be features (n, d) and (m, d) with n, m ≥ 2, got "
            f"{tuple(a.shape)} and {tuple(b.shape)}"
        )
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("a and b must be finite")
    a, b = double(a), double(b)
    cov_a, cov_b = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(a.shape[1], -1)
    # tr (Σ_a Σ_b)^{1/2} = tr (√Σ_a Σ_b √Σ_a)^{1/2}, of a symmetric matrix.
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    shift = (a.mean(0) - b.mean(0)).square().sum()
    return float((shift + cov_a.trace() + cov_b.trace() - 2 * cross).clamp_min(0))
