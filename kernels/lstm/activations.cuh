// The gates' functions and appendix A, in IEEE float32 operations and fmaf alone (but logf): a host compiler gives the
// same bits as a GPU, but that CuPy's compiler takes subnormal numbers for 0. No fast math.
//
// Errors in units in the last place: sigmoid 2.5, tangent 1.5, over all floats; sigmoid is 0 below -87.3, where it is
// under 1.3e-38. Both are exactly 1 where they round to 1, and NaN at NaN.
#pragma once

// e^x for x <= 0: x = n log 2 + r with |r| <= log(2) / 2, a polynomial in r (Cephes expf), then the exponent moved by n.
__device__ inline float exp_negative(float x) {
    const float shifted = fmaf(x, 1.44269504f, 12582912.0f);  // 1.5 * 2^23: n in the low bits
    const float n = shifted - 12582912.0f;
    const float r = fmaf(n, 2.12194440e-4f, fmaf(n, -0.693359375f, x));
    float p = 1.9875691500e-4f;
    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    const float power = __uint_as_float((__float_as_uint(shifted) + 127u) << 23);
    return x < -87.3f ? 0.0f : (fmaf(p, r * r, r) + 1.0f) * power;
}

__device__ inline float sigmoid(float z) {
    const float e = exp_negative(-fabsf(z));
    return (z >= 0.0f ? 1.0f : e) / (1.0f + e);
}

__device__ inline float tangent(float x) {  // tanh
    const float e = exp_negative(-2.0f * fabsf(x));
    const float far = 1.0f - 2.0f * e / (1.0f + e);
    const float square = x * x;  // near 0: x + x^3 P(x^2), Cephes tanhf
    float p = -5.70498872745e-3f;
    p = fmaf(p, square, 2.06390887954e-2f);
    p = fmaf(p, square, -5.37397155531e-2f);
    p = fmaf(p, square, 1.33314422036e-1f);
    p = fmaf(p, square, -3.33332819422e-1f);
    return fabsf(x) < 0.625f ? fmaf(p * square, x, x) : copysignf(far, x);
}

// Appendix A (1). slope is e^p and seam e^-p.
struct Preprocessing {
    float p, seam, slope;

    __device__ bool is_large(float g) const { return fabsf(g) >= seam; }
    __device__ float logarithm(float g) const { return is_large(g) ? logf(fabsf(g)) / p : -1.0f; }
    __device__ float sign(float g) const { return is_large(g) ? copysignf(1.0f, g) : slope * g; }
    __device__ float vjp(float d_logarithm, float d_sign, float g) const {
        return is_large(g) ? d_logarithm / g / p : slope * d_sign;
    }
};
