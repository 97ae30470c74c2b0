"""l2l.optax: the updates of tinymeta's LSTMOptimizer in JAX, under its transformations and in optax's chains."""

import functools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from l2l import adapters, settings

jax = pytest.importorskip("jax", reason="the adapter for JAX runs where it is installed")

import jax.numpy as jnp  # noqa: E402

from tinymeta.l2l import optax as adapter  # noqa: E402

LEARNED = settings.optimizer(np.random.default_rng(0), dtype=np.float32)
RULE = adapter.lstm_optimizer(LEARNED)
G = adapters.gradients(np.random.default_rng(1))


@functools.cache
def compiled(rule):
    return jax.jit(rule.update)


def updates_of(rule, steps):
    """The updates of each step."""
    state, found = rule.init(steps[0]), []
    for g in steps:
        updates, state = compiled(rule)(g, state)
        found.append(jax.tree.map(np.asarray, updates))
    return found


def assert_identical(a, b):
    """Bit for bit, in structure and dtypes too."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def after(steps, rule=RULE):
    """(updates, state) after these steps."""
    state = rule.init(steps[0])
    for g in steps:
        updates, state = compiled(rule)(g, state)
    return updates, state


# ---- the same numbers ----


@hypothesis_settings(max_examples=6)  # each is compiled
@given(case=adapters.cases())
def test_the_updates_are_those_of_tinymeta(case):
    found = updates_of(adapter.lstm_optimizer(case.learned), case.gradients)
    adapters.assert_same(found, adapters.expected(*case), case.learned)


@pytest.mark.parametrize("p", [None, 10.0])
def test_in_float64_too_where_it_is_enabled(p):
    learned = settings.optimizer(np.random.default_rng(0), p=p, dtype=np.float32)
    steps = [adapters.gradients(np.random.default_rng(seed)) for seed in range(3)]
    case = adapters.widened(adapters.Case(learned, steps))
    with jax.enable_x64(True):
        found = updates_of(adapter.lstm_optimizer(learned), case.gradients)
    adapters.assert_same(found, adapters.expected(*case), learned)


def test_a_saved_file_gives_the_same_updates(tmp_path):
    LEARNED.save(tmp_path / "o.npz")
    assert_identical(after([G, G], adapter.lstm_optimizer(str(tmp_path / "o.npz"))), after([G, G]))


# ---- dtypes ----


def test_float32_stays_float32_where_float64_is_enabled():
    usual = after([G])
    with jax.enable_x64(True):
        assert_identical(after([G]), usual)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
def test_half_precision_is_computed_in_float32_and_cast(dtype):
    half = jax.tree.map(lambda x: jnp.asarray(x, dtype), G)
    found, state = after([half, half])
    wanted, wanted_state = after([jax.tree.map(lambda x: x.astype(jnp.float32), half)] * 2)
    assert_identical(found, jax.tree.map(lambda x: x.astype(dtype), wanted))
    assert_identical(state, wanted_state)


def test_gradients_of_another_precision_than_the_parameters_keep_the_state_as_it_is():
    usual, usual_state = after([G])
    state = RULE.init(jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), G))
    assert_identical(compiled(RULE)(G, state), (usual, usual_state))
    with jax.enable_x64(True):
        updates, state = compiled(RULE)(adapters.in_float64(G), usual_state)
        assert_identical(state, compiled(RULE)(G, usual_state)[1])
        assert {x.dtype for x in updates.values()} == {np.dtype(np.float64)}


# ---- transformations ----


def test_a_scan_of_steps_is_the_loop():
    steps = [adapters.gradients(np.random.default_rng(seed)) for seed in range(3)]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *steps)
    swapped = lambda state, g: compiled(RULE)(g, state)[::-1]
    state, updates = jax.lax.scan(swapped, RULE.init(steps[0]), stacked)
    found, wanted = (jax.tree.map(lambda x: x[-1], updates), state), after(steps)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-6), found, wanted)


def test_one_can_differentiate_through_an_update_at_a_gradient_of_zero():
    f = jax.jit(jax.grad(lambda g: jnp.sum(RULE.update(g, RULE.init(g))[0])))
    assert np.isfinite(f(jnp.array([0.0, 1e-6, -1.0]))).all()


def test_an_empty_tree_is_no_problem():
    updates, state = RULE.update({"a": None}, RULE.init({"a": None}))
    assert updates == {"a": None}
    assert {x.shape[0] for x in jax.tree.leaves(state)} == {0}


# ---- NaN and inf ----


def spoilt(value):
    return G | {"leaf1": np.array([value, 1, -1], np.float32)}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_entry_spoils_no_other(bad):
    found, wanted = after([spoilt(bad), G]), after([spoilt(0.0), G])
    row = 1  # leaf0 is a scalar
    others = lambda x: np.delete(np.asarray(x), row, axis=0)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(others(a), others(b)), found[1], wanted[1])
    assert not np.array_equal(found[1].layers[0][0][row], wanted[1].layers[0][0][row])
    for name in G:
        keep = slice(1, None) if name == "leaf1" else ...
        np.testing.assert_array_equal(found[0][name][keep], wanted[0][name][keep])


def test_such_entries_count_as_zero_if_one_says_so():
    rule = adapter.lstm_optimizer(LEARNED, nonfinite="zero")
    for bad in (np.nan, np.inf, -np.inf):
        assert_identical(after([spoilt(bad), G], rule), after([spoilt(0.0), G]))


# ---- refusals, when traced ----


def test_a_leaf_that_is_not_of_floats_is_refused_by_its_path():
    tree = {"w": [np.zeros(2, np.float32), np.zeros((2, 3), np.int32)]}
    with pytest.raises(TypeError, match=r"leaf \['w'\]\[1\] is int32\[2, 3\], expected floats"):
        RULE.init(tree)
    with pytest.raises(TypeError, match="the leaf is complex64"):
        jax.jit(RULE.update)(jnp.zeros(2, jnp.complex64), RULE.init(np.zeros(2, np.float32)))


def a_scan(rule):
    return lambda g, state: jax.lax.scan(lambda state, g: rule.update(g, state)[::-1], state, stacked(g))


def stacked(g):
    return jax.tree.map(lambda x: jnp.stack([x, x]), g)


WAYS = {
    "as it is": lambda rule: rule.update,
    "jit": lambda rule: jax.jit(rule.update),
    "jit that donates": lambda rule: jax.jit(rule.update, donate_argnums=1),
    "scan": a_scan,
    "jit of scan": lambda rule: jax.jit(a_scan(rule)),
    "vmap": lambda rule: lambda g, state: jax.vmap(rule.update, (0, None))(stacked(g), state),
    "grad": lambda rule: jax.grad(lambda g, state: sum(map(jnp.sum, jax.tree.leaves(rule.update(g, state)[0])))),
}
OTHER_PARAMETERS = [
    ({"a": (2,), "b": (3,)}, {"a": (3,), "b": (2,)}, r"first \['a'\]\[2\] where they have \['a'\]\[3\]"),
    ({"a": (2,), "b": (3,)}, {"a": (2,), "c": (3,)}, r"first \['b'\]\[3\] where they have \['c'\]\[3\]"),
    ({"a": (2,), "b": (3,)}, {"x": (5,)}, r"first \['a'\]\[2\] where they have \['x'\]\[5\]"),
    ({"a": (5,)}, {"a": (5,), "b": (0,)}, r"first no leaf where they have \['b'\]\[0\]"),
    ({"a": (2, 3)}, {"a": (3, 2)}, r"first \['a'\]\[2, 3\] where they have \['a'\]\[3, 2\]"),
    ({"a": (2, 3)}, {"a": (2, 4)}, r"first \['a'\]\[2, 3\] where they have \['a'\]\[2, 4\]"),
]


def of_shapes(tree):
    return {name: jnp.ones(shape) for name, shape in tree.items()}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("params", "grads", "first"),
    OTHER_PARAMETERS,
    ids=["swapped sizes", "other names", "flat", "a leaf more", "transposed", "another size"],
)
def test_a_state_for_other_parameters_is_refused_and_kept(way, params, grads, first):
    state = jax.tree.map(lambda x: x + 1, RULE.init(of_shapes(params)))
    kept = jax.tree.map(np.array, state)
    with pytest.raises(ValueError, match=rf"other paths or shapes than these gradients, {first}; call init\(params\)"):
        WAYS[way](RULE)(of_shapes(grads), state)
    assert_identical(jax.tree.map(np.asarray, state), kept)


@pytest.mark.parametrize("way", WAYS)
def test_a_state_for_these_parameters_is_taken(way):
    params = of_shapes(OTHER_PARAMETERS[0][0])
    WAYS[way](RULE)(params, RULE.init(params))


def test_a_state_of_another_network_is_refused():
    other = adapter.lstm_optimizer(settings.optimizer(np.random.default_rng(0), hidden=(5,), dtype=np.float32))
    sentence = r"shapes \[\(14, 5\), \(14, 5\)\], an optimizer of these layers has \[\(14, 4\), \(14, 4\), \(14, 3\)"
    with pytest.raises(ValueError, match=sentence):
        compiled(RULE)(G, other.init(G))
    with pytest.raises(TypeError, match=r"the state is of type tuple, expected that of init\(params\)"):
        compiled(RULE)(G, RULE.init(G).layers)


def test_a_state_survives_pickle_and_is_a_tree_of_its_arrays():
    state = after([G])[1]
    assert [x.shape for x in jax.tree.leaves(state)] == [(14, 4), (14, 4), (14, 3), (14, 3)]
    assert_identical(pickle.loads(pickle.dumps(state)), state)


def test_a_choice_that_jit_cannot_offer_is_refused():
    with pytest.raises(ValueError, match="nonfinite is 'raise', expected 'propagate' or 'zero'"):
        adapter.lstm_optimizer(LEARNED, nonfinite="raise")


# ---- with optax ----


@pytest.fixture
def optax():
    return pytest.importorskip("optax", reason="chains are tested where optax is installed")


def test_a_chain_is_its_parts(optax):
    rule = optax.chain(optax.clip(0.5), RULE, optax.scale(2.0))
    updates, _ = compiled(rule)(G, rule.init(G), G)
    clipped = jax.tree.map(lambda g: np.clip(g, -0.5, 0.5), G)
    wanted = jax.tree.map(lambda u: 2 * u, compiled(RULE)(clipped, RULE.init(G))[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), updates, wanted)


def test_apply_if_finite_leaves_a_bad_step_out(optax):
    rule = optax.apply_if_finite(RULE, max_consecutive_errors=3)
    bad_updates, state = after([G, spoilt(np.nan)], rule)
    assert not any(np.any(x) for x in jax.tree.leaves(bad_updates))
    assert_identical(compiled(rule)(G, state)[0], after([G, G])[0])


def test_other_leaves_may_have_another_rule(optax):
    labels = {name: "learned" if name == "leaf1" else "sgd" for name in G}
    rule = optax.multi_transform({"learned": RULE, "sgd": optax.sgd(0.1)}, labels)
    updates, _ = after([G], rule)
    np.testing.assert_allclose(updates["leaf1"], after([{"leaf1": G["leaf1"]}])[0]["leaf1"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(updates["leaf2"], -0.1 * G["leaf2"], rtol=1e-6)


def test_a_chains_state_for_other_parameters_is_refused(optax):
    rule = optax.chain(optax.clip(0.5), RULE)
    params, grads, first = of_shapes(OTHER_PARAMETERS[0][0]), of_shapes(OTHER_PARAMETERS[0][1]), OTHER_PARAMETERS[0][2]
    with pytest.raises(ValueError, match=first):
        compiled(rule)(grads, rule.init(params))


def test_a_group_of_leaves_knows_which_they_are(optax):
    shape = {"a": (2,), "b": (3,), "c": (2,)}
    params, grads = of_shapes(shape), of_shapes(shape | {"a": (3,), "b": (2,)})
    rule = optax.multi_transform({"learned": RULE, "sgd": optax.sgd(0.1)}, {"a": "learned", "b": "learned", "c": "sgd"})
    state = rule.init(params)
    compiled(rule)(params, state)
    with pytest.raises(ValueError, match=OTHER_PARAMETERS[0][2]):
        compiled(rule)(grads, state)
