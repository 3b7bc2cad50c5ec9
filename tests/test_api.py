"""`import nesf`: structures in, structures out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from pymatgen.core import Lattice, Structure

import nesf

ROCK_SALT = Structure(
    Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]], properties={"id": "salt"}
)


@pytest.fixture(scope="module")
def model() -> nesf.TrainedModel:
    return nesf.load_model("starter", device="cpu")


@pytest.fixture(scope="module")
def known() -> list[Structure]:
    return nesf.load_dataset("starter").splits["train"].select(range(3)).to_structures()


def test_training_structures_come_back(model: nesf.TrainedModel, known: list[Structure]) -> None:
    decoded = model.reconstruct(known)
    scores = nesf.evaluate(known, decoded)
    assert [s.properties["id"] for s in decoded] == [s.properties["id"] for s in known]
    assert (
        scores.summary["number_of_atoms_error_percent"] == 0
        and scores.summary["position_error_actual_angstrom"] < 0.2
    )
    again = model.decode(model.encode(known).numpy())
    assert all(
        np.allclose(a.cart_coords, b.cart_coords) and a.species == b.species
        for a, b in zip(decoded, again, strict=True)
    )


def test_a_model_may_be_named(model: nesf.TrainedModel, known: list[Structure]) -> None:
    named, loaded = (
        nesf.reconstruct(m, known[:1], match=False, grid_interval=0.7) for m in ("starter", model)
    )
    assert np.array_equal(named.crystals.positions, loaded.crystals.positions)
    assert len(nesf.interpolate("starter", known[0], known[1], 2, grid_interval=0.7).crystals) == 2
    with pytest.raises(nesf.NesfError, match="no-such-model"):
        nesf.reconstruct("no-such-model", known[:1])
    with pytest.raises(nesf.NesfError, match="list: a trained model"):
        nesf.reconstruct(known, known)  # type: ignore[arg-type]


def test_orientation_form_and_images_of_the_input_do_not_matter(
    model: nesf.TrainedModel, known: list[Structure]
) -> None:
    structure = known[0]
    turned = Structure(
        structure.lattice.matrix[:, [2, 0, 1]],
        structure.atomic_numbers,
        np.add(structure.frac_coords, [1, -2, 0]),
    )
    atoms = Atoms(
        structure.atomic_numbers, structure.cart_coords, cell=structure.lattice.matrix, pbc=True
    )
    expected = model.encode(structure)
    for other in (turned, atoms, [atoms], [structure]):
        assert torch.allclose(model.encode(other), expected, atol=1e-5)


def test_what_is_no_structure_is_named(model: nesf.TrainedModel) -> None:
    with pytest.raises(nesf.NesfError, match="periodic"):
        model.encode(Atoms("NaCl", positions=[[0, 0, 0], [1, 1, 1]]))  # a molecule: no cell
    width = model.config.model.latent_size
    for z in (np.zeros(width), np.zeros((2, 5)), np.full((1, width), np.nan)):
        with pytest.raises(nesf.NesfError, match=rf"\[B, {width}\]"):
            model.decode(z)
    with pytest.raises(nesf.NesfError, match="str.*read_structures"):
        model.encode(["my.cif"])
    strange = Structure(Lattice.cubic(4), ["Og"], [[0, 0, 0]], properties={"id": "strange"})
    with pytest.raises(nesf.NesfError, match="strange.*118"):
        model.reconstruct([ROCK_SALT, strange])


def test_models_by_name_or_folder(tmp_path: Path, model: nesf.TrainedModel) -> None:
    with pytest.raises(nesf.NesfError, match=r"nowhere.*lcs6.*starter"):
        nesf.load_model("nowhere")
    model.save(tmp_path / "m")
    assert torch.equal(
        nesf.load_model(tmp_path / "m", device="cpu").encode(ROCK_SALT), model.encode(ROCK_SALT)
    )


def test_files_in(tmp_path: Path) -> None:
    ROCK_SALT.to(filename=str(tmp_path / "a.cif"))
    (tmp_path / "b.cif").write_text("no cif")
    with pytest.raises(nesf.NesfError, match=r"b\.cif"):
        nesf.read_structures(tmp_path)
    with pytest.warns(UserWarning, match=r"b\.cif"):
        (structure,) = nesf.read_structures(tmp_path, skip_bad=True)
    assert structure.properties["id"] == "a" and structure.composition == ROCK_SALT.composition


def test_the_oracle_is_exact_and_losing_an_atom_is_charged() -> None:
    decoded = nesf.oracle(ROCK_SALT).crystals.to_structures()
    assert nesf.evaluate(ROCK_SALT, decoded).summary["match_rate_percent"] == 100
    lost = ROCK_SALT.copy()
    lost.remove_sites([1])
    summary = nesf.evaluate([ROCK_SALT], [lost]).summary
    assert (summary["number_of_atoms_error_percent"], summary["species_error_actual_percent"]) == (
        100,
        50,
    )


def test_any_models_structures_are_scored() -> None:
    moved = ROCK_SALT.copy()
    moved.translate_sites([1], [0.1, 0, 0], frac_coords=False)
    turned = Structure(
        ROCK_SALT.lattice.matrix[:, [2, 0, 1]], moved.atomic_numbers, moved.frac_coords
    )  # no id, another orientation
    summary = nesf.evaluate([ROCK_SALT] * 3, [ROCK_SALT, turned, None]).summary
    assert summary["n_nothing_detected"] == 1 and summary["match_rate_percent"] == pytest.approx(
        200 / 3
    )
    assert summary["position_error_actual_angstrom"] == pytest.approx(0.1 / 4)
    with pytest.raises(nesf.NesfError, match=r"3 .* 1 "):
        nesf.evaluate([ROCK_SALT] * 3, [ROCK_SALT])
    disordered = Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])
    with pytest.raises(nesf.NesfError, match="disordered"):
        nesf.evaluate(ROCK_SALT, disordered)


def test_training_records_its_run(tmp_path: Path) -> None:
    starter = nesf.load_dataset("starter")
    few = nesf.Dataset(
        "few",
        {
            name: starter.splits[name].select(range(n))
            for name, n in (("train", 6), ("val", 2), ("test", 2))
        },
    )
    changes = {
        "training.epochs": 1,
        "training.compile": False,
        "training.batch_size": 3,
        "model.latent_size": 8,
        "sampling.n_position": 8,
    }
    result = nesf.train(few, tmp_path / "run", changes=changes, device="cpu", progress=False)
    assert result.finished and (tmp_path / "run" / "run.json").exists()
    assert nesf.load_model(tmp_path / "run").encode(starter.splits["test"].select([0])).shape == (
        1,
        8,
    )
