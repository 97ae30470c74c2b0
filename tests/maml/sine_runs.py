"""What tests of the sinusoids share: small configurations, and a run of one."""

import json
from dataclasses import asdict

from tinymeta import lab
from tinymeta.experiments import maml_sine
from tinymeta.lab.files import to_json

SMALL = {
    "iterations": "300", "meta_lr": "0.01", "baseline_lr": "0.01", "sigma": "0.3", "test_tasks": "100",
    "validation_tasks": "20", "test_steps": "5", "test_points": "5,10", "step_sizes": "0.01,0.03", "regressors": "0",
}  # fmt: skip
TINY = SMALL | {
    "iterations": "2",
    "test_tasks": "4",
    "test_steps": "2",
    "hidden": "3",
    "test_points": "5",
    "compiled": "false",
}
REGRESSORS = {
    "regressors": "5", "regressor_iterations": "3", "regressor_points": "4", "penalties": "0.1,0.2", "tuning_regressors": "2",
}  # fmt: skip


def run(folder, overrides):
    """What result.json would hold, without the figures."""
    config = lab.configure(maml_sine.EXPERIMENT, "paper", overrides)
    folder.mkdir(exist_ok=True)
    with lab.Run(folder, "maml-sine", "") as run:
        return json.loads(to_json(asdict(maml_sine.EXPERIMENT.train(config, run))))
