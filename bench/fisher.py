"""Fisher diagonals of MLPs and of the Omniglot net: ours beside BackPACK, squared products by hand and vmap(grad)^2."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import tinymeta as tm

from . import fisher_peers as peers
from .measure import alternate, write

N, C, SLOW_N = 1024, 10, 64
"""Samples, classes, and the samples of contenders that hold every per-sample gradient."""
ROUNDS, BUDGET, SLOW = 4, 0.4, "torch.func vmap(grad)²"
"""Rounds, and seconds in which a case is called again and again."""
WIDTHS, KINDS, IMAGES = (400, 1000), ("empirical", "exact"), 64
CONTENDERS: dict[str, Callable[..., peers.Call]] = {
    "tinymeta, Numba": peers.compiled,
    "tinymeta, NumPy": peers.chunked,
    "BackPACK": peers.backpack,
    "PyTorch by hand": peers.torch_by_hand,
    "JAX jit by hand": peers.jax_by_hand,
}
OURS = "tinymeta, Numba"
EXPECTED = "TINYMETA_BENCH_FISHER"
"""The environment variable that names the folder of the expected results."""


def mlp(width: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """(W and b of each layer of 784-width-width-10, x (1024, 784), labels): half of the pixels and units are 0."""
    rng, sizes = np.random.default_rng(width), (784, width, width, C)
    params = []
    for I, O in pairwise(sizes):
        params += [rng.normal(0, (2 / I) ** 0.5, (I, O)).astype(np.float32), rng.normal(0, 0.1, O).astype(np.float32)]
    x = off_kinks(np.maximum(rng.normal(size=(N + 64, 784)), 0).astype(np.float32), params, mlp_layer)
    return params, x[:N], rng.integers(C, size=N)


def mlp_layer(x: Any, W: Any, b: Any) -> Any:
    return x @ W + b


def off_kinks(x: np.ndarray, params: list[np.ndarray], layer: Callable) -> np.ndarray:
    """The samples at which no ReLU's input is so near 0 that rounding decides its slope, and with it the result."""
    smallest, values = np.full(len(x), np.inf), x.astype(np.float64)
    for W, b in zip(params[:-2:2], params[1:-2:2], strict=True):
        z = np.asarray(layer(values, W.astype(np.float64), b.astype(np.float64)))
        smallest = np.minimum(smallest, np.abs(z).reshape(len(z), -1).min(axis=1))
        values = np.maximum(z, 0)
    return x[smallest > 4e-6]


def multiplications(width: int, kind: str) -> float:
    """That a Fisher diagonal needs: forward, backward for each column, squared product (kernels.fisher, (6))."""
    first, rest, columns = 784 * width, width * width + width * C, C if kind == "exact" else 1
    return N * (2 * (first + rest) + columns * rest)


# ---- the Omniglot net: four convolutions of 64 channels, stride 2, without batch norm, which would mix the samples ----


def images() -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    params = []
    for channels in (1, 64, 64, 64):
        params += [
            rng.normal(0, (2 / (9 * channels)) ** 0.5, (64, channels, 3, 3)).astype(np.float32),
            rng.normal(0, 0.1, 64).astype(np.float32),
        ]
    params += [rng.normal(0, 0.125, (64, 5)).astype(np.float32), rng.normal(0, 0.1, 5).astype(np.float32)]
    x = off_kinks(rng.normal(size=(2 * IMAGES, 1, 28, 28)).astype(np.float32), params, conv_layer)
    return params, x[:IMAGES], rng.integers(5, size=IMAGES)


def conv_layer(x: Any, W: Any, b: Any) -> Any:
    return tm.ops.conv2d(x, W, stride=2, padding=1) + tm.ops.reshape(b, (64, 1, 1))


def conv_net(params: list[Any], x: Any) -> Any:
    for W, b in zip(params[:-2:2], params[1:-2:2], strict=True):
        x = tm.ops.relu(conv_layer(x, W, b))
    return tm.ops.mean(x, axis=(-2, -1)) @ params[-2] + params[-1]


def conv_ours(params: list[np.ndarray], x: np.ndarray, y: np.ndarray, kind: str) -> peers.Call:
    return lambda: tm.ewc.fisher_diagonal(conv_net, params, x, y, kind=kind)


def conv_backpack(params: list[np.ndarray], x: np.ndarray, y: np.ndarray, kind: str) -> peers.Call:
    import torch
    from torch import nn

    convolutions = [nn.Conv2d(W.shape[1], 64, 3, stride=2, padding=1) for W in params[:-2:2]]
    layers = [module for convolution in convolutions for module in (convolution, nn.ReLU())]
    net = nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 5))
    with torch.no_grad():
        for w, a in zip(net.parameters(), params, strict=True):
            w.copy_(torch.from_numpy(a.T.copy() if a.ndim == 2 else a))
    return peers.backpack_call(net, x, y, kind)


CONV_CONTENDERS = {OURS: conv_ours, "BackPACK": conv_backpack}


# ---- cases ----


def cases(contender: str) -> dict[str, tuple[Callable[[], peers.Call], bool]]:
    """By name a maker of the call to time, and whether it takes all N samples."""
    found: dict[str, tuple[Callable[[], peers.Call], bool]] = {}
    for width in WIDTHS:
        params, x, y = mlp(width)
        for kind in KINDS:
            name = f"{kind}, 784-{width}-{width}-10"
            if contender in CONTENDERS:
                found[name] = (lambda p=params, x=x, y=y, kind=kind: CONTENDERS[contender](p, x, y, kind)), True
            elif contender == SLOW and kind == "empirical":
                few = slice(0, SLOW_N)
                found[name] = (lambda p=params, x=x, y=y, few=few: peers.torch_vmap(p, x[few], y[few], "")), False
    if contender in CONV_CONTENDERS:
        for kind in KINDS:
            given = *images(), kind
            found[f"{kind}, Omniglot net"] = (lambda given=given: CONV_CONTENDERS[contender](*given)), True
    return found


def expected_results(folder: Path) -> None:
    """The results of every case, in float64, means, by the chunked NumPy kernels or, of the Omniglot net, by our engine."""
    for width in WIDTHS:
        params, x, y = mlp(width)
        for kind in KINDS:
            for name, some in ((f"{kind}, 784-{width}-{width}-10", N), (f"few {kind}, 784-{width}-{width}-10", SLOW_N)):
                wide = [a.astype(np.float64) for a in params]
                np.savez(folder / name, *peers.chunked(wide, x[:some].astype(np.float64), y[:some], kind)())
    params, x, y = images()
    for kind in KINDS:
        wide = [a.astype(np.float64) for a in params]
        np.savez(folder / f"{kind}, Omniglot net", *conv_ours(wide, x.astype(np.float64), y, kind)())


def check(name: str, found: list[np.ndarray], factor: float) -> None:
    """Within 1e-5 of factor times the expected means, relative to the largest entry of each array."""
    with np.load(Path(os.environ[EXPECTED]) / f"{name}.npz") as expected:
        for a, b in zip(found, expected.values(), strict=True):
            np.testing.assert_allclose(a, factor * b, rtol=0, atol=1e-5 * factor * np.abs(b).max(), err_msg=name)


def milliseconds(call: Callable[[], Any]) -> float:
    """Median of the calls within a budget, of at least 5, after two to warm up."""
    call(), call()
    times: list[float] = []
    while len(times) < 5 or sum(times) < BUDGET:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


# ---- the machine's rate, and all of MNIST ----


def sgemm() -> float:
    """10^9 operations per second of NumPy's product of 2048 x 2048 float32 matrices."""
    a = np.random.default_rng(0).random((2048, 2048), np.float32)
    return 2 * 2048**3 / milliseconds(lambda: a @ a) / 1e6


def all_of_mnist() -> dict[str, float]:
    """Seconds of the exact Fisher of all 60,000 images and the most memory it holds beyond weights and data, in MB."""
    from tinymeta.kernels.fisher import cpu

    x = tm.data.mnist("train").x.reshape(60_000, 784).astype(np.float32) / np.float32(255)
    report: dict[str, float] = {}
    for width in WIDTHS:
        params = peers.pairs(mlp(width)[0])
        cpu.mlp_fisher([(W[:, :1], b[:1]) for W, b in params[:1]], x[:2])  # compiled, or found on disk
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark of this process begins here
        before, start = _memory("VmRSS"), time.perf_counter()
        cpu.mlp_fisher(params, x)
        report[f"seconds {width}"] = time.perf_counter() - start
        report[f"MB {width}"] = (_memory("VmHWM") - before) / 1e3
    return report


def _memory(name: str) -> float:
    """kB of this process, from Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


# ---- the table ----


def report(contender: str) -> dict[str, float]:
    if contender == "sgemm":
        return {"gflops": sgemm()}
    if contender == "MNIST":
        return all_of_mnist()
    found = {}
    for name, (make, whole) in cases(contender).items():
        call = make()
        samples = IMAGES if "Omniglot" in name else N if whole else SLOW_N
        check(name if whole else f"few {name}", call(), 1 if contender.startswith("tinymeta") else samples)
        found[name] = milliseconds(call) * (1 if whole else N / SLOW_N)
    return found


def rows(reports: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    rate = statistics.median(r["gflops"] for r in reports["sgemm"])
    table = []
    for case in reports[OURS][0]:
        for contender, rounds in reports.items():
            if case in rounds[0]:
                times = [r[case] for r in rounds]
                median, ours = statistics.median(times), statistics.median(r[case] for r in reports[OURS])
                kind, _, net = case.partition(", ")
                share = None
                if net != "Omniglot net":
                    width = int(net.split("-")[1])
                    share = round(100 * 2 * multiplications(width, kind) / (rate * 1e6) / median, 1)
                table.append(
                    {"name": f"{case}: {contender}", "median": round(median, 3), "min": round(min(times), 3),
                     "max": round(max(times), 3), "ratio": round(median / ours, 2), "share": share}
                )  # fmt: skip
    return table


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(report(sys.argv[1])))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ[EXPECTED] = folder
        expected_results(Path(folder))
        reports = alternate("bench.fisher", [*CONTENDERS, "sgemm"], ROUNDS)
        reports |= alternate("bench.fisher", [SLOW, "MNIST"], 1)
    rate = statistics.median(r["gflops"] for r in reports["sgemm"])
    whole = reports.pop("MNIST")[0]
    mnist = "; ".join(
        f"784-{w}-{w}-10 in {whole[f'seconds {w}']:.2f} s, {whole[f'MB {w}']:.0f} MB beyond weights and data"
        for w in WIDTHS
    )
    write(
        "fisher", f"Fisher diagonal, float32, N = {N} (Omniglot net: {IMAGES}, 5 classes)", "ms", ROUNDS, rows(reports),
        ["tinymeta", "numpy", "numba", "torch", "jax", "backpack-for-pytorch"],
        f"Results agree to 1e-5 before timing. Share: of NumPy's sgemm ({rate:.0f} GF/s) on the operations needed with 10 "
        "columns; Numba takes 9 and leaves out the half of the units that are dead. BackPACK: SumGradSquared and DiagGGNExact. "
        f"By hand: squared products. vmap(grad)² holds every per-sample gradient: {SLOW_N} samples timed, times {N // SLOW_N}. "
        f"Omniglot net: 4 convolutions of 64, stride 2, no batch norm. Exact Fisher of 60,000 MNIST images: {mnist}.",
        {"share": "% of sgemm"},
    )  # fmt: skip


if __name__ == "__main__":
    main()
