"""Reading a table that pandas pickled years ago.

The GAS set is published as a pickle of pandas 0.1x under Python 2, whose modules today's pandas
no longer has. Its layout is simple: blocks of values, and which columns each block holds. So it is
read here; and since no code that the pickle names is run, it need not be trusted.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

ALLOWED = {
    "numpy": {"_reconstruct", "ndarray", "dtype", "scalar"},
    "__builtin__": {"slice"},
    "builtins": {"slice"},
    "_codecs": {"encode"},  # how Python 3 writes bytes in an old protocol
}


class _Record:
    """Stands in for any object of pandas: keeps what it was made of."""

    def __new__(cls, *args: Any) -> _Record:
        record = super().__new__(cls)
        record.args, record.state = args, None
        return record

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        package = module.split(".")[0]
        if package == "pandas":
            return _Record
        if name in ALLOWED.get(package, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"a table has no use for {module}.{name}")


def read_frame(path: Path) -> tuple[list[str], np.ndarray]:
    """Column names and values (rows, columns) float64 of a frame pickled by pandas 0.14 to 1.2.

    Raises pickle.UnpicklingError for anything else.
    """
    with path.open("rb") as file:
        frame = _Reader(file, encoding="latin1").load()
    try:
        manager = frame.state.get("_data") or frame.state["_mgr"]
        layout = manager.state[3]["0.14.1"]
        columns = [str(name) for name in layout["axes"][0].args[1]["data"]]
        values = np.empty((layout["blocks"][0]["values"].shape[1], len(columns)))
        for block in layout["blocks"]:
            values[:, block["mgr_locs"]] = block["values"].T
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise pickle.UnpicklingError(f"{path} holds no pandas table of a known layout") from error
    return columns, values
