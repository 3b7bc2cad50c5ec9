"""Files of published data: downloaded, checked against hashes, unpickled without running code."""

from __future__ import annotations

import hashlib
import http.client
import io
import pickle
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import numpy as np

from nesf_io.errors import DataError

ATTEMPTS = 4  # of one download
RETRY_SECONDS = 2.0  # before the second attempt; doubled each time
TIMEOUT = 30.0  # seconds without a byte


@dataclass(frozen=True)
class ReleaseFile:
    """A file of the release: its path and what its content must be (None: not known)."""

    path: str
    size: int | None
    git_blob_sha1: str | None
    sha256: str | None

    def check(self, content: bytes, where: object) -> None:
        """Compare content with size, SHA-256 and git blob SHA-1; a DataError if they differ."""
        blob = hashlib.sha1(
            b"blob %d\0" % len(content) + content, usedforsecurity=False
        ).hexdigest()
        found = {
            "size": len(content),
            "SHA-256": hashlib.sha256(content).hexdigest(),
            "git blob SHA-1": blob,
        }
        for (what, value), known in zip(
            found.items(), (self.size, self.sha256, self.git_blob_sha1), strict=True
        ):
            if known not in (None, value):
                raise DataError(
                    f"{where}: {what} is {value}, not {known}: damaged, truncated or another version; it was not read, get it again"
                )


class _RestrictedUnpickler(pickle.Unpickler):
    """Unpickler that knows three globals of numpy (names of numpy 1 and 2), and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        ):
            # `_reconstruct` is numpy's own name for this; numpy.core is the old path of the same
            # module.
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise DataError(
            f"the pickle asks for {module}.{name}, which is not one of the numpy globals allowed; do not use this file"
        )


def restricted_loads(pickled: bytes, where: object) -> Any:
    """Unpickle arrays and plain values; anything else is a DataError, never imported or called."""
    try:
        return _RestrictedUnpickler(io.BytesIO(pickled)).load()
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        KeyError,
        ImportError,
        MemoryError,
    ) as error:
        raise DataError(
            f"{where}: not a readable pickle ({error or type(error).__name__}); get it again"
        ) from None


def download(url: str) -> bytes:
    """Return what is at an address; a DataError if nothing is, or after `ATTEMPTS` failures."""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(RETRY_SECONDS * 2 ** (attempt - 1))
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            reason = f"the server says {error.code} {error.reason}"
            if error.code < 500 and error.code != http.HTTPStatus.TOO_MANY_REQUESTS:
                break
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
    raise DataError(
        f"{url}: cannot be downloaded ({reason}); run the command again, or give a local copy with --mirror DIR"
    )
