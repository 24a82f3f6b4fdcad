"""What `fit` may be given as data: understood or refused, compared with the model, recognised."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from numbers import Real
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffflow_edu import noise_range
from diffflow_edu.labels import as_labels
from diffflow_edu.processes.base import Process
from diffflow_edu.processes.ddpm import DDPM
from diffflow_edu.schedules import Schedule, VariancePreserving

PIECE = 2**20
"""Numbers looked at together: a data set may fill half the memory."""

MEASURED = 10_000
"""Particles that a density or a Dataset is standardised by."""

ENOUGH = 64
"""Particles from which on the spread of one coordinate is judged."""

UNIT = (0.1, 5.0)
"""Standard deviations that the networks get along with."""

FAR = 3.0
"""And how far from 0 the centre may lie, a coordinate."""

DROWNED = 0.3
"""What may be left of the centre, a coordinate, at the end of a fixed diffusion."""

WIDE = 1.25
"""And the largest standard deviation of a coordinate there; sampling starts with 1."""


class Samplable(Protocol):
    """Anything that draws data, such as a density of `diffflow_edu.toy`."""

    def sample(self, n: int, seed: int | None = None) -> Tensor:
        """Draw (n, *shape) particles, from torch's global generator where seed is None."""
        ...


Data = Samplable | Tensor | np.ndarray | Dataset

Batch = tuple[Tensor, Tensor | None]
"""Particles (n, *shape) and, where the data have labels, theirs (n,)."""


class Source:
    """Data in the dtype and on the device of a model's parameters; name: the argument's.

    classes: of the labels that come with the particles; 0 where none do.
    """

    def __init__(self, data: Any, like: Tensor, name: str = "data", classes: int = 0) -> None:
        self.data, self.like, self.name, self.classes = data, like, name, classes

    def draw(self, n: int) -> Tensor:
        """n particles (n, *shape), from torch's global generator."""
        return self.batch(n)[0]

    def batch(self, n: int) -> Batch:
        """The same, with their labels."""
        raise NotImplementedError

    def some(self, n: int) -> Iterator[Tensor]:
        """About n particles, or all where there are fewer, in pieces."""
        raise NotImplementedError

    def all(self) -> Batch:
        """Every particle there is; of a density, `MEASURED` draws."""
        raise NotImplementedError

    def _labels(self, label: Any, n: int) -> Tensor | None:
        """What came as labels of n particles, checked, where the data have any."""
        if not self.classes:
            return None
        label = as_labels(label, self.classes, f"labels of {self.name}")
        if label.shape != (n,):
            raise ValueError(
                f"labels of {self.name} must be one for each of {n} particles, "
                f"got shape {tuple(label.shape)}"
            )
        return label.to(self.like.device)

    def fingerprint(self) -> str:
        """The data in words, with a digest that other data do not share."""
        raise NotImplementedError


class Rows(Source):
    """A tensor (n, *shape), and perhaps labels (n,)."""

    def __init__(
        self, data: Tensor, like: Tensor, name: str, classes: int = 0, labels: Any = None
    ) -> None:
        super().__init__(data, like, name, classes)
        self.labels = self._labels(labels, len(data))

    def batch(self, n: int) -> Batch:
        """Rows with replacement."""
        rows = torch.randint(len(self.data), (n,)).to(self.data.device)
        return self.data[rows], None if self.labels is None else self.labels[rows]

    def some(self, n: int) -> Iterator[Tensor]:
        """Evenly spaced rows."""
        rows = self.data[:: max(1, len(self.data) // n)]
        for part in rows.tensor_split(8):  # what is made of one is smaller than the data
            if len(part):
                yield from pieces(part)

    def all(self) -> Batch:
        """The rows."""
        return self.data, self.labels

    def fingerprint(self) -> str:
        """Shape, and a digest of every number as the model sees it."""
        labels = "" if self.labels is None else f" labels {digest(self.labels)}"
        return f"tensor {tuple(self.data.shape)} {digest(self.data)}{labels}"


class Draws(Source):
    """A density, or whatever has .sample(n), with labels by .sample_labelled(n)."""

    def batch(self, n: int) -> Batch:
        """Fresh draws."""
        if not self.classes:
            return as_particles(self.data.sample(n), self.name).to(self.like), None
        x, label = self.data.sample_labelled(n)
        return as_particles(x, self.name).to(self.like), self._labels(label, n)

    def some(self, n: int) -> Iterator[Tensor]:
        """Fresh draws, a thousand at once."""
        for first in range(0, n, 1000):
            yield self.draw(min(1000, n - first))

    def all(self) -> Batch:
        """As many draws as are measured."""
        sizes = (min(1000, MEASURED - first) for first in range(0, MEASURED, 1000))
        return _joined([self.batch(size) for size in sizes])

    def fingerprint(self) -> str:
        """Its fields where it is a dataclass, such as `images.Images`, else a few draws."""
        kind = type(self.data).__name__ + (" with labels" if self.classes else "")
        if is_dataclass(self.data):
            values = (getattr(self.data, field.name) for field in fields(self.data))
            return f"{kind} {digest(*values)}"
        return f"{kind} {_repeated(lambda: digest(*self.batch(ENOUGH)[: 1 + bool(self.classes)]))}"


class Items(Source):
    """A Dataset, whose items are tensors or begin with one; a label comes second."""

    def batch(self, n: int) -> Batch:
        """Items with replacement."""
        return self._stack(torch.randint(len(self.data), (n,)).tolist())

    def some(self, n: int) -> Iterator[Tensor]:
        """Evenly spaced items."""
        rows = range(0, len(self.data), max(1, len(self.data) // n))
        for first in range(0, len(rows), 500):
            yield self._stack(rows[first : first + 500])[0]

    def all(self) -> Batch:
        """Every item."""
        rows = range(len(self.data))
        return _joined([self._stack(rows[first : first + 500]) for first in rows[::500]])

    def fingerprint(self) -> str:
        """How many, and a digest of some."""
        digests = _repeated(lambda: digest(*self.some(ENOUGH)))
        if self.classes:
            rows = range(0, len(self.data), max(1, len(self.data) // ENOUGH))
            digests += f" labels {digest(self._stack(rows)[1])}"
        return f"{type(self.data).__name__} of {len(self.data)} {digests}"

    def _stack(self, rows: Any) -> Batch:
        items = [self.data[row] for row in rows]
        values = [item[0] if isinstance(item, (tuple, list)) else item for item in items]
        batch = torch.stack([torch.as_tensor(value) for value in values])
        if not batch.is_floating_point():
            raise ValueError(
                f"{self.name} must hold floating point items, got {batch.dtype}; scale it"
            )
        labels = None
        if self.classes:
            if not all(isinstance(item, (tuple, list)) and len(item) > 1 for item in items):
                raise ValueError(
                    f"labels=True needs items (x, label) of {self.name}, got "
                    f"{type(items[0]).__name__}s alone; or pass labels=… as a tensor"
                )
            labels = [item[1] for item in items]
            labels = [one.item() if getattr(one, "shape", None) == () else one for one in labels]
        return batch.to(self.like), self._labels(labels, len(items))


def _joined(batches: list[Batch]) -> Batch:
    particles, labels = zip(*batches, strict=True)
    return torch.cat(particles), None if labels[0] is None else torch.cat(labels)


# Understanding ------------------------------------------------------------------------------------


def understood(
    data: Data, like: Tensor, name: str = "data", labels: Any = None, classes: int = 0
) -> Source:
    """What was given, as a source of particles like a model's parameters.

    labels: True where the data have them, or those of a tensor; of so many classes.
    Raises a ValueError that says what to pass instead for what cannot be understood.
    """
    if isinstance(data, tuple):
        raise ValueError(
            f"{name} must be one set of particles, got a tuple of {len(data)}; pass data alone, "
            "what is kept for validation as validation=…, and labels as labels=…"
        )
    data, own = _as_array(data, name), labels is True
    if own and isinstance(data, (Tensor, np.ndarray)):
        raise ValueError(
            f"{name} must come with labels, got a tensor or an array alone: pass "
            "TensorDataset(x, label)" + (", or the labels in place of True" * (name == "data"))
        )
    if isinstance(data, (Tensor, np.ndarray)):
        rows = as_particles(data, name).to(like)
        _check_finite(rows, name)
        return Rows(rows, like, name, 0 if labels is None else classes, labels)
    if not (labels is None or own):
        raise ValueError(
            f"labels must be True for {name} of type {type(data).__name__}, whose own labels are "
            f"taken, got {type(labels).__name__}; a tensor of labels belongs to a tensor of data"
        )
    classes = classes if own else 0
    if isinstance(data, DataLoader):
        raise ValueError(f"{name} must not be a DataLoader: fit makes batches; pass its .dataset")
    if callable(getattr(data, "sample", None)):
        if own and not callable(getattr(data, "sample_labelled", None)):
            raise ValueError(
                f"labels=True needs a {name}.sample_labelled(n) that returns (x, label); "
                f"{type(data).__name__} has none"
            )
        return Draws(data, like, name, classes)
    plain = (str, bytes, dict, set)
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, plain):
        if len(data) == 0:
            raise ValueError(f"{name} must hold at least one item, got an empty Dataset")
        return Items(data, like, name, classes)
    raise ValueError(
        f"{name} must be a density with .sample(n), a tensor or array (n, *shape) or a torch "
        f"Dataset with a length, got {type(data).__name__}"
    )


def _as_array(data: Any, name: str) -> Any:
    """Frames and lists of rows of numbers as arrays; all else as it came."""
    if hasattr(data, "toarray") and not isinstance(data, (Tensor, np.ndarray)):
        raise ValueError(f"{name} must be dense, got {type(data).__name__}; pass {name}.toarray()")
    if callable(getattr(data, "to_numpy", None)):  # before .sample, which frames have, too
        array = data.to_numpy()
        if array.dtype == object:
            wrong = [
                f"{column} ({kind})"
                for column, kind in zip(
                    getattr(data, "columns", []), getattr(data, "dtypes", []), strict=False
                )
                if getattr(kind, "kind", "O") not in "fiub"
            ]
            raise ValueError(
                f"{name} must hold numbers alone, got a {type(data).__name__} with columns that "
                f"hold others: {', '.join(wrong) or 'mixed ones'}; drop or encode them"
            )
        return array
    if isinstance(data, list) and data and isinstance(data[0], (list, tuple)):
        if data[0] and all(isinstance(number, Real) for number in data[0]):
            raise ValueError(
                f"{name} must have shape (B, *shape) as a tensor or array, got a list of lists of "
                "numbers; pass torch.tensor(…) of it"
            )
    return data


def as_particles(data: Any, name: str) -> Tensor:
    """A tensor or array of floating point numbers (n, *shape), n ≥ 1, as a plain tensor.

    Raises a ValueError for anything else that says how to make it one.
    """
    if isinstance(data, np.ma.MaskedArray):
        if np.ma.is_masked(data):
            raise ValueError(
                f"{name} must be complete, got an array with {np.ma.count_masked(data)} of "
                f"{data.size} entries masked; drop these rows or fill them in"
            )
        data = data.data
    if isinstance(data, np.ndarray):
        if data.dtype.names:
            raise ValueError(
                f"{name} must be an array of numbers, got one of records "
                f"({', '.join(data.dtype.names)}); "
                "numpy.lib.recfunctions.structured_to_unstructured makes columns of them"
            )
        if not np.issubdtype(data.dtype, np.number) and data.dtype != bool:
            raise ValueError(
                f"{name} must be a density with .sample(n), a tensor or array of numbers "
                f"(n, *shape) or a torch Dataset, got an array of {data.dtype}"
            )
        if data.dtype == np.longdouble:
            data = data.astype(np.float64)
        data = torch.from_numpy(np.ascontiguousarray(data, data.dtype.newbyteorder("=")))
    if not isinstance(data, Tensor):
        raise TypeError(f"{name} must be a tensor or an array, got {type(data).__name__}")
    if data.layout != torch.strided or data.is_nested:
        what = "nested" if data.is_nested else str(data.layout).removeprefix("torch.")
        raise ValueError(f"{name} must be a dense tensor, got a {what} one; try {name}.to_dense()")
    if not data.is_floating_point():
        hint = (
            "take its real part, or both as coordinates" if data.is_complex() else "scale it first"
        )
        raise ValueError(f"{name} must be floating point, got {data.dtype}; {hint}")
    if data.ndim < 2 or len(data) == 0:
        raise ValueError(
            f"{name} must have shape (B, *shape) with B ≥ 1, got {tuple(data.shape)}; it must hold "
            "at least one particle, and numbers are particles as (B, 1)"
        )
    return data.detach() if data.requires_grad else data


def pieces(data: Tensor) -> Iterator[Tensor]:
    """The rows of data, so many at once that their numbers are few."""
    yield from data.split(max(1, PIECE // max(1, data[0].numel())))


def _check_finite(data: Tensor, name: str) -> None:
    bad = sum(int((~piece.isfinite()).flatten(1).any(1).sum()) for piece in pieces(data))
    if bad:
        raise ValueError(f"{name} must be finite, got NaN or infinity in {bad} of {len(data)} rows")


# Comparing with the model -------------------------------------------------------------------------


def check_fits(source: Source, model: Process, batch_size: int) -> Tensor:
    """Draw one batch, check it, and put two of its particles through the model; returns it.

    Raises a ValueError where the data cannot be drawn, or do not fit the model.
    """
    name = source.name
    try:
        batch, label = source.batch(batch_size)
    except (AttributeError, LookupError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{name} must give tensors: a density whose .sample(n) returns (n, *shape), a tensor "
            f"or array, or a Dataset of tensors. Drawing a first batch failed: {error}"
        ) from error
    if batch.ndim < 2:
        raise ValueError(f"{name} must have shape (B, *shape), got batches {tuple(batch.shape)}")
    if len(batch) != batch_size:
        raise ValueError(f"{name}.sample({batch_size}) must return as many, got {len(batch)}")
    _check_finite(batch, name)
    shape = tuple(batch.shape[1:])
    if model.shape_known and shape != model.shape:
        numbers = math.prod(model.shape)
        hint = ""
        if shape[-len(model.shape) :] == model.shape:
            hint = (
                ". The first axis alone counts particles: use flatten(0, 1) where two do, and pass "
                "what is kept for validation as validation=…"
            )
        raise ValueError(
            f"{name} of shape {shape} a particle does not fit the model: x must have {numbers} "
            f"numbers a particle, of shape {model.shape}{hint}"
        )
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(batch[:2])
            if label is not None:
                model(batch[:2], label=label[:2])
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name} of shape {shape} a particle does not fit the model: {error}"
        ) from error
    finally:
        model.train(training)
    return batch


def moments(source: Source, first: Tensor | None = None, count: int = MEASURED) -> tuple[Any, ...]:
    """(n, mean, variance) of about so many particles; both (*shape) float64 on the CPU.

    first: a batch that was drawn before, to be taken where a density need not be asked again.
    """
    number, total, square, origin = 0, 0.0, 0.0, None
    for piece in source.some(count) if first is None else pieces(first):
        # Sums are accumulated in 64 bits on the CPU: some devices have 32 alone.
        piece = piece.cpu().double()
        origin = piece[0].clone() if origin is None else origin
        away = piece - origin
        number, total = number + len(piece), total + away.sum(0)
        square = square + away.square().sum(0)
    mean = total / number
    return number, origin + mean, (square / number - mean.square()).clamp_min(0)


def standardise(model: Process, source: Source) -> str | None:
    """Give the model mean and scale of the data; what to say where it keeps others that it has."""
    _, mean, variance = moments(source, count=max(MEASURED, _length(source)))
    scale = float(variance.mean().sqrt())
    if not scale > 0:
        raise ValueError("standardise needs data that vary, got particles that are all the same")
    if not model.standardised:
        model.set_standardisation(mean, scale)
        return None
    kept, ours = model.data_mean.cpu().double(), float(model.data_scale)
    if abs(ours / scale - 1) < 0.1 and float((kept - mean).abs().max()) < 0.1 * scale:
        return None
    return (
        f"the model keeps the standardisation that it has (scale {ours:.3g}); these data have "
        f"scale {scale:.3g}. model.clear_standardisation() before training takes theirs."
    )


def _length(source: Source) -> int:
    return len(source.data) if isinstance(source, Rows) else 0


def doubts(source: Source, model: Process, batch: Tensor) -> list[str]:
    """What is odd about centre, scale and range of the data, for this model: whole sentences."""
    if isinstance(source, Rows):
        rows = max(ENOUGH, PIECE // batch[0].numel())
        n, mean, variance = moments(source, count=min(MEASURED, rows))
    else:
        more = range(len(batch), ENOUGH, len(batch))
        batch = torch.cat([batch, *(source.draw(len(batch)) for _ in more)])
        n, mean, variance = moments(source, batch)
    if n < 2:
        return []
    scale = float(model.data_scale) if model.standardised else 1.0
    if model.standardised:
        mean = (mean - model.data_mean.cpu().double()) / scale
        variance = variance / scale**2
    spread, centre = float(variance.mean().sqrt()), float(mean.square().mean().sqrt())
    found = []
    remedy = (
        "fit(…, standardise=True) does it, remembers both numbers and gives samples in your units."
    )
    if not UNIT[0] < spread < UNIT[1]:
        found.append(
            f"{source.name} has a standard deviation of {spread:.3g}; the networks expect about 1. "
            f"Subtract the mean and divide by one number first: {remedy}"
        )
    if centre > FAR * max(1.0, spread):
        found.append(
            f"{source.name} is centred {centre:.3g} a coordinate away from 0, where the networks "
            f"expect it. Subtract the mean: {remedy}"
        )
    schedule = getattr(model, "schedule", None)
    if isinstance(schedule, Schedule):
        if isinstance(model, DDPM) and isinstance(schedule.noise_process, VariancePreserving):
            found += _not_drowned(source, schedule, mean, variance, remedy, scale)
        if mean.ndim == 1 and n >= ENOUGH:  # border pixels of pictures hardly vary
            found += _not_resolved(source.name, schedule, variance, spread)
    return found


def _not_drowned(
    source: Source,
    schedule: Schedule,
    mean: Tensor,
    variance: Tensor,
    remedy: str,
    scale: float,
) -> list[str]:
    """Of a fixed diffusion: what x_T is, where sampling starts from N(0, I)."""
    noise, end = schedule.noise_process, schedule.times[-1]
    alpha, sigma = float(noise.alpha(end)), float(noise.sigma(end))
    centre, widest = float(mean.square().mean().sqrt()), float(variance.max().sqrt())
    left, std = alpha * centre, math.hypot(alpha * widest, sigma)
    if left <= DROWNED and std <= WIDE:
        return []
    some = torch.cat(list(source.some(noise_range.MEASURED)))
    r_max = max(10 * centre, noise_range.noise_range(some, scale).r_max)
    return [
        f"the noise of this schedule, r_max = {sigma / alpha:.3g}, does not drown {source.name}: a "
        f"coordinate ends with a mean of {left:.2g} and a standard deviation of up to {std:.3g}, "
        f"but sampling starts from N(0, 1). Centre and scale them: {remedy} Or take a schedule "
        f"such as Schedule.log_snr(r_max={r_max:.2g})."
    ]


def _not_resolved(name: str, schedule: Schedule, variance: Tensor, spread: float) -> list[str]:
    """Of vectors: the narrowest coordinate against the first noise."""
    narrowest, where = (float(v) for v in variance.sqrt().min(0))
    first = schedule.times[1]
    r = float(schedule.noise_process.sigma(first) / schedule.noise_process.alpha(first))
    if narrowest > 1e-6 * spread and narrowest >= min(r, 0.05 * spread):
        return []
    if narrowest <= 1e-6 * spread:
        return [
            f"coordinate {where:.0f} of {name} is constant, so its density has no bound. Drop it."
        ]
    return [
        f"coordinate {where:.0f} of {name} has a standard deviation of {narrowest:.2g}, below the "
        f"first noise of the schedule, {r:.2g}: no step resolves it. Scale that coordinate up, or "
        f"take a schedule such as Schedule.log_snr(r_min={narrowest / 2:.1g})."
    ]


# Recognising --------------------------------------------------------------------------------------


def digest(*values: Any) -> str:
    """Twelve hexadecimal digits that tell tensors, arrays, numbers and text from others."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(np.ascontiguousarray(value))
        if isinstance(value, Tensor):
            found.update(f"{tuple(value.shape)} {value.dtype}".encode())
            for piece in pieces(value) if value.numel() and value.ndim > 1 else [value]:
                flat = piece.detach().cpu().contiguous().flatten()
                found.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
        else:
            found.update(repr(value).encode())
    return found.hexdigest()[:12]


def _repeated(look: Callable[[], str]) -> str:
    """What a look with a fixed seed gives, unless it is another each time: then nothing tells."""
    looks = []
    for _ in range(2):
        torch.manual_seed(0)
        looks.append(look())
    return looks[0] if looks[0] == looks[1] else "that draws others each time"
