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
# Drown five rings in noise, learn the way back one small step at a time, and count every nat it costs.
#
# ## What you will learn
#
# - Why the way **into** the noise needs no simulation: one jump reaches any time.
# - The **reverse SDE**, and that one score serves many samplers: the chain, DDIM, Euler–Maruyama with
#   a corrector.
# - The **variational bound**, derived term by term, and *where it spends its nats*.
# - Why the network is asked for the noise $\varepsilon$, and what else one may ask it for.
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

torch.set_num_threads(1)  # nets this small gain little from a second core
density = toy.load("olympic_rings", width=0.01)
width = density.width / density.scale  # of a ring, in the units of the samples

# %% [markdown]
# ## 1. The way out: one jump
#
# A diffusion that keeps the variance of its particles shrinks them a little and adds a little noise,
# all the time ($t = 0$ is the data, $t = T$ the noise, as everywhere in this course):
#
# $$dx = -\tfrac12 \beta(t)\,x\,dt + \sqrt{\beta(t)}\,dw .$$
#
# In steps, with $\beta_i$ for the share of variance that is replaced,
# $x_{i+1} = \sqrt{1-\beta_i}\,x_i + \sqrt{\beta_i}\,\delta_i$. Shrinking a Gaussian and adding another
# one gives a Gaussian, so all steps up to time $t$ collapse into a single one: with
# $\bar\alpha_t = \prod_i (1 - \beta_i) = \exp\bigl(-\int_0^t \beta\bigr)$,
#
# $$x_t = \sqrt{\bar\alpha_t}\; x_0 + \sqrt{1 - \bar\alpha_t}\;\varepsilon,
# \qquad \varepsilon \sim \mathcal N(0, I). \tag{1}$$
#
# Everywhere in the code, and below, $\alpha = \sqrt{\bar\alpha}$ and $\sigma = \sqrt{1-\bar\alpha}$;
# their ratio $r = \sigma/\alpha$ says how much noise there is per unit of data.
#
# **Exercise 1. Jump.** Write equation 1. `bar` is $\bar\alpha_t$, a tensor with one number in it.


# %% tags=["exercise"]
def jump(x_0, eps, bar):
    return None  # your answer


# %% tags=["check"]
exercises.check_jump(jump)


# %% tags=["solution"] jupyter={"source_hidden": true}
def jump(x_0, eps, bar):
    return bar.sqrt() * x_0 + (1 - bar).sqrt() * eps


exercises.check_jump(jump)

# %% [markdown]
# A thousand steps or one jump: is it really the same cloud? We walk to $t = 0.1$ along DDPM's own
# schedule (100 of its 1000 steps), jump to the same time, and compare the two clouds with the distance
# between two clouds of *data*, the floor.

# %%
thousand = Schedule.linear_beta(steps=1000)
walker = DDPM(lambda x, t: -x, thousand)  # any score will do: the way out does not use it
x = density.sample(4000, seed=1)

walked = walker.encode(x, seed=0)[100]
bar = thousand.noise_process.alpha(torch.tensor(0.1)).square()
jumped = jump(x, torch.randn(x.shape, generator=torch.Generator().manual_seed(1)), bar)

floor = metrics.floor(density, 4000)
print(
    f"ᾱ at t = 0.1, as a product and in closed form: {thousand.k[:100].square().prod():.4f} {bar:.4f}"
)
print(
    f"the clouds differ by less than two clouds of data: {metrics.sliced_w2(walked, jumped) < floor}"
)

# %% [markdown]
# **Explain.** That closed form is why diffusions are cheap to train: any step can be visited without
# walking there. (DiffFlow gives it up, since its drift is learned, and pays in training time: notebook 04.)
#
# ### What noise does to a crossing
#
# Let us look through a magnifier at one of the places where two rings cross.
#
# **Predict:** a ring is `width` thick. After how many widths of noise can you no longer tell which ring
# a particle at the crossing came from?

# %%
crossing = (-1.552, -0.44)  # the two rings at the left, lower crossing
many = density.sample(30_000, seed=3)
ring = density.mode(many)
noise = torch.randn(many.shape, generator=torch.Generator().manual_seed(0))
levels = {f"r = {k} width{'s' * (k != 1)}": many + k * width * noise for k in (0, 1, 3, 10)}

figures.magnifier(
    levels, crossing, half=0.2, color=ring,
    title="Noise of ten ring widths, and the crossing has forgotten",
)  # fmt: skip
plt.show()

for name, noisy in levels.items():
    near = (noisy - noisy.new_tensor(crossing)).abs().amax(1) < 0.1
    right = (density.mode(noisy) == ring)[near].float().mean()
    print(f"{name:12s}  nearest ring is the right one for {right:4.0%} of those near the crossing")

# %% [markdown]
# A square of 0.4 units, the particles in it coloured by the ring they came from, divided by $\alpha$ so
# that the rings stay in place. At one width the cross is hardly blurred, at three the arms are wide, at
# ten the two colours lie through each other and the nearest ring is little better than a coin.
#
# So the *decision* which way to leave the crossing is taken on the way back somewhere between $r = 0.07$ and
# $r = 0.02$, when only a tiny part of the noise is left. **Remember these two numbers**: a sampler whose
# last step starts above them cannot take that decision at all.
#
# ## 2. The way back
#
# Anderson (1982): the same distributions, run backwards, are those of
#
# $$dx = \bigl[f(x,t) - g(t)^2\, \nabla_x \log p_t(x)\bigr]dt + g(t)\,dw,
# \qquad f = -\tfrac12\beta x,\; g^2 = \beta, \tag{2}$$
#
# with $dt < 0$. The one unknown is the **score** $s = \nabla_x \log p_t$, and that is what is learned.
#
# **Exercise 2. The reverse drift.** Write the bracket of equation 2 for our diffusion; `score` is the
# score's value at `x`, `beta` is $\beta(t)$.


# %% tags=["exercise"]
def reverse_drift(x, score, beta):
    return None  # your answer


# %% tags=["check"]
exercises.check_reverse_drift(reverse_drift)


# %% tags=["solution"] jupyter={"source_hidden": true}
def reverse_drift(x, score, beta):
    return -0.5 * beta * x - beta * score


exercises.check_reverse_drift(reverse_drift)

# %% [markdown]
# To see it work before we train anything, we take a converged model from the zoo, thirty steps, and use its
# score. With half of the score and no noise, $dx = [f - \frac12 g^2 s]\,dt$, the distributions are the
# same once more: the **probability flow**. We send the same forty draws of noise home in both ways.
#
# **Predict:** which of the two pictures will be smooth?

# %%
converged = pretrained("ddpm", "olympic_rings", steps=30)
print(converged.card["command"])

times = converged.schedule.respaced(30).times
with_noise = reverse_sde(converged, 1000, times=times, seed=0)
without = converged.sample(1000, seed=0, lam=0.0)
figures.paths(
    with_noise, color=density.mode, particles=40, title="The reverse SDE shakes them home"
)
plt.show()
figures.paths(without, color=density.mode, particles=40, title="The probability flow glides home")
plt.show()

# %% [markdown]
# Forty particles from noise (dots) to data (open circles), coloured by the ring they land on. With noise
# (top) each way is a scribble that tightens; without (bottom) the same draws follow smooth curves
# and, mostly, land elsewhere. Both land on the rings.
#
# ### What the network sees
#
# A score is a guess of the data in disguise. By Tweedie's formula the mean of all the data that could
# have led to $x_t$ is $\hat x_0 = (x_t + \sigma^2 s)/\alpha$:

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
# Top: the particles on their way out, coloured by their ring. Bottom: where the network believes each of
# them came from. In pure noise (right) nothing is known and the best guess is near the mean of all data.
# As the noise falls, the guesses spread: first a band, then the five loops, then, at the left, thin rings.
#
# ## 3. The bound, term by term
#
# How good is a model, in nats? Nobody can compute $-\log p_B(x_0)$ of a chain, because it sums over all paths. But
# a bound can be had, and every one of its terms has a meaning.
#
# **Line 1.** For any distribution of paths, Jensen's inequality:
#
# $$-\log p_B(x_0) \le \mathbb E\Bigl[\log \frac{p_F(x_{1:N} \mid x_0)}{p_B(x_{0:N})}\Bigr]
# = \mathbb E\Bigl[-\log p_B(x_N) + \sum_{i=0}^{N-1}
# \log \frac{p_F(x_{i+1} \mid x_i)}{p_B(x_i \mid x_{i+1})}\Bigr] .$$
#
# **Line 2.** Turn the forward steps round, *given where they started*. For $i \ge 1$, Bayes says
# $p_F(x_{i+1}\mid x_i) = p_F(x_i \mid x_{i+1}, x_0)\, p_F(x_{i+1}\mid x_0) / p_F(x_i \mid x_0)$, and the
# last two factors telescope:
#
# $$= \underbrace{\mathbb E\bigl[-\log p_B(x_0 \mid x_1)\bigr]}_{\text{reconstruction}}
# + \sum_{i=1}^{N-1} \underbrace{\mathbb E\,\mathrm{KL}\bigl(p_F(x_i \mid x_{i+1}, x_0) \,\|\,
# p_B(x_i \mid x_{i+1})\bigr)}_{\text{one per step}}
# + \underbrace{\mathrm{KL}\bigl(p_F(x_N \mid x_0)\,\|\,\mathcal N(0, I)\bigr)}_{\text{prior}} \tag{3}$$
#
# **Line 3.** All of these are Gaussians. With $x_0$ given, the forward step turned round is
#
# $$p_F(x_i \mid x_{i+1}, x_0) = \mathcal N\bigl(m_i,\; \tilde\beta_i I\bigr), \qquad
# m_i = \frac{\alpha_i \beta_i}{\sigma_{i+1}^2}\,x_0 +
# \frac{\sqrt{1 - \beta_i}\,\sigma_i^2}{\sigma_{i+1}^2}\, x_{i+1}, \qquad
# \tilde\beta_i = \frac{\sigma_i^2}{\sigma_{i+1}^2}\,\beta_i , \tag{4}$$
#
# the model's step has mean $(x_{i+1} + \beta_i\, s)/\sqrt{1-\beta_i}$ and a standard deviation $b_i$ of our choice.
#
# **Exercise 3. Two Gaussians.** So all we need is
# $\mathrm{KL}\bigl(\mathcal N(m_1, v_1 I)\,\|\,\mathcal N(m_2, v_2 I)\bigr)$ in $d$ dimensions.
# The means have shape $(B, d)$, the variances are tensors with one number in them. Return $B$ numbers.


# %% tags=["exercise"]
def gaussian_kl(mean_1, var_1, mean_2, var_2):
    return None  # your answer


# %% tags=["check"]
exercises.check_gaussian_kl(gaussian_kl)


# %% tags=["solution"] jupyter={"source_hidden": true}
def gaussian_kl(mean_1, var_1, mean_2, var_2):
    d, ratio = mean_1.shape[1], var_1 / var_2
    far = (mean_1 - mean_2).square().sum(1) / var_2
    return 0.5 * (far + d * (ratio - 1 - ratio.log()))


exercises.check_gaussian_kl(gaussian_kl)

# %% [markdown]
# Put it to work. `DDPM.bound_terms` returns the three parts of equation 3 for every particle; we compute one of its
# KLs by hand, from equation 4 and your function.

# %%
c, i = converged.schedule, 12
alpha, sigma = (f(c.times) for f in (c.noise_process.alpha, c.noise_process.sigma))
beta = 1 - c.k**2
x_0 = density.sample(10_000, seed=5)
eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(2))
x_next = jump(x_0, eps, alpha[i + 1] ** 2)

m = alpha[i] * beta[i] / sigma[i + 1] ** 2 * x_0  # (4)
m = m + (1 - beta[i]).sqrt() * sigma[i] ** 2 / sigma[i + 1] ** 2 * x_next
tilde = sigma[i] ** 2 / sigma[i + 1] ** 2 * beta[i]
with torch.no_grad():
    score = converged.score_at(x_next.float(), c.times[i + 1].float())
    model_mean = (x_next + beta[i] * score) / (1 - beta[i]).sqrt()
    by_hand = gaussian_kl(m, tilde, model_mean, converged.backward_std()[i] ** 2)

terms = converged.bound_terms(x_0, seed=0)
print(terms)
print(f"step {i} by hand: {by_hand.mean():.2f} nats, by the library: {terms.kl[i - 1].mean():.2f}")
with torch.no_grad(), torch.random.fork_rng():
    torch.manual_seed(0)
    whole = converged.bound(x_0).mean()
print(f"the sum is the bound of whole paths, to 0.05: {(terms.total.mean() - whole).abs() < 0.05}")
print(f"entropy of the data, which no bound may beat: {density.entropy():.2f}")

# %% [markdown]
# The reconstruction is *negative*: it is a log density, and a Gaussian as thin as a ring is a tall one. The KLs
# are what it costs to get there.
#
# ### A referee: Gaussian data
#
# On $\mathcal N(0, 0.3\,I)$ the exact score is known, $s = -x/(0.3\,\bar\alpha + \sigma^2)$, and so is the truth,
# 1.634 nats. Whatever lies above it is the price of finite steps, and of the choice of $b_i$: DDPM offered
# $b_i^2 = \beta_i$ and $b_i^2 = \tilde\beta_i$. ($\tilde\beta_0$ is 0, since $x_0$ is given; a step without
# noise has no density, so the code does as Ho et al. and takes $\tilde\beta_1$ there.) The third choice is the best one,
# learned or put in by `calibrate`.
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

close = prices[300, "β"] - truth < 0.007
dear = min(prices[n, "posterior"] for n in (10, 30, 300)) - truth > 2
print(f"\nwith b² = β the bound falls onto the truth, 0.006 off at N = 300: {close}")
print(f"the posterior's pays more than 2 nats at every one of these N:   {dear}")

# %% [markdown]
# The same from particles, as for any model whose truth nobody knows: `bound_terms` agrees with the closed form, and
# `calibrate` finds the best $b_i$ by itself, as the root mean square of $x_i$ minus its backward mean.

# %%
c = Schedule.log_snr(10)
sde = c.noise_process
gauss = torch.randn(50_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
gauss = math.sqrt(0.3) * gauss / gauss.square().mean().sqrt()  # variance 0.3 to the last digit
chain = DDPM(
    lambda x, t: -x / (0.3 * sde.alpha(t) ** 2 + sde.sigma(t) ** 2), c, prediction="score"
).double()
before = chain.bound_terms(gauss, seed=1).total.mean()
with torch.random.fork_rng():
    torch.manual_seed(2)
    chain.calibrate(gauss)
after = chain.bound_terms(gauss, seed=1).total.mean()
print(
    f"b² = β: closed form and particles agree to 0.03:     {abs(before - prices[10, 'β']) < 0.03}"
)
print(f"calibrated: at the truth, to 0.03:                    {abs(after - truth) < 0.03}")

# %% [markdown]
# **Explain.** The means are perfect here; the variance alone decides. $\beta_i$ is the variance of a step back if the
# data were pure noise, $\tilde\beta_i$ if the data were a single point. Data in between wants something in
# between, one number a step, which costs nothing to learn. At $N = 10$ and $30$ the
# posterior's price is mostly that of $\tilde\beta_i$ itself: next to the data it is far smaller than what is needed, in
# every step, several nats in all. At $N = 300$ neighbouring noise levels are close and this price nearly vanishes; what
# remains is the clip, since the second step is much shorter than the first, which inherits its $b$. (For *pictures* of
# samples the clip hardly matters: the last step is drawn without noise.)
#
# ## 4. Ask for the noise
#
# Put $x_0 = (x_{i+1} - \sigma_{i+1}\varepsilon)/\alpha_{i+1}$ into the mean of equation 4 and let the network
# speak of noise too, $s = -\varepsilon_\theta/\sigma_{i+1}$. The two means then differ by the noises only:
#
# $$\mathrm{KL}_i = \frac{\beta_i^2}{2\, b_i^2\,(1-\beta_i)\,\sigma_{i+1}^2}\;
# \bigl\|\varepsilon - \varepsilon_\theta(x_{i+1}, t_{i+1})\bigr\|^2 + \text{(variances)}. \tag{5}$$
#
# The score grows like $1/\sigma$ towards the data; the noise stays of order one, which is what a network likes. And
# $N$ times the term of a *random* step of a *random* particle, plus the prior, is an unbiased estimate of the bound:
# that is the training loop. Ho
# et al. drop the weight in front for nicer images and call it $L_\text{simple}$; we keep it, since we count nats.
#
# | `prediction=` | the network says | $\varepsilon$ is | its error is multiplied by, in the score |
# |---|---|---|---|
# | `"noise"` | $\varepsilon$ | as it is | $1/\sigma$ |
# | `"x0"` | $x_0$ | $(x - \alpha x_0)/\sigma$ | $\alpha/\sigma^2$ |
# | `"v"` | $v = \alpha\varepsilon - \sigma x_0$ (Salimans and Ho) | $\sigma x + \alpha v$ | $\alpha/\sigma$ |
#
# All are the same model if the network is perfect (a test of this repository), so `DDPM` turns each into a score and
# nothing else in the code knows the difference. Here is equation 5 on the numbers of section 3:

# %%
predicted = -sigma[i + 1] * score
weight = beta[i] ** 2 / (2 * converged.backward_std()[i] ** 2 * (1 - beta[i]) * sigma[i + 1] ** 2)
squares = weight * (eps - predicted).square().sum(1)
variances = gaussian_kl(m, tilde, m, converged.backward_std()[i] ** 2)
same = torch.allclose(squares + variances, by_hand, rtol=1e-3, atol=1e-4)
print(f"equation 5 is the KL by hand, particle by particle, to 0.1 %: {same}")

# %% [markdown]
# ## 5. Thirty steps, placed twice
#
# DDPM took $N = 1000$ steps with $\beta$ rising linearly. What happens at $N = 30$? And is it the number of steps that
# counts, or where they are? Here are the grids, as noise per signal $r$ after each step. The **log-SNR grid** simply
# spaces $r$ evenly on a log scale, from the width of a ring to where the data is drowned.

# %%
grids = {
    "linear β, N = 30": Schedule.linear_beta(30),
    "log-SNR, N = 30": Schedule.log_snr(30, r_min=width, r_max=4.0),
}
linear, log_snr = grids
colors = {linear: figures.MODES[3], log_snr: figures.MODES[2]}
more = {"linear β, N = 1000": thousand, "cosine, N = 30": Schedule.cosine(30)}

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
# Thirty linear steps (pink) start at $r = 0.12$, sixteen ring widths and above the grey band where a crossing is
# decided; half of them lie beyond $r = 4$, where hardly anything is left of the data. A thousand (yellow) follow the same
# curve down to the width of a ring, with one step in forty below 0.1. The log-SNR grid (green) has 13 of its thirty
# there. The cosine schedule (grey), made for images, starts a little lower than linear β, but not low enough.
#
# Now two networks, equal to the last weight, trained for the same number of steps; only the grid differs.
#
# **Predict:** which share of the samples will miss the rings, under either grid?


# %%
def train(schedule):
    """The same network from the same seed, a thousand batches, and the best b in the end."""
    torch.manual_seed(0)
    model = DDPM.mlp(schedule)
    fit(model, density, steps=1000, batch_size=800, lr=1e-2)
    model.calibrate(density.sample(5000, seed=2))
    return model


models = {linear: train(grids[linear])}

# %%
models[log_snr] = train(grids[log_snr])

# %%
test = density.sample(4000, seed=4)
samples = {name: model.sample(2000, seed=0) for name, model in models.items()}
terms = {name: model.bound_terms(test, seed=0) for name, model in models.items()}
leak = {name: metrics.leak(path.start, density) for name, path in samples.items()}
gap = {name: metrics.bound_gap(each.total.mean(), density) for name, each in terms.items()}


def approx(value, form):
    """A number as trained here: another processor rounds otherwise and trains a little otherwise."""
    return f"≈{value:{form}}"


print("                  calls a sample   gap [nats]    leak")
for name, model in models.items():
    print(
        f"{name:16s}  {model.schedule.steps:14d} {approx(gap[name], '.2f'):>12s}  {approx(leak[name], '.1%'):>6s}"
    )
print(
    f"\nthe log-SNR grid leaks less than a tenth of what linear β does: {leak[log_snr] < 0.1 * leak[linear]}"
)
print(
    f"and its bound is better by more than a nat:                     {gap[linear] - gap[log_snr] > 1}"
)

# %%
figures.samples_against_truth(
    {name: path.start for name, path in samples.items()},
    density,
    color=density.mode,
    title="Same network, same training: only the grid knows how thin a ring is",
)
plt.show()

# %% [markdown]
# Data, and 2000 samples of each. On thirty linear steps the model draws soft tubes around the rings; on the log-SNR grid it
# draws lines, after seconds of training.
#
# With a minute of processor time for each (`benchmarks/toy.py`, means over three seeds, one thread of an AMD EPYC) the difference is a
# hundredfold:
#
# | | calls a sample | gap [nats] | leak | sliced W2 (data: 0.013) |
# |---|---|---|---|---|
# | linear β, N = 30 | 30 | 2.35 | 27.0% | 0.035 |
# | log-SNR, N = 30 | 30 | 0.49 | 0.2% | 0.040 |
# | linear β, N = 1000 | 1000 | 0.59 | 2.0% | 0.020 |
#
# A thousand linear steps cost 33 times the calls and still leak more, but spread their samples more evenly over the five
# rings (W2): far out, small steps make smaller errors.
#
# ### Where the bound spends its nats

# %%
figures.bound_bars(
    {name: (models[name].schedule, terms[name]) for name in models},
    title="Linear β: half of the steps carry nothing, the first ones too much",
    colors=tuple(colors.values()),
)
plt.show()

# %% [markdown]
# The KL of every step, next to the data at the left. Under linear β (left) the second step from the data, $i = 1$, costs
# a nat (the first is the reconstruction, a number in the corner) and the outer half nothing: there is nothing left to know out there, and fifteen calls of the network are wasted on it.
# On the log-SNR grid (right) all steps cost about the same, .3 nats, until the rings drown around $r = 1$.
#
# And the reconstruction? It is the one step from $t_1$ to the data. Linear β makes it from $r = 0.12$ in a single Gaussian;
# the log-SNR grid has fourteen steps for that stretch. Compare what the two pay for *the same* stretch:

# %%
paid = {}
for name, model in models.items():
    r = model.schedule.noise_process.r(model.schedule.times)
    inner = int((r[1:] < 0.125).sum())  # steps that begin (on the way back) below r = 0.125
    stretch = terms[name].reconstruction + terms[name].kl[: inner - 1].sum(0)
    paid[name] = stretch.mean().item()
    rest = terms[name].total.mean().item() - paid[name]
    print(
        f"{name:16s}  from r = {r[inner]:.2f} in: {approx(paid[name], '.2f'):>6s} nats in {inner:2d} steps;  the rest: {approx(rest, '.2f')}"
    )
lost = (paid[linear] - paid[log_snr]) / (gap[linear] - gap[log_snr])
print(f"more than four fifths of the difference is lost in linear β's last step: {lost > 0.8}")

# %% [markdown]
# **Explain.** Far from the data thirty steps of any kind do. Nearly all of the difference is lost in the *last* step of
# the linear chain: it has one Gaussian for a decision with two outcomes (which arm of the crossing?), and for a
# ring that is sixteen times thinner than the noise.
#
# ## 6. One score, many samplers
#
# And the thousand steps? They need no thousandfold training, since every training particle visits one step, but a thousand
# calls per sample. The zoo has such a model, on Ho et al.'s own grid. Its network knows the score at *all* times, so nobody
# forces us to take all of its steps: skip 970 of them (`model.respaced(30)`), or lay any other grid over the same SDE
# (`model.on(schedule)`).
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


# %% tags=["solution"] jupyter={"source_hidden": true}
def ddim_step(x, eps, bar, bar_before):
    x_0 = (x - (1 - bar).sqrt() * eps) / bar.sqrt()
    return bar_before.sqrt() * x_0 + (1 - bar_before).sqrt() * eps


exercises.check_ddim_step(ddim_step)

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
badly, well, every = (
    leaks[name] for name in ("30 of them, even", "30 placed by log r", "all 1000 steps")
)
print(f"\nthirty steps leak above 20 % where they are even:      {badly > 0.2}")
print(f"below 4 % where they are placed by log r:              {well < 0.04}")
print(f"and all thousand not much less, above 1 %:             {every > 0.01}")

# %% [markdown]
# **Explain.** It was never the number. One network, and thirty calls of it leak nearly as little as a thousand when they are spent
# where noise and rings are of one size. DDIM, which adds no noise, leaks less than its noisy twin where steps are bad; where
# they are good, 2000 samples cannot tell the two apart. (Two clouds of 2000 data points are .07 apart in sliced W2: below
# about .08 that column ranks nothing; read the leak.)
#
# ### The predictor and the corrector
#
# The chain's steps integrate the linear part exactly. The plainest solver of equation 2 does not: Euler–Maruyama,
# the *predictor*. Song et al. (2021) follow each of its steps with a few of Langevin dynamics (notebook 02) at the same
# time, the *corrector*, which pulls the cloud back to $p_t$ where the step was too coarse. On the converged network:

# %%
print("                                          calls    leak    sliced W2")
rows = {}
for n in (8, 10, 15):
    grid = converged.schedule.respaced(n).times
    for correct in (0, 1, 4):
        path = reverse_sde(converged, 2000, times=grid, corrector_steps=correct, seed=0)
        rows[n, correct] = metrics.leak(path.start, density)
        calls = n + correct * (n - 1)
        far = metrics.sliced_w2(path.start, test[:2000])
        what = f"Euler–Maruyama, {n:2d} steps, {correct} corrections"
        print(f"{what:40s}  {calls:4d}  {approx(rows[n, correct], '.1%'):>6s}  {far:8.2f}")
chain = converged.respaced(10)
chain.calibrate(density.sample(5000, seed=2))
chain_leak = metrics.leak(chain.sample(2000, seed=0).start, density)
print(f"{'the chain, 10 steps, best b':40s}  {10:4d}  {approx(chain_leak, '.1%'):>6s}")
print(f"four corrections help ten steps:                         {rows[10, 4] < rows[10, 0]}")
print(f"five more steps help more, for a third of the calls:     {rows[15, 0] < rows[10, 4]}")

# %% [markdown]
# **Explain.** The corrector does what it promises, and here it is not worth its calls: with a good score in two
# dimensions, five more steps do more. So does a better step: the chain, with the linear part exact and the best $b$, leaks
# 2 % with ten calls. (On images Song et al. found one correction a step a better buy than twice the steps.)
#
# ## 7. Back to the crossing
#
# Through the magnifier of section 1, samples instead of data, coloured by the nearest ring. **Predict** which models
# have decided.

# %%
close_up = {
    "data": density.sample(20_000, seed=5),
    "linear β, N = 30": models[linear].sample(20_000, seed=0).start,
    "log-SNR, N = 30": models[log_snr].sample(20_000, seed=0).start,
    "converged, N = 5": pretrained("ddpm", "olympic_rings", 5).sample(20_000, seed=0).start,
    "converged, N = 30": converged.sample(20_000, seed=0).start,
}
figures.magnifier(
    close_up, crossing, half=0.2, color=density.mode,
    title="A crossing is where a diffusion's last steps show",
)  # fmt: skip
plt.show()

# %% [markdown]
# From left to right: the data; seconds of training on thirty linear steps, hardly a cross at all; the same seconds on the log-SNR grid,
# a cross with a haze; converged models of the zoo with five steps (thin, with many a miss) and with thirty (hardly to be told
# from the data). DDPMs are said to blur crossings. With a linear grid and few steps they do; it is no law.
#
# And the way back, to play with. Watch the last few steps at the data end:

# %%
play(
    samples,
    color=density.mode,
    direction="backward",
    title="Thirty steps home: under linear β the rings must come in the last few",
)

# %% [markdown]
# Both panels show 2000 particles from the same draws of noise, noise at the right end of the slider, data at the left. Under linear
# β nothing can be seen for four fifths of the way, then the rings have to come in six steps, and come out soft. On the
# log-SNR grid, whose clock runs on the logarithm of the noise, they appear soon after half of the way, and the rest of
# the time sharpens them.
#
# ## What to remember
#
# - Into the noise in **one jump**, $x_t = \alpha x_0 + \sigma\varepsilon$; training visits any step directly.
# - Back with the **score**: $f - g^2 s$ with noise, $f - \frac12 g^2 s$ without. One network, many samplers.
# - The bound is **reconstruction + one KL per step + prior**, all Gaussian, all in nats; `bound_terms` prints the bill.
# - The **backward variance** decides the bound at few steps, and the best one is free: learn it or `calibrate`.
# - A step is worth something only where noise and structure are of one size. **Place steps evenly in log r**, from the
#   finest width to the size of the data: thirty of those do the work of a thousand linear ones.
#
# ## References
#
# - J. Ho, A. Jain and P. Abbeel, *Denoising Diffusion Probabilistic Models*, NeurIPS 2020: the jump (1; theirs is 4), the bound
#   (3; theirs is 5), the posterior (4; theirs are 6 and 7), $\varepsilon$-prediction (5; theirs is 12).
# - B. Anderson, *Reverse-time diffusion equation models*, 1982: equation 2.
# - Y. Song et al., *Score-based generative modeling through stochastic differential equations*, ICLR 2021: equation 2 for
#   learned scores (theirs is 6), the probability flow (13), predictor and corrector (appendix G).
# - J. Song, C. Meng and S. Ermon, *Denoising Diffusion Implicit Models*, ICLR 2021: equation 12.
# - A. Nichol and P. Dhariwal, *Improved DDPM*, ICML 2021: cosine schedule (17), learned variances, respacing.
# - T. Salimans and J. Ho, *Progressive distillation*, ICLR 2022: $v$-prediction.
#
# **What is next.** The way out was fixed here, and all the art lay in where to put the steps. Notebook 04 lets the way out
# be learned as well: [DiffFlow](04_diffflow.ipynb).
