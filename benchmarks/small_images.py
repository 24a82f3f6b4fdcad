"""DiffFlow, DDPM and a coupling flow on 14×14 MNIST, about eleven CPU-minutes each; and digits.

    python -m benchmarks.small_images                  # train and measure all; resumable
    python -m benchmarks.small_images --only diffflow
    python -m benchmarks.small_images --sheets         # samples of what is trained, for notebook 08
    python -m benchmarks.small_images --ablate         # shipped DiffFlows without their drift
    python -m benchmarks.small_images --ship           # put the weights into the package

Everything is measured in bits/dim of test pictures, beside two models without training: the
full-covariance Gaussian of the training pictures, and a table of how often each pixel has each
level. A chain's bits/dim are of its bound, at most. Chains are measured on several numbers of steps
with the same networks, the backward noise set anew for each.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.records import read_json, ship_run, write_json
from benchmarks.train_zoo import current_commit, machine
from diffflow_edu import (
    DDPM,
    CouplingFlow,
    DiffFlow,
    fid,
    fit,
    images,
    pretrained,
    scale,
    tabular,
    zoo,
)
from diffflow_edu.evaluation import CALIBRATION, evaluate, on_grid
from diffflow_edu.processes.base import Process

RUNS = Path("runs") / "small_images"
RESULTS = Path(__file__).parent / "results" / "small_images.json"
SHEETS = RESULTS.with_name("small_images_samples.npz")
TEST, ODE, FID, SHEET, SEED = 2000, 100, 10_000, 49, 0

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
    seconds = float(clock.read_text("utf-8")) if clock.exists() else 0.0
    began = time.process_time()
    model = scale.train(config, RUNS / name, look_every=2000)
    if not clock.exists() or time.process_time() - began > 10:  # a finished run only loads
        seconds += time.process_time() - began
        clock.write_text(f"{seconds:.1f}", "utf-8")
    n, ode_n = min(TEST, len(data.test)), ODE if config.kind == "diffflow" else 0
    rows = evaluate(model, data, steps, n, ode_n, FID if name != "digits" else 0, SEED)
    return ({"without_drift": without_drift(model, data)} if ode_n else {}) | {
        "config": asdict(config),
        "parameters": parameters(model),
        "cpu_seconds": round(seconds),
        "rows": [asdict(row) for row in rows],
    }


def without_drift(model: DiffFlow, data: images.Images) -> float:
    """Bits/dim of a DiffFlow at its own N, its drift set to zero, the backward noise set anew."""
    alone = DDPM.of(model).on(model.schedule)  # a copy of the backward noise, not the model's own
    alone.calibrate(data.sample(CALIBRATION, seed=SEED + 1), seed=SEED)
    (row,) = evaluate(alone, data, None, min(TEST, len(data.test)), 0, 0, SEED)
    return row.bits_per_dim


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
        samples = model.sample(FID, seed=SEED).start
    return {
        "config": COUPLING,
        "parameters": parameters(model),
        "cpu_seconds": round(seconds),
        "rows": [{"steps": 8} | row(data, bits, samples) | tail(bits)],
    }


def tail(bits: Tensor) -> dict[str, float]:
    """What a mean hides where few pictures have most of the bits. bits: (n,)."""
    return {"median": float(bits.median()), "above_8": float((bits > 8).double().mean())}


def row(data: images.Images, bits: Tensor, samples: Tensor) -> dict[str, float | None]:
    """What a model without steps measures. bits: (n,) of test pictures; samples: (n, D)."""
    net = fid.feature_net(data.name)
    pictures = data.dequantise(data.test[: len(samples)], seed=SEED)
    finite = samples.nan_to_num(0, 0, 0).unflatten(1, data.shape)
    distance = fid.frechet_distance(fid.features(net, finite), fid.features(net, pictures))
    error = float(bits.std()) / len(bits) ** 0.5
    return {"bits_per_dim": float(bits.mean()), "error": error, "ode": None, "fid": distance}


def gaussian(data: images.Images) -> dict[str, Any]:
    """The full-covariance Gaussian of the training pictures."""
    fitted = fit_gaussian(data)
    test = data.dequantise(data.test[:TEST], seed=SEED).flatten(1)
    bits = data.bits_per_dim(-fitted.log_prob(test).double())
    return {"rows": [row(data, bits, draw_gaussian(fitted, FID))]}


def fit_gaussian(data: images.Images) -> tabular.Gaussian:
    return tabular.Gaussian.of(data.dequantise(data.train, seed=SEED + 1).flatten(1).numpy())


def draw_gaussian(fitted: tabular.Gaussian, n: int) -> Tensor:
    noise = torch.randn(n, len(fitted.mean), generator=torch.Generator().manual_seed(SEED))
    return fitted.unwhiten(noise)


def pixels(data: images.Images) -> dict[str, Any]:
    """A table of how often each pixel has each level, no level never: P(k) itself, not a bound."""
    share = fit_pixels(data)
    test = data.test[:TEST].flatten(1).long()
    bits = -share.log2().gather(1, test.T).mean(0).double()
    return {"rows": [row(data, bits, draw_pixels(data, share, FID))]}


def fit_pixels(data: images.Images) -> Tensor:
    """Shares (D, levels)."""
    columns = data.train.flatten(1).long().T
    seen = torch.stack([torch.bincount(k, minlength=data.levels) for k in columns]) + 0.5
    return seen / seen.sum(1, keepdim=True)


def draw_pixels(data: images.Images, share: Tensor, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.multinomial(share, n, replacement=True, generator=generator).T
    return data.dequantise(drawn.to(torch.uint8), seed=SEED)


@torch.no_grad()
def sheet(name: str, data: images.Images, others: images.Images) -> dict[str, Tensor]:
    """Samples of what was trained, a chain's on each N: by title, (SHEET, C, H, W) uint8."""
    if name in CHAINS:
        model = zoo.load(RUNS / name / "model.safetensors")
        calibration = data.sample(CALIBRATION, seed=SEED + 1)  # as `evaluate` does
        grids = {f"{name} {n}": on_grid(model, n, calibration) for n in CHAINS[name][1]}
        drawn = {
            title: chain.sample(SHEET, seed=SEED, shape=data.shape).start
            for title, chain in grids.items()
        }
        return {title: data.quantise(x) for title, x in drawn.items()}
    if name == "gaussian":
        drawn = draw_gaussian(fit_gaussian(others), SHEET)
    elif name == "pixels":
        drawn = draw_pixels(others, fit_pixels(others), SHEET)
    else:
        flow = CouplingFlow(data.dim, layers=8, hidden=256)
        fit(flow, Flat(others), **COUPLING, seed=SEED, checkpoint=RUNS / "coupling.pt")
        drawn = flow.sample(SHEET, seed=SEED).start
    return {name: data.quantise(drawn.unflatten(1, data.shape))}


def write_sheets(names: list[str], data: images.Images, others: images.Images) -> None:
    """Put the samples asked for beside those that are there, and beside test pictures."""
    arrays = dict(np.load(SHEETS)) if SHEETS.exists() else {}
    arrays["data"] = data.test[:SHEET].numpy()
    for name in names:
        arrays |= {title: x.numpy() for title, x in sheet(name, data, others).items()}
    np.savez_compressed(SHEETS, **arrays)


def parameters(model: Process) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def main() -> None:
    """Train and measure what is asked for; each record is written as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    measures = {"gaussian": gaussian, "pixels": pixels, "coupling": coupling}
    names = ["gaussian", "pixels", *CHAINS, "coupling"]
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    parser.add_argument("--sheets", action="store_true", help="draw samples of what is trained")
    parser.add_argument("--ship", action="store_true", help="put trained chains into the package")
    parser.add_argument("--ablate", action="store_true", help="measure what the drift is worth")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.ablate:
        for name, where in {"diffflow": "mnist14", "digits": "digits"}.items():
            value = without_drift(pretrained("diffflow", where), images.load(where))
            results = read_json(RESULTS)
            results[name]["without_drift"] = value
            write_json(RESULTS, results)
        return
    if options.ship:
        for name in set(CHAINS) & set(options.only):
            ship_run(RUNS / name, read_json(RESULTS)[name])
        return
    data = images.load("mnist14")
    # What chains look at on the way is kept from their training; the others keep it out as well.
    held = scale.HELD
    others = replace(data, train=data.train[:-held], train_labels=data.train_labels[:-held])
    if options.sheets:
        return write_sheets([name for name in options.only if name != "digits"], data, others)
    for name in options.only:
        record = chain(name) if name in CHAINS else measures[name](others)
        origin = {
            "command": f"python -m benchmarks.small_images --only {name}",
            "machine": machine(),
            "commit": current_commit(),
            "seed": SEED,
        }
        write_json(RESULTS, read_json(RESULTS) | {name: record | origin})
        print(name, record["rows"], flush=True)


if __name__ == "__main__":
    main()
