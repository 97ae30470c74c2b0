"""Meta-training of the L2L experiments, step by step, and the problems that it and the comparison are on."""

from __future__ import annotations

import json

import numpy as np
import pytest
from experiments.l2l_runs import finished, tiny
from hypothesis import given
from hypothesis import strategies as st

from tinymeta import l2l, optim, trees
from tinymeta.data import mnist_subset
from tinymeta.experiments import l2l_comparison, l2l_mnist, l2l_quadratic, l2l_training
from tinymeta.experiments.l2l_training import Training
from tinymeta.lab import Run, stream

# ---- meta-training ----


def test_meta_training_goes_on_from_a_shipped_optimizer():
    begun, shipped = l2l_quadratic.Config(start="quadratic").untrained(), l2l.LSTMOptimizer.pretrained("quadratic")
    for found, expected in zip(trees.leaves(begun.weights), trees.leaves(shipped.weights), strict=True):
        np.testing.assert_array_equal(found, expected)


@given(st.lists(st.integers(1, 5), max_size=6), st.integers(1, 40))
def test_a_curriculum_gives_each_horizon_an_equal_part_in_order(parts, epochs):
    """Horizons are distinct here, so that their counts tell the parts."""
    expected = [20 * (100 * k + part) for k, part in enumerate(parts)] or [100]
    config = Training(curriculum=tuple(expected) if parts else (), meta_epochs=epochs)
    horizons = [config.horizon(epoch) for epoch in range(epochs)]
    assert horizons == sorted(horizons)
    assert horizons[0] == expected[0]
    counts = [horizons.count(steps) for steps in expected]
    assert sum(counts) == epochs
    assert max(counts) - min(counts) <= 1


def test_a_curriculum_takes_its_steps(tmp_path):
    """Four epochs, two of 2 steps and two of 4, in unrolls of 2: six meta-steps, carried on within an epoch alone."""
    folder, _ = finished("l2l-quadratic", tmp_path, curriculum="2,4")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["stage"] == "meta-training"] == list(range(6))


def test_meta_training_is_a_loop_of_meta_steps_that_begins_anew_in_every_epoch(tmp_path):
    config, parts = tiny("l2l-quadratic", meta_epochs="3", validate_every="3", clip_norm="0.01", meta_lr="0.1"), []

    def make_problem(rng, problems, part):
        parts.append((part, problems))
        return l2l_quadratic.make_problems(config, rng, problems)

    with Run(tmp_path, "test", "hash") as run:
        found, history = l2l_training.meta_train(config, run, make_problem)
    assert sorted(set(parts)) == [("train", 3), ("validation", 4)]
    assert history["epochs"] == [3]
    optimizer, adam = config.untrained(), optim.adam(optim.cosine(0.1, 6))
    moments = adam.init(optimizer.weights)
    for epoch in range(3):
        problem, carry = l2l_quadratic.make_problems(config, stream(0, "problem", epoch), 3), None
        for _ in range(2):
            optimizer, moments, carry, _ = l2l.meta_step(optimizer, problem, carry, adam, moments, 2, clip_norm=0.01)
    trees.map(np.testing.assert_array_equal, found.weights, optimizer.weights)


def test_a_share_of_the_epochs_starts_late_by_up_to_so_many_steps():
    config = Training(late_start=9, late_share=0.8)
    before = np.array([config.steps_before(epoch) for epoch in range(400)])
    assert np.mean(before > 0) == pytest.approx(0.8, abs=0.06)
    assert set(before) == set(range(10))
    assert not any(Training().steps_before(epoch) for epoch in range(9))


def test_patience_ends_meta_training_and_the_best_is_kept(tmp_path, monkeypatch):
    losses, seen = iter([0.5, 0.3, 0.4, 0.35, 0.1]), []

    def final_loss(config, optimizer, problem):
        seen.append(optimizer.weights)
        return next(losses)

    monkeypatch.setattr(l2l_training, "_final_loss", final_loss)
    folder, result = finished("l2l-quadratic", tmp_path, meta_epochs="5", validate_every="1", patience="2")
    assert result["series"]["history"] == {"steps": 4, "epochs": [1, 2, 3, 4], "losses": [0.5, 0.3, 0.4, 0.35]}
    kept = l2l.LSTMOptimizer.load(folder / "optimizer.npz").weights
    trees.map(np.testing.assert_array_equal, kept, seen[1])
    assert not np.array_equal(kept.W_out, seen[0].W_out)


# ---- the comparison ----


def test_the_optimizer_is_chosen_by_its_loss_after_the_validation_steps(tmp_path):
    _, plain = finished("l2l-quadratic", tmp_path, validate_every="1")
    _, longer = finished("l2l-quadratic", tmp_path, validate_every="1", validation_steps="9")
    assert plain["series"]["history"]["losses"] != longer["series"]["history"]["losses"]
    optimizer = l2l.LSTMOptimizer.load(sorted((tmp_path / "l2l-quadratic").iterdir())[-1] / "optimizer.npz")
    problem = l2l_quadratic.settings(tiny("l2l-quadratic"))[0].make_problem(stream(0, "validation"), 4, "validation")
    assert l2l.final_loss(optimizer, problem, 9) == min(longer["series"]["history"]["losses"])


def test_methods_are_compared_on_test_problems_which_nothing_else_has_seen(tmp_path):
    config, asked = tiny("l2l-quadratic", rates="0.1,0.01", test_problems="3"), []

    def make_problem(rng, problems, part):
        asked.append((part, problems))
        return l2l_quadratic.make_problems(config, rng, problems)

    optimizer, setting = config.untrained(), l2l_comparison.Setting("", 5, make_problem)
    with Run(tmp_path, "test", "hash") as run:
        found = l2l_comparison.compare(config, run, optimizer, setting)
    assert asked == [("validation", 4), ("test", 3)]
    problem = l2l_quadratic.make_problems(config, stream(0, "test"), 3)
    methods = {"LSTM": optimizer} | {name: make(found.rates[name]) for name, make in l2l.BASELINES.items()}
    assert found.curves.keys() == methods.keys()
    for name, method in methods.items():
        np.testing.assert_array_equal(found.curves[name], l2l.optimize(method, problem, 5))
    curve = l2l_comparison.series(found)["curves"]["SGD"]
    np.testing.assert_allclose(curve["mean"], found.curves["SGD"].mean(axis=1))
    assert np.shape(curve["ci95"]) == (6,)


def test_the_images_of_mnist_are_split_in_three_and_pooled():
    train, test = mnist_subset("train"), mnist_subset("test")
    found = l2l_mnist._sets("subset", 4)
    for part, x, y in (
        ("train", train.x[:8000], train.y[:8000]), ("validation", train.x[8000:], train.y[8000:]), ("test", test.x, test.y),
    ):  # fmt: skip
        images, labels = found[part]
        np.testing.assert_array_equal(labels, y)
        np.testing.assert_allclose(
            images.reshape(-1, 7, 7)[:, 2, 3], x[:, 8:12, 12:16].mean(axis=(1, 2)) / 255, rtol=1e-5
        )


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_problem_of_mnist_is_made_of_the_images_of_its_part(monkeypatch, part):
    config = tiny("l2l-mnist", sigma="0.3", late_start="5")
    made = lambda x, y, batches, rng, hidden, activation, sigma: (x, y, batches, hidden, activation, sigma)
    monkeypatch.setattr(l2l, "mlp_problem", made)
    x, y, batches, *others = config.problems(6, (4, 3), np.tanh)(np.random.default_rng(0), 2, part)
    assert (x is l2l_mnist._sets("subset", 14)[part][0], len(x) == len(y)) == (True, True)
    # for steps 0 to 9: 5 late ones and 4 of an epoch, or the 6 of the setting
    assert batches.shape == (2, 10, 8)
    assert not np.array_equal(*batches)
    assert others == [(4, 3), np.tanh, 0.3]


def test_quadratics_take_as_many_steps_as_in_meta_training_and_twice_as_many():
    paper, shorter = (l2l_quadratic.settings(l2l_quadratic.Config(steps=steps)) for steps in (100, 60))
    assert [(setting.steps, dict(setting.published)) for setting in paper] == [
        (100, {"ratio": 0.039 / 0.052}),
        (200, {}),
    ]
    assert [(setting.steps, dict(setting.published)) for setting in shorter] == [(60, {}), (120, {})]
    theta = l2l_quadratic.make_problems(l2l_quadratic.Config(sigma=0.3), np.random.default_rng(0), 500).theta
    assert theta.shape == (500, 10)
    assert np.std(theta) == pytest.approx(0.3, rel=0.05)


def test_the_variants_are_the_mlps_that_they_name():
    config = tiny("l2l-mnist")
    shapes = {}
    for setting in l2l_mnist.settings(config):
        theta = setting.make_problem(np.random.default_rng(0), 2, "validation").theta
        shapes[setting.name, setting.steps] = [layer.w.shape[1:] for layer in theta]
    assert shapes == {
        ("", 4): [(4, 2), (2, 10)],
        ("", 6): [(4, 2), (2, 10)],
        ("40 units", 4): [(4, 40), (40, 10)],
        ("two layers", 4): [(4, 20), (20, 20), (20, 10)],
        ("ReLU", 4): [(4, 20), (20, 10)],
    }
