"""Datasets on disk: the same batches and the same training as in memory, writing part by part, and
files that are damaged or change."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nesf.config import preset
from nesf.crystals import Crystals, PaddedCrystals, concatenate, pad
from nesf.data import STARTER_FOLDER, load, stream
from nesf.data.dataset import SPLITS, Dataset, bounding_box, load_packed, save_dataset
from nesf.data.streaming import (
    PREFETCH,
    PackedWriter,
    PaddedStream,
    StreamedCrystals,
    open_streamed,
)
from nesf.training import FieldTrainer, TrainingResult, train
from nesf_cli.main import main
from nesf_io.errors import ConfigError, DataError, NesfError

CONFIG = preset("cpu").with_values(
    {
        "model.latent_size": 16, "model.encoder_position": [32], "model.encoder_species": [16], "model.encoder_mix": [64],
        "model.encoder_latent": [32], "model.decoder_position": [32, 32], "model.decoder_species": [32], "model.decoder_lattice": [32],
        "model.dropout": 0.3, "training.compile": False, "training.precision": "fp32", "training.early_stopping": True, "training.average": 0.9,
        "training.epochs": 3, "training.batch_size": 8, "training.validate_every": 1, "sampling.n_position": 16, "sampling.n_species": 8,
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """100 crystals to train on, with ids that JSON has to escape."""
    starter = load("starter")
    splits = {
        s: starter.splits[s].select(range(n)) for s, n in zip(SPLITS, (100, 11, 3), strict=True)
    }
    odd = ('quote " in it', "back\\slash", "Ångström", "two words", "\\u0041", ",", "[]")
    splits["train"] = dataclasses.replace(
        splits["train"], ids=odd + splits["train"].ids[len(odd) :]
    )
    return Dataset("few", splits, provenance={"source": "a test"})


@pytest.fixture(scope="module")
def folder(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "few"
    save_dataset(dataset, path)
    return path


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A folder to damage."""
    return Path(shutil.copytree(folder, tmp_path / "few"))


def write(dataset: Dataset, folder: Path, size: int = 7) -> None:
    with PackedWriter(
        folder, dataset.name, dataset.fold, dataset.provenance, dataset.vocabulary
    ) as writer:
        for split, crystals in dataset.splits.items():
            for i in range(0, len(crystals), size):
                writer.append(split, crystals.select(range(i, min(i + size, len(crystals)))))


def same_batch(a: PaddedCrystals, b: PaddedCrystals) -> None:
    for name in ("positions", "species", "mask", "lengths", "angles", "lattice"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype and torch.equal(x, y), name
    assert torch.equal(a.atoms(), b.atoms())


def same_training(a: TrainingResult, b: TrainingResult) -> None:
    assert [{k: v for k, v in row.items() if k != "minutes"} for row in a.log] == [
        {k: v for k, v in row.items() if k != "minutes"} for row in b.log
    ]
    assert "val_loss" in a.log[-1]
    assert (a.folder / "model.safetensors").read_bytes() == (
        b.folder / "model.safetensors"
    ).read_bytes()
    assert a.model.box == b.model.box and dict(a.model.dataset) == dict(b.model.dataset)


@pytest.mark.parametrize("written", ["whole", "part by part"])
def test_stream_has_the_crystals_of_memory(
    dataset: Dataset, folder: Path, tmp_path: Path, written: str
) -> None:
    if written == "part by part":
        folder = tmp_path / "parts"
        write(dataset, folder)
    streamed = open_streamed(folder)
    assert (
        streamed.hash() == dataset.hash()
        and streamed.vocabulary == dataset.vocabulary
        and streamed.label == dataset.label
    )
    for split, crystals in dataset.splits.items():
        opened = streamed.splits[split]
        assert (
            len(opened) == len(crystals)
            and opened.n_atoms == len(crystals.species)
            and opened.box == bounding_box(crystals)
        )
        resident = pad(crystals, dataset.vocabulary)
        stream_ = PaddedStream(opened, dataset.vocabulary, torch.device("cpu"))
        for indices in (
            torch.arange(len(crystals)),
            torch.tensor([2, 0, 2]),
            torch.zeros(0, dtype=torch.long),
        ):
            same_batch(resident.select(indices), stream_.select(indices))


def test_hash_is_computed_once_and_belongs_to_the_content(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        load("starter").hash() == json.loads((STARTER_FOLDER / "dataset.json").read_text())["hash"]
    )
    few, calls = Dataset("few", dataset.splits), []
    monkeypatch.setattr(
        "nesf.data.dataset.content_hash", lambda splits: calls.append(splits) or "digest"
    )
    assert few.hash() == few.hash() == "digest" and len(calls) == 1
    monkeypatch.undo()
    moved = dataclasses.replace(
        dataset.splits["val"], positions=dataset.splits["val"].positions + 1e-5
    )
    # a name is no content, and a copy does not keep the old hash
    assert dataclasses.replace(few, name="other").hash() == dataset.hash()
    assert (
        dataclasses.replace(few, splits={**dataset.splits, "val": moved}).hash() != dataset.hash()
    )


def test_released_dataset_streams_as_it_is_in_memory(mirror: Path, tmp_path: Path) -> None:
    dataset, streamed = (
        load("lcs6", data_dir=tmp_path, mirror=mirror),
        stream("lcs6", data_dir=tmp_path, mirror=mirror),
    )
    resident = pad(dataset.splits["train"], dataset.vocabulary)
    opened = PaddedStream(streamed.splits["train"], dataset.vocabulary, torch.device("cpu"))
    for indices in torch.randperm(len(resident)).split(500):
        same_batch(resident.select(indices), opened.select(indices))


def test_written_part_by_part_loads_as_saved(
    dataset: Dataset, folder: Path, tmp_path: Path
) -> None:
    write(dataset, tmp_path / "parts")
    assert (tmp_path / "parts" / "dataset.json").read_text() == (
        folder / "dataset.json"
    ).read_text()
    loaded = load_packed(tmp_path / "parts")
    for split, crystals in dataset.splits.items():
        assert loaded.splits[split].ids == crystals.ids
        for name in ("positions", "species", "lattice", "offsets"):
            assert np.array_equal(getattr(loaded.splits[split], name), getattr(crystals, name))
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == [
        "dataset.json",
        "test.safetensors",
        "train.safetensors",
        "val.safetensors",
    ]


def test_writer_finds_the_vocabulary_and_leaves_empty_splits(
    dataset: Dataset, tmp_path: Path
) -> None:
    with PackedWriter(tmp_path, "one split") as writer:
        writer.append("train", dataset.splits["test"])
    loaded, streamed = load_packed(tmp_path), open_streamed(tmp_path)
    assert (
        loaded.vocabulary == streamed.vocabulary == tuple(np.unique(dataset.splits["test"].species))
    )
    assert (
        [len(loaded.splits[s]) for s in SPLITS]
        == [len(streamed.splits[s]) for s in SPLITS]
        == [3, 0, 0]
    )


def test_interrupted_writing_leaves_what_was_there(
    dataset: Dataset, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    with pytest.raises(ConfigError, match="--replace"), PackedWriter(copied, "new"):
        pass
    with pytest.raises(KeyboardInterrupt), PackedWriter(copied, "new", replace=True) as writer:
        writer.append("train", dataset.splits["train"])
        raise KeyboardInterrupt
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with (
        pytest.raises(NesfError, match="No space left on device"),
        PackedWriter(copied, "new", replace=True) as writer,
    ):
        writer.append("train", dataset.splits["train"])
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


def test_writer_refuses_what_it_cannot_keep(dataset: Dataset, tmp_path: Path) -> None:
    one = dataset.splits["test"].select([0])
    with pytest.raises(DataError, match="valid"), PackedWriter(tmp_path, "x") as writer:
        writer.append("valid", one)
    with pytest.raises(DataError, match="line feed"), PackedWriter(tmp_path, "x") as writer:
        writer.append("train", dataclasses.replace(one, ids=("a\nb",)))
    with pytest.raises(DataError, match="300"), PackedWriter(tmp_path, "x") as writer:
        writer.append("train", dataclasses.replace(one, species=np.full_like(one.species, 300)))
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(NesfError, match="Not a directory"),
        PackedWriter(tmp_path / "file" / "x", "x"),
    ):
        pass


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "sampling.n_position": 0,
            "sampling.n_species": 0,
            "sampling.global_region": "cell",
            "sampling.global_interval": 2.0,
        },
    ],
    ids=["drawn queries", "all queries"],
)
def test_streamed_training_is_that_of_memory_bit_for_bit(
    dataset: Dataset, folder: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    config = CONFIG.with_values({"training.epochs": 2} | changes) if changes else CONFIG
    memory = train(dataset, config, tmp_path / "memory", seed=3, progress=False)
    same_training(
        memory, train(open_streamed(folder), config, tmp_path / "stream", seed=3, progress=False)
    )


def test_streamed_training_resumes_in_the_middle_of_an_epoch(
    dataset: Dataset, folder: Path, tmp_path: Path
) -> None:
    whole = train(dataset, CONFIG, tmp_path / "whole", seed=3, progress=False)
    first = train(
        open_streamed(folder), CONFIG, tmp_path / "parts", seed=3, progress=False, max_minutes=0
    )
    assert (
        not first.finished
        and json.loads((tmp_path / "parts" / "checkpoint.json").read_text())["step"] == 1
    )
    same_training(
        whole,
        train(open_streamed(folder), None, tmp_path / "parts", resume=True, seed=3, progress=False),
    )


def test_one_order_of_the_crystals_is_in_memory_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FieldTrainer(open_streamed(folder), CONFIG, seed=3)
    draw, orders, alive = torch.randperm, list[weakref.ref[torch.Tensor]](), list[bool]()

    def randperm(*arguments: Any, **options: Any) -> torch.Tensor:
        alive.extend(order() is not None for order in orders)
        order = draw(*arguments, **options)
        orders.append(weakref.ref(order))
        return order

    monkeypatch.setattr(torch, "randperm", randperm)
    for step in (*range(run.steps), run.steps):  # on into the next epoch
        run.step(step // run.steps, step % run.steps)
    assert len(orders) == 2 and alive == [False]


def test_command_line_streams_with_the_result_of_memory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changes = [
        word
        for key in (
            "training.epochs=1",
            "training.compile=false",
            "sampling.n_position=8",
            "sampling.n_species=8",
        )
        for word in ("--set", key)
    ]
    for out, more in (("memory", []), ("streamed", ["--stream"])):
        assert main(["train", str(folder), "--out", out, "--device", "cpu", *changes, *more]) == 0
    assert (
        Path("memory/model.safetensors").read_bytes()
        == Path("streamed/model.safetensors").read_bytes()
    )
    assert "--stream" in json.loads(Path("streamed/run.json").read_text())["command"]


def test_only_packed_data_can_be_streamed(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    with pytest.raises(ConfigError, match="nesf data import"):
        stream(str(tmp_path / "own"), data_dir=tmp_path)
    with pytest.raises(DataError, match="nowhere"):
        stream("nowhere", data_dir=tmp_path)


class Watched(StreamedCrystals):
    """Notes which thread reads what."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.seen: list[tuple[list[int], bool]] = []
        self.reads = threading.Semaphore(0)

    def read(self, indices):  # type: ignore[no-untyped-def]
        self.seen.append((list(indices), threading.current_thread() is threading.main_thread()))
        self.reads.release()
        return super().read(indices)


def test_what_is_announced_is_read_ahead_once_and_no_further_than_a_few_batches(
    dataset: Dataset, folder: Path
) -> None:
    batches = [torch.tensor([i, i + 1]) for i in range(PREFETCH + 6)]
    crystals = Watched(folder / "train.safetensors")
    padded = PaddedStream(crystals, dataset.vocabulary, torch.device("cpu"))
    padded.expect(iter(batches))
    assert all(
        crystals.reads.acquire(timeout=30) for _ in range(PREFETCH)
    ) and not crystals.reads.acquire(timeout=0.2)
    assert crystals.seen == [(b.tolist(), False) for b in batches[:PREFETCH]]
    for batch in batches:
        padded.select(batch)
    assert sorted(crystals.seen) == [(b.tolist(), False) for b in batches]
    padded.expect(iter(batches))
    odd = torch.tensor([50, 3])
    # not announced
    same_batch(padded.select(odd), pad(dataset.splits["train"], dataset.vocabulary).select(odd))
    assert ([50, 3], True) in crystals.seen


def changed_header(path: Path, change: object) -> None:
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    change(header)  # type: ignore[operator]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def shift(name: str, key: str, k: int, by: int):  # type: ignore[no-untyped-def]
    def change(header: dict) -> None:  # type: ignore[type-arg]
        header[name][key][k] += by

    return change


DAMAGE = {
    "cut off": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "empty": lambda p: p.write_bytes(b""),
    "another file": lambda p: p.write_bytes(b"PK\x03\x04" + bytes(1000)),
    "header is not JSON": lambda p: p.write_bytes((16).to_bytes(8, "little") + bytes(1000)),
    "header is a list": lambda p: p.write_bytes((2).to_bytes(8, "little") + b"[]" + bytes(1000)),
    "array is missing": lambda p: changed_header(p, lambda h: h.pop("species")),
    "ids are missing": lambda p: changed_header(p, lambda h: h["__metadata__"].pop("ids")),
    "wrong type": lambda p: changed_header(p, lambda h: h["positions"].update(dtype="F32")),
    "wrong shape": lambda p: changed_header(p, shift("positions", "shape", 0, 1)),
    "outside of the file": lambda p: changed_header(
        p, shift("species", "data_offsets", 0, -(10**9))
    ),
    "other number of atoms": lambda p: changed_header(
        p,
        lambda h: (shift("species", "shape", 0, -1)(h), shift("species", "data_offsets", 1, -1)(h)),
    ),
    "first offset": lambda p: scribble(p, "offsets", 0, 1),
    "offsets decrease": lambda p: scribble(p, "offsets", 16, 10**6),
    "last offset": lambda p: scribble(p, "offsets", -8, 10**6),
    "negative offset": lambda p: scribble(p, "offsets", 8, -5),
}


def scribble(path: Path, name: str, at: int, value: int) -> None:
    """Another number in an array, `at` bytes from its beginning or end."""
    content = bytearray(path.read_bytes())
    data = 8 + int.from_bytes(content[:8], "little")
    start, end = json.loads(content[8:data])[name]["data_offsets"]
    place = data + (start if at >= 0 else end) + at
    content[place : place + 8] = value.to_bytes(8, "little", signed=True)
    path.write_bytes(content)


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_file_is_one_clear_error(copied: Path, kind: str) -> None:
    DAMAGE[kind](copied / "train.safetensors")
    with pytest.raises(DataError, match=r"train\.safetensors") as error:
        open_streamed(copied, check=False)
    assert "\n" not in str(error.value)


def test_damage_that_only_the_hash_shows(copied: Path) -> None:
    scribble(copied / "val.safetensors", "lattice", 0, 4_611_686_018_427_387_904)  # the float 2.0
    with pytest.raises(DataError, match=r"dataset\.json"):
        open_streamed(copied)
    (copied / "val.safetensors").unlink()
    with pytest.raises(DataError, match=r"val\.safetensors"):
        open_streamed(copied)


@pytest.mark.parametrize("missing", ["name", "fold", "hash", "vocabulary", "provenance", "all"])
def test_damaged_description_is_one_clear_error(copied: Path, missing: str) -> None:
    about = json.loads((copied / "dataset.json").read_text())
    (copied / "dataset.json").write_text(
        "[]" if missing == "all" else json.dumps({k: v for k, v in about.items() if k != missing})
    )
    for read in (open_streamed, load_packed):
        with pytest.raises(DataError, match=r"dataset\.json") as error:
            read(copied)
        assert "\n" not in str(error.value) and (missing == "all") != (
            f"{missing!r}" in str(error.value)
        )


def test_file_that_changes_while_it_is_used_ends_training(copied: Path, tmp_path: Path) -> None:
    dataset = open_streamed(copied)
    content = (copied / "train.safetensors").read_bytes()
    (copied / "train.safetensors").write_bytes(content[:-100])
    with pytest.raises(DataError, match=r"train\.safetensors.*changed"):
        train(dataset, CONFIG, tmp_path / "run", progress=False)
    (copied / "train.safetensors").unlink()
    with pytest.raises(DataError, match=r"train\.safetensors"):
        dataset.splits["train"].read([0])


def test_element_outside_the_vocabulary_names_the_crystal(dataset: Dataset, folder: Path) -> None:
    species = dataset.splits["train"].species
    last = int(species[0])
    opened = PaddedStream(
        open_streamed(folder).splits["train"],
        [z for z in dataset.vocabulary if z != last],
        torch.device("cpu"),
    )
    with pytest.raises(DataError, match=rf"train\.safetensors, crystal 0: .*{last}"):
        opened.select(torch.tensor([0]))
    with pytest.raises(DataError, match=r"crystal 100"):
        opened.select(torch.tensor([100]))


def test_larger_than_a_chunk(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nesf.data.streaming.CHUNK", 13)
    train_split = dataset.splits["train"]
    parts = {
        "train": concatenate([train_split, train_split]),
        "val": train_split,
        "test": Crystals.from_arrays((), (), (), np.zeros((0, 3, 3))),
    }
    many = Dataset("many", parts)
    write(many, tmp_path)
    streamed = open_streamed(tmp_path)
    assert streamed.hash() == many.hash() and streamed.splits["train"].box == bounding_box(
        many.splits["train"]
    )
    assert streamed.splits["train"].n_max == many.splits["train"].n_atoms.max()
