"""The training domain, the cell of own structures, and what is said of each reconstruction."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

import nesf
from nesf.crystals import Crystals
from nesf.data.dataset import Dataset, save_dataset
from nesf.data.files import as_crystals
from nesf.data.streaming import open_streamed
from nesf.domain import domain_of, in_cell, outside
from nesf.saved import RECORDED, TrainedModel, model_for
from nesf.trust import is_doubtful
from nesf_cli.main import main
from nesf_io.errors import ConfigError, DataError
from scripts.complete_models import complete

# conventional cell of 8 atoms
ROCK_SALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)
FAST = {"mode": "fast"}


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return nesf.load_model("starter", device="cpu")


@pytest.fixture(scope="module")
def starter() -> Dataset:
    return nesf.load_dataset("starter")


def of(structures: list[Structure], provenance: dict[str, str]) -> Dataset:
    crystals = as_crystals(structures)
    return Dataset("own", {"train": crystals, "val": crystals, "test": crystals}, None, provenance)


def test_the_domain_is_the_range_of_the_training_split(starter: Dataset) -> None:
    domain, train = domain_of(starter), starter.split("train")
    assert domain["cell"] == "conventional"
    assert domain["n_atoms"] == [train.n_atoms.min(), train.n_atoms.max()]
    assert domain["length"] == pytest.approx([train.lengths.min(), train.lengths.max()], abs=1e-4)
    assert domain["elements"] == sorted(set(train.species.tolist()))
    assert not any(outside(train, domain))
    narrow = Dataset("n", dict(starter.splits) | {"train": train.select([0])}, None, {})
    assert any(outside(starter.split("test"), domain_of(narrow)))


def test_a_streamed_dataset_has_the_same_domain(starter: Dataset, tmp_path: Path) -> None:
    save_dataset(starter, tmp_path / "s")
    assert domain_of(open_streamed(tmp_path / "s")) == domain_of(starter)


def test_the_cell_of_own_data_is_what_its_centred_cells_say() -> None:
    assert domain_of(of([ROCK_SALT], {"cell": "as-given"}))["cell"] == "conventional"
    primitive = ROCK_SALT.get_primitive_structure()
    assert domain_of(of([primitive], {"cell": "as-given"}))["cell"] == "as-given"
    assert domain_of(of([primitive], {"cell": "primitive"}))["cell"] == "primitive"


def test_each_reason_names_value_and_limit(starter: Dataset) -> None:
    domain = domain_of(starter)
    strange = Structure(Lattice.orthorhombic(3, 4, 9.5), ["Xe"], [[0, 0, 0]])
    (reasons,) = outside(as_crystals(strange), domain)
    assert reasons[0].startswith("1 atom, at least 2")
    assert any("c = 9.5 Å" in reason for reason in reasons)
    assert reasons[-1] == "Xe not in training"
    tilted = Structure(
        Lattice.from_parameters(4, 4, 4, 90, 90, 75), ["Na", "Cl"], [[0] * 3, [0.5] * 3]
    )
    assert "γ = 75°" in outside(as_crystals(tilted), domain)[0][0]


def test_training_stores_the_domain_with_the_model(
    model: TrainedModel, starter: Dataset, tmp_path: Path
) -> None:
    made = model_for(starter, model.config)
    made.save(tmp_path)
    assert TrainedModel.load(tmp_path).domain == domain_of(starter)


def test_recorded_models_have_what_their_datasets_say(
    model: TrainedModel, starter: Dataset, tmp_path: Path
) -> None:
    assert model.domain == domain_of(starter)
    run = tmp_path / "run"
    replace(model, domain={}, latent_scale=()).save(run)
    weights = (run / "model.safetensors").read_bytes()
    assert complete(run) == ["latent_scale", "domain"] and complete(run) == []
    completed = TrainedModel.load(run)
    assert completed.domain == model.domain
    z = completed.encode(starter.split("train")).double().std(0, correction=0)
    assert completed.latent_scale == pytest.approx(z.clamp(min=1e-3).tolist(), rel=1e-6)
    assert (run / "model.safetensors").read_bytes() == weights
    replace(model, dataset=dict(model.dataset) | {"hash": "0" * 64}, domain={}).save(run)
    before = (run / "model.json").read_bytes()
    with pytest.raises(DataError, match="was trained on"):
        complete(run)
    assert (run / "model.json").read_bytes() == before


@pytest.mark.parametrize("path", sorted(RECORDED.glob("*/nesf/*/*/model.json")), ids=str)
def test_a_recorded_domain_is_whole_and_within_the_vocabulary(path: Path) -> None:
    about = json.loads(path.read_text())
    if "domain" in about:  # the training data of every model is not at hand
        assert set(about["domain"]) == {"cell", "n_atoms", "length", "angle", "elements"}
        assert set(about["domain"]["elements"]) <= set(about["vocabulary"])


def test_a_primitive_cell_becomes_the_conventional_one_and_others_stay() -> None:
    given = as_crystals([ROCK_SALT.get_primitive_structure(), ROCK_SALT])
    used, notes = in_cell(given, "auto", {"cell": "conventional"})
    assert used.n_atoms.tolist() == [8, 8] and used.ids == given.ids
    assert notes == ["conventional (converted, 2 → 8 atoms)", "as given (conventional)"]
    moved = ROCK_SALT.copy().translate_sites(range(8), [0.1, 0.2, 0.3])
    kept, _ = in_cell(as_crystals(moved), "auto", {"cell": "conventional"})
    np.testing.assert_array_equal(kept.positions, as_crystals(moved).positions)
    for cell, domain in (("as-given", {"cell": "conventional"}), ("auto", {})):
        assert in_cell(given, cell, domain)[0] is given
    assert in_cell(given, "primitive", {})[0].n_atoms.tolist() == [2, 2]
    with pytest.raises(ConfigError, match="choose from auto"):
        in_cell(given, "reduced", {})


def test_reconstructions_say_what_is_known(model: TrainedModel, starter: Dataset) -> None:
    train = starter.split("train")
    first = train.select([int(np.argmin(train.n_atoms))]).to_structures()[0]
    large = first.make_supercell([3, 3, 3], in_place=False)
    large.properties = {"id": "large"}
    made = nesf.reconstruct(model, [first, large], cell="as-given", **FAST)
    inside, beyond = (report["trust"] for report in made.reports)
    assert inside["ok"] and inside["outside"] == [] and inside["matched"]
    assert 0 <= inside["rmsd"] < 0.2
    assert inside["verdict"] == "inside the training domain, no certificate"
    assert beyond["verdict"].startswith(
        f"outside the training domain: {len(large)} atoms, at most 16"
    )
    assert not beyond["ok"]
    assert not is_doubtful(made.reports[0])
    other = made.reports[0] | {"trust": inside | {"matched": False}}
    assert is_doubtful(other)  # the verdict does not know the input
    certified = nesf.reconstruct(model, first, mode="consistent").reports[0]
    assert certified["trust"]["verdict"] == (
        "certified" if certified["certificate"]["certified"] else "not certified"
    )
    unknown = nesf.reconstruct(replace(model, domain={}), first, match=False, **FAST)
    trust = unknown.reports[0]["trust"]
    assert trust["verdict"].startswith("training domain not known") and trust["matched"] is None
    with pytest.warns(UserWarning, match="1 of 1 crystals lie outside the training domain"):
        model.reconstruct(large, cell="as-given")


def test_models_in_python_convert_own_structures_and_say_so(model: TrainedModel) -> None:
    primitive, cell = ROCK_SALT.get_primitive_structure(), "conventional (converted, 2 → 8 atoms)"
    with pytest.warns(UserWarning, match=rf"1 of 2 .* the first is 0: {re.escape(cell)}"):
        z = model.encode([primitive, ROCK_SALT])
    alone = model.encode([ROCK_SALT])  # no warning, which would be an error here
    np.testing.assert_allclose(z[1], alone[0], atol=1e-5)
    np.testing.assert_allclose(z[0], alone[0], atol=1e-4)
    given = model.encode([primitive, ROCK_SALT], cell="as-given")
    assert float((given[0] - given[1]).abs().max()) > 1e-2
    with pytest.warns(UserWarning, match="converted"):
        (decoded,) = model.reconstruct(primitive)
    assert len(decoded) > 2


def test_rmsd_is_in_angstrom() -> None:
    """An atom of a pair moved by d is d/2 from its place when the centres agree: RMSD d/2."""
    from nesf.decode import Reconstruction
    from nesf.trust import judged

    actual = as_crystals(Structure(Lattice.cubic(4.0), ["Cs", "Cl"], [[0] * 3, [0.5] * 3]))
    moved = as_crystals(Structure(Lattice.cubic(4.0), ["Cs", "Cl"], [[0] * 3, [0.525, 0.5, 0.5]]))
    report = {"id": "0", "n_atoms": 2}
    (found,) = judged(Reconstruction(moved, [report]), {}, actual).reports
    assert found["trust"]["rmsd"] == pytest.approx(0.05, abs=1e-3)
    nothing = Crystals.from_arrays(["0"], [np.zeros((0, 3))], [[]], actual.lattice)
    (found,) = judged(Reconstruction(nothing, [report | {"n_atoms": 0}]), {}, actual).reports
    assert found["trust"]["verdict"] == "nothing detected" and found["trust"]["matched"] is False


def test_a_large_supercell_does_not_come_back_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    iron = Structure(Lattice.cubic(2.87), ["Fe", "Fe"], [[0] * 3, [0.5] * 3])
    iron.make_supercell([5, 5, 5]).to(filename="super.cif")  # 250 atoms
    words = ["reconstruct", "starter", "super.cif", "--decode", "mode=fast", "--device", "cpu"]
    with pytest.warns(UserWarning, match="super .250 atoms, at most 16 in training"):
        assert main([*words, "--cell", "as-given", "--out", "a"]) == 0
    assert "outside the training domain: 250 atoms" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="outside"):
        assert main([*words, "--cell", "as-given", "--out", "b", "--strict"]) == 3
    assert main([*words, "--out", "c", "--strict"]) == 0
    assert (
        "Fe → Fe; 2 atoms; cell conventional (converted, 250 → 2 atoms)" in capsys.readouterr().out
    )
    with open("a/structures.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["formula_input"] == "Fe" and row["trust"].startswith("outside the training domain")
    summary = json.loads(Path("a/summary.json").read_text())
    assert summary["outside_training_domain"] == ["super"]
    assert summary["trust"]["super"]["verdict"] == row["trust"]
    assert summary["domain"]["n_atoms"] == [2, 16]
    for cif in Path("a/cif").iterdir():
        assert "outside the training domain: 250 atoms" in cif.read_text()
        assert Structure.from_file(cif)
