"""Bits per dimension and FID of an image model, for one number of steps or many.

A net trained on one grid can be run on another of the same noise process; the backward noise is set
anew for each. Conventions: bits/dim of the bound are "at most"; the probability flow is another
density and stands in its own column; FID carries the name of its feature net, and its floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffflow_edu import fid, images
from diffflow_edu.processes.diffflow import DiffFlow
from diffflow_edu.schedules import Schedule, check_whole

CALIBRATION = 500


@dataclass(frozen=True)
class Row:
    """A model on N steps. bits_per_dim: of the bound, an upper one; error: its standard error.

    ode: bits/dim of the probability flow; fid: in the features of `feature_net`; None where not
    asked for or not to be had.
    """

    steps: int
    bits_per_dim: float
    error: float
    ode: float | None
    fid: float | None


def on_grid(model: DiffFlow, steps: int, data: Tensor) -> DiffFlow:
    """The same networks on N log-SNR steps of the same noise, its backward noise set by `data`."""
    noise = model.schedule.noise_process
    schedule = Schedule.log_snr(steps, r_min=noise.r_min, r_max=noise.r_max)
    other = DiffFlow(model.drift, model.score, schedule)
    other.shape = model.shape
    other.taught = model.schedule.times if model.taught is None else model.taught
    other.to(model.log_b_ratio.device).eval()
    other.calibrate(data)
    return other


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
) -> list[Row]:
    """A `Row` for every N in steps; by default for the model's own, as it is.

    n: test pictures for the bound, 1000 by default or all. ode_n: for the ODE (Hutchinson's trace).
    fid_n: samples and as many test pictures for FID, which needs a feature net shipped for these
    images.
    Raises ValueError where test pictures are too few.
    """
    n = min(1000, len(data.test)) if n is None else n
    for name, number in (("n", n), ("ode_n", ode_n), ("fid_n", fid_n)):
        check_whole(name, number, least=1 if name == "n" else 0)
        if number > len(data.test):
            raise ValueError(f"{name} must be at most {len(data.test)} test pictures, got {number}")
    device = model.log_b_ratio.device
    data = data.to(device)
    test = data.dequantise(data.test[: max(n, ode_n)], seed=seed)
    calibration = data.sample(CALIBRATION, seed=seed + 1)
    net = fid.feature_net(data.name).to(device) if fid_n else None
    if net is not None:
        wanted = fid.features(net, data.dequantise(data.test[:fid_n], seed=seed))

    rows = []
    for number in steps or [model.schedule.steps]:
        chain = model if steps is None else on_grid(model, number, calibration)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            bounds = torch.cat([chain.bound(part) for part in test[:n].split(batch)]).double()
        bits = data.bits_per_dim(bounds)
        ode = None
        if ode_n:
            log_p = [chain.log_prob(p, seed, trace="hutchinson") for p in test[:ode_n].split(batch)]
            ode = float(data.bits_per_dim(-torch.cat(log_p).double().mean()))
        distance = None
        if net is not None:
            parts = [
                chain.sample(min(batch, fid_n - i), seed=seed + i, shape=data.shape).start.clone()
                for i in range(0, fid_n, batch)
            ]
            distance = fid.frechet_distance(fid.features(net, torch.cat(parts)), wanted)
        error = float(bits.std()) / n**0.5
        rows.append(Row(chain.schedule.steps, float(bits.mean()), error, ode, distance))
    return rows


def table(rows: Sequence[Row], data: images.Images, fid_n: int = 0) -> str:
    """The rows as text, with what the numbers are."""
    net = fid.feature_net(data.name) if fid_n else None
    score = f"FID-{net.name}" if net else ""
    head = f"{'N':>4}  {'bits/dim ≤':>14}  {'ODE':>7}  {score:>10}"
    lines = [f"{data.name}, test pictures", head]
    for row in rows:
        ode = "" if row.ode is None else f"{row.ode:.3f}"
        distance = "" if row.fid is None else f"{row.fid:.2f}"
        lines.append(
            f"{row.steps:>4}  {row.bits_per_dim:>7.3f} ± {row.error:.3f}  {ode:>7}  {distance:>10}"
        )
    if net:
        lines.append(
            f"{score} of {fid_n} samples against {fid_n} test pictures; training against test "
            f"pictures: {net.card['floor']:.2f} ({net.card['floor_images']} each)"
        )
    return "\n".join(lines)
