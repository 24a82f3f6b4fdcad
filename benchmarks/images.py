"""What training on images costs: time, TFLOP/s, memory against N, on the CPU or on a GPU.

    python -m benchmarks.images                # on the GPU if there is one; results/images.json
    python -m benchmarks.images --only steps   # or memory, or compile; the others' results stay

One command for any device: it finds the GPU by itself, and takes larger pictures and nets there. On
a CPU (one thread, the tiny net) it takes about three minutes of processor time. Results of a CPU
and of a GPU stand side by side in the JSON, under "cpu" and "cuda".

*steps*: one training step (loss, gradient, Adam) of DDPM and of DiffFlow on the same batch with the
same score network, in several precisions and layouts, run in turn, round after round, so that a
busy machine slows all of them; the median counts. TFLOP/s are of the products in the nets, those
that the adjoint repeats included, over the time of the step; *share* is of the rate of one large
matrix product in that precision, measured here too. *compile*: the same with the U-Nets
through torch.compile.

*memory*: of one gradient against N, by autograd and by the adjoint. On a GPU the peak of what torch
has allocated; on a CPU by how much the peak resident memory of a forked process rises, and the peak
of what autograd holds for backward (benchmarks/adjoint.py). The N + 1 states that the adjoint keeps
are part of what is measured, and told beside it.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.adjoint import peak_resident, peak_saved
from benchmarks.records import read_json, write_json
from benchmarks.train_zoo import current_commit
from diffflow_edu import DDPM, DiffFlow, Schedule
from diffflow_edu.scale import compiled, machine
from diffflow_edu.unet import cost

RESULTS = Path(__file__).parent / "results" / "images.json"
MANY_STEPS = (5, 10, 20, 30, 50)
VARIANTS = ("32 bits", "32 bits, channels-last", "bf16", "bf16, channels-last")
KINDS = ("ddpm", "diffflow")
PARTS = ("steps", "memory", "compile")


@dataclass(frozen=True)
class Setting:
    """shape: of a picture. size: of the U-Net. batch: of a training step. few: for memory."""

    shape: tuple[int, int, int]
    size: str
    batch: int
    few: int
    steps: int
    matrix: int
    rounds: int


# DDPM's loss takes as many pictures as there are whole rows of N: batches are multiples of it.
SETTINGS = {
    "cpu": [
        Setting((1, 14, 14), "tiny", batch=30, few=8, steps=10, matrix=1024, rounds=3),
        Setting((3, 32, 32), "tiny", batch=10, few=2, steps=10, matrix=1024, rounds=3),
    ],
    "cuda": [
        Setting((1, 28, 28), "small", batch=240, few=32, steps=30, matrix=8192, rounds=10),
        Setting((3, 32, 32), "paper", batch=120, few=16, steps=30, matrix=8192, rounds=10),
    ],
}


def model_and_batch(
    setting: Setting, steps: int, batch: int, device: torch.device
) -> tuple[DiffFlow, Tensor]:
    torch.manual_seed(0)
    schedule = Schedule.log_snr(steps, r_min=0.01, r_max=8.0)
    model = DiffFlow.unet(schedule, setting.shape, setting.size, learn_backward_std=True)
    return model.to(device).train(), torch.randn(batch, *setting.shape, device=device)


# Time ---------------------------------------------------------------------------------------------


def clock(device: torch.device) -> float:
    """Seconds of the device: of this process on a CPU, which may be busy; on a GPU, of the wall."""
    if device.type == "cpu":
        return time.process_time()
    torch.get_device_module(device).synchronize(device)
    return time.perf_counter()


def training_step(
    kind: str, variant: str, setting: Setting, device: torch.device
) -> tuple[DiffFlow, Callable[[], None]]:
    """A model, and a function that trains it by one step."""
    model, x = model_and_batch(setting, setting.steps, setting.batch, device)
    if "channels-last" in variant:
        model = model.to(memory_format=torch.channels_last)
    objective = DDPM.of(model) if kind == "ddpm" else model
    trained = model.score.parameters() if kind == "ddpm" else model.parameters()
    optimizer = torch.optim.Adam(trained, lr=1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled="bf16" in variant):
            loss = objective.loss(x)
        loss.backward()
        optimizer.step()

    return model, step


def flops_of(kind: str, setting: Setting) -> int:
    """The floating-point operations of the nets in a training step; a multiply-add is two.

    A backward pass is twice a forward one. DDPM runs its score once and back. The adjoint runs the
    drift N times ahead, and at every state, x_0 to x_N, again and back; the score at N of them.
    """
    model, _ = model_and_batch(setting, setting.steps, 1, torch.device("cpu"))
    one = cost(model.drift, setting.shape).flops * setting.batch
    n = setting.steps
    return one * (3 if kind == "ddpm" else n + 3 * (n + 1) + 3 * n)


def matmul_rate(side: int, dtype: torch.dtype, device: torch.device, rounds: int = 5) -> float:
    """Floating-point operations a second of one large matrix product, the best of some rounds."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    repeats = 1 if device.type == "cpu" else 20
    seconds = []
    for _ in range(rounds + 1):
        began = clock(device)
        for _ in range(repeats):
            a @ b
        seconds.append((clock(device) - began) / repeats)
    return 2 * side**3 / min(seconds[1:])


def measure_steps(setting: Setting, device: torch.device) -> dict[str, Any]:
    dtypes = {"32 bits": torch.float32, "bf16": torch.bfloat16}
    peaks = {name: matmul_rate(setting.matrix, dtype, device) for name, dtype in dtypes.items()}
    cases = {
        (kind, variant): training_step(kind, variant, setting, device)[1]
        for kind in KINDS
        for variant in VARIANTS
    }
    flops = {kind: flops_of(kind, setting) for kind in KINDS}
    seconds = in_turn(cases, setting.rounds, device)
    rows = []
    for (kind, variant), values in seconds.items():
        median = statistics.median(values)
        peak = peaks[variant.split(",")[0]]
        rows.append(
            {
                "kind": kind,
                "variant": variant,
                "seconds": signed(median),
                "images_per_second": signed(setting.batch / median),
                "tflops": signed(flops[kind] / median / 1e12),
                "share_of_peak": round(flops[kind] / median / peak, 3),
            }
        )
    return {
        "peak_tflops": {name: signed(rate / 1e12) for name, rate in peaks.items()},
        "gflop_per_step": {kind: signed(count / 1e9) for kind, count in flops.items()},
        "rows": rows,
    }


def in_turn(
    cases: dict[Any, Callable[[], None]], rounds: int, device: torch.device
) -> dict[Any, list[float]]:
    seconds: dict[Any, list[float]] = {case: [] for case in cases}
    for number in range(-1, rounds):
        for case, step in cases.items():
            gc.collect()
            began = clock(device)
            step()
            ended = clock(device)
            if number >= 0:  # the first round warms up
                seconds[case].append(ended - began)
    return seconds


def measure_compile(setting: Setting, device: torch.device) -> dict[str, Any]:
    """Both kinds with and without torch.compile, in the layout and precision of `scale.train`."""
    variant = "bf16, channels-last" if device.type == "cuda" else "32 bits, channels-last"
    rows = []
    for kind in KINDS:
        plain = in_turn(
            {kind: training_step(kind, variant, setting, device)[1]}, setting.rounds, device
        )
        model, step = training_step(kind, variant, setting, device)
        with compiled(model):
            began = clock(device)
            step()
            first = clock(device) - began
            after = in_turn({kind: step}, setting.rounds, device)
        torch.compiler.reset()
        before, now = (statistics.median(values[kind]) for values in (plain, after))
        rows.append(
            {
                "kind": kind,
                "variant": variant,
                "first_step_seconds": round(first, 1),
                "seconds_before": signed(before),
                "seconds": signed(now),
            }
        )
    return {"rows": rows}


# Memory -------------------------------------------------------------------------------------------

WAYS: dict[str, Callable[[DiffFlow, Tensor], Tensor]] = {
    "autograd": lambda model, x: model.bound(x, gradient="autograd").mean(),
    "adjoint": lambda model, x: model.loss(x),
}


def gradient(way: str, model: DiffFlow, x: Tensor) -> None:
    model.zero_grad()
    WAYS[way](model, x).backward()


def rise(way: str, steps: int, setting: Setting) -> int:
    """By how many bytes one gradient raises this process's peak resident memory."""
    torch.set_num_threads(1)
    model, x = model_and_batch(setting, steps, setting.few, torch.device("cpu"))
    gradient("adjoint", model_and_batch(setting, 2, 1, torch.device("cpu"))[0], x[:1])  # loads once
    before = peak_resident()
    gradient(way, model, x)
    return peak_resident() - before


def allocated(way: str, steps: int, setting: Setting, device: torch.device) -> int:
    """The peak of what torch has on the GPU during one gradient, less what was there before."""
    model, x = model_and_batch(setting, steps, setting.few, device)
    gradient(way, model, x)  # its gradients and the convolutions' workspaces stay
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    gradient(way, model, x)
    return torch.cuda.max_memory_allocated(device) - before


def measure_memory(setting: Setting, device: torch.device) -> dict[str, Any]:
    cases = [(way, steps, setting) for way in WAYS for steps in MANY_STEPS]
    if device.type == "cuda":
        peaks = [allocated(*case, device) for case in cases]
    else:
        with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
            peaks = pool.starmap(rise, cases, chunksize=1)
    rows: dict[str, dict[str, Any]] = {way: {} for way in WAYS}
    numel = setting.few * torch.Size(setting.shape).numel()
    for (way, steps, _), peak in zip(cases, peaks, strict=True):
        states = 4 * (steps + 1) * numel
        row = {
            "peak_mebibytes": round(peak / 2**20, 1),
            "states_mebibytes": round(states / 2**20, 2),
        }
        if device.type == "cpu":
            model, x = model_and_batch(setting, steps, setting.few, device)
            saved = peak_saved(lambda: gradient(way, model, x))  # noqa: B023
            row["saved_mebibytes"] = round(saved / 2**20, 1)
        rows[way][str(steps)] = row
    return {
        "ways": rows,
        "n_50_over_n_5": {
            way: round(beside_states(row["50"]) / beside_states(row["5"]), 2)
            for way, row in rows.items()
        },
    }


def beside_states(row: dict[str, float]) -> float:
    """The peak without the states that are kept."""
    return row["peak_mebibytes"] - row["states_mebibytes"]


# --------------------------------------------------------------------------------------------------


def signed(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")


MEASURES = {"steps": measure_steps, "memory": measure_memory, "compile": measure_compile}


def write(device: torch.device, key: str, record: dict[str, Any]) -> None:
    """Put a record beside those that are there."""
    results = read_json(RESULTS)
    results.setdefault(device.type, {})[key] = record
    write_json(RESULTS, results)


def main() -> None:
    """Measure the parts that are asked for; each is written as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--device", choices=list(SETTINGS), help="by default the GPU, if any")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    # Forks for the memory of a CPU come first: they inherit what this process has done.
    for part in sorted(options.only, key=("memory", "steps", "compile").index):
        settings = SETTINGS[device.type]
        if part != "steps" and device.type == "cpu":
            # Compiling takes a minute each; and a fork finds memory that its parent has freed, so
            # only those of a parent that has done nothing yet rise as they should.
            settings = settings[:1]
        for setting in settings:
            size = "×".join(map(str, setting.shape))
            name = f"{size} {setting.size}"
            began = sum(os.times()[:4])  # that of the forks, too
            with nullcontext() if device.type == "cpu" else torch.cuda.device(0):
                record = MEASURES[part](setting, device)
            record |= {
                "setting": vars(setting),
                "machine": machine(device),
                "commit": current_commit(),
                "cpu_seconds": round(sum(os.times()[:4]) - began),
            }
            write(device, f"{part}, {name}", record)
            print(part, name, json.dumps(record, indent=1), flush=True)


if __name__ == "__main__":
    main()
