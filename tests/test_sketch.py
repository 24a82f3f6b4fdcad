"""The sketch pad without a browser: drawing, density, training, and what a dead page shows."""

from __future__ import annotations

import io
import itertools
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from diffflow_edu import toy
from diffflow_edu.player import sketch as sketch_module
from diffflow_edu.player.player import Player
from diffflow_edu.player.sketch import FRAME_REACH, PRESETS, SketchPad, sketch
from diffflow_edu.toy import from_strokes
from diffflow_edu.toy import strokes as strokes_module
from diffflow_edu.toy.strokes import simplified

SCRIPT = Path(sketch_module.__file__).with_name("sketch.js").read_text(encoding="utf-8")
CROSS = [[[-0.8, 0.0], [0.8, 0.0]], [[0.0, -0.4], [0.0, 0.4]]]


def tiny(drawing="letter", **options) -> SketchPad:
    """A pad whose training takes a moment."""
    return sketch(drawing, **({"steps": 2, "warm_start": 3} | options))


def frame(pad: SketchPad) -> np.ndarray:
    """The samples as the page gets them, (particles, 3)."""
    return np.frombuffer(pad.samples, "<i2").reshape(-1, 3)


# Strokes as a density.


def test_strokes_integrate_to_one_on_a_grid():
    density = toy.from_strokes(CROSS, width=0.05)
    count = 400  # a node every half width: for Gaussians the midpoint rule then errs below 1e-9
    axis = (torch.arange(count, dtype=torch.float64) + 0.5) / count * 12 - 6
    cell = (12 / count) ** 2
    assert 12 / count < 0.5 * 0.05 / density.scale
    total = density.log_prob(torch.cartesian_prod(axis, axis)).exp().sum().item() * cell
    assert total == pytest.approx(1, abs=1e-6)


def test_the_mean_log_density_of_samples_from_strokes_is_minus_the_entropy():
    density = toy.from_strokes(PRESETS["smile"](), width=0.03)
    log_p = density.log_prob(density.sample(20_000, seed=0).double())
    error = log_p.std().item() / math.sqrt(20_000)
    assert log_p.mean().item() == pytest.approx(-density.entropy(), abs=4 * error)


def test_a_stroke_gets_particles_by_its_length_and_its_index_is_the_mode():
    density = toy.from_strokes(CROSS, width=0.001)
    x = density.sample(30_000, seed=0)
    share = (density.mode(x) == 0).double().mean().item()
    # Lengths 1.6 and 0.8; four standard errors of a share, the crossing itself is negligible.
    assert share == pytest.approx(2 / 3, abs=4 * math.sqrt(2 / 9 / 30_000))
    assert density.n_modes == 2


def test_samples_of_strokes_are_of_unit_scale_and_do_not_leak():
    density = toy.from_strokes(PRESETS["star"](), width=0.02)
    x = density.sample(20_000, seed=1)
    assert x.mean(0).abs().max() < 0.03  # four standard errors
    assert x.var(0).mean().item() == pytest.approx(1, abs=0.03)
    assert density.leaked(x).double().mean() < 1e-4  # five widths in two dimensions: 4e-6
    assert torch.equal(x, density.sample(20_000, seed=1))


def test_a_dot_becomes_a_dash_two_widths_long():
    density = toy.from_strokes([[[0.3, 0.2]]], width=0.05)
    assert density.length.tolist() == pytest.approx([0.1])
    assert density.shift.tolist() == pytest.approx([0.3, 0.2])
    assert math.isfinite(density.entropy())
    still = toy.from_strokes([[[0.3, 0.2]] * 4], width=0.05)
    assert still.entropy() == density.entropy()


def test_points_a_trembling_hand_adds_are_dropped_and_the_rest_stay():
    x = torch.linspace(0, 1, 200, dtype=torch.float64)
    line = torch.stack([x, 1e-3 * torch.sin(50 * x)], dim=1)
    assert len(simplified(line, 2e-3)) == 2
    corner = torch.cat([line, torch.tensor([[1.0, 1.0]])])
    assert simplified(corner, 5e-3).tolist() == corner[[0, 199, 200]].tolist()
    angle = 2 * math.pi * torch.arange(301, dtype=torch.float64) / 300
    loop = torch.stack([angle.cos(), angle.sin()], dim=1)
    kept = simplified(loop, 0.01)  # a loop's chord has no length
    assert 8 < len(kept) < 60
    middle = (kept[1:] + kept[:-1]) / 2
    assert (1 - middle.norm(dim=1)).max() <= 0.01 + 1e-12


@pytest.mark.parametrize(
    ("strokes", "width", "message"),
    [
        ([], 0.03, "at least one stroke, got none"),
        ([[]], 0.03, r"strokes\[0\] must have shape \(m, 2\)"),
        ([[[0, 0], [1, 1]], [[0, 1, 2]]], 0.03, r"strokes\[1\] must have shape.*got \(1, 3\)"),
        ([[[0, 0], [float("nan"), 1]]], 0.03, r"strokes\[0\] must be finite"),
        (["line"], 0.03, r"strokes\[0\] must hold points \(m, 2\), got 'line'"),
        (CROSS, 0.0, "width must be positive and finite, got 0.0"),
        (CROSS, -1, "width must be positive and finite, got -1"),
        (CROSS, float("inf"), "width must be positive and finite, got inf"),
        (CROSS, "thin", "width must be a number, got 'thin'"),
        (CROSS, 1e-5, "width must be at least 0.0001 of the drawing's extent 1.6"),
    ],
)
def test_strokes_that_make_no_density_are_refused(strokes, width, message):
    with pytest.raises(ValueError, match=message):
        toy.from_strokes(strokes, width)


# The pad.


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_on_the_pad_and_has_a_density(name):
    pad = sketch(name)
    points = np.concatenate([np.asarray(stroke) for stroke in pad.strokes])
    assert np.abs(points).max() <= 0.9
    assert pad.density().sample(10, seed=0).isfinite().all()
    assert pad.spec["presets"][name] == pad.strokes


def test_strokes_can_be_arrays_and_the_page_gets_plain_lists():
    pad = sketch([np.array([[-0.5, 0.0], [0.5, 0.0]]), torch.tensor([[0.0, 0.25]])])
    assert pad.get_state()["strokes"] == [[[-0.5, 0.0], [0.5, 0.0]], [[0.0, 0.25]]]
    pad.strokes = CROSS
    assert pad.density().n_modes == 2
    assert pad.alt == "Sketch pad with 2 strokes, brush width 0.03."


def test_an_empty_pad_says_what_to_do():
    pad = tiny(None)
    for use in (pad.density, pad.train):
        with pytest.raises(ValueError, match="the pad is empty: draw a stroke, choose a drawing"):
            use()
    assert pad.alt == "Sketch pad, empty."
    assert pad.png.startswith(b"\x89PNG")


def test_what_needs_a_model_says_that_there_is_none_yet():
    pad = tiny()
    for use in (pad.trajectory, pad.play):
        with pytest.raises(ValueError, match="nothing has been learned yet: press Train or call"):
            use()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drawing": "sta"}, "unknown drawing 'sta'. Known: star, spiral, letter, smile"),
        ({"drawing": 3}, "strokes must be a list of strokes"),
        ({"drawing": [[[0, 2]]]}, r"strokes\[0\] must lie on the pad, from -1 to 1, got 2"),
        ({"drawing": [[[0, float("nan")]]]}, r"strokes\[0\] must lie on the pad.*got nan"),
        ({"drawing": [[0, 1]]}, r"strokes\[0\] must have shape \(m, 2\) with m >= 1, got \(2,\)"),
        ({"drawing": [["a"]]}, r"strokes\[0\] must hold points"),
        ({"width": 0}, "width must be from 0.01 to 0.1 half sides of the pad, got 0"),
        ({"width": None}, "width must be a number, got None"),
        ({"steps": 0}, "steps must be a whole number, 1 or more, got 0"),
        ({"warm_start": 2.5}, "warm_start must be a whole number, 0 or more, got 2.5"),
        ({"seed": "a"}, "seed must be a whole number, 0 or more, got 'a'"),
        ({"seed": 2**70}, r"seed must be below 2\*\*63, got 1180591620717411303424"),
        ({"seconds": 0}, "seconds must be positive and finite, got 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sketch(**options)


def test_assigning_something_bad_is_refused_and_leaves_the_drawing():
    pad = sketch(CROSS)
    with pytest.raises(ValueError, match="must lie on the pad"):
        pad.strokes = [[[0, -1.5]]]
    with pytest.raises(ValueError, match="width must be from"):
        pad.width = 1.0
    assert (pad.strokes, pad.width) == (CROSS, 0.03)


# Training.


def test_training_returns_the_history_and_leaves_model_trajectory_and_player():
    pad = tiny()
    history = pad.train()
    assert len(history.loss) == 5 == len(pad.history.seconds)
    path = pad.trajectory(50, seed=1)
    assert path.states.shape == (21, 50, 2)
    assert torch.equal(path.states, pad.model.sample(50, seed=1).states)
    assert isinstance(pad.play(50), Player)
    assert pad.progress["state"] == "done"
    assert pad.progress["share"] == 1.0


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # other than the one that a pad trains with
    yield
    torch.set_num_threads(before)


def test_training_twice_gives_the_same_model_and_leaves_the_generator_and_threads_alone(
    two_threads,
):
    first, second = tiny(), tiny()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first.train()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == 2
    torch.rand(3)
    second.train()
    assert first.samples == second.samples
    assert first.history.loss == second.history.loss
    assert first.png == second.png


def test_a_short_training_brings_the_samples_to_the_drawing():
    pad = sketch([[[-0.8, 0.5], [0.8, 0.5]]], width=0.1, steps=5, warm_start=150)
    pad.train()
    x = pad.trajectory(2000, seed=1).start
    start = pad.density().distance(torch.randn(2000, 2, generator=torch.manual_seed(0)))
    # A normal cloud lies 0.63 from the line on average; 155 steps bring it to within a third.
    assert pad.density().distance(x).mean() < start.mean() / 3


@pytest.mark.parametrize(
    "drawing",
    [[[[0.2, 0.1]]], [[[-1, 1], [1, 1]]], [[[0, 0]], [[0, 0], [0, 0]]]],
    ids=["a dot", "a line on the edge", "two dots in one place"],
)
def test_drawings_without_area_train_to_finite_samples(drawing):
    pad = tiny(drawing)
    pad.train()
    assert pad.trajectory(20).states.isfinite().all()
    assert np.isfinite(pad.history.loss).all()


def test_progress_rises_to_one_and_frames_come_on_the_way(monkeypatch):
    monkeypatch.setattr("diffflow_edu.player.sketch.FRAME_SECONDS", 0.0)  # one frame a step
    pad = tiny()
    seen, frames = [], []
    pad.observe(lambda change: seen.append(change["new"]), "progress")
    pad.observe(lambda change: frames.append(frame(pad)), "samples")
    pad.train()
    shares = [each["share"] for each in seen]
    assert shares == sorted(shares)
    assert [each["state"] for each in seen] == ["training"] * 6 + ["done"]
    assert shares[-1] == 1.0
    assert all(each["left"] >= 0 for each in seen[1:-1])
    assert len(frames) == 6
    assert all(each.shape == (1000, 3) for each in frames)


def test_a_frame_holds_the_samples_on_the_pad_and_their_stroke():
    pad = tiny(CROSS)
    pad.train()
    density = pad.density()
    x = pad.model.sample(1000, seed=0).start
    rows = frame(pad)
    on_the_pad = x.double() * density.scale + density.shift
    inside = (on_the_pad.abs() < FRAME_REACH).all(1).numpy()
    error = np.abs(rows[:, :2] * FRAME_REACH / 32767 - on_the_pad.numpy())[inside]
    assert error.max() <= FRAME_REACH / 65534 * (1 + 1e-9)  # half a quantum
    assert rows[:, 2].tolist() == density.mode(x).tolist()


def test_a_new_drawing_takes_the_old_samples_off_but_keeps_the_model():
    pad = tiny()
    pad.train()
    assert pad.alt.endswith("and samples of the model trained on it.")
    model = pad.model
    pad.strokes = CROSS
    assert pad.samples == b""
    assert pad.progress["state"] == "idle"
    assert pad.model is model
    assert pad.play(20).spec["points"] == 20


def test_a_failed_training_is_told_on_the_pad_and_keeps_the_model_before(monkeypatch):
    pad = tiny()
    pad.train()
    model = pad.model

    def broken(*args, **kwargs):
        raise FloatingPointError("the loss became nan at step 3")

    monkeypatch.setattr("diffflow_edu.player.sketch.fit", broken)
    with pytest.raises(FloatingPointError, match="step 3"):
        pad.train()
    assert pad.progress["state"] == "error"
    assert pad.progress["message"] == "Training failed: the loss became nan at step 3"
    assert pad.model is model


def test_an_interrupt_is_told_on_the_pad(monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("diffflow_edu.player.sketch.fit", interrupted)
    pad = tiny()
    with pytest.raises(KeyboardInterrupt):
        pad.train()
    assert pad.progress["state"] == "stopped"
    assert pad.progress["message"] == "Training was interrupted."
    monkeypatch.undo()
    pad.train()  # the pad is free again


# What the page asks for.


def click(pad: SketchPad, runs: int | None = None, strokes=None, width=None) -> None:
    """What the page sends when Train is pressed, through ipywidgets' own dispatch, and the end."""
    content = {
        "type": "train",
        "runs": pad.progress["runs"] if runs is None else runs,
        "strokes": pad.strokes if strokes is None else strokes,
        "width": pad.width if width is None else width,
    }
    pad._handle_custom_msg(content, [])
    if pad._thread is not None:
        pad._thread.join(60)


def test_a_click_on_stop_ends_training_with_what_it_has(monkeypatch):
    monkeypatch.setattr("diffflow_edu.player.sketch.FRAME_SECONDS", 0.0)  # one frame a step
    pad = tiny(steps=1000, warm_start=2)

    def stop_at_the_fourth_frame(change):
        frames.append(change["new"])
        if len(frames) == 4:
            pad._handle_custom_msg({"type": "stop"}, [])

    frames: list[bytes] = []
    pad.observe(stop_at_the_fourth_frame, "samples")
    click(pad)
    assert pad.progress["state"] == "done"
    pattern = r"Stopped after \d+ s, at step 5 of 1002\. This is what was learned by then\."
    assert re.fullmatch(pattern, pad.progress["message"])
    assert len(pad.history.loss) == 5
    assert pad.trajectory(20).states.isfinite().all()
    assert re.fullmatch("anywidget:[0-9a-f]{32}", pad.player)  # it plays, too
    pad._handle_custom_msg({"type": "stop"}, [])  # too late: the next run is not stopped by it
    short = tiny()
    short._handle_custom_msg({"type": "stop"}, [])
    assert len(short.train().loss) == 5


def test_training_ends_at_the_time_limit_and_says_so():
    pad = tiny(steps=1000, warm_start=500, seconds=1e-9)
    history = pad.train()
    assert len(history.loss) == 1
    assert re.fullmatch(
        r"The time is up after \d+ s, at step 1 of 1500, before the drift began to learn\. "
        r"This is what was learned by then\.",
        pad.progress["message"],
    )
    assert pad.model is not None
    assert sketch_module.LONGEST_TRAINING <= 30


def test_only_processor_time_counts_and_the_drift_has_its_share_at_the_end(
    monkeypatch,
):
    # A step takes a second of this thread's time, and an hour by the clock on a busy machine.
    clock = itertools.count()
    hours = itertools.count(step=3600)
    clocks = SimpleNamespace(
        thread_time=lambda: float(next(clock)), perf_counter=lambda: float(next(hours))
    )
    monkeypatch.setattr(sketch_module, "time", clocks)
    monkeypatch.setattr(sketch_module, "JOINT_COST", 1.0)
    monkeypatch.setattr(sketch_module, "FRAME_SECONDS", 1e9)
    pad = tiny(steps=50, warm_start=10, seconds=12)
    assert len(pad.train().loss) == 21  # 10 of warm start, 50/60 of 12 s, and a step


def test_a_pad_trains_once_at_a_time():
    pad = tiny()
    pad._only_one.acquire()  # as a run does
    with pytest.raises(RuntimeError, match="training already: press Stop"):
        pad.train()
    click(pad)
    assert pad.model is None
    pad._only_one.release()
    click(pad)
    assert pad.progress["state"] == "done"


def test_what_a_cell_prints_during_training_stays_the_cells(monkeypatch, capsys):
    pad = tiny()
    pad.observe(lambda change: print("a cell's own words"), "samples")
    click(pad)
    assert "a cell's own words" in capsys.readouterr().out


def test_a_click_brings_its_drawing_trains_and_shows_a_player(capsys):
    pad = tiny()
    click(pad, strokes=CROSS, width=0.05)
    assert (pad.strokes, pad.width) == (CROSS, 0.05)
    assert pad.progress["state"] == "done"
    assert re.fullmatch("anywidget:[0-9a-f]{32}", pad.player)
    assert capsys.readouterr().out == ""  # no cell is there for fit's progress bar


def test_a_click_from_before_the_last_training_is_ignored():
    pad = tiny()
    click(pad)
    model, runs = pad.model, pad.progress["runs"]
    click(pad, runs=runs - 1)  # it waited while the kernel trained
    assert pad.model is model
    click(pad)
    assert pad.model is not model


def test_a_bad_click_is_told_on_the_pad():
    pad = tiny()
    click(pad, strokes=[])
    assert pad.progress["state"] == "error"
    assert pad.progress["message"].startswith("the pad is empty")
    click(pad, strokes=[[[7, 7]]])
    assert "must lie on the pad" in pad.progress["message"]


def test_a_ping_is_answered(monkeypatch):
    pad, sent = tiny(), []
    monkeypatch.setattr(pad, "send", sent.append)
    pad._handle_custom_msg({"type": "ping"}, [])
    pad._handle_custom_msg({"type": "something else"}, [])
    assert sent == [{"type": "pong"}]


# Where no kernel runs.


def test_the_bundle_has_the_widget_a_small_png_and_words():
    pad = tiny("smile")
    data, metadata = pad._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == pad.model_id
    assert data["text/plain"] == metadata["image/png"]["alt"] == repr(pad) == pad.alt
    assert len(data["image/png"]) < 20_000
    assert data["image/png"] == tiny("smile").png
    blank = Image.open(io.BytesIO(data["image/png"]))
    pad.train()
    both = Image.open(io.BytesIO(pad.png))
    assert both.width == 2 * blank.width


def test_the_script_asks_for_nothing_from_the_network_and_touches_no_global_style():
    found = re.findall(r"https?:|//[a-z]+\.[a-z]|\bimport\b|\bfetch\b|XMLHttp", SCRIPT)
    assert found == []
    for banned in ("attachShadow", "document.head", "<style", "innerHTML", ".id ="):
        assert banned not in SCRIPT
    assert "export default { render }" in SCRIPT


def test_a_stroke_of_200_000_points_is_thinned_to_its_shape_in_bounded_work(monkeypatch):
    turns = np.linspace(0, 1, 200_000)[:, None]
    spiral = turns * np.concatenate([np.cos(40 * turns), np.sin(40 * turns)], axis=1)
    scribble = np.random.default_rng(0).uniform(-1, 1, (200_000, 2))
    looks = []
    measure = strokes_module._distance_to_segment
    monkeypatch.setattr(
        strokes_module, "_distance_to_segment", lambda *a: looks.append(len(a[0])) or measure(*a)
    )
    pad = sketch([spiral, scribble])
    assert max(len(stroke) for stroke in pad.strokes) <= strokes_module.MOST_POINTS
    assert len(looks) <= 2 * (2 * strokes_module.MOST_POINTS)
    assert sum(looks) <= 40 * 400_000  # a few dozen passes over the points, not one for each
    kept = torch.tensor(pad.strokes[0], dtype=torch.float64)
    ways = [measure(torch.from_numpy(spiral[::50]), a, b) for a, b in itertools.pairwise(kept)]
    assert torch.stack(ways).amin(0).max() <= 0.25 * 0.01  # a quarter of the finest brush
    few = from_strokes([scribble])
    assert few.sample(5, seed=0).isfinite().all()
    assert len(few.begin) < strokes_module.MOST_POINTS


def test_more_strokes_than_a_density_has_time_for_are_refused_before_any_work():
    dash = [[0.0, 0.0], [0.5, 0.5]]
    for make in (toy.from_strokes, sketch):
        with pytest.raises(ValueError, match="strokes must be at most 200, got more"):
            make(itertools.repeat(dash))  # it never ends
    pad = sketch([dash] * strokes_module.MOST_STROKES)
    assert pad.density().n_modes == pad.spec["most_strokes"] == strokes_module.MOST_STROKES
    assert "spec.most_strokes" in SCRIPT
    with pytest.raises(ValueError, match="at most 200"):
        pad.strokes = [dash] * 201
    assert len(pad.strokes) == 200


def test_all_strokes_of_a_drawing_together_keep_a_bounded_number_of_points():
    walks = np.random.default_rng(0).uniform(-1, 1, (30, 50, 2))
    many = from_strokes(walks, 0.01)
    assert len(many.begin) == strokes_module.MOST_POINTS - 30  # a stroke has one segment less
    assert many.n_modes == 30 and many.sample(5, seed=0).isfinite().all()
    few = from_strokes(walks[:2], 0.01)  # there is room: nothing goes but a tremor
    assert len(few.begin) == sum(len(simplified(torch.tensor(w), 0.0025)) - 1 for w in walks[:2])


def test_a_short_stroke_stays_as_it_was_drawn():
    assert sketch(CROSS).strokes == CROSS
