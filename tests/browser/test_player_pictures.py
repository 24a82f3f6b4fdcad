"""What the player's pictures claim: arrows on one scale, densities by one rule, dots on any page.

And dials that are played. All on saved pages, which need no server.
"""

from __future__ import annotations

import math

import pytest
import torch

from diffflow_edu import DiffFlow, Schedule
from diffflow_edu.player import play
from diffflow_edu.processes.base import Trajectory
from tests.browser.test_player_in_jupyterlab import drawn, picture, set_slider

# Pixels of a panel that are drawn at all.
INK = """([canvas, panel]) => {
    const side = (canvas.width - 14) / 2;
    const left = panel * (side + 14) + 3;
    const { data } = canvas.getContext('2d').getImageData(left, 60, side - 6, side - 40);
    let many = 0;
    for (let i = 3; i < data.length; i += 4) if (data[i] > 60) many++;
    return many;
}"""


def ink(player, panel: int) -> int:
    canvas = drawn(player).locator("canvas").element_handle()
    return player.page.evaluate(INK, [canvas, panel])


def still(points: torch.Tensor, steps: int = 3) -> Trajectory:
    return Trajectory(torch.linspace(0, 1, steps + 1), points.expand(steps + 1, -1, -1))


def test_arrows_of_all_panels_share_a_scale_until_each_gets_its_own(open_page, tmp_path):
    schedule = Schedule.log_snr(steps=3)
    corner = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    models = {
        name: DiffFlow(lambda x, t: 0 * x, lambda x, t, k=k: -k * x, schedule)
        for name, k in (("strong", 1.0), ("weak", 1e-4))
    }
    panels = dict.fromkeys(models, still(corner))
    play(panels, fields=models).save_html(tmp_path / "arrows.html")
    player = open_page(tmp_path / "arrows.html")
    bare = [ink(player, panel) for panel in (0, 1)]
    own = player.get_by_role("button", name="own scale")
    assert own.is_hidden()  # without arrows there is no scale
    player.get_by_role("combobox", name="arrows").select_option(label="score s")
    shared = [ink(player, panel) - bare[panel] for panel in (0, 1)]
    # A ten thousandth of the score has a hundredth of the length, less than a pixel: only the
    # label is drawn there.
    assert shared[1] < shared[0] / 3
    own.click()
    assert own.get_attribute("aria-pressed") == "true"
    each = [ink(player, panel) - bare[panel] for panel in (0, 1)]
    assert each[1] == pytest.approx(each[0], rel=0.1)  # but for the numbers of the labels
    assert each[1] > 3 * shared[1]


def circle(n: int = 2000) -> torch.Tensor:
    angle = torch.arange(n) * 2 * math.pi / n
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def noise(n: int = 2000) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0))


# The opacity along a line from the middle of a panel to the right, at shares of its half side.
FOG = """([canvas, shares]) => {
    const side = canvas.width, brush = canvas.getContext('2d');
    return shares.map(share => brush.getImageData(
        Math.round(side / 2 * (1 + share)), Math.round(1 + side / 2), 1, 1).data[3] / 255);
}"""


def test_under_a_thin_circle_the_density_is_thin_and_under_a_cloud_smooth(open_page, tmp_path):
    play(still(circle())).save_html(tmp_path / "circle.html")
    player = open_page(tmp_path / "circle.html")
    player.get_by_role("button", name="density").click()
    half = float(player.get_attribute("data-view").split(",")[2])
    canvas = drawn(player).locator("canvas").element_handle()
    # The dots end within .02 of the circle; at .07 of it there is nothing left.
    shares = [(1 - off) / half for off in (0.0, 0.07, 0.15, 0.5, 1.0)]
    fog = player.page.evaluate(FOG, [canvas, shares])
    assert fog[0] > 0.5
    assert max(fog[1:]) < 0.1

    play(
        Trajectory(torch.tensor([0.0, 1.0]), noise().expand(2, -1, -1)), max_points=2000
    ).save_html(tmp_path / "cloud.html")
    player = open_page(tmp_path / "cloud.html")
    without = picture(drawn(player))
    player.get_by_role("button", name="density").click()
    assert picture(drawn(player)) != without
    canvas = player.locator("canvas").element_handle()
    half = float(player.get_attribute("data-view").split(",")[2])
    # Far out there are few dots, and the fog still is no hole: it thins out smoothly.
    fog = player.page.evaluate(FOG, [canvas, [r / half for r in (0.0, 0.5, 1.0, 1.5, 2.0)]])
    assert min(fog[:4]) > 0.05


CONTRAST = """canvas => {
    // What lies on the page's #111, inside the disc: dots are blue, the fog is grey.
    const lum = rgb => rgb.map(v => v / 255)
        .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const side = Math.round(canvas.width * .3), from = Math.round(canvas.width * .35);
    const { data } = canvas.getContext('2d').getImageData(from, from, side, side);
    const dots = [], fog = [];
    for (let i = 0; i < data.length; i += 4) {
        const share = data[i + 3] / 255;
        const rgb = [0, 1, 2].map(c => share * data[i + c] + (1 - share) * 17);
        const blue = rgb[2] - rgb[0];
        if (share > .8 && blue > 50) dots.push(lum(rgb));
        else if (blue < 15) fog.push(lum(rgb));
    }
    const middle = values => values.sort((a, b) => a - b)[values.length >> 1];
    return [(middle(dots) + .05) / (middle(fog) + .05), dots.length, middle(fog)];
}"""


def test_on_a_dark_page_the_darkest_dots_stand_out_from_the_density(open_page, tmp_path):
    k = torch.arange(400)
    radius, angle = (k / 400).sqrt(), k * math.pi * (3 - math.sqrt(5))
    disc = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    play(still(disc)).save_html(tmp_path / "disc.html")
    player = open_page(tmp_path / "disc.html", color_scheme="dark")
    player.get_by_role("button", name="density").click()
    contrast, dots, fog = drawn(player).locator("canvas").evaluate(CONTRAST)
    assert dots > 100
    assert fog > 0.01  # there is one: #111 alone has .006
    assert contrast > 3  # what WCAG asks of graphics


def test_a_dial_is_played_to_its_end_and_by_the_space_bar(open_page, tmp_path):
    settings = {n: still(n * circle(50) / 3) for n in (1, 2, 3)}
    play({"N": settings}).save_html(tmp_path / "dial.html")
    player = open_page(tmp_path / "dial.html")
    page, dial = player.page, player.get_by_role("slider", name="N", exact=True)
    set_slider(player, 2)
    small = picture(player)
    wait = "([input, value]) => input.getAttribute('aria-valuetext') === value"
    play_dial = player.get_by_role("button", name="play the dial N")
    play_dial.click()
    assert play_dial.get_attribute("aria-pressed") == "true"
    for value in ("2", "3"):
        page.wait_for_function(wait, arg=[dial.element_handle(), value])
    page.wait_for_function(
        "button => button.getAttribute('aria-pressed') === 'false'",
        arg=play_dial.element_handle(),
    )
    assert player.get_by_text("3", exact=True).is_visible()  # the value, large
    assert picture(drawn(player)) != small
    # At its end it starts over; a hand on it stops it.
    space = """input => {
        input.dispatchEvent(new KeyboardEvent('keydown', { key: ' ', bubbles: true }));
        return input.getAttribute('aria-valuetext');
    }"""
    assert dial.evaluate(space) == "1"
    moved = "input => input.getAttribute('aria-valuetext') !== '1'"
    page.wait_for_function(moved, arg=dial.element_handle())
    dial.focus()
    page.keyboard.press("Home")
    assert play_dial.get_attribute("aria-pressed") == "false"
    assert picture(drawn(player)) == small
    # With the loop on, it goes round.
    player.get_by_role("button", name="loop").click()
    player.get_by_role("combobox", name="speed").select_option(label="4×")
    play_dial.click()
    for value in ("3", "1", "3"):
        page.wait_for_function(wait, arg=[dial.element_handle(), value])
