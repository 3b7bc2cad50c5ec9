"""The paper's random split (Section 4.1; rule read from the official release)."""

from __future__ import annotations

from math import ceil

import numpy as np

from nesf.crystals import Crystals
from nesf.errors import DataError


def split(crystals: Crystals, *, seed: int) -> dict[str, Crystals]:
    """Shuffle and cut: test = ceil(5 % of n), validation = ceil(5 % of the rest), train = what is left.

    The rule gives the paper's counts: 6005 → 5418 / 286 / 301 (LCS6Å), 100 → 90 / 5 / 5 (YBCO-like), 7194 → 6492 / 342 / 360 (ICSG3D).

    Args:
        crystals: n crystals.
        seed: of numpy's default generator; the same seed gives the same split.

    Returns:
        `train`, `val`, `test`.

    Raises:
        DataError: fewer than three crystals, so that a split would be empty.
    """
    n = len(crystals)
    if n < 3:
        raise DataError(f"{n} crystals cannot be split into train, validation and test; give at least 3")
    n_test = ceil(n / 20)
    n_val = ceil((n - n_test) / 20)
    order = np.random.default_rng(seed).permutation(n)
    parts = {"test": order[:n_test], "val": order[n_test : n_test + n_val], "train": order[n_test + n_val :]}
    return {name: crystals.select(parts[name]) for name in ("train", "val", "test")}
