"""Drawings for the sketch pad: the ones to start from, and what counts as one."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch

from diffflow_edu.schedules import shortly
from diffflow_edu.toy.strokes import MOST_POINTS, SIMPLIFY, Stroke, check_room, simplified

THINNEST, THICKEST = 0.01, 0.1
"""Brush widths in half sides of the pad: thinner takes longer to learn than a reader waits."""


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


def checked_strokes(strokes: Iterable[Stroke]) -> list[list[list[float]]]:
    """Strokes (m, 2) as lists that JSON can hold. Raises ValueError unless they lie on the pad,
    and for more than `MOST_STROKES`.

    Of a stroke of more than `MOST_POINTS`, those are kept that shape it most.
    """
    if isinstance(strokes, str) or not isinstance(strokes, Iterable):
        raise ValueError(f"strokes must be a list of strokes (m, 2), got {shortly(strokes)}")
    checked = []
    for i, stroke in enumerate(strokes):
        check_room(i)
        try:
            points = np.asarray(stroke, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(
                f"strokes[{i}] must hold points (m, 2), got {shortly(stroke)}"
            ) from None
        if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
            raise ValueError(f"strokes[{i}] must have shape (m, 2) with m >= 1, got {points.shape}")
        if not (np.abs(points) <= 1).all():  # false for a NaN, too
            worst = points.flat[np.argmax(np.nan_to_num(np.abs(points), nan=np.inf))]
            raise ValueError(f"strokes[{i}] must lie on the pad, from -1 to 1, got {worst:g}")
        if len(points) > MOST_POINTS:
            line = torch.from_numpy(points)
            points = simplified(line, SIMPLIFY * THINNEST, MOST_POINTS)
        checked.append(points.tolist())
    return checked


def checked_width(width: float) -> float:
    """The width of a brush as a float. Raises ValueError outside `THINNEST` … `THICKEST`."""
    try:
        value = float(width)
    except (TypeError, ValueError):
        raise ValueError(f"width must be a number, got {shortly(width)}") from None
    if not THINNEST <= value <= THICKEST:
        raise ValueError(
            f"width must be from {THINNEST} to {THICKEST} half sides of the pad, "
            f"got {shortly(width)}"
        )
    return value
