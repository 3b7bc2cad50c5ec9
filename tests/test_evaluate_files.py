"""Scores of structures that come from files: wrapped into the cell, damaged, missing, doubled."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp.inputs import Poscar

import nesf
from nesf.crystals import Crystals
from nesf.data import load
from nesf.data.files import _wrapped
from nesf.decode import Reconstruction
from nesf.export import write_reconstruction
from nesf.matching import match_rmse
from nesf.metrics import HEADLINE, evaluate, nearest_images
from nesf_cli.main import main

NOTHING = pytest.mark.filterwarnings("ignore:charged as nothing detected")


@pytest.fixture(scope="module")
def actual() -> Crystals:
    """Crystals of the test split, with two cells that are not orthogonal."""
    test = load("starter").splits["test"]
    oblique = np.flatnonzero((np.abs(np.degrees(test.angles) - 90) > 1).any(1))[:2]
    return test.select([*range(14), *(i for i in oblique if i >= 14)])


@pytest.fixture(scope="module")
def made(actual: Crystals) -> Reconstruction:
    """What the recorded model of starter decodes of them: atoms on both sides of the cell's faces."""
    made = nesf.reconstruct(nesf.load_model("starter"), actual, mode="fast", match=False)
    fractional = np.concatenate([s.frac_coords for s in made.crystals.to_structures() if len(s)])
    assert (fractional < -1e-4).any()
    return made


def score(actual: Path, detected: Path, out: Path, *words: str) -> dict[str, float]:
    paths = ["--actual", str(actual), "--detected", str(detected), "--out", str(out)]
    assert main(["evaluate", *paths, *words, "--quiet"]) == 0
    return json.loads((out / "metrics.json").read_text())["test"]


def write(crystals: Crystals, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for structure in crystals.to_structures():
        if len(structure):
            structure.to(filename=str(folder / f"{structure.properties['id']}.cif"))
    return folder


@pytest.mark.parametrize("form", ["cif", "poscar", "extxyz", "json", "wrapped"])
@NOTHING
def test_a_run_scores_the_same_through_its_own_files(
    form: str, actual: Crystals, made: Reconstruction, tmp_path: Path
) -> None:
    if form == "wrapped":  # as other programs write them
        expected = evaluate(actual, made.crystals).summary
        detected = write(_wrapped(made.crystals), tmp_path / "wrapped")
    else:  # also where atoms are nearer to an image of another than to any atom
        far = made.crystals.positions.copy()
        far[made.crystals.atoms(0)] += 0.6 * made.crystals.lattice[0].sum(0)
        made = replace(made, crystals=replace(made.crystals, positions=far))
        expected = evaluate(actual, made.crystals).summary
        write_reconstruction(tmp_path, made, {}, form)
        detected = tmp_path / form
    found = score(write(actual, tmp_path / "actual"), detected, tmp_path / "scores")
    for key in HEADLINE:
        assert found[key] == pytest.approx(expected[key], abs=2e-3 if "rmse" in key else 5e-4), key
    without = score(tmp_path / "actual", detected, tmp_path / "scores", "--no-images", "--replace")
    if form == "wrapped":
        key = "position_error_detected_angstrom"
        assert without[key] > 2 * found[key]
    about = json.loads((tmp_path / "scores" / "evaluation.json").read_text())
    assert about["periodic_images"] is False and "--no-images" in about["command"]


@NOTHING
def test_an_own_file_that_another_program_has_wrapped_is_scored_as_wrapped(
    actual: Crystals, made: Reconstruction, tmp_path: Path
) -> None:
    """VASP copies the title of a POSCAR and moves every atom into the cell."""
    write_reconstruction(tmp_path, made, {}, "poscar")
    for path in (tmp_path / "poscar").iterdir():
        poscar = Poscar.from_file(path)
        wrapped = Structure.from_sites(poscar.structure, to_unit_cell=True)
        Poscar(wrapped, comment=poscar.comment).write_file(path)
    found = score(write(actual, tmp_path / "actual"), tmp_path / "poscar", tmp_path / "scores")
    key = "position_error_detected_angstrom"
    assert found[key] == pytest.approx(evaluate(actual, made.crystals).summary[key], abs=5e-4)


def test_images_are_those_of_the_detected_cell() -> None:
    cell = np.array([np.diag([4.0, 5.0, 6.0])])
    actual = Crystals.from_arrays(["x"], [np.array([[0, 0, 0], [2, 2.5, 3.0]])], [[11, 17]], cell)
    wrapped = np.array([[4.1 - 0.01, 0, 5.9], [2, 2.5, 3.0]])  # (-0.01, 0, -0.1) in a cell of 4.1
    detected = Crystals.from_arrays(["x"], [wrapped], [[11, 17]], np.array([np.diag([4.1, 5, 6])]))
    near = nearest_images(actual, detected)
    np.testing.assert_allclose(near.positions, [[-0.01, 0, -0.1], [2, 2.5, 3.0]], atol=1e-12)
    nothing = Crystals.from_arrays(["x"], [np.zeros((0, 3))], [[]], np.full((1, 3, 3), np.nan))
    assert len(nearest_images(actual, nothing).positions) == 0


def test_an_atom_and_its_image_are_an_error_in_their_number_alone(tmp_path: Path) -> None:
    lattice, species = Lattice.cubic(4.0), ["Na", "Cl", "Na"]
    given = Structure(lattice, species[:2], [[0, 0, 0], [0.5, 0.5, 0.5]])
    twice = Structure(lattice, species, [[0, 0, 0], [0.5, 0.5, 0.5], [0.998, 0, 0]])  # 0.008 Å
    for name, structure in (("a", given), ("d", twice)):
        (tmp_path / name).mkdir()
        structure.to(filename=str(tmp_path / name / "x.vasp"), fmt="poscar")
    found = score(tmp_path / "a", tmp_path / "d", tmp_path / "s")
    assert found["number_of_atoms_error_percent"] == 100 and found["n_nothing_detected"] == 0
    assert found["position_error_detected_angstrom"] == pytest.approx(0.008 / 3)
    assert found["species_error_detected_percent"] == 0


def test_what_cannot_be_used_is_charged_and_named(actual: Crystals, tmp_path: Path) -> None:
    few = actual.select(range(4))
    folder = write(few, tmp_path / "actual")
    shutil.copytree(folder, tmp_path / "detected")
    (tmp_path / "detected" / f"{few.ids[1]}.cif").write_text("data_x\n_cell_length_a 4\n")
    (tmp_path / "detected" / f"{few.ids[2]}.cif").unlink()
    with pytest.warns(UserWarning) as said:
        found = score(folder, tmp_path / "detected", tmp_path / "scores")
    text = " ".join(str(one.message) for one in said)
    assert f"{few.ids[1]}.cif (" in text and f"nothing detected: {few.ids[1]}, {few.ids[2]}" in text
    assert found["nothing_detected_ids"] == [few.ids[1], few.ids[2]]
    assert found["n_materials"] == 4 and found["number_of_atoms_error_percent"] == 50
    about = json.loads((tmp_path / "scores" / "evaluation.json").read_text())
    assert about["charged"] == [few.ids[1], few.ids[2]] and len(about["left_out"]) == 1


@pytest.mark.parametrize("name", ["stranger.cif", "{id}.vasp"])
def test_ids_that_do_not_match_are_one_error(
    name: str, actual: Crystals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = actual.select(range(2))
    folder = write(few, tmp_path / "actual")
    shutil.copytree(folder, tmp_path / "detected")
    few.to_structures()[0].to(
        filename=str(tmp_path / "detected" / name.format(id=few.ids[0])),
        fmt="poscar" if name.endswith("vasp") else "cif",
    )
    words = ["--detected", str(tmp_path / "detected"), "--out", str(tmp_path / "scores")]
    assert main(["evaluate", "--actual", str(folder), *words]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(error) == 1 and name.format(id=few.ids[0]).split(".")[0] in error[0]
    assert not (tmp_path / "scores").exists()


def test_structures_from_python_are_scored_as_files_are(actual: Crystals) -> None:
    moved = replace(actual, positions=actual.positions - 0.02)
    plain = evaluate(actual, moved, match=False).summary
    given = [s.copy() for s in _wrapped(moved).to_structures()]  # as CIFs have them
    found = nesf.evaluate(actual.to_structures(), given, match=False).summary
    key = "position_error_actual_angstrom"
    assert found[key] == pytest.approx(plain[key]) == pytest.approx(0.02 * 3**0.5)
    paper = nesf.evaluate(actual.to_structures(), given, match=False, images=False).summary
    assert paper[key] > 1
    assert nesf.evaluate(actual, moved, match=False).summary[key] == pytest.approx(plain[key])


def test_whether_crystals_match_does_not_depend_on_the_order_of_atoms() -> None:
    # Copper of space group 141 and its reconstruction, whose primitive cell pymatgen finds, within
    # its tolerance, in half of the orders. Two processors decoded it in different orders.
    lattice = Lattice.tetragonal(4.668669, 2.547282)
    sites = [[0, 0.5, 0.75], [0.5, 0.5, 0.5], [0.5, 0, 0.25], [0, 0, 0]]
    actual = Crystals.from_structures([Structure(lattice, ["Cu"] * 4, sites)], ["x"])
    cell = Lattice.from_parameters(4.621943, 4.544635, 2.811222, 88.338088, 87.669576, 89.096915)
    detected = [
        [0.00051, -0.007008, -0.01066], [-0.036563, 0.521134, 0.7345],
        [0.497472, 0.516801, 0.4673], [0.520226, -0.006164, 0.217254],
    ]  # fmt: skip
    for first in range(4):
        sites = detected[first:] + detected[:first]
        one = Crystals.from_structures([Structure(cell, ["Cu"] * 4, sites)], ["x"], check=False)
        assert np.isfinite(match_rmse(actual, one)).all(), first
