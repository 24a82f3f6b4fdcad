"""Solutions of notebook 08's exercises, and wrong answers with the words that they meet."""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch

from diffflow_edu import exercises, fid, images


def dequantise(k, u):
    return (k + u) / 128 - 1


def bits_per_dim(nats, d):
    return nats / d / math.log(2) + math.log2(128)


def frechet(m, v, n, w):
    return ((m - n) ** 2 + (v**0.5 - w**0.5) ** 2).sum()


SOLUTIONS = {
    "check_dequantise": dequantise,
    "check_bits_per_dim": bits_per_dim,
    "check_frechet": frechet,
}

# (check, wrong answer, words of the message that it must get)
PLANTED = [
    ("check_dequantise", lambda k, u: k / 128 - 1, "u is missing"),
    ("check_dequantise", lambda k, u: (k + u) / 127.5 - 1, "the last level reaches beyond 1"),
    ("check_dequantise", lambda k, u: (k + u) / 256, "the model sees [−1, 1)"),
    ("check_dequantise", lambda k, u: k / 128 - 1 + u, "u is divided by 256 like k"),
    ("check_dequantise", lambda k, u: (k + 2 * u - 1) / 128 - 1, "the cell above k"),
    ("check_bits_per_dim", lambda x, d: bits_per_dim(x, d) + 1, "8 would be right for x"),
    ("check_bits_per_dim", lambda x, d: bits_per_dim(x, d) + 2, "not put on"),
    ("check_bits_per_dim", lambda x, d: x / d + 7, "these are nats"),
    ("check_bits_per_dim", lambda x, d: bits_per_dim(x, d) * d, "the whole picture"),
    ("check_bits_per_dim", lambda x, d: x / math.log(2) + 7, "bits *per dimension*"),
    ("check_bits_per_dim", lambda x, d: bits_per_dim(x, d) - 7, "the density of y"),
    ("check_bits_per_dim", lambda x, d: bits_per_dim(x, d) - 14, "−log₂ of it is + 7"),
    ("check_bits_per_dim", lambda x, d: x * math.log(2) / d + 7, "divide by ln 2"),
    ("check_frechet", lambda m, v, n, w: ((m - n) ** 2).sum(), "the covariances are missing"),
    (
        "check_frechet",
        lambda m, v, n, w: ((m - n) ** 2 + (v - w) ** 2).sum(),
        "difference of the *roots*",
    ),
    ("check_frechet", lambda *case: frechet(*case) ** 0.5, "leave the last root out"),
    (
        "check_frechet",
        lambda m, v, n, w: ((m - n) ** 2 + v + w).sum(),
        "2 tr (Σ_a Σ_b)^½ is missing",
    ),
    (
        "check_frechet",
        lambda m, v, n, w: ((m - n) ** 2 + v + w - (v * w) ** 0.5).sum(),
        "the root is taken off twice",
    ),
    (
        "check_frechet",
        lambda m, v, n, w: ((m - n) ** 2 + v + w - 2 * v * w).sum(),
        "√(v w), not v w",
    ),
    (
        "check_frechet",
        lambda m, v, n, w: (m - n) ** 2 + (v**0.5 - w**0.5) ** 2,
        "sum over them",
    ),
]


def test_the_conventions_taught_are_those_of_the_module():
    digits = images.load("digits")
    data = images.Images(
        "d", digits.train, digits.train_labels, digits.test, digits.test_labels, ""
    )
    nats = torch.tensor([3.0, -40.0])
    torch.testing.assert_close(data.bits_per_dim(nats), bits_per_dim(nats, 64))
    assert exercises.check_bits_per_dim(lambda x, d: x / d / math.log(2) + 7)


def test_the_distance_taught_is_that_of_the_module_where_features_do_not_correlate():
    a = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]], dtype=torch.float64)
    b = 0.5 * a + 3
    expected = frechet(a.mean(0), a.var(0), b.mean(0), b.var(0))
    assert abs(fid.frechet_distance(a, b) - float(expected)) < 1e-9  # float64, one square root


def test_the_commands_of_notebook_08_are_those_of_the_readme():
    root = Path(__file__).parents[1]
    text = (root / "notebooks" / "08_mnist.py").read_text()
    commands = re.findall(r"^#     (diffflow-edu (?:train|evaluate) .*)$", text, re.MULTILINE)
    readme = (root / "docs" / "images.md").read_text("utf-8").splitlines()
    assert len(commands) >= 3
    assert [command for command in commands if f"    {command}" not in readme] == []
    # The cell that trains where there is a GPU asks for the same run.
    (cell,) = re.findall(r"scale\.Config\((.*?)\n    \)", text, re.DOTALL)
    for setting in ("warm_start=6000", "updates=6000", "batch_size=256", 'size="small"'):
        name, value = setting.replace("_", "-").replace('"', "").split("=")
        assert setting in cell and f"--{name} {value} " in commands[0]
