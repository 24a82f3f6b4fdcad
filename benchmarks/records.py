"""What was measured, in JSON files; and weights with their record, in the package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffflow_edu import zoo
from diffflow_edu.files import to_json, write_new, write_whole


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401
    """All or nothing, and never the NaN that JSON does not know.

    What was there and is not the same goes to earlier/ beside it, under a name that is free.
    """
    text = to_json(value, ensure_ascii=False)
    if path.exists() and path.read_text("utf-8") != text:
        write_new(path.parent / "earlier" / path.name, path.read_bytes())
    write_whole(path, text)


def read_json(path: Path) -> dict[str, Any]:
    """What is there; nothing where there is no file yet."""
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def once(path: Path, measure: Callable[[], Any], **of: str | None) -> dict[str, Any]:
    """What is in the file, if it was found of the same; else it is measured, and left there.

    So an interruption loses no part that was finished. of: what the part depends on, such as the
    commit, or the weights; it stands in the file beside "found".
    """
    entry = read_json(path)
    if "found" in entry and entry == of | {"found": entry["found"]}:
        return entry
    print("measuring", path.stem, flush=True)
    entry = of | {"found": measure()}
    write_json(path, entry)
    return entry


def ship_run(folder: Path, record: dict[str, Any], half: bool = False) -> Path:
    """Put the model that `scale.train` left in a folder into the package, with its record.

    half: its weights in bf16; the record should then be of these.
    """
    model = zoo.load(folder / "model.safetensors")
    config = model.card["config"]
    keep = {k: v for k, v in model.card.items() if k in ("recipe", "config")}
    path = zoo.FOLDER / f"{config['kind']}-{config['images']}-{model.schedule.steps}.safetensors"
    zoo.save_model(path, model, keep | record, half)
    return path
