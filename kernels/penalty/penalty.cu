// The EWC penalty and its optimizers' steps on a GPU, formulas (1) to (5) of kernels/penalty/__init__.py: one pass over the
// entries. cuda.py launches it. A thread takes every (blocks * threads)-th entry; what is written may be what is read.
typedef long long int64;

#ifndef REAL  // cuda.py defines another dtype
#define REAL float
#endif
constexpr int THREADS = 256;
extern __shared__ double shared[];

template <class Body> __device__ void for_each(int64 size, Body body) {
    for (int64 i = blockIdx.x * int64(blockDim.x) + threadIdx.x; i < size; i += int64(gridDim.x) * blockDim.x) body(i);
}

// sums[block] = the block's part of sum F (theta - anchor)^2 (1), in double, added in a fixed order.
extern "C" __global__ void __launch_bounds__(THREADS)
squares(const REAL* theta, const REAL* anchor, const REAL* fisher, double* sums, int64 size) {
    double sum = 0;
    for_each(size, [&](int64 i) {
        const REAL d = theta[i] - anchor[i];
        sum += double(fisher[i] * d * d);
    });
    shared[threadIdx.x] = sum;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = shared[0];
}

extern "C" __global__ void __launch_bounds__(THREADS)  // (2)
gradients(const REAL* theta, const REAL* anchor, const REAL* fisher, REAL* out, int64 size, REAL lam) {
    for_each(size, [=](int64 i) { out[i] = lam * fisher[i] * (theta[i] - anchor[i]); });
}

extern "C" __global__ void __launch_bounds__(THREADS)  // (3)
sgd(const REAL* theta, const REAL* grad, const REAL* anchor, const REAL* fisher, REAL* out, int64 size, REAL lam, REAL lr) {
    for_each(size, [=](int64 i) { out[i] = theta[i] - lr * (grad[i] + lam * fisher[i] * (theta[i] - anchor[i])); });
}

extern "C" __global__ void __launch_bounds__(THREADS)  // (5)
proximal(const REAL* theta, const REAL* grad, const REAL* anchor, const REAL* fisher, REAL* out, int64 size, REAL lr,
         REAL lr_lam) {
    for_each(size, [=](int64 i) {
        const REAL pull = lr_lam * fisher[i];
        out[i] = (theta[i] - lr * grad[i] + pull * anchor[i]) / (REAL(1) + pull);
    });
}

extern "C" __global__ void __launch_bounds__(THREADS)  // (4)
adam(const REAL* theta, const REAL* grad, const REAL* anchor, const REAL* fisher, const REAL* m, const REAL* v, REAL* out,
     REAL* m_out, REAL* v_out, int64 size, REAL lam, REAL lr, REAL beta1, REAL rest1, REAL beta2, REAL rest2, REAL bias1,
     REAL bias2, REAL eps) {
    for_each(size, [=](int64 i) {
        const REAL total = grad[i] + lam * fisher[i] * (theta[i] - anchor[i]);
        const REAL m_new = beta1 * m[i] + rest1 * total, v_new = beta2 * v[i] + rest2 * total * total;
        out[i] = theta[i] - lr * (m_new / bias1) / (sqrt(v_new / bias2) + eps);
        m_out[i] = m_new, v_out[i] = v_new;
    });
}
