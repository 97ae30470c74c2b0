"""The few-shot experiments: Omniglot's own images, and mini-ImageNet's layout with drawn ones."""

import json
from functools import partial
from importlib import import_module

import numpy as np
import pytest
from maml.few_shot_runs import as_json, configure, train
from PIL import Image

from tinymeta import lab, maml, nets, ops, trees
from tinymeta.data import Omniglot
from tinymeta.data.mini_imagenet import MiniImageNet
from tinymeta.experiments import few_shot, maml_miniimagenet, maml_omniglot
from tinymeta.experiments.maml_methods import gradient_of
from tinymeta.lab import Run


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
