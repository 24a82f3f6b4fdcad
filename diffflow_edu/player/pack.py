"""What travels to the page: the script, positions or pixels as small integers, and the colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import seaborn as sns
import torch

from diffflow_edu.figures.images import columns_for, image_bytes
from diffflow_edu.figures.style import (
    NO_MODE,
    SHADES,
    Color,
    particle_colors,
    spread_indices,
    view_square,
)
from diffflow_edu.processes.base import Trajectory
from diffflow_edu.toy import Density

SCRIPTS = (
    "page.js", "layout.js", "draw.js", "images.js", "fields.js", "curves.js", "follow.js",
    "futures.js", "player.js",
)  # fmt: skip
"""One module when put together in this order; anywidget takes one string."""

REACH = 4.0
"""Frames cover this many times the visible square: particles leave it smoothly, not at its edge."""

LARGEST = 32767
MISSING = -32768
"""Stands for NaN and infinite coordinates; the only value that no position takes."""

IMAGE_BYTES = 2_400_000
"""So many bytes of images are sent at most: 32 of MNIST's size in 3 panels and 31 frames."""

MOST_IMAGES = 36
"""More of them in one panel are too small to be told apart."""

Square = tuple[float, float, float]
"""Centre x, centre y and half side of what a panel shows, as `view_square` gives them."""

Colors = Color | Mapping[str, Color]
"""One way to colour the particles, or several by name."""


def script() -> str:
    """The player's ES module, without the lines that are comments: each player carries it."""
    here = Path(__file__).parent
    text = "\n".join((here / name).read_text(encoding="utf-8") for name in SCRIPTS)
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


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


def pack_points(
    runs: Sequence[Mapping[str, Trajectory]], most: int
) -> tuple[list[np.ndarray], np.ndarray, Square]:
    """States (N + 1, panels, points, 2) of every run, the particles kept, and the view."""
    first = next(iter(runs[0].values()))
    keep = spread_indices(first.states.shape[1], most)
    states = [np.stack([p.to_numpy()[1][:, keep] for p in run.values()], 1) for run in runs]
    return states, keep, view_square(states)


def pack_images(
    runs: Sequence[Mapping[str, Trajectory]], most: int
) -> tuple[list[np.ndarray], np.ndarray, dict[str, int]]:
    """Bytes (N + 1, panels, images, H, W, C) of every run, the images kept, and their sizes.

    As many images as fit into `IMAGE_BYTES`, at most `MOST_IMAGES`. Raises ValueError where not
    even one fits.
    """
    first = next(iter(runs[0].values()))
    every = first.states.shape[1]
    channels = first.states.shape[2] if first.states.ndim == 5 else 1
    height, width = first.states.shape[-2:]
    one = sum(len(path) for run in runs for path in run.values()) * height * width * channels
    if one > IMAGE_BYTES:
        raise ValueError(
            f"trajectories: one image of {height} × {width} pixels at every step takes "
            f"{one / 1e6:.1f} MB, allowed are {IMAGE_BYTES / 1e6:g}; "
            "pass every k-th step, Trajectory(path.times[::k], path.states[::k])"
        )
    keep = spread_indices(every, min(most, MOST_IMAGES, IMAGE_BYTES // one))
    packed = [
        np.stack([image_bytes(p.to_numpy()[1][:, keep]) for p in run.values()], 1) for run in runs
    ]
    sizes = {"height": height, "width": width, "channels": channels, "of": every}
    return packed, keep, sizes | {"columns": columns_for(len(keep), height, width)}
