"""The commands on own structures, and what is common to all commands: help, quiet, formats."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import re
import shlex
import subprocess
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from ase import io
from pymatgen.core import Structure

import nesf
from nesf import saved
from nesf.config import with_fields
from nesf.decode import decode_latent
from nesf.export import FORMATS
from nesf.latent import read_latent, write_latent
from nesf_cli import crystals as crystal_commands
from nesf_cli.main import main, parser
from nesf_cli.studies import add_view
from nesf_io.errors import DataError

FAST = ["--decode", "mode=fast", "--device", "cpu"]


def commands(
    known: argparse.ArgumentParser, name: str = "nesf"
) -> dict[str, argparse.ArgumentParser]:
    """Every command of the command line by its whole name."""
    found = {}
    for action in known._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                found |= commands(inner, f"{name} {word}") or {f"{name} {word}": inner}
    return found


@pytest.fixture
def cifs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Structure]:
    """Two crystals that the starter's model knows, as a.cif and b.cif in the current folder."""
    monkeypatch.chdir(tmp_path)
    train = nesf.load_dataset("starter").split("train")
    structures = train.select([0, 1]).to_structures()
    for structure, name in zip(structures, "ab", strict=True):
        structure.to(filename=f"{name}.cif")
    return structures


def test_every_help_has_examples_that_parse() -> None:
    found = commands(parser())
    assert {"nesf reconstruct", "nesf data import", "nesf doctor", "nesf interpolate"} <= set(found)
    for name, command in found.items():
        examples = re.findall(r"^  (nesf .*)$", command.format_help(), re.MULTILINE)
        assert examples, name
        for example in examples:
            assert example.startswith(name), example
            parser().parse_args(shlex.split(example.split(" > ")[0])[1:])  # else it exits


def test_formats_and_cells_of_the_command_line_are_those_of_the_library() -> None:
    from nesf.domain import CELLS

    assert tuple(FORMATS) == crystal_commands.FORMATS and CELLS == crystal_commands.CELLS


@pytest.mark.parametrize("form", FORMATS)
def test_each_format_is_read_back_and_carries_the_verdict(
    form: str, cifs: list[Structure], capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["reconstruct", "starter", "a.cif", "b.cif", "--out", "o", "--format", form, *FAST])
        == 0
    )
    assert f"2 crystals in o ({form}/" in capsys.readouterr().out
    with open("o/structures.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = nesf.load_model("starter").reconstruct(
        [nesf.read_structures(f"{i}.cif")[0] for i in "ab"]
    )
    for row, structure in zip(rows, expected, strict=True):
        path = Path("o") / row["cif"]
        assert path.suffix == FORMATS[form]
        assert "inside the training domain" in path.read_text()
        atoms = io.read(path) if form == "extxyz" else Structure.from_file(path).to_ase_atoms()
        assert atoms.get_chemical_formula() == structure.to_ase_atoms().get_chemical_formula()
        assert atoms.cell.volume == pytest.approx(structure.volume, rel=1e-3)


def test_json_on_standard_output_is_all_that_is_there(
    cifs: list[Structure], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reconstruct", "starter", "a.cif", "--json", *FAST]) == 0
    said = capsys.readouterr()
    (crystal,) = json.loads(said.out)["crystals"]
    assert Structure.from_dict(crystal["structure"]).composition == cifs[0].composition
    assert crystal["trust"]["matched"] and "a: " in said.err
    assert not Path("o").exists()
    assert main(["reconstruct", "starter", "a.cif", "--json", "--quiet", *FAST]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) and said.err == ""


def test_quiet_prints_nothing_but_errors(
    cifs: list[Structure], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reconstruct", "starter", "a.cif", "--out", "o", "-q", *FAST]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["reconstruct", "starter", "c.cif", "--out", "p", "-q", *FAST]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "c.cif" in said.err


@pytest.mark.parametrize("name", ["z.npy", "z.csv"])
def test_encode_and_decode_give_the_reconstruction(
    name: str, cifs: list[Structure], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["encode", "starter", "a.cif", "b.cif", "--out", name]) == 0
    z, ids = read_latent(Path(name))
    assert ids == ["a", "b"] and z.shape == (2, 192)
    assert main(["decode", "starter", name, "--out", "d", *FAST]) == 0
    assert main(["reconstruct", "starter", "a.cif", "b.cif", "--out", "r", *FAST]) == 0
    for i in "ab":
        decoded, direct = (Structure.from_file(f"{folder}/cif/{i}.cif") for folder in "dr")
        np.testing.assert_allclose(decoded.cart_coords, direct.cart_coords, atol=1e-4)
    np.save("far.npy", np.full((1, 192), 50.0))  # decodes to no crystal of the training domain
    for folder, strict, code in (("f", [], 0), ("s", ["--strict"], 3)):
        with pytest.warns(UserWarning, match="outside the training domain"):
            assert main(["decode", "starter", "far.npy", "--out", folder, *strict, *FAST]) == code
    capsys.readouterr()
    before = Path(name).read_bytes()
    for words in (
        ["encode", "starter", "a.cif", "--out", name],
        ["decode", "starter", name, "--out", "d"],
    ):
        assert main(words) == 2  # nothing is written over, nothing mixed
        assert "--replace" in capsys.readouterr().err
    assert Path(name).read_bytes() == before


def test_latent_vectors_of_others(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", np.zeros((3, 4)))
    assert read_latent(tmp_path / "mine.npy")[1] == ["0", "1", "2"]
    write_latent(tmp_path / "t.csv", np.array([[1 / 3, 2e-7]], np.float32), ["x,\n1"])
    z, ids = read_latent(tmp_path / "t.csv")
    assert ids == ["x,\n1"] and z.tolist() == np.array([[1 / 3, 2e-7]], np.float32).tolist()
    (tmp_path / "any.csv").write_text("z001,id,z000\n2,a,1\n")  # in any order
    assert read_latent(tmp_path / "any.csv")[0].tolist() == [[1, 2]]
    with open(tmp_path / "huge.npy", "wb") as file:  # says more than it holds
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**9, 192)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(DataError, match="huge.npy"):
        read_latent(tmp_path / "huge.npy")
    (tmp_path / "mine.ids.json").write_text('["a", "b"]')
    for name, content in (
        ("mine.npy", None),
        ("ragged.csv", "id,z000,z001\na,1,2\nb,3\n"),
        ("text.csv", "id,z000\na,one\n"),
        ("twice.csv", "id,z000\na,1\na,2\n"),
        ("empty.csv", ""),
        ("not.npy", "hello"),
        ("z.txt", "1 2"),
        ("none.npy", None),
        ("packed.npy", "PK\x03\x04garbage"),
        ("shifted.csv", "id,z000\na,1,2\nb,3,4\n"),
        ("infinite.csv", "id,z000\na,inf\n"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=name):
            read_latent(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "named"), [(np.zeros((2, 7)), "192"), (np.full((1, 192), np.nan), "finite")]
)
def test_latent_vectors_that_are_none_are_refused(
    content: np.ndarray, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "z.npy", content)
    assert main(["decode", "starter", str(tmp_path / "z.npy"), "--out", str(tmp_path / "o")]) == 2
    error = capsys.readouterr().err
    assert named in error and "z.npy" in error and not (tmp_path / "o").exists()


@pytest.mark.filterwarnings("ignore:.*outside the training domain")
def test_interpolation_goes_straight_from_one_to_the_other(cifs: list[Structure]) -> None:
    words = ["interpolate", "starter", "a.cif", "b.cif", "--steps", "5", "--out", "p", *FAST]
    assert main(words) == 0
    assert sorted(p.name for p in Path("p/cif").iterdir()) == [f"frame-{i}.cif" for i in range(5)]
    model = nesf.load_model("starter", device="cpu")
    ends = [nesf.read_structures(f"{i}.cif")[0] for i in "ab"]
    z = model.encode(ends)
    (middle,) = nesf.interpolate(model, *ends, 3, mode="fast").crystals.select([1]).to_structures()
    config = with_fields(model.config.decoding, {"mode": "fast"})
    direct = decode_latent(model, z.mean(0, keepdim=True), ["m"], config).crystals
    assert sorted(middle.atomic_numbers) == sorted(direct.species.tolist())
    apart = np.linalg.norm(middle.cart_coords[:, None] - direct.positions, axis=-1)
    assert max(apart.min(0).max(), apart.min(1).max()) < 1e-3  # Å
    for steps in ("1", "1000000000"):
        assert main([*words[:4], "--steps", steps, "--out", "q"]) == 2


def test_models_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "few/nesf/cpu/seed-0",
        "few/nesf/plus/seed-0",
        "few/nesf/trial/seed-1",
        "y/nesf/cpu/fold-0",
    ):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.json").write_text("{}")
    monkeypatch.setattr(saved, "RECORDED", tmp_path)
    for name, folder in {
        "few": "few/nesf/plus/seed-0",
        "few/cpu": "few/nesf/cpu/seed-0",
        "few/trial/seed-1": "few/nesf/trial/seed-1",
        "y": "y/nesf/cpu/fold-0",
        str(tmp_path / "few/nesf/cpu/seed-0"): "few/nesf/cpu/seed-0",
    }.items():
        assert saved.model_folder(name) == tmp_path / folder
    with pytest.raises(DataError, match="choose from few, y"):
        saved.model_folder("few/other")


def test_two_structures_of_one_name_are_not_mixed(
    cifs: list[Structure], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("other").mkdir()
    Path("other/a.cif").write_bytes(Path("b.cif").read_bytes())
    assert main(["reconstruct", "starter", "a.cif", "other", "--out", "o", *FAST]) == 0
    assert "the id a is that of a.cif; here it is a-2" in capsys.readouterr().err
    assert sorted(p.name for p in Path("o/cif").iterdir()) == ["a-2.cif", "a.cif"]


def test_splits_take_no_options_of_own_structures(capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--strict"], ["--json"], ["--format", "poscar"], ["--out", "x"]):
        assert main(["reconstruct", "starter", *option]) == 2
        assert "own structures" in capsys.readouterr().err


def test_doctor_names_what_is_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--data", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["torch"] == metadata.version("torch")
    assert "starter/cpu/seed-0" in found["models"] and "starter" in found["datasets"]
    assert all(free > 0 for free in found["free disk"].values())
    assert main(["doctor", "--data", str(tmp_path / "not" / "there")]) == 0
    said = capsys.readouterr().out
    assert "GiB" in said and "threads: " in said


def test_completion_is_a_script_of_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("shtab") is None:
        assert main(["completion", "bash"]) == 2
        assert "nesf[completion]" in capsys.readouterr().err
        return
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert "interpolate" in script and "--cell" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_view_writes_a_picture_or_a_page_of_its_own(
    cifs: list[Structure], capsys: pytest.CaptureFixture[str]
) -> None:
    known = argparse.ArgumentParser()
    add_view(known.add_subparsers())

    def view(*words: str) -> None:
        options = known.parse_args(["view", *words])
        options.call(options)

    view("a.cif")
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    view(".", "--out", "all.svg")
    assert "<svg" in Path("all.svg").read_text() and "2 structures" in capsys.readouterr().out
    view("b.cif", "--out", "b.html")
    page = Path("b.html").read_text()
    assert "nesfViews.crystals(" in page and 'src="http' not in page
    assert page.count("<img") == 1
    before = Path("a.png").read_bytes()
    for words in (["a.cif"], ["a.cif", "--out", "a.pdf"]):
        with pytest.raises(nesf.NesfError, match=r"a\.p"):
            view(*words)
    assert Path("a.png").read_bytes() == before
