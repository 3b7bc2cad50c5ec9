"""Whether a crystal could be one, by the two rules that the field uses.

Xie et al., Crystal Diffusion Variational Autoencoder for Periodic Material Generation (CDVAE,
2022), Section 5.2: *structural* validity, no two atoms nearer than 0.5 Å, and *compositional*
validity, a composition that SMACT (Davies et al., J. Open Source Softw. 4, 1361, 2019) can make
neutral. Both rules are weak: most wrong crystals pass them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from nesf.crystals import Crystals
from nesf.data.dataset import needs_extra

LEAST_DISTANCE = 0.5  # Å
LEAST_VOLUME = 0.1  # Å³, of a cell; as in CDVAE's script
# SMACT's oxidation states of 2014, those of CDVAE's script; its later sets are others
OXIDATION_STATES = "smact14"
# of a formula that is looked at: the combinations of oxidation states grow tenfold with each
MOST_ELEMENTS = 7


def structurally_valid(crystals: Crystals, least: float = LEAST_DISTANCE) -> np.ndarray:
    """Tell which crystals [B] have no two atoms nearer than `least`, Å, across the cell's faces too.

    As in CDVAE's script an atom is not compared with its own images, and a cell smaller than 0.1 Å³
    is not valid. Nor is a crystal without atoms, or with a number that is not finite.
    """
    return smallest_distances(crystals) >= least  # false for NaN


def smallest_distances(crystals: Crystals) -> np.ndarray:
    """Return the smallest distance [B], Å, between two atoms of a crystal, periodic images included.

    Infinite for a single atom; NaN for a crystal without atoms or a cell (`structurally_valid`).
    """
    from pymatgen.core import Lattice

    smallest = np.full(len(crystals), np.nan)
    for i, lattice in enumerate(crystals.lattice):
        positions = crystals.positions[crystals.atoms(i)]
        finite = np.isfinite(lattice).all() and np.isfinite(positions).all()
        if not finite or not len(positions) or abs(np.linalg.det(lattice)) < LEAST_VOLUME:
            continue
        fractional = positions @ np.linalg.inv(lattice)
        distances = Lattice(lattice).get_all_distances(fractional, fractional)
        np.fill_diagonal(distances, np.inf)
        smallest[i] = distances.min()
    return smallest


def compositionally_valid(crystals: Crystals) -> np.ndarray:
    """Tell which crystals [B] have a composition that SMACT can make neutral (`is_neutral`)."""
    formulas = (formula(crystals.species[crystals.atoms(i)]) for i in range(len(crystals)))
    return np.array([is_neutral(f) for f in formulas], dtype=bool)


def valid(crystals: Crystals) -> np.ndarray:
    """Tell which crystals [B] pass both rules: CDVAE's *valid*."""
    return structurally_valid(crystals) & compositionally_valid(crystals)


def formula(numbers: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Return the reduced formula of atomic numbers [N]: pairs of number and count, ascending."""
    elements, counts = np.unique(numbers, return_counts=True)
    divisor = np.gcd.reduce(counts) if len(counts) else 1
    return tuple(zip(elements.tolist(), (counts // divisor).tolist(), strict=True))


@lru_cache(maxsize=65536)
def is_neutral(formula: tuple[tuple[int, int], ...]) -> bool:
    """Tell whether a formula, pairs of atomic number and count, can be neutral by SMACT.

    As in CDVAE's script: one element alone, or metals alone, are valid; else there must be one
    oxidation state an element with total charge zero, in which the positive elements are less
    electronegative than the negative ones (Pauling's scale). A formula without atoms, or of more
    than `MOST_ELEMENTS` elements, is not valid.

    Raises:
        NesfError: SMACT is not installed; it comes with the extra `design`.
    """
    if not 0 < len(formula) <= MOST_ELEMENTS:
        return False
    with needs_extra("design"):
        from smact.screening import smact_validity
    from pymatgen.core import Composition, Element

    composition = Composition({Element.from_Z(z): count for z, count in formula})
    return bool(smact_validity(composition, oxidation_states_set=OXIDATION_STATES))
