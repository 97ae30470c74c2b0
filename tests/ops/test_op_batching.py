"""tm.vmap of every op is a Python loop over the examples: its values, and its derivatives to second order inside and outside."""

import importlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import ops, trees
from tinymeta.check import strategies, table
from tinymeta.check.cases import CASES
from tinymeta.engine import structural
from tinymeta.engine.batched import RULES
from tinymeta.engine.tensor import Prim

EXAMPLES = [1, 3]


def assert_same(got, expected):
    for a, b in zip(trees.leaves(got), trees.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * (1 + np.max(np.abs(b), initial=0)))


def loop(f, in_axes, out_axis=0):
    """What tm.vmap(f, in_axes, out_axis) is, with NumPy alone around the calls of f."""

    def looped(*xs):
        n = next(x.shape[a] for x, a in zip(xs, in_axes, strict=True) if a is not None)
        results = [
            f(*(x if a is None else np.take(x, i, a) for x, a in zip(xs, in_axes, strict=True))) for i in range(n)
        ]
        return trees.map(lambda *ys: np.stack(ys, out_axis), *results)

    return looped


@st.composite
def examples_of(draw, xs):
    """in_axes, and arrays that hold along them n versions of xs within the domains of the ops."""
    factors = np.linspace(0.8, 1.1, draw(st.sampled_from(EXAMPLES)))
    axes = [draw(st.none() | st.integers(-x.ndim - 1, x.ndim)) for x in xs]
    if all(a is None for a in axes):
        axes[draw(st.integers(0, len(xs) - 1))] = 0
    several = [x if a is None else np.stack([c * x for c in factors], a) for x, a in zip(xs, axes, strict=True)]
    return tuple(axes), several


def total(f):
    """f as a curved function of the list of its arrays to a number."""
    return lambda xs: sum((ops.sum(ops.square(y) * y) for y in trees.leaves(f(*xs))), start=np.zeros(()))


def directions(xs):
    return [np.cos(np.arange(x.size)).reshape(x.shape) for x in xs]


def function_of(name, data):
    f, xs = strategies.as_function(getattr(ops, name), *data.draw(strategies.arrays_for(name)))
    axes, several = data.draw(examples_of(xs))
    return f, axes, several


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=8)
@given(data=st.data())
def test_the_values_of_every_op(name, data):
    f, axes, several = function_of(name, data)
    assert_same(tm.vmap(f, axes)(*several), loop(f, axes)(*several))


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=4)
@given(data=st.data())
def test_second_derivatives_of_every_op_inside_a_vmap(name, data):
    f, axes, several = function_of(name, data)
    mode = data.draw(st.sampled_from(["forward-over-reverse", "reverse-over-reverse"]))

    def derivatives(*xs):
        return [tm.grad(total(f))(list(xs)), tm.hvp(total(f), list(xs), directions(xs), mode)]

    assert_same(tm.vmap(derivatives, axes)(*several), loop(derivatives, axes)(*several))


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=4)
@given(data=st.data())
def test_second_derivatives_of_every_op_around_a_vmap(name, data):
    f, axes, several = function_of(name, data)
    mode = data.draw(st.sampled_from(["forward-over-reverse", "reverse-over-reverse"]))
    whole, parts = (total(each(f, axes)) for each in (tm.vmap, loop))
    assert_same(tm.grad(whole)(several), tm.grad(parts)(several))
    vs = directions(several)
    assert_same(tm.hvp(whole, several, vs, mode), tm.hvp(parts, several, vs, mode))


@pytest.mark.parametrize("row", table.ROWS, ids=lambda row: row.name)
def test_a_derivative_around_a_vmap_of_a_derivative(row):
    """Second order with the vmap between the two: the gradient of the examples' gradients, and of their tangents."""
    leaves = trees.leaves(tuple(row.arrays()))
    like = tuple(row.arrays())
    f = total(lambda *xs: row.function(*trees.unflatten(like, xs)))
    several = [np.stack([x, 1.1 * x]) for x in leaves]
    axes = ([0] * len(several),)

    def curvature(each, derivative):
        return tm.grad(lambda xs: np.sum(each(lambda *own: derivative(list(own)), axes[0])(*xs)))(several)

    def slope(xs):
        return sum(np.sum(g * g) for g in tm.grad(f)(xs))

    def rate(xs):
        return tm.jvp(f, (xs,), (directions(xs),))[1] ** 2

    for derivative in (slope, rate):
        assert_same(curvature(tm.vmap, derivative), curvature(loop, derivative))


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=3)
@given(data=st.data())
def test_pulls_and_pushes_that_were_made_outside_take_many_directions(name, data):
    f, xs = strategies.as_function(getattr(ops, name), *data.draw(strategies.arrays_for(name)))
    y, pull = tm.vjp(f, *xs)
    push = tm.linearize(f, *xs)[1]
    us, vs = ([np.stack([d, 2 * d, d * d]) for d in directions(like)] for like in (trees.leaves(y), xs))
    pulls = lambda *u: list(pull(trees.unflatten(y, u)))
    assert_same(tm.vmap(pulls)(*us), loop(pulls, [0] * len(us))(*us))
    assert_same(tm.vmap(push)(*vs), loop(push, [0] * len(vs))(*vs))


@pytest.mark.parametrize("row", table.ROWS, ids=lambda row: row.name)
def test_no_examples_give_no_results(row):
    like = tuple(row.arrays())
    f = lambda *xs: row.function(*trees.unflatten(like, xs))
    none = [np.zeros((0, *x.shape)) for x in trees.leaves(like)]
    one = trees.leaves(f(*trees.leaves(like)))
    assert [y.shape for y in trees.leaves(tm.vmap(f)(*none))] == [(0, *y.shape) for y in one]
    gradient = tm.grad(lambda xs: total(tm.vmap(f))(xs))(none)
    assert [g.shape for g in gradient] == [x.shape for x in none]


@settings(max_examples=15)
@given(program=strategies.compositions(), seed=st.integers(0, 99))
def test_random_compositions_with_two_vmaps_and_two_derivatives(program, seed):
    x = np.random.default_rng(seed).uniform(-1, 1, size=(2, 3, 3, 3))
    inner = lambda x: np.sum(tm.grad(program)(x) ** 2)
    nested = lambda each: lambda x: np.sum(each(each(inner, (2,)), (0,))(x) ** 2)
    assert_same(tm.grad(nested(tm.vmap))(x), tm.grad(nested(loop))(x))


# ---- mapped indices and labels ----

SHAPE = (2, 3, 4)
INTEGERS = st.integers(-2, 1)
MASKS = [np.array([True, False]), np.array([False, True, True]), np.arange(6).reshape(2, 3) % 4 > 0]
ITEMS = st.one_of(
    st.just(np.array(1)), st.just(0), st.just(slice(None)), st.just(slice(1, None)), st.just([0, 1]), st.sampled_from(MASKS),
    st.just(True), st.just(np.False_),
    st.lists(INTEGERS, min_size=2, max_size=2).map(np.array), st.just(np.array([[0, 1], [1, 1], [-1, 0]])),
)  # fmt: skip


@st.composite
def mapped_indices(draw):
    """An index with new axes and `...` in any place, and the arrays of it that differ between three examples."""
    items = draw(st.lists(ITEMS, max_size=3))
    if draw(st.booleans()):
        items.insert(draw(st.integers(0, len(items))), Ellipsis)
    if draw(st.booleans()):
        items.insert(draw(st.integers(0, len(items))), None)
    places = [k for k, i in enumerate(items) if isinstance(i, np.ndarray) and i.dtype != bool and draw(st.booleans())]
    versions = {k: np.stack([items[k], -1 - items[k], items[k] * 0]) for k in places}
    return items, versions


def all_broadcast(index):
    try:
        return np.zeros(SHAPE)[index].size >= 0
    except IndexError:
        return False


@settings(max_examples=60)
@given(
    drawn=mapped_indices().filter(lambda drawn: all_broadcast(tuple(drawn[0]))), x_axis=st.none() | st.integers(0, 3)
)
def test_mapped_indices_read_and_add_as_in_a_loop(drawn, x_axis):
    items, versions = drawn
    if not versions and x_axis is None:
        x_axis = 0
    x = np.random.default_rng(0).normal(size=SHAPE if x_axis is None else (*SHAPE[:x_axis], 3, *SHAPE[x_axis:]))

    def index(own):
        supply = iter(own)
        return tuple(next(supply) if k in versions else i for k, i in enumerate(items))

    def read(x, *own):
        return ops.getitem(x, index(own))

    def added(x, *own):
        return ops.scatter_add(x, index(own), 2 * read(x, *own))

    axes, arrays = (x_axis, *[0] * len(versions)), list(versions.values())
    for f in (read, added, lambda x, *own: tm.grad(lambda x: total(lambda x: read(x, *own))([x]))(x)):
        assert_same(tm.vmap(f, axes)(x, *arrays), loop(f, axes)(x, *arrays))
    around = lambda each: tm.grad(lambda x: np.sum(each(read, axes)(x, *arrays) ** 3))(x)
    assert_same(around(tm.vmap), around(loop))


@pytest.mark.parametrize("axes", [(0, 0), (None, 0), (0, None)])
def test_mapped_labels(axes):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(4, 3, 5)[axes[0] is None :])
    labels = rng.integers(0, 5, size=(4, 3)[axes[1] is None :])
    for f in (
        ops.softmax_cross_entropy,
        lambda x, i: ops.one_hot(i, 5) * np.float32(2) + 0 * np.sum(i),
        lambda x, i: ops.take_along_axis(x, i[:, None], -1),
        lambda x, i: ops.take(x, i % 3, axis=0),
        lambda x, i: np.argmax(x, axis=1) == i,
    ):
        assert_same(tm.vmap(f, axes)(logits, labels), loop(f, axes)(logits, labels))
    with pytest.raises(ValueError, match="softmax_cross_entropy: labels lie in"):
        tm.vmap(ops.softmax_cross_entropy, axes)(logits, labels + 3)


def test_a_mapped_boolean_index_is_refused():
    x = np.arange(6.0).reshape(2, 3)
    with pytest.raises(
        TypeError, match=r"getitem.*a mapped boolean index finds another number of elements in every example"
    ):
        tm.vmap(lambda x: x[x > 1])(x)


# ---- what has no derivative ----

PLAIN = {
    "comparison": lambda x: (x > 0.3) & ~(x == 1) | (x < -1) ^ (x != 2),
    "remainder": lambda x: (np.floor(4 * x) % 3) // 2 + np.logical_not(x > 0),
    "arctan2": lambda x: np.arctan2(x, 2.0) + np.hypot(3.0, x),
    "argmax": lambda x: [np.argmax(x), x.argmin(0), np.argmax(x, axis=-1, keepdims=True), np.argsort(x), np.argsort(x, 0)],
    "any": lambda x: [np.any(x > 1), (x > 0).all(1), (x > 0).any(), np.count_nonzero(x > 0, axis=0), (x > 0).sum()],
    "like": lambda x: [np.zeros_like(x), np.ones_like(x, dtype=int), np.full_like(x, 3, shape=(2,)), x * np.zeros_like(x)],
    "asked": lambda x: [np.zeros(np.shape(x)) + np.ndim(x) + np.size(x) + len(x), sum(row[0] for row in x), x.T, x.copy()],
    "converted": lambda x: [x.astype(np.int32), x.astype(np.float32), (x > 0).astype(x.dtype), ops.sign(x), np.isnan(x)],
    "reversed": lambda x: [2 - x, 2 / (3 + x), 2.0**x, True & (x > 0), np.ones((4, 2)) @ x[:2] + np.float64(2) * x[:1]],
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_what_has_no_derivative(name):
    x = np.random.default_rng(2).normal(size=(3, 2, 4))
    f = lambda x: trees.map(np.asarray, out) if isinstance(out := PLAIN[name](x), float) else out
    for axis in (0, 1, -1):
        assert_same(tm.vmap(f, (axis,))(x), loop(f, (axis,))(x))


def test_an_unknown_function_of_numpy_is_refused_rather_than_taken_apart():
    x = np.ones((2, 3))
    for f in (np.sort, np.median, lambda x: np.add.reduce(x), lambda x: np.add(x, x, out=np.zeros(3)), np.linalg.det):
        with pytest.raises(
            TypeError, match=r"^np\.[\w. ]+ cannot be mapped over float64\[3\]; compose it of tinymeta\.ops"
        ):
            tm.vmap(f)(x)
    with pytest.raises(TypeError, match=r"np\.arcsin has no derivative rule"):
        tm.grad(lambda x: np.sum(tm.vmap(np.arcsin)(x)))(x)
    with pytest.raises(TypeError, match=r"np\.sort has no derivative rule"):
        tm.vmap(tm.grad(lambda x: np.sum(np.sort(x))))(x)


def test_arrays_that_are_not_mapped_are_not_repeated():
    """The weights meet all examples in one product, whose derivative is one product too."""
    w, x = np.ones((6, 5)), np.ones((100, 6))
    for f in (
        lambda w, x: x @ w,
        lambda w, x: w.T @ x,
        lambda w, x: ops.conv2d(x[:, None].reshape(1, 1, 2, 3), w[None, None, :2, :3]),
    ):
        shown = tm.show(lambda w: tm.grad(lambda w: np.sum(tm.vmap(f, (None, 0))(w, x) ** 2))(w), w)  # noqa: B023
        assert max(step.bytes for step in shown.steps) <= 100 * 6 * 8


ROOMS = ("conv", "einsum", "elementwise", "indexing", "linalg", "reduce", "shape")


def test_every_primitive_of_an_op_has_a_rule():
    """A new primitive without a rule fails here, not at its first user."""
    rooms = [vars(importlib.import_module(f"tinymeta.ops.{room}")).values() for room in ROOMS]
    values = list(itertools.chain(*rooms, vars(structural).values()))
    prims = {x for x in values if type(x) is Prim} | {x.prim for x in values if type(getattr(x, "prim", None)) is Prim}
    assert len(prims) > 60
    assert [p for p in prims if p not in RULES and p.kind != "elementwise"] == []
