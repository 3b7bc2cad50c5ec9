"""A dataset: three splits, a vocabulary, a bounding box and where they come from; and its packed folder on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nesf.crystals import Crystals, vocabulary_of
from nesf.errors import DataError
from nesf.files import read_json, write_json

SPLITS = ("train", "val", "test")
FORMAT = 1


@dataclass(frozen=True)
class Dataset:
    """Crystals in three splits.

    Attributes:
        name: `lcs6`, `ybco`, `icsg3d`, `icsg3d-as-released`, `icsg3d-recovered`, `starter` or the user's own.
        splits: `train`, `val`, `test`, each a `Crystals` in the standard setting (`standard_lattice`).
        fold: the fold of a cross-validation, or None.
        provenance: source, licence, counts, notes; what `dataset.json` says.
        vocabulary: atomic numbers, ascending, that the model's species axis has. The release gives it; else all splits' elements.
    """

    name: str
    splits: Mapping[str, Crystals]
    fold: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        missing = [s for s in SPLITS if s not in self.splits]
        if missing:
            raise DataError(f"dataset {self.name}: split {missing[0]} is missing")
        if not self.vocabulary:
            object.__setattr__(self, "vocabulary", vocabulary_of(*self.splits.values()))

    @property
    def label(self) -> str:
        """Name with its fold, for messages and titles: `ybco fold 3`."""
        return self.name if self.fold is None else f"{self.name} fold {self.fold}"

    def split(self, name: str) -> Crystals:
        """One split by name.

        Raises:
            DataError: there is no such split.
        """
        if name not in self.splits:
            raise DataError(f"split {name!r} does not exist; choose from {', '.join(self.splits)}")
        return self.splits[name]

    def hash(self) -> str:
        """SHA-256 over ids, positions (rounded to 1e-6 Å), species and lattices of all splits: the same crystals give the same hash."""
        digest = hashlib.sha256()
        for name in SPLITS:
            crystals = self.splits[name]
            digest.update(("\n".join((name, *crystals.ids)) + "\n").encode())
            for array in (crystals.positions, crystals.lattice):
                digest.update(np.round(array * 1e6).astype("<i8").tobytes())
            for array in (crystals.species, crystals.offsets):
                digest.update(array.astype("<i8").tobytes())
        return digest.hexdigest()


Box = tuple[tuple[float, float, float], tuple[float, float, float]]


def bounding_box(crystals: Crystals) -> Box:
    """The box common to a dataset that encompasses all atoms of its training crystals (Section 2.1, step 1).

    Grids over it (`nesf.fields.box_grid`) grow it by one interval on each side.

    Args:
        crystals: the training split.

    Returns:
        Lower and upper corner (x, y, z), Å.
    """
    low, high = crystals.positions.min(0).tolist(), crystals.positions.max(0).tolist()
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def default_data_dir() -> Path:
    """The user's data folder, where fetched, imported and built datasets lie unless another is given."""
    from platformdirs import user_data_dir  # not needed where a model is trained on a folder that is given

    return Path(user_data_dir("nesf", appauthor=False))


def save_dataset(dataset: Dataset, folder: Path) -> None:
    """Write a dataset's packed folder: a safetensors file per split, then `dataset.json`; the folder counts only with the latter."""
    folder = Path(folder)
    (folder / "dataset.json").unlink(missing_ok=True)
    try:
        for name in SPLITS:
            dataset.splits[name].save(folder / f"{name}.safetensors")
        write_json(folder / "dataset.json", description_of(dataset))
    except BaseException:  # a full disk, Ctrl-C: no part of a dataset stays, and the interruption goes on
        for name in SPLITS:
            (folder / f"{name}.safetensors").unlink(missing_ok=True)
        raise


def description_of(dataset: Any) -> dict[str, Any]:
    """Content of `dataset.json`, for a `Dataset` or a `nesf.data.streaming.StreamedDataset`."""
    return {
        "format": FORMAT,
        "name": dataset.name,
        "fold": dataset.fold,
        "hash": dataset.hash(),
        "vocabulary": list(dataset.vocabulary),
        "counts": {s: len(dataset.splits[s]) for s in SPLITS},
        "provenance": dict(dataset.provenance),
    }


def read_description(folder: Path) -> dict[str, Any]:
    """`dataset.json` of a packed folder.

    Raises:
        DataError: it is missing, incomplete or of another version.
    """
    description = read_json(folder / "dataset.json")
    if not isinstance(description, dict):
        raise DataError(f"{folder}/dataset.json: is not the description of a dataset; fetch, import or build it again")
    if description.get("format") != FORMAT:
        raise DataError(f"{folder}/dataset.json: format {description.get('format')!r}, this version reads {FORMAT}; fetch, import or build it again")
    if missing := [key for key in ("name", "fold", "hash", "vocabulary", "provenance") if key not in description]:
        raise DataError(
            f"{folder}/dataset.json: is not the whole description of a dataset ({missing[0]!r} is missing); fetch, import or build it again"
        )
    return description


def load_dataset(folder: Path, *, check: bool = True) -> Dataset:
    """Read a packed folder.

    Args:
        check: compare the content with the recorded hash.

    Raises:
        DataError: no such dataset, a damaged file, a form of another version, or content that does not match its hash.
    """
    folder = Path(folder)
    description = read_description(folder)
    splits = {s: Crystals.load(folder / f"{s}.safetensors") for s in SPLITS}
    dataset = Dataset(description["name"], splits, description["fold"], description["provenance"], tuple(description["vocabulary"]))
    if check and dataset.hash() != description["hash"]:
        raise DataError(f"{folder}: content does not match the hash in dataset.json; fetch, import or build it again")
    return dataset
