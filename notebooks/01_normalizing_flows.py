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
# # Normalizing flows
#
# We bend the plane until five rings become a Gaussian, with the exact density at every step, and see what no bending
# can do.
#
# ## What you will learn
#
# - The **change of variables**, seen on a grid: where a map stretches areas, the density rises.
# - How a **coupling layer** makes inverse and determinant cheap, built by hand, then trained live.
# - How many small steps become an **ODE**, and the determinant a **trace**: proven in four lines,
#   checked against an exact density.
# - **FFJORD** on crossing rings: a flow in continuous time.
# - Why a bijection **cannot cut** one cloud into two, and the law between its **leak** and its **Lipschitz constant**.
#
# **Time and memory:** about 28 s of processor time, half of it training (slower machines need up to three times that), and 700 MB.
#
# As everywhere in this course, time runs from data ($t = 0$) to noise ($t = T$): a flow $F$ carries
# $x$, the data, to $z = F(x)$, the noise, and its inverse draws samples.

# %%
import copy
import math

import matplotlib.pyplot as plt
import torch

from diffflow_edu import (
    CouplingFlow,
    exercises,
    figures,
    fit,
    metrics,
    play,
    pretrained,
    toy,
)
from diffflow_edu.processes.base import standard_normal_log_prob
from diffflow_edu.verdicts import verdict

torch.set_num_threads(1)  # nets this small gain little from a second core

# %% [markdown]
# ## 1. Bend a grid
#
# Here is a map of the plane: turn every point about the centre, the more the closer it is, and
# change its distance $r$ from the centre by the factor $0.4 + 0.15\,r^2$.
#
# **Predict** before you run: which cells of a square grid will shrink, and which will grow? What
# does the turning do to their areas?


# %%
def whirl(x):
    """F: x (..., 2) -> z (..., 2)."""
    r_squared = x.square().sum(-1)
    angle = 1.5 * torch.exp(-r_squared / 2)
    first = angle.cos() * x[..., 0] - angle.sin() * x[..., 1]
    second = angle.sin() * x[..., 0] + angle.cos() * x[..., 1]
    return (0.4 + 0.15 * r_squared)[..., None] * torch.stack([first, second], -1)


@torch.enable_grad()
def jacobian(function, x):
    """∂ function(x)/∂x of every particle. x: (B, d). Returns (B, d, d)."""
    x = x.detach().requires_grad_()
    outputs = function(x).unbind(1)
    rows = [torch.autograd.grad(each.sum(), x, retain_graph=True)[0] for each in outputs]
    return torch.stack(rows, 1)


grid = figures.square_grid(half=2.0, cells=64)  # fine, so that its lines can bend
marked = [(7, 7), (9, 11), (14, 13)]  # rows and columns of cells four as wide
figures.warped_grids(
    {"x, before": grid, "z = F(x), after": whirl(grid)},
    marked=marked,
    finer=4,
    title="The middle shrinks, the rim grows; turning alone changes no area",
)
plt.show()

# %% [markdown]
# Left: the grid before. Right: after. Purple cells have shrunk, orange ones have grown; beside three
# outlined cells stands their area over what it was. The cells near the centre are turned a lot and
# shrunk to a sixth, the corners are hardly turned and six times as large.
#
# The areas on the picture are those of polygons. Calculus has another number: the **determinant** of the Jacobian
# $\partial F/\partial x$ at the middle of the cell. We compare the two, for the outlined cells and for cells of a
# hundredth their width:

# %%
print("cell      polygon  determinant   polygon, cell 100 times narrower")
for row, column in marked:
    middle = torch.tensor([[column + 0.5, row + 0.5]], dtype=torch.float64) / 4 - 2
    determinant = torch.linalg.det(jacobian(whirl, middle)).item()
    ratios = []
    for width in (0.25, 0.0025):
        cell = middle + figures.square_grid(width / 2, cells=4)
        areas = figures.cell_areas(whirl(cell))
        ratios.append(areas.sum().item() / width**2)
    print(f"{row:2d}, {column:2d}     {ratios[0]:.4f}       {determinant:.4f}   {ratios[1]:.4f}")

# %% [markdown]
# **Explain.** Over a short distance a smooth map is nearly linear, and a linear map multiplies every area by its
# determinant.
#
# Now put *probability* on the plane. Let $z$ be $\mathcal N(0, I)$ and $x = F^{-1}(z)$. A small cell around $x$ holds
# exactly the mass of the bent cell around $z = F(x)$, since mass moves with the particles. So density times area is the
# same on both sides,
#
# $$p(x)\,dx = \mathcal N(z)\,dz
# \quad\Longrightarrow\quad
# \log p(x) = \log \mathcal N\bigl(F(x);\, 0, I\bigr) + \log\left|\det \frac{\partial F}{\partial x}\right|.$$
#
# That is the **change of variables**. For a chain $F = F_{N-1} \circ \dots \circ F_0$ determinants
# multiply, so their logarithms add up:
# $\log p(x) = \log \mathcal N(z) + \sum_i \log|\det \partial F_i/\partial x_i|$.
#
# Where $F$ stretches areas, the density of $x$ is higher than that of $z$. A flow needs two things of $F$: an
# **inverse**, to sample, and a **determinant** that is cheap.
#
# ## 2. Coupling layers
#
# A determinant in $d$ dimensions costs $d^3$ operations, and a neural network has no inverse at all.
# Dinh and others (RealNVP, 2017) avoid both. Cut $x$ in two halves. The first half stays. The second
# is scaled and shifted, by amounts that two networks $a$ and $c$ compute from the first:
#
# $$y_1 = x_1, \qquad y_2 = e^{a(x_1)}\, x_2 + c(x_1).$$
#
# **Predict:** to invert this layer, do we have to invert $a$ or $c$?
#
# **Exercise 1. The way back.** Given the halves `y_1` and `y_2`, $(B, d/2)$ each, and the functions
# `a` and `c`, return $x$ $(B, d)$, both halves side by side (`torch.cat([…, …], 1)`).


# %% tags=["exercise"]
def coupling_inverse(y_1, y_2, a, c):
    return None  # your answer


# %% tags=["check"]
exercises.check_coupling_inverse(coupling_inverse)


# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def coupling_inverse(y_1, y_2, a, c):
#     x_2 = (y_2 - c(y_1)) * torch.exp(-a(y_1))  # y_1 is x_1
#     return torch.cat([y_1, x_2], 1)
# ```
#
# </details>

# %% [markdown]
# Now the determinant. Order the coordinates so that the half that stays comes first. Then the Jacobian is
#
# $$\frac{\partial y}{\partial x} = \begin{pmatrix} I & 0 \\ \ast & \operatorname{diag}
# e^{a(x_1)} \end{pmatrix},$$
#
# triangular: the corner $\ast$, with the derivatives of the networks, does not matter. Only one half changes, so in a
# chain **the halves take turns**.
#
# **Exercise 2. A chain of layers.** Build the density. `layers` is a list of pairs `(a, c)` of functions. Every layer
# changes the *second* half of the columns by the first, as above; after it, the halves change places. Carry the data `x`
# $(B, d)$ through all layers and return $\log p(x)$, $(B,)$, in nats; at the end is $\mathcal N(0, I)$.


# %% tags=["exercise"]
def coupling_log_prob(x, layers):
    return None  # your answer


# %% tags=["check"]
exercises.check_coupling_log_prob(coupling_log_prob)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def coupling_log_prob(x, layers):
#     log_det = 0.0
#     for a, c in layers:
#         x_1, x_2 = x.chunk(2, 1)
#         y_2 = a(x_1).exp() * x_2 + c(x_1)
#         log_det = log_det + a(x_1).sum(1)
#         x = torch.cat([y_2, x_1], 1)
#     normal = -0.5 * x.square().sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)
#     return normal + log_det
# ```
#
# </details>

# %% [markdown]
# Two layers by hand, with two formulas each in place of networks. The second changes the coordinate that the first one
# left.


# %%
def a_1(x):
    return 0.7 * torch.sin(2 * x)


def c_1(x):
    return 0.5 * x.square()


def a_2(x):
    return -0.5 * torch.tanh(x)


def c_2(x):
    return torch.sin(x)


def layer_1(x):
    """The second coordinate moves, by an amount that depends on the first."""
    x_1, x_2 = x.chunk(2, -1)
    return torch.cat([x_1, a_1(x_1).exp() * x_2 + c_1(x_1)], -1)


def layer_2(x):
    """The first coordinate moves, by an amount that depends on the second."""
    x_1, x_2 = x.chunk(2, -1)
    return torch.cat([a_2(x_2).exp() * x_1 + c_2(x_2), x_2], -1)


once, twice = layer_1(grid), layer_2(layer_1(grid))
figures.warped_grids(
    {"x": grid, "after layer 1": once, "after layer 2": twice},
    marked=[(3, 4), (11, 12)],
    finer=4,
    title="One layer moves points up and down, the next left and right",
)
plt.show()

# %% [markdown]
# Left: the grid. Middle: layer 1 moves every point vertically, so vertical lines stay vertical and
# each is stretched as a whole: the colour is the same along it. Right: layer 2 does the same
# horizontally to what it was handed. Two outlined cells carry their areas, over what they were.
#
# Log-determinant and inverse, as layers compute them, against the full Jacobian:

# %%
x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
h = layer_1(x)
y = layer_2(h)
log_det = (a_1(x[:, :1]) + a_2(h[:, 1:])).sum(1)
brute_force = torch.linalg.slogdet(jacobian(lambda x: layer_2(layer_1(x)), x)).logabsdet
off = (log_det - brute_force).abs().max()
verdict("log-determinants differ at most by", off, "nats", form=".0e", below=1e-12)
first = (y[:, :1] - c_2(y[:, 1:])) * (-a_2(y[:, 1:])).exp()
back = torch.cat([first, (y[:, 1:] - c_1(first)) * (-a_1(first)).exp()], 1)
verdict("there and back, off at most by", (back - x).abs().max(), form=".0e", below=1e-12)

# %% [markdown]
# `CouplingFlow` is this, with a network for $a$ and $c$ in every layer (and one scale and shift per coordinate before
# it, called *actnorm*). It is trained by **making the data likely**: the loss is the mean of $-\log p(x)$ over the data,
# exact. Six layers, two moons, a few seconds:

# %%
moons = toy.load("two_moons")
torch.manual_seed(0)
flow = CouplingFlow(dim=2, layers=6, hidden=48)
history = fit(flow, moons, steps=500, batch_size=256, seed=0)

test = moons.sample(4000, seed=1)
with torch.no_grad():
    after = -flow.log_prob(test).mean().item()
print(
    f"−log p before training:     {-standard_normal_log_prob(test).mean():.2f} nats (the identity)"
)
print(f"−log p after, here:         ≈{after:.2f} nats")
print(f"entropy of the data:        {moons.entropy():.2f} nats, nobody can do better")
verdict("gap", after - moons.entropy(), "nats", above=0, below=0.5)

# %%
figures.film_strip(
    flow.encode(test),
    color=moons.mode,
    steps=7,
    title="Six layers bend two moons into one cloud",
    most=2500,
)
plt.show()

# %% [markdown]
# From data (left) to noise (right), one picture per layer, coloured by the moon a particle started on.
# Every layer rescales and shifts the whole picture (actnorm), then bends it only up and down or only
# left and right. At the right end the cloud is roughly a Gaussian, and the two moons lie side by side in it, with a
# **seam** between them.
#
# And back, from noise to data. **Predict:** points on either side of the seam are neighbours and belong to different
# moons. Where does a particle *on* the seam go?

# %%
figures.samples_against_truth(
    {"coupling flow": flow.sample(5000, seed=0).start},
    moons,
    color=moons.mode,
    title="The seam becomes a bridge between the moons",
)
plt.show()
off = metrics.leak(flow.sample(5000, seed=0).start, moons)
verdict("share of the samples off the moons", off, form=".1%", above=0.01, below=0.08)

# %% [markdown]
# Left: the data. Right: samples (coloured) over the data (grey). Some particles lie on a line between the moons. Too
# little training, or something that no flow can do? Section 6 answers. First, let the layers become infinitely many.
#
# ## 3. From layers to an ODE
#
# Make every layer a small step, $x_{i+1} = x_i + h f(x_i)$ with $h = T/N$. That is a *residual*
# layer, and it is also Euler's method for
#
# $$\frac{dx}{dt} = f(x, t).$$
#
# **Predict:** the same field $f$, the same time $T = 1$, in one step or in eight. Which of the two is
# a bijection?


# %%
def field(x):
    """f: x (..., 2) -> velocity (..., 2)."""
    first = torch.sin(2 * x[..., 1]) - 0.5 * x[..., 0]
    second = 1.5 * torch.tanh(x[..., 0]) - 0.5 * x[..., 1]
    return torch.stack([first, second], -1)


def residual_steps(x, steps):
    """All states x_0 … x_N on the way, (N + 1, B, 2)."""
    states = [x]
    for _ in range(steps):
        states.append(states[-1] + field(states[-1]) / steps)
    return torch.stack(states)


figures.warped_grids(
    {"before": grid}
    | {
        f"N = {n} step{'s' if n > 1 else ''}": residual_steps(grid.flatten(0, 1), n)[-1].view_as(
            grid
        )
        for n in (1, 8)
    },
    finer=4,
    title="One long step folds the plane over (black), eight short ones bend it",
)
plt.show()

# %% [markdown]
# The same field, in one step (middle) and in eight (right). Black cells have been turned over: their determinant is
# negative, points there share a $z$ with points elsewhere, and there is no inverse. In eight steps nothing folds.
#
# The Jacobian of a step is $I + h\,\partial f/\partial x$. For short steps its log-determinant is nearly
# $h \operatorname{tr} \partial f/\partial x$. Both sums as $N$ grows:

# %%
x = 1.5 * torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
identity = torch.eye(2, dtype=torch.float64)


def sums(steps):
    """Σ log|det(I + h J)| and Σ h tr J along the residual steps, and the least det of a step."""
    determinants, traces = [], []
    for state in residual_steps(x, steps)[:-1]:
        J = jacobian(field, state)
        determinants.append(torch.linalg.det(identity + J / steps))
        traces.append(J.diagonal(dim1=1, dim2=2).sum(1) / steps)
    determinants, traces = torch.stack(determinants), torch.stack(traces)
    return determinants.abs().log().sum(0), traces.sum(0), determinants.min().item()


counts = [1, 2, 4, 8, 16, 32, 64, 128, 256]
results = {n: sums(n) for n in counts}
gaps = [(results[n][0] - results[n][1]).abs().mean().item() for n in counts]
print("   N   least det of a step   mean |Σ log det − Σ h tr|")
for n, gap in zip(counts, gaps, strict=True):
    print(f"{n:4d}   {results[n][2]:19.2f}   {gap:25.4f}")
print(f"\ntwice the steps: the difference falls by a factor of {gaps[-2] / gaps[-1]:.2f}")

# %% [markdown]
# With one or two steps some determinants are negative; from four on all are positive. ($h\,\mathrm{Lip}(f) < 1$ is enough
# for an inverse.) And the sum of log-determinants converges to the sum of traces, with a difference that falls like
# $1/N$. In the limit:
#
# ## 4. The instantaneous change of variables
#
# **Theorem** (Chen et al. 2018). If $dx/dt = f(x, t)$ with $f$ smooth, then along every particle's path
#
# $$\frac{d \log p(x(t), t)}{dt} = -\operatorname{tr} \frac{\partial f}{\partial x}.$$
#
# **Proof.** A short time $h$ carries $x$ to $x + h f + O(h^2)$, whose Jacobian is
# $I + h J + O(h^2)$ with $J = \partial f/\partial x$.
#
# 1. The change of variables: $\log p(x(t+h), t+h) = \log p(x(t), t) - \log|\det(I + hJ + O(h^2))|$.
# 2. Expand the determinant in products. The product of the diagonal gives $1 + h \operatorname{tr} J
#    + O(h^2)$; every other product has at least two factors from off the diagonal, hence $h^2$.
# 3. So $\log|\det(I + hJ + O(h^2))| = h \operatorname{tr} J + O(h^2)$.
# 4. Subtract, divide by $h$, let $h \to 0$. ∎
#
# A trace costs $d$ derivatives in place of $d^3$ operations, and $f$ may be *any* smooth network, since an ODE whose
# field is Lipschitz can always be run back.
#
# **Exercise 3. The rate.** `f` is a function of `x` $(B, d)$. Return $-\operatorname{tr} \partial f/
# \partial x$, $(B,)$. You may use `jacobian` from section 1, or take one gradient per coordinate.


# %% tags=["exercise"]
def log_p_rate(f, x):
    return None  # your answer


# %% tags=["check"]
exercises.check_log_p_rate(log_p_rate)


# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def log_p_rate(f, x):
#     x = x.clone().requires_grad_()
#     rows = [torch.autograd.grad(each.sum(), x, retain_graph=True)[0] for each in f(x).unbind(1)]
#     return -sum(row[:, i] for i, row in enumerate(rows))
# ```
#
# </details>

# %% [markdown]
# A check in one dimension: $f(x) = x^3 - x$. Run from the noise end, particles move by $-f = x - x^3$, away from 0
# and towards $+1$ and $-1$: **one cloud becomes two**. With $\tau = T - t$ for the time spent, a particle that starts at $z$ is at
#
# $$x = \frac{z\,e^\tau}{\sqrt{1 - z^2 + z^2 e^{2\tau}}},
# \qquad \frac{dx}{dz} = \frac{e^\tau}{(1 - z^2 + z^2 e^{2\tau})^{3/2}},$$
#
# so the exact density is known, $\log p(x, t) = \log\mathcal N(z) - \log dx/dz$. We compare it, along the paths of
# particles, with $\log \mathcal N(z)$ plus the **integral of the trace**, in 400 steps of Runge–Kutta.

# %%
T = 3.0
times = torch.linspace(0, T, 401, dtype=torch.float64)


def cubic(x):
    return x**3 - x


def position(z, t):
    growth = torch.exp(T - t)
    return z * growth / torch.sqrt(1 - z**2 + z**2 * growth**2)


def exact_log_p(z, t):
    growth = torch.exp(T - t)
    log_stretch = growth.log() - 1.5 * torch.log(1 - z**2 + z**2 * growth**2)
    return -0.5 * z**2 - 0.5 * math.log(2 * math.pi) - log_stretch


def trace_log_p(z):
    """Position and log p at every time, from t = T back to 0 by Runge–Kutta, (401, B) each."""
    x, log_p = z[:, None], -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    xs, log_ps, h = [x[:, 0]], [log_p], T / 400
    for _ in range(400):
        stages, x_k = [], x
        for ahead in (0.5, 0.5, 1.0, 0.0):
            stages.append((-cubic(x_k), (3 * x_k**2 - 1).sum(1)))  # tr ∂f/∂x; time runs back
            x_k = x + ahead * h * stages[-1][0]
        for (dx, dlog_p), weight in zip(stages, (1, 2, 2, 1), strict=True):
            x, log_p = x + weight * h / 6 * dx, log_p + weight * h / 6 * dlog_p
        xs.append(x[:, 0])
        log_ps.append(log_p)
    return torch.stack(xs[::-1]), torch.stack(log_ps[::-1])


z = torch.tensor([-1.6, -0.7, -0.2, -0.03, 0.0, 0.1, 0.4, 1.1], dtype=torch.float64)
x_traced, by_trace = trace_log_p(z)
by_formula = exact_log_p(z, times[:, None])
off = (by_trace - by_formula).abs().max()
verdict("integral of the trace against exact, largest error", off, "nats", form=".0e", below=1e-6)

# %%
starts = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
background = torch.stack([torch.histc(position(starts, t), 110, -2.2, 2.2) for t in times[::8]], 1)
with figures.style():
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    left.imshow(
        background.sqrt(), extent=(0, T, -2.2, 2.2), origin="lower", aspect="auto", cmap="Greys",
        vmax=150,
    )  # fmt: skip
    for k in range(len(z)):
        color = figures.MODES[k % len(figures.MODES)]
        left.plot(times, x_traced[:, k], color=color, lw=1.5)
        right.plot(times, by_formula[:, k], color=color, lw=1.5)
        right.plot(times[::40], by_trace[::40, k], "o", color=color, ms=6, mfc="white")
    left.set(xlabel="time t (data left, noise right)", ylabel="x", title="paths of eight particles")
    right.set(xlabel="time t (data left, noise right)", ylabel="log p(x(t), t) [nats]")
    right.set_title("lines: exact formula; circles: integral of the trace")
    figure.suptitle("The integral of the trace is log p along a path, to a millionth of a nat")
plt.show()

# %% [markdown]
# Left: the paths of eight particles over the density (grey), one cloud at the right, two at the left. Right: $\log p$
# along each of them; the circles lie on the lines. From right to left, from noise to data, the particle in the middle
# ($z = 0$) loses density all the time, $T$ nats in all, since $\operatorname{tr}$ there is $-1$: **the field spreads its
# neighbours**. It never reaches $-\infty$.
#
# ## 5. FFJORD on rings
#
# Replace $f$ by a network, train it by $-\log p(x) = -\log\mathcal N(x_T) - \int_0^T
# \operatorname{tr}\frac{\partial f}{\partial x}\,dt$, and you have FFJORD, the continuous normalizing
# flow (CNF). In many dimensions the trace is estimated with random vectors, $\mathbb E\, u^\top J u
# = \operatorname{tr} J$ if $\mathbb E\, u u^\top = I$ (Hutchinson); in the plane we take it exactly. Here are shipped models
# with about 90 thousand weights each, made by these commands:

# %%
density = toy.load("olympic_rings", width=0.01)
models = {
    "coupling flow": pretrained("coupling", "olympic_rings"),
    "CNF": pretrained("cnf", "olympic_rings"),
}
for name, model in models.items():
    card = model.card
    print(f"{name:13s}  {card['command']}, {card['seconds']:.0f} s")

x = density.sample(3000, seed=1)
way = models["CNF"].encode(x, times=torch.linspace(0, 1, 9))
print(f"calls of the CNF's network on the way: about {round(models['CNF'].evaluations, -1)}")
figures.film_strip(
    way,
    color=density.mode,
    steps=5,
    title="The CNF bends rings into a Gaussian, and every arc keeps its neighbours",
    most=3000,
)
plt.show()

# %% [markdown]
# From data (left) to noise (right), coloured by ring. **Explain** what you see at the right end. The cloud has the size of
# a Gaussian, and yet the rings can still be recognised: every arc between crossings has become a region of its own, and
# regions touch where arcs met. The particles of an ODE cannot pass through each other, so neighbours stay neighbours.
#
# Now the other way, both flows from the *same* noise. Click a particle to follow it:

# %%
models["CNF"].frames = 8  # as many as the coupling flow has layers
samples = {name: model.sample(2000, seed=0) for name, model in models.items()}
play(
    samples,
    color=density.mode,
    direction="backward",
    title="Two flows from the same noise: layers jump, the ODE glides",
    grid=models,
)

# %% [markdown]
# The coupling flow's particles jump, one layer at a time; the CNF's move along smooth paths. Switch on *grid* in the
# player: a square lattice on the data is carried along. Its cells shrink and grow but never fold or overlap.

# %%
table = {name: metrics.evaluate(model, density, n=2000) for name, model in models.items()}
print(f"{'':15s}gap [nats]    leak    sliced W2")
for name, row in table.items():
    print(f"{name:13s}  {row['gap']:10.1f}  {row['leak']:6.0%}  {row['sliced_w2']:11.2f}")
figures.samples_against_truth(
    {name: path.start for name, path in samples.items()},
    density,
    color=density.mode,
    title="Between the rings: filaments",
)
plt.show()

# %% [markdown]
# Data, and samples of both flows over the data in grey. The CNF's rings are thinner. That compares training as much as
# kinds: after one minute each, the coupling flow leaks 39%<!-- from toy cells.coupling-8.olympic_rings.leak.mean --> and
# the CNF 40%<!-- from toy cells.cnf.olympic_rings.leak.mean -->. Sliced W2 hardly tells them apart: it sees how far mass
# is out of place, not whether a ring is thin. *Both* leave particles where no data is, near the crossings and between the
# rings. Why there?
#
# ## 6. What no bijection can do
#
# A flow $G = F^{-1}$ is continuous and carries *one* cloud to the data. Data in two separate pieces would need a *cut*, and
# a continuous map makes none: a path in the noise from what goes left to what goes right is carried to a path from the
# left piece to the right one, a bridge. All a flow can do is to make the bridge thin, by stretching the noise around
# the seam. How thin?
#
# Let $L$ be the **Lipschitz constant** of $G$: no two points get farther apart than $L$ times their
# distance. Take two pieces of equal mass, at distance $D$ from each other. What goes left and what goes right are at least
# $D/L$ apart in the noise, and everything in between ends in the gap. How little mass can that be? The Gaussian
# isoperimetric inequality (Borell; Sudakov and Tsirelson) says: least if the parts are half spaces, so that the gap is a
# strip around the middle, as wide as it must be.
#
# **Exercise 4. The least leak.** Return the mass of this strip under $\mathcal N(0, 1)$; `D` and `L` are tensors with one
# number. $\Phi$, the distribution function of $\mathcal N(0, 1)$, is `torch.special.ndtr`.


# %% tags=["exercise"]
def least_leak(D, L):
    return None  # your answer


# %% tags=["check"]
exercises.check_least_leak(least_leak)


# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def least_leak(D, L):
#     return 2 * torch.special.ndtr(D / (2 * L)) - 1  # Φ(−a) = 1 − Φ(a)
# ```
#
# </details>

# %% [markdown]
# A coupling flow learns two clouds, from three seeds. At some moments of its training we measure the **leak**, the share of
# samples that fall in the gap $|x_1| < \frac12$ (so $D = 1$), and **L**, the largest singular value of the Jacobian of
# $G$ over a fine lattice of noise, by finite differences.
#
# **Predict:** as training goes on, which way will the two numbers go?


# %%
def stretch(model, z, apart=1e-6):
    """The largest singular value of ∂G/∂z at z (B, 2), G the way from noise to data. Returns (B,)."""
    z = z.double()
    corners = torch.cat([z, z + torch.tensor([apart, 0.0]), z + torch.tensor([0.0, apart])])
    x, right, up = copy.deepcopy(model).double().decode(corners).start.chunk(3)
    return torch.linalg.matrix_norm(torch.stack([right - x, up - x], 2) / apart, ord=2)


draw = torch.Generator().manual_seed(0)
sides = torch.tensor([-1.0, 1.0]).repeat(10_000)
blobs = torch.stack([sides, torch.zeros(20_000)], 1) + 0.1 * torch.randn(20_000, 2, generator=draw)
noise = torch.randn(20_000, 2, generator=draw)
lattice = figures.square_grid(half=3.0, cells=150).flatten(0, 1)
moments = (5, 20, 40, 80, 160, 300, 500)


def train_and_watch(seed):
    """A trained flow, and what was measured on the way: leak and L, (moments,) each."""
    leaks, constants = [], []

    def watch(step, model):
        if step + 1 in moments:
            ends = model.decode(noise).start
            leaks.append((ends[:, 0].abs() < 0.5).double().mean())
            constants.append(stretch(model, lattice).max())

    torch.manual_seed(seed)
    model = CouplingFlow(dim=2, layers=4, hidden=32)
    fit(model, blobs, steps=500, batch_size=256, lr=1e-2, seed=seed, callback=watch)
    return model, torch.stack(leaks), torch.stack(constants)


def law(L):
    """The least leak at D = 1."""
    return 2 * torch.special.ndtr(0.5 / L) - 1


runs = [train_and_watch(seed) for seed in range(3)]
over = torch.stack([leaks / law(constants) for _, leaks, constants in runs])
fallen = max(leaks[-1] / leaks[0] for _, leaks, _ in runs)
verdict("leak over the least leak, the smallest at any moment", over.min(), above=1)
verdict("and of the best flow at the end", over[:, -1].min(), below=1.5)
verdict("leak at the end over that at the start, at most", fallen, below=1)

with figures.style():
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4.4), layout="constrained")
    ends = runs[0][0].decode(noise[:8000])
    pulled = stretch(runs[0][0], ends.end)
    order = pulled.argsort()
    dots = left.scatter(
        *ends.start[order].T, c=pulled[order].log10(), s=4, lw=0, cmap="plasma_r", vmin=-1.2,
        vmax=1.2, rasterized=True,
    )  # fmt: skip
    left.axvspan(-0.5, 0.5, color="0.93", zorder=0, lw=0)
    left.set(xlabel="$x_1$", ylabel="$x_2$", title="samples after training; grey: the gap")
    left.set(xlim=(-1.6, 1.6), ylim=(-0.6, 0.6))
    bar = figure.colorbar(dots, ax=left, extend="both")
    bar.set_ticks([-1, 0, 1], labels=["0.1", "1", "10"])
    bar.set_label("stretch of the noise it came from")
    bar.outline.set_visible(False)
    L = torch.logspace(0, 2.7, 100)
    right.fill_between(L, 1e-4, law(L), color="0.9", lw=0)
    right.plot(L, law(L), color="0.3", lw=1.5)
    right.text(1.2, 0.0025, "no map with this L\ncan leak so little", color="0.25")
    for seed, (_, leaks, constants) in enumerate(runs):
        right.plot(
            constants, leaks, "o-", color=figures.MODES[seed], lw=1.2, ms=5, label=f"seed {seed}"
        )
    right.legend(title=f"{moments[0]} to {moments[-1]} steps", loc="upper right")
    right.set(
        xscale="log", yscale="log", xlim=(1, 500), ylim=(8e-4, 1), xlabel="Lipschitz constant L",
        ylabel="leak [share of samples]", title="no run leaks less than the law allows",
    )  # fmt: skip
    figure.suptitle("To leak less, a flow must stretch more; it never stops leaking")
plt.show()

# %% [markdown]
# Left: samples after training (seed 0), coloured by how far the noise was stretched where they came from. A thin bridge
# crosses the gap, and there the stretch is largest. Right: leak against $L$ for three seeds, both on logarithmic scales;
# no map with this $L$ can reach the grey zone. All begin near $L = 1$ (the identity). The leak falls, but $L$ does not
# simply rise: a flow may stretch in the wrong place first.
#
# What would a smaller leak cost? For large $L$ the strip has the mass $0.4\,D/L$.
# Ten times less leak, ten times the stretch. A network reaches a large $L$ by large weights or many layers, an ODE by a
# large field or a long time; both get harder to train. Rings that cross are in one piece, but the flow must branch at the
# crossings, and a smooth map rounds every corner. Where do the flows of section 5 leak?

# %%
noise = torch.randn(6000, 2, generator=torch.Generator().manual_seed(5))
neighbours = torch.cdist(noise[:2500], noise[:2500]).topk(9, largest=False).indices[:, 1:]
with figures.style():
    figure, panels = plt.subplots(2, 2, figsize=(8, 8.2), layout="compressed")
    for row, (name, model) in zip(panels, models.items(), strict=True):
        ends = model.decode(noise).start
        off, ring = density.leaked(ends), density.mode(ends)
        at_seam = (ring[neighbours] != ring[:2500, None]).any(1)  # 8 neighbours, not one ring
        print(
            f"{name:13s}  L at least {stretch(model, noise[:1500]).max():4.0f},  leak {off.double().mean():4.0%}:  "
            f"{off[:2500][at_seam].double().mean():.0%} at the seams, "
            f"{off[:2500][~at_seam].double().mean():.0%} elsewhere"
        )
        colors = [figures.MODES[k] for k in ring]
        views = (
            (noise, (0.0, 0.0, 3.3)),
            (ends, figures.view_square([density.sample(2000).numpy()])),
        )
        for axes, (points, (x_0, y_0, half)) in zip(row, views, strict=True):
            axes.scatter(*points.T, c=colors, s=5, lw=0, alpha=0.55, rasterized=True)
            axes.scatter(*points[off].T, c="black", s=4, lw=0, rasterized=True)
            axes.set(xlim=(x_0 - half, x_0 + half), ylim=(y_0 - half, y_0 + half))
            axes.set(xticks=[], yticks=[], aspect="equal")
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(name, fontsize=13)
    panels[0, 0].set_title("noise, coloured by the ring it goes to")
    panels[0, 1].set_title("samples; black: off the rings")
    figure.suptitle("What leaks comes from the seams between the regions")
plt.show()

# %% [markdown]
# Left: the noise, coloured by the ring each particle is carried to; right: the samples. Black: particles that miss every
# ring. In the CNF's noise (lower row) the black lies along the borders of the regions, and in the samples in the corners
# where rings cross. The coupling flow's regions (upper row) are narrow strips: more border, more leak. In both, a particle
# whose neighbours go to several rings leaks more than three times as often as the others.
#
# This coupling flow has a larger $L$ than the CNF and leaks more all the same. The law is a limit; stretching in the wrong
# places does not help.
#
# **An open question.** Make the gap of the two clouds wider or narrower (`sides` times 0.7 or 1.5): predict leak and $L$,
# measure, explain.
#
# ## What to remember
#
# - **Change of variables:** $\log p(x) = \log\mathcal N(F(x)) + \log|\det \partial F/\partial x|$:
#   mass moves with the particles, density times area is kept.
# - **Coupling layers** change one half by functions of the other: inverse without inverting a network, log-determinant by
#   a sum.
# - **Many small steps** are an ODE, and the log-determinant becomes the integral of a trace:
#   $d\log p/dt = -\operatorname{tr}\,\partial f/\partial x$. That is FFJORD.
# - **Flows cannot cut.** Between two modes of equal mass at distance $D$ they leak at least
#   $2\Phi(D/(2L)) - 1 \approx 0.4\,D/L$: a tenth of the leak for ten times the Lipschitz constant.
# - **Noise** is a remedy: a process with noise is no bijection.
#
# ## References
#
# - L. Dinh, J. Sohl-Dickstein and S. Bengio, *Density estimation using real NVP*, ICLR 2017
#   (coupling layers: equations 4 to 8).
# - D. Kingma and P. Dhariwal, *Glow*, NeurIPS 2018 (actnorm: section 3.1).
# - R. Chen et al., *Neural ordinary differential equations*, NeurIPS 2018 (the instantaneous change of
#   variables: theorem 1, equation 8).
# - W. Grathwohl et al., *FFJORD*, ICLR 2019 (section 3: the trace, estimated).
# - R. Cornish et al., *Relaxing bijectivity constraints with continuously indexed normalising flows*,
#   ICML 2020 (why the Lipschitz constant must grow).
# - Q. Zhang and Y. Chen, *Diffusion Normalizing Flow*, NeurIPS 2021 (figures 4 and 5: what FFJORD
#   keeps and what it leaks).
#
# **What is next.** With noise, neighbours may go to different rings. To guide them one needs the slope of the density:
# the score, in [notebook 02](02_scores_and_langevin.ipynb). [Notebook 00](00_start_here.ipynb) has the map of the course.
