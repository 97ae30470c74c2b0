"""Real processes with workers, really interrupted and killed: where Gymnasium and MuJoCo are installed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tinymeta import cli, lab
from tinymeta.experiments.maml_cheetah import EXPERIMENT
from tinymeta.lab.records import read_result

COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from tinymeta import cli, rl
from tinymeta.lab import run
sample, run.SAVE_SECONDS = rl.Cheetah.sample, 1e9
def told(*arguments):
    print("sampling", flush=True)
    return sample(*arguments)
rl.Cheetah.sample = told
sys.exit(cli.main(sys.argv[1:]))
"""
TINY = {
    "iterations": "4", "hidden": "4", "meta_batch": "3", "episodes": "2", "test_goals": "2", "test_episodes": "2", "horizon": "5",
    "updates": "1", "workers": "2",
}  # fmt: skip


def start(root):
    """The experiment in a process group of its own, as a terminal starts it."""
    settings = [f"--set={key}={value}" for key, value in TINY.items()]
    command = [sys.executable, "-c", COMMAND, "run", "maml-cheetah", "--runs", str(root), *settings]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_sampling(process, times):
    for _ in range(times):
        assert process.stdout.readline() == "sampling\n"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    pytest.importorskip("mujoco")
    config = lab.configure(EXPERIMENT, "quick", TINY | {"workers": "0"})
    return read_result(lab.execute(EXPERIMENT, config, tmp_path_factory.mktemp("whole")))


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="POSIX: a terminal's Ctrl-C goes to a process group")
@pytest.mark.parametrize("moment", [1, 4], ids=["workers start", "workers simulate"])
def test_ctrl_c_in_a_terminal_saves_and_the_run_goes_on_to_the_same_result(tmp_path, uninterrupted, moment):
    process = start(tmp_path)
    wait_for_sampling(process, moment)
    time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    name, folder = re.search(r"go on with: tinymeta run (\S+) --resume (\S+)\n$", errors).groups()
    assert (Path(folder) / "checkpoint.npz").exists()
    assert cli.main(["run", name, "--resume", folder]) == 0
    assert read_result(Path(folder)) == uninterrupted


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="POSIX: process groups")
def test_workers_end_with_the_process_that_started_them(tmp_path):
    pytest.importorskip("mujoco")
    process = start(tmp_path)
    wait_for_sampling(process, 3)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)  # ProcessLookupError once the group is empty
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError("workers are left")
    except ProcessLookupError:
        pass
    finally:
        process.stdout.close()
        process.stderr.close()
