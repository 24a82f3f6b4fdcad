"""What is asked of every notebook, as functions that return their complaints.

An empty list means all is well. The tests run them on the course's notebooks and, so that the
checks themselves are known to bite, on small notebooks with planted faults.

How a notebook is written
-------------------------
The first cell is markdown: `# Title`, an empty line, the promise in one line. Somewhere after it:

    ## What you will learn          3 to 5 bullet points (- …)
    **Time and memory:** …          one line that names seconds or minutes (s, min) and MB or GB
    **Predict** … / **Explain** …   at least once each, before and after a run
    ## What to remember
    ## References                   by equation number

Every code cell that draws is followed by a markdown cell that says in words what is to be seen.

At least three exercises, each three cells in this order (markdown may stand between):

    # %% tags=["exercise"]
    def my_loss(x):
        return None                                     # runs, and is wrong

    # %% tags=["check"]
    exercises.check_my_loss(my_loss)                    # prints a hint, shows False

    # %% [markdown] tags=["solution"]
    # <details><summary>A solution</summary>
    #
    # ```python
    # def my_loss(x):
    #     return x.square().mean()
    # ```
    #
    # </details>

`exercises` is `diffflow_edu.exercises`. The check is the last expression of its cell, so the
notebook stores `False` under the stub, and nbval proves it again. The solution is folded text, so
that running all cells keeps the student's answer; a test runs it and asks the same check. Later
cells call the library's version. An older form, a collapsed code cell that repeats the check and
shows True, is still read where the cell writes its answer under another name.
"""

from __future__ import annotations

import io
import math
import os
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import torch
from nbformat import NotebookNode

from diffflow_edu import exercises
from tools.build_notebooks import (
    WIDGET_MIME_TYPES,
    digest,
    edits,
    recorded,
    strip_run,
    typed,
)

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
MAX_BYTES = 2_000_000
CHECK_CALL = re.compile(r"\bexercises\.(\w+)\(")
CHECK_LINE = re.compile(r"^exercises\..*", re.MULTILINE | re.DOTALL)
FOLDED = re.compile(r"\A<details>.*?```python\n(.*?)```\s*</details>\Z", re.DOTALL)


def course() -> list[Path]:
    """The course's notebooks, by number."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def complaints_about_folder(folder: Path) -> list[str]:
    """Only pairs NN_name.py + NN_name.ipynb and one folder of assets may live in notebooks/."""
    complaints = []
    ignored = {".ipynb_checkpoints", "__pycache__", "assets"}
    for path in sorted(folder.iterdir()):
        if path.name in ignored and path.is_dir():
            continue
        if not re.fullmatch(r"\d\d_[a-z0-9_]+\.(py|ipynb)", path.name):
            complaints.append(f"{path.name} is no NN_name.py or NN_name.ipynb")
            continue
        twin = path.with_suffix({".py": ".ipynb", ".ipynb": ".py"}[path.suffix])
        if not twin.exists():
            complaints.append(f"{path.name} has no {twin.name} beside it")
    return complaints


def complaints_about_pair(ipynb: Path) -> list[str]:
    """The .ipynb must hold what its .py says, whatever the files' dates.

    Compared is what people type. Outputs, widget state, the kernel's version and which solutions
    are unfolded change when a notebook is used.
    """
    source = ipynb.with_suffix(".py")
    stored, text = nbformat.read(ipynb, as_version=4), jupytext.read(source)
    complaints = []
    ours, theirs = typed(text), typed(stored)
    if len(ours) != len(theirs):
        complaints.append(f"{len(ours)} cells in the text, {len(theirs)} stored")
    for number, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if a["cell_type"] != b["cell_type"]:
            complaints.append(
                f"cell {number} is {a['cell_type']} in the text, {b['cell_type']} stored"
            )
        elif a["source"] != b["source"]:
            complaints.append(
                f"cell {number} differs in source:\n{a['source']}\n-- stored:\n{b['source']}"
            )
        elif a != b:
            complaints.append(f"cell {number} differs in metadata")
    if complaints and edits(source, ipynb.read_bytes()):
        complaints.append(
            f"Your work in {ipynb.name} is safe, and no test or build overwrites it. A student may "
            "pass over this failure. An author carries the work into the .py: "
            f"python -m tools.build_notebooks --adopt {os.path.relpath(ipynb)}"
        )
    elif complaints:
        complaints.append(f"The .py is the newer one: make notebooks writes {ipynb.name} anew")
    return complaints


def complaints_about_outputs(ipynb: Path) -> list[str]:
    """Every code cell was run, once, in order, without error, and nothing is too large.

    Who runs and saves a notebook may leave widgets and times in it, which are looked past as
    `make notebooks` drops them; `complaints_about_widgets` is for what is published.
    """
    notebook = nbformat.read(ipynb, as_version=4)
    nbformat.validate(notebook)
    as_built = recorded(notebook) == digest(notebook)
    strip_run(notebook)
    complaints = []
    size = len(nbformat.writes(notebook).encode("utf-8"))
    if size >= MAX_BYTES:
        complaints.append(f"{size} bytes, allowed are fewer than {MAX_BYTES}")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        complaints.append(f"execution counts are {counts}, not 1 to {len(code)} in order")
    mimes = set()
    for cell in code:
        first_line = cell.source.partition("\n")[0]
        for output in cell.outputs:
            mimes |= set(output.get("data", {}))
            if output.output_type == "error":
                complaints.append(f"the cell {first_line!r} ended in {output.ename}")
            if output.output_type == "stream" and output.name == "stderr":
                complaints.append(f"the cell {first_line!r} wrote to stderr: {output.text}")
    if "image/png" not in mimes:
        complaints.append("no picture is stored")
    if complaints and as_built:
        complaints.append(
            f"Its text is that of {ipynb.with_suffix('.py').name}. Who ran and saved it may pass "
            f"over this: make notebooks stores a whole run again, and nothing typed is lost"
        )
    return complaints


def complaints_about_widgets(notebook: NotebookNode) -> list[str]:
    """What is published holds no live widgets and no times: GitHub would show dead ones."""
    complaints = ["widget state is stored"] if "widgets" in notebook.metadata else []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        first_line = cell.source.partition("\n")[0]
        mimes = {mime for output in cell.outputs for mime in output.get("data", {})}
        complaints += [f"{mime} is stored" for mime in WIDGET_MIME_TYPES if mime in mimes]
        if "execution" in cell.metadata:
            complaints.append(f"the cell {first_line!r} stores its timing")
    return complaints


def complaints_about_conventions(ipynb: Path) -> list[str]:
    """The notebook is written the way the top of this file describes."""
    notebook = nbformat.read(ipynb, as_version=4)
    markdown = "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    return (
        complaints_about_opening(notebook)
        + complaints_about_sections(markdown)
        + complaints_about_captions(notebook)
        + complaints_about_exercises(notebook)
    )


def complaints_about_opening(notebook: NotebookNode) -> list[str]:
    """The first cell holds the title and the promise."""
    first = notebook.cells[0]
    lines = [line for line in first.source.splitlines() if line.strip()]
    if first.cell_type != "markdown" or len(lines) < 2 or not lines[0].startswith("# "):
        return ["the first cell is not markdown with a title and a one-line promise"]
    if lines[1].startswith("#"):
        return ["the title is not followed by a one-line promise"]
    return []


def complaints_about_sections(markdown: str) -> list[str]:
    """The sections and words that every notebook has."""
    complaints = []
    learn = re.search(r"^## What you will learn$(.*?)(?=^#|\Z)", markdown, re.MULTILINE | re.DOTALL)
    points = re.findall(r"^[-*] ", learn[1], re.MULTILINE) if learn else []
    if not 3 <= len(points) <= 5:
        complaints.append(f"'## What you will learn' has {len(points)} points, not 3 to 5")
    line = re.search(r"^\*\*Time and memory.*$", markdown, re.MULTILINE)
    if not (line and re.search(r"\d\s*(s|min)\b", line[0]) and re.search(r"\d\s*[MG]B\b", line[0])):
        complaints.append("no line '**Time and memory:** … s, … MB'")
    for word in ("**Predict", "**Explain"):
        if word not in markdown:
            complaints.append(f"no paragraph begins with {word}**")
    for heading in ("## What to remember", "## References"):
        if not re.search(rf"^{heading}", markdown, re.MULTILINE):
            complaints.append(f"no section '{heading}'")
    return complaints


def complaints_about_captions(notebook: NotebookNode) -> list[str]:
    """Words follow each picture: matplotlib's PNG carries no alternative text."""
    complaints = []
    following = [*notebook.cells[1:], None]
    for cell, after in zip(notebook.cells, following, strict=True):
        draws = any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
        if draws and (after is None or after.cell_type != "markdown"):
            first_line = cell.source.partition("\n")[0]
            complaints.append(f"no markdown says what the picture of {first_line!r} shows")
    return complaints


def complaints_about_exercises(notebook: NotebookNode) -> list[str]:
    """At least three exercises of stub, check and solution; the stub fails, the solution passes."""
    roles = ("exercise", "check", "solution")
    cells = [
        (tag, cell)
        for cell in notebook.cells
        for tag in cell.metadata.get("tags", [])
        if tag in roles
    ]
    tags = [tag for tag, _ in cells]
    if tags != list(roles) * (len(tags) // 3):
        return [f"the tags are not exercise, check, solution in turn: {tags}"]
    complaints = []
    if len(tags) < 9:
        complaints.append(f"{len(tags) // 3} exercises, at least 3 are needed")
    solved: dict[str, Any] = {"exercises": exercises, "torch": torch, "math": math}
    for number, start in enumerate(range(0, len(cells), 3), 1):
        check, solution = cells[start + 1][1], cells[start + 2][1]
        if result_of(check) != "False":
            complaints.append(f"exercise {number}: the stub shows {result_of(check)}, not False")
        of_solution = (
            complaint_about_code(check, solution)
            if solution.cell_type == "code"
            else complaint_about_folded(check, solution, solved)
        )
        complaints += [f"exercise {number}: {complaint}" for complaint in of_solution]
    return complaints


def complaint_about_code(check: NotebookNode, solution: NotebookNode) -> list[str]:
    """A solution in a code cell calls the same check, is collapsed and shows True."""
    complaints = []
    calls = [CHECK_CALL.findall(cell.source)[-1:] for cell in (check, solution)]
    if not calls[0] or calls[0] != calls[1]:
        complaints.append("check and solution do not call the same check")
    if not solution.metadata.get("jupyter", {}).get("source_hidden"):
        complaints.append("the solution is not collapsed")
    if result_of(solution) != "True":
        complaints.append(f"the solution shows {result_of(solution)}, not True")
    return complaints


def complaint_about_folded(
    check: NotebookNode, solution: NotebookNode, solved: dict[str, Any]
) -> list[str]:
    """A folded solution passes the check of the cell before it.

    solved: the names that solutions may use; those of this one are added.
    """
    folded, asked = FOLDED.match(solution.source), CHECK_LINE.search(check.source)
    if not folded:
        return ["the solution is not <details>, a summary and one ```python block"]
    if not asked:
        return ["the check cell does not end in a call of exercises.check_…"]
    exec(folded[1], solved)
    with redirect_stdout(io.StringIO()) as said:
        passed = eval(asked[0], solved)
    return [] if passed is True else [f"the solution does not pass: {said.getvalue().strip()}"]


def names_overwritten(notebook: NotebookNode) -> list[str]:
    """Functions of exercise cells that a later cell defines anew: the student's answer is lost."""
    defined = re.compile(r"^def (\w+)", re.MULTILINE)
    asked: set[str] = set()
    lost = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            names = set(defined.findall(cell.source))
            lost += sorted(names & asked)
            if "exercise" in cell.metadata.get("tags", []):
                asked |= names
    return lost


def result_of(cell: NotebookNode) -> str | None:
    """What the cell's last expression showed."""
    results = [o.data["text/plain"] for o in cell.outputs if o.output_type == "execute_result"]
    return results[-1] if results else None
