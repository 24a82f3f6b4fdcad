"""`fit`: one training loop for every process."""

from __future__ import annotations

import copy
import math
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from diffflow_edu.checkpoints import CheckpointError as CheckpointError
from diffflow_edu.checkpoints import fingerprint, resume, save
from diffflow_edu.optimizers import OptimizerName, make_optimizer
from diffflow_edu.parallel import Processes
from diffflow_edu.processes.base import Process, check_particles
from diffflow_edu.processes.ddpm import DDPM
from diffflow_edu.processes.diffflow import DiffFlow
from diffflow_edu.schedules import check_whole

if TYPE_CHECKING:
    from accelerate import Accelerator


class Samplable(Protocol):
    """Anything that draws data, such as a density of `diffflow_edu.toy`."""

    def sample(self, n: int, seed: int | None = None) -> Tensor:
        """Draw (n, *shape) particles, from torch's global generator where seed is None."""
        ...


Data = Samplable | Tensor | np.ndarray | Dataset


@dataclass(repr=False)
class History:
    """What training left in numbers: one entry a step, the warm start first.

    loss: nats, of the batch, before the step. seconds: since the start, resumed time included.
    """

    loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __repr__(self) -> str:
        if not self.loss:
            return "History(no steps)"
        last = float(np.mean(self.loss[-50:]))
        return f"History({len(self.loss)} steps in {self.seconds[-1]:.1f} s, loss {last:.3f} nats)"


class NonFiniteLoss(FloatingPointError):
    """Training stopped at a loss that is not finite; the model holds its last good weights."""


def fit(
    model: Process,
    data: Data,
    steps: int = 2000,
    batch_size: int = 512,
    seed: int = 0,
    lr: float = 5e-3,
    warm_start: int = 0,
    ema: float = 0.99,
    clip: float = 1.0,
    optimizer: OptimizerName = "adam",
    accumulate: int = 1,
    accelerator: Accelerator | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    checkpoint_keep: int = 2,
    callback: Callable[[int, Process], bool | None] | None = None,
) -> History:
    """Train any process on any data; the model ends in eval mode with averaged (EMA) weights.

    data: a density of `toy`, a tensor or array (n, *shape), or a torch Dataset whose items are
        tensors or tuples that begin with one.
    steps, batch_size: steps of the optimizer (lr falls to 0 along a cosine), particles each.
    seed: of every random draw; the global generator is left as it was.
    warm_start: first so many steps of the fixed-drift diffusion inside a DiffFlow. They cost a
        fraction of a joint step and teach the score where the data is; lr stays constant.
    ema: decay of the average of the weights, warmed up as (1 + k)/(10 + k). clip: largest norm
        of the gradient.
    optimizer: "adam", or "muon" for the inner matrices of the networks: in the plane sharper in the
        same time (benchmarks/recipes.py); see `make_optimizer`.
    accumulate: batches whose gradients are averaged for one step, where one large batch does not
        fit into memory.
    accelerator: of Hugging Face's accelerate. It says on which device and in which precision
        ("no" or "bf16") to train, and with how many processes: each draws its own batches of
        batch_size, and their gradients are averaged.
    checkpoint: a file written every `checkpoint_every` steps and at the end. Where it exists,
        training goes on from it, bit for bit on the CPU. The newest `checkpoint_keep` are kept,
        earlier ones as name.previous, and used where the file itself is truncated.
    callback: called as callback(step, model) after each step, with the live weights; where it
        returns True, in any process, training ends with that step, and the checkpoint is written.

    An interrupt ends training early and leaves the averaged weights, too.

    Raises ValueError for arguments that cannot be used, NonFiniteLoss where the loss or its
    gradient stops being finite (the model keeps the average of the weights that were good),
    CheckpointError for a checkpoint that does not belong to this model and run.
    """
    if not isinstance(model, Process):
        raise ValueError(f"model must be a Process such as DiffFlow, got {type(model).__name__}")
    check_whole("steps", steps)
    check_whole("batch_size", batch_size)
    check_whole("warm_start", warm_start, least=0)
    check_whole("checkpoint_every", checkpoint_every)
    check_whole("checkpoint_keep", checkpoint_keep)
    check_whole("seed", seed, least=0)
    if not (isinstance(lr, Real) and math.isfinite(lr) and lr > 0):
        raise ValueError(f"lr must be positive and finite, got {lr!r}")
    if not (isinstance(ema, Real) and 0 <= ema < 1):
        raise ValueError(f"ema must be at least 0 and below 1, got {ema!r}")
    if not (isinstance(clip, Real) and clip > 0):
        raise ValueError(f"clip must be positive, got {clip!r}")
    if not (checkpoint is None or isinstance(checkpoint, (str, Path))):
        raise ValueError(f"checkpoint must be a path, got {checkpoint!r}")
    if not (callback is None or callable(callback)):
        raise ValueError(f"callback must be callable as callback(step, model), got {callback!r}")
    if warm_start and not isinstance(model, DiffFlow):
        raise ValueError(f"warm_start needs a DiffFlow, got {type(model).__name__}")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("model has no parameter that requires a gradient")
    check_whole("accumulate", accumulate)
    processes = Processes(accelerator)
    processes.prepare(model)
    like = parameters[0]
    draw = _batches(data, batch_size, like)

    first_objective = DDPM.of(model) if warm_start else model
    steps_with = make_optimizer(optimizer, model, lr)
    average = copy.deepcopy(model.state_dict())
    history = History()
    total = warm_start + steps
    run = {"steps": steps, "batch_size": batch_size, "seed": seed, "warm_start": warm_start}
    run |= {"lr": lr, "ema": ema, "clip": clip, "model": type(model).__name__}
    run |= {"optimizer": optimizer}
    run |= {"accumulate": accumulate, "processes": processes.count}
    run |= {"schedule": fingerprint(getattr(model, "schedule", None))}
    devices = [like.device] if like.is_cuda else []

    with torch.random.fork_rng(devices=devices):
        _try(model, draw)
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed + 1_000_003 * processes.rank)
        start = 0
        if checkpoint is not None:
            everything = (run, model, average, steps_with, history, like, processes)
            start = resume(Path(checkpoint), *everything)
        earlier = history.seconds[-1] if history.seconds else 0.0
        clock = time.perf_counter()
        model.train()
        first_objective.train()
        done = start
        try:
            with _progress(total, start, shown=processes.rank == 0) as bar:
                for step in range(start, total):
                    steps_with.scale_lr(_cosine(max(0, step - warm_start) / steps))
                    objective = first_objective if step < warm_start else model
                    steps_with.zero_grad()
                    value = 0.0
                    for _ in range(accumulate):
                        with processes.autocast():
                            loss = objective(draw()) / accumulate
                        loss.backward()
                        value += loss.item()
                    value = processes.average(parameters, value)
                    if not math.isfinite(value):
                        raise NonFiniteLoss(_message("loss", value, step, total, lr))
                    if (
                        step > 0
                    ):  # only now are the weights that the last step left known to be good
                        _average(average, model, min(ema, step / (9 + step)))
                    norm = torch.nn.utils.clip_grad_norm_(parameters, clip).item()
                    if not math.isfinite(norm):
                        raise NonFiniteLoss(_message("norm of the gradient", norm, step, total, lr))
                    steps_with.step()

                    history.loss.append(value)
                    history.seconds.append(earlier + time.perf_counter() - clock)
                    if step % 20 == 0 or step == total - 1:
                        mean = np.mean(history.loss[-50:])
                        bar.set_postfix_str(f"loss {mean:.3f} nats", refresh=False)
                    bar.update()
                    ended = callback is not None and processes.any(callback(step, model) is True)
                    done = step + 1
                    due = done % checkpoint_every == 0 or done == total or ended
                    if checkpoint is not None and due:
                        save(Path(checkpoint), done, *everything, checkpoint_keep)
                    if ended:
                        break
        except BaseException:  # an interrupt too: what was learned so far is kept
            _adopt(model, average)
            raise
    _average(average, model, min(ema, done / (9 + done)))
    _adopt(model, average)
    return history


def _message(what: str, value: float, step: int, total: int, lr: float) -> str:
    return (
        f"the {what} became {value} at step {step} of {total}; the model keeps the average of the "
        f"weights before it. Try a smaller lr (now {lr:g}) or check the scale of the data."
    )


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _average(average: dict[str, Tensor], model: Process, decay: float) -> None:
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                average[name].lerp_(value, 1 - decay)
            else:
                average[name].copy_(value)


def _adopt(model: Process, average: dict[str, Tensor]) -> None:
    model.load_state_dict(average)
    model.eval()


def _progress(total: int, start: int, shown: bool = True) -> tqdm:
    """A one-line bar on stdout; DIFFFLOW_EDU_PROGRESS=0 silences it (stored notebooks, CI)."""
    return tqdm(
        total=total,
        initial=start,
        file=sys.stdout,
        disable=not shown or os.environ.get("DIFFFLOW_EDU_PROGRESS") == "0",
        bar_format="{l_bar}{bar:30}| {n_fmt}/{total_fmt}{postfix} [{remaining} left]",
        mininterval=0.2,
    )


# Data --------------------------------------------------------------------------------------------


def _batches(data: Data, batch_size: int, like: Tensor) -> Callable[[], Tensor]:
    """A function that draws one batch, (batch_size, *shape), like the model's parameters."""
    if isinstance(data, np.ndarray) and np.issubdtype(data.dtype, np.number):
        data = torch.from_numpy(np.ascontiguousarray(data, data.dtype.newbyteorder("=")))
    if isinstance(data, Tensor):
        _check_rows(data)
        return _rows_of(data.to(like), batch_size)
    if hasattr(data, "sample"):
        return lambda: data.sample(batch_size).to(like)
    plain = (str, dict, np.ndarray)
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, plain):
        return _items_of(data, batch_size, like)
    raise ValueError(
        "data must be a density with .sample(n), a tensor or array (n, *shape) or a torch Dataset, "
        f"got {type(data).__name__}"
    )


def _try(model: Process, draw: Callable[[], Tensor]) -> None:
    """Draw one batch and put two of its particles through the model, before any work is done."""
    try:
        batch = draw()
    except (AttributeError, LookupError, TypeError, RuntimeError) as error:
        raise ValueError(
            "data must give tensors: a density whose .sample(n) returns (n, *shape), a tensor or "
            f"array, or a Dataset of tensors. Drawing a first batch failed: {error}"
        ) from error
    _check_rows(batch)
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(batch[:2])
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"data of shape {tuple(batch.shape[1:])} a particle does not fit the model: {error}"
        ) from error
    finally:
        model.train(training)


def _check_rows(data: Tensor) -> None:
    if not data.is_floating_point():
        raise ValueError(f"data must be floating point, got {data.dtype}; scale it first")
    check_particles(data, "data")
    if len(data) == 0:
        raise ValueError(f"data must hold at least one particle, got shape {tuple(data.shape)}")
    # In pieces: isfinite makes a copy of what it looks at, and a data set may fill half the memory.
    pieces = data.split(max(1, 2**20 // data[0].numel()))
    bad = sum(int((~piece.isfinite()).flatten(1).any(1).sum()) for piece in pieces)
    if bad:
        raise ValueError(f"data must be finite, got NaN or infinity in {bad} of {len(data)} rows")
    spread = float(data.std()) if len(data) > 1 else 1.0
    if not 0.1 < spread < 10:
        warnings.warn(
            f"data has a standard deviation of {spread:.3g}; the networks expect about 1. "
            "Subtract the mean and divide by one number first.",
            stacklevel=4,
        )


def _rows_of(data: Tensor, batch_size: int) -> Callable[[], Tensor]:
    def draw() -> Tensor:
        rows = torch.randint(len(data), (batch_size,))
        return data[rows.to(data.device)]

    return draw


def _items_of(data: Dataset, batch_size: int, like: Tensor) -> Callable[[], Tensor]:
    if len(data) == 0:
        raise ValueError("data must hold at least one item, got an empty Dataset")

    def draw() -> Tensor:
        items = (data[int(row)] for row in torch.randint(len(data), (batch_size,)))
        rows = [item[0] if isinstance(item, (tuple, list)) else item for item in items]
        batch = torch.stack([torch.as_tensor(row) for row in rows])
        if not batch.is_floating_point():
            raise ValueError(f"data must hold floating point items, got {batch.dtype}; scale it")
        return batch.to(like)

    return draw
