"""tanh, 2^x, the logistic function and the logarithm of a vector of float32, with their largest errors in ulp.

The bounds are those of the tests; with fused multiply-adds tanh was seen at 7.9, 2^x at 2.8.

tanh(x) = x P(x^2) / Q(x^2), P of degree 3 and Q of degree 4, after x is cut to +-CUT, where the quotient is +-1.
s(x) = 1 / (1 + e^-x) = 1 / (1 + 2^y), y = x SIGMOID: a kernel may scale its weights instead of x.
Both come as numerator and denominator, so that a kernel may merge its divisions: denominators lie between 1 and
2^40 + 1, so that a product of three, or two and a numerator of any state that occurs, does not overflow.
"""

from __future__ import annotations

import math

from .emit import Simd, Value

CUT = 8.0
P = (0.9999999403953552, 0.12891924381256104, 0.002914820797741413, 1.1038910088245757e-05)
Q = (1.0, 0.4622509777545929, 0.02366732805967331, 0.00023356037854682654, 2.3352411915311677e-07)
"""The best relative error on [0, CUT] of all quotients that are 1 at CUT (2.3e-7), then improved in float32."""
EXP2 = (1.0, 0.6931469440460205, 0.24022120237350464, 0.05550713092088699, 0.009675541892647743, 0.0013276472454890609)
"""2^f on [-1/2, 1/2], the best relative error of degree 5 (7.5e-8)."""
EXP2_CUT = 40.0
ROUND = 1.5 * 2.0**23
"""x + ROUND rounds x to a whole number, which the sum's last bits then hold."""
ONE = 0x3F800000
"""The bits of 1."""
SIGMOID = -1 / math.log(2)
LOG = (
    3.3333331174e-1, -2.4999993993e-1, 2.0000714765e-1, -1.6668057665e-1, 1.4249322787e-1, -1.2420140846e-1,
    1.1676998740e-1, -1.1514610310e-1, 7.0376836292e-2,
)  # fmt: skip
"""log(1 + m) = m - m^2 / 2 + m^3 LOG(m) for m in [sqrt(1/2) - 1, sqrt(2) - 1]: S. Moshier, Cephes, logf."""
SMALLEST_NORMAL = 2.0**-126
LOG2_HIGH, LOG2_LOW = 0.693359375, -2.12194440e-4


def tanh_ratio(simd: Simd, x: Value) -> tuple[Value, Value]:
    """(n, d) with tanh(x) = n / d, within 10 ulp and at most one beyond 1. tanh(+-inf) = +-1, tanh(NaN) = NaN."""
    x = simd.minimum(simd.const(CUT), simd.maximum(simd.const(-CUT), x))
    z = simd.mul(x, x)
    return simd.mul(x, simd.polynomial(z, P)), simd.polynomial(z, Q)


def sigmoid_denominator(simd: Simd, y: Value) -> Value:
    """d with s(y / SIGMOID) = 1 / d, within 2e-7. s(inf) = 1, s(-inf) = 2^-40, s(NaN) = NaN."""
    return simd.add(simd.const(1), exp2(simd, y))


def exp2(simd: Simd, x: Value) -> Value:
    """2^x within 4 ulp, x cut to +-EXP2_CUT; of NaN it is NaN."""
    b = simd.builder
    x = simd.minimum(simd.const(EXP2_CUT), simd.maximum(simd.const(-EXP2_CUT), x))
    shifted = simd.add(x, simd.const(ROUND))
    fraction = simd.sub(x, simd.sub(shifted, simd.const(ROUND)))
    exponent = b.shl(b.bitcast(shifted, simd.integers), simd.bits(23))  # of 2^k, k the whole part of x
    power = b.bitcast(b.add(exponent, simd.bits(ONE)), simd.vector)
    return simd.mul(simd.polynomial(fraction, EXP2), power)  # a product, so that NaN is NaN whatever its bits are


def log(simd: Simd, x: Value) -> Value:
    """The natural logarithm within 2 ulp: of +-0 it is -inf, of inf inf, of a negative number or NaN NaN; subnormals are exact."""
    exponent, m = _split(simd, x)
    z = simd.mul(m, m)
    y = simd.mul(simd.mul(simd.polynomial(m, LOG), m), z)
    y = simd.fma(exponent, simd.const(LOG2_LOW), y)
    y = simd.fma(simd.const(-0.5), z, y)
    y = simd.fma(exponent, simd.const(LOG2_HIGH), simd.add(m, y))
    infinity, zero = simd.const(float("inf")), simd.const(0)
    y = simd.where(simd.less(x, infinity), y, x)  # inf and NaN stand for themselves
    y = simd.where(simd.less(x, zero), simd.const(float("nan")), y)
    return simd.where(simd.builder.fcmp_ordered("==", x, zero), simd.const(float("-inf")), y)


def _split(simd: Simd, x: Value) -> tuple[Value, Value]:
    """(e, m) with x = 2^e (1 + m), sqrt(1/2) <= 1 + m < sqrt(2), for a finite x > 0."""
    b = simd.builder
    tiny = simd.less(x, simd.const(SMALLEST_NORMAL))
    bits = b.bitcast(simd.where(tiny, simd.mul(x, simd.const(2.0**24)), x), simd.integers)
    bias = b.select(tiny, simd.bits(126 + 24), simd.bits(126))
    exponent = b.sitofp(b.sub(b.lshr(bits, simd.bits(23)), bias), simd.vector)
    mantissa = b.bitcast(b.or_(b.and_(bits, simd.bits(0x7FFFFF)), simd.bits(0x3F000000)), simd.vector)  # in [1/2, 1)
    low = simd.less(mantissa, simd.const(0.5**0.5))
    exponent = simd.where(low, simd.sub(exponent, simd.const(1)), exponent)
    mantissa = simd.where(low, simd.add(mantissa, mantissa), mantissa)
    return exponent, simd.sub(mantissa, simd.const(1))
