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
# # Normalizing flows: bend space, keep the books
#
# We bend the plane until five rings become a Gaussian, know the exact density all the way, and find
# out what no amount of bending can do.
#
# ## What you will learn
#
# - The **change of variables**, seen on a grid: where a map stretches areas, the density rises.
# - How a **coupling layer** makes inverse and determinant cheap, built by hand, then trained live.
# - How many small steps become an **ODE**, and the determinant a **trace**: proven in four lines,
#   checked against an exact density.
# - **FFJORD** on crossing rings: the same sentence in continuous time.
# - Why a bijection **cannot tear** one blob into two, and the law that ties its **leak** to its
#   **Lipschitz constant**.
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
# The areas on the picture are those of polygons, by the shoelace formula. Calculus has another
# number: the **determinant** of the Jacobian $\partial F/\partial x$ at the middle of the cell. Let
# us hold one against the other, for the outlined cells and for cells of a hundredth their width:

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
# **Explain.** A smooth map looks linear from close by, and a linear map multiplies every area by its
# determinant. So the small cell agrees to the last digit shown, the large one nearly.
#
# Now put *probability* on the plane. Let $z$ be $\mathcal N(0, I)$ and $x = F^{-1}(z)$. A small cell
# around $x$ holds exactly the mass of the bent cell around $z = F(x)$: mass moves with the particles,
# it is neither made nor lost. So density times area is the same on both sides,
#
# $$p(x)\,dx = \mathcal N(z)\,dz
# \quad\Longrightarrow\quad
# \log p(x) = \log \mathcal N\bigl(F(x);\, 0, I\bigr) + \log\left|\det \frac{\partial F}{\partial x}\right|.$$
#
# That is the **change of variables**. For a chain $F = F_{N-1} \circ \dots \circ F_0$ determinants
# multiply, so their logarithms add up:
# $\log p(x) = \log \mathcal N(z) + \sum_i \log|\det \partial F_i/\partial x_i|$.
#
# **Exercise 1. The density of a chain.** `z` $(B, d)$ is where the particles end, `log_dets`
# $(N, B)$ holds $\log|\det \partial F_i / \partial x_i|$ of every step. Return $\log p(x)$, in nats,
# one number per particle.


# %% tags=["exercise"]
def flow_log_prob(z, log_dets):
    return None  # your answer


# %% tags=["check"]
exercises.check_flow_log_prob(flow_log_prob)


# %% tags=["solution"] jupyter={"source_hidden": true}
def flow_log_prob(z, log_dets):
    normal = -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)
    return normal + log_dets.sum(0)


exercises.check_flow_log_prob(flow_log_prob)

# %% [markdown]
# What density has our whirl made of the Gaussian? And is it one: does it integrate to 1?


# %%
def whirl_log_prob(x):
    log_det = torch.linalg.slogdet(jacobian(whirl, x)).logabsdet
    return flow_log_prob(whirl(x), log_det[None])


line = torch.linspace(-5, 5, 401, dtype=torch.float64)
mass = whirl_log_prob(torch.cartesian_prod(line, line)).exp().sum() * (line[1] - line[0]) ** 2
print(f"mass on [-5, 5] × [-5, 5]: {mass:.4f}")
centre, rim = whirl_log_prob(torch.tensor([[0.0, 0.0], [1.2, 0.0]])).exp()
print(f"density at the centre {centre:.3f}, at distance 1.2 from it {rim:.3f}")

figures.density_map(
    whirl_log_prob,
    extent=3.2,
    resolution=200,
    depth=3.0,
    title="Shrink the middle, and the hill becomes a volcano",
)
plt.show()

# %% [markdown]
# The log density of $x$, dark where it is high: a rim with a dip in the middle. The Gaussian's
# peak is at the centre, but there $F$ shrinks areas, $\det < 1$: what the sampler $F^{-1}$ does is the
# opposite, it spreads the middle thinly over a large area. The mass is 1 without any normalising
# constant to be computed. That is the charm of flows, and it needs two things of $F$: an **inverse**,
# to sample, and a **determinant** that is cheap.
#
# ## 2. Coupling layers
#
# A determinant in $d$ dimensions costs $d^3$ operations, and a neural network has no inverse at all.
# Dinh and others (RealNVP, 2017) avoid both. Cut $x$ in two halves. The first half stays. The second
# is scaled and shifted, by amounts that two networks $s$ and $t$ read off the first:
#
# $$y_1 = x_1, \qquad y_2 = e^{s(x_1)}\, x_2 + t(x_1).$$
#
# **Predict:** to invert this layer, do we have to invert $s$ or $t$?
#
# **Exercise 2. The way back.** Given the halves `y_1` and `y_2`, $(B, d/2)$ each, and the functions
# `s` and `t`, return $x$ $(B, d)$, both halves side by side (`torch.cat([…, …], 1)`).


# %% tags=["exercise"]
def coupling_inverse(y_1, y_2, s, t):
    return None  # your answer


# %% tags=["check"]
exercises.check_coupling_inverse(coupling_inverse)


# %% tags=["solution"] jupyter={"source_hidden": true}
def coupling_inverse(y_1, y_2, s, t):
    x_2 = (y_2 - t(y_1)) * torch.exp(-s(y_1))  # y_1 is x_1
    return torch.cat([y_1, x_2], 1)


exercises.check_coupling_inverse(coupling_inverse)

# %% [markdown]
# Now the determinant. Order the coordinates so that the half that stays comes first. Then the Jacobian is
#
# $$\frac{\partial y}{\partial x} = \begin{pmatrix} I & 0 \\ \ast & \operatorname{diag}
# e^{s(x_1)} \end{pmatrix},$$
#
# triangular: whatever stands in the corner $\ast$ (the derivatives of the networks!) has no say.
#
# **Exercise 3. The log-determinant.** Return $\log|\det \partial y/\partial x|$ for `x_1`
# $(B, d/2)$ and the function `s`, one number per particle.


# %% tags=["exercise"]
def coupling_log_det(x_1, s):
    return None  # your answer


# %% tags=["check"]
exercises.check_coupling_log_det(coupling_log_det)


# %% tags=["solution"] jupyter={"source_hidden": true}
def coupling_log_det(x_1, s):
    return s(x_1).sum(1)


exercises.check_coupling_log_det(coupling_log_det)

# %% [markdown]
# Two layers by hand, with two formulas each in place of networks. The second layer changes the
# coordinate that the first one left alone: **the halves take turns**.


# %%
def s_1(x):
    return 0.7 * torch.sin(2 * x)


def t_1(x):
    return 0.5 * x.square()


def s_2(x):
    return -0.5 * torch.tanh(x)


def t_2(x):
    return torch.sin(x)


def layer_1(x):
    """The second coordinate moves, by what the first says."""
    x_1, x_2 = x.chunk(2, -1)
    return torch.cat([x_1, s_1(x_1).exp() * x_2 + t_1(x_1)], -1)


def layer_2(x):
    """The first coordinate moves, by what the second says."""
    x_1, x_2 = x.chunk(2, -1)
    return torch.cat([s_2(x_2).exp() * x_1 + t_2(x_2), x_2], -1)


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
# Together the two bend in any direction. Inverse and log-determinant, from your functions (or the
# solutions'), against the brute force of a full Jacobian:

# %%
x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
h = layer_1(x)
y = layer_2(h)
log_det = coupling_log_det(x[:, :1], s_1) + coupling_log_det(h[:, 1:], s_2)
brute_force = torch.linalg.slogdet(jacobian(lambda x: layer_2(layer_1(x)), x)).logabsdet
print(f"log-determinants agree to 1e-12: {bool((log_det - brute_force).abs().max() < 1e-12)}")

h_back = coupling_inverse(y[:, 1:], y[:, :1], s_2, t_2).flip(1)  # the halves had changed places
x_back = coupling_inverse(h_back[:, :1], h_back[:, 1:], s_1, t_1)
print(f"back where we were to 1e-12:     {bool((x_back - x).abs().max() < 1e-12)}")

# %% [markdown]
# `CouplingFlow` is this, with a network for $s$ and $t$ in every layer (and one scale and shift per
# coordinate before it, called *actnorm*). Its layers are there to be looked at: `flow.layers[i](x)`
# gives $y$ and the log-determinant, `flow.layers[i].inverse(y)` goes back.
#
# Training is one sentence: **make the data likely.** The loss is the mean of $-\log p(x)$ over the
# data, exact, no bound and no sampling. Six layers, two moons, a few seconds:

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
print(f"less than 0.5 nats missing: {after - moons.entropy() < 0.5}")

# %%
figures.film_strip(
    flow.encode(test),
    color=moons.mode,
    steps=7,
    title="Six layers, six bends: two moons are kneaded into one cloud",
    most=2500,
)
plt.show()

# %% [markdown]
# From data (left) to noise (right), one picture per layer, coloured by the moon a particle started on.
# Every layer rescales and shifts the whole picture (actnorm), then bends it only up and down or only
# left and right. At the right end the cloud is roughly a Gaussian, a little lopsided still, and a seam
# runs through it: the two moons lie side by side, pressed together. Remember the seam.
#
# And backwards, from noise to data. **Predict:** points on either side of the seam are neighbours.
# They belong to different moons. What becomes of a particle *on* the seam?

# %%
figures.samples_against_truth(
    {"coupling flow": flow.sample(5000, seed=0).start},
    moons,
    color=moons.mode,
    title="The seam becomes a bridge between the moons",
)
plt.show()
off = metrics.leak(flow.sample(5000, seed=0).start, moons)
print(f"more than 1 % and less than 8 % of the samples lie off the moons: {0.01 < off < 0.08}")

# %% [markdown]
# Left: the data. Right: samples (coloured) over the data (grey). The moons are there, and so are
# particles that belong to neither, strung between them. Is that too little training, or is there
# something a flow cannot do? Section 6 answers. First, let the layers become infinitely many.
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
# The same field, in one step (middle) and in eight (right). Black cells have been turned over: their
# determinant is negative, points there share a $z$ with points elsewhere, and there is no inverse.
# In eight steps nothing folds.
#
# A step is $I + h\,\partial f/\partial x$ to a small cell. For short steps its log-determinant is
# nearly $h \operatorname{tr} \partial f/\partial x$, so let us watch both sums as $N$ grows:

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
print(f"\ntwice the steps, half the difference, to 5 %: {1.9 < gaps[-2] / gaps[-1] < 2.1}")

# %% [markdown]
# With one or two steps some determinants are negative; from four on all are positive, and they come
# closer to 1 the shorter the step. (Enough for it is $h\,\mathrm{Lip}(f) < 1$: such a residual step
# always has an inverse.) And the sum of log-determinants runs into the sum of traces, with a
# difference that falls like $1/N$. In the limit:
#
# ## 4. The instantaneous change of variables
#
# **Theorem** (Chen et al. 2018). If $dx/dt = f(x, t)$ with $f$ smooth, then along every particle's way
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
# No determinant is left. A trace costs $d$ derivatives in place of $d^3$ operations, and $f$ may be
# *any* smooth network: nothing has to be triangular, since an ODE whose field is Lipschitz can always
# be run back.
#
# **Exercise 4. The rate.** `f` is a function of `x` $(B, d)$. Return $-\operatorname{tr} \partial f/
# \partial x$, $(B,)$. You may use `jacobian` from section 1, or take one gradient per coordinate.


# %% tags=["exercise"]
def log_p_rate(f, x):
    return None  # your answer


# %% tags=["check"]
exercises.check_log_p_rate(log_p_rate)


# %% tags=["solution"] jupyter={"source_hidden": true}
def log_p_rate(f, x):
    return -jacobian(f, x).diagonal(dim1=1, dim2=2).sum(1)


exercises.check_log_p_rate(log_p_rate)

# %% [markdown]
# Believe nothing, check it. In one dimension take $f(x) = x^3 - x$. Run from the noise end, its
# particles move by $-f = x - x^3$ and are pushed away from 0, towards $+1$ and $-1$: **one blob
# becomes two**. With $\tau = T - t$ for the time spent, a particle that starts at $z$ is at
#
# $$x = \frac{z\,e^\tau}{\sqrt{1 - z^2 + z^2 e^{2\tau}}},
# \qquad \frac{dx}{dz} = \frac{e^\tau}{(1 - z^2 + z^2 e^{2\tau})^{3/2}},$$
#
# so the exact density is known, $\log p(x, t) = \log\mathcal N(z) - \log dx/dz$. We hold three numbers
# against each other, along the ways of particles:
#
# - **exact**, by this formula,
# - **trace**: $\log \mathcal N(z)$ plus the integral of the trace, in 400 steps of Runge–Kutta,
# - **finite differences**: follow two particles $10^{-4}$ apart, and see how far apart they get.

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
            stages.append((-cubic(x_k), -log_p_rate(cubic, x_k)))  # minus: time runs back
            x_k = x + ahead * h * stages[-1][0]
        for (dx, dlog_p), weight in zip(stages, (1, 2, 2, 1), strict=True):
            x, log_p = x + weight * h / 6 * dx, log_p + weight * h / 6 * dlog_p
        xs.append(x[:, 0])
        log_ps.append(log_p)
    return torch.stack(xs[::-1]), torch.stack(log_ps[::-1])


z = torch.tensor([-1.6, -0.7, -0.2, -0.03, 0.0, 0.1, 0.4, 1.1], dtype=torch.float64)
x_traced, by_trace = trace_log_p(z)
by_formula = exact_log_p(z, times[:, None])
apart = position(z + 5e-5, times[:, None]) - position(z - 5e-5, times[:, None])
by_differences = -0.5 * z**2 - 0.5 * math.log(2 * math.pi) - torch.log(apart / 1e-4)

print(
    f"trace against exact, largest error below 1e-6:    {(by_trace - by_formula).abs().max() < 1e-6}"
)
print(
    f"differences against exact, largest below 1e-3:    {(by_differences - by_formula).abs().max() < 1e-3}"
)

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
    left.set(xlabel="time t (data left, noise right)", ylabel="x", title="ways of eight particles")
    right.set(xlabel="time t (data left, noise right)", ylabel="log p(x(t), t) [nats]")
    right.set_title("lines: exact formula; circles: integral of the trace")
    figure.suptitle("The trace keeps the books: log p along a way, to a millionth of a nat")
plt.show()

# %% [markdown]
# Left: the ways of eight particles over the density (grey), one blob at the right, two at the left.
# Right: $\log p$ along each of them. The circles lie on the lines. Read it from right to left, from noise
# to data: near a bump a particle gains density, on the way there it may lose some. The one in the middle ($z = 0$)
# loses it all the way: **the field spreads its neighbours out, and they thin**. The middle line ($z = 0$) falls by $T$ nats exactly, since $\operatorname{tr}$
# there is $-1$ at all times. It falls, but it never reaches $-\infty$: hold that thought.
#
# ## 5. FFJORD on rings
#
# Replace $f$ by a network, train it by $-\log p(x) = -\log\mathcal N(x_T) - \int_0^T
# \operatorname{tr}\frac{\partial f}{\partial x}\,dt$, and you have FFJORD, the continuous normalizing
# flow (CNF). In many dimensions the trace is estimated with random vectors, $\mathbb E\, v^\top J v
# = \operatorname{tr} J$; in the plane we take it exactly. `CNF` is in the library. It learns slowly on a
# CPU, so here are shipped models with about 90 thousand weights each, a coupling flow after a minute of
# training and a CNF after several, made by these commands:

# %%
density = toy.load("olympic_rings", width=0.01)
models = {
    "coupling flow": pretrained("coupling", "olympic_rings"),
    "CNF": pretrained("cnf", "olympic_rings"),
}
for name, model in models.items():
    card = model.card
    print(f"{name:13s}  {card['command']}   ({card['machine']})")

# %%
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
# From data (left) to noise (right), coloured by ring. **Explain** what you see at the right end. The
# cloud has the size of a Gaussian, and yet the plan of the rings is still legible: the crossings cut
# the rings into arcs, every arc has been thickened into a region of its own, and regions touch where
# arcs met. An ODE's particles cannot pass through each other, so neighbours stay neighbours. The
# paper says that FFJORD keeps the shape of the rings in the noise; here you see it.
#
# Now the other way, and both flows from the *same* noise. Scrub, and click a particle to follow it:

# %%
models["CNF"].frames = 8  # as many as the coupling flow has layers
samples = {name: model.sample(2000, seed=0) for name, model in models.items()}
same = torch.equal(samples["coupling flow"].end, samples["CNF"].end)
print(f"both start from the same particles: {same}")
play(
    samples,
    color=density.mode,
    direction="backward",
    title="Two flows from the same noise: layers jump, the ODE glides",
    grid=models,
)

# %% [markdown]
# The player shows 2000 particles of each flow travelling from noise (right end of the slider) to data
# (left end), coloured by the ring they land on. In the coupling flow's panel they jump, one layer at a
# time; the CNF's glide along smooth paths, and no two are ever in the same place at the same time. Switch on *grid*: a
# square lattice laid on the data, carried along with the particles. Its cells shrink and swell but never fold or overlap.

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
# Data, and samples of both flows over the data in grey. The CNF's rings are thin and nearly clean, the
# coupling flow's are smeared. That compares training as much as kinds: after one minute each the two leak
# alike (39 % and 40 %, `benchmarks/toy.py`, three seeds). Sliced W2 does not tell them apart: it sees how far mass is
# out of place, not whether a ring is thin. But *both* leave particles where no data is, and for both these are not scattered like
# dust: they gather where rings cross and in between, in clouds and threads. Why there?
#
# ## 6. What no bijection can do
#
# A flow $G = F^{-1}$ is continuous and carries *one* blob to the data. Data in two pieces, say two
# blobs a distance apart, would need a *tear*, and continuous maps do not tear. A path in the noise from
# what goes left to what goes right is carried to a path from the left blob to the right one: there
# is always a bridge. All a flow can do is to make it thin, by stretching the noise around the seam
# as far as it can. How thin?
#
# Let $L$ be the **Lipschitz constant** of $G$: no two points get farther apart than $L$ times their
# distance. Two blobs of equal mass, at distance $D$ from each other. Then what goes left and
# what goes right are at least $D/L$ apart in the noise, and everything in between ends in the gap. How
# little mass can the gap have? The Gaussian isoperimetric inequality (Borell; Sudakov and Tsirelson)
# says: least if the parts are half spaces. With equal masses, the gap is then the strip
# $-\frac{D}{2L} < z < \frac{D}{2L}$ around the middle (slightly unequal masses change it in second
# order only), and
#
# $$\text{leak} \;\ge\; \Phi\Bigl(\frac{D}{2L}\Bigr) - \Phi\Bigl(-\frac{D}{2L}\Bigr),$$
#
# with $\Phi$ the distribution function of $\mathcal N(0, 1)$, `torch.special.ndtr`.
#
# **Exercise 5. The least leak.** Return the right-hand side; `D` and `L` are tensors with one number.


# %% tags=["exercise"]
def least_leak(D, L):
    return None  # your answer


# %% tags=["check"]
exercises.check_least_leak(least_leak)


# %% tags=["solution"] jupyter={"source_hidden": true}
def least_leak(D, L):
    return 2 * torch.special.ndtr(D / (2 * L)) - 1  # Φ(−a) = 1 − Φ(a)


exercises.check_least_leak(least_leak)

# %% [markdown]
# The map of section 4 obeys it: it is steepest in the middle, with slope $L = e^T$, and there the
# density thins like $1/L$, never to nothing.
#
# Let us watch a coupling flow learn two blobs, from three seeds, and measure two numbers at moments of
# its training: the **leak**, the share of samples that fall in the gap $|x_1| < \frac12$ (so
# $D = 1$), and **L**, the largest stretch over a fine lattice of noise: the largest singular value of
# the Jacobian of $G$, by finite differences in float64.
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


runs = [train_and_watch(seed) for seed in range(3)]
D = torch.tensor(1.0)
lawful = all((leaks >= least_leak(D, constants)).all() for _, leaks, constants in runs)
at_end = torch.stack([leaks[-1] / least_leak(D, constants[-1]) for _, leaks, constants in runs])
print(f"no seed at no moment leaks less than the law allows:  {lawful}")
print(f"the best ends within a half of the least leak:        {bool(at_end.min() < 1.5)}")
print(
    f"all leak less than at the start, and stretch further: {all(a[-1] < a[0] and b[-1] > b[0] for _, a, b in runs)}"
)

# %%
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
    right.fill_between(L, 1e-4, least_leak(D, L), color="0.9", lw=0)
    right.plot(L, least_leak(D, L), color="0.3", lw=1.5)
    right.text(1.2, 0.0025, "no map with this L\ncan leak so little", color="0.25")
    for seed, (_, leaks, constants) in enumerate(runs):
        right.plot(
            constants, leaks, "o-", color=figures.MODES[seed], lw=1.2, ms=5, label=f"seed {seed}"
        )
    right.legend(title=f"{moments[0]} to {moments[-1]} steps", loc="upper right")
    right.set(
        xscale="log", yscale="log", xlim=(1, 500), ylim=(8e-4, 1), xlabel="Lipschitz constant L",
        ylabel="leak [share of samples]", title="two of three runs reach the edge of the possible",
    )  # fmt: skip
    figure.suptitle("To leak less, a flow must stretch more; it never stops leaking")
plt.show()

# %% [markdown]
# Left: samples after training (seed 0), coloured by how far the noise was stretched where they came
# from. A filament spans the gap, and it is where the stretch is largest. Right: leak against $L$ for
# three seeds, both on logarithmic scales; the grey zone is what no map with this $L$ can reach. All
# begin near $L = 1$ (the identity), on the edge. The leak falls all the way, but $L$ does not simply rise: seeds 0
# and 1 first stretch far in the wrong place, then find the right one and end not far above the least
# leak for their $L$. Seed 2 still wastes its stretch and leaks several times the least. None has crossed the
# edge; none can.
#
# What would a smaller leak cost? Solve the law for $L$:

# %%
for wanted in (0.1, 0.01, 0.001, 0.0001):
    needed = 1 / (2 * torch.special.ndtri(torch.tensor((1 + wanted) / 2, dtype=torch.float64)))
    print(f"leak {wanted:7.2%}: L at least {needed:7.0f}")

# %% [markdown]
# Ten times less leak, ten times the stretch. A network reaches a large $L$ by large weights or many
# layers, an ODE by a large field or a long time ($L = e^T$ in section 4); both get harder to train
# and to integrate. And rings? A single ring is in one piece, so the law asks nothing of it: bend the blob
# into a C whose ends nearly meet, and no particle need leave the ring. Five rings that cross are harder: the
# flow must cut them and branch at the crossings, and a smooth map rounds every corner. Where do the
# flows of section 5 leak?

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
# Left: the noise, coloured by the ring each particle is carried to; right: the samples. Black, on both
# sides: particles that miss every ring. In the CNF's noise the regions are tidy, like countries on a
# map, and the black runs along their borders; at the right it fills the corners where rings cross. The
# coupling flow's regions are interleaved strips: more border, more leak. In both, a particle whose
# neighbours go to several rings leaks more than three times as often as the others.
#
# Note the two $L$: this coupling flow stretches *more* than the CNF and leaks more all the same. The law
# says what no map can beat; stretching in the wrong places is allowed, and helps nobody.
#
# ## What to remember
#
# - **Change of variables:** $\log p(x) = \log\mathcal N(F(x)) + \log|\det \partial F/\partial x|$:
#   mass moves with the particles, density times area is kept.
# - **Coupling layers** change one half by what the other says: inverse without inverting a network,
#   log-determinant for the price of a sum.
# - **Many small steps** are an ODE, and the log-determinant becomes the integral of a trace:
#   $d\log p/dt = -\operatorname{tr}\,\partial f/\partial x$. That is FFJORD.
# - **Flows cannot tear.** Between two modes of equal mass at distance $D$ they leak at least
#   $2\Phi(D/2L) - 1 \approx 0.4\,D/L$: a tenth of the leak for ten times the Lipschitz constant.
# - The way out is **noise**: a process that shakes its particles is no bijection.
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
# **What is next.** A process that trembles may send neighbours to different rings. To steer it we
# need to know which way is up on the density: the score, in
# [notebook 02](02_scores_and_langevin.ipynb). The [map of the course](00_start_here.ipynb) shows the
# way.
