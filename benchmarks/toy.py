"""Every machine on four sets, with nets of one size and equal processor time.

    python -m benchmarks.toy                     # all runs, 2 at a time; hours, and resumable
    python -m benchmarks.toy --seconds 300       # a larger budget, in a folder of its own
    python -m benchmarks.toy --only cnf --sets checkerboard --seeds 0
    python -m benchmarks.toy --assemble          # results/toy.json from the runs there are
    python -m benchmarks.toy --likelihoods       # the log-likelihoods that are still missing

A run is one machine on one set from one seed. It trains on one thread for a number of steps fixed
beforehand: (budget − the cost of calibrating the backward noise) / the cost of a step, both in CPU
seconds, medians of rounds in which all machines take turns. A warm start is part of the budget.
What the run then really took is in its record.

Each run leaves its record and its weights in runs/toy; a run whose record exists is not repeated.
Runs come seed by seed, so that what is there at any time compares all machines.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.children import run_all
from benchmarks.records import write_json
from benchmarks.train_zoo import current_commit, data_width, machine
from diffflow_edu import CNF, DDPM, DiffFlow, Schedule, fit, metrics, toy, zoo
from diffflow_edu.processes.base import Process
from diffflow_edu.processes.ode import SolverError
from diffflow_edu.training import NonFiniteLoss

SETS = ("olympic_rings", "rotated_gaussian", "checkerboard", "fractal_tree")
SECONDS, SEEDS, PARTICLES = 60.0, 3, 10_000
CALIBRATION_PARTICLES = 20_000
LONG = 100  # from here on the bound is taken in closed form over the noise, not along paths
ODE_PARTICLES = 2000  # an exact trace along an ODE is dear
RESPACED = 30  # the steps at which the net of the long chain is tried, too
RUNS = Path("runs")
RESULTS = Path(__file__).parent / "results" / "toy.json"

Recipe = dict[str, Any]


@dataclass(frozen=True)
class Machine:
    """What is trained. recipe: what `zoo.build` takes, given the width of the data's detail."""

    title: str
    recipe: Callable[[float], Recipe]
    batch_size: int
    warm_share: float = 0.0  # of the budget
    lr: float = 5e-3
    calibrated: bool = True


def diffflow(schedule: str, learn_backward_std: bool, **grid: float) -> Recipe:
    return {
        "kind": "diffflow",
        "schedule": [schedule, grid],
        "hidden": 128,
        "learn_backward_std": learn_backward_std,
    }


def ddpm(schedule: str, **grid: float) -> Recipe:
    return {
        "kind": "ddpm",
        "schedule": [schedule, grid],
        "hidden": 192,
        "learn_backward_std": False,
    }


MACHINES = {
    "diffflow-5": Machine(
        "DiffFlow",
        lambda w: diffflow("geometric", False, steps=5, s_min=1.3 * w, s_max=0.3),
        batch_size=500,
    ),
    "diffflow-10": Machine(
        "DiffFlow",
        lambda w: diffflow("geometric", False, steps=10, s_min=1.3 * w, s_max=0.3),
        batch_size=500,
    ),
    "diffflow-30": Machine(
        "DiffFlow",
        lambda w: diffflow("log_snr", True, steps=30, r_min=w, r_max=3.0),
        batch_size=500,
        warm_share=0.5,
    ),
    "ddpm-log_snr-5": Machine(
        "DDPM, log-SNR",
        lambda w: ddpm("log_snr", steps=5, r_min=1.65 * w, r_max=1.5),
        batch_size=2000,
    ),
    "ddpm-log_snr-10": Machine(
        "DDPM, log-SNR",
        lambda w: ddpm("log_snr", steps=10, r_min=w, r_max=2.0),
        batch_size=2000,
    ),
    "ddpm-log_snr-30": Machine(
        "DDPM, log-SNR",
        lambda w: ddpm("log_snr", steps=30, r_min=w, r_max=4.0),
        batch_size=2000,
    ),
    "ddpm-linear-30": Machine(
        "DDPM, linear β", lambda w: ddpm("linear_beta", steps=30), batch_size=2000
    ),
    # At a thousand steps b = s (Ho et al.) is all but the best, and calibrating it is dear.
    "ddpm-linear-1000": Machine(
        "DDPM, linear β",
        lambda w: ddpm("linear_beta", steps=1000),
        batch_size=2000,
        calibrated=False,
    ),
    "coupling-8": Machine(
        "Coupling flow",
        lambda w: {"kind": "coupling", "model": {"layers": 8, "hidden": 104}},
        batch_size=512,
        lr=5e-3,
    ),
    "cnf": Machine(
        "CNF (FFJORD)",
        lambda w: {"kind": "cnf", "model": {"hidden": 192, "frequencies": 3, "train_steps": 4}},
        batch_size=512,
        lr=2e-3,
    ),
    "ncsn-30": Machine(
        "NCSN",
        lambda w: {
            "kind": "ncsn",
            "model": {
                "levels": 30,
                "sigma_min": 0.8 * w,
                "sigma_max": 4.0,
                "hidden": 192,
                "langevin_steps": 10,
                "langevin_step": 0.5,
            },
        },
        batch_size=1000,
        lr=1e-2,
    ),
}


def run_names(machines: Iterable[str], sets: Iterable[str], seeds: Iterable[int]) -> list[str]:
    """Every run, seed by seed, then set by set."""
    return [f"{m}/{s}/{seed}" for seed in seeds for s in sets for m in machines]


# What a step costs -------------------------------------------------------------------------------


def step_seconds(model: Process, density: toy.Density, batch_size: int, steps: int) -> list[float]:
    """CPU seconds of each training step but the first, inside `fit`."""
    clock: list[float] = []
    fit(
        model,
        density,
        steps=steps,
        batch_size=batch_size,
        callback=lambda step, live: clock.append(time.process_time()),
    )
    return [b - a for a, b in zip(clock, clock[1:], strict=False)]


def cost(names: Iterable[str], rounds: int = 5, steps: int = 12) -> dict[str, dict[str, float]]:
    """The median CPU seconds of a step, of a warm step and of calibrating, machine by machine."""
    density = toy.load(SETS[0])
    found: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for number in range(rounds):
        for name, entry in found.items():
            plan = MACHINES[name]
            torch.manual_seed(0)
            model = zoo.build(plan.recipe(data_width(density)))
            step = entry.setdefault("step", [])
            step += step_seconds(model, density, plan.batch_size, steps)
            if plan.warm_share:
                warm = entry.setdefault("warm_step", [])
                warm += step_seconds(DDPM.of(model), density, plan.batch_size, steps)
            if number == 0 and can_calibrate(plan, model):
                entry["calibration"] = [calibrate(model, density, seed=0)]
    return {
        name: {what: statistics.median(values) for what, values in entry.items()}
        for name, entry in found.items()
    }


def can_calibrate(plan: Machine, model: Process) -> bool:
    return plan.calibrated and isinstance(model, DiffFlow)


def calibrate(model: DiffFlow, density: toy.Density, seed: int) -> float:
    """Set the backward noise to the best there is; the CPU seconds that took."""
    began = time.process_time()
    model.calibrate(density.sample(CALIBRATION_PARTICLES, seed=seed + 1))
    return time.process_time() - began


def steps_for(plan: Machine, costs: dict[str, float], seconds: float) -> dict[str, int]:
    """The steps that the budget buys, the warm start's among them."""
    left = seconds - costs.get("calibration", 0.0)
    warm = int(plan.warm_share * left / costs["warm_step"]) if plan.warm_share else 0
    return {
        "steps": max(1, int((1 - plan.warm_share) * left / costs["step"])),
        "warm_start": warm,
    }


# One run -----------------------------------------------------------------------------------------


def train(
    name: str,
    folder: Path,
    seconds: float,
    commit: str,
    machines: Mapping[str, Machine] = MACHINES,
) -> None:
    """Train and measure one run; write its record and weights."""
    torch.set_num_threads(1)
    machine_name, set_name, seed_text = name.split("/")
    plan, density, seed = machines[machine_name], toy.load(set_name), int(seed_text)
    costs = json.loads((folder / "costs.json").read_text("utf-8"))[machine_name]
    recipe = plan.recipe(data_width(density))
    training = {**steps_for(plan, costs, seconds), "batch_size": plan.batch_size, "lr": plan.lr}

    torch.manual_seed(seed)
    model = zoo.build(recipe)
    began, stopped = time.process_time(), None
    try:
        fit(model, density, **training, seed=seed)
    except NonFiniteLoss as error:  # the model keeps its last good weights: that is its result
        stopped = str(error)
    fitted = time.process_time() - began
    calibrated = calibrate(model, density, seed) if can_calibrate(plan, model) else 0.0
    record = {
        "machine": machine_name,
        "set": set_name,
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "training": training,
        "stopped": stopped,
        "cpu_seconds": round(fitted + calibrated, 2),
        "commit": commit,
        "on": machine(),
        **measure(model, density, seed),
    }
    save(folder, name, model, {**recipe, "training": training}, record)

    if machine_name == "ddpm-linear-1000":
        shorter = {**recipe, "schedule": ["linear_beta", {"steps": RESPACED}]}
        respaced = zoo.build(shorter)
        weights = {k: v for k, v in model.state_dict().items() if k != "log_b_ratio"}
        respaced.load_state_dict(weights, strict=False)
        respaced.eval()
        extra = calibrate(respaced, density, seed)
        record |= {
            "machine": f"{machine_name}-at-{RESPACED}",
            "cpu_seconds": round(fitted + extra, 2),
            **measure(respaced, density, seed),
        }
        other = f"{record['machine']}/{set_name}/{seed}"
        save(folder, other, respaced, {**shorter, "training": training}, record)


def save(folder: Path, name: str, model: Process, recipe: Recipe, record: dict[str, Any]) -> None:
    """The weights first: a record says that all is there."""
    weights = file_of(folder, name, ".safetensors")
    zoo.save_model(weights, model, {"recipe": recipe, "commit": record["commit"]})
    write_json(file_of(folder, name, ".json"), record)


def file_of(folder: Path, name: str, suffix: str) -> Path:
    return folder / (name.replace("/", "--") + suffix)


@torch.no_grad()
def measure(model: Process, density: toy.Density, seed: int) -> dict[str, Any]:
    """What `metrics.evaluate` says, less the floors, which are the same for all machines.

    bound, gap: nats, None where a machine has no bound. log_prob: mean log-likelihood in nats:
    exact for the flows, None for the others until `fill_likelihoods`. evaluations: passes through
    all the weights for one sample, None where the solver gave up.
    """
    began = time.process_time()
    data = density.sample(PARTICLES, seed=seed + metrics.DATA_SEED)
    torch.manual_seed(seed)
    bound = mean_bound(model, data)
    try:
        samples = model.sample(PARTICLES, seed=seed).start
        passes = evaluations(model)
    except SolverError:  # no sample is a sample that is not finite
        samples, passes = torch.full((PARTICLES, 2), math.nan), None
    finite = samples[samples.isfinite().all(dim=1)]
    exact = model.bound_is_exact
    return {
        "bound": known(bound),
        "gap": known(metrics.bound_gap(bound, density)),
        "log_prob": known(-bound) if exact else None,
        "log_prob_by": "exact" if exact else None,
        "leak": metrics.leak(samples, density),
        "sliced_w2": metrics.sliced_w2(finite, data) if len(finite) else None,
        "energy": metrics.energy_distance(finite, data) if len(finite) else None,
        "non_finite": PARTICLES - len(finite),
        "evaluations": passes,
        "measuring_cpu_seconds": round(time.process_time() - began, 1),
    }


def mean_bound(model: Process, data: torch.Tensor) -> float:
    """The mean bound in nats, NaN where there is none or the solver gives up."""
    if isinstance(model, DDPM) and model.schedule.steps > LONG:
        # An unbiased estimate of the same number, without a thousand evaluations a particle.
        return statistics.fmean(float(model.loss(data)) for _ in range(20))
    if isinstance(model, CNF):
        data = data[:ODE_PARTICLES]
    try:
        return metrics.mean_bound(model, data)
    except SolverError:
        return math.nan


def known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def evaluations(model: Process, particles: int = 500) -> float:
    """How often sampling passes through a weight, on average over the linear layers."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        model.sample(particles, seed=0)
    finally:
        for hook in hooks:
            hook.remove()
    return round(calls / len(layers), 1)


# Second pass and assembling ----------------------------------------------------------------------


def fill_likelihoods(folder: Path, particles: int, commit: str, sets: Iterable[str] = SETS) -> None:
    """Give the records without a log-likelihood that of the probability flow, where there is one.

    It belongs to another density than the chain's (section 7 of the paper), hence is no bound.
    """
    torch.set_num_threads(1)
    for path in sorted(folder.glob("*--*.json")):
        record = json.loads(path.read_text("utf-8"))
        if record["log_prob_by"] is not None or record["set"] not in sets:
            continue
        model = zoo.load(path.with_suffix(".safetensors"))
        if record["machine"].endswith(f"-at-{RESPACED}"):
            model.taught = Schedule.linear_beta(steps=1000).times  # where its net was trained
        density = toy.load(record["set"])
        data = density.sample(particles, seed=record["seed"] + metrics.DATA_SEED)
        try:
            with torch.no_grad():
                value = float(model.log_prob(data).double().mean())
        except NotImplementedError:
            continue
        except SolverError:
            value = math.nan
        record |= {
            "log_prob": known(value),
            "log_prob_by": f"ODE, {particles} points",
            "log_prob_commit": commit,
        }
        write_json(path, record)
        print(path.stem, record["log_prob"], flush=True)


SHOWN = ("bound", "gap", "log_prob", "leak", "sliced_w2", "energy", "evaluations", "cpu_seconds")


def assemble(folder: Path, seconds: float) -> dict[str, Any]:
    """Records, and for each machine and set the mean and spread over its seeds.

    Of the seeds that every machine has finished on every set; of whatever there is, if there is
    no such seed yet.
    """
    records = [json.loads(path.read_text("utf-8")) for path in folder.glob("*--*.json")]
    order = {name: i for i, name in enumerate(all_rows())}
    count = Counter(r["seed"] for r in records)
    complete = {seed for seed in count if count[seed] == len(order) * len(SETS)}
    records = [r for r in records if not complete or r["seed"] in complete]
    records.sort(key=lambda r: (order[r["machine"]], SETS.index(r["set"]), r["seed"]))
    cells: dict[str, dict[str, Any]] = {}
    for name in order:
        for set_name in SETS:
            own = [r for r in records if (r["machine"], r["set"]) == (name, set_name)]
            if own:
                cells.setdefault(name, {})[set_name] = summary(own)
    return {
        "setting": {
            "seconds": seconds,
            "particles": PARTICLES,
            "spread": "half the range over seeds",
            "machines": sorted({r["on"] for r in records}),
            "rows": {name: row_title(name) for name in order},
            "units": "nats; sliced_w2 and energy in units of the normalised data; CPU seconds",
        },
        "costs": json.loads((folder / "costs.json").read_text("utf-8")),
        "floors": floors({(r["set"], r["seed"]) for r in records}),
        "cells": cells,
        "records": records,
    }


def all_rows() -> list[str]:
    """The machines, and the long chain's net at fewer steps."""
    rows = []
    for name in MACHINES:
        rows += [name, f"{name}-at-{RESPACED}"] if name == "ddpm-linear-1000" else [name]
    return rows


def row_title(name: str) -> dict[str, Any]:
    """What a row of a table is called, and its N: steps, layers or noise levels."""
    base = name.removesuffix(f"-at-{RESPACED}")
    last = name.rsplit("-", 1)[-1]
    title = MACHINES[base].title
    if base != name:
        title += f", the net of N = {base.rsplit('-', 1)[-1]}"
    return {"title": title, "N": int(last) if last.isdigit() else None}


def summary(own: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and half the range of what is shown, and over how many seeds."""
    cell: dict[str, Any] = {"seeds": len(own)}
    for what in SHOWN:
        values = [r[what] for r in own if r[what] is not None]
        if values:
            cell[what] = {
                "mean": statistics.fmean(values),
                "spread": (max(values) - min(values)) / 2,
            }
    cell["non_finite"] = sum(r["non_finite"] for r in own)
    return cell


def floors(runs: set[tuple[str, int]]) -> dict[str, dict[str, float]]:
    """Data against data, the mean over the seeds that were run; and the entropy in nats."""
    found = {}
    for set_name in (name for name in SETS if name in {run[0] for run in runs}):
        seeds = sorted(seed for name, seed in runs if name == set_name)
        density = toy.load(set_name)
        found[set_name] = {"entropy": density.entropy()}
        for what, metric in (
            ("sliced_w2", metrics.sliced_w2),
            ("energy", metrics.energy_distance),
        ):
            values = [metrics.floor(density, PARTICLES, metric, seed) for seed in seeds]
            found[set_name][what] = statistics.fmean(values)
    return found


# The whole ---------------------------------------------------------------------------------------


def missing(names: list[str], folder: Path) -> list[str]:
    """The runs that have left no record yet, in their order."""
    return [name for name in names if not file_of(folder, name, ".json").exists()]


def ensure_costs(folder: Path, names: list[str]) -> None:
    """Measure what is not yet known. Machines measured together took turns."""
    torch.set_num_threads(1)
    path = folder / "costs.json"
    known_costs = json.loads(path.read_text("utf-8")) if path.exists() else {}
    unknown = [name for name in names if name not in known_costs]
    if unknown:
        write_json(path, known_costs | cost(unknown))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="CPU seconds a run")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(SEEDS)))
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=SETS)
    parser.add_argument("--only", nargs="*", default=list(MACHINES), choices=list(MACHINES))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--folder", type=Path, help="where runs are kept (default runs/toy)")
    parser.add_argument("--commit", help="the commit of this code, where git is not at hand")
    parser.add_argument("--assemble", action="store_true", help="write the JSON and run nothing")
    parser.add_argument("--likelihoods", action="store_true", help="fill in, and run nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    usual = options.seconds == SECONDS
    folder = options.folder or RUNS / ("toy" if usual else f"toy-{options.seconds:g}")
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["DIFFFLOW_EDU_PROGRESS"] = "0"
    commit = options.commit or current_commit()

    if options.one:
        train(options.one, folder, options.seconds, commit)
        return
    if options.likelihoods:
        fill_likelihoods(folder, ODE_PARTICLES, commit, options.sets)
        return
    if options.assemble:
        write_json(RESULTS, assemble(folder, options.seconds))
        return
    ensure_costs(folder, options.only)
    names = run_names(options.only, options.sets, options.seeds)
    waiting = missing(names, folder)
    print(f"{len(names) - len(waiting)} runs there, {len(waiting)} to do", flush=True)
    command = [sys.executable, "-m", "benchmarks.toy", "--commit", commit]
    command += ["--seconds", str(options.seconds), "--folder", str(folder), "--one"]
    run_all({name: [*command, name] for name in waiting}, options.jobs)


if __name__ == "__main__":
    main()
