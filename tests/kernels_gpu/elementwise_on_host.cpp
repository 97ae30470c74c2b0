// One elementwise kernel on the host. Built and run by cuda_on_host.py.
#include "serve.h"
#include "kernels.cu"

alignas(16) char shared[16];

int main() {
    return serve(shared, [](auto& request) { request("kernel", kernel); });
}
