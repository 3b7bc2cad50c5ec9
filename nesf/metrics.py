"""Reconstruction errors as in Table 1 (Section 2.3), and the match rate that the field reports beside them.

Distances are between the atoms of one cell, without periodic images. The headline numbers are pooled over all atoms of a
split, as the official code does (paper: mean over materials or atoms not stated); the `per_material_*` numbers are means
over materials. A material in which nothing is detected stays in every number that is defined for it, see `evaluate`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.distance import cdist
from tqdm import tqdm

from nesf.crystals import MAX_LENGTH, MIN_VOLUME, Crystals
from nesf.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

MATCHER = {"ltol": 0.3, "stol": 0.5, "angle_tol": 10}  # StructureMatcher's tolerances in CDVAE and those that followed it
FLATTEST_CELL = 0.02  # V / (a b c) below which a cell is too flat for the matcher (angles below about 1 degree)

HEADLINE = (
    "n_materials",
    "number_of_atoms_error_percent",
    "position_error_actual_angstrom",
    "position_error_detected_angstrom",
    "species_error_actual_percent",
    "species_error_detected_percent",
    "lattice_length_error_angstrom",
    "lattice_angle_error_degree",
    "match_rate_percent",
    "match_rmse",
)
ERRORS = HEADLINE[2:8]  # those that also are a column of `Metrics.materials`


@dataclass(frozen=True)
class Metrics:
    """Errors of one split.

    Attributes:
        summary: `HEADLINE`, then `per_material_*`, medians and counts (see `evaluate`); None where a number is not defined.
        materials: one row a material, in the order of the crystals; NaN where a number is not defined.
    """

    summary: dict[str, Any]
    materials: pd.DataFrame


def nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest position of b for each position of a: the inner minimum of m(A, B), Section 2.3.

    Args:
        a: [n, 3], Å.
        b: [m, 3], Å, m ≥ 1.

    Returns:
        Distances [n] in Å and indices into b [n].
    """
    distances = cdist(a, b)
    index = distances.argmin(1)
    return distances[np.arange(len(a)), index], index


def align(actual: Crystals, detected: Crystals) -> Crystals:
    """Detected crystals in the order of the actual ones; an id that is missing becomes a crystal without atoms and cell.

    Raises:
        DataError: an id of `detected` occurs twice or is not among the actual ones.
    """
    place = {identifier: i for i, identifier in enumerate(detected.ids)}
    if len(place) < len(detected):
        twice = next(identifier for i, identifier in enumerate(detected.ids) if place[identifier] != i)
        raise DataError(f"{twice}: detected twice; keep one structure per material")
    if unknown := sorted(set(place) - set(actual.ids)):
        raise DataError(f"{unknown[0]}: detected, but not among the {len(actual)} actual crystals; evaluate on the split that was reconstructed")
    found = [place.get(identifier) for identifier in actual.ids]
    return Crystals.from_arrays(
        actual.ids,
        [np.zeros((0, 3)) if i is None else detected.positions[detected.atoms(i)] for i in found],
        [np.zeros(0, np.int64) if i is None else detected.species[detected.atoms(i)] for i in found],
        np.array([np.full((3, 3), np.nan) if i is None else detected.lattice[i] for i in found]),
    )


def evaluate(actual: Crystals, detected: Crystals, *, match: bool = True, progress: bool = False) -> Metrics:
    """Errors of detected crystals against actual ones (Section 2.3, "Training and evaluation procedures"; Table 1).

    A material in which nothing is detected counts in the error in number of atoms, all its actual atoms count as species
    errors, and it never matches. It has no nearest detected atom, so the position error (actual) leaves it out, as the paper
    does (the brackets in Table 1), and `n_nothing_detected` and `nothing_detected_ids` say so; in
    `position_error_actual_charged_angstrom` each of its atoms is charged half of its cell's longest body diagonal instead. It adds
    nothing to the detected metrics.

    Args:
        actual: B crystals.
        detected: B crystals with the same ids in the same order (`align` makes them so), 0 atoms where nothing is detected.
        match: also run StructureMatcher (a few ms a material); without it the match columns and keys are None.
        progress: show a progress bar of the matching.

    Returns:
        Summary and one row per material. Summary, beside `HEADLINE`: `position_error_*_median_angstrom` over atoms;
        `per_material_*` (mean over materials where defined) with `per_material_position_error_*_median_angstrom`; `n_nothing_detected`, `nothing_detected_ids`,
        `n_without_lattice` (no finite cell; left out of the lattice errors), `n_not_matched`. The match RMSE is normalised by (V/N)^(1/3),
        not in Å, and is a mean over the matched materials only; the rate is over all.

    Raises:
        DataError: the ids differ, there is no crystal, an actual crystal has no atoms, or a detected position is not finite.
    """
    import pandas as pd

    _check(actual, detected)
    actual_lengths, actual_angles = actual.lengths, actual.angles
    length_errors, angle_errors = np.full((len(actual), 3), np.nan), np.full((len(actual), 3), np.nan)
    with_lattice = np.flatnonzero(np.isfinite(detected.lattice).all((1, 2)) & (np.linalg.norm(detected.lattice, axis=-1) > 0).all(1))
    selected = detected.select(with_lattice)
    length_errors[with_lattice] = np.abs(selected.lengths - actual_lengths[with_lattice])
    angle_errors[with_lattice] = np.degrees(np.abs(selected.angles - actual_angles[with_lattice]))

    rmse = match_rmse(actual, detected, progress=progress) if match else np.full(len(actual), np.nan)
    pooled: dict[str, list[np.ndarray]] = {k: [] for k in ("position_actual", "position_detected", "species_actual", "species_detected", "charged")}
    rows: list[dict[str, Any]] = []
    formulas = _formulas(actual)
    for i, identifier in enumerate(actual.ids):
        a, d = actual.atoms(i), detected.atoms(i)
        errors = _errors_of_one(actual.positions[a], actual.species[a], detected.positions[d], detected.species[d])
        half_diagonal = np.linalg.norm(np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1]]) @ actual.lattice[i], axis=-1).max() / 2
        nothing = d.start == d.stop
        errors["charged"] = np.full(a.stop - a.start, half_diagonal) if nothing else errors["position_actual"]
        for key, values in errors.items():
            pooled[key].append(values)
        rows.append(
            {
                "id": identifier,
                "formula": formulas[i],
                "n_atoms_actual": a.stop - a.start,
                "n_atoms_detected": d.stop - d.start,
                "position_error_actual_angstrom": _mean(errors["position_actual"]),
                "position_error_detected_angstrom": _mean(errors["position_detected"]),
                "species_error_actual_percent": 100 * _mean(errors["species_actual"]),
                "species_error_detected_percent": 100 * _mean(errors["species_detected"]),
                "lattice_length_error_angstrom": float(length_errors[i].mean()),
                "lattice_angle_error_degree": float(angle_errors[i].mean()),
                "matched": bool(np.isfinite(rmse[i])) if match else None,
                "match_rmse": float(rmse[i]),
            }
        )
    materials = pd.DataFrame(rows)
    flat = {k: np.concatenate(v) for k, v in pooled.items()}
    nothing_detected = [i for i, n in zip(actual.ids, detected.n_atoms, strict=True) if n == 0]
    matched = np.isfinite(rmse)
    summary = {
        "n_materials": len(actual),
        "number_of_atoms_error_percent": 100 * float(np.mean(actual.n_atoms != detected.n_atoms)),
        "position_error_actual_angstrom": _mean(flat["position_actual"]),
        "position_error_detected_angstrom": _mean(flat["position_detected"]),
        "species_error_actual_percent": 100 * _mean(flat["species_actual"]),
        "species_error_detected_percent": 100 * _mean(flat["species_detected"]),
        "lattice_length_error_angstrom": _mean(length_errors[with_lattice]),
        "lattice_angle_error_degree": _mean(angle_errors[with_lattice]),
        "match_rate_percent": 100 * float(matched.mean()) if match else None,
        "match_rmse": _mean(rmse[matched]),
        "position_error_actual_median_angstrom": _median(flat["position_actual"]),
        "position_error_detected_median_angstrom": _median(flat["position_detected"]),
        "position_error_actual_charged_angstrom": _mean(flat["charged"]),
        **{f"per_material_{k}": _mean(materials[k].dropna().to_numpy(float)) for k in ERRORS},
        "per_material_position_error_actual_median_angstrom": _median(materials["position_error_actual_angstrom"].dropna().to_numpy(float)),
        "per_material_position_error_detected_median_angstrom": _median(materials["position_error_detected_angstrom"].dropna().to_numpy(float)),
        "n_nothing_detected": len(nothing_detected),
        "nothing_detected_ids": nothing_detected,
        "n_without_lattice": len(actual) - len(with_lattice),
        "n_not_matched": int((~matched).sum()) if match else None,
    }
    # JSON knows no NaN: what is not defined (no atom detected at all, nothing matched) is null.
    return Metrics({k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in summary.items()}, materials)


def evaluate_structures(actual: Sequence[Structure], detected: Sequence[Structure | None], *, match: bool = True, progress: bool = False) -> Metrics:
    """The same metrics for two lists of pymatgen structures, so that any model can be scored.

    Positions are compared as they are, cartesian and without periodic images: give both structures of a pair in the same setting
    and the same choice of periodic image (only the match rate is free of that choice). A material is called by its place in the list.

    Args:
        actual: the true structures.
        detected: the model's, in the same order; None (or a structure without sites) where it gave nothing.

    Raises:
        DataError: the lists differ in length, an actual structure cannot be used, or a detected one is disordered.
    """
    if len(actual) != len(detected):
        raise DataError(f"{len(actual)} actual and {len(detected)} detected structures; give one (or None) for each actual one")
    ids = [str(i) for i in range(len(actual))]
    for identifier, structure in zip(ids, detected, strict=True):
        if structure is not None and not (structure.is_ordered and all(hasattr(site.specie, "Z") for site in structure)):
            raise DataError(f"{identifier}: the detected structure is disordered or holds a dummy species; give one element a site")
    given = [(i, s) for i, s in zip(ids, detected, strict=True) if s is not None]
    return evaluate(
        reference := Crystals.from_structures(actual, ids),
        align(
            reference,
            # Not from_structures: what a model detects may be absurd, and is charged rather than refused.
            Crystals.from_arrays(
                [i for i, _ in given],
                [s.cart_coords for _, s in given],
                [np.array([site.specie.Z for site in s], np.int64) for _, s in given],
                np.array([s.lattice.matrix for _, s in given]),
            ),
        ),
        match=match,
        progress=progress,
    )


def match_rmse(actual: Crystals, detected: Crystals, *, progress: bool = False) -> np.ndarray:
    """RMS displacement of matched crystals, normalised by (V/N)^(1/3); NaN where they do not match.

    Computed as in CDVAE and later work: StructureMatcher (`MATCHER`) matches when `get_rms_dist` finds a mapping. A cell that is
    absurd, or on which the matcher fails, does not match.

    Args:
        actual: B crystals.
        detected: B crystals in the same order.

    Returns:
        [B], no unit.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher(**MATCHER)
    rmse = np.full(len(actual), np.nan)
    for i in tqdm(range(len(actual)), desc="matching", unit="crystal", disable=not progress):
        if _may_match(actual, detected, i):
            rmse[i] = _match_one(matcher, *actual.select([i]).to_structures(), *detected.select([i]).to_structures())
    return rmse


def _match_one(matcher: StructureMatcher, actual: Structure, detected: Structure) -> float:
    """Normalised RMSE of one pair, or NaN."""
    try:
        result = matcher.get_rms_dist(detected, actual)
    except (ValueError, ArithmeticError, IndexError, np.linalg.LinAlgError):  # Niggli reduction or the assignment gives up on a strange cell
        return float("nan")
    return float("nan") if result is None else float(result[0])


def _may_match(actual: Crystals, detected: Crystals, i: int) -> bool:
    """False when the pair cannot match, or the matcher would run astray: other composition, no atoms, an absurd cell."""
    species = detected.species[detected.atoms(i)]
    if len(species) == 0:
        return False
    elements, counts = np.unique(species, return_counts=True)
    actual_elements, actual_counts = np.unique(actual.species[actual.atoms(i)], return_counts=True)
    # The matcher compares reduced formulas, so a cell may hold a multiple of the other's atoms.
    if not np.array_equal(elements, actual_elements) or np.any(counts * actual_counts[0] != actual_counts * counts[0]):
        return False
    lattice = detected.lattice[i]
    if not np.isfinite(lattice).all():
        return False
    lengths, volume = np.linalg.norm(lattice, axis=-1), abs(np.linalg.det(lattice))
    return bool(volume >= MIN_VOLUME and lengths.max() <= MAX_LENGTH and volume >= FLATTEST_CELL * lengths.prod())


def _errors_of_one(p_actual: np.ndarray, s_actual: np.ndarray, p_detected: np.ndarray, s_detected: np.ndarray) -> dict[str, np.ndarray]:
    """Distance to, and species disagreement with, the nearest atom of the other set, for each atom of one material, both ways."""
    if len(p_detected) == 0:
        nothing = np.zeros(0)
        return {"position_actual": nothing, "position_detected": nothing, "species_actual": np.ones(len(p_actual)), "species_detected": nothing}
    distance_actual, index_actual = nearest(p_actual, p_detected)
    distance_detected, index_detected = nearest(p_detected, p_actual)
    return {
        "position_actual": distance_actual,
        "position_detected": distance_detected,
        "species_actual": (s_actual != s_detected[index_actual]).astype(float),
        "species_detected": (s_detected != s_actual[index_detected]).astype(float),
    }


def _check(actual: Crystals, detected: Crystals) -> None:
    if len(actual) == 0:
        raise DataError("no crystals to evaluate; choose a split that is not empty")
    if actual.ids != detected.ids:
        pairs = zip(actual.ids, detected.ids, strict=False)
        place, (a, d) = next(((i, p) for i, p in enumerate(pairs) if p[0] != p[1]), (min(len(actual), len(detected)), (None, None)))
        here = f"{len(actual)} actual and {len(detected)} detected crystals" if a is None else f"entry {place} is {a} (actual) and {d} (detected)"
        raise DataError(f"actual and detected crystals differ: {here}; bring them into one order with nesf.metrics.align")
    if not np.isfinite(detected.positions).all():
        atom = int(np.argmin(np.isfinite(detected.positions).all(1)))
        owner = detected.ids[int(np.searchsorted(detected.offsets, atom, side="right")) - 1]
        raise DataError(f"{owner}: a detected position is not finite; leave that atom out, or give the material no atoms")
    if not actual.n_atoms.all():
        raise DataError(f"{actual.ids[int(np.argmin(actual.n_atoms))]}: the actual crystal has no atoms; leave it out")


def _formulas(crystals: Crystals) -> list[str]:
    """Reduced formulas, for the table of materials."""
    from pymatgen.core import Composition, Element

    parts = [np.unique(crystals.species[crystals.atoms(i)], return_counts=True) for i in range(len(crystals))]
    with warnings.catch_warnings():  # formulas are ordered by electronegativity, and pymatgen warns that noble gases have none
        warnings.filterwarnings("ignore", "No Pauling electronegativity")
        return [Composition({Element.from_Z(int(z)): int(n) for z, n in zip(*p, strict=True)}).reduced_formula for p in parts]


def _mean(values: np.ndarray) -> float:
    """Mean of any number of values; NaN of none, without numpy's warning."""
    return float(np.mean(values)) if np.size(values) else float("nan")


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if np.size(values) else float("nan")
