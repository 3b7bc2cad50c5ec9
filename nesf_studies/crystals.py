"""Crystals drawn and described: unit cell, elements, space group, formula, charges, distances."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.utils import rotate
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.path import Path
from pymatgen.core import Composition, Element, Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError
from pymatgen.symmetry.groups import sg_symbol_from_int_number

from nesf.crystals import Crystals
from nesf_studies.style import DARK, draw_symbol, element_colour, subplots

ON_BORDER = 0.3  # Å; an atom this near to a face of the cell is drawn on the opposite face too
VIEW = "-90x,10x,-20y,0z"  # from the front, as ASE writes rotations
NOTHING = "nothing"  # the formula of a structure without atoms
# Crystal system to its last space group (International Tables for Crystallography A).
SYSTEMS = {
    "triclinic": 2,
    "monoclinic": 15,
    "orthorhombic": 74,
    "tetragonal": 142,
    "trigonal": 167,
    "hexagonal": 194,
    "cubic": 230,
}


def cell_corners(lattice: np.ndarray) -> np.ndarray:
    """Return the corners [8, 3] of a unit cell, from its lattice vectors [3, 3]."""
    return np.array(list(itertools.product((0, 1), repeat=3))) @ lattice


def cell_edges(lattice: np.ndarray) -> np.ndarray:
    """Return the ends [12, 2, 3] of the edges of a unit cell, from its lattice vectors [3, 3]."""
    corners = cell_corners(lattice)
    return np.array(
        [(corners[k], corners[k | bit]) for k in range(8) for bit in (1, 2, 4) if not k & bit]
    )


def from_front(points: np.ndarray) -> np.ndarray:
    """Turn points [..., 3] to the view of all drawings: x and y in the picture, z to the eye."""
    return points @ rotate(VIEW)


def with_border_images(structure: Structure) -> Atoms:
    """Return the atoms of a cell with their images on its opposite faces, edges and corners."""
    border = ON_BORDER / np.array(structure.lattice.abc)
    positions, numbers = [], []
    for site in structure:
        shifts = [
            [0] + [1] * int(abs(x) < b) + [-1] * int(abs(x - 1) < b)
            for x, b in zip(site.frac_coords, border, strict=True)
        ]
        for shift in itertools.product(*shifts):
            positions.append(site.frac_coords + np.array(shift))
            numbers.append(site.specie.Z)
    return Atoms(
        numbers=numbers,
        scaled_positions=np.reshape(positions, (-1, 3)),
        cell=structure.lattice.matrix,
        pbc=True,
    )


def draw_crystal(ax: Axes, structure: Structure, *, letters: float = 9) -> None:
    """Draw a unit cell from the front, atoms on its faces repeated: one artist, sorted by depth.

    The `letters` of the elements, of this size (points), stand on atoms that are large enough and that no other hides.
    """
    ax.set_axis_off()
    if not len(structure):
        ax.text(0.5, 0.5, "nothing detected", ha="center", transform=ax.transAxes)
        return
    atoms = with_border_images(structure)
    centres, radii = from_front(atoms.positions), 0.45 * covalent_radii[atoms.numbers]
    shapes = [
        (z, Path.circle((x, y), r), element_colour(n))
        for (x, y, z), r, n in zip(centres, radii, atoms.numbers, strict=True)
    ]
    for start, end in from_front(cell_edges(structure.lattice.matrix)):
        # short pieces: an edge passes behind some atoms and before others
        for a, b in itertools.pairwise(np.linspace(start, end, 31)):
            if (np.linalg.norm((a + b) / 2 - centres, axis=1) > radii).all():
                shapes.append((a[2], Path([a[:2], b[:2]]), "none"))
    for i, (x, y, z) in enumerate(centres):
        hiding = (centres[:, 2] > z) & (
            np.hypot(*(centres[:, :2] - (x, y)).T) < radii + radii[i] / 3
        )
        if not hiding.any():
            draw_symbol(ax, (x, y), radii[i], atoms.numbers[i], letters)
    _, paths, colours = zip(*sorted(shapes, key=lambda shape: shape[0]), strict=True)
    ax.add_collection(
        PathCollection(
            paths,
            facecolors=colours,
            edgecolors="black",
            linewidths=1,
            capstyle="round",
            snap=False,
        )
    )
    ax.set_aspect("equal")
    ax.margins(0.05)


def element_map(crystals: Crystals, *, title: str = "") -> Figure:
    """Draw on the periodic table how many crystals hold each element."""
    owner = np.repeat(np.arange(len(crystals)), crystals.n_atoms)
    numbers, counts = np.unique(
        np.unique(np.stack([crystals.species, owner]), axis=1)[0], return_counts=True
    )
    table = np.full((9, 18), np.nan)
    figure, (ax,) = subplots(1, 9.6, 5)
    for z in range(1, 104):
        element = Element.from_Z(z)
        row, column = element.row - 1, element.group - 1
        if 57 <= z <= 71 or 89 <= z <= 103:  # the f block stands below
            row, column = row + 2, 2 + (z - 57) % 32
        count = int(counts[numbers == z].sum())
        table[row, column] = count or np.nan
        ax.text(
            column,
            row - 0.12,
            element.symbol,
            ha="center",
            va="center",
            fontsize=11,
            color=DARK if count else "#888888",
        )
        ax.text(
            column, row + 0.28, str(count or ""), ha="center", va="center", fontsize=8, color=DARK
        )
    # light enough for black text
    blues = np.linspace([0.93, 0.96, 1.0, 1.0], [0.25, 0.55, 0.85, 1.0], 256)
    image = ax.imshow(
        table,
        cmap=ListedColormap(blues),
        norm=LogNorm(1, max(2, counts.max(initial=2))),
        aspect="auto",
    )
    figure.colorbar(image, ax=ax, label="crystals that hold the element", shrink=0.7)
    ax.set_title(title)
    ax.set_axis_off()
    return figure


def space_group(structure: Structure, symprec: float) -> int:
    """Return the space group, 1-230, at a tolerance (Å); 0: no atoms, or atoms on each other."""
    if not len(structure):
        return 0
    try:
        return int(SpacegroupAnalyzer(structure, symprec=symprec).get_space_group_number())
    except SymmetryUndeterminedError:
        return 0


def space_group_symbol(number: int) -> str:
    """Return the Hermann-Mauguin symbol of a space group, "–" for 0."""
    return str(sg_symbol_from_int_number(number)) if number else "–"


def crystal_system(number: int) -> str:
    """Return the crystal system of a space group, "unknown" for 0."""
    return next((name for name, last in SYSTEMS.items() if 0 < number <= last), "unknown")


def reduced_formula(structure: Structure) -> str:
    """Return the formula in smallest whole numbers, as the paper: NaO where pymatgen says Na2O2."""
    return _formula(structure.composition)


def in_our_spelling(formulas: str) -> list[str]:
    """Write the paper's formulas, separated by blanks, as `reduced_formula`: TePb2S for Pb2STe."""
    return [_formula(Composition(formula)) for formula in formulas.split()]


def _formula(composition: Composition) -> str:
    """Return it with the elements by electronegativity."""
    counts = {name: round(n) for name, n in composition.get_el_amt_dict().items()}
    divisor = math.gcd(*counts.values()) if counts else 1
    # noble gases have no value
    names = sorted(counts, key=lambda name: (np.nan_to_num(Element(name).X, nan=10.0), name))
    return (
        "".join(
            f"{name}{counts[name] // divisor if counts[name] > divisor else ''}" for name in names
        )
        or NOTHING
    )


@functools.lru_cache(maxsize=4096)
def charge_balanced(formula: str) -> bool:
    """Tell whether pymatgen's oxidation states add up to zero; they do for a single element."""
    if formula == NOTHING:
        return False
    composition = Composition(formula)
    return len(composition) == 1 or bool(composition.oxi_state_guesses())


def smallest_distance(structure: Structure) -> float:
    """Return the distance (Å) of the two nearest atoms or own images of one; NaN without atoms."""
    if not len(structure):
        return math.nan
    return float(
        min(*structure.distance_matrix[np.triu_indices(len(structure), 1)], *structure.lattice.abc)
    )


def structure_distance(a: Structure, b: Structure) -> float:
    """Return the mean distance (Å) from an atom of one structure to the nearest of the other.

    It is averaged over both directions. Fractional coordinates are compared, periodic, in the mean
    of both cells, whatever the elements; NaN where one has no atoms.
    """
    if not len(a) or not len(b):
        return math.nan
    mean = Lattice.from_parameters(
        *((np.array(a.lattice.parameters) + np.array(b.lattice.parameters)) / 2)
    )
    distances = mean.get_all_distances(a.frac_coords, b.frac_coords)
    return float((distances.min(0).mean() + distances.min(1).mean()) / 2)
