"""The meta-steps of the experiments, compiled and op by op."""

import functools
import importlib.util
from dataclasses import replace

import numpy as np
import pytest
from maml.problems import mse, points

import tinymeta as tm
from tinymeta import maml, nets, ops, optim
from tinymeta.experiments.maml_methods import (
    METHODS,
    InnerLoop,
    begin,
    gradient_of,
    meta_step,
    multi_step,
    trained_steps,
)


def cross_entropy(params, data):
    x, y = data
    return ops.mean(ops.softmax_cross_entropy(nets.conv4(params, x), y), axis=-1)


def classes(rng, tasks):
    return rng.normal(size=(tasks, 6, 1, 12, 12)), np.tile(np.arange(3), (tasks, 2))


def check_steps(key, loss, params, draw, config):
    """Three steps of each, on the same tasks; a compiled meta-gradient is one program, whatever the step."""
    method, adam = METHODS[key].build(config, None), optim.adam(1e-3)
    gradients = [gradient_of(replace(config, compiled=compiled), method, loss) for compiled in (False, True)]
    states = [begin(method, params, adam)] * 2
    for i in range(3):
        support, query, more = draw(), draw(), multi_step(key, config, i / 50)
        steps = [meta_step(g, adam, s, support, query, **more) for g, s in zip(gradients, states, strict=True)]
        states = [state for state, _ in steps]
        np.testing.assert_allclose(steps[1][1], steps[0][1], rtol=1e-10)
        tm.trees.map(
            lambda found, expected: np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8),
            states[1]["meta"], states[0]["meta"],
        )  # fmt: skip
    compiled = gradients[1]
    assert len(compiled._programs) == 1
    if importlib.util.find_spec("numba"):
        assert compiled.backend == "llvm", compiled.why_not_compiled


@pytest.mark.parametrize("key", METHODS)
def test_every_methods_meta_step_compiles_to_one_program(monkeypatch, key):
    monkeypatch.delenv("TINYMETA_BACKEND", raising=False)
    rng = np.random.default_rng(0)
    params = nets.init_mlp(rng, (1, 8, 8, 1), 0.5, dtype=np.float64)
    config = InnerLoop(inner_steps=2, variant_steps=3, implicit_steps=5)
    check_steps(key, mse, params, lambda: points(rng, 4, 5), config)


BUILT = {  # what each name stands for, and how many inner steps it is trained for
    "maml": (maml.maml(0.1, 2), 2),
    "first-order": (maml.maml(0.1, 2, order=1), 2),
    "anil": (maml.anil(0.1, 2), 2),
    "meta-sgd": (maml.meta_sgd(0.1, 2), 2),
    "maml++": (maml.maml_plus_plus(0.1, 3), 3),
    "reptile": (maml.reptile(0.1, 3), 3),
    "implicit": (maml.implicit(0.05, 4, 3.0, 2), 4),
}


@pytest.mark.parametrize("key", METHODS)
def test_each_name_is_its_method_at_the_settings_that_are_its_own(key):
    config = InnerLoop(0.1, 2, variant_steps=3, implicit_lr=0.05, implicit_steps=4, strength=3.0, cg_steps=2)
    rng, (expected, steps) = np.random.default_rng(2), BUILT[key]
    params = nets.init_mlp(rng, (1, 4, 1), 0.5, dtype=np.float64)
    support, query = points(rng, 3, 5), points(rng, 3, 5)
    found = METHODS[key].build(config, None)
    results = [method.meta_gradient(mse, method.init(params), support, query) for method in (found, expected)]
    tm.trees.map(np.testing.assert_array_equal, *results)
    assert trained_steps(key, config) == steps


def test_each_element_of_a_meta_gradient_is_cut_at_the_bound():
    gradient, sgd = lambda meta, support, query: (0.0, np.array([-30.0, 0.5, 20.0])), optim.sgd(1.0)
    state = begin(maml.maml(0.1, 1), np.zeros(3), sgd)
    ends = [meta_step(gradient, sgd, state, None, None, clip)[0]["meta"] for clip in (0.0, 10.0)]
    np.testing.assert_array_equal(ends, [[30, -0.5, -20], [10, -0.5, -10]])


def test_the_multi_step_loss_ends_with_the_first_tenth_of_training():
    """Then only the last step's loss counts: no weight is left on the others, and no pass is spent on them."""
    weights = [multi_step("maml++", InnerLoop(variant_steps=4), i / 400).get("weights") for i in (0, 39, 40, 399)]
    np.testing.assert_allclose(weights[0], np.full(4, 1 / 4))
    np.testing.assert_allclose(weights[1], [0.03 / 4] * 3 + [1 - 0.03 * 3 / 4])
    assert weights[2:] == [None, None]
    assert multi_step("maml", InnerLoop(), 0.0) == {}


@pytest.mark.parametrize("tasks", [2, 3], ids=["as many tasks as steps", "more tasks"])
def test_maml_plus_plus_on_a_conv_net_with_batch_norm(monkeypatch, tasks):
    monkeypatch.delenv("TINYMETA_BACKEND", raising=False)
    rng = np.random.default_rng(1)
    params = nets.init_conv4(rng, 3, filters=4, dtype=np.float64)
    check_steps("maml++", cross_entropy, params, lambda: classes(rng, tasks), InnerLoop(variant_steps=2))


@pytest.mark.parametrize("steps", [1, 3])
def test_a_compiled_conv_nets_float32_meta_gradient_is_right_in_every_entry(monkeypatch, steps):
    """Against float64 op by op: four convolutions of 64 with batch norm, characters of 28 x 28, 5 ways, 1 shot."""
    monkeypatch.delenv("TINYMETA_BACKEND", raising=False)
    rng, method = np.random.default_rng(1), maml.maml(0.4, steps)
    params, labels = nets.init_conv4(rng, 5, scaled=True), np.tile(np.arange(5), (2, 1))
    support, query = (((rng.random((2, 5, 1, 28, 28)) < 0.1).astype(np.float32), labels) for _ in range(2))
    gradient = functools.partial(method.meta_gradient, cross_entropy)
    compiled = tm.compile(gradient)
    loss, found = compiled(params, support, query)
    wide = tm.trees.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, [params, support, query])
    exact_loss, exact = gradient(*wide)
    largest = max(np.abs(leaf).max() for leaf in tm.trees.leaves(exact))
    np.testing.assert_allclose(loss, exact_loss, rtol=1e-5)
    for a, b in zip(tm.trees.leaves(found), tm.trees.leaves(exact), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest)
    if importlib.util.find_spec("numba"):
        assert compiled.backend == "llvm", compiled.why_not_compiled
