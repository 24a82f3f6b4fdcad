"""The picture of training: loss against steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from diffflow_edu.figures.style import MODES, as_label, headline, style


class History(Protocol):
    """What `fit` returns, as far as this picture goes."""

    loss: Sequence[float]


def loss_curve(history: History | Mapping[str, History], title: str | None = None) -> Figure:
    """Loss against steps: every value faint, a running mean on top.

    history: has ``loss`` (and maybe ``steps``, the step of each value), or a dict of such. The
    first steps are far above the rest, so the picture is cut above what matters. Raises
    ValueError for an empty dict, an empty loss, or steps of another length than loss.
    """
    runs = history if isinstance(history, Mapping) else {"": history}
    if not runs:
        raise ValueError("history must hold at least one run, got an empty dict")
    curves = {str(name): _curve(run, str(name)) for name, run in runs.items()}
    with style():
        figure, axes = plt.subplots(figsize=(7, 4.1 if title else 3.8), layout="constrained")
        for (name, (steps, loss)), color in zip(curves.items(), _colors(len(curves)), strict=True):
            axes.plot(steps, loss, color=color, alpha=0.25, lw=0.8)
            axes.plot(steps, _running_mean(loss), color=color, label=as_label(name))
        axes.set_ylim(*_limits([loss for _, loss in curves.values()]))
        measures = {getattr(run, "measure", "nats") for run in runs.values()}
        unit = measures.pop() if len(measures) == 1 else "nats"
        axes.set(xlabel="training step", ylabel=f"loss {unit}" if "(" in unit else f"loss [{unit}]")
        axes.margins(x=0.01)
        if len(curves) > 1:
            axes.legend()
        headline(figure, title)
    return figure


def _curve(run: History, name: str) -> tuple[np.ndarray, np.ndarray]:
    where = f"history[{name!r}]" if name else "history"
    loss = np.asarray(run.loss, dtype=np.float64)
    if loss.ndim != 1 or not len(loss):
        raise ValueError(f"{where}.loss must be a list of numbers, got shape {loss.shape}")
    recorded = getattr(run, "steps", None)
    # `steps` may also be a plain count in a history that records every step.
    steps = np.arange(1, len(loss) + 1) if np.ndim(recorded) == 0 else np.asarray(recorded)
    if steps.shape != loss.shape:
        raise ValueError(
            f"{where}.steps and .loss must be equally long, got {len(steps)} and {len(loss)}"
        )
    return steps, loss


def _running_mean(loss: np.ndarray) -> np.ndarray:
    """Mean over a centred window of 1/25 of the run; shorter at the ends, blind to NaN."""
    reach = max(1, len(loss) // 50)
    finite = np.isfinite(loss)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, loss, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    low = np.maximum(np.arange(len(loss)) - reach, 0)
    high = np.minimum(np.arange(len(loss)) + reach + 1, len(loss))
    n = count[high] - count[low]
    return np.where(n > 0, (total[high] - total[low]) / np.maximum(n, 1), np.nan)


def _limits(losses: Sequence[np.ndarray]) -> tuple[float, float]:
    """From the lowest value to what all but the first tenth of every run stays below."""
    settled = [loss[len(loss) // 10 :] for loss in losses]
    settled = [s[np.isfinite(s)] for s in settled]
    settled = [s for s in settled if len(s)]
    if not settled:
        return 0.0, 1.0
    low = min(float(s.min()) for s in settled)
    high = max(float(np.quantile(s, 0.99)) for s in settled)
    room = 0.08 * (high - low) or 1.0
    return low - room, high + room


def _colors(n: int) -> list[str]:
    return [MODES[i % len(MODES)] for i in range(n)]
