// Batched products of small matrices, c = a b, on a GPU; mathematics: kernels/gemm/__init__.py. cuda.py launches it.
//
// A block of threads computes TILE_M by TILE_N entries of one c at a time. TILE_K columns of a and rows of b go through
// shared memory, both with k as the slow axis and one entry of padding, so that neither order of reading makes threads
// meet in a bank. A thread sums 4 by 4 entries, TILE_M / 4 rows and TILE_N / 4 columns apart: neighbours in a warp read
// neighbours in shared memory, and write neighbours in c. What lies beyond a matrix is 0 in the tile and not written.
typedef long long int64;

#ifndef REAL  // cuda.py defines another dtype or tile
#define REAL float
#endif
#ifndef TILE_M
#define TILE_M 16
#define TILE_N 64
#endif
#define TILE_K 32

constexpr int EACH = 4, ROWS = TILE_M / EACH, COLUMNS = TILE_N / EACH, THREADS = ROWS * COLUMNS;
extern __shared__ REAL shared[];

// Where a matrix begins, and its steps in entries, of any sign, from one to the next.
struct Layout {
    int64 first, outer, inner, row, column;
};

// to[q][i] = the entry at from[i step + q step_q], for i < TILE and q < TILE_K, or 0 from `count` and `count_q` on. The
// threads follow the axis whose entries lie closer together.
template <int TILE> __device__ void load_tile(REAL* to, const REAL* from, int64 count, int64 count_q, int64 step, int64 step_q) {
    const bool along_q = (step_q < 0 ? -step_q : step_q) < (step < 0 ? -step : step);
#pragma unroll 4
    for (int e = threadIdx.x; e < TILE * TILE_K; e += THREADS) {
        const int i = along_q ? e / TILE_K : e % TILE, q = along_q ? e % TILE_K : e / TILE;
        to[q * (TILE + 1) + i] = i < count && q < count_q ? from[i * step + q * step_q] : REAL(0);
    }
}

// The tile of c whose first entry is (r0, s0).
__device__ inline void multiply_tile(const REAL* a, const REAL* b, REAL* c, int64 m, int64 k, int64 n, int64 r0, int64 s0,
                                     const Layout& A, const Layout& B, const Layout& C) {
    REAL* a_tile = shared;
    REAL* b_tile = shared + TILE_K * (TILE_M + 1);
    const int r = threadIdx.x / COLUMNS, s = threadIdx.x % COLUMNS;
    REAL sums[EACH][EACH] = {};
    for (int64 q0 = 0; q0 < k; q0 += TILE_K) {
        load_tile<TILE_M>(a_tile, a + r0 * A.row + q0 * A.column, m - r0, k - q0, A.row, A.column);
        load_tile<TILE_N>(b_tile, b + q0 * B.row + s0 * B.column, n - s0, k - q0, B.column, B.row);
        __syncthreads();
#pragma unroll 4
        for (int q = 0; q < TILE_K; q++) {
            REAL x[EACH], y[EACH];
            for (int i = 0; i < EACH; i++) x[i] = a_tile[q * (TILE_M + 1) + r + i * ROWS];
            for (int j = 0; j < EACH; j++) y[j] = b_tile[q * (TILE_N + 1) + s + j * COLUMNS];
            for (int i = 0; i < EACH; i++)
                for (int j = 0; j < EACH; j++) sums[i][j] += x[i] * y[j];
        }
        __syncthreads();
    }
    for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++) {
            const int64 row = r0 + r + i * ROWS, column = s0 + s + j * COLUMNS;
            if (row < m && column < n) c[row * C.row + column * C.column] = sums[i][j];
        }
}

// c = a b for outer times inner matrices. 640 threads of a multiprocessor are the most whose registers need no spilling.
extern "C" __global__ void __launch_bounds__(THREADS, 640 / THREADS)
multiply(const REAL* a, const REAL* b, REAL* c, int64 m, int64 k, int64 n, int64 outer, int64 inner,
         int64 a_first, int64 a_outer, int64 a_inner, int64 a_row, int64 a_column,
         int64 b_first, int64 b_outer, int64 b_inner, int64 b_row, int64 b_column,
         int64 c_first, int64 c_outer, int64 c_inner, int64 c_row, int64 c_column) {
    const Layout A = {a_first, a_outer, a_inner, a_row, a_column}, B = {b_first, b_outer, b_inner, b_row, b_column},
                 C = {c_first, c_outer, c_inner, c_row, c_column};
    const int64 tiles_m = (m + TILE_M - 1) / TILE_M, tiles_n = (n + TILE_N - 1) / TILE_N;
    for (int64 item = blockIdx.x; item < outer * inner * tiles_m * tiles_n; item += gridDim.x) {
        const int64 matrix = item / (tiles_m * tiles_n), tile = item % (tiles_m * tiles_n);
        const auto start = [=](const Layout& L) { return L.first + matrix / inner * L.outer + matrix % inner * L.inner; };
        multiply_tile(a + start(A), b + start(B), c + start(C), m, k, n, tile / tiles_n * TILE_M, tile % tiles_n * TILE_N,
                      A, B, C);
    }
}
