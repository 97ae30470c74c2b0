import os
import signal
import threading

import pytest

from tinymeta.lab import Run
from tinymeta.lab.interrupt import Stopped, held_interrupt


@pytest.fixture(autouse=True)
def usual_handler():
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def press():
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_is_held_and_the_second_acts(capfd):
    with held_interrupt() as interrupted:
        assert not interrupted()
        press()
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            press()
    assert "Stopping after this step" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_interrupt_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with held_interrupt() as interrupted:
        press()
        assert not interrupted()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_leaves_signals_alone():
    seen = []

    def work():
        with held_interrupt() as interrupted:
            seen.append((interrupted(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, signal.default_int_handler)]


def test_an_interrupt_while_the_last_state_is_saved_is_not_lost(tmp_path, monkeypatch, capfd):
    with Run(tmp_path, "toy", "hash") as run:
        saving = run._save
        monkeypatch.setattr(run, "_save", lambda: (press(), saving()))
        with pytest.raises(Stopped, match="nothing is lost"):
            run.stage("a", 1, lambda: 0, lambda state, i: (state + 1, {}))
    with Run(tmp_path, "toy", "hash") as run:
        assert run._stages["a"]["done"] == 1
