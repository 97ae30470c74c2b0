"""Differentiable ops on arrays and Tensors alike: NumPy's name where NumPy has the function.

Given plain arrays they return plain arrays; inside a derivative they record. Every op is right at every order of derivative.
"""

from . import protocols as protocols  # puts the operators and NumPy's protocols on Tensor
from .conv import conv2d, max_pool2d, mean_pool2d
from .diagonals import diag, diagonal, trace, tril, triu
from .einsum import einsum
from .elementwise import (
    abs,
    absolute,
    add,
    arctan,
    ceil,
    clip,
    cos,
    cosh,
    divide,
    equal,
    exp,
    expm1,
    floor,
    greater,
    greater_equal,
    isfinite,
    isinf,
    isnan,
    less,
    less_equal,
    log,
    log1p,
    logaddexp,
    maximum,
    minimum,
    multiply,
    negative,
    not_equal,
    power,
    reciprocal,
    relu,
    rint,
    sigmoid,
    sign,
    sin,
    sinh,
    softplus,
    sqrt,
    square,
    subtract,
    tan,
    tanh,
    where,
)  # fmt: skip
from .indexing import getitem, one_hot, repeat, scatter_add, take, take_along_axis
from .linalg import cholesky, dot, inner, matmul, norm, outer, solve, tensordot, vdot, vecdot
from .nn import batch_norm, log_softmax, softmax, softmax_cross_entropy
from .reduce import cumsum, logsumexp, max, mean, min, prod, std, sum, var
from .shape import (
    astype,
    broadcast_to,
    concatenate,
    expand_dims,
    flip,
    hstack,
    moveaxis,
    pad,
    ravel,
    reshape,
    roll,
    split,
    squeeze,
    stack,
    sum_to,
    swapaxes,
    tile,
    transpose,
    vstack,
)  # fmt: skip

__all__ = [
    "abs", "absolute", "add", "arctan", "astype", "batch_norm", "broadcast_to", "ceil", "cholesky", "clip",
    "concatenate", "conv2d", "cos", "cosh", "cumsum", "diag", "diagonal", "divide", "dot", "einsum", "equal", "exp",
    "expand_dims", "expm1", "flip", "floor", "getitem", "greater", "greater_equal", "hstack", "inner", "isfinite",
    "isinf", "isnan", "less", "less_equal", "log", "log1p", "log_softmax", "logaddexp", "logsumexp", "matmul",
    "max", "max_pool2d", "maximum", "mean", "mean_pool2d", "min", "minimum", "moveaxis", "multiply", "negative",
    "norm", "not_equal", "one_hot", "outer", "pad", "power", "prod", "ravel", "reciprocal", "relu", "repeat",
    "reshape", "rint", "roll", "scatter_add", "sigmoid", "sign", "sin", "sinh", "softmax", "softmax_cross_entropy",
    "softplus", "solve", "split", "sqrt", "square", "squeeze", "stack", "std", "subtract", "sum", "sum_to",
    "swapaxes", "take", "take_along_axis", "tan", "tanh", "tensordot", "tile", "trace", "transpose", "tril", "triu",
    "var", "vdot", "vecdot", "vstack", "where",
]  # fmt: skip
