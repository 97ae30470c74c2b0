"""What the settings of all experiments share: as they are listed they are taken, and an interval has two samples at least."""

import pytest

from tinymeta import experiments
from tinymeta.lab import UserError, configure
from tinymeta.lab.experiment import as_text

SAMPLES = [
    ("l2l-quadratic", "test_problems"),
    ("maml-sine", "test_tasks"),
    ("maml-omniglot", "test_tasks"),
    ("maml-omniglot", "inductive_tasks"),
    ("maml-miniimagenet", "test_tasks"),
    ("maml-nav2d", "test_goals"),
    ("maml-cheetah", "test_goals"),
]


@pytest.mark.parametrize(("name", "key"), SAMPLES)
def test_one_sample_is_refused_and_two_are_not(name, key):
    experiment = experiments.load(name)
    for count in ("1", "0"):
        with pytest.raises(UserError, match=f"{key} = {count}, expected 2 or more, for a confidence interval"):
            configure(experiment, "quick", {key: count})
    assert getattr(configure(experiment, "quick", {key: "2"}), key) == 2


@pytest.mark.parametrize("name", experiments.REGISTRY)
def test_every_default_is_taken_as_it_is_listed(name):
    experiment = experiments.load(name)
    default = configure(experiment, "quick", {}).__class__()
    listed = {key: as_text(value) for key, value in vars(default).items()}
    assert configure(experiment, "quick", listed) == default
