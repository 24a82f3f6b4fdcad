"""diffflow_edu: normalizing flows, diffusion and DiffFlow, where the two meet.

Every model is a process that carries particles between data (t = 0) and noise (t = T), and a
`Trajectory` is what it leaves behind.
"""

from typing import Any

from diffflow_edu import toy
from diffflow_edu.processes import CNF, DDPM, NCSN, CouplingFlow, DiffFlow, Process, Trajectory
from diffflow_edu.schedules import Schedule
from diffflow_edu.training import fit

__version__ = "0.1.0"
__all__ = [
    "CNF",
    "DDPM",
    "NCSN",
    "CouplingFlow",
    "DiffFlow",
    "Process",
    "Schedule",
    "Trajectory",
    "fit",
    "load",
    "play",
    "pretrained",
    "save",
    "sketch",
    "toy",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    # Pictures and weights are imported on first use: training on a bare GPU machine needs neither.
    if name == "play":
        from diffflow_edu.player import play

        return play
    if name == "pretrained":
        from diffflow_edu.zoo import pretrained

        return pretrained
    if name in ("load", "save"):
        from diffflow_edu import saving

        return getattr(saving, name)
    if name == "sketch":
        from diffflow_edu.player.sketch import sketch

        return sketch
    raise AttributeError(f"module 'diffflow_edu' has no attribute {name!r}")
