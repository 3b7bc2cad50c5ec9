"""Errors with and without consistent decoding, the reliability of its certificate, and its cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nesf.records import RecordedRun, all_runs
from nesf_studies.certificates import (
    ERRORS,
    beats_the_paper,
    certified_materials,
    cost_chart,
    cost_points,
    errors_table,
    not_certified,
    reliability,
    reliability_chart,
)
from nesf_studies.page import LABELS, RESULTS

ATOMS = "number_of_atoms_error_percent"


def run(
    folder: Path, preset: str, values: dict[str, Any], *, minutes: float = 10.0, epochs: int = 80
) -> RecordedRun:
    summary = dict.fromkeys(ERRORS, 0.0) | {"match_rate_percent": 90.0, "n_materials": 4} | values
    about = {
        "dataset": {"name": "lcs6", "fold": None},
        "method": "nesf",
        "preset": preset,
        "seed": 0,
        "config": {"training": {"epochs": epochs}},
        "wall_time_seconds": {"train": 60 * minutes, "reconstruct": 2.0, "evaluate": 1.0},
    }
    return RecordedRun(folder, about, {"test": summary})


@pytest.fixture
def materials() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": ["a", "b", "c", "d", "a", "b"],
            "formula": ["NaCl", "CsCl", "MgO", "CaO", "NaCl", "CsCl"],
            "n_atoms_actual": [8, 2, 8, 8, 8, 2],
            "n_atoms_detected": [8, 2, 7, 8, 8, 3],
            "certified": [True, True, False, True, True, False],
            "latent_distance": [0.0, 3e-12, 2e-3, 5e-9, 4e-12, 7e-3],
            "right": [True, True, False, False, True, False],
        }
    )


def test_the_rows_are_paper_and_recipes_with_mean_spread_and_time(tmp_path: Path) -> None:
    certified = {"certified_percent": 97.0, "certified_wrong_percent": None}
    runs = [
        run(tmp_path, "cpu", {ATOMS: 6.0}),
        run(tmp_path, "plus", {ATOMS: 1.0} | certified),
        run(tmp_path, "plus", {ATOMS: 3.0} | certified | {"certified_percent": 99.0}),
        run(tmp_path, "trial-plus-base", {ATOMS: 50.0}),
    ]
    table = errors_table(runs, "lcs6")
    assert list(table.index) == ["paper", "faithful, five steps", "nesf+, consistent"]
    assert table.loc["nesf+, consistent", LABELS[ATOMS]].split() == ["2.00", "±", "1.41"]
    assert table.loc["nesf+, consistent", "certified, %"].split() == ["98.00", "±", "1.41"]
    assert table.loc["nesf+, consistent", "of these wrong, %"] == "–"
    assert table.loc["faithful, five steps", "certified, %"] == "–"
    assert table.loc["faithful, five steps", "seconds"] == "0.50"  # 2 s, 4 crystals
    assert table.loc["paper", LABELS[ATOMS]].startswith("6.35")
    assert errors_table([], "own").empty


def test_reliability_counts_right_crystals_in_each_decade(materials: pd.DataFrame) -> None:
    table = reliability(materials).set_index("decade")
    assert table["n"].to_dict() == {-13: 1, -12: 2, -9: 1, -3: 2}
    assert table["right"].to_dict() == {-13: 1, -12: 2, -9: 0, -3: 0}
    assert ((table["low"] <= table["share"]) & (table["share"] <= table["high"])).all()
    assert table.loc[-12, "low"] < table.loc[-12, "share"] == 1
    # Wilson's interval of 8 of 10, 95 %
    ten = pd.DataFrame({"latent_distance": [1e-5] * 10, "right": [True] * 8 + [False] * 2})
    row = reliability(ten).iloc[0]
    assert (row["low"], row["high"]) == pytest.approx((0.490, 0.943), abs=1e-3)
    figure = reliability_chart({"validation": reliability(materials)}, 1e-8)
    drawn = figure.axes[0].collections[-1].get_offsets()
    np.testing.assert_allclose(drawn[:, 1], [100, 100, 0, 0])
    assert figure.axes[0].lines[-1].get_xdata()[0] == 1e-8


def test_materials_of_consistent_runs_only(tmp_path: Path, materials: pd.DataFrame) -> None:
    columns = {"species_error_actual_percent": 0.0, "position_error_actual_angstrom": 0.001}
    one = materials.drop(columns="right").assign(split="test", **columns)
    one.loc[1, "position_error_actual_angstrom"] = 0.02
    one.to_csv(tmp_path / "materials.csv", index=False)
    found = certified_materials([run(tmp_path, "plus", {})], "lcs6", "plus", "test")
    assert found["right"].tolist() == [True, False, False, True, True, False]
    assert certified_materials([run(tmp_path, "cpu", {})], "lcs6", "plus", "test").empty
    one.drop(columns="certified").to_csv(tmp_path / "materials.csv", index=False)
    assert certified_materials([run(tmp_path, "plus", {})], "lcs6", "plus", "test").empty


def test_crystals_that_are_not_certified(materials: pd.DataFrame) -> None:
    table = not_certified(pd.concat([materials, materials.tail(1)]))
    assert table.index.tolist() == ["b", "c"]
    assert table.loc["b", ["n_atoms", "five steps", "runs"]].tolist() == [2, "3, 3", 2]
    assert table.loc["c", "smallest distance"] == "2.0e-03"


def test_the_shortest_training_that_beats_the_paper_in_every_column(tmp_path: Path) -> None:
    runs = [
        run(tmp_path, "long", {ATOMS: 1.0}, minutes=60, epochs=800),
        run(tmp_path, "short", {ATOMS: 9.0}, minutes=3),
        run(tmp_path, "middle", {ATOMS: 6.35}, minutes=6),
        run(tmp_path, "middle", {ATOMS: 6.353}, minutes=8),  # equal to the digits of the paper
    ]
    points = cost_points(runs, "lcs6", ["long", "short", "middle", "absent"], "test")
    assert points["label"].tolist() == ["short", "middle", "long"]
    assert points["minutes"].tolist() == [3, 7, 60] and points["n"].tolist() == [1, 2, 1]
    assert beats_the_paper(points, "lcs6").tolist() == [False, True, True]
    bad_angle = points.assign(lattice_angle_error_degree=5.0)
    assert not beats_the_paper(bad_angle, "lcs6").any()
    axes = cost_chart({"nesf+": points}, "lcs6").axes
    assert axes[0].lines[0].get_ydata().tolist() == points[ATOMS].tolist()
    assert axes[0].lines[1].get_ydata()[0] == pytest.approx(6.35)  # the paper's


def test_one_faithful_model_of_icsg3d_leaves_out_atoms_and_nesf_plus_none() -> None:
    """As the page *Every crystal back* says."""
    runs = all_runs(RESULTS / "icsg3d-recovered/nesf")

    def certified_without_an_atom(preset: str) -> list[int]:
        tables = [run.materials() for run in runs if run.run["preset"] == preset]
        wrong = "certified == True and n_atoms_detected < n_atoms_actual"
        return sorted(len(table.query(wrong)) for table in tables)

    *others, most = certified_without_an_atom("cpu-consistent")
    assert len(others) == 2 and most > 10 * max(others)
    assert certified_without_an_atom("plus") == [0]


@pytest.mark.parametrize("dataset", ["lcs6", "ybco", "icsg3d-recovered"])
def test_no_certified_test_crystal_of_nesf_plus_is_wrong(dataset: str) -> None:
    """As the pages *Every crystal back* and *Trust* say."""
    found = certified_materials(all_runs(RESULTS / dataset / "nesf"), dataset, "plus", "test")
    certified = found[found["certified"]]
    assert len(certified) > 0.9 * len(found) > 0 and certified["right"].all()
