"""Trivial baselines: predictors without a model.

Both know the training split. `copy_nearest` also knows the composition and the lattice of the
crystal to predict.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial.distance import cdist

from nesf.crystals import Crystals, standard_lattice
from nesf_io.errors import DataError

# Form and weight of the distance were fitted to reproduce the numbers of an earlier copy baseline
# on the test splits of LCS6Å and YBCO-like, whose formula is not known. So those splits were used
# to define this baseline, but not to select a model.
# 1/Å; 1 Å in one length counts as much as another species for a fifth of the atoms
LENGTH_WEIGHT = 0.4


def copy_nearest(train: Crystals, crystals: Crystals) -> Crystals:
    """Predict a copy of the training crystal that is nearest in composition and lattice.

    Distance, for a crystal of N atoms: (Σ_species |difference in count| + |difference in number of
    atoms|) / N + 0.4/Å · Σ_abc |difference in length|. So the composition decides, unless the cells
    differ much.

    Raises:
        DataError: the training split is empty.
    """
    _check(train)
    n, n_train = crystals.n_atoms[:, None], train.n_atoms[None]
    difference = (
        cdist(_counts(crystals), _counts(train), "cityblock") + np.abs(n - n_train)
    ) / np.maximum(n, 1)
    difference += LENGTH_WEIGHT * cdist(crystals.lengths, train.lengths, "cityblock")
    # Rounded, so that equally near crystals tie on every machine; the first one in the split wins.
    return replace(train.select(np.round(difference, 9).argmin(1)), ids=crystals.ids, properties={})


def constant(train: Crystals, crystals: Crystals) -> Crystals:
    """Predict one crystal for every id: median lengths, 90° angles, atoms of a training crystal.

    The median minimises the mean absolute error of each length. The atoms are those of the training
    crystal nearest to that cell (lengths in Å, angles in radians) among those with the most common
    number of atoms, at its fractional coordinates; other atoms may give a better constant
    prediction.

    Raises:
        DataError: the training split is empty.
    """
    _check(train)
    lengths, angles = np.median(train.lengths, axis=0), np.full(3, np.pi / 2)
    common = np.flatnonzero(train.n_atoms == np.bincount(train.n_atoms).argmax())
    of_common = train.select(common)
    i = int(
        (
            np.abs(of_common.lengths - lengths).sum(1) + np.abs(of_common.angles - angles).sum(1)
        ).argmin()
    )
    atoms, lattice = of_common.atoms(i), standard_lattice(lengths[None], angles[None])[0]
    positions = of_common.positions[atoms] @ np.linalg.inv(of_common.lattice[i]) @ lattice
    b = len(crystals)
    return Crystals.from_arrays(
        crystals.ids, [positions] * b, [of_common.species[atoms]] * b, np.tile(lattice, (b, 1, 1))
    )


def _counts(crystals: Crystals) -> np.ndarray:
    """Count the atoms by atomic number, [B, 119]."""
    counts = np.zeros((len(crystals), 119))
    np.add.at(counts, (np.repeat(np.arange(len(crystals)), crystals.n_atoms), crystals.species), 1)
    return counts


def _check(train: Crystals) -> None:
    if len(train) == 0:
        raise DataError("the training split is empty; trivial predictors need one")
