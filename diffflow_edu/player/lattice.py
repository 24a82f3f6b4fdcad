"""The warped grid: a regular lattice on the data side, carried along by a flow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from diffflow_edu.figures.style import view_square
from diffflow_edu.player.pack import REACH, Square, quantise
from diffflow_edu.processes.base import Process, Trajectory

LINES = 25
"""Lines of the lattice each way."""

LATTICE_BYTES = 400_000
"""So many bytes of lattices are sent at most; where there would be more, they have fewer lines."""

FEWEST_LINES = 5


def check_lattice(grid: Mapping[str, Process], panels: Mapping[str, Trajectory]) -> None:
    """Raise a ValueError unless every model, by panel title, is a flow that made its panel."""
    for name, model in grid.items():
        if name not in panels:
            raise ValueError(f"grid[{name!r}] has no panel; the panels are {list(panels)}")
        if not isinstance(model, Process):
            raise ValueError(f"grid[{name!r}] must be a flow, got {type(model).__name__}")
        times = panels[name].times
        few = panels[name].start[:4]
        ways = [_encode(name, model, few, seed) for seed in (0, 1)]
        if not torch.allclose(ways[0].states, ways[1].states, equal_nan=True):
            raise ValueError(
                f"grid[{name!r}] must be a deterministic process such as a CouplingFlow or a CNF, "
                f"got a {type(model).__name__}: noise carries a lattice nowhere in particular"
            )
        made = ways[0].times.to(times)
        if made.shape != times.shape or not torch.allclose(made, times, atol=1e-5):
            raise ValueError(
                f"grid[{name!r}] must encode in the steps of its panel, got {len(made) - 1} and "
                f"{len(times) - 1} steps, or other times"
            )


def pack_lattice(
    grid: Sequence[Mapping[str, Process]], runs: Sequence[Mapping[str, Trajectory]], view: Square
) -> tuple[bytes, dict[str, Any]]:
    """The lattices of every run's flows at every step, and where the page finds them.

    grid: flows by panel title for each run. A lattice covers the data side of its run's panels. The
    bytes are int16 (N + 1, LINES², 2) for each flow, like the particles'.
    """
    steps = sum(len(run[name]) for run, flows in zip(runs, grid, strict=True) for name in flows)
    lines = LINES
    if steps:
        lines = max(FEWEST_LINES, min(LINES, math.isqrt(LATTICE_BYTES // (4 * steps))))
    sent, places = b"", []
    x, y, half = view
    for run, flows in zip(runs, grid, strict=True):
        points = lattice(lines, view_square(p.start.detach().cpu().numpy() for p in run.values()))
        here = {}
        for name, model in flows.items():
            carried = _encode(name, model, torch.from_numpy(points).to(run[name].start), 0)
            here[list(run).index(name)] = len(sent) // 2
            sent += quantise(carried.to_numpy()[1], (x, y), REACH * half).tobytes()
        places.append(here)
    return sent, {"lines": lines, "runs": places}


def lattice(lines: int, square: Square) -> np.ndarray:
    """The crossings of lines × lines lines over a square, (lines², 2), row by row from below.

    >>> lattice(2, (0.0, 0.0, 1.0)).tolist()
    [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]
    """
    x, y, half = square
    along = np.linspace(-half, half, lines)
    across, up = np.meshgrid(x + along, y + along)
    return np.stack([across.ravel(), up.ravel()], axis=1)


def _encode(name: str, model: Process, x: torch.Tensor, seed: int) -> Trajectory:
    try:
        with torch.no_grad():
            return model.encode(x, seed=seed)
    except NotImplementedError:
        raise ValueError(
            f"grid[{name!r}] must be a flow, got a {type(model).__name__}, which has no encode"
        ) from None
