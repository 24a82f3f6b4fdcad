"""Trajectories of images: what the player sends of them, its film strip, and what it refuses."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from diffflow_edu import toy
from diffflow_edu.figures import film_strip, image_sheets
from diffflow_edu.figures.images import columns_for, image_bytes, mosaic
from diffflow_edu.player import Player, play
from diffflow_edu.player.pack import IMAGE_BYTES, MOST_IMAGES
from diffflow_edu.processes.base import Trajectory


def images(steps: int = 4, count: int = 5, shape: tuple[int, ...] = (6, 7)) -> Trajectory:
    """Noise between −2 and 2: half of it lies beyond what can be shown."""
    g = torch.Generator().manual_seed(steps)
    states = 4 * torch.rand(steps + 1, count, *shape, generator=g) - 2
    return Trajectory(torch.linspace(0, 1, steps + 1), states)


def sent(player: Player, run: int = 0) -> np.ndarray:
    """The images as the page gets them, (N + 1, panels, images, H, W, C)."""
    spec, described = player.spec, player.spec["runs"][run]
    sizes = [spec["images"][name] for name in ("height", "width", "channels")]
    shape = (described["frames"], len(spec["panels"]), spec["points"], *sizes)
    whole = np.frombuffer(player.frames, np.uint8)[described["offset"] :]
    return whole[: np.prod(shape)].reshape(shape)


@pytest.mark.parametrize("shape", [(6, 7), (1, 6, 7), (3, 6, 7)], ids=["grey", "1", "RGB"])
def test_pixels_are_what_they_were_within_the_range_and_clipped_beyond(shape):
    path = images(shape=shape)
    p = play({"a": path, "b": path})
    channels = path.states.reshape(5, 5, -1, 6, 7).permute(0, 1, 3, 4, 2).numpy()
    shown = (sent(p)[:, 1].astype(float) - 1) / 127 - 1
    # half a quantum, and room for the rounding of the float arithmetic itself
    assert np.abs(shown - channels.clip(-1, 1)).max() <= 1 / 254 * (1 + 1e-6)
    assert (sent(p) > 0).all()
    assert p.spec["images"]["channels"] == channels.shape[-1]
    assert "clipped beyond" in p.spec["images"]["range"]
    assert "clipped beyond" in p.alt
    assert p.spec["colorings"] == []


def test_pixels_that_are_not_finite_are_missing_and_counted_by_image():
    path = images()
    path.states[2, 3, 0, 0] = float("nan")
    path.states[3, 3, 1, 1] = float("inf")
    path.states[0, 1, 5, 6] = float("-inf")
    p = play({"a": path, "b": images(steps=4)})
    assert p.spec["runs"][0]["missing"] == [2, 0]
    assert (sent(p) == 0).sum() == 3
    assert sent(p)[2, 0, 3, 0, 0, 0] == 0


def test_the_bytes_are_capped_and_so_is_the_number_of_images():
    digits = play({name: images(30, 100, (28, 28)) for name in "abc"})
    assert digits.spec["points"] == IMAGE_BYTES // (3 * 31 * 784) == 32
    assert len(digits.frames) <= IMAGE_BYTES
    assert digits.spec["images"]["of"] == 100
    small = play(images(2, 100))
    assert small.spec["points"] == MOST_IMAGES
    assert play(images(2, 100), max_points=4).spec["points"] == 4
    with pytest.raises(ValueError, match=r"takes 3.1 MB, allowed are 2.4; .*path.states\[::k\]"):
        play(images(3, 2, (512, 512 * 3)))


def test_a_dial_turns_through_runs_of_images():
    p = play({"N": {2: images(2), 3: images(3)}})
    assert [run["frames"] for run in p.spec["runs"]] == [3, 4]
    assert np.array_equal(sent(p, 1)[:, 0], image_bytes(images(3).states.numpy()))
    assert "N = 3, 5 images of 6 × 7 pixels in 3 steps" in p.alt


def test_the_film_strip_shows_images_side_by_side_with_gaps():
    path = images(count=20)
    figure = film_strip(path, steps=3)
    shown = figure.axes[2].images[0].get_array()
    keep = np.linspace(0, 19, 16).round().astype(int)
    assert np.array_equal(shown, mosaic(image_bytes(path.states.numpy())[4, keep]))
    assert shown.shape == (4 * 7 - 1, 4 * 8 - 1, 4)
    assert (shown[6, :, 3] == 0).all()  # transparent between the rows
    assert (shown[:6, :7, 3] == 255).all()
    strip = play({"a": path, "b": path}).png
    assert Image.open(io.BytesIO(strip)).width > 400
    assert len(strip) < 60_000


def test_columns_fill_a_square_and_a_lost_pixel_is_transparent():
    assert [columns_for(n, 8, 8) for n in (1, 2, 4, 5, 9, 36)] == [1, 2, 2, 3, 3, 6]
    assert columns_for(8, 10, 40) == 2  # flat images stand below each other
    lost = np.full((1, 2, 2, 3), 9, np.uint8)
    lost[0, 1, 0, 2] = 0
    assert mosaic(lost)[..., 3].tolist() == [[255, 255], [0, 255]]


def test_a_gif_and_a_page_hold_the_images(tmp_path):
    path = images(steps=2, count=1, shape=(8, 8))
    path.states[0], path.states[-1] = -1.0, 1.0  # from black to white
    p = play(path)
    p.save_gif(tmp_path / "film.gif", fps=5)
    with Image.open(tmp_path / "film.gif") as film:
        middles = []
        for i in (0, film.n_frames - 1):
            film.seek(i)
            grey = np.asarray(film.convert("L"))
            middles.append(grey[grey.shape[0] // 2, grey.shape[1] // 2])
    assert middles[0] < 20
    assert middles[1] > 235
    p.save_html(tmp_path / "demo.html")
    assert '"images"' in (tmp_path / "demo.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color": [0] * 5}, "color is for points in the plane; images show their own pixels"),
        ({"density": toy.load("ring")}, "density is for points in the plane"),
        ({"fields": {"": None}}, "fields is for points in the plane"),
        ({"grid": {"": None}}, "grid is for points in the plane"),
    ],
)
def test_what_needs_the_plane_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        play(images(), **options)


def test_images_and_points_do_not_mix():
    points = Trajectory(torch.linspace(0, 1, 5), torch.zeros(5, 5, 2))
    with pytest.raises(ValueError, match="particles of one shape, got"):
        play({"a": images(), "b": points})
    with pytest.raises(ValueError, match="particles of one shape, got"):
        film_strip({"a": images(), "b": images(shape=(3, 6, 7))})
    with pytest.raises(ValueError, match="one shape at every setting"):
        play({"N": {1: images(shape=(6, 7)), 2: images(shape=(7, 6))}})
    with pytest.raises(ValueError, match="color is for points"):
        film_strip(images(), color=[0] * 5)


@pytest.mark.parametrize("top", [15.0, 255.0])
def test_levels_in_place_of_pixels_are_refused_with_the_range_that_is_wanted(top):
    levels = Trajectory(torch.linspace(0, 1, 3), top * torch.rand(3, 5, 8, 8))
    wanted = r"pixels from −1 \(black\) to 1 \(white\), clipped beyond; on the data side they reach"
    with pytest.raises(ValueError, match=rf"trajectories\['a'\] must hold {wanted}"):
        play({"a": levels})
    with pytest.raises(ValueError, match=wanted):
        film_strip(levels)
    with pytest.raises(ValueError, match=wanted):
        image_sheets({"a": levels.start})


def test_noise_beyond_the_range_and_an_image_that_ran_away_are_drawn():
    states = torch.rand(3, 5, 8, 8) * 2 - 1
    states[2] *= 100  # the noise side of a chain that does not keep its variance
    states[0, 1] = 1e6
    states[0, 2] = torch.nan
    assert play(Trajectory(torch.linspace(0, 1, 3), states)).spec["points"] == 5
    assert image_sheets({"a": 1.5 * torch.randn(9, 8, 8).clamp(-2, 2)}).axes
