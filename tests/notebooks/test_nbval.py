"""`pytest --nbval` as this project runs it: strict on numbers, blind to clocks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.notebooks.checks import ROOT


def nbval(ipynb: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run nbval on one notebook with the project's configuration, conftest.py and more options."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "conftest", *options]
    command += ["-c", str(ROOT / "pyproject.toml"), "--nbval", "--color=no", str(ipynb)]
    variables = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)


def test_an_unchanged_notebook_passes_although_the_clock_moved_on(tiny: Path):
    assert "GPUs to see: none" in tiny.read_text("utf-8")
    result = nbval(tiny, CUDA_VISIBLE_DEVICES="0")  # hidden from the kernel
    assert result.returncode == 0, result.stdout
    assert "11 passed" in result.stdout  # every code cell
    assert "00_tiny.ipynb" in result.stdout.partition("time and peak memory")[2]


def test_a_changed_stored_number_fails(tiny: Path):
    text = tiny.read_text("utf-8")
    assert "square: 2.25" in text
    tiny.write_text(text.replace("square: 2.25", "square: 2.26"), "utf-8")
    result = nbval(tiny)
    assert result.returncode == 1
    assert "Cell outputs differ" in result.stdout


def test_a_missing_picture_fails(tiny: Path):
    text = tiny.read_text("utf-8")
    assert '"image/png"' in text
    tiny.write_text(text.replace('"image/png"', '"image/none"'), "utf-8")
    assert nbval(tiny).returncode == 1


def test_a_notebook_over_its_budget_is_told_of_and_passes(tiny: Path, tmp_path: Path):
    # By a worker of pytest-xdist, which measures, to the process that tells.
    # A plugin that lowers the budget to less than it takes to start any kernel.
    (tmp_path / "strict.py").write_text(
        "import conftest\nconftest.CPU_SECONDS_PER_NOTEBOOK = 0.01\n"
    )
    usage = tmp_path / "usage.json"
    variables = {"PYTHONPATH": str(tmp_path), "DIFFFLOW_EDU_USAGE": str(usage)}
    result = nbval(tiny, "-p", "strict", "-n", "1", **variables)
    assert result.returncode == 0, result.stdout
    assert re.search(r"warning: 00_tiny.ipynb took .* CPU-s, planned are 0.01", result.stdout)
    (used,) = json.loads(usage.read_text()).values()
    assert used["cpu_seconds"] > 0.01 and used["peak_bytes"] > 1e7
