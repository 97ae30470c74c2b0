"""A run folder at work: stages that can be killed at any instant and resumed bit for bit, and their metrics."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from tinymeta.lab import checkpoint
from tinymeta.lab.checkpoint import Tree, dress, named_tuples, settle
from tinymeta.lab.errors import UserError, one_line
from tinymeta.lab.experiment import conforms
from tinymeta.lab.files import file_errors, open_locked, to_json
from tinymeta.lab.interrupt import Stopped, held_interrupt
from tinymeta.lab.progress import progress

SAVE_SECONDS = 10.0  # between two checkpoints
LOGGED_STEPS = 500  # of each stage

Step = Callable[[Tree, int], tuple[Tree, dict[str, float]]]


class Run:
    """One run in `folder`, begun or resumed by what its checkpoint.npz says; used as a context manager.

    UserError, with every file left as it was, if the checkpoint is damaged or of another experiment or configuration.
    """

    def __init__(self, folder: Path, experiment: str, config_hash: str):
        self.folder = folder
        self.experiment = experiment
        self._owner = {"experiment": experiment, "configuration": config_hash}
        self._metrics = open_locked(folder / "metrics.jsonl")
        try:
            self._stages = self._resume()
        except BaseException:
            self._metrics.close()
            raise
        self._begun: set[str] = set()
        self._saved_at = time.monotonic()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        with file_errors("write", Path(self._metrics.name)):
            self._metrics.close()

    def stage(
        self,
        name: str,
        steps: int,
        init: Callable[[], Tree],
        step: Step,
        until: Callable[[Tree], bool] = lambda state: False,
        in_place: bool = False,
    ) -> Tree:
        """Carry `state = init()` through `state, metrics = step(state, i)` for i in range(steps); the last state.

        It ends early after a step whose state is such that `until(state)`. `step` must depend on (state, i) alone: draw by
        `lab.stream(seed, name, i)`. The state is a tree that `lab.checkpoint` can hold. About LOGGED_STEPS steps and
        the last one go to metrics.jsonl. On resume `init` is called again, for the classes of its NamedTuples, but no step
        that was saved. Stopped on Ctrl-C, after the step at work is done and saved. What a step raises is raised
        after the state before it is saved, unless steps change the state that they are given `in_place`.
        """
        if steps < 0:
            raise UserError(
                f"the stage {name!r} has {steps} steps, expected 0 or more; change the setting that says so"
            )
        first = init()
        known = named_tuples(first)
        at = self._begin(name, steps, first, known)
        every = max(1, steps // LOGGED_STEPS)
        ended = at["done"] == steps or (at["done"] > 0 and until(at["state"]))
        with held_interrupt() as interrupted, progress(f"{self.experiment} {name}", steps, at["done"]) as report:
            while not ended:
                i = at["done"]
                try:
                    state, metrics = step(at["state"], i)
                    state = settle(state, known)
                except Exception as error:
                    if not in_place:
                        self._save_before(error, name, at)
                    raise
                at = self._stages[name] = {"steps": steps, "done": i + 1, "state": state}
                ended = i + 1 == steps or until(at["state"])
                if i % every == 0 or ended:
                    self._log({"stage": name, "step": i, **metrics})
                report(i + 1, metrics)
                stop = interrupted()
                if stop or ended or time.monotonic() - self._saved_at >= SAVE_SECONDS:
                    self._save()
                if stop:
                    break
            if interrupted():  # also while the last state was saved
                raise Stopped("nothing is lost")
        return at["state"]

    def _begin(self, name: str, steps: int, first: Tree, known: dict[str, type]) -> dict[str, Tree]:
        """Where the stage stands: in its first state, or as the checkpoint has it."""
        if name in self._begun:
            raise ValueError(f"a run has one stage named {name!r}; give the second one another name")
        self._begun.add(name)
        if name not in self._stages:
            return {"steps": steps, "done": 0, "state": settle(first, known)}
        saved = self._stages[name]
        if saved["steps"] != steps:
            raise UserError(
                f"{self.folder / 'checkpoint.npz'} has {saved['steps']} steps of {name!r}, expected {steps}; "
                "the experiment has changed since, so start a new run"
            )
        return saved | {"state": dress(saved["state"], known)}

    def _save_before(self, error: Exception, name: str, at: dict[str, Tree]) -> None:
        """Save a stage as it was before the step that failed; if that fails as well, it is a note to the error."""
        self._stages[name] = at
        try:
            self._save()
        except Exception as failure:
            error.add_note(f"nor could the steps before it be saved: {one_line(failure)}")

    def _log(self, line: dict[str, object]) -> None:
        with file_errors("write", Path(self._metrics.name)):
            self._metrics.write(to_json(line).encode() + b"\n")

    def _save(self) -> None:
        """Metrics reach the disk first: a checkpoint never knows of lines that are not there."""
        with file_errors("write", Path(self._metrics.name)):
            self._metrics.flush()
            os.fsync(self._metrics.fileno())
            size = os.fstat(self._metrics.fileno()).st_size
        content = {"metrics_bytes": size, "stages": self._stages}
        checkpoint.save(self.folder / "checkpoint.npz", content, self._owner)
        self._saved_at = time.monotonic()

    def _resume(self) -> dict[str, dict[str, Tree]]:
        """The stages of the checkpoint; metrics written after it, half lines too, are cut off."""
        path = self.folder / "checkpoint.npz"
        found: Tree = {"metrics_bytes": 0, "stages": {}}
        if path.exists():
            found = checkpoint.load(path, self._owner)
            if not (
                type(found) is dict and conforms(int, found.get("metrics_bytes")) and type(found.get("stages")) is dict
            ):
                raise UserError(f"{path} is not as tinymeta writes it; start a new run")
        metrics = Path(self._metrics.name)
        if metrics.stat().st_size < found["metrics_bytes"]:
            raise UserError(f"{metrics} is shorter than {path} says it was; put back the whole file or start a new run")
        with file_errors("write", metrics):
            self._metrics.truncate(found["metrics_bytes"])
        return found["stages"]
