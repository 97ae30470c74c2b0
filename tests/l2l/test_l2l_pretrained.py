"""l2l.pretrained: the shipped optimizers, by name, with what made them."""

import dataclasses

import numpy as np
import pytest
from l2l import settings

from tinymeta import l2l, trees
from tinymeta.l2l import pretrained as shipped

NOTES = {"experiment": "l2l-toy", "seed": 3, "config": {"p": 10.0}, "result": {"loss": 0.5}, "versions": {"numpy": "2"}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of shipped files, with two in it and something else."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    rng = np.random.default_rng(0)
    for name, p in (("toy-mlp", 10.0), ("a-toy-quadratic", None)):
        settings.optimizer(rng, p=p, dtype=np.float32).save(tmp_path / f"{name}.npz", **NOTES)
    (tmp_path / "README.md").write_text("no optimizer")
    return tmp_path


def faults(name):
    """What is wrong with a shipped optimizer."""
    path, optimizer, notes = shipped.FOLDER / f"{name}.npz", shipped.pretrained(name), shipped.notes(name)
    found = [f"no {key}" for key in NOTES if key not in notes]
    found += ["not float32"] if any(x.dtype != np.float32 for x in trees.leaves(optimizer.weights)) else []
    return found + (["not below 40 kB"] if path.stat().st_size >= 40_000 else [])


@pytest.mark.parametrize("name", shipped.names())
def test_a_shipped_optimizer_loads_is_small_and_says_what_made_it(name):
    assert faults(name) == []


def test_faults_of_a_shipped_optimizer_would_be_noticed(folder):
    assert faults("toy-mlp") == []
    large = settings.optimizer(np.random.default_rng(0), hidden=(40, 40))
    large.save(folder / "large.npz", **{key: NOTES[key] for key in NOTES if key != "seed"})
    assert faults("large") == ["no seed", "not float32", "not below 40 kB"]


def test_names_are_those_of_the_files_in_order(folder):
    assert shipped.names() == ("a-toy-quadratic", "toy-mlp")


def test_without_the_folder_there_are_no_names(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "nowhere")
    assert shipped.names() == ()
    with pytest.raises(ValueError, match="'toy'; there are: none"):
        shipped.pretrained("toy")


def test_a_name_gives_the_optimizer_that_was_saved_and_its_notes(folder):
    loaded, saved = shipped.pretrained("toy-mlp"), l2l.LSTMOptimizer.load(folder / "toy-mlp.npz")
    for a, b in zip(trees.leaves(loaded.weights), trees.leaves(saved.weights), strict=True):
        np.testing.assert_array_equal(a, b)
    assert dataclasses.replace(loaded, weights=None) == dataclasses.replace(saved, weights=None)
    assert shipped.notes("toy-mlp") == NOTES


@pytest.mark.parametrize("read", [shipped.pretrained, shipped.notes], ids=["pretrained", "notes"])
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("toy-mpl", "did you mean 'toy-mlp'?"),
        ("mnist", "there are: a-toy-quadratic, toy-mlp"),
        ("../toy-mlp", "did you mean 'toy-mlp'?"),
        ("", "there are: a-toy-quadratic, toy-mlp"),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_come_close(folder, read, name, hint):
    with pytest.raises(ValueError) as caught:
        read(name)
    assert str(caught.value) == f"no learned optimizer is shipped under the name {name!r}; {hint}"
