"""Reconstruction errors as in Table 1 (Section 2.3), and the match rate (`nesf.matching`).

Distances are between the atoms of one cell, without periodic images; atoms that come from files,
which are wrapped into the cell, are first brought back to the right image (`nearest_images`). The headline numbers are
pooled over all atoms of a split, as in the official code (paper: mean over materials or atoms not
stated); the `per_material_*` numbers are means over materials. A material in which nothing is
detected counts in every number that is defined for it, see `evaluate`.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from nesf.crystals import Crystals
from nesf.matching import match_rmse
from nesf_io.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

# of a cell, in lattice vectors
BODY_DIAGONALS = np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1]])
# the cell itself first
IMAGES = np.array(list(itertools.product((0, -1, 1), repeat=3)))

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
CERTIFICATE_COLUMNS = ("certified", "latent_distance", "field_distance")
RIGHT_WITHIN = 0.01  # Å
ERRORS = HEADLINE[2:8]  # the headline metrics that are a column of `Metrics.materials`, too


@dataclass(frozen=True)
class Metrics:
    """Errors of one split.

    Attributes:
        summary: `HEADLINE`, then `per_material_*`, medians and counts (see `evaluate`); None where
            a number is not defined.
        materials: one row a material, in the order of the crystals; NaN where a number is not
            defined.
    """

    summary: dict[str, Any]
    materials: pd.DataFrame


def with_certificates(metrics: Metrics, certificates: Mapping[str, Mapping[str, Any]]) -> Metrics:
    """Add what consistent decoding says of each material, by id, to the errors of a split.

    To `materials`: `CERTIFICATE_COLUMNS`. To `summary`: `certified_percent`, and
    `certified_wrong_percent`, the share of the certified ones that are wrong: another number of
    atoms, a wrong element, or a mean position error of `RIGHT_WITHIN` or more.
    """
    if missing := [i for i in metrics.materials["id"] if i not in certificates]:
        raise DataError(
            f"{missing[0]}: has no certificate; reconstruct its split again, all in one way"
        )
    rows = [certificates[i] for i in metrics.materials["id"]]
    materials = metrics.materials.assign(**{c: [r[c] for r in rows] for c in CERTIFICATE_COLUMNS})
    certified = materials[materials["certified"]]
    summary = metrics.summary | {
        "certified_percent": 100 * len(certified) / len(materials),
        "certified_wrong_percent": 100 * float((~is_right(certified)).mean())
        if len(certified)
        else None,
    }
    return Metrics(summary, materials)


def is_right(materials: pd.DataFrame) -> pd.Series:
    """Return whether numbers of atoms, elements and positions (`RIGHT_WITHIN`) are right."""
    return (
        (materials["n_atoms_actual"] == materials["n_atoms_detected"])
        & (materials["species_error_actual_percent"] == 0)
        & (materials["position_error_actual_angstrom"] < RIGHT_WITHIN)
    )


def nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return distance and index [n] of the position of b [m, 3] nearest to each of a [n, 3]; Å."""
    distances = cdist(a, b)
    return distances.min(1), distances.argmin(1)


def align(actual: Crystals, detected: Crystals) -> Crystals:
    """Sort detected crystals as the actual ones; a missing id has no atoms and no cell.

    Raises:
        DataError: an id of `detected` occurs twice or is not among the actual ones.
    """
    index_of = {identifier: i for i, identifier in enumerate(detected.ids)}
    if len(index_of) < len(detected):
        twice = next(
            identifier for i, identifier in enumerate(detected.ids) if index_of[identifier] != i
        )
        raise DataError(f"{twice}: detected twice; keep one structure per material")
    if unknown := sorted(set(index_of) - set(actual.ids)):
        raise DataError(
            f"{unknown[0]}: detected, but not among the {len(actual)} actual crystals; evaluate on the split that was reconstructed"
        )
    indices = [index_of.get(identifier) for identifier in actual.ids]
    return Crystals.from_arrays(
        actual.ids,
        [np.zeros((0, 3)) if i is None else detected.positions[detected.atoms(i)] for i in indices],
        [
            np.zeros(0, np.int64) if i is None else detected.species[detected.atoms(i)]
            for i in indices
        ],
        np.array([np.full((3, 3), np.nan) if i is None else detected.lattice[i] for i in indices]),
    )


def nearest_images(actual: Crystals, detected: Crystals, but: Collection[str] = ()) -> Crystals:
    """Take each detected atom at its periodic image that is nearest to an actual atom.

    The images are those in the detected cell and the 26 around it, by the detected lattice. A
    decoder may place an atom at -0.01 Å, where a file that keeps atoms within the cell has it at
    the opposite face; this undoes the wrapping. An atom that is detected together with its own
    image is then two atoms at one place: an error in the number of atoms alone.

    Args:
        actual: B crystals.
        detected: B crystals in the same order.
        but: ids of those that are not wrapped: their positions stay.
    """
    positions = detected.positions.copy()
    for i in range(len(actual)):
        d = detected.atoms(i)
        wrapped = detected.ids[i] not in but
        if wrapped and d.start < d.stop and np.isfinite(detected.lattice[i]).all():
            images = positions[d] + (IMAGES @ detected.lattice[i])[:, None]  # [27, m, 3]
            distances = nearest(images.reshape(-1, 3), actual.positions[actual.atoms(i)])[0]
            best = distances.reshape(len(IMAGES), -1).argmin(0)  # the atom itself, if equal
            positions[d] = images[best, np.arange(len(best))]
    return replace(detected, positions=positions)


def evaluate(
    actual: Crystals, detected: Crystals, *, match: bool = True, progress: bool = False
) -> Metrics:
    """Compute the errors of detected crystals against actual ones (Section 2.3; Table 1).

    A material in which nothing is detected counts in the error in number of atoms, all its actual
    atoms count as species errors, and it does not match. It has no nearest detected atom, so the
    position error (actual) leaves it out, as the paper does (the brackets in Table 1);
    `position_error_actual_charged_angstrom` charges each of its atoms half of its cell's longest
    body diagonal instead. It adds nothing to the detected metrics.

    Args:
        actual: B crystals.
        detected: B crystals with the same ids in the same order (see `align`), with 0 atoms where
            nothing is detected.
        match: also run StructureMatcher (a few ms per material); without it the match columns and
            keys are None.

    Returns:
        Summary and one row per material. Summary, beside `HEADLINE`:
            `position_error_*_median_angstrom` over atoms;
        `per_material_*` (mean over materials where defined) with
        `per_material_position_error_*_median_angstrom`; `n_nothing_detected`,
        `nothing_detected_ids`, `n_without_lattice` (no finite cell; left out of the lattice
        errors), `n_not_matched`. The match RMSE is normalised by (V/N)^(1/3), not in Å, and is a
        mean over the matched materials only; the rate is over all.

    Raises:
        DataError: the ids differ, there is no crystal, an actual crystal has no atoms, or a
            detected position is not finite.
    """
    _check(actual, detected)
    rmse = match_rmse(actual, detected, progress=progress) if match else None
    errors = [_atom_errors(actual, detected, i) for i in range(len(actual))]
    lattice_errors = _lattice_errors(actual, detected)
    materials = _materials_table(actual, detected, errors, lattice_errors, rmse)
    pooled = AtomErrors(*map(np.concatenate, zip(*errors, strict=True)))
    return Metrics(_summary(pooled, lattice_errors, rmse, materials), materials)


class AtomErrors(NamedTuple):
    """Errors of atoms: distance, Å, to the nearest of the other set; 1 where the species differ."""

    position_actual: np.ndarray  # [n] of the actual atoms; empty where nothing is detected
    position_detected: np.ndarray  # [m] of the detected atoms
    species_actual: np.ndarray  # [n]
    species_detected: np.ndarray  # [m]
    # [n], as `position_actual`, but half of the cell's longest body diagonal where nothing is
    # detected
    position_charged: np.ndarray


def _atom_errors(actual: Crystals, detected: Crystals, i: int) -> AtomErrors:
    a, d = actual.atoms(i), detected.atoms(i)
    if d.start == d.stop:
        nothing, n = np.zeros(0), a.stop - a.start
        half_diagonal = np.linalg.norm(BODY_DIAGONALS @ actual.lattice[i], axis=-1).max() / 2
        return AtomErrors(nothing, nothing, np.ones(n), nothing, np.full(n, half_diagonal))
    distance_actual, nearest_detected = nearest(actual.positions[a], detected.positions[d])
    distance_detected, nearest_actual = nearest(detected.positions[d], actual.positions[a])
    return AtomErrors(
        position_actual=distance_actual,
        position_detected=distance_detected,
        species_actual=(actual.species[a] != detected.species[d][nearest_detected]).astype(float),
        species_detected=(detected.species[d] != actual.species[a][nearest_actual]).astype(float),
        position_charged=distance_actual,
    )


def _lattice_errors(actual: Crystals, detected: Crystals) -> tuple[np.ndarray, np.ndarray]:
    """Return errors of lengths [B, 3], Å, and angles [B, 3], degrees; NaN without a cell."""
    lengths, angles = np.full((2, len(actual), 3), np.nan)
    usable = np.flatnonzero(
        np.isfinite(detected.lattice).all((1, 2))
        & (np.linalg.norm(detected.lattice, axis=-1) > 0).all(1)
    )
    selected = detected.select(usable)
    lengths[usable] = np.abs(selected.lengths - actual.lengths[usable])
    angles[usable] = np.degrees(np.abs(selected.angles - actual.angles[usable]))
    return lengths, angles


def _materials_table(
    actual: Crystals,
    detected: Crystals,
    errors: Sequence[AtomErrors],
    lattice_errors: tuple[np.ndarray, np.ndarray],
    rmse: np.ndarray | None,
) -> pd.DataFrame:
    import pandas as pd

    lengths, angles = lattice_errors
    return pd.DataFrame(
        {
            "id": actual.ids,
            "formula": _formulas(actual),
            "n_atoms_actual": actual.n_atoms,
            "n_atoms_detected": detected.n_atoms,
            "position_error_actual_angstrom": [_mean(e.position_actual) for e in errors],
            "position_error_detected_angstrom": [_mean(e.position_detected) for e in errors],
            "species_error_actual_percent": [100 * _mean(e.species_actual) for e in errors],
            "species_error_detected_percent": [100 * _mean(e.species_detected) for e in errors],
            "lattice_length_error_angstrom": lengths.mean(1),
            "lattice_angle_error_degree": angles.mean(1),
            "matched": None if rmse is None else np.isfinite(rmse),
            "match_rmse": np.nan if rmse is None else rmse,
        }
    )


def _summary(
    pooled: AtomErrors,
    lattice_errors: tuple[np.ndarray, np.ndarray],
    rmse: np.ndarray | None,
    materials: pd.DataFrame,
) -> dict[str, Any]:
    """Return the summary of `evaluate`; None where a number is not defined, for JSON has no NaN."""
    lengths, angles = lattice_errors
    usable = ~np.isnan(lengths).any(1)
    matched = np.zeros(0, bool) if rmse is None else np.isfinite(rmse)
    defined = {key: materials[key].dropna().to_numpy(float) for key in ERRORS}  # per material
    nothing_detected = materials["id"][materials["n_atoms_detected"] == 0].tolist()
    summary = {
        "n_materials": len(materials),
        "number_of_atoms_error_percent": 100
        * float(np.mean(materials["n_atoms_actual"] != materials["n_atoms_detected"])),
        "position_error_actual_angstrom": _mean(pooled.position_actual),
        "position_error_detected_angstrom": _mean(pooled.position_detected),
        "species_error_actual_percent": 100 * _mean(pooled.species_actual),
        "species_error_detected_percent": 100 * _mean(pooled.species_detected),
        "lattice_length_error_angstrom": _mean(lengths[usable]),
        "lattice_angle_error_degree": _mean(angles[usable]),
        "match_rate_percent": None if rmse is None else 100 * float(matched.mean()),
        "match_rmse": None if rmse is None else _mean(rmse[matched]),
        "position_error_actual_median_angstrom": _median(pooled.position_actual),
        "position_error_detected_median_angstrom": _median(pooled.position_detected),
        "position_error_actual_charged_angstrom": _mean(pooled.position_charged),
        **{f"per_material_{key}": _mean(values) for key, values in defined.items()},
        "per_material_position_error_actual_median_angstrom": _median(
            defined["position_error_actual_angstrom"]
        ),
        "per_material_position_error_detected_median_angstrom": _median(
            defined["position_error_detected_angstrom"]
        ),
        "n_nothing_detected": len(nothing_detected),
        "nothing_detected_ids": nothing_detected,
        "n_without_lattice": int((~usable).sum()),
        "n_not_matched": None if rmse is None else int((~matched).sum()),
    }
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in summary.items()
    }


def _check(actual: Crystals, detected: Crystals) -> None:
    if len(actual) == 0:
        raise DataError("no crystals to evaluate; choose a split that is not empty")
    order = "bring them into one order with nesf.metrics.align"
    if len(actual) != len(detected):
        raise DataError(f"{len(actual)} actual and {len(detected)} detected crystals; {order}")
    for i, (a, d) in enumerate(zip(actual.ids, detected.ids, strict=True)):
        if a != d:
            raise DataError(
                f"actual and detected crystals differ: entry {i} is {a} (actual) and {d} (detected); {order}"
            )
    if not np.isfinite(detected.positions).all():
        atom = int(np.argmin(np.isfinite(detected.positions).all(1)))
        raise DataError(
            f"{detected.id_of_atom(atom)}: a detected position is not finite; leave that atom out, or give the material no atoms"
        )
    if not actual.n_atoms.all():
        raise DataError(
            f"{actual.ids[int(np.argmin(actual.n_atoms))]}: the actual crystal has no atoms; leave it out"
        )


def _formulas(crystals: Crystals) -> list[str]:
    from pymatgen.core import Composition, Element

    parts = [
        np.unique(crystals.species[crystals.atoms(i)], return_counts=True)
        for i in range(len(crystals))
    ]
    # formulas are ordered by electronegativity, and pymatgen warns that noble gases have none
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No Pauling electronegativity")
        return [
            Composition(
                {Element.from_Z(int(z)): int(n) for z, n in zip(*p, strict=True)}
            ).reduced_formula
            for p in parts
        ]


def _mean(values: np.ndarray) -> float:  # NaN of no value, without numpy's warning; as `_median`
    return float(np.mean(values)) if np.size(values) else float("nan")


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if np.size(values) else float("nan")
