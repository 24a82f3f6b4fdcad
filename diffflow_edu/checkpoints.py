"""Where training stands, in a file: written whole or not at all, earlier ones kept beside it."""

from __future__ import annotations

import glob
import hashlib
import os
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffflow_edu.optimizers import Optimizers
from diffflow_edu.parallel import Processes
from diffflow_edu.processes.base import Process
from diffflow_edu.schedules import Schedule

if TYPE_CHECKING:
    from diffflow_edu.training import History


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: truncated, or of another model or another run."""


REMEDY = "Delete the file or name another one to start anew."


def fingerprint(schedule: Schedule | None) -> str:
    """A schedule in words, and a digest that no other one shares."""
    if schedule is None:
        return "none"
    values = [getattr(schedule, name).numpy().tobytes() for name in ("times", *"khseb")]
    return f"{schedule} {hashlib.sha256(b''.join(values)).hexdigest()[:12]}"


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


def save(
    path: Path,
    step: int,
    run: dict[str, float],
    model: Process,
    average: dict[str, Tensor],
    optimizer: Optimizers,
    history: History,
    like: Tensor,
    processes: Processes,
    keep: int = 2,
) -> None:
    """Write where training stands; the checkpoint that was there becomes the previous one.

    keep: the newest so many stay. Every process calls it, since each has random states of its own;
    the first one writes.
    """
    rng = processes.gather(torch.get_rng_state())
    cuda_rng = processes.gather(torch.cuda.get_rng_state(like.device)) if like.is_cuda else None
    if processes.rank > 0:
        processes.wait()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    state = {
        "run": run,
        "step": step,
        "model": model.state_dict(),
        "average": average,
        "optimizer": optimizer.state_dict(),
        "history": asdict(history),
        "rng": rng,
        "cuda_rng": cuda_rng,
    }
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())  # on the disk before the name says so
    if keep > 1 and path.exists():
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


def resume(
    path: Path,
    run: dict[str, float],
    model: Process,
    average: dict[str, Tensor],
    optimizer: Optimizers,
    history: History,
    like: Tensor,
    processes: Processes,
) -> int:
    """Put everything back as it was; returns the step to go on from, 0 without a checkpoint."""
    found = _read(path)
    if found is None:
        return 0
    path, state = found
    parts = {"run", "step", "model", "average", "optimizer", "history", "rng", "cuda_rng"}
    if not isinstance(state, dict) or state.keys() != parts:
        raise CheckpointError(f"checkpoint {path} was not written by fit. {REMEDY}")
    ours = {name: (*value.shape, value.dtype) for name, value in model.state_dict().items()}
    theirs = {name: (*value.shape, value.dtype) for name, value in state["model"].items()}
    if ours != theirs:
        name = next(n for n in {**ours, **theirs} if ours.get(n) != theirs.get(n))
        raise CheckpointError(
            f"checkpoint {path} is of another architecture: {name} is {theirs.get(name, 'absent')} "
            f"there and {ours.get(name, 'absent')} in this model. {REMEDY}"
        )
    differs = [
        f"{k}={state['run'].get(k)} there, {v} here"
        for k, v in run.items()
        if state["run"].get(k) != v
    ]
    if differs:
        raise CheckpointError(
            f"checkpoint {path} is of another run ({'; '.join(differs)}). {REMEDY}"
        )
    model.load_state_dict(state["model"])
    for name, value in state["average"].items():
        average[name].copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    history.loss[:] = state["history"]["loss"]
    history.seconds[:] = state["history"]["seconds"]
    # A copy: torch crashes on a state that does not begin its storage.
    torch.set_rng_state(state["rng"][processes.rank].clone())
    if like.is_cuda and state["cuda_rng"] is not None:
        torch.cuda.set_rng_state(state["cuda_rng"][processes.rank].clone(), like.device)
    return state["step"]
