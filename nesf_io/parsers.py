"""Single structures, by pymatgen and ASE: what they say, and what a reader makes of it in silence.

What a reader changes without being asked is a note, atoms that it would lose are an error; counts
are looked at before it sees them. All of it runs in the process of `nesf_io.worker`, without torch.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from functools import cache
from io import StringIO
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from nesf_io.errors import DataError
from nesf_io.worker import in_one_line

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

# a structure, its notes, and the id that it brings with it
Found: TypeAlias = "tuple[Structure, list[str], str | None]"

# Structures beyond these limits are refused as mistakes.
MAX_ATOMS_PER_CELL = 1000
MAX_LENGTH = 100.0  # Å, of a cell edge
MIN_DISTANCE = 0.3  # Å, between two atoms, images included
MIN_VOLUME = 1.0  # Å³
# What files of nesf say of positions that are a decoder's own, on both sides of the cell's faces
AS_DECODED = "positions as decoded"
MAX_ENTRY, MAX_HEADER = 1 << 24, 1 << 16  # characters of a structure; of a header of extxyz


def as_decoded(structure: Structure) -> str:
    """Return what a file of nesf says of positions that are not wrapped."""
    places = structure.frac_coords.round(6)
    return f"{AS_DECODED}, {((places < 0) | (places >= 1)).any(1).sum()} outside the cell"


def _says_so(structure: Structure, text: str) -> Structure:
    """Note whether the text says it of these positions: another program may have wrapped them."""
    structure.properties[AS_DECODED] = as_decoded(structure) in text
    return structure


def one_entry(text: str) -> str:
    """Return the text of a structure; a DataError if it is far too long for one."""
    if len(text) > MAX_ENTRY:
        raise DataError(
            f"{len(text) >> 20} MiB of text for a structure, more than {MAX_ENTRY >> 20}"
        )
    return text


def reason_against(structure: Structure, decoded: bool = False) -> str | None:
    """Return why a pymatgen structure cannot be used, or None.

    One that was `decoded` may be absurd in size and have atoms at any distance: that is scored.
    """
    if len(structure) == 0:
        return "it has no atoms"
    if len(structure) > MAX_ATOMS_PER_CELL and not decoded:
        return f"{len(structure)} atoms in the cell, more than {MAX_ATOMS_PER_CELL}"
    if not structure.is_ordered:
        site = next(s for s in structure if not s.is_ordered)
        return f"site {site.species_string} at {site.frac_coords.round(4).tolist()} is disordered (order it first, for example with pymatgen's OrderDisorderedStructureTransformation)"
    if not (
        np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.cart_coords).all()
    ):
        return "a coordinate or lattice entry is not finite"
    # the Z of a pymatgen DummySpecies is a hash
    if any(not 1 <= site.specie.Z <= 118 for site in structure):
        return "a site holds a dummy species, no element"
    if decoded:
        return None if structure.volume > 0 else "its cell has no volume"
    if structure.volume < MIN_VOLUME or max(structure.lattice.abc) > MAX_LENGTH:
        return f"cell {np.round(structure.lattice.abc, 3).tolist()} Å with a volume of {structure.volume:.3g} Å³ is absurd"
    shortest = structure.distance_matrix[np.triu_indices(len(structure), 1)].min(initial=np.inf)
    if shortest < MIN_DISTANCE:
        return f"two atoms are {shortest:.3f} Å apart (nearer than {MIN_DISTANCE} Å)"
    return None


def standard_cell(structure: Structure, cell: str) -> Structure:
    """Return pymatgen's `conventional` or `primitive` standard structure; DataError: it has none."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    # they would lower the symmetry, and the model knows elements only
    structure = structure.copy().remove_oxidation_states()
    try:
        analyzer = SpacegroupAnalyzer(structure)
        return (
            analyzer.get_conventional_standard_structure()
            if cell == "conventional"
            else analyzer.get_primitive_standard_structure()
        )
    except Exception as error:
        raise DataError(f"pymatgen finds no {cell} cell of it ({in_one_line(error)})") from None


def from_block(block: str) -> Found:
    """Read a block of a CIF; what pymatgen makes of it without a word is a note or an error."""
    from pymatgen.core import Structure
    from pymatgen.io.cif import CifParser

    columns = re.findall(r"^\s*_atom_site_fract_x\b(.*)", one_entry(block), re.MULTILINE)
    if len(columns) != 1 or columns[0].strip():  # pymatgen takes the last, or letters for sites
        raise DataError("its sites are not one loop_ with one column _atom_site_fract_x")
    parser = CifParser.from_str("data_" + block, check_cif=False)
    data: Mapping[str, Any] = next(iter(parser.as_dict().values()), {})
    empty, notes = _check_sites(data)
    structure = parser.parse_structures(primitive=False, on_error="raise")[0]
    _check_symmetry(data, parser, structure)
    if AS_DECODED in block:  # pymatgen wraps them into the cell
        places = [data[f"_atom_site_fract_{x}"] for x in "xyz"]
        symbols = data["_atom_site_type_symbol"]
        raw = Structure(structure.lattice, symbols, np.array(places, dtype=float).T)
        structure = _says_so(raw, block)
    return structure, [*parser.warnings, *notes, *_formula_notes(data, structure, empty)], None


def _check_sites(data: Mapping[str, Any]) -> tuple[set[str], list[str]]:
    """Return elements of sites with occupancy 0, and notes; DataError: pymatgen leaves out a site."""
    from pymatgen.core import Element

    labels = data.get("_atom_site_label", [])
    symbols = data.get("_atom_site_type_symbol", labels)
    occupancies = data.get("_atom_site_occupancy", ["1"] * len(labels))
    places = zip(*(data.get(f"_atom_site_fract_{x}", labels) for x in "xyz"), strict=True)
    empty, notes = set(), []
    for label, symbol, occupancy, place in zip(labels, symbols, occupancies, places, strict=True):
        letters = re.match("[A-Za-z]*", symbol)[0].title()  # type: ignore[index]
        found = next((e for e in (letters[:2], letters[:1]) if Element.is_valid_symbol(e)), None)
        if found is None or letters.startswith("Oh"):
            raise DataError(f"site {label}: {symbol!r} is no element, and its atom would be lost")
        if letters != found:
            notes.append(f"site {label}: {symbol!r} is read as {found}")
        if {".", "?"} & {occupancy, *place}:
            raise DataError(f"site {label}: a coordinate or its occupancy is not known (. or ?)")
        if (filled := float(occupancy.partition("(")[0])) < 0:
            raise DataError(f"site {label}: occupancy {occupancy} is below 0")
        if filled == 0:
            empty.add(found)
            notes.append(f"site {label}: occupancy 0, left out")
    return empty, notes


def _check_symmetry(data: Mapping[str, Any], parser: Any, structure: Structure) -> None:
    """Raise a DataError where atoms are missing since symmetry operators are."""
    given = [
        re.sub(r"[\s_']", "", str(value))
        for key, value in data.items()
        if re.search("Int_Tables_number|_IT_number|name_H", key) and "_parent_" not in key
    ]
    named = [name for name in given if name not in ("1", "P1", "?", ".", "")]
    if named and any("Defaulting to P1" in text for text in parser.warnings):
        raise DataError(
            f"it has no symmetry operators, and space group {named[0]} is unknown: atoms would be lost; add _symmetry_equiv_pos_as_xyz"
        )
    matrices = np.array([op.affine_matrix for op in parser.symmetry_operations])
    n = _distinct(matrices)
    if _distinct(np.einsum("aij,bjk->abik", matrices, matrices).reshape(-1, 4, 4)) != n:
        raise DataError(
            f"its {len(matrices)} symmetry operators are no group: one is missing or wrong, and atoms would be lost; repair _symmetry_equiv_pos_as_xyz"
        )
    number, order = next(filter(None, map(_space_group, sorted(named))), (1, 1))
    counts = data.get("_atom_site_symmetry_multiplicity", [])
    told = sum(int(count) for count in counts if str(count).isdigit())
    missing = (
        f"{n} symmetry operators where space group {named[0]} has {order}" if n < order else ""
    )
    if order == 1 and told > len(structure) and structure.is_ordered:
        missing = f"multiplicities of {told} atoms, and operators that make {len(structure)}"
    # a file may list all atoms, or describe a smaller cell than the group's own
    if missing and structure.get_space_group_info(0.1)[1] != (number if order > 1 else 0):
        raise DataError(
            f"it has {missing}: atoms would be lost; mend _symmetry_equiv_pos_as_xyz or, where all atoms are listed, say space group P 1 and multiplicity 1"
        )


@cache
def _space_group(name: str) -> tuple[int, int] | None:
    """Return number and order of a space group, by number or symbol without spaces; None: unknown."""
    from pymatgen.symmetry.groups import SpaceGroup

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            group = SpaceGroup.from_int_number(int(name)) if name.isdigit() else SpaceGroup(name)
    except ValueError:
        return None
    return group.int_number, group.order


def _distinct(operators: np.ndarray) -> int:
    """Count operators [n, 4, 4], translations up to whole cells and rounding (0.3333)."""
    shift = operators[:, :3, 3]
    near = np.round(shift * 24) / 24
    shift = np.where(np.abs(shift - near) < 0.002, near, shift)
    shift = np.round((shift + 1e-6) % 1, 3) % 1
    return len(np.unique(np.concatenate([operators[:, :3, :3].reshape(-1, 9), shift], 1), axis=0))


def _formula_notes(data: Mapping[str, Any], structure: Structure, empty: set[str]) -> list[str]:
    """Compare sites with the file's own formula; a DataError where one left out is in it."""
    from pymatgen.core import Composition

    text = str(data.get("_chemical_formula_sum", "")).strip("' ")
    try:
        formula = Composition(text)
    except (ValueError, LookupError):
        return []
    if not len(formula):
        return []
    here = structure.composition.remove_charges()
    if lost := [e for e in sorted(empty) if e in formula.get_el_amt_dict() and e not in here]:
        raise DataError(
            f"its sites of {lost[0]} have occupancy 0, while its formula is {text}: atoms would be lost; mend occupancy or formula"
        )
    if not here.fractional_composition.almost_equals(formula.fractional_composition, 0.01, 1e-3):
        return [f"its formula is {text}, its sites are {here.formula}"]
    z, atoms = str(data.get("_cell_formula_units_Z", "")), formula.num_atoms
    # pymatgen writes the formula of the whole cell, and Z = 0 for Na O, half of Na2 O2
    whole = [round(atoms * int(z)), round(atoms)] if z.isdigit() and int(z) else []
    factor = formula.get_reduced_composition_and_factor()[1]
    if whole and len(structure) not in whole[: 2 if z == f"{factor:g}" else 1]:
        return [
            f"its formula {text} with Z = {z} means {whole[0]} atoms; its sites are {len(structure)}"
        ]
    return []


def from_poscar(text: str) -> Found:
    """Read a POSCAR; a DataError for counts that its lines do not have, or unnamed elements."""
    from pymatgen.io.vasp.inputs import Poscar

    lines = one_entry(text).splitlines()
    start = next(
        (i for i, line in enumerate(lines) if i > 5 and re.match(r"\s*[sSdDcCkK]", line)), 0
    )
    words = [line.split() for line in lines[5:start]]
    counts = [int(w) for line in words for w in line if re.fullmatch(r"[+-]?\d+", w)]
    if broken := next((w for line in words for w in line if re.match(r"[+-]?\d*[.eE]\d", w)), None):
        raise DataError(f"a number of atoms is {broken}, no whole number")
    symbols = [w for line in words for w in line if not re.fullmatch(r"[+-]?\d+", w)]
    if counts and (min(counts) < 0 or not 0 < sum(counts) <= MAX_ATOMS_PER_CELL):
        raise DataError(
            f"the numbers of atoms {' '.join(map(str, counts[:8]))} are not between 1 and {MAX_ATOMS_PER_CELL}"
        )
    if symbols and len(symbols) != len(counts):
        raise DataError(f"it names {len(symbols)} elements and counts {len(counts)}")
    start += bool(start) and lines[start].strip()[0] in "sS"
    rows = 0
    for line in lines[start + 1 :]:
        if not re.match(r"\s*[+-]?\.?\d\S*\s+\S+\s+\S+", line):
            break
        rows += 1
    if rows != sum(counts):
        raise DataError(f"it counts {sum(counts)} atoms and gives {rows} positions")
    poscar = Poscar.from_str(text, read_velocities=False)
    if not poscar.true_names:  # pymatgen would take H, He, Li, … in turn
        raise DataError(
            "it does not name its elements (VASP 4); add the line of symbols, for example 'Na Cl', above the numbers of atoms"
        )
    return _says_so(poscar.structure, lines[0]), [], None


def from_frame(frame: list[str]) -> Found:
    """Read the lines of a frame of extxyz."""
    from ase.io import read

    if (n := int(frame[0])) > MAX_ATOMS_PER_CELL:
        raise DataError(f"{n} atoms in the cell, more than {MAX_ATOMS_PER_CELL}")
    if len(frame) < n + 2:
        raise DataError(f"it says {n} atoms and gives {max(len(frame) - 2, 0)}")
    if len(frame[1]) > MAX_HEADER:
        raise DataError(f"a header of {len(frame[1])} characters, more than {MAX_HEADER}")
    named = re.search(r'Properties\s*=\s*"?([^\s"]*)', frame[1], re.IGNORECASE)
    counts = named[1].split(":")[2::3] if named else []
    declared = sum(int(count[:9]) for count in counts if count.isdecimal())
    if declared > (columns := len(frame[2].split())):  # ASE would make room for them first
        raise DataError(f"its Properties are {declared} columns, its first atom has {columns}")
    try:
        atoms = read(StringIO("\n".join(frame) + "\n"), format="extxyz")
    except KeyError as error:
        raise DataError(f"{error} is no element, or a key is missing") from None
    return from_images(atoms)


def from_images(atoms: Atoms) -> Found:
    """Read ASE atoms, with their id if they have one."""
    own, structure = atoms.info.get("material_id"), from_atoms(atoms)
    structure = _says_so(structure, str(atoms.info.get("nesf")))
    return structure, [], None if own is None else str(own)


def from_atoms(atoms: Atoms) -> Structure:
    """Return ASE atoms as a structure; a DataError without a cell in three directions."""
    from pymatgen.io.ase import AseAtomsAdaptor

    if not atoms.pbc.all() or atoms.cell.rank < 3:
        raise DataError(
            "it has no cell that is periodic in three directions (Lattice=... in its comment line)"
        )
    return AseAtomsAdaptor.get_structure(atoms)


def from_dict(data: Mapping[str, Any]) -> Found:
    """Read pymatgen's dictionary; of its properties, which may name any class to be made, none."""
    from pymatgen.core import Structure

    if not {"lattice", "sites"} <= set(data):
        raise DataError("it is no structure, lattice and sites are missing")
    if len(data["sites"]) > MAX_ATOMS_PER_CELL:
        raise DataError(f"{len(data['sites'])} atoms in the cell, more than {MAX_ATOMS_PER_CELL}")
    keys = ("species", "abc", "xyz", "label")
    sites = [{key: site[key] for key in keys if key in site} for site in data["sites"]]
    lattice = {"matrix": data["lattice"]["matrix"]}
    structure = Structure.from_dict({"lattice": lattice, "sites": sites})
    return _says_so(structure, str(data.get("properties"))), [], None
