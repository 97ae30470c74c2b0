"""Real images and random tasks: MNIST, CIFAR-10, Omniglot, mini-ImageNet, sinusoids, quadratics and more. NumPy only."""

from tinymeta.data.cifar import Cifar10, cifar10
from tinymeta.data.errors import DataError
from tinymeta.data.mini_imagenet import ImageClasses, MiniImageNet, image_tasks, mini_imagenet, mini_imagenet_lists
from tinymeta.data.minibatches import minibatch_indices
from tinymeta.data.mnist import Images, mnist, mnist_subset
from tinymeta.data.omniglot import FewShotTasks, Omniglot, few_shot_tasks, omniglot
from tinymeta.data.omniglot import split as omniglot_split
from tinymeta.data.permutations import centre_permutation, permutations, permuted
from tinymeta.data.quadratics import Quadratics, quadratics
from tinymeta.data.sine import SineTasks, sine_points, sine_tasks

__all__ = [
    "Cifar10",
    "DataError",
    "FewShotTasks",
    "ImageClasses",
    "Images",
    "MiniImageNet",
    "Omniglot",
    "Quadratics",
    "SineTasks",
    "centre_permutation",
    "cifar10",
    "few_shot_tasks",
    "image_tasks",
    "mini_imagenet",
    "mini_imagenet_lists",
    "minibatch_indices",
    "mnist",
    "mnist_subset",
    "omniglot",
    "omniglot_split",
    "permutations",
    "permuted",
    "quadratics",
    "sine_points",
    "sine_tasks",
]
