"""A GPU's day: checks, speed, memory, then MNIST and CIFAR-10, in pieces that resume.

    python -m benchmarks.gpu --minutes 9     # on a GPU; the same command goes on where it stood
    python -m benchmarks.gpu --miniature     # every part of it on small digits, also on a CPU
    python -m benchmarks.gpu --page          # docs/records.md from what is in results/gpu

DIFFFLOW_EDU_DATA names the folder with the pictures. Checkpoints stay in --runs (runs/gpu), without
which a training begins anew; what may travel goes to --out ($OUT, or benchmarks/results/gpu):
gpu.json, and of every training a sheet of 64 samples and weights in bf16, less than 64 MiB in all.

*checks*: of a gradient on this device, the adjoint's against autograd's, one memory layout against
the other (in float64 where there is one), bf16 and CUDA graphs against plain 32 bits. *speed*:
training steps in bf16, eager, through torch.compile, and with each U-Net replaying CUDA graphs. The
adjoint allows that: it copies what a net returns into its one block of states before it runs the
net again. *memory*: of one gradient against N. *trainings*: one after the other, measured on test
pictures after every piece; minutes are those of `fit`, with the looks in them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks import images as steps
from benchmarks.images import Setting, flops_of, in_turn, matmul_rate, model_and_batch, signed
from benchmarks.records import read_json
from benchmarks.train_zoo import current_commit
from diffflow_edu import DiffFlow, devices, images, scale, zoo
from diffflow_edu.download import DataError
from diffflow_edu.evaluation import evaluate
from diffflow_edu.files import to_json, write_whole
from diffflow_edu.scale import Config, compiled, machine, sheet_of
from diffflow_edu.unet import UNet

if TYPE_CHECKING:
    from accelerate import Accelerator

RUNS = Path("runs") / "gpu"
RESULTS = Path(__file__).parent / "results" / "gpu"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "records.md"
VARIANT = "bf16, channels-last"
WAYS = ("eager", "graphs", "compiled")
SEED = 0
LIMIT = 64 * 2**20
"""Bytes that may travel."""
NAMES = {"fid": "FID-LeNet", "bits_per_dim": "bits/dim"}


@dataclass(frozen=True)
class Training:
    """goals: by measure, the number whose time is taken. look_every: see `scale.train`."""

    config: Config
    goals: dict[str, float]
    look_every: int


@dataclass(frozen=True)
class Plan:
    """piece: minutes of training between two measurements; reserve: of each call, for the last.

    test, fid_n: pictures that bits/dim and FID are measured on.
    """

    settings: tuple[Setting, ...]
    trainings: dict[str, Training]
    piece: float
    reserve: float
    test: int
    fid_n: int


GPU = {"size": "small", "batch_size": 240, "precision": "bf16"}
MNIST, CIFAR = {"fid": 20.0, "bits_per_dim": 1.0}, {"bits_per_dim": 3.3}
DAY = Plan(
    settings=(
        Setting((1, 28, 28), "small", batch=240, few=4, steps=30, matrix=8192, rounds=5),
        Setting((3, 32, 32), "small", batch=120, few=4, steps=30, matrix=8192, rounds=5),
    ),
    trainings={
        "mnist-ddpm-30": Training(
            Config(images="mnist", kind="ddpm", steps=(30,), updates=9000, **GPU), MNIST, 500
        ),
        "mnist-diffflow-10": Training(
            Config(images="mnist", steps=(10,), warm_start=6000, updates=400, **GPU), MNIST, 400
        ),
        "cifar10-ddpm-100": Training(
            Config(images="cifar10", kind="ddpm", steps=(100,), updates=12_000, **GPU), CIFAR, 1000
        ),
        "cifar10-diffflow-10": Training(
            Config(images="cifar10", steps=(10,), warm_start=6000, updates=400, **GPU), CIFAR, 400
        ),
    },
    piece=1.5,
    reserve=0.5,
    test=1000,
    fid_n=5000,
)
DIGITS = {"images": "digits", "size": "tiny", "steps": (2,), "batch_size": 2}
MINIATURE = Plan(
    settings=(Setting((1, 4, 4), "tiny", batch=2, few=2, steps=2, matrix=16, rounds=1),),
    trainings={
        "digits-ddpm-2": Training(
            Config(kind="ddpm", updates=2, **DIGITS), {"bits_per_dim": 99.0}, 1
        ),
        "digits-diffflow-2": Training(
            Config(updates=1, warm_start=1, **DIGITS), {"bits_per_dim": 0.1}, 1
        ),
    },
    piece=math.inf,
    reserve=0.0,
    test=4,
    fid_n=0,
)


# Checks -------------------------------------------------------------------------------------------


def gradient(model: DiffFlow, loss: Callable[[], Tensor], device: torch.device) -> Tensor:
    """Of all that a model learns, in one row; its noise is the same every time."""
    model.zero_grad()
    with devices.fork_rng(device):
        torch.manual_seed(SEED)
        loss().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def apart(a: Tensor, b: Tensor) -> float:
    """‖a − b‖/‖b‖."""
    return float((a - b).norm() / b.norm())


def checks(setting: Setting, device: torch.device) -> dict[str, Any]:
    """How far gradients that should be equal are apart, and how far they may be."""
    double = devices.has_double(device)
    model, _ = model_and_batch(setting, 3, 1, torch.device("cpu"))
    for p in model.parameters():  # no layer stays at zero
        p.data += 0.02 * torch.randn(p.shape)
    x = torch.randn(setting.few, *setting.shape)
    model, x = model.to(device), x.to(device)
    if double:
        model, x = model.double(), x.double()
    exact = 1e-8 if double else 1e-3
    here = partial(gradient, model, device=device)
    found = here(lambda: model.loss(x))
    by_autograd = here(lambda: model.bound(x, gradient="autograd").mean())
    rows = [row("adjoint against autograd", apart(found, by_autograd), exact)]
    model.to(memory_format=torch.channels_last)
    other = here(lambda: model.loss(x))
    rows.append(row("channels-last against contiguous", apart(other, found), exact))

    model, x = model.float(), x.float()
    here, plain = partial(gradient, model, device=device), here(lambda: model.loss(x))

    def half() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            return model.loss(x)

    rows.append(row("bf16 against 32 bits", apart(here(half), plain), 0.1))
    reason = no_cuda(device, "CUDA graphs")
    if reason:
        return {"rows": rows, "skipped": {"CUDA graphs": reason}}
    eager = here(half)
    with graphed(model, half, joint=True):
        rows.append(row("CUDA graphs against eager, bf16", apart(here(half), eager), 0.02))
    return {"rows": rows}


def row(name: str, value: float, limit: float) -> dict[str, Any]:
    return {"name": name, "apart": signed(value), "limit": limit, "passed": value <= limit}


def no_cuda(device: torch.device, what: str) -> str | None:
    """Why a part is skipped, where it is."""
    return None if device.type == "cuda" else f"{what} need CUDA, and this is {device.type}"


# Speed --------------------------------------------------------------------------------------------


@contextmanager
def graphed(model: DiffFlow, run: Callable[[], Any], joint: bool) -> Iterator[None]:
    """Every U-Net of the model is a pair of CUDA graphs, forward and backward, inside the block.

    run: evaluates them as they will be, with the same shapes. joint: whether gradients reach their
    input, as in the adjoint and not in DDPM's loss.
    """
    nets = [module for module in model.modules() if isinstance(module, UNet)]
    seen: dict[UNet, tuple[Tensor, Tensor]] = {}
    handles = [net.register_forward_pre_hook(seen.setdefault) for net in nets]
    run()
    for handle in handles:
        handle.remove()
    try:
        for net, (x, t) in seen.items():
            example = (x.detach().clone().requires_grad_(joint), t.detach().clone())
            with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
                torch.cuda.make_graphed_callables(net, example)
        yield
    finally:
        for net in nets:
            net.__dict__.pop("forward", None)


def speed(setting: Setting, kind: str, way: str, device: torch.device) -> dict[str, Any]:
    """Pictures a second of a training step, and the share of the rate of a matrix product."""
    if way != "eager" and no_cuda(device, ""):
        what = {"graphs": "CUDA graphs", "compiled": "compiled nets, slow to make for a CPU,"}[way]
        return {"skipped": no_cuda(device, what)}
    model, step = steps.training_step(kind, VARIANT, setting, device)
    inside = {"eager": nullcontext, "compiled": partial(compiled, model)}.get(way)
    began = steps.clock(device)
    with inside() if inside else graphed(model, step, joint=kind == "diffflow"):
        step()
        first = steps.clock(device) - began
        seconds = statistics.median(in_turn({way: step}, setting.rounds, device)[way])
    if way == "compiled":
        torch.compiler.reset()
    rate = flops_of(kind, setting) / seconds
    peak = matmul_rate(setting.matrix, torch.bfloat16, device)
    return {
        "first_step_seconds": signed(first),
        "seconds": signed(seconds),
        "images_per_second": signed(setting.batch / seconds),
        "tflops": signed(rate / 1e12),
        "peak_tflops": signed(peak / 1e12),
        "share_of_peak": round(rate / peak, 3),
    }


def memory(setting: Setting, device: torch.device) -> dict[str, Any]:
    """Peak memory of one gradient against N, by autograd and by the adjoint."""
    reason = no_cuda(device, "peaks of memory")
    return {"skipped": reason} if reason else steps.measure_memory(setting, device)


def parts(plan: Plan, device: torch.device) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is measured before anything is trained, by name, the quickest first."""
    found = {"checks": partial(checks, plan.settings[0], device)}
    named = {"×".join(map(str, s.shape)) + f" {s.size}": s for s in plan.settings}
    for way in WAYS[:2]:
        for name, setting in named.items():
            for kind in steps.KINDS:
                found[f"speed, {name}, {kind}, {way}"] = partial(speed, setting, kind, way, device)
    for name, setting in named.items():
        found[f"memory, {name}"] = partial(memory, setting, device)
    for name, setting in named.items():
        for kind in steps.KINDS:
            key = f"speed, {name}, {kind}, compiled"
            found[key] = partial(speed, setting, kind, "compiled", device)
    return found


# Trainings ----------------------------------------------------------------------------------------


def training_minutes(folder: Path) -> float:
    """What `fit` has taken so far in the stages of a run."""
    files = sorted(folder.glob("stage-*.pt"))
    states = [torch.load(file, map_location="cpu", weights_only=True) for file in files]
    return sum(state["history"]["seconds"][-1] for state in states) / 60


def measured(folder: Path, plan: Plan, data: images.Images, device: torch.device) -> dict[str, Any]:
    """The best model so far, on test pictures."""
    model = zoo.load(folder / "best.safetensors").to(device)
    found = evaluate(model, data, None, plan.test, 0, plan.fid_n, SEED)[0]
    return {
        "minutes": round(training_minutes(folder), 2),
        "step": model.card["look"]["step"],
        "bits_per_dim": round(found.bits_per_dim, 4),
        "error": found.error and round(found.error, 4),
        "fid": found.fid and round(found.fid, 2),
        "device": machine(device),
        "commit": current_commit(),
    }


def train(
    name: str,
    plan: Plan,
    left: Callable[[], float],
    runs: Path,
    device: torch.device,
    accelerator: Accelerator | None,
) -> Iterator[dict[str, Any]]:
    """Train in pieces while so many minutes are left; after each piece, what was measured."""
    training, folder = plan.trainings[name], runs / name
    data = images.load(training.config.images).to(device)
    model = None
    while model is None and left() > plan.reserve:
        minutes = min(plan.piece, left() - plan.reserve)
        model = scale.train(
            training.config, folder, minutes, training.look_every, accelerator, keep=1
        )
        if (folder / "best.safetensors").exists():
            yield measured(folder, plan, data, device) | {"finished": model is not None}


def take_along(
    name: str, runs: Path, out: Path, shape: tuple[int, ...], device: torch.device
) -> None:
    """A sheet of samples and weights in bf16, beside the results."""
    model = zoo.load(runs / name / "best.safetensors")
    zoo.save_model(out / f"{name}.safetensors", model, model.card, half=True)
    write_whole(out / f"{name}.png", sheet_of(model.to(device), shape))
    total = sum(file.stat().st_size for file in out.iterdir() if file.is_file())
    if total > LIMIT:
        (out / f"{name}.safetensors").unlink()
        print(f"{name}: its weights stay in {runs}, since {out} would hold {total} bytes with them")


# The day ------------------------------------------------------------------------------------------


def day(
    plan: Plan,
    device: torch.device,
    runs: Path,
    out: Path,
    minutes: float = math.inf,
    note: str = "",
    accelerator: Accelerator | None = None,
) -> dict[str, Any]:
    """Go on where the folder of runs says that the day stands, for so many minutes."""
    end = time.monotonic() + 60 * minutes

    def left() -> float:
        return (end - time.monotonic()) / 60

    results = read_json(runs / "gpu.json") or {"parts": {}, "trainings": {}}

    def keep() -> None:
        for folder in (runs, out):
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / "gpu.json", to_json(results, ensure_ascii=False))

    for key, measure in parts(plan, device).items():
        if key in results["parts"] or left() <= 0:
            continue
        try:
            found = measure()
        except RuntimeError as error:  # such as memory that is full: the others go on without it
            found = {"failed": str(error).splitlines()[0]}
        results["parts"][key] = {**found, "device": machine(device), "commit": current_commit()}
        keep()
        print(key, json.dumps(found, ensure_ascii=False), flush=True)
    for name, training in plan.trainings.items():
        run = results["trainings"].setdefault(
            name,
            {"config": asdict(training.config), "goals": training.goals, "note": note, "rows": []},
        )
        if run["rows"] and run["rows"][-1]["finished"]:
            continue
        for found in train(name, plan, left, runs, device, accelerator):
            run["rows"].append(found)
            keep()
            print(name, json.dumps(found), flush=True)
            take_along(name, runs, out, images.load(training.config.images).shape, device)
    keep()
    return read_json(runs / "gpu.json")


def wrong(results: dict[str, Any]) -> list[str]:
    """The parts that failed, and the checks that were not passed."""
    found = [f"{key}: {part['failed']}" for key, part in results["parts"].items()
             if "failed" in part]  # fmt: skip
    rows = results["parts"].get("checks", {}).get("rows", [])
    return found + [f"{r['name']}: {r['apart']} apart" for r in rows if not r["passed"]]


# The page -----------------------------------------------------------------------------------------

HEAD = """# Records

Minutes of training on one GPU to a number, measured on test pictures after every piece of training.
FID-LeNet is that of the feature net of this package, of as many samples as test pictures; bits/dim
are of the bound, so at most. Minutes are those of training alone, with its looks at checkpoints.

    python -m benchmarks.gpu --minutes 9                      # the same command goes on
    python -m benchmarks.gpu --page                           # writes this page

"""
NOTHING = """**No GPU has run this yet**, so there is no number to show; what is to be reached:
"""


def to_reach() -> list[str]:
    """The goals of the day, each with its training."""
    return [
        f"{NAMES[measure]} ≤ {limit:g} | {name}"
        for name, training in DAY.trainings.items()
        for measure, limit in training.goals.items()
    ]


def reached(name: str, run: dict[str, Any]) -> list[str]:
    """A line of the table for each goal of a training: when it was reached, or how near it came."""
    lines = []
    for measure, limit in run["goals"].items():
        rows = [r for r in run["rows"] if r[measure] is not None]
        if not rows:
            continue
        first = next((r for r in rows if r[measure] <= limit), None)
        best = first or min(rows, key=lambda r: r[measure])
        minutes = f"{best['minutes']:g}" if first else f"not in {rows[-1]['minutes']:g}"
        number = f"{best[measure]:.2f}"
        lines.append(
            f"| {NAMES[measure]} ≤ {limit:g} | {name} | {minutes} | {number} | {best['device']} | "
            f"{best['commit'][:9]} | {run['note'] or '–'} |"
        )
    return lines


def speeds(results: dict[str, Any]) -> list[str]:
    """A line of the table for each measurement of speed that was made."""
    lines = []
    for key, part in results["parts"].items():
        if key.startswith("speed") and "seconds" in part:
            _, shape, kind, way = key.split(", ")
            lines.append(
                f"| {shape} | {kind} | {way} | {part['images_per_second']:g} | "
                f"{part['share_of_peak']:.0%} | {part['device']} | {part['commit'][:9]} |"
            )
    return lines


def page(days: list[dict[str, Any]]) -> str:
    """docs/records.md, from the results of every day that there is."""
    records = [line for results in days for name, run in results["trainings"].items()
               for line in reached(name, run)]  # fmt: skip
    if not records:
        goals = [f"| {goal} |" for goal in to_reach()]
        return HEAD + "\n".join([NOTHING, "| goal | training |", "|---|---|", *goals]) + "\n"
    table = [
        "| goal | training | minutes | number | device | commit | what changed |",
        "|---|---|---|---|---|---|---|",
        *records,
    ]
    rates = [line for results in days for line in speeds(results)]
    if rates:
        table += [
            "",
            "Pictures a second of a training step in bf16, and the share of the rate of one large "
            "matrix product:",
            "",
            "| pictures, net | kind | way | pictures a second | share | device | commit |",
            "|---|---|---|---|---|---|---|",
            *rates,
        ]
    return HEAD + "\n".join(table) + "\n"


def write_page(folder: Path = RESULTS, path: Path = PAGE) -> None:
    """Put what the results in a folder say into docs/records.md."""
    path.parent.mkdir(exist_ok=True)
    write_whole(path, page([read_json(file) for file in sorted(folder.glob("*.json"))]))


def main() -> None:
    """A day, or a miniature of it, or the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=math.inf, help="of the clock, in all")
    parser.add_argument("--miniature", action="store_true", help="small digits, on any device")
    parser.add_argument("--out", type=Path, help="of what may travel")
    parser.add_argument("--runs", type=Path, help="of checkpoints, to go on from")
    parser.add_argument("--note", default="", help="what changed, for the table of records")
    parser.add_argument("--page", action="store_true", help="write docs/records.md, and no more")
    options = parser.parse_args()
    if options.page:
        write_page()
        return
    plan, device = MINIATURE if options.miniature else DAY, devices.accelerator()
    runs = options.runs or (RUNS.with_name("gpu-miniature") if options.miniature else RUNS)
    out = Path(os.environ.get("OUT", runs / "out" if options.miniature else RESULTS))
    out = options.out or out
    if device.type == "cpu" and not options.miniature:
        sys.exit("benchmarks.gpu: no GPU was found; --miniature runs every part on the CPU")
    try:
        for training in plan.trainings.values():
            images.load(training.config.images)
    except DataError as error:
        sys.exit(f"benchmarks.gpu: {error}")
    results = day(plan, device, runs, out, options.minutes, options.note)
    if wrong(results):
        sys.exit("benchmarks.gpu: " + "; ".join(wrong(results)))


if __name__ == "__main__":
    main()
