"""Pictures of likelihood: the λ family, maps of log p with probes, and Theorem 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from torch import Tensor

from diffflow_edu.figures.style import (
    MODELS,
    MODES,
    as_label,
    as_text,
    bare_square,
    headline,
    spread_indices,
    style,
)
from diffflow_edu.processes.base import Trajectory
from diffflow_edu.processes.likelihood import TheoremOne
from diffflow_edu.schedules import check_positive, check_whole

PROBE = MODES[1]
"""The colour of a probe on a map."""


def log_p_colors() -> Colormap:
    """The colours of a map of log p: dark is likely, white is off the scale."""
    return sns.color_palette("mako_r", as_cmap=True).with_extremes(under="white", bad="white")


def family_panels(
    paths: Mapping[str, Trajectory],
    log_density: Callable[[Tensor, Tensor], Tensor],
    half: float = 3.0,
    particles: int = 10,
    title: str | None = None,
) -> Figure:
    """Paths of particles on a line, one panel a member of the λ family, over the density p_t(x).

    paths: Trajectories with states (N + 1, B, 1). log_density: (x (m, 1), t 0-d) -> log p_t(x),
    (m,). half: x runs from −half to half. particles: how many are drawn, the same in every panel,
    coloured by the side of 0 on which they land. Raises ValueError for an empty dict, for
    states of another shape, for half ≤ 0 and particles < 1.
    """
    if not paths:
        raise ValueError("paths must hold at least one Trajectory, got an empty dict")
    for name, path in paths.items():
        if path.states.ndim != 3 or path.states.shape[2] != 1:
            raise ValueError(
                f"paths[{name!r}] must hold points on a line, states (N + 1, B, 1), "
                f"got {tuple(path.states.shape)}"
            )
    check_positive(half=half)
    check_whole("particles", particles)
    levels = torch.linspace(-half, half, 160)[:, None]
    with style():
        figure, grid = plt.subplots(
            1,
            len(paths),
            figsize=(3 * len(paths), 3.9 if title else 3.5),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for axes, (name, path) in zip(grid[0], paths.items(), strict=True):
            times, states = path.to_numpy()
            # Even times, for an image has even columns; the first is where the data has a density.
            even = torch.linspace(float(times[1]), float(times[-1]), 160)
            with torch.no_grad():
                log_p = torch.stack([log_density(levels, t) for t in even], 1)
            shade = (0.5 * log_p).exp()  # the root shows the flanks too
            axes.imshow(
                shade.numpy(),
                extent=(times[0], times[-1], -half, half),
                origin="lower",
                aspect="auto",
                cmap="Greys",
                vmax=1.6 * float(shade.max()),  # paths stay the darkest thing in the picture
            )
            for i in spread_indices(states.shape[1], particles):
                color = MODES[0] if states[0, i, 0] > 0 else MODES[1]
                axes.plot(times, states[:, i, 0], color=color, lw=1.1, alpha=0.9)
            axes.set(xlabel="time t", title=as_text(name), ylim=(-half, half))
        grid[0, 0].set_ylabel("x")
        headline(figure, title)
    return figure


def log_p_maps(
    maps: Mapping[str, np.ndarray],
    view: tuple[float, float, float],
    probes: Sequence[Sequence[float]] = (),
    title: str | None = None,
    depth: float = 8.0,
) -> Figure:
    """Maps of log p beside each other, in nats on one scale, with numbered probes.

    maps: by name, (n, n), rows upwards, −inf where there is nothing. view: centre x, centre y and
    half side of the square. probes: points (x, y). depth: so many nats below the highest value the
    colours end. Raises ValueError for an empty dict, no finite value, and depth ≤ 0.
    """
    if not maps:
        raise ValueError("maps must hold at least one map, got an empty dict")
    check_positive(depth=depth)
    top = highest(maps)
    x, y, half = view
    with style():
        figure, grid = plt.subplots(
            1,
            len(maps),
            figsize=(4.3 * len(maps) + 0.6, 4.7 if title else 4.3),
            squeeze=False,
            layout="compressed",
        )
        for axes, (name, values) in zip(grid[0], maps.items(), strict=True):
            picture = axes.imshow(
                np.where(np.isfinite(values), values, -1e9),
                origin="lower",
                extent=(x - half, x + half, y - half, y + half),
                cmap=log_p_colors(),
                vmin=top - depth,
                vmax=top,
                interpolation="nearest",
            )
            for number, (px, py) in enumerate(probes, 1):
                axes.plot(px, py, "o", ms=13, mfc="white", mec=PROBE, mew=2)
                axes.annotate(
                    str(number), (px, py), ha="center", va="center_baseline", size=9, color="black"
                )
            bare_square(axes, view)
            axes.set_title(as_text(name))
        bar = figure.colorbar(picture, ax=grid[0].tolist(), shrink=0.85, extend="min")
        bar.set_label("log p(x) [nats]")
        bar.outline.set_visible(False)
        headline(figure, title)
    return figure


def highest(maps: Mapping[str, np.ndarray]) -> float:
    """The largest finite value of all maps. Raises ValueError where there is none."""
    finite = np.concatenate([v[np.isfinite(v)].ravel() for v in map(np.asarray, maps.values())])
    if not len(finite):
        raise ValueError("maps must hold a finite log p somewhere, found none")
    return float(finite.max())


@dataclass(frozen=True)
class ChainAndOde:
    """What `chain_and_ode` draws of one model: nats above the entropy.

    by_paths: the importance-weighted bound by the number of paths K. ode, error: the ODE's number
    and its standard error.
    """

    by_paths: Mapping[int, float]
    ode: float
    error: float


def chain_and_ode(
    models: Mapping[str, Mapping[str, ChainAndOde]], title: str | None = None
) -> Figure:
    """The importance-weighted bound against K, a panel a set, and the ODE's number beside it.

    models: by set and model. Raises ValueError for an empty dict.
    """
    if not models:
        raise ValueError("models must hold at least one set, got an empty dict")
    with style():
        figure, panels = plt.subplots(
            1,
            len(models),
            figsize=(5 * len(models), 4),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for axes, (where, found) in zip(panels[0], models.items(), strict=True):
            most = max(max(each.by_paths) for each in found.values())
            for number, (name, each) in enumerate(found.items()):
                color = MODELS.get(name, MODES[number % len(MODES)])
                axes.plot(
                    list(each.by_paths),
                    list(each.by_paths.values()),
                    "o-",
                    color=color,
                    label=as_label(f"{name}, the chain"),
                )
                axes.errorbar(
                    2 * most * 1.12 ** (number - 0.5),
                    each.ode,
                    yerr=each.error,
                    fmt="D",
                    color=color,
                    mfc="white",
                    ms=7,
                    capsize=3,
                    label=as_label(f"{name}, its ODE"),
                )
            axes.axhline(0, color="0.3", lw=1.2, ls="--")
            axes.axvline(1.4 * most, color="0.85", lw=1)
            ticks = sorted({k for each in found.values() for k in each.by_paths})
            axes.set_xscale("log", base=2)
            axes.set_xticks([*ticks, 2 * most], [*map(str, ticks), "ODE"])
            axes.minorticks_off()
            axes.set(xlabel="paths a particle, K", title=as_text(where))
        panels[0, 0].set_ylabel("nats above the entropy")
        panels[0, 0].set_ylim(bottom=-0.03)
        panels[0, -1].legend(fontsize=10)
        headline(figure, title)
    return figure


def theorem_one_panels(result: TheoremOne, title: str | None = None) -> Figure:
    """Left: the path term against g, one curve for each N, beside the flow's −Σ log det.

    Right: how far the two are apart against Δt/g, on logarithmic axes, with the excess
    (Δt²/2g²) ∫‖df/dt‖² dt that the theorem's limit leaves out, dashed. result: of `theorem_one`.
    Raises ValueError for anything else.
    """
    if not isinstance(result, TheoremOne):
        raise ValueError(f"result must be what theorem_one returns, got {type(result).__name__}")
    g, flow = result.g.numpy(), result.flow.numpy()
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
        for n, count in enumerate(result.steps.tolist()):
            color, marker = MODES[n % len(MODES)], "osD^vP"[n % 6]
            path = result.path[n].numpy()
            line = {"color": color, "marker": marker, "label": f"N = {count}"}
            left.plot(g, path, **line)
            ratio = result.T / count / g
            right.plot(ratio, np.abs(path - flow[n]), linestyle="", **line)
        finest = int(result.steps.argmax())
        left.axhline(flow[finest], color="#333333", lw=1.2, zorder=0)
        left.text(g.max(), flow[finest] - 0.08, "the flow’s −Σ log det", va="top", ha="right")
        left.set(xscale="log", xlabel="noise g", ylabel="path term [nats]")
        left.set_ylim(flow[finest] - 0.8, flow[finest] + 3.2)  # what leaves it is on the right
        left.legend(loc="upper right")

        ratios = (result.T / result.steps[:, None] / result.g).flatten()
        order = ratios.argsort()
        right.plot(
            ratios[order], result.excess.flatten()[order], "--", color="#333333", lw=1.2, zorder=0
        )
        right.set(xscale="log", yscale="log", xlabel="Δt / g", ylabel="|path term − flow| [nats]")
        right.set_ylim(bottom=1e-3)  # below, chance decides
        right.set_title("dashed: the walk without noise, ½ Σ‖δB‖²")
        right.axvspan(1, 2 * float(ratios.max()), color="#EFEFEF", lw=0, zorder=-1)
        right.set_xlim(float(ratios.min()) / 2, 2 * float(ratios.max()))
        right.text(1.15, 1.4e-3, "Δt > g: not a flow", va="bottom", color="#555555")
        headline(figure, title)
    return figure
