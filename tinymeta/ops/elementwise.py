"""Elementwise ops, one row each: value, g times each partial derivative, scalar formula.

Derivatives at kinks, finite at order 1 and 2: relu'(0) = 0, abs'(0) = 0, sqrt'(0) = 0 (so that norm'(0) = 0), and maximum and
minimum share g equally between equal inputs, and give none where one is NaN. power(0, n) with n < 1 has an infinite derivative, as
in NumPy: use sqrt. (At x = 0, n = 1 the mixed derivative of power in x and n is infinite, and here finite, by either order another
number.) relu's rule multiplies by a mask, many times as fast as selecting, so that where its derivative is 0 an infinite cotangent
gives NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.tensor import Prim, bind
from .table import Op, binary, unary


def _sigmoid(x: Any) -> Any:
    with np.errstate(over="ignore"):  # exp(-x) = inf gives the right limit, 0
        return 1 / (1 + np.exp(-x))


def _or_inf(y: Any) -> Any:
    return where(y == 0, np.inf, y)


def _exponent_less_one(x: Any, n: Any) -> Any:
    """n - 1, but for a number 0, and for an array 1 at x = 0, where x^0 stands: n x^(n-1) is then 0 and not 0 * inf."""
    if isinstance(n, (int, float)):
        return n - 1 if n else 0
    return where((n == 0) & (x == 0), 1, n - 1)


def _larger_share(g: Any, x: Any, y: Any) -> Any:
    return where(x == y, 0.5 * g, where(x > y, g, 0))


# name, value, cotangents, formula
add = binary("add", np.add, (lambda g, z, x, y: g, lambda g, z, x, y: g), "{0} + {1}")
subtract = binary("subtract", np.subtract, (lambda g, z, x, y: g, lambda g, z, x, y: -g), "{0} - {1}")
multiply = binary("multiply", np.multiply, (lambda g, z, x, y: g * y, lambda g, z, x, y: g * x), "{0} * {1}")
divide = binary("divide", np.divide, (lambda g, z, x, y: g / y, lambda g, z, x, y: -g * z / y), "{0} / {1}")
power: Op = binary(
    "power",
    np.power,
    (
        lambda g, z, x, n: g * (n * power(x, _exponent_less_one(x, n))),
        lambda g, z, x, n: g * (z * log(where(x == 0, 1, x))),
    ),
    "{0} ** {1}",
)
maximum = binary(
    "maximum",
    np.maximum,
    (lambda g, z, x, y: _larger_share(g, x, y), lambda g, z, x, y: _larger_share(g, y, x)),
    "max({0}, {1})",
)
minimum = binary(
    "minimum",
    np.minimum,
    (lambda g, z, x, y: _larger_share(g, y, x), lambda g, z, x, y: _larger_share(g, x, y)),
    "min({0}, {1})",
)
logaddexp = binary(
    "logaddexp",
    np.logaddexp,
    (lambda g, z, x, y: g * sigmoid(x - y), lambda g, z, x, y: g * sigmoid(y - x)),
    "log(exp({0}) + exp({1}))",
)

negative = unary("negative", np.negative, lambda g, y, x: -g, "-{0}")
reciprocal = unary("reciprocal", np.reciprocal, lambda g, y, x: -g * (y * y), "1 / {0}")
exp = unary("exp", np.exp, lambda g, y, x: g * y, "exp({0})")
expm1 = unary("expm1", np.expm1, lambda g, y, x: g * (y + 1), "exp({0}) - 1")
log: Op = unary("log", np.log, lambda g, y, x: g / x, "log({0})")
log1p = unary("log1p", np.log1p, lambda g, y, x: g / (1 + x), "log(1 + {0})")
sqrt = unary("sqrt", np.sqrt, lambda g, y, x: g * (0.5 / _or_inf(y)), "sqrt({0})")
square = unary("square", np.square, lambda g, y, x: g * (2 * x), "{0} * {0}")
absolute = unary("absolute", np.absolute, lambda g, y, x: g * sign(x), "abs({0})")
sin = unary("sin", np.sin, lambda g, y, x: g * cos(x), "sin({0})")
cos: Op = unary("cos", np.cos, lambda g, y, x: -g * sin(x), "cos({0})")
tan = unary("tan", np.tan, lambda g, y, x: g * (1 + y * y), "tan({0})")
arctan = unary("arctan", np.arctan, lambda g, y, x: g / (1 + x * x), "atan({0})")
sinh = unary("sinh", np.sinh, lambda g, y, x: g * cosh(x), "sinh({0})")
cosh: Op = unary("cosh", np.cosh, lambda g, y, x: g * sinh(x), "cosh({0})")
tanh = unary("tanh", np.tanh, lambda g, y, x: g * (1 - y * y), "tanh({0})")
sigmoid: Op = unary(
    "sigmoid",
    _sigmoid,
    lambda g, y, x: g * (y * (1 - y)),
    "1 / (1 + exp(-{0}))",
    "The logistic function 1 / (1 + exp(-x)), elementwise.",
)
relu = unary(
    "relu",
    lambda x: np.maximum(x, 0),
    lambda g, y, x: g * (y > 0),
    "max({0}, 0)",
    "max(x, 0), elementwise; its derivative at 0 is 0.",
)
softplus = unary(
    "softplus",
    lambda x: np.logaddexp(x, 0),
    lambda g, y, x: g * sigmoid(x),
    "log(1 + exp({0}))",
    "log(1 + exp(x)) without overflow, elementwise.",
)

# no derivative: piecewise constant, or boolean; the result is a plain array
sign: Op = unary("sign", np.sign, None, "sign({0})")
floor = unary("floor", np.floor, None, "floor({0})")
ceil = unary("ceil", np.ceil, None, "ceil({0})")
rint = unary("rint", np.rint, None, "rint({0})")
isnan = unary("isnan", np.isnan, None, "isnan({0})")
isinf = unary("isinf", np.isinf, None, "isinf({0})")
isfinite = unary("isfinite", np.isfinite, None, "isfinite({0})")
equal = binary("equal", np.equal, None, "{0} == {1}")
not_equal = binary("not_equal", np.not_equal, None, "{0} != {1}")
less = binary("less", np.less, None, "{0} < {1}")
less_equal = binary("less_equal", np.less_equal, None, "{0} <= {1}")
greater = binary("greater", np.greater, None, "{0} > {1}")
greater_equal = binary("greater_equal", np.greater_equal, None, "{0} >= {1}")

abs = absolute

_where = Prim(
    "where",
    np.where,
    (None, lambda g, z, c, x, y: where(c, g, 0), lambda g, z, c, x, y: where(c, 0, g)),
    kind="elementwise",
    expr="{1} if {0} else {2}",
)


def where(condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, else y; the gradient goes to the chosen one only."""
    return bind(_where, condition, x, y)


def clip(x: Any, low: Any, high: Any) -> Any:
    """x limited to [low, high] (None: no limit on that side); at a limit the gradient is shared as in maximum."""
    x = x if low is None else maximum(x, low)
    return x if high is None else minimum(x, high)
