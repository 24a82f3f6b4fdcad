"""Arrows of fields and warped grids: what is computed, what is sent, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffflow_edu import DDPM, DiffFlow, Schedule
from diffflow_edu.player import Player, play
from diffflow_edu.player.fields import FIELD_BYTES, GRID, KINDS, LONGEST, grid_points
from diffflow_edu.player.lattice import FEWEST_LINES, LATTICE_BYTES, LINES, lattice
from diffflow_edu.player.pack import MISSING
from diffflow_edu.processes.base import Process, Trajectory


def trajectory(steps: int, particles: int = 50) -> Trajectory:
    g = torch.Generator().manual_seed(steps)
    return Trajectory(
        torch.linspace(0, 1, steps + 1), torch.randn(steps + 1, particles, 2, generator=g)
    )


def normal_ddpm(steps: int) -> DDPM:
    """The chain whose data are N(0, I), hence whose score is −x at every step."""
    return DDPM(lambda x, t: -x, Schedule.log_snr(steps=steps), prediction="score")


class Stretch(Process):
    """A flow without noise: x grows to (1 + t) x, y stays."""

    def __init__(self, steps: int = 4) -> None:
        super().__init__()
        self.steps = steps

    def encode(self, x: torch.Tensor, seed: int | None = None) -> Trajectory:
        times = torch.linspace(0, 1, self.steps + 1).to(x)
        factor = torch.stack([1 + times, torch.ones_like(times)], dim=1)
        return Trajectory(times, x * factor[:, None])


class Tear(Stretch):
    """A flow that is not finite left of the middle."""

    def encode(self, x: torch.Tensor, seed: int | None = None) -> Trajectory:
        path = super().encode(x, seed)
        path.states[-1, x[:, 0] < 0] = float("nan")
        return path


def found_arrows(player: Player, run: int, panel: int) -> np.ndarray:
    """One model's arrows as the page reads them, (kinds, steps, GRID², 2), in field units."""
    place = player.spec["fields"]["runs"][run][panel]
    shape = (len(KINDS), place["frames"], GRID**2, 2)
    sent = np.frombuffer(player.arrows, np.int8)[place["offset"] :][: np.prod(shape)]
    return sent.reshape(shape) / 127 * LONGEST * np.array(place["scales"])[..., None, None]


def found_lattice(player: Player, run: int = 0, panel: int = 0) -> np.ndarray:
    """One flow's lattice as the page reads it, (N + 1, lines², 2), in data units."""
    lines = player.spec["lattice"]["lines"]
    shape = (player.spec["runs"][run]["frames"], lines**2, 2)
    start = player.spec["lattice"]["runs"][run][panel]
    whole = np.frombuffer(player.lattice, "<i2")[start : start + np.prod(shape)].reshape(shape)
    x, y, half = player.spec["view"]
    return np.where(whole == MISSING, np.nan, whole * player.spec["reach"] * half + (x, y))


def test_arrows_point_where_the_model_goes():
    schedule = Schedule.log_snr(steps=3)
    # no drift, and the score of N(0, 4 I)
    model = DiffFlow(lambda x, t: torch.zeros_like(x), lambda x, t: -x / 4, schedule)
    p = play({"DDPM": model.sample(200, seed=0)}, fields={"DDPM": model})
    points = torch.from_numpy(grid_points(GRID, tuple(p.spec["view"]))).float()
    short = points.norm(dim=1) < points.norm(dim=1).quantile(0.9)  # long ones are cut
    found = torch.from_numpy(found_arrows(p, 0, 0)).float()
    scales = p.spec["fields"]["runs"][0][0]["scales"]
    for step in range(4):
        # one part in 127 of the longest arrow
        torch.testing.assert_close(
            found[1, step][short],
            -points[short] / 4,
            rtol=0,
            atol=scales[1][step] * LONGEST / 127,
        )
    back = (model.backward_mean(points, 1) - points) / schedule.times.diff()[1]
    atol = scales[2][2] * LONGEST / 127
    torch.testing.assert_close(found[2, 2][short], back[short], rtol=0, atol=atol)


def test_every_setting_of_a_dial_has_the_arrows_of_its_own_model():
    models = {n: normal_ddpm(n) for n in (2, 5)}
    runs = {n: {"a": m.sample(50, seed=0), "b": trajectory(n)} for n, m in models.items()}
    p = play({"N": runs}, fields={"N": {n: {"a": m} for n, m in models.items()}})
    places = p.spec["fields"]["runs"]
    assert [list(place) for place in places] == [[0], [0]]
    assert [place[0]["frames"] for place in places] == [3, 6]
    assert len(p.arrows) == 2 * len(KINDS) * GRID**2 * (3 + 6)
    alone = [play(runs[n], fields={"a": m}) for n, m in models.items()]
    for run, (single, n) in enumerate(zip(alone, models, strict=True)):
        # each player has its own view, hence other grid points: compare the direction, inwards
        for player, index in ((p, run), (single, 0)):
            arrows = found_arrows(player, index, 0)[1]
            points = grid_points(GRID, tuple(player.spec["view"]))
            assert arrows.shape == (n + 1, GRID**2, 2)
            assert ((arrows * points).sum(axis=-1) <= 0).all()


def test_one_model_for_all_settings_of_a_dial_is_sent_once():
    model = normal_ddpm(3)
    paths = {lam: {"a": model.sample(20, seed=0, lam=lam)} for lam in (0, 1)}
    p = play({"λ": paths}, fields={"a": model})
    assert len(p.arrows) == 2 * len(KINDS) * GRID**2 * 4
    first, second = p.spec["fields"]["runs"]
    assert first == second


def test_many_steps_leave_out_arrows_instead_of_growing():
    steps = 1000
    model = normal_ddpm(steps)
    p = play({"a": trajectory(steps, 5)}, fields={"a": model})
    assert 0.8 * FIELD_BYTES < len(p.arrows) <= 1.05 * FIELD_BYTES
    stride = p.spec["fields"]["stride"]
    assert p.spec["fields"]["runs"][0][0]["frames"] == steps // stride + 1


def test_a_lattice_starts_regular_on_the_data_and_goes_where_the_flow_goes():
    start = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    flow = Stretch()
    p = play({"flow": flow.encode(start)}, grid={"flow": flow})
    found = found_lattice(p)
    assert p.spec["lattice"]["lines"] == LINES
    quantum = p.spec["reach"] * p.spec["view"][2]
    low, high = found[0].min(axis=0), found[0].max(axis=0)
    centre, half = (low + high) / 2, (high - low).max() / 2
    assert np.allclose(found[0], lattice(LINES, (*centre, half)), atol=quantum)
    inside = (start.numpy() > low) & (start.numpy() < high)
    assert inside.mean() > 0.99  # all but a few stray particles, as `view_square` has it
    for step in range(5):
        assert np.allclose(found[step, :, 0], (1 + step / 4) * found[0, :, 0], atol=2 * quantum)
        assert np.allclose(found[step, :, 1], found[0, :, 1], atol=2 * quantum)
    # The way back shows the same lattice: it is given on the data side.
    back = play({"flow": flow.encode(start)}, grid={"flow": flow}, direction="backward")
    assert back.lattice == p.lattice


def test_a_lattice_that_is_not_finite_has_gaps_and_other_panels_have_none():
    path = Tear().encode(torch.randn(20, 2, generator=torch.Generator().manual_seed(0)))
    p = play({"a": path, "b": path}, grid={"b": Tear()})
    assert list(p.spec["lattice"]["runs"][0]) == [1]
    found = found_lattice(p, panel=1)
    assert np.isfinite(found[:-1]).all()
    assert 0.3 < np.isnan(found[-1]).mean() < 0.7


def test_lattices_at_every_setting_of_a_dial_and_at_many_steps_stay_small():
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    flows = {n: Stretch(n) for n in (2, 6)}
    runs = {n: {"a": flow.encode(x)} for n, flow in flows.items()}
    p = play({"N": runs}, grid={"N": {n: {"a": flow} for n, flow in flows.items()}})
    assert len(p.lattice) == 4 * LINES**2 * (3 + 7)
    assert np.allclose(found_lattice(p, 1)[-1, :, 0], 2 * found_lattice(p, 1)[0, :, 0], atol=1e-3)
    long = play({"a": Stretch(1000).encode(x)}, grid={"a": Stretch(1000)})
    assert FEWEST_LINES <= long.spec["lattice"]["lines"] < LINES
    assert len(long.lattice) <= LATTICE_BYTES


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (3, "fields must be a dict of models by panel title, got int"),
        ({"b": 3}, r"fields\['b'\] has no panel; the panels are \['a'\]"),
        ({"a": 3}, r"fields\['a'\] must be a DDPM or a DiffFlow, got int"),
        ({"a": normal_ddpm(4)}, "many steps.*got 4 and 3"),
    ],
)
def test_fields_that_fit_no_panel_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        play({"a": trajectory(3)}, fields=fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"N": 3}, "every setting of the dial 'N', got .* without '3'"),
        ({"N": {3: {"a": normal_ddpm(3)}}}, r"got \['3'\] without '4'"),
        ({"N": {3: 7, 4: 7}}, "fields must be a dict of models by panel title, got int"),
        ({"a": normal_ddpm(3)}, "many steps.*got 3 and 4"),
    ],
)
def test_fields_that_fit_no_dial_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        play({"N": {n: {"a": trajectory(n)} for n in (3, 4)}}, fields=fields)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (3, "grid must be a dict of models by panel title, got int"),
        ({"b": Stretch(3)}, r"grid\['b'\] has no panel; the panels are \['a'\]"),
        ({"a": 3}, r"grid\['a'\] must be a flow, got int"),
        ({"a": normal_ddpm(3)}, "must be a deterministic process .* got a DDPM: noise"),
        ({"a": Stretch(4)}, "the steps of its panel, got 4 and 3 steps"),
        ({"a": Process()}, "must be a flow, got a Process, which has no encode"),
    ],
)
def test_a_grid_that_no_flow_carries_is_refused(grid, message):
    with pytest.raises(ValueError, match=message):
        play({"a": trajectory(3)}, grid=grid)
