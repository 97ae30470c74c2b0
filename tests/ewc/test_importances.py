"""SI, MAS and Adam's second moment against their definitions written as loops, and against what they should measure."""

import numpy as np
import pytest
from ewc.every_rule import NETS
from hypothesis import given, settings
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import ewc, nets, ops, optim
from tinymeta.engine import trees

seeds = st.integers(0, 2**32 - 1)


def assert_trees_close(found, expected, rtol=1e-10):
    trees.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol=rtol), found, expected)


# ---- synaptic intelligence ----


@given(seed=seeds, xi=st.sampled_from([1e-3, 0.1, 1.0]))
def test_the_path_integral_is_that_of_the_paper(seed, xi):
    rng = np.random.default_rng(seed)
    params = start = {"w": rng.normal(size=(2, 3))}
    si, omega = ewc.PathIntegral.begin(params, xi), np.zeros((2, 3))
    for _ in range(2):
        path = np.zeros((2, 3))
        for _ in range(4):
            grads, after = {"w": rng.normal(size=(2, 3))}, {"w": params["w"] + 0.1 * rng.normal(size=(2, 3))}
            si = si.step(grads, params, after)
            path -= grads["w"] * (after["w"] - params["w"])
            params = after
        omega = np.maximum(omega + path / ((params["w"] - start["w"]) ** 2 + xi), 0)
        start, si = params, si.end_task(params)
        np.testing.assert_allclose(si.omega["w"], omega, rtol=1e-12)
    moved = {"w": params["w"] + 0.5}
    assert si.penalty(0.3).value(moved) == pytest.approx(0.3 * np.sum(omega) * 0.25)
    assert si.penalty(0.3).value(params) == 0


def test_along_small_steps_the_path_integral_sums_to_the_fall_of_the_loss():
    loss = lambda w: ops.sum(ops.square(w) * np.array([1.0, 4.0])) / 2
    w = before = np.array([1.0, -1.0])
    si = ewc.PathIntegral.begin(w)
    for _ in range(2000):
        g = tm.grad(loss)(w)
        si, w = si.step(g, w, w - 1e-3 * g), w - 1e-3 * g
    assert np.sum(si.path) == pytest.approx(loss(before) - loss(w), rel=1e-2)
    assert si.path[1] == pytest.approx(2.0, rel=1e-2)  # what this weight alone has gained: 4/2


def test_a_penalty_in_the_gradients_would_change_it():
    """Why step takes the gradients of the loss alone."""
    penalty, w = ewc.Penalty(10.0).add_task(np.zeros(2), np.ones(2)), np.array([0.5, 0.5])
    g, si = np.array([1.0, -1.0]), ewc.PathIntegral.begin(w)
    after = w - 0.1 * (g + penalty.grad(w))
    assert not np.allclose(si.step(g, w, after).path, si.step(g + penalty.grad(w), w, after).path)


@pytest.mark.parametrize("xi", [0.0, -1.0, np.nan, np.inf])
def test_xi_must_be_positive(xi):
    with pytest.raises(ValueError, match=r"xi is .*, expected a finite number above 0"):
        ewc.PathIntegral.begin(np.zeros(2), xi)


def test_other_trees_are_refused():
    si = ewc.PathIntegral.begin({"w": np.zeros(2)})
    with pytest.raises(ValueError, match=r"PathIntegral.step: grads\['w'\] is float64\[3\], expected float64\[2\]"):
        si.step({"w": np.zeros(3)}, {"w": np.zeros(2)}, {"w": np.zeros(2)})
    with pytest.raises(ValueError, match=r"PathIntegral.step: after\['w'\] is float64\[1,2\], expected float64\[2\]"):
        si.step({"w": np.zeros(2)}, {"w": np.zeros(2)}, {"w": np.zeros((1, 2))})
    with pytest.raises(ValueError, match="trees differ at the root"):
        si.end_task({"v": np.zeros(2)})


# ---- memory aware synapses ----


@pytest.mark.parametrize("name", [name for name in NETS if name != "two-faced"])
@pytest.mark.filterwarnings("ignore::tinymeta.ewc.SlowFisher")
@settings(max_examples=4)
@given(seed=seeds, count=st.integers(1, 5))
def test_mas_is_the_mean_of_absolute_gradients_by_every_rule(name, seed, count):
    make, net, _ = NETS[name]
    params, x = make(np.random.default_rng(seed), count)
    expected = trees.map(np.zeros_like, params)
    for n in range(count):
        g = tm.grad(lambda p: np.sum(net(p, x[n : n + 1]) ** 2))(params)  # noqa: B023
        expected = trees.map(lambda t, g: t + np.abs(g) / count, expected, g)
    assert_trees_close(ewc.mas_importance(net, params, x), expected)


def test_mas_takes_any_outputs_and_refuses_what_mixes_samples():
    rng = np.random.default_rng(0)
    params, x = nets.init_mlp(rng, (3, 4, 1), dtype=np.float64), rng.normal(size=(5, 3))
    assert ewc.mas_importance(nets.mlp, params, x)[1].b > 0
    with pytest.raises(ValueError, match="mas_importance: the logits of a sample change by"):
        ewc.mas_importance(lambda p, x: nets.mlp(p, x - ops.mean(x, axis=0)), params, x)
    with pytest.raises(ValueError, match="at least one sample"):
        ewc.mas_importance(nets.mlp, params, x[:0])


# ---- Adam's second moment ----


def test_the_squisher_tends_to_the_empirical_fisher_at_a_minimum():
    """Adam at rate 0 on a regression without noise in x: v becomes the mean squared gradient of batches."""
    rng = np.random.default_rng(3)
    params = nets.init_mlp(rng, (4, 3), dtype=np.float64)
    x = rng.normal(size=(512, 4))
    p = ops.softmax(nets.mlp(params, x))
    y = (rng.random(512)[:, None] > np.cumsum(p, axis=1)).sum(
        axis=1
    )  # drawn from the model: the mean gradient is near 0
    loss = lambda p, at: ops.mean(ops.softmax_cross_entropy(nets.mlp(p, x[at]), y[at]))
    optimizer = optim.adam(0.0)
    state = optimizer.init(params)
    for _ in range(3000):
        _, state = optimizer.update(tm.grad(loss)(params, rng.integers(512, size=8)), state)
    found = ewc.squisher(state, batch_size=8)
    expected = ewc.fisher_diagonal(nets.mlp, params, x, y, "empirical")
    for a, b in zip(trees.leaves(found), trees.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0.2)


def test_after_one_step_the_squisher_is_the_batched_fisher_of_that_batch():
    rng = np.random.default_rng(4)
    params = nets.init_mlp(rng, (4, 5, 3))
    x, y = rng.normal(size=(8, 4)).astype(np.float32), rng.integers(3, size=8)
    optimizer = optim.adam(0.1)
    g = tm.grad(lambda p: ops.mean(ops.softmax_cross_entropy(nets.mlp(p, x), y)))(params)
    _, state = optimizer.update(g, optimizer.init(params))
    found, expected = ewc.squisher(state, 8), ewc.fisher_diagonal(nets.mlp, params, x, y, "batched", batch_size=8)
    assert {F.dtype for F in trees.leaves(found)} == {np.dtype(np.float32)}
    assert_trees_close(found, expected, rtol=1e-4)


def test_the_squisher_undoes_the_bias_of_the_decay_that_its_adam_had():
    g, optimizer = np.array([3.0, -0.5]), optim.adam(0.1, b2=0.9)
    state = optimizer.init(g)
    for _ in range(2):
        _, state = optimizer.update(g, state)
    np.testing.assert_allclose(ewc.squisher(state, 8, b2=0.9), 8 * g**2, rtol=1e-12)


def test_a_state_without_moments_or_steps_is_refused():
    params = np.ones(2)
    with pytest.raises(ValueError, match="a state after 0 steps"):
        ewc.squisher(optim.adam(0.1).init(params), 8)
    with pytest.raises(ValueError, match="without a second moment"):
        ewc.squisher(optim.State(3), 8)
    for batch_size in (0, np.nan):
        with pytest.raises(ValueError, match=f"batch_size is {batch_size}"):
            ewc.squisher(optim.State(3, params, params), batch_size)
