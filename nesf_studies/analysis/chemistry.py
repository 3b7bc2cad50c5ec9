"""Formulas, charge balance and distances of decoded structures, whatever they are."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pymatgen.core import Structure

NOTHING = "nothing"  # the formula of a structure without atoms


def reduced_formula(structure: Structure) -> str:
    """The formula in the smallest whole numbers, elements by electronegativity, as the paper writes it: NaO, where pymatgen says Na2O2."""
    return _formula(structure.composition.get_el_amt_dict())


def in_our_spelling(formulas: str) -> list[str]:
    """The paper's formulas, parted by blanks, as `reduced_formula` writes them: TePb2S for its Pb2STe."""
    from pymatgen.core import Composition

    return [_formula(Composition(f).get_el_amt_dict()) for f in formulas.split()]


def _formula(amounts: dict[str, float]) -> str:
    from pymatgen.core import Element

    counts = {name: round(n) for name, n in amounts.items()}
    divisor = math.gcd(*counts.values()) if counts else 1
    names = sorted(counts, key=lambda name: (Element(name).X if Element(name).X == Element(name).X else 10.0, name))
    return "".join(f"{name}{counts[name] // divisor if counts[name] > divisor else ''}" for name in names) or NOTHING


@functools.lru_cache(maxsize=4096)
def charge_balanced(formula: str) -> bool:
    """Whether the elements have oxidation states that add up to zero, by pymatgen's guesses (states that the ICSD holds, mixed valence allowed).

    An element alone is neutral.
    """
    from pymatgen.core import Composition

    if formula == NOTHING:
        return False
    composition = Composition(formula)
    return len(composition) == 1 or bool(composition.oxi_state_guesses())


def smallest_distance(structure: Structure) -> float:
    """The distance (Å) of the two nearest atoms, an atom's own images included; not a number without atoms."""
    if not len(structure):
        return math.nan
    distances = structure.distance_matrix[np.triu_indices(len(structure), 1)]
    return float(min([*distances.tolist(), *structure.lattice.abc]))


def structure_distance(a: Structure, b: Structure) -> float:
    """How far (Å) the atoms of two structures are apart: the mean distance of an atom to the nearest of the other, of both ways the mean.

    Fractional coordinates are compared, periodic, in the mean of both cells, whatever the elements; not a number where one has no atoms.
    """
    from pymatgen.core import Lattice

    if not len(a) or not len(b):
        return math.nan
    mean = Lattice.from_parameters(*((np.array(a.lattice.parameters) + np.array(b.lattice.parameters)) / 2))
    distances = mean.get_all_distances(a.frac_coords, b.frac_coords)
    return float((distances.min(0).mean() + distances.min(1).mean()) / 2)
