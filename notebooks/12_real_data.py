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
# # Real data: test nats, and what a comparison rests on
#
# The numbers of notebook 07 on rows of real data: which of them may stand in one table, and when a difference is one.
#
# *An excursion from [notebook 07](07_likelihood.ipynb); the main path of the course does not need it.*
#
# ## What you will learn
#
# - Why an ODE's −log p and a chain's bound belong in **different columns**, in a case where all is known.
# - What the paper's tabular results are, what was run here, and how to read "≤".
# - To carry nats from **whitened rows back to real units**, and to compare two models **on the same rows**.
# - Where a flow with too many weights ends on a small set, and how **early stopping** chooses.
#
# **Time and memory:** about 12 s of processor time, half of it training (slower machines need up to three times that), and 550 MB.

# %%
import json
import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from diffflow_edu import CouplingFlow, DiffFlow, Schedule, exercises, figures, fit, tabular
from diffflow_edu.figures import CurvePanel
from diffflow_edu.processes import likelihood
from diffflow_edu.verdicts import verdict

torch.set_num_threads(1)  # nets this small gain little from a second core

# %% [markdown]
# ## 1. No order for the ODE
#
# Notebook 07 has four numbers for one model. Three are ordered: path bound ≥ importance-weighted bound ≥ −log p of the chain.
# The fourth, the ODE's, may lie on either side. That is seen where everything has a closed form: Gaussian data, and a score
# that is wrong by a factor. All densities are Gaussian then, the chain's too.
#
# **Predict:** the score is too weak by a fifth. Is the ODE's −log p above or below the chain's? And if it is too strong?

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
    return bounds.mean().item(), likelihood.importance_weighted(bounds).mean().item(), chain, ode


# %%
print("                 path bound    K = 64     chain       ODE")
table = {factor: chain_and_ode(factor) for factor in (0.8, 1.0, 1.2)}
for factor, row in table.items():
    print(f"{factor:3.1f} of the score" + "".join(f"{value:10.2f}" for value in row))
print(f"truth          {truth:11.2f}")
closest = min(min(a - b, b - c) for a, b, c, _ in table.values())
verdict("\npath bound ≥ K = 64 ≥ chain: least difference", closest, "nats", above=-0.01, form=".3f")
for factor, (_, _, chain, ode) in table.items():
    print(f"{factor:3.1f} of the score: ODE − chain {ode - chain:+.2f}")

# %% [markdown]
# **Explain.** Three of the columns are ordered in every row, the fourth is not. So when a table sets an
# "NLL (ODE)" beside bounds, as the paper's table of images does, it sets a density of λ = 0 beside bounds on
# densities of λ = 1. Both are fair numbers; they belong to different models.
#
# ## 2. Rows of real data
#
# Rows of numbers instead of points in the plane: sensors, collisions, image patches. Here nobody knows the entropy,
# so models are compared on the mean $-\log p$ of test rows, in nats (lower is better). The paper's table, from
# `benchmarks/results/tabular.json`:

# %%
results = json.loads(Path("../benchmarks/results/tabular.json").read_text(encoding="utf-8"))
paper = dict(results["paper"])
print("the paper, test −log p  " + "".join(f"{name.upper():>11s}" for name in paper.pop("sets")))
for name, row in paper.items():
    print(f"{name:24s}" + "".join(f"{value:11.2f}" for value in row))

# %% [markdown]
# DiffFlow's row is its *ODE*. What was run for this course, with the benchmark of this repository, are patches of images. All
# models learn rows $z = W(x - \mu)$, whitened by the training rows' mean $\mu$ and covariance; $W$ is a square matrix.
#
# **Exercise 1. Back to real units.** `nats` $(B,)$ holds $-\log q(z)$ of $B$ whitened rows. Return $-\log p(x)$, $B$ numbers.
# (Notebook 01: a linear map is the simplest flow. $\det W$ may be negative.)


# %% tags=["exercise"]
def raw_nats(nats, W):
    return None  # your answer


# %% tags=["check"]
exercises.check_raw_nats(raw_nats)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def raw_nats(nats, W):
#     return nats - torch.linalg.slogdet(W).logabsdet
# ```
#
# </details>

# %%
(entry,) = results["sets"].values()
print(f"{entry['note']}\n")
print("                            test −log p [nats]    ahead of the Gaussian     rows")
for model, record in entry["models"].items():
    for key in (key for key in record if key.startswith("test")):
        found, ode = record[key], "ode" in key
        sign = "≤" if model in ("ddpm", "diffflow") and not ode else " "
        name = model + key.removeprefix("test").replace("_", ", ", 1).replace("_", " ")
        gain = f"{found['gain']:.2f} ± {found['gain_error']:.2f}" if "gain" in found else ""
        value = f"{found['nats']:8.2f} ± {found['error']:.2f}"
        print(f"{name:25s}  {sign} {value}   {gain:>20s}   {found['rows']:8d}")

# %% [markdown]
# **Explain.** The full-covariance Gaussian is the number to beat: much of what tabular densities are about is covariance, and
# a model of whitened rows has it for nothing. "≤" marks a bound; a flow's number is its
# value; an ODE's stands in a line of its own, on fewer rows, because it costs hundreds of network calls. A bound against a
# value is not an even comparison: the difference between bound and value counts against the chain, so the table says who is
# ahead in what is *guaranteed*. (That DiffFlow's drift stayed at zero: training both nets found nothing better in this time.)
#
# The patches were made again from the images, not taken from the published rows, so these numbers stand
# *beside* the paper's column BSDS300, never in it. The other sets need a network:
# `tabular.load("power")` downloads and prepares them as the MAF paper did.
#
# Fewer rows are other rows, with another mean. When is a difference between two models one? A row that is
# unlikely for one model is unlikely for the other, too. So compare on the same rows, row by row.
#
# **Exercise 2. A difference and its error.** `a` and `b`, $(n,)$, are the −log p of the same rows by two models. Return two
# numbers: by how much $b$ is better in the mean, and the standard error of that.


# %% tags=["exercise"]
def compare(a, b):
    return None  # your answer: (gain, error)


# %% tags=["check"]
exercises.check_compare(compare)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def compare(a, b):
#     gain = a - b
#     return gain.mean(), gain.std() / len(gain) ** 0.5
# ```
#
# </details>

# %%
ode, coupling = entry["models"]["diffflow"]["test_ode"], entry["models"]["coupling"]["test"]
apart = ode["gain"] - coupling["gain"]
error = math.hypot(ode["gain_error"], coupling["gain_error"])
print(f"gain of DiffFlow's ODE minus gain of the coupling flow: {apart:.2f} ± {error:.2f} nats")
print(f"that is {apart / error:.1f} standard errors")

# %% [markdown]
# These two were measured on different rows, so their errors add (in squares). Less than two standard errors: a tie, whatever the
# means say.
#
# ## 3. A small set, now
#
# Something that fits on this page: handwritten digits of 8 × 8 pixels from scikit-learn, dequantised, as rows
# of 64 numbers. A coupling flow starts level with the Gaussian and learns for a second.
#
# **Predict:** a small flow and a large one. Which has the better $-\log p$ on training rows, and which on rows it
# never saw?

# %%
digits = tabular.load("digits")
gaussian = tabular.Gaussian.of(digits.train)
parts = {"training": digits.train, "validation": digits.validation, "test": digits.test}
white = {name: gaussian.whiten(torch.from_numpy(rows)) for name, rows in parts.items()}
level = {name: -gaussian.log_prob(torch.from_numpy(rows)) for name, rows in parts.items()}


# %%
@torch.no_grad()
def nats(flow, part):
    """−log p of every row, in real units."""
    return flow.bound(white[part]) + gaussian.log_det


def learn(layers, hidden):
    """A flow, and its mean −log p on the way: rows of (step, training, validation, test)."""
    torch.manual_seed(0)
    flow, curve = CouplingFlow(digits.dim, layers=layers, hidden=hidden), []

    def look(step, model):
        if step % 20 == 19 or step == 0:
            curve.append([step + 1, *(nats(model, part).mean().item() for part in parts)])

    fit(flow, white["training"], steps=200, batch_size=128, lr=2e-3, callback=look)
    return flow, torch.tensor(curve)


# %%
(small, small_curve), (large, large_curve) = learn(4, 64), learn(8, 128)
for name, curve in (("small", small_curve), ("large", large_curve)):
    step, train, validation, test = curve[-1].tolist()
    print(
        f"{name} flow, step {step:.0f}: training ≈{train:.1f}, validation ≈{validation:.1f}, test ≈{test:.1f} nats"
    )
print(
    f"the Gaussian:          training {level['training'].mean():.1f}, test {level['test'].mean():.1f} nats"
)
verdict(
    "large minus small on training rows", large_curve[-1, 1] - small_curve[-1, 1], "nats", below=-5
)
verdict(
    "large minus the Gaussian on test rows",
    large_curve[-1, 3] - level["test"].mean(),
    "nats",
    above=0,
)

# %%
figures.curve_panels(
    [
        CurvePanel(
            "training step",
            "−log p [nats]",
            {
                "training rows": (curve[:, 0].tolist(), curve[:, 1].tolist()),
                "validation rows": (curve[:, 0].tolist(), curve[:, 2].tolist()),
                "the Gaussian, validation rows": (
                    [1, 200],
                    [level["validation"].mean().item()] * 2,
                ),
            },
            title=name,
            markers=False,
            ylim=(35, 110),
        )
        for name, curve in (("a small flow", small_curve), ("a large flow", large_curve))
    ],
    title="On few rows, a large flow learns the rows instead of the density",
)
plt.show()

# %% [markdown]
# $-\log p$ during training on rows the flow learns from (blue) and on rows it does not (orange), green the Gaussian. The small
# flow (left) gains on both. The large one (right) falls far lower on its own rows,
# while its validation curve turns after a few dozen steps and leaves the picture.
#
# **Explain.** A density on few rows can always be raised by a spike on each. Nothing in the likelihood of
# *training* rows says so. So the tables are of test rows, and `benchmarks/tabular.py` looks at
# validation on the way and keeps the best weights.
#
# **Exercise 3. Keep the best.** `curve` has a row for each look during training: step, training, validation and test −log p. At which
# step should the weights be kept, and which number is reported for them? Return the two.


# %% tags=["exercise"]
def best_look(curve):
    return None  # your answer: (step, number)


# %% tags=["check"]
exercises.check_best_look(best_look)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def best_look(curve):
#     best = curve[:, 2].argmin()  # validation chooses
#     return curve[best, 0], curve[best, 3]  # test reports
# ```
#
# </details>

# %%
best = large_curve[large_curve[:, 2].argmin()]
print(f"large flow, kept at step ≈{best[0]:.0f}: test ≈{best[3]:.1f} nats")
verdict("against the Gaussian", best[3] - level["test"].mean(), "nats", below=0)
gain = level["test"] - nats(small, "test")
verdict(
    "small flow against the Gaussian, same rows, in standard errors",
    gain.mean() / gain.std() * len(gain) ** 0.5,
    above=2,
)

# %% [markdown]
# Stopped in time, the large flow beats the Gaussian, too.
#
# **Open question.** How many rows does the large flow need? Train it on half and on all of the training rows, plot both validation
# curves, and predict from them the number of rows at which it no longer turns within 200 steps. Which measurement would tell
# whether you are right?
#
# ## What to remember
#
# - **Bound, value, ODE**: three columns. Print "≤" where it is a bound.
# - Print the **Gaussian**, and the **test rows**. Whitened nats need $-\log|\det W|$ to be real ones.
# - Compare models **row by row**; a difference within two standard errors is a tie.
# - **Validation chooses, test reports.**
#
# ## References
#
# - Q. Zhang and Y. Chen, *Diffusion Normalizing Flow*, NeurIPS 2021,
#   [arXiv 2110.07579](https://arxiv.org/abs/2110.07579): the tabular results, and the probability flow of equation 17 at λ = 0.
# - G. Papamakarios, T. Pavlakou and I. Murray, *Masked autoregressive flow for density estimation*, NeurIPS 2017:
#   the tabular sets (appendix D).
#
# **What is next.** Bits per dimension of images are these nats divided by $d \log 2$: notebooks [08](08_mnist.ipynb) and
# [09](09_cifar10.ipynb). The [map of the course](00_start_here.ipynb) shows the way.
