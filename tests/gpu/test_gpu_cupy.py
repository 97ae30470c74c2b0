"""The tests of tests/test_duck.py once more, on CuPy arrays and a real GPU: `make gpu`. It fails where there is none."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
import pytest
import test_duck

import tinymeta as tm


def on_gpu(tree: Any) -> Any:
    return tm.trees.map(lambda x: cupy.asarray(x) if isinstance(x, (np.ndarray, np.generic)) else x, tree)


def assert_close(on_device: Any, on_numpy: Any, atol: float = 0.0) -> None:
    for a, b in zip(tm.trees.leaves(on_device), tm.trees.leaves(on_numpy), strict=True):
        assert isinstance(a, cupy.ndarray), f"{type(a).__name__} came out of a computation on the GPU"
        tolerance = 1e-4 if np.asarray(b).dtype == np.float32 else 1e-9
        np.testing.assert_allclose(
            cupy.asnumpy(a), b, rtol=tolerance, atol=max(atol, tolerance * max(1, np.max(np.abs(b), initial=0)))
        )


@pytest.fixture(autouse=True)
def _gpu_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_duck, "ducks", on_gpu)
    monkeypatch.setattr(test_duck, "assert_same", assert_close)


test_ops = test_duck.test_ops_and_their_derivatives_stay_on_the_array_type
test_matrices = test_duck.test_matrix_functions_stay_on_the_array_type
test_convolution = test_duck.test_a_convolutional_net_with_batch_norm_and_pooling
test_transforms = test_duck.test_checkpoint_jacobian_and_linearize
test_l2l = test_duck.test_the_learned_optimizer_trains
test_maml = test_duck.test_maml_adapts_and_its_meta_gradient_flows
test_ewc = test_duck.test_fisher_and_the_ewc_penalty
