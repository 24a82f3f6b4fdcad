"""Arrows of a score: they point where the score does, and bad input is named."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.quiver import Quiver

from diffflow_edu import figures


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def quiver_of(axes):
    (arrows,) = (artist for artist in axes.get_children() if isinstance(artist, Quiver))
    return arrows


def test_arrows_point_along_the_score_and_grow_with_its_square_root():
    panel = figures.ScorePanel(lambda x: -4 * x)
    figure = figures.score_fields({"a": panel}, extent=2.0)
    arrows = quiver_of(figure.axes[0])
    places = np.stack([arrows.X, arrows.Y], 1)
    field = np.stack([arrows.U, arrows.V], 1)
    length, distance = np.linalg.norm(field, axis=1), np.linalg.norm(places, axis=1)
    outside = distance > 1e-6
    cosine = (field * places).sum(1)[outside] / (length * distance)[outside]
    assert np.allclose(cosine, -1, atol=1e-5)
    short = length < 1.14  # below the cut
    assert np.ptp(length[short & outside] / np.sqrt(distance[short & outside])) < 1e-4


def test_arrows_of_two_panels_compare_unless_each_says_that_it_has_its_own_scale():
    panels = {k: figures.ScorePanel(lambda x, k=k: -k * x) for k in (4.0, 1.0)}
    lengths = {}
    for own in (False, True):
        figure = figures.score_fields(panels, own_scale=own)
        lengths[own] = [np.hypot(q.U, q.V).min() for q in map(quiver_of, figure.axes)]
        labels = [axes.get_title() for axes in figure.axes]
        assert all("own scale" in label for label in labels) is own
        assert (figure.get_supxlabel() == "") is own
    # The square roots of 4 and 1; the shortest arrow of a field is not cut.
    assert lengths[False][0] == pytest.approx(2 * lengths[False][1])
    assert lengths[True][0] == pytest.approx(lengths[True][1])


def test_every_panel_has_its_title_its_points_and_its_shade():
    panels = {
        "one": figures.ScorePanel(lambda x: -x, lambda x: -0.5 * x.square().sum(1)),
        "two": figures.ScorePanel(torch.zeros_like, None, torch.randn(7, 2)),
    }
    figure = figures.score_fields(panels, title="finding")
    assert [axes.get_title() for axes in figure.axes] == ["one", "two"]
    assert figure.get_suptitle() == "finding"
    assert len(figure.axes[0].images) == 1 and len(figure.axes[1].images) == 0
    assert len(figure.axes[1].collections[0].get_offsets()) == 7


@pytest.mark.parametrize(
    ("panels", "extent", "message"),
    [
        ({}, 1.0, "panels must hold at least one ScorePanel"),
        (
            {"": figures.ScorePanel(torch.zeros_like)},
            0.0,
            "extent must be positive and finite, got 0.0",
        ),
    ],
)
def test_bad_input_is_named(panels, extent, message):
    with pytest.raises(ValueError, match=message):
        figures.score_fields(panels, extent=extent)
