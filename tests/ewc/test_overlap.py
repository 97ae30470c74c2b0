"""tm.ewc.overlap: the Fréchet overlap of two diagonals (1612.00796, section "Fisher Overlap")."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinymeta.engine import trees
from tinymeta.ewc import overlap
from tinymeta.nets import Layer

seeds = st.integers(0, 2**32 - 1)


def fisher(rng, dtype=np.float64):
    """Two layers, some entries 0."""
    draw = lambda *shape: ((rng.random(shape) > 0.3) * rng.exponential(size=shape) ** 4 + 1e-9).astype(dtype)
    return Layer(draw(3, 4), draw(4)), Layer(draw(4, 2), draw(2))


def flat(layer):
    return np.concatenate([np.ravel(F) for F in trees.leaves(layer)])


@given(seed=seeds, dtype=st.sampled_from([np.float32, np.float64]))
def test_it_is_one_minus_the_squared_distance_of_the_roots_of_unit_trace(seed, dtype):
    rng = np.random.default_rng(seed)
    one, two = fisher(rng, dtype), fisher(rng, dtype)
    found = overlap(one, two)
    for k in range(2):
        a, b = (np.float64(flat(f[k])) / flat(f[k]).sum(dtype=np.float64) for f in (one, two))
        assert found[k] == pytest.approx(1 - 0.5 * np.sum((np.sqrt(a) - np.sqrt(b)) ** 2), abs=1e-12)


@given(seed=seeds, scale=st.floats(1e-6, 1e6), unit_trace=st.sampled_from(["layer", "network"]))
def test_it_is_symmetric_between_0_and_1_and_scale_free(seed, scale, unit_trace):
    rng = np.random.default_rng(seed)
    one, two = fisher(rng), fisher(rng)
    found = overlap(one, two, unit_trace)
    assert found == overlap(two, one, unit_trace)
    assert all(0 <= value < 1 for value in found)
    assert overlap(trees.map(lambda F: scale * F, one), two, unit_trace) == pytest.approx(found)


@given(seed=seeds, scale=st.floats(1e-6, 1e6))
def test_it_is_1_for_proportional_diagonals(seed, scale):
    one = fisher(np.random.default_rng(seed))
    assert overlap(one, trees.map(lambda F: scale * F, one)) == pytest.approx((1.0, 1.0))
    assert max(overlap(one, one)) <= 1


@given(seed=seeds)
def test_it_is_less_than_1_where_they_are_not_proportional(seed):
    one = np.random.default_rng(seed).uniform(0.5, 1.5, size=8)
    assert overlap(one, one * np.tile([1.0, 9.0], 4)) < 0.98


def test_it_is_0_for_weights_that_no_task_shares():
    assert overlap(np.array([1.0, 2.0, 0.0]), np.array([0.0, 0.0, 3.0])) == 0


def test_small_entries_do_not_underflow():
    tiny = np.array([1e-300, 2e-300])
    assert overlap(tiny, tiny) == pytest.approx(1.0)


@given(seed=seeds)
def test_over_the_network_the_layers_add_up_to_that_of_all_weights(seed):
    rng = np.random.default_rng(seed)
    one, two = fisher(rng), fisher(rng)
    whole = overlap(flat(one), flat(two))
    assert sum(overlap(one, two, "network")) == pytest.approx(whole)


def test_the_result_is_a_float_per_layer_in_the_container_of_the_layers():
    one = fisher(np.random.default_rng(0))
    assert overlap({"in": one[0], "out": one[1]}, {"in": one[0], "out": one[1]}) == pytest.approx(
        {"in": 1.0, "out": 1.0}
    )
    assert overlap(list(one), list(one)) == pytest.approx((1.0, 1.0))
    assert type(overlap(one[0].w, one[0].w)) is float


def test_the_heads_of_other_tasks_do_not_enter():
    rng = np.random.default_rng(0)
    trunk, other, head = rng.random(5), rng.random(5), rng.random(3)
    one = {"trunk": trunk, "head a": head, "head b": np.zeros(3)}
    two = {"trunk": other, "head a": np.zeros(3), "head b": head}
    found = overlap(one, two)
    assert found["trunk"] == pytest.approx(overlap(trunk, other))
    assert np.isnan(found["head a"])
    assert np.isnan(found["head b"])
    shared = overlap(one, two, "network")
    assert shared["head a"] == shared["head b"] == 0
    traces = (trunk.sum() + head.sum()) * (other.sum() + head.sum())
    assert sum(shared.values()) == pytest.approx(np.sqrt(trunk * other).sum() / np.sqrt(traces))


@pytest.mark.parametrize(
    ("two", "options", "message"),
    [
        ([np.ones(2)], {"unit_trace": "both"}, "unit_trace is 'both', expected 'layer' or 'network'"),
        ([np.ones(3)], {}, r"fisher_2\[0\] is float64\[3\], expected float64\[2\]"),
        ([np.ones(2), np.ones(2)], {}, "trees differ at the root"),
        ([np.zeros(2)], {}, "a Fisher is 0 throughout"),
        ([np.zeros(2)], {"unit_trace": "network"}, "a Fisher is 0 throughout"),
        ([np.array([1.0, -1.0])], {}, r"fisher_2\[0\] has entries that are negative or not finite"),
        ([np.array([1.0, np.nan])], {}, r"fisher_2\[0\] has entries that are negative or not finite"),
    ],
)
def test_what_has_no_overlap_is_refused(two, options, message):
    with pytest.raises(ValueError, match=message):
        overlap([np.ones(2)], two, **options)
