"""tools/collect_results.py and tools/readme_tables.py: what of a run reaches bench/results/, and the pages from there."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tinymeta import experiments
from tinymeta.experiments.l2l_comparison import Comparison, Setting, series
from tinymeta.lab import Claim, Outcome, Row, configure, execute
from tools import collect_results, readme_tables, targets

RATES = {"SGD": 0.1, "ADAM": 0.01}
GRID = {"SGD": {0.1: 0.5, 0.03: 0.75, 0.01: 0.8}, "ADAM": {0.1: np.inf, 0.03: 0.6, 0.01: 0.4}}


def setting(name, rates=RATES):
    curves = {method: np.ones((3, 4)) for method in ("LSTM", *rates)}
    return series(Comparison(Setting(name, 2, None), GRID, rates, curves))


SERIES = {  # as the experiments have them
    "l2l-quadratic": {
        "history": {"losses": [0.5, 0.25]},
        "trained_for": 2,
        "settings": [setting(""), setting("other")],
    },
    "l2l-cifar10": {"trained_on": "8 x 8", "settings": {"8 x 8": [setting("")], "32 x 32": [setting("other")]}},
    "l2l-mnist-sweep": {"layers": [1], "cells": [setting("") | {"final": {"SGD": [1.0, 0.1]}}, setting("other")]},
}


def finished(name, found, root):
    """A run folder of the experiment's preset `quick` in which these series were found."""
    outcome = Outcome([Row("loss", 0.5)], [Claim("it falls", True, "0.5")], found)
    experiment = replace(experiments.load(name), train=lambda config, run: outcome, draw=lambda outcome: {})
    return execute(experiment, configure(experiment, "quick", {}), root)


@pytest.mark.parametrize("name", SERIES)
def test_a_collected_result_keeps_how_the_baselines_were_tuned(tmp_path, name):
    folder = finished(name, SERIES[name], tmp_path)
    found, result = collect_results.newest(tmp_path, f"{name}:quick")
    assert found == folder
    assert [tuned["title"] for tuned in result["tuning"]] == ["2 steps", "other, 2 steps"]
    for tuned in json.loads(json.dumps(result["tuning"], allow_nan=False)):
        assert tuned["rates"] == RATES
        assert tuned["grid"]["SGD"] == {"0.1": 0.5, "0.03": 0.75, "0.01": 0.8}
        assert tuned["grid"]["ADAM"] == {"0.1": None, "0.03": 0.6, "0.01": 0.4}
    assert (result["rows"][0]["ours"], result["claims"][0]["sentence"]) == (0.5, "it falls")


def test_a_run_without_baselines_has_no_tuning(tmp_path):
    finished("l2l-quadratic", {"curves": [[1.0, 0.5]]}, tmp_path)
    assert {"tuning", "tried", "by_kind"}.isdisjoint(collect_results.newest(tmp_path, "l2l-quadratic")[1])


def test_a_collected_result_keeps_every_setting_of_ewc_that_was_tried(tmp_path):
    grid = [{"method": "EWC", "rate": 0.1, "lambda": 3.0, "validation": 95.0}]
    finished("ewc-permuted-3", {"curves": {}, "grid": grid}, tmp_path)
    assert collect_results.newest(tmp_path, "ewc-permuted-3")[1]["tried"] == grid


def test_a_named_run_takes_the_place_of_that_of_its_preset_or_joins_its_experiment():
    one, other, far = ({"experiment": e, "preset": p} for e, p in (("a", "quick"), ("a", "paper"), ("b", "quick")))
    new = one | {"rows": []}
    assert collect_results.joined([one, other, far], new) == [new, other, far]
    assert collect_results.joined([one, far], other) == [one, other, far]
    assert collect_results.joined([one], far) == [one, far]


def collected(**changes):
    versions = {"numpy": "2.4", "cores": 2, "cpu": "Toy"}
    experiment = {
        "experiment": "l2l-toy",
        "preset": "quick",
        "config": {"seed": 0},
        "versions": versions,
        "rows": [],
        "claims": [],
    }
    return readme_tables.every_row({"experiments": [experiment | changes]})


@pytest.mark.parametrize(("versions", "words"), [({}, "no Numba"), ({"numba": "0.68"}, "Numba 0.68")])
def test_the_page_says_which_numba_made_the_numbers(versions, words):
    made = collected(versions={"numpy": "2.4", "cores": 2, "cpu": "Toy"} | versions).splitlines()[0]
    assert made == f"Made with preset `quick`, seed 0; 2 cores, Toy; NumPy 2.4, {words}."


def test_the_page_has_the_machine_that_a_run_was_resumed_on():
    made = collected(resumed_on=[{"numpy": "2.5", "cores": 4, "cpu": "Other"}]).splitlines()[0]
    assert "; 2 cores, Toy; 4 cores, Other; NumPy 2.4, no Numba; NumPy 2.5, no Numba." in made


@pytest.mark.parametrize(("columns", "title"), [({}, "× tinymeta"), ({"ratio": "× first step"}, "× first step")])
def test_the_ratio_is_titled_by_what_it_is_to(columns, title):
    rows = [{"name": "first step", "median": 2.0, "ratio": 1.0, "cold": 5.0}]
    table = {"title": "Start", "unit": "ms", "rows": rows, "columns": columns | {"cold": "anew, ms"}}
    page = readme_tables.benchmark(table | {"versions": {}, "machine": "Toy", "rounds": 1, "note": ""})
    assert page.splitlines()[0] == f"| Start | median, ms | {title} | anew, ms |"


@pytest.mark.parametrize("name", sorted(path.stem for path in readme_tables.RESULTS.glob("*.json")))
def test_a_committed_ratio_to_tinymeta_is_of_a_time(name):
    table = readme_tables.committed(name)
    if "unit" in table and "ratio" not in table["columns"]:
        assert table["unit"] != "GF/s"
        assert all(row["name"].find("tinymeta") >= 0 for row in table["rows"] if row["ratio"] == 1)


def test_the_page_has_each_baseline_s_learning_rate_and_marks_the_ends_of_the_grid():
    tuned = collect_results.tuning([setting(""), setting("other", {"SGD": 0.03, "ADAM": 0.03})])
    lines = collected(tuning=tuned).splitlines()
    assert "The baselines' learning rates, the best of 3 from 0.01 to 0.1 on validation problems:" in lines
    start = lines.index("| setting | SGD | ADAM |")
    assert lines[start + 2 : start + 5] == [
        "| 2 steps | 0.1 (highest) | 0.01 (lowest) |", "| other, 2 steps | 0.03 | 0.03 |", "",
    ]  # fmt: skip
    assert "learning rates" not in collected()


def test_the_page_has_a_table_of_fisher_kinds_by_lambda():
    accuracy = {"exact": {"1": [92.0, 0.25], "10": [93.5, 0.5]}, "batched": {"1": [93.0, 0.5], "10": [90.0, 1.0]}}
    series = {
        "kinds": list(accuracy),
        "lams": [1.0, 10.0],
        "accuracy": accuracy,
        "best": {"exact": 10.0, "batched": 1.0},
    }
    kept = collect_results.of_series(series | {"sgd": [89.0, 0.25]})
    lines = collected(**kept).splitlines()
    start = lines.index("| Fisher | λ = 1 | λ = 10 |")
    assert lines[start - 2].endswith("SGD, λ = 0: 89.00 ± 0.25.")
    assert lines[start + 2 : start + 4] == [
        "| exact | 92.00 ± 0.25 | **93.50 ± 0.50** |", "| batched | **93.00 ± 0.50** | 90.00 ± 1.00 |",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "measured", "mark"),
    [
        ({}, 2.0, "✓"),
        ({"bound": 2.5}, 2.0, "✗"),
        ({"aim": 2.0}, 2.0, "✓ aim"),
        ({"at_most": True}, 3.0, "✗"),
        ({"at_most": True, "against": ("mine", "theirs")}, 3.0 / 2.0, "✓"),
    ],
)
def test_a_target_is_judged_by_the_worst_of_its_rows(changes, measured, mark):
    rows = [{"name": "mine", "ratio": 2.0}, {"name": "theirs", "ratio": 3.0}, {"name": "other", "ratio": 1.0}]
    target = targets.Target("a step", 1.8, None, "toy", ("mine", "theirs"))._replace(**changes)
    assert targets.measured(target, lambda file: {"toy": {"rows": rows}}[file]) == measured
    assert targets._mark(target, measured) == mark


def test_a_target_of_maml_names_its_problem():
    problems = {"maml-sine": "sinusoids", "maml-sine-training": "sinusoids", "maml-omniglot": "Omniglot"}
    for target in targets.TARGETS:
        assert problems.get(target.file, "") in target.what


def test_every_target_has_its_rows_among_the_committed_ones():
    lines = targets.targets(readme_tables.committed).splitlines()
    assert len(lines) == 2 + len(targets.TARGETS)
