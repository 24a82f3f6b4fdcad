"""How fast the player is in a headless browser, and how many bytes it sends.

    python -m benchmarks.player               # writes benchmarks/results/player.json

Two players, each in JupyterLab and as the page of `save_html`:

- "everything": 3 panels of 2000 particles and 31 frames, two pretrained models with their fields
  and a flow with its warped grid, metrics at every step; trails, one path, the density underlay,
  arrows and grid are all switched on.
- "many": 4 panels of 5000 random walks and 31 frames, with trails and one path.

"first picture" runs in JupyterLab from the keys that run the cell, sampling not included, to the
first drawn canvas; on the saved page from the page's request. "draw" is the median time that the
script needs for a picture after the slider's event, "slider" the time until the end of the next
frame, which shows it: a frame of 16.7 ms is its floor; "fps" counts frames while the player plays.
"bytes" is what comes through the kernel's socket while the cell runs, the film strip included;
"play_cpu" the processor time of `play` and of its film strip. Every number is the median of several
rounds, and the range between them is given. Finished rounds are kept in runs/player, and not
measured again on the same commit, machine and browser.
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import Browser, Locator, sync_playwright

from benchmarks.records import once, write_json
from benchmarks.train_zoo import current_commit
from diffflow_edu.player import Player
from tests.browser.conftest import CHROMIUM, FLAGS, Lab, end_kernels, open_in, serving

RESULTS = Path(__file__).parent / "results" / "player.json"
RUNS = Path("runs") / "player"
ROUNDS = 3

SETUP = """
import torch
from diffflow_edu import Trajectory, play, pretrained, toy
from diffflow_edu.processes.base import Process

class Twist(Process):
    "A flow that turns the plane the more, the farther out."
    def encode(self, x, seed=None):
        times = models["DDPM"].schedule.times.to(x)
        angle = (times / times[-1])[:, None] * x.norm(dim=1)
        turned = [angle.cos() * x[:, 0] - angle.sin() * x[:, 1],
                  angle.sin() * x[:, 0] + angle.cos() * x[:, 1]]
        return Trajectory(times, torch.stack(turned, dim=2))

density = toy.load("olympic_rings")
models = {name: pretrained(name.lower(), "olympic_rings", 30) for name in ("DDPM", "DiffFlow")}
runs = {name: model.sample(2000, seed=0) for name, model in models.items()}
runs["flow"] = Twist().encode(density.sample(2000, seed=0))
g = torch.Generator().manual_seed(0)
walks = {f"walk {k}": Trajectory(torch.linspace(0, 1, 31),
                                 0.2 * torch.randn(31, 5000, 2, generator=g).cumsum(0))
         for k in range(4)}
"""
CELLS = {
    "everything": "p = play(runs, density=density, fields=models, grid={'flow': Twist()})",
    "many": "p = play(walks, color=torch.arange(5000) % 5, max_points=5000)",
}
SIZES = {"everything": "3 x 2000 x 31", "many": "4 x 5000 x 31"}

DRAWN = """() => { const c = document.querySelector('.diffflow-player canvas');
    return c && c.width > 300 && c.getContext('2d').getImageData(0, 0, c.width, c.height)
        .data.some(v => v > 0) && (performance.mark('drawn'), true); }"""

SLIDER = """async root => {
    const input = root.querySelector('input'), times = [], draws = [];
    const canvas = root.querySelector('canvas');
    const frame = () => new Promise(requestAnimationFrame);
    const settled = () => new Promise(r => { const c = new MessageChannel();
        c.port1.onmessage = r; requestAnimationFrame(() => c.port2.postMessage(0)); });
    let before = canvas.toDataURL();
    for (let i = 1; i < 30; i++) {
        await frame(); await frame();
        input.value = i;
        const start = performance.now();
        input.dispatchEvent(new Event('input', { bubbles: true }));
        draws.push(performance.now() - start);
        await settled();
        times.push(performance.now() - start);
        const after = canvas.toDataURL();
        if (after === before) throw new Error('nothing was drawn');
        before = after;
    }
    return [times, draws];
}"""

FPS = """async root => {
    root.querySelector('[aria-label="loop"]').click();
    root.querySelector('[aria-label="play/pause"]').click();
    const frame = () => new Promise(requestAnimationFrame);
    for (let i = 0; i < 10; i++) await frame();
    const start = performance.now();
    let frames = 0;
    while (performance.now() - start < 3000) { await frame(); frames++; }
    root.querySelector('[aria-label="play/pause"]').click();
    root.querySelector('[aria-label="loop"]').click();
    return 1000 * frames / (performance.now() - start);
}"""


def switch_on(root: Locator) -> None:
    for name in ("trails", "density", "grid"):
        button = root.get_by_role("button", name=name, exact=True)
        # of "many", trails and a path alone: more would hide 20 000 particles
        if button.count() and (name == "trails" or root.get_by_label("arrows").count()):
            button.click()
    if root.get_by_label("arrows").count():
        root.get_by_role("combobox", name="arrows").select_option(label="score s")
    root.get_by_role("button", name="follow another").click()


def in_motion(root: Locator) -> dict[str, float]:
    bare, _ = map(statistics.median, root.evaluate(SLIDER))
    switch_on(root)
    slider, drawing = map(statistics.median, root.evaluate(SLIDER))
    fps = root.evaluate(FPS)
    return {"slider_ms_bare": bare, "slider_ms": slider, "draw_ms": drawing, "fps": fps}


def on_the_saved_page(browser: Browser, player: Player) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "player.html"
        player.save_html(path)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(path.as_uri(), wait_until="commit")
        page.wait_for_function(DRAWN)
        first = page.evaluate("() => performance.getEntriesByName('drawn')[0].startTime")
        moving = in_motion(page.locator(".diffflow-player"))
        page.close()
    return {"first_picture_s": first / 1000} | moving


def in_jupyterlab(lab: Lab, browser: Browser, cell: str) -> dict[str, float]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    notebook = open_in(lab, context, SETUP, "p = None", f"{cell}\np")
    page = notebook.page
    sizes: list[int] = []

    def listen(socket: Any) -> None:
        socket.on("framereceived", lambda frame: sizes.append(len(frame)))

    page.on("websocket", listen)
    page.reload()
    first, _, last = (page.locator(".jp-Notebook .jp-CodeCell").nth(i) for i in range(3))
    page.locator(".jp-NotebookPanel-toolbar [data-status=idle]").wait_for(timeout=60_000)
    first.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    page.wait_for_function(
        "c => /\\d/.test(c.querySelector('.jp-InputPrompt').textContent)",
        arg=first.element_handle(),
        timeout=120_000,
    )
    page.locator(".jp-NotebookPanel-toolbar [data-status=idle]").wait_for()
    last.locator(".cm-content").click()
    sizes.clear()
    page.evaluate(
        "() => document.addEventListener('keydown', () => performance.mark('run'),"
        " { capture: true, once: true })"
    )
    page.keyboard.press("Control+Enter")
    page.wait_for_function(DRAWN, timeout=60_000)
    seconds = page.evaluate(
        "() => { const [run, drawn] = ['run', 'drawn'].map(n => performance.getEntriesByName(n));"
        " return (drawn[0].startTime - run[0].startTime) / 1000; }"
    )
    moving = in_motion(page.locator(".diffflow-player"))
    context.close()
    end_kernels(lab)
    return {"first_picture_s": seconds, "bytes": sum(sizes)} | moving


def in_python(cell: str) -> tuple[Player, dict[str, float]]:
    names: dict[str, Any] = {}
    exec(SETUP, names)
    start = time.process_time()
    exec(cell, names)
    names["p"]._repr_mimebundle_()
    return names["p"], {"play_cpu_s": time.process_time() - start}


def one_round(lab: Lab, browser: Browser, cell: str) -> dict[str, dict[str, float]]:
    player, cost = in_python(cell)
    page = on_the_saved_page(browser, player)
    return {"python": cost, "saved page": page, "JupyterLab": in_jupyterlab(lab, browser, cell)}


def summary(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """The median of each number and its range."""
    columns = {name: [each[name] for each in rounds] for name in rounds[0]}
    return {
        name: {
            "median": round(statistics.median(values), 3),
            "range": [round(min(values), 3), round(max(values), 3)],
        }
        for name, values in columns.items()
    }


def main() -> None:
    torch.set_num_threads(1)
    commit, rows = current_commit(), []
    with (
        sync_playwright() as engine,
        tempfile.TemporaryDirectory() as room,
        serving(Path(room) / "jupyter") as lab,
    ):
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        in_python(CELLS["many"])  # matplotlib's first figure is slower than the next
        for name, cell in CELLS.items():
            rounds = []
            for number in range(ROUNDS):
                path = RUNS / f"{name}-{number}.json"
                here = {"commit": commit, "machine": platform.node(), "chromium": browser.version}
                entry = once(path, lambda cell=cell: one_round(lab, browser, cell), **here)
                rounds.append(entry["found"])
                print(name, rounds[-1], sep="\n  ", flush=True)
            measured = {where: summary([each[where] for each in rounds]) for where in rounds[0]}
            rows.append({"player": name, "panels x particles x frames": SIZES[name]} | measured)
        version = browser.version
        browser.close()
    machine = {
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "chromium": version,
        "gpu": "none, software drawing",
        "rounds": ROUNDS,
    }
    write_json(RESULTS, {"machine": machine, "rows": rows})


if __name__ == "__main__":
    main()
