"""One start, many noises, with a kernel and without; and what was measured as curves."""

from __future__ import annotations

import re

from diffflow_edu import toy
from diffflow_edu.player import play
from tests.browser.test_player_compare import FIELDS
from tests.browser.test_player_in_jupyterlab import SETUP, drawn, picture, set_slider


def told(player) -> str:
    return drawn(player).get_by_role("status").inner_text()


def press(player, name: str) -> None:
    player.get_by_role("button", name=name, exact=name == "clear the selection").click()


def test_without_a_kernel_the_nearest_particles_show_where_a_point_may_go(open_page, tmp_path):
    names: dict = {}
    exec(SETUP, names)
    play({"A": names["a"], "B": names["b"]}).save_html(tmp_path / "two.html")
    player = open_page(tmp_path / "two.html")
    set_slider(player, 10)
    plain = picture(player)
    futures = player.get_by_role("button", name="futures")
    futures.click()
    assert futures.get_attribute("aria-pressed") == "true"
    assert told(player).startswith("Click anywhere")
    # The lower left corner of the second panel, far from every particle.
    box = player.locator("canvas").bounding_box()
    player.locator("canvas").click(
        position={"x": box["width"] / 2 + 30, "y": 20 + (box["width"] - 14) / 2}
    )
    number = r"\d+\.\d\d"
    panel = rf"{number} at the data, {number} at the noise \(of the nearest particles\)"
    first = told(player)
    assert re.fullmatch(
        rf"From \(−{number}, −{number}\) at step 10 the ways spread: A {panel} · B {panel}", first
    ), first
    dropped = picture(player)
    assert dropped != plain
    set_slider(player, 20)  # the fan stays, its dots move
    assert told(player) == first
    assert picture(player) != dropped
    player.page.keyboard.press("Escape")
    set_slider(player, 10)
    press(player, "futures")
    assert picture(drawn(player)) == plain
    # by keyboard: of the particle that is followed
    press(player, "follow another particle")
    player.page.keyboard.press("b")
    assert told(player).startswith("From (")
    press(player, "clear the selection")
    assert told(player).startswith("Click anywhere")


def test_with_a_kernel_the_model_itself_tells_the_futures_of_a_point(open_notebook):
    notebook = open_notebook(FIELDS)
    notebook.run_all()
    player = notebook.players.first
    player.locator("canvas").wait_for()
    set_slider(player, 5)
    press(player, "futures")
    player.locator("canvas").click(position={"x": 60, "y": 90})
    status = player.get_by_role("status")
    notebook.page.wait_for_function(
        "status => status.textContent.startsWith('From (') && !/nearest/.test(status.textContent)",
        arg=status.element_handle(),
    )
    assert re.search(r"DDPM \d\.\d\d at the data, \d\.\d\d at the noise$", told(player))
    assert notebook.complaints == []


def test_curves_stand_under_the_axis_and_their_cursor_follows(open_page, tmp_path):
    names: dict = {}
    exec(SETUP + "path, _ = rings(n=300, steps=10)", names)
    play({"A": names["path"]}, density=toy.load("ring")).save_html(tmp_path / "measured.html")
    player = open_page(tmp_path / "measured.html", {"width": 700, "height": 600})
    canvas = player.locator("canvas")
    plain, height = picture(player), canvas.bounding_box()["height"]
    side = canvas.bounding_box()["width"]
    curves = player.get_by_role("button", name="curves")
    curves.focus()
    player.page.keyboard.press("Space")
    assert curves.get_attribute("aria-pressed") == "true"
    box = drawn(player).locator("canvas").bounding_box()
    # both panels are so small that words have their usual size
    assert max(side, box["width"]) <= 430 and box["height"] - box["width"] > 60 + height - side
    # The longest column of ink between axis and numbers is the cursor; it goes with the time.
    cursor = """canvas => {
        const wide = canvas.width - 18;
        const { data } = canvas.getContext('2d').getImageData(9, canvas.width + 76, wide, 40);
        let best = 0, where = 0;
        for (let x = 0; x < wide; x++) {
            let many = 0;
            for (let y = 0; y < 40; y++) if (data[4 * (y * wide + x) + 3] > 90) many++;
            if (many > best) [best, where] = [many, x];
        }
        return [where / wide, best];
    }"""
    for step in (2, 5, 8):
        set_slider(player, step)
        where, ink = canvas.evaluate(cursor)
        assert ink > 30
        assert abs(where - step / 10) < 0.03
    set_slider(player, 0)
    curves.click()
    assert picture(drawn(player)) == plain
