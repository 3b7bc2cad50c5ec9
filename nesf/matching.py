"""Match rate of crystals with pymatgen's StructureMatcher."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from nesf.crystals import MAX_LENGTH, MIN_VOLUME, Crystals

# StructureMatcher's tolerances in CDVAE and later work
MATCHER = {"ltol": 0.3, "stol": 0.5, "angle_tol": 10}
# smallest V / (a b c) of a cell that the matcher is given (angles of about 1 degree)
FLATTEST_CELL = 0.02


def match_rmse(actual: Crystals, detected: Crystals, *, progress: bool = False) -> np.ndarray:
    """Compute the RMS displacements [B] of matched crystals over (V/N)^(1/3); NaN: no match.

    As in CDVAE and later work, a pair matches when StructureMatcher's `get_rms_dist` (with
    `MATCHER`) finds a mapping. An absurd cell, or one on which the matcher fails, does not match.
    The crystals are in the same order.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher(**MATCHER)
    rmse = np.full(len(actual), np.nan)
    for i in tqdm(range(len(actual)), desc="matching", unit="crystal", disable=not progress):
        if not _may_match(actual, detected, i):
            continue
        try:
            result = matcher.get_rms_dist(
                *detected.select([i]).to_structures(), *actual.select([i]).to_structures()
            )
        except (ValueError, ArithmeticError, IndexError, np.linalg.LinAlgError):
            # Niggli reduction or the assignment fails on a strange cell
            continue
        rmse[i] = np.nan if result is None else result[0]
    return rmse


def _may_match(actual: Crystals, detected: Crystals, i: int) -> bool:
    """Return whether pair i has one composition and a cell on which the matcher ends."""
    (elements, counts), (actual_elements, actual_counts) = (
        np.unique(c.species[c.atoms(i)], return_counts=True) for c in (detected, actual)
    )
    # The matcher compares reduced formulas, so a cell may hold a multiple of the other's atoms.
    if (
        not len(elements)
        or not np.array_equal(elements, actual_elements)
        or np.any(counts * actual_counts[0] != actual_counts * counts[0])
    ):
        return False
    lattice = detected.lattice[i]
    if not np.isfinite(lattice).all():
        return False
    lengths, volume = np.linalg.norm(lattice, axis=-1), abs(np.linalg.det(lattice))
    return bool(
        volume >= MIN_VOLUME
        and lengths.max() <= MAX_LENGTH
        and volume >= FLATTEST_CELL * lengths.prod()
    )
