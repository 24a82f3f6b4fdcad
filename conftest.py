"""What `pytest --nbval notebooks` needs, and what it measures: each notebook's time and memory."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent

# The stored outputs were made under these; tools/build_notebooks.py sets the same.
os.environ["DIFFFLOW_EDU_PROGRESS"] = "0"
os.environ.pop("MPLBACKEND", None)

# With --doctest-modules pytest would import, hence run, the text twins of the notebooks.
collect_ignore_glob = ["notebooks/*.py"]

SECONDS_PER_NOTEBOOK = 40.0
SECONDS_ALTOGETHER = 360.0
GIGABYTES_PER_KERNEL = 1.2


@dataclass
class Usage:
    """What one notebook took, from its kernel's start to its last cell."""

    seconds: float = 0.0
    peak_bytes: int = 0


usage: dict[str, Usage] = {}


def pytest_configure(config: pytest.Config):
    if getattr(config.option, "nbval", False):
        if config.option.nbval_sanitize_with is None:
            path = ROOT / "tests" / "notebooks" / "nbval_sanitize.cfg"
            config.option.nbval_sanitize_with = str(path)
        if config.option.nbval_cell_timeout == 2000:  # nbval's default, half an hour
            config.option.nbval_cell_timeout = 120


def is_cell(item: pytest.Item | None) -> bool:
    """Whether this test is a notebook's cell, as nbval collects it."""
    return type(item).__name__ == "IPyNbCell"


def peak_memory(item: pytest.Item) -> int:
    """The kernel's largest resident set so far in bytes; 0 where there is no /proc to ask."""
    try:
        pid = item.parent.kernel.km.provisioner.pid
        status = Path(f"/proc/{pid}/status").read_text()
    except (AttributeError, OSError):
        return 0
    peaks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(peaks[0]) if peaks else 0


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item):
    if not is_cell(item):
        return (yield)
    # The first cell's setup starts the kernel, which belongs to the notebook's time.
    item.stash_start = time.perf_counter()
    with pytest.MonkeyPatch.context() as patch:
        # The stored outputs are a CPU's; on a GPU 08 and 09 would train for minutes.
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None):
    if not is_cell(item):
        return (yield)
    used = usage.setdefault(item.path.name, Usage())
    used.peak_bytes = max(used.peak_bytes, peak_memory(item))  # before the kernel goes
    used.seconds += time.perf_counter() - item.stash_start
    result = yield
    if nextitem is None or nextitem.parent is not item.parent:
        complaints = over_budget(item.path.name, used, last=not is_cell(nextitem))
        if complaints:
            pytest.fail("; ".join(complaints), pytrace=False)
    return result


def over_budget(name: str, used: Usage, last: bool) -> list[str]:
    """What is too slow or too large, in sentences; DIFFFLOW_EDU_TIME_FACTOR stretches the times."""
    factor = float(os.environ.get("DIFFFLOW_EDU_TIME_FACTOR", "1"))
    complaints = []
    if used.seconds > SECONDS_PER_NOTEBOOK * factor:
        limit = SECONDS_PER_NOTEBOOK * factor
        complaints.append(f"{name} took {used.seconds:.1f} s, allowed are {limit:g} s")
    if used.peak_bytes > GIGABYTES_PER_KERNEL * 1e9:
        peak = used.peak_bytes / 1e9
        complaints.append(f"{name} peaked at {peak:.2f} GB, allowed are {GIGABYTES_PER_KERNEL} GB")
    total = sum(each.seconds for each in usage.values())
    if last and total > SECONDS_ALTOGETHER * factor:
        limit = SECONDS_ALTOGETHER * factor
        complaints.append(f"all notebooks took {total:.0f} s, allowed are {limit:g} s")
    return complaints


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter):
    if not usage:
        return
    terminalreporter.section("notebooks: time and peak memory of the kernel")
    for name, used in usage.items():
        memory = f"{used.peak_bytes / 1e9:5.2f} GB" if used.peak_bytes else "not measured"
        terminalreporter.write_line(f"{name:<40} {used.seconds:6.1f} s  {memory}")
