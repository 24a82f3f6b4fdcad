"""Draw your own: a pad whose drawing becomes a density, which DiffFlow then learns live.

Python keeps the drawing and trains; sketch.js draws. While training runs, small frames of samples
travel to the page, a few a second.
"""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import traitlets

from diffflow_edu.figures.style import MODES, bare_square, style
from diffflow_edu.player.pack import quantise
from diffflow_edu.player.player import Player, play
from diffflow_edu.player.twin import WidgetWithTwin, small_png
from diffflow_edu.processes.base import Process, Trajectory
from diffflow_edu.processes.diffflow import DiffFlow
from diffflow_edu.schedules import Schedule
from diffflow_edu.toy.density import Density
from diffflow_edu.toy.strokes import Stroke, from_strokes
from diffflow_edu.training import History, fit

THINNEST, THICKEST = 0.01, 0.1
"""Brush widths in half sides of the pad: thinner takes longer to learn than a reader waits."""

LINE_WIDTHS = 4.0
"""A line is drawn so many stds thick: 95 % of the density lies under it."""

GRID_STEPS = 20
R_MAX = 4.0
BATCH = 512
JOINT_COST = 30.0
"""Seconds of one joint step over those of a warm-start step, as measured; for the progress bar."""

FRAME_PARTICLES = 1000
FRAME_SECONDS = 0.35
FRAME_REACH = 1.3
"""Samples on the canvas cover this many times the pad; it clips them at its edge."""

PICTURE_INCHES = 2.6


def _star() -> list[np.ndarray]:
    turn = 4 * math.pi / 5 * np.arange(6)
    return [0.85 * np.stack([np.sin(turn), np.cos(turn)], axis=1)]


def _spiral() -> list[np.ndarray]:
    angle = np.linspace(0.3, 5 * math.pi, 90)
    return [(0.85 / angle[-1] * angle * np.stack([np.cos(angle), np.sin(angle)])).T]


def _letter() -> list[np.ndarray]:
    legs = np.array([[-0.65, -0.8], [0.0, 0.8], [0.65, -0.8]])
    bar = np.array([[-0.4, -0.2], [0.4, -0.2]])
    return [legs, bar]


def _smile() -> list[np.ndarray]:
    angle = np.linspace(0, 2 * math.pi, 60)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = circle[30:][5:-5]
    eyes = [0.09 * circle + (x, 0.3) for x in (-0.32, 0.32)]
    return [0.85 * circle, 0.5 * lower + (0, 0.02), *eyes]


PRESETS = {"star": _star, "spiral": _spiral, "letter": _letter, "smile": _smile}
"""Drawings to start from, also for those who do not draw with a pointer."""


def sketch(
    drawing: str | Iterable[Stroke] | None = None,
    *,
    width: float = 0.03,
    steps: int = 80,
    warm_start: int = 2000,
    seed: int = 0,
) -> SketchPad:
    """A square to draw on; the drawing becomes a density, and a button trains DiffFlow on it.

    drawing: what is on the pad at first: "star", "spiral", "letter", "smile", or strokes, arrays
        (m, 2) of points between −1 and 1, y upwards.
    width: of the brush: the std of the density across a stroke, in half sides of the pad, from
        0.01 to 0.1.
    steps, warm_start, seed: as in `fit`. With the defaults training takes 15 to 20
        seconds on one core.

    Everything works without a browser too:

    >>> pad = sketch("star", steps=1, warm_start=2)
    >>> pad.density().sample(5, seed=0).shape
    torch.Size([5, 2])

    Raises ValueError for an unknown drawing, strokes that are no points of the pad, a width or
    numbers of steps that cannot be used.
    """
    return SketchPad(drawing, width=width, steps=steps, warm_start=warm_start, seed=seed)


class SketchPad(WidgetWithTwin):
    """What `sketch` returns: the drawing, its density, and the model that learned it.

    The button trains in the kernel's main thread, so the notebook's other cells wait; the kernel's
    interrupt stops it. Clicks during training are ignored.
    """

    _esm = Path(__file__).with_name("sketch.js")

    strokes = traitlets.Any().tag(sync=True)
    """The drawing: a list of strokes, each a list of points [x, y] between −1 and 1, y upwards.

    Assign a new list to change it; arrays (m, 2) are taken too, anything else is a ValueError.
    """

    width = traitlets.Any(0.03).tag(sync=True)
    """The brush: the density's std across a stroke, in half sides of the pad."""

    spec = traitlets.Dict().tag(sync=True)
    """Presets, palette and the small numbers that sketch.js needs."""

    progress = traitlets.Dict().tag(sync=True)
    """Where training stands: state ("idle", "training", "done", "stopped", "error"), share from 0
    to 1, seconds left, a message, and how many runs there have been."""

    samples = traitlets.Bytes().tag(sync=True)
    """int16, little-endian, (particles, 3): x and y on the pad, and the mode. Empty: no samples."""

    player = traitlets.Unicode().tag(sync=True)
    """The widget shown under the pad after a click on Train, as anywidget refers to it."""

    model: Process | None
    """The DiffFlow of the last finished training, None before."""

    history: History | None
    """The numbers of the last finished training, None before."""

    def __init__(
        self,
        drawing: str | Iterable[Stroke] | None = None,
        *,
        width: float = 0.03,
        steps: int = 80,
        warm_start: int = 2000,
        seed: int = 0,
    ) -> None:
        for name, value, least in (("steps", steps, 1), ("warm_start", warm_start, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number, {least} or more, got {value!r}")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ValueError(f"seed must be a whole number, got {seed!r}")
        if isinstance(drawing, str):
            if drawing not in PRESETS:
                known = ", ".join(PRESETS)
                raise ValueError(f"unknown drawing {drawing!r}. Known: {known}")
            drawing = PRESETS[drawing]()
        self.model = self.history = None
        self._steps, self._warm_start, self._seed = steps, warm_start, seed
        self._learned: Density | None = None
        self._shown: Player | None = None
        self._runs = 0
        super().__init__(
            strokes=_checked_strokes(() if drawing is None else drawing),
            width=_checked_width(width),
            spec={
                "presets": {name: _checked_strokes(make()) for name, make in PRESETS.items()},
                "palette": list(MODES),
                "widths": [THINNEST, THICKEST],
                "line_widths": LINE_WIDTHS,
                "reach": FRAME_REACH / 32767,
            },
            progress=self._progress("idle"),
        )
        self.on_msg(self._hear)

    # The drawing ---------------------------------------------------------------------------------

    def density(self) -> Density:
        """The drawing as a density with the interface of `toy`; the mode is the stroke's index.

        Raises ValueError where nothing is drawn.
        """
        if not self.strokes:
            raise ValueError(
                "the pad is empty: draw a stroke, choose a drawing from the list, "
                "or set strokes in Python"
            )
        return from_strokes(self.strokes, self.width)

    @traitlets.validate("strokes")
    def _check_strokes(self, proposal: dict[str, Any]) -> list[list[list[float]]]:
        return _checked_strokes(proposal["value"])

    @traitlets.validate("width")
    def _check_width(self, proposal: dict[str, Any]) -> float:
        return _checked_width(proposal["value"])

    @traitlets.default("strokes")
    def _no_strokes(self) -> list[list[list[float]]]:
        return []

    @traitlets.observe("strokes", "width")
    def _forget_samples(self, change: dict[str, Any]) -> None:
        # They belong to another drawing. The model stays until the next training.
        if self.progress and self.progress["state"] != "idle":
            with self.hold_sync():
                self.samples = b""
                self.progress = self._progress("idle")

    # Training ------------------------------------------------------------------------------------

    def train(self) -> History:
        """Train a new DiffFlow on the drawing; the pad shows samples on the way.

        The model has `GRID_STEPS` steps on a log-SNR grid whose finest noise follows the brush.
        Returns the losses and times of `fit`.
        Raises ValueError where nothing is drawn; `model` and `history` then stay what they were.
        """
        density = self.density()
        self._runs += 1
        started = time.perf_counter()
        shown_at = -math.inf
        total = self._warm_start + JOINT_COST * self._steps

        def show(step: int, model: Process) -> None:
            nonlocal shown_at
            now = time.perf_counter()
            if now - shown_at < FRAME_SECONDS:
                return
            shown_at = now
            done = step + 1
            joint = max(0, done - self._warm_start)
            share = (done - joint + JOINT_COST * joint) / total
            with self.hold_sync():
                self.samples = self._frame(model, density)
                self.progress = self._progress(
                    "training", share=share, left=(now - started) * (1 - share) / share
                )

        self.progress = self._progress("training")
        try:
            model = _new_model(density, self._seed)
            with _one_thread():
                history = fit(
                    model,
                    density,
                    steps=self._steps,
                    warm_start=self._warm_start,
                    batch_size=BATCH,
                    seed=self._seed,
                    callback=show,
                )
        except KeyboardInterrupt:
            self.progress = self._progress("stopped", message="Training was interrupted.")
            raise
        except Exception as error:
            self.progress = self._progress("error", message=f"Training failed: {error}")
            raise
        self.model, self.history, self._learned = model, history, density
        with self.hold_sync():
            self.samples = self._frame(model, density)
            self.progress = self._progress(
                "done", share=1.0, message=f"Trained in {time.perf_counter() - started:.0f} s."
            )
        return history

    def trajectory(self, n: int = 2000, seed: int = 0) -> Trajectory:
        """n particles from noise to the drawing; states (N + 1, n, 2) in the density's unit scale.

        Raises ValueError before the first training.
        """
        return self._trained().sample(n, seed=seed)

    def play(self, n: int = 2000, seed: int = 0, **options: Any) -> Player:
        """The player on `trajectory(n, seed)`, coloured by stroke; options go to `play`."""
        path = self.trajectory(n, seed)
        learned = self._learned
        usual = {"color": {"mode": learned.mode}, "density": learned, "direction": "backward"}
        return play({"DiffFlow on your drawing": path}, **usual | options)

    def _trained(self) -> Process:
        if self.model is None:
            raise ValueError("nothing has been learned yet: press Train or call train() first")
        return self.model

    def _frame(self, model: Process, density: Density) -> bytes:
        """Samples as `samples` holds them."""
        x = model.sample(FRAME_PARTICLES, seed=self._seed).start
        raw = (x.double() * density.scale + density.shift).numpy()
        there = np.isfinite(raw).all(axis=1)
        points = quantise(raw[there], (0.0, 0.0), FRAME_REACH)
        modes = density.mode(x[torch.from_numpy(there)]).numpy() if there.any() else np.zeros(0)
        return np.column_stack([points, modes]).astype("<i2").tobytes()

    def _progress(
        self, state: str, share: float = 0.0, left: float | None = None, message: str = ""
    ) -> dict[str, Any]:
        return {
            "state": state, "share": share, "left": left, "message": message, "runs": self._runs,
        }  # fmt: skip

    # The page ------------------------------------------------------------------------------------

    def _hear(self, _: Any, content: dict[str, Any], buffers: Any) -> None:
        kind = content.get("type")
        if kind == "ping":
            self.send({"type": "pong"})
        elif kind == "train" and content.get("runs") == self._runs:
            # Other counts come from clicks that waited while a run was on.
            self._train_for_the_page(content)

    def _train_for_the_page(self, content: dict[str, Any]) -> None:
        try:
            # The click may overtake the drawing's own message, so it brings the drawing along.
            self.width, self.strokes = content["width"], content["strokes"]
            self.density()
        except ValueError as error:
            self.progress = self._progress("error", message=str(error))
            return
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # no cell is there for fit's bar
                self.train()
        except (Exception, KeyboardInterrupt):
            return  # no cell is there for a traceback either: train has told the pad
        self._show_player()

    def _show_player(self) -> None:
        before, self._shown = self._shown, self.play()
        self.player = f"anywidget:{self._shown.model_id}"
        if before is not None:
            before.close()

    @property
    def alt(self) -> str:
        """The pad in words."""
        count = len(self.strokes)
        if not count:
            return "Sketch pad, empty."
        strokes = f"{count} stroke{'' if count == 1 else 's'}"
        text = f"Sketch pad with {strokes}, brush width {self.width:g}"
        return text + (", and samples of the model trained on it." if self.samples else ".")

    @property
    def png(self) -> bytes:
        """The drawing, and the samples of a model trained on it, as a small PNG."""
        panels = 2 if self.samples else 1
        with style():
            figure, grid = plt.subplots(
                1,
                panels,
                figsize=(PICTURE_INCHES * panels, PICTURE_INCHES),
                squeeze=False,
                layout="constrained",
            )
            for axes in grid[0]:
                bare_square(axes, (0.0, 0.0, 1.0))
            points_a_unit = PICTURE_INCHES * 72 / 2
            for i, stroke in enumerate(self.strokes):
                grid[0, 0].plot(
                    *np.asarray(stroke).T,
                    color=MODES[i % len(MODES)],
                    linewidth=LINE_WIDTHS * self.width * points_a_unit,
                    solid_capstyle="round",
                    solid_joinstyle="round",
                    marker="o" if len(stroke) == 1 else None,
                )
            if not self.strokes:
                grid[0, 0].text(0, 0, "an empty sketch pad", ha="center", va="center")
            if self.samples:
                rows = np.frombuffer(self.samples, "<i2").reshape(-1, 3)
                x, y = rows[:, :2].T * (FRAME_REACH / 32767)
                grid[0, 1].scatter(x, y, s=2.4, c=np.asarray(MODES)[rows[:, 2] % len(MODES)], lw=0)
            return small_png(figure)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Nets this small gain little from a second thread, and on a busy or a rented machine, which
    lists more cores than it gives, threads that wait for each other cost tenfold."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _new_model(density: Density, seed: int) -> DiffFlow:
    """A fresh DiffFlow; its finest noise is half a brush, in the density's unit scale."""
    r_min = min(0.5 * density.width / density.scale, 0.5)
    schedule = Schedule.log_snr(GRID_STEPS, r_min=r_min, r_max=R_MAX)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DiffFlow.mlp(schedule, learn_backward_std=True)


def _checked_strokes(strokes: Iterable[Stroke]) -> list[list[list[float]]]:
    if isinstance(strokes, str) or not isinstance(strokes, Iterable):
        raise ValueError(f"strokes must be a list of strokes (m, 2), got {strokes!r:.80}")
    checked = []
    for i, stroke in enumerate(strokes):
        try:
            points = np.asarray(stroke, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"strokes[{i}] must hold points (m, 2), got {stroke!r:.80}") from None
        if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
            raise ValueError(f"strokes[{i}] must have shape (m, 2) with m >= 1, got {points.shape}")
        if not (np.abs(points) <= 1).all():  # false for a NaN, too
            worst = points.flat[np.argmax(np.nan_to_num(np.abs(points), nan=np.inf))]
            raise ValueError(f"strokes[{i}] must lie on the pad, from -1 to 1, got {worst:g}")
        checked.append(points.tolist())
    return checked


def _checked_width(width: float) -> float:
    try:
        value = float(width)
    except (TypeError, ValueError):
        raise ValueError(f"width must be a number, got {width!r}") from None
    if not THINNEST <= value <= THICKEST:
        raise ValueError(
            f"width must be from {THINNEST} to {THICKEST} half sides of the pad, got {width!r}"
        )
    return value
