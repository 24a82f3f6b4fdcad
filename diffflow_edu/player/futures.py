"""One start, many noises: where a point may go from a step on, and where it may have come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffflow_edu.player.pack import REACH, Square, quantise
from diffflow_edu.processes.base import Process
from diffflow_edu.processes.diffflow import DiffFlow
from diffflow_edu.processes.walk import Normals

FUTURES = 24
"""Ways through one point; more of them hide each other."""


def models_of(
    panels: Sequence[str],
    fields: Sequence[Mapping[str, DiffFlow]],
    grid: Sequence[Mapping[str, Process]],
) -> list[dict[int, Process]]:
    """The model of each panel, by its number, at every setting of the dials.

    A model with noise that serves several settings is left out: the settings differ in how it was
    run, in λ or in its grid, and it does not know how.
    """
    runs = [{**flows, **models} for models, flows in zip(fields, grid, strict=True)]
    serves = Counter(key for run in runs for key in {id(model) for model in run.values()})
    return [
        {
            panels.index(name): model
            for name, model in run.items()
            if serves[id(model)] == 1 or not isinstance(model, DiffFlow)
        }
        for run in runs
    ]


@torch.no_grad()
def futures(
    model: Process, x: Tensor, step: int, steps: int, count: int = FUTURES, seed: int = 0
) -> Tensor | None:
    """Ways through one point x (2,) at a step, (steps + 1, count, 2), the data side first.

    From the step on the ways follow the forward chain (equation 11), before it the backward chain
    (equation 12), whose last step is the mean, as in `sample`; each has noise of its own. A flow
    has one way, (steps + 1, 1, 2), which it tells from its two ends only: None in between, and
    where it has no way back.

    >>> from diffflow_edu import DDPM, Schedule
    >>> model = DDPM(lambda x, t: -x, Schedule.log_snr(steps=4), prediction="score")
    >>> ways = futures(model, torch.tensor([1.0, 0.0]), step=2, steps=4, count=3)
    >>> ways.shape, ways[2].tolist()
    (torch.Size([5, 3, 2]), [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    """
    if not isinstance(model, DiffFlow):
        return _way_of_flow(model, x[None], step, steps)
    here = x.to(model.log_b_ratio).expand(count, 2)
    draw = Normals(seed, (count, 2), here)
    ahead, behind = [here], []
    for i in range(step, steps):
        ahead.append(model.forward_step(ahead[-1], i, draw()))
    std = model.backward_std()
    for i in reversed(range(step)):
        here = model.backward_mean(here, i)
        if i > 0:
            here = here + float(std[i]) * draw()
        behind.append(here)
    return torch.stack([*reversed(behind), *ahead])


def _way_of_flow(model: Process, x: Tensor, step: int, steps: int) -> Tensor | None:
    weights = next(model.parameters(), None)
    x = x if weights is None else x.to(weights)
    try:
        if step == 0:
            return model.encode(x).states
        return model.decode(x).states if step == steps else None
    except NotImplementedError:  # a process of the reader's own need not go both ways
        return None


def answer(
    models: Mapping[int, Process], view: Square, steps: int, asked: Mapping[str, Any]
) -> tuple[dict[str, Any], list[bytes]]:
    """What the page gets for a point: the panels that have futures, and those as int16 bytes.

    asked: "at", (x, y) in the data's units, and "step", as futures.js sends them.
    """
    x, y, half = view
    start = torch.tensor(asked["at"], dtype=torch.float32)
    found = {panel: futures(model, start, asked["step"], steps) for panel, model in models.items()}
    told = {panel: ways for panel, ways in found.items() if ways is not None}
    packed = [
        quantise(ways.cpu().numpy(), (x, y), REACH * half).tobytes() for ways in told.values()
    ]
    return {"panels": list(told)}, packed
