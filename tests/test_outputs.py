"""Nothing is lost: one rule for every folder that a command writes, in every command."""

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from nesf import outputs
from nesf.data import load
from nesf.data.dataset import Dataset, save_dataset
from nesf.outputs import locked, output
from nesf.runs import Run
from nesf_cli.main import _asked, main, parser
from nesf_io.errors import ConfigError, NesfError

TINY = [
    "--set=model.encoder_mix=[32]", "--set=model.encoder_latent=[32]", "--set=model.latent_size=16", "--set=model.decoder_position=[32,32]",
    "--set=model.decoder_species=[32]", "--set=training.compile=false", "--set=training.epochs=1", "--set=sampling.n_position=16", "--set=sampling.n_species=8",
]  # fmt: skip
FAST = ["--decode", "iterations=2", "--decode", "mode=fast"]


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def write(folder: Path, **files: str) -> None:
    with output(folder, replace=True) as made:
        for name, text in files.items():
            (made / name).parent.mkdir(exist_ok=True)
            (made / name).write_text(text)


def test_a_second_call_replaces_all_of_the_first_one_and_only_if_told(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    write(folder, **{"a": "1", "cif/x": "1", "cif/y": "1"})
    with pytest.raises(ConfigError, match="holds a already.*--replace"), output(folder):
        pass
    write(folder, **{"a": "2", "cif/x": "2"})
    kept = content(folder)
    assert {n: t for n, t in kept.items() if n != outputs.LISTED} == {"a": b"2", "cif/x": b"2"}


@pytest.mark.parametrize("name", ["notes.txt", "cif/own.cif", ".hidden", "checkpoint-mine.pt"])
def test_what_somebody_else_put_there_is_never_touched(tmp_path: Path, name: str) -> None:
    write(tmp_path, **{"a": "1", "cif/x": "1"})
    (tmp_path / name).write_text("mine")
    before = content(tmp_path)
    with pytest.raises(ConfigError, match=name), output(tmp_path, replace=True):
        pass
    assert content(tmp_path) == before


def test_an_input_is_never_in_the_way(tmp_path: Path) -> None:
    write(tmp_path, **{"cif/x": "1"})  # this program's own, and still somebody's input
    with (
        pytest.raises(ConfigError, match="input"),
        output(tmp_path, replace=True, inputs=[tmp_path / "cif"]),
    ):
        pass


def test_after_an_error_all_is_as_before(tmp_path: Path) -> None:
    write(tmp_path / "old", a="1")
    before = content(tmp_path)
    for folder in (tmp_path / "old", tmp_path / "new" / "out"):
        with contextlib.suppress(ZeroDivisionError), output(folder, replace=True) as made:
            (made / "a").write_text("2")
            raise ZeroDivisionError
    assert content(tmp_path) == before and not (tmp_path / "new").exists()


def killed(child: Callable[[], None]) -> bool:
    """Run a function in a process of its own; whether it was killed."""
    if pid := os.fork():
        return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    with contextlib.suppress(BaseException):
        child()
    os._exit(0)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_kill_at_any_moment_leaves_all_old_or_all_new(tmp_path: Path) -> None:
    old, new = {"a": "old", "b": "old", "c/d": "old"}, {"a": "new", "c/e": "new", "f": "new"}
    seen = set()
    for at in range(100):
        folder = tmp_path / str(at)
        write(folder, **old)

        def child(folder: Path = folder, at: int = at) -> None:
            calls = iter(range(at))

            def counted(function: Callable[..., None]) -> Callable[..., None]:
                def call(*arguments: object) -> None:
                    if next(calls, None) is None:
                        os.kill(os.getpid(), signal.SIGKILL)
                    function(*arguments)

                return call

            os.replace, os.rename = counted(os.replace), counted(os.rename)
            write(folder, **new)

        ended = not killed(child)
        with pytest.raises(ConfigError, match="--replace"), output(folder):
            pass  # the next command puts it in order, whatever it is
        found = {n: t.decode() for n, t in content(folder).items() if n != outputs.LISTED}
        assert found in (old, new), (at, found)
        seen.add(found == new)
        if ended:
            break
    assert seen == {False, True} and at > 5


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_one_process_writes_a_folder_and_a_kill_frees_it(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(NesfError, match="another process"), output(tmp_path):
        pass

    def child() -> None:
        with locked(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)

    assert killed(child)
    write(tmp_path, a="1")
    assert (tmp_path / "a").read_text() == "1"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, structures, and a run that is reconstructed and scored."""
    folder = tmp_path_factory.mktemp("place")
    starter = load("starter")
    splits = {n: starter.splits[n].select(range(4)) for n in ("train", "val", "test")}
    save_dataset(Dataset("few", splits), folder / "data" / "few")
    (folder / "cifs").mkdir()
    for structure in splits["train"].to_structures():
        structure.to(filename=str(folder / "cifs" / f"{structure.properties['id']}.cif"))
    (folder / "ends").mkdir()
    for i, file in enumerate(sorted((folder / "cifs").glob("*.cif"))[:2]):
        shutil.copy(file, folder / "ends" / f"{i}.cif")
    for i in range(20):
        cell = Lattice.cubic(3.5 + i / 20)
        one = Structure(cell, ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
        (folder / "many").mkdir(exist_ok=True)
        one.to(filename=str(folder / "many" / f"{i}.cif"))
    words = ["run", "few", "--data", str(folder / "data"), *TINY, *FAST]
    assert main([*words, "--label", "trial", "--out", str(folder / RUN)]) == 0
    return folder


RUN = Path("results/few/nesf/trial/seed-0")
DATA, CIFS = ["--data", "data"], ["reconstruct", str(RUN), "cifs", *FAST]
COMMANDS = {
    "out": [
        ["train", "few", *DATA, *TINY, "--out", "out"],
        ["run", "few", *DATA, *TINY, *FAST, "--split", "val", "--out", "out"],
        ["run", "few", *DATA, "--method", "copy", "--out", "out"],
        [*CIFS, "--out", "out"],
        [*CIFS, "--out", "out", "--format", "poscar"],
        ["evaluate", "--actual", "cifs", "--detected", "cifs", "--out", "out"],
        ["analyse", "examples", str(RUN), *DATA, "--set", "mode=fast", "--out", "out"],
        ["aggregate", "results", "--figures", "out"],
        ["interpolate", str(RUN), "ends/0.cif", "ends/1.cif", "--steps", "2", *FAST, "--out", "out"],
    ],
    "data/mine": [["data", "import", "many", "--name", "mine", *DATA]],
    f"{RUN}/reconstruction/train": [["reconstruct", str(RUN), "--split", "train", *DATA, *FAST]],
    f"{RUN}/analysis/examples": [["analyse", "examples", str(RUN), *DATA, "--set", "mode=fast"]],
}  # fmt: skip


@pytest.mark.parametrize(
    ("folder", "words"),
    [(folder, words) for folder, several in COMMANDS.items() for words in several],
    ids=[" ".join(w[:4]) for several in COMMANDS.values() for w in several],
)
@pytest.mark.filterwarnings("ignore")
def test_every_command_writes_by_the_rule(
    folder: str,
    words: list[str],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    out = Path(folder)
    out.mkdir(parents=True)
    try:
        (out / "notes.txt").write_text("mine")
        assert main([*words, "--replace"]) == 2  # somebody else's
        assert "notes.txt" in capsys.readouterr().err
        assert content(out) == {"notes.txt": b"mine"}
        (out / "notes.txt").unlink()

        assert main(words) == 0  # empty
        first = content(out)
        assert first and not any(n.endswith((".part", outputs.LOCK)) for n in first)
        capsys.readouterr()
        assert main(words) == 2  # holds the first one
        assert "--replace" in capsys.readouterr().err and content(out) == first

        (out / "notes.txt").write_text("mine")
        assert main([*words, "--replace"]) == 2
        assert content(out) == first | {"notes.txt": b"mine"}
        (out / "notes.txt").unlink()
        assert main([*words, "--replace"]) == 0
        assert content(out).keys() == first.keys()
        with locked(out):
            capsys.readouterr()
            assert main([*words, "--replace"]) == 2
            assert "another process" in capsys.readouterr().err
        assert content(out).keys() == first.keys()
    finally:
        shutil.rmtree(out)


def test_a_single_file_is_replaced_only_if_told(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    words = ["data", "audit", "few", *DATA, "--no-near-duplicates", "--json", "audit.json"]
    Path("audit.json").write_text("mine")
    assert main(words) == 2 and Path("audit.json").read_text() == "mine"
    assert main([*words, "--replace"]) == 0 and json.loads(Path("audit.json").read_text())
    assert main(["aggregate", "results"]) == 0
    table = Path("results/table1.csv").read_bytes()
    assert main(["aggregate", "results"]) == 2 and Path("results/table1.csv").read_bytes() == table
    assert main(["aggregate", "results", "--replace"]) == 0
    Path("results/SHA256SUMS").write_text("a user's")
    assert main(["aggregate", "results", "--replace"]) == 2
    assert Path("results/SHA256SUMS").read_text() == "a user's"


def test_a_file_of_latent_vectors_never_replaces_an_input_or_another_kind_of_file(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cif = min((place / "cifs").glob("*.cif"))
    pd.DataFrame({"id": ["x"], "cif": [cif.read_text()]}).to_csv("mine.csv", index=False)
    Path("mine.ids.json").write_text("notes")
    before = content(tmp_path)
    for source, out, why in (
        ("mine.csv", "./mine.csv", "is an input"),
        (str(cif), "mine.csv", "was not written by this program"),
        (str(cif), "mine.npy", "mine.ids.json: was not written by this program"),
    ):
        assert main(["encode", str(place / RUN), source, "--out", out, "--replace"]) == 2
        assert why in capsys.readouterr().err and content(tmp_path) == before
    words = ["encode", str(place / RUN), "mine.csv", "--out", "z.csv"]
    assert main(words) == main([*words, "--replace"]) == 0
    audit = ["data", "audit", "mine.csv", "--no-near-duplicates", "--json", "mine.csv", "--replace"]
    assert main(audit) == 2 and "is an input" in capsys.readouterr().err


def test_own_structures_in_the_output_are_not_overwritten(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    shutil.copytree("cifs", tmp_path / "p" / "cif")
    before = content(tmp_path)
    words = ["reconstruct", str(RUN), str(tmp_path / "p" / "cif"), "--out", str(tmp_path / "p")]
    assert main([*words, *FAST]) == main([*words, *FAST, "--replace"]) == 2
    assert content(tmp_path) == before


def test_an_input_of_a_pattern_or_of_a_folder_around_it_is_not_overwritten(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    mine, out = tmp_path / "mine", tmp_path / "mine" / "out"
    cif = min(Path("cifs").glob("*.cif"))
    write(out, **{"cif/a.cif": cif.read_text()})
    words = ["reconstruct", str(RUN), "", "--out", str(out), *FAST]
    before = content(tmp_path)
    for given in (str(mine), str(mine / "*" / "cif" / "*.cif")):
        words[2] = given
        assert main([*words, "--replace"]) == 2 and "holds the input" in capsys.readouterr().err
        assert content(tmp_path) == before


def test_a_list_of_own_files_that_is_none_is_an_error(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cif = min((place / "cifs").glob("*.cif"))
    for text in ("[]", "{}", "null", '{"files": 5}', '{"files": [[1]]}'):
        (tmp_path / outputs.LISTED).write_text(text)
        words = ["reconstruct", str(place / RUN), str(cif), "--out", str(tmp_path), "--replace"]
        assert main([*words, *FAST]) == 2 and outputs.LISTED in capsys.readouterr().err


def test_a_picture_replaces_none_but_pictures(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cif, picture = min((place / "cifs").glob("*.cif")), tmp_path / "c.svg"
    picture.write_text("mine")
    words = ["view", str(cif), "--out", str(picture)]
    assert main([*words, "--replace"]) == 2 and picture.read_text() == "mine"
    assert "was not written by this program" in capsys.readouterr().err
    picture.unlink()
    assert main(words) == main([*words, "--replace"]) == 0


@pytest.mark.parametrize(("name", "text"), [("log.csv", "mine"), (".thesis.tex.part", "mine")])
def test_what_only_looks_like_the_start_of_a_training_stays(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.chdir(place)
    (tmp_path / name).write_text(text)
    assert main(["train", "few", *DATA, *TINY, "--out", str(tmp_path)]) == 2
    assert content(tmp_path) == {name: text.encode()}


def test_a_seed_out_of_bounds_is_named(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    for seed in ("-1", "99999999999999999999999"):
        words = ["train", "few", *DATA, *TINY, "--seed", seed, "--out", str(tmp_path / "run")]
        assert main(words) == 2 and f"seed = {seed}" in capsys.readouterr().err


def test_a_full_disk_keeps_the_dataset_that_was_to_be_replaced(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = load("few", data_dir=place / "data")
    save_dataset(few, tmp_path / "mine")
    before, replace = content(tmp_path), os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == "test.safetensors":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(NesfError, match="No space left"):
        save_dataset(few, tmp_path / "mine", replace=True)
    assert content(tmp_path) == before


@pytest.fixture
def copied(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run that may be changed."""
    monkeypatch.chdir(place)
    shutil.copytree(RUN, tmp_path / "run")
    return tmp_path / "run"


def test_scores_of_one_split_leave_those_of_the_others(copied: Path) -> None:
    before = json.loads((copied / "metrics.json").read_text())
    materials = (copied / "materials.csv").read_text()
    words = ["evaluate", str(copied), *DATA, "--split", "test"]
    assert main(words) == 2 and json.loads((copied / "metrics.json").read_text()) == before
    assert main([*words, "--replace"]) == 0
    assert json.loads((copied / "metrics.json").read_text()) == before
    assert (copied / "materials.csv").read_text() == materials
    # a third split, decoded in another way, does not go with them
    again = ["reconstruct", str(copied), *DATA, "--split", "train", "--decode", "iterations=3"]
    assert main(again) == 0
    assert main(["evaluate", str(copied), *DATA, "--split", "train"]) == 2
    assert json.loads((copied / "metrics.json").read_text()) == before
    assert main([*again, *FAST, "--replace"]) == 0
    assert main(["evaluate", str(copied), *DATA, "--split", "train"]) == 0
    after = json.loads((copied / "metrics.json").read_text())
    assert list(after) == ["train", "val", "test"] and before.items() <= after.items()
    rows = pd.read_csv(copied / "materials.csv")["split"].value_counts()
    assert rows.to_dict() == {"train": 4, "val": 4, "test": 4}


def test_foreign_checkpoints_stay(copied: Path) -> None:
    words = ["train", "few", *DATA, *TINY, "--label", "trial", "--out", str(copied)]
    for name in ("checkpoint-best.safetensors", "checkpoint.pt", "checkpoint-00001.bak"):
        (copied / name).write_text("mine")
    before = content(copied)
    anew = [*words, "--resume-if-possible", "--seed", "3"]
    assert main(anew) == main([*anew, "--replace"]) == 2
    assert content(copied) == before
    more = [word.replace("epochs=1", "epochs=2") for word in words]
    assert main([*more, "--resume"]) == 2  # another number of epochs
    assert main([*words, "--resume"]) == 0
    assert {n for n, text in content(copied).items() if text == b"mine"} == {
        "checkpoint-best.safetensors", "checkpoint.pt", "checkpoint-00001.bak",
    }  # fmt: skip


def test_a_run_is_kept_until_the_one_in_its_place_has_finished(copied: Path) -> None:
    before = content(copied)
    words = ["train", "few", *DATA, *TINY, "--seed", "4", "--out", str(copied)]
    assert main([*words, "--max-minutes", "0", "--set", "training.epochs=3", "--replace"]) == 0
    assert content(copied / outputs.REPLACED) == before
    assert not json.loads((copied / "run.json").read_text())["finished"]
    assert main([*words, "--replace", "--max-minutes", "0", "--set", "training.epochs=4"]) == 0
    assert content(copied / outputs.REPLACED) == before  # not the unfinished one
    assert main(["train", "few", *DATA, "--seed", "4", "--out", str(copied), "--resume"]) == 0
    assert not (copied / outputs.REPLACED).exists()
    assert json.loads((copied / "run.json").read_text())["finished"]


def test_a_changed_preset_never_has_the_name_of_the_preset(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Run("few").name == "few/nesf/cpu/seed-0"
    changed = Run("few", changes=(("training.epochs", "3"),))
    assert changed.name == "few/nesf/cpu-changed/seed-0" and changed.config().preset != "cpu"
    with pytest.raises(ConfigError, match="plus"):
        Run("few", label="plus", changes=(("training.epochs", "3"),))
    monkeypatch.chdir(tmp_path)
    recorded = tmp_path / "results/few/nesf/cpu/seed-0"
    recorded.mkdir(parents=True)
    (recorded / "run.json").write_text("{}")
    data = ["--data", str(place / "data")]
    assert main(["run", "few", *data]) == 2  # a record without a checkpoint is one, too
    assert main(["run", "few", *data, *TINY, *FAST, "--split", "val"]) == 0
    assert content(recorded) == {"run.json": b"{}"}
    run = json.loads((tmp_path / "results/few/nesf/cpu-changed/seed-0/run.json").read_text())
    assert run["preset"] == "cpu-changed" and run["config"]["preset"] == "cpu-changed"
    planned = parser().parse_args(["run", "few", "--minutes", "60"])  # another number of epochs
    few = load("few", data_dir=place / "data")
    assert _asked(planned, few).name == "few/nesf/cpu-60-minutes/seed-0"


def test_a_label_stands_for_one_decoding(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    words = ["reconstruct", str(RUN), *DATA, "--label", "short", "--decode"]
    assert main([*words, "iterations=2", "--split", "val"]) == 0
    assert main([*words, "iterations=3", "--split", "test"]) == 2
    folder = RUN.parents[1] / "short" / RUN.name
    held = json.loads((folder / "run.json").read_text())["config"]["decoding"]
    assert held["iterations"] == 2 and not (folder / "reconstruction" / "test").exists()
    shutil.rmtree(folder.parent)
