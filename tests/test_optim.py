"""tinymeta.optim: each rule against its formula written out, the protocol, and derivatives through an update."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import ops, optim, trees

LR, STEPS = 0.03, 20


# ---- the rules, written out as PyTorch documents them: (gradients, lr) -> updates ----


def sgd(gradients, lr):
    return [-lr * g for g in gradients]


def momentum(gradients, lr, mu=0.9):
    updates, buffer = [], None
    for g in gradients:
        buffer = g if buffer is None else mu * buffer + g
        updates.append(-lr * buffer)
    return updates


def nag(gradients, lr, mu=0.9):
    updates, buffer = [], None
    for g in gradients:
        buffer = g if buffer is None else mu * buffer + g
        updates.append(-lr * (g + mu * buffer))
    return updates


def rmsprop(gradients, lr, alpha=0.99, eps=1e-8):
    updates, square_average = [], 0.0
    for g in gradients:
        square_average = alpha * square_average + (1 - alpha) * g**2
        updates.append(-lr * g / (np.sqrt(square_average) + eps))
    return updates


def adam(gradients, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    updates, m, v = [], 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        updates.append(-lr * m_hat / (np.sqrt(v_hat) + eps))
    return updates


RULES = {
    "sgd": (optim.sgd, sgd),
    "momentum": (optim.momentum, momentum),
    "nag": (optim.nag, nag),
    "rmsprop": (optim.rmsprop, rmsprop),
    "adam": (optim.adam, adam),
}
CONSTANTS = {
    optim.momentum: ("decay",), optim.nag: ("decay",), optim.rmsprop: ("decay", "eps"), optim.adam: ("b1", "b2", "eps"),
}  # fmt: skip
rules = pytest.mark.parametrize(("make", "rule"), RULES.values(), ids=RULES)
makers = pytest.mark.parametrize("make", [make for make, _ in RULES.values()], ids=RULES)


def run(optimizer, params, gradients):
    """The update of every step."""
    state, found = optimizer.init(params), []
    for g in gradients:
        updates, state = optimizer.update(g, state, params)
        found.append(updates)
    return found


@rules
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(), (0,), (3,), (2, 2)]),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_twenty_updates_follow_the_formula(make, rule, seed, shape, scale):
    gradients = list(scale * np.random.default_rng(seed).normal(size=(STEPS, *shape)))
    found, expected = run(make(LR), np.zeros(shape), gradients), rule(gradients, LR)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14 * scale)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (optim.momentum(LR, decay=0.5), lambda g: momentum(g, LR, 0.5)),
        (optim.nag(LR, decay=0.5), lambda g: nag(g, LR, 0.5)),
        (optim.rmsprop(LR, decay=0.9, eps=1e-2), lambda g: rmsprop(g, LR, 0.9, 1e-2)),
        (optim.adam(LR, b1=0.5, b2=0.9, eps=1e-2), lambda g: adam(g, LR, 0.5, 0.9, 1e-2)),
    ],
    ids=["momentum", "nag", "rmsprop", "adam"],
)
def test_the_constants_are_arguments(optimizer, expected):
    gradients = list(np.random.default_rng(0).normal(size=(STEPS, 3)))
    np.testing.assert_allclose(run(optimizer, np.zeros(3), gradients), expected(gradients), rtol=1e-12)


# ---- the protocol ----


class Pair(NamedTuple):
    w: Any
    b: Any


@dataclass
class Block:
    inner: Any
    scale: Any


def tree_of(rng, dtype=np.float64):
    w, b, c, s = (rng.normal(size=shape).astype(dtype) for shape in ((2, 3), (3,), (1,), (2,)))
    return {"layer": Pair(w, b), "list": [c, None], "block": Block((s,), np.asarray(rng.normal(), dtype))}


@makers
def test_a_tree_is_updated_leaf_by_leaf_and_nothing_given_is_changed(make):
    rng = np.random.default_rng(0)
    params, gradients = tree_of(rng), [tree_of(rng) for _ in range(3)]
    copies = trees.map(np.copy, (params, gradients))
    found = run(make(LR), params, gradients)
    for at, (path, leaf) in enumerate(trees.items(params)):
        alone = run(make(LR), leaf, [trees.leaves(g)[at] for g in gradients])
        for updates, expected in zip(found, alone, strict=True):
            assert dict(trees.items(updates)).keys() == dict(trees.items(params)).keys()
            np.testing.assert_array_equal(dict(trees.items(updates))[path], expected)
    for a, b in zip(trees.leaves((params, gradients)), trees.leaves(copies), strict=True):
        np.testing.assert_array_equal(a, b)


@makers
def test_a_state_can_be_used_twice(make):
    optimizer, g = make(LR), np.array([1.0, -2.0])
    _, state = optimizer.update(g, optimizer.init(g))
    np.testing.assert_array_equal(optimizer.update(g, state)[0], optimizer.update(g, state)[0])
    assert optimizer.update(g, state)[1].step == state.step + 1 == 2


@pytest.mark.parametrize("make", [optim.momentum, optim.nag, optim.rmsprop, optim.adam])
def test_gradients_of_another_tree_than_the_states_are_refused(make):
    optimizer = make(LR)
    with pytest.raises(ValueError, match=r"trees differ at .*: expected keys \['w'\]"):
        optimizer.update({"v": np.ones(2)}, optimizer.init({"w": np.ones(2)}))


OTHER_SHAPE = r"\['w'\] is float64\[3,1\], expected the shape of its parameter, \[2\]"


def test_updates_of_other_shapes_are_refused_by_name_and_not_broadcast():
    with pytest.raises(ValueError, match=OTHER_SHAPE):
        optim.apply_updates({"w": np.ones(2)}, {"w": np.ones((3, 1))})


@pytest.mark.parametrize("make", [optim.momentum, optim.nag, optim.rmsprop, optim.adam])
def test_gradients_of_other_shapes_are_refused_by_name_and_not_broadcast(make):
    params, optimizer = {"w": np.ones(2)}, make(LR)
    with pytest.raises(ValueError, match=OTHER_SHAPE):
        optimizer.update({"w": np.ones((3, 1))}, optimizer.init(params), params)
    one = tm.vmap(lambda g: optimizer.update({"w": g}, optimizer.init(params))[0]["w"])
    assert one(np.ones((5, 2))).shape == (5, 2)


@makers
@pytest.mark.parametrize(
    "rate",
    [-0.1, np.float32(-0.1), np.nan, np.inf, "0.1", None, lambda t: -0.1],
    ids=lambda r: "schedule" if callable(r) else repr(r),
)
def test_a_rate_that_is_no_number_or_climbs_is_refused(make, rate):
    optimizer, g = make(rate), np.ones(2)
    with pytest.raises(ValueError, match=r"the learning rate is .*, expected a finite number, 0 or more"):
        optimizer.update(g, optimizer.init(g))


def test_apply_updates_adds_leaf_by_leaf():
    params, updates = (
        {"w": np.array([1.0, 2.0]), "b": [np.array(3.0)]},
        {"w": np.array([0.5, -2.0]), "b": [np.array(1.0)]},
    )
    result = optim.apply_updates(params, updates)
    np.testing.assert_array_equal(result["w"], [1.5, 0.0])
    assert result["b"][0] == 4.0
    with pytest.raises(ValueError, match="trees differ"):
        optim.apply_updates(params, {"w": updates["w"]})


def test_apply_updates_keeps_the_dtypes_of_parameters():
    assert optim.apply_updates(np.ones(2, np.float32), np.ones(2)).dtype == np.float32


@makers
def test_numbers_are_parameters_too(make):
    params, of_arrays = {"a": 1.0, "b": np.ones(2)}, {"a": np.array(1.0), "b": np.ones(2)}
    found = []
    for tree in (params, of_arrays):
        optimizer = make(np.asarray(LR))
        state = optimizer.init(tree)
        for _ in range(2):
            updates, state = optimizer.update(optim.clip_by_global_norm(tree, 1.0), state, tree)
            tree = optim.apply_updates(tree, updates)
        found.append(tree)
    np.testing.assert_array_equal(found[0]["a"], found[1]["a"])
    np.testing.assert_array_equal(found[0]["b"], found[1]["b"])


@makers
@pytest.mark.parametrize("rate", [LR, np.float64(LR), optim.cosine(LR, 10)], ids=["float", "float64", "schedule"])
def test_float32_stays_float32(make, rate):
    rng = np.random.default_rng(0)
    params = tree_of(rng, np.float32)
    optimizer = make(rate)
    state = optimizer.init(params)
    for _ in range(2):
        updates, state = optimizer.update(tree_of(rng, np.float32), state, params)
        assert {x.dtype for x in trees.leaves((updates, state.m, state.v))} == {np.dtype(np.float32)}
    assert {x.dtype for x in trees.leaves(optim.apply_updates(params, updates))} == {np.dtype(np.float32)}


@pytest.mark.parametrize("number", [np.float64, np.longdouble])
@pytest.mark.parametrize(("make", "constants"), CONSTANTS.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_constants_of_numpy_do_not_decide_on_the_dtype(make, constants, number):
    optimizer, w = make(LR, **{name: number(0.5) for name in constants}), np.ones(3, np.float32)
    updates, state = optimizer.update(w, optimizer.init(w))
    assert {x.dtype for x in trees.leaves((updates, state.m, state.v))} == {np.dtype(np.float32)}


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf, "0.1", None])
@pytest.mark.parametrize(
    ("make", "name"), [(m, n) for m, names in CONSTANTS.items() for n in names], ids=lambda x: getattr(x, "__name__", x)
)
def test_constants_that_are_no_number_or_out_of_range_are_refused(make, name, value):
    with pytest.raises(ValueError, match=rf"{make.__name__}: {name} is .*, expected .*0 or more"):
        make(LR, **{name: value})
    if name != "eps":
        with pytest.raises(ValueError, match=rf"{make.__name__}: {name} is 1.0, expected 0 or more and less than 1"):
            make(LR, **{name: 1.0})


@pytest.mark.parametrize("make", [optim.rmsprop, optim.adam])
def test_an_eps_that_the_parameters_round_to_0_is_refused(make):
    params = {"w": np.zeros(2, np.float16)}
    with pytest.raises(
        ValueError, match=rf"{make.__name__}: eps = 1e-08 is 0 in float16, of which parameters\['w'\] are"
    ):
        make(LR).init(params)
    optimizer = make(LR, eps=1e-4)
    updates, _ = optimizer.update(params, optimizer.init(params))
    np.testing.assert_array_equal(updates["w"], np.zeros(2, np.float16))


# ---- rates and clipping ----


@rules
def test_a_schedule_is_called_with_the_step_number_from_zero(make, rule):
    gradients = list(np.random.default_rng(0).normal(size=(STEPS, 2)))
    rates = [0.5 / (t + 1) for t in range(STEPS)]
    found = run(make(lambda t: rates[t]), np.zeros(2), gradients)
    for update, at_rate_one, rate in zip(found, rule(gradients, 1.0), rates, strict=True):
        np.testing.assert_allclose(update, rate * at_rate_one, rtol=1e-11)


def test_cosine_falls_along_half_a_period_and_stays():
    rate = optim.cosine(2.0, 100, final=0.25)
    assert rate(0) == 2.0
    assert rate(50) == pytest.approx(2.0 * (1 + 0.25) / 2)
    assert rate(100) == rate(1000) == pytest.approx(0.5)
    assert optim.cosine(1.0, 10)(10) == pytest.approx(0.03)
    falling = [rate(t) for t in range(101)]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize("number", [0, -1, np.nan, np.inf, None])
def test_limits_and_lengths_are_above_0(number):
    with pytest.raises(ValueError, match=f"clip_by_global_norm: limit is {number}, expected a finite number above 0"):
        optim.clip_by_global_norm(np.zeros(2), number)
    with pytest.raises(ValueError, match=f"cosine: steps is {number}, expected 1 or more"):
        optim.cosine(0.1, number)
    with pytest.raises(ValueError, match=r"cosine: steps is 0.5, expected 1 or more"):
        optim.cosine(0.1, 0.5)


entries = st.floats(-1e3, 1e3, width=32)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@given(values=st.lists(entries, min_size=1, max_size=6), limit=st.sampled_from([0.1, 1.0, 50.0]))
@example(values=[0.0, 0.0], limit=1.0)
@example(values=[3.0, 4.0], limit=5.0)
def test_clipping_keeps_the_direction_and_limits_the_joint_norm(dtype, values, limit):
    g = {"a": np.array(values[:1], dtype), "b": [np.array(values[1:], dtype)]}
    clipped = optim.clip_by_global_norm(g, limit)
    flat, result = (np.concatenate([tree["a"], tree["b"][0]]) for tree in (g, clipped))
    norm, eps = math.sqrt(math.fsum(float(x) ** 2 for x in flat)), np.finfo(dtype).eps
    assert result.dtype == dtype
    np.testing.assert_allclose(
        result, flat * min(1.0, limit / norm if norm else 1.0), rtol=8 * eps, atol=np.finfo(dtype).tiny
    )
    if norm < limit * (1 - 8 * eps):
        np.testing.assert_array_equal(result, flat)


@given(limit=st.sampled_from([1.0, np.float64(1), np.float32(1), 100.0]))
def test_clipping_keeps_the_dtype_of_every_leaf(limit):
    g = {"a": np.array([3.0, 4.0], np.float32), "b": np.array(12.0), "c": np.array([0.0], np.float32)}
    clipped = optim.clip_by_global_norm(g, limit)
    assert [x.dtype for x in trees.leaves(clipped)] == [x.dtype for x in trees.leaves(g)]
    norm = np.sqrt(sum(float(np.sum(x**2)) for x in trees.leaves(clipped)))
    np.testing.assert_allclose(norm, min(limit, 13), rtol=1e-6)


def test_clipping_no_gradients_gives_none():
    for empty in ({}, [], {"a": None, "b": ()}):
        assert optim.clip_by_global_norm(empty, 1.0) == empty


def test_clipping_gradients_of_zero_has_finite_derivatives_of_order_two():
    zero = {"a": np.zeros(2), "b": np.zeros(())}

    def f(g):
        return sum((ops.sum(x * (x + 1)) for x in trees.leaves(optim.clip_by_global_norm(g, 1.0))), start=0.0)

    gradient, curvature = tm.grad(f)(zero), tm.hvp(f, zero, trees.map(np.ones_like, zero))
    for g, h in zip(trees.leaves(gradient), trees.leaves(curvature), strict=True):
        np.testing.assert_array_equal(g, 1.0)  # f is g² + g where nothing is clipped
        np.testing.assert_array_equal(h, 2.0)


# ---- derivatives through updates ----


@makers
def test_derivatives_through_an_update_at_zero_gradient_are_finite(make):
    """A dead unit's gradient is exactly 0, and the derivative of sqrt at 0 must not make its NaN everybody's."""
    at = np.array([0.0, 0.5, 0.0])

    def f(g):
        optimizer = make(LR)
        first, state = optimizer.update(g, optimizer.init(np.zeros(g.shape)))
        second, _ = optimizer.update(g * g, state)
        return ops.sum(ops.square(first)) + ops.sum(second)

    assert np.isfinite(tm.grad(f)(at)).all()
    hessian = tm.hessian(f)(at)
    assert np.isfinite(hessian).all()
    np.testing.assert_allclose(hessian, np.diag(np.diag(hessian)), atol=0)
    live = tm.hessian(f)(at[1:2])
    np.testing.assert_allclose(hessian[1, 1], live[0, 0], rtol=1e-12)


@makers
def test_the_meta_gradient_through_three_steps_is_the_finite_difference(make):
    """Of the start, the curvature of the loss and the logarithm of the learning rate: second order too."""

    def after_three_steps(theta, w, log_lr):
        optimizer = make(1.0)
        state = optimizer.init(np.zeros(3))
        for _ in range(3):
            g = tm.grad(lambda x: ops.sum(ops.tanh(w * x) ** 2))(theta)
            updates, state = optimizer.update(g, state)
            theta = theta + ops.exp(log_lr) * updates
        return ops.sum(ops.square(theta - 1))

    theta, w = np.array([0.3, -0.8, 1.1]), np.array([1.3, 0.7, 0.9])
    tm.check.gradients(after_three_steps, theta, w, np.array(-2.0), order=2)


def test_a_learning_rate_can_itself_be_differentiated():
    g = np.array([2.0, -1.0])

    def descent(lr):
        optimizer = optim.sgd(lr)
        return ops.sum(g * optimizer.update(g, optimizer.init(g))[0])

    assert tm.grad(descent)(np.array(0.1)) == -np.sum(g * g)
