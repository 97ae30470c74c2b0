"""The loop over tasks: what is in it, whether tm.vmap or a leading axis made it, and that it computes what eager execution does."""

from __future__ import annotations

import numpy as np
import pytest
from compiler.machine_code import check, numbers
from hypothesis import given, settings
from hypothesis import strategies as st

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
        code = compiled._last().code.machine
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
    code = compiled._last().code.machine
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


# ---- tm.vmap over tasks that share their weights ----

PRODUCTS = {"matmul", "correlate", "match", "spread"}


def adapted(loss, lr=0.1, steps=1):
    """The loss of one task on its query set, after gradient steps from the shared params on its support set."""

    def of_task(params, support, query):
        for _ in range(steps):
            params = tm.trees.map(lambda w, g: w - lr * g, params, tm.grad(loss)(params, support))
        return loss(params, query)

    return of_task


def outside(of_task):
    return tm.value_and_grad(lambda params, *data: ops.mean(tm.vmap(of_task, (None, 0, 0))(params, *data)))


def inside(of_task):
    return tm.vmap(tm.value_and_grad(of_task), (None, 0, 0))


def assert_in_the_loop(compiled, count):
    tasks = compiled._last().code.machine.tasks
    assert tasks.count == count
    left = [op.prim.name for op in (*tasks.before, *tasks.after) if op.prim.name in PRODUCTS]
    assert left == [], "every product is in the loop over tasks"
    assert PRODUCTS & {op.prim.name for op in tasks.ops}


def mse_of_task(params, data):
    x, y = data
    return ops.mean(ops.square(nets.mlp(params, x, ops.tanh) - y))


@pytest.mark.parametrize("derivative", [outside, inside])
@pytest.mark.parametrize(("tasks", "rows", "steps"), [(2, 6, 2), (5, 6, 1), (11, 1, 1), (9, 3, 2)])
def test_the_meta_step_by_vmap(derivative, tasks, rows, steps):
    rng = np.random.default_rng(10)
    params = nets.init_mlp(rng, (1, 9, 5, 1), dtype=np.float64)
    x, y, u, v = numbers(rng, 4, tasks, rows, 1)
    compiled = check(derivative(adapted(mse_of_task, steps=steps)), params, (x, y), (u, v), factor=1e4)
    assert_in_the_loop(compiled, tasks)


@pytest.mark.parametrize("derivative", [outside, inside])
def test_the_meta_step_of_conv_nets_by_vmap(derivative):
    rng = np.random.default_rng(11)

    def loss(params, data):
        return ops.mean(ops.softmax_cross_entropy(nets.conv4(params, data[0]), data[1]))

    params = nets.init_conv4(rng, 3, filters=4, dtype=np.float64)
    labels = rng.integers(0, 3, size=(3, 4))
    x, u = numbers(rng, 2, 3, 4, 1, 10, 10)
    compiled = check(derivative(adapted(loss)), params, (x, labels), (u, labels), factor=1e7)
    assert_in_the_loop(compiled, 3)


PICKED = {  # each numbers its rows by itself, and no row is a task
    "cross-entropy": lambda w, x, y: ops.mean(ops.softmax_cross_entropy(x @ w, y)),
    "take_along_axis": lambda w, x, y: ops.sum(ops.square(ops.take_along_axis(x @ w, y[:, None], -1))),
    "rows": lambda w, x, y: ops.sum(ops.tanh((x @ w)[np.arange(len(x)), y])),
    "a table": lambda w, x, y: ops.sum(x) * ops.sum(ops.getitem(ops.sin(w), (np.arange(3), y[:3]))),
}


@pytest.mark.parametrize("pick", PICKED)
@pytest.mark.parametrize(("tasks", "rows"), [(3, 3), (5, 5), (3, 5)])
@pytest.mark.parametrize("derivative", ["value", "meta-gradient"])
def test_as_many_tasks_as_rows_that_are_picked_from(pick, tasks, rows, derivative):
    """The numbers 0, 1, ... of the rows are none of the tasks'; weights of 0 in the first call hide nothing."""
    rng, loss = np.random.default_rng(20), PICKED[pick]
    f = {
        "value": lambda w, x, y: tm.vmap(loss, (None, 0, 0))(w, x, y),
        "meta-gradient": lambda w, x, y: outside(adapted(lambda w, data: loss(w, *data)))(w, (x, y), (x, y)),
    }[derivative]
    w, x, labels = numbers(rng, 4, 5), numbers(rng, tasks, rows, 4), rng.integers(0, 5, size=(tasks, rows))
    check(f, w, x, labels, factor=1e4)
    compiled = tm.compile(f)
    compiled(0 * w, x, labels)
    tm.trees.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), compiled(w, x, labels), f(w, x, labels)
    )


def test_an_index_of_rows_beside_one_of_more_axes():
    rng = np.random.default_rng(21)
    w, index = numbers(rng, 3, 5), rng.integers(0, 5, size=(3, 3))
    f = lambda w, index: ops.getitem(w, (np.arange(3), index))
    check(f, w, index)
    compiled = tm.compile(f)
    compiled(0 * w, index)
    np.testing.assert_array_equal(compiled(w, index), w[np.arange(3), index])


def test_a_vmap_over_examples_in_one_over_tasks():
    rng = np.random.default_rng(16)
    params = nets.init_mlp(rng, (2, 7, 1), dtype=np.float64)
    support, query = ((numbers(rng, 5, 6, 2), numbers(rng, 5, 6, 1)) for _ in range(2))

    def loss(params, data):
        return ops.mean(tm.vmap(lambda p, *own: mse_of_task(p, own), (None, 0, 0))(params, *data))

    assert_in_the_loop(check(outside(adapted(loss)), params, support, query, factor=1e4), 5)


def test_the_hessian_of_a_meta_loss_by_vmap():
    rng = np.random.default_rng(12)
    params = nets.init_mlp(rng, (2, 4, 1), dtype=np.float64)
    support, query = ((numbers(rng, 6, 5, 2), numbers(rng, 6, 5, 1)) for _ in range(2))
    total = lambda p, *data: ops.mean(tm.vmap(adapted(mse_of_task), (None, 0, 0))(p, *data))
    for mode in ("forward-over-reverse", "reverse-over-reverse"):
        product = lambda p, v, *data: tm.hvp(lambda p: total(p, *data), p, v, mode)  # noqa: B023
        assert_in_the_loop(check(product, params, params, support, query, factor=1e6), 6)


def test_gradients_of_each_example():
    rng = np.random.default_rng(13)
    w, x = numbers(rng, 4, 3), numbers(rng, 6, 4)
    for product in (lambda w, x: x @ w, lambda w, x: w.T @ x, lambda w, x: ops.tanh(x @ w) @ w.T):
        gradients = tm.vmap(tm.grad(lambda w, x: ops.sum(ops.tanh(product(w, x)))), (None, 0))  # noqa: B023
        assert_in_the_loop(check(gradients, w, x), 6)
    kernel, images = numbers(rng, 3, 2, 3, 3), numbers(rng, 6, 1, 2, 7, 7)
    gradients = tm.vmap(tm.grad(lambda w, x: ops.sum(ops.tanh(ops.conv2d(x, w)))), (None, 0))
    assert_in_the_loop(check(gradients, kernel, images), 6)


def test_products_that_gain_nothing_from_the_loop_stay_one():
    """A batch's gradient: one product for all examples is faster than one for each."""
    rng = np.random.default_rng(14)
    params = nets.init_mlp(rng, (3, 5, 2), dtype=np.float64)
    x, y = numbers(rng, 7, 3), numbers(rng, 7, 2)
    of_mean = tm.grad(
        lambda p, *data: ops.mean(tm.vmap(lambda *own: mse_of_task(own[0], own[1:]), (None, 0, 0))(p, *data))
    )
    compiled = check(of_mean, params, x, y)
    tasks = compiled._last().code.machine.tasks
    assert not PRODUCTS & {op.prim.name for op in tasks.ops}
    shapes = [op.out.shape for op in tasks.after if op.prim.name == "matmul"]
    assert shapes == [(7, 5), (7, 2), (7, 5), (5, 2), (3, 5)]


def test_each_tasks_places_in_an_array_of_all():
    rng = np.random.default_rng(15)
    x, at = numbers(rng, 3, 5), rng.integers(-5, 5, size=(4, 3, 2))
    compiled = check(tm.vmap(lambda x, i: ops.take_along_axis(x, i, 1) ** 2, (None, 0)), x, at)
    assert "getitem" in {op.prim.name for op in compiled._last().code.machine.tasks.ops}
    wrong = at.copy()
    wrong[2, 1, 0] = 5
    with pytest.raises(IndexError, match="an index is out of range"):
        compiled(x, wrong)


# ---- products taken apart, whatever is taken for the tasks ----

N, K, M = 4, 3, 4  # the tasks' number is one of the weights' lengths too


def rows(w, x):
    return ops.tanh(x @ w)


def columns(w, x):
    return ops.tanh(ops.swapaxes(w, 0, 1) @ ops.swapaxes(x, -1, -2))


def both(w, x):
    return ops.tanh(x @ w) @ ops.swapaxes(w, 0, 1) - x


def test_several_sums_over_the_tasks_of_the_same_values():
    def statistics(x):
        h = ops.tanh(x)
        return h, ops.sum(h, 0), ops.mean(h, 0), np.var(h, axis=0), ops.sum(h)

    check(statistics, *numbers(np.random.default_rng(8), 1, 5, 3, 4))


def test_a_number_of_each_task_that_is_flipped():
    check(tm.vmap(lambda x: ops.flip(ops.sum(x)) + x), *numbers(np.random.default_rng(9), 1, 3, 2))


def images(w, x):
    kernel = ops.reshape(ops.concatenate([w, w, w], axis=1), (K, M, 1, 3))
    return ops.conv2d(ops.reshape(x, (*x.shape[:-1], 1, 1, K)) * np.ones((M, 1, 1)), kernel, padding=(0, 1))


@pytest.mark.parametrize("form", [rows, columns, both, images])
@pytest.mark.parametrize("order", [0, 1, 2])
@given(lead=st.sampled_from([(), (2,), (5,)]), place=st.sampled_from(["vmap", "axis"]), seed=st.integers(0, 99))
@settings(max_examples=8)
def test_a_program_taken_apart_computes_the_same(form, order, lead, place, seed):
    from tinymeta.compiler import apart, capture, cleanup

    if form is images:
        lead = lead or (1,)
    elif place == "axis":
        lead = lead or (2,)
    rng = np.random.default_rng(seed)
    w, x = numbers(rng, K, M), numbers(rng, N, *lead, *(() if form is images else (1,)), K)
    each = (lambda w, x: form(w, x)) if place == "axis" else tm.vmap(form, (None, 0))
    total = lambda w, x: ops.sum(ops.square(each(w, x)))
    f = [each, tm.grad(total, (0, 1)), lambda w, x: tm.hvp(lambda w: total(w, x), w, w, "reverse-over-reverse")][order]
    program = cleanup.clean(capture.capture(f, (w, x), {})[0])
    expected = run(program, w, x)
    for count in {*w.shape, *x.shape} - {1}:
        other, products = apart.apart(program, count)
        assert all(v.shape[0] == count for v in products)
        for found, value in zip(run(other, w, x), expected, strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-12, atol=1e-12)


def run(program, *arrays):
    """The program's results, op by op."""
    known = dict(zip(program.inputs, arrays, strict=True)) | {v: v.constant for v in program.constants}
    for op in program.ops:
        given = [known.get(x, x) for x in op.inputs]
        known[op.out] = op.prim.forward(*given, **op.params)
        assert known[op.out].shape == op.out.shape
        assert known[op.out].dtype == op.out.dtype
    return [known[v] for v in program.results]
