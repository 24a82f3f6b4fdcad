"""Particles that are images: pixels as bytes, and many images side by side in one picture."""

from __future__ import annotations

import math

import numpy as np

RANGE_IN_WORDS = "pixels from −1 (black) to 1 (white), clipped beyond"
"""What every picture of images says: data fill the range, noise reaches out of it."""


def image_bytes(states: np.ndarray) -> np.ndarray:
    """States (N + 1, B, H, W) or (N + 1, B, C, H, W) as uint8 (N + 1, B, H, W, C).

    −1 is 1, 1 is 255, values beyond are clipped, and 0 stands for a pixel that is not finite. The
    error inside is at most half a quantum, 1/254.

    >>> image_bytes(np.array([[[[-1.0, 1.0, 7.0, np.nan]]]])).ravel().tolist()
    [1, 255, 255, 0]
    """
    channels_last = np.moveaxis(states, -3, -1) if states.ndim == 5 else states[..., None]
    there = np.isfinite(channels_last)
    share = np.clip((np.where(there, channels_last, 0.0) + 1) / 2, 0, 1)
    return np.where(there, 1 + np.rint(254 * share), 0).astype(np.uint8)


FARTHEST = 4.0
"""Of pixels on the data side, beyond which they cannot be meant for −1 … 1: noise there is small,
while levels 0 … 15 or 0 … 255 reach farther."""


def check_range(images: np.ndarray, name: str) -> None:
    """Raise a ValueError that names the argument where pixels (B, …) are levels, as 0 … 255 are.

    Judged by their median image's largest value, so that a few samples that ran away are let
    through: they are drawn, clipped.
    """
    flat = np.where(np.isfinite(images), np.abs(images), 0.0).reshape(len(images), -1)
    typical = float(np.median(flat.max(axis=1)))
    if typical > FARTHEST:
        raise ValueError(
            f"{name} must hold {RANGE_IN_WORDS}; on the data side they reach {typical:.3g}. "
            "Scale levels first: 2 * x / 255 - 1 for 0 … 255"
        )


def columns_for(count: int, height: int, width: int) -> int:
    """So many columns make `count` images of height × width pixels fill a square best.

    >>> columns_for(16, 28, 28), columns_for(8, 28, 28), columns_for(1, 8, 8)
    (4, 3, 1)
    """

    def longer_side(columns: int) -> int:
        return max(columns * (width + 1), math.ceil(count / columns) * (height + 1))

    return min(range(count, 0, -1), key=longer_side)  # of equals, the wider one


def mosaic(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Images uint8 (B, H, W, C) of `image_bytes` in rows, a pixel apart, as RGBA uint8 (·, ·, 4).

    columns: images in a row, by default those that fill a square best. What lies between the
    images, and a pixel that is not finite, is transparent.
    """
    count, height, width, _ = images.shape
    columns = columns or columns_for(count, height, width)
    rows = math.ceil(count / columns)
    sheet = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, 4), np.uint8)
    for i, image in enumerate(images):
        top, left = (height + 1) * (i // columns), (width + 1) * (i % columns)
        tile = sheet[top : top + height, left : left + width]
        tile[..., :3] = image
        tile[..., 3] = np.where((image > 0).all(axis=-1), 255, 0)
    return sheet
