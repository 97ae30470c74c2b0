// Launch kernels compiled on the host, as told on standard input, once:
//
//     "NAME GRID BLOCK SHARED_BYTES ARGUMENT_COUNT\n", then for each argument a letter, an 8-byte number, and bytes:
//     'a' array, its length in bytes, the bytes      's' scalar, likewise      '=' the array of argument NUMBER once more
//
// Every 'a' comes back on standard output, in order, as the kernel left it. Each lies in memory of its exact size, so
// that the address sanitizer sees an access beyond it. An array of no bytes is a null pointer, as in CuPy.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <tuple>
#include <type_traits>
#include <utility>

#include "cuda_on_host.h"

namespace on_host {
struct Argument {
    int64_t bytes;
    char kind;
    void* data;
};

[[noreturn]] inline void fail(const char* message, const char* name) {
    std::fprintf(stderr, "%s: %s\n", name, message);
    std::exit(2);
}

inline void read(void* to, size_t bytes) {
    if (bytes && std::fread(to, 1, bytes, stdin) != bytes) fail("it ended too early", "standard input");
}

// What standard input asks for. Called with each kernel and its name, it launches the one that is meant.
class Request {
    static constexpr size_t MOST = 256;
    char name[64];
    unsigned grid, block;
    size_t shared_bytes, count;
    Argument arguments[MOST];
    bool done = false;

    Argument read_argument() const {
        char kind;
        int64_t number;
        read(&kind, 1), read(&number, sizeof number);
        if (kind == '=') return {0, kind, arguments[number].data};
        Argument argument = {number, kind, nullptr};
        if (number && posix_memalign(&argument.data, 16, number)) fail("out of memory", name);
        read(argument.data, number);
        return argument;
    }

    template <class P> P as(const Argument& argument) const {
        const bool scalar = argument.kind == 's';
        if (scalar == std::is_pointer_v<P> || (scalar && argument.bytes != sizeof(P)))
            fail("an argument does not fit its parameter", name);
        if constexpr (std::is_pointer_v<P>) return static_cast<P>(argument.data);
        else {
            P value;
            std::memcpy(&value, argument.data, sizeof value);
            return value;
        }
    }

    template <class... P, size_t... I> void launch_with(void (*kernel)(P...), std::index_sequence<I...>) const {
        if (count != sizeof...(P)) fail("the number of arguments is wrong", name);
        launch({grid}, {block}, shared_bytes, [this, kernel] { kernel(as<P>(arguments[I])...); });
    }

public:
    Request() {
        if (std::scanf("%63s %u %u %zu %zu", name, &grid, &block, &shared_bytes, &count) != 5 || count > MOST)
            fail("no launch can be read", "standard input");
        std::getchar();
        for (size_t i = 0; i < count; i++) arguments[i] = read_argument();
    }

    template <class... P> void operator()(const char* offered, void (*kernel)(P...)) {
        if (std::strcmp(name, offered)) return;
        if (shared_bytes > shared_limit) fail("more shared memory than a block may have", name);
        launch_with(kernel, std::index_sequence_for<P...>{});
        done = true;
    }

    void answer() const {
        if (!done) fail("no kernel has this name", name);
        for (size_t i = 0; i < count; i++) {
            const Argument& a = arguments[i];
            if (a.kind == 'a' && a.bytes) std::fwrite(a.data, 1, a.bytes, stdout);
            if (a.kind != '=') std::free(a.data);
        }
    }
};
}  // namespace on_host

// offer(request) calls request("name", kernel) for every kernel there is.
template <class T, size_t N, class Offer> int serve(T (&shared)[N], Offer offer) {
    on_host::shared_memory = shared, on_host::shared_limit = sizeof shared;
    on_host::Request request;
    offer(request);
    request.answer();
    return 0;
}
