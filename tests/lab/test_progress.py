import io
import re
import sys

import pytest

from tinymeta.lab import UserError
from tinymeta.lab import progress as module
from tinymeta.lab.progress import describe, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def work(total, done=0):
    with progress("toy train", total, done) as report:
        for i in range(done, total):
            report(i + 1, {"loss": 1 / (i + 1)})


@pytest.fixture
def at_once(monkeypatch):
    for name in ("BAR_SECONDS", "LINE_SECONDS", "QUIET_SECONDS"):
        monkeypatch.setattr(module, name, 0.0)


def test_the_words():
    assert describe(1200, 5000, 240.0, {"loss": 0.0421234, "b": 2, "c": 3}) == (
        "1,200/5,000  240 steps/s  ETA 0:00:16  loss 0.04212  b 2"
    )
    assert describe(1, 5, 0.0125, {}) == "1/5  0.013 steps/s  ETA 0:05:20"
    assert describe(0, 5, 0.0, {}) == "0/5  0 steps/s  ETA unknown"


def test_plain_lines_where_there_is_no_terminal(capsys, at_once):
    work(4, done=2)
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r"  \S+ steps/s.*ETA \S+", "", line) for line in lines] == [
        "toy train   75 %  3/4  loss 0.3333",
        "toy train  100 %  4/4  loss 0.25",
    ]


def test_a_bar_on_a_terminal(monkeypatch, at_once):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    work(3)
    assert "━" in terminal.getvalue()
    assert re.search(r"toy train .*2/3 .*steps/s .*ETA .*loss 0\.5", terminal.getvalue())


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_nothing_for_quick_work(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    work(3)
    assert sys.stderr.getvalue() == ""


def test_a_terminal_without_rich_is_one_sentence(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(UserError, match=r"rich is not installed and is needed for progress .*tinymeta\[lab\]"):
        work(3)
