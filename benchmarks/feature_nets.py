"""Train the small classifiers whose features FID is taken in, and measure its floor.

    python -m benchmarks.feature_nets            # mnist, mnist14, cifar10; five CPU-minutes
    python -m benchmarks.feature_nets mnist14

A LeNet for grey digits, a ResNet for CIFAR-10. The weights come with the package, as 16-bit
numbers; the card in each file holds the accuracy on the test images, the floor (10 000 training
against 10 000 test images), command and machine.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from benchmarks.train_zoo import current_commit, machine
from diffflow_edu import fid, images
from diffflow_edu.files import write_whole

SEED = 0
FLOOR_IMAGES = 10_000


@dataclass(frozen=True)
class Recipe:
    """net: of `fid.NETS`. augment: pictures mirrored and moved by up to 4 pixels, by chance."""

    net: str = "LeNet"
    epochs: int = 4
    batch: int = 128
    lr: float = 2e-3
    decay: float = 0.0
    augment: bool = False
    bf16: bool = False


SETS = {
    "mnist": Recipe(),
    "mnist14": Recipe(),
    "cifar10": Recipe("ResNet", epochs=8, lr=5e-3, decay=0.05, augment=True, bf16=True),
}


def augmented(pictures: Tensor, reach: int = 4) -> Tensor:
    """Each picture (B, C, H, W) mirrored half of the time and moved; the edge is repeated."""
    n, _, height, width = pictures.shape
    padded = F.pad(pictures.float(), (reach,) * 4, mode="replicate").to(pictures.dtype)
    rows = torch.arange(height) + torch.randint(2 * reach + 1, (n, 1))
    columns = torch.arange(width) + torch.randint(2 * reach + 1, (n, 1))
    columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
    each = torch.arange(n)[:, None, None]
    # Indices around a slice put its axis last.
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def train(data: images.Images, recipe: Recipe) -> fid.LeNet | fid.ResNet:
    """Adam with a cosine, after a rise over the first tenth of the steps; cross entropy."""
    torch.manual_seed(SEED)
    layout = torch.channels_last if recipe.net == "ResNet" else torch.contiguous_format
    net = fid.NETS[recipe.net](data.shape[-1]).to(memory_format=layout)
    an_epoch = len(data.train) // recipe.batch
    steps = recipe.epochs * an_epoch
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.lr, weight_decay=recipe.decay)
    rise = steps // 10 if recipe.net == "ResNet" else 0
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - rise)
    if rise:
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=rise)
        decay = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, decay], [rise])
    for step in range(steps):
        if step % an_epoch == 0:
            order = torch.randperm(len(data.train))
            batches = iter(order.split(recipe.batch))
        rows = next(batches)
        pictures = data.train[rows]
        if recipe.augment:
            pictures = augmented(pictures)
        x = data.dequantise(pictures).contiguous(memory_format=layout)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            loss = F.cross_entropy(net(x), data.train_labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        if step % an_epoch == an_epoch - 1:
            print(f"epoch {step // an_epoch + 1}: loss {loss.item():.2f}", flush=True)
    # What is measured is what is shipped.
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(tensor.half().float())
    return net.eval()


@torch.no_grad()
def accuracy(net: fid.LeNet | fid.ResNet, x: Tensor, labels: Tensor) -> float:
    right = [
        (net(part).argmax(1) == wanted).float()
        for part, wanted in zip(x.split(500), labels.split(500), strict=True)
    ]
    return float(torch.cat(right).mean())


def ship(net: fid.LeNet | fid.ResNet, name: str, card: dict[str, Any]) -> None:
    """Write a net for the images of that name into the package, all or nothing."""
    tensors = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in net.state_dict().items()
    }
    card = {"net": net.name, "side": net.side} | card
    path = fid.FOLDER / f"{net.name.lower()}-{name}.safetensors"
    write_whole(path, save(tensors, metadata={"card": json.dumps(card)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SETS)}; by default all")
    names = parser.parse_args().names or SETS
    torch.set_num_threads(1)
    for name in names:
        data = images.load(name)
        began = time.process_time()
        net = train(data, SETS[name])
        test = data.dequantise(data.test, seed=SEED)
        train_images = data.sample(FLOOR_IMAGES, seed=SEED)
        n = min(FLOOR_IMAGES, len(test))
        floor = fid.frechet_distance(
            fid.features(net, train_images[:n]), fid.features(net, test[:n])
        )
        card = {
            "images": name,
            "accuracy": round(accuracy(net, test, data.test_labels), 4),
            "floor": round(floor, 3),
            "floor_images": n,
            "command": f"python -m benchmarks.feature_nets {name}",
            "commit": current_commit(),
            "machine": machine(),
            "cpu_seconds": round(time.process_time() - began, 1),
            "seed": SEED,
        }
        ship(net, name, card)
        print(card, flush=True)


if __name__ == "__main__":
    main()
