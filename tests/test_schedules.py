"""Schedules against the paper's equations and against the SDE they discretise."""

import math
import pickle
import re

import pytest
import torch

from diffflow_edu import DiffFlow, Schedule, toy
from diffflow_edu.metrics import sliced_w2, w2_to_normal
from diffflow_edu.processes.score_matching import sliced_score_matching

CHAINS = {
    "log_snr": lambda steps: Schedule.log_snr(steps=steps),
    "linear_beta": lambda steps: Schedule.linear_beta(steps=steps),
    "geometric": lambda steps: Schedule.geometric(steps=steps),
    "polynomial": lambda steps: Schedule.polynomial(steps=steps),
    "flexible": lambda steps: Schedule.polynomial(steps=steps, flexible=True),
    "euler": lambda steps: Schedule.euler(
        torch.linspace(0, 1, steps + 1), torch.linspace(0.5, 1.5, steps + 1)
    ),
}


def assert_near(found, expected, rel=1e-6, abs=0.0):
    found, expected = (torch.as_tensor(v, dtype=torch.float64) for v in (found, expected))
    torch.testing.assert_close(found, expected, rtol=rel, atol=abs)


@pytest.fixture(params=CHAINS, ids=str)
def chain(request):
    return CHAINS[request.param]


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_every_schedule_has_one_coefficient_a_step_and_times_that_rise_from_zero(chain, steps):
    schedule = chain(steps)
    assert schedule.steps == steps and schedule.times.shape == (steps + 1,)
    assert schedule.times[0] == 0 and (schedule.times.diff() > 0).all()
    for name in ("k", "h", "s", "e", "b", "e_ode"):
        values = getattr(schedule, name)
        assert values.shape == (steps,) and values.dtype == torch.float64, name
        assert (values > 0).all() and values.isfinite().all(), name


def test_a_schedule_says_what_it_is_and_can_be_pickled(chain):
    schedule = chain(4)
    assert repr(schedule).startswith("Schedule(steps=4, T=")
    assert repr(pickle.loads(pickle.dumps(schedule))) == repr(schedule)


def test_the_paper_chain_has_the_coefficients_of_equations_11_and_12():
    times = torch.tensor([0.0, 0.1, 0.4, 1.0], dtype=torch.float64)
    g = torch.tensor([0.5, 0.7, 1.1, 1.5], dtype=torch.float64)
    schedule = Schedule.euler(times, g)
    for i, dt in enumerate((0.1, 0.3, 0.6)):
        expected = [1, dt, g[i] * dt**0.5, g[i + 1] ** 2 * dt, g[i + 1] * dt**0.5]
        found = [getattr(schedule, name)[i] for name in ("k", "h", "s", "e", "b")]
        assert_near(found, [float(v) for v in expected], rel=1e-12)
    assert_near(schedule.e_ode, schedule.e / 2)


def test_a_single_g_is_the_same_g_at_every_time():
    times = torch.tensor([0.0, 0.1, 1.0])
    one, many = Schedule.euler(times, 0.3), Schedule.euler(times, torch.full((3,), 0.3).double())
    assert torch.equal(one.s, many.s) or torch.allclose(one.s, many.s, rtol=1e-6)
    assert torch.equal(Schedule.euler(times, torch.tensor(0.5)).s, Schedule.euler(times, 0.5).s)


def test_the_log_snr_grid_is_geometric_in_sigma_over_alpha():
    schedule = Schedule.log_snr(steps=5, r_min=0.01, r_max=1.0)
    ratio = schedule.noise_process.r(schedule.times)
    expected = [0, 0.01, 0.01 * 10**0.5, 0.1, 0.1 * 10**0.5, 1]
    assert_near(ratio.tolist(), expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("name", ["log_snr", "linear_beta"])
@pytest.mark.parametrize("steps", [3, 30])
def test_a_chain_with_its_linear_part_integrated_has_the_moments_of_the_sde(name, steps):
    """Multiplying out the steps gives α(T) and σ(T) exactly, whatever N."""
    schedule = CHAINS[name](steps)
    mean, variance = torch.ones(2, dtype=torch.float64)
    for i in range(steps):
        mean, variance = schedule.k[i] * mean, schedule.k[i] ** 2 * variance + schedule.s[i] ** 2
        if i == 0:
            variance = schedule.s[0] ** 2  # from x_0, which has none
    t = schedule.times[-1]
    assert_near(mean, schedule.noise_process.alpha(t), rel=1e-9)
    assert_near(variance, schedule.noise_process.sigma(t) ** 2, rel=1e-9)
    preserved = schedule.noise_process.alpha(t) ** 2 + schedule.noise_process.sigma(t) ** 2
    assert_near(preserved, 1, rel=1e-9)


def test_linear_beta_at_a_thousand_steps_is_ddpm_s_own_schedule():
    """Ho et al. 2020: β_i linear from 1e-4 to 0.02, ᾱ their product."""
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    schedule = Schedule.linear_beta(1000)
    # 1 − k² is β_i averaged over a step and integrated: within 1.5 % of the discrete β.
    assert_near(1 - schedule.k[100:].square(), beta[100:], rel=0.015)
    log_alpha_bar = (1 - beta).log().sum()
    assert_near(schedule.k.square().log().sum(), log_alpha_bar, rel=0.01)


@pytest.mark.parametrize("name", ["log_snr", "linear_beta", "geometric", "polynomial", "euler"])
def test_the_coefficients_of_short_steps_approach_the_sde(name):
    """k ≈ 1 + ℓ Δt, h ≈ γ Δt, s² ≈ g² Δt, e ≈ g² Δt; errors of relative order Δt = 1/4000."""
    steps = 4000
    schedule = CHAINS[name](steps)
    if name == "log_snr":  # its times are even only where r is above r_min; look there
        schedule = Schedule.log_snr(steps=steps, r_min=1e-3)
    middle = slice(steps // 2, steps - 1)
    dt = schedule.times.diff()[middle]
    t = ((schedule.times[1:] + schedule.times[:-1]) / 2)[middle]
    noise = schedule.noise_process
    assert_near((schedule.k[middle] - 1) / dt, noise.linear(t), rel=0.02, abs=1e-9)
    if name != "geometric":  # there s is given step by step, so g(t) grows with √N
        assert_near(schedule.s[middle].square() / dt, noise.g(t).square(), rel=0.02)
        assert_near(schedule.h[middle] / dt, noise.gain(t), rel=0.02)
    else:
        assert_near(schedule.s[middle].square() / dt, noise.g(t).square(), rel=0.02)
        assert_near(schedule.h[middle] / dt, torch.ones_like(dt))


@pytest.mark.parametrize("name", ["log_snr", "linear_beta"])
def test_alpha_and_sigma_solve_the_moment_equations_of_the_sde(name):
    """α' = ℓ α and (σ²)' = 2 ℓ σ² + g², by central differences in float64."""
    noise = CHAINS[name](10).noise_process
    t, dt = torch.linspace(0.05, 0.95, 7, dtype=torch.float64), 1e-5
    slope = (noise.alpha(t + dt) - noise.alpha(t - dt)) / (2 * dt)
    assert_near(slope, noise.linear(t) * noise.alpha(t), rel=1e-5)
    slope = (noise.sigma(t + dt).square() - noise.sigma(t - dt).square()) / (2 * dt)
    variance = noise.sigma(t).square()
    expected = 2 * noise.linear(t) * variance + noise.g(t).square()
    assert_near(slope, expected, rel=1e-4, abs=1e-7)


def test_h_is_near_s_at_thirty_steps_on_even_times():
    schedule = Schedule.linear_beta(steps=30)
    assert_near(schedule.h, schedule.s, rel=1e-9)


def test_the_noise_of_the_paper_chain_adds_up():
    times, g = torch.tensor([0.0, 0.1, 0.4, 1.0]), torch.tensor([0.5, 0.7, 1.1, 1.5])
    noise = Schedule.euler(times, g).noise_process
    expected = (0.5**2 * 0.1 + 0.7**2 * 0.3 + 1.1**2 * 0.6) ** 0.5
    assert_near(float(noise.sigma(torch.tensor(1.0))), expected, rel=1e-6)
    assert_near(float(noise.g(torch.tensor(0.25))), 0.9, rel=1e-6)
    assert float(noise.alpha(torch.tensor(0.25))) == 1


def test_the_fixed_grid_is_the_power_law_of_the_paper():
    schedule = Schedule.polynomial(steps=4, T=0.05, beta=0.9)
    expected = [(i / 4) ** 0.9 * 0.05 for i in range(5)]
    assert_near(schedule.times.tolist(), expected, rel=1e-12)
    assert schedule.draw() is schedule


@pytest.mark.parametrize("steps", [2, 3, 30])
def test_the_flexible_grid_is_fresh_at_every_draw_and_stays_between_its_knots(steps):
    torch.manual_seed(0)
    schedule = Schedule.polynomial(steps=steps, T=0.05, beta=0.9, flexible=True)
    knots = (torch.arange(steps, dtype=torch.float64) / (steps - 1)) ** 0.9 * 0.05
    grids = [schedule.draw().times for _ in range(200)]
    for times in grids:
        assert times[0] == 0 and times[-1] == 0.05
        assert (times.diff() > 0).all()
        assert (times[1:-1] > knots[:-1]).all() and (times[1:-1] < knots[1:]).all()
    inner = torch.stack(grids)[:, 1:-1]
    share = (inner - knots[:-1]) / knots.diff()
    # 1 − α ~ U(0, 1): mean ½ within five standard errors, .29/√200 each.
    assert_near(share.mean(0), torch.full((steps - 1,), 0.5).double(), abs=0.1)
    assert (share.min() < 0.1) and (share.max() > 0.9)


def test_a_flexible_grid_of_one_step_has_nothing_to_draw():
    schedule = Schedule.polynomial(steps=1, flexible=True)
    assert schedule.draw().times.tolist() == schedule.times.tolist()


def by_hand(**changed) -> Schedule:
    """A chain of three steps, built from its coefficients, some of them changed."""
    made = Schedule.log_snr(steps=3)
    names = ("times", "k", "h", "s", "e", "b", "e_ode", "noise_process")
    return Schedule(**({name: getattr(made, name) for name in names} | changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"b": [0.1, -0.2, 0.3]}, "b must be positive and finite, got -0.2 at step 1"),
        ({"k": [1.0, 1.0, 0.0]}, "k must be positive and finite, got 0 at step 2"),
        ({"s": [0.1, 0.1, math.nan]}, "s must be positive and finite, got nan at step 2"),
        ({"h": [math.inf, 1.0, 1.0]}, "h must be finite, got inf at step 0"),
        ({"e": [0.1, 0.2]}, "e must hold one number a step, (3,), got (2,)"),
        ({"e_ode": "none"}, "e_ode must be numbers, got 'none'"),
        ({"times": [0.0, 0.5, 0.4, 1.0]}, "times must rise strictly, got 0.5 then 0.4 at step 1"),
        ({"times": [0.1, 0.2, 0.4, 1.0]}, "times must start at 0 (the data side), got 0.1"),
        ({"noise_process": None}, "noise_process must be a NoiseProcess such as LogSNR"),
        ({"redraw": 3}, "redraw must be callable as redraw(), got 3"),
    ],
)
def test_a_schedule_built_by_hand_names_the_coefficient_the_step_and_the_value(changed, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        by_hand(**changed)


def test_coefficients_are_kept_in_float64_whatever_they_came_in():
    made = by_hand(b=[0.1, 0.2, 0.3], s=torch.ones(3))
    assert (made.b.dtype, made.s.dtype) == (torch.float64, torch.float64)
    assert made.b.tolist() == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule.log_snr(r_max=1e300), "r_max must be from 1e-18 to 1e+18, got 1e+300"),
        (lambda: Schedule.log_snr(r_min=1e-300), "r_min must be from 1e-18 to 1e+18, got 1e-300"),
        (lambda: Schedule.geometric(s_max=1e200), "s_max must be from 1e-18 to 1e+18, got 1e+200"),
        (lambda: Schedule.euler([0.0, 1.0], g=1e200), "e must be finite, got inf at step 0"),
    ],
)
def test_numbers_whose_coefficients_are_not_finite_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize("size", [1e-18, 1e18])
def test_the_largest_and_the_smallest_numbers_make_coefficients_that_float32_holds(size):
    c = Schedule.log_snr(steps=5, r_min=min(size, 1e17), r_max=max(size, 1e-17))
    for name in ("k", "s", "b"):
        values = getattr(c, name).float()
        assert (values > 0).all() and values.isfinite().all()


@pytest.mark.parametrize(
    "chain", [Schedule.polynomial(10), Schedule.geometric(10), Schedule.euler([0.0, 0.5, 1.0], 1.0)]
)
def test_what_cannot_be_respaced_is_told_in_words(chain):
    with pytest.raises(ValueError, match="only a chain whose linear part") as told:
        chain.respaced(2)
    with pytest.raises(ValueError, match="must be variance preserving") as other:
        Schedule.at([0.0, 1.0], chain.noise_process)
    for message in (str(told.value), str(other.value), repr(chain.noise_process)):
        assert "tensor(" not in message
        assert len(message) < 300


@pytest.mark.parametrize("seed", [2**70, 2**63, -1, 1.5, True, "a", torch.zeros(100)])
@pytest.mark.parametrize(
    "use",
    [
        lambda seed: toy.load("ring").sample(3, seed=seed),
        lambda seed: DiffFlow(lambda x, t: -x, lambda x, t: -x, Schedule.log_snr(2)).sample(
            3, seed
        ),
        lambda seed: sliced_w2(torch.zeros(3, 2), torch.zeros(3, 2), seed=seed),
        lambda seed: w2_to_normal(torch.zeros(3, 2), seed=seed),
        lambda seed: sliced_score_matching(lambda x, t: -x, torch.zeros(3, 2), seed=seed),
    ],
)
def test_a_seed_that_no_generator_takes_is_refused_by_name(use, seed):
    with pytest.raises(ValueError, match=r"^seed") as told:
        use(seed)
    assert "tensor([" not in str(told.value)
