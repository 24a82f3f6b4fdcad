"""A model that keeps a mean and a scale of its data is the plain model in other units.

References: the plain model on (x − mean)/scale, with d log(scale) beside; an integral that is one.
"""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch

from diffflow_edu import CNF, DDPM, CouplingFlow, DiffFlow, Schedule
from diffflow_edu.evaluation import on_grid
from diffflow_edu.player.fields import check_fields
from diffflow_edu.processes.likelihood import ProbabilityFlow, path_bounds, sample_family
from diffflow_edu.processes.ode import Solver
from diffflow_edu.processes.samplers import ddim, ddim_encode, reverse_sde
from tests.test_every_process import FLOWS, STEPS, WITH_BOUND, every_process, make, points

MEAN = torch.tensor([30.0, -4.0], dtype=torch.float64)
SCALE = 2.5
VOLUME = 2 * math.log(SCALE)
with_bound = pytest.mark.parametrize("name", WITH_BOUND)
CHAINS = [name for name in WITH_BOUND if name not in FLOWS]
every_chain = pytest.mark.parametrize("name", CHAINS)


def pair(name: str, mean: object = MEAN) -> tuple:
    """A plain model, the same with a standardisation, z, and x = mean + scale z; all float64."""
    plain = make(name, dtype=torch.float64)
    kept = copy.deepcopy(plain)
    kept.set_standardisation(mean, SCALE)
    z = points(40, 2, dtype=torch.float64)
    return plain, kept, z, mean + SCALE * z


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """To float64's rounding of (x − mean)/scale, which steep fields and a solver enlarge."""
    return torch.allclose(a, b, atol=1e-7, rtol=1e-7)


# Nats --------------------------------------------------------------------------------------------


@with_bound
@pytest.mark.parametrize("mean", [MEAN, 7.0], ids=["vector", "number"])
def test_the_change_of_volume_is_counted_in_bound_and_log_prob(name, mean):
    plain, kept, z, x = pair(name, mean)
    assert close(kept.bound(x, seed=3), plain.bound(z, seed=3) + VOLUME)
    assert close(kept.log_prob(x, seed=3), plain.log_prob(z, seed=3) - VOLUME)


@every_process
@pytest.mark.parametrize("training", [False, True])
def test_a_loss_is_that_of_standardised_data_and_counts_nats_if_it_is_in_nats(name, training):
    plain, kept, z, x = pair(name)
    losses = []
    for model, data in ((plain, z), (kept, x)):
        torch.manual_seed(0)
        losses.append(model.train(training).loss(data))
    volume = VOLUME if name in WITH_BOUND else 0.0
    assert close(losses[1], losses[0] + volume)


@every_chain
def test_noise_that_fixes_a_path_gives_bound_and_loss_by_either_gradient(name):
    plain, kept, z, x = pair(name)
    noise = points(STEPS, 40, 2, dtype=torch.float64)
    wanted = plain.bound(z, noise) + VOLUME
    for gradient in ("adjoint", "autograd"):
        assert close(kept.bound(x, noise, gradient), wanted)
    assert close(kept.loss(x, noise), wanted.mean())


@every_chain
def test_the_bounds_of_several_paths_count_it_too(name):
    plain, kept, z, x = pair(name)
    assert close(path_bounds(kept, x, 3, seed=1), path_bounds(plain, z, 3, seed=1) + VOLUME)
    if isinstance(plain, DDPM):
        ours, theirs = kept.bound_terms(x, seed=1), plain.bound_terms(z, seed=1)
        assert close(ours.total, theirs.total + VOLUME)
        assert close(ours.kl, theirs.kl) and close(ours.prior, theirs.prior)


@pytest.mark.parametrize("gradient", ["adjoint", "autograd"])
def test_the_gradient_in_x_is_divided_by_the_scale(gradient):
    plain, kept, z, x = pair("DiffFlow on log-SNR")
    z.requires_grad_()
    x.requires_grad_()
    plain.bound(z, gradient=gradient, seed=1).sum().backward()
    kept.bound(x, gradient=gradient, seed=1).sum().backward()
    assert close(x.grad, z.grad / SCALE)


def test_the_density_in_the_units_of_the_data_integrates_to_one():
    torch.manual_seed(0)
    model = CouplingFlow(layers=4, hidden=16).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.set_standardisation([30.0, -4.0], 2.5)
    side = torch.linspace(-12, 12, 241, dtype=torch.float64) * 2.5
    grid = torch.cartesian_prod(side + 30, side - 4)
    with torch.no_grad():
        mass = model.log_prob(grid).exp().sum() * (side[1] - side[0]).square()
    assert float(mass) == pytest.approx(1, abs=1e-4)  # the sum of smooth values on a fine grid


@every_chain
def test_calibrating_on_data_is_calibrating_on_standardised_data(name):
    plain, kept, z, x = pair(name)
    plain.calibrate(z, seed=1)
    kept.calibrate(x, seed=1)
    assert close(kept.log_b_ratio, plain.log_b_ratio)


# Particles ---------------------------------------------------------------------------------------


@every_process
def test_samples_come_back_in_the_units_of_the_data_and_end_as_noise(name):
    plain, kept, *_ = pair(name)
    ours, theirs = kept.sample(20, seed=3), plain.sample(20, seed=3)
    assert close(ours.start, MEAN + SCALE * theirs.start)
    assert torch.equal(ours.end, theirs.end)
    ends = kept.sample(20, seed=3, keep="end")
    assert torch.equal(ends.start, ours.start) and torch.equal(ends.end, ours.end)


@every_process
def test_between_the_ends_a_path_changes_its_units_step_by_step(name):
    plain, kept, z, x = pair(name)
    ours, theirs = kept.encode(x, seed=3), plain.encode(z, seed=3)
    for i in range(STEPS + 1):
        w = i / STEPS
        assert close(ours[i], (1 - w) * MEAN + SCALE ** (1 - w) * theirs[i])
    assert close(ours.start, x) and close(ours.end, theirs.end)


@every_process
def test_decoding_takes_noise_and_returns_data(name):
    plain, kept, z, _ = pair(name)
    ours, theirs = kept.decode(z, seed=3), plain.decode(z, seed=3)
    assert close(ours.start, MEAN + SCALE * theirs.start)


@pytest.mark.parametrize("name", FLOWS)
def test_encoding_then_decoding_returns_to_the_data(name):
    _, kept, _, x = pair(name)
    tolerance = 1e-3 * SCALE if name == "CNF" else 1e-9  # a solver's 1e-5 a step; rounding
    assert torch.allclose(kept.decode(kept.encode(x).end).start, x, atol=tolerance)


def test_every_sampler_returns_data():
    plain, kept, z, x = pair("DDPM on log-SNR")
    for sample in (
        lambda m: ddim(m, 9, seed=2),
        lambda m: reverse_sde(m, 9, corrector_steps=1, seed=2),
        lambda m: sample_family(m, 9, substeps=2, seed=2),
        lambda m: ProbabilityFlow(m, solver=Solver("rk4", steps=8)).sample(9, seed=2),
        lambda m: m.respaced(3).sample(9, seed=2),
        lambda m: DDPM.of(m).sample(9, seed=2),
        lambda m: copy.deepcopy(m).sample(9, seed=2),
        lambda m: pickle.loads(pickle.dumps(m)).sample(9, seed=2),
    ):
        assert close(sample(kept).start, MEAN + SCALE * sample(plain).start)
    assert close(ddim_encode(kept, x).end, ddim_encode(plain, z).end)


def test_another_grid_keeps_the_units():
    _, kept, _, x = pair("DiffFlow on log-SNR")
    other = on_grid(kept, 3, x)
    assert other.standardised and torch.equal(other.data_mean, MEAN)
    start = other.sample(500, seed=0).start
    # The net is random: no more than that samples are about as far off as the data, not at zero.
    assert (start.median(0).values - MEAN).norm() < MEAN.norm() / 2


def test_the_ode_of_a_standardised_chain_knows_its_units():
    plain, kept, z, x = pair("DDPM on log-SNR")
    ours, theirs = (ProbabilityFlow(m, solver=Solver("rk4", steps=8)) for m in (kept, plain))
    assert ours.standardised and ours.shape == (2,)
    assert close(ours.log_prob(x), theirs.log_prob(z) - VOLUME)
    assert close(ours.encode(x).end, theirs.encode(z).end)


# What it is --------------------------------------------------------------------------------------


@every_process
def test_without_one_a_model_has_no_more_weights_than_before(name):
    model = make(name)
    assert not model.standardised
    assert not any("data_" in key for key in model.state_dict())


@every_process
def test_weights_bring_it_with_them(name):
    _, kept, _, x = pair(name)
    state = kept.state_dict()
    assert {"data_mean", "data_scale"} <= set(state)
    twin = make(name, dtype=torch.float64)
    twin.load_state_dict(state)
    assert twin.standardised
    assert torch.equal(twin.sample(5, seed=0).states, kept.sample(5, seed=0).states)
    assert twin.data_mean is not kept.data_mean


@every_process
def test_it_is_replaced_and_cleared(name):
    plain, kept, *_ = pair(name)
    kept.set_standardisation(0.0, 2.0)
    assert float(kept.data_mean) == 0 and float(kept.data_scale) == 2
    kept.clear_standardisation()
    assert not kept.standardised and kept.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(kept.sample(5, seed=0).states, plain.sample(5, seed=0).states)


def test_a_mean_of_a_shape_tells_own_fields_theirs():
    model = CNF(lambda x, t: -x, frames=2)
    model.set_standardisation(torch.zeros(3), 1.0)
    assert model.sample(4, seed=0).start.shape == (4, 3)
    with pytest.raises(ValueError, match=r"x must have the shape of the model's mean, \(B, 3\)"):
        model.encode(torch.zeros(5, 1))


@pytest.mark.parametrize(
    ("mean", "scale", "message"),
    [
        (math.nan, 1.0, "mean must be finite"),
        (0.0, 0.0, "scale must be positive"),
        (0.0, -1.0, "scale must be positive"),
        (0.0, math.inf, "scale must be positive"),
        (0.0, torch.ones(2), "scale must be one number"),
        (torch.zeros(3), 1.0, r"mean must be a number or have the shape of a particle, \(2,\)"),
    ],
)
def test_a_mean_or_a_scale_that_is_none_is_refused_by_name(mean, scale, message):
    model = DiffFlow.mlp(Schedule.log_snr(4), hidden=16)
    with pytest.raises(ValueError, match=message):
        model.set_standardisation(mean, scale)
    assert not model.standardised


def test_the_player_refuses_to_draw_the_fields_of_a_standardised_model():
    _, kept, *_ = pair("DDPM on log-SNR")
    with pytest.raises(ValueError, match="without a standardisation"):
        check_fields({"a": kept}, {"a": kept.sample(3, seed=0)})
