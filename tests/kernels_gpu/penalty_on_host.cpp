// penalty.cu on the host. Built and run by cuda_on_host.py.
#include "serve.h"
#include "kernels.cu"

alignas(16) double shared[(48 << 10) / sizeof(double)];

int main() {
    return serve(shared, [](auto& request) {
        request("squares", squares);
        request("gradients", gradients);
        request("sgd", sgd);
        request("proximal", proximal);
        request("adam", adam);
    });
}
