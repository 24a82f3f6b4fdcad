"""JupyterLab in headless Chromium, for the tests beside this file.

Chromium is looked for as ``chromium``, ``chromium-browser`` or ``google-chrome`` on the path; where
there is none every test here is skipped and says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.servers import start

try:
    from playwright import sync_api as playwright_api
except ImportError:
    playwright_api = None

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()

PATIENCE = 600
"""Seconds until a test gives up on a page: the end of a hang, for a busy machine may be slow."""

LONG = "DIFFFLOW_EDU_LONG_TESTS"
"""An environment variable; where it is set, the tests marked `long` run, too."""

SETTINGS = {
    # Nothing is asked of the network, and no pop-up covers what a test clicks on.
    "apputils-extension/notification": {"checkForUpdates": False, "fetchNews": "false"},
    # Every cell stays in the page, not only those in view.
    "notebook-extension/tracker": {"windowingMode": "none"},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a browser where there is none."""
    missing = [
        what
        for what, found in (("Chromium", CHROMIUM), ("playwright for Python", playwright_api))
        if found is None
    ]
    if missing:
        skip = pytest.mark.skip(reason=f"not installed here: {', '.join(missing)}")
        for item in items:
            if Path(item.path).parent == Path(__file__).parent:
                item.add_marker(skip)
    if not os.environ.get(LONG):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason=f"long: runs where {LONG} is set"))


@dataclass
class Lab:
    """A running JupyterLab: its address and the folder it serves."""

    url: str
    folder: Path
    opened: int = field(default=0)


@contextlib.contextmanager
def serving(room: Path) -> Iterator[Lab]:
    """JupyterLab on a free port of this machine, its files and settings in an empty folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Own folders, so that neither this machine's settings nor a user's open tabs play a part.
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "files", "settings")
    private = {name: room / name for name in names}
    for folder in private.values():
        folder.mkdir(parents=True)
    files, settings = private.pop("files"), private.pop("settings")
    for name, values in SETTINGS.items():
        file = settings / "user" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    log = (room / "jupyter.log").open("w+")
    server = start(
        "jupyterlab", "--no-browser", "--allow-root",
        "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
        "--IdentityProvider.token=", f"--ServerApp.root_dir={files}",
        "--ServerApp.disable_check_xsrf=True",
        f"--LabApp.user_settings_dir={settings}/user",
        f"--LabApp.workspaces_dir={settings}/workspaces",
        env=os.environ
        | {name: str(folder) for name, folder in private.items()}
        | {"JUPYTER_CONFIG_PATH": str(Path(__file__).parents[2] / "tools" / "jupyter")},
        stdout=log,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/api/status", server, log.name)
        _wait_for(f"{address}/api/kernelspecs", server, log.name)
        yield Lab(address, files)
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One JupyterLab for all tests."""
    room = tmp_path_factory.mktemp("jupyter")
    # Beside the served folder as in the repository: notebooks read what was measured there.
    (room / "benchmarks").symlink_to(Path(__file__).parents[2] / "benchmarks")
    with serving(room) as server:
        yield server


def _wait_for(address: str, server: subprocess.Popen, log: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab ended at its start:\n{Path(log).read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)  # a poll with a deadline, not a guess at a duration
    raise TimeoutError(f"JupyterLab did not answer within {seconds} s")


@pytest.fixture(scope="session")
def chromium() -> Iterator[playwright_api.Browser]:
    """One headless browser for all tests."""
    with playwright_api.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


# The prompts of the cells that hold code: [3]: was run, [*]: is running, [ ]: was not run.
PROMPTS = """() => [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')]
    .filter(cell => cell.querySelector('.cm-content')?.textContent.trim())
    .map(cell => cell.querySelector('.jp-InputPrompt').textContent)"""

# An error stops Run All, so the cells after it keep their [ ]. JupyterLab shows a traceback with
# the type of stderr; a SyntaxError has no "Traceback" line.
TRACEBACKS = """() => [...document.querySelectorAll(
        ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']")]
    .map(output => output.textContent)
    .filter(text => /Traceback \\(most recent call/.test(text) || /^ *Cell In.*line/m.test(text))"""


# What JupyterLab says of its own services, and no player causes: of its debugger where a kernel is
# slow to answer, and of the subshell it starts for widgets where it closes one of its connections
# to the kernel before the answer.
JUPYTERLABS_OWN = (
    "Could not restore the debugger state",
    "uncaught: Error: Canceled future for create_subshell_request",
)


class Notebook:
    """A notebook opened in JupyterLab, and what its page complained about."""

    def __init__(self, page: playwright_api.Page) -> None:
        self.page = page
        page.set_default_timeout(1000 * PATIENCE)
        self.complaints: list[str] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self._note(f"uncaught: {error}"))

    def _hear(self, message: playwright_api.ConsoleMessage) -> None:
        if message.type == "error":
            self._note(f"{message.text} ({message.location.get('url', '')})")

    def _note(self, complaint: str) -> None:
        if not complaint.startswith(JUPYTERLABS_OWN):
            self.complaints.append(complaint)

    def run_all(self, seconds: float = PATIENCE) -> None:
        """Run every cell and wait until the last one is done; an error in a cell fails the test."""
        page = self.page
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
        page.locator(".jp-NotebookPanel-toolbar [data-status=idle]").wait_for()
        # Before JupyterLab has put the cells' text into the page there are no prompts at all.
        self._seen(f"({PROMPTS})().length > 0", PATIENCE)
        done = f"({PROMPTS})().every(p => /\\d/.test(p))"
        failed = f"({TRACEBACKS})().length > 0"
        waiting, running = "p => p === '[ ]:'", "p => p === '[*]:'"
        stalled = f"({PROMPTS})().some({waiting}) && !({PROMPTS})().some({running}) && !({failed})"
        # JupyterLab drops the command, or all cells but the first, when it comes before the
        # notebook is the current widget, and nothing on the page tells. Asking again is safe.
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            # On a busy machine the page may still ask for a kernel; the choice it offers is ours.
            asked = page.locator("dialog", has_text="Select Kernel")
            if asked.count():
                asked.locator("button.jp-mod-accept").click()
                asked.wait_for(state="detached")
            dialogs = page.locator("dialog").all_inner_texts()
            assert not dialogs, f"JupyterLab asks: {dialogs}"
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            self._seen(f"!({stalled})", 3)
            self._seen(f"{done} || {failed} || ({stalled})", seconds)
            if self._seen(f"!({stalled})", 3):
                break
        finished = self._seen(f"{done} || {failed}", seconds)
        errors = page.evaluate(TRACEBACKS)
        assert not errors, f"a cell failed:\n{errors[0]}"
        assert finished, f"not every cell was run in {seconds} s: {page.evaluate(PROMPTS)}"

    def _seen(self, condition: str, seconds: float) -> bool:
        """Whether a JavaScript condition comes true in time."""
        try:
            self.page.wait_for_function(f"() => {condition}", timeout=1000 * seconds)
        except playwright_api.TimeoutError:
            return False
        return True

    @property
    def players(self) -> playwright_api.Locator:
        """The players on the page."""
        return self.page.locator(".diffflow-player")


def open_in(lab: Lab, context: Any, *cells: str, path: Path | None = None) -> Notebook:
    """Open a notebook file, or cells given as strings, in JupyterLab in a browser context."""
    lab.opened += 1
    name = f"{lab.opened}_{path.name if path else 'test.ipynb'}"
    if path is None:
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        made.metadata["kernelspec"] = {
            "name": "python3", "display_name": "Python 3", "language": "python",
        }  # fmt: skip
    else:
        made = nbformat.read(path, as_version=4)
        for cell in made.cells:  # a stored [3] would look like a cell that was run here
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
    nbformat.write(made, lab.folder / name)
    # Started here, because a page that loads before the server has listed its kernels asks the
    # reader which one to take.
    kernel = {"name": name, "path": name, "type": "notebook", "kernel": {"name": "python3"}}
    _ask(lab, "POST", "/api/sessions", kernel)
    notebook = Notebook(context.new_page())
    # "reset" opens this notebook alone, without the tabs of the test before.
    notebook.page.goto(f"{lab.url}/lab/tree/{name}?reset")
    return notebook


@pytest.fixture
def open_notebook(lab: Lab, chromium: playwright_api.Browser):
    """`open_in` a fresh browser context with options such as `has_touch`."""
    contexts = []

    def opener(*cells: str, path: Path | None = None, **context_options) -> Notebook:
        options = {"viewport": {"width": 1280, "height": 900}} | context_options
        contexts.append(chromium.new_context(**options))
        return open_in(lab, contexts[-1], *cells, path=path)

    yield opener
    for context in contexts:
        context.close()
    end_kernels(lab)


@pytest.fixture
def open_page(chromium: playwright_api.Browser):
    """Opens a page from disk, with the network off; gives the player on it.

    size: of the window; options: of the browser context, such as `has_touch`. What the page
    complains about fails the test.
    """
    contexts, complaints = [], []

    def opener(path: Path, size: dict | None = None, script: str = "", **options):
        viewport = size or {"width": 1280, "height": 900}
        contexts.append(chromium.new_context(offline=True, viewport=viewport, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.on("console", lambda said: said.type == "error" and complaints.append(said.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.add_init_script(script)
        page.goto(path.as_uri())
        player = page.locator(".diffflow-player")
        player.locator("canvas").wait_for()
        player.evaluate("() => new Promise(r => requestAnimationFrame(() => setTimeout(r)))")
        return player

    yield opener
    for context in contexts:
        context.close()
    assert complaints == []


def _ask(lab: Lab, method: str, path: str, body: dict | None = None) -> Any:
    """One request to the server's REST interface."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(f"{lab.url}{path}", data=data, method=method)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.loads(answer.read() or "null")


def end_kernels(lab: Lab, seconds: float = PATIENCE) -> None:
    """End the sessions of this test, so that kernels do not pile up in memory."""
    deadline = time.monotonic() + seconds
    while sessions := _ask(lab, "GET", "/api/sessions"):
        for session in sessions:
            try:
                _ask(lab, "DELETE", f"/api/sessions/{session['id']}")
            except urllib.error.HTTPError as error:
                # A kernel that is still starting cannot be ended yet: the server answers 500.
                if error.code != 500 or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)  # a poll with a deadline, not a guess at a duration
