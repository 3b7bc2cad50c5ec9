"""Trivial predictors: properties on small batches, and the figures pinned on the official release."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nesf.baselines import constant, copy_nearest
from nesf.crystals import Crystals, concatenate
from nesf.metrics import evaluate
from nesf_io.errors import DataError


@pytest.fixture
def train() -> Crystals:
    """Four crystals: Li2, LiF, LiF in a longer cell, NaF3."""
    cells = np.array([np.diag(d) for d in ([3, 3, 3], [4, 4, 4], [4, 4, 6], [5, 5, 5])], float)
    atoms = np.array([[0, 0, 0], [2, 2, 2], [1, 0, 2], [0, 1, 1]], float)
    return Crystals.from_arrays(
        ["t0", "t1", "t2", "t3"],
        [atoms[:2], atoms[:2], atoms[:2], atoms],
        [[3, 3], [3, 9], [3, 9], [11, 9, 9, 9]],
        cells,
    )


def test_copy_of_training_crystals_is_exact(train: Crystals) -> None:
    summary = evaluate(train, copy_nearest(train, train), match=False).summary
    assert (
        summary["number_of_atoms_error_percent"]
        == summary["position_error_actual_angstrom"]
        == summary["lattice_length_error_angstrom"]
        == 0
    )
    assert summary["species_error_actual_percent"] == 0


def test_copy_keeps_the_asked_ids_and_takes_composition_before_lattice(train: Crystals) -> None:
    asked = Crystals.from_arrays(
        ["q0", "q1"],
        [np.array([[0, 0, 0], [1, 1, 1.0]])] * 2,
        [[9, 3], [9, 3]],
        np.array([np.diag([3.9, 3.9, 5.5]), np.diag([3.5, 3.5, 3.5])]),
    )
    # q1 is cubic with an edge halfway between those of t0 and t1
    copied = copy_nearest(train, asked)
    assert copied.ids == ("q0", "q1")
    # same composition: the nearer cell decides
    np.testing.assert_allclose(copied.lattice[0], train.lattice[2])
    # its cell is as near to Li2's as to LiF's: the composition decides
    assert copied.species[copied.atoms(1)].tolist() == [3, 9]


def test_copy_does_not_depend_on_the_order_of_atoms(train: Crystals) -> None:
    asked = train.select([3])
    turned = Crystals(
        asked.ids, asked.positions[::-1], asked.species[::-1], asked.lattice, asked.offsets
    )
    np.testing.assert_array_equal(
        copy_nearest(train, turned).positions, train.positions[train.atoms(3)]
    )


def test_constant_is_the_median_cell_for_every_crystal(train: Crystals) -> None:
    predicted = constant(train, train)
    assert predicted.ids == train.ids
    np.testing.assert_allclose(predicted.lengths, np.tile([4, 4, 4.5], (4, 1)))
    np.testing.assert_allclose(np.degrees(predicted.angles), 90, atol=1e-12)
    assert predicted.n_atoms.tolist() == [2, 2, 2, 2]  # the most common number of atoms
    np.testing.assert_allclose(predicted.positions[1], [2, 2, 2.25])  # of t1, moved with the cell
    assert evaluate(train, predicted, match=False).summary["number_of_atoms_error_percent"] == 25


def test_empty_training_split_is_refused(train: Crystals) -> None:
    for predictor in (copy_nearest, constant):
        with pytest.raises(DataError, match="training split is empty"):
            predictor(train.select([]), train)


def test_figures_on_lcs6(mirror: Path, tmp_path: Path) -> None:
    from nesf.data import load

    data = load("lcs6", mirror=mirror, data_dir=tmp_path, fetch=True)
    copied = evaluate(
        data.splits["test"], copy_nearest(data.splits["train"], data.splits["test"]), match=False
    ).summary
    assert copied["number_of_atoms_error_percent"] == pytest.approx(5.98, abs=0.005)
    assert copied["position_error_actual_angstrom"] == pytest.approx(0.448, abs=0.0005)
    assert copied["species_error_actual_percent"] == pytest.approx(41.9, abs=0.05)
    median = evaluate(
        data.splits["test"], constant(data.splits["train"], data.splits["test"]), match=False
    ).summary
    assert median["lattice_length_error_angstrom"] == pytest.approx(0.72, abs=0.005)
    assert median["lattice_angle_error_degree"] == pytest.approx(0.435, abs=0.0005)


def test_figures_on_ybco(mirror: Path, tmp_path: Path) -> None:
    from nesf.data import load

    folds = [
        load("ybco", fold=fold, mirror=mirror, data_dir=tmp_path, fetch=True) for fold in range(20)
    ]
    actual = concatenate([d.splits["test"] for d in folds])
    copied = evaluate(
        actual,
        concatenate([copy_nearest(d.splits["train"], d.splits["test"]) for d in folds]),
        match=False,
    ).summary
    assert copied["number_of_atoms_error_percent"] == 0
    assert copied["position_error_actual_angstrom"] == pytest.approx(0.46, abs=0.005)
    assert copied["species_error_actual_percent"] == pytest.approx(32.5, abs=0.05)
    median = evaluate(
        actual,
        concatenate([constant(d.splits["train"], d.splits["test"]) for d in folds]),
        match=False,
    ).summary
    assert median["lattice_length_error_angstrom"] == pytest.approx(0.232, abs=0.0005)
    assert median["lattice_angle_error_degree"] == pytest.approx(0.124, abs=0.0005)
