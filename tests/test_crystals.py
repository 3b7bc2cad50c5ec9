"""Batches of crystals: pymatgen both ways, the standard setting, padding, the packed file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from nesf.crystals import (
    Crystals,
    concatenate,
    lattice_parameters,
    pad,
    reason_against,
    standard_lattice,
    vocabulary_of,
)
from nesf.data import load
from nesf_io.errors import DataError

CELLS = {  # a, b, c, α, β, γ in pymatgen's conventional setting
    "cubic": (4.2, 4.2, 4.2, 90, 90, 90),
    "tetragonal": (3.9, 3.9, 4.1, 90, 90, 90),
    "orthorhombic": (3.1, 4.2, 5.3, 90, 90, 90),
    "hexagonal": (3.2, 3.2, 5.2, 90, 90, 120),
    "monoclinic": (3.1, 4.4, 5.0, 73, 90, 90),
    "triclinic": (3.5, 4.4, 5.1, 81, 76, 68),
}


def random_crystals(seed: int, cells: np.ndarray | None = None) -> Crystals:
    """Five crystals of 1 to 9 atoms at random, in general cells of any orientation unless lattices
    are given."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 10, 5)
    lattice = (
        rng.normal(size=(5, 3, 3)) + 4 * np.linalg.qr(rng.normal(size=(5, 3, 3)))[0]
        if cells is None
        else cells
    )
    lattice = lattice * np.sign(np.linalg.det(lattice))[:, None, None]
    positions = [rng.random((n, 3)) @ m for n, m in zip(counts, lattice, strict=True)]
    return Crystals.from_arrays(
        [f"c{seed}-{i}" for i in range(5)],
        positions,
        [rng.integers(1, 90, n) for n in counts],
        lattice,
    )


@pytest.mark.parametrize("shape", CELLS)
def test_lattice_from_lengths_and_angles(shape: str) -> None:
    lengths, angles = np.array([CELLS[shape][:3]], float), np.radians([CELLS[shape][3:]])
    lattice = standard_lattice(lengths, angles)
    assert np.linalg.det(lattice[0]) > 0
    for ours, expected in zip(lattice_parameters(lattice), (lengths, angles), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-12)
    assert Lattice(lattice[0]).parameters == pytest.approx(CELLS[shape])
    if shape == "hexagonal":  # a and b mirrored about x
        np.testing.assert_allclose(lattice[0, 0] * [1, -1, 1], lattice[0, 1], atol=1e-12)
    else:
        assert lattice[0, 0, 1] == lattice[0, 0, 2] == lattice[0, 1, 2] == 0


@pytest.mark.parametrize("shape", ["cubic", "tetragonal", "orthorhombic", "hexagonal"])
def test_standard_setting_is_that_of_pymatgen_s_conventional_structure(shape: str) -> None:
    # Two different atoms on the c axis keep the symmetry of the cell.
    structure = Structure(
        Lattice.from_parameters(*CELLS[shape]), ["Ba", "O"], [[0, 0, 0], [0, 0, 0.5]]
    )
    conventional = SpacegroupAnalyzer(structure).get_conventional_standard_structure()
    crystals = Crystals.from_structures([conventional], ["one"])
    np.testing.assert_allclose(
        standard_lattice(crystals.lengths, crystals.angles), crystals.lattice, atol=1e-6
    )
    np.testing.assert_allclose(
        crystals.in_standard_setting().positions, crystals.positions, atol=1e-6
    )


@pytest.mark.parametrize("seed", range(3))
def test_standard_setting_turns_a_crystal_and_changes_nothing_else(seed: int) -> None:
    crystals = random_crystals(seed)
    turned = crystals.in_standard_setting()
    np.testing.assert_allclose(turned.lattice, standard_lattice(crystals.lengths, crystals.angles))
    for i, (a, b) in enumerate(zip(crystals.to_structures(), turned.to_structures(), strict=True)):
        np.testing.assert_allclose(a.distance_matrix, b.distance_matrix, atol=1e-9)
        np.testing.assert_allclose(a.lattice.parameters, b.lattice.parameters)
        inside = [
            np.linalg.norm(p[:, None] - p[None], axis=-1)
            for p in (crystals.positions[crystals.atoms(i)], turned.positions[turned.atoms(i)])
        ]
        np.testing.assert_allclose(*inside, atol=1e-9)
    again = turned.in_standard_setting()
    np.testing.assert_allclose(again.positions, turned.positions, atol=1e-9)


def test_angles_that_close_no_cell() -> None:
    with pytest.raises(DataError, match=r"100\.0, 130\.0, 140\.0.*entry 1.*no cell"):
        standard_lattice(np.full((2, 3), 4.0), np.radians([[90, 90, 90], [100, 130, 140]]))


@pytest.mark.parametrize("seed", range(3))
def test_pymatgen_both_ways(seed: int) -> None:
    crystals = random_crystals(seed)
    back = Crystals.from_arrays(  # without the check against absurd structures: these are at random
        crystals.ids, *zip(*[(s.cart_coords, np.array(s.atomic_numbers)) for s in crystals.to_structures()], strict=True), crystals.lattice
    )  # fmt: skip
    np.testing.assert_allclose(back.positions, crystals.positions, atol=1e-6)
    assert np.array_equal(back.species, crystals.species) and np.array_equal(
        back.offsets, crystals.offsets
    )
    starter = load("starter").splits["test"]
    again = Crystals.from_structures(starter.to_structures(), starter.ids)
    np.testing.assert_allclose(again.positions, starter.positions, atol=1e-6)
    np.testing.assert_allclose(again.lattice, starter.lattice, atol=1e-12)


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (Structure(Lattice.cubic(4), [], []), "no atoms"),
        (Structure(Lattice.cubic(4), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]]), "disordered"),
        (Structure(Lattice.cubic(0.8), ["Fe"], [[0, 0, 0]]), "absurd"),
        (Structure(Lattice.orthorhombic(4, 4, 400), ["Fe"], [[0, 0, 0]]), "absurd"),
        # through the cell's face
        (Structure(Lattice.cubic(4), ["Fe", "O"], [[0, 0, 0.98], [0, 0, 0.01]]), "apart"),
        (Structure(Lattice.cubic(4), ["Fe"], [[0, 0, float("nan")]]), "not finite"),
        (Structure(Lattice.cubic(4), ["X"], [[0, 0, 0]]), "dummy"),
    ],
)
def test_structures_that_cannot_be_used_are_named(structure: Structure, reason: str) -> None:
    good = Structure(Lattice.cubic(4), ["Fe"], [[0, 0, 0]])
    assert reason_against(good) is None
    with pytest.raises(DataError, match=f"culprit: .*{reason}"):
        Crystals.from_structures([good, structure], ["good", "culprit"])


def test_select_and_concatenate() -> None:
    crystals = random_crystals(0)
    picked = crystals.select([3, 0, 3])
    assert picked.ids == ("c0-3", "c0-0", "c0-3")
    np.testing.assert_array_equal(
        picked.positions[picked.atoms(1)], crystals.positions[crystals.atoms(0)]
    )
    np.testing.assert_array_equal(
        picked.species[picked.atoms(2)], crystals.species[crystals.atoms(3)]
    )
    assert len(crystals.select([])) == 0
    joined = concatenate([crystals.select([0, 1]), crystals.select([]), crystals.select([2, 3, 4])])
    assert joined.ids == crystals.ids
    for name in ("positions", "species", "lattice", "offsets"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(crystals, name))
    with pytest.raises(DataError, match="inconsistent"):
        Crystals(
            crystals.ids,
            crystals.positions,
            crystals.species[:-1],
            crystals.lattice,
            crystals.offsets,
        )


def test_padding() -> None:
    crystals = random_crystals(1)
    vocabulary = vocabulary_of(crystals)
    batch = pad(crystals, vocabulary)
    assert (
        batch.positions.shape == (5, crystals.n_atoms.max(), 3)
        and batch.positions.dtype == torch.float32
    )
    assert np.array_equal(batch.mask.sum(1).numpy(), crystals.n_atoms)
    np.testing.assert_allclose(batch.positions[batch.mask], crystals.positions, atol=1e-6)
    assert (np.array(vocabulary)[batch.species[batch.mask]] == crystals.species).all()
    np.testing.assert_allclose(batch.angles, crystals.angles, atol=1e-6)
    assert (batch.positions[~batch.mask] == batch.FAR).all()
    part = batch.select(torch.tensor([4, 1]))
    assert torch.equal(part.lengths, batch.lengths[[4, 1]])


def test_element_outside_the_vocabulary_is_named() -> None:
    crystals = Crystals.from_arrays(
        ["a", "b"],
        [np.zeros((2, 3)), np.zeros((1, 3))],
        [np.array([8, 26]), np.array([79])],
        np.tile(np.eye(3) * 4, (2, 1, 1)),
    )
    with pytest.raises(DataError, match="^b: .*79"):
        pad(crystals, (8, 26))


def test_packed_file(tmp_path: Path) -> None:
    crystals = random_crystals(2)
    properties = {
        "gap": np.array([0.0, 1.5, np.nan, 2.0, 3.0]),
        "formula": np.array(["Fe", "βx", "", "1", "A,B"], dtype=object),
    }
    crystals = Crystals(
        crystals.ids,
        crystals.positions,
        crystals.species,
        crystals.lattice,
        crystals.offsets,
        properties,
    )
    crystals.save(tmp_path / "a.safetensors")
    back = Crystals.load(tmp_path / "a.safetensors")
    assert back.ids == crystals.ids
    for name in ("positions", "species", "lattice", "offsets"):
        np.testing.assert_array_equal(getattr(back, name), getattr(crystals, name))
    np.testing.assert_array_equal(back.properties["gap"], properties["gap"])
    assert back.properties["formula"].tolist() == properties["formula"].tolist()
    crystals.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    content = (tmp_path / "a.safetensors").read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"hello"):
        (tmp_path / "c.safetensors").write_bytes(damaged)
        with pytest.raises(DataError, match=r"c\.safetensors.*damaged"):
            Crystals.load(tmp_path / "c.safetensors")
    with pytest.raises(DataError, match=r"none\.safetensors"):
        Crystals.load(tmp_path / "none.safetensors")
