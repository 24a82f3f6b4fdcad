"""The continuous flow against closed forms, autograd, and zuko's FFJORD with the same field."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

import diffflow_edu
from diffflow_edu import CNF, fit, toy
from diffflow_edu.nets import MLP
from diffflow_edu.processes.ode import Solver, SolverError

MATRIX = torch.tensor([[-0.6, 1.1], [-0.4, 0.3]], dtype=torch.float64)
TIGHT = Solver(rtol=1e-8, atol=1e-8)


def normals(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def linear(x, t):
    return x @ MATRIX.T


def model(dim=2, double=True, **options):
    """A small flow whose field is not zero."""
    torch.manual_seed(0)
    net = MLP(dim, hidden=16, frequencies=2, horizon=20.0)  # smooth: few evaluations
    cnf = CNF(net.double() if double else net, **options)
    cnf.shape = (dim,)
    return cnf


def gradients(cnf, x):
    cnf.zero_grad()
    x = x.clone().requires_grad_()
    (cnf.log_prob(x, seed=0) * torch.arange(1.0, len(x) + 1)).sum().backward()
    return [x.grad, *(p.grad.clone() for p in cnf.parameters())]


# Likelihood -------------------------------------------------------------------------------------


def test_the_density_of_a_linear_flow_is_the_exact_gaussian():
    # x_T = e^{AT} x_0 is N(0, I), so x_0 is N(0, (e^{AT})^{-1} (e^{AT})^{-T}).
    cnf = CNF(linear, T=1.3)
    back = torch.matrix_exp(-1.3 * MATRIX)
    truth = MultivariateNormal(torch.zeros(2, dtype=torch.float64), back @ back.T)
    x = 1.5 * normals(200, 2)
    # What issue and solver promise: 1e-4 at the default tolerance of 1e-5 a step.
    assert torch.allclose(cnf.log_prob(x), truth.log_prob(x), atol=1e-4)
    assert torch.allclose(cnf.bound(x), -truth.log_prob(x), atol=1e-4)


def test_the_density_integrates_to_one():
    cnf = model(solver=Solver(rtol=1e-6, atol=1e-6))
    axis = torch.linspace(-7, 7, 71, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        total = cnf.log_prob(points).exp().sum() * (axis[1] - axis[0]) ** 2
    assert total == pytest.approx(1, abs=1e-3)  # the grid's own error on a smooth density


def test_log_prob_is_that_of_zukos_free_form_jacobian_with_the_same_field():
    zuko = pytest.importorskip("zuko")
    cnf = model(dim=3, solver=TIGHT)
    theirs = zuko.transforms.FreeFormJacobianTransform(
        f=lambda t, x: cnf.drift(x, t), t0=0.0, t1=1.0, atol=1e-8, rtol=1e-8, exact=True
    )
    x = normals(20, 3)
    with torch.no_grad():
        end, log_det = theirs.call_and_ladj(x)
    expected = -0.5 * (end.square().sum(1) + 3 * math.log(2 * math.pi)) + log_det
    assert torch.allclose(cnf.log_prob(x), expected, atol=1e-6)  # both solvers' tolerance, summed
    assert torch.allclose(cnf.encode(x).end, end, atol=1e-6)


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_hutchinsons_log_prob_is_unbiased(probe):
    # Where the field is linear the trace does not depend on the way, so its mean is exact.
    cnf = CNF(linear, trace="hutchinson", probe=probe)
    exact = CNF(linear).log_prob(normals(1, 2))
    estimates = cnf.log_prob(normals(1, 2).expand(4000, 2), seed=0)
    assert estimates.std() > 0.1
    error = estimates.std() / math.sqrt(4000)
    assert abs(estimates.mean() - exact) < 5 * error  # five standard errors


def test_more_probes_mean_less_noise():
    x = normals(1, 2).expand(2000, 2)
    one = CNF(linear, trace="hutchinson").log_prob(x, seed=0).var()
    nine = CNF(linear, trace="hutchinson", probes=9).log_prob(x, seed=0).var()
    assert nine / one == pytest.approx(1 / 9, rel=0.2)  # a variance of 2000 numbers, twice


def test_a_seed_decides_the_probes_and_leaves_the_global_generator_alone():
    cnf, x = model(trace="hutchinson"), normals(5, 2)
    state = torch.get_rng_state()
    assert torch.equal(cnf.log_prob(x, seed=3), cnf.log_prob(x, seed=3))
    assert not torch.equal(cnf.log_prob(x, seed=3), cnf.log_prob(x, seed=4))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_trace_is_exact_by_default_up_to_sixteen_dimensions():
    def pull(x, t):
        return -x * torch.arange(1, x.shape[1] + 1).to(x) / 10 + x.roll(1, 1)

    for dim, exact in ((16, True), (17, False)):
        x = normals(3, dim)
        same = torch.equal(CNF(pull).log_prob(x, seed=0), CNF(pull).log_prob(x, seed=1))
        assert same == exact
    x = normals(3, 17)
    assert torch.equal(CNF(pull, trace="exact").log_prob(x), CNF(pull, trace="exact").log_prob(x))


# Gradients --------------------------------------------------------------------------------------


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_the_adjoint_gradient_is_the_direct_one_to_the_solvers_tolerance(trace):
    direct = model(solver=TIGHT, trace=trace, gradient="direct")
    adjoint = model(solver=TIGHT, trace=trace)
    x = normals(6, 2)
    for a, b in zip(gradients(direct, x), gradients(adjoint, x), strict=True):
        assert b.abs().max() > 0
        assert torch.allclose(a, b, atol=1e-5 * float(a.abs().max()))  # 1e-8 a step, many steps


def test_the_direct_gradient_is_the_finite_difference():
    cnf = model(solver=Solver("rk4", steps=6))
    x, weight = normals(4, 2), cnf.drift.last.weight
    cnf.log_prob(x).sum().backward()
    step = 1e-5
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            weight[0, 0] += sign * step
            values.append(cnf.log_prob(x).sum())
            weight[0, 0] -= sign * step
    difference = (values[0] - values[1]) / (2 * step)
    assert weight.grad[0, 0].item() == pytest.approx(difference.item(), rel=1e-6)  # O(step²)


def test_the_adjoint_finds_what_a_plain_function_learns():
    rate = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))
    cnf = CNF(lambda x, t: -rate * x, solver=TIGHT)
    x = normals(5, 2)
    cnf.log_prob(x).sum().backward()
    # log p = log N(x e^{−r}; 0, I) − 2 r, hence d/dr = ‖x‖² e^{−2r} − 2.
    expected = (x.square().sum(1) * math.exp(-0.8) - 2).sum()
    assert rate.grad.item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_regularisers_join_the_loss_with_their_weights():
    x, rate, T = normals(50, 2), 0.7, 1.2
    plain = CNF(lambda x, t: rate * x, T=T, solver=TIGHT)
    both = CNF(lambda x, t: rate * x, T=T, solver=TIGHT, kinetic=0.3, jacobian=0.2)
    # ∫‖f‖² dt = r² ‖x‖² (e^{2rT} − 1)/(2r) and ∫‖∂f/∂x‖²_F dt = d r² T.
    kinetic = rate**2 * x.square().sum(1).mean() * (math.exp(2 * rate * T) - 1) / (2 * rate)
    expected = plain.loss(x) + 0.3 * kinetic + 0.2 * 2 * rate**2 * T
    assert both.loss(x).item() == pytest.approx(expected.item(), abs=1e-6)
    assert torch.equal(both.bound(x), plain.bound(x))


def test_training_takes_cheap_fixed_steps_and_evaluation_the_solver():
    cnf, x = model(train_steps=4), normals(4, 2)
    cnf.train().loss(x)
    assert cnf.evaluations == 16
    cnf.eval().loss(x)
    assert cnf.evaluations != 16
    assert cnf.loss(x).item() == pytest.approx(cnf.bound(x).mean().item(), abs=1e-12)


def test_a_short_fit_of_the_rings_beats_the_gaussian_it_starts_from():
    density = toy.load("four_rings", width=0.1)
    torch.manual_seed(0)
    cnf = CNF.mlp(hidden=32, train_steps=3)
    x = density.sample(1000, seed=1)
    with torch.no_grad():
        before = cnf.eval().bound(x).mean()
    fit(cnf, density, steps=40, batch_size=64, seed=0, lr=1e-2)
    with torch.no_grad():
        assert cnf.bound(x).mean() < before - 0.2


# Particles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtypes_are_kept_throughout(dtype):
    cnf, x = model().to(dtype), normals(5, 2, dtype=dtype)
    assert cnf.log_prob(x).shape == (5,) and cnf.loss(x).shape == ()
    for value in (cnf.log_prob(x), cnf.bound(x), cnf.loss(x)):
        assert value.dtype == dtype and value.isfinite().all()
    for path in (cnf.encode(x), cnf.sample(5)):
        assert path.states.shape == (31, 5, 2) and path.times.dtype == path.states.dtype == dtype
        assert not path.states.requires_grad and (path.times.diff() > 0).all()
        assert path.times[0] == 0 and path.times[-1] == 1


def test_encoding_then_decoding_returns_to_the_data():
    cnf, x = model(solver=TIGHT), normals(50, 2)
    there = cnf.encode(x)
    back = cnf.decode(there.end)
    assert torch.equal(there.start, x) and torch.equal(back.end, there.end)
    assert torch.allclose(back.start, x, atol=1e-6)  # 1e-8 a step, some dozens of steps each way
    assert torch.allclose(back.states, there.states, atol=1e-6)


def test_sampling_then_encoding_returns_to_the_noise():
    cnf = model(solver=TIGHT)
    path = cnf.sample(50, seed=0)
    assert torch.allclose(cnf.encode(path.start).end, path.end, atol=1e-6)


def test_samples_of_a_linear_flow_have_the_exact_covariance():
    path = CNF(lambda x, t: x @ MATRIX.T.to(x), T=1.3).sample(20_000, seed=0)
    back = torch.matrix_exp(-1.3 * MATRIX)
    covariance = path.start.double().T.cov()
    # Five standard errors: each entry of a sample covariance errs by about √2 var/√n.
    assert torch.allclose(covariance, back @ back.T, atol=5 * 2**0.5 * 5 / 141)
    assert path.end.std() == pytest.approx(1, abs=0.02)


def test_a_seed_decides_the_samples_and_leaves_the_global_generator_alone():
    cnf = model()
    state = torch.get_rng_state()
    assert torch.equal(cnf.sample(5, seed=3).states, cnf.sample(5, seed=3).states)
    assert not torch.equal(cnf.sample(5, seed=3).end, cnf.sample(5, seed=4).end)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(0)
    first = cnf.sample(5).states
    torch.manual_seed(0)
    assert torch.equal(cnf.sample(5).states, first)


def test_the_frames_are_where_they_were_asked_for():
    cnf, x, times = model(solver=TIGHT), normals(5, 2), [0.0, 0.1, 0.85, 1.0]
    path, back = cnf.encode(x, times=times), cnf.sample(5, seed=0, times=times)
    assert path.times.tolist() == pytest.approx(times) and len(back) == 4
    dense = cnf.encode(x, times=torch.linspace(0, 1, 21))
    assert torch.allclose(path[2], dense[17], atol=1e-6)
    assert len(CNF(linear, frames=7).encode(x)) == 8


def test_particles_of_any_shape_flow():
    def pull(x, t):
        return -x * (1 + t)

    cnf = CNF(pull, trace="exact")
    x = normals(3, 2, 4, 4)
    assert torch.allclose(cnf.encode(x).end, x * math.exp(-1.5), atol=1e-4)
    assert cnf.sample(3, shape=(2, 4, 4)).start.shape == (3, 2, 4, 4)
    end = x * math.exp(-1.5)
    truth = -0.5 * end.square().flatten(1).sum(1) - 16 * math.log(2 * math.pi) - 32 * 1.5
    assert torch.allclose(cnf.log_prob(x), truth, atol=1e-3)  # 32 traces of a tolerance of 1e-5


def test_the_evaluations_of_the_latest_pass_are_counted_and_shown():
    calls = []

    def counted(x, t):
        calls.append(1)
        return linear(x, t)

    cnf, x = CNF(counted), normals(4, 2)
    assert cnf.evaluations == 0
    for run in (lambda: cnf.log_prob(x), lambda: cnf.encode(x), lambda: cnf.decode(x)):
        calls.clear()
        with torch.no_grad():  # with gradients, one more call finds what the function learns
            run()
        assert cnf.evaluations == len(calls) > 0
        assert f"evaluations={len(calls)}" in repr(cnf)


def test_a_flow_can_be_copied_and_pickled():
    cnf, x = model(), normals(4, 2)
    for twin in (copy.deepcopy(cnf), pickle.loads(pickle.dumps(cnf))):
        assert torch.equal(twin.log_prob(x), cnf.log_prob(x))


def test_the_courses_flow_starts_at_the_identity_and_is_exported():
    cnf, x = diffflow_edu.CNF.mlp(), normals(4, 2, dtype=torch.float32)
    assert torch.allclose(cnf.encode(x).end, x, atol=1e-6)  # float32
    assert 85_000 < sum(p.numel() for p in cnf.parameters()) < 100_000


# Bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drift": 3}, r"drift must be callable as drift\(x, t\), got 3"),
        ({"T": 0}, "T must be positive and finite, got 0"),
        ({"T": "1"}, "T must be positive and finite, got '1'"),
        ({"trace": "diagonal"}, "trace must be 'exact' or 'hutchinson', got 'diagonal'"),
        ({"probe": "uniform"}, "probe must be 'rademacher' or 'gaussian', got 'uniform'"),
        ({"probes": 0}, "probes must be a whole number, 1 or more, got 0"),
        ({"solver": "rk4"}, "solver must be a Solver, got 'rk4'"),
        ({"train_steps": 0}, "train_steps must be a whole number, 1 or more, got 0"),
        ({"gradient": "autograd"}, "gradient must be 'direct' or 'adjoint', got 'autograd'"),
        ({"kinetic": -1}, "kinetic must be a finite number, 0 or more, got -1"),
        ({"jacobian": math.inf}, "jacobian must be a finite number, 0 or more, got inf"),
        ({"frames": 0}, "frames must be a whole number, 1 or more, got 0"),
    ],
)
def test_a_flow_says_what_it_cannot_be_built_from(options, message):
    with pytest.raises(ValueError, match=message):
        CNF(**{"drift": linear, **options})


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda m: m.log_prob([1.0]), "x must be a torch.Tensor of shape"),
        (lambda m: m.log_prob(torch.ones(2, 2)), "x must be torch.float64"),
        (lambda m: m.encode(torch.ones(2).double()), "x must have shape"),
        (lambda m: m.log_prob(normals(2, 3)), "x must have 2 numbers a particle"),
        (lambda m: m.sample(0), "n must be a whole number, 1 or more, got 0"),
        (lambda m: m.sample(2, shape=2.0), "shape must be a tuple of whole numbers"),
        (lambda m: m.sample(2, seed=-1), "seed must be a whole number"),
        (lambda m: m.encode(normals(2, 2), times=[0.0, 0.5]), "times must rise strictly from 0"),
        (lambda m: m.sample(2, times=[1.0, 0.0]), "times must rise strictly from 0"),
        (lambda m: m.sample(2, times=3.0), "times must rise strictly from 0"),
    ],
)
def test_a_flow_says_what_it_cannot_use(run, message):
    with pytest.raises(ValueError, match=message):
        run(model())


def test_a_drift_of_the_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"drift must return a tensor like x, \(4, 2\), got"):
        CNF(lambda x, t: x[:, :1]).log_prob(normals(4, 2))


def test_a_solver_that_cannot_reach_its_tolerance_says_so():
    solver = Solver(rtol=1e-12, atol=1e-12, max_evaluations=50)
    with pytest.raises(SolverError, match=r"rtol=1e-12, atol=1e-12\): at t = .* step of"):
        model(solver=solver).log_prob(normals(4, 2))
