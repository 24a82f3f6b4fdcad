"""A notebook saved in JupyterLab with the settings of `make lab`: players live on, git is clean."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.browser.conftest import Notebook, _ask, end_kernels
from tests.browser.test_player_in_jupyterlab import SETUP

ROOT = Path(__file__).parents[2]


def save(notebook: Notebook, name: str) -> None:
    """Save by the keyboard and wait for the server's answer."""
    page = notebook.page
    page.locator(".jp-NotebookPanel-toolbar [data-status=idle]").wait_for()
    page.locator(".jp-Notebook .jp-Cell").first.click()
    with page.expect_response(
        lambda answer: answer.request.method == "PUT" and f"/api/contents/{name}" in answer.url
    ) as answer:
        page.keyboard.press("Control+s")
    assert answer.value.ok


def reopened(lab, chromium, name: str):
    """The notebook in a browser that never saw it, with a new kernel, which ran nothing."""
    end_kernels(lab)
    session = {"name": name, "path": name, "type": "notebook", "kernel": {"name": "python3"}}
    _ask(lab, "POST", "/api/sessions", session)
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    notebook = Notebook(context.new_page())
    notebook.page.goto(f"{lab.url}/lab/tree/{name}?reset")
    return context, notebook


def test_a_lecture_saved_and_reopened_the_next_day_has_living_players(lab, chromium, open_notebook):
    first = open_notebook(f"{SETUP}\nplay(a)", "play(b)")
    first.run_all()
    first.players.nth(1).wait_for()
    name = f"{lab.opened}_test.ipynb"
    save(first, name)
    first.page.context.close()
    context, second = reopened(lab, chromium, name)
    try:
        second.players.nth(1).wait_for()
        assert second.page.locator(".jp-InputPrompt", has_text="[1]").count() == 1
        assert second.page.get_by_text("Error displaying widget").count() == 0
        second.players.first.get_by_role("slider").first.press("End")
        assert second.complaints == []
    finally:
        context.close()


def test_opening_a_course_notebook_and_saving_it_unrun_changes_no_byte(
    lab, chromium, open_notebook
):
    source = ROOT / "notebooks" / "09_cifar10.ipynb"
    shutil.copy(source, lab.folder)
    context, notebook = reopened(lab, chromium, source.name)
    try:
        save(notebook, source.name)
    finally:
        context.close()
    assert (lab.folder / source.name).read_bytes() == source.read_bytes()
