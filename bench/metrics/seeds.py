"""Named random generators: every resampling in this folder is a function of its name, never of the order of calls."""

import hashlib

import numpy as np


def generator(*names: str | int) -> np.random.Generator:
    """A generator that depends on the names alone, e.g. generator("bootstrap", 120, 5000)."""
    digest = hashlib.sha256("|".join(map(str, names)).encode()).digest()
    return np.random.default_rng(np.random.SeedSequence(np.frombuffer(digest, "<u4").tolist()))
