"""The loop over tasks: what is in it, whether tm.vmap or a leading axis made it, and that it computes what eager execution does."""

from __future__ import annotations

import numpy as np
import pytest
from compiler.machine_code import check, numbers

import tinymeta as tm
from tinymeta import maml, nets, ops, optim

pytest.importorskip("llvmlite", reason="machine code needs llvmlite, which comes with numba")
pytestmark = pytest.mark.usefixtures("machine_code")


def mse(params, data):
    x, y = data
    return ops.mean(ops.square(nets.mlp(params, x, ops.tanh) - y), axis=(-2, -1))


def meta_step(loss, steps):
    adam = optim.adam(1e-2)

    def step(params, state, support, query):
        value, gradient = tm.value_and_grad(lambda p: maml.meta_loss(loss, p, support, query, 0.1, steps))(params)
        updates, state = adam.update(gradient, state)
        return optim.apply_updates(params, updates), state, value, gradient

    return step, lambda params: adam.init(params)._replace(step=np.asarray(0))


@pytest.mark.parametrize("tasks", [1, 2, 3, 8, 11, 40])
def test_the_meta_step_of_every_number_of_tasks(tasks):
    rng = np.random.default_rng(5)
    step, init = meta_step(mse, 2)
    params = nets.init_mlp(rng, (1, 9, 5, 1), dtype=np.float64)
    x, y, u, v = numbers(rng, 4, tasks, 6, 1)
    compiled = check(step, params, init(params), (x, y), (u, v), factor=1e4)
    if tasks > 1:
        code = compiled._last().code
        assert code.tasks.count == tasks
        assert sum(op.prim.name == "matmul" for op in code.tasks.after) == 0, "every product is in the loop over tasks"


def test_conv_nets_with_batch_norm_are_in_the_loop_over_tasks():
    rng = np.random.default_rng(6)

    def loss(params, data):
        return ops.mean(ops.softmax_cross_entropy(nets.conv4(params, data[0]), data[1]), axis=-1)

    step, init = meta_step(loss, 1)
    params = nets.init_conv4(rng, 3, filters=4, dtype=np.float64)
    labels = rng.integers(0, 3, size=(3, 4))
    x, u = numbers(rng, 2, 3, 4, 1, 10, 10)
    compiled = check(step, params, init(params), (x, labels), (u, labels), factor=1e7)
    code = compiled._last().code
    assert code.tasks.count == 3
    assert not {"correlate", "match", "spread"} & {op.prim.name for op in code.tasks.after}


def test_sums_over_tasks_do_not_depend_on_the_number_of_threads(monkeypatch):
    from tinymeta.compiler import machine

    rng = np.random.default_rng(7)
    step, init = meta_step(mse, 1)
    params = nets.init_mlp(rng, (1, 20, 20, 1))
    data = tuple(numbers(rng, 4, 30, 10, 1, dtype=np.float32))
    results = []
    for least in (0, 10**18):
        monkeypatch.setattr(machine, "THREADS_FROM", least)
        results += [tm.compile(step)(params, init(params), data[:2], data[2:]) for _ in range(3)]
    for result in results[1:]:
        tm.trees.map(np.testing.assert_array_equal, result, results[0])


def test_vmapped_functions_and_values_that_leave_the_loop():
    rng = np.random.default_rng(8)
    w, x = numbers(rng, 4, 3), numbers(rng, 6, 5, 4)
    check(tm.vmap(lambda x: ops.sum(ops.tanh(x) * ops.softmax(x), axis=0)), x)
    check(lambda x: ops.sum(ops.sin(x)[:, 0] * 2, axis=0), x)
    check(lambda x: ops.sin(x) - ops.mean(ops.sin(x), axis=0), x)
    check(lambda w, x: tm.vmap(tm.grad(lambda w, x: ops.sum(ops.tanh(x @ w))), (None, 0))(w, x), w, x)
