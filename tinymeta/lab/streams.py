"""Random streams by name: step 7 of stage "train" draws the same numbers however often a run was interrupted."""

from __future__ import annotations

import hashlib
import json
import operator

import numpy as np


def stream(seed: int, *words: str | int) -> np.random.Generator:
    """A generator that depends on `seed` and `words` alone, as in `stream(config.seed, "batch", i)`.

    Different words give independent streams (SHA-256 of seed and words seeds PCG64 through SeedSequence).
    """
    key = json.dumps([operator.index(seed), *words], default=operator.index)
    entropy = int.from_bytes(hashlib.sha256(key.encode()).digest())
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
