"""Notebook 09: bits of a spectrum, bits of spikes, padded pixels, pictures a GPU-hour."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from diffflow_edu.exercises.checking import Slip, check_function


def check_gaussian_bits(answer: Any) -> bool:
    """Exercise 1: answer(eigenvalues) is ½ mean log₂(2π e λ) + 7.

    eigenvalues: (D,) float64, of the covariance of y. Returns a number.
    """
    draw = torch.Generator().manual_seed(1)
    cases = [
        (torch.rand(3, generator=draw, dtype=torch.float64) + 0.1,),
        (10 ** (-4 * torch.rand(192, generator=draw, dtype=torch.float64)),),
    ]
    slips = [
        Slip(
            lambda v: _gaussian_bits(v) - 7,
            "this is the density of y. A level is 2/256 wide: 7 bits more.",
        ),
        Slip(
            lambda v: 0.5 * (2 * math.pi * math.e * v).log().mean() + 7,
            "these are nats: log₂ counts bits.",
        ),
        Slip(
            lambda v: (2 * math.pi * math.e * v).log2().mean() + 7,
            "the ½ is missing: λ is the square of a width.",
        ),
        Slip(
            lambda v: 0.5 * (2 * math.pi * v).log2().mean() + 7,
            "the e is missing: on the average the exponent of the Gaussian is ½, too.",
        ),
        Slip(
            lambda v: 0.5 * (2 * math.pi * math.e * v).log2().sum() + 7,
            "bits *per dimension*: the mean of the logarithms, not their sum.",
        ),
        Slip(
            lambda v: 0.5 * torch.log2(2 * math.pi * math.e * v.mean()) + 7,
            "first the logarithm, then the mean: one thin direction saves as much as a wide one "
            "costs. This is the Gaussian that is equally wide everywhere.",
        ),
        Slip(
            lambda v: 0.5 * (2 * math.pi * math.e * v.square()).log2().mean() + 7,
            "an eigenvalue of the covariance is a variance already: do not square it.",
        ),
    ]
    praise = "right: what counts is the mean of the logarithms, so thin directions make it cheap."
    return check_function("gaussian_bits", answer, _gaussian_bits, slips, cases, praise)


def check_spike_bits(answer: Any) -> bool:
    """Exercise 2: answer(w) is 15 + log₂(w √(2π)), bits/dim of spikes asked at their tops.

    w: (n,) float64, standard deviation of the spikes in y, much less than their distance 2/256.
    Returns (n,).
    """
    cases = [(torch.tensor(w, dtype=torch.float64),) for w in ([1e-3, 1e-4], [3e-5, 1e-6, 5e-4])]
    slips = [
        Slip(
            lambda w: _spike_bits(w) - 7,
            "this is −log₂ p(y): bits/dim adds 7 for the width of a level.",
        ),
        Slip(
            lambda w: _spike_bits(w) - 8,
            "each level is one of 256: the height of its spike is a 256th of a Gaussian's, 8 bits.",
        ),
        Slip(
            lambda w: _spike_bits(w) - 15,
            "two parts are missing: one level of 256 (8 bits), and its width, 2/256 (7 bits).",
        ),
        Slip(
            lambda w: 15 - (w * math.sqrt(2 * math.pi)).log2(),
            "the sign: a narrow spike is high, so −log₂ of it is small.",
        ),
        Slip(
            lambda w: 15 + (w * math.sqrt(2 * math.pi)).log(),
            "the last term is in nats: log₂ counts bits.",
        ),
        Slip(
            lambda w: 15 + w.log2(),
            "the top of a Gaussian of width w is 1/(w √(2π)), not 1/w.",
        ),
        Slip(
            lambda w: 15 + (w * math.sqrt(2 * math.pi * math.e)).log2(),
            "this is an average over the spike; undequantised data sit on its very top.",
        ),
        Slip(
            lambda w: 15 + (w.square() * math.sqrt(2 * math.pi)).log2(),
            "w is the width, not the variance: the top is 1/(w √(2π)).",
        ),
    ]
    praise = "right: and as w goes to 0, so do the bits, far beyond it, to −∞."
    return check_function("spike_bits", answer, _spike_bits, slips, cases, praise)


def check_unpadded(answer: Any) -> bool:
    """Exercise 3: answer(bits, d, padded) is bits · padded/d.

    bits: (n,) float64, bits/dim where the nats of a padded picture are divided by all its pixels,
    `padded`; d: the pixels of the picture itself. Returns (n,).
    """
    cases = [
        (torch.tensor([0.93, 3.3], dtype=torch.float64), 28 * 28, 32 * 32),
        (torch.tensor([2.0, 1.5, 4.0], dtype=torch.float64), 3 * 8 * 8, 3 * 12 * 12),
    ]
    slips = [
        Slip(
            lambda b, d, n: b * d / n,
            "the other way round: all the bits belong to fewer pixels, so each has more of them.",
        ),
        Slip(
            lambda b, d, n: b * n,
            "these are the bits of the whole picture: divide them by its own pixels, d.",
        ),
        Slip(
            lambda b, d, n: b,
            "the same bits, divided by fewer pixels, are not the same number.",
        ),
        Slip(
            lambda b, d, n: b * (n / d) ** 0.5,
            "count pixels, not the pixels of an edge: no root.",
        ),
        Slip(
            lambda b, d, n: (b - 7) * n / d + 7,
            "a padded pixel costs nothing already: its density, −7 bits, and its width, 7, cancel. "
            "Scale the sum, bits, as it stands.",
        ),
    ]
    praise = "right: a pixel that is known costs 0 bits, and must not be counted."
    return check_function("unpadded", answer, _unpadded, slips, cases, praise)


def check_pictures_an_hour(answer: Any) -> bool:
    """Exercise 4: answer(flops, n, rate) is 3600 rate / (7 n flops).

    flops: of one network on one picture; n: steps of the chain; rate: (k,) float64, FLOP a second
    that a device reaches. Returns (k,), training pictures an hour.
    """
    cases = [
        (1.0e12, 30, torch.tensor([2e13, 1e14], dtype=torch.float64)),
        (4.0e12, 10, torch.tensor([3e13], dtype=torch.float64)),
    ]
    slips = [
        Slip(
            lambda f, n, r: 3600 * r / (n * f),
            "this is one network call a step. Training takes 7 (notebook 05): two nets, forward "
            "and backward, and what the adjoint recomputes.",
        ),
        Slip(
            lambda f, n, r: 3600 * r / (2 * n * f),
            "this is sampling: drift and score once a step. Training takes 7 units (notebook 05).",
        ),
        Slip(
            lambda f, n, r: 3600 * r / (9 * n * f),
            "9 units a step are autograd's; the adjoint's `loss` takes 7 (notebook 05).",
        ),
        Slip(
            lambda f, n, r: 3600 * r / (7 * f),
            "the chain has n steps: every training picture walks all of them.",
        ),
        Slip(lambda f, n, r: r / (7 * n * f), "this is a second: an hour has 3600 of them."),
        Slip(lambda f, n, r: 60 * r / (7 * n * f), "this is a minute: an hour has 3600 seconds."),
        Slip(
            lambda f, n, r: 7 * n * f / (3600 * r),
            "upside down: this is hours a picture.",
        ),
    ]
    praise = "right: and n stands below the line, which is why few steps come first."
    return check_function("pictures_an_hour", answer, _pictures_an_hour, slips, cases, praise)


def _gaussian_bits(eigenvalues: Tensor) -> Tensor:
    return 0.5 * (2 * math.pi * math.e * eigenvalues).log2().mean() + 7


def _spike_bits(w: Tensor) -> Tensor:
    return 15 + (w * math.sqrt(2 * math.pi)).log2()


def _unpadded(bits: Tensor, d: int, padded: int) -> Tensor:
    return bits * padded / d


def _pictures_an_hour(flops: float, n: int, rate: Tensor) -> Tensor:
    return 3600 * rate / (7 * n * flops)
