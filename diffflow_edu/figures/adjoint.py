"""Pictures of notebook 05: Algorithm 2 as a graph, time grids, and curves over several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from diffflow_edu.figures.style import MODES, as_label, as_text, headline, style
from diffflow_edu.schedules import shortly

FORWARD, BACKWARD, ENERGY = "#555555", MODES[1], MODES[0]
MARKERS = "osD^vP"


def algorithm_two(title: str | None = None) -> Figure:
    """The graph behind Algorithm 2: states x_i, energies ℓ_i between two of them, adjoints a_i.

    Grey arrows go forward and make the states, blue is the energy and its two derivatives, orange
    goes back: a_{i+1} and the energy's share at x_{i+1} make u, which is pulled back through the
    step.
    """
    places = {"x_0": 0.0, "x_i": 2.9, "x_{i+1}": 7.9, "x_N": 10.8}
    low, middle, u = -2.05, 5.4, 5.9
    with style():
        figure, axes = plt.subplots(figsize=(10.4, 4.0 if title else 3.6), layout="constrained")
        for name, x in places.items():
            _box(axes, x, 0, f"${name}$", "#F2F2F2", FORWARD)
            _box(axes, x, low, f"${name.replace('x', 'a')}$", "#FDEFE3", BACKWARD)
        _box(axes, u, low, "$u$", "#FDEFE3", BACKWARD)
        for left, right, label in (
            (0.0, 2.9, "⋯"),
            (2.9, 7.9, r"$x_i + f_i(x_i)\,\Delta t_i + g_i\sqrt{\Delta t_i}\;\delta^F_i$"),
            (7.9, 10.8, "⋯"),
        ):
            _arrow(axes, (left + 0.5, 0), (right - 0.5, 0), FORWARD)
            axes.text((left + right) / 2, 0.16, label, ha="center", va="bottom", fontsize=11)
        for right, left in ((10.8, 7.9), (7.9, u - 0.15), (u + 0.15, 2.9), (2.9, 0.0)):
            _arrow(axes, (right - 0.5, low), (left + 0.5, low), BACKWARD)
        _box(axes, middle, 1.75, r"$\ell_i = \frac{1}{2}\|\delta^B_i\|^2$", "#E6F1F8", ENERGY)
        for x in (2.9, 7.9):
            end = middle - 0.85 * np.sign(middle - x)
            axes.plot([x, end], [0.42, 1.55], color=ENERGY, lw=1.6)
        share = {"ha": "center", "color": ENERGY, "fontsize": 12}
        axes.text(6.85, low + 0.3, r"$+\,\partial\ell_i/\partial x_{i+1}$", va="bottom", **share)
        axes.text(4.3, low - 0.3, r"$+\,\partial\ell_i/\partial x_i$", va="top", **share)
        axes.text(
            4.3,
            low + 0.3,
            r"$u \cdot \partial x_{i+1}/\partial x_i$",
            ha="center",
            va="bottom",
            color=BACKWARD,
            fontsize=12,
        )
        axes.text(10.8, -1.03, r"$-\partial\log p_B/\partial x_N$", ha="center", va="center")
        axes.text(0, 1.75, "cached: the states only", ha="left", va="center", color=FORWARD)
        axes.set(xlim=(-0.8, 12), ylim=(-2.9, 2.3))
        axes.axis("off")
        headline(figure, title)
    return figure


def _box(axes: Axes, x: float, y: float, text: str, fill: str, edge: str) -> None:
    axes.text(
        x,
        y,
        text,
        ha="center",
        va="center",
        fontsize=14,
        bbox={"boxstyle": "round,pad=0.35", "facecolor": fill, "edgecolor": edge},
        zorder=3,
    )


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    axes.annotate(
        "", xy=end, xytext=start, arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.8}
    )


def time_grids(grids: Mapping[str, Sequence[Tensor]], title: str | None = None) -> Figure:
    """Grids on a common time axis, a panel a kind and a row a draw; t_i has the colour of its i.

    grids: per kind its draws, each times (N + 1,) rising from 0. Raises ValueError for an empty
    dict and for a kind without a draw.
    """
    if not grids:
        raise ValueError("grids must hold at least one kind, got an empty dict")
    for name, draws in grids.items():
        if len(draws) == 0:
            raise ValueError(f"grids[{name!r}] must hold at least one draw of a grid")
    heights = [0.5 + 0.085 * len(draws) for draws in grids.values()]
    with style():
        figure, panels = plt.subplots(
            len(grids),
            1,
            figsize=(9, sum(heights) + (1.3 if title else 0.9)),
            height_ratios=heights,
            sharex=True,
            squeeze=False,
            layout="constrained",
        )
        for axes, (name, draws) in zip(panels[:, 0], grids.items(), strict=True):
            for row, times in enumerate(draws):
                values = times.detach().cpu().numpy()
                shades = [MODES[i % len(MODES)] for i in range(len(values))]
                axes.axhline(row, color="#EEEEEE", lw=0.6, zorder=0)
                size = 46 if len(draws) == 1 else 16
                axes.scatter(values, np.full(len(values), row), s=size, c=shades, lw=0)
            axes.set(yticks=[], ylim=(len(draws) - 0.2, -0.8))
            axes.set_title(as_text(name), loc="left")
            axes.spines["left"].set_visible(False)
            axes.spines["bottom"].set_visible(axes is panels[-1, 0])
            axes.tick_params(bottom=axes is panels[-1, 0])
        panels[-1, 0].set_xlabel("time t, from data (left) to noise (right)")
        headline(figure, title)
    return figure


@dataclass(frozen=True)
class CurvePanel:
    """One panel of `curve_panels`.

    curves: per name its x (n,) and its values, (n,) or one row a seed, (S, n). log: which axes are
    logarithmic, "x", "y", "xy" or "". markers: whether every value has a mark. ylim: what is shown.
    """

    xlabel: str
    ylabel: str
    curves: Mapping[str, tuple[Sequence[float], Sequence[float] | Sequence[Sequence[float]]]]
    title: str = ""
    log: str = ""
    markers: bool = True
    ylim: tuple[float, float] | None = None


def curve_panels(panels: Sequence[CurvePanel], title: str | None = None) -> Figure:
    """Curves side by side: the mean over seeds strong, every seed faint, same name same colour.

    Where x is logarithmic, the ticks are the values that were measured. Raises ValueError for no
    panel, for a panel without a curve, and for values that do not fit their x.
    """
    if not panels:
        raise ValueError("panels must hold at least one panel, got none")
    names: list[str] = []
    for number, panel in enumerate(panels):
        if not panel.curves:
            raise ValueError(f"panels[{number}].curves must hold at least one curve")
        names += [name for name in panel.curves if name not in names]
    with style():
        figure, grid = plt.subplots(
            1,
            len(panels),
            figsize=(max(6.5, 4.8 * len(panels)), 4.2 if title else 3.8),
            squeeze=False,
            layout="constrained",
        )
        for axes, panel in zip(grid[0], panels, strict=True):
            ticks: set[float] = set()
            for name, (x, values) in panel.curves.items():
                x, rows = np.asarray(x, float), np.atleast_2d(np.asarray(values, float))
                if rows.ndim != 2 or x.ndim != 1 or rows.shape[1] != len(x):
                    raise ValueError(
                        f"the values of {shortly(name)} must be (n,) or (S, n) with n = {x.size}, "
                        f"got {np.asarray(values).shape}"
                    )
                number = names.index(name)
                color = MODES[number % len(MODES)]
                marker = MARKERS[number % len(MARKERS)] if panel.markers else ""
                if len(rows) > 1:
                    axes.plot(x, rows.T, color=color, lw=0.8, alpha=0.45)
                axes.plot(x, rows.mean(0), color=color, marker=marker, label=as_label(name))
                ticks |= set(x.tolist())
            axes.set(
                xlabel=as_text(panel.xlabel),
                ylabel=as_text(panel.ylabel),
                title=as_text(panel.title),
            )
            if panel.ylim is not None:
                axes.set_ylim(panel.ylim)
            if "y" in panel.log:
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter("{x:g}")
            if "x" in panel.log:
                axes.set_xscale("log")
                axes.set_xticks(sorted(ticks), [f"{t:g}" for t in sorted(ticks)])
                axes.minorticks_off()
        grid[0, 0].legend()
        headline(figure, title)
    return figure
