from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from maml.problems import assert_close, difference, inner, mse, net, points, random_like, task

import tinymeta as tm
from tinymeta import maml, ops

seeds = st.integers(0, 2**32 - 1)
LR = 0.1
UNROLLED = {"maml": maml.maml, "anil": maml.anil, "meta_sgd": maml.meta_sgd, "maml_plus_plus": maml.maml_plus_plus}
METHODS = {
    **{name: build(LR, 3) for name, build in UNROLLED.items()},
    "first order": maml.maml(LR, 3, order=1),
    "reptile": maml.reptile(LR, 3),
    "implicit": maml.implicit(LR, 3, strength=4.0),
}


def draw(seed, *tasks):
    rng = np.random.default_rng(seed)
    return rng, net(rng), points(rng, *tasks, 5), points(rng, *tasks, 4)


def by_hand(params, support, rates):
    """θ' by an independent loop; a rate tree for each step."""
    for rate in rates:
        params = tm.trees.map(lambda p, g, r: p - r * g, params, tm.grad(mse)(params, support), rate)
    return params


def constant(params, steps, lr=LR):
    return [tm.trees.map(lambda _: lr, params)] * steps


@pytest.mark.parametrize("name", UNROLLED)
@given(seeds, st.integers(1, 3), st.sampled_from([(), (3,)]), st.booleans())
@settings(max_examples=8, deadline=None)
def test_unrolled_meta_gradients_are_derivatives_of_their_value(name, seed, steps, tasks, weighted):
    rng, params, support, query = draw(seed, *tasks)
    method = UNROLLED[name](LR, steps)
    meta, weights = method.init(params), maml.step_weights(steps, 0.4) if weighted else None

    def value_and_gradient(m):
        return method.meta_gradient(mse, m, support, query, weights)

    v = random_like(rng, meta)
    numeric = difference(lambda m: value_and_gradient(m)[0], meta, v)
    np.testing.assert_allclose(inner(value_and_gradient(meta)[1], v), numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_of_tasks_is_the_mean_of_its_tasks(name):
    _, params, support, query = draw(0, 3)
    method = METHODS[name]
    meta = method.init(params)
    alone = [method.meta_gradient(mse, meta, task(support, t), task(query, t)) for t in range(3)]
    together = method.meta_gradient(mse, meta, support, query)
    assert_close(together, tm.trees.map(lambda *x: sum(x) / 3, *alone))


@pytest.mark.parametrize("name", METHODS)
def test_float32_stays_float32_and_the_value_is_that_of_the_path(name):
    rng = np.random.default_rng(0)
    params, method = net(rng, np.float32), METHODS[name]
    support, query = (points(rng, 3, n, dtype=np.float32) for n in (5, 4))
    meta = method.init(params)
    value, gradient = method.meta_gradient(mse, meta, support, query)
    assert {x.dtype for x in tm.trees.leaves((meta, value, gradient))} == {np.dtype(np.float32)}
    tm.trees.map(lambda m, g: np.testing.assert_equal(g.shape, m.shape), meta, gradient)
    path = method.path(mse, meta, support, 3)
    assert len(path) == 4
    if name != "reptile":  # which also descends the query loss
        np.testing.assert_allclose(value, np.mean(mse(path[-1], query)), rtol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_path_begins_at_the_initial_parameters_and_goes_on_beyond_the_steps_of_training(name):
    _, params, support, _ = draw(1, 2)
    method = METHODS[name]
    path = method.path(mse, method.init(params), support, 8)
    np.testing.assert_allclose(mse(path[0], support), mse(params, support))
    assert (mse(path[8], support) < mse(path[3], support)).all()
    assert (mse(path[3], support) < mse(path[0], support)).all()


def test_rates_begin_as_those_of_maml():
    _, params, support, query = draw(2, 3)
    value, gradient = maml.maml(LR, 2).meta_gradient(mse, params, support, query)
    for learned in (maml.meta_sgd(LR, 2), maml.maml_plus_plus(LR, 2)):
        found, with_rates = learned.meta_gradient(mse, learned.init(params), support, query)
        assert_close((found, with_rates.params), (value, gradient))


def test_meta_sgd_steps_by_a_rate_for_each_element():
    rng, params, support, _ = draw(3)
    rates = tm.trees.map(lambda p: rng.uniform(0, 0.2, p.shape), params)
    path = maml.meta_sgd(LR, 2).path(mse, maml.WithRates(params, rates), support, 2)
    assert_close(path[-1], by_hand(params, support, [rates, rates]))


def test_maml_plus_plus_steps_by_a_rate_for_each_leaf_and_step():
    rng, params, support, _ = draw(4)
    rates = tuple(tm.trees.map(lambda p: rng.uniform(0, 0.2, ()), params) for _ in range(2))
    path = maml.maml_plus_plus(LR, 2).path(mse, maml.WithRates(params, rates), support, 3)
    each = [rates[0], rates[1], rates[1]]  # beyond the last step: its rates
    assert_close(path[-1], by_hand(params, support, each))


def test_the_multi_step_loss_is_the_weighted_sum_over_steps():
    _, params, support, query = draw(5)
    weights = np.array([0.2, 0.3, 0.5])
    path = maml.adaptation_path(mse, params, support, LR, 3)
    expected = sum(w * mse(fast, query) for w, fast in zip(weights, path[1:], strict=True))
    np.testing.assert_allclose(maml.meta_loss(mse, params, support, query, LR, 3, weights=weights), expected)
    last = maml.meta_loss(mse, params, support, query, LR, 3, weights=np.array([0.0, 0.0, 1.0]))
    np.testing.assert_allclose(last, maml.meta_loss(mse, params, support, query, LR, 3))


@given(st.integers(1, 8), st.floats(0, 3))
def test_step_weights(steps, progress):
    weights = maml.step_weights(steps, progress, dtype=np.float64)
    np.testing.assert_allclose(weights.sum(), 1)
    assert (weights[:-1] <= weights[-1] + 1e-12).all()
    np.testing.assert_allclose(maml.step_weights(steps, 0.0, dtype=np.float64), np.full(steps, 1 / steps))
    np.testing.assert_allclose(maml.step_weights(steps, 1.0, dtype=np.float64)[:-1], 0.03 / steps)


@pytest.mark.parametrize("progress", [0.25, 0.5, 0.9])
def test_the_weights_of_early_steps_fall_as_what_is_left_of_the_annealing(progress):
    early = (1 - progress) / 4
    np.testing.assert_allclose(maml.step_weights(4, progress), [early] * 3 + [1 - 3 * early], rtol=1e-6)


def test_anil_changes_the_head_alone_and_meta_learns_the_body():
    _, params, support, query = draw(6, 3)
    method = maml.anil(LR, 2)
    *body, head = method.path(mse, params, support, 2)[-1]
    assert_close(tuple(body), params[:-1], rtol=0, atol=0)
    assert head.w.shape == (3, *params[-1].w.shape)
    assert not np.allclose(head.w, params[-1].w)
    *body_gradient, _ = method.meta_gradient(mse, params, support, query)[1]
    assert all(np.abs(leaf).max() > 0 for leaf in tm.trees.leaves(body_gradient) if leaf.ndim == 2)


class Net(NamedTuple):
    body: Any
    head: Any


CONTAINERS = {  # of layers: how to put them in, and how to take them out
    "list": (list, tuple),
    "NamedTuple": (lambda layers: Net(layers[:-1], layers[-1]), lambda net: (*net.body, net.head)),
    "dict": (lambda layers: {"body": layers[:-1], "head": layers[-1]}, lambda net: (*net["body"], net["head"])),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_anil_takes_layers_in_any_container(kind):
    _, layers, support, query = draw(6, 3)
    (pack, unpack), method = CONTAINERS[kind], maml.anil(LR, 2)
    loss = lambda params, data: mse(unpack(params), data)
    value, gradient = method.meta_gradient(loss, pack(layers), support, query)
    assert_close((value, unpack(gradient)), method.meta_gradient(mse, layers, support, query))
    path = method.path(loss, pack(layers), support, 2)
    assert {type(params) for params in path} == {type(pack(layers))}
    assert_close([unpack(params) for params in path], method.path(mse, layers, support, 2))


@pytest.mark.parametrize("params", [np.ones(3), (), {}, None])
def test_anil_says_how_to_name_another_part(params):
    with pytest.raises(ValueError, match=r"expected layers in a tuple, .* that is adapted by maml\(part=\.\.\.\)"):
        maml.anil(LR, 1).meta_gradient(mse, params, 1.0, 1.0)


@given(seeds, st.integers(1, 4))
@settings(max_examples=10, deadline=None)
def test_reptile_is_the_sum_of_the_gradients_on_its_way(seed, steps):
    _, params, support, query = draw(seed, 2)
    _, found = maml.reptile(LR, steps).meta_gradient(mse, params, support, query)
    sums = []
    for t in range(2):
        theta, total = params, tm.trees.map(np.zeros_like, params)
        for step in range(steps):
            gradient = tm.grad(mse)(theta, task((support, query)[step % 2], t))
            total = tm.trees.map(np.add, total, gradient)
            theta = tm.trees.map(lambda p, g: p - LR * g, theta, gradient)
        sums.append(total)
    assert_close(found, tm.trees.map(lambda *s: sum(s) / 2, *sums), rtol=1e-8)


def test_first_order_is_that_of_meta_loss():
    _, params, support, query = draw(7, 3)
    found = METHODS["first order"].meta_gradient(mse, params, support, query)[1]
    assert_close(found, tm.grad(lambda p: maml.meta_loss(mse, p, support, query, LR, 3, order=1))(params))
    assert not np.allclose(found[0].w, METHODS["maml"].meta_gradient(mse, params, support, query)[1][0].w)


@pytest.mark.parametrize("name", UNROLLED)
def test_of_first_order_a_methods_gradient_is_that_of_the_query_loss_at_the_end_of_its_path(name):
    _, params, support, query = draw(11)
    method = UNROLLED[name](LR, 2, order=1)
    meta = method.init(params)
    gradient = method.meta_gradient(mse, meta, support, query)[1]
    expected = tm.grad(mse)(method.path(mse, meta, support, 2)[-1], query)
    assert_close(getattr(gradient, "params", gradient), expected)


def test_part_keeps_the_rest_of_the_parameters():
    _, params, support, query = draw(8, 2)

    def weights_only(layers):
        join = lambda ws: tuple(layer._replace(w=w) for layer, w in zip(layers, ws, strict=True))
        return tuple(layer.w for layer in layers), join

    method = maml.maml(LR, 2, part=weights_only)
    adapted = method.path(mse, params, support, 2)[-1]
    assert_close([layer.b for layer in adapted], [layer.b for layer in params], rtol=0, atol=0)
    assert adapted[0].w.shape == (2, *params[0].w.shape)
    gradient = method.meta_gradient(mse, params, support, query)[1]
    assert np.abs(gradient[0].b).max() > 0


@pytest.mark.parametrize("weights", [np.ones(2), [0.5, 0.3, 0.2], np.ones((3, 1))])
def test_weights_of_another_shape(weights):
    _, params, support, query = draw(9)
    with pytest.raises(ValueError, match=r"weights is .*, expected an array of one weight per inner step: shape \[3\]"):
        METHODS["maml"].meta_gradient(mse, params, support, query, weights)


@pytest.mark.parametrize("name", METHODS)
def test_divergence_names_step_and_task(name):
    _, params, (x, y), query = draw(10, 3)
    y[1] = np.nan
    method = METHODS[name]
    with pytest.raises(FloatingPointError, match="the support loss of task 1 at inner step 1 of 3 is nan"):
        method.meta_gradient(mse, method.init(params), (x, y), query)
    assert np.isnan(mse(method.path(mse, method.init(params), (x, y), 3)[-1], query)[1])


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_weights_that_are_not_finite(weight):
    _, params, support, query = draw(9)
    with pytest.raises(FloatingPointError, match=r"maml: weights is .*, expected finite numbers"):
        METHODS["maml"].meta_gradient(mse, params, support, query, np.array([weight, 0.0, 1.0]))


@pytest.mark.parametrize(
    ("steps", "progress", "least", "message"),
    [(steps, 0.0, 0.03, f"maml: steps = {steps}, expected a whole number, 1 or more") for steps in (0, 2.5)]
    + [
        (
            3,
            progress,
            least,
            f"progress = {progress}, least = {least}; expected progress from 0 on and least from 0 to 1",
        )
        for progress, least in ((-1.0, 0.03), (np.nan, 0.03), (1.0, -0.1), (1.0, 1.5))
    ],
)
def test_step_weights_that_would_be_none(steps, progress, least, message):
    with pytest.raises(ValueError, match=message):
        maml.step_weights(steps, progress, least)


@pytest.mark.parametrize("method", [maml.reptile, maml.maml_plus_plus])
def test_a_method_that_needs_a_step(method):
    with pytest.raises(ValueError, match="steps = 0, expected 1 or more"):
        method(LR, 0)


@pytest.mark.parametrize("lr", [0.0, -0.1, np.nan, np.inf, lambda step: 0.1, {"w": 0.1}])
def test_reptile_divides_by_its_rate(lr):
    with pytest.raises(ValueError, match=r"reptile: lr = .*, expected a (finite number|number above 0)"):
        maml.reptile(lr, 2)


@pytest.mark.parametrize(
    "method", [maml.reptile(np.float64(0.05), 2), maml.implicit(0.05, 3, np.float64(10.0))], ids=["reptile", "implicit"]
)
def test_numpys_numbers_leave_the_dtypes(method):
    """Those of every leaf: float32 and float64 beside each other stay."""
    rng = np.random.default_rng(0)
    params = {"a": np.zeros(3, np.float32), "b": np.zeros(3)}
    loss = lambda p, d: ops.sum(ops.square(p["a"] - d), axis=-1) + ops.sum(ops.square(p["b"] - d), axis=-1)
    data = rng.normal(size=(4, 3)).astype(np.float32)
    _, gradient = method.meta_gradient(loss, params, data, data)
    assert {name: g.dtype for name, g in gradient.items()} == {"a": np.float32, "b": np.float64}
