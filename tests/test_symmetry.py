"""Decoded crystals made symmetric, and judged by CHGNet."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from nesf.crystals import Crystals
from nesf.decode import Reconstruction
from nesf_cli.main import main
from nesf_design.plausibility import above_training, energies, relaxation
from nesf_design.symmetry import space_group, space_groups, symmetrise, symmetrised
from nesf_io.errors import ConfigError

SALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)


def shaken(structure: Structure, by: float = 0.03) -> Structure:
    random, made = np.random.default_rng(0), structure.copy()
    made.translate_sites(
        range(len(made)), [0.003, 0.002, -0.004], frac_coords=True, to_unit_cell=False
    )
    for i in range(len(made)):
        way = random.standard_normal(3)
        made.translate_sites(
            i, by * way / np.linalg.norm(way), frac_coords=False, to_unit_cell=False
        )
    made.apply_strain([0.001, -0.002, 0.0005])
    return made


def test_a_symmetrised_rock_salt_is_fm3m_in_its_own_cell() -> None:
    bent = shaken(SALT)
    assert space_group(bent, 1e-3) == 1
    made, found = symmetrise(bent, 0.15)
    assert found == space_group(made, 1e-3) == 225
    assert made.lattice.abc == pytest.approx([made.lattice.a] * 3) and len(made) == 8
    assert [s.species_string for s in made] == [s.species_string for s in bent]
    # no atom goes farther than it was moved, and they keep their images
    ways = np.linalg.norm(made.cart_coords - bent.cart_coords, axis=1)
    assert 0 < ways.max() < 0.15


def test_low_symmetry_and_hexagonal_cells_keep_their_setting() -> None:
    wurtzite = Structure.from_spacegroup(
        "P6_3mc",
        Lattice.hexagonal(3.82, 6.26),
        ["Zn", "S"],
        [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.374]],
    )
    made, found = symmetrise(shaken(wurtzite, 0.02), 0.15)
    assert found == 186 and made.lattice.gamma == pytest.approx(120)
    lone = Structure(
        Lattice.from_parameters(4, 5, 6, 80, 95, 100), ["K", "Br"], [[0, 0, 0], [0.3, 0.4, 0.2]]
    )
    assert symmetrise(lone, 0.01)[1] == 1
    assert symmetrise(Structure(Lattice.cubic(4), [], []), 0.1)[1] == 0


def test_decoded_crystals_are_moved_with_their_reports() -> None:
    bent = Crystals.from_structures([shaken(SALT), shaken(SALT, 0.5)], ["near", "far"])
    reports = [
        {
            "id": name,
            "n_atoms": 8,
            "atoms": [
                dict(zip("xyz", p, strict=True)) for p in bent.positions[bent.atoms(i)].tolist()
            ],
        }
        for i, name in enumerate(bent.ids)
    ]
    made = symmetrised(Reconstruction(bent.in_standard_setting(), reports), 0.15)
    assert space_groups(made.crystals, 1e-3).tolist()[0] == 225
    near, far = made.reports
    assert near["symmetry"]["space_group"] == 225 and 0 < near["symmetry"]["moved"] < 0.15
    assert near["lengths"] == pytest.approx([near["lengths"][0]] * 3)
    first = made.crystals.positions[0].tolist()
    assert [near["atoms"][0][k] for k in "xyz"] == first
    assert far["symmetry"]["moved"] < 0.15  # whatever it finds, no atom jumps
    for bad in (0.0, -0.1, 2.0, float("nan")):
        with pytest.raises(ConfigError, match="tolerance"):
            symmetrised(made, bad)


def test_reconstruct_takes_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "salt.cif"
    SALT.to(filename=str(file))
    command = ["reconstruct", "starter", str(file), "--out", str(tmp_path / "out")]
    assert main([*command, "--symmetrise", "3"]) == 2
    assert "tolerance" in capsys.readouterr().err
    assert main([*command, "--symmetrise", "0.2", "--decode", "mode=fast"]) == 0


def test_forces_grow_with_strain_and_relaxing_takes_it_back() -> None:
    both = Crystals.from_structures([SALT, shaken(SALT, 0.2)], ["calm", "bent"])
    calm, bent = energies(both).to_dict("records")
    assert calm["force"] < 0.01 < bent["force"] and calm["energy"] < bent["energy"]
    assert calm["bonding"] - bent["bonding"] == pytest.approx(
        calm["energy"] - bent["energy"], abs=1e-5
    )
    one = energies(both.select([1]), forces=False)  # alone as with others
    assert one["energy"][0] == pytest.approx(bent["energy"], abs=1e-5)
    made = relaxation(shaken(SALT.get_primitive_structure(), 0.2), steps=60)
    assert made["relaxed"] and made["energy_drop"] > 0.001 and 0.02 < made["moved"] < 0.5
    salt = Crystals.from_structures([SALT], ["salt"])
    crushed = replace(salt, positions=0.1 * salt.positions)
    assert energies(crushed)["energy"].isna().all()


def test_energies_above_a_hull_of_known_crystals() -> None:
    def one(*elements: str) -> Structure:
        sites = [[i / len(elements)] * 3 for i in range(len(elements))]
        return Structure(Lattice.cubic(4), elements, sites)

    train = [one("Na"), one("Cl"), one("Na", "Cl"), one("K")]
    found = above_training(
        [one("Na", "Cl"), one("Na", "Na", "Cl"), one("K", "Cl"), one("K", "Br")],
        [-2.5, -1.0, -0.2, -9.0],
        train,
        [-1.0, -1.0, -3.0, -1.0],
    )
    # Na2Cl between Na (-1) and NaCl (-3), which has 2 of 3 atoms
    expected = [0.5, -1.0 - (-1.0 / 3 - 3.0 * 2 / 3), 0.8, np.nan]
    assert np.allclose(found, expected, equal_nan=True)
