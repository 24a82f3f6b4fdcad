"""What Algorithm 2 costs: `loss` and `bound` against the algorithm step by step, and autograd.

    python benchmarks/adjoint.py                 # about two minutes; writes results/adjoint.json
    python benchmarks/adjoint.py --against-n     # its part about N = 5 to 100; half a minute

The baseline is Algorithm 2 the way the paper's public code runs it, written out cleanly. Its
forward sweep asks for the drift on either side of each state and for the score (3 N network units,
one a forward pass); its reverse sweep rebuilds each step from its two cached states, drift on
either side and score (3 N), and sends the gradient back through all three (6 N): 12 N. `loss` needs
7 N units, `bound` 8 N.

Time: the four are run in turn, round after round, so that a busy machine slows all of them; what
counts is the ratio of medians. Memory: the peak of the bytes autograd has saved for backward at
one time, each storage counted once, with the cached states of the adjoint added, which a custom
function saves out of sight of the hooks; and, as a check from outside, by how much the peak
resident memory of a fresh process rises over one gradient. Against N all this is measured with a
quarter of the particles, and the fresh processes are forks of one that has only imported torch.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffflow_edu import DiffFlow, Schedule
from diffflow_edu.files import write_whole
from diffflow_edu.processes.base import standard_normal_log_prob

STEPS, PARTICLES, HIDDEN = 30, 2000, 128
MANY_STEPS, FEWER_PARTICLES = (5, 10, 20, 30, 50, 100), 500
WAYS_AGAINST_N = ("step by step", "autograd", "loss")
RESULTS = Path(__file__).parent / "results" / "adjoint.json"
GOALS = {"loss": 0.68, "bound": 0.80, "memory": 0.10}


def half_square(noise: Tensor) -> Tensor:
    return 0.5 * noise.square().flatten(1).sum(1)


class StepByStep(torch.autograd.Function):
    """Algorithm 2, one step after the other: 3 N network units forward, 9 N backward."""

    @staticmethod
    def forward(ctx: Any, model: DiffFlow, x: Tensor, *parameters: Tensor) -> Tensor:
        states, path = [x], x.new_zeros(len(x))
        for i in range(model.schedule.steps):
            delta = torch.randn_like(x)
            x = model.forward_step(states[-1], i, delta)
            path += half_square(model.backward_noise(states[-1], x, i)) - half_square(delta)
            states.append(x)
        ctx.model = model
        ctx.save_for_backward(*states)
        ctx.parameters = parameters
        return path - standard_normal_log_prob(x)

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        model, states, parameters = ctx.model, ctx.saved_tensors, ctx.parameters
        grads = [torch.zeros_like(p) for p in parameters]
        adjoint = weight[:, None] * states[-1]  # a_N = −∂log p_B(x_N)/∂x_N
        for i in reversed(range(model.schedule.steps)):
            with torch.enable_grad():
                x, x_next = (s.detach().requires_grad_() for s in (states[i], states[i + 1]))
                mean = model.forward_mean(x, i)  # its noise is a number: x_next − mean
                energy = half_square(model.backward_noise(x, x_next, i))
            # ℓ_i by x_{i+1} first: u = a_{i+1} + ∂ℓ_i/∂x_{i+1}
            outer = torch.autograd.grad(energy, [x_next, x, *parameters], weight, allow_unused=True)
            adjoint = adjoint + outer[0]
            inner = torch.autograd.grad(mean, [x, *parameters], adjoint, allow_unused=True)
            adjoint = outer[1] + inner[0]
            for found in (outer[2:], inner[1:]):
                for total, grad in zip(grads, found, strict=True):
                    if grad is not None:
                        total += grad
        return None, None, *grads


def step_by_step(model: DiffFlow, x: Tensor) -> Tensor:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return StepByStep.apply(model, x, *parameters) + model.constant(model.schedule, x)


WAYS: dict[str, Callable[[DiffFlow, Tensor], Tensor]] = {
    "step by step": lambda model, x: step_by_step(model, x).mean(),
    "autograd": lambda model, x: model.bound(x, gradient="autograd").mean(),
    "loss": lambda model, x: model.loss(x),
    "bound": lambda model, x: model.bound(x).mean(),
}


def setting(steps: int = STEPS, particles: int = PARTICLES) -> tuple[DiffFlow, Tensor]:
    torch.manual_seed(0)
    model = DiffFlow.mlp(Schedule.log_snr(steps=steps), hidden=HIDDEN)
    nn.init.normal_(model.drift.last.weight, std=0.05)  # as after some training
    return model, torch.randn(particles, 2)


def gradient(way: str, model: DiffFlow, x: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    model.zero_grad()
    WAYS[way](model, x).backward()
    return [p.grad for p in model.parameters() if p.requires_grad]


def check_that_all_agree() -> None:
    """The same gradient from all four, in float64; there is no point in timing a wrong one."""
    model, x = setting()
    model, x = model.double(), x[:50].double()
    expected = torch.cat([g.flatten() for g in gradient("autograd", model, x)])
    for way in WAYS:
        found = torch.cat([g.flatten() for g in gradient(way, model, x)])
        error = float((found - expected).norm() / expected.norm())
        if not error < 1e-10:
            raise SystemExit(f"{way} has another gradient than autograd, relative error {error:g}")


def seconds_a_step(
    rounds: int,
    steps: int = STEPS,
    particles: int = PARTICLES,
    warm_up: int = 2,
    clock: Callable[[], float] = time.perf_counter,
    ways: Sequence[str] = tuple(WAYS),
) -> dict[str, list[float]]:
    model, x = setting(steps, particles)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(-warm_up, rounds):
        for way in ways:
            gc.collect()
            began = clock()
            gradient(way, model, x)
            if number >= 0:
                seconds[way].append(clock() - began)
    return seconds


def saved_bytes(way: str, steps: int = STEPS, particles: int = PARTICLES) -> int:
    """The peak of what autograd holds for backward, and the states the adjoint caches."""
    model, x = setting(steps, particles)
    peak = peak_saved(lambda: gradient(way, model, x))
    states = (steps + 1) * x.numel() * x.element_size()
    return peak + (0 if way == "autograd" else states)


def peak_saved(work: Callable[[], object]) -> int:
    """The peak of the bytes that autograd holds for backward while some work is done."""
    live: dict[int, int] = {}  # storage -> how many saved tensors share it
    now = peak = 0

    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal now, peak
            self.tensor, storage = tensor, tensor.untyped_storage()
            self.key, self.size = storage.data_ptr(), storage.nbytes()
            now += self.size if live.get(self.key, 0) == 0 else 0
            live[self.key] = live.get(self.key, 0) + 1
            peak = max(peak, now)

        def __del__(self) -> None:
            nonlocal now
            live[self.key] -= 1
            now -= self.size if live[self.key] == 0 else 0

    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        work()
    return peak


def resident_rise(way: str, threads: int) -> int:
    """By how many bytes one gradient raises the peak resident memory of a fresh process."""
    command = [sys.executable, __file__, "--resident", way, "--threads", str(threads)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_resident(way: str, steps: int = STEPS, particles: int = PARTICLES) -> int:
    model, x = setting(steps, particles)
    gradient(way, model, x[:8])  # load what loads once
    before = peak_resident()
    gradient(way, model, x)
    return peak_resident() - before


def peak_resident() -> int:
    """Of this process, in bytes. (Linux; `getrusage` would begin at the parent's peak.)"""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")


def against_n(rounds: int, threads: int) -> dict[str, Any]:
    """Time and memory of one gradient for N = 5 to 100, by way and N.

    Resident memory comes first, while this process has done nothing yet that its forks inherit.
    """
    cases = [(way, steps, FEWER_PARTICLES) for way in WAYS_AGAINST_N for steps in MANY_STEPS]
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        resident = dict(zip(cases, pool.starmap(measure_resident, cases, chunksize=1), strict=True))
    check_that_all_agree()
    found: dict[str, dict[str, dict[str, float]]] = {way: {} for way in WAYS_AGAINST_N}
    for steps in MANY_STEPS:
        seconds = seconds_a_step(
            rounds, steps, FEWER_PARTICLES, 1, time.process_time, WAYS_AGAINST_N
        )
        for way in WAYS_AGAINST_N:
            saved = saved_bytes(way, steps, FEWER_PARTICLES)
            found[way][str(steps)] = {
                "median_seconds": round(statistics.median(seconds[way]), 5),
                "saved_mebibytes": round(saved / 2**20, 2),
                "resident_rise_mebibytes": round(resident[way, steps, FEWER_PARTICLES] / 2**20, 1),
            }
    return {
        "setting": {
            "steps": list(MANY_STEPS),
            "particles": FEWER_PARTICLES,
            "networks": f"two MLPs, 3 x {HIDDEN}",
            "dtype": "float32",
            "rounds": rounds,
            "clock": "CPU",
        },
        "machine": machine(threads),
        "results": found,
    }


def against_n_table(report: dict[str, Any]) -> str:
    """For the README: memory and time against N, from results/adjoint.json."""
    part = report["against_n"]
    autograd, steps, ours = (part["results"][way] for way in ("autograd", "step by step", "loss"))
    lines = [
        "| N | autograd: activations, resident, MiB | Algorithm 2 step by step | `loss` "
        "| time of `loss` against autograd |",
        "|---|---|---|---|---|",
    ]
    for n in map(str, part["setting"]["steps"]):
        cells = [
            f"{row[n]['saved_mebibytes']:.0f}, {row[n]['resident_rise_mebibytes']:.0f}"
            for row in (autograd, steps, ours)
        ]
        ratio = ours[n]["median_seconds"] / autograd[n]["median_seconds"]
        lines.append(f"| {n} | {' | '.join(cells)} | {ratio:.2f} |")
    m, setting = part["machine"], part["setting"]
    lines += [
        "",
        f"{setting['particles']} particles, {setting['networks']}, {setting['rounds']} rounds, "
        f"{m['threads']} thread of {m['processor']}, torch {m['torch']}.",
    ]
    return "\n".join(lines)


def machine(threads: int) -> dict[str, Any]:
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def write(part: dict[str, Any]) -> None:
    """Put this part into the results and leave the other one there."""
    known = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    write_whole(RESULTS, json.dumps(known | part, indent=2) + "\n")
    print(json.dumps(part, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, help="25 by default, against N 3")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--against-n", action="store_true", help="measure N = 5 to 100 instead")
    parser.add_argument("--resident", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.resident:
        print(measure_resident(arguments.resident))
        return

    if arguments.against_n:
        write({"against_n": against_n(arguments.rounds or 3, arguments.threads)})
        return
    check_that_all_agree()
    rounds = arguments.rounds or 25
    seconds = seconds_a_step(rounds)
    median = {way: statistics.median(values) for way, values in seconds.items()}
    saved = {way: saved_bytes(way) for way in WAYS}
    resident = {way: resident_rise(way, arguments.threads) for way in WAYS}
    rows = {
        way: {
            "median_seconds": round(median[way], 5),
            "fastest_seconds": round(min(seconds[way]), 5),
            "time_against_step_by_step": round(median[way] / median["step by step"], 3),
            "saved_mebibytes": round(saved[way] / 2**20, 2),
            "saved_against_autograd": round(saved[way] / saved["autograd"], 4),
            "resident_rise_mebibytes": round(resident[way] / 2**20, 1),
        }
        for way in WAYS
    }
    found = {
        "loss": rows["loss"]["time_against_step_by_step"],
        "bound": rows["bound"]["time_against_step_by_step"],
        "memory": max(rows[way]["saved_against_autograd"] for way in ("loss", "bound")),
    }
    result = {
        "setting": {
            "steps": STEPS,
            "particles": PARTICLES,
            "networks": f"two MLPs, 3 x {HIDDEN}",
            "dtype": "float32",
            "rounds": rounds,
        },
        "machine": machine(arguments.threads),
        "results": rows,
        "goals": {name: {"found": found[name], "at_most": goal} for name, goal in GOALS.items()},
    }
    write(result)
    missed = [name for name, goal in GOALS.items() if found[name] > goal]
    print(f"goals missed: {', '.join(missed)}" if missed else "all goals met: True")


if __name__ == "__main__":
    main()
