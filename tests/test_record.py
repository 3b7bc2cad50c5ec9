"""Recorded runs as data frames, and analyses as they are recorded and read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nesf.records import RecordedRun, read_csv
from nesf_io.errors import ConfigError, DataError
from nesf_studies import ANALYSES
from nesf_studies.page import digits, number_text, unbroken
from nesf_studies.record import RUN_COLUMNS, analysis, metric_rows, recorded_analysis, run_rows


def run(
    dataset: str,
    method: str,
    metrics: dict[str, dict[str, Any]],
    *,
    preset: str = "cpu",
    fold: int | None = None,
    **about: Any,
) -> RecordedRun:
    common = {
        "dataset": {"name": dataset, "fold": fold},
        "method": method,
        "preset": preset,
        "seed": 0,
        "config": {},
        "wall_time_seconds": 1.5,
    }
    return RecordedRun(Path("r"), common | about, metrics)


RUNS = [
    run(
        "lcs6",
        "nesf",
        {"val": {"a": 1.0, "b": None}, "test": {"a": 3}},
        wall_time_seconds={"train": 120.0},
        config={"training": {"epochs": 7}},
    ),
    run("icsg3d-recovered", "icsg3d", {"test": {"a": 5.0, "ids": ["x"]}}, preset="repaired"),
    run("ybco", "copy", {}, fold=3),
]


def test_every_run_is_a_row() -> None:
    rows = run_rows(RUNS)
    assert (
        rows["run"].tolist() == [0, 1, 2]
        and rows["fold"].tolist()[2] == 3
        and np.isnan(rows["fold"][0])
    )
    assert rows["paper_dataset"].tolist() == ["lcs6", "icsg3d", "ybco"]
    assert rows["shown_method"].tolist() == ["nesf", "icsg3d-repaired", "copy"]
    assert rows.loc[0, ["minutes", "epochs"]].tolist() == [2.0, 7.0] and rows.loc[
        1:, ["minutes", "epochs"]
    ].isna().all(axis=None)


def test_every_metric_of_every_split_is_a_row() -> None:
    rows = metric_rows(RUNS)
    cells = [
        ("lcs6", "val", "a", 1.0),
        ("lcs6", "val", "b", None),
        ("lcs6", "test", "a", 3.0),
        ("icsg3d-recovered", "test", "a", 5.0),
    ]
    expected = pd.DataFrame(cells, columns=["dataset", "split", "metric", "value"])
    pd.testing.assert_frame_equal(rows[["dataset", "split", "metric", "value"]], expected)
    nothing = metric_rows([])
    assert nothing.empty and nothing.columns.tolist() == [*RUN_COLUMNS, "split", "metric", "value"]


def test_numbers_are_written_with_the_digits_of_the_paper() -> None:
    assert [
        number_text(metric, 2.0)
        for metric in ("n_nothing_detected", "position_error_actual_angstrom", "match_rate_percent")
    ] == [
        "2",
        "2.0000",
        "2.00",
    ]
    assert (
        number_text("match_rmse", None) == number_text("match_rmse", float("nan")) == "–"
        and digits("match_rmse") == 4
    )
    assert unbroken("1 ± 2") == "1\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}2"


@pytest.mark.parametrize("name", [name for name in ANALYSES if name != "examples"])
def test_every_analysis_is_a_module_of_one_form(name: str) -> None:
    module = analysis(name)
    assert callable(module.analyse) and module.Parameters() == module.Parameters()


def test_what_does_not_exist_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'guess'.*examples"):
        analysis("guess")
    with pytest.raises(DataError, match="nesf analyse decoding"):
        recorded_analysis("decoding", tmp_path)


def test_names_of_the_analyses_load_nothing() -> None:
    code = "import sys, nesf_studies, nesf_studies.page; sys.exit(bool({'torch', 'pandas', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_a_table_whose_rows_are_longer_than_its_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,a\nx,1,2\ny,3,4\n")  # pandas would take x for an index
    with pytest.raises(DataError, match=r"t\.csv: cannot be read as a table"):
        read_csv(tmp_path / "t.csv")
