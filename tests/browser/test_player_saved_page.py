"""The page that `save_html` writes, opened from disk with the network off."""

from __future__ import annotations

import pytest

from diffflow_edu.player import play
from tests.browser.conftest import PATIENCE
from tests.browser.test_player_images import CELL as IMAGES
from tests.browser.test_player_in_jupyterlab import SETUP, drawn, picture, set_slider, step
from tests.browser.test_player_layers import FLOW


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved page with three panels of 2000 particles."""
    names: dict = {}
    exec(SETUP, names)  # the same particles as in the tests in JupyterLab
    path = tmp_path_factory.mktemp("saved") / "demo.html"
    runs = {"DDPM": names["a"], "DiffFlow": names["b"], "CNF": names["c"]}
    play(runs, color=names["mode"], title="Three </script> <!--<script> ways $a_{b$").save_html(
        path
    )
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_plays_with_the_network_off(chromium, saved, scheme):
    context = chromium.new_context(offline=True, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(saved.as_uri())
    player = page.locator(".diffflow-player")
    player.locator("canvas").wait_for()
    assert "Three </script> <!--<script> ways $a_{b$" in player.inner_text()
    data = picture(drawn(player))
    set_slider(player, 12)
    assert picture(player) != data
    assert player.locator("[aria-live]").inner_text() == "t = 0.40 · step 12/30"
    player.get_by_role("button", name="follow another particle").click()
    assert drawn(player).get_by_role("status").inner_text().startswith("particle ")
    player.get_by_role("button", name="play/pause", exact=True).click()
    page.wait_for_function("() => document.querySelector('.diffflow-player input').value > 13")
    player.get_by_role("button", name="play/pause", exact=True).click()
    assert step(player) > 13
    assert complaints == []
    assert requests == [saved.as_uri()]
    context.close()


def test_without_javascript_the_page_shows_the_film_strip(chromium, saved):
    context = chromium.new_context(offline=True, java_script_enabled=False)
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(saved.as_uri())
    strip = page.get_by_role("img")
    assert strip.get_attribute("alt").startswith(
        "Three </script> <!--<script> ways $a_{b$. Particles"
    )
    assert strip.bounding_box()["width"] > 300
    context.close()


def test_a_page_of_images_and_one_of_a_carried_grid_play_offline(chromium, tmp_path):
    names: dict = {}
    exec(IMAGES + FLOW, names)  # the same as in the tests in JupyterLab
    grey, path, twist = (names[name] for name in ("grey", "path", "Twist"))
    play({"grey": grey}).save_html(tmp_path / "images.html")
    play({"flow": path}, grid={"flow": twist()}).save_html(tmp_path / "grid.html")
    context = chromium.new_context(offline=True)
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    for name, press in (("images", "follow another image"), ("grid", "grid")):
        page.goto((tmp_path / f"{name}.html").as_uri())
        player = page.locator(".diffflow-player")
        player.locator("canvas").wait_for()
        seen = {picture(drawn(player))}
        set_slider(player, 6)
        seen.add(picture(player))
        player.get_by_role("button", name=press).click()
        seen.add(picture(drawn(player)))
        assert len(seen) == 3
    assert complaints == []
    context.close()
