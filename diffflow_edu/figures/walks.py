"""Paths of single particles: on a line against time, and in the plane beside each other."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from diffflow_edu.figures.style import (
    MODES,
    Color,
    as_panels,
    as_text,
    bare_square,
    headline,
    particle_colors,
    spread_indices,
    style,
    view_square,
)
from diffflow_edu.processes.base import Trajectory
from diffflow_edu.schedules import check_whole


def walks(
    panels: Mapping[str, tuple[Trajectory, Tensor, Tensor]],
    title: str | None = None,
    particles: int = 8,
) -> Figure:
    """Particles on a line against time, over the band mean ± 2 standard deviations in grey.

    panels: per name the trajectory, states (N + 1, B, 1), and mean and standard deviation at its
    times, (N + 1,) each. All panels share the vertical axis. particles: how many are drawn. Raises
    ValueError for an empty dict, other states, and particles < 1.
    """
    if not panels:
        raise ValueError("panels must hold at least one trajectory, got an empty dict")
    check_whole("particles", particles)
    for name, (path, _, _) in panels.items():
        if path.states.shape[2:] != (1,):
            raise ValueError(
                f"panels[{name!r}] must hold particles on a line, states (N + 1, B, 1), "
                f"got states {tuple(path.states.shape)}"
            )
    with style():
        figure, grid = plt.subplots(
            1,
            len(panels),
            figsize=(5.2 * len(panels), 4.0 if title else 3.6),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for axes, (name, (path, mean, std)) in zip(grid[0], panels.items(), strict=True):
            times, states = path.to_numpy()
            low, high = (mean - 2 * std).numpy(), (mean + 2 * std).numpy()
            axes.fill_between(times, low, high, color="0.9", lw=0)
            for number, walk in enumerate(states[:, :particles, 0].T):
                axes.plot(times, walk, color=MODES[number % len(MODES)], lw=1)
            axes.set(xlabel="time t", title=as_text(name), xlim=(times[0], times[-1]))
        grid[0, 0].set_ylabel("x")
        headline(figure, title)
    return figure


def paths_beside(
    trajectories: Mapping[str, Trajectory],
    color: Color = None,
    particles: int = 12,
    behind: Tensor | None = None,
    title: str | None = None,
) -> Figure:
    """The paths of a few particles of each model on one scale, from data (circle) to noise (dot).

    trajectories: by panel title, states (N + 1, B, 2); the same particles are drawn of each, and
    all panels show the same square. color: see `particle_colors`. behind: (n, 2), drawn as grey
    dots under the paths, such as the data. Raises ValueError for bad trajectories and
    particles < 1.
    """
    panels = as_panels(trajectories)
    check_whole("particles", particles)
    palette, indices = particle_colors({n: path.start for n, path in panels.items()}, color)
    kept = {}
    for name, path in panels.items():
        _, states = path.to_numpy()
        keep = spread_indices(states.shape[1], particles)
        kept[name] = states[:, keep], np.asarray(palette)[indices[name][keep]]
    shown = [states for states, _ in kept.values()]
    if behind is not None:
        shown.append(behind.detach().cpu().numpy())
    view = view_square(shown)
    with style():
        figure, grid = plt.subplots(
            1,
            len(panels),
            figsize=(4.8 * len(panels), 5.2 if title else 4.8),
            squeeze=False,
            layout="compressed",
        )
        for axes, (name, (states, shades)) in zip(grid[0], kept.items(), strict=True):
            if behind is not None:
                axes.scatter(*shown[-1].T, s=2, c="#D9D9D9", lw=0, rasterized=True)
            lines = LineCollection(list(states.swapaxes(0, 1)), colors=shades, lw=1.3, alpha=0.85)
            axes.add_collection(lines)
            axes.scatter(*states[0].T, s=30, facecolors="white", edgecolors=shades, zorder=3)
            axes.scatter(*states[-1].T, s=24, c=shades, lw=0, zorder=3)
            bare_square(axes, view)
            axes.set_title(as_text(name))
        headline(figure, title)
    return figure
