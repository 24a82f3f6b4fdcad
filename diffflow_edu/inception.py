"""FID as it is published, in the features of Inception, where its weights can be had.

torchmetrics computes it; the network and its weights come from torch-fidelity, which needs
torchvision. Neither is a dependency of this package: together they are large, and most of the
course has no network to fetch 95 MB of weights from.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from diffflow_edu import images

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
PACKAGES = {
    "torchmetrics": "torchmetrics",
    "torch_fidelity": "torch-fidelity",
    "torchvision": "torchvision",
}


class MissingError(OSError):
    """Inception cannot be had; the message says what is missing and where to get it."""


def weights_file() -> Path:
    """Where torch-fidelity looks for the weights, and where it puts them."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS


class Inception:
    """FID of n samples against n test pictures, in the 2048 features of Inception.

    Grey pictures are shown in all three channels. All are scaled to 299×299 as in the usual FID.
    floor: of n training pictures. sha256: of the weights. Raises MissingError where a package or
    the weights cannot be had.
    """

    name = "Inception"

    def __init__(self, data: images.Images, n: int, batch: int = 100) -> None:
        missing = [pip for module, pip in PACKAGES.items() if find_spec(module) is None]
        if missing:
            raise MissingError(
                f"FID with Inception needs {' and '.join(missing)}: pip install "
                f"{' '.join(missing)} (torchvision of the same build as torch). Without them, "
                "--fid shipped takes the small feature net that comes with this package."
            )
        try:
            from torchmetrics.image.fid import FrechetInceptionDistance
        except (ImportError, RuntimeError) as error:  # the latter where builds differ
            raise MissingError(
                "FID with Inception needs torchmetrics with torch-fidelity and torchvision, and "
                f"they cannot be imported ({error}). Is torchvision of the same build as torch "
                f"{torch.__version__}? --fid shipped takes the small feature net that comes with "
                "this package."
            ) from error
        try:
            metric = FrechetInceptionDistance(feature=2048, reset_real_features=False)
        except OSError as error:  # of the download: urllib raises nothing else
            raise MissingError(
                f"{WEIGHTS} (about 95 MB) is not at {weights_file()} and could not be downloaded "
                f"from {URL} ({error}). Without a network: get it on another machine and put it "
                "there; or --fid shipped takes the small feature net that comes with this package."
            ) from None
        self.data, self.n, self.batch = data, n, batch
        self.metric = metric.to(data.test.device)  # its sums are in 64 bits
        self.sha256 = hashlib.sha256(weights_file().read_bytes()).hexdigest()
        self._show(data.test[:n], real=True)
        train = data.train[:n]
        self._show(train, real=False)
        self.floor, self.floor_images = float(self.metric.compute()), len(train)

    def distance(self, samples: Tensor) -> float:
        """Of samples (n, C, H, W) in [−1, 1] to as many test pictures."""
        self.metric.reset()  # the samples; what is real stays
        self._show(self.data.quantise(samples), real=False)
        return float(self.metric.compute())

    def _show(self, pictures: Tensor, real: bool) -> None:
        for part in pictures.split(self.batch):
            # Sets of fewer grey levels are brought to 256.
            bright = part.long() * 255 // (self.data.levels - 1)
            self.metric.update(bright.to(torch.uint8).expand(-1, 3, -1, -1), real=real)
