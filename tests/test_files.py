"""Small files: written whole or not at all, and read with errors that name them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from nesf.files import read_json, sha256_of, write_atomically, write_json
from nesf_io.errors import DataError, NesfError


def test_json_and_hash(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    value = {"b": [1, 2.5, None], "a": "Å"}
    write_json(path, value)
    assert read_json(path) == value and list(read_json(path)) == ["b", "a"]
    assert path.read_text(encoding="utf-8").endswith("}\n") and "Å" in path.read_text(
        encoding="utf-8"
    )
    assert sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="nan"):
        write_json(path, float("nan"))
    assert read_json(path) == value


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json"):
        read_json(tmp_path / "none.json")
    for content in (b"{", b"\xff\xfe"):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(DataError, match=r"bad\.json"):
            read_json(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("error", "seen"),
    [(OSError(28, "No space left on device"), NesfError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, seen: type
) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(seen, match="No space" if seen is NesfError else None):
        write_atomically(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]
