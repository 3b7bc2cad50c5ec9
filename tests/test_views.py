"""Views and figures: what is drawn is what is there, and nothing is asked of the network."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from pymatgen.core import Lattice, Structure

import nesf
from nesf.crystals import Crystals
from nesf_io.errors import DataError
from nesf_studies import viewer
from nesf_studies.crystals import (
    cell_edges,
    draw_crystal,
    element_map,
    from_front,
    with_border_images,
)
from nesf_studies.fields import fullest_plane, structure_field, true_field
from nesf_studies.scores import error_distribution, loss_curves, metrics_chart
from nesf_studies.style import element_colour

PEROVSKITE = Structure.from_spacegroup(
    "Pm-3m", Lattice.cubic(3.9), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
)
NOTHING = Structure(Lattice.cubic(4.0), [], [])


@pytest.fixture
def crystal() -> Crystals:
    return Crystals.from_structures([PEROVSKITE], ["a"])


def arguments(html: str) -> list:
    """What the cell hands to the script."""
    match = re.search(r"\nnesfViews\.\w+\((.*)\);\n", html)
    assert match
    return json.loads(f"[{match[1]}]")


def test_atoms_on_faces_and_corners_are_repeated() -> None:
    symbols = with_border_images(PEROVSKITE).get_chemical_symbols()
    assert symbols.count("Sr") == 8 and symbols.count("Ti") == 1 and symbols.count("O") == 6


def test_a_slightly_displaced_atom_is_repeated_likewise() -> None:
    moved = PEROVSKITE.copy()
    moved.translate_sites(range(len(moved)), [0.01, -0.01, 0.01], to_unit_cell=True)
    assert len(with_border_images(moved)) == len(with_border_images(PEROVSKITE)) == 15


def test_view_holds_every_atom_the_cell_and_a_picture() -> None:
    html = viewer.crystal_view(PEROVSKITE).data
    _, library, (drawn,) = arguments(html)
    assert drawn["xyz"].splitlines()[0] == "15" and set(drawn["colours"]) == {"Sr", "Ti", "O"}
    assert np.allclose(drawn["cell"], 3.9 * np.eye(3)) and library == viewer.LIBRARY
    edges = cell_edges(PEROVSKITE.lattice.matrix)
    assert len(edges) == 12 and np.allclose(np.linalg.norm(edges[:, 1] - edges[:, 0], axis=1), 3.9)
    assert "data:image/png;base64,iVBOR" in html and "SrTiO₃" in html
    assert not re.search(r"https?://", html)


def test_before_and_after_with_nothing_detected() -> None:
    html = viewer.reconstruction_view(PEROVSKITE, NOTHING).data
    assert "before: SrTiO₃, 5 atoms" in html and "after: nothing detected, 0 atoms" in html
    assert html.count('src="data:image/png') == 2


def test_titles_are_escaped() -> None:
    assert "<b>" not in viewer.crystal_view(PEROVSKITE, titles=["<b>x"]).data


def test_true_field_points_to_the_nearest_atom(crystal: Crystals) -> None:
    vectors, species = true_field(crystal)(np.array([[[0.2, 0.1, 0.0], [1.9, 2.0, 1.8]]]))
    assert np.allclose(vectors, [[[-0.2, -0.1, 0.0], [0.05, -0.05, 0.15]]], atol=1e-5)
    assert species.tolist() == [[38, 22]]


def test_slice_goes_through_most_atoms_and_takes_one_crystal(crystal: Crystals) -> None:
    assert fullest_plane(crystal) == pytest.approx(1.95)
    assert "z = 1.95 Å" in structure_field(crystal).get_suptitle()
    with pytest.raises(DataError, match="one crystal, not of 2"):
        structure_field(crystal.select([0, 0]))


def test_loss_curves_show_validation_only_where_it_was_computed() -> None:
    terms = ("loss", "loss_position", "loss_species", "loss_length", "loss_angle")
    log = pd.DataFrame(
        {
            "epoch": [1, 2, 3, 4],
            **{t: [4.0, 3.0, 2.0, 1.0] for t in terms},
            **{f"val_{t}": [np.nan, 3.5, np.nan, 1.5] for t in terms},
        }
    )
    axes = loss_curves(log).axes
    assert [len(ax.lines) for ax in axes] == [2, 2, 2, 2, 2, 0]  # the sixth holds the legend
    training, validation = axes[0].lines
    assert len(training.get_xdata()) == 4 and list(validation.get_xdata()) == [2, 4]


def test_error_distribution_counts_the_materials() -> None:
    materials = pd.DataFrame(
        {
            "position_error_actual_angstrom": [0.01, 0.1, np.nan],
            "n_atoms_actual": [2, 2, 4],
            "n_atoms_detected": [2, 2, 0],
        }
    )
    left, right = error_distribution(materials).axes
    assert sum(p.get_height() for p in left.patches) == 2
    assert sorted(map(tuple, right.collections[0].get_offsets().data.tolist())) == [
        (2.0, 2.0),
        (4.0, 0.0),
    ]


def test_metrics_chart_leaves_out_what_is_not_defined() -> None:
    figure = metrics_chart(
        {"nesf": {"m": 1.0}, "copy": {"m": None}}, {"m": "m, Å"}, paper={"m": 2.0}
    )
    (ax,) = figure.axes
    assert sorted(float(np.ravel(line.get_xdata())[0]) for line in ax.lines) == [1.0, 2.0]


def test_element_map_counts_crystals_not_atoms(crystal: Crystals) -> None:
    texts = [t.get_text() for t in element_map(crystal).axes[0].texts]
    assert texts[texts.index("O") + 1] == "1"


def test_picture_draws_every_atom_where_it_is() -> None:
    ax = Figure().add_subplot()
    draw_crystal(ax, PEROVSKITE)
    (shapes,) = ax.collections
    spheres = [
        (p, c)
        for p, c in zip(shapes.get_paths(), shapes.get_facecolors(), strict=False)
        if len(p.vertices) > 2
    ]
    atoms = with_border_images(PEROVSKITE)
    middles = np.array([(p.vertices.min(0) + p.vertices.max(0)) / 2 for p, _ in spheres])
    # the nearest to the eye is drawn last
    order = np.argsort(from_front(atoms.positions)[:, 2], kind="stable")
    assert np.allclose(middles, from_front(atoms.positions)[order, :2], atol=1e-6)
    assert [to_hex(c) for _, c in spheres] == [element_colour(z) for z in atoms.numbers[order]]
    edges = np.concatenate([p.vertices for p in shapes.get_paths() if len(p.vertices) == 2])
    corners = from_front(cell_edges(PEROVSKITE.lattice.matrix))[..., :2].reshape(-1, 2)
    assert (edges.min(0) >= corners.min(0) - 1e-6).all() and (
        edges.max(0) <= corners.max(0) + 1e-6
    ).all()


def test_script_draws_atoms_edges_and_titles() -> None:
    """Runs the script of a slider and of a list with stand-ins for the browser and for 3Dmol.js,
    which write down what they are asked to draw."""
    node = shutil.which("node")
    if not node:
        pytest.skip("node is not installed")
    slider = viewer.crystal_slider([PEROVSKITE, NOTHING], ["one", "two"]).data
    choice = viewer.crystal_choice(
        {"a": [PEROVSKITE, None], "b": [None, PEROVSKITE]},
        {"a": ["x", "<none>"], "b": ["<none>", "y"]},
    ).data
    done = {}
    for name, page in (("slider", slider), ("choice", choice)):
        script = page.split("<script>")[1].removesuffix("</script>")
        run = subprocess.run(
            [node, "-"],
            input=f"{BROWSER}\n{script}\n{USE}",
            text=True,
            capture_output=True,
            check=True,
        )
        done[name] = json.loads(run.stdout)
    drawn = done["slider"]["viewers"][0]
    assert [int(m.split()[0]) for m in drawn["models"]] == [0, 15, 0] and drawn["edges"] == [
        12,
        12,
        12,
    ]  # the largest, the first, the second
    assert done["slider"]["texts"] == {"text": "two"}
    assert drawn["letters"] == with_border_images(PEROVSKITE).get_chemical_symbols()
    for page in done.values():
        assert page["turns"] == [0, 0, 0, 1, 1, 1] and page["mouse"] == "none"
        assert (
            page["said"]["role"] == "application" and "Escape leaves" in page["said"]["aria-label"]
        )
    first, second = done["choice"]["viewers"]
    assert [int(m.split()[0]) for m in first["models"] + second["models"]] == [15, 15]
    assert done["choice"]["texts"] == {"0-title": "<none>", "1-title": "y"}


# A browser in which an element remembers its text and its listeners, and a 3Dmol.js that counts.
BROWSER = """
const elements = {}, viewers = [], texts = {};
const get = (id) => (elements[id] ||= { id, value: 0, style: {}, clientWidth: 2, clientHeight: 1, on: {}, said: {},
  addEventListener(name, f) { this.on[name] = f; },
  getAttribute: () => "a crystal", setAttribute(name, value) { this.said[name] = value; },
  appendChild() {}, contains: () => false, querySelector: (name) => get(id + "." + name),
  set textContent(text) { texts[id.split("-").slice(2).join("-")] = text; } });
const document = { getElementById: get, addEventListener() {},
  createElement: () => ({ ...get("made"), style: {}, getContext: () => ({ getExtension: () => null }) }) };
const $3Dmol = { createViewer() {
  const v = { models: [], edges: [], letters: [], turns: 0 };
  viewers.push(v);
  return new Proxy({}, { get: (_, name) => (value) => {
    if (name === "addLabel") v.letters.push(value);
    if (name === "rotate") v.turns += 1;
    if (name === "addModel") { v.models.push(value); v.edges.push(0); }
    if (name === "addCylinder") v.edges[v.edges.length - 1] += 1;
  } });
} };
globalThis.window = { $3Dmol };
"""
USE = """
setTimeout(function () {
  const control = Object.values(elements).find((e) => e.on.input || e.on.change);
  control.value = 1;
  (control.on.input || control.on.change)();
  // the keys turn a view only after Enter, and not after Escape
  const view = Object.values(elements).find((e) => e.on.keydown), turns = [viewers[0].turns];
  for (const key of ["ArrowLeft", "Enter", "ArrowLeft", "Escape", "ArrowLeft"]) {
    view.on.keydown({ key, preventDefault() {} });
    turns.push(viewers[0].turns);
  }
  const mouse = elements[view.id + ".canvas"].style.pointerEvents;
  console.log(JSON.stringify({ viewers, texts, turns: turns.map((n) => n - turns[0]), mouse, said: view.said }));
}, 20);
"""


def test_nglview_gets_the_atoms_and_the_cell() -> None:
    pytest.importorskip("nglview")
    (stage,) = nesf.view(PEROVSKITE).stages
    # what the widget asks of the browser
    load, show_cell, _sync = stage._ngl_msg_archive
    lines = load["args"][0]["data"].splitlines()
    assert sum(line.startswith(("ATOM", "HETATM")) for line in lines) == 15
    (cell,) = (line.split() for line in lines if line.startswith("CRYST1"))
    assert [float(x) for x in cell[1:7]] == [3.9, 3.9, 3.9, 90, 90, 90] and "unitcell" in show_cell[
        "args"
    ]


def test_view_in_a_notebook_is_pairs_with_linked_cameras_and_a_still_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("nglview")
    monkeypatch.delenv("NESF_READS", raising=False)
    named = PEROVSKITE.copy()
    named.properties["id"] = "a<b"
    shown = nesf.view([named, PEROVSKITE], [PEROVSKITE, named])
    assert [len(row.children) for row in shown.children] == [2, 2] and len(shown.stages) == 4
    assert shown.children[0].children[0].children[0].value == "a&lt;b: SrTiO₃"
    for stage in shown.stages:
        link = stage._ngl_msg_archive[-1]
        others = {other._model_id for other in shown.stages if other is not stage}
        assert link["methodName"] == "setSyncCamera" and others == set(link["args"][0])
    bundle = shown._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == shown._model_id
    monkeypatch.setenv("NESF_READS", "x")  # the book is built: a page holds no widget
    assert set(shown._repr_mimebundle_()) == {"image/png"}


def test_view_refuses_what_it_cannot_pair() -> None:
    pytest.importorskip("nglview")
    with pytest.raises(DataError, match="2 structures and 1 others"):
        nesf.view([PEROVSKITE, PEROVSKITE], [PEROVSKITE])
    with pytest.raises(DataError, match="at least one"):
        nesf.view([])
