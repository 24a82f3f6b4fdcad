"""The player as a page that needs no kernel and no network, and as a film."""

from __future__ import annotations

import base64
import html
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import animation
from matplotlib.axes import Axes

from diffflow_edu.figures.images import mosaic
from diffflow_edu.figures.style import as_text, bare_square, digits_for, headline, style
from diffflow_edu.figures.trajectories import show_images
from diffflow_edu.player.pack import MISSING, script
from diffflow_edu.schedules import check_positive

if TYPE_CHECKING:
    from diffflow_edu.player.player import Player

FPS = 12
HOLD = 1.0
"""Seconds for which a film shows its first and its last picture."""

FILM_DPI = 90

NO_MARKUP = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&"}
"""A title that holds "</script>" or "<!--" would end its element, or swallow the next; JSON.parse
gives the letters back. `json.dumps` writes U+2028 and U+2029 like this by itself."""

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; }
body { margin: 16px auto; padding: 0 12px; max-width: 1800px; font-family: system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #e6e6e6; } }
.film-strip { max-width: 100%; background: #fff; }
</style>
</head>
<body>
<main id="player"></main>
<noscript><img class="film-strip" alt="$alt" src="data:image/png;base64,$png"></noscript>
<script id="state" type="application/json">$state</script>
<script type="module">
$script
// Stands in for the kernel's model: the state lies in this page.
const state = JSON.parse(document.getElementById("state").textContent);
for (const name of $binary) {
  const bytes = Uint8Array.from(atob(state[name]), (c) => c.charCodeAt(0));
  state[name] = new DataView(bytes.buffer);
}
render({ model: { get: (name) => state[name] }, el: document.getElementById("player") });
</script>
</body>
</html>
""")


def page(player: Player) -> str:
    """One HTML page that holds script, particles and film strip."""
    binary = [name for name, trait in player.traits(sync=True).items() if is_bytes(trait)]
    state = {name: base64.b64encode(getattr(player, name)).decode() for name in binary}
    state["spec"] = player.spec
    return PAGE.substitute(
        title=html.escape(player.spec["title"] or "Trajectory player"),
        alt=html.escape(player.alt),
        png=base64.b64encode(player.png).decode(),
        state=json.dumps(state, allow_nan=False).translate(NO_MARKUP),
        script=script().replace("export default { render };", ""),
        binary=json.dumps(binary),
    )


def is_bytes(trait: object) -> bool:
    """Whether this trait of a widget travels as a buffer."""
    return type(trait).__name__ == "Bytes"


def film(player: Player, path: str | Path, writer: str, fps: float) -> None:
    """Write every step of the player's first run, in its direction, with a matplotlib writer.

    writer: "pillow" for GIF, "ffmpeg" for MP4. Raises ValueError for fps <= 0, RuntimeError where
    ffmpeg is not installed.
    """
    check_positive(fps=fps)
    if writer == "ffmpeg" and shutil.which("ffmpeg") is None:
        raise RuntimeError(
            "save_mp4 needs the program ffmpeg, which is not on this machine's path; install it "
            "(conda install ffmpeg, apt install ffmpeg), or use save_gif or save_html"
        )
    spec = player.spec
    run, panels = spec["runs"][0], len(spec["panels"])
    times = np.asarray(run["times"])
    digits = digits_for(times)
    with style():
        figure, grid = plt.subplots(
            1, panels, figsize=(3.6 * panels, 4.2), squeeze=False, layout="constrained"
        )
        draw = _images(player, grid[0]) if "images" in spec else _points(player, grid[0])
        headline(figure, spec["title"])

        def show(step: int) -> None:
            draw(step)
            for panel, axes in enumerate(grid[0]):
                name = spec["panels"][panel]
                time = f"t = {times[panel, step]:.{digits}f}"
                axes.set_title(as_text(f"{name} · {time}" if name else time))

        order = list(range(run["frames"]))
        if spec["direction"] == "backward":
            order.reverse()
        still = round(HOLD * fps)
        order = [order[0]] * still + order + [order[-1]] * still
        moving = animation.FuncAnimation(figure, show, frames=order, init_func=lambda: None)
        try:
            moving.save(path, writer=writer, fps=fps, dpi=FILM_DPI)
        finally:
            plt.close(figure)


def _points(player: Player, grid: Sequence[Axes]) -> Callable[[int], None]:
    """Particles of the first run on the axes; returns what moves them to a step."""
    spec = player.spec
    x, y, half = spec["view"]
    shape = (spec["runs"][0]["frames"], len(grid), spec["points"], 2)
    whole = np.frombuffer(player.frames, "<i2")[: math.prod(shape)].reshape(shape)
    states = np.where(whole == MISSING, np.nan, whole * spec["reach"] * half + (x, y))
    colors = np.frombuffer(player.colors, np.uint8)[: shape[1] * shape[2]].reshape(shape[1:3])
    palette = np.asarray(spec["colorings"][0]["palette"])
    clouds = []
    for panel, axes in enumerate(grid):
        shades = palette[colors[panel]]
        clouds.append(axes.scatter(*states[0, panel].T, s=4, c=shades, lw=0))
        bare_square(axes, (x, y, half))

    def draw(step: int) -> None:
        for panel, cloud in enumerate(clouds):
            cloud.set_offsets(states[step, panel])

    return draw


def _images(player: Player, grid: Sequence[Axes]) -> Callable[[int], None]:
    """Images of the first run on the axes; returns what moves them to a step."""
    spec = player.spec
    sizes = [spec["images"][name] for name in ("height", "width", "channels")]
    shape = (spec["runs"][0]["frames"], len(grid), spec["points"], *sizes)
    images = np.frombuffer(player.frames, np.uint8)[: math.prod(shape)].reshape(shape)
    for panel, axes in enumerate(grid):
        show_images(axes, images[0, panel])

    def draw(step: int) -> None:
        for panel, axes in enumerate(grid):
            axes.images[0].set_data(mosaic(images[step, panel]))

    return draw
