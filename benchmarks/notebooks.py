"""What every notebook takes: CPU time and time on the clock, and its kernel's peak memory.

    python -m benchmarks.notebooks             on a quiet machine; writes results/notebooks.json
    python -m benchmarks.notebooks FILE …      these only; the record of others stays

The notebooks run as `pytest --nbval` runs them. A time belongs to a machine: the same work has
taken two to three times as long on others of the same kind. So this is a record, and no test fails
by it; what the notebooks and the README say of times is tested against it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.records import write_json
from conftest import ROOT, USAGE_FILE
from diffflow_edu.scale import machine

RESULT = Path(__file__).parent / "results" / "notebooks.json"


def measure(files: Sequence[str] = ("notebooks",)) -> dict[str, dict[str, float]]:
    """By the name of each notebook: cpu_seconds, seconds on the clock and peak_bytes."""
    with tempfile.TemporaryDirectory() as folder:
        usage = Path(folder) / "usage.json"
        command = [sys.executable, "-m", "pytest", "-q", "--nbval", *files]
        subprocess.run(command, cwd=ROOT, env=os.environ | {USAGE_FILE: str(usage)}, check=True)
        return json.loads(usage.read_text("utf-8"))


def main() -> None:
    """Measure and write the record, with the highest load that the machine had meanwhile."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="notebooks/NN_name.ipynb (default: all)")
    files = parser.parse_args().files
    notebooks = measure(files or ["notebooks"])
    load = round(os.getloadavg()[1], 1)
    if files:
        earlier = json.loads(RESULT.read_text("utf-8"))
        notebooks = dict(sorted({**earlier["notebooks"], **notebooks}.items()))
        load = max(load, earlier["load"])
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    record = {
        "machine": f"{os.cpu_count()} cores, {machine()}",
        "python": platform.python_version(),
        "commit": commit,
        "load": load,
        "notebooks": notebooks,
        "cpu_seconds_altogether": sum(used["cpu_seconds"] for used in notebooks.values()),
    }
    write_json(RESULT, record)


if __name__ == "__main__":
    main()
