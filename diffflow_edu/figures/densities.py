"""Pictures of densities and of samples held against them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor

from diffflow_edu.figures.style import (
    Color,
    as_text,
    bare_square,
    headline,
    particle_colors,
    spread_indices,
    style,
    view_square,
)
from diffflow_edu.schedules import check_positive, check_whole


class Density(Protocol):
    """What these pictures need of a toy density."""

    def sample(self, n: int, seed: int | None = None) -> Tensor:
        """Particles (n, 2)."""

    def log_prob(self, x: Tensor) -> Tensor:
        """log p in nats, (B,), of x (B, 2)."""


def samples_against_truth(
    samples: Tensor | Mapping[str, Tensor],
    density: Density | Tensor,
    title: str | None = None,
    color: Color = None,
    most: int = 5000,
) -> Figure:
    """The truth, then each model's samples over the truth in grey: what leaks stands apart.

    samples: (n, 2) per model. density: anything with ``sample``, or the data itself, (n, 2).
    color: see `particle_colors`. most: at most so many particles per panel. Raises ValueError for
    an empty dict, samples that are not (n, 2), and most < 1.
    """
    check_whole("most", most)
    models = {"samples": samples} if isinstance(samples, Tensor) else dict(samples)
    if not models:
        raise ValueError("samples must hold at least one model, got an empty dict")
    for name, x in models.items():
        _check_plane(x, f"samples[{name!r}]")
    if isinstance(density, Tensor):
        _check_plane(density, "density")
        truth = density
    else:
        truth = density.sample(4 * most, seed=0)
    panels = {"data": truth} | {
        (f"{name} (samples)" if name == "data" else name): x for name, x in models.items()
    }
    panels = {name: x[spread_indices(len(x), most)].detach().cpu() for name, x in panels.items()}
    palette, indices = particle_colors(panels, color)
    x, y, half = view_square([panels["data"].numpy()])
    with style():
        figure, grid = plt.subplots(
            1,
            len(panels),
            figsize=(3.6 * len(panels), 4.3 if title else 3.9),
            squeeze=False,
            layout="compressed",
        )
        for axes, (name, points) in zip(grid[0], panels.items(), strict=True):
            if name != "data":
                axes.scatter(*truth.detach().cpu().numpy().T, s=2, c="#D9D9D9", lw=0)
            axes.scatter(
                *points.numpy().T,
                s=2.4,
                c=np.asarray(palette)[indices[name]],
                lw=0,
                rasterized=True,
            )
            # A margin, because the interesting particles are those outside the data's own square.
            bare_square(axes, (x, y, 1.15 * half))
            axes.set_title(as_text(name))
        headline(figure, title)
    return figure


def gallery(densities: Sequence[Density], title: str | None = None, most: int = 4000) -> Figure:
    """Samples of many densities side by side, five to a row, coloured by mode.

    densities: each with ``sample``, ``mode`` and ``name``. most: particles per panel. Raises
    ValueError for an empty sequence and for most < 1.
    """
    check_whole("most", most)
    if not len(densities):
        raise ValueError("densities must hold at least one density, got an empty sequence")
    columns = min(5, len(densities))
    rows = -(-len(densities) // columns)
    with style():
        figure, grid = plt.subplots(
            rows,
            columns,
            figsize=(2.4 * columns, 2.5 * rows + (0.5 if title else 0)),
            squeeze=False,
            layout="compressed",
        )
        for axes in grid.flat[len(densities) :]:
            axes.set_visible(False)
        for axes, density in zip(grid.flat, densities, strict=False):
            x = density.sample(most, seed=0)
            palette, indices = particle_colors({"": x}, density.mode)
            axes.scatter(
                *x.numpy().T, s=2, c=np.asarray(palette)[indices[""]], lw=0, rasterized=True
            )
            bare_square(axes, view_square([x.numpy()]))
            axes.set_title(as_text(density.name.replace("_", " ")))
        headline(figure, title)
    return figure


def density_map(
    density: Density | Callable[[Tensor], Tensor],
    title: str | None = None,
    extent: float | None = None,
    resolution: int = 320,
    depth: float = 10.0,
) -> Figure:
    """log p on a grid, in nats, down to `depth` nats below its peak.

    density: has ``log_prob`` (and ``sample``), or is itself x (B, 2) -> log p (B,). extent: half
    side of the square; without it the square follows the density's samples, or is 3. Thin curves
    would fall between pixel centres, so each pixel shows the largest log p of its centre and of
    the density's own samples in it, or of nine points where there are no samples to draw. Raises
    ValueError for extent or depth ≤ 0, and for resolution < 1.
    """
    check_positive(depth=depth)
    check_whole("resolution", resolution)
    if extent is not None:
        check_positive(extent=extent)
    log_prob = density.log_prob if hasattr(density, "log_prob") else density
    draws = density.sample(50_000, seed=0) if hasattr(density, "sample") else None
    if extent is not None:
        view = (0.0, 0.0, float(extent))
    else:
        view = (0.0, 0.0, 3.0) if draws is None else view_square([draws.numpy()])
    image = _pooled_log_prob(log_prob, view, int(resolution), finer=3 if draws is None else 1)
    if draws is not None:
        _add_samples(image, draws, log_prob, view)
    top = float(image[np.isfinite(image)].max(initial=-np.inf))
    if not np.isfinite(top):
        raise ValueError("density must have a finite log_prob somewhere in view, found none")
    x, y, half = view
    colors = sns.color_palette("mako_r", as_cmap=True).with_extremes(under="white")
    with style():
        figure, axes = plt.subplots(figsize=(6, 5.3 if title else 5), layout="constrained")
        picture = axes.imshow(
            np.nan_to_num(image, nan=-np.inf, posinf=top, neginf=-np.inf),
            origin="lower",
            extent=(x - half, x + half, y - half, y + half),
            cmap=colors,
            vmin=top - depth,
            vmax=top,
            interpolation="nearest",
        )
        bare_square(axes, view)
        bar = figure.colorbar(picture, ax=axes, shrink=0.85, extend="min")
        bar.set_label("log p(x) [nats]")
        bar.outline.set_visible(False)
        headline(figure, title)
    return figure


def _pooled_log_prob(
    log_prob: Callable[[Tensor], Tensor],
    view: tuple[float, float, float],
    resolution: int,
    finer: int,
) -> np.ndarray:
    """The largest log p of finer × finer points in each pixel, (resolution, resolution)."""
    x, y, half = view
    n = resolution * finer
    offsets = ((torch.arange(n) + 0.5) / n * 2 - 1) * half
    rows = []
    with torch.no_grad():
        for band in offsets.split(max(1, 100_000 // n)):  # bands keep the memory small
            grid = torch.cartesian_prod(band + y, offsets + x).flip(1)
            rows.append(log_prob(grid).cpu().reshape(len(band), n))
    fine = torch.cat(rows).numpy().astype(np.float64)
    return fine.reshape(resolution, finer, resolution, finer).max(axis=(1, 3))


def _add_samples(
    image: np.ndarray,
    draws: Tensor,
    log_prob: Callable[[Tensor], Tensor],
    view: tuple[float, float, float],
) -> None:
    """Raise each pixel to the largest log p of the samples that fall in it."""
    x, y, half = view
    n = len(image)
    with torch.no_grad():
        values = log_prob(draws).cpu().numpy()
    cells = np.floor((draws.numpy() - (x - half, y - half)) / (2 * half) * n).astype(np.int64)
    inside = ((cells >= 0) & (cells < n)).all(axis=1)
    np.maximum.at(image, (cells[inside, 1], cells[inside, 0]), values[inside])


def _check_plane(x: Tensor, name: str) -> None:
    if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[1] != 2 or not len(x):
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name} must be a tensor of points in the plane, (n, 2), got {got}")
