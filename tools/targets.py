"""The speed targets of the kernels and of MAML beside what was measured: a table of rules over bench/results/*.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Committed = Callable[[str], dict[str, Any]]


class Target(NamedTuple):
    """Where the least (or, `at_most`, the greatest) value in `column` over `rows` of bench/results/`file`.json should lie, as a
    multiple of the least over the rows `against`, if there are any."""

    what: str
    bound: float
    aim: float | None
    file: str
    rows: tuple[str, ...]
    column: str = "ratio"
    at_most: bool = False
    against: tuple[str, ...] = ()


def _step(n: str, bound: float, aim: float) -> Target:
    peers = ("JAX jit, (H, n)", "torch.compile")
    return Target(f"LSTM step, n = {n}: × the best peer", bound, aim, "lstm", tuple(f"n = {n}: {p}" for p in peers))


def _sine(setting: str, peer: str, bound: float, aim: float | None = None) -> Target:
    return Target(
        f"MAML on sinusoids, {setting}: × {peer.split(',')[0]}", bound, aim, "maml-sine", (f"{peer}, {setting}",)
    )


KINDS = ("empirical", "sampled", "exact")
SIZES = ("15,910", "100,000", "1,000,000")
NETS = ("784-400-400-10", "784-1000-1000-10")
SINE = ("25 tasks, 1 inner step", "4 tasks, 1 inner step", "100 tasks, 1 inner step", "25 tasks, 5 inner steps")
OMNIGLOT = ("torch.func, vmap", "PyTorch, loop", "JAX, jit and loop", "JAX, jit and vmap")
CONV = "8 tasks, 1 inner step"
FIRST_CALLS = (
    ("maml-omniglot", "Omniglot", CONV), ("maml-sine", "sinusoids", SINE[0]), ("maml-sine", "sinusoids", SINE[3]),
)  # fmt: skip
WITHOUT_NUMBA = (
    *(("maml-sine", f"sinusoids, {setting}", setting) for setting in SINE),
    ("maml-omniglot", "Omniglot", CONV),
)
OURS = tuple(f"n = {n}: tinymeta, Numba" for n in SIZES)

TARGETS = (
    *(_step(n, *goals) for n, goals in zip(SIZES, ((2.5, 3), (6, 8), (7, 10)), strict=True)),
    *(
        Target(f"LSTM step, n = {n}: share of sgemm's rate", 0.6, None, "lstm", (row,), "of_sgemm")
        for n, row in zip(SIZES, OURS, strict=True)
    ),
    Target("LSTM step: largest error", 1e-6, None, "lstm", OURS, "error", at_most=True),
    Target("LSTM unroll of 20 with gradient: × the best peer", 3, 5, "lstm_unroll", ("JAX jit, (H, n)", "PyTorch, LSTMCell")),
    Target(
        "LSTM unroll: memory, of the best peer's", 1, None, "lstm_unroll", ("tinymeta, Numba",), "mb", at_most=True,
        against=("JAX jit, (H, n)", "PyTorch, LSTMCell"),
    ),
    Target("first LSTM step in a fresh process, ms", 500, None, "lstm_start", ("first step",), "median", at_most=True),
    *(
        Target(f"Fisher, {kind}, {net}, the kernel: × BackPACK", 2.5, 3.5, "fisher", (f"{kind}, {net}: BackPACK",))
        for net in NETS for kind in ("empirical", "sampled")
    ),
    *(Target(f"Fisher, exact, {net}, the kernel: × BackPACK", 3, 4.5, "fisher", (f"exact, {net}: BackPACK",)) for net in NETS),
    *(
        Target(f"Fisher, {kind}, Omniglot net, public call: × BackPACK", 1, None, "fisher", (f"{kind}, Omniglot net: BackPACK",))
        for kind in KINDS
    ),
    Target(
        "Fisher, exact, all of MNIST: memory over weights and data, MB", 50, None, "fisher_mnist",
        tuple(f"{net}: tinymeta, {how}" for net in NETS for how in ("Numba", "fisher_diagonal")),
        "memory", at_most=True,
    ),
    Target(
        "Fisher, perceptrons: share of sgemm's rate, %", 70, None, "fisher",
        tuple(f"{kind}, {net}: tinymeta, Numba" for kind in KINDS for net in NETS), "share",
    ),
    *(_sine(setting, "JAX, jit and vmap", 1.5, 3) for setting in SINE),
    *(_sine(setting, "higher", 75) for setting in SINE),
    *(
        Target(
            f"MAML on {problem}, without Numba: × eager", 1, None, file, (f"tinymeta, eager, {setting}",), "median",
            against=(f"tinymeta without Numba, {setting}",),
        )
        for file, problem, setting in WITHOUT_NUMBA
    ),
    Target("70,000 iterations on sinusoids, s", 15, None, "maml-sine-training", ("tinymeta",), "median", at_most=True),
    Target(
        "MAML on Omniglot, 8 tasks: × the best peer", 1.5, 2.5, "maml-omniglot",
        tuple(f"{peer}, {CONV}" for peer in OMNIGLOT),
    ),
    Target("MAML on Omniglot: largest error", 1e-5, None, "maml-omniglot", (f"tinymeta, {CONV}",), "error", at_most=True),
    Target(
        "MAML on Omniglot: memory of the step, of the best peer's", 1, None, "maml-omniglot", (f"tinymeta, {CONV}",), "mb",
        at_most=True, against=tuple(f"{peer}, {CONV}" for peer in OMNIGLOT),
    ),
    *(
        Target(
            f"first call of MAML on {problem}, {setting}: nothing on disk, of JAX's", 3, None, file, (f"tinymeta, {setting}",),
            "first", at_most=True, against=(f"JAX, jit and vmap, {setting}",),
        )
        for file, problem, setting in FIRST_CALLS
    ),
    *(
        Target(
            f"first call of MAML on {problem}, {setting}: from disk, s", 1, None, file, (f"tinymeta, {setting}",), "from_disk",
            at_most=True,
        )
        for file, problem, setting in FIRST_CALLS
    ),
)  # fmt: skip


def targets(committed: Committed) -> str:
    """A Markdown table: what was asked for, what was aimed at, what was measured, and how far that reaches."""
    lines = ["| target | asked for | aim | measured | |", "|---|---|---|---|---|"]
    for target in TARGETS:
        sign = "≤" if target.at_most else "≥"
        aim = f"{sign} {target.aim:g}" if target.aim else "–"
        value = measured(target, committed)
        lines.append(f"| {target.what} | {sign} {target.bound:g} | {aim} | {value:.3g} | {_mark(target, value)} |")
    return "\n".join([*lines, ""])


def _mark(target: Target, value: float) -> str:
    def within(bound: float) -> bool:
        return value <= bound if target.at_most else value >= bound

    if not within(target.bound):
        return "✗"
    return "✓ aim" if target.aim and within(target.aim) else "✓"


def measured(target: Target, committed: Committed) -> float:
    """What counts: the worst of the target's rows."""
    by_name = {row["name"]: row for row in committed(target.file)["rows"]}
    found, others = ([float(by_name[name][target.column]) for name in names] for names in (target.rows, target.against))
    return (max(found) if target.at_most else min(found)) / min(others, default=1)
