"""Text is the truth: run each notebooks/NN_name.py and write NN_name.ipynb with its outputs.

    python -m tools.build_notebooks            every notebook
    python -m tools.build_notebooks FILE.py …  only these

The result depends on the text alone: cell ids come from the sources, widget state and timing are
dropped, and a run that differs from the stored one only in what the sanitise file calls a clock
leaves the stored file as it is. A cell that raises, or writes to stderr, stops the build.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
SANITIZE = ROOT / "tests" / "notebooks" / "nbval_sanitize.cfg"
RULES = re.findall("^regex: (.*)$\n^replace: (.*)$", SANITIZE.read_text("utf-8"), re.MULTILINE)

WIDGET_MIME_TYPES = ("application/vnd.jupyter.widget-view+json",)
CELL_METADATA = ("tags", "slideshow", "jupyter")
NOTEBOOK_METADATA = {
    "jupytext": {"formats": "ipynb,py:percent"},
    "kernelspec": {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    },
    "language_info": {"file_extension": ".py", "name": "python"},
}
CELL_TIMEOUT = 120  # seconds; a whole notebook is allowed 40


def kernel_environment() -> None:
    """Set what the stored outputs depend on; `pytest --nbval` does the same in conftest.py."""
    os.environ["DIFFFLOW_EDU_PROGRESS"] = "0"
    os.environ.pop("MPLBACKEND", None)  # else ipykernel does not choose inline figures


def read_text(path: Path) -> NotebookNode:
    """The notebook that a percent-format file describes, without outputs.

    Its metadata is what the .ipynb is to hold: no more than the text states.
    """
    notebook = jupytext.read(path)
    notebook.metadata = nbformat.from_dict(NOTEBOOK_METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        cell.metadata = kept_metadata(cell)
        cell.id = stable_id(cell, seen)
    return notebook


def kept_metadata(cell: NotebookNode) -> NotebookNode:
    """The part of a cell's metadata that belongs to the text: tags, slideshow, source_hidden."""
    kept = {key: cell.metadata[key] for key in CELL_METADATA if key in cell.metadata}
    if "jupyter" in kept:
        kept["jupyter"] = {k: v for k, v in kept["jupyter"].items() if k == "source_hidden"}
        if not kept["jupyter"]:
            del kept["jupyter"]
    return nbformat.from_dict(kept)


def stable_id(cell: NotebookNode, seen: Counter[str]) -> str:
    """An id that follows the cell's source, so that inserting a cell renames no other."""
    digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:10]
    seen[digest] += 1
    return digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


def run(notebook: NotebookNode, folder: Path) -> None:
    """Run all cells in a fresh kernel in `folder`, in place.

    Raises nbclient.exceptions.CellExecutionError when a cell does.
    """
    kernel_environment()
    NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(folder)}},
    ).execute(env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})  # else 08 and 09 train for minutes
    # The kernel reports its exact Python version, which is no part of the course.
    notebook.metadata.language_info = nbformat.from_dict(
        {"file_extension": ".py", "name": "python"}
    )


def clean_outputs(notebook: NotebookNode) -> None:
    """Drop what cannot be stored (live widgets) and what varies from run to run, in place.

    Raises ValueError when a cell wrote to stderr: a warning in a course is a bug.
    """
    notebook.metadata.pop("widgets", None)
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        cell.metadata = kept_metadata(cell)
        cell.outputs = merge_streams(cell.outputs)
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                raise ValueError(
                    f"cell {number} wrote to stderr:\n{cell.source}\n--\n{output.text}"
                )
            for mime in WIDGET_MIME_TYPES:
                output.get("data", {}).pop(mime, None)
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = small_png(output.data["image/png"])
        cell.outputs = [o for o in cell.outputs if o.output_type != "display_data" or o.data]


def small_png(encoded: str) -> str:
    """The picture in at most 192 colours, about a third of the bytes: they all live in git."""
    picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
    if picture.mode == "P":
        return encoded
    buffer = io.BytesIO()
    flat = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    small = flat.convert("RGB").quantize(192, dither=Image.Dither.NONE)
    small.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of one stream: where the kernel cuts them is chance."""
    merged: list[NotebookNode] = []
    for output in outputs:
        last = merged[-1] if merged else None
        if (
            last is not None
            and output.output_type == last.output_type == "stream"
            and output.name == last.name
        ):
            last.text += output.text
        else:
            merged.append(output)
    return merged


def sanitize(value: Any) -> Any:
    """`value` (any JSON) with every clock in its strings replaced, by the rules that nbval uses."""
    if isinstance(value, dict):
        return {key: sanitize(each) for key, each in value.items()}
    if isinstance(value, list):
        return [sanitize(each) for each in value]
    if isinstance(value, str):
        for regex, replacement in RULES:
            value = re.sub(regex, replacement, value)
    return value


def without_clocks(notebook: NotebookNode) -> dict[str, Any]:
    """The notebook with its outputs sanitised; sources are kept to the letter."""
    cells = [
        {**cell, "outputs": [sanitize(dict(output)) for output in cell.get("outputs", [])]}
        for cell in notebook.cells
    ]
    return {**notebook, "cells": cells}


def write(notebook: NotebookNode, path: Path) -> bool:
    """Write the notebook, all or nothing; False when the stored one differs by clocks at most."""
    nbformat.validate(notebook)
    text = nbformat.writes(notebook) + "\n"
    # Compared as written: the writer sorts keys and splits lines.
    if path.exists():
        stored, fresh = nbformat.read(path, as_version=4), nbformat.reads(text, as_version=4)
        if without_clocks(stored) == without_clocks(fresh):
            return False
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def build(source: Path) -> bool:
    """Run one text notebook and write its .ipynb; False when that was up to date."""
    notebook = read_text(source)
    run(notebook, source.parent)
    clean_outputs(notebook)
    return write(notebook, source.with_suffix(".ipynb"))


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="notebooks/NN_name.py (default: all)")
    files = parser.parse_args(arguments).files or sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))
    if not files:
        print(f"no notebooks/NN_name.py in {NOTEBOOKS}", file=sys.stderr)
        return 1
    for file in files:
        print(f"{file.name} … ", end="", flush=True)
        start = time.perf_counter()
        changed = build(file.resolve())
        seconds = time.perf_counter() - start
        print(f"{seconds:.0f} s, {'written' if changed else 'no change'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
