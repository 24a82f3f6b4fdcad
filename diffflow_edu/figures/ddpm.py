"""Pictures of a diffusion: a magnifier on a few ring widths, and where its bound spends nats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from diffflow_edu.figures.style import (
    MODES,
    Color,
    as_text,
    bare_square,
    headline,
    particle_colors,
    style,
)
from diffflow_edu.processes.ddpm import BoundTerms
from diffflow_edu.schedules import Schedule, check_positive


def magnifier(
    points: Mapping[str, Tensor],
    centre: tuple[float, float],
    half: float,
    color: Color = None,
    title: str | None = None,
) -> Figure:
    """A small square of the plane, the same in every panel, with the particles in it.

    points: (n, 2) per panel. centre, half: of the square, and half its side. color: see
    `particle_colors`. Raises ValueError for an empty dict and for half ≤ 0.
    """
    if not points:
        raise ValueError("points must hold at least one panel, got an empty dict")
    check_positive(half=half)
    palette, indices = particle_colors(points, color)
    with style():
        figure, grid = plt.subplots(
            1,
            len(points),
            figsize=(2.5 * len(points), 3.3 if title else 2.9),
            squeeze=False,
            layout="compressed",
        )
        for axes, (name, x) in zip(grid[0], points.items(), strict=True):
            near = (x - x.new_tensor(centre)).abs().amax(1) <= half
            shades = np.asarray(palette)[indices[name]][near.cpu().numpy()]
            axes.scatter(*x[near].cpu().numpy().T, s=5, c=shades, lw=0, rasterized=True)
            bare_square(axes, (*centre, half))
            axes.set_title(as_text(name))
        headline(figure, title)
    return figure


def bound_bars(
    terms: Mapping[str, tuple[Schedule, BoundTerms]],
    title: str | None = None,
    colors: Sequence[str] = MODES,
) -> Figure:
    """The KL of every step in nats, one panel a model; reconstruction and prior stand in words.

    terms: per model its grid and what `DDPM.bound_terms` gave. Step 1 is next to the data; below
    some steps stands r = σ/α, the noise in units of the signal. colors: one a model. Raises
    ValueError for an empty dict.
    """
    if not terms:
        raise ValueError("terms must hold at least one model, got an empty dict")
    with style():
        figure, panels = plt.subplots(
            1,
            len(terms),
            figsize=(5.2 * len(terms), 4.1 if title else 3.7),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for number, (axes, (name, (schedule, each))) in enumerate(
            zip(panels[0], terms.items(), strict=True)
        ):
            noise, steps = schedule.noise_process, np.arange(1, schedule.steps)
            axes.bar(steps, each.kl.mean(1).cpu().numpy(), color=colors[number], width=0.8)
            t = schedule.times[1:]
            ratio = (noise.sigma(t) / noise.alpha(t)).numpy()
            shown = np.linspace(1, schedule.steps - 1, min(5, schedule.steps - 1)).round()
            labels = [f"{int(i)}\nr = {_two_digits(float(ratio[int(i)]))}" for i in shown]
            axes.set_xticks(shown, labels, fontsize=10)
            axes.set(xlabel="step i, from data (left) to noise (right)", title=as_text(name))
            words = (
                f"reconstruction {float(each.reconstruction.mean()):+.2f}\n"
                f"all KLs {float(each.kl.sum(0).mean()):+.2f}\n"
                f"prior {float(each.prior.mean()):+.2f}\n"
                f"bound {float(each.total.mean()):+.2f} nats"
            )
            axes.text(0.97, 0.95, words, transform=axes.transAxes, ha="right", va="top")
        panels[0, 0].set_ylabel("KL of the step [nats]")
        headline(figure, title)
    return figure


def _two_digits(number: float) -> str:
    """Two significant digits, never in powers of ten.

    >>> _two_digits(0.0093), _two_digits(152.0)
    ('0.0093', '152')
    """
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"
