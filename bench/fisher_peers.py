"""Contenders of the Fisher benchmark: functions of (params, x, y, kind) -> a call that gives sums of squared scores, or
means, which are ours.

params: per layer W (I, O) and b (O,) of a ReLU network; a result has their order and shapes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = list[np.ndarray]
Call = Callable[[], Arrays]


def pairs(arrays: Arrays) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(zip(arrays[::2], arrays[1::2], strict=True))


def compiled(params: Arrays, x: np.ndarray, y: np.ndarray, kind: str) -> Call:
    from tinymeta.kernels.fisher import cpu

    return _ours(cpu.mlp_fisher, params, x, y, kind)


def chunked(params: Arrays, x: np.ndarray, y: np.ndarray, kind: str) -> Call:
    from tinymeta.kernels.fisher import chunked

    return _ours(chunked.mlp_fisher, params, x, y, kind)


def _ours(fisher: Callable, params: Arrays, x: np.ndarray, y: np.ndarray, kind: str) -> Call:
    layers, drawn = pairs(params), uniforms(x) if kind == "sampled" else None
    return lambda: [F for layer in fisher(layers, x, y, "relu", kind, drawn) for F in layer]


def public(params: Arrays, x: np.ndarray, y: np.ndarray, kind: str) -> Call:
    """The library's call, as a user writes it."""
    import tinymeta as tm

    layers = tuple(tm.nets.Layer(W, b) for W, b in pairs(params))
    return lambda: tm.trees.leaves(tm.ewc.fisher_diagonal(tm.nets.mlp, layers, x, y, kind))


def uniforms(x: np.ndarray) -> np.ndarray:
    """The numbers by which fisher_diagonal draws labels, one per sample."""
    return np.random.default_rng(0).random(len(x))


def backpack(params: Arrays, x: np.ndarray, y: np.ndarray, kind: str) -> Call:
    """SumGradSquared, or DiagGGNExact: for a ReLU network the exact Fisher."""
    import torch
    from torch import nn

    layers: list[nn.Module] = []
    for W, b in pairs(params):
        linear = nn.Linear(*W.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(W.T.copy()))
            linear.bias.copy_(torch.from_numpy(b))
        layers += [linear, nn.ReLU()]
    return backpack_call(nn.Sequential(*layers[:-1]), x, y, kind)


def backpack_call(net: Any, x: np.ndarray, y: np.ndarray, kind: str) -> Call:
    import torch
    from backpack import backpack, extend
    from backpack.extensions import DiagGGNExact, SumGradSquared

    extension, name = (DiagGGNExact, "diag_ggn_exact") if kind == "exact" else (SumGradSquared, "sum_grad_squared")
    warnings.filterwarnings("ignore", message="Full backward hook")  # of BackPACK's own
    net, loss = extend(net), extend(torch.nn.CrossEntropyLoss(reduction="sum"))  # a mean would divide squares by N^2
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)

    def call() -> Arrays:
        net.zero_grad(set_to_none=True)
        value = loss(net(inputs), labels)
        with backpack(extension()):
            value.backward()
        found = [getattr(w, name).numpy() for w in net.parameters()]
        return [F.T if F.ndim == 2 else F for F in found]

    return call


def by_hand(xp: Any, params: Any, x: Any, y: Any, kind: str, eye: Any) -> list[Any]:
    """The squared products in another library: D for all columns at once, then (A A)^T (sum_v D D)."""
    inputs = [x]
    for W, b in zip(params[:-2:2], params[1:-2:2], strict=True):
        inputs.append(xp.maximum(inputs[-1] @ W + b, xp.zeros_like(b)))
    logits = inputs[-1] @ params[-2] + params[-1]
    e = xp.exp(logits - xp.amax(logits, 1)[:, None])
    p = e / xp.sum(e, 1)[:, None]
    S = xp.sqrt(p).T[:, :, None] * (eye[:, None] - p) if kind == "exact" else (eye[y] - p)[None]
    found = []
    for k in range(len(inputs) - 1, -1, -1):
        squares = xp.sum(S * S, 0)
        found = [(inputs[k] * inputs[k]).T @ squares, xp.sum(squares, 0), *found]
        if k > 0:
            S = (S @ params[2 * k].T) * (inputs[k] > 0)
    return found


def torch_by_hand(params: Arrays, x: np.ndarray, y: np.ndarray, kind: str) -> Call:
    import torch

    given = [torch.from_numpy(a) for a in params], torch.from_numpy(x), torch.from_numpy(y)

    def call() -> Arrays:
        with torch.no_grad():
            return [F.numpy() for F in by_hand(torch, *given, kind, torch.eye(len(params[-1])))]

    return call


def jax_by_hand(params: Arrays, x: np.ndarray, y: np.ndarray, kind: str) -> Call:
    import jax
    import jax.numpy as jnp

    run = jax.jit(lambda params, x, y: by_hand(jnp, params, x, y, kind, jnp.eye(len(params[-1]))))
    given = [jnp.asarray(a) for a in params], jnp.asarray(x), jnp.asarray(y)
    return lambda: [np.asarray(F) for F in jax.block_until_ready(run(*given))]


def torch_vmap(params: Arrays, x: np.ndarray, y: np.ndarray, kind: str) -> Call:
    """vmap(grad), squared: every per-sample gradient lies in memory, so few samples at a time."""
    import torch
    from torch.func import grad, vmap

    leaves, inputs = [torch.from_numpy(a) for a in params], torch.from_numpy(x)
    labels = torch.eye(len(params[-1]))[torch.from_numpy(y)]

    def log_likelihood(leaves: Any, x: Any, label: Any) -> Any:
        for W, b in zip(leaves[:-2:2], leaves[1:-2:2], strict=True):
            x = torch.relu(x @ W + b)
        return (torch.log_softmax(x @ leaves[-2] + leaves[-1], -1) * label).sum()

    scores = vmap(grad(log_likelihood), (None, 0, 0))

    def call() -> Arrays:
        total = [torch.zeros_like(a) for a in leaves]
        for first in range(0, len(inputs), 64):
            part = slice(first, first + 64)
            for sum_, g in zip(total, scores(leaves, inputs[part], labels[part]), strict=True):
                sum_ += (g * g).sum(0)
        return [a.numpy() for a in total]

    return call
