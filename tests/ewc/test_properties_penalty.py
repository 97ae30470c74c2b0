"""The laws of the penalty, its steps, the overlap and the metrics, one test each, in float64 (11 to 14, and 17)."""

import warnings

import numpy as np
import pytest
from ewc.comparing import assert_trees_close, flat
from hypothesis import assume, given
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import ewc, nets, ops
from tinymeta.engine import trees
from tinymeta.lab import checkpoint

seeds = st.integers(0, 2**32 - 1)
lams = st.sampled_from([0.0, 0.3, 7.0, 1e4])


def task(rng, zeros=0.25):
    anchor = {"w": rng.normal(size=(3, 2)), "b": rng.normal(size=2)}
    return anchor, trees.map(lambda w: rng.exponential(size=w.shape) * (rng.random(w.shape) > zeros), anchor)


def added(penalty, tasks):
    for anchor, fisher in tasks:
        penalty = penalty.add_task(anchor, fisher)
    return penalty


@given(seed=seeds, lam=lams, s=st.floats(-3, 3), count=st.integers(1, 4))
def test_11_the_penalty(seed, lam, s, count):
    """0 at θ*; quadratic; its gradient λ F (θ - θ*) at every order; folded = separate; online at γ = 1 and 0; λ = 0; masks."""
    rng = np.random.default_rng(seed)
    tasks = [task(rng) for _ in range(count)]
    (anchor, fisher), delta = tasks[0], task(rng)[0]
    one = added(ewc.Penalty(lam), tasks[:1])
    shifted = lambda s: trees.map(lambda a, d: a + s * d, anchor, delta)
    assert one.value(anchor) == 0
    assert one.value(shifted(s)) == pytest.approx(s**2 * one.value(shifted(1.0)), rel=1e-9, abs=1e-12)
    by_hand = trees.map(lambda F, d: lam * F * d, fisher, delta)
    assert_trees_close(tm.grad(lambda p: one.value(p) * 1.0)(shifted(1.0)), by_hand, 1e-12)
    assert_trees_close(one.grad(shifted(1.0)), by_hand, 1e-12)
    assert_trees_close(tm.hvp(one.value, shifted(1.0), delta, "reverse-over-reverse"), by_hand, 1e-12)
    third = tm.grad(
        lambda p: sum(ops.sum(h) for h in trees.leaves(tm.hvp(one.value, p, delta))) + 0.0 * ops.sum(p["b"])
    )
    assert not flat(third(shifted(1.0))).any()
    separate = sum(added(ewc.Penalty(lam), [t]).value(delta) for t in tasks)
    assert added(ewc.Penalty(lam), tasks).value(delta) == pytest.approx(separate, rel=1e-9, abs=1e-12)
    equal = [(anchor, F) for _, F in tasks]
    online = added(ewc.Penalty(lam, gamma=1.0), equal).value(delta)
    assert online == pytest.approx(added(ewc.Penalty(lam), equal).value(delta), rel=1e-9, abs=1e-12)
    latest = added(ewc.Penalty(lam), tasks[-1:]).value(delta)
    assert added(ewc.Penalty(lam, gamma=0.0), tasks).value(delta) == latest
    free = ewc.Penalty(lam).add_task(anchor, fisher, {"w": False, "b": True})
    far = {"w": np.full((3, 2), 1e30), "b": delta["b"]}
    assert free.value(far) == free.value({"w": anchor["w"], "b": delta["b"]})
    sgd = ewc.penalised_sgd(0.1, added(ewc.Penalty(0.0), tasks))
    after, _ = sgd.step(delta, anchor, sgd.init(delta))
    trees.map(np.testing.assert_array_equal, after, trees.map(lambda w, g: w - 0.1 * g, delta, anchor))


def reordered(rng, tree):
    """The same dicts with their keys in any order."""
    return {key: reordered(rng, tree[key]) for key in rng.permutation(list(tree))} if isinstance(tree, dict) else tree


@given(seed=seeds, lam=lams, gamma=st.sampled_from([None, 0.0, 0.5]), count=st.integers(1, 3))
def test_the_order_of_keys_says_nothing(seed, lam, gamma, count):
    rng = np.random.default_rng(seed)
    tree = lambda: {"a": rng.normal(size=2), "layer": {"w": rng.normal(size=2), "b": rng.normal(size=2)}}
    tasks, params = [(tree(), trees.map(np.square, tree())) for _ in range(count)], tree()
    shuffled = [tuple(reordered(rng, part) for part in task) for task in tasks]
    one, other = added(ewc.Penalty(lam, gamma), tasks), added(ewc.Penalty(lam, gamma), shuffled)
    parts = {name: reordered(rng, part) for name, part in vars(one).items()}
    grown = ewc.Penalty(**parts).grown(reordered(rng, params | {"head": params["a"]}))
    for again, at in ((other, params), (ewc.Penalty(**parts), params), (grown, params | {"head": params["a"]})):
        assert again.value(reordered(rng, at)) == pytest.approx(one.value(params), rel=1e-12)
        gradient = again.grad(reordered(rng, at))
        same = lambda g, expected: np.testing.assert_allclose(g, expected, 1e-12, atol=1e-12 * lam)
        trees.map(same, {key: gradient[key] for key in params}, one.grad(params))


@given(seed=seeds, step=st.sampled_from([0.5, 1.5, 1.9, 2.1, 4.0]), lam=st.sampled_from([1.0, 1e6]))
def test_12_the_explicit_step_diverges_iff_eta_lambda_f_passes_2_and_the_proximal_one_never(seed, step, lam):
    rng = np.random.default_rng(seed)
    anchor, fisher = rng.normal(size=4), rng.exponential(size=4) + 0.1
    penalty = ewc.Penalty(lam).add_task(anchor, fisher)
    lr, start, zero = step / (lam * fisher.max()), anchor + 1.0, np.zeros(4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        explicit, proximal = ewc.penalised_sgd(lr, penalty), ewc.proximal_sgd(lr, penalty)
    assert ["diverges" in str(w.message) for w in caught] == ([step > 2] if step > 1 else [])
    far = near = start
    for _ in range(80):
        far, _ = explicit.step(far, zero, explicit.init(far))
        near, _ = proximal.step(near, zero, proximal.init(near))
    assert (np.max(np.abs(far - anchor)) > 1) == (step > 2)
    assert np.all(np.abs(near - anchor) < 1)
    huge = ewc.proximal_sgd(1.0, ewc.Penalty(1e15).add_task(anchor, fisher))
    np.testing.assert_allclose(huge.step(start, rng.normal(size=4), huge.init(start))[0], anchor, atol=1e-12)


@given(seed=seeds, scale=st.floats(1e-6, 1e6))
def test_13_overlap(seed, scale):
    """Symmetric, in [0, 1], 1 if and only if proportional, 0 for disjoint supports, free of scale."""
    rng = np.random.default_rng(seed)
    one, two = (np.exp(rng.normal(size=8)) for _ in range(2))
    found = ewc.overlap(one, two)
    assert found == ewc.overlap(two, one)
    assert 0 <= found < 1 - 1e-6
    assert ewc.overlap(one, scale * one) == pytest.approx(1)
    assert ewc.overlap(scale * one, two) == pytest.approx(found)
    support = rng.random(8) > 0.5
    assume(0 < support.sum() < 8)
    assert ewc.overlap(one * support, two * ~support) == 0


@given(seed=seeds, stop=st.integers(0, 6), gamma=st.sampled_from([None, 0.9]))
def test_14_a_sequence_resumed_from_a_checkpoint_ends_bit_for_bit_like_an_uninterrupted_one(
    tmp_path_factory, seed, stop, gamma
):
    rng = np.random.default_rng(seed)
    data = [(rng.normal(size=(12, 3)), rng.integers(3, size=12)) for _ in range(2)]
    gradient = tm.grad(lambda p, x, y: ops.mean(ops.softmax_cross_entropy(nets.mlp(p, x), y)))

    def step(state, i):
        """Three steps per task; a task ends with its Fisher."""
        penalty, number = ewc.Penalty(**state["penalty"]), i // 3
        optimizer = ewc.penalised_adam(0.05, penalty)
        grads = gradient(state["params"], *data[number])
        params, adam = optimizer.step(state["params"], grads, state["adam"])
        si = state["si"].step(grads, state["params"], params)
        if i % 3 == 2:
            fisher = ewc.fisher_diagonal(
                nets.mlp, params, data[number][0], kind="sampled", rng=np.random.default_rng(number)
            )
            penalty, si = penalty.add_task(params, fisher), si.end_task(params)
        return {"params": params, "adam": adam, "penalty": vars(penalty), "si": si}

    params = nets.init_mlp(rng, (3, 4, 3), dtype=np.float64)
    first = {
        "params": params,
        "adam": ewc.penalised_adam(0.05, ewc.Penalty(2.0)).init(params),
        "penalty": vars(ewc.Penalty(2.0, gamma)),
        "si": ewc.PathIntegral.begin(params),
    }
    known, path, owner = (
        checkpoint.named_tuples(first),
        tmp_path_factory.mktemp("runs") / "state.npz",
        {"run": "a test"},
    )
    state = resumed = checkpoint.settle(first, known)
    for i in range(6):
        if i == stop:
            checkpoint.save(path, resumed, owner)
            resumed = checkpoint.dress(checkpoint.load(path, owner), known)
        state, resumed = (checkpoint.settle(step(s, i), known) for s in (state, resumed))
    assert state["penalty"]["constant"] == resumed["penalty"]["constant"]
    for a, b in zip(trees.leaves(state), trees.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


@given(seed=seeds, T=st.integers(2, 6), level=st.floats(0, 1))
def test_17_metrics(seed, T, level):
    """A constant R forgets nothing; max - last and first - last agree where accuracies only fall."""
    constant = np.full((T, T), level)
    assert ewc.backward_transfer(constant) == ewc.forgetting(constant) == ewc.forgetting(constant, "learned") == 0
    falls = np.random.default_rng(seed).uniform(0, 0.1, size=(T, T))
    R = 1 - np.cumsum(np.tril(falls, -1), axis=0)
    R[np.triu_indices(T, 1)] = 0  # before it is learned
    assert ewc.forgetting(R, "best") == pytest.approx(ewc.forgetting(R, "learned"))
    assert ewc.forgetting(R, "learned") == pytest.approx(-ewc.backward_transfer(R))
