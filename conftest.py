"""What `pytest --nbval notebooks` needs, and what it measures: each notebook's time and memory."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parent

# The stored outputs were made under these; tools/build_notebooks.py sets the same.
os.environ["DIFFFLOW_EDU_PROGRESS"] = "0"
os.environ.pop("MPLBACKEND", None)

# With --doctest-modules pytest would import, hence run, the text twins of the notebooks; and the
# pretended device, which is registered for good, in a process that is not its own.
collect_ignore_glob = ["notebooks/*.py", "tests/device/*.py"]

# With workers (pytest -n): the folders whose tests share what is slow to start, JupyterLab with a
# browser and a notebook that was built; and what takes longest, hence comes first, so that no
# worker is left alone with it at the end.
TOGETHER = ("tests/browser/", "tests/notebooks/")
LONGEST = (
    "tests/browser/",
    "tests/test_on_a_device.py",
    "tests/test_zoo_quality.py",
    "tests/test_scale.py",
    "notebooks/",
)

# What a notebook may take on the machine of benchmarks/results/notebooks.json: in CPU time, since
# the clock on the wall also counts what else a machine does. More is a warning and no failure, for
# machines differ; benchmarks/notebooks.py keeps the record.
CPU_SECONDS_PER_NOTEBOOK = 40.0
CPU_SECONDS_ALTOGETHER = 360.0
GIGABYTES_PER_KERNEL = 1.2

# No budget but the end of a hang: a slow and busy machine needs many times what a quiet one does.
HANG_SECONDS = 3600
USAGE_FILE = "DIFFFLOW_EDU_USAGE"
"""An environment variable that names a file for what the notebooks took, as JSON."""


@dataclass
class Usage:
    """What one notebook took, from its kernel's start to its last cell."""

    cpu_seconds: float = 0.0
    seconds: float = 0.0
    peak_bytes: int = 0


usage: dict[str, Usage] = {}


def pytest_configure(config: pytest.Config):
    if is_worker(config):
        # Workers share the cores, and a second thread of torch in each would only be in the way;
        # in time, for nothing has imported torch yet.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if getattr(config.option, "nbval", False):
        if config.option.nbval_sanitize_with is None:
            path = ROOT / "tests" / "notebooks" / "nbval_sanitize.cfg"
            config.option.nbval_sanitize_with = str(path)
        config.option.nbval_cell_timeout = float(HANG_SECONDS)
        config.option.nbval_kernel_startup_timeout = float(HANG_SECONDS)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]):
    for item in items:
        if is_cell(item):
            item.output_timeout = HANG_SECONDS  # nbval: 5 s from a cell's reply to each output
    if is_worker(config):
        items.sort(key=lambda item: place(item.nodeid))


def is_worker(config: pytest.Config) -> bool:
    """Whether this is one of the processes that pytest-xdist shares the tests among."""
    return hasattr(config, "workerinput")


def unit(nodeid: str) -> str:
    """The file, or the folder, whose tests one worker runs."""
    file = nodeid.partition("::")[0]
    return next((folder for folder in TOGETHER if file.startswith(folder)), file)


def place(nodeid: str) -> int:
    """Where in the queue a test stands."""
    return next((i for i, name in enumerate(LONGEST) if nodeid.startswith(name)), len(LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object):
    from xdist.scheduler import LoadScopeScheduling

    class Units(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit(nodeid)

    config.option.loadscopereorder = False  # by their number of tests, it would be
    return Units(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object, error: object):
    # Absent where the worker has crashed, which is a failure of its own.
    for name, used in getattr(node, "workeroutput", {}).get("notebooks", {}).items():
        usage[name] = Usage(**used)


def pytest_sessionfinish(session: pytest.Session):
    if is_worker(session.config):
        session.config.workeroutput["notebooks"] = {n: asdict(used) for n, used in usage.items()}


def is_cell(item: pytest.Item | None) -> bool:
    """Whether this test is a notebook's cell, as nbval collects it."""
    return type(item).__name__ == "IPyNbCell"


def measure_kernel(item: pytest.Item, used: Usage) -> None:
    """Note the kernel's CPU time and largest resident set so far; it must still be running."""
    try:
        process = psutil.Process(item.parent.kernel.km.provisioner.pid)
        used.cpu_seconds = sum(process.cpu_times()[:4])  # its children's too
        used.peak_bytes = max(used.peak_bytes, peak_memory(process))
    except (AttributeError, psutil.Error):
        pass  # the kernel has died, which is a failure of its own


def peak_memory(process: psutil.Process) -> int:
    """A process's largest resident set so far in bytes; where it is not told, the present one."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        return process.memory_info().rss
    peaks = [line.split()[1] for line in status.read_text().splitlines() if "VmHWM:" in line]
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
    if is_cell(item):
        used = usage.setdefault(item.path.name, Usage())
        measure_kernel(item, used)  # before it goes
        used.seconds += time.perf_counter() - item.stash_start
    return (yield)


def over_budget() -> list[str]:
    """What is slower or larger than planned, in sentences."""
    complaints = []
    for name, used in usage.items():
        if used.cpu_seconds > CPU_SECONDS_PER_NOTEBOOK:
            took, planned = f"{used.cpu_seconds:.1f} CPU-s", f"{CPU_SECONDS_PER_NOTEBOOK:g}"
            complaints.append(f"{name} took {took}, planned are {planned}")
        if used.peak_bytes > GIGABYTES_PER_KERNEL * 1e9:
            peak = used.peak_bytes / 1e9
            complaints.append(f"{name} peaked at {peak:.2f} GB, planned are {GIGABYTES_PER_KERNEL}")
    total = sum(each.cpu_seconds for each in usage.values())
    if total > CPU_SECONDS_ALTOGETHER:
        complaints.append(
            f"all notebooks took {total:.0f} CPU-s, planned are {CPU_SECONDS_ALTOGETHER:g}"
        )
    return complaints


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter):
    if not usage:
        return
    terminalreporter.section("notebooks: time and peak memory of the kernel")
    for name, used in usage.items():
        times = f"{used.cpu_seconds:6.1f} CPU-s {used.seconds:6.1f} s on the clock"
        terminalreporter.write_line(f"{name:<32} {times}  {used.peak_bytes / 1e9:5.2f} GB")
    for complaint in over_budget():
        terminalreporter.write_line(f"warning: {complaint}", yellow=True)
    if os.environ.get(USAGE_FILE):
        record = {name: asdict(used) for name, used in usage.items()}
        Path(os.environ[USAGE_FILE]).write_text(json.dumps(record), "utf-8")
