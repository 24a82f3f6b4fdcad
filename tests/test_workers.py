"""How `pytest -n` shares the tests among its workers (see conftest.py), and what one leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

from conftest import LONGEST, TOGETHER, place, unit

ROOT = Path(__file__).parents[1]


def test_a_file_is_one_workers_and_so_are_all_that_share_a_browser():
    assert unit("notebooks/00_start_here.ipynb::Cell 7") == "notebooks/00_start_here.ipynb"
    assert unit("tests/test_ode.py::test_a[x::y]") == "tests/test_ode.py"
    in_a_browser = {unit(str(p.relative_to(ROOT))) for p in ROOT.glob("tests/browser/test_*.py")}
    assert in_a_browser == {"tests/browser/"}


def test_what_takes_longest_is_there_and_is_started_first():
    assert [name for name in (*TOGETHER, *LONGEST) if not (ROOT / name).exists()] == []
    files = ["tests/test_files.py::a", "notebooks/08_mnist.ipynb::Cell 0", "tests/browser/b.py::c"]
    assert sorted(files, key=place) == files[::-1]


STARTS = """
from tests.servers import start
print(start("http.server", "0", "--bind", "127.0.0.1").pid, flush=True)
input()
"""


def test_a_server_ends_with_the_worker_that_started_it_even_when_that_is_killed():
    worker = subprocess.Popen(
        [sys.executable, "-c", STARTS],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with worker:
        server = psutil.Process(int(worker.stdout.readline()))
        worker.kill()
    server.wait(timeout=600)  # the end of a hang
