"""Write the tables of README.md and docs/ between their markers, from committed results only; --check fails if they are old.

`<!-- table: NAME -->` stands for bench/results/NAME.json: a benchmark's rows, or every row of a collection of experiments.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tinymeta.lab.experiment import Row
from tinymeta.lab.table import cells
from tools.targets import targets

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARKER = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def benchmark(table: dict[str, Any]) -> str:
    """A benchmark's rows as a Markdown table, with the machine below; `columns` (key -> title) are those it has beside time, and
    may give the ratio another title."""
    columns = {"name": table["title"], "median": f"median, {table['unit']}", "ratio": "× tinymeta"} | table.get(
        "columns", {}
    )
    lines = [
        columns.values(),
        ["---"] * len(columns),
        *([_cell(row.get(key)) for key in columns] for row in table["rows"]),
    ]
    versions = ", ".join(f"{k} {v}" for k, v in table["versions"].items() if k != "tinymeta")
    note = f"{table['machine']}; {versions}; {_processes(table['rounds'])}. {table['note']}"
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", note, ""])


def _processes(rounds: int) -> str:
    return f"{rounds} alternated fresh processes" if rounds > 1 else "one process"


def _cell(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else _number(value)


def _number(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


# in the demo's short table, of an experiment whose paper prints curves only
SHOWN = {"ewc-permuted-3": "mean of tasks"}


class Chosen(NamedTuple):
    """An experiment's result, which of its rows are wanted, and what stands behind its name: its preset, if it is told."""

    result: dict[str, Any]
    wanted: Callable[[dict], bool]
    preset: str = ""


def demo() -> str:
    """The demo's rows that have a published number, what its papers without numbers are about, and the claims that failed."""
    experiments = committed("demo")["experiments"]

    def shown(experiment: dict[str, Any], row: dict[str, Any]) -> bool:
        return row["published"] is not None or SHOWN.get(experiment["experiment"], "\n") in row["quantity"]

    return "\n".join([*_short([Chosen(e, partial(shown, e)) for e in experiments]), "", _made_with(experiments), ""])


def _short(chosen: list[Chosen]) -> list[str]:
    """The rows that are wanted, where their published numbers stand, and the claims that failed."""
    rows = [
        line for e, wanted, preset in chosen for line in _rows({**e, "experiment": e["experiment"] + preset}, wanted)
    ]
    claims = [(f"`{e['experiment']}`{preset}", claim) for e, _, preset in chosen for claim in e["claims"]]
    failed = [f"- ✗ {name}: {claim['sentence']}." for name, claim in claims if not claim["held"]]
    count = (
        f"{len(claims) - len(failed)} of these runs' {len(claims)} claims held{'; these did not:' if failed else '.'}"
    )
    return [*_HEAD, *rows, "", _sources(chosen), "", count, *failed]


def _sources(chosen: list[Chosen]) -> str:
    """Where the published numbers stand, without their intervals."""
    found: dict[str, dict[str, None]] = {}
    for e, wanted, _ in chosen:
        for row in e["rows"]:
            if wanted(row) and row["source"]:
                found.setdefault(re.sub(r"[:,] ± .*", "", row["source"]), {})[e["experiment"]] = None
    places = (f"{', '.join(names)}: {source}" for source, names in found.items())
    return f"Published numbers of {'; '.join(places)}."


HEADLINES = (  # of what collection, experiment and preset, and how the rows begin that say whether a paper is reproduced
    ("l2l", "l2l-quadratic", "paper", "LSTM / best baseline"),
    ("l2l", "l2l-mnist", "paper", "LSTM / best baseline"),
    ("maml", "maml-sine", "paper", "MAML, 5 points, after"),
    ("maml", "maml-omniglot", "paper", "MAML, transductive"),
    ("maml", "maml-omniglot", "paper-5-shot", "MAML, transductive"),
    ("maml", "maml-omniglot", "paper-dense", "MAML, transductive"),
    ("maml", "maml-omniglot", "paper-dense-5-shot", "MAML, transductive"),
    ("rl", "maml-nav2d", "code", "MAML, return"),
    ("ewc", "ewc-domain-10", "published-ewc-seeds", ""),
    ("ewc", "ewc-domain-10", "tuned-decay", ""),
    ("ewc", "ewc-domain-10", "published-si-seeds", ""),
    ("ewc", "ewc-domain-10", "published-bounds", ""),
)


def reproduction() -> str:
    """What the papers print as numbers, beside the runs of their own protocols, and the claims of these runs that failed."""

    def shown(begin: str, row: dict[str, Any]) -> bool:
        return row["published"] is not None and row["quantity"].startswith(begin)

    chosen = []
    for collection, name, preset, begin in HEADLINES:
        found = [e for e in committed(collection)["experiments"] if (e["experiment"], e["preset"]) == (name, preset)]
        if not any(shown(begin, row) for e in found for row in e["rows"]):
            raise SystemExit(f"{collection}.json has no row of {name}, preset {preset}, that begins with {begin!r}")
        chosen += [Chosen(e, partial(shown, begin), f", `{preset}`") for e in found]
    return "\n".join([*_short(chosen), ""])


def every_row(results: dict[str, Any]) -> str:
    """Every row of a collection of results, what became of the papers' claims, and the figures, experiment by experiment."""
    return "\n".join(
        [_made_with(results["experiments"]), *(line for e in results["experiments"] for line in _section(e)), ""]
    )


def _section(experiment: dict[str, Any]) -> list[str]:
    title = f"### {experiment['experiment']}, preset `{experiment['preset']}`"
    rows = _rows(experiment, lambda row: True)
    more = *_tuning(experiment), *_by_kind(experiment)
    return ["", title, "", *_HEAD, *rows, "", *more, *_claims(experiment), *_figures(experiment)]


def _tuning(experiment: dict[str, Any]) -> list[str]:
    """The learning rate that each baseline got in each setting; those at an end of the grid are marked."""
    found = experiment.get("tuning", [])
    if not found:
        return []
    methods, grid = list(found[0]["rates"]), sorted(map(float, next(iter(found[0]["grid"].values()))))
    ends = {grid[0]: " (lowest)", grid[-1]: " (highest)"}
    lines = ([setting["title"], *(_rate(setting["rates"][name], ends) for name in methods)] for setting in found)
    sentence = f"The baselines' learning rates, the best of {len(grid)} from {grid[0]:g} to {grid[-1]:g} on validation problems:"
    table = [["setting", *methods], ["---"] * (1 + len(methods)), *lines]
    return [sentence, "", *(f"| {' | '.join(line)} |" for line in table), ""]


def _by_kind(experiment: dict[str, Any]) -> list[str]:
    """Test accuracy by kind of Fisher and λ, mean ± standard error; the λ that validation images chose is bold."""
    if not (found := experiment.get("by_kind")):
        return []

    def cell(kind: str, lam: str) -> str:
        mean, error = found["accuracy"][kind][lam]
        text = f"{mean:.2f} ± {error:.2f}"
        return f"**{text}**" if float(lam) == found["best"][kind] else text

    lams = [f"{lam:g}" for lam in found["lams"]]
    lines = [[kind, *(cell(kind, lam) for lam in lams)] for kind in found["accuracy"]]
    table = [["Fisher", *(f"λ = {lam}" for lam in lams)], ["---"] * (1 + len(lams)), *lines]
    mean, error = found["sgd"]
    sentence = (
        f"Mean test accuracy, % ± standard error; bold: λ by validation images. SGD, λ = 0: {mean:.2f} ± {error:.2f}."
    )
    return [sentence, "", *(f"| {' | '.join(line)} |" for line in table), ""]


def _rate(lr: float, ends: dict[float, str]) -> str:
    return f"{lr:g}{ends.get(lr, '')}"


def _figures(experiment: dict[str, Any]) -> list[str]:
    """For the pages in docs/."""
    found = experiment.get("figures", {})
    return [
        line for name, caption in found.items() for line in ("", f"![{caption}](figures/{name})", "", f"*{caption}*")
    ]


def _claims(experiment: dict[str, Any]) -> list[str]:
    return [
        f"- {'✓' if c['held'] else '✗'} `{experiment['experiment']}`: {c['sentence']} ({c['detail']})."
        for c in experiment["claims"]
    ]


_HEAD = ("| experiment | quantity | published | ours ± 95 % CI |", "|---|---|---|---|")


def _rows(experiment: dict[str, Any], wanted: Callable[[dict], bool]) -> list[str]:
    found = (cells(Row(**row)) for row in experiment["rows"] if wanted(row))
    return [f"| {experiment['experiment']} | {' | '.join(line[:3])} |" for line in found]


def _made_with(experiments: list[dict[str, Any]]) -> str:
    """The presets and seeds of the runs, and the machines and versions of NumPy and Numba that made them."""
    versions = [v for e in experiments for v in (e["versions"], *e.get("resumed_on", []))]
    settings = {f"preset `{e['preset']}`, seed {e['config']['seed']}" for e in experiments}
    machines = {f"{v['cores']} cores, {v['cpu']}" for v in versions}
    packages = {f"NumPy {v['numpy']}, {_numba(v)}" for v in versions}
    return f"Made with {'; '.join([*sorted(settings), *sorted(machines), *sorted(packages)])}."


def _numba(versions: dict[str, Any]) -> str:
    """Told even if it was missing: the programs are then NumPy's, whose sums have other last bits."""
    return f"Numba {versions['numba']}" if "numba" in versions else "no Numba"


def committed(name: str) -> dict[str, Any]:
    """The content of bench/results/NAME.json."""
    return json.loads((RESULTS / f"{name}.json").read_text())


SUMMARIES: dict[str, Callable[[], str]] = {
    "demo": demo, "demo_full": lambda: every_row(committed("demo")), "reproduction": reproduction,
    "targets": lambda: targets(committed),
}  # fmt: skip


def table(name: str) -> str:
    """What stands between the markers of that name."""
    if name in SUMMARIES:
        return SUMMARIES[name]()
    if not (RESULTS / f"{name}.json").exists():
        return "No result is committed yet.\n"
    results = committed(name)
    return every_row(results) if "experiments" in results else benchmark(results)


def rendered(text: str) -> str:
    """The page with every table written anew."""
    return MARKER.sub(lambda m: f"{m[1]}{table(m[2])}{m[3]}", text)


def main() -> int:
    old = [page for page in PAGES if rendered(page.read_text()) != page.read_text()]
    if "--check" in sys.argv:
        for page in old:
            print(f"{page.relative_to(ROOT)} is out of date: run python -m tools.readme_tables", file=sys.stderr)
        return int(bool(old))
    for page in old:
        page.write_text(rendered(page.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
