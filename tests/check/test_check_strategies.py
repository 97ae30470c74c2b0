"""The exported strategies: every op has one, what they draw is valid for the op and for its derivative, and lazily loaded."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import check, ops
from tinymeta.check import strategies
from tinymeta.check.cases import CASES
from tinymeta.engine import trees

SEARCH = settings(
    database=None, derandomize=True, suppress_health_check=list(HealthCheck), max_examples=2000, phases=[Phase.generate]
)


def differentiable(name):
    prim = getattr(getattr(ops, name), "prim", None)
    return name != "one_hot" and (prim is None or prim.differentiable)


def test_every_op_with_a_derivative_has_a_strategy():
    assert set(CASES) == {name for name in ops.__all__ if differentiable(name)}


def test_an_op_without_a_strategy_is_refused_with_the_list():
    with pytest.raises(ValueError, match=r"arrays_for\('sign'\): no such differentiable op; expected one of abs, "):
        strategies.arrays_for("sign")


def some(name, condition):
    """A drawn case of the op that meets the condition; fails if Hypothesis finds none."""
    return find(strategies.arrays_for(name), lambda case: condition(*case), settings=SEARCH)


@pytest.mark.parametrize(
    ("name", "condition"),
    [
        ("add", lambda args, _: args[0].ndim == 0 and args[1].ndim == 2),
        ("add", lambda args, _: args[0].shape != args[1].shape and args[0].ndim == args[1].ndim == 2),
        ("exp", lambda args, _: args[0].size == 0 and args[0].ndim == 2),
        ("sum", lambda args, kwargs: isinstance(kwargs["axis"], tuple) and min(kwargs["axis"], default=0) < 0),
        ("mean", lambda args, kwargs: kwargs["keepdims"] and kwargs["axis"] is None and args[0].ndim > 1),
        ("matmul", lambda args, _: args[0].ndim == 1 and args[1].ndim == 3),
        ("matmul", lambda args, _: args[0].ndim == args[1].ndim == 3 and args[0].shape[0] != args[1].shape[0]),
        ("matmul", lambda args, _: args[0].size == 0),
        ("einsum", lambda args, _: "..." in args[0] and "->" in args[0]),
        ("einsum", lambda args, _: "aa" in args[0]),
        ("einsum", lambda args, _: len(args) == 4),
        (
            "getitem",
            lambda args, _: isinstance(args[1], np.ndarray) and len(set(args[1].ravel().tolist())) < args[1].size > 2,
        ),
        ("getitem", lambda args, _: isinstance(args[1], np.ndarray) and args[1].dtype == bool and args[1].any()),
        ("getitem", lambda args, _: isinstance(args[1], tuple) and any(i is None for i in args[1][1:])),
        ("conv2d", lambda args, kwargs: args[0].ndim == 5 and args[1].ndim == 4 and kwargs["stride"] != 1),
        ("conv2d", lambda args, kwargs: isinstance(kwargs["padding"], tuple) and args[0].shape[-4] == 0),
        ("max_pool2d", lambda args, kwargs: kwargs["stride"] == 1 and args[1] == 2),
        ("softmax_cross_entropy", lambda args, _: args[1].dtype == np.uint8 and args[1].ndim == 2),
        ("split", lambda args, kwargs: args[1] == 3 and kwargs["axis"] < 0),
        ("std", lambda args, kwargs: kwargs["ddof"] == 1),
    ],
)
def test_the_corners_are_drawn(name, condition):
    assert some(name, condition)


@pytest.mark.parametrize("name", ["relu", "abs", "sqrt", "log", "reciprocal", "norm"])
@given(data=st.data())
def test_domains_keep_their_distance_from_kinks_and_poles(name, data):
    (x,), _ = data.draw(strategies.arrays_for(name))
    assert np.all(np.abs(x) >= 0.2)
    if name in {"sqrt", "log"}:
        assert np.all(x > 0)


@given(data=st.data())
def test_pairs_for_maximum_never_meet(data):
    (x, y), _ = data.draw(strategies.arrays_for("maximum"))
    assert np.all(np.abs(np.subtract(x, y)) >= 0.125)


@given(data=st.data())
def test_windows_for_max_pooling_have_no_ties(data):
    (x, *_), _ = data.draw(strategies.arrays_for("max_pool2d"))
    assert np.min(np.diff(np.sort(x.ravel())), initial=1) > 1e-2


@given(pair=strategies.broadcastable_pairs())
def test_broadcastable_pairs_broadcast(pair):
    a, b = pair
    assert np.broadcast_shapes(a, b) is not None


@given(data=st.data(), name=st.sampled_from(["conv2d", "concatenate", "take", "where"]))
def test_the_dtype_reaches_every_float_array_and_no_other(data, name):
    args, _ = data.draw(strategies.arrays_for(name, dtype=np.float32))
    kinds = {(x.dtype.kind, x.dtype) for x in trees.leaves(args) if isinstance(x, np.ndarray)}
    assert all(dtype == np.float32 for kind, dtype in kinds if kind == "f")
    assert any(kind == "f" for kind, _ in kinds)


@given(data=st.data(), name=st.sampled_from(sorted(CASES)))
def test_as_function_is_the_op_with_everything_but_floats_held_fixed(data, name):
    args, kwargs = data.draw(strategies.arrays_for(name))
    f, xs = strategies.as_function(getattr(ops, name), args, kwargs)
    assert f.__name__ == getattr(ops, name).__name__
    for a, b in zip(trees.leaves(f(*xs)), trees.leaves(getattr(ops, name)(*args, **kwargs)), strict=True):
        np.testing.assert_array_equal(a, b)


@given(program=strategies.compositions(), x=strategies.float_arrays((2, 2)))
def test_programs_are_finite_scalars_with_a_readable_form(program, x):
    value = program(x)
    assert np.shape(value) == ()
    assert np.isfinite(value)
    assert repr(program).startswith("Program(v1=")
    assert np.isfinite(tm.grad(program)(x)).all()


@given(tree=strategies.trees())
def test_trees_have_arrays_at_their_ends(tree):
    assert all(isinstance(x, np.ndarray) and x.dtype == np.float64 for x in trees.leaves(tree))


def python(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


def test_hypothesis_is_loaded_with_the_strategies_and_not_before():
    done = python(
        "import sys, tinymeta, tinymeta.check as check\n"
        "assert 'hypothesis' not in sys.modules\n"
        "check.gradients, check.contract, check.table.ROWS\n"
        "assert 'hypothesis' not in sys.modules\n"
        "check.strategies.shapes()\n"
        "assert 'hypothesis' in sys.modules\n"
    )
    assert done.returncode == 0, done.stderr


def test_a_missing_hypothesis_says_what_to_install():
    done = python("import sys; sys.modules['hypothesis'] = None\nimport tinymeta.check as check\ncheck.strategies")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        'ImportError: tinymeta.check.strategies needs Hypothesis: pip install "tinymeta[check]"'
    )


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'gradient'"):
        check.gradient  # noqa: B018
