"""Latent vectors in files: NumPy's .npy with the ids beside it, or CSV with the ids in it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nesf.files import read_json, write_atomically, write_json
from nesf_io.errors import ConfigError, DataError


def feature_names(width: int) -> list[str]:
    """Return the names of the entries of a latent vector: z000, z001, ..."""
    return [f"z{i:03d}" for i in range(width)]


def ids_beside(path: Path) -> Path:
    """Return the file that holds the ids of a .npy file."""
    return path.with_name(f"{path.stem}.ids.json")


def write_latent(path: Path, z: np.ndarray, ids: Sequence[str]) -> None:
    """Write latent vectors [B, Z]: `.csv` with a column `id`; `.npy` and `.ids.json` beside it.

    Raises:
        ConfigError: another suffix.
    """
    if path.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, z.astype(np.float32))
        write_atomically(path, buffer.getvalue())
        write_json(ids_beside(path), list(ids))
    elif path.suffix == ".csv":
        table = pd.DataFrame(z, pd.Index(ids, name="id"), feature_names(z.shape[1]))
        # nine digits give each float32 back
        write_atomically(path, table.to_csv(float_format="%.9g", lineterminator="\n"))
    else:
        raise ConfigError(f"{path}: the name of a .npy or .csv file is expected")


def read_latent(path: Path) -> tuple[np.ndarray, list[str]]:
    """Read latent vectors [B, Z] and their ids: what `write_latent` wrote, or anybody's array.

    Without ids (a .npy alone, a table without column `id`) they are 0, 1, ...

    Raises:
        DataError: no such file, no numbers, or as many ids as there are not vectors.
    """
    ids: list[str] | None = None
    try:
        if path.suffix == ".npy":
            with open(path, "rb") as file:
                if file.read(6) != b"\x93NUMPY":
                    raise DataError(f"{path}: is no .npy file; write one with numpy.save")
            # mapped: a file that is smaller than it says takes no memory
            z = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
            if ids_beside(path).exists():
                ids = [str(i) for i in read_json(ids_beside(path))]
        elif path.suffix == ".csv":
            with open(path, encoding="utf-8", newline="") as text:
                header, *rows = filter(None, csv.reader(text, strict=True))
            for i, row in enumerate(rows, start=1):
                if len(row) != len(header):
                    raise DataError(
                        f"{path}: row {i} has {len(row)} fields, its header {len(header)}"
                    )
            table = pd.DataFrame(rows, columns=header)
            ids = list(table.pop("id")) if "id" in table else None
            names = feature_names(table.shape[1])
            if set(table) == set(names):  # in any order
                table = table[names]
            z = table.to_numpy(dtype=np.float64)
        else:
            raise DataError(f"{path}: latent vectors are read from a .npy or .csv file")
        z = np.asarray(z, dtype=np.float32)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, EOFError, TypeError, IndexError, csv.Error) as error:
        raise DataError(f"{path}: holds no array of numbers ({error})") from None
    if z.ndim != 2 or not len(z) or not np.isfinite(z).all():
        raise DataError(
            f"{path}: finite numbers of shape [B, Z] are expected, it has {list(z.shape)}"
        )
    ids = ids if ids is not None else [str(i) for i in range(len(z))]
    if len(ids) != len(z) or len(set(ids)) != len(ids):
        raise DataError(
            f"{path}: {len(z)} latent vectors and {len(set(ids))} different ids; "
            f"mend the ids or, for a .npy, remove {ids_beside(path).name}"
        )
    return z, ids
