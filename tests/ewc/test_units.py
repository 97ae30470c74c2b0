"""ewc.standard_lam: each program's penalty, computed as its code does, equals ours at the converted λ."""

import numpy as np
import pytest

from tinymeta import ewc


@pytest.mark.parametrize("name", ewc.CONVENTIONS)
def test_the_penalty_is_the_programs_own(name):
    """Scores of mean 0, so that the squared mean of a batch is F / B on average."""
    row, B, lam = ewc.CONVENTIONS[name], 8, 3.0
    score = np.array([2.0, 0.5])
    fisher = score**2  # of every sample
    rng = np.random.default_rng(0)
    batches = score * rng.choice([-1.0, 1.0], size=(200_000, B, 1))
    theirs = np.mean(np.mean(batches, axis=1) ** 2, axis=0) if row.per_batch else fisher
    moved = np.array([0.3, -0.2])
    cost = lam * (0.5 if row.half else 1.0) * np.sum(theirs * moved**2)
    ours = ewc.Penalty(ewc.standard_lam(lam, name, batch_size=B)).add_task(np.zeros(2), fisher).value(moved)
    assert ours == pytest.approx(cost, rel=0.02 if row.per_batch else 1e-12)


def test_the_published_settings_in_standard_units():
    assert ewc.standard_lam(100, "van-de-ven") == 100
    assert ewc.standard_lam(1, "avalanche", batch_size=256) == pytest.approx(2 / 256)
    assert ewc.standard_lam(1000, "pycil", batch_size=128) == pytest.approx(7.8125)
    assert ewc.standard_lam(5000, "hat", batch_size=20) == 250
    assert ewc.standard_lam(150, "gt-ripl") == 300
    assert ewc.standard_lam(40, "kuc2477") == 40


def test_what_cannot_be_converted_is_refused():
    with pytest.raises(ValueError, match="convention is 'theano', expected one of tinymeta, van-de-ven"):
        ewc.standard_lam(1.0, "theano")
    for lam in (-1.0, np.nan, np.inf, "1"):
        with pytest.raises(ValueError, match=f"lam is {lam!r}, expected a finite number, 0 or more"):
            ewc.standard_lam(lam, "hat", 20)
    for batch_size in (None, 0, np.nan, 2.5):
        with pytest.raises(ValueError, match="avalanche squares means over batches; pass its batch_size"):
            ewc.standard_lam(1.0, "avalanche", batch_size)
