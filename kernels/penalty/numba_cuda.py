"""The penalty and its steps on a GPU by Numba, to be read: one thread an entry. float32 or float64 NumPy arrays.

Runs on a GPU, or anywhere in Numba's simulator (NUMBA_ENABLE_CUDASIM=1). The fast twin is penalty.cu.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda as _cuda
from numba import float64

from . import gpu
from .reference import Array, _compilable, fold

__all__ = ["adam_step", "fold", "penalty", "penalty_grad", "proximal_step", "sgd_step"]
cuda: Any = _cuda  # its annotations describe the simulator's halves, not what compiled code sees
THREADS = 64


@cuda.jit
def _squares(theta, anchor, fisher, sums):
    """sums[block] = the block's part of sum F (theta - anchor)^2 (1), halved and halved again in shared memory."""
    shared = cuda.shared.array(THREADS, float64)
    i, lane = cuda.grid(1), cuda.threadIdx.x
    shared[lane] = 0.0
    if i < theta.size:
        d = theta[i] - anchor[i]
        shared[lane] = fisher[i] * d * d
    half = THREADS // 2
    while half:
        cuda.syncthreads()
        if lane < half:
            shared[lane] += shared[lane + half]
        half //= 2
    if lane == 0:
        sums[cuda.blockIdx.x] = shared[0]


@cuda.jit
def _gradients(theta, anchor, fisher, out, lam):  # (2)
    i = cuda.grid(1)
    if i < theta.size:
        out[i] = lam * fisher[i] * (theta[i] - anchor[i])


@cuda.jit
def _sgd(theta, grad, anchor, fisher, out, lam, lr):  # (3)
    i = cuda.grid(1)
    if i < theta.size:
        out[i] = theta[i] - lr * (grad[i] + lam * fisher[i] * (theta[i] - anchor[i]))


@cuda.jit
def _proximal(theta, grad, anchor, fisher, out, lr, lr_lam):  # (5)
    i = cuda.grid(1)
    if i < theta.size:
        pull, one = lr_lam * fisher[i], theta.dtype.type(1)  # the number 1 would turn float32 into float64
        out[i] = (theta[i] - lr * grad[i] + pull * anchor[i]) / (one + pull)


@cuda.jit
def _adam(  # (4)
    theta, grad, anchor, fisher, m, v, out, m_out, v_out, lam, lr, beta1, rest1, beta2, rest2, bias1, bias2, eps
):
    i = cuda.grid(1)
    if i < theta.size:
        total = grad[i] + lam * fisher[i] * (theta[i] - anchor[i])
        m_new, v_new = beta1 * m[i] + rest1 * total, beta2 * v[i] + rest2 * total * total
        out[i] = theta[i] - lr * (m_new / bias1) / (math.sqrt(v_new / bias2) + eps)
        m_out[i], v_out[i] = m_new, v_new


KERNELS = {"gradients": _gradients, "sgd": _sgd, "proximal": _proximal, "adam": _adam}


def penalty(theta: Array, anchor: Array, fisher: Array, lam: float) -> np.floating:
    """lam/2 sum F (theta - anchor)^2 (1), a scalar of the arrays' dtype."""
    _compilable("penalty", theta=theta, anchor=anchor, fisher=fisher)
    if theta.size == 0:
        return theta.dtype.type(0)
    sums = cuda.device_array(-(-theta.size // THREADS), np.float64)
    _squares[sums.size, THREADS](*map(_on_gpu, (theta, anchor, fisher)), sums)
    return theta.dtype.type(float(lam) / 2 * sums.copy_to_host().sum())


def _run(kernel: str, arrays: list[Array], new: list[Array], numbers: list[float]) -> None:
    room = [cuda.device_array(out.size, out.dtype) for out in new]
    KERNELS[kernel][-(-new[0].size // THREADS), THREADS](*map(_on_gpu, arrays), *room, *map(new[0].dtype.type, numbers))
    for out, moved in zip(new, room, strict=True):
        out[...] = moved.copy_to_host().reshape(out.shape)


penalty_grad, sgd_step, proximal_step, adam_step = gpu.functions(_run)


def _on_gpu(array: Array) -> Any:
    return cuda.to_device(np.array(array, order="C").reshape(-1))
