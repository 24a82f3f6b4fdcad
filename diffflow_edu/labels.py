"""Models by class: a net that takes a label, the label bound to it, and guidance.

A net with classes is a field net(x, t, label) for labels 0 … classes − 1; the label `classes` is
the class "none", which stands for all data together, and so does no label. `Given` binds labels
to such a net. What is left is a field (x, t) like any other, so that chains, adjoint, ODEs and
samplers need not know of labels.

With guidance w (Ho and Salimans 2022, "Classifier-free diffusion guidance") the score is

    (1 + w) s(x, t | y) − w s(x, t | none),

which is drawn to where p(y | x) is large: samples that are clearer, and less various.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffflow_edu.schedules import shortly

Labels = int | list[int] | np.ndarray | Tensor
"""One class for all particles, or one for each: whole numbers (B,)."""

Rows = slice | int | Tensor

_rows: ContextVar[tuple[Rows, ...]] = ContextVar("rows", default=())


class ClassEmbedding(nn.Module):
    """A vector for each class and, the last, for "none"; at first all are zero and change nothing.

    No random number is drawn to make it: a net with classes starts as the one without.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(classes + 1, width))

    def forward(self, label: Tensor | None) -> Tensor:
        """(*label.shape, width); None is "none", (width,)."""
        return self.table[-1] if label is None else F.embedding(label, self.table)


class Given(nn.Module):
    """A field net(x, t, label) with its labels bound: (x (B, *shape), t) -> like x.

    label: int64, 0-d or (B,). guidance: w; 0 costs no second evaluation of the net.

    Where only a part of B particles is carried, `only` says which.
    """

    def __init__(self, net: nn.Module, label: Tensor, guidance: float = 0.0) -> None:
        super().__init__()
        self.net, self.guidance = net, guidance
        self.register_buffer("label", label, persistent=False)
        self.takes_many_times = getattr(net, "takes_many_times", False)

    def labels(self) -> Tensor:
        """Those of the particles that are carried now."""
        label = self.label
        for rows in _rows.get() if label.ndim else ():
            label = label[rows]
        return label

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The field at x and t; raises ValueError for more or fewer particles than labels."""
        label = self.labels()
        if label.shape != x.shape[: label.ndim]:
            raise ValueError(_as_many(len(label), len(x)))
        given = self.net(x, t, label)
        if self.guidance == 0:
            return given
        return (1 + self.guidance) * given - self.guidance * self.net(x, t)


@contextmanager
def only(rows: Rows) -> Iterator[None]:
    """Inside, fields meet these rows of the particles alone, and take their labels.

    A field is called with particles, not with their places; whoever cuts, sorts or repeats a batch
    tells the places here. rows: what indexes (B,); inside another one, what indexes its rows.
    """
    token = _rows.set((*_rows.get(), rows))
    try:
        yield
    finally:
        _rows.reset(token)


def bare(field: object) -> object:
    """The field without bound labels."""
    return field.net if isinstance(field, Given) else field


def classes_of(field: object) -> int:
    """How many classes a network knows; wrappers such as `NoisePrediction` are asked for theirs."""
    while field is not None:
        classes = getattr(field, "classes", None)
        if isinstance(classes, int):
            return classes
        field = getattr(field, "net", None)
    return 0


def check_label(label: Tensor | None, classes: int) -> None:
    """Raise a ValueError for a label that a network without classes is given."""
    if label is not None and not classes:
        raise ValueError("label is for a network with classes, such as MLP(…, classes=10)")


def check_count(field: object, n: int) -> None:
    """Raise a ValueError where a field has bound labels for another number of particles than n."""
    if isinstance(field, Given) and field.label.ndim and len(field.labels()) != n:
        raise ValueError(_as_many(len(field.labels()), n))


def check_guidance(guidance: float) -> None:
    """Raise a ValueError unless it is a finite number, 0 or more."""
    number = isinstance(guidance, Real) and not isinstance(guidance, bool)
    if not (number and 0 <= guidance < math.inf):
        raise ValueError(f"guidance must be a finite number, 0 or more, got {shortly(guidance)}")


def as_labels(label: Labels, classes: int, name: str = "label") -> Tensor:
    """Labels as int64, 0-d or (B,). Raises a ValueError that says what they must be."""
    wanted = f"{name} must be a whole number from 0 to {classes - 1}, or {classes} for none"
    many = ", or one for each particle, (B,)"
    if isinstance(label, (list, tuple, range)):
        if not all(isinstance(one, Integral) and not isinstance(one, bool) for one in label):
            raise ValueError(f"{wanted}{many}, got {shortly(label)}")
        label = torch.tensor(label, dtype=torch.long)
    elif isinstance(label, Integral) and not isinstance(label, bool):
        label = torch.tensor(int(label))
    elif isinstance(label, np.ndarray):
        label = torch.as_tensor(label) if label.dtype.kind in "iu" else label
    if not isinstance(label, Tensor):
        raise ValueError(f"{wanted}{many}, got {shortly(label)}")
    if label.is_floating_point() or label.is_complex() or label.dtype == torch.bool:
        raise ValueError(f"{wanted}{many}, got a tensor of {label.dtype}")
    if label.ndim > 1 or label.numel() == 0:
        raise ValueError(f"{wanted}{many}, got shape {tuple(label.shape)}")
    low, high = label.min().item(), label.max().item()
    if not 0 <= low <= high <= classes:
        raise ValueError(f"{wanted}{many}, got {low if low < 0 else high}")
    return label.detach().long()


def _as_many(labels: int, particles: int) -> str:
    return (
        "label must be one number for all particles, or one for each: "
        f"got {labels} labels for {particles} particles"
    )
