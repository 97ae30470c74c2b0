"""The L2L experiments end to end on tiny settings: they resume exactly, report what they claim, and refuse bad settings."""

from __future__ import annotations

import json
import shutil
from functools import cache

import numpy as np
import pytest
from experiments.l2l_runs import TINY, finished, result_of, tiny, undrawn

from tinymeta import experiments, l2l, optim
from tinymeta.experiments import l2l_quadratic, l2l_trace
from tinymeta.lab import UserError, configure, execute, stream

METHODS = ["LSTM", "SGD", "NAG", "RMSprop", "ADAM"]
TRACES = {"trace-updates", "trace-response", "trace-gates"}


def notes(folder):
    with np.load(folder / "optimizer.npz", allow_pickle=False) as archive:
        return json.loads(str(archive["header"]))["notes"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(folder, result) of the tiny run of an experiment, drawn, and traced where that can be; each is run once."""

    @cache
    def run(name):
        experiment = experiments.load(name)
        folder = execute(experiment, tiny(name), tmp_path_factory.mktemp(name), trace=experiment.trace is not None)
        return folder, result_of(folder)

    return run


# ---- a whole run ----


@pytest.mark.parametrize(
    ("name", "settings", "figures"),
    [
        ("l2l-quadratic", 2, {"loss-curves", "meta-training"}),
        ("l2l-mnist", 5, {"loss-curves", "generalisation", "meta-training"}),
    ],
)
def test_a_run_reports_all_methods_in_all_settings(done, name, settings, figures):
    folder, result = done(name)
    assert [row["quantity"].split(",")[0] for row in result["rows"][:5]] == METHODS
    assert len(result["rows"]) == 6 * settings
    assert all(np.isfinite(row["ours"]) for row in result["rows"])
    assert [set(setting["grid"]) for setting in result["series"]["settings"]] == [set(l2l.BASELINES)] * settings
    assert len(result["claims"]) == settings
    assert {f.stem for f in (folder / "figures").glob("*.png")} == figures | TRACES


@pytest.mark.parametrize("name", TINY)
def test_the_optimizer_is_saved_with_what_made_it(done, name):
    folder, result = done(name)
    saved = notes(folder)
    assert (saved["experiment"], saved["seed"], saved["preset"]) == (name, 0, "custom")
    assert saved["config"] == json.loads((folder / "config.json").read_text())["config"]
    assert saved["result"] == {row["quantity"]: row["ours"] for row in result["rows"]}
    assert "numpy" in saved["versions"]
    assert l2l.LSTMOptimizer.load(folder / "optimizer.npz").scale == (1.0 if name == "l2l-quadratic" else 0.1)


def test_the_sweep_compares_on_every_architecture(done, tmp_path):
    folder, result = done("l2l-mnist-sweep")
    wanted = [f"{n} layer{'s' if n > 1 else ''} of {units}" for n in (1, 2) for units in (2, 3)]
    assert [cell["name"] for cell in result["series"]["cells"]] == wanted
    assert [row["quantity"].split(",")[1].strip() for row in result["rows"]] == [x for x in wanted for _ in range(2)]
    assert {f.stem for f in (folder / "figures").glob("*.png")} == {"sweep", "sweep-ratio"}


def test_the_sweep_takes_an_optimizer_that_was_trained_before(done, tmp_path):
    folder, result = done("l2l-mnist-sweep")
    again, other = finished("l2l-mnist-sweep", tmp_path, optimizer=str(folder / "optimizer.npz"))
    assert other["rows"] == result["rows"]
    assert not (again / "optimizer.npz").exists()


def test_the_sweep_refuses_an_optimizer_that_is_none(tmp_path):
    for wanted in (str(tmp_path / "none.npz"), "no-such-name"):
        with pytest.raises(UserError, match="which cannot be used"):
            finished("l2l-mnist-sweep", tmp_path, optimizer=wanted)


# ---- interrupted and resumed ----


@pytest.mark.parametrize(
    ("owner", "function", "calls"),
    [(l2l, "meta_step", 5), (l2l, "final_loss", 20), (l2l, "optimize", 3)],
    ids=["meta-training", "tuning", "test"],
)
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, monkeypatch, owner, function, calls):
    changes = {
        "curriculum": "2,4",
        "spread": "1.0",
        "late_start": "3",
        "late_share": "0.7",
        "coordinates": "5",
        "patience": "3",
        "validate_every": "1",
    }
    _, whole = finished("l2l-quadratic", tmp_path / "whole", **changes)
    original, count = getattr(owner, function), []

    def interrupted(*args, **options):
        count.append(1)
        if len(count) == calls:
            raise KeyboardInterrupt
        return original(*args, **options)

    experiment, config = undrawn("l2l-quadratic"), tiny("l2l-quadratic", **changes)
    monkeypatch.setattr(owner, function, interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(experiment, config, root=tmp_path / "cut")
    monkeypatch.undo()
    (folder,) = (tmp_path / "cut" / "l2l-quadratic").iterdir()
    execute(experiment, config, root=tmp_path / "cut", resume=folder)
    assert result_of(folder)["series"] == whole["series"]


@pytest.mark.parametrize(
    "change",
    [
        {"second_derivatives": "true"}, {"spread": "1.0"}, {"curriculum": "2,4"}, {"late_start": "3"}, {"clip_norm": "0.001"},
        {"coordinates": "5"},
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_of_meta_training_changes_it_and_not_the_problems_of_the_comparison(done, tmp_path, change):
    plain, changed = (r["series"] for _, r in (done("l2l-quadratic"), finished("l2l-quadratic", tmp_path, **change)))
    assert changed["history"] != plain["history"]
    for ours, theirs in zip(changed["settings"], plain["settings"], strict=True):
        assert ours["grid"] == theirs["grid"]
        assert ours["curves"].pop("LSTM") != theirs["curves"]["LSTM"]
        assert ours["curves"] == {name: theirs["curves"][name] for name in ours["curves"]}


def test_each_baseline_gets_the_rate_with_the_best_final_loss_in_its_own_setting(done):
    _, result = done("l2l-quadratic")
    settings = l2l_quadratic.settings(tiny("l2l-quadratic"))
    for setting, found in zip(settings, result["series"]["settings"], strict=True):
        problem = setting.make_problem(stream(0, "validation"), 4, "validation")
        for name, make in l2l.BASELINES.items():
            losses = {lr: l2l.final_loss(make(lr), problem, setting.steps) for lr in l2l.RATES}
            assert found["grid"][name] == {str(lr): loss for lr, loss in losses.items()}
            assert found["rates"][name] == min(losses, key=losses.get)


# ---- the trace ----


@pytest.mark.parametrize("name", ["l2l-quadratic", "l2l-mnist"])
def test_a_trace_holds_what_it_says(done, name):
    with np.load(done(name)[0] / "trace.npz", allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    k = len(arrays["coordinates"])
    assert {arrays[f"updates_{m}"].shape for m in ("LSTM", "ADAM", "SGD")} == {(4, k)}
    assert arrays["layer1_f"].shape == (4, k, 3)
    assert arrays["proposals_LSTM"].shape == (len(arrays["moments"]), k, l2l_trace.GRID)


def test_a_traced_run_keeps_its_trace_without_being_asked_again(done):
    folder, _ = done("l2l-quadratic")
    before = (folder / "trace.npz").read_bytes()
    shutil.rmtree(folder / "figures")
    execute(undrawn("l2l-quadratic"), tiny("l2l-quadratic"), resume=folder)
    assert (folder / "trace.npz").read_bytes() == before
    assert set(json.loads((folder / "figures" / "captions.json").read_text())) == TRACES


def test_the_trace_is_of_the_optimizer_on_its_own_trajectory():
    rng = np.random.default_rng(0)
    optimizer = l2l.LSTMOptimizer.create(rng, (3,), 1.0, None)
    w, y, theta = (rng.normal(size=shape).astype(np.float32) for shape in ((1, 5, 5), (1, 5), (1, 5)))
    problem = l2l.quadratic_problem(w, y, theta)
    arrays = l2l_trace.record_trace(optimizer, {"SGD": optim.sgd(0.1)}, problem, 10)
    state = optimizer.init(theta)
    for t in range(10):
        gradient = 2 * np.einsum("bij,bi->bj", w, np.einsum("bij,bj->bi", w, theta) - y)
        np.testing.assert_allclose(arrays["gradients"][t], gradient[0, arrays["coordinates"]], rtol=2e-4, atol=1e-5)
        update, state = optimizer.update(gradient, state, theta)
        np.testing.assert_allclose(arrays["updates_LSTM"][t], update[0, arrays["coordinates"]], rtol=2e-3, atol=1e-6)
        theta = theta + update
    np.testing.assert_allclose(arrays["updates_SGD"], -0.1 * arrays["gradients"], rtol=1e-6)
    np.testing.assert_allclose(arrays["proposals_SGD"], np.stack([-0.1 * arrays["values"]] * 4), rtol=1e-6)


def test_coordinates_are_chosen_by_the_size_of_their_gradients():
    gradients = np.outer([1.0, -1.0], np.arange(101))[:, ::-1]
    np.testing.assert_array_equal(l2l_trace.choose(gradients), [0, 1, 10, 50])
    np.testing.assert_array_equal(l2l_trace.choose(gradients[:, :1]), [0])


# ---- settings ----


def test_rates_that_all_diverge_end_a_run_in_a_sentence_that_says_what_is_left_to_do(tmp_path):
    sentence = (
        r"SGD, 4 steps: no learning rate among \[1000000000\.0\] gives a finite loss; add smaller ones by --set rates=\.\.\., in a "
        "new run: this one keeps its rates and cannot be finished"
    )
    with pytest.raises(UserError, match=sentence):
        finished("l2l-quadratic", tmp_path, rates="1e9")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "cannot read .*optimizer.npz: No such file"), (b"hi", "is not a saved LSTMOptimizer, or it is damaged")],
)
def test_a_trace_without_the_optimizer_is_refused_in_one_sentence(done, tmp_path, content, sentence):
    folder = shutil.copytree(done("l2l-quadratic")[0], tmp_path / "run")
    (folder / "trace.npz").unlink()
    (folder / "optimizer.npz").unlink()
    if content is not None:
        (folder / "optimizer.npz").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        execute(undrawn("l2l-quadratic"), tiny("l2l-quadratic"), tmp_path, folder, trace=True)


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("l2l-quadratic", "kind", "cauchy", "kind is 'cauchy', expected 'gaussian' or 'uniform'"),
        ("l2l-quadratic", "unroll_length", "0", "unroll_length = 0, expected 1 or more"),
        ("l2l-quadratic", "unroll_length", "30", "expected a divisor of steps, 100"),
        ("l2l-quadratic", "curriculum", "40,50", "expected a divisor of steps, 50"),
        ("l2l-quadratic", "meta_epochs", "0", "meta_epochs = 0"),
        ("l2l-quadratic", "patience", "-1", "patience = -1, expected 0 or more"),
        ("l2l-quadratic", "spread", "-0.5", "spread = -0.5, expected 0 or more"),
        ("l2l-quadratic", "late_start", "-1", "late_start = -1, expected 0 or more"),
        ("l2l-quadratic", "late_share", "1.5", "late_share is 1.5, expected 0 to 1"),
        ("l2l-quadratic", "start", "mnist-mpl", "did you mean 'mnist-mlp'"),
        (
            "l2l-mnist",
            "start",
            "quadratic",
            r"start is 'quadratic', whose .* are .*, expected \(\(20, 20\), 0.1, 10.0\)",
        ),
        ("l2l-quadratic", "clip_norm", "0", "clip_norm is 0.0, expected more than 0"),
        ("l2l-quadratic", "final_steps", "0", "final_steps = 0, expected 1 or more"),
        (
            "l2l-quadratic",
            "final_steps",
            "102",
            "final_steps = 102, expected at most 101, the losses after 0 to 100 steps",
        ),
        ("l2l-mnist", "horizons", "200,3", "final_steps = 5, expected at most 4, the losses after 0 to 3 steps"),
        ("l2l-quadratic", "hidden_units", "-1", r"hidden_units = \(-1,\), expected 1 or more"),
        ("l2l-quadratic", "hidden_units", "20,0", r"hidden_units = \(20, 0\), expected 1 or more"),
        ("l2l-quadratic", "sigma", "-1", r"sigma = -1\.0, expected 0 or more"),
        ("l2l-quadratic", "meta_lr", "-1", r"meta_lr = -1\.0, expected 0 or more"),
        ("l2l-quadratic", "rates", "0.1,0", "expected at least one learning rate, all above 0"),
        ("l2l-quadratic", "p", "-1", "p is -1.0, expected 0"),
        ("l2l-quadratic", "test_problems", "1", "expected 2 or more"),
        ("l2l-mnist", "images", "none", "images is 'none'"),
        ("l2l-mnist", "pool", "3", "expected a divisor of 28"),
        ("l2l-mnist", "batch_size", "0", "expected 1 or more"),
        ("l2l-mnist", "horizons", "", "expected at least one number of steps"),
        ("l2l-mnist", "variants", "tanh", "variants has 'tanh', expected some of 40 units, two layers, ReLU"),
        ("l2l-mnist-sweep", "layers", "0,1", "layers is"),
        ("l2l-mnist-sweep", "units", "", "units is"),
    ],
)
def test_bad_settings_are_refused_by_name(name, key, value, message):
    with pytest.raises(UserError, match=message):
        configure(experiments.load(name), "quick", {key: value})


def test_presets_code_are_the_authors_code():
    quadratic, mnist = (configure(experiments.load(name), "code", {}) for name in ("l2l-quadratic", "l2l-mnist"))
    for config, problems in ((quadratic, 128), (mnist, 1)):
        assert (config.meta_lr, config.meta_epochs, config.meta_batch) == (0.001, 10_000, problems)
        assert (config.steps, config.unroll_length, config.hidden_units, config.sigma) == (100, 20, (20, 20), 0.01)
        assert (config.validate_every, config.validation_problems, config.decisive) == (1000, 20 * problems, 100)
    assert (quadratic.kind, quadratic.scale, quadratic.p) == ("uniform", 1.0, 0.0)
    assert (mnist.scale, mnist.p, mnist.batch_size, mnist.hidden) == (0.01, 5.0, 128, (20,))


def test_the_presets_name_settings_that_exist():
    for name in experiments.REGISTRY:
        experiment = experiments.load(name)
        for preset in experiment.presets:
            assert configure(experiment, preset, {}).seed == 0
        assert set(experiment.minutes) == set(experiment.presets)


@pytest.mark.parametrize(
    ("name", "changes", "what"),
    [
        ("l2l-mnist", {"horizons": "2,2"}, "horizons has 2 twice"),
        ("l2l-mnist", {"variants": "ReLU,ReLU"}, "variants has 'ReLU' twice"),
        ("l2l-mnist-sweep", {"units": "3,3"}, "units has 3 twice"),
        ("l2l-art", {"validation_problems": "1001"}, "validation_problems = 1001, expected at most 1,000"),
    ],
)
def test_what_would_end_a_run_after_its_training_is_refused_before(name, changes, what):
    with pytest.raises(UserError, match=what):
        configure(experiments.load(name), "quick", changes)
