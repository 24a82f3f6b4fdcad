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
# # Start here: particles between data and noise
#
# Two thousand particles move from noise onto five rings. This page shows what moves them.

# %%
from diffflow_edu import play, pretrained, toy

density = toy.load("olympic_rings")
ddpm = pretrained("ddpm", "olympic_rings", steps=10)
diffflow = pretrained("diffflow", "olympic_rings", steps=10)

play(
    {"DDPM": ddpm.sample(2000, seed=0), "DiffFlow": diffflow.sample(2000, seed=0)},
    color=density.mode,
    direction="backward",
    title="From noise to five crossing rings in ten steps",
)

# %% [markdown]
# Press ▶, or click on the player and use the space bar and the arrow keys. The slider has the **data on the left
# and the noise on the right**, whichever way you play. Every particle has the colour of the ring it lands on.
# Both models start from the same two thousand draws of noise, and both are real: networks of about 98 000 numbers,
# trained by a command of this repository (more on that below). Where a page shows no player, it shows still pictures:
# one row a model.
#
# DDPM's colours come out of a mixed cloud. DiffFlow's lie in patches long before a ring can be seen. Remember this
# difference; it is what this course is about.
#
# ## What you will learn
#
# - What a **normalizing flow**, a **diffusion model** and **DiffFlow** have in common: each carries particles
#   between data and noise.
# - Which way time runs here, and the handful of symbols that all notebooks share.
# - What is known *exactly* about our toy data, and how that turns "looks good" into a number.
# - How to read the four numbers that we hold every model against: bound, gap, leak and sliced W2.
#
# **Time and memory:** about 14 s of processor time, a quarter of it training one small model (slower machines need up to three times that), and 550 MB.

# %% [markdown]
# ## 1. Forward: data becomes noise
#
# **Predict** before you run: we take 2000 points *from* the rings and send them the other way, into the noise.
# DDPM shrinks the points and adds noise. DiffFlow moves them with a learned velocity, the *drift*, and adds much less
# noise. At the end both clouds should look like one round Gaussian. In which of them can you still tell which ring
# a particle came from?

# %%
x = density.sample(2000, seed=1)
out = {"DDPM": ddpm.encode(x, seed=0), "DiffFlow": diffflow.encode(x, seed=0)}

play(out, color=density.mode, title="DDPM mixes the rings, DiffFlow keeps them half apart")

# %% [markdown]
# **Explain.** Go to the noise end. DDPM's five colours lie on top of each other; DiffFlow's form regions. As a number:
# for every particle in the noise, find its nearest neighbour. How often did the two come from the same ring?

# %%
from diffflow_edu import metrics
from diffflow_edu.verdicts import verdict

same = {name: metrics.mode_survival(path.end, density.mode(x)) for name, path in out.items()}
verdict("neighbours from one ring, DiffFlow", same["DiffFlow"], form=".1%", above=0.5)
verdict("neighbours from one ring, DDPM    ", same["DDPM"], form=".1%", below=0.4)
print(f"by chance, five rings: {metrics.mode_survival_chance(density.mode(x)):.1%}")

# %% [markdown]
# A diffusion loses on its way to the noise which ring a particle came from, and has to decide it again on the way back.
# DiffFlow may *choose* a forward process that is easy to reverse. Notebook 04 shows how it is learned together with
# the way back.
#
# ## 2. Three families, one picture
#
# | | data → noise | noise → data | what is trained |
# |---|---|---|---|
# | normalizing flow | $x_{i+1} = F_i(x_i)$, or $dx = f_\theta(x,t)\,dt$ | its exact inverse | $f$, by the exact likelihood |
# | diffusion (DDPM, score SDE) | $dx = f(x,t)\,dt + g(t)\,dw$, with $f$ fixed and linear | $dx = [f - g^2 s_\theta]\,dt + g\,dw$ | the score $s$ |
# | **DiffFlow** | $dx = f_\theta(x,t)\,dt + g(t)\,dw$ | $dx = [f_\theta - g^2 s_\theta]\,dt + g\,dw$ | drift $f$ **and** score $s$, together |
#
# An equation for $dx$ is a rule for a short time $dt$: the particle moves by $f\,dt$, and $g\,dw$ adds a Gaussian
# step of variance $g^2\,dt$. With noise it is called a **stochastic differential equation (SDE)**, without noise an
# ODE. Notebook 02 begins with them.
#
# The three rows differ in two answers. *Is there noise?* (the term $g\,dw$). *Is the drift learned?* A flow has a
# learned drift and no noise, a diffusion has noise and no learned drift, DiffFlow has both. With the noise turned down
# DiffFlow becomes a flow; with its drift fixed it becomes DDPM. Both limits are tests in this repository.
#
# ## 3. Notation and the direction of time
#
# One convention for all notebooks, that of the paper (Zhang and Chen, 2021):
#
# | symbol | meaning | in code |
# |---|---|---|
# | $t \in [0, T]$ | time: **data at $t = 0$, noise at $t = T$** | `trajectory.times`, rising |
# | $x_0, x_1, \dots, x_N$ | a particle at the times $t_0 < \dots < t_N$; $N$ steps, $N+1$ states | `trajectory.states` |
# | $f(x, t)$ | drift: the velocity of a particle, apart from noise | `model.drift(x, t)` |
# | $s(x, t)$ | score: the direction in which the density rises, $\nabla_x \log p_t(x)$ | `model.score(x, t)` |
# | $g(t)$ | diffusion: how strong the noise is | `model.schedule` |
# | $\delta^F_i, \delta^B_i$ | the Gaussian noise of step $i$, forward and backward | `noise` |
# | $p_F, p_B$ | the forward and the backward process, as densities of whole paths | `model.encode`, `model.sample` |
#
# What a process leaves behind is a `Trajectory`. Its `start` is the data side **even if the process ran from noise
# to data**. Some texts let $t$ run the other way.

# %%
path = diffflow.sample(3, seed=0)

print("times: ", [round(t, 2) for t in path.times.tolist()])
print("states:", tuple(path.states.shape), "= (N + 1 steps, particles, coordinates)")
print("the start lies on the rings:", not density.leaked(path.start).any().item())

# %% [markdown]
# A chain may take steps of any size. What matters is how much noise a step adds. Near the data, where the rings are
# thin, both of our models add little.

# %%
import math

import matplotlib.pyplot as plt

from diffflow_edu.figures import MODELS, style

with style():
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for name, model in {"DDPM": ddpm, "DiffFlow": diffflow}.items():
        axes.semilogy(model.schedule.s, "o-", color=MODELS[name], label=name)
    axes.axhline(density.width / density.scale, color="0.5", ls=":", lw=1.5)
    axes.text(9, density.width / density.scale * 1.15, "width of a ring", ha="right", color="0.4")
    axes.set(xlabel="step i (0 is next to the data)", ylabel="standard deviation of the noise")
    axes.set_title("Both chains add little noise near the data; DiffFlow adds less far from it")
    axes.legend()
plt.show()

for name, model in {"DDPM": ddpm, "DiffFlow": diffflow}.items():
    first, last = model.schedule.s[0], model.schedule.s[-1]
    print(f"{name:8s}  noise of the first step {first:.4f}, of the last {last:.2f}")
print(f"width of a ring {density.width / density.scale:.4f}")

# %% [markdown]
# The vertical axis is logarithmic. The first step of either chain adds about as much noise as a ring is wide. DDPM has
# only noise to make a Gaussian of the rings, so its last step adds about as much as the data is wide, 0.75. DiffFlow
# stops at 0.20, since its drift does the rest.
#
# ## 4. Data with exact truth
#
# Why toys? Because here *everything* is known: we can draw as many samples as we like, and we know the density and
# the entropy to several digits. No test set, no "looks plausible".

# %%
from diffflow_edu.figures import gallery

gallery(
    [toy.load(name) for name in toy.names()],
    title="Ten densities with exact truth, coloured by mode",
)
plt.show()

# %% [markdown]
# Thin curves (a one-dimensional Gaussian bent into a ring, as thin as in the paper), rings that cross, a tree and a
# carpet made by recursion. Colours are modes: pieces that a good model should neither mix nor join. Each set comes with `sample`, `log_prob`, `entropy` and `mode`, all scaled to unit size.

# %%
from diffflow_edu.figures import density_map

crossing = metrics.crossings(density)[0]

density_map(
    lambda x: density.log_prob(x + crossing),
    extent=0.1,
    title="Log density where two rings cross, 0.2 units across",
)
plt.show()

data = density.sample(20_000, seed=0)
print(f"mean of −log p over 20 000 points: {-density.log_prob(data).mean():.2f} nats")
print(f"entropy of the rings, exact:       {density.entropy():.3f} nats")
print(f"three widths from the middle of a ring the density falls by {3**2 / 2} nats")
print(f"1 nat less: a factor of {math.e:.2f} less")

# %% [markdown]
# Dark is likely. A ring is a narrow ridge: three widths from its middle the density has fallen by 4.5 nats, and between
# the rings it is practically zero. A **nat** is the unit of natural logarithms: 1 nat less is a factor of 2.72 less.
# The **entropy** $H = -\mathbb E \log p(x)$ is the mean of $-\log p$ over the data. The more predictable the data,
# the smaller it is; for thin rings it is negative.
#
# ## 5. Four numbers for a model
#
# - **bound** [nats]: an upper bound on the mean $-\log p(x)$ that the model gives to data (the loss of notebook 04,
#   constants and all).
# - **gap** [nats]: the bound minus the entropy of the data. It is 0 for a perfect model and positive for any other
#   (notebook 02 proves it).
# - **leak**: the share of samples farther than five widths from every ring. The truth leaks less than one in a
#   million.
# - **sliced W2**: project samples and data onto a line; how far must one move the samples to make the two agree? The
#   mean (root mean square) over 128 lines. Two sets of real data differ a little, too; that *floor* stands beside it.
#
# **Predict:** ten steps are few. Will the learned drift help most at 5, at 10 or at 30 steps?

# %%
print("                        bound     gap     leak   sliced W2   training")
machines = set()
for steps in (5, 10, 30):
    for kind in ("ddpm", "diffflow"):
        card = pretrained(kind, "olympic_rings", steps=steps).card
        m = card["metrics"]
        machines.add(card["machine"].split(",")[0])
        print(
            f"N = {steps:2d}  {kind:8s}     {m['bound']:7.2f} {m['gap']:7.2f} {m['leak']:8.1%}"
            f" {m['sliced_w2']:11.3f} {card['seconds']:8.0f} s"
        )
print(f"data against data                           0.0% {m['sliced_w2_floor']:11.3f}")
print(
    f"\nMeasured on {m['n']} samples, seed {m['seed']}; trained on {' or '.join(sorted(machines))}."
)

# %% [markdown]
# **Explain.** At five steps DiffFlow leaks a third of what DDPM does, and its gap is 1.17 nats instead of 1.74; at ten
# steps it leaks less than half as much, with 0.72 instead of 1.08 nats. At thirty steps a tenth of a nat is left, and
# DDPM's samples are as good. A learned forward process helps most where steps are few. With many steps even the fixed one can
# be reversed, if its steps are placed well, and these DDPMs have well-placed steps (the grid of notebook 03; the paper
# compared with another grid and saw a larger difference).
#
# The last column is training time. At $N = 5$ the two had about the same: DiffFlow
# 314 s<!-- from diffflow/olympic_rings/5 seconds -->, DDPM 347 s<!-- from ddpm/olympic_rings/5 seconds -->. At $N = 10$
# DiffFlow had more than twice as much; more time for DDPM hardly changed its numbers. Notebook 06 collects such claims
# and counts the evidence for and against each.
#
# The table is read from the cards of the shipped weights, written when they were made. Here is one line of it, measured
# now:

# %%
measured = metrics.evaluate(diffflow, density, n=10_000, seed=0)
print(f"DiffFlow, N = 10: gap {measured['gap']:.2f} nats, sliced W2 {measured['sliced_w2']:.3f}")
off = max(abs(measured[k] - diffflow.card["metrics"][k]) for k in ("gap", "leak", "sliced_w2"))
verdict("largest difference from the card", off, form=".0e", below=2e-3)
print(f"it was made by: {diffflow.card['command']}")

# %% [markdown]
# ## 6. Two dials
#
# A player can hold many runs and a dial to choose between them. Everything is computed before. The first dial is $N$, the number of steps, for the six models of the table.
#
# **Predict:** at $N = 5$, which model has more particles between the rings? And at $N = 30$, could you tell the models
# apart without their names?

# %%
models = {
    steps: {
        name: pretrained(kind, "olympic_rings", steps=steps)
        for name, kind in (("DDPM", "ddpm"), ("DiffFlow", "diffflow"))
    }
    for steps in (5, 10, 30)
}
runs = {
    steps: {name: model.sample(1000, seed=0) for name, model in pair.items()}
    for steps, pair in models.items()
}

play(
    {"N": runs},
    fields={"N": models},
    density=density,
    color=density.mode,
    direction="backward",
    title="The fewer the steps N, the more a learned drift helps",
)

# %% [markdown]
# **Explain.** In the live player, the lines below each panel are the numbers of section 5, measured on these thousand
# particles at the step you look at. At the data end, compare the leaks at $N = 5$ with those at $N = 30$. Switch on the
# arrows, too: "drift f" of DDPM points straight to the middle, whatever $N$ is; DiffFlow's was learned, and it turns.
# (A stored page shows one position of the dial.)
#
# The second dial is **training**. A small DDPM starts from random weights; after some steps of training we let it
# carry the *same* thousand draws of noise to the data side and keep the trajectories.
#
# **Predict:** what does it learn first, where the rings are or how thin they are?

# %%
import torch

from diffflow_edu import DDPM, fit

torch.manual_seed(0)
young = DDPM.mlp(ddpm.schedule)  # the grid of the DDPM with ten steps
snapshots = {}


def keep(step, model):
    if step + 1 in (30, 100, 250, 500):
        snapshots[step + 1] = {"a young DDPM": model.sample(1000, seed=0)}


fit(young, density, steps=500, callback=keep)

for step, panels in snapshots.items():
    far = metrics.leak(panels["a young DDPM"].start, density)
    verdict(f"leak after {step:3d} steps of training", far, form=".0%", above=0.3)

# %%
play(
    {"training step": snapshots},
    color=density.mode,
    density=density,
    direction="backward",
    title="A model learns first the place, then the rings, and last their width",
)

# %% [markdown]
# **Explain.** Turn the dial at the data end ($t = 0$). First the cloud finds its place and size, then holes open, then the
# rings become narrow. The large shape is smooth and quickly learned. A thin ring needs a score that changes its direction
# within a hundredth of a unit, and a network learns such sharp functions last: after 500 steps the rings are still too
# thick. The other models of this page were trained for some minutes more.
#
# ## 7. Your turn
#
# Each exercise has a cell for your answer, a check that tells you what is missing, and a solution to unfold. Your answer
# stays: no later cell uses or changes it.
#
# **Exercise 1. Which end is which?** A friend's sampler prints its states in the order in which it made them: from
# noise to data. Write `data_side(trajectory)` that returns the particles at $t = 0$ of one of *our* trajectories.


# %% tags=["exercise"]
def data_side(trajectory):
    return None  # your answer


# %% tags=["check"]
from diffflow_edu import exercises

exercises.check_data_side(data_side)


# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def data_side(trajectory):
#     return trajectory.start  # the same as trajectory.states[0], since time runs from the data
# ```
#
# </details>

# %% [markdown]
# **Exercise 2. How much did the model get wrong?** Write `gap(model, density, x)`: the mean of `model.bound(x)` minus
# the entropy of the density, in nats. (Why minus the *entropy*, and not minus zero?)


# %% tags=["exercise"]
def gap(model, density, x):
    return None  # your answer


# %% tags=["check"]
exercises.check_gap(gap)


# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def gap(model, density, x):
#     # The best possible model has −log p(x) = −log p_data(x), whose mean is the entropy.
#     return model.bound(x).mean() - density.entropy()
# ```
#
# </details>

# %% [markdown]
# **Exercise 3. Count what leaks.** Write `leak(x, density)`: the share of the points x that are farther than five
# widths from every ring. `density.distance(x)` is the distance to the nearest ring, and `density.width / density.scale`
# is the width on the same scale. One trap: a point that is NaN has no distance; it leaked.


# %% tags=["exercise"]
def leak(x, density):
    return None  # your answer


# %% tags=["check"]
exercises.check_leak(leak)


# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def leak(x, density):
#     near = density.distance(x) <= 5 * density.width / density.scale
#     return 1 - near.float().mean()  # NaN is never near
# ```
#
# </details>

# %% [markdown]
# **Exercise 4. Walk back.** Build the sampler. `x_N` $(B, d)$ are particles in the noise. `model.backward_mean(x, i)` is
# where a particle at $t_{i+1}$ goes in the step to $t_i$, on average, and `model.backward_std()[i]` the standard
# deviation of the noise of that step; `noise` $(N, B, d)$ holds standard normal draws, `noise[i]` for that step. There
# are `model.schedule.steps` steps. The last one, to the data, adds no noise. Return the particles at $t = 0$.


# %% tags=["exercise"]
def walk_back(model, x_N, noise):
    return None  # your answer


# %% tags=["check"]
exercises.check_walk_back(walk_back)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def walk_back(model, x_N, noise):
#     x = x_N
#     for i in reversed(range(model.schedule.steps)):
#         x = model.backward_mean(x, i)
#         if i > 0:
#             x = x + model.backward_std()[i] * noise[i]
#     return x
# ```
#
# </details>

# %% [markdown]
# **An open question.** In a cell of your own, run your `walk_back` on `ddpm` and on `diffflow` with 2000 draws (inside
# `with torch.no_grad():`) and measure `metrics.leak`. Then multiply the noise by 0.8 and by 1.2. Predict first: which
# leak grows more? Explain what you find.
#
# ## The map of the course
#
# | | notebook | in one line | |
# |---|---|---|---|
# | 00 | Start here | the player, the map, the notation | you are here |
# | 01 | [Normalizing flows](01_normalizing_flows.ipynb) | change of variables, coupling flows, and why a bijection cannot cut one Gaussian into pieces | ready |
# | 02 | [Scores and Langevin](02_scores_and_langevin.ipynb) | random walks, entropy and KL, and what a score is | ready |
# | 03 | [DDPM and the reverse SDE](03_ddpm.ipynb) | the way back, derived; the bound, term by term | ready |
# | **04** | **[DiffFlow](04_diffflow.ipynb)** | **two SDEs, one loss, derived line by line and trained live** | **ready** |
# | 05 | [The stochastic adjoint](05_adjoint_and_grids.ipynb) | exact gradients in the memory of one step | ready |
# | 06 | [Three machines, one ring](06_three_machines.ipynb) | the noise dial, and the claims of the paper as a ledger | ready |
# | 07 | [Likelihood](07_likelihood.ipynb) | one model, three numbers | ready |
# | 08 | [MNIST](08_mnist.ipynb) | every particle is a picture | ready |
# | 09 | [CIFAR-10](09_cifar10.ipynb) | colour, and what its numbers can tell | ready |
# | 10 | After DiffFlow | flow matching, bridges, learned diffusion | to come |
# | 11 | [Time grids, and the last step](11_time_grids.ipynb) | an excursion from 05 | ready |
# | 12 | [Real data](12_real_data.ipynb) | an excursion from 07 | ready |
#
# ## What to remember
#
# - Every model here carries particles between **data ($t = 0$)** and **noise ($t = T$)**; a `Trajectory` is what it
#   leaves behind.
# - A flow learns the drift and has no noise; a diffusion has noise and a fixed drift; **DiffFlow has noise and learns the
#   drift**, together with the score that leads back.
# - On data whose entropy is known, bound − entropy says in nats what a model got wrong.
# - The learned drift pays most when steps are few. At thirty well-placed steps, little is left of its lead.
#
# ## References
#
# - Q. Zhang and Y. Chen, *Diffusion Normalizing Flow*, NeurIPS 2021, [arXiv 2110.07579](https://arxiv.org/abs/2110.07579):
#   equations 1 to 10 for the three families, 11 and 12 for the steps, figures 4 and 5 for the toy data.
# - J. Ho, A. Jain and P. Abbeel, *Denoising Diffusion Probabilistic Models*, NeurIPS 2020.
# - W. Grathwohl et al., *FFJORD*, ICLR 2019.
