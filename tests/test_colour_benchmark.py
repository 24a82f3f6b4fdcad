"""The colour benchmark: what it spoils, what it wrote, and the commands that notebook 09 gives."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path

import pytest
import torch

from benchmarks import colour
from diffflow_edu import fid, images, pretrained
from diffflow_edu.scale import Config

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "09_cifar10.py"


@pytest.fixture(scope="module")
def results():
    return json.loads(colour.RESULTS.read_text())


@pytest.fixture(scope="module")
def small():
    """Sixty random pictures of CIFAR-10's shape, twelve of each of five classes."""
    draw = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (60, 3, 32, 32), generator=draw, dtype=torch.uint8)
    labels = torch.arange(60) % 5
    return images.Images("cifar10", pictures, labels, pictures.flip(0), labels, "a test")


def test_a_blur_keeps_flat_colours_and_spreads_a_dot_over_its_neighbours():
    y = torch.zeros(1, 3, 5, 5)
    y[0, 1, 2, 2] = 1.0
    out = colour.blurred(y + 0.5) - 0.5
    assert float(out[0, 1, 2, 2]) == pytest.approx(0.25) and float(out[0, 1, 1, 1]) == 0.0625
    assert float(out[0, 1].sum()) == pytest.approx(1)
    assert out[0, [0, 2]].abs().max() < 1e-6  # colours do not mix


def test_spoilt_images_are_as_many_and_what_their_names_say(small):
    test = small.dequantise(small.test, seed=colour.SEED)
    spoilt = {name: make() for name, make in colour.spoilt(small).items()}
    assert {tuple(y.shape) for y in spoilt.values()} == {(60, 3, 32, 32)}
    assert torch.equal(spoilt["mirrored"], test.flip(-1))
    assert torch.equal(spoilt["red and blue exchanged"][:, 0], test[:, 2])
    noise = spoilt["noise of 20 levels"] - test
    # 184 320 numbers: a standard deviation is known to a sixth of a percent.
    assert float(noise.std()) * 128 == pytest.approx(20, rel=0.01)
    left = {tuple(y.flatten()[:9].tolist()) for y in spoilt["one class left out"]}
    assert left.isdisjoint({tuple(y.flatten()[:9].tolist()) for y in test[::5]})


def test_the_shipped_patches_measured_what_the_results_say(results):
    card = pretrained("diffflow", "patches").card
    assert card["rows"] in [results[name]["rows"] for name in colour.CHAINS if name in results]
    ours = {row["steps"]: row["bits_per_dim"] for row in card["rows"]}
    assert ours[10] < results["gaussian"]["two"]["bits_per_dim"] - 0.2
    assert all(math.isfinite(value) for value in ours.values())


def test_the_feature_net_that_was_judged_is_the_one_that_is_shipped(results):
    net = fid.feature_net("cifar10")
    assert results["blind"]["sha256"] == net.sha256
    rows = results["blind"]["rows"]
    # Other training images than the card's, as many: the same order of magnitude.
    assert 0.4 < rows["training images"]["fid"] / net.card["floor"] < 2.5
    assert rows["blurred"]["fid"] > 10 * net.card["floor"]


def test_the_commands_of_the_notebook_are_ones_that_the_command_line_knows():
    tyro = pytest.importorskip("tyro")
    text = NOTEBOOK.read_text().replace(" \\\n#", "")
    commands = re.findall(r"train (runs/cifar10\S*) (.*)$", text, re.MULTILINE)
    configs = {}
    for folder, options in commands:
        words = shlex.split(options)
        for name in ("--minutes", "--look-every"):  # of the command, not of the config
            if name in words:
                at = words.index(name)
                del words[at : at + 2]
        configs[folder] = tyro.cli(Config, args=words)
    assert [c.size for c in configs.values()] == ["small", "paper"]
    assert {(c.images, c.precision) for c in configs.values()} == {("cifar10", "bf16")}
