"""A map of log p that can be probed: point at it, and read what a model and the truth say there.

Python evaluates the densities once on a grid; probe.js draws the maps and reads them, without a
kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
import traitlets
from torch import Tensor

from diffflow_edu.figures.likelihood import PROBE, highest, log_p_colors, log_p_maps
from diffflow_edu.player.twin import WidgetWithTwin, small_png
from diffflow_edu.schedules import check_whole, shortly

SHADES = 128
Square = tuple[float, float, float]
"""Centre x, centre y and half side."""


def cell_centres(view: Square, cells: int) -> Tensor:
    """The centres of cells × cells squares over the view, (cells², 2), row by row upwards.

    >>> cell_centres((0.0, 0.0, 1.0), 2)
    tensor([[-0.5000, -0.5000],
            [ 0.5000, -0.5000],
            [-0.5000,  0.5000],
            [ 0.5000,  0.5000]])
    """
    x, y, half = view
    offsets = ((torch.arange(cells) + 0.5) / cells * 2 - 1) * half
    return torch.cartesian_prod(offsets + y, offsets + x).flip(1)


def decimals(width: float) -> int:
    """How many a coordinate needs to tell cells of this width apart, with one to spare.

    >>> decimals(0.1), decimals(0.006)
    (2, 4)
    """
    return max(2, math.ceil(-math.log10(width)) + 1)


def probe(
    maps: Mapping[str, Callable[[Tensor], Tensor] | Tensor],
    view: Square,
    cells: int = 50,
    probes: Iterable[Sequence[float]] = (),
    title: str | None = None,
    depth: float = 8.0,
) -> ProbeMap:
    """Maps of log p side by side; the pointer reads all of them at once, a click pins a probe.

    maps: by name, log p (B, 2) -> (B,) in nats, evaluated at `cell_centres(view, cells)`, or its
        values there, (cells², ). view: centre x, centre y and half side of the square. probes:
        points (x, y) pinned at the start. depth: the colours end so many nats below the top.

    Returns a widget; where none can run, a picture with the probes is shown. Raises ValueError for
    an empty dict, values of the wrong shape, and a view, probes or depth that are not finite.

    >>> probe({"hill": lambda x: -x.square().sum(1)}, view=(0, 0, 2), cells=4, title="One hill")
    One hill. A map of log p in nats: hill, 4 × 4 cells of the square of half side 2 around (0, 0).
    """
    return ProbeMap(maps, view, cells, probes, title, depth)


class ProbeMap(WidgetWithTwin):
    """What `probe` returns: the maps, and the probes that are pinned to them."""

    _esm = Path(__file__).with_name("probe.js").read_text(encoding="utf-8")

    values = traitlets.Bytes().tag(sync=True)
    """float32, little-endian, (maps, cells, cells), rows upwards: log p in nats."""

    probes = traitlets.List().tag(sync=True)
    """The pinned points, [x, y] each; the page adds to them, and so may you."""

    spec = traitlets.Dict().tag(sync=True)
    """Names, view, decimals of a coordinate and colours, as probe.js needs them."""

    def __init__(
        self,
        maps: Mapping[str, Callable[[Tensor], Tensor] | Tensor],
        view: Square,
        cells: int = 50,
        probes: Iterable[Sequence[float]] = (),
        title: str | None = None,
        depth: float = 8.0,
    ) -> None:
        if not isinstance(maps, Mapping) or not maps:
            raise ValueError(f"maps must hold at least one density by name, got {shortly(maps)}")
        check_whole("cells", cells)
        square = _finite(view, 3)
        if square is None or not square[2] > 0:
            raise ValueError(f"view must be (x, y, half side > 0), all finite, got {shortly(view)}")
        height = _finite([depth], 1)
        if height is None or not height[0] > 0:
            raise ValueError(f"depth must be a finite number > 0, in nats, got {shortly(depth)}")
        points = _points(probes)
        self._view, self._depth = square, height[0]
        self._title, self.cells = title, cells
        self.maps = {str(name): self._grid(name, each) for name, each in maps.items()}
        shades = log_p_colors()(np.linspace(0, 1, SHADES))
        spec = {
            "names": list(self.maps),
            "view": list(self._view),
            "cells": cells,
            "decimals": decimals(2 * self._view[2] / cells),
            "top": highest(self.maps),
            "depth": self._depth,
            "palette": [mpl.colors.to_hex(shade) for shade in shades],
            "probe": PROBE,
            "title": title or "",
            "alt": self.alt,
        }
        stacked = np.stack(list(self.maps.values())).astype("<f4")
        super().__init__(values=stacked.tobytes(), probes=points, spec=spec)

    def _grid(self, name: str, each: Callable[[Tensor], Tensor] | Tensor) -> np.ndarray:
        if callable(each):
            with torch.no_grad():
                each = each(cell_centres(self._view, self.cells))
        values = torch.as_tensor(each).detach().cpu()
        if values.numel() != self.cells**2:
            raise ValueError(
                f"maps[{name!r}] must give one log p a cell, {self.cells**2}, "
                f"got shape {tuple(values.shape)}"
            )
        return values.double().reshape(self.cells, self.cells).numpy()

    def read(self, point: Sequence[float]) -> dict[str, float] | None:
        """log p of every map in the cell that holds the point (x, y), or None outside the view.

        Raises ValueError for anything but two finite numbers.
        """
        place = _finite(point, 2)
        if place is None:
            raise ValueError(f"point must be (x, y), two finite numbers, got {shortly(point)}")
        x, y, half = self._view
        column, row = (
            int(np.floor((c - m + half) / (2 * half) * self.cells))
            for c, m in zip(place, (x, y), strict=True)
        )
        if not (0 <= column < self.cells and 0 <= row < self.cells):
            return None
        return {name: float(grid[row, column]) for name, grid in self.maps.items()}

    def mass(self) -> dict[str, float]:
        """∫ p over the view, by name: the mean of exp(log p) times the area."""
        area = (2 * self._view[2]) ** 2
        return {name: float(np.exp(grid).mean()) * area for name, grid in self.maps.items()}

    @property
    def alt(self) -> str:
        """The picture in words; depends on names and view only."""
        x, y, half = self._view
        head = f"{self._title}. " if self._title else ""
        what = "A map" if len(self.maps) == 1 else "Maps"
        return (
            f"{head}{what} of log p in nats: {', '.join(self.maps)}, {self.cells} × {self.cells} "
            f"cells of the square of half side {half:.3g} around ({x:.3g}, {y:.3g})."
        )

    @cached_property
    def png(self) -> bytes:
        """The maps with the probes as a PNG, in more colours than particles need."""
        figure = log_p_maps(self.maps, self._view, self.probes, self._title, self._depth)
        return small_png(figure, colors=192)


def _finite(value: Any, count: int) -> tuple[float, ...] | None:
    """`count` finite numbers as floats, or None for anything else."""
    try:
        found = tuple(math.nan if isinstance(each, str) else float(each) for each in value)
    except (TypeError, ValueError, RuntimeError):  # a tensor of many numbers: RuntimeError
        return None
    return found if len(found) == count and all(map(math.isfinite, found)) else None


def _points(probes: Any) -> list[list[float]]:
    try:
        found = [_finite(point, 2) for point in probes]
    except TypeError:
        found = [None]
    if None in found:
        raise ValueError(
            f"probes must be points (x, y), two finite numbers each, got {shortly(probes)}"
        )
    return [list(point) for point in found]
