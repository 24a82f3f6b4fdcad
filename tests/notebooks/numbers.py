"""Numbers in the prose of a notebook come from a run; a function returns those that do not.

A number that the notebook prints or computes with needs nothing: the text is compared with the
cells' outputs and code. A number from elsewhere names its source in a comment right behind it,
which no page shows:

    it trained for 897 s<!-- from diffflow/olympic_rings/10 seconds -->
    leaks 27.0%<!-- from toy cells.ddpm-linear-30.olympic_rings.leak.mean -->

The source is the card of shipped weights (kind/density/steps) or benchmarks/results/NAME.json, the
path its keys with dots between. The number must be the source's, rounded to the digits shown.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from diffflow_edu import pretrained

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"

NUMBER = r"(?<![\w.^_/])[−-]?\d+(?:\.\d+)?(?![\d.]*\d)"
SOURCED = re.compile(rf"({NUMBER})( ?%)?(?: s| nats)?<!-- from (\S+) (\S+) -->")
CLAIMED = re.compile(rf"({NUMBER})( ?%| nats\b)?")
FORMULAS = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|```.*?```|`[^`]*`|\[[^\]]*\]\([^)]*\)", re.DOTALL)
APART = re.compile(
    r"^## References.*?(?=^## |^\*\*What is next|\Z)|^\*\*Time and memory.*?$"
    r"|<details>.*?</details>",
    re.DOTALL | re.MULTILINE,
)


def complaints_about_sourced(markdown: str) -> list[str]:
    """Numbers that differ from the card or the result that they name."""
    complaints = []
    for number, percent, source, path in SOURCED.findall(markdown):
        value = float(look_up(source, path)) * (100 if percent else 1)
        digits = len(number.partition(".")[2])
        if f"{value:.{digits}f}" != number.replace("−", "-"):
            complaints.append(f"{number}{percent} is {value:g} in {source} {path}")
    return complaints


def complaints_about_claimed(notebook: NotebookNode) -> list[str]:
    """Decimals, shares and nats in the prose that no output and no code of the notebook holds."""
    known = "\n".join(text_of(cell) for cell in notebook.cells if cell.cell_type == "code")
    values = {float(each) for each in re.findall(r"\d*\.?\d+(?:e-?\d+)?", known)}
    complaints = []
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        prose = FORMULAS.sub(" ", SOURCED.sub(" ", APART.sub(" ", cell.source)))
        for number, unit in CLAIMED.findall(prose):
            if "." not in number and not unit:
                continue
            digits, value = len(number.partition(".")[2]), abs(float(number.replace("−", "-")))
            shares = {100 * each for each in values} if "%" in unit else set()
            if not any(abs(each - value) <= 0.5001 * 10**-digits for each in values | shares):
                complaints.append(f"no cell prints {number}{unit}")
    return complaints


def text_of(cell: NotebookNode) -> str:
    """The code of a cell and what it printed."""
    printed = [output.get("text", "") for output in cell.outputs]
    shown = [output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "\n".join([cell.source, *printed, *shown])


@cache
def _report(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def look_up(source: str, path: str) -> Any:
    """The value at a path of keys in a card or a file of results; KeyError where it is not."""
    if "/" in source:
        kind, density, steps = source.split("/")
        value: Any = pretrained(kind, density, steps=int(steps)).card
    else:
        value = _report(source)
    for key in path.split("."):
        value = value[key]
    return value
