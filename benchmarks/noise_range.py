"""What a grid that follows from the data is worth, on colour patches, beside two others.

    python -m benchmarks.noise_range                  # all, about four CPU-minutes each; resumable
    python -m benchmarks.noise_range --only whitened

Four DDPMs of ten steps, trained alike but for the noise: the range that these patches had before it
followed from them (r_max = 8, below their loudest standard deviation, 8.6), the same with the mean
subtracted, the range of `noise_range`, and a short range after the loudest direction was shrunk to
the next one's standard deviation (an exact change of variables, counted in nats). Each is measured
in bits/dim of test patches, at most; by where its paths end; and by the Fréchet distance of the
pixels themselves, which sees a lost direction at once.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.records import read_json, write_json
from benchmarks.train_zoo import current_commit, machine
from diffflow_edu import DDPM, Schedule, fid, fit, images
from diffflow_edu.noise_range import look_at_end, noise_range

RESULTS = Path(__file__).parent / "results" / "noise_range.json"
RUNS = Path("runs") / "noise_range"
STEPS, SIZE, UPDATES, BATCH, SEED, TEST, END = 10, "tiny2", 4000, 60, 0, 1560, 1500
R_MIN, OLD_R_MAX = 0.02, 8.0


@dataclass(frozen=True)
class Shrunk:
    """Pictures x with their loudest direction u shrunk: x − (1 − c) uuᵀ(x − mean)."""

    data: images.Images
    direction: Tensor
    factor: float

    def sample(self, n: int, seed: int | None = None) -> Tensor:
        """n of them, (n, C, H, W)."""
        return self.change(self.data.sample(n, seed), self.factor)

    def change(self, x: Tensor, factor: float) -> Tensor:
        """x with what it has along u multiplied by a factor."""
        away = (x - self.data.mean()).flatten(1) @ self.direction
        return x - ((1 - factor) * away[:, None] * self.direction).view_as(x)

    @staticmethod
    def of(data: images.Images) -> Shrunk:
        """The loudest direction shrunk to the standard deviation of the next."""
        x = data.sample(8000, seed=SEED).flatten(1).double()
        values, vectors = torch.linalg.eigh(torch.cov(x.T))
        return Shrunk(data, vectors[:, -1].float(), float((values[-2] / values[-1]).sqrt()))


def train(name: str) -> dict[str, Any]:
    """Train and measure one of the four."""
    data = images.load("patches")
    shrunk = Shrunk.of(data) if name == "whitened" else None
    source = shrunk or data
    r_max = OLD_R_MAX if name in ("before", "centred") else noise_range(source).r_max
    torch.manual_seed(SEED)
    model = DDPM.unet(Schedule.log_snr(STEPS, r_min=R_MIN, r_max=r_max), data.shape, SIZE, True)
    if name != "before":
        model.set_standardisation(data.mean(), 1.0)
    began = time.process_time()
    fit(
        model, source, steps=UPDATES, batch_size=BATCH, lr=1e-3, ema=0.999, seed=SEED,
        checkpoint=RUNS / f"{name}.pt", checkpoint_every=200,
    )  # fmt: skip
    seconds = time.process_time() - began
    model.calibrate(source.sample(500, seed=SEED + 1))
    x = data.dequantise(data.test[:TEST], seed=SEED)
    inside = shrunk.change(x, shrunk.factor) if shrunk else x
    with torch.no_grad():
        nats = torch.cat([model.bound(part, seed=SEED) for part in inside.split(260)]).double()
    samples = model.sample(TEST, seed=SEED, shape=data.shape).start
    if shrunk:
        nats = nats - torch.tensor(shrunk.factor).log()
        samples = shrunk.change(samples, 1 / shrunk.factor)
    bits = data.bits_per_dim(nats)
    pixels = fid.frechet_distance(samples.clamp(-1, 1).flatten(1), x.flatten(1))
    end = look_at_end(model, inside[:END], seed=SEED)
    return {
        "r_min": R_MIN,
        "r_max": r_max,
        "bits_per_dim": float(bits.mean()),
        "error": float(bits.std()) / len(bits) ** 0.5,
        "pixels": pixels,
        "top_variance": end.top_variance,
        "top_floor": end.top_floor,
        "mean_norm": end.mean_norm,
        "mean_floor": end.mean_floor,
        "cpu_seconds": round(seconds),
    }


NAMES = ("before", "centred", "from the data", "whitened")


def main() -> None:
    """Train and measure what is asked for; each record is written as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        origin = {
            "command": f'python -m benchmarks.noise_range --only "{name}"',
            "machine": machine(),
            "commit": current_commit(),
            "seed": SEED,
        }
        record = train(name)
        write_json(RESULTS, read_json(RESULTS) | {name: record | origin})
        print(name, record, flush=True)


if __name__ == "__main__":
    main()
