"""The space group of a structure, by spglib."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymatgen.core import Structure

SYSTEMS = {  # crystal system to its last space group (International Tables for Crystallography A)
    "triclinic": 2,
    "monoclinic": 15,
    "orthorhombic": 74,
    "tetragonal": 142,
    "trigonal": 167,
    "hexagonal": 194,
    "cubic": 230,
}


def space_group(structure: Structure, symprec: float) -> int:
    """The number of the space group, 1-230; 0 where there is none: no atoms, or atoms on top of each other.

    Args:
        structure: any pymatgen structure.
        symprec: how far (Å) an atom may be from where the symmetry puts it.
    """
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

    if not len(structure):
        return 0
    try:
        return int(SpacegroupAnalyzer(structure, symprec=symprec).get_space_group_number())
    except SymmetryUndeterminedError:
        return 0


def symbol(number: int) -> str:
    """The Hermann-Mauguin symbol of a space group, "–" for 0."""
    from pymatgen.symmetry.groups import sg_symbol_from_int_number

    return str(sg_symbol_from_int_number(number)) if number else "–"


def crystal_system(number: int) -> str:
    """The crystal system of a space group, "unknown" for 0."""
    return next((name for name, last in SYSTEMS.items() if 0 < number <= last), "unknown")
