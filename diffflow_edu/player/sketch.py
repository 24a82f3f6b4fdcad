"""Draw your own: a pad whose drawing becomes a density, which DiffFlow then learns live.

Python keeps the drawing and trains; sketch.js draws. While training runs, small frames of samples
travel to the page, a few a second.
"""

from __future__ import annotations

import contextlib
import contextvars
import io
import math
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import traitlets

from diffflow_edu.figures.style import MODES, bare_square, style
from diffflow_edu.player.drawings import (
    PRESETS,
    THICKEST,
    THINNEST,
    checked_strokes,
    checked_width,
)
from diffflow_edu.player.pack import quantise
from diffflow_edu.player.player import Player, play
from diffflow_edu.player.twin import WidgetWithTwin, small_png
from diffflow_edu.processes.base import Process, Trajectory
from diffflow_edu.processes.diffflow import DiffFlow
from diffflow_edu.schedules import Schedule, check_positive, check_seed, check_whole, shortly
from diffflow_edu.toy.density import Density
from diffflow_edu.toy.strokes import MOST_STROKES, Stroke, from_strokes
from diffflow_edu.training import History, fit

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

LONGEST_TRAINING = 30.0
"""Seconds after which training ends with what it has learned, if the caller gives no other number:
longer, nobody waits for a pad."""

PICTURE_INCHES = 2.6


def sketch(
    drawing: str | Iterable[Stroke] | None = None,
    *,
    width: float = 0.03,
    steps: int = 80,
    warm_start: int = 2000,
    seed: int = 0,
    seconds: float = LONGEST_TRAINING,
) -> SketchPad:
    """A square to draw on; the drawing becomes a density, and a button trains DiffFlow on it.

    drawing: what is on the pad at first: "star", "spiral", "letter", "smile", or strokes, arrays
        (m, 2) of points between −1 and 1, y upwards.
    width: of the brush: the std of the density across a stroke, in half sides of the pad, from
        0.01 to 0.1.
    steps, warm_start, seed: as in `fit`. With the defaults training takes 15 to 20
        seconds on one core.
    seconds: of processor time after which training ends with what it has, so that other work on
        the machine does not shorten it. Where the warm start took more than its share, the drift
        still gets its own, more than half at the defaults.

    Everything works without a browser too:

    >>> pad = sketch("star", steps=1, warm_start=2)
    >>> pad.density().sample(5, seed=0).shape
    torch.Size([5, 2])

    Raises ValueError for an unknown drawing, strokes that are no points of the pad, more than 200
    of them, a width or numbers of steps or seconds that cannot be used.
    """
    return SketchPad(
        drawing, width=width, steps=steps, warm_start=warm_start, seed=seed, seconds=seconds
    )


class SketchPad(WidgetWithTwin):
    """What `sketch` returns: the drawing, its density, and the model that learned it.

    The button trains in a thread of its own, so that Stop is heard and cells can be run meanwhile.
    They share torch's global generator with it: where seeds matter, wait for its end. Training ends
    after `seconds` of processor time with what it has, and says so.
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
        seconds: float = LONGEST_TRAINING,
    ) -> None:
        check_whole("steps", steps)
        check_whole("warm_start", warm_start, least=0)
        check_seed(seed)
        check_positive(seconds=seconds)
        if isinstance(drawing, str):
            if drawing not in PRESETS:
                known = ", ".join(PRESETS)
                raise ValueError(f"unknown drawing {shortly(drawing)}. Known: {known}")
            drawing = PRESETS[drawing]()
        self.model = self.history = None
        self._steps, self._warm_start, self._seed = steps, warm_start, seed
        self._seconds = float(seconds)
        self._learned: Density | None = None
        self._shown: Player | None = None
        self._runs = 0
        self._stop = threading.Event()
        self._only_one = threading.Lock()
        self._thread: threading.Thread | None = None
        super().__init__(
            strokes=checked_strokes(() if drawing is None else drawing),
            width=checked_width(width),
            spec={
                "presets": {name: checked_strokes(make()) for name, make in PRESETS.items()},
                "palette": list(MODES),
                "widths": [THINNEST, THICKEST],
                "line_widths": LINE_WIDTHS,
                "most_strokes": MOST_STROKES,
                "reach": FRAME_REACH / 32767,
                "seconds": self._seconds,
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
        return checked_strokes(proposal["value"])

    @traitlets.validate("width")
    def _check_width(self, proposal: dict[str, Any]) -> float:
        return checked_width(proposal["value"])

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
        Training ends early at a click on Stop and when its seconds are up. Returns the losses and
        times of `fit`.
        Raises ValueError where nothing is drawn, RuntimeError where this pad is training already;
        `model` and `history` then stay what they were.
        """
        density = self.density()
        if not self._begin():
            raise RuntimeError("this pad is training already: press Stop, or wait for its end")
        try:
            return self._learn(density, quiet=False)
        finally:
            self._only_one.release()

    def _begin(self) -> bool:
        """Claim the pad for one run; False where another one is on."""
        if not self._only_one.acquire(blocking=False):
            return False
        self._stop.clear()
        self._runs += 1
        self.progress = self._progress("training")
        return True

    def _learn(self, density: Density, quiet: bool) -> History:
        started, worked = time.perf_counter(), time.thread_time()
        shown_at = -math.inf
        total = self._warm_start + JOINT_COST * self._steps
        limit = self._seconds
        no_bar = contextlib.ExitStack()
        if quiet:
            no_bar.enter_context(contextlib.redirect_stdout(io.StringIO()))

        def show(step: int, model: Process) -> bool:
            nonlocal shown_at, limit
            no_bar.close()  # fit's bar has its stream by now; what other cells print is theirs
            now = time.perf_counter()
            spent = time.thread_time() - worked  # all of it is this thread's: see `_one_thread`
            if step + 1 == self._warm_start:
                limit = max(limit, spent + self._seconds * JOINT_COST * self._steps / total)
            if self._stop.is_set() or spent > limit:
                return True
            if now - shown_at >= FRAME_SECONDS:
                shown_at = now
                done = step + 1
                joint = max(0, done - self._warm_start)
                share = (done - joint + JOINT_COST * joint) / total
                left = (now - started) * (1 - share) / share
                with self.hold_sync():
                    self.samples = self._frame(model, density)
                    self.progress = self._progress(
                        "training", share=share, left=min(left, limit - spent)
                    )
            return False

        try:
            model = _new_model(density, self._seed)
            with _one_thread(), no_bar:
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
        message = self._ending(history, time.perf_counter() - started)
        with self.hold_sync():
            self.samples = self._frame(model, density)
            self.progress = self._progress("done", share=1.0, message=message)
        return history

    def _ending(self, history: History, seconds: float) -> str:
        """How training ended, in words."""
        done, all_steps = len(history.loss), self._warm_start + self._steps
        if done == all_steps:
            return f"Trained in {seconds:.0f} s."
        why = "Stopped" if self._stop.is_set() else "The time is up"
        joint = "" if done > self._warm_start else ", before the drift began to learn"
        return (
            f"{why} after {seconds:.0f} s, at step {done} of {all_steps}{joint}. "
            "This is what was learned by then."
        )

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
        elif kind == "stop":
            self._stop.set()
        elif kind == "train" and content.get("runs") == self._runs:
            # Other counts come from clicks that waited while a run was on.
            self._train_for_the_page(content)

    def _train_for_the_page(self, content: dict[str, Any]) -> None:
        try:
            # The click may overtake the drawing's own message, so it brings the drawing along.
            self.width, self.strokes = content["width"], content["strokes"]
            density = self.density()
        except ValueError as error:
            self.progress = self._progress("error", message=str(error))
            return
        if self._begin():
            # In the kernel's context, so that its messages find their way to the page.
            run = contextvars.copy_context().run
            self._thread = threading.Thread(
                target=run, args=(self._learn_for_the_page, density), daemon=True
            )
            self._thread.start()

    def _learn_for_the_page(self, density: Density) -> None:
        try:
            self._learn(density, quiet=True)  # no cell is there for fit's bar
            self._show_player()
        except Exception:
            return  # no cell is there for a traceback either: `_learn` has told the pad
        finally:
            self._only_one.release()

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
