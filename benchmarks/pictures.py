"""DiffFlow, DDPM and a coupling flow on MNIST at 28×28 and CIFAR-10 at 32×32, hours of a CPU.

    python -m benchmarks.pictures mnist-ddpm-30            # train a piece; the same command goes on
    python -m benchmarks.pictures mnist-ddpm-30 --minutes 60
    python -m benchmarks.pictures --measure mnist-ddpm-30  # of a finished training: the record
    python -m benchmarks.pictures --list                   # what there is, and how far it is

One thread each. The CPU time of every piece of a training is added up, those of an interrupted one
but for its last minutes. Chains are measured at the N that they were trained at, and with the same
networks at others; bits/dim of their bound on test pictures, at most.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.records import read_json, ship_run, write_json
from benchmarks.small_images import parameters
from benchmarks.train_zoo import current_commit, machine
from diffflow_edu import images, scale, zoo
from diffflow_edu.evaluation import evaluate
from diffflow_edu.files import to_json, write_whole
from diffflow_edu.noise_range import look_at_end
from diffflow_edu.processes.base import Process

RUNS = Path("runs") / "pictures"
RESULTS = Path(__file__).parent / "results" / "pictures.json"
TEST, FID, SEED, PIECE, END = 1000, 5000, 0, 5, 1500

COMMON = {"batch_size": 32, "lr": 2e-3, "size": "compact"}
DDPM = {**COMMON, "kind": "ddpm"}
DIFFFLOW = {**COMMON, "kind": "diffflow", "drift_size": "compact_drift", "path_steps": 5}
CHAINS = {
    "mnist-ddpm-30": scale.Config(images="mnist", steps=(30,), updates=16_000, **DDPM),
    "mnist-diffflow-10": scale.Config(
        images="mnist", steps=(10,), warm_start=12_000, updates=600, **DIFFFLOW
    ),
    "mnist-ddpm-10": scale.Config(images="mnist", steps=(10,), updates=16_000, **DDPM),
    "mnist-diffflow-30": scale.Config(
        images="mnist", steps=(10, 30), warm_start=12_000, updates=600, **DIFFFLOW
    ),
    "cifar10-ddpm-10": scale.Config(images="cifar10", steps=(10,), updates=40_000, **DDPM),
    "cifar10-diffflow-10": scale.Config(
        images="cifar10", steps=(10,), warm_start=30_000, updates=1200, **DIFFFLOW
    ),
}
"""By set, kind and N. One price for all on a set, within a tenth."""
MEASURED_AT = {"mnist": (5, 10, 30, 100), "cifar10": (5, 10, 20)}


def train(name: str, minutes: float = math.inf) -> Process | None:
    """Train for so many minutes of the clock, in pieces; the model, once it is finished."""
    folder, model = RUNS / name, None
    end = time.monotonic() + 60 * minutes
    while model is None and time.monotonic() < end:
        piece = min(PIECE, (end - time.monotonic()) / 60)
        began, clock = time.process_time(), time.monotonic()
        model = scale.train(CHAINS[name], folder, piece, look_every=1000)
        spent = time.process_time() - began
        if time.monotonic() - clock < 60 * piece:  # somebody stopped it
            end = -math.inf
        write_whole(folder / "pieces.json", to_json([*pieces(folder), round(spent, 1)]))
    return model


def pieces(folder: Path) -> list[float]:
    """CPU seconds of the pieces that a training was made in."""
    path = folder / "pieces.json"
    return read_json(path) if path.exists() else []


def measure(name: str) -> dict[str, Any]:
    """Bits/dim and FID of a finished training, and where its paths end."""
    config, seconds = CHAINS[name], round(sum(pieces(RUNS / name)))
    trained, half = scale.train(config, RUNS / name), RUNS / name / "half.safetensors"
    zoo.save_model(half, trained, trained.card, half=True)
    model = zoo.load(half)  # what is shipped is what is measured
    data = images.load(config.images)
    end = look_at_end(model, data.dequantise(data.test[:END], seed=SEED))
    rows = evaluate(model, data, MEASURED_AT[config.images], TEST, 0, FID, SEED)
    return {
        "config": asdict(config),
        "parameters": parameters(model),
        "cpu_seconds": seconds,
        "test": TEST,
        "fid_n": FID,
        "end": asdict(end),
        "rows": [asdict(row) for row in rows],
        "command": f"python -m benchmarks.pictures {name}",
        "machine": machine(),
        "commit": current_commit(),
        "seed": SEED,
    }


def main() -> None:
    """Train, measure, ship or list what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *CHAINS], metavar="NAME")
    parser.add_argument("--minutes", type=float, default=math.inf, help="of training, each")
    parser.add_argument("--measure", action="store_true", help="write the record")
    parser.add_argument("--ship", action="store_true", help="put weights into the package")
    parser.add_argument("--list", action="store_true", help="say how far every training is")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.list:
        for name in CHAINS:
            folder = RUNS / name
            done = (folder / "model.safetensors").exists()
            print(f"{name:22} {round(sum(pieces(folder)) / 60):4} CPU-min{' finished' * done}")
    for name in options.names:
        if options.ship:
            ship_run(RUNS / name, read_json(RESULTS)[name], half=True)
        elif options.measure:
            record = measure(name)
            write_json(RESULTS, read_json(RESULTS) | {name: record})
            print(name, record["rows"])
        else:
            train(name, options.minutes)


if __name__ == "__main__":
    main()
