"""The static pictures show what they are given, and nothing else."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from diffflow_edu import figures, toy
from diffflow_edu.processes.base import Trajectory


class ThinRing:
    """A ring of radius 1 and radial std `width`, to have a truth that is hard to hit by a grid."""

    def __init__(self, width: float) -> None:
        self.width = width

    def sample(self, n: int, seed: int | None = None) -> torch.Tensor:
        g = torch.Generator().manual_seed(seed or 0)
        angle = 2 * math.pi * torch.rand(n, generator=g)
        radius = 1 + self.width * torch.randn(n, generator=g)
        return radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        r = x.norm(dim=1)
        z = (r - 1) / self.width
        return -0.5 * z**2 - torch.log(r * self.width) - 1.5 * math.log(2 * math.pi)


def trajectory(steps: int = 10, particles: int = 200) -> Trajectory:
    start = ThinRing(0.01).sample(particles)
    times = torch.linspace(0, 0.5, steps + 1)
    return Trajectory(times, start + times[:, None, None] * torch.tensor([1.0, 0.0]))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def dots(axes) -> np.ndarray:
    return np.asarray(axes.collections[-1].get_offsets())


def test_every_model_has_a_colour_of_its_own_from_the_palette():
    assert figures.MODELS == {"DDPM": figures.MODES[1], "DiffFlow": figures.MODES[0]}


def test_film_strip_has_a_row_per_model_and_time_runs_left_to_right():
    path = trajectory()
    figure = figures.film_strip({"A": path, "B": path}, steps=6, title="It moves")
    axes = figure.axes
    assert len(axes) == 12
    assert [a.get_title() for a in axes[:6]] == [
        "data\nt = 0.000", "t = 0.100", "t = 0.200", "t = 0.300", "t = 0.400", "noise\nt = 0.500",
    ]  # fmt: skip
    assert [axes[0].get_ylabel(), axes[6].get_ylabel()] == ["A", "B"]
    assert figure.get_suptitle() == "It moves"
    for a, step in zip(axes, (0, 2, 4, 6, 8, 10), strict=False):
        assert np.allclose(dots(a), path.states[step])
        assert a.get_aspect() == 1.0
    limits = {(a.get_xlim(), a.get_ylim()) for a in axes}
    assert len(limits) == 1


def test_film_strip_of_a_single_step_shows_both_ends():
    figure = figures.film_strip(trajectory(steps=1))
    assert len(figure.axes) == 2


def test_particles_take_the_colour_of_their_mode():
    path = trajectory(particles=3)
    figure = figures.film_strip(path, color=torch.tensor([0, 1, 1]), steps=2)
    shown = [mpl.colors.to_hex(c).upper() for c in figure.axes[0].collections[0].get_facecolors()]
    assert shown == [figures.MODES[0], figures.MODES[1], figures.MODES[1]]


def test_modes_can_be_told_apart_by_lightness_or_hue_in_the_palette():
    rgb = np.array([mpl.colors.to_rgb(c) for c in figures.MODES])
    gaps = np.abs(rgb[:, None] - rgb[None]).sum(axis=2) + 9 * np.eye(len(rgb))
    assert gaps.min() > 0.3


@pytest.mark.parametrize("width", [0.01, 0.001])
def test_a_thin_ring_is_closed_on_the_density_map(width):
    ring = ThinRing(width)
    figure = figures.density_map(ring, extent=1.5, resolution=200)
    image = figure.axes[0].images[0].get_array()
    peak = float(ring.log_prob(torch.tensor([[1.0, 0.0]])))
    # every pixel that the circle passes well inside is within 2 nats of the peak
    angle = np.linspace(0, 2 * math.pi, 2000)
    column = (np.cos(angle) + 1.5) / 3 * 200
    row = (np.sin(angle) + 1.5) / 3 * 200
    inner = (np.abs(column % 1 - 0.5) < 0.3) & (np.abs(row % 1 - 0.5) < 0.3)
    on_ring = image[row[inner].astype(int), column[inner].astype(int)]
    assert inner.sum() > 300
    assert on_ring.min() > peak - 2


def test_the_density_map_takes_a_bare_log_density_and_puts_x_to_the_right():
    figure = figures.density_map(lambda x: -x[:, 0].abs() - 3 * (x[:, 1] - 1).abs(), resolution=50)
    picture = figure.axes[0].images[0]
    row, column = np.unravel_index(picture.get_array().argmax(), (50, 50))
    assert (column + 0.5) / 50 * 6 - 3 == pytest.approx(0, abs=0.12)  # a pixel is 0.12 wide
    assert (row + 0.5) / 50 * 6 - 3 == pytest.approx(1, abs=0.12)
    assert picture.origin == "lower"


def test_samples_stand_beside_the_truth_with_what_leaks_in_view():
    ring = ThinRing(0.01)
    leaked = torch.cat([ring.sample(100), torch.tensor([[1.1, 1.1]])])
    figure = figures.samples_against_truth({"model": leaked}, ring, title="One leaks")
    data, model = figure.axes
    assert [data.get_title(), model.get_title()] == ["data", "model"]
    assert data.get_xlim() == model.get_xlim()
    assert model.get_xlim()[1] > 1.1
    assert np.allclose(dots(model), leaked)


def test_loss_curve_smooths_without_moving_the_level_and_survives_nan():
    loss = [100.0] * 20 + [1.0, 3.0] * 490
    loss[500] = float("nan")
    figure = figures.loss_curve({"a": SimpleNamespace(loss=loss), "b": SimpleNamespace(loss=loss)})
    axes = figure.axes[0]
    smooth = axes.lines[1].get_ydata()
    assert len(smooth) == 1000
    assert smooth[700] == pytest.approx(2.0, abs=0.05)  # an odd window of 41 holds one value more
    assert smooth[500] == pytest.approx(2.0, abs=0.05)
    assert axes.get_ylim()[1] < 10
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["a", "b"]


def test_loss_curve_uses_recorded_steps():
    figure = figures.loss_curve(SimpleNamespace(loss=[3.0, 2.0, 1.0], steps=[10, 20, 30]))
    assert list(figure.axes[0].lines[0].get_xdata()) == [10, 20, 30]


def test_paths_lead_from_data_to_noise():
    path = trajectory(particles=50)
    figure = figures.paths(path, particles=5)
    segments = figure.axes[0].collections[0].get_segments()
    assert len(segments) == 5
    assert np.allclose(segments[0][0], path.start[0])
    assert np.allclose(segments[-1][-1], path.end[-1])


def test_alt_text_names_models_times_and_counts():
    text = figures.alt_text({"A": trajectory(), "B": trajectory()}, title="T")
    assert text == (
        "T. Particles from data (t = 0.000, left) to noise (t = 0.500, right): "
        "A, 200 particles in 10 steps; B, 200 particles in 10 steps."
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: figures.film_strip({}), "empty dict"),
        (
            lambda: figures.film_strip(trajectory(), steps=1),
            "steps must be a whole number, 2 or more",
        ),
        (lambda: figures.film_strip(trajectory(), color=[1, 2]), r"\(200,\), got \(2,\)"),
        (
            lambda: figures.paths(trajectory(), particles=0),
            "particles must be a whole number, 1 or more",
        ),
        (lambda: figures.loss_curve({}), "empty dict"),
        (lambda: figures.loss_curve(SimpleNamespace(loss=[])), "loss must be a list of numbers"),
        (
            lambda: figures.loss_curve(SimpleNamespace(loss=[1.0], steps=[1, 2])),
            "equally long, got 2 and 1",
        ),
        (lambda: figures.density_map(ThinRing(0.1), extent=-1.0), "extent must be positive"),
        (lambda: figures.density_map(lambda x: x[:, 0] * float("nan")), "finite log_prob"),
        (lambda: figures.samples_against_truth({}, ThinRing(0.1)), "empty dict"),
        (
            lambda: figures.samples_against_truth({"m": torch.zeros(4, 3)}, ThinRing(0.1)),
            r"\(n, 2\), got \(4, 3\)",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_pictures_leave_the_readers_style_alone():
    before = dict(mpl.rcParams)
    figures.film_strip(trajectory(), steps=2)
    figures.loss_curve(SimpleNamespace(loss=[1.0, 2.0]))
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("words", ["cost $a_{b$", r"$\foo{$", "$x^2$ is fine", "5 $"])
def test_words_that_are_no_mathtext_are_drawn_letter_by_letter(words):
    path = Trajectory(torch.linspace(0, 1, 3), torch.randn(3, 5, 2))
    history = SimpleNamespace(loss=[1.0, 2.0])
    for figure in (
        figures.film_strip({words: path}, title=words),
        figures.paths(path, title=words),
        figures.loss_curve({words: history, "b": history}, title=words),
    ):
        figure.canvas.draw()
        plt.close(figure)


def test_names_that_begin_with_an_underscore_stand_in_legends_too():
    history, rows = SimpleNamespace(loss=[1.0, 2.0]), [{"steps": 3, "bits_per_dim": 1.0, "fid": 2}]
    panel = figures.CurvePanel("x", "y", {"_mine": ([1, 2], [3, 4]), "b": ([1, 2], [3, 4])})
    for figure in (
        figures.loss_curve({"_mine": history, "b": history}),
        figures.curve_panels([panel]),
        figures.quality_against_steps({"_mine": rows}, {"b": {"bits_per_dim": 2.0}}),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a glyph that the font lacks
            figure.canvas.draw()
        words = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        assert [word.lstrip("\u200b") for word in words] == ["_mine", "b"]


def test_counts_and_sizes_of_every_picture_are_refused_by_their_names():
    ring, path = ThinRing(0.1), trajectory()
    line = Trajectory(path.times, path.states[..., :1])
    flat = lambda x, t: -(x[:, 0] ** 2)  # noqa: E731
    score = figures.ScorePanel(torch.zeros_like)
    calls = {
        "most": [
            lambda n: figures.film_strip(path, most=n),
            lambda n: figures.samples_against_truth(ring.sample(5), ring, most=n),
            lambda n: figures.gallery([toy.load("ring")], most=n),
        ],
        "particles": [
            lambda n: figures.paths(path, particles=n),
            lambda n: figures.family_panels({"": line}, flat, particles=n),
        ],
        "steps": [lambda n: figures.film_strip(path, steps=n)],
        "resolution": [lambda n: figures.density_map(ring, resolution=n)],
        "cells": [lambda n: figures.square_grid(cells=n)],
        "finer": [lambda n: figures.warped_grids({"": figures.square_grid()}, finer=n)],
        "columns": [lambda n: figures.image_sheets({"": torch.zeros(2, 4, 4)}, columns=n)],
    }
    for name, pictures in calls.items():
        for picture in pictures:
            for wrong in (True, 2.5, 2.0, 0, -1, "2", math.nan, torch.ones(50, 50)):
                with pytest.raises(ValueError, match=f"^{name} must be a whole number") as caught:
                    picture(wrong)
                assert len(str(caught.value)) < 150
            if name != "finer":
                picture(np.int64(2))
    sizes = {
        "extent": [
            lambda v: figures.density_map(ring, extent=v),
            lambda v: figures.score_fields({"": score}, extent=v),
        ],
        "depth": [
            lambda v: figures.density_map(ring, depth=v),
            lambda v: figures.log_p_maps({"": np.zeros((2, 2))}, (0, 0, 1), depth=v),
        ],
        "half": [
            lambda v: figures.square_grid(half=v),
            lambda v: figures.family_panels({"": line}, flat, half=v),
            lambda v: figures.magnifier({"": ring.sample(5)}, (0, 0), v),
        ],
    }
    for name, pictures in sizes.items():
        for picture in pictures:
            for wrong in (True, 0.0, -1, "2", math.nan, math.inf):
                with pytest.raises(ValueError, match=f"^{name} must be positive and finite"):
                    picture(wrong)
