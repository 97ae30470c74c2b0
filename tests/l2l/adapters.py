"""What the tests of the adapters share: optimizers with gradients to run them on, and what tinymeta makes of these."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from l2l import settings

from tinymeta import l2l, trees

SHAPES = ((), (3,), (2, 3), (0, 2), (2, 1, 2))
STEPS = 4


class Case(NamedTuple):
    """A learned optimizer in float32, and a dict of float32 gradients for each of some steps."""

    learned: l2l.LSTMOptimizer
    gradients: list[dict[str, np.ndarray]]


@st.composite
def cases(draw: Any) -> Case:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    hidden, p = draw(st.sampled_from([(), (3,), (4, 2), (20, 20)])), draw(st.sampled_from([None, 10.0]))
    learned = settings.optimizer(rng, hidden, draw(st.sampled_from([0.01, 0.1, 1.0])), p, np.float32)
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4))
    return Case(learned, [gradients(rng, shapes) for _ in range(STEPS)])


def gradients(rng: np.random.Generator, shapes: Any = SHAPES) -> dict[str, np.ndarray]:
    """From 1e-7 to 10, on both sides of the e^-10 at which the preprocessing changes, and some zeros."""

    def array(shape: tuple[int, ...]) -> np.ndarray:
        size = 10.0 ** rng.uniform(-7, 1, shape) * rng.choice([-1.0, 1.0, 1.0, 0.0], shape)
        return np.asarray(size, np.float32)

    return {f"leaf{i}": array(shape) for i, shape in enumerate(shapes)}


def expected(learned: l2l.LSTMOptimizer, steps: list[dict]) -> list[dict]:
    """tinymeta's updates."""
    state, found = learned.init(steps[0]), []
    for g in steps:
        updates, state = learned.update(g, state)
        found.append(updates)
    return found


def in_float64(tree: Any) -> Any:
    return trees.map(lambda x: x.astype(np.float64), tree)


def widened(case: Case) -> Case:
    """The same numbers in float64, in which an error of the formulas is not mistaken for rounding."""
    learned = case.learned.with_weights(in_float64(case.learned.weights))
    return Case(learned, [in_float64(g) for g in case.gradients])


def assert_same(found: list[dict], wanted: list[dict], learned: l2l.LSTMOptimizer) -> None:
    """To rounding: within 8 units in the last place of the output's terms h W_out, |h| < 1, which together are at least 1."""
    scale = learned.scale * max(1.0, float(np.abs(learned.weights.W_out).sum()))
    for step, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert a.keys() == b.keys()
        for name in b:
            assert (a[name].shape, a[name].dtype) == (b[name].shape, b[name].dtype), (step, name)
            atol = 8 * scale * np.finfo(b[name].dtype).eps
            np.testing.assert_allclose(a[name], b[name], rtol=0, atol=atol, err_msg=f"step {step}, {name}")
