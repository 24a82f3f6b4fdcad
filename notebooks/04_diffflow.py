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
# # DiffFlow: two SDEs, one loss
#
# We see why a learned drift helps, write the model on one page, check every sign with a number, and train it in seconds.
#
# ## What you will learn
#
# - **Why a learned drift helps**: what the best Gaussian backward step costs, in nats.
# - How a forward and a backward SDE **share one drift**, in steps, **with the right signs**.
# - The loss, derived line by line from the KL divergence between *paths*, **with its constant**.
# - **DiffFlow on one page** of plain torch: model, loss, training loop, sampler.
# - Where the learned drift pays against a diffusion with the same number of steps, and where it does not.
#
# **Time and memory:** about 32 s of processor time, half of it training (slower machines need up to three times that), and 750 MB.
#
# Places marked **fine print** correct a slip of the paper or of lecture slides about it, with a number.

# %%
import math
import time

import matplotlib.pyplot as plt
import torch

from diffflow_edu import (
    DDPM,
    DiffFlow,
    Schedule,
    exercises,
    figures,
    fit,
    metrics,
    play,
    pretrained,
    toy,
)
from diffflow_edu.verdicts import verdict

torch.set_num_threads(1)  # nets this small gain little from a second core
density = toy.load("olympic_rings", width=0.01)

# %% [markdown]
# ## 1. Why learn the drift?
#
# A backward step of every model here is a **Gaussian**. So everything depends on one question: given where a particle
# is after a step, $x_1$, is the distribution of where it came from, $p(x_0 \mid x_1)$, nearly Gaussian? For a small step
# it is (notebook 03). Few steps are big steps. Take the biggest, *one* step from data to noise, on a line, where
# everything can be computed on a grid. The data are two humps at ±1, and $x_1 = m(x_0) + \text{noise} \cdot z$.
#
# A **fixed** drift only scales: $m(x_0)$ is a multiple of $x_0$. A **free** drift may be any function. On a line a very
# good one is known: the increasing map that turns the data into a Gaussian, $\Phi^{-1}(F(x_0))$ with the
# distribution functions $F$ of the data and $\Phi$ of $\mathcal N(0, 1)$. Both are scaled so that $x_1$ has variance 1.
#
# Two costs count, both in nats. The **step**: the mean over $x_1$ of $\mathrm{KL}(p(x_0 \mid x_1) \,\|\, \text{best
# Gaussian})$, which is $\frac12 \log(2\pi e \cdot \text{variance})$ minus the entropy. The **end**:
# $\mathrm{KL}(p(x_1) \,\|\, \mathcal N(0, 1))$, since the sampler starts from $\mathcal N(0, 1)$. Their sum is the gap of
# the best one-step model.
#
# **Predict:** with little noise, which of the two costs does the fixed drift pay? And with much noise?


# %%
def normal(x, std):
    return torch.exp(-0.5 * (x / std) ** 2) / (std * math.sqrt(2 * math.pi))


x_0 = torch.linspace(-2.2, 2.2, 1201, dtype=torch.float64)
x_1 = torch.linspace(-4.5, 4.5, 451, dtype=torch.float64)
d_0, d_1 = x_0[1] - x_0[0], x_1[1] - x_1[0]
p_0 = 0.5 * (normal(x_0 - 1, 0.2) + normal(x_0 + 1, 0.2))
F = 0.5 * (torch.special.ndtr((x_0 - 1) / 0.2) + torch.special.ndtr((x_0 + 1) / 0.2))
drifts = {"fixed": x_0 / math.sqrt(1 + 0.2**2), "free": torch.special.ndtri(F)}


def one_step(drift, noise):
    """p(x_0|x_1) as rows, the best Gaussians, the cost of each, and the mean costs of step and end."""
    m = math.sqrt(1 - noise**2) * drifts[drift]
    joint = normal(x_1[:, None] - m, noise) * p_0
    p_1 = (joint.sum(1) * d_0).clamp(min=1e-300)
    rows = joint / p_1[:, None]
    mean = (rows * x_0).sum(1) * d_0
    variance = ((rows * x_0**2).sum(1) * d_0 - mean**2).clamp(min=1e-12)
    best = normal(x_0 - mean[:, None], variance.sqrt()[:, None])
    cost = 0.5 * (2 * math.pi * math.e * variance).log() + torch.xlogy(rows, rows).sum(1) * d_0
    end = (p_1 * (p_1 / normal(x_1, 1.0)).log()).sum() * d_1
    return rows, best, cost, (p_1 * cost).sum().item() * d_1.item(), end.item()


noises = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 0.95)
costs = {drift: [one_step(drift, noise)[3:] for noise in noises] for drift in drifts}
print("noise    fixed: step    end    sum     free: step    end    sum")
for noise, fixed, free in zip(noises, costs["fixed"], costs["free"], strict=True):
    cells = "         ".join(f"{a:5.2f}  {abs(b):5.2f}  {a + b:5.2f}" for a, b in (fixed, free))
    print(f"{noise:5.2f}          {cells}")

# %%
panels = []
for drift, noise, at in (("fixed", 0.95, 0.5), ("free", 0.05, 0.5), ("free", 0.05, 0.0)):
    rows, best, cost, *_ = one_step(drift, noise)
    i = (x_1 - at).abs().argmin()
    name = f"{drift} drift, noise {noise}:\nfrom $x_1$ = {at}"
    panels.append(figures.Reversal(name, x_0, rows[i], best[i], cost[i].item()))
figures.reversals(
    panels, title="Two humps for the fixed drift; for the free one, nearly always one"
)
plt.show()
curves = {f"{drift} drift": (noises, [a + b for a, b in costs[drift]]) for drift in drifts}
panel = figures.CurvePanel("noise of the step", "step + end [nats]", curves, log="x")
figures.curve_panels([panel], title="The fixed drift needs noise and pays for it")
plt.show()

# %% [markdown]
# First picture, in grey: where a particle at $x_1$ came from; orange: the best Gaussian for it, and what it costs. Left:
# with a fixed drift and enough noise to reach $\mathcal N(0, 1)$, both humps are possible, and one Gaussian must cover
# them and the gap between them. Middle: with a free drift and little noise there is a single narrow hump, and the
# Gaussian costs nothing. Right: the exception, $x_1 = 0$, where the humps meet; few particles end there. Second
# picture: the sum of both costs against the noise.
#
# **Explain.** With little noise the fixed drift keeps two humps at $x_1$, and pays 0.91 nats at the *end*; with much
# noise the end is right, and it pays 0.93 nats in the *step*. Its best compromise costs 0.34. A free drift carries the
# humps to their places by itself and needs little noise: at 0.05 both costs together are 0.15. That is the idea of
# DiffFlow: **a learned drift makes the reversal of a big step nearly Gaussian.** With many small steps both costs fall
# for either drift, and little is left to gain.
#
# (Without any noise the free drift is a flow, and the panel on the right is its bridge between modes, notebook 01. This
# drift is good for little noise; for much noise others are better, at least the fixed one. The best Gaussian here has its
# own width at every $x_1$; the models below have one width a step and pay more.)
#
# ## 2. Two SDEs in steps
#
# Time runs from data ($t = 0$) to noise ($t = T$). DiffFlow is a pair of SDEs, with the reverse process of notebook 03:
#
# $$dx = f(x, t)\,dt + g(t)\,dw \quad\text{(forward, } p_F), \qquad
# dx = \bigl[f(x, t) - g(t)^2 s(x, t)\bigr]\,dt + g(t)\,dw \quad\text{(backward, } p_B, \text{ from } T \text{ to } 0).$$
#
# If $s$ is the score of the forward particles, and the backward process is *started* from their distribution at $T$,
# the two have the same distributions at every time. A diffusion fixes $f$ and learns $s$; a flow has $g = 0$ and learns
# $f$. **DiffFlow learns both.** For times $0 = t_0 < \dots < t_N = T$, $\Delta t_i = t_{i+1} - t_i$, and $f_i, s_i, g_i$
# the values at $t_i$, the steps are Euler–Maruyama (notebook 02):
#
# $$x_{i+1} = x_i + f_i(x_i)\,\Delta t_i + g_i \sqrt{\Delta t_i}\;\delta^F_i,
# \qquad \delta^F_i \sim \mathcal N(0, I), \tag{11}$$
#
# $$x_i = x_{i+1} - \bigl[f_{i+1}(x_{i+1}) - g_{i+1}^2 s_{i+1}(x_{i+1})\bigr]\Delta t_i
# + g_{i+1}\sqrt{\Delta t_i}\;\delta^B_i. \tag{12}$$
#
# Now somebody hands us a whole path $x_0, \dots, x_N$, made by the *forward* process. Which noise $\delta^B_i$ would the
# *backward* process have needed to take the same path in the other direction? If the $\delta^B_i$ look like draws from
# $\mathcal N(0, I)$, the path is likely for the backward process; if they are large, it is unlikely. That is the heart
# of the method.
#
# **Exercise 1. The backward noise.** Solve equation 12 for $\delta^B_i$ (the paper's equation 15). `f_next`, `s_next`
# and `g_next` are the values at $t_{i+1}$; `dt` and `g_next` are tensors with one number in them.


# %% tags=["exercise"]
def backward_noise(x, x_next, f_next, s_next, dt, g_next):
    return None  # your answer


# %% tags=["check"]
exercises.check_backward_noise(backward_noise)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def backward_noise(x, x_next, f_next, s_next, dt, g_next):
#     return (x - x_next + (f_next - g_next**2 * s_next) * dt) / (g_next * dt.sqrt())
# ```
#
# </details>

# %% [markdown]
# ### Fine print: the signs
#
# Put the forward step (11) into $\delta^B_i$. The positions cancel, and
#
# $$\delta^B_i = -\frac{g_i}{g_{i+1}}\,\delta^F_i + \Bigl[\frac{f_{i+1}(x_{i+1}) - f_i(x_i)}{g_{i+1}}
# - g_{i+1} s_{i+1}(x_{i+1})\Bigr]\sqrt{\Delta t_i}.$$
#
# Lecture slides print it with the overall sign *and* the sign of $s$ turned. **Predict:** the loss below uses
# $\|\delta^B\|^2$ only. Which of the two slips changes it? Twenty steps with made-up fields and a $g$ that varies:

# %%
torch.manual_seed(0)
N, B, d = 20, 1000, 2
times = torch.linspace(0, 1, N + 1, dtype=torch.float64) ** 1.5
g = torch.linspace(0.5, 1.5, N + 1, dtype=torch.float64)
delta_F = torch.randn(N, B, d, dtype=torch.float64)


def drift(x, t):
    return torch.tanh(2 * x.flip(-1) + t)


def score(x, t):
    return torch.sin(3 * x) - x * (1 + t)


model = DiffFlow(drift, score, Schedule.euler(times, g)).double()
x, delta_B, signs, slip = torch.randn(B, d, dtype=torch.float64), [], [], []
for i in range(N):
    t, t_next, root = times[i], times[i + 1], (times[i + 1] - times[i]).sqrt()
    x_next = model.forward_step(x, i, delta_F[i])  # (11)
    delta_B.append(model.backward_noise(x, x_next, i))  # (15)
    carried, s_next = g[i] / g[i + 1] * delta_F[i], score(x_next, t_next)
    kick = (drift(x_next, t_next) - drift(x, t)) / g[i + 1]
    signs.append(-carried + (kick - g[i + 1] * s_next) * root)
    slip.append(carried - (kick + g[i + 1] * s_next) * root)
    x = x_next
delta_B, signs, slip = torch.stack(delta_B), torch.stack(signs), torch.stack(slip)
verdict("the identity is off by at most", (delta_B - signs).abs().max(), form=".0e", below=1e-12)
for name, delta in (
    ("right signs", delta_B),
    ("overall sign turned", -delta_B),
    ("the slip", slip),
):
    print(f"Σ ½‖δB‖², {name:20s} {0.5 * delta.square().sum((0, 2)).mean():.1f} nats")

# %% [markdown]
# **Explain.** The overall sign does not matter, since $\|-\delta\|^2 = \|\delta\|^2$. The sign of $s$ relative to the
# rest does: with the slip one would minimise another number and train the score to point *away* from the data.
#
# ## 3. The loss, line by line
#
# A path $\tau = (x_0, \dots, x_N)$ has a density under either process:
#
# $$p_F(\tau) = p_\text{data}(x_0) \prod_{i=0}^{N-1} p_F(x_{i+1} \mid x_i), \qquad
# p_B(\tau) = p_B(x_N) \prod_{i=0}^{N-1} p_B(x_i \mid x_{i+1}), \qquad
# p_B(x_N) = \mathcal N(x_N; 0, I).$$
#
# **Line 1**, the KL divergence between them; the expectation is over paths of the forward process.
#
# $$\mathrm{KL}(p_F \| p_B) = \mathbb E\bigl[\log p_F(\tau) - \log p_B(\tau)\bigr]$$
#
# **Line 2**, put in the products, and $\mathbb E \log p_\text{data} = -H(p_\text{data})$, the entropy:
#
# $$= -H(p_\text{data}) + \mathbb E\Bigl[-\log p_B(x_N)
# + \sum_{i=0}^{N-1} \bigl(\log p_F(x_{i+1} \mid x_i) - \log p_B(x_i \mid x_{i+1})\bigr)\Bigr] \tag{13}$$
#
# **Line 3**, each step is a Gaussian in $d$ dimensions, and its exponent is its own noise:
#
# $$\log p_F(x_{i+1} \mid x_i) = -\tfrac12\|\delta^F_i\|^2 - d \log\bigl(g_i\sqrt{2\pi\Delta t_i}\bigr),
# \qquad
# \log p_B(x_i \mid x_{i+1}) = -\tfrac12\|\delta^B_i\|^2
# - d \log\bigl(g_{i+1}\sqrt{2\pi\Delta t_i}\bigr)$$
#
# **Line 4**, subtract. The exponents give the loss, the normalisers a constant $C$:
#
# $$= -H(p_\text{data}) + \mathbb E\Bigl[-\log p_B(x_N)
# + \sum_{i=0}^{N-1} \tfrac12\bigl(\|\delta^B_i\|^2 - \|\delta^F_i\|^2\bigr)\Bigr] + C \tag{16}$$
#
# There are $N$ terms (**fine print**: equation 13 in the paper sums one too few). The mean of $\|\delta^F_i\|^2$ is $d$,
# and no parameter changes it; keeping it cancels most of the chance in $\|\delta^B_i\|^2$ and makes the printed loss
# steadier.
#
# What does the number bound? If two processes differ in their paths, they differ at most as much in one state of them, so
# $\mathrm{KL}(p_\text{data} \,\|\, p_B(x_0)) \le \mathrm{KL}(p_F(\tau) \,\|\, p_B(\tau))$. Add the entropy on both sides:
# the bracket plus $C$ is an **upper bound on the mean $-\log p_B(x_0)$**, in nats, and the **gap**, bound − entropy,
# bounds the KL divergence between data and samples.
#
# **Exercise 2. The constant.** Which $C$ do the normalisers of line 3 leave, summed over the steps? `g` is a tensor of
# shape $(N+1,)$, `d` the dimension.


# %% tags=["exercise"]
def log_constant(g, d):
    return None  # your answer


# %% tags=["check"]
exercises.check_log_constant(log_constant)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def log_constant(g, d):
#     # Σ d [log g_{i+1} − log g_i]: only the two ends are left.
#     return d * (g[-1] / g[0]).log()
# ```
#
# </details>

# %% [markdown]
# **Exercise 3. The loss of a batch.** Build it as a loop: walk from `x` $(B, d)$ to the noise by equation 11, find the
# backward noise of every step, and sum up line 4, constant and all. `drift` and `score` are functions of $(x, t)$;
# `times` and `g` have shape $(N+1,)$, `noise` is $\delta^F$, $(N, B, d)$. Return the mean over the batch, one number in
# nats.


# %% tags=["exercise"]
def diffflow_loss(drift, score, times, g, x, noise):
    return None  # your answer


# %% tags=["check"]
exercises.check_diffflow_loss(diffflow_loss)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def diffflow_loss(drift, score, times, g, x, noise):
#     d = x.shape[1]
#     total = d * (g[-1] / g[0]).log()
#     for i in range(len(noise)):
#         t, t_next, dt = times[i], times[i + 1], times[i + 1] - times[i]
#         x_next = x + drift(x, t) * dt + g[i] * dt.sqrt() * noise[i]
#         pull = drift(x_next, t_next) - g[i + 1] ** 2 * score(x_next, t_next)
#         delta_B = (x - x_next + pull * dt) / (g[i + 1] * dt.sqrt())
#         total = total + 0.5 * (delta_B.square() - noise[i].square()).sum(1)
#         x = x_next
#     end = 0.5 * x.square().sum(1) + 0.5 * d * math.log(2 * math.pi)
#     return (end + total).mean()
# ```
#
# </details>

# %% [markdown]
# ### Fine print: the constant
#
# Slides print it as $\log(g_0/g_N)$: sign turned, $d$ missing. Training does not notice, since a constant has no
# gradient. Whoever prints *nats* must get it right. Gaussian data decide: with $x_0 \sim \mathcal N(0, 0.3\,I)$ in two
# dimensions, $f = -x$ and $g$ rising from 0.5 to 1.5, every $x_i$ is Gaussian, $\mathcal N(0, v_i I)$, so the exact
# score $-x/v_i$ is known and so is the truth, $H = \log(2\pi e \cdot 0.3)$.
#
# **Predict:** as $N$ grows, where does the bound go, and where with the sign of the constant turned?

# %%
truth = math.log(2 * math.pi * math.e * 0.3)


def linear_gaussian_bound(steps):
    """The mean bound of the exact model on N(0, 0.3 I), 10 000 paths in float64."""
    times = torch.linspace(0, 4, steps + 1, dtype=torch.float64)
    g = torch.linspace(0.5, 1.5, steps + 1, dtype=torch.float64)
    dt = 4 / steps
    v = [0.3]
    for i in range(steps):
        v.append((1 - dt) ** 2 * v[i] + g[i].item() ** 2 * dt)
    variance = dict(zip(times.tolist(), v, strict=True))
    exact = DiffFlow(
        lambda x, t: -x, lambda x, t: -x / variance[t.item()], Schedule.euler(times, g)
    )
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(1)
    x = torch.randn(10_000, 2, dtype=torch.float64, generator=draw)
    x = math.sqrt(0.3) * x / x.square().mean().sqrt()  # variance 0.3 to the last digit
    with torch.no_grad():
        return exact.double().bound(x).mean().item()


step_counts = [10, 100, 1000]
bounds = [linear_gaussian_bound(steps) for steps in step_counts]
turned = [bound - 2 * 2 * math.log(1.5 / 0.5) for bound in bounds]  # + C made into − C, d = 2

for steps, right, wrong in zip(step_counts, bounds, turned, strict=True):
    print(f"N = {steps:4d}   + d log(g_N/g_0): {right:5.2f}   sign turned: {wrong:5.2f}")
print(f"truth      {truth:.3f} nats")
verdict(
    "least distance above the truth", min(bounds) - truth, "nats", above=0, below=0.02, form=".3f"
)

# %% [markdown]
# **Explain.** With the right constant the bound falls onto the truth from above; with the sign turned it is *below* the
# truth, where no upper bound may be. With the exact score, what is left at small $N$ is the cost of finite steps: the
# reversal of an Euler step is not quite an Euler step. It shrinks like $1/N$.
#
# ## 4. DiffFlow on one page
#
# Everything together, in plain torch: two networks, the steps, the loss of exercise 3, the sampler of notebook 00, and a
# training loop. A test of this repository runs this very cell beside the library's `DiffFlow`, with the same weights
# and the same noise: same loss, same samples.


# %% tags=["one-page"]
class Net(torch.nn.Module):
    """A field (x, t) -> (B, 2): waves of x up to 2⁴, time, two hidden layers; at first zero."""

    def __init__(self, hidden=64):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2 * 11 + 1, hidden), torch.nn.GELU(),
            torch.nn.Linear(hidden, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, 2),
        )  # fmt: skip
        torch.nn.init.zeros_(self.layers[-1].weight)
        torch.nn.init.zeros_(self.layers[-1].bias)

    def forward(self, x, t):
        waves = [wave(2**k * x) for k in range(5) for wave in (torch.sin, torch.cos)]
        return self.layers(torch.cat([x, *waves, t.expand(len(x), 1)], 1))


class Score(Net):
    """A net that predicts minus the noise; over its size √t (where g = 1) that is the score."""

    def forward(self, x, t):
        return super().forward(x, t) / t.sqrt()


class OnePage(torch.nn.Module):
    """DiffFlow on the times t_0 … t_N with the noise g_0 … g_N; fields are called as (x, t)."""

    def __init__(self, drift, score, times, g):
        super().__init__()
        self.drift, self.score, self.times, self.g = drift, score, times, g

    def forward_step(self, x, i, noise):  # (11)
        dt = self.times[i + 1] - self.times[i]
        return x + self.drift(x, self.times[i]) * dt + self.g[i] * dt.sqrt() * noise

    def backward_mean(self, x_next, i):  # (12)
        t, g, dt = self.times[i + 1], self.g[i + 1], self.times[i + 1] - self.times[i]
        return x_next - (self.drift(x_next, t) - g**2 * self.score(x_next, t)) * dt

    def backward_std(self, i):
        return self.g[i + 1] * (self.times[i + 1] - self.times[i]).sqrt()

    def loss(self, x, noise):  # (15), (16), in nats
        d = x.shape[1]
        total = d * (self.g[-1] / self.g[0]).log() + 0.5 * d * math.log(2 * math.pi)
        for i in range(len(noise)):
            x_next = self.forward_step(x, i, noise[i])
            delta_B = (x - self.backward_mean(x_next, i)) / self.backward_std(i)
            total = total + 0.5 * (delta_B.square() - noise[i].square()).sum(1)
            x = x_next
        return (total + 0.5 * x.square().sum(1)).mean()

    @torch.no_grad()
    def sample(self, x, noise):  # from x_N; the step to the data adds no noise
        for i in reversed(range(len(noise))):
            x = self.backward_mean(x, i)
            if i > 0:
                x = x + self.backward_std(i) * noise[i]
        return x


def train(model, data, steps, batch_size=200, lr=1e-2):
    optimizer = torch.optim.Adam(model.parameters(), lr)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = data.sample(batch_size)
        loss = model.loss(x, torch.randn(len(model.g) - 1, *x.shape))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        slower.step()


# %% [markdown]
# Eight Gaussians and eight steps, a few seconds of training. With $g = 1$ the noise of a step is $\sqrt{\Delta t_i}$; we
# let it grow from 0.1 to 0.6.

# %%
torch.manual_seed(0)
eight, N = toy.load("eight_gaussians", width=0.1), 8
steps = torch.logspace(math.log10(0.1), math.log10(0.6), N)  # √Δt
times = torch.cat([torch.zeros(1), steps.square().cumsum(0)])
page = OnePage(Net(), Score(), times, torch.ones(N + 1))
train(page, eight, steps=150)

test, noise = eight.sample(4000, seed=1), torch.randn(N, 4000, 2)
samples = page.sample(torch.randn(4000, 2), noise)
with torch.no_grad():
    bound = page.loss(test, noise).item()
verdict("gap of the page", bound - eight.entropy(), "nats", above=0, below=1.2)
figures.samples_against_truth(
    {"DiffFlow on one page": samples},
    eight,
    color=eight.mode,
    title="One page of torch, a few seconds, eight Gaussians",
)
plt.show()

# %% [markdown]
# Left: the data. Right: samples (colours) over the data (grey).
#
# ## 5. Thin rings, in three acts
#
# Five rings that cross, a hundredth of a radius wide, and twelve steps, now with the library. The noise of a step rises
# from about the width of a ring to 0.4: together too little to turn these rings into $\mathcal N(0, I)$. The drift has to
# carry them.
#
# **Act one:** the drift stays at zero and only the score learns. That is cheap, since any step can be visited directly
# without simulating a path (notebook 03). **Act two:** the loss of line 4, drift and score together, on whole paths, with
# gradients from the stochastic adjoint of notebook 05. `fit(…, warm_start=1000)` does both in one call; here we pause in
# between. **Act three** costs nothing: for a finite step the noise of equation 12 is a little too much or too little, and
# `calibrate` puts in the best value, the root mean square of $x_i$ minus its backward mean.
#
# **Predict:** after act one, what will samples look like that start from $\mathcal N(0, I)$?

# %%
torch.manual_seed(0)
model = DiffFlow.mlp(Schedule.geometric(steps=12, s_min=0.0095, s_max=0.4))
test = density.sample(4000, seed=1)


def measure(model):
    """(mean bound in nats, samples, the forward process) of the model as it is now."""
    with torch.no_grad():
        bound = model.bound(test, seed=0).mean().item()
    return bound, model.sample(4000, seed=0).start, model.encode(test, seed=0)


clock = time.perf_counter()
act_one = fit(DDPM.of(model), density, steps=1000, batch_size=800, lr=1e-2)
print(f"act one took {time.perf_counter() - clock:.1f} s")
first = measure(model)

# %%
clock = time.perf_counter()
act_two = fit(model, density, steps=180, batch_size=250, lr=7e-3)
print(f"act two took {time.perf_counter() - clock:.1f} s")
second = measure(model)
model.calibrate(density.sample(5000, seed=2))
third = measure(model)

entropy = density.entropy()
for act, (bound, x, path) in (("one", first), ("two", second), ("three", third)):
    far, wide = metrics.sliced_w2(x, test), path.end.std(0)
    print(
        f"after act {act:5s}  gap ≈{bound - entropy:.2f} nats   leak ≈{metrics.leak(x, density):.1%}"
        f"   sliced W2 ≈{far:.2f}   noise ≈{wide[0]:.1f} × ≈{wide[1]:.1f}"
    )
verdict("act two lowers the gap by", first[0] - second[0], "nats", above=0)
verdict("act three lowers it by", second[0] - third[0], "nats", above=0.05)
verdict("gap", third[0] - entropy, "nats", above=0, below=1.3)
verdict("leak", metrics.leak(third[1], density), form=".1%", below=0.08)

# %%
figures.film_strip(
    {"act one": first[2], "act two": second[2]},
    color=density.mode,
    title="Without a drift the noise comes out too wide; the drift makes it narrower",
    most=1500,
)
plt.show()
figures.samples_against_truth(
    {"after all three acts": third[1]},
    density,
    color=density.mode,
    title="Seconds of training: thin rings, and a few particles between them",
)
plt.show()

# %% [markdown]
# First picture: the forward process after either act, from data (left) to noise (right). Top row: no drift, the rings
# only blur, and at $t = 1$ the cloud is as wide as the data. A sampler that starts from a *round* cloud starts in the wrong
# places. Bottom row: in the last steps the learned drift presses the cloud from the sides. Second picture: the data, and
# samples after all three acts.
#
# **Explain** the clock: act one evaluates the score at one step a particle. Act two walks all twelve steps, with drift
# and score (notebook 05 counts the network passes). That is the cost of a drift that is not known in advance: where a
# particle is at step $i$, one only knows by walking there.
#
# ## 6. Against a diffusion with the same number of steps
#
# Now converged models, shipped with the package, with the same number of parameters. The DDPMs have a good grid (geometric
# in the noise-to-signal ratio, much better than the usual linear $\beta$), and every model the best backward variance
# for each step. Here we measure on 4000 samples, notebook 00 on 10 000, so the numbers differ slightly.
#
# **Predict:** at which number of steps does the learned drift help most: 5, 10 or 30?

# %%
models = {
    (kind, steps): pretrained(kind, "olympic_rings", steps=steps)
    for steps in (5, 10, 30)
    for kind in ("ddpm", "diffflow")
}
table = {key: metrics.evaluate(each, density, n=4000) for key, each in models.items()}
print("           N    gap [nats]    leak    sliced W2    trained for")
for (kind, steps), row in table.items():
    print(
        f"{kind:9s} {steps:2d}    {row['gap']:8.2f}  {row['leak']:8.1%}    {row['sliced_w2']:7.2f}"
        f"    {models[kind, steps].card['seconds']:9.0f} s"
    )
print(f"data against data                          {table['ddpm', 5]['sliced_w2_floor']:.2f}\n")
ahead = {n: table["ddpm", n]["gap"] - table["diffflow", n]["gap"] for n in (5, 10, 30)}
verdict("N = 5:  DiffFlow is ahead by", ahead[5], "nats", above=0.3)
verdict("N = 10: DiffFlow is ahead by", ahead[10], "nats", above=0.1)
verdict("N = 30: DiffFlow is ahead by", ahead[30], "nats", above=0, below=0.3)

# %%
looks = {"ddpm": "DDPM", "diffflow": "DiffFlow"}
measured = (("gap", "gap: bound − entropy [nats]"), ("leak", "leak [share of samples]"))
panels = []
for quantity, label in measured:
    curves = {
        name: ((5, 10, 30), [table[kind, n][quantity] for n in (5, 10, 30)])
        for kind, name in reversed(looks.items())
    }
    panels.append(figures.CurvePanel("number of steps N", label, curves, log="x"))
figures.curve_panels(panels, title="A learned drift pays most when steps are few")
plt.show()
figures.samples_against_truth(
    {name: models[kind, 5].sample(5000, seed=0).start for kind, name in looks.items()},
    density,
    color=density.mode,
    title="Five steps: DiffFlow leaks a third of what DDPM does",
)
plt.show()

# %% [markdown]
# First picture: the gap (left) and the leak (right) against the number of steps, DiffFlow with blue circles, DDPM with
# orange squares. DiffFlow is ahead at five and ten steps; at thirty the curves come near each other. Second picture: what
# five steps look like, DDPM in the middle and DiffFlow on the right.
#
# **Explain** it with section 1. Five steps are big. DDPM's fixed drift needs much noise to reach $\mathcal N(0, I)$, so a
# backward step has to decide between rings, and a Gaussian cannot. DiffFlow's drift needs less. With thirty
# steps every reversal is nearly Gaussian. (The paper reports a larger difference; it compares with a linear-$\beta$ grid.
# Notebook 06 weighs such claims.)
#
# Now ten steps, and the way to the noise:

# %%
x = density.sample(2000, seed=1)
ways = {name: models[kind, 10].encode(x, seed=0) for kind, name in looks.items()}
figures.film_strip(
    ways,
    color=density.mode,
    title="DDPM mixes the rings, DiffFlow keeps them half apart",
    most=1500,
)
plt.show()
figures.paths_beside(
    ways,
    color=density.mode,
    particles=14,
    behind=density.sample(3000, seed=2),
    title="The same particles: DiffFlow's paths are shorter",
)
plt.show()
for name, path in ways.items():
    length = path.states.diff(dim=0).norm(dim=2).sum(0).mean()
    same = [metrics.mode_survival(path[i], density.mode(x)) for i in (5, 10)]
    print(f"{name:8s}  length of a path {length:.1f}   neighbours from one ring: "
          f"{same[0]:.0%} at step 5, {same[1]:.0%} in the noise")  # fmt: skip

# %% [markdown]
# First picture: forward, $N = 10$, coloured by the ring on which a particle started. In DDPM's noise (top row, right) the
# colours lie on top of each other; in DiffFlow's (bottom row, right) they form regions. Both clouds are close to
# $\mathcal N(0, I)$. Second picture: the paths of fourteen particles, from data (circles) to noise (dots), both panels on
# one scale, the rings in grey. DDPM's last steps are long and go anywhere. DiffFlow's are shorter: less noise, and a drift
# that does the rest. The printed share counts how often the nearest neighbour in the cloud comes from the same ring; by
# chance it would be one in five.
#
# And the way back, to play with. Go slowly through the first five steps from the noise: where does each model
# decide which ring a particle joins?

# %%
play(
    {name: models[kind, 10].sample(2000, seed=0) for kind, name in looks.items()},
    color=density.mode,
    direction="backward",
    density=density,
    title="Ten steps to the data: DiffFlow starts half sorted, DDPM starts mixed",
)

# %% [markdown]
# The player shows 2000 particles of each model on their way from noise to data, coloured by the ring they land on. DDPM
# starts mixed and sorts during the first five steps from the noise; DiffFlow starts half sorted.
#
# **An open question.** Section 5 with `s_max=0.2` or `s_max=0.8`: predict gap and leak, measure, and explain with the
# two costs of section 1.
#
# ## What to remember
#
# - A backward step is Gaussian. **A learned drift needs less noise, so that the reversal of a big step is nearly
#   Gaussian**; that is why it pays at few steps.
# - DiffFlow is **two SDEs with one drift**; the backward one has $f - g^2 s$. Drift and score are learned together.
# - $\delta^B_i$ is the noise that the backward process *would have needed*. The loss makes it look like noise:
#   $-\log p_B(x_N) + \sum \frac12(\|\delta^B_i\|^2 - \|\delta^F_i\|^2) + d\log(g_N/g_0)$.
# - Bound minus entropy bounds the KL divergence between data and samples, in nats.
# - With thirty well-placed steps a plain diffusion comes near.
#
# ## References
#
# - Q. Zhang and Y. Chen, *Diffusion Normalizing Flow*, NeurIPS 2021,
#   [arXiv 2110.07579](https://arxiv.org/abs/2110.07579): the two SDEs in steps (11, 12), the KL
#   divergence of paths (13), the backward noise (15) and the loss (16).
# - J. Ho, A. Jain and P. Abbeel, *Denoising Diffusion Probabilistic Models*, NeurIPS 2020.
# - B. Anderson, *Reverse-time diffusion equation models*, 1982, for why the score appears.
#
# **What is next.** Act two took exact gradients through whole paths while it stored only the states. How that works is notebook 05, how to place the time grid notebook 11; what happens when the noise
# goes to zero is notebook 07 (Theorem 1). The [map of the course](00_start_here.ipynb) shows the way.
