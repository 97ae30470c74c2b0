"""Drawing a graph: what the table and the DOT say about a small function and its gradient."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

import tinymeta as tm


def loss(w):
    h = np.tanh(w * 2.0)  # the line that the table must name
    return np.sum(h * h)


def test_each_op_is_listed_once_with_its_type_bytes_and_source_line() -> None:
    listing = tm.show(loss, np.ones(3))
    assert [step.op for step in listing.steps] == ["input", "multiply", "tanh", "multiply", "sum"]
    tanh = listing.steps[2]
    assert (tanh.type, tanh.bytes, tanh.inputs) == ("float64[3]", 24, ("t0",))
    assert tanh.line.startswith("test_engine_show.py:")
    assert "the line that the table must name" in tanh.source
    assert listing.bytes == 4 * 24 + 8
    assert "5 values, 104 bytes" in str(listing)
    assert repr(listing) == str(listing)


def test_constants_are_described() -> None:
    listing = tm.show(lambda x: x @ np.ones((3, 2)), np.ones((4, 3)))
    assert listing.steps[1].inputs == ("x0", "float64[3,2]")


def test_a_gradient_shows_its_own_graph_on_the_lines_of_the_forward_ops() -> None:
    forward = {step.line for step in tm.show(loss, np.ones(3)).steps if step.line}
    gradient = tm.show(tm.grad(loss), np.ones(3))
    assert len(gradient.steps) > 5
    assert {step.line for step in gradient.steps if step.op != "input" and step.line} <= forward


def test_several_inputs_and_outputs_of_trees() -> None:
    listing = tm.show(lambda p, x: [p["w"] * x, p["b"] + x], {"w": np.ones(2), "b": np.ones(2)}, np.ones(2))
    assert [step.op for step in listing.steps] == ["input", "input", "input", "multiply", "add"]


def test_dot_has_a_node_per_value_and_an_edge_per_input() -> None:
    dot = tm.show(loss, np.ones(3)).dot
    assert dot.startswith("digraph {")
    assert dot.endswith("}")
    assert dot.count("label=") == 5
    assert dot.count(" -> ") == 5  # x0->t0, t0->t1, t1->t2 twice, t2->t3
    if shutil.which("dot"):
        drawn = subprocess.run(["dot", "-Tsvg"], input=dot, capture_output=True, text=True, check=True)
        assert "<svg" in drawn.stdout


@pytest.mark.parametrize("bad", [np.arange(3), "text"])
def test_a_value_that_has_no_derivative_is_refused(bad) -> None:
    with pytest.raises(TypeError, match="show: argument 0 is"):
        tm.show(lambda x: x, bad)


def test_what_the_engine_makes_itself_is_no_input() -> None:
    w = np.array([0.3, 0.7])
    listing = tm.show(tm.grad(lambda w: np.sum(np.sin(w) * w)), w)
    steps = {step.name: step for step in listing.steps}
    assert [step.name for step in listing.steps if step.op == "input"] == ["x0"]
    assert steps["t0"].op == "identity"
    assert steps["t0"].inputs == ("x0",)
    assert listing.steps[-1].op == "add"
    assert listing.steps[-1].inputs == ("t3", "t5")
