"""λ in the units of other programs: the same penalty, written with another factor and another Fisher.

Standard units, those of `Penalty`: loss = mean cross-entropy + λ/2 Σ F (θ - θ*)², F the mean over samples of the squared
score. A program with its own factor k and a Fisher f F has k λ' f = λ/2. Read in the programs' code; B is the batch size.
"""

from __future__ import annotations

from typing import NamedTuple

from .arguments import is_amount, is_count


class Convention(NamedTuple):
    """How a program writes the penalty: `half` if it has the factor ½; `per_batch` if its Fisher is F/B, the mean over batches
    of squared gradients of the batch mean, which is what that amounts to where the mean gradient is near 0."""

    half: bool
    per_batch: bool
    source: str
    remark: str = ""


CONVENTIONS = {
    "tinymeta": Convention(True, False, "tinymeta/ewc/penalty.py"),
    "van-de-ven": Convention(
        True,
        False,
        "GMvandeVen/continual-learning: models/cl/continual_learner.py",
        "with its batch size for the Fisher at 1",
    ),
    "van-de-ven-batched": Convention(
        True,
        True,
        "GMvandeVen/continual-learning: models/cl/continual_learner.py",
        "B is its batch size for the Fisher",
    ),
    "avalanche": Convention(False, True, "ContinualAI/avalanche: training/plugins/ewc.py"),
    "pycil": Convention(
        True,
        True,
        "G-U-N/PyCIL: models/ewc.py",
        "clips its Fisher at 1e-4, mixes old and new by their numbers of classes",
    ),
    "facil": Convention(
        True,
        True,
        "mmasana/FACIL: src/approach/ewc.py",
        "labels by argmax, leaves the heads out, mixes old and new half and half: the first counts half",
    ),
    "hat": Convention(True, True, "joansj/hat: src/utils.py, fisher_matrix_diag", "averages over tasks"),
    "gt-ripl": Convention(
        False, False, "GT-RIPL/Continual-Learning-Benchmark: agents/regularization.py", "labels by argmax"
    ),
    "mammoth": Convention(
        False, False, "aimagelab/mammoth: models/ewc_on.py", "weights true labels by their probability"
    ),
    "moskomule": Convention(False, False, "moskomule/ewc.pytorch: utils.py", "labels by argmax"),
    "kuc2477": Convention(True, False, "kuc2477/pytorch-ewc: model.py", "empirical"),
    "ariseff": Convention(True, False, "ariseff/overcoming-catastrophic: model.py", "sampled, 200 images"),
    "gem": Convention(
        False, True, "facebookresearch/GradientEpisodicMemory: model/ewc.py", "one batch: B is its n_memories"
    ),
}
"""By name. A remark says what beside the factor is different there, which no λ can make up for."""


def standard_lam(lam: float, convention: str, batch_size: int | None = None) -> float:
    """The lam of `Penalty` that weighs as `lam` does in the program `convention`, one of CONVENTIONS.

    `batch_size` is that of its Fisher, for conventions that are per_batch. ValueError for an unknown name, without it, and unless
    lam is finite and not negative.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"standard_lam: convention is {convention!r}, expected one of {', '.join(CONVENTIONS)}")
    if not is_amount(lam):
        raise ValueError(f"standard_lam: lam is {lam!r}, expected a finite number, 0 or more")
    row = CONVENTIONS[convention]
    if row.per_batch and not is_count(batch_size):
        raise ValueError(
            f"standard_lam: {convention} squares means over batches; pass its batch_size, an int, 1 or more"
        )
    return lam * (1 if row.half else 2) / (batch_size if row.per_batch and batch_size else 1)
