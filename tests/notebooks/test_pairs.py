"""The stored notebooks are what their text says, completely run, and nothing else is there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from tests.notebooks.checks import (
    NOTEBOOKS,
    ROOT,
    complaints_about_folder,
    complaints_about_outputs,
    complaints_about_pair,
    complaints_about_widgets,
    course,
)
from tools.build_notebooks import main


def change(ipynb: Path, edit: Callable[[NotebookNode], object]) -> None:
    notebook = nbformat.read(ipynb, as_version=4)
    edit(notebook)
    nbformat.write(notebook, ipynb)


def test_the_course_has_its_first_notebook():
    assert [path.name for path in course() if path.name.startswith("00_")]


def test_only_pairs_and_assets_live_in_the_notebooks_folder():
    assert complaints_about_folder(NOTEBOOKS) == []


@pytest.mark.parametrize("ipynb", course(), ids=lambda path: path.stem)
def test_a_notebook_agrees_with_its_text(ipynb: Path):
    assert complaints_about_pair(ipynb) == []


@pytest.mark.parametrize("ipynb", course(), ids=lambda path: path.stem)
def test_a_notebook_that_git_publishes_holds_no_widget_and_no_time(ipynb: Path):
    command = ["git", "show", f"HEAD:notebooks/{ipynb.name}"]
    stored = subprocess.run(command, cwd=ROOT, capture_output=True)
    if stored.returncode:
        pytest.skip("not in a git checkout")
    notebook = nbformat.reads(stored.stdout.decode("utf-8"), as_version=4)
    assert complaints_about_widgets(notebook) == []


@pytest.mark.parametrize("ipynb", course(), ids=lambda path: path.stem)
def test_a_notebook_was_run_completely_and_cleanly(ipynb: Path):
    assert complaints_about_outputs(ipynb) == []


# From here on: the checks themselves, on a tiny notebook.


def test_a_fresh_build_passes_every_check(tiny: Path):
    assert complaints_about_folder(tiny.parent) == []
    assert complaints_about_pair(tiny) == []
    assert complaints_about_outputs(tiny) == []


@pytest.mark.parametrize("suffix", [".py", ".ipynb"])
def test_the_pair_check_ignores_dates(tiny: Path, suffix: str):
    os.utime(tiny.with_suffix(suffix), (0, 0))
    assert complaints_about_pair(tiny) == []


def test_a_source_changed_in_the_text_is_noticed(tiny: Path):
    text = tiny.with_suffix(".py")
    text.write_text(text.read_text("utf-8").replace("1.5**2", "1.5**3"), "utf-8")
    assert "differs in source" in complaints_about_pair(tiny)[0]


def test_a_source_changed_in_the_notebook_is_noticed(tiny: Path):
    change(tiny, lambda nb: nb.cells[-1].update(source="## References\nEquation 2."))
    assert "differs in source" in complaints_about_pair(tiny)[0]


def test_a_cell_missing_in_the_notebook_is_noticed(tiny: Path):
    change(tiny, lambda nb: nb.cells.pop())
    assert "cells in the text" in complaints_about_pair(tiny)[0]


def test_a_lost_tag_is_noticed(tiny: Path):
    change(tiny, lambda nb: [cell.metadata.pop("tags", None) for cell in nb.cells])
    assert "differs in metadata" in complaints_about_pair(tiny)[0]


def test_a_cell_of_another_type_is_noticed(tiny: Path):
    change(tiny, lambda nb: nb.cells[0].update(cell_type="raw"))
    complaints = complaints_about_pair(tiny)
    assert complaints[0] == "cell 0 is markdown in the text, raw stored"
    assert "Your work in 00_tiny.ipynb is safe" in complaints[1]


def clear(notebook: NotebookNode) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def second_code_cell(notebook: NotebookNode) -> NotebookNode:
    return [cell for cell in notebook.cells if cell.cell_type == "code"][1]


def add_output(**output: object) -> Callable[[NotebookNode], object]:
    return lambda nb: second_code_cell(nb).outputs.append(nbformat.from_dict(output))


widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "w"}
faults = {
    "execution counts": clear,
    "not 1 to": lambda nb: second_code_cell(nb).update(execution_count=7),
    "ended in ValueError": add_output(
        output_type="error", ename="ValueError", evalue="", traceback=[]
    ),
    "wrote to stderr": add_output(output_type="stream", name="stderr", text="a warning"),
    "no picture": lambda nb: second_code_cell(nb).outputs.clear(),
    "bytes, allowed": lambda nb: nb.cells[0].update(source="x" * 2_000_000),
}


@pytest.mark.parametrize("complaint", faults)
def test_a_fault_in_the_outputs_is_noticed(tiny: Path, complaint: str):
    change(tiny, faults[complaint])
    assert any(complaint in each for each in complaints_about_outputs(tiny))


left_by_a_run = {
    "widget-view+json is stored": add_output(output_type="display_data", data=widget, metadata={}),
    "widget state is stored": lambda nb: nb.metadata.update(widgets={"state": "x" * 2_000_000}),
    "stores its timing": lambda nb: second_code_cell(nb).metadata.update(execution={"t": "12:00"}),
}


def test_what_running_and_saving_leave_is_no_fault_until_it_is_published(tiny: Path):
    for what, leave in left_by_a_run.items():
        change(tiny, leave)
        assert complaints_about_pair(tiny) == complaints_about_outputs(tiny) == []
        said = complaints_about_widgets(nbformat.read(tiny, as_version=4))
        assert any(what in each for each in said)
    assert main([str(tiny)]) == 0  # make notebooks drops it
    assert complaints_about_widgets(nbformat.read(tiny, as_version=4)) == []


def test_a_fault_of_a_run_of_one_s_own_comes_with_the_way_out(tiny: Path):
    change(tiny, faults["not 1 to"])
    assert "nothing typed is lost" in complaints_about_outputs(tiny)[-1]


@pytest.mark.parametrize("name", ["draft.ipynb", "01_lonely.ipynb", "01_lonely.py", "data.csv"])
def test_a_stray_file_is_noticed(tiny: Path, name: str):
    (tiny.parent / name).touch()
    assert name in complaints_about_folder(tiny.parent)[0]


def test_a_folder_of_assets_is_welcome_and_another_is_not(tiny: Path):
    (tiny.parent / "assets").mkdir()
    assert complaints_about_folder(tiny.parent) == []
    (tiny.parent / "scratch").mkdir()
    assert "scratch" in complaints_about_folder(tiny.parent)[0]
