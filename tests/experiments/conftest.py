"""What tests of the EWC experiments share."""

import pytest

from tinymeta.experiments.ewc_tasks import (
    Digits,
    load_digits,
)
from tinymeta.lab import stream


@pytest.fixture(scope="module")
def digits():
    """Few enough for tests: 60 images to train on, 40 to validate, 50 to test."""
    all_digits = load_digits("subset", stream(0, "split"), 40)
    few = {"train": 60, "validation": 40, "test": 50}
    return {name: Digits(one.x[-few[name] :], one.y[-few[name] :]) for name, one in all_digits.items()}
