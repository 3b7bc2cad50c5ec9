"""Recorded runs: what is written can be read, what is broken is said, and every run in the
repository is valid."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nesf import records as results
from nesf.crystals import Crystals
from nesf.data.dataset import Dataset
from nesf.methods import METHODS, run_folder
from nesf.metrics import HEADLINE, evaluate
from nesf.records import run_folders
from nesf_io.errors import ConfigError, DataError
from nesf_studies import cards, page, paper
from scripts.validate_results import validate

REPOSITORY = Path(__file__).resolve().parent.parent
RECORDED = run_folders(REPOSITORY / "results")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    def crystals(*ids: str) -> Crystals:
        atoms = np.array([[0, 0, 0], [2, 2, 2]], float)
        return Crystals.from_arrays(
            ids,
            [atoms] * len(ids),
            [[11, 7]] * len(ids),
            np.tile(np.diag([4.0] * 3), (len(ids), 1, 1)),
        )

    return Dataset(
        "own", {"train": crystals("a", "b"), "val": crystals("c"), "test": crystals("d", "e")}
    )


def record(
    root: Path,
    dataset: Dataset,
    *,
    method: str = "copy",
    seed: int = 0,
    shift: float = 0.1,
    lost: bool = False,
    **further: Any,
) -> Path:
    folder = run_folder(root, dataset.name, method, "paper", seed=seed, fold=dataset.fold)
    actual = dataset.splits["test"]
    detected = Crystals(
        actual.ids,
        actual.positions + np.array([shift, 0, 0]),
        actual.species,
        actual.lattice,
        actual.offsets,
    )
    if lost:
        detected = Crystals.from_arrays(
            actual.ids,
            [detected.positions[:2], np.zeros((0, 3))],
            [detected.species[:2], []],
            actual.lattice,
        )
    results.write_metrics(folder, {"test": evaluate(actual, detected)})
    common = {
        "command": "nesf run own",
        "config": {},
        "wall_time_seconds": 1.5,
        "method": method,
        "preset": "paper",
        "seed": seed,
    }
    results.write_run(folder, dataset, common | further)
    return folder


@pytest.mark.parametrize("folder", RECORDED, ids=[str(f.relative_to(REPOSITORY)) for f in RECORDED])
def test_every_recorded_run_is_valid(folder: Path) -> None:
    assert validate(folder) == []


def test_committed_weights_have_a_card_of_their_recorded_run() -> None:
    runs = [run for run in results.all_runs(page.RESULTS) if (run.folder / cards.CARD).exists()]
    assert {run.run["preset"] for run in runs} >= {"cpu", "plus"}
    for run in runs:
        text = (run.folder / cards.CARD).read_text(encoding="utf-8")
        assert text == cards.card(run) and run.run["commit"] in text


def test_a_card_of_somebody_else_is_kept(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cards, "_record", lambda run: f"- commit: {run['commit']}")
    own = record(tmp_path, dataset) / cards.CARD
    own.with_name("model.safetensors").touch()
    own.with_name("model.json").write_text("{}")
    assert cards.write_cards(tmp_path) == [own]
    with pytest.raises(ConfigError, match="exists already"):
        cards.write_cards(tmp_path)
    assert cards.write_cards(tmp_path, replace=True) == [own]
    own.write_text("a user's")
    with pytest.raises(ConfigError, match="was not written by this program"):
        cards.write_cards(tmp_path, replace=True)
    assert own.read_text() == "a user's"


def test_written_run_is_valid_and_reads_back(tmp_path: Path, dataset: Dataset) -> None:
    folder = record(tmp_path, dataset, seed=3)
    assert folder == tmp_path / "own/copy/paper/seed-3"
    assert validate(folder) == []
    run = results.read_run(folder)
    assert run.run["dataset"] == {"name": "own", "fold": None, "hash": dataset.hash()}
    assert run.run["threads"] >= 1
    assert run.run["peak_memory_bytes"] > 1e7
    assert {"nesf", "python", "torch", "numpy", "pymatgen"} <= set(run.run["versions"])
    assert tuple(run.metrics["test"])[: len(HEADLINE)] == HEADLINE
    assert run.metrics["test"]["position_error_actual_angstrom"] == pytest.approx(0.1)
    materials = run.materials()
    assert tuple(materials.columns) == results.MATERIAL_COLUMNS
    assert materials["position_error_actual_angstrom"].tolist() == pytest.approx([0.1, 0.1])
    assert materials["matched"].all()


def test_material_whose_formula_or_id_looks_like_something_else_survives(tmp_path: Path) -> None:
    salt = Crystals.from_arrays(
        ["007", "1e5"],
        [np.array([[0, 0, 0], [2, 2, 2.0]])] * 2,
        [[11, 7]] * 2,
        np.tile(np.diag([4.0] * 3), (2, 1, 1)),
    )
    results.write_metrics(tmp_path, {"val": evaluate(salt, salt, match=False)})
    run = results.RecordedRun(tmp_path, {}, {})
    assert run.materials()["formula"].tolist() == ["NaN", "NaN"]  # sodium nitride 1:1 is text
    assert run.materials()["id"].tolist() == ["007", "1e5"]


def test_nothing_detected_stays_visible(tmp_path: Path, dataset: Dataset) -> None:
    folder = record(tmp_path, dataset, lost=True)
    assert validate(folder) == []
    assert "NaN" not in (folder / "metrics.json").read_text()
    table = paper.table(results.all_runs(tmp_path))
    assert set(table["note"]) == {"nothing detected in 1 of 2"}


def test_fold_names_the_folder(tmp_path: Path, dataset: Dataset) -> None:
    folder = record(tmp_path, Dataset("ybco", dataset.splits, fold=12))
    assert folder.name == "fold-12"
    assert validate(folder) == []


def test_update_keeps_the_rest(tmp_path: Path, dataset: Dataset) -> None:
    folder = record(tmp_path, dataset)
    before = results.read_run(folder).run
    results.update_run(folder, {"wall_time_seconds": {"train": 60.0, "evaluate": 2.5}})
    after = results.read_run(folder).run
    assert results.seconds(after) == 62.5
    assert {k for k in before if before[k] != after[k]} == {"wall_time_seconds"}


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "run.json").unlink(), "run.json: no such file"),
        (lambda f: (f / "metrics.json").write_text('{"test": {'), "metrics.json: is not JSON"),
        (lambda f: (f / "materials.csv").unlink(), r"materials.csv: columns are \[\]"),
        (
            lambda f: change_json(f / "run.json", method="guess"),
            r"run.json: \$.method: 'guess' is not one of",
        ),
        (lambda f: change_json(f / "run.json", seed=4), "belongs into own/copy/paper/seed-4"),
        (lambda f: change_json(f / "run.json", threads=0), r"run.json: \$.threads: 0 is less than"),
        (lambda f: change_json(f / "run.json", commit="main"), r"run.json: \$.commit"),
        (lambda f: change_json(f / "metrics.json", holdout={}), "metrics.json: .*holdout"),
        (
            lambda f: change_json(f / "metrics.json", test={"n_materials": 2}),
            "'match_rmse' is a required property",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"weights"),
            "model.safetensors: does not have the SHA-256",
        ),
        (
            lambda f: (f / "materials.csv").write_text(
                "".join((f / "materials.csv").read_text().splitlines(True)[:2])
            ),
            "1 rows of split test, metrics.json says 2",
        ),
        (
            lambda f: (f / "materials.csv").write_text(
                (f / "materials.csv").read_text().replace("test,e,", "test,d,")
            ),
            "stands in it twice",
        ),
        (
            lambda f: (f / "materials.csv").write_text(
                (f / "materials.csv").read_text().replace("NaN,2,2,", "NaN,2,0,")
            ),
            "have no detected atom",
        ),
        (
            lambda f: change_json(f / "run.json", wall_time_seconds=float("nan")),
            "run.json: is not JSON .holds NaN",
        ),
        (lambda f: change_json(f / "run.json", method="nesf"), r"log.csv: columns are \[\]"),
    ],
)
def test_broken_run_is_reported(tmp_path: Path, dataset: Dataset, damage: Any, said: str) -> None:
    folder = record(tmp_path, dataset)
    damage(folder)
    problems = validate(folder)
    assert any(re.search(said, p) for p in problems), problems


def test_broken_content_is_never_written(tmp_path: Path, dataset: Dataset) -> None:
    schema = json.loads((REPOSITORY / "nesf/schema/run.json").read_text())
    assert set(schema["properties"]["method"]["enum"]) == set(METHODS)
    with pytest.raises(DataError, match=r"method: 'guess' is not one of.*nothing was written"):
        record(tmp_path, dataset, method="guess")
    assert not list(tmp_path.rglob("run.json"))


def test_checkpoint_is_hashed(tmp_path: Path, dataset: Dataset) -> None:
    folder = run_folder(tmp_path, "own", "copy", "paper", seed=0)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    record(tmp_path, dataset)
    assert validate(folder) == []
    (folder / "model.safetensors").unlink()  # only one seed keeps its weights in the repository
    assert validate(folder) == []


def test_table_gives_mean_deviation_and_number_of_runs(tmp_path: Path, dataset: Dataset) -> None:
    for seed, shift in enumerate((0.1, 0.2, 0.3)):
        record(tmp_path, dataset, seed=seed, shift=shift)
    record(tmp_path, dataset, method="oracle", shift=0.0)
    table = paper.table(results.all_runs(tmp_path)).set_index(["method", "metric"])
    row = table.loc["copy", "position_error_actual_angstrom"]
    assert (row["mean"], row["std"], row["n"], row["text"]) == (
        pytest.approx(0.2),
        pytest.approx(0.1),
        3,
        "0.2000 ± 0.1000",
    )
    assert table.loc[("oracle", "position_error_actual_angstrom"), "text"] == "0.0000"
    assert len(paper.table([])) == len(paper.table(results.all_runs(tmp_path), split="val")) == 0


def test_runs_come_in_natural_order(tmp_path: Path, dataset: Dataset) -> None:
    for fold in (10, 2, 0):
        record(tmp_path, Dataset("ybco", dataset.splits, fold=fold))
    assert [run.folder.name for run in results.all_runs(tmp_path)] == [
        "fold-0",
        "fold-2",
        "fold-10",
    ]
    assert results.all_runs(tmp_path / "nowhere") == []


def test_paper_numbers() -> None:
    table = paper.paper_table()
    assert tuple(table.columns) == paper.TABLE_COLUMNS
    assert len(table) == 3 * 7 * 6  # three tables, seven metrics, two methods on three datasets
    assert not table.duplicated(["source", "dataset", "method", "metric"]).any()
    cell = table.set_index(["dataset", "method", "split", "metric"])
    nesf = cell.loc["lcs6", "nesf", "test", "position_error_actual_angstrom"]
    assert (nesf["mean"], nesf["std"], nesf["n"]) == (0.1161, 0.0073, 10)
    assert cell.loc[("ybco", "icsg3d", "val", "number_of_atoms_error_percent"), "mean"] == 95.45
    assert (
        cell.loc[("icsg3d", "icsg3d", "train", "species_error_detected_percent"), "text"]
        == "63.96 ± 1.81"
    )
    bracketed = cell.loc["ybco", "icsg3d", "test", "position_error_actual_angstrom"]
    assert (bracketed["mean"], bracketed["text"]) == (0.6311, "(0.6311)")
    assert np.isnan(bracketed["std"])
    assert "44 of 100" in bracketed["note"]


def test_command_line_names_no_folder_of_this_machine() -> None:
    line = results.command_line(
        [
            "train",
            "lcs6",
            "--mirror",
            "/some/where/release",
            "--out=/elsewhere/x",
            "--set",
            "training.epochs=3",
            "results/lcs6",
        ]
    )
    assert line == "nesf train lcs6 --mirror release --out=x --set training.epochs=3 results/lcs6"


def test_commit_is_of_this_clone_or_unknown() -> None:
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", results.commit())
