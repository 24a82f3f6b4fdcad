"""The λ family, the probability flow and the bounds, against Gaussians known in closed form."""

import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import pytest
import torch

from diffflow_edu import DDPM, DiffFlow, Schedule
from diffflow_edu.figures.likelihood import theorem_one_panels
from diffflow_edu.nets import MLP
from diffflow_edu.processes import likelihood
from diffflow_edu.processes.likelihood import (
    ProbabilityFlow,
    family_drift,
    fokker_planck_residual,
    importance_weighted,
    path_bounds,
    sample_family,
    theorem_one,
    three_numbers,
)
from diffflow_edu.processes.ode import Solver, SolverError

TIGHT = Solver(rtol=1e-8, atol=1e-8)
PULL, G = 0.7, 0.8
SCHEDULES = {
    "log_snr": Schedule.log_snr(steps=6),
    "linear_beta": Schedule.linear_beta(steps=6),
    "cosine": Schedule.cosine(steps=6),
    "geometric": Schedule.geometric(steps=6),
    "polynomial": Schedule.polynomial(steps=6),
    "euler": Schedule.euler(torch.linspace(0, 1, 7), torch.linspace(0.5, 1.5, 7)),
}


def normals(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@dataclass
class Gaussian:
    """A model of data N(0, variance I) with its exact score, and its marginals."""

    model: DiffFlow
    variance: object  # of t

    def log_density(self, x, t):
        v = self.variance(t)
        return -0.5 * (x.square().sum(1) / v + x.shape[1] * torch.log(2 * math.pi * v))

    def flow_log_prob(self, x):
        """Of the probability flow, x_T = x_0 √(v_T/v_0), which ends at N(0, I) all the same."""
        ends = torch.tensor([0.0, float(self.model.schedule.times[-1])], dtype=torch.float64)
        ratio = self.variance(ends[1]) / self.variance(ends[0])
        d = x.shape[1]
        log_normal = -0.5 * (ratio * x.square().sum(1) + d * math.log(2 * math.pi))
        return log_normal + 0.5 * d * torch.log(ratio)


def gaussian(kind, steps=30, data=0.3, off=1.0):
    """off: the score is so many times the exact one."""
    if kind == "paper":  # dx = −a x dt + g dw
        schedule = Schedule.euler(torch.linspace(0, 1, steps + 1), g=G)

        def variance(t):
            shrunk = torch.exp(-2 * PULL * t)
            return data * shrunk + G**2 * (1 - shrunk) / (2 * PULL)

        drift = lambda x, t: -PULL * x  # noqa: E731
    else:
        schedule = getattr(Schedule, kind)(steps=steps)
        sde = schedule.noise_process

        def variance(t):
            return data * sde.alpha(t).square() + sde.sigma(t).square()

        drift = lambda x, t: torch.zeros_like(x)  # noqa: E731

    def score(x, t):
        return -off * x / variance(t)

    return Gaussian(DiffFlow(drift, score, schedule), variance)


KINDS = ("log_snr", "linear_beta", "geometric", "paper")


def mlp(schedule, double=True, prediction="noise"):
    """A smooth untrained network, which needs few evaluations."""
    torch.manual_seed(0)
    horizon = 20 * float(schedule.times[-1])
    net = MLP(2, hidden=16, frequencies=1, horizon=horizon)
    model = DDPM(net, schedule, prediction)
    return (model.double() if double else model).eval()


# The probability flow ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_flow_of_an_exact_score_has_the_gaussians_density(kind):
    case, x = gaussian(kind), 0.8 * normals(50, 2)
    exact = case.flow_log_prob(x)
    assert torch.allclose(case.model.log_prob(x, solver=TIGHT), exact, atol=1e-6)
    # The default tolerance is 1e-4 a step.
    assert torch.allclose(case.model.log_prob(x), exact, rtol=1e-3, atol=2e-3)
    steps = Solver("rk4", steps=60)
    assert torch.allclose(case.model.log_prob(x, solver=steps), exact, atol=1e-4)


def test_where_the_noise_drowns_the_data_the_flow_has_the_datas_density():
    case, x = gaussian("log_snr"), 0.8 * normals(50, 2)
    truth = case.log_density(x, torch.tensor(0.0).double())
    # r_max = 8 leaves 1/65 of the data: the flow ends at N(0, 0.989 I), taken for N(0, I).
    apart = case.model.log_prob(x, solver=TIGHT) - truth
    assert apart.abs().max() > 1e-3 and apart.abs().mean() < 0.03


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_noise_prediction_has_a_flow_that_starts_at_the_data_itself(schedule, dtype):
    model = mlp(SCHEDULES[schedule]).to(dtype)
    x = normals(5, 2, dtype=dtype)
    with torch.no_grad():
        at_zero, near_zero = (
            model.log_prob(x, start=s * float(model.schedule.times[-1])) for s in (0, 1e-7)
        )
    assert at_zero.dtype == dtype and at_zero.shape == (5,) and at_zero.isfinite().all()
    # σ(1e-7 T) is at most 1e-3. The tolerance is 1e-4, but an untrained flow expands 150-fold.
    assert torch.allclose(at_zero, near_zero, atol=0.1)
    assert model.evaluations > 6


@pytest.mark.parametrize(("blur", "nats"), [(0.1, 2.5e-5), (0.3, 0.0018), (1.0, 0.097)])
def test_to_stop_early_costs_what_the_docstring_says(blur, nats):
    # No drift and g = 1: σ² = t.
    schedule, width = Schedule.euler(torch.tensor([0.0, 0.5, 4.0]), g=1.0), 0.5
    model = DiffFlow(lambda x, t: torch.zeros_like(x), lambda x, t: -x / (width**2 + t), schedule)
    # The exact flow would end at N(0, v_T); corrected for the N(0, 1) that is taken for it.
    v_T = 4 + width**2
    x = torch.tensor([[width], [-width]], dtype=torch.float64)  # the data's mean square

    def nll(start):
        flow = ProbabilityFlow(model, start=start, solver=TIGHT)
        end = flow.encode(x, times=[start, 4.0]).end
        taken = 0.5 * end.square() + 0.5 * math.log(2 * math.pi)
        exact = 0.5 * end.square() / v_T + 0.5 * math.log(2 * math.pi * v_T)
        return float((-flow.log_prob(x) - taken.flatten() + exact.flatten()).mean())

    cost = nll((blur * width) ** 2) - nll(0.0)
    assert cost == pytest.approx(nats, rel=0.05, abs=2e-6)
    assert cost == pytest.approx(0.5 * (math.log1p(blur**2) + 1 / (1 + blur**2) - 1), abs=2e-6)


def test_a_network_that_predicts_the_data_and_is_asked_near_it_stops_a_little_before_it():
    model = mlp(SCHEDULES["log_snr"], prediction="x0")
    flow = ProbabilityFlow(model, between="ask")
    start = float(model.schedule.times[1]) / 10
    path = flow.encode(normals(3, 2))
    assert path.times[0] == pytest.approx(start) and path.states.isfinite().all()
    assert flow.log_prob(normals(3, 2)).isfinite().all()
    # The score that was learned at t_1 lasts down to the data, whatever was predicted.
    for prediction in ("x0", "noise"):
        flow = ProbabilityFlow(mlp(SCHEDULES["log_snr"], prediction=prediction))
        path = flow.encode(normals(3, 2))
        assert path.times[0] == 0 and path.states.isfinite().all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_encoding_then_decoding_returns_to_the_data(schedule):
    flow = ProbabilityFlow(mlp(SCHEDULES[schedule]), solver=TIGHT)
    x = normals(8, 2)
    there = flow.encode(x)
    back = flow.decode(there.end)
    grid = SCHEDULES[schedule].times
    assert torch.equal(there.start, x) and len(there) == len(grid)
    assert torch.allclose(there.times, grid, atol=1e-9)
    # A contraction of the way back by up to 1/σ is an expansion of the errors there.
    assert torch.allclose(back.start, x, atol=1e-4)
    assert torch.allclose(back.states, there.states, atol=1e-4)


def test_a_trajectory_stops_where_it_is_asked_to():
    case, x = gaussian("log_snr"), normals(4, 2)
    times = [0.0, 0.3, 0.45, 1.0]
    path = ProbabilityFlow(case.model, solver=TIGHT).encode(x, times=times)
    assert path.times.tolist() == pytest.approx(times)
    for t, state in zip(path.times, path.states, strict=True):
        expected = x * (case.variance(t) / 0.3).sqrt()  # it keeps its quantile
        assert torch.allclose(state, expected, atol=1e-5)


def test_the_flows_samples_are_the_data():
    case = gaussian("log_snr", data=0.3)
    path = ProbabilityFlow(case.model).sample(4000, seed=0)
    # Five standard errors of a variance from 8000 numbers.
    assert path.start.var() == pytest.approx(0.3, rel=0.08)
    assert path.states.dtype == torch.float32


def test_the_density_integrates_to_one():
    # Little noise, so that an untrained flow leaves its mass on the grid.
    flow = ProbabilityFlow(mlp(Schedule.log_snr(steps=6, r_max=1.0)))
    axis = torch.linspace(-6, 6, 61, dtype=torch.float64)
    with torch.no_grad():
        log_p = flow.log_prob(torch.cartesian_prod(axis, axis))
    assert log_p.exp().sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=0.01)


def test_the_gradient_of_log_prob_is_the_models_score():
    case = gaussian("log_snr")
    x = normals(5, 2).requires_grad_()
    case.model.log_prob(x, solver=TIGHT).sum().backward()
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    ratio = case.variance(times[1]) / case.variance(times[0])
    assert torch.allclose(x.grad, -ratio * x.detach(), atol=1e-5)


def test_the_likelihood_can_train_the_score():
    model = mlp(Schedule.log_snr(steps=6, r_max=1.0))
    solver = Solver("rk4", steps=8)
    x, weight = normals(3, 2), model.score.net.last.bias
    model.log_prob(x, solver=solver).sum().backward()
    step, values = 1e-4, []
    with torch.no_grad():
        for sign in (1, -1):
            weight[0] += sign * step
            values.append(model.log_prob(x, solver=solver).sum().item())
            weight[0] -= sign * step
    slope = (values[0] - values[1]) / (2 * step)
    assert weight.grad[0].item() == pytest.approx(slope, rel=1e-4)  # O(step²)


def test_hutchinsons_estimate_is_unbiased_here_too():
    case, x = gaussian("paper"), normals(1, 2).expand(4000, 2)
    estimates = case.model.log_prob(x, seed=0, trace="hutchinson", probe="gaussian")
    exact = case.flow_log_prob(x[:1])
    assert estimates.std() > 0.05
    assert abs(estimates.mean() - exact) < 5 * estimates.std() / math.sqrt(4000) + 2e-3


# The λ family ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0, 2.0])
def test_every_lambda_has_the_same_marginals_at_every_time(kind, lam):
    case, n = gaussian(kind, steps=10), 4000
    times = case.model.schedule.times
    noise = normals(n, 2, seed=1) * case.variance(times[-1]).sqrt()
    path = sample_family(case.model, n, lam, substeps=30, seed=2, noise=noise, last_noise=True)
    variances = path.states.square().mean((1, 2))
    # Five standard errors of a variance from 8000 numbers, and a few per cent of discretisation.
    assert torch.allclose(variances, case.variance(times), rtol=0.08 + 0.03 * lam**2)
    assert (path.states.mean(1).abs() < 5 * (variances / n).sqrt()[:, None]).all()


def test_fine_steps_at_lambda_zero_follow_the_probability_flow():
    case, noise = gaussian("log_snr", steps=6), normals(5, 2)
    flow = ProbabilityFlow(case.model, solver=TIGHT).decode(noise).states
    errors = [
        float((sample_family(case.model, 5, 0.0, m, noise=noise).states - flow).abs().max())
        for m in (20, 40)
    ]
    assert errors[1] < 0.05
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.3)  # a first-order method


def test_with_one_substep_the_family_is_the_chain():
    case = gaussian("log_snr", steps=8)
    noise = normals(6, 2, dtype=torch.float32)
    x = noise
    for i in reversed(range(8)):
        x = case.model.backward_mean(x, i, lam=0.0)
    path = sample_family(case.model, 6, 0.0, substeps=1, noise=noise)
    assert torch.allclose(path.start, x, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0, 2.0])
def test_the_fokker_planck_residual_of_an_exact_score_is_zero_on_a_grid(kind, lam):
    case = gaussian(kind)
    axis = torch.linspace(-2, 2, 7, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    for t in (0.05, 0.4, 1.0):
        residual = fokker_planck_residual(case.model, case.log_density, grid, t, lam)
        # Terms of order g²‖∇log p‖² cancel to rounding.
        assert residual.shape == (49,) and residual.abs().max() < 1e-8


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_the_residual_finds_a_score_that_is_a_tenth_off(lam):
    case = gaussian("paper", off=0.9)
    x, t = normals(20, 2), torch.tensor(0.4, dtype=torch.float64)
    residual = fokker_planck_residual(case.model, case.log_density, x, 0.4, lam)
    # ∇·(c x) + (c x)·∇log p with c = ½(1 + λ²) g² (0.9 − 1)/v, the part that no longer cancels.
    v = case.variance(t)
    c = 0.5 * (1 + lam**2) * G**2 * (0.9 - 1) / v
    assert torch.allclose(residual, c * (2 - x.square().sum(1) / v), atol=1e-8)


def test_the_family_differs_in_the_paths_alone():
    case, x, t = gaussian("paper"), normals(3, 2), torch.tensor(0.5, dtype=torch.float64)
    score = -x / case.variance(t)
    for lam in (0.0, 1.0, 3.0):
        expected = -PULL * x - 0.5 * (1 + lam**2) * G**2 * score
        assert torch.allclose(family_drift(case.model, x, t, lam), expected)


def test_a_seed_decides_the_family_and_leaves_the_global_generator_alone():
    model = mlp(SCHEDULES["log_snr"], double=False)
    state = torch.get_rng_state()
    a, b, c = (sample_family(model, 4, seed=s, substeps=2) for s in (0, 0, 1))
    assert torch.equal(a.states, b.states) and not torch.equal(a.start, c.start)
    assert a.states.shape == (7, 4, 2) and a.states.dtype == torch.float32
    assert torch.equal(torch.get_rng_state(), state)


# Three numbers -----------------------------------------------------------------------------------


def chain_nll(case, x):
    """−log p_B(x_0) of a chain whose every backward step is linear, in closed form."""
    c = case.model.schedule
    spread = torch.ones((), dtype=torch.float64)
    for i in reversed(range(c.steps)):
        one = torch.ones(1, 1, dtype=torch.float64)
        slope = case.model.backward_mean(one, i).squeeze()
        spread = slope**2 * spread + c.b[i] ** 2
    return 0.5 * (x.square().sum(1) / spread + x.shape[1] * torch.log(2 * math.pi * spread))


@pytest.mark.parametrize("kind", ["log_snr", "paper"])
def test_path_bound_importance_bound_and_chain_stand_in_this_order(kind):
    case, x = gaussian(kind, steps=5), 0.3**0.5 * normals(300, 2)
    bounds = path_bounds(case.model, x, 512, seed=0)
    chain = chain_nll(case, x)
    means = [float(importance_weighted(bounds[:k]).mean()) for k in (1, 8, 64, 512)]
    assert means == sorted(means, reverse=True)  # tightening with K
    assert float(bounds.mean()) > means[1] + 0.02
    for k in (8, 512):
        tight = importance_weighted(bounds[:k])
        assert (tight <= bounds[:k].mean(0) + 1e-9).all()  # Jensen, particle by particle
        error = (tight - chain).std() / math.sqrt(300)
        assert (tight - chain).mean() > -5 * error
    # With 512 paths it is all but reached; the score is exact, the few steps are not.
    assert means[-1] == pytest.approx(float(chain.mean()), abs=0.02)


def test_on_gaussian_data_all_three_meet_the_closed_form():
    case, x = gaussian("log_snr", steps=300), 0.3**0.5 * normals(300, 2)
    truth = -case.log_density(x, torch.tensor(0.0).double())
    numbers = three_numbers(case.model, x, samples=16)
    # The bound at N = 300 is known to stand .008 above the truth; r_max = 8 costs less.
    for value in (numbers.bound, numbers.importance, numbers.ode):
        assert float((value - truth).mean()) == pytest.approx(0.0, abs=0.02)
    assert float(numbers.importance.mean()) < float(numbers.bound.mean())


def test_with_an_inexact_score_the_ode_is_neither_bound_nor_bounded():
    # Both ways: a score too strong, and one too weak.
    gaps = []
    for off in (0.8, 1.2):
        case, x = gaussian("geometric", steps=60, off=off), 0.3**0.5 * normals(400, 2)
        chain = chain_nll(case, x)
        gaps.append(float((-case.model.log_prob(x) - chain).mean()))
    assert min(gaps) < -0.005 and max(gaps) > 0.005


def test_three_numbers_are_reproducible_and_show_themselves():
    model, x = mlp(SCHEDULES["log_snr"]), normals(6, 2)
    model.train()
    state = torch.get_rng_state()
    a, b = (three_numbers(model, x, samples=4, seed=1) for _ in range(2))
    assert torch.equal(a.importance, b.importance) and torch.equal(a.ode, b.ode)
    assert torch.equal(torch.get_rng_state(), state) and model.training
    for value in (a.bound, a.importance, a.ode):
        assert value.shape == (6,) and not value.requires_grad
    assert "K = 4" in repr(a) and f"{a.evaluations} evaluations" in repr(a)


@pytest.mark.parametrize("kind", ["log_snr", "polynomial"])
def test_paths_taken_together_have_the_bounds_of_paths_taken_one_by_one(kind, monkeypatch):
    model, x = mlp(SCHEDULES[kind]), normals(5, 2)
    found = {}
    for together in (1, 30, 10_000):  # 1, 3 and all of the 7 paths in a batch
        monkeypatch.setattr(likelihood, "TOGETHER", together)
        found[together] = path_bounds(model, x, 7, seed=3)
        assert found[together].shape == (7, 5)
    for together in (30, 10_000):
        # Up to rounding: a matrix product may add in another order for another batch.
        assert torch.allclose(found[together], found[1], rtol=1e-12, atol=1e-12)
    assert len(found[1].unique()) == 35  # and each path has its own noise


def test_equal_bounds_leave_nothing_to_tighten():
    assert torch.allclose(importance_weighted(torch.full((7, 3), 2.5)), torch.full((3,), 2.5))
    assert importance_weighted(torch.tensor([[1000.0], [2000.0]])) == pytest.approx(
        1000 + math.log(2), abs=1e-3
    )  # no overflow


# Theorem 1 ---------------------------------------------------------------------------------------


def bent(x, t):
    """A small drift whose Jacobian changes along the way."""
    matrix = torch.tensor([[0.8, 0.5], [-0.6, 0.4]], dtype=x.dtype)
    return torch.tanh(x @ matrix.T) * (1 + 0.5 * t)


@pytest.fixture(scope="module")
def theorem():
    return theorem_one(bent, normals(300, 2), steps=(10, 100), g=(1.0, 0.1, 0.01, 0.001))


def test_where_the_steps_are_short_the_path_term_is_the_flows(theorem):
    # N = 100, g = 0.1: Δt/g = 0.1; Monte Carlo of 300 paths and O(Δt) of the Euler steps.
    assert float(theorem.path[1, 1]) == pytest.approx(float(theorem.flow[1]), abs=0.05)
    assert float(theorem.flow[0]) == pytest.approx(float(theorem.flow[1]), abs=0.05)


def test_where_they_are_long_its_excess_is_the_predicted_one(theorem):
    for n, k in ((0, 2), (0, 3), (1, 3)):  # Δt/g = 10, 100, 10
        excess = theorem.path[n, k] - theorem.flow[n]
        assert float(excess) == pytest.approx(float(theorem.excess[n, k]), rel=0.1)
    assert theorem.excess[0, 3] / theorem.excess[0, 2] == pytest.approx(100)
    assert float(theorem.path[0, 3]) > 100  # no limit at fixed N


def test_the_flows_side_of_the_theorem_is_autograds_log_det():
    x = normals(1, 2)

    def flow(y):
        for i in range(10):
            y = y + 0.1 * bent(y, torch.tensor(0.1 * i))
        return y[0]

    jacobian = torch.autograd.functional.jacobian(flow, x).squeeze(1)
    got = theorem_one(bent, x, steps=(10,), g=(1.0,)).flow
    assert float(got) == pytest.approx(-float(torch.linalg.slogdet(jacobian).logabsdet), abs=1e-7)


def test_the_table_of_the_theorem_can_be_read(theorem):
    lines = repr(theorem).splitlines()
    assert len(lines) == 3 and "g=0.001" in lines[0] and lines[2].split()[0] == "100"


def test_the_figure_of_the_theorem_shows_every_number_and_its_prediction(theorem):
    figure = theorem_one_panels(theorem, "a title")
    left, right = figure.axes
    for n in range(2):
        assert left.lines[n].get_ydata().tolist() == theorem.path[n].tolist()
        apart = (theorem.path[n] - theorem.flow[n]).abs().tolist()
        assert right.lines[n].get_ydata().tolist() == pytest.approx(apart)
    dashed = next(line for line in right.lines if line.get_linestyle() == "--")
    assert sorted(dashed.get_ydata()) == pytest.approx(sorted(theorem.excess.flatten().tolist()))
    plt.close(figure)
    with pytest.raises(ValueError, match="result must be what theorem_one returns, got dict"):
        theorem_one_panels({})


# Bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda m: ProbabilityFlow(3), "model must be a DDPM or DiffFlow, got int"),
        (lambda m: ProbabilityFlow(m, start=1.0), r"start must be a time in \[0, T\) = \[0, 1\)"),
        (lambda m: ProbabilityFlow(m, start=-0.1), "start must be a time in"),
        (lambda m: m.log_prob(normals(2, 2), solver="rk4"), "solver must be a Solver, got 'rk4'"),
        (lambda m: m.log_prob(normals(2, 2), trace="all"), "trace must be 'exact' or 'hutchinson'"),
        (lambda m: m.log_prob(torch.ones(2, 2)), "x must be torch.float64"),
        (
            lambda m: ProbabilityFlow(m).encode(normals(2, 2), times=[0.0, 0.4]),
            "times must rise strictly from 0 to T = 1",
        ),
        (lambda m: sample_family(m, 0), "n must be a whole number, 1 or more, got 0"),
        (lambda m: sample_family(m, 3, -1.0), "lam must be a finite number, 0 or more, got -1.0"),
        (lambda m: sample_family(m, 3, substeps=0), "substeps must be a whole number"),
        (lambda m: sample_family(m, 3, shape=2), "shape must be a tuple of whole numbers"),
        (lambda m: sample_family(m, 3, noise=normals(2, 2)), r"noise must have shape \(3, 2\)"),
        (lambda m: sample_family(None, 3), "model must be a DDPM or DiffFlow, got NoneType"),
        (lambda m: path_bounds(m, normals(2, 2), 0), "samples must be a whole number"),
        (lambda m: importance_weighted(torch.ones(3)), r"bounds must be a float tensor \(K, B\)"),
        (
            lambda m: fokker_planck_residual(m, bent, normals(2, 2), 0.5, lam=math.inf),
            "lam must be a finite number",
        ),
        (
            lambda m: fokker_planck_residual(m, bent, normals(2, 2), 0.0),
            r"t must be a time in \(0, T\] = \(0, 1\], got 0.0",
        ),
        (lambda m: family_drift(m, normals(2, 2), 1.2), r"t must be a time in .*, got 1.2"),
        (lambda m: family_drift(m, normals(2, 2), 0.5, lam=-1.0), "lam must be a finite number"),
        (lambda m: theorem_one(bent, torch.ones(2, 2)), "x must be float64"),
        (lambda m: theorem_one(bent, normals(2, 2), steps=(0,)), "steps must be a whole number"),
        (
            lambda m: theorem_one(bent, normals(2, 2), steps=10),
            r"steps must be a sequence of numbers, such as \(10,\), got 10",
        ),
        (
            lambda m: theorem_one(bent, normals(2, 2), g=0.1),
            r"g must be a sequence of numbers, such as \(0.1,\), got 0.1",
        ),
        (lambda m: theorem_one(bent, normals(2, 2), g=()), "g must hold at least one number"),
        (lambda m: theorem_one(bent, normals(2, 2), g=(0.1, 0)), "g must be positive and finite"),
        (lambda m: theorem_one(bent, normals(2, 2), T=-1.0), "T must be positive and finite"),
        (lambda m: theorem_one(3, normals(2, 2)), r"drift must be callable as drift\(x, t\)"),
        (lambda m: sample_family(m, 3, noise=[[0.0, 0.0]] * 3), "noise must be a torch.Tensor of"),
        (
            lambda m: sample_family(m, 3, noise=normals(3, 2, dtype=torch.float32)),
            "noise must be torch.float64 like the model's networks, got torch.float32",
        ),
    ],
)
def test_bad_input_is_named(run, message):
    with pytest.raises(ValueError, match=message):
        run(mlp(SCHEDULES["log_snr"]))


def test_a_tolerance_out_of_reach_is_named():
    solver = Solver(rtol=1e-12, atol=1e-12, max_evaluations=60)
    with pytest.raises(SolverError, match=r"rtol=1e-12.*at t = .* step of"):
        mlp(SCHEDULES["log_snr"]).log_prob(normals(3, 2), solver=solver)


def test_the_noise_of_a_geometric_grid_is_the_chains_at_every_grid_time():
    for steps in (1, 2, 10):
        schedule = Schedule.geometric(steps=steps)
        sde = schedule.noise_process
        assert torch.allclose(sde.sigma(schedule.times[1:]).square(), schedule.s.square().cumsum(0))
        # g² = dσ²/dt, by central differences.
        t, h = torch.tensor(0.37, dtype=torch.float64), 1e-5
        slope = (sde.sigma(t + h).square() - sde.sigma(t - h).square()) / (2 * h)
        assert sde.g(t).square() == pytest.approx(float(slope), rel=1e-6)


def test_rows_that_are_not_finite_are_not_called_times():
    model = DDPM(lambda x, t: -x, Schedule.log_snr(3), prediction="score")
    x = torch.randn(4, 2)
    x[1, 0] = torch.nan
    with pytest.raises((SolverError, ValueError), match="finite|NaN"):
        model.log_prob(x)


def test_a_log_density_of_another_shape_and_fields_of_no_particles_are_refused():
    model = DDPM(lambda x, t: -x, Schedule.log_snr(3), prediction="score")
    x = torch.randn(4, 2)
    with pytest.raises(ValueError, match=r"log_density must return one number a particle, \(4,\)"):
        fokker_planck_residual(model, lambda x, t: -x.square().sum(1, keepdim=True), x, 0.5)
    with pytest.raises(ValueError, match="x must be float32 or float64"):
        family_drift(model, torch.ones(4, 2, dtype=torch.int64), 0.5)
    with pytest.raises(ValueError, match="model must be a DDPM or DiffFlow"):
        family_drift(torch.nn.Linear(2, 2), x, 0.5)
