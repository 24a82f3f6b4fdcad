"""A notebook that was saved with a player, opened again in JupyterLab and not run."""

from __future__ import annotations

import nbformat
from nbclient import NotebookClient

from tests.browser.conftest import PATIENCE
from tests.browser.test_player_in_jupyterlab import SETUP


def test_a_reopened_notebook_shows_the_film_strip(lab, chromium, open_notebook):
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(f"{SETUP}\nplay(a)")])
    made.metadata["kernelspec"] = {
        "name": "python3", "display_name": "Python 3", "language": "python",
    }  # fmt: skip
    NotebookClient(made, store_widget_state=False, timeout=None).execute()
    assert "application/vnd.jupyter.widget-view+json" in made.cells[0].outputs[0].data
    nbformat.write(made, lab.folder / "reopened.ipynb")
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    try:
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(f"{lab.url}/lab/tree/reopened.ipynb?reset")
        strip = page.locator(".jp-OutputArea-output[data-mime-type='image/png'] img")
        strip.wait_for()
        assert strip.bounding_box()["width"] > 300
        assert page.locator(".diffflow-player").count() == 0
    finally:
        context.close()  # `open_notebook` ends the kernel that JupyterLab started
