"""The workflow as a whole: it makes what is missing and nothing else, goes on after kills and
failures, and its cluster profiles plan the paper's runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from nesf.data import load
from nesf.data.dataset import Dataset, save_dataset
from nesf_cli.main import main
from scripts.validate_results import validate

ROOT = Path(__file__).parents[1]
TINY = {
    "model.encoder_mix": [32], "model.encoder_latent": [32], "model.latent_size": 16, "model.decoder_position": [32, 32], "model.decoder_species": [32],
    "training.compile": False, "training.epochs": 3, "training.batch_size": 10, "sampling.n_position": 16, "sampling.n_species": 8,
}  # fmt: skip
EXPLODING = TINY | {"training.learning_rate": 1e30}


@dataclass
class Place:
    """A folder with data, results and a configuration of its own."""

    folder: Path

    def snakemake(
        self, *arguments: str, config: dict[str, object] | None = None, profile: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        file = self.folder / "asked.yaml"
        file.write_text(
            yaml.safe_dump(
                {
                    "results": "results",
                    "data": "data",
                    "build": "build",
                    "analyses": [],
                    **(config or {}),
                }
            )
        )
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT / "workflow" / "plugins"), os.environ.get("PYTHONPATH", "")]
            ),
        }
        profiles = (
            ["--profile", str(ROOT / "workflow" / "profiles" / profile)]
            if profile
            else ["--cores", "2"]
        )
        files = [
            "--configfile",
            *([str(ROOT / "workflow" / "cluster.yaml")] if profile else []),
            str(file),
        ]
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--snakefile",
            str(ROOT / "workflow" / "Snakefile"),
            "--directory",
            str(self.folder),
        ]
        return subprocess.run(
            [*command, *arguments, *profiles, *files],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def plan(
        self, config: dict[str, object] | None = None, target: str = "table1"
    ) -> dict[str, int]:
        """Jobs of a dry run by rule, without the target itself; {} when there is nothing to do."""
        return jobs(self.snakemake("--dry-run", target, config=config))


def jobs(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    if "Nothing to be done" in output:
        return {}
    table = output.split("Job stats:")[1].split("total")[0]
    return {
        rule: int(n)
        for rule, n in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)
        if rule not in ("table1", "analyses")
    }


CONFIG: dict[str, object] = {
    "runs": [{"dataset": "few", "label": "tiny", "set": TINY}],
    "predictors": [{"dataset": "few", "method": "copy"}],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """After a first call in which one run fails and another had been stopped half-way, and a second
    one without the failing run."""
    place = Place(tmp_path_factory.mktemp("workflow"))
    starter = load("starter")
    splits = {
        name: starter.splits[name].select(range(n))
        for name, n in (("train", 20), ("val", 3), ("test", 3))
    }
    save_dataset(Dataset("few", splits), place.folder / "data" / "few")

    folder = place.folder / "results/few/nesf/tiny/seed-0"
    options = [
        word for key, value in TINY.items() for word in ("--set", f"{key}={json.dumps(value)}")
    ]
    stopped = [
        "--out",
        str(folder),
        "--data",
        str(place.folder / "data"),
        "--label",
        "tiny",
        "--max-minutes",
        "0",
    ]
    assert main(["train", "few", "--preset", "cpu", *options, *stopped]) == 0
    started = json.loads((folder / "run.json").read_text())
    assert not started["finished"]

    failing = {
        **CONFIG,
        "runs": [*CONFIG["runs"], {"dataset": "few", "label": "exploding", "set": EXPLODING}],
    }  # type: ignore[misc]
    first = place.snakemake("table1", config=failing)
    assert first.returncode != 0 and not (place.folder / "results" / "table1.csv").exists()
    assert "nesf: error: " in first.stderr and "learning_rate" in first.stderr + first.stdout, (
        first.stderr
    )
    # the others were finished
    assert (place.folder / "results/few/copy/default/seed-0/metrics.json").exists()
    run = json.loads((folder / "run.json").read_text())
    # it went on from the checkpoint
    assert run["finished"] and run["started"] == started["started"]
    shutil.rmtree(place.folder / "results/few/nesf/exploding", ignore_errors=True)
    assert place.plan(CONFIG) == {"aggregate": 1}
    assert place.snakemake("table1", config=CONFIG).returncode == 0
    return place


def test_it_records_valid_runs_with_the_commands_of_their_stages(place: Place) -> None:
    folder = place.folder / "results/few/nesf/tiny/seed-0"
    assert validate(folder) == []
    stages = json.loads((folder / "run.json").read_text())["stages"]
    assert set(stages) == {"reconstruct val", "reconstruct test", "evaluate"}
    assert (
        stages["reconstruct val"]["command"].startswith("nesf reconstruct ")
        and "--split val" in stages["reconstruct val"]["command"]
    )
    assert "tiny" in (place.folder / "results" / "table1.csv").read_text()


def test_recorded_runs_are_not_run_again_in_a_clone_either(place: Place, tmp_path: Path) -> None:
    assert place.plan(CONFIG) == {}
    kept = shutil.ignore_patterns("checkpoint*", "reconstruction", "model.*")
    shutil.copytree(
        place.folder / "results", tmp_path / "results", ignore=kept, copy_function=shutil.copyfile
    )
    results = sorted(p for p in (tmp_path / "results").rglob("*") if p.is_file())
    for i, path in enumerate(reversed(results)):
        os.utime(path, (1e9 + i, 1e9 + i))  # dates in no sensible order
    (tmp_path / "results" / "SHA256SUMS").unlink()
    # the weights of seed 0 are missing here, so the checksums are others
    assert Place(tmp_path).plan(CONFIG) == {"aggregate": 1}


def test_a_deleted_run_is_all_that_is_run_again(place: Place) -> None:
    folder = place.folder / "results/few/copy/default/seed-0"
    folder.rename(place.folder / "kept")
    try:
        assert place.plan(CONFIG) == {"predict": 1, "aggregate": 1}
    finally:
        (place.folder / "kept").rename(folder)
    assert place.plan(CONFIG) == {}


def test_an_edited_table_is_made_again(place: Place) -> None:
    path = place.folder / "results" / "table1.csv"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"few", b"many", 1))
    assert place.plan(CONFIG) == {"aggregate": 1}
    path.write_bytes(content)


def test_more_splits_are_decoded_without_training(place: Place) -> None:
    entry = {"dataset": "few", "label": "tiny", "set": TINY, "splits": ["train", "val", "test"]}
    assert place.plan({**CONFIG, "runs": [entry]}) == {
        "reconstruct": 3,
        "evaluate": 1,
        "aggregate": 1,
    }


def test_analyses_of_a_recorded_run_are_made_once(place: Place) -> None:
    entry = {"run": "few/nesf/tiny/seed-0", "names": ["examples"], "set": {"mode": "fast"}}
    config = {**CONFIG, "analyses": [entry]}
    assert place.plan(config, "analyses") == {"analyse": 1}
    made = place.snakemake("analyses", config=config)
    assert made.returncode == 0, made.stderr
    about = json.loads(
        (place.folder / "results/few/nesf/tiny/seed-0/analysis/examples/analysis.json").read_text()
    )
    assert about["parameters"]["mode"] == "fast" and about["command"].startswith(
        "nesf analyse examples results/few/nesf/tiny/seed-0"
    )
    assert place.plan(config, "analyses") == {}
    assert place.plan(
        {**CONFIG, "analyses": [{**entry, "set": {"mode": "exact"}}]}, "analyses"
    ) == {"analyse": 1}
    shutil.rmtree(place.folder / "results/few/nesf/tiny/seed-0/analysis")


def test_a_changed_recipe_or_dataset_is_run_again(place: Place, tmp_path: Path) -> None:
    changed = {"dataset": "few", "label": "tiny", "set": TINY | {"training.epochs": 4}}
    assert place.plan({**CONFIG, "runs": [changed]}) == {
        "train": 1,
        "reconstruct": 2,
        "evaluate": 1,
        "aggregate": 1,
    }
    data = place.folder / "data" / "few"
    shutil.copytree(data, tmp_path / "few")
    try:
        starter = load("starter")
        save_dataset(
            Dataset(
                "few",
                {name: starter.splits[name].select(range(4)) for name in ("train", "val", "test")},
            ),
            data,
            replace=True,
        )
        assert place.plan(CONFIG) == {
            "train": 1,
            "reconstruct": 2,
            "evaluate": 1,
            "predict": 1,
            "aggregate": 1,
        }
    finally:
        shutil.rmtree(data)
        shutil.copytree(tmp_path / "few", data)
    assert place.plan(CONFIG) == {}


def test_mistakes_end_in_one_sentence(tmp_path: Path) -> None:
    place = Place(tmp_path)
    wrong = place.snakemake("-n", "table1", config={"runs": [{"dataset": "lcs6", "seed": 3}]})
    assert wrong.returncode != 0 and "'seed' is not known" in wrong.stdout + wrong.stderr
    absent = place.snakemake(
        "-n", "table1", config={"runs": [{"dataset": "mine"}], "predictors": []}
    )
    assert (
        absent.returncode != 0
        and "nesf data import PATH --name mine" in absent.stdout + absent.stderr
    )


def test_the_voxel_baseline_is_planned_as_other_methods_are_and_embedded_data_is_not_fetched(
    tmp_path: Path,
) -> None:
    runs = [{"dataset": "lcs6", "method": "icsg3d", "preset": "repaired", "seeds": 1}]
    narrow = {"set": {"voxels.label_frac": 0.5}, "label": "label-frac-0.50"}
    predictors = [
        {"dataset": "lcs6", "method": "icsg3d-oracle", "preset": "repaired"},
        {"dataset": "lcs6", "method": "icsg3d-oracle", **narrow},
    ]
    asked = {"fetch": 1, "train": 1, "reconstruct": 2, "evaluate": 1, "predict": 2, "aggregate": 1}
    assert Place(tmp_path).plan({"runs": runs, "predictors": predictors}) == asked
    starter = {
        "runs": [{"dataset": "starter", "preset": "cpu"}],
        "predictors": [{"dataset": "starter", "method": "copy"}],
    }
    asked = {"train": 1, "reconstruct": 2, "evaluate": 1, "predict": 1, "aggregate": 1}
    (tmp_path / "embedded").mkdir()
    assert Place(tmp_path / "embedded").plan(starter) == asked


@pytest.mark.parametrize("profile", ["slurm", "kubernetes", "gpu"])
def test_cluster_profiles_plan_the_papers_runs(profile: str, tmp_path: Path) -> None:
    done = Place(tmp_path).snakemake("-n", "table1", config={"predictors": []}, profile=profile)
    planned = jobs(done)
    assert (planned["train"], planned["evaluate"], planned["fetch"], planned["fetch_fold"]) == (
        108,
        108,
        2,
        20,
    )
    assert planned["reconstruct"] == 3 * 80 + 18 + 2 * 10
    resources = dict(
        re.findall(
            r"^rule (\w+):.*?^    resources: ([^\n]*)",
            done.stdout + done.stderr,
            re.MULTILINE | re.DOTALL,
        )
    )
    assert "gpu=1" in resources["train"] and "gpu=1" in resources["reconstruct"]
    assert "gpu" not in resources["evaluate"] and "gpu" not in resources["fetch"]
