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
# # MNIST: a particle is a picture
#
# The same classes, with 196 coordinates in place of two; nothing changes but the networks, and the cost.
#
# ## What you will learn
#
# - That `DiffFlow.unet` is `DiffFlow` with two **U-Nets** inside, and nothing else.
# - What **dequantisation** is for, and how nats become **bits per dimension**.
# - What a learned drift does to digits on their way out, measured on a model you have just seen trained.
# - What **FID** is, and why its number means nothing without the name of a network and a floor.
# - How DiffFlow, a DDPM and a coupling flow of the same price compare on small MNIST, and the command
#   that trains the big one on a GPU, stops, and goes on.
#
# **Time and memory:** about 35 s of processor time, almost half of it training (slower machines need up to three times that), and 750 MB. Nothing is downloaded: what is live uses
# the 8×8 digits that come with scikit-learn, and the models of 14×14 MNIST were trained before.

# %%
import json
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from diffflow_edu import (
    DDPM,
    DiffFlow,
    Schedule,
    exercises,
    fid,
    figures,
    fit,
    images,
    metrics,
    play,
    pretrained,
    scale,
    tabular,
    zoo,
)
from diffflow_edu.evaluation import evaluate
from diffflow_edu.unet import cost
from diffflow_edu.verdicts import verdict

torch.set_num_threads(1)  # nets this small gain little from a second core
results = Path("../benchmarks/results")  # what takes longer than a notebook may
digits = images.load("digits")
print(digits)

# %% [markdown]
# ## 1. Nothing changes but the networks
#
# `DiffFlow` works for particles of any shape: $x$ has the shape $(B, *\text{shape})$, and drift and score return the shape that they
# were given. So from rings to digits it is one line. What does change is the network. In the plane a few dense layers
# saw the whole particle; on a picture, a network should treat all places alike. A **U-Net** processes the picture at
# several sizes: convolutions on the way down, where height and width are halved, others on the way up, where they are
# doubled, and skip connections between layers of the same size. Every block receives the time.

# %%
schedule = Schedule.log_snr(steps=10, r_min=0.05, r_max=8.0)
for size, side in (("tiny", 14), ("small", 28)):
    model = DiffFlow.unet(schedule, shape=(1, side, side), size=size)
    print(
        f"{size:5s} on {side}×{side}: each of drift and score has {cost(model.drift, (1, side, side))}"
    )

# %% [markdown]
# A tiny one, trained for minutes on MNIST at half its size, comes with the package. The player shows particles that are
# pictures as pictures: noise at the right end of the slider, digits at the left.
#
# **Predict:** ten steps lead from noise to digits. After how many of them can you tell which digit it will be?

# %%
mnist = pretrained("diffflow", "mnist14")
play(
    mnist.sample(36, seed=1),
    direction="backward",
    title="Ten steps from noise to digits (DiffFlow, 14×14 MNIST)",
)

# %% [markdown]
# Thirty-six particles, ten steps. At first one can only guess; between $t = 0.8$ and $t = 0.55$, two or three steps, the
# digits are decided; the remaining steps sharpen the strokes. Most are digits, some are scribbles: this model was
# trained for eleven minutes on one core.
#
# **Explain.** The grid takes equal steps in the logarithm of noise over signal (notebook 03). A digit shows through noise as strong
# as itself, since its pixels agree with one another and those of the noise do not. So *what* it is is decided within a few steps; most
# of the ten are spent on fine detail, which the eye hardly sees and every likelihood counts.
#
# ## 2. From grey levels to bits
#
# A pixel is a whole number $k$ from 0 to 255. Densities are about real numbers, and on whole numbers a density can be made as high
# as one likes. Here is one that is. It knows nothing but how often each pixel has each level, and it puts spikes of width
# $w$ levels on the levels: the narrower they are, the higher they are.

# %%
levels = torch.arange(digits.levels)
seen = (digits.train.flatten(1)[..., None] == levels).sum(0) + 0.5  # no level is impossible
share = seen / seen.sum(1, keepdim=True)  # (64 pixels, 17 levels)
test_levels = digits.test.flatten(1).long()
honest = -share.log2().gather(1, test_levels.T).mean().item()
for w in (1, 0.1, 0.01, 0.001):
    print(f"spikes of width {w:<5g}  -log2 p of a test pixel: {honest + math.log2(w):6.1f} bits")

# %% [markdown]
# All lines of this table are the same model with other spikes, and there is no end to it. The remedy: give every level a cell of
# its own and spread it evenly over the cell. The pixel becomes $x = (k + u)/256$ with $u$ uniform in $[0, 1)$, and the
# model sees $y = 2x - 1$ in $[-1, 1)$. Now a spike thinner than a cell misses most of it.
#
# **Exercise 1. Dequantise.** Return $y$ for levels `k` and draws `u`.


# %% tags=["exercise"]
def dequantise(k, u):
    return None  # your answer


# %% tags=["check"]
exercises.check_dequantise(dequantise)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def dequantise(k, u):
#     return 2 * (k + u) / 256 - 1
# ```
#
# </details>

# %% [markdown]
# The probability of the levels $k$ of a picture *is* the integral of the density over their cell, which is $2/256$ wide in every pixel:
# $P(k) = \left(\frac{2}{256}\right)^D \mathbb E_u\, p(y)$. Jensen's inequality takes the logarithm inside:
# $\log P(k) \ge \mathbb E_u \log p(y) + D \log \frac{2}{256}$. Divided by the number $D$ of pixels, in bits,
#
# $$\text{bits/dim} = \frac{-\log p(y)}{D \ln 2} + 7 \tag{A}$$
#
# is an upper bound on what the model needs to store a pixel. Without any model a pixel takes eight bits.
# (scikit-learn's digits have 17 levels: $\log_2 17 = 4.1$ bits without a model, and $\log_2 \frac{17}{2}$ in place of 7.)
#
# **Exercise 2. Bits per dimension.** `nats` is $-\log p(y)$ of pictures with `d` pixels and 256 levels.


# %% tags=["exercise"]
def bits_per_dim(nats, d):
    return None  # your answer


# %% tags=["check"]
exercises.check_bits_per_dim(bits_per_dim)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def bits_per_dim(nats, d):
#     return nats / (d * math.log(2)) + 7
# ```
#
# </details>

# %% [markdown]
# In the module these are `images.dequantise` and `images.bits_per_dim`. Two more rules: a bound is "at most", so we
# print it with a ≤; and a picture that was padded, shrunk or cut is another problem with another number.
#
# ## 3. Train one
#
# Live, on the 8×8 digits: first the diffusion inside (its way out is fixed, and a training step evaluates the network at one
# time), then drift and score together through all ten steps, by the adjoint of notebook 05.
#
# **Predict:** a pixel by itself needs 2.4 bits or so, given how often it has each level; a Gaussian with the full covariance
# knows which pixels go together. Where will some seconds of training end, and where some minutes?

# %%
torch.manual_seed(0)
model = DiffFlow.unet(schedule, digits.shape, size="tiny", learn_backward_std=True)
WARM, JOINT = 250, 12
history = fit(model, digits, steps=JOINT, warm_start=WARM, batch_size=40, lr=1e-3, seed=0)
model.calibrate(digits.sample(500, seed=1))  # the backward noise, in closed form

shipped = pretrained("diffflow", "digits")
(live,), (long,) = (evaluate(m, digits, n=297) for m in (model, shipped))
train = digits.dequantise(digits.train, seed=1)
test = digits.dequantise(digits.test, seed=0)
gaussian = tabular.Gaussian.of(train.flatten(1))
normal = digits.bits_per_dim(-gaussian.log_prob(test.flatten(1)).mean()).item()

print("bits/dim of 297 test pictures")
print(f"  no model                              {math.log2(17):.1f}")
print(f"  each pixel by itself                  {honest:.1f}")
print(f"  a Gaussian, full covariance           {normal:.1f}")
print(f"  DiffFlow, trained here             ≤ ≈{live.bits_per_dim:.1f}")
minutes = shipped.card["cpu_seconds"] / 60
print(f"  DiffFlow, shipped ({minutes:.0f} CPU-minutes)   ≤ {long.bits_per_dim:.1f}")
verdict(
    "trained here, against the Gaussian and the pixels", live.bits_per_dim, above=2.6, below=3.3
)
verdict("shipped, against the pixels", long.bits_per_dim, below=2.35, form=".1f")


# %%
def fog(n, seed):
    """n draws of the Gaussian, (n, 64)."""
    return gaussian.unwhiten(torch.randn(n, 64, generator=torch.Generator().manual_seed(seed)))


sheets = {
    "test digits": test[:49],
    "a Gaussian": fog(49, seed=0).unflatten(1, digits.shape),
    "trained here": model.sample(49, seed=0, shape=digits.shape).start,
    "shipped": shipped.sample(49, seed=0).start,
}
figures.image_sheets(sheets, title="Seconds of training make ghosts, minutes make digits")
plt.show()

# %% [markdown]
# Forty-nine each, from left to right: test digits; draws of the Gaussian; samples of the model that you have just
# trained; samples of the same model after four minutes.
#
# **Explain.** Look at the table again. Counting levels pixel by pixel is better than the Gaussian and than the model of some seconds.
# This is no mistake: many pixels of these digits are nearly always black, and a table of levels needs nearly no bits for them,
# while a smooth density must first learn how narrow a cell is. And yet nobody would call independent pixels a
# digit. **Bits/dim counts every bit of every pixel, the eye looks for strokes**; a model can be good at one and
# poor at the other. Measure both.
#
# ## 4. To the noise
#
# **Predict:** the way out has noise in it. After how many steps does the picture no longer tell which digit it was? And
# does the learned drift make a difference?

# %%
out = shipped.encode(test[:36], seed=0)
play(out, title="Test digits on the learned way out")

# %% [markdown]
# Thirty-six test digits dissolve: thin strokes first, blobs last.
#
# What do the pixels still tell? Notebook 06 measured whether each particle's nearest neighbour is of the same mode. Here the
# modes are the ten classes, and we measure it at every step, on the way out with the learned drift and, with the same draws of noise,
# on the way without (`DDPM.of` is the diffusion inside a DiffFlow).

# %%
everything, labels = digits.dequantise(digits.train, seed=0), digits.train_labels
chance = metrics.mode_survival_chance(labels)
ways = {
    "learned drift": shipped.encode(everything, seed=0),
    "no drift": DDPM.of(shipped).encode(everything, seed=0),
}
kept = {
    name: [100 * metrics.mode_survival(states, labels) for states in path.states]
    for name, path in ways.items()
}
alone = DiffFlow(lambda x, t: torch.zeros_like(x), shipped.score, shipped.schedule)
alone.shape = shipped.shape
alone.calibrate(digits.sample(500, seed=1))
(without,) = evaluate(alone, digits, n=297)
print(f"the neighbour is of the same class, in the data:    {kept['no drift'][0]:.0f} %")
ahead = [a - b for a, b in zip(kept["learned drift"], kept["no drift"], strict=True)]
for i in (6, 7):
    verdict(
        f"the drift keeps more of them, at step {i}", ahead[i], "%", above=4, below=8, form=".0f"
    )
for name, values in kept.items():
    off = abs(values[-1] - 100 * chance)
    verdict(f"in the noise, {name}, away from chance", off, "%", below=2, form=".1f")
saved = without.bits_per_dim - long.bits_per_dim
verdict("without its drift the model needs more, bits/dim", saved, above=0.05, below=0.08)

# %%
with figures.style():
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for (name, values), look, color in zip(kept.items(), ("o-", "s-"), figures.MODES, strict=False):
        axes.plot(shipped.schedule.times, values, look, color=color, label=name)
    axes.axhline(100 * chance, color="0.5", lw=1.2, ls="--", zorder=0)
    axes.text(0, 100 * chance + 2, "chance", color="0.4")
    axes.set(xlabel="t, from data (left) to noise (right)", ylim=(0, 105))
    axes.set_ylabel("neighbour of the same class [%]")
    axes.legend()
    figure.suptitle("The class is lost half-way; the drift holds it a little longer")
plt.show()

# %% [markdown]
# The share of 1500 digits whose nearest neighbour in the picture at time $t$ is of their own class: blue circles with the learned drift,
# orange squares without, dashed the level of chance. Nothing is lost in the first third; between $t = 0.4$ and $0.8$ it all goes.
#
# **Explain.** On rings (notebook 06) the learned drift could keep modes apart up to the very end, where the noise budget let it.
# Here $r_{\max} = 8$: at the end the noise is eight times as strong as the data, and the drift, which learned for 300 of 4300 steps of
# training, changes little. It saves a few hundredths of a bit per pixel, and at the end a nearest neighbour tells nothing of the class.
#
# ## 5. FID, and what it is not
#
# Show samples and data to a classifier, fit a Gaussian to the features that it sees in either, and take the **Fréchet
# distance** of the two Gaussians, squared (Heusel et al. 2017):
#
# $$\text{FID} = \lVert \mu_a - \mu_b\rVert^2 + \operatorname{tr}\bigl(\Sigma_a + \Sigma_b - 2(\Sigma_a\Sigma_b)^{1/2}\bigr). \tag{B}$$
#
# **Exercise 3. Fréchet.** Where features do not correlate, covariances are diagonal, and B is a sum over features. Means `m_a`,
# `m_b`, variances `v_a`, `v_b`, each one number a feature.


# %% tags=["exercise"]
def frechet(m_a, v_a, m_b, v_b):
    return None  # your answer


# %% tags=["check"]
exercises.check_frechet(frechet)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def frechet(m_a, v_a, m_b, v_b):
#     return ((m_a - m_b) ** 2 + (v_a.sqrt() - v_b.sqrt()) ** 2).sum()
# ```
#
# </details>

# %% [markdown]
# **Predict:** let the features be the pixels themselves. Which is nearest to the 1500 training digits: the 297 *test digits*, draws of the
# *Gaussian*, or samples of the *shipped model*?

# %%
pixels = everything.flatten(1)
candidates = {
    "test digits": test.flatten(1),
    "draws of the Gaussian": fog(1500, seed=1),
    "samples of the model": shipped.sample(1500, seed=1).start.flatten(1),
}
distance = {name: fid.frechet_distance(x, pixels) for name, x in candidates.items()}
for name, value in distance.items():
    print(f"{name:22s} {value:5.2f}")
gap = distance["test digits"] / distance["draws of the Gaussian"]
verdict("the Gaussian is nearer than real digits by a factor of", gap, above=4, form=".1f")

# %% [markdown]
# **Explain.** The Gaussian *has* the mean and the covariance of the training digits, and the distance compares nothing
# else. By this measure its blurred clouds are better than handwriting. Two lessons. *The features decide*: the distance sees only
# what they show. And *the number of pictures matters*: 297 pictures have a sample mean and covariance of their own, and a
# distance from any other 297.
#
# Published FIDs take features of Inception, a large network that has seen millions of photographs. Ours take the 128 of a LeNet of two
# convolutions that was trained to read MNIST, and we call them **FID-LeNet**: they rank the models on this page, and mean
# nothing beside other people's numbers. What does this LeNet make of our samples?

# %%
lenet = fid.feature_net("mnist14")
print(
    f"LeNet, sha256 {lenet.sha256[:12]}…: reads {lenet.card['accuracy']:.1%} of the test digits right"
)
samples = mnist.sample(300, seed=0).start
noise = torch.randn(300, 1, 14, 14, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    of_samples, of_noise = (lenet(x.clamp(-1, 1)).softmax(-1) for x in (samples, noise))
sure = [float((p.max(1).values > 0.9).float().mean()) for p in (of_samples, of_noise)]
verdict("our samples of which it is more than 90 % sure", sure[0], form=".0%", above=0.4, below=0.6)
verdict("pure noise of which it is", sure[1], form=".0%", above=0.6)
print(f"what it reads in noise most often: {of_noise.argmax(1).mode().values}")

# %%
read = of_samples.argmax(1)
rows = torch.cat([samples[read == digit][:10] for digit in range(10)])
figures.image_sheets(
    {"our samples, sorted by what LeNet reads": rows},
    title="A classifier always has an answer",
)
plt.show()

# %% [markdown]
# One row a digit, from 0 to 9: the first ten of 300 samples in which LeNet reads it. In most one can see why.
#
# **Explain.** A classifier has ten answers and gives one of them for every input, even for noise. Its *confidence*
# is no measure of quality. FID compares something better, whether the *cloud* of features is that of real digits; but
# it, too, sees nothing that this network does not respond to. And the number is not zero for perfect samples: two sets of real
# digits have a distance. That is its **floor**; print it beside the number.

# %% [markdown]
# ## 6. What eleven minutes buy
#
# 14×14 MNIST: means of 2×2 pixels, rounded to 8 bits. DiffFlow, a DDPM and a coupling flow, each with eleven to twelve minutes of one core:
# DiffFlow, two tiny U-Nets, trained with $N = 10$; the DDPM, one U-Net with about as many weights, trained with $N = 30$; the flow, eight coupling
# layers with dense networks that see the picture as a row of 196 numbers. The chains also run on other grids, with the same networks. Beside
# them the two that learn nothing, the Gaussian and the table of pixels. `benchmarks/small_images.py` measured all of it.
#
# **Predict:** at ten steps, who has the better bound, and who the better pictures? Where does the flow stand, which draws a picture with one
# evaluation of each of its eight networks? And where the table of pixels, which won against the Gaussian in section 3?

# %%
measured = json.loads((results / "small_images.json").read_text())
titles = {"pixels": "pixels alone", "gaussian": "Gaussian"}
titles |= {"coupling": "coupling flow", "ddpm": "DDPM", "diffflow": "DiffFlow"}


def table(records, titles):
    """A line a model and N."""
    print("                 N   bits/dim ≤    ODE   FID-LeNet   parameters   minutes")
    for key, title in titles.items():
        record = records[key]
        weights = f"{record['parameters'] / 1e6:.2f} M" if "parameters" in record else "–"
        minutes = f"{record['cpu_seconds'] / 60:.0f}" if "cpu_seconds" in record else "–"
        for row in record["rows"]:
            n = row.get("steps", "–")
            ode = "–" if row["ode"] is None else f"{row['ode']:.2f}"
            distance = "–" if row["fid"] is None else f"{row['fid']:.1f}"
            print(
                f"{title:14s} {n:>3}   {row['bits_per_dim']:10.2f}  {ode:>5s}  {distance:>10s}"
                f"   {weights:>10s}   {minutes:>7s}"
            )


table(measured, titles)
floor = lenet.card["floor"]
print(f"\nFID-LeNet: 10 000 samples against the test pictures; training against test: {floor:.1f}")
print(f"one run each, seed {measured['ddpm']['seed']}, {measured['ddpm']['machine']}")

rows = {(key, row.get("steps")): row for key in titles for row in measured[key]["rows"]}
theirs, ours = ({n: rows[key, n] for n in (5, 10)} for key in ("ddpm", "diffflow"))
for n in (5, 10):
    bits, distances = ([row[n][what] for row in (theirs, ours)] for what in ("bits_per_dim", "fid"))
    print(
        f"\nN = {n:2d}: the DDPM of thirty steps {bits[0]:.2f} bits/dim, FID-LeNet {distances[0]:.0f}; "
        f"DiffFlow {bits[1]:.2f}, {distances[1]:.0f}",
        end="",
    )
worth = measured["diffflow"]["without_drift"] - ours[10]["bits_per_dim"]
print(
    f"\nN = 10: DiffFlow with its drift set to zero, the backward noise set anew: +{worth:.2f} bits/dim"
)
flow = rows["coupling", 8]
mean = f"{flow['bits_per_dim']:.2f} ± {flow['error']:.2f}"
print(
    f"the coupling flow: a mean of {mean} bits/dim, a median of {flow['median']:.2f}; "
    f"{flow['above_8']:.1%} of the pictures need more than 8"
)

# %%
figures.quality_against_steps(
    {titles[key]: measured[key]["rows"] for key in ("ddpm", "diffflow")},
    {titles[key]: measured[key]["rows"][0] for key in ("pixels", "gaussian", "coupling")}
    | {"its median": {"bits_per_dim": flow["median"]}},
    title="DiffFlow was trained at ten steps, DDPM at thirty: each is best on its own grid",
)
plt.show()

# %% [markdown]
# Bits/dim (left, of the chains' bounds) and FID-LeNet (right, logarithmic) against the number of steps; dashed, what has no steps; of the
# coupling flow, the mean of the test pictures and their median. DiffFlow's bound falls more steeply than DDPM's and is ahead at ten; its FID-LeNet is
# behind at five and at ten. Here is what they draw:

# %%
drawn = np.load(results / "small_images_samples.npz")
names = {"data": "test digits", "pixels": "pixels alone", "gaussian": "Gaussian"}
names |= {f"ddpm {n}": f"DDPM, N = {n}" for n in (5, 10, 30)}
names |= {f"diffflow {n}": f"DiffFlow, N = {n}" for n in (5, 10)} | {"coupling": "coupling flow"}

figures.image_sheets(
    {name: 2 * (torch.from_numpy(drawn[key]) + 0.5) / 256 - 1 for key, name in names.items()},
    title="Pixels make snow, a Gaussian fog, the others digits",
    columns=3,
)
plt.show()

# %% [markdown]
# Forty-nine each. Top: test digits, then snow, every pixel drawn by itself, then the Gaussian's fog. Middle: the DDPM with five, ten and
# thirty steps. Bottom: DiffFlow with the five steps that it was not trained on, strokes under grain, and with its ten; then
# the coupling flow.
#
# **Explain.** *What is the drift worth?* Not the whole difference at ten steps: that DDPM was trained with thirty steps and runs there on
# times that it shares only in part, while DiffFlow runs on its own grid. This comparison is not matched. The matched one is within one model: its drift
# set to zero, the backward noise set anew, it needs about .12 bits/dim more. Better pictures it has not: by FID-LeNet
# the DDPM is ahead at ten steps, and at five, where DiffFlow's networks are evaluated at times that they were not trained at. And with thirty steps
# no drift is needed: a training step of DDPM costs a fraction of DiffFlow's, so it takes many more of them in eleven minutes.
#
# *Why are the bounds so high?* Most pixels of MNIST are exactly 0, which a table knows at once. A chain
# must reach a cell of width 1/128 with its last step, whose noise is .005 wide, and every step before it
# costs bits that the eye never sees. The finer the grid, the lower the cost: that is why the bounds fall so steeply with $N$.
# The ODE of DiffFlow's networks, which pays nothing for noise, needs 2.08 bits/dim; it is another density (notebook 07), here on 100 pictures.
#
# *And the flow?* Half of the test pictures cost it less than DDPM's thirty steps need on average; a few cost it so much that the mean is theirs, and
# after 2000 pictures still uncertain by one bit. A chain adds noise at every step, so an unusual picture is only a little less
# likely. The flow is a map without noise. Where its training pictures were alike it may stretch as far as it likes, and the likelihood rewards
# that; an unusual test picture may land far out, where $-\log p$ of the Gaussian grows as the *square* of the distance. Samples start inside
# the Gaussian and never come from there, so FID sees nothing of it: at this price the flow draws better than ten steps of either chain (with three
# times their weights), and not as well as DDPM's thirty. **The mean of $-\log p$ depends on the worst pictures, FID on the many.**
#
# *And FID-LeNet?* It puts independent pixels last and digits first, and yet the Gaussian's clouds before DiffFlow's five steps, in which one
# can read half of the digits: grain seems to disturb this LeNet more than blur does. The best on this page is still far above the floor,
# data against data. Larger networks and longer training are the next section.

# %% [markdown]
# ## 7. The big one, on a GPU
#
# What takes hours does not belong in a notebook. From the folder of this repository, after `pip install -e ".[images]"`,
#
#     diffflow-edu train runs/mnist --images mnist --size small --steps 10 20 30 --warm-start 6000 --updates 6000 --batch-size 256 --precision bf16 --minutes 8
#
# trains two `small` U-Nets, 8.9 million weights in all, on 28×28 MNIST: first the diffusion inside, then both nets with ten steps, then
# with twenty, then with thirty. It stops after eight minutes, or at Ctrl-C or SIGTERM, between two training steps. **The same command goes
# on** as if nothing had happened, until it says "Trained". On the way it leaves sheets of samples, `looks.json` and TensorBoard logs in
# `runs/mnist`. Then
#
#     diffflow-edu evaluate runs/mnist/model.safetensors --steps 5 10 20 30 50 100 --n 10000 --ode-n 100 --fid-n 10000
#     diffflow-edu sample runs/mnist/model.safetensors --out samples.png
#
# and the rival for the same number of minutes:
#
#     diffflow-edu train runs/mnist-ddpm --images mnist --kind ddpm --size small --steps 30 --updates 40000 --batch-size 256 --precision bf16 --minutes 8
#
# Where there is a GPU, the next cell trains, too, in the same folder and from where it stands. (On Colab: choose a GPU runtime, clone this
# repository, install it as above, and run this notebook in its `notebooks` folder.)

# %%
if torch.cuda.is_available():
    config = scale.Config(
        images="mnist",  # 11 MB, downloaded once
        size="small",
        steps=(10, 20, 30),
        warm_start=6000,
        updates=6000,
        batch_size=256,
        precision="bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no",
    )
    folder = Path("../runs/mnist")
    print(f"{torch.cuda.get_device_name()}: 8 minutes of training; run the cell again to go on")
    finished = scale.train(config, folder, minutes=8, look_every=500)
    big = (finished or zoo.load(folder / "best.safetensors")).to("cuda")
    for row in evaluate(big, images.load("mnist"), fid_n=10_000):
        print(f"N = {row.steps}: at most {row.bits_per_dim:.2f} bits/dim, FID-LeNet {row.fid:.1f}")
    figures.image_sheets({"28×28 MNIST": big.sample(64, seed=0).start})
    plt.show()
else:
    print("No GPU here, so nothing is trained.")

of_gpu = results / "mnist_gpu.json"
if of_gpu.exists():
    records = json.loads(of_gpu.read_text())
    table(records, {"ddpm": "DDPM", "diffflow": "DiffFlow"})
    print("28×28 MNIST, " + next(iter(records.values()))["machine"])
else:
    print("The big model has not yet been run on a GPU by us: its numbers are to come.")

# %% [markdown]
# ## What to remember
#
# - A particle is whatever drift and score take and return; on pictures they are **U-Nets**, and the rest is as it was.
# - **Dequantise** before you ask for a density; bits/dim $= \text{nats}/(D \ln 2) + 7$ for 256 levels, and "≤" where it is a bound.
# - Put a baseline that has learned nothing beside every bits/dim: on pictures that are mostly black, **counting levels pixel by
#   pixel** is hard to beat, and looks like snow.
# - **FID** compares two clouds of features. Say which net, how many pictures, and the floor.
# - Compare chains at the number of steps that each was trained at, or say that you do not. Within DiffFlow, the drift is worth a tenth of a
#   bit at ten steps, and no FID; with thirty steps a DDPM has the lowest bound and the best FID.
# - At $r_{\max} = 8$ the class is gone half-way out, with the drift or without it.
# - Long runs belong in a command that **stops at any time and goes on**.
#
# ## References
#
# - Q. Zhang and Y. Chen, *Diffusion Normalizing Flow*, NeurIPS 2021, [arXiv 2110.07579](https://arxiv.org/abs/2110.07579):
#   the loss (16), progressive training, and the tables of images (MNIST padded to 32×32). Letters are this notebook's own.
# - L. Theis, A. van den Oord and M. Bethge, *A note on the evaluation of generative models*, ICLR 2016: dequantisation, and why
#   likelihood and looks may disagree.
# - M. Heusel et al., *GANs trained by a two time-scale update rule converge to a local Nash equilibrium*, NeurIPS 2017: FID (6).
# - J. Ho, A. Jain and P. Abbeel, *Denoising diffusion probabilistic models*, NeurIPS 2020: the U-Net.
# - Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, *Gradient-based learning applied to document recognition*, 1998: MNIST, and LeNet.
#
# **What is next.** Colour: notebook 09 takes the same classes to CIFAR-10. The [map of the course](00_start_here.ipynb) shows the way.
