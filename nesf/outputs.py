"""One rule for every folder that a command writes: nothing is lost, mixed or overwritten in silence.

A folder is new, or empty, or holds this program's own files alone and `--replace` is given. One
process writes it at a time. Where a call makes the whole content (`output`) it is built beside the
old one, in the folder itself, which may be a mount point, and takes its place at the end; a
training (`run_folder`) grows in place and keeps the run that it replaces until it has finished.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypedDict

from nesf.files import remedy_for, write_json
from nesf.forms import read_form
from nesf_io.errors import ConfigError, NesfError

# Working files of this module, all in the folder itself. LISTED names what `output` wrote there.
LOCK, LISTED, REPLACED = ".nesf-lock", ".nesf.json", ".nesf-replaced"
# New content that is being built; new content that is complete; old content on its way out.
NEW, READY, OLD = ".nesf-new", ".nesf-ready", ".nesf-old"
HIDDEN = (LOCK, LISTED, REPLACED, NEW, READY, OLD)


class Listed(TypedDict):
    """What `LISTED` holds."""

    files: list[str]


class WriteOptions(TypedDict, total=False):
    """Options of functions that compute and write."""

    replace: bool  # what this program wrote there before (False)
    progress: bool  # bars on standard error (True)


CHECKPOINT = r"checkpoint-([a-z]+-)?\d+-\d+\.safetensors"
# Files of a place that only this program writes, as patterns of relative paths.
RECONSTRUCTION = r"(crystals\.safetensors|(structures|atoms)\.csv|summary\.json|cif/[^/]+\.cif)"
PACKED = r"((train|val|test)\.safetensors|dataset\.json)"  # a dataset
ANALYSIS = r"(analysis\.json|[\w-]+\.(csv|safetensors))"
RUN = (
    rf"((run|metrics|model|checkpoint)\.json|(materials|log)\.csv|model\.safetensors|MODEL_CARD\.md|{CHECKPOINT}"
    rf"|reconstruction/\w+/{RECONSTRUCTION}|analysis/[\w-]+/{ANALYSIS})"
)
# left by a kill while a file was written (`nesf.files.write_atomically`)
PART = r"(.*/)?\.[^/]+\.[a-z0-9_]{8}\.part"
BEFORE_CHECKPOINT = rf"{CHECKPOINT}|log\.csv|{PART}"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes of this program from writing a folder, which is made if need be.

    The lock is the operating system's, so a kill ends it. A folder that is made and stays empty is
    removed again.

    Raises:
        NesfError: another process writes there, or the folder cannot be made.
    """
    folder = Path(folder)
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _lock(folder / LOCK)
    except BlockingIOError:
        raise NesfError(
            f"{folder}: another process writes there; wait for it, or choose another folder"
        ) from None
    except OSError as error:
        raise NesfError(
            f"{folder}: cannot be written ({error.strerror or error}); {remedy_for(error)}"
        ) from None
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        os.close(file)
        with suppress(OSError):  # not empty
            for path in made:
                path.rmdir()


def _lock(path: Path) -> int:
    """Return the descriptor of a lock file that this process holds."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if os.name == "posix":
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # not of a process that has just removed it
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                return file
        except OSError as error:
            # a file system without locks
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                return file
            os.close(file)
            raise
        os.close(file)


@contextmanager
def output(
    folder: Path, *, replace: bool = False, own: str = "", inputs: Iterable[Path] = ()
) -> Iterator[Path]:
    """Yield a folder to build in, whose content takes the place of that of `folder` at the end.

    After an error, an interruption or a kill, `folder` is as it was before.

    Args:
        folder: of the output.
        replace: whether this program's own files in it may be replaced.
        own: pattern of its own files, where it is a place that only this program writes; otherwise
            they are those that the last call has listed.
        inputs: what is read, which must not lie in the folder.

    Raises:
        ConfigError: the folder holds something that may not be replaced, or an input.
        NesfError: another process writes there, or it cannot be written.
    """
    folder = Path(folder)
    check(folder, replace=replace, own=own, inputs=inputs)
    with locked(folder):
        _settle(folder)
        old = check(folder, replace=replace, own=own)
        try:
            (folder / NEW).mkdir()
            yield folder / NEW
            made = [p.relative_to(folder / NEW).as_posix() for p in files_in(folder / NEW)]
            if not own:
                write_json(folder / NEW / LISTED, {"files": made})
                old += [path for path in [folder / LISTED] if path.exists()]
            _move(folder, folder / OLD, old)
            os.rename(folder / NEW, folder / READY)  # from here on it is the new content
        finally:
            _settle(folder)


def check(
    folder: Path, *, replace: bool = False, own: str = "", inputs: Iterable[Path] = ()
) -> list[Path]:
    """Return this program's own files in a folder, which may be replaced; arguments as of `output`.

    Raises:
        ConfigError: it holds something else, or an input, or something and `replace` is not given.
    """
    folder = Path(folder)
    for path in inputs:
        if Path(path).resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"{folder}: holds the input {path}; choose a folder outside of it")
    if any((folder / name).exists() for name in (NEW, READY, OLD)):  # of a process that was killed
        with locked(folder):
            _settle(folder)
    instead = "choose another folder" + (", go on with --resume" if own == RUN else "")
    files = files_in(folder)
    listed = set(_listed(folder))
    for path in files:
        name = path.relative_to(folder).as_posix()
        if name not in listed and not re.fullmatch(f"{own or '()'}|{PART}", name):
            raise ConfigError(
                f"{folder}: holds {name}, which this program has not written there; {instead}, or move it away"
            )
    if files and not replace:
        raise ConfigError(
            f"{folder}: holds {files[0].name} already; {instead}, or replace what it holds with --replace"
        )
    return files


def _listed(folder: Path) -> list[str]:
    """Return the files that `output` has listed as its own."""
    if not (folder / LISTED).exists():
        return []
    files: list[str] = read_form(folder / LISTED, Listed, "remove it")["files"]
    return files


def check_file(
    path: Path, replace: bool, *, inputs: Iterable[Path] = (), begins: bytes = b""
) -> None:
    """Raise `ConfigError` for a file that exists and may not be replaced.

    It may not without `replace`, nor if it is one of the inputs, nor if it does not begin as this
    program's files of the kind do.
    """
    if any(Path(path).resolve() == Path(one).resolve() for one in inputs):
        raise ConfigError(f"{path}: is an input; choose another name")
    if Path(path).exists() and not replace:
        raise ConfigError(f"{path}: exists already; choose another name, or give --replace")
    if Path(path).is_file():
        with open(path, "rb") as file:
            if file.read(len(begins)) != begins:
                raise ConfigError(
                    f"{path}: was not written by this program; choose another name, or move it away"
                )


def files_in(folder: Path) -> list[Path]:
    """Return all files and links below a folder, sorted, without those of this module."""
    return [
        path
        for path in _walk(folder)
        if not set(path.relative_to(folder).parts).intersection(HIDDEN)
    ]


def _walk(folder: Path) -> list[Path]:
    return sorted(
        Path(root) / name
        for root, folders, names in os.walk(folder)
        for name in (*names, *folders)
        if name in names or (Path(root) / name).is_symlink()
    )


def set_aside(folder: Path, replace: bool) -> None:
    """Make room for a new training in a (locked) run folder, or raise `ConfigError`.

    What it held is kept in `REPLACED` until `finished` removes it; an unfinished training that has
    replaced a run in turn is not. What a kill before the first checkpoint leaves is worth nothing.
    """
    log = folder / "log.csv"
    started = all(re.fullmatch(BEFORE_CHECKPOINT, path.name) for path in files_in(folder))
    if log.exists():
        with open(log, "rb") as file:
            started &= bool(re.match(rb"(network,)?epoch,minutes,", file.read(40)))
    old = check(folder, replace=replace or started, own=RUN)
    if (folder / REPLACED).exists():
        for path in old:
            path.unlink()
    elif old:
        _move(folder, folder / REPLACED, old)


def finished(folder: Path) -> None:
    """Remove the run that a finished training has replaced."""
    shutil.rmtree(folder / REPLACED, ignore_errors=True)


def _move(source: Path, target: Path, files: Iterable[Path]) -> None:
    """Move files of a folder to the same places in another, and remove folders that are empty."""
    for path in files:
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, place)
        with suppress(OSError):
            for parent in path.relative_to(source).parents[:-1]:
                (source / parent).rmdir()


def _settle(folder: Path) -> None:
    """End what `output` was doing, also in a process that was killed: all new, or all old."""
    for name in (READY, OLD):
        if (folder / name).exists():
            _move(folder / name, folder, _walk(folder / name))
            break
    for name in (NEW, OLD, READY):
        shutil.rmtree(folder / name, ignore_errors=True)
