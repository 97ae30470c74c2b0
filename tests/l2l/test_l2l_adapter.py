"""l2l.adapter: which learned optimizer is meant; and the adapters where their framework is missing."""

import importlib
import sys

import numpy as np
import pytest
from l2l import settings

from tinymeta import l2l
from tinymeta.l2l import adapter
from tinymeta.l2l import pretrained as shipped


@pytest.fixture
def learned():
    return settings.optimizer(np.random.default_rng(0), scale=0.25, dtype=np.float32)


def test_an_optimizer_is_itself(learned):
    assert adapter.open_optimizer(learned) is learned


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_a_path_is_a_file(tmp_path, learned, kind):
    learned.save(tmp_path / "mine.npz")
    assert adapter.open_optimizer(kind(tmp_path / "mine.npz")).scale == 0.25
    with pytest.raises(FileNotFoundError, match=r"other\.npz"):
        adapter.open_optimizer(kind(tmp_path / "other.npz"))


def test_another_string_is_the_name_of_a_shipped_optimizer(tmp_path, monkeypatch, learned):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    learned.save(tmp_path / "toy.npz")
    assert adapter.open_optimizer("toy").scale == 0.25
    with pytest.raises(ValueError, match="did you mean 'toy'"):
        adapter.open_optimizer("toys")


def test_other_things_are_no_optimizer(learned):
    with pytest.raises(TypeError, match="the learned optimizer is of type Weights, expected an LSTMOptimizer"):
        adapter.open_optimizer(learned.weights)


@pytest.mark.parametrize("p", [0.0, -1.0, 89.0, np.inf, np.nan])
def test_a_p_that_does_not_fit_float32_is_refused(learned, p):
    with pytest.raises(ValueError, match=r"the optimizer's p is .*, expected 0 < p < 88\.72"):
        adapter.open_optimizer(l2l.LSTMOptimizer(learned.weights, p=p))


def test_a_choice_is_one_of_those_offered():
    assert adapter.check_nonfinite("zero", ("raise", "zero")) == "zero"
    with pytest.raises(ValueError, match="nonfinite is 'propagate', expected 'raise' or 'zero'"):
        adapter.check_nonfinite("propagate", ("raise", "zero"))


@pytest.mark.parametrize(
    ("module", "package", "sentence"),
    [
        ("torch", "torch", "tinymeta.l2l.torch needs PyTorch: pip install torch"),
        ("optax", "jax", "tinymeta.l2l.optax needs JAX: pip install jax"),
    ],
    ids=["torch", "optax"],
)
def test_without_its_framework_an_adapter_says_what_to_install(monkeypatch, module, package, sentence):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, f"tinymeta.l2l.{module}", raising=False)
    with pytest.raises(ImportError) as caught:
        importlib.import_module(f"tinymeta.l2l.{module}")
    assert (str(caught.value), caught.value.name) == (sentence, package)
