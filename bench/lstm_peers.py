"""The LSTM optimizer as one would write it in PyTorch and in JAX: what `bench.lstm` compares the kernels with.

A network is made from a `Problem`. Its `step()` advances its own state by one; `update()` reads the update (n,) and `state()` the
state as (n, H) arrays, h and c of each layer; `compile_unroll()` returns the function of no arguments that gives dL/dφ of an
unroll, in the order of `tinymeta.kernels.lstm.blocks.flat_weights`, ready to run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinymeta.kernels.lstm import Weights

P, SCALE = 10.0, 0.1


class Problem(NamedTuple):
    """Weights of the paper's network, a state of (n, H) arrays, gradients (T, n) and cotangents of the updates (T, n)."""

    weights: Weights
    state: list[np.ndarray]
    gradients: np.ndarray
    d_updates: np.ndarray


class TorchNetwork:
    """Two `torch.nn.LSTMCell`s and a `Linear`, eager or through `torch.compile`."""

    def __init__(self, problem: Problem, compiled: bool = False) -> None:
        import torch

        self.torch = torch
        layers = [torch.nn.LSTMCell(W.shape[0] - b.size // 4, b.size // 4) for W, b in problem.weights.layers]
        self.cells, self.out = torch.nn.ModuleList(layers), torch.nn.Linear(problem.weights.W_out.size, 1)
        with torch.no_grad():
            for cell, (W, b) in zip(self.cells, problem.weights.layers, strict=True):
                inputs, hidden = np.split(W.T, [cell.input_size], axis=1)
                for to, array in ((cell.weight_ih, inputs), (cell.weight_hh, hidden), (cell.bias_ih, b)):
                    to.copy_(torch.tensor(array))
                cell.bias_hh.zero_()
            self.out.weight.copy_(torch.tensor(problem.weights.W_out)[None])
            self.out.bias.copy_(torch.tensor(problem.weights.b_out))
        self.now = [torch.tensor(x) for x in problem.state]
        self.gradients, self.d_updates = torch.tensor(problem.gradients), torch.tensor(problem.d_updates)
        self.network = torch.compile(self._network, fullgraph=True) if compiled else self._network

    def _network(self, g: Any, state: list[Any]) -> tuple[Any, list[Any]]:
        torch, size = self.torch, g.abs()
        large = size >= math.exp(-P)
        first = torch.where(large, torch.log(size) / P, -1.0)
        x = torch.stack([first, torch.where(large, torch.sign(g), math.exp(P) * g)], 1)
        after = []
        for k, cell in enumerate(self.cells):
            x, c = cell(x, (state[2 * k], state[2 * k + 1]))
            after += [x, c]
        return SCALE * self.out(x)[:, 0], after

    def step(self) -> None:
        with self.torch.no_grad():
            self.last_update, self.now = self.network(self.gradients[0], self.now)

    def update(self) -> np.ndarray:
        return self.last_update.cpu().numpy()

    def state(self) -> list[np.ndarray]:
        return [x.cpu().numpy() for x in self.now]

    def compile_unroll(self) -> Callable[[], list[np.ndarray]]:
        def gradient() -> list[np.ndarray]:
            self.cells.zero_grad(), self.out.zero_grad()
            state, loss = self.now, 0.0
            for g, d_update in zip(self.gradients, self.d_updates, strict=True):
                update, state = self.network(g, state)
                loss = loss + (update * d_update).sum()
            loss.backward()
            layers = [
                (self.torch.cat([cell.weight_ih.grad, cell.weight_hh.grad], 1).T, cell.bias_ih.grad)
                for cell in self.cells
            ]
            return [
                x.cpu().numpy()
                for x in (*(x for layer in layers for x in layer), self.out.weight.grad[0], self.out.bias.grad[0])
            ]

        return gradient


class JaxNetwork:
    """`jax.jit` of the same network, coordinates along the first axis or the last; the step's state is donated, and the
    unroll is a `scan` whose body is rematerialised (`jax.checkpoint`)."""

    def __init__(self, problem: Problem, coordinates_last: bool) -> None:
        import jax

        self.jax, self.last = jax, coordinates_last
        self.weights = jax.tree.map(jax.numpy.asarray, problem.weights)
        self.now = [jax.numpy.asarray(x.T if coordinates_last else x) for x in problem.state]
        self.gradients, self.d_updates = map(jax.numpy.asarray, (problem.gradients, problem.d_updates))
        self.first = self.gradients[0]  # taken out here, for that is no part of a step
        self.network = jax.jit(self._network, donate_argnums=1)

    def _network(self, weights: Any, state: list[Any], g: Any) -> tuple[list[Any], Any]:
        jax, jnp, axis = self.jax, self.jax.numpy, 0 if self.last else 1
        size = jnp.abs(g)
        large = size >= math.exp(-P)
        first = jnp.where(large, jnp.log(size) / P, -1.0)
        x = jnp.stack([first, jnp.where(large, jnp.sign(g), math.exp(P) * g)], axis)
        after = []
        for (W, b), h, c in zip(weights.layers, state[::2], state[1::2], strict=True):
            u = jnp.concatenate([x, h], axis)
            z_i, z_f, z_g, z_o = jnp.split(W.T @ u + b[:, None] if self.last else u @ W + b, 4, axis)
            c = jax.nn.sigmoid(z_f) * c + jax.nn.sigmoid(z_i) * jnp.tanh(z_g)
            x = jax.nn.sigmoid(z_o) * jnp.tanh(c)
            after += [x, c]
        return after, SCALE * ((weights.W_out @ x if self.last else x @ weights.W_out) + weights.b_out)

    def step(self) -> None:
        self.now, self.last_update = self.network(self.weights, self.now, self.first)
        self.last_update.block_until_ready()

    def update(self) -> np.ndarray:
        return np.asarray(self.last_update)

    def state(self) -> list[np.ndarray]:
        return [np.asarray(x.T if self.last else x) for x in self.now]

    def compile_unroll(self) -> Callable[[], list[np.ndarray]]:
        jax = self.jax

        def loss(weights: Any, state: list[Any], gradients: Any, d_updates: Any) -> Any:
            body = jax.checkpoint(lambda s, g: self._network(weights, s, g))
            return jax.numpy.sum(jax.lax.scan(body, state, gradients)[1] * d_updates)

        inputs = self.weights, self.now, self.gradients, self.d_updates
        compiled = jax.jit(jax.grad(loss)).lower(*inputs).compile()
        return lambda: [np.asarray(x) for x in jax.tree.leaves(compiled(*inputs))]
