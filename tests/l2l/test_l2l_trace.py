"""l2l.trace: what is recorded of an optimizer is what it does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from l2l import settings

from tinymeta import l2l, optim
from tinymeta.l2l.trace import activations, follow, proposals

STEPS = 6
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def followed(rng, p=10.0, optimizer=None):
    optimizer = optimizer or settings.optimizer(rng, p=p)
    problem = settings.quadratics(rng, problems=2, d=3)
    return optimizer, problem, *follow(optimizer, problem, STEPS)


@given(seeds, st.sampled_from([None, 5.0, 10.0]))
def test_the_gates_give_the_updates_of_the_optimizer_itself(seed, p):
    optimizer, _, gradients, updates = followed(np.random.default_rng(seed), p)
    recomputed, layers = activations(optimizer, gradients)
    np.testing.assert_allclose(recomputed, updates, rtol=1e-7, atol=1e-12)
    assert [cells.c.shape for cells in layers] == [(STEPS, 6, 4), (STEPS, 6, 3)]


def test_some_coordinates_can_be_looked_at_alone(rng):
    optimizer, _, gradients, _ = followed(rng)
    all_updates, all_layers = activations(optimizer, gradients)
    updates, layers = activations(optimizer, gradients[:, [4, 1]])
    np.testing.assert_allclose(updates, all_updates[:, [4, 1]], rtol=1e-12)
    for cells, all_cells in zip(layers, all_layers, strict=True):
        for array, whole in zip(cells, all_cells, strict=True):
            np.testing.assert_allclose(array, whole[:, [4, 1]], rtol=1e-12)


def test_cells_obey_the_equations_of_an_lstm(rng):
    optimizer, _, gradients, _ = followed(rng)
    for cells in activations(optimizer, gradients)[1]:
        for gate in (cells.i, cells.f, cells.o):
            assert ((gate > 0) & (gate < 1)).all()
        before = np.concatenate([np.zeros_like(cells.c[:1]), cells.c[:-1]])
        np.testing.assert_allclose(cells.c, cells.f * before + cells.i * cells.g, rtol=1e-12)
        np.testing.assert_allclose(cells.h, cells.o * np.tanh(cells.c), rtol=1e-12)


def test_a_followed_trajectory_is_that_of_the_runner(rng):
    _, problem, gradients, updates = followed(rng, optimizer=optim.sgd(0.01))
    np.testing.assert_allclose(updates, -0.01 * gradients, rtol=1e-12)
    theta = problem.theta.reshape(-1) + np.cumsum(updates, axis=0)
    losses = [problem.loss(x.reshape(problem.theta.shape), 0) for x in theta]
    np.testing.assert_allclose(l2l.optimize(optim.sgd(0.01), problem, STEPS)[1:], losses, rtol=1e-12)


@pytest.mark.parametrize("name", ["ADAM", "SGD", "LSTM"])
def test_proposals_at_the_gradient_that_came_are_the_updates_that_were_made(rng, name):
    optimizer = settings.optimizer(rng) if name == "LSTM" else l2l.BASELINES[name](0.1)
    _, _, gradients, updates = followed(rng, optimizer=optimizer)
    for t in (0, 3, STEPS - 1):
        values = np.stack([gradients[t], -gradients[t], np.zeros(6)], axis=1)
        found = proposals(optimizer, gradients[:t], values)
        assert found.shape == (6, 3)
        np.testing.assert_allclose(found[:, 0], updates[t], rtol=1e-7, atol=1e-12)
        assert name == "SGD" or t == 0 or not np.allclose(found[:, 1], -found[:, 0])
