"""One file per model, each readable from top to bottom beside its paper."""

from diffflow_edu.processes.base import Process, Trajectory
from diffflow_edu.processes.cnf import CNF
from diffflow_edu.processes.coupling import CouplingFlow
from diffflow_edu.processes.ddpm import DDPM
from diffflow_edu.processes.diffflow import DiffFlow
from diffflow_edu.processes.langevin import NCSN

__all__ = ["CNF", "DDPM", "NCSN", "CouplingFlow", "DiffFlow", "Process", "Trajectory"]
