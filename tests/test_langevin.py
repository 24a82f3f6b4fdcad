"""Scores, the losses that learn them, Langevin dynamics and NCSN, against closed forms."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from diffflow_edu import DDPM, Trajectory, fit, metrics, toy
from diffflow_edu.processes import NCSN
from diffflow_edu.processes.langevin import langevin, variance_exploding
from diffflow_edu.processes.score_matching import (
    denoising_score_matching,
    exact_score,
    explicit_score_matching,
    implicit_score_matching,
    sliced_score_matching,
    smoothed_score,
)
from diffflow_edu.toy.blurred import blurred_log_prob

VARIANCE = 0.7  # of the Gaussian data N(0, 0.7 I) on which everything is known


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small lose by sharing; on a busy machine the tests take ten times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def normals(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gaussian_data(n, d=2, seed=0):
    """N(0, 0.7 I) with exact second moments, so that sums over it are expectations."""
    x = normals(n, d, seed=seed)
    x = x - x.mean(0)
    covariance = x.T @ x / n
    return (
        VARIANCE**0.5
        * torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), x.T, upper=False).T
    )


def smooth_score(x, t):
    """Some field with a Jacobian that is neither constant nor symmetric."""
    return torch.stack([torch.sin(x[:, 1]) - x[:, 0], (x[:, 0] * x[:, 1]).tanh() + t], 1)


# The exact score ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", toy.names())
def test_the_exact_score_is_the_slope_of_log_prob(name):
    density = toy.load(name)
    x = density.sample(60, seed=1).double()
    x[30:] += 0.1 * normals(30, 2)  # off the thin sets, too
    score = exact_score(density, x)
    inside = density.log_prob(x).isfinite()
    # Central differences; their error, a third derivative times h², is of order (h/width)².
    h = 1e-3 * (density.width or 1) / density.scale
    for j in range(2):
        e = torch.eye(2).double()[j] * h
        slope = (density.log_prob(x + e) - density.log_prob(x - e)) / (2 * h)
        scale = score[inside].abs().max() + 1
        smooth = inside & slope.isfinite()
        assert ((score[:, j] - slope)[smooth].abs() <= 1e-5 * scale).all()


@pytest.mark.parametrize("name", toy.names())
def test_the_exact_score_is_finite_everywhere_in_float32_and_keeps_the_dtype(name):
    density = toy.load(name)
    places = torch.cartesian_prod(torch.linspace(-30, 30, 6), torch.linspace(-30, 30, 6))
    x = torch.cat([places, density.sample(50, seed=0)])
    for dtype in (torch.float32, torch.float64):
        score = exact_score(density, x.to(dtype))
        assert score.shape == x.shape and score.dtype == dtype and not score.requires_grad
        assert score.isfinite().all()


def test_the_score_of_a_thin_ring_is_that_of_the_gaussian_across_it():
    density = toy.load("rotated_gaussian", width=0.001)
    z = torch.tensor([-3.0, -1.0, 0.5, 2.0]).double()
    raw = torch.stack([1 + 0.001 * z, torch.zeros(4).double()], 1)
    score = exact_score(density, (raw - density.shift) / density.scale) / density.scale
    # log p = −z²/2 − log r: the second term is the share of the circumference.
    assert torch.allclose(score[:, 0], -z / 0.001 - 1 / raw[:, 0], rtol=1e-9)
    assert score[:, 1].abs().max() < 1e-6


def test_the_score_is_zero_where_the_density_is_flat_or_zero_and_nan_for_a_nan():
    density = toy.load("checkerboard")
    x = density.sample(50, seed=0)
    assert (exact_score(density, x) == 0).all()
    assert (exact_score(density, torch.full((1, 2), 50.0)) == 0).all()
    broken = torch.tensor([[math.nan, 0.0], [0.1, 0.1]])
    for name in ("checkerboard", "ring", "two_moons"):
        score = exact_score(toy.load(name), broken)
        assert score[0].isnan().any() and score[1].isfinite().all()


def test_the_exact_score_works_inside_no_grad_and_on_any_log_density():
    with torch.no_grad():
        x = normals(7, 3, 4)
        score = exact_score(lambda x: -0.5 * x.flatten(1).square().sum(1), x)
    assert torch.equal(score, -x)


@pytest.mark.parametrize("name", ["ring", "olympic_rings", "two_moons", "checkerboard"])
@pytest.mark.parametrize("sigma", [0.2, 1.5])
def test_a_blurred_density_is_the_mean_of_gaussians_around_its_samples(name, sigma):
    density = toy.load(name)
    x = density.sample(40, seed=3).double() + sigma * normals(40, 2)
    centres = density.sample(20_000, seed=5).double()
    log_kernel = -0.5 * torch.cdist(x, centres).square() / sigma**2
    kernel = log_kernel.exp() / (2 * math.pi * sigma**2)
    error = kernel.std(1) / 20_000**0.5  # of the mean over samples
    p = blurred_log_prob(density, x, sigma).exp()
    assert ((p - kernel.mean(1)).abs() <= 5 * error).all()


@pytest.mark.parametrize("name", ["ring", "eight_gaussians", "two_spirals"])
def test_a_density_that_is_hardly_blurred_is_the_density(name):
    density = toy.load(name, width=0.1)
    x = density.sample(100, seed=1).double()
    blurred = blurred_log_prob(density, x, sigma=1e-4)
    assert torch.allclose(blurred, density.log_prob(x), atol=1e-4)  # (σ/width)² = 4e-6 or less
    scores = smoothed_score(density, x, 1e-4), exact_score(density, x)
    assert torch.allclose(*scores, atol=1e-3)


def test_a_blurred_wide_ring_integrates_to_one():
    # Width .2 is the widest, where a negative radius matters most: at the centre.
    density = toy.load("ring", width=0.2)
    along = torch.linspace(-5, 5, 301).double()
    grid = torch.cartesian_prod(along, along)
    for sigma in (0.05, 0.5):
        total = blurred_log_prob(density, grid, sigma).exp().sum() * (along[1] - along[0]) ** 2
        assert total.item() == pytest.approx(1, abs=1e-4)


def test_the_score_of_blurred_data_approaches_that_of_the_blurred_density():
    density = toy.load("olympic_rings")
    sigma = 0.5
    x = density.sample(200, seed=3).double() + sigma * normals(200, 2)
    exact = smoothed_score(density, x, sigma)
    errors = [
        (smoothed_score(density.sample(n, seed=5), x, sigma) - exact).square().mean().sqrt()
        for n in (200, 20_000)
    ]
    # A hundred times the samples, a tenth of the error.
    assert errors[1] < 0.03 * exact.square().mean().sqrt() and errors[0] / errors[1] > 5


# The losses --------------------------------------------------------------------------------------


def test_the_implicit_loss_has_the_trace_of_the_jacobian():
    x = normals(6, 2)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda p: smooth_score(p[None], 0.3)[0]))(x)
    trace = jacobian.diagonal(dim1=1, dim2=2).sum(1)
    expected = 0.5 * smooth_score(x, 0.3).square().sum(1) + trace
    assert torch.allclose(implicit_score_matching(smooth_score, x, t=0.3), expected, rtol=1e-10)


def test_the_sliced_loss_is_the_implicit_one_on_average():
    x = normals(3, 2).repeat(4000, 1)
    sliced = sliced_score_matching(smooth_score, x, seed=1).reshape(4000, 3)
    implicit = implicit_score_matching(smooth_score, x[:3])
    error = sliced.std(0) / 4000**0.5
    assert ((sliced.mean(0) - implicit).abs() <= 5 * error + 1e-12).all()
    assert error.max() > 0
    many = sliced_score_matching(smooth_score, x[:3], projections=3000, seed=2)
    assert torch.allclose(many, implicit, atol=0.1)  # five standard errors of 3000 projections


def test_the_explicit_and_the_implicit_loss_differ_by_half_the_mean_square_of_the_score():
    # s = −a x on exact second moments: both sides are sums that can be written down.
    x = gaussian_data(500)
    truth = -x / VARIANCE
    fisher = truth.square().sum(1).mean().item()
    assert fisher == pytest.approx(2 / VARIANCE, rel=1e-12)
    for a in (0.5, 1 / VARIANCE, 3.0):
        explicit = explicit_score_matching(lambda x, t, a=a: -a * x, x, truth).mean().item()
        implicit = implicit_score_matching(lambda x, t, a=a: -a * x, x).mean().item()
        sliced = sliced_score_matching(lambda x, t, a=a: -a * x, x, seed=0).mean().item()
        assert explicit - implicit == pytest.approx(0.5 * fisher, rel=1e-10)
        assert explicit - sliced == pytest.approx(0.5 * fisher, rel=1e-10)  # v has ‖v‖² = d


def test_the_denoising_loss_is_the_explicit_one_on_blurred_data_plus_a_known_constant():
    x, sigma, n = gaussian_data(500).repeat(400, 1), 0.6, 200_000
    noise = normals(n, 2, seed=4)
    blurred = VARIANCE + sigma**2
    constant = 0.5 * 2 * (1 / sigma**2 - 1 / blurred)
    y = x + sigma * noise
    for a in (0.5, 1 / blurred, 3.0):
        denoising = denoising_score_matching(lambda x, t, a=a: -a * x, x, sigma, noise=noise)
        explicit = explicit_score_matching(lambda x, t, a=a: -a * x, y, -y / blurred)
        difference = denoising - explicit
        five_errors = 5 * float(difference.std()) / n**0.5
        assert float(difference.mean()) == pytest.approx(constant, abs=five_errors)


@pytest.mark.parametrize("loss", ["explicit", "implicit", "sliced", "denoising"])
def test_every_loss_has_the_true_score_of_gaussian_data_as_its_minimiser(loss):
    # With s = −A x the loss is quadratic in A: one Newton step from anywhere finds the minimiser.
    x, sigma = gaussian_data(20_000), 0.5
    mixing = torch.tensor([[1.0, 0.0], [0.8, 0.6]]).double()
    x = x @ mixing.T
    covariance = VARIANCE * mixing @ mixing.T
    noise = normals(20_000, 2, seed=9)
    a = torch.eye(2).double().requires_grad_()

    def mean_loss(a):
        def score(x, t):
            return -x @ a.T

        return {
            "explicit": lambda: explicit_score_matching(score, x, -x @ covariance.inverse()),
            "implicit": lambda: implicit_score_matching(score, x),
            "sliced": lambda: sliced_score_matching(score, x, projections=4, seed=0),
            "denoising": lambda: denoising_score_matching(score, x, sigma, noise=noise),
        }[loss]().mean()

    gradient = torch.autograd.grad(mean_loss(a), a)[0].flatten()
    hessian = torch.autograd.functional.hessian(mean_loss, a.detach()).reshape(4, 4)
    best = a.detach() - torch.linalg.solve(hessian, gradient).reshape(2, 2)
    truth = covariance.inverse()
    if loss == "denoising":
        truth = (covariance + sigma**2 * torch.eye(2)).inverse()
    # Closed forms are exact to rounding; random slices and noises to a few times 1/√20 000.
    exactly = loss in ("explicit", "implicit")
    assert torch.allclose(best, truth, atol=1e-9 if exactly else 0.03)


@pytest.mark.parametrize("loss", [implicit_score_matching, sliced_score_matching])
def test_a_score_that_does_not_depend_on_x_has_no_trace(loss):
    x = normals(4, 2)
    assert torch.allclose(loss(lambda x, t: torch.ones_like(x), x), torch.ones(4).double())


def test_the_losses_train_a_network():
    # Three ways to the same net: all gradients point downhill on the same Fisher divergence.
    density = toy.load("eight_gaussians", width=0.5)
    x = density.sample(500, seed=0)
    truth = exact_score(density, x)
    for loss in (implicit_score_matching, sliced_score_matching):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        before = explicit_score_matching(lambda x, t, n=net: n(x), x, truth).mean().item()
        for _ in range(100):
            optimizer.zero_grad()
            loss(lambda x, t, n=net: n(x), x).mean().backward()
            optimizer.step()
        after = explicit_score_matching(lambda x, t, n=net: n(x), x, truth).mean().item()
        assert after < 0.5 * before


def test_losses_keep_dtype_and_shape_and_pass_images():
    for dtype in (torch.float32, torch.float64):
        x = normals(3, 2, 4, 4, dtype=dtype)
        for loss in (
            implicit_score_matching(lambda x, t: -x, x),
            sliced_score_matching(lambda x, t: -x, x, seed=0),
            denoising_score_matching(lambda x, t: -x, x, sigma=0.1),
            explicit_score_matching(lambda x, t: -x, x, -x),
        ):
            assert loss.shape == (3,) and loss.dtype == dtype


# Langevin dynamics -------------------------------------------------------------------------------


def test_langevin_on_a_gaussian_has_the_closed_form_moments_of_its_chain():
    # x ← (1 − ε/v) x + √(2ε) z: the variance of the chain is known at every step.
    step, steps, n = 0.1, 40, 20_000
    path = langevin(lambda x, t: -x / VARIANCE, torch.full((n, 1), 3.0), step, steps, seed=0)
    shrink = 1 - step / VARIANCE
    for i in (1, 5, steps):
        x = path[steps - i]
        variance = 2 * step * (1 - shrink ** (2 * i)) / (1 - shrink**2)
        assert x.mean() == pytest.approx(3 * shrink**i, abs=5 * (variance / n) ** 0.5)
        assert x.var() == pytest.approx(variance, rel=5 * (2 / n) ** 0.5)
    # In the end too wide by ε/(4v) = 3.6 %, as the docstring says.
    assert path.start.std() / VARIANCE**0.5 == pytest.approx(1 + step / (4 * VARIANCE), abs=0.03)


def test_langevin_with_the_exact_score_keeps_the_moments_of_a_mixture_of_gaussians():
    density = toy.load("eight_gaussians", width=0.25)  # wide enough for the walk to cross
    start = torch.zeros(3000, 2)
    path = langevin(
        lambda x, t: exact_score(density, x), start, step=1e-2, steps=250, seed=0, every=250
    )
    x = path.start
    # Normalised data has mean 0 and variance 1; 3000 independent walks: five standard errors.
    assert x.mean(0).abs().max() < 5 / 3000**0.5
    assert x.var(0).mean().item() == pytest.approx(1, abs=0.065)
    share = torch.bincount(density.mode(x), minlength=8) / len(x)
    assert (share - 1 / 8).abs().max() < 5 * (1 / 8 * 7 / 8 / 3000) ** 0.5
    # Each Gaussian is too wide by the step's own bias only: √(1/(1 − ε/2v)).
    variance = (0.25 / density.scale) ** 2
    floor = density.sample(4000, seed=1)
    spread = density.distance(x).square().mean() / density.distance(floor).square().mean()
    assert spread == pytest.approx(1 / (1 - 1e-2 / (2 * variance)), abs=0.1)


def test_langevin_with_the_exact_score_finds_the_radial_std_of_a_ring():
    density = toy.load("ring", width=0.05)
    variance = (0.05 / density.scale) ** 2
    step = 0.1 * variance
    start = 1.3 * density.sample(3000, seed=0)
    x = langevin(lambda x, t: exact_score(density, x), start, step, 150, seed=1, every=150).start
    radius = (x * density.scale + density.shift).norm(dim=1)
    # The chain's own bias, 1/√(1 − ε/2v), is 2.6 %; five standard errors of 3000 are 6.5 %.
    assert radius.std() == pytest.approx(0.05 / (1 - 0.05) ** 0.5, rel=0.065)
    assert radius.mean() == pytest.approx(1, abs=0.006)


def test_plain_langevin_does_not_cross_between_separated_modes():
    density = toy.load("eight_gaussians", width=0.05)
    start = density.sample(200, seed=0)
    path = langevin(lambda x, t: exact_score(density, x), start, step=2e-4, steps=300, seed=0)
    assert torch.equal(density.mode(path.start), density.mode(start))


def test_a_langevin_path_is_a_trajectory_with_the_last_state_first():
    start = normals(5, 2, dtype=torch.float32)
    path = langevin(lambda x, t: -x, start, step=0.1, steps=6, seed=0)
    assert isinstance(path, Trajectory) and len(path) == 7
    assert torch.equal(path.end, start)
    assert path.times.tolist() == pytest.approx([0.1 * i for i in range(7)])
    thinned = langevin(lambda x, t: -x, start, step=0.1, steps=6, seed=0, every=3)
    assert torch.equal(thinned.states, path.states[::3])
    assert thinned.times.tolist() == pytest.approx([0, 0.3, 0.6])


def test_langevin_calls_the_score_once_a_step_with_the_given_time():
    calls = []

    def score(x, t):
        calls.append(t)
        return -x

    langevin(score, torch.zeros(3, 2), step=0.1, steps=6, t=0.25)
    assert len(calls) == 6 and all(t.ndim == 0 and t == 0.25 for t in calls)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_langevin_is_the_same_for_a_seed_and_keeps_dtype_and_global_generator(dtype):
    start = normals(5, 2, dtype=dtype)
    state = torch.get_rng_state()
    paths = [langevin(lambda x, t: -x, start, 0.1, 5, seed=s) for s in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(paths[0].states, paths[1].states)
    assert not torch.equal(paths[0].start, paths[2].start)
    assert paths[0].states.dtype == paths[0].times.dtype == dtype
    torch.manual_seed(0)
    a = langevin(lambda x, t: -x, start, 0.1, 5)
    torch.manual_seed(0)
    assert torch.equal(a.states, langevin(lambda x, t: -x, start, 0.1, 5).states)


# NCSN --------------------------------------------------------------------------------------------


def gaussian_ncsn(levels=8, sigma_min=0.1, sigma_max=5.0, **options):
    """The exact model of data N(0, 0.7 I)."""
    times = variance_exploding(levels, sigma_min, sigma_max)

    def score(x, t):
        sigma = times.noise_process.sigma(t)
        sigma = sigma.reshape(sigma.shape + (1,) * (x.ndim - sigma.ndim))
        return -x / (VARIANCE + sigma**2)

    return NCSN(score, levels, sigma_min, sigma_max, **options)


def test_the_noise_levels_are_geometric_and_the_times_rise_from_zero():
    model = NCSN.mlp(levels=7, sigma_min=0.02, sigma_max=3.0)
    sigmas, times = model.sigmas, model.schedule.times
    assert sigmas.shape == times.shape == (8,)
    assert sigmas[0] == times[0] == 0 and times[-1] == 1 and (times.diff() > 0).all()
    assert torch.allclose(sigmas[1:], torch.logspace(math.log10(0.02), math.log10(3), 7).double())
    assert torch.allclose(model.schedule.s.square().cumsum(0), sigmas[1:].square())


def test_the_diffusion_coefficient_is_the_growth_of_the_variance():
    noise = variance_exploding(5, 0.02, 3.0).noise_process
    t = torch.linspace(0.05, 1, 9).double().requires_grad_()
    growth = torch.autograd.grad(noise.sigma(t).square().sum(), t)[0]
    assert torch.allclose(noise.g(t).square(), growth, rtol=1e-10)
    assert (noise.alpha(t) == 1).all() and (noise.linear(t) == 0).all()
    assert (noise.gain(t) == 1).all()


def test_encoding_is_one_brownian_path_through_all_levels():
    model, n = NCSN.mlp(levels=5, sigma_min=0.1, sigma_max=2.0), 20_000
    x = normals(n, 2, dtype=torch.float32)
    path = model.encode(x, seed=0)
    assert torch.equal(path.start, x) and len(path) == 6
    added = path.states - x
    for i, sigma in enumerate(model.sigmas.tolist()):
        assert added[i].std() == pytest.approx(sigma, rel=5 / (4 * n) ** 0.5)
    # Increments of a Brownian path do not know what came before: five standard errors.
    steps = path.states.diff(dim=0)
    for i in range(1, 5):
        correlation = (added[i] * steps[i]).mean() / (added[i].std() * steps[i].std())
        assert abs(correlation) < 5 / (2 * n) ** 0.5


def test_the_loss_is_the_weighted_denoising_loss_over_the_levels():
    model = gaussian_ncsn(levels=4)
    n = 400_000
    x = gaussian_data(500).repeat(n // 500, 1)
    # With the exact score −x̃/(v + σ²), E½‖σ s + ε‖² = d/2 · v/(v + σ²) at each level.
    squares = model.sigmas[1:].square()
    expected = (VARIANCE / (VARIANCE + squares)).mean().item()
    torch.manual_seed(0)
    assert model.loss(x).item() == pytest.approx(expected, abs=5 / n**0.5)


def test_the_loss_agrees_for_scores_that_take_one_time_or_many():
    torch.manual_seed(0)
    model = NCSN.mlp(levels=4, hidden=16)
    one = NCSN(lambda x, t: model.score(x, t), 4)
    x = normals(8, 2, dtype=torch.float32)
    values = []
    for each in (model, one):
        torch.manual_seed(1)
        values.append(each.loss(x))
    assert torch.allclose(*values, rtol=1e-5)


def test_fewer_particles_than_levels_still_visit_every_level():
    model = gaussian_ncsn(levels=8)
    assert model.loss(normals(3, 2)).shape == ()


def chain_variances(model, K):
    """Of every state that annealed Langevin leaves, on N(0, v I) where each step is linear."""
    variance, variances = VARIANCE + 25 + (1 - VARIANCE), []
    for sigma in model.sigmas[1:].flip(0).tolist():
        step = model.langevin_step * sigma**2
        for _ in range(K):
            variance = (1 - step / (VARIANCE + sigma**2)) ** 2 * variance + 2 * step
        variances.insert(0, variance)
    shrink = VARIANCE / (VARIANCE + model.sigmas[1].item() ** 2)  # Tweedie
    return [shrink**2 * variances[0], *variances]


def test_annealed_langevin_with_the_exact_score_has_the_closed_form_variance_at_every_level():
    model = gaussian_ncsn(levels=12, langevin_steps=20, langevin_step=0.1)
    path = model.sample(20_000, seed=0)
    assert len(path) == 13 and (path.times.diff() > 0).all()
    for x, variance in zip(path.states, chain_variances(model, K=20), strict=True):
        # Five standard errors of the variance of 40 000 numbers.
        assert x.var().item() == pytest.approx(variance, rel=5 * (2 / 40_000) ** 0.5)


def test_annealed_langevin_with_the_exact_score_ends_at_the_data_if_levels_have_time():
    # A level forgets at the rate ε_i/u, so that the low ones need many steps on broad data.
    excess = [
        chain_variances(gaussian_ncsn(levels=12, langevin_step=0.1), K)[0] / VARIANCE - 1
        for K in (20, 200, 2000)
    ]
    assert excess[0] > 0.1 > excess[1] > excess[2]
    # Then Tweedie's posterior means are too narrow by σ_1²/(v + σ_1²); .001 is the steps' bias.
    assert excess[2] == pytest.approx(-0.01 / (VARIANCE + 0.01), abs=1e-3)


def test_annealed_langevin_gives_unequal_modes_their_true_shares():
    # Two Gaussians of weights .8 and .2, farther apart than plain Langevin crosses.
    means, weights, v = torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.tensor([0.8, 0.2]), 0.01

    def model(**options):
        noise = variance_exploding(32, 0.03, 4.0).noise_process

        def score(x, t):
            u = v + noise.sigma(t) ** 2
            offset = means - x[:, None]
            share = (weights.log() - 0.5 * offset.square().sum(2) / u).softmax(1)
            return (share[:, :, None] * offset).sum(1) / u

        return NCSN(score, 32, 0.03, 4.0, **options)

    annealed = model(langevin_steps=20, langevin_step=0.2).sample(4000, seed=0).start
    share = (annealed[:, 0] > 0).float().mean().item()
    # Five standard errors; finite steps let the levels lag by another .014 (64 × 50 steps: .005).
    assert share == pytest.approx(0.2, abs=5 * (0.16 / 4000) ** 0.5 + 0.014)
    score = model().score
    start = 2 * normals(4000, 2, dtype=torch.float32)
    plain = langevin(score, start, step=2e-3, steps=500, seed=0, every=500, t=0.0).start
    assert (
        plain[:, 0] > 0
    ).float().mean().item() > 0.4  # where they started, not where they belong


def test_the_last_state_is_denoised_by_tweedie():
    model = gaussian_ncsn(levels=3)
    path = model.sample(10, seed=0)
    shrink = VARIANCE / (VARIANCE + model.sigmas[1].float() ** 2)
    assert torch.allclose(path.start, shrink * path[1], rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ncsn_keeps_shapes_and_dtypes(dtype):
    torch.manual_seed(0)
    model = NCSN.mlp(levels=4, dim=3, hidden=16, langevin_steps=2).to(dtype)
    assert model.shape == (3,)
    x = normals(5, 3, dtype=dtype)
    assert model.loss(x).dtype == dtype and model(x).shape == ()
    for path in (model.encode(x), model.sample(5)):
        assert path.states.shape == (5, 5, 3) and path.states.dtype == path.times.dtype == dtype
        assert not path.states.requires_grad and path.states.isfinite().all()


def test_ncsn_is_the_same_for_a_seed_and_leaves_the_global_generator_alone():
    model = gaussian_ncsn(levels=3)
    x = normals(5, 2, dtype=torch.float32)
    state = torch.get_rng_state()
    for run in (lambda seed: model.sample(5, seed=seed), lambda seed: model.encode(x, seed=seed)):
        assert torch.equal(run(3).states, run(3).states)
        assert not torch.equal(run(3).states[2], run(4).states[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_sample_costs_the_evaluations_it_says():
    calls = []

    def score(x, t):
        calls.append(t)
        return -x

    model = NCSN(score, levels=5, langevin_steps=7)
    model.sample(3, seed=0)
    assert len(calls) == model.evaluations == 5 * 7 + 1


def test_images_pass():
    model = NCSN(lambda x, t: -x, levels=3, langevin_steps=1)
    assert model.sample(4, shape=(3, 5, 5), seed=0).states.shape == (4, 4, 3, 5, 5)
    assert model.loss(normals(4, 3, 5, 5, dtype=torch.float32)).shape == ()


def test_ncsn_can_be_copied_and_pickled():
    torch.manual_seed(0)
    model = NCSN.mlp(levels=3, hidden=16)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.sample(5, seed=0).states, model.sample(5, seed=0).states)


def test_fit_trains_ncsn_and_its_samples_come_near_the_data():
    density = toy.load("eight_gaussians", width=0.1)
    torch.manual_seed(0)
    model = NCSN.mlp(levels=10, sigma_min=0.05, sigma_max=3.0, hidden=64)
    before = metrics.sliced_w2(model.sample(2000, seed=0).start, density.sample(2000, seed=1))
    fit(model, density, steps=300, batch_size=400, lr=1e-2)
    x = model.sample(2000, seed=0).start
    after = metrics.sliced_w2(x, density.sample(2000, seed=1))
    assert after < 0.15 < before
    assert metrics.leak(x, density) < 0.05


def test_the_network_of_an_ncsn_is_also_the_score_of_a_diffusion():
    # The same chain of noise, seen as DiffFlow without a drift: its forward path is ours.
    torch.manual_seed(0)
    model = NCSN.mlp(levels=4, hidden=16)
    twin = DDPM(model.score, model.schedule, prediction="score")
    x = normals(5, 2, dtype=torch.float32)
    assert torch.allclose(model.encode(x, seed=0).states, twin.encode(x, seed=0).states, atol=1e-6)


def test_ncsn_says_that_it_has_no_bound():
    model = gaussian_ncsn()
    with pytest.raises(NotImplementedError, match="NCSN has no bound on −log p"):
        model.bound(normals(3, 2))
    with pytest.raises(NotImplementedError, match="NCSN has no log_prob"):
        model.log_prob(normals(3, 2))


# Bad input ---------------------------------------------------------------------------------------


X = torch.zeros(3, 2)


def still(x, t):
    return -x


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: langevin(still, X, 0.0, 5), "step must be positive and finite, got 0.0"),
        (lambda: langevin(still, X, -0.1, 5), "step must be positive and finite, got -0.1"),
        (lambda: langevin(still, X, math.nan, 5), "step must be positive and finite, got nan"),
        (lambda: langevin(still, X, 0.1, 0), "steps must be a whole number, 1 or more, got 0"),
        (lambda: langevin(still, X, 0.1, 5, every=2), "every must divide steps"),
        (lambda: langevin(still, X, 0.1, 5, seed=-1), "seed must be a whole number"),
        (lambda: langevin(3, X, 0.1, 5), "score must be callable as score"),
        (lambda: langevin(still, X.long(), 0.1, 5), "x must be float32 or float64"),
        (lambda: langevin(lambda x, t: x[:, :1], X, 0.1, 5), "score must return a tensor like x"),
        (lambda: exact_score(3, X), "density must have log_prob"),
        (lambda: exact_score(lambda x: x, X), "density must give log p"),
        (lambda: exact_score(still, [1.0]), "x must be a torch.Tensor"),
        (lambda: blurred_log_prob(toy.load("ring"), X, 0.0), "sigma must be positive"),
        (lambda: blurred_log_prob(toy.load("ring"), X.long(), 0.1), "x must be floating point"),
        (lambda: smoothed_score(X, X, sigma=0.0), "sigma must be positive and finite, got 0.0"),
        (lambda: smoothed_score(X, torch.zeros(3, 4), 0.1), "x must be"),
        (lambda: denoising_score_matching(still, X, sigma=-1.0), "sigma must be positive"),
        (lambda: denoising_score_matching(still, X, 0.1, noise=X[:2]), "noise must be a tensor"),
        (lambda: explicit_score_matching(still, X, X[:2]), "truth must be a tensor like x"),
        (lambda: sliced_score_matching(still, X, projections=0), "projections must be a whole"),
        (lambda: NCSN(3, levels=5), "score must be callable"),
        (lambda: NCSN.mlp(levels=1), "levels must be a whole number, 2 or more, got 1"),
        (lambda: NCSN.mlp(sigma_min=2.0, sigma_max=1.0), "sigma_min must be below sigma_max"),
        (lambda: NCSN.mlp(sigma_min=0.0), "sigma_min must be positive and finite, got 0.0"),
        (lambda: NCSN.mlp(langevin_step=0.0), "langevin_step must be positive"),
        (lambda: NCSN.mlp(langevin_step=2.0), "langevin_step must be below 2 to be stable"),
        (lambda: NCSN.mlp(langevin_steps=0), "langevin_steps must be a whole number"),
        (lambda: NCSN.mlp().sample(0), "n must be a whole number, 1 or more, got 0"),
        (lambda: NCSN.mlp().loss(X.double()), "x must be torch.float32 like the model's network"),
        (lambda: NCSN.mlp().encode(torch.zeros(3, 5).long()), "x must be float32 or float64"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_flat_density_has_no_slope_even_if_it_forgets_its_argument():
    x = torch.ones(3, 2)
    assert torch.equal(exact_score(lambda x: torch.zeros(len(x)), x), torch.zeros(3, 2))


def test_only_toy_densities_are_blurred_in_closed_form():
    with pytest.raises(ValueError, match="density must be one of toy.names()"):
        blurred_log_prob(lambda x: x.sum(1), torch.ones(3, 2), 0.1)
