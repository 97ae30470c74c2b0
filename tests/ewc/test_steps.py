"""tm.ewc's optimizers: one kernel for each step against tm.optim on the summed gradients, and the limits of each step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import ewc, ops, optim
from tinymeta.engine import trees

seeds = st.integers(0, 2**32 - 1)
lams = st.sampled_from([0.0, 0.3, 7.0])
dtypes = st.sampled_from([np.float32, np.float64])
MAKERS = {
    "penalised_sgd": ewc.penalised_sgd,
    "penalised_adam": ewc.penalised_adam,
    "proximal_sgd": ewc.proximal_sgd,
    "proximal_adam": ewc.proximal_adam,
}


def weights(rng, dtype=np.float64):
    return {"w": rng.normal(size=(3, 2)).astype(dtype), "b": (rng.normal(size=2).astype(dtype),)}


def penalty_of(rng, lam, dtype=np.float64, tasks=1):
    penalty = ewc.Penalty(lam)
    for _ in range(tasks):
        fisher = trees.map(lambda w: (w * w).astype(dtype), weights(rng))
        penalty = penalty.add_task(weights(rng, dtype), fisher)
    return penalty


def loss(params):
    return ops.sum(ops.sin(params["w"])) + ops.sum(ops.square(params["b"][0] - 1.0))


def assert_trees_close(found, expected, rtol=1e-12):
    trees.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol=rtol), found, expected)


on_purpose = pytest.mark.filterwarnings("ignore:lr . lam . max.fisher.:RuntimeWarning")


@on_purpose
@given(seed=seeds, lam=lams, dtype=dtypes, tasks=st.integers(0, 2))
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_an_explicit_step_is_the_optimizer_on_loss_plus_penalty(name, seed, lam, dtype, tasks):
    rng = np.random.default_rng(seed)
    params, penalty = weights(rng, dtype), penalty_of(rng, lam, dtype, tasks)
    ours, theirs = MAKERS[f"penalised_{name}"](0.05, penalty), getattr(optim, name)(0.05)
    expected, state, their_state = params, ours.init(params), theirs.init(params)
    for _ in range(3):
        params, state = ours.step(params, tm.grad(loss)(params), state)
        total = trees.map(np.add, tm.grad(loss)(expected), penalty.grad(expected))
        updates, their_state = theirs.update(total, their_state)
        expected = optim.apply_updates(expected, updates)
        assert_trees_close(params, expected, rtol=1e-12 if dtype is np.float64 else 1e-4)
    assert {w.dtype for w in trees.leaves(params)} == {np.dtype(dtype)}
    assert state.step == 3


@on_purpose
@given(seed=seeds, lam=lams)
@pytest.mark.parametrize("name", MAKERS)
def test_update_is_the_difference_that_step_makes(name, seed, lam):
    rng = np.random.default_rng(seed)
    optimizer, params, grads = MAKERS[name](0.1, penalty_of(rng, lam)), weights(rng), weights(rng)
    state = optimizer.init(params)
    updates, by_update = optimizer.update(grads, state, params)
    after, by_step = optimizer.step(params, grads, state)
    assert_trees_close(optim.apply_updates(params, updates), after)
    trees.map(np.testing.assert_array_equal, by_update, by_step)


@given(seed=seeds, tasks=st.integers(0, 2))
@pytest.mark.parametrize("name", ["penalised_sgd", "proximal_sgd"])
def test_with_lambda_0_they_are_sgd_bit_for_bit(name, seed, tasks):
    rng = np.random.default_rng(seed)
    params, grads = weights(rng), weights(rng)
    optimizer = MAKERS[name](0.1, penalty_of(rng, 0.0, tasks=tasks))
    after, _ = optimizer.step(params, grads, optimizer.init(params))
    trees.map(np.testing.assert_array_equal, after, trees.map(lambda w, g: w - 0.1 * g, params, grads))


@pytest.mark.parametrize("name", ["penalised_adam", "proximal_adam"])
def test_scalars_of_numpys_leave_the_dtype(name):
    rng = np.random.default_rng(0)
    params, grads, penalty = weights(rng, np.float32), weights(rng, np.float32), penalty_of(rng, 0.3, np.float32)
    steps = []
    for number in (float, np.float64):
        optimizer = MAKERS[name](number(1e-2), penalty, number(0.9), number(0.999), number(1e-8))
        steps.append(optimizer.step(params, grads, optimizer.init(params)))
    trees.map(np.testing.assert_array_equal, *(step[0] for step in steps))
    assert all(w.dtype == np.float32 for w in trees.leaves([step[0] for step in steps]))


@pytest.mark.parametrize("make", [optim.adam, ewc.penalised_adam, ewc.proximal_adam], ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    ("constant", "value"),
    [("b1", 1.0), ("b2", 1.5), ("b2", np.nan), ("eps", -1), ("eps", np.float32(np.inf)), ("b1", "0.9")],
)
def test_constants_that_make_no_adam_are_refused_by_every_one_of_them(make, constant, value):
    arguments = (0.1,) if make is optim.adam else (0.1, penalty_of(np.random.default_rng(0), 0.3))
    sentence = rf"{make.__name__}: {constant} is .*, expected (a finite number, 0 or more|0 or more and less than 1)$"
    with pytest.raises(ValueError, match=sentence):
        make(*arguments, **{constant: value})


@on_purpose
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rate", [1e-2, optim.cosine(1e-2, 4)], ids=["rate", "schedule"])
@pytest.mark.parametrize("name", MAKERS)
def test_the_step_may_be_an_array_and_one_program_serves_all_steps(name, rate, dtype):
    """As np.load gives it back, and as tm.optim recommends it for tm.compile; second derivatives too."""
    rng = np.random.default_rng(0)
    start, penalty = weights(rng, dtype), penalty_of(rng, 0.3, dtype)
    optimizer = MAKERS[name](rate, penalty)
    step = lambda params, state: optimizer.step(params, tm.grad(loss)(params), state)
    begins = optimizer.init(start)
    program, rtol = tm.compile(step), 1e-12 if dtype is np.float64 else 1e-5
    expected, loaded, compiled = [(start, begins._replace(step=number)) for number in (0, np.int64(0), np.asarray(0))]
    for _ in range(3):
        expected, loaded, compiled = step(*expected), step(*loaded), program(*compiled)
        for found in (loaded, compiled):
            assert_trees_close(found, expected, rtol)
            assert {w.dtype for w in trees.leaves(found[0])} == {np.dtype(dtype)}
    assert len(program._programs) == 1
    curvature = lambda state: tm.hvp(lambda w: loss(step(w, state)[0]), start, start)
    trees.map(np.testing.assert_array_equal, curvature(begins._replace(step=np.int64(0))), curvature(begins))


@pytest.mark.parametrize("name", MAKERS)
def test_gradients_of_other_shapes_are_named_inside_a_program_too(name):
    rng = np.random.default_rng(0)
    params, optimizer = weights(rng), MAKERS[name](1e-2, penalty_of(rng, 0.3))
    state = optimizer.init(params)._replace(step=np.asarray(0))
    wrong = params | {"b": (np.ones((2, 1)),)}
    for step in (optimizer.step, tm.compile(optimizer.step)):
        with pytest.raises(ValueError, match=r"grads\['b'\]\[0\] is float64\[2,1\], expected float64\[2\]"):
            step(params, wrong, state)


def assert_steps_are_adams(name, steps, **constants):
    """A penalty without tasks leaves Adam as it is in tm.optim."""
    params = expected = weights(np.random.default_rng(0))
    ours, theirs = MAKERS[name](0.1, ewc.Penalty(3.0), **constants), optim.adam(0.1, **constants)
    state, their_state = ours.init(params), theirs.init(params)
    for _ in range(steps):
        params, state = ours.step(params, tm.grad(loss)(params), state)
        updates, their_state = theirs.update(tm.grad(loss)(expected), their_state)
        expected = optim.apply_updates(expected, updates)
    assert_trees_close(params, expected)


def test_without_a_penalty_proximal_adam_is_adam():
    assert_steps_are_adams("proximal_adam", 4)


@pytest.mark.parametrize("name", ["penalised_adam", "proximal_adam"])
def test_the_constants_of_adam_are_those_that_were_given(name):
    assert_steps_are_adams(name, 3, b1=0.5, b2=0.8, eps=0.3)


@pytest.mark.parametrize("name", ["proximal_sgd", "proximal_adam"])
@pytest.mark.parametrize("lam", [1.0, 1e3, 1e12])
def test_a_proximal_step_is_stable_at_any_lambda_and_ends_where_loss_plus_penalty_is_least(name, lam):
    rng = np.random.default_rng(1)
    target, anchor, fisher = rng.normal(size=4), rng.normal(size=4), np.array([0.0, 0.5, 1.0, 30.0])
    penalty = ewc.Penalty(lam).add_task(anchor, fisher)
    optimizer = MAKERS[name](lambda t: 0.1 / (1 + t / 20), penalty)
    w = rng.normal(size=4)
    state = optimizer.init(w)
    for _ in range(1500):
        w, state = optimizer.step(w, w - target, state)  # loss ½ |w - target|²
    np.testing.assert_allclose(w, (target + lam * fisher * anchor) / (1 + lam * fisher), atol=2e-3)


def test_the_explicit_step_diverges_where_the_proximal_one_does_not():
    penalty, w = ewc.Penalty(100.0).add_task(np.zeros(1), np.ones(1)), np.ones(1)
    with pytest.warns(RuntimeWarning, match="max.fisher. is 10: gradient descent diverges") as caught:
        explicit = ewc.penalised_sgd(0.1, penalty)
    assert [record.filename for record in caught] == [__file__]
    proximal, far, near = ewc.proximal_sgd(0.1, penalty), w, w
    for _ in range(20):
        far, _ = explicit.step(far, np.zeros(1), explicit.init(w))
        near, _ = proximal.step(near, np.zeros(1), proximal.init(w))
    assert abs(far) > 1e10
    assert abs(near) < 1e-10


def test_a_step_that_overshoots_is_warned_of_once_where_its_optimizer_is_made(monkeypatch):
    penalty, w = ewc.Penalty(100.0).add_task(np.zeros(2), np.ones(2)), np.ones(2)
    with pytest.warns(RuntimeWarning, match="is 1.5: gradient descent overshoots its anchor where it passes 1"):
        optimizer = ewc.penalised_sgd(0.015, penalty)
    looks = []
    monkeypatch.setattr(ewc.Penalty, "stability", lambda self, lr: looks.append(lr) or 0.0)
    state = optimizer.init(w)
    for _ in range(3):  # silent, and no look at F
        w, state = optimizer.step(w, np.zeros(2), state)
    for name in MAKERS:  # a function of the step is not asked in advance; other steps do not diverge
        MAKERS[name](lambda t: 1.0, penalty)
        if name != "penalised_sgd":
            MAKERS[name](1.0, penalty)
    assert looks == []


@on_purpose
@pytest.mark.parametrize("name", MAKERS)
def test_a_step_can_be_differentiated_to_second_order(name):
    rng = np.random.default_rng(2)
    optimizer, params = MAKERS[name](0.1, penalty_of(rng, 2.0)), weights(rng)

    def after_two_steps(params):
        state = optimizer.init(params)
        for _ in range(2):
            params, state = optimizer.step(params, tm.grad(loss)(params), state)
        return loss(params)

    tm.check.gradients(after_two_steps, params, order=2)


def test_update_needs_the_parameters_and_they_must_fit_the_penalty():
    rng = np.random.default_rng(0)
    params = weights(rng)
    optimizer = ewc.proximal_sgd(0.1, penalty_of(rng, 1.0))
    with pytest.raises(ValueError, match=r"needs the parameters: update\(grads, state, params\)"):
        optimizer.update(params, optimizer.init(params))
    with pytest.raises(ValueError, match=r"Penalty: params\['w'\] is float64\[4\], expected float64\[3,2\]"):
        optimizer.step({"w": np.zeros(4), "b": (np.zeros(2),)}, params, optimizer.init(params))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_rate_may_be_captured(make):
    rng = np.random.default_rng(5)
    start, penalty = weights(rng), penalty_of(rng, 0.3)
    gradients = tm.grad(loss)(start)
    step = lambda lr: make(lr, penalty).step(start, gradients, make(0.1, penalty).init(start))[0]
    assert_trees_close(tm.compile(step)(np.asarray(0.05)), step(0.05))


@pytest.mark.parametrize("name", ["penalised_adam", "proximal_adam"])
def test_an_eps_that_halves_round_to_0_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}: eps = 1e-08 is 0 in float16"):
        MAKERS[name](0.1, ewc.Penalty(1.0)).init({"w": np.zeros(2, np.float16)})


@pytest.mark.parametrize("name", ["penalised_adam", "proximal_adam"])
def test_moments_of_other_parameters_are_refused_by_name(name):
    optimizer, params = MAKERS[name](0.1, ewc.Penalty(1.0)), {"w": np.zeros(2)}
    for other, message in (
        ({"w": np.zeros(())}, r"state.m\['w'\] is float64\[\], expected float64\[2\]"),
        ({"v": np.zeros(2)}, "state.m: trees differ"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.step(params, params, optimizer.init(other))


def test_floats_of_another_byte_order_are_penalised():
    params = {"w": np.array([1.0, 2.0], ">f4")}
    penalty = ewc.Penalty(1.0).add_task(params, {"w": np.array([3.0, 4.0], ">f4")})
    optimizer = ewc.penalised_adam(0.1, penalty)
    after, _ = optimizer.step(params, params, optimizer.init(params))
    assert np.isfinite(after["w"]).all()
