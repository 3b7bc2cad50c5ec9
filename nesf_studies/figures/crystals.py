"""Crystals and the elements of a dataset."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure

from nesf.crystals import Crystals
from nesf_studies.figures.style import subplots

if TYPE_CHECKING:
    from ase import Atoms
    from matplotlib.axes import Axes
    from pymatgen.core import Structure


ON_BORDER = 0.3  # Å; an atom this near to a face of the cell is drawn on the opposite face too


def with_border_images(structure: Structure) -> Atoms:
    """The atoms of a cell and their images on its opposite faces, edges and corners, as drawings of unit cells show them.

    Args:
        structure: any pymatgen structure; one without sites gives an empty cell.
    """
    from ase import Atoms

    fractional = structure.frac_coords.reshape(-1, 3) if len(structure) else np.zeros((0, 3))
    border = ON_BORDER / np.array(structure.lattice.abc)
    positions, numbers = [], []
    for coordinates, site in zip(fractional, structure, strict=True):
        shifts = [[0] + [1] * int(abs(x) < b) + [-1] * int(abs(x - 1) < b) for x, b in zip(coordinates, border, strict=True)]
        for shift in itertools.product(*shifts):
            positions.append(structure.lattice.get_cartesian_coords(coordinates + np.array(shift)))
            numbers.append(site.specie.Z)
    return Atoms(numbers=numbers, positions=np.reshape(positions, (-1, 3)), cell=structure.lattice.matrix, pbc=True)


def draw_crystal(ax: Axes, structure: Structure) -> None:
    """Draw a unit cell into axes, with the atoms on its faces repeated, seen from the front."""
    from ase.visualize.plot import plot_atoms

    ax.set_axis_off()
    if not len(structure):
        ax.text(0.5, 0.5, "nothing detected", ha="center", transform=ax.transAxes)
        return
    plot_atoms(with_border_images(structure), ax, rotation="-90x,10x,-20y,0z", radii=0.45, show_unit_cell=2)
    ax.margins(0.05)


def element_map(crystals: Crystals, *, title: str = "") -> Figure:
    """How many crystals hold each element, on the periodic table.

    Args:
        crystals: any batch.
        title: dataset and split.
    """
    from pymatgen.core import Element

    owner = np.repeat(np.arange(len(crystals)), crystals.n_atoms)
    numbers, counts = np.unique(np.unique(np.stack([crystals.species, owner]), axis=1)[0], return_counts=True)
    table = np.full((9, 18), np.nan)
    figure, (ax,) = subplots(1, 11, 5)
    for z in range(1, 104):
        element = Element.from_Z(z)
        if 57 <= z <= 71 or 89 <= z <= 103:  # the f block stands below
            row, column = (7 if z <= 71 else 8), 2 + z - (57 if z <= 71 else 89)
        else:
            row, column = element.row - 1, element.group - 1
        count = int(counts[numbers == z].sum())
        table[row, column] = count or np.nan
        ax.text(column, row - 0.12, element.symbol, ha="center", va="center", fontsize=10, color="black" if count else "#aaaaaa")
        ax.text(column, row + 0.28, str(count or ""), ha="center", va="center", fontsize=7)
    image = ax.imshow(table, cmap=ListedColormap(_blues()), norm=LogNorm(1, max(2, counts.max(initial=2))), aspect="auto")
    figure.colorbar(image, ax=ax, label="crystals that hold the element", shrink=0.7)
    ax.set_title(title)
    ax.set_axis_off()
    return figure


def _blues() -> np.ndarray:
    """Light to middle blue, light enough for black text."""
    return np.linspace([0.93, 0.96, 1.0, 1.0], [0.25, 0.55, 0.85, 1.0], 256)
