"""Structure files of every form: nothing is lost or changed in silence, nothing hangs."""

import bz2
import gzip
import io
import json
import lzma
import os
import sys
import threading
import time
from functools import partial
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
from ase.db import connect
from ase.spacegroup import crystal
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter
from pymatgen.io.vasp.inputs import Poscar

import nesf
from nesf.crystals import Crystals
from nesf.data.files import SHOWN, Note, read, read_structures, summed
from nesf.decode import Reconstruction
from nesf.export import write_reconstruction
from nesf_cli.main import main
from nesf_io import worker
from nesf_io.errors import DataError

ROCK_SALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)
CIF = str(CifWriter(ROCK_SALT))
SYMMETRIC = str(CifWriter(ROCK_SALT, symprec=0.1))
CELL = "_cell_length_a 4\n_cell_length_b 4\n_cell_length_c 4\n_cell_angle_alpha 90\n_cell_angle_beta 90\n_cell_angle_gamma 90\n"
SITES = "loop_\n_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n_atom_site_occupancy\n"
P1 = "loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n"
GROUP = "_symmetry_space_group_name_H-M 'F m -3 m'\n"
ROCK = "Na1 Na 0 0 0 1\nCl1 Cl .5 .5 .5 1\n"


def cif(sites: str, more: str = P1, columns: str = "") -> str:
    return f"data_x\n{CELL}{more}{SITES}{columns}{sites}"


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def is_rock_salt(crystals: Crystals, i: int = 0) -> bool:
    """Eight atoms, each with six of the other kind at half the edge."""
    (structure,) = crystals.select([i]).to_structures()
    near = structure.distance_matrix
    other = structure.atomic_numbers != np.array(structure.atomic_numbers)[:, None]
    return structure.formula == "Na4 Cl4" and bool(
        np.allclose(np.where(other, near, 9).min(0), 2.82, atol=1e-5)
    )


# --- forms --------------------------------------------------------------------------------------


def written(path: Path) -> Path:
    """Write rock salt in the form of the name."""
    atoms = crystal(["Na", "Cl"], [(0, 0, 0), (0.5, 0.5, 0.5)], spacegroup=225, cellpar=[5.64] * 3 + [90] * 3)  # fmt: skip
    if path.suffix == ".db":
        with connect(path) as database:
            database.write(atoms)
    elif path.suffix in (".traj", ".xsf", ".cell", ".extxyz", ".xyz", ".res", ".gen"):
        forms = {".cell": "castep-cell", ".xyz": "extxyz"}
        ase.io.write(path, atoms, format=forms.get(path.suffix))
    elif path.suffix in (".json", ".mson"):
        write(path, ROCK_SALT.to(fmt="json"))
    elif path.suffix == ".cssr":
        ROCK_SALT.to(filename=str(path))
    elif path.suffix == ".mcif":
        ROCK_SALT.copy(site_properties={"magmom": [1.0] * 8}).to(filename=str(path), fmt="mcif")  # fmt: skip
    elif path.suffix == ".csv":
        pd.DataFrame({"material_id": ["s"], "cif": [CIF]}).to_csv(path, index=False)
    else:
        write(path, Poscar(ROCK_SALT).get_str() if path.suffix != ".cif" else CIF)
    return path


@pytest.mark.filterwarnings("ignore")  # of the writers
@pytest.mark.parametrize(
    "name",
    ["s.cif", "s.mcif", "s.vasp", "POSCAR", "s.json", "s.mson", "s.csv", "s.xyz", "s.extxyz",
     "s.traj", "s.db", "s.xsf", "s.cell", "s.cssr", "s.res", "s.gen"],
)  # fmt: skip
def test_every_form_gives_the_same_crystal(tmp_path: Path, name: str) -> None:
    crystals, skipped, _ = read_structures(written(tmp_path / name))
    assert len(crystals) == 1 and not skipped
    assert crystals.ids == ("POSCAR" if name == "POSCAR" else "s",)
    assert is_rock_salt(crystals)


@pytest.mark.parametrize("name", ["s.cif", "s.vasp", "s.json", "s.csv", "s.extxyz", "s.xsf"])
@pytest.mark.parametrize("packed", [gzip, bz2, lzma])
def test_compressed(tmp_path: Path, name: str, packed) -> None:
    suffix = {gzip: ".gz", bz2: ".bz2", lzma: ".xz"}[packed]
    plain = written(tmp_path / "plain" / name) if (tmp_path / "plain").mkdir() is None else None
    path = write(tmp_path / (name + suffix), packed.compress(plain.read_bytes()))
    crystals, *_ = read_structures(path)
    assert crystals.ids == ("s",) and is_rock_salt(crystals)


@pytest.mark.parametrize("form", ["cif", "json", "poscar", "csv", "extxyz", "cif.gz"])
def test_standard_input(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    suffix = "vasp" if form == "poscar" else form.removesuffix(".gz")
    content = written(tmp_path / f"s.{suffix}").read_bytes()
    content = gzip.compress(content) if form.endswith("gz") else content
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    crystals, *_ = read_structures("-")
    assert crystals.ids == ("s" if form == "csv" else "stdin",) and is_rock_salt(crystals)


def test_files_patterns_and_folders_in_their_order(tmp_path: Path) -> None:
    for i, name in enumerate(
        ["b.cif", "a.cif", "x/1.cif", "x/2.cif", "deep/er/n.cif", "deep/n.cif"]
    ):
        write(tmp_path / name, CIF.replace("5.64", f"5.7{i}"))
    write(tmp_path / "deep/.hidden/z", "")
    paths = [tmp_path / "b.cif", str(tmp_path / "x/*.cif"), tmp_path / "deep", tmp_path / "a.cif"]
    crystals, _, notes = read_structures(paths)
    assert crystals.ids == ("b", "1", "2", "n", "n-2", "a")
    np.testing.assert_allclose(crystals.lengths[:, 0], [5.70, 5.72, 5.73, 5.74, 5.75, 5.71])
    assert notes == [Note("n.cif", "the id n is that of er/n.cif; here it is n-2")] or [
        n.text for n in notes
    ] == ["the id n is that of er/n.cif; here it is n-2"]
    with pytest.warns(UserWarning, match="here it is n-2"):
        assert len(nesf.read_structures(paths)) == 6
    assert len(nesf.load_dataset(str(tmp_path / "x/../[abx]*")).splits["train"]) >= 1
    with pytest.raises(DataError, match=r"y/\*\.cif: no such file"):
        read_structures(str(tmp_path / "y/*.cif"))


def test_several_structures_in_a_file(tmp_path: Path) -> None:
    other = CIF.replace("data_NaCl", "data_other").replace("5.64", "5.80")
    write(tmp_path / "two.cif", f"data_global\n_journal_year 1999\n{CIF}\n{other}")
    crystals, _, notes = read_structures(tmp_path / "two.cif")
    assert crystals.ids == ("NaCl", "other") and not notes
    np.testing.assert_allclose(crystals.lengths[:, 0], [5.64, 5.80])
    # COD's first block holds no structure, and the id is the file's
    write(tmp_path / "1000041.cif", f"data_global\n_publ_author_name 'A. B.'\n{CIF}")
    crystals, _, notes = read_structures(tmp_path / "1000041.cif")
    assert crystals.ids == ("1000041",) and is_rock_salt(crystals) and not notes
    # pymatgen keeps the last of several blocks with one name
    write(tmp_path / "same.cif", CIF + CIF.replace("5.64", "5.80"))
    crystals, _, notes = read_structures(tmp_path / "same.cif")
    assert crystals.ids == ("NaCl", "NaCl-2")
    np.testing.assert_allclose(crystals.lengths[:, 0], [5.64, 5.80])
    assert notes[0].entry == "same.cif, block 2 (NaCl)" and "here it is NaCl-2" in notes[0].text


def test_json_of_several(tmp_path: Path) -> None:
    one, two = ROCK_SALT.as_dict(), ROCK_SALT.copy().apply_strain(0.01).as_dict()
    for content, ids in (
        ([one, two], ("s-0", "s-1")),
        ({"first": one, "second": two}, ("first", "second")),
        ([{"material_id": "mp-1", "structure": one}, {"entry_id": 7, "structure": two}], ("mp-1", "7")),
        ({"crystals": [{"id": "a", "structure": one}], "model": {}}, ("a",)),
    ):  # fmt: skip
        write(tmp_path / "s.json", json.dumps(content))
        crystals, *_ = read_structures(tmp_path / "s.json")
        assert crystals.ids == ids and is_rock_salt(crystals)
    write(tmp_path / "s.json", json.dumps([one, {"structure": None}, two]))
    crystals, skipped, _ = read_structures(tmp_path / "s.json", skip_bad=True)
    assert crystals.ids == ("s-0", "s-2") and "no structure" in skipped[0].reason


def test_json_makes_no_object_that_it_names(tmp_path: Path) -> None:
    data = ROCK_SALT.as_dict()
    call = {"@module": "subprocess", "@class": "Popen", "args": ["touch", str(tmp_path / "made")]}
    data["sites"][0]["properties"] = {"x": call}
    data["properties"] = {"x": call}
    assert is_rock_salt(read_structures(write(tmp_path / "s.json", json.dumps(data)))[0])
    assert not (tmp_path / "made").exists()
    write(tmp_path / "s.py", f"import pathlib; pathlib.Path({str(tmp_path / 'made')!r}).touch()")
    with pytest.raises(DataError, match="no form"):
        read_structures(tmp_path / "s.py")
    assert not (tmp_path / "made").exists()


def test_columns_of_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = {"id": ["p", "q"], "final": [CIF, ROCK_SALT.to(fmt="json")], "formula": ["NaN", "x,y"]}
    path = tmp_path / "t.csv"
    pd.DataFrame(table).to_csv(path)
    crystals, *_ = read_structures(path, column="final")
    assert crystals.ids == ("p", "q") and is_rock_salt(crystals, 0) and is_rock_salt(crystals, 1)
    assert crystals.properties["formula"].tolist() == ["NaN", "x,y"]
    with pytest.raises(DataError, match="column cif is missing.*final.*--column"):
        read_structures(path)
    assert main(["data", "import", str(path), str(path), "--column", "final", "--data", str(tmp_path / "d")]) == 2  # fmt: skip
    assert "'p' is already that of" in capsys.readouterr().err
    pd.DataFrame({"cif": [CIF]}).to_csv(path, index=False)  # no ids: the rows have numbers
    assert read_structures(path)[0].ids == ("t-1",)
    write(path, f'material_id,cif\na,"{CIF}"\nb,"{CIF}",more\nc,"{CIF}"\n')
    crystals, skipped, _ = read_structures(path, skip_bad=True)
    assert crystals.ids == ("a", "c") and "3 fields where the table has 2" in skipped[0].reason


def test_a_file_with_a_mark_of_its_encoding(tmp_path: Path) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        assert is_rock_salt(read_structures(write(tmp_path / "s.cif", CIF.encode(encoding)))[0])


# --- nothing is changed in silence --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "formula", "note"),
    [
        (cif("Li1 Li 0 0 0 1\nD1 D .5 .5 .5 1\n"), "Li1 H1", "site D1: deuterium is read as hydrogen"),
        (cif("Li1 Li 0 0 0 1\nH1 H .5 .5 .5 0\n"), "Li1", "site H1: occupancy 0, left out"),
        (cif("Li1 Li 0 0 0 1\n", more=P1 + "_chemical_formula_sum 'Li H'\n"), "Li1", "formula is Li H, its sites are Li1"),
        (cif("Li1 Li 0 0 0 1\nH1 H .5 .5 .5 1\n", more=P1 + "_chemical_formula_sum 'Li H'\n_cell_formula_units_Z 4\n"), "Li1 H1", "means 8 atoms; its sites are 2"),
        (cif("Li1 Li 0 0 0 1\n", more=""), "Li1", "Defaulting to P1"),
        (cif("Li1 Li .3333 0 0 1\n"), "Li1", "1 fractional coordinates rounded"),
        (cif("Vac Vac 0 0 0 1\n"), "V1", "site Vac: 'Vac' is read as V"),
    ],
)  # fmt: skip
def test_changes_are_notes(tmp_path: Path, text: str, formula: str, note: str) -> None:
    crystals, _, notes = read_structures(write(tmp_path / "s.cif", text))
    assert crystals.to_structures()[0].formula == formula
    assert [n.entry for n in notes if note in n.text] == ["s.cif"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (cif("Na1 Na 0 0 0 0\nCl1 Cl .5 .5 .5 1\n", more=P1 + "_chemical_formula_sum 'Na Cl'\n"), "sites of Na have occupancy 0"),
        (cif("01 0 0 0 0 1\nCl1 Cl .5 .5 .5 1\n"), "site 01: '0' is no element"),
        (cif("O1 OH 0 0 0 1\nCl1 Cl .5 .5 .5 1\n"), "site O1: 'OH' is no element"),
        (cif("H1 H . . . 1\nCl1 Cl .5 .5 .5 1\n"), "site H1: a coordinate or its occupancy is not known"),
        (cif("H1 H 0 0 0 .\nCl1 Cl .5 .5 .5 1\n"), "site H1: a coordinate or its occupancy is not known"),
        (cif("H1 H 0 0 0 -1\nCl1 Cl .5 .5 .5 1\n"), "site H1: occupancy -1 is below 0"),
        (cif("Na1 Na 0 0 0 1\n", more="_symmetry_Int_Tables_number 999\n"), "space group 999 is unknown"),
        (cif("Na1 Na 0 0 0 1 4\n", more="", columns="_atom_site_symmetry_multiplicity\n"), "multiplicities of 4 atoms, and operators that make 1"),
        (cif(ROCK, more=P1 + GROUP), "1 symmetry operators where space group Fm-3m has 192"),
        (cif(ROCK, more=P1 + "_symmetry_Int_Tables_number 225\n"), "1 symmetry operators where space group 225 has 192"),
        (cif("Na1 Na 0 0 0 1 4\nCl1 Cl .5 .5 .5 1 4\n", more=P1, columns="_atom_site_symmetry_multiplicity\n"), "multiplicities of 8 atoms"),
        (SYMMETRIC.replace("'-x, -y, -z'\n", "", 1).replace("  2  ", "", 1), "191 symmetry operators are no group"),
        (cif("Na1 Na 0 0 0 1\n") + SITES + "Cl1 Cl .5 .5 .5 1\n", "are not one loop_"),
        (f"data_x\n{CELL}" + "".join(f"_atom_site_{k} {v}\n" for k, v in zip(["label", "type_symbol", "fract_x", "fract_y", "fract_z"], ["Cu1", "Cu", 0, 0, 0], strict=True)), "are not one loop_"),
    ],
)  # fmt: skip
def test_lost_atoms_are_an_error(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(DataError, match=rf"^s\.cif: .*{reason}"):
        read_structures(write(tmp_path / "s.cif", text))


def test_what_pymatgen_writes_of_half_a_peroxide_is_no_contradiction(tmp_path: Path) -> None:
    """For Na O it writes Z = 0, the whole part of a half of Na2 O2."""
    structure = Structure(Lattice.cubic(4.0), ["Na", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    text = structure.to(fmt="cif")
    assert "_cell_formula_units_Z   0" in text
    assert not read_structures(write(tmp_path / "s.cif", text)).notes


def test_the_whole_group_is_read(tmp_path: Path) -> None:
    crystals, _, notes = read_structures(write(tmp_path / "s.cif", SYMMETRIC))
    assert is_rock_salt(crystals) and not notes
    # by its symbol; thirds are written with four digits
    text = cif("Mg1 Mg .3333 .6667 .25 1\n", more="_symmetry_space_group_name_H-M 'P 63/m m c'\n")
    text = text.replace("gamma 90", "gamma 120")
    crystals, _, notes = read_structures(write(tmp_path / "hcp.cif", text))
    assert crystals.n_atoms.tolist() == [2] and any("Spacegroup from" in n.text for n in notes)


def test_a_file_may_list_all_atoms_of_a_named_group(tmp_path: Path) -> None:
    text = CIF.replace("'P 1'", "'F m -3 m'").replace("number   1", "number   225")
    assert text.count("225") == 1 and "F m -3 m" in text
    crystals, _, notes = read_structures(write(tmp_path / "s.cif", text))
    assert is_rock_salt(crystals) and not notes
    # the primitive cell of a centred group, by the operators of its own
    primitive = str(CifWriter(ROCK_SALT.get_primitive_structure(), symprec=None))
    text = primitive.replace("'P 1'", "'F m -3 m'")
    assert read_structures(write(tmp_path / "p.cif", text))[0].n_atoms.tolist() == [2]


def test_no_structure_of_a_file_disappears(tmp_path: Path) -> None:
    one = ROCK_SALT.as_dict()
    half = CIF[: CIF.index("_atom_site_fract_x")].replace("data_NaCl", "data_half")
    cartesian = CIF.replace("_fract_", "_Cartn_").replace("data_NaCl", "data_half")
    cell = {"lattice": one["lattice"]}
    for name, text, left in (
        ("s.cif", f"{CIF}\n{half}", "s.cif, block 2 (half)"),
        ("s.cif", f"{CIF}\n{cartesian}", "s.cif, block 2 (half)"),
        ("s.json", json.dumps({"NaCl": one, "Cu": cell}), "s.json, entry 2 (Cu)"),
        ("s.json", json.dumps({"NaCl": one, "Cu": None}), "s.json, entry 2 (Cu)"),
    ):
        crystals, skipped, _ = read_structures(write(tmp_path / name, text), skip_bad=True)
        assert is_rock_salt(crystals) and [s.entry for s in skipped] == [left]
    deep: dict = one
    for level in "abcdef":
        deep = {level: deep}
    write(tmp_path / "s.json", json.dumps({"NaCl": one, "deep": deep, "energy": 1, "of": {}}))
    assert len(read_structures(tmp_path / "s.json").crystals) == 2
    for name, text, why in (
        ("s.json", f'{{"a": {json.dumps(one)}, "a": {json.dumps(one)}}}', "'a' occurs twice"),
        ("s.csv", f'material_id,cif,cif\na,"{CIF}","{SYMMETRIC}"\n', "column cif occurs twice"),
    ):
        with pytest.raises(DataError, match=why):
            read_structures(write(tmp_path / name, text))


def test_poscar_that_would_lose_atoms(tmp_path: Path) -> None:
    good = Poscar(ROCK_SALT).get_str()
    assert is_rock_salt(read_structures(write(tmp_path / "s.vasp", good))[0])
    for old, new, reason in (
        ("\n4 4\n", "\n4 3\n", "counts 7 atoms and gives 8"),
        ("\n4 4\n", "\n4\n", "names 2 elements and counts 1"),
        ("\n4 4\n", "\n-2 4\n", "-2 4 are not between"),
        ("\nNa Cl\n", "\n", "VASP 4.*'Na Cl'"),
    ):
        assert old in good
        text = good.replace(old, new)
        text = text if "VASP" not in reason else "\n".join(" ".join(line.split()[:3]) for line in text.splitlines())  # fmt: skip
        with pytest.raises(DataError, match=reason):
            read_structures(write(tmp_path / "s.vasp", text))


def test_files_of_a_folder_that_are_not_read(tmp_path: Path) -> None:
    for name in ("s.cif", "notes.txt", "sub/table.csv", ".DS_Store"):
        write(tmp_path / name, CIF)
    write(tmp_path / "summary.json", "{}")
    crystals, _, notes = read_structures(tmp_path)
    assert crystals.ids == ("s",)
    unread = {Path(n.entry).name for n in notes if "not read" in n.text}
    assert unread == {"notes.txt", "table.csv", "summary.json"}
    dataset, _ = read([tmp_path / "s.cif"] * 3)
    assert sum("here it is s-" in n["text"] for n in dataset.provenance["notes"]) == 2


def test_notes_of_one_text_are_one_line() -> None:
    notes = [Note(f"{i}.cif", "rounded") for i in range(9)]
    assert summed(notes) == ["0.cif and 8 more: rounded"]
    lines = summed([Note("a", str(i)) for i in range(99)])
    assert len(lines) == SHOWN + 1 and lines[-1] == f"and {99 - SHOWN} further notes"


def test_notes_reach_the_summary_and_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("s.cif"), CIF)
    write(Path("t.cif"), CIF.replace("'Na4 Cl4'", "'Na4 Cl8'"))
    assert main(["reconstruct", "starter", "s.cif", "[t].cif", "--out", "o", "--decode", "mode=fast"]) == 0  # fmt: skip
    said = "its formula is Na4 Cl8, its sites are Na4 Cl4"
    assert f"warning: t.cif: {said}" in capsys.readouterr().err
    summary = json.loads(Path("o/summary.json").read_text())
    assert summary["notes"] == [{"entry": "t.cif", "text": said}]
    assert summary["input"] == "s.cif, [t].cif"


# --- no hang, no flood --------------------------------------------------------------------------


def hostile(name: str) -> bytes:
    poscar = b"c\n1.0\n4 0 0\n0 4 0\n0 0 4\nTi O\n%d %d\nDirect\n0 0 0\n.5 .5 .5\n"
    return {
        "atoms.vasp": poscar % (5 * 10**8, 5 * 10**8),
        "atoms.xyz": b'999999999\nLattice="4 0 0 0 4 0 0 0 4"\nFe 0 0 0\n',
        "header.xyz": b'1\nLattice="4 0 0 0 4 0 0 0 4" ' + b"a=1 " * 10**5 + b"\nFe 0 0 0\n",
        "bomb.cif.gz": gzip.compress(b"\0" * (1 << 27), 1),
        "columns.csv": ("material_id,cif" + ",x" * 10**5 + "\n").encode(),
        "deep.json": b"[" * 10**5,
        "atoms.json": json.dumps({"lattice": {"matrix": [[4, 0, 0], [0, 4, 0], [0, 0, 4]]}, "sites": [{"species": [{"element": "Fe", "occu": 1}], "abc": [0, 0, 0]}] * 2000}).encode(),
        "long.cif": b"data_x\n_atom_site_fract_x\n" + b"x" * (1 << 25),
        "cut.cif.gz": gzip.compress(CIF.encode())[:-30],
        "nul.cif": b"\0" * 1000,
        "empty.traj": b"",
        "no.db": b"SQLite format 3\0" + b"\0" * 100,
    }[name]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("atoms.vasp", "500000000 500000000 are not between 1 and 1000"),
        ("atoms.xyz", "999999999 atoms"),
        ("header.xyz", r"header of 4\d+ characters"),
        ("bomb.cif.gz", "unpacks from .* to more than 64 MiB"),
        ("columns.csv", "100002 columns"),
        ("deep.json", "RecursionError"),
        ("atoms.json", "2000 atoms"),
        ("long.cif", "32 MiB of text"),
        ("cut.cif.gz", "EOFError"),
        ("nul.cif", "cannot be read"),
        ("empty.traj", ""),
        ("no.db", ""),
    ],
)
def test_what_is_too_big_or_damaged_is_refused_soon(tmp_path: Path, name: str, reason: str) -> None:
    write(tmp_path / name, hostile(name))
    write(tmp_path / "good.cif", CIF)
    read_structures(tmp_path / "good.cif")  # the process has started
    start = time.monotonic()
    with pytest.raises(DataError, match=rf"^{name}.*: .*{reason}"):
        read_structures(tmp_path / name)
    assert time.monotonic() - start < 5
    crystals, skipped, _ = read_structures([tmp_path / name, tmp_path / "good.cif"], skip_bad=True)
    assert crystals.ids == ("good",) and is_rock_salt(crystals) and name in skipped[0].entry


def test_an_entry_that_takes_too_long_or_ends_the_process_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "LIMIT_S", 1.0)
    monkeypatch.setattr(worker, "MAX_ENDED", 2)
    first, second = partial(int, 1), partial(int, 2)
    jobs = [([first, partial(time.sleep, 60), second],), ([partial(os._exit, 3), first],)]
    start = time.monotonic()
    found = list(worker.stream(iter, jobs))
    assert time.monotonic() - start < 50
    assert [job for job, _ in found] == [0, 0, 0, 1, 1]
    assert [v for _, v in found if isinstance(v, int)] == [1, 2, 1]
    assert "took over 1 s" in str(found[1][1]) and "exit status 3" in str(found[3][1])
    # a file whose every entry does so is left, and the next one is read
    jobs = [([partial(os._exit, 3)] * 9,), ([second],)]
    found = list(worker.stream(iter, jobs))
    assert [job for job, _ in found] == [0, 0, 1] and found[-1][1] == 2
    assert "what follows in the file is not read" in str(found[1][1])


@pytest.mark.skipif(sys.platform == "win32", reason="memory is not limited there")
def test_a_reader_gets_no_more_memory_than_its_limit() -> None:
    found = list(worker.stream(iter, [([partial(bytearray, 5 << 30)],), ([partial(int, 1)],)]))
    assert "MemoryError" in str(found[0][1]) and found[1] == (1, 1)


def test_from_threads_and_with_streams_left_open(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"c{i}.cif", CIF.replace("5.64", f"5.7{i}"))
    left = worker.stream(iter, [([partial(int, 1)] * 1000,)])
    assert next(left) == (0, 1)  # nobody reads the rest
    results: dict[int, float] = {}

    def one(i: int) -> None:
        results[i] = read_structures(tmp_path / f"c{i}.cif")[0].lengths[0, 0]

    threads = [threading.Thread(target=one, args=(i,)) for i in range(3)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert results == {i: pytest.approx(5.70 + i / 100) for i in range(3)}
    left.close()


# --- names --------------------------------------------------------------------------------------


def test_names_that_are_not_utf8_and_very_long_ids(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "odd")
    os.mkdir(folder)
    with open(os.path.join(folder, b"na\xffcl\n.cif"), "w") as file:
        file.write(CIF)
    crystals, *_ = read_structures(tmp_path / "odd")
    assert crystals.ids == ("na\\udcffcl_",) and is_rock_salt(crystals)
    table = {"material_id": ["x" * 300 + "1", "x" * 300 + "2", "é" * 200], "cif": [CIF] * 3}
    pd.DataFrame(table).to_csv(tmp_path / "t.csv", index=False)
    crystals, *_ = read_structures(tmp_path / "t.csv")
    reports = [
        {"id": i, "n_atoms": 8, "lattice_repaired": False, "atoms": []} for i in crystals.ids
    ]
    write_reconstruction(tmp_path / "out", Reconstruction(crystals, reports), {})
    files = sorted(p.name for p in (tmp_path / "out/cif").iterdir())
    assert len(files) == 3 and all(len(os.fsencode(f)) < 200 for f in files)
    rows = pd.read_csv(tmp_path / "out/structures.csv")
    assert rows["id"].tolist() == table["material_id"]
    assert {Path(c).name for c in rows["cif"]} == set(files)
