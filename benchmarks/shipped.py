"""Which weights a measurement was taken on."""

from __future__ import annotations

import hashlib

from diffflow_edu import zoo


def sha256(kind: str, density: str, steps: int) -> str:
    """Of a weights file in the package, as hexadecimal digits."""
    path = zoo.FOLDER / f"{kind}-{density}-{steps}.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()
