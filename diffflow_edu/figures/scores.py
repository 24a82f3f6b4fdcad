"""Arrows of a score over its density."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from diffflow_edu.figures.style import MODES, as_text, bare_square, headline, style
from diffflow_edu.schedules import check_positive

ARROWS = 21
"""Along each side of a panel."""

LONGEST = 1.15
"""Arrows are drawn at most so many times as long as the one that stands for the scale."""

PIXELS = 240


class ScorePanel(NamedTuple):
    """What one panel shows.

    score: x (B, 2) -> (B, 2). log_prob: x (B, 2) -> (B,), shaded in grey; or None. points: (n, 2),
    drawn as dots; or None.
    """

    score: Callable[[Tensor], Tensor]
    log_prob: Callable[[Tensor], Tensor] | None = None
    points: Tensor | None = None


def score_fields(
    panels: Mapping[str, ScorePanel],
    title: str | None = None,
    extent: float = 2.5,
    own_scale: bool = False,
) -> Figure:
    """Each panel's score as arrows over its density, side by side.

    An arrow's length grows with the square root of the score's, on one scale for all panels: the
    largest of their 95 % quantiles of ‖s‖, which is told below them.

    panels: by panel title. extent: half side of the square around 0 that is shown. own_scale: each
    panel has its own 95 % quantile as its scale, and says so; lengths of different panels then do
    not compare. Raises ValueError for an empty dict and for extent ≤ 0.
    """
    if not panels:
        raise ValueError("panels must hold at least one ScorePanel, got an empty dict")
    check_positive(extent=extent)
    fields = {name: _field(panel.score, extent) for name, panel in panels.items()}
    scales = {name: _scale(field) for name, field in fields.items()}
    shared = max(scales.values())
    size = (5.4, 5.6) if len(panels) == 1 else (3.5 * len(panels), 4.1)
    with style():
        figure, grid = plt.subplots(
            1,
            len(panels),
            figsize=size,
            squeeze=False,
            layout="compressed",
        )
        for axes, (name, panel) in zip(grid[0], panels.items(), strict=True):
            if panel.log_prob is not None:
                _shade(axes, panel.log_prob, extent)
            if panel.points is not None:
                x, y = panel.points.detach().cpu().numpy().T
                axes.scatter(x, y, s=3, c="#8C8C8C", lw=0, rasterized=True)
            scale = scales[name] if own_scale else shared
            _arrows(axes, fields[name], scale or 1.0, extent)
            bare_square(axes, (0.0, 0.0, extent))
            own = f"\nown scale: a long arrow is ‖s‖ = {scale:.2g}" if own_scale else ""
            axes.set_title(as_text(name) + own)
        if not own_scale:
            figure.supxlabel(f"a long arrow is ‖s‖ = {shared:.2g}", fontsize=12)
        headline(figure, title)
    return figure


def _middles(side: int, extent: float) -> Tensor:
    """The middles of side × side squares of [−extent, extent]², (side², 2), row by row upwards."""
    along = ((torch.arange(side) + 0.5) / side * 2 - 1) * extent
    return torch.cartesian_prod(along, along).flip(1)


def _shade(axes: Axes, log_prob: Callable[[Tensor], Tensor], extent: float) -> None:
    with torch.no_grad():
        p = log_prob(_middles(PIXELS, extent)).exp().reshape(PIXELS, PIXELS).cpu().numpy()
    # Square roots, so that tails are seen; pale, so that arrows are.
    top = np.quantile(p[p > 0], 0.995) if (p > 0).any() else 1.0
    axes.imshow(
        np.sqrt(np.clip(p / top, 0, 1)),
        extent=(-extent, extent, -extent, extent),
        origin="lower",
        cmap="Greys",
        vmin=0,
        vmax=1.6,
        interpolation="bilinear",
    )


def _field(score: Callable[[Tensor], Tensor], extent: float) -> np.ndarray:
    """The score at the arrows' places, (ARROWS², 2)."""
    with torch.no_grad():
        return score(_middles(ARROWS, extent)).detach().cpu().double().numpy()


def _scale(field: np.ndarray) -> float:
    """The 95 % quantile of the lengths; 0 where none is finite."""
    length = np.linalg.norm(field, axis=1)
    finite = length[np.isfinite(length)]
    return float(np.quantile(finite, 0.95)) if len(finite) else 0.0


def _arrows(axes: Axes, field: np.ndarray, scale: float, extent: float) -> None:
    points = _middles(ARROWS, extent)
    length = np.linalg.norm(field, axis=1, keepdims=True)
    # Square roots of the lengths: scores near the data are much shorter than those far away.
    shown = np.sqrt(length / scale).clip(max=LONGEST)
    field = field / np.where(length > 0, length, 1.0) * shown
    # An arrow of the scale's length spans its square of the grid.
    axes.quiver(
        *points.numpy().T,
        *field.T,
        color=MODES[0],
        angles="xy",
        scale_units="xy",
        scale=ARROWS / (2 * extent) / 1.05,
        pivot="tail",
        width=0.0042,
        headwidth=4,
        headlength=4.5,
        headaxislength=4,
    )
