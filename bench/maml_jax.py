"""JAX's side of bench.maml: jit with vmap over tasks, and jit with a Python loop over them; Adam by hand, as optax's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def _mlp(p: list, x: Any) -> Any:
    h = jax.nn.relu(x @ p[0] + p[1])
    return jax.nn.relu(h @ p[2] + p[3]) @ p[4] + p[5]


def _conv4(p: list, x: Any) -> Any:
    for i in range(0, 12, 3):
        x = jax.lax.conv_general_dilated(x, p[i], (2, 2), ((1, 1), (1, 1)))
        centred = x - x.mean((0, 2, 3), keepdims=True)
        scale = jnp.sqrt((centred * centred).mean((0, 2, 3), keepdims=True) + 1e-5)
        x = jax.nn.relu(centred / scale * p[i + 1][:, None, None] + p[i + 2][:, None, None])
    return x.mean((2, 3)) @ p[12] + p[13]


def _loss(kind: str, p: list, data: tuple) -> Any:
    x, y = data
    if kind == "sine":
        return jnp.mean((_mlp(p, x) - y) ** 2)
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(_conv4(p, x)), y[:, None], 1))


def _task(kind: str, steps: int, lr: float) -> Callable:
    def task(p: list, support: tuple, query: tuple) -> Any:
        for _ in range(steps):
            g = jax.grad(lambda q: _loss(kind, q, support))(p)
            p = [a - lr * b for a, b in zip(p, g, strict=True)]
        return _loss(kind, p, query)

    return task


def _adam(p: list, g: list, m: list, v: list, t: Any) -> tuple:
    m = [0.9 * a + 0.1 * b for a, b in zip(m, g, strict=True)]
    v = [0.999 * a + 0.001 * b * b for a, b in zip(v, g, strict=True)]
    rate = 1e-3 / (1 - 0.9**t)
    p = [a - rate * b / (jnp.sqrt(c / (1 - 0.999**t)) + 1e-8) for a, b, c in zip(p, m, v, strict=True)]
    return p, m, v


def _runner(meta: Callable, params: list, support: tuple, query: tuple) -> Callable:
    @jax.jit
    def step(p: list, m: list, v: list, t: Any, support: tuple, query: tuple) -> tuple:
        loss, g = jax.value_and_grad(meta)(p, support, query)
        return *_adam(p, g, m, v, t), t + 1, loss, g

    zeros = [jnp.zeros_like(p) for p in params]
    state = [[jnp.asarray(p) for p in params], zeros, zeros, jnp.asarray(1.0)]

    def one() -> tuple:
        *state[:], loss, g = step(*state, support, query)
        jax.block_until_ready((state, loss, g))
        return loss, g

    return one


def vmapped(kind: str, setting: Any, params: list, support: tuple, query: tuple, lr: float) -> Callable:
    task = _task(kind, setting.steps, lr)
    return _runner(lambda p, s, q: jnp.mean(jax.vmap(task, (None, 0, 0))(p, s, q)), params, support, query)


def looped(kind: str, setting: Any, params: list, support: tuple, query: tuple, lr: float) -> Callable:
    task = _task(kind, setting.steps, lr)

    def meta(p: list, s: tuple, q: tuple) -> Any:
        return (
            sum(task(p, tuple(a[t] for a in s), tuple(a[t] for a in q)) for t in range(setting.tasks)) / setting.tasks
        )

    return _runner(meta, params, support, query)


def scanned(params: list, lr: float, iterations: int) -> Callable:
    """run(seed), compiled: the losses of so many iterations of the sinusoid's training, as one scan that draws its tasks itself."""
    task = _task("sine", 1, lr)

    def draw(key: Any) -> tuple:
        amplitude, phase, first, second = jax.random.split(key, 4)
        a = jax.random.uniform(amplitude, (25, 1, 1), minval=0.1, maxval=5.0)
        shift = jax.random.uniform(phase, (25, 1, 1), maxval=jnp.pi)
        x, u = (jax.random.uniform(k, (25, 10, 1), minval=-5.0, maxval=5.0) for k in (first, second))
        return (x, a * jnp.sin(x - shift)), (u, a * jnp.sin(u - shift))

    def step(state: tuple, key: Any) -> tuple:
        p, m, v, t = state
        support, query = draw(key)
        loss, g = jax.value_and_grad(lambda p: jnp.mean(jax.vmap(task, (None, 0, 0))(p, support, query)))(p)
        return (*_adam(p, g, m, v, t), t + 1), loss

    @jax.jit
    def run(seed: Any) -> Any:
        p = [jnp.asarray(a) for a in params]
        zeros = [jnp.zeros_like(a) for a in p]
        keys = jax.random.split(jax.random.key(seed), iterations)
        return jax.lax.scan(step, (p, zeros, zeros, jnp.asarray(1.0)), keys)[1]

    compiled = run.lower(0).compile()
    return lambda seed: jax.block_until_ready(compiled(seed))
