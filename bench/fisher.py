"""Fisher diagonals of MLPs and of the Omniglot net: ours beside BackPACK, squared products by hand and vmap(grad)^2."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import tinymeta as tm
from tinymeta.kernels.fisher import sample_labels

from . import fisher_peers as peers
from .measure import alternate, memory, new_peak, sgemm, write

N, C, SLOW_N = 1024, 10, 64
"""Samples, classes, and the samples of contenders that hold every per-sample gradient."""
ROUNDS, BUDGET, SLOW = 5, 0.3, "torch.func vmap(grad)²"
"""Rounds, and seconds in which a case is called again and again."""
WIDTHS, KINDS, IMAGES = (400, 1000), ("empirical", "exact"), 64
CPU_KINDS = ("empirical", "sampled", "exact")
"""In the sampled kind ours draw the labels; the others get the same ones as the labels of an empirical Fisher."""
PUBLIC = "tinymeta, fisher_diagonal"
CONTENDERS: dict[str, Callable[..., peers.Call]] = {
    "tinymeta, Numba": peers.compiled,
    PUBLIC: peers.public,
    "tinymeta, NumPy": peers.chunked,
    "BackPACK": peers.backpack,
    "PyTorch by hand": peers.torch_by_hand,
    "JAX jit by hand": peers.jax_by_hand,
}
OURS = "tinymeta, Numba"
MNIST = {f"MNIST, {width}: {contender}": (contender, width) for width in WIDTHS for contender in (OURS, PUBLIC)}
"""Processes that take all its images: how, and of what width. One width each, or the second would use memory of the first."""
EXPECTED = "TINYMETA_BENCH_FISHER"
"""The environment variable that names the folder of the expected results."""


def mlp(width: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """(W and b of each layer of 784-width-width-10, x (1024, 784), labels): half of the pixels and units are 0."""
    rng, sizes = np.random.default_rng(width), (784, width, width, C)
    params = []
    for I, O in pairwise(sizes):
        params += [rng.normal(0, (2 / I) ** 0.5, (I, O)).astype(np.float32), rng.normal(0, 0.1, O).astype(np.float32)]
    x = off_kinks(mlp_net, params, np.maximum(rng.normal(size=(N + 64, 784)), 0).astype(np.float32))
    return params, x[:N], rng.integers(C, size=N)


def mlp_net(params: list[Any], x: Any, act: Callable = tm.ops.relu) -> Any:
    for W, b in peers.pairs(params[:-2]):
        x = act(x @ W + b)
    return x @ params[-2] + params[-1]


def wide(arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [a.astype(np.float64) for a in arrays]


def off_kinks(net: Callable, params: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    """The samples at which no ReLU's input is so near 0 that rounding decides its slope, and with it the result."""
    smallest = [np.full(len(x), np.inf)]

    def relu(z: np.ndarray) -> np.ndarray:
        smallest.append(np.abs(z).reshape(len(z), -1).min(axis=1))
        return np.maximum(z, 0)

    net(wide(params), x.astype(np.float64), relu)
    return x[np.min(smallest, axis=0) > 4e-6]


def drawn(net: Callable, params: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    """The labels that the sampled kind draws."""
    return sample_labels(np.asarray(net(wide(params), x.astype(np.float64))), peers.uniforms(x))


def multiplications(width: int, kind: str) -> float:
    """That a Fisher diagonal needs: forward, backward for each column, squared product (kernels.fisher, (6))."""
    first, rest, columns = 784 * width, width * width + width * C, C if kind == "exact" else 1
    return N * (2 * (first + rest) + columns * rest)


# ---- the Omniglot net: four convolutions of 64 channels, stride 2, with batch norm as in evaluation: given statistics ----

EPS = 1e-5


def images() -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """(W, gamma and beta of each convolution, W and b of the head, x (64, 1, 28, 28), labels)"""
    rng = np.random.default_rng(5)
    params = []
    for channels in (1, 64, 64, 64):
        params += [
            rng.normal(0, (2 / (9 * channels)) ** 0.5, (64, channels, 3, 3)).astype(np.float32),
            np.exp(rng.normal(0, 0.1, 64)).astype(np.float32),
            rng.normal(0, 0.1, 64).astype(np.float32),
        ]
    params += [rng.normal(0, 0.125, (64, 5)).astype(np.float32), rng.normal(0, 0.1, 5).astype(np.float32)]
    x = off_kinks(conv_net, params, rng.normal(size=(2 * IMAGES, 1, 28, 28)).astype(np.float32))
    return params, x[:IMAGES], rng.integers(5, size=IMAGES)


def statistics_of_layer(k: int) -> tuple[np.ndarray, np.ndarray]:
    """The running mean and variance (64,) of batch norm k, about those of its inputs."""
    rng = np.random.default_rng(100 + k)
    return rng.normal(0, 0.1, 64).astype(np.float32), np.exp(rng.normal(0.5, 0.2, 64)).astype(np.float32)


def conv_net(params: list[Any], x: Any, act: Callable = tm.ops.relu) -> Any:
    for k, (W, gamma, beta) in enumerate(zip(params[:-2:3], params[1:-2:3], params[2:-2:3], strict=True)):
        mean, var = (a.astype(x.dtype).reshape(64, 1, 1) for a in statistics_of_layer(k))
        gamma, beta = (tm.ops.reshape(a, (64, 1, 1)) for a in (gamma, beta))
        x = act(gamma * ((tm.ops.conv2d(x, W, stride=2, padding=1) - mean) / np.sqrt(var + x.dtype.type(EPS))) + beta)
    return tm.ops.mean(x, axis=(-2, -1)) @ params[-2] + params[-1]


def conv_ours(params: list[np.ndarray], x: np.ndarray, y: np.ndarray, kind: str) -> peers.Call:
    return lambda: tm.ewc.fisher_diagonal(conv_net, params, x, y, kind=kind)


def conv_backpack(params: list[np.ndarray], x: np.ndarray, y: np.ndarray, kind: str) -> peers.Call:
    import torch
    from torch import nn

    layers: list[nn.Module] = []
    for k, W in enumerate(params[:-2:3]):
        norm = nn.BatchNorm2d(64, eps=EPS)
        for kept, a in zip((norm.running_mean, norm.running_var), statistics_of_layer(k), strict=True):
            kept.copy_(torch.from_numpy(a))  # type: ignore[union-attr]
        layers += [nn.Conv2d(W.shape[1], 64, 3, stride=2, padding=1, bias=False), norm, nn.ReLU()]
    net = nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 5)).eval()
    with torch.no_grad():
        for w, a in zip(net.parameters(), params, strict=True):
            w.copy_(torch.from_numpy(a.T.copy() if a.ndim == 2 else a))
    return peers.backpack_call(net, x, y, kind)


CONV_CONTENDERS = {OURS: conv_ours, "BackPACK": conv_backpack}


# ---- cases ----


def cases(contender: str) -> dict[str, tuple[Callable[[], peers.Call], int]]:
    """By name a maker of the call to time, and of how many samples it is."""
    found: dict[str, tuple[Callable[[], peers.Call], int]] = {}
    for width in WIDTHS if contender in (*CONTENDERS, SLOW) else ():
        params, x, y = mlp(width)
        for kind in CPU_KINDS if contender in CONTENDERS else ():
            labels = drawn(mlp_net, params, x) if kind == "sampled" else y
            found[f"{kind}, {name_of(width)}"] = partial(CONTENDERS[contender], params, x, labels, kind), N
        if contender == SLOW:
            make = partial(peers.torch_vmap, params, x[:SLOW_N], y[:SLOW_N], "empirical")
            found[f"empirical, {name_of(width)}"] = make, SLOW_N
    if contender in CONV_CONTENDERS:
        params, x, y = images()
        for kind in CPU_KINDS:
            labels = drawn(conv_net, params, x) if kind == "sampled" else y
            found[f"{kind}, Omniglot net"] = partial(CONV_CONTENDERS[contender], params, x, labels, kind), IMAGES
    return found


def name_of(width: int) -> str:
    return f"784-{width}-{width}-10"


def expected_results(folder: Path) -> None:
    """The results of every case, in float64, means, by the chunked NumPy kernels or, of the Omniglot net, by our engine."""
    for width in WIDTHS:
        params, x, y = mlp(width)
        for kind, some in (*((kind, N) for kind in CPU_KINDS), ("empirical", SLOW_N)):
            call = peers.chunked(wide(params), x[:some].astype(np.float64), y[:some], kind)
            np.savez(folder / f"{some} {kind}, {name_of(width)}", *call())
    params, x, y = images()
    for kind in CPU_KINDS:
        call = conv_ours(wide(params), x.astype(np.float64), y, kind)
        np.savez(folder / f"{IMAGES} {kind}, Omniglot net", *call())


def expected_of_mnist(folder: Path) -> None:
    """The same of all of MNIST."""
    x = mnist()
    for width in WIDTHS:
        call = peers.chunked(wide(mlp(width)[0]), x.astype(np.float64), None, "exact")
        np.savez(folder / f"{len(x)} exact, {name_of(width)}", *call())


def check(name: str, found: list[np.ndarray], factor: float, within: float = 1e-5) -> None:
    """As near to factor times the expected means, relative to the largest entry of each array."""
    with np.load(Path(os.environ[EXPECTED]) / f"{name}.npz") as expected:
        for a, b in zip(found, expected.values(), strict=True):
            np.testing.assert_allclose(a, factor * b, rtol=0, atol=within * factor * np.abs(b).max(), err_msg=name)


def milliseconds(call: Callable[[], Any]) -> float:
    """Median of the calls within a budget, of at least 5, after two to warm up."""
    call(), call()
    times: list[float] = []
    while len(times) < 5 or sum(times) < BUDGET:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


# ---- all of MNIST ----


def mnist() -> np.ndarray:
    return tm.data.mnist("train").x.reshape(60_000, 784).astype(np.float32) / np.float32(255)


def all_of_mnist(contender: str, width: int) -> dict[str, float]:
    """Milliseconds of the exact Fisher of all 60,000 images, and the most memory it holds beyond weights and data, in MB."""
    x, params = mnist(), mlp(width)[0]
    CONTENDERS[contender]([params[0][:, :2], params[1][:2]], x[:2], None, "exact")()  # compiled, or found on disk
    call = CONTENDERS[contender](params, x, None, "exact")
    new_peak()
    before, start = memory("VmRSS"), time.perf_counter()
    result = call()
    found = {"ms": 1e3 * (time.perf_counter() - start), "MB": memory("VmHWM") - before}
    check(f"{len(x)} exact, {name_of(width)}", result, 1, within=1e-4)  # of some images rounding decides a ReLU's slope
    return found


# ---- the table ----


def report(contender: str) -> dict[str, Any]:
    if contender == "sgemm":
        return sgemm()
    if contender in MNIST:
        return all_of_mnist(*MNIST[contender])
    found = {}
    for name, (make, samples) in cases(contender).items():
        call = make()
        check(f"{samples} {name}", call(), 1 if contender.startswith("tinymeta") else samples)
        found[name] = milliseconds(call) * (N / SLOW_N if contender == SLOW else 1)
    return found


def rows(reports: dict[str, list[dict[str, Any]]], rate: float) -> list[dict[str, Any]]:
    table = []
    for case in reports[OURS][0]:
        ours = statistics.median(r[case] for r in reports[OURS])
        kind, _, net = case.partition(", ")
        for contender, rounds in reports.items():
            if case in rounds[0]:
                row = _row(f"{case}: {contender}", [r[case] for r in rounds], ours)
                table.append(row | {"share": _share(kind, net, N, row["median"], rate)})
    return table


def mnist_rows(reports: dict[str, list[dict[str, Any]]], rate: float) -> list[dict[str, Any]]:
    ours = {width: reports[name] for name, (contender, width) in MNIST.items() if contender == OURS}
    table = []
    for process, (contender, width) in MNIST.items():
        rounds, net = reports[process], name_of(width)
        row = _row(f"{net}: {contender}", [r["ms"] for r in rounds], statistics.median(r["ms"] for r in ours[width]))
        held = round(max(r["MB"] for r in rounds))
        table.append(row | {"share": _share("exact", net, 60_000, row["median"], rate), "memory": held})
    return table


def _row(name: str, times: list[float], ours: float) -> dict[str, Any]:
    median = statistics.median(times)
    return {
        "name": name, "median": round(median, 3), "min": round(min(times), 3), "max": round(max(times), 3),
        "ratio": round(median / ours, 2),
    }  # fmt: skip


def _share(kind: str, net: str, samples: int, median: float, rate: float) -> float | None:
    """% of the rate, on the operations that the Fisher of an MLP needs."""
    if net == "Omniglot net":
        return None
    return round(100 * 2 * multiplications(int(net.split("-")[1]), kind) * samples / N / (rate * 1e6) / median, 1)


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(report(sys.argv[1])))
        return
    cases_table()
    mnist_table()


def cases_table() -> None:
    reports = alternated(expected_results, [*CONTENDERS, "sgemm"], [SLOW])
    rate = statistics.median(r["gflops"] for r in reports.pop("sgemm"))
    write(
        "fisher", f"Fisher diagonal, float32, N = {N} (Omniglot net: {IMAGES}, 5 classes)", "ms", ROUNDS, rows(reports, rate),
        ["tinymeta", "numpy", "numba", "torch", "jax", "backpack-for-pytorch"],
        f"Results agree to 1e-5 before timing. Share: of NumPy's sgemm ({rate:.0f} GF/s) on the operations needed with 10 "
        "columns; Numba takes 9 and leaves out the half of the units that are dead. Numba and NumPy: the kernel alone; "
        "fisher_diagonal: the public call, which recognises the net and checks arguments and results. Sampled: ours draw the "
        "labels, the others are given the same. BackPACK: SumGradSquared and DiagGGNExact. By hand: squared products. "
        f"vmap(grad)² holds every per-sample gradient: {SLOW_N} samples timed, times {N // SLOW_N}, in one process. "
        "Omniglot net: 4 convolutions of 64, stride 2, batch norm in evaluation mode; ours is fisher_diagonal, whose "
        "convolutions are NumPy's.",
        {"share": "% of sgemm"},
    )  # fmt: skip


def mnist_table() -> None:
    reports = alternated(expected_of_mnist, [*MNIST, "sgemm"], [])
    rate = statistics.median(r["gflops"] for r in reports.pop("sgemm"))
    write(
        "fisher_mnist", "Exact Fisher diagonal of all 60,000 images of MNIST, float32", "ms", ROUNDS, mnist_rows(reports, rate),
        ["tinymeta", "numpy", "numba"],
        f"One width in a process. Share: of NumPy's sgemm ({rate:.0f} GF/s), as above. Memory: the most that the process holds "
        "beyond weights and data. Results agree with float64's to 1e-4: of some images rounding decides a ReLU's slope.",
        {"share": "% of sgemm", "memory": "MB"},
    )  # fmt: skip


def alternated(
    expected: Callable[[Path], None], contenders: list[str], once: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """Their reports in as many rounds as the others', or of one, with the expected results in a folder that they all see."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ[EXPECTED] = folder
        expected(Path(folder))
        return alternate("bench.fisher", contenders, ROUNDS) | alternate("bench.fisher", once, 1)


if __name__ == "__main__":
    main()
