"""The course's notebooks in JupyterLab, as a reader runs them."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))


def has_player(path: Path) -> bool:
    cells = nbformat.read(path, as_version=4).cells
    return any(c.cell_type == "code" and "play(" in c.source for c in cells)


SHORT = ("00_start_here", "06_three_machines")  # every kind of player; nbval runs all notebooks


def each_notebook() -> list:
    marks = {path: () if path.stem in SHORT else pytest.mark.long for path in NOTEBOOKS}
    return [pytest.param(path, id=path.stem, marks=mark) for path, mark in marks.items()]


@pytest.mark.parametrize("path", each_notebook())
def test_the_notebook_runs_without_an_error_and_its_player_answers(path, open_notebook):
    notebook = open_notebook(path=path)
    notebook.run_all()
    if has_player(path):
        player = notebook.players.first
        player.locator("canvas").wait_for()
        slider = player.get_by_role("slider", name="time step")
        settle = "() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))"
        picture = "canvas => canvas.toDataURL()"
        slider.fill(slider.get_attribute("min"))  # also ends an autoplay
        player.evaluate(settle)
        data = player.locator("canvas").evaluate(picture)
        slider.fill(slider.get_attribute("max"))
        player.evaluate(settle)
        assert player.locator("canvas").evaluate(picture) != data
    assert notebook.complaints == []


@pytest.mark.parametrize("cell", ["1 / 0", "1 +", "raise KeyError('lost')"])
def test_an_error_in_a_cell_would_not_go_unseen(cell, open_notebook):
    notebook = open_notebook("1", cell, "2")
    with pytest.raises(AssertionError, match="a cell failed"):
        notebook.run_all()
