"""The user's own structures: tables of CIF texts, folders of CIF or POSCAR files, extxyz.

Every entry ends as a crystal in the standard setting with its atoms wrapped into the cell, or as an
error that names the entry and the reason; with `skip_bad`, as a line in the list of what was left
out.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, get_args

import numpy as np
from tqdm import tqdm

from nesf.crystals import Crystals, reason_against
from nesf.data.dataset import SPLITS, Dataset, needs_extra
from nesf.data.rules import split
from nesf.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

    Structures: TypeAlias = Crystals | Structure | Atoms | Sequence[Structure | Atoms]

T = TypeVar("T")
Cell = Literal["as-given", "conventional", "primitive"]
FORMS = "train/val/test.csv(.gz) in a folder, a .csv(.gz), a folder of .cif, .vasp or POSCAR files, one such file, or an .extxyz"
# fractional; a coordinate this little below 0 or 1 counts as 0: noise in the last digit moves no
# atom across the cell
WRAP_TOLERANCE = 1e-6
# What pymatgen and ase raise on damaged files (a KeyError is a LookupError, a division by zero an
# ArithmeticError, ase's XYZError an OSError, pymatgen's BadPoscarWarning a UserWarning); no
# AttributeError, so that a fault of this program is not taken for one of a file.
UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    OSError,
    UserWarning,
)


@dataclass(frozen=True)
class Skipped:
    """An entry that was left out, and why."""

    entry: str
    reason: str


@dataclass(frozen=True)
class Entry:
    """A structure before it is read; `row` holds the further columns of its table."""

    label: str
    identifier: str
    read: Callable[[], Any]
    split: str | None = None
    row: Mapping[str, str] = field(default_factory=dict)


def read(
    path: Path,
    *,
    name: str | None = None,
    seed: int = 0,
    cell: Cell = "as-given",
    skip_bad: bool = False,
) -> tuple[Dataset, list[Skipped]]:
    """Read own data as a dataset; where it has no splits they are made by the paper's rule.

    Args:
        path: a folder with `train.csv`, `val.csv`, `test.csv` (or `.csv.gz`; columns `material_id`,
            `cif`, further ones are kept as properties), a single such table, a folder of `.cif`,
            `.vasp` or `POSCAR*` files, one such file, or an `.extxyz`.
        name: of the dataset; None for that of the file or folder.
        cell: `as-given`, or pymatgen's `conventional` or `primitive` standard structure. The paper
            uses conventional cells.
        skip_bad: leave out what cannot be used, and list it, instead of raising an error.

    Raises:
        ConfigError: `cell` does not exist.
        DataError: an entry is unreadable, disordered, empty, absurd, or has another's id; or a
            split is missing or empty.
        NesfError: an `.extxyz` without ASE, which the extra `ase` installs.
    """
    path = Path(path)
    crystals, splits, skipped = _read(path, cell, skip_bad)
    if splits is None:
        parts = split(crystals, seed=seed)
    else:
        parts = {s: crystals.select(np.flatnonzero(np.array(splits) == s)) for s in SPLITS}
        if empty := [s for s in SPLITS if not len(parts[s])]:
            raise DataError(
                f"{path}: split {empty[0]} has no usable structure; add some, or give one table without splits"
            )
    provenance = {
        "source": f"own data, {path.resolve().name}",
        "cell": cell,
        "split": "as given" if splits else f"the paper's rule, seed {seed}",
        "skipped": [asdict(s) for s in skipped],
    }
    return Dataset(name or path.resolve().name.split(".")[0], parts, None, provenance), skipped


def read_structures(
    path: Path,
    *,
    cell: Cell = "as-given",
    skip_bad: bool = False,
    vocabulary: Sequence[int] | None = None,
) -> tuple[Crystals, list[Skipped]]:
    """Read own data as one batch, in the order of the files (sorted names; train, val, test).

    Arguments as of `read`; structures with elements outside the vocabulary, if one is given, cannot
    be used.
    """
    crystals, _, skipped = _read(Path(path), cell, skip_bad, vocabulary)
    return crystals, skipped


def _read(
    path: Path, cell: str, skip_bad: bool, vocabulary: Sequence[int] | None = None
) -> tuple[Crystals, list[str] | None, list[Skipped]]:
    """Return the crystals of a path, the split of each if the files tell, and what was left out."""
    if cell not in get_args(Cell):
        raise ConfigError(f"cell {cell!r} does not exist; choose from {', '.join(get_args(Cell))}")
    with warnings.catch_warnings():
        # pymatgen's remarks on rounding and labels, one or more a file
        warnings.simplefilter("ignore")
        entries = tqdm(_entries(path), desc=f"reading {path.name}", disable=None, delay=2)
        kept, skipped = usable_entries(
            entries, partial(_structure, cell=cell, vocabulary=vocabulary), skip_bad
        )
    if not kept:
        raise DataError(
            f"{path}: no usable structure"
            + (
                f", {len(skipped)} left out, the first because {skipped[0].reason}"
                if skipped
                else ""
            )
        )
    # an index column has no name
    names = sorted({c for e, _ in kept for c in e.row if not c.startswith("Unnamed:")})
    columns = {c: _column([e.row.get(c, "") for e, _ in kept]) for c in names}
    crystals = Crystals.from_structures(
        [s for _, s in kept], [e.identifier for e, _ in kept], columns
    )
    splits = [e.split for e, _ in kept if e.split is not None]
    return _wrapped(crystals.in_standard_setting()), splits or None, skipped


def usable_entries(
    entries: Iterable[Entry], read: Callable[[Entry], T], skip_bad: bool
) -> tuple[list[tuple[Entry, T]], list[Skipped]]:
    """Return the entries, each with what `read` returned for it, and those that were left out.

    Raises:
        DataError: without `skip_bad`; `read` raised one, or an entry has no id or that of another.
    """
    kept: list[tuple[Entry, T]] = []
    skipped: list[Skipped] = []
    labels: dict[str, str] = {}
    for entry in entries:
        try:
            if not entry.identifier:
                raise DataError("it has no material_id")
            if entry.identifier in labels:
                raise DataError(
                    f"its id {entry.identifier!r} is already that of {labels[entry.identifier]}"
                )
            kept.append((entry, read(entry)))
            labels[entry.identifier] = entry.label
        except DataError as error:
            if not skip_bad:
                raise DataError(
                    f"{entry.label}: {error}; repair or remove it, or leave it out with --skip-bad"
                ) from None
            skipped.append(Skipped(entry.label, str(error)))
    return kept, skipped


def _structure(entry: Entry, cell: str, vocabulary: Sequence[int] | None) -> Structure:
    """Return the structure of an entry in the requested cell; a DataError says why not."""
    try:
        structure = entry.read()
    except UNREADABLE as error:
        raise DataError(f"it cannot be read ({_first_line(error)})") from None
    if reason := reason_against(structure):
        raise DataError(reason)
    if vocabulary is not None and (
        foreign := sorted(
            {site.specie.symbol for site in structure if site.specie.Z not in vocabulary}
        )
    ):
        raise DataError(
            f"element {foreign[0]} is outside the vocabulary of {len(vocabulary)} species"
        )
    return structure if cell == "as-given" else standard_cell(structure, cell)


def standard_cell(structure: Structure, cell: str) -> Structure:
    """Return pymatgen's `conventional` or `primitive` standard structure; DataError: it has none."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    # they would lower the symmetry, and the model knows elements only
    structure = structure.copy().remove_oxidation_states()
    try:
        analyzer = SpacegroupAnalyzer(structure)
        return (
            analyzer.get_conventional_standard_structure()
            if cell == "conventional"
            else analyzer.get_primitive_standard_structure()
        )
    except UNREADABLE as error:
        raise DataError(f"pymatgen finds no {cell} cell of it ({_first_line(error)})") from None


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"


def _wrapped(crystals: Crystals) -> Crystals:
    """Move every atom into its cell: the published fields know no periodic images."""
    owner = np.repeat(np.arange(len(crystals)), crystals.n_atoms)
    fractional = np.einsum("ni,nij->nj", crystals.positions, np.linalg.inv(crystals.lattice)[owner])
    fractional -= np.floor(fractional + WRAP_TOLERANCE)
    return replace(crystals, positions=np.einsum("ni,nij->nj", fractional, crystals.lattice[owner]))


def _column(values: list[str]) -> np.ndarray:
    """Return a table's column: numbers (blank is nan) where every value is one, else text."""
    try:
        numbers = np.array([float(v) if v.strip() else np.nan for v in values])
    except ValueError:
        return np.array(values, dtype=object)
    return np.array(values, dtype=object) if np.isnan(numbers).all() else numbers


def _entries(path: Path) -> list[Entry]:
    """Return the entries of a path, by the form it has."""
    if path.is_dir():
        tables = {
            s: next((f for f in (path / f"{s}.csv", path / f"{s}.csv.gz") if f.is_file()), None)
            for s in SPLITS
        }
        if any(tables.values()):
            return _table_entries(tables, path)
        files = sorted(f for f in path.iterdir() if f.is_file())
    elif not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    elif path.name.endswith((".csv", ".csv.gz")):
        return _table_entries({None: path}, path)
    elif path.suffix in (".extxyz", ".xyz"):
        return _extxyz_entries(path)
    else:
        files = [path]
    if entries := [entry for file in files if (entry := _file_entry(file))]:
        return entries
    raise DataError(
        f"{path}: holds nothing that can be read, or its name tells no form; give {FORMS}"
    )


def _table_entries(tables: Mapping[Any, Path | None], path: Path) -> list[Entry]:
    """Return the entries of the tables of a folder (key: split), or of one table (key: None)."""
    entries = []
    for name, file in tables.items():
        if file is None:
            raise DataError(
                f"{path}: {name}.csv (or .csv.gz) is missing; give all three of train, val, test, or one table without splits"
            )
        for i, row in enumerate(_rows(file), start=1):
            identifier, cif = row.pop("material_id").strip(), row.pop("cif")
            entries.append(
                Entry(
                    f"{file.name}, {identifier or f'entry {i}'}",
                    identifier,
                    partial(_from_cif, cif),
                    name,
                    row,
                )
            )
    return entries


def _rows(file: Path) -> list[dict[str, str]]:
    import pandas as pd

    try:
        # Text as it stands: pandas would read the formula of sodium nitride, NaN, as "no value".
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        # pandas' own errors are ValueErrors
        raise DataError(f"{file}: cannot be read as a table ({_first_line(error)})") from None
    if missing := [c for c in ("material_id", "cif") if c not in table.columns]:
        raise DataError(
            f"{file}: column {missing[0]} is missing; it has {', '.join(map(str, table.columns))}"
        )
    return table.to_dict("records")


def _file_entry(file: Path) -> Entry | None:
    """Return the entry of a file, if its name tells that it holds a structure."""
    suffix = file.suffix.lower()
    if suffix == ".cif":
        parse = _from_cif
    elif suffix in (".vasp", ".poscar") or file.name.startswith(("POSCAR", "CONTCAR")):
        parse = _from_poscar
    else:
        return None
    identifier = file.stem if suffix in (".cif", ".vasp", ".poscar") else file.name
    return Entry(
        file.name, identifier, lambda: parse(file.read_text(encoding="utf-8", errors="replace"))
    )


def _from_cif(text: str) -> Structure:
    from pymatgen.io.cif import CifParser

    structures = CifParser.from_str(text).parse_structures(primitive=False, on_error="raise")
    if len(structures) != 1:
        raise ValueError(f"it holds {len(structures)} structures; give each its own file or row")
    return structures[0]


def _from_poscar(text: str) -> Structure:
    from pymatgen.io.vasp.inputs import Poscar

    poscar = Poscar.from_str(text, read_velocities=False)
    if not poscar.true_names:  # pymatgen would take H, He, Li, … in turn
        raise ValueError("it does not name its elements (VASP 4); add the line of symbols")
    return poscar.structure


def _extxyz_entries(file: Path) -> list[Entry]:
    """Return an entry per frame; id: `material_id` of the comment line, else stem and number."""
    with needs_extra("ase"):
        from ase import io
    try:
        frames = list(io.iread(file, index=":", format="extxyz"))
    except UNREADABLE as error:
        raise DataError(f"{file}: cannot be read as extxyz ({_first_line(error)})") from None
    names = [file.stem] if len(frames) == 1 else [f"{file.stem}-{i}" for i in range(len(frames))]
    ids = [
        str(atoms.info.get("material_id", name)) for atoms, name in zip(frames, names, strict=True)
    ]
    return [
        Entry(f"{file.name}, frame {i}", ids[i], partial(_from_atoms, atoms))
        for i, atoms in enumerate(frames)
    ]


def _from_atoms(atoms: Any) -> Structure:
    from pymatgen.io.ase import AseAtomsAdaptor

    if not atoms.pbc.all() or atoms.cell.rank < 3:
        raise ValueError(
            "it has no cell that is periodic in three directions (Lattice=... in its comment line)"
        )
    return AseAtomsAdaptor.get_structure(atoms)


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
    if bad := [
        name
        for name, s in zip(ids, items, strict=True)
        if not (s.is_ordered and all(hasattr(site.specie, "Z") for site in s))
    ]:
        raise DataError(
            f"{bad[0]}: the detected structure is disordered or holds a dummy species; give one element a site"
        )
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
        structure = _from_atoms(item)
    except ValueError as error:
        raise DataError(f"ASE Atoms {item.get_chemical_formula()}: {error}") from None
    structure.properties = {"id": item.info["id"]} if "id" in item.info else {}
    return structure
