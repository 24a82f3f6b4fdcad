"""What all pictures share: the palette, the view, the rows, and how particles get their colour."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser
from torch import Tensor

from diffflow_edu.figures.images import check_range
from diffflow_edu.processes.base import Trajectory

MODES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A7A00", "#8C6BB1")
"""One colour per mode; the colour-blind-safe set of Okabe and Ito without black and pale yellow."""

MODELS = {"DDPM": MODES[1], "DiffFlow": MODES[0]}
"""One colour per model, the same in every picture that compares the two."""

NO_MODE = "#8C8C8C"
"""Particles without a mode (a negative label) and without a value (NaN)."""

SHADES = 64  # finer steps than this cannot be told apart on a dot of three pixels

_MATHTEXT = MathTextParser("path")

Color = Callable[[Tensor], Tensor] | Tensor | np.ndarray | Sequence[float] | None


def style() -> AbstractContextManager[None]:
    """The one style of this course, as a context: large type, no grid, no box of spines."""
    settings = sns.axes_style("white") | {
        "font.size": 12,
        "axes.titlesize": 12,
        "axes.labelsize": 12,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#555555",
        "axes.prop_cycle": mpl.cycler(color=MODES),
        "figure.titlesize": 15,
        "figure.dpi": 100,
        "lines.linewidth": 2,
        "legend.frameon": False,
    }
    return mpl.rc_context(settings)


def as_text(words: object) -> str:
    r"""Someone's own words, written so that matplotlib can draw them.

    A line that is valid mathtext stays so; one that only looks like it loses no letter: its
    dollars are drawn as dollars.

    >>> as_text(r"noise $\sigma$"), as_text("cost $a_{b$")
    ('noise $\\sigma$', 'cost \\$a_{b\\$')
    """
    known = str(words).encode("utf-8", "replace").decode()  # half a surrogate pair has no glyph
    return "\n".join(map(_drawable, known.split("\n")))


def as_label(words: object) -> str:
    """`as_text` for a legend, out of which matplotlib leaves what begins with "_".

    A space without width goes before it.
    """
    text = as_text(words)
    return f"\u200b{text}" if text.startswith("_") else text


def _drawable(line: str) -> str:
    if is_math_text(line):
        try:
            _MATHTEXT.parse(line)
        except (ValueError, RecursionError):
            return line.replace("$", r"\$")
    return line


def headline(figure: Figure, title: str | None) -> None:
    """The title above a figure, if there is one."""
    if title:
        figure.suptitle(as_text(title))


def as_panels(
    trajectories: Trajectory | Mapping[str, Trajectory], images: bool = False
) -> dict[str, Trajectory]:
    """Named trajectories of particles in the plane; one trajectory alone gets an empty name.

    images: whether the particles may be images too, states (N + 1, B, H, W) or (N + 1, B, C, H, W)
    with C = 1 or 3 channels. Raises ValueError for an empty dict, for anything but a Trajectory in
    it, for states of another shape, for particles that differ in shape where they are images, and
    for pixels that are levels such as 0 … 255.
    """
    panels = {"": trajectories} if isinstance(trajectories, Trajectory) else trajectories
    if not isinstance(panels, Mapping):
        raise ValueError(
            "trajectories must be a Trajectory or a dict of them, "
            f"got {type(trajectories).__name__}"
        )
    if not panels:
        raise ValueError("trajectories must hold at least one Trajectory, got an empty dict")
    for name, path in panels.items():
        if not isinstance(path, Trajectory):
            raise ValueError(
                f"trajectories[{name!r}] must be a Trajectory, got {type(path).__name__}"
            )
        shape = tuple(path.states.shape)
        if 0 in shape or not (shape[2:] == (2,) or (images and _is_image(shape[2:]))):
            or_images = (
                " or images, states (N + 1, B, H, W) or (N + 1, B, C, H, W) with C = 1 or 3,"
            )
            raise ValueError(
                f"trajectories[{name!r}] must hold points in the plane, states (N + 1, B, 2),"
                f"{or_images if images else ''} got states {shape}"
            )
        if path.states.ndim > 3:
            check_range(path.states[0].detach().cpu().numpy(), f"trajectories[{name!r}]")
    shapes = {name: tuple(path.states.shape[2:]) for name, path in panels.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"trajectories must hold particles of one shape, got {shapes}")
    return {str(name): path for name, path in panels.items()}


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))


def are_images(panels: Mapping[str, Trajectory]) -> bool:
    """Whether the particles of these panels, as `as_panels` gives them, are images."""
    return next(iter(panels.values())).states.ndim > 3


def view_square(points: Iterable[np.ndarray]) -> tuple[float, float, float]:
    """(centre x, centre y, half side) of a square that shows the points, arrays (..., 2).

    A few particles that ran away would shrink everything else to a dot, so the square reaches at
    most 8 % beyond the central 99.8 % of the coordinates; particles farther out are not in view.

    >>> view_square([np.array([[-1.0, 0.0], [1.0, 0.5]])])
    (0.0, 0.25, 1.05)
    """
    flat = np.concatenate([np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in points])
    flat = flat[np.isfinite(flat).all(axis=1)]
    if not len(flat):
        return 0.0, 0.0, 1.0
    # Halved before subtracting: the span of two large finite numbers may overflow.
    low, high = flat.min(axis=0) / 2, flat.max(axis=0) / 2
    inner_low, inner_high = np.quantile(flat / 2, (0.001, 0.999), axis=0)
    room = 0.08 * (inner_high - inner_low).max()
    low, high = np.maximum(low, inner_low - room), np.minimum(high, inner_high + room)
    half = float((high - low).max()) or 1.0
    return float((low + high)[0]), float((low + high)[1]), 1.05 * half


def spread_indices(n: int, most: int) -> np.ndarray:
    """At most `most` of the indices 0 … n − 1, evenly spread and always the same.

    >>> spread_indices(9, 3)
    array([0, 4, 8])
    """
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).round().astype(np.int64)


def particle_colors(
    starts: Mapping[str, Tensor], color: Color = None
) -> tuple[list[str], dict[str, np.ndarray]]:
    """A palette of hex colours, and for every panel the palette index (B,) of each particle.

    starts: the data side (B, 2) of each panel. color: whole numbers are modes and take the
    qualitative palette, floats take a sequential map on one scale for all panels, a callable is
    applied to each panel's start, an array is shared by all panels, None gives one colour.
    Raises ValueError unless there is one value per particle.
    """
    if color is None:
        return [MODES[0]], {name: np.zeros(len(x), np.uint8) for name, x in starts.items()}
    values = {
        name: _one_value_each(color(x) if callable(color) else color, len(x))
        for name, x in starts.items()
    }
    if all(v.dtype.kind in "iub" for v in values.values()):
        indices = {
            name: np.where(v.astype(np.int64) < 0, len(MODES), v.astype(np.int64) % len(MODES))
            for name, v in values.items()
        }
        palette = [*MODES, NO_MODE]
    else:
        every = np.concatenate([v.astype(np.float64) for v in values.values()])
        finite = every[np.isfinite(every)]
        low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
        scale = (SHADES - 1) / ((high - low) or 1.0)
        indices = {
            name: np.where(np.isfinite(v), np.rint((v - low) * scale), SHADES)
            for name, v in values.items()
        }
        # The ends of the map are cut: they vanish on a white and on a black page.
        shades = mpl.colormaps["plasma"](np.linspace(0.12, 0.86, SHADES))
        palette = [*(mpl.colors.to_hex(shade) for shade in shades), NO_MODE]
    return palette, {name: v.astype(np.uint8) for name, v in indices.items()}


def _one_value_each(values: object, n: int) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.shape != (n,):
        raise ValueError(f"color must hold one value per particle, ({n},), got {array.shape}")
    if array.dtype.kind not in "iubf":
        raise ValueError(f"color must hold whole numbers or floats, got {array.dtype}")
    return array


def digits_for(times: np.ndarray) -> int:
    """Decimals that tell the times of one grid apart: 2 for T = 1, 4 for T = 0.05.

    >>> digits_for(np.array([0.0, 1.0])), digits_for(np.array([0.001, 0.05]))
    (2, 4)
    """
    longest = float(np.abs(times).max())
    if not math.isfinite(longest) or longest == 0:
        return 2
    return int(np.clip(2 - math.floor(math.log10(longest)), 0, 6))


def bare_square(axes: Axes, view: tuple[float, float, float]) -> None:
    """Equal aspect, the given view, a hairline frame and no ticks: distances matter, not digits."""
    x, y, half = view
    axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half), xticks=[], yticks=[])
    axes.set_aspect("equal")
    for spine in axes.spines.values():
        spine.set(visible=True, color="#D0D0D0", linewidth=0.8)
