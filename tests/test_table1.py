"""The tables and the figure that set recorded runs beside the paper's numbers."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from nesf import records as results
from nesf.methods import run_folder
from nesf.metrics import HEADLINE
from nesf.records import RecordedRun
from nesf_studies import page, paper, tables
from nesf_studies.record import PAPERS_NAME
from nesf_studies.scores import comparison
from nesf_studies.style import save

ATOMS, POSITION, LENGTH = (
    "number_of_atoms_error_percent",
    "position_error_actual_angstrom",
    "lattice_length_error_angstrom",
)


def run(
    seed: int,
    values: dict[str, float],
    *,
    dataset: str = "lcs6",
    preset: str = "cpu",
    method: str = "nesf",
    **config: Any,
) -> RecordedRun:
    summary: dict[str, Any] = (
        dict.fromkeys(HEADLINE, 1.0) | {"n_materials": 301, "n_nothing_detected": 0} | values
    )
    about = {
        "dataset": {"name": dataset, "fold": None},
        "method": method,
        "preset": preset,
        "seed": seed,
        "device": "cpu",
        "device_name": "<cpu>",
    }
    config = {"model": {}, "sampling": {}, "training": {"epochs": 3, **config}}
    about |= {
        "peak_memory_bytes": int(1e9) * (seed + 1),
        "config": config,
        "threads": 1,
        "wall_time_seconds": {"train": 60.0 * (seed + 1), "evaluate": 30.0},
        "command": "nesf run lcs6",
        "commit": "a" * 40,
    }
    folder = run_folder(Path("/r"), dataset, method, preset, seed=seed)
    return RecordedRun(
        folder, about | {"started": "2026-01-01T00:00:00+00:00"}, {"test": summary, "val": summary}
    )


RUNS = [
    run(0, {ATOMS: 6.0, POSITION: 0.12, LENGTH: 0.054}),
    run(1, {ATOMS: 7.0, POSITION: 0.16, LENGTH: 0.054}),
    run(0, {ATOMS: 0.1}, preset="trial-other", epochs=9),
    run(0, {ATOMS: 1.0}, dataset="icsg3d-recovered"),
]


def text_of(cell: Any) -> str:
    """What a reader sees of a cell of HTML."""
    return html.unescape(re.sub(r"<[^>]+>", "", str(cell))).replace("\xa0", " ")


def test_verdicts_count_the_spread_of_both_sides_and_print_the_interval() -> None:
    table = tables.difference_table(RUNS).loc["LCS6Å, cpu"].map(text_of)
    # 6.35 ± 0.50 of ten, 6.50 ± 0.71 of two: Student's t with about one degree of freedom
    atoms = table.loc[page.LABELS[ATOMS]].tolist()
    assert atoms[:3] == ["6.35 ± 0.50", "6.50 ± 0.71", "2"]
    assert atoms[4:] == ["≈ not told apart", "both sides"]
    low, high = re.fullmatch(r"\+0\.15 \[−(\S+), \+(\S+)\]", atoms[3]).groups()
    assert 3 < float(low) < float(high) < 7
    # two runs of 0.14 ± 0.028 cannot be told from 0.1161 ± 0.0073, though both are worse
    assert table.loc[page.LABELS[POSITION], "verdict"] == "≈ not told apart"
    many = [run(k, {POSITION: 0.13 + 0.005 * (k % 3)}) for k in range(9)]
    verdicts = tables.difference_table(many).loc["LCS6Å, cpu"].map(text_of)["verdict"]
    assert verdicts[page.LABELS[POSITION]] == "▲ worse"
    fewer = [run(k, {POSITION: 0.10 + 0.005 * (k % 3)}) for k in range(9)]
    verdicts = tables.difference_table(fewer).loc["LCS6Å, cpu"].map(text_of)["verdict"]
    assert verdicts[page.LABELS[POSITION]] == "▼ better"


def test_training_and_validation_sets_are_judged_by_tables_s1_and_s2() -> None:
    rows = tables.difference_table(RUNS, "val").loc["LCS6Å, cpu"].map(text_of)
    assert rows.loc[page.LABELS[ATOMS], "paper"] == "6.33 ± 0.63"
    assert rows["verdict"].isin(["▼ better", "≈ not told apart", "▲ worse"]).all()
    assert tables.difference_table(RUNS, "train").empty  # nothing is recorded of it
    folds = [run(k, {ATOMS: 1.0 + k % 2}, dataset="ybco") for k in range(20)]
    trained = [RecordedRun(r.folder, r.run, {"train": r.metrics["test"]}) for r in folds]
    row = tables.difference_table(trained, "train").loc[("YBCO-like, cpu", page.LABELS[ATOMS])]
    assert row.map(text_of)[["paper", "verdict", "spread counted"]].tolist() == [
        "0.00",
        "▲ worse",
        "ours only: the paper gives none",
    ]
    assert 'title="the paper, Table S1"' in row["paper"]


def test_a_smaller_mean_within_the_noise_is_not_better() -> None:
    # 9 ± 10.2 over twenty folds against 12: 1.3 standard errors
    folds = [run(k, {ATOMS: 0.0 if k % 20 < 11 else 20.0}, dataset="ybco") for k in range(20)]
    row = tables.difference_table(folds).loc[("YBCO-like, cpu", page.LABELS[ATOMS])].map(text_of)
    assert row["paper"] == "12.00" and row["ours"].startswith("9.00 ± 10.2")
    assert row["verdict"] == "≈ not told apart"
    assert row["spread counted"] == "ours only: the paper gives none"


def test_a_single_run_is_taken_to_spread_as_the_papers() -> None:
    one = [run(0, {ATOMS: 1.4, LENGTH: 0.9}, dataset="icsg3d-recovered")]
    rows = tables.difference_table(one).loc["ICSG3D (recovered part), cpu"].map(text_of)
    assert rows.loc[page.LABELS[ATOMS], "verdict"] == "▲ worse"  # 0.53 ± 0.25
    assert rows.loc[page.LABELS[LENGTH], "verdict"] == "≈ not told apart"  # 0.27 ± 0.74
    assert rows["spread counted"].str.contains("one run").all()
    # beside ICSG3D, 0.08 ± 0.04, the spread of our run is still that of the paper's NeSF
    rows = (
        tables.difference_table(one, against="icsg3d")
        .loc["ICSG3D (recovered part), cpu"]
        .map(text_of)
    )
    assert rows.loc[page.LABELS[LENGTH], "verdict"] == "≈ not told apart"


def test_the_paper_loses_to_its_baseline_in_the_lattice_only() -> None:
    rows = tables.paper_against_itself("test").set_index(["dataset", "metric"])
    lost = rows[rows["difference"] > 0]
    assert sorted(lost.index) == sorted(
        (name, metric)
        for name in ("icsg3d", "ybco")
        for metric in (LENGTH, "lattice_angle_error_degree")
    )
    assert (lost.loc["icsg3d", "verdict"] == "not told apart").all()
    assert (lost.loc["ybco", "verdict"] == "worse").all() and lost.loc["ybco", "low"].isna().all()
    assert len(rows) == 21
    for split in ("train", "val"):  # as the page on differences says
        other = tables.paper_against_itself(split)
        assert other[other["difference"] > 0]["metric"].str.startswith("lattice").all()
    shown = tables.paper_lattice_table().map(text_of)
    angle = ("Table 1", "YBCO-like", page.LABELS["lattice_angle_error_degree"])
    assert shown.loc[angle].tolist()[:3] == ["2.91", "0.06", "+2.85"]


def test_comparison_has_the_papers_columns_and_ours() -> None:
    lcs6 = tables.comparison_table(RUNS, "lcs6").loc[page.LABELS[ATOMS]].map(text_of)
    assert (
        lcs6["NeSF, paper"] == "6.35 ± 0.50"
        and lcs6["ICSG3D, paper"] == "17.28 ± 1.13"
        and lcs6["NeSF, ours, cpu"] == "6.50 ± 0.71"
    )
    assert text_of(tables.comparison_table(RUNS, "lcs6").loc["n", "NeSF, ours, cpu"]) == "2"
    assert not any("trial" in name for name in lcs6.index)
    assert (
        tables.comparison_table(RUNS, "icsg3d").loc[page.LABELS[ATOMS], "NeSF, ours, cpu"] == "1.00"
    )  # of icsg3d-recovered
    ybco = tables.comparison_table(RUNS, "ybco").map(text_of)
    assert ybco.loc[page.LABELS[POSITION], "ICSG3D, paper"] == "(0.6311)"


def test_what_is_not_yet_run_is_said() -> None:
    table = tables.not_yet_run(RUNS)["not yet run"]
    assert (
        table[("LCS6Å", "NeSF, ours cpu")] == "train"
        and table[("LCS6Å", "NeSF, ours paper")] == "test, val, train"
    )
    assert (
        table[("YBCO-like", "oracle")] == "test, val"
        and table[("ICSG3D", "ICSG3D repaired, ours")] == "test, val"
    )


def test_error_sources_weigh_by_atoms_and_the_worst_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "lcs6" / "nesf" / "cpu" / "seed-0"
    folder.mkdir(parents=True)
    header = ",".join(results.MATERIAL_COLUMNS)
    rows = [
        "test,a,Na,2,2,0.1,0.1,0,0,0,0,True,0",
        "test,b,Na,6,5,1.0,0.1,50,0,7.5,0,False,",
        "test,c,Na,2,0,,,100,0,0,0,False,",
        "val,d,Na,9,9,9,9,9,9,0,0,True,0",
    ]
    (folder / "materials.csv").write_text("\n".join([header, *rows]) + "\n")
    one = run(0, {})
    table = tables.error_sources([RecordedRun(folder, one.run, one.metrics)], "lcs6")
    # 2 atoms of 0.1 Å beside 6 of 1 Å
    assert table.loc["right"].tolist() == ["33.3", "20.0", "0.1000", "0.00", "3.2"]
    # nothing detected: no position error, all species wrong
    assert table.loc["too few"].tolist() == ["66.7", "80.0", "1.0000", "62.50", "96.8"]
    assert table.loc["too many"].tolist() == ["0.0", "0.0", "–", "–", "0.0"]
    worst = tables.largest_errors(
        [RecordedRun(folder, one.run, one.metrics)], "lcs6", split="test", n=2
    )
    assert worst["material"].tolist() == ["b", "a"] and worst[page.LABELS[LENGTH]].tolist() == [
        "7.50",
        "0.00",
    ]
    assert tables.largest_errors([], "lcs6").empty


def test_cost() -> None:
    oracle = run(0, {}, method="oracle", preset="default")
    oracle.run.update(config={}, wall_time_seconds={"evaluate": 30.0})
    cost = tables.cost_table([*RUNS, oracle, run(0, {}, method="copy", preset="default")])
    assert cost.index.tolist() == [
        ("lcs6", "nesf", "cpu"),
        ("icsg3d-recovered", "nesf", "cpu"),
        ("lcs6", "oracle", "default"),
    ]
    cost = cost.map(text_of)
    assert cost.loc[("lcs6", "nesf", "cpu")].tolist() == [
        "2",
        "3",
        "1.5 (1.0-2.0)",
        "0.5",
        "2.0",
        "1 thread(s) of <cpu>",
        "9 h",
    ]
    assert cost.loc[("lcs6", "oracle", "default")].tolist() == [
        "1",
        "–",
        "–",
        "0.5",
        "1.0",
        "1 thread(s) of <cpu>",
        "–",
    ]


def test_atoms_per_cell_are_the_papers_tables() -> None:
    counts = paper.paper_atoms().groupby(["dataset", "split"])["materials"].sum()
    assert counts["icsg3d"].to_dict() == {"train": 7194, "val": 342, "test": 360}
    # as printed: exchanged
    assert counts["lcs6"].to_dict() == {"train": 5418, "val": 301, "test": 286}
    assert counts["ybco"].to_dict() == {"train": 90, "val": 5, "test": 5}
    table = tables.atoms_table("lcs6")
    assert table.loc[("train", "paper")].tolist() == table.loc[("train", "ours")].tolist()
    assert table.loc[("val", "ours"), "all"] == 286


def test_the_papers_counts_are_the_releases_but_for_one_crystal() -> None:
    # the blank cells of the journal's Table 2: 8 atoms, not 6
    assert tables.atoms_differences("icsg3d-recovered").empty
    assert tables.atoms_differences("ybco").empty
    # rows of validation and test exchanged back
    rows = tables.atoms_differences("lcs6")
    assert rows.to_dict("index") == {
        ("test", 24): {"paper": 0, "release": 1},
        ("test", 28): {"paper": 1, "release": 0},
    }
    assert "28" in tables.linked_atoms("lcs6").columns.map(str)  # no column is cut


def test_figure_shows_every_value_and_writes_what_it_shows(tmp_path: Path) -> None:
    rows = paper.beside_the_paper(RUNS)
    figure = comparison(rows, {ATOMS: "atoms, %", POSITION: "position, Å"}, page.TITLES)
    assert len(figure.axes) == 6
    drawn = [line.get_xdata()[0] for line in figure.axes[2].lines if line.get_marker() == "o"]
    # LCS6Å: paper, ours, paper's ICSG3D
    assert drawn == [pytest.approx(6.35), pytest.approx(6.5), pytest.approx(17.28)]
    svg, png, table = save(figure, tmp_path / "out" / "table1", rows)
    assert svg.read_bytes()[:5] == b"<?xml" and png.read_bytes()[1:4] == b"PNG"
    assert table.read_text().count("\n") == len(rows) + 1
    save(figure, tmp_path / "again", rows)
    assert (tmp_path / "again.png").read_bytes() == png.read_bytes()


def test_comparison_of_a_dataset_that_the_paper_does_not_have() -> None:
    table = tables.comparison_table(
        [
            run(0, {ATOMS: 2.0}, dataset="starter"),
            run(0, {ATOMS: 9.0}, dataset="starter", method="copy"),
        ],
        "starter",
    )
    shown = table.loc[page.LABELS[ATOMS]].map(text_of)
    assert shown.to_dict() == {"NeSF, ours, cpu": "2.00", "copy": "9.00"}


def test_progress_counts_what_is_recorded_as_asked_for(tmp_path: Path) -> None:
    label = "trial-80-epochs"
    changes = yaml.safe_load((page.RESULTS.parent / "workflow" / "trials.yaml").read_text())[
        "more"
    ][0]["set"]
    asked = {
        "runs": [
            {"dataset": "lcs6", "seeds": 7, "label": label, "set": changes, "splits": ["val"]}
        ],
        "predictors": [{"dataset": "starter", "method": "copy"}],
        "data": "nowhere",
    }
    (tmp_path / "config.yaml").write_text(json.dumps(asked))
    table = tables.progress_table(tmp_path / "config.yaml")
    assert table.loc[("lcs6", "nesf", label)].tolist() == [7, 3, "seed-3, …, seed-6 (4)"]
    assert table.loc[("starter", "copy", "default")].tolist() == [1, 1, "–"]
    assert tables.progress_table(tmp_path / "no-clone.yaml").empty


def test_recorded_errors_stand_beside_the_paper_and_know_their_runs() -> None:
    table, methods = tables.recorded_table("lcs6"), ["ours", "copy", "constant", "oracle"]
    assert list(table) == [*methods, "paper"] and list(tables.recorded_table("nowhere")) == []
    folders = [table.attrs["sources"][method] for method in methods]
    recorded = [json.loads((f / "metrics.json").read_text())["test"] for f in folders]
    assert folders[0] == page.RESULTS / "lcs6" / "nesf" / "cpu" / "seed-0"
    shown = [f"{errors[ATOMS]:.2f}" for errors in recorded]
    assert table.loc[page.LABELS[ATOMS]].tolist() == [*shown, "6.35 ± 0.50"]
    assert table.loc[page.LABELS[POSITION], "ours"] == f"{recorded[0][POSITION]:.4f}"
    summaries = {"ours": recorded[0], "none": {ATOMS: None}}
    made = tables.metrics_table(summaries, dataset="lcs6")
    assert made.loc[page.LABELS[ATOMS], "none"] == "–"
    assert "paper" not in tables.metrics_table(summaries, dataset="starter")


def test_ours_is_compared_with_the_paper_of_the_same_dataset() -> None:
    rows = paper.compared(RUNS).set_index(["dataset", "preset", "split", "metric"])
    lcs6 = rows.loc[("lcs6", "cpu", "test", ATOMS)]
    assert (lcs6["mean"], lcs6["paper_mean"], lcs6["sigma"]) == (6.5, 6.35, pytest.approx(0.3))
    assert (
        rows.loc[("icsg3d-recovered", "cpu", "test", ATOMS), "paper_mean"] == 0.53
        and PAPERS_NAME["icsg3d-recovered"] == "icsg3d"
    )
    assert rows.loc[("lcs6", "cpu", "test", "match_rmse"), ["paper_mean", "sigma"]].isna().all()
