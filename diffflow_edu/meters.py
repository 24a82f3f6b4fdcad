"""Meters: what autograd keeps in memory, and how often a network is called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def saved_mebibytes(loss: Callable[..., Tensor], *inputs: Any, **options: Any) -> float:
    """The most that autograd keeps at one time, from the value of a loss to its gradient, in MiB.

    loss: called once with the inputs and options; the gradient is that of the mean of what it
    returns. Each block of memory counts once, however many tensors share it.

    >>> saved_mebibytes(torch.sin, torch.ones(2**18, requires_grad=True))  # one MiB of float32
    1.0
    """
    sharing: Counter[int] = Counter()
    now, peak = 0, 0

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal now, peak
            storage = tensor.untyped_storage()
            self.tensor, self.key, self.size = tensor, storage.data_ptr(), storage.nbytes()
            now += self.size if sharing[self.key] == 0 else 0
            sharing[self.key] += 1
            peak = max(peak, now)

        def __del__(self) -> None:  # backward has used it
            nonlocal now
            sharing[self.key] -= 1
            now -= self.size if sharing[self.key] == 0 else 0

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        loss(*inputs, **options).mean().backward()
    return peak / 2**20


class Counted(nn.Module):
    """A network that counts its `units`: 1 a forward pass, 2 a backward pass.

    net: any module net(x, t).
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.units = net, 0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """As of `net`."""
        self.units += 1
        out = self.net(x, t)
        if out.requires_grad:
            out.register_hook(self._count_backward)
        return out

    def _count_backward(self, gradient: Tensor) -> None:
        self.units += 2
