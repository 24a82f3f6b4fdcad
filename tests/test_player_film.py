"""Films of a player: every step, in its direction, as GIF and as MP4."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from diffflow_edu.player import play
from diffflow_edu.processes.base import Trajectory


def walk() -> Trajectory:
    """A patch that walks from left to right between two that stay: its column tells the step.

    Patches and no single dots, because MP4 shares colours between pixels.
    """
    across = torch.linspace(-1, 1, 5)
    patch = 0.04 * torch.randn(60, 1, 2, generator=torch.Generator().manual_seed(0))
    places = torch.stack([torch.tensor([[x, 0.0], [0.0, 1.0], [0.0, -1.0]]) for x in across])
    return Trajectory(torch.linspace(0, 1, 5), (patch + places[:, None]).flatten(1, 2))


def column_of_the_walker(picture: np.ndarray) -> float:
    """Where the blue in the middle rows of a picture (H, W, 3) is, as a share of its width."""
    picture = picture.astype(int)
    blue = (picture[..., 2] - picture[..., 0]) > 60
    rows = np.flatnonzero(blue.any(axis=1))
    middle = blue[rows.mean().astype(int) - 12 : rows.mean().astype(int) + 12]
    return np.argwhere(middle)[:, 1].mean() / picture.shape[1]


@pytest.mark.parametrize(("direction", "first"), [("forward", 0), ("backward", 4)])
def test_a_gif_shows_every_step_in_the_players_direction(tmp_path, direction, first):
    play(walk(), direction=direction).save_gif(tmp_path / "walk.gif", fps=5)
    with Image.open(tmp_path / "walk.gif") as film:
        # GIF merges equal pictures, so the rests at both ends may be one frame or five each
        assert film.n_frames >= 5
        columns = []
        for i in (0, film.n_frames - 1):
            film.seek(i)
            columns.append(column_of_the_walker(np.asarray(film.convert("RGB"))))
    left, right = columns if first == 0 else columns[::-1]
    assert left < 0.3
    assert right > 0.7


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="not installed here: ffmpeg")
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_an_mp4_shows_every_step_and_rests_at_both_ends(tmp_path, direction):
    play(walk(), direction=direction, title="A walk").save_mp4(tmp_path / "walk.mp4", fps=4)
    assert (tmp_path / "walk.mp4").read_bytes()[4:8] == b"ftyp"
    command = "ffmpeg -v error -i walk.mp4 -f image2 %02d.png".split()
    subprocess.run(command, cwd=tmp_path, check=True)
    frames = sorted(tmp_path.glob("*.png"))
    assert len(frames) == 4 + 5 + 4  # a second of 4 pictures at each end
    columns = []
    for frame in frames:
        with Image.open(frame) as picture:
            assert (picture.width % 2, picture.height % 2) == (0, 0)
            columns.append(column_of_the_walker(np.asarray(picture.convert("RGB"))))
    moves = np.diff(columns) if direction == "forward" else -np.diff(columns)
    assert np.abs(moves[:4]).max() < 0.01
    assert (moves[4:8] > 0.1).all()  # a quarter of the way a step
    assert np.abs(moves[8:]).max() < 0.01


def test_an_mp4_without_ffmpeg_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="needs the program ffmpeg.*save_gif or save_html"):
        play(walk()).save_mp4(tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_a_film_needs_a_positive_rate(tmp_path, fps):
    with pytest.raises(ValueError, match=f"fps must be positive and finite, got {fps}"):
        play(walk()).save_gif(tmp_path / "film.gif", fps=fps)
