"""Crystals for a target."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from nesf import data
from nesf.crystals import Crystals
from nesf_cli.main import main
from nesf_design.design import Goal, Predictor, best, known_values, looked_up
from nesf_io.errors import ConfigError, DataError
from nesf_studies.design import counted
from nesf_studies.path_energies import Parameters as PathParameters
from nesf_studies.path_energies import analyse as analyse_paths
from nesf_studies.path_energies import barriers, energies_along


def test_goals_are_read_and_order_values() -> None:
    values = np.array([1.0, 3.0, 2.0])
    for text, order in (("gap=min", [0, 2, 1]), ("gap=max", [1, 2, 0]), ("gap=1.9", [2, 0, 1])):
        goal = Goal.of(text)
        assert goal.name == "gap" and np.argsort(goal.badness(values)).tolist() == order
    assert Goal.of("gap=-0.5").aim == -0.5 and Goal.of("gap=min").aim == -math.inf
    for bad in ("gap", "=min", "gap=", "gap=low", "gap=nan", "gap=inf"):
        with pytest.raises(ConfigError, match="PROPERTY=min"):
            Goal.of(bad)


def test_a_regression_finds_the_known_optimum_and_knows_where_it_is_blind() -> None:
    random = np.random.default_rng(0)
    z = random.standard_normal((300, 5))
    values = (z[:, 0] - 1) ** 2 + 0.01 * random.standard_normal(300)
    values[::3] = np.nan
    predictor = Predictor.fitted(z, values)
    new = random.standard_normal((500, 5))
    first = best(new, predictor, Goal.of("y=min"))[:10]
    assert np.abs(new[first, 0] - 1).max() < 0.4
    assert predictor(new)[1].mean() < predictor(50 + new)[1].mean()
    with pytest.raises(DataError, match="10 training crystals have a known value"):
        Predictor.fitted(z, np.where(np.arange(300) < 10, 1.0 * np.arange(300), np.nan))
    with pytest.raises(DataError, match="1 different"):
        Predictor.fitted(z, np.ones(300))


def test_values_are_looked_up_by_structure_and_composition() -> None:
    def salt(a: float, *elements: str) -> Structure:
        return Structure.from_spacegroup(
            "Fm-3m", Lattice.cubic(a), elements, [[0, 0, 0], [0.5, 0.5, 0.5]]
        )

    known = Crystals.from_structures([salt(5.64, "Na", "Cl"), salt(4.2, "Mg", "O")], ["a", "b"])
    caesium = Structure(Lattice.cubic(3.5), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    made = Crystals.from_structures(
        [salt(5.7, "Na", "Cl"), caesium, salt(6, "K", "Cl")], ["x", "y", "z"]
    )
    assert np.allclose(
        looked_up(made, known, np.array([7.0, 8.0])), [7, np.nan, np.nan], equal_nan=True
    )


def test_successes_are_counted_among_known_and_new_crystals() -> None:
    table = pd.DataFrame(
        {
            "unique": [True, True, True, True, False],
            "value": [1.0, 9.0, 2.0, np.nan, 1.0],
            "success": [True, False, True, False, True],
            "in_training": [True, False, False, False, True],
        }
    )
    expected = {"n": 5, "unique": 4, "known": 3, "success": 2, "new": 2, "new_success": 1}
    assert counted(table) == expected | {"unknown": 1}


def test_properties_come_from_the_dataset_or_a_table() -> None:
    starter, goal = data.load("starter"), Goal.of("gap=min")
    with pytest.raises(DataError, match="'gap' is not a property"):
        known_values(starter, goal)
    ids = starter.split("train").ids
    table = pd.DataFrame({"id": ids[:3], "gap": ["1.5", "", "2"]})
    assert np.allclose(known_values(starter, goal, table)[:3], [1.5, np.nan, 2], equal_nan=True)
    for bad, words in (
        (table.rename(columns={"gap": "hue"}), "'gap' are expected"),
        (table.assign(id=["p", "q", "r"]), "for any training crystal"),
    ):
        with pytest.raises(DataError, match=words):
            known_values(starter, goal, bad)


def test_design_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = data.load("starter").split("train")
    volumes = np.abs(np.linalg.det(train.lattice)) / train.n_atoms
    table, out = tmp_path / "properties.csv", tmp_path / "out"
    pd.DataFrame({"id": train.ids, "volume": volumes}).to_csv(table, index=False)
    command = ["design", "starter", "--table", str(table), "--out", str(out), "--target"]
    assert main([*command, "colour=min"]) == 2
    said = capsys.readouterr().err
    assert "'colour' are expected" in said and "properties.csv" in said
    assert main([*command, "volume=small"]) == 2
    assert "PROPERTY=min" in capsys.readouterr().err
    few = ["-n", "3", "--pool", "60", "--density", "mixture"]
    assert main([*command, "volume=max", *few]) == 0
    made = pd.read_csv(out / "predicted.csv")
    # of sixty draws the three largest
    assert len(made) == 3 and made["predicted"].min() > np.median(volumes)


def test_a_barrier_is_what_a_path_climbs_above_the_line_between_its_ends() -> None:
    frames = pd.DataFrame(
        {
            "path": "A → B",
            "method": "nesf",
            "t": [0, 0.25, 0.5, 0.75, 1],
            "cell": ["A2", "A2", "AB", "AB", "B2"],
            "bonding": [-2.0, np.nan, -0.5, -0.75, -1.0],
            "force": 0.1,
        }
    )
    (row,) = barriers(frames).to_dict("records")
    assert row["barrier"] == pytest.approx(1.0) and row["at"] == 0.5
    assert row["switches"] == 2 and row["judged_percent"] == 80
    assert row["jump"] == pytest.approx(0.25) and row["jump_at_switch"]
    assert len(energies_along(frames).axes) == 3
    with pytest.raises(DataError, match="nesf analyse interpolation"):
        analyse_paths(None, None, PathParameters("nowhere"))  # type: ignore[arg-type]
