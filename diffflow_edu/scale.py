"""Training on images that takes minutes to hours: one small config, resumable, on any device.

A run lives in a folder:

    config.json               what was asked for; the same folder takes no other
    stage-0.pt                where training stands, with stage-0.pt.previous and so on
    stage-0.safetensors       the model after a stage of training; each stage has its own N
    model.safetensors         the model after the last stage, and best.safetensors the best so far
    samples/…png, logs/       pictures and TensorBoard logs made on the way
    lock                      held by the process that trains here, if any

Training may be stopped at any time, by Ctrl-C, SIGTERM or `minutes`; the same command goes on. It
ends within a part of one network's evaluation: a training step under way is given up and leaves no
trace. With more values of N at the end of `steps`, and as many updates a value, a run goes on past
its last stage.
"""

from __future__ import annotations

import io
import json
import math
import platform
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from diffflow_edu import images, zoo
from diffflow_edu.devices import fork_rng
from diffflow_edu.files import to_json, write_whole
from diffflow_edu.noise_range import NoiseRange, look_at_end, noise_range
from diffflow_edu.processes.base import STANDARDISATION, Process
from diffflow_edu.processes.ddpm import DDPM
from diffflow_edu.processes.diffflow import DiffFlow
from diffflow_edu.schedules import Schedule, check_positive, check_seed, check_whole, shortly
from diffflow_edu.stopping import Stopped, asking
from diffflow_edu.training import fit
from diffflow_edu.unet import UNet, find_size

if TYPE_CHECKING:
    from accelerate import Accelerator

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None

HELD = 500
"""Training pictures kept from training, for the looks at checkpoints."""
END = 1500
"""Pictures whose x_T is compared with noise before training."""
CALIBRATION = 500
"""Pictures that the backward noise is set by, at the end of a stage."""
ROW = 10
"""Samples of a class, in a row of the sheet of a model by class."""


@dataclass(frozen=True)
class Config:
    """A run, in the numbers that make it. Everything else follows."""

    images: str = "mnist"
    """a set of pictures: mnist, mnist14, fashion_mnist, cifar10, digits or patches"""
    kind: Literal["diffflow", "ddpm"] = "diffflow"
    """diffflow learns the drift, ddpm leaves it at zero"""
    size: str = "small"
    """of the U-Net (DiffFlow has two of them), a name of `unet.SIZES`"""
    drift_size: str | None = None
    """of DiffFlow's drift alone; None: as large as the score's"""
    steps: tuple[int, ...] = (30,)
    """N; several, such as 10 20 30, train with few steps first (progressive training); a run goes
    on where more are put at the end, the same N again for more updates"""
    updates: int = 10_000
    """training steps in all, shared evenly among the values of N; the last take what is over"""
    warm_start: int = 0
    """training steps of the diffusion inside a DiffFlow before the drift moves"""
    path_steps: int | None = None
    """backward steps of a path that enter DiffFlow's loss, see `DiffFlow.loss`; None: all N"""
    batch_size: int = 64
    """pictures a training step and process"""
    accumulate: int = 1
    """batches a training step, where a large one does not fit into memory"""
    lr: float = 1e-3
    """learning rate of Adam; falls to 0 along a cosine in each stage"""
    ema: float = 0.999
    """decay of the average of the weights"""
    grid: Literal["log_snr", "flexible"] = "log_snr"
    """of time: log_snr, whose noise rises geometrically, or the paper's flexible one, drawn anew
    for every batch, on which the drift alone carries pictures to noise"""
    r_min: float | None = None
    """log_snr: noise-to-signal ratio of the first step; None: what `noise_range` finds"""
    r_max: float | None = None
    """log_snr: and of the last"""
    beta: float = 0.9
    """flexible: the power of i/N in the times"""
    precision: Literal["no", "bf16"] = "no"
    """bf16 is faster on a GPU; sums stay in 32 bits"""
    compile: bool = False
    """torch.compile the U-Nets: no faster on a CPU, not yet measured on a GPU"""
    by_class: bool = False
    """the networks are told the labels of the pictures, and can be asked for a class"""
    start: str | None = None
    """a safetensors file of an earlier run, such as one without classes: the first stage begins
    with those of its weights that fit"""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.images not in images.names():
            raise ValueError(
                f"images must be of {', '.join(images.names())}, got {shortly(self.images)}"
            )
        if self.kind not in ("diffflow", "ddpm"):
            raise ValueError(f"kind must be 'diffflow' or 'ddpm', got {shortly(self.kind)}")
        find_size(self.size)
        if not self.steps:
            raise ValueError("steps must hold at least one N, got none")
        for steps in self.steps:
            check_whole("steps", steps)
        check_whole("updates", self.updates, least=len(self.steps))
        for name in ("batch_size", "accumulate"):
            check_whole(name, getattr(self, name))
        check_seed(self.seed)
        check_positive(lr=self.lr)
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be at least 0 and below 1, got {shortly(self.ema)}")
        if self.grid not in ("log_snr", "flexible"):
            raise ValueError(f"grid must be 'log_snr' or 'flexible', got {shortly(self.grid)}")
        if self.grid == "flexible" and self.kind == "ddpm":
            raise ValueError("grid 'flexible' needs a drift that is learned, so kind 'diffflow'")
        given = {"r_min": self.r_min, "r_max": self.r_max}
        given = {name: value for name, value in given.items() if value is not None}
        check_positive(**given)
        if len(given) == 2:
            Schedule.log_snr(self.steps[0], **given)  # raises where they do not rise
        if self.drift_size is not None:
            find_size(self.drift_size)
        if self.path_steps is not None:
            check_whole("path_steps", self.path_steps)
        for name in ("drift_size", "path_steps"):
            if self.kind == "ddpm" and getattr(self, name) is not None:
                raise ValueError(f"{name} is for kind 'diffflow'; a ddpm has no drift")
        check_positive(beta=self.beta)
        check_whole("warm_start", self.warm_start, least=0)
        if self.warm_start and self.kind == "ddpm":
            raise ValueError("warm_start is for kind 'diffflow'; a ddpm has no drift to wait for")
        if self.precision not in ("no", "bf16"):
            raise ValueError(f"precision must be 'no' or 'bf16', got {shortly(self.precision)}")
        if not isinstance(self.compile, bool):
            raise ValueError(f"compile must be True or False, got {shortly(self.compile)}")
        if not isinstance(self.by_class, bool):
            raise ValueError(f"by_class must be True or False, got {shortly(self.by_class)}")
        if self.start is not None and not (isinstance(self.start, str) and self.start):
            raise ValueError(f"start must be the name of a file, got {shortly(self.start)}")

    def updates_of(self, stage: int) -> int:
        """Training steps of a stage, less those of a warm start."""
        stages = len(self.steps)
        return (stage + 1) * self.updates // stages - stage * self.updates // stages

    def recipe(
        self,
        steps: int,
        shape: tuple[int, ...],
        measured: NoiseRange | None = None,
        classes: int = 0,
    ) -> dict[str, Any]:
        """What `zoo.build` makes the model of a stage from.

        measured: of the pictures, where r_min or r_max is to follow from them. classes: of the
        pictures, for a run by class.
        """
        r_min, r_max = self.r_min or measured.r_min, self.r_max or measured.r_max
        grid = ["log_snr", {"steps": steps, "r_min": r_min, "r_max": r_max}]
        if self.grid == "flexible":
            grid = ["polynomial", {"steps": steps, "beta": self.beta, "flexible": True}]
        optional = {"drift_size": self.drift_size, "classes": classes if self.by_class else 0}
        return {
            "kind": self.kind,
            "schedule": grid,
            "size": self.size,
            "shape": list(shape),
            "learn_backward_std": True,
        } | {name: value for name, value in optional.items() if value}


def train(
    config: Config,
    folder: str | Path,
    minutes: float = math.inf,
    look_every: int = 1000,
    accelerator: Accelerator | None = None,
    keep: int = 2,
) -> Process | None:
    """Train what the config says, or go on where the folder says that training stands.

    minutes: stop cleanly after so many; the next call goes on. A call whose time was up before its
    first training step still makes that one. look_every: training steps between
    checkpoints; each is looked at: bits/dim of pictures kept from training, a sheet of samples.
    accelerator: of accelerate; by default one that finds the GPU by itself. keep: the newest so
    many checkpoints of a stage stay.
    Returns the trained model, None where time was up or SIGTERM came first.

    Raises ValueError where the folder holds a run of another config or another process trains
    there, DataError for pictures that cannot be had, CheckpointError for a checkpoint that cannot
    be used, WeightsError for a start that cannot, ImportError without the packages of the extra
    "images".
    """
    check_extra()
    check_whole("look_every", look_every)
    check_whole("keep", keep)
    if not (isinstance(minutes, Real) and minutes > 0):
        raise ValueError(f"minutes must be positive, got {shortly(minutes)}")
    folder = Path(folder)
    data = images.load(config.images)
    begun = any((folder / f"stage-0.{kind}").exists() for kind in ("pt", "safetensors"))
    start = zoo.read_weights(Path(config.start))[1] if config.start and not begun else {}
    if accelerator is None:
        from accelerate import Accelerator

        accelerator = Accelerator(mixed_precision=config.precision)
    if accelerator.mixed_precision != config.precision:
        raise ValueError(
            f"precision is {shortly(config.precision)} in the config and "
            f"{shortly(accelerator.mixed_precision)} in the accelerator"
        )
    with _locked(folder) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            _claim(folder, config)
        accelerator.wait_for_everyone()
        return _train(config, folder, minutes, look_every, accelerator, keep, data, start)


def _train(
    config: Config,
    folder: Path,
    minutes: float,
    look_every: int,
    accelerator: Accelerator,
    keep: int,
    data: images.Images,
    start: dict[str, Tensor],
) -> Process | None:
    """What `train` says, in a folder that is ours."""
    data = data.to(accelerator.device)
    classes = data.classes
    held = data.train[-HELD:], data.train_labels[-HELD:]
    data = replace(data, train=data.train[:-HELD], train_labels=data.train_labels[:-HELD])
    end = time.monotonic() + 60 * minutes
    mean = data.mean()
    measured = noise_range(data)

    model: Process | None = None
    with _terminated() as terminated:
        stop = _Stop(terminated, end)
        for stage, steps in enumerate(config.steps):
            recipe = config.recipe(steps, data.shape, measured, classes)
            finished = folder / f"stage-{stage}.safetensors"
            card = {"recipe": recipe, "config": asdict(config)}
            if finished.exists():
                model = zoo.load(finished)
                _check_stage(finished, model.card, config, recipe)
                continue
            with _seeded(config.seed, accelerator.device):
                model = successor(zoo.build(recipe), model)
                model.set_standardisation(mean, 1.0)
            if start and stage == 0:
                said = take(model, start, config.start)
                if accelerator.is_main_process:
                    print(said)
            if accelerator.is_main_process and stage == 0:
                _look_ahead(model, data)
            model.to(memory_format=layout(accelerator.device, config.precision))
            warm_start = config.warm_start if stage == 0 else 0
            updates = config.updates_of(stage)
            watch = Watch(folder, stage, card, data, held, look_every, accelerator, stop)
            stop.patient = stop.time_is_up()
            try:
                with compiled(model, config.compile):
                    history = fit(
                        model,
                        data,
                        steps=updates,
                        warm_start=warm_start,
                        batch_size=config.batch_size,
                        accumulate=config.accumulate,
                        lr=config.lr,
                        ema=config.ema,
                        seed=config.seed,
                        accelerator=accelerator,
                        path_steps=config.path_steps and min(config.path_steps, steps),
                        checkpoint=watch.checkpoint,
                        checkpoint_every=look_every,
                        checkpoint_keep=keep,
                        callback=watch.after,
                        stop=stop,
                        labels=config.by_class or None,
                    )
                if len(history.loss) < warm_start + updates:
                    return None
                stop.patient = stop.patient or watch.steps == 0
                with _seeded(config.seed, accelerator.device), asking(model, watch.asked):
                    x, label = data.sample_labelled(CALIBRATION, seed=config.seed + 1)
                    model.calibrate(x, label=label if config.by_class else None)
                if accelerator.is_main_process:
                    watch.measure(model, warm_start + updates)
            except Stopped:  # in a look, or after the last step
                return None
            if accelerator.is_main_process:
                card |= {
                    "looks": watch.looks,
                    "seconds": round(history.seconds[-1], 1),
                    "processes": accelerator.num_processes,
                    "machine": machine(accelerator.device),
                }
                zoo.save_model(finished, model, card)
            accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            zoo.save_model(folder / "model.safetensors", model, zoo.load(finished).card)
    return model.eval()


def _look_ahead(model: DiffFlow, data: images.Images) -> None:
    """Say where the diffusion of a model ends before it learns, and warn where that is not noise.

    The flexible grid of the paper has no diffusion that reaches noise by itself: it is its drift's
    work.
    """
    schedule = model.schedule
    if schedule.redraw is not None:
        return
    end = look_at_end(DDPM.of(model), data.sample(END, seed=0))
    first, last = schedule.noise_process.r(schedule.times[[1, -1]]).tolist()
    print(f"{schedule.steps} steps, noise to signal {first:.2g} to {last:.3g}. {end}")
    if not end.drowned:
        wanted = noise_range(data)
        warnings.warn(
            f"x_T is not the noise that sampling starts from ({end}). Take r_max = "
            f"{wanted.r_max:.3g}, or leave it to the data.",
            stacklevel=2,
        )


def successor(model: DiffFlow, earlier: DiffFlow | None) -> DiffFlow:
    """The model with the networks' weights of one on a shorter grid (progressive training).

    Only the backward noise is the grid's own, and starts anew.
    """
    if earlier is not None:
        weights = {k: v for k, v in earlier.state_dict().items() if k != "log_b_ratio"}
        model.load_state_dict(weights, strict=False)
    return model


def take(model: DiffFlow, weights: dict[str, Tensor], name: str) -> str:
    """Give a model those weights of a file that fit, in words.

    What the model has and the file has not, such as the embedding of classes or a drift, stays. As
    from stage to stage, the backward noise starts anew. Raises ValueError where none fits.
    """
    weights = {key.removeprefix("state/"): value for key, value in weights.items()}
    own = ("log_b_ratio", *STANDARDISATION)
    ours = {k: v.shape for k, v in model.state_dict().items() if k not in own}
    fit = {k: weights[k] for k, shape in ours.items() if k in weights and weights[k].shape == shape}
    if not fit:
        raise ValueError(f"start: no weight of {name} is one of this model's, in name and shape")
    model.load_state_dict(fit, strict=False)
    new = [key for key in ours if key not in fit]
    more = f"; new are {', '.join(new[:3])}{', …' * (len(new) > 3)}" if new else ""
    return f"{len(fit)} of {len(ours)} weights from {name}{more}."


def layout(device: torch.device, precision: str) -> torch.memory_format:
    """How the weights of convolutions, and with them the activations, lie in memory.

    Channels-last is what the tensor cores of a GPU want with bf16, though it has not been measured
    on one yet. On a CPU it helps colour pictures in 32 bits a little and harms all in bf16
    (benchmarks/results/images.json).
    """
    good = precision == "bf16" if device.type == "cuda" else precision == "no"
    return torch.channels_last if good else torch.contiguous_format


@contextmanager
def compiled(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """The U-Nets of a model go through torch.compile, and afterwards are as they were.

    In place, so weights keep their names. Without CUDA graphs, which would write the next output of
    a net over the last, and have not been tried with the adjoint on a GPU.
    """
    if not wanted:
        yield
        return
    nets = [module for module in model.modules() if isinstance(module, UNet)]
    # Each net has a version with a gradient, one without and one for a warm start: more than the
    # default limit for two nets. A net is told its t as a tensor, so N times make one version.
    with torch._dynamo.config.patch(recompile_limit=32):
        for net in nets:
            net.compile(dynamic=False)
        try:
            yield
        finally:
            for net in nets:
                net._compiled_call_impl = None


class Watch:
    """Looks at every checkpoint of a stage, with the averaged weights that it holds."""

    def __init__(
        self,
        folder: Path,
        stage: int,
        card: dict[str, Any],
        data: images.Images,
        held: tuple[Tensor, Tensor],
        every: int,
        accelerator: Accelerator,
        stop: _Stop,
    ) -> None:
        self.folder, self.stage, self.card, self.every = folder, stage, card, every
        self.checkpoint = folder / f"stage-{stage}.pt"
        self.data, self.held, self.device = data, held, accelerator.device
        self.main = accelerator.is_main_process
        self.stop, self.steps = stop, 0
        # Of several processes the others would wait for one that left a look.
        self.asked = stop if accelerator.num_processes == 1 else None
        self.file = folder / "looks.json"
        self.all = _read_looks(self.file) if self.file.exists() else []

    @property
    def looks(self) -> list[dict[str, float]]:
        """Of this stage: step, bits/dim of the pictures kept from training, at most."""
        return [look for look in self.all if look["stage"] == self.stage]

    def after(self, step: int, model: Process) -> bool:
        """The callback of `fit`: looks where a look is due; whether to stop.

        The first look of a call is finished though time is up: it may be one that was given up.
        """
        patient = self.stop.patient
        self.stop.patient = patient or self.steps == 0
        self.steps += 1
        self.look(step)
        self.stop.patient = patient
        return self.stop.due()

    def look(self, step: int) -> None:
        """To be called after every training step: looks where the one before left a checkpoint."""
        if not self.main or step % self.every != 0 or not self.checkpoint.exists():
            return
        if any(look["step"] == step for look in self.looks):
            return
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        with _seeded(0, self.device):
            model = zoo.build(self.card["recipe"])
            model.set_standardisation(self.data.mean(), 1.0)
            model.load_state_dict(state["average"])
            self.measure(model.to(self.device).eval(), step, state["history"]["loss"])

    @torch.no_grad()
    def measure(self, model: Process, step: int, losses: list[float] = ()) -> None:
        """Bits/dim of the pictures kept from training, samples, and the best model so far.

        Of a model by class, bits/dim given the labels, and a row of samples for every class.
        """
        with _seeded(0, self.device), asking(model, self.asked):
            pictures, labels = self.held
            parts = zip(
                self.data.dequantise(pictures, seed=0).split(250), labels.split(250), strict=True
            )
            bounds = [model.bound(x, label=y if model.classes else None) for x, y in parts]
            bound = torch.cat(bounds).mean()
            rows = torch.arange(model.classes).repeat_interleave(ROW) if model.classes else None
            sheet = sheet_of(model, self.data.shape, label=rows)
        bits = float(self.data.bits_per_dim(bound))
        steps = self.card["recipe"]["schedule"][1]["steps"]
        self.all = [k for k in self.all if (k["stage"], k["step"]) != (self.stage, step)]
        best = all(bits < look["bits_per_dim"] for look in self.all)
        entry = {"stage": self.stage, "step": step, "N": steps, "bits_per_dim": round(bits, 4)}
        if losses:
            recent = sum(losses[-100:]) / len(losses[-100:])
            entry["training_bits_per_dim"] = round(float(self.data.bits_per_dim(recent)), 4)
        if best:  # before the look that says so
            zoo.save_model(self.folder / "best.safetensors", model, self.card | {"look": entry})
        self.all.append(entry)
        write_whole(self.file, to_json(self.all))
        write_whole(self.folder / "samples" / f"{self.stage}-{step:07d}.png", sheet)
        self._log(entry)

    def _log(self, entry: dict[str, float]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(self.folder / "logs") as writer:
            for name in ("bits_per_dim", "training_bits_per_dim"):
                if name in entry:
                    writer.add_scalar(f"stage {self.stage}/{name}", entry[name], entry["step"])


@torch.no_grad()
def sheet_of(
    model: Process,
    shape: tuple[int, ...],
    n: int = 64,
    seed: int = 0,
    last_noise: bool = False,
    label: int | Tensor | None = None,
    guidance: float = 0.0,
) -> bytes:
    """n samples side by side, as PNG. last_noise, label, guidance: see `sample`.

    label: where there is one for each sample, these are as many, in rows of `ROW`.
    """
    from PIL import Image

    from diffflow_edu.figures.images import image_bytes, mosaic

    each = isinstance(label, Tensor)
    how = {"last_noise": last_noise, "label": label, "guidance": guidance}
    samples = model.sample(len(label) if each else n, seed=seed, shape=shape, **how).start
    sheet = mosaic(image_bytes(samples[None].float().cpu().numpy())[0], ROW if each else None)
    out = io.BytesIO()
    Image.fromarray(sheet).save(out, format="PNG")
    return out.getvalue()


def check_extra() -> None:
    """Raise an ImportError that says what to install unless runs can be trained and logged."""
    missing = [name for name in ("accelerate", "tensorboard") if find_spec(name) is None]
    if missing:
        raise ImportError(
            f'training on images needs {" and ".join(missing)}: pip install "diffflow-edu[images]"'
        )


def machine(device: torch.device | None = None) -> str:
    """What a measured number belongs to: the GPU, or this process's threads of the CPU."""
    if device is not None and device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    cpu = models[0] if models else platform.processor()
    threads = torch.get_num_threads()
    return f"{threads} thread{'s' * (threads > 1)} of {cpu}, torch {torch.__version__}"


def _claim(folder: Path, config: Config) -> None:
    """Write the config into the folder, or see that it is the one that is there, or goes on."""
    path = folder / "config.json"
    if path.exists():
        there = _read_json(path, dict)
        differs = _differences(there, config)
        if not differs:
            return
        updates = _updates_to_go_on(there, config)
        if updates != config.updates:
            hint = f" With --updates {updates} it goes on to more stages." if updates else ""
            raise ValueError(
                f"folder {folder} holds another run ({'; '.join(differs)}). Name another folder, "
                f"or repeat the command that began it to go on.{hint}"
            )
        print(f"The run in {folder} goes on: steps {list(config.steps)} after {there['steps']}.")
    write_whole(path, to_json(asdict(config)))


def _differences(there: dict[str, Any], config: Config) -> list[str]:
    """In which settings, as JSON has them, a run differs from a config."""
    # Settings that are newer than the run are at their defaults there.
    ours, defaults = (json.loads(json.dumps(asdict(c))) for c in (config, Config()))
    there = defaults | there
    return [
        f"{name} is {there.get(name)!r} there, {value!r} here"
        for name, value in ours.items()
        if there.get(name) != value
    ]


def _updates_to_go_on(there: dict[str, Any], config: Config) -> int | None:
    """The updates with which a config has the stages of a run, and more; None if it has others."""
    steps, updates = there.get("steps"), there.get("updates")
    if not isinstance(steps, list) or not isinstance(updates, int) or not 0 < len(steps) <= updates:
        return None
    stages, more = len(steps), len(config.steps)
    if stages >= more or list(config.steps[:stages]) != steps:
        return None
    if _differences(there | {"steps": list(config.steps), "updates": config.updates}, config):
        return None
    before = replace(config, steps=tuple(steps), updates=updates)
    share = updates // stages
    for total in (config.updates, *range(more * share, more * (share + 1) + 1)):
        after = replace(config, updates=max(total, more))
        if all(after.updates_of(stage) == before.updates_of(stage) for stage in range(stages)):
            return after.updates
    return None


def _check_stage(path: Path, card: dict[str, Any], config: Config, recipe: dict[str, Any]) -> None:
    """Raise a ValueError unless a finished stage is of this run."""
    settings = card.get("config")
    differs = _differences(settings, config) if isinstance(settings, dict) else ["no config there"]
    if isinstance(settings, dict) and _updates_to_go_on(settings, config) == config.updates:
        differs = []
    if card["recipe"] != recipe:
        differs.append(f"recipe is {card['recipe']!r} there, {recipe!r} here")
    if differs:
        raise ValueError(
            f"{path} is not the model of this run's stage ({'; '.join(differs)}). Move it away to "
            "train the stage anew."
        )


def _read_json(path: Path, kind: type) -> Any:  # noqa: ANN401
    """What a JSON file holds. Raises ValueError that names the file unless that is a `kind`."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); it may be truncated") from None
    if not isinstance(value, kind):
        raise ValueError(f"{path} must hold a {kind.__name__}, got {type(value).__name__}")
    return value


def _read_looks(path: Path) -> list[dict[str, float]]:
    """What `Watch` wrote. Raises ValueError that names the file and what is wrong in it."""
    looks = _read_json(path, list)
    kinds = {"stage": int, "step": int, "bits_per_dim": (int, float)}
    for i, look in enumerate(looks):
        for name, kind in kinds.items():
            value = look.get(name) if isinstance(look, dict) else None
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(
                    f"{path}: {name} of look {i} must be a number, got {shortly(value)}"
                )
    return looks


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder is ours until we leave or die: the system then lets go of the lock by itself.

    Raises ValueError where another process, or another thread, holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+b") as file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            raise ValueError(
                f"folder {folder} is being trained in by another process. Wait for it, stop it, or "
                "name another folder."
            ) from None
        yield


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators seeded, and afterwards as they were."""
    with fork_rng(device):
        torch.manual_seed(seed)
        yield


class _Stop:
    """Whether to stop: a signal came, or time is up.

    patient: time does not count, since it was up before that began which is under way. So every
    call gets somewhere.
    """

    def __init__(self, terminated: threading.Event, end: float) -> None:
        self.terminated, self.end, self.patient = terminated, end, False

    def __call__(self) -> bool:
        """Asked between evaluations of networks."""
        return self.terminated.is_set() or (not self.patient and self.time_is_up())

    def due(self) -> bool:
        """Asked between training steps."""
        return self.terminated.is_set() or self.time_is_up()

    def time_is_up(self) -> bool:
        """By a clock that nobody sets."""
        return time.monotonic() > self.end


@contextmanager
def _terminated() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set, so that training ends within seconds.

    A second Ctrl-C interrupts at once.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # signals reach the main thread alone
        return

    def end(number: int, frame: object) -> None:
        if number == signal.SIGINT and event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
