"""Drift and score between the times of the grid, where their networks were never trained.

A chain of N steps teaches its networks N times and no others. In between they answer, too, but
nothing made them answer well: their sines of t may turn more than once from one grid time to the
next, and t_1 may be far from 0. An ODE asks at all times. What was learned at its two neighbours
says more about such a time than the network itself does:

    f(x, t) and ε(x, t) = −σ(t) s(x, t)   are interpolated linearly between t_i and t_{i+1}
    s(x, t) = s(x, t_1)                   for t < t_1: no score was learned at t = 0

The noise ε, unlike the score, changes little from one time to the next; the score of data with a
density is finite at t = 0, so that ε vanishes there like σ. For N(0, w² I), with the exact score
at the grid's times, the constant score on (0, t_1) leaves a Gaussian that is wider than w by the
factor √(1 + ρ²) exp(−½ρ²/(1 + ρ²)), ρ = σ(t_1)/(α(t_1) w): 1.10 at ρ = 1, .009 nats a dimension.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from diffflow_edu.processes.diffflow import DiffFlow
from diffflow_edu.schedules import shortly

How = Literal["interpolate", "ask"]


class Between:
    """The drift and the score of a model at any t in (0, T]: as functions (x, t) -> like x.

    how: "interpolate" asks the networks at the grid's times alone, twice for a time in between;
        "ask" asks them at t itself. The default is to interpolate what was trained on a fixed
        grid, and to ask anything else: fields without parameters, such as an exact score, and
        networks trained on flexible grids.

    The grid is that of the training, `model.taught`, where the schedule is another.

    >>> _ = torch.manual_seed(0)
    >>> from diffflow_edu import DiffFlow, Schedule
    >>> Between(DiffFlow.mlp(Schedule.log_snr(steps=10))).how
    'interpolate'
    """

    def __init__(self, model: DiffFlow, how: How | None = None) -> None:
        if how not in (None, "interpolate", "ask"):
            raise ValueError(f"between must be 'interpolate' or 'ask', got {shortly(how)}")
        if how is None:
            learned = any(
                isinstance(field, nn.Module) and next(field.parameters(), None) is not None
                for field in (model.drift, model.score)
            )
            how = "interpolate" if learned and model.schedule.redraw is None else "ask"
        self.model, self.how = model, how
        self.times = model.schedule.times if model.taught is None else model.taught

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """f at x (B, *shape) and t, 0-d. Like x."""
        if self.how == "ask":
            return self.model.drift_at(x, t)
        before, after, share = self._neighbours(t)
        if share == 1:
            return self.model.drift_at(x, after)
        return torch.lerp(self.model.drift_at(x, before), self.model.drift_at(x, after), share)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """s at x (B, *shape) and t, 0-d. Like x."""
        if self.how == "ask":
            return self.model.score_at(x, t)
        before, after, share = self._neighbours(t)
        if before == 0 or share == 1:
            return self.model.score_at(x, after)
        sigma = self.model.schedule.noise_process.sigma
        first = sigma(before) / sigma(t) * self.model.score_at(x, before)
        last = sigma(after) / sigma(t) * self.model.score_at(x, after)
        return torch.lerp(first, last, share)

    def _neighbours(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The grid times with t in (before, after], and how far t is on the way; all 0-d like t."""
        times = self.times.to(t)
        right = torch.searchsorted(times, t).clamp(1, len(times) - 1)
        before, after = times[right - 1], times[right]
        return before, after, ((t - before) / (after - before)).clamp(0, 1)
