"""Steps in place, against those of the kernels and of tm.optim."""

from functools import partial

import numpy as np
import pytest
from experiments.weights import LR, a_tree, assert_close, copied

import tinymeta as tm
from tinymeta import ewc, optim
from tinymeta.engine.backend import use
from tinymeta.experiments import ewc_steps
from tinymeta.kernels import penalty as kernels


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("lam", [0.0, 3.0])
def test_steps_in_place_are_those_of_the_kernels(backend, lam):
    rng = np.random.default_rng(0)
    theta, grad, anchor, m = (a_tree(rng, 50) for _ in range(4))
    fisher, v = (tm.trees.map(np.square, a_tree(rng, 50)) for _ in range(2))
    penalty = ewc.Penalty(lam, fisher=fisher, anchor=anchor)
    descended = tm.trees.map(partial(kernels.sgd_step, lam=lam, lr=LR), theta, grad, anchor, fisher)
    expected = [
        kernels.adam_step(*leaves[:4], lam, LR, *leaves[4:], t=4)
        for leaves in zip(*map(tm.trees.leaves, (theta, grad, anchor, fisher, m, v)), strict=True)
    ]
    with use(backend):
        plain = copied(theta)
        ewc_steps.sgd_(plain, grad, penalty, LR)
        ewc_steps.adam_(theta, grad, penalty, LR, m, v, 4)
    tm.trees.map(np.testing.assert_array_equal, plain, descended)
    for number, moved in enumerate((theta, m, v)):
        tm.trees.map(np.testing.assert_array_equal, moved, tm.trees.unflatten(moved, [one[number] for one in expected]))


def test_a_penalty_without_tasks_is_plain_descent():
    rng = np.random.default_rng(0)
    theta, grad = a_tree(rng, 5), a_tree(rng, 5)
    expected = tm.trees.map(lambda w, g: w - np.float32(LR) * g, theta, grad)
    ewc_steps.sgd_(theta, grad, ewc.Penalty(3.0), LR)
    tm.trees.map(np.testing.assert_array_equal, theta, expected)


def test_squares_are_the_second_moments_of_adam():
    rng = np.random.default_rng(0)
    params, v = a_tree(rng, 4), a_tree(rng, 4)
    v = tm.trees.map(np.zeros_like, v)
    adam = optim.adam(0.1)
    state = adam.init(params)
    for _ in range(3):
        grads = a_tree(rng, 4)
        _, state = adam.update(grads, state, params)
        ewc_steps.squares_(grads, v)
    assert_close(v, state.v)
