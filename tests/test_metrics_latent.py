"""What is measured on the noise side: which modes survive, how Gaussian x_T is; and crossings."""

from __future__ import annotations

import math

import pytest
import torch

from diffflow_edu import DDPM, CouplingFlow, Schedule, metrics, toy
from diffflow_edu.processes.base import Process, Trajectory

RINGS = toy.load("olympic_rings")


def normal(n: int, seed: int, dim: int = 2) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


# Modes -------------------------------------------------------------------------------------------


def test_modes_far_apart_survive_and_neighbours_of_another_mode_do_not():
    pairs = torch.tensor([[0.0, 0.0], [0.1, 0.0], [9.0, 0.0], [9.1, 0.0], [9.0, 9.0], [9.1, 9.0]])
    assert metrics.mode_survival(pairs, torch.tensor([0, 0, 1, 1, 2, 2])) == 1
    assert metrics.mode_survival(pairs, torch.tensor([0, 1, 0, 1, 0, 1])) == 0
    assert metrics.mode_survival(pairs, torch.tensor([0, 0, 1, 0, 2, 1])) == pytest.approx(1 / 3)


def test_survival_counts_the_neighbour_that_brute_force_finds():
    x = normal(300, seed=1)
    modes = torch.randint(3, (300,), generator=torch.Generator().manual_seed(2))
    same = 0
    for i in range(300):
        others = [j for j in range(300) if j != i]
        nearest = min(others, key=lambda j, i=i: float((x[i] - x[j]).double().square().sum()))
        same += int(modes[nearest] == modes[i])
    assert metrics.mode_survival(x, modes) == pytest.approx(same / 300, abs=1e-12)


def test_blocks_of_rows_do_not_change_the_answer():
    # 2100² numbers do not fit into one block of 2²² of them.
    x = normal(2100, seed=3)
    modes = (x[:, 0] > 0).long()
    distance = torch.cdist(x.double(), x.double()).fill_diagonal_(math.inf)
    expected = (modes[distance.argmin(1)] == modes).double().mean().item()
    assert metrics.mode_survival(x, modes) == pytest.approx(expected, abs=1e-12)


def test_survival_of_modes_dealt_at_random_is_the_chance_level():
    draw = torch.Generator().manual_seed(4)
    x, modes = normal(500, seed=5), torch.randint(5, (500,), generator=draw)
    modes[:200] = 0  # unequal modes
    mean = sum(
        metrics.mode_survival(x, modes[torch.randperm(500, generator=draw)]) for _ in range(40)
    )
    # One deal has a standard deviation near √(.3 · .7 · 1.6/500) = .026, the mean of forty .004.
    assert mean / 40 == pytest.approx(metrics.mode_survival_chance(modes), abs=0.016)


def test_the_chance_is_the_share_of_pairs_that_agree():
    modes = torch.tensor([0, 0, 0, 1, 1, 7])
    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    agree = sum(int(modes[i] == modes[j]) for i, j in pairs)
    assert metrics.mode_survival_chance(modes) == pytest.approx(agree / len(pairs), abs=1e-12)


def test_a_particle_that_is_not_finite_makes_the_survival_nan():
    x = normal(10, seed=0)
    x[3, 1] = math.nan
    assert math.isnan(metrics.mode_survival(x, torch.zeros(10, dtype=torch.int64)))


# How Gaussian ------------------------------------------------------------------------------------


def test_a_normal_cloud_reads_the_floor_and_a_shifted_one_its_shift():
    floor = metrics.w2_to_normal_floor(4000)
    assert metrics.w2_to_normal(normal(4000, seed=11)) < 2 * floor < 0.1
    # A shift v costs ‖v‖/√2 in two dimensions, less or more by what chance adds.
    moved = normal(4000, seed=11) + torch.tensor([3.0, 4.0])
    assert metrics.w2_to_normal(moved) == pytest.approx(5 / math.sqrt(2), abs=2 * floor)


def test_a_cloud_too_wide_reads_its_excess():
    # W2 between N(0, 1) and N(0, σ²) is |σ − 1|, in every direction.
    wide = 1.5 * normal(4000, seed=12)
    assert metrics.w2_to_normal(wide) == pytest.approx(0.5, abs=0.06)


def test_the_floor_falls_as_points_are_added():
    assert metrics.w2_to_normal_floor(20_000) < 0.5 * metrics.w2_to_normal_floor(500)


class Still(Process):
    """Carries nobody anywhere."""

    def encode(self, x, seed=None):
        return Trajectory(torch.tensor([0.0, 1.0]), torch.stack([x, x]))


def test_a_process_that_does_nothing_keeps_the_modes_and_is_not_gaussian():
    found = metrics.evaluate_latent(Still(), RINGS, n=1500)
    assert found["mode_survival"] == found["mode_survival_data"] > 0.98
    assert found["mode_survival_chance"] == pytest.approx(0.2, abs=0.005)
    assert found["w2_to_normal"] > 4 * found["w2_to_normal_floor"]
    assert (found["n"], found["seed"]) == (1500, 0)


def test_a_diffusion_that_drowns_the_data_forgets_its_modes():
    model = DDPM.mlp(Schedule.log_snr(steps=10, r_max=50.0), hidden=8)
    found = metrics.evaluate_latent(model, RINGS, n=2000)
    # A share near .2 of 2000 has a standard error of .009 or a little more; r = 50 leaves 2 % of x.
    assert found["mode_survival"] == pytest.approx(found["mode_survival_chance"], abs=0.04)
    assert found["w2_to_normal"] < 2.5 * found["w2_to_normal_floor"]


def test_the_same_seed_measures_the_same_and_leaves_the_global_generator_alone():
    model = CouplingFlow(hidden=8).eval()
    before = torch.get_rng_state()
    first, second = (metrics.evaluate_latent(model, RINGS, n=200, seed=3) for _ in range(2))
    assert first == second
    assert torch.equal(before, torch.get_rng_state())


# Crossings ---------------------------------------------------------------------------------------


def test_crossings_lie_on_two_rings_at_once():
    points = metrics.crossings(RINGS)
    raw = points * RINGS.scale + RINGS.shift
    radii = torch.cdist(raw, RINGS.centres).sort(dim=1).values
    on = ((radii - 1).abs() < 1e-9).sum(dim=1)
    assert points.shape == (8, 2) and bool((on == 2).all())


def test_the_leak_at_the_crossings_counts_those_near_them_only():
    centre = metrics.crossings(RINGS)[0].float()
    around = torch.arange(8) * math.pi / 4
    beside = centre + 0.1 * torch.stack([around.cos(), around.sin()], dim=1)
    on, off = centre, beside[RINGS.distance(beside).argmax()]  # between the two rings
    far = torch.tensor([50.0, 50.0])
    assert RINGS.leaked(torch.stack([on, off, far])).tolist() == [False, True, True]
    assert metrics.crossing_leak(torch.stack([on, on, off, far, far]), RINGS) == pytest.approx(
        1 / 3
    )
    assert math.isnan(metrics.crossing_leak(torch.stack([far, far]), RINGS))


def test_the_data_itself_hardly_leaks_at_the_crossings():
    assert metrics.crossing_leak(RINGS.sample(20_000, seed=0), RINGS) == 0


# Bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.mode_survival(torch.zeros(3, 2), torch.zeros(4)), "modes must hold one"),
        (lambda: metrics.mode_survival(torch.zeros(3, 2), torch.zeros(3, 1)), "modes must be a"),
        (lambda: metrics.mode_survival(torch.zeros(3), torch.zeros(3)), "x must be a tensor"),
        (lambda: metrics.mode_survival_chance(torch.zeros(1)), r"n >= 2, got \(1,\)"),
        (lambda: metrics.mode_survival_chance([0, 1]), "modes must be a tensor .* got list"),
        (lambda: metrics.w2_to_normal_floor(0), "n must be a whole number, 1 or more, got 0"),
        (lambda: metrics.evaluate_latent(3, RINGS), "model must be a Process, got int"),
        (lambda: metrics.evaluate_latent(Still(), "ring"), "density must be one of `toy`"),
        (lambda: metrics.evaluate_latent(Still(), RINGS, n=1), "n must be .* 2 or more, got 1"),
        (lambda: metrics.crossings(toy.load("checkerboard")), "density must be made of rings"),
        (
            lambda: metrics.crossing_leak(torch.zeros(2, 2), toy.load("ring")),
            "density must have rings that cross",
        ),
        (lambda: metrics.crossing_leak(torch.zeros(2, 2), RINGS, 0), "radius must be positive"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
