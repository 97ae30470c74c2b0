"""The two records of a run folder: config.json says what was run and on what, result.json what was found."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tinymeta.lab.errors import UserError
from tinymeta.lab.experiment import (
    Claim,
    Experiment,
    Outcome,
    Row,
    config_hash,
    conforms,
    fields_hash,
    preset_of,
    restore,
)
from tinymeta.lab.files import NEW_RUN, file_errors, make_folder, read_json, write_json
from tinymeta.lab.versions import versions

FORMAT = 1
CONFIG_KEYS: dict[str, Any] = {
    "experiment": str, "preset": str, "seed": int, "started": str, "config": dict, "config_hash": str, "versions": dict,
}  # fmt: skip
RESULT_KEYS: dict[str, Any] = {
    "experiment": str, "title": str, "paper": str, "summary": str, "how_to_read": str,
    "rows": list[Row], "claims": list[Claim], "series": dict,
}  # fmt: skip
RESUMED: dict[str, Any] = {"resumed_on": list[dict]}  # which config.json has once a run was resumed on something else


def new_folder(experiment: Experiment, config: Any, root: Path) -> Path:
    """Make `root`/NAME/STAMP with its config.json."""
    folder = _fresh_folder(root / experiment.name)
    started = datetime.now(UTC).isoformat(timespec="milliseconds")
    preset = preset_of(experiment, config)
    values = (experiment.name, preset, config.seed, started, asdict(config), config_hash(config), versions())
    write_json(folder / "config.json", {"format": FORMAT, **dict(zip(CONFIG_KEYS, values, strict=True))})
    return folder


def _fresh_folder(parent: Path) -> Path:
    """parent/STAMP, the stamp being UTC to the millisecond: names sort by time and are never used twice."""
    while True:
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
        try:
            return make_folder(parent / stamp, exist_ok=False)
        except FileExistsError:
            time.sleep(0.001)


def resuming(experiment: str, folder: Path, trace: bool = False) -> str:
    """The command that goes on with the run in `folder`; of a finished one it draws the figures again."""
    return shlex.join(["tinymeta", "run", experiment, "--resume", folder.as_posix(), *(["--trace"] if trace else [])])


def read_config(folder: Path) -> dict[str, Any]:
    """The record in `folder`/config.json; UserError if there is none, or it is damaged or of another version."""
    path = folder / "config.json"
    with file_errors("read", path):
        here = path.is_file()
    if not here:
        raise UserError(f"{folder} is no run folder (it has no config.json); give a folder such as runs/NAME/STAMP")
    return _read(path, CONFIG_KEYS, NEW_RUN, RESUMED)


def check_unedited(folder: Path, record: Mapping[str, Any]) -> None:
    """UserError if the configuration in the record of `folder` is not the one with which the run was begun."""
    if fields_hash(record["config"]) != record["config_hash"]:
        raise UserError(
            f"{folder / 'config.json'} has another configuration than the run was begun with, whose hash is "
            f"{record['config_hash']}; put that back, or start a new run"
        )


def saved_config(experiment: Experiment, folder: Path) -> Any:
    """The configuration of the run in `folder`; UserError if there is none of this experiment and version."""
    record = read_config(folder)
    if record["experiment"] != experiment.name:
        raise UserError(f"{folder} is a run of {record['experiment']}, expected {experiment.name}; name that one")
    check_unedited(folder, record)
    return restore(experiment, record["config"], folder / "config.json")


def adopt(experiment: Experiment, config: Any, folder: Path) -> None:
    """Check that `folder` is a run of this configuration."""
    if config_hash(saved_config(experiment, folder)) != config_hash(config):
        raise UserError(f"{folder} was run with another configuration; resume it with its own or start a new run")


def note_versions(folder: Path) -> None:
    """If versions have changed since the run in `folder` was begun or last resumed, say so and record it."""
    record, now = read_config(folder), versions()
    resumed = record.get("resumed_on", [])
    began = [record["versions"], *resumed][-1]
    changed = sorted(key for key in now.keys() | began.keys() if now.get(key) != began.get(key))
    if changed:
        words = ", ".join(f"{key} {began.get(key)} then, {now.get(key)} now" for key in changed)
        print(f"note: resumed on something else, so last digits may differ: {words}", file=sys.stderr)
        write_json(folder / "config.json", {**record, "resumed_on": [*resumed, now]})


def unchanged_run(experiment: Experiment, config: Any, root: Path) -> Path | None:
    """The newest run below `root`/NAME with this configuration and the present versions, finished or not."""
    for path in sorted((root / experiment.name).glob("*/config.json"), reverse=True):
        record = read_json(path)
        hashes = {record.get("config_hash"), fields_hash(record.get("config", {}))}
        if hashes == {config_hash(config)} and record.get("versions") == versions():
            return path.parent
    return None


def write_result(experiment: Experiment, outcome: Outcome, folder: Path) -> None:
    """Write result.json: the words go with the numbers, so that a report can be made from the folder alone."""
    words = [getattr(experiment, name) for name in ("name", "title", "paper", "summary", "how_to_read")]
    values = (*words, *asdict(outcome).values())
    write_json(folder / "result.json", {"format": FORMAT, **dict(zip(RESULT_KEYS, values, strict=True))})


def read_result(folder: Path) -> tuple[dict[str, Any], Outcome]:
    """(record, outcome) in `folder`/result.json; UserError if it is damaged, of another version or of another experiment."""
    path, begun = folder / "result.json", read_config(folder)["experiment"]
    remedy = remaking(begun, folder)
    record = _read(path, RESULT_KEYS, remedy)
    if record["experiment"] != begun:
        raise UserError(f"{path} is of {record['experiment']} in a run of {begun}; {remedy}")
    rows, claims = [Row(**row) for row in record["rows"]], [Claim(**claim) for claim in record["claims"]]
    return record, Outcome(rows, claims, record["series"])


def remaking(experiment: str, folder: Path) -> str:
    """What to do about a wrong result.json: the checkpoint holds the training, from which it is made again."""
    return f"delete it and go on with: {resuming(experiment, folder)}"


def _read(path: Path, keys: Mapping[str, Any], remedy: str, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The record, if it has these keys, and values of these types there and at those of `more` that it has."""
    record = read_json(path, remedy)
    if record.get("format") != FORMAT:
        raise UserError(f"{path} has format {record.get('format')}, this tinymeta reads {FORMAT}; {remedy}")
    missing = [key for key in keys if key not in record]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; {remedy}")
    for key, hint in {**keys, **(more or {})}.items():
        if key in record and not conforms(hint, record[key]):
            raise UserError(
                f"{path} is damaged or of another version: its {key!r} is not as tinymeta writes it; {remedy}"
            )
    return record
