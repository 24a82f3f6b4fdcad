"""What was measured, in JSON files; and weights with their record, in the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffflow_edu import zoo


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401
    """All or nothing, and never the NaN that JSON does not know."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """What is there; nothing where there is no file yet."""
    return json.loads(path.read_text()) if path.exists() else {}


def ship_run(folder: Path, record: dict[str, Any]) -> Path:
    """Put the model that `scale.train` left in a folder into the package, with its record."""
    model = zoo.load(folder / "model.safetensors")
    config = model.card["config"]
    keep = {k: v for k, v in model.card.items() if k in ("recipe", "config")}
    path = zoo.FOLDER / f"{config['kind']}-{config['images']}-{model.schedule.steps}.safetensors"
    zoo.save_model(path, model, keep | record)
    return path
