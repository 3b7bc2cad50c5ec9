"""How good generated crystals are, by the kinds of metrics that CDVAE and later work report.

Validity by the field's two rules (`nesf_design.validity`), coverage of the test split, Wasserstein
distances of density and number of elements, uniqueness and novelty by StructureMatcher, and space
groups. CDVAE's coverage compares CrystalNN and Magpie fingerprints with fixed thresholds; here it
is average minimum distances (Widdowson et al. 2022) and a short description of the composition,
with thresholds that the training and validation splits set. So its values are not those of papers.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from nesf.crystals import Crystals
from nesf.matching import match_rmse
from nesf_design.symmetry import space_groups
from nesf_design.validity import compositionally_valid, formula, structurally_valid

NEIGHBOURS = 60  # of an atom that average minimum distances look at
SYMPREC = 0.1  # Å, of the space groups
WITHIN = 0.9  # share of validation crystals that have a training crystal within the thresholds
MOST_ATOMS = 200  # of a cell whose distances are computed
_ELEMENT = ("row", "group", "X", "atomic_radius", "mendeleev_no")
# last space groups of the crystal systems, triclinic to cubic
SYSTEMS = (2, 15, 74, 142, 167, 194, 230)


@dataclass(frozen=True)
class Reference:
    """What generated crystals are compared with."""

    train: Crystals
    test: Crystals
    scale: np.ndarray  # standard deviations of the composition's description over training
    nearest: tuple[float, float]  # thresholds: structure, composition
    described: tuple[np.ndarray, np.ndarray]  # the test crystals: structure, composition

    @classmethod
    def of(cls, train: Crystals, val: Crystals, test: Crystals) -> Reference:
        """Set the thresholds by the distances of validation crystals to their nearest training one."""
        scale = compositions(train).std(0) + 1e-9
        structure = cdist(amd(val), amd(train), "chebyshev").min(1)
        composition = cdist(compositions(val) / scale, compositions(train) / scale).min(1)
        a, b = (float(np.nanquantile(d, WITHIN)) for d in (structure, composition))
        return cls(train, test, scale, (a, b), (amd(test), compositions(test) / scale))

    def near(self, crystals: Crystals) -> np.ndarray:
        """Tell which crystals and test crystals [G, B] are alike in structure and composition."""
        structure = cdist(amd(crystals), self.described[0], "chebyshev")
        composition = cdist(compositions(crystals) / self.scale, self.described[1])
        # false for NaN
        return (structure <= self.nearest[0]) & (composition <= self.nearest[1])


def amd(crystals: Crystals, k: int = NEIGHBOURS) -> np.ndarray:
    """Return average minimum distances [B, k] over (V/N)^(1/3), of structure without elements.

    Entry j: the distance from an atom to its j-th nearest neighbour, mean over the atoms of the
    cell (Widdowson et al., MATCH 87, 529 (2022)). NaN for a crystal without atoms, with a cell of
    no volume, or of more than `MOST_ATOMS` atoms.
    """
    made = np.full((len(crystals), k), np.nan)
    for i, structure in enumerate(crystals.to_structures()):
        n = len(structure)
        if not 0 < n <= MOST_ATOMS or structure.volume < 0.1:
            continue
        size = (structure.volume / n) ** (1 / 3)
        reach = 1.3 * size * (3 * k / (4 * np.pi)) ** (1 / 3)
        for _ in range(8):  # an atom at the border of an elongated cell needs a wider look
            centres, _, _, distances = structure.get_neighbor_list(reach)
            counts = np.bincount(centres, minlength=n)
            if counts.min() >= k:
                order = np.lexsort((distances, centres))
                starts = np.cumsum([0, *counts[:-1]])
                rows = distances[order][starts[:, None] + np.arange(k)]
                made[i] = rows.mean(0) / size
                break
            reach *= 1.4
    return made


def compositions(crystals: Crystals) -> np.ndarray:
    """Return descriptions of compositions [B, 11]: mean and mean deviation of five properties.

    Of the elements, weighted by their share: row, group, electronegativity, atomic radius and
    Mendeleev number; and the number of elements.
    """
    table, made = _element_table(), np.full((len(crystals), 2 * len(_ELEMENT) + 1), np.nan)
    for i in range(len(crystals)):
        values = table[crystals.species[crystals.atoms(i)]]
        if len(values):
            mean = values.mean(0)
            kinds = len(np.unique(crystals.species[crystals.atoms(i)]))
            made[i] = [*mean, *np.abs(values - mean).mean(0), kinds]
    return made


def _element_table() -> np.ndarray:
    """Return five properties of each atomic number [119, 5]; unknown ones are the median."""
    from pymatgen.core import Element

    with warnings.catch_warnings():  # pymatgen warns of each value that it does not know
        warnings.simplefilter("ignore")
        rows = [[getattr(Element.from_Z(z), name) for name in _ELEMENT] for z in range(1, 119)]
    table = np.array([[np.nan] * len(_ELEMENT), *rows], dtype=float)
    return np.where(np.isnan(table), np.nanmedian(table, axis=0), table)


def judged_crystals(crystals: Crystals, reference: Reference) -> pd.DataFrame:
    """Judge generated crystals of one generator, a row each.

    Columns: `id`, `formula` (reduced), `structurally_valid`, `compositionally_valid`, `density`
    (g/cm³), `n_elements`, `space_group` (within 0.1 Å; 0: none), `unique` (no earlier one matches
    it), `novel` (no training crystal matches it), `new_formula` (no training crystal has it),
    `covers` (a test crystal within both thresholds).
    """
    structures = crystals.to_structures()
    formulas = [formula(crystals.species[crystals.atoms(i)]) for i in range(len(crystals))]
    known = {
        formula(reference.train.species[reference.train.atoms(i)])
        for i in range(len(reference.train))
    }
    return pd.DataFrame(
        {
            "id": crystals.ids,
            "formula": [s.composition.reduced_formula if len(s) else "" for s in structures],
            "n_atoms": crystals.n_atoms,
            "structurally_valid": structurally_valid(crystals),
            "compositionally_valid": compositionally_valid(crystals),
            "density": [float(s.density) if len(s) else np.nan for s in structures],
            "n_elements": [len(f) for f in formulas],
            "space_group": space_groups(crystals, SYMPREC),
            "unique": unique(crystals),
            "novel": ~matched(crystals, reference.train),
            "new_formula": [bool(f) and f not in known for f in formulas],
            "covers": reference.near(crystals).any(1),
        }
    )


def _by_formula(crystals: Crystals) -> Mapping[tuple[tuple[int, int], ...], list[int]]:
    groups = defaultdict(list)
    for i in range(len(crystals)):
        groups[formula(crystals.species[crystals.atoms(i)])].append(i)
    return groups


def matched(crystals: Crystals, known: Crystals) -> np.ndarray:
    """Tell which crystals [B] StructureMatcher maps onto one of the known ones (`nesf.matching`)."""
    groups, found = _by_formula(known), np.zeros(len(crystals), bool)
    for name, rows in _by_formula(crystals).items():
        pairs = [(i, j) for i in rows for j in groups.get(name, [])] if name else []
        if pairs:
            i, j = np.array(pairs).T
            found[i[np.isfinite(match_rmse(known.select(j), crystals.select(i)))]] = True
    return found


def unique(crystals: Crystals) -> np.ndarray:
    """Tell which crystals [B] match no earlier one that is unique; nothing detected is not unique."""
    first = np.zeros(len(crystals), bool)
    for name, rows in _by_formula(crystals).items():
        kinds: list[int] = []
        for i in rows if name else []:
            others = crystals.select(kinds)
            same = match_rmse(others, crystals.select([i] * len(kinds))) if kinds else np.array([])
            if not np.isfinite(same).any():
                kinds.append(i)
        first[kinds] = True
    return first


def summary(table: pd.DataFrame, crystals: Crystals, reference: Reference) -> dict[str, float]:
    """Return the metrics of one generator; `table`: of `judged_crystals`. Shares in percent.

    `cov_recall`: test crystals with a valid generated one within the thresholds; `cov_precision`:
    valid generated crystals with such a test crystal. `wdist_density`, g/cm³, and
    `wdist_elements`, over valid crystals. `symmetric`: other than P1. `systems_like_test`: overlap
    of the shares of crystal systems with the test split's. `new`: valid, unique and novel.
    """
    ok = (table["structurally_valid"] & table["compositionally_valid"]).to_numpy(bool)
    good, rows = table[ok], np.flatnonzero(ok)
    test = reference.test
    test_density = [s.density for s in test.to_structures()]
    test_elements = [len(np.unique(test.species[test.atoms(i)])) for i in range(len(test))]
    reached = reference.near(crystals.select(rows)).any(0) if len(rows) else np.zeros(1)
    groups, of_test = table["space_group"].to_numpy(), space_groups(test, SYMPREC)
    overlap = np.minimum(_systems(groups), _systems(of_test)).sum()
    new = ok & table["unique"].to_numpy(bool) & table["novel"].to_numpy(bool)
    distances = [
        wasserstein_distance(good[name], values) if len(good) else np.nan
        for name, values in (("density", test_density), ("n_elements", test_elements))
    ]
    return {
        "n": len(table),
        "structurally_valid": 100 * table["structurally_valid"].mean(),
        "compositionally_valid": 100 * table["compositionally_valid"].mean(),
        "valid": 100 * ok.mean(),
        "cov_recall": 100 * float(np.mean(reached)),
        "cov_precision": 100 * good["covers"].mean() if len(good) else np.nan,
        "wdist_density": float(distances[0]),
        "wdist_elements": float(distances[1]),
        "unique": 100 * table["unique"].mean(),
        "novel": 100 * table["novel"].mean(),
        "new": 100 * new.mean(),
        "symmetric": 100 * float(np.mean(groups > 1)),
        "systems_like_test": 100 * float(overlap),
    }


def _systems(groups: np.ndarray) -> np.ndarray:
    """Return the shares of the seven crystal systems among space groups; 0 counts to none."""
    counts = np.bincount(np.searchsorted(SYSTEMS, groups[groups > 0]), minlength=len(SYSTEMS))
    return counts / max(len(groups), 1)
