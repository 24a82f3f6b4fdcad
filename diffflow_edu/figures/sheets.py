"""Pictures of image models: sheets of samples, and quality against the number of steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from torch import Tensor

from diffflow_edu.figures.images import check_range, image_bytes, mosaic
from diffflow_edu.figures.style import MODELS, MODES, as_label, as_text, headline, style
from diffflow_edu.schedules import check_whole


def image_sheets(
    sheets: Mapping[str, Tensor], title: str | None = None, columns: int | None = None
) -> Figure:
    """Images side by side, one square sheet a panel.

    sheets: per panel (n, C, H, W) or (n, H, W), −1 black and 1 white, clipped beyond. columns:
    panels in a row; by default all. Raises ValueError for an empty dict and for anything but
    images.
    """
    if not sheets:
        raise ValueError("sheets must hold at least one panel, got an empty dict")
    for name, images in sheets.items():
        if not isinstance(images, Tensor) or images.ndim not in (3, 4) or len(images) == 0:
            got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(f"sheets[{name!r}] must be images (n, C, H, W), got {got}")
        check_range(images.detach().float().cpu().numpy(), f"sheets[{name!r}]")
    columns = len(sheets) if columns is None else columns
    check_whole("columns", columns)
    rows = math.ceil(len(sheets) / columns)
    side = 2.6 if columns > 2 else 4.2
    with style():
        figure, grid = plt.subplots(
            rows,
            columns,
            figsize=(side * columns, (side + 0.2) * rows + (0.4 if title else 0)),
            squeeze=False,
            layout="compressed",
        )
        for axes in grid.flat[len(sheets) :]:
            axes.set_axis_off()
        for axes, (name, images) in zip(grid.flat, sheets.items(), strict=False):
            picture = mosaic(image_bytes(images[None].detach().float().cpu().numpy())[0])
            axes.imshow(picture, interpolation="nearest")
            axes.set_title(as_text(name))
            axes.set_axis_off()
        headline(figure, title)
    return figure


def quality_against_steps(
    rows: Mapping[str, Sequence[Mapping[str, float | None]]],
    lines: Mapping[str, Mapping[str, float]],
    fid_title: str = "FID-LeNet",
    title: str | None = None,
) -> Figure:
    """Two panels against N: bits/dim of the bound, and FID.

    rows: per model, rows with "steps", "bits_per_dim" and "fid". lines: per name of something
    without steps, "bits_per_dim" and perhaps "fid", drawn as a dashed level.
    """
    if not rows:
        raise ValueError("rows must hold at least one model, got an empty dict")
    with style():
        figure, panels = plt.subplots(1, 2, figsize=(8.6, 3.6), layout="constrained")
        for axes, what, label in zip(
            panels, ("bits_per_dim", "fid"), ("bits/dim, at most", fid_title), strict=True
        ):
            steps = sorted({row["steps"] for own in rows.values() for row in own})
            for name, own in rows.items():
                shown = [(row["steps"], row[what]) for row in own if row.get(what) is not None]
                if shown:
                    axes.plot(
                        *zip(*shown, strict=True),
                        "o-",
                        color=MODELS.get(name),
                        label=as_label(name),
                    )
            levels = {name: line[what] for name, line in lines.items() if what in line}
            for color, (name, level) in zip(MODES[2:], levels.items(), strict=False):
                axes.axhline(level, color=color, ls="--", lw=1.2, label=as_label(name))
            axes.set_xscale("log")
            axes.set_xticks(steps, [str(n) for n in steps])
            axes.minorticks_off()
            axes.set_xlabel("steps N")
            axes.set_ylabel(as_text(label))
            axes.legend(fontsize=10)
        panels[1].set_yscale("log")
        panels[1].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panels[1].yaxis.set_major_formatter("{x:g}")
        panels[1].minorticks_off()
        headline(figure, title)
    return figure
