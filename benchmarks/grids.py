"""Time grids: fixed or flexible, few steps first or many at once, the last step noisy or not.

    python -m benchmarks.grids                   # all runs; 5 CPU-minutes, resumable
    python -m benchmarks.grids --only last_step  # one part: grids, progressive or last_step
    python -m benchmarks.grids --assemble        # results/grids.json from the runs there are

Three questions about the paper's grids, t_i = (i/N)^β T with β = 0.9, on the checkerboard.

grids        L_β against L̂_β, N = 10, with the same nets, seeds, batch size, rate and number of
             steps; only the times differ. Bound on the fixed grid that the one was trained on and
             on fixed grids of other N; how far the loss jumps from batch to batch; how rough f and
             s are in t.
progressive  N = 5, 10, 20, 30 with a quarter of the processor time each, against N = 30 from the
             start; the nets go on, Adam and its rate start anew. Bound at N = 30.
last_step    the weights of the package on five rings, with and without noise in the last step.

A run is one side from one seed on one thread. It trains for a number of steps fixed beforehand, the
budget over the cost of a step in CPU seconds (median of rounds in which all N take turns), so that
the rate can fall along its cosine; what it then took is in its record. Each run leaves a record in
runs/grids; one whose record exists is not repeated, unless the weights that it is about have been
replaced since.

The backward noise is the paper's, not calibrated, since that would be done for one grid only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.children import run_all
from benchmarks.records import write_json
from benchmarks.shipped import sha256
from benchmarks.train_zoo import current_commit, data_width, machine
from diffflow_edu import DiffFlow, Schedule, fit, metrics, pretrained, toy

SET, T, BETA, G, HIDDEN = "checkerboard", 1.0, 0.9, 0.3, 64
TRAINING = {"batch_size": 256, "lr": 5e-3}
SEEDS, PARTICLES = 3, 5000

GRID_STEPS, GRID_SECONDS = 10, 6.0
SIDES = ("fixed", "flexible")
OTHER_STEPS = (5, 10, 15, 20, 30, 60)  # the grids on which both sides are measured

STAGES = {"start": (30,), "progressive": (5, 10, 20, 30)}
BUDGETS = (2, 4, 8, 16)
CURVE_POINTS, CURVE_PARTICLES = 12, 2000

KINDS, ZOO_SET, ZOO_STEPS = ("ddpm", "diffflow"), "olympic_rings", (5, 10, 30)

PARTS = ("grids", "progressive", "last_step")
RUNS = Path("runs") / "grids"
RESULTS = Path(__file__).parent / "results" / "grids.json"

Record = dict[str, Any]


def schedule(steps: int, flexible: bool = False) -> Schedule:
    """The paper's grid. g²T = .09 is a forward noise of .3 in all: the drift does the transport.

    T = 1, so that a net whose output is of order one moves a particle by one.
    """
    return Schedule.polynomial(steps, T=T, beta=BETA, g=G, flexible=flexible)


def at_steps(model: DiffFlow, steps: int) -> DiffFlow:
    """The same nets, held and not copied, on the fixed grid of another N."""
    other = DiffFlow(model.drift, model.score, schedule(steps))
    return other.train(model.training)


def run_names(parts: Iterable[str], seeds: Iterable[int]) -> list[str]:
    """Every run, seed by seed, so that what is there at any time compares all sides."""
    names = []
    for seed in seeds:
        if "grids" in parts:
            names += [f"grids/{side}/{seed}" for side in SIDES]
        if "progressive" in parts:
            names += [f"progressive/{arm}/{b}/{seed}" for b in BUDGETS for arm in STAGES]
        if "last_step" in parts:
            names += [f"last_step/{kind}/{n}/{seed}" for kind in KINDS for n in ZOO_STEPS]
    return names


# What a step costs -------------------------------------------------------------------------------


def step_cost(rounds: int = 4, steps: int = 8) -> dict[str, float]:
    """The median CPU seconds of a training step at every N of the stages, in turn."""
    density = toy.load(SET)
    found: dict[int, list[float]] = {n: [] for n in sorted({GRID_STEPS, *STAGES["progressive"]})}
    for _ in range(rounds):
        for n, seconds in found.items():
            torch.manual_seed(0)
            clock: list[float] = []
            fit(
                DiffFlow.mlp(schedule(n), hidden=HIDDEN),
                density,
                steps=steps,
                **TRAINING,
                callback=lambda step, live, clock=clock: clock.append(time.process_time()),
            )
            seconds += [b - a for a, b in zip(clock, clock[1:], strict=False)]
    return {str(n): statistics.median(seconds) for n, seconds in found.items()}


def steps_for(stages: Sequence[int], seconds: float, costs: dict[str, float]) -> list[int]:
    """The training steps of every stage; each gets the same share of the seconds."""
    return [max(1, int(seconds / len(stages) / costs[str(n)])) for n in stages]


# One run -----------------------------------------------------------------------------------------


class Stopwatch:
    """CPU seconds of training; what measuring in between takes does not count."""

    def __init__(self) -> None:
        self.began, self.paused = time.process_time(), 0.0

    @property
    def seconds(self) -> float:
        return time.process_time() - self.began - self.paused

    def aside(self, work: Callable[[], float]) -> float:
        """Do something off the clock and return what it returns."""
        began = time.process_time()
        value = work()
        self.paused += time.process_time() - began
        return value


@torch.no_grad()
def bound_at(model: DiffFlow, steps: int, data: Tensor, seed: int) -> float:
    """The mean bound of data (n, 2) on the fixed grid of N = steps, nats; one noise for a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return metrics.mean_bound(at_steps(model, steps).eval(), data)


@torch.no_grad()
def roughness(model: DiffFlow, data: Tensor, seed: int, fine: int = 300) -> dict[str, float]:
    """How fast drift and score change with t where the particles are; 0 if they do not at all.

    T √(E‖∂_t v‖²/E‖v‖²): so many times its own size a field changes on its way from 0 to T. By
    differences between neighbours of `fine` times, x held fixed at the particles' places (on a path
    of 30 steps). v is f, and for the score σ(t) s, which is what the net gives: its growth like 1/σ
    near the data is put in by hand. data: (n, 2).
    """
    walk = at_steps(model, STAGES["start"][-1]).eval()
    path = walk.encode(data, seed)
    times = torch.linspace(float(path.times[1]), T, fine)
    nearest = torch.searchsorted(path.times, times, right=True) - 1
    sigma = walk.schedule.noise_process.sigma
    fields = {
        "drift": walk.drift_at,
        "score": lambda x, t: sigma(t) * walk.score_at(x, t),
    }
    found = {}
    for name, field in fields.items():
        change = size = 0.0
        for a, b, i in zip(times, times[1:], nearest, strict=False):
            here, there = field(path[int(i)], a), field(path[int(i)], b)
            change += float(((there - here) / (b - a)).square().mean())
            size += float(here.square().mean())
        found[name] = T * (change / size) ** 0.5
    return found


def train_stages(
    stages: Sequence[int],
    seconds: float,
    costs: dict[str, float],
    seed: int,
    flexible: bool = False,
    curve_data: Tensor | None = None,
) -> tuple[DiffFlow, Record]:
    """Train the same nets at each N of the stages in turn. curve_data: (n, 2), for the curve."""
    density = toy.load(SET)
    torch.manual_seed(seed)
    model = DiffFlow.mlp(schedule(stages[0], flexible), hidden=HIDDEN)
    loss: list[float] = []
    curve: list[tuple[float, float]] = []
    planned = steps_for(stages, seconds, costs)
    watch = Stopwatch()

    def mark(live: DiffFlow) -> None:
        if curve_data is not None:
            value = watch.aside(lambda: bound_at(live, STAGES["start"][-1], curve_data, seed))
            curve.append((round(watch.seconds, 2), round(value, 4)))

    for number, (n, steps) in enumerate(zip(stages, planned, strict=True)):
        model = DiffFlow(model.drift, model.score, schedule(n, flexible))
        every = max(1, steps * len(stages) // CURVE_POINTS)

        def callback(step: int, live: DiffFlow, every: int = every) -> None:
            if (step + 1) % every == 0:
                mark(live)

        history = fit(
            model, density, steps=steps, seed=100 * seed + number, **TRAINING, callback=callback
        )
        loss += history.loss
        mark(model)  # now with the averaged weights
    record = {
        "training": {"stages": list(stages), "steps": planned, **TRAINING},
        "cpu_seconds": round(watch.seconds, 2),
        "loss": loss,
        "curve": curve,
    }
    return model, record


def grid_run(side: str, seed: int, costs: dict[str, float]) -> Record:
    """Train on L_β or L̂_β and measure. Both sides take the same number of steps."""
    flexible = side == "flexible"
    model, record = train_stages((GRID_STEPS,), GRID_SECONDS, costs, seed, flexible)
    data = toy.load(SET).sample(PARTICLES, seed=seed + metrics.DATA_SEED)
    loss = torch.tensor(record.pop("loss"), dtype=torch.float64)
    late = loss[len(loss) // 2 :]
    del record["curve"]
    return record | {
        "loss": [round(float(block.mean()), 4) for block in loss.split(10)],
        # Neighbours share the trend, so their difference is chance: √½ of its std.
        "loss_jump": float(late.diff().std()) / 2**0.5,
        "late_loss": float(loss[-len(loss) // 10 :].mean()),
        "bound": {str(n): bound_at(model, n, data, seed) for n in OTHER_STEPS},
        "roughness": roughness(model, data[:500], seed),
    }


def progressive_run(arm: str, seconds: float, seed: int, costs: dict[str, float]) -> Record:
    """Train with or without stages for one budget."""
    density = toy.load(SET)
    curve_data = density.sample(CURVE_PARTICLES, seed=seed + metrics.DATA_SEED + 1)
    model, record = train_stages(STAGES[arm], seconds, costs, seed, curve_data=curve_data)
    del record["loss"]
    data = density.sample(PARTICLES, seed=seed + metrics.DATA_SEED)
    return record | {"bound": bound_at(model, STAGES["start"][-1], data, seed)}


def ring_spread(x: Tensor, density: toy.Density) -> float:
    """Root mean square distance from the nearest ring, in ring widths; the data has 1.

    x: (n, 2) samples of a density of rings. What has leaked, 5 widths or more, is left out.
    """
    widths = density.distance(x).double() / data_width(density)
    return float(widths[widths <= 5].square().mean().sqrt())


@torch.no_grad()
def last_step_run(kind: str, steps: int, seed: int) -> Record:
    """What the noise of the last step does to the package's weights, without it and with it."""
    density = toy.load(ZOO_SET)
    model = pretrained(kind, ZOO_SET, steps=steps)
    data = density.sample(PARTICLES, seed=seed + metrics.DATA_SEED)
    record: Record = {
        "weights": sha256(kind, ZOO_SET, steps),
        "last_std_in_widths": float(model.backward_std()[0]) / data_width(density),
    }
    for name, noisy in (("without", False), ("with", True)):
        x = model.sample(PARTICLES, seed=seed, last_noise=noisy).start
        finite = x[x.isfinite().all(1)]
        record[name] = {
            "leak": metrics.leak(x, density),
            "sliced_w2": metrics.sliced_w2(finite, data),
            "spread": ring_spread(finite, density),
        }
    return record


def run(name: str, folder: Path, commit: str) -> None:
    """One run by its name; writes its record."""
    torch.set_num_threads(1)
    part, *rest, seed = name.split("/")
    if part == "last_step":
        record = last_step_run(rest[0], int(rest[1]), int(seed))
    else:
        costs = json.loads((folder / "costs.json").read_text("utf-8"))
        if part == "grids":
            record = grid_run(rest[0], int(seed), costs)
        else:
            record = progressive_run(rest[0], float(rest[1]), int(seed), costs)
    head = {"run": name, "seed": int(seed), "commit": commit, "on": machine()}
    write_json(file_of(folder, name), head | record)


def file_of(folder: Path, name: str) -> Path:
    """Where the record of a run lies."""
    return folder / (name.replace("/", "--") + ".json")


# Assembling --------------------------------------------------------------------------------------


def assemble(folder: Path) -> dict[str, Any]:
    """All records, and what they say; only seeds that every side of a part has finished count."""
    records = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*--*.json"))]
    by_name = {record["run"]: record for record in records}
    seeds = {
        part: [
            seed
            for seed in range(SEEDS)
            if all(name in by_name for name in run_names([part], [seed]))
        ]
        for part in PARTS
    }
    kept = [name for part in PARTS for name in run_names([part], seeds[part])]
    costs = folder / "costs.json"
    return {
        "setting": {
            "set": SET,
            "entropy": toy.load(SET).entropy(),
            "T": T,
            "beta": BETA,
            "g": G,
            "hidden": HIDDEN,
            **TRAINING,
            "particles": PARTICLES,
            "seeds": seeds,
            "grids": {"steps": GRID_STEPS, "seconds": GRID_SECONDS},
            "progressive": {"stages": STAGES, "seconds": list(BUDGETS)},
            "last_step": {"set": ZOO_SET, "steps": list(ZOO_STEPS)},
            "machines": sorted({by_name[name]["on"] for name in kept}),
            "commits": sorted({by_name[name]["commit"] for name in kept}),
            "units": "nats; CPU seconds; sliced_w2 in units of the normalised data",
            "spread": "half the range over seeds",
        },
        "costs": json.loads(costs.read_text("utf-8")) if costs.exists() else {},
        "grids": {
            side: grid_summary([by_name[f"grids/{side}/{s}"] for s in seeds["grids"]])
            for side in SIDES
        },
        "progressive": {
            arm: {
                str(b): over_seeds(
                    by_name[f"progressive/{arm}/{b}/{s}"]["bound"] for s in seeds["progressive"]
                )
                for b in BUDGETS
            }
            for arm in STAGES
        },
        "last_step": {
            kind: {
                str(n): last_step_summary(
                    [by_name[f"last_step/{kind}/{n}/{s}"] for s in seeds["last_step"]]
                )
                for n in ZOO_STEPS
            }
            for kind in KINDS
        },
        "records": [by_name[name] for name in kept],
    }


def over_seeds(values: Iterable[float]) -> dict[str, Any]:
    """Mean, half the range, and every value in the order of the seeds."""
    values = list(values)
    if not values:
        return {}
    spread = (max(values) - min(values)) / 2
    return {"mean": statistics.fmean(values), "spread": spread, "values": values}


def grid_summary(records: list[Record]) -> dict[str, Any]:
    """Over the seeds of one side."""
    return {
        "bound": {str(n): over_seeds(r["bound"][str(n)] for r in records) for n in OTHER_STEPS},
        "roughness": {
            field: over_seeds(r["roughness"][field] for r in records)
            for field in ("drift", "score")
        },
        **{what: over_seeds(r[what] for r in records) for what in ("loss_jump", "late_loss")},
    }


def last_step_summary(records: list[Record]) -> dict[str, Any]:
    """Over the seeds of one model."""
    return {
        way: {
            what: over_seeds(r[way][what] for r in records)
            for what in ("leak", "sliced_w2", "spread")
        }
        for way in ("without", "with")
    } | {"last_std_in_widths": over_seeds(r["last_std_in_widths"] for r in records)}


def lower(a: dict[str, Any], b: dict[str, Any]) -> str:
    """Which of two is lower: "first" or "second" if it is for every seed, otherwise "neither".

    a, b: what `over_seeds` gave, seeds in the same order.
    """
    signs = {x < y for x, y in zip(a["values"], b["values"], strict=True)}
    if len(signs) != 1 or a["values"] == b["values"]:
        return "neither"
    return "first" if signs == {True} else "second"


# For the README ----------------------------------------------------------------------------------


def verdict(a: dict[str, Any], b: dict[str, Any], first: str, second: str) -> str:
    """Which of two is lower in every seed, in words."""
    names = {"first": first, "second": second, "neither": "neither, by the seeds"}
    return names[lower(a, b)]


def readme_table(report: dict[str, Any]) -> str:
    """One row a question: both sides, and which is lower in every seed. From results/grids.json."""
    setting, fixed, flexible = report["setting"], *report["grids"].values()
    start, progressive = report["progressive"].values()
    rows = []
    for n in (str(GRID_STEPS), "60"):
        rows.append((f"bound at N = {n}, nats", ".2f", fixed["bound"][n], flexible["bound"][n]))
    for name, field in (("f", "drift"), ("s", "score")):
        sides = (side["roughness"][field] for side in (fixed, flexible))
        rows.append((f"roughness of {name} in t", ".1f", *sides))
    rows.append(
        ("jump of the loss between batches", ".3f", fixed["loss_jump"], flexible["loss_jump"])
    )
    lines = [
        f"| trained at N = {GRID_STEPS} | fixed L_β | flexible L̂_β | lower in every seed |",
        "|---|---|---|---|",
        *(row_of(*row, "fixed", "flexible") for row in rows),
        "",
        "| CPU-seconds | N = 30 from the start | N = 5, 10, 20, 30 | lower in every seed |",
        "|---|---|---|---|",
    ]
    for b in map(str, setting["progressive"]["seconds"]):
        lines.append(row_of(b, ".2f", start[b], progressive[b], "from the start", "progressive"))
    lines += [
        "",
        "| last step, five rings | N | leak without noise, with | width across, without, with |",
        "|---|---|---|---|",
    ]
    for kind, title in (("ddpm", "DDPM"), ("diffflow", "DiffFlow")):
        for n, row in report["last_step"][kind].items():
            off, on = row["without"], row["with"]
            lines.append(
                f"| {title} | {n} | {off['leak']['mean']:.2%} · {on['leak']['mean']:.2%} "
                f"| {off['spread']['mean']:.2f} · {on['spread']['mean']:.2f} |"
            )
    seeds = len(setting["seeds"]["grids"])
    lines += [
        "",
        f"Checkerboard, β = {setting['beta']}, T = {setting['T']:g}, g = {setting['g']}; entropy "
        f"{setting['entropy']:.2f} nats. {seeds} seeds, ± is half the range; one thread of "
        f"{'; '.join(m.removeprefix('1 thread of ') for m in setting['machines'])}; "
        f"{setting['grids']['seconds']:.0f} CPU-seconds in the first table. Roughness: how many "
        "times its own size a field changes between t = 0 and T. Width: of a ring's samples, in "
        "ring widths.",
    ]
    return "\n".join(lines)


def row_of(
    title: str, form: str, a: dict[str, Any], b: dict[str, Any], first: str, second: str
) -> str:
    """A row of two sides and what follows."""
    cells = (f"{side['mean']:{form}} ± {side['spread']:{form}}" for side in (a, b))
    return f"| {title} | {' | '.join(cells)} | {verdict(a, b, first, second)} |"


# The whole ---------------------------------------------------------------------------------------


def missing(names: list[str], folder: Path) -> list[str]:
    """The runs that have left no record yet, or one of weights that were replaced, in order."""
    return [name for name in names if not is_there(name, file_of(folder, name))]


def is_there(name: str, path: Path) -> bool:
    """Whether the record of a run exists and, for the last step, is of the package's weights."""
    if not path.exists():
        return False
    part, *rest = name.split("/")
    if part != "last_step":
        return True
    return json.loads(path.read_text("utf-8")).get("weights") == sha256(
        rest[0], ZOO_SET, int(rest[1])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(SEEDS)))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--folder", type=Path, default=RUNS, help="where records are kept")
    parser.add_argument("--commit", help="the commit of this code, where git is not at hand")
    parser.add_argument("--assemble", action="store_true", help="write the JSON and run nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ["DIFFFLOW_EDU_PROGRESS"] = "0"
    commit = options.commit or current_commit()

    if options.one:
        run(options.one, options.folder, commit)
        return
    if options.assemble:
        write_json(RESULTS, assemble(options.folder))
        return
    torch.set_num_threads(1)
    if not (options.folder / "costs.json").exists():
        write_json(options.folder / "costs.json", step_cost())
    waiting = missing(run_names(options.only, options.seeds), options.folder)
    print(f"{len(waiting)} runs to do", flush=True)
    if options.jobs == 1:
        for name in waiting:
            print(time.strftime("%H:%M:%S"), name, flush=True)
            run(name, options.folder, commit)
        return
    command = [sys.executable, "-m", "benchmarks.grids", "--commit", commit]
    command += ["--folder", str(options.folder), "--one"]
    run_all({name: [*command, name] for name in waiting}, options.jobs)


if __name__ == "__main__":
    main()
