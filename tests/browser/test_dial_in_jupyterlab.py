"""Notebook 06's dial of the noise budget, in JupyterLab, after its kernel is gone."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from diffflow_edu import zoo
from tests.browser.conftest import _ask, end_kernels
from tests.browser.test_player_in_jupyterlab import drawn, picture, set_slider, step, time_slider

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "06_three_machines.ipynb"

# What of the notebook the dial needs: a word that only this cell has, in the notebook's order.
CELLS = (
    "import matplotlib.pyplot",
    "TITLES = {",
    'W2 to N(0, I)": {}',
    'play(\n    {"B":',
)


@pytest.fixture
def shortened(tmp_path):
    """The notebook's own cells up to the dial, without those that it does not need."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = [[cell for cell in code if word in cell.source] for word in CELLS]
    assert [len(cells) for cells in found] == [1] * len(CELLS)
    notebook.cells = [cell for (cell,) in found]
    rings = nbformat.v4.new_code_cell('rings = densities["olympic_rings"]')
    notebook.cells.insert(2, rings)  # a line of a cell with a player of its own
    nbformat.write(notebook, tmp_path / NOTEBOOK.name)
    return tmp_path / NOTEBOOK.name


def test_the_dial_of_the_noise_budget_turns_without_a_kernel(shortened, lab, open_notebook):
    notebook = open_notebook(path=shortened)
    notebook.run_all()
    player = notebook.players.first
    player.locator("canvas").wait_for()
    assert notebook.complaints == []

    end_kernels(lab)
    assert _ask(lab, "GET", "/api/kernels") == []

    slider = time_slider(player)
    dial = player.get_by_role("slider", name="B", exact=True)
    budgets = [f"{budget:g}" for budget in zoo.NOISE_BUDGETS]
    told = player.locator("canvas")
    for side in (0, int(slider.get_attribute("max"))):
        set_slider(player, side)
        pictures, numbers = set(), set()
        for i, budget in enumerate(budgets):
            dial.fill(str(i))
            assert dial.get_attribute("aria-valuetext") == budget
            assert step(player) == side  # the same place on another model's way
            pictures.add(picture(drawn(player)))
            numbers.add(told.get_attribute("aria-description"))
        assert len(pictures) == len(numbers) == len(budgets)
    # By keyboard, too.
    dial.focus()
    last = picture(drawn(player))
    notebook.page.keyboard.press("ArrowLeft")
    assert dial.get_attribute("aria-valuetext") == budgets[-2]
    assert picture(drawn(player)) != last
    assert [c for c in notebook.complaints if c.startswith("uncaught")] == []
