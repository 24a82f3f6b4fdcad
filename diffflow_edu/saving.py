"""Any model of this package in one safetensors file, and back, bit for bit; no pickle.

Beside the numbers the file holds, as JSON, of what they are the numbers: which process, which nets
with which arguments, which schedule. That is read as data. The one thing in it that could run code
is the import path of a net of your own, which `load` follows only where it is told to.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from diffflow_edu import schedules, zoo
from diffflow_edu.files import write_once, write_whole
from diffflow_edu.labels import Given
from diffflow_edu.nets import MLP, PREDICTIONS, ResidualMLP
from diffflow_edu.processes.base import Process
from diffflow_edu.processes.cnf import CNF
from diffflow_edu.processes.coupling import CouplingFlow
from diffflow_edu.processes.ddpm import DDPM, no_drift
from diffflow_edu.processes.diffflow import DiffFlow
from diffflow_edu.processes.langevin import NCSN, RescaledNoisePrediction, VarianceExploding
from diffflow_edu.processes.ode import Solver
from diffflow_edu.schedules import shortly
from diffflow_edu.unet import Size, UNet

CNF_SETTINGS = ("T", "trace", "probe", "probes", "solver", "train_steps", "gradient")
CNF_SETTINGS += ("kinetic", "jacobian", "frames")
KINDS = {kind.__name__: kind for kind in (DiffFlow, DDPM, CNF, CouplingFlow, NCSN)}
NETS = {net.__name__: net for net in (MLP, ResidualMLP, UNet)}
"""Nets that keep the arguments of their constructor in `config`."""
WRAPPERS = {net.__name__: net for net in (*PREDICTIONS.values(), RescaledNoisePrediction)}
"""A net and a noise process in one."""
RECORDS = {
    kind.__name__: kind
    for kind in (
        schedules.Schedule,
        schedules.LogSNR,
        schedules.LinearBeta,
        schedules.Cosine,
        schedules.EulerNoise,
        schedules.GeometricNoise,
        Solver,
        Size,
    )
}
"""Dataclasses, which are their fields."""


def save(model: Process, path: str | Path, overwrite: bool = False) -> None:
    """Write a model to one safetensors file, all or nothing; `load` brings it back bit for bit.

    model: a DiffFlow, DDPM, CNF, CouplingFlow or NCSN on any device and in any dtype. With it go
        its schedule, shape, taught times, standardisation, what is frozen and what is tied, and its
        `card` where it has one: a dict of your own words that JSON can hold.
    overwrite: put it in the place of a file that is there.

    Nets of this package need nothing. A module of your own is kept as its weights, its class's
    import path, and its `config` where it has such an attribute: the dict of its constructor's
    arguments, made of numbers, strings, lists and dicts. See `load`.

    Raises FileExistsError before any work where path exists; ValueError for other processes, for
    functions and lambdas in place of modules, and for a net of this package whose layers are no
    longer those that it was made with.

    >>> import tempfile
    >>> from diffflow_edu import CouplingFlow, load, save
    >>> path = Path(tempfile.mkdtemp()) / "flow.safetensors"
    >>> save(CouplingFlow(layers=3), path)
    >>> len(load(path).layers)
    3
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; overwrite=True replaces it")
    if type(model) not in KINDS.values():
        raise ValueError(f"model must be one of {', '.join(KINDS)}, got {type(model).__name__}")
    if any(isinstance(module, Given) for module in model.modules()):
        raise ValueError(
            "model must be the one of all classes, got one that is given a label; save the model "
            "that .given(…) was asked of"
        )
    plan, tensors = _taken_apart(model)
    if not _own_nets(plan):
        zoo.check_claims(plan["arguments"], tensors)
        try:
            _put_together(plan, tensors, {}, trust=False)
        except (ValueError, RuntimeError, LookupError) as error:
            raise ValueError(
                f"model cannot be made again from the arguments of its nets: {error}. Was a layer "
                "replaced? Make a module of your own instead."
            ) from error
    content = safetensors.torch.save(tensors, metadata={zoo.FORMAT: json.dumps(plan)})
    (write_whole if overwrite else write_once)(path, content)


def load(
    path: str | Path,
    drift: nn.Module | None = None,
    score: nn.Module | None = None,
    trust: bool = False,
) -> Process:
    """The model in a file that `save` wrote, or that comes with the package; on the CPU, in eval.

    drift, score: where these are modules of your own, as you made them for the model (the net that
        a NoisePrediction wraps, too); they are held, and take the weights in the file.
    trust: import the classes that the file names, and make your modules with the `config` in the
        file. Importing runs code: only for files from those whom you would let run a program.

    Raises WeightsError (a ValueError) for a file that is not there, is truncated, holds other
    weights than it says, or names modules of yours where neither they nor trust are given;
    ValueError for a drift or score that the model has no place for.
    """
    path = Path(path)
    given = {name: net for name, net in (("drift", drift), ("score", score)) if net is not None}
    for name, net in given.items():
        if not isinstance(net, nn.Module):
            raise ValueError(f"{name} must be an nn.Module, got {type(net).__name__}")
    metadata, tensors = zoo.read_weights(path)
    # In memory as torch lays it out: from where they lie in a file, products differ in a last bit.
    tensors = {name: value.clone() for name, value in tensors.items()}
    if zoo.FORMAT not in metadata and not given:
        return zoo.load(path)
    with zoo.unusable(path):
        plan = json.loads(metadata[zoo.FORMAT]) if zoo.FORMAT in metadata else {"arguments": {}}
        own = _own_nets(plan)
    for name in given:
        if name not in {slot for slot, _ in own}:
            raise ValueError(f"{name} in {path} is not a module of yours: leave it out")
    with zoo.unusable(path):
        zoo.check_claims(plan["arguments"], tensors)
        return _put_together(plan, tensors, given, trust)


# Apart --------------------------------------------------------------------------------------------


class _Writer:
    """Values as JSON. Tensors go into `tensors`; what is met a second time is only pointed at."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.met: list[object] = []

    def __call__(self, value: Any, name: str) -> Any:  # noqa: ANN401
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, Integral):
            return int(value)
        if isinstance(value, Real) and math.isfinite(value):
            return float(value)
        if isinstance(value, (list, tuple)):
            return [self(item, name) for item in value]
        if isinstance(value, dict):
            items = {str(key): self(item, f"{name}.{key}") for key, item in value.items()}
            return {"is": "dict", "arguments": items}
        if value is no_drift:
            return {"is": "no_drift"}
        if isinstance(value, Tensor):
            key = f"value/{len(self.tensors)}"
            self.tensors[key] = _plain(value)
            return {"is": "tensor", "key": key}
        for number, met in enumerate(self.met):
            if met is value:
                return {"is": "again", "number": number}
        kind, arguments = self._parts(value, name)
        written = {
            "is": kind,
            "arguments": {k: self(v, f"{name}.{k}") for k, v in arguments.items()},
            "number": len(self.met),
        }
        self.met.append(value)
        if kind == "own":
            written["class"] = f"{type(value).__module__}:{type(value).__qualname__}"
            written["made"] = hasattr(value, "config")
        return written

    def _parts(self, value: object, name: str) -> tuple[str, dict[str, Any]]:
        """What an object is, and the arguments that make it."""
        kind = type(value).__name__
        if type(value) is RECORDS.get(kind):
            return kind, {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if type(value) is WRAPPERS.get(kind):
            return kind, {"net": value.net, "noise_process": value.noise_process}
        if type(value) is NETS.get(kind):
            return kind, value.config
        if type(value) is VarianceExploding:
            curve = value.curve
            return kind, {"sigma_min": curve.r_min, "sigma_max": curve.r_max}
        if isinstance(value, partial) and value.func is schedules._draw_flexible:
            return "redraw", {"args": value.args, "keywords": value.keywords}
        if isinstance(value, nn.Module):
            config = getattr(value, "config", {})
            if not isinstance(config, dict):
                raise ValueError(f"{name}.config must be a dict, got {type(config).__name__}")
            return "own", config
        raise ValueError(
            f"{name} is {shortly(value)}, which a file cannot hold without a pickle; make drift "
            "and score an nn.Module, and use the schedules of this package"
        )


def _taken_apart(model: Process) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What makes the model, for JSON, and all its numbers."""
    write = _Writer()
    plan: dict[str, Any] = {"version": 1, "kind": type(model).__name__}
    plan["arguments"] = {k: write(v, k) for k, v in _arguments(model).items()}
    plan["taught"] = write(getattr(model, "taught", None), "taught")
    plan["shapes"] = [write(shape, "shape") for shape in (model._shape, model._seen)]
    card = getattr(model, "card", None)
    try:
        plan["card"] = json.loads(json.dumps(card, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"card must be a dict that JSON can hold: {error}") from None

    named = dict(model.named_parameters(remove_duplicate=False))
    plan["frozen"] = [name for name, value in named.items() if not value.requires_grad]
    first: dict[int, str] = {}
    plan["tied"] = {
        name: first[id(value)]
        for name, value in named.items()
        if first.setdefault(id(value), name) != name
    }
    state = model.state_dict()
    fleeting = {k: v for k, v in model.named_buffers(remove_duplicate=False) if k not in state}
    tensors = {f"state/{k}": _plain(v) for k, v in state.items() if k not in plan["tied"]}
    tensors |= {f"buffer/{k}": _plain(v) for k, v in fleeting.items()}
    return plan, tensors | write.tensors


def _arguments(model: Process) -> dict[str, Any]:
    """Of the model's constructor, and its schedule."""
    if isinstance(model, CouplingFlow):
        hidden = model.layers[0].conditioner.net[0].out_features
        (dim,) = model.shape
        return {"dim": dim, "layers": len(model.layers), "hidden": hidden, "uneven": bool(dim % 2)}
    if isinstance(model, CNF):
        return {"drift": model.drift} | {name: getattr(model, name) for name in CNF_SETTINGS}
    schedule = {"schedule": model.schedule}
    if isinstance(model, NCSN):
        steps = {name: getattr(model, name) for name in ("langevin_steps", "langevin_step")}
        return {"score": model.score} | steps | schedule
    if isinstance(model, DDPM):
        if model.drift is not no_drift:
            raise ValueError(
                f"drift of a DDPM is none, got {shortly(model.drift)}; make it a DiffFlow"
            )
        return {"score": model.score} | schedule
    return {"drift": model.drift, "score": model.score} | schedule


def _plain(value: Tensor) -> Tensor:
    """In memory of its own, on the CPU."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


# Together -----------------------------------------------------------------------------------------


class _Reader:
    """The way back from `_Writer`. nets: of yours, by where they go."""

    def __init__(self, tensors: dict[str, Tensor], nets: dict[str, nn.Module], trust: bool) -> None:
        self.tensors, self.nets, self.trust = tensors, nets, trust
        self.met: dict[int, Any] = {}

    def __call__(self, value: Any, slot: str) -> Any:  # noqa: ANN401
        if isinstance(value, list):
            return tuple(self(item, slot) for item in value)
        if not isinstance(value, dict):
            return value
        kind = value["is"]
        if kind == "no_drift":
            return no_drift
        if kind == "tensor":
            return self.tensors[value["key"]]
        if kind == "again":
            return self.met[value["number"]]
        if kind == "own":
            made = self._own(value, slot)
        else:
            arguments = {k: self(v, slot) for k, v in value["arguments"].items()}
            made = self._make(kind, arguments)
        if "number" in value:
            self.met[value["number"]] = made
        return made

    def _make(self, kind: str, arguments: dict[str, Any]) -> Any:  # noqa: ANN401
        if kind == "dict":
            return arguments
        if kind == "redraw":
            args, keywords = arguments["args"], arguments["keywords"]
            return partial(schedules._draw_flexible, *args, **keywords)
        if kind == "VarianceExploding":
            return VarianceExploding(**arguments)
        if kind in NETS:
            with torch.device("meta"):  # without memory: their numbers come from the file
                return NETS[kind](**arguments)
        return (RECORDS | WRAPPERS)[kind](**arguments)

    def _own(self, value: dict[str, Any], slot: str) -> nn.Module:
        if slot in self.nets:
            return self.nets[slot]
        where = value["class"]
        remedy = f"make it and pass it as load(path, {slot}=…)"
        if not self.trust:
            raise ValueError(
                f"its {slot} is a module of yours, {where}: {remedy}, or pass trust=True to import "
                "that class, which runs its code"
            )
        if not value["made"]:
            raise ValueError(f"its {slot}, {where}, had no `config` to make it with: {remedy}")
        module, name = where.split(":")
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if not (isinstance(found, type) and issubclass(found, nn.Module)):
            raise ValueError(f"its {slot}, {where}, cannot be imported as a module: {remedy}")
        return found(**{k: self(v, slot) for k, v in value["arguments"].items()})


def _own_nets(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """Where modules of the user's go, "drift" or "score", and their classes."""
    found = []
    waiting = list(plan["arguments"].items())
    while waiting:
        slot, value = waiting.pop()
        if isinstance(value, dict) and value.get("is") == "own":
            found.append((slot, value["class"]))
        elif isinstance(value, dict) and isinstance(value.get("arguments"), dict):
            waiting += [(slot, item) for item in value["arguments"].values()]
    return found


def _put_together(
    plan: dict[str, Any], tensors: dict[str, Tensor], nets: dict[str, nn.Module], trust: bool
) -> Process:
    if plan["version"] != 1:
        raise ValueError(f"version {shortly(plan['version'])} of the format is not known")
    read = _Reader(tensors, nets, trust)
    arguments = {name: read(value, name) for name, value in plan["arguments"].items()}
    model = _made(plan["kind"], arguments)

    state = {k.removeprefix("state/"): v for k, v in tensors.items() if k.startswith("state/")}
    state |= {name: state[first] for name, first in plan["tied"].items()}
    zoo.check_shapes(model, state)
    model.load_state_dict(state, assign=True)
    named = dict(model.named_parameters(remove_duplicate=False))
    for name, first in plan["tied"].items():
        _set(model, name, "_parameters", named[first])
    for name, value in tensors.items():
        if name.startswith("buffer/"):
            _set(model, name.removeprefix("buffer/"), "_buffers", value)
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_meta:
            raise ValueError(f"{name} is not in it")
    frozen = set(plan["frozen"])
    for name, value in model.named_parameters(remove_duplicate=False):
        value.requires_grad_(name not in frozen)

    if plan["taught"] is not None:
        model.taught = read(plan["taught"], "taught")
    shape, seen = (read(value, "shape") for value in plan["shapes"])
    if shape is not None:
        model.shape = shape
    model._seen = seen
    if plan["card"] is not None:
        model.card = plan["card"]
    return model.eval()


def _made(kind: str, arguments: dict[str, Any]) -> Process:
    """A process whose numbers are still to come."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {shortly(kind)}")
    if kind == "CouplingFlow":
        with torch.device("meta"):
            return CouplingFlow(**arguments)
    if kind == "CNF":
        return CNF(**arguments)
    schedule = arguments.pop("schedule")
    if kind == "NCSN":
        # Its levels are those of the schedule, as they were; these are only to be replaced.
        model = NCSN(arguments.pop("score"), levels=2, **arguments)
        model.schedule = schedule
        return model
    if kind == "DDPM":
        return DDPM(arguments["score"], schedule, prediction="score")
    return DiffFlow(arguments["drift"], arguments["score"], schedule)


def _set(model: Process, name: str, where: str, value: Tensor) -> None:
    """Put a tensor in the place of one of the same shape that the model has."""
    path, _, last = name.rpartition(".")
    there = getattr(model.get_submodule(path), where)
    if last not in there or there[last].shape != value.shape:
        raise ValueError(f"{name} has no place of shape {tuple(value.shape)} in the model")
    there[last] = value
