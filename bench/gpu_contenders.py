"""What `bench.gpu` compares: our CUDA C kernels and compiled programs on CuPy arrays, PyTorch and JAX, each in its own class.

A method gives (call, results): `call()` queues the work on the GPU, `results()` reads NumPy arrays of what the last call made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import maml
from .fisher_peers import Arrays, by_hand, pairs
from .lstm_peers import SCALE, JaxNetwork, P, Problem, TorchNetwork

Work = tuple[Callable[[], Any], Callable[[], list[np.ndarray]]]


class Tinymeta:
    def __init__(self) -> None:
        import cupy

        self.cupy = cupy

    def wait(self) -> None:
        self.cupy.cuda.Device().synchronize()

    def to_gpu(self, tree: Any) -> Any:
        import tinymeta as tm

        return tm.trees.map(lambda x: self.cupy.asarray(x) if isinstance(x, (np.ndarray, np.generic)) else x, tree)

    def lstm_step(self, problem: Problem) -> Work:
        from tinymeta.kernels.lstm import cuda
        from tinymeta.kernels.lstm.blocks import from_blocks

        n = problem.gradients.shape[1]
        weights, blocks = self.to_gpu((problem.weights, _blocks(problem)))
        gradient, updated = self.cupy.asarray(problem.gradients[0]), self.cupy.empty(n, np.float32)

        def results() -> list[np.ndarray]:
            state = from_blocks(self.cupy.asnumpy(blocks), (20, 20), n)
            return [self.cupy.asnumpy(updated), *(x for layer in state for x in layer)]

        def call() -> None:
            cuda.advance(weights, blocks, blocks, [gradient], [updated], SCALE, P, add=False)

        return call, results

    def lstm_unroll(self, problem: Problem) -> Work:
        from tinymeta.kernels.lstm import cuda
        from tinymeta.kernels.lstm.blocks import flat_weights

        weights, blocks, gradients, d_updates = self.to_gpu(
            (problem.weights, _blocks(problem), problem.gradients, problem.d_updates)
        )
        no_cotangent = self.cupy.zeros_like(blocks)
        found: list[Any] = []

        def call() -> None:
            arguments = weights, blocks, gradients, d_updates, no_cotangent
            gradient = cuda.unroll_backward(*arguments, SCALE, P)[0]
            found[:] = [self.cupy.asnumpy(x) for x in flat_weights(gradient)]  # to the host, as the peers'

        return call, lambda: found

    def fisher(self, params: Arrays, x: np.ndarray, y: np.ndarray, kind: str) -> Work:
        from tinymeta.kernels.fisher import cuda

        layers, x, y = self.to_gpu((pairs(params), x, y))
        found: list[Any] = []

        def call() -> None:
            found[:] = [F for layer in cuda.mlp_fisher(layers, x, y, "relu", kind) for F in layer]

        return call, lambda: [len(x) * self.cupy.asnumpy(F) for F in found]

    def meta_step(self, kind: str, setting: maml.Setting) -> Work:
        import tinymeta as tm

        step, *state = maml.tinymeta_step(kind, setting)
        run, data, found = tm.compile(step), self.to_gpu(maml.data(kind, setting)[1:]), []
        state[:] = self.to_gpu(state)

        def call() -> None:
            *state[:], value, gradient = run(*state, *data)
            found[:] = value, *tm.trees.leaves(gradient)

        return call, lambda: [self.cupy.asnumpy(x) for x in found]


class Torch:
    compiled = False

    def __init__(self) -> None:
        import torch

        torch.set_default_device("cuda")
        torch.backends.cudnn.allow_tf32 = False  # as it is for products
        self.torch = torch

    def wait(self) -> None:
        self.torch.cuda.synchronize()

    def lstm_step(self, problem: Problem) -> Work:
        network = TorchNetwork(problem, self.compiled)
        return network.step, lambda: [network.update(), *network.state()]

    def lstm_unroll(self, problem: Problem) -> Work | None:
        return None if self.compiled else _kept(TorchNetwork(problem).compile_unroll())

    def fisher(self, params: Arrays, x: np.ndarray, y: np.ndarray, kind: str) -> Work:
        torch = self.torch
        given = [torch.tensor(a) for a in params], torch.tensor(x), torch.tensor(y), kind, torch.eye(len(params[-1]))
        run = torch.compile(by_hand, fullgraph=True) if self.compiled else by_hand
        found: list[Any] = []

        def call() -> None:
            with torch.no_grad():
                found[:] = run(torch, *given)

        return call, lambda: [F.cpu().numpy() for F in found]

    def meta_step(self, kind: str, setting: maml.Setting) -> Work | None:
        if self.compiled:
            return None
        from . import maml_torch

        one = maml_torch.vmapped(kind, setting, *maml.data(kind, setting), maml.INNER_LR[kind])
        return _kept(one, lambda x: x.cpu().numpy())


class CompiledTorch(Torch):
    compiled = True


class Jax:
    coordinates_last = False

    def __init__(self) -> None:
        import jax

        self.jax, self.last = jax, None

    def wait(self) -> None:
        """Its calls wait by themselves, or `lstm_step`'s last one is waited for."""
        self.jax.block_until_ready(self.last)

    def lstm_step(self, problem: Problem) -> Work:
        network = JaxNetwork(problem, self.coordinates_last)

        def call() -> None:
            network.now, network.last_update = network.network(network.weights, network.now, network.gradients[0])
            self.last = network.now, network.last_update

        return call, lambda: [network.update(), *network.state()]

    def lstm_unroll(self, problem: Problem) -> Work:
        return _kept(JaxNetwork(problem, self.coordinates_last).compile_unroll())

    def fisher(self, params: Arrays, x: np.ndarray, y: np.ndarray, kind: str) -> Work | None:
        if self.coordinates_last:
            return None
        jnp = self.jax.numpy
        run = self.jax.jit(lambda params, x, y: by_hand(jnp, params, x, y, kind, jnp.eye(len(params[-1]))))
        given = [jnp.asarray(a) for a in params], jnp.asarray(x), jnp.asarray(y)

        def call() -> None:
            self.last = run(*given)

        return call, lambda: [np.asarray(F) for F in self.last]

    def meta_step(self, kind: str, setting: maml.Setting) -> Work | None:
        if self.coordinates_last:
            return None
        from . import maml_jax

        return _kept(maml_jax.vmapped(kind, setting, *maml.data(kind, setting), maml.INNER_LR[kind]), np.asarray)


class JaxCoordinatesLast(Jax):
    coordinates_last = True


def _blocks(problem: Problem) -> np.ndarray:
    from tinymeta.kernels.lstm.blocks import to_blocks

    state = tuple(zip(problem.state[::2], problem.state[1::2], strict=True))
    return to_blocks(state, problem.gradients.shape[1], np.dtype(np.float32))


def _kept(one: Callable[[], Any], to_numpy: Callable[[Any], np.ndarray] = np.asarray) -> Work:
    """Of a function that gives arrays, or a loss and a list of them, what its last call gave."""
    found: list[Any] = []

    def call() -> None:
        made = one()
        found[:] = [made[0], *made[1]] if isinstance(made, tuple) else made

    return call, lambda: [to_numpy(x) for x in found]
