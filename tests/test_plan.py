"""What a workflow has to do: runs from entries, and whether a recorded run is the one that is asked
for."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nesf import records as results
from nesf.config import CPU, Config, ConfigBase, ReconstructionConfig, for_dataset, preset
from nesf.crystals import Crystals
from nesf.data.dataset import Dataset, save_dataset
from nesf.data.official import OFFICIAL
from nesf.files import write_json
from nesf.metrics import evaluate
from nesf.runs import Run
from nesf.training import LOG_COLUMNS
from nesf_io.errors import ConfigError
from nesf_studies import checksums, paper
from scripts.validate_results import validate
from workflow import plan


def crystals(*ids: str, a: float = 4.0) -> Crystals:
    atoms = np.array([[0, 0, 0], [2, 2, 2]], float)
    return Crystals.from_arrays(
        ids, [atoms] * len(ids), [[11, 7]] * len(ids), np.tile(np.diag([a] * 3), (len(ids), 1, 1))
    )


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    made = Dataset(
        "own", {"train": crystals("a", "b"), "val": crystals("c"), "test": crystals("d", "e")}
    )
    save_dataset(made, tmp_path / "data" / "own")
    return made


def record(root: Path, dataset: Dataset, run: Run) -> Path:
    """As the pipeline leaves it, without having trained."""
    folder = root / run.name
    results.write_metrics(
        folder, {s: evaluate(dataset.splits[s], dataset.splits[s]) for s in run.splits}
    )
    decoding = json.loads(json.dumps(dataclasses.asdict(ReconstructionConfig())))
    nesf = run.method == "nesf"
    if nesf:
        (folder / "log.csv").write_text(",".join(LOG_COLUMNS) + "\n")
    further: dict[str, Any] = {"reconstruction": decoding} if nesf else {}
    asked = run.config()
    config = {"reconstruction": decoding}
    if nesf:
        config = asked.with_values({"model.n_species": 2, "training.precision": "bf16"}).to_dict()
    common = {
        "method": run.method,
        "preset": run.label or run.preset,
        "seed": run.seed,
        "command": "nesf",
        "wall_time_seconds": 1.0,
    }
    results.write_run(folder, dataset, {"config": config, **common, **further})
    return folder


def test_entries_become_runs() -> None:
    runs = plan.planned_runs(
        [
            {"dataset": "ybco", "splits": ["test", "train"]},
            {"dataset": "lcs6", "preset": "paper", "seeds": 3},
            {
                "dataset": "lcs6",
                "seeds": [4],
                "label": "trial-x",
                "set": {"model.dropout": 0.1, "training.schedule": "step"},
            },
            {"dataset": "lcs6", "method": "oracle"},
            {"dataset": "lcs6", "label": "cpu-consistent", "decode": {"mode": "consistent"}},
        ]
    )
    names = [run.name for run in runs]
    assert names[:20] == [f"ybco/nesf/cpu/fold-{k}" for k in range(20)] and runs[0].splits == (
        "train",
        "test",
    )
    assert names[20:] == [
        *(f"lcs6/nesf/paper/seed-{k}" for k in range(3)),
        "lcs6/nesf/trial-x/seed-4",
        "lcs6/oracle/default/seed-0",
        "lcs6/nesf/cpu-consistent/seed-0",
    ]
    decoded = runs[25]
    assert decoded.weights.name == "lcs6/nesf/cpu/seed-0" and decoded.weights.decode == ()
    assert decoded.decoding()["mode"] == "consistent" and runs[24].weights == runs[24]
    changed = runs[23].config()
    assert isinstance(changed, Config) and (
        changed.preset,
        changed.model.dropout,
        changed.training.schedule,
    ) == ("trial-x", 0.1, "step")
    assert runs[23].options() == [
        "--seed", "4", "--preset", "cpu", "--set", "model.dropout=0.1", "--set", "training.schedule=step", "--label", "trial-x",
    ]  # fmt: skip
    assert runs[3].packed == "ybco/fold-3" and runs[3].options()[:2] == ["--fold", "3"]
    assert runs[24].options() == ["--method", "oracle"]


def test_entries_of_the_voxel_baseline() -> None:
    runs = plan.planned_runs(
        [
            {"dataset": "lcs6", "method": "icsg3d", "preset": "repaired", "seeds": 1},
            {"dataset": "lcs6", "method": "icsg3d-oracle", "preset": "repaired"},
            {
                "dataset": "lcs6",
                "method": "icsg3d-oracle",
                "set": {"voxels.label_frac": 0.5},
                "label": "label-frac-0.50",
            },
            {"dataset": "ybco", "method": "icsg3d", "preset": "as-published", "folds": [3]},
        ]
    )
    names = [
        "lcs6/icsg3d/repaired/seed-0",
        "lcs6/icsg3d-oracle/repaired/seed-0",
        "lcs6/icsg3d-oracle/label-frac-0.50/seed-0",
    ]
    assert [run.name for run in runs] == [*names, "ybco/icsg3d/as-published/fold-3"]
    assert runs[0].options() == ["--method", "icsg3d", "--seed", "0", "--preset", "repaired"]
    assert runs[2].options() == [
        "--method",
        "icsg3d-oracle",
        "--preset",
        "repaired",
        "--set",
        "voxels.label_frac=0.5",
        "--label",
        "label-frac-0.50",
    ]
    assert (
        runs[0].decoding()["sample_latent"] is False and runs[3].decoding()["sample_latent"] is True
    )
    keys = [plan.stage_key(run, "training", Path("nowhere")) for run in runs]
    assert len(set(keys)) == 4 and '"label_frac": 0.5' in keys[2]


def test_content_decides_what_is_missing_of_the_voxel_baseline(
    tmp_path: Path, dataset: Dataset
) -> None:
    changes: dict[str, Any] = {"set": {"unet.width": 2}, "label": "narrow"}
    run, oracle = plan.planned_runs(
        [
            {"dataset": "own", "method": "icsg3d", **changes},
            {"dataset": "own", "method": "icsg3d-oracle", "preset": "as-published"},
        ]
    )
    folder = tmp_path / run.name
    results.write_metrics(
        folder, {s: evaluate(dataset.splits[s], dataset.splits[s]) for s in run.splits}
    )
    config = run.config()
    assert isinstance(config, ConfigBase)
    common: dict[str, Any] = {"seed": 0, "command": "nesf", "wall_time_seconds": 1.0}
    recorded = config.with_values({"training.precision": "bf16"}).to_dict()
    about = {
        "method": "icsg3d",
        "preset": "narrow",
        "config": recorded,
        "reconstruction": run.decoding(),
    }
    results.write_run(folder, dataset, about | common)
    assert run.missing(tmp_path, tmp_path / "data") == "nothing"  # the precision is the machine's
    results.update_run(folder, {"reconstruction": run.decoding() | {"binary_threshold": 0.5}})
    assert run.missing(tmp_path, tmp_path / "data") == "decoding"
    results.update_run(folder, {"config": config.with_values({"unet.width": 4}).to_dict()})
    assert run.missing(tmp_path, tmp_path / "data") == "everything"

    assert oracle.missing(tmp_path, tmp_path / "data") == "everything"
    asked = oracle.config().to_dict()
    results.write_metrics(
        tmp_path / oracle.name,
        {s: evaluate(dataset.splits[s], dataset.splits[s]) for s in run.splits},
    )
    results.write_run(
        tmp_path / oracle.name,
        dataset,
        {"method": "icsg3d-oracle", "preset": "as-published", "config": asked, **common},
    )
    assert oracle.missing(tmp_path, tmp_path / "data") == "nothing"
    results.update_run(
        tmp_path / oracle.name,
        {"config": asked | {"voxels": asked["voxels"] | {"label_frac": 0.5}}},
    )
    assert oracle.missing(tmp_path, tmp_path / "data") == "everything"


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"preset": "cpu"}, "dataset"),
        ({"dataset": "lcs6", "seed": 1}, "'seed'"),
        ({"dataset": "lcs6", "folds": 2}, "no folds"),
        ({"dataset": "ybco", "seeds": 2}, "has folds"),
        ({"dataset": "ybco", "folds": [20]}, "from 0 to 19"),
        ({"dataset": "lcs6", "seeds": 0}, "how many"),
        ({"dataset": "lcs6", "method": "magic"}, "'magic'"),
        ({"dataset": "lcs6", "method": "icsg3d", "preset": "cpu"}, "'cpu'"),
        (
            {"dataset": "lcs6", "method": "icsg3d-oracle", "label": "x", "set": {"unet.width": 2}},
            "unet.width",
        ),
        ({"dataset": "lcs6", "preset": "best"}, "'best'"),
        ({"dataset": "lcs6", "set": {"model.dropout": 0.1}}, "label"),
        ({"dataset": "lcs6", "label": "x", "set": {"model.drop": 0.1}}, "model.drop"),
        ({"dataset": "lcs6", "decode": {"mode": "fast"}}, "label"),
        ({"dataset": "lcs6", "label": "x", "decode": {"mode": "slow"}}, "'slow'"),
        (
            {
                "dataset": "lcs6",
                "label": "x",
                "decode": {"mode": "fast"},
                "set": {"model.dropout": 0.1},
            },
            "changes nothing else",
        ),
        ({"dataset": "lcs6", "label": "a/b"}, "'a/b'"),
        ({"dataset": "lcs6", "splits": ["all"]}, "splits"),
    ],
)
def test_a_wrong_entry_is_named(entry: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        plan.planned_runs([entry])


def test_analyses_are_planned_and_known_when_recorded(tmp_path: Path) -> None:
    run = "few/nesf/cpu/seed-0"
    asked = plan.planned_analyses(
        [
            {"run": run, "names": ["examples", "sensitivity"]},
            {"run": run, "names": ["decoding"], "set": {"only": "fast", "seed": 1}},
        ]
    )
    assert [a.name for a in asked] == [
        f"{run}/analysis/{name}" for name in ("examples", "sensitivity", "decoding")
    ]
    assert (
        asked[2].options() == ["--set", "only=fast", "--set", "seed=1"] and "fast" in asked[2].key()
    )
    described = {"dataset": {"name": "few", "hash": "a"}, "config": {"preset": "cpu"}}
    about = {
        "model": {"dataset": {"name": "few", "hash": "a"}, "preset": "cpu"},
        "parameters": {"only": "fast", "seed": 1, "split": "val"},
    }
    folder = tmp_path / run / "analysis" / "decoding"
    assert not plan.is_analysed(asked[2], tmp_path)
    for value, (first, second) in {
        True: (about, described),
        False: (about | {"parameters": {"only": "", "seed": 1}}, described),
    }.items():
        write_json(folder / "analysis.json", first)
        write_json(tmp_path / run / "run.json", second)
        assert plan.is_analysed(asked[2], tmp_path) is value
    write_json(folder / "analysis.json", about)
    # another model since
    write_json(tmp_path / run / "run.json", described | {"dataset": {"name": "few", "hash": "b"}})
    assert not plan.is_analysed(asked[2], tmp_path)


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"run": "few/nesf/cpu/seed-0"}, "a list of `names`"),
        (
            {"run": "few/nesf/cpu/seed-0", "names": ["beauty"]},
            "'beauty' does not exist; choose from examples",
        ),
        ({"run": "few", "names": ["examples"]}, "'few': DATASET/METHOD/PRESET/seed-N"),
        ({"run": "few/nesf/cpu/seed-0", "names": ["examples"], "seed": 1}, "'seed' is not known"),
        ({"run": "few/nesf/cpu/seed-0", "names": ["examples", "examples"]}, "is asked for twice"),
    ],
)
def test_a_wrong_analysis_is_named(entry: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)):
        plan.planned_analyses([entry])


def test_the_same_folder_twice_is_refused() -> None:
    same = {"dataset": "lcs6", "seeds": 2}
    assert len(plan.planned_runs([same, same])) == 2
    with pytest.raises(ConfigError, match="twice"):
        plan.planned_runs([same, {"dataset": "lcs6", "splits": ["train"]}])


def test_content_decides_what_is_missing(tmp_path: Path, dataset: Dataset) -> None:
    entry = {"dataset": "own", "label": "mine"}
    (run,) = plan.planned_runs([entry])
    root, data = tmp_path / "results", tmp_path / "data"

    def missing(asked: Run = run) -> str:
        return asked.missing(root, data)

    assert missing() == "everything"
    folder = record(root, dataset, run)
    assert validate(folder) == [] and missing() == "nothing"
    assert missing(plan.planned_runs([entry | {"splits": ["train", "val"]}])[0]) == "decoding"
    (changed,) = plan.planned_runs([entry | {"set": {"model.dropout": 0.2}}])
    assert changed.name == run.name and missing(changed) == "everything"

    (folder / "materials.csv").rename(tmp_path / "kept")
    assert missing() == "decoding"
    (tmp_path / "kept").rename(folder / "materials.csv")

    good = (folder / "run.json").read_text()
    for change, stage in (
        ({"seed": 1}, "everything"),
        ({"finished": False}, "everything"),
        ({"dataset": {"name": "own", "fold": None, "hash": "0" * 64}}, "everything"),
        ({"config": {"model": {"width": 3}}}, "everything"),
        ({"reconstruction": {"nms_radius": 0.4}}, "decoding"),
    ):
        (folder / "run.json").write_text(json.dumps(json.loads(good) | change))
        assert missing() == stage, change
    (folder / "run.json").write_text("{")
    assert missing() == "everything"
    (folder / "run.json").write_text(good)
    assert missing() == "nothing"

    save_dataset(
        Dataset("own", {**dataset.splits, "train": crystals("a", "b", a=5.0)}),
        data / "own",
        replace=True,
    )
    assert missing() == "everything"
    shutil.rmtree(data)
    assert missing() == "nothing"  # without the data, the record stands


def test_an_oracle_depends_on_the_decoding_and_a_copy_does_not(
    tmp_path: Path, dataset: Dataset
) -> None:
    for run in plan.planned_runs(
        [{"dataset": "own", "method": "oracle"}, {"dataset": "own", "method": "copy"}]
    ):
        folder = record(tmp_path, dataset, run)
        assert run.missing(tmp_path, tmp_path / "data") == "nothing"
        recorded = json.loads((folder / "run.json").read_text())
        recorded["config"]["reconstruction"]["iterations"] = 3
        (folder / "run.json").write_text(json.dumps(recorded))
        assert run.missing(tmp_path, tmp_path / "data") == (
            "everything" if run.method == "oracle" else "nothing"
        )


def test_key_changes_with_what_decides_and_its_file_only_then(
    tmp_path: Path, dataset: Dataset
) -> None:
    data = tmp_path / "data"
    (run,) = plan.planned_runs([{"dataset": "own"}])
    (other,) = plan.planned_runs([{"dataset": "own", "splits": ["test"]}])
    assert (
        plan.stage_key(run, "training", data)
        == plan.stage_key(other, "training", data)
        != plan.stage_key(run, "training", tmp_path)
    )
    assert plan.stage_key(run, "decoding", data) != plan.stage_key(other, "decoding", data)
    path = plan.write_key(tmp_path / "keys" / "k", plan.stage_key(run, "training", data))
    before = path.stat().st_mtime_ns
    assert plan.write_key(path, plan.stage_key(run, "training", data)).stat().st_mtime_ns == before
    assert plan.write_key(path, "else").stat().st_mtime_ns > before


def test_table_and_checksums_are_made_of_what_is_published(
    tmp_path: Path, dataset: Dataset
) -> None:
    runs = plan.planned_runs([{"dataset": "own", "seeds": 2}, {"dataset": "own", "method": "copy"}])
    folders = [record(tmp_path, dataset, run) for run in runs]
    for folder in folders[:2]:
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "checkpoint.json").write_text("{}")
        (folder / "reconstruction" / "val").mkdir(parents=True)
        (folder / "reconstruction" / "val" / "summary.json").write_text("{}")
    assert checksums.state_of(tmp_path)[1] is False
    paper.write_table(tmp_path)
    listed = [line.split("  ")[1] for line in (tmp_path / checksums.SUMS).read_text().splitlines()]
    assert (
        "own/nesf/cpu/seed-0/model.safetensors" in listed
        and "own/nesf/cpu/seed-1/model.safetensors" not in listed
    )
    assert "table1.csv" in listed and not [
        name for name in listed if "checkpoint" in name or "reconstruction" in name
    ]
    assert checksums.state_of(tmp_path)[1] is True
    assert (
        subprocess.run(["sha256sum", "--check", "--quiet", checksums.SUMS], cwd=tmp_path).returncode
        == 0
    )

    table = paper.compared(results.all_runs(tmp_path))
    assert set(table["n"]) == {1, 2} and table["paper_mean"].isna().all()
    (folders[2] / "metrics.json").write_text((folders[2] / "metrics.json").read_text() + " ")
    assert checksums.state_of(tmp_path)[1] is False


def test_comparison_with_the_paper_is_in_its_standard_deviations(
    tmp_path: Path, dataset: Dataset
) -> None:
    for seed, error in ((0, 6.0), (1, 8.0)):
        (run,) = plan.planned_runs([{"dataset": "own", "seeds": [seed], "splits": ["test"]}])
        folder = record(tmp_path, dataset, run)
        recorded, metrics = (
            json.loads((folder / "run.json").read_text()),
            json.loads((folder / "metrics.json").read_text()),
        )
        recorded["dataset"]["name"] = "lcs6"
        metrics["test"]["number_of_atoms_error_percent"] = error
        (folder / "run.json").write_text(json.dumps(recorded))
        (folder / "metrics.json").write_text(json.dumps(metrics))
    row = (
        paper.compared(results.all_runs(tmp_path))
        .query("metric == 'number_of_atoms_error_percent'")
        .iloc[0]
    )
    assert (row["mean"], row["n"], row["paper_mean"], row["paper_std"]) == (7.0, 2, 6.35, 0.5)
    assert row["sigma"] == pytest.approx((7.0 - 6.35) / 0.5) and row["std"] == pytest.approx(2**0.5)


def test_presets_on_a_dataset() -> None:
    assert for_dataset(CPU, "lcs6") == CPU
    assert not for_dataset(preset("paper"), "ybco").training.early_stopping  # Section 4.3
    assert for_dataset(preset("paper"), "ybco").training.epochs == preset("paper").training.epochs
    assert for_dataset(CPU, "ybco").model.dropout == 0.3


def test_names_are_those_of_the_data() -> None:
    assert set(plan.FETCHED) == set(OFFICIAL)
