"""Density models on a tabular set, each with the same processor time, beside the paper's table.

    python -m benchmarks.tabular                              # image patches, 4 CPU-minutes a model
    python -m benchmarks.tabular --only diffflow --minutes 30
    python -m benchmarks.tabular --set breast_cancer --minutes 0.5
    python -m benchmarks.tabular --only diffflow --ode-rows 500     # its ODE, after training
    python -m benchmarks.tabular --table                      # print the results, train nothing

Every model but the Gaussian trains on one thread for a number of steps fixed beforehand, from the
measured cost of a step; what it really took, validation included, is in its record. Validation is
looked at --checks times; the best weights count, and training ends after --patience checks without
better ones. DiffFlow trains with its drift fixed at zero first, then both nets; where the second
phase finds nothing better, what is measured is the first, and the table says so.

All models learn rows whitened by the full-covariance Gaussian of the training rows: a linear layer
with a known determinant, after which a model starts level with that Gaussian.

All numbers are mean test −log p in nats, in the units of the set. A flow's is its value; that of a
DiffFlow or DDPM is an upper bound. Their likelihood by the probability flow belongs to another
density where the score is inexact, so it has a column of its own. `gain` is how far a model is
ahead of the Gaussian, compared row by row, which makes its error small.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.records import read_json, write_json
from benchmarks.train_zoo import current_commit, machine
from diffflow_edu import DDPM, DiffFlow, Schedule, fit, tabular
from diffflow_edu.nets import NoisePrediction, ResidualMLP
from diffflow_edu.processes.base import Process
from diffflow_edu.processes.cnf import CNF
from diffflow_edu.processes.coupling import CouplingFlow
from diffflow_edu.processes.ode import Solver

SEED = 0
STEPS = 30
VALIDATION_ROWS, CALIBRATION_ROWS = 1000, 3000
RESULTS = Path(__file__).parent / "results" / "tabular.json"
RUNS = Path("runs") / "tabular"
PAPER = {  # its table of tabular sets: mean test −log p in nats, on the published splits
    "sets": ["power", "gas", "hepmass", "miniboone", "bsds300"],
    "RealNVP": [-0.17, -8.33, 18.71, 13.55, -153.28],
    "FFJORD": [-0.46, -8.59, 14.92, 10.43, -157.40],
    "MADE": [3.08, -3.56, 20.98, 15.59, -148.85],
    "MAF": [-0.24, -10.08, 17.70, 11.75, -155.69],
    "TAN": [-0.48, -11.19, 15.12, 11.01, -157.03],
    "NAF": [-0.62, -11.96, 15.09, 8.86, -157.73],
    "DiffFlow (ODE)": [-1.04, -10.45, 15.04, 8.06, -157.80],
}


@dataclass(frozen=True)
class Phase:
    """One call of `fit`. share: of the processor time."""

    share: float
    batch_size: int
    lr: float
    fixed_drift: bool = False  # train the diffusion inside a DiffFlow, its drift left alone


@dataclass(frozen=True)
class Contender:
    """A model and how it is trained. build(dim, r_min) makes it."""

    build: Callable[[int, float], Process]
    phases: tuple[Phase, ...]


def diffflow(dim: int, r_min: float) -> DiffFlow:
    schedule = Schedule.log_snr(STEPS, r_min=r_min, r_max=8.0)
    drift = ResidualMLP(dim, hidden=128, zero_init=True)
    score = NoisePrediction(ResidualMLP(dim), schedule.noise_process)
    model = DiffFlow(drift, score, schedule, learn_backward_std=True)
    model.shape = (dim,)
    return model


def ddpm(dim: int, r_min: float) -> DDPM:
    schedule = Schedule.log_snr(STEPS, r_min=r_min, r_max=8.0)
    model = DDPM(ResidualMLP(dim), schedule, learn_backward_std=True)
    model.shape = (dim,)
    return model


def coupling(dim: int, r_min: float) -> CouplingFlow:
    return CouplingFlow(dim, layers=8, hidden=256, uneven=True)


def cnf(dim: int, r_min: float) -> CNF:
    drift = ResidualMLP(dim, zero_init=True)
    model = CNF(drift, trace="hutchinson", train_steps=4, solver=Solver("rk4", steps=8))
    model.shape = (dim,)
    return model


CONTENDERS = {
    "coupling": Contender(coupling, (Phase(1.0, batch_size=512, lr=1e-3),)),
    "cnf": Contender(cnf, (Phase(1.0, batch_size=256, lr=2e-3),)),
    "ddpm": Contender(ddpm, (Phase(1.0, batch_size=510, lr=2e-3),)),
    # A joint step simulates whole paths: for the price of one the fixed drift takes dozens.
    "diffflow": Contender(
        diffflow,
        (
            Phase(0.5, batch_size=510, lr=2e-3, fixed_drift=True),
            Phase(
                0.5, batch_size=60, lr=3e-4
            ),  # the higher, the more of the score it unlearns first
        ),
    ),
}
FINEST = {"bsds300_patches": 0.008, "bsds300": 0.008}
"""r_min, the first noise, in units of the whitened data: below the spread of the flattest patches,
.03, and not lower than need be, for the shorter the way to r_max, the shorter are its steps."""


class EnoughError(Exception):
    """Validation has not improved for a while."""


class EarlyStopping:
    """A callback of `fit`: looks at validation, keeps the best weights, ends training in time."""

    def __init__(self, model: Process, rows: Tensor, patience: int) -> None:
        self.model, self.rows, self.patience = model, rows, patience
        self.every = 1
        self.best, self.weights, self.since = math.inf, None, 0
        self.curve: list[float] = []

    def __call__(self, step: int, model: Process) -> None:
        if (step + 1) % self.every == 0:
            self.look()
            if self.since >= self.patience:
                raise EnoughError

    def look(self) -> None:
        """Measure the model as it is, and keep it if it is the best so far."""
        value = float(nats(self.model, self.rows).mean())
        self.curve.append(value)
        self.since += 1
        if value < self.best:
            self.best, self.since = value, 0
            self.weights = copy.deepcopy(self.model.state_dict())


@torch.no_grad()
def nats(model: Process, rows: Tensor, batch: int = 5000) -> Tensor:
    """`bound` of every row, (n,), from the same noise at every call."""
    training = model.training
    model.eval()
    with torch.random.fork_rng():
        torch.manual_seed(SEED + 1)
        values = torch.cat([model.bound(piece) for piece in rows.split(batch)])
    model.train(training)
    return values


def cost_of_a_step(model: Process, rows: Tensor, batch_size: int) -> float:
    """CPU seconds of one step of `fit`, the median of twenty on a copy."""
    ends: list[float] = []
    fit(
        copy.deepcopy(model),
        rows[:5000],
        steps=25,
        batch_size=batch_size,
        callback=lambda step, _: ends.append(time.process_time()),
    )
    return statistics.median(b - a for a, b in itertools.pairwise(ends[4:]))


def train(name: str, data: tabular.Tabular, options: argparse.Namespace) -> dict[str, Any]:
    """Train one contender and measure it on the test rows. Returns its record."""
    contender = CONTENDERS[name]
    gaussian = tabular.Gaussian.of(data.train)
    z_train = gaussian.whiten(torch.from_numpy(data.train))
    z_validation = gaussian.whiten(torch.from_numpy(data.validation))
    torch.manual_seed(SEED)
    model = contender.build(data.dim, FINEST.get(data.name, 0.05))

    test = shuffled(torch.from_numpy(data.test))[: options.test_rows]
    looks = EarlyStopping(model, shuffled(z_validation)[:VALIDATION_ROWS], options.patience)
    seconds, phases = 0.0, []
    for phase in contender.phases:
        trained = DDPM.of(model) if phase.fixed_drift else model
        cost = cost_of_a_step(trained, z_train, phase.batch_size)
        steps = max(1, int(60 * options.minutes * phase.share / cost))
        looks.every = max(1, int(steps / (options.checks * phase.share)))
        looks.since = 0  # a phase may have to unlearn first
        start, ended_early = time.process_time(), False
        try:
            fit(
                trained,
                z_train,
                steps=steps,
                batch_size=phase.batch_size,
                lr=phase.lr,
                seed=SEED,
                callback=looks,
            )
        except EnoughError:
            ended_early = True
        looks.look()  # at the average of the weights, which `fit` leaves
        model.load_state_dict(looks.weights)
        seconds += time.process_time() - start
        phases.append({**asdict(phase), "steps": steps, "ended_early": ended_early})
        if isinstance(model, DiffFlow):
            start = time.process_time()
            model.calibrate(shuffled(z_train)[:CALIBRATION_ROWS])
            seconds += time.process_time() - start
        phases[-1]["test"] = measure(model, gaussian, test)

    record = {
        "cpu_seconds": round(seconds),
        "phases": phases,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "validation": [round(value + gaussian.log_det, 2) for value in looks.curve],
        "test": phases[-1]["test"],
    }
    if isinstance(model, DiffFlow):
        finer = respaced(model, 100)
        finer.calibrate(shuffled(z_train)[:CALIBRATION_ROWS])
        record["test_at_100_steps"] = measure(finer, gaussian, test)
    RUNS.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), weights_of(name, data))
    return record


def weights_of(name: str, data: tabular.Tabular) -> Path:
    return RUNS / f"{data.name}-{name}.pt"


def add_ode(name: str, data: tabular.Tabular, options: argparse.Namespace) -> dict[str, Any]:
    """The record of a trained DiffFlow or DDPM, with the likelihood by its ODE."""
    model = CONTENDERS[name].build(data.dim, FINEST.get(data.name, 0.05))
    model.load_state_dict(torch.load(weights_of(name, data), weights_only=True))
    test = shuffled(torch.from_numpy(data.test))[: options.ode_rows]
    record = json.loads(RESULTS.read_text("utf-8"))["sets"][data.name]["models"][name]
    gaussian = tabular.Gaussian.of(data.train)
    # The same rows by the path bound, too: few rows have a large error of their own.
    ode = measure_ode(model.eval(), gaussian, test)
    ode["bound_of_these_rows"] = measure(model, gaussian, test)["nats"]
    return record | {"test_ode": ode}


def respaced(model: DiffFlow, steps: int) -> DiffFlow:
    """The same networks on a finer grid of the same noise process."""
    noise = model.schedule.noise_process
    finer = DiffFlow(
        model.drift, model.score, Schedule.log_snr(steps, r_min=noise.r_min, r_max=noise.r_max)
    )
    finer.shape = model.shape
    return finer.eval()


def measure(model: Process, gaussian: tabular.Gaussian, test: Tensor) -> dict[str, Any]:
    """Mean −log p (or its bound) of the test rows, its error, and the gain over the Gaussian."""
    return summary(nats(model, gaussian.whiten(test)) + gaussian.log_det, gaussian, test)


def measure_ode(model: DiffFlow, gaussian: tabular.Gaussian, test: Tensor) -> dict[str, Any]:
    """The same by the probability-flow ODE of the model, Hutchinson's trace."""
    pieces = gaussian.whiten(test).split(500)
    with torch.no_grad():
        values = torch.cat([-model.log_prob(piece, seed=SEED + 1) for piece in pieces])
    return summary(values + gaussian.log_det, gaussian, test)


def summary(values: Tensor, gaussian: tabular.Gaussian, test: Tensor) -> dict[str, Any]:
    gain = -gaussian.log_prob(test) - values
    return {
        "nats": round(float(values.mean()), 2),
        "error": round(float(values.std() / len(values) ** 0.5), 2),
        "gain": round(float(gain.mean()), 2),
        "gain_error": round(float(gain.std() / len(gain) ** 0.5), 2),
        "rows": len(values),
    }


def shuffled(rows: Tensor) -> Tensor:
    """In an order of their own: neighbours in a file are often alike."""
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED))]


def gaussian_record(data: tabular.Tabular) -> dict[str, Any]:
    gaussian = tabular.Gaussian.of(data.train)
    values = -gaussian.log_prob(torch.from_numpy(data.test))
    record = summary(values, gaussian, torch.from_numpy(data.test))
    return {"test": {key: record[key] for key in ("nats", "error", "rows")}}


def write(name: str, entry: dict[str, Any]) -> None:
    """Put entry["models"] beside the models that the results hold for this set."""
    results = {"sets": {}} | read_json(RESULTS)
    results["paper"] = PAPER
    earlier = results["sets"].get(name, {}).get("models", {})
    results["sets"][name] = entry | {"models": earlier | entry["models"]}
    write_json(RESULTS, results)


def table(results: dict[str, Any]) -> str:
    """What was run, in lines."""
    lines = []
    for name, entry in results["sets"].items():
        lines.append(f"{name}: {entry['note']}")
        for model, record in entry["models"].items():
            for key in ("test", "test_at_100_steps", "test_ode"):
                if key in record:
                    m = record[key]
                    gain = f"gain {m['gain']:7.2f} ± {m['gain_error']:.2f}" if "gain" in m else ""
                    title = model if key == "test" else f"{model}, {key.removeprefix('test_')}"
                    phases = record.get("phases", [])
                    idle = len(phases) > 1 and phases[-1]["test"] == phases[-2]["test"]
                    remark = "; the drift is still zero" if idle else ""
                    lines.append(
                        f"  {title:24s} {m['nats']:8.2f} ± {m['error']:.2f} nats  {gain}  "
                        f"{m['rows']} rows, {record.get('cpu_seconds', 0)} CPU-s{remark}"
                    )
    return "\n".join(lines)


def main() -> None:
    """Train and measure what is asked for; each model's record is written as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", default="bsds300_patches", choices=tabular.names())
    parser.add_argument("--only", nargs="*", choices=list(CONTENDERS), help="some of the models")
    parser.add_argument("--minutes", type=float, default=4.0, help="CPU time of each model")
    parser.add_argument("--checks", type=int, default=8, help="looks at validation")
    parser.add_argument("--patience", type=int, default=4, help="looks without a better one")
    parser.add_argument("--test-rows", type=int, default=5000)
    parser.add_argument(
        "--ode-rows",
        type=int,
        default=0,
        help="train nothing; measure so many test rows of a trained diffflow or ddpm by its ODE",
    )
    parser.add_argument("--table", action="store_true", help="print the results and train nothing")
    options = parser.parse_args()
    if not options.table:
        torch.set_num_threads(1)
        data = tabular.load(options.set)
        note = f"{len(data.train)} + {len(data.validation)} + {len(data.test)} rows of {data.dim} "
        note += f"numbers, from {data.source}"
        if data.name == "bsds300_patches":
            note += "; BSDS300 patches (regenerated), not the published rows: the paper's BSDS300 "
            note += "numbers stand beside these, not against them"
        entry = {"note": note, "models": {"gaussian": gaussian_record(data)}}
        names = options.only or list(CONTENDERS)
        if options.ode_rows:
            for name in names:
                if name not in ("ddpm", "diffflow"):
                    parser.error(f"--ode-rows is for ddpm and diffflow (--only), got {name}")
                if not weights_of(name, data).exists():
                    parser.error(f"{weights_of(name, data)} is not there; train {name} first")
        for name in names:
            if options.ode_rows:
                record = add_ode(name, data, options)
            else:
                record = train(name, data, options) | {
                    "command": f"python -m benchmarks.tabular --set {data.name} --only {name} "
                    f"--minutes {options.minutes:g}",
                    "machine": machine(),
                    "commit": current_commit(),
                    "seed": SEED,
                }
            entry["models"][name] = record
            write(data.name, entry)
    print(table(json.loads(RESULTS.read_text("utf-8"))))


if __name__ == "__main__":
    main()
