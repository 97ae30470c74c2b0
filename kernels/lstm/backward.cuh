// Truncated backpropagation through time, one step of one tile: the transposed derivative of tile.cuh. B6 to B1 are
// those of reference.py, each beside the forward step that it transposes.
#pragma once
#include "tile.cuh"


constexpr int GATE_FOURS = 4 * Start<LAYERS>::widest * FOURS, SHARED_SUMS = IN_SHARED >= 2 ? WEIGHT_FOURS : 0;

struct Memory {
    const Four* weights;
    Four* inputs;
    Four* d_z;        // [H][4 gates][16], of the layer in hand
    Four* d_x;        // [FEATURES][16]
    Four* d_out;      // [16]
    Four* d_weights;  // like weights: this block's sums
};

__device__ inline Memory place(const Four* weights, Four* sums) {
    Four *inputs = shared + SHARED_WEIGHTS, *d_z = inputs + INPUT_FOURS, *d_x = d_z + GATE_FOURS;
    Four *d_out = d_x + FEATURES * FOURS, *d_weights = IN_SHARED >= 2 ? d_out + FOURS : sums;
    for (int i = threadIdx.x; i < WEIGHT_FOURS; i += blockDim.x) d_weights[i] = {};
    return {place_weights(weights), inputs, d_z, d_x, d_out, d_weights};
}

// B6 to B3 of layer L: d_z, and d_c of the step before in the place of d_c'.
template <int L> __device__ void gates_backward(Memory m, const Four* before, const Four* after, Four* d_state) {
    const float* W_out = output_weights(m.weights);
    for (int item = threadIdx.x; item < Layer<L>::H * HALF; item += blockDim.x) {
        const int j = item / HALF, v = item % HALF;
        Four gate[2][4];
        gates<L>(m.weights, m.inputs, j, v, gate);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int column = v + half * HALF, at = j * FOURS + column;
            const Four c = before[Layer<L>::c + at], c_new = after[Layer<L>::c + at], d_h = d_state[Layer<L>::h + at];
            Four d_c = d_state[Layer<L>::c + at], d_z[4];
            for (int q = 0; q < 4; q++) {
                const float i = gate[half][0].v[q], f = gate[half][1].v[q], g = gate[half][2].v[q], o = gate[half][3].v[q];
                const float top = L == LAYERS - 1 ? W_out[j] * m.d_out[column].v[q] : 0.0f;  // of S3
                const float d_h_new = d_h.v[q] + top, t = tangent(c_new.v[q]);
                const float d_c_new = d_c.v[q] + d_h_new * o * (1.0f - t * t);  // B6, of 6: h' = o t; B5, of 5: t = tanh(c')
                d_z[0].v[q] = d_c_new * g * (i * (1.0f - i));       // B4, of 4: c' = f c + i g; B3, of 3: s' = s (1 - s)
                d_z[1].v[q] = d_c_new * c.v[q] * (f * (1.0f - f));
                d_z[2].v[q] = d_c_new * i * (1.0f - g * g);
                d_z[3].v[q] = d_h_new * t * (o * (1.0f - o));
                d_c.v[q] = d_c_new * f;  // B4
            }
            d_state[Layer<L>::c + at] = d_c;
            for (int a = 0; a < 4; a++) m.d_z[(j * 4 + a) * FOURS + column] = d_z[a];
        }
    }
}

// B2, of 2: d_u = d_z W^T, four rows of u a thread; B1, of 1: u = [x, h]. d_h replaces; d_x is added to d_h' below.
template <int L> __device__ void inputs_backward(Memory m, Four* d_state) {
    constexpr int d = Layer<L>::d, H = Layer<L>::H, K = Layer<L>::K, rows = d + H;
    for (int item = threadIdx.x; item < (rows + 3) / 4 * FOURS; item += blockDim.x) {
        const int first = item / FOURS * 4, v = item % FOURS;
        Four d_u[4] = {};
        for (int j = 0; j < H; j++) {
            Four d_z[4];
            for (int a = 0; a < 4; a++) d_z[a] = m.d_z[(j * 4 + a) * FOURS + v];
            for (int row = 0; row < 4; row++) {
                const int k = first + row < rows ? first + row : rows - 1;
                const Four w = m.weights[Layer<L>::weights + j * K + k];
                for (int a = 0; a < 4; a++)
                    for (int q = 0; q < 4; q++) d_u[row].v[q] = fmaf(w.v[a], d_z[a].v[q], d_u[row].v[q]);
            }
        }
        for (int row = 0; row < 4; row++) {
            const int k = first + row;
            if (k >= rows) break;
            if (k >= d) d_state[Layer<L>::h + (k - d) * FOURS + v] = d_u[row];
            else if constexpr (L == 0) m.d_x[k * FOURS + v] = d_u[row];
            else
                for (int q = 0; q < 4; q++) d_state[Layer<L - 1>::h + k * FOURS + v].v[q] += d_u[row].v[q];
        }
    }
}

// B2: d_W += u^T d_z, summed over the tile; four inputs of a unit a thread, which owns these sums for the whole launch.
// Neighbouring threads start at different columns, which lie in different memory banks.
template <int L> __device__ void weights_backward(Memory m) {
    constexpr int K = Layer<L>::K, quarters = (K + 3) / 4;
    for (int item = threadIdx.x; item < Layer<L>::H * quarters; item += blockDim.x) {
        const int j = item / quarters, first = item % quarters * 4;
        Four sum[4] = {};
        for (int turn = 0; turn < FOURS; turn++) {
            const int v = (turn + item) % FOURS;
            Four d_z[4];
            for (int a = 0; a < 4; a++) d_z[a] = m.d_z[(j * 4 + a) * FOURS + v];
            for (int row = 0; row < 4; row++) {
                const int k = first + row < K ? first + row : K - 1;
                const Four u = m.inputs[Layer<L>::inputs + k * FOURS + v];
                for (int a = 0; a < 4; a++)
                    for (int q = 0; q < 4; q++) sum[row].v[a] = fmaf(u.v[q], d_z[a].v[q], sum[row].v[a]);
            }
        }
        for (int row = 0; row < 4 && first + row < K; row++)
            for (int a = 0; a < 4; a++) m.d_weights[Layer<L>::weights + j * K + first + row].v[a] += sum[row].v[a];
    }
}

// Of S3, update = scale (h' W_out + b_out): d_W_out and d_b_out, and d_x where no layer lies between.
__device__ inline void output_backward(Memory m, const Four* after) {
    const Four *last = output_inputs(m.inputs, after), ones = {{1.0f, 1.0f, 1.0f, 1.0f}};
    float* d_W_out = floats(m.d_weights + OUTPUT_WEIGHTS);
    for (int j = threadIdx.x; j < TOP + 1; j += blockDim.x) {
        float sum = 0.0f;
        for (int v = 0; v < FOURS; v++) {
            const Four h = j < TOP ? last[j * FOURS + v] : ones, d_out = m.d_out[v];
            for (int q = 0; q < 4; q++) sum = fmaf(h.v[q], d_out.v[q], sum);
        }
        d_W_out[j] += sum;
    }
    if constexpr (LAYERS == 0) {
        const float* W_out = output_weights(m.weights);
        for (int e = threadIdx.x; e < FEATURES * LANES; e += blockDim.x)
            floats(m.d_x)[e] = W_out[e / LANES] * floats(m.d_out)[e % LANES];
        __syncthreads();
    }
}

template <int L> __device__ void cells_backward(Memory m, const Four* before, const Four* after, Four* d_state) {
    if constexpr (L >= 0) {
        gates_backward<L>(m, before, after, d_state);
        __syncthreads();
        inputs_backward<L>(m, d_state);
        weights_backward<L>(m);
        __syncthreads();
        cells_backward<L - 1>(m, before, after, d_state);
    }
}

// The x of the upper layers: h' of the layers below them.
template <int L = 1> __device__ void read_x(Four* inputs, const Four* after) {
    if constexpr (L < LAYERS) {
        copy_fours(inputs + Layer<L>::inputs, after + Layer<L - 1>::h, Layer<L>::d * FOURS);
        read_x<L + 1>(inputs, after);
    }
}

// One step of a tile backwards, from its states before and after; d_state is the cotangent of one, then of the other.
__device__ inline void step_tile_backward(Memory m, const Four* before, const Four* after, Four* d_state,
                                          const float* gradient, const float* d_update, float* d_gradient, int64 first,
                                          int64 n, float scale, Preprocessing preprocessing) {
    read_features(m.inputs, gradient, first, n, preprocessing);
    read_h(m.inputs, before);
    read_x(m.inputs, after);
    for (int lane = threadIdx.x; lane < LANES; lane += blockDim.x)
        floats(m.d_out)[lane] = first + lane < n ? scale * d_update[first + lane] : 0.0f;
    __syncthreads();
    output_backward(m, after);
    cells_backward<LAYERS - 1>(m, before, after, d_state);
    if (!d_gradient) return;
    for (int lane = threadIdx.x; lane < LANES && first + lane < n; lane += blockDim.x) {  // of S1
        const float g = gradient[first + lane], *d_x = floats(m.d_x) + lane;
        d_gradient[first + lane] = FEATURES == 2 ? preprocessing.vjp(d_x[0], d_x[LANES], g) : d_x[0];
    }
}
