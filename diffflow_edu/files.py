"""Files that are whole or not there, and never over others."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4


def write_whole(path: Path, content: bytes | str) -> None:
    """Put content, text as UTF-8, in the place of what is there, all or nothing."""
    with _beside(path, content) as temporary:
        temporary.replace(path)


def write_new(path: Path, content: bytes | str) -> Path:
    """Write content under a name that is not taken: path, else name-2, name-3 …; the path it got.

    All or nothing, and safe beside others that write at the same time.
    """
    with _beside(path, content) as temporary:
        number = 1
        while True:
            name = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
            if _claim(temporary, name):
                return name
            number += 1


def write_once(path: Path, content: bytes | str) -> None:
    """Write content, all or nothing. Raises FileExistsError where there is such a file."""
    with _beside(path, content) as temporary:
        if not _claim(temporary, path):
            raise FileExistsError(f"{path} exists")


def to_json(value: Any, **options: Any) -> str:  # noqa: ANN401
    """As text with a line a value, and never the NaN that JSON does not know."""
    return json.dumps(value, indent=1, allow_nan=False, **options) + "\n"


@contextmanager
def _beside(path: Path, content: bytes | str) -> Iterator[Path]:
    """A file with the content and a name of its own, in the folder of path; gone afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = name_beside(path)
    try:
        with open(temporary, "xb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def name_beside(path: Path) -> Path:
    """A name in the same folder that no thread, process or machine makes a second time."""
    return path.with_name(f"{path.name}.{uuid4().hex[:12]}.part")


def _claim(temporary: Path, name: Path) -> bool:
    """Give the file a name unless the name is taken, in one step where the disk knows links."""
    try:
        os.link(temporary, name)
    except FileExistsError:
        return False
    except OSError:
        if name.exists():
            return False
        temporary.rename(name)
    return True
