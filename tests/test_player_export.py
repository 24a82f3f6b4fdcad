"""A notebook with a player, turned into HTML and slides: the film strip stands where it stood."""

from __future__ import annotations

import base64

import nbformat
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter, SlidesExporter

CELL = """
import torch
from diffflow_edu import Trajectory, play
path = Trajectory(torch.linspace(0, 1, 4), torch.randn(4, 20, 2))
play({"still": path}, title="Stir & see")
"""


@pytest.fixture(scope="module")
def executed():
    """A notebook as it is saved after it ran, without the widgets' state."""
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    NotebookClient(made, kernel_name="python3", store_widget_state=False, timeout=None).execute()
    return made


@pytest.mark.parametrize("exporter", [HTMLExporter, SlidesExporter])
def test_an_exported_notebook_shows_the_film_strip(executed, exporter):
    (output,) = executed.cells[0].outputs
    assert "application/vnd.jupyter.widget-view+json" in output.data
    page, _ = exporter().from_notebook_node(executed)
    strip = output.data["image/png"].replace("\n", "")
    assert base64.b64decode(strip).startswith(b"\x89PNG")
    assert strip in page.replace("\n", "")
    assert '<script type="application/vnd.jupyter.widget-view+json">' not in page  # a dead widget
    # nbconvert's own templates differ in whether they print it; it travels with the picture
    words = output.metadata["image/png"]["alt"]
    assert words.startswith("Stir & see. Particles from data")
