"""Tabular sets: the five of the MAF paper, image patches, and small ones that need no network.

POWER, GAS, HEPMASS, MINIBOONE and BSDS300 are prepared as in Papamakarios et al. 2017 (Masked
Autoregressive Flow, appendix D), so that likelihoods compare with published tables. Each rule is a
function of arrays. What it makes is cached as float32 npy files and read through memory mapping.

>>> data = load("wine")
>>> data.dim, len(data.train), len(data.validation), len(data.test)
(13, 145, 16, 17)
"""

from __future__ import annotations

import difflib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffflow_edu.download import (
    VARIABLE,
    DataError,
    Remote,
    cache_folder,
    data_folder,
    fetch,
    find,
    places,
)
from diffflow_edu.pickled_frame import read_frame
from diffflow_edu.schedules import shortly

Splits = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Train, validation and test rows, each (n, d)."""

ARCHIVE = Remote(
    name="data.tar.gz",
    url="https://zenodo.org/records/1161203/files/data.tar.gz?download=1",
    checksum="md5:9b9c9b0375315ad270eba4ce80c093ab",
    size="817 MB",
)
MEMBERS = {
    "power": ("power/data.npy",),
    "gas": ("gas/ethylene_CO.pickle",),
    "hepmass": ("hepmass/1000_train.csv", "hepmass/1000_test.csv"),
    "miniboone": ("miniboone/data.npy",),
    "bsds300": ("BSDS300/BSDS300.hdf5",),
}
PUBLISHED = {  # d, rows of train, validation and test
    "power": (6, 1_659_917, 184_435, 204_928),
    "gas": (8, 852_174, 94_685, 105_206),
    "hepmass": (21, 315_123, 35_013, 174_987),
    "miniboone": (43, 29_556, 3_284, 3_648),
    "bsds300": (63, 1_000_000, 50_000, 250_000),
}
PATCHES = ("bsds300_patches_u8.npz", "bsds300_ci.npz")
OFFLINE = ("digits", "wine", "breast_cancer")
SPLIT_NAMES = ("train", "validation", "test")


@dataclass(frozen=True, eq=False, repr=False)
class Tabular:
    """A set of rows, split. train, validation, test: (n, d) float32.

    source: the file or library that the rows come from.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    source: str

    @property
    def dim(self) -> int:
        """D, the numbers in a row."""
        return self.train.shape[1]

    def __repr__(self) -> str:
        sizes = " + ".join(f"{len(getattr(self, split))}" for split in SPLIT_NAMES)
        return f"Tabular({self.name}, {sizes} rows of {self.dim} numbers, from {self.source})"


def names() -> list[str]:
    """The names that `load` knows.

    >>> names()[:5], names()[5:]  # doctest: +NORMALIZE_WHITESPACE
    (['power', 'gas', 'hepmass', 'miniboone', 'bsds300'],
     ['bsds300_patches', 'digits', 'wine', 'breast_cancer'])
    """
    return [*MEMBERS, "bsds300_patches", *OFFLINE]


def load(name: str) -> Tabular:
    """A tabular set, split and prepared.

    power, gas, hepmass, miniboone, bsds300: from the archive of the MAF paper, downloaded once
        (817 MB) unless the folder DIFFFLOW_EDU_DATA holds data.tar.gz or its extracted files.
        The arrays are memory mapped: changing one changes neither the file nor what is loaded next.
    bsds300_patches: 8×8 patches of BSDS images, regenerated, 63-d. Not the rows of bsds300: never
        compare the two numbers. Needs bsds300_patches_u8.npz (or its cut, bsds300_ci.npz) in
        DIFFFLOW_EDU_DATA: uint8 arrays train, validation, test of (n, 8, 8).
    digits, wine, breast_cancer: small, from scikit-learn, no network. digits is dequantised.

    Raises ValueError for an unknown name, DataError (an OSError) for data that cannot be had, has
    another checksum than published, or is damaged; the message says what to do.
    """
    if not isinstance(name, str) or name not in names():
        near = difflib.get_close_matches(str(name).lower(), names(), n=1, cutoff=0.3)
        hint = f": did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"unknown tabular set {shortly(name)}{hint} Known: {', '.join(names())}")
    if name in OFFLINE:
        splits = (np.ascontiguousarray(rows, np.float32) for rows in _offline(name))
        return Tabular(name, *splits, source="scikit-learn")
    if name == "bsds300_patches":
        return _load_patches()
    folder = cache_folder() / "tabular" / name
    if not folder.exists():
        _write(folder, _prepare(name))
    return Tabular(name, *_read(folder), source=ARCHIVE.name)


# The rules of the MAF paper -----------------------------------------------------------------------


def power(rows: np.ndarray) -> Splits:
    """POWER, household electricity: (n, 8) as published -> splits of 6 columns, float64.

    Shuffled with seed 42; global intensity (3) and reactive power (1) go; what the meters rounded
    away comes back as uniform noise, .001 on the active power, .01 on the voltage, 1 on the three
    sub-meters; last tenth test, then last tenth validation; z-score by train + validation.
    """
    rng = np.random.RandomState(42)
    order = rng.permutation(len(rows))  # the order that rng.shuffle(rows) gives
    rows = rows[:, [0, 2, 4, 5, 6, 7]][order].astype(np.float64)
    rows[:, 1] += 0.01 * rng.rand(len(rows))
    rows[:, 0] += 0.001 * rng.rand(len(rows))
    rows[:, 2:5] += rng.rand(len(rows), 3)
    return standardised(*tail_split(rows))


def gas(columns: Sequence[str], rows: np.ndarray) -> Splits:
    """GAS, chemical sensors: named columns, rows (n, columns) -> splits, float64.

    Meth, Eth and Time go; of the rest the columns that are `uncorrelated` stay; z-score by all
    rows (n − 1 in the variance, as pandas has it); then the split, in the order of the file.
    """
    keep = [i for i, column in enumerate(columns) if column not in ("Meth", "Eth", "Time")]
    rows = np.asarray(rows, np.float64)[:, keep]
    rows = rows[:, uncorrelated(rows)]
    rows = (rows - rows.mean(0)) / rows.std(0, ddof=1)
    return tail_split(rows)


def hepmass(train: np.ndarray, test: np.ndarray) -> Splits:
    """HEPMASS, collisions, mass 1000: (n, 1 + 27) and (n, 1 + 27 + 1) -> splits, float64.

    The first column is the class; only class 1, the signal, stays. The test file has a column too
    many, its last. z-score by train (n − 1); features that `recurs` in train go; the last tenth
    of train is validation.
    """
    train, test = (rows[rows[:, 0] == 1, 1:].astype(np.float64) for rows in (train, test[:, :-1]))
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            "test must have one column more than train, "
            f"got {test.shape[1] + 2} and {train.shape[1] + 1}"
        )
    keep = ~recurs(train)
    train, test = train[:, keep], test[:, keep]
    mean, std = train.mean(0), train.std(0, ddof=1)
    return *_without_tenth((train - mean) / std), (test - mean) / std


def miniboone(rows: np.ndarray) -> Splits:
    """MINIBOONE, neutrinos: (n, d) -> splits, float64.

    Rows that begin below −100 go (they are missing values), then features that `recurs`. Last
    tenth test, then last tenth validation; z-score by train + validation. The published file has
    already been through the first two rules; they find nothing more in it.
    """
    rows = rows[~(rows[:, 0] < -100)].astype(np.float64)
    rows = rows[:, ~recurs(rows)]
    return standardised(*tail_split(rows))


def patches(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grey patches, uint8 (n, 8, 8) -> (n, 63) float32.

    Dequantised, (k + u)/256 with u uniform in [0, 1); the mean of each patch subtracted; the last
    pixel dropped, which the others then determine.
    """
    flat = pixels.reshape(len(pixels), -1)
    values = (flat + rng.random(flat.shape, np.float32)) / np.float32(256)
    values -= values.mean(1, keepdims=True)
    return values[:, :-1]


def recurs(rows: np.ndarray, limit: int = 5) -> np.ndarray:
    """The features whose smallest value occurs more than `limit` times, (d,) bool.

    It is the smallest value alone that is counted, as in the code of the paper: missing values and
    the floor of a detector sit there.
    """
    return (rows == rows.min(0)).sum(0) > limit


def uncorrelated(rows: np.ndarray, limit: float = 0.98) -> list[int]:
    """The columns that stay if the first one correlated above `limit` with another goes, again.

    Only correlation above +limit counts, not below −limit: so it is in the code of the paper.
    """
    with np.errstate(invalid="ignore", divide="ignore"):  # a constant column correlates with none
        above = np.atleast_2d(np.corrcoef(rows, rowvar=False)) > limit
    keep = list(range(rows.shape[1]))
    while True:
        counts = above[np.ix_(keep, keep)].sum(1)  # each column counts itself
        if not (counts > 1).any():
            return keep
        del keep[int(np.argmax(counts > 1))]


def tail_split(rows: np.ndarray) -> Splits:
    """Train, validation, test: the last tenth is test, the last tenth before it validation."""
    rest, test = _without_tenth(rows)
    return *_without_tenth(rest), test


def _without_tenth(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cut = len(rows) - int(0.1 * len(rows))
    return rows[:cut], rows[cut:]


def standardised(train: np.ndarray, validation: np.ndarray, test: np.ndarray) -> Splits:
    """Mean 0 and variance 1 by train and validation together; a constant column becomes 0."""
    both = np.concatenate([train, validation])
    mean, std = both.mean(0), both.std(0)
    std = np.where(std > 0, std, 1.0)
    return tuple((rows - mean) / std for rows in (train, validation, test))


# Where the rows come from -------------------------------------------------------------------------


def _prepare(name: str) -> Splits:
    """A set of the archive, from its files in the data folder, or from the archive."""
    extracted = _extracted(name)
    if extracted is not None:
        splits = _from_files(name, extracted)
    else:
        archive = fetch(ARCHIVE)
        cache = cache_folder()
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=f"{name}.", suffix=".part") as place:
            splits = _from_files(name, _extract(archive, MEMBERS[name], Path(place)))
    dim, *sizes = PUBLISHED[name]
    wanted = [(size, dim) for size in sizes]
    found = [rows.shape for rows in splits]
    if found != wanted:
        raise DataError(
            f"the files of {name} are not the published ones: they make splits of {found} rows and "
            f"columns instead of {wanted}. They were not used."
        )
    return splits


def _extracted(name: str) -> list[Path] | None:
    """The files of a set where the data folder holds the extracted archive."""
    folder = data_folder()
    for root in (folder, folder / "data") if folder is not None else ():
        paths = [root / member for member in MEMBERS[name]]
        if all(path.is_file() for path in paths):
            return paths
    return None


def _extract(archive: Path, members: Sequence[str], place: Path) -> list[Path]:
    """Copy members out of the archive, whatever folder they lie in there."""
    found: dict[str, Path] = {}
    with tarfile.open(archive) as tar:
        for entry in tar:
            for member in members:
                if entry.isfile() and f"/{entry.name}".endswith(f"/{member}"):
                    found[member] = place / Path(member).name
                    with tar.extractfile(entry) as packed, found[member].open("wb") as file:
                        shutil.copyfileobj(packed, file, 1 << 20)
            if len(found) == len(members):
                return [found[member] for member in members]
    missing = ", ".join(member for member in members if member not in found)
    raise DataError(f"{archive} does not hold {missing}")


def _from_files(name: str, paths: list[Path]) -> Splits:
    if name == "power":
        return power(np.load(paths[0], mmap_mode="r"))
    if name == "gas":
        return gas(*read_frame(paths[0]))
    if name == "hepmass":
        import pandas

        return hepmass(*(pandas.read_csv(path, index_col=False).to_numpy() for path in paths))
    if name == "miniboone":
        return miniboone(np.load(paths[0]))
    try:
        import h5py
    except ImportError as error:
        raise DataError(
            'bsds300 is an HDF5 file: pip install "diffflow-edu[tabular]" to read it'
        ) from error

    with h5py.File(paths[0]) as file:
        return tuple(file[split][:] for split in SPLIT_NAMES)


def _load_patches() -> Tabular:
    path = find(*PATCHES)
    if path is None:
        raise DataError(
            f"{PATCHES[0]} is not in {places(cache_folder())}, and is not for download: set "
            f"{VARIABLE} to a folder that holds it, with uint8 arrays train, validation and test "
            "of grey patches (n, 8, 8). For likelihoods beside published ones, load('bsds300')."
        )
    stat = path.stat()
    # Size and time stand for the content, which is not ours to fix: another file, another cache.
    key = f"bsds300_patches-{path.stem}-{stat.st_size}-{stat.st_mtime_ns}"
    folder = cache_folder() / "tabular" / key
    if not folder.exists():
        with np.load(path) as arrays:
            missing = [split for split in SPLIT_NAMES if split not in arrays.files]
            if missing:
                raise DataError(f"{path} has no array named {', '.join(missing)}")
            pixels = [arrays[split] for split in SPLIT_NAMES]
        for split, values in zip(SPLIT_NAMES, pixels, strict=True):
            if values.dtype != np.uint8 or values.shape[1:] != (8, 8):
                raise DataError(
                    f"{split} in {path} must be uint8 (n, 8, 8), got {values.dtype} {values.shape}"
                )
        rng = np.random.default_rng(0)
        _write(folder, tuple(patches(values, rng) for values in pixels))
    return Tabular("bsds300_patches", *_read(folder), source=path.name)


def _offline(name: str) -> Splits:
    from sklearn import datasets

    rows = getattr(datasets, f"load_{name}")().data
    rng = np.random.RandomState(42)
    rows = rows[rng.permutation(len(rows))]
    if name == "digits":  # grey levels 0 … 16
        rows = rows + rng.rand(*rows.shape)
    return standardised(*tail_split(rows))


# The cache ----------------------------------------------------------------------------------------


def _write(folder: Path, splits: Splits) -> None:
    """Write train.npy, validation.npy and test.npy, float32: all or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.", suffix=".part"))
    try:
        for split, rows in zip(SPLIT_NAMES, splits, strict=True):
            np.save(place / f"{split}.npy", np.ascontiguousarray(rows, np.float32))
        try:
            os.replace(place, folder)
        except OSError:
            if not folder.exists():  # else another process was first, with the same arrays
                raise
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _read(folder: Path) -> Splits:
    # Mode "c": torch warns about arrays that it must not write to, and these it may, in memory.
    try:
        return tuple(np.load(folder / f"{split}.npy", mmap_mode="c") for split in SPLIT_NAMES)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{folder} is damaged ({error}). Delete it and load again.") from error


# The baseline -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Gaussian:
    """The full-covariance Gaussian of some rows: the number that a model has to beat.

    It is also a linear flow layer, z = L⁻¹(x − μ) with the Cholesky factor L of the covariance.
    Whitened rows have log p(x) = log p(z) − log_det, so a model of z starts level with it.

    mean: μ, (d,). factor: L, (d, d). float64.

    >>> rows = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [2.0, 4.0]])
    >>> Gaussian.of(rows).whiten(rows)[0]
    tensor([-1., -1.])
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def of(cls, rows: np.ndarray | Tensor) -> Gaussian:
        """The maximum-likelihood fit to rows (n, d), read in pieces.

        Raises ValueError where the rows lie in a flat subspace, so that there is no density.
        """
        rows = torch.as_tensor(rows)
        if rows.ndim != 2 or len(rows) <= rows.shape[1] or not rows.is_floating_point():
            raise ValueError(
                "rows must be floating point (n, d) with n > d, "
                f"got {rows.dtype} {tuple(rows.shape)}"
            )
        mean = sum(piece.double().sum(0) for piece in rows.split(_PIECE)) / len(rows)
        squares = ((piece.double() - mean) for piece in rows.split(_PIECE))
        covariance = sum(piece.T @ piece for piece in squares) / len(rows)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if failed:
            raise ValueError(
                "the covariance of rows is singular: a column is constant, or a sum of others"
            )
        return cls(mean, factor)

    @property
    def log_det(self) -> float:
        """log |det L|, nats."""
        return float(self.factor.diagonal().log().sum())

    def whiten(self, x: Tensor) -> Tensor:
        """z = L⁻¹(x − μ). x: (B, d). Returns (B, d), as precise as x, made in pieces."""
        pieces = ((piece.double() - self.mean).T for piece in x.split(_PIECE))
        solve = torch.linalg.solve_triangular
        return torch.cat([solve(self.factor, z, upper=False).T.to(x) for z in pieces])

    def unwhiten(self, z: Tensor) -> Tensor:
        """x = L z + μ. z: (B, d). Returns (B, d)."""
        return (z.double() @ self.factor.T + self.mean).to(z)

    def log_prob(self, x: Tensor) -> Tensor:
        """log N(x; μ, L Lᵀ) in nats. x: (B, d). Returns (B,)."""
        z = self.whiten(x)
        return -0.5 * (z.square().sum(1) + z.shape[1] * np.log(2 * np.pi)) - self.log_det


_PIECE = 100_000  # rows at a time, so that float64 copies stay small
