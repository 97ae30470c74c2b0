"""What a compiled function sees beside its arguments: arrays are read in each call, what is bound anew makes another program."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinymeta as tm
from tinymeta import ops, optim

X = np.array([1.0, 2.0, 3.0])


def programs(f):
    return len(f._programs)


# ---- constants ----


def test_constants_are_listed_with_their_lines_and_stay_alive():
    scale = np.array([1.0, 2.0, 4.0])
    compiled = tm.compile(lambda x: ops.sin(x) * scale)
    compiled(X)
    (constant,) = compiled.constants
    assert constant.array is scale
    assert re.search(r"test_compile_closure\.py:\d+$", constant.line)
    assert "scale" in constant.source
    scale[:] = 0
    np.testing.assert_array_equal(compiled(X), 0 * X)


def test_a_constant_of_one_number_is_still_the_users():
    ones, twos = np.ones(3), np.full(6, 2.0)
    compiled = tm.compile(lambda x: ops.sin(x) * ones + twos[::2])
    np.testing.assert_array_equal(compiled(X), np.sin(X) + 2)
    ones[:], twos[:] = 0, 5
    np.testing.assert_array_equal(compiled(X), np.full(3, 5.0))
    gradient = tm.compile(tm.grad(lambda x: ops.mean(ops.sin(x))))
    gradient(X)
    assert gradient.constants == [], "the cotangent 1/3 of a mean is a number, not an array"


SCALE = 2.0


def test_a_variable_that_is_bound_anew_makes_another_program():
    factor, table, inner = 3.0, np.ones(3), lambda x: ops.sin(x) * factor

    def f(x):
        return inner(x) + table * SCALE

    compiled = tm.compile(tm.value_and_grad(lambda x: ops.sum(f(x))))
    assert compiled(X)[0] == np.sum(3 * np.sin(X) + 2)
    factor = 5.0
    assert compiled(X)[0] == np.sum(5 * np.sin(X) + 2)
    table = np.zeros(3)
    assert compiled(X)[0] == np.sum(5 * np.sin(X))
    inner = ops.exp
    assert compiled(X)[0] == np.sum(np.exp(X))
    assert programs(compiled) == 4
    compiled(X)
    assert programs(compiled) == 4


def test_a_global_number_that_changes_makes_another_program(monkeypatch):
    compiled = tm.compile(functools.partial(lambda y, x: x * SCALE + y, 1.0))
    for scale in (2.0, 7.0, 7.0):
        monkeypatch.setitem(globals(), "SCALE", scale)
        np.testing.assert_array_equal(compiled(X), X * scale + 1)
    assert programs(compiled) == 2


HELPERS = {
    "a lambda": lambda x: (lambda: x * SCALE)(),
    "a list": lambda x: ops.sum(np.stack([x * SCALE for _ in range(1)]), axis=0),
    "a lambda in a lambda": lambda x: (lambda: (lambda: x * SCALE)())(),
    "a compiled helper": lambda x: times_scale(x),
    "a helper by default": lambda x, helper=lambda x: x * SCALE: helper(x),
    "a helper": lambda x: helper(x),
    "a method": lambda x: SCALER.times(x),
    "a bound method": lambda x: TIMES(x),
    "an object that is called": lambda x: SCALER(x),
    "a method of a class": lambda x: Scaler.times(None, x),
    "a method that calls another": lambda x: SCALER.twice(x) / 2,
    "a method of its base": lambda x: SCALER.of_base(x),
    "a property": lambda x: SCALER.scale * x,
    "a static method": lambda x: SCALER.still(x),
    "a decorated method": lambda x: SCALER.decorated(x),
    "a compiled method": lambda x: SCALER.compiled(x),
    "a method of one of two heirs": lambda x: OTHER.inherited(x) * 0 + SCALER.inherited(x) + OTHER.inherited(x) * 0,
}
times_scale = tm.compile(lambda x: x * SCALE)


def helper(x):
    return x * SCALE


def scaled(method):
    @functools.wraps(method)
    def wrapper(self, x):
        return method(self, x) * SCALE

    return wrapper


class Base:
    def of_base(self, x):
        return x * SCALE

    def inherited(self, x):
        return self.own(x)


class Other(Base):
    def own(self, x):
        return x


class Scaler(Base):
    def __call__(self, x):
        return x * SCALE

    def times(self, x):
        return x * SCALE

    def twice(self, x):
        return 2 * self.times(x)

    def of_base(self, x):
        return super().of_base(x)

    @property
    def scale(self):
        return SCALE

    @staticmethod
    def still(x):
        return x * SCALE

    @scaled
    def decorated(self, x):
        return x

    @tm.compile
    def compiled(self, x):
        return x * SCALE

    def own(self, x):
        return x * SCALE


class Static:
    @staticmethod
    def times(x):
        return 2 * x


SCALER, OTHER = Scaler(), Other()
TIMES = SCALER.times


@pytest.mark.parametrize("where", HELPERS)
def test_a_global_is_watched_wherever_it_is_read(where, monkeypatch):
    compiled = tm.compile(HELPERS[where])
    for scale in (2.0, 7.0, 7.0):
        monkeypatch.setitem(globals(), "SCALE", scale)
        np.testing.assert_array_equal(compiled(X), X * scale)
    assert programs(compiled) == 2


@dataclass
class Layer:
    w: Any

    def __call__(self, x):
        return self.w * x * SCALE


class Applied(NamedTuple):
    w: Any

    def to(self, x):
        return self.w * x * SCALE


CALLED = {
    "a function": (lambda f, x: f(x), helper, X),
    "a callable argument": (lambda f, x: f(x), Scaler(), X),
    "a method of an argument": (lambda f, x: f.times(x), Scaler(), X),
    "a layer": (lambda layer, x: layer(x), Layer(np.ones(3)), X),
    "a method of a tree": (lambda p, x: p["a"].to(x), {"a": Applied(np.ones(3))}, X),
}


@pytest.mark.parametrize("which", CALLED)
def test_a_global_is_watched_by_what_the_arguments_call(which, monkeypatch):
    f, *args = CALLED[which]
    compiled = tm.compile(f)
    for scale in (2.0, 7.0, 7.0):
        monkeypatch.setitem(globals(), "SCALE", scale)
        np.testing.assert_array_equal(compiled(*args), X * scale)
    assert programs(compiled) == 2


def test_a_global_is_watched_in_the_object_that_is_compiled(monkeypatch):
    compiled = tm.compile(tm.grad(lambda x: np.sum(SCALER(x)))), tm.compile(Scaler())
    for scale in (2.0, 7.0, 7.0):
        monkeypatch.setitem(globals(), "SCALE", scale)
        np.testing.assert_array_equal(compiled[0](X), np.full(3, scale))
        np.testing.assert_array_equal(compiled[1](X), X * scale)


@pytest.mark.parametrize(
    "other", [lambda x: x + 1, np.sin, functools.partial(np.add, 2.0), tm.compile(lambda x: x * 3)]
)
def test_a_global_function_that_is_bound_anew_makes_another_program(other, monkeypatch):
    compiled = tm.compile(lambda x: 2 * helper(x))
    compiled(X)
    monkeypatch.setitem(globals(), "helper", other)
    np.testing.assert_array_equal(compiled(X), 2 * other(X))
    assert programs(compiled) == 2


def test_a_class_that_is_defined_anew_makes_another_program(monkeypatch):
    compiled = tm.compile(lambda x: Static.times(x))
    compiled(X)
    monkeypatch.setitem(globals(), "Static", type("Static", (), {"times": staticmethod(lambda x: 7 * x)}))
    np.testing.assert_array_equal(compiled(X), 7 * X)


def test_a_global_is_watched_in_a_wrapper_of_a_function_of_the_library(monkeypatch):
    @functools.wraps(ops.tanh)
    def scaled_tanh(x):
        return SCALE * ops.tanh(x)

    compiled = tm.compile(lambda x: scaled_tanh(x))
    for scale in (2.0, 7.0):
        monkeypatch.setitem(globals(), "SCALE", scale)
        np.testing.assert_array_equal(compiled(X), scale * np.tanh(X))


def test_an_attribute_of_a_global_name_is_no_global(monkeypatch):
    compiled = tm.compile(lambda state: state.step + 1)
    for step in range(3):
        monkeypatch.setitem(globals(), "step", step)
        assert compiled(optim.State(np.asarray(step))) == step + 1
    assert programs(compiled) == 1


def test_a_variable_that_is_bound_anew_at_each_call_is_warned_of_and_old_programs_go():
    factor = 0.0
    compiled = tm.compile(lambda x: x * factor)

    def thirty_calls():
        nonlocal factor
        for _ in range(30):
            factor += 1.0
            np.testing.assert_array_equal(compiled(X), X * factor)

    with pytest.warns(RuntimeWarning, match=r"compiled 8 times, last for a variable outside of it .*np.asarray"):
        thirty_calls()
    assert programs(compiled) == 9, "the last one, and eight in case a variable goes to and fro"


VIEWS_OF_VIEWS = {
    "windows": lambda w: np.lib.stride_tricks.sliding_window_view(w, 3)[0],
    "a buffer's part": lambda w: np.frombuffer(memoryview(w))[1:],
    "a buffer's shape": lambda w: np.frombuffer(memoryview(w)).reshape(2, 2)[0, :1],
}


@pytest.mark.parametrize("name", VIEWS_OF_VIEWS)
def test_a_constant_that_is_a_view_of_a_view_is_read_in_each_call(name):
    w = np.ones(4)
    compiled = tm.compile(lambda x: x + VIEWS_OF_VIEWS[name](w)[:1])
    compiled(X)
    w[:] = [1.0, 2.0, 3.0, 4.0]
    w += 5
    np.testing.assert_array_equal(compiled(X), X + VIEWS_OF_VIEWS[name](w)[:1])


def test_a_module_of_the_users_may_have_the_name_of_one_of_pythons():
    named = {"__name__": "code.helpers", "__file__": "/home/someone/code/helpers.py", "SCALE": 1.0}
    exec("def scaled(x):\n    return x * SCALE", named)
    compiled = tm.compile(named["scaled"])
    np.testing.assert_array_equal(compiled(X), X)
    named["SCALE"] = 3.0
    np.testing.assert_array_equal(compiled(X), 3 * X)
