"""Python describes the particles, JavaScript draws them.

All frames travel once, as 16-bit integers in one buffer; after that the kernel is not needed, so
the player stays smooth on a slow connection.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import traitlets

from diffflow_edu.figures.style import digits_for, spread_indices, view_square
from diffflow_edu.figures.trajectories import alt_text, film_strip
from diffflow_edu.player import export
from diffflow_edu.player.fields import (
    GRID,
    KINDS,
    LONGEST,
    arrows,
    check_fields,
    exact_density,
)
from diffflow_edu.player.measure import step_metrics
from diffflow_edu.player.pack import LARGEST, REACH, Colors, colorings, quantise, script, unfold
from diffflow_edu.player.twin import WidgetWithTwin, small_png, write
from diffflow_edu.processes.base import Trajectory
from diffflow_edu.processes.diffflow import DiffFlow
from diffflow_edu.toy import Density

FILM_STRIP_SETTINGS = 3
FILM_STRIP_POINTS = 1500


def play(
    trajectories: Trajectory | Mapping[str, Any],
    color: Colors = None,
    *,
    title: str | None = None,
    direction: str = "forward",
    fps: float | None = None,
    autoplay: bool = False,
    max_points: int = 2000,
    density: Density | None = None,
    fields: Mapping[str, DiffFlow] | None = None,
) -> Player:
    """Watch particles travel between data and noise, one panel per trajectory, side by side.

    Click a particle to see its way in every panel, drag a box to follow a region.

    trajectories: one Trajectory, or a dict of them by panel title; states (N + 1, B, 2), with the
        same N and B in every panel. ``{"N": {5: panels, 10: panels}}`` puts a dial into the
        player, one setting of which is shown at a time; the settings may differ in N.
    color: whole numbers (B,) are modes, floats (B,) a scale, a callable such as ``density.mode``
        is applied to each trajectory's data side; None gives one colour. A dict of these by name
        gives the reader the choice. The angle at which a particle starts is always on offer.
    title: stands above the panels.
    direction: "forward" starts at the data, "backward" at the noise.
    fps: steps a second when playing; by default the whole way takes 4 s.
    autoplay: start playing at once, unless the reader's system asks for less motion.
    max_points: at most so many particles are shown in a panel, evenly picked.
    density: what the particles should look like at t = 0; adds the colours "mode" and
        "log-density", and below each panel the sliced W2 to it and to N(0, I) and the leak, at
        every step; the density underlay is then exact at t = 0.
    fields: models by panel title, whose drift, score and backward drift can be shown as arrows.

    Returns a widget; where none can run, its film strip and its text are shown. Raises ValueError
    for trajectories that do not fit together, colours of the wrong length, and bad options.

    >>> import torch
    >>> path = Trajectory(torch.linspace(0, 1, 4), torch.zeros(4, 5, 2))
    >>> play({"still": path}, title="Nothing moves")
    Nothing moves. Particles from data (t = 0.00, left) to noise (t = 1.00, right): \
still, 5 particles in 3 steps.
    """
    return Player(
        trajectories,
        color,
        title=title,
        direction=direction,
        fps=fps,
        autoplay=autoplay,
        max_points=max_points,
        density=density,
        fields=fields,
    )


class Player(WidgetWithTwin):
    """What `play` returns: the widget, its film strip, and the film strip in words."""

    _esm = script()

    frames = traitlets.Bytes().tag(sync=True)
    """int16, little-endian, (N + 1, panels, points, 2) for each run, one after another."""

    colors = traitlets.Bytes().tag(sync=True)
    """uint8, (colourings, runs, panels, points): indices into the palettes of `spec`."""

    arrows = traitlets.Bytes().tag(sync=True)
    """int8, (models, kinds, N + 1, GRID², 2): see `fields.arrows`; empty without fields."""

    exact = traitlets.Bytes().tag(sync=True)
    """uint8, (PIXELS, PIXELS): see `fields.exact_density`; empty without a density."""

    spec = traitlets.Dict().tag(sync=True)
    """Titles, times, palettes and the small numbers that player.js needs."""

    def __init__(
        self,
        trajectories: Trajectory | Mapping[str, Any],
        color: Colors = None,
        *,
        title: str | None = None,
        direction: str = "forward",
        fps: float | None = None,
        autoplay: bool = False,
        max_points: int = 2000,
        density: Density | None = None,
        fields: Mapping[str, DiffFlow] | None = None,
    ) -> None:
        dials, runs = unfold(trajectories)
        if direction not in ("forward", "backward"):
            raise ValueError(f"direction must be 'forward' or 'backward', got {direction!r}")
        if fps is not None and not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"fps must be positive, got {fps}")
        if max_points < 1:
            raise ValueError(f"max_points must be at least 1, got {max_points}")
        if density is not None and not isinstance(density, Density):
            raise ValueError(f"density must be a toy density, got {type(density).__name__}")
        fields = fields or {}
        check_fields(fields, runs[0], dials)
        choices = colorings(runs, color, density)

        titles = list(runs[0])
        keep = spread_indices(runs[0][titles[0]].states.shape[1], max_points)
        states = [np.stack([p.to_numpy()[1][:, keep] for p in run.values()], 1) for run in runs]
        times = [np.stack([p.to_numpy()[0] for p in run.values()]) for run in runs]
        x, y, half = view_square(states)
        described, offset = [], 0
        for each, at in zip(states, times, strict=True):
            metrics = []
            if density is not None:
                metrics = [step_metrics(panel, density) for panel in each.swapaxes(0, 1)]
            lost = (~np.isfinite(each).all(axis=3)).any(axis=0).sum(axis=1)
            described.append(
                {
                    "frames": len(each),
                    "offset": offset,
                    "times": at.tolist(),
                    "missing": lost.tolist(),
                    "metrics": metrics,
                }
            )
            offset += each.size
        drawn, scales = (
            zip(*(arrows(m, (x, y, half)) for m in fields.values()), strict=True)
            if fields
            else ((), ())
        )
        self._trajectories, self._title = _rows(dials, runs), title
        self._color = next(iter(color.values())) if isinstance(color, Mapping) else color
        super().__init__(
            frames=b"".join(quantise(s, (x, y), REACH * half).tobytes() for s in states),
            colors=b"".join(c[keep].tobytes() for _, _, each in choices for c in each),
            arrows=b"".join(each.tobytes() for each in drawn),
            exact=exact_density(density, (x, y, half)).tobytes() if density else b"",
            spec={
                "fields": {
                    "grid": GRID,
                    "kinds": list(KINDS),
                    "longest": LONGEST,
                    "panels": {
                        titles.index(name): {"index": i, "scales": scales[i]}
                        for i, name in enumerate(fields)
                    },
                },
                "panels": titles,
                "dials": [{"name": name, "values": values} for name, values in dials.items()],
                "points": len(keep),
                "runs": described,
                "colorings": [{"name": name, "palette": palette} for name, palette, _ in choices],
                "digits": digits_for(np.concatenate([t.ravel() for t in times])),
                "reach": REACH / LARGEST,  # one quantum, in half sides of the visible square
                "view": [x, y, half],
                "title": title or "",
                "direction": direction,
                "fps": fps,
                "autoplay": autoplay,
                "alt": self.alt,
            },
        )

    @property
    def alt(self) -> str:
        """The film strip in words; depends on shapes, times and titles only."""
        return alt_text(self._trajectories, self._title)

    @cached_property
    def png(self) -> bytes:
        """The film strip as a PNG of a few dozen colours, some tens of kilobytes."""
        figure = film_strip(
            self._trajectories, self._color, title=self._title, most=FILM_STRIP_POINTS
        )
        for axes in figure.axes:
            for dots in axes.collections:
                dots.set_antialiased(False)  # hard edges halve the bytes and keep the colours pure
        return small_png(figure)

    def save_html(self, path: str | Path) -> None:
        """Write one page that plays without a kernel and without a network."""
        write(Path(path), export.page(self).encode())

    def save_gif(self, path: str | Path, fps: float = export.FPS) -> None:
        """Write a GIF of every step. Raises ValueError for fps <= 0."""
        export.film(self, path, "pillow", fps)

    def save_mp4(self, path: str | Path, fps: float = export.FPS) -> None:
        """Write an MP4 of every step.

        Raises ValueError for fps <= 0 and RuntimeError where the program ffmpeg is missing.
        """
        export.film(self, path, "ffmpeg", fps)


def _rows(
    dials: Mapping[str, list[str]], runs: list[dict[str, Trajectory]]
) -> dict[str, Trajectory]:
    """The film strip's rows: the panels, at a few settings of the dials that tell their range."""
    settings = list(itertools.product(*dials.values()))
    rows = {}
    for i in spread_indices(len(runs), FILM_STRIP_SETTINGS):
        at = ", ".join(f"{name} = {v}" for name, v in zip(dials, settings[i], strict=True))
        for title, path in runs[i].items():
            rows[", ".join(filter(None, (title, at)))] = path
    return rows
