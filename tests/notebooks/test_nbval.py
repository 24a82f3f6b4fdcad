"""`pytest --nbval` as this project runs it: strict on numbers, blind to clocks, with budgets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.notebooks.checks import ROOT


def nbval(ipynb: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run nbval on one notebook with the project's configuration and conftest.py."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "conftest"]
    command += ["-c", str(ROOT / "pyproject.toml"), "--nbval", "--color=no", str(ipynb)]
    variables = {**os.environ, **environment}
    return subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120
    )


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


def test_a_notebook_over_its_time_fails_with_the_limit_named(tiny: Path):
    # 40 s × 0.001 = 40 ms: less than it takes to start any kernel.
    result = nbval(tiny, DIFFFLOW_EDU_TIME_FACTOR="0.001")
    assert result.returncode == 1
    assert "allowed are 0.04 s" in result.stdout
