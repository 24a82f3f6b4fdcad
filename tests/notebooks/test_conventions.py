"""Every notebook has what a student relies on; tests/notebooks/checks.py says what and how."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tests.notebooks.checks import complaints_about_conventions, course, names_overwritten


@pytest.mark.parametrize("ipynb", course(), ids=lambda path: path.stem)
def test_a_notebook_keeps_the_conventions(ipynb: Path):
    assert complaints_about_conventions(ipynb) == []


@pytest.mark.parametrize("ipynb", course(), ids=lambda path: path.stem)
def test_no_cell_overwrites_an_answer_of_a_student(ipynb: Path):
    assert names_overwritten(nbformat.read(ipynb, as_version=4)) == []


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


FOLDED = """<details><summary>A solution</summary>

```python
def jump(x_0, eps, bar):
    return bar.sqrt() * x_0 + {} * eps
```

</details>"""


def with_a_folded_solution(tiny: Path, factor: str) -> nbformat.NotebookNode:
    """The tiny notebook whose first exercise is `jump`, solved in folded text."""
    notebook = nbformat.read(tiny, as_version=4)
    exercise, check, solution = exercise_cells(notebook)[:3]
    exercise.source = "def jump(x_0, eps, bar):\n    return None"
    check.source = "exercises.check_jump(jump)"
    folded = nbformat.v4.new_markdown_cell(FOLDED.format(factor), metadata={"tags": ["solution"]})
    notebook.cells[notebook.cells.index(solution)] = folded
    nbformat.write(notebook, tiny)
    return notebook


def test_a_folded_solution_that_passes_its_check_is_accepted(tiny: Path):
    with_a_folded_solution(tiny, "(1 - bar).sqrt()")
    assert complaints_about_conventions(tiny) == []


def test_a_folded_solution_that_fails_its_check_is_noticed(tiny: Path):
    with_a_folded_solution(tiny, "(1 - bar)")
    (complaint,) = complaints_about_conventions(tiny)
    assert complaint.startswith("exercise 1: the solution does not pass: ✗ jump")


def test_a_solution_that_is_not_folded_is_noticed(tiny: Path):
    notebook = with_a_folded_solution(tiny, "1")
    exercise_cells(notebook)[2].source = "The answer is 42."
    nbformat.write(notebook, tiny)
    assert "is not <details>" in complaints_about_conventions(tiny)[0]


def test_an_answer_that_a_later_cell_overwrites_is_noticed(tiny: Path):
    notebook = with_a_folded_solution(tiny, "1")
    assert names_overwritten(notebook) == []
    notebook.cells.append(nbformat.v4.new_code_cell("def jump(x):\n    return x"))
    assert names_overwritten(notebook) == ["jump"]
