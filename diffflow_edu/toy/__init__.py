"""2-D densities with exact truth: what the models learn, and what they are measured against.

>>> density = load("olympic_rings", width=0.01)
>>> x = density.sample(1000, seed=0)
>>> x.shape, density.log_prob(x).shape, density.mode(x).unique().tolist()
(torch.Size([1000, 2]), torch.Size([1000]), [0, 1, 2, 3, 4])
>>> abs(density.log_prob(x).mean().item() + density.entropy()) < 0.1
True
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffflow_edu.schedules import shortly

from .boxes import Boxes
from .curves import Curves
from .density import Density
from .gaussians import Gaussians
from .rings import Rings
from .strokes import from_strokes

__all__ = ["Density", "from_strokes", "load", "names"]

MIN_WIDTH = 1e-4  # thinner than this, float32 samples no longer resolve the width
MAX_RING_WIDTH = 0.2  # wider than this, a ring of radius 1 is all but a disc


def names() -> list[str]:
    """The names that `load` knows.

    >>> names()[:3]
    ['ring', 'rotated_gaussian', 'four_rings']
    """
    return list(_CATALOGUE)


def load(name: str, **kwargs: float) -> Density:
    """Build a density by name. `width`, in units of the ring's radius, where the set has one.

    Raises ValueError for an unknown name (and names the nearest known one), for a width that is
    not positive, too thin for float32 or too wide for a ring, and for any other argument.

    >>> load("ring", width=-0.1)
    Traceback (most recent call last):
    ValueError: width must be positive, got -0.1
    """
    if not isinstance(name, str) or name not in _CATALOGUE:
        near = difflib.get_close_matches(str(name).lower(), _CATALOGUE, n=1, cutoff=0.3)
        hint = f": did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"unknown density {shortly(name)}{hint} Known: {', '.join(_CATALOGUE)}")
    build = _CATALOGUE[name]
    takes = list(inspect.signature(build).parameters)
    for argument in kwargs:
        if argument not in takes:
            has = f"it takes {', '.join(takes)}" if takes else "it takes no arguments"
            raise ValueError(f"{name} has no {argument}: {has}")
    if "width" in kwargs:
        kwargs["width"] = _checked_width(kwargs["width"])
    return build(**kwargs)


def _checked_width(width: float) -> float:
    try:
        value = float(width)
    except (TypeError, ValueError):
        raise ValueError(f"width must be a number, got {shortly(width)}") from None
    if not value > 0:
        raise ValueError(f"width must be positive, got {shortly(width)}")
    if math.isinf(value):
        raise ValueError(f"width must be positive and finite, got {shortly(width)}")
    if value < MIN_WIDTH:
        raise ValueError(
            f"width must be at least {MIN_WIDTH} (float32 samples), got {shortly(width)}"
        )
    return value


def _rings(name: str, centres: list[tuple[float, float]], width: float) -> Rings:
    if width > MAX_RING_WIDTH:
        raise ValueError(
            f"width of a ring of radius 1 must be at most {MAX_RING_WIDTH}, got {shortly(width)}"
        )
    return Rings(name, centres, width)


def _ring(width: float = 0.01) -> Density:
    return _rings("ring", [(0, 0)], width)


def _rotated_gaussian(width: float = 0.001) -> Density:
    """The paper's first toy: a 1-D Gaussian N(1, 0.001²) rotated about the centre."""
    return _rings("rotated_gaussian", [(0, 0)], width)


def _four_rings(width: float = 0.01) -> Density:
    return _rings("four_rings", [(x, y) for y in (1.25, -1.25) for x in (-1.25, 1.25)], width)


def _olympic_rings(width: float = 0.01) -> Density:
    """Three rings above, two below; each of the lower two crosses two of the upper."""
    return _rings("olympic_rings", [(-2.2, 0), (0, 0), (2.2, 0), (-1.1, -1), (1.1, -1)], width)


def _checkerboard() -> Density:
    """The eight squares of one colour on a 4 × 4 board; the mode is the square's index."""
    i, j = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    filled = (i + j) % 2 == 0
    labels = filled.flatten().cumsum(0).reshape(4, 4) - 1
    return Boxes("checkerboard", filled, labels)


def _two_spirals(width: float = 0.02) -> Density:
    """Two Archimedean arms, r = θ / 3π from a sixth of a turn outwards; the mode is the arm."""
    angle = torch.linspace(math.pi / 3, 3 * math.pi, 121, dtype=torch.float64)
    arm = torch.stack([angle.cos(), angle.sin()], dim=1) * angle[:, None] / (3 * math.pi)
    return Curves("two_spirals", [arm, -arm], [0, 1], width)


def _eight_gaussians(width: float = 0.05) -> Density:
    """Eight Gaussians on a circle of radius 1; the mode is the Gaussian's index."""
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    return Gaussians("eight_gaussians", torch.stack([angle.cos(), angle.sin()], dim=1), width)


def _two_moons(width: float = 0.05) -> Density:
    """Two interlocking half circles of radius 1; the mode is the moon."""
    angle = torch.linspace(0, math.pi, 65, dtype=torch.float64)
    upper = torch.stack([angle.cos(), angle.sin()], dim=1)
    lower = torch.tensor([1.0, 0.5], dtype=torch.float64) - upper
    return Curves("two_moons", [upper, lower], [0, 1], width)


def _fractal_tree(width: float = 0.01) -> Density:
    """A trunk of length 1 that forks seven times.

    The mode is 0 on the trunk and its first fork, then 1 to 4 for the limbs that grow from there.
    """
    branches: list[tuple[Tensor, int]] = []

    def grow(foot: Tensor, heading: float, length: float, forks: int, label: int) -> None:
        direction = torch.tensor([math.sin(heading), math.cos(heading)], dtype=torch.float64)
        tip = foot + length * direction
        branches.append((torch.stack([foot, tip]), 0 if forks > 5 else label))
        if forks > 0:
            for side in (0, 1):
                # The first two forks decide the limb: 1, 2 on the left, 3, 4 on the right.
                limb = {7: 1 + 2 * side, 6: label + side}.get(forks, label)
                turn = math.radians(28) * (2 * side - 1)
                grow(tip, heading + turn, 0.72 * length, forks - 1, limb)

    grow(torch.zeros(2, dtype=torch.float64), 0.0, 1.0, forks=7, label=0)
    lines, labels = zip(*branches, strict=True)
    return Curves("fractal_tree", lines, labels, width)


def _sierpinski_carpet() -> Density:
    """Divide a square in nine, drop the middle one, and again: four times, 8⁴ squares.

    The mode is which of the eight squares of the first division the point is in.
    """
    nine = torch.ones(3, 3, dtype=torch.bool)
    nine[1, 1] = False
    filled = torch.ones(1, 1, dtype=torch.bool)
    for _ in range(4):
        filled = torch.kron(nine.long(), filled.long()).bool()
    first = (nine.flatten().cumsum(0).reshape(3, 3) - 1).clamp_min(0)
    labels = torch.kron(first, torch.ones(27, 27, dtype=torch.int64))
    return Boxes("sierpinski_carpet", filled, labels)


_CATALOGUE: dict[str, Callable[..., Density]] = {
    "ring": _ring,
    "rotated_gaussian": _rotated_gaussian,
    "four_rings": _four_rings,
    "olympic_rings": _olympic_rings,
    "checkerboard": _checkerboard,
    "two_spirals": _two_spirals,
    "eight_gaussians": _eight_gaussians,
    "two_moons": _two_moons,
    "fractal_tree": _fractal_tree,
    "sierpinski_carpet": _sierpinski_carpet,
}
