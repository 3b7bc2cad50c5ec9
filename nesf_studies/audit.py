"""Audits of datasets: what they hold, and whether their splits leak."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from nesf.crystals import Crystals, lattice_parameters
from nesf.data.dataset import SPLITS, Dataset

LENGTH_TOLERANCE = 1e-3  # relative; two lengths this close count as equal
ANGLE_TOLERANCE = 0.1  # degrees
SHAPES = (
    "cubic",
    "tetragonal",
    "orthorhombic",
    "hexagonal",
    "rhombohedral",
    "monoclinic",
    "triclinic",
)
SPREAD = ("smallest", "median", "largest")
SHOWN = 10  # examples in the text


@dataclass(frozen=True)
class Pair:
    """Two materials in two splits."""

    split: str
    material: str
    other_split: str
    other_material: str


@dataclass(frozen=True)
class Audit:
    """The findings about one dataset.

    Attributes:
        counts: split → number of materials.
        atoms: split → atoms per cell → number of materials (the paper's Tables 2-4).
        elements: element → number of materials that contain it, most frequent first.
        shapes: split → shape of the cell (by lengths and angles, not by symmetry) → number of
            materials.
        lengths: split → [smallest, largest] of a, b, c, Å.
        min_distances: split → smallest, median and largest of the materials' shortest interatomic
            distances, images included, Å.
        shared_ids: the pairs of equal ids in two splits.
        near_duplicates: the result of `find_near_duplicates`; None where not looked for.
    """

    label: str
    counts: dict[str, int]
    atoms: dict[str, dict[int, int]]
    elements: dict[str, int]
    shapes: dict[str, dict[str, int]]
    lengths: dict[str, list[list[float]]]
    min_distances: dict[str, list[float]]
    shared_ids: list[Pair]
    near_duplicates: list[Pair] | None

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as plain values, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the findings as text tables."""
        lengths = {
            s: {x: f"{low:.2f}-{high:.2f}" for x, (low, high) in zip("abc", spans, strict=False)}
            for s, spans in self.lengths.items()
        }
        spread = {
            s: dict(zip(SPREAD, values, strict=True)) for s, values in self.min_distances.items()
        }
        parts = (
            f"{self.label}: " + ", ".join(f"{s} {n}" for s, n in self.counts.items()),
            _table(
                "atoms per cell",
                self.atoms,
                sorted({n for row in self.atoms.values() for n in row}),
            ),
            _table("shape of the cell", self.shapes, SHAPES),
            _table("cell lengths (Å)", lengths, "abc"),
            _table("shortest distance (Å)", spread, SPREAD),
            f"{len(self.elements)} elements (materials): "
            + " ".join(f"{e} {n}" for e, n in self.elements.items()),
            self._pairs_text("ids in two splits", self.shared_ids),
            self._pairs_text(
                "near-duplicate structures in two splits (other ids)", self.near_duplicates
            ),
        )
        return "\n\n".join(parts)

    def _pairs_text(self, title: str, pairs: list[Pair] | None) -> str:
        if pairs is None:
            return f"{title}: not looked for"
        lines = [f"{title}: {len(pairs) or 'none'}"]
        for a, b in combinations(SPLITS, 2):
            if found := [p for p in pairs if (p.split, p.other_split) == (a, b)]:
                examples = [
                    p.material
                    if p.material == p.other_material
                    else f"{p.material} = {p.other_material}"
                    for p in found
                ]
                shown = ", ".join(examples[:SHOWN]) + (", …" if len(found) > SHOWN else "")
                lines.append(
                    f"  {len({p.other_material for p in found})} of the {self.counts[b]} of {b} are also in {a}: {shown}"
                )
        return "\n".join(lines)


def audit(dataset: Dataset, *, near_duplicates: bool = True, progress: bool = True) -> Audit:
    """Count what a dataset holds, and look for leaks (`near_duplicates`: of structures, too)."""
    from pymatgen.core import Element

    parts = dataset.splits
    crystals_with = Counter(
        int(z)
        for part in parts.values()
        for i in range(len(part))
        for z in np.unique(part.species[part.atoms(i)])
    )
    return Audit(
        label=dataset.label,
        counts={s: len(parts[s]) for s in SPLITS},
        atoms={s: dict(sorted(Counter(parts[s].n_atoms.tolist()).items())) for s in SPLITS},
        elements={Element.from_Z(z).symbol: n for z, n in crystals_with.most_common()},
        shapes={s: dict(Counter(cell_shapes(parts[s]))) for s in SPLITS},
        lengths={
            s: np.stack([parts[s].lengths.min(0), parts[s].lengths.max(0)], 1).tolist()
            if len(parts[s])
            else []
            for s in SPLITS
        },
        min_distances={
            s: [float(f(x)) for f in (np.min, np.median, np.max)]
            for s in SPLITS
            if len(x := shortest_distances(parts[s]))
        },
        shared_ids=[
            Pair(a, i, b, i)
            for a, b in combinations(SPLITS, 2)
            for i in sorted({*parts[a].ids} & {*parts[b].ids})
        ],
        near_duplicates=find_near_duplicates(dataset, progress=progress)
        if near_duplicates
        else None,
    )


def cell_shapes(crystals: Crystals) -> list[str]:
    """Return the shape of each cell by its lengths and angles, the most symmetric that fits."""
    lengths, angles = lattice_parameters(crystals.lattice)
    degrees = np.degrees(angles)
    right = np.abs(degrees - 90) < ANGLE_TOLERANCE
    # equal[:, i]: the two lengths other than the i-th are equal
    equal = np.stack(
        [
            np.abs(lengths[:, i] / lengths[:, j] - 1) < LENGTH_TOLERANCE
            for i, j in ((1, 2), (0, 2), (0, 1))
        ],
        1,
    )
    all_equal = equal.all(1)
    hexagonal = (right.sum(1) == 2) & ((np.abs(degrees - 120) < ANGLE_TOLERANCE) & equal).any(1)
    rhombohedral = all_equal & (np.ptp(degrees, axis=1) < ANGLE_TOLERANCE)
    orthogonal = right.all(1)
    conditions = [
        orthogonal & all_equal,
        orthogonal & equal.any(1),
        orthogonal,
        hexagonal,
        rhombohedral,
        right.sum(1) == 2,
    ]
    return np.select(conditions, SHAPES[:-1], SHAPES[-1]).tolist()


def shortest_distances(crystals: Crystals) -> np.ndarray:
    """Return the shortest interatomic distances [B], Å, periodic images included."""
    shortest = np.empty(len(crystals))
    for i, structure in enumerate(crystals.to_structures()):
        between = structure.distance_matrix[np.triu_indices(len(structure), 1)]
        shortest[i] = min(
            between.min(initial=np.inf), min(structure.lattice.get_lll_reduced_lattice().abc)
        )
    return shortest


def find_near_duplicates(dataset: Dataset, *, progress: bool = True) -> list[Pair]:
    """Return the pairs of structures in two splits, with different ids, that are the same.

    By pymatgen's StructureMatcher with its defaults. Only structures of one reduced formula are
    compared: 214 pairs in LCS6Å, a few seconds.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    groups: dict[str, list[tuple[str, str, Any]]] = defaultdict(list)
    for split in SPLITS:
        for identifier, structure in zip(
            dataset.splits[split].ids, dataset.splits[split].to_structures(), strict=True
        ):
            groups[structure.composition.reduced_formula].append((split, identifier, structure))
    candidates = [
        (a, b)
        for group in groups.values()
        for a, b in combinations(group, 2)
        if a[0] != b[0] and a[1] != b[1]
    ]
    matcher = StructureMatcher()
    bar = tqdm(candidates, desc="near-duplicates", unit="pair", disable=not progress)
    return [Pair(*a[:2], *b[:2]) for a, b in bar if matcher.fit(a[2], b[2])]


def _table(title: str, rows: Mapping[str, Mapping[Any, Any]], order: Iterable[Any]) -> str:
    columns = [c for c in order if any(c in row for row in rows.values())]
    frame = pd.DataFrame(
        [[row.get(c, "") for c in columns] for row in rows.values()],
        list(rows),
        pd.Index(columns, name=title),
    )
    return frame.to_string(float_format="{:.2f}".format)
