"""The embedded dataset: what is committed is what the script makes, and it is what it says."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from nesf.crystals import Crystals, concatenate
from nesf.data import STARTER_FOLDER, load
from nesf.data.dataset import Dataset, save_dataset
from nesf_build.rules import load_rules, split_by_rules
from nesf_studies.audit import find_near_duplicates

SCRIPT = Path(__file__).parents[1] / "scripts" / "build_starter.py"


@pytest.fixture(scope="module")
def starter() -> Dataset:
    return load("starter")  # compares the content with the recorded hash


@pytest.fixture(scope="module")
def everything(starter: Dataset) -> Crystals:
    crystals = concatenate(list(starter.splits.values()))
    return crystals.select(np.argsort(np.array(crystals.ids)))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_starter", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_starter"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_size_counts_and_label(starter: Dataset, everything: Crystals) -> None:
    assert sum(f.stat().st_size for f in STARTER_FOLDER.iterdir()) < 1_000_000
    assert 1000 <= len(everything) <= 2000
    assert len(set(everything.ids)) == len(everything)
    assert all(
        i.startswith(f"starter-{i[8:12]}-{tag}")
        for i, tag in zip(everything.ids, everything.properties["prototype"], strict=True)
    )
    assert (
        "not Materials Project data" in starter.provenance["note"]
        and "hypothetical" in starter.provenance["note"]
    )
    assert starter.provenance["selection"][-1]["after"] == len(everything)


def test_cells_follow_the_rules_of_lcs6(everything: Crystals) -> None:
    assert everything.lengths.max() <= 6.0
    assert everything.lattice.min() >= -0.1
    fractional = np.einsum(
        "ni,nij->nj",
        everything.positions,
        np.linalg.inv(everything.lattice)[
            np.repeat(np.arange(len(everything)), everything.n_atoms)
        ],
    )
    assert fractional.min() > -1e-5 and fractional.max() < 1 - 1e-6, "atoms lie in the cell"
    np.testing.assert_allclose(
        everything.in_standard_setting().lattice, everything.lattice, atol=1e-6
    )


def test_diverse_but_small(starter: Dataset, everything: Crystals) -> None:
    assert 40 <= len(starter.vocabulary) <= 60
    assert (
        starter.provenance["selection"][-1]["rule"]
        == f"the {len(starter.vocabulary)} most frequent elements (90%)"
    )
    assert everything.n_atoms.max() <= 16 and len(Counter(everything.n_atoms.tolist())) >= 8
    assert len(set(everything.properties["prototype"])) >= 50
    assert set(starter.vocabulary) == set(starter.splits["train"].species), (
        "no element of the other splits is new to the training set"
    )


def test_shortest_distances_are_those_of_bonds(everything: Crystals) -> None:
    for identifier, structure in zip(everything.ids, everything.to_structures(), strict=True):
        shortest = structure.get_neighbor_list(4.0)[3].min()
        radii = sorted(float(site.specie.atomic_radius) for site in structure)
        assert shortest > 1.4, identifier
        assert 0.7 * 2 * radii[0] < shortest < 1.6 * 2 * radii[-1], identifier


def test_splits_are_the_papers_and_share_nothing(starter: Dataset, everything: Crystals) -> None:
    # the rule of the split, from the crystals in the order of their numbers
    again = split_by_rules(everything, load_rules("lcs6"), seed=starter.provenance["seed"])[0]
    assert {s: c.ids for s, c in again.items()} == {s: starter.splits[s].ids for s in again}
    assert not find_near_duplicates(starter, progress=False)
    prototypes = {s: set(c.properties["prototype"]) for s, c in starter.splits.items()}
    assert prototypes["val"] | prototypes["test"] <= prototypes["train"], (
        "as the note in dataset.json says"
    )


def test_ionic_compositions_are_neutral(everything: Crystals, script: ModuleType) -> None:
    """Halides and oxides come from substitutions that keep the charge: integer oxidation states
    exist that sum to zero."""
    chosen = [
        i
        for i in range(len(everything))
        if np.isin(everything.species[everything.atoms(i)], [8, 9, 17]).any()
    ]
    assert len(chosen) > 200
    for structure in everything.select(chosen[::7]).to_structures():
        assert structure.composition.oxi_state_guesses(), structure.formula


@pytest.mark.filterwarnings("ignore:No default ionic radius")
def test_rebuilding_some_prototypes_gives_the_committed_structures(
    everything: Crystals, starter: Dataset, script: ModuleType
) -> None:
    tags = ("AB_cF8_225_a_b", "A_cI2_229_a", "A2B_tP6_136_f_a")
    for prototype in script.prototypes(tags):
        rebuilt, _ = script.build([prototype])
        known = [
            i
            for i in range(len(rebuilt))
            if np.isin(rebuilt.species[rebuilt.atoms(i)], starter.vocabulary).all()
        ]
        rebuilt = rebuilt.select(known)
        committed = everything.select(
            np.flatnonzero(everything.properties["prototype"] == prototype.tag)
        )
        assert len(committed) == len(rebuilt) >= 10
        for field in ("positions", "lattice", "species", "offsets"):
            np.testing.assert_array_equal(getattr(rebuilt, field), getattr(committed, field))


def test_conventional_standard_cells(everything: Crystals) -> None:
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    for i, structure in list(enumerate(everything.to_structures()))[::40]:
        conventional = SpacegroupAnalyzer(structure).get_conventional_standard_structure()
        assert len(conventional) == len(structure), everything.ids[i]
        np.testing.assert_allclose(
            conventional.lattice.abc, structure.lattice.abc, atol=1e-4, err_msg=everything.ids[i]
        )


def test_written_bytes_are_always_the_same(starter: Dataset, tmp_path: Path) -> None:
    save_dataset(starter, tmp_path)
    for file in STARTER_FOLDER.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name
