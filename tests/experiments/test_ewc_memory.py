"""What a learner remembers of a task, and what it does not."""

import numpy as np
import pytest
from experiments.weights import LR, assert_close

import tinymeta as tm
from tinymeta import ewc, nets
from tinymeta.experiments.ewc_memory import Learner, penalty_of, remember, task_fisher
from tinymeta.experiments.ewc_tasks import (
    Task,
    permuted_tasks,
    split_tasks,
)
from tinymeta.experiments.ewc_training import (
    Protocol,
)
from tinymeta.lab import stream


def test_a_fisher_on_some_images_draws_them_from_the_task(digits):
    task = Task(np.arange(784), **digits)
    params = nets.init_mlp(np.random.default_rng(0), (784, 10))
    few = task_fisher(params, task, "exact", 5, np.random.default_rng(3), 128)
    rows = np.random.default_rng(3).permutation(60)[:5]
    assert_close(few, ewc.fisher_diagonal(nets.mlp, params, task.seen(task.train, rows)[0]))


def test_mas_looks_at_the_outputs_that_a_task_can_answer_with(digits):
    task = split_tasks(digits, "task")[1]
    params = nets.init_mlp(np.random.default_rng(0), (784, 5, 10))
    state = {"params": params, "penalty": None, "v": None}
    protocol = Protocol((5,), "adam", 1, 10)
    penalty = remember(Learner("MAS", LR, 3.0), state, task, protocol, np.random.default_rng(1))["penalty"]
    x = task.seen(task.train, slice(None))[0]
    own = ewc.mas_importance(nets.mlp, (params[0], nets.Layer(params[1].w[:, 2:4], params[1].b[2:4])), x)
    assert (penalty["lam"], penalty["gamma"]) == (6.0, 1.0)
    assert_close(penalty["fisher"][0], own[0], rtol=1e-4)
    assert_close(penalty["fisher"][1].w[:, 2:4], own[1].w, rtol=1e-4)
    assert not penalty["fisher"][1].w[:, [0, 1, *range(4, 10)]].any()


@pytest.mark.parametrize(("method", "gamma"), [("online EWC", None), ("EWC", 1.0)])
def test_a_decay_is_online_ewcs_alone(method, gamma):
    with pytest.raises(ValueError, match=f"gamma is {gamma} for {method}, expected a number for online EWC alone"):
        penalty_of(Learner(method, LR, 1.0, gamma=gamma), {"penalty": None})
    assert penalty_of(Learner("online EWC", LR, 1.0, gamma=0.5), {"penalty": None}).gamma == 0.5


DIVERGED = {
    "EWC": Learner("EWC", LR, 1.0),
    "EWC, empirical": Learner("EWC", LR, 1.0, "empirical"),
    "EWC of trace 1": Learner("EWC", LR, 1.0, unit_trace=True),
    "online EWC": Learner("online EWC", LR, 1.0, gamma=0.9),
    "MAS": Learner("MAS", LR, 1.0),
    "SI": Learner("SI", LR, 1.0),
}


@pytest.mark.parametrize("scale", [1e10, 1e16, 1e30])
@pytest.mark.parametrize("learner", DIVERGED.values(), ids=DIVERGED)
def test_what_diverged_is_not_remembered_though_its_weights_are_finite(digits, learner, scale):
    """The Fisher overflows, or already the logits do: a search of settings goes on without this one."""
    params = tm.trees.map(lambda w: w * np.float32(scale), nets.init_mlp(np.random.default_rng(0), (784, 8, 8, 10)))
    assert all(np.isfinite(leaf).all() for leaf in tm.trees.leaves(params))
    task = permuted_tasks(digits, stream(0, "permutations"), 1)[0]
    path = tm.trees.map(lambda w: np.full_like(w, np.finfo(w.dtype).max), params)
    si = ewc.PathIntegral.begin(params)._replace(path=path)
    state = {"params": params, "penalty": None, "si": si}
    assert remember(learner, state, task, Protocol((8, 8), "sgd", 1, 10), np.random.default_rng(0)) is state


def test_a_fisher_that_is_0_throughout_has_no_scale_to_be_remembered_at(digits):
    """The softmax of weights that diverged is 0 and 1, and so is the Fisher 0."""
    params = (nets.Layer(np.zeros((784, 10), np.float32), np.float32(1e4) * np.arange(10, dtype=np.float32)),)
    task = permuted_tasks(digits, stream(0, "permutations"), 1)[0]
    state, protocol = {"params": params, "penalty": None}, Protocol((), "sgd", 1, 10)
    assert remember(Learner("EWC", LR, 1.0, unit_trace=True), state, task, protocol, np.random.default_rng(0)) is state
    assert remember(Learner("EWC", LR, 1.0), state, task, protocol, np.random.default_rng(0))["penalty"]["lam"] == 1.0


def test_a_second_moment_that_overflowed_is_not_remembered(digits):
    params = nets.init_mlp(np.random.default_rng(0), (784, 8, 10))
    v = tm.trees.map(np.ones_like, params)
    v[0].w[3, 2] = np.inf
    task = permuted_tasks(digits, stream(0, "permutations"), 1)[0]
    before = vars(ewc.Penalty(1.0).add_task(params, ewc.uniform_fisher(params)))
    for state in ({"params": params, "penalty": None, "v": v}, {"params": params, "penalty": before, "v": v}):
        protocol = Protocol((8,), "sgd", 5, 10, squares=True)
        assert remember(Learner("EWC", LR, 1.0, "squisher"), state, task, protocol, np.random.default_rng(0)) is state


def test_what_else_is_wrong_with_a_fisher_is_not_taken_for_divergence(digits):
    params = nets.init_mlp(np.random.default_rng(0), (784, 8, 10))
    v = tm.trees.map(lambda w: -np.ones_like(w), params)
    task = permuted_tasks(digits, stream(0, "permutations"), 1)[0]
    state, protocol = {"params": params, "penalty": None, "v": v}, Protocol((8,), "sgd", 5, 10, squares=True)
    with pytest.raises(ValueError, match="negative or not finite"):
        remember(Learner("EWC", LR, 1.0, "squisher"), state, task, protocol, np.random.default_rng(0))
