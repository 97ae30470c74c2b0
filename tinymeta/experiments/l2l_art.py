"""Neural Art (1606.04474, section 3.4): the learned optimizer paints the content of one picture in the style of another.

The paper's net is VGG and its content images are ImageNet's; here a small net that the run trains stands in for the one and
CIFAR-10 for the other, so that losses cannot be put beside those of Fig. 8, and only who ends lowest can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinymeta import l2l
from tinymeta.data.cifar import Cifar10, cifar10
from tinymeta.data.textures import Texture, texture
from tinymeta.l2l.runner import losses_and_grads
from tinymeta.l2l.style import Balance, Filters, style_problem
from tinymeta.lab import Claim, Experiment, Outcome, Row, Run, UserError, mean_ci95, stream
from tinymeta.lab.experiment import config_hash

from .l2l_art_figures import draw, packed
from .l2l_art_net import Classifier, accuracy, centred, learn_features
from .l2l_comparison import (
    LEARNED,
    Comparison,
    Setting,
    below_paired,
    best_baseline,
    compare,
    rows,
    save_optimizer,
    series,
)
from .l2l_trace import trace_of
from .l2l_training import Training, meta_train
from .settings import expect

TRAINED: Texture = "mosaic"  # the style of meta-training
NEW: Texture = "waves"  # the style that the optimizer has never seen
HELD = 1000  # last training images, from which validation problems are drawn
SOURCE = "{}; feature net of this run"


@dataclass(frozen=True)
class Config(Training):
    """The paper's protocol: 1800 content images of `size` x `size`, one style, 128 steps, unroll 32, preprocessing, no scaling of
    the output; 20 validation and 100 test images. What it leaves open is ours: `sigma` of the noise that θ starts from (the whole
    range of a colour being 4), the `balance` α, β, γ of content, style and regulariser, and the feature net with so many
    `filters` in its layers, trained for `net_steps` mini-batches of `net_batch` images."""

    sigma: float = 0.5
    steps: int = 128
    unroll_length: int = 32
    scale: float = 1.0
    meta_epochs: int = 200
    meta_batch: int = 8
    validation_problems: int = 20
    test_problems: int = 100
    size: int = 64
    content_images: int = 1800
    balance: tuple[float, float, float] = (1.0, 10.0, 1.0)
    filters: tuple[int, ...] = (16, 32, 64)
    net_steps: int = 5000
    net_batch: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size not in (8, 16, 32, 64, 128):
            raise ValueError(f"size is {self.size}, expected 8, 16, 32, 64 or 128")
        if not self.meta_batch <= self.content_images <= 50_000 - HELD:
            raise ValueError(f"content_images is {self.content_images}, expected {self.meta_batch} to {50_000 - HELD}")
        for name, most in (("validation_problems", HELD), ("test_problems", 10_000)):
            expect(self, name, getattr(self, name) <= most, f"at most {most:,}, the images that there are")
        if min(self.balance) < 0:
            raise ValueError(f"balance is {self.balance}, expected three factors, none negative")
        if not 2 <= len(self.filters) <= 4 or min(self.net_batch, *self.filters) < 1 or self.net_steps < 0:
            raise ValueError(
                f"filters, net_steps and net_batch are {self.filters}, {self.net_steps} and {self.net_batch}, "
                "expected two to four layers and numbers of 1 or more"
            )


class Studio(NamedTuple):
    """What problems are made of: the feature net and the content images, uint8 (N, 3, 32, 32), by part."""

    config: Config
    net: tuple[Filters, ...]
    content: Mapping[str, NDArray[np.uint8]]

    def problem(self, rng: np.random.Generator, problems: int, part: str, style: Texture, size: int) -> l2l.Problem:
        """Images of size x size to be painted in one style, each with a content of its own and from noise."""
        content = self.draw_content(rng, problems, part, size)
        theta = self.config.sigma * rng.normal(size=content.shape)
        balance = Balance(*self.config.balance)
        return style_problem(self.net, content, self.style(style, size), theta.astype(np.float32), balance)

    def draw_content(self, rng: np.random.Generator, problems: int, part: str, size: int) -> NDArray[np.float32]:
        images = self.content[part]
        return resized(centred(images[rng.choice(len(images), problems, replace=False)]), size)

    def style(self, style: Texture, size: int) -> NDArray[np.float32]:
        return centred(texture(style, stream(self.config.seed, "texture", style), size))


def train(config: Config, run: Run) -> Outcome:
    """Train the feature net, meta-train on one style, compare on it, on a new one, and on that at double resolution."""
    training, test = cifar10("train"), cifar10("test")
    classifier, studio = _studio(config, run, training, test)
    settings = {name: _setting(studio, name, *place) for name, place in _places(config).items()}
    optimizer, history = meta_train(config, run, settings[""].make_problem)
    found = [compare(config, run, optimizer, setting) for setting in settings.values()]
    told = [_naming(test.source, comparison) for comparison in found]
    right = Row(f"feature net, recognised test images of {test.source}", accuracy(classifier, test.x, test.y), unit="%")
    table = [right, *(row for comparison in told for row in rows(comparison, config.final_steps))]
    outcome = Outcome(
        [replace(row, source=SOURCE.format(test.source)) for row in table],
        [_claim(comparison, config.final_steps) for comparison in told],
        {
            "history": history,
            "trained_for": config.steps,
            "settings": [series(comparison) for comparison in told],
            "pictures": [_picture(studio, optimizer, comparison) for comparison in found],
            "data": test.source,
        },
    )
    save_optimizer(optimizer, run, outcome)
    return outcome


def _studio(config: Config, run: Run, training: Cifar10, test: Cifar10) -> tuple[Classifier, Studio]:
    classifier, net = learn_features(
        run, config.seed, config.filters, config.net_steps, config.net_batch, *training[:2]
    )
    return classifier, Studio(config, net, _content(config, training, test))


def _trained_on(config: Config, folder: Path) -> Setting:
    """The first setting of a finished run, with the feature net that its checkpoint holds; UserError if that is gone."""
    if not (folder / "checkpoint.npz").exists():
        raise UserError(
            f"{folder} has no checkpoint.npz, which holds the feature net that a trace needs; start a new run"
        )
    with Run(folder, EXPERIMENT.name, config_hash(config)) as run:
        _, studio = _studio(config, run, cifar10("train"), cifar10("test"))
    return _setting(studio, "", TRAINED, config.size)


def _places(config: Config) -> dict[str, tuple[Texture, int]]:
    """Style and size of the images of each setting."""
    return {
        "": (TRAINED, config.size),
        "new style": (NEW, config.size),
        "new style, double resolution": (NEW, 2 * config.size),
    }


def _setting(studio: Studio, name: str, style: Texture, size: int) -> Setting:
    return Setting(name, studio.config.steps, partial(studio.problem, style=style, size=size))


def _content(config: Config, training: Cifar10, test: Cifar10) -> dict[str, NDArray[np.uint8]]:
    return {"train": training.x[: config.content_images], "validation": training.x[-HELD:], "test": test.x}


def resized(images: NDArray, size: int) -> NDArray:
    """(..., H, W) -> (..., size, size): means over squares of pixels, or linear interpolation where that is larger."""
    rows, columns = (_resampling(n, size).astype(images.dtype) for n in images.shape[-2:])
    return rows @ images @ columns.T


def _resampling(old: int, new: int) -> NDArray:
    if new <= old:
        return np.kron(np.eye(new), np.full(old // new, new / old))
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    return np.stack([np.interp(centres, np.arange(old), row) for row in np.eye(old)], axis=1)


# ---- what is reported ----


def _naming(data: str, comparison: Comparison) -> Comparison:
    """The comparison under a name that says where contents are from, for every number that is told of it."""
    setting = comparison.setting
    name = ", ".join(filter(None, (setting.name, f"contents of {data}")))
    return comparison._replace(setting=setting._replace(name=name))


def _claim(comparison: Comparison, last: int) -> Claim:
    """Paired: losses differ more between contents than between methods, and all methods paint the same contents from one noise."""
    final, title = comparison.final(last), comparison.setting.title
    best = best_baseline(final)
    (gain, ci), wins = mean_ci95(final[best] - final[LEARNED]), int(np.sum(final[LEARNED] < final[best]))
    detail = (
        f"the best is {best} with {comparison.rate(best)}: {np.mean(final[best]):.4g} against "
        f"{np.mean(final[LEARNED]):.4g}, difference {gain:.3g} ± {ci:.2g}; below it on {wins} of {len(final[best])} contents"
    )
    sentence = f"{title}: the learned optimizer ends below every tuned baseline, 95 % interval of the paired difference above 0"
    return Claim(sentence, below_paired(final, LEARNED), detail)


def _picture(studio: Studio, optimizer: Any, comparison: Comparison) -> dict[str, Any]:
    """One content, the style, and what the LSTM and the best baseline make of them."""
    config, setting = studio.config, comparison.setting
    best = best_baseline(comparison.final(config.final_steps))
    style, size = _places(config)[setting.name]
    problem = setting.make_problem(stream(config.seed, "shown", setting.name), 1, "test")
    methods = {LEARNED: optimizer, best: l2l.BASELINES[best](comparison.rates[best])}
    images = {
        "content": studio.draw_content(stream(config.seed, "shown", setting.name), 1, "test", size)[0],
        "style": studio.style(style, size),
        **{name: _painted(method, problem, setting.steps)[0] for name, method in methods.items()},
    }
    return {"title": setting.title, "size": size, "images": {name: packed(image) for name, image in images.items()}}


def _painted(optimizer: Any, problem: l2l.Problem, steps: int) -> NDArray:
    """θ after the last step, or when the optimizer refused a gradient that is not finite."""
    theta, state = problem.theta, optimizer.init(problem.theta)
    for t in range(steps):
        try:
            update, state = optimizer.update(losses_and_grads(problem, theta, t)[1], state, theta)
        except FloatingPointError:
            break
        theta = theta + update
    return theta


EXPERIMENT = Experiment(
    name="l2l-art",
    title="A learned optimizer paints",
    paper="Andrychowicz et al. 2016, arXiv 1606.04474, section 3.4",
    summary="An image is optimized until a convolutional net sees in it the content of one picture and the style of another: "
    "here the pixels are the parameters. The LSTM is trained on many contents and one style, and then has to paint "
    "contents that it has not seen: in that style, in a new one, and at twice the resolution.",
    how_to_read="Lower is better, and losses compare within one panel only. Contents are CIFAR-10 images, averaged or "
    "interpolated to the size of the canvas; where the table says so they are from a JPEG-compressed copy. The styles"
    " are drawn by a program: stained glass for training, waves as the new one. The paper's feature net is VGG, "
    "trained on ImageNet; ours are a few layers trained on CIFAR-10 at the start of the run. The paper's claim, not "
    "its numbers, can thus be checked: that the LSTM ends below every tuned baseline, and still does when style and "
    "resolution change. The quick preset paints 16 x 16 pixels, and 32 x 32 at twice the resolution; the paper's, 64 "
    "x 64 and 128 x 128.",
    config=Config,
    presets={
        "quick": {
            "size": 16, "filters": (8, 16, 32), "net_steps": 600, "meta_epochs": 60, "validation_problems": 4,
            "test_problems": 24,
        },
        "paper": {},
    },
    train=train,
    draw=draw,
    minutes={"quick": 5, "paper": 70},
    trace=trace_of(_trained_on),
)  # fmt: skip
