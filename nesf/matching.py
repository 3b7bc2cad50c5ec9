"""Match rate of crystals with pymatgen's StructureMatcher."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import numpy as np
from tqdm import tqdm

from nesf.crystals import Crystals
from nesf_io.parsers import MAX_LENGTH, MIN_VOLUME

# StructureMatcher's tolerances in CDVAE and later work
MATCHER = {"ltol": 0.3, "stol": 0.5, "angle_tol": 10}
# smallest V / (a b c) of a cell that the matcher is given (angles of about 1 degree)
FLATTEST_CELL = 0.02
MOST_ORDERS = 32  # of the atoms of a crystal


def match_rmse(
    actual: Crystals,
    detected: Crystals,
    tolerances: Mapping[str, float] = MATCHER,
    *,
    progress: bool = False,
) -> np.ndarray:
    """Compute the RMS displacements [B] of matched crystals over (V/N)^(1/3); NaN: no match.

    As in CDVAE and later work, a pair matches when StructureMatcher's `get_rms_dist` (with
    `tolerances`) finds a mapping. The primitive cell that it finds of a crystal that is not exactly
    symmetric depends on which atom of the rarest element comes first, an order that differs between
    processors; here the pair matches when it does with any of them first. An absurd cell, or one
    on which the matcher fails, does not match. The crystals are in the same order.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher(**tolerances)
    rmse = np.full(len(actual), np.nan)
    for i in tqdm(range(len(actual)), desc="matching", unit="crystal", disable=not progress):
        if not _may_match(actual, detected, i):
            continue
        (one,), (other,) = (c.select([i]).to_structures() for c in (detected, actual))
        symbols = np.array([site.species_string for site in one])
        elements, counts = np.unique(symbols, return_counts=True)
        for first in np.flatnonzero(symbols == elements[counts.argmin()])[:MOST_ORDERS]:
            ordered = one.from_sites([one[k] for k in np.roll(np.arange(len(one)), -first)])
            # Niggli reduction or the assignment fails on a strange cell
            with suppress(ValueError, ArithmeticError, IndexError, np.linalg.LinAlgError):
                if (result := matcher.get_rms_dist(ordered, other)) is not None:
                    rmse[i] = result[0]
                    break
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
