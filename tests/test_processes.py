"""DiffFlow and DDPM against the paper's equations, closed forms and each other."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from diffflow_edu import DDPM, DiffFlow, Schedule, Trajectory
from diffflow_edu.processes.base import Process

SCHEDULES = {
    "log_snr": Schedule.log_snr(steps=6),
    "linear_beta": Schedule.linear_beta(steps=6),
    "geometric": Schedule.geometric(steps=6),
    "polynomial": Schedule.polynomial(steps=6),
    "flexible": Schedule.polynomial(steps=6, flexible=True),
    "euler": Schedule.euler(torch.linspace(0, 1, 7), torch.linspace(0.5, 1.5, 7)),
}
MODELS = {"DiffFlow": DiffFlow.mlp, "DDPM": DDPM.mlp}


@pytest.fixture(params=[f"{m}-{s}" for m in MODELS for s in SCHEDULES])
def process(request):
    kind, schedule = request.param.split("-")
    torch.manual_seed(0)
    model = MODELS[kind](SCHEDULES[schedule], hidden=16)
    return perturbed(model)


def perturbed(model):
    """With a drift that is not zero, as after training."""
    if isinstance(model.drift, nn.Module):
        nn.init.normal_(model.drift.last.weight, std=0.1)
    return model


def normals(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Every process ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtypes_are_kept_throughout(process, dtype):
    process.to(dtype)
    x = normals(5, 2, dtype=dtype)
    assert process.bound(x).shape == (5,) and process.loss(x).shape == ()
    assert process.bound(x, gradient="autograd").shape == (5,)
    for path in (process.encode(x), process.sample(5)):
        assert path.states.shape == (7, 5, 2) and len(path) == 7
        assert path.times.dtype == path.states.dtype == dtype
        assert path.states.isfinite().all() and not path.states.requires_grad
    for value in (process.bound(x), process.loss(x), process.bound(x, gradient="autograd")):
        assert value.dtype == dtype and value.isfinite().all()


def test_a_trajectory_starts_at_the_data_whichever_way_the_process_ran(process):
    x = normals(5, 2, dtype=torch.float32)
    path = process.encode(x)
    assert torch.equal(path.start, x) and torch.equal(path[0], x)
    back = process.sample(4000, seed=1)
    for trajectory in (path, back):
        assert trajectory.times[0] == 0 and (trajectory.times.diff() > 0).all()
        assert torch.equal(trajectory[-1], trajectory.end)
    # The noise side is N(0, I): five standard errors of 8000 numbers.
    assert abs(back.end.mean()) < 0.06 and abs(back.end.std() - 1) < 0.04


def test_a_seed_decides_every_draw_and_leaves_the_global_generator_alone(process):
    x = normals(5, 2, dtype=torch.float32)
    state = torch.get_rng_state()
    for run in (lambda seed: process.encode(x, seed=seed), lambda seed: process.sample(5, seed)):
        assert torch.equal(run(3).states, run(3).states)
        assert not torch.equal(run(3).states[3], run(4).states[3])
    assert torch.equal(torch.get_rng_state(), state)


def test_without_a_seed_the_global_generator_decides(process):
    process.eval()
    torch.manual_seed(0)
    first = process.sample(5).states, process.bound(normals(5, 2, dtype=torch.float32))
    torch.manual_seed(0)
    again = process.sample(5).states, process.bound(normals(5, 2, dtype=torch.float32))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


def test_only_the_last_step_differs_when_its_noise_is_asked_for(process):
    mean, noisy = process.sample(2000, seed=0), process.sample(2000, seed=0, last_noise=True)
    assert torch.equal(mean.states[1:], noisy.states[1:])
    added = (noisy.start - mean.start) / process.backward_std()[0]
    assert added.std() == pytest.approx(1, abs=0.06)  # five standard errors of 4000 numbers


def test_the_probability_flow_adds_no_noise(process):
    a = process.sample(5, seed=0, lam=0.0)
    x = a.end
    for i in reversed(range(6)):
        x = process.backward_mean(x, i, lam=0.0)
    assert torch.equal(a.start, x.detach())


def test_lambda_scales_the_noise_of_every_step(process):
    x = process.sample(4000, seed=0, lam=0.5)
    with torch.no_grad():
        noise = x[3] - process.backward_mean(x[4], 3, lam=0.5)
    expected = 0.5 * process.backward_std()[3].item()
    assert noise.std() == pytest.approx(expected, rel=0.06)


def test_a_process_can_be_copied_and_pickled(process):
    x, noise = normals(5, 2, dtype=torch.float32), normals(6, 5, 2, dtype=torch.float32)
    process.eval()
    expected = process.bound(x, noise)
    for twin in (copy.deepcopy(process), pickle.loads(pickle.dumps(process))):
        assert torch.equal(twin.bound(x, noise), expected)


def test_calling_a_process_is_its_loss(process):
    x = normals(5, 2, dtype=torch.float32)
    process.eval()
    torch.manual_seed(0)
    loss = process.loss(x)
    torch.manual_seed(0)
    assert torch.equal(process(x), loss)


@pytest.mark.parametrize("kind", MODELS)
def test_a_flexible_grid_is_fresh_in_training_and_fixed_in_evaluation(kind):
    torch.manual_seed(0)
    model = perturbed(MODELS[kind](SCHEDULES["flexible"], hidden=16))
    x, noise = normals(5, 2, dtype=torch.float32), normals(6, 5, 2, dtype=torch.float32)
    for gradient in ("adjoint", "autograd"):
        model.train()
        assert not torch.equal(model.bound(x, noise, gradient), model.bound(x, noise, gradient))
        model.eval()
        assert torch.equal(model.bound(x, noise, gradient), model.bound(x, noise, gradient))


def test_images_and_vectors_of_any_dimension_pass():
    model = DiffFlow(lambda x, t: x.cos(), lambda x, t: -x, Schedule.log_snr(steps=3))
    x = normals(4, 3, 5, 5, dtype=torch.float32)
    flat = model.bound(x.flatten(1), noise=normals(3, 4, 75).float())
    assert torch.allclose(model.bound(x, noise=normals(3, 4, 3, 5, 5).float()), flat, rtol=1e-5)
    assert model.sample(4, shape=(3, 5, 5)).states.shape == (4, 4, 3, 5, 5)


def test_foreign_callables_get_a_time_without_dimensions_and_of_the_dtype_of_x():
    seen = []

    def field(x, t):
        seen.append((t.ndim, t.dtype))
        return torch.zeros_like(x)

    model = DiffFlow(field, field, Schedule.log_snr(steps=2)).double()
    model.bound(normals(3, 2))
    model.encode(normals(3, 2))
    model.sample(3)
    assert set(seen) == {(0, torch.float64)}


def test_modules_are_held_not_copied():
    net = nn.Linear(2, 2)
    model = DiffFlow(lambda x, t: 0 * x, Field(net), Schedule.log_snr(steps=2))
    assert any(p is net.weight for p in model.parameters())


class Field(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t):
        return self.net(x)


def test_a_bare_process_says_what_it_lacks():
    for call in ("bound", "encode"):
        with pytest.raises(NotImplementedError):
            getattr(Process(), call)(torch.zeros(1, 2))
    with pytest.raises(NotImplementedError):
        Process().sample(1)


def test_a_trajectory_becomes_numpy_arrays():
    times, states = Trajectory(torch.tensor([0.0, 1.0]), torch.zeros(2, 5, 2)).to_numpy()
    assert times.shape == (2,) and states.shape == (2, 5, 2)


# The paper's equations --------------------------------------------------------------------------


def paper_model():
    """An uneven grid, a growing g and two nonlinear fields, float64."""
    times = torch.tensor([0.0, 0.1, 0.25, 0.6, 1.0], dtype=torch.float64)
    g = torch.tensor([0.5, 0.6, 0.9, 1.2, 1.5], dtype=torch.float64)

    def drift(x, t):
        return (x + t).tanh()

    def score(x, t):
        return -x / (1 + t) + (2 * x).sin()

    model = DiffFlow(drift, score, Schedule.euler(times, g)).double()
    return model, times, g, drift, score


def test_a_forward_step_is_equation_11():
    model, times, g, drift, _ = paper_model()
    x, noise = normals(5, 2), normals(5, 2, seed=1)
    for i in range(4):
        dt = times[i + 1] - times[i]
        expected = x + drift(x, times[i]) * dt + g[i] * dt.sqrt() * noise
        torch.testing.assert_close(model.forward_step(x, i, noise), expected, rtol=1e-12, atol=0)


def test_a_backward_step_is_equation_12_and_its_noise_equation_15():
    model, times, g, drift, score = paper_model()
    x, x_next = normals(5, 2), normals(5, 2, seed=1)
    for i in range(4):
        dt, t = times[i + 1] - times[i], times[i + 1]
        mean = x_next - (drift(x_next, t) - g[i + 1] ** 2 * score(x_next, t)) * dt
        torch.testing.assert_close(model.backward_mean(x_next, i), mean, rtol=1e-12, atol=1e-12)
        noise = (x - mean) / (g[i + 1] * dt.sqrt())
        found = model.backward_noise(x, x_next, i)
        torch.testing.assert_close(found, noise, rtol=1e-11, atol=1e-11)
        back = model.backward_mean(x_next, i) + model.backward_std()[i] * found
        torch.testing.assert_close(back, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0, 2.0])
def test_a_step_of_the_lambda_family_is_equation_17(lam):
    model, times, g, drift, score = paper_model()
    x = normals(5, 2)
    for i in range(4):
        dt, t = times[i + 1] - times[i], times[i + 1]
        pull = (1 + lam**2) / 2 * g[i + 1] ** 2
        mean = x - (drift(x, t) - pull * score(x, t)) * dt
        torch.testing.assert_close(model.backward_mean(x, i, lam=lam), mean, rtol=0, atol=1e-12)


def test_the_backward_noise_is_the_forward_noise_turned_round_plus_what_the_fields_disagree():
    """δB = −(g_i/g_{i+1}) δF + [(f_{i+1} − f_i)/g_{i+1} − g_{i+1} s_{i+1}] √Δt, an identity."""
    model, times, g, drift, score = paper_model()
    x, noise = normals(5, 2), normals(5, 2, seed=1)
    for i in range(4):
        root = (times[i + 1] - times[i]).sqrt()
        x_next = model.forward_step(x, i, noise)
        change = drift(x_next, times[i + 1]) - drift(x, times[i])
        expected = change / g[i + 1] - g[i + 1] * score(x_next, times[i + 1])
        expected = -g[i] / g[i + 1] * noise + expected * root
        found = model.backward_noise(x, x_next, i)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gradient", ["adjoint", "autograd"])
def test_the_bound_is_equation_16_with_n_terms_and_every_constant(gradient):
    model, times, g, drift, score = paper_model()
    x, noise = normals(5, 2), normals(4, 5, 2, seed=1)
    expected, state = torch.zeros(5, dtype=torch.float64), x
    for i in range(4):
        dt, t = times[i + 1] - times[i], times[i + 1]
        after = state + drift(state, times[i]) * dt + g[i] * dt.sqrt() * noise[i]
        back = state - after + (drift(after, t) - g[i + 1] ** 2 * score(after, t)) * dt
        back = back / (g[i + 1] * dt.sqrt())
        expected += 0.5 * (back**2 - noise[i] ** 2).sum(1)
        state = after
    latent = torch.distributions.Normal(0.0, 1.0).log_prob(state).sum(1)
    expected += -latent + 2 * math.log(1.5 / 0.5)
    found = model.bound(x, noise, gradient)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_constant_of_the_paper_telescopes_to_d_log_g_ratio():
    model, *_ = paper_model()
    for shape in ((2,), (3, 4, 4)):
        d = math.prod(shape)
        found = model.constant(model.schedule, torch.zeros(1, *shape, dtype=torch.float64))
        assert found.item() == pytest.approx(d * math.log(3), rel=1e-12)


# A case with known truth: Gaussian data, linear drift, exact score -------------------------------

VARIANCE = 0.3
TRUTH = math.log(2 * math.pi * VARIANCE) + 1  # entropy of N(0, 0.3 I) in two dimensions


def gaussian_data(n, seed):
    return math.sqrt(VARIANCE) * normals(n, 2, seed=seed)


def linear_sde(steps, rate=0.365199):
    """dx = −rate x dt + (½ + t) dw: at t = 1 the variance is 1 to four digits."""

    def integral(t):  # v' = (½ + t)² − 2 rate v, solved
        c, g = 2 * rate, 0.5 + t
        return g**2 / c - 2 * g / c**2 + 2 / c**3

    def score(x, t):
        return -x / (integral(t) + (VARIANCE - integral(0)) * (-2 * rate * t).exp())

    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return DiffFlow(lambda x, t: -rate * x, score, Schedule.euler(times, 0.5 + times)).double()


def log_snr_chain(steps):
    schedule = Schedule.log_snr(steps=steps)
    alpha, sigma = schedule.noise_process.alpha, schedule.noise_process.sigma

    def score(x, t):
        return -x / (alpha(t) ** 2 * VARIANCE + sigma(t) ** 2)

    return DDPM(score, schedule, prediction="score").double()


def mean_bound(model, n):
    """Mean bound and its standard error; the known −log p of each x is a control variate."""
    x = gaussian_data(n, seed=1)
    torch.manual_seed(1)
    with torch.no_grad():
        nll = x.square().sum(1) / (2 * VARIANCE) + math.log(2 * math.pi * VARIANCE)
        gap = model.bound(x) - nll
    return TRUTH + gap.mean().item(), gap.std().item() / math.sqrt(n)


def test_the_bound_falls_onto_the_true_nll_from_above_as_steps_shorten():
    assert pytest.approx(1.634, abs=5e-4) == TRUTH
    found = {steps: mean_bound(linear_sde(steps), n=6000) for steps in (10, 100, 1000)}
    assert all(bound > TRUTH + 2 * error for bound, error in found.values()), found
    assert found[10][0] > found[100][0] > found[1000][0]
    assert found[1000][0] == pytest.approx(TRUTH, abs=0.02)
    # Measured with 4000 particles; five standard errors.
    assert found[10][0] == pytest.approx(2.155, abs=0.08)
    assert found[100][0] == pytest.approx(1.700, abs=0.03)


@pytest.mark.parametrize(("steps", "before"), [(10, 1.809), (30, 1.695), (300, 1.642)])
def test_the_backward_variance_decides_the_bound_at_few_steps(steps, before):
    """b = s against the best b per step, which here is exact (all is Gaussian): the truth.

    Five standard errors, and N/(2B) nats for a calibration with B particles.
    """
    model = log_snr_chain(steps)
    bound, error = mean_bound(model, n=10_000)
    assert bound == pytest.approx(before, abs=5 * error) and error < 0.006
    model.calibrate(gaussian_data(20_000, seed=2))
    bound, error = mean_bound(model, n=10_000)
    assert bound == pytest.approx(TRUTH, abs=5 * error + steps / 40_000) and error < 0.002
    assert bound > TRUTH - 2 * error


def test_shrinking_noise_makes_a_flow_where_the_steps_are_shorter_than_g():
    """Theorem 1 and its fine print, on a small tanh drift with an arbitrary score.

    The truth is the Euler flow: −log p(x_N) − Σ log|det(I + Δt ∂f/∂x)|.
    """
    mixing = torch.tensor([[0.8, 0.4], [-0.3, 0.6]], dtype=torch.float64)

    def drift(x, t):
        return (x @ mixing).tanh()

    def excess(steps, g):
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        model = DiffFlow(drift, lambda x, t: -x, Schedule.euler(times, g)).double()
        x = start = 0.7 * normals(500, 2)
        flow, turn, before = 0.0, 0.0, None
        for _ in range(steps):
            field = drift(x, 0)
            jacobian = (1 - field**2)[:, :, None] * mixing.T
            step = torch.eye(2, dtype=torch.float64) + jacobian / steps
            flow = flow - torch.linalg.det(step).abs().log()
            if before is not None:
                turn += ((field - before) ** 2).sum(1).mean() * steps  # ∫‖df/dt‖² dt
            before, x = field, x + field / steps
        flow = flow + 0.5 * x.square().sum(1) + math.log(2 * math.pi)
        torch.manual_seed(0)
        with torch.no_grad():
            found = (model.bound(start) - flow).mean().item()
        return found, float(turn) / (2 * steps**2 * g**2)

    # Long steps against g: the excess is (Δt²/2g²) ∫‖df/dt‖² dt, growing as g shrinks.
    at_ten = {g: excess(10, g) for g in (0.1, 0.01, 0.001)}
    assert at_ten[0.001][0] == pytest.approx(at_ten[0.001][1], rel=0.15) and at_ten[0.001][0] > 100
    assert at_ten[0.01][0] == pytest.approx(at_ten[0.01][1], rel=0.2)
    assert at_ten[0.001][0] > 50 * at_ten[0.01][0] > 50 * at_ten[0.1][0]
    # Steps of a tenth of g and less: back at the flow, within the order of g.
    for steps, g in ((100, 0.1), (1000, 0.1), (1000, 0.01)):
        assert excess(steps, g)[0] == pytest.approx(0, abs=0.1), (steps, g)
    assert abs(excess(1000, 0.01)[0]) < abs(excess(100, 0.01)[0]) < abs(at_ten[0.01][0])


# DDPM -------------------------------------------------------------------------------------------


@pytest.fixture(params=["log_snr", "linear_beta"])
def twins(request):
    """A DiffFlow whose drift network is zero, and DDPM, with one score and learned b."""
    torch.manual_seed(0)
    flow = DiffFlow.mlp(SCHEDULES[request.param], hidden=16)
    with torch.no_grad():
        flow.log_b_ratio += torch.linspace(-0.2, 0.2, 6)
    ddpm = DDPM(flow.score, flow.schedule, prediction="score")
    ddpm.log_b_ratio = flow.log_b_ratio
    return flow, ddpm


def test_without_a_drift_diffflow_is_ddpm(twins):
    flow, ddpm = twins
    x, noise = normals(50, 2).float(), normals(6, 50, 2, seed=1).float()
    for gradient in ("adjoint", "autograd"):
        assert torch.equal(flow.bound(x, noise, gradient), ddpm.bound(x, noise, gradient))
    assert torch.equal(flow.encode(x, seed=2).states, ddpm.encode(x, seed=2).states)
    for lam in (0.0, 1.0):
        ours, theirs = flow.sample(50, seed=3, lam=lam), ddpm.sample(50, seed=3, lam=lam)
        assert torch.equal(ours.states, theirs.states)
    assert torch.equal(DDPM.of(flow).bound(x, noise), ddpm.bound(x, noise))


@pytest.mark.parametrize("name", ["log_snr", "linear_beta"])
def test_ddpm_is_the_textbook_one(name):
    """Ho et al. 2020 in β, ᾱ and ε; Song et al. 2021 (DDIM) for λ = 0; written out here."""
    schedule = SCHEDULES[name]
    beta = 1 - schedule.k**2
    bar = (1 - beta).cumprod(0)

    def epsilon(x, t):
        return (x + t).sin()

    ddpm = DDPM(epsilon, schedule).double()

    def textbook(lam):
        generator = torch.Generator().manual_seed(5)
        x = torch.randn(20, 2, generator=generator, dtype=torch.float64)
        for i in reversed(range(6)):
            eps = epsilon(x, schedule.times[i + 1])
            before = bar[i - 1] if i > 0 else torch.tensor(1.0, dtype=torch.float64)
            if lam == 0:
                clean = (x - (1 - bar[i]).sqrt() * eps) / bar[i].sqrt()
                x = before.sqrt() * clean + (1 - before).sqrt() * eps
            else:
                x = (x - beta[i] / (1 - bar[i]).sqrt() * eps) / (1 - beta[i]).sqrt()
                if i > 0:
                    noise = torch.randn(20, 2, generator=generator, dtype=torch.float64)
                    x = x + beta[i].sqrt() * noise
        return x

    for lam in (0.0, 1.0):
        found = ddpm.sample(20, seed=5, lam=lam).start
        # ᾱ is a product here and closed form there; linear β divides by α down to .2.
        torch.testing.assert_close(found, textbook(lam), rtol=1e-6, atol=1e-8)


def test_the_bound_of_ddpm_is_the_elbo_of_its_gaussians():
    """E_q[log q(x_{1:N} | x_0) − log p(x_{0:N})] from torch's Normal along one path."""
    schedule = SCHEDULES["log_snr"]
    score = torch.tanh
    ddpm = DDPM(lambda x, t: score(x), schedule, prediction="score").double()
    x, noise = normals(20, 2), normals(6, 20, 2, seed=1)
    normal, elbo, state = torch.distributions.Normal, 0.0, x
    for i in range(6):
        k, s = schedule.k[i], schedule.s[i]
        after = k * state + s * noise[i]
        forward = normal(k * state, s).log_prob(after)
        backward = normal((after + s**2 * score(after)) / k, s).log_prob(state)
        elbo = elbo + (forward - backward).sum(1)
        state = after
    elbo = elbo - normal(0.0, 1.0).log_prob(state).sum(1)
    torch.testing.assert_close(ddpm.bound(x, noise), elbo, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["log_snr", "linear_beta", "geometric", "euler"])
@pytest.mark.parametrize("shape", [(2,), (1, 2, 3)])
def test_the_loss_of_ddpm_estimates_the_mean_bound_without_bias(name, shape):
    ddpm = DDPM(lambda x, t: -0.7 * x + 0.2, SCHEDULES[name], prediction="score").double()
    with torch.no_grad():
        ddpm.log_b_ratio += torch.linspace(-0.2, 0.3, 6)
    x = normals(7, *shape)
    torch.manual_seed(1)
    with torch.no_grad():
        losses = torch.stack([ddpm.loss(x.repeat(300, *[1] * len(shape))) for _ in range(20)])
        bounds = torch.stack([ddpm.bound(x.repeat(300, *[1] * len(shape))) for _ in range(20)])
    error = math.hypot(losses.std() / 20**0.5, bounds.std() / 42_000**0.5)
    assert losses.mean().item() == pytest.approx(bounds.mean().item(), abs=4 * error)
    assert error < 0.02 * bounds.mean()


@pytest.mark.parametrize("particles", [1, 2, 5])
def test_the_loss_of_ddpm_is_unbiased_for_sorted_data_and_for_fewer_particles_than_steps(particles):
    ddpm = DDPM(lambda x, t: -0.7 * x, Schedule.log_snr(steps=3), prediction="score").double()
    x = torch.linspace(-2, 3, particles, dtype=torch.float64)[:, None].repeat(1, 2)
    torch.manual_seed(1)
    with torch.no_grad():
        losses = torch.stack([ddpm.loss(x) for _ in range(2000)])
        bounds = torch.stack([ddpm.bound(x).mean() for _ in range(2000)])
    error = math.hypot(losses.std(), bounds.std()) / 2000**0.5
    assert losses.mean().item() == pytest.approx(bounds.mean().item(), abs=4 * error)


def test_the_loss_of_ddpm_has_the_closed_form_of_gaussian_data():
    """Exact score, N = 300: within .02 of the entropy, plus the .008 that b = s costs there."""
    torch.manual_seed(0)
    with torch.no_grad():
        loss = log_snr_chain(300).loss(gaussian_data(600_000, seed=3))
    assert loss.item() == pytest.approx(1.642, abs=0.02)


def test_ddpm_loss_with_a_noise_is_the_bound_along_those_paths():
    ddpm = DDPM(lambda x, t: -x, SCHEDULES["log_snr"], prediction="score")
    x, noise = normals(5, 2).float(), normals(6, 5, 2).float()
    assert torch.equal(ddpm.loss(x, noise), ddpm.bound(x, noise).mean())


def test_one_pass_over_all_steps_equals_a_pass_a_step():
    """The MLP takes many times at once, a foreign network one; same draws, same loss."""
    torch.manual_seed(0)
    ddpm = DDPM.mlp(SCHEDULES["log_snr"], hidden=16)
    x = normals(60, 2).float()
    torch.manual_seed(1)
    together = ddpm.loss(x)
    ddpm.score.takes_many_times = False
    torch.manual_seed(1)
    assert torch.allclose(ddpm.loss(x), together, rtol=1e-5)


@pytest.mark.parametrize("kind", [DiffFlow, DDPM])
def test_the_model_samples_in_its_own_dimension(kind):
    model = kind.mlp(Schedule.log_snr(3), dim=3, hidden=8)
    assert model.sample(4, seed=0).states.shape == (4, 4, 3)
    assert repr(model.sample(4)) == "Trajectory(3 steps, 4 particles of shape (3,))"


def test_the_loss_of_ddpm_is_its_bound_for_sets_of_points_too():
    torch.manual_seed(0)
    model = DDPM.mlp(Schedule.log_snr(5, r_min=0.3, r_max=3.0), hidden=8).eval()
    x = torch.randn(4000, 3, 2)
    with torch.no_grad():
        bound = model.bound(x)
        losses = torch.stack([model.loss(x) for _ in range(20)])
    error = (bound.std() / len(bound) ** 0.5).hypot(losses.std() / 20**0.5)
    assert abs(losses.mean() - bound.mean()) < 4 * error
