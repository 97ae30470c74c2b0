"""l2l.Sample: an unbiased estimate of dL/dφ from some of the coordinates."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from l2l import settings

from tinymeta import l2l, optim, trees


class Chosen:
    """In place of a generator: draws what it was told, one tuple after the other."""

    def __init__(self, *draws):
        self.draws = iter(draws)

    def choice(self, size, most, replace):
        assert not replace
        return np.array(next(self.draws))


def flat(weights):
    return np.concatenate([np.ravel(x) for x in trees.leaves(weights)])


def gradient(sample, seed=0, steps=3):
    """Of an unroll on quadratics whose θ are one parameter of 6 coordinates."""
    rng = np.random.default_rng(seed)
    optimizer, problem = settings.optimizer(rng), settings.quadratics(rng)
    carry = settings.start(optimizer, problem)
    return flat(l2l.meta_gradient(optimizer, problem, carry, steps, sample)[1])


def test_the_mean_over_all_samples_is_the_gradient():
    draws = list(itertools.combinations(range(6), 2))
    found = np.mean([gradient(l2l.Sample(Chosen(draw), 2)) for draw in draws], axis=0)
    np.testing.assert_allclose(found, gradient(None), rtol=1e-9, atol=1e-12)
    assert not np.allclose(gradient(l2l.Sample(Chosen(draws[0]), 2)), gradient(None), rtol=0.1)


@pytest.mark.parametrize("most", [6, 100])
def test_a_sample_of_all_coordinates_gives_the_gradient(most):
    np.testing.assert_allclose(
        gradient(l2l.Sample(np.random.default_rng(0), most)), gradient(None), rtol=1e-10, atol=1e-13
    )


@given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.integers(1, 10), st.integers(0, 2**32 - 1))
def test_each_parameter_is_sampled_by_itself(sizes, most, seed):
    chosen, factors = l2l.Sample(np.random.default_rng(seed), most).draw(sizes)
    ends = np.cumsum([0, *sizes])
    for start, end, size in zip(ends[:-1], ends[1:], sizes, strict=True):
        ours = (start <= chosen) & (chosen < end)
        assert len(set(chosen[ours])) == ours.sum() == min(size, most)
        np.testing.assert_allclose(factors[ours].sum(), size)
    assert np.all(np.diff(chosen) > 0)


def test_a_sample_of_groups_is_one_of_each_parameter():
    rng = np.random.default_rng(0)
    label = lambda path: path.strip("[]'")
    both = l2l.Grouped({name: settings.optimizer(rng) for name in ("v", "w")}, label)
    grads = [{"v": rng.normal(size=(2, 3)), "w": rng.normal(size=9)} for _ in range(3)]
    state = both.init(grads[0])
    found = both.weights_gradient(state, grads, grads, l2l.Sample(Chosen([0, 1, 2, 3, 4, 7]), 6))
    whole = both.weights_gradient(state, grads, grads)
    np.testing.assert_allclose(flat(found["v"]), flat(whole["v"]), rtol=1e-10)
    alone = both.optimizers["w"]
    part = alone.weights_gradient(
        alone.init(grads[0]["w"]),
        [g["w"] for g in grads],
        [np.where(np.isin(range(9), [0, 1, 2, 3, 4, 7]), 1.5 * g["w"], 0) for g in grads],
    )
    np.testing.assert_allclose(flat(found["w"]), flat(part), rtol=1e-10)


def test_refusals():
    with pytest.raises(ValueError, match="most is 0, expected 1 or more"):
        gradient(l2l.Sample(np.random.default_rng(0), 0))
    rng = np.random.default_rng(0)
    optimizer, problem, adam = settings.optimizer(rng), settings.quadratics(rng), optim.adam(0.01)
    with pytest.raises(ValueError, match="no sum over coordinates; leave out `sample`"):
        l2l.meta_step(
            optimizer, problem, None, adam, adam.init(optimizer.weights), 2,
            second_derivatives=True, sample=l2l.Sample(rng, 3),
        )  # fmt: skip
