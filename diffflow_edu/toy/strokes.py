"""Hand-drawn strokes as a density."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from diffflow_edu.schedules import shortly

from .curves import Curves
from .density import Density

Stroke = Tensor | np.ndarray | Sequence[Sequence[float]]

THINNEST = 1e-4
"""Least width in units of the drawing's extent: below it, float32 samples no longer resolve it."""

SIMPLIFY = 0.25
"""Points closer than so many widths to the line without them are left out: a hand's tremor is not
worth the time that each segment costs, and under the blur nobody sees it."""

MOST_POINTS = 1000
"""Of a drawing that are kept at most, the ones that shape it most: a scribble of 200 000 would make
a density that takes minutes."""

MOST_STROKES = 200
"""Of a drawing: each keeps its two ends, whatever it costs."""

DASH = 2.0
"""A dot, a stroke shorter than so many widths, becomes a horizontal dash of that length: without
length it would get no particles."""


def from_strokes(strokes: Iterable[Stroke], width: float = 0.03) -> Density:
    """The density of a drawing: a uniform point on the strokes, blurred by a Gaussian.

    strokes: arrays (m, 2) of points to be joined by straight lines, in units of your choice. A
        stroke's share of the particles is its length; the mode is the stroke's index. Points
        within a quarter of a width of the line without them are dropped, all but the 1000 of the
        drawing that shape it most too, and a dot becomes a dash two widths long. At most 200
        strokes.
    width: std of the blur, in the units of the strokes.

    The result is normalised to unit scale like every set of `load`: x = (raw − shift) / scale.
    Raises ValueError without strokes, for too many, for one that is not (m, 2) finite numbers with
    m ≥ 1, and for a width that is not positive, or too thin for the drawing's extent in float32.

    >>> cross = from_strokes([[[-1, 0], [1, 0]], [[0, -1], [0, 1]]], width=0.05)
    >>> x = cross.sample(1000, seed=0)
    >>> cross.mode(x).unique().tolist(), cross.leaked(x).any().item()
    ([0, 1], False)
    >>> cross
    toy.from_strokes(<2 strokes>, width=0.05)
    """
    lines = [_checked_stroke(stroke, i) for i, stroke in enumerate(strokes)]
    if not lines:
        raise ValueError("strokes must hold at least one stroke, got none")
    width = _checked_width(width, torch.cat(lines))
    lines = _simplified_together(lines, SIMPLIFY * width, MOST_POINTS)
    return Strokes([_as_polyline(line, width) for line in lines], width)


class Strokes(Curves):
    """What `from_strokes` builds. polylines: (m, 2) float64, one a stroke."""

    def __init__(self, polylines: Sequence[Tensor], width: float) -> None:
        super().__init__("strokes", polylines, range(len(polylines)), width)

    def __repr__(self) -> str:
        count = f"{self.n_modes} stroke{'' if self.n_modes == 1 else 's'}"
        return f"toy.from_strokes(<{count}>, width={self.width:g})"


def simplified(line: Tensor, tolerance: float, most: int | None = None) -> Tensor:
    """The points (m, 2) without those that lie within tolerance of the line through the others.

    Ramer (1972), Douglas and Peucker (1973): keep the ends and the point farthest from the chord
    between them, then the same on either side; where more than `most` would be kept, those that
    lie farthest from the line without them.

    >>> simplified(torch.tensor([[0.0, 0.0], [1.0, 0.001], [2.0, 0.0], [2.0, 1.0]]), 0.01).tolist()
    [[0.0, 0.0], [2.0, 0.0], [2.0, 1.0]]
    """
    return _simplified_together([line], tolerance, most)[0]


def _simplified_together(
    lines: Sequence[Tensor], tolerance: float, most: int | None
) -> list[Tensor]:
    """Each line `simplified`; `most` points are shared by all, and every line keeps its ends."""
    keeps = [torch.zeros(len(line), dtype=torch.bool) for line in lines]
    # A heap of spans, the one with the largest error on top.
    spans: list[tuple[float, int, int, int, int]] = []

    def look_at(number: int, first: int, last: int) -> None:
        if last - first >= 2:
            line = lines[number]
            distance = _distance_to_segment(line[first + 1 : last], line[first], line[last])
            if distance.max() > tolerance:
                middle = first + 1 + int(distance.argmax())
                heapq.heappush(spans, (-float(distance.max()), number, first, middle, last))

    for number, keep in enumerate(keeps):
        keep[0] = keep[-1] = True
        look_at(number, 0, len(keep) - 1)
    room = sum(map(len, lines)) if most is None else most - 2 * len(lines)
    while spans and room > 0:
        _, number, first, middle, last = heapq.heappop(spans)
        keeps[number][middle] = True
        room -= 1
        look_at(number, first, middle)
        look_at(number, middle, last)
    return [line[keep] for line, keep in zip(lines, keeps, strict=True)]


def _distance_to_segment(points: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    step = end - begin
    along = ((points - begin) @ step) / step.square().sum().clamp_min(1e-300)
    nearest = begin + along.clamp(0, 1)[:, None] * step
    return torch.linalg.vector_norm(points - nearest, dim=1)


def _as_polyline(line: Tensor, width: float) -> Tensor:
    moved = torch.cat([torch.tensor([True]), (line.diff(dim=0) != 0).any(dim=1)])
    line = line[moved]
    if torch.linalg.vector_norm(line.diff(dim=0), dim=1).sum() >= DASH * width:
        return line
    half = torch.tensor([DASH / 2 * width, 0.0], dtype=torch.float64)
    middle = (line[0] + line[-1]) / 2
    return torch.stack([middle - half, middle + half])


def check_room(i: int) -> None:
    """Raise a ValueError unless a drawing may have a stroke of index i."""
    if i >= MOST_STROKES:
        raise ValueError(
            f"strokes must be at most {MOST_STROKES}, got more: a density takes time for each, at "
            "every point. Leave some out, or join them"
        )


def _checked_stroke(stroke: Stroke, i: int) -> Tensor:
    check_room(i)
    try:
        line = torch.as_tensor(np.asarray(stroke, dtype=np.float64))
    except (TypeError, ValueError):
        raise ValueError(f"strokes[{i}] must hold points (m, 2), got {shortly(stroke)}") from None
    if line.ndim != 2 or line.shape[1] != 2 or len(line) == 0:
        raise ValueError(
            f"strokes[{i}] must have shape (m, 2) with m >= 1, got {tuple(line.shape)}"
        )
    if not line.isfinite().all():
        raise ValueError(f"strokes[{i}] must be finite, got a NaN or an infinite coordinate")
    return line


def _checked_width(width: float, points: Tensor) -> float:
    try:
        value = float(width)
    except (TypeError, ValueError):
        raise ValueError(f"width must be a number, got {shortly(width)}") from None
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"width must be positive and finite, got {shortly(width)}")
    extent = float((points.amax(0) - points.amin(0)).max())
    if value < THINNEST * extent:
        raise ValueError(
            f"width must be at least {THINNEST} of the drawing's extent {extent:g} "
            f"(float32 samples), got {shortly(width)}"
        )
    return value
