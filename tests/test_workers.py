"""How `pytest -n` shares the tests among its workers; see conftest.py."""

from __future__ import annotations

from pathlib import Path

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
