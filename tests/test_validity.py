"""CDVAE's rules of validity, on crystals whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Composition

from nesf.crystals import Crystals
from nesf_design.validity import (
    compositionally_valid,
    formula,
    is_neutral,
    smallest_distances,
    structurally_valid,
    valid,
)


def crystal(fractional: list[list[float]], numbers: list[int], edge: float = 4.0) -> Crystals:
    places = np.array(fractional, float).reshape(-1, 3) * edge
    return Crystals.from_arrays(["x"], [places], [np.array(numbers)], edge * np.eye(3)[None])


def pairs(text: str) -> tuple[tuple[int, int], ...]:
    composition = Composition(text)
    return tuple(sorted((e.Z, int(n)) for e, n in composition.items()))


@pytest.mark.parametrize(
    ("text", "neutral"),
    [
        ("NaCl", True),
        ("SrTiO3", True),
        ("NaCl2", False),  # no state of Na above +1 balances two of Cl's -1
        ("NaF3", False),
        ("FeAl", True),  # metals alone
        ("Si", True),  # one element alone
    ],
)
def test_charge_neutrality_of_known_formulas(text: str, neutral: bool) -> None:
    assert is_neutral(pairs(text)) is neutral


def test_a_formula_is_reduced_and_does_not_depend_on_the_order_of_atoms() -> None:
    assert formula(np.array([17, 11, 17, 11])) == formula(np.array([11, 17])) == ((11, 1), (17, 1))
    assert formula(np.zeros(0, int)) == () and not is_neutral(())


def test_atoms_too_near_across_a_face_of_the_cell_are_found() -> None:
    inside = crystal([[0, 0, 0], [0.5, 0.5, 0.5]], [11, 17])
    across = crystal([[0.02, 0, 0], [0.96, 0, 0]], [11, 17])  # 0.24 Å through the face
    assert smallest_distances(inside)[0] == pytest.approx(4 * np.sqrt(3) / 2)
    assert smallest_distances(across)[0] == pytest.approx(0.24)
    assert structurally_valid(inside)[0] and not structurally_valid(across)[0]
    assert compositionally_valid(across)[0] and valid(inside)[0] and not valid(across)[0]


def test_an_oblique_cell_is_searched_for_the_nearest_image() -> None:
    lattice = np.array([[4.0, 0, 0], [3.8, 1.0, 0], [0, 0, 4.0]])
    places = np.array([[0.0, 0, 0], [0.5, 0.5, 0]]) @ lattice
    made = Crystals.from_arrays(["x"], [places], [np.array([11, 17])], lattice[None])
    # by hand: all images within three cells
    images = [places[1] + np.array([i, j, 0]) @ lattice for i in range(-9, 9) for j in range(-9, 9)]
    assert smallest_distances(made)[0] == pytest.approx(min(map(np.linalg.norm, images)))


@pytest.mark.parametrize(
    "broken",
    [
        crystal([], []),
        crystal([[0, 0, 0], [0.5, 0.5, 0.5]], [11, 17], edge=0.3),
        crystal([[np.nan, 0, 0], [0.5, 0.5, 0.5]], [11, 17]),
    ],
    ids=["no atoms", "no cell", "not a number"],
)
def test_what_is_no_crystal_is_not_valid(broken: Crystals) -> None:
    assert not structurally_valid(broken)[0] and not valid(broken)[0]
