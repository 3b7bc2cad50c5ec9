"""The field's benchmarks: fetched from a pinned commit, checked before they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from nesf.data import load
from nesf.data.dataset import load_packed
from nesf_cli.main import main
from nesf_design import datasets
from nesf_design.datasets import BENCHMARKS, COMMIT, fetch_benchmark
from nesf_io.errors import ConfigError, DataError


def table(names: list[str]) -> str:
    rows = ["material_id,cif,heat_ref"]
    for k, name in enumerate(names):
        cube = Structure(Lattice.cubic(4 + 0.1 * k), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
        text = str(CifWriter(cube)).replace('"', '""')
        rows.append(f'{name},"{text}",{k / 10}')
    return "\n".join(rows) + "\n"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository with the folders of the real one, taken for it."""
    folder, blobs = tmp_path / "cdvae" / "data" / "perov_5", {}
    folder.mkdir(parents=True)
    for split, names in (("train", ["a", "b", "c"]), ("val", ["d"]), ("test", ["e", "f"])):
        content = table(names).encode()
        (folder / f"{split}.csv").write_bytes(content)
        blobs[split] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    known = replace(BENCHMARKS["perov5"], n_crystals=6, git_blobs=blobs)
    monkeypatch.setattr(datasets, "BENCHMARKS", {"perov5": known})
    return tmp_path / "cdvae"


@pytest.fixture
def server(repository: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(repository)))
    Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()


def test_network_mirror_and_bare_folder_give_the_same_dataset(
    repository: Path, server: str, tmp_path: Path
) -> None:
    made = [
        fetch_benchmark("perov5", data_dir=tmp_path / "a", base_url=server, progress=False),
        fetch_benchmark("perov5", data_dir=tmp_path / "b", mirror=repository, progress=False),
        fetch_benchmark(
            "perov5",
            data_dir=tmp_path / "c",
            mirror=repository / "data" / "perov_5",
            progress=False,
        ),
    ]
    packed = [load_packed(folder) for folder in made]
    assert len({dataset.hash() for dataset in packed}) == 1
    assert {s: len(c) for s, c in packed[0].splits.items()} == {"train": 3, "val": 1, "test": 2}
    about = packed[0].provenance
    assert about["commit"] == COMMIT and about["checked"].startswith("git blob")
    assert load("perov5", data_dir=tmp_path / "a").split("test").ids == ("e", "f")


def test_what_is_there_is_not_fetched_again(repository: Path, tmp_path: Path) -> None:
    folder = fetch_benchmark("perov5", data_dir=tmp_path, mirror=repository, progress=False)
    assert fetch_benchmark("perov5", data_dir=tmp_path, mirror=tmp_path / "gone") == folder


def test_a_changed_file_is_refused_and_nothing_is_written(repository: Path, tmp_path: Path) -> None:
    file = repository / "data" / "perov_5" / "val.csv"
    file.write_text(file.read_text().replace("4.0", "4.1"))
    with pytest.raises(DataError, match=r"val\.csv: git blob SHA-1 is .*another version"):
        fetch_benchmark("perov5", data_dir=tmp_path / "d", mirror=repository, progress=False)
    assert not (tmp_path / "d" / "perov5").exists()


def test_without_known_hashes_the_number_of_crystals_is_checked(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = replace(datasets.BENCHMARKS["perov5"], git_blobs={})
    monkeypatch.setattr(datasets, "BENCHMARKS", {"perov5": known})
    fetch = partial(fetch_benchmark, "perov5", mirror=repository, progress=False)
    provenance = load_packed(fetch(data_dir=tmp_path / "ok")).provenance
    assert provenance["checked"] == "number of crystals only" and len(provenance["sha256"]) == 3
    monkeypatch.setattr(datasets, "BENCHMARKS", {"perov5": replace(known, n_crystals=60)})
    with pytest.raises(DataError, match="6 crystals, not about 60"):
        fetch(data_dir=tmp_path / "no")


def test_missing_files_and_unknown_names_are_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="choose from perov5, mp20, carbon24"):
        fetch_benchmark("perov6")
    with pytest.raises(DataError, match=r"data/perov_5/train\.csv is missing in this mirror"):
        fetch_benchmark("perov5", data_dir=tmp_path, mirror=tmp_path, progress=False)
    assert main(["data", "fetch", "qm9", "--data", str(tmp_path)]) != 0
    assert "choose from lcs6" in capsys.readouterr().err


def test_the_command_fetches_from_a_mirror(repository: Path, tmp_path: Path) -> None:
    words = ["data", "fetch", "perov5", "--data", str(tmp_path), "--mirror", str(repository)]
    assert main(words) == 0 and len(load("perov5", data_dir=tmp_path).split("train")) == 3
