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
# # Time grids, and the last step
#
# Where on the time axis should the steps stand, why begin with few of them, and what does the very last one do?
#
# *An excursion from [notebook 05](05_adjoint_and_grids.ipynb); the main path of the course does not need it.*
#
# ## What you will learn
#
# - **Time grids**: the fixed one and the flexible one; what each is good for, and what not.
# - **Progressive training**: few steps first, many later, at equal cost.
# - To write **the sampling loop**, and why its last step adds no noise.
# - What the noise of the last step does to a thin ring, and why the usual metrics do not see it.
#
# **Time and memory:** about 25 s of processor time, more than half of it training (slower machines need up to three times that), and 650 MB.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from diffflow_edu import DiffFlow, Schedule, exercises, figures, fit, pretrained, toy
from diffflow_edu.figures import CurvePanel
from diffflow_edu.verdicts import verdict

torch.set_num_threads(1)  # nets this small gain little from a second core
report = json.loads(Path("../benchmarks/results/grids.json").read_text())

# %% [markdown]
# ## 1. A fixed and a flexible grid
#
# With the **fixed** grid, $L_\beta$ in the paper, the times stand at
#
# $$t_i = \Bigl(\frac iN\Bigr)^{\beta} T, \qquad \beta = 0.9,$$
#
# with slightly longer steps near the data. The networks are
# evaluated at these times, in every batch, and never anywhere else. The **flexible** grid, $\hat L_\beta$, moves them. The
# times $\bigl(\frac{k}{N-1}\bigr)^\beta T$, $k = 0, \dots, N-1$, cut $[0, T]$ into $N - 1$ intervals. For each batch one
# time is drawn in each interval: $t_i$ lies between $k = i-1$ and $k = i$, and is the mix of the two with weight
# $\alpha_i \sim U(0, 1)$ on the *earlier* one. The ends $t_0 = 0$ and $t_N = T$ stay.
#
# **Exercise 1. Draw one.** `alpha` is a tensor of shape $(N-1,)$; return the $N + 1$ times.


# %% tags=["exercise"]
def flexible_grid(alpha, T, beta):
    return None  # your answer


# %% tags=["check"]
exercises.check_flexible_grid(flexible_grid)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def flexible_grid(alpha, T, beta):
#     inner = len(alpha)  # N − 1
#     knots = (torch.arange(inner + 1, dtype=alpha.dtype) / inner) ** beta * T
#     moved = alpha * knots[:-1] + (1 - alpha) * knots[1:]
#     return torch.cat([knots[:1], moved, knots[-1:]])
# ```
#
# </details>


# %%
def grid(steps, flexible=False):
    """The paper's grid; with g = 0.3 there is little noise, so that the drift has to carry."""
    return Schedule.polynomial(steps, T=1.0, beta=0.9, g=0.3, flexible=flexible)


torch.manual_seed(0)
figures.time_grids(
    {
        "fixed, every batch": [grid(6).times],
        "flexible, 24 batches": [grid(6, flexible=True).draw().times for _ in range(24)],
    },
    title="A flexible grid visits every time, one in each interval",
)
plt.show()

# %% [markdown]
# Six steps. Top: the fixed grid, seven times and never another. Below: 24 draws of the flexible one, a row each; a colour is one $t_i$.
# Its five inner times have an interval each. A grid may begin with a tiny step or with a long one,
# and over many batches the networks are trained at every time.
#
# ### What it is good for
#
# Two models of the same nets, from the same seed, for 300 steps each, on a checkerboard: one on the fixed grid with five
# steps, one on the flexible grid with five.

# %%
board = toy.load("checkerboard")
truth = board.sample(4000, seed=1)
nets = {}
for name in ("fixed", "flexible"):
    torch.manual_seed(0)
    nets[name] = DiffFlow.mlp(grid(5, flexible=name == "flexible"), hidden=64)
    fit(nets[name], board, steps=300, batch_size=256, seed=0)

# %% [markdown]
# A network does not know $N$. Its inputs are $x$ and $t$, and it can be evaluated at any time; so the same nets make a chain of any number of
# steps, without training: `DiffFlow(model.drift, model.score, grid(20))`.
#
# **Predict:** at five steps, the grid that the fixed one was trained on, which is better? And at seven, or thirty?


# %%
def bound_at(model, steps):
    """The mean bound, in nats, of these nets on the fixed grid with so many steps."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        return DiffFlow(model.drift, model.score, grid(steps)).eval().bound(truth).mean().item()


steps = (3, 4, 5, 6, 7, 10, 15, 20, 30)
bounds = {name: [bound_at(model, n) for n in steps] for name, model in nets.items()}
five, seven, thirty = (
    bounds["flexible"][steps.index(n)] - bounds["fixed"][steps.index(n)] for n in (5, 7, 30)
)
verdict("flexible minus fixed at N = 5", five, "nats", above=-0.06, below=0.06)
verdict("                     at N = 7", seven, "nats", below=-0.05)
verdict("                     at N = 30", thirty, "nats", below=-0.05)

# %%
figures.curve_panels(
    [
        CurvePanel(
            "number of steps N of the grid it is evaluated on",
            "bound [nats]",
            {f"trained on the {name} grid, N = 5": (steps, row) for name, row in bounds.items()},
            log="x",
        )
    ],
    title="Trained at five steps, the flexible net serves thirty, too",
)
plt.show()

# %% [markdown]
# The bound against the number of steps. Blue circles, trained on the fixed grid: a dip where it was
# trained, at $N = 5$, *higher* at six and seven, whose times fall between the five. Orange squares, trained on
# flexible grids: the bound falls with every $N$.
#
# **Explain.** Between two times of its grid the fixed net was never trained. The flexible one was trained everywhere. At
# five steps it gains nothing from that, since it has more times to serve. So the fixed
# grid is right for whoever trains and samples with one $N$; the flexible one for whoever wants to choose $N$ later, for the ODE of
# notebook 07 (which needs any time), and for section 2.
#
# ### Three seeds
#
# One seed proves little. The same with ten steps, three seeds, and equal time: `python -m benchmarks.grids`. Both sides start
# from the same weights. Besides the bound it measures how **rough** drift and score are in $t$:
# by how many times its own size a field changes from $0$ to $T$, at a fixed place,
# $T\sqrt{\mathbb E\|\partial_t f\|^2/\mathbb E\|f\|^2}$. (For the score, of $\sigma(t)\,s$, which is what its network gives.)


# %%
def over(rows):
    """x and one row a seed, of quantities by N."""
    return [int(n) for n in rows], list(zip(*(row["values"] for row in rows.values()), strict=True))


fixed, flexible = report["grids"]["fixed"], report["grids"]["flexible"]
figures.curve_panels(
    [
        CurvePanel(
            "number of steps N of the grid it is evaluated on",
            "bound [nats]",
            {"fixed grid": over(fixed["bound"]), "flexible grid": over(flexible["bound"])},
            log="x",
        ),
    ],
    title="Trained at ten steps, three seeds: fixed is ahead at ten, flexible on finer grids",
)
plt.show()

# %% [markdown]
# Thin lines are seeds, thick ones their means. The fixed side has its dip at
# $N = 10$ and gains nothing from more steps; the flexible one falls all the way.


# %%
def lower_in_every_seed(a, b):
    pairs = list(zip(a["values"], b["values"], strict=True))
    sides = {"fixed": all(x < y for x, y in pairs), "flexible": all(x > y for x, y in pairs)}
    return next((side for side, holds in sides.items() if holds), "neither")


rows = {
    f"bound at N = {n} [nats]": (fixed["bound"][n], flexible["bound"][n]) for n in fixed["bound"]
}
rows |= {
    f"roughness of the {f} in t": (fixed["roughness"][f], flexible["roughness"][f])
    for f in ("drift", "score")
}
rows["loss, jump between batches"] = fixed["loss_jump"], flexible["loss_jump"]
print("                                 fixed            flexible     lower in every seed")
for name, pair in rows.items():
    cells = "   ".join(f"{side['mean']:7.3f} ± {side['spread']:.3f}" for side in pair)
    print(f"{name:28s}  {cells}   {lower_in_every_seed(*pair)}")

# %% [markdown]
# **Explain.** The paper finds $\hat L_\beta$ lower and more stable. What of that holds here?
#
# - *Lower*: on grids finer than the trained one, in each seed. On the grid that the fixed side was trained on, the fixed side is
#   ahead by hundredths of a nat.
# - *More stable*: the loss is not; it jumps a little more from batch to batch, since the times are drawn, too. But the *fields* are
#   smoother: drift and score change about half as fast with time. A net that is trained at ten times is free to do anything in between.
#
# **Open question.** The roughness depends on how many times the fixed net was trained at. Train at $N = 3$ and at $N = 20$
# instead of 5: predict for which of them the two curves of the figure differ most, measure with `bound_at`, and explain.
#
# ## 2. Few steps first
#
# The cost of a gradient is 7 N units (notebook 05), so a step of training with $N = 5$ costs a sixth of one with $N = 30$. If
# nets do not know $N$, why not begin with few steps and end with many? Go on with the flexible nets from above: a hundred
# steps at $N = 10$, fifty at $N = 20$.


# %%
def chain(steps, flexible=False):
    return DiffFlow(nets["flexible"].drift, nets["flexible"].score, grid(steps, flexible))


def squares(steps):
    """The square on which each of 1500 draws of noise lands."""
    return board.mode(chain(steps).eval().sample(1500, seed=0).start)


at_20, first = [bound_at(nets["flexible"], 20)], squares(5)
for n, batches in ((10, 100), (20, 50)):
    fit(chain(n, flexible=True), board, steps=batches, batch_size=256, seed=n)
    at_20.append(bound_at(nets["flexible"], 20))
verdict(
    "a hundred steps at N = 10 lower the bound at N = 20 by",
    at_20[0] - at_20[1],
    "nats",
    above=0.02,
)
verdict("both stages together by", at_20[0] - at_20[2], "nats", above=0.03)
same = (first == squares(20)).double().mean()
verdict(
    "of the eight squares, the same one at N = 5 as at N = 20 later", same, above=0.6, form=".0%"
)

# %% [markdown]
# Most particles land on the same square as before: which particle goes to which square is learned first, and cheaply. How
# much does that save? Three seeds, `python -m benchmarks.grids` again: the four stages 5, 10, 20, 30 with a quarter of
# the processor time each, against thirty steps from the start, and the same time for both.

# %%
arms = {"start": "N = 30 from the start", "progressive": "N = 5, 10, 20, 30"}
budgets = {title: report["progressive"][arm] for arm, title in arms.items()}
figures.curve_panels(
    [
        CurvePanel(
            "CPU seconds of the whole training",
            "bound at N = 30, at the end [nats]",
            {title: over(row) for title, row in budgets.items()},
            log="x",
        ),
    ],
    title="At equal cost, few steps first is lower at thirty",
)
plt.show()

# %% [markdown]
# The bound of the finished nets, budget by budget; thin lines are seeds. The progressive side (orange squares) is lower at
# every budget.

# %%
for budget in report["setting"]["progressive"]["seconds"]:
    late, early = (row[str(budget)] for row in budgets.values())
    ahead = late["mean"] - early["mean"]
    print(
        f"{budget:3d} s: from the start {late['mean']:.2f} ± {late['spread']:.2f}, "
        f"progressive {early['mean']:.2f} ± {early['spread']:.2f} nats, ahead by {ahead:.2f}"
    )
start, progressive = budgets.values()
print(
    f"progressive at 8 s: {progressive['8']['mean']:.2f}; from the start at 16 s: {start['16']['mean']:.2f} nats"
)

# %% [markdown]
# **Explain.** What is learned in the first seconds is coarse, and needs no fine steps. From the start it takes not quite
# twice as long to the same bound: less than the factor of 16 that the paper reports for images. And these are trainings of
# seconds: the lead is smallest at the largest budget.
#
# ## 3. The last step
#
# The sampler's last step arrives at $t = 0$. All other steps add noise; this one does not.
#
# **Exercise 2. The sampling loop.** `mean(x, i)` is the mean of $x_i$ given $x_{i+1}$, `b` $(N,)$ holds the standard deviations of the
# backward steps, and `noise` $(N, B, d)$ their draws, `noise[i]` for step $i$ from $x_{i+1}$ to $x_i$. Start at $x = x_N$ and
# return $x_0$; step 0 adds no noise.


# %% tags=["exercise"]
def sample_loop(x, mean, b, noise):
    return None  # your answer


# %% tags=["check"]
exercises.check_sample_loop(sample_loop)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def sample_loop(x, mean, b, noise):
#     for i in reversed(range(len(b))):
#         x = mean(x, i)
#         if i > 0:
#             x = x + b[i] * noise[i]
#     return x
# ```
#
# </details>

# %% [markdown]
# What is that mean? Suppose that $x_1 = \alpha x_0 + \sigma\varepsilon$ with $\varepsilon \sim \mathcal N(0, I)$. The score of $x_1$
# is the mean of $-\varepsilon/\sigma$ over all $x_0$ that may be behind $x_1$ (notebook 02).
#
# **Exercise 3. Denoise.** From this, write $\mathbb E[x_0 \mid x_1]$ with the score alone (**Tweedie's formula**); `alpha` and
# `sigma` are tensors with one number in them.


# %% tags=["exercise"]
def denoise(x, score, alpha, sigma):
    return None  # your answer


# %% tags=["check"]
exercises.check_denoise(denoise)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# $\mathbb E[\varepsilon \mid x_1] = -\sigma s(x_1)$, and $x_0 = (x_1 - \sigma\varepsilon)/\alpha$.
#
# ```python
# def denoise(x, score, alpha, sigma):
#     return (x + sigma**2 * score) / alpha
# ```
#
# </details>

# %% [markdown]
# On a chain without drift that *is* the mean of the last backward step. With a drift, the mean of the step has it, too.
# `sample(n)` stops at the mean; `sample(n, last_noise=True)` adds $b_0\,\delta^B_0$, as the model does that the bound
# describes ($b_0$ is the standard deviation of backward step 0).
#
# **Predict:** rings of width 0.01 (one standard deviation across). Does the noise of the last step make their samples better or worse?

# %%
rings = toy.load("olympic_rings", width=0.01)
width = rings.width / rings.scale  # in the units of the samples
loaded = {n: pretrained("diffflow", "olympic_rings", steps=n) for n in (10, 30)}


def across(x):
    """Root mean square distance from the nearest ring, in ring widths, of what is within 5."""
    widths = rings.distance(x) / width
    return float(widths[widths <= 5].square().mean().sqrt())


views = {"data": rings.sample(20_000, seed=5)}
for n in (10, 30):
    for name, noisy in ((f"N = {n}, without", False), (f"N = {n}, with noise", True)):
        views[name] = loaded[n].sample(8000, seed=0, last_noise=noisy).start
for name, points in views.items():
    print(f"{name:20s} {across(points):.2f} ring widths across")


# %%
def laid_over(x, arcs=60):
    """All rings cut into short arcs, the arcs turned until they lie over one another."""
    raw = x.double() * rings.scale + rings.shift
    from_centre = raw - rings.centres[rings.mode(x)]
    radius, angle = from_centre.norm(dim=1), torch.atan2(*from_centre.T)
    angle = angle.remainder(2 * torch.pi / arcs) - torch.pi / arcs
    return torch.stack([radius * angle.sin(), radius * angle.cos()], dim=1).float()


figures.magnifier(
    {name: laid_over(points[:4000]) for name, points in views.items()},
    (0, 1),
    half=0.055,
    title="The last noise makes a thin ring wider",
)
plt.show()

# %% [markdown]
# Eleven widths of a ring, magnified; so that there are enough points, all five rings were cut into arcs and the arcs laid over
# one another. The data, then DiffFlow with ten and with thirty steps, each without and with the noise of the last step, from the same
# draws. Without it the band is about as thick as the data's; with it, thicker.
#
# **Explain.** At ten steps the noise is nearly as wide as the ring. Is the model badly calibrated, then? No: $b_0$ is *one* number for all
# directions. Where $x_1$ came from is uncertain by all of the forward noise $\sigma_1$ *along* the ring, where it does not show, and by much less across,
# where it does. The best single number lies between the two. For a ring of width 1 and forward noise $\sigma_1$ (in ring widths) the two
# variances of $x_0$ given $x_1$ are $\sigma_1^2$ and $\sigma_1^2/(1 + \sigma_1^2)$, and the best $b_0^2$ is their mean:

# %%
model = loaded[10]
sigma = float(model.schedule.s[0]) / width  # the noise of forward step 0, in ring widths
along, over_it = sigma**2, sigma**2 / (1 + sigma**2)
learned = float(model.backward_std()[0]) / width
print(
    f"σ_1 = {sigma:.2f} widths, so the best b_0 is {((along + over_it) / 2) ** 0.5:.2f}; the model has {learned:.2f}"
)
x_1 = model.encode(rings.sample(8000, seed=6), seed=6).states[1]
sampled = model.sample(8000, seed=0).states[1]
with torch.no_grad():
    for name, start in (("the data's own x_1", x_1), ("the sampler's x_1", sampled)):
        print(f"{name}: means across {across(model.backward_mean(start, 0)):.2f} ring widths")
print(f"a perfect mean of the data's own x_1 spreads by {(1 / (1 + sigma**2)) ** 0.5:.2f}")

# %% [markdown]
# Two errors of opposite sign are at work. The mean of all $x_0$ that may be behind a particle is less spread than the $x_0$
# themselves: from the data's own $x_1$ the means are *too thin*, as the formula says. But the sampler's $x_1$ is wider than the
# data's, since all its earlier steps were Gaussian, too. Together the means come out about right, and any noise on top is too
# much.
#
# So the last noise is right for the *bound*, which is why the likelihood keeps it, and wrong for the eye. What the usual metrics say of
# it, over three seeds and six models of the zoo (DDPM on its log-SNR grid):

# %%
print("                  leak                 width across            sliced W2")
print("           N   without   with     without   with       without   with")
for kind, rows in report["last_step"].items():
    for n, row in rows.items():
        off, on = row["without"], row["with"]
        print(
            f"{kind:9s} {n:>2s}   {off['leak']['mean']:6.2%}  {on['leak']['mean']:6.2%}"
            f"   {off['spread']['mean']:6.2f}  {on['spread']['mean']:6.2f}"
            f"       {off['sliced_w2']['mean']:.3f}   {on['sliced_w2']['mean']:.3f}"
        )

# %% [markdown]
# **Explain.** With the noise every model's rings are wider by a tenth or more. The leak changes by less than one
# sample in a hundred, since it counts what is more than five widths off; sliced W2 does not change, since it is decided by what is far away. Neither can see one width; the
# magnifier can. On images the same noise is visible grain, which is why the paper, like everybody, leaves it out.
#
# ## What to remember
#
# - Trained on a **fixed grid**, nets are best on that grid and rough in between; on a **flexible** one they serve any $N$.
# - **Few steps first**: at equal cost the bound at $N = 30$ is lower, because nets do not know $N$.
# - The last step's noise is as wide as the finest detail. **Leave it out** when you look, keep it when you count nats.
#
# ## References
#
# - Q. Zhang and Y. Chen, *Diffusion Normalizing Flow*, NeurIPS 2021, [arXiv 2110.07579](https://arxiv.org/abs/2110.07579):
#   the steps (11, 12) and the grids $L_\beta$ and $\hat L_\beta$.
# - B. Efron, *Tweedie's Formula and Selection Bias*, 2011.
#
# **What is next.** Back on the main path: [notebook 06](06_three_machines.ipynb) puts flow, diffusion and DiffFlow side by side.
# The [map of the course](00_start_here.ipynb) shows the way.
