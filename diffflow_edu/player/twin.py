"""The static twin: what a page shows of a widget where no kernel runs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import anywidget
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

COLORS = 32
DPI = 90


class WidgetWithTwin(anywidget.AnyWidget):
    """A widget that travels with a picture of itself and the picture in words.

    A subclass gives `png`, bytes, and `alt`, words that are the same in every run.
    """

    png: bytes
    alt: str

    def save_png(self, path: str | Path) -> None:
        """Write the picture to a file, all or nothing."""
        write(Path(path), self.png)

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The widget, and beside it the picture and its words for pages without a kernel."""
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle
        data = data | {"text/plain": self.alt, "image/png": self.png}
        return data, metadata | {"image/png": {"alt": self.alt}}


def small_png(figure: Figure, colors: int = COLORS) -> bytes:
    """The figure, which is closed, as a PNG of a few dozen colours, some tens of kilobytes."""
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    plt.close(figure)
    image = Image.open(drawn).convert("RGB").quantize(colors)
    image.save(packed, format="png", optimize=True)
    return packed.getvalue()


def write(path: Path, content: bytes) -> None:
    """Write to a temporary name and rename, so that no half of a file is ever left."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(content)
    temporary.replace(path)
