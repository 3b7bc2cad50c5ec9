"""What a page of the book reads: its notebook is executed again when that has changed, and not else.

The build names a file in `NESF_READS` (and in `NESF_ROOT` a root other than the repository, for
tests); the kernel that executes the page writes there which
modules, recorded runs and folders of the repository it used, with their hashes (an audit hook of
Python sees each file that is opened and each folder that is listed).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nesf.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
# what is made here, or is not the project's
_SKIPPED = {"__pycache__", "_build", "data"}
VERSIONS = "requirements.lock"  # of everything that is installed


class Reads:
    """The files and folders below `root` that this process reads from now on."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root.resolve()
        self._names: set[str] = set()
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.listdir", "os.scandir") and isinstance(
            arguments[0], str | os.PathLike
        ):
            self._names.add(os.path.abspath(os.fspath(arguments[0])))

    def hashes(self) -> dict[str, str]:
        """Return what was read and the modules of the repository, by path: hash."""
        modules = [getattr(m, "__file__", None) or "" for m in list(sys.modules.values())]
        names = {*self._names, *modules, str(self.root / VERSIONS)}
        paths = {Path(name) for name in names if self._ours(name)}
        # weights are read by a library of another language, which the hook does not hear
        beside = {w for p in paths if p.is_file() for w in p.parent.glob("*.safetensors")}
        # a file that appears in such a folder may be one that the page looked for
        folders = {p.parent for p in paths if p.suffix in (".json", ".csv")}
        return {
            p.relative_to(self.root).as_posix(): _hash(p)
            for p in sorted(paths | beside | folders)
            if p.exists()
        }

    def _ours(self, name: str) -> bool:
        if not name.startswith(f"{self.root}{os.sep}"):
            return False
        parts = Path(name).relative_to(self.root).parts
        return not _SKIPPED & set(parts) and not parts[0].startswith(".")


def is_there(path: Path) -> bool:
    """Return whether a file exists; a page that asks is made again when that changes."""
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    os.listdir(folder)  # heard
    return path.exists()


def watch() -> None:
    """Write what this kernel reads after each of its cells, where the build of the book asks."""
    target = os.environ.get("NESF_READS")
    if not target:
        return
    from IPython.core.getipython import get_ipython

    reads, shell = Reads(Path(os.environ.get("NESF_ROOT", ROOT))), get_ipython()

    def write(*_: Any) -> None:
        kept = {"code": os.environ.get("NESF_CODE", ""), "read": reads.hashes()}
        write_atomically(Path(target), json.dumps(kept, indent=1))

    if shell is not None:
        register: Callable[[str, Callable[..., None]], None] = shell.events.register
        register("post_run_cell", write)


def is_current(file: Path, code: str, root: Path = ROOT) -> bool:
    """Tell whether a page whose reads were written to `file` would read the same today.

    `code` is the hash of its cells, as it was given to the kernel in `NESF_CODE`.
    """
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return kept["code"] == code and all(
            (root / name).exists() and _hash(root / name) == value
            for name, value in kept["read"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _hash(path: Path) -> str:
    """Return the hash of a file's content, or of the names in a folder."""
    if path.is_dir():
        names = sorted(p.name for p in path.iterdir() if p.name not in _SKIPPED)
        return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
