"""Do the stored outputs hold elsewhere? Run the notebooks as other machines and seeds would.

    python -m tools.vary_notebooks                      every notebook under every variation
    python -m tools.vary_notebooks notebooks/04*.py --only avx2 threads

A processor with other vector units rounds otherwise, and training makes rounding errors grow. Each
variation runs a notebook anew and prints the lines of output that differ from the stored ones.
"processor" variations (plain, avx2, threads, onednn) must give no line at all; under "seeds", where
the numbers are others, look at the verdicts. Nothing is written. Exit status 1 where an output
depends on the processor.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from tools.build_notebooks import (
    NOTEBOOKS,
    clean_outputs,
    kernel_environment,
    read_text,
    sanitize,
)

VARIATIONS: dict[str, dict[str, str]] = {
    "plain": {"ATEN_CPU_CAPABILITY": "default"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "onednn": {"ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "threads": {},
    "seeds": {},
}
PROCESSOR = ("plain", "avx2", "onednn", "threads")
ONE_THREAD = re.compile(r"torch\.set_num_threads\(1\)")
SEED = re.compile(r"\bseed=(\d+)\b")


def varied(source: str, variation: str) -> str:
    """The code of a cell under a variation that is no setting of the environment."""
    if variation == "threads":
        return ONE_THREAD.sub("torch.set_num_threads(2)", source)
    if variation == "seeds":
        return SEED.sub(lambda match: f"seed={int(match[1]) + 100}", source)
    return source


def texts(cell: NotebookNode) -> list[str]:
    """The lines of a cell's outputs, without clocks and pictures."""
    lines: list[str] = []
    for output in cell.get("outputs", []):
        text = output.get("text") or output.get("data", {}).get("text/plain", "")
        lines += sanitize(text).splitlines()
    return lines


def differences(source: Path, variation: str) -> list[str]:
    """Lines of output that are others than the stored ones, with the cell's first line."""
    stored = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    notebook = read_text(source)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = varied(cell.source, variation)
    kernel_environment()
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **VARIATIONS[variation]}
    NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        store_widget_state=False,
        resources={"metadata": {"path": str(source.parent)}},
    ).execute(env=environment)
    clean_outputs(notebook)
    found = []
    for here, there in zip(notebook.cells, stored.cells, strict=True):
        a, b = texts(there), texts(here)
        if a != b:
            found.append(f"  cell: {here.source.splitlines()[0]}")
            changed = difflib.unified_diff(a, b, lineterm="", n=0)
            found += [
                f"    {line}" for line in changed if not line.startswith(("---", "+++", "@@"))
            ]
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="notebooks/NN_name.py (default: all)")
    parser.add_argument("--only", nargs="+", choices=list(VARIATIONS), default=list(VARIATIONS))
    asked = parser.parse_args(arguments)
    status = 0
    for variation in asked.only:
        for source in asked.files or sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py")):
            lines = differences(source.resolve(), variation)
            print(f"{source.name}, {variation}: {'no difference' if not lines else ''}", flush=True)
            print("\n".join(lines), flush=True) if lines else None
            if lines and variation in PROCESSOR:
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
