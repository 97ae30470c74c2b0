"""Figures of l2l-art: the curves of Fig. 8 of 1606.04474, and pictures as in its Fig. 9."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinymeta.lab import Outcome
from tinymeta.lab.figures import subplots

from .l2l_figures import loss_curves, meta_training

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(outcome: Outcome) -> dict[str, Figure]:
    """`pictures` after Fig. 9 of the paper, `loss-curves` after Fig. 8."""
    found, data = outcome.series["settings"], outcome.series["data"]
    return {
        "pictures": _pictures(outcome.series["pictures"], data),
        "loss-curves": loss_curves(found, outcome.series["trained_for"], f"contents ({data})"),
        "meta-training": meta_training(outcome.series["history"], found[:1]),
    }


def _pictures(pictures: Sequence[Mapping[str, Any]], data: str) -> Figure:
    columns = len(pictures[0]["images"])
    caption = (
        "One content and the style of each setting, and what the learned optimizer and the best baseline make of them. First row: "
        f"the style of meta-training. Contents: {data}."
    )
    figure, axes = subplots(len(pictures), columns, height=0.2 + 1.6 * len(pictures), caption=caption, squeeze=False)
    for row, picture in zip(axes, pictures, strict=True):
        row[0].set_ylabel(f"{picture['size']} x {picture['size']}")
        for panel, (name, text) in zip(row, picture["images"].items(), strict=True):
            panel.imshow(unpacked(text, picture["size"]), interpolation="nearest")
            panel.set(title=name, xticks=[], yticks=[])
            panel.grid(False)
    return figure


def packed(image: NDArray) -> str:
    """An image (3, size, size) in units of `centred` as text for result.json: base64 of a byte per colour, cut to the range."""
    colours = np.clip(np.nan_to_num(image) / 4 + 0.5, 0, 1)
    return b64encode(np.rint(255 * np.moveaxis(colours, 0, -1)).astype(np.uint8).tobytes()).decode()


def unpacked(text: str, size: int) -> NDArray[np.uint8]:
    """(size, size, 3) of what `packed` gave."""
    return np.frombuffer(b64decode(text), np.uint8).reshape(size, size, 3)
