"""What `fit` takes as data, what it says of them, and which learnables it refuses to forget."""

import functools
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from diffflow_edu import CNF, DDPM, CouplingFlow, DiffFlow, Schedule, fit, toy
from diffflow_edu.nets import MLP

X = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setenv("DIFFFLOW_EDU_PROGRESS", "0")


def small(kind=DiffFlow, dim=2, **grid):
    torch.manual_seed(0)
    return kind.mlp(Schedule.log_snr(**{"steps": 4, "r_min": 0.1} | grid), dim=dim, hidden=8)


def learned(data):
    """The losses of a short training."""
    return fit(small(), data, steps=2, batch_size=8).loss


# Type and shape -----------------------------------------------------------------------------------


def test_frames_and_arrays_of_any_float_are_learned_as_the_tensor_they_are():
    pandas = pytest.importorskip("pandas")
    expected = learned(X)
    for same in (
        X.double(),
        X.numpy(),
        X.numpy().astype(np.longdouble),
        np.ma.array(X.numpy()),
        pandas.DataFrame(X.numpy(), columns=["a", "b"]),
    ):
        assert learned(same) == expected
    for half in (X.half(), X.numpy().astype(np.float16)):
        assert learned(half) == learned(X.half().float())
    assert learned(X.bfloat16()) == learned(X.bfloat16().float())


def refused():
    import scipy.sparse

    structured = np.zeros(9, dtype=[("a", "f4"), ("b", "f4")])
    return {
        "pair": ((X, torch.zeros(200)), "tuple of 2.*validation="),
        "split": ((X[:100], X[100:]), "tuple of 2.*validation="),
        "list of sets": ([X[:100], X[100:]], r"\(100, 2\) a particle does not fit.*validation="),
        "extra axis": (X[None], r"\(200, 2\) a particle does not fit"),
        "three axes": (torch.randn(100, 8, 2), r"\(8, 2\) a particle.*flatten"),
        "masked": (np.ma.array(X.numpy(), mask=X.numpy() > 2), r"\d+ of 400 entries masked"),
        "sparse": (X.to_sparse(), "dense tensor.*to_dense"),
        "scipy": (scipy.sparse.csr_matrix(X.numpy()), "dense.*toarray"),
        "complex": (X + 1j * X, "floating point, got torch.complex64"),
        "object": (X.numpy().astype(object), "array of object"),
        "structured": (structured, r"records \(a, b\)"),
        "text": (np.array([["a", "b"]] * 9), "array of <U1"),
        "lists": (X.tolist(), r"list of lists of numbers; pass torch.tensor"),
        "loader": (DataLoader(TensorDataset(X)), r"DataLoader.*\.dataset"),
    }


@pytest.mark.parametrize("case", refused())
def test_what_is_no_one_set_of_particles_is_refused_with_the_remedy(case):
    data, message = refused()[case]
    with pytest.raises(ValueError, match=message):
        learned(data)


def test_a_frame_with_text_is_refused_by_its_columns():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [0.5] * 9, "b": [0.1] * 9, "colour": ["red"] * 9})
    with pytest.raises(ValueError, match="DataFrame with columns that hold others: colour"):
        learned(frame)


def test_a_density_that_draws_fewer_than_it_is_asked_for_is_refused():
    class Short:
        def sample(self, n, seed=None):
            return X[:5]

    with pytest.raises(ValueError, match=r"sample\(8\) must return as many, got 5"):
        learned(Short())


# Centre, scale and range --------------------------------------------------------------------------


def said(model, data, **options):
    """The warnings of a step of training."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, data, **{"steps": 1, "batch_size": 64} | options)
    return [str(w.message) for w in caught]


def test_data_that_the_noise_does_not_drown_earn_a_warning_with_the_numbers_and_the_remedy():
    for data in (X + 30, TensorDataset(X + 30)):
        text = " ".join(said(small(DDPM, steps=30), data))
        assert "r_max = 8, does not drown data" in text
        assert "mean of 3.7" in text and "standardise=True" in text and "r_max=3e+02" in text


def test_centre_and_scale_far_from_0_and_1_earn_a_warning_whatever_the_model():
    torch.manual_seed(0)
    for model in (small(), CouplingFlow(2, layers=2, hidden=8), CNF.mlp(hidden=8)):
        (text,) = said(model, X + 30)
        assert re.search("centred 30.1 a coordinate away from 0.*Subtract the mean", text)
    (text,) = said(CouplingFlow(2, layers=2, hidden=8), X / 100)
    assert "standard deviation of 0.0098" in text


@pytest.mark.parametrize("levels", [16, 255])
def test_pictures_as_whole_grey_levels_earn_a_warning(levels):
    pictures = (torch.rand(64, 64) * (levels + 1)).floor() * (torch.rand(64, 64) < 0.5)
    text = " ".join(said(small(DDPM, dim=64), pictures))
    assert "not dequantised" in text
    assert "the networks expect about 1" in text or "centred" in text or "drown" in text


def test_columns_of_very_different_scale_are_named():
    text = " ".join(said(small(DDPM, r_min=6e-3), X * torch.tensor([0.001, 8.0])))
    assert "coordinate 0 of data has a standard deviation of 0.00" in text
    assert "standard deviation of up to 1.4" in text  # of the other at the end
    text = " ".join(said(small(DDPM), X * torch.tensor([1.0, 0.0])))
    assert "coordinate 1 of data is constant" in text


def test_the_course_s_own_data_and_grids_earn_no_warning():
    for name in ("olympic_rings", "eight_gaussians", "checkerboard"):
        density = toy.load(name)
        for schedule in (
            Schedule.log_snr(3, r_min=0.02, r_max=1.5),
            Schedule.log_snr(5),
            Schedule.geometric(3),
            Schedule.polynomial(3, flexible=True),
        ):
            for kind in (DiffFlow, DDPM):
                assert said(kind.mlp(schedule, hidden=8), density, batch_size=16) == []


def test_standardised_data_keep_their_units_and_earn_no_warning():
    data = 5 * torch.randn(400, 2, generator=torch.Generator().manual_seed(1)) + 30
    model = small(DDPM)
    assert said(model, data, standardise=True, steps=3) == []
    torch.testing.assert_close(model.data_mean, data.mean(0))
    scale = data.var(0, correction=0).mean().sqrt()
    torch.testing.assert_close(model.data_scale, scale)
    # The same training as of data that were standardised by hand, up to rounding; d log scale more.
    plain = small(DDPM)
    ours = fit(small(DDPM), data, steps=4, batch_size=32, standardise=True)
    by_hand = fit(plain, (data - data.mean(0)) / scale, steps=4, batch_size=32)
    expected = np.array(by_hand.loss) + 2 * float(scale.log())
    assert ours.loss == pytest.approx(expected, rel=1e-4)
    (text,) = said(model, 2 * data, standardise=True)[:1]
    assert "keeps the standardisation that it has" in text


# Learnables ---------------------------------------------------------------------------------------


class Hides(nn.Module):
    """A network kept where a module does not look."""

    def __init__(self, net):
        super().__init__()
        self.nets = [net]

    def forward(self, x, t):
        return self.nets[0](x, t)


def forgetful():
    torch.manual_seed(0)
    net, other = MLP(hidden=8), MLP(hidden=8)
    gain = nn.Parameter(torch.ones(2))
    grid = Schedule.log_snr(4)
    return {
        "function": DDPM(lambda x, t: net(x, t), grid, learn_backward_std=True),
        "nothing else": DDPM(lambda x, t: net(x, t), grid),
        "drift": DiffFlow(lambda x, t: net(x, t), other, grid),
        "parameter": DiffFlow(net, lambda x, t: gain * other(x, t), grid),
        "tensor": DiffFlow(net, lambda x, t: torch.ones(2, requires_grad=True) * gain * x, grid),
        "hidden": DiffFlow(Hides(net), other, grid),
        "partial": DiffFlow(functools.partial(net), other, grid),
        "method": DiffFlow(net.forward, other, grid),
        "flow": CNF(lambda x, t: net(x, t)),
        "hidden flow": CNF(Hides(net)),
    }


@pytest.mark.parametrize("case", forgetful())
def test_learnables_that_would_not_be_trained_are_refused(case):
    model = forgetful()[case]
    message = "depends on .* learnable numbers.*not among model.parameters.*nn.ModuleList"
    with pytest.raises(ValueError, match=message):
        fit(model, X, steps=1, batch_size=8)


def test_frozen_networks_shared_ones_and_scores_that_are_gradients_are_trained():
    class Energy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = MLP(hidden=8)

        def forward(self, x, t):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                energy = self.net(x, t).square().sum()
                return torch.autograd.grad(energy, x, create_graph=True)[0]

    net, frozen = MLP(hidden=8), MLP(hidden=8).requires_grad_(False)
    grid = Schedule.log_snr(4)
    for model in (
        DDPM(Energy(), grid),
        DiffFlow(net, lambda x, t: net(x, t), grid),
        DiffFlow(lambda x, t: frozen(x, t), net, grid),
    ):
        assert np.isfinite(fit(model, X, steps=2, batch_size=8).loss).all()
