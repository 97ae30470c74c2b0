"""Collect finished runs into bench/results/NAME.json, from which the tables of the README and the docs are generated.

python -m tools.collect_results runs/demo demo            # the demo's four experiments, and no other
python -m tools.collect_results runs maml maml-sine       # the newest run of each experiment named, below runs/
python -m tools.collect_results runs l2l l2l-mnist:paper  # the newest run with that preset

Runs that are named take the place of those of their preset, or join those of their experiment; their figures come along, into
docs/figures/.
"""

from __future__ import annotations

import functools
import json
import math
import operator
import shutil
import sys
from pathlib import Path
from typing import Any

from bench.measure import RESULTS
from tinymeta.experiments import DEMO, load
from tinymeta.lab.experiment import preset_of, restore

FIGURES = Path(__file__).resolve().parent.parent / "docs" / "figures"
TUNED = ("title", "rates", "grid")  # by these keys a run's series tell how baselines were tuned
TRIED = ("grid", "tuning", "search")  # where those of EWC's experiments have every setting that was tried
BY_KIND = ("lams", "accuracy", "best", "sgd")  # those of ewc-fisher-kinds: the table beside its heat map


def newest(root: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """Folder, and configuration, versions, rows, claims and what else is kept, of the newest finished run of NAME, or of that whose
    settings are NAME:PRESET."""
    experiment, _, preset = name.partition(":")
    for path in sorted((root / experiment).glob("*/result.json"), reverse=True):
        config, result = (json.loads((path.parent / f).read_text()) for f in ("config.json", "result.json"))
        made_by = load(experiment)
        found = preset_of(made_by, restore(made_by, config["config"], path.parent / "config.json"))
        if preset in ("", found):
            kept = {"preset": found, "config": config["config"], "versions": config["versions"]}
            kept |= {"resumed_on": config["resumed_on"]} if "resumed_on" in config else {}
            kept |= {"rows": result["rows"], "claims": result["claims"]}
            return path.parent, {"experiment": experiment, **kept, **of_series(result["series"])}
    raise SystemExit(f"no finished run of {name} below {root}: run it first")


def of_series(series: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a run's series: how baselines were tuned, which settings were tried, and a table of kinds by λ."""
    found = {"tuning": tuning(series), "tried": next((series[key] for key in TRIED if series.get(key)), None)}
    if series.keys() >= set(BY_KIND):
        found["by_kind"] = {key: series[key] for key in BY_KIND}
    return {key: value for key, value in found.items() if value}


def tuning(series: Any) -> list[dict[str, Any]]:
    """Of every setting that is found in a run's series: its title, the learning rate of each baseline, and from which it was
    chosen: the validation loss at each rate of the grid, None if it is not finite."""
    if isinstance(series, dict) and series.keys() >= set(TUNED):
        grid = {
            name: {lr: loss if math.isfinite(loss) else None for lr, loss in losses.items()}
            for name, losses in series["grid"].items()
        }
        return [{"title": series["title"], "rates": series["rates"], "grid": grid}]
    parts = series.values() if isinstance(series, dict) else series if isinstance(series, list) else ()
    return [found for part in parts for found in tuning(part)]


def with_figures(run: Path, result: dict[str, Any]) -> dict[str, Any]:
    """The result and the captions of the run's figures, by the names of the files that they now have in docs/figures/."""
    captions = json.loads((run / "figures" / "captions.json").read_text())
    FIGURES.mkdir(exist_ok=True)
    figures = {}
    for png in sorted((run / "figures").glob("*.png")):
        if png.stem in captions:  # the steps of a trace have one for all
            name = f"{result['experiment']}-{result['preset']}-{png.name}"
            shutil.copyfile(png, FIGURES / name)
            figures[name] = captions[png.stem]
    return result | {"figures": figures}


def joined(results: list[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """The results with a new one: in place of that of its preset, or after the others of its experiment."""
    key = operator.itemgetter("experiment", "preset")
    if key(new) in map(key, results):
        return [new if key(old) == key(new) else old for old in results]
    last = max((i + 1 for i, old in enumerate(results) if old["experiment"] == new["experiment"]), default=len(results))
    return [*results[:last], new, *results[last:]]


def main() -> None:
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    root, table, named = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    found, file = [newest(root, name) for name in named or DEMO], RESULTS / f"{table}.json"
    if named:
        before = json.loads(file.read_text())["experiments"] if file.exists() else []
        experiments = functools.reduce(joined, [with_figures(*one) for one in found], before)
    else:
        experiments = [result for _, result in found]
    file.write_text(json.dumps({"experiments": experiments}, indent=1) + "\n")


if __name__ == "__main__":
    main()
