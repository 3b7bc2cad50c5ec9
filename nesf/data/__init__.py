"""Datasets: the official release, own files, the embedded starter set; and one `load` for all."""

from __future__ import annotations

import warnings
from pathlib import Path

from nesf.data.dataset import Dataset, default_data_dir, load_packed, save_dataset
from nesf.data.official import (
    AS_RELEASED_WARNING,
    FOLDS,
    OFFICIAL,
    check_fold,
    fetch,
    packed_folder,
)
from nesf.data.streaming import StreamedDataset, open_streamed
from nesf_io.errors import ConfigError, DataError

__all__ = [
    "OFFICIAL",
    "Dataset",
    "StreamedDataset",
    "available",
    "default_data_dir",
    "fetch",
    "load",
    "save_dataset",
    "stream",
]

STARTER_FOLDER = Path(__file__).parent / "starter_dataset"


def available(data_dir: Path | None = None) -> dict[str, Path]:
    """Return the packed folders of the datasets on this machine, by label (`ybco fold 3`)."""
    data_dir = Path(data_dir or default_data_dir())
    found = {f.parent.name: f.parent for f in sorted(data_dir.glob("*/dataset.json"))}
    found |= {
        f"ybco fold {k}": f
        for k in range(FOLDS)
        if (f := packed_folder("ybco", k, data_dir)).joinpath("dataset.json").exists()
    }
    return {"starter": STARTER_FOLDER} | found


def load(
    name: str,
    *,
    fold: int | None = None,
    data_dir: Path | None = None,
    mirror: Path | None = None,
    fetch: bool = False,
    skip_bad: bool = False,
) -> Dataset:
    """Load any dataset by name or path.

    Args:
        name: `lcs6`, `ybco`, `icsg3d`, `icsg3d-as-released`; `starter` (embedded); the name of a
            dataset that was imported or built; or a path to own data (`nesf.data.files.read`) or to
            a packed folder.
        fold: of `ybco`, 0-19.
        mirror: a local copy of the official release to take the files from.
        fetch: download what is of the official release and not on disk yet.
        skip_bad: for own data, leave out what cannot be used; a warning counts it,
            `provenance["skipped"]` lists it.

    Raises:
        ConfigError: a fold that does not exist.
        DataError: no such dataset, or not on disk yet; the message names the command that fetches
            it.
    """
    name, data_dir = str(name), Path(data_dir or default_data_dir())
    if folder := _packed(name, fold, data_dir, mirror, fetch):
        return load_packed(folder)
    if Path(name).exists() or set(name) & set("*?["):
        from nesf.data.files import Note, read, warn_of

        dataset, skipped = read(name, skip_bad=skip_bad)
        warn_of(name, skipped, [Note(**note) for note in dataset.provenance["notes"]])
        return dataset
    known = ", ".join(
        sorted({*OFFICIAL, *(label.split(" fold ")[0] for label in available(data_dir))})
    )
    raise DataError(
        f"{name!r} is neither a dataset ({known}) nor a file or folder; import own data with `nesf data import`, or give its path (of a run or model on own data by --dataset)"
    )


def stream(
    name: str, *, fold: int | None = None, data_dir: Path | None = None, mirror: Path | None = None
) -> StreamedDataset:
    """Open a dataset that stays on disk, to train on millions of crystals; arguments as of `load`.

    It must be packed: fetched, imported, built, or written with `nesf.data.streaming.PackedWriter`;
    else a ConfigError.
    """
    name = str(name)
    if folder := _packed(name, fold, Path(data_dir or default_data_dir()), mirror, False):
        return open_streamed(folder)
    if Path(name).exists():
        raise ConfigError(
            f"{name}: is not packed, so it cannot be streamed; pack it with `nesf data import` first"
        )
    raise DataError(
        f"{name!r} is not a packed dataset; `nesf data list` shows those that are on this machine"
    )


def _packed(
    name: str, fold: int | None, data_dir: Path, mirror: Path | None, fetch_missing: bool
) -> Path | None:
    """Return the packed folder of a dataset, if it has one."""
    check_fold(name, fold)
    if name == "starter":
        return STARTER_FOLDER
    if name not in OFFICIAL:
        return next(
            (
                folder
                for folder in (data_dir / name, Path(name))
                if (folder / "dataset.json").exists()
            ),
            None,
        )
    folder = packed_folder(name, fold, data_dir)
    if fetch_missing or mirror is not None:
        fetch(name, fold=fold, data_dir=data_dir, mirror=mirror)
    elif not (folder / "dataset.json").exists():
        command = f"nesf data fetch {name}" + (f" --fold {fold}" if fold is not None else "")
        raise DataError(
            f"{name} is not on disk ({folder}); get it with `{command}`, or with `{command} --mirror DIR` from a copy of the release"
        )
    elif name == "icsg3d-as-released":
        warnings.warn(AS_RELEASED_WARNING, stacklevel=3)
    return folder
