"""Trees: flattening and rebuilding give the tree back, and a mismatch names the place."""

from collections import Counter, OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pytest
from engine.vmapping import assert_same, loop
from hypothesis import given
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta.check import strategies
from tinymeta.check.arrays import Layer, Pair
from tinymeta.engine import trees

TREES = strategies.trees(st.integers(0, 9), max_leaves=12)
UNDERFLOW = 8 * np.finfo(np.float64).smallest_subnormal  # products below the normal numbers round to multiples


@given(tree=TREES)
def test_leaves_and_unflatten_are_inverse(tree):
    assert trees.unflatten(tree, trees.leaves(tree)) == tree


@given(tree=TREES)
def test_map_keeps_structure_and_order(tree):
    shifted = trees.map(lambda x: x + 1, tree)
    assert trees.leaves(shifted) == [x + 1 for x in trees.leaves(tree)]
    assert trees.map(lambda x: x - 1, shifted) == tree
    assert trees.map(lambda x, y: x - y, shifted, tree) == trees.map(lambda _: 1, tree)


@given(tree=TREES)
def test_paths_lead_to_their_leaves(tree):
    for path, leaf in trees.items(tree):
        node = tree
        for key in eval(f"[{path.replace('][', '],[').replace('[', '').replace(']', '')}]"):
            node = getattr(node, key) if isinstance(node, (Pair, Layer)) and isinstance(key, str) else node[key]
        assert node == leaf


@given(tree=TREES, extra=st.integers(1, 3))
def test_a_wrong_number_of_leaves_is_refused(tree, extra):
    flat = trees.leaves(tree)
    with pytest.raises(ValueError, match=f"needs {len(flat)} leaves, got more"):
        trees.unflatten(tree, flat + [0] * extra)
    if flat:
        with pytest.raises(ValueError, match=f"needs {len(flat)} leaves, got fewer"):
            trees.unflatten(tree, flat[:-1])


def assert_identical(found, tree):
    """The same structure, and leaves of the same numbers, shapes and dtypes."""
    assert [path for path, _ in trees.items(found)] == [path for path, _ in trees.items(tree)]
    for a, x in zip(trees.leaves(found), trees.leaves(tree), strict=True):
        np.testing.assert_array_equal(a, x, strict=True)


@given(tree=strategies.trees())
def test_ravel_and_its_back_are_inverse(tree):
    vector, back = trees.ravel(tree)
    assert vector.dtype == np.float64
    assert vector.tolist() == [number for x in trees.leaves(tree) for number in x.ravel()]
    assert_identical(back(vector), tree)
    np.testing.assert_array_equal(trees.ravel(back(vector + 1))[0], vector + 1, strict=True)


@pytest.mark.parametrize(
    ("tree", "dtype"),
    [
        ({"w": np.ones((2, 0), "f4"), "b": (np.full((), 3, "f4"), None)}, "f4"),
        ([np.ones((2, 1), "f2"), np.full(2, 0.1), np.arange(3), np.array(True)], "f8"),
        ([np.arange(3), np.array([[False, True]])], "i8"),
        ([], "f8"),
        (None, "f8"),
    ],
)
def test_ravel_promotes_as_concatenate_and_back_gives_each_leaf_its_dtype(tree, dtype):
    vector, back = trees.ravel(tree)
    assert vector.dtype == dtype
    assert_identical(back(vector), tree)
    assert_identical(back(vector.tolist()), tree)


def test_ravel_keeps_neither_the_tree_nor_its_leaves():
    tree = {"w": np.ones(2), "b": [np.array(3.0)]}
    vector, back = trees.ravel(tree)
    vector[:] = 5
    tree["b"].append(tree.pop("w"))
    assert tree["b"][1].tolist() == [1, 1]
    assert_identical(back(vector), {"w": np.full(2, 5.0), "b": [np.array(5.0)]})


@given(tree=strategies.trees())
def test_ravel_and_back_are_differentiated_twice(tree):
    vector, back = trees.ravel(tree)
    cubes = lambda tree: sum((np.sum(x**3) for x in trees.leaves(tree)), start=0.0)
    joined = lambda tree: np.sum(trees.ravel(tree)[0] ** 3)
    for f, x in ((lambda v: cubes(back(v)), vector), (joined, tree)):
        close = lambda found, wanted: np.testing.assert_allclose(
            trees.ravel(found)[0], wanted, rtol=1e-14, atol=UNDERFLOW
        )
        close(tm.grad(f)(x), 3 * vector**2)
        for mode in ("forward-over-reverse", "reverse-over-reverse"):
            close(tm.hvp(f, x, x, mode=mode), 6 * vector * vector)


MIXED = {"w": np.arange(6, dtype=np.float32).reshape(3, 2, 1), "b": [np.array([0.1, 0.2, 0.3])]}


def doubled_as_a_vector(tree):
    vector, back = trees.ravel(tree)
    return back(2 * vector)


def slope_along_the_vector(tree):
    vector, back = trees.ravel(tree)
    return tm.grad(lambda v: np.sum(back(v)["w"] ** 2) + np.sum(v**3))(vector)


@pytest.mark.parametrize("f", [doubled_as_a_vector, slope_along_the_vector])
def test_ravel_and_back_are_mapped_and_compiled(f):
    assert_same(tm.vmap(f)(MIXED), loop(f)(MIXED))
    compiled = tm.compile(f)
    for tree in (MIXED, doubled_as_a_vector(MIXED)):  # the second is a replay
        assert_same(compiled(tree), f(tree))


def test_ravel_gives_every_leaf_a_cotangent_in_its_own_dtype():
    gradient = tm.grad(lambda tree: np.sum(trees.ravel(tree)[0] ** 2))(MIXED)
    assert_identical(gradient, trees.map(lambda x: 2 * x, MIXED))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: trees.ravel(MIXED)[1](np.ones(8)), ValueError,
         "ravel: back was given float64[8], expected a vector of the 9 elements of the tree"),
        (lambda: trees.ravel(MIXED)[1](np.ones((3, 3))), ValueError,
         "ravel: back was given float64[3,3], expected a vector of the 9 elements of the tree"),
        (lambda: trees.ravel([1.0, {"name": "relu"}]), TypeError, "ravel: [1]['name'] is str, expected an array of numbers"),
        (lambda: trees.ravel(np.sin), TypeError, "ravel: the tree is ufunc, expected an array of numbers"),
    ],
)  # fmt: skip
def test_ravel_says_what_it_wants(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_dicts_match_by_key_whatever_their_order():
    left, right = {"a": 1, "b": [2]}, {"b": [20], "a": 10}
    assert trees.map(lambda x, y: x + y, left, right) == {"a": 11, "b": [22]}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"w": [1, 2]}, r"trees differ at the root: expected keys ['w', 'b'], got keys ['w']"),
        ({"w": [1], "b": 3}, r"trees differ at ['w']: expected keys [0, 1], got keys [0]"),
        ({"w": 1, "b": 3}, r"trees differ at ['w']: expected keys [0, 1], got a leaf"),
        (None, r"trees differ at the root: expected keys ['w', 'b'], got keys []"),
    ],
)
def test_a_mismatch_names_the_first_place(other, message):
    with pytest.raises(ValueError) as caught:
        trees.map(lambda x, y: x, {"w": [1, 2], "b": 3}, other)
    assert str(caught.value) == message


def test_a_mismatched_tangent_names_the_place():
    params = {"w": np.ones(2), "b": [np.ones(3)]}
    f = lambda p: np.sum(p["w"]) + np.sum(p["b"][0])
    with pytest.raises(ValueError, match=r"trees differ at \['b'\]"):
        tm.hvp(f, params, {"w": np.ones(2), "b": np.ones(3)})
    with pytest.raises(ValueError, match=r"float64\[4\].*float64\[3\]"):
        tm.hvp(f, params, {"w": np.ones(2), "b": [np.ones(4)]})


def test_the_kinds_of_nodes_are_kept():
    Point = namedtuple("Point", "x y")
    tree = OrderedDict(a=Point(1, (2, [3])), b=Layer(4, None))
    doubled = trees.map(lambda x: 2 * x, tree)
    assert doubled == OrderedDict(a=Point(2, (4, [6])), b=Layer(8, None))
    assert type(doubled) is OrderedDict
    assert type(doubled["a"]) is Point
    assert type(doubled["b"]) is Layer


def test_dicts_that_are_not_made_from_their_items_are_kept():
    tree = defaultdict(list, a=[1.0], b=Counter(c=2.0))
    doubled = trees.map(lambda x: 2 * x, tree)
    assert doubled == {"a": [2], "b": {"c": 4}}
    assert type(doubled) is defaultdict
    assert type(doubled["b"]) is Counter
    assert doubled["missing"] == []
    assert tree == {"a": [1], "b": {"c": 2}}
    gradient = tm.grad(lambda p: p["a"][0] * p["b"]["c"])(tree)
    assert gradient == {"a": [2], "b": {"c": 1}}


@given(tree=strategies.trees())
def test_the_gradient_is_a_tree_of_the_same_structure(tree):
    f = lambda tree: sum((np.sum(x**3) for x in trees.leaves(tree)), start=0.0)
    gradient = tm.grad(f)(tree)
    assert [path for path, _ in trees.items(gradient)] == [path for path, _ in trees.items(tree)]
    assert type(gradient) is type(tree) or isinstance(tree, np.ndarray)
    for g, x in zip(trees.leaves(gradient), trees.leaves(tree), strict=True):
        np.testing.assert_allclose(g, 3 * x**2, rtol=1e-14, atol=UNDERFLOW)
    product = tm.hvp(f, tree, tree)
    for h, x in zip(trees.leaves(product), trees.leaves(tree), strict=True):
        np.testing.assert_allclose(h, 6 * x * x, rtol=1e-14, atol=UNDERFLOW)


@dataclass
class Doubled:
    weight: Any
    cache: Any = field(init=False, default=None)

    def __post_init__(self):
        self.weight = 2 * self.weight


def test_the_gradient_of_a_dataclass_is_not_made_by_its_init():
    gradient = tm.grad(lambda p: np.sum(p.weight**2))(Doubled(np.array([1.0, 2.0])))
    np.testing.assert_array_equal(gradient.weight, [4, 8])
    assert gradient.cache is None


@dataclass
class Scaled:
    weight: Any

    @cached_property
    def total(self):
        return np.sum(self.weight**2)


def test_what_a_dataclass_has_made_of_its_fields_does_not_outlive_them():
    p, x = Scaled(np.array([1.0, 2.0])), np.ones(2)
    assert p.total == 5
    np.testing.assert_array_equal(tm.grad(lambda p: p.total)(p).weight, [2, 4])
    compiled = tm.compile(lambda p: Scaled(p.weight * p.total))
    for weight in (p.weight, x):
        found = compiled(Scaled(weight))
        np.testing.assert_array_equal(found.weight, weight * np.sum(weight**2))
        assert found.total == np.sum(found.weight**2)


def _popped(p):
    return np.sum(p.pop("w") ** 2) + 3 * p["b"]


def _reordered(p):
    for key in sorted(p):
        p[key] = p.pop(key)
    return np.sum(p["w"] ** 2) + 3 * p["b"]


def _grown(p):
    p["h"] = p["w"] ** 2
    return np.sum(p["h"]) + 3 * p["b"]


@pytest.mark.parametrize("f", [_popped, _reordered, _grown])
def test_a_function_may_change_the_containers_that_it_is_given(f):
    p = {"w": np.array([1.0, 2.0]), "b": np.float64(5)}
    gradient = tm.grad(f)(p)
    assert list(gradient) == list(p) == ["w", "b"]
    np.testing.assert_array_equal(gradient["w"], [2, 4])
    assert gradient["b"] == 3
    np.testing.assert_array_equal(tm.hvp(f, p, gradient)["w"], [4, 8])
