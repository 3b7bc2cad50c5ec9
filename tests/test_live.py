"""The page with the live model: its engine in JavaScript gives what the Python code gives."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter
from scipy.spatial.distance import cdist

import nesf
from nesf import decode, metrics
from nesf.config import with_fields
from nesf.crystals import Crystals
from nesf.domain import outside
from nesf.files import read_json
from nesf.saved import TrainedModel
from nesf_io.errors import ConfigError
from nesf_studies.live import export
from nesf_studies.live.weights import packed
from nesf_studies.record import recorded_analysis

ROOT = Path(__file__).parents[1]
NODE = shutil.which("node")
# every step in fp32, as in the page
FAST: dict[str, Any] = {"mode": "fast", "rough_iterations": 0}
N = 50

needs_node = pytest.mark.skipif(NODE is None, reason="node, which runs the engine, is missing")


def node(task: str, **given: Any) -> Any:
    made = subprocess.run(
        [str(NODE), str(ROOT / "tests" / "live.mjs")],
        input=json.dumps({task: given}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


@cache
def recorded(n: int = N) -> Crystals:
    """The first crystals of the recorded atlas that are of the test split."""
    atlas = recorded_analysis("atlas", export.RUN)
    rows = np.flatnonzero(atlas.table("points")["split"] == "test")[:n]
    single = atlas.crystals("crystals").select(rows)
    parts = [single.atoms(i) for i in range(len(single))]
    return Crystals.from_arrays(
        single.ids,
        [single.positions[a] for a in parts],
        [single.species[a] for a in parts],
        single.lattice,
    )


def plain(crystals: Crystals) -> list[dict[str, Any]]:
    return [
        {
            "positions": crystals.positions[crystals.atoms(i)].ravel().tolist(),
            "numbers": crystals.species[crystals.atoms(i)].tolist(),
            "lengths": crystals.lengths[i].tolist(),
            "angles": crystals.angles[i].tolist(),
        }
        for i in range(len(crystals))
    ]


def engine(model: TrainedModel) -> dict[str, Any]:
    about, numbers = packed(model)
    return {"about": about, "weights": base64.b64encode(export.leading_bytes(numbers)).decode()}


def assert_same_atoms(made: dict[str, Any], positions: np.ndarray, numbers: np.ndarray) -> None:
    """The same atoms to 0.001 Å, in any order: they come by score, and scores are all but equal."""
    there = np.reshape(made["positions"], (-1, 3))
    assert len(there) == len(positions)
    if len(there):
        distances = cdist(positions, there)
        index = distances.argmin(1)
        assert sorted(index.tolist()) == list(range(len(there)))
        assert distances.min(1).max() < 1e-3
        assert [made["numbers"][i] for i in index] == numbers.tolist()


@needs_node
@pytest.mark.parametrize(("name", "n"), [("lcs6/plus", N), ("lcs6/cpu", 10)])
def test_the_engine_encodes_and_decodes_as_python_does(name: str, n: int) -> None:
    model, crystals = nesf.load_model(name, device="cpu"), recorded().select(range(n))
    expected = decode.reconstruct(model, crystals, with_fields(model.config.decoding, FAST))
    z = model.encode(crystals).numpy()
    scale = np.asarray(model.latent_scale)
    answers = node("decode", **engine(model), crystals=plain(crystals))
    assert len(answers) == n
    table = metrics.evaluate(crystals, expected.crystals, match=False).materials
    for i, answer in enumerate(answers):
        assert np.abs((np.asarray(answer["z"]) - z[i]) / scale).max() < 1e-3
        atoms = expected.crystals.atoms(i)
        assert_same_atoms(
            answer["decoded"], expected.crystals.positions[atoms], expected.crystals.species[atoms]
        )
        np.testing.assert_allclose(
            answer["decoded"]["lattice"], expected.crystals.lattice[i], atol=2e-3
        )
        errors, row = answer["errors"], table.iloc[i]
        for key, column in {
            "position": "position_error_actual_angstrom",
            "detected": "position_error_detected_angstrom",
            "length": "lattice_length_error_angstrom",
            "angle": "lattice_angle_error_degree",
        }.items():
            assert errors[key] == pytest.approx(row[column], abs=5e-3), (row["id"], key)
        assert errors["species"] == pytest.approx(row["species_error_actual_percent"])


@needs_node
def test_the_engine_certifies_what_python_certifies_without_its_search() -> None:
    model, crystals = nesf.load_model("lcs6/plus", device="cpu"), recorded().select(range(16))
    config = with_fields(model.config.decoding, {**FAST, "mode": "consistent", "search_rounds": 0})
    expected = decode.reconstruct(model, crystals, config)
    answers = node("decode", **engine(model), crystals=plain(crystals), polish=True)
    verdicts = []
    for i, (answer, report) in enumerate(zip(answers, expected.reports, strict=True)):
        polished, certificate = answer["polished"], report["certificate"]
        certified = polished["distance"] < config.certified
        assert certified == certificate["certified"], crystals.ids[i]
        verdicts.append(certified)
        assert polished["distance"] <= answer["distance"] * (1 + 1e-6)
        if certified:
            atoms = crystals.atoms(i)
            assert_same_atoms(polished, crystals.positions[atoms], crystals.species[atoms])
    assert {True, False} <= set(verdicts)


@needs_node
def test_the_product_in_webassembly_is_that_in_javascript() -> None:
    model, crystals = nesf.load_model("lcs6/plus", device="cpu"), recorded().select(range(3))
    (is_simd, a), (is_not, b) = node("products", **engine(model), crystals=plain(crystals))
    assert is_simd and not is_not
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_an_architecture_that_the_engine_lacks_is_refused() -> None:
    model = nesf.load_model("lcs6/plus", device="cpu")
    model.config = model.config.with_values({"decoding.atom_position": "cluster_mean"})
    with pytest.raises(ConfigError, match=r"atom_position .* preset cpu or plus"):
        packed(model)


SYMBOLS = [e["symbol"] for e in export.elements()]


def structures() -> dict[str, Structure]:
    rutile = Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.3053, 0.3053, 0]]
    )
    salt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0] * 3, [0.5] * 3]
    )
    zincite = Structure.from_spacegroup(
        "P6_3mc",
        Lattice.hexagonal(3.25, 5.207),
        ["Zn", "O"],
        [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.382]],
    )
    skew = Structure(
        Lattice.from_parameters(3, 4, 5, 80, 85, 95),
        ["Li", "H"],
        [[0.1, 1.2, -0.3], [0.6, 0.5, 0.4]],
    )
    return {"rutile": rutile, "salt": salt, "zincite": zincite, "skew": skew}


@needs_node
@pytest.mark.filterwarnings("ignore:.*fractional coordinates rounded")
@pytest.mark.parametrize("symprec", [None, 0.01])
def test_cifs_are_read_as_python_reads_them(tmp_path: Path, symprec: float | None) -> None:
    texts = []
    for name, structure in structures().items():
        CifWriter(structure, symprec=symprec).write_file(tmp_path / f"{name}.cif")
        texts.append((tmp_path / f"{name}.cif").read_text())
    for text, name, answer in zip(
        texts, structures(), node("cif", texts=texts, symbols=SYMBOLS), strict=True
    ):
        assert text.startswith("# generated")
        (expected,) = nesf.read_structures(tmp_path / f"{name}.cif")
        np.testing.assert_allclose(answer["lattice"], expected.lattice.matrix, atol=1e-5)
        there = expected.lattice.get_fractional_coords(np.reshape(answer["positions"], (-1, 3)))
        assert len(there) == len(expected)
        off = there[:, None] - expected.frac_coords
        off -= np.round(off)
        index = np.linalg.norm(off, axis=-1).argmin(1)
        assert sorted(index.tolist()) == list(range(len(expected)))
        assert np.linalg.norm(off, axis=-1).min(1).max() < 2e-4
        assert [answer["numbers"][i] for i in range(len(index))] == [
            expected[i].specie.Z for i in index
        ]


CELL = "data_x\n" + "".join(
    f"_cell_length_{a} 4.0(1)\n_cell_angle_{b} 90\n"
    for a, b in zip("abc", ("alpha", "beta", "gamma"), strict=True)
)
SITES = "loop_\n_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n_atom_site_occupancy\n"


@needs_node
def test_a_cif_that_cannot_be_used_is_refused_in_one_sentence() -> None:
    texts = {
        "no CIF": "hello",
        "no atoms": CELL,
        "partly occupied": CELL + SITES + "Na1 0 0 0 0.5\n",
        "Fm-3m": CELL + "_symmetry_space_group_name_H-M 'F m -3 m'\n" + SITES + "Na1 0 0 0 1\n",
        "where a number": CELL + SITES + "Na1 0 ? 0 1\n",
        "is no element": CELL + SITES + "Xx1 0 0 0 1\n",
        "at one place": CELL + SITES + "Na1 0 0 0 1\nCl1 0 0 0.001 1\n",
        "close no cell": CELL.replace("_cell_angle_gamma 90", "_cell_angle_gamma 190")
        + SITES
        + "Na1 0 0 0 1\n",
        "columns": CELL + SITES + "Na1 0 0\n",
        "cannot be read": CELL
        + "loop_\n_space_group_symop_operation_xyz\n'x,y,q'\n"
        + SITES
        + "Na1 0 0 0 1\n",
    }
    for part, answer in zip(
        texts, node("cif", texts=list(texts.values()), symbols=SYMBOLS), strict=True
    ):
        assert "error" in answer, part
        assert part.lower().replace("fm-3m", "f m -3 m") in answer["error"].lower(), (part, answer)
        assert answer["kind"] == "CifError"


@needs_node
def test_a_cif_with_operators_deuterium_and_quotes() -> None:
    text = (
        CELL.replace("\n", "\r\n", 2)
        + "_chemical_name 'it''s; a name'\n;text\n_cell_length_a 9\n;\n"
        + "loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n'-x+1/2, y, -z'\n"
        + SITES
        + "D1 0.3(2) 0.1 0.2 1.\nO2- 0.25 0.5 0 ?\n# end\n"
    )
    (answer,) = node("cif", texts=[text], symbols=SYMBOLS)
    assert answer["numbers"] == [1, 1, 8]
    np.testing.assert_allclose(
        answer["positions"], [1.2, 0.4, 0.8, 0.8, 0.4, 3.2, 1.0, 2.0, 0.0], atol=1e-9
    )


@needs_node
def test_formulas_and_domains_are_said_as_python_says_them() -> None:
    model = nesf.load_model("lcs6/cpu", device="cpu")
    table = structures()
    table["large"] = table["salt"] * (2, 1, 1)
    table["foreign"] = Structure(Lattice.cubic(4), ["Tc"], [[0, 0, 0]])
    crystals = Crystals.from_structures(list(table.values()), list(table))
    answers = node(
        "say", crystals=plain(crystals), elements=export.elements(), domain=dict(model.domain)
    )
    expected = outside(crystals, model.domain)
    assert any(expected) and not all(expected)
    for answer, words, structure in zip(answers, expected, table.values(), strict=True):
        assert answer["outside"] == words
        assert answer["formula"] == structure.composition.reduced_formula


@needs_node
def test_the_explorer_holds_the_recorded_crystals() -> None:
    atlas = recorded_analysis("atlas", export.RUN)
    points, crystals = atlas.table("points"), atlas.crystals("crystals")
    materials = pd.read_csv(export.RUN / "materials.csv").set_index("id")
    header, content = export.crystal_bytes(points, crystals, materials.reset_index())
    which = [0, 17, int(np.flatnonzero(points["split"] == "test")[3]), len(crystals) - 1]
    answers = node("atlas", header=header, content=base64.b64encode(content).decode(), which=which)
    for i, answer in zip(which, answers, strict=True):
        assert (answer["id"], answer["split"]) == (crystals.ids[i], points["split"][i])
        assert answer["group"] == points["space_group"][i]
        assert answer["numbers"] == crystals.species[crystals.atoms(i)].tolist()
        np.testing.assert_allclose(
            np.reshape(answer["positions"], (-1, 3)),
            crystals.positions[crystals.atoms(i)],
            atol=2e-4,
        )
        if answer["split"] == "train":
            assert answer["decoded"] == export.UNKNOWN
        else:
            error = materials["position_error_actual_angstrom"][answer["id"]]
            assert answer["decoded"] == pytest.approx(1e4 * error, abs=0.51)


def test_the_files_of_the_page_are_small_and_ask_nothing_of_the_network(tmp_path: Path) -> None:
    export.export(tmp_path)
    sizes = {name: (tmp_path / name).stat().st_size for name in export.FILES}
    assert sizes["atlas.js"] < 1e6 and sum(sizes.values()) < 5.5e6, sizes
    page = (export.HERE / "page.html").read_text(encoding="utf-8")
    for text in (page, (tmp_path / "page.js").read_text(encoding="utf-8")):
        assert not re.search(r"https?://|fetch\(|XMLHttpRequest|\bimport\s*[({]", text)
    assert set(re.findall(r'src="live/([\w.]+)"', page)) == {"still.png", "page.js"}
    before = (tmp_path / "model.js").stat().st_mtime_ns
    export.export(tmp_path)  # nothing has changed
    assert (tmp_path / "model.js").stat().st_mtime_ns == before
    if NODE:
        for modules in (export.WORKER, export.PAGE):
            (tmp_path / "bundle.js").write_text(export.bundle(modules), encoding="utf-8")
            subprocess.run([NODE, "--check", str(tmp_path / "bundle.js")], check=True)


def test_the_page_is_described_and_its_parts_exist() -> None:
    html = (export.HERE / "page.html").read_text(encoding="utf-8")
    code = (export.HERE / "page.mjs").read_text(encoding="utf-8")
    parts = set(re.findall(r'data-part="([\w-]+)"', html))
    assert set(re.findall(r'part\("([\w-]+)"\)', code)) <= parts
    for tag in re.findall(r"<(?:canvas|img)[^>]+>", html):
        assert re.search(r'(aria-label|alt)="[^"]{20,}"', tag), tag
    run = read_json(export.RUN / "metrics.json")["test"]
    assert set(export.QUOTED) <= set(run)
