"""The few-shot experiments: Omniglot's own images, and mini-ImageNet's layout with drawn ones."""

import json
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinymeta import lab, maml, nets, ops, trees
from tinymeta.data import Omniglot
from tinymeta.data.mini_imagenet import MiniImageNet
from tinymeta.experiments import few_shot, few_shot_report, maml_miniimagenet, maml_omniglot
from tinymeta.experiments.maml_methods import gradient_of
from tinymeta.lab import Run, checkpoint
from tinymeta.lab.experiment import config_hash
from tinymeta.lab.files import to_json
from tinymeta.lab.records import saved_config

TINY = {
    "iterations": "4", "validate_every": "2", "validation_tasks": "3", "test_tasks": "22", "test_steps": "2", "filters": "2",
    "meta_batch": "2", "inductive_tasks": "3", "compiled": "false",
}  # fmt: skip


def configure(overrides=(), experiment=maml_omniglot.EXPERIMENT, preset="quick"):
    return lab.configure(experiment, preset, TINY | dict(overrides))


def train(config, folder, experiment=maml_omniglot.EXPERIMENT):
    folder.mkdir(exist_ok=True)
    with Run(folder, experiment.name, "") as run:
        return experiment.train(config, run)


def as_json(outcome):
    return to_json(asdict(outcome))


def test_it_learns_to_tell_characters_apart(tmp_path):
    more = {
        "compiled": "true",
        "iterations": "60",
        "filters": "16",
        "meta_batch": "4",
        "meta_lr": "0.01",
        "test_tasks": "40",
    }
    config = configure(more | {"validate_every": "20", "validation_tasks": "20"})
    folder = lab.execute(maml_omniglot.EXPERIMENT, config, tmp_path)
    rows = {row["quantity"]: row for row in json.loads((folder / "result.json").read_text())["rows"]}
    after = rows["MAML, transductive, after 3 steps"]
    assert rows["MAML, before adaptation"]["ours"] < 30 < 50 < after["ours"]
    assert (after["published"], after["source"]) == (98.7, "1703.03400, Table 1: ± 0.4")
    assert {path.stem for path in (folder / "figures").glob("*.png")} == {"validation", "steps"}


@pytest.mark.parametrize("overrides", [{}, {"net": "dense"}, {"shots": "2", "cross_entropy": "mean"}])
def test_methods_have_their_rows(tmp_path, overrides):
    methods = {"methods": "maml,first-order,anil,meta-sgd,maml++,reptile,implicit", "norm": "adapted", "scaled": "true"}
    outcome = train(configure(methods | {"variant_steps": "2", "iterations": "2"} | overrides), tmp_path)
    names = {row.quantity.partition(",")[0] for row in outcome.rows}
    assert len(names) == 7
    assert all(np.isfinite(row.ours) for row in outcome.rows)
    assert any("Second order is better" in claim.sentence for claim in outcome.claims)


def test_a_method_is_judged_after_the_steps_that_it_was_trained_for(monkeypatch, tmp_path):
    """Or after those of the tests if these are more: selected after them, and reported."""
    seen, path_of = [], few_shot.path_of
    monkeypatch.setattr(few_shot, "path_of", lambda *a: seen.append(a[-1]) or path_of(*a))
    trained = {"variant_steps": "3", "implicit_steps": "5", "inner_steps": "1"}
    config = configure(trained | {"methods": "maml,maml++,implicit", "norm": "adapted", "iterations": "1"})
    outcome = train(config, tmp_path)
    assert seen == [2, 3, 5]
    found = [row.quantity for row in outcome.rows if ", transductive, " in row.quantity]
    after = {"MAML": (1, 2, 3), "MAML++": (1, 2, 3), "implicit MAML": (1, 2, 5)}  # MAML after the published 3 as well
    assert found == [
        f"{name}, transductive, after {n} step{'s' if n > 1 else ''}" for name, steps in after.items() for n in steps
    ]
    assert {len(result["transductive"][0]) for result in outcome.series["test"].values()} == {4, 6}
    assert set(maml_omniglot.EXPERIMENT.draw(outcome)) == {"validation", "steps"}


PUBLISHED = [  # ways, steps of our tests, and steps after which the published accuracy was measured (appendix A.1)
    ("5", "1", 3), ("5", "3", 3), ("5", "10", 3), ("20", "10", 5),
]  # fmt: skip


@pytest.mark.parametrize(("ways", "tested", "published"), PUBLISHED)
def test_a_published_accuracy_stands_beside_its_own_steps(tmp_path, ways, tested, published):
    config = configure({"ways": ways, "test_steps": tested, "iterations": "1", "methods": "maml"})
    outcome = train(config, tmp_path)
    (row,) = [row for row in outcome.rows if row.published is not None]
    assert row.quantity == f"MAML, transductive, after {published} steps"
    (claim,) = outcome.claims
    assert claim.detail.startswith(f"{row.ours:.1f} ± {row.ci95:.1f} against {row.published:g}")


def test_the_split_is_the_one_asked_for():
    for preset, sizes in (("paper", (1200, 1200, 423)), ("code", (1100, 100, 423))):
        config = lab.configure(maml_omniglot.EXPERIMENT, preset, {})
        parts = maml_omniglot.characters(config)
        assert tuple(map(len, parts.values())) == sizes
        assert not set(parts["test"]) & (set(parts["train"]) | set(parts["validation"]))
        assert bool(set(parts["train"]) & set(parts["validation"])) == (preset == "paper")


def test_the_order_of_the_split_is_kept_for_results_depend_on_it():
    config = lab.configure(maml_omniglot.EXPERIMENT, "code", {"seed": "3"})
    order = np.concatenate(list(maml_omniglot.characters(config).values()))
    np.testing.assert_array_equal(order, lab.stream(3, "split").permutation(1623))


@pytest.mark.parametrize("preset", maml_omniglot.EXPERIMENT.presets)
def test_presets_of_omniglot(preset):
    """A preset is what its name says, has a time and a published result; those of the paper run to its end."""
    config, (kind, *rest) = lab.configure(maml_omniglot.EXPERIMENT, preset, {}), preset.split("-")
    assert preset in maml_omniglot.EXPERIMENT.minutes
    assert ("20" in rest, "5" in rest, "dense" in rest) == (config.ways == 20, config.shots == 5, config.net == "dense")
    assert (config.iterations == 60_000) == (kind in ("paper", "code"))
    assert (config.train_characters == 1200) == (kind in ("paper", "third"))
    assert (config.net, config.ways, config.shots) in maml_omniglot.PUBLISHED
    if "first" in rest:
        assert config.methods == ("first-order",)


def test_the_run_that_is_not_finished_is_one_of_its_preset():
    folder = Path(__file__).parents[2] / "bench/unfinished/maml-omniglot-paper-5-shot"
    config = lab.configure(maml_omniglot.EXPERIMENT, "paper-5-shot", {})
    assert saved_config(maml_omniglot.EXPERIMENT, folder) == config
    owner = {"experiment": "maml-omniglot", "configuration": config_hash(config)}
    stage = checkpoint.load(folder / "checkpoint.npz", owner)["stages"]["maml"]
    assert (stage["steps"], stage["done"]) == (60_000, 45_099)


@pytest.mark.parametrize("overrides", [{}, {"compiled": "true", "filters": "16"}], ids=["op by op", "compiled"])
def test_interrupted_and_resumed_it_is_the_same(tmp_path, overrides):
    config = configure(overrides)
    whole = train(config, tmp_path / "whole")

    class Stopping(Run):
        def stage(self, name, steps, init, step, **options):
            def stopping(state, i):
                if i == 3:
                    self._save()
                    raise InterruptedError
                return step(state, i)

            return super().stage(name, steps, init, stopping, **options)

    (tmp_path / "part").mkdir()
    with pytest.raises(InterruptedError), Stopping(tmp_path / "part", "maml-omniglot", "") as run:
        maml_omniglot.EXPERIMENT.train(config, run)
    assert as_json(train(config, tmp_path / "part")) == as_json(whole)


def run_scripted(monkeypatch, tmp_path, accuracies, **overrides):
    """What meta-training keeps if validation finds these accuracies."""
    config = configure({"iterations": "8", "validate_every": "1"} | overrides)
    supply, seen = iter(accuracies), []

    def scripted(config, path, net, meta, draw):
        seen.append(meta)
        return next(supply)

    monkeypatch.setattr(few_shot, "validation_accuracy", scripted)
    net = maml_omniglot.net_of(config)
    draw = partial(maml_omniglot.draw_tasks, config, maml_omniglot.characters(config))
    with Run(tmp_path, "maml-omniglot", "") as run:
        return few_shot.meta_train(config, run, "maml", net, draw), seen


def test_the_best_on_validation_is_kept(monkeypatch, tmp_path):
    trained, seen = run_scripted(monkeypatch, tmp_path, [20, 50, 40, 50, 30, 20, 49, 10])
    trees.map(np.testing.assert_array_equal, trained.meta, seen[1])
    assert trained.iterations == list(range(1, 9))
    assert not np.array_equal(trained.meta[1].w, seen[-1][1].w)


def test_patience_ends_training(monkeypatch, tmp_path):
    trained, seen = run_scripted(monkeypatch, tmp_path, [20, 50, 40, 45, 50, 60, 70, 80], patience="3")
    assert trained.accuracies == [20, 50, 40, 45, 50]
    assert len(seen) == 5


@pytest.mark.parametrize("net", ["conv", "dense"])
def test_shared_norms_stay_and_are_meta_learned(net):
    config = configure({"net": net, "scaled": "true"})
    made = maml_omniglot.net_of(config)
    support, query = maml_omniglot.draw_tasks(
        config, maml_omniglot.characters(config), "train", np.random.default_rng(0), 2, 1
    )
    loss = few_shot.loss_of(config, made)
    for norm, changes in (("shared", False), ("adapted", True)):
        config = configure({"net": net, "scaled": "true", "norm": norm})
        method = few_shot.method_of(config, "maml")
        adapted = method.path(loss, made.params, support, 1)[-1]
        layer = adapted[0][0] if net == "conv" else adapted[0]
        assert (layer.beta.ndim == 2) == changes
        assert layer.w.shape[0] == 2
        _, gradient = method.meta_gradient(loss, made.params, support, query)
        layer = gradient[0][0] if net == "conv" else gradient[0]
        assert np.abs(layer.beta).max() > 0


@pytest.mark.parametrize("key", ["maml", "maml++", "implicit"])
def test_a_compiled_path_is_the_path(key):
    paths = []
    for compiled in ("false", "true"):
        config = configure({"norm": "adapted", "scaled": "true", "inner_lr": "0.05", "compiled": compiled})
        net = maml_omniglot.net_of(config)
        draw = partial(maml_omniglot.draw_tasks, config, maml_omniglot.characters(config))
        support, _ = draw("test", np.random.default_rng(0), 3, 1)
        meta = few_shot.method_of(config, key).init(net.params)
        path = few_shot.path_of(config, key, net, 2)
        paths.append(path(meta, support))
        assert hasattr(path, "source") == (compiled == "true")
    assert len(paths[0]) == 3
    trees.map(partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-5), *paths)


@pytest.mark.parametrize("examples", [3, 4, 15])
def test_cross_entropy_per_shot_is_the_sum_over_examples_by_shots(examples):
    """The authors' loss: more query images a class than shots make the outer loss larger (15 of mini-ImageNet's, 3 shots)."""
    count, losses = 5 * examples, []
    data = np.zeros((1, count, 1, 28, 28), np.float32), np.arange(count)[None] % 5
    logits = np.arange(count * 5, dtype=float).reshape(1, count, 5) % 7
    for scale in ("mean", "per shot"):
        config = configure({"shots": "3", "cross_entropy": scale})
        losses.append(few_shot.loss_of(config, few_shot.Net(None, lambda params, x: logits))(None, data))
    shifted = logits[0] - np.log(np.sum(np.exp(logits[0]), axis=-1, keepdims=True))
    np.testing.assert_allclose(losses[1], [-np.sum(shifted[np.arange(count), data[1][0]]) / 3])
    np.testing.assert_allclose(losses[1], 5 * examples / 3 * losses[0])


@pytest.mark.parametrize("compiled", [False, True], ids=["op by op", "compiled"])
@pytest.mark.parametrize(("ways", "shots"), [("5", "1"), ("5", "5"), ("20", "1"), ("20", "5")])
def test_with_as_many_queries_as_shots_it_is_ways_times_the_mean_to_the_last_bit(ways, shots, compiled):
    config = configure({"ways": ways, "shots": shots, "compiled": str(compiled)})
    net, parts = maml_omniglot.net_of(config), maml_omniglot.characters(config)
    sets = maml_omniglot.draw_tasks(config, parts, "train", np.random.default_rng(0), 2, int(shots))
    mean = few_shot.loss_of(configure({"cross_entropy": "mean"}), net)
    results = [
        gradient_of(config, few_shot.method_of(config, "maml"), loss)(net.params, *sets)
        for loss in (few_shot.loss_of(config, net), lambda params, data: config.ways * mean(params, data))
    ]
    trees.map(np.testing.assert_array_equal, *results)


def test_an_inductive_result_does_not_depend_on_the_other_query_images():
    config = configure({"filters": "8"})
    net = maml_omniglot.net_of(config)
    support, (x, y) = maml_omniglot.draw_tasks(
        config, maml_omniglot.characters(config), "test", np.random.default_rng(1), 30, 3
    )
    whole = few_shot.accuracies_alone(net, net.params, support, (x, y))
    parts = [
        few_shot.accuracies_alone(net, net.params, support, (x[:, i : i + 5], y[:, i : i + 5])) for i in (0, 5, 10)
    ]
    np.testing.assert_allclose(whole, np.mean(parts, axis=0))
    together = few_shot.accuracies(net, net.params, (x, y))
    split = [few_shot.accuracies(net, net.params, (x[:, i : i + 5], y[:, i : i + 5])) for i in (0, 5, 10)]
    assert not np.allclose(together, np.mean(split, axis=0))


def test_an_image_that_is_classified_on_its_own_stands_last_behind_the_support_set():
    seen = []

    def apply(params, x):
        seen.append(x[0, :, 0].tolist())
        return np.eye(2)[x[..., 0].astype(int) % 10]

    net, support = few_shot.Net(None, apply), (np.array([[[10.0], [11]]]), np.array([[0, 1]]))
    query = np.array([[[0.0], [1], [0]]]), np.array([[0, 1, 1]])
    np.testing.assert_allclose(few_shot.accuracies_alone(net, None, support, query), [200 / 3])
    np.testing.assert_allclose(few_shot.accuracies(net, None, query), [200 / 3])
    assert seen == [[10, 11, 0], [10, 11, 1], [10, 11, 0], [0, 1, 0]]


def test_training_selection_and_tests_have_tasks_of_their_own(monkeypatch, tmp_path):
    """Fresh ones at every iteration, the same ones at every validation; adapted to support sets, and judged on query sets."""
    sizes = {"iterations": "40", "validate_every": "20", "validation_tasks": "21", "inductive_tasks": "21"}
    queries = {"queries": "4", "test_queries": "2", "clip": "3", "methods": "maml++", "norm": "adapted"}
    config, drawn, taken, judged = configure(sizes | queries), [], [], set()

    def draw(part, rng, tasks, queries):
        drawn.append((part, tasks, queries, rng.random()))
        return tuple((rng.random((tasks, 5 * n, 1)), np.zeros((tasks, 5 * n), int)) for n in (1, queries))

    def step(gradient, adam, state, support, query, clip=0.0, **more):
        taken.append((support[0].shape[1], query[0].shape[1], clip, more.get("weights")))
        return state, 0.0

    def apply(adapted, x):
        judged.add((adapted[0].shape[1], x.shape[1]))
        return np.concatenate([x, 1 - x], axis=-1)

    path, net = lambda meta, support: [support, support], few_shot.Net((np.zeros(1),), apply)
    monkeypatch.setattr(few_shot, "meta_step", step)
    monkeypatch.setattr(few_shot, "path_of", lambda *a: path)
    with Run(tmp_path, "maml-omniglot", "") as run:
        few_shot.meta_train(config, run, "maml++", net, draw)
    together, alone = few_shot.test_accuracies(config, path, net, None, draw)
    validation = [("validation", 20, 2), ("validation", 1, 2)]
    trained = [("train", 2, 4)] * 20 + validation
    assert [one[:3] for one in drawn] == [*trained, *trained, ("test", 20, 2), ("test", 2, 2)]
    assert len({number for *_, number in drawn}) == len(drawn) - len(validation)
    assert {one[:3] for one in taken} == {(5, 20, 3.0)}
    assert [weights is None for *_, weights in taken] == [False] * 4 + [True] * 36
    np.testing.assert_allclose(taken[2][3], maml.step_weights(config.variant_steps, 0.5))
    assert judged == {(5, 10), (5, 6)}  # as one batch, and each with the support set
    assert (together.shape, alone.shape) == ((22, 2), (21, 2))


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_tasks_show_images_of_their_own_part_alone(monkeypatch, part):
    config = configure()
    parts = maml_omniglot.characters(config)
    ink = np.isin(np.arange(1623), parts[part])[:, None, None, None]
    monkeypatch.setattr(maml_omniglot, "omniglot", lambda: Omniglot(np.broadcast_to(ink, (1623, 20, 28, 28)), ()))
    for x, _ in maml_omniglot.draw_tasks(config, parts, part, np.random.default_rng(0), 40, 1):
        assert x.all()
    monkeypatch.setattr(maml_miniimagenet, "image_tasks", lambda classes, rng, *counts: (classes, counts))
    config = configure({"shots": "3"}, maml_miniimagenet.EXPERIMENT)
    images = MiniImageNet("train", "validation", "test")
    assert maml_miniimagenet.draw_tasks(config, images, part, None, 4, 7) == (part, (5, 3, 7, 4))


@pytest.mark.parametrize(
    ("experiment", "overrides", "apply"),
    [
        (maml_omniglot, {}, nets.conv4),
        (
            maml_omniglot,
            {"net": "dense", "head_sigma": "0"},
            lambda p, x, *e: nets.normed_mlp(p, x.reshape(1, 6, 784), *e),
        ),
        (maml_miniimagenet, {"side": "28"}, nets.pooled_conv4),
    ],
    ids=["conv", "dense", "mini-imagenet"],
)
def test_the_nets_of_the_authors_code_have_its_eps_and_no_scale(experiment, overrides, apply):
    config = lab.configure(experiment.EXPERIMENT, "code", {"filters": "16"} | overrides)
    net, rng = experiment.net_of(config), np.random.default_rng(0)
    x = rng.random((1, 6, 3 if experiment is maml_miniimagenet else 1, 28, 28), np.float32)
    np.testing.assert_array_equal(net.apply(net.params, x), apply(net.params, x, 1e-3))
    assert not np.array_equal(net.apply(net.params, x), apply(net.params, x))
    norms = net.params[:-1] if "net" in overrides else net.params[0]
    assert all(layer.gamma is None for layer in norms)
    if apply is nets.conv4:
        assert np.std(net.params[1].w) == pytest.approx(1, rel=0.3)


APPENDIX = {  # A.1: the inner rate and steps, those of tests, and the meta-batch
    "omniglot, 5 ways": (0.4, 1, 3, 32),
    "omniglot, 20 ways": (0.1, 5, 5, 16),
    "mini-imagenet, 1 shot": (0.01, 5, 10, 4),
    "mini-imagenet, 5 shots": (0.01, 5, 10, 2),
}


def test_the_papers_presets_have_its_settings():
    for experiment, by in ((maml_omniglot.EXPERIMENT, "ways"), (maml_miniimagenet.EXPERIMENT, "shots")):
        for preset in experiment.presets:
            if not preset.startswith("paper"):
                continue
            config = lab.configure(experiment, preset, {})
            count = getattr(config, by)
            name = f"{experiment.name.partition('-')[2]}, {count} {by if count > 1 else by.removesuffix('s')}"
            setting = APPENDIX[name.replace("miniimagenet", "mini-imagenet")]
            assert (config.inner_lr, config.inner_steps, config.test_steps, config.meta_batch) == setting
            assert (config.cross_entropy, config.norm, config.scaled) == ("per shot", "shared", False)
    assert (config.queries, config.test_queries, config.filters, config.clip, config.side) == (15, 0, 32, 10, 84)


def found(together, alone=None, judged=3):
    trained = few_shot.Trained(None, [10, 20, 30], [40.0, 60.0, 50.0])
    return few_shot_report.Tested(trained, together, together if alone is None else alone, [1, 3], judged)


def test_rows_and_curves_are_of_the_accuracies_that_they_name():
    rng = np.random.default_rng(0)
    together, alone = rng.uniform(0, 100, (9, 4)), rng.uniform(0, 100, (5, 4))
    one, published = found(together, alone), few_shot_report.Published(98.7, 0.4, "Table 1", 3)
    rows = {row.quantity: row for row in few_shot_report._rows("MAML", one, published)}
    columns = {
        "before adaptation": together[:, 0],
        "transductive, after 1 step": together[:, 1],
        "transductive, after 3 steps": together[:, 3],
        "inductive, after 1 step, 5 tasks": alone[:, 1],
        "inductive, after 3 steps, 5 tasks": alone[:, 3],
    }
    for what, column in columns.items():
        row = rows.pop(f"MAML, {what}")
        assert (row.ours, row.ci95) == pytest.approx(lab.mean_ci95(column))
        assert row.published == (98.7 if what == "transductive, after 3 steps" else None)
    best, after, of = (row.ours for row in rows.values())  # accuracy on validation tasks, and iterations
    assert (best, after, of) == (60, 20, 30)
    for kind, curve in few_shot_report._series({"MAML": one})["test"]["MAML"].items():
        np.testing.assert_allclose(curve, lab.mean_ci95({"transductive": together, "inductive": alone}[kind]))


@pytest.mark.parametrize(("gain", "held"), [(2.0, True), (0.05, False), (-2.0, False)])
def test_second_order_is_compared_on_the_same_tasks_after_the_steps_that_judge(gain, held):
    """A difference of 0.5 either way beside the gain, in 50 tasks: ± 0.14."""
    first = np.random.default_rng(0).uniform(20, 80, (50, 4))
    second = first + np.tile([[-0.5], [0.5]], (25, 1)) + np.array([-gain, -gain, gain, -gain])
    both = {"MAML": found(second, judged=2), "first-order MAML": found(first, judged=2)}
    (claim,) = few_shot_report._claims(both, {})
    assert claim.held is held


@pytest.mark.parametrize(("mean", "spread", "held"), [(98.2, 1.0, True), (98.2, 0.1, False), (99.9, 0.1, True)])
def test_a_published_accuracy_is_reached_where_the_intervals_meet_or_ours_is_above(mean, spread, held):
    """Of 100 tasks: 98.2 ± 0.20 meets 98.7 ± 0.4, and 98.2 ± 0.02 does not."""
    together = np.full((100, 4), 10.0)
    together[:, 3] = mean + spread * np.tile([-1, 1], 50)
    published = {"MAML": few_shot_report.Published(98.7, 0.4, "Table 1", 3)}
    (claim,) = few_shot_report._claims({"MAML": found(together)}, published)
    assert claim.held is held


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"ways": "1"}, "ways = 1, expected 2 or more"),
        ({"norm": "none"}, "norm = none, expected shared or adapted"),
        ({"cross_entropy": "sum"}, "cross_entropy = sum, expected per shot or mean"),
        ({"methods": ""}, r"methods = \(\), expected one or more, each once"),
        ({"methods": "maml,mamml"}, "methods has 'mamml', expected names among maml"),
        ({"methods": "reptile"}, "norm = shared, but reptile adapts all parameters: expected norm=adapted"),
        ({"methods": "maml,first-order,maml"}, "methods has 'maml' twice, expected each once"),
        ({"methods": "maml,implicit", "norm": "adapted", "strength": "0"}, "strength = 0.0, expected λ > 0"),
        ({"net": "deep"}, "net = deep, expected conv or dense"),
        ({"net": "dense", "head_sigma": "1"}, "head_sigma = 1.0, expected 0 for net = dense"),
        ({"head_sigma": "-1"}, "head_sigma = -1.0, expected 0 or more"),
        ({"train_characters": "1600"}, "train_characters = 1600 and validation_characters = 100, expected 5 or more"),
        ({"validation_characters": "3"}, "validation_characters = 3, expected 0 or 5 and more"),
        ({"shots": "15"}, "shots = 15 and 15 queries, expected at most the 20 images of a class together"),
        ({"meta_lr": "-1"}, "meta_lr = -1.0, expected 0 or more"),
        ({"inner_lr": "-1"}, "inner_lr = -1.0, expected 0 or more"),
        ({"patience": "-1"}, "patience = -1, expected 0 or more"),
    ],
)
def test_wrong_configuration(overrides, message):
    with pytest.raises(lab.UserError, match=message):
        configure(overrides)


@pytest.mark.parametrize("experiment", [maml_omniglot.EXPERIMENT, maml_miniimagenet.EXPERIMENT], ids=lambda e: e.name)
def test_presets(experiment):
    for preset in experiment.presets:
        assert lab.configure(experiment, preset, {}).meta_batch >= 2
        assert preset in experiment.minutes


def test_a_divergence_names_step_and_task(tmp_path):
    with pytest.raises(
        FloatingPointError, match=r"maml: the \w+ loss of task \d after|maml: the support loss of task \d at"
    ):
        train(configure({"inner_lr": "1e39", "inner_steps": "3"}), tmp_path)


def test_a_method_that_diverges_takes_no_other_with_it(tmp_path):
    """Meta-SGD's rates begin at inner_lr, implicit MAML has a rate of its own."""
    config = configure({"methods": "meta-sgd,implicit", "norm": "adapted", "inner_lr": "1e30", "iterations": "2"})
    outcome = train(config, tmp_path)
    assert {row.quantity.partition(",")[0] for row in outcome.rows} == {"implicit MAML"}
    (claim,) = outcome.claims
    assert (claim.sentence, claim.held) == ("Meta-SGD trains without diverging", False)
    assert "maml: the" in claim.detail
    assert set(maml_omniglot.EXPERIMENT.draw(outcome)) == {"validation", "steps"}


# ---- mini-ImageNet ----

LISTS = {
    split: {f"n000000{s}{c}": tuple(f"n000000{s}{c}{i:08d}" for i in range(8)) for c in range(5)}
    for s, split in enumerate(("train", "validation", "test"))
}


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """A folder of generated images, each class of a colour of its own with noise."""
    rng, folder = np.random.default_rng(0), tmp_path / "images"
    folder.mkdir()
    for classes in LISTS.values():
        for names in classes.values():
            colour = rng.integers(40, 216, 3)
            for name in names:
                pixels = np.clip(colour + rng.normal(size=(20, 20, 3)) * 20, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{name}.jpg")
    monkeypatch.setattr(import_module("tinymeta.data.mini_imagenet"), "mini_imagenet_lists", lambda: LISTS)
    return folder


MINI = {
    "side": "16",
    "queries": "2",
    "images": "",
    "iterations": "30",
    "meta_lr": "0.01",
    "filters": "8",
    "inner_lr": "0.1",
}


def test_mini_imagenet_from_a_folder(tmp_path, photographs):
    overrides = MINI | {"images": str(photographs), "methods": "maml,first-order"}
    config = configure(overrides, maml_miniimagenet.EXPERIMENT)
    outcome = train(config, tmp_path / "run", maml_miniimagenet.EXPERIMENT)
    rows = {row.quantity: row for row in outcome.rows}
    assert rows["MAML, transductive, after 10 steps"].published == 48.70
    assert rows["first-order MAML, transductive, after 10 steps"].published == 48.07
    assert rows["MAML, transductive, after 2 steps"].ours > 40  # the classes differ in colour


def test_mini_imagenet_compiled_is_as_op_by_op(tmp_path, photographs):
    """Two inner steps through pooling and batch norm, bounded meta-gradients, validation and tests."""
    more = {"images": str(photographs), "inner_steps": "2", "test_steps": "3", "iterations": "3", "filters": "4"}
    quantities, losses = [], []
    for compiled in ("false", "true"):
        config = configure(MINI | more | {"compiled": compiled}, maml_miniimagenet.EXPERIMENT)
        outcome = train(config, tmp_path / compiled, maml_miniimagenet.EXPERIMENT)
        quantities.append([row.quantity for row in outcome.rows])
        lines = (tmp_path / compiled / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert quantities[0] == quantities[1]
    assert any("after 3 steps" in quantity for quantity in quantities[1])
    assert len(losses[0]) == 3
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_mini_imagenet_without_images_says_what_to_bring(tmp_path):
    config = configure(MINI | {"images": str(tmp_path / "none")}, maml_miniimagenet.EXPERIMENT)
    with pytest.raises(ValueError, match=r"no such folder.*ImageNet's .* which each user brings: see docs/maml\.md"):
        train(config, tmp_path / "run", maml_miniimagenet.EXPERIMENT)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"side": "15"}, "side = 15, expected 16 or more"),
        ({"ways": "17"}, "ways = 17, expected at most the 16 classes"),
    ],
)
def test_wrong_mini_imagenet_configuration(overrides, message):
    with pytest.raises(lab.UserError, match=message):
        configure(overrides, maml_miniimagenet.EXPERIMENT)


def test_a_part_of_the_parameters_goes_out_and_in_again():
    params = nets.init_conv4(np.random.default_rng(0), 3, 2)
    fast, join = few_shot.without_norms(params)
    assert len(trees.leaves(fast)) == 6
    back = join(trees.map(lambda leaf: leaf + 1, fast))
    np.testing.assert_array_equal(back[0][1].w, params[0][1].w + 1)
    np.testing.assert_array_equal(back[0][1].gamma, params[0][1].gamma)
    np.testing.assert_array_equal(back[1].b, params[1].b + 1)
    assert maml.maml(0.1, 1, part=few_shot.without_norms).init(params) is params
    assert ops.sum(back[1].b) == 3
