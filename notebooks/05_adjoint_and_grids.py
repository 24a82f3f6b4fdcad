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
# # The stochastic adjoint
#
# An exact gradient through a hundred noisy steps, for the memory of one.
#
# ## What you will learn
#
# - Why plain backpropagation needs **memory in proportion to $N$**, measured.
# - **Algorithm 2** of the paper, derived in two lines; you write its sweep, and its gradient is autograd's to twelve
#   digits.
# - That Algorithm 2 is **gradient checkpointing** with one checkpoint a step, and that the adjoint of an ODE solver is not.
# - How **one network call can serve twice**, and what a gradient then costs: 7, 8, 9 or 12 units a step.
#
# **Time and memory:** about 7 s of processor time (slower machines need up to three times that), and 600 MB.

# %%
import inspect
import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

from diffflow_edu import DiffFlow, Schedule, exercises, figures
from diffflow_edu.figures import CurvePanel
from diffflow_edu.meters import Counted, saved_mebibytes
from diffflow_edu.processes import adjoint
from diffflow_edu.verdicts import verdict

torch.set_num_threads(1)  # nets this small gain little from a second core

# %% [markdown]
# ## 1. A loss that keeps everything
#
# DiffFlow's loss walks from $x_0$ in $N$ noisy steps to $x_N$, and at each step it evaluates drift and score
# (notebook 04, equation 16). To differentiate it, autograd keeps what every layer of either network computed, its
# **activations**, at every step, until `backward` has used them. `saved_mebibytes` is a meter for that: PyTorch calls a
# hook with each tensor that it keeps, and the meter adds up their bytes, each block of memory once.


# %%
def some_model(steps, hidden=64):
    """A DiffFlow whose drift is not zero, as after some training."""
    torch.manual_seed(0)
    model = DiffFlow.mlp(Schedule.log_snr(steps), hidden=hidden)
    nn.init.normal_(model.drift.last.weight, std=0.05)
    return model


# %% [markdown]
# **Predict:** twice the steps, how much more memory, for autograd and for the adjoint?

# %%
x = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
kept = {"autograd": {}, "adjoint": {}}
print("   N   autograd [MiB]   adjoint [MiB]")
for steps in (5, 10, 20, 40):
    model = some_model(steps)
    everything = saved_mebibytes(model.bound, x, gradient="autograd")
    states = (steps + 1) * x.numel() * 4 / 2**20  # cached where the hooks do not see them
    one_step = saved_mebibytes(model.loss, x)
    kept["autograd"][steps], kept["adjoint"][steps] = everything, states + one_step
    print(f"{steps:4d}   {everything:14.1f}   {states + one_step:13.1f}")
for way, limit in (("autograd", 2.1), ("adjoint", 1.1)):
    growth = kept[way][40] / kept[way][20]
    verdict(f"twice the steps, memory of {way} grows by a factor", growth, below=limit, exact=True)

# %% [markdown]
# **Explain.** Autograd's graph has $N$ copies of both networks in it. The adjoint, which section 2 derives,
# keeps only the states, two numbers a particle and step, and one step's activations while it works on that
# step. The same for larger nets (width 128) and up to a hundred steps, from a benchmark, together with
# what the operating system reports: by how much the resident memory of a fresh process rises during one
# gradient. (The names "7 N" and "12 N" count network calls: section 3.)

# %%
measured = json.loads(Path("../benchmarks/results/adjoint.json").read_text())["against_n"]
titles = {
    "autograd": "autograd, 9 N",
    "step by step": "adjoint, 12 N",
    "loss": "adjoint, 7 N (ours)",
}


def against_n(what, log="xy", **options):
    """A panel of one quantity against N, for three ways to a gradient."""
    curves = {}
    for way, title in titles.items():
        row = measured["results"][way]
        curves[title] = [int(n) for n in row], [found[what] for found in row.values()]
    labels = {
        "saved_mebibytes": "activations [MiB]",
        "resident_rise_mebibytes": "rise of resident memory [MiB]",
        "median_seconds": "CPU seconds a gradient",
    }
    return CurvePanel("number of steps N", labels[what], curves, log=log, **options)


figures.curve_panels(
    [against_n("saved_mebibytes"), against_n("resident_rise_mebibytes")],
    title="Autograd's memory grows with N, the adjoint's hardly",
)
plt.show()

# %% [markdown]
# Both axes are logarithmic, so a straight rise is growth in proportion. Left: the activations that autograd keeps (blue
# circles) grow in proportion to $N$; the adjoint's (orange squares, green diamonds) hardly do. Right: the operating
# system agrees.

# %%
saved = {
    way: {n: row["saved_mebibytes"] for n, row in measured["results"][way].items()}
    for way in ("autograd", "loss")
}
for n in ("5", "30", "100"):
    share = saved["loss"][n] / saved["autograd"][n]
    print(
        f"N = {n:>3s}: {saved['autograd'][n]:5.0f} MiB against {saved['loss'][n]:.1f}: {share:.1%}"
    )

# %% [markdown]
# The paper says "about 2 %". The share depends on $N$; at thirty to a hundred steps it is about that.
#
# **Exercise 1. Compute it before you measure.** One step's activations take `step` MiB, one state takes `state` MiB. What do autograd and
# the adjoint keep at their peak, for `N` steps? Return the two numbers. (A state is the input of a step, so it is
# among that step's activations.)


# %% tags=["exercise"]
def memory(N, step, state):
    return None  # your answer: (autograd, adjoint)


# %% tags=["check"]
exercises.check_memory(memory)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def memory(N, step, state):
#     return N * step, (N + 1) * state + step
# ```
#
# </details>

# %% [markdown]
# ## 2. Algorithm 2 in two lines
#
# A step of the paper, and the energy $\ell_i$ of its backward noise (notebook 04; $s$ is the score):
#
# $$x_{i+1} = x_i + f_i(x_i)\,\Delta t_i + g_i\sqrt{\Delta t_i}\;\delta^F_i, \qquad
# \ell_i(x_i, x_{i+1}) = \tfrac12\|\delta^B_i\|^2,$$
#
# $$\delta^B_i = \frac{x_i - x_{i+1} + [f_{i+1}(x_{i+1}) - g_{i+1}^2\, s_{i+1}(x_{i+1})]\,\Delta t_i}{g_{i+1}\sqrt{\Delta t_i}}.$$
#
# The noise $\delta^F$ was drawn and stays as it is. So everything that comes after $x_i$ is a function of $x_i$,
#
# $$J_i(x_i) = -\log p_B(x_N) + \sum_{j \ge i} \ell_j
# = \ell_i(x_i, x_{i+1}) + J_{i+1}(x_{i+1}).$$
#
# Its derivative $a_i = \partial J_i/\partial x_i$ is called the **adjoint**. The chain rule gives it: $x_i$ acts on $\ell_i$
# directly, and on both $\ell_i$ and the rest through $x_{i+1}$:
#
# $$u = a_{i+1} + \frac{\partial \ell_i}{\partial x_{i+1}}, \qquad
# a_i = u \cdot \frac{\partial x_{i+1}}{\partial x_i} + \frac{\partial \ell_i}{\partial x_i}, \qquad
# \frac{\partial L}{\partial\theta} \mathrel{+}= \frac{\partial\ell_i}{\partial\theta}
# + u\cdot\frac{\partial x_{i+1}}{\partial\theta}.$$
#
# That is all of Algorithm 2. Each line needs $x_i$ and $x_{i+1}$ and nothing else, not even the noise, since the two states
# determine it. A product $u \cdot \partial y/\partial x$ is a **vector–Jacobian product**; `torch.autograd.grad(y, x, u)` makes
# it from one backward pass, without the Jacobian.

# %%
figures.algorithm_two(title="Algorithm 2: from noise to data, one step at a time")
plt.show()

# %% [markdown]
# Upper row, left to right: the forward sweep, which keeps the states and nothing else. Blue: the energy of
# step $i$, which depends on two states, and its two derivatives. Lower row, right to left: the reverse sweep. The energy's
# derivative at $x_{i+1}$ joins $a_{i+1}$ and makes $u$; $u$ is pulled back through the step; the other derivative is added
# at $x_i$.
#
# **Exercise 2. One reverse step.** `mean(x)` is where step $i$ carries $x_i$ on average, `energy(x, x_next)` is $\ell_i$ of every
# particle, shape $(B,)$; both are differentiable. Given $x_i$, $x_{i+1}$ and $a_{i+1}$, all $(B, d)$, return $a_i$.
# (For $y$ of shape $(B,)$ sum it first and leave out `u`.)


# %% tags=["exercise"]
def reverse_step(x, x_next, a_next, mean, energy):
    x, x_next = x.detach().requires_grad_(), x_next.detach().requires_grad_()
    return None  # your answer


# %% tags=["check"]
exercises.check_reverse_step(reverse_step)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def reverse_step(x, x_next, a_next, mean, energy):
#     x, x_next = x.detach().requires_grad_(), x_next.detach().requires_grad_()
#     at_x, at_next = torch.autograd.grad(energy(x, x_next).sum(), (x, x_next))
#     u = a_next + at_next
#     (pulled,) = torch.autograd.grad(mean(x), x, u)
#     return pulled + at_x
# ```
#
# </details>

# %% [markdown]
# **Exercise 3. The sweep.** Now the loop over all steps. `states` $(N+1, B, d)$ holds $x_0, \dots, x_N$;
# `mean(x, i)` and `energy(x, x_next, i)` are those of step $i$; $p_B(x_N)$ is $\mathcal N(0, I)$. Where does the loop start,
# in which order does it run? Return $a_0$, the gradient of the loss by the data. You may call your `reverse_step`.


# %% tags=["exercise"]
def adjoint_sweep(states, mean, energy):
    return None  # your answer


# %% tags=["check"]
exercises.check_adjoint_sweep(adjoint_sweep)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def adjoint_sweep(states, mean, energy):
#     a = states[-1]  # a_N = −∂log p_B/∂x_N
#     for i in reversed(range(len(states) - 1)):
#         a = reverse_step(
#             states[i], states[i + 1], a,
#             lambda x: mean(x, i), lambda x, y: energy(x, y, i),
#         )
#     return a
# ```
#
# </details>

# %% [markdown]
# The whole algorithm adds the derivatives by the weights $\theta$. Here it is, as the paper has it, for any DiffFlow of
# the library.


# %%
def half_square(delta):
    return 0.5 * delta.square().sum(1)


def forward_sweep(model, x, noise):
    """The states, and Σ ½‖δB‖² − log p_B(x_N) without its constant; nothing is kept for a gradient."""
    states, value = [x], 0.0
    with torch.no_grad():
        for i in range(model.schedule.steps):
            states.append(model.forward_step(states[i], i, noise[i]))
            value += half_square(model.backward_noise(states[i], states[i + 1], i)).sum()
        return states, value + half_square(states[-1]).sum()


def algorithm_two(model, x, noise):
    """The gradient of that value by x_0 and the weights, summed over particles."""
    weights = [p for p in model.parameters() if p.requires_grad]
    (states, _), total = forward_sweep(model, x, noise), [torch.zeros_like(w) for w in weights]
    a = states[-1]  # a_N
    for i in reversed(range(model.schedule.steps)):
        x, x_next = (state.detach().requires_grad_() for state in states[i : i + 2])
        energy = half_square(model.backward_noise(x, x_next, i)).sum()
        at_x, at_next, *by_energy = torch.autograd.grad(
            energy, [x, x_next, *weights], allow_unused=True
        )
        u = a + at_next
        mean = model.forward_mean(x, i)
        pulled, *by_step = torch.autograd.grad(mean, [x, *weights], u, allow_unused=True)
        a = pulled + at_x
        for each, *parts in zip(total, by_energy, by_step, strict=True):
            each += sum(part for part in parts if part is not None)
    return [a, *total]


# %% [markdown]
# Is that gradient exact, or an approximation? Thirty steps in float64, against autograd through the whole path, by
# the data and every weight at once; and beside it the library's two, `bound` and `loss`.

# %%
model = some_model(30, hidden=32).double()
draw = torch.Generator().manual_seed(1)
x = torch.randn(40, 2, dtype=torch.float64, generator=draw).requires_grad_()
noise = torch.randn(30, 40, 2, dtype=torch.float64, generator=draw)
inputs = [x, *(p for p in model.parameters() if p.requires_grad)]
exact = torch.autograd.grad(model.bound(x, noise, gradient="autograd").sum(), inputs)
ours = {
    "Algorithm 2 above": algorithm_two(model, x.detach(), noise),
    "model.bound": torch.autograd.grad(model.bound(x, noise).sum(), inputs),
    "model.loss": torch.autograd.grad(40 * model.loss(x, noise), inputs),
}
truth = torch.cat([each.flatten() for each in exact])
for name, found in ours.items():
    error = (torch.cat([each.flatten() for each in found]) - truth).norm() / truth.norm()
    verdict(f"{name}, relative error against autograd", error, below=1e-12, form=".0e")

# %% [markdown]
# **Explain.** Nothing was approximated: the same derivatives, in another order, with parts of the work done twice. The
# general idea is **gradient checkpointing**: keep a few intermediate results, the checkpoints, and recompute what lies between them
# during the backward pass. Algorithm 2 is gradient checkpointing with one checkpoint a step, $x_i$.
#
# Other adjoints are not exact. The adjoint of a neural ODE or SDE keeps *no* states and solves backwards to find
# them again, which has the solver's error. Here is that error: keep the noise instead of the states and walk a chain
# back by $x_i \approx x_{i+1} - f_{i+1}(x_{i+1})\,\Delta t - g\sqrt{\Delta t}\,\delta^F_i$, with the drift at the wrong end
# of the step.

# %%
for steps in (10, 100, 1000):
    chain = DiffFlow(
        lambda x, t: torch.tanh(3 * x.flip(-1)),
        lambda x, t: -x,
        Schedule.polynomial(steps, T=1.0, g=0.3),
    )
    torch.manual_seed(0)
    start, noise = torch.randn(500, 2), torch.randn(steps, 500, 2)
    back = forward_sweep(chain, start, noise)[0][-1]
    for i in reversed(range(steps)):
        dt, t = chain.schedule.h[i].item(), chain.schedule.times[i + 1]
        back = back - dt * chain.drift_at(back, t) - 0.3 * dt**0.5 * noise[i]
    miss = (back - start).square().mean().sqrt()
    print(f"N = {steps:4d}: x_0 found again to ≈{miss:.3f}")

# %% [markdown]
# The error falls like $1/N$ and is never zero. A cached state is exact, and costs two numbers a particle.
#
# ## 3. One call serves twice
#
# The library's version is `_reverse_sweep` in `diffflow_edu/processes/adjoint.py`. It differs from Algorithm 2 in where it
# stops: not at *steps* but at *states*. At $x_{i+1}$ the drift is needed twice with the same arguments,
# $f_{i+1}(x_{i+1})$: by the backward noise of step $i$ and by the forward step $i + 1$. So stop at $x_{i+1}$, evaluate once,
# and send both derivatives back together.
#
# It also writes the derivatives of $\ell_i$ out, since they are simple: with $\delta = \delta^B_i$, the slope of
# $\frac12\|\delta\|^2$ is $\delta$, and $\delta$ is linear in $x_i$, $x_{i+1}$, $f_{i+1}$ and $s_{i+1}$. The code
# works for every schedule of the library, whose step is a little more general. Its letters, and what they are for the
# paper's step:
#
# | `chain.k[i]` | `chain.h[i]` | `chain.e[i]` | `chain.b[i]` |
# |---|---|---|---|
# | factor of $x_i$: 1 | factor of the drift: $\Delta t_i$ | factor of the score: $g_{i+1}^2\Delta t_i$ | std of the backward step: $g_{i+1}\sqrt{\Delta t_i}$ |
#
# | formula | line |
# |---|---|
# | $a_N = -\partial\log p_B/\partial x_N = x_N$ | `adjoint = weight * states[-1]` |
# | $\delta^B_i$, equation 15 | `noise = chain.backward_noise(i, states[i], states[j], drift.detach(), score.detach())` |
# | $+\,\partial\ell_i/\partial x_{i+1}$, outside the networks | `adjoint = adjoint - incoming / chain.k[i]` |
# | through $f_{i+1}$ and $s_{i+1}$ in $\ell_i$ | `cotangents[0] += incoming * (chain.h[i] / chain.k[i])` |
# | $u\cdot\partial x_{j+1}/\partial x_j + \partial\ell_j/\partial x_j$, outside the networks | `adjoint = chain.k[j] * adjoint + incoming` |
# | through the networks, to $x_j$ and to $\theta$ | `adjoint = _pull_back(outputs, cotangents, x, parameters, adjoint, grads)` |
#
# (A **cotangent** of a quantity is the derivative of the loss by it, such as $u$. `weight` is the cotangent of each particle's
# bound, $1/B$ for a mean.) A table that quotes code can go out of date; this one is compared with the source.

# %%
quoted = [
    "adjoint = weight * states[-1]",
    "noise = chain.backward_noise(i, states[i], states[j], drift.detach(), score.detach())",
    "adjoint = adjoint - incoming / chain.k[i]",
    "cotangents[0] += incoming * (chain.h[i] / chain.k[i])",
    "adjoint = chain.k[j] * adjoint + incoming",
    "adjoint = _pull_back(outputs, cotangents, x, parameters, adjoint, grads)",
]
source = inspect.getsource(adjoint._reverse_sweep)
print(
    f"lines of the table that are in the code: {sum(q in source for q in quoted)} of {len(quoted)}"
)

# %% [markdown]
# What does a gradient cost? Count in units: a forward pass of drift or score is 1, a backward pass 2, since it makes two
# derivatives, by the inputs and by the weights. (The two nets cost about the same here.)
#
# - **autograd** makes 3 calls a step (drift at either end, score) and sends a gradient through each;
# - **Algorithm 2, step by step**, makes the 3 calls of a step for the value, throws the activations away, makes the calls *again* in
#   the reverse sweep, and sends a gradient through each;
# - **`bound`**, one number a particle, does the same with 2 calls a step, since $f_{i+1}(x_{i+1})$ is shared;
# - **`loss`**, their mean, knows every cotangent beforehand, $1/B$. So its forward sweep needs no value: it walks with
#   the drift alone, 1 call a step, and the reverse sweep makes value and gradient together with 2 calls a step.
#
# **Exercise 4. The cost.** How many units for $N$ steps, by autograd, step by step, `bound` and `loss`? (Leave out what happens at
# the two ends.)


# %% tags=["exercise"]
def network_units(N):
    return None  # your answer: four numbers


# %% tags=["check"]
exercises.check_network_units(network_units)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def network_units(N):
#     # forward passes of the value, forward and backward passes of the gradient
#     return 3 * N + 6 * N, 3 * N + 3 * N + 6 * N, 2 * N + 2 * N + 4 * N, N + 2 * N + 4 * N
# ```
#
# </details>

# %% [markdown]
# Now count. `Counted` is a network that adds 1 to its `units` at every forward pass and 2 at every backward pass.


# %%
ways = {
    "autograd": lambda model: model.bound(x, gradient="autograd").sum().backward(),
    "step by step": lambda model: algorithm_two(model, x, noise),
    "bound": lambda model: model.bound(x).sum().backward(),
    "loss": lambda model: model.loss(x).backward(),
}
N, x = 30, torch.randn(8, 2)
noise = torch.randn(N, 8, 2)
for name, work in ways.items():
    model = some_model(N, hidden=16)
    model.drift, model.score = Counted(model.drift), Counted(model.score)
    work(model)
    units = model.drift.units + model.score.units
    print(f"{name:14s}{units:4d} units = {units / N:.1f} N")

# %% [markdown]
# As computed, but for three or four units at the ends.
#
# **Predict:** autograd 9 N, `loss` 7 N. Is `loss` faster than autograd, too?

# %%
per_step = against_n("median_seconds", log="x", ylim=(0, 24))
scale = 1e6 / measured["setting"]["particles"]
curves = {
    name: (n, [scale * s / k for k, s in zip(n, seconds, strict=True)])
    for name, (n, seconds) in per_step.curves.items()
}
figures.curve_panels(
    [
        against_n("median_seconds"),
        CurvePanel("number of steps N", "µs a step and particle", curves, log="x", ylim=(0, 24)),
    ],
    title="Our adjoint is no slower than autograd; step by step costs a third more",
)
plt.show()

# %% [markdown]
# Left: seconds for one gradient, in proportion to $N$ for all three. Right: the same a step and particle, level up to
# chance. Green diamonds (ours) lie at or below blue circles (autograd), orange squares (12 N) above both.

# %%
seconds = {
    way: [row["median_seconds"] for row in rows.values()]
    for way, rows in measured["results"].items()
}
for way, units in {"loss": 7, "step by step": 12}.items():
    ratio = sum(seconds[way]) / sum(seconds["autograd"])
    print(f"{way:13s} time against autograd's {ratio:.2f}, by units {units / 9:.2f}")

# %% [markdown]
# **Explain.** The adjoint recomputes, and is still no slower, because it does not evaluate twice what is needed twice: 7 N
# against 9 N. What Algorithm 2 saves is memory; what one shared call saves is the time that the recomputation costs.
#
# **Open question.** Keep only every *second* state, and recompute two steps at a time. Predict the memory (in `step` and
# `state` of exercise 1) and the units; for which $N$ is it better than Algorithm 2, and for which sizes of state and step?
# Change `algorithm_two` and measure with `saved_mebibytes` and `Counted`.
#
# ## Excursion
#
# [Notebook 11](11_time_grids.ipynb) goes on with the practice of training: where on the time axis the steps should stand,
# why to begin with few steps, and what the last step does to a thin ring. The course continues without it.
#
# ## What to remember
#
# - Autograd keeps **all activations of all steps**; Algorithm 2 keeps **the states**, and recomputes one step at a time:
#   gradient checkpointing.
# - $u = a_{i+1} + \partial\ell_i/\partial x_{i+1}$, then $a_i = u\cdot\partial x_{i+1}/\partial x_i + \partial\ell_i/\partial x_i$. **Exact**: relative
#   error below $10^{-12}$.
# - Stop at **states, not steps**: $f_{i+1}(x_{i+1})$ is evaluated once, and 12 N become 8 N (`bound`) or 7 N (`loss`).
#
# ## References
#
# - Q. Zhang and Y. Chen, *Diffusion Normalizing Flow*, NeurIPS 2021, [arXiv 2110.07579](https://arxiv.org/abs/2110.07579):
#   the steps (11, 12), the backward noise (15), the loss (16), Algorithm 2.
# - R. Chen, Y. Rubanova, J. Bettencourt and D. Duvenaud, *Neural Ordinary Differential Equations*, NeurIPS 2018, and
#   X. Li, T.-K. L. Wong, R. T. Q. Chen and D. Duvenaud, *Scalable Gradients for Stochastic Differential Equations*, AISTATS 2020: the
#   adjoints that keep no states.
# - T. Chen, B. Xu, C. Zhang and C. Guestrin, *Training Deep Nets with Sublinear Memory Cost*, 2016: gradient checkpointing.
#
# **What is next.** Notebook 06 puts flow, diffusion and DiffFlow side by side on one ring, and turns the dial between
# them. The [map of the course](00_start_here.ipynb) shows the way.
