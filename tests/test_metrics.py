"""The metrics against closed forms."""

import math

import pytest
import torch
from torch import nn

from diffflow_edu import CouplingFlow, metrics, toy
from diffflow_edu.metrics import energy_distance, sliced_w2
from diffflow_edu.processes.base import Process, Trajectory
from diffflow_edu.processes.ode import SolverError


def normal(n, seed, shift=(0.0, 0.0)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, generator=generator) + torch.tensor(shift)


class Oracle(Process):
    """A perfect model but for a little noise on its bound; some of its samples may be spoilt."""

    def __init__(self, density, spoilt=0):
        super().__init__()
        self.density, self.spoilt = density, spoilt
        self.weight = nn.Parameter(torch.zeros(1))

    def bound(self, x):
        assert not torch.is_grad_enabled() and not self.training
        return -self.density.log_prob(x) + 1e-3 * torch.randn(len(x))

    def sample(self, n, seed=None, shape=(2,)):
        assert not torch.is_grad_enabled() and not self.training
        x = self.density.sample(n, seed=seed)
        x[: self.spoilt] = math.nan
        return Trajectory(torch.tensor([0.0, 1.0]), torch.stack([x, x + 5]))


@pytest.mark.parametrize("projections", [2, 128])
def test_sliced_w2_of_a_shift_is_its_length_over_the_root_of_the_dimension(projections):
    x = normal(1000, 0)
    shifted = x + torch.tensor([0.6, -0.8])
    # Exact, because projections come in orthonormal pairs; x + shift is rounded to float32.
    assert sliced_w2(x, shifted, projections) == pytest.approx(1 / math.sqrt(2), abs=1e-6)


def test_sliced_w2_of_independent_shifted_gaussians_approaches_the_same_number():
    distance = sliced_w2(normal(20_000, 1), normal(20_000, 2, shift=(3.0, 4.0)))
    # The mean of 20 000 normals is off by .007 and that shifts the distance by as much.
    assert distance == pytest.approx(5 / math.sqrt(2), abs=0.03)


def test_sliced_w2_of_gaussians_of_two_sizes_is_the_difference_of_their_stds():
    # Along every line W2(N(0, 1), N(0, 2²)) = 1; three standard errors of a std at n = 20 000.
    assert sliced_w2(normal(20_000, 3), 2 * normal(20_000, 4)) == pytest.approx(1, abs=0.03)


def test_sliced_w2_of_unequal_sizes_is_the_exact_distance_of_the_quantile_functions():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [0.0], [3.0]])
    # Levels 0–1/3: 0 to 0; 1/3–1/2: 0 to 0; 1/2–2/3: 1 to 0; 2/3–1: 1 to 3.
    assert sliced_w2(x, y) == pytest.approx(math.sqrt(1 / 6 + 4 / 3), abs=1e-12)


def test_repeating_every_sample_changes_no_distance():
    x, y = normal(300, 5), normal(200, 6, shift=(1.0, 0.0))
    twice = y.repeat(3, 1)
    assert sliced_w2(x, twice) == pytest.approx(sliced_w2(x, y), abs=1e-12)
    assert energy_distance(x, twice) == pytest.approx(energy_distance(x, y), abs=1e-12)


def test_sliced_w2_is_fixed_by_its_seed_and_varies_with_it():
    x, y = normal(200, 7), normal(200, 8) * torch.tensor([1.0, 3.0])
    torch.manual_seed(0)
    first = sliced_w2(x, y, projections=4)
    torch.manual_seed(1)
    assert sliced_w2(x, y, projections=4) == first
    assert sliced_w2(x, y, projections=4, seed=1) != first


@pytest.mark.parametrize("metric", [sliced_w2, energy_distance])
def test_a_distance_is_zero_for_identical_sets_symmetric_and_positive_otherwise(metric):
    x, y = normal(500, 9), normal(400, 10)
    # Same points in another order: sums differ by float64 rounding only.
    assert metric(x, x.flip(0)) == pytest.approx(0, abs=1e-12)
    assert metric(x, y) == pytest.approx(metric(y, x), abs=1e-12)
    assert metric(x, y) > 1e-4


@pytest.mark.parametrize("metric", [sliced_w2, energy_distance])
def test_a_distance_takes_images_as_it_takes_their_flat_pixels(metric):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 20, 1, 5, 5, generator=generator)
    assert metric(x, y) == metric(x.flatten(1), y.flatten(1))


def test_the_energy_distance_of_two_point_masses_is_twice_their_distance():
    here, there = torch.zeros(7, 2), torch.tensor([[3.0, 4.0]]).repeat(5, 1)
    assert energy_distance(here, there) == pytest.approx(10, abs=1e-12)


def test_the_energy_distance_in_chunks_equals_the_plain_double_sum():
    x, y = normal(1500, 11).double(), normal(1700, 12, shift=(0.5, 0.0)).double()

    def mean(a, b):
        return (a[:, None] - b[None]).square().sum(2).sqrt().mean()

    reference = (2 * mean(x, y) - mean(x, x) - mean(y, y)).item()
    assert energy_distance(x, y) == pytest.approx(reference, abs=1e-12)
    # Far from the origin ‖a‖² − 2 a·b + ‖b‖² would give a point a distance of 1e-4 to itself.
    here = energy_distance(x[:10], y[:10])
    assert energy_distance(x[:10] + 1e4, y[:10] + 1e4) == pytest.approx(here, abs=1e-9)


@pytest.mark.parametrize("metric", [sliced_w2, energy_distance])
def test_a_distance_to_a_sample_with_a_nan_is_nan(metric):
    x = normal(10, 13)
    x[3, 1] = math.nan
    assert math.isnan(metric(x, normal(10, 14)))


@pytest.mark.parametrize("metric", [sliced_w2, energy_distance])
def test_samples_that_cannot_be_compared_are_refused(metric):
    x = normal(10, 15)
    with pytest.raises(ValueError, match="samples of one shape"):
        metric(x, torch.zeros(10, 3))
    with pytest.raises(ValueError, match=r"x must be a tensor \(n, \*shape\) with n >= 1, got \(0"):
        metric(x[:0], x)
    with pytest.raises(ValueError, match="y must be a tensor.*got list"):
        metric(x, [1.0])


def test_fewer_than_one_projection_is_refused():
    with pytest.raises(ValueError, match="projections must be .* got 0"):
        sliced_w2(normal(10, 0), normal(10, 1), projections=0)


def test_leak_is_the_share_of_points_off_the_set_and_counts_nan():
    density = toy.load("ring")
    x = density.sample(8, seed=0)
    x[0], x[1] = 0.0, math.nan
    assert metrics.leak(x, density) == 2 / 8
    assert metrics.leak(density.sample(100, seed=1), density) == 0


@pytest.mark.parametrize("metric", [sliced_w2, energy_distance])
def test_the_floor_falls_as_n_grows(metric):
    density = toy.load("olympic_rings")
    floors = [
        sum(metrics.floor(density, n, metric, seed) for seed in range(4)) for n in (50, 500, 5000)
    ]
    # Expected factors √10 (W2) and 10 (energy) a step; 2 leaves room for the noise of 4 seeds.
    assert floors[0] > 2 * floors[1] > 4 * floors[2] > 0


def test_the_floor_is_fixed_by_its_seed_and_refuses_no_samples():
    density = toy.load("ring")
    assert metrics.floor(density, 100, seed=3) == metrics.floor(density, 100, seed=3)
    assert metrics.floor(density, 100, seed=3) != metrics.floor(density, 100, seed=4)
    with pytest.raises(ValueError, match="n must be"):
        metrics.floor(density, 0)


def test_bound_gap_is_the_bound_minus_the_entropy():
    density = toy.load("checkerboard")
    assert metrics.bound_gap(2.0, density) == pytest.approx(2 - density.entropy())


def test_a_perfect_model_has_no_gap_no_leak_and_distances_at_the_floor():
    density = toy.load("olympic_rings", width=0.02)
    model = Oracle(density).train()
    result = metrics.evaluate(model, density, n=4000, seed=1)
    assert list(result) == [
        "bound",
        "gap",
        "log_prob",
        "leak",
        "sliced_w2",
        "sliced_w2_floor",
        "energy",
        "energy_floor",
        "n",
        "seed",
        "non_finite",
    ]
    # Four standard errors of a mean of log p, whose std is near .72 on a ring.
    assert result["gap"] == pytest.approx(0, abs=4 * 0.75 / math.sqrt(4000))
    assert result["gap"] == pytest.approx(result["bound"] - density.entropy())
    assert result["leak"] == 0 and result["non_finite"] == 0
    assert (result["n"], result["seed"]) == (4000, 1)
    # Both are draws of one random number; it varies by less than a factor of 4 at n = 4000.
    assert 1 / 4 < result["sliced_w2"] / result["sliced_w2_floor"] < 4
    assert 1 / 4 < result["energy"] / result["energy_floor"] < 4


def test_evaluate_repeats_itself_and_leaves_the_mode_and_the_random_state_alone():
    density = toy.load("ring")
    model = Oracle(density).train()
    state = torch.get_rng_state()
    first = metrics.evaluate(model, density, n=200, seed=2)
    assert torch.equal(state, torch.get_rng_state()) and model.training
    torch.rand(3)
    assert metrics.evaluate(model, density, n=200, seed=2) == first
    assert metrics.evaluate(model, density, n=200, seed=3) != first


def test_samples_that_are_not_finite_leak_are_counted_and_left_out_of_distances():
    density = toy.load("ring")
    result = metrics.evaluate(Oracle(density, spoilt=50), density, n=1000)
    assert result["non_finite"] == 50 and result["leak"] == 0.05
    assert math.isfinite(result["sliced_w2"]) and math.isfinite(result["energy"])
    lost = metrics.evaluate(Oracle(density, spoilt=100), density, n=100)
    assert lost["leak"] == 1 and math.isnan(lost["sliced_w2"]) and math.isnan(lost["energy"])


def test_a_process_without_a_bound_is_measured_by_its_samples_alone():
    density = toy.load("ring")

    class Boundless(Oracle):
        def bound(self, x):
            raise NotImplementedError("no bound")

        def log_prob(self, x):
            raise NotImplementedError("no log_prob either")

    result = metrics.evaluate(Boundless(density), density, n=200, log_prob_n=10)
    assert all(math.isnan(result[name]) for name in ("bound", "gap", "log_prob"))
    assert result["leak"] == 0 and math.isfinite(result["sliced_w2"])


def test_the_log_likelihood_is_minus_an_exact_bound_and_else_only_computed_when_asked_for():
    density = toy.load("ring")

    class Asked(Oracle):
        def log_prob(self, x):
            self.asked = len(x)
            return torch.full((len(x),), -3.0)

    model = Asked(density)
    assert math.isnan(metrics.evaluate(model, density, n=200)["log_prob"])
    assert not hasattr(model, "asked")
    assert metrics.evaluate(model, density, n=200, log_prob_n=50)["log_prob"] == -3
    assert model.asked == 50
    model.bound_is_exact = True
    exact = metrics.evaluate(model, density, n=200)
    assert exact["log_prob"] == -exact["bound"]
    with pytest.raises(ValueError, match="log_prob_n must be between 0 and n = 200, got 201"):
        metrics.evaluate(model, density, n=200, log_prob_n=201)


@pytest.mark.parametrize("number", ["bound", "log_prob"])
def test_a_solver_that_gives_up_is_heard_and_not_taken_for_a_missing_number(number):
    density = toy.load("ring")

    class Stuck(Oracle):
        pass

    def give_up(x):
        raise SolverError("dopri5 cannot reach its tolerance")

    model = Stuck(density)
    setattr(model, number, give_up)
    with pytest.raises(SolverError, match="cannot reach its tolerance"):
        metrics.evaluate(model, density, n=20, log_prob_n=5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": None}, "model must be a Process, got NoneType"),
        ({"density": "ring"}, "density must be one of `toy`, got 'ring'"),
        ({"n": "a"}, "n must be a whole number, 1 or more, got 'a'"),
        ({"seed": None}, "seed must be a whole number, 0 or more, got None"),
        ({"log_prob_n": 2.5}, "log_prob_n must be a whole number"),
    ],
)
def test_evaluate_names_what_it_cannot_use(arguments, words):
    usable = {"model": CouplingFlow(layers=2, hidden=8), "density": toy.load("ring"), "n": 10}
    with pytest.raises(ValueError, match=words):
        metrics.evaluate(**usable | arguments)
