"""What the player sends to the page, what it refuses, and what it leaves where no kernel runs."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diffflow_edu.player as player_package
from diffflow_edu import metrics as metrics_module
from diffflow_edu import toy
from diffflow_edu.figures import MODES, view_square
from diffflow_edu.metrics import sliced_w2
from diffflow_edu.player import Player, play
from diffflow_edu.player.fields import PIXELS
from diffflow_edu.player.pack import MISSING, REACH, SCRIPTS, quantise, script
from diffflow_edu.processes.base import Trajectory

SCRIPT = script()


def trajectory(steps: int = 30, particles: int = 2000, seed: int = 0) -> Trajectory:
    """A ring that spreads to a Gaussian."""
    g = torch.Generator().manual_seed(seed)
    angle = 6.2831853 * torch.rand(particles, generator=g)
    ring = torch.stack([angle.cos(), angle.sin()], dim=1)
    times = torch.linspace(0, 1, steps + 1)
    noise = torch.randn(particles, 2, generator=g)
    weight = times[:, None, None]
    return Trajectory(times, (1 - weight) * ring + weight * noise)


def sent(player: Player) -> np.ndarray:
    """The frames as the page gets them, (N + 1, panels, points, 2)."""
    (run,) = player.spec["runs"]
    shape = (run["frames"], len(player.spec["panels"]), player.spec["points"], 2)
    return np.frombuffer(player.frames, "<i2").reshape(shape)


def sent_colors(player: Player, which: str | None = None) -> np.ndarray:
    """The palette indices of a colouring (by default the caller's), (panels, points)."""
    names = [each["name"] for each in player.spec["colorings"]]
    shape = (len(names), len(player.spec["panels"]), player.spec["points"])
    every = np.frombuffer(player.colors, np.uint8).reshape(shape)
    return every[names.index(which) if which else 0]


def three() -> dict[str, Trajectory]:
    return {name: trajectory(seed=i) for i, name in enumerate(("DDPM", "DiffFlow", "CNF"))}


def test_three_panels_of_2000_points_and_31_frames_are_744_kilobytes_sent_once():
    p = play(three())
    assert len(p.frames) == 31 * 3 * 2000 * 2 * 2 == 744_000
    state = p.get_state()
    sizes = {k: len(v) for k, v in state.items() if isinstance(v, (bytes, memoryview))}
    assert sizes == {"frames": 744_000, "colors": 12_000, "arrows": 0, "lattice": 0, "exact": 0}


def test_points_are_where_they_belong_to_half_a_quantum():
    panels = three()
    p = play(panels)
    states = np.stack([path.states.numpy() for path in panels.values()], axis=1)
    x, y, half = view_square([states])
    back = sent(p) * p.spec["reach"] * half + (x, y)
    assert p.spec["reach"] * half == pytest.approx(REACH * half / 32767)
    # half a quantum, and room for the rounding of the float arithmetic itself
    assert np.abs(back - states).max() <= REACH * half / 32767 / 2 * (1 + 1e-9)


def test_frames_run_from_data_to_noise_and_panels_keep_their_order():
    panels = three()
    p = play(panels)
    assert p.spec["panels"] == ["DDPM", "DiffFlow", "CNF"]
    assert p.spec["runs"][0]["times"][0] == pytest.approx(np.linspace(0, 1, 31))
    frames = sent(p)
    for i, path in enumerate(panels.values()):
        for step in (0, 17, 30):
            expected = path.states[step].numpy()
            for axis in (0, 1):  # correlation, because the test does not want to know the view
                r = np.corrcoef(frames[step, i, :, axis], expected[:, axis])[0, 1]
                assert r > 0.999999


def test_more_points_than_asked_are_thinned_evenly_and_alike_in_every_panel():
    a = trajectory(particles=5000)
    p = play({"a": a, "b": a}, color=torch.arange(5000) % 5, max_points=100)
    assert p.spec["points"] == 100
    assert np.array_equal(sent(p)[:, 0], sent(p)[:, 1])
    keep = np.linspace(0, 4999, 100).round().astype(int)
    assert np.array_equal(sent_colors(p)[0], keep % 5)
    again = play({"a": a, "b": a}, color=torch.arange(5000) % 5, max_points=100)
    assert again.frames == p.frames


@pytest.mark.parametrize("as_type", [torch.tensor, np.array, list])
def test_whole_numbers_are_modes_and_take_the_qualitative_palette(as_type):
    labels = [i % 10 - 1 for i in range(20)]
    p = play(trajectory(particles=20), color=as_type(labels))
    shown = [p.spec["colorings"][0]["palette"][i] for i in sent_colors(p)[0]]
    assert shown[1:9] == list(MODES)  # labels 0 to 7
    assert shown[0] not in MODES  # −1 is no mode
    assert shown[9] == MODES[0]  # label 8 begins again


def test_floats_take_one_scale_for_all_panels_and_nan_is_grey():
    a, b = trajectory(particles=3), trajectory(particles=3, seed=1)
    p = play({"a": a, "b": b}, color=lambda x: x[:, 0] * 0 + (x == b.start).all())
    assert sent_colors(p).tolist() == [[0, 0, 0], [63, 63, 63]]
    q = play(a, color=torch.tensor([0.0, 1.0, float("nan")]))
    assert sent_colors(q).tolist() == [[0, 63, 64]]


def test_a_callable_colours_each_panel_by_its_own_data_side():
    a, b = trajectory(particles=50), trajectory(particles=50, seed=1)
    p = play({"a": a, "b": b}, color=lambda x: (x[:, 0] > 0).long())
    for i, path in enumerate((a, b)):
        assert sent_colors(p)[i].tolist() == (path.start[:, 0] > 0).long().tolist()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_coordinates_that_are_not_finite_are_missing_and_counted(bad):
    path = trajectory(particles=10)
    clean = sent(play(path))
    path.states[4, 3, 1] = bad
    p = play({"a": path, "b": trajectory(particles=10, seed=1)})
    assert (sent(p)[4, 0, 3] == MISSING).all()
    assert (sent(p) == MISSING).sum() == 2
    assert (clean != MISSING).all()
    assert p.spec["runs"][0]["missing"] == [1, 0]
    assert p.png.startswith(b"\x89PNG")


def test_a_particle_that_runs_away_does_not_shrink_the_others():
    path = trajectory(particles=2000)
    path.states[-1, 0] = 1e30
    p = play(path)
    spread = sent(p)[0, 0].std(axis=0) * p.spec["reach"]  # in half sides of the panel
    assert (spread > 0.15).all()
    assert (sent(p)[-1, 0, 0] == 32767).all()


def test_quantising_is_monotonic_and_stops_at_the_border():
    x = np.linspace(-2, 2, 401)
    q = quantise(np.stack([x, -x], axis=1), (0.0, 0.0), 1.0)
    assert (np.diff(q[:, 0].astype(int)) >= 0).all()
    assert q.min() == -32767
    assert q.max() == 32767


def test_the_bundle_has_the_widget_a_small_png_and_words():
    p = play(three(), color=lambda x: (x[:, 0] > 0).long(), title="Rings dissolve")
    data, metadata = p._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == p.model_id
    assert len(data["image/png"]) < 60_000
    image = Image.open(io.BytesIO(data["image/png"]))
    assert image.mode == "P"
    assert len(image.getcolors()) <= 32
    assert image.width > 1.5 * image.height > 300
    assert data["text/plain"] == metadata["image/png"]["alt"] == p.alt
    for word in ("Rings dissolve", "DDPM", "DiffFlow", "CNF", "30 steps", "2000 particles"):
        assert word in data["text/plain"]


def test_the_words_are_the_same_for_two_equal_players_and_hold_no_object_id():
    p, q = play(three()), play(three())
    assert p.model_id != q.model_id
    assert p.alt == q.alt == repr(p)
    assert "0x" not in p.alt
    assert p.png == q.png


def test_saving_writes_the_film_strip(tmp_path):
    p = play(trajectory(steps=3, particles=20))
    p.save_png(tmp_path / "strip.png")
    assert (tmp_path / "strip.png").read_bytes() == p.png


def test_the_saved_page_holds_all_it_needs_and_names_no_address(tmp_path):
    p = play(three(), title="a </script> & b")
    p.save_html(tmp_path / "demo.html")
    page = (tmp_path / "demo.html").read_text(encoding="utf-8")
    assert base64.b64encode(p.frames).decode() in page
    assert base64.b64encode(p.png).decode() in page
    assert html.escape(p.alt) in page
    without_name_space = page.replace('"http:" + "//www', "")
    assert re.findall(r"https?:|src=.(?!data:)|<link|@import", without_name_space) == []
    assert page.count("</script>") == 2  # the title's did not end the state
    assert len(page) < 1.4 * (len(p.frames) + len(p.colors)) + 150_000  # base64, script, strip


def test_a_density_adds_mode_and_log_density_to_the_choice_of_colours():
    density = toy.load("eight_gaussians")
    start = density.sample(50, seed=0)
    path = Trajectory(torch.tensor([0.0, 1.0]), torch.stack([start, start]))
    p = play(path, density=density)
    names = [each["name"] for each in p.spec["colorings"]]
    assert names == ["one colour", "mode", "log-density", "starting angle"]
    assert sent_colors(p, "mode")[0].tolist() == (density.mode(start) % 8).tolist()
    # the shades rise with the log-density, up to the rounding to 64 of them
    order = density.log_prob(start).argsort()
    assert (np.diff(sent_colors(p, "log-density")[0][order].astype(int)) >= 0).all()


def test_a_dict_of_colours_gives_the_reader_the_choice():
    p = play(trajectory(2, 4), color={"half": [0, 0, 1, 1], "height": lambda x: x[:, 1]})
    names = [each["name"] for each in p.spec["colorings"]]
    assert names == ["half", "height", "starting angle"]
    assert sent_colors(p, "half")[0].tolist() == [0, 0, 1, 1]


def test_the_script_asks_for_nothing_from_the_network():
    without_name_space = SCRIPT.replace('"http:" + "//www.w3.org/2000/svg"', "")
    found = re.findall(r"https?:|//[a-z]+\.[a-z]|\bimport\b|\bfetch\b|XMLHttp", without_name_space)
    assert found == []
    assert "export default { render }" in SCRIPT


def test_each_script_stays_readable():
    here = Path(player_package.__file__).parent
    for name in SCRIPTS:
        assert len((here / name).read_text(encoding="utf-8").splitlines()) < 600


def test_the_script_touches_no_global_style_and_gives_no_ids():
    for banned in ("attachShadow", "document.head", "<style", "innerHTML", ".id ="):
        assert banned not in SCRIPT


def test_a_dial_holds_runs_of_unlike_lengths_and_dials_nest():
    path = {n: trajectory(n, 50, seed=n) for n in (2, 3, 4, 5)}
    p = play({"N": {n: {"a": path[n], "b": path[n]} for n in (2, 5)}})
    assert p.spec["dials"] == [{"name": "N", "values": ["2", "5"]}]
    assert [run["frames"] for run in p.spec["runs"]] == [3, 6]
    whole = np.frombuffer(p.frames, "<i2")
    second = whole[p.spec["runs"][1]["offset"] :].reshape(6, 2, 50, 2)
    assert len(whole) == 3 * 2 * 50 * 2 + second.size
    assert np.corrcoef(second[3, 1, :, 0], path[5].states[3, :, 0])[0, 1] > 0.999999
    for row in ("a, N = 2", "b, N = 5", "50 particles in 5 steps"):
        assert row in p.alt
    both = play({"N": {2: {"λ": {0: path[2], 1: path[3]}}, 4: {"λ": {0: path[4], 1: path[5]}}}})
    assert [dial["values"] for dial in both.spec["dials"]] == [["2", "4"], ["0", "1"]]
    assert [run["frames"] for run in both.spec["runs"]] == [3, 4, 5, 6]  # the last dial is fastest


def test_the_metrics_of_a_step_are_those_of_its_particles():
    density = toy.load("olympic_rings")
    start = density.sample(500, seed=0)
    noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    lost = start.clone()
    lost[:100] = float("nan")
    path = Trajectory(torch.tensor([0.0, 0.5, 1.0]), torch.stack([start, lost, noise]))
    (metrics,) = play(path, density=density).spec["runs"][0]["metrics"]
    assert metrics["leak"][0] == 0
    assert metrics["leak"][1] == pytest.approx(0.2)
    assert metrics["leak"][2] == pytest.approx(density.leaked(noise).double().mean().item())
    reference = density.sample(500, seed=metrics_module.DATA_SEED)
    expected = [sliced_w2(x, reference, 32) for x in (start, start[100:], noise)]
    assert metrics["W2 to data"] == pytest.approx(expected)
    assert metrics["W2 to N(0, I)"][2] < 0.2 < metrics["W2 to N(0, I)"][0]  # the floor at 500
    assert play(path).spec["runs"][0]["metrics"] == []
    nothing = Trajectory(torch.tensor([0.0, 1.0]), torch.full((2, 5, 2), float("nan")))
    (metrics,) = play(nothing, density=density).spec["runs"][0]["metrics"]
    assert metrics["W2 to data"] == [None, None]  # NaN is no JSON
    assert metrics["leak"] == [1, 1]


def test_the_exact_density_is_high_where_the_data_are_and_the_first_row_is_on_top():
    density = toy.load("two_moons")
    path = Trajectory(torch.tensor([0.0, 1.0]), density.sample(2000, seed=0).expand(2, -1, -1))
    p = play(path, density=density)
    x, y, half = p.spec["view"]
    image = np.frombuffer(p.exact, np.uint8).reshape(PIXELS, PIXELS)
    start = path.start.numpy()
    column = np.clip((start[:, 0] - x + half) / (2 * half) * PIXELS, 0, PIXELS - 1).astype(int)
    line = np.clip((y + half - start[:, 1]) / (2 * half) * PIXELS, 0, PIXELS - 1).astype(int)
    assert image[line, column].mean() > 3 * image.mean()
    assert image[::-1][line, column].mean() < image[line, column].mean() / 1.5


@pytest.mark.parametrize(
    ("trajectories", "message"),
    [
        ({}, "at least one Trajectory, got an empty dict"),
        ([1, 2], "must be a Trajectory or a dict of them, got list"),
        ({"a": 3}, r"trajectories\['a'\] must be a Trajectory, got int"),
        ({"a": trajectory(3), "b": trajectory(4)}, "3 steps × 2000 .* 'a' and 4 steps"),
        ({"a": trajectory(3, 5), "b": trajectory(3, 6)}, "5 particles in 'a' and .* 6 particles"),
        ({"N": {}, "b": trajectory(3)}, "a dial is a dict with one name"),
        ({"N": {}}, "the dial 'N' must have at least one setting"),
        (
            {"N": {1: {"a": trajectory(3)}, 2: {"b": trajectory(3)}}},
            r"same panels.*at N = 2, \['b'",
        ),
        ({"N": {1: trajectory(3, 5), 2: trajectory(3, 6)}}, "got 5 and, at N = 2, 6"),
        ({"N": {1: {"M": {1: trajectory(3, 5)}}, 2: trajectory(3, 5)}}, "same dials"),
        (Trajectory(torch.arange(2.0), torch.zeros(2, 5, 3)), r"points in the plane.*\(2, 5, 3\)"),
        (Trajectory(torch.arange(2.0), torch.zeros(2, 5, 2, 8, 8)), r"C = 1 or 3, got states"),
        (Trajectory(torch.arange(2.0), torch.zeros(2, 5, 8, 0)), r"or images.*\(2, 5, 8, 0\)"),
        (Trajectory(torch.arange(2.0), torch.zeros(2, 0, 2)), r"got states \(2, 0, 2\)"),
    ],
)
def test_trajectories_that_cannot_be_played_are_refused(trajectories, message):
    with pytest.raises(ValueError, match=message):
        play(trajectories)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color": torch.zeros(7)}, r"one value per particle, \(2000,\), got \(7,\)"),
        ({"color": torch.zeros(2000, 3)}, r"one value per particle.*\(2000, 3\)"),
        ({"color": ["red"] * 2000}, "whole numbers or floats"),
        ({"fps": 0}, "fps must be positive and finite, got 0"),
        ({"fps": float("nan")}, "fps must be positive and finite, got nan"),
        ({"max_points": 0}, "max_points must be a whole number, 1 or more, got 0"),
        ({"max_points": 2.5}, "max_points must be a whole number, 1 or more, got 2.5"),
        ({"max_points": True}, "max_points must be a whole number, 1 or more, got True"),
        ({"max_points": torch.ones(9, 9)}, "max_points must .*, got a tensor of shape"),
        ({"fps": True}, "fps must be positive and finite, got True"),
        ({"fps": "12"}, "fps must be positive and finite, got '12'"),
        ({"density": "ring"}, "density must be a toy density, got str"),
        ({"color": {}}, "at least one way to colour, got an empty dict"),
        ({"direction": "up"}, "direction must be 'forward' or 'backward', got 'up'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        play(trajectory(2), **options)


HOSTILE_WORDS = [
    "cost $a_{b$",
    r"$\foo{$",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]> & \u2028 \u2029 \x00",
    "$" + "{" * 40 + "$",
    "100 $ and 200 $ more",
    "half a \ud800 pair",
]


@pytest.mark.filterwarnings("ignore:Glyph")  # no font has them all
@pytest.mark.parametrize("words", HOSTILE_WORDS)
def test_any_words_can_be_a_title_a_panel_a_dial_a_setting_or_a_colouring(words, tmp_path):
    path = trajectory(steps=2, particles=5)
    runs = {words: {words: {words: path}, 5: {words: path}}}
    p = play(runs, color={words: torch.arange(5)}, title=words)
    assert p.png.startswith(b"\x89PNG")
    p.save_gif(tmp_path / "a.gif")
    p.save_html(tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    plain = play({"b": path}, title="a")
    plain.save_html(tmp_path / "b.html")
    for mark in ("<script", "</script", "<!--"):  # no more of them than in a page of plain words
        assert page.count(mark) == (tmp_path / "b.html").read_text(encoding="utf-8").count(mark)
    state = json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.DOTALL)[1])
    assert state["spec"]["title"] == words
    assert state["spec"]["panels"] == [words]


def test_a_distance_to_data_stands_beside_what_as_many_data_have():
    density = toy.load("ring")
    path = Trajectory(torch.tensor([0.0, 1.0]), density.sample(300, seed=5).expand(2, -1, -1))
    (metrics,) = play({"a": path}, density=density).spec["runs"][0]["metrics"]
    assert metrics["n"] == 300
    # Both are W2 between two draws of 300 points of the ring: a factor of three is chance.
    assert 1 / 3 < metrics["W2 to data"][0] / metrics["floor"] < 3
