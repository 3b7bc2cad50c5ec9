"""Trivial generators of crystals, beside which a model's samples are judged."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from nesf.crystals import Crystals


def copies(train: Crystals, n: int, seed: int = 0) -> Crystals:
    """Return n training crystals, drawn with replacement: perfect crystals, none of them new."""
    rows = np.random.default_rng(seed).integers(len(train), size=n)
    return replace(train.select(rows), ids=tuple(f"copy-{i}" for i in range(n)), properties={})


def exchanged(train: Crystals, n: int, seed: int = 0) -> Crystals:
    """Return n training crystals whose elements are all exchanged for others of their group.

    Each element becomes another one that training crystals hold, of the same column of the periodic
    table (an f element: another f element), as often as they hold it; two elements of a crystal
    stay two. The cell is scaled by the sum of the atomic radii, and fractional coordinates are
    kept. What chemists do by hand, and prototype searches at scale.
    """
    random, made = np.random.default_rng(seed), copies(train, n, seed)
    columns, radii = _columns(), _radii()
    elements, counts = np.unique(train.species, return_counts=True)
    species, lattice, positions = made.species.copy(), made.lattice.copy(), made.positions.copy()
    for i in range(n):
        atoms = made.atoms(i)
        old, new = made.species[atoms], made.species[atoms].copy()
        taken: set[int] = set()
        for element in np.unique(old):
            others = (columns[elements] == columns[element]) & (elements != element)
            others &= ~np.isin(elements, list(taken))
            if others.any():
                p = counts[others] / counts[others].sum()
                chosen = int(random.choice(elements[others], p=p))
            else:
                chosen = int(element)
            taken.add(chosen)
            new[old == element] = chosen
        scale = radii[new].sum() / radii[old].sum()
        species[atoms], lattice[i] = new, lattice[i] * scale
        positions[atoms] = positions[atoms] * scale
    ids = tuple(f"exchanged-{i}" for i in range(n))
    return replace(made, ids=ids, species=species, lattice=lattice, positions=positions)


def _columns() -> np.ndarray:
    """Return the column of each atomic number [119]; f elements: 3, with scandium and yttrium."""
    from pymatgen.core import Element

    return np.array([0, *(Element.from_Z(z).group for z in range(1, 119))])


def _radii() -> np.ndarray:
    """Return the atomic radius of each atomic number [119], Å; unknown ones are the median."""
    from pymatgen.core import Element

    with warnings.catch_warnings():  # pymatgen warns of each value that it does not know
        warnings.simplefilter("ignore")
        known = [Element.from_Z(z).atomic_radius for z in range(1, 119)]
    values = np.array([np.nan, *(np.nan if r is None else float(r) for r in known)])
    return np.where(np.isnan(values), np.nanmedian(values), values)
