"""DiffFlow, DDPM and a coupling flow on 14×14 MNIST, about eleven CPU-minutes each; and digits.

    python -m benchmarks.small_images                  # train and measure all; resumable
    python -m benchmarks.small_images --only diffflow
    python -m benchmarks.small_images --ship           # put the weights into the package

Everything is measured in bits/dim of test pictures, beside the full-covariance Gaussian of the
training pictures; a chain's bits/dim are of its bound, at most. Chains are measured on several
numbers of steps with the same networks, the backward noise set anew for each.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.train_zoo import current_commit, machine
from diffflow_edu import CouplingFlow, fid, fit, images, scale, tabular, zoo
from diffflow_edu.evaluation import evaluate
from diffflow_edu.processes.base import Process

RUNS = Path("runs") / "small_images"
RESULTS = Path(__file__).parent / "results" / "small_images.json"
TEST, ODE, FID, SEED = 2000, 100, 10_000, 0

COMMON = {"images": "mnist14", "batch_size": 60, "lr": 1e-3, "r_min": 0.005, "r_max": 8.0}
DIGITS = {**COMMON, "images": "digits", "r_min": 0.05}  # 17 grey levels: less detail
CHAINS = {
    "diffflow": (
        scale.Config(
            kind="diffflow", size="tiny", steps=(10,), warm_start=6000, updates=300, **COMMON
        ),
        (5, 10),
    ),
    "ddpm": (
        scale.Config(kind="ddpm", size="tiny2", steps=(30,), updates=6600, **COMMON),
        (5, 10, 30),
    ),
    "digits": (
        scale.Config(
            kind="diffflow", size="tiny", steps=(10,), warm_start=4000, updates=300, **DIGITS
        ),
        (5, 10),
    ),
}
COUPLING = {"steps": 23_000, "batch_size": 256, "lr": 1e-3}


class Flat:
    """Pictures as vectors."""

    def __init__(self, data: images.Images) -> None:
        self.data = data

    def sample(self, n: int, seed: int | None = None) -> Tensor:
        """n of them, (n, D)."""
        return self.data.sample(n, seed).flatten(1)


def chain(name: str) -> dict[str, Any]:
    """Train a chain in a folder of its own and measure it on its numbers of steps."""
    config, steps = CHAINS[name]
    data = images.load(config.images)
    clock = RUNS / name / "cpu_seconds"  # of earlier sessions, where training was stopped
    seconds = float(clock.read_text()) if clock.exists() else 0.0
    began = time.process_time()
    model = scale.train(config, RUNS / name, look_every=2000)
    if not clock.exists() or time.process_time() - began > 10:  # a finished run only loads
        seconds += time.process_time() - began
        clock.write_text(f"{seconds:.1f}")
    n, ode_n = min(TEST, len(data.test)), ODE if config.kind == "diffflow" else 0
    rows = evaluate(model, data, steps, n, ode_n, FID if name != "digits" else 0, SEED)
    return {
        "config": asdict(config),
        "parameters": parameters(model),
        "cpu_seconds": round(seconds),
        "rows": [asdict(row) for row in rows],
    }


def coupling(data: images.Images) -> dict[str, Any]:
    """Train the coupling flow and measure it."""
    torch.manual_seed(SEED)
    model = CouplingFlow(data.dim, layers=8, hidden=256)
    began = time.process_time()
    RUNS.mkdir(parents=True, exist_ok=True)
    fit(model, Flat(data), **COUPLING, seed=SEED, checkpoint=RUNS / "coupling.pt")
    seconds = time.process_time() - began
    test = data.dequantise(data.test[:TEST], seed=SEED)
    with torch.no_grad():
        bits = data.bits_per_dim(model.bound(test.flatten(1)).double())
        samples = model.sample(FID, seed=SEED).start.unflatten(1, data.shape)
    net = fid.feature_net(data.name)
    pictures = data.dequantise(data.test[:FID], seed=SEED)
    finite = samples.nan_to_num(0, 0, 0)
    distance = fid.frechet_distance(fid.features(net, finite), fid.features(net, pictures))
    row = {
        "steps": 8,
        "bits_per_dim": float(bits.mean()),
        "error": float(bits.std()) / TEST**0.5,
        "ode": None,
        "fid": distance,
    }
    return {
        "config": COUPLING,
        "parameters": parameters(model),
        "cpu_seconds": round(seconds),
        "rows": [row],
    }


def gaussian(data: images.Images) -> dict[str, Any]:
    """The full-covariance Gaussian of the training pictures."""
    train = data.dequantise(data.train, seed=SEED + 1).flatten(1)
    fitted = tabular.Gaussian.of(train.numpy())
    test = data.dequantise(data.test[:TEST], seed=SEED).flatten(1)
    bits = data.bits_per_dim(-fitted.log_prob(test).double())
    row = {"bits_per_dim": float(bits.mean()), "error": float(bits.std()) / TEST**0.5}
    return {"rows": [row]}


def parameters(model: Process) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def write(name: str, record: dict[str, Any]) -> None:
    """Put one model's record beside those that are there."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[name] = record
    temporary = RESULTS.with_name(RESULTS.name + ".part")
    temporary.write_text(json.dumps(results, indent=1) + "\n")
    temporary.replace(RESULTS)


def ship(name: str) -> None:
    """Put a trained chain into the package, its record in its card."""
    model = zoo.load(RUNS / name / "model.safetensors")
    record = json.loads(RESULTS.read_text())[name]
    config = model.card["config"]
    keep = {k: v for k, v in model.card.items() if k in ("recipe", "config")}
    path = zoo.FOLDER / f"{config['kind']}-{config['images']}-{model.schedule.steps}.safetensors"
    zoo.save_model(path, model, keep | record)


def main() -> None:
    """Train and measure what is asked for; each record is written as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["gaussian", *CHAINS, "coupling"]
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    parser.add_argument("--ship", action="store_true", help="put trained chains into the package")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.ship:
        for name in set(CHAINS) & set(options.only):
            ship(name)
        return
    data = images.load("mnist14")
    # What chains look at on the way is kept from their training; the others keep it out as well.
    held = scale.HELD
    others = replace(data, train=data.train[:-held], train_labels=data.train_labels[:-held])
    for name in options.only:
        if name in CHAINS:
            record = chain(name)
        else:
            record = coupling(others) if name == "coupling" else gaussian(others)
        write(
            name,
            record
            | {
                "command": f"python -m benchmarks.small_images --only {name}",
                "machine": machine(),
                "commit": current_commit(),
                "seed": SEED,
            },
        )
        print(name, record["rows"], flush=True)


if __name__ == "__main__":
    main()
