"""Text is the truth: run each notebooks/NN_name.py and write NN_name.ipynb with its outputs.

    python -m tools.build_notebooks                every notebook
    python -m tools.build_notebooks FILE …         only these
    python -m tools.build_notebooks --adopt FILE   carry the cells of FILE's .ipynb into its .py
    python -m tools.build_notebooks --discard FILE build although its .ipynb was edited

The result depends on the text alone: cell ids come from the sources, widget state and timing are
dropped, and a run that differs from the stored one only in what the sanitise file calls a clock
leaves the stored file as it is. A cell that raises, or writes to stderr, stops the build.

Nobody's work is overwritten. A built .ipynb records a digest of its cells, so that an edit made in
any notebook editor shows; one whose .py does not hold the edit is left as it is, and the way on is
said. What --adopt and --discard replace is first copied into edited/, beside notebooks/.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import itertools
import json
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jupytext.config import load_jupytext_configuration_file
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
SANITIZE = ROOT / "tests" / "notebooks" / "nbval_sanitize.cfg"
RULES = re.findall("^regex: (.*)$\n^replace: (.*)$", SANITIZE.read_text("utf-8"), re.MULTILINE)

WIDGET_MIME_TYPES = ("application/vnd.jupyter.widget-view+json",)
CELL_METADATA = ("tags", "slideshow", "jupyter")
# As JupyterLab writes it, without the exact Python version, which is no part of the course.
NOTEBOOK_METADATA = {
    "kernelspec": {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    },
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    },
}
RECORD = "diffflow_edu"  # the notebook metadata that hold the digest of the cells as built
CELL_TIMEOUT = 3600  # seconds: the end of a hang, no budget


class WorkWouldBeLostError(Exception):
    """A file holds somebody's work that nothing else holds, so it is not overwritten."""


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
    notebook.metadata[RECORD] = {"cells": digest(notebook)}
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


def typed(notebook: NotebookNode) -> list[dict[str, Any]]:
    """What people wrote into each cell: all but outputs, empty cells and how a cell is shown.

    Editors add empty tags, and JupyterLab an empty cell below the last one that is run.
    """
    cells = []
    for cell in notebook.cells:
        kept = kept_metadata(cell)
        slide = kept.get("slideshow", {}).get("slide_type", "-")
        parts = {
            "cell_type": cell.cell_type,
            "source": cell.source.lstrip("\n").rstrip(),
            "tags": kept.get("tags", []),
            "slide_type": "" if slide == "-" else slide,
            "attachments": cell.get("attachments", {}),
        }
        if parts["source"] or parts["attachments"]:
            cells.append(parts)
    return cells


def digest(notebook: NotebookNode) -> str:
    """A short name for what was typed into a notebook."""
    return hashlib.sha256(json.dumps(typed(notebook)).encode()).hexdigest()[:16]


def recorded(notebook: NotebookNode) -> str | None:
    """The digest of the cells that the notebook was built from; None where an editor dropped it."""
    return notebook.metadata.get(RECORD, {}).get("cells")


def parse(stored: bytes) -> NotebookNode | None:
    """The notebook in a file's bytes; None for anything else, such as a merge's conflict marks."""
    try:
        content = json.loads(stored)
    except ValueError:
        return None
    if not isinstance(content, dict) or content.get("nbformat") != 4 or "cells" not in content:
        return None
    return nbformat.reads(stored.decode("utf-8"), as_version=4)


def edits(source: Path, stored: bytes | None) -> str:
    """What the bytes of a text's .ipynb hold that the text does not, in words; "" for nothing.

    An .ipynb as it was built holds no work: where the text differs it is the newer one.
    """
    if stored is None:
        return ""
    ipynb = source.with_suffix(".ipynb")
    command = f"python -m tools.build_notebooks {{}} {os.path.relpath(ipynb)}"
    to_discard = f"  to build from the .py, with a copy kept:  {command.format('--discard')}"
    notebook = parse(stored)
    if notebook is None:
        return f"{ipynb.name} is no notebook that can be read, and is left as it is\n{to_discard}"
    text = jupytext.read(source)
    ours, theirs = typed(text), typed(notebook)
    if ours == theirs or digest(notebook) == recorded(notebook):
        return ""
    lines = [f"{ipynb.name} was edited, {source.name} does not hold the edit; it is left as it is:"]
    for number, cell in enumerate(theirs, 1):
        if cell not in ours:
            lines.append(f"    cell {number}: {cell['source'].partition(chr(10))[0]}")
    if missing := sum(cell not in theirs for cell in ours):
        lines.append(f"    cells of the .py that it does not hold: {missing}")
    if len(lines) == 1:
        lines.append("    its cells stand in another order, or some of them twice")
    if recorded(notebook) in (None, digest(text)):
        lines.append(f"  to carry the edit into the .py:           {command.format('--adopt')}")
    else:
        lines.append("  the .py was edited as well: carry the edit over by hand, then")
    return "\n".join([*lines, to_discard])


def keep(path: Path) -> Path:
    """Copy a file into edited/ under a name that is free; return the copy's path."""
    folder = path.parent.parent / "edited"
    folder.mkdir(exist_ok=True)
    for number in itertools.count(1):
        copy = folder / f"{path.stem}.{number}{path.suffix}"
        try:
            with copy.open("xb") as file:
                file.write(path.read_bytes())
        except FileExistsError:
            continue
        return copy


def adopt(source: Path) -> Path | None:
    """Carry the cells of a text's .ipynb into the text; return the copy kept of it.

    None when there is nothing to carry. Raises WorkWouldBeLostError when the text was edited since
    the build as well, or cannot hold a cell.
    """
    ipynb = source.with_suffix(".ipynb")
    notebook, text = parse(ipynb.read_bytes()), jupytext.read(source)
    if notebook is None:
        raise WorkWouldBeLostError(f"{ipynb.name} is no notebook that can be read")
    if typed(notebook) == typed(text) or digest(notebook) == recorded(notebook):
        return None
    if recorded(notebook) not in (None, digest(text)):
        raise WorkWouldBeLostError(
            f"{source.name} was edited since {ipynb.name} was built, and it cannot take both: "
            "carry the edit over by hand"
        )
    # A cell that the text holds stays as it stands there, a solution folded.
    known = {json.dumps(parts): cell for parts, cell in zip(typed(text), text.cells, strict=True)}
    wanted = typed(notebook)
    cells = [cell for cell in notebook.cells if cell.source.strip() or cell.get("attachments")]
    text.cells = [
        known.get(json.dumps(parts), cell) for parts, cell in zip(wanted, cells, strict=True)
    ]
    config = load_jupytext_configuration_file(str(ROOT / "pyproject.toml"))
    written = jupytext.writes(text, fmt="py:percent", config=config)
    for number, (cell, again) in enumerate(
        itertools.zip_longest(wanted, typed(jupytext.reads(written, fmt="py:percent"))), 1
    ):
        if cell != again:
            raise WorkWouldBeLostError(
                f"cell {number} of {ipynb.name} cannot be written as text, such as one with a "
                "picture pasted into it (save it in notebooks/assets and link it)"
            )
    copy = keep(source)
    replace(source, written)
    return copy


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
    notebook.metadata.language_info = nbformat.from_dict(NOTEBOOK_METADATA["language_info"])


def strip_run(notebook: NotebookNode) -> None:
    """Drop what a run leaves in a saved notebook beside its outputs, in place.

    The state and the views of widgets, and how long each cell took.
    """
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata = kept_metadata(cell)
        for output in cell.outputs:
            for mime in WIDGET_MIME_TYPES:
                output.get("data", {}).pop(mime, None)


def clean_outputs(notebook: NotebookNode) -> None:
    """Drop what cannot be stored (live widgets) and what varies from run to run, in place.

    Raises ValueError when a cell wrote to stderr: a warning in a course is a bug.
    """
    strip_run(notebook)
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        cell.outputs = merge_streams(cell.outputs)
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                raise ValueError(
                    f"cell {number} wrote to stderr:\n{cell.source}\n--\n{output.text}"
                )
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


def write(notebook: NotebookNode, path: Path, over: bytes | None) -> bool:
    """Write the notebook, all or nothing; False when the stored one differs by clocks at most.

    over: what the file held when the build began, None for no file. Raises WorkWouldBeLostError
    when it holds something else by now: somebody saved it while the cells ran.
    """
    nbformat.validate(notebook)
    text = nbformat.writes(notebook) + "\n"
    # Compared as written: the writer sorts keys and splits lines.
    stored = parse(over) if over is not None else None
    if stored is not None and without_clocks(stored) == without_clocks(parse(text.encode())):
        return False
    if bytes_of(path) != over:
        raise WorkWouldBeLostError(
            f"{path.name} was saved while its cells ran, and is left as it is: build it again"
        )
    replace(path, text)
    return True


def bytes_of(path: Path) -> bytes | None:
    """What a file holds, None where there is none."""
    return path.read_bytes() if path.exists() else None


def replace(path: Path, text: str) -> None:
    """Write a file, all or nothing."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(text.encode("utf-8"))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def build(source: Path, discard: bool = False) -> bool:
    """Run one text notebook and write its .ipynb; False when that was up to date.

    discard: build although the .ipynb was edited, and copy it into edited/ before. Otherwise such
    a notebook raises WorkWouldBeLostError, before any cell is run.
    """
    ipynb = source.with_suffix(".ipynb")
    stored = bytes_of(ipynb)
    if lost := edits(source, stored):
        if not discard:
            raise WorkWouldBeLostError(lost)
        print(f"kept {os.path.relpath(keep(ipynb))} … ", end="", flush=True)
    notebook = read_text(source)
    run(notebook, source.parent)
    clean_outputs(notebook)
    return write(notebook, ipynb, stored)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="notebooks/NN_name (default: all)")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--adopt", action="store_true", help="carry an edited .ipynb into its .py")
    ways.add_argument("--discard", action="store_true", help="build over an edited .ipynb")
    options = parser.parse_args(arguments)
    if (options.adopt or options.discard) and not options.files:
        parser.error("--adopt and --discard need the names of the notebooks")
    named = [file.resolve().with_suffix(".py") for file in options.files]
    if missing := [file.name for file in named if not file.exists()]:
        parser.error(f"no such file: {', '.join(missing)}")
    files = named or sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))
    if not files:
        print(f"no notebooks/NN_name.py in {NOTEBOOKS}", file=sys.stderr)
        return 1
    if options.adopt:
        return adopt_all(files)
    return build_all(files, options.discard)


def adopt_all(files: list[Path]) -> int:
    """Carry each notebook's edits into its text, and say so; the exit status."""
    status = 0
    for file in files:
        try:
            copy = adopt(file)
        except WorkWouldBeLostError as error:
            print(error, file=sys.stderr)
            status = 1
        else:
            kept = f"written, the old one kept as {os.path.relpath(copy)}" if copy else "no change"
            print(f"{file.name} … {kept}")
    return status


def build_all(files: list[Path], discard: bool) -> int:
    """Build the notebooks that hold nobody's work, and say which were left; the exit status."""
    lost = {} if discard else {f: edits(f, bytes_of(f.with_suffix(".ipynb"))) for f in files}
    for complaint in filter(None, lost.values()):  # before the first run: they take minutes
        print(complaint, file=sys.stderr)
    left = [file for file in files if lost.get(file)]
    for file in (file for file in files if not lost.get(file)):
        print(f"{file.name} … ", end="", flush=True)
        start = time.perf_counter()
        try:
            changed = build(file, discard)
        except WorkWouldBeLostError as error:
            print("left as it is")
            print(error, file=sys.stderr)
            left.append(file)
        else:
            seconds = time.perf_counter() - start
            print(f"{seconds:.0f} s, {'written' if changed else 'no change'}")
    if left:
        print(f"not built: {', '.join(file.stem for file in left)}", file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
