"""tm.vmap: what it refuses, in one sentence that speaks of one example and of the user's line."""

from functools import partial

import numpy as np
import pytest
from engine.vmapping import X, assert_same, refused

import tinymeta as tm
from tinymeta.engine.tensor import Prim


def test_mapped_axes_of_different_lengths():
    refused(
        lambda: tm.vmap(lambda a, b: a)(X, {"w": X[:2]}),
        "vmap: the mapped axes must be equally long: argument 0 float64[4,3] has 4 along axis 0; "
        "argument 1['w'] float64[2,3] has 2 along axis 0",
    )
    refused(lambda: tm.vmap(lambda a, b: a, (0, 1))(X, X), "argument 1 float64[4,3] has 3 along axis 1")
    refused(lambda: tm.vmap(lambda a, *, b: a)(X, b=X[:2]), "argument ['b'] float64[2,3] has 2 along axis 0")
    refused(lambda: tm.vmap(lambda a: a, None)(X), "no argument has one (in_axes is None for all of them)")


def test_an_argument_without_the_axis():
    f = lambda a, b: a
    refused(
        lambda: tm.vmap(f)(X, 2.0), "vmap: argument 1 is float, without an axis 0 to map; pass None in in_axes for it"
    )
    refused(lambda: tm.vmap(f, (0, 2))(X, X), "vmap: argument 1 is float64[4,3], without an axis 2 to map")
    refused(lambda: tm.vmap(f, (0, -3))(X, X), "vmap: argument 1 is float64[4,3], without an axis -3 to map")


def test_axes_that_are_no_prefix():
    refused(
        lambda: tm.vmap(np.sum, (0, 0))(X),
        "vmap: in_axes is not a prefix of what it stands for: trees differ at the root",
    )
    refused(lambda: tm.vmap(np.sum, ({"a": 0},))({"b": X}), "in_axes is not a prefix", "at [0]", "['b']")
    refused(lambda: tm.vmap(np.sum, ((0, 0),))(X), "in_axes is not a prefix", "at [0]")
    refused(lambda: tm.vmap(np.sum, 0, (0, 0))(X), "out_axes is not a prefix")
    refused(lambda: tm.vmap(np.sum, "rows")(X), "vmap: in_axes holds 'rows', expected an int or None", error=TypeError)


def test_results_that_do_not_fit_out_axes():
    refused(
        lambda: tm.vmap(lambda x: {"y": x}, 0, None)(X),
        "result['y'] float64[3] differs between examples, but its out_axes is None",
    )
    refused(lambda: tm.vmap(np.sum, 0, 1)(X), "result float64[] cannot have its examples along axis 1")
    refused(
        lambda: tm.vmap(lambda x: "text")(X),
        "vmap: the function returned",
        "expected arrays or numbers",
        error=TypeError,
    )


@pytest.mark.parametrize(
    ("what", "f"),
    [
        ("bool()", lambda x: x if np.sum(x) > 0 else -x),
        ("bool()", lambda x: tm.grad(lambda x: np.sum(x) if x[0] > 0 else x[1])(x)),
        ("bool()", lambda x: max(x[0], x[1])),
        ("float()", lambda x: float(x[0])),
        ("int()", lambda x: int(x[0])),
        ("item()", lambda x: x[0].item()),
        ("np.asarray", lambda x: np.asarray(x)),
        ("index()", lambda x: [1, 2, 3][np.argmax(x)]),
    ],
)
def test_what_would_be_one_answer_for_all_examples(what, f):
    refused(
        lambda: tm.vmap(f)(X),
        f"{what} of a mapped value ",
        "would be one for all examples of the vmap",
        error=TypeError,
    )


def test_a_mapped_value_cannot_be_changed_or_counted_where_it_has_no_axes():
    def assign(x):
        x[0] = 1.0
        return x

    refused(lambda: tm.vmap(assign)(X), "float64[3] cannot be changed in place", error=TypeError)
    refused(lambda: tm.vmap(len)(X[0]), "len() of unsized object", error=TypeError)
    shown = []
    tm.vmap(lambda x: shown.append(f"{x} {x!r}") or x)(X)
    assert shown[0].count("<mapped float64[3] in a vmap") == 2


def test_an_op_without_a_rule_is_named_with_the_users_line():
    from inspect import currentframe

    middle = Prim("middle", lambda x: np.median(x), (lambda g, y, x: g * x,))
    f, line = lambda x: middle(x), currentframe().f_lineno
    refused(
        lambda: tm.vmap(f)(X),
        f"middle(float64[3]), called at {__file__}:{line}: this op has no batching rule",
        error=TypeError,
    )
    square = Prim("my_square", lambda x: x * x, (lambda g, y, x: 2 * g * x,), kind="elementwise")
    assert_same(tm.vmap(tm.grad(lambda x: np.sum(square(x))))(X), 2 * X)


def test_an_error_inside_speaks_of_one_example():
    f = lambda x: x + np.ones(2)
    for call, x in ((f, X), (tm.grad(lambda x: np.sum(f(x))), X), (tm.vmap(f), X[None])):
        refused(partial(tm.vmap(call), x), "add(float64[3], float64[2]), called at " + __file__)
    refused(
        lambda: tm.vmap(lambda x: np.sum(x, axis=1))(X), "sum(float64[3]), called at", error=np.exceptions.AxisError
    )
    refused(lambda: tm.vmap(lambda x: x.reshape(2, -1))(X), "reshape(float64[3])")


def test_an_error_in_a_backward_sweep_has_the_line_of_the_forward_call():
    from inspect import currentframe

    bad = Prim("bad", lambda x: 2 * x, (lambda g, y, x: g[:1],), kind="elementwise")
    line = currentframe().f_lineno + 1
    f = lambda x: np.sum(bad(x) ** 2)
    refused(lambda: tm.vmap(tm.grad(f))(X), "VJP of bad, argument 0", f":{line}")
    outer = lambda w: np.sum(tm.vmap(tm.grad(lambda x: np.sum((w * x) ** 2)))(X))
    products = [step.line for step in tm.show(outer, X[0]).steps if step.op == "multiply"]
    assert set(products) == {f"test_engine_vmap_errors.py:{line + 2}"}


def test_a_value_that_left_its_vmap():
    kept = []
    tm.vmap(lambda x: kept.append(x) or x)(X)
    for use in (
        lambda x: x + 1,
        lambda x: x[0],
        np.sum,
        lambda x: x.astype(int),
        lambda x: x.reshape(1, 3),
        lambda x: tm.vmap(lambda y: y * x)(X),
    ):
        refused(partial(use, kept[0]), "is used after its vmap has ended; return it from the function", error=TypeError)


def test_numbers_are_no_arrays_to_concatenate():
    with pytest.raises(ValueError, match="zero-dimensional arrays cannot be concatenated"):
        tm.vmap(lambda x: np.concatenate([x, x]))(np.ones(3))
