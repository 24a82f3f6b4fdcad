"""Notebook 08: dequantisation, bits per dimension, the Fréchet distance of two Gaussians."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from diffflow_edu.exercises.checking import Slip, check_function

LOG_2 = math.log(2)


def check_dequantise(answer: Any) -> bool:
    """Exercise 1: answer(k, u) is y = 2 (k + u)/256 − 1.

    k: (B, d) float64, whole numbers 0 … 255; u: (B, d), uniform in [0, 1). Returns (B, d).
    """
    draw = torch.Generator().manual_seed(1)
    cases = []
    for _ in range(2):
        k = torch.randint(256, (4, 3), generator=draw).double()
        cases.append((k, torch.rand(4, 3, generator=draw, dtype=torch.float64)))
    slips = [
        Slip(
            lambda k, u: 2 * k / 256 - 1,
            "u is missing: without it the data lie on a grid of points, where a density may be "
            "as large as it likes.",
        ),
        Slip(
            lambda k, u: 2 * (k + u) / 255 - 1,
            "divide by 256, the number of levels: with 255 the last level reaches beyond 1.",
        ),
        Slip(lambda k, u: (k + u) / 256, "this fills [0, 1); the model sees [−1, 1)."),
        Slip(
            lambda k, u: 2 * k / 256 - 1 + u,
            "the noise is as wide as a level: u is divided by 256 like k.",
        ),
        Slip(
            lambda k, u: 2 * (k + 2 * u - 1) / 256 - 1,
            "u fills the cell above k, [k, k + 1): nothing to subtract from it.",
        ),
    ]
    praise = "right: every level has a cell of its own, and the cells fill [−1, 1)."
    return check_function("dequantise", answer, _dequantise, slips, cases, praise)


def check_bits_per_dim(answer: Any) -> bool:
    """Exercise 2: answer(nats, d) is nats/(d ln 2) + 7, for y = 2x − 1 and 256 levels.

    nats: (B,) float64, −log p(y); d: a whole number. Returns (B,).
    """
    draw = torch.Generator().manual_seed(2)
    cases = [
        (100 * torch.randn(4, generator=draw, dtype=torch.float64), 196),
        (1000 * torch.randn(4, generator=draw, dtype=torch.float64), 3072),
    ]
    slips = [
        Slip(
            lambda nats, d: nats / (d * LOG_2) + 8,
            "8 would be right for x in [0, 1). y = 2x − 1 is stretched to twice the width, which "
            "halves the density: one bit less.",
        ),
        Slip(
            lambda nats, d: nats / (d * LOG_2) + 9,
            "stretching the data halves its density: that adds a bit to −log p(y), so one has to "
            "be taken off the 8, not put on.",
        ),
        Slip(
            lambda nats, d: nats / d + 7,
            "these are nats: divide by ln 2 to have bits.",
        ),
        Slip(lambda nats, d: nats / LOG_2 + 7 * d, "this is the whole picture: divide by d."),
        Slip(
            lambda nats, d: nats / LOG_2 + 7,
            "divide by d, the number of pixels: bits *per dimension*.",
        ),
        Slip(
            lambda nats, d: nats / (d * LOG_2),
            "this is the density of y. A level's probability is the density times its width, "
            "2/256: 7 bits more.",
        ),
        Slip(
            lambda nats, d: nats / (d * LOG_2) - 7,
            "the width of a level, 2/256, makes its probability smaller: −log₂ of it is + 7.",
        ),
        Slip(
            lambda nats, d: nats * LOG_2 / d + 7,
            "a bit is ln 2 = .69 nats, so there are more bits than nats: divide by ln 2.",
        ),
    ]
    praise = "right: nats to bits, per pixel, and 7 bits for the width of a level."
    return check_function("bits_per_dim", answer, _bits_per_dim, slips, cases, praise)


def check_frechet(answer: Any) -> bool:
    """Exercise 3: answer(m_a, v_a, m_b, v_b) is the Fréchet distance of two diagonal Gaussians.

    m_a, v_a, m_b, v_b: (d,) float64, means and variances. Returns a number,
    Σ (m_a − m_b)² + (√v_a − √v_b)².
    """
    draw = torch.Generator().manual_seed(3)
    cases = []
    for d in (1, 4):
        means = torch.randn(2, d, generator=draw, dtype=torch.float64)
        variances = 0.2 + torch.rand(2, d, generator=draw, dtype=torch.float64)
        cases.append((means[0], variances[0], means[1], variances[1]))
    slips = [
        Slip(
            lambda m, v, n, w: (m - n).square().sum(),
            "the covariances are missing: two clouds around one centre may differ, too.",
        ),
        Slip(
            lambda m, v, n, w: (m - n).square().sum() + (v - w).square().sum(),
            "v + w − 2√(vw) is the square of the difference of the *roots*, (√v − √w)².",
        ),
        Slip(
            lambda m, v, n, w: _frechet(m, v, n, w).sqrt(),
            "FID is the square of the distance: leave the last root out.",
        ),
        Slip(
            lambda m, v, n, w: (m - n).square().sum() + (v + w).sum(),
            "2 tr (Σ_a Σ_b)^½ is missing: two equal Gaussians must be 0 apart.",
        ),
        Slip(
            lambda m, v, n, w: (m - n).square().sum() + (v + w - (v * w).sqrt()).sum(),
            "the root is taken off twice: two equal Gaussians must be 0 apart.",
        ),
        Slip(
            lambda m, v, n, w: (m - n).square().sum() + (v + w - 2 * v * w).sum(),
            "(Σ_a Σ_b)^½ is a root: √(v w), not v w.",
        ),
        Slip(
            lambda m, v, n, w: (m - n).square() + (v.sqrt() - w.sqrt()).square(),
            "one number for all features: sum over them.",
        ),
    ]
    praise = "right: how far the centres are apart, and how unlike the spreads."
    return check_function("frechet", answer, _frechet, slips, cases, praise)


def _dequantise(k: Tensor, u: Tensor) -> Tensor:
    return 2 * (k + u) / 256 - 1


def _bits_per_dim(nats: Tensor, d: int) -> Tensor:
    return nats / (d * LOG_2) + 7


def _frechet(m: Tensor, v: Tensor, n: Tensor, w: Tensor) -> Tensor:
    return (m - n).square().sum() + (v + w - 2 * (v * w).sqrt()).sum()
