"""Train the weights that come with the package, and write down what they measure.

    python benchmarks/train_zoo.py --jobs 2                      # all of them
    python benchmarks/train_zoo.py diffflow/olympic_rings/10     # one

Each model trains on one CPU thread from seed 0. DiffFlow and DDPM get about the same CPU seconds
(a DDPM step is cheaper, so DDPM takes more of them) and the same number of parameters: two nets of
width 128, or one of width 192. The flows and NCSN are of about that size too, and train somewhat
shorter; `benchmarks/toy.py` compares all of them at equal cost. Every file's card holds the recipe,
command, commit, machine and measurements; `python benchmarks/train_zoo.py --table` prints them all.

DiffFlow on the crossing rings is to be as good as it can be: it trains on a quieter grid and with
Muon, as `recipes.py` found best, for longer than the others (a DDPM gains nothing by either), and
with ten steps it is polished: trained again, from four times the particles a step and from a
smaller rate on.

The two DiffFlows of `FINISHED`, whose drift found nothing better than to stay at zero, get a second
stage, for the sake of the density of their ODE: their fine waves are faded (`MLP`, smooth), and the
score goes on learning, by the fixed-drift diffusion inside, from four times the particles a step
and down to a rate of zero. `--finish` runs it alone on the weights at hand:

    python benchmarks/train_zoo.py --finish diffflow/checkerboard/30
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from diffflow_edu import DDPM, DiffFlow, fit, metrics, toy, zoo
from diffflow_edu.scale import machine

DENSITIES = ("olympic_rings", "four_rings", "rotated_gaussian", "checkerboard")
STEPS = (5, 10, 30)
CHAINS = [f"{k}/{d}/{n}" for d in DENSITIES for k in ("diffflow", "ddpm") for n in STEPS]
CHAINS += [f"{k}/eight_gaussians/30" for k in ("diffflow", "ddpm")]
CHAINS += ["ddpm_linear/olympic_rings/1000"]  # a quarter of the others' training: for notebook 03
OTHERS = [
    f"{kind}/{density}/{steps}"
    for density in ("olympic_rings", "checkerboard", "rotated_gaussian")
    for kind, steps in (("coupling", 8), ("cnf", 30), ("ncsn", 30))
]
EVERYTHING = CHAINS + OTHERS
FINISHED = ("diffflow/checkerboard/30", "diffflow/eight_gaussians/30")
SEED = 0
STILL = 0.02
"""The share of a step's noise by which a drift may move particles and still count as zero."""


def recipe(kind: str, density: toy.Density, steps: int) -> dict[str, Any]:
    """Grid, networks and training of one model. The smallest noise scales with the data's width."""
    width, polish = data_width(density), None
    if kind in MODELS:
        model, training = MODELS[kind](steps, width)
        if density.name != "olympic_rings":
            training["steps"] //= 2
        elif kind == "coupling":
            # After 18 000 steps one sample in a thousand flew off, as far as 4e5.
            training["steps"] = 5000
        return {
            "kind": kind,
            "density": density.name,
            "model": model,
            "training": {**training, "seed": SEED},
        }
    if kind == "ddpm":
        r_min, r_max = {5: (1.65 * width, 1.5), 10: (width, 2.0), 30: (width, 4.0)}[steps]
        schedule = ("log_snr", {"steps": steps, "r_min": r_min, "r_max": r_max})
        training = {"steps": 16_000, "batch_size": 2000, "warm_start": 0}
    elif kind == "ddpm_linear":
        schedule = ("linear_beta", {"steps": steps})
        training = {"steps": 4000, "batch_size": 2000, "warm_start": 0}
    elif steps == 30:
        schedule = ("log_snr", {"steps": steps, "r_min": width, "r_max": 3.0})
        training = {"steps": 1000, "batch_size": 500, "warm_start": 20_000}
    else:
        schedule = ("geometric", {"steps": steps, "s_min": 1.3 * width, "s_max": 0.3})
        training = {"steps": {5: 7500, 10: 4500}[steps], "batch_size": 500, "warm_start": 0}
    if density.name == "olympic_rings" and kind == "ddpm" and steps == 5:
        training["steps"] = 20_000  # as long as DiffFlow
    if density.name == "olympic_rings" and kind == "diffflow":
        schedule, training = diffflow_on_rings(steps, width)
        if steps == 10:
            polish = {"steps": 2000, "batch_size": 2000, "lr": 2e-3, "optimizer": "muon"}
    if density.name == "eight_gaussians":  # easy
        training = {
            name: value if name == "batch_size" else value // 3 for name, value in training.items()
        }
    plan = {
        "kind": kind,
        "density": density.name,
        "schedule": schedule,
        "hidden": 128 if kind == "diffflow" else 192,
        "learn_backward_std": kind == "diffflow" and schedule[0] == "log_snr",
        "training": {**training, "lr": 5e-3, "seed": SEED},
    }
    if polish:
        plan["polish"] = {**polish, "seed": SEED + 1}
    if f"{kind}/{density.name}/{steps}" in FINISHED:
        finish = {"steps": 1200, "batch_size": 2000, "lr": 2e-3, "seed": SEED + 1}
        plan |= {"smooth": True, "finish": finish}
    return plan


def diffflow_on_rings(
    steps: int, width: float
) -> tuple[tuple[str, dict[str, Any]], dict[str, Any]]:
    """Grid and training of a DiffFlow on the crossing rings, as `recipes.py` found them best.

    s_min goes with s_max so that every step widens a ring by the same factor.
    """
    s_min, s_max, updates = {5: (1.72, 0.2, 9200), 10: (1.03, 0.2, 10_000), 30: (0.59, 0.35, 3600)}[
        steps
    ]
    schedule = ("geometric", {"steps": steps, "s_min": s_min * width, "s_max": s_max})
    training = {"steps": updates, "batch_size": 500, "warm_start": 0, "optimizer": "muon"}
    return schedule, training


def coupling(layers: int, width: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model and training of a coupling flow."""
    return {"layers": layers, "hidden": 104}, {"steps": 18_000, "batch_size": 512, "lr": 5e-3}


def cnf(frames: int, width: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model and training of a continuous flow."""
    model = {"hidden": 192, "frequencies": 3, "frames": frames, "train_steps": 4}
    return model, {"steps": 1100, "batch_size": 512, "lr": 2e-3}


def ncsn(levels: int, width: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model and training of a noise-conditional score network, 301 evaluations a sample."""
    model = {
        "levels": levels,
        "sigma_min": 0.8 * width,
        "sigma_max": 4.0,
        "hidden": 192,
        "langevin_steps": 10,
        "langevin_step": 0.5,
    }
    return model, {"steps": 20_000, "batch_size": 1000, "lr": 1e-2}


MODELS = {"coupling": coupling, "cnf": cnf, "ncsn": ncsn}


def data_width(density: toy.Density) -> float:
    """The size of the finest detail of a set, in normalised units."""
    return density.width / density.scale if density.width else 0.01


def train(name: str, commit: str, finish_only: bool = False) -> dict[str, Any]:
    """Train one model, measure it, and write it into the package. Returns its card.

    finish_only: take the weights at hand for those of the first stage; their card is kept as
    "begun", less its recipe and metrics.
    """
    torch.set_num_threads(1)
    kind, density_name, steps = name.split("/")
    density = toy.load(density_name)
    plan = recipe(kind, density, int(steps))
    begun = {}
    if finish_only:
        model = zoo.pretrained(kind, density_name, int(steps))
        if "finish" in model.card["recipe"]:
            raise SystemExit(f"{name} is finished: train it anew, without --finish")
        kept = ("command", "commit", "machine", "seconds")
        begun = {"begun": {what: model.card[what] for what in kept}}
        seconds = model.card["seconds"]
    else:
        torch.manual_seed(SEED)
        model = zoo.build({**plan, "smooth": False} if "schedule" in plan else plan)
        began = time.process_time()
        fit(model, density, **plan["training"])
        if "polish" in plan:
            fit(model, density, **plan["polish"])
        seconds = time.process_time() - began
    if "finish" in plan:
        first, model = model, zoo.build(plan)
        model.load_state_dict(first.state_dict())
        began = time.process_time()
        if (moved := largest_move(model, density)) > STILL:
            raise SystemExit(
                f"{name} cannot be finished: its drift moves by {moved:.3f} of the noise, "
                "and the second stage teaches the score of a drift of zero"
            )
        fit(DDPM.of(model), density, **plan["finish"])
        model.eval()
        seconds += time.process_time() - began
    if isinstance(model, DiffFlow) and model.schedule.steps < 100:  # b = s is good enough there
        model.calibrate(density.sample(50_000, seed=SEED + 1))
    measured = metrics.evaluate(model, density, n=10_000, seed=SEED)
    card = {
        "recipe": plan,
        "command": f"python benchmarks/train_zoo.py {'--finish ' if finish_only else ''}{name}",
        "commit": commit,
        "machine": machine(),
        "seconds": round(seconds, 1),
        "clock": "CPU",
        "parameters": sum(p.numel() for p in model.parameters()),
        **begun,
        # JSON has no NaN: what a model does not have, such as NCSN a bound, is null.
        "metrics": {k: v if math.isfinite(v) else None for k, v in measured.items()},
    }
    zoo.FOLDER.mkdir(exist_ok=True)
    zoo.save_model(zoo.FOLDER / f"{kind}-{density_name}-{steps}.safetensors", model, card)
    return card


@torch.no_grad()
def largest_move(model: DiffFlow, density: toy.Density) -> float:
    """How far the learned drift takes a particle in a step, as a share of the step's noise.

    The mean over 2000 particles, of the step where it is largest.
    """
    path, schedule = model.encode(density.sample(2000, seed=SEED + 1), seed=SEED), model.schedule
    moves = (
        schedule.h[i] / schedule.s[i] * model.drift(path[i], path.times[i]).norm(dim=1).mean()
        for i in range(schedule.steps)
    )
    return float(max(moves))


def current_commit() -> str:
    """The commit of the code that trains."""
    answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return answer.stdout.strip() or "unknown"


def row(name: str, card: dict[str, Any]) -> str:
    """One line of the table."""
    m = card["metrics"]
    bound, gap = (math.nan if m[what] is None else m[what] for what in ("bound", "gap"))
    return (
        f"{name:32s} bound {bound:7.3f}  gap {gap:6.3f}  leak {m['leak']:7.2%}  "
        f"sliced W2 {m['sliced_w2']:.3f} (floor {m['sliced_w2_floor']:.3f})  "
        f"{card['seconds']:4.0f} s"
    )


def main() -> None:
    """Train what is asked for, at most --jobs models at a time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="such as diffflow/olympic_rings/10")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time")
    parser.add_argument("--commit", help="the commit of this code, where git is not at hand")
    parser.add_argument("--finish", action="store_true", help="only the second stage, one model")
    parser.add_argument("--table", action="store_true", help="print the cards and train nothing")
    options = parser.parse_args()
    for name in options.names:
        if name not in EVERYTHING:
            parser.error(f"unknown model {name}; there are {', '.join(EVERYTHING)}")
    names = options.names or EVERYTHING

    if options.table:
        for name in zoo.names():
            card = zoo.pretrained(*name.split("/")[:2], steps=int(name.split("/")[2])).card
            if "metrics" in card:  # images are measured in other units, see small_images.json
                print(row(name, card))
        return
    commit = options.commit or current_commit()
    if options.finish and (len(names) != 1 or names[0] not in FINISHED):
        parser.error(f"--finish needs one of {', '.join(FINISHED)}")
    if len(names) == 1:
        print(row(names[0], train(names[0], commit, options.finish)), flush=True)
        return
    environment = {**os.environ, "DIFFFLOW_EDU_PROGRESS": "0"}

    def child(name: str) -> int:
        command = [sys.executable, __file__, name, "--commit", commit]
        return subprocess.run(command, env=environment).returncode

    with ThreadPoolExecutor(options.jobs) as pool:
        failed = [name for name, code in zip(names, pool.map(child, names), strict=True) if code]
    if failed:
        raise SystemExit(f"not trained: {', '.join(failed)}")


if __name__ == "__main__":
    main()
