"""Meters: bytes and calls are counted as they can be counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffflow_edu.meters import Counted, saved_mebibytes

MEBIBYTE = torch.Size([2**18])  # of float32


def test_memory_is_counted_once_however_many_tensors_share_it():
    x = torch.ones(MEBIBYTE, requires_grad=True)

    def twice(x):
        y = x.sin()  # keeps x
        return (y * y[:]).sum()  # keeps y, and a view of it

    assert saved_mebibytes(twice, x) == pytest.approx(2.0)


def test_a_chain_keeps_one_block_a_link():
    x = torch.ones(MEBIBYTE, requires_grad=True)
    assert saved_mebibytes(lambda x: x.sin().sin().sin().sum(), x) == pytest.approx(3.0)


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x, t):
        return self.scale * x + t


def test_a_forward_pass_is_one_unit_and_a_backward_pass_two():
    net, x, t = Counted(Line()), torch.ones(3, 2), torch.zeros(())
    with torch.no_grad():
        assert torch.equal(net(x, t), x)
    assert net.units == 1
    net(x, t).sum().backward()
    assert net.units == 4
