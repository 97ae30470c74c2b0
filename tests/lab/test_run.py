import contextlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import toy
from lab.toy import EXPERIMENT, Config

from tinymeta.lab import Run, UserError, checkpoint, execute
from tinymeta.lab import run as run_module
from tinymeta.lab.files import open_locked
from tinymeta.lab.report import write_report

CONFIG = Config(steps=16)


class Killed(BaseException):
    """Stands for the end of a process: nothing catches it."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return toy.contents(execute(EXPERIMENT, CONFIG, tmp_path_factory.mktemp("whole")))


def count(state, i):
    return {"n": state["n"] + 1}, {"n": float(state["n"])}


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 20), max_size=4), st.booleans())
def test_killed_and_resumed_it_gives_the_same_bytes(tmp_path_factory, uninterrupted, kills, saves_always):
    folder, root = None, tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "SAVE_SECONDS", 0.0 if saves_always else 1e9)
        for steps in kills:
            with toy.failing_at(steps, Killed()):
                try:
                    folder = execute(EXPERIMENT, CONFIG, root, folder)
                except Killed:
                    folder = next((root / "toy").iterdir())
        folder = execute(EXPERIMENT, CONFIG, root, folder)
    assert toy.contents(folder) == uninterrupted
    shutil.rmtree(root)


@pytest.mark.parametrize("tail", [b"", b'{"stage": "pretrain", "step": 4}\n', b'{"stage": "pre', b"\xff\n\n"])
def test_metrics_past_the_checkpoint_are_cut_off(tmp_path, uninterrupted, tail, monkeypatch):
    monkeypatch.setattr(run_module, "SAVE_SECONDS", 0.0)
    with toy.failing_at(4, Killed()), pytest.raises(Killed):
        execute(EXPERIMENT, CONFIG, tmp_path)
    folder = next((tmp_path / "toy").iterdir())
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(tail)
    assert toy.contents(execute(EXPERIMENT, CONFIG, tmp_path, folder)) == uninterrupted


def test_finished_stages_are_not_run_again(tmp_path):
    def never(*_):
        raise AssertionError("ran again")

    with Run(tmp_path, "toy", "hash") as run:
        run.stage("a", 3, lambda: {"n": 0}, count)
    with Run(tmp_path, "toy", "hash") as run:
        assert run.stage("a", 3, lambda: {"n": 0}, never) == {"n": 3}
        assert run.stage("b", 2, lambda: {"n": 5}, count) == {"n": 7}
    assert [(line["stage"], line["step"]) for line in lines(tmp_path)] == [
        ("a", 0),
        ("a", 1),
        ("a", 2),
        ("b", 0),
        ("b", 1),
    ]


@given(steps=st.integers(0, 1500))
@settings(max_examples=15, deadline=None)
def test_the_last_step_is_logged_and_few_lines_are_written(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("log")
    with Run(folder, "toy", "hash") as run:
        assert run.stage("a", steps, lambda: {"n": 0}, count) == {"n": steps}
    logged = [line["step"] for line in lines(folder)]
    every = max(1, steps // 500)
    assert logged == sorted({*range(0, steps, every), steps - 1} - {-1})
    assert len(logged) <= 1002


def test_memory_layout_is_that_of_a_resumed_run(tmp_path):
    def step(state, i):
        assert state["w"].flags.c_contiguous
        return {"w": (state["w"] + i).T.copy().T}, {}

    with Run(tmp_path, "toy", "hash") as run:
        assert run.stage("a", 3, lambda: {"w": np.ones((3, 4)).T}, step)["w"].flags.c_contiguous


def test_a_state_that_cannot_be_saved_is_refused_before_the_first_step(tmp_path):
    with Run(tmp_path, "toy", "hash") as run, pytest.raises(TypeError, match="state is of type object"):
        run.stage("a", 3, object, count)


def test_two_stages_of_one_name_are_refused(tmp_path):
    with Run(tmp_path, "toy", "hash") as run:
        run.stage("a", 1, lambda: {"n": 0}, count)
        with pytest.raises(ValueError, match="one stage named 'a'"):
            run.stage("a", 1, lambda: {"n": 0}, count)


def test_fewer_steps_than_none_are_refused_and_none_are_done_at_once(tmp_path):
    def never(*_):
        raise AssertionError("a step was done")

    with Run(tmp_path, "toy", "hash") as run:
        with pytest.raises(UserError, match="the stage 'a' has -1 steps, expected 0 or more"):
            run.stage("a", -1, lambda: {"n": 0}, never)
        assert run.stage("b", 0, lambda: {"n": 7}, never) == {"n": 7}


def test_another_number_of_steps_is_refused(tmp_path):
    with Run(tmp_path, "toy", "hash") as run:
        run.stage("a", 3, lambda: {"n": 0}, count)
    with Run(tmp_path, "toy", "hash") as run, pytest.raises(UserError, match="has 3 steps of 'a', expected 4"):
        run.stage("a", 4, lambda: {"n": 0}, count)


@pytest.mark.parametrize("damage", ["truncated", "other configuration", "other experiment", "short metrics"])
def test_a_refused_folder_is_left_as_it_was(tmp_path, damage):
    with Run(tmp_path, "toy", "hash") as run:
        run.stage("a", 3, lambda: {"n": 0}, count)
    experiment = "maml" if damage == "other experiment" else "toy"
    config = "other" if damage == "other configuration" else "hash"
    if damage == "truncated":
        path = tmp_path / "checkpoint.npz"
        path.write_bytes(path.read_bytes()[:-30])
    if damage == "short metrics":
        (tmp_path / "metrics.jsonl").write_text("{}\n")
    else:
        with open(tmp_path / "metrics.jsonl", "ab") as file:
            file.write(b"a line past the checkpoint")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=r"checkpoint\.npz"):
        Run(tmp_path, experiment, config)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_stage_may_end_early_and_is_then_finished(tmp_path):
    def never(*_):
        raise AssertionError("ran again")

    enough = lambda state: state["n"] >= 3
    for step in (count, never):
        with Run(tmp_path, "toy", "hash") as run:
            assert run.stage("a", 9, lambda: {"n": 0}, step, until=enough) == {"n": 3}
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize("killed_after", range(4))
def test_a_stage_that_ends_early_resumes_to_the_same_end(tmp_path, monkeypatch, killed_after):
    monkeypatch.setattr(run_module, "SAVE_SECONDS", 0.0)

    def dying(state, i):
        if i == killed_after:
            raise Killed
        return count(state, i)

    enough = lambda state: state["n"] >= 3
    with Run(tmp_path, "toy", "hash") as run, contextlib.suppress(Killed):
        run.stage("a", 9, lambda: {"n": 0}, dying, until=enough)
    with Run(tmp_path, "toy", "hash") as run:
        assert run.stage("a", 9, lambda: {"n": 0}, count, until=enough) == {"n": 3}
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2]


def failing_count(at, error):
    def step(state, i):
        if i == at:
            raise error
        return count(state, i)

    return step


@pytest.mark.parametrize("at", [0, 3])
def test_a_step_that_fails_loses_no_step_before_it(tmp_path, monkeypatch, at):
    monkeypatch.setattr(run_module, "SAVE_SECONDS", 1e9)
    error = ValueError("the world has ended")
    with Run(tmp_path, "toy", "hash") as run, pytest.raises(ValueError, match="the world has ended") as raised:
        run.stage("a", 5, lambda: {"n": 0}, failing_count(at, error))
    assert raised.value is error
    assert not hasattr(error, "__notes__")
    done = []
    with Run(tmp_path, "toy", "hash") as run:
        assert run.stage("a", 5, lambda: {"n": 0}, lambda state, i: done.append(i) or count(state, i)) == {"n": 5}
    assert done == list(range(at, 5))
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2, 3, 4]


def test_a_state_that_cannot_be_saved_loses_no_step_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "SAVE_SECONDS", 1e9)
    with Run(tmp_path, "toy", "hash") as run, pytest.raises(TypeError, match="of type object"):
        run.stage("a", 5, lambda: {"n": 0}, lambda state, i: ({"n": object()} if i == 2 else count(state, i)[0], {}))
    with Run(tmp_path, "toy", "hash") as run:
        assert run._stages["a"] == {"steps": 5, "done": 2, "state": {"n": 2}}


def test_the_error_of_a_step_is_the_one_that_is_seen_where_saving_fails_too(tmp_path, monkeypatch):
    def full(*_):
        raise UserError("cannot write checkpoint.npz: no space left;\nmend that")

    monkeypatch.setattr(run_module, "SAVE_SECONDS", 1e9)
    monkeypatch.setattr(run_module.checkpoint, "save", full)
    with Run(tmp_path, "toy", "hash") as run, pytest.raises(ValueError, match="the world has ended") as raised:
        run.stage("a", 5, lambda: {"n": 0}, failing_count(3, ValueError("the world has ended")))
    (note,) = raised.value.__notes__
    assert note == "nor could the steps before it be saved: cannot write checkpoint.npz: no space left; mend that"


def test_a_state_that_a_failed_step_may_have_changed_is_not_saved(tmp_path, monkeypatch):
    """With steps in place the last checkpoint is what is left, and from there the result is the same."""

    def step(state, i, dies=True):
        state["w"] += 1.0
        if dies and i == 3:
            raise ValueError("half done")
        return state, {}

    begin = lambda: {"w": np.zeros(2)}
    clock = iter([0.0, 0.0, 0.0, 20.0, *[20.0] * 99])  # the first save after step 1
    monkeypatch.setattr(run_module.time, "monotonic", lambda: next(clock))
    with Run(tmp_path, "toy", "hash") as run, pytest.raises(ValueError, match="half done"):
        run.stage("a", 5, begin, step, in_place=True)
    with Run(tmp_path, "toy", "hash") as run:
        assert 0 < run._stages["a"]["done"] < 3
        np.testing.assert_array_equal(
            run.stage("a", 5, begin, lambda s, i: step(s, i, False), in_place=True)["w"], [5, 5]
        )


def test_the_first_state_does_not_end_a_stage(tmp_path):
    with Run(tmp_path, "toy", "hash") as run:
        assert run.stage("a", 9, lambda: {"n": 5}, count, until=lambda state: state["n"] >= 3) == {"n": 6}


def test_two_processes_cannot_work_in_one_folder(tmp_path):
    with Run(tmp_path, "toy", "hash"), pytest.raises(UserError, match="another process"):
        Run(tmp_path, "toy", "hash")
    Run(tmp_path, "toy", "hash").__exit__()


def test_two_processes_cannot_draw_in_one_folder(tmp_path):
    folder = execute(EXPERIMENT, CONFIG, tmp_path)
    with open_locked(folder / "metrics.jsonl"), pytest.raises(UserError, match="another process"):
        execute(EXPERIMENT, CONFIG, tmp_path, folder)


def test_a_checkpoint_of_another_form_is_refused(tmp_path):
    for found in ({"metrics_bytes": "a", "stages": {}}, {"metrics_bytes": 0}, 3):
        checkpoint.save(tmp_path / "checkpoint.npz", found, {"experiment": "toy", "configuration": "hash"})
        with pytest.raises(UserError, match="is not as tinymeta writes it"):
            Run(tmp_path, "toy", "hash")


def test_a_result_that_cannot_be_drawn_is_one_sentence(tmp_path):
    folder = execute(EXPERIMENT, CONFIG, tmp_path)
    record = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(record | {"series": {}}))
    with pytest.raises(UserError, match=r"result\.json cannot be drawn \(KeyError: 'w'\); was it edited\? delete it"):
        execute(EXPERIMENT, CONFIG, tmp_path, folder)


def test_a_diverged_run_keeps_its_nan(tmp_path):
    with Run(tmp_path, "toy", "hash") as run:
        run.stage("a", 1, lambda: {"x": np.inf}, lambda state, i: (state, {"loss": np.float32("nan")}))
    assert np.isnan(lines(tmp_path)[0]["loss"])


def test_resume_takes_the_same_configuration_only(tmp_path):
    folder = execute(EXPERIMENT, CONFIG, tmp_path)
    with pytest.raises(UserError, match="was run with another configuration"):
        execute(EXPERIMENT, replace(CONFIG, seed=1), tmp_path, folder)
    with pytest.raises(UserError, match="is no run folder"):
        execute(EXPERIMENT, CONFIG, tmp_path, tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a run of toy, expected other"):
        execute(replace(EXPERIMENT, name="other"), CONFIG, tmp_path, folder)


def test_a_finished_run_is_drawn_again_from_its_result(tmp_path, uninterrupted):
    folder = execute(EXPERIMENT, CONFIG, tmp_path)
    shutil.rmtree(folder / "figures")
    (folder / "checkpoint.npz").write_bytes(b"no longer needed")
    execute(EXPERIMENT, CONFIG, tmp_path, folder)
    assert (folder / "figures" / "weights.svg").read_bytes() == uninterrupted["figures/weights.svg"]


def test_resuming_on_other_versions_is_said_and_recorded(tmp_path, capsys, monkeypatch):
    folder = interrupted(tmp_path)
    interrupted(tmp_path, folder)
    assert "numpy" not in capsys.readouterr().err
    monkeypatch.setattr("tinymeta.lab.records.versions", lambda: {"numpy": "99"})
    for _ in range(2):  # said once: the second time nothing has changed again
        interrupted(tmp_path, folder)
    assert capsys.readouterr().err.count("numpy") == 1
    assert json.loads((folder / "config.json").read_text())["resumed_on"] == [{"numpy": "99"}]


def interrupted(root, folder=None):
    """The folder of a run that a kill ended, resumed or not, after two more steps."""
    with toy.failing_at(2, Killed()), pytest.raises(Killed):
        execute(EXPERIMENT, CONFIG, root, folder)
    return next((root / "toy").iterdir())


@pytest.mark.parametrize("state", ["finished", "damaged"])
def test_where_nothing_is_computed_the_record_is_left_as_it_was(tmp_path, capsys, monkeypatch, state):
    folder = execute(EXPERIMENT, CONFIG, tmp_path)
    if state == "damaged":
        (folder / "result.json").unlink()
        (folder / "checkpoint.npz").write_bytes(b"damaged")
    record = (folder / "config.json").read_bytes()
    monkeypatch.setattr("tinymeta.lab.records.versions", lambda: {"numpy": "99"})
    with contextlib.nullcontext() if state == "finished" else pytest.raises(UserError, match="is damaged"):
        execute(EXPERIMENT, CONFIG, tmp_path, folder)
    assert (folder / "config.json").read_bytes() == record
    assert "resumed on something else" not in capsys.readouterr().err


def test_a_configuration_that_was_changed_after_the_run_is_not_shown_as_if_it_had_been_run(tmp_path):
    folder = execute(EXPERIMENT, CONFIG, tmp_path)
    path = folder / "config.json"
    record = json.loads(path.read_text())
    changed = {**record, "config": {**record["config"], "steps": 17}}
    path.write_text(json.dumps(changed))
    sentence = rf"has another configuration than the run was begun with, whose hash is {record['config_hash']}"
    for read in (
        lambda: execute(EXPERIMENT, replace(CONFIG, steps=17), tmp_path, folder),
        lambda: write_report(tmp_path),
    ):
        with pytest.raises(UserError, match=sentence):
            read()
    execute(EXPERIMENT, CONFIG, tmp_path)
    write_report(tmp_path)  # of the newest run alone


@pytest.mark.parametrize(
    ("key", "value"),
    [("config", None), ("config", []), ("versions", None), ("resumed_on", "x"), ("resumed_on", ["x"]), ("started", 5)],
)
def test_a_record_of_other_types_is_refused_by_its_key(tmp_path, key, value):
    folder = execute(EXPERIMENT, CONFIG, tmp_path)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    for read in (lambda: execute(EXPERIMENT, CONFIG, tmp_path, folder), lambda: write_report(tmp_path)):
        with pytest.raises(
            UserError, match=rf"config\.json is damaged or .*: its '{key}' is not as tinymeta writes it"
        ):
            read()
