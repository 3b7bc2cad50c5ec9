"""The user's own structures: files in any form, folders, tables, standard input.

Every entry ends as a crystal in the standard setting with its atoms wrapped into the cell, or as an
error that names the entry and the reason; with `skip_bad`, as a line in the list of what was left
out. What a reader changed is in a list of notes.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from glob import glob
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypeVar, get_args

import numpy as np
from tqdm import tqdm

from nesf.crystals import Crystals
from nesf.data.dataset import SPLITS, Dataset, needs_extra, split
from nesf_io.errors import ConfigError, DataError, EntryError
from nesf_io.parsers import AS_DECODED, from_atoms, reason_against
from nesf_io.readers import (
    FORMS,
    MAX_FILE,
    OF_FOLDERS,
    NoStructureError,
    Parsed,
    parse,
    unpacked_name,
)
from nesf_io.worker import stream

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

    Structures: TypeAlias = Crystals | Structure | Atoms | Sequence[Structure | Atoms]

T = TypeVar("T")
Cell = Literal["as-given", "conventional", "primitive"]
Paths: TypeAlias = str | Path | Sequence[str | Path]
# fractional; a coordinate this little below 0 or 1 counts as 0: noise in the last digit moves no
# atom across the cell
WRAP_TOLERANCE = 1e-6
SHOWN = 20  # notes that are printed
TAKEN = "is already that of"
WITHOUT_ASE = re.compile(r"(?is)|(POSCAR|CONTCAR).*|.*\.(cif|mcif|vasp|poscar|json|mson|csv|cssr)")


@dataclass(frozen=True)
class Skipped:
    """An entry that was left out, and why."""

    entry: str
    reason: str


@dataclass(frozen=True)
class Note:
    """What was changed in an entry in reading it, or a file of a folder that was not read."""

    entry: str
    text: str


class Read(NamedTuple):
    """What `read_structures` gives."""

    crystals: Crystals
    skipped: list[Skipped]
    notes: list[Note]


@dataclass(frozen=True)
class Entry:
    """A structure that is to be read; `row` holds the further columns of its table.

    An id that is `derived` from names and numbers gives way to one that is taken.
    """

    label: str
    identifier: str
    read: Callable[[], Any]
    split: str | None = None
    row: Mapping[str, str] = field(default_factory=dict)
    derived: bool = False
    notes: Sequence[str] = ()


class _Source(NamedTuple):
    """A file: its name, from which its form follows, and how messages call it."""

    path: Path
    name: str
    label: str
    split: str | None = None
    of_folder: bool = False


def read(
    paths: Paths,
    *,
    name: str | None = None,
    seed: int = 0,
    cell: Cell = "as-given",
    skip_bad: bool = False,
    column: str = "cif",
) -> tuple[Dataset, list[Skipped]]:
    """Read own data as a dataset; where it has no splits they are made by the paper's rule.

    Args:
        paths: a folder with `train.csv`, `val.csv`, `test.csv`; else one or several files (CIF,
            POSCAR, extxyz, JSON, CSV, and what else pymatgen or ASE read; also .gz, .bz2, .xz),
            folders with their subfolders, patterns (`x/*.cif`), or `-` for standard input.
        name: of the dataset; None for that of the first path.
        cell: `as-given`, or pymatgen's `conventional` or `primitive` standard structure. The paper
            uses conventional cells.
        skip_bad: leave out what cannot be used, and list it, instead of raising an error.
        column: of a CSV, with the CIF or JSON texts; ids stand in `material_id` or `id`, further
            columns are kept as properties.

    Returns:
        The dataset, with what was left out and the notes in its `provenance`; what was left out.

    Raises:
        ConfigError: `cell` does not exist.
        DataError: an entry is unreadable, disordered, empty, absurd, too big, takes over 10 s, has
            lost atoms, or has another's id; or a split is missing or empty.
        NesfError: a form that ASE reads, without ASE, which the extra `ase` installs.
    """
    first, *others = _listed(paths)
    (crystals, skipped, notes), splits = _read(paths, cell, skip_bad, column)
    own = shown(Path(first).resolve().name)
    if splits is None:
        (parts,) = split(crystals, seed=seed)
    else:
        parts = {s: crystals.select(np.flatnonzero(np.array(splits) == s)) for s in SPLITS}
        if empty := [s for s in SPLITS if not len(parts[s])]:
            raise DataError(
                f"{own}: split {empty[0]} has no usable structure; add some, or give one table without splits"
            )
    provenance = {
        "source": f"own data, {own}" + (f" and {len(others)} more" if others else ""),
        "cell": cell,
        "split": "as given" if splits else f"the paper's rule, seed {seed}",
        "skipped": [asdict(s) for s in skipped],
        "notes": [asdict(n) for n in notes],
    }
    return Dataset(name or own.split(".")[0], parts, None, provenance), skipped


def read_structures(
    paths: Paths,
    *,
    cell: Cell = "as-given",
    skip_bad: bool = False,
    vocabulary: Sequence[int] | None = None,
    column: str = "cif",
    decoded: bool = False,
) -> Read:
    """Read own data as one batch, in the order of the paths (in a folder sorted; train, val, test).

    Arguments as of `read`; structures with elements outside the vocabulary, if one is given, cannot
    be used. With `decoded` they are what a decoder gave, with atoms at any distance, and those that
    cannot be used are left out, but for a second one of an id.
    """
    found = _read(paths, cell, skip_bad or decoded, column, vocabulary, decoded)[0]
    if decoded and (twice := [s for s in found.skipped if TAKEN in s.reason]):
        raise DataError(f"{twice[0].entry}: {twice[0].reason}; keep one structure per material")
    return found


def warn_of(paths: Any, skipped: Sequence[Skipped], notes: Sequence[Note]) -> None:
    """Warn a caller's caller of what was left out, and of the notes."""
    if skipped:
        text = (
            f"{len(skipped)} entries left out, the first {skipped[0].entry} ({skipped[0].reason})"
        )
        warnings.warn(f"{paths}: {text}", stacklevel=3)
    for line in summed(notes):
        warnings.warn(line, stacklevel=3)


def summed(notes: Sequence[Note]) -> list[str]:
    """Return notes as lines to print: of a text once, and not more than `SHOWN`."""
    entries: dict[str, list[str]] = {}
    for note in notes:
        entries.setdefault(note.text, []).append(note.entry)
    lines = [
        f"{of[0]}{f' and {len(of) - 1} more' if len(of) > 1 else ''}: {text}"
        for text, of in entries.items()
    ]
    more = len(lines) - SHOWN
    return lines[:SHOWN] + ([f"and {more} further notes"] if more > 0 else [])


def shown(text: str) -> str:
    """Return a name that can be printed and written, also of a file whose name is not UTF-8."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return re.sub(r"[\x00-\x1f\x7f]", "_", text)


def _read(
    paths: Paths,
    cell: str,
    skip_bad: bool,
    column: str,
    vocabulary: Sequence[int] | None = None,
    decoded: bool = False,
) -> tuple[Read, list[str] | None]:
    """Return what was read, and the split of each crystal if the files tell."""
    if cell not in get_args(Cell):
        raise ConfigError(f"cell {cell!r} does not exist; choose from {', '.join(get_args(Cell))}")
    notes: list[Note] = []
    title = shown(str(_listed(paths)[0]))
    with TemporaryDirectory() as folder:  # for standard input
        sources = _sources(paths, Path(folder), notes)
        entries = tqdm(
            _entries(sources, cell, column, notes, decoded),
            desc=f"reading {Path(title).name}",
            disable=None,
            delay=2,
        )
        kept, skipped = usable_entries(
            entries, partial(_in_vocabulary, vocabulary=vocabulary), skip_bad, notes
        )
    if not kept:
        why = f"; give {FORMS}"
        if skipped:
            why = f", {len(skipped)} left out, the first because {skipped[0].reason}"
        raise DataError(f"{title}: no usable structure{why}")
    # an index column has no name
    names = sorted({c for e, _ in kept for c in e.row if not c.startswith("Unnamed:")})
    columns = {c: _column([e.row.get(c, "") for e, _ in kept]) for c in names}
    positions, species, lattice = zip(*(arrays for _, arrays in kept), strict=True)
    crystals = Crystals.from_arrays(
        [e.identifier for e, _ in kept], positions, species, np.array(lattice), columns
    )
    splits = [e.split for e, _ in kept if e.split is not None]
    crystals = crystals.in_standard_setting()
    return Read(_wrapped(crystals, as_decoded(crystals)), skipped, notes), splits or None


def as_decoded(crystals: Crystals) -> set[str]:
    """Return the ids of crystals from files that say that their positions are as decoded."""
    said = crystals.properties.get(AS_DECODED, np.zeros(0))
    return {name for name, of in zip(crystals.ids, said, strict=False) if of}


def usable_entries(
    entries: Iterable[Entry],
    read: Callable[[Entry], T],
    skip_bad: bool,
    notes: list[Note] | None = None,
) -> tuple[list[tuple[Entry, T]], list[Skipped]]:
    """Return the entries, each with what `read` returned for it, and those that were left out.

    The notes of entries are added to `notes`.

    Raises:
        DataError: without `skip_bad`; `read` raised one, or an entry has no id or that of another.
    """
    kept: list[tuple[Entry, T]] = []
    skipped: list[Skipped] = []
    labels: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for entry in entries:
        try:
            name, said = entry.identifier, list(entry.notes)
            if not name:
                raise DataError("it has no material_id")
            if shown(name) != name:
                raise DataError(f"its id {name!r} cannot be printed")
            while entry.derived and entry.identifier in labels:
                numbers[name] = numbers.get(name, 1) + 1
                entry = replace(entry, identifier=f"{name}-{numbers[name]}")
            if entry.identifier != name:
                said.append(
                    f"the id {name} is that of {labels[name]}; here it is {entry.identifier}"
                )
            if entry.identifier in labels:
                raise DataError(f"its id {name!r} {TAKEN} {labels[name]}")
            kept.append((entry, read(entry)))
            labels[entry.identifier] = entry.label
            if notes is not None:
                notes += [Note(entry.label, text) for text in said]
        except DataError as error:
            if not skip_bad:
                raise EntryError(f"{entry.label}: {error}; repair or remove it") from None
            skipped.append(Skipped(entry.label, str(error)))
    return kept, skipped


def _in_vocabulary(entry: Entry, vocabulary: Sequence[int] | None) -> tuple[np.ndarray, ...]:
    """Return positions, Z and lattice of an entry; a DataError says why there are none."""
    arrays: tuple[np.ndarray, ...] = entry.read()
    if vocabulary is not None and (foreign := set(arrays[1].tolist()) - set(vocabulary)):
        from pymatgen.core import Element

        symbol = min(Element.from_Z(z).symbol for z in foreign)
        raise DataError(f"element {symbol} is outside the vocabulary of {len(vocabulary)} species")
    return arrays


def _wrapped(crystals: Crystals, but: Collection[str] = ()) -> Crystals:
    """Move every atom into its cell, `but` of some ids: the published fields know no images."""
    owner = np.repeat(np.arange(len(crystals)), crystals.n_atoms)
    fractional = np.einsum("ni,nij->nj", crystals.positions, np.linalg.inv(crystals.lattice)[owner])
    kept = np.isin(crystals.ids, list(but))[owner]
    fractional -= np.where(kept[:, None], 0, np.floor(fractional + WRAP_TOLERANCE))
    return replace(crystals, positions=np.einsum("ni,nij->nj", fractional, crystals.lattice[owner]))


def _column(values: list[str]) -> np.ndarray:
    """Return a table's column: numbers (blank is nan) where every value is one, else text."""
    try:
        numbers = np.array([float(v) if v.strip() else np.nan for v in values])
    except ValueError:
        return np.array(values, dtype=object)
    return np.array(values, dtype=object) if np.isnan(numbers).all() else numbers


def _listed(paths: Paths) -> list[str | Path]:
    listed = [paths] if isinstance(paths, str | Path) else list(paths)
    if not listed:
        raise DataError(f"no path is given; give {FORMS}")
    return listed


def files_of(paths: Paths) -> list[Path]:
    """Return the folders that are given, and the files that `read_structures` reads; but not `-`."""
    named = [path for path in _listed(paths) if str(path) != "-"]
    folders = [path for path in map(Path, named) if path.is_dir()]
    return folders + ([s.path for s in _sources(named, Path(), [])] if named else [])


def _sources(paths: Paths, folder: Path, notes: list[Note]) -> list[_Source]:
    """Return the files of all paths; those of a folder whose name tells no form are noted."""
    sources = []
    several = len(listed := _listed(paths)) > 1
    for given in map(str, listed):
        path = Path(given)
        if given == "-":
            content = sys.stdin.buffer.read(MAX_FILE + 1)
            (folder / "stdin").write_bytes(content)
            sources.append(_Source(folder / "stdin", "", "standard input"))
        elif path.is_dir():
            sources += _of_folder(path, notes)
        elif path.is_file():
            name = given if several else path.name
            sources.append(_Source(path.resolve(), path.name, shown(name)))
        elif path.exists():
            raise DataError(
                f"{shown(given)}: is no regular file; pipe it in, and give - as its name"
            )
        elif found := sorted(glob(given, recursive=True)):
            sources += _sources(found, folder, notes)
        else:
            raise DataError(f"{shown(given)}: no such file or folder")
    return sources


def _of_folder(folder: Path, notes: list[Note]) -> list[_Source]:
    found = {f.relative_to(folder): f.resolve() for f in sorted(folder.rglob("*")) if f.is_file()}
    # those that begin with a dot are hidden
    files = {p.as_posix(): f for p, f in found.items() if not any(x[0] == "." for x in p.parts)}
    tables = [t for s in SPLITS for t in (f"{s}.csv", f"{s}.csv.gz") if t in files]
    if tables:
        used = {t.split(".")[0]: t for t in reversed(tables)}
        if missing := [s for s in SPLITS if s not in used]:
            raise DataError(
                f"{folder}: {missing[0]}.csv (or .csv.gz) is missing; give all three of train, val, test, or one table without splits"
            )
        sources = [_Source(files[used[s]], used[s], used[s], s) for s in SPLITS]
    else:
        names = [n for n in files if OF_FOLDERS.fullmatch(unpacked_name(Path(n).name)[0])]
        sources = [_Source(files[n], Path(n).name, shown(n), None, True) for n in names]
    read = {source.label for source in sources}
    why = "not read, for its name tells no form of structures in folders; give it by itself"
    notes += [
        Note(shown(f"{folder.resolve().name}/{n}"), why) for n in files if shown(n) not in read
    ]
    return sources


def _entries(
    sources: Sequence[_Source], cell: str, column: str, notes: list[Note], decoded: bool
) -> Iterator[Entry]:
    """Yield what `nesf_io.worker` reads; a fault is raised by the `read` of its entry."""
    if not all(WITHOUT_ASE.fullmatch(unpacked_name(source.name)[0]) for source in sources):
        with needs_extra("ase"):
            import ase  # noqa: F401
    found = [0] * len(sources)
    tasks = [(s.path, s.name, column, cell, s.split, decoded) for s in sources]
    for i, parsed in stream(parse, tasks):
        _, name, label, part, of_folder = sources[i]
        found[i] += 1
        if isinstance(parsed, NoStructureError) and of_folder:
            notes.append(Note(label, f"not read: {parsed}"))
            continue
        where, of = f"{label}, entry {found[i]}" if found[i] > 1 else label, parsed
        if isinstance(parsed, DataError):
            of = Parsed("", Path(name).stem or "stdin", True, {}, None, (), str(parsed))
        elif of.place:
            where = f"{label}, {shown(of.place)}"
        identifier = shown(of.identifier) if of.derived else of.identifier
        yield Entry(where, identifier, partial(_arrays, of), part, of.row, of.derived, of.notes)


def _arrays(parsed: Parsed) -> tuple[np.ndarray, ...]:
    if parsed.arrays is None:
        raise DataError(parsed.reason)
    return parsed.arrays


def as_crystals(structures: Structures, *, decoded: bool = False) -> Crystals:
    """Return structures as a batch in the standard setting.

    Ids are `properties["id"]` (of ASE atoms `info["id"]`), else the place in the list; all are
    places where two are equal.

    Args:
        structures: one or several, which are checked, their atoms wrapped into the cell; or
            `Crystals`, which are taken as they are.
        decoded: take positions as they are, and structures without sites: what a decoder gives.

    Raises:
        DataError: a structure is disordered, empty or absurd, or is no structure; the message names
            it.
    """
    if isinstance(structures, Crystals):
        return structures
    # a Structure is a sequence of sites
    several = isinstance(structures, Sequence) and not hasattr(structures, "lattice")
    items = [_as_structure(s) for s in (structures if several else [structures])]
    ids = [str(s.properties.get("id", i)) for i, s in enumerate(items)]
    ids = ids if len(set(ids)) == len(ids) else [str(i) for i in range(len(ids))]
    if not decoded:
        return _wrapped(Crystals.from_structures(items, ids).in_standard_setting())
    for name, item in zip(ids, items, strict=True):
        if len(item) and (reason := reason_against(item, decoded=True)):
            raise DataError(f"{name}: {reason}")
    return Crystals.from_structures(items, ids, check=False).in_standard_setting()


def _as_structure(item: Any) -> Structure:
    """Return a pymatgen structure as it is, and ASE atoms as one."""
    if hasattr(item, "cart_coords"):
        return item
    if not hasattr(item, "get_atomic_numbers"):
        raise DataError(
            f"{type(item).__name__}: is neither a pymatgen Structure nor ASE Atoms; read files with nesf.read_structures"
        )
    try:
        structure = from_atoms(item)
    except DataError as error:
        raise DataError(f"ASE Atoms {item.get_chemical_formula()}: {error}") from None
    structure.properties = {"id": item.info["id"]} if "id" in item.info else {}
    return structure
