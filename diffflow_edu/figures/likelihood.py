"""The picture of Theorem 1: where DiffFlow's loss is a flow's, and where it is anything but."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from diffflow_edu.figures.style import MODES, style
from diffflow_edu.processes.likelihood import TheoremOne


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
        right.set_title("dashed: predicted, (Δt²/2g²) ∫‖df/dt‖² dt")
        right.axvline(1, color="#999999", lw=0.8, zorder=0)
        if title:
            figure.suptitle(title)
    return figure
