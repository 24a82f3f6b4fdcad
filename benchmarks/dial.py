"""The noise dial: one DiffFlow at every noise budget, from nearly a flow to nearly a diffusion.

    python -m benchmarks.dial                          # all settings, 2 at a time; resumable
    python -m benchmarks.dial --only 10/0.1 --seeds 0  # one: N and the budget
    python -m benchmarks.dial --longer 4               # longer training, in a folder of its own
    python -m benchmarks.dial --longer 4 --assemble    # results/dial.json from its runs
    python -m benchmarks.dial --longer 4 --ship        # and its chains of ten steps, seed 0, into
                                                       # the package

The dial is one number, the noise budget B = ∫ g² dt: all the variance that the forward process
injects. On the log-SNR chain g² = d log(1 + r²)/dt, r the noise-to-signal ratio, so that

    B = log(1 + r_max²)    and    r_max = √(e^B − 1),

and everything else can stay as it is: networks, step counts, smallest noise, recipe. As B → 0 the
linear part of a step becomes the identity and the learned drift has to carry the particles alone,
as in a flow; for large B the chain drowns the data even where the drift stays at zero, as in DDPM.

Every setting of one N trains for the same number of steps on one thread, hence for about the same
CPU time, then gets the best backward noise (`calibrate`). Each run leaves its record and its
weights in runs/dial; a run whose record exists is not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.children import run_all
from benchmarks.records import write_json
from benchmarks.train_zoo import current_commit, data_width, machine
from diffflow_edu import DiffFlow, fit, metrics, toy, zoo

DENSITY, SEEDS, PARTICLES, LATENT_PARTICLES = "olympic_rings", (0, 1, 2), 10_000, 4000
SEED = 0  # of the data and noise that all are measured with
CALIBRATION_PARTICLES = 20_000
BUDGETS = {10: zoo.NOISE_BUDGETS, 5: (0.001, 0.01, 0.1, 0.3, 1.0, 4.0)}
TRAINING = {"steps": 800, "batch_size": 250, "lr": 5e-3, "warm_start": 500}
FOLDER = Path("runs") / "dial"
RESULTS = Path(__file__).parent / "results" / "dial.json"


def r_max(budget: float) -> float:
    """The last noise-to-signal ratio of the log-SNR chain that injects this much variance.

    Raises ValueError unless the budget is positive and finite.

    >>> round(math.log1p(r_max(0.3) ** 2), 12)
    0.3
    """
    if not (budget > 0 and math.isfinite(budget)):
        raise ValueError(f"budget must be positive and finite, got {budget!r}")
    return math.sqrt(math.expm1(budget))


def recipe(
    steps: int, budget: float, density: toy.Density, longer: int = 1, seed: int = 0
) -> dict[str, Any]:
    """Grid, networks and training of one setting: what `zoo.build` takes."""
    grid = {"steps": steps, "r_min": 1.3 * data_width(density), "r_max": r_max(budget)}
    return {
        "kind": f"diffflow_noise_{budget:g}",
        "density": density.name,
        "schedule": ["log_snr", grid],
        "hidden": 128,
        "learn_backward_std": False,
        "training": {**TRAINING, "steps": longer * TRAINING["steps"], "seed": seed},
    }


def settings() -> list[str]:
    """Every setting as "N/budget", the ends of the dial first, so that few runs tell its range."""
    found = []
    for steps, budgets in BUDGETS.items():
        for step in (len(budgets) - 1, 2, 1):
            chosen = [f"{steps}/{budget:g}" for budget in budgets[::step]]
            found += [name for name in chosen if name not in found]
    return found


def train(name: str, folder: Path, commit: str, longer: int = 1) -> None:
    """Train and measure one setting from one seed; write its weights and then its record.

    name: "N/budget/seed". longer: so many times the usual number of steps.
    """
    torch.set_num_threads(1)
    setting, seed = name.rsplit("/", 1)
    steps, budget = int(setting.split("/")[0]), float(setting.split("/")[1])
    density = toy.load(DENSITY)
    plan = recipe(steps, budget, density, longer, int(seed))
    torch.manual_seed(int(seed))
    model = zoo.build(plan)
    began = time.process_time()
    fit(model, density, **plan["training"])
    model.calibrate(density.sample(CALIBRATION_PARTICLES, seed=int(seed) + 1))
    seconds = time.process_time() - began
    measured = measure(model, density)
    card = {
        "recipe": plan,
        "command": f"python -m benchmarks.dial --longer {longer} --only {setting} --seeds {seed}",
        "commit": commit,
        "machine": machine(),
        "seconds": round(seconds, 1),
        "clock": "CPU",
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "metrics": {k: v if math.isfinite(v) else None for k, v in measured.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    zoo.save_model(file_of(folder, name, ".safetensors"), model, card)
    write_json(file_of(folder, name, ".json"), {"N": steps, "budget": budget, **card})


@torch.no_grad()
def measure(model: DiffFlow, density: toy.Density) -> dict[str, float | int]:
    """Bound and samples from PARTICLES points, the noise side from LATENT_PARTICLES of them."""
    data = density.sample(PARTICLES, seed=SEED + metrics.DATA_SEED)
    torch.manual_seed(SEED)
    bound = metrics.mean_bound(model, data)
    samples = model.sample(PARTICLES, seed=SEED).start
    finite = samples[samples.isfinite().all(dim=1)]
    return {
        "bound": bound,
        "gap": metrics.bound_gap(bound, density),
        "leak": metrics.leak(samples, density),
        "sliced_w2": metrics.sliced_w2(finite, data) if len(finite) else math.nan,
        "sliced_w2_floor": metrics.floor(density, PARTICLES, seed=SEED),
        "non_finite": PARTICLES - len(finite),
        **metrics.evaluate_latent(model, density, n=LATENT_PARTICLES, seed=SEED),
    }


def file_of(folder: Path, name: str, suffix: str) -> Path:
    return folder / (name.replace("/", "--") + suffix)


def assemble(folder: Path) -> dict[str, Any]:
    """All records by N and budget, and for each N the best place of the dial, by every measure."""
    records = [json.loads(path.read_text("utf-8")) for path in folder.glob("*--*--*.json")]
    records.sort(key=lambda r: (-r["N"], r["budget"], seed_of(r)))
    return {
        "setting": {
            "density": DENSITY,
            "entropy": toy.load(DENSITY).entropy(),
            "particles": PARTICLES,
            "latent_particles": LATENT_PARTICLES,
            "seeds": sorted({seed_of(r) for r in records}),
            "training": records[0]["recipe"]["training"] if records else TRAINING,
            "units": "budget: ∫g² dt, variance in units of the normalised data; gap: nats; "
            "sliced_w2 and w2_to_normal: in those units; seconds: CPU",
            "machines": sorted({r["machine"] for r in records}),
            "commits": sorted({r["commit"] for r in records}),
        },
        "best": {
            str(n): {
                "mean": best_places([r for r in records if r["N"] == n]),
                **{
                    str(seed): best_places(
                        [r for r in records if (r["N"], seed_of(r)) == (n, seed)]
                    )
                    for seed in SEEDS
                },
            }
            for n in BUDGETS
        },
        "records": records,
    }


def best_places(records: list[dict[str, Any]]) -> dict[str, float]:
    """The budget at which the mean of each measure over the records is least."""
    if not records:
        return {}
    values: dict[str, dict[float, list[float]]] = {}
    for record in records:
        for what in ("gap", "leak", "sliced_w2", "w2_to_normal"):
            here = values.setdefault(what, {}).setdefault(record["budget"], [])
            here.append(_or_worst(record["metrics"][what]))
    return {
        what: min(found, key=lambda b: statistics.fmean(found[b])) for what, found in values.items()
    }


def seed_of(record: dict[str, Any]) -> int:
    return record["recipe"]["training"]["seed"]


def _or_worst(value: float | None) -> float:
    return math.inf if value is None else value


def ship(folder: Path, into: Path) -> list[Path]:
    """Copy the chains of ten steps and the first seed into the package, by their zoo names."""
    shipped = []
    for path in sorted(folder.glob(f"10--*--{SEEDS[0]}.safetensors")):
        kind = zoo.load(path).card["recipe"]["kind"]
        shipped.append(into / f"{kind}-{DENSITY}-10.safetensors")
        shipped[-1].write_bytes(path.read_bytes())
    return shipped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="*", default=settings(), choices=settings(), metavar="N/BUDGET"
    )
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--longer", type=int, default=1, help="times the usual number of steps")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--commit", help="the commit of this code, where git is not at hand")
    parser.add_argument("--assemble", action="store_true", help="write the JSON and run nothing")
    parser.add_argument("--ship", action="store_true", help="the same, and copy the weights")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["DIFFFLOW_EDU_PROGRESS"] = "0"
    folder = FOLDER if options.longer == 1 else Path(f"{FOLDER}-{options.longer}")
    commit = current_commit()
    if commit == "unknown":
        commit = options.commit or commit
    if options.one:
        train(options.one, folder, commit, options.longer)
        return
    if options.assemble or options.ship:
        write_json(RESULTS, assemble(folder))
        for path in ship(folder, zoo.FOLDER) if options.ship else ():
            print(path.name, path.stat().st_size // 1000, "kB")
        return
    names = [f"{setting}/{seed}" for seed in options.seeds for setting in options.only]
    waiting = [name for name in names if not file_of(folder, name, ".json").exists()]
    command = [sys.executable, "-m", "benchmarks.dial", "--longer", str(options.longer)]
    command += ["--commit", commit, "--one"]
    run_all({name: [*command, name] for name in waiting}, options.jobs)


if __name__ == "__main__":
    main()
