"""Own files: every entry comes in as it is, or is named with the reason why not."""

import gzip
import re
import sys
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from pymatgen.core import DummySpecies, Lattice, Structure
from pymatgen.io.cif import CifWriter
from pymatgen.io.vasp.inputs import Poscar

from nesf.crystals import Crystals, standard_lattice
from nesf.data import load
from nesf.data.dataset import split
from nesf.data.files import read, read_structures
from nesf_build.rules import load_rules, split_by_rules
from nesf_io.errors import ConfigError, DataError, NesfError

ROCK_SALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)
DISORDERED = Structure(Lattice.cubic(4.0), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])
COLLAPSED = Structure(Lattice.cubic(4.0), ["Fe", "Fe"], [[0, 0, 0], [0.01, 0, 0]])


def cubic(edge: float, element: str = "Fe") -> Structure:
    return Structure(Lattice.cubic(edge), [element, "O"], [[0.1, 0.2, 0.3], [0.6, 0.7, 0.8]])


def write_cif(structure: Structure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(CifWriter(structure)))


def table(path: Path, rows: dict[str, Structure], **columns) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cifs = [str(CifWriter(s)) for s in rows.values()]
    pd.DataFrame({"material_id": list(rows), **columns, "cif": cifs}).to_csv(path, index=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five good CIF files."""
    for i in range(5):
        write_cif(cubic(4 + i / 10), tmp_path / "own" / f"c{i}.cif")
    return tmp_path / "own"


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "shape", ["triclinic", "monoclinic", "hexagonal", "rhombohedral", "orthorhombic", "left-handed"]
)
def test_structures_round_trip(shape: str, seed: int) -> None:
    rng = np.random.default_rng([seed, len(shape)])
    a, b, c = rng.uniform(2, 12, 3)
    lattice = {
        "triclinic": Lattice.from_parameters(a, b, c, *rng.uniform(70, 110, 3)),
        "monoclinic": Lattice.monoclinic(a, b, c, rng.uniform(60, 120)),
        "hexagonal": Lattice.hexagonal(a, c),
        "rhombohedral": Lattice.rhombohedral(a, rng.uniform(50, 110)),
        "orthorhombic": Lattice.orthorhombic(a, b, c),
        "left-handed": Lattice([[0, a, 0], [b, 0, 0], [0, 0.3 * c, c]]),
    }[shape]
    n = int(rng.integers(1, 20))
    grid = rng.permutation(27)[:n]  # never two atoms on one place
    fractional = (
        np.stack([grid // 9, grid // 3 % 3, grid % 3], 1) + rng.uniform(0, 0.4, (n, 3))
    ) / 3
    before = Structure(lattice, rng.integers(1, 100, n), fractional)
    (after,) = Crystals.from_structures([before], ["x"]).to_structures()
    np.testing.assert_allclose(after.lattice.matrix, before.lattice.matrix, atol=1e-6)
    np.testing.assert_allclose(after.cart_coords, before.cart_coords, atol=1e-6)
    assert after.species == before.species
    # In the standard setting it is the same crystal (or its mirror image): all distances stay, and
    # the cell is that of its parameters.
    standard = Crystals.from_structures([before], ["x"]).in_standard_setting()
    (turned,) = standard.to_structures()
    np.testing.assert_allclose(turned.distance_matrix, before.distance_matrix, atol=1e-6)
    np.testing.assert_allclose(
        standard.lattice, standard_lattice(standard.lengths, standard.angles), atol=1e-6
    )


@pytest.mark.parametrize(
    ("n", "counts"),
    [(6005, (5418, 286, 301)), (100, (90, 5, 5)), (7194, (6492, 342, 360)), (3, (1, 1, 1))],
)
def test_the_split_rule_gives_the_paper_s_counts(n: int, counts: tuple[int, int, int]) -> None:
    crystals = Crystals.from_arrays(
        [f"m{i}" for i in range(n)],
        [np.zeros((1, 3))] * n,
        [np.ones(1, int)] * n,
        np.tile(np.eye(3), (n, 1, 1)),
    )
    (parts,) = split(crystals, seed=0)
    assert tuple(len(parts[s]) for s in ("train", "val", "test")) == counts
    assert sorted(i for p in parts.values() for i in p.ids) == sorted(crystals.ids)
    assert parts["test"].ids == split(crystals, seed=0)[0]["test"].ids
    assert n == 3 or parts["test"].ids != split(crystals, seed=1)[0]["test"].ids


def test_a_seed_always_gives_the_same_split() -> None:
    crystals = Crystals.from_arrays(
        [f"m{i}" for i in range(100)],
        [np.zeros((1, 3))] * 100,
        [np.ones(1, int)] * 100,
        np.tile(np.eye(3), (100, 1, 1)),
    )
    (parts,) = split(crystals, seed=7)
    assert parts["test"].ids == ("m88", "m42", "m26", "m50", "m54") and parts["val"].ids == (
        "m70",
        "m4",
        "m53",
        "m24",
        "m32",
    )
    # the rule sets of the paper have the paper's fractions
    ours = split_by_rules(crystals, load_rules("lcs6"), seed=7)[0]
    assert {s: c.ids for s, c in ours.items()} == {s: c.ids for s, c in parts.items()}


def test_too_few_for_a_split(folder: Path) -> None:
    for name in ("c0", "c1", "c2"):
        (folder / f"{name}.cif").unlink()
    with pytest.raises(DataError, match="2 crystals"):
        read(folder)


def test_a_folder_of_cif_and_poscar_files(folder: Path) -> None:
    Poscar(cubic(6.0)).write_file(str(folder / "a.vasp"))
    Poscar(cubic(7.0)).write_file(str(folder / "POSCAR_mine"))
    (folder / "notes.txt").write_text("not a structure")
    crystals, skipped, _ = read_structures(folder)
    assert crystals.ids == ("POSCAR_mine", "a", "c0", "c1", "c2", "c3", "c4")
    assert not skipped
    np.testing.assert_allclose(crystals.lengths[:3, 0], [7.0, 6.0, 4.0], atol=1e-6)
    dataset, _ = read(folder, seed=3)
    assert dataset.name == "own"
    assert [len(dataset.splits[s]) for s in ("train", "val", "test")] == [5, 1, 1]
    assert "seed 3" in dataset.provenance["split"]
    with pytest.warns(UserWarning, match=r"own/notes\.txt: not read"):
        assert load(str(folder)).name == "own"


def test_tables_keep_their_split_and_columns(tmp_path: Path) -> None:
    table(
        tmp_path / "set/train.csv",
        {"1": cubic(4.0), "2": cubic(4.1)},
        formula=["NaN", "FeO"],
        energy=["0.5", ""],
        note=["", "x"],
    )
    table(tmp_path / "set/val.csv", {"3": cubic(4.2)}, formula=["FeO"], energy=["1e-3"], note=[""])
    table(tmp_path / "set/test.csv", {"4": cubic(4.3)}, formula=["FeO"], energy=[""], note=[""])
    csv = tmp_path / "set/test.csv"
    csv.with_suffix(".csv.gz").write_bytes(gzip.compress(csv.read_bytes()))
    csv.unlink()
    dataset, skipped = read(tmp_path / "set")
    assert not skipped
    assert [dataset.splits[s].ids for s in ("train", "val", "test")] == [("1", "2"), ("3",), ("4",)]
    # sodium nitride, not "no value"
    assert dataset.splits["train"].properties["formula"].tolist() == ["NaN", "FeO"]
    np.testing.assert_array_equal(dataset.splits["train"].properties["energy"], [0.5, np.nan])
    assert dataset.splits["test"].properties["energy"].dtype == float
    assert dataset.splits["val"].properties["note"].tolist() == [""]


def test_tables_that_are_not_complete(tmp_path: Path) -> None:
    table(tmp_path / "set/train.csv", {"1": cubic(4.0)})
    with pytest.raises(DataError, match=r"val\.csv .*missing"):
        read(tmp_path / "set")
    (tmp_path / "set/val.csv").write_text("material_id,structure\nx,y\n")
    table(tmp_path / "set/test.csv", {"2": cubic(4.0)})
    with pytest.raises(DataError, match=r"val\.csv: .*cif.*material_id, structure"):
        read(tmp_path / "set")
    (tmp_path / "set/val.csv").write_text("material_id,cif\n")
    with pytest.raises(DataError, match="split val"):
        read(tmp_path / "set")
    (tmp_path / "set/val.csv").unlink()
    (tmp_path / "set/val.csv.gz").write_bytes(gzip.compress(b"material_id,cif\n")[:-9])
    with pytest.raises(DataError, match=r"val\.csv\.gz"):
        read(tmp_path / "set")


def test_extxyz(tmp_path: Path) -> None:
    atoms = [
        Atoms("FeO", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[4 + i, 5, 6], pbc=True)
        for i in range(4)
    ]
    atoms[2].info["material_id"] = "mine"
    ase.io.write(tmp_path / "many.extxyz", atoms, format="extxyz")
    crystals, *_ = read_structures(tmp_path / "many.extxyz")
    assert crystals.ids == ("many-0", "many-1", "mine", "many-3")
    np.testing.assert_allclose(crystals.lengths[:, 0], [4, 5, 6, 7])
    np.testing.assert_array_equal(crystals.species[:2], [26, 8])
    ase.io.write(
        tmp_path / "molecule.extxyz",
        Atoms("O2", positions=[[0, 0, 0], [0, 0, 1.2]]),
        format="extxyz",
    )
    with pytest.raises(DataError, match=r"molecule\.extxyz, frame 0: .*periodic"):
        read_structures(tmp_path / "molecule.extxyz")
    many = 'Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:x:R:999999999 pbc="T T T"'
    (tmp_path / "wide.extxyz").write_text(f"1\n{many}\nFe 0 0 0\n")
    with pytest.raises(DataError, match="Properties are 1000000003 columns, its first atom has 4"):
        read_structures(tmp_path / "wide.extxyz")
    (tmp_path / "broken.extxyz").write_text("3\nLattice=\nFe 0 0\n")
    with pytest.raises(DataError, match=r"broken\.extxyz"):
        read_structures(tmp_path / "broken.extxyz")


def test_extxyz_without_ase_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ase", None)
    (tmp_path / "x.extxyz").write_text("")
    with pytest.raises(NesfError, match=re.escape('pip install "nesf[ase]"')):
        read_structures(tmp_path / "x.extxyz")


def test_bad_entries_are_named_or_skipped_and_listed(folder: Path) -> None:
    write_cif(DISORDERED, folder / "disordered.cif")
    write_cif(COLLAPSED, folder / "collapsed.cif")
    (folder / "empty.cif").write_text("")
    (folder / "prose.cif").write_text("dear diary")
    (folder / "vasp4.vasp").write_text(
        "no symbols\n1.0\n4 0 0\n0 4 0\n0 0 4\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
    )
    (folder / "cut.vasp").write_text(Poscar(cubic(4.0)).get_str()[:-30])
    reasons = {
        "disordered.cif": "is disordered",
        "collapsed.cif": "two atoms are 0.04",
        "empty.cif": "cannot be read",
        "prose.cif": "cannot be read",
        "vasp4.vasp": "does not name its elements",
        "cut.vasp": "counts 2 atoms and gives 1",
    }
    for name, reason in reasons.items():
        with pytest.raises(DataError, match=rf"^{name}: .*{reason}.*repair or remove it") as error:
            read_structures(folder / name)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="repair or remove it"):
        read(folder)
    dataset, skipped = read(folder, skip_bad=True)
    assert sum(map(len, dataset.splits.values())) == 5
    assert {s.entry for s in skipped} == set(reasons)
    assert all(reasons[s.entry] in s.reason for s in skipped)
    assert len(dataset.provenance["skipped"]) == 6
    with pytest.warns(UserWarning, match="6 entries"):
        load(str(folder), skip_bad=True)


def test_damaged_files_are_skipped_and_never_end_the_program(folder: Path) -> None:
    rng = np.random.default_rng(0)
    texts = {"cif": str(CifWriter(ROCK_SALT, symprec=0.1)), "vasp": Poscar(ROCK_SALT).get_str()}
    for suffix, text in texts.items():
        for i in range(40):
            start, length = rng.integers(len(text)), rng.integers(1, 60)
            (folder / f"{suffix}{i}.{suffix}").write_text(
                text[:start] + rng.choice(["", "?", "\n", " nan ", "0"]) + text[start + length :]
            )
    crystals, skipped, _ = read_structures(folder, skip_bad=True)
    assert len(crystals) + len(skipped) == 85
    assert len(skipped) > 20
    assert np.isfinite(crystals.positions).all()


def test_dummy_species_and_foreign_elements(folder: Path) -> None:
    dummy = Structure(Lattice.cubic(4.0), [DummySpecies("X")], [[0, 0, 0]])
    with pytest.raises(DataError, match="dummy: "):
        Crystals.from_structures([dummy], ["dummy"])
    write_cif(cubic(4.0, "Ni"), folder / "nickel.cif")
    crystals, skipped, _ = read_structures(folder, vocabulary=[8, 26], skip_bad=True)
    assert len(crystals) == 5
    assert skipped[0].entry == "nickel.cif"
    assert "element Ni is outside the vocabulary of 2" in skipped[0].reason


def test_an_id_in_two_splits_is_an_error(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        table(tmp_path / f"{name}.csv", {name: cubic(4.0), "same": cubic(5.0)})
    with pytest.raises(DataError, match=r"val\.csv, same: .*train\.csv, same"):
        read(tmp_path)
    dataset, skipped = read(tmp_path, skip_bad=True)
    assert [len(dataset.splits[s]) for s in ("train", "val", "test")] == [2, 1, 1]
    assert len(skipped) == 2


def test_cells(tmp_path: Path) -> None:
    write_cif(ROCK_SALT.get_primitive_structure(), tmp_path / "NaCl.cif")
    atoms = {
        cell: len(read_structures(tmp_path / "NaCl.cif", cell=cell)[0].species)
        for cell in ("as-given", "conventional", "primitive")
    }
    assert atoms == {"as-given": 2, "conventional": 8, "primitive": 2}
    with pytest.raises(ConfigError, match="as-given, conventional, primitive"):
        read_structures(tmp_path / "NaCl.cif", cell="reduced")


def test_crystals_come_in_the_standard_setting_with_atoms_in_the_cell(tmp_path: Path) -> None:
    # turned in space
    lattice = Lattice(np.roll(Lattice.from_parameters(4, 5, 6, 80, 95, 105).matrix, 1, axis=1))
    structure = Structure(
        lattice, ["Fe", "O", "O"], [[-0.2, 1.3, 0.1], [0.5, 0.5, -1e-9], [0.1, 2.0, 0.7]]
    )
    Poscar(structure).write_file(str(tmp_path / "x.vasp"), significant_figures=12)
    crystals, *_ = read_structures(tmp_path / "x.vasp")
    np.testing.assert_allclose(
        crystals.lattice, standard_lattice(crystals.lengths, crystals.angles), atol=1e-9
    )
    fractional = crystals.positions @ np.linalg.inv(crystals.lattice[0])
    np.testing.assert_allclose(
        fractional, [[0.8, 0.3, 0.1], [0.5, 0.5, 0.0], [0.1, 0.0, 0.7]], atol=1e-8
    )
    np.testing.assert_allclose(
        crystals.to_structures()[0].distance_matrix, structure.distance_matrix, atol=1e-6
    )


def test_paths_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"train/val/test\.csv"):
        read(tmp_path)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(DataError, match=r"x\.json"):
        read(tmp_path / "x.json")
