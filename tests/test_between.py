"""The fields between the grid times: as good as what was learned at the times, and no worse."""

import math

import pytest
import torch
from torch import nn

from diffflow_edu import DDPM, DiffFlow, Schedule
from diffflow_edu.processes.between import Between
from diffflow_edu.processes.likelihood import ProbabilityFlow, family_drift, sample_family
from diffflow_edu.processes.ode import Solver

VARIANCE = 0.3
TIGHT = Solver(rtol=1e-6, atol=1e-6)


class Taught(nn.Module):
    """The exact score of N(0, 0.3 I) at the grid's times; `wild` times too strong between them."""

    def __init__(self, schedule, wild=0.0):
        super().__init__()
        self.schedule, self.wild = schedule, wild
        self.bias = nn.Parameter(torch.zeros(()))
        self.asked = []

    def forward(self, x, t):
        self.asked.append(float(t))
        sde, times = self.schedule.noise_process, self.schedule.times
        i = int(torch.searchsorted(times.to(t), t).clamp(1, len(times) - 1))
        share = (t - times[i - 1]) / (times[i] - times[i - 1])
        off = 1 + self.wild * torch.sin(math.pi * share).square()
        variance = VARIANCE * sde.alpha(t).square() + sde.sigma(t).square()
        return -off * x / variance + self.bias


def chain(steps=30, wild=0.0, r_min=0.05):
    schedule = Schedule.log_snr(steps=steps, r_min=r_min)
    return DDPM(Taught(schedule, wild), schedule, prediction="score").double()


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def error(model, **options):
    """The worst error of log p at 20 data, nats."""
    x = VARIANCE**0.5 * normals(20, 2)
    # The flow ends at N(0, v_T I), all but I, which is taken for N(0, I).
    sde, T = model.schedule.noise_process, model.schedule.times[-1]
    ratio = sde.alpha(T).square() + sde.sigma(T).square() / VARIANCE
    truth = -0.5 * ratio * x.square().sum(1) - math.log(2 * math.pi) + ratio.log()
    with torch.no_grad():
        return float((model.log_prob(x, solver=TIGHT, **options) - truth).abs().max())


@pytest.mark.parametrize(("steps", "nats"), [(5, 0.1), (10, 0.025), (30, 0.003)])
def test_the_score_at_the_grids_times_is_enough_whatever_it_is_between(steps, nats):
    tame, wild = chain(steps), chain(steps, wild=1.0)
    assert error(wild) == pytest.approx(error(tame), abs=1e-4)  # the solver's tolerance
    # Measured .086, .020 and .0019: linear between, so it falls with the square of the steps.
    assert error(tame) < nats
    assert error(wild, between="ask") > 1


def test_nothing_is_asked_but_the_grids_times():
    model = chain(6, wild=1.0)
    error(model)
    grid = model.schedule.times
    assert {float(t) for t in grid[1:]} == set(model.score.asked)
    model.score.asked.clear()
    sample_family(model, 4, substeps=3, seed=0, noise=normals(4, 2))
    assert {float(t) for t in grid[1:]} == set(model.score.asked)


def test_at_the_grids_times_the_fields_are_the_models_own():
    torch.manual_seed(0)
    model = DiffFlow.mlp(Schedule.geometric(steps=4)).double()
    nn.init.normal_(model.drift.last.weight)
    fields, x = Between(model), normals(3, 2)
    for t in model.schedule.times[1:]:
        assert torch.equal(fields.drift(x, t), model.drift_at(x, t))
        assert torch.equal(fields.score(x, t), model.score_at(x, t))


def test_half_way_drift_and_noise_are_the_mean_of_both_sides():
    torch.manual_seed(0)
    model = DiffFlow.mlp(Schedule.log_snr(steps=4)).double()
    nn.init.normal_(model.drift.last.weight)
    fields, x, times = Between(model), normals(3, 2), model.schedule.times
    sigma = model.schedule.noise_process.sigma
    for a, b in zip(times[1:-1], times[2:], strict=True):
        t = (a + b) / 2
        noise = 0.5 * (sigma(a) * model.score_at(x, a) + sigma(b) * model.score_at(x, b))
        assert torch.allclose(fields.score(x, t) * sigma(t), noise)
        drift = 0.5 * (model.drift_at(x, a) + model.drift_at(x, b))
        assert torch.allclose(fields.drift(x, t), drift)
    t = times[1] / 3
    assert torch.equal(fields.score(x, t), model.score_at(x, times[1]))
    drift = torch.lerp(model.drift_at(x, times[0]), model.drift_at(x, times[1]), 1 / 3)
    assert torch.allclose(fields.drift(x, t), drift)


@pytest.mark.parametrize("rho", [0.3, 1.0])
def test_a_constant_score_up_to_the_first_time_widens_a_gaussian_as_the_docstring_says(rho):
    # No drift, g = 1: σ² = t. One step to σ(t_1) = ρ w, a long rest with the exact score.
    width, grid = 0.5, torch.tensor([0.0, (0.5 * rho) ** 2, 4.0])

    class Score(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(()))

        def forward(self, x, t):
            return -x / (width**2 + t) + self.bias

    model = DiffFlow(lambda x, t: torch.zeros_like(x), Score().double(), Schedule.euler(grid, 1.0))
    x = normals(4, 2)
    first = [0.0, float(grid[1]), 4.0]
    end = ProbabilityFlow(model, solver=TIGHT).encode(x, times=first).states[1]
    # Where the exact marginal is N(0, w² (1 + ρ²)), the flow came from a width of:
    came = width * math.sqrt(1 + rho**2) * float((x / end).mean())
    factor = math.sqrt(1 + rho**2) * math.exp(-0.5 * rho**2 / (1 + rho**2))
    assert came / width == pytest.approx(factor, rel=1e-4)  # the solver's tolerance
    if rho == 1:
        assert factor == pytest.approx(1.10, abs=0.005)
        cost = math.log(factor) + 0.5 / factor**2 - 0.5
        assert cost == pytest.approx(0.009, abs=5e-4)


def test_what_was_not_trained_on_one_grid_is_asked_where_it_is_wanted():
    schedule = Schedule.log_snr(steps=4)
    assert Between(DDPM(lambda x, t: -x, schedule, prediction="score")).how == "ask"
    assert Between(DDPM(lambda x, t: x, schedule)).how == "ask"
    flexible = Schedule.polynomial(4, flexible=True)
    assert Between(DiffFlow.mlp(flexible)).how == "ask"
    assert Between(DiffFlow.mlp(Schedule.polynomial(4))).how == "interpolate"
    assert Between(DDPM.mlp(schedule)).how == "interpolate"
    assert Between(DDPM.mlp(schedule), "ask").how == "ask"


def test_on_another_grid_a_network_is_still_asked_where_it_was_trained():
    model = DDPM.mlp(Schedule.linear_beta(steps=100), hidden=16)
    few = model.respaced(10).respaced(5)
    assert torch.equal(Between(few).times, model.schedule.times)
    assert torch.equal(Between(DDPM.of(few)).times, model.schedule.times)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    solver = Solver("rk4", steps=4)
    with torch.no_grad():
        assert torch.allclose(few.log_prob(x, solver=solver), model.log_prob(x, solver=solver))


def test_the_drift_of_the_family_is_that_of_the_flow():
    model, x, t = chain(5, wild=1.0), normals(3, 2), torch.tensor(0.5, dtype=torch.float64)
    asked, between = family_drift(model, x, t, between="ask"), family_drift(model, x, t)
    assert not torch.allclose(asked, between, rtol=0.05)
    flow, u = ProbabilityFlow(model), torch.tensor(0.5**0.5, dtype=torch.float64)
    assert torch.allclose(flow.drift(x, u), 2 * u * between)  # t = u² here, hence dt = 2u du


def test_the_likelihood_still_trains_the_network():
    model = chain(4)
    model.log_prob(normals(3, 2), solver=Solver("rk4", steps=4)).sum().backward()
    assert model.score.bias.grad.abs() > 0


def test_a_way_that_is_not_known_is_named():
    with pytest.raises(ValueError, match="between must be 'interpolate' or 'ask', got 'spline'"):
        chain(4).log_prob(normals(3, 2), between="spline")
