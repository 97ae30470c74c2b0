import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinymeta.lab import mean_ci95

# 97.5 % quantiles of Student's t by degrees of freedom, as every printed table has them
TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 19: 2.093, 29: 2.045, 99: 1.984, 599: 1.964}


@pytest.mark.parametrize(("freedom", "quantile"), TABLE.items())
def test_the_half_width_is_students(freedom, quantile):
    x = np.random.default_rng(freedom).normal(3.0, 2.0, freedom + 1)
    mean, half_width = mean_ci95(x)
    assert mean == pytest.approx(x.mean())
    assert half_width == pytest.approx(quantile * x.std(ddof=1) / np.sqrt(len(x)), rel=2e-3)


def test_the_interval_covers_the_mean_in_95_of_100_cases():
    samples = np.random.default_rng(0).normal(size=(5, 20_000))
    mean, half_width = mean_ci95(samples)
    assert mean.shape == half_width.shape == (20_000,)
    assert np.mean(np.abs(mean) < half_width) == pytest.approx(0.95, abs=0.006)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9), st.floats(-1e3, 1e3), st.floats(0.1, 10))
def test_shift_and_scale(x, shift, scale):
    mean, half_width = mean_ci95(x)
    moved, stretched = mean_ci95(scale * np.array(x) + shift)
    assert moved == pytest.approx(scale * mean + shift, rel=1e-9, abs=1e-9)
    assert stretched == pytest.approx(scale * half_width, rel=1e-6, abs=1e-9)


def test_float32_is_averaged_in_float64():
    """The squares of what diverged are beyond float32."""
    assert mean_ci95(np.array([0, 2e25], np.float32)) == pytest.approx((1e25, 12.706e25), rel=1e-3)


def test_edges():
    mean, half_width = mean_ci95([2.0])
    assert mean == 2.0
    assert np.isnan(half_width)
    assert mean_ci95([1.0, np.inf])[0] == np.inf
    for empty in ([], 3.0):
        with pytest.raises(ValueError, match="needs samples"):
            mean_ci95(empty)
