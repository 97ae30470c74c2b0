"""Collect finished runs into bench/results/NAME.json, from which the tables of the README and the docs are generated.

python -m tools.collect_results runs/demo demo            # the demo's four experiments
python -m tools.collect_results runs paper maml-sine      # the newest run of each experiment named, below runs/
python -m tools.collect_results runs l2l l2l-mnist:paper  # the newest run with that preset
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.measure import RESULTS, machine
from tinymeta.experiments import DEMO, load
from tinymeta.lab.experiment import preset_of, restore


def newest(root: Path, name: str) -> dict[str, Any]:
    """Configuration, versions, rows and claims of the newest finished run of NAME, or of that whose settings are NAME:PRESET."""
    experiment, _, preset = name.partition(":")
    for path in sorted((root / experiment).glob("*/result.json"), reverse=True):
        config, result = (json.loads((path.parent / f).read_text()) for f in ("config.json", "result.json"))
        made_by = load(experiment)
        found = preset_of(made_by, restore(made_by, config["config"], path.parent / "config.json"))
        if preset in ("", found):
            kept = {"preset": found, "config": config["config"], "versions": config["versions"]}
            return {"experiment": experiment, **kept, "rows": result["rows"], "claims": result["claims"]}
    raise SystemExit(f"no finished run of {name} below {root}: run it first")


def main() -> None:
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    root, table, names = Path(sys.argv[1]), sys.argv[2], sys.argv[3:] or DEMO
    results = {"machine": machine(), "experiments": [newest(root, name) for name in names]}
    (RESULTS / f"{table}.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
