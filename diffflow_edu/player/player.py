"""Python describes the particles, JavaScript draws them.

All frames travel once, as 16-bit integers in one buffer; after that the kernel is not needed, so
the player stays smooth on a slow connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import traitlets

from diffflow_edu.figures.images import RANGE_IN_WORDS
from diffflow_edu.figures.style import are_images, digits_for, spread_indices
from diffflow_edu.figures.trajectories import alt_text, film_strip
from diffflow_edu.player import export
from diffflow_edu.player.dials import models_at, settings_of, unfold
from diffflow_edu.player.fields import check_fields, exact_density, pack_fields
from diffflow_edu.player.futures import answer, models_of
from diffflow_edu.player.lattice import check_lattice, pack_lattice
from diffflow_edu.player.measure import step_metrics
from diffflow_edu.player.pack import (
    LARGEST,
    REACH,
    Colors,
    colorings,
    pack_images,
    pack_points,
    quantise,
    script,
)
from diffflow_edu.player.twin import WidgetWithTwin, small_png, write
from diffflow_edu.processes.base import Process, Trajectory
from diffflow_edu.processes.diffflow import DiffFlow
from diffflow_edu.schedules import check_positive, check_whole, shortly
from diffflow_edu.toy import Density

FILM_STRIP_SETTINGS = 3
FILM_STRIP_POINTS = 1500
PHOTOGRAPH_COLORS = 256
"""Of a film strip of colour images; a few dozen would tint them."""

NO_VIEW = (0.0, 0.0, 1.0)
"""Images have no place in the plane."""


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
    fields: Mapping[str, Any] | None = None,
    grid: Mapping[str, Any] | None = None,
) -> Player:
    """Watch particles travel between data and noise, one panel per trajectory, side by side.

    Click a particle to see its way in every panel, drag a box to follow a region. "futures" drops a
    point anywhere, at any step: the ways on to the noise and back to the data through it, each with
    noise of its own, computed by the models in `fields` and `grid` where a kernel runs, and else
    those of the particles that are nearest. The key f fills the screen, Esc leads back.

    trajectories: one Trajectory, or a dict of them by panel title; states (N + 1, B, 2), or images
        (N + 1, B, H, W) or (N + 1, B, C, H, W) with C = 1 or 3 and pixels from −1 to 1, with the
        same N and B in every panel. ``{"N": {5: panels, 10: panels}}`` puts a dial under the
        picture, a slider that can be played; the settings may differ in N.
    color: whole numbers (B,) are modes, floats (B,) a scale, a callable such as ``density.mode``
        is applied to each trajectory's data side; None gives one colour. A dict of these by name
        gives the reader the choice. The angle at which a particle starts is always on offer.
    title: stands above the panels.
    direction: "forward" starts at the data, "backward" at the noise.
    fps: steps a second when playing; by default the whole way takes 4 s.
    autoplay: start playing at once, unless the reader's system asks for less motion.
    max_points: at most so many particles are shown in a panel, evenly picked; of images at most
        36, and in all panels no more than 2.4 MB.
    density: what the particles should look like at t = 0; adds the colours "mode" and
        "log-density", and below each panel the sliced W2 to it and to N(0, I) and the leak, at
        every step, as numbers and as curves; the density underlay is then exact at t = 0.
    fields: models by panel title, whose drift, score and backward drift can be shown as arrows, as
        long as the square root of the vector, on one scale for all panels and steps. With a dial
        they hold at every setting, or are nested as the trajectories are. Where the arrows take
        more than 0.4 MB, some steps show those of a step nearby.
    grid: flows by panel title, or nested too: a regular lattice on the data side can be shown as
        the flow carries it. A process with noise is a ValueError.

    Images take none of color, density, fields and grid. Returns a widget; where none can run, its
    film strip and its text are shown. Raises ValueError for trajectories that do not fit together,
    colours of the wrong length, and bad options.

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
        grid=grid,
    )


class Player(WidgetWithTwin):
    """What `play` returns: the widget, its film strip, and the film strip in words."""

    _esm = script()

    frames = traitlets.Bytes().tag(sync=True)
    """For each run, one after another: int16, little-endian, (N + 1, panels, points, 2), or of
    images uint8 (N + 1, panels, images, H, W, C)."""

    colors = traitlets.Bytes().tag(sync=True)
    """uint8, (colourings, runs, panels, points): indices into the palettes of `spec`."""

    arrows = traitlets.Bytes().tag(sync=True)
    """int8, (kinds, steps, GRID², 2) for each model: see `fields.arrows`."""

    lattice = traitlets.Bytes().tag(sync=True)
    """int16, (N + 1, lines², 2) for each flow: see `lattice.pack_lattice`."""

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
        fields: Mapping[str, Any] | None = None,
        grid: Mapping[str, Any] | None = None,
    ) -> None:
        dials, runs = unfold(trajectories)
        if direction not in ("forward", "backward"):
            raise ValueError(f"direction must be 'forward' or 'backward', got {shortly(direction)}")
        if fps is not None:
            check_positive(fps=fps)
        check_whole("max_points", max_points)
        if density is not None and not isinstance(density, Density):
            raise ValueError(f"density must be a toy density, got {type(density).__name__}")
        self._trajectories, self._title = _rows(dials, runs), title
        self._models: list[dict[int, Process]] = [{} for _ in runs]
        self._color = next(iter(color.values()), None) if isinstance(color, Mapping) else color
        if are_images(runs[0]):
            wanted = {"color": color, "density": density, "fields": fields, "grid": grid}
            buffers, spec = _images(runs, wanted, max_points)
        else:
            arrowed = models_at("fields", fields or {}, dials)
            warped = models_at("grid", grid or {}, dials)
            for run, models, flows in zip(runs, arrowed, warped, strict=True):
                check_fields(models, run)
                check_lattice(flows, run)
            self._models = models_of(list(runs[0]), arrowed, warped)
            choices = colorings(runs, color, density)
            buffers, spec = _points(runs, choices, density, arrowed, warped, max_points)
        times = [np.stack([p.to_numpy()[0] for p in run.values()]) for run in runs]
        for run, at in zip(spec["runs"], times, strict=True):
            run["times"] = at.tolist()
        spec |= {
            "panels": list(runs[0]),
            "dials": [{"name": name, "values": values} for name, values in dials.items()],
            "digits": digits_for(np.concatenate([t.ravel() for t in times])),
            "title": title or "",
            "direction": direction,
            "fps": fps,
            "autoplay": autoplay,
            "alt": self.alt,
            "futures": any(self._models),
        }
        super().__init__(**buffers, spec=spec)
        self.on_msg(self._hear)

    def _hear(self, _: Any, content: dict[str, Any], buffers: Any) -> None:
        """The page asks for the futures of a point."""
        if content.get("type") != "futures":
            return
        run = content["run"]
        steps = self.spec["runs"][run]["frames"] - 1
        told, ways = answer(self._models[run], tuple(self.spec["view"]), steps, content)
        self.send({"type": "futures", "question": content["question"]} | told, buffers=ways)

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
        in_colour = next(iter(self._trajectories.values())).states.shape[2:-2] == (3,)
        return small_png(figure, PHOTOGRAPH_COLORS) if in_colour else small_png(figure)

    def save_html(self, path: str | Path) -> None:
        """Write one page that plays without a kernel and without a network."""
        write(Path(path), export.page(self).encode("utf-8", "replace"))

    def save_gif(self, path: str | Path, fps: float = export.FPS) -> None:
        """Write a GIF of every step. Raises ValueError for fps <= 0."""
        export.film(self, path, "pillow", fps)

    def save_mp4(self, path: str | Path, fps: float = export.FPS) -> None:
        """Write an MP4 of every step.

        Raises ValueError for fps <= 0 and RuntimeError where the program ffmpeg is missing.
        """
        export.film(self, path, "ffmpeg", fps)


Packed = tuple[dict[str, bytes], dict[str, Any]]
"""The buffers of a player, and its own part of the spec."""


def _points(
    runs: list[dict[str, Trajectory]],
    choices: list[tuple[str, list[str], list[np.ndarray]]],
    density: Density | None,
    fields: list[Mapping[str, DiffFlow]],
    grid: list[Mapping[str, Process]],
    most: int,
) -> Packed:
    states, keep, view = pack_points(runs, most)
    described, offset = [], 0
    for each in states:
        metrics = []
        if density is not None:
            metrics = [step_metrics(panel, density) for panel in each.swapaxes(0, 1)]
        lost = (~np.isfinite(each).all(axis=3)).any(axis=0).sum(axis=1)
        described.append(
            {"frames": len(each), "offset": offset, "missing": lost.tolist(), "metrics": metrics}
        )
        offset += each.size
    x, y, half = view
    drawn, field_spec = pack_fields(fields, list(runs[0]), view)
    carried, lattice_spec = pack_lattice(grid, runs, view)
    buffers = {
        "frames": b"".join(quantise(s, (x, y), REACH * half).tobytes() for s in states),
        "colors": b"".join(c[keep].tobytes() for _, _, each in choices for c in each),
        "arrows": drawn,
        "lattice": carried,
        "exact": exact_density(density, view).tobytes() if density else b"",
    }
    return buffers, {
        "points": len(keep),
        "runs": described,
        "colorings": [{"name": name, "palette": palette} for name, palette, _ in choices],
        "fields": field_spec,
        "lattice": lattice_spec,
        "reach": REACH / LARGEST,  # one quantum, in half sides of the visible square
        "view": list(view),
    }


def _images(runs: list[dict[str, Trajectory]], wanted: dict[str, object], most: int) -> Packed:
    for name, value in wanted.items():
        if value is not None:
            raise ValueError(f"{name} is for points in the plane; images show their own pixels")
    packed, keep, sizes = pack_images(runs, most)
    described, offset = [], 0
    for each in packed:
        lost = (each == 0).any(axis=(3, 4, 5)).any(axis=0).sum(axis=1)
        described.append(
            {"frames": len(each), "offset": offset, "missing": lost.tolist(), "metrics": []}
        )
        offset += each.size
    return {"frames": b"".join(each.tobytes() for each in packed)}, {
        "points": len(keep),
        "runs": described,
        "colorings": [],
        "fields": pack_fields([{} for _ in runs], list(runs[0]), NO_VIEW)[1],
        "lattice": pack_lattice([{} for _ in runs], runs, NO_VIEW)[1],
        "images": sizes | {"range": RANGE_IN_WORDS},
        "reach": 0.0,
        "view": list(NO_VIEW),
    }


def _rows(
    dials: Mapping[str, list[str]], runs: list[dict[str, Trajectory]]
) -> dict[str, Trajectory]:
    """The film strip's rows: the panels, at a few settings of the dials that tell their range."""
    settings = settings_of(dials)
    rows = {}
    for i in spread_indices(len(runs), FILM_STRIP_SETTINGS):
        at = ", ".join(f"{name} = {value}" for name, value in settings[i].items())
        for title, path in runs[i].items():
            rows[", ".join(filter(None, (title, at)))] = path
    return rows
