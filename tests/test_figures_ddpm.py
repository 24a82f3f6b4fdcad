"""The magnifier and the bars of the bound: what is drawn is what was given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from diffflow_edu import DDPM, Schedule, figures


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_the_magnifier_draws_the_particles_in_its_square_and_no_other():
    x = torch.tensor([[0.0, 0.0], [0.9, -0.9], [1.1, 0.0], [0.0, -5.0]])
    figure = figures.magnifier({"a": x, "b": x + 1}, centre=(0.0, 0.0), half=1.0, title="near")
    first, second = (axes.collections[0].get_offsets() for axes in figure.axes)
    assert np.allclose(first, x[:2]) and np.allclose(second, [[1.0, 1.0]])
    for axes in figure.axes:
        assert axes.get_xlim() == axes.get_ylim() == (-1, 1)
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    assert figure.get_suptitle() == "near"


def test_the_magnifier_colours_all_panels_alike():
    x = torch.tensor([[0.0, 0.0], [0.5, 0.5], [3.0, 3.0]])
    figure = figures.magnifier({"a": x, "b": -x}, (0.0, 0.0), 1.0, color=torch.tensor([0, 1, 2]))
    a, b = (axes.collections[0].get_facecolors() for axes in figure.axes)
    assert np.allclose(a, b) and not np.allclose(a[0], a[1])


def test_the_bars_are_the_mean_kls_and_the_words_the_rest():
    model = DDPM(lambda x, t: -x, Schedule.log_snr(6), prediction="score")
    terms = model.bound_terms(torch.randn(40, 2), seed=0)
    figure = figures.bound_bars({"one": (model.schedule, terms), "two": (model.schedule, terms)})
    for axes in figure.axes:
        heights = [bar.get_height() for bar in axes.patches]
        assert np.allclose(heights, terms.kl.mean(1))
        assert f"bound {terms.total.mean():+.2f} nats" in axes.texts[0].get_text()


@pytest.mark.parametrize("steps", [1, 2])
def test_a_chain_without_kls_or_with_one_can_be_drawn(steps):
    model = DDPM(lambda x, t: -x, Schedule.linear_beta(steps), prediction="score")
    figure = figures.bound_bars({"": (model.schedule, model.bound_terms(torch.randn(5, 2)))})
    assert len(figure.axes[0].patches) == steps - 1


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="points must hold at least one panel"):
        figures.magnifier({}, (0, 0), 1.0)
    with pytest.raises(ValueError, match="half must be positive and finite, got 0"):
        figures.magnifier({"a": torch.zeros(3, 2)}, (0, 0), 0)
    with pytest.raises(ValueError, match="terms must hold at least one model"):
        figures.bound_bars({})
