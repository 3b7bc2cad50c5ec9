"""Datasets: three splits, a vocabulary and where they come from; and their packed folders."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nesf.crystals import Crystals, vocabulary_of
from nesf.files import write_json
from nesf.forms import FORMAT, Element, Identity, read_form, within
from nesf.outputs import PACKED, output
from nesf_io.errors import DataError, NesfError

SPLITS = ("train", "val", "test")
# arrays, in the order in which `content_hash` reads them
HASHED = ("positions", "lattice", "species", "offsets")
REMEDY = "fetch, import or build it again"

Box = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class Dataset:
    """Crystals in three splits.

    Attributes:
        splits: `train`, `val`, `test`, in the standard setting (`standard_lattice`).
        fold: of a cross-validation.
        provenance: source, licence, counts, notes; what `dataset.json` says.
        vocabulary: atomic numbers, ascending, of the model's species axis; given by the release,
            else the elements of all splits.
    """

    name: str
    splits: Mapping[str, Crystals]
    fold: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if missing := [s for s in SPLITS if s not in self.splits]:
            raise DataError(f"dataset {self.name}: split {missing[0]} is missing")
        if not self.vocabulary:
            object.__setattr__(self, "vocabulary", vocabulary_of(*self.splits.values()))

    @property
    def label(self) -> str:
        """Name with its fold, for messages and titles: `ybco fold 3`."""
        return self.name if self.fold is None else f"{self.name} fold {self.fold}"

    def split(self, name: str) -> Crystals:
        """Return a split by name; a DataError if there is no such split."""
        if name not in self.splits:
            raise DataError(f"split {name!r} does not exist; choose from {', '.join(self.splits)}")
        return self.splits[name]

    def hash(self) -> str:
        """Return the SHA-256 of the content of all splits (`content_hash`), computed once."""
        return self._hash

    @cached_property
    def _hash(self) -> str:
        return content_hash(
            {
                s: {"ids": [id_lines(c.ids)]} | {a: [getattr(c, a)] for a in HASHED}
                for s, c in self.splits.items()
            }
        )


def content_hash(splits: Mapping[str, Mapping[str, Iterable[Any]]]) -> str:
    """Return the SHA-256 of splits in pieces: ids as `id_lines`, and arrays, Å rounded to 1e-6."""
    digest = hashlib.sha256()
    for name in SPLITS:
        digest.update(f"{name}\n".encode())
        for piece in splits[name]["ids"]:
            digest.update(piece)
        for key in HASHED:
            for piece in splits[name][key]:
                whole = np.round(piece * 1e6) if key in ("positions", "lattice") else piece
                digest.update(whole.astype("<i8").tobytes())
    return digest.hexdigest()


def id_lines(ids: Iterable[str]) -> bytes:
    """Return ids as bytes, each with a line feed."""
    return "".join(f"{i}\n" for i in ids).encode()


def bounding_box(crystals: Crystals) -> Box:
    """Return the lower and upper corner, Å, of the box around all atoms (Section 2.1, step 1).

    The box of a dataset is that of its training split. Grids over it (`nesf.fields.box_grid`) grow
    it by one interval on each side.
    """
    return box_between(crystals.positions.min(0), crystals.positions.max(0))


def box_between(low: np.ndarray, high: np.ndarray) -> Box:
    """Return two corners [3] as a box."""
    return tuple(low.tolist()), tuple(high.tolist())


def default_data_dir() -> Path:
    """Return the user's data folder, for fetched, imported and built datasets."""
    # not needed where a model is trained on a folder that is given
    from platformdirs import user_data_dir

    return Path(user_data_dir("nesf", appauthor=False))


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn a failed import inside the block into a NesfError that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise NesfError(
            f'{error.name} is not installed; install it with `pip install "nesf[{extra}]"`'
        ) from None


def save_dataset(dataset: Dataset, folder: Path, *, replace: bool = False) -> None:
    """Write a dataset's packed folder: a safetensors file per split, and `dataset.json`.

    Raises:
        ConfigError: the folder holds something else, or a dataset and `replace` is not given.
        NesfError: it cannot be written; what it held is as before.
    """
    with output(folder, replace=replace, own=PACKED) as made:
        for name in SPLITS:
            dataset.splits[name].save(made / f"{name}.safetensors")
        write_json(made / "dataset.json", description_of(dataset))


def description_of(dataset: Any) -> dict[str, Any]:
    """Return the content of `dataset.json`, for a `Dataset` or a `StreamedDataset`."""
    return {
        "format": FORMAT,
        "name": dataset.name,
        "fold": dataset.fold,
        "hash": dataset.hash(),
        "vocabulary": list(dataset.vocabulary),
        "counts": {s: len(dataset.splits[s]) for s in SPLITS},
        "provenance": dict(dataset.provenance),
    }


class DatasetFile(Identity):
    """What `dataset.json` holds."""

    format: int
    vocabulary: tuple[Element, ...]
    counts: dict[str, int]
    provenance: dict[str, Any]


def read_description(folder: Path) -> dict[str, Any]:
    """Read `dataset.json`; a DataError if it is missing, damaged or of another version."""
    file = Path(folder) / "dataset.json"
    description: dict[str, Any] = read_form(file, DatasetFile, REMEDY)
    check_vocabulary(file, description["vocabulary"])
    return description


def check_vocabulary(file: Path, vocabulary: Sequence[int]) -> None:
    """Raise a `DataError` that names the file if a vocabulary does not ascend."""
    if sorted(set(vocabulary)) != list(vocabulary):
        raise DataError(f"{file}: vocabulary does not ascend, or names an element twice; {REMEDY}")


def load_packed(folder: Path) -> Dataset:
    """Read a packed folder; a DataError if it is missing, damaged or of another version."""
    folder = Path(folder)
    description = read_description(folder)
    splits = {s: Crystals.load(folder / f"{s}.safetensors") for s in SPLITS}
    dataset = Dataset(
        description["name"],
        splits,
        description["fold"],
        description["provenance"],
        tuple(description["vocabulary"]),
    )
    if dataset.hash() != description["hash"]:
        raise DataError(f"{folder}: content does not match the hash in dataset.json; {REMEDY}")
    return dataset


def split(
    crystals: Crystals,
    *,
    seed: int,
    test_fraction: float = 0.05,
    val_fraction: float = 0.05,
    folds: int | None = None,
) -> list[dict[str, Crystals]]:
    """Split as the paper does (Section 4.1), once, or once a fold: {"train", "val", "test"} each.

    Shuffled; test, then validation, train the rest. The fractions are read from the official
    release and give the paper's counts: 6005 → 5418 / 286 / 301 (LCS6Å), 100 → 90 / 5 / 5
    (YBCO-like), 7194 → 6492 / 342 / 360 (ICSG3D). In fold K of a cross-validation part K of the
    shuffled materials is test and the next part validation, so that each material is in one test
    set.

    Raises:
        DataError: too few materials for a training set, or for the folds.
        ConfigError: a seed out of bounds.
    """
    within("seed", seed)
    n, order = len(crystals), np.random.default_rng(seed).permutation(len(crystals))
    if folds is not None:
        if n < folds:
            raise DataError(
                f"{n} materials are too few for {folds} folds; loosen the rules or ask for fewer folds"
            )
        parts = np.array_split(order, folds)
        held_out = [(parts[k], parts[(k + 1) % folds]) for k in range(folds)]
    else:
        # 1e-9: 0.05 * 100 must give 5 whatever the rounding of the product
        n_test = math.ceil(test_fraction * n - 1e-9)
        n_val = math.ceil(val_fraction * (n - n_test) - 1e-9)
        if n < n_test + n_val + 1 or n_test == 0 or n_val == 0:
            raise DataError(
                f"{n} crystals are too few to split into train, validation and test; give at least 3, or loosen the rules"
            )
        held_out = [(order[:n_test], order[n_test : n_test + n_val])]
    return [
        {
            "train": crystals.select(order[~np.isin(order, np.concatenate([test, val]))]),
            "val": crystals.select(val),
            "test": crystals.select(test),
        }
        for test, val in held_out
    ]
