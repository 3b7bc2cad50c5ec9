"""The field's reconstruction benchmark on sets whose scores are known by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from nesf.crystals import Crystals, concatenate
from nesf.data import load
from nesf_design.benchmark import TOLERANCES, benchmark, crystal_scores, published, summarised
from nesf_io.errors import DataError
from nesf_studies.benchmark import (
    Parameters,
    benchmark_chart,
    beside_published,
    record_benchmark,
)
from nesf_studies.page import recorded_run

EDGE = 4.0


def crystal(name: str, fractional: list[list[float]], numbers: list[int]) -> Crystals:
    places = np.array(fractional, float).reshape(-1, 3) * EDGE
    return Crystals.from_arrays([name], [places], [np.array(numbers)], EDGE * np.eye(3)[None])


CUBE = [[0.0, 0, 0], [0.5, 0.5, 0.5]]
TRUTH = concatenate(
    [
        crystal("same", CUBE, [55, 17]),
        crystal("moved", CUBE, [55, 17]),
        crystal("other element", CUBE, [55, 17]),
        crystal("one atom less", CUBE, [55, 17]),
        crystal("not neutral", [*CUBE, [0.5, 0.5, 0]], [11, 17, 17]),
    ]
)
MOVED = [[0.0, 0, 0], [0.5, 0.5, 0.5 + 0.05]]
DECODED = concatenate(
    [
        crystal("one atom less", [[0, 0, 0]], [55]),
        crystal("same", CUBE, [55, 17]),
        crystal("moved", MOVED, [55, 17]),
        crystal("other element", CUBE, [55, 35]),
        crystal("not neutral", [*CUBE, [0.5, 0.5, 0]], [11, 17, 17]),
    ]
)


def test_each_crystal_is_scored_by_hand() -> None:
    table = crystal_scores(TRUTH, DECODED).set_index("id")
    assert table.loc["same", "rmse_field"] == pytest.approx(0, abs=1e-6)
    # 0.2 Å between two atoms: each is 0.1 Å from its place once the mean shift is taken out
    length = (EDGE**3 / 2) ** (1 / 3)
    assert table.loc["moved", "rmse_field"] == pytest.approx(0.1 / length, rel=1e-3)
    assert table["rmse_field"].isna().to_dict() == {
        "same": False,
        "moved": False,
        "other element": True,
        "one atom less": True,
        "not neutral": False,
    }
    assert table["compositionally_valid"].tolist() == [True, True, True, True, False]
    assert table["count_exact"].tolist() == [True, True, True, False, True]
    assert table["type_exact"].tolist() == [True, True, False, False, True]


def test_the_rules_and_the_ceiling_count_what_they_say() -> None:
    table = benchmark(TRUTH, DECODED).set_index(["crystals", "tolerances", "rule"])
    percent = table["match_percent"]
    assert percent["decoded", "field", "any"] == pytest.approx(60)
    # a match that is not neutral is a miss by CDVAE's rule, and so it is for the truth
    assert percent["decoded", "field", "valid"] == pytest.approx(40)
    assert percent["ceiling", "field", "any"] == 100
    assert percent["ceiling", "field", "valid"] == pytest.approx(80)
    assert table.loc[("ceiling", "field", "any"), "rmse"] == pytest.approx(0, abs=1e-6)
    decoded = table.loc["decoded"]
    assert (decoded["type_exact_percent"] == 60).all() and (decoded["n_crystals"] == 5).all()


def test_pymatgens_own_tolerances_are_stricter() -> None:
    far = crystal("far", [[0, 0, 0], [0.5, 0.5, 0.5 + 0.6 / EDGE]], [55, 17])
    truth = dataclasses.replace(crystal("far", CUBE, [55, 17]))
    stretched = dataclasses.replace(far, lattice=far.lattice * np.array([1, 1, 1.4])[:, None])
    stretched = dataclasses.replace(stretched, positions=far.positions * np.array([1, 1, 1.4]))
    table = crystal_scores(truth, stretched)
    assert table["rmse_field"].notna()[0] and table["rmse_pymatgen"].isna()[0]
    assert all(TOLERANCES["field"][k] > v for k, v in TOLERANCES["pymatgen"].items())


def test_nothing_matched_has_no_rmse() -> None:
    table = summarised(crystal_scores(TRUTH.select([3]), DECODED.select([0])))
    assert (table["match_percent"] == 0).all() and table["rmse"].isna().all()


def test_published_figures_have_a_source_each() -> None:
    table = published()
    assert set(table["dataset"]) == {"perov5", "mp20"} and table["source"].notna().all()
    assert table["match_percent"].between(0, 100).all() and (table["rmse"] > 0).all()


def test_a_recorded_run_is_scored_beside_the_published_results(tmp_path: Path) -> None:
    dataset, run = load("starter"), recorded_run("starter", method="copy", preset="default")
    made = record_benchmark(run, dataset, Parameters(("val",)), out=tmp_path / "b", progress=False)
    table = made.table("benchmark")
    recorded = json.loads((run / "metrics.json").read_text())["val"]
    by_field = table.query("crystals == 'decoded' and tolerances == 'field' and rule == 'any'")
    assert by_field["match_percent"].item() == pytest.approx(recorded["match_rate_percent"])
    ceiling = table.query("crystals == 'ceiling' and rule == 'any'")
    assert (ceiling["match_percent"] == 100).all() and (ceiling["rmse"] < 1e-6).all()
    with pytest.raises(DataError, match=r"reconstruction/test/crystals.safetensors: no such file"):
        record_benchmark(
            recorded_run("starter"), dataset, Parameters(("test",)), out=tmp_path / "c"
        )
    assert not (tmp_path / "c").exists()


def test_ours_stand_beside_the_published_ones_with_their_ceiling() -> None:
    scores = benchmark(TRUTH, DECODED).assign(
        dataset="perov5-third",
        model="nesf, plus",
        seed=0,
        minutes=8.0,
        split="test",
        folder=recorded_run("perov5-third", preset="plus") / "analysis/benchmark",
    )
    table = beside_published(scores, "perov5-third").set_index("model")
    assert table.index.tolist() == ["FTCP", "Cond-DFC-VAE", "CDVAE", "nesf, plus (ours)"]
    ours = table.loc["nesf, plus (ours)"]
    assert ours[
        ["match_percent", "match_percent_valid", "ceiling_valid"]
    ].tolist() == pytest.approx([60, 40, 80])
    assert table.loc["CDVAE", "match_percent"] == 97.52
    figure = benchmark_chart({"Perov-5": table.reset_index()})
    left, right = figure.axes
    dots = [line for line in left.lines if line.get_marker() == "o"]
    assert len(dots) == 4 and sum(d.get_markerfacecolor() == "white" for d in dots) == 3
    assert sorted(float(line.get_xdata()[0]) for line in dots) == [51.65, 60.0, 97.52, 99.34]
    assert right.get_xscale() == "log"
