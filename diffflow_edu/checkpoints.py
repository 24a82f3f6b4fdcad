"""Where training stands, in a file: written whole or not at all, earlier ones kept beside it."""

from __future__ import annotations

import glob
import hashlib
import os
import types
import warnings
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffflow_edu.devices import rng_state, set_rng_state
from diffflow_edu.fit_data import digest
from diffflow_edu.optimizers import Optimizers
from diffflow_edu.parallel import Processes
from diffflow_edu.processes.base import Process
from diffflow_edu.schedules import Schedule

if TYPE_CHECKING:
    from diffflow_edu.training import History


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: truncated, or of another model or another run."""


REMEDY = "Delete the file or name another one to start anew."


@dataclass
class Training:
    """All that training changes, which a checkpoint holds, and what it was asked for.

    run: by name, whatever decides what comes out: plain numbers and text. legs: the joint steps
    at whose end training was to be finished; a finished one that is extended has several.
    best: the averaged weights that the best look at the validation data saw.
    """

    run: dict[str, Any]
    model: Process
    average: dict[str, Tensor]
    optimizer: Optimizers
    history: History
    legs: list[int]
    like: Tensor
    processes: Processes
    best: dict[str, Tensor] | None = None


def fingerprint(schedule: Schedule | None) -> str:
    """A schedule in words, and a digest that no other one shares."""
    if schedule is None:
        return "none"
    values = [getattr(schedule, name).numpy().tobytes() for name in ("times", *"khseb")]
    return f"{schedule} {hashlib.sha256(b''.join(values)).hexdigest()[:12]}"


NOT_SETTINGS = {"training", "evaluations", "taught", "history", "card"}
"""Attributes of models that say nothing about how they are trained."""


def settings(model: nn.Module) -> dict[str, str]:
    """What makes a model beside its weights, by name: classes, plain attributes, fixed buffers."""
    found = {}
    for path, module in model.named_modules():
        path = f"model.{path}" if path else "model"
        found[path] = type(module).__qualname__
        for name, value in vars(module).items():
            if name.startswith("_") or name in NOT_SETTINGS:
                continue
            told = _told(value)
            if told is not None:
                found[f"{path}.{name}"] = told
        for name in module._non_persistent_buffers_set:
            found[f"{path}.{name}"] = digest(getattr(module, name))
        for name, parameter in module._parameters.items():
            if parameter is not None and not parameter.requires_grad:
                found[f"{path}.{name}"] = "frozen"
    return found


def _told(value: Any) -> str | None:
    """An attribute in words that are the same the next day; None where it has none."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    if isinstance(value, Schedule):
        return fingerprint(value)
    if isinstance(value, (tuple, list)):
        parts = [_told(part) for part in value]
        return None if None in parts else f"({', '.join(parts)})"
    if isinstance(value, Tensor):
        return digest(value)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: _told(getattr(value, field.name)) for field in fields(value)}
        return f"{type(value).__name__}({', '.join(f'{k}={v}' for k, v in parts.items())})"
    if isinstance(value, types.FunctionType):
        return value.__qualname__
    return None


def previous_of(path: Path, back: int = 1) -> Path:
    """Where the checkpoint before the latest is kept, or an earlier one, so many back.

    >>> [previous_of(Path("run.pt"), back).name for back in (1, 2, 3)]
    ['run.pt.previous', 'run.pt.previous-2', 'run.pt.previous-3']
    """
    return path.with_name(f"{path.name}.previous" + (f"-{back}" if back > 1 else ""))


def _all_previous_of(path: Path) -> list[Path]:
    """The earlier checkpoints that are there, newest first."""
    others = path.parent.glob(f"{glob.escape(path.name)}.previous-*")
    numbers = (file.name.rsplit("-", 1)[1] for file in others)
    back = [1, *sorted(int(number) for number in numbers if number.isdecimal())]
    return [file for file in (previous_of(path, n) for n in back) if file.exists()]


def save(path: Path, step: int, training: Training, keep: int = 2, replaces: bool = False) -> None:
    """Write where training stands; the checkpoint that was there becomes the previous one.

    keep: the newest so many stay. replaces: the one that was there goes instead. Every process
    calls it, since each has random states of its own; the first one writes.
    """
    like, processes = training.like, training.processes
    rng = processes.gather(torch.get_rng_state())
    here = rng_state(like.device)
    device_rng = None if here is None else processes.gather(here)
    if processes.rank > 0:
        processes.wait()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    state = {
        "run": training.run,
        "step": step,
        "legs": training.legs,
        "model": training.model.state_dict(),
        "average": training.average,
        "best": training.best,
        "optimizer": training.optimizer.state_dict(),
        "history": asdict(training.history),
        "rng": rng,
        "cuda_rng": device_rng,
    }
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())  # on the disk before the name says so
    if keep > 1 and path.exists() and not replaces:
        for back in range(keep - 1, 1, -1):
            if previous_of(path, back - 1).exists():
                previous_of(path, back - 1).replace(previous_of(path, back))
        path.replace(previous_of(path))
    temporary.replace(path)
    for old in _all_previous_of(path)[keep - 1 :]:  # where more were kept before
        old.unlink()
    processes.wait()


def _read(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that can be read, and its file; None where none was ever written."""
    files = [file for file in (path, *_all_previous_of(path)) if file.exists()]
    for number, file in enumerate(files):
        try:
            return file, torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            problem = f"checkpoint {file} cannot be read, it may be truncated ({error})."
            if number == len(files) - 1:
                raise CheckpointError(f"{problem} {REMEDY}") from error
            file.replace(file.with_name(file.name + ".bad"))  # not to be kept as the previous one
            warnings.warn(f"{problem} Going on from {files[number + 1]}.", stacklevel=4)
    return None


def resume(path: Path, training: Training) -> int:
    """Put everything back as it was; returns the step to go on from, 0 without a checkpoint.

    A finished training goes on where more steps are asked for, as another leg.
    """
    found = _read(path)
    if found is None:
        return 0
    path, state = found
    run, model, like = training.run, training.model, training.like
    parts = {"run", "step", "model", "average", "optimizer", "history", "rng", "cuda_rng"}
    if not isinstance(state, dict) or state.keys() - {"legs", "best"} != parts:
        raise CheckpointError(f"checkpoint {path} was not written by fit. {REMEDY}")
    ours = {name: (*value.shape, value.dtype) for name, value in model.state_dict().items()}
    theirs = {name: (*value.shape, value.dtype) for name, value in state["model"].items()}
    if ours != theirs:
        name = next(n for n in {**ours, **theirs} if ours.get(n) != theirs.get(n))
        raise CheckpointError(
            f"checkpoint {path} is of another architecture: {name} is {theirs.get(name, 'absent')} "
            f"there and {ours.get(name, 'absent')} in this model. {REMEDY}"
        )
    training.legs[:] = _legs(path, state, run)
    there = state["run"]
    old = "data" not in there
    names = [name for name in {**run, **there} if name in there or not old]
    differs = [
        f"{name}={there.get(name, 'absent')} there, {run.get(name, 'absent')} here"
        for name in names
        if name != "steps" and there.get(name) != run.get(name)
    ]
    if differs:
        more = f" and {len(differs) - 4} more" if len(differs) > 4 else ""
        raise CheckpointError(
            f"checkpoint {path} is of another run ({'; '.join(differs[:4])}{more}). {REMEDY}"
        )
    if old:
        warnings.warn(
            f"checkpoint {path} was written by an earlier version, which did not record data and "
            "settings: whether these are the same cannot be told.",
            stacklevel=3,
        )
    model.load_state_dict(state["model"])
    for name, value in state["average"].items():
        training.average[name].copy_(value)
    if state.get("best") is not None:
        training.best = {
            name: value.to(training.average[name].device) for name, value in state["best"].items()
        }
    training.optimizer.load_state_dict(state["optimizer"])
    for name, value in state["history"].items():
        setattr(training.history, name, value)
    # A copy: torch crashes on a state that does not begin its storage.
    torch.set_rng_state(state["rng"][training.processes.rank].clone())
    if like.device.type != "cpu" and state["cuda_rng"] is not None:
        set_rng_state(state["cuda_rng"][training.processes.rank].clone(), like.device)
    return state["step"]


def _legs(path: Path, state: dict[str, Any], run: dict[str, Any]) -> list[int]:
    """Where each leg of the training ends, in joint steps, the one that is asked for last."""
    legs = state.get("legs") or [state["run"]["steps"]]
    steps, done = run["steps"], state["step"] - state["run"]["warm_start"]
    if steps == legs[-1]:
        return legs
    if steps > legs[-1] == done:
        return [*legs, steps]
    raise CheckpointError(
        f"checkpoint {path} is of another run (steps={legs[-1]} there, {steps} here). Only a "
        f"finished one can be extended, to more steps; it stands at step {max(done, 0)}. {REMEDY}"
    )
