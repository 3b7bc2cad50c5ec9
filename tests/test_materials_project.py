"""The builder with mp-api's real client against a server on loopback that answers in the
interface's format."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from nesf.crystals import Crystals, concatenate
from nesf.data import load
from nesf.data.dataset import load_packed
from nesf_build.materials_project import CHUNK, build, prefilter
from nesf_build.rules import Rules, frequent_elements, load_rules, rule_sets, select, split_by_rules
from nesf_io.errors import ConfigError, DataError, NesfError
from robustness.server import KEY, Server


def primitive_rock_salt(cation: str, anion: str, a: float) -> Structure:
    return Structure(
        Lattice([[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]]),
        [cation, anion],
        [[0, 0, 0], [0.5, 0.5, 0.5]],
    )


def perovskite(a: float, elements: tuple[str, str, str] = ("Ca", "Ti", "O")) -> Structure:
    return Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(a), elements, [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    )


@pytest.fixture
def serve() -> Iterator[Callable[[dict[str, Structure]], Server]]:
    servers = []

    def start(structures: dict[str, Structure]) -> Server:
        server = Server(structures)
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture(autouse=True)
def no_key_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    from pymatgen.core import SETTINGS

    monkeypatch.delenv("MP_API_KEY", raising=False)
    monkeypatch.delitem(SETTINGS, "PMG_MAPI_KEY", raising=False)


def small_cells() -> dict[str, Structure]:
    """24 rock salts that LCS6Å takes, one too long, one hexagonal, and one with an element of its
    own."""
    structures = {
        f"mp-{100 + i}": primitive_rock_salt("Na", "Cl", 5.0 + 0.02 * i) for i in range(12)
    }
    structures |= {
        f"mp-{200 + i}": primitive_rock_salt("Mg", "O", 4.0 + 0.02 * i) for i in range(12)
    }
    # its primitive volume passes the query, its conventional cell fails the rule
    structures["mp-1"] = primitive_rock_salt("Na", "Cl", 6.4)
    structures["mp-2"] = Structure(
        Lattice.hexagonal(3.2, 5.2), ["Mg", "Mg"], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]
    )
    structures["mp-3"] = Structure(Lattice.cubic(3.0), ["Au"], [[0, 0, 0]])
    # the query leaves it out
    structures["mp-4"] = Structure(Lattice.cubic(9.0), ["Po"], [[0, 0, 0]])
    return structures


def build_from(server: Server, folder: Path, rules: Rules, **options: object) -> Path:
    options = {"name": "mine", "api_key": KEY} | options
    return build(rules, endpoint=server.url, data_dir=folder, progress=False, **options)


def test_lcs6_rules_end_to_end(serve, tmp_path: Path) -> None:
    server = serve(small_cells())
    dataset = load_packed(build_from(server, tmp_path, load_rules("lcs6")))
    ids = {i for c in dataset.splits.values() for i in c.ids}
    assert ids == {f"mp-{100 + i}" for i in range(12)} | {f"mp-{200 + i}" for i in range(12)}
    assert {s: len(c) for s, c in dataset.splits.items()} == {"train": 20, "val": 2, "test": 2}
    # conventional: 8 atoms although the interface stores 2, and the edge of the cube although it
    # stores the rhombohedron
    everything = dataset.splits["train"]
    assert (everything.n_atoms == 8).all()
    first = everything.ids.index("mp-100") if "mp-100" in everything.ids else None
    if first is not None:
        np.testing.assert_allclose(everything.lengths[first], 5.0, atol=1e-9)
    said = dataset.provenance
    assert said["database_version"] == "2025.09.25" and said["documents"] == 27
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", said["queried_on"])
    assert (
        said["query"]["volume_max"] == 216
        and said["query"]["batch_id_not_eq"] == "gnome_r2scan_statics"
    )
    counts = [(c["before"], c["after"]) for c in said["selection"]]
    # length, lattice entry, elements: int(0.9 * 5) = 4 without gold
    assert counts == [(27, 26), (26, 25), (25, 24)]
    summary = [q for p, q in server.requests if "summary" in p]
    assert all("deprecated" in q for q in summary), (
        "a query without criteria would go to the open-data buckets"
    )


def test_pages_are_put_together_without_loss(
    serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nesf_build.materials_project.CHUNK", 10)
    assert CHUNK > 10
    server = serve(small_cells())
    dataset = load_packed(build_from(server, tmp_path, load_rules("lcs6")))
    assert dataset.provenance["documents"] == 27
    assert {q.get("_skip") for p, q in server.requests if "_fields" in q} == {None, "10", "20"}


def test_an_interface_that_stops_short_is_noticed(
    serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nesf_build.materials_project.CHUNK", 10)
    server = serve(small_cells())
    empty = json.dumps({"data": [], "meta": {"total_doc": 27}}).encode()
    server.spoil = lambda path, query: (200, empty) if query.get("_skip") == "20" else None
    with pytest.raises(NesfError, match="27 .*20"):
        build_from(server, tmp_path, load_rules("lcs6"))
    assert not list(tmp_path.iterdir())


def test_icsg3d_rules(serve, tmp_path: Path) -> None:
    tetragonal = Structure(
        Lattice.tetragonal(3.9, 4.1),
        ["Pb", "Ti", "O", "O", "O"],
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
    )
    structures = {f"mp-{i}": perovskite(3.8 + i / 100) for i in range(1, 6)} | {
        "mp-8": tetragonal,
        "mp-9": Structure(Lattice.cubic(3), ["Po"], [[0, 0, 0]]),
    }
    server = serve(structures)
    dataset = load_packed(build_from(server, tmp_path, load_rules("icsg3d")))
    assert sorted(i for c in dataset.splits.values() for i in c.ids) == [
        f"mp-{i}" for i in range(1, 6)
    ]
    asked = next(q for p, q in server.requests if "_fields" in q)
    assert (
        asked["formula"] == "AB,ABC2,ABC3"
        and asked["crystal_system"] == "Cubic"
        and asked["nsites_max"] == "40"
    )


def ybco_like(stretch: float, rare_earth: str = "Y") -> Structure:
    elements = [rare_earth, "Ba", "Ba", "Cu", "Cu", "Cu"] + ["O"] * 7
    z = [0.5, 0.18, 0.82, 0, 0.35, 0.65, 0.16, 0.84, 0.38, 0.62, 0.38, 0.62, 0]
    xy = [(0.5, 0.5)] * 3 + [(0, 0)] * 5 + [(0.5, 0), (0.5, 0), (0, 0.5), (0, 0.5), (0, 0.5)]
    return Structure(
        Lattice.orthorhombic(3.84 * stretch, 3.92, 11.8),
        elements,
        [(x, y, h) for (x, y), h in zip(xy, z, strict=True)],
    )


def test_ybco_rules_fetch_the_reference_and_make_folds(serve, tmp_path: Path) -> None:
    structures = (
        {"mp-20674": ybco_like(1.0)}
        | {f"mp-{i}": ybco_like(1 + i / 1000) for i in range(1, 22)}
        | {"mp-98": ybco_like(1, "Lu"), "mp-99": ybco_like(1.3)}
    )
    folder = build_from(serve(structures), tmp_path, load_rules("ybco"))
    folds = [load_packed(folder / f"fold-{k}") for k in range(20)]
    assert all(d.fold == k for k, d in enumerate(folds))
    tested = [i for d in folds for i in d.splits["test"].ids]
    assert sorted(tested) == sorted(set(structures) - {"mp-98", "mp-99"}), (
        "each material is in one test set"
    )
    for d in folds:
        parts = [set(c.ids) for c in d.splits.values()]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 22
    counts = {c["rule"]: (c["before"], c["after"]) for c in folds[0].provenance["selection"]}
    assert counts["lattice vectors within 20% of mp-20674"] == (24, 23)
    assert counts["the 4 most frequent elements (90%)"] == (23, 22)
    missing = serve({"mp-1": ybco_like(1)})
    with pytest.raises(DataError, match="mp-20674"):
        build_from(missing, tmp_path / "other", load_rules("ybco"))
    with pytest.raises(ConfigError, match="--replace"):
        build_from(missing, tmp_path, load_rules("ybco"))


def test_hundred_materials_give_the_papers_folds() -> None:
    crystals = Crystals.from_arrays(
        [str(i) for i in range(100)],
        [np.zeros((1, 3))] * 100,
        [np.array([1])] * 100,
        np.tile(np.eye(3), (100, 1, 1)),
    )
    assert all(
        [len(d[s]) for s in ("train", "val", "test")] == [90, 5, 5]
        for d in split_by_rules(crystals, load_rules("ybco"), seed=0)
    )


@pytest.mark.parametrize(
    "document",
    [{"structure": {"lattice": {}}}, {"structure": None}, {}, {"structure": {"sites": []}}],
)
def test_malformed_documents_are_named_or_skipped(serve, tmp_path: Path, document: dict) -> None:
    server = serve(small_cells())
    server.documents.append({"material_id": "mp-666"} | document)
    with pytest.raises(DataError, match=r"mp-666.*repair or remove it"):
        build_from(server, tmp_path, load_rules("lcs6"))
    dataset = load_packed(build_from(server, tmp_path, load_rules("lcs6"), skip_bad=True))
    assert [s["entry"] for s in dataset.provenance["skipped"]] == ["mp-666"]
    assert sum(len(c) for c in dataset.splits.values()) == 24


def test_keys(serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(small_cells())
    with pytest.raises(ConfigError, match="MP_API_KEY"):
        build_from(server, tmp_path, load_rules("lcs6"), api_key=None)
    with pytest.raises(ConfigError, match="32 characters"):
        build_from(server, tmp_path, load_rules("lcs6"), api_key="short")
    assert not server.requests, "found out before anything is asked"
    with pytest.raises(NesfError, match="refuses the key"):
        build_from(server, tmp_path, load_rules("lcs6"), api_key="x" * 32)
    monkeypatch.setenv("MP_API_KEY", KEY)
    assert build_from(server, tmp_path, load_rules("lcs6"), api_key=None) == tmp_path / "mine"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path, query: (500, b"<html>maintenance</html>"),
        lambda path, query: (200, b"<html>maintenance</html>"),
        lambda path, query: (200, b"{}"),
        lambda path, query: (403, b""),
        lambda path, query: (200, b"<html>") if "summary" in path else None,
        lambda path, query: (200, b"[]") if "summary" in path else None,
        lambda path, query: (200, b'{"data": []}') if "summary" in path else None,
        lambda path, query: (
            (200, b'{"data": null, "meta": {"total_doc": 3}}') if "summary" in path else None
        ),
        lambda path, query: (500, b'{"detail": "oops"}') if "summary" in path else None,
        lambda path, query: (403, b'{"message": "Forbidden"}') if "summary" in path else None,
    ],
)
def test_outages_are_one_sentence(serve, tmp_path: Path, spoil: Callable) -> None:
    server = serve(small_cells())
    server.spoil = spoil
    with pytest.raises(NesfError, match="Materials Project") as caught:
        build_from(server, tmp_path, load_rules("lcs6"))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_nobody_there(tmp_path: Path, serve) -> None:
    server = serve({})
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(NesfError, match="Materials Project"):
        build_from(server, tmp_path, load_rules("lcs6"))


@pytest.mark.parametrize("name", ["lcs6", "ybco", "starter", "a/b", "", ".."])
def test_names_that_would_shadow_or_leave_the_data_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(name))):
        build(
            load_rules("lcs6"),
            name=name,
            api_key=KEY,
            endpoint="http://127.0.0.1:9/",
            data_dir=tmp_path,
        )


def test_without_mp_api_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mp_api.client", None)
    with pytest.raises(NesfError, match=re.escape('pip install "nesf[materials-project]"')):
        build(
            load_rules("lcs6"),
            name="mine",
            api_key=KEY,
            endpoint="http://127.0.0.1:9/",
            data_dir=tmp_path,
        )
    assert not list(tmp_path.iterdir())


def test_too_few_materials(serve, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few"):
        build_from(serve({"mp-1": perovskite(3.8)}), tmp_path, load_rules("lcs6"))


def test_rules_from_json(tmp_path: Path) -> None:
    assert rule_sets() == ("icsg3d", "lcs6", "ybco")
    mine = tmp_path / "mine.json"
    mine.write_text('{"max_length": 5, "crystal_system": "cubic"}')
    assert load_rules(mine) == Rules(max_length=5, crystal_system="cubic")
    for text, said in {
        '{"max_lenght": 5}': "max_lenght",
        '{"max_length": "5"}': "max_length = '5'",
        '{"max_length": -1}': "max_length = -1",
        '{"max_length": 0}': "max_length: 0",
        '{"anonymous_formulas": "AB"}': "anonymous_formulas = 'AB'",
        '{"crystal_system": "kubisch"}': "kubisch",
        '{"element_fraction": 1.5}': "element_fraction: 1.5",
        '{"folds": 2}': "folds: 2",
        '{"reference_id": "20674"}': "reference_id: '20674'",
        '{"max_sites": true}': "max_sites = True",
        "[]": "Rules = []",
        "{": "JSON",
    }.items():
        mine.write_text(text)
        with pytest.raises(ConfigError, match=r"mine\.json") as caught:
            load_rules(mine)
        assert said in str(caught.value)
    with pytest.raises(ConfigError, match="lcs7"):
        load_rules("lcs7")


@pytest.mark.parametrize(
    ("name", "fold", "sizes"), [("lcs6", None, (5418, 286, 301)), ("ybco", 0, (90, 5, 5))]
)
def test_the_release_satisfies_its_rules(
    mirror: Path, tmp_path: Path, name: str, fold: int | None, sizes: tuple[int, ...]
) -> None:
    dataset = load(name, fold=fold, data_dir=tmp_path, mirror=mirror)
    crystals = concatenate([dataset.splits[s] for s in ("train", "val", "test")])
    reference = crystals.lattice[crystals.ids.index("mp-20674")] if name == "ybco" else None
    # the most frequent elements of a larger set were kept: applied to what was left, that rule
    # would drop a tenth again
    kept, _ = select(crystals, replace(load_rules(name), element_fraction=None), reference)
    assert len(kept) == len(crystals) == sum(sizes)
    again = split_by_rules(crystals, load_rules(name), seed=0)[0]
    assert tuple(len(again[s]) for s in ("train", "val", "test")) == sizes


def test_element_rule_counts_materials_not_atoms() -> None:
    """Ten elements, int(0.9 * 10) = 9 kept: the rarest by materials goes although it has the most
    atoms."""
    species = [np.array([z]) for z in range(1, 10) for _ in range(2)] + [np.full(50, 10)]
    crystals = Crystals.from_arrays(
        [str(i) for i in range(19)],
        [np.zeros((len(s), 3)) for s in species],
        species,
        np.tile(np.eye(3), (19, 1, 1)),
    )
    assert set(frequent_elements(crystals, 0.9)) == set(range(1, 10))
    kept, counts = select(crystals, Rules(element_fraction=0.9))
    assert kept.ids == crystals.ids[:18] and (counts[0].before, counts[0].after) == (19, 18)


def test_query_is_never_stricter_than_the_rules() -> None:
    assert prefilter(Rules(n_sites=13, max_sites=40))["nsites_max"] == 13
    assert prefilter(Rules()) == {"deprecated": False, "batch_id_not_eq": "gnome_r2scan_statics"}
