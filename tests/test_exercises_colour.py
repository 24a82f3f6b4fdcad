"""Solutions of notebook 09's exercises, and wrong answers with the words that they meet."""

from __future__ import annotations

import math

import pytest
import torch

from diffflow_edu import images, tabular


def gaussian_bits(v):
    return (math.log(2 * math.pi * math.e) + v.log()).mean() / math.log(4) + 7


def spike_bits(w):
    return 8 - torch.log2(1 / (w * (2 * math.pi) ** 0.5)) + 7


def unpadded(bits, d, padded):
    return padded * bits / d


def pictures_an_hour(flops, n, rate):
    return rate / flops * 3600 / (7 * n)


SOLUTIONS = {
    "check_gaussian_bits": gaussian_bits,
    "check_spike_bits": spike_bits,
    "check_unpadded": unpadded,
    "check_pictures_an_hour": pictures_an_hour,
}
ENTROPY = 2 * math.pi * math.e

# (check, wrong answer, words of the message that it must get)
PLANTED = [
    ("check_gaussian_bits", lambda v: gaussian_bits(v) - 7, "the density of y"),
    ("check_gaussian_bits", lambda v: (ENTROPY * v).log().mean() / 2 + 7, "these are nats"),
    ("check_gaussian_bits", lambda v: (ENTROPY * v).log2().mean() + 7, "the ½ is missing"),
    (
        "check_gaussian_bits",
        lambda v: (2 * math.pi * v).log2().mean() / 2 + 7,
        "the e is missing",
    ),
    ("check_gaussian_bits", lambda v: (ENTROPY * v).log2().sum() / 2 + 7, "not their sum"),
    (
        "check_gaussian_bits",
        lambda v: math.log2(ENTROPY * float(v.mean())) / 2 + 7,
        "first the logarithm",
    ),
    ("check_gaussian_bits", lambda v: gaussian_bits(v**2), "do not square it"),
    ("check_spike_bits", lambda w: spike_bits(w) - 7, "adds 7"),
    ("check_spike_bits", lambda w: spike_bits(w) - 8, "one of 256"),
    ("check_spike_bits", lambda w: spike_bits(w) - 15, "two parts are missing"),
    ("check_spike_bits", lambda w: 30 - spike_bits(w), "the sign"),
    (
        "check_spike_bits",
        lambda w: 15 + torch.log(w * math.sqrt(2 * math.pi)),
        "in nats",
    ),
    ("check_spike_bits", lambda w: 15 + torch.log2(w), "not 1/w"),
    ("check_spike_bits", lambda w: spike_bits(w) + math.log2(math.e) / 2, "an average"),
    ("check_spike_bits", lambda w: spike_bits(w**2), "not the variance"),
    ("check_unpadded", lambda b, d, n: b * d / n, "the other way round"),
    ("check_unpadded", lambda b, d, n: b * n, "the bits of the whole picture"),
    ("check_unpadded", lambda b, d, n: b, "not the same number"),
    ("check_unpadded", lambda b, d, n: b * math.sqrt(n / d), "no root"),
    ("check_unpadded", lambda b, d, n: (b * n - 7 * (n - d)) / d, "costs nothing already"),
    ("check_pictures_an_hour", lambda f, n, r: 3600 * r / (n * f), "one network call a step"),
    ("check_pictures_an_hour", lambda f, n, r: 1800 * r / (n * f), "this is sampling"),
    ("check_pictures_an_hour", lambda f, n, r: 400 * r / (n * f), "autograd's"),
    ("check_pictures_an_hour", lambda f, n, r: 3600 * r / (7 * f), "all of them"),
    ("check_pictures_an_hour", lambda f, n, r: r / (7 * n * f), "this is a second"),
    ("check_pictures_an_hour", lambda f, n, r: 60 * r / (7 * n * f), "this is a minute"),
    ("check_pictures_an_hour", lambda f, n, r: 7 * n * f / (3600 * r), "upside down"),
]


def test_the_bits_of_a_spectrum_are_those_of_the_gaussian_it_belongs_to():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 192, generator=draw, dtype=torch.float64) @ torch.diag(
        torch.linspace(0.02, 0.4, 192, dtype=torch.float64)
    )
    fitted = tabular.Gaussian.of(x.numpy())
    data = images.load("patches")
    measured = float(data.bits_per_dim(-fitted.log_prob(x.float()).double().mean()))
    foretold = float(gaussian_bits(torch.linalg.eigvalsh(torch.cov(x.T))))
    # float32 log-densities of 192 coordinates, and n against n − 1 in the covariance.
    assert measured == pytest.approx(foretold, abs=2e-3)


def test_spikes_as_narrow_as_foretold_reach_the_papers_number():
    # 256 equal spikes, asked at their own tops, by a mixture of Gaussians in float64.
    levels = 2 * torch.arange(256, dtype=torch.float64) / 256 - 1
    w = torch.tensor(1e-4, dtype=torch.float64)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(256, dtype=torch.float64)),
        torch.distributions.Normal(levels, w),
    )
    bits = -mixture.log_prob(levels).mean() / math.log(2) + 7
    assert float(bits) == pytest.approx(float(spike_bits(w)), abs=1e-9)
    assert float(bits) == pytest.approx(3.04, abs=0.005)
