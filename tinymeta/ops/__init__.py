"""Differentiable ops on arrays and Tensors alike: NumPy's name where NumPy has the function.

Given plain arrays they return plain arrays; inside a derivative they record. Every op is right at every order of derivative.
"""

from . import protocols
from .einsum import einsum
from .elementwise import (
    abs, absolute, add, arctan, ceil, clip, cos, cosh, divide, equal, exp, expm1, floor, greater, greater_equal, isfinite, isinf,
    isnan, less, less_equal, log, log1p, logaddexp, maximum, minimum, multiply, negative, not_equal, power, reciprocal, relu, rint,
    sigmoid, sign, sin, sinh, softplus, sqrt, square, subtract, tan, tanh, where,
)  # fmt: skip
from .indexing import getitem, one_hot, scatter_add, take, take_along_axis
from .linalg import cholesky, dot, matmul, norm, outer, solve, tensordot
from .reduce import cumsum, logsumexp, max, mean, min, prod, std, sum, var
from .shape import (
    astype, broadcast_to, concatenate, expand_dims, flip, moveaxis, pad, ravel, reshape, roll, split, squeeze, stack, sum_to, swapaxes,
    transpose,
)  # fmt: skip

__all__ = [name for name in dir() if not name.startswith("_") and name not in {"protocols", "table", "elementwise", "indexing", "linalg", "reduce", "shape"}]
