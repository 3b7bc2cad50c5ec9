"""Datasets larger than memory: packed folders, read batch by batch and written part by part.

No array with an entry per crystal or atom stays in memory, so that training keeps 8 bytes per
crystal, the order of the epoch. Batches are read plainly: slices of safetensors would map the file,
which is slower for scattered crystals, reads more than is needed from a cold disk, and counts as
the memory of the process. Ids are read only to check the hash. `Crystals.save` keeps them as JSON
in the file's header, which safetensors limits to 100 MB (some 8 million short ids); `PackedWriter`
keeps them as an array of bytes, and `Crystals.load` reads both.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from io import FileIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nesf.crystals import Crystals, PaddedCrystals, pad
from nesf.data.dataset import (
    REMEDY,
    SPLITS,
    Box,
    box_between,
    content_hash,
    description_of,
    id_lines,
    read_description,
)
from nesf.files import parse_json, write_json
from nesf.outputs import PACKED, output
from nesf_io.errors import DataError, NesfError

PREFETCH = 4  # batches read before they are asked for
CHUNK = 1 << 16  # entries of an array in memory while a whole file is read
# Type of one entry of each array, in the order of the file: those of 8-byte numbers come first, so
# that they stay aligned.
ENTRIES = {
    "offsets": "<i8",
    "lattice": "(3,3)<f8",
    "positions": "(3,)<f8",
    "species": "u1",
    "ids": "u1",
}
ARRAYS = {name: np.dtype(entry) for name, entry in ENTRIES.items()}
DTYPES = {"<f8": "F64", "<i8": "I64", "|u1": "U8"}  # names of safetensors


class StreamedCrystals:
    """The crystals of one file that `Crystals.save` or `PackedWriter` wrote, on disk.

    Attributes:
        n_atoms: of all crystals together.
        n_max: number of atoms of the largest crystal.
    """

    def __init__(self, path: Path) -> None:
        """Locate the arrays, and check the offsets; a DataError if the file is not of this form."""
        self.path = Path(path)
        try:
            self._stamp = _stamp(os.stat(self.path))
            # checks the header, and that all arrays are in the file
            with safe_open(str(self.path), framework="numpy"):
                pass
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror or error})") from None
        except SafetensorError as error:
            raise self._damaged(str(error)) from None
        self._starts: dict[str, int] = {}  # first byte of each array
        self._lengths: dict[str, int] = {}  # along its first axis
        self._find_arrays()
        self.n_atoms = self._lengths["positions"]
        if self._lengths["species"] != self.n_atoms or self._lengths["offsets"] != len(self) + 1:
            raise self._damaged("its arrays are not of one length")
        last, self.n_max, ascending = 0, 1, True
        for k, chunk in enumerate(self._chunks("offsets")):
            n_atoms = np.diff(chunk, prepend=last)
            ascending &= bool(n_atoms.min() >= 0) and (k > 0 or chunk[0] == 0)
            last, self.n_max = int(chunk[-1]), max(self.n_max, int(n_atoms.max()))
        if not ascending or last != self.n_atoms:
            raise self._damaged(f"its offsets do not ascend from 0 to its {self.n_atoms} atoms")

    def __len__(self) -> int:
        return self._lengths["lattice"]

    @cached_property
    def box(self) -> Box:
        """`bounding_box` of all crystals, in one pass over the file."""
        low, high = np.full(3, np.inf), np.full(3, -np.inf)
        for chunk in self._chunks("positions"):
            low, high = np.minimum(low, chunk.min(0)), np.maximum(high, chunk.max(0))
        return box_between(low, high)

    def read(self, indices: Sequence[int]) -> Crystals:
        """Read the crystals at some indices; a DataError if the file is damaged or was changed."""
        if outside := [i for i in indices if not 0 <= i < len(self)]:
            raise DataError(
                f"{self.path}: crystal {outside[0]} was asked for, it has {len(self)}; give an index from 0 on"
            )
        with self._open() as file:
            bounds = [self._rows(file, "offsets", i, 2).tolist() for i in indices]
            positions, species = (
                [self._rows(file, name, start, end - start) for start, end in bounds]
                for name in ("positions", "species")
            )
            lattice = np.array([self._rows(file, "lattice", i, 1) for i in indices])
        return Crystals.from_arrays(
            (f"{self.path}, crystal {i}" for i in indices), positions, species, lattice
        )

    def pieces(self) -> dict[str, Iterable[Any]]:
        """Return the ids and arrays as `content_hash` takes them, read chunk by chunk."""
        pieces: dict[str, Iterable[Any]] = {name: self._chunks(name) for name in self._lengths}
        if "ids" in pieces:
            return pieces
        with safe_open(str(self.path), framework="numpy") as file:
            try:
                return pieces | {"ids": [id_lines(parse_json(file.metadata()["ids"]))]}
            except (KeyError, TypeError, ValueError) as error:
                raise self._damaged(f"its ids cannot be read: {error}") from None

    def _find_arrays(self) -> None:
        with self._open() as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        for name, dtype in ARRAYS.items():
            if name == "ids" and "ids" in header.get("__metadata__", ()):
                continue
            if name not in header:
                raise self._damaged(f"{name!r} is missing")
            about = header[name]
            if (
                about["dtype"] != DTYPES[dtype.base.str]
                or not about["shape"]
                or tuple(about["shape"][1:]) != dtype.shape
            ):
                raise self._damaged(f"array {name!r} is of another form")
            self._starts[name], self._lengths[name] = (
                8 + size + about["data_offsets"][0],
                about["shape"][0],
            )

    def _open(self) -> FileIO:
        """Open the file for one use: threads share nothing, and a changed file is noticed."""
        try:
            file = FileIO(str(self.path))
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be read ({error.strerror}); a streamed dataset must stay where it is"
            ) from None
        if _stamp(os.fstat(file.fileno())) != self._stamp:
            file.close()
            raise DataError(f"{self.path}: was changed after it was opened; start again")
        return file

    def _rows(self, file: FileIO, name: str, start: int, n: int) -> np.ndarray:
        dtype = ARRAYS[name]
        file.seek(self._starts[name] + start * dtype.itemsize)
        content = file.read(n * dtype.itemsize)
        if len(content) != n * dtype.itemsize:
            raise self._damaged("it ends too early")
        return np.frombuffer(content, dtype)

    def _chunks(self, name: str) -> Iterator[np.ndarray]:
        with self._open() as file:
            for start in range(0, self._lengths[name], CHUNK):
                yield self._rows(file, name, start, min(CHUNK, self._lengths[name] - start))

    def _damaged(self, reason: str) -> DataError:
        return DataError(
            f"{self.path}: not a packed crystal file, or damaged ({reason}); write it again (nesf data fetch, import or build)"
        )


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


class PaddedStream:
    """The crystals of a file as padded tensors, read batch by batch; like `PaddedCrystals`."""

    def __init__(
        self, crystals: StreamedCrystals, vocabulary: Sequence[int], device: torch.device
    ) -> None:
        self.crystals, self.vocabulary, self.device = crystals, tuple(vocabulary), device
        self._upcoming: Iterator[Tensor] = iter(())
        self._prefetched: deque[tuple[Tensor, Future[PaddedCrystals]]] = deque()
        # A reader does one finite task at a time, so that nothing has to be told to stop when
        # training ends, fails or is interrupted.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="nesf-reader")

    def __len__(self) -> int:
        return len(self.crystals)

    def expect(self, batches: Iterable[Tensor]) -> None:
        """Prefetch batches of indices in the order in which they will be selected."""
        for _, future in self._prefetched:
            future.cancel()
        self._prefetched.clear()
        self._upcoming = iter(batches)
        self._prefetch()

    def select(self, indices: Tensor, n_atoms: int | None = None) -> PaddedCrystals:
        """Return the crystals at the indices [b] (on the CPU), padded as the whole file would be.

        A DataError if the file is damaged or was changed, or if an element is outside the
        vocabulary. `n_atoms` is not needed; `PaddedCrystals.select` has it.
        """
        if self._prefetched and torch.equal(self._prefetched[0][0], indices):
            future = self._prefetched.popleft()[1]
            self._prefetch()
            batch = future.result()
        else:
            self.expect(())
            batch = self._padded(indices)
        return _with_tensors(
            batch, lambda x: x.to(self.device, non_blocking=self.device.type == "cuda")
        )

    def _prefetch(self) -> None:
        while (
            len(self._prefetched) < PREFETCH and (indices := next(self._upcoming, None)) is not None
        ):
            self._prefetched.append((indices, self._reader.submit(self._padded, indices)))

    def _padded(self, indices: Tensor) -> PaddedCrystals:
        batch = pad(
            self.crystals.read(indices.tolist()), self.vocabulary, width=self.crystals.n_max
        )
        return _with_tensors(batch, Tensor.pin_memory) if self.device.type == "cuda" else batch


def _with_tensors(batch: PaddedCrystals, change: Callable[[Tensor], Tensor]) -> PaddedCrystals:
    tensors: dict[str, Any] = {
        f.name: change(x)
        for f in dataclasses.fields(batch)
        if isinstance(x := getattr(batch, f.name), Tensor)
    }
    return dataclasses.replace(batch, **tensors)


@dataclass(frozen=True)
class StreamedDataset:
    """A packed folder that stays on disk; training takes it in place of a `Dataset`.

    Attributes are as of `Dataset`; `recorded_hash` is that of `dataset.json`, which `open_streamed`
    compares with the content.
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
        """Return the recorded hash, which is that of the same crystals in memory."""
        return self.recorded_hash


def open_streamed(folder: Path, *, check: bool = True) -> StreamedDataset:
    """Open a packed folder without loading it (`check`: its hash); errors as of `load_packed`."""
    folder = Path(folder)
    about = read_description(folder)
    splits = {s: StreamedCrystals(folder / f"{s}.safetensors") for s in SPLITS}
    if check and _hash_of(splits) != about["hash"]:
        raise DataError(f"{folder}: content does not match the hash in dataset.json; {REMEDY}")
    return StreamedDataset(
        about["name"],
        splits,
        about["fold"],
        about["provenance"],
        tuple(about["vocabulary"]),
        about["hash"],
    )


def _hash_of(splits: Mapping[str, StreamedCrystals]) -> str:
    return content_hash({name: crystals.pieces() for name, crystals in splits.items()})


@dataclass
class PackedWriter:
    """Writer of a packed folder: `with PackedWriter(folder, "x") as w: w.append("train", part)`.

    The folder is what `save_dataset` writes, without properties (the model never uses them); a
    dataset that it held before is replaced only with `replace`. It is complete when the block ends
    without an error; otherwise it is as before. While a split is put together, its largest array is on disk twice.
    Attributes are as of `Dataset`; an empty vocabulary: the elements that occur.
    """

    folder: Path
    name: str
    fold: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: tuple[int, ...] = ()
    replace: bool = False

    def __enter__(self) -> PackedWriter:
        self.folder = Path(self.folder)
        self._n_atoms = dict.fromkeys(SPLITS, 0)  # so far
        self._seen = np.zeros(256, dtype=bool)  # by atomic number
        with self._disk_errors(), ExitStack() as stack:
            self._made = stack.enter_context(output(self.folder, replace=self.replace, own=PACKED))
            self._parts = {
                (s, a): stack.enter_context(TemporaryFile(dir=self._made))
                for s in SPLITS
                for a in ARRAYS
            }
            self._stack = stack.pop_all()
        for split in SPLITS:
            self._parts[split, "offsets"].write(np.zeros(1, "<i8").tobytes())
        return self

    def append(self, split: str, crystals: Crystals) -> None:
        """Add crystals in the standard setting; a DataError for what a file cannot keep."""
        if split not in SPLITS:
            raise DataError(f"split {split!r} does not exist; choose from {', '.join(SPLITS)}")
        if bad := next((i for i in crystals.ids if "\n" in i), None):
            raise DataError(f"id {bad!r}: holds a line feed; give it another id")
        if (species := crystals.species[(crystals.species < 1) | (crystals.species > 118)]).size:
            raise DataError(
                f"split {split}: atomic number {species[0]} is that of no element; leave the crystal out"
            )
        self._seen[np.unique(crystals.species)] = True
        content = {
            "offsets": crystals.offsets[1:] + self._n_atoms[split],
            "lattice": crystals.lattice,
            "positions": crystals.positions,
            "species": crystals.species,
            "ids": np.frombuffer(id_lines(crystals.ids), np.uint8),
        }
        with self._disk_errors():
            for name, array in content.items():
                self._parts[split, name].write(array.astype(ARRAYS[name].base).tobytes())
        self._n_atoms[split] += len(crystals.species)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._disk_errors():  # the stack puts all in its place, or removes it
            if error is None:
                with self._stack:
                    self._finish()
            else:
                self._stack.__exit__(type(error), error, error.__traceback__)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise NesfError(
                f"{self.folder}: cannot be written ({error.strerror or error}); free some space or choose another folder"
            ) from None

    def _finish(self) -> None:
        """Put the splits together, describe the whole, and move it into the folder."""
        for split in SPLITS:
            self._put_together(
                {name: self._parts[split, name] for name in ARRAYS},
                self._made / f"{split}.safetensors",
            )
        splits = {s: StreamedCrystals(self._made / f"{s}.safetensors") for s in SPLITS}
        vocabulary = tuple(self.vocabulary) or tuple(np.flatnonzero(self._seen).tolist())
        dataset = StreamedDataset(
            self.name, splits, self.fold, dict(self.provenance), vocabulary, _hash_of(splits)
        )
        write_json(self._made / "dataset.json", description_of(dataset))

    def _put_together(self, parts: Mapping[str, IO[bytes]], path: Path) -> None:
        header: dict[str, Any] = {"__metadata__": {"columns": "{}", "metadata": "{}"}}
        start = 0
        for name, dtype in ARRAYS.items():
            end = start + parts[name].tell()
            shape = [(end - start) // dtype.itemsize, *dtype.shape]
            header[name] = {
                "dtype": DTYPES[dtype.base.str],
                "shape": shape,
                "data_offsets": [start, end],
            }
            start = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(path, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for part in parts.values():
                part.seek(0)
                shutil.copyfileobj(part, file, 1 << 20)
                part.close()  # which deletes it
            file.flush()
            os.fsync(file.fileno())
