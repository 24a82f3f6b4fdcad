"""Files from elsewhere: looked for in a folder of yours, then in the cache, then downloaded.

`DIFFFLOW_EDU_DATA` names a folder that is looked at first; a machine without a network needs
nothing else. What is downloaded is checked against its published checksum before any use.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from diffflow_edu.files import name_beside, write_new

VARIABLE = "DIFFFLOW_EDU_DATA"


class DataError(OSError):
    """Data that cannot be had or must not be used; the message says what to do about it."""


@dataclass(frozen=True)
class Remote:
    """A published file. checksum: "md5:…" or "sha256:…". size: in words, for messages.

    mirrors: other addresses, tried in turn. unpacked: the checksum is of what is inside the .gz,
    since the same content can be packed in many ways; without .gz in its name the file will do too.
    """

    name: str
    url: str
    checksum: str
    size: str
    mirrors: tuple[str, ...] = ()
    unpacked: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """What the file may be called in a folder of yours."""
        return (self.name, self.name.removesuffix(".gz")) if self.unpacked else (self.name,)


def data_folder() -> Path | None:
    """The folder that DIFFFLOW_EDU_DATA names; None where it names none.

    Raises DataError where it names something that is not a folder.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise DataError(f"{VARIABLE} must name a folder, got the path {folder}")
    return folder


def cache_folder() -> Path:
    """Where downloads and prepared arrays are kept, such as ~/.cache/diffflow_edu."""
    import pooch

    return Path(pooch.os_cache("diffflow_edu"))


def find_all(*names: str) -> list[Path]:
    """Every such file in the data folder or in a folder directly inside it."""
    folder = data_folder()
    if folder is None:
        return []
    paths = (p for name in names for p in (folder / name, *sorted(folder.glob(f"*/{name}"))))
    return [path for path in paths if path.is_file()]


def find(*names: str) -> Path | None:
    """The first of these files in the data folder or in a folder directly inside it, else None."""
    return next(iter(find_all(*names)), None)


def fetch(remote: Remote) -> Path:
    """The path of a published file that has the right checksum, downloaded where it is not at hand.

    Raises DataError without a network (which file, from where, where to put it), and where the
    checksum is wrong. A wrong download is kept aside as name.bad; a file of yours stays as it is.
    """
    given = find_all(*remote.names)
    for path in given:  # MNIST and Fashion-MNIST give their files the same names
        if _checksum(path, remote) == remote.checksum:
            return path
    if given:
        raise DataError(
            f"{given[0]} is not the published {remote.name}: its checksum is "
            f"{_checksum(given[0], remote)} instead of {remote.checksum}. It was not used. It may "
            f"be truncated; get it again from {remote.url}"
        )
    path = cache_folder() / remote.name
    if path.exists() and _checksum(path, remote) == remote.checksum:
        return path
    return _download(remote, path)


def _checksum(path: Path, remote: Remote, name: str | None = None) -> str:
    """Of a file, as `remote` has it. name: of the content, where the file has another one."""
    import pooch

    algorithm = remote.checksum.split(":")[0]
    if remote.unpacked and (name or path.name).endswith(".gz"):
        try:
            with gzip.open(path) as file:
                digest = hashlib.new(algorithm, file.read()).hexdigest()
        except (OSError, EOFError, zlib.error) as error:
            return f"none ({error})"
        return f"{algorithm}:{digest}"
    return f"{algorithm}:{pooch.file_hash(str(path), alg=algorithm)}"


def _download(remote: Remote, path: Path) -> Path:
    """Get a file from its first address that gives the published content; the path.

    Every download has a file of its own, so that any number may run at a time.
    """
    import pooch

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = name_beside(path)
        part.touch(exist_ok=False)
    except OSError as error:
        raise DataError(
            f"{remote.name} ({remote.size}) is not in {places(path.parent)}, and cannot be "
            f"downloaded, for {path.parent} cannot be written to ({error.strerror or error}). Put "
            f"it into any folder that {VARIABLE} names."
        ) from None
    quiet = os.environ.get("DIFFFLOW_EDU_PROGRESS") == "0"
    get = pooch.HTTPDownloader(progressbar=not quiet, timeout=30)
    failures, aside = [], None
    try:
        for url in (remote.url, *remote.mirrors):
            try:
                get(url, str(part), None)
            except OSError as error:  # requests raises nothing else
                failures.append(_reason(error))
                continue
            actual = _checksum(part, remote, remote.name)
            if actual == remote.checksum:
                part.replace(path)
                return path
            failures.append(f"from {url} its checksum is {actual} instead of {remote.checksum}")
            # A download cut short looks like this, where the server does not tell a length.
            aside = write_new(path.with_name(path.name + ".bad"), part.read_bytes())
    finally:
        part.unlink(missing_ok=True)
    reasons = "; ".join(dict.fromkeys(failures))
    if aside is not None:
        raise DataError(
            f"what was downloaded is not the published {remote.name} ({reasons}). It was not used, "
            f"and is kept as {aside}. Call again to download it anew, or put the file into any "
            f"folder that {VARIABLE} names."
        )
    others = f" or from {', '.join(remote.mirrors)}" if remote.mirrors else ""
    raise DataError(
        f"{remote.name} ({remote.size}) is not in {places(path.parent)}, and could not be "
        f"downloaded from {remote.url}{others} ({reasons}). Without a network: get it on another "
        f"machine and put it into {path.parent}, or as {remote.name} into any folder that "
        f"{VARIABLE} names."
    ) from None  # the reason is in the message; the traces of three libraries are no help


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
