"""What every process promises, asked of each of them: the contract of `Process` and `Trajectory`.

A process is in the list below or it is not in the course. References: the process itself, run
again; N(0, I); and for flows, their own inverse.
"""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch

from diffflow_edu import CNF, DDPM, CouplingFlow, DiffFlow, Schedule, Trajectory
from diffflow_edu.processes import NCSN
from diffflow_edu.processes.base import Process

STEPS = 6
MAKERS = {
    "DiffFlow on log-SNR": lambda dim: DiffFlow.mlp(Schedule.log_snr(STEPS), dim, hidden=16),
    "DiffFlow, geometric": lambda dim: DiffFlow.mlp(Schedule.geometric(STEPS), dim, hidden=16),
    "DiffFlow, the paper's grid": lambda dim: DiffFlow.mlp(
        Schedule.polynomial(STEPS), dim, hidden=16
    ),
    "DDPM on log-SNR": lambda dim: DDPM.mlp(Schedule.log_snr(STEPS), dim, hidden=16),
    "DDPM, linear": lambda dim: DDPM.mlp(Schedule.linear_beta(STEPS), dim, hidden=16),
    "CouplingFlow": lambda dim: CouplingFlow(dim, layers=STEPS, hidden=16, uneven=True),
    "CNF": lambda dim: CNF.mlp(dim, hidden=16, frames=STEPS),
    "NCSN": lambda dim: NCSN.mlp(levels=STEPS, dim=dim, hidden=16, langevin_steps=3),
}
FLOWS = ("CouplingFlow", "CNF")
WITH_BOUND = tuple(name for name in MAKERS if name != "NCSN")
STOCHASTIC = tuple(name for name in MAKERS if name not in FLOWS)
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


def make(name: str, dim: int = 2, dtype: torch.dtype = torch.float32) -> Process:
    """In eval mode, its zero-initialised layers moved, as after some training."""
    torch.manual_seed(0)
    model = MAKERS[name](dim)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.05)
    return model.eval().to(dtype)


def points(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


every_process = pytest.mark.parametrize("name", MAKERS)
every_flow = pytest.mark.parametrize("name", FLOWS)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


# What comes out ----------------------------------------------------------------------------------


@every_process
@both_dtypes
@pytest.mark.parametrize("device", DEVICES)
def test_trajectories_have_a_state_a_step_and_keep_shape_dtype_and_device(name, dtype, device):
    model, x = make(name, dtype=dtype).to(device), points(5, 2, dtype=dtype).to(device)
    for path in (model.encode(x, seed=0), model.sample(5, seed=0)):
        assert isinstance(path, Trajectory) and len(path) == STEPS + 1
        assert path.states.shape == (STEPS + 1, 5, 2)
        assert path.times.dtype == path.states.dtype == dtype
        assert path.times.device.type == path.states.device.type == device
        assert path.states.isfinite().all() and not path.states.requires_grad


@every_process
def test_times_rise_from_zero_and_states_run_from_data_to_noise(name):
    model, x = make(name), points(5, 2)
    there, back = model.encode(x, seed=0), model.sample(5, seed=0)
    for path in (there, back):
        assert path.times[0] == 0 and (path.times.diff() > 0).all()
        assert torch.equal(path.start, path[0]) and torch.equal(path.end, path[-1])
    assert torch.equal(there.times, back.times)
    assert torch.equal(there.start, x)


@pytest.mark.parametrize("name", WITH_BOUND)  # NCSN shows what its widest level made of noise
def test_samples_begin_as_standard_gaussian_noise(name):
    noise = make(name).sample(4000, seed=1).end
    # Five standard errors of 8000 numbers.
    assert abs(noise.mean()) < 0.06 and abs(noise.std() - 1) < 0.04


@every_process
@pytest.mark.parametrize("dim", [1, 3])
def test_particles_of_other_dimensions_pass(name, dim):
    if name == "CouplingFlow" and dim == 1:
        pytest.skip("one coordinate has no other half")
    model = make(name, dim)
    assert model.shape == (dim,)
    assert model.sample(4, seed=0).start.shape == (4, dim)
    assert model.encode(points(4, dim), seed=0).end.shape == (4, dim)
    assert model.loss(points(4, dim)).isfinite()


# What decides it ---------------------------------------------------------------------------------


@every_process
def test_a_seed_decides_every_draw_and_leaves_the_global_generator_alone(name):
    model, x = make(name), points(5, 2)
    state = torch.get_rng_state()
    assert torch.equal(model.sample(5, seed=3).states, model.sample(5, seed=3).states)
    assert torch.equal(model.encode(x, seed=3).states, model.encode(x, seed=3).states)
    assert not torch.equal(model.sample(5, seed=3).start, model.sample(5, seed=4).start)
    if name in STOCHASTIC:
        assert not torch.equal(model.encode(x, seed=3).end, model.encode(x, seed=4).end)
    assert torch.equal(torch.get_rng_state(), state)


@every_process
def test_without_a_seed_the_global_generator_decides(name):
    model, x = make(name), points(5, 2)

    def draws(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return [model.sample(5).states, model.encode(x).states, model.loss(x)]

    assert all(map(torch.equal, draws(0), draws(0)))
    assert not torch.equal(draws(0)[0], draws(1)[0])


@every_flow
def test_a_flow_draws_nothing_on_its_way(name):
    model, x = make(name), points(5, 2)
    assert torch.equal(model.encode(x, seed=3).states, model.encode(x, seed=4).states)


@every_process
def test_a_copy_and_a_pickle_behave_the_same(name):
    model = make(name)
    expected = model.sample(5, seed=0).states
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.sample(5, seed=0).states, expected)


# Flows go back the way they came -----------------------------------------------------------------


@every_flow
@both_dtypes
def test_encoding_the_samples_of_a_flow_returns_to_their_noise(name, dtype):
    model = make(name, dtype=dtype)
    drawn = model.sample(200, seed=0)
    returned = model.encode(drawn.start)
    # A coupling layer inverts up to rounding; the ODE up to its solver's 1e-5 a step.
    rounding = {torch.float32: 1e-4, torch.float64: 1e-10}[dtype]
    tolerance = 1e-3 if name == "CNF" else rounding
    assert torch.allclose(returned.end, drawn.end, atol=tolerance)
    assert torch.allclose(returned.states, drawn.states, atol=tolerance)


@every_flow
def test_the_bound_of_a_flow_is_its_negative_log_likelihood(name):
    model, x = make(name), points(50, 2)
    assert model.bound_is_exact
    # Float32, and twice the same arithmetic.
    assert torch.allclose(model.bound(x), -model.log_prob(x), atol=1e-5)


# What is trained ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_BOUND)
@both_dtypes
def test_a_bound_is_a_finite_number_a_particle(name, dtype):
    bound = make(name, dtype=dtype).bound(points(5, 2, dtype=dtype))
    assert bound.shape == (5,) and bound.dtype == dtype and bound.isfinite().all()


@pytest.mark.parametrize("name", [n for n in MAKERS if n not in WITH_BOUND])
def test_a_process_without_a_bound_says_so(name):
    with pytest.raises(NotImplementedError, match="no bound"):
        make(name).bound(points(5, 2))


@pytest.mark.parametrize("name", WITH_BOUND)
def test_the_loss_is_the_mean_of_the_bound(name):
    model, x = make(name), points(2000, 2)
    with torch.no_grad():
        torch.manual_seed(0)
        bounds = torch.stack([model.bound(x) for _ in range(1 if name in FLOWS else 8)])
        losses = torch.stack([model.loss(x) for _ in range(len(bounds))])
    # Both are averages over fresh noise of the same data: four standard errors, and rounding.
    error = bounds.std(0).square().mean() / bounds.numel() if len(bounds) > 1 else torch.zeros(())
    spread = losses.std() / math.sqrt(len(losses)) if len(losses) > 1 else torch.zeros(())
    tolerance = 4 * float((error + spread.square()).sqrt()) + 1e-3
    assert float(losses.mean()) == pytest.approx(float(bounds.mean()), abs=tolerance)


@every_process
@both_dtypes
def test_a_loss_is_a_number_whose_gradient_reaches_every_weight(name, dtype):
    model, x = make(name, dtype=dtype).train(), points(60, 2, dtype=dtype)
    torch.manual_seed(0)
    loss = model.loss(x)
    assert loss.shape == () and loss.dtype == dtype
    loss.backward()
    learned = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert learned
    for parameter, value in learned.items():
        assert value.grad is not None and value.grad.isfinite().all(), parameter
        assert value.grad.any(), parameter


@every_process
def test_calling_a_process_is_its_loss(name):
    model, x = make(name), points(60, 2)
    torch.manual_seed(0)
    loss = model.loss(x)
    torch.manual_seed(0)
    assert torch.equal(model(x), loss)


# Bad input ---------------------------------------------------------------------------------------


@every_process
def test_data_that_is_no_set_of_float_particles_is_refused_by_name(name):
    model = make(name)
    bad = [torch.zeros(5, 2, dtype=torch.int64), torch.zeros(0, 2), [[0.0, 1.0]]]
    for call in (model.loss, model.encode):
        for x in bad:
            with pytest.raises(ValueError, match="x must"):
                call(x)
        with pytest.raises(ValueError, match=r"x must be .*float32.*got torch.float64"):
            call(points(5, 2, dtype=torch.float64))


@every_process
@pytest.mark.parametrize("n", [0, -1, 2.0, True])
def test_a_number_of_samples_that_is_none_is_refused_by_name(name, n):
    with pytest.raises(ValueError, match="n must be a whole number"):
        make(name).sample(n)


@every_process
def test_a_seed_that_is_none_is_refused_by_name(name):
    with pytest.raises(ValueError, match="seed must be a whole number"):
        make(name).sample(5, seed=-1)
