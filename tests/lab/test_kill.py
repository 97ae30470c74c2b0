"""Real processes, really killed."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from lab import toy

from tinymeta.cli import main
from tinymeta.lab import configure, execute

TESTS = Path(__file__).parents[1]
COMMAND = f"""
import signal, sys
sys.path.insert(0, {str(TESTS)!r})
signal.signal(signal.SIGINT, signal.default_int_handler)
from tinymeta import cli, experiments
from tinymeta.lab import run
experiments.REGISTRY, experiments.DEMO, run.SAVE_SECONDS = {{"toy": "lab.toy"}}, ("toy",), float(sys.argv[1])
sys.exit(cli.main(sys.argv[2:]))
"""
SETTINGS = {"steps": "100", "pause": "0.003"}  # half a second
RUN = ["run", "toy", "--preset", "paper", *(f"--set={key}={value}" for key, value in SETTINGS.items())]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    config = configure(toy.EXPERIMENT, "paper", SETTINGS)
    return toy.contents(execute(toy.EXPERIMENT, config, tmp_path_factory.mktemp("whole")))


def start(save_seconds, *arguments):
    command = [sys.executable, "-c", COMMAND, str(save_seconds), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(parent, pattern):
    for _ in range(1000):
        if found := list(parent.glob(pattern)):
            return found[0]
        time.sleep(0.01)
    raise AssertionError(f"no {pattern} in {parent}")


@pytest.mark.parametrize("moment", np.random.default_rng(0).uniform(0.0, 0.6, 4).round(3))
def test_killed_at_any_moment_it_resumes_bit_for_bit(tmp_path, uninterrupted, moment, toy_registered):
    process = start(0.01, *RUN, "--runs", tmp_path)
    folder = wait_for(tmp_path, "toy/*/config.json").parent
    time.sleep(moment)
    process.kill()
    process.communicate()
    assert main(["run", "toy", "--resume", str(folder)]) == 0
    assert toy.contents(folder) == uninterrupted


def test_ctrl_c_saves_and_says_how_to_resume(tmp_path, uninterrupted, toy_registered):
    process = start(1e9, *RUN, "--runs", tmp_path)
    folder = wait_for(tmp_path, "toy/*/metrics.jsonl").parent
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert (folder / "checkpoint.npz").exists()
    name, resumed = re.search(
        r"Stopped, nothing is lost; go on with: tinymeta run (\S+) --resume (\S+)\n$", errors
    ).groups()
    assert Path(resumed) == folder
    assert main(["run", name, "--resume", resumed]) == 0
    assert toy.contents(folder) == uninterrupted


@pytest.mark.parametrize(
    ("step", "lost"),
    [(5, "no step was saved"), (25, "all after the last checkpoint is lost")],
    ids=["first", "second stage"],
)
def test_what_stops_at_once_says_what_is_lost(tmp_path, toy_registered, capsys, step, lost):
    """A second Ctrl-C acts within the step: before the first checkpoint, and after that of a finished stage."""
    for command in ("run toy", "demo"):
        with toy.failing_at(step, KeyboardInterrupt()):
            assert main([*command.split(), "--runs", str(tmp_path / command)]) == 130
        assert f"Stopped, {lost}; " in capsys.readouterr().err


def test_an_interrupted_demo_goes_on_and_finished_runs_are_kept(tmp_path, toy_registered, capsys):
    with toy.failing_at(5, KeyboardInterrupt()):
        assert main(["demo", "--runs", str(tmp_path)]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    for _ in range(2):
        assert main(["demo", "--runs", str(tmp_path)]) == 0
        assert len(list((tmp_path / "demo" / "toy").iterdir())) == 1
        assert "Least squares" in (tmp_path / "demo" / "report.html").read_text()


def test_a_closed_pipe_is_quiet():
    process = start(1, "doctor")
    process.stdout.close()
    assert process.wait() == 141
    assert process.stderr.read() == ""
    process.stderr.close()
