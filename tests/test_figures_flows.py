"""The pictures of bent grids: areas are right, and the picture shows them."""

from __future__ import annotations

import math

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import pytest
import torch

from diffflow_edu import figures


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def turn(x, angle):
    c, s = math.cos(angle), math.sin(angle)
    return x @ torch.tensor([[c, s], [-s, c]], dtype=torch.float64)


def test_the_cells_of_a_square_grid_share_its_area():
    areas = figures.cell_areas(figures.square_grid(half=1.5, cells=6))
    assert areas.shape == (6, 6)
    assert torch.allclose(areas, torch.full((6, 6), 0.25, dtype=torch.float64), atol=1e-12)


def test_a_linear_map_multiplies_every_area_by_its_determinant():
    grid = figures.square_grid(cells=5)
    matrix = torch.tensor([[1.2, 0.7], [-0.4, 0.9]], dtype=torch.float64)
    ratio = figures.cell_areas(grid @ matrix.T) / figures.cell_areas(grid)
    assert torch.allclose(ratio, torch.linalg.det(matrix).expand(5, 5), atol=1e-12)


def test_a_reflection_turns_every_cell_over():
    grid = figures.square_grid(cells=3)
    flipped = grid * torch.tensor([-1.0, 1.0])
    assert torch.allclose(figures.cell_areas(flipped), -figures.cell_areas(grid), atol=1e-12)


def test_the_areas_of_a_bent_grid_add_up_to_that_of_the_disc_it_covers():
    # Polar coordinates over a grid: [0, 2] × [0, 2π] becomes a disc of radius 2.
    corner = (figures.square_grid(half=1.0, cells=200) + 1) / 2
    r, angle = 2 * corner[..., 0], 2 * math.pi * corner[..., 1]
    disc = torch.stack([r * angle.cos(), r * angle.sin()], -1)
    # A polygon of 200 corners in place of the circle: short of it by (2π/200)²/6, relative.
    assert figures.cell_areas(disc).sum().item() == pytest.approx(4 * math.pi, rel=3e-4)


def test_a_panel_per_grid_with_the_ratio_beside_each_marked_cell():
    grid = figures.square_grid(cells=8)
    grids = {"before": grid, "after": 1.5 * turn(grid, 0.4)}
    figure = figures.warped_grids(grids, marked=[(0, 1), (2, 2)], finer=2, title="larger")
    before, after, bar = figure.axes
    assert [a.get_title() for a in (before, after)] == ["before", "after"]
    assert [t.get_text() for t in before.texts] == ["1.00", "1.00"]
    assert [t.get_text() for t in after.texts] == ["2.25", "2.25"]  # 1.5²
    assert bar.get_ylabel() == "area after / area before"
    assert figure.get_suptitle() == "larger"
    assert len(after.collections[0].get_paths()) == 64  # every cell
    assert len(after.collections[1].get_segments()) == 10  # every second line


def test_cells_that_were_turned_over_are_black_on_top_and_no_other():
    grid = figures.square_grid(cells=4)
    folded = torch.stack([grid[..., 0].abs(), grid[..., 1]], -1)  # the left half turns over
    colors = figures.warped_grids({"a": grid, "b": folded}).axes[1].collections[0].get_facecolor()
    black = (colors[:, :3] == 0).all(axis=1)
    assert black.tolist() == [False] * 8 + [True] * 8


def test_points_are_drawn_where_they_are_asked_for():
    grid = figures.square_grid(cells=4)
    figure = figures.warped_grids({"a": grid, "b": 2 * grid}, points={"b": torch.zeros(7, 2)})
    assert len(figure.axes[0].collections) == 2
    assert len(figure.axes[1].collections[-1].get_offsets()) == 7


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: figures.square_grid(half=0.0), "half must be positive and finite, got 0.0"),
        (lambda: figures.square_grid(cells=0), "cells must be a whole number, 1 or more, got 0"),
        (lambda: figures.cell_areas(torch.zeros(3, 2)), r"grid must hold corners .* got \(3, 2\)"),
        (lambda: figures.cell_areas([1]), "grid must hold corners .* got list"),
        (lambda: figures.warped_grids({}), "grids must hold at least one grid"),
        (
            lambda: figures.warped_grids({"a": figures.square_grid(), "b": torch.zeros(3, 3, 2)}),
            r"grids\['b'\] must have the shape of the first, \(17, 17, 2\), got \(3, 3, 2\)",
        ),
        (
            lambda: figures.warped_grids({"a": figures.square_grid()}, finer=3),
            "finer must divide the 16 cells a side, got 3",
        ),
    ],
)
def test_grids_that_do_not_fit_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
