"""tm.ewc.unit_trace: the scale at which every task of a penalty counts alike (1805.06370, section 4)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinymeta import nets
from tinymeta.engine import trees
from tinymeta.ewc import NotFinite, Penalty, unit_trace

seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from([np.float32, np.float64])
RTOL = {np.float32: 1e-5, np.float64: 1e-12}


def fisher(rng, dtype=np.float64):
    draw = lambda *shape: rng.exponential(size=shape).astype(dtype)
    return {"layer": nets.Layer(draw(3, 4), draw(4)), "s": draw(2)}


@given(seed=seeds, dtype=dtypes)
def test_it_adds_up_to_1_in_the_same_proportions(seed, dtype):
    given = fisher(np.random.default_rng(seed), dtype)
    scaled = unit_trace(given)
    assert sum(F.sum(dtype=np.float64) for F in trees.leaves(scaled)) == pytest.approx(1, rel=RTOL[dtype])
    ratio = given["s"][0] / scaled["s"][0]
    for before, after in zip(trees.leaves(given), trees.leaves(scaled), strict=True):
        assert after.dtype == dtype
        np.testing.assert_allclose(ratio * after, before, rtol=RTOL[dtype])


@given(
    seed=seeds, scales=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=4), gamma=st.sampled_from([None, 0.5, 1.0])
)
def test_a_penalty_does_not_see_the_scales_of_its_tasks(seed, scales, gamma):
    rng = np.random.default_rng(seed)
    tasks, params = [(fisher(rng), fisher(rng)) for _ in scales], fisher(rng)
    plain = scaled = Penalty(2.0, gamma)
    for scale, (anchor, F) in zip(scales, tasks, strict=True):
        plain = plain.add_task(anchor, unit_trace(F))
        scaled = scaled.add_task(anchor, unit_trace(trees.map(lambda F, scale=scale: scale * F, F)))
    assert scaled.value(params) == pytest.approx(plain.value(params))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([0.0, 0.0], "unit_trace: fisher is 0 throughout, so its trace cannot be 1"),
        ([1.0, -1.0], "unit_trace: fisher"),
        ([1.0, np.nan], "unit_trace: fisher"),
    ],
)
def test_a_fisher_that_has_no_trace_is_refused(entries, message):
    with pytest.raises(ValueError, match=message) as caught:
        unit_trace(np.array(entries))
    assert isinstance(caught.value, NotFinite) == (min(entries) >= 0 or np.isnan(entries).any())


def test_a_trace_that_float32_cannot_hold_is_no_obstacle():
    scaled = unit_trace({"w": np.full((40, 5), 3e38, np.float32)})
    np.testing.assert_allclose(scaled["w"], np.full((40, 5), 1 / 200), rtol=1e-6)
    assert scaled["w"].dtype == np.float32


def test_integers_are_no_fisher():
    with pytest.raises(TypeError, match=r"unit_trace: fisher\[0\] is int64\[3\], expected an array of floats"):
        unit_trace([np.arange(3)])
