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
# Two thousand particles fall out of noise onto five rings; by the end of this page you know what carried them.

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
# and the noise on the right**, whichever way you play. Every particle wears the colour of the ring it lands on.
# Both panels start from the same two thousand draws of noise, and both are real: networks of about 98 000 numbers,
# trained by a command of this repository (more on that below).
#
# On the left, the colours come out of a mixed cloud. On the right, they lie in patches long before there is a ring
# to be seen. Keep that in mind; it is what this course is about.
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
# ## 1. The way out: data becomes noise
#
# **Predict** before you run: we take 2000 points *from* the rings and send them the other way, into the noise.
# DDPM only stirs: it shrinks the points and adds noise. DiffFlow has a learned wind, the *drift*, and adds much less
# noise. At the end both clouds should look like one round Gaussian. In which of them can you still tell which ring
# a particle came from?

# %%
x = density.sample(2000, seed=1)
out = {"DDPM": ddpm.encode(x, seed=0), "DiffFlow": diffflow.encode(x, seed=0)}

play(out, color=density.mode, title="DDPM stirs, DiffFlow steers: the colours at the right end")

# %% [markdown]
# **Explain.** Scrub to the right end. In the left panel the five colours lie on top of each other; in the right one
# they form regions. Let us not trust our eyes: for every particle in the noise, look at its 15 nearest neighbours
# and guess the ring that most of them came from.

# %%
import torch


def ring_guessed_from_noise(trajectory, neighbours=15):
    """Share of particles whose ring is that of most of their neighbours in the noise."""
    ring = density.mode(trajectory.start)
    distance = torch.cdist(trajectory.end, trajectory.end).fill_diagonal_(torch.inf)
    nearest = distance.topk(neighbours, largest=False).indices
    return (ring[nearest].mode(1).values == ring).float().mean().item()


guessed = {name: ring_guessed_from_noise(path) for name, path in out.items()}
print(f"DiffFlow's noise tells the ring at least half of the time: {guessed['DiffFlow'] > 0.5}")
print(f"DDPM's noise tells it less than two times in five:         {guessed['DDPM'] < 0.4}")
print("(blind guessing would be right one time in five)")

# %% [markdown]
# A diffusion forgets on the way out and has to remember on the way back. DiffFlow is allowed to *choose* a way out
# that is easy to come back from. That choice is learned together with the way back; how, is notebook 04.
#
# ## 2. Three families, one picture
#
# | | data → noise | noise → data | what is trained |
# |---|---|---|---|
# | normalizing flow | $x_{i+1} = F_i(x_i)$, or $dx = f_\theta(x,t)\,dt$ | its exact inverse | $f$, by the exact likelihood |
# | diffusion (DDPM, score SDE) | $dx = f(x,t)\,dt + g(t)\,dw$, with $f$ fixed and linear | $dx = [f - g^2 s_\theta]\,dt + g\,dw$ | the score $s$ |
# | **DiffFlow** | $dx = f_\theta(x,t)\,dt + g(t)\,dw$ | $dx = [f_\theta - g^2 s_\theta]\,dt + g\,dw$ | drift $f$ **and** score $s$, together |
#
# Read it as one row with two switches. *Is there noise?* (the term $g\,dw$). *Is the drift learned?* A flow has a
# learned drift and no noise, a diffusion has noise and no learned drift, DiffFlow has both. Turn the noise down and
# DiffFlow becomes a flow; freeze its drift and it becomes DDPM. Both limits are tests in this repository.
#
# ## 3. Notation and the direction of time
#
# One convention for all notebooks, that of the paper (Zhang and Chen, 2021):
#
# | symbol | meaning | in code |
# |---|---|---|
# | $t \in [0, T]$ | time: **data at $t = 0$, noise at $t = T$** | `trajectory.times`, rising |
# | $x_0, x_1, \dots, x_N$ | a particle at the times $t_0 < \dots < t_N$; $N$ steps, $N+1$ states | `trajectory.states` |
# | $f(x, t)$ | drift: the wind | `model.drift(x, t)` |
# | $s(x, t)$ | score: the direction in which the density rises, $\nabla_x \log p_t(x)$ | `model.score(x, t)` |
# | $g(t)$ | diffusion: how strong the noise is | `model.schedule` |
# | $\delta^F_i, \delta^B_i$ | the Gaussian noise of step $i$, forward and backward | `noise` |
# | $p_F, p_B$ | the forward and the backward process, as densities of whole paths | `model.encode`, `model.sample` |
#
# What a process leaves behind is a `Trajectory`. Its `start` is the data side **even if the process ran from noise
# to data**: beware of texts in which $t$ runs the other way.

# %%
path = diffflow.sample(3, seed=0)

print("times: ", [round(t, 2) for t in path.times.tolist()])
print("states:", tuple(path.states.shape), "= (N + 1 steps, particles, coordinates)")
print("the start lies on the rings:", not density.leaked(path.start).any().item())

# %% [markdown]
# A chain may take steps of any size. What matters is how much noise a step adds, and both of our models are careful
# near the data, where the rings are thin.

# %%
import matplotlib.pyplot as plt

from diffflow_edu.figures import MODELS, style

with style():
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for name, model in {"DDPM": ddpm, "DiffFlow": diffflow}.items():
        axes.semilogy(model.schedule.s, "o-", color=MODELS[name], label=name)
    axes.axhline(density.width / density.scale, color="0.5", ls=":", lw=1.5)
    axes.text(9, density.width / density.scale * 1.15, "width of a ring", ha="right", color="0.4")
    axes.set(xlabel="step i (0 is next to the data)", ylabel="noise $s_i$ of the step")
    axes.set_title("Both chains tread lightly near the data; DiffFlow needs less noise far from it")
    axes.legend()
plt.show()

# %% [markdown]
# The first step adds about as much noise as a ring is wide, the last one thirty times (DiffFlow) or a hundred times
# (DDPM) as much; mind the logarithmic axis. DDPM has to drown the rings, so its last steps add noise of about the size of the data;
# DiffFlow stops at 0.3, since its drift does the rest.
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
# From thin curves (a one-dimensional Gaussian bent into a ring, of width 0.001 as in the paper) over rings that
# cross to a tree and a carpet made by recursion. Colours are modes: the pieces a good model should neither mix up
# nor join. Each set comes with `sample`, `log_prob`, `entropy` and `mode`, all scaled to unit size.

# %%
from diffflow_edu.figures import density_map

density_map(density, title="All the probability lies on thin lines")
plt.show()

print(f"entropy of the rings: {density.entropy():.3f} nats")

# %% [markdown]
# Dark is likely; within two hundredths of a unit, the density falls by several nats, and between the rings it is
# practically zero. The entropy is the yardstick of the next section. It may be negative: thin rings are *very*
# predictable.
#
# ## 5. Four numbers for a model
#
# - **bound** [nats]: an upper bound on the mean $-\log p(x)$ that the model gives to data (the loss of notebook 04,
#   constants and all).
# - **gap** [nats]: the bound minus the entropy of the data. No model can be below 0; what is left is what the model
#   got wrong.
# - **leak**: the share of samples farther than five widths from every ring. The truth leaks less than one in a
#   million.
# - **sliced W2**: how far, on average over 128 directions, one would have to move the samples to make them data. Even
#   two sets of real data differ a little; that *floor* is given beside it.
#
# **Predict:** ten steps are few. Will the learned drift help most at 5, at 10 or at 30 steps?

# %%
print("                        bound     gap     leak   sliced W2   training")
for steps in (5, 10, 30):
    for kind in ("ddpm", "diffflow"):
        card = pretrained(kind, "olympic_rings", steps=steps).card
        m = card["metrics"]
        print(
            f"N = {steps:2d}  {kind:8s}     {m['bound']:7.2f} {m['gap']:7.2f} {m['leak']:8.1%}"
            f" {m['sliced_w2']:11.3f} {card['seconds']:8.0f} s"
        )
print(f"data against data                           0.0% {m['sliced_w2_floor']:11.3f}")
print(
    f"\nMeasured on {m['n']} samples, seed {m['seed']}, trained on {card['machine'].split(',')[0]}."
)

# %% [markdown]
# **Explain.** At five steps DiffFlow leaks a third of what DDPM does and its bound is half a nat better; at ten steps it
# leaks half as much and is a third of a nat ahead; at thirty steps a tenth of a nat is left, and DDPM's samples are as
# good. A learned way out pays most where steps are few. With many steps even the plain way out can be reversed, if its
# steps are placed well, and these DDPMs have well-placed steps (the grid of notebook 03; the paper compared with a plainer
# grid and saw a larger difference). Look at the last column, too: DiffFlow trained for longer. We gave DDPM more
# time, too, at five and at ten steps, and its numbers hardly moved. We will keep such a ledger of claims through the whole course.
#
# The table is read from the cards of the shipped weights, written when they were made. Do not take our word for it;
# here is one line, measured now:

# %%
from diffflow_edu import metrics

measured = metrics.evaluate(diffflow, density, n=10_000, seed=0)
same = all(
    abs(measured[k] - diffflow.card["metrics"][k]) < 2e-3 for k in ("gap", "leak", "sliced_w2")
)
print(f"DiffFlow, N = 10: gap {measured['gap']:.2f} nats, sliced W2 {measured['sliced_w2']:.3f}")
print(f"the card tells the truth: {same}")
print(f"it was made by: {diffflow.card['command']}")

# %% [markdown]
# ## 6. Two dials
#
# A player can hold many runs and a dial to choose between them; everything was computed beforehand, so turning it
# costs nothing. The first dial is $N$, the number of steps, for the six models of the table.
#
# **Predict:** at $N = 5$, which panel has more strays between the rings? And at $N = 30$, can you still tell which
# panel is which, with the titles covered?

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
    title="Turn the dial N: the fewer the steps, the more a learned drift clears",
)

# %% [markdown]
# **Explain.** The lines below each panel are the numbers of section 5, measured on these thousand particles at the
# step you look at. At the data end, compare the leaks at $N = 5$ with those at $N = 30$: few steps are where the learned
# drift earns its keep. Switch on the arrows, too: "drift f" in the DDPM panel points straight to the middle, whatever
# $N$ is; in the DiffFlow panel it was learned, and it turns.
#
# The second dial is **training**. A small DDPM starts from random weights; after some steps of training we let it
# carry the *same* thousand draws of noise to the data side and keep the trajectories.
#
# **Predict:** what does it learn first, where the rings are or how thin they are?

# %%
from diffflow_edu import DDPM, fit

torch.manual_seed(0)
young = DDPM.mlp(ddpm.schedule)  # the grid of the DDPM with ten steps
snapshots = {}


def keep(step, model):
    if step + 1 in (30, 100, 250, 500):
        snapshots[step + 1] = {"a young DDPM": model.sample(1000, seed=0)}


fit(young, density, steps=500, callback=keep)

for step, panels in snapshots.items():
    far = density.leaked(panels["a young DDPM"].start).float().mean().item()
    print(f"after {step:3d} steps of training, more than half of the samples leak: {far > 0.5}")

# %%
play(
    {"training step": snapshots},
    color=density.mode,
    density=density,
    direction="backward",
    title="A model learns: first the place, then the rings; their width takes longer",
)

# %% [markdown]
# **Explain.** Turn the dial at the data end ($t = 0$). First the cloud finds its place and size, then holes open, then the
# rings close in. The large shape is smooth and quickly learned. A thin ring needs a score that turns round within a hundredth
# of a unit, and a network learns such sharp functions last: after 500 steps the rings are still too thick. The models in
# the other panels of this page went on like this for some minutes more.
#
# ## 7. Your turn
#
# Each exercise has a cell for your answer, a check that tells you what is missing, and a folded solution.
#
# **Exercise 1. Which end is which?** A friend's sampler prints its states in the order in which it made them: from
# noise to data. Write `data_side(trajectory)` that returns the particles at $t = 0$ of one of *our* trajectories.


# %% tags=["exercise"]
def data_side(trajectory):
    return None  # your answer


# %% tags=["check"]
from diffflow_edu import exercises

exercises.check_data_side(data_side)


# %% tags=["solution"] jupyter={"source_hidden": true}
def data_side(trajectory):
    return trajectory.start  # the same as trajectory.states[0], since time runs from the data


exercises.check_data_side(data_side)

# %% [markdown]
# **Exercise 2. How much did the model get wrong?** Write `gap(model, density, x)`: the mean of `model.bound(x)` minus
# the entropy of the density, in nats. (Why minus the *entropy*, and not minus zero?)


# %% tags=["exercise"]
def gap(model, density, x):
    return None  # your answer


# %% tags=["check"]
exercises.check_gap(gap)


# %% tags=["solution"] jupyter={"source_hidden": true}
def gap(model, density, x):
    # The best possible model has −log p(x) = −log p_data(x), whose mean is the entropy.
    return model.bound(x).mean() - density.entropy()


exercises.check_gap(gap)

# %% [markdown]
# **Exercise 3. Count what leaks.** Write `leak(x, density)`: the share of the points x that are farther than five
# widths from every ring. `density.distance(x)` is the distance to the nearest ring, and `density.width / density.scale`
# is the width on the same scale. One trap: a point that is NaN has no distance; it leaked.


# %% tags=["exercise"]
def leak(x, density):
    return None  # your answer


# %% tags=["check"]
exercises.check_leak(leak)


# %% tags=["solution"] jupyter={"source_hidden": true}
def leak(x, density):
    near = density.distance(x) <= 5 * density.width / density.scale
    return 1 - near.float().mean()  # NaN is never near


exercises.check_leak(leak)

# %% [markdown]
# ## The map of the course
#
# | | notebook | in one line | |
# |---|---|---|---|
# | 00 | Start here | the player, the map, the notation | you are here |
# | 01 | [Normalizing flows](01_normalizing_flows.ipynb) | change of variables, coupling flows, and why a bijection cannot tear a blob into rings | ready |
# | 02 | [Scores and Langevin](02_scores_and_langevin.ipynb) | where the arrows come from | ready |
# | 03 | [DDPM and the reverse SDE](03_ddpm.ipynb) | noise as a teacher | ready |
# | **04** | **[DiffFlow](04_diffflow.ipynb)** | **two SDEs, one loss, derived line by line and trained live** | **ready** |
# | 05 | [The stochastic adjoint and time grids](05_adjoint_and_grids.ipynb) | exact gradients in the memory of one step | ready |
# | 06 | [Three machines, one ring](06_three_machines.ipynb) | the noise dial, and the claims of the paper as a ledger | ready |
# | 07 | [Likelihood](07_likelihood.ipynb) | one model, three numbers | ready |
# | 08 | [MNIST](08_mnist.ipynb) | a particle is a picture | ready |
# | 09 | [CIFAR-10](09_cifar10.ipynb) | colour, and what a number is worth | ready |
# | 10 | After DiffFlow | flow matching, bridges, learned diffusion | to come |
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
