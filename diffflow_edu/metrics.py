"""How good samples and bounds are, with the floor that even perfect samples do not pass.

A distance between two finite sets of samples is positive even when both come from the data. The
`floor` is that number; a model's distance means something only beside it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from .devices import double, fork_rng
from .processes.base import Process
from .schedules import check_positive, check_seed, check_whole, shortly
from .toy import Density
from .toy.rings import Rings

Metric = Callable[[Tensor, Tensor], float]
"""A distance between samples: (x (n, d), y (m, d)) -> a number."""

DATA_SEED = 1_000_003
"""Added to the seed of `evaluate`'s data: no random number serves both as data and as noise."""


def sliced_w2(x: Tensor, y: Tensor, projections: int = 128, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance: the root mean square of the 1-D W2 over fixed projections.

    x: (n, *shape), y: (m, *shape), in their units, which are the result's too; n and m may differ.
    The projections come in random orthonormal bases, the same for a seed, so that a shift by v in
    d dimensions costs exactly ‖v‖/√d when `projections` is a multiple of d. NaN if a sample is
    not finite. Raises ValueError for samples of unlike shapes and for projections < 1. Rabin et
    al., "Wasserstein barycenter and its application to texture mixing", 2011.

    >>> x = torch.randn(500, 2)
    >>> round(sliced_w2(x, x + torch.tensor([3.0, 4.0])), 4)  # 5 / √2
    3.5355
    """
    x, y = _comparable(x, y)
    check_whole("projections", projections)
    if not (x.isfinite().all() and y.isfinite().all()):
        return math.nan
    directions = unit_directions(projections, x.shape[1], seed).to(x.device)
    level = _common_levels(len(x), len(y), x.device)
    middle, mass = (level[1:] + level[:-1]) / 2, level.diff()
    at_x = (middle * len(x)).long().clamp_max(len(x) - 1)
    at_y = (middle * len(y)).long().clamp_max(len(y) - 1)
    total = 0.0
    for block in directions.split(16, dim=1):  # a few at a time bounds the memory
        quantile_x = (x @ block).sort(dim=0).values[at_x]
        quantile_y = (y @ block).sort(dim=0).values[at_y]
        total += float((mass @ (quantile_x - quantile_y).square()).sum())
    return math.sqrt(total / projections)


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Energy distance 2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖ of the two empirical distributions.

    x: (n, *shape), y: (m, *shape), in their units, which are the result's too (no root is taken).
    Zero for equal sets, positive otherwise; two points a apart give 2a. Memory is bounded whatever
    n is. NaN if a sample is not finite. Raises ValueError for samples of unlike shapes. Székely
    and Rizzo, "Energy statistics", 2013.

    >>> energy_distance(torch.zeros(5, 2), torch.tensor([[3.0, 4.0]]))
    10.0
    """
    x, y = _comparable(x, y)
    if not (x.isfinite().all() and y.isfinite().all()):
        return math.nan
    return 2 * _mean_distance(x, y) - _mean_distance(x, x) - _mean_distance(y, y)


def leak(x: Tensor, density: Density) -> float:
    """The share of samples that lie off the density's set (see `Density.leaked`). x: (n, 2)."""
    return double(density.leaked(x)).mean().item()


def floor(density: Density, n: int, metric: Metric = sliced_w2, seed: int = 0) -> float:
    """What the metric reads between two independent draws of n points from the data itself.

    One pair of draws, hence a random number too: average over seeds where that matters.
    Raises ValueError for n < 1.
    """
    check_whole("n", n)
    both = density.sample(2 * n, seed=seed)
    return metric(both[:n], both[n:])


def bound_gap(bound_mean: float, density: Density) -> float:
    """Mean bound minus data entropy, nats: at least KL(data ‖ model) of the samples; 0 is perfect.

    Section 3 of the paper: the loss on paths bounds the loss on their ends from above.
    """
    return float(bound_mean) - density.entropy()


def evaluate(
    model: Process,
    density: Density,
    n: int = 10_000,
    seed: int = 0,
    log_prob_n: int = 0,
) -> dict[str, float | int]:
    """Everything to know about a model of a toy density, each distance with its floor.

    Compares `model.sample(n)` with n fresh points of the data and averages `model.bound` over the
    latter, in eval mode and without gradients; the model's mode and torch's random state are left
    as they were, and the same seed gives the same numbers. Returns

    bound, gap: nats, mean bound and its excess over the data entropy; NaN for a process that has
        no bound, such as NCSN;
    log_prob: nats, the mean log-likelihood: −bound where the bound is exact, as for flows;
        otherwise by `model.log_prob` of the first `log_prob_n` points, which may mean an ODE a
        point. NaN where it is not defined or none were asked for;
    leak: share of samples off the set, those that are not finite included;
    sliced_w2, sliced_w2_floor, energy, energy_floor: over the finite samples (NaN if there are
    none), and between data and data;
    n, seed: as given; non_finite: how many samples were not finite.

    Raises ValueError for n < 1 and unless 0 ≤ log_prob_n ≤ n, and SolverError where the ODE of a
    bound or a log_prob gives up.
    """
    _check_pair(model, density)
    check_whole("n", n)
    check_seed(seed)
    check_whole("log_prob_n", log_prob_n, least=0)
    if log_prob_n > n:
        raise ValueError(f"log_prob_n must be between 0 and n = {n}, got {shortly(log_prob_n)}")
    data = density.sample(n, seed=seed + DATA_SEED)
    weight = next(model.parameters(), torch.empty(0))
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), fork_rng(weight.device):
            torch.manual_seed(seed)  # the bound draws its noise from the global generator
            bound = mean_bound(model, data.to(weight))
            log_prob = -bound
            if not model.bound_is_exact:
                log_prob = mean_log_prob(model, data[:log_prob_n].to(weight))
            samples = model.sample(n, seed=seed).start.to(data)
    finally:
        model.train(training)
    finite = samples[samples.isfinite().all(dim=1)]
    return {
        "bound": bound,
        "gap": bound_gap(bound, density),
        "log_prob": log_prob,
        "leak": leak(samples, density),
        "sliced_w2": sliced_w2(finite, data) if len(finite) else math.nan,
        "sliced_w2_floor": floor(density, n, sliced_w2, seed),
        "energy": energy_distance(finite, data) if len(finite) else math.nan,
        "energy_floor": floor(density, n, energy_distance, seed),
        "n": n,
        "seed": seed,
        "non_finite": n - len(finite),
    }


def mean_bound(model: Process, x: Tensor) -> float:
    """The mean of `model.bound` over x (B, *shape) in nats; NaN for a process without a bound.

    Any other failure is passed on, such as the SolverError of an ODE that gave up: that is no
    property of the process, and its message says what to try.
    """
    try:
        return double(model.bound(x)).mean().item()
    except NotImplementedError:
        return math.nan


def mean_log_prob(model: Process, x: Tensor) -> float:
    """The mean of `model.log_prob` over x (B, *shape) in nats; NaN where there is none.

    As in `mean_bound`, a SolverError is passed on.
    """
    if len(x) == 0:
        return math.nan
    try:
        return double(model.log_prob(x)).mean().item()
    except NotImplementedError:
        return math.nan


def crossings(density: Rings) -> Tensor:
    """Where the circles of a density of rings cross, (m, 2) float64 in normalised units.

    Raises ValueError for a density without rings.

    >>> from diffflow_edu import toy
    >>> len(crossings(toy.load("olympic_rings"))), len(crossings(toy.load("ring")))
    (8, 0)
    """
    if not isinstance(density, Rings):
        raise ValueError(
            f"density must be made of rings, such as olympic_rings, got {shortly(density)}"
        )
    found = []
    for a, b in itertools.combinations(density.centres, 2):
        apart = torch.linalg.vector_norm(b - a)
        if 0 < apart < 2:  # of circles of radius 1
            along = (b - a) / apart
            across = (1 - (apart / 2).square()).sqrt() * torch.stack([-along[1], along[0]])
            found += [(a + b) / 2 + across, (a + b) / 2 - across]
    raw = torch.stack(found) if found else density.centres.new_empty(0, 2)
    return (raw - density.shift) / density.scale


def crossing_leak(x: Tensor, density: Rings, radius: float = 0.15) -> float:
    """`leak` of those samples alone that lie within `radius` of where two rings cross.

    x: (n, 2). radius: normalised units. NaN if no sample lies there. Raises ValueError for a
    density whose rings do not cross and for radius ≤ 0.
    """
    check_positive(radius=radius)
    points = crossings(density)
    if len(points) == 0:
        raise ValueError(f"density must have rings that cross, got {shortly(density)}")
    precise = double(x)
    near = torch.cdist(precise, points.to(precise)).amin(1) <= radius
    return leak(x[near.to(x.device)], density) if near.any() else math.nan


# The noise side ----------------------------------------------------------------------------------


def mode_survival(latent: Tensor, modes: Tensor) -> float:
    """The share of particles whose nearest neighbour in the noise has their own mode.

    How much of the mode a way out keeps: 1 where every mode has a region of its own, its
    `mode_survival_chance` where nothing is left. The neighbours come nearer as n grows, so it
    belongs to its n.

    latent: x_T, (n, *shape), n ≥ 2. modes: (n,), such as ``density.mode(x_0)``. NaN if a particle
    is not finite. Raises ValueError for shapes that do not fit.

    >>> x = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    >>> mode_survival(x, torch.tensor([0, 0, 1, 1])), mode_survival(x, torch.tensor([0, 1, 0, 1]))
    (1.0, 0.0)
    """
    _check_modes(modes)
    latent, _ = _comparable(latent, latent)
    if len(latent) != len(modes):
        raise ValueError(
            f"modes must hold one label a particle, ({len(latent)},), got {tuple(modes.shape)}"
        )
    if not latent.isfinite().all():
        return math.nan
    rows = max(1, 2**22 // len(latent))  # bounds the memory
    kept = 0
    for first in range(0, len(latent), rows):
        block = torch.arange(first, min(first + rows, len(latent)))
        distance = torch.cdist(latent[block], latent)
        distance[torch.arange(len(block)), block] = math.inf
        nearest = distance.argmin(1).to(modes.device)
        kept += int((modes[nearest] == modes[block]).sum())
    return kept / len(latent)


def mode_survival_chance(modes: Tensor) -> float:
    """What `mode_survival` is on average where the modes are dealt out at random.

    Σ_m n_m (n_m − 1)/(n (n − 1)), exactly: the chance that two particles share their mode.
    modes: (n,), n ≥ 2. Raises ValueError for any other shape.

    >>> mode_survival_chance(torch.tensor([0, 0, 1, 1]))  # one of the three others is mine
    0.3333333333333333
    """
    _check_modes(modes)
    count, n = modes.unique(return_counts=True)[1], len(modes)
    return int((count * (count - 1)).sum()) / (n * (n - 1))


def w2_to_normal(latent: Tensor, seed: int = 0) -> float:
    """How Gaussian the noise side is: `sliced_w2` from x_T to as many draws of N(0, I).

    latent: (n, *shape). seed: of the draws. NaN if a particle is not finite.
    """
    latent, _ = _comparable(latent, latent)
    return sliced_w2(latent, _normal_draws(len(latent), latent.shape[1], seed).to(latent))


def w2_to_normal_floor(n: int, dim: int = 2, seed: int = 0) -> float:
    """What `w2_to_normal` reads on n draws of N(0, I) itself. Raises ValueError for n, dim < 1."""
    check_whole("n", n)
    check_whole("dim", dim)
    return w2_to_normal(_normal_draws(n, dim, seed + DATA_SEED), seed)


@torch.no_grad()
def evaluate_latent(
    model: Process, density: Density, n: int = 4000, seed: int = 0
) -> dict[str, float | int]:
    """What a model's way out makes of n points of the data: how Gaussian, and what it forgets.

    mode_survival, mode_survival_chance: of the data's modes in x_T. mode_survival_data: the same
        in the data, before any step; less than 1 where modes cross.
    w2_to_normal, w2_to_normal_floor: in units of the noise.
    n, seed: as given. Raises ValueError for n < 2 and for what is no Process or Density.
    """
    _check_pair(model, density)
    check_whole("n", n, least=2)
    check_seed(seed)
    data = density.sample(n, seed=seed + DATA_SEED)
    weight = next(model.parameters(), torch.empty(0))
    latent = model.encode(data.to(weight), seed=seed).end.to(data)
    modes = density.mode(data)
    return {
        "mode_survival": mode_survival(latent, modes),
        "mode_survival_chance": mode_survival_chance(modes),
        "mode_survival_data": mode_survival(data, modes),
        "w2_to_normal": w2_to_normal(latent, seed),
        "w2_to_normal_floor": w2_to_normal_floor(n, latent.shape[1], seed),
        "n": n,
        "seed": seed,
    }


def _normal_draws(n: int, dim: int, seed: int) -> Tensor:
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64)


def _check_modes(modes: Tensor) -> None:
    if not isinstance(modes, Tensor) or modes.ndim != 1 or len(modes) < 2:
        got = tuple(modes.shape) if isinstance(modes, Tensor) else type(modes).__name__
        raise ValueError(f"modes must be a tensor (n,) with n >= 2, got {got}")


def _check_pair(model: object, density: object) -> None:
    if not isinstance(model, Process):
        raise ValueError(f"model must be a Process, got {type(model).__name__}")
    if not isinstance(density, Density):
        raise ValueError(
            f"density must be one of `toy`, got {shortly(density)}; toy.load makes one"
        )


def _comparable(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both samples as float64 (n, d) and (m, d), or a ValueError that names the argument."""
    for name, value in (("x", x), ("y", y)):
        if not isinstance(value, Tensor) or value.ndim < 2 or len(value) == 0:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} must be a tensor (n, *shape) with n >= 1, got {got}")
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"x and y must hold samples of one shape, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    return double(x.detach().flatten(1)), double(y.detach().flatten(1))


def unit_directions(count: int, dim: int, seed: int) -> Tensor:
    """Unit vectors, columns of (dim, count): random orthonormal bases side by side."""
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    size = min(dim, count)
    noise = torch.randn(
        math.ceil(count / size), dim, size, generator=generator, dtype=torch.float64
    )
    bases = torch.linalg.qr(noise).Q
    return bases.permute(1, 0, 2).flatten(1)[:, :count]


def _common_levels(n: int, m: int, device: torch.device) -> Tensor:
    """The levels in [0, 1] at which one of the two empirical quantile functions jumps, sorted.

    Between two of them both are constant, so the 1-D distance is a finite sum, n = m or not.
    """
    # Whole numbers over n m: 1/3 and 2/6 must be one level, not two with a sliver between.
    jumps = torch.cat([torch.arange(n + 1) * m, torch.arange(m + 1) * n]).unique()
    return (jumps.double() / (n * m)).to(device)


def _mean_distance(x: Tensor, y: Tensor) -> float:
    """Mean ‖x_i − y_j‖ over all pairs, the diagonal too."""
    rows = max(1, 2**21 // len(y))
    exact = "donot_use_mm_for_euclid_dist"  # the fast mode gives ‖x − x‖ > 0
    total = sum(torch.cdist(c, y, compute_mode=exact).sum().item() for c in x.split(rows))
    return total / (len(x) * len(y))
