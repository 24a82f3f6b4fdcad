"""The pictures of notebook 05: what is drawn is what was given."""

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from diffflow_edu import Schedule, figures
from diffflow_edu.figures import CurvePanel


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_the_graph_names_the_parts_of_algorithm_2():
    figure = figures.algorithm_two(title="back")
    words = " ".join(text.get_text() for text in figure.axes[0].texts)
    for part in ("x_{i+1}", "a_{i+1}", r"\ell_i", r"u \cdot \partial x_{i+1}", r"\log p_B"):
        assert part in words
    assert figure.get_suptitle() == "back"


def test_no_two_words_of_the_graph_overlap():
    figure = figures.algorithm_two()
    renderer = figure.canvas.get_renderer()
    boxes = [t.get_window_extent(renderer) for t in figure.axes[0].texts if t.get_text()]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


def test_time_grids_are_drawn_draw_by_draw_at_their_times():
    torch.manual_seed(0)
    schedule = Schedule.polynomial(4, T=2.0, flexible=True)
    draws = [schedule.draw().times for _ in range(3)]
    figure = figures.time_grids({"fixed": [schedule.times], "flexible": draws})
    fixed, flexible = figure.axes
    assert np.allclose(fixed.collections[0].get_offsets()[:, 0], schedule.times)
    for row, times in enumerate(draws):
        offsets = flexible.collections[row].get_offsets()
        assert np.allclose(offsets[:, 0], times) and np.allclose(offsets[:, 1], row)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["fixed", "flexible"]


def test_the_same_step_has_the_same_colour_in_every_draw():
    torch.manual_seed(0)
    schedule = Schedule.polynomial(4, flexible=True)
    figure = figures.time_grids({"": [schedule.draw().times for _ in range(2)]})
    first, second = (c.get_facecolors() for c in figure.axes[0].collections)
    assert np.allclose(first, second) and not np.allclose(first[1], first[2])


def test_curves_show_every_seed_and_their_mean():
    values = [[1.0, 2.0], [3.0, 6.0]]
    curves = {"one": ([5, 10], values), "two": ([5, 10], [0.0, 1.0])}
    panel = CurvePanel("N", "nats", curves, ylim=(-1.0, 8.0))
    figure = figures.curve_panels([panel], title="found")
    axes = figure.axes[0]
    drawn = [line.get_ydata().tolist() for line in axes.lines]
    assert drawn == [[1.0, 2.0], [3.0, 6.0], [2.0, 4.0], [0.0, 1.0]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one", "two"]
    assert figure.get_suptitle() == "found"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("N", "nats")
    assert axes.get_ylim() == (-1.0, 8.0)


def test_a_name_keeps_its_colour_from_panel_to_panel_and_log_ticks_are_what_was_measured():
    one = CurvePanel("N", "a", {"A": ([5, 30], [1, 2]), "B": ([5, 30], [2, 3])}, log="xy")
    two = CurvePanel("N", "b", {"B": ([5, 30], [1, 2])}, log="x")
    left, right = figures.curve_panels([one, two]).axes
    assert left.lines[1].get_color() == right.lines[0].get_color() != left.lines[0].get_color()
    assert [label.get_text() for label in right.get_xticklabels()] == ["5", "30"]
    assert left.get_yscale() == "log" and right.get_yscale() == "linear"


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="grids must hold at least one kind"):
        figures.time_grids({})
    with pytest.raises(ValueError, match=r"grids\['a'\] must hold at least one draw"):
        figures.time_grids({"a": []})
    with pytest.raises(ValueError, match="panels must hold at least one panel"):
        figures.curve_panels([])
    with pytest.raises(ValueError, match=r"panels\[0\].curves must hold at least one"):
        figures.curve_panels([CurvePanel("x", "y", {})])
    with pytest.raises(ValueError, match=r"the values of 'a' must be .* n = 2, got \(3,\)"):
        figures.curve_panels([CurvePanel("x", "y", {"a": ([1, 2], [1, 2, 3])})])
