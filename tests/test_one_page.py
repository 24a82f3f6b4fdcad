"""DiffFlow on one page, the cell of notebook 04, is the module's DiffFlow."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import jupytext
import pytest
import torch

from diffflow_edu import DiffFlow, Schedule
from diffflow_edu.processes.walk import Normals

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "04_diffflow.py"


@pytest.fixture(scope="module")
def cell() -> SimpleNamespace:
    """What the cell defines, in float64."""
    cells = jupytext.read(NOTEBOOK).cells
    (source,) = (c.source for c in cells if "one-page" in c.metadata.get("tags", []))
    names = {"torch": torch, "math": math}
    exec(source, names)
    return SimpleNamespace(**names)


@pytest.fixture
def pair(cell):
    """The page and the module with the same networks, times and noise."""
    torch.manual_seed(0)
    drift, score = cell.Net(hidden=16).double(), cell.Net(hidden=16).double()
    for each in (drift, score):  # the last layers begin at zero
        torch.nn.init.normal_(each.layers[-1].weight, std=0.3)
    times = torch.linspace(0, 1, 7, dtype=torch.float64) ** 1.3
    g = torch.linspace(0.3, 1.2, 7, dtype=torch.float64)
    page = cell.OnePage(drift, score, times, g)
    return page, DiffFlow(drift, score, Schedule.euler(times, g), shape=(2,)).double()


def test_the_page_has_the_loss_of_the_module(pair):
    page, model = pair
    x, noise = torch.randn(40, 2).double(), torch.randn(6, 40, 2).double()
    assert page.loss(x, noise).item() == pytest.approx(model.loss(x, noise).item(), abs=1e-6)


def test_the_page_has_the_gradient_of_the_module(pair):
    page, model = pair
    x, noise = torch.randn(40, 2).double(), torch.randn(6, 40, 2).double()
    weights = list(page.parameters())
    ours = torch.autograd.grad(page.loss(x, noise), weights)
    theirs = torch.autograd.grad(model.loss(x, noise), weights)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_the_page_draws_the_samples_of_the_module(pair):
    page, model = pair
    like = torch.zeros((), dtype=torch.float64)
    draw = Normals(3, (40, 2), like)
    x_last = draw()
    noise = torch.zeros(6, 40, 2, dtype=torch.float64)
    for i in range(5, 0, -1):  # in the order in which the module draws
        noise[i] = draw()
    wanted = model.sample(40, seed=3).start
    assert torch.allclose(page.sample(x_last, noise).double(), wanted, atol=1e-6)


def test_training_the_page_lowers_its_loss(cell):
    torch.manual_seed(0)
    times, g = torch.linspace(0, 1, 4), torch.linspace(0.5, 1.2, 4)
    page = cell.OnePage(cell.Net(16), cell.Net(16), times, g)
    x, noise = 0.3 * torch.randn(200, 2), torch.randn(3, 200, 2)
    data = SimpleNamespace(sample=lambda n: 0.3 * torch.randn(n, 2))
    before = page.loss(x, noise).item()
    cell.train(page, data, steps=60, batch_size=64, lr=1e-2)
    assert page.loss(x, noise).item() < before - 0.1
