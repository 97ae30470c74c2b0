"""TRPO's step: the constraint, and parameters that come back when no step is good."""

import numpy as np
import pytest

from tinymeta import ops, rl
from tinymeta.engine import trees
from tinymeta.engine.tensor import value as raw
from tinymeta.rl.trpo import SHRINK, _products

PARAMS = {"a": np.array([1.0, -2.0]), "b": np.array([[0.5]])}


def squared_distance(start, scale=1.0):
    return lambda p: (
        scale * sum(ops.sum(ops.square(x - y)) for x, y in zip(trees.leaves(p), trees.leaves(start), strict=True))
    )


@pytest.mark.parametrize("spread", [None, 0.1, 1.0])
@pytest.mark.parametrize("max_kl", [1e-4, 1e-2])
def test_the_step_is_the_natural_gradients_as_long_as_the_constraint_allows(max_kl, spread):
    """kl = ½ ‖x‖² has H = 1, near and far: the step goes down the gradient until ½ ‖step‖² = max_kl, up to the line search and the
    damping."""
    target = {"a": np.array([3.0, 3.0]), "b": np.array([[3.0]])}
    step = rl.trpo_step(squared_distance(target), squared_distance(PARAMS, 0.5), PARAMS, max_kl, spread=spread)
    assert step.accepted
    assert step.loss < step.loss_before
    assert SHRINK**2 * max_kl * 0.999 <= step.kl <= max_kl
    moved, wanted = (np.concatenate([np.ravel(x - y) for x, y in zip(trees.leaves(p), trees.leaves(PARAMS), strict=True)])
                     for p in (step.params, target))  # fmt: skip
    np.testing.assert_allclose(moved / np.linalg.norm(moved), wanted / np.linalg.norm(wanted), rtol=1e-6)


@pytest.mark.parametrize("spread", [None, 1.0])
@pytest.mark.parametrize("damping", [1e-5, 0.5])
def test_a_step_goes_less_far_where_kl_curves_more(damping, spread):
    """kl = ½ Σ h x² has H = diag(h): down g the step is (h + damping)⁻¹ g, as long as ½ stepᵀ (H + damping) step = max_kl."""
    g, h = ({"a": np.array(a), "b": np.array([[b]])} for a, b in (([1.0, 3.0], -2.0), ([0.5, 8.0], 2.0)))
    weighted = lambda weights, p: sum(ops.sum(weights[name] * p[name]) for name in weights)
    kl = lambda p: weighted(h, {name: 0.5 * ops.square(p[name] - PARAMS[name]) for name in p})
    step = rl.trpo_step(lambda p: weighted(g, p), kl, PARAMS, 1e-2, damping, spread)
    natural = {name: g[name] / (h[name] + damping) for name in g}
    length = np.sqrt(2 * 1e-2 / weighted(g, natural))
    for name in g:
        np.testing.assert_allclose(step.params[name] - PARAMS[name], -length * natural[name], rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "kl"),
    [
        (lambda p: 0.0 * ops.sum(p["a"]), squared_distance(PARAMS)),  # nothing to gain
        (
            squared_distance({"a": np.zeros(2), "b": np.zeros((1, 1))}),
            lambda p: ops.sum(ops.square(p["a"] - PARAMS["a"])) + 1.0,
        ),
    ],
    ids=["flat loss", "constraint that never holds"],
)
def test_parameters_are_restored_where_no_step_is_good(loss, kl):
    step = rl.trpo_step(loss, kl, PARAMS, 1e-3)
    assert not step.accepted
    assert step.params is PARAMS
    assert step.loss == step.loss_before


def test_differences_that_reach_less_far_come_to_the_exact_products(policy, sampled):
    policy = trees.map(lambda w: w.astype(np.float64) + 0.05, policy)  # away from where every ReLU has its kink
    v = trees.map(lambda w: np.random.default_rng(0).normal(size=w.shape), policy)
    kl = lambda p: rl.kl_divergence(p, sampled, 0.3)
    exact, near, far = (trees.leaves(_products(kl, policy, spread)(v)) for spread in (None, 1e-6, 10.0))
    for a, b in zip(exact, near, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-6)
    assert not all(np.allclose(b, a, rtol=0.1) for a, b in zip(exact, far, strict=True))


def test_differences_see_what_curves_within_their_reach():
    """Flat where it is, steep from 0.1 on: to exact products anything goes, and the line search alone holds the constraint."""
    loss = lambda p: -ops.sum(p["a"]) - ops.sum(p["b"])
    kl = lambda p: sum(
        ops.sum(ops.square(ops.maximum(x - y - 0.1, 0)))
        for x, y in zip(trees.leaves(p), trees.leaves(PARAMS), strict=True)
    )
    exact, reaching = (rl.trpo_step(loss, kl, PARAMS, 1e-2, spread=spread) for spread in (None, 1.0))
    assert not exact.accepted
    assert reaching.accepted
    assert 0.05 < np.abs(reaching.params["a"] - PARAMS["a"]).max() < 0.2


@pytest.mark.parametrize("spread", [0.0, -1.0, np.nan, np.inf])
def test_differences_over_no_distance_are_refused(spread):
    with pytest.raises(ValueError, match=f"trpo_step: spread is {spread}, expected a finite number above 0"):
        rl.trpo_step(squared_distance(PARAMS), squared_distance(PARAMS), PARAMS, 1e-2, spread=spread)


@pytest.mark.parametrize("max_kl", [0.0, -1.0, np.nan, np.inf])
def test_a_divergence_that_allows_no_step_is_refused(max_kl):
    with pytest.raises(ValueError, match=f"trpo_step: max_kl is {max_kl}, expected a finite number above 0"):
        rl.trpo_step(squared_distance(PARAMS), squared_distance(PARAMS), PARAMS, max_kl)


@pytest.mark.parametrize("damping", [-1e-5, np.nan, np.inf])
def test_damping_below_0_is_refused(damping):
    with pytest.raises(ValueError, match=f"trpo_step: damping is {damping}, expected a finite number, 0 or more"):
        rl.trpo_step(squared_distance(PARAMS), squared_distance(PARAMS), PARAMS, 1e-2, damping)


def test_a_loss_that_is_not_finite_is_refused():
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        rl.trpo_step(lambda p: np.nan * ops.sum(p["a"]), squared_distance(PARAMS), PARAMS, 1e-2)


def test_a_step_through_adaptation_lowers_the_surrogate(policy, sampled):
    step = rl.trpo_step(
        lambda p: rl.surrogate_loss(p, sampled, 0.3), lambda p: rl.kl_divergence(p, sampled, 0.3), policy, 0.01
    )
    assert step.accepted
    assert step.loss < step.loss_before
    assert 0 < step.kl <= 0.01
    assert rl.surrogate_loss(step.params, sampled, 0.3) == step.loss


def test_every_leaf_keeps_its_dtype():
    params = {"a": np.array([1.0, -2.0], np.float32), "b": np.array([[0.5]])}
    kl = lambda p: ops.sum(ops.square(p["a"] - params["a"])) + ops.sum(ops.square(p["b"] - params["b"]))
    for damping, spread in ((1e-5, None), (np.float64(1e-5), None), (1e-5, 1.0), (1e-5, np.float64(1.0))):
        step = rl.trpo_step(lambda p: ops.sum(p["a"]) + ops.sum(p["b"]), kl, params, 1e-2, damping, spread)
        assert step.accepted
        assert {name: p.dtype for name, p in step.params.items()} == {"a": np.float32, "b": np.float64}


def test_differences_that_reach_where_adaptation_diverges_take_no_step():
    def kl(p):
        if float(np.abs(raw(p["a"]) - PARAMS["a"]).max()) > 1e-3:
            raise FloatingPointError("the support loss is nan")
        return ops.sum(ops.square(p["a"] - PARAMS["a"])) + ops.sum(ops.square(p["b"] - PARAMS["b"]))

    loss = lambda p: ops.sum(p["a"]) + ops.sum(p["b"])
    assert rl.trpo_step(loss, kl, PARAMS, 1e-8).accepted
    step = rl.trpo_step(loss, kl, PARAMS, 1e-8, spread=1.0)
    assert not step.accepted
    assert step.params is PARAMS
