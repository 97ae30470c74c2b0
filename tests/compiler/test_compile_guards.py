"""A program that would be stale is refused or made anew: every guard of tm.compile."""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings

import numpy as np
import pytest

import tinymeta as tm
from tinymeta import maml, nets, ops, optim
from tinymeta.engine import backend

X = np.array([1.0, 2.0, 3.0])


def programs(f):
    return len(f._programs)


# ---- numbers that would be decided once ----

REFUSED = {
    "bool": lambda x: x if x[0] > 0 else -x,
    "float": lambda x: x * float(x[0]),
    "int": lambda x: x[int(x[0])],
    "index": lambda x: X[x[0].astype(int)],
    "item": lambda x: x * x[0].item(),
    "tolist": lambda x: x * sum(x.tolist()),
    "np.asarray": lambda x: x + np.asarray(x),
    "allclose": lambda x: x * np.allclose(x, 1),
    "np.nonzero": lambda x: x[np.nonzero(x)],
    "a mask": lambda x: x[x > 0],
    "a mask to add at": lambda x: ops.scatter_add(x, x > 0, 1.0),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_look_at_a_captured_number_is_refused_with_its_line(what):
    with pytest.raises((TypeError, IndexError), match=r"captured value|integer"):
        tm.compile(REFUSED[what])(X)


def test_the_refusal_names_the_line_that_made_the_value():
    def f(x):
        total = ops.sum(x)
        return x if total > 0 else -x

    with pytest.raises(
        TypeError, match=r"bool\(\) of a captured value bool\[\] \(made at .*test_compile_guards\.py:\d+\)"
    ):
        tm.compile(f)(X)


def test_a_random_number_is_found_and_named():
    rng = np.random.default_rng(0)

    def f(x):
        return x + rng.normal(size=3)

    with pytest.raises(
        ValueError, match=r"float64\[3\], used at .*test_compile_guards\.py:\d+, differs each time: is it random"
    ):
        tm.compile(f)(X)


def test_a_random_number_below_the_rounding_is_found_too():
    rng, x = np.random.default_rng(0), np.ones(5, np.float32)
    ones = np.ones(5, np.float32)
    for size in (1e-4, 1e-6):
        with pytest.raises(ValueError, match=r"float32\[5\], used at .*:\d+, differs each time: is it random"):
            tm.compile(lambda x: x * (ones + size * rng.normal(size=5).astype(np.float32)))(x)  # noqa: B023
        with pytest.raises(ValueError, match=r"float32\[5\], used at .*:\d+, differs each time: is it random"):
            tm.compile(lambda x: x + size * rng.normal(size=5).astype(np.float32))(x)  # noqa: B023


def test_a_random_number_is_found_where_the_first_call_hides_it():
    rng, turns, one = np.random.default_rng(0), itertools.count(), np.ones(3)
    for f in (
        lambda x: x * rng.normal(size=3),
        lambda x: x * rng.normal(),
        lambda x: x[rng.permutation(3)],
        lambda x: ops.sin(x) if next(turns) % 2 else ops.tan(x),
        lambda x: ops.sin(x if next(turns) % 2 else x * 2.0),
        lambda x: x * (one if next(turns) % 2 else x),
        lambda x: ops.concatenate([x, x * 2.0][:: 1 if next(turns) % 2 else -1]),
        lambda x: (x * 2.0, x * 3.0)[:: 1 if next(turns) % 2 else -1],
    ):
        with pytest.raises(ValueError, match=r"is it random\?"):
            tm.compile(f)(np.zeros(3))


def test_state_outside_of_the_arguments_is_found():
    calls = []

    def f(x):
        calls.append(1)
        return x * len(calls)

    with pytest.raises(ValueError, match="differs each time"):
        tm.compile(f)(X)


def test_a_captured_value_that_escapes_is_refused():
    kept = []

    def f(x):
        kept.append(ops.sin(x))
        return kept[-1] * 2

    tm.compile(f)(X)
    with pytest.raises(TypeError, match="used after its capture"):
        ops.sin(kept[0])


def _rebinding(p):
    for key in p:
        p[key] = 2 * p[key]
    return p


@pytest.mark.parametrize("f", [_rebinding, lambda p: p.pop("a"), lambda p: p.setdefault("b", 2 * p["a"])])
def test_a_change_of_a_container_among_the_arguments_is_refused(f):
    p = {"a": X}
    with pytest.raises(TypeError, match=r"f changes a container among its arguments.*return a new one"):
        tm.compile(f)(p)
    assert list(p) == ["a"]
    assert p["a"] is X


def test_a_dtype_may_be_returned():
    doubled, dtype = tm.compile(lambda x: (2 * x, x.dtype))(X)
    np.testing.assert_array_equal(doubled, 2 * X)
    assert dtype == np.float64


def _doubled(x):
    return 2 * x


def test_a_result_that_is_another_object_each_time_is_refused():
    with pytest.raises(ValueError, match=r"result\[1\] is a generator, another one in each execution: return arrays"):
        tm.compile(lambda x: (x, (i for i in range(3))))(X)


def test_a_compiled_function_is_copied_and_pickled_as_its_function():
    compiled = tm.compile(_doubled)
    compiled(X)
    for other in (copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled))):
        assert programs(other) == 0
        np.testing.assert_array_equal(other(X), compiled(X))


def test_an_argument_without_an_array_has_nothing_to_replay():
    with pytest.raises(TypeError, match="no argument"):
        tm.compile(lambda n: X * n)(3)
    with pytest.raises(TypeError, match=r"argument 1\['a'\] is a set, which is neither an array nor hashable"):
        tm.compile(lambda x, s: x)(X, {"a": {1}})
    with pytest.raises(TypeError, match="argument 0 is complex128"):
        tm.compile(lambda x: x)(X + 1j)


def test_there_is_no_program_before_the_first_call():
    with pytest.raises(ValueError, match="has not been called"):
        _ = tm.compile(lambda x: x).source


# ---- keys ----


@pytest.mark.parametrize(
    "other",
    [
        (np.ones(4), 2.0), (X.astype(np.float32), 2.0), (X, 3.0), (X, 2), (X, np.asarray(2.0)), ((X,), 2.0), ([X], 2.0),
        ({"a": X}, 2.0), ({"b": X}, 2.0), (nets.Layer(X, X), 2.0), (np.ones((3, 1)), 2.0), (X, None),
    ],
)  # fmt: skip
def test_another_shape_dtype_static_value_or_tree_is_another_program(other):
    def f(tree, factor):
        return [(3.0 if factor is None else factor) * x + x.shape[0] for x in tm.trees.leaves(tree)]

    compiled = tm.compile(f)
    for args in ((X, 2.0), other, (X, 2.0), other):
        tm.trees.map(np.testing.assert_array_equal, compiled(*args), f(*args))
    assert programs(compiled) == 2


def test_keyword_arguments_are_arguments():
    compiled = tm.compile(lambda x, *, k: x * k)
    np.testing.assert_array_equal(compiled(X, k=X), X * X)
    np.testing.assert_array_equal(compiled(X, k=2.0), X * 2)
    assert programs(compiled) == 2


def test_a_scalar_and_an_array_without_axes_share_a_program():
    compiled = tm.compile(lambda x, k: x * k)
    for k in (np.asarray(2.0), np.float64(3.0)):
        np.testing.assert_array_equal(compiled(X, k), X * k)
    assert programs(compiled) == 1


def test_zeros_of_either_sign_are_other_static_values():
    compiled = tm.compile(lambda x, zero: ops.arctan(x / zero))
    with np.errstate(divide="ignore"):
        for zero in (0.0, -0.0, 0.0):
            np.testing.assert_array_equal(
                compiled(X, np.float64(zero).item()), np.copysign(np.pi / 2, zero) * np.ones(3)
            )
    nan = tm.compile(lambda x, n: x * n)
    for _ in range(2):
        nan(X, float("nan"))
    assert (programs(compiled), programs(nan)) == (2, 1)


def test_another_backend_is_another_program(monkeypatch):
    monkeypatch.delenv("TINYMETA_BACKEND", raising=False)
    compiled = tm.compile(ops.sin)
    compiled(X)
    with backend.use("numpy"):
        compiled(X)
        assert compiled.backend == "numpy"
    assert programs(compiled) == 2


def test_a_static_number_that_changes_is_warned_of():
    compiled = tm.compile(lambda x, step: x * step)

    def twelve_calls():
        for step in range(12):
            np.testing.assert_array_equal(compiled(X, step), X * step)

    with pytest.warns(RuntimeWarning, match=r"\[0\]\[1\] = 7.*np.asarray"):
        twelve_calls()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in range(1, 12):
            tm.compile(ops.sin)(np.ones(n))


# ---- checks of numbers are repeated ----


def test_maml_names_the_task_that_diverges_in_every_call():
    rng = np.random.default_rng(0)
    params = nets.init_mlp(rng, (1, 4, 1))

    def loss(params, data):
        return ops.mean(ops.square(nets.mlp(params, data[0]) - data[1]), axis=(-2, -1))

    compiled = tm.compile(tm.grad(lambda p, s, q: maml.meta_loss(loss, p, s, q, 0.1, 2)))
    x = rng.normal(size=(3, 5, 1)).astype(np.float32)
    compiled(params, (x, x), (x, x))
    bad = x.copy()
    bad[1, 0] = np.inf
    with pytest.raises(FloatingPointError, match="the support loss of task 1 at inner step 1 of 2"):
        compiled(params, (bad, x), (x, x))
    with pytest.raises(FloatingPointError, match="the query loss of task 1 after 2 inner steps"):
        compiled(params, (x, x), (bad, x))
    tm.trees.map(np.testing.assert_array_equal, *(compiled(params, (x, x), (x, x)) for _ in range(2)))


def test_labels_out_of_range_are_refused_in_every_call():
    logits = np.zeros((2, 3))
    compiled = tm.compile(ops.softmax_cross_entropy)
    for labels in ([0, 2], [1, 1]):
        np.testing.assert_allclose(compiled(logits, np.array(labels)), np.log(3))
    for wrong in ([0, 3], [-1, 0]):
        with pytest.raises(ValueError, match=r"labels lie in \[.*\], expected 0 to 2"):
            compiled(logits, np.array(wrong))


def test_an_error_of_the_function_is_the_functions_own():
    with pytest.raises(ValueError, match="matmul"):
        tm.compile(lambda x: x @ np.ones(7))(X)


def test_adam_with_an_array_step_counts_on():
    adam = optim.adam(1e-2)
    compiled = tm.compile(adam.update)
    state, eager = adam.init(X)._replace(step=np.asarray(0)), adam.init(X)
    for _ in range(4):
        a, state = compiled(X, state)
        b, eager = adam.update(X, eager)
        np.testing.assert_allclose(a, b, rtol=1e-14)
    assert state.step == 4
    assert programs(compiled) == 1
