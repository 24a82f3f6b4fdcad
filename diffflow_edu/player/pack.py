"""What travels to the page: the script, the positions as small integers, and the colours."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import seaborn as sns
import torch

from diffflow_edu.figures.style import NO_MODE, SHADES, Color, as_panels, particle_colors
from diffflow_edu.processes.base import Trajectory
from diffflow_edu.toy import Density

SCRIPTS = ("page.js", "draw.js", "fields.js", "player.js")
"""One module when put together in this order; anywidget takes one string."""

REACH = 4.0
"""Frames cover this many times the visible square: particles leave it smoothly, not at its edge."""

LARGEST = 32767
MISSING = -32768
"""Stands for NaN and infinite coordinates; the only value that no position takes."""

Colors = Color | Mapping[str, Color]
"""One way to colour the particles, or several by name."""


def script() -> str:
    """The player's ES module."""
    here = Path(__file__).parent
    return "\n".join((here / name).read_text(encoding="utf-8") for name in SCRIPTS)


def unfold(trajectories: object) -> tuple[dict[str, list[str]], list[dict[str, Trajectory]]]:
    """The dials of a nested dict, and the panels for every setting of them, last dial fastest.

    A dict with one name and a dict of settings is a dial, ``{"N": {5: panels, 10: panels}}``, and
    panels are what `as_panels` takes. Dials nest: each setting may hold another dial. Raises
    ValueError unless every setting offers the same dials, panels and number of particles, and the
    panels of one setting the same number of steps.
    """
    runs = _unfold(trajectories)
    (_, first), *_ = runs
    _check_alike(first)
    for setting, panels in runs[1:]:
        where = ", ".join(f"{dial} = {value}" for dial, value in setting.items())
        _check_alike(panels)
        if list(panels) != list(first):
            raise ValueError(
                "trajectories must have the same panels at every setting of a dial, got "
                f"{list(first)} and, at {where}, {list(panels)}"
            )
        counts = [next(iter(p.values())).states.shape[1] for p in (first, panels)]
        if counts[0] != counts[1]:
            raise ValueError(
                "trajectories must have the same number of particles at every setting of a dial, "
                f"got {counts[0]} and, at {where}, {counts[1]}"
            )
    names = list(runs[0][0])
    dials = {name: list(dict.fromkeys(s.get(name) for s, _ in runs)) for name in names}
    every = [dict(zip(names, values, strict=True)) for values in itertools.product(*dials.values())]
    if [setting for setting, _ in runs] != every:
        raise ValueError(
            "trajectories must offer the same dials, with the same settings, at every setting of "
            f"an outer dial, got {[setting for setting, _ in runs]}"
        )
    return dials, [panels for _, panels in runs]


def _unfold(trajectories: object) -> list[tuple[dict[str, str], dict[str, Trajectory]]]:
    nested = isinstance(trajectories, Mapping) and any(
        isinstance(value, Mapping) for value in trajectories.values()
    )
    if not nested:
        return [({}, as_panels(trajectories))]
    if len(trajectories) != 1:
        raise ValueError(
            "trajectories: a dial is a dict with one name, such as {'N': {5: …, 10: …}}; "
            f"got the names {list(trajectories)}"
        )
    ((name, settings),) = trajectories.items()
    if not settings:
        raise ValueError(f"trajectories: the dial {name!r} must have at least one setting")
    return [
        ({str(name): str(value)} | inner, panels)
        for value, below in settings.items()
        for inner, panels in _unfold(below)
    ]


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


def colorings(
    runs: Sequence[Mapping[str, Trajectory]], color: Colors, density: Density | None = None
) -> list[tuple[str, list[str], list[np.ndarray]]]:
    """Every way to colour the particles: its name, its palette, and indices (B,) into it.

    runs: trajectories by panel; the indices come run by run and panel by panel. The first way is
    the caller's own. Scales are shared by all panels of all runs. Raises ValueError for colours
    that are not one per particle.
    """
    starts = {(i, name): path.start for i, run in enumerate(runs) for name, path in run.items()}
    wanted = dict(color) if isinstance(color, Mapping) else {"as given": color}
    if not wanted:
        raise ValueError("color must hold at least one way to colour, got an empty dict")
    if color is None:
        wanted = {"one colour": None}
    if density is not None:
        # Stray particles, thousands of nats down, would leave one shade to all the others.
        least = -density.entropy() - 6.0

        def log_density(x: torch.Tensor) -> torch.Tensor:
            return density.log_prob(x).clamp_min(least)

        wanted = wanted | {"mode": density.mode, "log-density": log_density}
    made = []
    for name, values in wanted.items():
        palette, indices = particle_colors(starts, values)
        made.append((str(name), palette, list(indices.values())))
    # Hues of one lightness, because the scale closes: it has no light and no dark end.
    palette = [*sns.husl_palette(SHADES, s=0.85, l=0.6).as_hex(), NO_MODE]
    made.append(("starting angle", palette, [start_angle(x) for x in starts.values()]))
    return made


def start_angle(start: torch.Tensor) -> np.ndarray:
    """The angle of each start (B, 2) seen from their mean, as one of `SHADES` steps; uint8 (B,).

    >>> start_angle(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])).tolist()
    [32, 0, 48, 16]
    """
    x = start.detach().cpu().double().numpy()
    there = np.isfinite(x).all(axis=1)
    centre = x[there].mean(axis=0) if there.any() else 0.0
    across, up = np.where(there[:, None], x - centre, 0.0).T
    turn = np.arctan2(up, across) / (2 * np.pi) + 0.5
    return np.where(there, np.rint(turn * SHADES) % SHADES, SHADES).astype(np.uint8)


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
