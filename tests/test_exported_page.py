"""A page that nbconvert makes, with the settings of `make lab`: film strips with their words."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
WORDS = 'Film strip: <two> "rings" & noise.'


@pytest.fixture
def lecture(tmp_path: Path) -> Path:
    """A notebook with a player, its widget's state and its static twin, and a bare widget."""
    buffer = io.BytesIO()
    Image.new("P", (1, 1)).save(buffer, "PNG")
    view = "application/vnd.jupyter.widget-view+json"
    model = {"model_name": "HTMLModel", "model_module": "@jupyter-widgets/controls", "state": {}}
    live = {view: {"model_id": "1", "version_major": 2, "version_minor": 0}}
    twin = {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": WORDS}
    words = {"image/png": {"alt": WORDS}}
    outputs = [
        nbformat.v4.new_output("display_data", data=live | twin, metadata=words),
        nbformat.v4.new_output("display_data", data=live),
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=outputs)])
    notebook.metadata["widgets"] = {
        "application/vnd.jupyter.widget-state+json": {
            "state": {"1": model}, "version_major": 2, "version_minor": 0,
        }
    }  # fmt: skip
    path = tmp_path / "lecture.ipynb"
    nbformat.write(notebook, path)
    return path


def convert(path: Path, kind: str, suffix: str) -> str:
    settings = {"JUPYTER_CONFIG_PATH": str(ROOT / "tools" / "jupyter")}
    private = {"JUPYTER_CONFIG_DIR": str(path.parent), "JUPYTER_DATA_DIR": str(path.parent)}
    command = [sys.executable, "-m", "nbconvert", "--to", kind, str(path)]
    result = subprocess.run(
        command, env=os.environ | settings | private, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return path.with_suffix(suffix).read_text("utf-8")


def test_a_page_shows_the_film_strip_of_a_player_with_its_words(lecture: Path):
    page = convert(lecture, "html", ".html")
    assert page.count("<img") == 1
    assert 'Film strip: &lt;two&gt; "rings" &amp; noise.' in page
    assert page.count('<script type="application/vnd.jupyter.widget-view+json">') == 1  # no twin


def test_slides_keep_their_own_template(lecture: Path):
    assert "Reveal.initialize" in convert(lecture, "slides", ".slides.html")
