"""Arrows of a model's drift and score on a grid at every step, and the exact density as a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from diffflow_edu.player.pack import Square
from diffflow_edu.processes.base import Trajectory
from diffflow_edu.processes.diffflow import DiffFlow
from diffflow_edu.toy import Density

GRID = 18
"""Arrows along each side of a panel."""

KINDS = ("drift f", "score s", "backward drift")

LONGEST = 1.3
"""Arrows are drawn at most so many times as long as the one that stands for `scale`."""

PIXELS = 96
SUPERSAMPLING = 4  # a ring thinner than a pixel must not fall between the samples


FIELD_BYTES = 400_000
"""So many bytes of arrows are sent at most; where there would be more, steps are left out."""


def check_fields(fields: Mapping[str, DiffFlow], panels: Mapping[str, Trajectory]) -> None:
    """Raise a ValueError unless every field, by panel title, is a model that made its panel."""
    for name, model in fields.items():
        if name not in panels:
            raise ValueError(f"fields[{name!r}] has no panel; the panels are {list(panels)}")
        if not isinstance(model, DiffFlow):
            raise ValueError(
                f"fields[{name!r}] must be a DDPM or a DiffFlow, got {type(model).__name__}"
            )
        if model.standardised:
            raise ValueError(
                f"fields[{name!r}] must be a model without a standardisation: its fields live in "
                "standardised units, its particles in those of the data"
            )
        if model.schedule.steps != len(panels[name]) - 1:
            raise ValueError(
                f"fields[{name!r}] must have as many steps as its panel, "
                f"got {model.schedule.steps} and {len(panels[name]) - 1}"
            )


def pack_fields(
    fields: Sequence[Mapping[str, DiffFlow]], panels: Sequence[str], view: Square
) -> tuple[bytes, dict[str, Any]]:
    """The arrows of every run's models, one after another, and where the page finds them.

    fields: models by panel title for each run; a model that serves several is sent once.
    """
    models = {id(model): model for run in fields for model in run.values()}
    one_step = 2 * len(KINDS) * GRID**2
    whole = one_step * sum(model.schedule.steps + 1 for model in models.values())
    stride = max(1, -(-whole // FIELD_BYTES))
    sent, places = b"", {}
    for key, model in models.items():
        drawn, scales = arrows(model, view, stride)
        places[key] = {"offset": len(sent), "frames": drawn.shape[1], "scales": scales}
        sent += drawn.tobytes()
    return sent, {
        "grid": GRID,
        "kinds": list(KINDS),
        "longest": LONGEST,
        "stride": stride,
        "runs": [{panels.index(name): places[id(m)] for name, m in run.items()} for run in fields],
    }


@torch.no_grad()
def arrows(model: DiffFlow, view: Square, stride: int = 1) -> tuple[np.ndarray, list[list[float]]]:
    """The fields of a model on a grid over the view, at every stride-th step.

    Drift and backward drift are the mean step of the particle a unit of time, the linear part
    included: (forward_mean − x)/Δt at t_i, and (backward_mean − x)/Δt as time runs back. Where
    there is no next step (t_N forward; t_0 backward, for the score too) the nearest one is shown.

    Returns int8 (kinds, steps, GRID², 2), where 127 is `LONGEST` times the scale, and the scales
    [kind][step], the 95 % quantile of the arrows' lengths.
    """
    points = torch.from_numpy(grid_points(GRID, view)).to(model.log_b_ratio)
    c = model.schedule
    made = []
    for i in range(0, c.steps + 1, stride):
        ahead, back, t = min(i, c.steps - 1), max(i - 1, 0), c.times[max(i, 1)]
        forward = (model.forward_mean(points, ahead) - points) / c.times.diff()[ahead]
        backward = (model.backward_mean(points, back) - points) / c.times.diff()[back]
        made.append(torch.stack([forward, model.score(points, t.to(points)), backward]))
    field = torch.stack(made, dim=1).nan_to_num(0.0, 0.0, 0.0).cpu().double().numpy()
    length = np.linalg.norm(field, axis=-1)
    scale = np.quantile(length, 0.95, axis=-1)
    share = field / np.where(scale > 0, scale, 1.0)[..., None, None]
    too_long = np.maximum(np.linalg.norm(share, axis=-1, keepdims=True) / LONGEST, 1.0)
    return np.rint(share / too_long / LONGEST * 127).astype(np.int8), scale.tolist()


def exact_density(density: Density, view: Square) -> np.ndarray:
    """The density on PIXELS × PIXELS squares of the view, first row on top, as uint8.

    Square roots of the squares' means over the 99.5 % quantile, so that tails are seen.
    """
    fine = torch.from_numpy(grid_points(PIXELS * SUPERSAMPLING, view))
    p = density.log_prob(fine).exp().numpy()
    p = p.reshape(PIXELS, SUPERSAMPLING, PIXELS, SUPERSAMPLING).mean(axis=(1, 3))
    top = np.quantile(p[p > 0], 0.995) if (p > 0).any() else 1.0
    return np.rint(255 * np.sqrt(np.clip(p / top, 0, 1))).astype(np.uint8)


def grid_points(side: int, view: Square) -> np.ndarray:
    """The middles of side × side squares of the view, (side², 2), row by row from the top left.

    >>> grid_points(2, (0.0, 0.0, 1.0)).tolist()
    [[-0.5, 0.5], [0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]]
    """
    x, y, half = view
    along = ((np.arange(side) + 0.5) / side * 2 - 1) * half
    across, up = np.meshgrid(x + along, y - along)
    return np.stack([across.ravel(), up.ravel()], axis=1)
