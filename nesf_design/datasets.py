"""The field's benchmarks, as the CDVAE repository holds them: fetched, checked, packed.

Perov-5 (Castelli et al. 2012), MP-20 (Materials Project) and Carbon-24 (Pickard 2020), each as
train.csv, val.csv and test.csv with a column of CIF texts, from one pinned commit. Of Perov-5 git's
hashes of the files are known and checked. Of the other two they are not: the commit is pinned, and
what is read must be as many crystals as the repository says; the hashes that were found are kept in
`dataset.json`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from nesf.data.dataset import SPLITS, Dataset, default_data_dir, load_packed, save_dataset
from nesf.data.files import read
from nesf.outputs import PACKED, check
from nesf_io.errors import ConfigError, DataError
from nesf_io.remote import ReleaseFile, download

REPOSITORY = "txie-93/cdvae"
COMMIT = "f857f598d6f6cca5dc1ea0582d228f12dcc2c2ea"
BASE_URL = f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}"
SLACK = 0.001  # of a stated number of crystals


@dataclass(frozen=True)
class Benchmark:
    """A dataset of the repository: its folder, how many crystals it says it has, its licence."""

    folder: str
    n_crystals: int
    licence: str
    git_blobs: Mapping[str, str] = field(default_factory=dict)  # of each split's file


BENCHMARKS: Mapping[str, Benchmark] = {
    "perov5": Benchmark(
        "data/perov_5",
        18_928,
        "MIT (CDVAE); structures: Castelli et al. 2012",
        {
            "train": "0769074b5d51d293b765c4371b8f55c468c9c9f2",
            "val": "4a2c8dde98347dd0e01fa83dcf3982c2abe98f9f",
            "test": "d3c5d5af4b27a2a139149f2bb73c8a3dba9d8ac1",
        },
    ),
    "mp20": Benchmark(
        "data/mp_20", 45_231, "MIT (CDVAE); structures: Materials Project, CC BY 4.0"
    ),
    "carbon24": Benchmark("data/carbon_24", 10_153, "MIT (CDVAE); structures: Pickard 2020"),
}


def fetch_benchmark(
    name: str,
    *,
    data_dir: Path | None = None,
    mirror: Path | None = None,
    base_url: str = BASE_URL,
    replace_other: bool = False,
    progress: bool = True,
) -> Path:
    """Write a benchmark as a packed folder, unless it is there and whole; return the folder.

    Args:
        name: one of `BENCHMARKS`.
        mirror: a local copy of the repository, or a folder with train.csv, val.csv and test.csv, to
            read instead of the network.
        base_url: address of the repository's root at the pinned commit.
        replace_other: put it in the place of another dataset of this name.

    Raises:
        ConfigError: no such benchmark, or another dataset has its name.
        DataError: a file is missing, cannot be downloaded, differs from its hash, or the crystals
            are not as many as stated. Nothing is left half-written.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"{name!r} is no benchmark; choose from {', '.join(BENCHMARKS)}")
    folder, known = Path(data_dir or default_data_dir()) / name, BENCHMARKS[name]
    try:
        if load_packed(folder).provenance.get("commit") == COMMIT:
            return folder
    except DataError:  # not there yet, or damaged since
        replace_other = True
    check(folder, replace=replace_other, own=PACKED)
    hashes: dict[str, str] = {}
    with TemporaryDirectory() as place:
        for split in tqdm(SPLITS, desc=name, unit="file", disable=not progress):
            file = ReleaseFile(
                f"{known.folder}/{split}.csv", None, known.git_blobs.get(split), None
            )
            content, where = _content(file, mirror, base_url)
            file.check(content, where)
            hashes[file.path] = hashlib.sha256(content).hexdigest()
            (Path(place) / f"{split}.csv").write_bytes(content)
        dataset, _ = read(place, name=name)
    save_dataset(_described(dataset, known, hashes), folder, replace=replace_other)
    return folder


def _content(file: ReleaseFile, mirror: Path | None, base_url: str) -> tuple[bytes, str]:
    """Return the content of a file, and where it is from."""
    if mirror is None:
        url = f"{base_url}/{file.path}"
        return download(url), url
    places = [Path(mirror) / file.path, Path(mirror) / Path(file.path).name]
    for place in places:
        if place.is_file():
            return place.read_bytes(), str(place)
    raise DataError(
        f"{mirror}: {file.path} is missing in this mirror; use a complete copy, or leave --mirror out to download it"
    )


def _described(dataset: Dataset, known: Benchmark, hashes: Mapping[str, str]) -> Dataset:
    """Return the dataset with its source; a DataError where crystals are missing, or too many."""
    n = sum(len(crystals) for crystals in dataset.splits.values())
    if abs(n - known.n_crystals) > SLACK * known.n_crystals:
        raise DataError(
            f"{dataset.name}: {n} crystals, not about {known.n_crystals} as stated for it; this is another version, so nothing was written"
        )
    about = {
        "source": f"https://github.com/{REPOSITORY}, {known.folder}",
        "commit": COMMIT,
        "licence": known.licence,
        "sha256": dict(hashes),
        "checked": "git blob SHA-1 of each file" if known.git_blobs else "number of crystals only",
    }
    return replace(dataset, provenance=dict(dataset.provenance) | about)
