"""Pictures that lay machines side by side: what each has made of the same particles at t = T."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
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


STANDINGS = {
    "won": ("won: more than half for", "#CFE6F3"),
    "open": ("open", "#EEEEEE"),
    "lost": ("lost: more than half against", "#F8D3BC"),
}


CELLS = 6  # in a row; a claim with more conditions takes another


def claim_matrix(claims: Sequence[Mapping[str, Any]], title: str | None = None) -> Figure:
    """The ledger: a row a claim, a cell a condition, its verdict behind and its threshold below.

    claims: of `benchmarks.ledger`, each with "name", "threshold", "verdict" and "conditions": by
    name, dicts with "won", "lost", "for", "against" and "of". A cell holds the condition and how
    many of its comparisons are for the claim and how many against. Raises ValueError without a
    claim.
    """
    if not claims:
        raise ValueError("claims must hold at least one claim, got none")
    rows = sum(-(-len(claim["conditions"]) // CELLS) for claim in claims)
    with style():
        figure, axes = plt.subplots(
            figsize=(10.4, 0.68 * rows + (1.0 if title else 0.6)), layout="constrained"
        )
        top = 0
        for claim in claims:
            below = "\n".join(textwrap.wrap(str(claim["threshold"]), 30))
            axes.text(-0.1, top - 0.15, as_text(claim["name"]), ha="right", va="center", size=11)
            axes.text(-0.1, top + 0.06, as_text(below), ha="right", va="top", size=8.5, c="0.35")
            axes.text(CELLS + 0.08, top, as_text(claim["verdict"]), va="center", size=11)
            for number, (when, found) in enumerate(claim["conditions"].items()):
                _condition(axes, number % CELLS, top + number // CELLS, str(when), found)
            top += -(-len(claim["conditions"]) // CELLS)
        for word, color in STANDINGS.values():
            axes.plot([], [], "s", ms=11, color=color, label=word)
        axes.set(xlim=(-1.75, CELLS + 1.25), ylim=(rows - 0.5, -0.5))
        axes.axis("off")
        figure.legend(loc="outside lower center", ncols=len(STANDINGS), fontsize=10)
        headline(figure, title)
    return figure


def _condition(axes: Axes, x: int, y: int, when: str, found: Mapping[str, Any]) -> None:
    standing = "won" if found["won"] else "lost" if found["lost"] else "open"
    axes.add_patch(plt.Rectangle((x, y - 0.46), 0.97, 0.92, color=STANDINGS[standing][1], lw=0))
    words = "\n".join(line for part in when.split(", ") for line in textwrap.wrap(part, 18))
    axes.text(x + 0.485, y - 0.13, as_text(words), ha="center", va="center", size=8)
    count = f"{found['for']} of {found['of']}"
    if found["against"]:
        count += f", {found['against']} against"
    axes.text(x + 0.485, y + 0.33, count, ha="center", va="center", size=8, c="0.25")
