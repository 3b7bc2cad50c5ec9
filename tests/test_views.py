"""Views and figures: what is drawn is what is there, and nothing is asked of the network."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from pymatgen.core import Lattice, Structure

from nesf.crystals import Crystals
from nesf.errors import DataError
from nesf_studies import figures
from nesf_studies import viewer as views

PEROVSKITE = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.9), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]])
NOTHING = Structure(Lattice.cubic(4.0), [], [])


@pytest.fixture
def crystal() -> Crystals:
    return Crystals.from_structures([PEROVSKITE], ["a"])


def scene(html: str) -> dict:
    match = re.search(r"scene=(\{.*?\});\n", html)
    assert match
    return json.loads(match[1])


def test_atoms_on_faces_and_corners_are_repeated() -> None:
    symbols = figures.with_border_images(PEROVSKITE).get_chemical_symbols()
    assert symbols.count("Sr") == 8 and symbols.count("Ti") == 1 and symbols.count("O") == 6


def test_a_slightly_displaced_atom_is_repeated_likewise() -> None:
    moved = PEROVSKITE.copy()
    moved.translate_sites(range(len(moved)), [0.01, -0.01, 0.01], to_unit_cell=True)
    assert len(figures.with_border_images(moved)) == len(figures.with_border_images(PEROVSKITE)) == 15


def test_view_holds_every_atom_the_cell_and_a_picture() -> None:
    html = views.crystal_view(PEROVSKITE).data
    drawn = scene(html)
    assert drawn["xyz"].splitlines()[0] == "15" and set(drawn["colours"]) == {"Sr", "Ti", "O"}
    assert len(drawn["edges"]) == 12
    lengths = [np.linalg.norm([e[1][k] - e[0][k] for k in "xyz"]) for e in drawn["edges"]]
    assert np.allclose(lengths, 3.9)
    assert "data:image/png;base64,iVBOR" in html and "SrTiO3" in html
    assert not re.search(r"https?://", html)


def test_before_and_after_with_nothing_detected() -> None:
    html = views.reconstruction_view(PEROVSKITE, NOTHING).data
    assert "before: SrTiO3, 5 atoms" in html and "after: nothing detected, 0 atoms" in html
    assert html.count("data:image/png") == 2


def test_titles_are_escaped() -> None:
    assert "<b>" not in views.crystal_view(PEROVSKITE, titles=["<b>x"]).data


def test_true_field_points_to_the_nearest_atom(crystal: Crystals) -> None:
    vectors, species = figures.true_field(crystal)(np.array([[[0.2, 0.1, 0.0], [1.9, 2.0, 1.8]]]))
    assert np.allclose(vectors, [[[-0.2, -0.1, 0.0], [0.05, -0.05, 0.15]]], atol=1e-5)
    assert species.tolist() == [[38, 22]]


def test_slice_goes_through_most_atoms_and_takes_one_crystal(crystal: Crystals) -> None:
    assert figures.fullest_plane(crystal) == pytest.approx(1.95)
    assert isinstance(figures.structure_field(crystal), Figure)
    with pytest.raises(DataError, match="one crystal, not of 2"):
        figures.structure_field(crystal.select([0, 0]))


def test_loss_curves_show_validation_only_where_it_was_computed() -> None:
    terms = ("loss", "loss_position", "loss_species", "loss_length", "loss_angle")
    log = pd.DataFrame({"epoch": [1, 2, 3, 4], **{t: [4.0, 3.0, 2.0, 1.0] for t in terms}, **{f"val_{t}": [np.nan, 3.5, np.nan, 1.5] for t in terms}})
    axes = figures.loss_curves(log).axes
    assert [len(ax.lines) for ax in axes] == [2, 2, 2, 2, 2, 0]  # the sixth holds the legend
    training, validation = axes[0].lines
    assert len(training.get_xdata()) == 4 and list(validation.get_xdata()) == [2, 4]


def test_error_distribution_counts_the_materials() -> None:
    materials = pd.DataFrame({"position_error_actual_angstrom": [0.01, 0.1, np.nan], "n_atoms_actual": [2, 2, 4], "n_atoms_detected": [2, 2, 0]})
    left, right = figures.error_distribution(materials).axes
    assert sum(p.get_height() for p in left.patches) == 2
    assert sorted(map(tuple, right.collections[0].get_offsets().data.tolist())) == [(2.0, 2.0), (4.0, 0.0)]


def test_metrics_chart_leaves_out_what_is_not_defined() -> None:
    figure = figures.metrics_chart({"nesf": {"m": 1.0}, "copy": {"m": None}}, {"m": "m, Å"}, paper={"m": 2.0})
    (ax,) = figure.axes
    assert sorted(float(np.ravel(line.get_xdata())[0]) for line in ax.lines) == [1.0, 2.0]


def test_element_map_counts_crystals_not_atoms(crystal: Crystals) -> None:
    texts = [t.get_text() for t in figures.element_map(crystal).axes[0].texts]
    assert texts[texts.index("O") + 1] == "1"


def test_overview_has_three_panels(crystal: Crystals) -> None:
    assert len(figures.overview(crystal, crystal).axes) == 3
