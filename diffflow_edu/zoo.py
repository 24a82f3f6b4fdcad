"""Trained weights that come with the package, and the recipe and command that made each."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from diffflow_edu import toy
from diffflow_edu.processes.base import Process
from diffflow_edu.processes.cnf import CNF
from diffflow_edu.processes.coupling import CouplingFlow
from diffflow_edu.processes.ddpm import DDPM
from diffflow_edu.processes.diffflow import DiffFlow
from diffflow_edu.processes.langevin import NCSN
from diffflow_edu.schedules import Schedule, check_whole

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
    perhaps "smooth", or for images "size" and "shape"; the others have "model", a dict.
    """
    make = KINDS[recipe["kind"]]
    if "model" in recipe:
        return make(**recipe["model"])
    constructor, arguments = recipe["schedule"]
    schedule = getattr(Schedule, constructor)(**arguments)
    if "size" in recipe:
        make = IMAGE_KINDS[recipe["kind"]]
        return make(schedule, tuple(recipe["shape"]), recipe["size"], recipe["learn_backward_std"])
    return make(
        schedule,
        hidden=recipe["hidden"],
        learn_backward_std=recipe["learn_backward_std"],
        smooth=recipe.get("smooth", False),
    )


def pretrained(kind: str, density: str, steps: int | None = None) -> Process:
    """A trained model, in eval mode.

    kind: "diffflow", "ddpm" (on a log-SNR grid), "ddpm_linear" (as Ho et al. had it), "coupling",
        "cnf" or "ncsn". density: a name of `toy.names()`.
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
            f"no weights of kind {kind!r} are shipped for {density!r}, only for "
            f"{', '.join(sorted(here))}; `fit` trains one"
        )
    _one_of("density", density, here)
    lengths = sorted(int(n) for k, d, n in known if (k, d) == (kind, density))
    steps = lengths[-1] if steps is None else steps
    check_whole("steps", steps)
    if steps not in lengths:
        raise ValueError(f"steps must be one of {lengths} for {kind} on {density}, got {steps!r}")
    return load(FOLDER / f"{kind}-{density}-{steps}.safetensors")


pretrained.names = names


def save_model(path: Path, model: Process, card: dict[str, Any]) -> None:
    """Write weights and card (a dict with "recipe") to one safetensors file, all or nothing."""
    temporary = path.with_name(path.name + ".part")
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    temporary.write_bytes(save(tensors, metadata={"card": json.dumps(card)}))
    temporary.replace(path)


def load(path: Path) -> Process:
    """The model in a safetensors file written by `save_model`, in eval mode."""
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads(file.metadata()["card"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        model = build(card["recipe"])
        model.load_state_dict(weights)
    except (
        SafetensorError,
        OSError,
        LookupError,
        AttributeError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:
        raise WeightsError(
            f"weights file {path} cannot be used: {error}. It may be truncated or of another "
            "version; reinstall the package, or make it anew with benchmarks/train_zoo.py."
        ) from error
    model.card = card
    return model.eval()


def _one_of(argument: str, value: str, known: set[str]) -> None:
    if not isinstance(value, str) or value not in known:
        near = difflib.get_close_matches(str(value).lower(), sorted(known), n=1, cutoff=0.3)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"unknown {argument} {value!r}; there are {', '.join(sorted(known))}.{hint}"
        )
