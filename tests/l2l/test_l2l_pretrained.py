"""l2l.pretrained: the shipped optimizers, by name, with what made them."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from l2l import adapters, settings

from tinymeta import l2l, trees
from tinymeta.kernels.lstm import reference
from tinymeta.l2l import pretrained as shipped
from tools.ship_optimizer import ship

NOTES = {
    "experiment": "l2l-toy", "preset": "custom", "seed": 3, "config": {"p": 10.0}, "result": {"loss": 0.5},
    "versions": {"numpy": "2"},
}  # fmt: skip


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


@pytest.mark.parametrize("name", shipped.names())
def test_a_coordinate_survives_inf_and_not_nan(name):
    """As docs/adapters.md has it. By the kernel, since update refuses both."""
    optimizer = shipped.pretrained(name)
    gradients = np.full((20, 3), 0.3, np.float32)
    gradients[5] = np.inf, np.nan, 0.3
    with np.errstate(invalid="ignore"):
        updates, state = reference.unroll_forward(
            optimizer.weights, reference.zero_state(optimizer.weights, 3), gradients, optimizer.scale, optimizer.p
        )
    assert np.isfinite(updates[:, [0, 2]]).all()
    assert np.isnan(updates[5:, 1]).all()
    assert not np.isclose(updates[5:, 0], updates[5:, 2], rtol=0.01).all()
    assert all(np.isfinite(x[[0, 2]]).all() for x in trees.leaves(state))


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


# ---- what is shipped ----


def steps_of(name):
    """Gradients of the sizes that the optimizer may meet."""
    return [adapters.gradients(np.random.default_rng(seed)) for seed in range(adapters.STEPS)]


def test_the_optimizers_of_the_documentation_are_shipped():
    docs = Path(__file__).parents[2] / "docs"
    named = {name for page in docs.glob("*.md") for name in re.findall(r'pretrained\("([^"]+)"\)', page.read_text())}
    assert named <= set(shipped.names())
    assert "quadratic" in shipped.names()


@pytest.mark.parametrize("name", shipped.names())
def test_a_shipped_optimizer_beats_the_tuned_baselines_that_its_result_records(name):
    losses = {key: x for key, x in shipped.notes(name)["result"].items() if "loss at step" in key}
    learned = {key.removeprefix("LSTM, "): x for key, x in losses.items() if key.startswith("LSTM, ")}
    first = next(iter(learned))
    rivals = [losses[f"{baseline}, {first}"] for baseline in l2l.BASELINES]
    assert learned[first] < min(rivals)


@pytest.mark.parametrize("name", shipped.names())
def test_torch_gives_the_updates_of_a_shipped_optimizer(name):
    torch = pytest.importorskip("torch")
    from tinymeta.l2l.torch import LSTMOptimizer

    steps, learned = steps_of(name), l2l.LSTMOptimizer.pretrained(name)
    params = {key: torch.zeros(g.shape, requires_grad=True) for key, g in steps[0].items()}
    optimizer, found = LSTMOptimizer(params.values(), name), []
    for gradients in steps:
        for key, p in params.items():
            p.data.zero_()
            p.grad = torch.tensor(gradients[key])
        optimizer.step()
        found.append({key: p.detach().numpy().copy() for key, p in params.items()})
    adapters.assert_same(found, adapters.expected(learned, steps), learned)


@pytest.mark.parametrize("name", shipped.names())
def test_optax_gives_the_updates_of_a_shipped_optimizer(name):
    jax = pytest.importorskip("jax")
    from tinymeta.l2l.optax import lstm_optimizer

    steps, learned, rule = steps_of(name), l2l.LSTMOptimizer.pretrained(name), lstm_optimizer(name)
    state, update, found = rule.init(steps[0]), jax.jit(rule.update), []
    for gradients in steps:
        updates, state = update(gradients, state)
        found.append({key: np.asarray(x) for key, x in updates.items()})
    adapters.assert_same(found, adapters.expected(learned, steps), learned)


# ---- shipping ----


@pytest.fixture
def run(tmp_path, folder):
    """The folder of a finished run; the shipped files are in another."""
    made = tmp_path / "runs"
    made.mkdir()
    (made / "result.json").write_text("{}")
    settings.optimizer(np.random.default_rng(1), dtype=np.float32).save(made / "optimizer.npz", **NOTES)
    return made


def test_a_run_s_optimizer_is_shipped_as_it_is(run, folder):
    assert ship(run, "new-mlp") == folder / "new-mlp.npz"
    assert (folder / "new-mlp.npz").read_bytes() == (run / "optimizer.npz").read_bytes()
    assert faults("new-mlp") == []


def test_what_cannot_be_shipped_is_refused_and_nothing_is_written(run, folder):
    def refused(name, sentence):
        before = sorted(folder.rglob("*"))
        with pytest.raises(SystemExit, match=sentence):
            ship(run, name)
        assert sorted(folder.rglob("*")) == before

    refused("../mlp", "not of the form mnist-mlp")
    optimizer = settings.optimizer(np.random.default_rng(1), dtype=np.float64)
    optimizer.save(run / "optimizer.npz", **{key: NOTES[key] for key in NOTES if key != "result"})
    refused("new-mlp", r"lacks \['result'\], is of .*float64.*expected all notes, float32")
    (run / "result.json").unlink()
    refused("new-mlp", "no result.json or no optimizer.npz")
