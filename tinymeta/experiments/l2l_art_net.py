"""The net whose features stand in for VGG's in l2l-art: three small convolutions, trained on CIFAR-10 in the run itself.

No trained net can be had without a download, and one made here needs no file to be shipped, checked and kept in step with the code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinymeta import nets, ops, optim
from tinymeta.engine.transforms import value_and_grad
from tinymeta.l2l.style import Filters, feature_maps, with_unit_power
from tinymeta.lab import Run, stream

POOLED = 2  # positions per axis that the classifier sees of the last maps
RATE = 3e-3
SCALED_BY = 500  # images that set the scale of the layers


class Classifier(NamedTuple):
    """The filters, and a linear layer that is there to train them."""

    net: tuple[Filters, ...]
    head: nets.Layer


def init_classifier(rng: np.random.Generator, filters: Sequence[int], classes: int = 10) -> Classifier:
    """3 x 3 filters, N(0, 2 / fan_in) (He), biases 0."""
    net, c = [], 3
    for o in filters:
        w = np.sqrt(2 / (9 * c)) * rng.normal(size=(o, c, 3, 3))
        net.append(Filters(w.astype(np.float32), np.zeros(o, np.float32)))
        c = o
    return Classifier(tuple(net), nets.init_mlp(rng, (c * POOLED**2, classes))[0])


def logits(params: Classifier, images: Any) -> Any:
    """(N, 3, H, H) -> (N, classes); H is a multiple of POOLED times 2 per layer but the first."""
    last = feature_maps(params.net, images)[-1]
    pooled = ops.mean_pool2d(last, last.shape[-1] // POOLED)
    return nets.mlp((params.head,), ops.reshape(pooled, (pooled.shape[0], -1)))


def centred(images: NDArray) -> NDArray[np.float32]:
    """Colours 0 to 1 or, in uint8, 0 to 255, as the net and the optimizers see them: grey is 0, the whole range -2 to 2."""
    unit = np.float32(4 / 255 if images.dtype == np.uint8 else 4)
    return images.astype(np.float32) * unit - np.float32(2)


def learn_features(
    run: Run, seed: int, filters: Sequence[int], steps: int, batch_size: int, images: NDArray, labels: NDArray
) -> tuple[Classifier, tuple[Filters, ...]]:
    """The classifier of images uint8 (N, 3, 32, 32) trained by ADAM on cross-entropy, and its filters with layers of unit power."""
    adam = optim.adam(optim.cosine(RATE, max(1, steps)))  # of 0 steps none asks for its rate
    descend = value_and_grad(lambda params, x, y: ops.mean(ops.softmax_cross_entropy(logits(params, x), y)))

    def begin() -> dict[str, Any]:
        params = init_classifier(stream(seed, "filters"), filters)
        return {"params": params, "adam": adam.init(params)}

    def step(state: dict[str, Any], i: int) -> tuple[dict[str, Any], dict[str, float]]:
        chosen = stream(seed, "feature net", i).integers(0, len(images), batch_size)
        loss, gradient = descend(state["params"], centred(images[chosen]), labels[chosen])
        updates, moments = adam.update(gradient, state["adam"])
        return {"params": optim.apply_updates(state["params"], updates), "adam": moments}, {"loss": float(loss)}

    params = run.stage("feature net", steps, begin, step)["params"]
    return params, with_unit_power(params.net, centred(images[:SCALED_BY]))


def accuracy(params: Classifier, images: NDArray, labels: NDArray) -> float:
    """In per cent."""
    batches = np.array_split(np.arange(len(images)), max(1, len(images) // 100))
    right = [np.argmax(logits(params, centred(images[rows])), axis=1) == labels[rows] for rows in batches]
    return 100 * float(np.mean(np.concatenate(right)))
