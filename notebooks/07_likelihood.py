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
# # Likelihood: one model, three numbers
#
# A model with noise in it can tell the density of a point after all, and it gives three answers; by the end of this
# page you know which is which.
#
# ## What you will learn
#
# - The **λ family**: with one drift and one score come infinitely many processes, with the same distributions at
#   every time. At λ = 1 stands the backward SDE, at λ = 0 an ODE.
# - How that ODE, the **probability flow**, turns a diffusion into a normalizing flow whose density can be computed.
# - Three numbers for one model, **path bound ≥ importance-weighted bound ≥ −log p of the chain**, and a fourth, the
#   ODE's, which is the density of somebody else.
# - **Theorem 1** of the paper (without noise, DiffFlow is a flow) and its fine print: how much noise it needs.
# - What all of this says about real data, and where a flow with too many weights ends on a small set.
#
# **Time and memory:** about 33 s of processor time, an eighth of it training (slower machines need up to three times that), and 600 MB.

# %%
import json
import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from diffflow_edu import (
    CouplingFlow,
    DiffFlow,
    Schedule,
    exercises,
    figures,
    fit,
    metrics,
    play,
    pretrained,
    tabular,
    toy,
)
from diffflow_edu.player.probe import probe
from diffflow_edu.processes import likelihood
from diffflow_edu.processes.ode import Solver, divergence

torch.set_num_threads(1)  # nets this small gain little from a second core
rings, board = toy.load("olympic_rings"), toy.load("checkerboard")
models = {
    (name, density.name): pretrained(name.lower(), density.name, steps=30)
    for density in (rings, board)
    for name in ("DDPM", "DiffFlow")
}

# %% [markdown]
# ## 1. The question
#
# A flow (notebook 01) knows the density of every point: it is a bijection, and a change of variables does the rest.
# A chain with noise is no bijection. From any noise it can reach any point, on infinitely many paths, and
# $p_B(x_0) = \int p_B(x_0, x_1, \dots, x_N)\,dx_1 \cdots dx_N$ is an integral over all of them. So far this course
# made do with a *bound* (notebooks 03 and 04).
#
# **Predict:** is there another process, without noise, whose particles are distributed like those of the noisy one
# *at every time*? If there is, it is a bijection, and we are back in notebook 01.
#
# ## 2. A family of processes
#
# Forward, particles follow $dx = f\,dt + g\,dw$. Their density obeys the Fokker–Planck equation: the drift carries
# it, the noise spreads it,
#
# $$\partial_t p = -\nabla\!\cdot (f p) + \tfrac12 g^2 \Delta p .$$
#
# **Line 1.** Spreading is a drift in disguise. Since
# $\Delta p = \nabla\!\cdot\nabla p = \nabla\!\cdot (p\,\nabla \log p)$ and $s = \nabla \log p$,
#
# $$\partial_t p = -\nabla\!\cdot \bigl(\bigl[f - \tfrac12 g^2 s\bigr] p\bigr).$$
#
# This is what particles do that follow the bracket *without any noise*. The answer to the question is yes.
#
# **Line 2.** Now look for a process with drift $v$ and noise $\lambda g$ that runs *home*, from $T$ to 0. In its
# own time $T - t$ its drift is $-v$ and its noise spreads; in ours, both signs turn:
#
# $$\partial_t p = -\nabla\!\cdot (v p) - \tfrac12 \lambda^2 g^2 \Delta p
# = -\nabla\!\cdot \bigl(\bigl[v + \tfrac12 \lambda^2 g^2 s\bigr] p\bigr).$$
#
# **Line 3.** The two are the same equation if the brackets are the same:
#
# $$dx = \bigl[f - \tfrac12 (1 + \lambda^2)\, g^2 s\bigr] dt + \lambda g\, dw , \qquad \lambda \ge 0. \tag{17}$$
#
# **Exercise 1. The family.** Write the drift of equation 17. `f` and `s` are drift and score at the particles, `g`
# and `lam` tensors with one number in them.


# %% tags=["exercise"]
def family_drift(f, s, g, lam):
    return None  # your answer


# %% tags=["check"]
exercises.check_family_drift(family_drift)


# %% tags=["solution"] jupyter={"source_hidden": true}
def family_drift(f, s, g, lam):
    return f - 0.5 * (1 + lam**2) * g**2 * s


exercises.check_family_drift(family_drift)

# %% [markdown]
# ### With the exact score: same distributions, other paths
#
# First without any network. On a line, one Gaussian or two bumps keep a closed form while a variance-preserving
# diffusion drowns them: $p_t$ is $\mathcal N(\pm m\,\alpha_t,\; v_t)$ with $v_t = w^2\alpha_t^2 + \sigma_t^2$, and
# its score is known.
#
# The family can then be tested twice. As an equation: put $p_t$ into the Fokker–Planck equation of the process and
# see what is left over. And with particles.

# %%
WIDTH, LAMBDAS = 0.15, (0.0, 0.5, 1.0, 2.0)
line = Schedule.log_snr(steps=40, r_min=0.03, r_max=8.0)
sde = line.noise_process


def bumps(m):
    """A model of ½ N(m, w²) + ½ N(−m, w²) with its exact score, and log p_t(x)."""

    def mean_and_variance(t):
        return m * sde.alpha(t), (WIDTH * sde.alpha(t)).square() + sde.sigma(t).square()

    def log_density(x, t):
        mean, v = mean_and_variance(t)
        x = x.squeeze(-1)
        upper, lower = -((x - mean) ** 2) / (2 * v), -((x + mean) ** 2) / (2 * v)
        return torch.logaddexp(upper, lower) - 0.5 * torch.log(8 * math.pi * v)

    def score(x, t):
        mean, v = mean_and_variance(t)
        return (mean * torch.tanh(mean * x / v) - x) / v

    return DiffFlow(lambda x, t: torch.zeros_like(x), score, line), log_density


grid = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)[:, None]
print("what is left of the Fokker–Planck equation is below 1e-8, at 41 points and three times:")
for name, m in (("one Gaussian", 0.0), ("two bumps", 1.2)):
    model, log_density = bumps(m)
    left = [
        likelihood.fokker_planck_residual(model, log_density, grid, t, lam)
        for t in (0.2, 0.5, 0.9)
        for lam in LAMBDAS
    ]
    print(f"{name:12s}  every λ: {bool(torch.stack(left).abs().max() < 1e-8)}")

# %%
print("                        standard deviation at")
print("                     t = 0   t = T/2    t = T    share above 0")
start = torch.randn(4000, 1, generator=torch.Generator().manual_seed(1))
for name, m in (("one Gaussian", 0.0), ("two bumps", 1.2)):
    model, log_density = bumps(m)
    ways = {}
    for lam in LAMBDAS:
        ways[f"λ = {lam:g}"] = path = likelihood.sample_family(
            model, 4000, lam, substeps=10, seed=2, shape=(1,), noise=start, last_noise=True
        )
        a, b, c = (path.states[i].std() for i in (0, 20, 40))
        share = (path.start > 0).float().mean()
        print(f"{name:12s} λ = {lam:3.1f}  {a:5.2f}   {b:7.2f}   {c:6.2f}    {share:13.2f}")
    v = (m * sde.alpha(line.times)) ** 2 + (WIDTH * sde.alpha(line.times)) ** 2
    a, b, c = (v + sde.sigma(line.times) ** 2).sqrt()[[0, 20, 40]]
    print(f"             truth    {a:5.2f}   {b:7.2f}   {c:6.2f}    {0.5:13.2f}")

# %% [markdown]
# **Predict:** the paths of ten of these particles, from the same ten draws of noise. Which λ shakes most, and where
# will the particles land?

# %%
figures.family_panels(
    ways, log_density, half=3, title="One density at every time, a path for every λ"
)
plt.show()

# %% [markdown]
# Four panels, two bumps: data at the left of each ($t = 0$), noise at the right, the density $p_t$ in grey, and the
# same ten particles, blue where they land on the upper bump and orange on the lower. At λ = 0 they glide and never
# cross: a particle keeps its rank. The larger λ, the wilder the way, and the less the start decides the end.
#
# **Explain.** The score is exact, so the numbers agree with the truth at every λ, to the sampling error of 4000
# particles and that of finite steps. The process with more noise needs more score, $\frac12(1+\lambda^2)$ of it, to
# hold its particles together. Nothing but the paths can tell the members of the family apart.
#
# ### With a learned score: they part
#
# Equation 17 cancels the noise *with the score*. If the network is a little off, what is left over is
# $\frac12(1+\lambda^2) g^2$ times the error, and the distributions differ. But noise does something else, too: like
# a Langevin step (notebook 02), it lets a particle forget where it came from and settle by the score *of now*.
#
# The converged models of the zoo, five rings, thirty steps. `model.sample(n, lam=…)` makes the chain's own thirty
# steps; `sample_family` cuts each of the ODE's into three, to see what belongs to the score and what to the steps.
#
# **Predict:** the paper says that λ = 1 samples best. Which λ will leak least here? And which will be worst?

# %%
fresh = rings.sample(5000, seed=1_000_003)
sweep = {}
for name in ("DDPM", "DiffFlow"):
    model = models[name, "olympic_rings"]
    for lam in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0):
        sweep[name, "chain", lam] = model.sample(2500, seed=0, lam=lam).start
    sweep[name, "fine", 0.0] = likelihood.sample_family(model, 2500, 0.0, substeps=3, seed=0).start
leak = {key: metrics.leak(x, rings) for key, x in sweep.items()}
far = {key: metrics.sliced_w2(x, fresh) for key, x in sweep.items()}
floor = metrics.sliced_w2(rings.sample(2500, seed=5), fresh)

for name in ("DDPM", "DiffFlow"):
    leaks, chain = (
        {k[2]: v for k, v in values.items() if k[:2] == (name, "chain")} for values in (leak, far)
    )
    fine = name, "fine", 0.0
    print(
        f"{name}: the ODE leaks twice as much as λ = 1, or more:       {leaks[0.0] > 2 * leaks[1.0]}"
    )
    print(f"  λ = 1.5 leaks no more than λ = 1:                       {leaks[1.5] <= leaks[1.0]}")
    print(f"  ninety steps of the ODE leak less than thirty:          {leak[fine] < leaks[0.0]}")
    print(f"  and are nearer to the data, by W2:                      {far[fine] < chain[0.0]}")
    print(f"  λ = 1 is nearer to the data than the ODE:               {chain[1.0] < chain[0.0]}")
    print(
        f"  λ = 3 is the farthest of all:                           {chain[3.0] == max(chain.values())}"
    )

# %%
with figures.style():
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axes, values, label in zip(
        panels, (leak, far), ("leak [% of the samples]", "sliced W2 to the data"), strict=True
    ):
        for name in ("DDPM", "DiffFlow"):
            for way, look in (("chain", "o-"), ("fine", "s")):
                scale = 100 if values is leak else 1
                points = {k[2]: scale * v for k, v in values.items() if k[:2] == (name, way)}
                steps = "30 steps" if way == "chain" else "90 steps"
                axes.plot(
                    *zip(*points.items(), strict=True), look, ms=6, color=figures.MODELS[name],
                    mfc=figures.MODELS[name] if way == "chain" else "white", label=f"{name}, {steps}",
                )  # fmt: skip
        axes.axvline(1, color="0.8", lw=1, zorder=0)
        axes.set(xlabel="λ (0: the ODE, 1: the backward SDE)", ylabel=label)
        axes.set_ylim(bottom=0)
    panels[1].axhline(floor, color="0.5", lw=1, ls="--", zorder=0)
    panels[1].text(3, 0.75 * floor, "data against data", ha="right", va="top", color="0.4")
    panels[0].legend(fontsize=10)
    figure.suptitle("Noise brings strays home; where the mass lies is another matter")
plt.show()

# %% [markdown]
# Leak (left) and sliced W2 to 5000 fresh points of the data (right) against λ, 2500 samples each. Circles: the
# chain's own thirty steps. Open squares: ninety steps, at λ = 0. Without noise, at λ = 0, both models leak most, and the
# curves fall. On the right DDPM's curve falls to the floor (dashed: one draw of 2500 points), lies there from 1 to 2 and rises
# again; DiffFlow's rises from the start.
#
# **Explain.** An ODE believes the score blindly: where a particle was sent wrong, it stays wrong. Noise, with the
# score that belongs to it, pulls it back to the rings. So the paper is right that λ = 1 leaves far fewer strays than
# λ = 0. Some of the ODE's strays are the steps' doing: three times as many leak less, and still more than λ = 1.
#
# But hardly a stray does not mean that the mass is where it should be. At λ = 3 both models leak next to nothing, and both are
# farthest from the data by W2. DDPM's W2 is mended by noise, too, up to λ = 2; DiffFlow's is least for the ODE. Ask two metrics.
# Whether λ = 1 is *the best*, these samples do not say: it depends on the model, and on what you ask for.
#
# λ is a dial. Turn it, and watch the same thousand draws of noise come home on other ways:

# %%
dial = {
    lam: {
        name: models[name, "olympic_rings"].sample(1000, seed=0, lam=lam)
        for name in ("DDPM", "DiffFlow")
    }
    for lam in (0, 0.5, 1, 2)
}
play(
    {"λ": dial},
    color=rings.mode,
    density=rings,
    direction="backward",
    title="The same noise, other ways home",
)

# %% [markdown]
# The player holds DDPM and DiffFlow at λ = 0, 0.5, 1 and 2; noise at the right end of the slider, data at the left,
# coloured by the ring a particle lands on. Click a particle and turn the dial: at λ = 0 its way is smooth, at λ = 2
# a scribble, and it lands elsewhere. At λ = 0 the colours in the noise lie in clean regions with sharp borders, the
# mark of a bijection; the more noise, the more they mix, DDPM's more than DiffFlow's.
#
# ## 3. λ = 0: a density at last
#
# At λ = 0 equation 17 is an ordinary differential equation, $dx = v\,dt$ with $v = f - \frac12 g^2 s$. Its paths
# neither cross nor end, so it is a continuous normalizing flow. How does the density change for somebody who
# travels along?
#
# **Line 1.** Without noise, the density is carried:
# $\partial_t p = -\nabla\!\cdot (v p) = -v\cdot\nabla p - p\,\nabla\!\cdot v$.
#
# **Line 2.** Travelling with $dx/dt = v$ adds $v \cdot \nabla \log p$ to $\partial_t \log p$, so that
#
# $$\frac{d}{dt} \log p_t(x_t) = \partial_t \log p + v \cdot \nabla \log p = -\nabla\!\cdot v .$$
#
# **Line 3.** Integrate from the data to the noise, where the density is known:
#
# $$\log p(x_0) = \log \mathcal N(x_T; 0, I) + \int_0^T \operatorname{tr} \frac{\partial}{\partial x}
# \bigl[f - \tfrac12 g^2 s\bigr] dt . \tag{A}$$
#
# **Exercise 2. A density by its ODE.** Write equation A in steps: `x_T` $(B, d)$ is where the particles end,
# `divergence` $(N, B)$ holds the trace at $N$ times from data to noise, `dt` $(N,)$ the lengths of the steps.
# Return $B$ numbers.


# %% tags=["exercise"]
def ode_log_prob(x_T, divergence, dt):
    return None  # your answer


# %% tags=["check"]
exercises.check_ode_log_prob(ode_log_prob)


# %% tags=["solution"] jupyter={"source_hidden": true}
def ode_log_prob(x_T, divergence, dt):
    d = x_T.shape[1]
    end = -0.5 * (x_T.square().sum(1) + d * math.log(2 * math.pi))
    return end + (dt[:, None] * divergence).sum(0)


exercises.check_ode_log_prob(ode_log_prob)

# %% [markdown]
# Put it to work, on a converged DDPM of the checkerboard: carry twenty points to the noise, ask for the trace at 150
# times on the way (in two dimensions two derivatives give it exactly), and add up. The library does the same with an
# adaptive solver. The times grow quadratically from the data, the steps linearly: there, $\frac12 g^2 s$ is steep.

# %%
ddpm = models["DDPM", "checkerboard"]
x_0 = board.sample(20, seed=3)

with torch.no_grad():
    T, u = float(ddpm.schedule.times[-1]), torch.linspace(0, 1, 301)
    ends, middles = T * u[::2] ** 2, T * u[1::2] ** 2
    way = likelihood.ProbabilityFlow(ddpm).encode(x_0, times=[0.0, *middles.tolist(), T])
    traces = [
        divergence(lambda x, t: likelihood.family_drift(ddpm, x, t, lam=0.0), x, t)[1]
        for x, t in zip(way.states[1:-1], middles, strict=True)
    ]
    by_hand = ode_log_prob(way.end, torch.stack(traces), ends.diff())
    library = ddpm.log_prob(x_0)
print(
    f"by hand and by the library, in the mean, to 0.1 nats: {abs((by_hand - library).mean()) < 0.1}"
)
print(f"the solver called the network more than 100 times:    {ddpm.evaluations > 100}")

# %% [markdown]
# **Fine print.** A chain stops at $N$ times, and at no others were its networks trained; an ODE asks at all times. So
# the library interpolates between what was learned at the two neighbours (`between="interpolate"`, the default for
# a trained grid). One may also ask the network itself (`between="ask"`). With ten steps the difference is plain:

# %%
ten, x = pretrained("diffflow", "olympic_rings", steps=10), rings.sample(120, seed=11)
coarse = Solver(rtol=1e-3, atol=1e-3)  # a tenth of the usual precision is plenty here
with torch.no_grad():
    gap = {
        how: (rings.log_prob(x) - ten.log_prob(x, solver=coarse, between=how)).mean().item()
        for how in ("interpolate", "ask")
    }
print(
    f"DiffFlow, N = 10, its ODE on 120 points: {gap['interpolate']:.2f} nats above the data's own −log p"
)
print(
    f"asked at times never trained, more than 0.2 nats worse: {gap['ask'] > gap['interpolate'] + 0.2}"
)

# %% [markdown]
# ### A map to probe
#
# So $\log p$ of *any* point, not only of data. The checkerboard is the sternest of teachers: on its eight squares
# the true density is constant, $\log p = -1.79$ nats, and beside them there is none.
#
# **Predict:** where will a smooth bijection have the greatest trouble?

# %%
side = float(2 * board.sample(20_000, seed=0).abs().max() / 4)  # of one square
quick = Solver("rk4", steps=20)  # for pictures; a solver of fixed steps costs the same everywhere
points = {
    "the middle of a square": (0.5 * side, 0.5 * side),
    "the middle of a gap": (-0.5 * side, 0.5 * side),
    "inside, next to an edge": (0.92 * side, 0.8 * side),
    "outside, next to an edge": (1.08 * side, 0.2 * side),
    "where four squares meet": (0.0, 0.0),
    "beyond the board": (2.2 * side, 0.5 * side),
}
with torch.no_grad():
    board_map = probe(
        {
            "DDPM's ODE": lambda x: ddpm.log_prob(x, solver=quick),
            "exact": board.log_prob,
        },
        view=(0.0, 0.0, 2.4 * side),
        cells=48,  # ten to the side of a square: no cell lies on an edge, so the exact map sums to 1
        probes=points.values(),
        title="Restless squares, soft corners, and a little spilt between them",
    )
board_map

# %% [markdown]
# Left the model, right the truth, dark where a point is likely, on one scale that ends 8 nats below the top. The
# model's squares are restless, their edges fade within a cell or two, and where two squares touch at a corner, some
# density spills into the gaps. In a running notebook, point at the maps to read both at once; a click pins a
# probe, and `board_map.probes` has it in Python. The six probes that are pinned already, from the densities
# themselves:

# %%
place = torch.tensor(list(points.values()))
with torch.no_grad():
    model_says, exact = ddpm.log_prob(place), board.log_prob(place)
print("                               log p [nats]")
print("                               model    exact")
for number, (where, a, b) in enumerate(zip(points, model_says, exact, strict=True), 1):
    print(f"{number}  {where:26s} {a:6.1f}   {b:6.1f}")

inside = board_map.maps["exact"] > -10
wrong = (board_map.maps["DDPM's ODE"] - board_map.maps["exact"])[inside]
print(f"\non the squares the model is off by {(wrong**2).mean() ** 0.5:.2f} nats, root mean square")

x = board.sample(8000, seed=9)
to_edge = side * (x / side - (x / side).round()).abs().amin(1)
with torch.no_grad():
    at_edge, within = (
        (ddpm.log_prob(part[:180], solver=quick) - board.log_prob(part[:180])).mean().item()
        for part in (x[to_edge < 0.005], x[to_edge > 0.05])
    )
print(f"on average, within 0.005 of an edge, it loses more than 0.4 nats:  {at_edge < -0.4}")
print(f"and farther inside than 0.05, less than 0.15 nats:                 {-0.15 < within < 0}\n")

model_mass, exact_mass = board_map.mass().values()
print(f"the model's map integrates to 1, to 0.01:  {abs(model_mass - 1) < 0.01}")
print(f"and the exact one, to 0.001:               {abs(exact_mass - 1) < 0.001}")

# %% [markdown]
# **Explain.** The map integrates to one: this *is* a density, not a score that looks like one. It is off by about a
# third of a nat all over the squares, too much here and too little there, which costs little on average. At the very
# edges it loses far more: a smooth map cannot end as sharply as the squares do. In the gaps it is many nats below
# them, yet never $-\infty$: a bijection cannot tear the plane (notebook 01). What is spilled there is missing
# elsewhere, and is paid for in nats.
#
# Thin rings need a closer look: the crossing of notebook 03, a square of 0.2 units.

# %%
diffflow = models["DiffFlow", "olympic_rings"]
crossing = (-1.552, -0.44, 0.1)  # the two rings at the left, lower crossing
with torch.no_grad():
    crossing_map = probe(
        {
            "DiffFlow's ODE": lambda x: diffflow.log_prob(x, solver=quick),
            "exact": rings.log_prob,
        },
        view=crossing,
        cells=32,
        probes=[(-1.552, -0.44)],
        title="A hundredth of a unit decides: the model's arms have heavy flanks",
    )
crossing_map

# %% [markdown]
# The same for a DiffFlow of the five rings. The arms run where they should and are as dark as they should be, but they
# wear heavy flanks: a hundredth of a unit to the side the model still expects data, and a veil fills the corners
# of the cross. Point at the two maps to compare.
#
# ## 4. Three numbers for one model, and a fourth
#
# Back to the chain, its noise and its bound. Write $b$ for the path bound of one path of a particle,
# $-\log\,p_B(\text{path})/p_F(\text{path} \mid x_0)$ (notebook 04, line 4). Then $\mathbb E\, e^{-b} = p_B(x_0)$
# *exactly*: an importance-sampling estimate of the integral over all paths. With $K$ paths a particle there are two
# ways to average:
#
# $$\underbrace{\mathbb E\,\frac1K \sum_k b_k}_{\text{path bound}} \;\ge\;
# \underbrace{\mathbb E\Bigl[-\log \frac1K \sum_k e^{-b_k}\Bigr]}_{\text{importance-weighted bound}} \;\ge\;
# \underbrace{-\log p_B(x_0)}_{\text{of the chain}}$$
#
# Both signs are Jensen's inequality. The middle one falls with $K$ and reaches the right end as $K \to \infty$
# (Burda et al.).
#
# **Exercise 3. Importance-weighted.** Write the middle one for `bounds` $(K, B)$. Return $B$ numbers. Bounds of
# images are thousands of nats, so think of `torch.logsumexp`.


# %% tags=["exercise"]
def importance_weighted(bounds):
    return None  # your answer


# %% tags=["check"]
exercises.check_importance_weighted(importance_weighted)


# %% tags=["solution"] jupyter={"source_hidden": true}
def importance_weighted(bounds):
    return math.log(len(bounds)) - torch.logsumexp(-bounds, 0)


exercises.check_importance_weighted(importance_weighted)

# %% [markdown]
# **Predict:** four models, DDPM and DiffFlow on rings and checkerboard, all with thirty steps. How many paths does
# it take to halve the gap between bound and truth? And where will the ODE stand: above the bound, between, or
# below?
#
# We ask for 120 points of data, the same for every number, and subtract the true $-\log p$ *of these points*. What
# is left, on average, is how far the model is from the data in KL: 0 is perfect.

# %%
K = 64
numbers = {}
for density in (rings, board):
    x = density.sample(120, seed=11)
    truth = -density.log_prob(x)
    for name in ("DDPM", "DiffFlow"):
        model = models[name, density.name]
        # Sixteen paths of every particle at once: large batches cost little more than small ones.
        bounds = likelihood.path_bounds(model, x.repeat(16, 1), K // 16, seed=0)
        bounds = bounds.reshape(K, -1) - truth
        with torch.no_grad():
            ode = -model.log_prob(x, solver=coarse) - truth
        by_k = {
            k: torch.cat([importance_weighted(part) for part in bounds.split(k)]).mean().item()
            for k in (1, 2, 4, 8, 16, 32, 64)
        }
        error = (ode.std() / len(x) ** 0.5).item()
        numbers[density.name, name] = (bounds.mean().item(), by_k, ode.mean().item(), error)

print("nats above the entropy     entropy    path bound    K = 64     ODE")
for (where, name), (bound, by_k, ode, error) in numbers.items():
    entropy = {rings.name: rings, board.name: board}[where].entropy()
    print(
        f"{where:14s} {name:9s}  {entropy:8.2f}   {bound:11.2f}  {by_k[K]:8.2f}  {ode:6.2f} ± {error:.2f}"
    )
ordered = all(n[0] > n[1][K] for n in numbers.values())
falling = all(list(n[1].values()) == sorted(n[1].values(), reverse=True) for n in numbers.values())
apart = max(abs(ode - by_k[K]) for _, by_k, ode, _ in numbers.values())
print(f"\npath bound above the importance-weighted one, every time:    {ordered}")
print(f"which falls with every doubling of K:                        {falling}")
print(
    f"K = 64 is less than half of the path bound's gap:            {all(n[1][K] < n[0] / 2 for n in numbers.values())}"
)
print(f"the ODE's number is within 0.2 nats of that of K = 64:       {apart < 0.2}")
sides = [ode - by_k[K] for _, by_k, ode, _ in numbers.values()]
print(f"  here above it, there below:                                {min(sides) < 0 < max(sides)}")
below = all(ode < bound for bound, _, ode, _ in numbers.values())
print(f"  and below the path bound, every time:                      {below}")
half = [min(k for k in by_k if by_k[k] < bound / 2) for bound, by_k, *_ in numbers.values()]
closed = [1 - by_k[K] / bound for bound, by_k, *_ in numbers.values()]
print(f"paths that more than halve the gap, model by model:          {', '.join(map(str, half))}")
print(
    f"64 paths close of it:                                        {min(closed):.0%} to {max(closed):.0%}"
)

# %%
with figures.style():
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for axes, where in zip(panels, (rings.name, board.name), strict=True):
        for name, shift in (("DDPM", 0.94), ("DiffFlow", 1.06)):
            bound, by_k, ode, error = numbers[where, name]
            color = figures.MODELS[name]
            axes.plot(
                list(by_k), list(by_k.values()), "o-", color=color, label=f"{name}, the chain"
            )
            axes.errorbar(
                130 * shift, ode, yerr=error, fmt="D", color=color, mfc="white", ms=7, capsize=3,
                label=f"{name}, its ODE",
            )  # fmt: skip
        axes.axhline(0, color="0.3", lw=1.2, ls="--")
        axes.axvline(90, color="0.85", lw=1)
        axes.set_xscale("log", base=2)
        axes.set_xticks(
            [1, 2, 4, 8, 16, 32, 64, 130], ["1", "2", "4", "8", "16", "32", "64", "ODE"]
        )
        axes.minorticks_off()
        axes.set(xlabel="paths a particle, K", title=where.replace("_", " "))
    panels[0].set_ylabel("nats above the entropy")
    panels[0].text(1, 0.012, "the data itself", va="bottom", color="0.3")
    panels[0].set_ylim(bottom=-0.03)
    panels[1].legend(fontsize=10)
    figure.suptitle("Much of the gap was the bound's, not the model's")
plt.show()

# %% [markdown]
# Nats above the entropy against the number of paths $K$, rings left, checkerboard right; $K = 1$ is the path bound,
# and the dashed line the data itself. More than half of the gap disappears with 64 paths: the model is better than
# its bound says. The diamonds at the right are the ODEs, with one standard error.
#
# **Explain.** About four paths halve the gap, and 64 close three quarters of it or more. The ODE stands below the
# path bound every time, near the value of $K = 64$ but not always on the same side of it. Which is which:
#
# - The **path bound** is what training minimises and what notebooks 00, 03 and 04 print. It bounds −log p of the
#   *chain*, with its thirty noisy steps, from above.
# - The **importance-weighted bound** bounds the same number more tightly. At $K = 64$ it is still a bound: the
#   curves have not quite levelled out.
# - The **chain's** own −log p lies below all of the curve, and above the dashed line, since no density beats the
#   data's own on average.
# - The **ODE's** −log p is the density of *another* process, that of λ = 0. It is exact, up to the solver, and it
#   owes nothing to the other three: it may lie above or below them. On which side it lies says nothing about the
#   samples of the chain. It does speak about those of λ = 0, which section 2 found to stray more.
#
# ### No order for the ODE
#
# That the ODE may lie on either side can be seen where everything has a closed form: Gaussian data, and a score
# that is wrong by a factor. All densities are Gaussian then, the chain's too.

# %%
V, geometric = 0.3, Schedule.geometric(steps=60)
noise = geometric.noise_process
x = V**0.5 * torch.randn(400, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
x = V**0.5 * x / x.square().mean().sqrt()  # variance 0.3 to the last digit
truth = math.log(2 * math.pi * math.e * V)


def chain_and_ode(factor):
    """Path bound, K = 64, the chain's −log p and the ODE's, for `factor` times the exact score."""
    model = DiffFlow(
        lambda x, t: torch.zeros_like(x),
        lambda x, t: -factor * x / (V + noise.sigma(t).square()),
        geometric,
    )
    spread = torch.ones((), dtype=torch.float64)  # the variance of the chain, from noise to data
    one = torch.ones(1, 1, dtype=torch.float64)
    for i in reversed(range(60)):
        spread = model.backward_mean(one, i).squeeze() ** 2 * spread + geometric.b[i] ** 2
    chain = (V / spread + torch.log(2 * math.pi * spread)).item()
    bounds = likelihood.path_bounds(model, x, 64, seed=0)
    ode = -model.log_prob(x).mean().item()
    return bounds.mean().item(), importance_weighted(bounds).mean().item(), chain, ode


print("                 path bound    K = 64     chain       ODE")
table = {factor: chain_and_ode(factor) for factor in (0.8, 1.0, 1.2)}
for factor, row in table.items():
    print(f"{factor:3.1f} of the score" + "".join(f"{value:10.2f}" for value in row))
print(f"truth          {truth:11.2f}")
inside = all(a >= b > c - 0.01 for a, b, c, _ in table.values())
sides = [ode - chain for _, _, chain, ode in table.values()]
print(f"\npath bound ≥ importance-weighted ≥ chain, to 0.01:       {inside}")
print(f"the ODE lies above the chain once, and below it once:     {min(sides) < 0 < max(sides)}")

# %% [markdown]
# **Explain.** Three of the columns are ordered in every row. The fourth is not: a score too weak lets the ODE
# contract too little, and the chain, which has its noise as well, errs by another amount. So when a table sets an
# "NLL (ODE)" beside bounds, as the paper's table of images does, it sets a density of λ = 0 beside bounds on
# densities of λ = 1. Both are fair numbers; they belong to different models.
#
# ## 5. Theorem 1, with its fine print
#
# What if the noise goes away in *both* directions, $g \to 0$? Theorem 1 of the paper: then DiffFlow's loss becomes
# a flow's. The path term turns into a log determinant,
#
# $$\sum_i \tfrac12\bigl(\|\delta^B_i\|^2 - \|\delta^F_i\|^2\bigr) \;\longrightarrow\; -\int \operatorname{tr}\frac{\partial f}{\partial x}\,dt .$$
#
# Put the forward step into $\delta^B$ (notebook 04, "the signs"), constant $g$, and expand
# $f_{i+1}(x_{i+1}) - f_i(x_i) = \frac{\partial f}{\partial x}\, g\sqrt{\Delta t}\,\delta^F + \dot f\,\Delta t + \dots$,
# where $\dot f = \partial_t f + \frac{\partial f}{\partial x} f$ is how $f$ changes along the way:
#
# $$\delta^B = -\delta^F + \frac{\partial f}{\partial x}\,\delta^F\,\Delta t + \dot f\,\frac{\Delta t^{3/2}}{g} - g\,s\,\sqrt{\Delta t} + \dots$$
#
# Square, and take the mean over the noise, which is all the loss asks for. Of one path there are more terms, the
# largest $-\delta^{F\top}\dot f\,\Delta t^{3/2}/g$; their mean is zero.
#
# $$\mathbb E\,\tfrac12\bigl(\|\delta^B\|^2 - \|\delta^F\|^2\bigr) = \underbrace{-\operatorname{tr} \tfrac{\partial f}{\partial x}\, \Delta t}_{\text{the theorem}}
# + \underbrace{\|\dot f\|^2\,\frac{\Delta t^3}{2 g^2}}_{\text{what it leaves out}} + O(g^2 \Delta t) + O(\Delta t^2) . \tag{B}$$
#
# Summed over the steps, the remainder is $O(g^2) + O(\Delta t)$: finer steps alone do not take the $g^2$ away. And
# the second term has $g$ in the *denominator*. Summed it is
# $\frac{\Delta t^2}{2 g^2}\int \|\dot f\|^2 dt$: it vanishes only where $\Delta t \ll g$. **Fine print:** at a
# fixed number of steps $g \to 0$ has no limit. The backward Euler step is not the inverse of the forward one, and
# the smaller the noise, the less it is forgiven.
#
# **Exercise 4. What the theorem leaves out.** Sum the second term of equation B over the steps. `rate` $(N, B, d)$
# is $\dot f$ along $B$ paths, `dt` and `g` have one number in them. Return $B$ numbers.


# %% tags=["exercise"]
def excess(rate, dt, g):
    return None  # your answer


# %% tags=["check"]
exercises.check_excess(excess)


# %% tags=["solution"] jupyter={"source_hidden": true}
def excess(rate, dt, g):
    return (rate.square().sum(2) * dt**3 / (2 * g**2)).sum(0)


exercises.check_excess(excess)

# %% [markdown]
# Now measure. A drift of our own making, which bends and changes with time; no network, no score (it comes with a
# factor $g$). `theorem_one` walks the paths on grids of $N$ steps for every $g$, and computes the flow's
# $-\sum\log\det$ and the predicted excess beside it.
#
# **Predict:** at $N = 100$ steps of $\Delta t = 0.01$, which of $g = 1, 0.1, 0.01, 0.001$ comes nearest to the
# flow?

# %%
MATRIX = torch.tensor([[0.8, 0.5], [-0.6, 0.4]], dtype=torch.float64)


def bend(x, t):
    return torch.tanh(x @ MATRIX.T) * (1 + 0.5 * t)


cloud = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
levels = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
theorem = likelihood.theorem_one(bend, cloud, steps=(10, 100, 1000), g=levels)

print("path term − flow (measured), and the excess that equation B predicts, nats")
print("    N     g      Δt/g    measured   predicted")
for n, count in enumerate(theorem.steps.tolist()):
    for k, g in enumerate(theorem.g.tolist()):
        apart = float(theorem.path[n, k] - theorem.flow[n])
        ratio, predicted = 1 / count / g, float(theorem.excess[n, k])
        if ratio > 0.9:
            print(f"{count:5d}  {g:5.3f}  {ratio:7.1f}  {apart:10.2f}  {predicted:10.2f}")
long = (1 / theorem.steps[:, None] / theorem.g) > 5
share = ((theorem.path - theorem.flow[:, None]) / theorem.excess)[long]
short = (1 / theorem.steps[:, None] / theorem.g) < 0.2
small = short & (theorem.g < 0.5)
apart = (theorem.path - theorem.flow[:, None])[small].abs().max()
print(
    f"\nwhere Δt/g is above 5, the prediction is right to 10 %:      {bool((share - 1).abs().max() < 0.1)}"
)
print(f"where Δt ≪ g ≪ 1, the loss is the flow's to 0.05 nats:      {bool(apart < 0.05)}")
hundred = {
    g: abs(float(theorem.path[1, levels.index(g)] - theorem.flow[1]))
    for g in (1.0, 0.1, 0.01, 0.001)
}
print(
    f"at N = 100, of g = 1, 0.1, 0.01, 0.001 comes nearest:       {min(hundred, key=hundred.get)}"
)

# %%
figures.theorem_one_panels(theorem, "Noise may go to zero, but not faster than the step")
plt.show()

# %% [markdown]
# Left: the path term against the noise $g$, for three numbers of steps, beside the flow's $-\sum\log\det$ (the thin
# line). With less noise the curves first fall towards it, as the theorem says, and two of the three reach it. Then,
# at a $g$ of about $\Delta t$, each turns upwards: that of $N = 10$ before it ever came down to the line, that of
# $N = 100$ later, and that of $N = 1000$ only at the end, so that it stays in the picture. Right: how far path term and flow are apart
# against $\Delta t/g$, on logarithmic axes. To the right of 1 all points lie on the dashed prediction; to the left
# only chance and what is of order $g^2$ and $\Delta t$ are left.
#
# **Explain.** With a hundred steps, $g = 0.1$ comes nearest: at 1 there is still the $g^2$, at 0.01 and below the
# step is too long. So "DiffFlow contains flows as a limit" is true in this order: first the steps, then the noise. In
# practice $g$ is a dial, and its lower end (notebook 06) suffers from just this.
#
# ## 6. Real data
#
# Rows of numbers instead of points in the plane: sensors, collisions, image patches. Here nobody knows the entropy,
# so models are compared on the mean $-\log p$ of test rows, in nats (lower is better). The paper's table, printed
# from `benchmarks/results/tabular.json`:

# %%
results = json.loads(Path("../benchmarks/results/tabular.json").read_text(encoding="utf-8"))
paper = dict(results["paper"])
print("the paper, test −log p  " + "".join(f"{name.upper():>11s}" for name in paper.pop("sets")))
for name, row in paper.items():
    print(f"{name:24s}" + "".join(f"{value:11.2f}" for value in row))

# %% [markdown]
# DiffFlow's row is its *ODE*, the density of λ = 0. And what was run for this course, with the benchmark of this
# repository:


# %%
def called(model, key):
    return model + key.removeprefix("test").replace("_", ", ", 1).replace("_", " ")


gains = {}  # by set, then by what was measured: gain, its error, whether of an ODE, rows
for name, entry in results["sets"].items():
    print(f"{name}: {entry['note']}\n")
    print("                          test −log p [nats]    ahead of the Gaussian     rows   CPU-s")
    for model, record in entry["models"].items():
        *_, before, after = [None, None, *(phase.get("test") for phase in record.get("phases", []))]
        for key in (key for key in record if key.startswith("test")):
            m, ode = record[key], "ode" in key
            sign = "≤ " if model in ("ddpm", "diffflow") and not ode else "  "
            gain = f"{m['gain']:.2f} ± {m['gain_error']:.2f}" if "gain" in m else ""
            seconds = str(record.get("cpu_seconds", "")) if key == "test" else ""
            print(
                f"{called(model, key):24s}  {sign}{m['nats']:8.2f} ± {m['error']:.2f}   {gain:>20s}"
                f"   {m['rows']:8d}  {seconds:>6s}"
            )
            if "bound_of_these_rows" in m:
                print(f"{'':8s}bound of these rows ≤ {m['bound_of_these_rows']:8.2f}")
            if "gain" in m:
                gains.setdefault(name, {})[called(model, key)] = (
                    m["gain"], m["gain_error"], ode, m["rows"],
                )  # fmt: skip
        if before is not None and before == after:
            print(f"{'':8s}training both nets found nothing better: its drift is still zero")
    print()

for name, found in gains.items():
    proven = {title: each for title, each in found.items() if not each[2]}
    best, least = max(proven, key=proven.get), min(proven, key=proven.get)
    gain, error, *_ = proven[best]
    print(f"{name}, gains over the Gaussian in nats:")
    print(
        f"  ahead in what is guaranteed (a flow's value against a chain's bound): {best}, {gain:.2f}"
    )
    print(f"  least of all gains: {least}, {proven[least][0]:.2f} ± {proven[least][1]:.2f}")
    for title, (ode_gain, ode_error, ode, rows) in found.items():
        if ode:  # on other rows, so what is compared is the gain, with both errors
            tie = abs(ode_gain - gain) < 2 * math.hypot(ode_error, error)
            verdict = "a tie" if tie else "ahead" if ode_gain > gain else "behind"
            print(
                f"  {title}, on {rows} rows only: {ode_gain:.2f} ± {ode_error:.2f} against "
                f"{gain:.2f} ± {error:.2f} of {best}: {verdict}, to two standard errors"
            )

# %% [markdown]
# **Explain.** The full-covariance Gaussian is the number to beat, and it is honest to print it: much of what tabular
# densities are about is covariance. All models learn rows whitened by it. "≤" marks a bound; a flow's number is its
# value; an ODE's stands in a line of its own, on fewer rows, because it costs hundreds of calls of the network, and
# those rows have another mean, which is why we compare gains there. A bound against a value is an unequal race: what
# the bound gives away counts against the chain, so the table says who is ahead in what is *guaranteed*, not who has
# the better density. Our patches are regenerated from the images, not the published rows, so their numbers stand
# *beside* the paper's column BSDS300, never in it. The other sets are for those who have a network:
# `tabular.load("power")` downloads and prepares them as the MAF paper did.
#
# ### A small set, now
#
# Something that fits on this page: 1797 handwritten digits of 8 × 8 pixels from scikit-learn, dequantised, as rows
# of 64 numbers. A coupling flow starts level with the Gaussian and learns for a second.
#
# **Predict:** a small flow and a large one. Which has the better $-\log p$ on training rows, and which on rows it
# never saw?

# %%
digits = tabular.load("digits")
gaussian = tabular.Gaussian.of(digits.train)
train_rows, validation_rows, test_rows = (
    gaussian.whiten(torch.from_numpy(rows))
    for rows in (digits.train, digits.validation, digits.test)
)
level, level_test = (
    -gaussian.log_prob(torch.from_numpy(rows)).mean().item()
    for rows in (digits.validation, digits.test)
)


def learn(layers, hidden):
    """A flow, and its −log p on training and validation rows on the way: [(step, train, val)]."""
    torch.manual_seed(0)
    flow, curve = CouplingFlow(digits.dim, layers=layers, hidden=hidden), []

    def look(step, model):
        if step % 20 == 19 or step == 0:
            with torch.no_grad():
                nats = [
                    model.bound(rows).mean().item() + gaussian.log_det
                    for rows in (train_rows, validation_rows)
                ]
            curve.append((step + 1, *nats))

    fit(flow, train_rows, steps=200, batch_size=128, lr=2e-3, callback=look)
    with torch.no_grad():
        test = flow.bound(test_rows).mean().item() + gaussian.log_det
    return curve, test


small, small_test = learn(layers=4, hidden=64)
large, large_test = learn(layers=8, hidden=128)
print(f"Gaussian, test rows:                                       {level_test:.1f} nats")
print(f"the small flow beats it there, by more than a nat:         {level_test - small_test > 1}")
print(
    f"the large flow is ahead on the rows it learned from:       {large[-1][1] < small[-1][1] - 5}"
)
behind = large[-1][2] > level and large_test > level_test  # on validation and on test rows
print(f"and behind the Gaussian on rows it never saw:              {behind}")
best = min(large, key=lambda look: look[2])
print(
    f"stopped before step 100 it would have been ahead of it:    {best[0] < 100 and best[2] < level}"
)

# %%
with figures.style():
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for axes, (name, curve) in zip(
        panels, {"a small flow": small, "a large flow": large}.items(), strict=True
    ):
        steps, *nats = zip(*curve, strict=True)
        axes.plot(steps, nats[0], "o-", ms=4, color=figures.MODES[0], label="training rows")
        axes.plot(steps, nats[1], "s-", ms=4, color=figures.MODES[1], label="validation rows")
        axes.axhline(level, color="0.3", lw=1.2, ls="--")
        axes.set(xlabel="training step", title=name, ylim=(35, 110))
    panels[0].set_ylabel("−log p [nats]")
    panels[0].text(
        200, level + 1, "the Gaussian, validation rows", ha="right", va="bottom", color="0.3"
    )
    panels[0].legend(loc="upper left")
    figure.suptitle("On 1457 rows, a large flow learns the rows instead of the density")
plt.show()

# %% [markdown]
# $-\log p$ during training on rows the flow learns from (blue circles) and on rows it does not (orange squares),
# dashed the Gaussian. The small flow (left) gains on both. The large one (right) falls far lower on its own rows,
# while its validation curve turns after a few dozen steps and leaves the picture.
#
# **Explain.** A density on few rows can always be raised by putting a spike on each. Nothing in the likelihood of
# *training* rows says so, which is why the tables above are of test rows, and why `benchmarks/tabular.py` looks at
# validation and keeps the best weights.
#
# ## What to remember
#
# - Drift and score make a **family**, $[f - \frac12(1+\lambda^2) g^2 s]\,dt + \lambda g\,dw$: same distributions
#   for the exact score, different ones for a learned one.
# - **Noise brings strays home.** The ODE leaks more than twice what λ = 1 does. Where the mass lies is another matter: ask W2, too.
# - λ = 0 is a **flow**:
#   $\log p(x_0) = \log \mathcal N(x_T) + \int \operatorname{tr}\,\partial_x [f - \frac12 g^2 s]\,dt$, a density
#   that integrates to one.
# - **Path bound ≥ importance-weighted bound ≥ chain.** The ODE's number is beside them, not among them. Say which
#   one you print.
# - **Theorem 1** wants $\Delta t \ll g \ll 1$; at fixed $\Delta t$ the loss grows like $\Delta t^2/g^2$.
# - On real rows: print the Gaussian, the test rows, and "≤" where it is a bound.
#
# ## References
#
# - Q. Zhang and Y. Chen, *Diffusion Normalizing Flow*, NeurIPS 2021,
#   [arXiv 2110.07579](https://arxiv.org/abs/2110.07579): the family (17), Theorem 1 for the path term of
#   equation 16, and the tabular results. Letters are this notebook's own.
# - Y. Song et al., *Score-based generative modeling through stochastic differential equations*, ICLR 2021: the
#   probability flow (13) and its likelihood (appendix D).
# - R. Chen et al., *Neural ordinary differential equations*, NeurIPS 2018: the change of variables along an ODE
#   (theorem 1).
# - Y. Burda, R. Grosse and R. Salakhutdinov, *Importance weighted autoencoders*, ICLR 2016: the bound with $K$
#   samples (8).
# - G. Papamakarios, T. Pavlakou and I. Murray, *Masked autoregressive flow for density estimation*, NeurIPS 2017:
#   the tabular sets (appendix D).
#
# **What is next.** Bits per dimension of images are these nats divided by $d \log 2$: notebooks 08 and 09.
# The [map of the course](00_start_here.ipynb) shows the way.
