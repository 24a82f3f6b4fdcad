"""Colour: DiffFlow and DDPM on 8×8 colour patches, and what FID-ResNet sees on CIFAR-10.

    python -m benchmarks.colour                  # train and measure all; resumable
    python -m benchmarks.colour --only diffflow
    python -m benchmarks.colour --ship           # put the weights into the package

"diffflow" and "ddpm" have four to five minutes of one thread each. Patches are measured in bits/dim
of test patches, from other strips of the photographs than those trained on, beside Gaussians of the
training patches; a chain's bits/dim are of its bound, at most. "blind" needs CIFAR-10: test images
spoiled in several ways, and how far FID-ResNet thinks they are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.records import read_json, ship_run, write_json
from benchmarks.train_zoo import current_commit, machine
from diffflow_edu import fid, images, scale, tabular
from diffflow_edu.evaluation import evaluate

RUNS = Path("runs") / "colour"
RESULTS = Path(__file__).parent / "results" / "colour.json"
TEST, ODE, FID, SEED = 500, 100, 10_000, 0

# Details finer than .02 of the range there are hardly any: see the smallest eigenvalues.
COMMON = {"images": "patches", "batch_size": 60, "lr": 1e-3, "r_min": 0.02, "r_max": 8.0}
STEPS = (5, 10, 20, 50)
# About equal time; DDPM's one net holds about as many weights as DiffFlow's two.
CHAINS = {
    "diffflow": scale.Config(
        kind="diffflow", size="tiny", steps=(10,), warm_start=4000, updates=430, **COMMON
    ),
    "ddpm": scale.Config(kind="ddpm", size="tiny2", steps=(10,), updates=8500, **COMMON),
}


def chain(name: str) -> dict[str, Any]:
    """Train a chain in a folder of its own and measure it on its numbers of steps."""
    config = CHAINS[name]
    data = images.load(config.images)
    clock = RUNS / name / "cpu_seconds"  # of earlier sessions, where training was stopped
    seconds = float(clock.read_text("utf-8")) if clock.exists() else 0.0
    began = time.process_time()
    model = scale.train(config, RUNS / name, look_every=1000)
    if not clock.exists() or time.process_time() - began > 10:  # a finished run only loads
        seconds += time.process_time() - began
        clock.write_text(f"{seconds:.1f}", "utf-8")
    rows = evaluate(model, data, STEPS, TEST, ODE if config.kind == "diffflow" else 0, seed=SEED)
    return {
        "config": asdict(config),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "cpu_seconds": round(seconds),
        "test": TEST,
        "ode_test": ODE if config.kind == "diffflow" else 0,
        "rows": [asdict(row) for row in rows],
    }


def gaussian() -> dict[str, Any]:
    """The full-covariance Gaussian of the training patches, and one for each photograph."""
    data = images.load("patches")
    held = scale.HELD  # what chains look at on the way is kept from their training
    data = replace(data, train=data.train[:-held], train_labels=data.train_labels[:-held])
    train = data.dequantise(data.train, seed=SEED + 1).flatten(1)
    test = data.dequantise(data.test[:TEST], seed=SEED).flatten(1)
    single = tabular.Gaussian.of(train.numpy()).log_prob(test).double()
    each = [tabular.Gaussian.of(train[data.train_labels == k].numpy()) for k in (0, 1)]
    shares = [(data.train_labels == k).double().mean().log() for k in (0, 1)]
    both = torch.stack([g.log_prob(test).double() + s for g, s in zip(each, shares, strict=True)])
    eigenvalues = torch.linalg.eigvalsh(torch.cov(train.T.double()))
    rows = [
        {"bits_per_dim": float(bits.mean()), "error": float(bits.std()) / TEST**0.5}
        for bits in (data.bits_per_dim(-log_p) for log_p in (single, both.logsumexp(0)))
    ]
    return {
        "test": TEST,
        "rows": rows[:1],
        "two": rows[1],
        "deviations": [float(e.sqrt()) for e in (eigenvalues[0], eigenvalues[96], eigenvalues[-1])],
    }


def blurred(y: Tensor) -> Tensor:
    """A binomial 3×3 blur of each colour."""
    line = torch.tensor([0.25, 0.5, 0.25])
    kernel = (line[:, None] * line).expand(3, 1, 3, 3)
    return F.conv2d(F.pad(y, (1,) * 4, mode="replicate"), kernel, groups=3)


def spoilt(data: images.Images) -> dict[str, Callable[[], Tensor]]:
    """CIFAR-10 in the ways a model may fail, each (FID, 3, 32, 32) when called."""
    n = min(FID, len(data.test))
    y = data.dequantise(data.test[:n], seed=SEED)
    draw = torch.Generator().manual_seed(SEED)

    def normal() -> Tensor:
        train = data.dequantise(data.train[:20_000], seed=SEED + 1).flatten(1)
        cov = torch.cov(train.T).double() + 1e-4 * torch.eye(data.dim)
        root = torch.linalg.cholesky(cov).float()
        noise = torch.randn(n, data.dim, generator=draw)
        return (train.mean(0) + noise @ root.T).unflatten(1, data.shape)

    few = torch.randint(min(100, n), (n,), generator=draw)
    kept = (data.test_labels[:n] != 0).nonzero()[:, 0]
    again = kept[torch.randint(len(kept), (n,), generator=draw)]
    return {
        "training images": lambda: data.dequantise(data.train[:n], seed=SEED),
        "mirrored": lambda: y.flip(-1),
        "one class left out": lambda: y[again],
        "a hundred images, again and again": lambda: y[few],
        "noise of 5 levels": lambda: y + (5 / 128) * torch.randn(y.shape, generator=draw),
        "noise of 20 levels": lambda: y + (20 / 128) * torch.randn(y.shape, generator=draw),
        "blurred": lambda: blurred(y),
        "red and blue exchanged": lambda: y.flip(1),
        "a Gaussian's samples": normal,
    }


def blind() -> dict[str, Any]:
    """FID-ResNet, and the Fréchet distance of the pixels themselves at 8×8, of spoilt images."""
    data = images.load("cifar10")
    net = fid.feature_net("cifar10")
    test = data.dequantise(data.test[:FID], seed=SEED)
    wanted, small = fid.features(net, test), F.avg_pool2d(test, 4).flatten(1)
    began = time.process_time()
    rows = {}
    for name, make in spoilt(data).items():
        y = make().clamp(-1, 1)
        rows[name] = {
            "fid": fid.frechet_distance(fid.features(net, y), wanted),
            "pixels": fid.frechet_distance(F.avg_pool2d(y, 4).flatten(1), small),
        }
        print(name, rows[name], flush=True)
    return {
        "images": len(test),
        "sha256": net.sha256,
        "accuracy": net.card["accuracy"],
        "cpu_seconds": round(time.process_time() - began),
        "rows": rows,
    }


def main() -> None:
    """Train and measure what is asked for; each record is written as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    makers = {"gaussian": gaussian, **{name: lambda n=name: chain(n) for name in CHAINS}}
    makers["blind"] = blind
    parser.add_argument("--only", nargs="*", choices=list(makers), default=list(makers))
    parser.add_argument("--ship", action="store_true", help="put trained chains into the package")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.ship:
        measured = read_json(RESULTS)
        for name in CHAINS:
            if name in options.only and name in measured:
                ship_run(RUNS / name, measured[name])
        return
    for name in options.only:
        origin = {
            "command": f"python -m benchmarks.colour --only {name}",
            "machine": machine(),
            "commit": current_commit(),
            "seed": SEED,
        }
        record = makers[name]()
        write_json(RESULTS, read_json(RESULTS) | {name: record | origin})
        print(name, record.get("rows"), flush=True)


if __name__ == "__main__":
    main()
