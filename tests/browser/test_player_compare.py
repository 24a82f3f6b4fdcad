"""Dials over runs computed beforehand, and the metrics below the panels."""

from __future__ import annotations

from tests.browser.test_player_in_jupyterlab import SETUP, drawn, picture, set_slider, step

CELL = """
from diffflow_edu import toy
few, _ = rings(steps=10)
play({"N": {10: {"DDPM": few, "DiffFlow": few}, 30: {"DDPM": a, "DiffFlow": b}}},
     density=toy.load("ring"), color=mode)
"""


def test_a_dial_shows_another_run_at_the_same_share_of_the_way(open_notebook):
    notebook = open_notebook(SETUP, CELL)
    notebook.run_all()
    player = notebook.players.first
    player.locator("canvas").wait_for()
    slider, dial = (
        player.get_by_role("slider"),
        player.get_by_role("combobox", name="N", exact=True),
    )
    assert dial.locator("option").all_inner_texts() == ["10", "30"]
    set_slider(player, 4)
    assert player.locator("[aria-live]").inner_text() == "t = 0.40 · step 4/10"
    few = picture(player)
    told = player.locator("canvas").get_attribute("aria-description")
    dial.focus()
    notebook.page.keyboard.press("ArrowDown")
    assert player.locator("[aria-live]").inner_text() == "t = 0.40 · step 12/30"
    assert slider.get_attribute("max") == "30"
    many = picture(drawn(player))
    assert many != few
    # The first panels are one process on two grids, so at one time they measure alike; the second
    # panels turn differently.
    later = player.locator("canvas").get_attribute("aria-description")
    assert later.split("; ")[0] == told.split("; ")[0]
    assert later.split("; ")[1] != told.split("; ")[1]
    assert told.startswith("DDPM, sliced W2: ")
    set_slider(player, 30)
    assert player.locator("canvas").get_attribute("aria-description") != later
    dial.select_option(label="10")
    assert step(player) == 10
    assert notebook.complaints == []
