import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinymeta.data import (
    centre_permutation,
    minibatch_indices,
    permutations,
    permuted,
    quadratics,
    sine_points,
    sine_tasks,
)

seeds = st.integers(0, 2**32).map(np.random.default_rng)


@given(rng=seeds, count=st.integers(0, 5), points=st.integers(0, 7))
def test_sine_points_lie_on_their_curves(rng, count, points):
    tasks = sine_tasks(rng, count)
    x, y = sine_points(tasks, rng, points)
    assert x.shape == y.shape == (count, points, 1)
    assert x.dtype == y.dtype == np.float32
    assert (abs(x) <= 5).all()
    for amplitude, phase, xs, ys in zip(*tasks, x, y, strict=True):
        np.testing.assert_allclose(ys, amplitude * np.sin(xs.astype(np.float64) - phase), rtol=1e-6)


def test_sine_tasks_are_uniform_in_their_ranges():
    rng = np.random.default_rng(0)
    tasks = sine_tasks(rng, 20_000)
    x, _ = sine_points(tasks, rng, 1)
    for values, low, high in ((tasks.amplitude, 0.1, 5.0), (tasks.phase, 0.0, np.pi), (x, -5.0, 5.0)):
        deciles = np.quantile((values - low) / (high - low), np.linspace(0, 1, 11))
        np.testing.assert_allclose(deciles, np.linspace(0, 1, 11), atol=0.02)


def test_quadratics_have_the_moments_of_their_kind():
    for kind, mean, variance in (("gaussian", 0, 1), ("uniform", 1 / 2, 1 / 12)):
        problems = quadratics(np.random.default_rng(0), 4000, kind=kind)
        assert (problems.W.shape, problems.y.shape) == ((4000, 10, 10), (4000, 10))
        for array in problems:
            assert array.dtype == np.float32
            assert abs(array.mean() - mean) < 0.02
            assert abs(array.var() - variance) < 0.02
    assert quadratics(np.random.default_rng(0), 2, dim=3).W.shape == (2, 3, 3)


def test_unknown_kind_of_quadratics_is_refused():
    with pytest.raises(ValueError, match=r"kind is 'normal', expected one of \['gaussian', 'uniform'\]"):
        quadratics(np.random.default_rng(0), 1, kind="normal")


@given(rng=seeds, tasks=st.integers(0, 6), pixels=st.integers(3, 9), first_identity=st.booleans())
def test_permutations_are_different_permutations(rng, tasks, pixels, first_identity):
    made = permutations(rng, tasks, pixels, first_identity)
    assert (made.shape, made.dtype) == ((tasks, pixels), np.int64)
    np.testing.assert_array_equal(np.sort(made, axis=1), np.tile(np.arange(pixels), (tasks, 1)))
    assert len(set(map(bytes, made))) == tasks
    if first_identity and tasks:
        np.testing.assert_array_equal(made[0], np.arange(pixels))


def test_as_many_permutations_as_there_are():
    assert set(map(tuple, permutations(np.random.default_rng(0), 6, 3))) == set(itertools.permutations(range(3)))
    with pytest.raises(ValueError, match="7 different permutations of 3 pixels"):
        permutations(np.random.default_rng(0), 7, 3)


@given(rng=seeds, shape=st.sampled_from([(6,), (2, 3)]), count=st.integers(0, 4))
def test_permuted_images_are_the_images_in_another_order(rng, shape, count):
    x = rng.integers(256, size=(count, *shape)).astype(np.uint8)
    permutation = rng.permutation(6)
    made = permuted(x, permutation)
    assert (made.shape, made.dtype) == ((count, 6), np.float32)
    back = np.round(made * 255).astype(np.uint8)[:, np.argsort(permutation)]
    np.testing.assert_array_equal(back.reshape(x.shape), x)
    assert ((made >= 0) & (made <= 1)).all()


@pytest.mark.parametrize("x", [np.zeros((2, 6), np.float32), np.zeros((2, 7), np.uint8)])
def test_permuted_refuses_other_types_and_sizes(x):
    with pytest.raises(ValueError, match=rf"x is {x.dtype}\[2, {x.shape[1]}\], expected uint8 images of the 6 pixels"):
        permuted(x, np.arange(6))


@given(rng=seeds, side=st.integers(1, 9), data=st.data())
def test_centre_permutation_leaves_the_rim(rng, side, data):
    square = data.draw(st.integers(0, side))
    grid = centre_permutation(rng, square, side).reshape(side, side)
    np.testing.assert_array_equal(np.sort(grid, axis=None), np.arange(side * side))
    low = (side - square) // 2
    rim = np.ones((side, side), bool)
    rim[low : low + square, low : low + square] = False
    np.testing.assert_array_equal(grid[rim], np.flatnonzero(rim))


@pytest.mark.parametrize("square", [8, 26])
def test_centre_permutation_moves_the_square(square):
    moved = centre_permutation(np.random.default_rng(0), square) != np.arange(784)
    assert square**2 - 6 <= moved.sum() <= square**2


@pytest.mark.parametrize("square", [-1, 29])
def test_centre_permutation_refuses_a_square_that_does_not_fit(square):
    with pytest.raises(ValueError, match=f"square is {square}, expected 0 to 28"):
        centre_permutation(np.random.default_rng(0), square)


@given(rng=seeds, n=st.integers(1, 12), batch_size=st.integers(1, 30), steps=st.integers(0, 9))
def test_minibatches_are_cut_from_shuffled_epochs(rng, n, batch_size, steps):
    batches = list(minibatch_indices(rng, n, batch_size, steps))
    assert [batch.shape for batch in batches] == [(batch_size,)] * steps
    seen = np.concatenate([np.empty(0, np.int64), *batches])
    assert seen.dtype == np.int64
    epochs = seen[: len(seen) // n * n].reshape(-1, n)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(n), (len(epochs), 1)))
    assert len(set(seen[len(epochs) * n :])) == len(seen) - len(epochs) * n


def test_minibatches_differ_from_epoch_to_epoch_and_resume_by_skipping():
    whole = list(minibatch_indices(np.random.default_rng(0), 50, 20, 10))
    assert not np.array_equal(np.concatenate(whole)[:50], np.concatenate(whole)[50:100])
    resumed = itertools.islice(minibatch_indices(np.random.default_rng(0), 50, 20, 10), 7, None)
    np.testing.assert_array_equal(list(resumed), whole[7:])


@pytest.mark.parametrize(("n", "batch_size"), [(0, 1), (1, 0)])
def test_empty_minibatches_are_refused(n, batch_size):
    with pytest.raises(ValueError, match=f"n is {n} and batch_size {batch_size}, expected 1 or more"):
        next(minibatch_indices(np.random.default_rng(0), n, batch_size, 1))


def test_same_seed_gives_the_same_draws():
    def draws(seed):
        rng = np.random.default_rng(seed)
        return *sine_tasks(rng, 3), *quadratics(rng, 3), permutations(rng, 3), centre_permutation(rng, 8)

    for one, two, other in zip(draws(0), draws(0), draws(1), strict=True):
        np.testing.assert_array_equal(one, two)
        assert not np.array_equal(one, other)


def test_import_is_light():
    code = "import sys, tinymeta.data; print(sorted({'pooch', 'requests', 'PIL', 'hypothesis'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
