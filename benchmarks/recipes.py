"""What makes a DiffFlow sharper in the same time: one change at a time, on five crossing rings.

    python -m benchmarks.recipes                    # all variants, 2 at a time; resumable
    python -m benchmarks.recipes --only muon        # some
    python -m benchmarks.recipes --assemble         # results/recipes.json from the runs there are

Ten steps, two nets of width 128, and SECONDS of CPU time on one thread for every variant, whatever
a step of it costs; the learning rate falls to zero with the clock. Then the best backward noise is
set, and 20 000 samples are measured. What helped became an option of `fit` or a number in
`benchmarks/train_zoo.py`; what did not lives only here, and so the loop here has its own loss,
which goes through autograd.

The grid: a step of the geometric chain widens a thin ring by a factor q, since its radial variance
grows from ρ² to ρ² + s² = q²ρ². Backwards the best std is s along the ring, where the density is
flat, and s/q across. With one b for both a step costs at least log((1 + q²)/2q) nats. Evenly
spread, q^N = (final width)/(width of the data): the less noise in all, the smaller the price, and
the more is left to the drift.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.children import run_all
from benchmarks.records import write_json
from benchmarks.train_zoo import current_commit, data_width, machine
from diffflow_edu import DiffFlow, metrics, toy
from diffflow_edu.optimizers import Optimizers, make_optimizer
from diffflow_edu.processes.base import standard_normal_log_prob
from diffflow_edu.schedules import Schedule

DENSITY, STEPS, PARTICLES = "olympic_rings", 10, 20_000
SECONDS = 45
FOLDER = Path("runs") / "recipes"
RESULTS = Path(__file__).parent / "results" / "recipes.json"


@dataclass(frozen=True)
class Recipe:
    """A variant: what it changes in the plain recipe, and why one might."""

    why: str
    s_min: float = 1.3
    """noise of the first step, in widths of a ring"""
    s_max: float = 0.3
    batch: int = 500
    lr: float = 5e-3
    drift_lr: float = 1.0
    """of the drift, as a multiple of the score's"""
    optimizer: str = "adam"
    antithetic: bool = False
    """every particle twice, with noise δ and −δ"""
    score_again: int = 0
    """updates of the score alone on the path just made, after each joint update"""
    score_end: float = 0.0
    """share of the time, at the end, in which the score learns alone, the drift fixed"""
    subset: int = STEPS
    """steps whose score term is evaluated, drawn anew each time; the sum is scaled up"""
    learn_s: bool = False
    """the noise s of every step is learned, too"""
    smooth: float = 0.0
    """weight of Σ‖f(x_i, t_i) − f(x_i, t_{i−1})‖², a drift that changes little from step to step"""


PLAIN = Recipe("the recipe of the first weights")
QUIET = {"s_min": 1.03, "s_max": 0.2}
VARIANTS = {
    "plain": PLAIN,
    "lr_double": replace(PLAIN, why="learning rate 1e-2", lr=1e-2),
    "drift_slower": replace(PLAIN, why="the drift learns at .3 of the score's rate", drift_lr=0.3),
    "batch_half": replace(PLAIN, why="smaller batches, more of them", batch=250),
    "antithetic": replace(PLAIN, why="noise in pairs, δ and −δ", antithetic=True),
    "score_again": replace(PLAIN, why="a score update on the cached path is cheap", score_again=1),
    "score_end": replace(PLAIN, why="the drift settles early, the score does not", score_end=0.3),
    "subset": replace(PLAIN, why="half of the score terms a step, unbiased", subset=STEPS // 2),
    "learned_noise": replace(PLAIN, why="the grid's noise is learned", learn_s=True),
    "smooth_in_t": replace(PLAIN, why="a drift that changes little between steps", smooth=0.1),
    "quieter": replace(PLAIN, why="less noise: a smaller price a step", **QUIET),
    "muon": replace(PLAIN, why="Muon for the inner matrices", optimizer="muon"),
    "muon_quieter": replace(PLAIN, why="both", optimizer="muon", **QUIET),
}  # fmt: skip
SEEDS = {name: (0, 1) if name in ("plain", "muon", "muon_quieter") else (0,) for name in VARIANTS}


class Trainer:
    """A DiffFlow on the geometric chain, and the one loss of all variants."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        torch.manual_seed(seed)
        self.recipe = recipe
        self.density = toy.load(DENSITY)
        s_min = recipe.s_min * data_width(self.density)
        self.model = DiffFlow.mlp(Schedule.geometric(STEPS, s_min=s_min, s_max=recipe.s_max))
        self.log_s = nn.Parameter(self.model.schedule.s.float().log(), recipe.learn_s)
        self.score = make_optimizer(recipe.optimizer, self.model.score, recipe.lr)
        self.drift = make_optimizer(recipe.optimizer, self.model.drift, recipe.drift_lr * recipe.lr)
        self.noise = torch.optim.Adam([self.log_s], lr=recipe.lr)
        self.average = copy.deepcopy(self.model.state_dict())
        self.updates = 0

    def path(self) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """δF (N, B, 2), the states x_0 … x_N and the drift at each (equation 11)."""
        schedule, batch = self.model.schedule, self.recipe.batch
        if self.recipe.antithetic:
            half = torch.randn(STEPS, batch // 2, 2)
            noise, x = torch.cat([half, -half], 1), self.density.sample(batch // 2).repeat(2, 1)
        else:
            noise, x = torch.randn(STEPS, batch, 2), self.density.sample(batch)
        s, states = self.log_s.exp(), [x]
        drifts = [self.model.drift(x, schedule.times[0].float())]
        for i in range(STEPS):
            states.append(states[i] + drifts[i] / STEPS + s[i] * noise[i])
            drifts.append(self.model.drift(states[-1], schedule.times[i + 1].float()))
        return noise, states, drifts

    def score_terms(self, states: list[Tensor], drifts: list[Tensor], subset: int) -> Tensor:
        """Σ ½‖δB_i‖² of equation 15, estimated from so many of its steps, mean over particles."""
        s, total = self.log_s.exp(), 0.0
        for i in torch.randperm(STEPS)[:subset].tolist():
            pull = s[i] ** 2 * self.model.score(
                states[i + 1], self.model.schedule.times[i + 1].float()
            )
            mean = states[i + 1] - drifts[i + 1] / STEPS + pull
            total = total + 0.5 * ((states[i] - mean) / s[i]).square().sum(1).mean()
        return total * (STEPS / subset)

    def update(self, factor: float, score_only: bool) -> None:
        """One update, with perhaps more of the score on the same path."""
        recipe, times = self.recipe, self.model.schedule.times.float()
        with torch.set_grad_enabled(not score_only):
            noise, states, drifts = self.path()
        loss = self.score_terms(states, drifts, recipe.subset)
        if not score_only:
            loss = loss - standard_normal_log_prob(states[-1]).mean()
            if recipe.smooth:
                changes = (
                    drifts[i] - self.model.drift(states[i], times[i - 1])
                    for i in range(1, STEPS + 1)
                )
                loss = loss + recipe.smooth * sum(c.square().sum(1).mean() for c in changes) / STEPS
        both = [self.score] if score_only else [self.score, self.drift]
        self._step(loss, both, factor, with_noise=recipe.learn_s and not score_only)
        fixed = [x.detach() for x in states], [f.detach() for f in drifts]
        for _ in range(recipe.score_again):
            self._step(self.score_terms(*fixed, STEPS), [self.score], factor)

    def _step(
        self, loss: Tensor, optimizers: list[Optimizers], factor: float, with_noise: bool = False
    ) -> None:
        for parameter in (*self.model.parameters(), self.log_s):
            parameter.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_([*self.model.parameters(), self.log_s], 1.0)
        for optimizer in optimizers:
            optimizer.scale_lr(factor)
            optimizer.step()
        if with_noise:
            self.noise.param_groups[0]["lr"] = self.recipe.lr * factor
            self.noise.step()
        self.updates += 1
        decay = min(0.99, self.updates / (9 + self.updates))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)

    def finish(self) -> DiffFlow:
        """The model with its averaged weights, its learned noise in the schedule, b at its best."""
        self.model.load_state_dict(self.average)
        s = self.log_s.detach().double().exp()
        old = self.model.schedule
        # The nets keep the times and the noise process that they were trained with.
        self.model.schedule = replace(old, s=s, e=s.square(), b=s.clone(), e_ode=s.square() / 2)
        self.model.eval().calibrate(self.density.sample(50_000, seed=1))
        return self.model


def run(name: str, seed: int, commit: str) -> dict[str, Any]:
    """Train a variant for SECONDS of CPU time and measure it."""
    torch.set_num_threads(1)
    recipe = VARIANTS[name]
    trainer = Trainer(recipe, seed)
    began = time.process_time()
    while (progress := (time.process_time() - began) / SECONDS) < 1:
        alone = progress >= 1 - recipe.score_end
        trainer.update(0.5 * (1 + math.cos(math.pi * progress)), alone)
    measured = metrics.evaluate(trainer.finish(), trainer.density, n=PARTICLES, seed=0)
    return {
        "name": name,
        "seed": seed,
        "recipe": asdict(recipe),
        "updates": trainer.updates,
        "cpu_seconds": SECONDS,
        "metrics": {k: v if math.isfinite(v) else None for k, v in measured.items()},
        "s": [round(float(value), 5) for value in trainer.log_s.detach().exp()],
        "commit": commit,
        "machine": machine(),
    }


def assemble() -> None:
    """results/recipes.json from the runs, in the order of VARIANTS."""
    files = [FOLDER / f"{name}-{seed}.json" for name in VARIANTS for seed in SEEDS[name]]
    missing = [file.stem for file in files if not file.exists()]
    if missing:
        raise SystemExit(f"not run yet: {', '.join(missing)}")
    write_json(
        RESULTS, {"seconds": SECONDS, "runs": [json.loads(f.read_text("utf-8")) for f in files]}
    )


def main() -> None:
    """Run what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--commit", help="the commit of this code, where git is not at hand")
    parser.add_argument("--assemble", action="store_true", help="only put the runs together")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.assemble:
        assemble()
        return
    commit = options.commit or current_commit()
    if options.one:
        name, seed = options.one.split("/")
        record = run(name, int(seed), commit)
        FOLDER.mkdir(parents=True, exist_ok=True)
        write_json(FOLDER / f"{name}-{seed}.json", record)
        m = record["metrics"]
        print(f"{options.one}: gap {m['gap']:.3f}, leak {m['leak']:.2%}, W2 {m['sliced_w2']:.3f}")
        return
    this = [sys.executable, "-m", "benchmarks.recipes", "--commit", commit, "--one"]
    wanted = [f"{name}/{seed}" for name in options.only for seed in SEEDS[name]]
    missing = [run for run in wanted if not (FOLDER / f"{run.replace('/', '-')}.json").exists()]
    run_all({run: [*this, run] for run in missing}, options.jobs)
    if set(options.only) == set(VARIANTS):
        assemble()


if __name__ == "__main__":
    main()
