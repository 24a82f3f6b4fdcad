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
# # Scores and Langevin dynamics
#
# To sample, one needs a random walk and the slope of the log density. We begin with the first and learn the second.
#
# ## What you will learn
#
# - What $dw$ in a **stochastic differential equation** is, and how to simulate one in five lines.
# - **Entropy, KL divergence, nats**, and why a gap is never negative.
# - What a **score** is, and how **Langevin dynamics** samples with it.
# - How a score is **learned from samples alone**, and why it is wrong far from the data.
# - How **noise levels** and annealing repair that, and what they cost.
#
# **Time and memory:** about 26 s of processor time, a third of it training (slower machines need up to three times that), and 800 MB.

# %%
import math

import matplotlib.pyplot as plt
import torch

from diffflow_edu import (
    DiffFlow,
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
from diffflow_edu.nets import MLP
from diffflow_edu.processes import NCSN
from diffflow_edu.processes.langevin import langevin
from diffflow_edu.processes.score_matching import (
    denoising_score_matching,
    exact_score,
    explicit_score_matching,
    implicit_score_matching,
    sliced_score_matching,
    smoothed_score,
)
from diffflow_edu.toy.blurred import blurred_log_prob
from diffflow_edu.verdicts import verdict

torch.set_num_threads(1)  # nets this small gain little from a second core

# %% [markdown]
# ## 1. A random walk, and an SDE
#
# A particle on a line takes $N$ random steps until $t = 1$, so each lasts $\Delta t = 1/N$. How large must a step be,
# so that finer steps give the same walk? Take two independent steps $z_1, z_2$ with mean 0. Then
# $\mathbb E (z_1 + z_2)^2 = \mathbb E z_1^2 + 2\,\mathbb E z_1\, \mathbb E z_2 + \mathbb E z_2^2$, and the middle term is
# 0: **variances add, standard deviations do not.** After $N$ steps of standard deviation $a$ the variance is $N a^2$.
#
# **Predict:** what is the variance at $t = 1$ for $a = \Delta t$, and what for $a = \sqrt{\Delta t}$?

# %%
draw = torch.Generator().manual_seed(0)
print("    N   variance with steps Δt   with steps √Δt")
for n in (10, 100, 1000):
    z = torch.randn(n, 4000, generator=draw)
    fine, right = (z / n).sum(0).var(), (z / n**0.5).sum(0).var()
    print(f"{n:5d}   {fine:22.3f}   {right:14.2f}")

# %% [markdown]
# **Explain.** $N \Delta t^2 = \Delta t$ vanishes, $N \Delta t = 1$ stays. So a step of the walk is $\sqrt{\Delta t}\, z$ with
# $z \sim \mathcal N(0, 1)$. The limit for $\Delta t \to 0$ is the **Wiener process** $w(t)$, also called Brownian
# motion; in a short time $dt$ it grows by $dw \sim \mathcal N(0, dt)$. A **stochastic differential equation** adds it to
# a velocity, the drift $f$:
#
# $$dx = f(x, t)\,dt + g\,dw .$$
#
# **Exercise 1. Euler–Maruyama.** Simulate it in steps from `times[0]` to the last of `times` $(N+1,)$, which need not
# be equally spaced. `x` $(B, d)$ are the particles at `times[0]`, `f(x, t)` is the drift, `g` a number, `noise`
# $(N, B, d)$ holds standard normal draws, one row a step. Return the particles at the end.


# %% tags=["exercise"]
def euler_maruyama(f, g, x, times, noise):
    return None  # your answer


# %% tags=["check"]
exercises.check_euler_maruyama(euler_maruyama)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def euler_maruyama(f, g, x, times, noise):
#     for i, z in enumerate(noise):
#         dt = times[i + 1] - times[i]
#         x = x + f(x, times[i]) * dt + g * dt.sqrt() * z
#     return x
# ```
#
# </details>

# %% [markdown]
# Two examples, simulated by the library. The first has no drift. The second, $dx = -x\,dt + \sqrt 2\,dw$, is called the
# **Ornstein–Uhlenbeck process**: the drift pulls every particle to 0, the noise drives it away.
#
# **Predict:** the walk spreads without end. Where does the second process settle?


# %%
def simulate(f, g, start):
    """Particles from `start` (B, 1), 300 Euler–Maruyama steps until t = 3."""
    grid = Schedule.euler(torch.linspace(0, 3, 301), g=g)
    return DiffFlow(f, lambda x, t: -x, grid).encode(start, seed=0)


start = torch.full((4000, 1), 3.0)
walk = simulate(lambda x, t: 0 * x, 1.0, 0 * start)
settling = simulate(lambda x, t: -x, math.sqrt(2), start)
t = walk.times
figures.walks(
    {
        "random walk: standard deviation √t": (walk, 0 * t, t.sqrt()),
        "Ornstein–Uhlenbeck: it settles": (settling, 3 * (-t).exp(), (1 - (-2 * t).exp()).sqrt()),
    },
    title="Noise alone spreads; with a drift to the middle, the two balance",
)
plt.show()
print(f"variance at t = 3: walk {walk.end.var():.2f}, Ornstein–Uhlenbeck {settling.end.var():.2f}")

# %% [markdown]
# Grey: mean ± 2 standard deviations, by formula. **Explain** the right one by a balance of variances: in a time $dt$ the drift multiplies $x$
# by $1 - dt$, so the variance $v$ loses $2 v\,dt$; the noise adds $2\,dt$. They balance at $v = 1$, whatever the start.
# *Every diffusion of this course makes its noise in this way.*
#
# ## 2. Entropy, KL divergence, nats
#
# The surprise of a model $q$ at a point is $-\log q(x)$, in **nats**. Its mean over data from $p$ is the number that we
# want small. The data's own mean surprise, $H(p) = -\mathbb E_p \log p$, is the **entropy**. What a model pays above it
# is the **Kullback–Leibler divergence**
#
# $$\mathrm{KL}(p \,\|\, q) = \mathbb E_p\bigl[\log p(x) - \log q(x)\bigr] = \underbrace{-\mathbb E_p \log q}_{\text{mean surprise}} - H(p).$$
#
# It is never negative. Since $\log u \le u - 1$,
#
# $$-\mathrm{KL}(p \,\|\, q) = \mathbb E_p \log \frac{q(x)}{p(x)} \le \mathbb E_p\Bigl[\frac{q(x)}{p(x)} - 1\Bigr] = \int q - \int p = 0 ,$$
#
# with equality only for $q = p$. So no model's $-\mathbb E_p \log q$ is below the entropy, and neither is an upper bound
# on it: **the gap, bound − entropy, is ≥ 0.** Two moons, and the Gaussian with their mean and covariance as a model:

# %%
moons = toy.load("two_moons", width=0.15)
x = moons.sample(100_000, seed=0)
gaussian = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov())
surprise, entropy = -gaussian.log_prob(x).mean(), moons.entropy()
print(
    f"mean surprise {surprise:.2f} nats − entropy {entropy:.2f} nats = KL {surprise - entropy:.2f}"
)

# %% [markdown]
# ## 3. An arrow at every point
#
# The **score** of a density $p$ is the slope of its logarithm,
#
# $$s(x) = \nabla_x \log p(x).$$
#
# At each point it is the direction in which the density rises fastest, and how steeply. For our toy densities $\log p$
# is known exactly, so autograd gives the exact score: `exact_score(density, x)`.

# %%
figures.score_fields(
    {"": figures.ScorePanel(lambda x: exact_score(moons, x), moons.log_prob)},
    title="The score points uphill,\nand the farther from the data the longer",
)
plt.show()

# %% [markdown]
# Grey: the density. Blue: its score. All arrows point to a moon; along the ridge of a moon they vanish.
#
# Multiply $p$ by any number: $\log p$ shifts by a constant, and the slope stays. **A score needs no normalising
# constant**, the integral that makes other models hard.
#
# **Exercise 2. The score of a Gaussian.** The logarithm of
# $\mathcal N(x;\, m, \sigma^2 I)$ is $-\|x - m\|^2 / (2\sigma^2)$ plus a constant. What is its gradient? `x` has shape
# $(B, d)$, `mean` $(d,)$, `std` is one number.


# %% tags=["exercise"]
def gaussian_score(x, mean, std):
    return None  # your answer


# %% tags=["check"]
exercises.check_gaussian_score(gaussian_score)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def gaussian_score(x, mean, std):
#     return (mean - x) / std**2
# ```
#
# </details>

# %% [markdown]
# ## 4. Langevin dynamics
#
# How do arrows become samples? Let particles take small steps $\varepsilon s(x)$ uphill and add noise, of a variance
# $c^2$ that we have to find: $x \leftarrow x + \varepsilon\,s(x) + c\,z$. If the particles are already distributed like
# $p$, they should stay so. Take $p = \mathcal N(0, v)$, so that $s(x) = -x/v$. A step multiplies $x$ by
# $1 - \varepsilon/v$ and adds $c^2$ to the variance, which stays $v$ if
#
# $$\Bigl(1 - \frac{\varepsilon}{v}\Bigr)^2 v + c^2 = v
# \quad\Longrightarrow\quad c^2 = 2\varepsilon - \frac{\varepsilon^2}{v} \approx 2\varepsilon .$$
#
# For small steps $c$ does not depend on $v$: the same noise is right for *every* density, since over a short way every
# smooth one looks like a Gaussian. This is **Langevin dynamics**,
#
# $$x \leftarrow x + \varepsilon\, s(x) + \sqrt{2\varepsilon}\, z, \qquad z \sim \mathcal N(0, I).$$
#
# With a step that is not small, the same balance is solved by the variance $v / (1 - \varepsilon/(2v))$: the samples
# are too wide. **Predict** before you run: 1000 particles start far and wide and take 60 small steps. What do they look
# like at the end? And without the noise?
#
# `langevin(score, x, step, steps)` returns a `Trajectory` in the direction of this course: the *last* state, which
# looks like data, is the `start`, at $t = 0$.

# %%
wide = 1.5 * torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
epsilon, steps = 0.01, 60


def uphill(x, t):
    return exact_score(moons, x)


noisy = langevin(uphill, wide, step=epsilon, steps=steps, seed=0, every=2)

climb = [wide]
for _ in range(steps):
    climb.append(climb[-1] + epsilon * uphill(climb[-1], 0.0))
climb = Trajectory(noisy.times, torch.stack(climb[::-2]))  # last state first, every other one

play(
    {"with noise": noisy, "without": climb},
    color=moons.mode,
    direction="backward",
    density=moons,
    title="With noise the particles fill the moons; without it they pile up on the ridges",
)

# %% [markdown]
# Both start from the same wide cloud, at the noise end of the slider. With the noise it becomes two moons, as thick as
# they should be; without it, two thin curves. The table below: the width for steps that are not small.

# %%
data = moons.sample(20_000, seed=1)
for name, path in {"with noise": noisy, "without": climb}.items():
    ratio = moons.distance(path.start).square().mean() / moons.distance(data).square().mean()
    far = metrics.sliced_w2(path.start, data)
    print(f"{name:11s} thickness {ratio.sqrt():.1f} of the data's   sliced W2 {far:.2f}")
print(f"1000 points of data itself               {metrics.sliced_w2(data[:1000], data):.2f}")

v = 0.25
print("\nε/v    std/√v measured   1/√(1 − ε/(2v))")
for share in (0.1, 0.5, 1.0):
    path = langevin(
        lambda x, t: -x / v, torch.zeros(40_000, 1), share * v, steps=60, seed=0, every=60
    )
    print(f"{share:3.1f}    {path.start.std() / v**0.5:15.2f}   {(1 - share / 2) ** -0.5:15.2f}")

# %% [markdown]
# **Explain.** Without the noise this is gradient ascent, which looks for the *most likely* point, not a *typical* one.
# And steps have to be small against the *thinnest* direction of the data, but many enough to cross the *widest*.
#
# ## 5. Learn the score from samples
#
# Now forget $\log p$: we only have samples. A network $s_\theta(x)$ should match the score, and the natural loss is the
# **explicit** one,
#
# $$J_\text{explicit} = \mathbb E_p\; \tfrac12 \| s_\theta(x) - \nabla \log p(x) \|^2.$$
#
# It needs the unknown score. Two ways avoid it. Both open the square and rewrite the cross term.
#
# **Integrate by parts** (Hyvärinen 2005). Since $p\, \nabla \log p = \nabla p$, and since $p\, s_\theta$ vanishes far out,
#
# $$\mathbb E_p\bigl[s_\theta \cdot \nabla \log p\bigr] = \int s_\theta \cdot \nabla p \;dx
# = -\int p\; \mathrm{tr}\,\tfrac{\partial s_\theta}{\partial x} \;dx
# \quad\Longrightarrow\quad
# J_\text{implicit} = \mathbb E_p\bigl[\tfrac12\|s_\theta\|^2
# + \mathrm{tr}\,\tfrac{\partial s_\theta}{\partial x}\bigr].$$
#
# The trace costs one backward pass a dimension. **Sliced** score matching (Song et al. 2019) replaces it by
# $u^\top \tfrac{\partial s_\theta}{\partial x} u$ with a random direction $u$, $\mathbb E[u u^\top] = I$: the same on
# average, for one backward pass.
#
# **Add noise** (Vincent 2011). Give up $p$ and learn the score of the blurred density $p_\sigma = p * \mathcal N(0,
# \sigma^2 I)$, that of the noisy points $\tilde x = x + \sigma\epsilon$. The cross term again:
#
# $$\mathbb E_{p_\sigma}\bigl[s_\theta(\tilde x) \cdot \nabla \log p_\sigma(\tilde x)\bigr]
# = \int s_\theta \cdot \nabla p_\sigma\, d\tilde x
# = \iint p(x)\; s_\theta(\tilde x) \cdot \nabla_{\tilde x} \mathcal N(\tilde x; x, \sigma^2 I)\; dx\, d\tilde x
# = \mathbb E\Bigl[s_\theta(\tilde x) \cdot \nabla_{\tilde x} \log \mathcal N(\tilde x; x, \sigma^2 I)\Bigr].$$
#
# At the end stands the score of a Gaussian, your exercise 2. So the unknown $\nabla\log p_\sigma(\tilde x)$ may be
# replaced by a vector that we *know*, having added the noise ourselves.
#
# **Exercise 3. The denoising loss.** Write $\mathbb E\, \tfrac12 \|s_\theta(\tilde x) - \dots\|^2$ as a mean over a
# batch, one number. `score` is a function of $x$ alone, `x` and `noise` ($\epsilon$) have shape $(B, d)$, `sigma` is one
# number.


# %% tags=["exercise"]
def denoising_loss(score, x, sigma, noise):
    return None  # your answer


# %% tags=["check"]
exercises.check_denoising_loss(denoising_loss)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def denoising_loss(score, x, sigma, noise):
#     # The target (x − x̃)/σ² is −ε/σ.
#     error = score(x + sigma * noise) + noise / sigma
#     return 0.5 * error.square().sum(dim=1).mean()
# ```
#
# </details>

# %% [markdown]
# The known target is $-\epsilon/\sigma$: no truth, no derivative of the network. This loss trains nearly every
# diffusion model. Which of these losses are the same up to a constant?
#
# **Predict:** data from $\mathcal N(0, I)$ and the model $s_\theta(x) = -\theta x$. At $\theta = 1$ it is the exact score.
# Which of the losses have the gradient 0 there?

# %%
draw = torch.Generator().manual_seed(1)
x, noise = torch.randn(2, 400_000, 2, generator=draw, dtype=torch.float64)
theta, sigma = torch.ones((), dtype=torch.float64, requires_grad=True), 0.4


def model(x, t=0.0):
    return -theta * x


blurred = x + sigma * noise
losses = {
    "explicit": explicit_score_matching(model, x, -x),
    "implicit": implicit_score_matching(model, x),
    "sliced": sliced_score_matching(model, x, seed=2),
    "denoising": 0.5 * (model(blurred) + noise / sigma).square().sum(1),
    "explicit, of p_σ": explicit_score_matching(model, blurred, -blurred / (1 + sigma**2)),
}
print("                     loss   its gradient at θ = 1")
for name, loss in losses.items():
    (slope,) = torch.autograd.grad(loss.mean(), theta, retain_graph=True)
    print(f"{name:16s} {loss.mean():8.2f}   {round(slope.item(), 2) + 0.0:8.2f}")
print(f"d σ² = {2 * sigma**2:.2f}")

# %% [markdown]
# **Explain.** Explicit, implicit and sliced score matching have the same gradient, here 0: they are one loss up to a
# constant. Denoising has the gradient of the explicit loss *of the blurred density* $p_\sigma$, whose score is
# $-x/(1 + \sigma^2)$: for it, $\theta = 1$ is too large.
#
# The target $-\epsilon/\sigma$ points to the one clean point that we happened to start from. Look at all clean points
# that one noisy point may come from:

# %%
density = toy.load("eight_gaussians", width=0.1)
blur, here = 0.5, torch.tensor([0.55, 0.35])
clean = density.sample(1_000_000, seed=3)
seen = clean + blur * torch.randn(clean.shape, generator=torch.Generator().manual_seed(4))
origins = clean[(seen - here).norm(dim=1) < 0.1]
tweedie = here + blur**2 * smoothed_score(density, here[None], blur)[0]

figures.origins(
    here, origins, tweedie, density.sample(3000, seed=5),
    title="No single target is the score; their mean is",
)  # fmt: skip
plt.show()
print(f"{len(origins)} clean points behind this noisy one")
verdict("from their mean to the exact circle", (origins.mean(0) - tweedie).norm(), below=0.05)

# %% [markdown]
# Pale grey: the data. Black: a point seen after blurring with $\sigma = 0.5$; thin lines lead to 60 of the clean points it
# may come from, the orange arrow to their mean. It ends in the blue circle, computed from the exact score of the blurred
# density. A network that minimises a mean square learns the mean, so it learns the score. Read the other way it is **Tweedie's formula**, $\mathbb E[x \mid \tilde x] = \tilde x + \sigma^2
# \nabla\log p_\sigma(\tilde x)$: a score denoises.
#
# ## 6. Wrong far from the data
#
# Two losses, one network each, the same architecture and seed. **Predict:** how does the error grow with the distance to
# the data? We measure at random points of a large square. (Denoising should learn the score of the *blurred* density.)

# %%
blur = 0.1  # of the denoising loss


def train(loss, steps=400, batch_size=300, lr=5e-3):
    torch.manual_seed(0)
    net = MLP(dim=2, hidden=64)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, betas=(0.9, 0.99))
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(net, density.sample(batch_size)).mean().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        falling.step()
    return lambda x: net(x, torch.tensor(0.0)).detach()


learned = {
    "implicit": train(implicit_score_matching),
    "denoising": train(lambda net, x: denoising_score_matching(net, x, blur)),
}

width = density.width / density.scale
probe = 8 * (torch.rand(20_000, 2, generator=torch.Generator().manual_seed(3)) - 0.5)
away = density.distance(probe) / width
targets = {
    "implicit": exact_score(density, probe),
    "denoising": smoothed_score(density, probe, blur),
}
edges = torch.tensor([0, 0.75, 1.5, 2.25, 3, 4, 5, 6, 8, 10, 12, 15])
bins = [(away >= a) & (away < b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
errors, lengths = {}, {}
for name, field in learned.items():
    ours, exact = field(probe), targets[name]
    relative = (ours - exact).norm(dim=1) / exact.norm(dim=1)
    errors[name] = [float(relative[each].median()) for each in bins]
    lengths[name] = [float(ours[b].norm(dim=1).mean() / exact[b].norm(dim=1).mean()) for b in bins]
middles = ((edges[1:] + edges[:-1]) / 2).tolist()
where = "distance to the nearest centre [widths]"
figures.curve_panels(
    [
        figures.CurvePanel(
            where,
            "relative error of the score",
            {n: (middles, errors[n]) for n in errors},
            ylim=(0, 1),
        ),
        figures.CurvePanel(
            where,
            "length of the learned arrow / exact",
            {n: (middles, lengths[n]) for n in lengths},
            ylim=(0, 1.2),
        ),
    ],
    title="Where there is no data, the learned arrows are wrong, and far too short",
)
plt.show()
near = (density.distance(density.sample(50_000, seed=6)) < 3 * width).float().mean()
print(f"share of the data within 3 widths: {near:.1%}")
for name in learned:
    verdict(f"{name:9s} error within 1.5 widths", max(errors[name][:2]), below=0.35)
    verdict(f"{name:9s} error beyond 10 widths", min(errors[name][-2:]), above=0.6)
    verdict(f"{name:9s} length beyond 10 widths", max(lengths[name][-2:]), below=0.6)

# %% [markdown]
# Left: the median of $\|s_\theta - s\| / \|s\|$, with $s$ the exact score. Right: the length of the learned arrow over
# that of the exact one. Within three widths, where nearly all data lies, both are small errors. Ten widths away the
# arrows have a quarter of the true length.
#
# **Explain.** The losses are means over the data. Where there is none, nothing is learned. But Langevin dynamics
# *begins* there.
#
# ## 7. Near a mode, no score knows its weight
#
# Even the exact score has a second trouble. Near a mode $k$ of a mixture $p = \sum_k w_k p_k$ of separated parts,
# $\nabla \log p(x) \approx \nabla \log (w_k\, p_k(x)) = \nabla \log p_k(x)$: the weight is only a number in front. Two
# Gaussians with the weights 0.8 (left) and 0.2 (right), and their exact score at any blur:

# %%
weights, centres, v = torch.tensor([0.8, 0.2]), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), 0.01


def mixture_score(x, variance):
    """∇ log Σ w_k N(x; centre_k, variance I)."""
    to_centres = centres - x[:, None]
    belongs = (weights.log() - to_centres.square().sum(2) / (2 * variance)).softmax(1)
    return (belongs[:, :, None] * to_centres).sum(1) / variance


def share_on_the_right(x):
    return float((x[:, 0] > 0).float().mean())


begin = 2 * torch.randn(3000, 2, generator=torch.Generator().manual_seed(0))
plain = langevin(lambda x, t: mixture_score(x, v), begin, step=2e-3, steps=640, seed=0, every=20)
print(f"share on the right at the beginning: {share_on_the_right(plain.end):.1f}")
print(f"after 640 Langevin steps:            {share_on_the_right(plain.start):.1f}")
print("the truth:                           0.2")

# %% [markdown]
# Every particle went to the nearer mode and stayed. After infinitely many steps the shares *would* be right; but to
# change its mode a particle has to cross twenty widths of emptiness by chance.
#
# ## 8. Noise levels
#
# Both troubles have one remedy, due to Song and Ermon (2019): **blur the data**, at many scales
# $\sigma_1 < \sigma_2 < \dots < \sigma_L$. From here on the five thin rings of this course.

# %%
rings = toy.load("olympic_rings", width=0.01)
figures.score_fields(
    {
        f"$\\sigma = {s:g}$": figures.ScorePanel(
            lambda x, s=s: smoothed_score(rings, x, s), lambda x, s=s: blurred_log_prob(rings, x, s)
        )
        for s in (0.02, 0.1, 0.4, 1.5)
    },
    title="The wider the blur, the farther out there is data, and the fewer modes",
)
plt.show()

# %% [markdown]
# The rings blurred by four $\sigma$, each with its exact score. At $\sigma = 0.02$ there is data on thin lines only, at
# $\sigma = 1.5$ everywhere, and a single hill.
#
# So: learn the score at *all* levels, with one network $s_\theta(x, t)$ that is told the level (a **noise-conditional
# score network**, NCSN). The levels have a constant ratio. The loss is denoising score matching at every level, weighted
# by $\sigma_i^2$, so that all count alike:
# $\tfrac12 \mathbb E \| \sigma_i s_\theta(x + \sigma_i \epsilon, t_i) + \epsilon \|^2$, averaged over $i$.
#
# To sample, begin with the widest level, where the network knows the whole plane and no gap separates the modes. Take
# $K$ Langevin steps at each level, of the length $\varepsilon_i = \eta\,\sigma_i^2$ (section 4: small against the
# thinnest direction, and at level $i$ nothing is thinner than $\sigma_i$). At last remove the noise of level 1 with
# Tweedie's formula. This is **annealed Langevin dynamics**.
#
# **Exercise 4. Annealed Langevin.** Build the sampler. `score(x, sigma)` is the score at a blur, `sigmas` $(L,)$ rises,
# `x` $(B, d)$ are the particles at the beginning, `eta` is $\eta$, and `noise` $(L, K, B, d)$ holds the draws: `noise[i]`
# those of the level `sigmas[i]`.


# %% tags=["exercise"]
def annealed_langevin(score, sigmas, x, eta, noise):
    return None  # your answer


# %% tags=["check"]
exercises.check_annealed_langevin(annealed_langevin)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def annealed_langevin(score, sigmas, x, eta, noise):
#     for i in reversed(range(len(sigmas))):
#         eps = eta * sigmas[i] ** 2
#         for z in noise[i]:
#             x = x + eps * score(x, sigmas[i]) + (2 * eps).sqrt() * z
#     return x + sigmas[0] ** 2 * score(x, sigmas[0])
# ```
#
# </details>

# %% [markdown]
# `NCSN.sample` is the library's version. First with the exact scores of the two unequal Gaussians. **Predict:** will the
# shares come out right?


# %%
def blurred_mixture(levels, steps_a_level):
    sigmas = NCSN(lambda x, t: x, levels, 0.03, 4.0).schedule.noise_process.sigma

    def score(x, t):
        return mixture_score(x, v + sigmas(t) ** 2)

    return NCSN(score, levels, 0.03, 4.0, langevin_steps=steps_a_level, langevin_step=0.2)


paths = {f"annealed, 32 × {K} steps": blurred_mixture(32, K).sample(3000, seed=0) for K in (5, 20)}
paths = {"plain, 640 steps": plain} | paths
shares = {
    name: (torch.linspace(0, 1, len(path)), [share_on_the_right(x) for x in path.states.flip(0)])
    for name, path in paths.items()
}
progress = "progress of the sampling (annealed: from the widest level to the narrowest)"
panel = figures.CurvePanel(progress, "share on the right (truth: 0.2)", shares, markers=False)
figures.curve_panels([panel], title="Annealed Langevin finds the shares that plain Langevin cannot")
plt.show()
for name, path in list(paths.items())[1:]:
    verdict(f"{name}: share on the right", share_on_the_right(path.start), above=0.14, below=0.26)

# %% [markdown]
# Plain: half of the particles are on the right, from the first step to the last. Annealed: while the two modes
# separate, particles still cross, and the share falls towards 0.2; once they are separate it stays.
#
# **Explain.** While two modes overlap, the blurred score *does* know their weights. Annealing decides the shares there,
# and refines later.
#
# ## 9. From samples alone
#
# Ten levels, and a few seconds of training. At every level we compare the network with the exact score of the blurred
# rings: on data blurred to that level, and in the wide cloud in which every sampler begins.

# %%
torch.manual_seed(0)
ncsn = NCSN.mlp(levels=10, sigma_min=0.006, sigma_max=4.0, langevin_steps=10, langevin_step=0.5)
history = fit(ncsn, rings, steps=900, batch_size=500, lr=1e-2)
verdict("loss, mean of the last 50 steps", sum(history.loss[-50:]) / 50, below=0.65)

blurred_data = ncsn.encode(rings.sample(4000, seed=3), seed=0)
sigmas = ncsn.sigmas[1:].tolist()
wide_cloud = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
wide_cloud = (1 + sigmas[-1] ** 2) ** 0.5 * wide_cloud


def error_at(x, level):
    """Relative error of the network's score at points x, one level: root mean squares."""
    exact = smoothed_score(rings, x, sigmas[level - 1])
    with torch.no_grad():
        ours = ncsn.score(x, ncsn.schedule.times[level].float())
    return float(((ours - exact).square().mean() / exact.square().mean()).sqrt())


on_data = [error_at(blurred_data[level], level) for level in range(1, 11)]
in_cloud = [error_at(wide_cloud, level) for level in range(1, 11)]
shown = [float(f"{sigma:.2g}") for sigma in sigmas]
curves = {"on data blurred to that level": (shown, on_data), "in the wide cloud": (shown, in_cloud)}
panel = figures.CurvePanel(
    "noise level $\\sigma_i$", "relative error of the score", curves, log="x"
)
figures.curve_panels([panel], title="Every level is learned where it has data, and not elsewhere")
plt.show()
verdict("on its own data, the worst level", max(on_data), below=0.5)
verdict("in the cloud, the best of the five narrowest", min(in_cloud[:5]), above=0.7)
verdict("in the cloud, the widest", in_cloud[-1], below=0.15)

# %% [markdown]
# On data of its own level (blue) the network is off by a few hundredths at wide levels, a few tenths at narrow ones. In
# the wide cloud (orange) the narrow levels are entirely wrong, the widest is right.
#
# **Explain.** Annealed Langevin dynamics moves along the blue curve: it begins in the cloud with the level that knows
# the cloud, and every level leaves the particles where the next one has its data. Plain Langevin dynamics with the
# narrowest level begins at the top left.

# %%
samples = ncsn.sample(4000, seed=0)
finest = ncsn.schedule.times[1].item()  # the same network, held at its narrowest level
step = ncsn.langevin_step * ncsn.sigmas[1].item() ** 2
begin = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
plain = langevin(ncsn.score, begin, step, steps=100, seed=0, t=finest, every=100)
figures.samples_against_truth(
    {"plain Langevin": plain.start, "annealed Langevin": samples.start},
    rings,
    color=rings.mode,
    title="One network, a hundred steps: annealed, hardly a particle is lost",
)
plt.show()
for name, x, limits in (
    ("plain", plain.start, {"above": 0.03}),
    ("annealed", samples.start, {"below": 0.03}),
):
    fullest = torch.bincount(rings.mode(x), minlength=5).max() / 4000
    verdict(f"{name:8s} leak", metrics.leak(x, rings), form=".1%", **limits)
    print(f"{name:8s} share of the fullest ring (truth 0.20): ≈{fullest:.2f}")

# %% [markdown]
# The data, and 4000 samples of one network. Middle: plain Langevin dynamics at the narrowest level, begun at
# $\mathcal N(0, I)$, already the right size. Many particles follow wrong arrows and never arrive. Right: annealed, begun
# in a cloud four times as wide.
#
# ## 10. What it costs
#
# A sample took $L K + 1 = 101$ network evaluations. **Predict:** could we take one step a level, if the levels are closer to each other?
# Here is a network with thirty levels, shipped with the course, beside the DDPM of notebook 03 with thirty steps and as
# many parameters:

# %%
thirty = pretrained("ncsn", "olympic_rings", steps=30)
print(thirty.card["command"])
truth = rings.sample(4000, seed=1)


def row(name, evaluations, x):
    far = metrics.sliced_w2(x, truth)
    print(f"{name:21s} {evaluations:11}   {metrics.leak(x, rings):4.0%}   {far:9.2f}")


print("                      evaluations   leak   sliced W2")
for K, eta in ((10, 0.5), (3, 0.5), (1, 0.5), (1, 1.0)):
    thirty.langevin_steps, thirty.langevin_step = K, eta
    row(f"NCSN, K = {K:2d}, η = {eta}", thirty.evaluations, thirty.sample(4000, seed=0).start)
ddpm = pretrained("ddpm", "olympic_rings", steps=30)
row("DDPM", ddpm.schedule.steps, ddpm.sample(4000, seed=0).start)
row("data", "", rings.sample(4000, seed=7))
print(
    f"ratio of neighbouring levels: {thirty.sigmas[2] / thirty.sigmas[1]:.2f}, √2 is {2**0.5:.2f}"
)

# %% [markdown]
# **Explain.** With thirty levels even one step a level loses hardly a particle; with $\eta = 0.5$ they lag a little,
# with $\eta = 1$ they do not. Look at that last step: $x + \sigma_i^2 s$ is Tweedie's guess of the
# clean point, and $\sqrt 2\,\sigma_i z$ makes it noisy again, with *more* noise than the level has; the next level
# removes it. No random walk settles here any more. Each step denoises and adds noise, and the result moves from level
# to level. **One step a level turns annealed Langevin dynamics into a reverse diffusion.** How long such a step should
# be, and how much noise it should add, notebook 03 derives.
#
# **An open question.** Change `sigma_max` of section 9 from 4 to 0.3 and train again. Predict leak and shares first,
# then measure, and explain which of the two suffers.
#
# ## What to remember
#
# - **Variances add**, so noise grows like $\sqrt{\Delta t}$; an SDE is a drift plus such noise.
# - Mean surprise = entropy + **KL**, and KL ≥ 0: no model is better than the entropy.
# - A **score** is the slope of $\log p$, with no normalising constant. **Langevin dynamics**,
#   $x \leftarrow x + \varepsilon s + \sqrt{2\varepsilon} z$, samples with it: pull and noise balance.
# - It is learned **from samples**: by parts (implicit, sliced), or by noise (denoising, for the blurred data).
# - A learned score is right **where the data is**. **Noise levels** repair that; with many levels, one step each is
#   enough, and that is a diffusion.
#
# ## References
#
# - A. Hyvärinen, *Estimation of non-normalized statistical models by score matching*, JMLR 2005:
#   the implicit loss (equation 4).
# - P. Vincent, *A connection between score matching and denoising autoencoders*, Neural Computation
#   2011: the denoising loss (equation 9).
# - Y. Song, S. Garg, J. Shi and S. Ermon, *Sliced score matching*, UAI 2019.
# - Y. Song and S. Ermon, *Generative modeling by estimating gradients of the data distribution*,
#   NeurIPS 2019: Langevin dynamics (equation 4), the loss over levels (equations 5 and 6), annealed
#   Langevin dynamics (algorithm 1); *Improved techniques for training score-based generative models*,
#   NeurIPS 2020: the largest level, the last denoising step.
# - Q. Zhang and Y. Chen, *Diffusion Normalizing Flow*, NeurIPS 2021 (equation 12).
#
# **What is next.** [Notebook 00](00_start_here.ipynb) has the map of the course. In [notebook 03](03_ddpm.ipynb) the
# noise levels become the steps of a diffusion; in [notebook 04](04_diffflow.ipynb) the forward
# process is learned, too.
