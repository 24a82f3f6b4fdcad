"""How `fit` makes a step out of a gradient: Adam for everything, or Muon for the inner matrices."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from diffflow_edu.schedules import shortly

OptimizerName = Literal["adam", "muon"]

MUON_LR = 4.0
"""Muon's learning rate as a multiple of Adam's. Its steps are matrices with all singular values
about 1, whose best size is another than that of Adam's steps."""

INNER = 16
"""A weight is an inner matrix from so many rows and columns on; what is smaller reads or writes
coordinates. The embedding of t, whose inputs are a few sines, is none."""

EMBEDDINGS = {"time", "gain", "label"}
"""The names of layers that embed t, or a class."""


class Optimizers:
    """Several optimizers, each with parameters of its own, that step as one."""

    def __init__(self, *each: torch.optim.Optimizer) -> None:
        self.each = each
        self.lr = [group["lr"] for group in self.groups()]

    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all."""
        return [group for one in self.each for group in one.param_groups]

    def scale_lr(self, factor: float) -> None:
        """Set every learning rate to so much of what it was at the start."""
        for group, lr in zip(self.groups(), self.lr, strict=True):
            group["lr"] = lr * factor

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for one in self.each:
            one.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Take a step with each."""
        for one in self.each:
            one.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of each, for a checkpoint."""
        return [one.state_dict() for one in self.each]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Put back what `state_dict` gave."""
        for one, state in zip(self.each, states, strict=True):
            one.load_state_dict(state)


def make_optimizer(name: OptimizerName, model: nn.Module, lr: float) -> Optimizers:
    """The optimizer of a name, for what a model learns.

    name: "adam" (betas .9, .99), or "muon": momentum whose matrix is made orthogonal before it is
        a step (Jordan et al. 2024) for the inner matrices, Adam for all else.
    lr: Adam's; Muon's is `MUON_LR` times that.

    Raises ValueError for another name, for "muon" where this torch has none (before 2.9) and where
    no parameter is an inner matrix.
    """
    if name not in ("adam", "muon"):
        raise ValueError(f"optimizer must be 'adam' or 'muon', got {shortly(name)}")
    inner, rest = [], []
    for path, p in model.named_parameters():
        if p.requires_grad:
            matrix = (
                p.ndim == 2 and min(p.shape) >= INNER and EMBEDDINGS.isdisjoint(path.split("."))
            )
            (inner if name == "muon" and matrix else rest).append(p)
    adam = [torch.optim.Adam(rest, lr=lr, betas=(0.9, 0.99))] if rest else []
    if name == "adam":
        return Optimizers(*adam)
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(f"optimizer 'muon' needs torch 2.9 or newer, this is {torch.__version__}")
    if not inner:
        raise ValueError(
            f"optimizer 'muon' is for matrices of {INNER} × {INNER} and more; this model has none"
        )
    return Optimizers(torch.optim.Muon(inner, lr=MUON_LR * lr, weight_decay=0.0), *adam)
