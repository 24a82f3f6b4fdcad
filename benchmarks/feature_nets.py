"""Train the small classifiers whose features FID-LeNet is taken in, and measure its floor.

    python -m benchmarks.feature_nets            # mnist, mnist14; about three CPU-minutes
    python -m benchmarks.feature_nets mnist14

The weights come with the package, as 16-bit numbers; the card in each file holds the accuracy on
the test images, the floor (10 000 training against 10 000 test images), command and machine.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from benchmarks.train_zoo import current_commit, machine
from diffflow_edu import fid, images

SETS = ("mnist", "mnist14")
EPOCHS, BATCH, LR, SEED = 4, 128, 2e-3, 0
FLOOR_IMAGES = 10_000


def train(data: images.Images) -> fid.LeNet:
    """Adam with a cosine, cross entropy."""
    torch.manual_seed(SEED)
    net = fid.LeNet(data.shape[-1])
    steps = EPOCHS * (len(data.train) // BATCH)
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        if step % (len(data.train) // BATCH) == 0:
            order = torch.randperm(len(data.train))
            batches = iter(order.split(BATCH))
        rows = next(batches)
        loss = F.cross_entropy(net(data.dequantise(data.train[rows])), data.train_labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    # What is measured is what is shipped.
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(parameter.half().float())
    return net.eval()


@torch.no_grad()
def accuracy(net: fid.LeNet, x: Tensor, labels: Tensor) -> float:
    right = [
        (net(part).argmax(1) == wanted).float()
        for part, wanted in zip(x.split(500), labels.split(500), strict=True)
    ]
    return float(torch.cat(right).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SETS)}; by default all")
    names = parser.parse_args().names or SETS
    torch.set_num_threads(1)
    for name in names:
        data = images.load(name)
        began = time.process_time()
        net = train(data)
        test = data.dequantise(data.test, seed=SEED)
        train_images = data.sample(FLOOR_IMAGES, seed=SEED)
        n = min(FLOOR_IMAGES, len(test))
        floor = fid.frechet_distance(
            fid.features(net, train_images[:n]), fid.features(net, test[:n])
        )
        card = {
            "images": name,
            "side": net.side,
            "accuracy": round(accuracy(net, test, data.test_labels), 4),
            "floor": round(floor, 3),
            "floor_images": n,
            "command": f"python -m benchmarks.feature_nets {name}",
            "commit": current_commit(),
            "machine": machine(),
            "cpu_seconds": round(time.process_time() - began, 1),
            "seed": SEED,
        }
        tensors = {key: value.half().contiguous() for key, value in net.state_dict().items()}
        fid.FOLDER.mkdir(parents=True, exist_ok=True)
        path = fid.FOLDER / f"lenet-{name}.safetensors"
        temporary = path.with_name(path.name + ".part")
        temporary.write_bytes(save(tensors, metadata={"card": json.dumps(card)}))
        temporary.replace(path)
        print(card, flush=True)


if __name__ == "__main__":
    main()
