"""What the notebooks print beside a measured value."""

from __future__ import annotations

import math

import pytest
import torch

from diffflow_edu.verdicts import verdict


@pytest.mark.parametrize(
    ("value", "options", "printed"),
    [
        (0.56, {"below": 1.3}, "gap: ≈0.56 (below 1.3 ✓)"),
        (1.3, {"below": 1.3}, "gap: ≈1.30 (below 1.3 ✗)"),
        (torch.tensor(0.5), {"above": 0.4, "exact": True}, "gap: 0.50 (above 0.4 ✓)"),
        (0.02, {"above": 0.01, "below": 0.08, "form": ".1%"}, "(above 1% and below 8% ✓)"),
        (2e-15, {"below": 1e-12, "form": ".0e"}, "gap: ≈2e-15 (below 1e-12 ✓)"),
        (math.nan, {"below": 1.3}, "gap: ≈nan (below 1.3 ✗)"),
    ],
)
def test_a_verdict_stands_beside_its_value(value, options, printed, capsys):
    verdict("gap", value, **options)
    assert printed in capsys.readouterr().out


def test_a_verdict_without_a_limit_is_none():
    with pytest.raises(ValueError, match="below or above must be given"):
        verdict("gap", 1.0)
