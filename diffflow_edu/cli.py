"""`diffflow-edu`: long runs outside a notebook.

    diffflow-edu train runs/mnist --images mnist --steps 10 20 30 --minutes 60
    diffflow-edu evaluate runs/mnist/model.safetensors --steps 5 10 20 30
    diffflow-edu sample runs/mnist/model.safetensors --out samples.png
    diffflow-edu train runs/classes --by-class True --start runs/mnist/model.safetensors
    diffflow-edu sample runs/classes/model.safetensors --label 7 --guidance 1

On several GPUs: accelerate launch -m diffflow_edu.cli train runs/cifar10 --images cifar10
"""

from __future__ import annotations

import hashlib
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from diffflow_edu import devices, images, zoo
from diffflow_edu.files import to_json, write_new
from diffflow_edu.processes.diffflow import DiffFlow
from diffflow_edu.scale import Config, check_extra, machine, sheet_of
from diffflow_edu.scale import train as train_run
from diffflow_edu.schedules import shortly

try:
    import tyro
except ImportError:
    sys.exit('diffflow-edu needs a few more packages: pip install "diffflow-edu[images]"')


def train(
    folder: tyro.conf.Positional[Path],
    config: Annotated[Config, tyro.conf.arg(name="")],
    minutes: float = math.inf,
    look_every: int = 1000,
    keep: int = 2,
) -> None:
    """Train an image model in a folder, or go on there.

    Ctrl-C, SIGTERM and --minutes stop it within seconds, in the middle of a step, which is made
    anew later; the same command goes on. (A second Ctrl-C does not wait.) A run goes on past its
    last stage where --steps has more values at the end, such as 10 30 after 10, and --updates as
    many a value: twice as many for two. At every checkpoint it looks at bits/dim of pictures kept
    from training and at a sheet of samples (FOLDER/looks.json, FOLDER/samples, TensorBoard logs in
    FOLDER/logs).

    Args:
        folder: where the run lives; made if need be.
        config: what is trained.
        minutes: stop cleanly after so many.
        look_every: training steps between checkpoints.
        keep: how many checkpoints of a stage stay; the best model always does.
    """
    check_extra()
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision=config.precision)
    model = train_run(config, folder, minutes, look_every, accelerator, keep)
    accelerator.end_training()  # or threads of the group may outlive the interpreter
    if not accelerator.is_main_process:
        return
    if model is None and not any(folder.glob("stage-*")):
        print("Stopped before the first training step was done; the same command starts again.")
    elif model is None:
        print(f"Stopped; the same command goes on. Checkpoints are in {folder}.")
    else:
        print(f"Trained: {folder / 'model.safetensors'}")


def sample(
    weights: tyro.conf.Positional[Path],
    out: Path = Path("samples.png"),
    n: int = 64,
    seed: int = 0,
    last_noise: bool = False,
    label: int | None = None,
    guidance: float = 0.0,
) -> None:
    """Draw samples from a trained model and save them side by side as a PNG.

    Args:
        weights: a model.safetensors that `train` wrote.
        out: the picture, a name in .png; where it is taken, the next free one: samples-2.png, …
        n: how many.
        seed: of the noise.
        last_noise: add noise in the last step, too; without, it is the mean (Tweedie's formula).
        label: the class to draw, of a model trained with --by-class True.
        guidance: how far to go beyond what the class asks for: 0 not at all, 1 to 3 for clearer and
            more uniform samples.
    """
    if out.suffix.lower() != ".png":
        raise ValueError(
            f"out must be the name of a picture, such as samples.png, got {shortly(out)}"
        )
    model = _image_model(weights)
    data_name = model.card["config"]["images"]
    model = model.to(devices.accelerator())
    sheet = sheet_of(model, model.shape, n, seed, last_noise, label, guidance)
    out = write_new(out, sheet)
    of_class = "" if label is None else f" with label {label}"
    print(f"{n} samples of {data_name}{of_class}: {out}")


def evaluate(
    weights: tyro.conf.Positional[Path],
    steps: tuple[int, ...] = (),
    n: int | None = None,
    ode_n: int = 0,
    fid_n: int = 0,
    fid: Literal["shipped", "inception"] = "shipped",
    last_noise: bool = False,
    label_n: int = 0,
    guidance: float = 0.0,
    seed: int = 0,
) -> None:
    """Bits/dim and FID of a trained model on test pictures; also written beside it as JSON.

    Of model.safetensors that is model.json, and model-2.json and so on where there is one.

    Args:
        weights: a model.safetensors that `train` wrote.
        steps: values of N to run its networks with; by default the one it was trained with. On
            another N they run at times they may not have been trained at.
        n: test pictures for the bound; by default 1000, or all.
        ode_n: test pictures for the probability flow; 0 leaves it out.
        fid_n: samples, and test pictures, for FID; 0 leaves it out.
        fid: its feature net: the small one that comes with the package, or Inception, which needs
            torchmetrics, torch-fidelity, torchvision and about 95 MB of weights.
        last_noise: add noise in the last step of the samples, too; without, it is the mean
            (Tweedie's formula).
        label_n: samples, of each class in turn, that a classifier is asked about; 0 leaves it out.
        guidance: of these samples, see `sample`. All else is of the model without labels.
        seed: of all noise.
    """
    from diffflow_edu.evaluation import agreement, check_numbers, table, yardstick
    from diffflow_edu.evaluation import evaluate as evaluate_model

    model = _image_model(weights).to(devices.accelerator())
    data = images.load(model.card["config"]["images"]).to(devices.accelerator())
    check_numbers(data, n, ode_n, fid_n)
    net = yardstick(data, fid_n, fid, seed) if fid_n else None
    options = {"last_noise": last_noise, "fid_net": net}
    agreed = agreement(model, data, label_n, guidance, seed) if label_n else None
    rows = evaluate_model(model, data, steps or None, n, ode_n, fid_n, seed, **options)
    result = {
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "images": repr(data),
        "trained_steps": model.schedule.steps,
        "n": min(1000, len(data.test)) if n is None else n,
        "ode_n": ode_n,
        "fid_n": fid_n,
        "fid_net": None
        if net is None
        else {
            "name": net.name,
            "sha256": net.sha256,
            "floor": net.floor,
            "floor_images": net.floor_images,
        },
        "last_noise": last_noise,
        "label_n": label_n,
        "guidance": guidance,
        "agreement": agreed,
        "seed": seed,
        "machine": machine(devices.accelerator()),
        "rows": [asdict(row) for row in rows],
    }
    try:
        out = write_new(weights.with_suffix(".json"), to_json(result))
    finally:  # a full disk is no reason to lose what was measured
        print(table(rows, data, fid_n, net, model.schedule.steps))
        if agreed is not None:
            print(f"A classifier agrees with {agreed:.1%} of the labels of {label_n} samples.")
    print(f"Written: {out}")


def download(name: tyro.conf.Positional[str]) -> None:
    """Fetch a set of pictures into the cache, and check it.

    Args:
        name: mnist (mnist14 is made of it), fashion_mnist or cifar10.
    """
    print(images.load(name))


def list_() -> None:
    """The sets of pictures, and the weights that come with the package."""
    print("pictures: " + ", ".join(images.names()))
    print("weights (diffflow_edu.pretrained):")
    for name in zoo.names():
        print("  " + name)


def _image_model(path: Path) -> DiffFlow:
    model = zoo.load(path)
    config = getattr(model, "card", {}).get("config")
    if not isinstance(config, dict) or config.get("images") not in images.names():
        raise ValueError(f"{path} is not a model that `diffflow-edu train` wrote")
    return model


def main() -> None:
    """Run a command; what is wrong with the input is told in a line, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a "≤" that the terminal lacks must not end the run
            stream.reconfigure(errors="backslashreplace")
    commands = {
        "train": train,
        "sample": sample,
        "evaluate": evaluate,
        "download": download,
        "list": list_,
    }
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="diffflow-edu",
            description=__doc__,
            config=(tyro.conf.FlagConversionOff,),
        )
    except (ValueError, ArithmeticError, ImportError, OSError) as error:
        sys.exit(f"diffflow-edu: {error}")
    except KeyboardInterrupt:
        sys.exit("diffflow-edu: interrupted")


if __name__ == "__main__":
    main()
