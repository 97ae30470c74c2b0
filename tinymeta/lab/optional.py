"""The optional packages: which extra brings each, and what it is for."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import NamedTuple

from tinymeta.lab.errors import UserError, one_line


class Optional(NamedTuple):
    extra: str
    purpose: str


PACKAGES = {
    "rich": Optional("lab", "progress bars on a terminal"),
    "matplotlib": Optional("lab", "figures of runs and reports"),
    "PIL": Optional("images", "reading image files: mini-ImageNet, CIFAR-10's JPEG copy (Pillow)"),
    "pooch": Optional("lab", "fetching full data sets with checksums"),
    "hypothesis": Optional("check", "property-based gradient checks"),
    "numba": Optional("fast", "compiled CPU kernels and fused replay"),
    "cupy": Optional("cuda", "GPU arrays and CUDA C++ kernels"),
    "numba_cuda": Optional("cuda", "the readable GPU kernels"),
    "gymnasium": Optional("rl", "maml-cheetah: the environment"),
    "mujoco": Optional("rl", "maml-cheetah: the simulator"),
    "torch": Optional("bench", "tinymeta.l2l.torch, and peer in the benchmarks"),
    "jax": Optional("bench", "tinymeta.l2l.optax, and peer in the benchmarks"),
    "autograd": Optional("bench", "peer in the benchmarks"),
}


def installed(package: str) -> bool:
    """Whether `package` could be imported, found out without importing it."""
    return find_spec(package) is not None


def require(package: str) -> ModuleType:
    """Import one of PACKAGES; UserError that says how to install it if it is missing."""
    try:
        return import_module(package)
    except ImportError as error:
        raise missing(error) or error from error


def missing(error: ImportError) -> UserError | None:
    """The sentence for an ImportError of one of PACKAGES; None if it is about any other module."""
    package = (error.name or "").partition(".")[0]
    if package not in PACKAGES:
        return None
    if installed(package):
        return UserError(f"{package} is installed but cannot be imported: {one_line(error)}; install it again")
    extra, purpose = PACKAGES[package]
    return UserError(f"{package} is not installed and is needed for {purpose}; run: pip install 'tinymeta[{extra}]'")
