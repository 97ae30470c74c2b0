// What the kernels of lstm.cu share: the sizes, the layout of memory, and a forward step of one tile.
//
// A block of threads works on a tile of 64 coordinates (blocks.py). Memory moves in `Four`s, 16 bytes: four coordinates
// of a row, or the four gates of a weight. In shared memory lie
//     weights   per layer [H][K] Fours: the gates i, f, g, o of unit j and input k; then W_out and b_out, plain floats
//     inputs    per layer [K][16] Fours: the rows of u = [x, h, 1], K = d + H + 1, so that the bias is the weight of 1
// A thread takes one unit and 8 coordinates: 3 loads feed 32 multiply-adds. IN_SHARED = 1 leaves the sums of the backward
// pass, and 0 the weights too, in global memory, for networks that are too large.
#pragma once
#include "activations.cuh"

#ifndef SIZES  // the paper's optimizer; cuda.py defines other sizes. FEATURES is 1 without preprocessing
#define FEATURES 2
#define SIZES 20, 20
#endif
#ifndef IN_SHARED
#define IN_SHARED 2
#endif

typedef long long int64;
struct alignas(16) Four {
    float v[4];
};

__device__ inline float* floats(Four* fours) { return fours->v; }
__device__ inline const float* floats(const Four* fours) { return fours->v; }
extern __shared__ Four shared[];

constexpr int LANES = 64, FOURS = LANES / 4, HALF = FOURS / 2;
constexpr int WIDTH[] = {FEATURES, SIZES};
constexpr int LAYERS = sizeof(WIDTH) / sizeof(int) - 1;
constexpr int TOP = WIDTH[LAYERS];  // the width of the output's input

// Where in shared memory and in a tile of the state the Fours of layer L start: sums over the layers below it. Start<LAYERS>
// is where all of them end.
template <int L> struct Start {
    using Below = Start<L - 1>;
    static constexpr int d = WIDTH[L - 1], H = WIDTH[L], K = d + H + 1;  // of the layer below
    static constexpr int weights = Below::weights + H * K, inputs = Below::inputs + K * FOURS;
    static constexpr int state = Below::state + 2 * H * FOURS, widest = H > Below::widest ? H : Below::widest;
};
template <> struct Start<0> {
    static constexpr int weights = 0, inputs = 0, state = 0, widest = 0;
};
template <int L> struct Layer {
    static constexpr int d = WIDTH[L], H = WIDTH[L + 1], K = d + H + 1;
    static constexpr int weights = Start<L>::weights, inputs = Start<L>::inputs;
    static constexpr int h = Start<L>::state, c = h + H * FOURS;
};
constexpr int OUTPUT_WEIGHTS = Start<LAYERS>::weights;

constexpr int WEIGHT_FOURS = OUTPUT_WEIGHTS + (TOP + 4) / 4;
constexpr int INPUT_FOURS = LAYERS ? Start<LAYERS>::inputs : FEATURES * FOURS, STATE_FOURS = Start<LAYERS>::state;

constexpr int SHARED_WEIGHTS = IN_SHARED >= 1 ? WEIGHT_FOURS : 0;

__device__ inline void copy_fours(Four* to, const Four* from, int count) {
    for (int i = threadIdx.x; i < count; i += blockDim.x) to[i] = from[i];
}

// The weights where the kernel reads them, from where the host laid them.
__device__ inline const Four* place_weights(const Four* weights) {
    copy_fours(shared, weights, SHARED_WEIGHTS);
    return IN_SHARED >= 1 ? shared : weights;
}

__device__ inline const float* output_weights(const Four* weights) { return floats(weights + OUTPUT_WEIGHTS); }

// ---- the rows of u that do not depend on this step ----

__device__ inline void read_features(Four* inputs, const float* gradient, int64 first, int64 n, Preprocessing scale) {
    for (int lane = threadIdx.x; lane < LANES; lane += blockDim.x) {  // S1
        const float g = first + lane < n ? gradient[first + lane] : 0.0f;
        floats(inputs)[lane] = FEATURES == 2 ? scale.logarithm(g) : g;
        if constexpr (FEATURES == 2) floats(inputs)[LANES + lane] = scale.sign(g);
    }
}

template <int L = 0> __device__ void read_h(Four* inputs, const Four* before) {
    if constexpr (L < LAYERS) {
        constexpr int H = Layer<L>::H, first = Layer<L>::inputs + Layer<L>::d * FOURS;
        copy_fours(inputs + first, before + Layer<L>::h, H * FOURS);
        for (int v = threadIdx.x; v < FOURS; v += blockDim.x)
            inputs[first + H * FOURS + v] = {{1.0f, 1.0f, 1.0f, 1.0f}};
        read_h<L + 1>(inputs, before);
    }
}

// ---- one cell ----

// The gates i, f, g, o of unit j for the coordinates of Fours v and v + HALF.
template <int L> __device__ void gates(const Four* weights, const Four* inputs, int j, int v, Four (&gate)[2][4]) {
    constexpr int K = Layer<L>::K;
    weights += Layer<L>::weights + j * K;
    inputs += Layer<L>::inputs + v;
    for (int half = 0; half < 2; half++)
        for (int a = 0; a < 4; a++) gate[half][a] = {};
#pragma unroll 4
    for (int k = 0; k < K; k++) {  // 2: z = u W + b
        const Four w = weights[k];
        for (int half = 0; half < 2; half++) {
            const Four u = inputs[k * FOURS + half * HALF];
            for (int a = 0; a < 4; a++)
                for (int q = 0; q < 4; q++) gate[half][a].v[q] = fmaf(w.v[a], u.v[q], gate[half][a].v[q]);
        }
    }
#pragma unroll
    for (int e = 0; e < 32; e++) {  // 3
        float& z = gate[e / 16][e / 4 % 4].v[e % 4];
        z = e / 4 % 4 == 2 ? tangent(z) : sigmoid(z);
    }
}

// Steps 2 to 6 of layer L. h' also becomes the x of the layer above.
template <int L> __device__ void cell(const Four* weights, Four* inputs, const Four* before, Four* after) {
    for (int item = threadIdx.x; item < Layer<L>::H * HALF; item += blockDim.x) {
        const int j = item / HALF, v = item % HALF;
        Four gate[2][4];
        gates<L>(weights, inputs, j, v, gate);
        for (int half = 0; half < 2; half++) {
            const int at = j * FOURS + v + half * HALF;
            Four c = before[Layer<L>::c + at], h;
            for (int q = 0; q < 4; q++) {
                const float i = gate[half][0].v[q], f = gate[half][1].v[q], g = gate[half][2].v[q], o = gate[half][3].v[q];
                c.v[q] = f * c.v[q] + i * g;    // 4
                h.v[q] = o * tangent(c.v[q]);  // 5, 6
            }
            after[Layer<L>::c + at] = c;
            after[Layer<L>::h + at] = h;
            if constexpr (L + 1 < LAYERS) inputs[Start<L + 1>::inputs + at] = h;
        }
    }
}

template <int L = 0> __device__ void cells(const Four* weights, Four* inputs, const Four* before, Four* after) {
    if constexpr (L < LAYERS) {
        cell<L>(weights, inputs, before, after);
        __syncthreads();
        cells<L + 1>(weights, inputs, before, after);
    }
}

// S1 and S2 for a tile whose first coordinate is `first`; `after` may be `before`. Ends with all threads in step.
__device__ inline void step_tile(const Four* weights, Four* inputs, const Four* before, Four* after,
                                 const float* gradient, int64 first, int64 n, Preprocessing scale) {
    read_features(inputs, gradient, first, n, scale);
    read_h(inputs, before);
    __syncthreads();
    cells(weights, inputs, before, after);
}

// The rows that meet W_out: h' of the last layer, or the features where there is no layer.
__device__ inline const Four* output_inputs(const Four* inputs, const Four* after) {
    return LAYERS ? after + Start<LAYERS>::state - 2 * TOP * FOURS : inputs;
}
