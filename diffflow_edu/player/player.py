"""Python describes the particles, player.js draws them.

All frames travel once, as 16-bit integers in one buffer; after that the kernel is not needed, so
the player stays smooth on a slow connection.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import anywidget
import matplotlib.pyplot as plt
import numpy as np
import traitlets
from PIL import Image

from diffflow_edu.figures.style import (
    Color,
    as_panels,
    digits_for,
    particle_colors,
    spread_indices,
    view_square,
)
from diffflow_edu.figures.trajectories import alt_text, film_strip
from diffflow_edu.processes.base import Trajectory

REACH = 4.0
"""Frames cover this many times the visible square: particles leave it smoothly, not at its edge."""

LARGEST = 32767
MISSING = -32768
"""Stands for NaN and infinite coordinates; the only value that no position takes."""

FILM_STRIP_COLORS = 32
FILM_STRIP_DPI = 90
FILM_STRIP_POINTS = 1500


def play(
    trajectories: Trajectory | Mapping[str, Trajectory],
    color: Color = None,
    *,
    title: str | None = None,
    direction: str = "forward",
    fps: float | None = None,
    autoplay: bool = False,
    max_points: int = 2000,
) -> Player:
    """Watch particles travel between data and noise, one panel per trajectory, side by side.

    trajectories: one Trajectory, or a dict of them by panel title; states (N + 1, B, 2), with the
        same N and B in every panel.
    color: whole numbers (B,) are modes, floats (B,) a scale, a callable such as ``density.mode``
        is applied to each trajectory's data side; None gives one colour.
    title: a line above the panels, best a finding.
    direction: "forward" plays data → noise, "backward" noise → data; the slider always has the
        data on its left.
    fps: steps of the trajectory per second, the drawing glides between them; without it a whole
        run takes four seconds.
    autoplay: start by itself, unless the reader asked their system for reduced motion.
    max_points: at most so many particles per panel, evenly picked, the same ones in every panel.

    Space plays and pauses, ← and → step, Home and End jump. Where no kernel runs (GitHub, nbviewer,
    an HTML export) a film strip takes the player's place. Raises ValueError for an empty dict,
    panels that differ in steps or particles, states that are not points in the plane, colours of
    the wrong length, fps ≤ 0, max_points < 1 or an unknown direction.
    """
    return Player(
        trajectories,
        color,
        title=title,
        direction=direction,
        fps=fps,
        autoplay=autoplay,
        max_points=max_points,
    )


class Player(anywidget.AnyWidget):
    """What `play` returns: the widget, its film strip, and the film strip in words."""

    _esm = Path(__file__).with_name("player.js")

    frames = traitlets.Bytes().tag(sync=True)
    """int16, little-endian, (N + 1, panels, points, 2): `spec` holds the square they cover."""

    colors = traitlets.Bytes().tag(sync=True)
    """uint8, (panels, points): indices into the palette of `spec`."""

    spec = traitlets.Dict().tag(sync=True)
    """Titles, times, palette and the small numbers that player.js needs."""

    def __init__(
        self,
        trajectories: Trajectory | Mapping[str, Trajectory],
        color: Color = None,
        *,
        title: str | None = None,
        direction: str = "forward",
        fps: float | None = None,
        autoplay: bool = False,
        max_points: int = 2000,
    ) -> None:
        panels = as_panels(trajectories)
        _check_alike(panels)
        if direction not in ("forward", "backward"):
            raise ValueError(f"direction must be 'forward' or 'backward', got {direction!r}")
        if fps is not None and not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"fps must be positive, got {fps}")
        if max_points < 1:
            raise ValueError(f"max_points must be at least 1, got {max_points}")
        palette, indices = particle_colors({k: p.start for k, p in panels.items()}, color)

        arrays = [path.to_numpy() for path in panels.values()]
        keep = spread_indices(arrays[0][1].shape[1], max_points)
        states = np.stack([states[:, keep] for _, states in arrays], axis=1)
        times = np.stack([times for times, _ in arrays])
        x, y, half = view_square([states])
        self._trajectories, self._color, self._title = panels, color, title
        super().__init__(
            frames=quantise(states, (x, y), REACH * half).tobytes(),
            colors=np.stack([indices[name][keep] for name in panels]).tobytes(),
            spec={
                "panels": list(panels),
                "frames": len(times[0]),
                "points": len(keep),
                "times": times.tolist(),
                "digits": digits_for(times),
                "palette": palette,
                "reach": REACH / LARGEST,  # one quantum, in half sides of the visible square
                "missing": (~np.isfinite(states).all(axis=3)).any(axis=0).sum(axis=1).tolist(),
                "title": title or "",
                "direction": direction,
                "fps": fps if fps is not None else max(len(times[0]) - 1, 1) / 4.0,
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
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=FILM_STRIP_DPI)
        plt.close(figure)
        image = Image.open(drawn).convert("RGB").quantize(FILM_STRIP_COLORS)
        packed = io.BytesIO()
        image.save(packed, format="png", optimize=True)
        return packed.getvalue()

    def save_png(self, path: str | Path) -> None:
        """Write the film strip to a file."""
        Path(path).write_bytes(self.png)

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The widget, and beside it the film strip and its words for pages without a kernel."""
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle
        data = data | {"text/plain": self.alt, "image/png": self.png}
        return data, metadata | {"image/png": {"alt": self.alt}}


def quantise(states: np.ndarray, centre: tuple[float, float], reach: float) -> np.ndarray:
    """Coordinates (..., 2) as int16 within centre ± reach; beyond it they stop at the border.

    The error inside is at most half a quantum, reach / 65534. A particle with a NaN or infinite
    coordinate has `MISSING` in both.

    >>> quantise(np.array([[0.0, 1.0], [np.nan, 0.0]]), (0.0, 0.0), 1.0).tolist()
    [[0, 32767], [-32768, -32768]]
    """
    there = np.isfinite(states).all(axis=-1, keepdims=True)
    scaled = (np.where(there, states, 0.0).astype(np.float64) - centre) / reach
    whole = np.rint(np.clip(scaled, -1.0, 1.0) * LARGEST)
    return np.where(there, whole, MISSING).astype("<i2")


def _check_alike(panels: Mapping[str, Trajectory]) -> None:
    first, *others = panels
    n, b = panels[first].states.shape[:2]
    for name in others:
        other_n, other_b = panels[name].states.shape[:2]
        if (other_n, other_b) != (n, b):
            raise ValueError(
                "trajectories must have the same number of steps and particles in every panel, got "
                f"{n - 1} steps × {b} particles in {first!r} and "
                f"{other_n - 1} steps × {other_b} particles in {name!r}"
            )
