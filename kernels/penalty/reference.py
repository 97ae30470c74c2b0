"""The EWC penalty in plain NumPy: the oracle of every other backend. Mathematics: ``tinymeta.kernels.penalty``."""

import numpy as np

from .. import one_dtype

Array = np.ndarray


def penalty(theta: Array, anchor: Array, fisher: Array, lam: float) -> np.floating:
    """lam/2 sum F (theta - anchor)^2 (1), a scalar of the arrays' dtype."""
    _alike("penalty", theta=theta, anchor=anchor, fisher=fisher)
    distance = theta - anchor
    return float(lam) / 2 * (fisher * distance * distance).sum()


def penalty_grad(theta: Array, anchor: Array, fisher: Array, lam: float) -> Array:
    """lam F (theta - anchor) (2), shaped like theta."""
    _alike("penalty_grad", theta=theta, anchor=anchor, fisher=fisher)
    return float(lam) * fisher * (theta - anchor)


def sgd_step(theta: Array, grad: Array, anchor: Array, fisher: Array, lam: float, lr: float) -> Array:
    """The new theta after gradient descent on loss + penalty (3); grad is the loss's gradient alone."""
    _alike("sgd_step", theta=theta, grad=grad, anchor=anchor, fisher=fisher)
    return theta - float(lr) * (grad + penalty_grad(theta, anchor, fisher, lam))


def adam_step(
    theta: Array,
    grad: Array,
    anchor: Array,
    fisher: Array,
    lam: float,
    lr: float,
    m: Array,
    v: Array,
    t: int,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> tuple[Array, Array, Array]:
    """(theta, m, v) after Adam's step number t = 1, 2, ... on loss + penalty (4); m and v start at 0."""
    _alike("adam_step", theta=theta, grad=grad, anchor=anchor, fisher=fisher, m=m, v=v)
    if t < 1:
        raise ValueError(f"adam_step: t is {t}, expected the step's number counted from 1")
    total = grad + penalty_grad(theta, anchor, fisher, lam)
    m = float(beta1) * m + (1 - float(beta1)) * total
    v = float(beta2) * v + (1 - float(beta2)) * total * total
    m_hat = m / (1 - float(beta1) ** int(t))
    v_hat = v / (1 - float(beta2) ** int(t))
    return theta - float(lr) * m_hat / (np.sqrt(v_hat) + float(eps)), m, v


def proximal_step(theta: Array, grad: Array, anchor: Array, fisher: Array, lam: float, lr: float) -> Array:
    """The new theta after an explicit step on the loss and an implicit one on the penalty (5)."""
    _alike("proximal_step", theta=theta, grad=grad, anchor=anchor, fisher=fisher)
    pull = float(lr) * float(lam) * fisher
    return (theta - float(lr) * grad + pull * anchor) / (1 + pull)


def fold(tasks: list[tuple[Array, Array]]) -> tuple[Array, Array, np.floating]:
    """(A, mu, constant) of (6) and (7) from (anchor, fisher) per task: all penalties as one, up to lam * constant."""
    if not tasks:
        raise ValueError("fold: tasks is empty, expected at least one (anchor, fisher)")
    for number, (anchor, fisher) in enumerate(tasks):
        _alike("fold", **{"anchor_0": tasks[0][0], f"anchor_{number}": anchor, f"fisher_{number}": fisher})
    anchors, fishers = (np.stack(arrays) for arrays in zip(*tasks, strict=True))
    A = fishers.sum(axis=0)
    shares = np.where(A != 0, fishers / np.where(A != 0, A, 1), 1 / len(tasks))
    mu = (shares * anchors).sum(axis=0)
    return A, mu, (fishers * (anchors - mu) * (anchors - mu)).sum() / 2


def _alike(operation: str, **arrays: Array) -> None:
    """Check that arrays have one float dtype and one shape."""
    one_dtype(operation, **arrays)
    leader, first = next(iter(arrays.items()))
    for name, array in arrays.items():
        if array.shape != first.shape:
            raise ValueError(f"{operation}: {name} has shape {array.shape}, expected {first.shape}, that of {leader}")


def _compilable(operation: str, **arrays: Array) -> None:
    """Check that arrays have one shape and one of the dtypes that compiled kernels take, float32 or float64."""
    _alike(operation, **arrays)
    leader, first = next(iter(arrays.items()))
    if first.dtype not in (np.float32, np.float64):
        raise TypeError(
            f"{operation}: {leader} is {first.dtype}, expected float32 or float64; use .astype, or the reference, which takes "
            "any float dtype"
        )
