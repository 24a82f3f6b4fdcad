"""Pictures of single paths, and of one step turned round."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffflow_edu import Trajectory, figures


@pytest.fixture
def line() -> Trajectory:
    draw = torch.Generator().manual_seed(0)
    return Trajectory(torch.linspace(0, 1, 6), torch.randn(6, 20, 1, generator=draw).cumsum(0))


def plane(scale: float) -> Trajectory:
    draw = torch.Generator().manual_seed(1)
    steps = scale * torch.randn(6, 30, 2, generator=draw)
    return Trajectory(torch.linspace(0, 1, 6), steps.cumsum(0))


def test_the_paths_of_two_models_stand_in_one_square():
    figure = figures.paths_beside({"a": plane(1.0), "b": plane(0.1)}, behind=torch.zeros(3, 2))
    a, b = figure.axes
    assert a.get_xlim() == b.get_xlim() and a.get_ylim() == b.get_ylim()
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    assert len(a.collections[1].get_segments()) == 12


def test_walks_share_their_axis_and_lie_over_their_band(line):
    mean, std = torch.zeros(6), line.times.sqrt()
    figure = figures.walks({"w": (line, mean, std), "again": (line, mean, std)}, particles=5)
    first, second = figure.axes
    assert first.get_ylim() == second.get_ylim()
    assert len(first.lines) == 5
    np.testing.assert_allclose(first.lines[0].get_ydata(), line.states[:, 0, 0])
    assert first.collections[0].get_datalim(first.transData).y1 == pytest.approx(2.0)


def test_a_reversal_shows_its_cost():
    x = torch.linspace(-1, 1, 50)
    panel = figures.Reversal("fixed drift", x, x.cos(), x.exp(), 0.934)
    (axes,) = figures.reversals([panel], title="costs").axes
    assert [text.get_text() for text in axes.texts] == ["0.93 nats"]


def test_the_arrow_of_origins_ends_at_their_mean():
    clean = torch.tensor([[1.0, 0.0], [3.0, 2.0]])
    (axes,) = figures.origins(torch.zeros(2), clean, clean.mean(0), 2 * torch.randn(50, 2)).axes
    assert tuple(axes.texts[0].xy) == (2.0, 1.0)


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: figures.walks({}), "panels must hold at least one trajectory"),
        (lambda: figures.walks({"a": (plane(1.0), 0, 0)}), "particles on a line"),
        (lambda: figures.paths_beside({}), "at least one Trajectory"),
        (lambda: figures.paths_beside({"a": plane(1.0)}, particles=0), "particles"),
        (lambda: figures.origins(*[torch.zeros(0, 2)] * 4), "clean must hold"),
        (lambda: figures.reversals([]), "at least one Reversal"),
    ],
)
def test_bad_input_is_told_so(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()
