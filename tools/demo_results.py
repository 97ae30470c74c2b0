"""Collect the newest result of each of the demo's experiments into bench/results/demo.json, for the README's table."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.measure import RESULTS, machine
from tinymeta.experiments import DEMO


def newest(root: Path, name: str) -> Path:
    finished = sorted((root / name).glob("*/result.json"))
    if not finished:
        raise SystemExit(f"no finished run of {name} below {root}: run `make demo` first")
    return finished[-1].parent


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
    folders = [newest(root, name) for name in DEMO]
    configs = [json.loads((folder / "config.json").read_text()) for folder in folders]
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    table = {
        "machine": machine(),
        "seed": configs[0]["config"]["seed"],
        "versions": configs[0]["versions"],
        "experiments": [
            {"experiment": name, "config": config["config"], "rows": result["rows"], "claims": result["claims"]}
            for name, config, result in zip(DEMO, configs, results, strict=True)
        ],
    }
    (RESULTS / "demo.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
