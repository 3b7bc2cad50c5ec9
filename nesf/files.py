"""Reading and writing of small files."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from nesf_io.errors import DataError, NesfError

MOST_BYTES = (
    256 << 20
)  # of a JSON file: the largest there are list the ids of some million crystals
MOST_LEVELS = 32  # of JSON
TOO_DEEP = f"it has more than {MOST_LEVELS} levels"
REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "your quota is used up; free some space or choose another folder",
    errno.EFBIG: "files may not become so large here; raise the limit (ulimit -f) or choose another folder",
    errno.EACCES: "ask for the permission or choose another path",
    errno.EPERM: "ask for the permission or choose another path",
    errno.EROFS: "choose a folder that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a file stands in the place of a folder; choose another path",
    errno.EEXIST: "a file stands in the place of a folder; choose another path",
    errno.EISDIR: "a folder stands in the place of a file; choose another path",
    errno.ENOENT: "check the path",
}


def remedy_for(error: OSError) -> str:
    """Return what a user can do about an error of the operating system."""
    return REMEDIES.get(error.errno or 0, "check the path, or choose another")


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all, even in a power cut.

    Raises:
        NesfError: it cannot be written; the message says why, and nothing is left behind.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        ) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise NesfError(
            f"{path}: cannot be written ({error.strerror or error}); {remedy_for(error)}"
        ) from None
    finally:  # Ctrl-C, too, leaves no part of a file
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, keys in the order given, with a final newline."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; raise a `DataError` that names the file if it is missing, too large or not JSON."""
    try:
        if (size := os.stat(path).st_size) > MOST_BYTES:
            raise DataError(
                f"{path}: has {size} bytes; a file of this kind has at most {MOST_BYTES}, so give another"
            )
        return parse_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); {remedy_for(error)}"
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error})") from None


def parse_json(text: str | bytes) -> Any:
    """Parse JSON as the standard has it.

    Raises:
        ValueError: it is none, or holds NaN, Infinity, a number beyond float64, more than
            `MOST_LEVELS` levels, or text that is not Unicode.
    """
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            break
    else:
        raise ValueError(TOO_DEEP)
    if "\\u" in (text if isinstance(text, str) else text.decode()):  # may be half of a pair
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"holds {text}; NaN, Infinity and numbers beyond 1e308 are none")
    return value


def sha256_of(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
