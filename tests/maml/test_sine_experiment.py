import json
import re
from dataclasses import replace

import numpy as np
import pytest
from maml.sine_runs import REGRESSORS, SMALL, TINY, run

import tinymeta as tm
from tinymeta import lab, maml, nets
from tinymeta.data.sine import SineTasks
from tinymeta.experiments import maml_sine, maml_sine_report, maml_sine_trace
from tinymeta.experiments.maml_methods import METHODS
from tinymeta.experiments.maml_sine_regressors import Averaged
from tinymeta.experiments.maml_sine_tasks import Held, mse, on_grid


def test_maml_learns_to_learn(tmp_path):
    config = lab.configure(maml_sine.EXPERIMENT, "paper", SMALL)
    folder = lab.execute(maml_sine.EXPERIMENT, config, tmp_path)
    result = json.loads((folder / "result.json").read_text())
    assert [claim["held"] for claim in result["claims"][:2]] == [True, True]
    published = {row["quantity"]: row["published"] for row in result["rows"] if row["published"] is not None}
    assert published["MAML, 5 points, after 1 step"] == 0.67
    assert all("5 points" in quantity for quantity in published)
    rows = {row["quantity"]: row["ours"] for row in result["rows"]}
    oracle = rows.pop("oracle: amplitude and phase are inputs")
    assert oracle < 0.5 * rows["pretrained, 10 points, after 5 steps"]
    assert rows["MAML, 10 points, after 1 step"] < 0.5 * rows["MAML, before adaptation"]
    assert {path.name for path in (folder / "figures").glob("*.png")} == {"fits.png", "steps.png"}


def test_same_seed_same_result(tmp_path):
    first, again = (run(tmp_path / name, TINY) for name in "ab")
    assert first == again
    other = run(tmp_path / "c", TINY | {"seed": "1"})
    assert first["series"] != other["series"]


def test_first_order_goes_by_its_own_name(tmp_path):
    result = run(tmp_path, TINY | {"order": "1"})
    assert set(result["series"]["curves"]) == {"first-order MAML", "pretrained"}
    assert not any(row["published"] for row in result["rows"] if row["quantity"].startswith("first-order"))
    assert not any("published ones" in claim["sentence"] for claim in result["claims"])


def errors_of(*after):
    """The errors of 200 waves, of a mean near these before and after each of 10 steps."""
    spread = np.random.default_rng(0).normal(size=(200, 1)) * 0.1
    return {5: np.repeat([after], 200, axis=0) + spread - spread.mean()}


@pytest.mark.parametrize(
    ("first", "multi", "held"), [(0.66, 4.19, [True, True]), (0.68, 4.19, [False, True]), (0.6, 4.0, [True, False])]
)
def test_the_goal_of_table_2_is_a_claim(first, multi, held):
    later = [0.5, 0.4, 0.4]
    maml = errors_of(3, first, *later, 0.37, *later, 0.4, 0.35)
    regressors = errors_of(4.5, multi, 4, 4, 4, 3.85, 4, 4, 4, 4, 3.69)
    found = maml_sine_report.claims(
        {"MAML": maml, "pretrained": errors_of(*[2.4] * 11), "multi-task": regressors}, "MAML"
    )
    assert [claim.held for claim in found[2:]] == held
    assert (
        f"MAML: {first:.2f} ± 0.01 against 0.67, 0.37 ± 0.01 against 0.38, 0.35 ± 0.01 against 0.35" in found[2].detail
    )
    assert f"multi-task: {multi:.2f} ± 0.01 against 4.19" in found[3].detail


@pytest.mark.parametrize(
    ("first", "last", "pretrained", "held"),
    [(0.66, 0.35, 0.7, [True, True]), (0.66, 0.7, 0.67, [False, False]), (0.7, 0.69, 0.6, [False, True])],
)
def test_maml_is_better_where_intervals_are_apart_and_goes_on_where_its_last_error_is_lower(
    first, last, pretrained, held
):
    errors = {"MAML": errors_of(3, first, *[0.1] * 8, last), "pretrained": errors_of(3, *[pretrained] * 10)}
    assert [claim.held for claim in maml_sine_report.claims(errors, "MAML")[:2]] == held


@pytest.mark.parametrize(("others", "held"), [(0.01, True), (0.03, False)])
def test_regressors_that_fit_their_waves_are_a_claim(others, held):
    fitted = {"multi-task": Averaged((), [0.01, 0.02, 0.015], 0.0), "multi-task, l2": Averaged((), [others] * 3, 1e-3)}
    (claim,) = maml_sine_report.regressor_claims(fitted)
    assert (claim.held, claim.detail) == (
        held,
        f"multi-task: 0.015, median 0.015; multi-task, l2: {others:.3f}, median {others:.3f}",
    )
    assert maml_sine_report.regressor_claims({}) == []


def test_divergence_is_counted(tmp_path):
    result = run(tmp_path, TINY | {"step_sizes": "1e6", "test_steps": "5"})
    shares = {row["quantity"].partition(",")[0]: row["ours"] for row in result["rows"] if row["unit"] == "% of tasks"}
    assert shares["MAML"] == 0 < shares["pretrained"] <= 100


def test_tuning_takes_the_best_step_size_on_validation_tasks(tmp_path):
    result = run(tmp_path, TINY | {"step_sizes": "1e6,0.01,0.001"})
    tuned = result["series"]["tuning"]["pretrained"]["5"]
    assert tuned["chosen"] == tuned["step_sizes"][int(np.nanargmin(tuned["validation_mse"]))] != 1e6


def test_step_sizes_are_judged_for_each_number_of_points_by_the_last_error_on_validation_waves():
    config = lab.configure(maml_sine.EXPERIMENT, "paper", SMALL | {"step_sizes": "0.001,0.03", "hidden": "5"})
    params = nets.init_mlp(np.random.default_rng(0), (1, 5, 1))
    held, tuned = Held.draw(config, "validation", config.validation_tasks), maml_sine._tuned(config, params)
    for k in (5, 10):
        last = [np.mean(held.errors(maml.maml(lr, 1), params, k, config.test_steps)[:, -1]) for lr in config.step_sizes]
        np.testing.assert_allclose(tuned[k]["validation_mse"], last, rtol=1e-6)


def test_test_waves_are_drawn_for_the_comparison_alone(tmp_path, monkeypatch):
    usual, drawn = Held.draw, []
    watched = lambda cls, config, name, count: drawn.append((name, count)) or usual(config, name, count)
    monkeypatch.setattr(Held, "draw", classmethod(watched))
    run(tmp_path, TINY)
    assert drawn == [("validation", 20), ("validation", 20), ("test", 4)]  # for MAML, for the step sizes, for all


def test_every_iteration_has_fresh_waves_and_query_points_that_are_not_its_support_points(tmp_path, monkeypatch):
    seen = []
    watched = lambda gradient, adam, state, *sets, **more: (seen.append((*sets, more)) or state, 0.0)
    monkeypatch.setattr(maml_sine, "meta_step", watched)
    sizes = {"iterations": "40", "meta_batch": "2", "points": "3", "query_points": "4", "validate_every": "0"}
    config = lab.configure(maml_sine.EXPERIMENT, "paper", TINY | sizes)
    with lab.Run(tmp_path, "maml-sine", "") as run:
        maml_sine._learn(config, run, "maml++", METHODS["maml++"].build(config, None), 0.1)
    assert {(support[0].shape, query[0].shape) for support, query, _ in seen} == {((2, 3, 1), (2, 4, 1))}
    x = np.concatenate([points[0].ravel() for support, query, _ in seen for points in (support, query)])
    assert len(np.unique(x)) == len(x) == 40 * 2 * 7
    weights = [more.get("weights") for *_, more in seen]  # annealed in the first tenth
    assert [w is None for w in weights] == [False] * 4 + [True] * 36
    np.testing.assert_allclose(weights[2], maml.step_weights(config.variant_steps, 0.5))


def test_maml_and_the_baselines_have_outer_rates_of_their_own(tmp_path):
    """With a rate of 0 a net stays at the weights that all begin from."""
    rows = []
    for still in ("meta_lr", "baseline_lr"):
        result = run(tmp_path / still, TINY | {still: "0"})
        ours = {row["quantity"]: row["ours"] for row in result["rows"]}
        rows.append([ours[f"{name}, before adaptation"] for name in ("MAML", "pretrained")])
    (start, trained), (moved, again) = rows
    assert start == again
    assert start not in (trained, moved)


def test_the_grid_covers_the_whole_range_of_every_wave():
    x, y = on_grid(SineTasks(np.array([2.0, 0.5]), np.array([0.0, 1.0])), 3)
    np.testing.assert_array_equal(x[:, :, 0], [[-5, 0, 5]] * 2)
    np.testing.assert_allclose(y[:, :, 0], [2 * np.sin([-5, 0, 5]), 0.5 * np.sin([-6, -1, 4])], rtol=1e-6)


def test_the_parameters_of_the_lowest_validation_error_are_kept(tmp_path):
    state = {"meta": None, "best": None, "best_after": 0, "error": np.inf}
    kept = []
    for done, error in enumerate([np.inf, np.nan, 3.0, np.inf, 2.0, np.nan, 2.5], 1):
        state = maml_sine._validated({**state, "meta": done}, done, error)
        kept.append((state["best"], state["best_after"]))
    assert kept == [(n, n) for n in (1, 2, 3, 3, 5, 5, 5)]  # the latest ones until there is a number

    config = lab.configure(maml_sine.EXPERIMENT, "paper", SMALL | {"iterations": "30", "validate_every": "10"})
    held, method = Held.draw(config, "validation", config.validation_tasks), METHODS["maml"].build(config, None)
    with lab.Run(tmp_path, "maml-sine", "") as run:
        best = maml_sine._variant(config, run, "maml")
    (tmp_path / "last").mkdir()
    with lab.Run(tmp_path / "last", "maml-sine", "") as run:
        ends = [
            maml_sine._learn(replace(config, iterations=n), run, f"to {n}", method, config.meta_lr)["meta"]
            for n in (10, 20, 30)
        ]
    errors = [np.mean(held.errors(method, meta, 5, config.test_steps)[:, 1:]) for meta in ends]
    assert best.best_after == 10 * (1 + int(np.argmin(errors)))
    tm.trees.map(np.testing.assert_array_equal, best.meta, ends[int(np.argmin(errors))])


def test_oracle_sees_amplitude_and_phase():
    x = np.zeros((2, 3, 1), np.float32)
    seen = maml_sine._with_task(x, SineTasks(np.array([1.0, 2.0]), np.array([0.5, 0.25])))
    assert seen.dtype == np.float32
    np.testing.assert_array_equal(seen[:, 0], [[0, 1, 0.5], [0, 2, 0.25]])


def test_nets_meet_the_same_test_tasks_and_training_does_not():
    config = maml_sine.Config(test_tasks=5)
    first, again = (Held.draw(config, "test", 5) for _ in range(2))
    np.testing.assert_array_equal(first.tasks, again.tasks)
    assert not np.isin(first.tasks, Held.draw(config, "validation", 5).tasks).any()


@pytest.mark.parametrize("preset", maml_sine.EXPERIMENT.presets)
def test_presets(preset):
    config = lab.configure(maml_sine.EXPERIMENT, preset, {})
    assert config.test_points == (5, 10, 20)
    assert preset in maml_sine.EXPERIMENT.minutes


def test_the_paper_and_the_code_have_their_settings():
    paper, code = (lab.configure(maml_sine.EXPERIMENT, preset, {}) for preset in ("paper", "code"))
    for config, lr in ((paper, 0.01), (code, 0.001)):
        assert (config.inner_lr, config.inner_steps, config.order, config.points) == (lr, 1, 2, 10)
        assert (config.hidden, config.sigma, config.meta_batch, config.iterations) == ((40, 40), 0.01, 25, 70_000)
        assert (config.meta_lr, config.baseline_lr, config.test_tasks, config.test_steps) == (1e-3, 1e-3, 600, 10)
    assert (paper.test_query, code.test_query, paper.regressors) == ("grid", "fresh", 500)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("order", "3"),
        ("test_steps", "0"),
        ("points", "-1"),
        ("validate_every", "-1"),
        ("iterations", "-1"),
        ("inner_lr", "-1.0"),
        ("implicit_lr", "-1.0"),
        ("meta_lr", "-1.0"),
        ("baseline_lr", "-1.0"),
        ("regressor_lr", "-1.0"),
        ("sigma", "-1.0"),
        ("tuning_regressors", "0"),
    ],
)
def test_wrong_configuration(key, value):
    with pytest.raises(lab.UserError, match=f"{key} = {value}, expected"):
        lab.configure(maml_sine.EXPERIMENT, "quick", {key: value})


@pytest.mark.parametrize(
    "overrides",
    [
        {"test_points": ""},
        {"test_points": "5,0"},
        {"step_sizes": ""},
        {"step_sizes": "0.1,-1"},
        {"penalties": ""},
        {"penalties": "-1"},
    ],
)
def test_wrong_lists(overrides):
    with pytest.raises(lab.UserError, match=r"= \(.*\), expected"):
        lab.configure(maml_sine.EXPERIMENT, "quick", overrides)


@pytest.mark.parametrize(("variants", "named"), [("maml++", "'maml++x'"), ("maml", "'maml'")])
def test_wrong_variants(variants, named):
    with pytest.raises(lab.UserError, match=re.escape(f"variants has {named}")):
        lab.configure(maml_sine.EXPERIMENT, "quick", {"variants": "anil," + named.strip("'")})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"variants": "reptile,anil,reptile"}, "variants has 'reptile' twice, expected each once"),
        ({"penalties": "0.01,0.01"}, r"penalties has 0\.01 twice, expected each once"),
        ({"variants": "anil,implicit", "strength": "0"}, "strength = 0.0, expected λ > 0"),
    ],
)
def test_variants_that_cannot_be_trained_are_refused_before_any_is(overrides, message):
    with pytest.raises(lab.UserError, match=message):
        lab.configure(maml_sine.EXPERIMENT, "quick", overrides)
    lab.configure(maml_sine.EXPERIMENT, "quick", {"variants": "anil", "strength": "0"})  # which has no λ


def test_every_variant_has_its_rows_and_its_curve(tmp_path):
    every = "first-order,anil,meta-sgd,maml++,reptile,implicit"
    config = lab.configure(maml_sine.EXPERIMENT, "variants", TINY | {"variants": every})
    folder = lab.execute(maml_sine.EXPERIMENT, config, tmp_path, trace=True)
    result = json.loads((folder / "result.json").read_text())
    rows = {row["quantity"]: row["ours"] for row in result["rows"]}
    names = [entry.name for entry in METHODS.values()]
    assert len(names) == len(config.variants) + 1 == 7
    for name in names:
        assert np.isfinite(rows[f"{name}, 5 points, after 1 step"])
        assert np.isfinite(rows[f"{name}, 5 points, after 1 step, median"])
        assert rows[f"{name}, 5 points, error above 100 at the end"] == 0
    shown = json.loads((folder / "figures" / "captions.json").read_text())
    assert list(shown) == ["fits", "steps", "variants", "trace-adaptation"]
    assert shown["trace-adaptation"]["frames"] == ["before adaptation", "after 1 step", "after 2 steps"]


def test_a_variant_that_diverges_takes_no_other_with_it(tmp_path):
    result = run(tmp_path, TINY | {"variants": "implicit,anil", "implicit_lr": "1e30"})
    assert list(result["series"]["curves"]) == ["MAML", "ANIL", "pretrained"]
    (claim,) = [claim for claim in result["claims"] if "implicit MAML" in claim["sentence"]]
    assert not claim["held"]
    assert re.search(r"the \w+ loss of task \d+ .* is (inf|nan)", claim["detail"])


def test_the_trace_is_the_path_of_the_test_tasks(tmp_path):
    config = lab.configure(maml_sine.EXPERIMENT, "paper", TINY)
    folder = lab.execute(maml_sine.EXPERIMENT, config, tmp_path, trace=True)
    with np.load(folder / "trace.npz") as archive:
        arrays = dict(archive)
    steps, tasks, points = config.test_steps + 1, len(maml_sine_trace.AMPLITUDES), config.test_query_points
    for name in ("MAML", "pretrained"):
        outputs = arrays[f"outputs_{name}"]
        assert outputs.shape == (tasks, steps, points)
        np.testing.assert_allclose(
            arrays[f"query_loss_{name}"], np.mean((outputs - arrays["truth"][:, None]) ** 2, axis=-1), rtol=1e-4
        )
    held = Held.draw(config, "test", config.test_tasks)
    at = int(np.argmin(abs(held.tasks.amplitude - maml_sine_trace.AMPLITUDES[0])))
    np.testing.assert_array_equal(arrays["support_x"][0], held.support[0][at, :5, 0])
    (folder / "nets.npz").write_bytes(b"no zip")
    (folder / "trace.npz").unlink()
    with pytest.raises(lab.UserError, match=r"nets\.npz is damaged"):
        lab.execute(maml_sine.EXPERIMENT, config, tmp_path, folder, trace=True)


def test_fresh_query_points_are_as_many_as_the_support_points():
    config = maml_sine.Config(test_query="fresh", test_points=(3, 6), test_tasks=2)
    held = Held.draw(config, "test", 2)
    assert held.query[0].shape == held.support[0].shape == (2, 6, 1)
    assert not np.isin(held.query[0], held.support[0]).any()
    params = nets.init_mlp(np.random.default_rng(0), (1, 3, 1))
    first = tuple(points[:, :3] for points in held.query)
    np.testing.assert_allclose(held.errors(maml.maml(0.1, 1), params, 3, 1)[:, 0], mse(params, first), rtol=1e-6)


@pytest.mark.parametrize("query", ["grid", "fresh"])
def test_waves_are_adapted_to_their_first_points_and_judged_on_their_query_points(query):
    config = maml_sine.Config(test_query=query, test_query_points=7, test_points=(3, 6))
    held, params = Held.draw(config, "test", 4), nets.init_mlp(np.random.default_rng(0), (1, 3, 1))
    first = lambda points: tuple(z[:, :3] for z in points)
    path = maml.adaptation_path(mse, params, first(held.support), 0.1, 2)
    expected = [mse(fast, held.query if query == "grid" else first(held.query)) for fast in path]
    np.testing.assert_allclose(held.errors(maml.maml(0.1, 1), params, 3, 2), np.stack(expected, 1), rtol=1e-5)


@pytest.mark.parametrize(
    ("stage", "at", "compiled"),
    [
        ("maml", 3, False),
        ("maml", 3, True),
        ("oracle", 1, False),
        ("multi-task", 2, True),
        ("multi-task, l2, strength 0.2", 1, True),
        ("multi-task, to the mean", 4, False),
    ],
)
def test_interrupted_and_resumed_it_is_the_same(tmp_path, stage, at, compiled):
    """In training after a validation, between two nets, and between two regressors."""
    overrides = TINY | REGRESSORS | {"iterations": "5", "validate_every": "2", "compiled": str(compiled).lower()}
    whole = run(tmp_path / "whole", overrides)

    class Stopping(lab.Run):
        def stage(self, name, steps, init, step, **options):
            def stopping(state, i):
                if (name, i) == (stage, at):
                    self._save()
                    raise InterruptedError
                return step(state, i)

            return super().stage(name, steps, init, stopping, **options)

    (tmp_path / "part").mkdir()
    with pytest.raises(InterruptedError), Stopping(tmp_path / "part", "maml-sine", "") as stopped:
        maml_sine.EXPERIMENT.train(lab.configure(maml_sine.EXPERIMENT, "paper", overrides), stopped)
    assert run(tmp_path / "part", overrides) == whole
    nets, again = (np.load(tmp_path / folder / "nets.npz") for folder in ("whole", "part"))
    with nets, again:
        assert nets.files == again.files != []
        for name in nets.files:
            np.testing.assert_array_equal(again[name], nets[name])
