"""How fast the player is in a headless browser, and how many bytes it sends.

    python benchmarks/player.py                # writes benchmarks/results/player.json

The page is the one of `save_html`: the same script and the same bytes as in JupyterLab, without a
kernel's and a notebook's own work beside it. Panels hold random walks from one Gaussian; trails are
on and one path is shown. "slider" is the median time from the slider's event to the end of the
next frame, which shows the new picture; "fps" counts frames while the player plays; "first
picture" runs from the page's request to the first drawn canvas, base64 decoding included, after
`play_seconds`, the time that `play` takes in Python.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import Browser, sync_playwright

from diffflow_edu.player import play
from diffflow_edu.processes.base import Trajectory

RESULTS = Path(__file__).parent / "results" / "player.json"
SETTINGS = ((3, 2000, 31), (4, 5000, 31))

SLIDER = """async root => {
    const input = root.querySelector('input'), times = [];
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
        await settled();
        times.push(performance.now() - start);
        const after = canvas.toDataURL();
        if (after === before) throw new Error('nothing was drawn');
        before = after;
    }
    return times;
}"""

FPS = """async root => {
    root.querySelector('[aria-label="loop"]').click();
    root.querySelector('[aria-label="play/pause"]').click();
    const frame = () => new Promise(requestAnimationFrame);
    for (let i = 0; i < 10; i++) await frame();
    const start = performance.now();
    let frames = 0;
    while (performance.now() - start < 4000) { await frame(); frames++; }
    root.querySelector('[aria-label="play/pause"]').click();
    return 1000 * frames / (performance.now() - start);
}"""


def walks(panels: int, particles: int, frames: int) -> dict[str, Trajectory]:
    g = torch.Generator().manual_seed(0)
    times = torch.linspace(0, 1, frames)
    start = torch.randn(particles, 2, generator=g)
    made = {}
    for panel in range(panels):
        steps = 0.2 * torch.randn(frames, particles, 2, generator=g)
        made[f"walk {panel + 1}"] = Trajectory(times, start + steps.cumsum(0))
    return made


def measure(browser: Browser, panels: int, particles: int, frames: int) -> dict[str, Any]:
    runs = walks(panels, particles, frames)
    start = time.perf_counter()
    player = play(runs, color=torch.arange(particles) % 5, max_points=particles)
    seconds = time.perf_counter() - start
    sent = sum(len(v) for v in player.get_state().values() if isinstance(v, (bytes, memoryview)))
    sent += len(json.dumps(player.spec)) + len(player._esm)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "player.html"
        player.save_html(path)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(path.as_uri(), wait_until="commit")
        page.wait_for_function(
            "() => { const c = document.querySelector('.diffflow-player canvas');"
            " return c && c.getContext('2d').getImageData(0, 0, c.width, c.height)"
            ".data.some(v => v > 0) && performance.mark('drawn'); }"
        )
        first = page.evaluate("() => performance.getEntriesByName('drawn')[0].startTime")
        root = page.locator(".diffflow-player")
        bare = statistics.median(root.evaluate(SLIDER))
        root.get_by_role("button", name="trails").click()
        root.get_by_role("button", name="follow another").click()
        slider = root.evaluate(SLIDER)
        fps = root.evaluate(FPS)
        page.close()
    return {
        "panels": panels,
        "particles": particles,
        "frames": frames,
        "bytes_sent": sent,
        "play_seconds": round(seconds, 3),
        "first_picture_seconds": round(first / 1000, 3),
        "slider_ms_bare": round(bare, 1),
        "slider_ms": round(statistics.median(slider), 1),
        "fps": round(fps, 1),
    }


def main() -> None:
    torch.set_num_threads(1)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    with sync_playwright() as engine:
        browser = engine.chromium.launch(
            executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        rows = [measure(browser, *setting) for setting in SETTINGS]
        version = browser.version
        browser.close()
    for row in rows:
        print(row)
    machine = {
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "chromium": version,
        "gpu": "none, software drawing",
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
