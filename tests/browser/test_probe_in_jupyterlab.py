"""The map to probe in JupyterLab: read with mouse and keyboard, probes pinned and removed."""

from __future__ import annotations

import pytest

CELL = """
from diffflow_edu.player.probe import probe
import torch
hill = probe(
    {
        "whole": lambda x: -x.square().sum(1),
        "half": lambda x: torch.where(x[:, 0] > 0, -1.0, -torch.inf),
    },
    view=(0, 0, 2), cells=4, probes=[(0.5, 0.5)], title="A hill",
)
hill
"""


@pytest.fixture
def opened(open_notebook):
    """A notebook with one map, run."""
    notebook = open_notebook(CELL)
    notebook.run_all()
    notebook.map = notebook.page.locator(".diffflow-probe")
    notebook.map.locator("canvas").first.wait_for()
    return notebook


def status(shown) -> str:
    return shown.get_by_role("status").inner_text()


def rows(shown) -> list[list[str]]:
    """The table of the probes, without its head."""
    return [line.split("\t") for line in shown.locator("table").inner_text().splitlines()[1:]]


def point(page, shown, share: tuple[float, float], panel: int = 0, click: bool = False) -> None:
    """Move the mouse to a place in a panel, in shares from its upper left."""
    canvas = shown.locator("canvas").nth(panel)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    place = box["x"] + share[0] * box["width"], box["y"] + share[1] * box["height"]
    (page.mouse.click if click else page.mouse.move)(*place)


def test_the_pointer_reads_every_map_and_a_click_pins_a_probe(opened):
    page, shown = opened.page, opened.map
    assert "log p [nats]: −8.50" in shown.inner_text()  # the scale, 8 nats below the top at −0.50
    assert "A hill" in shown.inner_text() and "click to pin a probe" in status(shown)
    assert rows(shown) == [["1", "0.50", "0.50", "−0.50", "−1.00", "0.50"]]

    point(page, shown, (0.6, 0.1))  # the cell with its centre at (0.5, 1.5)
    assert status(shown) == "(0.50, 1.50): log p whole −2.50, half −1.00; difference −1.50 nats"
    point(page, shown, (0.1, 0.9), panel=1, click=True)
    assert status(shown) == "(−1.50, −1.50): log p whole −4.50, half −∞; difference ∞ nats"
    assert rows(shown)[1] == ["2", "−1.50", "−1.50", "−4.50", "−∞", "∞"]

    shown.get_by_role("button", name="remove the probes").click()
    assert shown.locator("table").is_hidden()
    assert opened.complaints == []


def test_arrow_keys_move_and_enter_pins(opened):
    page, shown = opened.page, opened.map
    shown.focus()
    page.keyboard.press("ArrowLeft")  # from the cell right above the middle
    assert status(shown).startswith("(−0.50, 0.50): log p whole −0.50")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert rows(shown)[1][:3] == ["2", "−0.50", "−0.50"]
    assert page.locator(".jp-Notebook .jp-CodeCell").count() == 1  # Enter made nothing of its own
    assert opened.complaints == []
