// Fisher diagonals on a GPU, formulas (5) to (8) of kernels/fisher/__init__.py. cuda.py launches it.
//
// Both kernels are products of which a block of threads computes TILE by TILE entries at a time, a thread 4 by 4 of them,
// 16 rows and columns apart. DEPTH terms of each row and column go through shared memory. Squares are taken on the way
// into it (`linear`), or of a sample's finished sums (`positions`): no squared copy and no per-sample gradient is stored.
// Sums over samples are kept in double, in a fixed order, so that a result is the same bits each time.
typedef long long int64;

#ifndef REAL  // cuda.py defines another dtype
#define REAL float
#endif
constexpr int TILE = 64, DEPTH = 16, EACH = 4, SIDE = TILE / EACH, THREADS = SIDE * SIDE, PITCH = TILE + 1;
constexpr int FOLD = 256;  // terms that are summed as REAL before they are added to a double
extern __shared__ REAL shared[];

// to[q][i] = entry(first + i, q0 + q) for i < TILE and q < DEPTH, or 0 from `count` and `count_q` on. The threads follow q if
// `along_q`, so that neighbours read neighbours.
template <class Entry> __device__ void load_tile(REAL* to, int64 first, int64 count, int64 q0, int64 count_q, bool along_q, Entry entry) {
    for (int e = threadIdx.x; e < TILE * DEPTH; e += THREADS) {
        const int i = along_q ? e / DEPTH : e % TILE, q = along_q ? e % DEPTH : e / TILE;
        to[q * PITCH + i] = first + i < count && q0 + q < count_q ? entry(first + i, q0 + q) : REAL(0);
    }
}

// sums += the product of both tiles in shared memory, the second after the first.
__device__ inline void multiply_tiles(REAL (&sums)[EACH][EACH]) {
    const REAL *a = shared + threadIdx.x / SIDE, *b = shared + DEPTH * PITCH + threadIdx.x % SIDE;
#pragma unroll 4
    for (int q = 0; q < DEPTH; q++) {
        REAL x[EACH], y[EACH];
        for (int i = 0; i < EACH; i++) x[i] = a[q * PITCH + i * SIDE];
        for (int j = 0; j < EACH; j++) y[j] = b[q * PITCH + j * SIDE];
        for (int i = 0; i < EACH; i++)
            for (int j = 0; j < EACH; j++) sums[i][j] += x[i] * y[j];
    }
}

__device__ inline void store_tile(const double (&totals)[EACH][EACH], REAL* F, int64 r0, int64 rows, int64 c0, int64 columns) {
    for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++) {
            const int64 r = r0 + threadIdx.x / SIDE + i * SIDE, c = c0 + threadIdx.x % SIDE + j * SIDE;
            if (r < rows && c < columns) F[r * columns + c] = REAL(totals[i][j]);
        }
}

// F (I + 1, O) = (A A)^T (sum_v S S) from A (N, I) and S (V, N, O), (6), with the bias as its last row, that of a constant 1.
extern "C" __global__ void __launch_bounds__(THREADS)
linear(const REAL* __restrict__ A, const REAL* __restrict__ S, REAL* __restrict__ F, int64 V, int64 N, int64 I, int64 O) {
    const int64 across = (O + TILE - 1) / TILE, tiles = (I + TILE) / TILE * across;
    for (int64 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int64 i0 = tile / across * TILE, o0 = tile % across * TILE;
        double totals[EACH][EACH] = {};
        for (int64 n1 = 0; n1 < N; n1 += FOLD) {
            REAL sums[EACH][EACH] = {};
            const int64 end = n1 + FOLD < N ? n1 + FOLD : N;
            for (int64 n0 = n1; n0 < end; n0 += DEPTH) {
                load_tile(shared, i0, I + 1, n0, end, false, [=](int64 i, int64 n) {
                    const REAL a = i < I ? A[n * I + i] : REAL(1);
                    return a * a;
                });
                load_tile(shared + DEPTH * PITCH, o0, O, n0, end, false, [=](int64 o, int64 n) {
                    REAL sum = 0;
                    for (int64 v = 0; v < V; v++) {
                        const REAL s = S[(v * N + n) * O + o];
                        sum += s * s;
                    }
                    return sum;
                });
                __syncthreads();
                multiply_tiles(sums);
                __syncthreads();
            }
            for (int e = 0; e < EACH * EACH; e++) totals[e / EACH][e % EACH] += sums[e / EACH][e % EACH];
        }
        store_tile(totals, F, i0, I + 1, o0, O);
    }
}

// F (P, Q) = sum_n (sum_l X_npl Y_nql)^2, (7) and (8); arrays of any strides in entries, n, p or q, and l.
extern "C" __global__ void __launch_bounds__(THREADS)
positions(const REAL* __restrict__ X, const REAL* __restrict__ Y, REAL* __restrict__ F, int64 N, int64 P, int64 Q, int64 L,
          int64 x_n, int64 x_p, int64 x_l, int64 y_n, int64 y_q, int64 y_l) {
    const int64 across = (Q + TILE - 1) / TILE, tiles = (P + TILE - 1) / TILE * across;
    for (int64 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int64 p0 = tile / across * TILE, q0 = tile % across * TILE;
        double totals[EACH][EACH] = {};
        for (int64 n = 0; n < N; n++) {
            REAL sums[EACH][EACH] = {};
            for (int64 l0 = 0; l0 < L; l0 += DEPTH) {
                load_tile(shared, p0, P, l0, L, x_l < x_p, [=](int64 p, int64 l) { return X[n * x_n + p * x_p + l * x_l]; });
                load_tile(shared + DEPTH * PITCH, q0, Q, l0, L, y_l < y_q, [=](int64 q, int64 l) { return Y[n * y_n + q * y_q + l * y_l]; });
                __syncthreads();
                multiply_tiles(sums);
                __syncthreads();
            }
            for (int e = 0; e < EACH * EACH; e++) {
                const REAL g = sums[e / EACH][e % EACH];
                totals[e / EACH][e % EACH] += double(g * g);
            }
        }
        store_tile(totals, F, p0, P, q0, Q);
    }
}
