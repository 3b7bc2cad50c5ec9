"""What a dataset holds, and whether its splits leak: counts, elements, cell shapes, shared ids, near-duplicate structures."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from nesf.crystals import Crystals, lattice_parameters
from nesf.data.dataset import SPLITS, Dataset

if TYPE_CHECKING:
    from pymatgen.core import Structure

LENGTH_TOLERANCE = 1e-3  # relative; two lengths this close count as equal
ANGLE_TOLERANCE = 0.1  # degrees
SHAPES = ("cubic", "tetragonal", "orthorhombic", "hexagonal", "rhombohedral", "monoclinic", "triclinic")
SHOWN = 10  # examples in the text; `to_dict` has all


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
        label: name, with the fold where there is one.
        counts: split → number of materials.
        atoms: split → atoms per cell → number of materials (the paper's Tables 2-4).
        elements: element → number of materials that contain it, most frequent first.
        shapes: split → shape of the cell (by lengths and angles, not by symmetry) → number of materials.
        lengths: split → [smallest, largest] of a, b, c, Å.
        min_distances: split → smallest, median and largest of the materials' shortest interatomic distances, images included, Å.
        shared_ids: the pairs of equal ids in two splits.
        near_duplicates: pairs of structures with different ids that StructureMatcher (its defaults) takes for the same; None where not looked for.
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
        lines = [f"{self.label}: " + ", ".join(f"{s} {n}" for s, n in self.counts.items()), ""]
        lines += [_table("atoms per cell", self.atoms, sorted({n for row in self.atoms.values() for n in row})), ""]
        lines += [_table("shape of the cell", self.shapes, [s for s in SHAPES if any(s in row for row in self.shapes.values())]), ""]
        spans = {s: " ".join(f"{x} {low:.2f}-{high:.2f}" for x, (low, high) in zip("abc", rows, strict=True)) for s, rows in self.lengths.items()}
        lines += [f"cell lengths, {s} (Å): {span}" for s, span in spans.items()]
        lines += [
            f"shortest distance, {s} (Å): {low:.2f} smallest, {mid:.2f} median, {high:.2f} largest"
            for s, (low, mid, high) in self.min_distances.items()
        ]
        lines += ["", f"{len(self.elements)} elements (materials): " + " ".join(f"{e} {n}" for e, n in self.elements.items()), ""]
        lines += _pairs_text("ids in two splits", self.shared_ids, self.counts)
        if self.near_duplicates is None:
            lines.append("near-duplicate structures: not looked for")
        else:
            lines += _pairs_text("near-duplicate structures in two splits (other ids)", self.near_duplicates, self.counts)
        return "\n".join(lines)


def audit(dataset: Dataset, *, near_duplicates: bool = True, progress: bool = True) -> Audit:
    """Count what a dataset holds, and look for leaks between its splits.

    Args:
        dataset: any dataset.
        near_duplicates: compare structures across splits with pymatgen's StructureMatcher (some ten seconds for LCS6Å).
        progress: show a bar while comparing.
    """
    from pymatgen.core import Element

    parts = dataset.splits
    crystals_with = Counter(int(z) for part in parts.values() for i in range(len(part)) for z in np.unique(part.species[part.atoms(i)]))
    return Audit(
        label=dataset.label,
        counts={s: len(parts[s]) for s in SPLITS},
        atoms={s: dict(sorted(Counter(parts[s].n_atoms.tolist()).items())) for s in SPLITS},
        elements={Element.from_Z(z).symbol: n for z, n in crystals_with.most_common()},
        shapes={s: dict(Counter(cell_shapes(parts[s]))) for s in SPLITS},
        lengths={s: [[float(x.min()), float(x.max())] for x in parts[s].lengths.T] if len(parts[s]) else [] for s in SPLITS},
        min_distances={s: _spread(shortest_distances(parts[s])) for s in SPLITS if len(parts[s])},
        shared_ids=[Pair(a, i, b, i) for a, b in combinations(SPLITS, 2) for i in sorted({*parts[a].ids} & {*parts[b].ids})],
        near_duplicates=find_near_duplicates(dataset, progress=progress) if near_duplicates else None,
    )


def cell_shapes(crystals: Crystals) -> list[str]:
    """Return the shape of each cell by its lengths and angles: one of `SHAPES`, the most symmetric that fits."""
    lengths, angles = lattice_parameters(crystals.lattice)
    degrees = np.degrees(angles)
    right = np.abs(degrees - 90) < ANGLE_TOLERANCE
    # equal[:, i]: the two lengths other than the i-th are equal
    equal = np.stack([np.abs(lengths[:, i] / lengths[:, j] - 1) < LENGTH_TOLERANCE for i, j in ((1, 2), (0, 2), (0, 1))], 1)
    all_equal = equal.all(1)
    hexagonal = (right.sum(1) == 2) & ((np.abs(degrees - 120) < ANGLE_TOLERANCE) & equal).any(1)
    rhombohedral = all_equal & (np.ptp(degrees, axis=1) < ANGLE_TOLERANCE)
    orthogonal = right.all(1)
    conditions = [orthogonal & all_equal, orthogonal & equal.any(1), orthogonal, hexagonal, rhombohedral, right.sum(1) == 2]
    return np.select(conditions, SHAPES[:-1], SHAPES[-1]).tolist()


def shortest_distances(crystals: Crystals) -> np.ndarray:
    """Return the shortest interatomic distance of each crystal, periodic images (also an atom's own) included, [B], Å."""
    shortest = np.empty(len(crystals))
    for i, structure in enumerate(crystals.to_structures()):
        between = structure.distance_matrix[np.triu_indices(len(structure), 1)]
        shortest[i] = min(between.min(initial=np.inf), min(structure.lattice.get_lll_reduced_lattice().abc))
    return shortest


def find_near_duplicates(dataset: Dataset, *, progress: bool = True) -> list[Pair]:
    """Return the pairs of structures in two splits, with different ids, that pymatgen's StructureMatcher (its defaults) takes for the same.

    Only structures of one reduced formula are compared: 214 pairs in LCS6Å, a few seconds.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    groups: dict[str, list[tuple[str, str, Structure]]] = {}
    for split in SPLITS:
        for identifier, structure in zip(dataset.splits[split].ids, dataset.splits[split].to_structures(), strict=True):
            groups.setdefault(structure.composition.reduced_formula, []).append((split, identifier, structure))
    candidates = [(a, b) for group in groups.values() for a, b in combinations(group, 2) if a[0] != b[0] and a[1] != b[1]]
    matcher = StructureMatcher()
    pairs = []
    for (split, identifier, a), (other_split, other, b) in tqdm(candidates, desc="near-duplicates", unit="pair", disable=not progress):
        if matcher.fit(a, b):
            pairs.append(Pair(split, identifier, other_split, other))
    return pairs


def _spread(values: np.ndarray) -> list[float]:
    return [float(values.min()), float(np.median(values)), float(values.max())]


def _table(title: str, rows: dict[str, dict[Any, int]], columns: list[Any]) -> str:
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=pd.Index(columns, name=title), dtype="Int64")
    return frame.astype(object).fillna("").to_string()


def _pairs_text(title: str, pairs: list[Pair], counts: dict[str, int]) -> list[str]:
    if not pairs:
        return [f"{title}: none"]
    lines = [f"{title}: {len(pairs)} {'pair' if len(pairs) == 1 else 'pairs'}"]
    for a, b in combinations(SPLITS, 2):
        found = [p for p in pairs if {p.split, p.other_split} == {a, b}]
        if found:
            materials = {p.other_material for p in found}
            examples = ", ".join(f"{p.material} = {p.other_material}" if p.material != p.other_material else p.material for p in found[:SHOWN])
            lines.append(f"  {len(materials)} of the {counts[b]} of {b} are also in {a}: {examples}{', …' if len(found) > SHOWN else ''}")
    return lines
