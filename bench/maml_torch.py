"""PyTorch's side of bench.maml: torch.func with vmap, a plain autograd loop, TorchOpt and higher; Adam by torch.optim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F


def _mlp(p: list, x: Any) -> Any:
    h = torch.relu(x @ p[0] + p[1])
    return torch.relu(h @ p[2] + p[3]) @ p[4] + p[5]


def _conv4(p: list, x: Any, norm: Callable) -> Any:
    for i in range(0, 12, 3):
        x = torch.relu(norm(F.conv2d(x, p[i], stride=2, padding=1), p[i + 1], p[i + 2]))
    return x.mean((2, 3)) @ p[12] + p[13]


def _native(x: Any, gamma: Any, beta: Any) -> Any:
    return F.batch_norm(x, None, None, gamma, beta, training=True)


def _composed(x: Any, gamma: Any, beta: Any) -> Any:
    """Under torch.func.vmap the second derivative of F.batch_norm is off by 4e-3, in float64 too; this one's is right."""
    centred = x - x.mean((0, 2, 3), keepdim=True)
    scale = torch.sqrt((centred * centred).mean((0, 2, 3), keepdim=True) + 1e-5)
    return centred / scale * gamma[:, None, None] + beta[:, None, None]


def _loss(kind: str, p: list, data: tuple, norm: Callable = _native) -> Any:
    x, y = data
    return F.mse_loss(_mlp(p, x), y) if kind == "sine" else F.cross_entropy(_conv4(p, x, norm), y)


def _ready(params: list, support: tuple, query: tuple) -> tuple:
    return (
        [torch.tensor(p, requires_grad=True) for p in params],
        tuple(map(torch.as_tensor, support)),
        tuple(map(torch.as_tensor, query)),
    )


def _runner(p: list, gradient: Callable) -> Callable:
    adam = torch.optim.Adam(p, lr=1e-3)

    def one() -> tuple:
        loss, g = gradient()
        for a, b in zip(p, g, strict=True):
            a.grad = b
        adam.step()
        return loss.detach(), [b.detach() for b in g]

    return one


def vmapped(kind: str, setting: Any, params: list, support: tuple, query: tuple, lr: float) -> Callable:
    p, s, q = _ready(params, support, query)

    def task(p: tuple, support: tuple, query: tuple) -> Any:
        for _ in range(setting.steps):
            g = torch.func.grad(lambda w: _loss(kind, w, support, _composed))(p)
            p = tuple(a - lr * b for a, b in zip(p, g, strict=True))
        return _loss(kind, p, query, _composed)

    def meta(p: tuple) -> Any:
        return torch.func.vmap(task, (None, 0, 0))(p, s, q).mean()

    both = torch.func.grad_and_value(meta)

    def gradient() -> tuple:
        g, loss = both(tuple(a.detach() for a in p))
        return loss, g

    return _runner(p, gradient)


def looped(kind: str, setting: Any, params: list, support: tuple, query: tuple, lr: float) -> Callable:
    p, s, q = _ready(params, support, query)

    def gradient() -> tuple:
        total = 0
        for t in range(setting.tasks):
            fast: list = p
            for _ in range(setting.steps):
                g = torch.autograd.grad(_loss(kind, fast, tuple(a[t] for a in s)), fast, create_graph=True)
                fast = [a - lr * b for a, b in zip(fast, g, strict=True)]
            total = total + _loss(kind, fast, tuple(a[t] for a in q))
        loss = total / setting.tasks
        return loss, torch.autograd.grad(loss, p)

    return _runner(p, gradient)


class _Mlp(torch.nn.Module):
    def __init__(self, p: list) -> None:
        super().__init__()
        self.p = torch.nn.ParameterList([torch.nn.Parameter(a.detach().clone()) for a in p])

    def forward(self, x: Any) -> Any:
        return _mlp(list(self.p), x)


def higher_loop(kind: str, setting: Any, params: list, support: tuple, query: tuple, lr: float) -> Callable:
    import higher

    p, s, q = _ready(params, support, query)
    net = _Mlp(p)
    own = list(net.parameters())
    inner = torch.optim.SGD(own, lr=lr)

    def gradient() -> tuple:
        total = torch.zeros(())
        for a in own:
            a.grad = None
        for t in range(setting.tasks):
            with higher.innerloop_ctx(net, inner, copy_initial_weights=False) as (fast, step):
                for _ in range(setting.steps):
                    step.step(F.mse_loss(fast(s[0][t]), s[1][t]))
                loss = F.mse_loss(fast(q[0][t]), q[1][t]) / setting.tasks
                loss.backward()
                total += loss.detach()
        return total, [a.grad.clone() for a in own]

    return _runner(own, gradient)


def torchopt_loop(kind: str, setting: Any, params: list, support: tuple, query: tuple, lr: float) -> Callable:
    import torchopt

    p, s, q = _ready(params, support, query)
    net = _Mlp(p)
    own = list(net.parameters())
    inner = torchopt.MetaSGD(net, lr=lr)

    def gradient() -> tuple:
        total = torch.zeros(())
        for a in own:
            a.grad = None
        start_net, start_inner = torchopt.extract_state_dict(net, by="reference"), torchopt.extract_state_dict(inner)
        for t in range(setting.tasks):
            for _ in range(setting.steps):
                inner.step(F.mse_loss(net(s[0][t]), s[1][t]))
            loss = F.mse_loss(net(q[0][t]), q[1][t]) / setting.tasks
            loss.backward()
            total += loss.detach()
            torchopt.recover_state_dict(net, start_net)
            torchopt.recover_state_dict(inner, start_inner)
        return total, [a.grad.clone() for a in own]

    return _runner(own, gradient)
