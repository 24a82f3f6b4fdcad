"""The prose of the notebooks holds no number that a run did not make."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from diffflow_edu import pretrained
from tests.notebooks.checks import course
from tests.notebooks.numbers import complaints_about_claimed, complaints_about_sourced

CARD = pretrained("diffflow", "olympic_rings", steps=10).card
LEAK = f"{100 * CARD['metrics']['leak']:.1f}"


@pytest.mark.parametrize("ipynb", course(), ids=lambda path: path.stem)
def test_the_numbers_that_name_a_source_are_the_source_s(ipynb: Path):
    notebook = nbformat.read(ipynb, as_version=4)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert complaints_about_sourced(prose) == []


OTHERS = ("08", "09")  # they print the tables of papers, and what a command would make


@pytest.mark.parametrize(
    "ipynb",
    [path for path in course() if not path.name.startswith(OTHERS)],
    ids=lambda path: path.stem,
)
def test_the_other_numbers_of_the_prose_are_printed_or_computed_with(ipynb: Path):
    assert complaints_about_claimed(nbformat.read(ipynb, as_version=4)) == []


def test_a_number_that_its_card_does_not_hold_is_noticed():
    right = f"It leaks {LEAK} %<!-- from diffflow/olympic_rings/10 metrics.leak -->."
    assert complaints_about_sourced(right) == []
    (complaint,) = complaints_about_sourced(right.replace(LEAK, "9.9"))
    assert "9.9" in complaint and "diffflow/olympic_rings/10 metrics.leak" in complaint


def test_a_number_that_nothing_printed_is_noticed():
    code = nbformat.v4.new_code_cell("x = 1")
    code.outputs = [nbformat.v4.new_output("stream", text="gap 0.56 nats, leak 2.1%")]
    prose = nbformat.v4.new_markdown_cell("A gap of 0.6 nats, or 0.56; about 2 % leak.")
    notebook = nbformat.v4.new_notebook(cells=[code, prose])
    assert complaints_about_claimed(notebook) == []
    prose.source = "DiffFlow stops at 0.3 and leaks 5 %, see $x = 0.7$."
    assert complaints_about_claimed(notebook) == ["no cell prints 0.3", "no cell prints 5 %"]
