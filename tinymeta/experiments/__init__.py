"""One module per figure or table of the papers; each exposes EXPERIMENT and loads when it is first asked for."""

from __future__ import annotations

from importlib import import_module

from tinymeta.lab.errors import UserError, suggest
from tinymeta.lab.experiment import Experiment

REGISTRY: dict[str, str] = {
    "l2l-quadratic": "tinymeta.experiments.l2l_quadratic",
    "l2l-mnist": "tinymeta.experiments.l2l_mnist",
    "l2l-mnist-sweep": "tinymeta.experiments.l2l_mnist_sweep",
    "l2l-cifar10": "tinymeta.experiments.l2l_cifar10",
    "l2l-art": "tinymeta.experiments.l2l_art",
    "maml-sine": "tinymeta.experiments.maml_sine",
    "maml-nav2d": "tinymeta.experiments.maml_nav2d",
    "maml-cheetah": "tinymeta.experiments.maml_cheetah",
    "maml-omniglot": "tinymeta.experiments.maml_omniglot",
    "maml-miniimagenet": "tinymeta.experiments.maml_miniimagenet",
    "ewc-permuted-3": "tinymeta.experiments.ewc_permuted_3",
    "ewc-permuted-10": "tinymeta.experiments.ewc_permuted_10",
    "ewc-overlap": "tinymeta.experiments.ewc_overlap",
    "ewc-domain-10": "tinymeta.experiments.ewc_domain_10",
    "ewc-fisher-kinds": "tinymeta.experiments.ewc_fisher_kinds",
    "ewc-split": "tinymeta.experiments.ewc_split",
}
DEMO: tuple[str, ...] = ("l2l-quadratic", "l2l-mnist", "maml-sine", "ewc-permuted-3")


def load(name: str) -> Experiment:
    """The experiment of that name; UserError with close matches if there is none."""
    if name not in REGISTRY:
        raise UserError(f"there is no experiment {name!r}; {suggest(name, REGISTRY)}")
    return import_module(REGISTRY[name]).EXPERIMENT
