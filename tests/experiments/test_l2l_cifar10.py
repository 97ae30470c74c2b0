"""l2l-cifar10 end to end on a few random images in place of CIFAR-10."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tinymeta import experiments, l2l, trees
from tinymeta.data.cifar import Cifar10
from tinymeta.experiments import l2l_cifar10
from tinymeta.lab import UserError, configure, execute

TINY = {
    "pool": "4", "filters": "2,2,2", "hidden": "3", "batch_size": "6", "steps": "4", "unroll_length": "2", "meta_epochs": "2",
    "validate_every": "1", "validation_problems": "2", "test_problems": "2", "hidden_units": "3", "rates": "0.1,0.01",
    "coordinates": "20", "meta_batch": "1", "final_steps": "2",
}  # fmt: skip


@pytest.fixture(autouse=True)
def images(monkeypatch):
    """100 images in place of the training set, 50 in place of the test set, as of the JPEG-compressed copy."""
    rng = np.random.default_rng(0)
    parts = {
        split: Cifar10(
            rng.integers(256, size=(n, 3, 32, 32)).astype(np.uint8), np.arange(n, dtype=np.uint8) % 10, lossy=True
        )
        for split, n in (("train", 100), ("test", 50))
    }
    monkeypatch.setattr(l2l_cifar10, "cifar10", parts.get)
    l2l_cifar10._sets.cache_clear()
    yield parts
    l2l_cifar10._sets.cache_clear()


def config(**changes):
    return configure(experiments.load("l2l-cifar10"), "quick", TINY | changes)


def test_a_run_compares_both_optimizers_and_says_which_images_they_saw(tmp_path):
    folder = execute(experiments.load("l2l-cifar10"), config(), tmp_path)
    result = json.loads((folder / "result.json").read_text())
    methods = [row["quantity"].split(",")[0] for row in result["rows"] if "/" not in row["quantity"]]
    baselines = list(l2l.BASELINES)
    assert methods == ["LSTM", *baselines, *["LSTM", "LSTM-sub", *baselines] * 2]
    assert all("JPEG-compressed copy" in row["quantity"] for row in result["rows"])
    assert all("JPEG-compressed copy" in claim["sentence"] for claim in result["claims"])
    told = [("LSTM-sub" in claim["sentence"], "whole curve" in claim["sentence"]) for claim in result["claims"]]
    fewer = [(False, False), (True, False), (False, True), (True, True)]
    assert told == [(False, False), (False, True), *fewer, *fewer]
    assert {f.stem for f in (folder / "figures").glob("*.png")} == {"loss-curves-8", "meta-training"}
    both = l2l.Grouped.load(folder / "optimizer.npz", ["conv", "rest"], l2l_cifar10.label)
    assert both.optimizers["conv"].scale == 0.1


def test_the_net_has_two_lstms_as_in_the_authors_code():
    problem = config().problems(range(10), 4)(np.random.default_rng(0), 1, "train")
    labels = {path: l2l_cifar10.label(path) for path, _ in trees.items(problem.theta)}
    assert [path for path, name in labels.items() if name == "conv"] == [f"['conv'][{k}]['w']" for k in range(3)]
    assert set(labels.values()) == {"conv", "rest"}
    pair = config().untrained_pair()
    assert not np.array_equal(*(o.weights.W_out for o in pair.optimizers.values()))


def test_an_optimizer_trained_on_small_images_is_compared_on_whole_ones_too(tmp_path):
    experiment, small = experiments.load("l2l-cifar10"), config()
    folders = [execute(experiment, c, tmp_path) for c in (small, config(test_pools="4,1"), config(test_pools="1"))]
    alone, both, whole = (json.loads((folder / "result.json").read_text()) for folder in folders)
    assert [row for row in both["rows"] if "32 x 32 pixels" not in row["quantity"]] == alone["rows"]
    assert [row for row in both["rows"] if "32 x 32 pixels" in row["quantity"]] == whole["rows"]
    assert len(whole["rows"]) == len(alone["rows"])
    features = [
        small.problems(range(10), pool)(np.random.default_rng(0), 1, "test").theta.hidden.w.shape[-2] for pool in (4, 1)
    ]
    assert features == [2 * 1 * 1, 2 * 4 * 4]
    figures = [{f.stem for f in (folder / "figures").glob("*.png")} for folder in folders[1:]]
    assert figures == [{"loss-curves-8", "loss-curves-32", "meta-training"}, {"loss-curves-32", "meta-training"}]


@pytest.mark.parametrize("name", l2l_cifar10.LABELS)
def test_subsets_have_their_labels_alone_and_parts_are_disjoint(images, name):
    labels = l2l_cifar10.LABELS[name]
    found = l2l_cifar10._sets(1, labels)
    assert {part: len(y) for part, (_, y) in found.items()} == {
        "train": 8 * len(labels), "validation": 2 * len(labels), "test": 5 * len(labels),
    }  # fmt: skip
    for split, part in (("train", "train"), ("test", "test")):
        x, y = found[part]
        np.testing.assert_array_equal(x[3], images[split].x[images[split].y < len(labels)][3])
        assert set(y) == set(labels)


def test_held_out_labels_are_in_no_subset():
    assert not set(l2l_cifar10.HELD_OUT) & (set(l2l_cifar10.LABELS["CIFAR-5"]) | set(l2l_cifar10.LABELS["CIFAR-2"]))
    assert set(l2l_cifar10._sets(4, l2l_cifar10.HELD_OUT)["train"][1]) == set(range(5))


def test_lstm_sub_has_seen_the_held_out_labels_alone_and_is_compared_on_fewer_labels(monkeypatch):
    trained, compared = [], []
    monkeypatch.setattr(l2l_cifar10.Config, "problems", lambda self, labels, pool: (labels, pool))

    def meta_train(config, run, make_problem, untrained, stage="meta-training"):
        trained.append((stage, make_problem))
        return stage, {}

    def compare(config, run, optimizer, setting, others):
        compared.append((setting.make_problem, optimizer, others))

    for name, stand_in in {"meta_train": meta_train, "compare": compare}.items():
        monkeypatch.setattr(l2l_cifar10, name, stand_in)
    for name in ("rows", "claims", "curve_claims", "series", "save_optimizer"):
        monkeypatch.setattr(l2l_cifar10, name, lambda *given: [])
    l2l_cifar10.train(config(test_pools="1"), None)
    sub = "meta-training of LSTM-sub"
    assert trained == [("meta-training", (range(10), 4)), (sub, (range(5, 10), 4))]
    assert compared == [
        ((range(10), 1), "meta-training", {}),
        ((range(5), 1), "meta-training", {"LSTM-sub": sub}),
        ((range(2), 1), "meta-training", {"LSTM-sub": sub}),
    ]


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_problem_is_made_of_the_images_of_its_part(monkeypatch, part):
    monkeypatch.setattr(l2l, "conv_problem", lambda x, y, batches, rng, *sizes: (x, y, batches, *sizes))
    x, y, batches, *sizes = config(sigma="0.3").problems(range(5), 4)(np.random.default_rng(0), 2, part)
    expected = l2l_cifar10._sets(4, range(5))[part]
    assert (x is expected[0], y is expected[1]) == (True, True)
    assert batches.shape == (2, 5, 6)
    assert sizes == [(2, 2, 2), 3, 0.3]


def test_pooled_images_are_means_of_their_pixels(images):
    x, _ = l2l_cifar10._sets(2, range(10))["test"]
    whole = images["test"].x.astype(float)
    assert x.shape == (50, 3, 16, 16)
    np.testing.assert_allclose(x[7, 1, 3, 5], whole[7, 1, 6:8, 10:12].mean(), atol=0.5)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pool", "8", "pool is 8, expected 1, 2 or 4"),
        ("test_pools", "1,3", r"test_pools is \(1, 3\), expected some of 1, 2 and 4, each once"),
        ("test_pools", "1,1", r"test_pools is \(1, 1\), expected some of 1, 2 and 4, each once"),
        ("batch_size", "0", "expected 1 or more"),
        ("filters", "2,2,2,2", "expected at most three numbers"),
        ("coordinates", "-1", "coordinates = -1, expected 0 or more"),
    ],
)
def test_bad_settings_are_refused_by_name(key, value, message):
    with pytest.raises(UserError, match=message):
        config(**{key: value})


def test_an_interrupted_run_of_two_lstms_ends_with_the_same_bits(tmp_path, monkeypatch):
    experiment = replace(experiments.load("l2l-cifar10"), draw=lambda outcome: {})
    whole = execute(experiment, config(), tmp_path / "whole")
    meta_step, calls = l2l.meta_step, []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 6:  # in the training of LSTM-sub
            raise KeyboardInterrupt
        return meta_step(*args, **options)

    monkeypatch.setattr(l2l, "meta_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(experiment, config(), tmp_path / "cut")
    monkeypatch.setattr(l2l, "meta_step", meta_step)
    (folder,) = (tmp_path / "cut" / "l2l-cifar10").iterdir()
    execute(experiment, config(), resume=folder)
    series = [json.loads((f / "result.json").read_text())["series"] for f in (whole, folder)]
    assert series[0] == series[1]
