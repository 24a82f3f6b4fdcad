"""tools/build_notebooks.py: the same text gives the same notebook, and faults stop the build."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient.exceptions import CellExecutionError
from PIL import Image

from tools.build_notebooks import build, clean_outputs, main, read_text, small_png


def test_building_again_changes_no_byte_although_the_clock_moved_on(tiny: Path):
    before = tiny.read_bytes()
    assert build(tiny.with_suffix(".py")) is False
    assert tiny.read_bytes() == before


def test_a_changed_text_is_written_even_where_it_looks_like_a_clock(tiny: Path):
    # The sanitise rules are for outputs: in a source, "took 1 s" and "took 2 s" are two texts.
    text = tiny.with_suffix(".py")
    text.write_text(text.read_text("utf-8").replace("Equation 1.", "It took 1 s."), "utf-8")
    assert build(text) is True
    text.write_text(text.read_text("utf-8").replace("took 1 s", "took 2 s"), "utf-8")
    assert build(text) is True
    assert "took 2 s" in tiny.read_text("utf-8")


def test_cell_ids_are_unique_and_survive_a_cell_inserted_before_them(tiny: Path):
    text = tiny.with_suffix(".py")
    before = [cell.id for cell in read_text(text).cells]
    assert len(set(before)) == len(before)  # although the exercises are equal to the letter
    text.write_text(
        text.read_text("utf-8").replace("# %%\n", "# %%\nnew = 1\n\n# %%\n", 1), "utf-8"
    )
    after = [cell.id for cell in read_text(text).cells]
    assert len(after) == len(before) + 1
    assert [each for each in after if each in before] == before


def test_a_failing_cell_stops_the_build_and_leaves_the_old_notebook(tiny: Path):
    before = tiny.read_bytes()
    text = tiny.with_suffix(".py")
    text.write_text(text.read_text("utf-8").replace("answer = None", "answer = 1 / 0"), "utf-8")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        build(text)
    assert tiny.read_bytes() == before
    assert sorted(path.name for path in tiny.parent.iterdir()) == ["00_tiny.ipynb", "00_tiny.py"]


def test_a_warning_stops_the_build(tiny: Path):
    text = tiny.with_suffix(".py")
    warning = "import warnings\nwarnings.warn('old')\nanswer = None"
    text.write_text(text.read_text("utf-8").replace("answer = None", warning, 1), "utf-8")
    with pytest.raises(ValueError, match="wrote to stderr"):
        build(text)


def png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_a_picture_is_stored_in_few_colours_and_looks_the_same():
    ramp = np.arange(200 * 300 * 3).reshape(200, 300, 3) % 251
    original = Image.fromarray(ramp.astype(np.uint8))
    stored = Image.open(io.BytesIO(base64.b64decode(small_png(png(original)))))
    assert stored.size == original.size
    assert stored.mode == "P"
    difference = np.abs(np.asarray(stored.convert("RGB"), float) - ramp)
    assert difference.mean() < 10  # of 255, 192 colours for a picture of 251
    assert small_png(small_png(png(original))) == small_png(png(original))


def test_live_widgets_and_timing_are_not_stored_but_their_picture_is():
    dot = png(Image.new("P", (1, 1)))
    live = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
    display = {"output_type": "display_data", "metadata": {}}
    cell = nbformat.v4.new_code_cell("play()", metadata={"tags": ["x"], "execution": {"a": "1"}})
    cell.outputs = [
        nbformat.from_dict({**display, "data": {**live, "image/png": dot, "text/plain": "p"}}),
        nbformat.from_dict({**display, "data": live}),
    ]
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {}})
    clean_outputs(notebook)
    assert [output.data for output in cell.outputs] == [{"image/png": dot, "text/plain": "p"}]
    assert cell.metadata == {"tags": ["x"]}
    assert "widgets" not in notebook.metadata


def test_pieces_of_one_stream_are_joined_wherever_the_kernel_cut_them():
    pieces = [nbformat.v4.new_output("stream", name="stdout", text=text) for text in ("a", "b\n")]
    cell = nbformat.v4.new_code_cell("", outputs=pieces)
    clean_outputs(nbformat.v4.new_notebook(cells=[cell]))
    assert [output.text for output in cell.outputs] == ["ab\n"]


def test_the_command_line_says_what_it_did(tiny: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tiny.with_suffix(".py"))]) == 0
    assert "00_tiny.py" in (out := capsys.readouterr().out)
    assert "no change" in out
