"""The L2L experiments end to end on tiny settings: they resume exactly, report what they claim, and refuse bad settings."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tinymeta import experiments, l2l
from tinymeta.lab import UserError, configure, execute

TINY = {
    "l2l-quadratic": {
        "meta_epochs": "4", "meta_batch": "3", "steps": "4", "unroll_length": "2", "validate_every": "2",
        "validation_problems": "4", "test_problems": "3", "hidden_units": "3",
    },
    "l2l-mnist": {
        "meta_epochs": "2", "meta_batch": "1", "steps": "4", "unroll_length": "2", "validate_every": "1",
        "validation_problems": "2", "test_problems": "2", "hidden_units": "3", "pool": "14", "batch_size": "8", "hidden": "2",
    },
}  # fmt: skip


def finished(name, tmp_path):
    experiment = experiments.load(name)
    folder = execute(experiment, configure(experiment, "quick", TINY[name]), root=tmp_path)
    return folder, json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("name", TINY)
def test_a_run_reports_all_methods_and_saves_the_optimizer(name, tmp_path) -> None:
    folder, result = finished(name, tmp_path)
    assert [row["quantity"].split(",")[0] for row in result["rows"][:5]] == ["LSTM", "SGD", "NAG", "RMSprop", "ADAM"]
    assert all(np.isfinite(row["ours"]) for row in result["rows"])
    assert set(result["series"]["grid"]) == set(l2l.BASELINES)
    assert len(result["claims"]) == 1
    assert l2l.LSTMOptimizer.load(folder / "optimizer.npz").scale == (1.0 if name == "l2l-quadratic" else 0.1)
    assert {f.name for f in (folder / "figures").glob("*.png")} == {"loss-curves.png", "meta-training.png"}


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, monkeypatch) -> None:
    from tinymeta.experiments import l2l_training

    _, whole = finished("l2l-quadratic", tmp_path / "whole")
    step, calls = l2l.meta_step, []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return step(*args, **options)

    experiment = experiments.load("l2l-quadratic")
    config = configure(experiment, "quick", TINY["l2l-quadratic"])
    monkeypatch.setattr(l2l_training.l2l, "meta_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(experiment, config, root=tmp_path / "cut")
    monkeypatch.undo()
    (folder,) = (tmp_path / "cut" / "l2l-quadratic").iterdir()
    execute(experiment, config, root=tmp_path / "cut", resume=folder)
    assert json.loads((folder / "result.json").read_text())["series"] == whole["series"]


def test_second_derivatives_are_a_switch_that_changes_the_training(tmp_path) -> None:
    _, dropped = finished("l2l-quadratic", tmp_path / "dropped")
    experiment = experiments.load("l2l-quadratic")
    config = configure(experiment, "quick", {**TINY["l2l-quadratic"], "second_derivatives": "true"})
    kept = json.loads((execute(experiment, config, root=tmp_path / "kept") / "result.json").read_text())
    assert kept["series"]["history"] != dropped["series"]["history"]
    assert kept["series"]["grid"] == dropped["series"]["grid"]


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("l2l-quadratic", "kind", "cauchy", "kind is 'cauchy', expected 'gaussian' or 'uniform'"),
        ("l2l-quadratic", "unroll_length", "0", "unroll_length is 0, expected 1 or more"),
        ("l2l-quadratic", "unroll_length", "30", "expected a divisor of steps, 100"),
        ("l2l-quadratic", "meta_epochs", "0", "meta_epochs is 0"),
        ("l2l-quadratic", "p", "-1", "p is -1.0, expected 0"),
        ("l2l-quadratic", "test_problems", "1", "expected 2 or more"),
        ("l2l-mnist", "images", "none", "images is 'none'"),
        ("l2l-mnist", "pool", "3", "expected a divisor of 28"),
        ("l2l-mnist", "batch_size", "0", "expected 1 or more"),
    ],
)
def test_bad_settings_are_refused_by_name(name, key, value, message) -> None:
    with pytest.raises(UserError, match=message):
        configure(experiments.load(name), "quick", {key: value})


def test_the_quick_presets_name_settings_that_exist() -> None:
    for name in experiments.REGISTRY:
        experiment = experiments.load(name)
        for preset in experiment.presets:
            assert configure(experiment, preset, {}).seed == 0
