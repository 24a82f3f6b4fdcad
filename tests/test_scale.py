"""Runs on images that stop and go on, and the command line around them; small digits throughout."""

import functools
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image

from diffflow_edu import DDPM, DiffFlow, Schedule, images, zoo

pytest.importorskip("accelerate", reason="the extra 'images' is not installed")
pytest.importorskip("tyro", reason="the extra 'images' is not installed")

from diffflow_edu import cli, inception, scale
from diffflow_edu.evaluation import Row, agreement, evaluate, on_grid, table, yardstick
from diffflow_edu.inception import Inception, MissingError
from diffflow_edu.noise_range import noise_range
from diffflow_edu.scale import Config, compiled, layout, successor, take, train
from diffflow_edu.unet import Size, UNet

SMALL = {"images": "digits", "size": "tiny", "updates": 6, "batch_size": 4, "lr": 1e-3}


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setenv("DIFFFLOW_EDU_PROGRESS", "0")
    monkeypatch.setattr("diffflow_edu.scale.HELD", 20)
    monkeypatch.setattr("diffflow_edu.scale.CALIBRATION", 40)
    monkeypatch.setattr("diffflow_edu.evaluation.CALIBRATION", 40)


def weights(model):
    return torch.cat([value.flatten() for value in model.state_dict().values()])


@pytest.fixture(scope="module")
def digits():
    return images.load("digits")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two stages, and the model that it returned."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFFLOW_EDU_PROGRESS", "0")
        patch.setattr("diffflow_edu.scale.HELD", 20)
        patch.setattr("diffflow_edu.scale.CALIBRATION", 40)
        model = train(Config(**SMALL, steps=(2, 3), warm_start=2), folder, look_every=2)
    return folder, model


def test_a_run_leaves_models_looks_pictures_and_logs(finished):
    folder, model = finished
    assert isinstance(model, DiffFlow) and model.schedule.steps == 3
    for name in ("model", "best", "stage-0", "stage-1"):
        zoo.load(folder / f"{name}.safetensors")
    loaded = zoo.load(folder / "model.safetensors")
    assert torch.equal(weights(loaded), weights(model))
    assert loaded.card["config"]["images"] == "digits" and loaded.card["seconds"] > 0
    looks = json.loads((folder / "looks.json").read_text())
    assert [(look["stage"], look["N"], look["step"]) for look in looks] == [
        (0, 2, 2),
        (0, 2, 4),
        (0, 2, 5),  # 2 steps of warm start and 3 of the 6 updates
        (1, 3, 2),
        (1, 3, 3),
    ]
    best = zoo.load(folder / "best.safetensors").card["look"]["bits_per_dim"]
    assert best == min(look["bits_per_dim"] for look in looks)
    pictures = sorted((folder / "samples").iterdir())
    assert len(pictures) == len(looks)
    assert Image.open(pictures[0]).size == (8 * 9 - 1, 8 * 9 - 1)  # 8×8 samples, a pixel apart
    assert list((folder / "logs").iterdir())
    assert not list(folder.rglob("*.part"))


def test_a_finished_run_is_returned_and_not_trained_again(finished):
    folder, model = finished
    before = (folder / "looks.json").stat().st_mtime_ns
    again = train(Config(**SMALL, steps=(2, 3), warm_start=2), folder, look_every=2)
    assert torch.equal(weights(again), weights(model))
    assert (folder / "looks.json").stat().st_mtime_ns == before


def test_a_folder_takes_no_other_run(finished):
    folder, _ = finished
    with pytest.raises(ValueError, match="another run .*updates is 6 there, 8 here.*Name another"):
        train(Config(**{**SMALL, "updates": 8}, steps=(2, 3), warm_start=2), folder)


def test_a_run_out_of_time_goes_on_to_the_same_weights(tmp_path, finished):
    _, whole = finished
    config = Config(**SMALL, steps=(2, 3), warm_start=2)
    calls = 0
    while (model := train(config, tmp_path / "run", minutes=1e-9, look_every=2)) is None:
        calls += 1
        assert calls < 20
    # One step a call, but for the last of a stage, after which the next begins.
    assert calls >= 6
    assert torch.equal(weights(model), weights(whole))


class Evaluations:
    """A clock that shows how often a U-Net was evaluated, and an event set at one of them."""

    def __init__(self, monkeypatch):
        self.count, self.last, self.event = 0, None, threading.Event()
        forward = UNet.forward

        def counted(net, x, t):
            self.count += 1
            if self.count == self.last:
                self.event.set()
            return forward(net, x, t)

        @contextmanager
        def terminated():
            yield self.event

        monkeypatch.setattr(UNet, "forward", counted)
        monkeypatch.setattr(scale, "time", SimpleNamespace(monotonic=lambda: self.count))
        monkeypatch.setattr(scale, "_terminated", terminated)


def looks(folder):
    return json.loads((folder / "looks.json").read_text())


def test_time_that_is_up_within_a_step_or_a_look_ends_a_run_before_the_next_evaluation(
    tmp_path, finished, monkeypatch
):
    folder, whole = finished
    clock, run, calls = Evaluations(monkeypatch), tmp_path / "run", 0
    config = Config(**SMALL, steps=(2, 3), warm_start=2)
    # Before a stage data and model are looked at with 19 evaluations at most, which are not given
    # up; nor is the first look of a call, 13, or the end of a stage that a call finds there, 19.
    # A step takes up to 10: no call is too short for it.
    while (model := train(config, run, minutes=45 / 60, look_every=2)) is None:
        calls += 1
        assert clock.count <= 46 + 19
        clock.count = 0
    assert calls >= 3
    assert torch.equal(weights(model), weights(whole))
    assert looks(run) == looks(folder)
    assert (run / "best.safetensors").read_bytes()


@pytest.mark.parametrize("last", [18, 27], ids=["step", "look"])
def test_a_signal_within_a_step_or_a_look_ends_a_run_before_the_next_evaluation(
    tmp_path, finished, monkeypatch, last
):
    folder, whole = finished
    clock, run = Evaluations(monkeypatch), tmp_path / "run"
    clock.last = last
    config = Config(**SMALL, steps=(2, 3), warm_start=2)
    assert train(config, run, look_every=2) is None
    assert clock.count == last
    clock.event.clear()
    assert torch.equal(weights(train(config, run, look_every=2)), weights(whole))
    assert looks(run) == looks(folder)


def test_a_finished_run_goes_on_to_more_stages_and_says_with_how_many_updates(
    tmp_path, finished, capsys
):
    folder, whole = finished
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    before = (copy / "stage-1.safetensors").read_bytes()
    longer = Config(**SMALL, steps=(2, 3, 2), warm_start=2)
    with pytest.raises(ValueError, match="another run .*With --updates 9 it goes on to more sta"):
        train(longer, copy)
    model = train(replace(longer, updates=9), copy, look_every=2)
    assert "goes on: steps [2, 3, 2] after [2, 3]" in capsys.readouterr().out
    assert (copy / "stage-1.safetensors").read_bytes() == before
    assert model.schedule.steps == 2 and not torch.equal(weights(model)[2:], weights(whole)[3:])
    assert [look["step"] for look in looks(copy) if look["stage"] == 2] == [2, 3]
    with pytest.raises(ValueError, match="holds another run"):  # it is the longer one now
        train(Config(**SMALL, steps=(2, 3), warm_start=2), copy)
    with pytest.raises(ValueError, match="Name another folder, or repeat the [^W]*$"):
        train(replace(longer, updates=9, steps=(2, 2, 2, 2)), copy)


def test_what_was_stopped_before_its_first_step_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "train_run", lambda *_: None)
    cli.train(tmp_path, Config(**SMALL))
    assert "before the first training step was done" in capsys.readouterr().out
    (tmp_path / "stage-0.pt").touch()
    cli.train(tmp_path, Config(**SMALL))
    assert "the same command goes on" in capsys.readouterr().out


def test_sigterm_ends_a_run_cleanly_and_the_same_command_goes_on(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "diffflow_edu.cli", "train", str(folder)]
    command += "--images digits --size tiny --steps 2 --updates 100000 --batch-size 2".split()
    command += ["--look-every", "3"]
    environment = {**os.environ, "DIFFFLOW_EDU_PROGRESS": "0", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    # Not for so many seconds, since machines differ: until it is there, or its process is not.
    while not (folder / "stage-0.pt.previous").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate()
    assert process.returncode == 0 and "Stopped; the same command goes on" in out
    step = torch.load(folder / "stage-0.pt", weights_only=True)["step"]
    assert step >= 6
    again = subprocess.run(
        [*command, "--minutes", "1e-9"], env=environment, capture_output=True, text=True, check=True
    )
    assert "Stopped; the same command goes on" in again.stdout
    assert torch.load(folder / "stage-0.pt", weights_only=True)["step"] == step + 1


HOLD = """
import sys
from pathlib import Path
from diffflow_edu.scale import _locked
with _locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_trained_in_by_one_process_at_a_time_and_free_when_that_is_killed(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        config = Config(**SMALL, steps=(1,))
        with pytest.raises(ValueError, match=r"run is being trained in by another process"):
            train(config, folder)
        holder.kill()
    assert train(config, folder, minutes=1e-9, look_every=2) is None


def test_updates_that_do_not_divide_are_shared_to_the_last():
    config = Config(**SMALL | {"updates": 11}, steps=(1, 2, 3))
    assert [config.updates_of(stage) for stage in range(3)] == [3, 4, 4]


def test_a_finished_stage_of_another_run_is_refused(finished, tmp_path):
    folder, _ = finished
    other = tmp_path / "other"
    config = Config(**SMALL | {"updates": 8}, steps=(2, 3), warm_start=2)
    other.mkdir()
    shutil.copy(folder / "stage-0.safetensors", other)
    message = r"stage-0.safetensors is not the model of this run's .*updates is 6 there, 8 here"
    with pytest.raises(ValueError, match=message):
        train(config, other)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "config.json is not JSON"),
        ("config.json", "[1]", "config.json must hold a dict, got list"),
        ("config.json", '{"steps": "2"}', "steps is '2' there"),
        ("looks.json", "7", "looks.json must hold a list, got int"),
        (
            "looks.json",
            '[{"stage": 0, "step": "x"}]',
            "looks.json: step of look 0 must be a number",
        ),
    ],
)
def test_what_is_wrong_in_a_folders_files_is_named(finished, tmp_path, name, content, message):
    copy = tmp_path / "copy"
    shutil.copytree(finished[0], copy)
    (copy / "stage-1.safetensors").unlink()
    (copy / name).write_text(content, "utf-8")
    with pytest.raises(ValueError, match=message):
        train(Config(**SMALL, steps=(2, 3), warm_start=2), copy, look_every=2)


@pytest.mark.parametrize("package", ["accelerate", "tensorboard"])
def test_a_missing_package_is_named_with_the_extra_that_holds_it(monkeypatch, tmp_path, package):
    monkeypatch.setattr(scale, "find_spec", lambda name: None if name == package else name)
    message = rf"training on images needs {package}: pip install \"diffflow-edu\[images\]\""
    with pytest.raises(ImportError, match=message):
        train(Config(**SMALL), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_longer_grid_takes_over_the_networks_and_not_the_backward_noise(finished):
    folder, _ = finished
    short, config = zoo.load(folder / "stage-0.safetensors"), Config(**SMALL, steps=(2, 3))
    measured = noise_range(images.load("digits"))
    long = successor(zoo.build(config.recipe(3, (1, 8, 8), measured)), short)
    for name, value in short.state_dict().items():
        if name != "log_b_ratio":
            assert torch.equal(long.state_dict()[name], value)
    assert long.log_b_ratio.tolist() == [0, 0, 0] and short.log_b_ratio.any()


@pytest.fixture(scope="module")
def by_class(finished, tmp_path_factory):
    """A run by class that went on from the first stage of the other, its folder, and its output."""
    folder = tmp_path_factory.mktemp("runs") / "classes"
    start = tmp_path_factory.mktemp("runs") / "start.safetensors"
    shutil.copy(finished[0] / "stage-0.safetensors", start)
    config = Config(**SMALL | {"updates": 3}, steps=(2,), by_class=True, start=str(start))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFFLOW_EDU_PROGRESS", "0")
        patch.setattr("diffflow_edu.scale.HELD", 20)
        patch.setattr("diffflow_edu.scale.CALIBRATION", 40)
        assert train(config, folder, minutes=1e-9, look_every=2) is None
        start.unlink()  # needed at the beginning only
        return folder, config, train(config, folder, look_every=2)


def test_a_run_by_class_learns_labels_and_draws_a_row_for_each(by_class):
    folder, _, model = by_class
    loaded = zoo.load(folder / "model.safetensors")
    assert loaded.classes == 10 and torch.equal(weights(loaded), weights(model))
    assert model.score.net.label.table.any()
    side = 10 * 9 - 1  # ten samples of 8×8, a pixel apart
    assert {Image.open(p).size for p in (folder / "samples").iterdir()} == {(side, side)}


def test_a_run_without_classes_is_the_start_of_one_by_class_and_the_same_function(
    finished, by_class, tmp_path, digits
):
    plain, config = zoo.load(finished[0] / "stage-0.safetensors"), by_class[1]
    recipe = config.recipe(2, (1, 8, 8), noise_range(digits), classes=10)
    model = zoo.build(recipe).in_units_of(plain).eval()
    said = take(model, plain.state_dict(), "the file")
    assert said.endswith("from the file; new are drift.label.table, score.net.label.table.")
    model.log_b_ratio.data = plain.log_b_ratio.data
    x = digits.sample(4, seed=0)
    for label in (None, 7):
        assert torch.equal(model.bound(x, seed=0, label=label), plain.bound(x, seed=0))
    with pytest.raises(ValueError, match="no weight of the file is one of this model's"):
        take(model, {"drift.first.weight": torch.zeros(3)}, "the file")
    with pytest.raises(zoo.WeightsError, match="absent.safetensors cannot be used"):
        train(replace(config, start=str(tmp_path / "absent.safetensors")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_label_is_drawn_by_the_command_line_with_guidance(
    by_class, finished, tmp_path, monkeypatch, capsys
):
    for label in (7, 3):
        out = tmp_path / f"{label}.png"
        arguments = ("--out", out, "--n", 4, "--label", label, "--guidance", 1)
        run(monkeypatch, "sample", by_class[0] / "model.safetensors", *arguments)
        assert f"4 samples of digits with label {label}: {out}" in capsys.readouterr().out
    assert (tmp_path / "7.png").read_bytes() != (tmp_path / "3.png").read_bytes()
    with pytest.raises(SystemExit, match="label is for a model with classes"):
        run(monkeypatch, "sample", finished[0] / "model.safetensors", "--label", 7)


class SaysSeven(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.one_hot(torch.full((len(x),), 7), 10).float()


def test_a_classifier_is_asked_about_samples_of_all_classes(
    by_class, finished, digits, monkeypatch, tmp_path, capsys
):
    with pytest.raises(ValueError, match="no feature net for 'digits' is shipped"):
        agreement(by_class[2], digits)
    with pytest.raises(ValueError, match="model must have classes"):
        agreement(finished[1], digits)
    monkeypatch.setattr("diffflow_edu.fid.feature_net", lambda name: SaysSeven())
    asked = []
    sample = DiffFlow.sample

    def spy(self, n, *args, label=None, guidance=0.0, **options):
        if label is not None:
            asked.append((label.tolist(), guidance))
        return sample(self, n, *args, label=label, guidance=guidance, **options)

    monkeypatch.setattr(DiffFlow, "sample", spy)
    assert agreement(by_class[2], digits, n=20, guidance=0.5, batch=15) == 0.1
    assert asked == [([*range(10), *range(5)], 0.5), ([*range(5, 10)], 0.5)]
    weights = shutil.copy(by_class[0] / "model.safetensors", tmp_path)
    run(monkeypatch, "evaluate", weights, "--n", 2, "--label-n", 10, "--guidance", 2)
    assert "agrees with 10.0% of the labels of 10 samples" in capsys.readouterr().out
    record = json.loads((tmp_path / "model.json").read_text())
    assert (record["agreement"], record["label_n"], record["guidance"]) == (0.1, 10, 2)


def test_a_folder_of_an_older_run_lacks_newer_settings_and_goes_on(finished, tmp_path):
    folder, model = finished
    copy = tmp_path / "older"
    shutil.copytree(folder, copy)
    settings = json.loads((copy / "config.json").read_text())
    for name in ("grid", "beta", "compile", "by_class", "start"):
        del settings[name]
    (copy / "config.json").write_text(json.dumps(settings))
    config = Config(**SMALL, steps=(2, 3), warm_start=2)
    assert torch.equal(weights(train(config, copy, look_every=2)), weights(model))
    with pytest.raises(ValueError, match="compile is False there, True here"):
        train(replace(config, compile=True), copy)


def test_the_flexible_grid_is_drawn_anew_in_training_and_can_be_run_on_another_n(tmp_path, digits):
    config = Config(**SMALL, steps=(3,), warm_start=2, grid="flexible", beta=0.8)
    model = train(config, tmp_path / "run", look_every=4, keep=3)
    steps, beta = 3, 0.8
    expected = [0.05 * (i / steps) ** beta for i in range(steps + 1)]  # L_β, T as in the paper
    assert model.schedule.times.tolist() == pytest.approx(expected)
    assert model.schedule.draw().times.tolist() != pytest.approx(expected)
    loaded = zoo.load(tmp_path / "run" / "model.safetensors")
    rows = evaluate(loaded, digits, steps=(2, 3), n=20)
    assert [row.steps for row in rows] == [2, 3]
    other = on_grid(loaded, 2, digits.sample(40, seed=1))
    assert other.schedule.times[1] == pytest.approx(0.05 * 0.5**beta)
    kept = sorted(path.name for path in (tmp_path / "run").glob("stage-0.pt*"))
    assert kept == ["stage-0.pt", "stage-0.pt.previous"]  # at 4 and at 8 of 8 steps


def test_a_grid_of_another_kind_that_no_card_tells_is_not_guessed(digits):
    schedule = Schedule.polynomial(3)
    model = DiffFlow(lambda x, t: x, lambda x, t: -x, schedule)
    with pytest.raises(ValueError, match="steps: how to make .* of another N is not known"):
        on_grid(model, 5, digits.sample(4, seed=1))


def test_compiled_nets_have_the_adjoints_gradient_and_are_afterwards_as_before(monkeypatch):
    # The tracing is what can fail with an adjoint that runs the nets with and without a gradient;
    # turning its graphs into C++ takes forty seconds of a CPU, and is left out.
    traced = []
    original = torch.compile

    def trace(function, **options):
        traced.append(options)
        return original(function, backend="aot_eager", **options)

    monkeypatch.setattr(torch, "compile", trace)
    torch.manual_seed(0)
    size = Size(channels=8, factors=(1,), blocks=1, attention=())
    model = DiffFlow.unet(Schedule.log_snr(2, r_min=0.1, r_max=3.0), (1, 4, 4), size).double()
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    noise = torch.randn(2, *x.shape, dtype=torch.float64)

    def gradient():
        model.zero_grad()
        model.loss(x, noise).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    names = list(model.state_dict())
    expected = gradient()
    with compiled(model):
        found = gradient()
        assert list(model.state_dict()) == names
    assert len(traced) == 2
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert all(module._compiled_call_impl is None for module in model.modules())
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [
        ("cpu", "no", torch.channels_last),
        ("cpu", "bf16", torch.contiguous_format),
        ("cuda", "bf16", torch.channels_last),
        ("cuda", "no", torch.contiguous_format),
    ],
)
def test_convolutions_lie_channels_last_where_that_helps(device, precision, expected):
    assert layout(torch.device(device), precision) == expected


def test_ctrl_c_ends_a_run_like_sigterm_and_a_second_one_at_once():
    def ours(number, frame):
        raise KeyError(number)

    before = signal.signal(signal.SIGINT, ours)  # it may be ignored, as in the background
    try:
        with scale._terminated() as event:
            signal.raise_signal(signal.SIGINT)
            assert event.is_set()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyError):
            signal.raise_signal(signal.SIGINT)  # as it was before
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_best_model_can_be_used_like_the_last(finished, tmp_path, monkeypatch):
    folder, _ = finished
    run(monkeypatch, "sample", folder / "best.safetensors", "--out", tmp_path / "s.png", "--n", 4)
    assert (tmp_path / "s.png").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "imagenet"}, "images must be of mnist, .*got 'imagenet'"),
        ({"kind": "flow"}, "kind must be 'diffflow' or 'ddpm', got 'flow'"),
        ({"size": "huge"}, "size must be one of tiny, tiny2, compact, "),
        ({"steps": ()}, "steps must hold at least one N"),
        ({"steps": (3, 0)}, "steps must be"),
        ({"updates": 0}, "updates must be"),
        ({"kind": "ddpm", "warm_start": 5}, "warm_start is for kind 'diffflow'"),
        ({"precision": "fp16"}, "precision must be 'no' or 'bf16', got 'fp16'"),
        ({"lr": -1}, "lr must be positive"),
        ({"ema": 1}, "ema must be at least 0 and below 1"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"r_min": 20.0, "r_max": 10.0}, "r_m"),
        ({"r_min": -1.0}, "r_min must be positive"),
        ({"kind": "ddpm", "path_steps": 2}, "path_steps is for kind .diffflow."),
        ({"kind": "ddpm", "drift_size": "tiny"}, "drift_size is for kind .diffflow."),
        ({"drift_size": "huge"}, "size must be one of"),
        ({"path_steps": 0}, "path_steps must be"),
        ({"grid": "cosine"}, "grid must be 'log_snr' or 'flexible', got 'cosine'"),
        ({"grid": "flexible", "kind": "ddpm"}, "grid 'flexible' needs a drift that is learned"),
        ({"beta": 0}, "beta must be positive"),
        ({"compile": "yes"}, "compile must be True or False, got 'yes'"),
    ],
)
def test_a_config_that_cannot_be_trained_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)


def test_bad_times_are_refused_before_anything_is_written(tmp_path):
    for arguments, message in (
        ({"minutes": 0}, "minutes"),
        ({"look_every": 0}, "look_every"),
        ({"keep": 0}, "keep"),
    ):
        with pytest.raises(ValueError, match=f"{message} must be"):
            train(Config(**SMALL), tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


# Evaluation ---------------------------------------------------------------------------------------


def gaussian_model(steps=3):
    """DDPM for pixels that are all N(0, I): its bound is known."""
    schedule = Schedule.log_snr(steps, r_min=0.1, r_max=3.0)
    model = DDPM(lambda x, t: -x, schedule, prediction="score")
    model.shape = (1, 8, 8)
    return model.eval()


def test_bits_per_dim_are_those_of_the_bound(digits):
    model = gaussian_model()
    (row,) = evaluate(model, digits, n=50)
    torch.manual_seed(0)
    expected = digits.bits_per_dim(model.bound(digits.dequantise(digits.test[:50], seed=0)).mean())
    assert row.steps == 3 and row.ode is None and row.fid is None
    assert row.bits_per_dim == pytest.approx(float(expected), rel=1e-6)


def test_the_same_networks_run_on_other_grids_with_backward_noise_of_their_own(digits):
    model = gaussian_model()
    rows = evaluate(model, digits, steps=(2, 8), n=50)
    assert [row.steps for row in rows] == [2, 8]
    other = on_grid(model, 8, digits.sample(40, seed=1))
    assert other.score is model.score and other.log_b_ratio.any()
    assert other.schedule.noise_process == model.schedule.noise_process
    assert torch.equal(other.taught, model.schedule.times)  # where an ODE may ask the networks


def test_the_ode_of_an_exact_score_has_the_density_of_its_gaussian(digits):
    # −x is the score of N(0, I), which every time of the chain shares; what Hutchinson's trace
    # estimates is then the same for every probe, and the tolerance is the solver's.
    (row,) = evaluate(gaussian_model(), digits, n=20, ode_n=20)
    y = digits.dequantise(digits.test[:20], seed=0).flatten(1)
    nats = (0.5 * y.square() + 0.5 * torch.log(torch.tensor(2 * torch.pi))).sum(1).mean()
    assert row.ode == pytest.approx(float(digits.bits_per_dim(nats)), abs=1e-3)


def test_more_test_pictures_than_there_are_are_refused(digits):
    with pytest.raises(ValueError, match="n must be at most 297 test pictures, got 1000"):
        evaluate(gaussian_model(), digits, n=1000)


def test_one_picture_has_no_error_and_its_fid_no_covariance(digits):
    (row,) = rows = evaluate(gaussian_model(), digits, n=1)
    assert row.error is None and "±" not in table(rows, digits).splitlines()[2]
    with pytest.raises(ValueError, match="fid_n must be 0, or 2 or more .*got 1"):
        evaluate(gaussian_model(), digits, n=1, fid_n=1)
    with pytest.raises(ValueError, match="batch must be a whole number"):
        evaluate(gaussian_model(), digits, n=1, batch=0)


def test_a_fid_stands_beside_its_floor_at_as_many_pictures(digits, monkeypatch):
    net = SimpleNamespace(name="Means", sha256="0", card={"floor": 1.5, "floor_images": 40})
    net.to = lambda device: net
    monkeypatch.setattr("diffflow_edu.fid.feature_net", lambda name: net)
    monkeypatch.setattr("diffflow_edu.fid.features", lambda net, x: x.flatten(2).mean(2))
    shown, other = yardstick(digits, 40), yardstick(digits, 20)
    assert (shown.floor, shown.floor_images) == (1.5, 40)
    assert other.floor_images == 20 and other.floor != 1.5
    rows = evaluate(gaussian_model(), digits, n=5, fid_n=20)
    assert f"{other.floor:.2f} (20 each)" in table(rows, digits, 20)
    with pytest.raises(ValueError, match="fid_net must be of fid_n = 20 pictures, is of 40"):
        evaluate(gaussian_model(), digits, n=5, fid_n=20, fid_net=shown)


def test_a_table_says_what_its_numbers_are(digits):
    text = table(evaluate(gaussian_model(), digits, n=20, ode_n=10), digits)
    assert "bits/dim ≤" in text and "ODE" in text and "FID" not in text


def test_a_table_tells_which_rows_ran_at_times_they_were_not_trained_at(digits):
    rows = [Row(3, 5.0, 0.1, None, None), Row(8, 4.0, 0.1, None, None)]
    assert "Trained on 3 steps. On other numbers of steps" in table(rows, digits, trained_steps=3)
    assert "Trained on" not in table(rows[:1], digits, trained_steps=3)


# FID with Inception -------------------------------------------------------------------------------


def test_inception_that_is_not_installed_is_said_in_one_message(digits, monkeypatch):
    monkeypatch.setattr(inception, "find_spec", lambda name: None)
    message = (
        "needs torchmetrics and torch-fidelity and torchvision: pip install torchmetrics torch-"
    )
    with pytest.raises(MissingError, match=message):
        yardstick(digits, 4, "inception")


def test_a_torchvision_of_another_build_is_said_in_one_message(digits, pretended, monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.delattr(pretended, "FrechetInceptionDistance")
    monkeypatch.setattr(pretended, "__getattr__", broken, raising=False)
    with pytest.raises(MissingError, match="nms does not exist.*same build as torch"):
        Inception(digits, 10)


class MeansAsInception:
    """In place of torchmetrics' FrechetInceptionDistance: the squared distance of the means."""

    def __init__(self, feature, reset_real_features):
        assert feature == 2048 and not reset_real_features
        self.shown = {True: [], False: []}

    def to(self, device):
        return self

    def reset(self):
        self.shown[False] = []

    def update(self, pictures, real):
        assert pictures.dtype == torch.uint8 and pictures.shape[1:] == (3, 8, 8)
        self.shown[real].append(pictures)

    def compute(self):
        means = [torch.cat(self.shown[real]).double().mean() for real in (True, False)]
        return (means[0] - means[1]) ** 2


@pytest.fixture
def pretended(monkeypatch, tmp_path):
    """torchmetrics as far as it is asked for, and a file of weights."""
    module = ModuleType("torchmetrics.image.fid")
    module.FrechetInceptionDistance = MeansAsInception
    monkeypatch.setattr(inception, "find_spec", lambda name: SimpleNamespace(name=name))
    for name in ("torchmetrics", "torchmetrics.image"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", module)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    inception.weights_file().parent.mkdir()
    inception.weights_file().write_bytes(b"weights")
    return module


def test_inception_is_shown_grey_levels_of_test_pictures_and_of_samples(digits, pretended):
    measure = Inception(digits, 30, batch=20)
    grey = [x[:30].double().mul(255 / 16).floor().mean() for x in (digits.test, digits.train)]
    assert measure.floor == pytest.approx(float((grey[0] - grey[1]) ** 2)) and measure.floor > 0
    assert measure.sha256 == hashlib.sha256(b"weights").hexdigest()
    samples = digits.dequantise(digits.test[:30], seed=0)
    assert measure.distance(samples) == pytest.approx(0)
    assert measure.distance(-torch.ones(30, 1, 8, 8)) == pytest.approx(float(grey[0] ** 2))
    assert measure.distance(samples) == pytest.approx(0)  # earlier samples are forgotten


def test_weights_of_inception_that_cannot_be_had_are_named(digits, pretended, monkeypatch):
    def refused(**options):
        raise OSError("no network in tests")

    monkeypatch.setattr(pretended, "FrechetInceptionDistance", refused)
    with pytest.raises(MissingError) as error:
        Inception(digits, 10)
    for part in (
        "weights-inception-2015-12-05-6726825d.pth (about 95 MB)",
        str(inception.weights_file()),
        "https://github.com/toshas/torch-fidelity/releases/",
        "no network in tests",
    ):
        assert part in str(error.value)


def test_an_unknown_feature_net_is_refused(digits):
    with pytest.raises(ValueError, match="fid must be 'shipped' or 'inception', got 'vgg'"):
        yardstick(digits, 4, "vgg")


# The command line ---------------------------------------------------------------------------------


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["diffflow-edu", *map(str, arguments)])
    cli.main()


def test_sampling_and_evaluating_from_the_command_line(finished, tmp_path, monkeypatch, capsys):
    folder, _ = finished
    model = folder / "model.safetensors"
    run(monkeypatch, "sample", model, "--out", tmp_path / "s.png", "--n", 4)
    assert Image.open(tmp_path / "s.png").size == (17, 17)
    run(monkeypatch, "evaluate", model, "--n", 20, "--steps", 2, 3)
    assert "bits/dim" in capsys.readouterr().out
    record = json.loads((folder / "model.json").read_text())
    assert [row["steps"] for row in record["rows"]] == [2, 3]
    assert record["weights_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert (record["n"], record["seed"], record["trained_steps"]) == (20, 0, 3)
    assert record["fid_net"] is None and "torch" in record["machine"]


def test_the_record_of_a_fid_names_its_net_and_its_floor(finished, monkeypatch, pretended):
    folder, _ = finished
    best = folder / "best.safetensors"
    run(monkeypatch, "evaluate", best, "--n", 10, "--fid-n", 20, "--fid", "inception")
    record = json.loads((folder / "best.json").read_text())
    net = record["fid_net"]
    assert net["name"] == "Inception" and net["floor_images"] == 20 and net["floor"] > 0
    assert net["sha256"] == hashlib.sha256(b"weights").hexdigest()
    without = record["rows"][0]["fid"]
    arguments = ("--n", 10, "--fid-n", 20, "--fid", "inception", "--last-noise", "True")
    run(monkeypatch, "evaluate", best, *arguments)
    assert json.loads((folder / "best-2.json").read_text())["rows"][0]["fid"] != without


def test_noise_in_the_last_step_is_another_picture(finished, tmp_path, monkeypatch):
    folder, _ = finished
    for last_noise in ("True", "False"):
        arguments = ("--out", tmp_path / "s.png", "--n", 4, "--last-noise", last_noise)
        run(monkeypatch, "sample", folder / "model.safetensors", *arguments)
    pictures = [(tmp_path / name).read_bytes() for name in ("s.png", "s-2.png")]
    assert pictures[0] != pictures[1]


def test_a_picture_is_not_written_over_weights(finished, monkeypatch, capsys):
    model = finished[0] / "model.safetensors"
    before = model.read_bytes()
    with pytest.raises(SystemExit, match="out must be the name of a picture, such as samples.png"):
        run(monkeypatch, "sample", model, "--out", model)
    assert model.read_bytes() == before


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437"])
def test_an_evaluation_is_written_and_told_in_any_encoding(
    finished, tmp_path, monkeypatch, encoding
):
    model = tmp_path / "m.safetensors"
    shutil.copy(finished[0] / "model.safetensors", model)
    told, stream = io.BytesIO(), functools.partial(io.TextIOWrapper, encoding=encoding)
    # As Python opens them where PYTHONIOENCODING, or the terminal, has this encoding.
    monkeypatch.setattr(sys, "stdout", stream(told, line_buffering=True))
    monkeypatch.setattr(sys, "stderr", stream(io.BytesIO()))
    run(monkeypatch, "evaluate", model, "--n", 5)
    record = json.loads((tmp_path / "m.json").read_text("utf-8"))
    out = told.getvalue().decode(encoding)
    assert f"{record['rows'][0]['bits_per_dim']:.3f}" in out
    assert f"Written: {tmp_path / 'm.json'}" in out


def test_an_evaluation_that_cannot_be_written_is_told_all_the_same(finished, monkeypatch, capsys):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(cli, "write_new", full)
    with pytest.raises(SystemExit, match="no space left"):
        run(monkeypatch, "evaluate", finished[0] / "model.safetensors", "--n", 5)
    assert "bits/dim" in capsys.readouterr().out


def test_listing_names_pictures_and_weights(monkeypatch, capsys):
    run(monkeypatch, "list")
    out = capsys.readouterr().out
    assert "mnist14" in out and "diffflow/olympic_rings/30" in out


@pytest.mark.parametrize("command", ["train", "sample", "evaluate", "download", "list"])
def test_every_command_has_help_worth_reading(monkeypatch, capsys, command):
    with pytest.raises(SystemExit):
        run(monkeypatch, command, "--help")
    assert len(capsys.readouterr().out.split()) > 15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "x", "--images", "imagenet"), "images must be of mnist"),
        (("sample", "absent.safetensors"), "weights file absent.safetensors cannot be used"),
        (("download", "imagenet"), "unknown images 'imagenet'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(monkeypatch, tmp_path, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, *arguments)
    said = str(stop.value.code) + capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())


# The README's commands ----------------------------------------------------------------------------


def commands_of_the_readme():
    """Every diffflow-edu command of the pages, as arguments, with accelerate or without."""
    page = (Path(__file__).parents[1] / "docs" / "images.md").read_text("utf-8")
    lines = re.findall(
        r"^    (?:diffflow-edu|accelerate launch -m diffflow_edu\.cli) (.*)$", page, re.MULTILINE
    )
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("arguments", commands_of_the_readme(), ids=" ".join)
def test_the_command_line_takes_what_the_readme_says(monkeypatch, arguments):
    taken = []

    def instead_of(command):
        @functools.wraps(command)
        def record(*args, **kwargs):
            taken.append(command.__name__)

        return record

    for name in ("train", "sample", "evaluate"):
        monkeypatch.setattr(cli, name, instead_of(getattr(cli, name)))
    run(monkeypatch, *arguments)
    assert taken == [arguments[0]]


def test_the_readme_has_commands_for_both_sets_and_both_models_on_a_gpu():
    training = [" ".join(c) for c in commands_of_the_readme() if c[0] == "train"]
    for part in ("--images mnist --size", "--kind ddpm", "--images cifar10", "--minutes 8"):
        assert any(part in command for command in training)
    folders = {command.split()[1] for command in training}
    evaluated = [c[1] for c in commands_of_the_readme() if c[0] == "evaluate"]
    assert {str(Path(path).parent) for path in evaluated} <= folders


def test_the_readmes_commands_for_mnist_on_a_gpu_run_in_miniature(tmp_path, monkeypatch, capsys):
    # The same settings, on other pictures and smaller: later arguments win.
    less = "--images digits --size tiny --batch-size 2 --look-every 99 --steps 1 2".split()
    less += ["--updates", "4"]
    monkeypatch.chdir(tmp_path)
    accelerate_state().AcceleratorState._reset_state(reset_partial_state=True)
    for command in commands_of_the_readme():
        if command[0] == "train" and command[1] in ("runs/mnist", "runs/mnist-ddpm"):
            warm_start = ["--warm-start", "2"] if "--warm-start" in command else []
            run(monkeypatch, *command, *less, *warm_start)
            assert f"Trained: {command[1]}/model.safetensors" in capsys.readouterr().out
        if command[0] == "evaluate" and command[1].startswith("runs/mnist"):
            run(monkeypatch, *command, *"--steps 1 2 --n 10 --ode-n 0 --fid-n 0".split())
            record = json.loads((tmp_path / command[1]).with_suffix(".json").read_text())
            assert [row["steps"] for row in record["rows"]] == [1, 2]
    accelerate_state().AcceleratorState._reset_state(reset_partial_state=True)


def accelerate_state():
    from accelerate import state

    return state
