# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # DDPM and the reverse SDE
#
# Five rings become noise; the way back is derived, learned, and counted in nats.
#
# ## What you will learn
#
# - Why the way **into** the noise needs no simulation: one jump reaches any time.
# - The **reverse SDE** and the **probability flow**, derived, and the sampler they give.
# - The **variational bound**, term by term, and *where it spends its nats*.
# - Why the network predicts the noise $\varepsilon$.
# - That on thin rings the **grid of noise levels** decides more than the number of steps: thirty
#   well-placed steps do the work of a thousand.
#
# **Time and memory:** about 33 s of processor time, a third of it training (slower machines need up to three times that), and 750 MB.

# %%
import math

import matplotlib.pyplot as plt
import torch

from diffflow_edu import (
    DDPM,
    Schedule,
    Trajectory,
    exercises,
    figures,
    fit,
    metrics,
    play,
    pretrained,
    toy,
)
from diffflow_edu.processes.ddpm import posterior_std
from diffflow_edu.processes.samplers import ddim, reverse_sde
from diffflow_edu.verdicts import verdict

torch.set_num_threads(1)  # nets this small gain little from a second core
density = toy.load("olympic_rings", width=0.01)
width = density.width / density.scale  # of a ring, in the units of the samples

# %% [markdown]
# ## 1. Forward in one jump
#
# A diffusion that keeps the variance of its particles shrinks them a little and adds a little noise,
# all the time ($t = 0$ is the data, $t = T$ the noise, as everywhere in this course):
#
# $$dx = -\tfrac12 \beta(t)\,x\,dt + \sqrt{\beta(t)}\,dw .$$
#
# It is the Ornstein–Uhlenbeck process of notebook 02 with a clock of its own: $\beta(t)$ is a *rate*. Over a step from
# $t_i$ to $t_{i+1}$ the *share* $\beta_i = 1 - \exp\bigl(-\int_{t_i}^{t_{i+1}} \beta\,dt\bigr)$ of the variance is replaced by noise,
# exactly: $x_{i+1} = \sqrt{1-\beta_i}\,x_i + \sqrt{\beta_i}\,\delta_i$. Scaling a Gaussian and adding another one gives a
# Gaussian, so all steps up to time $t$ are one single step.
#
# **Exercise 1. Jump.** Let $\bar\alpha_t = \prod_i (1 - \beta_i) = \exp\bigl(-\int_0^t \beta\bigr)$. By which numbers
# must $x_0$ and one draw $\varepsilon \sim \mathcal N(0, I)$ be multiplied to give $x_t$? Variances add. `bar` is
# $\bar\alpha_t$, a tensor with one number in it; return $x_t$.


# %% tags=["exercise"]
def jump(x_0, eps, bar):
    return None  # your answer


# %% tags=["check"]
exercises.check_jump(jump)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def jump(x_0, eps, bar):
#     return bar.sqrt() * x_0 + (1 - bar).sqrt() * eps
# ```
#
# </details>

# %% [markdown]
# $$x_t = \alpha\, x_0 + \sigma\,\varepsilon, \qquad \alpha = \sqrt{\bar\alpha_t},\; \sigma = \sqrt{1 - \bar\alpha_t}. \tag{1}$$
#
# The ratio $r = \sigma/\alpha$ is the noise per unit of data. A thousand steps or one jump: is it the same cloud? We go to
# $t = 0.1$ along DDPM's own schedule, jump there, too, and compare with the distance between two clouds of *data*.

# %%
thousand = Schedule.linear_beta(steps=1000)
walker = DDPM(lambda x, t: -x, thousand)  # any score will do: the way out does not use it
x = density.sample(4000, seed=1)

walked = walker.encode(x, seed=0)[100]
bar = thousand.noise_process.alpha(torch.tensor(0.1)).square()
eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
jumped = bar.sqrt() * x + (1 - bar).sqrt() * eps

floor = metrics.floor(density, 4000)
print(
    f"ᾱ at t = 0.1: as a product {thousand.k[:100].square().prod():.4f}, in closed form {bar:.4f}"
)
fine = torch.linspace(0.099, 0.1, 1001)
share = 1 - (-torch.trapezoid(thousand.noise_process.beta(fine), fine)).exp()
print(f"β_99: from the step {1 - thousand.k[99] ** 2:.5f}, from the rate {share:.5f}")
print(f"sliced W2 of the clouds {metrics.sliced_w2(walked, jumped):.3f}, the floor {floor:.3f}")

# %% [markdown]
# **Explain.** This is why diffusions are cheap to train: any step can be visited directly.
#
# ### What noise does to a crossing
#
# **Predict:** a ring is `width` thick. After how many widths of noise can you no longer tell which ring a particle at a
# crossing came from?

# %%
crossing = (-1.552, -0.44)  # the two rings at the left, lower crossing
many = density.sample(30_000, seed=3)
ring = density.mode(many)
noise = torch.randn(many.shape, generator=torch.Generator().manual_seed(0))
levels = {f"r = {k} width{'s' * (k != 1)}": many + k * width * noise for k in (0, 1, 3, 10)}

figures.magnifier(
    levels, crossing, half=0.2, color=ring,
    title="With noise of ten ring widths the two rings of a crossing are mixed",
)  # fmt: skip
plt.show()

for name, noisy in levels.items():
    near = (noisy - noisy.new_tensor(crossing)).abs().amax(1) < 0.1
    right = (density.mode(noisy) == ring)[near].float().mean()
    print(f"{name:12s}  nearest ring is the right one for {right:4.0%} of those near the crossing")

# %% [markdown]
# A square of 0.4 units around a crossing, the particles coloured by the ring they came from. At ten widths the two colours are mixed, and the nearest ring is right hardly more often
# than by chance. So a particle *decides* which way to leave the crossing between $r = 0.07$ and $r = 0.02$, when little of
# the noise is left. A sampler whose last step starts above these numbers cannot take that decision.
#
# ## 2. The way back, derived
#
# Where did a particle at $y = x_{i+1}$ come from? Bayes: $p(x_i \mid y) \propto p(y \mid x_i)\; p_i(x_i)$. The forward step is
# $y = x_i + f\,\Delta t + g\sqrt{\Delta t}\,z$, so, writing $x$ for $x_i$,
#
# $$\log p(x \mid y) = -\frac{\|y - x - f \Delta t\|^2}{2 g^2 \Delta t} + \log p_i(x) + \text{const}.$$
#
# A short step leaves $x$ close to $y$. So take $f$ at $y$, and $\log p_i$ to first order, $\log p_i(x) \approx \log p_i(y) + s \cdot (x - y)$,
# with the score $s = \nabla \log p(y)$. A square plus a linear term is a square again:
#
# $$\log p(x \mid y) \approx -\frac{\|x - (y - [f - g^2 s]\,\Delta t)\|^2}{2 g^2 \Delta t} + \text{const}, \qquad
# p(x_i \mid x_{i+1}) \approx \mathcal N\bigl(x_{i+1} - [f - g^2 s]\,\Delta t,\; g^2 \Delta t\, I\bigr). \tag{2}$$
#
# **The reversal of a short step is a Gaussian step**, with the variance of the forward step and the drift $f - g^2 s$. In
# the limit it is Anderson's reverse SDE (1982), $dx = [f - g^2 s]\,dt + g\,dw$, where $t$ runs down and $dt < 0$. It has the
# distributions of the forward process *if it is started from* $p_T$. A sampler starts from $\mathcal N(0, I)$, so $p_T$ must be
# close to it.
#
# For our step, $y = \sqrt{1-\beta_i}\,x + \sqrt{\beta_i}\,z$, the mean is even exact: Tweedie's formula (notebook 02) with
# the score at $t_{i+1}$ says $\sqrt{1-\beta_i}\;\mathbb E[x \mid y] = y + \beta_i\,s(y)$. Only the Gaussian is an
# approximation. How good is it? On a line with two humps as data, the exact $p(x_i \mid x_{i+1})$ is a sum of two
# Gaussians. **Predict:** what does it look like for a big step?

# %%
HUMP, y = 0.2, torch.tensor(0.3, dtype=torch.float64)
x = torch.linspace(-7, 7, 14001, dtype=torch.float64)


def normal(x, mean, variance):
    return torch.exp(-0.5 * (x - mean) ** 2 / variance) / (2 * math.pi * variance).sqrt()


def reversal(bar, beta):
    """p(x_i | x_{i+1} = y) on a grid, where ᾱ_i = bar, and the Gaussian derived, with its mean."""
    variance = torch.tensor(bar * HUMP**2 + 1 - bar, dtype=torch.float64)
    p_i = 0.5 * (normal(x, bar**0.5, variance) + normal(x, -(bar**0.5), variance))
    exact = p_i * normal(y, (1 - beta).sqrt() * x, beta)
    exact = exact / exact.sum() / (x[1] - x[0])
    after, shrunk = (1 - beta) * variance + beta, (bar * (1 - beta)).sqrt()
    s = -(y - shrunk * torch.tanh(y * shrunk / after)) / after  # the score of x_{i+1} at y
    mean = (y + beta * s) / (1 - beta).sqrt()
    return exact, normal(x, mean, beta), mean


panels, dx = [], x[1] - x[0]
print("   β_i    mean: exact  derived   variance: exact  derived       KL")
for beta in (0.6, 0.2, 0.05, 0.0125, 0.003125):
    exact, gaussian, mean = reversal(0.9, torch.tensor(beta, dtype=torch.float64))
    m = (x * exact).sum() * dx
    v = ((x - m) ** 2 * exact).sum() * dx
    kl = torch.xlogy(exact, exact).sum() * dx
    kl = kl + 0.5 * math.log(2 * math.pi * beta) + 0.5 * (v + (m - mean) ** 2) / beta
    print(f"{beta:7.4f}   {m:10.4f}  {mean:7.4f}   {v:14.4f}  {beta:7.4f}   {kl:8.4f}")
    seen = x.abs() < 2.5
    title = f"$\\beta_i$ = {beta:g}"
    panels.append(figures.Reversal(title, x[seen], exact[seen], gaussian[seen], kl.item()))
figures.reversals(
    panels[:3],
    title="The shorter the step, the more Gaussian its reversal",
    xlabel="$x_i$",
    names=("$p(x_i | x_{i+1})$", "derived"),
)
plt.show()

# %% [markdown]
# Grey: the exact distribution of $x_i$, given $x_{i+1} = 0.3$; orange: the Gaussian of the derivation.
#
# **Explain.** The means agree, as Tweedie says; the variances agree for short steps. The divergence falls much faster
# than the step: many short steps cost less in sum than one long one.
#
# **Exercise 2. DDPM's sampler.** Build it. `score(x, i)` is the score at $t_i$, `betas` $(N,)$ holds $\beta_0, \dots,
# \beta_{N-1}$, `x` are the particles at $t_N$, `noise[i]` the draw of the step from $t_{i+1}$ to $t_i$, $(N, B, d)$ in all.
# Give every step the exact mean and the variance $\beta_i$; the last one, to the data, adds no noise.


# %% tags=["exercise"]
def ddpm_sample(score, betas, x, noise):
    return None  # your answer


# %% tags=["check"]
exercises.check_ddpm_sample(ddpm_sample)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def ddpm_sample(score, betas, x, noise):
#     for i in reversed(range(len(betas))):
#         x = (x + betas[i] * score(x, i + 1)) / (1 - betas[i]).sqrt()
#         if i > 0:
#             x = x + betas[i].sqrt() * noise[i]
#     return x
# ```
#
# </details>

# %% [markdown]
# ### The probability flow
#
# How does the density $p_t$ itself move? The drift carries mass: $-\nabla \cdot (f p)$, as in notebook 01. The noise replaces $p(x)$ by
# its mean over steps of variance $g^2 dt$, $\mathbb E\,p(x - g\sqrt{dt}\,z) = p + \tfrac12 g^2\,dt\,\nabla^2 p$. Both together
# are the **Fokker–Planck equation**. Since $\nabla p = p\,\nabla \log p$, the noise too can be written as mass that is carried:
#
# $$\partial_t p = -\nabla \cdot (f p) + \tfrac12 g^2 \nabla^2 p = -\nabla \cdot \bigl([f - \tfrac12 g^2\, \nabla \log p]\, p\bigr).$$
#
# So the ODE $dx = [f - \frac12 g^2 s]\,dt$, without any noise, moves the same density. **Predict:** with a converged
# model of the zoo, and from the same noise, which paths will be smooth?

# %%
converged = pretrained("ddpm", "olympic_rings", steps=30)
print(converged.card["command"])

times = converged.schedule.respaced(30).times
ways = {
    "reverse SDE": reverse_sde(converged, 2000, times=times, seed=0),
    "probability flow": converged.sample(2000, seed=0, lam=0.0),
}
figures.paths_beside(
    ways,
    color=density.mode,
    particles=12,
    behind=density.sample(3000, seed=2),
    title="The same noise: the SDE shakes its particles, the flow does not",
)
plt.show()
for name, path in ways.items():
    print(f"{name:16s}  leak {metrics.leak(path.start, density):.1%}")

# %% [markdown]
# Twelve particles from noise (dots) to data (circles), coloured by the ring they land on, over the rings in grey.
#
# ### What the network sees
#
# By Tweedie's formula a score is a guess of the data: the mean of all $x_0$ that could have led to $x_t$ is
# $\hat x_0 = (x_t + \sigma^2 s)/\alpha$.

# %%
path = converged.encode(density.sample(1500, seed=1), seed=0)
with torch.no_grad():
    guesses = [converged.denoised(path[i], path.times[i]) for i in range(1, len(path))]
guess = Trajectory(path.times, torch.stack([path.start, *guesses]))  # at t = 0 it is no guess

figures.film_strip(
    {"$x_t$": path, "guess $\\hat x_0$": guess},
    color=density.mode(path.start),
    title="Far out, the best guess is the middle; it unfolds into rings as the noise falls",
)
plt.show()

# %% [markdown]
# Top row: the particles, coloured by their ring. Bottom row: where the network expects each of them to come from. In pure
# noise (right) the best guess is near the mean of all data; towards the data the guesses spread to a band, to five loops,
# and to thin rings.
#
# ## 3. The bound, term by term
#
# How good is a model, in nats? $-\log p_B(x_0)$ of a chain is an integral over all paths, which nobody can compute. But
# it has an upper bound.
#
# **Line 1.** For any distribution of paths, Jensen's inequality:
#
# $$-\log p_B(x_0) \le \mathbb E\Bigl[\log \frac{p_F(x_{1:N} \mid x_0)}{p_B(x_{0:N})}\Bigr]
# = \mathbb E\Bigl[-\log p_B(x_N) + \sum_{i=0}^{N-1}
# \log \frac{p_F(x_{i+1} \mid x_i)}{p_B(x_i \mid x_{i+1})}\Bigr] .$$
#
# **Line 2.** Reverse the forward steps, *given where they started*. For $i \ge 1$, Bayes says
# $p_F(x_{i+1}\mid x_i) = p_F(x_i \mid x_{i+1}, x_0)\, p_F(x_{i+1}\mid x_0) / p_F(x_i \mid x_0)$, and in the sum over $i$
# only the ends of the last two factors remain:
#
# $$= \underbrace{\mathbb E\bigl[-\log p_B(x_0 \mid x_1)\bigr]}_{\text{reconstruction}}
# + \sum_{i=1}^{N-1} \underbrace{\mathbb E\,\mathrm{KL}\bigl(p_F(x_i \mid x_{i+1}, x_0) \,\|\,
# p_B(x_i \mid x_{i+1})\bigr)}_{\text{one per step}}
# + \underbrace{\mathrm{KL}\bigl(p_F(x_N \mid x_0)\,\|\,\mathcal N(0, I)\bigr)}_{\text{prior}} \tag{3}$$
#
# **Line 3.** All of these are Gaussians. With $x_0$ given, the reversed step is
#
# $$p_F(x_i \mid x_{i+1}, x_0) = \mathcal N\bigl(m_i,\; \tilde\beta_i I\bigr), \qquad
# m_i = \frac{\alpha_i \beta_i}{\sigma_{i+1}^2}\,x_0 +
# \frac{\sqrt{1 - \beta_i}\,\sigma_i^2}{\sigma_{i+1}^2}\, x_{i+1}, \qquad
# \tilde\beta_i = \frac{\sigma_i^2}{\sigma_{i+1}^2}\,\beta_i , \tag{4}$$
#
# the model's step has the mean $(x_{i+1} + \beta_i\, s)/\sqrt{1-\beta_i}$ of section 2 and a standard deviation $b_i$ of our choice.
#
# **Exercise 3. Two Gaussians.** All we need is
# $\mathrm{KL}\bigl(\mathcal N(m_1, v_1 I)\,\|\,\mathcal N(m_2, v_2 I)\bigr)$ in $d$ dimensions.
# The means have shape $(B, d)$, the variances are tensors with one number in them. Return $B$ numbers.


# %% tags=["exercise"]
def gaussian_kl(mean_1, var_1, mean_2, var_2):
    return None  # your answer


# %% tags=["check"]
exercises.check_gaussian_kl(gaussian_kl)


# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def gaussian_kl(mean_1, var_1, mean_2, var_2):
#     d, ratio = mean_1.shape[1], var_1 / var_2
#     far = (mean_1 - mean_2).square().sum(1) / var_2
#     return 0.5 * (far + d * (ratio - 1 - ratio.log()))
# ```
#
# </details>

# %% [markdown]
# `DDPM.bound_terms` returns the three parts of equation 3 for every particle. We compute one of its KLs by hand, from
# equation 4.

# %%
c, i = converged.schedule, 12
alpha, sigma = (f(c.times) for f in (c.noise_process.alpha, c.noise_process.sigma))
beta = 1 - c.k**2
x_0 = density.sample(10_000, seed=5)
eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(2))
x_next = alpha[i + 1] * x_0 + sigma[i + 1] * eps  # (1)

m = alpha[i] * beta[i] / sigma[i + 1] ** 2 * x_0  # (4)
m = m + (1 - beta[i]).sqrt() * sigma[i] ** 2 / sigma[i + 1] ** 2 * x_next
tilde = sigma[i] ** 2 / sigma[i + 1] ** 2 * beta[i]
with torch.no_grad():
    score = converged.score_at(x_next.float(), c.times[i + 1].float())
    model_mean = (x_next + beta[i] * score) / (1 - beta[i]).sqrt()
    share = tilde / converged.backward_std()[i] ** 2
    far = (m - model_mean).square().sum(1) / converged.backward_std()[i] ** 2
    of_variances = share - 1 - share.log()  # d/2 = 1
    by_hand = 0.5 * far + of_variances

terms = converged.bound_terms(x_0, seed=0)
print(terms)
print(f"step {i} by hand: {by_hand.mean():.2f} nats, by the library: {terms.kl[i - 1].mean():.2f}")
with torch.no_grad():
    whole = converged.bound(x_0, seed=0).mean()
print(f"the sum {terms.total.mean():.2f}, the bound of whole paths (notebook 04) {whole:.2f} nats")
print(f"entropy of the data, below which no bound can be: {density.entropy():.2f} nats")

# %% [markdown]
# The reconstruction is *negative*: it is minus a log density, and a Gaussian as thin as a ring is high.
#
# ### Which variance? Ask Gaussian data
#
# On $\mathcal N(0, 0.3\,I)$ the exact score is known, $s = -x/(0.3\,\bar\alpha + \sigma^2)$, and so is the truth,
# 1.634 nats. What lies above it is the cost of finite steps and of the choice of $b_i$: DDPM offered
# $b_i^2 = \beta_i$ and $b_i^2 = \tilde\beta_i$. ($\tilde\beta_0$ is 0; a step without noise has no density, so the code does
# as Ho et al. and takes $\tilde\beta_1$ there.) The third choice is the best one, learned or put in by `calibrate`.
#
# **Predict:** with the exact score, how much can the variance matter?

# %%
truth = math.log(2 * math.pi * math.e * 0.3)
prices = {}
print("             b² = β   posterior    best   truth")
for n in (10, 30, 300):
    c = Schedule.log_snr(n)
    bars = c.noise_process.alpha(c.times) ** 2
    v = 0.3 * bars + (1 - bars)  # the variance of x_i
    true = c.s**2 * v[:-1] / v[1:]  # of x_i given x_{i+1}: all is Gaussian, the means agree
    for name, b in {"β": c.s, "posterior": posterior_std(c), "best": true.sqrt()}.items():
        ratio = true / b**2
        extra = (ratio - 1 - ratio.log()).sum() + v[-1] - 1 - v[-1].log()  # d/2 = 1
        prices[n, name] = truth + extra.item()
    plain, posterior, best = (prices[n, k] for k in ("β", "posterior", "best"))
    print(f"N = {n:3d}      {plain:6.3f}   {posterior:9.3f}  {best:6.3f}  {truth:6.3f}")

print()
verdict(
    "N = 300, b² = β: above the truth by",
    prices[300, "β"] - truth,
    form=".3f",
    below=0.01,
    exact=True,
)
least = min(prices[n, "posterior"] for n in (10, 30, 300)) - truth
verdict("the posterior's costs at least", least, "nats", above=2, exact=True)

# %% [markdown]
# **Explain.** The means are exact here; the variance alone decides. $\beta_i$ is the right variance if the data were pure
# noise, $\tilde\beta_i$ if they were a single point. Real data need something in between, one number a step.
#
# ## 4. Predict the noise
#
# Put $x_0 = (x_{i+1} - \sigma_{i+1}\varepsilon)/\alpha_{i+1}$ into the mean of equation 4, and let the network predict
# noise too, $s = -\varepsilon_\theta/\sigma_{i+1}$. The two means then differ by the noises only:
#
# $$\mathrm{KL}_i = \frac{\beta_i^2}{2\, b_i^2\,(1-\beta_i)\,\sigma_{i+1}^2}\;
# \bigl\|\varepsilon - \varepsilon_\theta(x_{i+1}, t_{i+1})\bigr\|^2 + \text{(variances)}. \tag{5}$$
#
# The score grows like $1/\sigma$ towards the data; the noise stays of order one, which a network learns more easily. And $N$
# times the term of a *random* step of a *random* particle, plus the prior, is an unbiased estimate of the bound: that
# is the training loop. Ho et al. drop the factor in front, $L_\text{simple}$; we count nats and keep it. (The appendix has other predictions.) A check with the numbers of section 3:

# %%
predicted = -sigma[i + 1] * score
weight = beta[i] ** 2 / (2 * converged.backward_std()[i] ** 2 * (1 - beta[i]) * sigma[i + 1] ** 2)
squares = weight * (eps - predicted).square().sum(1)
off = (squares + of_variances - by_hand).abs().max() / by_hand.max()
verdict("equation 5 and the KL by hand, relative difference", off, form=".0e", below=1e-3)

# %% [markdown]
# ## 5. Thirty steps, placed twice
#
# DDPM took $N = 1000$ steps with $\beta$ rising linearly. What happens at $N = 30$? Is it the number of steps that
# counts, or where they are? The picture shows $r$ after each step. The **log-SNR grid** (SNR is the
# signal-to-noise ratio, $1/r^2$) spaces $r$ evenly on a log scale, from the width of a ring to more than the size of the data.

# %%
grids = {
    "linear β, N = 30": Schedule.linear_beta(30),
    "log-SNR, N = 30": Schedule.log_snr(30, r_min=width, r_max=4.0),
}
linear, log_snr = grids
colors = {linear: figures.MODES[3], log_snr: figures.MODES[2]}
more = {"linear β, N = 1000": thousand}

with figures.style():
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    axes.axhspan(0.02, 0.07, color="0.92", lw=0)
    for name, schedule in {**more, **grids}.items():
        share = torch.arange(1, schedule.steps + 1) / schedule.steps
        r = schedule.noise_process.r(schedule.times[1:])
        look = {"marker": "o", "ms": 4} if schedule.steps <= 30 else {"color": figures.MODES[4]}
        look = {"color": colors.get(name, "0.6")} | look
        axes.semilogy(share, r, lw=1.5, label=name, **look)
    axes.axhline(width, color="0.5", ls=":")
    axes.text(1, width * 1.15, "width of a ring", ha="right", color="0.4")
    axes.text(1, 0.031, "a crossing decides here", ha="right", color="0.4")
    axes.set(ylim=(4e-3, 400), title="Thirty linear steps begin above everything thin")
    axes.set_xlabel("step, as a share of all steps (data left, noise right)")
    axes.set_ylabel("noise per signal $r = \\sigma/\\alpha$")
    axes.legend(fontsize=10)
plt.show()

for name, schedule in {**grids, **more}.items():
    fine = (schedule.noise_process.r(schedule.times[1:]) < 0.1).sum()
    print(f"{name:18s}  steps below r = 0.1: {fine:3d} of {schedule.steps}")

# %% [markdown]
# Thirty linear steps (pink) start at $r = 0.12$, above the grey band where a crossing is decided; half of them lie beyond
# $r = 4$, where hardly anything is left of the data. A thousand (yellow) follow the same curve down to the width of a ring.
# The log-SNR grid (green) has 13 of its thirty below 0.1.
#
# **Predict:** two equal networks, the same training; which share of the samples will miss the rings, under either grid?


# %%
def train(schedule):
    """The same network from the same seed, a thousand batches, and the best b in the end."""
    torch.manual_seed(0)
    model = DDPM.mlp(schedule)
    fit(model, density, steps=1000, batch_size=800, lr=1e-2)
    model.calibrate(density.sample(5000, seed=2))
    return model


models = {name: train(grid) for name, grid in grids.items()}
test = density.sample(4000, seed=4)
samples = {name: model.sample(2000, seed=0) for name, model in models.items()}
terms = {name: model.bound_terms(test, seed=0) for name, model in models.items()}
leak = {name: metrics.leak(path.start, density) for name, path in samples.items()}
gap = {name: metrics.bound_gap(each.total.mean(), density) for name, each in terms.items()}


def approx(value, form):
    """A number as trained here; another processor trains a little differently."""
    return f"≈{value:{form}}"


print("                  calls a sample   gap [nats]    leak")
for name, model in models.items():
    print(
        f"{name:16s}  {model.schedule.steps:14d} {approx(gap[name], '.2f'):>12s}  {approx(leak[name], '.1%'):>6s}"
    )
print()
verdict("leak on the log-SNR grid over that on linear β", leak[log_snr] / leak[linear], below=0.1)
verdict("its bound is lower by", gap[linear] - gap[log_snr], "nats", above=1)

# %%
figures.samples_against_truth(
    {name: path.start for name, path in samples.items()},
    density,
    color=density.mode,
    title="Same network, same training; only the grids differ",
)
plt.show()

# %% [markdown]
# On thirty linear steps the rings come out wide; on the log-SNR grid they are lines, after seconds of training. With a minute of processor time for each (`benchmarks/toy.py`, means over three seeds) the
# difference in leak is a hundredfold:
#
# | | calls a sample | gap [nats] | leak | sliced W2 (data: 0.013<!-- from toy floors.olympic_rings.sliced_w2 -->) |
# |---|---|---|---|---|
# | linear β, N = 30 | 30 | 2.35<!-- from toy cells.ddpm-linear-30.olympic_rings.gap.mean --> | 27.0%<!-- from toy cells.ddpm-linear-30.olympic_rings.leak.mean --> | 0.035<!-- from toy cells.ddpm-linear-30.olympic_rings.sliced_w2.mean --> |
# | log-SNR, N = 30 | 30 | 0.49<!-- from toy cells.ddpm-log_snr-30.olympic_rings.gap.mean --> | 0.2%<!-- from toy cells.ddpm-log_snr-30.olympic_rings.leak.mean --> | 0.040<!-- from toy cells.ddpm-log_snr-30.olympic_rings.sliced_w2.mean --> |
# | linear β, N = 1000 | 1000 | 0.59<!-- from toy cells.ddpm-linear-1000.olympic_rings.gap.mean --> | 2.0%<!-- from toy cells.ddpm-linear-1000.olympic_rings.leak.mean --> | 0.020<!-- from toy cells.ddpm-linear-1000.olympic_rings.sliced_w2.mean --> |
#
# A thousand linear steps take 33 times the calls and still leak more, but are better in W2. Where does the bound spend its
# nats?

# %%
figures.bound_bars(
    {name: (models[name].schedule, terms[name]) for name in models},
    title="Linear β: half of the steps carry nothing, the first ones too much",
    colors=tuple(colors.values()),
)
plt.show()

paid = {}
for name, model in models.items():
    r = model.schedule.noise_process.r(model.schedule.times)
    inner = int((r[1:] < 0.125).sum())  # steps that begin (on the way back) below r = 0.125
    stretch = terms[name].reconstruction + terms[name].kl[: inner - 1].sum(0)
    paid[name] = stretch.mean().item()
    rest = terms[name].total.mean().item() - paid[name]
    nats = f"{approx(paid[name], '.2f'):>6s} nats in {inner:2d} steps;  the rest: {approx(rest, '.2f')}"
    print(f"{name:16s}  from r = {r[inner]:.2f}: {nats}")
lost = (paid[linear] - paid[log_snr]) / (gap[linear] - gap[log_snr])
verdict("share of the difference lost in linear β's last step", lost, form=".0%", above=0.8)

# %% [markdown]
# The picture: the KL of every step, next to the data at the left. Under linear β (left panel) the second step from the data, $i = 1$,
# costs about a nat and the outer half nothing: there is nothing left to learn there. On the log-SNR grid (right panel) most
# steps cost about the same. The first step from the data is the reconstruction, a number in the corner: linear β makes it
# from $r = 0.12$ in a single Gaussian, the log-SNR grid has fourteen steps for it. Below the picture, what the two pay for
# this stretch, and for the rest.
#
# **Explain.** Far from the data thirty steps of any kind suffice. Nearly all of the difference is lost in the *last* step
# of the linear chain. It is a big step in the sense of section 2: one Gaussian for a decision with two outcomes, and for a
# ring that is much thinner than the noise.
#
# ## 6. One score, many samplers
#
# The zoo has a model with a thousand steps, on Ho et al.'s own grid. Its network knows the score at *all* times, so we
# may skip 970 of them (`model.respaced(30)`), or put another grid on the same SDE (`model.on(schedule)`).
#
# And a step need not be noisy. **DDIM** (Song, Meng and Ermon 2020): guess the data, and jump back in with the *same*
# noise, to a level where there is less of it.
#
# **Exercise 4. A DDIM step.** `x` is $x_{i+1}$, `eps` the noise that the network sees in it, `bar` and `bar_before` are
# $\bar\alpha$ at $t_{i+1}$ and at $t_i$. Solve equation 1 for $\hat x_0$, then use it again.


# %% tags=["exercise"]
def ddim_step(x, eps, bar, bar_before):
    return None  # your answer


# %% tags=["check"]
exercises.check_ddim_step(ddim_step)


# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def ddim_step(x, eps, bar, bar_before):
#     x_0 = (x - (1 - bar).sqrt() * eps) / bar.sqrt()
#     return bar_before.sqrt() * x_0 + (1 - bar_before).sqrt() * eps
# ```
#
# </details>

# %% [markdown]
# **Predict:** thirty of the thousand steps, evenly picked. And thirty where the log-SNR grid would put them. Same network.

# %%
long = pretrained("ddpm_linear", "olympic_rings", steps=1000)
print(long.card["command"])
sde = long.schedule.noise_process


def time_of(r):
    """The t at which linear β has the noise-to-signal ratio r: ∫β dt = log(1 + r²), solved."""
    slope = sde.beta_max - sde.beta_min
    root = (sde.beta_min**2 + 2 * slope * torch.log1p(r**2)).sqrt()
    return (root - sde.beta_min) / slope


spaced = torch.cat([torch.zeros(1), time_of(torch.logspace(math.log10(width), math.log10(4), 30))])
even, placed = long.respaced(30), long.on(Schedule.at(spaced, sde))
ways = {
    "all 1000 steps": long.sample(2000, seed=0),
    "30 of them, even": even.sample(2000, seed=0),
    "30 of them, even, DDIM": ddim(even, 2000, seed=0),
    "30 placed by log r": placed.sample(2000, seed=0),
    "30 placed by log r, DDIM": ddim(placed, 2000, seed=0),
}
leaks = {name: metrics.leak(path.start, density) for name, path in ways.items()}
print("                          calls    leak    sliced W2")
for name, path in ways.items():
    far = metrics.sliced_w2(path.start, test[:2000])
    print(f"{name:24s}  {len(path) - 1:5d}  {approx(leaks[name], '.1%'):>6s}  {far:8.2f}")
print(f"data against data                         {metrics.floor(density, 2000):8.2f}")
print()
verdict("thirty even steps leak", leaks["30 of them, even"], form=".1%", above=0.2)
verdict("placed by log r they leak", leaks["30 placed by log r"], form=".1%", below=0.04)
verdict("all thousand leak", leaks["all 1000 steps"], form=".1%", above=0.01)

# %% [markdown]
# **Explain.** The number of steps was not the point. Thirty calls of one network leak nearly as little as a thousand, if
# they are placed where noise and rings are of one size. (Two clouds of data differ by the last number of the table:
# smaller differences in sliced W2 mean nothing.)
#
# ## 7. The way back, to play with

# %%
play(
    samples,
    color=density.mode,
    direction="backward",
    density=density,
    title="Thirty steps to the data: under linear β the rings appear in the last few",
)

# %% [markdown]
# Under linear β nothing can be seen for most of the way, then the rings have to appear in a few steps, and stay wide. On
# the log-SNR grid they appear about half-way, and the other steps make them thin.
#
# **An open question.** Change `r_max` of the log-SNR grid to 1.5 or to 20 (section 5): predict gap, prior and leak,
# measure, explain.
#
# ## What to remember
#
# - Into the noise in **one jump**, $x_t = \alpha x_0 + \sigma\varepsilon$; training visits any step directly.
# - Back with the **score**: Bayes and a completed square give $f - g^2 s$ with noise, Fokker–Planck
#   $f - \frac12 g^2 s$ without. The reversal of a *short* step is Gaussian.
# - The bound is **reconstruction + one KL per step + prior**, all Gaussian, all in nats; `bound_terms` prints them.
# - The **backward variance** decides the bound at few steps, and the best one costs nothing: learn it or `calibrate`.
# - A step is useful only where noise and structure are of one size. **Place steps evenly in log r**, from the
#   finest width to the size of the data: thirty of those do the work of a thousand linear ones.
#
# ## Appendix: variants
#
# What a network may predict. All are the same model if the network is perfect, and `DDPM` turns each into a score:
#
# | `prediction=` | the network predicts | $\varepsilon$ is | its error is multiplied by, in the score |
# |---|---|---|---|
# | `"noise"` | $\varepsilon$ | as it is | $1/\sigma$ |
# | `"x0"` | $x_0$ | $(x - \alpha x_0)/\sigma$ | $\alpha/\sigma^2$ |
# | `"v"` | $v = \alpha\varepsilon - \sigma x_0$ (Salimans and Ho) | $\sigma x + \alpha v$ | $\alpha/\sigma$ |
#
# How a step may be taken. Euler–Maruyama on the reverse SDE is the *predictor*. Song et al. (2021) follow each of its
# steps with Langevin steps (notebook 02) at the same time, the *corrector*:

# %%
print("                                          calls    leak")
rows = {}
for n in (10, 15):
    grid = converged.schedule.respaced(n).times
    for correct in (0, 4):
        path = reverse_sde(converged, 2000, times=grid, corrector_steps=correct, seed=0)
        rows[n, correct] = metrics.leak(path.start, density)
        what = f"Euler–Maruyama, {n:2d} steps, {correct} corrections"
        print(f"{what:40s}  {n + correct * (n - 1):4d}  {approx(rows[n, correct], '.1%'):>6s}")
chain = converged.respaced(10)
chain.calibrate(density.sample(5000, seed=2))
chain_leak = metrics.leak(chain.sample(2000, seed=0).start, density)
print(f"{'the chain, 10 steps, best b':40s}  {10:4d}  {approx(chain_leak, '.1%'):>6s}")
gain = rows[10, 0] - rows[10, 4]
verdict("four corrections lower the leak of ten steps by", gain, form=".1%", above=0)
verdict("five more steps lower it further by", rows[10, 4] - rows[15, 0], form=".1%", above=0)

# %% [markdown]
# The corrector helps, but here five more steps help more, for a third of the calls.
#
# ## References
#
# - J. Ho, A. Jain and P. Abbeel, *Denoising Diffusion Probabilistic Models*, NeurIPS 2020: the jump (1; theirs is 4), the bound
#   (3; theirs is 5), the posterior (4; theirs are 6 and 7), $\varepsilon$-prediction (5; theirs is 12).
# - B. Anderson, *Reverse-time diffusion equation models*, 1982: equation 2.
# - Y. Song et al., *Score-based generative modeling through stochastic differential equations*, ICLR 2021: equation 2 for
#   learned scores (theirs is 6), the probability flow (13), predictor and corrector (appendix G).
# - J. Song, C. Meng and S. Ermon, *Denoising Diffusion Implicit Models*, ICLR 2021: equation 12.
# - A. Nichol and P. Dhariwal, *Improved DDPM*, ICML 2021: learned variances, respacing.
# - T. Salimans and J. Ho, *Progressive distillation*, ICLR 2022: $v$-prediction.
#
# **What is next.** The forward process was fixed here; what mattered was where to put the steps. In notebook 04 the forward
# process is learned, too: [DiffFlow](04_diffflow.ipynb).
