// lstm.cu on the host, its headers in it: the kernels and, for their bounds, the gates. Built and run by cuda_on_host.py.
#include "serve.h"
#include "kernels.cu"

alignas(16) Four shared[227 * 1024 / 16];  // the most that a block may have on sm_90

void activations(const float* x, float* sigmoids, float* tangents, int64 n) {
    for (int64 i = threadIdx.x; i < n; i += blockDim.x) sigmoids[i] = sigmoid(x[i]), tangents[i] = tangent(x[i]);
}

int main() {
    return serve(shared, [](auto& request) {
        request("forward", forward);
        request("backward", backward);
        request("reduce", reduce);
        request("activations", activations);
    });
}
