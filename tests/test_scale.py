"""Runs on images that stop and go on, and the command line around them; small digits throughout."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

from diffflow_edu import DDPM, DiffFlow, images, zoo

pytest.importorskip("accelerate", reason="the extra 'images' is not installed")
pytest.importorskip("tyro", reason="the extra 'images' is not installed")

from diffflow_edu import cli
from diffflow_edu.evaluation import evaluate, on_grid, table
from diffflow_edu.scale import Config, successor, train

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


def test_sigterm_ends_a_run_cleanly_and_the_same_command_goes_on(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "diffflow_edu.cli", "train", str(folder)]
    command += "--images digits --size tiny --steps 2 --updates 100000 --batch-size 2".split()
    command += ["--look-every", "3"]
    environment = {**os.environ, "DIFFFLOW_EDU_PROGRESS": "0", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    limit = time.monotonic() + 90
    while not (folder / "stage-0.pt.previous").exists() and time.monotonic() < limit:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "Stopped; the same command goes on" in out
    step = torch.load(folder / "stage-0.pt", weights_only=True)["step"]
    assert step >= 6
    config = Config(images="digits", size="tiny", steps=(2,), updates=100_000, batch_size=2)
    assert train(config, folder, minutes=1e-9, look_every=3) is None
    assert torch.load(folder / "stage-0.pt", weights_only=True)["step"] == step + 1


def test_a_longer_grid_takes_over_the_networks_and_not_the_backward_noise(finished):
    folder, _ = finished
    short, config = zoo.load(folder / "stage-0.safetensors"), Config(**SMALL, steps=(2, 3))
    long = successor(zoo.build(config.recipe(3, (1, 8, 8))), short)
    for name, value in short.state_dict().items():
        if name != "log_b_ratio":
            assert torch.equal(long.state_dict()[name], value)
    assert long.log_b_ratio.tolist() == [0, 0, 0] and short.log_b_ratio.any()


def test_ctrl_c_ends_a_run_like_sigterm_and_a_second_one_at_once():
    from diffflow_edu.scale import _terminated

    with _terminated() as event:
        signal.raise_signal(signal.SIGINT)
        assert event.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)  # as it was before


def test_the_best_model_can_be_used_like_the_last(finished, tmp_path, monkeypatch):
    folder, _ = finished
    run(monkeypatch, "sample", folder / "best.safetensors", "--out", tmp_path / "s.png", "--n", 4)
    assert (tmp_path / "s.png").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "imagenet"}, "images must be of mnist, .*got 'imagenet'"),
        ({"kind": "flow"}, "kind must be 'diffflow' or 'ddpm', got 'flow'"),
        ({"size": "huge"}, "size must be one of tiny, tiny2, small, paper"),
        ({"steps": ()}, "steps must hold at least one N"),
        ({"steps": (3, 0)}, "steps must be"),
        ({"updates": 0}, "updates must be"),
        ({"kind": "ddpm", "warm_start": 5}, "warm_start is for kind 'diffflow'"),
        ({"precision": "fp16"}, "precision must be 'no' or 'bf16', got 'fp16'"),
        ({"lr": -1}, "lr must be positive"),
        ({"ema": 1}, "ema must be at least 0 and below 1"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"r_min": 20.0}, "r_m"),
    ],
)
def test_a_config_that_cannot_be_trained_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)


def test_bad_times_are_refused_before_anything_is_written(tmp_path):
    for arguments, message in (({"minutes": 0}, "minutes"), ({"look_every": 0}, "look_every")):
        with pytest.raises(ValueError, match=f"{message} must be"):
            train(Config(**SMALL), tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


# Evaluation ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return images.load("digits")


def gaussian_model(steps=3):
    """DDPM for pixels that are all N(0, I): its bound is known."""
    from diffflow_edu import Schedule

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


def test_a_table_says_what_its_numbers_are(digits):
    text = table(evaluate(gaussian_model(), digits, n=20, ode_n=10), digits)
    assert "bits/dim ≤" in text and "ODE" in text and "FID" not in text


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
    rows = json.loads((folder / "model.json").read_text())["rows"]
    assert [row["steps"] for row in rows] == [2, 3]


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
