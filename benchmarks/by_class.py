"""Rings by label: one model of all five rings and of each, and what guidance does to it.

    python -m benchmarks.by_class                # all models, about ten CPU-minutes; resumable
    python -m benchmarks.by_class ddpm-30        # one
    python -m benchmarks.by_class --table        # of the record

Five crossing rings, the label of a point is its ring. DDPM and DiffFlow at N = 30 and DiffFlow at
N = 10, on the grids of the shipped weights, with 5 classes; a tenth of the labels is dropped in
training, so that the same networks are the model without labels. They show that labels are learned,
not which machine is better: their prices differ. One thread, seed 0. Measured on 10 000 samples of
every ring: `leak`, the share farther than 5 widths from the ring of the label, on others or on
none; `other`, the share that lies on another ring, and so not on its own; the bound of −log p(x|y)
and of −log p(x) in nats, beside the entropies of the data.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.records import read_json, write_json
from benchmarks.train_zoo import current_commit, data_width, diffflow_on_rings, machine
from diffflow_edu import DiffFlow, fit, metrics, toy, zoo

DENSITY, PARTICLES, SEED = "olympic_rings", 10_000, 0
GUIDANCE = {"ddpm": (0.0, 0.5, 1.0, 2.0), "diffflow": (0.0, 1.0)}
RESULTS = Path(__file__).parent / "results" / "by_class.json"
FOLDER = Path("runs") / "by_class"


def plans(width: float) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """By name, the recipe of a model and of its training."""
    log_snr = ["log_snr", {"steps": 30, "r_min": width, "r_max": 4.0}]
    ddpm = {"kind": "ddpm", "schedule": log_snr, "hidden": 192, "learn_backward_std": True}
    shorter = ["log_snr", {"steps": 30, "r_min": width, "r_max": 3.0}]
    geometric = list(diffflow_on_rings(10, width)[0])
    diffflow = {"kind": "diffflow", "hidden": 128, "learn_backward_std": True, "classes": 5}
    return {
        "ddpm-30": (ddpm | {"classes": 5}, {"steps": 3000, "batch_size": 500, "lr": 5e-3}),
        "diffflow-30": (
            diffflow | {"schedule": shorter},
            {"steps": 60, "batch_size": 500, "lr": 5e-3, "warm_start": 2000},
        ),
        "diffflow-10": (
            diffflow | {"schedule": geometric, "learn_backward_std": False},
            {"steps": 1500, "batch_size": 250, "lr": 5e-3, "optimizer": "muon"},
        ),
    }


def entropies(density: toy.Density) -> dict[str, float]:
    """Of all rings together, and of one in the same units, nats."""
    ring = toy.load("ring", width=density.width)
    one = ring.entropy() + 2 * math.log(ring.scale / density.scale)
    return {"entropy": density.entropy(), "entropy_given": one}


@torch.no_grad()
def on_own_ring(x: torch.Tensor, density: toy.Density, label: int) -> torch.Tensor:
    """Which points (n, 2) lie within 5 widths of the ring of the label, (n,) bool."""
    centre = ((density.centres[label] - density.shift) / density.scale).to(x)
    away = ((x - centre).norm(dim=1) - 1 / density.scale).abs()
    return away <= density.leak_distance


def leaks(model: DiffFlow, density: toy.Density, guidance: float) -> dict[str, Any]:
    """Of samples with each label: off its ring, and on another one instead."""
    leak, other, spread = [], [], []
    for label in range(density.n_modes):
        how = {"label": label, "guidance": guidance, "keep": "end"}
        x = model.sample(PARTICLES, seed=SEED + label, **how).start
        off = ~on_own_ring(x, density, label)
        leak.append(float(off.float().mean()))
        other.append(float((off & ~density.leaked(x)).float().mean()))
        given, data = density.sample_labelled(8 * PARTICLES, seed=SEED + 100)
        spread.append(metrics.sliced_w2(x, given[data == label][:PARTICLES]))
    return {"guidance": guidance, "leak": leak, "other": other, "sliced_w2": spread}


def run(name: str, commit: str) -> dict[str, Any]:
    """Train one model, keep it, measure it; the record."""
    torch.set_num_threads(1)
    density = toy.load(DENSITY)
    recipe, training = plans(data_width(density))[name]
    torch.manual_seed(SEED)
    model = zoo.build(recipe)
    began = time.process_time()
    fit(model, density, seed=SEED, labels=True, **training)
    seconds = time.process_time() - began
    x, label = density.sample_labelled(50_000, seed=SEED + 1)
    model.calibrate(x, seed=SEED, label=label)
    x, label = density.sample_labelled(PARTICLES, seed=SEED + 2)
    with torch.no_grad():
        bounds = {
            "bound_given": float(model.bound(x, seed=SEED, label=label).mean()),
            "bound": float(model.bound(x, seed=SEED).mean()),
        }
    record = {
        "recipe": recipe | {"training": training | {"labels": True}},
        "steps": model.schedule.steps,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "cpu_seconds": round(seconds, 1),
        **{what: round(value, 4) for what, value in (bounds | entropies(density)).items()},
        "unlabelled_leak": metrics.leak(model.sample(PARTICLES, seed=SEED).start, density),
        "by_guidance": [leaks(model, density, w) for w in GUIDANCE[recipe["kind"]]],
        "particles": PARTICLES,
        "seed": SEED,
        "command": f"python -m benchmarks.by_class {name}",
        "machine": machine(),
        "commit": commit,
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    zoo.save_model(FOLDER / f"{name}.safetensors", model, {"recipe": recipe})
    return record


def table(records: dict[str, Any]) -> str:
    """A line a model and guidance: the worst label's leak and share on another ring."""
    lines = ["model         w   worst leak  worst on another ring  mean sliced W2"]
    for name, record in records.items():
        for row in record["by_guidance"]:
            w2 = sum(row["sliced_w2"]) / len(row["sliced_w2"])
            lines.append(
                f"{name:12} {row['guidance']:3g}  {max(row['leak']):10.2%}  "
                f"{max(row['other']):21.2%}  {w2:14.3f}"
            )
        lines.append(
            f"{name:12} bound {record['bound_given']:.3f} nats given the label (entropy "
            f"{record['entropy_given']:.3f}), {record['bound']:.3f} without "
            f"({record['entropy']:.3f}); leak without a label {record['unlabelled_leak']:.2%}"
        )
    return "\n".join(lines)


def main() -> None:
    """Train and measure what is asked for and not there yet."""
    names = list(plans(0.01))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *names], metavar="NAME")
    parser.add_argument("--table", action="store_true", help="print the record, train nothing")
    options = parser.parse_args()
    commit = current_commit()
    for name in [] if options.table else options.names or names:
        if options.names or name not in read_json(RESULTS):
            record = run(name, commit)
            write_json(RESULTS, read_json(RESULTS) | {name: record})
    print(table(read_json(RESULTS)))


if __name__ == "__main__":
    main()
