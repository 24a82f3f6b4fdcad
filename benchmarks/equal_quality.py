"""What equal quality costs: how long a DiffFlow takes to be as good as a DDPM of as many steps.

    python -m benchmarks.equal_quality              # 35 CPU-minutes, two runs at a time; resumable
    python -m benchmarks.equal_quality --only 5     # N = 5
    python -m benchmarks.equal_quality --assemble   # results/equal_quality.json from what is there

Five crossing rings, nets of equal size, one thread, CPU seconds of training. A DDPM, on its best
grid of benchmarks/toy.py, trains for 4 and for 8 seconds, with the batch that is best in so short a
time (of 125 to 2000, by Adam; Muon gained it nothing). DiffFlow, with the grids and the optimizer
of the shipped weights, trains for 2 to 128 seconds, anew for each, since its learning rate falls to
zero at the planned end. The first of its lengths that is as good as that DDPM, read off the line
between two lengths, over the DDPM's seconds: that is the cost of equal quality.

Good is measured twice: by the bound's gap to the data entropy, and by leak. Both machines have the
best backward noise (`calibrate`), whose time counts for neither. Each run leaves its record in
runs/equal_quality; a run whose record exists is not repeated.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.children import run_all
from benchmarks.records import read_json, write_json
from benchmarks.toy import MACHINES, calibrate, step_seconds
from benchmarks.train_zoo import current_commit, data_width, diffflow_on_rings, machine
from diffflow_edu import fit, metrics, toy, zoo

DENSITY, PARTICLES, SEEDS = "olympic_rings", 10_000, (0, 1, 2)
STEPS = (5, 10, 30)
BUDGETS = {"ddpm": (4, 8), "diffflow": (2, 4, 8, 16, 32, 64, 128)}
QUALITIES = ("gap", "leak")
FOLDER = Path("runs") / "equal_quality"
RESULTS = Path(__file__).parent / "results" / "equal_quality.json"

Curve = list[tuple[float, float]]


def plan(kind: str, steps: int, width: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Recipe of the model, and of its training but for the length."""
    if kind == "ddpm":
        of_toy = MACHINES[f"ddpm-log_snr-{steps}"]
        return of_toy.recipe(width), {"batch_size": 500, "lr": of_toy.lr}
    recipe = {
        "kind": "diffflow",
        "schedule": list(diffflow_on_rings(steps, width)[0]),
        "hidden": 128,
        "learn_backward_std": False,
    }
    return recipe, {"batch_size": 250, "lr": 5e-3, "optimizer": "muon"}


def run(name: str, folder: Path, commit: str) -> None:
    """Train and measure one model, by its "kind/N/seconds/seed"; write its record."""
    torch.set_num_threads(1)
    kind, steps, budget, seed = name.split("/")
    density = toy.load(DENSITY)
    recipe, training = plan(kind, int(steps), data_width(density))
    torch.manual_seed(int(seed))
    a_step = statistics.median(
        step_seconds(zoo.build(recipe), density, training["batch_size"], steps=20)
    )
    torch.manual_seed(int(seed))
    model = zoo.build(recipe)
    updates = max(1, round(float(budget) / a_step))
    began = time.process_time()
    fit(model, density, steps=updates, seed=int(seed), **training)
    seconds = time.process_time() - began
    calibrate(model, density, int(seed))
    measured = metrics.evaluate(model, density, n=PARTICLES, seed=int(seed))
    record = {
        "kind": kind,
        "steps": int(steps),
        "budget": float(budget),
        "seed": int(seed),
        "updates": updates,
        "cpu_seconds": round(seconds, 2),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "recipe": recipe | {"training": training},
        **{what: measured[what] for what in (*QUALITIES, "sliced_w2")},
        "machine": machine(),
        "commit": commit,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file_of(folder, name), record)


def file_of(folder: Path, name: str) -> Path:
    return folder / (name.replace("/", "--") + ".json")


def names(many_steps: tuple[int, ...] = STEPS) -> list[str]:
    """Every run, the long ones first."""
    return [
        f"{kind}/{steps}/{budget}/{seed}"
        for kind, budget in sorted(
            ((kind, budget) for kind, budgets in BUDGETS.items() for budget in budgets),
            key=lambda pair: -pair[1],
        )
        for steps in many_steps
        for seed in SEEDS
    ]


def seconds_to(curve: Curve, level: float) -> float | None:
    """When a curve of (seconds, value), in the order of time, first is at the level or below.

    Read off the line between two lengths, over the logarithm of time; None where it never is. Where
    the first length is good enough already, that length: an upper limit.

    >>> seconds_to([(2, 3.0), (8, 1.0)], 2.0)
    4.0
    >>> seconds_to([(2, 3.0), (8, 1.0)], 0.5) is None
    True
    """
    if curve and curve[0][1] <= level:
        return float(curve[0][0])
    for (before, high), (after, low) in pairwise(curve):
        if low <= level:
            share = (high - level) / (high - low)
            return before * (after / before) ** share
    return None


def cost_ratio(records: list[dict[str, Any]], what: str, budget: float) -> tuple[float, bool]:
    """Of one N and seed: DiffFlow's seconds over the DDPM's of that budget, and if it got there.

    Where it never did, its longest training over the DDPM's: a lower limit.
    """
    (ddpm,) = (r for r in records if r["kind"] == "ddpm" and r["budget"] == budget)
    ours = sorted((r for r in records if r["kind"] == "diffflow"), key=lambda r: r["cpu_seconds"])
    taken = seconds_to([(r["cpu_seconds"], r[what]) for r in ours], ddpm[what])
    longest = ours[-1]["cpu_seconds"]
    return (longest if taken is None else taken) / ddpm["cpu_seconds"], taken is not None


def assemble(folder: Path) -> dict[str, Any]:
    """Every record, and the cost of equal quality by N, measure and the DDPM's seconds."""
    records = [read_json(path) for path in sorted(folder.glob("*--*.json"))]
    rows = []
    for steps in STEPS:
        for what in QUALITIES:
            for budget in BUDGETS["ddpm"]:
                found = [
                    cost_ratio(
                        [r for r in records if (r["steps"], r["seed"]) == (steps, seed)],
                        what,
                        budget,
                    )
                    for seed in SEEDS
                ]
                rows.append(
                    {
                        "N": steps,
                        "equal": what,
                        "ddpm_seconds": budget,
                        "ratios": [round(ratio, 3) for ratio, _ in found],
                        "reached": [reached for _, reached in found],
                    }
                )
    return {
        "density": DENSITY,
        "particles": PARTICLES,
        "clock": "CPU seconds of training, one thread",
        "rows": rows,
        "records": records,
        "command": "python -m benchmarks.equal_quality",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", type=int, default=list(STEPS), choices=STEPS)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--assemble", action="store_true", help="write the JSON and run nothing")
    parser.add_argument("--commit", help="the commit of this code, where git is not at hand")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["DIFFFLOW_EDU_PROGRESS"] = "0"
    commit = options.commit or current_commit()
    if options.one:
        run(options.one, FOLDER, commit)
        return
    if not options.assemble:
        wanted = names(tuple(options.only))
        waiting = [name for name in wanted if not file_of(FOLDER, name).exists()]
        command = [sys.executable, "-m", "benchmarks.equal_quality", "--commit", commit, "--one"]
        run_all({name: [*command, name] for name in waiting}, options.jobs)
    lacking = [name for name in names() if not file_of(FOLDER, name).exists()]
    if lacking:
        raise SystemExit(f"{len(lacking)} runs are missing, {lacking[0]} among them")
    write_json(RESULTS, assemble(FOLDER))


if __name__ == "__main__":
    main()
