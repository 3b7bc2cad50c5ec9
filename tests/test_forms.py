"""Forms of JSON files: what does not fit is refused with the file, the key and its value."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import pytest
import torch
from safetensors.torch import load_file, save_file

from nesf.config import Config, ReconstructionConfig, with_fields
from nesf.data import load
from nesf.data.dataset import Dataset, load_packed, save_dataset
from nesf.fields import MOST_POINTS, box_grid
from nesf.files import parse_json, read_json, sha256_of, write_json
from nesf.forms import Range, checked, read_form
from nesf.saved import TrainedModel
from nesf.training import train
from nesf_io.errors import ConfigError, DataError, NesfError

SMALL: dict[str, Any] = {
    "model.latent_size": 4,
    "model.encoder_position": [4, 4],
    "model.encoder_species": [4],
    "model.encoder_mix": [8],
    "model.encoder_latent": [8],
    "model.decoder_position": [8, 4],
    "model.decoder_species": [8],
    "model.decoder_lattice": [4],
    "sampling.n_position": 8,
    "sampling.n_species": 8,
    "training.epochs": 2,
    "training.batch_size": 4,
}


class Part(TypedDict):
    n: Annotated[int, Range(1, 9)]
    text: NotRequired[str]


class Form(TypedDict):
    part: Part
    pair: tuple[float, float]
    names: list[str]
    other: dict[str, bool]
    maybe: float | None


GOOD = {"part": {"n": 3}, "pair": [1, 2.5], "names": [], "other": {"a": True}, "maybe": None}


def test_what_fits_stays_as_it_is_with_further_keys() -> None:
    value = GOOD | {"later": {"x": 1}}
    assert checked(Form, value, "") == value


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"part": {"n": 10}}, "part.n = 10: a whole number from 1 to 9"),
        ({"part": {"n": True}}, "part.n = True"),
        ({"part": {"n": 3.0}}, "part.n = 3.0"),
        ({"part": {}}, "'part.n' is missing"),
        ({"part": {"n": 1, "text": 5}}, "part.text = 5: a value of type str"),
        ({"part": []}, "part = .*: keys with values"),
        ({"pair": [1]}, "pair = .*2 numbers"),
        ({"pair": [1, "a"]}, r"pair\[1\] = 'a': a finite number"),
        ({"pair": [1, 10**400]}, r"pair\[1\] = 1000.* \(401 characters\)"),
        ({"names": ["a", None]}, r"names\[1\] = None"),
        ({"names": "ab"}, "names = 'ab': a list of texts"),
        ({"other": {"a": 1}}, "other.a = 1"),
        ({"maybe": -1}, "maybe = -1: a finite number not below 0"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", GOOD | changes)
    with pytest.raises(DataError, match=rf"a\.json: {words}.*; make it again"):
        read_form(tmp_path / "a.json", Form, "make it again")


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 100_000, "[" * 40 + "]" * 40, '{"a":' * 900 + "1" + "}" * 900),
        *('{"a": NaN}', "[1e999]", "[-Infinity]", "9" * 5000, '["\\ud800"]', "", "{", "\ufeff{}"),
    ],
)
def test_what_is_no_json_is_a_value_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        parse_json(text)
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json: is not JSON"):
        read_json(tmp_path / "a.json")


def test_files_that_are_too_large_or_no_files_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").write_text("[1, 2, 3]")
    monkeypatch.setattr("nesf.files.MOST_BYTES", 5)
    with pytest.raises(DataError, match="has 9 bytes"):
        read_json(tmp_path / "a.json")
    monkeypatch.undo()
    with pytest.raises(DataError, match="a folder stands in the place of a file"):
        read_json(tmp_path)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "disk is full; free some space"),
        (errno.EROFS, "folder that can be written"),
        (errno.EACCES, "permission"),
        (errno.ENAMETOOLONG, "shorter name"),
        (errno.EIO, "choose another"),
    ],
)
def test_the_remedy_is_that_of_the_error(
    number: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(NesfError, match=remedy) as error:
        write_json(tmp_path / "a.json", 1)
    assert ("space" in str(error.value)) == (number == errno.ENOSPC)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def few() -> Dataset:
    starter = load("starter")
    counts = {"train": 8, "val": 2, "test": 2}
    return Dataset("few", {s: starter.splits[s].select(range(n)) for s, n in counts.items()})


@pytest.fixture(scope="module")
def trained(few: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(few, Config().with_values(SMALL), folder, device="cpu", progress=False)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    for path in trained.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def change(path: Path, function: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads(path.read_text())
    function(value)
    path.write_text(json.dumps(value))


MODEL: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda m: m.update(format=7), "format 7, this version reads 1"),
    (lambda m: m.pop("sha256"), "'sha256' is missing"),
    (lambda m: m.update(vocabulary=m["vocabulary"][::-1]), "vocabulary does not ascend"),
    (
        lambda m: m.update(vocabulary=[m["vocabulary"][0], *m["vocabulary"][:-1]]),
        "names an element twice",
    ),
    (lambda m: m.update(vocabulary=m["vocabulary"][:-1]), "species in vocabulary"),
    (lambda m: m.update(vocabulary=[*m["vocabulary"][:-1], 119]), r"\] = 119"),
    (lambda m: m.update(box=m["box"][::-1]), "box from .* has no volume"),
    (lambda m: m["box"][0].__setitem__(0, 1e300), r"box\[0\]\[0\] = 1e\+300"),
    (lambda m: m.update(latent_scale=[1.0]), "1 entries in latent_scale, 4"),
    (lambda m: m["config"]["model"].update(latent_size=10**9), "latent_size = 1000000000"),
    (lambda m: m["config"]["model"].update(encoder_mix=[65536] * 9), "more than 268435456; choose"),
    (lambda m: m["config"]["model"].update(encoder_mix=[1] * 5000), "has 5000 entries"),
    (lambda m: m["config"]["model"].update(decoder_lattice=[5]), "does not fit the network"),
    (lambda m: m["config"].update(model=[]), "config|keys with values"),
    (lambda m: m.update(dataset="few"), "dataset = 'few'"),
]


@pytest.mark.parametrize(("damage", "words"), MODEL)
def test_a_damaged_description_of_a_model_is_refused(
    damage: Callable[[dict[str, Any]], Any], words: str, folder: Path
) -> None:
    change(folder / "model.json", damage)
    with pytest.raises(DataError, match=rf"model\.(json|safetensors): .*({words})"):
        TrainedModel.load(folder, "cpu")


def test_a_model_of_the_first_version_is_read(folder: Path) -> None:
    change(folder / "model.json", lambda m: m.pop("format"))
    assert TrainedModel.load(folder, "cpu").config.model.latent_size == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(k for k in tensors if k.endswith("weight"))
    tensors[name].view(-1)[0] = value
    save_file(tensors, path)
    change(folder / "model.json", lambda m: m.update(sha256=sha256_of(path)))
    with pytest.raises(DataError, match=rf"{name} holds values that are not finite"):
        TrainedModel.load(folder, "cpu")


CHECKPOINT: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda c: c.update(file="../checkpoint-00002-00000.safetensors"), r"file = '\.\./"),
    (lambda c: c.update(epoch=10**6), "does not fit this training .epoch 1000000"),
    (lambda c: c.update(step=1), "step 1 "),
    (lambda c: c["log"].pop(), "1 rows of the log"),
    (lambda c: c["log"][0].update(color=1), "rows of the log"),
    (lambda c: c.update(minutes=-1), "minutes = -1"),
    (lambda c: c.update(best_loss="low"), "best_loss = 'low'"),
    (lambda c: c["config"]["model"].update(latent_size=5), "does not fit this training"),
    (lambda c: c["config"]["training"].update(average=0.5), "its weights are averaged, or not"),
    (lambda c: c.update(format=2), "format 2, this version reads 1"),
    (lambda c: c.pop("threads"), "'threads' is missing"),
]


@pytest.mark.parametrize(("damage", "words"), CHECKPOINT)
def test_a_damaged_checkpoint_is_refused_and_stays(
    damage: Callable[[dict[str, Any]], Any], words: str, few: Dataset, folder: Path
) -> None:
    change(folder / "checkpoint.json", damage)
    before = {p.name: sha256_of(p) for p in folder.iterdir()}
    with pytest.raises(DataError, match=rf"checkpoint\.json: .*{words}"):
        train(few, None, folder, resume=True, device="cpu", progress=False)
    assert {p.name: sha256_of(p) for p in folder.iterdir()} == before


def test_a_damaged_description_of_a_dataset_is_refused(few: Dataset, tmp_path: Path) -> None:
    save_dataset(few, tmp_path)
    for damage, words in (
        (lambda d: d.update(vocabulary=d["vocabulary"][::-1]), "does not ascend"),
        (lambda d: d.update(name=["few"]), r"name = \['few'\]"),
        (lambda d: d.update(fold="0"), "fold = '0'"),
        (lambda d: d.update(hash="0" * 63), "hash = '000"),
    ):
        text = (tmp_path / "dataset.json").read_text()
        change(tmp_path / "dataset.json", damage)  # type: ignore[arg-type]
        with pytest.raises(DataError, match=rf"dataset\.json: .*{words}"):
            load_packed(tmp_path)
        (tmp_path / "dataset.json").write_text(text)
    assert load_packed(tmp_path).hash() == few.hash()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("grid_interval", "0.001"), ("grid_interval", "0"), ("iterations", "100000000")),
        *(("nms_radius", "-1"), ("max_queries", "0"), ("max_queries", "1e9"), ("mode", "best")),
        *(("species_interval", "9" * 5000), ("score_threshold", "[" * 5000)),
    ],
)
def test_parameters_of_the_decoding_have_bounds(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        with_fields(ReconstructionConfig(), {name: value})


def test_a_grid_that_would_fill_the_memory_is_refused_before_it_is_made() -> None:
    with pytest.raises(
        ConfigError, match=r"0\.02 Å makes 126506008 grid points .* choose a larger"
    ):
        box_grid(((0.0, 0.0, 0.0), (10.0, 10.0, 10.0)), 0.02)
    grid = box_grid(((0.0, 0.0, 0.0), (10.0, 10.0, 10.0)), 0.1)
    assert MOST_POINTS / 10 < len(grid) < MOST_POINTS and torch.isfinite(grid).all()
