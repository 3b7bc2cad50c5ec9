"""The structures of a file, one after the other; what is too big is refused before it is parsed.

All of it runs in the process of `nesf_io.worker`. Nothing here needs torch.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO, StringIO
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from nesf_io.errors import DataError
from nesf_io.parsers import (
    AS_DECODED,
    MAX_ENTRY,
    Found,
    from_block,
    from_dict,
    from_frame,
    from_images,
    from_poscar,
    one_entry,
    reason_against,
    standard_cell,
)
from nesf_io.worker import in_one_line

# bytes of a file, also unpacked; a small one may unpack to less
MAX_FILE, MAX_UNPACKED, MAX_RATIO = 1 << 30, 1 << 26, 100
MAX_COLUMNS = 1000
MAX_DEPTH = 50  # of JSON, in which structures are looked for
FORMS = "CIF, POSCAR, extxyz, JSON of pymatgen, CSV, another form of ASE or pymatgen, or a folder of them (train/val/test.csv are its splits)"
COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# names that are taken from a folder
OF_FOLDERS = re.compile(
    r"(?is)(POSCAR|CONTCAR).*|.*\.(cif|mcif|vasp|poscar|json|mson|xyz|extxyz|traj|xsf|cell|cssr|res|gen|xtl)"
)
# of pymatgen alone; of ASE those that run a program or open a server, which no file may ask for
OF_PYMATGEN = {"cssr", "chgcar", "locpot", "mcsqs", "lmto", "pwmat"}
REFUSED = {"py", "bundletrajectory", "gpw", "mysql", "postgresql"}
NOT_OF_THE_FILE = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning)


class NoStructureError(DataError):
    """A sound file that holds no structure."""


@dataclass(frozen=True)
class Part:
    """A structure of a file, not parsed yet; `place` in the file, "" where it is the only one."""

    place: str
    identifier: str
    read: Callable[[], Found]
    derived: bool = True  # the id is made up of names and numbers
    row: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Parsed:
    """What became of a part: positions [n, 3], Å, Z [n], lattice [3, 3], Å; or why nothing."""

    place: str
    identifier: str
    derived: bool
    row: Mapping[str, str]
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray] | None
    notes: tuple[str, ...]
    reason: str


def parse(
    path: Path, name: str, column: str, cell: str, split: str | None, decoded: bool = False
) -> Iterator[Callable[[], Parsed]]:
    """Yield what parses each structure of a file, for `nesf_io.worker.stream`.

    Args:
        path: of the file.
        name: from which its form and ids follow; "" for the content of standard input.
        column: of a table, with the structures.
        cell: as of `nesf.data.files.read`.
        split: that the file is, which may be empty; None for another file.
        decoded: as of `nesf.data.files.read_structures`.

    Raises:
        DataError: it cannot be opened, is too big, or holds no structure (`NoStructureError`).
    """
    part = None
    for part in _parts(path, name, column):
        yield partial(_parsed, part, cell, decoded)
    if part is None and split is None:
        raise DataError("it holds no structure")


def _parsed(part: Part, cell: str, decoded: bool) -> Parsed:
    arrays, reason, identifier, notes, row = None, "", None, list[str](), dict(part.row)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            structure, notes, identifier = part.read()
            reason = reason_against(structure, decoded) or ""
            if not reason:
                # isotopes have the symbol of their element
                heavy = [s.label for s in structure if getattr(s.specie, "name", "") in ("D", "T")]
                if heavy:
                    notes.append(f"site {', '.join(heavy[:5])}: deuterium is read as hydrogen")
                if decoded and structure.properties.get(AS_DECODED):
                    row[AS_DECODED] = "yes"
                structure = structure if cell == "as-given" else standard_cell(structure, cell)
                species = np.array([site.specie.Z for site in structure])
                arrays = structure.cart_coords, species, structure.lattice.matrix
        except DataError as error:
            reason = str(error)
        except Exception as error:
            reason = f"it cannot be read ({in_one_line(error)})"
    notes += [str(w.message) for w in caught if not issubclass(w.category, NOT_OF_THE_FILE)]
    lines = tuple(dict.fromkeys(" ".join(text.split())[:500] for text in notes))
    derived = part.derived and not identifier
    name = identifier or part.identifier
    return Parsed(part.place, name, derived, row, arrays, lines, reason)


def _parts(path: Path, name: str, column: str) -> Iterator[Part]:
    if path.stat().st_size > MAX_FILE:
        raise DataError(f"{path.stat().st_size >> 20} MiB, more than {MAX_FILE >> 20}; divide it")
    inner, packed = unpacked_name(name)
    stem, suffix = Path(inner).stem, Path(inner).suffix.lower()
    if suffix in (".db", ".traj") and not packed:  # binary, and read part by part
        return _of_ase(path, inner)
    content = _content(path, packed)
    # of Windows; and without a mark UTF-8, in which a mark says nothing
    utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    text = content.decode("utf-16" if utf16 else "utf-8-sig", errors="replace")
    if re.match("POSCAR|CONTCAR", inner):
        return iter([Part("", name, partial(from_poscar, text))])
    suffix = suffix if name else _sniffed(text)
    stem = stem or "stdin"
    if suffix in (".cif", ".mcif"):
        return _of_cif(text, stem)
    if suffix in (".vasp", ".poscar"):
        return iter([Part("", stem, partial(from_poscar, text))])
    if suffix in (".xyz", ".extxyz"):
        return _of_xyz(text, stem)
    if suffix == ".csv":
        return _of_table(text, stem, column)
    if suffix in (".json", ".mson"):
        return _of_json(text, stem)
    return _of_ase(path if not packed else BytesIO(content), inner, text)


def unpacked_name(name: str) -> tuple[str, str]:
    """Return a file's name without the suffix of its compression, and that suffix."""
    suffix = Path(name).suffix.lower()
    return (name[: -len(suffix)], suffix) if suffix in COMPRESSED else (name, "")


def _content(path: Path, packed: str) -> bytes:
    """Return the content of a file, unpacked; small files that unpack to very much are refused."""
    with open(path, "rb") as plain:
        if not packed and plain.read(2) == b"\x1f\x8b":
            packed = ".gz"
    if not packed:
        return path.read_bytes()
    most = min(max(MAX_UNPACKED, MAX_RATIO * path.stat().st_size), MAX_FILE)
    with COMPRESSED[packed](path, "rb") as file:
        content = bytes(file.read(most + 1))
    if len(content) > most:
        raise DataError(f"unpacks from {path.stat().st_size} bytes to more than {most >> 20} MiB")
    return content


def _sniffed(text: str) -> str:
    """Return the suffix that a text without a name would have."""
    start = text.lstrip()[:10_000]
    if start[:1] in ("{", "["):
        return ".json"
    first = start.partition("\n")[0].strip()
    if "," in first and "material_id" in first:
        return ".csv"
    if re.search(r"^\s*(data_|_cell_length_a)", start, re.MULTILINE | re.IGNORECASE):
        return ".cif"
    return ".xyz" if first.isdigit() else ".vasp"


def _of_cif(text: str, stem: str) -> Iterator[Part]:
    """Yield the blocks with atoms; pymatgen would keep the last one of a name."""
    blocks = _blocks(text)
    if not blocks:
        raise DataError("it cannot be read: no data_ block with atoms (_atom_site_fract_x)")
    for i, block in enumerate(blocks):
        header = block.partition("\n")[0].split()
        named = (header[0] if header else "") or f"{stem}-{i}"
        several = len(blocks) > 1
        place = f"block {i + 1} ({named})" if several else ""
        yield Part(place, named if several else stem, partial(from_block, block))


def _blocks(text: str) -> list[str]:
    found = re.split(r"^\s*data_", f"\n{text}", flags=re.MULTILINE | re.IGNORECASE)[1:]
    # a block of a cell or of sites that is no whole crystal is not passed over in silence
    return [block for block in found if re.search("(?i)_cell_length_a|_atom_site_", block)]


def _of_xyz(text: str, stem: str) -> Iterator[Part]:
    """Yield the frames; id: `material_id` of the comment line, else stem and number."""
    lines = iter(text.splitlines())
    frames: list[list[str]] = []
    fault = ""
    for count in lines:
        if not count.strip():
            continue
        try:
            n = int(count)
        except ValueError:
            n = 0
        if n < 1:
            fault = f"frame {len(frames)} begins with {count.strip()[:40]!r}, not with its number of atoms"
            break
        frames.append([count, *islice(lines, n + 1)])
    for i, frame in enumerate(frames):
        name = stem if len(frames) == 1 and not fault else f"{stem}-{i}"
        yield Part(f"frame {i}", name, partial(from_frame, frame))
    if fault or not frames:
        raise DataError(fault or "it is empty")


def _of_table(text: str, stem: str, column: str) -> Iterator[Part]:
    """Yield the rows; further columns are kept, as text: sodium nitride is no missing value."""
    csv.field_size_limit(MAX_ENTRY)
    rows = csv.reader(StringIO(text), strict=True)
    try:
        header = next(rows, [])
        if len(header) > MAX_COLUMNS:
            raise DataError(f"{len(header)} columns, more than {MAX_COLUMNS}")
        if twice := next((k for k in header if k and header.count(k) > 1), None):
            raise DataError(f"column {twice} occurs twice; rename or remove one")
        if column not in header:
            raise DataError(
                f"column {column} is missing; it has {', '.join(header[:20])} (--column names that of the structures)"
            )
        key = next((k for k in ("material_id", "id") if k in header), None)
        for i, values in enumerate(filter(None, rows), start=1):
            row = dict(zip(header, values, strict=False))
            wrong = f"{len(values)} fields where the table has {len(header)} columns"
            cif = row.pop(column, "")
            name = row.pop(key, "").strip() if key else f"{stem}-{i}"
            row.pop("", None)  # an index
            read = partial(_from_field, cif, wrong if len(values) != len(header) else "")
            yield Part(name[:80] or f"entry {i}", name, read, not key, row)
    except csv.Error as error:
        raise DataError(f"cannot be read as a table (line {rows.line_num}: {error})") from None


def _of_json(text: str, stem: str) -> Iterator[Part]:
    content = json.loads(text, object_pairs_hook=_of_pairs)
    if isinstance(content, dict) and {"ids", "nextid"} <= set(content):
        yield from _of_ase(BytesIO(text.encode()), f"{stem}.json")
        return
    found = list(islice(_structures_in(content, ""), 1_000_000))
    if not found:
        raise NoStructureError(
            "holds no structure; a pymatgen Structure as JSON, a list or a table of them is expected"
        )
    for i, (name, data) in enumerate(found):
        alone = len(found) == 1
        place = "" if alone else f"entry {i + 1}" + (f" ({name})" if name and not data else "")
        yield Part(place, name or (stem if alone else f"{stem}-{i}"), partial(from_dict, data), not name)  # fmt: skip


def _of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; of two values of one key the last would be all that is left."""
    content = dict(pairs)
    if len(content) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise DataError(f"key {twice!r} occurs twice; rename one")
    return content


def _structures_in(content: Any, name: str, depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield structures of JSON as (id, dictionary): also of lists, tables, entries of pymatgen."""
    if isinstance(content, dict):
        own = next((content[k] for k in ("material_id", "entry_id", "id") if k in content), "")
        properties = content.get("properties")
        if not own and isinstance(properties, dict):
            own = properties.get("id") or ""
        name = str(own) if isinstance(own, str | int) and own != "" else name
        if isinstance(content.get("lattice"), dict) and isinstance(content.get("sites"), list):
            yield name, content
            return
    if depth == MAX_DEPTH:
        raise DataError(f"has more than {MAX_DEPTH} levels")
    if isinstance(content, dict) and "structure" in content:
        yield from _structures_in(content["structure"], name, depth + 1)
        return
    items: list[tuple[str, Any]] = []
    if isinstance(content, dict):
        items = list(content.items())
    elif isinstance(content, list):
        items = [("", item) for item in content]
    parts = [list(_structures_in(item, key, depth + 1)) for key, item in items]
    if any(parts):  # of what stands beside a structure, as one, none is passed over in silence
        table = all(isinstance(item, dict | None) for _, item in items)
        for (key, item), part in zip(items, parts, strict=True):
            lost = isinstance(content, list) or (table and item is None)
            lost |= isinstance(item, dict) and ("lattice" in item or "sites" in item)
            yield from part or ([(key, {})] if lost else [])


def _of_ase(source: Path | BytesIO, name: str, text: str = "") -> Iterator[Part]:
    """Yield what pymatgen or ASE find in a file of another form."""
    from pymatgen.core import Structure
    from pymatgen.io.registry import get_structure_format

    try:
        form = get_structure_format(filename=name).name
    except (ValueError, ImportError):
        form = ""
    if form in OF_PYMATGEN:
        read = partial(Structure.from_str, one_entry(text), fmt=form)
        yield Part("", Path(name).stem, lambda: (read(), [], None))
        return
    from ase.io.formats import UnknownFileTypeError, filetype, ioformats, iread

    try:
        form = filetype(Path(name).name, read=False)
    except UnknownFileTypeError:
        form = ""
    if form not in ioformats and isinstance(source, Path):
        form = filetype(str(source.resolve()))
    if form in REFUSED or form not in ioformats or not ioformats[form].can_read:
        raise DataError(f"its name tells no form that can be read; give {FORMS}")
    if isinstance(source, BytesIO) and not ioformats[form].acceptsfd:
        raise DataError(f"a file of the form {form} is read unpacked only; unpack it first")
    if isinstance(source, BytesIO):
        source = source if ioformats[form].isbinary else StringIO(source.getvalue().decode())  # type: ignore[assignment]
    else:
        source = source.resolve()  # a name such as postgres-1 is a server to ASE
    images = iread(source, index=":", format=form, do_not_split_by_at_sign=True)
    first, second = next(images, None), next(images, None)
    if first is None:
        raise NoStructureError("it holds no structure")
    alone, stem = second is None, Path(name).stem
    for i, atoms in enumerate(chain([first], [] if alone else chain([second], images))):
        place, own = ("", stem) if alone else (f"frame {i}", f"{stem}-{i}")
        yield Part(place, own, partial(from_images, atoms))


def _from_field(text: str, wrong: str) -> Found:
    """Read the only structure of a field of a table, CIF or JSON."""
    if wrong:
        raise DataError(wrong)
    parts = list(_of_json(text, "") if text.lstrip()[:1] in ("{", "[") else _of_cif(text, ""))
    if len(parts) != 1:
        raise DataError(f"it holds {len(parts)} structures; give each its own row")
    return (*parts[0].read()[:2], None)
