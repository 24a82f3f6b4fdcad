"""Images: MNIST, Fashion-MNIST, CIFAR-10, and two sets out of scikit-learn, without a network.

A grey level is a whole number k, a density is of real numbers: so k becomes (k + u)/256 with u
uniform in [0, 1), and the model sees y = 2 (k + u)/256 − 1 in [−1, 1). A mean of −log p(y) in nats
over D numbers then is the well-known unit of coding,

    bits/dim = nats/(D ln 2) + 7        (log2 of levels/2 in general),

an upper bound on what it takes to store the pixels themselves (Theis et al. 2016).

>>> data = load("digits")
>>> data.shape, data.sample(3, seed=0).shape
((1, 8, 8), torch.Size([3, 1, 8, 8]))
"""

from __future__ import annotations

import difflib
import gzip
import math
import pickle
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from diffflow_edu.download import DataError, Remote, fetch, find
from diffflow_edu.processes.base import generator_for
from diffflow_edu.schedules import check_whole, shortly

MNIST_FILES = {
    "train-images-idx3-ubyte.gz": (
        "9.9 MB",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte.gz": (
        "29 kB",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte.gz": (
        "1.6 MB",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "5 kB",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}
MNIST = [
    Remote(
        name,
        f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}",
        f"sha256:{checksum}",
        size,
        mirrors=(f"https://storage.googleapis.com/cvdf-datasets/mnist/{name}",),
        unpacked=True,
    )
    for name, (size, checksum) in MNIST_FILES.items()
]
FASHION_FILES = {
    "train-images-idx3-ubyte.gz": ("26 MB", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
    "train-labels-idx1-ubyte.gz": ("29 kB", "25c81989df183df01b3e8a0aad5dffbe"),
    "t10k-images-idx3-ubyte.gz": ("4.4 MB", "bef4ecab320f06d8554ea6380940ec79"),
    "t10k-labels-idx1-ubyte.gz": ("5 kB", "bb300cfdad3c16e7a12a480ee83cd310"),
}
FASHION_MNIST = [
    Remote(
        f"fashion-mnist/{name}",
        f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{name}",
        f"md5:{checksum}",
        size,
        mirrors=(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
            f"{name}",
        ),
    )
    for name, (size, checksum) in FASHION_FILES.items()
]
CIFAR10 = Remote(
    "cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "170 MB",
)
CIFAR10_ARRAYS = "cifar10.npz"
BELOW_ONE = 1 - 2**-24
"""The largest float32 below 1."""

PATCH = 8
"""Height and width of a patch of `load("patches")`."""


@dataclass(frozen=True, eq=False, repr=False)
class Images:
    """A set of pictures. It draws batches for `fit`, like a density of `toy`.

    train, test: (n, C, H, W) uint8, grey levels 0 … levels − 1. train_labels, test_labels: (n,)
    int64. flip: whether a picture is as likely as its mirror image, so that `sample` may turn it.
    """

    name: str
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    source: str
    levels: int = 256
    flip: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one picture."""
        return tuple(self.train.shape[1:])

    @property
    def dim(self) -> int:
        """D, the numbers in a picture."""
        return math.prod(self.shape)

    def __repr__(self) -> str:
        size = "×".join(map(str, self.shape))
        return f"Images({self.name}, {len(self.train)} + {len(self.test)} of {size}, {self.source})"

    def to(self, device: torch.device | str) -> Images:
        """The same, kept on a device, where batches are then made: a byte a number."""
        moved = {
            name: getattr(self, name).to(device)
            for name in ("train", "train_labels", "test", "test_labels")
        }
        return replace(self, **moved)

    def sample(self, n: int, seed: int | None = None) -> Tensor:
        """n training pictures with replacement, (n, C, H, W) float32 in [−1, 1), dequantised.

        Where `flip`, every other one is mirrored, by chance. seed: None draws from torch's global
        generator.
        """
        return self.sample_labelled(n, seed)[0]

    def sample_labelled(self, n: int, seed: int | None = None) -> tuple[Tensor, Tensor]:
        """What `sample` draws, and the label of each, (n,) int64."""
        check_whole("n", n)
        device = self.train.device
        generator = generator_for(seed, device)
        rows = torch.randint(len(self.train), (n,), generator=generator, device=device)
        pictures = self.train[rows]
        if self.flip:
            turn = torch.rand(n, 1, 1, 1, generator=generator, device=device) < 0.5
            pictures = torch.where(turn, pictures.flip(-1), pictures)
        return self._dequantise(pictures, generator), self.train_labels[rows]

    @property
    def classes(self) -> int:
        """How many classes the labels name, 0 … classes − 1."""
        return 1 + int(self.train_labels.max())

    def dequantise(self, pictures: Tensor, seed: int | None = None) -> Tensor:
        """y = 2 (k + u)/levels − 1, u uniform in [0, 1). pictures: uint8. Returns float32 like it.

        Raises ValueError for anything but whole numbers below `levels`.
        """
        if not isinstance(pictures, Tensor) or pictures.dtype != torch.uint8:
            got = pictures.dtype if isinstance(pictures, Tensor) else type(pictures).__name__
            raise ValueError(f"pictures must be a uint8 tensor, got {got}")
        if pictures.numel() and int(pictures.max()) >= self.levels:
            raise ValueError(
                f"pictures must hold levels 0 … {self.levels - 1}, got {int(pictures.max())}"
            )
        return self._dequantise(pictures, generator_for(seed, pictures.device))

    def _dequantise(self, pictures: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.rand(pictures.shape, generator=generator, device=pictures.device)
        y = (pictures + u) * (2 / self.levels) - 1
        return y.clamp_max(BELOW_ONE)  # a u next to 1 is rounded up to it, and 1 is no picture's

    def mean(self) -> Tensor:
        """The mean of the dequantised training pictures, (C, H, W) float32."""
        pictures = self.train.cpu()
        total = sum(part.sum(0, dtype=torch.int64) for part in pictures.split(1000))
        mean = total.double() / len(pictures)
        if self.flip:
            mean = (mean + mean.flip(-1)) / 2
        return ((mean + 0.5) * (2 / self.levels) - 1).float()

    def quantise(self, y: Tensor) -> Tensor:
        """The pictures that y in [−1, 1] stands for, uint8; what lies outside is cut off."""
        level = ((y + 1) * (self.levels / 2)).floor()
        return level.nan_to_num(0).clamp(0, self.levels - 1).to(torch.uint8)

    def bits_per_dim(self, nats: float | Tensor) -> float | Tensor:
        """What −log p(y) in nats, or a bound on it, is in bits a number."""
        return nats / (self.dim * math.log(2)) + math.log2(self.levels / 2)


def names() -> list[str]:
    """The names that `load` knows."""
    return ["mnist", "mnist14", "fashion_mnist", "cifar10", "digits", "patches"]


def load(name: str) -> Images:
    """A set of pictures.

    mnist, fashion_mnist: 60 000 + 10 000 of 28×28. mnist14: MNIST at half the size, means of 2×2
        pixels rounded to 8 bits. cifar10: 50 000 + 10 000 of 3×32×32, mirrored at random.
        Downloaded once, unless DIFFFLOW_EDU_DATA names a folder that holds the published files,
        or for CIFAR-10 a cifar10.npz with x_train, y_train, x_test, y_test (uint8, NHWC).
    digits: 1500 + 297 of 8×8 in 17 grey levels, from scikit-learn, no network.
    patches: 80 752 + 1560 of 3×8×8, cut from the two photographs that come with scikit-learn at
        half their size, from disjoint strips. They overlap one another, so there is much less in
        them than in as many pictures. Labels: 0 a pagoda, 1 a flower. No network.

    Raises ValueError for an unknown name, DataError (an OSError) for files that cannot be had or
    are not the published ones; the message says which, from where, and where to put them.
    """
    if not isinstance(name, str) or name not in names():
        near = difflib.get_close_matches(str(name).lower(), names(), n=1, cutoff=0.3)
        hint = f": did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"unknown images {shortly(name)}{hint} Known: {', '.join(names())}")
    if name == "digits":
        return _digits()
    if name == "patches":
        return _patches()
    if name == "cifar10":
        return _cifar10()
    remotes = FASHION_MNIST if name == "fashion_mnist" else MNIST
    train, train_labels, test, test_labels = (read_idx(fetch(remote)) for remote in remotes)
    if name == "mnist14":
        train, test = halve(train), halve(test)
    return _images(
        name, train[:, None], train_labels, test[:, None], test_labels, "published files"
    )


def halve(pictures: np.ndarray) -> np.ndarray:
    """Means of 2×2 pixels rounded to whole numbers, halves up. (n, H, W) -> (n, H/2, W/2) uint8.

    >>> halve(np.array([[[0, 1], [1, 0]]], dtype=np.uint8))
    array([[[1]]], dtype=uint8)
    """
    n, height, width = pictures.shape
    blocks = pictures.reshape(n, height // 2, 2, width // 2, 2).astype(np.uint16)
    return ((blocks.sum((2, 4)) + 2) // 4).astype(np.uint8)


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in an IDX file of MNIST, gzipped or not.

    Raises DataError where the file is something else.
    """
    content = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise DataError(f"{path} is not an IDX file of bytes")
    axes = content[3]
    head = 4 + 4 * axes
    shape = tuple(int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes))
    if len(content) != head + math.prod(shape):
        raise DataError(f"{path} should hold {shape} bytes, has {len(content) - head}")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def _cifar10() -> Images:
    arrays = find(CIFAR10_ARRAYS)
    if arrays is not None:
        x_train, y_train, x_test, y_test = _cifar10_arrays(arrays)
        pictures = (x.transpose(0, 3, 1, 2) for x in (x_train, x_test))
        train, test = (np.ascontiguousarray(x) for x in pictures)
        return _images("cifar10", train, y_train, test, y_test, arrays.name, flip=True)
    batches = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    pictures, labels = [], []
    with tarfile.open(fetch(CIFAR10)) as tar:
        for batch in batches:
            # The checksum has been compared: these are the published pickles.
            content = pickle.load(  # noqa: S301
                tar.extractfile(f"cifar-10-batches-py/{batch}"), encoding="bytes"
            )
            pictures.append(content[b"data"].reshape(-1, 3, 32, 32))
            labels.append(np.asarray(content[b"labels"]))
    train, train_labels = np.concatenate(pictures[:5]), np.concatenate(labels[:5])
    source = "published files"
    return _images("cifar10", train, train_labels, pictures[5], labels[5], source, flip=True)


def _cifar10_arrays(path: Path) -> list[np.ndarray]:
    """x_train, y_train, x_test, y_test of a cifar10.npz. Raises DataError for anything else."""
    keys = ("x_train", "y_train", "x_test", "y_test")
    try:
        with np.load(path) as file:
            missing = set(keys) - set(file.files)
            if missing:
                raise DataError(f"{path} lacks {', '.join(sorted(missing))}")
            arrays = [file[key] for key in keys]
    except (ValueError, EOFError, BadZipFile) as error:
        raise DataError(f"{path} cannot be read, it may be truncated ({error})") from None
    for x, y, split in ((*arrays[:2], "train"), (*arrays[2:], "test")):
        if x.dtype != np.uint8 or x.shape[1:] != (32, 32, 3) or y.size != len(x):
            raise DataError(
                f"{path} must hold x_{split} uint8 (n, 32, 32, 3) and y_{split} (n,), got "
                f"{x.dtype} {x.shape} and {y.shape}"
            )
    return [array.reshape(-1) if array.ndim < 4 else array for array in arrays]


def _digits() -> Images:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.RandomState(42).permutation(len(digits.images))
    pictures = digits.images.astype(np.uint8)[order, None]
    labels = digits.target[order]
    split = pictures[:1500], labels[:1500], pictures[1500:], labels[1500:]
    return _images("digits", *split, "scikit-learn", levels=17)


def _patches() -> Images:
    from sklearn.datasets import load_sample_image

    # A photograph of 213×320 in ten strips: 1, 4 and 7 are for testing, 4 pixels kept from either
    # side, so that no pixel is in a training patch and in a test patch.
    runs = {"train": [(0, 32), (64, 128), (160, 224), (256, 320)]}
    runs["test"] = [(32 + 4, 64 - 4), (128 + 4, 160 - 4), (224 + 4, 256 - 4)]
    every = {"train": 1, "test": 4}
    patches, labels = {"train": [], "test": []}, {"train": [], "test": []}
    for label, file in enumerate(("china.jpg", "flower.jpg")):
        photograph = load_sample_image(file).transpose(2, 0, 1)[:, :426]
        photograph = halve(photograph)
        for split, strips in runs.items():
            for left, right in strips:
                cut = windows(photograph[:, :, left:right], PATCH, every[split])
                patches[split].append(cut)
                labels[split].append(np.full(len(cut), label))
    both = {}
    for split in runs:
        order = np.random.RandomState(0).permutation(sum(map(len, patches[split])))
        both[split] = (
            np.concatenate(patches[split])[order],
            np.concatenate(labels[split])[order],
        )
    return _images("patches", *both["train"], *both["test"], "scikit-learn")


def windows(picture: np.ndarray, side: int, every: int = 1) -> np.ndarray:
    """All squares of a picture (C, H, W) that start at every so many pixels, (n, C, side, side).

    >>> windows(np.arange(12).reshape(1, 3, 4), side=2, every=2)[:, 0].tolist()
    [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]
    """
    squares = np.lib.stride_tricks.sliding_window_view(picture, (side, side), axis=(1, 2))
    squares = squares[:, ::every, ::every].transpose(1, 2, 0, 3, 4)
    return squares.reshape(-1, len(picture), side, side)


def _images(
    name: str,
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    source: str,
    **options: int | bool,
) -> Images:
    pictures = (torch.from_numpy(np.array(x)) for x in (train, test))
    labels = (torch.from_numpy(y.astype(np.int64)) for y in (train_labels, test_labels))
    train, test = pictures
    train_labels, test_labels = labels
    return Images(name, train, train_labels, test, test_labels, source, **options)
