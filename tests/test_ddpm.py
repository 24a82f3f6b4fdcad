"""DDPM in full against the papers' formulas and against Gaussian data, where all is closed form."""

import copy
import math

import pytest
import torch

from diffflow_edu import CNF, DDPM, DiffFlow, Schedule, metrics, pretrained, toy
from diffflow_edu.nets import DataPrediction, NoisePrediction, VPrediction
from diffflow_edu.processes.ddpm import posterior_std
from diffflow_edu.processes.samplers import ddim, ddim_encode, reverse_sde
from diffflow_edu.schedules import Cosine, LinearBeta

VARIANCE, D = 0.3, 2
ENTROPY = 0.5 * D * math.log(2 * math.pi * math.e * VARIANCE)
CHAINS = {
    "log_snr": Schedule.log_snr(10),
    "linear_beta": Schedule.linear_beta(10),
    "cosine": Schedule.cosine(10),
}


def normals(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def gaussian_data(n, seed=0):
    """N(0, 0.3 I), its second moment right to the last digit."""
    x = normals(n, D, seed=seed)
    return math.sqrt(VARIANCE) * x / x.square().mean().sqrt()


def exact(schedule, **options):
    """DDPM with the score of N(0, 0.3 I) carried to t."""
    noise = schedule.noise_process

    def score(x, t):
        return -x / (noise.alpha(t) ** 2 * VARIANCE + noise.sigma(t) ** 2)

    return DDPM(score, schedule, prediction="score", **options).double()


def marginals(schedule):
    """α, σ and the variance of the data at every time."""
    noise, t = schedule.noise_process, schedule.times
    alpha, sigma = noise.alpha(t), noise.sigma(t)
    return alpha, sigma, alpha**2 * VARIANCE + sigma**2


# The bound, term by term --------------------------------------------------------------------------


def closed_form_terms(schedule, b):
    """Mean reconstruction, KLs and prior on Gaussian data: Gaussians given x_0, by hand."""
    alpha, sigma, v = marginals(schedule)
    a, a2, s, s2 = alpha[:-1], alpha[1:], sigma[:-1], sigma[1:]
    beta = 1 - (a2 / a) ** 2
    weight_0, weight_x = a * beta / s2**2, a2 / a * (s / s2) ** 2  # Ho et al., equation 7
    variance = beta * (s / s2) ** 2
    model = a2 / a * v[:-1] / v[1:]  # E[x_i | x_{i+1}] = model x_{i+1}
    error = weight_0**2 * VARIANCE + (weight_x - model) ** 2 * v[1:]
    error = error + 2 * weight_0 * (weight_x - model) * a2 * VARIANCE
    kl = 0.5 * D * ((error + variance) / b**2 - 1 - (variance / b**2).log())[1:]
    reconstruction = 0.5 * D * (error[0] / b[0] ** 2 + (2 * math.pi * b[0] ** 2).log())
    end, noise = alpha[-1] ** 2, sigma[-1] ** 2
    return reconstruction, kl, 0.5 * D * (end * VARIANCE + noise - 1 - noise.log())


@pytest.mark.parametrize("variance", ["beta", "posterior"])
@pytest.mark.parametrize("name", CHAINS)
def test_every_term_of_the_bound_has_its_closed_form_on_gaussian_data(name, variance):
    model = exact(CHAINS[name], variance=variance)
    terms = model.bound_terms(gaussian_data(10_000), seed=1)
    expected = closed_form_terms(CHAINS[name], model.backward_std())
    found = (terms.reconstruction[None], terms.kl, terms.prior[None])
    for values, truth in zip(found, expected, strict=True):
        # Five standard errors of the mean over particles; the prior is exact.
        tolerance = 5 * values.std(1) / len(values[0]) ** 0.5 + 1e-9
        assert ((values.mean(1) - truth).abs() < tolerance).all()


def closed_form_bound(schedule, b):
    """H + KL(x_N ‖ N(0, I)) + d/2 Σ (ρ − 1 − log ρ): no x_0 in it, another way to the same sum.

    With the exact score the means agree, and ρ is the variance of the true x_i given x_{i+1},
    s² v_i/v_{i+1}, over b².
    """
    _, _, v = marginals(schedule)
    rho = schedule.s**2 * v[:-1] / v[1:] / b**2
    end = 0.5 * D * (v[-1] - 1 - v[-1].log())
    return float(ENTROPY + end + 0.5 * D * (rho - 1 - rho.log()).sum())


@pytest.mark.parametrize("variance", ["beta", "posterior"])
@pytest.mark.parametrize("name", CHAINS)
def test_the_closed_form_terms_sum_to_the_closed_form_bound(name, variance):
    b = exact(CHAINS[name], variance=variance).backward_std()
    reconstruction, kl, prior = closed_form_terms(CHAINS[name], b)
    total = float(reconstruction + kl.sum() + prior)
    assert total == pytest.approx(closed_form_bound(CHAINS[name], b), rel=1e-9)


@pytest.mark.parametrize(("steps", "bound"), [(10, 1.7956), (30, 1.6901), (300, 1.6396)])
def test_with_the_variance_beta_the_bound_falls_onto_the_truth_as_steps_grow(steps, bound):
    """The numbers are the closed form's, printed in notebook 03."""
    schedule = Schedule.log_snr(steps)
    assert closed_form_bound(schedule, schedule.s) == pytest.approx(bound, abs=1e-4)
    assert pytest.approx(1.634, abs=5e-4) == ENTROPY < bound


def test_the_terms_sum_to_the_mean_of_bound_and_of_loss():
    torch.manual_seed(0)
    model = DDPM(lambda x, t: (x + t).sin(), Schedule.log_snr(6, r_min=0.2)).double()
    with torch.no_grad():
        model.log_b_ratio += torch.linspace(-0.2, 0.3, 6)
        x = normals(20_000, 2, seed=9)
        bound, terms = model.bound(x), model.bound_terms(x, seed=3)
        losses = torch.stack([model.loss(x) for _ in range(20)])
    total = terms.total
    errors = [bound.std() / len(x) ** 0.5, total.std() / len(x) ** 0.5, losses.std() / 20**0.5]
    assert abs(total.mean() - bound.mean()) < 4 * math.hypot(errors[0], errors[1])
    assert abs(total.mean() - losses.mean()) < 4 * math.hypot(errors[1], errors[2])


def test_bound_terms_say_what_they_are_and_follow_the_seed():
    model, x = exact(Schedule.log_snr(4)), gaussian_data(50)
    terms = model.bound_terms(x, seed=1)
    assert terms.reconstruction.shape == terms.prior.shape == terms.total.shape == (50,)
    assert terms.kl.shape == (3, 50) and (terms.kl >= 0).all() and (terms.prior >= 0).all()
    assert repr(terms).startswith("BoundTerms(") and "3 KLs" in repr(terms)
    assert torch.equal(model.bound_terms(x, seed=1).total, terms.total)
    assert not torch.equal(model.bound_terms(x, seed=2).total, terms.total)


def test_a_long_chain_is_measured_in_blocks_with_the_same_result_for_images():
    model = DDPM(lambda x, t: 0.3 * x, Schedule.linear_beta(100), prediction="noise").double()
    x = normals(1000, 1, 2, 2)  # 32 steps a block
    terms = model.bound_terms(x, seed=0)
    assert terms.kl.shape == (99, 1000)
    flat = model.bound_terms(x.flatten(1), seed=0)
    torch.testing.assert_close(terms.total, flat.total, rtol=1e-12, atol=1e-12)


# Variances ----------------------------------------------------------------------------------------


def test_the_posterior_std_is_beta_tilde_and_its_zero_is_clipped():
    """Ho et al., equation 7; the log variance of their last step is that of the step before."""
    schedule = Schedule.linear_beta(1000)
    beta = 1 - schedule.k**2
    bar = (1 - beta).cumprod(0)
    tilde = (1 - bar[:-1]) / (1 - bar[1:]) * beta[1:]
    found = posterior_std(schedule)
    torch.testing.assert_close(found[1:].square(), tilde, rtol=1e-9, atol=0)
    assert found[0] == found[1] and (found < schedule.s + 1e-12)[1:].all()
    one = Schedule.log_snr(1)
    assert torch.equal(posterior_std(one), one.s)


def test_the_variance_decides_the_bound_and_calibration_finds_the_best():
    schedule, x = Schedule.log_snr(10), gaussian_data(100_000)
    best = exact(schedule)
    best.calibrate(x)
    bounds = {"best": closed_form_bound(schedule, best.backward_std().detach())}
    for variance in ("beta", "posterior"):
        b = exact(schedule, variance=variance).backward_std()
        bounds[variance] = closed_form_bound(schedule, b)
    assert ENTROPY < bounds["best"] < bounds["beta"] < bounds["posterior"]
    assert bounds["best"] == pytest.approx(ENTROPY, abs=0.004)  # what x_N lacks of N(0, I)
    assert bounds["beta"] == pytest.approx(1.7956, abs=1e-4)
    assert bounds["posterior"] > 10


def test_a_learned_variance_starts_where_it_is_told():
    schedule = Schedule.log_snr(5)
    model = DDPM(torch.tanh, schedule, learn_backward_std=True, variance="posterior")
    assert model.log_b_ratio.requires_grad
    torch.testing.assert_close(model.backward_std().detach(), posterior_std(schedule))


# Predictions --------------------------------------------------------------------------------------


def four_ways(schedule):
    """The same exact score of N(0, 0.3 I), spoken as ε, x_0, v and score."""
    noise = schedule.noise_process

    def parts(x, t):
        alpha, sigma = noise.alpha(t), noise.sigma(t)
        v = alpha**2 * VARIANCE + sigma**2
        return alpha, sigma, alpha * VARIANCE / v * x, sigma / v * x  # E x_0, E ε given x

    fields = {
        "noise": lambda x, t: parts(x, t)[3],
        "x0": lambda x, t: parts(x, t)[2],
        "v": lambda x, t: parts(x, t)[0] * parts(x, t)[3] - parts(x, t)[1] * parts(x, t)[2],
        "score": lambda x, t: -parts(x, t)[3] / parts(x, t)[1],
    }
    return {name: DDPM(f, schedule, prediction=name).double() for name, f in fields.items()}


@pytest.mark.parametrize("schedule", [*CHAINS.values(), Schedule.geometric(6)], ids=str)
def test_four_predictions_of_one_score_are_one_model(schedule):
    models, x = four_ways(schedule), gaussian_data(20)
    noise = normals(schedule.steps, 20, 2, seed=1)
    wanted = models.pop("score")
    for name, model in models.items():
        # float64, and what α/σ ≤ 160 multiplies it by.
        bound = model.bound(x, noise)
        torch.testing.assert_close(bound, wanted.bound(x, noise), rtol=1e-8, atol=1e-8, msg=name)
        path, truth = model.sample(20, seed=2).states, wanted.sample(20, seed=2).states
        torch.testing.assert_close(path, truth, rtol=1e-8, atol=1e-8, msg=name)


@pytest.mark.parametrize("prediction", ["noise", "x0", "v"])
def test_a_network_of_any_prediction_trains_and_takes_many_times(prediction):
    torch.manual_seed(0)
    model = DDPM.mlp(Schedule.log_snr(6, r_min=0.1), hidden=16, prediction=prediction)
    x = torch.randn(60, 2)
    torch.manual_seed(1)
    loss = model.loss(x)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.score.parameters())
    model.score.takes_many_times = False
    torch.manual_seed(1)
    torch.testing.assert_close(model.loss(x), loss, rtol=1e-5, atol=1e-5)
    assert {name.partition(".")[0] for name in model.state_dict()} == {"score", "log_b_ratio"}


def test_the_predictions_are_the_definitions_of_their_papers():
    """x = α x_0 + σ ε; v = α ε − σ x_0 (Salimans and Ho 2022, appendix D)."""
    noise, t = LinearBeta(), torch.tensor(0.3, dtype=torch.float64)
    alpha, sigma = noise.alpha(t), noise.sigma(t)
    x_0, eps = normals(5, 2), normals(5, 2, seed=1)
    x = alpha * x_0 + sigma * eps
    outputs = {NoisePrediction: eps, DataPrediction: x_0, VPrediction: alpha * eps - sigma * x_0}
    for kind, output in outputs.items():
        score = kind(lambda x, t, output=output: output, noise)(x, t)
        torch.testing.assert_close(score, -eps / sigma, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("t", [0.0, -0.1, 1.1, math.nan])
def test_denoised_names_a_time_at_which_there_is_no_noise_process(t):
    model = DDPM.mlp(Schedule.log_snr(steps=4))
    with pytest.raises(ValueError, match=rf"t must be a time in \(0, T\] = \(0, 1\], got {t}"):
        model.denoised(torch.zeros(2, 2), torch.tensor(t, dtype=torch.float64))
    last = model.schedule.times[-1].float()
    assert model.denoised(torch.zeros(2, 2), last).isfinite().all()


def test_denoised_is_the_mean_of_the_data_given_the_noisy_point():
    schedule = Schedule.log_snr(10)
    model, x = exact(schedule), normals(5, 2)
    for i in (1, 5, 10):
        alpha, _, v = (each[i] for each in marginals(schedule))
        found = model.denoised(x, schedule.times[i])
        torch.testing.assert_close(found, alpha * VARIANCE / v * x, rtol=1e-9, atol=1e-12)


# The cosine schedule ------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 4, 30, 1000])
def test_the_cosine_schedule_is_the_paper_s(steps):
    """Nichol and Dhariwal 2021, equation 17: ᾱ = f(t)/f(0), β ≤ 0.999."""
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    bar = f / f[0]
    beta = (1 - bar[1:] / bar[:-1]).clamp_max(0.999)
    schedule = Schedule.cosine(steps)
    torch.testing.assert_close(1 - schedule.k**2, beta, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(schedule.k[:-1].square().cumprod(0), bar[1:-1], rtol=1e-9, atol=0)
    assert schedule.k[-1].square().item() == pytest.approx(1e-3, rel=1e-9)
    assert schedule.steps == steps and (schedule.times.diff() > 0).all() and schedule.times[-1] < 1


def test_the_cosine_process_solves_the_moment_equations_of_its_sde():
    """α' = ℓ α and (σ²)' = 2 ℓ σ² + g², by central differences in float64."""
    noise, t, dt = Cosine(), torch.linspace(0.02, 0.98, 9, dtype=torch.float64), 1e-5
    slope = (noise.alpha(t + dt) - noise.alpha(t - dt)) / (2 * dt)
    torch.testing.assert_close(slope, noise.linear(t) * noise.alpha(t), rtol=1e-5, atol=0)
    slope = (noise.sigma(t + dt).square() - noise.sigma(t - dt).square()) / (2 * dt)
    expected = 2 * noise.linear(t) * noise.sigma(t).square() + noise.g(t).square()
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-7)
    preserved = noise.alpha(t).square() + noise.sigma(t).square()
    torch.testing.assert_close(preserved, torch.ones_like(t))
    assert noise.sigma(torch.tensor(0.0)) == 0


def test_the_cosine_chain_is_finite_in_float32_to_its_end():
    model = DDPM.mlp(Schedule.cosine(1000), hidden=8, prediction="v")
    t = model.schedule.times.float()
    for each in (model.schedule.noise_process.r, model.schedule.noise_process.beta):
        assert each(t).isfinite().all()
    assert model.bound_terms(torch.randn(5, 2)).total.isfinite().all()
    assert model.respaced(50).sample(4, seed=0).states.isfinite().all()


# Respacing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["log_snr", "linear_beta", "cosine"])
def test_a_step_of_a_respaced_grid_is_the_steps_it_skips(name):
    """k multiplies, variances add as s² ← k² s² + s'²; times are among the old ones."""
    long = getattr(Schedule, name)(60)
    short = long.respaced(7)
    kept = [round(i * 60 / 7) for i in range(8)]
    assert torch.equal(short.times, long.times[kept])
    for i, (first, last) in enumerate(zip(kept[:-1], kept[1:], strict=True)):
        k, variance = 1.0, 0.0
        for j in range(first, last):
            k, variance = k * long.k[j], variance * long.k[j] ** 2 + long.s[j] ** 2
        torch.testing.assert_close(short.k[i], k, rtol=1e-9, atol=0)
        torch.testing.assert_close(short.s[i].square(), variance, rtol=1e-9, atol=0)
    torch.testing.assert_close(long.respaced(60).s, long.s, rtol=1e-12, atol=0)


def test_a_thousand_steps_respaced_to_25_are_linear_beta_at_25():
    for name in ("times", "k", "h", "s", "e", "b", "e_ode"):
        found = getattr(Schedule.linear_beta(1000).respaced(25), name)
        wanted = getattr(Schedule.linear_beta(25), name)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_a_model_on_another_grid_has_the_same_network_and_that_grid_s_variance():
    torch.manual_seed(0)
    model = DDPM.mlp(Schedule.log_snr(30), hidden=8, dim=3, learn_backward_std=True).eval()
    with torch.no_grad():
        model.log_b_ratio += 1
    short = model.respaced(5, variance="posterior")
    assert short.score is model.score and not short.training
    torch.testing.assert_close(
        short.backward_std(), posterior_std(short.schedule), rtol=1e-6, atol=0
    )
    assert torch.equal(model.respaced(5).backward_std(), short.schedule.s)
    assert model.schedule.steps == 30 and short.sample(4, seed=0).states.shape == (6, 4, 3)
    x, t = torch.randn(4, 3), short.schedule.times[2].float()
    assert torch.equal(short.score_at(x, t), model.score_at(x, t))
    assert copy.deepcopy(model).double().respaced(5).sample(4).states.dtype == torch.float64


def test_a_grid_of_any_times_can_be_laid_over_the_same_sde():
    model = exact(Schedule.linear_beta(1000))
    times = torch.tensor([0.0, 0.02, 0.3, 1.0], dtype=torch.float64)
    other = model.on(Schedule.at(times, model.schedule.noise_process))
    assert torch.equal(other.schedule.times, times)
    # The probability flow of a Gaussian multiplies, by what DDIM's step says in α and σ.
    alpha, sigma, v = marginals(other.schedule)
    data, noise = alpha * VARIANCE / v, sigma / v  # E x_0 and E ε, as multiples of x
    factors = alpha[:-1] * data[1:] + sigma[:-1] * noise[1:]
    path = other.sample(20, seed=0, lam=0.0)
    torch.testing.assert_close(path.start, factors.prod() * path.end, rtol=1e-9, atol=1e-9)


def test_the_shipped_long_chain_draws_rings_in_thirty_steps_if_they_are_placed_well():
    """Notebook 03: 2000 samples; even steps leak 30 %, steps even in log r 2 %."""
    density = toy.load("olympic_rings")
    long = pretrained("ddpm_linear", "olympic_rings")
    assert long.schedule.steps == 1000
    beta = long.schedule.noise_process
    slope, width = beta.beta_max - beta.beta_min, density.width / density.scale
    r = torch.logspace(math.log10(width), math.log10(4), 30, dtype=torch.float64)
    t = ((beta.beta_min**2 + 2 * slope * torch.log1p(r**2)).sqrt() - beta.beta_min) / slope
    torch.testing.assert_close(beta.r(t), r, rtol=1e-9, atol=0)
    placed = long.on(Schedule.at(torch.cat([torch.zeros(1), t]), beta))
    leaks = [
        metrics.leak(m.sample(2000, seed=0).start, density) for m in (placed, long.respaced(30))
    ]
    assert leaks[0] < 0.04 and leaks[1] > 5 * leaks[0]


# DDIM ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_equation_12_of_its_paper(eta):
    """Song, Meng and Ermon 2020, in ᾱ (their α) and ε, written out."""
    schedule = Schedule.linear_beta(6)
    bar = torch.cat([torch.ones(1, dtype=torch.float64), (schedule.k**2).cumprod(0)])

    def epsilon(x, t):
        return (x + t).sin()

    found = ddim(DDPM(epsilon, schedule).double(), 20, eta=eta, seed=5)
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(20, 2, generator=draw, dtype=torch.float64)
    for i in reversed(range(6)):
        eps, now, then = epsilon(x, schedule.times[i + 1]), bar[i + 1], bar[i]
        std = eta * ((1 - then) / (1 - now)).sqrt() * (1 - now / then).sqrt()
        clean = (x - (1 - now).sqrt() * eps) / now.sqrt()
        x = then.sqrt() * clean + (1 - then - std**2).clamp_min(0).sqrt() * eps
        if std > 0:
            x = x + std * torch.randn(20, 2, generator=draw, dtype=torch.float64)
        # ᾱ is a product here and closed form there; linear β divides by α down to .2.
        torch.testing.assert_close(found[i], x, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", CHAINS)
def test_ddim_without_noise_is_the_chain_with_lambda_zero(name):
    model = exact(CHAINS[name])
    ours, theirs = ddim(model, 30, seed=1), model.sample(30, seed=1, lam=0.0)
    torch.testing.assert_close(ours.states, theirs.states, rtol=1e-9, atol=1e-9)
    assert torch.equal(ours.times, theirs.times)


def test_ddim_with_eta_one_is_ddpm_with_the_variance_of_the_posterior():
    model = exact(Schedule.log_snr(8), variance="posterior")
    ours, theirs = ddim(model, 30, eta=1.0, seed=1), model.sample(30, seed=1)
    # A model keeps its backward std in float32 until it is told otherwise.
    torch.testing.assert_close(ours.states, theirs.states, rtol=1e-5, atol=1e-5)


def test_ddim_there_and_back_returns_to_the_data():
    torch.manual_seed(0)
    net = DDPM.mlp(Schedule.log_snr(10), hidden=16).double()
    with torch.no_grad():
        net.score.net.last.weight *= 0.2
    for model in (exact(Schedule.log_snr(10)), net):
        x = gaussian_data(50)
        path = ddim_encode(model, x, iterations=80)
        assert torch.equal(path.start, x) and len(path) == 11
        back = path.end
        for i in reversed(range(10)):
            back = model.backward_mean(back, i, lam=0.0)
        # The iteration contracts by .8 a time at worst: 80 of them leave 1e-8.
        torch.testing.assert_close(back, x, rtol=0, atol=1e-6)


def test_one_iteration_of_ddim_inversion_misses_by_the_order_of_a_step():
    x, misses = gaussian_data(50), []
    for steps in (50, 100, 200):
        model = exact(Schedule.log_snr(steps, r_min=0.05))
        back = ddim_encode(model, x).end
        for i in reversed(range(steps)):
            back = model.backward_mean(back, i, lam=0.0)
        misses.append((back - x).abs().max().item())
    assert misses[0] > 1.6 * misses[1] > 1.6**2 * misses[2] > 0


# The reverse SDE ----------------------------------------------------------------------------------


def test_the_predictor_is_euler_maruyama_on_the_reverse_sde():
    schedule = Schedule.log_snr(4, r_min=0.1)
    flow = DiffFlow(lambda x, t: (x + t).cos(), lambda x, t: -x, schedule).double()
    sde, t = schedule.noise_process, schedule.times
    found = reverse_sde(flow, 20, seed=3)
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(20, 2, generator=draw, dtype=torch.float64)
    for i in (3, 2, 1, 0):
        now, dt = t[i + 1], t[i + 1] - t[i]
        drift = -sde.beta(now) / 2 * x + sde.gain(now) * (x + now).cos()
        x = x - (drift + sde.beta(now) * x) * dt
        if i > 0:
            z = torch.randn(20, 2, generator=draw, dtype=torch.float64)
            x = x + (sde.beta(now) * dt).sqrt() * z
        torch.testing.assert_close(found[i], x, rtol=1e-12, atol=1e-12)


def variance_of(path):
    return path.start.square().mean().item()


@pytest.mark.parametrize("corrector_steps", [0, 1])
@pytest.mark.parametrize("name", ["linear_beta", "cosine"])
def test_predictor_and_corrector_preserve_the_moments_of_a_gaussian(name, corrector_steps):
    """200 steps; unadjusted Langevin of snr r widens by r² (2.6 % at .16), Euler by O(1/N)."""
    model = exact(getattr(Schedule, name)(200))
    path = reverse_sde(model, 5000, seed=0, corrector_steps=corrector_steps)
    # Four standard errors of a variance from 10 000 numbers are 6 %.
    assert variance_of(path) == pytest.approx(VARIANCE, rel=0.1)
    assert path.start.mean(0).abs().max() < 4 * (VARIANCE / 5000) ** 0.5
    assert len(path) == 201 and torch.equal(path.times, model.schedule.times)


def test_the_corrector_repairs_what_a_coarse_predictor_breaks():
    """Euler's steps on this grid leave the cloud a fifth too wide; Langevin takes half of it."""
    model = exact(Schedule.log_snr(12))
    errors = [
        variance_of(reverse_sde(model, 5000, seed=0, corrector_steps=m)) - VARIANCE for m in (0, 3)
    ]
    assert errors[0] > 0.15 * VARIANCE and abs(errors[1]) < 0.6 * errors[0]


def test_the_reverse_sde_stops_where_it_is_told():
    model = exact(Schedule.linear_beta(10))
    times = torch.tensor([1e-3, 0.2, 0.7, 1.0])
    path = reverse_sde(model, 5, times=times, seed=0, corrector_steps=1)
    torch.testing.assert_close(path.times, times.double())
    assert path.states.shape == (4, 5, 2) and path.states.dtype == torch.float64
    again = reverse_sde(model, 5, times=times, seed=0, corrector_steps=1)
    assert torch.equal(path.states, again.states)


# Bad input ----------------------------------------------------------------------------------------


def test_bad_arguments_are_named():
    schedule = Schedule.log_snr(4)
    model = exact(schedule)
    flow = DiffFlow(torch.tanh, torch.tanh, schedule)
    euler = Schedule.polynomial(4)
    cases = [
        (r"prediction must be 'noise', 'x0', 'v' or 'score', got 'eps'",
         lambda: DDPM(torch.tanh, schedule, prediction="eps")),
        (r"variance must be 'beta' or 'posterior', got 'small'",
         lambda: DDPM(torch.tanh, schedule, variance="small")),
        (r"schedule must have the noise process .*LogSNR.*got LinearBeta",
         lambda: model.on(Schedule.linear_beta(4))),
        (r"schedule must be a Schedule, got 30", lambda: model.on(30)),
        (r"steps must be at most the 4 of this grid, got 5", lambda: model.respaced(5)),
        (r"steps must be a whole number, 1 or more, got 0", lambda: model.respaced(0)),
        (r"only a chain whose linear part is integrated can", lambda: euler.respaced(2)),
        (r"times must start at 0", lambda: Schedule.at([0.1, 1.0], LinearBeta())),
        (r"offset must be positive and finite, got 0", lambda: Schedule.cosine(4, offset=0)),
        (r"x must be a torch.Tensor", lambda: model.bound_terms([1.0])),
        (r"model must be a DDPM, .* got DiffFlow", lambda: ddim(flow, 3)),
        (r"model must be a DDPM, .* got DiffFlow", lambda: ddim_encode(flow, torch.randn(3, 2))),
        (r"eta must be a number from 0 to 1, got 1\.5", lambda: ddim(model, 3, eta=1.5)),
        (r"n must be a whole number, 1 or more, got 0", lambda: ddim(model, 0)),
        (r"shape must be a tuple", lambda: ddim(model, 3, shape=2)),
        (r"iterations must be a whole number", lambda: ddim_encode(model, normals(3, 2), 0)),
        (r"model must be a DDPM or DiffFlow, got str", lambda: reverse_sde("ddpm", 3)),
        (r"corrector_steps must be a whole number, 0 or more, got -1",
         lambda: reverse_sde(model, 3, corrector_steps=-1)),
        (r"snr must be positive and finite, got 0", lambda: reverse_sde(model, 3, snr=0)),
        (r"times must be a tensor \(M \+ 1,\)", lambda: reverse_sde(model, 3, times=10)),
        (r"times must rise strictly from 0 or more to T = 1",
         lambda: reverse_sde(model, 3, times=torch.tensor([0.0, 2.0]))),
    ]  # fmt: skip
    for message, call in cases:
        with pytest.raises(ValueError, match=message):
            call()


def test_the_reverse_sde_starts_where_particles_are_noise():
    model = DDPM.mlp(Schedule.log_snr(6), hidden=16)
    with pytest.raises(ValueError, match="where particles are N"):
        reverse_sde(model, 3, times=model.schedule.times[:4])


@pytest.mark.parametrize("mode", [True, False])
def test_the_ddpm_inside_a_diffflow_keeps_its_mode(mode):
    assert DDPM.of(DiffFlow.mlp(Schedule.log_snr(6), hidden=16).train(mode)).training is mode


def test_only_a_diffflow_has_a_ddpm_inside():
    with pytest.raises(ValueError, match="model must be a DiffFlow, got CNF"):
        DDPM.of(CNF.mlp(hidden=16))
