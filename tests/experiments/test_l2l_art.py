"""l2l-art end to end on a tiny setting and images made here; its feature net, its images and its pictures by themselves."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinymeta import l2l, trees
from tinymeta.data.cifar import Cifar10
from tinymeta.experiments import l2l_art, l2l_art_net, l2l_training
from tinymeta.experiments.l2l_art import EXPERIMENT, resized
from tinymeta.experiments.l2l_art_figures import packed, unpacked
from tinymeta.experiments.l2l_comparison import Comparison, Setting
from tinymeta.l2l.runner import losses_and_grads
from tinymeta.lab import Run, UserError, configure, execute, stream

TINY = {
    "size": "8", "filters": "3,4", "net_steps": "2", "net_batch": "4", "content_images": "5", "meta_epochs": "2", "meta_batch": "2",
    "steps": "2", "unroll_length": "1", "validate_every": "1", "validation_problems": "2", "test_problems": "3",
    "hidden_units": "3",
}  # fmt: skip
PLACES = ("", "new style", "new style, double resolution")
DATA = "CIFAR-10, JPEG-compressed copy"
sides = st.sampled_from([1, 2, 4, 8, 16, 24, 40])


def some_images(split: str) -> Cifar10:
    """Reddish images of class 0 and bluish ones of class 1."""
    rng = np.random.default_rng(len(split))
    y = np.arange(40, dtype=np.uint8) % 2
    x = rng.integers(0, 100, (40, 3, 32, 32), dtype=np.uint8)
    x[y == 0, 0] += 100
    x[y == 1, 2] += 100
    return Cifar10(x, y, lossy=split == "test")


@pytest.fixture(autouse=True)
def no_download(monkeypatch):
    monkeypatch.setattr(l2l_art, "cifar10", some_images)


def finished(root, **changes):
    folder = execute(replace(EXPERIMENT, draw=lambda outcome: {}), configure(EXPERIMENT, "quick", TINY | changes), root)
    return folder, json.loads((folder / "result.json").read_text())


# ---- a whole run ----


@pytest.mark.filterwarnings("ignore:tm.compile.*compiled 8 times")  # in a process that has tested other styles
def test_a_run_compares_all_methods_in_all_settings_and_draws(tmp_path) -> None:
    folder = execute(EXPERIMENT, configure(EXPERIMENT, "quick", TINY), tmp_path)
    result = json.loads((folder / "result.json").read_text())
    assert [row["quantity"].split(",")[0] for row in result["rows"][1:6]] == ["LSTM", *l2l.BASELINES]
    assert len(result["rows"]) == 1 + 3 * 6
    assert all(np.isfinite(row["ours"]) for row in result["rows"])
    assert all(DATA in row["quantity"] for row in result["rows"])
    assert all(DATA in row["source"] for row in result["rows"])
    titles = [", ".join(filter(None, (place, f"contents of {DATA}", "2 steps"))) for place in PLACES]
    assert [claim["sentence"].split(":")[0] for claim in result["claims"]] == titles
    assert [setting["title"] for setting in result["series"]["settings"]] == titles
    assert {f.stem for f in (folder / "figures").glob("*.png")} == {"pictures", "loss-curves", "meta-training"}
    assert "JPEG-compressed" in json.loads((folder / "figures/captions.json").read_text())["loss-curves"]
    saved = l2l.LSTMOptimizer.load(folder / "optimizer.npz")
    assert (saved.scale, saved.p) == (1.0, 10.0)


def test_pictures_are_what_the_methods_painted(tmp_path) -> None:
    _, result = finished(tmp_path)
    config = configure(EXPERIMENT, "quick", TINY)
    shown = zip(result["series"]["pictures"], result["series"]["settings"], PLACES, strict=True)
    for picture, setting, place in shown:
        size = 16 if "double" in picture["title"] else 8
        assert picture["size"] == size
        images = {name: unpacked(text, size) for name, text in picture["images"].items()}
        assert list(images)[:3] == ["content", "style", "LSTM"]
        assert set(images) - {"content", "style", "LSTM"} < set(l2l.BASELINES)
        final = {name: curve["mean"][-1] for name, curve in setting["curves"].items() if name != "LSTM"}
        assert list(images)[3] == min(final, key=final.get)
        rng = stream(config.seed, "shown", place)
        chosen = some_images("test").x[rng.choice(40, 1, replace=False)[0]]
        means = chosen.reshape(3, size, 32 // size, size, 32 // size).mean(axis=(2, 4))
        assert np.abs(np.moveaxis(means, 0, -1) - images["content"]).max() <= 0.51


def test_contents_are_named_in_what_is_told_and_not_in_the_stages_of_a_run(tmp_path) -> None:
    """Runs that were begun under the old names go on."""
    folder, result = finished(tmp_path)
    stages = {json.loads(line)["stage"] for line in (folder / "metrics.jsonl").read_text().splitlines()}
    compared = {
        f"{kind}, {', '.join(filter(None, (place, '2 steps')))}" for kind in ("tuning", "test") for place in PLACES
    }
    assert stages == {"feature net", "meta-training"} | compared
    assert result["rows"][7]["quantity"] == f"LSTM, new style, contents of {DATA}, loss at step 2"


def test_a_finished_run_is_traced_with_its_own_feature_net_and_stays_as_it_was(tmp_path) -> None:
    config = configure(EXPERIMENT, "quick", TINY)
    folder, _ = finished(tmp_path)
    before = {
        name: (folder / name).read_bytes()
        for name in ("checkpoint.npz", "metrics.jsonl", "result.json", "optimizer.npz")
    }
    execute(EXPERIMENT, config, resume=folder, trace=True)
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert {f.stem for f in (folder / "figures").glob("trace-*.png")} == {
        "trace-updates",
        "trace-response",
        "trace-gates",
    }
    with Run(tmp_path, "net", "hash") as run:
        _, studio = l2l_art._studio(config, run, some_images("train"), some_images("test"))
    problem = studio.problem(stream(config.seed, "test"), 1, "test", l2l_art.TRAINED, config.size)
    gradient = np.ravel(losses_and_grads(problem, problem.theta, 0)[1])
    with np.load(folder / "trace.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["gradients"][0], gradient[arrays["coordinates"]])


def test_a_run_without_its_checkpoint_is_not_traced_and_loses_nothing(tmp_path) -> None:
    folder, _ = finished(tmp_path)
    (folder / "checkpoint.npz").unlink()
    metrics = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"has no checkpoint\.npz, which holds the feature net"):
        execute(EXPERIMENT, configure(EXPERIMENT, "quick", TINY), resume=folder, trace=True)
    assert (folder / "metrics.jsonl").read_bytes() == metrics


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, monkeypatch) -> None:
    _, whole = finished(tmp_path / "whole")
    step, calls = l2l.meta_step, []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(*args, **options)

    monkeypatch.setattr(l2l_training.l2l, "meta_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finished(tmp_path / "cut")
    monkeypatch.setattr(l2l_training.l2l, "meta_step", step)
    (folder,) = (tmp_path / "cut" / "l2l-art").iterdir()
    config = configure(EXPERIMENT, "quick", TINY)
    execute(replace(EXPERIMENT, draw=lambda outcome: {}), config, tmp_path / "cut", resume=folder)
    assert json.loads((folder / "result.json").read_text())["series"] == whole["series"]


def test_the_optimizer_is_trained_on_one_style_and_painting_in_a_new_one_is_new_to_it(monkeypatch) -> None:
    class Enough(Exception):
        pass

    def meta_train(config, run, make_problem):
        raise Enough(make_problem)

    monkeypatch.setattr(l2l_art, "_studio", lambda config, *given: (None, l2l_art.Studio(config, (), {})))
    monkeypatch.setattr(l2l_art, "meta_train", meta_train)
    config = configure(EXPERIMENT, "quick", TINY)
    with pytest.raises(Enough) as caught:
        l2l_art.train(config, None)
    assert caught.value.args[0].keywords == {"style": "mosaic", "size": 8}
    assert l2l_art._places(config) == dict(zip(PLACES, [("mosaic", 8), ("waves", 8), ("waves", 16)], strict=True))


def test_each_part_has_images_of_its_own() -> None:
    config = replace(configure(EXPERIMENT, "paper", {}), content_images=8)
    training, test = (
        some_images(split)._replace(x=np.arange(k, k + 2000)) for k, split in ((0, "train"), (5000, "test"))
    )
    content = l2l_art._content(config, training, test)
    assert [len(content[part]) for part in ("train", "validation", "test")] == [8, 1000, 2000]
    assert len(np.unique(np.concatenate(list(content.values())))) == 3008


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("size", "24", "size is 24, expected 8, 16, 32, 64 or 128"),
        ("content_images", "1", "content_images is 1, expected 8 to 49000"),
        ("content_images", "49001", "expected 8 to 49000"),
        ("balance", "1,-1,1", "none negative"),
        ("filters", "8", "two to four layers"),
        ("net_batch", "0", "numbers of 1 or more"),
        ("unroll_length", "30", "expected a divisor of steps, 128"),
    ],
)
def test_bad_settings_are_refused_by_name(key, value, message) -> None:
    with pytest.raises(UserError, match=message):
        configure(EXPERIMENT, "quick", {key: value})


def test_the_paper_preset_is_the_papers_protocol() -> None:
    config = configure(EXPERIMENT, "paper", {})
    assert (config.steps, config.unroll_length, config.size, config.content_images) == (128, 32, 64, 1800)
    assert (config.p, config.scale, config.validation_problems, config.test_problems) == (10.0, 1.0, 20, 100)


# ---- the claim is judged on pairs ----


def a_comparison(gains) -> Comparison:
    """Losses that differ more between contents than between methods; the baselines' are higher by their gains."""
    base = np.array([[9.0, 1.0, 5.0], [100.0, 900.0, 500.0]])
    curves = {"LSTM": base} | {
        name: base + np.array([[0.0] * 3, gain]) for name, gain in zip(l2l.BASELINES, gains, strict=True)
    }
    grid = {name: {0.3: 2.0, 0.1: 1.0, 0.03: 2.0} for name in l2l.BASELINES}
    return Comparison(Setting("", 1, None), grid, dict.fromkeys(l2l.BASELINES, 0.1), curves)


@pytest.mark.parametrize(
    ("last", "held", "wins"), [([2.0, 3.0, 4.0], True, 3), ([9.0, -1.0, 1.0], False, 2), ([-2.0, -3.0, -4.0], False, 0)]
)
def test_the_claim_holds_if_the_paired_difference_is_above_zero(last, held, wins) -> None:
    claim = l2l_art._claim(a_comparison([[50.0, 60.0, 70.0]] * 3 + [last]), 1)
    assert claim.held == held
    assert "the best is ADAM with learning rate 0.1:" in claim.detail
    assert f"on {wins} of 3 contents" in claim.detail


# ---- the feature net ----


def test_the_feature_net_learns_to_tell_images_apart(tmp_path) -> None:
    train, test = some_images("train"), some_images("test")
    with Run(tmp_path, "net", "hash") as run:
        classifier, net = l2l_art_net.learn_features(run, 0, (8, 8), 60, 8, train.x, train.y)
    untrained = l2l_art_net.init_classifier(stream(0, "filters"), (8, 8))
    assert l2l_art_net.accuracy(classifier, test.x, test.y) == 100
    assert l2l_art_net.accuracy(untrained, test.x, test.y) < 90
    for maps in l2l_art_net.feature_maps(net, l2l_art_net.centred(train.x)):
        assert np.mean(np.square(maps)) == pytest.approx(1, rel=1e-4)


def test_a_feature_net_may_stay_untrained(tmp_path) -> None:
    train = some_images("train")
    with Run(tmp_path, "net", "hash") as run:
        classifier, _ = l2l_art_net.learn_features(run, 0, (8, 8), 0, 8, train.x, train.y)
    trees.map(np.testing.assert_array_equal, classifier, l2l_art_net.init_classifier(stream(0, "filters"), (8, 8)))


def test_accuracy_counts_every_image_once() -> None:
    classifier = l2l_art_net.init_classifier(stream(0, "filters"), (2, 2))
    images = some_images("train").x
    answers = np.argmax(l2l_art_net.logits(classifier, l2l_art_net.centred(images)), axis=1)
    right = np.where(np.arange(40) < 30, answers, answers + 1)
    assert l2l_art_net.accuracy(classifier, images, right) == 75


def test_centred_images_are_the_same_from_bytes_and_from_colours() -> None:
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_allclose(l2l_art_net.centred(levels), l2l_art_net.centred(levels / 255), atol=1e-6)
    np.testing.assert_allclose(l2l_art_net.centred(levels)[[0, -1]], [-2, 2], atol=1e-6)
    assert l2l_art_net.centred(levels).dtype == np.float32


# ---- images ----


@given(sides, st.integers(0, 2**32 - 1))
def test_a_resized_image_keeps_constants_and_its_own_size(size, seed) -> None:
    image = np.random.default_rng(seed).normal(size=(2, 3, 8, 8))
    np.testing.assert_allclose(resized(np.ones((2, 3, 8, 8)), size), np.ones((2, 3, size, size)), rtol=1e-12)
    np.testing.assert_array_equal(resized(image, 8), image)
    assert resized(image.astype(np.float32), size).dtype == np.float32


def test_smaller_images_are_means_and_larger_ones_linear_between_pixels() -> None:
    image = np.random.default_rng(0).normal(size=(3, 8, 8))
    np.testing.assert_allclose(resized(image, 4), image.reshape(3, 4, 2, 4, 2).mean(axis=(2, 4)), rtol=1e-12)
    ramp = np.broadcast_to(np.arange(8.0), (1, 8, 8))
    np.testing.assert_allclose(resized(ramp, 16)[0, 0, 1:-1], (np.arange(1, 15) + 0.5) / 2 - 0.5, rtol=1e-12)


@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_packed_images_come_back_to_half_a_level(size, seed) -> None:
    image = np.random.default_rng(seed).uniform(-3, 3, (3, size, size))
    levels = np.moveaxis(np.clip(image / 4 + 0.5, 0, 1), 0, -1) * 255
    assert np.abs(unpacked(packed(image), size) - levels).max() <= 0.5 + 1e-9
