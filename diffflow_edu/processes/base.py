"""What every model here is (a process) and what it leaves behind (a trajectory)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from diffflow_edu.schedules import check_whole

Field = Callable[[Tensor, Tensor], Tensor]
"""A drift or a score: (x (B, *shape), t 0-d) -> (B, *shape)."""


@dataclass(frozen=True, eq=False, repr=False)
class Trajectory:
    """What a process leaves behind: particles at every time.

    times: (N + 1,) rising from 0 (data) to T (noise), whichever way the process ran.
    states: (N + 1, B, *shape), ``states[0]`` on the data side.

    >>> path = Trajectory(torch.tensor([0.0, 1.0]), torch.zeros(2, 5, 2))
    >>> len(path), path.start.shape
    (2, torch.Size([5, 2]))
    """

    times: Tensor
    states: Tensor

    def __post_init__(self) -> None:
        for name in ("times", "states"):
            if not isinstance(getattr(self, name), Tensor):
                got = type(getattr(self, name)).__name__
                raise ValueError(f"{name} must be a torch.Tensor, got {got}")
        if self.times.ndim != 1 or self.states.ndim < 2 or len(self.times) != len(self.states):
            raise ValueError(
                "a Trajectory needs times (N + 1,) and states (N + 1, B, *shape), "
                f"got times {tuple(self.times.shape)} and states {tuple(self.states.shape)}"
            )

    @property
    def start(self) -> Tensor:
        """The data side, (B, *shape)."""
        return self.states[0]

    @property
    def end(self) -> Tensor:
        """The noise side, (B, *shape)."""
        return self.states[-1]

    def __repr__(self) -> str:
        steps, (particles, *shape) = len(self) - 1, self.start.shape
        return f"Trajectory({steps} steps, {particles} particles of shape {tuple(shape)})"

    def __len__(self) -> int:
        """The number of states, N + 1."""
        return len(self.times)

    def __getitem__(self, step: int | slice) -> Tensor:
        """The particles at one step, (B, *shape); a slice gives several."""
        return self.states[step]

    def to_numpy(self) -> tuple[np.ndarray, np.ndarray]:
        """(times, states) as NumPy arrays on the CPU."""
        return self.times.detach().cpu().numpy(), self.states.detach().cpu().numpy()


def standard_normal_log_prob(x: Tensor) -> Tensor:
    """log N(x; 0, I) of each particle in nats. x: (B, *shape). Returns (B,)."""
    x = x.flatten(1)
    return -0.5 * (x.square().sum(1) + x.shape[1] * math.log(2 * math.pi))


def check_particles(x: Tensor, name: str = "x") -> None:
    """Raise a ValueError that names the argument unless x is a float tensor (B, *shape), B ≥ 1."""
    if not isinstance(x, Tensor):
        raise ValueError(
            f"{name} must be a torch.Tensor of shape (B, *shape), got {type(x).__name__}"
        )
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} must be float32 or float64, got {x.dtype}; try {name}.float()")
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(f"{name} must have shape (B, *shape) with B ≥ 1, got {tuple(x.shape)}")


def check_data(x: Tensor, weights: Iterable[Tensor], name: str = "x") -> None:
    """Raise a ValueError unless x is particles, `check_particles`, in the dtype of the weights."""
    check_particles(x, name)
    ours = {weight.dtype for weight in weights}
    if ours and x.dtype not in ours:
        raise ValueError(
            f"{name} must be {', '.join(map(str, ours))} like the model's networks, got {x.dtype}; "
            f"convert it with {name}.float() or {name}.double(), or the model with model.double()"
        )


def field_like(name: str, value: Tensor, x: Tensor) -> Tensor:
    """What a drift or score returned, in the dtype of x; autocast may have lowered it.

    Raises a ValueError that names the field unless it has the shape of x.
    """
    if not isinstance(value, Tensor) or value.shape != x.shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} must return a tensor like x, {tuple(x.shape)}, got {got}")
    return value.to(x)


class Process(nn.Module):
    """Carries particles between data (t = 0) and noise (t = T)."""

    bound_is_exact = False
    """Whether `bound` is −log p itself, as for flows."""

    def bound(self, x: Tensor) -> Tensor:
        """An upper bound on −log p(x), or its value, in nats. x: (B, *shape). Returns (B,)."""
        raise NotImplementedError

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats. x: (B, *shape). Returns (B,)."""
        raise NotImplementedError(f"{type(self).__name__} has no log_prob")

    def loss(self, x: Tensor) -> Tensor:
        """What `fit` minimises: an estimate of the mean of `bound`, a 0-d tensor in nats."""
        return self.bound(x).mean()

    def encode(self, x: Tensor, seed: int | None = None) -> Trajectory:
        """Carry data x (B, *shape) to noise."""
        raise NotImplementedError

    def sample(self, n: int, seed: int | None = None, shape: tuple[int, ...] = (2,)) -> Trajectory:
        """Carry n particles of the given shape from noise to data."""
        raise NotImplementedError

    def _check_data(self, x: Tensor) -> None:
        check_data(x, self.parameters())

    def forward(self, x: Tensor) -> Tensor:
        """The same as `loss`, so that wrappers such as DistributedDataParallel can train it."""
        return self.loss(x)


def generator_for(seed: int | None, device: torch.device) -> torch.Generator | None:
    """A generator with this seed on this device; None leaves the choice to torch's global one."""
    if seed is None:
        return None
    check_whole("seed", seed, least=0)
    return torch.Generator(device).manual_seed(int(seed))


def check_shape(shape: tuple[int, ...]) -> None:
    """Raise a ValueError unless shape is that of a particle: a tuple of positive whole numbers."""
    if not isinstance(shape, Sequence) or isinstance(shape, str):
        raise ValueError(f"shape must be a tuple of whole numbers such as (2,), got {shape!r}")
    for length in shape:
        check_whole("shape", length)
