"""The player on a projector, in a small window and on a phone: what is seen at once, and how large.

Most of it on saved pages, which need no server. Of a window of 720 lines JupyterLab shows 600.
"""

from __future__ import annotations

import re

import pytest

from diffflow_edu import toy
from diffflow_edu.player import play
from tests.browser.test_player_in_jupyterlab import SETUP, drawn, picture, set_slider

PROJECTOR = {"width": 1920, "height": 1080}
PHONE = {"width": 390, "height": 844}
GAP = 14


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    """Saved pages by the number of their panels; all with a title, a dial and metrics."""
    names: dict = {}
    exec(SETUP + "few, _ = rings(n=300, steps=10)\nmany, _ = rings(1.5, n=300)", names)
    room, made = tmp_path_factory.mktemp("present"), {}
    for count in (1, 2, 3):
        panels = "ABC"[:count]
        runs = {n: dict.fromkeys(panels, names[run]) for n, run in ((10, "few"), (30, "many"))}
        path = room / f"{count}.html"
        play({"N": runs}, density=toy.load("ring"), title="A title").save_html(path)
        made[count] = path
    return made


@pytest.fixture
def player_on(open_page, addresses):
    """Opens the page of so many panels in a window of a size."""
    return lambda count, *size, **options: drawn(open_page(addresses[count], *size, **options))


def side_of(player, count: int) -> float:
    """The side of one of the panels that stand in a row."""
    return (player.locator("canvas").bounding_box()["width"] + GAP) / count - GAP


def on_the_whole_screen(player) -> bool:
    box, size = player.bounding_box(), player.page.viewport_size
    return (box["width"], box["height"]) == (size["width"], size["height"])


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_presented_panels_take_four_fifths_of_a_projector_and_all_is_in_view(
    player_on, count, scheme
):
    player = player_on(count, PROJECTOR, color_scheme=scheme)
    before = picture(player)
    player.get_by_role("button", name="present").click()
    player.page.wait_for_function("() => document.fullscreenElement")
    drawn(player)
    assert side_of(player, count) >= 0.8 * PROJECTOR["height"]
    assert on_the_whole_screen(player)
    assert player.evaluate("root => root.scrollHeight <= root.clientHeight")
    assert player.get_by_role("button", name="loop").is_hidden()
    assert player.get_by_role("slider", name="N", exact=True).is_visible()
    # the screen's background is the page's, not the browser's black
    shade = player.evaluate("root => getComputedStyle(root).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", shade)[:3])) > 400) is (scheme == "light")
    player.page.keyboard.press("Escape")
    player.page.wait_for_function("() => !document.fullscreenElement")
    assert picture(drawn(player)) == before
    assert player.get_by_role("button", name="loop").is_visible()


def test_three_panels_fill_the_width_and_the_tools_unfold(player_on):
    player = player_on(3, PROJECTOR)
    player.locator("canvas").focus()
    player.page.keyboard.press("f")
    player.page.wait_for_function("() => document.fullscreenElement")
    wide = drawn(player).locator("canvas").bounding_box()["width"]
    assert wide > 0.95 * PROJECTOR["width"]
    player.get_by_role("button", name="tools").click()
    drawn(player)
    assert player.get_by_role("button", name="loop").is_visible()
    assert player.evaluate("root => root.scrollHeight <= root.clientHeight")
    player.page.keyboard.press("f")
    player.page.wait_for_function("() => !document.fullscreenElement")


def test_where_the_browser_has_no_full_screen_the_player_covers_the_page(player_on):
    script = "Object.defineProperty(Document.prototype, 'fullscreenEnabled', { value: false });"
    player = player_on(2, PROJECTOR, script)
    player.locator("canvas").focus()
    player.page.keyboard.press("f")
    assert on_the_whole_screen(drawn(player))
    assert side_of(player, 2) >= 0.8 * PROJECTOR["height"]
    player.page.keyboard.press("Escape")
    assert not on_the_whole_screen(drawn(player))


def test_a_page_may_give_the_player_less_room(player_on):
    player = player_on(2, PROJECTOR)
    script = """root => { root.parentElement.style.setProperty('--player-room', '520px');
        window.dispatchEvent(new Event('resize')); }"""
    player.evaluate(script)
    top = drawn(player).bounding_box()["y"]
    controls = player.get_by_role("button", name="step back").bounding_box()
    assert 480 < controls["y"] + controls["height"] - top <= 520


INK = """canvas => {
    const { data } = canvas.getContext('2d').getImageData(2, 0, canvas.width - 4, canvas.height);
    let blue = 0;
    for (let i = 0; i < data.length; i += 4) if (data[i + 2] > data[i] + 60) blue++;
    return blue;
}"""


def test_dots_grow_with_their_panel(player_on):
    player = player_on(1, {"width": 700, "height": 560})
    set_slider(player, 10)  # spread out, so that dots hardly hide each other
    small, side = player.locator("canvas").evaluate(INK), side_of(player, 1)
    player.page.set_viewport_size(PROJECTOR)
    player.locator("canvas").focus()
    player.page.keyboard.press("f")
    drawn(player)
    # an area grows with the square; half of it allows for dots that hide each other
    grown = (side_of(player, 1) / side) ** 2
    assert grown > 3
    assert player.locator("canvas").evaluate(INK) > 0.5 * grown * small


CELL = """
from diffflow_edu import toy
few, _ = rings(steps=10)
dial = {"N": {10: {"A": few, "B": few}, 30: {"A": a, "B": b}}}
play({"λ": {0: dial, 1: dial}}, density=toy.load("ring"), color=mode, title="A title")
"""
ALONE = 'play(a, color=mode, density=toy.load("ring"), title="Alone")'


def test_a_window_of_720_lines_shows_picture_dials_and_time_together_in_jupyterlab(open_notebook):
    notebook = open_notebook(SETUP, CELL, ALONE, viewport={"width": 1280, "height": 720})
    notebook.run_all()
    notebook.players.nth(1).locator("canvas").wait_for()
    room = notebook.page.locator(".jp-WindowedPanel-outer").first.bounding_box()["height"]
    for player in (notebook.players.first, notebook.players.nth(1)):
        player.locator("canvas").scroll_into_view_if_needed()
        top = drawn(player).bounding_box()["y"]
        controls = player.get_by_role("button", name="step back").bounding_box()
        assert controls["y"] + controls["height"] - top <= room
        assert side_of(player, 1) >= 240
    # One panel alone: time in one row, the tools in another.
    rows = {
        round(button.bounding_box()["y"])
        for button in [*player.get_by_role("button").all(), *player.get_by_role("combobox").all()]
        if button.is_visible()
    }
    assert len(rows) == 2
    # The key f reaches the player, not JupyterLab, and leads back.
    for whole in (True, False):
        player.locator("canvas").focus()
        notebook.page.keyboard.press("f")
        notebook.page.wait_for_function(
            "whole => Boolean(document.fullscreenElement) === whole", arg=whole
        )
        assert on_the_whole_screen(drawn(player)) is whole
    assert notebook.page.locator(".jp-Notebook .jp-CodeCell").count() == 3
    assert notebook.complaints == []


def test_on_a_phone_panels_stand_below_each_other_and_controls_fit_a_finger(player_on):
    player = player_on(2, PHONE, has_touch=True)
    box = player.locator("canvas").bounding_box()
    assert box["width"] > 0.85 * PHONE["width"]
    assert box["height"] > 2 * box["width"]
    controls = player.locator("button, select, input").all()
    sizes = [each.bounding_box() for each in controls if each.is_visible()]
    assert len(sizes) > 10
    assert min(size["height"] for size in sizes) >= 44
    assert min(size["width"] for size in sizes) >= 44
    assert player.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]
    # a line of metrics is not squeezed: at its full size it is narrower than the panel
    told = player.locator("canvas").get_attribute("aria-description").split("; ")[0]
    width = player.locator("canvas").evaluate(
        """(canvas, line) => {
            const brush = document.createElement('canvas').getContext('2d');
            brush.font = `14px ${getComputedStyle(canvas).fontFamily}`;
            return brush.measureText(line).width;
        }""",
        max(told.split(", sliced ", 1)[1].split(", "), key=len),
    )
    assert width < box["width"]


@pytest.mark.parametrize("way", [(0.0, 0.6), (0.6, 0.6), (-0.6, -0.6), (0.6, 0.0)])
def test_a_finger_draws_a_box_in_any_direction(player_on, way):
    player = player_on(1, PHONE, has_touch=True)
    box = player.locator("canvas").bounding_box()
    side = box["width"]
    middle = (box["x"] + side / 2, box["y"] + 26 + side / 2)
    start = [m - side * w / 2 for m, w in zip(middle, way, strict=True)]
    # a box without a width holds nothing: a finger never goes quite straight
    end = [m + side * (w / 2 or 0.1) for m, w in zip(middle, way, strict=True)]
    touch = player.page.context.new_cdp_session(player.page)

    def send(kind: str, points: list) -> None:
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    set_slider(player, 10)
    send("touchStart", [{"x": start[0], "y": start[1]}])
    for k in range(1, 11):
        x, y = (a + k / 10 * (b - a) for a, b in zip(start, end, strict=True))
        send("touchMove", [{"x": x, "y": y}])
    send("touchEnd", [])
    told = drawn(player).get_by_role("status").inner_text()
    found = re.fullmatch(r"following (\d+) of 300 particles", told)
    assert found and int(found[1]) > 5, told
    assert player.page.evaluate("() => window.scrollY") == 0  # the page stood still
