"""Figure 4: errors by the number of atoms, from recorded materials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nesf import records as results
from nesf.records import RecordedRun
from nesf_studies.errors_by_atoms import (
    by_number_of_atoms,
    claims,
    errors_by_atoms,
    left_out,
    materials_of,
    verdicts,
)


def materials(rows: list[tuple[str, int, int, float, float]]) -> pd.DataFrame:
    table = pd.DataFrame(
        rows,
        columns=[
            "id",
            "n_atoms_actual",
            "n_atoms_detected",
            "position_error_actual_angstrom",
            "species_error_actual_percent",
        ],
    )
    return table.assign(
        n_atoms_difference=table["n_atoms_detected"] - table["n_atoms_actual"], run="seed-0"
    )


def test_median_and_range_of_a_known_distribution() -> None:
    values = np.linspace(0, 1, 101)
    table = by_number_of_atoms(
        materials([(f"m{i}", 4, 4 + (i > 90), v, 100 * v) for i, v in enumerate(values)])
    )
    position = table[table["error"] == "position_error_actual_angstrom"].iloc[0]
    assert position[["low", "median", "high"]].tolist() == pytest.approx([0.16, 0.5, 0.84])
    assert table[table["error"] == "n_atoms_difference"].iloc[0][
        ["low", "median", "high"]
    ].tolist() == [0, 0, 0]  # 10 % are one too many
    assert (
        (table["n_materials"] == 101).all()
        and table["shown"].all()
        and left_out(table) == "none left out"
    )


def test_small_classes_are_left_out_and_said() -> None:
    rows = (
        [(f"a{i}", 2, 2, 0.1, 0.0) for i in range(10)]
        + [(f"b{i}", 7, 6, 0.5, 50.0) for i in range(9)]
        + [("c", 9, 0, np.nan, 100.0)]
    )
    # two seeds make no more materials
    both = pd.concat([materials(rows), materials(rows).assign(run="seed-1")])
    table = by_number_of_atoms(both)
    assert table[table["shown"]]["n_atoms"].unique().tolist() == [2]
    assert left_out(table) == "left out: 10 of 20 materials (with 7, 9 atoms)"
    nothing = table[
        (table["error"] == "position_error_actual_angstrom") & (table["n_atoms"] == 9)
    ].iloc[0]
    assert nothing["n_samples"] == 0 and np.isnan(nothing["median"])
    assert by_number_of_atoms(both, fewest=9)["shown"].sum() == 6
    assert table[table["n_atoms"] == 2]["n_samples"].tolist() == [20, 20, 20]


def test_claims_are_counted() -> None:
    good = [(f"a{i}", 2, 2, 0.01, 0.0 if i < 8 else 50.0) for i in range(10)]
    large = [(f"b{i}", 8, (8, 8, 7, 7, 9)[i % 5], 0.2, 30.0) for i in range(10)]
    found = claims(materials(good + large))
    assert (
        found["right"] == 70
        and found["too few"] == 20
        and found["too many"] == 10
        and found["least right"] == 40
    )
    assert (
        found["both species right"] == 80
        and found["position trend"] == pytest.approx(1)
        and found["species trend"] > 0.5
    )
    table = verdicts(materials(good + large))["verdict"]
    assert table.tolist() == ["differs", "agrees", "agrees", "agrees", "agrees"]
    # one size: no trend, no diatomic crystals
    same = verdicts(materials(large))["verdict"].tolist()
    assert same == ["differs", "agrees", "–", "–", "–"]


def recorded(folder: Path, rows: list[str], **about: Any) -> RecordedRun:
    folder.mkdir(parents=True)
    (folder / "materials.csv").write_text(
        "\n".join([",".join(results.MATERIAL_COLUMNS), *rows]) + "\n"
    )
    return RecordedRun(
        folder,
        {"dataset": {"name": "lcs6", "fold": None}, "method": "nesf", "preset": "cpu", **about},
        {"test": {}},
    )


def test_seeds_are_put_together_and_trials_are_not(tmp_path: Path) -> None:
    rows = ["test,a,Na,2,3,0.1,0.1,0,0,0,0,True,0", "val,b,Na,2,2,0.1,0.1,0,0,0,0,True,0"]
    runs = [recorded(tmp_path / f"seed-{i}", rows) for i in range(2)]
    runs += [
        recorded(tmp_path / "trial", rows, preset="trial-x"),
        recorded(tmp_path / "plus", rows, preset="plus"),
        recorded(tmp_path / "copy", rows, method="copy"),
    ]
    runs += [
        recorded(tmp_path / name, rows[:1], method="icsg3d", preset=name)
        for name in ("as-published", "repaired", "repaired-reduced")
    ]
    # each preset of the baseline is a method of its own
    assert materials_of(runs, "lcs6", "icsg3d-repaired")["run"].tolist() == ["repaired"]
    found = materials_of(runs, "lcs6", "nesf")
    assert found["run"].tolist() == ["seed-0", "seed-1"] and found[
        "n_atoms_difference"
    ].tolist() == [1, 1]
    assert len(materials_of(runs, "lcs6", "nesf", splits=("val", "test"))) == 4
    assert len(materials_of(runs, "lcs6", "nesf", preset="trial-x")) == 1
    assert materials_of(runs, "ybco", "nesf").empty


def test_figure_draws_medians_and_ranges() -> None:
    rows = [
        (f"{n}-{i}", n, n - (n == 12), 0.01 * n + 0.001 * i, 5.0 * n)
        for n in (2, 5, 12)
        for i in range(10)
    ]
    table = by_number_of_atoms(materials(rows))
    figure = errors_by_atoms(
        {
            "LCS6Å": {"nesf": table, "copy": table},
            "YBCO-like": {"nesf": table[table["n_atoms"] == 5]},
        }
    )
    left, right = figure.axes[:2]
    assert (left.get_title(), right.get_title()) == (
        "LCS6Å",
        "YBCO-like",
    ) and left.get_ylabel() == "detected − actual, atoms"
    assert [t.get_text() for t in right.get_xticklabels()] == ["5"] and list(
        right.lines[0].get_ydata()
    ) == [0]
    assert [t.get_text() for t in left.get_xticklabels()] == ["2", "5", "12"]
    assert [line.get_ydata().tolist() for line in left.lines if line.get_marker() == "o"] == [
        [0, 0, -1]
    ]
    medians = next(line for line in figure.axes[2].lines if line.get_marker() == "o").get_ydata()
    assert medians == pytest.approx([0.0245, 0.0545, 0.1245])
    # after the band: a line for each class
    ranges = [path.vertices[:, 1].tolist() for path in figure.axes[2].collections[1].get_paths()]
    shown = table[table["error"] == "position_error_actual_angstrom"]
    assert np.allclose(ranges, shown[["low", "high"]].to_numpy())
