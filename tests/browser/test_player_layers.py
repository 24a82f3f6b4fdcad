"""The warped grid of a flow, arrows at every dial, and dials that leave the kernel alone."""

from __future__ import annotations

from tests.browser.test_player_in_jupyterlab import drawn, picture, set_slider

FLOW = """
import torch
from diffflow_edu import Trajectory, play
from diffflow_edu.processes.base import Process

class Twist(Process):
    "Turns the plane the more, the farther out, and shrinks it."
    def encode(self, x, seed=None):
        times = torch.linspace(0, 1, 11).to(x)
        angle = times[:, None] * 2 * x.norm(dim=1)
        turned = torch.stack([angle.cos() * x[:, 0] - angle.sin() * x[:, 1],
                              angle.sin() * x[:, 0] + angle.cos() * x[:, 1]], dim=2)
        return Trajectory(times, turned * (1 - times[:, None, None] / 4))

path = Twist().encode(torch.randn(500, 2, generator=torch.Generator().manual_seed(0)))
play({"flow": path, "other": path}, grid={"flow": Twist()}, direction="backward")
"""

# Ink in a panel, counted in dark pixels: lines of a grid are more of it than particles alone.
INK = """([canvas, panel]) => {
    const side = canvas.width / 2;
    const { data } = canvas.getContext('2d').getImageData(panel * side, 60, side - 10, 250);
    let many = 0;
    for (let i = 3; i < data.length; i += 4) if (data[i] > 60) many++;
    return many;
}"""


def ink(player, panel: int) -> int:
    canvas = drawn(player).locator("canvas").element_handle()
    return player.page.evaluate(INK, [canvas, panel])


def test_the_grid_of_a_flow_is_carried_in_its_panel_only(open_notebook):
    notebook = open_notebook(FLOW)
    notebook.run_all()
    player = notebook.players.first
    player.locator("canvas").wait_for()
    set_slider(player, 0)
    plain, bare = picture(player), [ink(player, panel) for panel in (0, 1)]
    button = player.get_by_role("button", name="grid")
    button.focus()
    notebook.page.keyboard.press("Space")
    assert button.get_attribute("aria-pressed") == "true"
    regular = picture(drawn(player))
    assert regular != plain
    assert ink(player, 0) > 1.5 * bare[0]
    assert ink(player, 1) < 1.5 * bare[1]  # only a label says that there is none
    set_slider(player, 8)
    warped = picture(player)
    button.click()
    assert picture(drawn(player)) != warped
    set_slider(player, 0)
    assert picture(player) == plain
    assert notebook.complaints == []


DIAL = """
from diffflow_edu import DDPM, Schedule, fit, play, pretrained, toy
density = toy.load("olympic_rings")
models = {n: pretrained("ddpm", "olympic_rings", steps=n) for n in (5, 10)}
play({"N": {n: {"DDPM": m.sample(500, seed=0)} for n, m in models.items()}},
     fields={"N": {n: {"DDPM": m} for n, m in models.items()}}, density=density)
"""
LEARN = """
snapshots = {}
def keep(step, model):
    if step + 1 in (1, 10, 100):
        snapshots[step + 1] = {"DDPM": model.sample(500, seed=0)}
fit(DDPM.mlp(Schedule.log_snr(steps=5)), density, steps=100, callback=keep)
play({"training step": snapshots}, color=density.mode, direction="backward")
"""


def test_dials_over_steps_and_training_change_the_picture_without_asking_the_kernel(open_notebook):
    notebook = open_notebook(DIAL, LEARN)
    sockets, asked = [], []
    notebook.page.on("websocket", lambda socket: sockets.append(socket))
    notebook.page.reload()
    notebook.run_all()
    learned = notebook.players.nth(1)
    learned.locator("canvas").wait_for()
    for socket in sockets:
        if "/channels" in socket.url:
            socket.on("framesent", lambda frame: asked.append(frame))
    assert any("/channels" in socket.url for socket in sockets)

    # N, with arrows of each setting's own model
    player = drawn(notebook.players.first)
    player.get_by_role("combobox", name="arrows").select_option(label="score s")
    dial = player.get_by_role("slider", name="N", exact=True)
    few = picture(drawn(player))
    dial.fill("1")
    many = picture(drawn(player))
    assert many != few
    player.get_by_role("combobox", name="arrows").select_option(label="no arrows")
    assert picture(drawn(player)) != many

    # training step, by keyboard: at the data side the samples take shape
    set_slider(learned, 0)
    dial = learned.get_by_role("slider", name="training step")
    dial.focus()
    seen = {picture(learned)}
    for setting in ("10", "100"):
        notebook.page.keyboard.press("ArrowRight")
        assert dial.get_attribute("aria-valuetext") == setting
        seen.add(picture(drawn(learned)))
    assert len(seen) == 3
    assert asked == []
    assert notebook.complaints == []
