"""Files from elsewhere: looked for in a folder of yours, then in the cache, then downloaded.

`DIFFFLOW_EDU_DATA` names a folder that is looked at first; a machine without a network needs
nothing else. What is downloaded is checked against its published checksum before any use.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "DIFFFLOW_EDU_DATA"


class DataError(OSError):
    """Data that cannot be had or must not be used; the message says what to do about it."""


@dataclass(frozen=True)
class Remote:
    """A published file. checksum: "md5:…" or "sha256:…". size: in words, for messages."""

    name: str
    url: str
    checksum: str
    size: str


def data_folder() -> Path | None:
    """The folder that DIFFFLOW_EDU_DATA names; None where it names none.

    Raises DataError where it names something that is not a folder.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise DataError(f"{VARIABLE} must name a folder, got {named!r}")
    return folder


def cache_folder() -> Path:
    """Where downloads and prepared arrays are kept, such as ~/.cache/diffflow_edu."""
    import pooch

    return Path(pooch.os_cache("diffflow_edu"))


def find(*names: str) -> Path | None:
    """The first of these files in the data folder or in a folder directly inside it, else None."""
    folder = data_folder()
    for name in names if folder is not None else ():
        for path in (folder / name, *sorted(folder.glob(f"*/{name}"))):
            if path.is_file():
                return path
    return None


def fetch(remote: Remote) -> Path:
    """The path of a published file that has the right checksum, downloaded where it is not at hand.

    Raises DataError without a network (which file, from where, where to put it), and where the
    checksum is wrong. A wrong download is kept aside as name.bad; a file of yours stays as it is.
    """
    given = find(remote.name)
    if given is not None:
        actual = _checksum(given, remote)
        if actual != remote.checksum:
            raise DataError(
                f"{given} is not the published {remote.name}: its checksum is {actual} instead of "
                f"{remote.checksum}. It was not used. It may be truncated; get it again from "
                f"{remote.url}"
            )
        return given
    path = cache_folder() / remote.name
    if not path.exists():
        _download(remote, path)
    actual = _checksum(path, remote)
    if actual != remote.checksum:
        aside = path.with_name(path.name + ".bad")
        path.replace(aside)
        raise DataError(
            f"what was downloaded from {remote.url} is not the published {remote.name}: its "
            f"checksum is {actual} instead of {remote.checksum}. It was not used, and is kept as "
            f"{aside}. Call again to download it anew."
        )
    return path


def _checksum(path: Path, remote: Remote) -> str:
    import pooch

    algorithm = remote.checksum.split(":")[0]
    return f"{algorithm}:{pooch.file_hash(str(path), alg=algorithm)}"


def _download(remote: Remote, path: Path) -> None:
    import pooch

    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two downloads at a time from writing into one another.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    quiet = os.environ.get("DIFFFLOW_EDU_PROGRESS") == "0"
    try:
        get = pooch.HTTPDownloader(progressbar=not quiet, timeout=30)
        get(remote.url, str(part), None)
        part.replace(path)
    except OSError as error:  # requests raises nothing else
        raise DataError(
            f"{remote.name} ({remote.size}) is not in {places(path.parent)}, and could not be "
            f"downloaded from {remote.url} ({_reason(error)}). Without a network: get it on "
            f"another machine and put it into {path.parent} or any folder that {VARIABLE} names."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def places(cache: Path) -> str:
    """Where was looked, in words."""
    folder = os.environ.get(VARIABLE)
    yours = f"{VARIABLE} ({folder})" if folder else f"{VARIABLE} (not set)"
    return f"{yours} or {cache}"


def _reason(error: BaseException) -> str:
    """The innermost cause, without the wrapping of three libraries."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        causes: Iterable[object] = (getattr(error, "reason", None), *error.args, error.__context__)
        error = next((c for c in causes if isinstance(c, BaseException)), None)
    return str(seen[-1]) or type(seen[-1]).__name__
