"""check.gradients itself: it passes right rules, catches wrong ones at the right order, and says which argument."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import check, ops
from tinymeta.engine.tensor import Prim, value

RNG = np.random.default_rng(3)
A, B = RNG.normal(size=(3, 4)), RNG.normal(size=(4, 2))


def op(name, forward, *vjps, **options):
    prim = Prim(name, forward, vjps, **options)
    return lambda *xs: prim(*xs)


right_matmul = op("product", np.matmul, lambda g, y, a, b: g @ b.T, lambda g, y, a, b: a.T @ g)
doubled = op("product", np.matmul, lambda g, y, a, b: g @ b.T, lambda g, y, a, b: 2 * (a.T @ g))
negated = op("product", np.matmul, lambda g, y, a, b: -(g @ b.T), lambda g, y, a, b: a.T @ g)
transposed = op("product", np.matmul, lambda g, y, a, b: g @ b, lambda g, y, a, b: a.T @ g)
raw_input = op("cube", lambda x: x**3, lambda g, y, x: g * 3 * value(x) ** 2)
raw_output = op("exponential", np.exp, lambda g, y, x: g * value(y))
raw_cotangent = op("exponential", np.exp, lambda g, y, x: value(g) * y)
own_jvp = op("sine", np.sin, lambda g, y, x: g * ops.cos(x), jvp=lambda dots, y, x: -dots[0] * ops.cos(x))
third_order_only = op("quartic", lambda x: x**4, lambda g, y, x: g * four_cubes(x))
four_cubes = op("four_cubes", lambda x: 4 * x**3, lambda g, y, x: g * 12 * value(x) ** 2)


def failure(f, *xs, **options):
    with pytest.raises(check.CheckError) as caught:
        check.gradients(f, *xs, **options)
    assert not isinstance(caught.value, check.KinkError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_right_rule_passes_with_every_nesting_reported():
    report = check.gradients(right_matmul, A, B, order=2)
    assert list(report.errors) == ["VJP", "JVP", "VJP of VJP", "JVP of VJP", "VJP of JVP", "JVP of JVP"]
    assert report.worst < 1e-9
    assert "JVP of VJP" in str(report)
    assert list(check.gradients(right_matmul, A, B, order=1, modes=("jvp",)).errors) == ["JVP"]


@pytest.mark.parametrize(
    ("f", "start"),
    [
        (doubled, "VJP of product, argument 1, float64[4,2]: numeric "),
        (negated, "VJP of product, argument 0, float64[3,4]: numeric "),
    ],
)
def test_a_wrong_factor_names_the_argument(f, start):
    message = failure(f, A, B, name="product")
    assert message.startswith(start)
    assert ", got " in message
    assert "(relative error " in message


def test_a_transposed_rule_is_caught():
    a, b = RNG.normal(size=(3, 3)), RNG.normal(size=(3, 3))
    assert failure(transposed, a, b, name="product").startswith("VJP of product, argument 0, float64[3,3]: numeric ")


@pytest.mark.parametrize(
    ("f", "where"), [(raw_input, "argument 0"), (raw_output, "argument 0"), (raw_cotangent, "cotangent")]
)
def test_a_raw_array_in_a_rule_is_right_at_order_one_and_caught_at_order_two(f, where):
    x = np.array([0.5, -1.2, 0.8])
    check.gradients(f, x, order=1, modes=("vjp",))
    message = failure(f, x, order=2, modes=("vjp",), name="f")
    assert message.startswith(f"VJP of VJP of f, {where}, float64[3]: numeric ")


def test_a_raw_cotangent_breaks_the_jvp_that_is_made_of_it():
    assert failure(raw_cotangent, np.ones(2), order=1, name="f").startswith("JVP of f, argument 0")


def test_a_wrong_rule_of_a_rule_is_caught_at_the_order_where_it_shows():
    x = np.array([0.5, -1.2, 0.8])
    check.gradients(third_order_only, x, order=2)
    message = failure(third_order_only, x, order=3, name="quartic")
    assert message.startswith("VJP of VJP of VJP of quartic, argument 0, float64[3]: numeric ")


def test_a_wrong_jvp_alone_is_caught_as_a_jvp():
    x = np.array([0.5, -1.2])
    check.gradients(own_jvp, x, order=1, modes=("vjp",))
    message = failure(own_jvp, x, order=1, name="sine")
    assert message.startswith("JVP of sine, argument 0, float64[2]: numeric ")
    assert "at [" in message


def test_a_wrong_mixed_nesting_is_named_in_full():
    x = np.array([0.5, -1.2])
    wrapped = op("wrapped", np.sin, lambda g, y, x: g * cosine(x))
    cosine = op("cosine", np.cos, lambda g, y, x: -g * ops.sin(x), jvp=lambda dots, y, x: dots[0] * ops.sin(x))
    message = failure(wrapped, x, name="wrapped", modes=("jvp",))
    assert message.startswith("JVP of JVP of wrapped, argument 0, float64[2]: numeric ")


def test_an_argument_that_is_left_out_of_the_graph_is_caught():
    assert failure(lambda x: x * tm.stop_gradient(x), np.array([1.0, 2.0]), name="f").startswith("VJP of f, argument 0")


def test_the_leaf_of_a_tree_is_named():
    params = {"w": A, "b": [np.ones(2)]}
    f = lambda p, x: np.tanh(x @ p["w"]) + tm.stop_gradient(p["b"][0])[0] * np.sum(p["b"][0])
    message = failure(f, params, RNG.normal(size=(2, 3)), name="layer")
    assert message.startswith("VJP of layer, argument 0['b'][0], float64[2]: numeric ")


def test_trees_in_and_out_and_results_that_are_not_floats():
    def f(p, x):
        hidden = np.tanh(x @ p["w"])
        return {"hidden": hidden, "labels": np.argmax(hidden, axis=1), "loss": (np.sum(hidden**2), None)}

    report = check.gradients(f, {"w": A}, RNG.normal(size=(2, 3)))
    assert report.worst < 1e-6


def test_a_scalar_and_an_empty_array_are_arguments_like_others():
    check.gradients(lambda s, e: np.sin(s) + np.sum(e), 0.3, np.zeros((0, 2)))


@pytest.mark.parametrize(
    ("f", "x"), [(ops.relu, [0.0, 1.0]), (ops.floor, [1.0, 2.5]), (lambda x: ops.floor(x) * x, [1.0, 2.5])]
)
def test_a_kink_or_a_jump_is_reported_as_such(f, x):
    pattern = (
        r"^VJP of f, argument 0, float64\[2\] sits on a (kink|jump): slopes .* and .* on its two sides; move it away$"
    )
    with pytest.raises(check.KinkError, match=pattern):
        check.gradients(lambda x: f(x) + np.sin(x), np.array(x), name="f")


@pytest.mark.parametrize(
    ("f", "x"),
    [
        (lambda x: ops.relu(x) ** 2, [0.0, 1.0]),
        (lambda x: ops.relu(x) ** 2, [0.0, 0.0]),
        (lambda x: ops.maximum(x, 1.0), [2.0, 1.0]),
        (lambda x: ops.max(x), [2.0, 2.0]),
        (ops.abs, [0.0, 1.0]),
    ],
)
def test_a_derivative_that_exists_or_is_the_mean_of_both_sides_passes_and_the_jump_shows_at_order_two(f, x):
    check.gradients(f, np.array(x), order=1)
    with pytest.raises(
        check.KinkError, match=r"^(VJP|JVP) of VJP of f, argument 0, float64\[2\] sits on a (kink|jump)"
    ):
        check.gradients(f, np.array(x), order=2, name="f")


@given(distance=st.floats(3e-5, 1e-3), side=st.sampled_from([-1, 1]))
def test_near_a_kink_a_shorter_step_decides(distance, side):
    check.gradients(ops.abs, np.array([side * distance, 1.0]))


@given(factor=st.sampled_from([0.5, 0.99, 1.001, 2.0, -1.0]), x=st.floats(-2, 2))
def test_a_wrong_factor_is_never_taken_for_a_kink(factor, x):
    wrong = op("wrong", np.exp, lambda g, y, x: factor * g * y)
    failure(wrong, np.array([x]), order=1)


def test_leaving_the_domain_is_said():
    with pytest.raises(
        check.CheckError, match=r"VJP of logarithm, argument 0.*not finite around this point; move it into"
    ):
        check.gradients(ops.log, np.array([1e-9]), name="logarithm")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_lower_precision_is_refused_and_not_promoted(dtype):
    with pytest.raises(TypeError, match=r"argument 1, float(32|16)\[2\].*need float64, pass x.astype"):
        check.gradients(lambda x, y: x * y, np.ones(2), np.ones(2, dtype))


def test_integers_are_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"argument 1 is int64\[2\], expected floats: hold it fixed by a lambda"):
        check.gradients(lambda x, i: x[i], np.ones(2), np.array([0, 1]))


def test_nothing_to_differentiate_is_said():
    with pytest.raises(check.CheckError, match="f returned no array of floats"):
        check.gradients(lambda x: np.argmax(x), np.ones(2), name="f")


@pytest.mark.parametrize("options", [{"order": 0}, {"modes": ()}, {"modes": ("reverse",)}])
def test_unknown_options_are_refused(options):
    with pytest.raises(ValueError, match="expected 1 or more, of 'vjp' and 'jvp'"):
        check.gradients(np.sin, np.ones(2), **options)


@pytest.mark.parametrize("rtol", [0, 0.0, -1e-6, np.nan])
def test_a_tolerance_that_no_rounding_error_meets_is_refused(rtol):
    x, pull = np.ones(2), lambda g, x: (g * np.cos(x),)
    for run in (
        lambda: check.gradients(np.sin, x, rtol=rtol),
        lambda: check.adjoint(np.sin, x, rtol=rtol),
        lambda: check.contract(np.sin, pull, args=(x,), rtol=rtol),
    ):
        with pytest.raises(ValueError, match=r"rtol is .*, expected more than 0"):
            run()


@pytest.mark.parametrize("atol", [-1.0, -1e-12, np.inf, np.nan])
def test_a_tolerance_that_everything_meets_is_refused(atol):
    x, wrong = np.ones(2), lambda g, x: (55 * g,)
    for run in (
        lambda: check.gradients(lambda a: tm.stop_gradient(np.sin(a)), x, atol=atol),
        lambda: check.contract(np.sin, wrong, args=(x,), atol=atol),
    ):
        with pytest.raises(ValueError, match=r"atol is .*, expected a finite number, 0 or more"):
            run()


@pytest.mark.parametrize("run", [check.gradients, check.adjoint, check.linearity, check.hvp_symmetry])
def test_no_array_is_refused_and_not_passed(run):
    for xs in ((), ({},)) if run is not check.hvp_symmetry else (({},),):
        with pytest.raises(TypeError, match="check: <lambda> was given no array, expected the arguments"):
            run(lambda x=None: np.sum(np.ones(3)), *xs)


@pytest.mark.parametrize(("error", "passes"), [(2e-10, True), (2e-9, False)])
def test_what_rounding_may_excuse_is_what_the_documentation_says(error, passes):
    """3e-10 for each unit of a cotangent, of which the tangent of one element has one."""
    f = op("flat", lambda x: 0 * x + 1, lambda g, y, x: g * error)
    if passes:
        check.gradients(f, np.array(0.5), order=1, modes=("jvp",))
    else:
        assert "relative error" in failure(f, np.array(0.5), order=1, modes=("jvp",))


def test_the_arrays_of_the_caller_are_left_as_they_were():
    x, y = np.array([1.0, 2.0]), np.asfortranarray(A)
    y.flags.writeable = False
    before = x.copy(), y.copy()
    check.gradients(lambda x, y: np.sin(x)[0] * np.cos(y), x, y)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])
    assert x.flags.writeable
    assert not y.flags.writeable


def test_no_global_random_numbers_and_the_same_result_each_time():
    state = np.random.get_state()[1].copy()  # noqa: NPY002  (to see that it is not touched)
    first, second = (check.gradients(np.sin, np.ones(3)).errors for _ in range(2))
    assert first == second
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    other = check.gradients(np.sin, np.ones(3), rng=1).errors
    assert other != first
    assert other == check.gradients(np.sin, np.ones(3), rng=np.random.default_rng(1)).errors


def test_tolerances_are_the_callers():
    slightly = op("slightly", np.exp, lambda g, y, x: 1.001 * g * y)
    failure(slightly, np.ones(2), order=1)
    check.gradients(slightly, np.ones(2), order=1, rtol=1e-2)
    check.gradients(slightly, np.ones(2), order=1, atol=1e-1)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("wrong", [1.0, 1.1])
def test_the_error_is_relative_to_the_size_of_the_derivative(scale, wrong):
    f = op("scaled", lambda x: scale * np.sin(x), lambda g, y, x: wrong * scale * g * ops.cos(x))
    x = np.array([0.3, 1.0, -0.4])
    if wrong == 1:
        check.gradients(f, x)
    else:
        failure(f, x, order=1)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_the_step_follows_the_size_of_the_argument(size):
    check.gradients(lambda x: np.sin(x / size), size * np.array([0.3, 1.0, -0.4]), order=1 if size < 1 else 2)


SMOOTH = {
    "a fast wave": (np.sin, np.array([1e4, 0.5])),
    "a logarithm near 0": (np.log, np.array([1e-3, 1.0])),
    "batch norm of two": (lambda x: ops.batch_norm(x, None, None, axis=0), np.array([[2.0, 0.0], [0.0, 0.0]])),
    "a root mean square": (lambda x: x / np.sqrt(x * x + 1e-5), np.array([2.0, 0.0, 1e-3])),
    "a softmax of large numbers": (ops.softmax, np.array([1000.0, 999.0, 998.5])),
    "a small norm": (np.linalg.norm, np.array([1e-3, 1e-3])),
}


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("seed", range(3))
def test_a_right_derivative_of_a_curved_function_is_not_accused(name, seed):
    check.gradients(*SMOOTH[name], rng=seed)


@pytest.mark.parametrize("name", SMOOTH)
def test_a_derivative_that_is_wrong_by_a_thousandth_is_found_there(name):
    f, x = SMOOTH[name]
    wrong = Prim("wrong", lambda y: y.copy(), (lambda g, y, x: 1.001 * g,), kind="elementwise")
    with pytest.raises(check.CheckError):
        check.gradients(lambda x: wrong(f(x)), x, order=1)
