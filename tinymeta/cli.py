"""The `tinymeta` command."""

from __future__ import annotations

import argparse
import errno
import inspect
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import NoReturn

import tinymeta
from tinymeta import experiments
from tinymeta.data.errors import DataError
from tinymeta.engine import backend
from tinymeta.lab import execute, optional
from tinymeta.lab.errors import UserError, suggest
from tinymeta.lab.experiment import Experiment, as_text, configure
from tinymeta.lab.interrupt import Stopped
from tinymeta.lab.records import saved_config, unchanged_run

RUNS = Path("runs")
DONE, FAILED_CHECK, BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141  # exit codes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give its exit code; what a user can mend is one sentence on stderr, never a traceback."""
    if sys.stderr is None:  # closed by the shell: what would be said there must not go elsewhere
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    try:
        code = _dispatch(arguments)
        print(end="", flush=True)  # sys.stdout itself is None where the shell has closed it
        return code
    except (UserError, DataError) as error:
        return _refuse(error, str(error))
    except FloatingPointError as error:  # an experiment's own sentence: what diverged, where, and what to change
        return _refuse(error, f"the run diverged: {error}")
    except MemoryError as error:
        return _refuse(error, f"out of memory: {str(error) or 'none is left'}; free some, or choose smaller settings")
    except ImportError as error:
        sentence = optional.missing(error)
        if sentence is None:
            raise
        return _refuse(error, str(sentence))
    except KeyboardInterrupt as stop:
        return _say(f"\n{stop}".rstrip() or "\nStopped.", INTERRUPTED)
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:  # those of files are sentences already
            raise
        _drop_output()
        return _refuse(error, f"cannot write the output: {error.strerror}")
    except ValueError as error:
        if not isinstance(error, tinymeta.rl.ContractError):  # here and not above, so that few commands load rl
            raise
        return _refuse(error, str(error))


def _dispatch(arguments: Sequence[str] | None) -> int:
    for output in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # a test or a notebook may have put something simpler there
            output.reconfigure(errors="replace")  # type: ignore[union-attr]
    parser = build_parser()
    chosen = parser.parse_args(arguments)
    if chosen.version:
        print(f"tinymeta {tinymeta.__version__}")
        return DONE
    if chosen.command is None:
        parser.print_help()
        return DONE
    if chosen.command is not doctor:  # which tells it with the rest
        _check_backend()
    return chosen.command(chosen)


def _check_backend() -> None:
    """Before the work: else what is wrong with TINYMETA_BACKEND is seen at the first kernel."""
    try:
        backend.chosen()
    except (ValueError, ImportError) as error:
        raise UserError(str(error)) from error


def _drop_output() -> None:
    """Else Python complains when it exits: what is left to write cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(error: Exception, sentence: str) -> int:
    """Say it, and what a run has noted: how to go on from its last checkpoint."""
    return _say(f"tinymeta: {'; '.join([sentence, *getattr(error, '__notes__', [])])}", BAD_INPUT)


def _say(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see: {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line, with help for a newcomer."""
    parser = _Parser(prog="tinymeta", description="Study, check and run learned optimizers (L2L), MAML and EWC.")
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str, more: str = "") -> _Parser:
        added = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}. {more}")
        added.set_defaults(command=command)
        return added

    _add_list(add("list", show_list, "list the experiments, or the presets and keys of one"))
    _add_run(add("run", run, "run an experiment and print published and our figures", RUN_HELP))
    _add_runs_folder(add("demo", demo, "run the four demo experiments (minutes) and write one HTML page", DEMO_HELP))
    reported = add("report", report, "write DIR/report.html from the newest result of each experiment below DIR")
    reported.add_argument("folder", metavar="DIR", type=Path, help="a folder with runs below it, such as runs")
    timed = add(
        "bench", bench, "time kernels and programs beside PyTorch, JAX and others, and write bench/results/", BENCH_HELP
    )
    timed.add_argument("names", metavar="NAME", nargs="*", help="some of the benchmarks (default: all)")
    _add_check(add("check", check, "check the derivatives of ops against finite differences and algebraic laws"))
    _add_runs_folder(add("doctor", doctor, "tell what is installed, what is missing and what for"))
    return parser


RUN_HELP = (
    "Ctrl-C saves; --resume goes on, and gives bit for bit what an uninterrupted run gives. --trace can be added to both, "
    "also when a run is finished."
)
DEMO_HELP = "If it was interrupted, the same command goes on; finished runs are kept."
BENCH_HELP = "It takes half an hour in all, on a machine that does nothing else; `make .venv/.bench` installs peers."


def _add_list(parser: _Parser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="show the presets, keys and defaults of this one")


def _add_run(parser: _Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="an experiment; see: tinymeta list")
    parser.add_argument("--preset", help="a named configuration (default: quick); `paper` is the paper's own protocol")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="change one key; may be repeated"
    )
    parser.add_argument("--seed", metavar="N", help="short for --set seed=N")
    _add_runs_folder(parser, default=None)  # so that --resume knows whether it was given
    parser.add_argument(
        "--resume", metavar="FOLDER", type=Path, help="go on with an interrupted run, as it was configured"
    )
    parser.add_argument("--trace", action="store_true", help="also record and draw what goes on inside, step by step")


def _add_check(parser: _Parser) -> None:
    parser.add_argument("ops", metavar="OP", nargs="*", help="names in tinymeta.ops (default: all)")
    parser.add_argument("--order", type=int, choices=(1, 2), default=2, help="highest derivative (default: 2)")


def _add_runs_folder(parser: _Parser, default: Path | None = RUNS) -> None:
    parser.add_argument(
        "--runs", metavar="DIR", type=Path, default=default, help=f"where runs are kept (default: {RUNS})"
    )


def show_list(chosen: argparse.Namespace) -> int:
    """All experiments in a few words each, or one in full."""
    if chosen.name is not None:
        print(_in_full(experiments.load(chosen.name)))
        return DONE
    for name in experiments.REGISTRY:
        experiment = experiments.load(name)
        print(f"{name}\n    {experiment.title}\n    {experiment.paper}\n    presets: {_presets(experiment)}")
    return DONE


def _presets(experiment: Experiment) -> str:
    return ", ".join(f"{preset}{_duration(experiment, preset)}" for preset in experiment.presets)


UNITS = ((90, 1, "min"), (48 * 60, 60, "h"), (math.inf, 24 * 60, "days"))  # below so many minutes, of so many each


def _duration(experiment: Experiment, preset: str) -> str:
    minutes = experiment.minutes.get(preset)
    return "" if minutes is None else f" (about {_rounded(minutes)})"


def _rounded(minutes: float) -> str:
    size, unit = next((size, unit) for end, size, unit in UNITS if minutes < end)
    count = minutes / size
    return f"{count:.0f} {unit}" if count >= 10 else f"{count:.2g} {unit}"


def _in_full(experiment: Experiment) -> str:
    defaults = [f"  {field.name}={as_text(field.default)}" for field in fields(experiment.config)]
    changes = [
        f"  {preset}{_duration(experiment, preset)}: "
        + (", ".join(f"{k}={as_text(v)}" for k, v in values.items()) or "the keys above")
        for preset, values in experiment.presets.items()
    ]
    head = f"{experiment.name}: {experiment.title}\n{experiment.paper}\n\n{experiment.summary}\n"
    keys = ["keys, for --set:", *defaults, "", *_words(experiment.config)]
    return "\n".join([head, *keys, "presets, for --preset:", *changes])


def _words(config: type) -> list[str]:
    """What a configuration, and those that it inherits from, say of their keys."""
    return [f"{inspect.getdoc(part)}\n" for part in config.__mro__ if is_dataclass(part)]


def run(chosen: argparse.Namespace) -> int:
    """Run one experiment, or go on with a run."""
    experiment = experiments.load(chosen.name)
    if chosen.resume is None:
        config = configure(experiment, "quick" if chosen.preset is None else chosen.preset, _overrides(chosen))
    elif chosen.set or any(given is not None for given in (chosen.preset, chosen.seed, chosen.runs)):
        raise UserError(
            "--resume keeps the folder and the configuration of the run; leave out --preset, --set, --seed and --runs"
        )
    else:
        config = saved_config(experiment, chosen.resume)
    folder = execute(experiment, config, chosen.runs or RUNS, chosen.resume, chosen.trace)
    print(f"as a page: {shlex.join(['tinymeta', 'report', folder.as_posix()])}")
    return DONE


def _overrides(chosen: argparse.Namespace) -> dict[str, str]:
    for text in chosen.set:
        if text.find("=") < 1:
            raise UserError(f"--set {text!r} is not of the form KEY=VALUE; see: tinymeta list {chosen.name}")
    pairs = [text.partition("=") for text in chosen.set]
    seed = {} if chosen.seed is None else {"seed": chosen.seed}
    return {key.strip(): value.strip() for key, _, value in pairs} | seed


def demo(chosen: argparse.Namespace) -> int:
    """Run the demo experiments at their quick presets, then write the page."""
    from tinymeta.lab.report import write_report

    root = chosen.runs / "demo"
    try:
        for number, name in enumerate(experiments.DEMO, 1):
            experiment = experiments.load(name)
            head = f"[{number}/{len(experiments.DEMO)}] {experiment.title}{_duration(experiment, 'quick')}"
            print(f"\n{head}\n{experiment.summary}", flush=True)
            config = configure(experiment, "quick", {})
            execute(experiment, config, root, unchanged_run(experiment, config, root))
    except KeyboardInterrupt as stop:
        lost = f", {stop.lost}" if isinstance(stop, Stopped) else ""
        raise KeyboardInterrupt(f"Stopped{lost}; the same command goes on from here.") from None
    print(f"\nthe page with all figures: {write_report(root)}")
    return DONE


def report(chosen: argparse.Namespace) -> int:
    """Write the page of all results below a folder."""
    from tinymeta.lab.report import write_report

    print(write_report(chosen.folder))
    return DONE


def bench(chosen: argparse.Namespace) -> int:
    """Run benchmarks, which come with the source tree but not with the package."""
    root = Path(__file__).resolve().parent.parent
    if not (root / "bench" / "__main__.py").exists():
        raise UserError("the benchmarks are part of the source tree: clone it, and there run make bench")
    return subprocess.run([sys.executable, "-m", "bench", *chosen.names], cwd=root).returncode


def check(chosen: argparse.Namespace) -> int:
    """Check derivatives; the exit code tells whether all hold."""
    from tinymeta.check import table

    known = {row.op for row in table.ROWS} | {row.name for row in table.ROWS}
    for name in chosen.ops:
        if name not in known:
            raise UserError(f"there is no check of an op {name!r}; {suggest(name, sorted(known))}")
    failures = table.print_all(chosen.ops, chosen.order)
    return FAILED_CHECK if failures else DONE


def doctor(chosen: argparse.Namespace) -> int:
    """Tell what is here and what is missing."""
    from tinymeta.lab.doctor import describe

    print(describe(chosen.runs))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
