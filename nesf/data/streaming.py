"""Datasets larger than memory: a packed folder that is read crystal by crystal while a model trains, and one that is written part by part.

Nothing that has one entry a crystal or an atom stays in memory: a batch's offsets, positions, species and lattices are read from the files
when it is needed, by plain reads (pages of a memory map would count as the program's memory). Training adds 8 bytes a crystal, the order of
the epoch. Ids are read only to check the hash. `Crystals.save` keeps them as JSON in the file's header, which safetensors limits to 100 MB
(some 8 million short ids); `PackedWriter` keeps them as an array of bytes, and `Crystals.load` reads both.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nesf.crystals import Crystals, PaddedCrystals, pad
from nesf.data.dataset import SPLITS, Box, description_of, read_description
from nesf.errors import DataError, NesfError
from nesf.files import write_json

AHEAD = 4  # batches read before they are asked for
CHUNK = 1 << 16  # entries of an array in memory while a whole file is gone through
MAX_HEADER = 100_000_000  # bytes, the limit of safetensors
DTYPES = {"F64": "<f8", "I64": "<i8", "U8": "|u1"}
ARRAYS = {"offsets": ("I64", ()), "lattice": ("F64", (3, 3)), "positions": ("F64", (3,)), "species": ("U8", ()), "ids": ("U8", ())}
REMEDY = "write it again (nesf data fetch, import or build)"


@dataclass(frozen=True)
class _Array:
    """One array in a file: its numpy type, its shape and its first byte."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int

    @property
    def row(self) -> int:
        """Bytes of one entry along the first axis."""
        return self.dtype.itemsize * math.prod(self.shape[1:])


class StreamedCrystals:
    """The crystals of one packed file, on disk.

    Attributes:
        path: what `Crystals.save` or `PackedWriter` wrote.
        n_atoms: of all crystals together.
        n_max: of the largest crystal.
    """

    def __init__(self, path: Path) -> None:
        """Read where the arrays are, and go through the offsets once.

        Raises:
            DataError: the file is missing, cut off or not of this form; the message names it.
        """
        self.path = Path(path)
        try:
            self._stamp = self._stamp_of(os.stat(self.path))
        except FileNotFoundError:
            raise DataError(f"{self.path}: no such file") from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror})") from None
        header = self._header()
        self._arrays = {name: self._array(name, header[name]) for name in ARRAYS if name in header}
        if missing := [name for name in ARRAYS if name not in self._arrays and (name != "ids" or not self._ids_in(header))]:
            raise self._damaged(f"{missing[0]!r} is missing")
        self.n_atoms, self._n = self._arrays["positions"].shape[0], self._arrays["lattice"].shape[0]
        if self._arrays["species"].shape[0] != self.n_atoms or self._arrays["offsets"].shape[0] != self._n + 1:
            raise self._damaged("its arrays are not of one length")
        last, self.n_max = 0, 1
        for k, chunk in enumerate(self._chunks("offsets")):
            if k == 0 and chunk[0] != 0:
                raise self._damaged(f"its offsets begin at {chunk[0]}, not at 0")
            steps = np.diff(chunk, prepend=last)
            if steps.min() < 0:
                raise self._damaged("its offsets decrease")
            last, self.n_max = int(chunk[-1]), max(self.n_max, int(steps.max()))
        if last != self.n_atoms:
            raise self._damaged(f"its offsets end at {last}, not at its {self.n_atoms} atoms")

    def __len__(self) -> int:
        return self._n

    @cached_property
    def box(self) -> Box:
        """`bounding_box` of all crystals (Section 2.1, step 1), in one pass over the file."""
        low, high = np.full(3, np.inf), np.full(3, -np.inf)
        for chunk in self._chunks("positions"):
            low, high = np.minimum(low, chunk.min(0)), np.maximum(high, chunk.max(0))
        (a, b, c), (d, e, f) = low.tolist(), high.tolist()
        return (a, b, c), (d, e, f)

    def read(self, indices: Sequence[int]) -> Crystals:
        """The crystals at the given indices, in that order; for ids they have their number in the file.

        Raises:
            DataError: the file is damaged, or it is not the one that was opened.
        """
        bounds, lattice = np.empty((len(indices), 2), np.int64), np.empty((len(indices), 3, 3))
        with self._open() as file:
            for k, i in enumerate(indices):
                if not 0 <= i < self._n:
                    raise DataError(f"{self.path}: crystal {i} was asked for, it has {self._n}; give an index from 0 on")
                self._read(file, "offsets", i, bounds[k])
                self._read(file, "lattice", i, lattice[k])
            offsets = np.concatenate([[0], np.cumsum(bounds[:, 1] - bounds[:, 0])]).astype(np.int64)
            positions, species = np.empty((offsets[-1], 3)), np.empty(offsets[-1], np.uint8)
            for k, start in enumerate(bounds[:, 0].tolist()):
                atoms = slice(offsets[k], offsets[k + 1])
                self._read(file, "positions", start, positions[atoms])
                self._read(file, "species", start, species[atoms])
        return Crystals(tuple(f"{self.path}, crystal {i}" for i in indices), positions, species.astype(np.int64), lattice, offsets)

    def add_to(self, digest: Any) -> None:
        """Feed ids and arrays to a hash as `Dataset.hash` does, in pieces."""
        for piece in self._id_lines():
            digest.update(piece)
        for name in ("positions", "lattice"):
            for chunk in self._chunks(name):
                digest.update(np.round(chunk * 1e6).astype("<i8").tobytes())
        for name in ("species", "offsets"):
            for chunk in self._chunks(name):
                digest.update(chunk.astype("<i8").tobytes())

    def _id_lines(self) -> Iterator[bytes]:
        """All ids, each with a line feed, in pieces."""
        if "ids" in self._arrays:
            for chunk in self._chunks("ids"):
                yield chunk.tobytes()
        else:
            for match in re.finditer(r'"(?:[^"\\]|\\.)*"', self._header()["__metadata__"]["ids"]):
                yield f"{json.loads(match[0])}\n".encode()

    @staticmethod
    def _ids_in(header: Mapping[str, Any]) -> bool:
        metadata = header.get("__metadata__")
        return isinstance(metadata, dict) and isinstance(metadata.get("ids"), str)

    def _header(self) -> dict[str, Any]:
        """The header, in memory as long as the caller keeps it: it may hold all ids."""
        with self._open() as file:
            size = int.from_bytes(file.read(8) or b"", "little")
            if not 2 <= size <= min(MAX_HEADER, self._stamp[0] - 8):
                raise self._damaged("it has no safetensors header")
            self._data = 8 + size
            try:
                header = json.loads(file.read(size) or b"")
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise self._damaged(f"its header is not JSON: {error}") from None
        if not isinstance(header, dict):
            raise self._damaged("its header is not a table")
        return header

    def _array(self, name: str, entry: Any) -> _Array:
        dtype, tail = ARRAYS[name]
        try:
            kind, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            array = _Array(np.dtype(DTYPES[dtype]), shape, self._data + start)
            fits = kind == dtype and shape[1:] == tail and end - start == array.row * shape[0] and start >= 0 and self._data + end <= self._stamp[0]
        except (KeyError, TypeError, ValueError, IndexError):
            fits = False
        if not fits:
            raise self._damaged(f"array {name!r} is cut off or of another form")
        return array

    def _open(self) -> FileIO:
        """The file for one use: without a handle that stays, threads share nothing and a file that was replaced is noticed."""
        try:
            file = FileIO(str(self.path))
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror}); a streamed dataset must stay where it is") from None
        if self._stamp_of(os.fstat(file.fileno())) != self._stamp:
            file.close()
            raise DataError(f"{self.path}: was changed after it was opened; start again")
        return file

    @staticmethod
    def _stamp_of(status: os.stat_result) -> tuple[int, int]:
        return status.st_size, status.st_mtime_ns

    def _read(self, file: FileIO, name: str, index: int, into: np.ndarray) -> None:
        """Fill a contiguous array with entries of another, from `index` on."""
        array = self._arrays[name]
        if into.size:
            file.seek(array.start + index * array.row)
            if file.readinto(memoryview(into.reshape(-1).view(np.uint8).data)) != into.nbytes:
                raise self._damaged("it ends too early")

    def _chunks(self, name: str) -> Iterator[np.ndarray]:
        """An array from its beginning to its end, in pieces."""
        array = self._arrays[name]
        with self._open() as file:
            for start in range(0, array.shape[0], CHUNK):
                chunk = np.empty((min(CHUNK, array.shape[0] - start), *array.shape[1:]), array.dtype)
                self._read(file, name, start, chunk)
                yield chunk

    def _damaged(self, reason: str) -> DataError:
        return DataError(f"{self.path}: not a packed crystal file, or damaged ({reason}); {REMEDY}")


class PaddedStream:
    """The crystals of a file as padded tensors on a device, read batch by batch: what `PaddedCrystals` is to `Crystals`."""

    def __init__(self, crystals: StreamedCrystals, vocabulary: Sequence[int], device: torch.device) -> None:
        self.crystals, self.vocabulary, self.device = crystals, tuple(vocabulary), device
        self._upcoming: Iterator[Tensor] = iter(())
        self._ahead: deque[tuple[Tensor, Future[PaddedCrystals]]] = deque()
        # A reader does one finite task at a time, so that nothing has to be told to stop when training ends, fails or is interrupted.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="nesf-reader")

    def __len__(self) -> int:
        return len(self.crystals)

    def expect(self, batches: Iterable[Tensor]) -> None:
        """Announce what will be selected, in that order; it is read ahead. A selection that was not announced is right all the same."""
        for _, future in self._ahead:
            future.cancel()
        self._ahead.clear()
        self._upcoming = iter(batches)
        self._read_ahead()

    def select(self, indices: Tensor, n_atoms: int | None = None) -> PaddedCrystals:
        """The crystals at the given indices [b] (on the CPU), padded as `pad` pads the whole file.

        Args:
            n_atoms: not needed; as for `PaddedCrystals.select`.

        Raises:
            DataError: the file is damaged or was changed, or an element is outside the vocabulary.
        """
        if self._ahead and torch.equal(self._ahead[0][0], indices):
            future = self._ahead.popleft()[1]
            self._read_ahead()
            batch = future.result()
        else:
            if self._ahead:
                self.expect(())
            batch = self._padded(indices)
        if self.device.type != "cuda":
            return batch.to(self.device)
        return _each(batch, lambda x: x.to(self.device, non_blocking=True))

    def _read_ahead(self) -> None:
        while len(self._ahead) < AHEAD and (indices := next(self._upcoming, None)) is not None:
            self._ahead.append((indices, self._reader.submit(self._padded, indices)))

    def _padded(self, indices: Tensor) -> PaddedCrystals:
        batch = pad(self.crystals.read(indices.tolist()), self.vocabulary, width=self.crystals.n_max)
        return _each(batch, Tensor.pin_memory) if self.device.type == "cuda" else batch


def _each(batch: PaddedCrystals, change: Any) -> PaddedCrystals:
    tensors = {f.name: change(x) for f in dataclasses.fields(batch) if isinstance(x := getattr(batch, f.name), Tensor)}
    return dataclasses.replace(batch, **tensors)


@dataclass(frozen=True)
class StreamedDataset:
    """A packed folder that stays on disk: what `Dataset` is, for training.

    Attributes:
        name, fold, provenance, vocabulary: as of `Dataset`.
        splits: `train`, `val`, `test`.
        recorded_hash: what `hash` gives; `open_dataset` compares it with the content.
    """

    name: str
    splits: Mapping[str, StreamedCrystals]
    fold: int | None
    provenance: Mapping[str, Any]
    vocabulary: tuple[int, ...]
    recorded_hash: str

    @property
    def label(self) -> str:
        """Name with its fold, for messages."""
        return self.name if self.fold is None else f"{self.name} fold {self.fold}"

    def hash(self) -> str:
        """That of the same crystals in memory."""
        return self.recorded_hash


def open_dataset(folder: Path, *, check: bool = True) -> StreamedDataset:
    """A packed folder, opened but not loaded.

    Args:
        check: compare the content with the recorded hash, in one pass over the files.

    Raises:
        DataError: as `load_dataset`.
    """
    folder = Path(folder)
    about = read_description(folder)
    splits = {s: StreamedCrystals(folder / f"{s}.safetensors") for s in SPLITS}
    if check and content_hash(splits) != about["hash"]:
        raise DataError(f"{folder}: content does not match the hash in dataset.json; fetch, import or build it again")
    return StreamedDataset(about["name"], splits, about["fold"], about["provenance"], tuple(about["vocabulary"]), about["hash"])


def content_hash(splits: Mapping[str, StreamedCrystals]) -> str:
    """`Dataset.hash` of crystals on disk."""
    digest = hashlib.sha256()
    for name in SPLITS:
        digest.update(f"{name}\n".encode())
        splits[name].add_to(digest)
    return digest.hexdigest()


@dataclass
class PackedWriter:
    """Writes a packed folder part by part: `with PackedWriter(folder, "name") as w: w.append("train", crystals); ...`.

    The folder is what `save_dataset` writes, without properties (the model never uses them). It counts, with `dataset.json`, only after the
    block has ended well; otherwise nothing of it stays. While a split is put together, its largest array is on disk twice.

    Attributes:
        folder: what it held before is replaced.
        name, fold, provenance: as of `Dataset`.
        vocabulary: atomic numbers; empty: those that occur.
    """

    folder: Path
    name: str
    fold: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: tuple[int, ...] = ()

    def __enter__(self) -> PackedWriter:
        self._counts = {s: [0, 0] for s in SPLITS}  # crystals and atoms so far
        self._seen = np.zeros(256, dtype=bool)
        self.folder = Path(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "dataset.json").unlink(missing_ok=True)
            self._parts = {(s, a): open(self.folder / f".{s}.{a}.part", "wb") for s in SPLITS for a in ARRAYS}  # noqa: SIM115 (closed in __exit__)
        except OSError as error:
            raise self._unwritable(error) from None
        for split in SPLITS:
            self._parts[split, "offsets"].write(np.zeros(1, "<i8").tobytes())
        return self

    def append(self, split: str, crystals: Crystals) -> None:
        """Add crystals, in the standard setting, to a split.

        Raises:
            DataError: no such split, an id with a line feed, or a species that is no element.
        """
        if split not in SPLITS:
            raise DataError(f"split {split!r} does not exist; choose from {', '.join(SPLITS)}")
        if bad := next((i for i in crystals.ids if "\n" in i), None):
            raise DataError(f"id {bad!r}: holds a line feed; give it another id")
        if (species := crystals.species[(crystals.species < 1) | (crystals.species > 118)]).size:
            raise DataError(f"split {split}: atomic number {species[0]} is that of no element; leave the crystal out")
        count = self._counts[split]
        self._seen[np.unique(crystals.species)] = True
        content = {
            "offsets": crystals.offsets[1:] + count[1],
            "lattice": crystals.lattice,
            "positions": crystals.positions,
            "species": crystals.species,
            "ids": np.frombuffer("".join(f"{i}\n" for i in crystals.ids).encode(), np.uint8),
        }
        for name, array in content.items():
            self._parts[split, name].write(array.astype(DTYPES[ARRAYS[name][0]]).tobytes())
        count[0] += len(crystals)
        count[1] += len(crystals.species)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        whole = False
        try:
            for part in self._parts.values():
                part.close()
            if error is None:
                self._finish()
                whole = True
            elif isinstance(error, OSError):
                raise error
        except OSError as late:
            raise self._unwritable(late) from None
        finally:
            left = [Path(part.name) for part in self._parts.values()]
            for path in left if whole else [*left, *(self.folder / f"{s}.safetensors" for s in SPLITS)]:
                path.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> NesfError:
        return NesfError(f"{self.folder}: cannot be written ({error.strerror or error}); free some space or choose another folder")

    def _finish(self) -> None:
        """Put each split's parts behind a header, then describe the whole."""
        for split in SPLITS:
            b, n = self._counts[split]
            sizes = {a: os.path.getsize(self._parts[split, a].name) for a in ARRAYS}
            lengths = {"offsets": b + 1, "lattice": b, "positions": n, "species": n, "ids": sizes["ids"]}
            header: dict[str, Any] = {"__metadata__": {"columns": "{}", "metadata": "{}"}}
            start = 0
            for name, (dtype, tail) in ARRAYS.items():  # arrays of 8-byte numbers come first, so that they stay aligned
                header[name] = {"dtype": dtype, "shape": [lengths[name], *tail], "data_offsets": [start, start + sizes[name]]}
                start += sizes[name]
            text = json.dumps(header, separators=(",", ":")).encode()
            text += b" " * (-len(text) % 8)
            path = self.folder / f".{split}.safetensors.part"
            try:
                with open(path, "wb") as file:
                    file.write(len(text).to_bytes(8, "little") + text)
                    for name in ARRAYS:
                        with open(self._parts[split, name].name, "rb") as part:
                            shutil.copyfileobj(part, file, 1 << 20)
                        os.unlink(part.name)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(path, self.folder / f"{split}.safetensors")
            finally:
                path.unlink(missing_ok=True)
        splits = {s: StreamedCrystals(self.folder / f"{s}.safetensors") for s in SPLITS}
        vocabulary = tuple(self.vocabulary) or tuple(np.flatnonzero(self._seen).tolist())
        whole = StreamedDataset(self.name, splits, self.fold, dict(self.provenance), vocabulary, content_hash(splits))
        write_json(self.folder / "dataset.json", description_of(whole))
