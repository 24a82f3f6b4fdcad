"""Images in the player: side by side, and one of them large with its way, by mouse and keys."""

from __future__ import annotations

import pytest

from tests.browser.test_player_in_jupyterlab import drawn, picture, set_slider, step

CELL = """
import torch
from diffflow_edu import Trajectory, play
g = torch.Generator().manual_seed(0)
times = torch.linspace(0, 1, 11)
places = torch.rand(9, 2, 1, 1, generator=g) - 0.5
along = torch.linspace(-1, 1, 16)
discs = torch.tanh(8 * (0.4 - (along[:, None] - places[:, 0]) ** 2 - (along - places[:, 1]) ** 2))
noise = torch.randn(11, 9, 16, 16, generator=g)
share = times[:, None, None, None]
grey = Trajectory(times, (1 - share) * discs + share * noise)
grey.states[5, 2, 3, 3] = float("nan")
rgb = Trajectory(times, torch.stack([grey.states, grey.states.flip(1), -grey.states], 2))
play({"grey": grey, "again": grey}, title="Discs dissolve")
"""

# Distinct opaque colours in the left panel: the digits in canvas pixels stand for the picture.
SHADES = """canvas => {
    const { data } = canvas.getContext('2d').getImageData(0, 30, canvas.width / 2 - 10, 200);
    const seen = new Set();
    for (let i = 0; i < data.length; i += 4) if (data[i + 3] === 255) seen.add(data[i]);
    return [...seen];
}"""


@pytest.fixture
def notebook(open_notebook):
    """A notebook with images, run."""
    opened = open_notebook(CELL)
    opened.run_all()
    opened.players.first.locator("canvas").wait_for()
    return opened


def told(player) -> str:
    return drawn(player).get_by_role("status").inner_text()


def test_images_change_with_time_and_only_their_controls_are_there(notebook):
    player = drawn(notebook.players.first)
    assert told(player).startswith("9 of 9 images, pixels from −1 (black) to 1 (white), clipped")
    shades = player.locator("canvas").evaluate(SHADES)
    assert len(shades) > 20  # greys from black to white
    assert max(shades) == 255
    names = [b.get_attribute("aria-label") for b in player.get_by_role("button").all()]
    assert names == [
        "step back", "play/pause", "step forward", "play direction: data to noise",
        "present: fill the screen (f)", "loop", "follow another image",
    ]  # fmt: skip
    data = picture(player)
    set_slider(player, 6)
    assert picture(player) != data
    set_slider(player, 0)
    assert picture(player) == data
    player.get_by_role("button", name="play/pause", exact=True).click()
    notebook.page.wait_for_function(
        "input => input.value == input.max",
        arg=player.get_by_role("slider").element_handle(),
    )
    assert notebook.complaints == []


def test_a_click_enlarges_one_image_in_every_panel_and_another_click_brings_all_back(notebook):
    player = drawn(notebook.players.first)
    set_slider(player, 2)
    all_of_them = picture(player)
    # 3 columns of 16 + 1 pixels fill a panel: the middle of it is the fifth image
    canvas = player.locator("canvas")
    side = (canvas.bounding_box()["width"] - 14) / 2
    middle = {"x": side / 2, "y": 26 + side / 2}
    canvas.click(position=middle)
    assert told(player) == "image 4 · step 2 · t = 0.20"
    large = picture(player)
    assert large != all_of_them
    set_slider(player, 3)
    assert picture(player) != large
    assert told(player) == "image 4 · step 3 · t = 0.30"
    set_slider(player, 2)
    canvas.click(position=middle)
    assert picture(drawn(player)) == all_of_them


def test_the_keyboard_enlarges_images_too_and_escape_brings_all_back(notebook):
    player, page = drawn(notebook.players.first), notebook.page
    before = picture(player)
    player.get_by_role("button", name="follow another image").focus()
    page.keyboard.press("Enter")
    first = told(player)
    page.keyboard.press("Enter")
    assert told(player) != first
    assert picture(player) != before
    page.keyboard.press("ArrowRight")
    assert step(player) == 1
    page.keyboard.press("Home")
    page.keyboard.press("Escape")
    assert picture(drawn(player)) == before
    assert notebook.complaints == []


def test_colour_images_are_drawn_in_colour(open_notebook):
    notebook = open_notebook(CELL.replace('play({"grey": grey, "again": grey}', "play(rgb"))
    notebook.run_all()
    player = notebook.players.first
    player.locator("canvas").wait_for()
    hues = (
        drawn(player)
        .locator("canvas")
        .evaluate(
            """canvas => {
            const { data } = canvas.getContext('2d').getImageData(0, 30, 300, 200);
            let many = 0;
            for (let i = 0; i < data.length; i += 4) {
                const three = [data[i], data[i + 1], data[i + 2]];
                if (Math.max(...three) - Math.min(...three) > 100) many++;
            }
            return many;
        }"""
        )
    )
    assert hues > 1000
    assert notebook.complaints == []
