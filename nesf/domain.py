"""The training domain of a model: what cells, numbers of atoms and elements it has learned.

It is stored in `model.json`. Within it a reconstruction may be right; outside it nothing is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np

from nesf.crystals import Crystals, concatenate, lattice_parameters
from nesf.data.dataset import Dataset
from nesf.data.files import as_crystals
from nesf.data.streaming import StreamedCrystals, StreamedDataset
from nesf.forms import Element
from nesf_io.errors import ConfigError, DataError
from nesf_io.parsers import standard_cell

# Å and degrees beyond the range that still count as inside: of a crystal that was given, and of a
# decoded one, whose lattice is a prediction
GIVEN, DECODED = (0.05, 0.5), (0.5, 5.0)
SAMPLE = 256  # crystals of the training split whose centring is looked at
CENTRED = 0.05  # share of centred cells from which a dataset is one of conventional cells


ModelCell: TypeAlias = Literal["auto", "as-given", "conventional", "primitive"]
CELLS = ("auto", "as-given", "conventional", "primitive")
SAME_LENGTH, SAME_ANGLE = 0.01, 0.1  # Å and degrees; cells that agree to this are one


class Domain(TypedDict):
    """What `domain_of` returns."""

    cell: Literal["conventional", "primitive", "as-given"]
    n_atoms: tuple[float, float]
    length: tuple[float, float]
    angle: tuple[float, float]
    elements: tuple[Element, ...]


def domain_of(dataset: Dataset | StreamedDataset) -> dict[str, Any]:
    """Return the domain of a dataset's training split, as JSON.

    `cell`: conventional, primitive or as-given; `n_atoms`, `length` (Å; of a, b and c) and `angle`
    (degrees) with the smallest and the largest value; `elements`: atomic numbers.
    """
    train = dataset.splits["train"]
    few = list(range(min(len(train), SAMPLE)))
    if isinstance(train, StreamedCrystals):
        pieces, sample = train.pieces(), train.read(few)
    else:
        pieces = {name: [getattr(train, name)] for name in ("lattice", "species", "offsets")}
        sample = train.select(few)
    elements: set[int] = set()
    for chunk in pieces["species"]:
        elements |= {int(z) for z in np.unique(chunk)}
    values: dict[str, list[float]] = {"n_atoms": [], "length": [], "angle": []}
    last = 0
    for k, chunk in enumerate(pieces["offsets"]):
        n_atoms = np.diff(chunk) if k == 0 else np.diff(chunk, prepend=last)
        last = int(chunk[-1])
        values["n_atoms"] += [int(n_atoms.min()), int(n_atoms.max())] if len(n_atoms) else []
    for chunk in pieces["lattice"]:
        lengths, angles = lattice_parameters(chunk)
        values["length"] += [float(lengths.min()), float(lengths.max())]
        values["angle"] += np.degrees([angles.min(), angles.max()]).tolist()
    ranges = {name: [round(min(v), 4), round(max(v), 4)] for name, v in values.items()}
    return {"cell": _cell_of(dataset.provenance, sample), **ranges, "elements": sorted(elements)}


def _cell_of(provenance: Mapping[str, Any], sample: Crystals) -> str:
    """Return the kind of cell that a dataset says it has, else what its centred cells say."""
    said = str(provenance.get("cell", ""))
    for kind in ("conventional", "primitive"):
        if kind in said:
            return kind
    centred = [_is_centred(sample, i) for i in range(len(sample))]
    return "conventional" if np.mean(centred) > CENTRED else "as-given"


def _is_centred(crystals: Crystals, i: int, tolerance: float = 0.05) -> bool:
    """Tell whether a translation within the cell (Å of tolerance) maps the crystal on itself."""
    positions, species = crystals.positions[crystals.atoms(i)], crystals.species[crystals.atoms(i)]
    lattice = crystals.lattice[i]
    fractional = positions @ np.linalg.inv(lattice)
    rarest = min(set(species.tolist()), key=species.tolist().count)
    places = fractional[species == rarest]
    for shift in places[1:] - places[0]:
        move = fractional[None] - (fractional[:, None] + shift)
        move -= np.round(move)
        near = np.linalg.norm(move @ lattice, axis=-1) < tolerance
        if (near & (species[:, None] == species)).any(1).all():
            return True
    return False


def outside(
    crystals: Crystals, domain: Mapping[str, Any], slack: tuple[float, float] = GIVEN
) -> list[list[str]]:
    """Return for each crystal in what it is outside the domain, in words; [] for one inside."""
    found: list[list[str]] = []
    degrees = np.degrees(crystals.angles)
    for i, n in enumerate(crystals.n_atoms.tolist()):
        reasons = []
        low, high = domain["n_atoms"]
        if not low <= n <= high:
            limit = f"at most {high}" if n > high else f"at least {low}"
            reasons.append(f"{n} atom{'s' * (n != 1)}, {limit} in training")
        for names, values, key, unit, extra in (
            ("abc", crystals.lengths[i], "length", " Å", slack[0]),
            ("αβγ", degrees[i], "angle", "°", slack[1]),
        ):
            low, high = domain[key]
            for name, value in zip(names, values.tolist(), strict=True):
                if not low - extra <= value <= high + extra:
                    reasons.append(
                        f"{name} = {value:.4g}{unit}, {low:.4g} to {high:.4g}{unit} in training"
                    )
        if foreign := {*crystals.species[crystals.atoms(i)].tolist()} - {*domain["elements"]}:
            reasons.append(f"{_symbols(foreign)} not in training")
        found.append(reasons)
    return found


def _symbols(numbers: set[int]) -> str:
    from pymatgen.core import Element

    return ", ".join(Element.from_Z(z).symbol for z in sorted(numbers))


def in_cell(given: Crystals, cell: str, domain: Mapping[str, Any]) -> tuple[Crystals, list[str]]:
    """Return crystals in the cell that a model has learned, and in words what each one's cell is.

    Args:
        given: in the standard setting.
        cell: as-given, conventional, primitive; auto: that of the domain, and as given for a
            crystal for which pymatgen finds none. A crystal that is in this cell stays untouched,
            with its origin: models learn crystals with several origins, and moving one does harm.
        domain: the model's (`domain_of`); {} means as-given for auto.

    Raises:
        ConfigError: there is no such cell.
        DataError: the asked cell of a crystal cannot be found.
    """
    if cell not in CELLS:
        raise ConfigError(f"cell {cell!r} does not exist; choose from {', '.join(CELLS)}")
    wanted = domain.get("cell", "as-given") if cell == "auto" else cell
    if wanted == "as-given" or not len(given):
        return given, ["as given"] * len(given)
    parts, notes = [], []
    for i, (name, structure) in enumerate(zip(given.ids, given.to_structures(), strict=True)):
        own = given.select([i])
        try:
            changed = replace(as_crystals(standard_cell(structure, wanted)), ids=(name,))
        except DataError as error:
            if cell != "auto":
                raise DataError(f"{name}: {error}; give --cell as-given") from None
            parts.append(own)
            notes.append(f"as given (no {wanted} cell found)")
            continue
        same = _same(own, changed)
        parts.append(own if same else replace(changed, properties=own.properties))
        before, after = int(own.n_atoms[0]), int(changed.n_atoms[0])
        how = f"{before} → {after} atoms" if before != after else "other axes"
        notes.append(f"as given ({wanted})" if same else f"{wanted} (converted, {how})")
    return concatenate(parts), notes


def _same(a: Crystals, b: Crystals) -> bool:
    """Tell whether two single crystals have one cell and number of atoms, whatever the origin."""
    return (
        len(a.species) == len(b.species)
        and bool(np.abs(a.lengths - b.lengths).max() < SAME_LENGTH)
        and bool(np.degrees(np.abs(a.angles - b.angles).max()) < SAME_ANGLE)
    )
