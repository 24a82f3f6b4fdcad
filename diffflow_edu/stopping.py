"""Ending work within seconds: between two evaluations of a network, not between two steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from diffflow_edu.devices import rng_state, set_rng_state

Stop = Callable[[], bool]
"""Asked whether to stop; it may look at a clock or at a signal."""


class Stopped(Exception):  # noqa: N818, it is no error
    """Raised inside `asking`, before a part of a network is evaluated, where it is time to stop."""


@contextmanager
def asking(model: nn.Module, stop: Stop | None) -> Iterator[None]:
    """Ask before every evaluation of a network of the model, and of its larger parts.

    Inside the block `Stopped` is raised where stop() is true. stop None: nothing is asked. A net
    that went through torch.compile is not looked into, since the question would be compiled too.
    """

    def ask(*_: object) -> None:
        if stop():
            raise Stopped

    parts = [] if stop is None else _parts(model)
    handles = [part.register_forward_pre_hook(ask) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _parts(model: nn.Module) -> list[nn.Module]:
    """The model, its children, and all below that have children of their own."""
    found, waiting = {model: None}, [model]
    while waiting:
        module = waiting.pop()
        for child in module.children():
            has_parts = next(child.children(), None) is not None
            if child._compiled_call_impl is None and (has_parts or module is model):
                found[child] = None
                waiting.append(child)
    return list(found)


def way_back(model: nn.Module, device: torch.device) -> Callable[[], None]:
    """A function that undoes what evaluations change: random states, and buffers of the model."""
    cpu, here = torch.get_rng_state(), rng_state(device)
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]

    @torch.no_grad()
    def go_back() -> None:
        torch.set_rng_state(cpu)
        if here is not None:
            set_rng_state(here, device)
        for buffer, value in buffers:
            buffer.copy_(value)

    return go_back
