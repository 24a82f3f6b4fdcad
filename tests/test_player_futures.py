"""One start, many noises: the ways through a point, which models know them, and the answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffflow_edu import DDPM, DiffFlow, Schedule
from diffflow_edu.player import play
from diffflow_edu.player.futures import FUTURES, futures, models_of
from diffflow_edu.processes.base import Process, Trajectory

START = torch.tensor([0.5, -1.0])


def normal_ddpm(steps: int = 4) -> DDPM:
    """The chain whose data are N(0, I), hence whose score is −x at every step."""
    return DDPM(lambda x, t: -x, Schedule.log_snr(steps=steps), prediction="score")


class Stretch(Process):
    """A flow without noise, which can only go to the noise: x grows to (1 + t) x."""

    def encode(self, x: torch.Tensor, seed: int | None = None) -> Trajectory:
        times = torch.linspace(0, 1, 5).to(x)
        return Trajectory(times, x * (1 + times)[:, None, None])


class BothWays(Stretch):
    def decode(self, z: torch.Tensor, seed: int | None = None) -> Trajectory:
        return self.encode(z / 2)


def test_ways_take_the_two_chains_from_the_point_on():
    model, count, step = normal_ddpm(), 4000, 2
    ways = futures(model, START, step, steps=4, count=count)
    assert ways.shape == (5, count, 2)
    assert torch.equal(ways[step], START.expand(count, 2))
    # One step on either side has the mean and the deviation of its chain; 5 standard errors.
    here = START[None]
    on, back = float(model.schedule.s[step]), float(model.backward_std()[step - 1])
    for at, mean, std in (
        (step + 1, model.forward_mean(here, step), on),
        (step - 1, model.backward_mean(here, step - 1), back),
    ):
        error = (ways[at].mean(0) - mean[0]).abs().max()
        assert error < 5 * std / count**0.5
        assert ways[at].std(0).tolist() == pytest.approx([std, std], rel=0.06)
    # The last step back is a mean, as in `sample`.
    assert torch.allclose(ways[0], model.backward_mean(ways[1], 0))


def test_the_same_seed_gives_the_same_ways_and_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second = (futures(normal_ddpm(), START, 1, steps=4) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_noise_there_is_one_way_and_it_is_told_from_the_ends():
    flow = BothWays()
    on, back = futures(flow, START, 0, steps=4), futures(flow, START, 4, steps=4)
    assert on.shape == back.shape == (5, 1, 2)
    assert torch.equal(on[0, 0], START) and torch.equal(on[-1, 0], 2 * START)
    assert torch.equal(back[-1, 0], START) and torch.equal(back[0, 0], START / 2)
    assert futures(flow, START, 2, steps=4) is None
    assert futures(Stretch(), START, 4, steps=4) is None  # it has no decode


def test_a_noisy_model_of_several_settings_is_left_out_for_it_does_not_know_how_it_was_run():
    model, flow = normal_ddpm(), Stretch()
    other = DiffFlow(lambda x, t: 0 * x, lambda x, t: -x, Schedule.log_snr(steps=4))
    found = models_of(
        ["a", "b", "c"],
        [{"a": model, "b": other}, {"a": model}],
        [{"c": flow}, {"c": flow}],
    )
    assert found == [{1: other, 2: flow}, {2: flow}]


@pytest.fixture
def player():
    model = normal_ddpm()
    path = model.sample(50, seed=0)
    return play({"other": path, "DDPM": path}, fields={"DDPM": model})


def test_the_page_gets_the_ways_of_the_panels_that_have_a_model(player, monkeypatch):
    answers = []
    monkeypatch.setattr(player, "send", lambda content, buffers: answers.append((content, buffers)))
    asked = {"type": "futures", "question": "q", "run": 0, "step": 3, "at": START.tolist()}
    player._hear(player, asked, [])
    ((content, (ways,)),) = answers
    assert content == {"type": "futures", "question": "q", "panels": [1]}
    x, y, half = player.spec["view"]
    there = np.frombuffer(ways, "<i2").reshape(5, FUTURES, 2)
    places = there * player.spec["reach"] * half + (x, y)
    quantum = player.spec["reach"] * half
    assert np.abs(places[3] - START.numpy()).max() <= quantum
    assert places[4].std(axis=0).min() > 10 * quantum
    player._hear(player, {"type": "something else"}, [])
    assert len(answers) == 1


def test_a_player_says_whether_a_kernel_could_tell(player):
    assert player.spec["futures"] is True
    assert play(normal_ddpm().sample(5, seed=0)).spec["futures"] is False
