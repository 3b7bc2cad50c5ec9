"""The official data release: fetched from one pinned commit, verified, packed.

Nothing of a file is interpreted before its hash is right, and the pickles are read by an unpickler
that knows three numpy globals and nothing else.
"""

from __future__ import annotations

import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nesf.crystals import Crystals, standard_lattice
from nesf.data.dataset import SPLITS, Dataset, default_data_dir, load_packed, save_dataset
from nesf.files import parse_json, write_atomically
from nesf.outputs import PACKED, check
from nesf_io.errors import ConfigError, DataError
from nesf_io.remote import ReleaseFile, download, restricted_loads

REPOSITORY = "omron-sinicx/neural-structure-field"
COMMIT = "f621903660822e8439bb9c3cede9e2c37a6987d1"
BASE_URL = f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}"
RELEASE_FOLDER = "data/dataset_paper"
FOLDS = 20
# our name: the name in the release's folders
OFFICIAL = {
    "lcs6": "lim_l6",
    "ybco": "YBCO13_fold{fold}",
    "icsg3d": "ICSG3D",
    "icsg3d-as-released": "ICSG3D",
}
LICENCE = "files: MIT (OMRON SINIC X); structures: Materials Project, CC BY 4.0"
AS_RELEASED_WARNING = (
    "icsg3d-as-released: the released training split (7194) contains all 342 validation and all 360 test materials, so errors on them "
    "are not errors on unseen crystals; `icsg3d` is the clean split (6492 / 342 / 360)"
)


def manifest() -> dict[str, ReleaseFile]:
    """Return the files of the pinned commit, by path (package data `official_manifest.tsv`)."""
    rows = (
        Path(__file__)
        .with_name("official_manifest.tsv")
        .read_text(encoding="utf-8")
        .splitlines()[1:]
    )
    fields = [row.split("\t") for row in rows]
    return {
        path: ReleaseFile(path, int(size) if size else None, sha1, sha256 or None)
        for path, size, sha1, sha256 in fields
    }


def check_new_name(name: str) -> None:
    """Raise a ConfigError for a name of the release or `starter`, or one that is no folder name."""
    if name in (*OFFICIAL, "starter") or not re.fullmatch(r"[^./\\][^/\\]*", name):
        raise ConfigError(
            f"{name!r} cannot be the name of an imported or built dataset; give another by --name"
        )


def check_fold(name: str, fold: int | None) -> None:
    """Raise a ConfigError unless a fold is given for `ybco`, and only for it."""
    if name == "ybco" and fold not in range(FOLDS):
        raise ConfigError(
            f"ybco has folds 0-{FOLDS - 1}, not {fold}; choose one (fold=0, --fold 0)"
        )
    if name != "ybco" and fold is not None:
        raise ConfigError(
            f"{name} has no folds (fold {fold} was asked for); only ybco has; leave the fold out"
        )


def packed_folder(name: str, fold: int | None, data_dir: Path) -> Path:
    """Return the packed folder of a fetched dataset: `data_dir/NAME`, or `data_dir/ybco/fold-K`."""
    return data_dir / name if fold is None else data_dir / name / f"fold-{fold}"


def fetch(
    name: str,
    *,
    fold: int | None = None,
    data_dir: Path | None = None,
    mirror: Path | None = None,
    progress: bool = True,
    base_url: str = BASE_URL,
    replace: bool = False,
) -> Path:
    """Write a dataset of the official release as a packed folder, unless it is there and whole.

    Args:
        name: `lcs6`, `ybco`, `icsg3d` (the clean split) or `icsg3d-as-released`.
        fold: of `ybco`, 0-19; None fetches all 20.
        mirror: a local copy of the repository, or of its folder `data/dataset_paper`, to read
            instead of the network.
        base_url: address of the repository's root at the pinned commit.
        replace: put it in the place of another dataset of this name; a damaged one is replaced
            anyhow.

    Returns:
        The packed folder (`packed_folder`); `data_dir/ybco` for all folds.

    Raises:
        ConfigError: no such dataset or fold.
        NesfError: a file is missing, differs from its hash, cannot be downloaded or written.
            Nothing is left half-written, and the next call downloads only the files that are not
            there yet.
    """
    if name not in OFFICIAL:
        raise ConfigError(
            f"{name!r} is not in the official release; choose from {', '.join(OFFICIAL)}"
        )
    data_dir = Path(data_dir or default_data_dir())
    if name == "ybco" and fold is None:
        for k in tqdm(range(FOLDS), desc="ybco folds", disable=not progress):
            fetch(
                name,
                fold=k,
                data_dir=data_dir,
                mirror=mirror,
                progress=False,
                base_url=base_url,
                replace=replace,
            )
        return data_dir / name
    check_fold(name, fold)
    if name == "icsg3d-as-released":
        warnings.warn(AS_RELEASED_WARNING, stacklevel=2)
    folder = packed_folder(name, fold, data_dir)
    try:
        if load_packed(folder).provenance.get("commit") == COMMIT:
            return folder
    except DataError:  # not there yet, or damaged since
        replace = True
    check(folder, replace=replace, own=PACKED)
    places = {s: f"{RELEASE_FOLDER}/dataset_{OFFICIAL[name].format(fold=fold)}_{s}" for s in SPLITS}
    paths = [
        f"{place}/{file}"
        for place in places.values()
        for file in ("dataset.pkl", "dataset_attr.json")
    ]
    known = manifest()
    contents: dict[str, bytes] = {}
    for path in tqdm(paths, desc=name, unit="file", disable=not progress):
        if mirror is not None:
            contents[path] = _from_mirror(known[path], Path(mirror))
        else:
            contents[path] = _from_network(
                known[path], data_dir / "official" / COMMIT[:12], base_url
            )
    parts = {
        s: to_crystals(
            contents[f"{place}/dataset.pkl"], contents[f"{place}/dataset_attr.json"], place
        )
        for s, place in places.items()
    }
    save_dataset(
        _dataset(name, fold, parts, {path: known[path].git_blob_sha1 for path in paths}),
        folder,
        replace=replace,
    )
    return folder


def _dataset(
    name: str,
    fold: int | None,
    parts: dict[str, tuple[Crystals, tuple[int, ...]]],
    files: dict[str, str | None],
) -> Dataset:
    """Return a dataset of its splits, their vocabularies, and the hashes of their files."""
    splits, vocabularies = (
        {s: crystals for s, (crystals, _) in parts.items()},
        {vocabulary for _, vocabulary in parts.values()},
    )
    if len(vocabularies) != 1:
        raise DataError(
            f"{name}: its splits have different species lists; this is not the release that this version knows"
        )
    provenance: dict[str, Any] = {
        "source": f"official release, https://github.com/{REPOSITORY}",
        "commit": COMMIT,
        "licence": LICENCE,
        "cell": "pymatgen's conventional standard structure (as released)",
        "files": files,
    }
    if name == "icsg3d":
        released, held_out = splits["train"], {*splits["val"].ids, *splits["test"].ids}
        splits["train"] = released.select(
            [i for i, identifier in enumerate(released.ids) if identifier not in held_out]
        )
        counts = f"{len(splits['train'])} of the {len(released)} released"
        provenance["notes"] = (
            f"training split: {counts}, which contain every validation and test material; those are left out"
        )
    if name == "icsg3d-as-released":
        provenance["warning"] = AS_RELEASED_WARNING
    return Dataset(name, splits, fold, provenance, vocabularies.pop())


def to_crystals(pickled: bytes, attributes: bytes, where: str) -> tuple[Crystals, tuple[int, ...]]:
    """Return one split in the standard setting, and the release's species list in ascending order.

    Args:
        pickled: content of `dataset.pkl`: a list of (cartesian positions [N, 3] in Å, species
            indices [N], lengths (a, b, c) in Å, angles (α, β, γ) in radians, material id).
        attributes: content of `dataset_attr.json`; its `sidx_to_z` maps species index to atomic
            number.

    Raises:
        DataError: a global that is not allowed, or a form that is not the release's; nothing of the
            pickle was executed.
    """
    entries = restricted_loads(pickled, f"{where}/dataset.pkl")
    try:
        description = parse_json(attributes)
        sidx_to_z = np.array(description["sidx_to_z"], dtype=np.int64)
        ids = [str(i) for i in description["mpid"]]
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(
            f"{where}/dataset_attr.json: not the form of the official release ({error}); get it again"
        ) from None
    if not isinstance(entries, list) or len(entries) != len(ids) or not entries:
        raise DataError(
            f"{where}/dataset.pkl: not a list with an entry for each of the {len(ids)} ids of dataset_attr.json; get it again"
        )
    for i, entry in enumerate(entries):
        if reason := _reason_against_entry(entry, ids[i], len(sidx_to_z)):
            raise DataError(
                f"{where}/dataset.pkl, entry {i}: {reason}; not the form of the official release, get it again"
            )
    # The matrix is not stored; positions are in pymatgen's conventional standard setting of these
    # lengths and angles. Checked on all 164 oblique cells of LCS6Å and YBCO: every fractional
    # coordinate is in [0, 1), and pymatgen's own conventional cell has the same matrix.
    lattice = standard_lattice(np.array([e[2] for e in entries]), np.array([e[3] for e in entries]))
    return Crystals.from_arrays(
        ids, [e[0] for e in entries], [sidx_to_z[e[1]] for e in entries], lattice
    ), tuple(sorted(sidx_to_z.tolist()))


def _reason_against_entry(entry: Any, identifier: str, n_species: int) -> str | None:
    """Return why an entry of the pickled list is not of the release's form, or None."""
    if not isinstance(entry, tuple) or len(entry) != 5:
        return "not a tuple of five"
    positions, species, lengths, angles, mpid = entry
    if (
        not isinstance(positions, np.ndarray)
        or positions.dtype.kind != "f"
        or positions.ndim != 2
        or positions.shape[1] != 3
        or len(positions) == 0
    ):
        return "positions are not a float array [N, 3]"
    if (
        not isinstance(species, np.ndarray)
        or species.dtype.kind not in "iu"
        or species.shape != positions.shape[:1]
    ):
        return "species are not an integer array [N]"
    if species.min() < 0 or species.max() >= n_species:
        return f"species index {species.max()} is outside the {n_species} species"
    for triple, upper in ((lengths, np.inf), (angles, np.pi)):
        if (
            not isinstance(triple, tuple)
            or len(triple) != 3
            or not all(isinstance(x, float) and 0 < x < upper for x in triple)
        ):
            return f"{triple!r} are not three lengths or angles"
    if not np.isfinite(positions).all() or mpid != identifier:
        return f"its id is {mpid!r}, not {identifier!r}, or a position is not finite"
    return None


def _from_mirror(file: ReleaseFile, mirror: Path) -> bytes:
    """Return the verified content of a file of a local copy."""
    places = (mirror / file.path, mirror / Path(file.path).relative_to(RELEASE_FOLDER))
    place = next((p for p in places if p.is_file()), None)
    if place is None:
        remedy = "use a complete copy, or leave --mirror out to download it"
        if "ICSG3D" in file.path:
            remedy += "; without it, import the part of ICSG3D that was recovered (`nesf data import FOLDER --name icsg3d-recovered`)"
        raise DataError(f"{mirror}: {file.path} is missing in this mirror; {remedy}")
    try:
        content = place.read_bytes()
    except OSError as error:
        raise DataError(
            f"{place}: cannot be read ({error.strerror or error}); use another copy, or leave --mirror out to download it"
        ) from None
    file.check(content, place)
    return content


def _from_network(file: ReleaseFile, downloads: Path, base_url: str) -> bytes:
    """Return the verified content of a file that was downloaded before, or is downloaded now."""
    target = downloads / Path(file.path).relative_to(RELEASE_FOLDER)
    with suppress(OSError, DataError):  # not there yet, or damaged since
        content = target.read_bytes()
        file.check(content, target)
        return content
    url = f"{base_url}/{file.path}"
    content = download(url)
    file.check(content, url)
    write_atomically(target, content)
    return content
