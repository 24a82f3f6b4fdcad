"""Bits per dimension and FID of an image model, for one number of steps or many.

A net trained on one grid can be run on another of the same noise process. That is what the rows for
other numbers of steps than the trained one are: the same networks at times of which they may never
have been told, with the backward noise set anew by training pictures. A model trained on such a
grid may do better. Conventions: bits/dim of the bound are "at most"; the probability flow is
another density and stands in its own column; FID carries the name of its feature net, and its
floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffflow_edu import fid, images
from diffflow_edu.devices import double, fork_rng
from diffflow_edu.inception import Inception
from diffflow_edu.processes.diffflow import DiffFlow
from diffflow_edu.schedules import LogSNR, Schedule, check_whole, shortly

CALIBRATION = 500


@dataclass(frozen=True)
class Row:
    """A model on N steps. bits_per_dim: of the bound, an upper one; error: its standard error.

    ode: bits/dim of the probability flow; fid: in the features of `feature_net`; None where not
    asked for or not to be had, as the error of one picture.
    """

    steps: int
    bits_per_dim: float
    error: float | None
    ode: float | None
    fid: float | None


def on_grid(model: DiffFlow, steps: int, data: Tensor) -> DiffFlow:
    """The same networks on N steps of the same kind and noise, their backward noise set by `data`.

    Raises ValueError for a schedule that is neither log-SNR nor told by the model's card.
    """
    noise = model.schedule.noise_process
    recipe = getattr(model, "card", {}).get("recipe", {})
    if isinstance(noise, LogSNR):
        schedule = Schedule.log_snr(steps, r_min=noise.r_min, r_max=noise.r_max)
    elif "schedule" in recipe:
        constructor, arguments = recipe["schedule"]
        schedule = getattr(Schedule, constructor)(**{**arguments, "steps": steps})
    else:
        raise ValueError(f"steps: how to make {model.schedule} of another N is not known")
    other = DiffFlow(model.drift, model.score, schedule)
    other.in_units_of(model)
    other.taught = model.schedule.times if model.taught is None else model.taught
    other.to(model.log_b_ratio.device).eval()
    other.calibrate(data)
    return other


class Shipped:
    """FID in the features of the net that comes with the package for a set of pictures.

    floor: of n training pictures (fewer where there are fewer), beside the scores of n samples.
    """

    def __init__(self, data: images.Images, n: int, device: torch.device, seed: int) -> None:
        self.net = fid.feature_net(data.name).to(device)
        self.name, self.sha256 = self.net.name, self.net.sha256
        self.wanted = fid.features(self.net, data.dequantise(data.test[:n], seed=seed))
        train = data.train[:n]
        self.n, self.floor_images = n, len(train)
        if n == self.net.card["floor_images"]:
            self.floor: float = self.net.card["floor"]
        else:  # a distance falls with the number of pictures, and its floor with it
            self.floor = self.distance(data.dequantise(train, seed=seed + 1))

    def distance(self, samples: Tensor) -> float:
        """Of samples (n, C, H, W) in [−1, 1] to as many test pictures."""
        return fid.frechet_distance(fid.features(self.net, samples), self.wanted)


def yardstick(
    data: images.Images, n: int, net: Literal["shipped", "inception"] = "shipped", seed: int = 0
) -> Shipped | Inception:
    """What measures the FID of n samples, with its name, sha256 and floor at this n.

    Raises ValueError for an unknown net and for n below 2 or above the number of test pictures,
    MissingError where Inception cannot be had.
    """
    check_whole("n", n, least=2)
    if n > len(data.test):
        raise ValueError(f"n must be at most {len(data.test)} test pictures, got {shortly(n)}")
    if net not in ("shipped", "inception"):
        raise ValueError(f"fid must be 'shipped' or 'inception', got {shortly(net)}")
    if net == "inception":
        return Inception(data, n)
    return Shipped(data, n, data.test.device, seed)


def check_numbers(data: images.Images, n: int | None, ode_n: int, fid_n: int) -> None:
    """Raise a ValueError unless so many test pictures can be had, and are enough."""
    for name, number in (("n", n), ("ode_n", ode_n), ("fid_n", fid_n)):
        if number is None and name == "n":
            continue
        check_whole(name, number, least=1 if name == "n" else 0)
        if number > len(data.test):
            raise ValueError(f"{name} must be at most {len(data.test)} test pictures, got {number}")
    if fid_n == 1:
        raise ValueError("fid_n must be 0, or 2 or more to have a covariance, got 1")


@torch.no_grad()
def evaluate(
    model: DiffFlow,
    data: images.Images,
    steps: Sequence[int] | None = None,
    n: int | None = None,
    ode_n: int = 0,
    fid_n: int = 0,
    seed: int = 0,
    batch: int = 250,
    last_noise: bool = False,
    fid_net: Shipped | Inception | None = None,
) -> list[Row]:
    """A `Row` for every N in steps; by default for the model's own, as it is.

    n: test pictures for the bound, 1000 by default or all. ode_n: for the ODE (Hutchinson's trace).
    fid_n: samples and as many test pictures for FID, which needs a feature net shipped for these
    images, or a `fid_net` of `yardstick` for as many. last_noise: of the samples, see `sample`.
    Raises ValueError where test pictures are too few.
    """
    check_numbers(data, n, ode_n, fid_n)
    check_whole("batch", batch)
    n = min(1000, len(data.test)) if n is None else n
    device = model.log_b_ratio.device
    data = data.to(device)
    test = data.dequantise(data.test[: max(n, ode_n)], seed=seed)
    calibration = data.sample(CALIBRATION, seed=seed + 1)
    if fid_n and fid_net is None:
        fid_net = yardstick(data, fid_n, seed=seed)
    if fid_n and fid_net.n != fid_n:
        raise ValueError(f"fid_net must be of fid_n = {fid_n} pictures, is of {fid_net.n}")

    rows = []
    for number in steps or [model.schedule.steps]:
        chain = on_grid(model, number, calibration) if steps else model
        with fork_rng(device):
            torch.manual_seed(seed)
            bounds = double(torch.cat([chain.bound(part) for part in test[:n].split(batch)]))
        bits = data.bits_per_dim(bounds)
        ode = None
        if ode_n:
            log_p = [chain.log_prob(p, seed, trace="hutchinson") for p in test[:ode_n].split(batch)]
            ode = float(data.bits_per_dim(-double(torch.cat(log_p)).mean()))
        distance = None
        if fid_n:
            how = {"shape": data.shape, "last_noise": last_noise}
            parts = [
                chain.sample(min(batch, fid_n - i), seed=seed + i, **how).start.clone()
                for i in range(0, fid_n, batch)
            ]
            distance = fid_net.distance(torch.cat(parts))
        error = float(bits.std()) / n**0.5 if n > 1 else None
        rows.append(Row(chain.schedule.steps, float(bits.mean()), error, ode, distance))
    return rows


@torch.no_grad()
def agreement(
    model: DiffFlow,
    data: images.Images,
    n: int = 1000,
    guidance: float = 0.0,
    seed: int = 0,
    batch: int = 250,
) -> float:
    """The share of n samples, of the classes in turn, that the shipped classifier takes for theirs.

    Its own test accuracy is `fid.feature_net(data.name).card["accuracy"]`. guidance: w, see
    `DiffFlow.given`. Raises ValueError for a model without classes and for pictures for which no
    classifier is shipped.
    """
    check_whole("n", n)
    check_whole("batch", batch)
    if not model.classes:
        raise ValueError("model must have classes, to be asked for them; this one has none")
    net = fid.feature_net(data.name).to(model.log_b_ratio.device)
    right = 0
    for first in range(0, n, batch):
        label = torch.arange(first, min(first + batch, n)) % model.classes
        how = {"label": label, "guidance": guidance, "keep": "end"}
        x = model.sample(len(label), seed=seed + first, shape=data.shape, **how).start
        right += int((net(x).argmax(1).cpu() == label).sum())
    return right / n


def table(
    rows: Sequence[Row],
    data: images.Images,
    fid_n: int = 0,
    fid_net: Shipped | Inception | None = None,
    trained_steps: int | None = None,
) -> str:
    """The rows as text, with what the numbers are.

    fid_net: by default the shipped one. trained_steps: N of the model, where rows may have others.
    """
    if fid_n and fid_net is None:
        fid_net = yardstick(data, fid_n)
    name = f"FID-{fid_net.name}" if fid_n else ""
    width = max(len(name), 9)
    head = f"{'N':>4}  {'bits/dim ≤':>15}  {'ODE':>7}  {name:>{width}}"
    lines = [f"{data.name}, test pictures", head.rstrip()]
    for row in rows:
        ode = "" if row.ode is None else f"{row.ode:.3f}"
        distance = "" if row.fid is None else f"{row.fid:.2f}"
        bits = f"{row.bits_per_dim:.3f}" + ("" if row.error is None else f" ± {row.error:.3f}")
        lines.append(f"{row.steps:>4}  {bits:>15}  {ode:>7}  {distance:>{width}}".rstrip())
    if fid_n:
        lines.append(
            f"{name} of {fid_n} samples against {fid_n} test pictures; training against test "
            f"pictures: {fid_net.floor:.2f} ({fid_net.floor_images} each)"
        )
    if trained_steps is not None and any(row.steps != trained_steps for row in rows):
        lines.append(
            f"Trained on {trained_steps} steps. On other numbers of steps the same networks run at "
            "other times, their backward noise set anew."
        )
    return "\n".join(lines)
