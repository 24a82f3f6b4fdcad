"""Paths of the λ family and maps of log p: what is drawn is what was given."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from diffflow_edu import Trajectory, figures
from diffflow_edu.processes.likelihood import theorem_one


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def log_normal(x, t):
    """N(0, 1 + t) on a line."""
    return -0.5 * (x[:, 0].square() / (1 + t) + torch.log(2 * math.pi * (1 + t)))


def way(particles=6, steps=4, sign=1.0):
    states = torch.linspace(-1, 1, particles)[None, :, None].repeat(steps + 1, 1, 1)
    return Trajectory(torch.linspace(0, 1, steps + 1), sign * states)


def test_every_panel_shows_the_same_particles_in_the_colour_of_their_side():
    paths = {"λ = 0": way(), "λ = 1": way(sign=-1.0)}
    figure = figures.family_panels(paths, log_normal, particles=3, title="a title")
    for axes, (name, path) in zip(figure.axes, paths.items(), strict=True):
        assert axes.get_title() == name and len(axes.lines) == 3
        for line, i in zip(axes.lines, (0, 2, 5), strict=True):
            assert np.allclose(line.get_ydata(), path.states[:, i, 0])
            upper = path.start[i, 0] > 0
            assert line.get_color() == figures.MODES[0 if upper else 1]
    assert figure.get_suptitle() == "a title"


def test_behind_the_paths_lies_the_root_of_the_density():
    figure = figures.family_panels({"": way()}, log_normal, half=2.0)
    image = figure.axes[0].images[0]
    shade, (left, right, low, high) = np.asarray(image.get_array()), image.get_extent()
    assert (left, right, low, high) == (0, 1, -2, 2)
    x = torch.linspace(-2, 2, len(shade))[:, None]
    # The last column stands for t = 1.
    assert np.allclose(shade[:, -1] ** 2, log_normal(x, torch.tensor(1.0)).exp(), atol=1e-6)


def test_a_map_shows_its_values_and_the_probes_their_numbers():
    values = np.array([[0.0, -1.0], [-np.inf, -20.0]])
    figure = figures.log_p_maps({"a": values, "b": values - 1}, (1, 2, 3), [(0, 1), (2, 3)], "t")
    first, second = figure.axes[:2]
    image = first.images[0]
    assert image.get_extent() == [-2, 4, -1, 5] and image.origin == "lower"
    assert np.array_equal(np.asarray(image.get_array())[0], values[0])
    for axes in (first, second):  # one scale for both
        assert axes.images[0].get_clim() == (-8, 0)
        assert [each.get_text() for each in axes.texts] == ["1", "2"]
        assert [line.get_xydata().tolist() for line in axes.lines] == [[[0, 1]], [[2, 3]]]
    assert image.cmap(image.norm(-1e9))[:3] == (1, 1, 1)  # nothing is white


def test_the_region_where_theorem_one_fails_is_shaded():
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = theorem_one(lambda x, t: torch.tanh(x), x, steps=(5, 10), g=(1.0, 0.01))
    right = figures.theorem_one_panels(result).axes[1]
    (span,) = right.patches
    assert span.get_x() == 1 and right.get_xlim()[1] == pytest.approx(2 * 0.2 / 0.01)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.family_panels({}, log_normal), "paths must hold at least one Trajectory"),
        (
            lambda: figures.family_panels(
                {"a": Trajectory(torch.tensor([0.0, 1.0]), torch.zeros(2, 3, 2))}, log_normal
            ),
            r"paths\['a'\] must hold points on a line.*got \(2, 3, 2\)",
        ),
        (lambda: figures.log_p_maps({}, (0, 0, 1)), "maps must hold at least one map"),
        (
            lambda: figures.log_p_maps({"a": np.zeros((2, 2))}, (0, 0, 1), depth=0),
            "depth must be positive and finite, got 0",
        ),
        (
            lambda: figures.log_p_maps({"a": np.full((2, 2), -np.inf)}, (0, 0, 1)),
            "maps must hold a finite log p somewhere, found none",
        ),
    ],
)
def test_bad_arguments_are_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_the_chain_falls_with_its_paths_and_the_ode_stands_beside_it():
    one = figures.ChainAndOde({1: 0.4, 4: 0.2}, ode=0.1, error=0.02)
    figure = figures.chain_and_ode({"rings": {"DDPM": one}, "board": {"DDPM": one}}, title="tight")
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("rings", "board")
    assert left.lines[0].get_xydata().tolist() == [[1, 0.4], [4, 0.2]]
    assert [text.get_text() for text in left.get_xticklabels()] == ["1", "4", "ODE"]
    (diamond,) = [line for line in left.lines if line.get_marker() == "D"]
    assert diamond.get_ydata().tolist() == [0.1] and diamond.get_xdata()[0] > 4
    with pytest.raises(ValueError, match="models must hold at least one set"):
        figures.chain_and_ode({})
