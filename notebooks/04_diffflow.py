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
# We write the model down in four equations, check every sign with a number, and train it in
# seconds on five crossing rings.
#
# ## What you will learn
#
# - Why a forward and a backward SDE can **share one drift**, and what is left to learn.
# - Equations 11, 12 and 15 of the paper as three lines of code, **with the right signs**.
# - The loss, derived line by line from the KL divergence between *paths*, **with the constant**
#   that turns a loss into nats.
# - How to train it live: first the score, then score and drift together.
# - Where the learned drift pays against a diffusion with the same number of steps, and where it
#   does not.
#
# **Time and memory:** about 32 s of processor time, half of it training (slower machines need up to three times that), and 750 MB.
#
# Three places below are marked **fine print**: there the paper, or a well-known write-up of it,
# slips. Where a number can settle the matter, we compute it.

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

torch.set_num_threads(1)  # nets this small gain little from a second core
density = toy.load("olympic_rings", width=0.01)

# %% [markdown]
# ## 1. Two stochastic differential equations
#
# Time runs from data ($t = 0$) to noise ($t = T$). DiffFlow is a pair of processes:
#
# $$dx = f(x, t)\,dt + g(t)\,dw \qquad\text{forward, } p_F$$
#
# $$dx = \bigl[f(x, t) - g(t)^2 s(x, t)\bigr]\,dt + g(t)\,dw \qquad\text{backward, } p_B$$
#
# The **drift** $f$ is a wind that carries particles, $g$ is how strongly they tremble on the way.
# If the **score** $s$ is the gradient of the log density of the forward particles,
# $s = \nabla_x \log p_t(x)$, then the second process, run from $T$ down to $0$, has exactly the
# distributions of the first one at every time. A diffusion fixes $f$ and learns $s$. A flow has
# $g = 0$ and learns $f$. **DiffFlow learns both.**
#
# In one dimension, with two narrow Gaussians as data and $f = -x$, $g = \sqrt 2$, the score is
# known in closed form, so we can watch the pair without training anything.
#
# **Predict** before you run: a particle that started in the upper bump travels to noise. If we
# start a *backward* particle where it ended, will it come back to the upper bump?

# %%
MEAN, STD, T = 1.2, 0.15, 3.0


def log_density(x, t):
    """log p_t(x) of the forward particles: two Gaussians that shrink to 0 while they widen."""
    mean, variance = MEAN * torch.exp(-t), 1 - (1 - STD**2) * torch.exp(-2 * t)
    upper, lower = -((x - mean) ** 2) / (2 * variance), -((x + mean) ** 2) / (2 * variance)
    return torch.logaddexp(upper, lower) - 0.5 * torch.log(8 * math.pi * variance)


def exact_score(x, t):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(log_density(x, t).sum(), x)[0]


grid = Schedule.euler(torch.linspace(0, T, 151), g=math.sqrt(2))
pair = DiffFlow(drift=lambda x, t: -x, score=exact_score, schedule=grid)
draw = torch.Generator().manual_seed(3)
data = MEAN * torch.tensor([1.0, -1.0]).repeat(500)[:, None]
data = data + STD * torch.randn(1000, 1, generator=draw)

forward, backward = pair.encode(data, seed=1), pair.sample(1000, seed=4, shape=(1,))

# %%
levels = torch.linspace(-3.4, 3.4, 120)[:, None]
background = log_density(levels, forward.times[None, 1:]).exp().sqrt()
with figures.style():
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")
    titles = ("forward, $p_F$: f blows, g shakes", "backward, $p_B$: $-g^2s$ brings them home")
    for axes, path, title in zip(panels, (forward, backward), titles, strict=True):
        axes.imshow(
            background, extent=(0, T, -3.4, 3.4), origin="lower", aspect="auto", cmap="Greys"
        )
        for states in path.states[:, :12, 0].T:
            color = figures.MODES[0] if states[0] > 0 else figures.MODES[1]
            axes.plot(path.times, states, color=color, lw=1.2, alpha=0.9)
        axes.set(xlabel="time t (data left, noise right)", title=title)
    panels[0].set_ylabel("x")
    figure.suptitle("One drift, two SDEs: the same distribution at every time")
plt.show()

# %% [markdown]
# Twelve particles a panel. Left: blue ones start in the upper bump, orange ones in the lower, and by
# the right end they are mixed. Right: the particles start in noise, at the right end, and walk to the
# left into the two bumps; the colour tells where they land.
# The grey background, the density $p_t(x)$, is the same in both panels.
#
# **Explain.** A backward particle need *not* return to where "it" came from: the two processes share
# the *distribution* of paths, not single paths. Let us ask the particles:

# %%
spread = (backward.states.std(1) - forward.states.std(1)).abs().max()
upper = [(path.start > 0).float().mean() for path in (forward, backward)]
print(f"same standard deviation at every time, to 0.15: {bool(spread < 0.15)}")
print(f"half of the backward particles land above 0:    {bool((upper[1] - upper[0]).abs() < 0.05)}")

# %% [markdown]
# Here the drift was given, and a good score exists for every drift. So why learn $f$? Because a
# computer takes $N$ steps, not infinitely many, and because some ways out are easier to reverse in
# few steps than others. Now to the steps.
#
# ## 2. Three lines of code
#
# Put times $0 = t_0 < t_1 < \dots < t_N = T$ on the axis, $\Delta t_i = t_{i+1} - t_i$, and write
# $f_i$, $s_i$, $g_i$ for the values at $t_i$. The forward step is Euler–Maruyama,
#
# $$x_{i+1} = x_i + f_i(x_i)\,\Delta t_i + g_i \sqrt{\Delta t_i}\;\delta^F_i,
# \qquad \delta^F_i \sim \mathcal N(0, I). \tag{11}$$
#
# **Exercise 1. Take a step.** Write equation 11. `f` is the drift's value at `x`, `noise` is
# $\delta^F_i$; `dt` and `g` are tensors with one number in them.


# %% tags=["exercise"]
def forward_step(x, f, dt, g, noise):
    return None  # your answer


# %% tags=["check"]
exercises.check_forward_step(forward_step)


# %% tags=["solution"] jupyter={"source_hidden": true}
def forward_step(x, f, dt, g, noise):
    return x + f * dt + g * dt.sqrt() * noise


exercises.check_forward_step(forward_step)

# %% [markdown]
# The backward step starts from $x_{i+1}$ and uses drift, score and $g$ *there*, at $t_{i+1}$:
#
# $$x_i = x_{i+1} - \bigl[f_{i+1}(x_{i+1}) - g_{i+1}^2 s_{i+1}(x_{i+1})\bigr]\Delta t_i
# + g_{i+1}\sqrt{\Delta t_i}\;\delta^B_i. \tag{12}$$
#
# Now turn the question round. Somebody hands us a whole path $x_0, \dots, x_N$, made by the
# *forward* process. Which noise $\delta^B_i$ would the *backward* process have needed to draw to
# walk the same path home? Solve equation 12 for it:
#
# $$\delta^B_i = \frac{x_i - x_{i+1} + \bigl[f_{i+1}(x_{i+1}) - g_{i+1}^2 s_{i+1}(x_{i+1})\bigr]
# \Delta t_i}{g_{i+1}\sqrt{\Delta t_i}} \tag{15}$$
#
# That is the heart of the method. If the path is natural for the backward process, the
# $\delta^B_i$ look like draws from $\mathcal N(0, I)$. If they are large, the backward process finds
# the path absurd.
#
# **Exercise 2. Which noise would bring us home?** Write equation 15. `f_next`, `s_next` and
# `g_next` are the values at $t_{i+1}$. The check knows the popular slips and tells them apart.


# %% tags=["exercise"]
def backward_noise(x, x_next, f_next, s_next, dt, g_next):
    return None  # your answer


# %% tags=["check"]
exercises.check_backward_noise(backward_noise)


# %% tags=["solution"] jupyter={"source_hidden": true}
def backward_noise(x, x_next, f_next, s_next, dt, g_next):
    return (x - x_next + (f_next - g_next**2 * s_next) * dt) / (g_next * dt.sqrt())


exercises.check_backward_noise(backward_noise)

# %% [markdown]
# ### Fine print: the signs
#
# Substitute the forward step (11) into (15). The positions cancel, and
#
# $$\delta^B_i = -\frac{g_i}{g_{i+1}}\,\delta^F_i + \Bigl[\frac{f_{i+1}(x_{i+1}) - f_i(x_i)}{g_{i+1}}
# - g_{i+1} s_{i+1}(x_{i+1})\Bigr]\sqrt{\Delta t_i}.$$
#
# Slides in circulation turn the overall sign *and* the sign of $s$. **Predict:** the loss below uses
# $\|\delta^B\|^2$ only. Which of the two slips does it forgive, and which one not?
#
# We take twenty steps with made-up fields and a $g$ that varies, in float64, and compare.

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


x = [torch.randn(B, d, dtype=torch.float64)]
delta_B, signs, slip = [], [], []
for i in range(N):
    t, t_next, dt = times[i], times[i + 1], times[i + 1] - times[i]
    x.append(forward_step(x[i], drift(x[i], t), dt, g[i], delta_F[i]))  # (11)
    f, f_next, s_next = drift(x[i], t), drift(x[i + 1], t_next), score(x[i + 1], t_next)
    delta_B.append(backward_noise(x[i], x[i + 1], f_next, s_next, dt, g[i + 1]))  # (15)
    carried, kick = g[i] / g[i + 1] * delta_F[i], (f_next - f) / g[i + 1]
    signs.append(-carried + (kick - g[i + 1] * s_next) * dt.sqrt())
    slip.append(carried - (kick + g[i + 1] * s_next) * dt.sqrt())
delta_B, signs, slip = torch.stack(delta_B), torch.stack(signs), torch.stack(slip)

print(f"identity holds to 1e-12: {bool((delta_B - signs).abs().max() < 1e-12)}")
print(f"with the slip it holds:  {bool((delta_B - slip).abs().max() < 1e-12)}")


def half_squares(delta):
    return 0.5 * delta.square().sum(dim=(0, 2)).mean()


print(f"path term, right signs:         {half_squares(delta_B):.1f} nats")
print(f"path term, overall sign turned: {half_squares(-delta_B):.1f} nats")
print(f"path term, the slip:            {half_squares(slip):.1f} nats")

# %% [markdown]
# **Explain.** The overall sign is forgiven, since $\|-\delta\|^2 = \|\delta\|^2$. The sign of $s$
# relative to the rest is not: with the slip one would minimise a different number and train the
# score to point *away* from the data. Our function and the library's are the same, by the way:

# %%
model = DiffFlow(drift, score, Schedule.euler(times, g)).double()
library = torch.stack([model.backward_noise(x[i], x[i + 1], i) for i in range(N)])
print(
    f"DiffFlow.backward_noise is equation 15, to 1e-12: {(library - delta_B).abs().max() < 1e-12}"
)

# %% [markdown]
# ## 3. The loss, line by line
#
# A path $\tau = (x_0, \dots, x_N)$ has a probability under either process:
#
# $$p_F(\tau) = p_\text{data}(x_0) \prod_{i=0}^{N-1} p_F(x_{i+1} \mid x_i), \qquad
# p_B(\tau) = p_B(x_N) \prod_{i=0}^{N-1} p_B(x_i \mid x_{i+1}), \qquad
# p_B(x_N) = \mathcal N(x_N; 0, I).$$
#
# We want the two to agree, and ask for the KL divergence between them:
#
# **Line 1**, the definition; the expectation is over paths of the forward process.
#
# $$\mathrm{KL}(p_F \| p_B) = \mathbb E\bigl[\log p_F(\tau) - \log p_B(\tau)\bigr]$$
#
# **Line 2**, put in the products, and $\mathbb E \log p_\text{data} = -H(p_\text{data})$, the entropy:
#
# $$= -H(p_\text{data}) + \mathbb E\Bigl[-\log p_B(x_N)
# + \sum_{i=0}^{N-1} \bigl(\log p_F(x_{i+1} \mid x_i) - \log p_B(x_i \mid x_{i+1})\bigr)\Bigr] \tag{13}$$
#
# **Line 3**, each step is a Gaussian in $d$ dimensions, and its exponent is just its own noise:
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
# There are $N$ terms, $i = 0 \dots N-1$ (**fine print**: equation 13 in the paper sums one too few).
# The expectation of the $\|\delta^F_i\|^2$ is just $d$ each, and no parameter changes it; keeping
# them cancels most of the chance in the $\|\delta^B_i\|^2$ and makes the printed loss steadier.
#
# **Exercise 3. The constant.** Which $C$ do the normalisers of line 3 leave, summed over the steps?
# `g` is a tensor of shape $(N+1,)$, `d` the dimension. Mind which process has the minus sign.


# %% tags=["exercise"]
def log_constant(g, d):
    return None  # your answer


# %% tags=["check"]
exercises.check_log_constant(log_constant)


# %% tags=["solution"] jupyter={"source_hidden": true}
def log_constant(g, d):
    # Σ d [log g_{i+1} − log g_i] telescopes: only the two ends are left.
    return d * (g[-1] / g[0]).log()


exercises.check_log_constant(log_constant)

# %% [markdown]
# What does this number bound? Forgetting a path's middle can only make two processes harder to
# tell apart, so the divergence between the *data* and the *samples* is at most the divergence
# between the paths:
#
# $$\mathrm{KL}(p_\text{data} \,\|\, p_B(x_0)) \le \mathrm{KL}(p_F(\tau) \,\|\, p_B(\tau)).$$
#
# Add the entropy on both sides: the bracket of line 4 plus $C$ is an **upper bound on the mean
# $-\log p_B(x_0)$**, the negative log likelihood of the model, in nats. That is what
# `DiffFlow.bound` returns for every particle.
#
# **Exercise 4. The bound of a path.** Write $-\log p_B(x_N) + \sum_i \frac12(\|\delta^B_i\|^2
# - \|\delta^F_i\|^2) + C$ for a batch: `x_N` has shape $(B, d)$, the noises $(N, B, d)$, `g`
# $(N+1,)$. Return $B$ numbers. You may call `log_constant`.


# %% tags=["exercise"]
def path_bound(x_N, delta_F, delta_B, g):
    return None  # your answer


# %% tags=["check"]
exercises.check_path_bound(path_bound)


# %% tags=["solution"] jupyter={"source_hidden": true}
def path_bound(x_N, delta_F, delta_B, g):
    dim = x_N.shape[1]
    end = 0.5 * x_N.square().sum(1) + 0.5 * dim * math.log(2 * math.pi)  # −log N(x_N; 0, I)
    steps = 0.5 * (delta_B.square() - delta_F.square()).sum(dim=(0, 2))
    return end + steps + log_constant(g, dim)


exercises.check_path_bound(path_bound)

# %% [markdown]
# Yours, or the solution's, on the paths of section 2, beside the library's:

# %%
ours = path_bound(x[-1], delta_F, delta_B, g)
print(
    f"the same as DiffFlow.bound, to 1e-10: {bool(torch.allclose(ours, model.bound(x[0], delta_F), atol=1e-10))}"
)

# %% [markdown]
# ### Fine print: the constant
#
# Slides in circulation print the constant as $\log(g_0/g_N)$: sign turned, $d$ missing. In training
# nobody notices, since constants have no gradient. Who prints *nats* has to get it right.
#
# Gaussian data can referee: with $x_0 \sim \mathcal N(0, 0.3\,I)$ in two dimensions, the linear drift
# $f = -x$ and $g$ rising from 0.5 to 1.5, every $x_i$ is Gaussian, $\mathcal N(0, v_i I)$, so the
# exact score $-x/v_i$ is known and so is the truth: $H = \log(2\pi e \cdot 0.3) = 1.634$ nats.
#
# **Predict:** as $N$ grows, where does the bound go with the right constant? And how far below the
# truth would the turned sign put it?

# %%
truth = math.log(2 * math.pi * math.e * 0.3)


def linear_gaussian_bound(steps):
    """The mean bound of the exact model on N(0, 0.3 I), 20 000 paths in float64."""
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
    x = torch.randn(20_000, 2, dtype=torch.float64, generator=draw)
    x = math.sqrt(0.3) * x / x.square().mean().sqrt()  # variance 0.3 to the last digit
    with torch.no_grad():
        return exact.double().bound(x).mean().item()


step_counts = [10, 20, 50, 100, 300, 1000]
bounds = [linear_gaussian_bound(steps) for steps in step_counts]
turned = [bound - 2 * 2 * math.log(1.5 / 0.5) for bound in bounds]  # + C made into − C, d = 2

for steps, right, wrong in zip(step_counts, bounds, turned, strict=True):
    if steps in (10, 100, 1000):
        print(f"N = {steps:4d}   + d log(g_N/g_0): {right:5.2f}   sign turned: {wrong:5.2f}")
print(f"truth      {truth:.3f} nats")
print(f"above the truth at every N: {min(bounds) > truth}")
print(f"within 0.02 of it at N = 1000: {bounds[-1] - truth < 0.02}")

# %%
with figures.style():
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    axes.axhspan(-3.3, truth, color="0.94", lw=0)
    axes.axhline(truth, color="0.3", lw=1.2, ls="--")
    axes.semilogx(step_counts, bounds, "o-", color=figures.MODES[0])
    axes.semilogx(step_counts, turned, "s-", color=figures.MODES[1])
    axes.text(10, truth - 0.12, "the truth, 1.634 nats: no bound may go below", va="top")
    axes.text(30, 2.1, "with $+\\,d\\,\\log(g_N/g_0)$", color=figures.MODES[0])
    axes.text(30, -2.25, "with $-\\,d\\,\\log(g_N/g_0)$", color=figures.MODES[1])
    axes.set(xlabel="number of steps N", ylabel="bound [nats]", ylim=(-3.3, 2.7))
    figure.suptitle("With the right constant the bound falls onto the truth")
plt.show()

# %% [markdown]
# Blue circles: the bound with $+\,d \log(g_N/g_0)$ starts at about 2.4 nats for $N = 10$ and falls
# onto the dashed line at 1.634 from above. Orange squares: with the sign turned it ends near −2.75,
# deep in the grey zone where no upper bound may be.
#
# **Explain.** With the exact score, what is left at small $N$ is the price of taking finite steps:
# the time reversal of an Euler step is not quite an Euler step. It shrinks like $1/N$. Remember this
# price; learning $f$ is about making it small at *small* $N$.
#
# ## 4. Train it
#
# Five rings that cross, a hundredth of a radius wide. Twelve steps. The noise of a step rises from
# about the width of a ring to 0.4, and there it stops: all noise together has a standard deviation
# of 0.6, while the data is spread over ±2. Noise alone will never turn these rings into
# $\mathcal N(0, I)$; somebody has to carry them.
#
# We train in two acts. **Act one:** the drift stays at zero and only the score learns, which is
# cheap, since any step can be visited directly without simulating a path (that is DDPM's trick).
# **Act two:** the loss of line 4, drift and score together, on whole paths, with gradients from the
# stochastic adjoint of notebook 05. `fit(…, warm_start=1300)` does both acts in one call; here we
# pause in between to look.
#
# **Predict:** after act one, what will samples look like that start from $\mathcal N(0, I)$?

# %%
torch.manual_seed(0)
model = DiffFlow.mlp(Schedule.geometric(steps=12, s_min=0.0095, s_max=0.4))
test = density.sample(4000, seed=1)


def measure(model):
    """(mean bound in nats, samples) of the model as it is now."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        return model.bound(test).mean().item(), model.sample(4000, seed=0).start


clock = time.perf_counter()
act_one = fit(DDPM.of(model), density, steps=1300, batch_size=800, lr=1e-2)
print(f"act one took {time.perf_counter() - clock:.1f} s")
bound_before, before = measure(model)
way_before = model.encode(test, seed=0)

# %%
clock = time.perf_counter()
act_two = fit(model, density, steps=220, batch_size=250, lr=7e-3)
print(f"act two took {time.perf_counter() - clock:.1f} s")
bound_after, after = measure(model)
way_after = model.encode(test, seed=0)

far_before, far_after = metrics.sliced_w2(before, test), metrics.sliced_w2(after, test)
print(f"act two lowered the bound:                    {bound_before > bound_after}")
print(f"sliced W2 to the data fell by a quarter:      {far_after < 0.75 * far_before}")

# %% [markdown]
# A third act is free. So far the backward noise of step $i$ has the standard deviation that equation
# 12 gives it. For a finite step that is a little too much or too little, and the best value is known
# in closed form: the root mean square of $x_i$ minus its backward mean. `calibrate` puts it in. (The
# chain's general form, with a backward std $b_i$ of its own, has $C = d\sum_i\log(b_i/s_i)$.)

# %%
model.calibrate(density.sample(5000, seed=2))
bound_best, best = measure(model)

entropy = density.entropy()
print(f"act three lowered the bound by more than 0.05 nats: {bound_after - bound_best > 0.05}")
print(f"it is above the entropy of the data, as it must be: {bound_best > entropy}")
print(f"and by less than 1.3 nats:                          {bound_best - entropy < 1.3}")
print(f"leak below 8 %:                                     {metrics.leak(best, density) < 0.08}")

# %%
from types import SimpleNamespace

one, two = len(act_one.loss), len(act_two.loss)
acts = {
    "act one: score only": SimpleNamespace(loss=act_one.loss, steps=range(1, one + 1)),
    "act two: score and drift": SimpleNamespace(
        loss=act_two.loss, steps=range(one + 1, one + two + 1)
    ),
}
figure = figures.loss_curve(acts, title="Once the drift may learn, the loss falls below act one's")
axes = figure.axes[0]
axes.axhline(entropy, color="0.3", lw=1.2, ls="--")
axes.set_ylim(-0.8, 3.5)
axes.text(20, entropy + 0.08, "entropy of the data: no bound may go below", va="bottom")
plt.show()

# %% [markdown]
# The loss against the training step; faint: every batch, strong: the running mean. In act one (blue) it
# falls quickly and then creeps along near 1 nat: the fixed drift leaves the particles in places where
# $\mathcal N(0, I)$ does not expect them, and no score can mend that. Act two (orange) starts
# higher, since the learning rate starts anew, and ends below. It is also the steadier curve: it
# follows whole paths, where act one guesses from one step a particle.
# The dashed line is the entropy, the best there is.

# %%
figures.samples_against_truth(
    {"after act one": before, "after all three": best},
    density,
    color=density.mode,
    title="Seconds of training, five clean rings; the drift fills them evenly",
)
plt.show()

# %% [markdown]
# Grey: the data. Colours: samples, by nearest ring. After act one (middle) the score already pulls
# particles onto thin lines, but deals them out badly: at the far left and the far right the grey data
# shines through, where too few arrived. After all three acts (right) the grey is nearly covered, and
# fewer particles are left between the rings.

# %%
figures.film_strip(
    {"act one": way_before, "act two": way_after},
    color=density.mode,
    title="Without a drift the noise comes out too wide; the drift mends the width",
    most=1500,
)
plt.show()

# %% [markdown]
# The forward process after either act, from data (left) to noise (right). Top: no drift, the rings
# only blur, and at $t = 1$ the cloud is still wider than high, as the data is. A sampler that starts
# from a *round* cloud starts in the wrong places. Bottom: in the last steps the learned drift presses
# the cloud from the sides. Its standard deviations, 1.4 by 0.9 after act one, are now 1.1 by 0.9: the
# width is mended, and the cloud is still a little wider than high. Seconds of training go that far;
# the rest takes minutes, and the models of section 5 had them.
#
# **Explain** the clock: a step of act one costs about 3 network calls a particle (one forward, one
# backward pass worth two), a step of act two about $7N = 84$. That is the price of a drift that is not
# known in advance: nobody can tell where a particle will be at step $i$ without walking there.
#
# ## 5. Against a diffusion with the same number of steps
#
# Now converged models, shipped with the package, with the same number of parameters. The DDPMs trained for
# five minutes or six, the DiffFlows for five to fifteen (more time hardly helps DDPM); the DDPMs have a good grid (geometric in
# the noise-to-signal ratio, much better than the usual linear $\beta$) and every model the best
# backward variance for each step. Here we measure on 4000 samples, notebook 00 on 10 000, so the same
# models show slightly different numbers (sliced W2 most of all: its floor falls as samples are added).
# The command that made the weights is in their `card`:

# %%
models = {
    (kind, steps): pretrained(kind, "olympic_rings", steps=steps)
    for steps in (5, 10, 30)
    for kind in ("ddpm", "diffflow")
}
print(models["diffflow", 10].card["command"])

# %% [markdown]
# **Predict:** at which number of steps does the learned drift help most: 5, 10 or 30?

# %%
table = {key: metrics.evaluate(each, density, n=4000) for key, each in models.items()}
print("           N    gap [nats]    leak    sliced W2")
for (kind, steps), row in table.items():
    print(
        f"{kind:9s} {steps:2d}    {row['gap']:8.2f}  {row['leak']:8.1%}    {row['sliced_w2']:7.2f}"
    )
floor = table["ddpm", 5]["sliced_w2_floor"]
print(f"data against data                          {floor:.2f}")

ahead = {n: table["ddpm", n]["gap"] - table["diffflow", n]["gap"] for n in (5, 10, 30)}
print(f"\nat N = 5 DiffFlow is ahead by more than 0.3 nats: {ahead[5] > 0.3}")
print(f"at N = 10 by more than 0.1:                       {ahead[10] > 0.1}")
print(f"at N = 30 by less than at N = 10, but ahead:      {0 < ahead[30] < ahead[10]}")

# %%
with figures.style():
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    looks = {"ddpm": ("DDPM", "s--"), "diffflow": ("DiffFlow", "o-")}
    for axes, quantity, label in zip(
        panels,
        ("gap", "leak"),
        ("gap: bound − entropy [nats]", "leak [share of samples]"),
        strict=True,
    ):
        for kind, (name, marker) in looks.items():
            values = [table[kind, steps][quantity] for steps in (5, 10, 30)]
            axes.plot((5, 10, 30), values, marker, color=figures.MODELS[name], label=name)
        axes.set_xscale("log")
        axes.set_xticks((5, 10, 30), ("5", "10", "30"))
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set(xlabel="number of steps N", ylabel=label)
    panels[0].legend()
    figure.suptitle("A learned drift pays most when steps are few")
plt.show()

# %% [markdown]
# Two panels against the number of steps: the gap to the perfect bound (left) and the share of
# samples off the rings (right). In the gap, DiffFlow (blue circles) is below DDPM (orange squares) at
# five and at ten steps, and at thirty the curves come near each other. In the leak it is ahead at five and ten; at
# thirty both are so clean that 4000 samples hardly tell them apart.
#
# **Explain.** A backward step is Gaussian. The true reversal of a *small* forward step is nearly
# Gaussian too, whatever the drift, so with many small steps a plain diffusion does fine. Five steps
# have to be large, and then the way out matters: DiffFlow chooses one whose reversal *is* nearly
# Gaussian. (The paper reports a larger difference; it compares with a linear-$\beta$ grid, which
# wastes its steps. Notebook 06 keeps this ledger of claims.)
#
# What five steps look like:

# %%
figures.samples_against_truth(
    {kind: models[key, 5].sample(5000, seed=0).start for key, (kind, _) in looks.items()},
    density,
    color=density.mode,
    title="Five steps: DiffFlow's rings are cleaner",
)
plt.show()

# %% [markdown]
# Data, DDPM and DiffFlow at $N = 5$. DDPM's rings wear a haze of particles that missed, on both sides
# and in the crossings. DiffFlow misses a third as often; a few of its misses fly far.
#
# Now ten steps, and the way out:

# %%
x = density.sample(2000, seed=1)
ways = {
    "DDPM": models["ddpm", 10].encode(x, seed=0),
    "DiffFlow": models["diffflow", 10].encode(x, seed=0),
}
figures.film_strip(
    ways,
    color=density.mode,
    title="DDPM mixes the rings, DiffFlow keeps them half apart",
    most=1500,
)
plt.show()

# %% [markdown]
# Forward, $N = 10$, coloured by the ring a particle started on. In DDPM's noise (top right) the
# colours lie on top of each other, like sprinkles. In DiffFlow's (bottom right) they form regions. Both
# clouds are close to $\mathcal N(0, I)$.

# %%
figures.paths(ways["DDPM"], color=density.mode, particles=40, title="DDPM: a random walk out")
plt.show()
figures.paths(
    ways["DiffFlow"], color=density.mode, particles=40, title="DiffFlow: a guided walk out"
)
plt.show()

# %% [markdown]
# The ways of forty particles, from data (open circles) to noise (dots). DDPM's last steps are long and
# go anywhere, so that the ways of all rings cross. DiffFlow's are shorter and stay in their
# neighbourhood: less noise, and a drift that does the rest.
#
# And the way back, to play with. Scrub slowly through the first five steps from the noise end:
# where does each model decide which ring a particle joins?

# %%
play(
    {
        "DDPM": models["ddpm", 10].sample(2000, seed=0),
        "DiffFlow": models["diffflow", 10].sample(2000, seed=0),
    },
    color=density.mode,
    direction="backward",
    title="Ten steps home: DiffFlow starts half sorted, DDPM starts mixed",
)

# %% [markdown]
# The player shows 2000 particles of each model travelling from noise (right end of the slider) to
# data (left end), coloured by the ring they land on. DDPM starts mixed and sorts
# during the first five steps from the noise end; DiffFlow starts half sorted and has less left to do.
# In numbers, the share of particles whose 15 nearest neighbours give away their ring: DDPM 0.3 in the
# noise and 0.9 after five steps, DiffFlow 0.5 and 0.9. The other five steps draw the rings thin.
#
# Last, all three machines of this course with the *same* particles, on their way out: the flow of notebook 01 (no noise),
# the diffusion of notebook 03 (no learned drift), and DiffFlow between them.
#
# **Predict:** where will the five colours be told apart in the noise, and where not?

# %%
flow = pretrained("cnf", "olympic_rings")
x = density.sample(2000, seed=1)

play(
    {
        "CNF, no noise": flow.encode(x, times=torch.linspace(0, 1, 11)),
        "DiffFlow": models["diffflow", 10].encode(x, seed=0),
        "DDPM, no learned drift": models["ddpm", 10].encode(x, seed=0),
    },
    color=density.mode,
    density=density,
    title="The flow keeps the plan of the rings, DDPM forgets it, DiffFlow stands between",
)

# %% [markdown]
# The player shows the same 2000 points of data in three panels. At the noise end (right) the flow's colours are still
# in pieces with sharp borders, since a flow is continuous and one-to-one, and neighbours stay neighbours; DDPM's are mixed; DiffFlow's overlap,
# each with a region of its own. Click a particle to see the three ways it takes.
#
# ## What to remember
#
# - DiffFlow is **two SDEs with one drift**; the backward one adds $-g^2 s$. Drift and score are
#   learned together.
# - $\delta^B_i$ is the noise the backward process *would have needed*. The loss makes it look like
#   noise: $-\log p_B(x_N) + \sum \frac12(\|\delta^B_i\|^2 - \|\delta^F_i\|^2)$.
# - Signs and constants can be checked in a few lines: the identity holds to $10^{-12}$ with
#   the signs above, and the bound falls onto the truth with $+\,d\log(g_N/g_0)$.
# - Bound minus entropy bounds the KL divergence between data and samples, in nats.
# - The learned drift **pays at few steps**; with thirty well-placed ones a plain diffusion comes near.
#
# ## References
#
# - Q. Zhang and Y. Chen, *Diffusion Normalizing Flow*, NeurIPS 2021,
#   [arXiv 2110.07579](https://arxiv.org/abs/2110.07579): the two SDEs in steps (11, 12), the KL
#   divergence of paths (13), the backward noise (15) and the loss (16).
# - J. Ho, A. Jain and P. Abbeel, *Denoising Diffusion Probabilistic Models*, NeurIPS 2020.
# - B. Anderson, *Reverse-time diffusion equation models*, 1982, for why the score appears.
#
# **What is next.** Act two took exact gradients through whole paths while it stored only the
# states. How that works, and how to place the time grid, is notebook 05; what happens when the noise
# goes to zero is notebook 07 (Theorem 1). The [map of the course](00_start_here.ipynb) shows the way.
