// fisher.cu on the host. Built and run by cuda_on_host.py.
#include "serve.h"
#include "kernels.cu"

alignas(16) REAL shared[(48 << 10) / sizeof(REAL)];

int main() {
    return serve(shared, [](auto& request) {
        request("linear", linear);
        request("positions", positions);
    });
}
