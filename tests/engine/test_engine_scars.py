"""What broke in other engines: long chains, recovery after an error, wrong rules, integers, Adam at a zero gradient."""

import gc
import threading

import numpy as np
import pytest

import tinymeta as tm
from tinymeta import check, ops
from tinymeta.engine.tensor import THREAD, Prim

LONG = 100_000


def chain(x):
    for _ in range(LONG):
        x = x + 1.0
    return x * x


def test_a_chain_of_a_hundred_thousand_ops_forward_backward_and_freed():
    x = np.array(2.0)
    assert tm.grad(chain)(x) == 2 * (LONG + 2)
    assert tm.jvp(chain, (x,), (np.array(1.0),))[1] == 2 * (LONG + 2)
    pull = tm.vjp(chain, x)[1]
    del pull  # the graph goes here, node by node: no recursion in Python or C
    gc.collect()


def test_a_long_chain_at_second_order():
    def short_chain(x):
        for _ in range(5000):
            x = x + 1.0
        return x**3

    assert tm.grad(tm.grad(short_chain))(np.array(2.0)) == 6 * 5002


def test_a_derivative_after_an_exception_inside_a_derivative_is_right():
    x, captured = np.array([1.0, 2.0]), np.array([3.0, 4.0])

    def breaks(x):
        y = np.sum(x * captured)
        tm.grad(lambda z: fails(z * y))(x)
        return y

    def fails(z):
        raise KeyError("in the middle of a nested derivative")

    for transform in (tm.grad(breaks), lambda x: tm.jvp(breaks, (x,), (x,)), lambda x: tm.vjp(breaks, x)):
        with pytest.raises(KeyError, match="in the middle"):
            transform(x)
        assert THREAD.depth == 0
        assert not THREAD.locked
        assert THREAD.site is None
        x += 1
        captured += 1
    x, captured = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    np.testing.assert_array_equal(tm.grad(lambda x: np.sum(x * x * captured))(x), 2 * x * captured)
    assert tm.grad(lambda x: tm.grad(lambda y: x * y)(2.0))(3.0) == 1


def test_a_derivative_after_an_exception_inside_a_rule_is_right():
    def rule(g, y, x):
        raise FloatingPointError("broken rule")

    broken = Prim("broken", np.exp, (rule,))
    x = np.array([1.0, 2.0])
    with pytest.raises(FloatingPointError, match="broken rule"):
        tm.hvp(lambda x: np.sum(broken(x)), x, x)
    assert THREAD.depth == 0
    assert THREAD.site is None
    assert x.flags.writeable
    np.testing.assert_array_equal(tm.hvp(lambda x: np.sum(x**2), x, x), 2 * x)


def rule_error(prim, x):
    with pytest.raises(ValueError) as caught:
        tm.grad(lambda x: np.sum(prim(x) ** 2))(x)
    return str(caught.value)


@pytest.mark.parametrize("rule", [lambda g, y, x: g[:2], lambda g, y, x: g[None], lambda g, y, x: np.sum(g)])
def test_a_rule_that_gives_the_wrong_shape_is_refused(rule):
    message = rule_error(Prim("wrong", np.exp, (rule,)), np.ones(5))
    assert "VJP of wrong, argument 0" in message
    assert "float64[5]" in message
    assert "test_engine_scars.py:" in message


def test_a_wrong_shape_from_a_rule_for_all_inputs_is_refused_too():
    message = rule_error(Prim("wrong", lambda x: x * 1, vjp=lambda g, y, x: (g[:1],)), np.ones(5))
    assert "VJP of wrong" in message
    assert "float64[1]" in message


def test_a_jvp_that_gives_the_wrong_shape_is_refused():
    wrong = Prim("wrong", lambda x: x * 1, (lambda g, y, x: g,), jvp=lambda dots, y, x: dots[0][:2])
    with pytest.raises(ValueError, match=r"JVP of wrong.*float64\[2\]"):
        tm.jvp(lambda x: wrong(x), (np.ones(5),), (np.ones(5),))


def test_an_error_in_a_rule_names_op_argument_shapes_and_the_line_of_the_call():
    def rule(g, y, a, b):
        raise ArithmeticError("the rule broke")

    fragile = Prim("fragile", np.multiply, (lambda g, y, a, b: g * b, rule))

    def model(a, b):
        return np.sum(fragile(a, b))  # the line to be named

    line = model.__code__.co_firstlineno + 1
    with pytest.raises(ArithmeticError) as caught:
        tm.grad(model, argnums=(0, 1))(np.ones(3), np.ones(3, np.float32))
    message = str(caught.value)
    for part in (
        "VJP of fragile, argument 1",
        "float64[3], float32[3]",
        f"test_engine_scars.py:{line}",
        "the rule broke",
    ):
        assert part in message


def test_a_recorded_rule_belongs_to_the_line_of_its_forward_call():
    """The square of a gradient fails in a rule of a rule: the line is still the user's forward line."""
    calls = []

    def rule(g, y, x):
        calls.append(g)
        if len(calls) > 1:
            raise ArithmeticError("at second order")
        return g * once(x)

    once = Prim("once", np.exp, (rule,))

    def model(x):
        return np.sum(once(x))

    line = model.__code__.co_firstlineno + 1
    with pytest.raises(ArithmeticError, match=f"test_engine_scars.py:{line}"):
        tm.grad(lambda x: np.sum(tm.grad(model)(x) ** 2))(np.ones(2))


@pytest.mark.parametrize(
    "x", [3, np.int64(3), np.arange(3), np.array([True]), np.array([1j]), "w", np.array(["w"]), [1, 2]]
)
def test_what_has_no_derivative_is_refused(x):
    for transform in (tm.grad(lambda x: 0.0), lambda x: tm.vjp(lambda x: x, x), lambda x: tm.linearize(lambda x: x, x)):
        with pytest.raises(TypeError, match=r"argument 0.* a derivative needs floats"):
            transform(x)
        assert THREAD.depth == 0


THROUGH_COMPLEX = {
    "multiply": lambda x: np.sum(np.abs(x * 1j)),
    "add": lambda x: np.sum(np.abs(x + np.array([1j, 2]))),
    "power": lambda x: np.sum(np.abs(x ** np.complex128(1j))),
    "matmul": lambda x: np.abs(np.array([1j, 1]) @ x),
    "where": lambda x: np.sum(np.abs(np.where(x > 1, x, 1j))),
    "concatenate": lambda x: np.max(np.abs(np.concatenate([x, np.array([1j])]))),
    "astype": lambda x: np.sum(np.abs(x.astype(np.complex128))),
}


@pytest.mark.parametrize("op", THROUGH_COMPLEX)
def test_a_derivative_through_complex_numbers_is_refused_by_the_name_of_the_op(op):
    f, x = THROUGH_COMPLEX[op], np.array([1.0, 2.0])
    mapped = lambda x: tm.vmap(lambda s: f(s * np.ones(2)))(x)
    sweeps = (tm.grad(f), lambda x: tm.jvp(f, (x,), (x,)), lambda x: tm.hvp(f, x, x), tm.grad(lambda x: mapped(x)[0]))
    for sweep in sweeps:
        with pytest.raises(TypeError, match=rf"{op}.*expected .*real numbers"):
            sweep(x)


def test_complex_numbers_beside_a_derivative_are_constants():
    c = np.array([3j, 4])
    np.testing.assert_array_equal(tm.grad(lambda x: np.sum(x * np.abs(c * 1j)))(np.ones(2)), [3, 4])


def test_the_refusal_names_the_leaf_of_a_tree():
    params = {"w": np.ones(3), "steps": np.array([1, 2])}
    with pytest.raises(TypeError, match=r"grad: argument 1\['steps'\] is int64\[2\]"):
        tm.grad(lambda x, p: np.sum(x), argnums=1)(np.ones(2), params)


def test_integers_that_are_not_differentiated_may_be_there():
    gradient = tm.grad(lambda w, labels: np.sum(w[labels] ** 2))(np.array([1.0, 2.0, 3.0]), np.array([0, 0, 2]))
    np.testing.assert_array_equal(gradient, [4, 0, 6])


def adam_step(w, gradient, m, v, lr=0.1, b1=0.9, b2=0.99, eps=1e-8, count=1):
    m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient * gradient
    return w - lr * (m / (1 - b1**count)) / (ops.sqrt(v / (1 - b2**count)) + eps), m, v


def test_the_meta_gradient_through_adam_is_finite_where_the_gradient_is_zero():
    """sqrt has an infinite slope at 0, which made the meta-gradient NaN elsewhere; here it is stated to be 0."""
    data = np.array([0.0, 1.0])  # the first parameter does not matter: its gradient is exactly 0

    def meta(w):
        m, v = np.zeros(2), np.zeros(2)
        for count in (1, 2, 3):
            gradient = tm.grad(lambda w: np.sum(data * w**3))(w)
            w, m, v = adam_step(w, gradient, m, v, count=count)
        return np.sum(w**2)

    w = np.array([0.5, 0.7])
    gradient, curvature = tm.grad(meta)(w), tm.hessian(meta)(w)
    assert np.isfinite(gradient).all()
    assert np.isfinite(curvature).all()
    assert gradient[0] == 1  # untouched by Adam: d w²/dw
    check.gradients(lambda used: meta(ops.stack([np.array(0.5), used])), w[1])


def test_derivatives_in_two_threads_do_not_meet():
    barrier, results = threading.Barrier(2, timeout=30), {}

    def work(k):
        def f(x):
            barrier.wait()  # both are inside a derivative now
            y = np.sum(x * x * k)
            barrier.wait()
            return y

        results[k] = tm.grad(f)(np.ones(3))

    threads = [threading.Thread(target=work, args=(k,)) for k in (1.0, 2.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    np.testing.assert_array_equal(results[1.0], [2, 2, 2])
    np.testing.assert_array_equal(results[2.0], [4, 4, 4])
