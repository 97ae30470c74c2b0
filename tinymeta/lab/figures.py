"""One look for all figures: a palette for the colour-blind, one colour and dash per method, PNG and SVG files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tinymeta.lab.files import atomic_write, make_folder, write_json
from tinymeta.lab.optional import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito, "Color universal design" (2008), and a grey
VERMILION, BLUE, GREEN, PURPLE, ORANGE, SKY = "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
GREY, BLACK = "#6E6E6E", "#000000"

_HERO = {"color": VERMILION, "linestyle": "-", "linewidth": 2.4, "zorder": 3}
METHODS: dict[str, dict[str, Any]] = {
    "LSTM": _HERO,
    "MAML": _HERO,
    "EWC": _HERO,
    "LSTM-sub": {"color": ORANGE, "linestyle": "-"},
    "SGD": {"color": GREY, "linestyle": "-"},
    "NAG": {"color": PURPLE, "linestyle": (0, (1, 1))},
    "RMSprop": {"color": GREEN, "linestyle": "-."},
    "ADAM": {"color": BLUE, "linestyle": "--"},
    "first-order MAML": {"color": ORANGE, "linestyle": "--"},
    "ANIL": {"color": BLUE, "linestyle": "--"},
    "Meta-SGD": {"color": GREEN, "linestyle": "-."},
    "MAML++": {"color": PURPLE, "linestyle": "-"},
    "Reptile": {"color": SKY, "linestyle": (0, (1, 1))},
    "implicit MAML": {"color": GREY, "linestyle": "--"},
    "pretrained": {"color": BLUE, "linestyle": "-."},
    "multi-task": {"color": GREEN, "linestyle": "--"},
    "multi-task, l2": {"color": PURPLE, "linestyle": (0, (1, 1))},
    "multi-task, to the mean": {"color": SKY, "linestyle": "--"},
    "oracle": {"color": BLACK, "linestyle": ":"},
    "random": {"color": GREY, "linestyle": "--"},
    "L2": {"color": GREEN, "linestyle": "--"},
    "SGD+dropout": {"color": BLUE, "linestyle": "-."},
    "online EWC": {"color": ORANGE, "linestyle": "--"},
    "SI": {"color": PURPLE, "linestyle": "-."},
    "MAS": {"color": SKY, "linestyle": (0, (5, 1))},
    "none": {"color": GREY, "linestyle": "-"},
    "offline": {"color": BLACK, "linestyle": (0, (1, 1))},
    "single task": {"color": BLACK, "linestyle": ":"},
}

STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.7,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "savefig.dpi": 150,
    "figure.facecolor": "white",
    "svg.hashsalt": "tinymeta",  # the same figure gives the same bytes
    "svg.fonttype": "path",
}


class Film(NamedTuple):
    """Figures of one size, by what each shows, that the report lets its reader step through; one caption for all."""

    caption: str
    frames: Mapping[str, Figure]


@contextmanager
def style() -> Iterator[None]:
    """Draw and save inside this: the look holds until the end of the block and no longer. `draw` runs inside it."""
    require("matplotlib")
    import matplotlib
    from cycler import cycler

    colours = cycler(color=[VERMILION, BLUE, GREEN, PURPLE, ORANGE, SKY, GREY, BLACK])
    look: Any = STYLE | {"axes.prop_cycle": colours}
    with matplotlib.rc_context(look):
        yield


def line(method: str) -> dict[str, Any]:
    """Keywords for `axes.plot`: colour, dash and label of a method in METHODS."""
    return {**METHODS[method], "label": method}


def subplots(
    rows: int = 1, columns: int = 1, width: float = 5.6, height: float = 3.5, caption: str = "", **options: Any
) -> tuple[Figure, Any]:
    """A figure that needs no display and its axes, as pyplot.subplots gives them; width and height in inches.

    The caption goes under the figure in the report. At 5.6 inches or less a figure is legible on a phone.
    """
    require("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", label=caption)
    return figure, figure.subplots(rows, columns, **options)


def save(figures: Mapping[str, Figure | Film], folder: Path) -> None:
    """Write NAME.png and NAME.svg of each figure, NAME-0, NAME-1, ... of a film, and captions.json: in order, a caption each, or
    {"caption", "frames"} of a film. ValueError if a name is no file name."""
    make_folder(folder)
    captions: dict[str, Any] = {}
    for name, shown in figures.items():
        if not re.fullmatch(r"[\w-]+", name):
            raise ValueError(f"the figure name {name!r} is not made of letters, digits, - and _; rename it")
        if isinstance(shown, Film):
            for number, frame in enumerate(shown.frames.values()):
                _write(frame, folder / f"{name}-{number}")
            captions[name] = {"caption": shown.caption, "frames": list(shown.frames)}
        else:
            _write(shown, folder / name)
            captions[name] = shown.get_label() or name.replace("-", " ")
    write_json(folder / "captions.json", captions)


def _write(figure: Figure, path: Path) -> None:
    metadata: dict[str, Any] = {"png": None, "svg": {"Date": None}}
    for kind in metadata:
        with style(), atomic_write(path.with_name(f"{path.name}.{kind}")) as file:
            figure.savefig(file, format=kind, metadata=metadata[kind])
