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
# An arrow at every point of the plane is all it takes to sample. The trouble is to learn the arrows
# where there is no data; noise is the remedy.
#
# ## What you will learn
#
# - What a **score** is, and why no normalising constant is needed to know it.
# - **Langevin dynamics**: how particles that follow the arrows, and shake, settle on the density.
# - Three ways to **learn a score from samples alone**, derived and checked with numbers.
# - Why a learned score is weak **far from the data**, and why even the exact score does not tell
#   plain Langevin, in reasonable time, how much each mode weighs.
# - How **noise levels** and **annealed Langevin dynamics** repair both, and what they cost.
#
# **Time and memory:** about 26 s of processor time, a third of it training (slower machines need up to three times that), and 800 MB.

# %%
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

torch.set_num_threads(1)  # nets this small gain little from a second core

# %% [markdown]
# ## 1. An arrow at every point
#
# The **score** of a density $p$ is the slope of its logarithm,
#
# $$s(x) = \nabla_x \log p(x).$$
#
# It is a field of arrows: at each point, the direction in which the density rises fastest, and how
# steeply it does. For our toy densities $\log p$ is known exactly, so autograd gives the exact score:
# that is all that `exact_score(density, x)` does.

# %%
moons = toy.load("two_moons", width=0.15)
figures.score_fields(
    {"": figures.ScorePanel(lambda x: exact_score(moons, x), moons.log_prob)},
    title="The score points uphill,\nand the farther from the data the longer",
)
plt.show()

# %% [markdown]
# Grey: the density, two moons. Blue: its score (arrow lengths grow with the square root of the
# score's, else the long ones would hide the short ones). All arrows point at a moon; along the ridge
# of a moon they vanish; halfway between the moons they change their mind.
#
# A score is blind to one thing, and that is its strength. Multiply $p$ by any number: $\log p$ shifts
# by a constant, and the slope stays. **Whoever learns a score need not know a normalising constant**,
# the integral that makes other models hard.

# %%
x = moons.sample(1000, seed=0)
seven_times = exact_score(lambda x: moons.log_prob(x) + torch.tensor(7.0).log(), x)
print(f"the score of 7 p is the score of p: {torch.equal(seven_times, exact_score(moons, x))}")

# %% [markdown]
# **Exercise 1. The score of a Gaussian.** Everything below is made of Gaussians, so do one by hand.
# For $p(x) = \mathcal N(x;\, m, \sigma^2 I)$ the logarithm is
# $-\|x - m\|^2 / (2\sigma^2)$ plus a constant. What is its gradient? `x` has shape $(B, d)$,
# `mean` $(d,)$, `std` is one number.


# %% tags=["exercise"]
def gaussian_score(x, mean, std):
    return None  # your answer


# %% tags=["check"]
exercises.check_gaussian_score(gaussian_score)


# %% tags=["solution"] jupyter={"source_hidden": true}
def gaussian_score(x, mean, std):
    return (mean - x) / std**2


exercises.check_gaussian_score(gaussian_score)

# %% [markdown]
# ## 2. Follow the arrows, and shake
#
# How do arrows become samples? Put particles anywhere and let each walk
#
# $$x \leftarrow x + \varepsilon\, s(x) + \sqrt{2\varepsilon}\, z, \qquad z \sim \mathcal N(0, I).$$
#
# This is **Langevin dynamics**: a small step uphill, and a shake. (Song and Ermon write
# $\varepsilon/2$ and $\sqrt\varepsilon$; it is the same walk with another name for
# $\varepsilon$.)
#
# **Exercise 2. One Langevin step.** `s` is the score at `x`, `z` the noise; `eps` is a tensor with one
# number in it.


# %% tags=["exercise"]
def langevin_step(x, s, eps, z):
    return None  # your answer


# %% tags=["check"]
exercises.check_langevin_step(langevin_step)


# %% tags=["solution"] jupyter={"source_hidden": true}
def langevin_step(x, s, eps, z):
    return x + eps * s + (2 * eps).sqrt() * z


exercises.check_langevin_step(langevin_step)

# %% [markdown]
# **Predict** before you run: 1000 particles start far and wide and take 60 small steps. What do they look
# like at the end? And what if we leave out the shake?
#
# `langevin(score, x, step, steps)` repeats the step above. It returns a `Trajectory` in the direction
# of this course: the *last* state, which looks like data, is the `start`, at $t = 0$.

# %%
wide = 1.5 * torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
epsilon, steps = 0.01, 60


def uphill(x, t):
    return exact_score(moons, x)


walk = langevin(uphill, wide, step=epsilon, steps=steps, seed=0, every=2)

climb = [wide]
for _ in range(steps):
    climb.append(climb[-1] + epsilon * uphill(climb[-1], 0.0))
climb = Trajectory(walk.times, torch.stack(climb[::-2]))  # last state first, every other one

# %%
langevin_as_sde = DiffFlow(
    drift=uphill, score=uphill, schedule=Schedule.euler(walk.times, g=2**0.5)
)
play(
    {"with the shake": walk, "without": climb},
    color=moons.mode,
    direction="backward",
    fields={"with the shake": langevin_as_sde},
    density=moons,
    title="With the shake the particles fill the moons; without it they pile up on the ridges",
)

# %% [markdown]
# The player starts at the noise end of its slider, with the same wide cloud in both panels, and plays
# towards the data. With the shake the cloud becomes two moons, as thick as they should be; without it,
# two thin curves. The player can draw the *score* as arrows, those that the particles follow, and below
# each panel it gives the distance to the data at every step.

# %%
data = moons.sample(20_000, seed=1)


def thickness(x):
    """Root mean square distance from the middle of the moons, the data's own being 1."""
    return float((moons.distance(x).square().mean() / moons.distance(data).square().mean()).sqrt())


for name, path in {"with the shake": walk, "without": climb}.items():
    distance = metrics.sliced_w2(path.start, data)
    print(f"{name:15s} thickness {thickness(path.start):.1f}   sliced W2 {distance:.2f}")
print(f"1000 points of data itself          {metrics.sliced_w2(data[:1000], data):.2f}")

# %% [markdown]
# **Explain.** Without the shake this is gradient ascent, and its goal is the *most likely* point, not a
# *typical* one. The shake pushes particles off the ridge as often as the density says there should be
# some. Why exactly $\sqrt{2\varepsilon}$? Read the walk as the SDE $dx = f\,dt + g\,dw$ with $f = s$ and
# $g = \sqrt 2$. Its time reversal has the drift $f - g^2 s = s - 2s = -s$, so backward, where steps count
# the other way, particles walk along $+s$ again: **a film of Langevin dynamics looks the same in
# either direction.** That is what it means to have arrived. (In the player, compare *drift* with
# *backward drift*.)
#
# ### Fine print: the step
#
# With a finite step the walk settles a little beside $p$. On $\mathcal N(0, v)$ each step multiplies
# $x$ by $1 - \varepsilon/v$ and adds the variance $2\varepsilon$; the variance that such a step leaves
# unchanged is $v / (1 - \varepsilon/2v)$, too large, and infinite at $\varepsilon = 2v$.

# %%
v = 0.25
print("ε/v    std/√v measured   1/√(1 − ε/2v)")
for share in (0.1, 0.5, 1.0):
    path = langevin(
        lambda x, t: -x / v, torch.zeros(40_000, 1), share * v, steps=60, seed=0, every=60
    )
    print(f"{share:3.1f}    {path.start.std() / v**0.5:15.2f}   {(1 - share / 2) ** -0.5:13.2f}")

# %% [markdown]
# The steps have to be small against the *thinnest* direction of the data, while the number of steps has
# to carry particles through the *widest*. Keep that in mind.
#
# ## 3. Learn the arrows from samples
#
# Now forget $\log p$: we only have samples. A network $s_\theta(x)$ should match the score, and the
# natural loss is the **explicit** one, half the mean square error (the Fisher divergence):
#
# $$J_\text{explicit} = \mathbb E_p\; \tfrac12 \| s_\theta(x) - \nabla \log p(x) \|^2.$$
#
# It asks for the answer. Two tricks get rid of it. Both open the square and look at the cross term,
# the only one that has $\theta$ and $\nabla \log p$ together.
#
# **Trick one, integrate by parts** (Hyvärinen 2005). Since $p\, \nabla \log p = \nabla p$,
# and since $p\, s_\theta$ vanishes far out,
#
# $$\mathbb E_p\bigl[s_\theta \cdot \nabla \log p\bigr] = \int s_\theta \cdot \nabla p \;dx
# = -\int p\; \mathrm{tr}\,\tfrac{\partial s_\theta}{\partial x} \;dx
# \quad\Longrightarrow\quad
# J_\text{implicit} = \mathbb E_p\bigl[\tfrac12\|s_\theta\|^2
# + \mathrm{tr}\,\tfrac{\partial s_\theta}{\partial x}\bigr].$$
#
# The trace costs one backward pass a dimension: nothing here, prohibitive for images. **Sliced** score
# matching (Song et al. 2019) puts $v^\top \tfrac{\partial s_\theta}{\partial x} v$ with a random
# direction $v$ in its place, the same on average and one backward pass in any dimension.
#
# **Trick two, add noise** (Vincent 2011). Give up $p$ and learn the score of the blurred density
# $p_\sigma = p * \mathcal N(0, \sigma^2 I)$, that of the noisy points
# $\tilde x = x + \sigma\epsilon$. The cross term again:
#
# $$\mathbb E_{p_\sigma}\bigl[s_\theta(\tilde x) \cdot \nabla \log p_\sigma(\tilde x)\bigr]
# = \int s_\theta \cdot \nabla p_\sigma\, d\tilde x
# = \iint p(x)\; s_\theta(\tilde x) \cdot \nabla_{\tilde x} \mathcal N(\tilde x; x, \sigma^2 I)\; dx\, d\tilde x
# = \mathbb E\Bigl[s_\theta(\tilde x) \cdot \frac{x - \tilde x}{\sigma^2}\Bigr].$$
#
# In the middle we only put the gradient under the integral; at the end stands the score of a
# Gaussian, your exercise 1. So $\nabla\log p_\sigma(\tilde x)$ may be replaced by
# $(x - \tilde x)/\sigma^2 = -\epsilon/\sigma$, which we *know*, having added the noise ourselves:
#
# $$J_\text{denoising} = \mathbb E\; \tfrac12 \bigl\| s_\theta(x + \sigma\epsilon) + \epsilon/\sigma \bigr\|^2.$$
#
# No truth, no derivative of the network. This loss trains nearly every diffusion model there is.
#
# **Exercise 3. The denoising loss.** Return its mean over a batch, one number. `score` is a function of
# `x` alone, `x` and `noise` have shape $(B, d)$, `sigma` is one number.


# %% tags=["exercise"]
def denoising_loss(score, x, sigma, noise):
    return None  # your answer


# %% tags=["check"]
exercises.check_denoising_loss(denoising_loss)


# %% tags=["solution"] jupyter={"source_hidden": true}
def denoising_loss(score, x, sigma, noise):
    error = score(x + sigma * noise) + noise / sigma
    return 0.5 * error.square().sum(dim=1).mean()


exercises.check_denoising_loss(denoising_loss)

# %% [markdown]
# Opening the squares also tells the constants that were dropped:
#
# $$J_\text{explicit} = J_\text{implicit} + \tfrac12 \mathbb E_p\|\nabla\log p\|^2, \qquad
# J_\text{denoising} = J_\text{explicit of } p_\sigma
# + \tfrac12\bigl(d/\sigma^2 - \mathbb E\|\nabla\log p_\sigma\|^2\bigr).$$
#
# **Predict:** these hold for *any* field that does not explode far out, not only for good ones. Is it clear why? We take one that has
# nothing to do with the data, and eight Gaussians on a circle.

# %%
density = toy.load("eight_gaussians", width=0.1)


def some_field(x, t):
    return torch.sin(3 * x.flip(1)) - 2 * x


n, sigma = 200_000, 0.3
x = density.sample(n, seed=0).double()
noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
truth, noisy = exact_score(density, x), x + sigma * noise
blurred_truth = smoothed_score(density, noisy, sigma)

explicit = explicit_score_matching(some_field, x, truth).mean()
implicit = implicit_score_matching(some_field, x).mean()
sliced = sliced_score_matching(some_field, x, seed=2).mean()
denoising = denoising_loss(lambda x: some_field(x, 0.0), x, sigma, noise)
explicit_blurred = explicit_score_matching(some_field, noisy, blurred_truth).mean()
fisher = 0.5 * truth.square().sum(1).mean()
constant = 0.5 * (2 / sigma**2 - blurred_truth.square().sum(1).mean())

print(f"explicit                       {explicit:6.1f}")
print(f"implicit + ½E‖∇log p‖²         {implicit + fisher:6.1f}")
print(f"sliced   + ½E‖∇log p‖²         {sliced + fisher:6.1f}")
print(f"explicit, blurred, + constant  {explicit_blurred + constant:6.1f}")
print(f"denoising                      {denoising:6.1f}")

# %% [markdown]
# **Explain.** Nowhere in the derivations did we use that $s_\theta$ is good. And since the constants know
# nothing of $\theta$, all these losses have the same gradient on average.
#
# What is strange about the denoising target is that it is *wrong*, nearly always: $-\epsilon/\sigma$ points at
# the one clean point that we happen to have started from. Let us stand at one noisy point and
# look at all clean points that could be behind it.

# %%
blur, here = 0.5, torch.tensor([0.55, 0.35])
clean = density.sample(1_000_000, seed=3)
seen = clean + blur * torch.randn(clean.shape, generator=torch.Generator().manual_seed(4))
origins = clean[(seen - here).norm(dim=1) < 0.1]
mean_origin = origins.mean(0)
tweedie = here + blur**2 * smoothed_score(density, here[None], blur)[0]

with figures.style():
    figure, axes = plt.subplots(figsize=(6.2, 5.6), layout="constrained")
    axes.scatter(*density.sample(3000, seed=5).T, s=3, c="#D0D0D0", lw=0)
    for origin in origins[:60]:
        axes.plot(*torch.stack([here, origin]).T, color="#8C8C8C", lw=0.6)
    axes.scatter(*origins[:60].T, s=9, c="#555555", lw=0, zorder=3, label="where it may come from")
    arrow = {"arrowstyle": "-|>", "color": figures.MODES[1], "lw": 3, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", mean_origin, here, arrowprops=arrow, zorder=4)
    axes.plot([], [], color=figures.MODES[1], lw=3, label="mean of the ways there")
    axes.scatter(*tweedie, s=130, fc="none", ec=figures.MODES[0], lw=2.2, zorder=5,
                 label=r"$\tilde x + \sigma^2\,\nabla\log p_\sigma(\tilde x)$, exact")  # fmt: skip
    axes.scatter(*here, s=45, c="black", zorder=5, label=r"the noisy point $\tilde x$")
    axes.set(xlim=(-2, 2), ylim=(-1.9, 2.35), aspect="equal")
    axes.set_axis_off()
    axes.legend(loc="upper left", ncols=2, fontsize=10)
    figure.suptitle("Every single target is wrong; their mean is the score")
plt.show()
off = float((mean_origin - tweedie).norm())
print(f"more than 1000 clean points behind this noisy one: {len(origins) > 1000}")
print(f"their mean is the exact one to 0.05:               {off < 0.05}")

# %% [markdown]
# Pale grey: the data. The black dot is a point that was seen after blurring with $\sigma = 0.5$; thin
# lines lead to 60 of the clean points it may come from, on several Gaussians. The orange arrow is the
# mean of all those ways, and it ends in the blue circle, which is computed from the exact score of
# the blurred density. A network that minimises a mean square can only learn the mean, so
# it learns the score. Turned round it is **Tweedie's formula**, $\mathbb E[x \mid \tilde x] = \tilde x
# + \sigma^2 \nabla\log p_\sigma(\tilde x)$: who knows the score can denoise.
#
# ## 4. Weak far from the data
#
# Three losses, one network each, the same architecture and seed, a few seconds together.

# %%
blur = 0.1  # of the denoising loss: as wide as a Gaussian of the data in raw units


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
    "sliced": train(sliced_score_matching),
    "denoising": train(lambda net, x: denoising_score_matching(net, x, blur)),
}

# %%
points = density.sample(1500, seed=0)
figures.score_fields(
    {
        "exact": figures.ScorePanel(lambda x: exact_score(density, x), None, points),
        "learned, implicit": figures.ScorePanel(learned["implicit"], None, points),
        "learned, denoising": figures.ScorePanel(learned["denoising"], None, points),
    },
    title="The arrows are right where the dots are",
    extent=3.0,
)
plt.show()

# %% [markdown]
# Grey dots: the data; arrows: exact (left) and learned (middle, right). Around the dots the three
# agree. In the middle of the circle and out in the corners the networks made something up: smooth, plausible,
# and wrong.
#
# **Predict:** how does the relative error grow with the distance to the data? We measure it at random
# points of a large square, by their distance to the nearest centre in units of a Gaussian's width. (The
# denoising network is compared with the exact score of the *blurred* density, its own target.)

# %%
width = density.width / density.scale
probe = 8 * (torch.rand(20_000, 2, generator=torch.Generator().manual_seed(3)) - 0.5)
away = density.distance(probe) / width
targets = {name: exact_score(density, probe) for name in learned}
targets["denoising"] = smoothed_score(density, probe, blur)

bins = torch.tensor([0, 0.75, 1.5, 2.25, 3, 4, 5, 6, 8, 10, 12, 15])
middles = (bins[1:] + bins[:-1]) / 2
errors = {}
for name, score in learned.items():
    relative = (score(probe) - targets[name]).norm(dim=1) / targets[name].norm(dim=1)
    near = zip(bins[:-1], bins[1:], strict=True)
    errors[name] = [float(relative[(away >= a) & (away < b)].median()) for a, b in near]

with figures.style():
    figure, axes = plt.subplots(figsize=(8, 4.4), layout="constrained")
    spread = density.distance(density.sample(50_000, seed=6)) / width
    share = torch.histogram(spread, bins).hist / len(spread)
    axes.bar(middles, share, width=bins.diff(), color="#E2E2E2", label="share of the data")
    for (name, error), marker, color in zip(errors.items(), "os^", figures.MODES, strict=False):
        axes.plot(middles, error, marker + "-", color=color, label=name)
    axes.set(xlim=(0, 15), ylim=(0, 1), xlabel="distance to the nearest centre [widths]",
             ylabel="relative error of the score, median")  # fmt: skip
    axes.legend(loc="lower right")
    figure.suptitle("Whichever loss: no data, no score")
plt.show()
for name, error in errors.items():
    print(f"{name:9s} error below 0.35 within 1.5 widths: {max(error[:2]) < 0.35}, "
          f"above 0.6 beyond 10 widths: {min(error[-2:]) > 0.6}")  # fmt: skip

# %% [markdown]
# Grey bars: where the data is. Lines: the median of $\|s_\theta - \nabla\log p\| / \|\nabla\log p\|$. Within
# three widths, where practically all data lies, the networks are off by a tenth to three tenths (at
# the very centre more than at one width, for the arrow itself vanishes there). Ten widths out they miss three quarters
# of the arrow.
#
# **Explain.** All losses are expectations over the data. Where there is none, nothing is asked of the
# network, so nothing is learned. That is bad news for a sampler: Langevin dynamics *begins* out
# there.
#
# ## 5. Near a mode, no score knows how much it weighs
#
# There is a second trouble, and even the exact score has it. Near a mode $k$ of a mixture
# $p = \sum_k w_k p_k$ of separated parts,
#
# $$\nabla \log p(x) \approx \nabla \log (w_k\, p_k(x)) = \nabla \log p_k(x),$$
#
# by the argument of section 1: the weight is just a number in front. (The weights are in the score, but only
# in the valley between the parts, where no particle goes.) Take two Gaussians with
# the weights 0.8 (left) and 0.2 (right), and their exact score, for which we also know the exact score of
# any blur.

# %%
weights, centres, v = torch.tensor([0.8, 0.2]), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), 0.01


def mixture_score(x, variance):
    """∇ log Σ w_k N(x; centre_k, variance I), with weights that depend on x."""
    ways = centres - x[:, None]
    belongs = (weights.log() - ways.square().sum(2) / (2 * variance)).softmax(1)
    return (belongs[:, :, None] * ways).sum(1) / variance


def share_on_the_right(x):
    return float((x[:, 0] > 0).float().mean())


begin = 2 * torch.randn(3000, 2, generator=torch.Generator().manual_seed(0))
plain = langevin(lambda x, t: mixture_score(x, v), begin, step=2e-3, steps=640, seed=0, every=20)
print(f"share on the right at the beginning: {share_on_the_right(plain.end):.1f}")
print(f"after 640 Langevin steps:            {share_on_the_right(plain.start):.1f}")
print("the truth:                           0.2")

# %% [markdown]
# Every particle fell into the nearer mode and never left. In the limit of infinitely many steps
# Langevin dynamics *would* get the shares right; to cross from one mode to the other a particle would
# have to shake its way through twenty widths of emptiness first.
#
# ## 6. Noise levels
#
# Both troubles have one remedy, due to Song and Ermon (2019): **blur the data**, at many scales
# $\sigma_1 < \sigma_2 < \dots < \sigma_L$. From here on the five rings of this course, thin as they are.

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
# The rings blurred by four $\sigma$, each with its exact score. At $\sigma = 0.02$ there is data on
# thin lines only, and the arrows inside a ring say nothing of the other rings. At $\sigma = 1.5$ there is data
# everywhere and a single hill. In between, rings become blobs and blobs become one.
#
# So: learn the score at *all* levels, with one network $s_\theta(x, t)$ that is told the level (a
# **noise-conditional score network**, NCSN). Then start Langevin dynamics at the widest blur, where
# the network knows the whole plane and nothing separates the modes, and follow it down. The
# loss is denoising score matching at every level, each weighted by $\sigma_i^2$ so that all weigh
# the same:
#
# $$J_\text{levels}(\theta) = \frac1L \sum_{i=1}^L \sigma_i^2\; \tfrac12 \mathbb E \bigl\| s_\theta(x + \sigma_i\epsilon, t_i)
# + \epsilon/\sigma_i \bigr\|^2
# = \frac1L \sum_{i=1}^L \tfrac12 \mathbb E \bigl\| \sigma_i s_\theta + \epsilon \bigr\|^2.$$
#
# **Exercise 4. The levels.** To a particle of level $i+1$ level $i$ should look familiar. What counts is
# the ratio $\sigma_{i+1}/\sigma_i$, so let it be the same for all. Return $\sigma_1 < \dots < \sigma_L$,
# shape $(L,)$, from `sigma_min` to `sigma_max`.


# %% tags=["exercise"]
def noise_levels(levels, sigma_min, sigma_max):
    return None  # your answer


# %% tags=["check"]
exercises.check_noise_levels(noise_levels)


# %% tags=["solution"] jupyter={"source_hidden": true}
def noise_levels(levels, sigma_min, sigma_max):
    return sigma_min * (sigma_max / sigma_min) ** (torch.arange(levels) / (levels - 1))


exercises.check_noise_levels(noise_levels)

# %% [markdown]
# ## 7. Annealed Langevin dynamics
#
# From $\sigma_L$ down to $\sigma_1$, take $K$ Langevin steps at each level, of the length
# $\varepsilon_i = \eta\,\sigma_i^2$ (section 2: the step must be small against the thinnest direction, and
# at level $i$ nothing is thinner than $\sigma_i$). Finish with Tweedie's formula to take the last noise
# out. That is all of `NCSN.sample`:
#
#     for i in range(L, 0, -1):
#         for _ in range(K):
#             x = langevin_step(x, s(x, t_i), eta * sigma_i**2, z)
#     x = x + sigma_1**2 * s(x, t_1)
#
# First with the exact scores of the two unequal Gaussians. **Predict:** will the shares come out right?


# %%
def blurred_mixture(levels, steps_a_level):
    sigmas = NCSN(lambda x, t: x, levels, 0.03, 4.0).schedule.noise_process.sigma
    return NCSN(
        lambda x, t: mixture_score(x, v + sigmas(t) ** 2),
        levels,
        sigma_min=0.03,
        sigma_max=4.0,
        langevin_steps=steps_a_level,
        langevin_step=0.2,
    )


machines = {K: blurred_mixture(32, K) for K in (5, 20)}
annealed = {K: machine.sample(3000, seed=0) for K, machine in machines.items()}

with figures.style():
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    way = torch.linspace(0, 1, 33)
    axes.axhline(0.2, color="0.3", lw=1.2, ls="--")
    shares = [share_on_the_right(x) for x in plain.states.flip(0)]
    axes.plot(way, shares, color=figures.MODES[1], label="plain, 640 steps")
    for (K, path), color in zip(
        annealed.items(), (figures.MODES[5], figures.MODES[0]), strict=True
    ):
        shares = [share_on_the_right(x) for x in path.states.flip(0)]
        axes.plot(way, shares, color=color, label=f"annealed, 32 levels × {K} steps")
    axes.text(0.01, 0.185, "the truth", va="top")
    axes.set(xlim=(0, 1), ylim=(0.1, 0.6), ylabel="share on the right",
             xlabel="how far the sampling is (annealed: from the widest level to the narrowest)")  # fmt: skip
    axes.legend()
    figure.suptitle("Annealed Langevin finds the shares that plain Langevin cannot")
plt.show()
for K, path in annealed.items():
    print(f"K = {K:2d}: {machines[K].evaluations} evaluations, "
          f"share off by less than 0.06: {abs(share_on_the_right(path.start) - 0.2) < 0.06}")  # fmt: skip

# %% [markdown]
# The share of particles on the right. Orange, plain: half of them, from the first step to the last. Blue, annealed:
# at the widest level there is one hill, slightly heavier on the left; while the two modes separate,
# particles still cross and the share falls towards 0.2; once they are separate it is frozen. With five
# steps a level (pale) the particles cannot quite keep up and it freezes a little too high.
#
# **Explain.** While two modes still overlap, the blurred score *does* know their weights: the valley
# between them lies off the middle. Annealing decides the shares there, at a blur about as wide as
# the modes are apart, and carves the details later.
#
# Now without any truth, from samples alone: ten levels, a network like that of the other
# models of this course, and a few seconds.

# %%
torch.manual_seed(0)
ncsn = NCSN.mlp(levels=10, sigma_min=0.006, sigma_max=4.0, langevin_steps=10, langevin_step=0.5)
history = fit(ncsn, rings, steps=900, batch_size=500, lr=1e-2)
print(f"{len(history.loss)} steps, loss {history.loss[0]:.1f} at the beginning, "
      f"below 0.65 at the end: {sum(history.loss[-50:]) / 50 < 0.65}")  # fmt: skip

# %% [markdown]
# First the network, then its samples. Is it right where it will be asked? At every level we compare it with
# the exact score of the blurred rings, at two kinds of places: on data blurred to that level, where annealed
# Langevin walks, and in the wide cloud in which every sampler begins.

# %%
blurred_data = ncsn.encode(rings.sample(4000, seed=3), seed=0)
sigmas = ncsn.sigmas[1:].tolist()
cloud_std = (1 + sigmas[-1] ** 2) ** 0.5
wide_cloud = cloud_std * torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))


def error_at(x, level):
    """Relative error of the network's score at points x, one level: root mean squares."""
    exact = smoothed_score(rings, x, sigmas[level - 1])
    with torch.no_grad():
        ours = ncsn.score(x, ncsn.schedule.times[level].float())
    return float(((ours - exact).square().mean() / exact.square().mean()).sqrt())


where_it_walks = [error_at(blurred_data[level], level) for level in range(1, 11)]
where_it_begins = [error_at(wide_cloud, level) for level in range(1, 11)]

with figures.style():
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    axes.semilogx(sigmas, where_it_begins, "s--", color=figures.MODES[1])
    axes.semilogx(sigmas, where_it_walks, "o-", color=figures.MODES[0])
    axes.text(0.3, 0.7, "asked in the wide cloud", color=figures.MODES[1])
    axes.text(0.012, 0.15, "asked on data blurred to that level", color=figures.MODES[0], va="top")
    axes.set(xlabel=r"noise level $\sigma_i$", ylabel="relative error of the score", ylim=(0, 1.1))
    figure.suptitle("Every level is learned where it has data, and not elsewhere")
plt.show()
print(f"on its own data every level is off by less than half: {max(where_it_walks) < 0.5}")
print(f"in the cloud the five narrowest by more than 0.7:     {min(where_it_begins[:5]) > 0.7}")
print(f"in the cloud the widest by less than 0.15:            {where_it_begins[-1] < 0.15}")

# %% [markdown]
# The relative error of the learned score against the noise level. Blue circles: on data of that level the
# error is between 0.06 (wide levels) and 0.4 (the narrowest, a few seconds of training). Orange squares: in the
# wide cloud the narrow levels are off by nearly everything, the widest is as good as on its data.
#
# **Explain.** Annealed Langevin dynamics goes from blue circle to blue circle. It begins in the cloud with the
# level that knows the cloud, and every level leaves the particles where the next one is at home.
# Plain Langevin dynamics with the narrowest level begins at the top left.

# %%
samples = ncsn.sample(4000, seed=0)
finest = ncsn.schedule.times[1].item()  # the same network, held at its narrowest level
step = ncsn.langevin_step * ncsn.sigmas[1].item() ** 2
begin = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
plain = langevin(ncsn.score, begin, step, steps=100, seed=0, t=finest, every=100)
plain_wide = langevin(ncsn.score, wide_cloud, step, steps=100, seed=0, t=finest, every=100)
figures.samples_against_truth(
    {"plain Langevin": plain.start, "annealed Langevin": samples.start},
    rings,
    color=rings.mode,
    title="One network, a hundred steps: annealed, hardly a particle is lost",
)
plt.show()

# %% [markdown]
# Data, and 4000 samples of the same network at the same cost. Middle: plain Langevin dynamics at the
# narrowest level, begun at $\mathcal N(0, I)$, already the right size. A haze of particles follows made-up arrows and
# never arrives, and where the grey data shines through, at the far left and right, too few did. Right:
# annealed, begun in a cloud four times as wide.

# %%
truth = rings.sample(4000, seed=1)
runs = {"plain": plain.start, "plain, wide": plain_wide.start, "annealed": samples.start}
leak = {name: metrics.leak(x, rings) for name, x in runs.items()}
far = {name: metrics.sliced_w2(x, truth) for name, x in runs.items()}
shares = {name: torch.bincount(rings.mode(x), minlength=5) / 4000 for name, x in runs.items()}

print(
    f"plain, from N(0, I):      leak above 3 %: {leak['plain'] > 0.03}, "
    f"a ring with more than 0.25 of the particles: {bool(shares['plain'].max() > 0.25)}"
)
print(f"plain, from the cloud:    leak above 50 %: {leak['plain, wide'] > 0.5}")
print(
    f"annealed, from the cloud: leak below 3 %: {leak['annealed'] < 0.03}, "
    f"every ring between 0.15 and 0.25: {bool((shares['annealed'] - 0.2).abs().max() < 0.05)}"
)
print(f"sliced W2, annealed against plain: less than half: {far['annealed'] < 0.5 * far['plain']}")  # fmt: skip

# %% [markdown]
# On the machine where this was written plain Langevin loses 7 % of its particles from
# $\mathcal N(0, I)$ and 82 % from the cloud, and the fullest ring gets 0.32 instead of 0.2; annealed loses 1 %
# and deals 0.17 to 0.23.
#
# To watch it, both ways:


# %%
def rescaled(path):
    """Every state divided by √(1 + σ²), so that the cloud does not outgrow the picture."""
    return Trajectory(
        path.times, path.states / (1 + ncsn.sigmas.float() ** 2).sqrt()[:, None, None]
    )


down = ncsn.sample(2000, seed=1)
play(
    {
        "noise added": rescaled(ncsn.encode(rings.sample(2000, seed=2), seed=0)),
        "annealed Langevin": rescaled(down),
    },
    color=rings.mode,
    direction="backward",
    density=rings,
    title="Ten levels down: the middle ones decide, the last ones draw",
)

# %% [markdown]
# First panel: `encode`, data to which noise is added level by level. Second: `sample`, annealed Langevin
# dynamics from the cloud to the rings; its states are those that each level left behind. All states are divided
# by $\sqrt{1 + \sigma_i^2}$ for the picture, so that one can see both ends. Level by level
# the two clouds look alike, as they should.
#
# At which level does a particle know its ring?

# %%
belongs = rings.mode(down.start)
stays = [float((rings.mode(x) == belongs).float().mean()) for x in down.states]
print(f"ring already right after the two widest levels, below 40 %:        {stays[9] < 0.4}")
print(f"ring already right after level 4 of 10 (σ = 0.05), more than 80 %: {stays[4] > 0.8}")

# %% [markdown]
# **Explain.** After the two widest levels the nearest ring is the final one for 2 particles in 10, which is
# chance. After level 7 ($\sigma = 0.46$) it is for 5 in 10, after level 4 for 9 in 10: the levels between decide
# who belongs where, at a blur about as wide as the rings are apart, and the narrow ones only draw
# the line thinner.
#
# ## 8. What it costs
#
# A sample took $L K + 1 = 101$ network evaluations. Can we save on $K$? **Predict:** with three steps a level instead of ten, which suffers more, the sharpness of
# the rings or their shares?

# %%
ncsn.langevin_steps = 3
x = ncsn.sample(4000, seed=0).start
shares = torch.bincount(rings.mode(x), minlength=5) / 4000
print(f"{ncsn.evaluations} evaluations   leak below 3 %: {metrics.leak(x, rings) < 0.03}"
      f"   shares within 0.1: {bool((shares - 0.2).abs().max() < 0.1)}")  # fmt: skip

# %% [markdown]
# **Explain.** The sharpness: about a tenth of the particles never arrives. With ten levels the blur halves from one
# to the next, and three steps of $\eta = 0.5$ are not enough to follow.
#
# Would more levels do, so that each is near the next? Now a network with thirty levels, shipped with
# the course, beside the DDPM of notebook 03 with thirty steps and as many parameters:

# %%
thirty = pretrained("ncsn", "olympic_rings", steps=30)
print(thirty.card["command"])


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

# %% [markdown]
# **Explain.** With thirty levels even one step a level hardly loses a particle; with $\eta = 0.5$ they lag a
# little, hence the larger distance, and with $\eta = 1$ nothing is left to complain about. Look at that
# last step: $x + \sigma_i^2 s$ is Tweedie's guess of the clean point, and $\sqrt 2\,\sigma_i z$ makes it noisy again.
# Denoise, add a little less noise than before, repeat: no walk that settles, but a way back from level to
# level. **One step a level turns annealed Langevin dynamics into a reverse diffusion**, and at the same
# number of evaluations it is as good as the DDPM. How long such a step should be, and how much noise it should
# add, need not be tuned as $\eta$ was: notebook 03 derives it.
#
# ## What to remember
#
# - A **score** is the slope of $\log p$: no normalising constant, an arrow at every point.
# - **Langevin dynamics**, $x \leftarrow x + \varepsilon s + \sqrt{2\varepsilon} z$, samples with a score alone.
#   Without the shake it piles up on the ridges; with a step that is not small it comes out too wide.
# - The truth can be **eliminated from the loss**: by parts (implicit, sliced), or by noise
#   (denoising, $s \approx -\epsilon/\sigma$). They differ by constants.
# - A learned score is right **where the data is**, and no score near a mode knows that mode's weight.
# - **Noise levels** repair both: wide levels know the whole plane and the weights, narrow ones draw.
#   The price is many evaluations: levels times steps. With many levels one step each is enough, and
#   that is a diffusion.
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
# - Q. Zhang and Y. Chen, *Diffusion Normalizing Flow*, NeurIPS 2021, where the score is half of the model
#   (equation 12).
#
# **What is next.** [Notebook 00](00_start_here.ipynb) has the map of the course. In [notebook 03](03_ddpm.ipynb) the
# noise levels become the steps of a diffusion; in [notebook 04](04_diffflow.ipynb) the way out is
# learned, too.
