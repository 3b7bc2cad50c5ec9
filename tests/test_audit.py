"""The audit finds what was put in: counts, shapes, leaks."""

import json
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from nesf.crystals import Crystals
from nesf.data.dataset import Dataset, load_packed
from nesf.data.official import fetch
from nesf_studies.audit import SHAPES, Pair, audit, cell_shapes, shortest_distances

LATTICES = {
    "cubic": Lattice.cubic(4),
    "tetragonal": Lattice.tetragonal(4, 6),
    "orthorhombic": Lattice.orthorhombic(4, 5, 6),
    "hexagonal": Lattice.hexagonal(4, 6),
    "rhombohedral": Lattice.rhombohedral(4, 80),
    "monoclinic": Lattice.monoclinic(4, 5, 6, 100),
    "triclinic": Lattice.from_parameters(4, 5, 6, 80, 85, 95),
}
SALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)
# the formula of SALT, not its structure
CESIUM_LIKE = Structure(Lattice.cubic(3.4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
IRON = Structure(Lattice.cubic(2.87), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])
ZINC = Structure(
    Lattice.hexagonal(2.66, 4.95), ["Zn", "Zn"], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]
)


@pytest.fixture(scope="module")
def leaky() -> Dataset:
    salt_again = SALT.get_primitive_structure()
    salt_again.scale_lattice(salt_again.volume * 1.02)
    parts = {
        "train": {"a": SALT, "b": IRON},
        "val": {"c": ZINC, "d": CESIUM_LIKE},
        "test": {"e": salt_again, "b": IRON},
    }
    return Dataset(
        "leaky", {s: Crystals.from_structures(list(p.values()), list(p)) for s, p in parts.items()}
    )


def test_cell_shapes() -> None:
    assert tuple(LATTICES) == SHAPES
    crystals = Crystals.from_structures(
        [Structure(lattice, ["Fe"], [[0, 0, 0]]) for lattice in LATTICES.values()], list(LATTICES)
    )
    assert cell_shapes(crystals) == list(SHAPES)
    # any axis may be the odd one, and an orthogonal cell with equal edges is cubic whatever its
    # atoms are
    permuted = Crystals(
        crystals.ids,
        crystals.positions,
        crystals.species,
        crystals.lattice[:, [1, 2, 0]],
        crystals.offsets,
    )
    assert cell_shapes(permuted) == list(SHAPES)


def test_shortest_distances_include_images() -> None:
    structures = [
        SALT,
        Structure(Lattice.orthorhombic(2, 5, 6), ["Fe"], [[0, 0, 0]]),
        Structure(Lattice.cubic(5), ["Fe", "O"], [[0.05, 0, 0], [0.95, 0, 0]]),
    ]
    # in the last cell the shortest lattice vector is a - b
    oblique = Structure(Lattice([[4, 0, 0], [3.5, 1, 0], [0, 0, 9]]), ["Fe"], [[0, 0, 0]])
    distances = shortest_distances(Crystals.from_structures([*structures, oblique], list("abcd")))
    np.testing.assert_allclose(distances, [2.8, 2.0, 0.5, np.hypot(0.5, 1)], atol=1e-9)


def test_counts_and_leaks(leaky: Dataset) -> None:
    found = audit(leaky, progress=False)
    assert found.counts == {"train": 2, "val": 2, "test": 2}
    assert found.atoms == {"train": {2: 1, 8: 1}, "val": {2: 2}, "test": {2: 2}}
    assert found.elements == {"Na": 3, "Cl": 3, "Fe": 2, "Zn": 1}
    assert found.shapes["val"] == {"hexagonal": 1, "cubic": 1}
    assert found.shared_ids == [Pair("train", "b", "test", "b")]
    assert found.near_duplicates == [Pair("train", "a", "test", "e")]
    text = str(found)
    assert "1 of the 2 of test are also in train: a = e" in text
    assert "1 of the 2 of test are also in train: b" in text
    assert json.loads(json.dumps(found.to_dict()))["near_duplicates"] == [
        {"split": "train", "material": "a", "other_split": "test", "other_material": "e"}
    ]


def test_near_duplicates_can_be_left_out(leaky: Dataset) -> None:
    found = audit(leaky, near_duplicates=False)
    assert found.near_duplicates is None
    assert "not looked for" in str(found)


def test_the_paper_s_tables(mirror: Path, tmp_path: Path) -> None:
    lcs6 = audit(
        load_packed(fetch("lcs6", data_dir=tmp_path, mirror=mirror, progress=False)),
        near_duplicates=False,
    )
    # Table 3; its rows "validation" and "test" are the released test and validation splits: 301 and
    # 286, as the text has them.
    first = {s: [lcs6.atoms[s].get(n, 0) for n in range(1, 9)] for s in lcs6.atoms}
    assert first["train"] == [21, 599, 44, 1411, 1325, 244, 69, 686]
    assert first["test"] == [0, 35, 2, 80, 81, 14, 3, 41]
    assert first["val"] == [0, 30, 3, 83, 68, 17, 2, 35]
    ybco = audit(
        load_packed(fetch("ybco", fold=0, data_dir=tmp_path, mirror=mirror, progress=False)),
        near_duplicates=False,
    )
    assert ybco.atoms == {"train": {13: 90}, "val": {13: 5}, "test": {13: 5}}
