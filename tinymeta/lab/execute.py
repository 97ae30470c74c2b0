"""From an experiment and a configuration to a run folder with results and figures, now or where it was interrupted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinymeta.lab import figures, table
from tinymeta.lab.errors import UserError, one_line
from tinymeta.lab.experiment import Experiment, Outcome, config_hash
from tinymeta.lab.files import atomic_write, open_locked
from tinymeta.lab.interrupt import Stopped
from tinymeta.lab.optional import require
from tinymeta.lab.records import adopt, new_folder, note_versions, read_result, remaking, resuming, write_result
from tinymeta.lab.run import Run


def execute(
    experiment: Experiment,
    config: Any,
    root: str | Path = "runs",
    resume: str | Path | None = None,
    trace: bool = False,
) -> Path:
    """Run into a new folder `root`/NAME/STAMP, or go on in the folder `resume`; print the table and give the folder.

    A finished run that is resumed is drawn and printed again; with `trace` its trace.npz is written too. UserError if
    `resume` holds another experiment or configuration, or there is nothing to trace; Stopped, whose text says what is lost
    and how to resume, on Ctrl-C. What else training raises has a note that says it.
    """
    require("matplotlib")  # hours of training must not end in a missing package
    if trace and experiment.trace is None:
        raise UserError(f"{experiment.name} has nothing to trace: run it without --trace")
    if resume is None:
        folder = new_folder(experiment, config, Path(root))
    else:
        folder = Path(resume)
        adopt(experiment, config, folder)
    try:
        outcome = _find_outcome(experiment, config, folder, trace)
        if trace:
            _write_trace(experiment, config, folder, outcome)
        with open_locked(folder / "metrics.jsonl"):  # what is drawn has one writer too
            _draw(experiment, outcome, folder, resumed=resume is not None)
    except KeyboardInterrupt as stop:
        raise Stopped(_lost(stop, folder), f"go on with: {resuming(experiment.name, folder, trace)}") from None
    _print_outcome(experiment, outcome, folder)
    return folder


def _lost(stop: KeyboardInterrupt, folder: Path) -> str:
    """A stage that stops by itself has saved its state; a second Ctrl-C, or one outside of stages, ends the run where it is."""
    if isinstance(stop, Stopped) or (folder / "result.json").exists():
        return "nothing is lost"
    return "no step was saved" if not (folder / "checkpoint.npz").exists() else "all after the last checkpoint is lost"


def _find_outcome(experiment: Experiment, config: Any, folder: Path, trace: bool) -> Outcome:
    """Always as read from result.json, so that the figures of a new and of a resumed run are drawn from the same."""
    if not (folder / "result.json").exists():
        with Run(folder, experiment.name, config_hash(config)) as run:  # which refuses before the record is changed
            note_versions(folder)
            write_result(experiment, _trained(experiment, config, run, trace), folder)
    return read_result(folder)[1]


def _trained(experiment: Experiment, config: Any, run: Run, trace: bool) -> Outcome:
    try:
        return experiment.train(config, run)
    except UserError:  # which says itself what to do
        raise
    except Exception as error:
        again = "a resumed run meets it again: start a new one with other settings"
        go_on = f"to go on: {resuming(experiment.name, run.folder, trace)}"
        error.add_note(again if isinstance(error, FloatingPointError) else go_on)
        raise


def _write_trace(experiment: Experiment, config: Any, folder: Path, outcome: Outcome) -> None:
    if experiment.trace is not None and not (folder / "trace.npz").exists():
        arrays: Any = experiment.trace.record(config, folder, outcome)
        with open_locked(folder / "metrics.jsonl"), atomic_write(folder / "trace.npz") as file:
            np.savez(file, **arrays)


def _draw_trace(experiment: Experiment, folder: Path) -> Mapping[str, Any]:
    """From what trace.npz holds, so that a run that was traced once keeps these figures."""
    path = folder / "trace.npz"
    if experiment.trace is None or not path.exists():
        return {}
    try:
        # not by np.load, which would take what is no archive for a pickle and advise to trust it
        with open(path, "rb") as file, np.lib.npyio.NpzFile(file) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged archive raises a dozen kinds
        raise UserError(f"{path} is damaged ({one_line(error)}); delete it and trace the run again") from error
    return experiment.trace.draw(arrays)


def _draw(experiment: Experiment, outcome: Outcome, folder: Path, resumed: bool) -> None:
    with figures.style():
        try:
            drawn = experiment.draw(outcome)
        except Exception as error:
            if not resumed:
                raise
            path, why = folder / "result.json", f"{type(error).__name__}: {one_line(error)}"
            remedy = remaking(experiment.name, folder)
            raise UserError(f"{path} cannot be drawn ({why}); was it edited? {remedy}") from error
        figures.save({**drawn, **_draw_trace(experiment, folder)}, folder / "figures")


def _print_outcome(experiment: Experiment, outcome: Outcome, folder: Path) -> None:
    print(f"\n{experiment.title}\n\n{table.as_text(outcome.rows)}\n")
    for claim in outcome.claims:
        print(table.claim_text(claim))
    print(f"\nwritten to {folder}")
