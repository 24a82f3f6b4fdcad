"""Run commands beside each other, and say which of them failed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence


def run_all(commands: Mapping[str, Sequence[str]], jobs: int, pause: float = 0.5) -> None:
    """Run every command in its order, `jobs` at a time, and wait for all of them.

    commands: by name. One that fails stops no other: what they leave behind is worth having.
    pause: seconds between looks. Raises SystemExit, naming those that failed and their exit status,
    and ValueError unless jobs is 1 or more.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be 1 or more, got {jobs}")
    waiting, running, failed = list(commands), {}, {}
    while waiting or running:
        while waiting and len(running) < jobs:
            name = waiting.pop(0)
            print(time.strftime("%H:%M:%S"), name, flush=True)
            running[name] = subprocess.Popen(commands[name])
        for name, child in list(running.items()):
            if child.poll() is not None:
                del running[name]
                if child.returncode:
                    failed[name] = child.returncode
                    print(f"{name} failed with exit status {child.returncode}", flush=True)
        if running:
            time.sleep(pause)
    if failed:
        listed = ", ".join(f"{name} (exit status {status})" for name, status in failed.items())
        raise SystemExit(f"{len(failed)} of {len(commands)} runs failed: {listed}")
