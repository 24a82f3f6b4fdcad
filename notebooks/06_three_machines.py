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
# # Three machines, one ring
#
# The same particles go through a flow, a diffusion and DiffFlow. Then we turn a dial that leads from the one to the
# other, and judge the paper's claims, one by one, by numbers and a rule.
#
# ## What you will learn
#
# - What three machines make of the **same particles**, in numbers: how much of a **mode** survives in the noise, and
#   how **Gaussian** the noise is.
# - Why a flow's missing nats can be read off **at either end**, in the data or in the noise.
# - The **noise budget** $\int g^2\,dt$: one number that leads from a flow to a diffusion, what it decides and what it
#   does not.
# - How to judge a claim by a **rule** instead of by taste, and what the rule says of the paper's claims.
#
# **Time and memory:** about 25 s of processor time (slower machines need up to three times that), and 550 MB. Nothing is trained here; every model was, by
# a command that stands in its card.

# %%
import json
import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown

from diffflow_edu import DiffFlow, exercises, figures, metrics, play, pretrained, toy, zoo
from diffflow_edu.figures import CurvePanel
from diffflow_edu.verdicts import verdict as judge

torch.set_num_threads(1)
results = Path("../benchmarks/results")

# %%
TITLES = {
    "olympic_rings": "five rings",
    "rotated_gaussian": "thin ring",
    "checkerboard": "checkerboard",
}
densities = {name: toy.load(name) for name in TITLES}
machines = {
    name: {
        "Flow": pretrained("cnf", name),
        "DiffFlow": pretrained("diffflow", name, steps=10),
        "DDPM": pretrained("ddpm", name, steps=10),
    }
    for name in TITLES
}

# %% [markdown]
# ## 1. The same particles, three ways out
#
# | | drift $f$ | noise $g$ | trained by |
# |---|---|---|---|
# | **Flow**: a CNF (FFJORD, notebook 01) | learned | none | exact likelihood |
# | **DiffFlow** (notebook 04), $N = 10$ | learned | some | path bound |
# | **DDPM** (notebook 03), $N = 10$ | fixed, linear | much | path bound |
#
# Each has about the same number of parameters. The flow's solver chooses its steps; we look
# at it at eleven times. `encode` carries data to noise, `sample` carries noise to data.
#
# **Predict** before you run. The rings' five colours start at $t = 0$. In which machines will you be able to say, at
# $t = T$, which ring a particle came from? And on the way back: which machine leaves particles between the rings?

# %%
ELEVEN = torch.linspace(0, 1, 11)


def ways_out(name, n=2000):
    """The same n particles of the data, carried to noise by every machine."""
    x = densities[name].sample(n, seed=1)
    return {
        title: model.encode(x, times=ELEVEN) if title == "Flow" else model.encode(x, seed=0)
        for title, model in machines[name].items()
    }


def ways_back(name, n=2000):
    """The same n draws of noise, carried to data by every machine."""
    return {
        title: model.sample(n, seed=0, times=ELEVEN) if title == "Flow" else model.sample(n, seed=0)
        for title, model in machines[name].items()
    }


out = {name: ways_out(name) for name in TITLES}

# %%
rings = densities["olympic_rings"]
play(
    {"direction": {"out": out["olympic_rings"], "back": ways_back("olympic_rings")}},
    color=rings.mode,
    density=rings,
    title="Five rings: the flow keeps the order, DDPM loses it, DiffFlow keeps about half",
)

# %% [markdown]
# The dial **direction** switches between the way out (2000 points of data go to noise) and the way
# back. Below the panels stand, at every step, the distance to the data and to
# $\mathcal N(0, I)$, and the leak. The still picture has data at the left, noise at the right.
#
# **Explain.** The flow is continuous and one-to-one, so neighbours stay neighbours: at $t = T$ its colours have
# sharp borders. DDPM shrinks and mixes, and the colours end on top of each other. DiffFlow adds
# less noise and moves particles by its drift: regions with soft borders. On the way back the flow has a problem of
# its own. It cannot tear the plane, and a ring has a hole where a Gaussian has none: particles are left inside the rings
# and between them.
#
# Now a ring a thousandth of a radius thick, the paper's *rotated Gaussian*. It has one mode only, so
# the colour is the angle at which a particle starts.

# %%
play(
    out["rotated_gaussian"],
    color=lambda x: torch.atan2(x[:, 1], x[:, 0]),
    density=densities["rotated_gaussian"],
    title="A thin ring: who closes the hole, and who keeps the colours in order",
)

# %% [markdown]
# **Explain.** The flow (top row of the still) keeps every colour in its place and does not quite close the hole. DiffFlow closes it with
# a little noise in its last steps, keeps the colours nearly as well, and ends too narrow. DDPM's noise is round and
# as wide as it should be, and its colours are mixed.
#
# ## 2. What the noise remembers, in numbers
#
# For each particle in the noise, $x_T$, look up its **nearest neighbour**: is it from the same ring? The share for
# which it is, is the **mode survival**. It is 1 where every mode has a region of its own. (Notebook 00 let fifteen
# neighbours vote, which guesses better; with one, the chance level has a closed form.)
#
# **Exercise 1. Look up the neighbour.** `latent` has shape $(n, 2)$, `modes` $(n,)$. Return the share of
# particles whose nearest neighbour has their mode, a 0-d tensor. `torch.cdist` gives all distances.


# %% tags=["exercise"]
def mode_survival(latent, modes):
    return None  # your answer


# %% tags=["check"]
exercises.check_mode_survival(mode_survival)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def mode_survival(latent, modes):
#     distance = torch.cdist(latent, latent).fill_diagonal_(torch.inf)  # not its own neighbour
#     nearest = distance.argmin(1)
#     return (modes[nearest] == modes).double().mean()
# ```
#
# </details>

# %% [markdown]
# And if nothing survives? Then the neighbour's mode is that of a particle drawn at random from the others.
#
# **Exercise 2. The chance level.** Of $n$ particles $n_m$ have mode $m$. Draw two without putting the first one back:
# what is the chance that they share their mode? `modes` has shape $(n,)$.


# %% tags=["exercise"]
def chance_level(modes):
    return None  # your answer


# %% tags=["check"]
exercises.check_chance_level(chance_level)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def chance_level(modes):
#     n, count = len(modes), modes.unique(return_counts=True)[1]
#     return (count * (count - 1)).sum() / (n * (n - 1))
# ```
#
# </details>

# %% [markdown]
# To forget is no merit by itself: the noise has to *be* $\mathcal N(0, I)$, or samples start from the
# wrong places. So the second number is the sliced W2 distance from $x_T$ to $\mathcal N(0, I)$, beside
# its **floor**, the distance between two sets of true Gaussian draws. Both are in the library,
# `metrics.evaluate_latent`.
#
# **Predict:** which machine's noise is nearest to the Gaussian: the flow's, which is trained for nothing else, DDPM's
# or DiffFlow's?

# %%
latent = {
    name: {
        title: metrics.evaluate_latent(model, densities[name], n=2000)
        for title, model in machines[name].items()
    }
    for name in TITLES
}
print("                         mode survival   chance      W2 to N(0, I)   floor")
for name, row in latent.items():
    for title, found in row.items():
        survives = f"{found['mode_survival']:13.2f}   {found['mode_survival_chance']:6.2f}"
        if densities[name].n_modes == 1:
            survives = f"{'–':>13s}   {'–':>6s}"
        distance = f"{found['w2_to_normal']:13.2f}   {found['w2_to_normal_floor']:5.2f}"
        print(f"{TITLES[name]:14s} {title:8s}  {survives}      {distance}")

# %%
shown = {TITLES[name]: name for name in ("olympic_rings", "checkerboard")}
figures.latent_clouds(
    {row: {title: path.end for title, path in out[name].items()} for row, name in shown.items()},
    {row: densities[name].mode(out[name]["Flow"].start) for row, name in shown.items()},
    notes={
        row: {
            title: f"{found['mode_survival']:.0%} survive, W2 {found['w2_to_normal']:.2f}"
            for title, found in latent[name].items()
        }
        for row, name in shown.items()
    },
    title="What the noise remembers: nearly all, about half, next to nothing",
)
plt.show()

# %% [markdown]
# The particles at $t = T$, coloured by the mode on which they started; dashed, the contours of
# $\mathcal N(0, I)$ at one and two standard deviations. Left to right: sharp borders, soft regions, mixed colours.
#
# **Explain.** DDPM's noise is nearest to the Gaussian: hardly anything else is left. The
# flow is trained by its likelihood alone, and is not the nearest. Is the likelihood
# decided near the thin data, and not in the noise? No. A flow is a bijection, and the KL divergence does not
# change when both densities go through the same bijection:
#
# $$\mathrm{KL}(p_\text{data}\,\|\,p_\text{model}) = \mathrm{KL}(p_{x_T}\,\|\,\mathcal N(0, I)).$$
#
# So every nat that the flow loses on the data is a nat by which its noise is not Gaussian. Check it: at the data by
# the flow's own $\log p$, in the noise without it, by an estimate of the entropy of $x_T$ from
# distances to the fourth neighbour (Kozachenko and Leonenko).


# %%
def entropy(x, k=4):
    """Kozachenko and Leonenko's estimate from n points of the plane, in nats."""
    distance = torch.cdist(x.double(), x.double()).fill_diagonal_(torch.inf)
    to_kth = distance.kthvalue(k, dim=1).values
    n, k = torch.tensor([len(x), k], dtype=torch.float64)
    return float(n.digamma() - k.digamma() + math.log(math.pi) + 2 * to_kth.log().mean())


def kl_to_normal(z):
    """KL(p_z ‖ N(0, I)), in nats: −E log N(z) − H(z)."""
    return float(0.5 * z.square().sum(1).mean() + math.log(2 * math.pi)) - entropy(z)


for name in ("olympic_rings", "rotated_gaussian"):
    flow, x = machines[name]["Flow"], densities[name].sample(600, seed=1)
    with torch.no_grad():
        at_the_data = float((densities[name].log_prob(x) - flow.log_prob(x)).mean())
    in_the_noise = kl_to_normal(out[name]["Flow"].end)
    print(
        f"{TITLES[name]}: KL at the data ≈{at_the_data:.2f} nats, in the noise ≈{in_the_noise:.2f} nats"
    )
    judge("  they differ by", abs(at_the_data - in_the_noise), "nats", below=0.1)

# %% [markdown]
# The two agree, to the error of 600 points and of the estimate. KL and W2 weigh the *same* remaining error
# differently: a thin gap or a sharp edge inside $x_T$ costs nats and little W2.
#
# A chain pays twice: its path KL is $\mathrm{KL}(p_{x_T}\|\mathcal N)$ *plus* what its steps back cost. So it may
# give up some roundness of the noise for steps that are easier to undo. DiffFlow does: its thin ring ends too narrow.
#
# ## 3. A crossing, magnified
#
# Where two rings cross, the data continues along *two* lines. A particle that arrives in a few large
# Gaussian steps has to decide between them. **Predict:** at $N = 5$, will DDPM or DiffFlow draw the
# cleaner crossing? And the flow, which may take as many steps as it needs?

# %%
crossing = metrics.crossings(rings)[0]
sources = {
    "DDPM, N = 5": pretrained("ddpm", "olympic_rings", steps=5),
    "DiffFlow, N = 5": pretrained("diffflow", "olympic_rings", steps=5),
    "flow": machines["olympic_rings"]["Flow"],
}
five = {"data": rings.sample(12_000, seed=5)}
five |= {title: model.sample(12_000, seed=0).start for title, model in sources.items()}
print("                  leak within 0.15 of a crossing    leak everywhere")
for title, x in five.items():
    near, everywhere = metrics.crossing_leak(x, rings), metrics.leak(x, rings)
    print(f"{title:16s}  {near:30.0%}    {everywhere:15.0%}")

# %%
figures.magnifier(
    five,
    centre=tuple(crossing.tolist()),
    half=0.3,
    color=rings.mode,
    title="Five steps leave a haze around the crossing, the flow leaves a cloud in it",
)
plt.show()

# %% [markdown]
# A window of 0.6 by 0.6 around two of the eight crossings, 12 000 samples a machine in all, coloured by the nearest
# ring.
#
# **Explain.** With five steps, one Gaussian has to cover whatever the data does within a step, and the best Gaussian
# for a thin curve is too thick: that is the haze. The paper says that DDPM blurs the crossings, and at five steps it
# does so more than DiffFlow. But DDPM leaks *less* near a crossing than elsewhere on the rings. Only the flow leaks most
# at the crossings themselves.
#
# ## 4. The noise dial
#
# DiffFlow keeps about half of the modes. Is that the learned drift, or only that it adds **less noise** than DDPM? All
# the variance that a forward process adds is one number, its **noise budget** $B = \int_0^T g(t)^2\,dt$.


# %%
def noise_budget(model):
    """B = ∫ g² dt, by the trapezium rule."""
    t = torch.linspace(0, float(model.schedule.times[-1]), 4001, dtype=torch.float64)
    return torch.trapezoid(model.schedule.noise_process.g(t) ** 2, t).item()


print("five rings      N    noise budget    mode survival    W2 to N(0, I)")
for kind, title in {"diffflow": "DiffFlow", "ddpm": "DDPM"}.items():
    for n in (5, 10, 30):
        model = pretrained(kind, "olympic_rings", steps=n)
        found = metrics.evaluate_latent(model, rings, n=2000)
        survives, distance = found["mode_survival"], found["w2_to_normal"]
        print(
            f"{title:12s}  {n:3d}  {noise_budget(model):14.2f}  {survives:15.2f}  {distance:15.2f}"
        )

# %% [markdown]
# Whoever has less noise remembers more. But every DiffFlow here has less noise than every DDPM, so this table cannot
# tell what the drift does. For that we need models of equal budget, with and without a drift.
#
# On our log-SNR chain, with $r = \sigma/\alpha$ the noise-to-signal ratio, $g^2 = \frac{d}{dt}\log(1 + r^2)$. It
# starts at $r = 0$ and ends at $r_\text{max}$. So $B$ can be set by $r_\text{max}$ alone, and all else stays as it is.
#
# **Exercise 3. Set the dial.** Which $r_\text{max}$ gives the budget $B$? `budget` has shape $(m,)$.


# %% tags=["exercise"]
def r_max(budget):
    return None  # your answer


# %% tags=["check"]
exercises.check_r_max(r_max)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# The integral of a derivative: $B = \log(1 + r_\text{max}^2) - \log 1$.
#
# ```python
# def r_max(budget):
#     return (budget.exp() - 1).sqrt()  # e^B = 1 + r²
# ```
#
# </details>

# %% [markdown]
# Here is the dial: DiffFlows of ten steps on the five rings, alike in everything but $B$. And to each a twin: the
# same chain with its **drift switched off**.
#
# **Predict:** at equal budget, does the noise remember more with the drift or without? And which noise is rounder?

# %%
dial = {
    b: pretrained(f"diffflow_noise_{b:g}", "olympic_rings", steps=10) for b in zoo.NOISE_BUDGETS
}
x, normal = (
    rings.sample(2000, seed=1),
    torch.randn(2000, 2, generator=torch.Generator().manual_seed(3)),
)
measured = {"mode survival": {}, "W2 to N(0, I)": {}}
print(f"each was made by a command such as: {dial[0.001].card['command']}\n")
print("            mode survival      W2 to N(0, I)")
print("B           drift  no drift    drift  no drift")
for b, model in dial.items():
    still = DiffFlow(lambda x, t: torch.zeros_like(x), model.score, model.schedule)
    ends = [each.encode(x, seed=0).end for each in (model, still)]
    survives = [metrics.mode_survival(end, rings.mode(x)) for end in ends]
    distance = [metrics.sliced_w2(end, normal) for end in ends]
    measured["mode survival"][b], measured["W2 to N(0, I)"][b] = survives, distance
    numbers = "     ".join(f"≈{value:.2f}" for value in (*survives, *distance))
    print(f"{b:<8g}    {numbers}")
apart = max(abs(a - b) for a, b in measured["mode survival"].values())
judge("\nmode survival with and without drift differs by at most", apart, below=0.08)

# %%
figures.curve_panels(
    [
        CurvePanel(
            "noise budget B",
            f"{what} of x_T",
            {
                name: (list(rows), [row[i] for row in rows.values()])
                for i, name in enumerate(("learned drift", "drift switched off"))
            },
            log="x",
        )
        for what, rows in measured.items()
    ],
    title="The budget decides what the noise remembers, the drift makes it round",
)
plt.show()

# %% [markdown]
# Left: mode survival against the budget (log scale), with the learned drift and without: one curve. Right: the distance
# to $\mathcal N(0, I)$: with the drift (blue) the noise is rounder, until at large budgets both are round.
#
# **Explain.** What the noise remembers depends on the budget, and hardly on the drift: a drift moves
# neighbours together, noise mixes them. The drift does the other thing: it carries the particles to
# where a Gaussian expects them, at budgets at which noise alone would leave five rings standing.
#
# So flow and diffusion are two ends of one family. At $B = 0.001$ only the drift can carry a particle anywhere. At
# $B = 4$ noise covers the data even without a drift.

# %%
ends_of_dial = {
    f"{b:g}": {"out": dial[b].encode(x, seed=0), "back": dial[b].sample(2000, seed=0)}
    for b in zoo.NOISE_BUDGETS
}
play(
    {"B": ends_of_dial},
    color=rings.mode,
    density=rings,
    title="Turn the dial B: from nearly a flow to nearly a diffusion",
)

# %% [markdown]
# The panels are the way out and the way back, ten steps each. Go to $t = T$ and turn
# the dial **B**: the colours mix. Go to $t = 0$ and turn it: watch the haze between the rings. The still picture has
# rows for some settings of the dial.
#
# **Predict:** which of these get better and which worse as the budget grows: the bound, the leak, the
# distance of $x_T$ from $\mathcal N(0, I)$? Is the best place at an end? And with only
# five steps, is it nearer to the flow or to the diffusion?

# %%
report = json.loads((results / "dial.json").read_text())
figures.noise_dial(
    report["records"],
    title="Too little noise leaks, too much has to be undone; five steps suffer more than ten",
)
plt.show()

# %% [markdown]
# Four measures against the noise budget (log scale): blue ten steps, orange five; means over three
# seeds, in a band from the least to the greatest; a circle marks the best gap and
# the best leak of each. Gap and leak have a valley between the ends. In the lower row, mode
# survival falls to chance, and the noise becomes round: both hardly depend on $N$.

# %%
best = {n: report["best"][n]["mean"] for n in ("10", "5")}
seeds = [str(seed) for seed in report["setting"]["seeds"]]
print("least at the budget B =     N = 10    N = 5    the same in every seed")
for what, name in {"gap": "gap", "leak": "leak", "sliced_w2": "sliced W2 of samples"}.items():
    agree = all(report["best"][n][seed][what] == best[n][what] for n in best for seed in seeds)
    print(f"{name:24s}  {best['10'][what]:>8g} {best['5'][what]:>8g}    {agree}")


def average(n, budget, what):
    """The mean over seeds."""
    found = [r["metrics"][what] for r in report["records"] if (r["N"], r["budget"]) == (n, budget)]
    return sum(found) / len(found)


for n in (10, 5):
    costs = average(n, 4, "gap") - average(n, 0.1, "gap")
    print(
        f"N = {n}: leak {average(n, 0.001, 'leak'):.0%} at B = 0.001; from B = 0.1 to 4 the gap grows by {costs:.2f} nats"
    )

# %% [markdown]
# **Explain.** Near the **flow**, a backward step has too little noise. A true flow goes back by its exact inverse; a
# backward step of DiffFlow is not the inverse of the forward step, and the bound counts the difference in units of the
# noise. (This is the fine print of Theorem 1, notebook 07: the limit $g \to 0$ needs $\Delta t \ll g$.) So
# training keeps the drift small: at $B = 0.001$ the rings have hardly moved at $t = T$, samples start from a
# Gaussian that is not there, and many of them leak. Near the **diffusion**, much noise has to be undone in the same
# few steps. In between, the drift shortens the way and the noise tolerates its errors.
#
# **Does the best place move with $N$?** Yes, and in every seed alike: for the leak and for the sliced W2 of
# samples it is nearer to the flow at five steps than at ten. The fewer the steps, the more a noisy
# way costs. (The gap's best setting is the same for both.) No place is the best for
# everything: the bound is best with little noise, sliced W2 with more, where $x_T$ is round.
#
# **Open question.** Switch the drift off on the checkerboard and measure mode survival
# against $B$. First predict: are the squares forgotten at a smaller budget than the rings, or at a larger one?
# Then measure, and explain. One loop is enough, and no training.
#
# ## 5. The ledger
#
# The paper makes a dozen claims. A claim is tested by *comparisons*: DiffFlow against DDPM at $N = 5$ on four sets is
# four of them. Each has an **effect**, positive where it speaks for the claim; a **spread**, by how much the seeds
# differ; and a **margin**, the least difference that counts. A comparison is *for* the claim (1) where the effect is
# larger than both, *against* it (−1) where the opposite effect is, and shows *no difference* (0) otherwise.
#
# A *condition*, such as "N = 5", is **won** where more than half of its comparisons are for, and **lost** where more
# than half are against. A claim
#
# - **holds** where every condition is won and at most one comparison in ten is against,
# - **does not hold** where no condition is won,
# - is **mixed** where some condition is won, but more comparisons are against than for,
# - and **holds when …** otherwise: in the conditions that are won.
#
# **Exercise 4. The verdict.** `conditions` is a list with one tensor for each condition, the outcomes 1, 0 or −1 of
# its comparisons. Return one of the four numbers. This one needs a loop.

# %% tags=["exercise"]
HOLDS, HOLDS_WHEN, MIXED, FAILS = 3, 2, 1, 0


def verdict(conditions):
    return None  # your answer


# %% tags=["check"]
exercises.check_verdict(verdict)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def verdict(conditions):
#     won = [2 * (each == 1).sum() > len(each) for each in conditions]
#     every = torch.cat(conditions)
#     ours, against = (every == 1).sum(), (every == -1).sum()
#     if not any(won):
#         return 0
#     if all(won) and 10 * against <= len(every):
#         return 3
#     return 1 if against > ours else 2
# ```
#
# </details>

# %% [markdown]
# **Predict:** thirteen claims of the paper; of how many will the rule say *holds*?

# %%
ledger = json.loads((results / "ledger.json").read_text())
verdicts = [each["verdict"] for each in ledger["claims"]]
count = {word: verdicts.count(word) for word in ("holds", "holds when …", "mixed")}
figures.claim_matrix(
    ledger["claims"],
    title=f"{len(verdicts)} claims of the paper: "
    + ", ".join(f"{word} × {k}" for word, k in count.items()),
)
plt.show()

# %% [markdown]
# A row a claim, a cell a condition: how many of its comparisons are for the claim, and how many against. Below the name of
# a claim stands its threshold: for most a margin, for a claim that names a number ("about 2 %") a window around it.
#
# The numbers, and what they **rest on**. *3 trainings*: each side was trained three times, and the
# spread is over them. *1 training, 3 draws*: each side was trained once, and the spread is over draws of
# data and noise; another training may differ by more.

# %%
Markdown(ledger["table"])

# %% [markdown]
# **Explain.** What does it say of the paper's main claims?

# %%
found = {each["name"]: each["conditions"] for each in ledger["claims"]}
for when, each in found["fewer steps"].items():
    print(
        f"DiffFlow ahead of DDPM, {when:20s} {each['effect']:+.2f} nats, {each['for']} of {each['of']}"
    )
for n in (5, 10, 30):
    apart, fills = (found[name][f"N = {n}"] for name in ("modes apart", "fills the Gaussian"))
    print(
        f"N = {n:2d}: modes apart in {apart['for']} of {apart['of']}, Gaussian filled in {fills['for']} of {fills['of']}"
    )
noisier = found["λ = 1 samples best"]["against λ = 1.5, by leak"]
print(f"λ = 1 leaks less than the noisier λ = 1.5 in {noisier['for']} of {noisier['of']}")
price = found["six times the cost"]
for n in (5, 10, 30):
    a_step, whole = price[f"a step, N = {n}"]["shown"], price[f"to equal bound, N = {n}"]["shown"]
    print(f"DiffFlow's cost in DDPMs, N = {n:2d}: a step {a_step:>3s}, to equal bound {whole}")
cards = {kind: pretrained(kind, "olympic_rings", steps=30).card for kind in ("ddpm", "diffflow")}
print(
    "after longer training, five rings, N = 30: gap {:.2f} and {:.2f} nats".format(
        *(card["metrics"]["gap"] for card in cards.values())
    )
)

# %% [markdown]
# - **The drift pays where steps are few.** At thirty, the paper's own comparison, with linear $\beta$, is
#   won clearly. Give DDPM a grid with small steps near the data, and after a minute of training the lead
#   is gone, at twenty steps already. Much of the difference in that comparison is a matter of *where the
#   steps are*. (After longer training, on a grid of its own, DiffFlow is ahead on the rings at thirty steps, too: last
#   line.)
# - **"Keeps modes apart" and "fills the Gaussian"** are hardly ever won by the same DiffFlow: more noise gives the one
#   and takes the other.
# - **"Sharper boundaries" is mixed.** At ten and twenty steps DDPM on its better grid leaks less.
# - **Noise corrects errors.** In the $\lambda$ family (notebook 07) less noise than $\lambda = 1$ leaks more, as the paper says.
#   But a little more noise than the model's own leaks less still. So "best" was the best of those tried.
# - **The cost** depends on $N$, and on what is counted. A training step of DiffFlow walks a whole path, so it costs
#   many times what DDPM's costs. But a path teaches all of its steps at once: to be as
#   good as a DDPM that was trained for four or for eight seconds, DiffFlow takes less than that time at five steps, one to
#   two times as much at ten, and four to five times at thirty, the paper's $N$.
#
# The command: `python -m benchmarks.ledger`. All this is about thin sets in two
# dimensions, small nets and a CPU-minute of training; images are another matter.
#
# ## What to remember
#
# - **Mode survival** and the **distance to $\mathcal N(0, I)$**, each beside its chance level or floor, say in
#   two numbers what a picture of the noise suggests.
# - A flow's **KL is the same at both ends**; W2 is another measure and may disagree.
# - The **noise budget** $\int g^2\,dt$ decides what the noise remembers, with or without a drift; the drift makes the
#   noise round. The best bound and the least leak lie between flow and diffusion.
# - A verdict is a rule applied to numbers with a spread. Write the rule first, and print its threshold.
#
# ## References
#
# - Q. Zhang and Y. Chen, *Diffusion Normalizing Flow*, NeurIPS 2021,
#   [arXiv 2110.07579](https://arxiv.org/abs/2110.07579): forward and backward steps (11, 12), the loss
#   (16), the λ family (17), Theorem 1; its figures 4 and 5 are what sections 1 to 3 put into numbers.
# - W. Grathwohl et al., *FFJORD*, ICLR 2019. J. Ho, A. Jain and P. Abbeel, *Denoising Diffusion
#   Probabilistic Models*, NeurIPS 2020.
# - L. Kozachenko and N. Leonenko, *Sample estimate of the entropy of a random vector*, 1987. T. Cover and P. Hart,
#   *Nearest neighbor pattern classification*, 1967.
#
# **What is next.** Notebook 07 takes the likelihoods apart: the bound, the ODE, and Theorem 1 with its fine
# print. The [map of the course](00_start_here.ipynb) shows the way.
