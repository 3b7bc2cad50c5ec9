"""The official release: verified before it is read, read by a restricted unpickler, converted to
the right cells."""

import errno
import hashlib
import http.server
import json
import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest

from nesf.crystals import standard_lattice
from nesf.data import available, load, official
from nesf.data.dataset import SPLITS, load_packed
from nesf.data.official import fetch, to_crystals
from nesf_io import remote
from nesf_io.errors import ConfigError, DataError, NesfError
from nesf_io.remote import ReleaseFile, restricted_loads

SIDX_TO_Z = [1, 8, 26]


def pickled(value) -> bytes:
    """As numpy 1.x pickled it: the release's module path."""
    return pickle.dumps(value, protocol=3).replace(
        b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    )


def entry(identifier: str, n: int = 3):
    rng = np.random.default_rng(len(identifier) + n)
    lengths, angles = (4.0, 5.0, 6.0), (np.pi / 2, np.pi / 2, np.pi / 2)
    return (
        rng.random((n, 3)) * lengths,
        np.arange(n) % 3,
        lengths,
        tuple(map(float, angles)),
        identifier,
    )


def split_files(ids: list[str]) -> dict[str, bytes]:
    attributes = {"num_species": 3, "sidx_to_z": SIDX_TO_Z, "mpid": ids}
    return {
        "dataset.pkl": pickled([entry(i) for i in ids]),
        "dataset_attr.json": json.dumps(attributes).encode(),
    }


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny release with the real one's folders and faults, and a manifest of it that
    `nesf.data.official` takes for the real one."""
    ids = {"train": [f"mp-{i}" for i in range(1, 9)], "val": ["mp-2"], "test": ["mp-5", "mp-7"]}
    root = tmp_path / "release"
    known = {}
    for name in ("ICSG3D", "lim_l6", "YBCO13_fold0"):
        for split in SPLITS:
            for file, content in split_files(ids[split]).items():
                path = f"data/dataset_paper/dataset_{name}_{split}/{file}"
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(content)
                sha1 = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                # as in the real manifest: only git's hash is known
                partly = name == "ICSG3D" and split == "train" and file.endswith("pkl")
                known[path] = (
                    ReleaseFile(path, None, sha1, None)
                    if partly
                    else ReleaseFile(path, len(content), sha1, hashlib.sha256(content).hexdigest())
                )
    monkeypatch.setattr(official, "manifest", lambda: known)
    monkeypatch.setattr(remote, "RETRY_SECONDS", 0.0)
    return root


class Server:
    """A loopback server of a folder that can break off in the middle of some files, or answer with
    an error so many times."""

    def __init__(self, root: Path):
        self.root, self.broken, self.failures, self.requests = root, "no file", 0, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append(self.path)
                file = outer.root / self.path.lstrip("/")
                if outer.failures > 0:
                    outer.failures -= 1
                    self.send_error(503)
                    return
                if not file.is_file():
                    self.send_error(404)
                    return
                content = file.read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(
                    content[: len(content) // 3] if outer.broken in self.path else content
                )

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()


@pytest.fixture
def server(release: Path):
    server = Server(release)
    yield server
    server.server.shutdown()
    server.server.server_close()


def whole_files(folder: Path) -> list[str]:
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())


def test_manifest_names_every_file_of_the_release() -> None:
    known = official.manifest()
    assert len(known) == 6 * (2 + official.FOLDS)
    train = known["data/dataset_paper/dataset_ICSG3D_train/dataset.pkl"]
    assert (train.git_blob_sha1, train.size, train.sha256) == (
        "50ff9d48e26417d32a47d034c929fe4f5c1d6f1a",
        None,
        None,
    )
    assert all(
        f.size and len(f.sha256 or "") == 64 and len(f.git_blob_sha1) == 40
        for f in known.values()
        if f is not train
    )


def test_git_blob_hash_is_git_s() -> None:
    # `printf 'hello\n' | git hash-object --stdin`
    ReleaseFile("x", None, "ce013625030ba8dba906f756967f9e9ca394464a", None).check(b"hello\n", "x")


def test_network_and_mirror_give_the_same_dataset(
    release: Path, server: Server, tmp_path: Path
) -> None:
    folders = [
        fetch("lcs6", data_dir=tmp_path / "network", base_url=server.url, progress=False),
        fetch("lcs6", data_dir=tmp_path / "root", mirror=release, progress=False),
        fetch(
            "lcs6",
            data_dir=tmp_path / "inner",
            mirror=release / "data/dataset_paper",
            progress=False,
        ),
    ]
    datasets = [load_packed(f) for f in folders]
    assert len({d.hash() for d in datasets}) == 1
    assert datasets[0].vocabulary == tuple(SIDX_TO_Z)
    assert datasets[0].provenance == datasets[1].provenance
    assert datasets[0].provenance["commit"] == official.COMMIT
    np.testing.assert_allclose(datasets[0].splits["test"].lengths, [[4, 5, 6]] * 2)
    np.testing.assert_array_equal(datasets[0].splits["test"].species[:3], SIDX_TO_Z)


def test_what_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    fetch("lcs6", data_dir=tmp_path, base_url=server.url, progress=False)
    n = len(server.requests)
    fetch("lcs6", data_dir=tmp_path, base_url=server.url, progress=False)
    assert len(server.requests) == n
    packed = tmp_path / "lcs6" / "train.safetensors"
    # damaged: made again, from the raw files that are verified
    packed.write_bytes(packed.read_bytes()[:-8])
    fetch("lcs6", data_dir=tmp_path, base_url=server.url, progress=False)
    assert len(server.requests) == n
    assert len(load("lcs6", data_dir=tmp_path).splits["train"]) == 8


def test_clean_split_of_icsg3d_leaves_out_validation_and_test(
    release: Path, tmp_path: Path
) -> None:
    dataset = load_packed(fetch("icsg3d", data_dir=tmp_path, mirror=release, progress=False))
    assert dataset.splits["train"].ids == ("mp-1", "mp-3", "mp-4", "mp-6", "mp-8")
    with pytest.warns(UserWarning, match="icsg3d-as-released"):
        as_released = load_packed(
            fetch("icsg3d-as-released", data_dir=tmp_path, mirror=release, progress=False)
        )
    assert len(as_released.splits["train"]) == 8
    assert "warning" in as_released.provenance
    with pytest.warns(UserWarning, match="icsg3d"):
        load("icsg3d-as-released", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda c: c[:-1] + b"?", "SHA"),
        (lambda c: c[: len(c) // 2], "size"),
        (lambda c: b"", "size"),
    ],
)
def test_a_damaged_file_is_refused_before_it_is_read(
    release: Path, server: Server, tmp_path: Path, monkeypatch, damage, what: str
) -> None:
    file = release / "data/dataset_paper/dataset_lim_l6_val/dataset.pkl"
    file.write_bytes(damage(file.read_bytes()))
    monkeypatch.setattr(official, "restricted_loads", lambda *_: pytest.fail("it was read"))
    for source in ({"mirror": release}, {"base_url": server.url}):
        with pytest.raises(DataError, match=rf"dataset_lim_l6_val/dataset.pkl: .*{what}"):
            fetch("lcs6", data_dir=tmp_path / "data", progress=False, **source)
    assert not (tmp_path / "data" / "lcs6").exists()
    assert not [f for f in whole_files(tmp_path / "data") if "val/dataset.pkl" in f]


def test_the_file_of_which_only_git_s_hash_is_known_is_checked_by_it(
    release: Path, tmp_path: Path
) -> None:
    file = release / "data/dataset_paper/dataset_ICSG3D_train/dataset.pkl"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(DataError, match="git blob SHA-1"):
        fetch("icsg3d", data_dir=tmp_path / "data", mirror=release, progress=False)


def test_missing_files_name_file_and_remedy(release: Path, server: Server, tmp_path: Path) -> None:
    (release / "data/dataset_paper/dataset_ICSG3D_train/dataset.pkl").unlink()
    with pytest.raises(
        DataError, match=r"dataset_ICSG3D_train/dataset.pkl.*--mirror.*icsg3d-recovered"
    ):
        fetch("icsg3d", data_dir=tmp_path, mirror=release, progress=False)
    with pytest.raises(
        DataError, match=r"http://127.*dataset_ICSG3D_train/dataset.pkl: .*404.*--mirror DIR"
    ):
        fetch("icsg3d", data_dir=tmp_path, base_url=server.url, progress=False)


def test_an_interrupted_download_leaves_nothing_and_what_is_verified_is_kept(
    server: Server, tmp_path: Path
) -> None:
    server.broken = "val/dataset.pkl"
    with pytest.raises(DataError, match=r"val/dataset\.pkl"):
        fetch("lcs6", data_dir=tmp_path / "data", base_url=server.url, progress=False)
    assert sum(server.broken in path for path in server.requests) == remote.ATTEMPTS
    assert [f.split("/", 2)[2] for f in whole_files(tmp_path / "data")] == [
        f"dataset_lim_l6_train/{f}" for f in ("dataset.pkl", "dataset_attr.json")
    ]
    server.broken, server.requests = "no file", []
    fetch("lcs6", data_dir=tmp_path / "data", base_url=server.url, progress=False)
    assert len(server.requests) == 4 and not any("_train" in path for path in server.requests)
    assert len(load("lcs6", data_dir=tmp_path / "data").splits["train"]) == 8


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.failures = remote.ATTEMPTS - 1
    fetch("lcs6", data_dir=tmp_path, base_url=server.url, progress=False)
    assert len(load("lcs6", data_dir=tmp_path).splits["train"]) == 8
    server.failures = remote.ATTEMPTS
    with pytest.raises(DataError, match="503"):
        fetch("ybco", fold=0, data_dir=tmp_path, base_url=server.url, progress=False)


def test_a_damaged_download_is_replaced(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "official" / official.COMMIT[:12] / "dataset_lim_l6_train" / "dataset.pkl"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * 10)
    fetch("lcs6", data_dir=tmp_path, base_url=server.url, progress=False)
    assert len(load("lcs6", data_dir=tmp_path).splits["train"]) == 8
    assert len(file.read_bytes()) > 10


def test_a_server_that_is_not_there_is_a_sentence(release: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"http://127.0.0.1:9/.*--mirror DIR"):
        fetch("lcs6", data_dir=tmp_path, base_url="http://127.0.0.1:9", progress=False)


def test_full_disk_leaves_no_dataset_and_the_next_run_goes_on(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, calls = os.replace, []

    def full(source, target) -> None:
        calls.append(target)
        if len(calls) == 2:  # in the middle of the packed folder
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(NesfError, match="No space left on device"):
        fetch("lcs6", data_dir=tmp_path, mirror=release, progress=False)
    assert whole_files(tmp_path / "lcs6") == []
    fetch("lcs6", data_dir=tmp_path, mirror=release, progress=False)
    assert len(load("lcs6", data_dir=tmp_path).splits["train"]) == 8


def test_full_disk_during_a_download(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, "replace", full)
        with pytest.raises(NesfError, match=r"dataset\.pkl.*No space left"):
            fetch("lcs6", data_dir=tmp_path, base_url=server.url, progress=False)
    assert whole_files(tmp_path) == ["release/" + f for f in whole_files(server.root)]
    fetch("lcs6", data_dir=tmp_path, base_url=server.url, progress=False)


class _Evil:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(DataError, match=r"file.pkl: .*(posix|nt|os)\.system"):
            restricted_loads(pickle.dumps([1, _Evil(marker)], protocol), "file.pkl")
    for source in (
        b"cbuiltins\neval\n.",
        b"cnumpy\nload\n.",
        b"cnumpy.core.multiarray\nfromfile\n.",
        b"cnumpy\nndarray.tofile\n.",
    ):
        with pytest.raises(
            DataError, match=r"builtins\.eval|numpy\.load|multiarray\.fromfile|ndarray\.tofile"
        ):
            restricted_loads(source, "x")
    assert not marker.exists()


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_arrays_of_both_numpy_generations_are_read(module: str) -> None:
    value = np.arange(12.0).reshape(4, 3)
    source = pickle.dumps([value], protocol=3).replace(
        b"cnumpy._core.multiarray\n", f"c{module}\n".encode()
    )
    np.testing.assert_array_equal(restricted_loads(source, "x")[0], value)


def test_pickles_of_another_form_are_refused() -> None:
    attributes = split_files(["mp-1"])["dataset_attr.json"]
    good = entry("mp-1")
    bad = {
        "list": {"mp-1": good},
        "tuple": [list(good)],
        "positions": [(good[0][:, :2], *good[1:])],
        "species are": [(good[0], good[1][:2], *good[2:])],
        "species index 3": [(good[0], good[1] + 1, *good[2:])],
        "lengths or angles": [(*good[:3], (90.0, 90.0, 90.0), "mp-1")],
        "its id": [(*good[:4], "mp-2")],
    }
    for reason, value in bad.items():
        with pytest.raises(DataError, match=reason):
            to_crystals(pickled(value), attributes, "here")
    with pytest.raises(DataError, match="not a readable pickle"):
        to_crystals(pickled([good])[:-20], attributes, "here")
    with pytest.raises(DataError, match=r"dataset_attr\.json"):
        to_crystals(pickled([good]), b"{", "here")


def test_names_folds_and_what_is_not_on_disk(release: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="0-19"):
        load("ybco", data_dir=tmp_path)
    with pytest.raises(ConfigError, match="not 20"):
        load("ybco", fold=20, data_dir=tmp_path)
    with pytest.raises(ConfigError, match="no folds"):
        load("lcs6", fold=1, data_dir=tmp_path)
    with pytest.raises(ConfigError, match="choose from lcs6"):
        fetch("lsc6", data_dir=tmp_path)
    with pytest.raises(DataError, match=r"`nesf data fetch ybco --fold 0`.*--mirror DIR"):
        load("ybco", fold=0, data_dir=tmp_path)
    with pytest.raises(DataError, match=r"'lsc6'.*lcs6"):
        load("lsc6", data_dir=tmp_path)
    assert load("ybco", fold=0, data_dir=tmp_path, mirror=release).label == "ybco fold 0"
    assert load("ybco", fold=0, data_dir=tmp_path).fold == 0
    assert "ybco fold 0" in available(tmp_path)


def test_the_real_release(mirror: Path, tmp_path: Path) -> None:
    lcs6 = load_packed(fetch("lcs6", data_dir=tmp_path, mirror=mirror, progress=False))
    assert [len(lcs6.splits[s]) for s in SPLITS] == [5418, 286, 301]
    assert len(lcs6.vocabulary) == 80
    ybco = load_packed(fetch("ybco", fold=19, data_dir=tmp_path, mirror=mirror, progress=False))
    assert [len(ybco.splits[s]) for s in SPLITS] == [90, 5, 5]
    for dataset in (lcs6, ybco):
        for crystals in dataset.splits.values():
            # pymatgen's conventional cells have every atom inside: so in the right setting has each
            # crystal, also an oblique one.
            owner = np.repeat(np.arange(len(crystals)), crystals.n_atoms)
            fractional = np.einsum(
                "ni,nij->nj", crystals.positions, np.linalg.inv(crystals.lattice)[owner]
            )
            assert fractional.min() > -1e-6
            assert fractional.max() < 1 + 1e-6


def test_oblique_cells_of_the_release_have_pymatgen_s_conventional_matrix(
    mirror: Path, tmp_path: Path
) -> None:
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    crystals = load_packed(fetch("lcs6", data_dir=tmp_path, mirror=mirror, progress=False)).splits[
        "train"
    ]
    oblique = np.flatnonzero(np.abs(np.degrees(crystals.angles) - 90).max(1) > 1e-3)
    assert len(oblique) > 100
    for structure in crystals.select(oblique).to_structures():
        conventional = SpacegroupAnalyzer(structure).get_conventional_standard_structure()
        np.testing.assert_allclose(conventional.lattice.matrix, structure.lattice.matrix, atol=1e-3)
    np.testing.assert_allclose(
        standard_lattice(crystals.lengths, crystals.angles), crystals.lattice, atol=1e-9
    )
