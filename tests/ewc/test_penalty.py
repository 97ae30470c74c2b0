"""tm.ewc.Penalty: Eq. 3 as a sum over tasks, as one folded quadratic, as a function to differentiate and as a step."""

import copy
import dataclasses
import re
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import ewc, nets
from tinymeta.engine import trees
from tinymeta.ewc import Penalty
from tinymeta.ewc import penalty as penalty_module
from tinymeta.lab import checkpoint

seeds = st.integers(0, 2**32 - 1)
lams = st.sampled_from([0.0, 1e-3, 1.0, 40.0])
dtypes = st.sampled_from([np.float32, np.float64])
RTOL = {np.float32: 1e-5, np.float64: 1e-13}


def weights(rng, dtype=np.float64):
    return {
        "layer": nets.Layer(rng.normal(size=(3, 2)).astype(dtype), rng.normal(size=2).astype(dtype)),
        "s": dtype(1) * rng.normal(size=(2,)).astype(dtype),
    }


def task(rng, dtype=np.float64):
    """(θ*, F) with a quarter of the Fisher's entries 0."""
    anchor = weights(rng, dtype)
    fisher = trees.map(lambda w: (rng.exponential(size=w.shape) * (rng.random(w.shape) > 0.25)).astype(dtype), anchor)
    return anchor, fisher


def added(penalty, tasks):
    for anchor, fisher in tasks:
        penalty = penalty.add_task(anchor, fisher)
    return penalty


def by_hand(lam, params, tasks):
    """λ/2 Σ_t Σ_i F (θ - θ*)² in float64, entry by entry."""
    total = 0.0
    for anchor, fisher in tasks:
        for w, a, F in zip(*map(trees.leaves, (params, anchor, fisher)), strict=True):
            total += sum(float(f) * (float(u) - float(v)) ** 2 for u, v, f in zip(w.flat, a.flat, F.flat, strict=True))
    return lam / 2 * total


@given(seed=seeds, lam=lams, count=st.integers(0, 5), dtype=dtypes)
def test_the_value_is_the_sum_over_tasks(seed, lam, count, dtype):
    rng = np.random.default_rng(seed)
    tasks, params = [task(rng, dtype) for _ in range(count)], weights(rng, dtype)
    penalty = added(Penalty(lam), tasks)
    value = penalty.value(params)
    assert value == pytest.approx(by_hand(lam, params, tasks), rel=RTOL[dtype], abs=1e-12)
    assert count == 0 or value.dtype == dtype


@given(seed=seeds, lam=lams, count=st.integers(0, 4), dtype=dtypes)
def test_grad_is_the_derivative_of_value(seed, lam, count, dtype):
    rng = np.random.default_rng(seed)
    tasks, params = [task(rng, dtype) for _ in range(count)], weights(rng, dtype)
    penalty = added(Penalty(lam), tasks)
    by_engine = tm.grad(lambda p: penalty.value(p) + 0.0 * p["s"].sum())(params)
    expected = trees.map(lambda w: np.zeros(w.shape), params)
    for anchor, fisher in tasks:
        expected = trees.map(
            lambda g, w, a, F: g + lam * np.float64(F) * (np.float64(w) - a), expected, params, anchor, fisher
        )
    for g, h, e in zip(*map(trees.leaves, (penalty.grad(params), by_engine, expected)), strict=True):
        assert g.dtype == h.dtype == dtype
        np.testing.assert_allclose(g, e, RTOL[dtype], atol=RTOL[dtype] * max(1.0, lam))
        np.testing.assert_allclose(h, e, RTOL[dtype], atol=RTOL[dtype] * max(1.0, lam))


@given(seed=seeds, lam=lams, count=st.integers(1, 3))
def test_the_second_derivative_is_lambda_times_the_summed_fisher(seed, lam, count):
    rng = np.random.default_rng(seed)
    tasks, params, direction = [task(rng) for _ in range(count)], weights(rng), weights(rng)
    penalty = added(Penalty(lam), tasks)
    total = trees.map(lambda *fs: sum(fs), *[fisher for _, fisher in tasks])
    for mode in ("forward-over-reverse", "reverse-over-reverse"):
        found = tm.hvp(penalty.value, params, direction, mode)
        trees.map(lambda h, F, v: np.testing.assert_allclose(h, lam * F * v, atol=1e-12), found, total, direction)


@given(seed=seeds, lam=lams, scale=st.floats(-4, 4))
def test_it_is_zero_at_the_anchor_and_quadratic_around_it(seed, lam, scale):
    rng = np.random.default_rng(seed)
    (anchor, fisher), delta = task(rng), weights(rng)
    penalty = Penalty(lam).add_task(anchor, fisher)
    assert penalty.value(anchor) == 0
    assert not any(g.any() for g in trees.leaves(penalty.grad(anchor)))
    near, far = (penalty.value(trees.map(lambda a, d: a + s * d, anchor, delta)) for s in (1.0, scale))  # noqa: B023
    assert far == pytest.approx(scale**2 * near, rel=1e-9, abs=1e-12)
    assert near > 0 or lam == 0


def test_one_entry_costs_half_lambda_fisher_distance_squared():
    penalty = Penalty(10.0).add_task(np.array([1.0, -2.0]), np.array([3.0, 0.5]))
    assert penalty.value(np.array([3.0, 2.0])) == 10 / 2 * (3 * 4 + 0.5 * 16)
    np.testing.assert_array_equal(penalty.grad(np.array([3.0, 2.0])), [60.0, 20.0])


def test_a_mask_leaves_frozen_layers_and_heads_free():
    rng = np.random.default_rng(0)
    (anchor, fisher), far = task(rng), weights(rng)
    held = trees.map(np.copy, fisher)
    held["layer"].b[:] = 0
    held["s"][0] = 0
    mask = {"layer": nets.Layer(True, False), "s": np.array([False, True])}
    masked = Penalty(2.0).add_task(anchor, fisher, mask)
    assert masked.value(far) == Penalty(2.0).add_task(anchor, held).value(far)
    prefix = Penalty(2.0).add_task(anchor, fisher, {"layer": False, "s": True})
    assert prefix.value(far) == pytest.approx(np.sum(fisher["s"] * (far["s"] - anchor["s"]) ** 2))
    assert fisher["layer"].b.any()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"w": 1.0}, r"mask of fisher\['w'\] is float, expected True, False or bool\[2\]"),
        ({"w": np.array([True])}, r"mask of fisher\['w'\] is bool\[1\]"),
        ({"v": True}, "trees differ at the root"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        Penalty(1.0).add_task({"w": np.zeros(2)}, {"w": np.ones(2)}, mask)


@given(seed=seeds, gamma=st.sampled_from([None, 0.9]))
def test_a_network_may_grow_a_head(seed, gamma):
    rng = np.random.default_rng(seed)
    tasks, params = [task(rng) for _ in range(2)], weights(rng)
    penalty = added(Penalty(3.0, gamma), tasks)
    head = {"head": nets.Layer(rng.normal(size=(2, 3)), rng.normal(size=3))}
    grown = penalty.grown(head | params)
    assert grown.value(params | head) == penalty.value(params)
    assert not any(g.any() for g in trees.leaves(grown.grad(head | params)["head"]))
    further = grown.add_task(head | params, trees.map(np.ones_like, head | params))
    assert further.value(trees.map(lambda w: w + 1.0, head | params)) > 3.0 / 2 * 9
    with pytest.raises(ValueError, match=r"params\['layer'\]\['b'\] is missing, which the penalty holds"):
        penalty.grown(head)
    assert (empty := Penalty(1.0)).grown(params) is empty


def test_it_comes_back_from_a_checkpoint_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    tasks, params = [task(rng, np.float32) for _ in range(2)], weights(rng, np.float32)
    for penalty in (Penalty(2.0), added(Penalty(2.0), tasks), added(Penalty(2.0, gamma=0.9), tasks)):
        known = checkpoint.named_tuples(vars(penalty))
        path = tmp_path / "penalty.npz"
        checkpoint.save(path, checkpoint.settle(vars(penalty), known), {"run": "a test"})
        again = Penalty(**checkpoint.dress(checkpoint.load(path, {"run": "a test"}), known))
        assert vars(again).keys() == vars(penalty).keys()
        assert (again.lam, again.gamma, again.constant) == (penalty.lam, penalty.gamma, penalty.constant)
        trees.map(np.testing.assert_array_equal, (again.fisher, again.anchor), (penalty.fisher, penalty.anchor))
        assert again.value(params) == penalty.value(params)


@pytest.mark.parametrize("gamma", [None, 0.5])
def test_numbers_that_np_load_gives_back_leave_the_dtype(gamma):
    rng = np.random.default_rng(0)
    penalty, params = added(Penalty(2.0, gamma), [task(rng, np.float32) for _ in range(2)]), weights(rng, np.float32)
    numbers = {name: np.asarray(part) for name, part in vars(penalty).items() if isinstance(part, float)}
    again = Penalty(**(vars(penalty) | numbers))
    assert again.value(params).dtype == np.float32
    assert again.value(params) == penalty.value(params)
    one, other = (known.add_task(*task(np.random.default_rng(1), np.float32)) for known in (again, penalty))
    assert one.value(params) == other.value(params)


def test_masked_entries_contribute_exactly_nothing():
    penalty = (
        Penalty(3.0).add_task(np.array([1.0, 2.0]), np.array([0.0, 1.0])).add_task(np.zeros(2), np.array([0.0, 1.0]))
    )
    near, far = np.array([0.0, 5.0]), np.array([1e30, 5.0])
    assert penalty.value(near) == penalty.value(far)
    assert penalty.grad(far)[0] == 0


@given(seed=seeds)
def test_lambda_0_is_plain_sgd_bit_for_bit(seed):
    rng = np.random.default_rng(seed)
    params, grads = weights(rng), weights(rng)
    penalty = added(Penalty(0.0), [task(rng), task(rng)])
    plain = trees.map(lambda w, g: w - 0.1 * g, params, grads)
    with_penalty = trees.map(lambda w, g, h: w - 0.1 * (g + h), params, grads, penalty.grad(params))
    trees.map(np.testing.assert_array_equal, plain, with_penalty)


@given(seed=seeds, count=st.integers(1, 4))
def test_online_with_gamma_1_and_one_anchor_is_the_sum_over_tasks(seed, count):
    rng = np.random.default_rng(seed)
    anchor, params = weights(rng), weights(rng)
    tasks = [(anchor, task(rng)[1]) for _ in range(count)]
    online, separate = added(Penalty(2.0, gamma=1.0), tasks), added(Penalty(2.0), tasks)
    assert online.value(params) == pytest.approx(separate.value(params), rel=1e-12)


@given(seed=seeds, count=st.integers(1, 4), lam=lams)
def test_gamma_1_is_huszars_form_one_anchor_and_the_sum_of_fishers(seed, count, lam):
    rng = np.random.default_rng(seed)
    tasks, params = [task(rng) for _ in range(count)], weights(rng)
    total = trees.map(lambda *fs: sum(fs), *[fisher for _, fisher in tasks])
    huszar = added(Penalty(lam, gamma=1.0), tasks)
    assert huszar.value(params) == pytest.approx(by_hand(lam, params, [(tasks[-1][0], total)]), rel=1e-12)


@given(seed=seeds, count=st.integers(1, 4))
def test_gamma_0_knows_the_latest_task_only(seed, count):
    rng = np.random.default_rng(seed)
    tasks, params = [task(rng) for _ in range(count)], weights(rng)
    latest = added(Penalty(2.0), tasks[-1:])
    assert added(Penalty(2.0, gamma=0.0), tasks).value(params) == latest.value(params)


@given(seed=seeds, gamma=st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_online_decays_the_fisher_and_moves_the_anchor(seed, gamma):
    rng = np.random.default_rng(seed)
    tasks, params = [task(rng) for _ in range(3)], weights(rng)
    decayed = trees.map(lambda a, b, c: gamma * (gamma * a + b) + c, *[fisher for _, fisher in tasks])
    expected = by_hand(2.0, params, [(tasks[-1][0], decayed)])
    assert added(Penalty(2.0, gamma=gamma), tasks).value(params) == pytest.approx(expected, rel=1e-12)


def test_memory_does_not_grow_with_the_tasks():
    rng = np.random.default_rng(0)
    one, many = (added(Penalty(1.0), [task(rng) for _ in range(count)]) for count in (1, 9))
    sizes = [sum(np.size(leaf) for leaf in trees.leaves(dataclasses.asdict(p))) for p in (one, many)]
    assert sizes[0] == sizes[1]


def test_it_is_a_value_that_nothing_changes_later():
    rng = np.random.default_rng(0)
    (anchor, fisher), (anchor_2, fisher_2), params = task(rng), task(rng), weights(rng)
    empty = Penalty(1.0)
    one = empty.add_task(anchor, fisher)
    value = one.value(params)
    two, online = (
        one.add_task(anchor_2, fisher_2),
        Penalty(1.0, 0.5).add_task(anchor_2, fisher_2).add_task(anchor, fisher),
    )
    values = two.value(params), online.value(params)
    for leaf in trees.leaves((anchor, fisher, anchor_2, fisher_2)):
        leaf += 1  # as training goes on in place
    assert empty.value(params) == 0.0
    assert one.value(params) == value
    assert (two.value(params), online.value(params)) == values
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.lam = 2.0
    assert len({one, two, one}) == 2  # one is itself, and no comparison looks into the arrays


def test_the_l2_baseline_holds_all_weights_alike():
    params = weights(np.random.default_rng(0))
    penalty = Penalty(4.0).add_task(params, ewc.uniform_fisher(params))
    moved = trees.map(lambda w: w + 3.0, params)
    assert penalty.value(moved) == pytest.approx(4 / 2 * 9 * (6 + 2 + 2))


# ---- the stability guard ----


@given(seed=seeds, step=st.sampled_from([0.5, 0.9, 1.5, 1.9, 2.1, 3.0]))
def test_gradient_descent_on_the_penalty_diverges_exactly_beyond_stability_2(seed, step):
    rng = np.random.default_rng(seed)
    anchor, fisher = rng.normal(size=5), rng.exponential(size=5) + 0.1
    penalty = Penalty(7.0).add_task(anchor, fisher)
    lr = step / (7.0 * fisher.max())
    assert penalty.stability(lr) == pytest.approx(step)
    w = anchor + 1.0
    for _ in range(60):
        w = w - lr * penalty.grad(w)
    worst = abs(w - anchor)[fisher.argmax()]
    assert (worst > 1) == (step > 2)


def test_the_stability_is_0_without_tasks_and_grows_with_them():
    assert Penalty(5.0).stability(0.1) == 0
    params = weights(np.random.default_rng(0))
    one = Penalty(5.0).add_task(params, ewc.uniform_fisher(params))
    assert one.stability(0.1) == pytest.approx(0.5)
    assert one.add_task(params, ewc.uniform_fisher(params)).stability(0.1) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("lr", "word"), [(0.3, "overshoots its anchor where it passes 1"), (0.5, "diverges where it passes 2")]
)
def test_a_step_that_is_too_long_is_warned_of(lr, word):
    penalty = Penalty(5.0).add_task(np.zeros(2), np.ones(2))
    with pytest.warns(RuntimeWarning, match=f"gradient descent {word}; lower lr to 0.2, or lam"):
        assert ewc.warn_if_unstable(penalty, lr) == pytest.approx(5 * lr)


def test_a_stable_step_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ewc.warn_if_unstable(Penalty(5.0).add_task(np.zeros(2), np.ones(2)), 0.2) == pytest.approx(1.0)
        assert ewc.warn_if_unstable(Penalty(5.0), 0.2) == 0


# ---- what is refused ----


@pytest.mark.parametrize("number", [-1.0, np.nan, np.inf, "1", np.ones(2)])
@pytest.mark.parametrize("name", ["lam", "gamma", "constant"])
def test_weights_of_the_penalty_must_be_finite_and_not_negative(name, number):
    with pytest.raises(ValueError, match=f"Penalty: {name} is {re.escape(repr(number))}, expected a finite number"):
        Penalty(**({"lam": 1.0} | {name: number}))


def test_lambda_is_a_number():
    with pytest.raises(ValueError, match="Penalty: lam is None, expected a finite number, 0 or more"):
        Penalty(None)


@pytest.mark.parametrize("fisher", [[1.0, -1e-9], [np.nan, 1.0], [np.inf, 1.0]])
def test_a_fisher_must_be_finite_and_not_negative(fisher):
    penalty = Penalty(1.0).add_task({"w": np.zeros(2)}, {"w": np.ones(2)})
    before = {name: copy.deepcopy(part) for name, part in vars(penalty).items()}
    for one in (Penalty(1.0), penalty):
        with pytest.raises(
            ValueError, match=r"add_task: fisher\['w'\] has entries that are negative or not finite"
        ) as caught:
            one.add_task({"w": np.ones(2)}, {"w": np.array(fisher)})
        assert isinstance(caught.value, ewc.NotFinite) == (not np.isfinite(fisher).all())
    trees.map(np.testing.assert_array_equal, vars(penalty), before)  # nothing is lost


@pytest.mark.parametrize("fisher", [[1.0, -1e-9], [np.nan, 1.0], [np.inf, 1.0]])
def test_so_must_the_fisher_that_a_checkpoint_gives_back(fisher):
    saved = vars(Penalty(1.0).add_task({"w": np.zeros(2)}, {"w": np.ones(2)}))
    with pytest.raises(ValueError, match=r"Penalty: fisher\['w'\] has entries that are negative or not finite"):
        Penalty(**(saved | {"fisher": {"w": np.array(fisher)}}))
    with pytest.raises(ValueError, match=r"Penalty: fisher\['w'\] is float64\[3\], expected float64\[2\]"):
        Penalty(**(saved | {"fisher": {"w": np.ones(3)}}))
    for name in ("fisher", "anchor"):
        with pytest.raises(ValueError, match="of fisher and anchor one is missing"):
            Penalty(**(saved | {name: None}))
    with pytest.raises(ewc.NotFinite, match="Penalty: constant is inf"):
        Penalty(**(saved | {"constant": np.inf}))


@pytest.mark.parametrize("gamma", [None, 1.0])
def test_weights_that_diverged_are_no_anchor(gamma):
    params, F = {"w": np.zeros(2)}, {"w": np.ones(2)}
    penalty = Penalty(1.0, gamma).add_task(params, F)
    for one in (Penalty(1.0, gamma), penalty):
        with pytest.raises(ewc.NotFinite, match=r"add_task: params\['w'\] is not finite; training has diverged"):
            one.add_task({"w": np.array([1.0, np.nan])}, F)


@given(seed=seeds, count=st.integers(2, 3))
def test_a_scalar_of_numpys_for_gamma_leaves_the_dtype(seed, count):
    rng = np.random.default_rng(seed)
    tasks = [task(rng, np.float32) for _ in range(count)]
    found, expected = (added(Penalty(1.0, gamma), tasks) for gamma in (np.float64(0.9), 0.9))
    trees.map(np.testing.assert_array_equal, found.fisher, expected.fisher)
    assert {F.dtype for F in trees.leaves(found.fisher)} == {np.dtype(np.float32)}


def test_an_anchor_must_fit_a_fisher_that_was_looked_at_before():
    known = Penalty(1.0).add_task({"w": np.zeros(3)}, {"w": np.ones(3)})
    with pytest.raises(ValueError, match=r"Penalty: fisher\['w'\] is float64\[3\], expected float64\[1\]"):
        dataclasses.replace(known, anchor={"w": np.zeros(1)})


def test_a_fisher_is_looked_at_once(monkeypatch):
    """A loop makes its penalty of its state at each step, and has millions of weights."""
    rng, looks = np.random.default_rng(0), []
    saved = vars(added(Penalty(1.0), [task(rng), task(rng)]))
    monkeypatch.setattr(penalty_module, "check_fisher", lambda *args: looks.append(args))
    for _ in range(3):
        Penalty(**saved)
    assert looks == []
    Penalty(**(saved | {"fisher": trees.map(np.copy, saved["fisher"])}))
    assert len(looks) == 1


@pytest.mark.parametrize("gamma", [None, 1.0])
def test_a_sum_that_overflows_is_refused_and_nothing_is_lost(gamma):
    anchor, most = {"w": np.zeros(2, np.float32)}, {"w": np.full(2, 3e38, np.float32)}
    penalty = Penalty(1.0, gamma).add_task(anchor, most)
    with pytest.raises(ewc.NotFinite, match=r"Penalty: fisher\['w'\] has entries that are negative or not finite"):
        penalty.add_task(anchor, most)
    np.testing.assert_array_equal(penalty.fisher["w"], most["w"])
    with pytest.raises(ewc.NotFinite, match=r"Penalty: constant is .*; the anchors are too far apart"):
        Penalty(1.0).add_task(anchor, {"w": np.ones(2, np.float32)}).add_task(
            {"w": np.full(2, 1e25, np.float32)}, {"w": np.ones(2, np.float32)}
        )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"w": np.ones(3)}, r"\['w'\] is float64\[3\], expected float64\[2\]"),
        ({"w": np.ones(2, np.float32)}, r"\['w'\] is float32\[2\], expected float64\[2\]"),
        ({"v": np.ones(2)}, r"trees differ at the root: expected keys \['w'\], got keys \['v'\]"),
    ],
)
def test_trees_that_do_not_fit_are_refused(wrong, message):
    params = {"w": np.zeros(2)}
    penalty = Penalty(1.0).add_task(params, {"w": np.ones(2)})
    with pytest.raises(ValueError, match=message):
        penalty.add_task(params, wrong)
    with pytest.raises(ValueError, match=message):
        penalty.add_task(wrong, wrong)
    with pytest.raises(ValueError, match=message):
        penalty.value(wrong)
    with pytest.raises(ValueError, match=message):
        penalty.grad(wrong)
    with pytest.raises(ValueError, match=message):
        penalty.quadratic(wrong)


def test_true_is_no_lambda_and_an_anchor_is_finite():
    with pytest.raises(ValueError, match="Penalty: lam is True"):
        ewc.Penalty(True)
    with pytest.raises(ewc.NotFinite, match="Penalty: anchor"):
        ewc.Penalty(1.0, fisher=[np.ones(2)], anchor=[np.array([np.nan, 0.0])])


def test_trees_of_other_keys_say_what_they_were_for():
    penalty = ewc.Penalty(1.0).add_task({"a": np.ones(2)}, {"a": np.ones(2)})
    with pytest.raises(ValueError, match=r"Penalty\.value: params: trees differ at the root"):
        penalty.value({"b": np.ones(2)})
