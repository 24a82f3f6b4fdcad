"""Pictures of what a map does to space: a grid that bends, and the area of every cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from torch import Tensor

from diffflow_edu.figures.style import as_text, bare_square, headline, style, view_square
from diffflow_edu.schedules import check_positive, check_whole, shortly

FOLDED = "#000000"
"""Cells that a map has turned over: no bijection does that."""


def square_grid(half: float = 2.0, cells: int = 16) -> Tensor:
    """The corners of cells × cells squares over [−half, half]², (cells + 1, cells + 1, 2) float64.

    The first axis counts rows (the second coordinate), the last holds the coordinates. Raises
    ValueError for half ≤ 0 or cells < 1.

    >>> square_grid(half=1.0, cells=2)[0]
    tensor([[-1., -1.],
            [ 0., -1.],
            [ 1., -1.]], dtype=torch.float64)
    """
    check_positive(half=half)
    check_whole("cells", cells)
    line = torch.linspace(-half, half, cells + 1, dtype=torch.float64)
    second, first = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([first, second], -1)


def cell_areas(grid: Tensor) -> Tensor:
    """The signed area of every cell of a grid of corners (n + 1, m + 1, 2), as (n, m).

    The shoelace formula, half the cross product of a quadrilateral's diagonals; negative where a
    map has turned the cell over. Raises ValueError for anything but a grid of points in the plane.

    >>> cell_areas(3 * square_grid(half=1.0, cells=1))
    tensor([[36.]], dtype=torch.float64)
    """
    _check_grid("grid", grid)
    rising = grid[1:, 1:] - grid[:-1, :-1]
    falling = grid[1:, :-1] - grid[:-1, 1:]
    return 0.5 * (rising[..., 0] * falling[..., 1] - rising[..., 1] * falling[..., 0])


def warped_grids(
    grids: Mapping[str, Tensor],
    marked: Sequence[tuple[int, int]] = (),
    finer: int = 1,
    title: str | None = None,
    points: Mapping[str, Tensor] | None = None,
) -> Figure:
    """One panel per grid; colour says how a cell's area compares with that of the first panel.

    grids: corners (n + 1, n + 1, 2) by panel title, the first before the map, the others after.
    finer: only every finer-th line is drawn, so that lines may bend between crossings.
    marked: cells (row, column), counted in drawn lines, that are outlined; beside each stands its
        area over its area in the first panel. points: particles (B, 2) to draw on top, by title.
    Cells that were turned over are black. Raises ValueError for grids of unlike shapes.
    """
    if not grids:
        raise ValueError("grids must hold at least one grid, got an empty dict")
    for name, grid in grids.items():
        _check_grid(f"grids[{name!r}]", grid)
    first = next(iter(grids.values()))
    for name, grid in grids.items():
        if grid.shape != first.shape:
            raise ValueError(
                f"grids[{name!r}] must have the shape of the first, {tuple(first.shape)}, "
                f"got {tuple(grid.shape)}"
            )
    check_whole("finer", finer)
    if (first.shape[0] - 1) % finer or (first.shape[1] - 1) % finer:
        raise ValueError(
            f"finer must divide the {first.shape[0] - 1} cells a side, got {shortly(finer)}"
        )
    grids = {name: grid.detach().cpu().double() for name, grid in grids.items()}
    before = cell_areas(next(iter(grids.values())))
    ratios = {name: cell_areas(grid) / before for name, grid in grids.items()}
    positive = torch.cat([r[r > 0].flatten() for r in ratios.values()])
    reach = max(1.0, math.ceil(float(positive.log2().abs().quantile(0.98))))
    shade = mpl.cm.ScalarMappable(mpl.colors.Normalize(-reach, reach), "PuOr_r")
    with style():
        figure, panels = plt.subplots(
            1,
            len(grids),
            figsize=(4.1 * len(grids) + 1.0, 4.6 if title else 4.2),
            squeeze=False,
            layout="compressed",
        )
        for axes, (name, grid) in zip(panels[0], grids.items(), strict=True):
            corners = grid.numpy()
            ratio = ratios[name].numpy()
            colors = shade.to_rgba(np.log2(np.where(ratio > 0, ratio, 1.0))).reshape(-1, 4)
            folded = (ratio <= 0).ravel()
            colors[folded] = mpl.colors.to_rgba(FOLDED)
            on_top = folded.argsort(kind="stable")  # else the sheet they lie under hides them
            axes.add_collection(
                PolyCollection(
                    _quadrilaterals(corners)[on_top],
                    facecolors=colors[on_top],
                    # Without an edge of its own colour, hairs of the page show between the cells.
                    edgecolors=colors[on_top],
                    lw=0.3,
                )
            )
            lines = [*corners[::finer], *corners.swapaxes(0, 1)[::finer]]
            axes.add_collection(LineCollection(lines, colors="#666666", lw=0.5))
            if points is not None and name in points:
                x = points[name].detach().cpu().numpy()
                axes.scatter(*x.T, s=2, c="#222222", lw=0, rasterized=True)
            for row, column in marked:
                _mark(axes, corners, ratios[name] * before, before, row, column, finer)
            bare_square(axes, view_square([corners]))
            axes.set_title(as_text(name))
        bar = figure.colorbar(shade, ax=panels[0], shrink=0.85, pad=0.02)
        ticks = np.unique(np.linspace(-reach, reach, 5).round())
        bar.set_ticks(ticks, labels=[f"×{2**t:g}" if t >= 0 else f"÷{2**-t:g}" for t in ticks])
        bar.set_label("area after / area before")
        bar.outline.set_visible(False)
        headline(figure, title)
    return figure


def _mark(
    axes: mpl.axes.Axes,
    corners: np.ndarray,
    areas: Tensor,
    before: Tensor,
    row: int,
    column: int,
    finer: int,
) -> None:
    """Outline one cell and write its area, over that of the first panel, beside it."""
    rows, columns = (slice(finer * k, finer * k + finer) for k in (row, column))
    block = corners[
        finer * row : finer * row + finer + 1, finer * column : finer * column + finer + 1
    ]
    edge = np.concatenate([block[0], block[1:, -1], block[-1, -2::-1], block[-2::-1, 0]])
    axes.plot(*edge.T, color="black", lw=1.8, solid_joinstyle="round")
    value = float(areas[rows, columns].sum() / before[rows, columns].sum())
    axes.annotate(
        f"{value:.2f}",
        block.reshape(-1, 2).mean(0),
        xytext=(11, 11),
        textcoords="offset points",
        fontsize=11,
        weight="bold",
        bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8},
    )


def _quadrilaterals(corners: np.ndarray) -> np.ndarray:
    """The four corners of every cell, (cells, 4, 2)."""
    ways = (corners[:-1, :-1], corners[:-1, 1:], corners[1:, 1:], corners[1:, :-1])
    return np.stack(ways, axis=2).reshape(-1, 4, 2)


def _check_grid(name: str, grid: Tensor) -> None:
    good = isinstance(grid, Tensor) and grid.ndim == 3 and grid.shape[2] == 2
    if not good or min(grid.shape[:2]) < 2:
        got = tuple(grid.shape) if isinstance(grid, Tensor) else type(grid).__name__
        raise ValueError(f"{name} must hold corners (n + 1, m + 1, 2) of cells, got {got}")
