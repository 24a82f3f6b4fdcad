"""Every notebook has what a student relies on; tests/notebooks/checks.py says what and how."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tests.notebooks.checks import complaints_about_conventions, course


@pytest.mark.parametrize("ipynb", course(), ids=lambda path: path.stem)
def test_a_notebook_keeps_the_conventions(ipynb: Path):
    assert complaints_about_conventions(ipynb) == []


def test_the_tiny_notebook_keeps_the_conventions(tiny: Path):
    assert complaints_about_conventions(tiny) == []


faults = {
    "a title": ("# A tiny notebook", "A tiny notebook"),
    "one-line promise": ("It keeps every promise it makes.", "### Contents"),
    "has 2 points": ("- three\n", ""),
    "Time and memory": ("100 MB", "a little"),
    "**Predict": ("**Predict**", "Guess"),
    "**Explain": ("**Explain**", "Say"),
    "What to remember": ("## What to remember", "## Summary"),
    "## References": ("## References", "## Reading"),
}


@pytest.mark.parametrize("complaint", faults)
def test_a_fault_in_the_prose_is_noticed(tiny: Path, complaint: str):
    notebook = nbformat.read(tiny, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace(*faults[complaint])
    nbformat.write(notebook, tiny)
    assert any(complaint in each for each in complaints_about_conventions(tiny))


def test_a_picture_without_words_is_noticed(tiny: Path):
    notebook = nbformat.read(tiny, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "**Explain**" not in cell.source]
    nbformat.write(notebook, tiny)
    assert any("picture" in each for each in complaints_about_conventions(tiny))


def exercise_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.metadata.get("tags")]


exercise_faults = {
    "2 exercises": lambda cells: [cell.metadata.clear() for cell in cells[:3]],
    "in turn": lambda cells: cells[0].metadata.clear(),
    "same check": lambda cells: cells[1].update(source="print('well done')"),
    "not collapsed": lambda cells: cells[2].metadata.pop("jupyter"),
    "the stub shows None": lambda cells: cells[1].update(outputs=[]),
    "the stub shows True": lambda cells: cells[1].update(outputs=cells[2].outputs),
    "the solution shows False": lambda cells: cells[2].update(outputs=cells[1].outputs),
}


@pytest.mark.parametrize("complaint", exercise_faults)
def test_a_fault_in_an_exercise_is_noticed(tiny: Path, complaint: str):
    notebook = nbformat.read(tiny, as_version=4)
    exercise_faults[complaint](exercise_cells(notebook))
    nbformat.write(notebook, tiny)
    assert any(complaint in each for each in complaints_about_conventions(tiny))
