"""What every model here is (a process) and what it leaves behind (a trajectory)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from diffflow_edu.nets import MLP, ResidualMLP
from diffflow_edu.schedules import check_positive, check_seed, check_whole, shortly

Field = Callable[[Tensor, Tensor], Tensor]
"""A drift or a score: (x (B, *shape), t 0-d) -> (B, *shape)."""


@dataclass(frozen=True, eq=False, repr=False)
class Trajectory:
    """What a process leaves behind: particles at every time.

    times: (N + 1,) rising from 0 (data) to T (noise), whichever way the process ran.
    states: (N + 1, B, *shape), ``states[0]`` on the data side.

    `start` and `end` are copies, so that what is kept of a path does not keep the path; one state
    by its number, ``path[i]``, is a view.

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
        _check_times(self.times.detach())

    @property
    def start(self) -> Tensor:
        """The data side, (B, *shape), in memory of its own."""
        return self.states[0].clone()

    @property
    def end(self) -> Tensor:
        """The noise side, (B, *shape), in memory of its own."""
        return self.states[-1].clone()

    def __repr__(self) -> str:
        steps, (particles, *shape) = len(self) - 1, self.states.shape[1:]
        return f"Trajectory({steps} steps, {particles} particles of shape {tuple(shape)})"

    def __len__(self) -> int:
        """The number of states, N + 1."""
        return len(self.times)

    def __getitem__(self, step: int | slice) -> Tensor:
        """The particles at one step, (B, *shape), a view; a slice gives several."""
        return self.states[step]

    def to_numpy(self) -> tuple[np.ndarray, np.ndarray]:
        """(times, states) as NumPy arrays on the CPU."""
        return self.times.detach().cpu().numpy(), self.states.detach().cpu().numpy()


def _check_times(times: Tensor) -> None:
    """Raise a ValueError unless times are finite and none comes before the one before it."""
    # Two times of a fine grid may be one in float32, hence not strictly.
    if not times.isfinite().all():
        raise ValueError(f"times must be finite, got {times[~times.isfinite()][0]:g}")
    falls = (times.diff() < 0).nonzero()
    if len(falls):
        i = int(falls[0])
        raise ValueError(
            "times must rise from data to noise, whichever way the process ran, "
            f"got {times[i]:g} then {times[i + 1]:g} at step {i}"
        )


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


def warn_of_levels(x: Tensor) -> None:
    """Warn where x (B, *shape) are pictures in whole grey levels: a density is of real numbers.

    Pictures have 16 numbers or more; theirs are few and all on one lattice, so that many are equal.
    """
    if x[0].numel() < 16:
        return
    values = x.detach().flatten()[:2048].cpu()
    levels = values.unique()
    if not 2 < len(levels) <= min(256, len(values) // 2):
        return
    steps = levels.diff().double()
    steps = steps / steps.min()
    if bool(((steps - steps.round()).abs() < 0.05).all()):
        warnings.warn(
            f"x holds only {len(levels)} levels at equal distances, like pictures that were not "
            "dequantised: a density there can be made as large as one likes, and bits/dim say "
            "nothing. Images.dequantise adds the uniform noise that they need.",
            stacklevel=4,
        )


def field_like(name: str, value: Tensor, x: Tensor) -> Tensor:
    """What a drift or score returned, in the dtype of x; autocast may have lowered it.

    Raises a ValueError that names the field unless it has the shape of x.
    """
    if not isinstance(value, Tensor) or value.shape != x.shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} must return a tensor like x, {tuple(x.shape)}, got {got}")
    return value.to(x)


def told_shape(field: object) -> tuple[int, ...] | None:
    """The shape of a particle, where a network tells it: by `shape`, or as one of our MLPs.

    Wrappers such as `NoisePrediction` are asked for their `net`. None where nothing is told.
    """
    while field is not None:
        shape = getattr(field, "shape", None)
        if isinstance(shape, tuple):
            return shape
        if isinstance(field, (MLP, ResidualMLP)):
            return (field.dim,)
        field = getattr(field, "net", None)
    return None


class Process(nn.Module):
    """Carries particles between data (t = 0) and noise (t = T).

    Data enter and leave in their own units. A model with a standardisation, `set_standardisation`,
    works on (x − mean)/scale inside; its fields, and all that is asked of them at a step, such as
    `drift_at`, know these units only.
    """

    bound_is_exact = False
    """Whether `bound` is −log p itself, as for flows."""

    classes = 0
    """How many classes a `label` may name; most processes take none."""

    _shape: tuple[int, ...] | None = None
    _seen: tuple[int, ...] | None = None

    def bound(self, x: Tensor, seed: int | Sequence[int] | None = None) -> Tensor:
        """An upper bound on −log p(x), or its value, in nats. x: (B, *shape). Returns (B,).

        seed: of what is drawn, with the global generator left alone; None draws from that.
        """
        raise NotImplementedError

    def log_prob(self, x: Tensor, seed: int | None = None) -> Tensor:
        """log p(x) in nats. x: (B, *shape). Returns (B,). seed: of what is drawn."""
        raise NotImplementedError(f"{type(self).__name__} has no log_prob")

    def loss(self, x: Tensor) -> Tensor:
        """What `fit` minimises: an estimate of the mean of `bound`, a 0-d tensor in nats."""
        return self.bound(x).mean()

    def encode(
        self,
        x: Tensor,
        seed: int | Sequence[int] | None = None,
        *,
        keep: Literal["all", "end"] = "all",
        batch: int | None = None,
    ) -> Trajectory:
        """Carry data x (B, *shape) to noise. seed, keep, batch: as in `sample`."""
        raise NotImplementedError

    def sample(
        self,
        n: int,
        seed: int | Sequence[int] | None = None,
        shape: tuple[int, ...] | None = None,
        *,
        keep: Literal["all", "end"] = "all",
        batch: int | None = None,
    ) -> Trajectory:
        """Carry n particles of the given shape from noise to data.

        seed: a whole number decides all of them together, so the first ten of twenty are others
            than ten alone; a sequence of n has one for each, which then does not depend on n.
        shape: of one particle, by default the model's.
        keep: "end" holds the two ends alone, in the memory of two states.
        batch: how many particles go through the networks at a time.
        """
        raise NotImplementedError

    def decode(
        self,
        z: Tensor,
        seed: int | Sequence[int] | None = None,
        *,
        keep: Literal["all", "end"] = "all",
        batch: int | None = None,
    ) -> Trajectory:
        """Carry given noise z (B, *shape) to data. The others are those of `sample`."""
        raise NotImplementedError

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        """The same as `loss`, so that wrappers such as DistributedDataParallel can train it."""
        return self.loss(x, **options)

    # Shape and units -----------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one particle, where `sample` is not told.

        What was given, else what the networks tell, else that of the latest data seen, else (2,).
        """
        keeper = self._keeper()
        return keeper._known_shape() or keeper._seen or (2,)

    @shape.setter
    def shape(self, shape: tuple[int, ...]) -> None:
        check_shape(shape)
        self._keeper()._shape = tuple(int(length) for length in shape)

    @property
    def shape_known(self) -> bool:
        """Whether `shape` was given or is told by the networks, and holds for all data."""
        return self._keeper()._known_shape() is not None

    @property
    def standardised(self) -> bool:
        """Whether the model keeps a mean and a scale of its data, in `data_mean`, `data_scale`."""
        return "data_mean" in self._keeper()._buffers

    def set_standardisation(self, mean: Tensor | float, scale: Tensor | float) -> None:
        """From now on data x are (x − mean)/scale to the networks, and samples come back as x.

        bound, log_prob and a loss in nats count the change of volume, d log(scale) for particles
        of d numbers. A Trajectory leaves in data units at its start and as standard noise z at its
        end; in between, at step i of N, with w = i/N,

            x_i = (1 − w) mean + scale^(1 − w) z_i

        mean: a number, or a tensor of the shape of one particle. scale: one positive number.
        Both become buffers, saved with the weights. Call it before training; it replaces an
        earlier one. Raises ValueError for a mean or a scale that is not finite, for scale ≤ 0,
        and for a mean of another shape than the model's.
        """
        keeper = self._keeper()
        like = next(keeper.parameters(), None)
        mean, scale = (_as_float(v, like) for v in (mean, scale))
        if not bool(mean.isfinite().all()):
            raise ValueError(f"mean must be finite, got {shortly(mean.tolist())}")
        if scale.ndim != 0:
            raise ValueError(f"scale must be one number, got shape {tuple(scale.shape)}")
        check_positive(scale=scale.item())
        if mean.ndim:
            if keeper.shape_known and mean.shape != keeper.shape:
                raise ValueError(
                    f"mean must be a number or have the shape of a particle, {keeper.shape}, "
                    f"got {tuple(mean.shape)}"
                )
            keeper.shape = tuple(mean.shape)
        keeper.register_buffer("data_mean", mean)
        keeper.register_buffer("data_scale", scale)

    def clear_standardisation(self) -> None:
        """Back to data as they are: mean and scale are forgotten."""
        keeper = self._keeper()
        for name in STANDARDISATION:
            keeper._buffers.pop(name, None)

    def in_units_of(self, model: Process) -> Process:
        """Take shape and standardisation of another model, held, not copied. Returns self."""
        ours, theirs = self._keeper(), model._keeper()
        ours._shape, ours._seen = theirs._shape, theirs._seen
        ours.clear_standardisation()
        if theirs.standardised:
            for name in STANDARDISATION:
                ours.register_buffer(name, getattr(theirs, name))
        return self

    def _keeper(self) -> Process:
        """Who knows shape and standardisation: this process, or the one that it is made of."""
        return self

    def _known_shape(self) -> tuple[int, ...] | None:
        told = (told_shape(getattr(self, name, None)) for name in ("drift", "score"))
        return self._shape or next((shape for shape in told if shape is not None), None)

    def _check_data(self, x: Tensor, name: str = "x") -> None:
        check_data(x, self.parameters(), name)

    def _enter(self, x: Tensor) -> Tensor:
        """Data x (B, *shape), checked, in the units of the networks: (x − mean)/scale."""
        self._check_data(x)
        if not self.training:
            warn_of_levels(x)
        keeper = self._keeper()
        keeper._seen = tuple(x.shape[1:])
        if not keeper.standardised:
            return x
        mean = keeper.data_mean.to(x)
        if mean.ndim and mean.shape != x.shape[1:]:
            raise ValueError(
                f"x must have the shape of the model's mean, (B, {', '.join(map(str, mean.shape))})"
                f", got {tuple(x.shape)}"
            )
        return (x - mean) / keeper.data_scale.to(x)

    def _leave(self, states: Tensor) -> Tensor:
        """States (N + 1, B, *shape), data first, from the units of the networks, in place."""
        keeper = self._keeper()
        if not keeper.standardised:
            return states
        share = torch.linspace(1, 0, len(states), dtype=states.dtype, device=states.device)
        share = share.reshape(-1, *[1] * (states.ndim - 1))
        scale, mean = keeper.data_scale.to(states), keeper.data_mean.to(states)
        return states.mul_(scale**share).add_(share * mean)

    def _volume(self, x: Tensor) -> Tensor | float:
        """d log(scale) nats, 0-d: what −log p of x in its own units has on top of (x − mean)/scale.

        x: (B, *shape). 0 without a standardisation.
        """
        keeper = self._keeper()
        return x[0].numel() * keeper.data_scale.to(x).log() if keeper.standardised else 0.0

    def _per_data(self, log_p: Tensor, x: Tensor) -> Tensor:
        """log p of data in their own units from that of x = (data − mean)/scale, nats. Like log_p.

        x: (B, *shape).
        """
        return log_p - self._volume(x) if self.standardised else log_p

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        # Weights of a standardised model bring their mean and scale with them.
        like = next(self.parameters(), None)
        for name in STANDARDISATION:
            if prefix + name in state:
                self.register_buffer(name, _as_float(state[prefix + name], like).clone())
        super()._load_from_state_dict(state, prefix, *rest)


STANDARDISATION = ("data_mean", "data_scale")
"""The buffers of a model with a standardisation."""


def _as_float(value: Tensor | float, like: Tensor | None) -> Tensor:
    """A number or tensor in the dtype and on the device of the weights, where there are any."""
    value = torch.as_tensor(value).detach()
    if like is not None:
        return value.to(like.device, like.dtype)
    return value if value.is_floating_point() else value.to(torch.get_default_dtype())


def generator_for(seed: int | None, device: torch.device) -> torch.Generator | None:
    """A generator with this seed on this device; None leaves the choice to torch's global one."""
    if seed is None:
        return None
    check_seed(seed)
    return torch.Generator(device).manual_seed(int(seed))


def check_shape(shape: tuple[int, ...]) -> None:
    """Raise a ValueError unless shape is that of a particle: a tuple of positive whole numbers."""
    if not isinstance(shape, Sequence) or isinstance(shape, str):
        raise ValueError(
            f"shape must be a tuple of whole numbers such as (2,), got {shortly(shape)}"
        )
    for length in shape:
        check_whole("shape", length)
