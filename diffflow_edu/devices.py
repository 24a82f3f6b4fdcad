"""What differs between devices: float64, random states, and which one there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def accelerator() -> torch.device:
    """The machine's GPU of any make, the CPU where there is none."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator()
    return torch.device("cpu")


def has_double(device: torch.device) -> bool:
    """Whether float64 tensors can be on the device; an Apple GPU has none."""
    try:
        torch.empty(0, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


def double(x: Tensor) -> Tensor:
    """x in float64: where it is, or on the CPU if its device has no float64."""
    return x.double() if x.is_cpu or has_double(x.device) else x.cpu().double()


def cast_like(value: Tensor, x: Tensor) -> Tensor:
    """What was computed in float64, in the dtype of x and where x is; differentiable.

    In two steps, so that its gradient first comes to the CPU and there becomes float64: an Apple
    GPU cannot do both in one.
    """
    return value.to(x.dtype).to(x.device)


def rng_state(device: torch.device) -> Tensor | None:
    """The state of the device's global generator, on the CPU; None for the CPU's own."""
    if device.type == "cpu":
        return None
    module = torch.get_device_module(device)
    # There is one Apple GPU, and its module takes no device.
    return module.get_rng_state() if device.type == "mps" else module.get_rng_state(device)


def set_rng_state(state: Tensor, device: torch.device) -> None:
    """Put the device's global generator where `rng_state` found it."""
    module = torch.get_device_module(device)
    if device.type == "mps":
        module.set_rng_state(state)
    else:
        module.set_rng_state(state, device)


@contextmanager
def fork_rng(device: torch.device) -> Iterator[None]:
    """The global generators of the CPU and of one device are afterwards as they were."""
    state, here = torch.get_rng_state(), rng_state(device)
    try:
        yield
    finally:
        torch.set_rng_state(state)
        if here is not None:
            set_rng_state(here, device)
