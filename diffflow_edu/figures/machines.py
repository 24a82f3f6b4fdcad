"""Pictures that lay machines side by side: what each has made of the same particles at t = T."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from diffflow_edu.figures.style import MODES, as_text, bare_square, headline, particle_colors, style
from diffflow_edu.schedules import shortly

VIEW = (0.0, 0.0, 3.4)
"""Of N(0, I) in two dimensions, all but 0.3 % lies within 3.4 of the middle."""


def latent_clouds(
    latents: Mapping[str, Mapping[str, Tensor]],
    modes: Mapping[str, Tensor],
    notes: Mapping[str, Mapping[str, str]] | None = None,
    title: str | None = None,
) -> Figure:
    """The particles at t = T, coloured by where they started: a row a set, a column a machine.

    latents: by set and machine, x_T (n, 2). modes: by set, whole numbers (n,), or floats for a
    sequential map. notes: a few words below a panel. The dashed circles are N(0, I)'s contours
    that hold 39 % and 86 % of it. Raises ValueError for an empty dict, for sets without modes and
    for rows whose machines differ.
    """
    if not latents:
        raise ValueError("latents must hold at least one set, got an empty dict")
    first = list(next(iter(latents.values())))
    for name, row in latents.items():
        if name not in modes:
            raise ValueError(
                f"modes must hold every set, got {list(modes)} without {shortly(name)}"
            )
        if list(row) != first:
            raise ValueError(
                f"latents must have the same machines in every set, got {first} and, "
                f"in {shortly(name)}, {list(row)}"
            )
    below = notes or {}
    angle = np.linspace(0, 2 * np.pi, 200)
    with style():
        figure, grid = plt.subplots(
            len(latents),
            len(first),
            figsize=(2.55 * len(first) + 0.3, (2.95 if below else 2.65) * len(latents) + 0.6),
            squeeze=False,
            layout="constrained",
        )
        for axes_row, (name, row) in zip(grid, latents.items(), strict=True):
            palette, indices = particle_colors(row, modes[name])
            for axes, (machine, x) in zip(axes_row, row.items(), strict=True):
                colors = np.asarray(palette)[indices[machine]]
                axes.scatter(*x.cpu().numpy().T, s=4, c=colors, lw=0, rasterized=True)
                for radius in (1, 2):
                    circle = radius * np.cos(angle), radius * np.sin(angle)
                    axes.plot(*circle, color="black", lw=1.2, ls="--", alpha=0.8)
                bare_square(axes, VIEW)
                axes.set_xlabel(as_text(below.get(name, {}).get(machine, "")), fontsize=10.5)
            axes_row[0].set_ylabel(as_text(name))
        for axes, machine in zip(grid[0], first, strict=True):
            axes.set_title(as_text(machine))
        headline(figure, title)
    return figure


OUTCOMES = {
    1: ("for the claim", MODES[0]),
    0: ("no difference", "#C8C8C8"),
    -1: ("against", MODES[1]),
}


def verdict_bars(claims: Sequence[Mapping[str, Any]], title: str | None = None) -> Figure:
    """One bar a claim of the ledger: its comparisons, for, without a difference, and against.

    claims: of `benchmarks.ledger`, each with "name", "verdict" and "cases", a list of dicts with
    an "outcome" of 1, 0 or −1. Raises ValueError without a claim.
    """
    if not claims:
        raise ValueError("claims must hold at least one claim, got none")
    with style():
        figure, axes = plt.subplots(
            figsize=(10, 0.42 * len(claims) + (1.7 if title else 1.3)), layout="constrained"
        )
        rows = np.arange(len(claims))[::-1]
        left = np.zeros(len(claims))
        for outcome, (word, color) in OUTCOMES.items():
            found = [[case["outcome"] for case in claim["cases"]] for claim in claims]
            share = np.array([row.count(outcome) / len(row) for row in found])
            axes.barh(rows, share, left=left, color=color, height=0.72, label=word)
            for y, start, width, row in zip(rows, left, share, found, strict=True):
                if width:
                    ink = "black" if outcome == 0 else "white"
                    count = str(row.count(outcome))
                    axes.text(start + width / 2, y, count, ha="center", va="center", color=ink)
            left += share
        for y, claim in zip(rows, claims, strict=True):
            axes.text(1.02, y, as_text(claim["verdict"]), va="center")
        axes.set_yticks(rows, [as_text(claim["name"]) for claim in claims])
        axes.set(xlim=(0, 1), ylim=(-0.6, len(claims) - 0.4), xticks=[])
        axes.spines[["bottom", "left"]].set_visible(False)
        axes.tick_params(left=False)
        figure.legend(loc="outside lower center", ncols=3)
        headline(figure, title)
    return figure
