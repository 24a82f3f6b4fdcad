"""Trained weights that come with the package, and the recipe and command that made each."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffflow_edu import toy
from diffflow_edu.files import write_whole
from diffflow_edu.processes.base import STANDARDISATION, Process
from diffflow_edu.processes.cnf import CNF
from diffflow_edu.processes.coupling import CouplingFlow
from diffflow_edu.processes.ddpm import DDPM
from diffflow_edu.processes.diffflow import DiffFlow
from diffflow_edu.processes.langevin import NCSN
from diffflow_edu.schedules import Schedule, check_whole, shortly
from diffflow_edu.unet import Size

FOLDER = Path(__file__).parent / "weights"
KINDS: dict[str, Callable[..., Process]] = {
    "diffflow": DiffFlow.mlp,
    "ddpm": DDPM.mlp,
    "ddpm_linear": DDPM.mlp,
    "coupling": CouplingFlow,
    "cnf": CNF.mlp,
    "ncsn": NCSN.mlp,
}
NOISE_BUDGETS = (0.001, 0.01, 0.1, 0.3, 1.0, 2.0, 4.0)
"""∫g² dt at the settings of the noise dial; their kinds are "diffflow_noise_0.001" and so on."""
KINDS |= {f"diffflow_noise_{budget:g}": DiffFlow.mlp for budget in NOISE_BUDGETS}

IMAGE_KINDS: dict[str, Callable[..., Process]] = {"diffflow": DiffFlow.unet, "ddpm": DDPM.unet}


SCHEDULES = ("log_snr", "linear_beta", "cosine", "polynomial", "geometric")
"""Constructors of `Schedule` that a recipe may name."""

FORMAT = "diffflow_edu"
"""The key of the metadata of files that `diffflow_edu.save` writes."""
OTHER_FORMAT = "; diffflow_edu.load reads it"


class WeightsError(ValueError):
    """A weights file that cannot be used: truncated, or not one of this package's."""


def names() -> list[str]:
    """The weights at hand, as "kind/density/N".

    N counts the steps of a trajectory: of the chain for "diffflow" and "ddpm", layers of a
    "coupling" flow, frames of a "cnf" (its solver chooses its own steps), noise levels of an
    "ncsn".

    >>> "diffflow/olympic_rings/30" in names()
    True
    """
    keys = (path.stem.rsplit("-", 2) for path in FOLDER.glob("*.safetensors"))
    return ["/".join(key) for key in sorted(keys, key=lambda k: (k[0], k[1], int(k[2])))]


def build(recipe: dict[str, Any]) -> Process:
    """An untrained model from its recipe: kind, and the arguments of its constructor.

    The chains have "schedule" (constructor and arguments) and "learn_backward_std", "hidden" and
    perhaps "smooth", or for images "size" and "shape", and "classes" where they take labels; the
    others have "model", a dict. Raises
    ValueError that names what is missing or unknown.
    """
    return _maker(recipe)()


def _maker(recipe: dict[str, Any]) -> Callable[[], Process]:
    """What builds the model of a recipe, whose schedule is made already."""
    if not isinstance(recipe, dict):
        raise ValueError(f"recipe must be a dict, got {type(recipe).__name__}")
    kind = _part(recipe, "kind")
    kinds = IMAGE_KINDS if "size" in recipe else KINDS
    if kind not in kinds:
        raise ValueError(f"kind in the recipe must be of {', '.join(kinds)}, got {shortly(kind)}")
    if "model" in recipe:
        return partial(kinds[kind], **recipe["model"])
    constructor, arguments = _part(recipe, "schedule")
    if constructor not in SCHEDULES:
        raise ValueError(f"schedule must be of {', '.join(SCHEDULES)}, got {shortly(constructor)}")
    schedule = getattr(Schedule, constructor)(**arguments)
    learned = _part(recipe, "learn_backward_std")
    classes = {"classes": recipe["classes"]} if "classes" in recipe else {}
    if "size" in recipe:
        options = classes | {k: _size(recipe[k]) for k in ("drift_size",) if k in recipe}
        shape = tuple(_part(recipe, "shape"))
        return partial(kinds[kind], schedule, shape, _size(recipe["size"]), learned, **options)
    return partial(
        kinds[kind],
        schedule,
        hidden=_part(recipe, "hidden"),
        learn_backward_std=learned,
        smooth=recipe.get("smooth", False),
        **classes,
    )


def _size(size: str | dict[str, Any]) -> str | Size:
    """A size of the U-Net by name, or its numbers as JSON has them."""
    if not isinstance(size, dict):
        return size
    return Size(**{k: tuple(v) if isinstance(v, list) else v for k, v in size.items()})


def _part(recipe: dict[str, Any], name: str) -> Any:  # noqa: ANN401
    if name not in recipe:
        raise ValueError(f"the recipe lacks {shortly(name)}; it has {', '.join(map(repr, recipe))}")
    return recipe[name]


def pretrained(kind: str, density: str, steps: int | None = None) -> Process:
    """A trained model, in eval mode.

    kind: "diffflow", "ddpm" (on a log-SNR grid), "ddpm_linear" (as Ho et al. had it), "coupling",
        "cnf" or "ncsn". density: a name of `toy.names()`, or of pictures such as "mnist".
    steps: N, see `names`; by default the largest there is. Its `card` says how it was made and
    what it measured, with None for what the kind does not have, such as a bound of "ncsn".

    Raises ValueError for a name that is not there, naming the nearest, and WeightsError for a
    file that cannot be read.
    """
    known = [name.split("/") for name in names()]
    _one_of("kind", kind, {k for k, _, _ in known})
    here = {d for k, d, _ in known if k == kind}
    if density in toy.names() and density not in here:
        raise ValueError(
            f"no weights of kind {shortly(kind)} are shipped for {shortly(density)}, only for "
            f"{', '.join(sorted(here))}; `fit` trains one"
        )
    _one_of("density", density, here)
    lengths = sorted(int(n) for k, d, n in known if (k, d) == (kind, density))
    steps = lengths[-1] if steps is None else steps
    check_whole("steps", steps)
    if steps not in lengths:
        raise ValueError(
            f"steps must be one of {lengths} for {kind} on {density}, got {shortly(steps)}"
        )
    return load(FOLDER / f"{kind}-{density}-{steps}.safetensors")


pretrained.names = names


def save_model(path: Path, model: Process, card: dict[str, Any], half: bool = False) -> None:
    """Write weights and card (a dict with "recipe") to one safetensors file, all or nothing.

    half: the networks' weights in bf16, half the size; backward noise, mean and scale stay as they
    are. A model that is loaded from it computes in 32 bits.
    """
    tensors = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    if half:
        kept = (*STANDARDISATION, "log_b_ratio")
        tensors = {
            name: value if name in kept or not value.is_floating_point() else value.bfloat16()
            for name, value in tensors.items()
        }
    write_whole(path, save(tensors, metadata={"card": json.dumps(card)}))


def load(path: Path) -> Process:
    """The model in a safetensors file written by `save_model`, in eval mode.

    Raises WeightsError for a file that is not there, is truncated, or holds other weights than its
    recipe says; the latter before anything of a size that only the recipe claims is made.
    """
    metadata, weights = read_weights(path)
    with unusable(path):
        if "card" not in metadata:
            raise ValueError("it has no card" + OTHER_FORMAT * (FORMAT in metadata))
        card = json.loads(metadata["card"])
        if not isinstance(card, dict):
            raise ValueError(f"its card must be a dict, got {type(card).__name__}")
        recipe = _part(card, "recipe")
        check_claims(recipe, weights)
        make = _maker(recipe)
        # Not for our own, since torch takes a second to learn about tensors without memory; nor for
        # an ncsn, whose noise levels are numbers.
        if Path(path).parent != FOLDER and recipe["kind"] != "ncsn":
            with torch.device("meta"):
                check_shapes(make(), weights)
        model = make()
        model.load_state_dict(weights)
    model.card = card
    return model.eval()


def read_weights(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file. Raises WeightsError."""
    path = Path(path)
    if not path.exists():
        beside = [file.name for file in path.parent.glob("*.safetensors")]
        near = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.3)
        hint = f" Did you mean {path.with_name(near[0])}?" if near else ""
        raise WeightsError(f"weights file {path} cannot be used: it does not exist.{hint}")
    with unusable(path), safe_open(path, framework="pt") as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@contextmanager
def unusable(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file becomes a WeightsError that names it."""
    try:
        yield
    except (
        SafetensorError,
        OSError,
        LookupError,
        AttributeError,
        TypeError,
        ValueError,
        RuntimeError,
        ArithmeticError,
    ) as error:
        what = f"{error.args[0]!r} is missing or unknown" if type(error) is KeyError else error
        raise WeightsError(
            f"weights file {path} cannot be used: {what}. It may be truncated or of another "
            "version: make it anew, or reinstall the package where it came with it."
        ) from error


def check_claims(claims: Any, weights: dict[str, Tensor]) -> None:  # noqa: ANN401
    """Raise a ValueError unless every whole number in a file's own words may be true of it.

    None is larger than the numbers that the file holds (or 10 000, for what is no size of a
    tensor), and there are no more layers than tensors.
    """
    largest = max(10_000, sum(value.numel() for value in weights.values()))
    waiting = [("recipe", claims)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items() if value.get("is") != "own" else ()  # nets of a user's
        elif isinstance(value, list):
            waiting += [(name, item) for item in value]
        elif isinstance(value, int):
            most = len(weights) if name in ("layers", "depth", "blocks") else largest
            if abs(value) > most:
                raise ValueError(f"{name} is {value}, and the file holds {most} at most")


def check_shapes(model: Process, weights: dict[str, Tensor]) -> None:
    """Raise a ValueError unless the weights are of the names and shapes that the model has."""
    state = model.state_dict()
    wanted = {n: tuple(value.shape) for n, value in state.items() if n not in STANDARDISATION}
    got = {n: tuple(value.shape) for n, value in weights.items() if n not in STANDARDISATION}
    for name in {**wanted, **got}:
        if wanted.get(name) != got.get(name):
            raise ValueError(
                f"size mismatch for {name}: {got.get(name, 'absent')} in the file, "
                f"{wanted.get(name, 'absent')} by its recipe"
            )


def _one_of(argument: str, value: str, known: set[str]) -> None:
    if not isinstance(value, str) or value not in known:
        near = difflib.get_close_matches(str(value).lower(), sorted(known), n=1, cutoff=0.3)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"unknown {argument} {shortly(value)}; there are {', '.join(sorted(known))}.{hint}"
        )
