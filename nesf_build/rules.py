"""Selection and splitting of datasets by rules: the paper's three sets, and the users' own in JSON.

Every rule looks at the conventional standard cell (pymatgen's
`get_conventional_standard_structure`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from nesf.config import as_json
from nesf.crystals import Crystals
from nesf.data.dataset import split
from nesf.files import read_json
from nesf.forms import Range, from_values
from nesf_io.errors import ConfigError, DataError

RULES_FOLDER = Path(__file__).with_name("rule_sets")
CrystalSystem = Literal[
    "triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic"
]


@dataclass(frozen=True)
class Rules:
    """What a material must satisfy to be in a dataset, and how the dataset is split.

    Section 4.1, made exact by the official code. The rules apply in the order of the fields; one
    that is None does not apply.
    """

    description: str = ""  # one line, recorded with the dataset
    anonymous_formulas: tuple[str, ...] | None = None  # such as ABC3
    crystal_system: CrystalSystem | None = None
    max_sites: int | None = None  # atoms in the cell, at most
    n_sites: int | None = None  # atoms in the cell, exactly
    max_length: float | None = None  # Å; a, b and c are at most this long
    # Å; no entry of the lattice matrix is smaller
    min_lattice_entry: Annotated[float, Range()] | None = None
    # a Materials Project id: the cell that the lattice vectors are compared with
    reference_id: str | None = None
    # each vector differs from the reference's by less than this fraction of that one's length
    reference_tolerance: float = 0.2
    # the int(fraction * n) most frequent of the n elements are kept, counted by materials
    element_fraction: float | None = None
    test_fraction: float = 0.05  # ceil(fraction * n) materials
    val_fraction: float = 0.05  # ceil(fraction * (n - test)) materials
    # cross-validation: in each of so many folds one part is test, the next is validation
    folds: int | None = None

    def __post_init__(self) -> None:
        if self.reference_id is not None and not re.fullmatch(r"mp-\w+", self.reference_id):
            raise ConfigError(
                f"reference_id: {self.reference_id!r} is no Materials Project id, such as mp-20674"
            )
        for name in (
            "max_sites",
            "n_sites",
            "max_length",
            "reference_tolerance",
            "element_fraction",
            "test_fraction",
            "val_fraction",
        ):
            value, most = getattr(self, name), 1 if name.endswith("fraction") else math.inf
            if value is not None and not 0 < value <= most:
                raise ConfigError(
                    f"{name}: {value!r} makes no sense; give a value above 0"
                    + (" and at most 1" if most == 1 else "")
                )
        if self.folds is not None and self.folds < 3:
            raise ConfigError(f"folds: {self.folds!r} leave nothing to train on; give at least 3")

    def to_dict(self) -> dict[str, Any]:
        """Return the rules that apply, as JSON takes them."""
        return {k: v for k, v in as_json(self).items() if v is not None}


def rule_sets() -> tuple[str, ...]:
    """Return the names of the paper's rule sets, which come with the package."""
    return tuple(sorted(p.stem for p in RULES_FOLDER.glob("*.json")))


def load_rules(name_or_path: str | Path) -> Rules:
    """Load one of the paper's rule sets by name, or a JSON file with the keys of `Rules`.

    Raises:
        ConfigError: no such set or file, not JSON, an unknown key, or a value of the wrong type or range; the
            message names it.
    """
    name = str(name_or_path)
    path = RULES_FOLDER / f"{name}.json" if name in rule_sets() else Path(name)
    if not path.is_file():
        raise ConfigError(
            f"{name}: neither a set of rules ({', '.join(rule_sets())}) nor a JSON file"
        )
    try:
        return from_values(Rules, read_json(path))
    except DataError as error:
        raise ConfigError(str(error)) from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


@dataclass(frozen=True)
class Count:
    """Materials before and after one rule."""

    rule: str
    before: int
    after: int


def select(
    crystals: Crystals, rules: Rules, reference: np.ndarray | None = None
) -> tuple[Crystals, list[Count]]:
    """Apply the rules one after another (Section 4.1).

    Args:
        crystals: conventional standard cells; with the property `crystal_system` if the rules ask
            for one.
        reference: [3, 3], Å, the conventional standard lattice of `rules.reference_id`, if the
            rules name one.

    Returns:
        The crystals that satisfy every rule, and the counts before and after each.

    Raises:
        DataError: a rule needs a reference or a property that is not given.
    """
    counts: list[Count] = []

    def keep(rule: str, mask: Any) -> None:
        nonlocal crystals
        kept = np.flatnonzero(mask)
        counts.append(Count(rule, len(crystals), len(kept)))
        crystals = crystals.select(kept)

    if rules.anonymous_formulas is not None:
        fits = [
            anonymous_formula(crystals.species[crystals.atoms(i)]) in rules.anonymous_formulas
            for i in range(len(crystals))
        ]
        keep(f"anonymous formula {', '.join(rules.anonymous_formulas)}", fits)
    if rules.crystal_system is not None:
        if "crystal_system" not in crystals.properties:
            raise DataError(
                "the rule crystal_system needs this property of each crystal; build the dataset with materials_project.build"
            )
        keep(
            f"crystal system {rules.crystal_system}",
            crystals.properties["crystal_system"] == rules.crystal_system,
        )
    if rules.max_sites is not None:
        keep(f"at most {rules.max_sites} sites", crystals.n_atoms <= rules.max_sites)
    if rules.n_sites is not None:
        keep(f"{rules.n_sites} sites", crystals.n_atoms == rules.n_sites)
    if rules.max_length is not None:
        keep(
            f"a, b, c at most {rules.max_length} Å", (crystals.lengths <= rules.max_length).all(-1)
        )
    if rules.min_lattice_entry is not None:
        keep(
            f"lattice matrix entries at least {rules.min_lattice_entry} Å",
            (crystals.lattice >= rules.min_lattice_entry).all((-1, -2)),
        )
    if rules.reference_id is not None:
        if reference is None:
            raise DataError(
                f"the rule reference_id needs the lattice of {rules.reference_id}; build the dataset with materials_project.build"
            )
        difference = np.linalg.norm(crystals.lattice - reference, axis=-1)
        near = (difference < rules.reference_tolerance * np.linalg.norm(reference, axis=-1)).all(-1)
        keep(
            f"lattice vectors within {rules.reference_tolerance:.0%} of {rules.reference_id}", near
        )
    if rules.element_fraction is not None:
        kept = frequent_elements(crystals, rules.element_fraction)
        frequent = [
            np.isin(crystals.species[crystals.atoms(i)], kept).all() for i in range(len(crystals))
        ]
        keep(f"the {len(kept)} most frequent elements ({rules.element_fraction:.0%})", frequent)
    return crystals, counts


def anonymous_formula(species: np.ndarray) -> str:
    """Return the anonymous formula of species [N], `ABC3`, as pymatgen's `anonymized_formula`."""
    _, amounts = np.unique(species, return_counts=True)
    amounts = np.sort(amounts) // np.gcd.reduce(amounts)
    return "".join(f"{chr(ord('A') + i)}{n if n > 1 else ''}" for i, n in enumerate(amounts))


def frequent_elements(crystals: Crystals, fraction: float) -> np.ndarray:
    """Return the atomic numbers of the int(fraction * n) most frequent of the n elements.

    They are counted by materials, not atoms; of equally frequent ones the lighter comes first.
    """
    owner = np.repeat(np.arange(len(crystals)), crystals.n_atoms)
    elements, counts = np.unique(
        np.unique(np.stack([owner, crystals.species], 1), axis=0)[:, 1], return_counts=True
    )
    # 1e-9: 0.9 * 10 must give 9 whatever the rounding of the product
    return elements[np.lexsort((elements, -counts))][: int(fraction * len(elements) + 1e-9)]


def split_by_rules(crystals: Crystals, rules: Rules, *, seed: int) -> list[dict[str, Crystals]]:
    """Split as the rules say (`nesf.data.dataset.split`), once, or once a fold."""
    return split(
        crystals,
        seed=seed,
        test_fraction=rules.test_fraction,
        val_fraction=rules.val_fraction,
        folds=rules.folds,
    )
