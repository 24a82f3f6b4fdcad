"""Pictures of trajectories: the film strip and the paths of single particles."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from diffflow_edu.figures.images import RANGE_IN_WORDS, image_bytes, mosaic
from diffflow_edu.figures.style import (
    Color,
    are_images,
    as_panels,
    as_text,
    bare_square,
    digits_for,
    headline,
    particle_colors,
    spread_indices,
    style,
    view_square,
)
from diffflow_edu.processes.base import Trajectory
from diffflow_edu.schedules import check_whole

IMAGES = 16
"""So many images at most stand in one snapshot of a film strip."""


LABEL_WIDTH = 20
"""Letters that fit beside one row of a film strip."""


def film_strip(
    trajectories: Trajectory | Mapping[str, Trajectory],
    color: Color = None,
    steps: int = 6,
    title: str | None = None,
    most: int = 4000,
) -> Figure:
    """Snapshots of every trajectory: one row per model, time from data (left) to noise (right).

    Particles that are images, (H, W) or (C, H, W) with C = 1 or 3, are shown side by side, at most
    `IMAGES` of them; their pixels are clipped to −1 … 1 and take no color.

    color: see `particle_colors`. steps: the number of columns. most: at most so many particles
    are drawn, evenly picked. Raises ValueError for bad trajectories and colours,
    steps < 2 and most < 1.
    """
    panels = as_panels(trajectories, images=True)
    check_whole("steps", steps, least=2)  # data and noise
    check_whole("most", most)
    draw = _draw_images(panels, color) if are_images(panels) else _draw_points(panels, color, most)
    grids = {name: path.to_numpy()[0] for name, path in panels.items()}
    first_times = next(iter(grids.values()))
    shared_times = all(np.array_equal(first_times, times) for times in grids.values())
    columns = min(steps, max(len(times) for times in grids.values()))
    with style():
        figure, grid = plt.subplots(
            len(panels),
            columns,
            figsize=(1.75 * columns + 0.4, 1.75 * len(panels) + (0.9 if title else 0.5)),
            squeeze=False,
            layout="compressed",
        )
        for row, (name, times) in enumerate(grids.items()):
            shown = np.linspace(0, len(times) - 1, columns).round().astype(int)
            for column, step in enumerate(shown):
                axes = grid[row, column]
                draw(axes, name, step)
                if row == 0 or not shared_times:
                    axes.set_title(_time_label(times, step, side=row == 0))
            label = as_text(textwrap.fill(name, LABEL_WIDTH))  # a row is not high enough for more
            size = 11 if "\n" in label else 13
            grid[row, 0].set_ylabel(label, fontsize=size, labelpad=6)
        headline(figure, title)
    return figure


Draw = Callable[[Axes, str, int], None]
"""Draws one panel's particles at one step."""


def _draw_points(panels: Mapping[str, Trajectory], color: Color, most: int) -> Draw:
    palette, indices = particle_colors({k: p.start for k, p in panels.items()}, color)
    states = {name: path.to_numpy()[1] for name, path in panels.items()}
    view = view_square(states.values())

    def draw(axes: Axes, name: str, step: int) -> None:
        keep = spread_indices(states[name].shape[1], most)
        shades = np.asarray(palette)[indices[name][keep]]
        axes.scatter(*states[name][step, keep].T, s=2.4, c=shades, lw=0, rasterized=True)
        bare_square(axes, view)

    return draw


def _draw_images(panels: Mapping[str, Trajectory], color: Color) -> Draw:
    if color is not None:
        raise ValueError("color is for points in the plane; images show their own pixels")
    states = {name: path.to_numpy()[1] for name, path in panels.items()}

    def draw(axes: Axes, name: str, step: int) -> None:
        keep = spread_indices(states[name].shape[1], IMAGES)
        show_images(axes, image_bytes(states[name][step : step + 1, keep])[0])

    return draw


def show_images(axes: Axes, images: np.ndarray) -> None:
    """Images of `image_bytes`, uint8 (B, H, W, C), side by side on bare axes."""
    axes.imshow(mosaic(images), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=False)


def paths(
    trajectory: Trajectory,
    color: Color = None,
    particles: int = 60,
    title: str | None = None,
) -> Figure:
    """The way each of a few particles takes, from data (ring) to noise (dot).

    color: see `particle_colors`. particles: how many paths, evenly picked. Raises ValueError for a
    bad trajectory or particles < 1.
    """
    panels = as_panels(trajectory)
    if len(panels) != 1:
        raise ValueError(f"trajectory must be one Trajectory, got {len(panels)}")
    check_whole("particles", particles)
    (name, path), *_ = panels.items()
    palette, indices = particle_colors({name: path.start}, color)
    _, states = path.to_numpy()
    keep = spread_indices(states.shape[1], particles)
    shades = np.asarray(palette)[indices[name][keep]]
    with style():
        figure, axes = plt.subplots(figsize=(5.2, 5.5 if title else 5.2), layout="constrained")
        lines = LineCollection(list(states[:, keep].swapaxes(0, 1)), colors=shades, lw=1, alpha=0.6)
        axes.add_collection(lines)
        axes.scatter(*states[0, keep].T, s=26, facecolors="white", edgecolors=shades, zorder=3)
        axes.scatter(*states[-1, keep].T, s=18, c=shades, lw=0, zorder=3)
        bare_square(axes, view_square([states[:, keep]]))
        headline(figure, title)
    return figure


def alt_text(trajectories: Trajectory | Mapping[str, Trajectory], title: str | None = None) -> str:
    """What a film strip shows, in words; the same text for the same shapes and times.

    >>> import torch
    >>> alt_text(Trajectory(torch.tensor([0.0, 1.0]), torch.zeros(2, 5, 2)))
    'Particles from data (t = 0.00, left) to noise (t = 1.00, right): 5 particles in 1 step.'
    """
    panels = as_panels(trajectories, images=True)
    images = are_images(panels)
    rows = []
    for name, path in panels.items():
        times, states = path.to_numpy()
        n, count = len(times) - 1, states.shape[1]
        what = f"{count} particles"
        if images:
            what = f"{count} images of {states.shape[-2]} × {states.shape[-1]} pixels"
        label = f"{name}, " if name else ""
        rows.append(f"{label}{what} in {n} step{'' if n == 1 else 's'}")
    digits = digits_for(times)
    return (
        (f"{title}. " if title else "")
        + f"{'Images' if images else 'Particles'} from data (t = {times[0]:.{digits}f}, left) "
        + f"to noise (t = {times[-1]:.{digits}f}, right): "
        + "; ".join(rows)
        + (f"; {RANGE_IN_WORDS}." if images else ".")
    )


def _time_label(times: np.ndarray, step: int, side: bool) -> str:
    label = f"t = {times[step]:.{digits_for(times)}f}"
    if not side:
        return label
    return {0: f"data\n{label}", len(times) - 1: f"noise\n{label}"}.get(step, label)
