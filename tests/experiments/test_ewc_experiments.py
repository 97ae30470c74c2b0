"""The EWC experiments end to end on tiny settings: they report what they claim, resume exactly and refuse bad settings."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from tinymeta import experiments
from tinymeta.experiments import ewc_domain_10, ewc_permuted_10
from tinymeta.experiments.ewc_report import Found
from tinymeta.lab import Run, UserError, configure, execute, run
from tinymeta.lab.experiment import config_hash

COMMON = {"validation": "9800", "repeats": "2"}
TINY = {
    "ewc-domain-10": COMMON | {
        "tasks": "3", "hidden": "10", "iterations": "8", "batch_size": "20", "fisher_samples": "40", "tuning_tasks": "2",
        "tuning_iterations": "4", "ewc_lams": "1,100", "online_lams": "10", "si_cs": "0.1,1",
    },
    "ewc-fisher-kinds": COMMON | {
        "tasks": "2", "hidden": "10", "epochs": "1", "batch_size": "20", "fisher_samples": "40", "few": "10", "lams": "0.1,1",
        "learning_rate": "0.05",
    },
    "ewc-split": COMMON | {
        "hidden": "10", "iterations": "2", "batch_size": "10", "fisher_samples": "20", "l2_lams": "0.01", "ewc_lams": "1,100",
        "online_lams": "10", "si_cs": "1", "mas_lams": "0.1",
    },
    "ewc-overlap": COMMON | {
        "hidden": "10,9", "epochs": "2", "batch_size": "20", "fisher_samples": "40", "learning_rate": "0.02",
    },
    "ewc-permuted-10": COMMON | {
        "tasks": "2", "combinations": "2", "widths": "8,12", "epochs": "4", "batch_size": "20", "fisher_samples": "40",
        "lams": "0.1,1", "rates": "0.01,0.05",
    },
}  # fmt: skip
FIGURES = {
    "ewc-domain-10": {"accuracy", "matrices", "lambda"},
    "ewc-fisher-kinds": {"heat-map"},
    "ewc-split": {"scenarios", "lambda"},
    "ewc-overlap": {"overlap"},
    "ewc-permuted-10": {"accuracy", "search"},
}


def tiny(name, **changes):
    return configure(experiments.load(name), "quick", TINY[name] | changes)


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of the tiny run of an experiment; each is run once."""

    @cache
    def finished(name):
        return execute(experiments.load(name), tiny(name), tmp_path_factory.mktemp(name))

    return finished


@pytest.mark.parametrize("name", TINY)
def test_a_run_reports_finite_numbers_with_intervals_and_draws(done, name):
    folder = done(name)
    result = result_of(folder)
    assert result["rows"]
    assert all(np.isfinite(row["ours"]) and row["ci95"] is not None for row in result["rows"])
    assert all((isinstance(claim["held"], bool) and "±" in claim["detail"] + claim["sentence"]) or "λ" in claim["detail"]
               for claim in result["claims"])  # fmt: skip
    assert {file.stem for file in (folder / "figures").glob("*.png")} == FIGURES[name]


@pytest.mark.parametrize("name", TINY)
def test_an_interrupted_run_ends_bit_for_bit_like_another(done, name, tmp_path, monkeypatch):
    experiment, config, whole = experiments.load(name), tiny(name), done(name)
    lines = (whole / "metrics.jsonl").read_bytes().count(b"\n")
    for left in (lines // 3, lines // 2):  # killed twice: at other tasks of other stages
        remaining, log = [left], Run._log

        def fail(self, line, remaining=remaining, log=log):
            remaining[0] -= 1
            if remaining[0] == 0:
                raise MemoryError
            log(self, line)

        with monkeypatch.context() as patch:
            patch.setattr(Run, "_log", fail)
            patch.setattr(run, "SAVE_SECONDS", 0.0)
            with pytest.raises(MemoryError), Run(tmp_path, name, config_hash(config)) as cut:
                experiment.train(config, cut)
    with Run(tmp_path, name, config_hash(config)) as last:
        outcome = experiment.train(config, last)
    expected = result_of(whole)
    assert [row.ours for row in outcome.rows] == [row["ours"] for row in expected["rows"]]
    assert [claim.detail for claim in outcome.claims] == [claim["detail"] for claim in expected["claims"]]
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("name", TINY)
def test_every_preset_can_be_configured_and_checkpoints_are_small_at_the_end(done, name):
    experiment = experiments.load(name)
    assert {"quick", "paper"} <= experiment.presets.keys()
    for preset in experiment.presets:
        configure(experiment, preset, {})
    assert (done(name) / "checkpoint.npz").stat().st_size < 3_000_000


# ---- domain ----


def test_the_published_means_are_goals_for_ten_tasks_only(done):
    assert all(row["published"] is None for row in result_of(done("ewc-domain-10"))["rows"])
    found = [Found(np.full((11, 10), 95.0), np.full(10, 95.0), 0.0)]
    trials = {learner: found for method in ewc_domain_10.METHODS for learner in [tiny("ewc-domain-10").grid(method)[0]]}
    outcome = ewc_domain_10._report(trials, {})
    assert [row.published for row in outcome.rows if row.published] == [94.31, 94.42, 95.33, 78.51, 97.59]
    assert [claim.held for claim in outcome.claims] == [True, True, False, False]


def test_strengths_are_tuned_on_validation_images_of_other_permutations(done):
    series = result_of(done("ewc-domain-10"))["series"]
    tried = {
        method: [p for p in series["tuning"] if p["method"] == method] for method in ("EWC", "SI", "online EWC", "none")
    }
    assert [len(points) for points in tried.values()] == [
        2,
        2,
        0,
        0,
    ]  # where there is nothing to choose nothing is tried
    for method in ("EWC", "SI"):
        best = max(tried[method], key=lambda point: point["validation"])
        assert series["chosen"][method]["lambda"] == best["lambda"]
    assert np.shape(series["matrices"]["EWC"]) == (3, 3)


def test_what_is_tuned_on_serves_for_nothing_else_and_the_best_on_validation_images_is_run(tmp_path, monkeypatch):
    """Nothing is trained here: the accuracy on validation images is λ, that on test images falls with it."""
    courses = {}

    def learn(run, at, learner):
        courses[at.name] = at
        tasks = len(at.tasks)
        return Found(np.full((tasks + 1, tasks), 90 - learner.lam / 2), np.full(tasks, learner.lam), 0.0)

    monkeypatch.setattr(ewc_domain_10, "learn", learn)
    config = tiny("ewc-domain-10", methods="EWC", ewc_lams="1,30,10", tunings="2", init="uniform")
    with Run(tmp_path, "ewc-domain-10", config_hash(config)) as one:
        outcome = ewc_domain_10.train(config, one)
    assert outcome.series["chosen"]["EWC"]["lambda"] == 30
    assert outcome.rows[0].ours == 75
    assert [(name, len(at.tasks), at.protocol.steps) for name, at in courses.items()] == [
        ("tuning", 2, 4), ("tuning 2", 2, 4), ("repeat 1", 3, 8), ("repeat 2", 3, 8),
    ]  # fmt: skip
    permutations = [tuple(task.permutation) for at in courses.values() for task in at.tasks]
    assert len(set(permutations)) == 10
    assert all(sorted(one) == list(range(32 * 32)) for one in permutations)
    assert len({at.draw("weights").random() for at in courses.values()}) == 4
    assert {(at.protocol.optimizer, at.protocol.init) for at in courses.values()} == {("adam", "uniform")}


def test_a_decay_is_tuned_over_several_sequences(tmp_path):
    changes = {"methods": "EWC,online EWC", "gammas": "0.5,1.5", "online_lams": "10,1e4", "tunings": "2"}
    config = tiny("ewc-domain-10", **changes, unit_trace="true")
    ran = {}

    class Watched(Run):
        def stage(self, name, *arguments, **options):
            ran[name] = super().stage(name, *arguments, **options)
            return ran[name]

    with Watched(tmp_path, "ewc-domain-10", config_hash(config)) as watched:
        outcome = ewc_domain_10.train(config, watched)
    series = outcome.series
    online = [point for point in series["tuning"] if point["method"] == "online EWC"]
    assert len(online) == 4
    for point in online:
        setting = f"lambda {point['lambda']:g}, gamma {point['gamma']:g}, "
        alike = [v["validation"].mean() for name, v in ran.items() if name.startswith("tuning") and setting in name]
        assert len(set(alike)) == len(alike) == 2
        assert point["validation"] == pytest.approx(np.mean(alike))
    best = max(online, key=lambda point: point["validation"])
    assert series["chosen"]["online EWC"] == {key: best[key] for key in ("rate", "lambda", "gamma")}
    figures = ewc_domain_10.draw(outcome)
    assert figures.keys() == {"accuracy", "matrices", "lambda", "gamma"}
    (curve, ring) = figures["gamma"].axes[0].lines
    assert list(curve.get_xdata()) == [0.5, 1.5]
    assert ring.get_xdata() == [best["gamma"]]


@pytest.mark.parametrize(
    "preset",
    ["published-ewc", "published-ewc-seeds", "published-si", "published-si-seeds", "published-bounds", "paper"],
)
def test_the_protocol_is_van_de_vens(preset):
    config = configure(experiments.load("ewc-domain-10"), preset, {})
    assert (config.tasks, config.hidden, config.learning_rate, config.iterations) == (10, (1000, 1000), 1e-4, 5000)
    assert (config.batch_size, config.images, config.fisher) == (128, "mnist", "exact")
    if preset != "paper":
        assert config.ewc_lams == config.online_lams == (100.0,)
        assert (config.gammas, config.si_cs) == ((1.0,), (10.0,))


# ---- the others ----


def test_the_heat_map_has_every_kind_at_every_lambda(done):
    series = result_of(done("ewc-fisher-kinds"))["series"]
    assert series["kinds"] == ["exact", "sampled", "empirical", "batched", "squisher", "exact (10)"]
    assert all(list(row) == ["0.1", "1"] for row in series["accuracy"].values())
    means = [[mean for mean, _ in row.values()] for row in series["accuracy"].values()]
    assert len(np.unique(means)) > 4  # the kinds are different Fishers


def test_split_mnist_is_reported_for_every_method_in_every_scenario(done):
    result = result_of(done("ewc-split"))
    assert len(result["rows"]) == 3 * 7
    assert result["rows"][2]["published"] == 97.7
    accuracy = {s: {m: mean for m, (mean, _) in one.items()} for s, one in result["series"]["accuracy"].items()}
    assert accuracy["class"]["none"] < accuracy["task"]["none"]
    assert [claim["sentence"].split(":")[0] for claim in result["claims"]] == [
        "Task-incremental", "Domain-incremental", "Class-incremental"
    ]  # fmt: skip


def test_the_overlap_is_given_for_every_layer_and_square(done):
    curves = result_of(done("ewc-overlap"))["series"]["curves"]
    assert list(curves) == ["8 x 8", "26 x 26"]
    for curve in curves.values():
        assert len(curve["mean"]) == 3
        assert all(0 < value <= 1 for value in curve["mean"])
    assert curves["8 x 8"]["mean"][0] > curves["26 x 26"]["mean"][0]


def test_random_settings_lie_in_their_ranges_and_are_the_same_for_all_methods(done):
    config = configure(experiments.load("ewc-permuted-10"), "paper", {})
    learners = [learner for learner, _ in config.settings]
    assert len(learners) == 150
    assert all(1e-5 <= learner.learning_rate <= 1e-3 for learner in learners)
    assert all(400 <= width <= 2000 for _, width in config.settings)
    for drawn in zip(learners[::3], learners[1::3], learners[2::3], strict=True):
        assert [one.method for one in drawn] == ["SGD", "SGD+dropout", "EWC"]
        assert len({one.learning_rate for one in drawn}) == 1
        assert [one.dropout for one in drawn] == [False, True, True]
    series = result_of(done("ewc-permuted-10"))["series"]
    assert len(series["search"]) == 6
    best = max((p for p in series["search"] if p["method"] == "EWC"), key=lambda point: point["validation"])
    assert series["chosen"]["EWC"]["lambda"] == best["lambda"]
    assert series["single_task"] in [curve["mean"][0] for curve in series["curves"].values()]


def test_a_task_is_left_after_more_rises_than_the_patience_and_the_best_weights_are_kept():
    state = {"params": np.zeros(1), **ewc_permuted_10._fresh(np.zeros(1))}
    rises = []
    for epoch, error in enumerate([5.0, 4.0, 4.5, 4.5, 4.6, 4.7]):
        state["params"] = np.full(1, float(epoch))
        state = ewc_permuted_10._after_epoch(state, error)
        rises.append(state["rises"])
    assert rises == [0, 0, 1, 0, 1, 2]
    assert (state["epoch"], state["lowest"], state["best"][0]) == (6, 4.0, 1.0)


def test_early_stopping_shortens_a_task(done, tmp_path):
    steps = lambda folder: (folder / "metrics.jsonl").read_bytes().count(b"\n")
    experiment = replace(experiments.load("ewc-permuted-10"), draw=lambda outcome: {})
    config = tiny("ewc-permuted-10", patience="0", rates="0.5,0.9", combinations="1", repeats="1", epochs="12")
    assert steps(execute(experiment, config, tmp_path)) < 2 * 2 * 12


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("ewc-domain-10", "methods", "EWC,EW", "methods = 'EW', expected one of EWC, online EWC, SI, none, offline"),
        ("ewc-domain-10", "init", "xavier", "init = 'xavier', expected one of he, uniform"),
        ("ewc-domain-10", "hidden", "10,0", r"hidden = \(10, 0\), expected 1 or more"),
        ("ewc-fisher-kinds", "kinds", "exakt", "kinds = 'exakt', expected one of exact, sampled"),
        ("ewc-fisher-kinds", "lams", "", r"lams = \(\), expected at least one value, none negative"),
        ("ewc-split", "scenarios", "", r"scenarios = \(\), expected one of task, domain, class"),
        ("ewc-split", "batch_size", "0", "batch_size = 0, expected 1 or more"),
        ("ewc-overlap", "squares", "29", "expected squares of at most 28"),
        ("ewc-overlap", "lam", "-1", "lam = -1.0, expected 0 or more"),
        ("ewc-split", "gamma", "-1", "gamma = -1.0, expected 0 or more"),
        ("ewc-split", "methods", "EWC,EWC", "methods has 'EWC' twice, expected each once"),
        ("ewc-split", "ewc_lams", "1,10,1", "ewc_lams has 1.0 twice, expected each once"),
        ("ewc-permuted-10", "patience", "-1", "patience = -1, expected 0 or more"),
        ("ewc-permuted-10", "widths", "9,8", r"widths = \(9, 8\), expected two positive numbers, the lower one first"),
    ],
)
def test_wrong_settings_are_named(name, key, value, message):
    with pytest.raises(UserError, match=message):
        configure(experiments.load(name), "paper", {key: value})


@pytest.mark.parametrize("name", ["ewc-domain-10", "ewc-fisher-kinds", "ewc-split", "ewc-overlap"])
def test_a_learning_rate_is_not_negative(name):
    with pytest.raises(UserError, match=r"learning_rate = -1\.0, expected 0 or more"):
        configure(experiments.load(name), "paper", {"learning_rate": "-1"})


@pytest.mark.parametrize("name", [*TINY, "ewc-permuted-3"])
def test_a_number_of_samples_is_not_negative(name):
    with pytest.raises(UserError, match="fisher_samples = -1, expected 0 or more"):
        configure(experiments.load(name), "paper", {"fisher_samples": "-1"})


@pytest.mark.parametrize("name", ["ewc-fisher-kinds", "ewc-split", "ewc-overlap", "ewc-permuted-10"])
def test_batches_larger_than_the_data_are_refused(name, tmp_path):
    with pytest.raises(UserError, match="batch_size = 5000 is more than"):
        execute(experiments.load(name), tiny(name, batch_size="5000"), tmp_path)
