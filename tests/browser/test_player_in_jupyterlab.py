"""The player in JupyterLab, by mouse and by keyboard."""

from __future__ import annotations

import statistics

import pytest

SETUP = """
import math, torch
from diffflow_edu.processes.base import Trajectory
from diffflow_edu.player import play

def rings(turn=0.0, n=2000, steps=30):
    g = torch.Generator().manual_seed(0)
    mode = torch.arange(n) % 3
    angle = 2 * math.pi * torch.rand(n, generator=g)
    ring = torch.stack([angle.cos() / 2 + mode - 1.0, angle.sin() / 2], dim=1)
    noise = torch.randn(n, 2, generator=g)
    times = torch.linspace(0, 1, steps + 1)
    states = torch.stack([
        math.cos(t * math.pi / 2) * (ring @ torch.tensor(
            [[math.cos(turn * t), -math.sin(turn * t)], [math.sin(turn * t), math.cos(turn * t)]]
        )) + math.sin(t * math.pi / 2) * noise
        for t in times.tolist()
    ])
    return Trajectory(times, states), mode

a, mode = rings()
b, _ = rings(turn=1.5)
c, _ = rings(turn=-3.0)
"""
ONE = 'play({"DDPM": a, "DiffFlow": b, "CNF": c}, color=mode, title="Three ways to noise")'
LAST = 30


def picture(player) -> str:
    """The pixels of a player's canvas, as text."""
    return player.locator("canvas").evaluate("canvas => canvas.toDataURL()")


def drawn(player):
    """Wait until the frames that were asked for are on the canvas, then give the player back."""
    player.evaluate("() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
    return player


def time_slider(player):
    """The slider of the time; dials have sliders, too."""
    return player.get_by_role("slider", name="time step")


def step(player) -> int:
    """Where the slider stands."""
    return int(time_slider(player).input_value())


def set_slider(player, value: int) -> None:
    """Drag the slider, as far as the page can tell."""
    time_slider(player).fill(str(value))
    drawn(player)


@pytest.fixture
def notebook(open_notebook):
    """A notebook with one player, run."""
    opened = open_notebook(SETUP, ONE)
    opened.run_all()
    opened.players.first.locator("canvas").wait_for()
    return opened


def test_the_player_draws_and_every_control_works(notebook):
    player = notebook.players.first
    page = notebook.page
    assert step(player) == 0
    data = picture(drawn(player))

    # the slider changes the picture, the readout and its text for screen readers
    set_slider(player, 12)
    assert picture(player) != data
    readout = player.locator("[aria-live]")
    assert readout.inner_text() == "t = 0.40 · step 12/30"
    slider = player.get_by_role("slider")
    assert slider.get_attribute("aria-valuetext") == "t = 0.40 · step 12/30"

    # back at the data the picture is the first one, to the pixel
    set_slider(player, 0)
    assert picture(player) == data

    player.get_by_role("button", name="step forward").click()
    assert step(drawn(player)) == 1
    player.get_by_role("button", name="step back").click()
    assert step(drawn(player)) == 0
    assert picture(player) == data

    # play runs by itself to the noise and stops there; play again starts over
    play = player.get_by_role("button", name="play/pause", exact=True)
    play.click()
    page.wait_for_function("input => input.value > 3", arg=slider.element_handle())
    assert readout.get_attribute("aria-live") == "off"
    page.wait_for_function(f"input => input.value == {LAST}", arg=slider.element_handle())
    assert drawn(player).locator("[aria-live]").get_attribute("aria-live") == "polite"
    play.click()
    assert step(drawn(player)) < LAST
    play.click()
    paused = step(drawn(player))
    assert picture(player) == picture(drawn(player))
    assert step(player) == paused

    # and the other way
    set_slider(player, 15)
    player.get_by_role("button", name="play direction").click()
    play.click()
    page.wait_for_function("input => input.value == 0", arg=slider.element_handle())
    assert picture(drawn(player)) == data
    assert notebook.complaints == []


@pytest.mark.parametrize("focus", ["canvas", "input"])
def test_the_keyboard_steps_jumps_and_plays(notebook, focus):
    player, page = notebook.players.first, notebook.page
    player.locator(focus).focus()
    for key, expected in [
        ("End", LAST), ("ArrowLeft", LAST - 1), ("ArrowRight", LAST), ("Home", 0),
        ("ArrowRight", 1), ("ArrowLeft", 0), ("ArrowLeft", 0),
    ]:  # fmt: skip
        page.keyboard.press(key)
        assert step(drawn(player)) == expected, key
    start = picture(player)
    page.keyboard.press("Space")
    page.wait_for_function("input => input.value > 1", arg=player.locator("input").element_handle())
    page.keyboard.press("Space")
    stopped = step(drawn(player))
    assert picture(player) != start
    assert step(drawn(player)) == stopped
    # JupyterLab saw none of these keys: the notebook still has its two cells and this selection
    assert page.locator(".jp-Notebook .jp-CodeCell").count() == 2
    assert player.locator(focus).evaluate("e => e === document.activeElement")
    assert notebook.complaints == []


def test_space_on_a_button_presses_that_button_once(notebook):
    player, page = notebook.players.first, notebook.page
    player.get_by_role("button", name="step forward").focus()
    page.keyboard.press("Space")
    assert step(drawn(player)) == 1
    player.get_by_role("button", name="play/pause", exact=True).focus()
    page.keyboard.press("Space")
    assert drawn(player).locator("[aria-live]").get_attribute("aria-live") == "off"
    page.keyboard.press("Space")
    assert drawn(player).locator("[aria-live]").get_attribute("aria-live") == "polite"


def test_two_players_on_one_page_are_independent_and_views_of_one_player_too(open_notebook):
    notebook = open_notebook(SETUP, "p = play(a, color=mode); p", "play(b)", "p")
    notebook.run_all()
    notebook.players.nth(2).locator("canvas").wait_for()
    first, second, again = (notebook.players.nth(i) for i in range(3))
    before = picture(drawn(second)), picture(drawn(again))
    set_slider(first, 20)
    assert (step(second), step(again)) == (0, 0)
    assert (picture(drawn(second)), picture(drawn(again))) == before
    ids = notebook.page.eval_on_selector_all(".diffflow-player [id]", "es => es.length")
    assert ids == 0
    assert notebook.complaints == []


def test_running_the_cell_again_leaves_one_working_player(notebook):
    page = notebook.page
    old = notebook.players.first.locator("canvas").element_handle()
    page.locator(".jp-Notebook .jp-CodeCell").nth(1).locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    page.wait_for_function("canvas => !canvas.isConnected", arg=old)
    notebook.players.first.locator("canvas").wait_for()
    assert notebook.players.count() == 1
    before = picture(drawn(notebook.players.first))
    set_slider(notebook.players.first, 9)
    assert picture(notebook.players.first) != before
    assert notebook.complaints == []


def test_autoplay_starts_by_itself_except_for_readers_who_want_less_motion(open_notebook):
    cell = "play(a, autoplay=True, direction='backward')"
    lively = open_notebook(SETUP, cell)
    lively.run_all()
    lively.page.wait_for_function(
        "() => { const i = document.querySelector('.diffflow-player input');"
        " return i && i.value < 28; }"
    )
    calm = open_notebook(SETUP, cell, reduced_motion="reduce")
    calm.run_all()
    player = calm.players.first
    player.locator("canvas").wait_for()
    assert drawn(player).locator("[aria-live]").get_attribute("aria-live") == "polite"
    assert step(player) == LAST


def test_both_themes_keep_text_and_buttons_readable(notebook):
    player, page = notebook.players.first, notebook.page
    light = picture(drawn(player))
    contrast = """root => {
        const lum = color => {
            const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
                .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
            return .2126 * r + .7152 * g + .0722 * b;
        };
        let page = root;
        while (/rgba\\(0, 0, 0, 0\\)/.test(getComputedStyle(page).backgroundColor))
            page = page.parentElement;
        const pair = [lum(getComputedStyle(root).color),
                      lum(getComputedStyle(page).backgroundColor)].sort((a, b) => b - a);
        return (pair[0] + .05) / (pair[1] + .05);
    }"""
    assert player.evaluate(contrast) >= 4.5  # WCAG AA for text
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    page.locator(".lm-Menu-item", has_text="Theme").first.hover()
    page.locator(".lm-Menu-item", has_text="JupyterLab Dark").first.click()
    page.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
    page.wait_for_function(
        "([canvas, before]) => canvas.toDataURL() !== before",
        arg=[player.locator("canvas").element_handle(), light],
    )
    assert player.evaluate(contrast) >= 4.5
    assert notebook.complaints == []


def test_three_panels_of_2000_points_draw_anew_at_every_step_of_the_slider(notebook):
    """How fast is printed, and kept by benchmarks/player.py: no floor holds for every machine."""
    player = notebook.players.first
    player.get_by_role("button", name="trails").click()
    player.get_by_role("button", name="follow another particle").click()
    drawn(player)
    latencies = player.evaluate(
        """async root => {
            const input = root.querySelector('input'), times = [];
            const canvas = root.querySelector('canvas');
            const frame = () => new Promise(requestAnimationFrame);
            for (let i = 1; i <= 20; i++) {
                await frame();
                const before = canvas.getContext('2d').getImageData(0, 0, canvas.width, 400).data;
                input.value = i;
                const start = performance.now();
                input.dispatchEvent(new Event('input', { bubbles: true }));
                await frame();
                const after = canvas.getContext('2d').getImageData(0, 0, canvas.width, 400).data;
                times.push(performance.now() - start);
                if (after.every((v, j) => v === before[j])) throw new Error('nothing was drawn');
            }
            return times;
        }"""
    )
    rate = player.evaluate(
        """async root => {
            root.querySelector('input').value = 0;
            root.querySelector('input').dispatchEvent(new Event('input', { bubbles: true }));
            root.querySelector('[aria-label="play/pause"]').click();
            const frame = () => new Promise(requestAnimationFrame);
            await frame();
            const start = performance.now();
            let frames = 0;
            while (frames < 60) { await frame(); frames++; }
            return 1000 * frames / (performance.now() - start);
        }"""
    )
    print(f"slider to picture {statistics.median(latencies):.1f} ms, {rate:.0f} frames a second")
    assert len(latencies) == 20


def test_a_player_left_open_plays_on_while_its_kernel_restarts(notebook):
    player, page = notebook.players.first, notebook.page
    player.get_by_role("button", name="loop").click()
    player.get_by_role("button", name="play/pause", exact=True).click()
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.locator(".lm-Menu-item", has_text="Restart Kernel…").first.click()
    page.locator("dialog button.jp-mod-accept").click()
    page.locator("dialog").wait_for(state="detached")
    page.locator(".jp-NotebookPanel-toolbar [data-status=idle]").wait_for()
    slider = player.get_by_role("slider")
    here = step(player)
    page.wait_for_function(
        "([input, here]) => Math.abs(input.value - here) > 3", arg=[slider.element_handle(), here]
    )
    player.get_by_role("button", name="play/pause", exact=True).click()
    set_slider(player, 0)
    data = picture(player)
    player.get_by_role("button", name="follow another particle").click()
    player.get_by_role("button", name="trails").click()
    set_slider(player, 9)
    assert picture(player) != data
    assert drawn(player).get_by_role("status").inner_text().startswith("particle ")


def test_after_a_kernel_restart_the_player_works_when_its_cell_runs_again(notebook):
    page = notebook.page
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.locator(".lm-Menu-item", has_text="Restart Kernel…").first.click()
    page.locator("dialog button.jp-mod-accept").click()
    page.locator("dialog").wait_for(state="detached")
    notebook.run_all()
    player = notebook.players.first
    player.locator("canvas").wait_for()
    assert notebook.players.count() == 1
    before = picture(drawn(player))
    set_slider(player, 9)
    assert picture(player) != before
