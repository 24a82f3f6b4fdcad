"""Sheets of images and curves against N: what is drawn is what was given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from diffflow_edu import figures


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_a_sheet_shows_every_image_and_its_title():
    images = torch.full((4, 1, 5, 5), -1.0)
    images[3] = 1.0
    figure = figures.image_sheets({"a": images, "b": images[:, 0]}, title="What is found")
    assert figure.get_suptitle() == "What is found"
    for axes, name in zip(figure.axes, "ab", strict=True):
        picture = axes.images[0].get_array()
        assert axes.get_title() == name and picture.shape == (11, 11, 4)
        assert (picture[6:, 6:, :3] == 255).all() and (picture[:5, :5, :3] == 1).all()


def test_sheets_in_rows_leave_the_rest_of_the_last_row_empty():
    figure = figures.image_sheets({name: torch.zeros(1, 1, 4, 4) for name in "abc"}, columns=2)
    shown = [(axes.get_title(), len(axes.images), axes.axison) for axes in figure.axes]
    assert shown == [("a", 1, False), ("b", 1, False), ("c", 1, False), ("", 0, False)]
    a, b, c, _ = (axes.get_subplotspec() for axes in figure.axes)
    assert (a.rowspan, b.rowspan, c.rowspan) == (range(1), range(1), range(1, 2))
    with pytest.raises(ValueError, match="columns must be .* got 0"):
        figures.image_sheets({"a": torch.zeros(1, 1, 4, 4)}, columns=0)


@pytest.mark.parametrize(
    ("sheets", "message"),
    [
        ({}, "at least one panel"),
        ({"a": torch.zeros(3, 2)}, r"sheets\['a'\] must be images .*got \(3, 2\)"),
        ({"a": [1]}, "got list"),
    ],
)
def test_what_is_no_sheet_is_refused(sheets, message):
    with pytest.raises(ValueError, match=message):
        figures.image_sheets(sheets)


def test_curves_hold_the_rows_and_levels_the_lines():
    rows = {
        "DiffFlow": [
            {"steps": 5, "bits_per_dim": 3.0, "fid": 20.0},
            {"steps": 10, "bits_per_dim": 2.5, "fid": None},
        ]
    }
    lines = {"Gaussian": {"bits_per_dim": 5.5}, "floor": {"fid": 1.5}}
    figure = figures.quality_against_steps(rows, lines, title="More steps")
    bits, fid = figure.axes
    np.testing.assert_allclose(bits.lines[0].get_xydata(), [[5, 3.0], [10, 2.5]])
    np.testing.assert_allclose(bits.lines[1].get_ydata(), 5.5)
    np.testing.assert_allclose(fid.lines[0].get_xydata(), [[5, 20.0]])
    np.testing.assert_allclose(fid.lines[1].get_ydata(), 1.5)
    assert bits.get_xlabel() == "steps N" and "at most" in bits.get_ylabel()
    with pytest.raises(ValueError, match="rows must hold at least one model"):
        figures.quality_against_steps({}, {})
