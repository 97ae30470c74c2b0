// The LSTM optimizer on a GPU: step and unroll (`forward`), truncated backpropagation through time (`backward`), and
// the sum of its blocks' results (`reduce`). Mathematics and numbered steps: kernels/lstm/__init__.py; memory: tile.cuh.
// cuda.py launches them: it lays out the weights (`packed`) and counts the shared memory.
#include "backward.cuh"

// T steps of n coordinates: `before` and `after` (tiles, R, 64), which may be one array; gradients, targets (T, n).
// A target receives the update, or is added to.
extern "C" __global__ void __launch_bounds__(256)
forward(const Four* __restrict__ packed, const Four* before, Four* after, const float* __restrict__ gradients,
        float* __restrict__ targets, int64 tiles, int64 n, int T, int add, float scale, float p, float seam, float slope) {
    const Four* weights = place_weights(packed);
    Four* inputs = shared + SHARED_WEIGHTS;
    const float* W_out = output_weights(weights);
    for (int64 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        Four* state = after + tile * STATE_FOURS;
        for (int t = 0; t < T; t++) {
            const Four* old = t ? state : before + tile * STATE_FOURS;
            step_tile(weights, inputs, old, state, gradients + t * n, tile * LANES, n, {p, seam, slope});
            const float* last = floats(output_inputs(inputs, state));
            for (int lane = threadIdx.x; lane < LANES && tile * LANES + lane < n; lane += blockDim.x) {
                float out = W_out[TOP];  // S3
                for (int j = 0; j < TOP; j++) out = fmaf(last[j * LANES + lane], W_out[j], out);
                float& target = targets[t * n + tile * LANES + lane];
                target = add ? target + scale * out : scale * out;
            }
        }
    }
}

// Truncated backpropagation through T steps. d_blocks holds the cotangent of the final state and receives that of the
// first; d_gradients (T, n) is written if asked for; sums (gridDim.x, WEIGHT_FOURS) receives each block's d_weights.
//
// `slots` has room, for each block of threads, for `kept + segment` states of a tile, where kept = ceil(T / segment).
// With segment = T that is the whole unroll. Else a first sweep keeps the state at each segment's start, and then, from
// the last segment to the first, its states are computed again and walked backwards.
extern "C" __global__ void __launch_bounds__(256)
backward(const Four* __restrict__ packed, const Four* __restrict__ blocks, const float* __restrict__ gradients,
         const float* __restrict__ d_updates, Four* d_blocks, float* d_gradients, Four* sums, Four* slots,
         int64 tiles, int64 n, int T, int segment, int wrt_gradients, float scale, float p, float seam, float slope) {
    sums += int64(blockIdx.x) * WEIGHT_FOURS;
    const Memory m = place(packed, sums);
    const Preprocessing preprocessing = {p, seam, slope};
    const int kept = (T + segment - 1) / segment;
    slots += int64(blockIdx.x) * (kept + segment) * STATE_FOURS;
    const auto before = [=](int t) { return slots + int64(t % segment ? kept + t % segment - 1 : t / segment) * STATE_FOURS; };
    const auto after = [=](int t) { return slots + int64(kept + t % segment) * STATE_FOURS; };

    for (int64 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int64 first = tile * LANES;
        copy_fours(before(0), blocks + tile * STATE_FOURS, STATE_FOURS);
        __syncthreads();
        for (int t = 0; t < (kept - 1) * segment; t++)
            step_tile(m.weights, m.inputs, before(t), before(t + 1), gradients + t * n, first, n, preprocessing);
        for (int k = kept - 1; k >= 0; k--) {
            const int start = k * segment, end = start + segment < T ? start + segment : T;
            for (int t = start; t < end; t++)
                step_tile(m.weights, m.inputs, before(t), after(t), gradients + t * n, first, n, preprocessing);
            for (int t = end - 1; t >= start; t--)
                step_tile_backward(m, before(t), after(t), d_blocks + tile * STATE_FOURS, gradients + t * n, d_updates + t * n,
                                   wrt_gradients ? d_gradients + t * n : nullptr, first, n, scale, preprocessing);
        }
    }
    copy_fours(sums, m.d_weights, SHARED_SUMS);
}

// d_weights = the sum over blocks of sums (blocks, WEIGHT_FOURS), always in the same order: no atomics.
extern "C" __global__ void reduce(const float* __restrict__ sums, float* __restrict__ d_weights, int blocks) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= 4 * WEIGHT_FOURS) return;
    float sum = 0.0f;
    for (int64 block = 0; block < blocks; block++) sum += sums[block * 4 * WEIGHT_FOURS + index];
    d_weights[index] = sum;
}
