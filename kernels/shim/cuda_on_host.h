// Enough of CUDA C++ to compile a .cu file with a host compiler and run it, slowly, under the host's sanitizers:
//
//     #include "cuda_on_host.h"
//     #include "kernels.cu"                          // which declares  extern __shared__ Four shared[];
//     alignas(16) Four shared[SHARED_LIMIT / 16];
//     int main() { return serve(shared, [](auto& request) { request("forward", forward); }); }     // serve.h
//
// The blocks of a grid run one after another. The threads of a block are threads of the system and __syncthreads a
// barrier among them, so that -fsanitize=thread finds a race between two barriers. Shared memory beyond what a launch
// asked for is poisoned for -fsanitize=address, and the rest is NaN when a block starts.
// Not there: static __shared__ arrays, warps and their shuffles, streams. A thread that returns waits no more at
// barriers. atomicAdd is as atomic, and in as free an order, as on a GPU.
#pragma once

#include <pthread.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(start, size) ((void)(start), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(start, size) ((void)(start), (void)(size))
#endif

#define __global__
#define __device__
#define __host__
#define __shared__
#define __launch_bounds__(...)
#ifndef __restrict__
#define __restrict__
#endif

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline thread_local dim3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace on_host {
inline void* shared_memory;
inline size_t shared_limit;

// Two barriers in turn: were there one, a thread that reaches it again before another has woken from it would, in the
// thread sanitizer's eyes, be in order with that other.
inline pthread_barrier_t barriers[2];
inline thread_local bool turn;
inline void wait() { pthread_barrier_wait(&barriers[turn = !turn]); }

inline void start_block(size_t shared_bytes) {
    ASAN_UNPOISON_MEMORY_REGION(shared_memory, shared_limit);
    std::memset(shared_memory, 0xff, shared_limit);
    ASAN_POISON_MEMORY_REGION(static_cast<char*>(shared_memory) + shared_bytes, shared_limit - shared_bytes);
}

// Run body() once for every thread of every block.
template <class Body> void launch(dim3 grid, dim3 block, size_t shared_bytes, Body body) {
    blockDim = block, gridDim = grid;
    const unsigned size = block.x * block.y * block.z, blocks = grid.x * grid.y * grid.z;
    for (auto& barrier : barriers) pthread_barrier_init(&barrier, nullptr, size);
    const auto thread = [&](unsigned number) {
        threadIdx = {number % block.x, number / block.x % block.y, number / block.x / block.y};
        for (unsigned b = 0; b < blocks; b++) {
            blockIdx = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
            if (number == 0) start_block(shared_bytes);
            wait();
            body();
            wait();
        }
    };
    std::vector<std::thread> threads;
    for (unsigned number = 0; number < size; number++) threads.emplace_back(thread, number);
    for (auto& t : threads) t.join();
    for (auto& barrier : barriers) pthread_barrier_destroy(&barrier);
}
}  // namespace on_host

inline void __syncthreads() { on_host::wait(); }

inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

inline float atomicAdd(float* address, float value) {
    auto* bits = reinterpret_cast<unsigned*>(address);
    unsigned old = __atomic_load_n(bits, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(bits, &old, __float_as_uint(__uint_as_float(old) + value), false,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return __uint_as_float(old);
}
