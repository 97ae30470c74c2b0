"""Convolutions in blocks of images: the blocks change neither values nor derivatives, and agree with PyTorch's on real sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import ops
from tinymeta.ops import conv


def value_and_gradients(x, w, stride, padding):
    scalar = lambda x, w: np.sum(ops.conv2d(x, w, stride, padding) ** 2)
    return scalar(x, w), *tm.grad(scalar, argnums=(0, 1))(x, w)


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 7),
    tasks=st.sampled_from([((), ()), ((2,), ()), ((), (2,)), ((3,), (3,))]),
    stride=st.integers(1, 2),
    limit=st.sampled_from([1, 2000, 12_000]),
)
def test_one_image_at_a_time_is_all_at_once_whatever_the_layout(seed, n, tasks, stride, limit):
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(*tasks[0], n, 2, 5, 4)), rng.normal(size=(*tasks[1], 3, 2, 3, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv, "BLOCK_BYTES", limit)
        blocks = value_and_gradients(np.asfortranarray(x), np.asfortranarray(w), stride, 1)
    for a, b in zip(blocks, value_and_gradients(x, w, stride, 1), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_float32_at_the_size_of_a_training_step_is_as_exact_as_pytorch(stride):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(16, 16, 16, 16)), rng.normal(size=(16, 16, 5, 5))
    tx, tw = (torch.tensor(a, requires_grad=True) for a in (x, w))
    y = torch.nn.functional.conv2d(tx, tw, stride=stride, padding=2).square().sum()
    exact = [y.item(), *(g.numpy() for g in torch.autograd.grad(y, (tx, tw)))]
    for ours, theirs in zip(value_and_gradients(x, w, stride, 2), exact, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-10)
    single = value_and_gradients(x.astype(np.float32), w.astype(np.float32), stride, 2)
    for ours, theirs in zip(single, exact, strict=True):
        assert ours.dtype == np.float32
        assert np.abs(ours - theirs).max() < 3e-6 * np.abs(theirs).max()
