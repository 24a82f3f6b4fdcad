"""Where a noisy particle came from: its origins in the plane, and one big step turned round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from diffflow_edu.figures.style import MODES, as_label, as_text, headline, style, view_square


@dataclass(frozen=True)
class Reversal:
    """One panel of `reversals`: p(x_0 | x_1) on a grid beside its best Gaussian.

    x: (n,). density, gaussian: (n,), of x_0. cost: KL(density ‖ gaussian), nats.
    """

    title: str
    x: Tensor
    density: Tensor
    gaussian: Tensor
    cost: float


def reversals(
    panels: Sequence[Reversal],
    title: str | None = None,
    xlabel: str = "$x_0$",
    names: tuple[str, str] = ("$p(x_0 | x_1)$", "best Gaussian"),
) -> Figure:
    """Each p(x_0 | x_1) filled, its best Gaussian as a line, and the cost in nats in words.

    xlabel, names: what the pictures call x, the density and the Gaussian. Every panel has a
    vertical axis of its own, since a density's height is set by its width. Raises ValueError for
    no panel.
    """
    if not panels:
        raise ValueError("panels must hold at least one Reversal, got none")
    with style():
        figure, grid = plt.subplots(
            1,
            len(panels),
            figsize=(3.6 * len(panels), 3.6 if title else 3.2),
            squeeze=False,
            layout="constrained",
        )
        for axes, panel in zip(grid[0], panels, strict=True):
            axes.fill_between(panel.x, panel.density, color="0.82", lw=0, label=as_label(names[0]))
            axes.plot(panel.x, panel.gaussian, color=MODES[1], lw=1.8, label=as_label(names[1]))
            axes.set(xlabel=as_text(xlabel), yticks=[], title=as_text(panel.title))
            axes.set_ylim(0, 1.35 * float(max(panel.density.max(), panel.gaussian.max())))
            axes.spines["left"].set_visible(False)
            words = f"{panel.cost:.2f} nats"
            axes.text(0.97, 0.95, words, transform=axes.transAxes, ha="right", va="top")
        grid[0, 0].legend(loc="upper left", fontsize=10)
        headline(figure, title)
    return figure


def origins(
    here: Tensor, clean: Tensor, exact: Tensor, data: Tensor, title: str | None = None
) -> Figure:
    """Clean points that a noisy one may come from, the arrow to their mean, and the exact mean.

    here: the noisy point, (2,). clean: (n, 2), of which 60 are drawn; the mean is over all. exact:
    the mean by Tweedie's formula, (2,). data: (m, 2), in pale grey. Raises ValueError for n = 0.
    """
    if not len(clean):
        raise ValueError("clean must hold at least one point, got none")
    arrow = {"arrowstyle": "-|>", "color": MODES[1], "lw": 3, "shrinkA": 0, "shrinkB": 0}
    x, y, half = view_square([data.numpy()])
    with style():
        figure, axes = plt.subplots(figsize=(6.2, 6.0), layout="constrained")
        axes.scatter(*data.T, s=3, c="#D0D0D0", lw=0)
        for point in clean[:60]:
            axes.plot([here[0], point[0]], [here[1], point[1]], color="#8C8C8C", lw=0.6)
        axes.scatter(*clean[:60].T, s=9, c="#555555", lw=0, zorder=3, label="clean points")
        axes.annotate("", clean.mean(0).tolist(), here.tolist(), arrowprops=arrow, zorder=4)
        axes.plot([], [], color=MODES[1], lw=3, label="to their mean")
        axes.scatter(*exact, s=130, fc="none", ec=MODES[0], lw=2.2, zorder=5, label="exact mean")
        axes.scatter(*here, s=45, c="black", zorder=5, label="the noisy point")
        axes.set(xlim=(x - half, x + half), ylim=(y - half, y + 1.3 * half), aspect="equal")
        axes.set_axis_off()
        axes.legend(loc="upper left", ncols=2, fontsize=10)
        headline(figure, title)
    return figure
