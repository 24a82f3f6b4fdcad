"""The grid follows from the data, and a chain that does not start where it ends is noticed."""

import math

import pytest
import torch

from diffflow_edu import DDPM, Schedule, fit, images, toy
from diffflow_edu.noise_range import look_at_end, noise_range


def spread(n, *stds, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, len(stds), generator=generator) * torch.tensor(stds)


def test_the_last_noise_drowns_the_loudest_direction():
    found = noise_range(spread(4000, *[0.3] * 20, 7.0))
    assert found.loudest == pytest.approx(7, rel=0.05)
    left = (found.loudest**2 + found.r_max**2) / (1 + found.r_max**2)
    assert left == pytest.approx(1.15, abs=0.01)


def test_the_first_noise_is_the_width_of_a_thin_ring():
    for width in (0.01, 0.05):
        found = noise_range(toy.load("olympic_rings", width=width))
        assert width / 3 < found.r_min < 1.5 * width


def test_the_first_noise_of_pictures_is_that_which_dequantises_them():
    digits = images.load("digits")
    assert noise_range(digits).r_min == pytest.approx(2 / 17 / math.sqrt(12), rel=0.05)


def test_the_mean_has_no_say_and_the_scale_has():
    x = spread(3000, 1.0, 2.0)
    moved, plain = noise_range(x + 100), noise_range(x)
    assert (moved.r_min, moved.r_max) == (plain.r_min, plain.r_max)
    assert moved.mean_norm == pytest.approx(100 * math.sqrt(2), rel=0.01)
    assert noise_range(x, scale=2.0).loudest == pytest.approx(plain.loudest / 2)


def test_the_range_makes_a_schedule():
    schedule = noise_range(toy.load("checkerboard")).schedule(steps=7)
    assert schedule.steps == 7


def test_data_that_do_not_vary_are_refused():
    with pytest.raises(ValueError, match="data must vary"):
        noise_range(torch.ones(50, 3))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match="scale must be"):
        noise_range(torch.randn(50, 3), scale=scale)


def test_a_mean_that_is_not_drowned_is_seen_and_subtracting_it_helps():
    x = spread(1000, *[0.5] * 30) + 3
    model = DDPM.mlp(Schedule.log_snr(steps=5, r_max=5.0), dim=30, hidden=8)
    before = look_at_end(model, x)
    assert not before.drowned
    assert before.mean_norm > 2 * before.mean_floor
    model.set_standardisation(x.mean(0), 1.0)
    after = look_at_end(model, x)
    assert after.drowned
    assert "noise" in str(after)


def test_a_loud_direction_that_is_not_drowned_is_seen_and_a_range_from_the_data_helps():
    x = spread(1000, *[0.5] * 30, 8.0)
    for schedule, drowned in (
        (Schedule.log_snr(steps=5, r_max=8.0), False),
        (noise_range(x).schedule(5), True),
    ):
        assert look_at_end(DDPM.mlp(schedule, dim=31, hidden=8), x).drowned is drowned


def test_the_warning_of_fit_names_a_range_that_ends_it():
    x = spread(2000, 0.5, 4.0)
    with pytest.warns(UserWarning, match=r"r_max=") as caught:
        fit(DDPM.mlp(Schedule.log_snr(steps=5, r_max=2.0), hidden=8), x, steps=1, batch_size=32)
    text = str(caught[0].message)
    r_max = float(text.split("r_max=")[-1].split(")")[0])
    assert r_max == noise_range(x).r_max


def test_one_particle_has_no_end_to_look_at():
    with pytest.raises(ValueError, match="two particles"):
        look_at_end(DDPM.mlp(Schedule.log_snr(5), hidden=8), torch.zeros(1, 2))
