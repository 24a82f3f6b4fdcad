"""Dials over runs computed beforehand, and the metrics below the panels."""

from __future__ import annotations

from tests.browser.test_player_in_jupyterlab import (
    SETUP,
    drawn,
    picture,
    set_slider,
    step,
    time_slider,
)

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
    slider, dial = time_slider(player), player.get_by_role("slider", name="N", exact=True)
    assert dial.get_attribute("aria-valuetext") == "10"
    set_slider(player, 4)
    assert player.locator("[aria-live]").inner_text() == "t = 0.40 · step 4/10"
    few = picture(player)
    told = player.locator("canvas").get_attribute("aria-description")
    dial.focus()
    notebook.page.keyboard.press("ArrowRight")
    assert dial.get_attribute("aria-valuetext") == "30"
    assert player.locator("[aria-live]").inner_text() == "t = 0.40 · step 12/30"
    assert slider.get_attribute("max") == "30"
    many = picture(drawn(player))
    assert many != few
    # The first panels are one process on two grids, so at one time they measure alike; the second
    # panels turn differently.
    later = player.locator("canvas").get_attribute("aria-description")
    assert later.split("; ")[0] == told.split("; ")[0]
    assert later.split("; ")[1] != told.split("; ")[1]
    assert told.startswith("DDPM, sliced W2 to data 0.")
    set_slider(player, 30)
    assert player.locator("canvas").get_attribute("aria-description") != later
    dial.fill("0")
    assert step(player) == 10
    assert notebook.complaints == []


FIELDS = """
from diffflow_edu import play, pretrained, toy
density = toy.load("olympic_rings")
model = pretrained("ddpm", "olympic_rings", steps=10)
play({"DDPM": model.sample(500, seed=0)}, density=density, fields={"DDPM": model})
"""


def test_arrows_and_density_come_and_go(open_notebook):
    notebook = open_notebook(FIELDS)
    notebook.run_all()
    player = notebook.players.first
    player.locator("canvas").wait_for()
    plain = picture(drawn(player))
    select = player.get_by_role("combobox", name="arrows")
    names = ["no arrows", "drift f", "score s", "backward drift"]
    assert select.locator("option").all_inner_texts() == names
    seen = {plain}
    for name in names[1:]:
        select.select_option(label=name)
        seen.add(picture(drawn(player)))
    select.focus()
    for _ in names[1:]:
        notebook.page.keyboard.press("ArrowUp")
    assert picture(drawn(player)) == plain
    button = player.get_by_role("button", name="density")
    button.focus()
    notebook.page.keyboard.press("Space")
    assert button.get_attribute("aria-pressed") == "true"
    seen.add(picture(drawn(player)))
    assert len(seen) == 5
    set_slider(player, 5)
    assert picture(player) not in seen
    button.click()
    set_slider(player, 0)
    assert picture(player) == plain
    assert notebook.complaints == []
