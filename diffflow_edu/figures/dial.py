"""Pictures of the noise dial: what a measure does as the noise budget ∫g² dt grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from diffflow_edu.figures.style import MODES, headline, style

PANELS = {
    "gap": "gap: bound − entropy [nats]",
    "leak": "leak [share of samples]",
    "mode_survival": "mode survival in $x_T$",
    "w2_to_normal": "W2 from $x_T$ to N(0, I)",
}
BEST_IS_LEAST = ("gap", "leak")
REFERENCES = {
    "mode_survival": ("mode_survival_chance", "chance"),
    "w2_to_normal": ("w2_to_normal_floor", "floor"),
}
MARKERS = ("o-", "s--", "^:", "D-.")


def noise_dial(
    records: Sequence[Mapping[str, Any]],
    title: str | None = None,
    panels: Mapping[str, str] = PANELS,
) -> Figure:
    """Four measures against the noise budget, one line per number of steps.

    records: of `benchmarks.dial`, each with "N", "budget" and "metrics", a dict by measure. Lines
    go through the means of records that share both, in a band from their least to their greatest. A
    ring stands where the mean gap and leak are least; chance and floor are dashed. panels: axis
    labels by measure. Raises ValueError without a record and for a measure that a record lacks.
    """
    if not records:
        raise ValueError("records must hold at least one setting of the dial, got none")
    for record in records:
        lacking = [what for what in panels if what not in record["metrics"]]
        if lacking:
            raise ValueError(
                f"records must hold {', '.join(panels)}, got one without {', '.join(lacking)}"
            )
    rows = (len(panels) + 1) // 2
    with style():
        figure, grid = plt.subplots(
            rows, 2, figsize=(10, 3.1 * rows + 0.6), squeeze=False, layout="constrained"
        )
        for axes, (what, label) in zip(grid.flat, panels.items(), strict=False):
            _panel(axes, records, what, label)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        grid[0, 0].legend(title=None)
        for axes in grid[-1]:
            axes.set_xlabel("← flow    noise budget $\\int g^2\\,dt$    diffusion →")
        headline(figure, title)
    return figure


def _panel(axes: Axes, records: Sequence[Mapping[str, Any]], what: str, label: str) -> None:
    lengths = sorted({record["N"] for record in records}, reverse=True)
    for n, marker, color in zip(lengths, MARKERS, MODES, strict=False):
        own: dict[float, list[float]] = {}
        for record in sorted((r for r in records if r["N"] == n), key=lambda r: r["budget"]):
            own.setdefault(record["budget"], []).append(record["metrics"][what])
        budgets, values = list(own), [fmean(found) for found in own.values()]
        lows, highs = (list(map(end, own.values())) for end in (min, max))
        axes.fill_between(budgets, lows, highs, color=color, alpha=0.25, lw=0)
        axes.plot(budgets, values, marker, color=color, label=f"N = {n}")
        if what in BEST_IS_LEAST:
            best = min(range(len(values)), key=values.__getitem__)
            axes.plot(budgets[best], values[best], "o", ms=15, mfc="none", mec=color, mew=1.6)
    if what in REFERENCES:
        key, word = REFERENCES[what]
        level = sum(r["metrics"][key] for r in records) / len(records)
        axes.axhline(level, color="0.4", lw=1.2, ls="--")
        axes.annotate(
            word,
            (0.01, level),
            xycoords=("axes fraction", "data"),
            xytext=(0, 4),
            textcoords="offset points",
            color="0.4",
        )
    if what in ("leak", "mode_survival"):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.06)
    axes.set(ylabel=label)
