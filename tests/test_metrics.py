"""Metrics on hand-made crystals whose errors are known by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pymatgen.core import Lattice

from nesf import data
from nesf.crystals import Crystals
from nesf.metrics import ERRORS, HEADLINE, align, evaluate, with_certificates
from nesf_io.errors import DataError

CELL = np.diag([4.0, 4.0, 4.0])
ROCK_SALT = np.array(
    [[0, 0, 0], [2, 2, 0], [2, 0, 2], [0, 2, 2], [2, 0, 0], [0, 2, 0], [0, 0, 2], [2, 2, 2]], float
)
NA_CL = np.array([11] * 4 + [17] * 4)


def batch(*atoms: tuple[np.ndarray, np.ndarray], cells: list[np.ndarray] | None = None) -> Crystals:
    ids = [f"m{i}" for i in range(len(atoms))]
    return Crystals.from_arrays(
        ids, [p for p, _ in atoms], [s for _, s in atoms], np.array(cells or [CELL] * len(atoms))
    )


@pytest.fixture
def salt() -> Crystals:
    return batch((ROCK_SALT, NA_CL))


NOTHING = (np.zeros((0, 3)), np.zeros(0, int))


def test_exact_copy_has_no_error(salt: Crystals) -> None:
    metrics = evaluate(salt, salt)
    assert tuple(metrics.summary)[: len(HEADLINE)] == HEADLINE
    assert all(metrics.summary[k] == 0 for k in ("number_of_atoms_error_percent", *ERRORS))
    assert metrics.summary["match_rate_percent"] == 100
    assert metrics.summary["match_rmse"] == pytest.approx(0, abs=1e-9)
    assert metrics.summary["n_materials"] == 1
    assert metrics.summary["n_not_matched"] == metrics.summary["n_nothing_detected"] == 0
    assert metrics.materials["formula"].tolist() == ["NaCl"]


def test_missing_atom_shows_in_the_actual_metrics_only(salt: Crystals) -> None:
    summary = evaluate(salt, batch((ROCK_SALT[1:], NA_CL[1:]))).summary
    # The lost Na at the corner has its nearest detected atom, a Cl, 2 Å away.
    assert summary["number_of_atoms_error_percent"] == 100
    assert summary["position_error_actual_angstrom"] == pytest.approx(2 / 8)
    assert summary["species_error_actual_percent"] == pytest.approx(100 / 8)
    assert (
        summary["position_error_detected_angstrom"]
        == summary["species_error_detected_percent"]
        == 0
    )
    assert summary["match_rate_percent"] == 0
    assert summary["match_rmse"] is None


def test_extra_atom_shows_in_the_detected_metrics_only(salt: Crystals) -> None:
    extra = batch((np.vstack([ROCK_SALT, [0.6, 0.8, 0.0]]), np.append(NA_CL, 17)))
    summary = evaluate(salt, extra).summary
    assert summary["number_of_atoms_error_percent"] == 100
    assert summary["position_error_actual_angstrom"] == summary["species_error_actual_percent"] == 0
    # (0.6, 0.8, 0) is 1 Å from the Na at the origin
    assert summary["position_error_detected_angstrom"] == pytest.approx(1.0 / 9)
    assert summary["species_error_detected_percent"] == pytest.approx(100 / 9)


def test_swapped_species_are_counted_both_ways_and_never_match(salt: Crystals) -> None:
    swapped = NA_CL.copy()
    swapped[[0, 4]] = swapped[[4, 0]]
    summary = evaluate(salt, batch((ROCK_SALT, swapped))).summary
    assert (
        summary["species_error_actual_percent"] == summary["species_error_detected_percent"] == 25
    )
    assert (
        summary["position_error_actual_angstrom"] == summary["number_of_atoms_error_percent"] == 0
    )
    assert summary["match_rate_percent"] == 0


def test_known_displacement_of_every_atom(salt: Crystals) -> None:
    summary = evaluate(salt, batch((ROCK_SALT + np.array([0.03, 0.04, 0.12]), NA_CL))).summary
    assert summary["position_error_actual_angstrom"] == pytest.approx(0.13)
    assert summary["position_error_detected_angstrom"] == pytest.approx(0.13)
    assert summary["position_error_actual_median_angstrom"] == pytest.approx(0.13)
    # the matcher is free of a common shift, the paper's metric is not
    assert summary["match_rmse"] == pytest.approx(0, abs=1e-9)


def test_match_rmse_is_normalised_by_the_length_per_atom() -> None:
    # CsCl with Cs moved by 0.3 Å against Cl: the matcher shares the shift, each atom is 0.15 Å off;
    # (V/N)^(1/3) = (64/2)^(1/3).
    actual = batch((np.array([[0, 0, 0], [2, 2, 2.0]]), np.array([55, 17])))
    moved = batch((np.array([[0.3, 0, 0], [2, 2, 2.0]]), np.array([55, 17])))
    assert evaluate(actual, moved).summary["match_rmse"] == pytest.approx(
        0.15 / 32 ** (1 / 3), rel=1e-6
    )


def test_distances_know_no_periodic_images(salt: Crystals) -> None:
    wrapped = ROCK_SALT.copy()
    # the same atom, one cell further: its old place is 2 Å from the next atom
    wrapped[0] = [4, 4, 4]
    summary = evaluate(salt, batch((wrapped, NA_CL))).summary
    assert summary["position_error_actual_angstrom"] == pytest.approx(2 / 8)
    assert summary["position_error_detected_angstrom"] == pytest.approx(np.sqrt(12) / 8)
    assert summary["match_rate_percent"] == 100


def test_lattice_errors_are_mean_absolute_over_axes_and_angles(salt: Crystals) -> None:
    cell = Lattice.from_parameters(4.1, 3.8, 4.0, 90, 90, 93).matrix
    summary = evaluate(salt, batch((ROCK_SALT, NA_CL), cells=[cell]), match=False).summary
    assert summary["lattice_length_error_angstrom"] == pytest.approx((0.1 + 0.2 + 0) / 3)
    assert summary["lattice_angle_error_degree"] == pytest.approx(1.0)
    assert summary["match_rate_percent"] is None
    assert summary["n_not_matched"] is None
    materials = evaluate(salt, salt, match=False).materials
    assert materials["matched"].tolist() == [None] and materials["match_rmse"].isna().all()
    assert evaluate(salt, salt).materials[["matched", "match_rmse"]].to_numpy().tolist() == [
        [True, 0.0]
    ]


def test_order_of_atoms_does_not_matter() -> None:
    random = np.random.default_rng(0)
    actual = batch(*[(random.uniform(0, 4, (n, 3)), random.integers(1, 4, n)) for n in (3, 7, 12)])
    detected = batch(*[(random.uniform(0, 4, (n, 3)), random.integers(1, 4, n)) for n in (4, 7, 2)])

    def shuffled(crystals: Crystals) -> Crystals:
        orders = [
            random.permutation(np.arange(s.start, s.stop))
            for s in map(crystals.atoms, range(len(crystals)))
        ]
        return batch(*[(crystals.positions[o], crystals.species[o]) for o in orders])

    first = evaluate(actual, detected, match=False).summary
    second = evaluate(shuffled(actual), shuffled(detected), match=False).summary
    assert first["position_error_actual_angstrom"] > 0.1
    for key in ERRORS:
        assert first[key] == pytest.approx(second[key], rel=1e-12)


def test_pooled_numbers_weigh_atoms_and_per_material_numbers_weigh_materials() -> None:
    one = (np.zeros((1, 3)), np.array([3]))
    actual = batch((ROCK_SALT, NA_CL), one)
    detected = batch((ROCK_SALT, NA_CL), (np.array([[0.9, 0, 0]]), np.array([4])))
    summary = evaluate(actual, detected, match=False).summary
    assert summary["position_error_actual_angstrom"] == pytest.approx(0.9 / 9)
    assert summary["per_material_position_error_actual_angstrom"] == pytest.approx(0.9 / 2)
    assert summary["species_error_actual_percent"] == pytest.approx(100 / 9)
    assert summary["per_material_species_error_actual_percent"] == pytest.approx(50)


def test_nothing_detected_is_counted_named_and_charged(salt: Crystals) -> None:
    actual = batch((ROCK_SALT, NA_CL), (ROCK_SALT, NA_CL))
    metrics = evaluate(actual, batch((ROCK_SALT, NA_CL), NOTHING))
    summary = metrics.summary
    assert summary["n_nothing_detected"] == 1
    assert summary["nothing_detected_ids"] == ["m1"]
    assert summary["number_of_atoms_error_percent"] == 50
    assert summary["species_error_actual_percent"] == 50
    assert summary["per_material_species_error_actual_percent"] == 50
    # the paper's way: over the materials that have a detected atom
    assert summary["position_error_actual_angstrom"] == 0
    assert summary["position_error_actual_charged_angstrom"] == pytest.approx(np.sqrt(48) / 2 / 2)
    assert summary["match_rate_percent"] == 50
    assert metrics.materials["n_atoms_detected"].tolist() == [8, 0]
    assert np.isnan(metrics.materials["position_error_actual_angstrom"][1])
    json.dumps(summary, allow_nan=False)


def test_charge_is_half_of_the_longest_body_diagonal_of_the_cell() -> None:
    cell = Lattice.from_parameters(3, 4, 5, 90, 90, 120).matrix
    one = (np.zeros((1, 3)), np.array([3]))
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) @ cell
    longest = np.linalg.norm(corners - corners[::-1], axis=-1).max()  # between opposite corners
    summary = evaluate(
        batch(one, one, cells=[cell, cell]), batch(one, NOTHING, cells=[cell, cell]), match=False
    ).summary
    assert summary["position_error_actual_charged_angstrom"] == pytest.approx((0 + longest / 2) / 2)


def test_nothing_detected_at_all_gives_null_and_no_warning(salt: Crystals) -> None:
    summary = evaluate(salt, batch(NOTHING)).summary
    assert summary["position_error_actual_angstrom"] is None
    assert summary["position_error_detected_angstrom"] is None
    assert summary["species_error_actual_percent"] == 100
    json.dumps(summary, allow_nan=False)


@pytest.mark.parametrize(
    "cell",
    [
        np.diag([4.0, 4.0, 0.0]),
        np.full((3, 3), np.nan),
        np.diag([4e4, 4, 4]),
        np.array([[4, 0, 0], [4, 1e-3, 0], [0, 0, 4.0]]),
        np.diag([1e-9] * 3),
    ],
    ids=["no volume", "not finite", "too long", "flat", "tiny"],
)
def test_absurd_cell_is_no_match_and_no_crash(salt: Crystals, cell: np.ndarray) -> None:
    summary = evaluate(salt, batch((ROCK_SALT, NA_CL), cells=[cell])).summary
    assert summary["match_rate_percent"] == 0
    assert summary["position_error_actual_angstrom"] == 0
    json.dumps(summary, allow_nan=False)


def test_match_sees_through_the_choice_of_cell(salt: Crystals) -> None:
    doubled = batch(
        (np.vstack([ROCK_SALT, ROCK_SALT + np.array([0, 0, 4])]), np.tile(NA_CL, 2)),
        cells=[np.diag([4.0, 4.0, 8.0])],
    )
    assert evaluate(salt, doubled).summary["match_rate_percent"] == 100


def test_different_ids_are_refused_with_the_first_difference(salt: Crystals) -> None:
    other = Crystals(("other",), salt.positions, salt.species, salt.lattice, salt.offsets)
    with pytest.raises(DataError, match=r"m0.*other"):
        evaluate(salt, other)
    with pytest.raises(DataError, match=r"1 .* 0 "):
        evaluate(salt, salt.select([]))


def test_align_orders_and_fills_what_is_missing() -> None:
    actual = batch((ROCK_SALT, NA_CL), (ROCK_SALT[:2], NA_CL[:2]), (ROCK_SALT[:3], NA_CL[:3]))
    aligned = align(actual, actual.select([2, 0]))
    assert aligned.ids == actual.ids
    assert aligned.n_atoms.tolist() == [8, 0, 3]
    summary = evaluate(actual, aligned).summary
    assert summary["nothing_detected_ids"] == ["m1"]
    assert summary["n_without_lattice"] == 1
    assert summary["lattice_length_error_angstrom"] == 0
    with pytest.raises(DataError, match="^m0: "):
        align(actual, actual.select([0, 1, 0]))
    with pytest.raises(DataError, match="^m2: "):
        align(actual.select([0, 1]), actual)


def test_position_that_is_no_number_is_refused_by_name() -> None:
    actual = batch((ROCK_SALT, NA_CL), (ROCK_SALT, NA_CL))
    broken = ROCK_SALT.copy()
    broken[3, 1] = np.nan
    with pytest.raises(DataError, match="^m1: "):
        evaluate(actual, batch((ROCK_SALT, NA_CL), (broken, NA_CL)))


def test_certificates_stand_beside_the_errors() -> None:
    crystals = data.load("starter").split("val").select(range(4))
    numbers = crystals.species.copy()
    numbers[crystals.atoms(1).start] += 1  # a wrong element
    positions = [crystals.positions[crystals.atoms(i)] for i in range(4)]
    positions[2] = positions[2] + 0.02  # Å
    species = np.split(numbers, np.cumsum(crystals.n_atoms)[:-1])
    detected = Crystals.from_arrays(crystals.ids, positions, species, crystals.lattice)
    certificates = {
        i: {"certified": n != 3, "latent_distance": 10.0**-n, "field_distance": 0.1, "more": 1}
        for n, i in enumerate(crystals.ids)
    }
    metrics = with_certificates(evaluate(crystals, detected), certificates)
    assert metrics.materials["certified"].tolist() == [True, True, True, False]
    assert metrics.materials["latent_distance"].tolist() == [1.0, 0.1, 0.01, 0.001]
    assert metrics.summary["certified_percent"] == 75
    assert metrics.summary["certified_wrong_percent"] == pytest.approx(200 / 3)
    nothing = {i: c | {"certified": False} for i, c in certificates.items()}
    none = with_certificates(evaluate(crystals, detected), nothing).summary
    assert none["certified_percent"] == 0 and none["certified_wrong_percent"] is None
