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
# # CIFAR-10: colour, and what a number is worth
#
# Small patches of colour show what the large run does; then we ask of every number in the paper's tables what it
# counts, and what it costs to make one of our own.
#
# ## What you will learn
#
# - Why neighbouring pixels make a **Gaussian** a strong opponent, and how to read its bits/dim off a spectrum.
# - Two ways in which bits/dim go wrong, **spikes** and **padding**, and why the paper's 3.04 cannot be traced.
# - Why a chain must **start where it ends**, and how the spectrum of the data says how much noise that takes.
# - What **FID** cannot see: two sets may be close in features and look entirely different.
# - The **cost** of a DiffFlow on CIFAR-10 (weights, FLOPs, memory, pictures a GPU-hour), and the command that trains it, stops and goes on.
#
# **Time and memory:** about 15 s of processor time (slower machines need up to three times that), and 800 MB. Nothing is downloaded and nothing is trained, unless there is
# a GPU: then the last section trains on CIFAR-10 for five minutes, after a download of 170 MB.

# %%
import json
import math
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_sample_image

from diffflow_edu import (
    DDPM,
    DiffFlow,
    Schedule,
    exercises,
    fid,
    figures,
    images,
    play,
    pretrained,
    scale,
    tabular,
    zoo,
)
from diffflow_edu.evaluation import evaluate
from diffflow_edu.noise_range import look_at_end, noise_range
from diffflow_edu.unet import cost
from diffflow_edu.verdicts import verdict

torch.set_num_threads(1)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
measured = json.loads(Path("../benchmarks/results/colour.json").read_text())
patches = images.load("patches")
print(patches)

# %% [markdown]
# ## 1. A particle with colour
#
# scikit-learn brings two photographs. At half their size, cut into strips, they make a set of 8×8 patches in colour
# without any download: a particle now has 3 · 8 · 8 = 192 coordinates. Training and test patches come from different
# strips, with a gap between them, so that no pixel is in both.

# %%
with figures.style():
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 3.6), layout="constrained")
    for axes, file in zip(panels, ("china.jpg", "flower.jpg"), strict=True):
        axes.imshow(load_sample_image(file)[:426].reshape(213, 2, 320, 2, 3).mean((1, 3)) / 255)
        for left in (36, 132, 228):
            axes.axvspan(left, left + 24, facecolor="white", alpha=0.35, edgecolor="none")
            axes.axvspan(left, left + 24, facecolor="none", edgecolor="white", lw=1.5)
        axes.set_axis_off()
    figure.suptitle("Test patches come from three strips, training patches from between them")
plt.show()

# %% [markdown]
# The two photographs, a pagoda over a lake and a dahlia; the pale strips are kept for testing. Half of the patches are sky,
# water or a dark background, nearly one colour each; the others hold edges, tiles, leaves and petals.
#
# The model that comes with the package is the DiffFlow of notebook 08 with three channels: two tiny U-Nets, ten steps, and
# four minutes of training. In the player, test patches on their way out beside noise on its way back.

# %%
model = pretrained("diffflow", "patches")
some = patches.dequantise(patches.test[:64], seed=0)
with torch.no_grad():
    paths = {
        "patches dissolve": model.encode(some, seed=0),
        "noise condenses": model.sample(64, seed=0),
    }
play(paths, title="Colour goes last and comes first")

# %% [markdown]
# 64 test patches on their way to noise and, in the other panel, 64 samples on their way from it. Read backwards in time: what settles
# first is the colour of a patch as a whole, then a gradient across it, and edges and grain in the last steps.
#
# **Explain.** A patch's mean is its loudest coordinate, the one with the largest standard deviation. Noise covers quiet coordinates
# first and loud ones last; on the way back the order is reversed. How loud each one is can be measured.
#
# ## 2. The strong opponent
#
# Take the covariance of the 192 coordinates and its eigenvalues $\lambda_1 \le \dots \le \lambda_D$, the squared loudness of $D$
# directions that do not correlate. A Gaussian with that covariance is a model, too, and its bits/dim are known without a single
# sample. In nats, a Gaussian's mean $-\log p$ on data with its own covariance is
#
# $$\frac12 \sum_i \log (2\pi e\, \lambda_i). \tag{1}$$
#
# **Exercise 1. Bits of a spectrum.** Turn it into bits per dimension, with the 7 bits for a level's width (notebook 08).


# %% tags=["exercise"]
def gaussian_bits(eigenvalues):
    return None  # your answer


# %% tags=["check"]
exercises.check_gaussian_bits(gaussian_bits)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def gaussian_bits(eigenvalues):
#     return 0.5 * (2 * math.pi * math.e * eigenvalues).log2().mean() + 7
# ```
#
# </details>

# %% [markdown]
# **Predict:** without any model a number costs 8 bits. How many will a Gaussian need for patches? And if pixels were not correlated,
# each as loud as it is now?

# %%
train = patches.dequantise(patches.train, seed=1).flatten(1)
test = patches.dequantise(patches.test, seed=0).flatten(1)
spectrum = torch.linalg.eigvalsh(torch.cov(train.T.double()))
gaussian = tabular.Gaussian.of(train)


def bits(model, x):
    return patches.bits_per_dim(-model.log_prob(x).double().mean()).item()


def bits_of_spectrum(eigenvalues):
    return patches.bits_per_dim(0.5 * (2 * math.pi * math.e * eigenvalues).log().sum()).item()


print(f"each pixel by itself       {bits_of_spectrum(train.double().var(0)):.2f} bits/dim")
print(f"Gaussian, from (1)         {bits_of_spectrum(spectrum):.2f}")
print(f"Gaussian, training patches {bits(gaussian, train[:5000]):.2f}")
print(f"Gaussian, test patches     {bits(gaussian, test):.2f}")

# %%
with figures.style():
    figure, axes = plt.subplots(figsize=(7.6, 3.8), layout="constrained")
    axes.semilogy(spectrum.flip(0).sqrt(), color=figures.MODES[0])
    axes.axhline(2 / 256, color="0.35", ls="--", lw=1.2)
    axes.text(0, 1.85 / 256, "one grey level", va="top", color="0.35")
    axes.set(xlabel="direction, the loudest first", ylabel="standard deviation", ylim=(4e-3, 15))
    axes.set_title(
        f"The loudest direction is {float((spectrum[-1] / spectrum[0]).sqrt()):.0f} times as loud as the quietest"
    )
plt.show()

# %% [markdown]
# The 192 standard deviations, sorted; dashed, the width of one grey level. A few directions (mean brightness, mean colour, gradients)
# are very loud, most are quiet, and even the quietest is louder than a level.
#
# **Explain.** Each pixel by itself, a Gaussian is no better than no model at all; knowing the correlations saves more than three bits a
# number, with no network. So a Gaussian belongs beside every image model. And the last line: test strips show other things than
# training strips, and need more bits.
#
# ## 3. What the networks add
#
# Next, what `benchmarks/colour.py` measured on 500 test patches. Two opponents have no network: one Gaussian, and two, one for each
# photograph. DiffFlow and a DDPM, whose one U-Net holds about as many weights as DiffFlow's two, had four to five minutes of training each, at ten steps, and
# run on several numbers of steps, always with the same networks. **Predict:** are four minutes enough to beat a covariance matrix? And is
# DiffFlow ahead of DDPM?

# %%
opponents = {
    "one Gaussian": measured["gaussian"]["rows"][0],
    "two Gaussians": measured["gaussian"]["two"],
}
shipped = model.card
chains = {"DiffFlow": shipped, "DDPM": measured["ddpm"]}
print("                 N     bits/dim ≤      ODE   parameters   CPU-s")
for name, row in opponents.items():
    print(f"{name:13s}        {row['bits_per_dim']:.2f} ± {row['error']:.2f}")
for name, record in chains.items():
    for row in record["rows"]:
        ode = f"{row['ode']:.2f}" if row["ode"] is not None else ""
        print(
            f"{name:13s} {row['steps']:>4}   {row['bits_per_dim']:.2f} ± {row['error']:.2f}   {ode:>6s}   "
            f"{record['parameters'] / 1e6:>8.2f} M   {record['cpu_seconds']:>5}"
        )
print(f"\n{shipped['machine']}, seed {shipped['seed']}; the ODE on {shipped['ode_test']} patches.")
print("Test patches overlap one another, so the real errors are larger than those behind ±.")


(here,), (frozen,) = (evaluate(m, patches, n=200) for m in (model, DDPM.of(model)))
print(f"\nDiffFlow here, on 200 test patches, ten steps   ≤ {here.bits_per_dim:.2f}")
print(f"the same with its drift set to zero             ≤ {frozen.bits_per_dim:.2f}")
lost = frozen.bits_per_dim - here.bits_per_dim
verdict("without its drift it needs more, bits/dim", lost, above=0.05, below=0.1)

one, two = (row["bits_per_dim"] for row in opponents.values())
ours = {row["steps"]: row["bits_per_dim"] for row in shipped["rows"]}
theirs = {row["steps"]: row["bits_per_dim"] for row in measured["ddpm"]["rows"]}
print("\nDiffFlow's bits/dim less those of: one Gaussian   two Gaussians   DDPM")
for n, value in ours.items():
    print(f"  N = {n:3d} {value - one:26.2f} {value - two:15.2f} {value - theirs[n]:10.2f}")

# %%
with figures.style():
    figure, axes = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    for name, record in chains.items():
        steps, values = zip(*((r["steps"], r["bits_per_dim"]) for r in record["rows"]), strict=True)
        axes.plot(steps, values, "o-", color=figures.MODELS[name], label=name)
    for (name, row), color in zip(opponents.items(), figures.MODES[2:], strict=False):
        axes.axhline(row["bits_per_dim"], color=color, ls="--", lw=1.5, label=name)
    axes.set_xscale("log")
    axes.set_xticks(list(ours), [str(n) for n in ours])
    axes.minorticks_off()
    axes.set(xlabel="steps N", ylabel="bits/dim, at most", ylim=(4, 6.4))
    axes.legend(ncols=2)
    axes.set_title("The same networks: ten steps beat the Gaussians, five do not")
plt.show()

# %% [markdown]
# Bits/dim of the bound against the number of steps, for the same networks; dashed, the two opponents without a network.
#
# **Explain.** Four minutes of training and ten steps are enough to be better than a covariance matrix. With *five*, the same
# networks are no better than one Gaussian: each step is then so long that its reversal is far from Gaussian.
# The ODE uses the same networks without any noise on the way, and its number is lower still; it is the density of another
# model (notebook 07), hence a column of its own.
#
# And DiffFlow against DDPM? At $N = 10$, where both were trained, DDPM is a little ahead. The drift has learned something: without it
# DiffFlow needs more bits, as printed above. But most of DiffFlow's time went into joint training, whose steps are expensive, while DDPM spent
# all of its time on the score. At other numbers of steps the networks are evaluated at times that they were not trained at, and there DDPM
# loses more: twenty steps are half a bit *worse* than ten. One training each, on two photographs: this is no general law.
#
# To the eye:

# %%
generator = torch.Generator().manual_seed(0)
drawn = gaussian.unwhiten(torch.randn(1560, 192, generator=generator)).float()
with torch.no_grad():
    made = model.sample(1560, seed=0).start.clone()
real = patches.dequantise(patches.test, seed=0)
sheets = {
    "test patches": real[:64],
    "one Gaussian": drawn[:64].unflatten(1, patches.shape),
    "DiffFlow, ten steps": made[:64],
}
figures.image_sheets(sheets, title="A Gaussian puts the same grain on every patch")
plt.show()

# %% [markdown]
# 64 patches each. Real ones are either smooth or full of detail; the Gaussian's all carry the same grain, because it has
# one covariance for all. The chain's are of both kinds, though not yet tiles and petals.
#
# ## 4. What 3.04 counts
#
# The paper's bits/dim on CIFAR-10: RealNVP 3.49, Glow 3.35, Flow++ 3.29, ResFlow 3.28, DDPM ≤ 3.70, DiffFlow ≤ 3.67 and, by its
# ODE, 3.04. The last is the best of its table, and it cannot be traced: the public code has uniform dequantisation, but its released
# configuration switches it off, and it holds no code for bits/dim. That proves nothing against the number. But two conventions decide
# what such a number means, and both are easily lost.
#
# **Spikes.** Leave out $u$: the data are 256 points, $y = 2k/256 - 1$, and a density may put a spike on each. Let it be as
# ignorant as can be: 256 equal Gaussians of width $w$, one at every level, whatever the picture. Levels are 2/256 apart, so
# much more than $w$ that at a level only its own spike counts.
#
# **Exercise 2. Spikes.** What are its bits/dim, asked at the levels themselves? (The mean of $-\log_2 p(y)$, and the usual 7.)


# %% tags=["exercise"]
def spike_bits(w):
    return None  # your answer


# %% tags=["check"]
exercises.check_spike_bits(spike_bits)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def spike_bits(w):
#     return 15 + torch.log2(w * math.sqrt(2 * math.pi))
# ```
#
# </details>

# %% [markdown]
# **Predict:** how narrow must the spikes be for 3.04?

# %%
for w in (1e-3, 1e-4, 1e-5, 1e-6):
    print(f"w = {w:.0e}: {15 + math.log2(w * math.sqrt(2 * math.pi)):6.2f} bits/dim")
w = 2 ** (3.04 - 15) / math.sqrt(2 * math.pi)
print(f"\n3.04 bits/dim at w = {w:.1e}, {w / (2 / 256):.1%} of a level's width")

with_u = patches.dequantise(patches.test[:100], seed=0)
without_u = 2 * patches.test[:100].float() / 256 - 1
asked = {}
for name, x in {"with u": with_u, "without": without_u}.items():
    torch.manual_seed(0)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `bound` warns of pictures in whole grey levels
        asked[name] = patches.bits_per_dim(model.bound(x).double().mean()).item()
    print(f"our model on 100 test patches, {name:7s} ≤ {asked[name]:.2f}")
print()
verdict("what u changes, bits/dim", abs(asked["with u"] - asked["without"]), below=0.1)

# %% [markdown]
# **Explain.** A "model" that knows nothing but that pixels are whole numbers reaches 3.04 bits/dim with spikes about a hundredth of a
# level wide, and any number you like with narrower ones. With $u$ in every number spikes gain nothing: inside a cell the data *are*
# uniform, and no density is better than the uniform one there. Our model was trained with $u$ and gives nearly the same number without it. A
# model that was trained without may have spikes or not; only its code can tell.
#
# **The number of pixels.** MNIST has 28 · 28 = 784 pixels. Many networks want 32 · 32 = 1024: the public code of the paper *enlarges* the
# pictures, others put a black frame around them. Both are other data than MNIST. Take the frame: a pixel that
# is always black needs no bits: all of its density lies in one cell, where it is 128, and $-\log_2 128 + 7 = 0$ bits.
#
# **Exercise 3. Padded.** `bits` is the sum over the padded picture, divided by all of its `padded` pixels. What is it, divided by
# the picture's own `d`?


# %% tags=["exercise"]
def unpadded(bits, d, padded):
    return None  # your answer


# %% tags=["check"]
exercises.check_unpadded(unpadded)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def unpadded(bits, d, padded):
#     return bits * padded / d
# ```
#
# </details>

# %%
mnist = {"RealNVP": 1.06, "Glow": 1.05, "FFJORD": 0.99, "ResFlow": 0.97, "DiffFlow": 0.93}
question = 0.93 * 32**2 / 28**2
for name, value in mnist.items():
    print(f"MNIST, {name:8s} {value:.2f} as published")
print(f"0.93 bits a pixel of 1024 with a black frame are {question:.2f} a pixel of 784")
lead = mnist["ResFlow"] - mnist["DiffFlow"]
print(
    f"\nthe difference is {(question - 0.93) / lead:.0f} times DiffFlow's lead over the next best"
)

# %% [markdown]
# **Explain.** The paper does not say which pixels it divides by, so this is only the size of the question: a convention that a table does
# not state can be larger than the differences that the table is about. Our rules stand in one place, `images.py`: $u$ always, no padding,
# the picture's own $D$, "≤" for a bound, and the ODE in its own column.
#
# ## 5. A chain must start where it ends
#
# The Fréchet distance (notebook 08) compares means and covariances of *features*. **Predict:** take the pixels themselves as
# features. Which is nearer to the test patches: DiffFlow, or the Gaussian whose grain you saw?

# %%
flat = real.flatten(1)
sets = {
    "training patches": train[:1560],
    "one Gaussian": drawn,
    "DiffFlow, ten steps": made.flatten(1),
}
found = {name: fid.frechet_distance(x.clamp(-1, 1), flat) for name, x in sets.items()}
for name, value in found.items():
    print(f"Fréchet distance of pixels, {name:20s} {value:5.2f}")

loudest = torch.linalg.eigh(torch.cov(train.T.double())).eigenvectors[:, -1].float()
print("\nstandard deviation along the loudest direction of the data")
for name, x in (sets | {"x_T of test patches": paths["patches dissolve"].end.flatten(1)}).items():
    print(f"  {name:20s} {(x @ loudest).std():5.2f}")

# %% [markdown]
# **Explain.** The Gaussian *has* a mean and a covariance of the data, and this distance compares nothing else: it is near. But that is no
# reason for DiffFlow to be so far. The lines below the distances show one. Along its loudest direction the data have a standard
# deviation of 8; this model's noise ends at $r_{\max} = 8$, no more. So $x_T$ has about twice the variance of noise there, while
# sampling starts from $\mathcal N(0, I)$, with a standard deviation of 1: the samples are too quiet in that direction. **The chain does not start
# where it ends.** In general, with a fixed diffusion,
#
# $$x_T = \frac{x_0 + r_{\max}\, \varepsilon}{\sqrt{1 + r_{\max}^2}}, \qquad
# \operatorname{var} = \frac{\lambda + r_{\max}^2}{1 + r_{\max}^2} \text{ along a direction of variance } \lambda, \tag{2}$$
#
# and the mean of $x_0$ is divided by the same root. Remedies: subtract the mean, and take $r_{\max}$ several times as large as the loudest
# standard deviation; or scale the loudest direction down before training. `noise_range` measures what the data need, and `look_at_end`
# compares $x_T$ with noise. A covariance of 1000 draws of pure noise has a largest eigenvalue above 1, too, so the comparison is
# with as many draws of noise.

# %%
wanted = noise_range(patches)
print(f"loudest {wanted.loudest:.1f}, so r_max = {wanted.r_max:g}; finest {wanted.finest:.2g}\n")
# Where a fixed diffusion ends needs no training.
for r_max in (8.0, wanted.r_max):
    diffusion = DDPM.mlp(Schedule.log_snr(2, r_max=r_max), dim=patches.dim, hidden=8)
    for name, mean in {"as it is": torch.zeros(patches.dim), "centred": train.mean(0)}.items():
        diffusion.set_standardisation(mean, 1.0)
        end = look_at_end(diffusion, train[:1500])
        print(f"r_max = {r_max:4g}, {name}: {end}")

trained = json.loads(Path("../benchmarks/results/noise_range.json").read_text())
print("\nfour DDPMs of ten steps, trained alike     r_max   bits/dim ≤   pixels' distance")
for name, row in trained.items():
    print(f"  {name:38s} {row['r_max']:7g} {row['bits_per_dim']:12.2f} {row['pixels']:18.2f}")

# %% [markdown]
# **Explain.** Above, where paths end: at $r_{\max} = 8$ the top variance is a fifth above that of as much noise, and the mean is larger, too,
# unless it is subtracted; at the wanted $r_{\max}$ both are those of noise. Below, what it is worth in training. With the larger
# $r_{\max}$ the pixels' distance falls: the samples have the variance of the data again. But ten steps must now cover a longer range of noise, each of
# them is longer, and the bound rises. The last line keeps the steps short: it scales the loudest direction down to the next one before
# training (an exact change of variables, whose volume is counted in the bits) and is ahead in both columns. Centring alone does little here: these
# patches have a small mean. On 28×28 MNIST, whose mean has a norm of 23, it decides.
#
# ## 6. What FID cannot see
#
# A Fréchet distance sees whatever its features show, and nothing else. So features are usually taken from a classifier, in which grain,
# edges and objects show up as means. Ours for CIFAR-10 is a small ResNet, and before it may judge a model it is tested itself: real
# test images, spoilt in ways that an eye would or would not mind.

# %%
blind = measured["blind"]
net = fid.feature_net("cifar10")
print(
    f"ResNet: {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters, right on {net.card['accuracy']:.1%} of the test images"
)
print(
    f"sha256 {net.sha256[:16]}…, floor {net.card['floor']:.2f} ({net.card['floor_images']} training against test images)\n"
)
print(f"CIFAR-10 test images, {blind['images']} of them:    FID-ResNet   Fréchet of pixels")
for name, row in blind["rows"].items():
    print(f"  {name:36s} {row['fid']:10.3f} {row['pixels']:19.3f}")
far = {name: row["fid"] for name, row in blind["rows"].items()}
copies, soft = far["a hundred images, again and again"], far["blurred"]
print(f"\na hundred images, repeated: {copies:.2f}; all of them, blurred: {soft:.2f}")

# %%
rows = sorted(blind["rows"].items(), key=lambda item: -item[1]["fid"])
with figures.style():
    figure, axes = plt.subplots(figsize=(8.2, 4.2), layout="constrained")
    values = [row["fid"] for _, row in rows]
    axes.hlines(range(len(rows)), 3e-3, values, color="0.85", lw=1.2)
    axes.plot(values, range(len(rows)), "o", ms=9, color=figures.MODES[0])
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.axvline(net.card["floor"], color="0.35", ls="--", lw=1.2)
    axes.set_xscale("log")
    axes.set_xlim(left=3e-3)
    axes.set_xlabel("FID-ResNet (dashed: the floor)")
figure.suptitle("A hundred images, repeated, are nearer than all of them blurred")
plt.show()

# %% [markdown]
# FID-ResNet of real CIFAR-10 test images, spoilt in the ways that stand on the left, against the images as they were; on a logarithmic
# axis, dashed the floor (training against test images).
#
# **Explain.** Now we know what this network responds to. Mirror images are no farther away than another set of real images, and a
# noise of 5 levels hardly. Blur, a noise of 20 levels and exchanged colours are far. The samples of a Gaussian, whose *pixels* are nearly
# right, are the farthest of all: that is what features are for. But a hundred images shown a hundred times each, the worst that a
# generator can do, are **nearer than all the images with a light blur**. FID responds to sharpness more than to variety, and does not see
# copies at all. Print it, and look at the samples, and at their nearest neighbours in the training set.
#
# ### The paper's Table 4, and ours beside it
#
# FID on CIFAR-10 against the number of steps. The paper's is Inception's; ours would be FID-ResNet, and stands in a column of its own.

# %%
TABLE_4 = {
    "DiffFlow": {5: 28.51, 10: 22.66, 20: 19.05, 50: 17.72, 100: 16.14},
    "DDPM": {5: 370.23, 10: 365.12, 20: 135.44, 50: 34.56, 100: 10.04},
}
own = Path("../benchmarks/results/cifar10.json")  # what `diffflow-edu evaluate` writes, see below
rows = {row["steps"]: row for row in json.loads(own.read_text())["rows"]} if own.exists() else {}
print("        FID (Inception), the paper     FID-ResNet, ours")
print("   N    DiffFlow         DDPM          DiffFlow")
for n, value in TABLE_4["DiffFlow"].items():
    ours_here = f"{rows[n]['fid']:.2f}" if n in rows else "not yet run on a GPU"
    print(f"{n:4d}    {value:8.2f}     {TABLE_4['DDPM'][n]:8.2f}          {ours_here}")

# %% [markdown]
# **Explain.** At five steps the paper's DDPM makes noise and DiffFlow makes pictures; at a hundred, DDPM is ahead. That DDPM runs on the
# linear β of its authors, and notebooks 03 and 06 have shown what a grid that fits is worth at few steps. A fair table would have
# a DDPM on a log-SNR grid in it, and that is what `diffflow-edu train --kind ddpm` makes. Our column waits
# for a GPU; what we have measured instead is small, and stands above and in notebook 08.
#
# ## 7. What it costs
#
# One training step walks a picture through all $N$ steps and back. Count in *units*, one network call forward: the adjoint's `loss`
# takes 7 a step (notebook 05).

# %%
shape = (3, 32, 32)
schedule = Schedule.log_snr(steps=30)


def saved_bytes(net):
    """What autograd keeps of one call on one picture, besides the weights."""
    weights = {p.data_ptr() for p in net.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = net(torch.zeros(1, *shape), torch.tensor(0.5))
    del out
    return sum(kept.values())


ledger = {}
for size in ("tiny", "small", "paper"):
    drift = DiffFlow.unet(schedule, shape, size=size).drift
    ledger[size] = (cost(drift, shape), saved_bytes(drift))
    print(
        f"{size:6s} drift: {ledger[size][0]}, {ledger[size][1] / 2**20:.0f} MiB kept for a backward pass"
    )

# %% [markdown]
# The nets double, as drift and score: a `paper` DiffFlow holds about as many weights as one network of DDPM. Now the memory of a
# training step with a batch of 128, by autograd, which keeps every network call, and by the adjoint, which keeps the states and
# one step.

# %%
batch, state = 128, 4 * math.prod(shape)
print("GiB at N =        10       30      100")
memory = {}
for size, (_, kept) in ledger.items():
    for way in ("autograd", "adjoint"):
        memory[size, way] = [
            batch * (2 * kept * (n if way == "autograd" else 1) + state * (n + 1)) / 2**30
            for n in (10, 30, 100)
        ]
        print(f"{size:6s} {way:9s}" + "".join(f"{gib:9.1f}" for gib in memory[size, way]))
shares = memory["paper", "adjoint"]
print(f"\nfrom N = 10 to 100 the adjoint's memory grows by {shares[2] / shares[0] - 1:.1%}")

# %% [markdown]
# **Explain.** This is arithmetic from one network call, not a measurement on a GPU; `benchmarks/images.py` measures. But the difference
# is large: by autograd the large net does not fit on any single device at $N = 100$, by the adjoint $N$
# hardly matters.
#
# **Exercise 4. The cost.** A network call on a picture takes `flops`, the device reaches `rate` FLOP a second, the chain has `n`
# steps. How many training pictures an hour?


# %% tags=["exercise"]
def pictures_an_hour(flops, n, rate):
    return None  # your answer


# %% tags=["check"]
exercises.check_pictures_an_hour(pictures_an_hour)

# %% [markdown] tags=["solution"]
# <details><summary>A solution</summary>
#
# ```python
# def pictures_an_hour(flops, n, rate):
#     return 3600 * rate / (7 * n * flops)
# ```
#
# </details>

# %%
RATE = 100e12  # an assumption: a third of what an A100's data sheet promises for bf16
print("at an assumed 100 TFLOP/s      N = 10          N = 30      (epochs of 50 000 an hour)")
for size, (price, _) in ledger.items():
    epochs = [3600 * RATE / (7 * n * price.flops) / 50_000 for n in (10, 30)]
    print(f"{size:25s} {epochs[0]:12.0f} {epochs[1]:15.0f}")
ddpm = 3600 * RATE / (2 * 3 * ledger["paper"][0].flops) / 50_000
print(
    f"DDPM, two such nets in one {ddpm:10.0f}          at any N: it trains on one step of the chain"
)

# %% [markdown]
# **Explain.** This is the price of a learned way out: a DDPM jumps to any $t$ in one go and trains on that step alone; a DiffFlow has to
# walk. (The paper reports 150 times DDPM's training time on CIFAR-10, and sixteen times less with progressive training.)
# Hence few steps first, and a warm start: the diffusion inside is trained at DDPM's price before the drift moves.
#
# ## 8. The command
#
# A first look, five minutes on a GPU, and its evaluation; then the large training, on as many GPUs as there are:
#
# ```bash
# diffflow-edu train runs/cifar10 --images cifar10 --size small --steps 10 20 --warm-start 4000 --updates 4000 \
#     --batch-size 128 --precision bf16 --minutes 5 --look-every 500
# diffflow-edu evaluate runs/cifar10/best.safetensors --steps 5 10 20 50 100 --n 1000 --fid-n 10000
#
# accelerate launch -m diffflow_edu.cli train runs/cifar10-paper --images cifar10 --size paper --steps 10 20 30 \
#     --updates 200000 --batch-size 64 --precision bf16
# ```
#
# From a notebook on a machine with several GPUs, `accelerate.notebook_launcher(scale.train, (config, folder), num_processes=2)` does
# the same in a fresh kernel. Training stops cleanly after `--minutes`, by Ctrl-C, or when the machine is taken away (SIGTERM); the same command goes on where it
# stood. `--steps 10 20` trains few steps first; `--warm-start` is the diffusion inside, at DDPM's price; `--kind ddpm` leaves
# the drift at zero for good. `evaluate` writes its numbers beside the weights: copy `runs/cifar10/best.json` to
# `benchmarks/results/cifar10.json`, and the table above fills its column.
#
# If this notebook sees a GPU, the next cell trains a small one for five minutes, and shows what it has learned.

# %%
if device.type == "cuda":
    config = scale.Config(
        images="cifar10",
        size="small",
        steps=(10, 20),
        warm_start=4000,
        updates=4000,
        batch_size=128,
        precision="bf16",
    )
    print("training on CIFAR-10 for five minutes; run the cell again to go on")
    folder = Path("runs/cifar10-notebook")
    scale.train(config, folder, minutes=5, look_every=500)
    big = zoo.load(folder / "best.safetensors").to(device)
    (row,) = evaluate(big, images.load("cifar10"), fid_n=10_000)
    print(f"≤ {row.bits_per_dim:.2f} bits/dim, FID-ResNet {row.fid:.1f} at N = {row.steps}")
    figures.image_sheets({"CIFAR-10, five minutes": big.sample(64, seed=0).start})
    plt.show()
else:
    print("no GPU here: nothing is trained, and nothing is downloaded")

# %% [markdown]
# ## What to remember
#
# - Neighbouring pixels are nearly equal, so a **Gaussian** saves more than three bits a number. Set every model beside it.
# - With the same networks, **steps** decide: ten beat the Gaussian, five do not.
# - Bits/dim need **u** in every number and the picture's **own** $D$, or they mean nothing. 3.04 is what spikes a hundredth of a level
#   wide would reach without any model.
# - A chain must **start where it ends**: subtract the mean, let $r_{\max}$ follow from the loudest direction, compare $x_T$ with noise.
# - A Fréchet distance sees what its **features** see. Test the features first: floor, spoilt images, a Gaussian's samples.
# - The adjoint makes memory nearly independent of $N$, but not time. Few steps first, a warm start, and a command that goes on.
#
# ## References
#
# - Q. Zhang and Y. Chen, *Diffusion Normalizing Flow*, NeurIPS 2021, [arXiv 2110.07579](https://arxiv.org/abs/2110.07579):
#   tables 2 and 3 (bits/dim), table 4 (FID against $N$), Algorithm 2. Equation (1) is this notebook's.
# - A. Krizhevsky, *Learning multiple layers of features from tiny images*, 2009: CIFAR-10.
# - L. Theis, A. van den Oord and M. Bethge, *A note on the evaluation of generative models*, ICLR 2016: what uniform noise on grey levels
#   makes of a likelihood (section 3.1).
# - M. Heusel et al., *GANs trained by a two time-scale update rule*, NeurIPS 2017: FID (equation 6).
# - K. He et al., *Deep residual learning for image recognition*, CVPR 2016: the block inside our ResNet.
# - J. Ho, A. Jain and P. Abbeel, *Denoising diffusion probabilistic models*, NeurIPS 2020: the U-Net, and DDPM's numbers.
#
# **What is next.** What came after DiffFlow: [the map of the course](00_start_here.ipynb) shows the way.
