"""All that a GPU run touches, on a device that is only pretended: see tests/device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).parent / "device" / "checks.py"


@pytest.mark.parametrize("make", ["cuda", "mps"])
def test_everything_a_gpu_run_touches_works_on_a_pretended_device(make):
    # In a process of its own: a backend is registered for good, and before the first backward.
    command = [sys.executable, "-X", "faulthandler", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--capture=sys", str(CHECKS), "-k", make],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKS.parent)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
