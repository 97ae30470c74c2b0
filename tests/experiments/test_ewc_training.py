"""What the EWC experiments share, against loops written otherwise: steps, tasks, memories, and one course of each method."""

from functools import partial

import numpy as np
import pytest
from experiments.weights import LR, assert_close, copied

import tinymeta as tm
from tinymeta import ewc, nets, optim
from tinymeta.experiments import ewc_tasks, ewc_training
from tinymeta.experiments.ewc_memory import Learner, task_fisher
from tinymeta.experiments.ewc_tasks import (
    accuracies,
    load_digits,
    permuted_tasks,
    split_tasks,
    take_batch,
)
from tinymeta.experiments.ewc_training import (
    Protocol,
    course,
    cross_entropy,
    drop,
    dropout,
    learn,
    learn_until,
    uniform_mlp,
)
from tinymeta.lab import Run, UserError, stream


def test_digits_are_split_without_overlap_and_padded_with_paper():
    parts = load_digits("subset", stream(1, "split"), 1000, padding=2)
    assert {name: one.x.shape for name, one in parts.items()} == {
        "train": (9000, 32, 32), "validation": (1000, 32, 32), "test": (2000, 32, 32)
    }  # fmt: skip
    assert not parts["train"].x[:, :2].any()
    assert not parts["test"].x[:, :, -2:].any()
    whole = np.concatenate([parts["train"].x, parts["validation"].x])
    original = tm.data.mnist_subset("train").x
    key = lambda images: sorted(image.tobytes() for image in images)
    assert key(whole[:, 2:-2, 2:-2]) == key(original)
    with pytest.raises(UserError, match="validation = 10000 leaves nothing to train on: there are 10000 images"):
        load_digits("subset", stream(1, "split"), 10_000)


def test_permuted_tasks_show_the_same_digits_with_other_pixels(digits):
    one, other = permuted_tasks(digits, stream(0, "permutations"), 2)
    x, y = one.seen(one.train, slice(3))
    z, same = other.seen(other.train, slice(3))
    assert (y == same).all()
    assert not np.array_equal(x, z)
    np.testing.assert_array_equal(np.sort(x), np.sort(z))
    np.testing.assert_array_equal(
        x[:, np.argsort(one.permutation)], digits["train"].x[:3].reshape(3, 784) / np.float32(255)
    )


@pytest.mark.parametrize(
    ("scenario", "open_classes"), [("task", [4, 5]), ("domain", [0, 1]), ("class", list(range(10)))]
)
def test_split_tasks_have_two_digits_each_and_the_answers_of_their_scenario(digits, scenario, open_classes):
    tasks = split_tasks(digits, scenario)
    assert len(tasks) == 5
    assert sum(len(task.train.y) for task in tasks) == 60
    assert set(tasks[2].train.y) == ({0, 1} if scenario == "domain" else {4, 5})
    assert np.flatnonzero(tasks[2].mask == 0).tolist() == open_classes
    params = nets.init_mlp(np.random.default_rng(0), (784, 10))
    x, _ = tasks[2].seen(tasks[2].test, slice(None))
    assert set(np.argmax(ewc_tasks.logits(params, x, tasks[2].mask), axis=1)) <= set(open_classes)


def test_joint_batches_have_examples_of_every_task_with_their_labels_and_masks(digits):
    tasks = split_tasks(digits, "task")
    x, y, masks = take_batch(tasks, np.random.default_rng(0), 64)
    assert x.shape == (64, 784)
    assert set(y) > {0, 1, 2, 3}
    for label, mask in zip(y, masks, strict=True):
        assert np.flatnonzero(mask == 0).tolist() == [label // 2 * 2, label // 2 * 2 + 1]
    x, _, masks = take_batch(permuted_tasks(digits, stream(0, "permutations"), 2), np.random.default_rng(0), 8)
    assert masks is None


def test_accuracy_counts_every_image_once(digits, monkeypatch):
    params = nets.init_mlp(np.random.default_rng(0), (784, 10))
    tasks = permuted_tasks(digits, stream(0, "permutations"), 2)
    x, y = tasks[1].seen(tasks[1].test, slice(None))
    expected = 100 * np.mean(np.argmax(nets.mlp(params, x), axis=1) == y)
    monkeypatch.setattr(ewc_tasks, "CHUNK", 7)
    assert accuracies(params, tasks)[1] == pytest.approx(expected)


# ---- dropout ----


def test_dropout_that_drops_nothing_is_the_network_and_drops_at_the_papers_rates():
    rng = np.random.default_rng(0)
    params = uniform_mlp(rng, (500, 400, 400, 10))
    x = rng.random((200, 500), np.float32)
    ones = [np.ones((200, len(layer.w)), np.float32) for layer in params]
    np.testing.assert_allclose(dropout(params, x, ones), nets.mlp(params, x), rtol=1e-5)
    kept = drop(rng, params, 200)
    assert [np.mean(one == 0) for one in kept] == pytest.approx([0.2, 0.5, 0.5], abs=0.01)
    assert [one.mean() for one in kept] == pytest.approx([1, 1, 1], abs=0.02)
    tm.check.gradients(
        lambda p: cross_entropy(p, x[:4].astype(float), np.arange(4), kept=[one[:4].astype(float) for one in kept[:2]]),
        tm.trees.map(np.float64, uniform_mlp(rng, (500, 400, 10))),
        order=2,
    )


def test_uniform_weights_lie_within_one_over_the_root_of_fan_in():
    (layer,) = uniform_mlp(np.random.default_rng(0), (100, 50))
    assert layer.w.dtype == layer.b.dtype == np.float32
    assert 0.09 < max(np.abs(layer.w).max(), np.abs(layer.b).max()) <= 0.1


# ---- a course by each method, against a loop of its own ----


def by_hand(digits, learner, protocol):
    """The weights after two tasks of one epoch, by tm.grad, tm.optim and tinymeta.ewc alone."""
    draw = partial(stream, 0, "test")
    tasks = permuted_tasks(digits, stream(0, "permutations"), 2)
    params = nets.init_mlp(draw("weights"), (784, *protocol.hidden, 10))
    penalty, si = ewc.Penalty(0.0), ewc.PathIntegral.begin(params)
    adam = optim.adam(LR)
    state = adam.init(params)
    for number, task in enumerate(tasks):
        order = draw("order", number, 0).permutation(len(task.train.y))
        for rows in order[: protocol.steps * protocol.batch_size].reshape(protocol.steps, -1):
            x, y = task.seen(task.train, rows)
            grads = tm.grad(lambda p, x=x, y=y: np.mean(tm.ops.softmax_cross_entropy(nets.mlp(p, x), y)))(params)
            total = tm.trees.map(np.add, grads, penalty.grad(params))
            if protocol.optimizer == "adam":
                updates, state = adam.update(total, state, params)
            else:
                updates = tm.trees.map(lambda g: -LR * g, total)
            after = optim.apply_updates(params, updates)
            si, params = si.step(grads, params, after), after
        if learner.method == "SI":
            si = si.end_task(params)
            penalty = si.penalty(learner.lam)
        elif number == 0 and learner.method != "none":
            samples = draw("fisher", 0).permutation(len(task.train.y))[: learner.samples or None]
            x, y = task.seen(task.train, samples)
            fisher = ewc.fisher_diagonal(nets.mlp, params, x, y, learner.fisher)
            fisher = ewc.unit_trace(fisher) if learner.unit_trace else fisher
            importance = {"L2": ewc.uniform_fisher(params), "MAS": ewc.mas_importance(nets.mlp, params, x)}
            lam = learner.lam * (2 if learner.method == "MAS" else 1)
            penalty = ewc.Penalty(lam).add_task(params, importance.get(learner.method, fisher))
    return accuracies(params, tasks), penalty


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    "learner",
    [
        Learner("none", LR), Learner("L2", LR, 0.1), Learner("EWC", LR, 5.0), Learner("EWC", LR, 5.0, "empirical", 20),
        Learner("online EWC", LR, 5.0, gamma=0.9), Learner("online EWC", LR, 50.0, unit_trace=True, gamma=1.0),
        Learner("SI", LR, 0.5),
        Learner("MAS", LR, 0.1),
    ],
    ids=lambda learner: learner.name,
)  # fmt: skip
def test_a_course_is_what_a_plain_loop_gives(digits, learner, optimizer, tmp_path):
    if optimizer == "sgd" and learner.method == "SI":
        optimizer = "adam"  # the path is recorded with Adam only
    protocol = Protocol((8,), optimizer, 6, 10, paths=optimizer == "adam")
    at = course("test", protocol, permuted_tasks(digits, stream(0, "permutations"), 2), 0, "test")
    with Run(tmp_path, "test", "hash") as run:
        found = learn(run, at, learner)
    accuracy, penalty = by_hand(digits, learner, protocol)
    assert found.accuracy.shape == (3, 2)
    np.testing.assert_allclose(found.accuracy[-1], accuracy, atol=2.1)  # one image of 50 may fall on the other side
    if learner.method != "SI":  # what a course keeps of SI's penalty is that after the first task
        assert found.stability == pytest.approx(penalty.stability(LR), rel=1e-3)


def test_what_si_has_seen_is_the_path_of_the_loss_without_the_penalty(digits, tmp_path):
    learner, protocol = Learner("SI", LR, 0.5), Protocol((8,), "adam", 6, 10, paths=True)
    at = course("test", protocol, permuted_tasks(digits, stream(0, "permutations"), 2), 0, "test")
    finish = lambda at, learner, state: {"omega": state["si"].end_task(state["params"]).omega}
    with Run(tmp_path, "test", "hash") as run:
        found = learn_until(run, at, learner, finish)["omega"]
    _, penalty = by_hand(digits, learner, protocol)  # after both tasks
    assert_close(found, penalty.fisher, rtol=2e-3, atol=1e-6)
    assert max(leaf.max() for leaf in tm.trees.leaves(found)) > 1e-3


def test_adam_goes_on_from_task_to_task(digits, tmp_path, monkeypatch):
    at = course("test", Protocol((8,), "adam", 2, 10), permuted_tasks(digits, stream(0, "permutations"), 3), 0, "test")
    seen, adam = [], ewc_training.adam_

    def watched(params, grads, penalty, lr, m, v, t):
        seen.append((t, bool(v[0].w.any())))
        adam(params, grads, penalty, lr, m, v, t)

    monkeypatch.setattr(ewc_training, "adam_", watched)
    with Run(tmp_path, "test", "hash") as run:
        learn(run, at, Learner("none", LR))
    assert seen == [(t, t > 1) for t in range(1, 7)]


def test_every_epoch_shows_every_image_once_in_an_order_of_its_own(digits):
    tasks = permuted_tasks(digits, stream(0, "permutations"), 2)
    at = course("test", Protocol((8,), "sgd", 12, 10), tasks, 0, "test")
    rows = [ewc_training._batch(at, Learner("none", LR), 1, step)[0] for step in range(12)]
    first, second = np.concatenate(rows[:6]), np.concatenate(rows[6:])
    in_order = lambda x: x[np.lexsort(x.T)]
    everything, _ = tasks[1].seen(tasks[1].train, slice(None))
    for epoch in (first, second):
        np.testing.assert_array_equal(in_order(epoch), in_order(everything))
    assert not np.array_equal(first, second)


def test_offline_training_has_examples_of_the_tasks_so_far_alone(digits):
    at = course("test", Protocol((8,), "sgd", 6, 10), split_tasks(digits, "task"), 0, "test")
    labels = lambda number: set(
        np.concatenate([ewc_training._batch(at, Learner("offline", LR), number, step)[1] for step in range(9)])
    )
    assert labels(0) <= {0, 1}
    assert labels(1) == {0, 1, 2, 3}
    assert labels(2) == {0, 1, 2, 3, 4, 5}


def test_outputs_that_a_task_has_not_are_neither_trained_nor_in_its_fisher(digits):
    at = course("test", Protocol((), "sgd", 1, 5), split_tasks(digits, "task"), 0, "test")
    state = ewc_training.begin(at)
    before = copied(state["params"])
    ewc_training.descend(at, Learner("none", LR), state, 1, 0)
    assert np.flatnonzero(state["params"][0].b != before[0].b).tolist() == [2, 3]
    (layer,) = before
    fisher = task_fisher(before, at.tasks[1], "exact", 0, np.random.default_rng(0), 128)
    own = (nets.Layer(layer.w[:, 2:4], layer.b[2:4]),)
    x, _ = at.tasks[1].seen(at.tasks[1].train, slice(None))
    assert_close((nets.Layer(fisher[0].w[:, 2:4], fisher[0].b[2:4]),), ewc.fisher_diagonal(nets.mlp, own, x))
    assert not np.delete(fisher[0].b, [2, 3]).any()


def test_what_settings_are_chosen_by_is_taken_on_validation_images(digits):
    tasks = permuted_tasks(digits, stream(0, "permutations"), 3)
    at = course("test", Protocol((), "sgd", 1, 10), tasks, 0, "test")
    state = ewc_training.begin(at)
    found = ewc_training.summed_up(at, Learner("none", LR), state)["validation"]
    expected, other = (
        [ewc_tasks.accuracy(state["params"], task, getattr(task, part)) for task in tasks]
        for part in ("validation", "test")
    )
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(found, other)


def test_accuracies_are_taken_at_even_intervals_and_after_the_last_step():
    due = lambda steps, points: [
        step for step in range(steps) if ewc_training._is_due(step, Protocol((), "sgd", steps, 1, evaluations=points))
    ]
    assert due(12, 3) == [3, 7, 11]
    assert due(10, 4) == [2, 4, 7, 9]
    assert due(3, 9) == [0, 1, 2]


def test_the_squisher_is_adams_second_moment_over_one_task(digits, tmp_path):
    protocol, tasks = Protocol((8,), "sgd", 6, 10, squares=True), permuted_tasks(digits, stream(0, "permutations"), 3)
    at = course("test", protocol, tasks, 0, "test")
    learner, finish = (
        Learner("EWC", LR, 0.0, "squisher"),
        lambda at, learner, state: {"kept": state["penalty"]["fisher"]},
    )
    with Run(tmp_path, "test", "hash") as run:
        total = learn_until(run, at, learner, finish)["kept"]
    params = nets.init_mlp(at.draw("weights"), (784, 8, 10))
    fishers = []
    for number, task in enumerate(tasks[:2]):
        state = optim.adam(LR).init(params)
        for rows in at.draw("order", number, 0).permutation(60).reshape(6, 10):
            grads = tm.grad(cross_entropy)(params, *task.seen(task.train, rows))
            _, state = optim.adam(LR).update(grads, state, params)
            params = tm.trees.map(lambda w, g: w - LR * g, params, grads)
        fishers.append(ewc.squisher(state, 10))
    assert_close(total, tm.trees.map(np.add, *fishers), rtol=1e-3, atol=1e-7)


def test_offline_training_learns_both_tasks(digits, tmp_path):
    protocol = Protocol((32,), "adam", 60, 20)
    at = course("test", protocol, permuted_tasks(digits, stream(0, "permutations"), 2), 0, "test")
    with Run(tmp_path, "test", "hash") as run:
        joint, alone = (learn(run, at, Learner(method, 3e-3)) for method in ("offline", "none"))
    np.testing.assert_array_equal(joint.accuracy[1], alone.accuracy[1])  # they share the first task
    assert joint.accuracy[-1].min() > 25


def test_what_others_find_does_not_depend_on_whether_offline_came_first(digits, tmp_path):
    def run(methods):
        at = course(
            "test", Protocol((8,), "adam", 6, 10), permuted_tasks(digits, stream(0, "permutations"), 2), 0, "test"
        )
        with Run(tmp_path / methods[0], "test", "hash") as run:
            return {method: learn(run, at, Learner(method, 3e-3)).accuracy for method in methods}

    for name in ("offline", "none"):
        (tmp_path / name).mkdir()
    one, other = run(("offline", "none")), run(("none", "offline"))
    for name, accuracy in one.items():
        np.testing.assert_array_equal(accuracy, other[name])
