"""l2l.LSTMOptimizer: the protocol of tinymeta.optim, on trees, in one dtype."""

import numpy as np
import pytest
from l2l import settings

import tinymeta as tm
from tinymeta import l2l, ops, optim, trees


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_tree_is_updated_as_its_coordinates_in_order(rng):
    optimizer, params = settings.optimizer(rng), settings.tree_of(rng)
    gradients = [settings.tree_of(rng) for _ in range(3)]
    state, flat_state = optimizer.init(params), optimizer.init(np.zeros(7))
    for g in gradients:
        updates, state = optimizer.update(g, state, params)
        flat, flat_state = optimizer.update(np.concatenate([x.ravel() for x in trees.leaves(g)]), flat_state)
        assert {path: x.shape for path, x in trees.items(updates)} == {path: x.shape for path, x in trees.items(g)}
        np.testing.assert_array_equal(np.concatenate([x.ravel() for x in trees.leaves(updates)]), flat)
    np.testing.assert_array_equal(state.blocks, flat_state.blocks)


def test_nothing_given_is_changed(rng):
    optimizer, g = settings.optimizer(rng), settings.tree_of(rng)
    state = optimizer.init(g)
    given = (optimizer.weights, g, state)
    copies = trees.map(np.copy, given)
    optimizer.update(g, state, g)
    for a, b in zip(trees.leaves(given), trees.leaves(copies), strict=True):
        np.testing.assert_array_equal(a, b)


def test_in_place_the_state_is_overwritten_by_the_next(rng):
    optimizer, g = settings.optimizer(rng), settings.tree_of(rng)
    kept, given = optimizer.init(g), optimizer.init(g)
    for _ in range(2):
        updates, kept = optimizer.update(g, kept)
        updates_in_place, state = optimizer.update(g, given, in_place=True)
        assert state.blocks is given.blocks
        np.testing.assert_array_equal(state.blocks, kept.blocks)
        for a, b in zip(trees.leaves(updates), trees.leaves(updates_in_place), strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_first_state_is_zero_and_later_ones_are_not(rng):
    optimizer, g = settings.optimizer(rng, hidden=(4, 3)), rng.normal(size=(2, 5))
    state = optimizer.init(g)
    assert [(h.shape, c.shape) for h, c in optimizer.hidden(state)] == [((10, 4), (10, 4)), ((10, 3), (10, 3))]
    assert not any(x.any() for x in trees.leaves(optimizer.hidden(state)))
    _, state = optimizer.update(g, state)
    assert all(x.all() for x in trees.leaves(optimizer.hidden(state)))
    first, second = (optimizer.update(g, s)[0] for s in (optimizer.init(g), state))
    assert not np.allclose(first, second)


def test_scale_multiplies_the_updates(rng):
    one, g = settings.optimizer(rng, scale=1.0), rng.normal(size=5)
    small = l2l.LSTMOptimizer(one.weights, 0.01, one.p)
    np.testing.assert_allclose(small.update(g, small.init(g))[0], 0.01 * one.update(g, one.init(g))[0], rtol=1e-14)


def test_it_replaces_an_optimizer_of_optim(rng):
    problem = settings.quadratics(rng)
    for optimizer in (settings.optimizer(rng), optim.adam(0.1)):
        assert l2l.optimize(optimizer, problem, 3).shape == (4, 2)


@pytest.mark.parametrize("p", [None, 10.0])
@pytest.mark.parametrize("scale", [0.1, np.float64(0.1)], ids=["float", "float64"])
def test_float32_stays_float32(rng, p, scale):
    optimizer = settings.optimizer(rng, p=p, scale=scale, dtype=np.float32)
    g = settings.tree_of(rng, np.float32)
    updates, state = optimizer.update(g, optimizer.init(g))
    assert {x.dtype for x in trees.leaves((updates, state.blocks))} == {np.dtype(np.float32)}
    problem = settings.quadratics(rng, dtype=np.float32)
    assert l2l.optimize(optimizer, problem, 2).dtype == np.float32
    total, gradient = tm.value_and_grad(
        lambda w: l2l.unroll(optimizer.with_weights(w), problem, settings.start(optimizer, problem), 2)[0]
    )(optimizer.weights)
    assert {total.dtype, *(x.dtype for x in trees.leaves(gradient))} == {np.dtype(np.float32)}


def test_with_weights_changes_the_weights_alone(rng):
    optimizer, other = settings.optimizer(rng, scale=0.2, p=5.0), settings.optimizer(rng)
    changed = optimizer.with_weights(other.weights)
    assert (changed.weights, changed.scale, changed.p) == (other.weights, 0.2, 5.0)


def test_the_update_is_differentiable_in_weights_state_and_gradient(rng):
    optimizer, g = settings.optimizer(rng, hidden=(3,), p=None), rng.normal(size=2)
    blocks = rng.normal(size=optimizer.init(g).blocks.shape)

    def f(weights, blocks, g):
        updates, state = optimizer.with_weights(weights).update(g, l2l.LSTMState(blocks, 2))
        return updates, state.blocks

    tm.check.gradients(f, optimizer.weights, blocks, g, order=2)


# ---- refusals ----


def test_a_state_for_another_number_of_coordinates_is_refused(rng):
    optimizer = settings.optimizer(rng)
    sentence = r"gradients have 3 coordinates, the state is for 2; call init\(params\)"
    with pytest.raises(ValueError, match=sentence):
        optimizer.update({"a": np.ones(1), "b": np.ones((2, 1))}, optimizer.init(np.ones(2)))


@pytest.mark.parametrize(
    ("params", "grads"),
    [
        ({"a": np.ones(2), "b": np.ones(3)}, {"a": np.ones(3), "b": np.ones(2)}),
        ({"a": np.ones(2), "b": np.ones(3)}, {"a": np.ones(2), "c": np.ones(3)}),
        ({"a": np.ones((2, 3))}, {"a": np.ones((3, 2))}),
        ([np.ones(2), np.ones(3)], np.ones(5)),
    ],
    ids=["shapes", "names", "transposed", "flat"],
)
def test_a_state_for_another_tree_of_as_many_coordinates_is_refused_and_kept(rng, params, grads):
    optimizer = settings.optimizer(rng)
    _, state = optimizer.update(params, optimizer.init(params))
    before = state.blocks.copy()
    sentence = (
        r"the state is for parameters of other names or shapes than these gradients \(.*\[.*\]\).*call init\(params\)"
    )
    with pytest.raises(ValueError, match=sentence):
        optimizer.update(grads, state, in_place=True)
    np.testing.assert_array_equal(state.blocks, before)
    optimizer.update(grads, l2l.LSTMState(state.blocks, state.n))  # made by hand: the caller knows


@pytest.mark.parametrize(
    ("made_by", "given_to", "sentence"),
    [
        ((4, 3), (4,), r"the state has 14 numbers .* layers of \(4,\) has 8: .*call init\(params\) of this one"),
        ((4, 3), (7,), r"has 14 numbers .*, as layers of \(7,\) have, but is that of an optimizer with other layers"),
        ((4, 3), (3, 4), r"has 14 numbers .*, as layers of \(3, 4\) have, but is .*call init\(params\) of this one"),
        ((20, 20), (40,), r"has 80 numbers .*, as layers of \(40,\) have, but is that of .* other layers"),
    ],
    ids=str,
)
@pytest.mark.parametrize("in_place", [False, True])
def test_a_state_of_an_optimizer_with_other_layers_is_refused_and_kept(rng, made_by, given_to, sentence, in_place):
    g = {"a": np.ones(5)}
    first, second = settings.optimizer(rng, made_by), settings.optimizer(rng, given_to)
    _, state = first.update(g, first.init(g))
    before = state.blocks.copy()
    with pytest.raises(ValueError, match=sentence):
        second.update(g, state, in_place=in_place)
    with pytest.raises(ValueError, match=sentence):
        second.hidden(state)
    with pytest.raises(ValueError, match=sentence):
        second.weights_gradient(state, [g], [g])
    with pytest.raises(ValueError, match=sentence):
        tm.grad(lambda w: ops.sum(second.with_weights(w).update(g, state)[0]["a"]))(second.weights)
    np.testing.assert_array_equal(state.blocks, before)


def test_a_state_that_was_saved_before_states_knew_of_layers_still_goes_on(rng):
    optimizer, g = settings.optimizer(rng, (4, 3)), settings.tree_of(rng)
    _, state = optimizer.update(g, optimizer.init(g))
    assert 2**32 <= state.tree < 2**63  # both parts are there, and an int64 holds them
    old = state._replace(tree=state.tree & 0xFFFFFFFF)
    np.testing.assert_array_equal(optimizer.update(g, old)[0]["w"], optimizer.update(g, state)[0]["w"])
    with pytest.raises(ValueError, match="other names or shapes"):
        optimizer.update({"other": g}, old)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_is_refused_by_its_name_before_anything_changes(rng, bad):
    optimizer, g = settings.optimizer(rng), settings.tree_of(rng)
    state = optimizer.init(g)
    g["w"][0, 1] = bad
    sentence = (
        r"the gradient \['w'\], float64\[2,2\], holds 1 values that are inf or NaN; state and parameters are unchanged"
    )
    with pytest.raises(FloatingPointError, match=sentence):
        optimizer.update(g, state, in_place=True)
    assert not state.blocks.any()


def total(optimizer, state):
    return lambda weights, g: ops.sum(optimizer.with_weights(weights).update({"a": g}, state)[0]["a"])


TRANSFORMED = {
    "a derivative in the weights": lambda f: tm.grad(f),
    "a derivative in the gradient": lambda f: tm.grad(f, 1),
    "a second derivative": lambda f: tm.grad(lambda w, g: ops.sum(tm.grad(f)(w, g).W_out ** 2)),
    "vmap": lambda f: lambda w, g: tm.vmap(f, (None, 0))(w, np.stack([np.zeros(2), g])),
    "vmap of a derivative": lambda f: lambda w, g: tm.vmap(tm.grad(f), (None, 0))(w, np.stack([np.zeros(2), g])),
    "compile": lambda f: tm.compile(f),
    "compile of a derivative": lambda f: tm.compile(tm.grad(f)),
}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("way", TRANSFORMED)
def test_such_a_gradient_is_refused_inside_every_transformation(rng, way, bad):
    optimizer = settings.optimizer(rng)
    f = TRANSFORMED[way](total(optimizer, optimizer.init({"a": np.zeros(2)})))
    for _ in range(2):  # a compiled function is replayed
        f(optimizer.weights, np.ones(2))
        with pytest.raises(FloatingPointError, match=r"the gradient \['a'\], float64\[.*\], holds 1 values"):
            f(optimizer.weights, np.array([1.0, bad]))


def test_an_update_is_the_same_under_vmap_and_compiled(rng):
    optimizer, gradients = settings.optimizer(rng), rng.normal(size=(3, 5))
    state = optimizer.init(gradients[0])
    expected = [optimizer.update(g, state)[0] for g in gradients]
    np.testing.assert_allclose(tm.vmap(lambda g: optimizer.update(g, state)[0])(gradients), expected, rtol=1e-12)
    compiled = tm.compile(optimizer.update)
    for _ in range(2):
        for g in gradients:
            updates, after = compiled(g, state)
            np.testing.assert_array_equal(updates, optimizer.update(g, state)[0])
            np.testing.assert_array_equal(after.blocks, optimizer.update(g, state)[1].blocks)
            assert after[1:] == state[1:]


@pytest.mark.parametrize("step", ["update", "weights_gradient"])
@pytest.mark.parametrize(
    ("weights", "other", "described"),
    [
        (np.float32, np.ones(2), r"float64\[2\]"),
        (np.float64, np.ones(2, np.float32), r"float32\[2\]"),
        (np.float32, np.ones(2, int), r"int64\[2\]"),
        (np.float32, 1.0, "float"),
    ],
)
def test_a_gradient_of_another_dtype_than_the_weights_is_refused_by_name(rng, step, weights, other, described):
    optimizer, grads = settings.optimizer(rng, dtype=weights), {"a": np.ones(3, weights), "b": other}
    state = optimizer.init(grads)
    dtype = np.dtype(weights)
    sentence = rf"\['b'\] is {described}, expected an array of {dtype}, .*: use \.astype\(np\.{dtype}\)"
    with pytest.raises(TypeError, match=sentence):
        optimizer.update(grads, state) if step == "update" else optimizer.weights_gradient(state, [grads], [grads])


def test_the_gradient_in_the_weights_pairs_trees_by_name(rng):
    optimizer = settings.optimizer(rng)
    gradients, d_updates = ([settings.tree_of(rng) for _ in range(3)] for _ in range(2))
    state = optimizer.init(gradients[0])
    expected = optimizer.weights_gradient(state, gradients, d_updates)
    turned = lambda tree: dict(reversed(tree.items()))
    found = optimizer.weights_gradient(state, [*gradients[:2], turned(gradients[2])], list(map(turned, d_updates)))
    for a, b in zip(trees.leaves(found), trees.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="the state is for parameters of other names or shapes"):
        optimizer.weights_gradient(state, list(map(turned, gradients)), d_updates)


def tree(w=(2, 3), **more):
    return {"w": np.ones(w), **more}


@pytest.mark.parametrize(
    ("gradients", "d_updates", "sentence"),
    [
        ([], [], "0 gradients and 0 d_updates, expected one of each for every step, and at least one"),
        ([tree()], [tree()] * 2, "1 gradients and 2 d_updates"),
        ([tree()], [tree((3, 2))], r"d_updates has \(\['w'\]\[3,2\]\), .* first step is \(\['w'\]\[2,3\]\)"),
        ([tree(), tree((3, 2))], [tree()] * 2, "gradients has"),
        ([tree()], [tree(b=np.ones(1))], "trees differ at the root"),
        ([tree((70, 3))], [tree()], "gradients have 210 coordinates, the state is for 6"),
    ],
)
def test_steps_that_do_not_fit_together_are_refused(rng, gradients, d_updates, sentence):
    optimizer = settings.optimizer(rng)
    with pytest.raises(ValueError, match=sentence):
        optimizer.weights_gradient(optimizer.init(tree()), gradients, d_updates)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"hidden": 20}, r"hidden is 20, expected the units of each layer, 1 or more, such as \(20, 20\)"),
        ({"hidden": (4, 0)}, r"hidden is \(4, 0\), expected"),
        ({"hidden": (2.5,)}, r"hidden is \(2\.5,\), expected"),
        ({"scale": np.nan}, "scale is nan, expected a finite number"),
        ({"scale": "a"}, "scale is 'a', expected a finite number"),
        ({"p": 0.0}, r"p is 0\.0, expected 0 < p < 88\.72, or None"),
        ({"p": 1000.0}, r"p is 1000\.0, expected"),
    ],
)
def test_settings_that_make_no_optimizer_are_refused(rng, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        l2l.LSTMOptimizer.create(rng, **wrong)


@pytest.mark.parametrize("tree", [{}, {"a": None}])
def test_an_empty_tree_is_refused(rng, tree):
    optimizer = settings.optimizer(rng)
    with pytest.raises(ValueError, match="the gradients are an empty tree"):
        optimizer.update(tree, optimizer.init(tree))


def test_a_p_that_does_not_fit_the_weights_is_refused(rng):
    two_inputs = settings.optimizer(rng, p=10.0)
    one_input = l2l.LSTMOptimizer(two_inputs.weights, p=None)
    with pytest.raises(ValueError, match="W has shape"):
        one_input.update(np.ones(2), one_input.init(np.ones(2)))


def test_no_coordinates_at_all_are_no_problem(rng):
    optimizer, g = settings.optimizer(rng), np.ones((0, 3))
    updates, _ = optimizer.update(g, optimizer.init(g))
    assert updates.shape == (0, 3)
    assert (
        tm.grad(lambda w: ops.sum(optimizer.with_weights(w).update(g, optimizer.init(g))[0]))(optimizer.weights).b_out
        == 0
    )


@pytest.mark.parametrize("number", [np.float32, lambda x: np.asarray(x, np.float32)], ids=["scalar", "array"])
def test_scalars_of_numpys_are_read_where_they_are(rng, number):
    """tm.grad gives np.float32 for a number, which has no memory that stays."""
    optimizer = settings.optimizer(rng, hidden=(20, 20), dtype=np.float32)
    gradients = {name: number(g) for name, g in zip("abc", (-3.0, 0.5, 1e-4), strict=True)}
    whole = np.array([*map(float, gradients.values())], np.float32)
    state, whole_state = optimizer.init(gradients), optimizer.init(whole)
    for _ in range(2):
        updates, state = optimizer.update(gradients, state)
        expected, whole_state = optimizer.update(whole, whole_state)
        np.testing.assert_array_equal([*updates.values()], expected)
