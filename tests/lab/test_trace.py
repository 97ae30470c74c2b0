"""A trace: arrays beside a finished run and figures of them, for those who ask."""

import json
from dataclasses import replace

import numpy as np
import pytest
from lab.toy import EXPERIMENT, Config

from tinymeta.lab import Trace, UserError, execute
from tinymeta.lab import figures as look

CONFIG = Config(steps=4)


def record(config, folder, outcome):
    """From the configuration, the run folder and what was found."""
    assert (folder / "result.json").exists()
    return {"weights": np.array(outcome.series["w"]), "steps": np.array(config.steps)}


def draw(arrays):
    figure, axes = look.subplots(caption="Traced.")
    axes.plot(arrays["weights"].ravel() * arrays["steps"])
    return {"traced": figure}


TRACED = replace(EXPERIMENT, trace=Trace(record, draw))


def drawn(folder):
    assert {path.stem for path in (folder / "figures").glob("*.png")} >= set(captions(folder))
    return set(captions(folder))


def captions(folder):
    return json.loads((folder / "figures" / "captions.json").read_text())


def test_a_run_is_traced_when_asked_and_keeps_its_trace(tmp_path):
    folder = execute(TRACED, CONFIG, tmp_path)
    assert not (folder / "trace.npz").exists()
    assert drawn(folder) == {"weights"}
    execute(TRACED, CONFIG, tmp_path, folder, trace=True)
    with np.load(folder / "trace.npz", allow_pickle=False) as archive:
        assert sorted(archive.files) == ["steps", "weights"]
    assert drawn(folder) == {"weights", "traced"}
    before = (folder / "trace.npz").read_bytes()
    execute(replace(TRACED, trace=Trace(None, draw)), CONFIG, tmp_path, folder)  # not recorded again
    execute(replace(TRACED, trace=Trace(None, draw)), CONFIG, tmp_path, folder, trace=True)
    assert (folder / "trace.npz").read_bytes() == before
    assert drawn(folder) == {"weights", "traced"}


def test_a_trace_that_fails_leaves_no_file(tmp_path):
    def failing(config, folder, outcome):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"go on with: tinymeta run toy --resume .* --trace$"):
        execute(replace(TRACED, trace=Trace(failing, draw)), CONFIG, tmp_path, trace=True)
    (folder,) = (tmp_path / "toy").iterdir()
    assert (folder / "result.json").exists()
    assert not (folder / "trace.npz").exists()


def test_a_damaged_trace_is_refused_in_one_sentence(tmp_path):
    folder = execute(TRACED, CONFIG, tmp_path, trace=True)
    whole = (folder / "trace.npz").read_bytes()
    for damaged in (b"", b"no zip", whole[: len(whole) // 2]):
        (folder / "trace.npz").write_bytes(damaged)
        sentence = r"trace\.npz is damaged \(File is not a zip file\); delete it and trace the run again"
        with pytest.raises(UserError, match=sentence):
            execute(TRACED, CONFIG, tmp_path, folder)


def test_an_experiment_without_a_trace_says_so_before_it_runs(tmp_path):
    with pytest.raises(UserError, match="toy has nothing to trace: run it without --trace"):
        execute(EXPERIMENT, CONFIG, tmp_path, trace=True)
    assert not (tmp_path / "toy").exists()
