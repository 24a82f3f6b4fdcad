"""What makes a joint training step of DiffFlow cheaper, on 14×14 MNIST, at equal processor time.

    python -m benchmarks.joint_cost                  # all, some minutes each; resumable
    python -m benchmarks.joint_cost --only "small drift, 2 of 10 steps"

All start from a diffusion trained for as many steps, whose drift is zero, and train drift and score
together for as many CPU-seconds: two equal nets and whole paths, fewer of a path's backward steps,
a smaller drift, both, gradients of larger batches, a score that stays as it is, and, as the
measure of whether the drift is worth its price, the diffusion alone for as long. N = 10. Measured:
bits/dim of 1000 test pictures, at most, and what a step costs.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.records import read_json, write_json
from benchmarks.train_zoo import current_commit, machine
from diffflow_edu import DDPM, DiffFlow, fit, images
from diffflow_edu.noise_range import noise_range
from diffflow_edu.unet import Size

RESULTS = Path(__file__).parent / "results" / "joint_cost.json"
RUNS = Path("runs") / "joint_cost"
STEPS, BATCH, WARM, SECONDS, SEED, TEST = 10, 30, 4000, 240, 0, 1000
SCORE, SMALL = "tiny", Size(channels=8, factors=(1, 2), blocks=1, attention=())


@dataclass(frozen=True)
class Way:
    """drift: size of its net. path_steps, accumulate: of `fit`. frozen: the score does not move.

    joint: False trains the diffusion alone.
    """

    drift: str | Size = SCORE
    path_steps: int | None = None
    accumulate: int = 1
    frozen: bool = False
    joint: bool = True


WAYS = {
    "equal nets, whole paths": Way(),
    "5 of 10 steps": Way(path_steps=5),
    "2 of 10 steps": Way(path_steps=2),
    "small drift": Way(SMALL),
    "small drift, 5 of 10 steps": Way(SMALL, path_steps=5),
    "small drift, 2 of 10 steps": Way(SMALL, path_steps=2),
    "small drift, 2 of 10 steps, four batches": Way(SMALL, path_steps=2, accumulate=4),
    "small drift, the score stays": Way(SMALL, frozen=True),
    "no drift, the diffusion alone": Way(SMALL, joint=False),
}


def build(data: images.Images, way: Way) -> DiffFlow:
    """An untrained model."""
    torch.manual_seed(SEED)
    schedule = noise_range(data).schedule(STEPS)
    model = DiffFlow.unet(schedule, data.shape, SCORE, True, drift_size=way.drift)
    model.set_standardisation(data.mean(), 1.0)
    return model


def warm(data: images.Images) -> dict[str, torch.Tensor]:
    """The score's weights after the warm start, which all ways share."""
    model = build(data, Way())
    ddpm = DDPM.of(model)
    fit(
        ddpm, data, steps=WARM, batch_size=BATCH, lr=1e-3, ema=0.999, seed=SEED,
        checkpoint=RUNS / "warm.pt",
    )  # fmt: skip
    return {k: v for k, v in ddpm.state_dict().items() if not k.startswith("drift")}


def run(name: str, data: images.Images, begin: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Train one way for its seconds and measure it."""
    way = WAYS[name]
    model = build(data, way)
    model.load_state_dict(begin, strict=False)
    model.score.requires_grad_(not way.frozen)
    objective = model if way.joint else DDPM.of(model)
    options = {"batch_size": BATCH, "lr": 1e-3, "ema": 0.99, "accumulate": way.accumulate}
    options |= {"path_steps": way.path_steps} if way.path_steps else {}

    began = time.process_time()
    fit(objective, data, steps=3, seed=SEED + 1, **options)
    each = (time.process_time() - began) / 3
    model = build(data, way)  # those three steps only told the price
    model.load_state_dict(begin, strict=False)
    model.score.requires_grad_(not way.frozen)
    objective = model if way.joint else DDPM.of(model)
    updates = max(1, round(SECONDS / each))
    began = time.process_time()
    fit(objective, data, steps=updates, seed=SEED, **options)
    seconds = time.process_time() - began

    model.calibrate(data.sample(2000, seed=SEED + 1), seed=SEED)
    x = data.dequantise(data.test[:TEST], seed=SEED)
    with torch.no_grad():
        nats = torch.cat([model.bound(part, seed=SEED) for part in x.split(250)]).double()
    bits = data.bits_per_dim(nats)
    return {
        "updates": updates,
        "pictures": updates * BATCH * way.accumulate,
        "seconds_per_update": round(seconds / updates, 3),
        "cpu_seconds": round(seconds),
        "parameters": sum(p.numel() for p in model.parameters()),
        "bits_per_dim": float(bits.mean()),
        "error": float(bits.std()) / TEST**0.5,
    }


def main() -> None:
    """Train and measure what is asked for; each record is written as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=list(WAYS), default=list(WAYS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    data = images.load("mnist14")
    begin = warm(data)
    for name in options.only:
        origin = {
            "command": f'python -m benchmarks.joint_cost --only "{name}"',
            "machine": machine(),
            "commit": current_commit(),
            "seed": SEED,
        }
        record = run(name, data, begin)
        write_json(RESULTS, read_json(RESULTS) | {name: record | origin})
        print(name, record, flush=True)


if __name__ == "__main__":
    main()
