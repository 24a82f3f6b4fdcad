"""`fit`: one training loop for every process."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from diffflow_edu.checkpoints import CheckpointError as CheckpointError
from diffflow_edu.checkpoints import Training, fingerprint, resume, save, settings
from diffflow_edu.devices import fork_rng
from diffflow_edu.files import write_new
from diffflow_edu.fit_data import Data, Source, check_fits, doubts, understood
from diffflow_edu.fit_data import standardise as standardise_by
from diffflow_edu.labels import Labels
from diffflow_edu.learnables import check_learnables
from diffflow_edu.optimizers import OptimizerName, make_optimizer
from diffflow_edu.parallel import Processes
from diffflow_edu.processes.base import Process
from diffflow_edu.processes.cnf import CNF
from diffflow_edu.processes.ddpm import DDPM
from diffflow_edu.processes.diffflow import DiffFlow
from diffflow_edu.processes.langevin import NCSN
from diffflow_edu.processes.ode import SolverError
from diffflow_edu.schedules import check_positive, check_seed, check_whole, shortly
from diffflow_edu.stopping import Stop, Stopped, asking, way_back

if TYPE_CHECKING:
    from accelerate import Accelerator

Callback = Callable[[int, Process], Any] | Callable[[int, Process, float], Any]

CHECKED = 256
"""Particles on which a loss by a few steps is compared with the bound, at the end of training."""

EVALUATIONS = 1000
"""Of the field, for that comparison: a field that needs more is told of."""

APART = 0.1
"""Nats that may lie between the two without a warning."""

EARLY = (1, 10, 100)
"""Steps after which a first training leaves a checkpoint, however seldom it is to leave one."""

SILENT = 10
"""Joint steps after which a learnable that got no gradient in any of them is named."""

_ONE_AT_A_TIME = threading.RLock()
"""Held while training draws from torch's global generator, which all threads share."""


@dataclass(repr=False)
class History:
    """What training left in numbers: one entry a step, the warm start first.

    loss: of the batch, before the step; what was minimised, which `measure` names.
    seconds: since the start, resumed time included.
    validation_steps, validation_loss: the looks at the validation data: after how many steps, and
    the mean bound there, in nats, of the averaged weights in eval mode (`loss` of a process without
    a bound). best_step: the one of them whose weights the model ended with.
    measure: the unit of `loss`, and how it was computed where `bound` computes it otherwise.
    bound, rough_bound: where that is so, in a `CNF`, the mean bound in nats of the model that
    training left, on `CHECKED` particles of the data, by its solver, and by the few steps that the
    loss took. NaN where the solver gave up. A loss far below `bound` is not to be believed.
    """

    loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    validation_steps: list[int] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    best_step: int | None = None
    measure: str = "nats"
    bound: float | None = None
    rough_bound: float | None = None

    def to_csv(self, path: str | Path) -> Path:
        """Write a line a step: step, loss, seconds, validation_loss (empty where none was taken).

        Steps count from 1. Nothing is overwritten: where the name is taken, it is name-2, name-3,
        and so on. Returns the path of the file.
        """
        looks = dict(zip(self.validation_steps, self.validation_loss, strict=True))
        lines = ["step,loss,seconds,validation_loss"]
        for step, (loss, seconds) in enumerate(zip(self.loss, self.seconds, strict=True), 1):
            lines.append(f"{step},{loss!r},{seconds:.3f},{looks.get(step, '')}")
        return write_new(Path(path), "\n".join(lines) + "\n")

    def __repr__(self) -> str:
        if not self.loss:
            return "History(no steps)"
        last = f"loss {float(np.mean(self.loss[-50:])):.3f} {self.measure}".rstrip()
        looks = ""
        if self.best_step is not None:
            best = self.validation_loss[self.validation_steps.index(self.best_step)]
            looks = f", validation {best:.3f} at step {self.best_step}"
        if self.bound is not None:
            looks += f", bound of the model {self.bound:.3f} nats"
        return f"History({len(self.loss)} steps in {self.seconds[-1]:.1f} s, {last}{looks})"


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
    callback: Callback | None = None,
    validation: Data | None = None,
    validate_every: int = 100,
    patience: int | None = None,
    standardise: bool = False,
    path_steps: int | None = None,
    stop: Stop | None = None,
    labels: Labels | Literal[True] | None = None,
    label_dropout: float = 0.1,
) -> History:
    """Train any process on any data; the model ends in eval mode with averaged (EMA) weights.

    data: a density of `toy`, a tensor or array (n, *shape), a frame of numbers, or a torch Dataset
        whose items are tensors or tuples that begin with one. Odd centres and scales are warned of.
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
    checkpoint: a file written every `checkpoint_every` steps and at the end; until the first of
        these, after 1, 10 and 100 steps. Where it exists, training goes on from it, bit for bit on
        the CPU, if data and settings are the same. A finished training goes on where more `steps`
        are asked for: with its optimizer, and along a new cosine over the steps added, so not as
        one that was longer from the start. The newest `checkpoint_keep` are kept, earlier ones as
        name.previous, and used where the file itself is truncated.
    callback: called as callback(step, model) after each step, with the live weights, or as
        callback(step, model, loss) where it takes three arguments, or one by the name of loss.
        Where it returns True, 1, torch.tensor(True) or the like, in any process, training ends
        with that step, and the checkpoint is written. It may look without changing the run:
        random draws, `model.eval()` and requires_grad are undone after it. Curves for TensorBoard:
            writer = torch.utils.tensorboard.SummaryWriter("runs/rings")
            callback = lambda step, model, loss: writer.add_scalar("loss", loss, step)
    validation: data kept from training. Every `validate_every` steps and at the end the averaged
        weights are measured on all of them (a density: 10 000 draws), with the same noise each
        time, and the model ends with the best.
    patience: training ends after so many looks in a row that found nothing better.
    standardise: give the model mean and scale of the data before training, if it has none, so that
        it may keep its own units; see `Process.set_standardisation`.
    path_steps: of a DiffFlow, the backward steps of a path that enter its loss, by default all N;
        see `DiffFlow.loss`.
    stop: called without arguments before every evaluation of a network, and of its larger parts.
        Where it returns true, in any process, training ends there, and the checkpoint is written:
        the step under way is given up and leaves no trace, so that a resumed training is the one
        that was never stopped.
    labels: of a model with classes, the label of each particle: (n,) whole numbers beside a tensor
        of data, or True for data that have them: a Dataset of pairs (x, label), `images.Images`, a
        density of `toy` (its modes), or whatever has .sample_labelled(n). Validation data then must
        have them, too. The model learns p(x | label) and, since the label of a share
        `label_dropout` of every batch is left out, p(x).

    `model.history` is what is returned, from the first step on. An interrupt ends training early
    and leaves it, with the averaged weights, or the best ones. Threads train one after another,
    since they share torch's global generator.

    Raises ValueError for arguments that cannot be used and for learnables that the model does not
    know of, NonFiniteLoss where the loss or its gradient stops being finite (the model keeps the
    average of the weights that were good), CheckpointError for a checkpoint that does not belong to
    this model, run and data.
    """
    _check_model(model, warm_start)
    _check_numbers(steps, batch_size, seed, lr, warm_start, ema, clip, accumulate)
    options = _checked_path_steps(path_steps, model)
    _check_files(checkpoint, checkpoint_every, checkpoint_keep)
    tell = _checked_callback(callback)
    if not (stop is None or callable(stop)):
        raise ValueError(f"stop must be callable as stop(), got {shortly(stop)}")
    _check_validation(validation, validate_every, patience)
    _check_labels(labels, label_dropout, model)
    processes = Processes(accelerator)
    with _ONE_AT_A_TIME, torch.enable_grad():
        processes.prepare(model)
        parameters = [p for p in model.parameters() if p.requires_grad]
        like = next(iter(parameters or model.parameters()), torch.empty(0))
        source, held = understood(data, like, "data", labels, model.classes), None
        if validation is not None:
            theirs = None if labels is None else True
            held = understood(validation, like, "validation", theirs, model.classes)
        with fork_rng(like.device):
            torch.manual_seed(seed)
            said = _look_at(source, held, model, batch_size, standardise)
            if standardise:  # by the first process's data, where each has its own
                processes.share(model)
            torch.manual_seed(seed + 1_000_003 * processes.rank)
            known = settings(model)
            batch = check_fits(source, model, batch_size)
            check_learnables(model, batch[:2])
            said += doubts(source, model, batch)
            # What a pass changes, such as a count of evaluations, is no setting.
            known = dict(known.items() & settings(model).items())
        if not parameters:
            raise ValueError("model has no parameter that requires a gradient")
        for sentence in said:
            warnings.warn(sentence, stacklevel=2)

        first_objective = DDPM.of(model) if warm_start else model
        steps_with = make_optimizer(optimizer, model, lr)
        history = History(measure=_measure(model))
        run = {"steps": steps, "batch_size": batch_size, "seed": seed, "warm_start": warm_start}
        run |= {"lr": lr, "ema": ema, "clip": clip, "model": type(model).__name__}
        run |= {"optimizer": optimizer, "accumulate": accumulate, "processes": processes.count}
        run |= options
        run |= {} if labels is None else {"label_dropout": label_dropout}
        run |= {"schedule": fingerprint(getattr(model, "schedule", None))}
        training = Training(
            run, model, copy.deepcopy(model.state_dict()), steps_with, history, [steps], like,
            processes,
        )  # fmt: skip
        total = warm_start + steps

        with fork_rng(like.device):
            start = 0
            watch = None if held is None else _Watch(held, training, validate_every, patience, seed)
            if checkpoint is not None:
                run |= {"data": source.fingerprint(), "precision": processes.precision}
                run |= watch.settings() if watch else {}
                run |= known
                start = resume(Path(checkpoint), training)
            if start == 0:
                torch.manual_seed(seed + 1_000_003 * processes.rank)
            model.history = history
            earlier = history.seconds[-1] if history.seconds else 0.0
            clock = time.perf_counter()
            model.train()
            first_objective.train()
            done = saved = start
            early = False  # the last checkpoint of this call was an early one
            unheard = _Unheard(model)
            try:
                with _progress(total, start, shown=processes.rank == 0) as bar:
                    for step in range(start, total):
                        if watch and watch.patience_is_over():
                            break
                        warm = step < warm_start
                        objective = first_objective if warm else partial(model, **options)
                        steps_with.zero_grad()
                        value, given_up = 0.0, False
                        go_back = None if stop is None else way_back(model, like.device)
                        try:
                            with asking(model, stop):
                                for _ in range(accumulate):
                                    with processes.autocast():
                                        x, told = _batch(source, batch_size, label_dropout)
                                        loss = objective(x, **told) / accumulate
                                    loss.backward()
                                    value += loss.item()
                        except Stopped:
                            given_up = True
                        if stop is not None and processes.any(given_up):
                            go_back()
                            if checkpoint is not None and done > saved:
                                save(Path(checkpoint), done, training, checkpoint_keep, early)
                            break
                        value = processes.average(parameters, value)
                        if not math.isfinite(value):
                            raise NonFiniteLoss(_message("loss", value, step, total, lr))
                        if step > 0:  # only now are the weights of the last step known to be good
                            _average(training.average, model, _decay(ema, step))
                        if step >= warm_start:
                            unheard.listen(step - warm_start)
                        norm = torch.nn.utils.clip_grad_norm_(parameters, clip).item()
                        if not math.isfinite(norm):
                            what = "norm of the gradient"
                            raise NonFiniteLoss(_message(what, norm, step, total, lr))
                        steps_with.scale_lr(_lr_factor(step - warm_start, training.legs))
                        steps_with.step()

                        history.loss.append(value)
                        history.seconds.append(earlier + time.perf_counter() - clock)
                        if step % 20 == 0 or step == total - 1:
                            mean = np.mean(history.loss[-50:])
                            bar.set_postfix_str(f"loss {mean:.3f} {history.measure}", refresh=False)
                        bar.update()
                        with _looking(model, first_objective, like.device):
                            ended = processes.any(tell(step, model, value))
                        done = step + 1
                        if watch and watch.due(done, total):
                            watch.look(done, _decay(ema, done))
                        due = done % checkpoint_every == 0 or done == total or ended
                        due = due or (watch is not None and watch.patience_is_over())
                        soon = done in EARLY and done < checkpoint_every
                        if checkpoint is not None and (due or soon):
                            save(Path(checkpoint), done, training, checkpoint_keep, early)
                            saved, early = done, not due
                        if ended:
                            break
            except BaseException:  # an interrupt too: what was learned so far is kept
                _adopt(model, training.best or training.average)
                raise
        _average(training.average, model, _decay(ema, done))
        _adopt(model, training.best or training.average)
        said = unheard.words()
        if isinstance(model, CNF) and history.measure != "nats":
            with fork_rng(like.device):
                torch.manual_seed(seed)
                said += _compare(model, source, history)
        for sentence in said if processes.rank == 0 else []:
            warnings.warn(sentence, stacklevel=2)
        return history


@torch.no_grad()
def _compare(model: CNF, source: Source, history: History) -> list[str]:
    """Measure `History.bound` and `rough_bound`; what is to be said of them."""
    x, solver = source.draw(CHECKED), model.solver
    history.rough_bound = float(model.rough_bound(x, seed=0).mean())
    if solver.adaptive:
        most = min(EVALUATIONS, solver.max_evaluations)
        model.solver = dataclasses.replace(solver, max_evaluations=most)
    try:
        history.bound = float(model.bound(x, seed=0).mean())
    except SolverError as error:
        history.bound = math.nan
        return [f"the loss of this training cannot be compared with the model's bound: {error}"]
    finally:
        model.solver = solver
    if history.bound - history.rough_bound <= APART:
        return []
    return [
        f"the mean of −log p is {history.bound:.3f} nats, where the {model.train_steps} steps of "
        f"rk4 that this training took see {history.rough_bound:.3f}: the field bends faster than "
        f"they can follow, and the losses in History are too low. Take more train_steps (now "
        f"{model.train_steps}), a smaller lr, or train_steps=None, through the solver."
    ]


class _Unheard:
    """Learnables that got no gradient, or none but zeros, in the first joint steps."""

    def __init__(self, model: Process) -> None:
        self.left = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.steps = 0

    def listen(self, step: int) -> None:
        """Look at the gradients of a step, the first ones only."""
        if step >= SILENT or not self.left:
            return
        self.steps += 1
        self.left = {n: p for n, p in self.left.items() if p.grad is None or not p.grad.any()}

    def words(self) -> list[str]:
        """What is to be said."""
        # A layer that starts at zero lets nothing through in the first steps.
        few = self.steps < SILENT
        names = [name for name, p in self.left.items() if p.grad is None or not few]
        if not names or not self.steps:
            return []
        count = sum(self.left[name].numel() for name in names)
        shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        return [
            f"{count} learnable numbers of the model got no gradient in its first {self.steps} "
            f"steps, so they stayed what they were: {shown}. Does the loss depend on them? Freeze "
            "what is to stay with requires_grad_(False)."
        ]


def _batch(source: Source, n: int, dropout: float) -> tuple[Tensor, dict[str, Tensor]]:
    """n particles and, as the loss takes it, the label of each; "none" for a share of them."""
    x, label = source.batch(n)
    if label is None:
        return x, {}
    dropped = torch.rand(n) < dropout
    return x, {"label": label.masked_fill(dropped.to(label.device), source.classes)}


def _message(what: str, value: float, step: int, total: int, lr: float) -> str:
    return (
        f"the {what} became {value} at step {step} of {total}; the model keeps the average of the "
        f"weights before it. Try a smaller lr (now {lr:g}) or check the scale of the data."
    )


def _lr_factor(step: int, legs: list[int]) -> float:
    """1 in the warm start, whose steps are negative, then a cosine from 1 to 0 along each leg."""
    end = next(end for end in legs if max(step, 0) < end)
    begin = max((other for other in legs if other < end), default=0)
    return 0.5 * (1 + math.cos(math.pi * max(0, step - begin) / (end - begin)))


def _decay(ema: float, step: int) -> float:
    return min(ema, step / (9 + step))


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


def _measure(model: Process) -> str:
    """The unit of a model's loss, and how it was computed where `bound` computes it otherwise."""
    if isinstance(model, NCSN):
        return "(no unit)"
    if isinstance(model, CNF):
        rough = [] if model.train_steps is None else [f"by {model.train_steps} steps of rk4"]
        if model.kinetic or model.jacobian:
            rough.append("with its penalties")
        return " ".join(["nats", *rough])
    return "nats"


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


# Before the first step ----------------------------------------------------------------------------


def _check_model(model: Process, warm_start: int) -> None:
    if not isinstance(model, Process):
        raise ValueError(f"model must be a Process such as DiffFlow, got {type(model).__name__}")
    check_whole("warm_start", warm_start, least=0)
    if warm_start and not isinstance(model, DiffFlow):
        raise ValueError(f"warm_start needs a DiffFlow, got {type(model).__name__}")


def _checked_path_steps(path_steps: int | None, model: Process) -> dict[str, int]:
    """The options of the loss."""
    if path_steps is None:
        return {}
    check_whole("path_steps", path_steps)
    if not isinstance(model, DiffFlow) or isinstance(model, DDPM):
        raise ValueError(f"path_steps is for DiffFlow, got a {type(model).__name__}")
    if path_steps > model.schedule.steps:
        raise ValueError(
            f"path_steps must be at most N = {model.schedule.steps}, got {shortly(path_steps)}"
        )
    return {"path_steps": path_steps}


def _check_numbers(
    steps: int,
    batch_size: int,
    seed: int,
    lr: float,
    warm_start: int,
    ema: float,
    clip: float,
    accumulate: int,
) -> None:
    check_whole("steps", steps)
    check_whole("batch_size", batch_size)
    check_whole("accumulate", accumulate)
    check_seed(seed)
    check_positive(lr=lr)
    if not (isinstance(ema, Real) and 0 <= ema < 1):
        raise ValueError(f"ema must be at least 0 and below 1, got {shortly(ema)}")
    if not (isinstance(clip, Real) and clip > 0):
        raise ValueError(f"clip must be positive, got {shortly(clip)}")


def _check_files(checkpoint: str | Path | None, every: int, keep: int) -> None:
    check_whole("checkpoint_every", every)
    check_whole("checkpoint_keep", keep)
    if not (checkpoint is None or isinstance(checkpoint, (str, Path))):
        raise ValueError(f"checkpoint must be a path, got {shortly(checkpoint)}")


def _check_validation(validation: Data | None, every: int, patience: int | None) -> None:
    check_whole("validate_every", every)
    if patience is not None:
        check_whole("patience", patience)
        if validation is None:
            raise ValueError("patience needs validation data, got validation=None")


def _check_labels(labels: Any, dropout: float, model: Process) -> None:
    if not (isinstance(dropout, Real) and 0 <= dropout <= 1):
        raise ValueError(f"label_dropout must be from 0 to 1, got {shortly(dropout)}")
    if labels is False:
        raise ValueError("labels must be True, None or the label of each particle, got False")
    if labels is not None and not model.classes:
        raise ValueError(
            "labels are for a model with classes, such as DiffFlow.mlp(…, classes=10); this "
            f"{type(model).__name__} has none"
        )


def _look_at(
    source: Source, held: Source | None, model: Process, batch_size: int, standardise: bool
) -> list[str]:
    """Standardise if asked to, and see whether the validation data fit; what is to be said."""
    if not isinstance(standardise, bool):
        raise ValueError(f"standardise must be True or False, got {shortly(standardise)}")
    said = []
    if standardise:
        check_fits(source, model, batch_size)
        said = [sentence for sentence in [standardise_by(model, source)] if sentence]
    if held is not None:
        check_fits(held, model, batch_size)
    return said


# Callbacks ----------------------------------------------------------------------------------------


def _checked_callback(callback: Callback | None) -> Callable[[int, Process, float], bool]:
    """The callback as one of three arguments that returns whether to stop."""
    if callback is None:
        return lambda step, model, loss: False
    if not callable(callback):
        raise ValueError(
            f"callback must be callable as callback(step, model), got {shortly(callback)}"
        )
    wanted = _wanted(callback)

    def tell(step: int, model: Process, loss: float) -> bool:
        if wanted == "loss":
            return _truth(callback(step, model, loss=loss))
        return _truth(callback(step, model, loss) if wanted == 3 else callback(step, model))

    return tell


def _wanted(callback: Callback) -> int | str:
    """How many arguments it takes: 2, 3, or two and "loss" by name."""
    try:
        parameters = inspect.signature(callback).parameters.values()
    except (TypeError, ValueError):  # some callables of other languages do not tell
        return 2
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in places)
    needed += sum(p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name != "loss"
                  for p in parameters)  # fmt: skip
    open_end = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if needed > 3 or (len(places) < 2 and not open_end):
        raise ValueError(
            "callback must be callable as callback(step, model) or callback(step, model, loss), "
            f"got one that takes {inspect.signature(callback)}"
        )
    if needed == 3:
        return 3
    named = any(p.name == "loss" and p.kind is not p.POSITIONAL_ONLY for p in parameters)
    return "loss" if named else 2


def _truth(answer: Any) -> bool:
    """Whether what a callback returned says stop: by its truth, where it has one of its own.

    A tuple, a list or text has none: such are what a lambda leaves that only looks.
    """
    if not hasattr(type(answer), "__bool__"):
        return False
    try:
        return bool(answer)
    except (TypeError, ValueError, RuntimeError) as error:
        shape = f" of shape {tuple(answer.shape)}" if hasattr(answer, "shape") else ""
        raise ValueError(
            "callback must return True to end training, and None or False to go on, "
            f"got {type(answer).__name__}{shape}, which is neither true nor false"
        ) from error


@contextmanager
def _looking(model: Process, objective: Process, device: torch.device) -> Iterator[None]:
    """Afterwards modes, requires_grad and random states are what they were."""
    modules: dict[nn.Module, bool] = {m: m.training for m in (*model.modules(), objective)}
    learned = [(p, p.requires_grad) for p in model.parameters()]
    with fork_rng(device):
        yield
    for module, training in modules.items():
        module.training = training
    for parameter, required in learned:
        parameter.requires_grad_(required)


# Validation ---------------------------------------------------------------------------------------


class _Watch:
    """Looks at validation data with the averaged weights, and keeps the best of them."""

    def __init__(
        self, held: Source, training: Training, every: int, patience: int | None, seed: int
    ) -> None:
        self.held, self.training, self.every, self.patience = held, training, every, patience
        self.seed = seed
        torch.manual_seed(seed)
        self.rows, self.labels = held.all()

    def settings(self) -> dict[str, Any]:
        """Of a checkpoint."""
        validation = self.held.fingerprint()
        patience = self.patience or "none"
        return {"validation": validation, "validate_every": self.every, "patience": patience}

    def due(self, done: int, total: int) -> bool:
        """Whether to look after so many steps."""
        return done % self.every == 0 or done == total

    @torch.no_grad()
    def look(self, done: int, decay: float) -> None:
        """Measure what training would leave if it ended now."""
        training, model, history = self.training, self.training.model, self.training.history
        live, ours = copy.deepcopy(model.state_dict()), copy.deepcopy(training.average)
        _average(ours, model, decay)
        with _looking(model, model, training.like.device):
            torch.manual_seed(self.seed)
            _adopt(model, ours)
            try:
                value = self._mean(model)
            finally:
                model.load_state_dict(live)
        value = float(training.processes.gather(torch.tensor(value))[0])  # all must agree
        better = math.isfinite(value) and value < min(
            (v for v in history.validation_loss if math.isfinite(v)), default=math.inf
        )
        history.validation_steps.append(done)
        history.validation_loss.append(value)
        if better:
            history.best_step, training.best = done, ours

    def _mean(self, model: Process) -> float:
        total, size = 0.0, self.training.run["batch_size"]
        for first in range(0, len(self.rows), size):
            part = self.rows[first : first + size]
            told = {} if self.labels is None else {"label": self.labels[first : first + size]}
            try:
                total += float(model.bound(part, **told).sum())
            except NotImplementedError:
                total += float(model.loss(part, **told)) * len(part)
        return total / len(self.rows)

    def patience_is_over(self) -> bool:
        """Whether so many looks in this leg of the training found nothing better."""
        if self.patience is None:
            return False
        legs, warm_start = self.training.legs, self.training.run["warm_start"]
        begin = warm_start + legs[-2] if len(legs) > 1 else 0
        best = max(self.training.history.best_step or 0, begin)
        return sum(s > best for s in self.training.history.validation_steps) >= self.patience
