"""What tests of the few-shot experiments share: a tiny configuration, and a run of it."""

from dataclasses import asdict

from tinymeta import lab
from tinymeta.experiments import maml_omniglot
from tinymeta.lab import Run
from tinymeta.lab.files import to_json

TINY = {
    "iterations": "4", "validate_every": "2", "validation_tasks": "3", "test_tasks": "22", "test_steps": "2", "filters": "2",
    "meta_batch": "2", "inductive_tasks": "3", "compiled": "false",
}  # fmt: skip


def configure(overrides=(), experiment=maml_omniglot.EXPERIMENT, preset="quick"):
    return lab.configure(experiment, preset, TINY | dict(overrides))


def train(config, folder, experiment=maml_omniglot.EXPERIMENT):
    folder.mkdir(exist_ok=True)
    with Run(folder, experiment.name, "") as run:
        return experiment.train(config, run)


def as_json(outcome):
    return to_json(asdict(outcome))
