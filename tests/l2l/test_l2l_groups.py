"""l2l.groups.Grouped: the same as its optimizers, each alone on its parameters; trained together; saved and loaded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from l2l import settings

import tinymeta as tm
from tinymeta import l2l, ops, optim, trees
from tinymeta.l2l.groups import Grouped

PATHS = {"['a'][0]": "one", "['a'][1]": "two", "['b']": "one"}


def grouped(rng, dtype=np.float64):
    """Two optimizers of different size, scale and preprocessing."""
    one = settings.optimizer(rng, (4, 3), scale=0.3, p=10.0, dtype=dtype)
    return Grouped({"one": one, "two": settings.optimizer(rng, (5,), scale=0.7, p=None, dtype=dtype)}, PATHS.get)


def tree(rng, problems=2, dtype=np.float64):
    draw = lambda *shape: rng.normal(size=(problems, *shape)).astype(dtype)
    return {"a": (draw(3), draw(2, 2)), "b": draw()}


def problem(rng, dtype=np.float64):
    """Losses in which all parameters meet."""
    theta, target = tree(rng, dtype=dtype), rng.normal(size=(2, 4)).astype(dtype)

    def loss(theta, t):
        (v, w), s = theta["a"], theta["b"]
        product = ops.matmul(w, ops.expand_dims(v[..., :2], -1))[..., 0]
        joined = ops.concatenate([product, v[..., 1:]], axis=-1)
        return ops.sum(ops.square(ops.tanh(joined) - target * (1 + 0.1 * t)), axis=-1) + ops.square(s * v[..., 0])

    return l2l.Problem(theta, loss)


def start(optimizer, problem):
    return l2l.Carry(problem.theta, optimizer.init(problem.theta), 0)


def assert_same(a, b, rtol=0.0, atol=0.0):
    for x, y in zip(trees.leaves(a), trees.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 3), in_place=st.booleans())
def test_each_parameter_is_updated_by_its_own_optimizer_alone(seed, steps, in_place):
    rng = np.random.default_rng(seed)
    both = grouped(rng)
    state = both.init(tree(rng))
    one, two = both.optimizers["one"], both.optimizers["two"]
    like = tree(rng)
    state_one, state_two = one.init((like["a"][0], like["b"])), two.init(like["a"][1])
    for _ in range(steps):
        grads = tree(rng)
        updates, state = both.update(grads, state, in_place=in_place)
        (first, last), state_one = one.update((grads["a"][0], grads["b"]), state_one)
        middle, state_two = two.update(grads["a"][1], state_two)
        assert_same(updates, {"a": (first, middle), "b": last})
    assert_same({name: s.blocks for name, s in state.items()}, {"one": state_one.blocks, "two": state_two.blocks})


@given(seed=st.integers(0, 2**32 - 1))
def test_the_kernels_meta_gradient_is_that_of_the_traced_unroll(seed):
    rng = np.random.default_rng(seed)
    both, wanted = grouped(rng), problem(rng)
    carry = start(both, wanted)
    traced = tm.grad(lambda w: l2l.unroll(both.with_weights(w), wanted, carry, 4)[0])(both.weights)
    total, gradient, end = l2l.meta_gradient(both, wanted, carry, 4)
    expected, expected_end = l2l.unroll(both, wanted, carry, 4)
    np.testing.assert_allclose(total, expected, rtol=1e-10)
    assert_same(gradient, traced, rtol=1e-7, atol=1e-9)
    assert_same(end, expected_end, rtol=1e-9, atol=1e-9)
    assert gradient.keys() == {"one", "two"}


@pytest.mark.parametrize("second_derivatives", [False, True])
def test_meta_steps_train_all_of_them(second_derivatives):
    rng = np.random.default_rng(0)
    both, wanted, adam = grouped(rng, np.float32), problem(rng, np.float32), optim.adam(0.01)
    optimizer, moments, losses = both, adam.init(both.weights), []
    for _ in range(30):
        optimizer, moments, _, loss = l2l.meta_step(
            optimizer, wanted, None, adam, moments, 5, second_derivatives=second_derivatives
        )
        losses.append(loss)
    assert losses[-1] < 0.5 * losses[0]
    for name, weights in optimizer.weights.items():
        assert all(
            not np.array_equal(a, b)
            for a, b in zip(trees.leaves(weights), trees.leaves(both.weights[name]), strict=True)
        )


def test_saved_optimizers_are_loaded_each_from_its_file(tmp_path):
    both = grouped(np.random.default_rng(0), np.float32)
    both.save(tmp_path / "optimizer.npz", seed=3)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["optimizer.one.npz", "optimizer.two.npz"]
    again = Grouped.load(tmp_path / "optimizer.npz", ("one", "two"), both.label)
    assert_same(again.weights, both.weights)
    assert [(o.scale, o.p) for o in again.optimizers.values()] == [(0.3, 10.0), (0.7, None)]
    assert_same(l2l.LSTMOptimizer.load(tmp_path / "optimizer.two.npz").weights, both.weights["two"])


def test_labels_that_do_not_fit_are_named():
    both = grouped(np.random.default_rng(0))
    params = tree(np.random.default_rng(1))
    with pytest.raises(ValueError, match=r"the parameter \['c'\] is labelled None, expected one of \['one', 'two'\]"):
        both.init(params | {"c": params["b"]})
    with pytest.raises(ValueError, match="no parameter is labelled 'two'; leave that optimizer out"):
        both.init({"b": params["b"]})


def test_a_gradient_that_is_not_finite_changes_no_state():
    rng = np.random.default_rng(0)
    both = grouped(rng)
    _, state = both.update(tree(rng), both.init(tree(rng)))
    before = trees.map(np.copy, state)
    bad = tree(rng)
    bad["a"][1][0, 0, 1] = np.nan
    with pytest.raises(FloatingPointError, match=r"\['a'\]\[1\], float64\[2,2,2\], holds 1 value"):
        both.update(bad, state, in_place=True)
    assert_same(state, before)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_state_of_other_layers_or_other_parameters_changes_no_state(in_place):
    rng = np.random.default_rng(0)
    both, grads = grouped(rng), tree(rng)
    twisted = {"one": both.optimizers["one"], "two": settings.optimizer(rng, (2, 3), p=None)}
    _, state = both.update(grads, both.init(grads))
    before = trees.map(np.copy, state)
    with pytest.raises(ValueError, match=r"as layers of \(2, 3\) have, but is that of an optimizer with other layers"):
        Grouped(twisted, both.label).update(grads, state, in_place=in_place)
    turned = {**grads, "a": (grads["a"][0], np.ones((2, 4)))}  # group "one" comes first, and fits
    with pytest.raises(ValueError, match="the state is for parameters of other names or shapes"):
        both.update(turned, state, in_place=in_place)
    assert_same(state, before)
