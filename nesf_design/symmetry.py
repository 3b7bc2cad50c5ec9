"""Decoded crystals made symmetric: atoms and cell moved onto the symmetry that they nearly have.

Decoded atoms lie some thousandths or hundredths of an Å beside their sites, so that a strict
tolerance finds no symmetry. spglib finds the space group within a tolerance, and ASE moves cell and
atoms onto it (`ase.spacegroup.symmetrize`), in the same setting and with the same atoms.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import Any

import numpy as np
import spglib
from pymatgen.core import Lattice, Structure

from nesf.crystals import Crystals, lattice_parameters, standard_lattice
from nesf.data.dataset import needs_extra
from nesf.decode import Reconstruction
from nesf_io.errors import ConfigError, DataError

# else it says on standard error, without a name, each time it tries a smaller tolerance
os.environ.setdefault("SPGLIB_WARNING", "OFF")
MOST = 1.0  # Å; larger tolerances make one atom of two
# Å, of symmetry that is exact but for rounding; a tolerance below it changes nothing worth it
EXACT = 1e-3


def check_tolerance(tolerance: float) -> None:
    """Raise `ConfigError` for a tolerance, Å, that is none."""
    if not 0 < tolerance <= MOST:
        raise ConfigError(
            f"symmetrise = {tolerance}: a tolerance above 0 Å, up to {MOST:g} Å, is expected"
        )


def space_group(structure: Structure, tolerance: float) -> int:
    """Return the space group, 1-230, within a tolerance, Å; 0: no atoms, or spglib finds none."""
    if not len(structure):
        return 0
    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    try:
        dataset = spglib.get_symmetry_dataset(cell, symprec=tolerance)
    except spglib.SpglibError:
        return 0
    return 0 if dataset is None else int(dataset.number)


def space_groups(crystals: Crystals, tolerance: float) -> np.ndarray:
    """Return the space groups [B] of crystals (`space_group`)."""
    return np.array([space_group(s, tolerance) for s in crystals.to_structures()], np.int64)


def symmetrise(structure: Structure, tolerance: float) -> tuple[Structure, int]:
    """Return a structure with the symmetry that it has within a tolerance, Å, and the space group.

    The cell keeps its setting, and the atoms their order; each moves by about the tolerance at
    most. Where nothing is found, or the symmetry does not hold together (an atom of a set is
    missing), the structure is returned as it is, with 0.

    Raises:
        ConfigError: a tolerance out of range.
    """
    check_tolerance(tolerance)
    if not len(structure):
        return structure, 0
    with needs_extra("ase"):
        from ase import Atoms
        from ase.spacegroup import symmetrize

    atoms = Atoms(
        structure.atomic_numbers,
        scaled_positions=structure.frac_coords,
        cell=structure.lattice.matrix,
        pbc=True,
    )
    try:
        better, _ = symmetrize.get_symmetrized_atoms(atoms, tolerance, EXACT)
    except (
        *(symmetrize.IntermediateDatasetError, spglib.SpglibError, AssertionError),
        *(ValueError, IndexError, TypeError, AttributeError, np.linalg.LinAlgError),
    ):  # spglib finds nothing, or another group at each step
        return structure, 0
    fractional = structure.frac_coords + _wrapped(
        better.get_scaled_positions(wrap=False) - structure.frac_coords
    )
    made = Structure(Lattice(np.asarray(better.cell)), structure.species, fractional)
    found = space_group(structure, tolerance)
    if not found or space_group(made, EXACT) != found:
        return structure, 0
    return made, found


def _wrapped(difference: np.ndarray) -> np.ndarray:
    return difference - np.round(difference)


def symmetrised(made: Reconstruction, tolerance: float) -> Reconstruction:
    """Return decoded crystals made symmetric, with `symmetry` in each report.

    `symmetry`: `tolerance`, Å; `space_group` (0: none found, left as it was); `moved`, the largest
    way of an atom, Å.

    Raises:
        ConfigError: a tolerance out of range.
    """
    check_tolerance(tolerance)
    crystals, reports = made.crystals, []
    lattice, positions = crystals.lattice.copy(), crystals.positions.copy()
    for i, (structure, report) in enumerate(
        zip(crystals.to_structures(), made.reports, strict=True)
    ):
        better, found = symmetrise(structure, tolerance)
        atoms, moved = crystals.atoms(i), 0.0
        if found:
            cell = _in_setting(better.lattice)
            if cell is not None:
                # to_structures may have wrapped the atoms; the decoder's own images are kept
                old = crystals.positions[atoms] @ np.linalg.inv(crystals.lattice[i])
                new = old + _wrapped(better.frac_coords - old)
                lattice[i], positions[atoms] = cell, new @ cell
                ways = np.linalg.norm(positions[atoms] - crystals.positions[atoms], axis=-1)
                moved = float(ways.max())
            else:
                found = 0
        symmetry = {"tolerance": tolerance, "space_group": found, "moved": round(moved, 6)}
        reports.append(_moved(report, lattice[i], positions[atoms]) | {"symmetry": symmetry})
    return Reconstruction(replace(crystals, lattice=lattice, positions=positions), reports)


def _in_setting(lattice: Lattice) -> np.ndarray | None:
    """Return a lattice [3, 3] in the setting of `Crystals`; None: there is none."""
    lengths, angles = lattice_parameters(np.asarray(lattice.matrix)[None])
    try:
        return np.asarray(standard_lattice(lengths, angles)[0])
    except DataError:
        return None


def _moved(report: dict[str, Any], lattice: np.ndarray, positions: np.ndarray) -> dict[str, Any]:
    """Return a report with the cell and the positions, Å, of its crystal."""
    lengths, angles = lattice_parameters(lattice[None])
    atoms = [
        atom | dict(zip("xyz", place, strict=True))
        for atom, place in zip(report["atoms"], positions.tolist(), strict=True)
    ]
    degrees = [math.degrees(a) for a in angles[0]]
    return report | {"lengths": lengths[0].tolist(), "angles_degree": degrees, "atoms": atoms}
