"""What a model would be trained by, and what would be forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from diffflow_edu.processes.adjoint import leaves
from diffflow_edu.processes.base import Process

LOOKS = 8
"""Times at which a field is asked what it depends on; it may use other numbers at others."""


def check_learnables(model: Process, x: Tensor) -> None:
    """Raise a ValueError where a field depends on learnables that the model does not know of.

    An optimizer asks the model for its parameters, and a model knows those of its modules alone:
    not those of a network that a function closes over, or that a module keeps in a list.

    x: (B, *shape), in the model's dtype and on its device.
    """
    known = set(model.parameters())
    training = model.training
    model.eval()
    try:
        for name, output in _outputs(model, x):
            forgotten = [leaf for leaf in _kept(output) if leaf not in known]
            if forgotten:
                count = sum(leaf.numel() for leaf in forgotten)
                shapes = ", ".join(str(tuple(leaf.shape)) for leaf in forgotten[:4])
                more = ", …" if len(forgotten) > 4 else ""
                raise ValueError(
                    f"{name} depends on {count} learnable numbers, {shapes}{more}, that are not "
                    "among model.parameters() and would never be trained. A model finds what it "
                    "learns in nn.Modules: pass the network itself instead of a function that "
                    "calls it, and inside a module keep networks as attributes or in an "
                    "nn.ModuleList, nn.ModuleDict or nn.ParameterList; freeze what is to stay with "
                    "requires_grad_(False)"
                )
    finally:
        model.train(training)


def _outputs(model: Process, x: Tensor) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """The names of what is learned, and how to evaluate it."""
    schedule = getattr(model, "schedule", None)
    end = getattr(model, "T", 1.0)
    times = torch.linspace(0, end, 3) if schedule is None else schedule.times[1:]
    times = times[:: max(1, len(times) // LOOKS)]
    fields = [(name, getattr(model, name, None)) for name in ("drift", "score")]
    fields = [(name, field) for name, field in fields if callable(field)]
    for name, field in fields:
        for t in times.to(x):
            yield name, lambda field=field, t=t: field(x, t)
    if not fields:
        yield "the loss", lambda: model.loss(x)


def _kept(output: Callable[[], Tensor]) -> list[Tensor]:
    """The leaves of an output that are the same objects each time, not made on the way."""
    first = leaves(output())
    if not first:
        return []
    again = {id(leaf) for leaf in leaves(output())}
    return [leaf for leaf in first if id(leaf) in again]
