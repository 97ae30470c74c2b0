"""MAML on mini-ImageNet, whose images the user brings: Table 1 of Finn, Abbeel, Levine 2017 (arXiv 1703.03400, section 5.2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from tinymeta import nets
from tinymeta.data.mini_imagenet import PER_CLASS, SPLITS, MiniImageNet, image_tasks, mini_imagenet
from tinymeta.experiments.few_shot import Batch, FewShot, Net
from tinymeta.experiments.few_shot_report import Published, draw_figures, run_methods
from tinymeta.lab import Experiment, Outcome, Run, stream

SOURCE = "1703.03400, Table 1"
PUBLISHED: dict[str, dict[tuple[int, int], Published]] = {  # by method, ways and shots; after 10 steps (appendix A.1)
    "MAML": {(5, 1): Published(48.70, 1.84, SOURCE, 10), (5, 5): Published(63.11, 0.92, SOURCE, 10)},
    "first-order MAML": {(5, 1): Published(48.07, 1.75, SOURCE, 10), (5, 5): Published(63.15, 0.91, SOURCE, 10)},
}


@dataclass(frozen=True)
class Config(FewShot):
    """`images` is the folder of the images (see tinymeta.data.mini_imagenet), by default $TINYMETA_DATA/mini-imagenet/images;
    they are used at side x side pixels. Training has 15 query images a class and tests as many as shots, as in the
    authors' code; the last layer begins at N(0, 1 / its inputs), theirs by Xavier's rule, whose spread is 1.4 times that.
    The paper's meta-batch is 4 for 1 shot and 2 for 5."""

    filters: int = 32
    queries: int = 15
    inner_lr: float = 0.01
    inner_steps: int = 5
    test_steps: int = 10
    meta_batch: int = 4
    clip: float = 10.0
    images: str = ""
    side: int = 84

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side < 16:
            raise ValueError(f"side = {self.side}, expected 16 or more: four times it is halved")
        if self.ways > min(SPLITS.values()):
            raise ValueError(f"ways = {self.ways}, expected at most the {min(SPLITS.values())} classes of validation")
        self.check_images(PER_CLASS)


def net_of(config: Config) -> Net:
    """The paper's net, on images (..., N, 3, side, side)."""
    rng = stream(config.seed, "init")
    params = nets.init_pooled_conv4(rng, config.ways, config.filters, 3, config.side, scaled=config.scaled)
    return Net(params, partial(nets.pooled_conv4, eps=config.norm_eps))


def draw_tasks(
    config: Config, images: MiniImageNet, part: str, rng: np.random.Generator, tasks: int, queries: int
) -> tuple[Batch, Batch]:
    """Support and query sets of tasks of a split."""
    return image_tasks(getattr(images, part), rng, config.ways, config.shots, queries, tasks)


def train(config: Config, run: Run) -> Outcome:
    """Meta-train and test each of the methods on the user's images."""
    images, setting = mini_imagenet(config.images or None, config.side), (config.ways, config.shots)
    published = {name: table[setting] for name, table in PUBLISHED.items() if setting in table}
    return run_methods(config, run, net_of(config), partial(draw_tasks, config, images), published)


EXPERIMENT = Experiment(
    name="maml-miniimagenet",
    title="MAML: telling apart photographs seen once",
    paper="Finn, Abbeel, Levine 2017, arXiv 1703.03400, section 5.2",
    summary=(
        "As maml-omniglot, on small photographs of 100 kinds of things. The images are not part of tinymeta: results need the "
        "user's copy of them, from ImageNet."
    ),
    how_to_read=(
        "Higher is better; 20 % is chance. Batch norm takes its statistics from all images that are classified together, as in the "
        "paper (transductive); inductive results are those of each image on its own."
    ),
    config=Config,
    presets={
        "quick": {
            "filters": 16, "meta_batch": 2, "queries": 5, "inner_steps": 1, "test_steps": 3, "iterations": 300,
            "inner_lr": 0.05, "validate_every": 100, "validation_tasks": 40, "test_tasks": 100, "inductive_tasks": 20,
        },
        "paper": {},
        "paper-5-shot": {"shots": 5, "meta_batch": 2},
        "code": {"shots": 5, "meta_batch": 4, "norm_eps": 1e-3},
    },
    train=train,
    draw=draw_figures,
    minutes={"quick": 10.0, "paper": 6000.0, "paper-5-shot": 6000.0, "code": 9000.0},
)  # fmt: skip
