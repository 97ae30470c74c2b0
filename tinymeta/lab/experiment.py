"""What an experiment is: a typed configuration, presets, a function that trains and one that draws."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from tinymeta.lab.errors import UserError, suggest
from tinymeta.lab.files import to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from tinymeta.lab.figures import Film
    from tinymeta.lab.run import Run


@dataclass(frozen=True)
class Row:
    """One line of the table *quantity | published | ours ± 95 % CI | ratio | source*."""

    quantity: str
    ours: float
    published: float | None = None
    ci95: float | None = None
    unit: str = ""
    source: str = ""

    @property
    def ratio(self) -> float | None:
        """ours / published, None where there is nothing to divide by."""
        return self.ours / self.published if self.published else None


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper ("EWC keeps task A where SGD loses it"), whether it held here, and the figures for it."""

    sentence: str
    held: bool
    detail: str


@dataclass(frozen=True)
class Outcome:
    """What a run found; `series` holds the JSON-able numbers from which its figures are drawn."""

    rows: list[Row]
    claims: list[Claim]
    series: dict[str, Any]


@dataclass(frozen=True)
class Trace:
    """A closer look at a finished run, for those who ask for it: `tinymeta run NAME --trace`.

    `record(config, folder, outcome)` gives the arrays that are kept in the run folder's trace.npz, `draw(arrays)` figures
    or films by file name.
    """

    record: Callable[[Any, Path, Outcome], Mapping[str, NDArray]]
    draw: Callable[[Mapping[str, NDArray]], Mapping[str, Figure | Film]]


@dataclass(frozen=True)
class Experiment:
    """One figure or table of a paper.

    `config` is a frozen dataclass, each field an int, float, str, bool or tuple of those, with the paper's value as
    default, and `seed` among them; its __post_init__ may raise ValueError. `presets` name overrides of it, `minutes`
    how long a preset takes on two cores.
    `train(config, run)` does its long loops by `run.stage`. `draw(outcome)` gives figures by file name and sees only
    what was written to result.json: lists, and text as keys. `trace` is None where there is nothing to look into.
    """

    name: str
    title: str
    paper: str
    summary: str
    how_to_read: str
    config: type
    presets: Mapping[str, Mapping[str, Any]]
    train: Callable[[Any, Run], Outcome]
    draw: Callable[[Outcome], dict[str, Figure]]
    minutes: Mapping[str, float] = field(default_factory=dict)
    trace: Trace | None = None


def configure(experiment: Experiment, preset: str, overrides: Mapping[str, str]) -> Any:
    """The preset's configuration with `key=value` overrides as text; UserError on a wrong preset, key or value."""
    if preset not in experiment.presets:
        raise UserError(f"{experiment.name} has no preset {preset!r}; {suggest(preset, experiment.presets)}")
    hints = get_type_hints(experiment.config)
    for key in overrides:
        if key not in hints:
            raise UserError(f"{experiment.name} has no key {key!r}; {suggest(key, hints)}")
    values = {key: _parse(experiment, key, hints[key], text) for key, text in overrides.items()}
    return _build(experiment, dict(experiment.presets[preset]) | values)


def as_text(value: Any) -> str:
    """A setting as `configure` reads it: `40,40` of a tuple, text without quotes."""
    return ",".join(map(as_text, value)) if isinstance(value, tuple) else str(value)


def restore(experiment: Experiment, fields: Mapping[str, Any], path: Path) -> Any:
    """The configuration that was written to `path`; UserError if its keys or types are not those of this version."""
    hints = get_type_hints(experiment.config)
    if fields.keys() != hints.keys():
        differing = ", ".join(sorted(fields.keys() ^ hints.keys()))
        raise UserError(
            f"{path} is of another version of {experiment.name} (it differs in {differing}); start a new run"
        )
    for key, value in fields.items():
        if not conforms(hints[key], value):
            raise UserError(f"{path} has {key} = {value!r}, expected {_wanted(hints[key])}; start a new run")
    return _build(experiment, {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()})


def config_hash(config: Any) -> str:
    """A short hash that differs between configurations."""
    return fields_hash(asdict(config))


def fields_hash(fields: Mapping[str, Any]) -> str:
    """The `config_hash` of the configuration with these fields, as they are or as they were read from JSON."""
    return hashlib.sha256(to_json(fields).encode()).hexdigest()[:16]


def preset_of(experiment: Experiment, config: Any) -> str:
    """The name of the preset that `config` is, whatever its seed; "custom" if it is none."""
    for name, overrides in experiment.presets.items():
        preset = _build(experiment, overrides)
        if replace(preset, seed=config.seed) == config:
            return name
    return "custom"


def _build(experiment: Experiment, values: Mapping[str, Any]) -> Any:
    try:
        return experiment.config(**values)
    except ValueError as error:  # the configuration's own checks, in __post_init__
        raise UserError(f"{experiment.name}: {error}") from error


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _truth(text: str) -> bool:
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]


_PARSERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    int: (int, "a whole number"),
    float: (_finite, "a finite number"),
    bool: (_truth, "true or false"),
    str: (str, "text"),
}


def _wanted(hint: Any) -> str:
    if get_origin(hint) is not tuple:
        return _PARSERS[hint][1]
    items = get_args(hint)
    count = "values" if items[-1] is ... else f"{len(items)} values"
    return f"{count} separated by commas, each {_PARSERS[items[0]][1]}"


def _parse(experiment: Experiment, key: str, hint: Any, text: str) -> Any:
    try:
        if get_origin(hint) is tuple:
            texts = [part.strip() for part in text.split(",")] if text.strip() else []
            hints = _item_hints(hint, len(texts))
            return tuple(_PARSERS[item][0](part) for item, part in zip(hints, texts, strict=True))
        return _PARSERS[hint][0](text)
    except (ValueError, KeyError):
        default = as_text(getattr(experiment.config, key))
        raise UserError(
            f"{key} = {text!r} is not {_wanted(hint)}; the default of {experiment.name} is {key}={default}"
        ) from None


def conforms(hint: Any, value: Any) -> bool:
    """Whether a value that was read from JSON is of this type, in which a tuple is a list, and a dataclass a dict of its fields."""
    kind, items = get_origin(hint), get_args(hint)
    if kind is UnionType:
        return any(conforms(item, value) for item in items)
    if kind is list:
        return isinstance(value, list) and all(conforms(items[0], item) for item in value)
    if kind is tuple:
        hints = _item_hints(hint, len(value)) if isinstance(value, list) else ()
        return isinstance(value, list) and len(hints) == len(value) and all(map(conforms, hints, value))
    if is_dataclass(hint):
        fields = get_type_hints(hint)
        same = isinstance(value, dict) and value.keys() == fields.keys()
        return same and all(conforms(fields[key], item) for key, item in value.items())
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    if hint is float:
        return isinstance(value, float) or (isinstance(value, int) and abs(value) <= sys.float_info.max)
    return isinstance(value, hint)


def _item_hints(hint: Any, count: int) -> tuple[Any, ...]:
    """The type of each item: `tuple[int, ...]` takes any number of them."""
    items = get_args(hint)
    return (items[0],) * count if items[-1] is ... else items
