"""Build the embedded dataset `starter` from what pymatgen itself carries: same input, same bytes.

    python scripts/build_starter.py              # writes nesf/data/starter_dataset/
    python scripts/build_starter.py --out DIR    # writes elsewhere, for comparison

1. Prototypes: pymatgen's AFLOW library, each as its conventional standard cell.
2. Decoration. Ionic prototypes: the charge-neutral data-mined substitutions of Hautier et al.
   (Inorg. Chem. 50, 656 (2011)), most probable first. Elements, intermetallics and covalent solids:
   neighbours on Pettifor's scale, nearest first.
3. Volume. Ionic: reference-lattice scaling from the prototype (ionic radii). Others: data-mined
lattice scaling (bond lengths). 4. Selection: LCS6Å's rules; no short bond far from its data-mined
length; no two structures of one composition that
   StructureMatcher takes for the same.

These are hypothetical crystals, good for learning how the software works and nothing else; they are
not Materials Project data.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from monty.serialization import loadfn
from pymatgen.analysis import prototypes as aflow
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.analysis.structure_prediction.substitutor import Substitutor
from pymatgen.analysis.structure_prediction.volume_predictor import (
    DLSVolumePredictor,
    RLSVolumePredictor,
)
from pymatgen.core import Composition, Element, Species, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from nesf.crystals import Crystals, concatenate
from nesf.data.dataset import Dataset, save_dataset, split
from nesf_build.rules import Count, load_rules, select

SEED = 0
FOLDER = Path(__file__).parents[1] / "nesf" / "data" / "starter_dataset"
PER_PROTOTYPE = 55  # at most so many decorations of one prototype
MAX_ATOMS = 16  # atoms in the conventional cell of a prototype
MIN_PROBABILITY = 5e-4  # of a substitution; pymatgen's default threshold is 1e-3
MAX_TRIES = 200  # decorations looked at for one prototype
MAX_PETTIFOR_STEP = 12  # on Pettifor's scale of 103 steps
# the shortest bond over its data-mined length, for a prototype and for a decoration
BOND_RATIO = (0.8, 1.25)
ROUNDING = 6  # decimals of Å: the last digits of a linear-algebra library do not reach the file

# No hydrogen (the volume predictors have no sound bonds for it), no noble gases, no lanthanides but
# La, no actinides. fmt: off
ELEMENTS = (
    "Li",
    "Na",
    "K",
    "Rb",
    "Cs",
    "Mg",
    "Ca",
    "Sr",
    "Ba",
    "Y",
    "La",
    "Ti",
    "Zr",
    "Hf",
    "V",
    "Nb",
    "Ta",
    "Cr",
    "Mo",
    "W",
    "Mn",
    "Fe",
    "Co",
    "Ni",
    "Ru",
    "Rh",
    "Pd",
    "Ir",
    "Pt",
    "Cu",
    "Ag",
    "Au",
    "Zn",
    "Cd",
    "Al",
    "Ga",
    "In",
    "Tl",
    "Si",
    "Ge",
    "Sn",
    "Pb",
    "B",
    "C",
    "N",
    "P",
    "As",
    "Sb",
    "Bi",
    "O",
    "S",
    "Se",
    "Te",
    "F",
    "Cl",
    "Br",
    "I",
)
# fmt: on
ANIONS = frozenset({"N", "O", "S", "Se", "F", "Cl", "Br", "I"})
NONMETALS = ANIONS | {"P"}  # alone with each other they make molecules
# never decorated by Pettifor's scale: charges decide
HALIDES_OXIDES = frozenset({"O", "F", "Cl", "Br", "I"})
# molecules: no network of bonds to scale
MOLECULES = frozenset({("AB_cP8_198_a_a", "C4 O4"), ("A4B_cI10_217_c_a", "Si2 F8")})
# pyrite, marcasite: S2 pairs, which a guess of charges does not know
PERSULPHIDES = frozenset({"AB2_cP12_205_a_c", "AB2_oP6_58_a_g"})
POLYSULPHIDES = frozenset({"AB3_oP16_18_ab_3c", "AB3_tP8_113_a_ce"})  # S3 chains: left out


@dataclass(frozen=True)
class Prototype:
    """A conventional standard cell to decorate.

    Attributes:
        tag: AFLOW's label.
        structure: the cell, with oxidation states when it is ionic.
        ionic: whether its ions are to be substituted.
    """

    tag: str
    structure: Structure
    ionic: bool


# Radii that pymatgen lacks: such an ion is not used, such an element decorates nothing.
warnings.filterwarnings(
    "ignore", message=r"No (default )?ionic radius|VolumePredictor", category=UserWarning
)


def prototypes(only: Collection[str] | None = None) -> list[Prototype]:
    """Return the prototypes that can be decorated, by label (only the labels given, if any)."""
    library = loadfn(Path(aflow.__file__).with_name("aflow_prototypes.json.gz"))
    found = []
    for entry in library:
        tags, structure = entry["tags"], entry["snl"].structure
        elements = {e.symbol for e in structure.composition.elements}
        tag = tags["aflow"]
        if (
            not elements <= _KNOWN
            or elements <= NONMETALS
            or tag in POLYSULPHIDES
            or (only is not None and tag not in only)
        ):
            continue
        cell = SpacegroupAnalyzer(structure).get_conventional_standard_structure()
        if (
            (tag, cell.composition.formula) in MOLECULES
            or len(cell) > MAX_ATOMS
            or (cell.lattice.matrix < -0.1).any()
            or not _sound(cell)
        ):
            continue
        guess: tuple[dict[str, float], ...] = (
            () if tag in PERSULPHIDES and "S" in elements else cell.composition.oxi_state_guesses()
        )
        ionic = (
            bool(guess)
            and any(e in ANIONS for e, state in guess[0].items() if state < 0)
            and all(_is_ion(e, s) for e, s in guess[0].items())
        )
        if ionic:
            cell.add_oxidation_state_by_element(guess[0])
        elif elements & HALIDES_OXIDES:
            continue
        found.append(Prototype(tag, cell, ionic))
    return sorted(found, key=lambda p: (p.tag, p.structure.composition.formula))


# a prototype may consist of elements that decorate none
_KNOWN = frozenset(ELEMENTS) | {"Th", "U", "Pa", "Re", "Hg", "Ce", "Be"}
_SUBSTITUTOR = Substitutor(threshold=MIN_PROBABILITY)
_DLS = DLSVolumePredictor(min_scaling=None, max_scaling=None)
_RLS = RLSVolumePredictor(check_isostructural=False, radii_type="ionic", use_bv=False)
_MATCHER = StructureMatcher()


def _is_ion(element: str, state: float) -> bool:
    return state == int(state) and Species(element, state) in _SUBSTITUTOR.get_allowed_species()


def _sound(structure: Structure) -> bool:
    """Tell whether the shortest bond has about the length that bonds of these elements have."""
    ratio = (structure.volume / _DLS.predict(structure)) ** (1 / 3)
    return BOND_RATIO[0] <= ratio <= BOND_RATIO[1]


def decorations(prototype: Prototype) -> Iterator[dict[str, str | Species]]:
    """Yield replacements of a prototype's species, the most plausible first."""
    yield from (
        _ionic(prototype.structure.composition)
        if prototype.ionic
        else _by_pettifor(prototype.structure.composition)
    )


def _ionic(composition: Composition) -> list[dict]:
    found = []
    for prediction in _SUBSTITUTOR.pred_from_comp(composition):
        replaced = prediction["substitutions"]
        ions = list(replaced.values())
        cations, anions = [s for s in ions if s.oxi_state > 0], [s for s in ions if s.oxi_state < 0]
        plausible = (
            len({s.symbol for s in ions}) == len(ions)
            and all(
                s.symbol in ELEMENTS and s.oxi_state in s.element.common_oxidation_states
                for s in ions
            )
            and all((old.oxi_state > 0) == (new.oxi_state > 0) for old, new in replaced.items())
            and all(
                new.ionic_radius is not None and old.ionic_radius is not None
                for old, new in replaced.items()
            )
            and max(s.X for s in cations) < min(s.X for s in anions)
        )
        if plausible:
            key = (-round(prediction["probability"], 9), [s.Z for _, s in sorted(replaced.items())])
            found.append((key, replaced))
    return [replaced for _, replaced in sorted(found, key=lambda f: f[0])]


def _by_pettifor(composition: Composition) -> list[dict]:
    old = sorted(composition.elements)
    choices = [
        [e for e in map(Element, ELEMENTS) if _alike(o, e, compound=len(old) > 1)] for o in old
    ]
    found = []
    for new in itertools.product(*choices):
        if len(set(new)) == len(new):
            distance = sum(
                abs(n.mendeleev_no - o.mendeleev_no) for n, o in zip(new, old, strict=True)
            )
            found.append(((distance, [n.Z for n in new]), dict(zip(old, new, strict=True))))
    return [replaced for _, replaced in sorted(found, key=lambda f: f[0])]


def _alike(old: Element, new: Element, *, compound: bool) -> bool:
    """Tell whether one element may replace another.

    Metals replace metals. Other elements replace those of their group, but in a compound small ones
    (B, C, N) replace no large ones.
    """
    if abs(new.mendeleev_no - old.mendeleev_no) > MAX_PETTIFOR_STEP:
        return False
    if old.is_metal:
        return new.is_metal
    return new.group == old.group and ((new.row == 2) == (old.row == 2) or not compound)


def decorate(prototype: Prototype, replaced: dict) -> Structure | None:
    """Return a prototype with other species and their predicted volume; None: unsound bonds."""
    structure = prototype.structure.copy()
    structure.replace_species(replaced)
    if prototype.ionic:
        structure.scale_lattice(_RLS.predict(structure, prototype.structure))
        structure.remove_oxidation_states()
    else:
        structure.scale_lattice(_DLS.predict(structure))
    return structure if _sound(structure) else None


def structures_of(prototype: Prototype) -> list[Structure]:
    """Return at most PER_PROTOTYPE decorations of a prototype that satisfy LCS6Å's rules for the cell."""
    rules = load_rules("lcs6")
    found: list[Structure] = []
    for replaced in itertools.islice(decorations(prototype), MAX_TRIES):
        structure = decorate(prototype, replaced)
        if structure is None or max(structure.lattice.abc) > rules.max_length:
            continue
        found.append(structure)
        if len(found) == PER_PROTOTYPE:
            break
    return found


def crystal_of(identifier: str, prototype: Prototype, structure: Structure) -> Crystals:
    """Return a structure in the standard setting, rounded so that all machines write the same bytes."""
    fractional = structure.frac_coords % 1
    fractional[fractional > 1 - 1e-5] = 0.0
    tidy = Structure(structure.lattice, structure.species, fractional)
    crystals = Crystals.from_structures(
        [tidy], [identifier], {"prototype": np.array([prototype.tag], dtype=object)}
    ).in_standard_setting()
    positions, lattice = (
        np.round(a, ROUNDING) + 0.0 for a in (crystals.positions, crystals.lattice)
    )
    return Crystals(
        crystals.ids, positions, crystals.species, lattice, crystals.offsets, crystals.properties
    )


def build(selected: list[Prototype]) -> tuple[Crystals, Count]:
    """Return all decorations without duplicates, numbered from 1, and the count of duplicates."""
    by_formula: dict[str, list[Structure]] = {}
    parts: list[Crystals] = []
    made = 0
    for prototype in selected:
        for structure in structures_of(prototype):
            made += 1
            same = by_formula.setdefault(structure.composition.reduced_formula, [])
            if any(_MATCHER.fit(structure, other) for other in same):
                continue
            same.append(structure)
            parts.append(
                crystal_of(f"starter-{len(parts) + 1:04d}-{prototype.tag}", prototype, structure)
            )
    return concatenate(parts), Count(
        "no two of one composition that StructureMatcher takes for the same", made, len(parts)
    )


def starter() -> Dataset:
    """Return the whole dataset."""
    crystals, distinct = build(prototypes())
    crystals, counts = select(crystals, load_rules("lcs6"))
    provenance = {
        "source": "built by scripts/build_starter.py from pymatgen's AFLOW prototype library, ionic substitution and volume predictors",
        "note": (
            "hypothetical decorations of known prototypes: not Materials Project data, not relaxed, not checked for stability. All cells are "
            "orthogonal. The prototype of every test crystal is in the training split with other elements, so few shapes are new to a model"
        ),
        "licence": "MIT, as this software; prototypes: AFLOW (Mehl et al., Comput. Mater. Sci. 136, S1 (2017)) as distributed with pymatgen (MIT)",
        "cell": "conventional standard",
        "seed": SEED,
        "versions": {p: version(p) for p in ("pymatgen", "pymatgen-core", "spglib")},
        "selection": [
            {"rule": c.rule, "before": c.before, "after": c.after} for c in [distinct, *counts]
        ],
    }
    return Dataset("starter", split(crystals, seed=SEED)[0], provenance=provenance)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Build the embedded dataset `starter`.")
    parser.add_argument(
        "--out", type=Path, default=FOLDER, help="folder to write (default: the one in the package)"
    )
    out = parser.parse_args().out
    dataset = starter()
    save_dataset(dataset, out, replace=True)
    print(
        f"{out}: {', '.join(f'{len(c)} {s}' for s, c in dataset.splits.items())}, {len(dataset.vocabulary)} elements, hash {dataset.hash()}"
    )


if __name__ == "__main__":
    main()
