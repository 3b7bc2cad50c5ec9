"""The command line as a user meets it: the main job on small data, structures in and out, and every
mistake in one sentence."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from nesf.crystals import Crystals
from nesf.data import load
from nesf.data.dataset import Dataset, save_dataset
from nesf.runs import Run
from nesf_cli.main import main
from scripts.validate_results import validate

TINY = [
    "--set=model.encoder_mix=[32]", "--set=model.encoder_latent=[32]", "--set=model.latent_size=16", "--set=model.decoder_position=[32,32]",
    "--set=model.decoder_species=[32]", "--set=training.compile=false", "--set=training.epochs=2", "--set=sampling.n_position=16", "--set=sampling.n_species=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a dataset `few`: the first crystals of starter."""
    folder = tmp_path_factory.mktemp("data")
    starter = load("starter")
    splits = {
        name: starter.splits[name].select(range(n))
        for name, n in (("train", 20), ("val", 4), ("test", 4))
    }
    save_dataset(Dataset("few", splits), folder / "few")
    return folder


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    """A run of the main job on `few`."""
    folder = data / "results" / "few" / "nesf" / "cpu-changed" / "seed-1"
    assert (
        main(
            [
                "run",
                "few",
                "--data",
                str(data),
                "--seed",
                "1",
                "--out",
                str(folder),
                "--decode",
                "iterations=8",
                *TINY,
            ]
        )
        == 0
    )
    return folder


def test_main_job_leaves_a_valid_recorded_run(run: Path) -> None:
    assert validate(run) == []
    recorded = json.loads((run / "run.json").read_text())
    assert set(recorded["wall_time_seconds"]) == {"train", "reconstruct", "evaluate"}
    assert (
        recorded["config"]["training"]["epochs"] == 2
        and recorded["reconstruction"]["iterations"] == 8
    )
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["n_materials"] == metrics["val"]["n_materials"] == 4
    with open(run / "reconstruction" / "test" / "structures.csv", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == list(
            load("starter").splits["test"].ids[:4]
        )


def test_a_remedy_is_one_that_the_command_has(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.cif").write_text("data_x\n_cell_length_a 4\n")
    bad, out = str(tmp_path / "bad.cif"), str(tmp_path / "out")
    for words, has in (
        (["reconstruct", str(run), bad, "--out", out], True),
        (["interpolate", str(run), bad, bad, "--out", out], False),
        (["evaluate", "--actual", bad, "--detected", bad, "--out", out], False),
        (["view", bad, "--out", f"{out}.png"], False),
    ):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "bad.cif: " in said and "repair or remove it" in said
        assert ("--skip-bad" in said) == has, said
    for words in (["benchmark"], ["analyse", "symmetry"], ["evaluate"]):
        assert main([*words, str(tmp_path / "nix")]) == 2
        assert "no such file; " in capsys.readouterr().err
    for value in ("-1", "nan", "inf"):
        with pytest.raises(SystemExit):
            main(["train", "starter", "--out", out, f"--minutes={value}"])
        assert "not below 0" in capsys.readouterr().err


def test_stages_one_by_one_give_the_same_metrics(run: Path, data: Path, tmp_path: Path) -> None:
    assert (
        main(
            [
                "train",
                "few",
                "--data",
                str(data),
                "--seed",
                "1",
                "--out",
                str(tmp_path / "r"),
                *TINY,
            ]
        )
        == 0
    )
    assert (
        main(["reconstruct", str(tmp_path / "r"), "--data", str(data), "--decode", "iterations=8"])
        == 0
    )
    assert main(["evaluate", str(tmp_path / "r"), "--data", str(data)]) == 0
    assert json.loads((tmp_path / "r" / "metrics.json").read_text()) == json.loads(
        (run / "metrics.json").read_text()
    )


def test_another_decoding_is_recorded_beside_the_run(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "run.json").read_bytes(), (run / "metrics.json").read_bytes()
    words = ["reconstruct", str(run), "--data", str(data), "--split", "val"]
    changes = ["--decode", "iterations=2", "--label"]
    assert main([*words, *changes, "cpu-short"]) == 0
    folder = run.parents[1] / "cpu-short" / "seed-1"
    assert main(["evaluate", str(folder), "--data", str(data)]) == 0
    assert validate(folder) == []
    recorded = json.loads((folder / "run.json").read_text())
    assert recorded["weights"] == "cpu-changed/seed-1" and recorded["preset"] == "cpu-short"
    assert recorded["config"]["decoding"]["iterations"] == 2
    assert recorded["reconstruction"]["iterations"] == 2
    assert before == ((run / "run.json").read_bytes(), (run / "metrics.json").read_bytes())
    asked = Run("few", seed=1, label="cpu-short", decode=(("iterations", "2"),), splits=("val",))
    assert asked.weights.name == "few/nesf/cpu/seed-1"
    other = run.parents[1] / "other" / "seed-1"
    other.mkdir(parents=True)
    (other / "run.json").write_text(json.dumps({"preset": "other"}))
    for label in ("cpu", "cpu-changed", "a/b", "other"):
        assert main([*words, *changes, label]) == 2
        assert label in capsys.readouterr().err
    assert (other / "run.json").read_text() == json.dumps({"preset": "other"})
    shutil.rmtree(other.parent)


def test_own_structures_in_and_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = load("starter").splits["train"].select([0]).to_structures()[0]
    (tmp_path / "in").mkdir()
    known.to(filename=str(tmp_path / "in" / "known.cif"))
    strange = Structure(Lattice.cubic(4.0), ["Og"], [[0, 0, 0]])  # oganesson is in no vocabulary
    strange.to(filename=str(tmp_path / "in" / "strange.cif"))
    command = ["reconstruct", str(run), str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "strange" in capsys.readouterr().err
    assert main([*command, "--skip-bad"]) == 0
    said = capsys.readouterr().out
    assert "left out 1" in said and "strange" in said
    with open(tmp_path / "out" / "structures.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 1


def test_score_any_structures_and_charge_missing_ones(tmp_path: Path) -> None:
    for name, element in (("one", "Na"), ("two", "K")):
        structure = Structure(Lattice.cubic(4.0), [element, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "b").mkdir(exist_ok=True)
        structure.to(filename=str(tmp_path / "a" / f"{name}.cif"))
        if name == "one":
            structure.to(filename=str(tmp_path / "b" / f"{name}.cif"))
    words = ["evaluate", "--actual", str(tmp_path / "a"), "--detected", str(tmp_path / "b")]
    with pytest.warns(UserWarning) as said:
        assert main([*words, "--out", str(tmp_path / "s")]) == 0
    assert len(said) == 1 and "nothing detected: two" in str(said[0].message)
    summary = json.loads((tmp_path / "s" / "metrics.json").read_text())["test"]  # the form of a run
    assert (
        summary["number_of_atoms_error_percent"] == 50
        and summary["species_error_actual_percent"] == 50
        and summary["nothing_detected_ids"] == ["two"]
    )


def test_scores_of_other_structures_never_replace_those_of_a_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "metrics.json").read_bytes()
    words = ["evaluate", "--actual", str(tmp_path), "--detected", str(tmp_path), "--out", str(run)]
    assert main(words) == 2
    assert str(run) in capsys.readouterr().err and (run / "metrics.json").read_bytes() == before


def test_import_audit_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cifs").mkdir()
    for i in range(25):
        Structure(Lattice.cubic(3.5 + 0.02 * i), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]).to(
            filename=str(tmp_path / "cifs" / f"c{i}.cif")
        )
    assert (
        main(["data", "import", str(tmp_path / "cifs"), "--name", "mine", "--data", str(tmp_path)])
        == 0
    )
    assert "train 21, val 2, test 2" in capsys.readouterr().out
    assert main(["data", "list", "--data", str(tmp_path)]) == 0
    assert "mine" in capsys.readouterr().out
    assert (
        main(
            [
                "data",
                "audit",
                "mine",
                "--data",
                str(tmp_path),
                "--json",
                str(tmp_path / "audit.json"),
            ]
        )
        == 0
    )
    assert json.loads((tmp_path / "audit.json").read_text())


def test_oracle_run_is_exact(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "few" / "oracle" / "default" / "seed-0"
    assert (
        main(
            [
                "run",
                "few",
                "--data",
                str(data),
                "--method",
                "oracle",
                "--split",
                "test",
                "--out",
                str(folder),
            ]
        )
        == 0
    )
    assert validate(folder) == []
    summary = json.loads((folder / "metrics.json").read_text())["test"]
    assert (
        summary["number_of_atoms_error_percent"] == 0
        and summary["position_error_actual_angstrom"] < 1e-4
        and summary["match_rate_percent"] == 100
    )


def test_a_changed_preset_is_recorded_under_its_label(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        main(
            [
                "run",
                "few",
                "--data",
                str(data),
                "--label",
                "trial-small",
                "--split",
                "val",
                "--decode",
                "mode=fast",
                *TINY,
            ]
        )
        == 0
    )
    folder = tmp_path / "results" / "few" / "nesf" / "trial-small" / "seed-0"
    assert (
        validate(folder) == []
        and json.loads((folder / "run.json").read_text())["preset"] == "trial-small"
    )
    assert (
        json.loads((folder / "reconstruction" / "val" / "summary.json").read_text())[
            "reconstruction"
        ]["mode"]
        == "fast"
    )


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["run", "nowhere"], ["nowhere", "nesf data import"]),
        (["run", "lcs6"], ["nesf data fetch lcs6", "--mirror"]),
        (["run", "ybco"], ["0-19"]),
        (["run", "few", "--preset", "quick"], ["quick", "paper, official, cpu, plus"]),
        (["run", "few", "--set", "training.epoch=3"], ["training.epoch", "training.epochs"]),
        (["run", "few", "--set", "training.epochs=many"], ["training.epochs", "many"]),
        (["run", "few", "--set", "training.epochs"], ["KEY=VALUE"]),
        (["run", "few", "--decode", "nms=1"], ["nms", "nms_radius"]),
        (["run", "few", "--split", "tset"], ["tset", "train, val, test"]),
        (["run", "few", "--method", "magic"], ["magic", "oracle"]),
        (["run", "few", "--device", "abacus"], ["abacus"]),
        (["run", "few", "--label", "my/run"], ["--label my/run", "letters"]),
        (["run", "few", "--resume"], ["no checkpoint", "without --resume"]),
        (["data", "fetch", "lcs7"], ["lcs7", "lcs6"]),
        (["data", "build", "no-rules.json"], ["no-rules.json"]),
        (["reconstruct", "no-run"], ["no-run"]),
        (["evaluate"], ["--actual"]),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str],
    named: list[str],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--data", str(data)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("nesf: error: ") and "Traceback" not in error
    assert all(part in error for part in named), error


def test_second_training_into_a_folder_is_refused_and_nothing_is_lost(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "model.safetensors").read_bytes()
    assert main(["train", "few", "--data", str(data), "--out", str(run), *TINY]) == 2
    assert "--resume" in capsys.readouterr().err
    assert (run / "model.safetensors").read_bytes() == before


def test_model_of_another_dataset_is_not_scored_in_silence(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reconstruct", str(run), "--data", str(data), "--dataset", "starter"]) == 2
    assert "was trained on few" in capsys.readouterr().err


def test_standard_setting_is_needed_once(data: Path) -> None:
    rotated = Structure(
        Lattice([[0, 4, 0], [0, 0, 5], [6, 0, 0]]), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    crystals = Crystals.from_structures([rotated], ["r"]).in_standard_setting()
    assert np.allclose(crystals.lattice[0], np.diag([4, 5, 6])) and np.allclose(
        crystals.positions[1], [2, 2.5, 3]
    )


def test_resuming_keeps_what_earlier_sessions_recorded(run: Path, data: Path) -> None:
    before = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(
        json.dumps(before | {"commit": "0" * 40, "peak_memory_bytes": 1 << 50})
    )
    assert (
        main(["train", "few", "--data", str(data), "--seed", "1", "--out", str(run), "--resume"])
        == 0
    )
    after = json.loads((run / "run.json").read_text())
    assert after["earlier_commits"] == ["0" * 40] and after["peak_memory_bytes"] == 1 << 50
    assert (
        after["commit"] == before["commit"]
        and after["command"] == before["command"]
        and after["started"] == before["started"]
    )


def test_resume_if_possible_goes_on_or_starts_anew(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    command = [
        "train",
        "few",
        "--data",
        str(data),
        "--out",
        str(folder),
        "--resume-if-possible",
        *TINY,
    ]

    def started() -> str:
        return json.loads((folder / "run.json").read_text())["command"]

    assert main([*command, "--max-minutes", "0"]) == 0  # nothing there yet
    assert main(command) == 0  # the same training: it goes on, so the first command stays
    assert (
        "--max-minutes" in started() and json.loads((folder / "run.json").read_text())["finished"]
    )
    weights = (folder / "model.safetensors").read_bytes()
    assert main([*command, "--seed", "5"]) == 2  # another one, and nothing is replaced unasked
    assert (folder / "model.safetensors").read_bytes() == weights
    command.append("--replace")
    assert main([*command, "--seed", "5"]) == 0
    assert "--seed 5" in started() and (folder / "model.safetensors").read_bytes() != weights
    (checkpoint,) = folder.glob("checkpoint-*.safetensors")
    checkpoint.write_bytes(b"damaged")
    assert main([*command, "--seed", "5"]) == 0
    assert len((folder / "log.csv").read_text().splitlines()) == 3  # two epochs, once


def test_aggregate_says_what_is_missing_and_draws(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["aggregate", str(tmp_path)]) == 2
    assert "no evaluated run" in capsys.readouterr().err
    assert main(["aggregate", str(data / "results")]) == 0
    assert (
        "few,nesf,cpu" in (data / "results" / "table1.csv").read_text()
        and (data / "results" / "SHA256SUMS").exists()
    )
    assert main(["aggregate", str(data / "results"), "--figures", str(tmp_path / "figures")]) == 0
    assert {p.name for p in (tmp_path / "figures").glob("table1*")} == {
        "table1.svg",
        "table1.png",
        "table1.csv",
    }
