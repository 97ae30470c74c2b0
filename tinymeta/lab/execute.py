"""From an experiment and a configuration to a run folder with results and figures, now or where it was interrupted."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from tinymeta.lab import figures, table
from tinymeta.lab.experiment import Experiment, Outcome, config_hash
from tinymeta.lab.optional import require
from tinymeta.lab.records import adopt, new_folder, read_result, write_result
from tinymeta.lab.run import Run


def execute(experiment: Experiment, config: Any, root: str | Path = "runs", resume: str | Path | None = None) -> Path:
    """Run into a new folder `root`/NAME/STAMP, or go on in the folder `resume`; print the table and give the folder.

    A finished run that is resumed is drawn and printed again. UserError if `resume` holds another experiment or
    configuration; KeyboardInterrupt, whose text says how to resume, on Ctrl-C.
    """
    require("matplotlib")  # hours of training must not end in a missing package
    if resume is None:
        folder = new_folder(experiment, config, Path(root))
    else:
        folder = Path(resume)
        adopt(experiment, config, folder)
    try:
        outcome = _find_outcome(experiment, config, folder)
        with figures.style():
            figures.save(experiment.draw(outcome), folder / "figures")
    except KeyboardInterrupt:
        command = f"tinymeta run {experiment.name} --resume {shlex.quote(str(folder))}"
        raise KeyboardInterrupt(f"Stopped, nothing is lost; go on with: {command}") from None
    _print_outcome(experiment, outcome, folder)
    return folder


def _find_outcome(experiment: Experiment, config: Any, folder: Path) -> Outcome:
    """Always as read from result.json, so that the figures of a new and of a resumed run are drawn from the same."""
    if not (folder / "result.json").exists():
        with Run(folder, experiment.name, config_hash(config)) as run:
            write_result(experiment, experiment.train(config, run), folder)
    return read_result(folder)[1]


def _print_outcome(experiment: Experiment, outcome: Outcome, folder: Path) -> None:
    print(f"\n{experiment.title}\n\n{table.as_text(outcome.rows)}\n")
    for claim in outcome.claims:
        print(table.claim_text(claim))
    print(f"\nwritten to {folder}")
