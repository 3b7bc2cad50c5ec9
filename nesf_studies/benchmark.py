"""The field's benchmark of recorded runs: scores recorded beside each, one table, one figure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from nesf import methods
from nesf.crystals import Crystals
from nesf.data.dataset import Dataset
from nesf.outputs import WriteOptions
from nesf.records import RecordedRun, read_record
from nesf.runs import check_dataset
from nesf_design.benchmark import benchmark, published
from nesf_io.errors import DataError
from nesf_studies.links import Mark, Source, from_runs
from nesf_studies.reads import is_there
from nesf_studies.record import RecordedAnalysis, recorded_analysis, shown_method, write_analysis
from nesf_studies.style import NESF, SECOND, TRIVIAL, subplots

NAME = "benchmark"
# datasets of which there are published results: their name there, and how much of the training
# split ours has
SHARES: Mapping[str, tuple[str, str]] = {
    "perov5-third": ("perov5", "a third of the training data"),
    "perov5": ("perov5", "all of the training data"),
    "mp20-binary-ternary": ("mp20", "binary and ternary part, a quarter of its training data"),
}
TRIVIAL_MODELS = ("copy", "constant")


@dataclass(frozen=True)
class Parameters:
    """What is scored."""

    splits: tuple[str, ...] = ("val", "test")


def record_benchmark(
    run: Path,
    dataset: Dataset,
    parameters: Parameters | None = None,
    *,
    out: Path | None = None,
    command: str = "unknown",
    **options: Unpack[WriteOptions],
) -> RecordedAnalysis:
    """Score what a run decoded by `nesf_design.benchmark` and record it in RUN/analysis/benchmark.

    Nothing is decoded: the reconstructions of a trained run must be there; the prediction of a
    method without training is made anew.

    Raises:
        DataError: a split is not reconstructed, or the dataset is not the run's.
        ConfigError: the benchmark is recorded already, and not to be replaced.
    """
    parameters = parameters or Parameters()
    about = read_record(run / "run.json", "run")
    check_dataset(about["dataset"], dataset, run)
    begin, progress = time.monotonic(), options.get("progress", True)
    tables = [
        benchmark(
            dataset.split(split), _decoded(run, about, dataset, split), progress=progress
        ).assign(split=split)
        for split in parameters.splits
    ]
    described = {
        "parameters": asdict(parameters) | {"splits": list(parameters.splits)},
        "dataset": about["dataset"],
        "model": {
            "dataset": about["dataset"],
            "preset": about["preset"],
            "method": about["method"],
            "epoch": about["config"].get("training", {}).get("epochs"),
        },
        "command": command,
    }
    made = {NAME: pd.concat(tables, ignore_index=True)}
    return write_analysis(NAME, run, made, described, begin, out=out, **options)


def _decoded(run: Path, about: Mapping[str, Any], dataset: Dataset, split: str) -> Crystals:
    """Return what a run decoded, or a method without training predicts, for a split."""
    method = methods.method(about["method"])
    if isinstance(method, methods.Predictor):
        config = type(method.config(dataset.name)).from_dict(about["config"])
        return method.predict(dataset, split, config, False)
    file = run / "reconstruction" / split / "crystals.safetensors"
    if not file.exists():
        raise DataError(
            f"{file}: no such file; decode the split with `nesf reconstruct {run} --split {split}`"
        )
    return Crystals.load(file)


def benchmarks(runs: Iterable[RecordedRun]) -> pd.DataFrame:
    """Return the recorded benchmarks of runs, a row of `nesf_design.benchmark` each.

    Further columns: `dataset`, `model` (method and preset), `seed`, `minutes` of training, `folder`
    of the record.
    """
    parts = []
    for run in runs:
        if not is_there(run.folder / "analysis" / NAME / "analysis.json"):
            continue
        about, wall = run.run, run.run["wall_time_seconds"]
        minutes = wall["train"] / 60 if isinstance(wall, Mapping) and "train" in wall else np.nan
        method = shown_method(about["method"], about["preset"])
        parts.append(
            recorded_analysis(NAME, run.folder)
            .table(NAME)
            .assign(
                dataset=about["dataset"]["name"],
                model=f"nesf, {about['preset']}" if method == "nesf" else method,
                folder=run.folder / "analysis" / NAME,
                seed=about["seed"],
                minutes=minutes,
            )
        )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["dataset"])


def run_table(runs: Iterable[RecordedRun], titles: Mapping[str, str]) -> pd.DataFrame:
    """Return what was trained and decoded, a row for each run of the named datasets that is scored."""
    scored = [
        run
        for run in runs
        if run.run["dataset"]["name"] in titles
        and is_there(run.folder / "analysis" / NAME / "analysis.json")
    ]
    rows = [
        {
            "dataset": titles[run.run["dataset"]["name"]],
            "model": shown_method(run.run["method"], run.run["preset"]),
            "preset": run.run["preset"],
            "seed": run.run["seed"],
            "epochs": run.run["config"].get("training", {}).get("epochs"),
            "certified, %": run.metrics.get("test", {}).get("certified_percent"),
            "commit": run.run["commit"][:8],
        }
        for run in scored
    ]
    table = pd.DataFrame(rows).set_index("dataset") if rows else pd.DataFrame()
    return from_runs(table, rows=[run.folder for run in scored])


def beside_published(table: pd.DataFrame, dataset: str, split: str = "test") -> pd.DataFrame:
    """Return the results on a dataset beside the published ones, by the field's tolerances.

    Columns: `match_percent` and `rmse` by either rule, with the `ceiling` of the match rate by
    CDVAE's rule; `source`.
    """
    theirs = published().query("dataset == @SHARES[@dataset][0]")
    rows = [
        {
            "model": row.model,
            "match_percent": row.match_percent,
            "rmse": row.rmse,
            "source": row.source,
        }
        for row in theirs.itertuples()
    ]
    made_by: list[Source] = [Mark("paper", f"published: {row['source']}") for row in rows]
    own = table.query("dataset == @dataset and split == @split and tolerances == 'field'")
    for model, part in own.groupby("model", sort=False):
        value = part.groupby(["crystals", "rule"])[["match_percent", "rmse"]].mean()
        strict = part.query("crystals == 'decoded'")
        made_by.append(part["folder"].unique().tolist())
        rows.append(
            {
                "model": f"{model} ({'trivial control' if model in TRIVIAL_MODELS else 'ours'})",
                "match_percent": value.loc[("decoded", "any"), "match_percent"],
                "rmse": value.loc[("decoded", "any"), "rmse"],
                "match_percent_valid": value.loc[("decoded", "valid"), "match_percent"],
                "ceiling_valid": value.loc[("ceiling", "valid"), "match_percent"],
                "count_exact_percent": strict["count_exact_percent"].mean(),
                "type_exact_percent": strict["type_exact_percent"].mean(),
                "n_crystals": int(strict["n_crystals"].iloc[0]),
                "source": f"recorded, {SHARES[dataset][1]}",
            }
        )
    return from_runs(pd.DataFrame(rows), rows=made_by)


def benchmark_chart(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw match rate and RMSE of `beside_published`, a row of panels a title.

    Ours are filled, published ones hollow; the line ends where a match that is not valid counts as
    a miss.
    """
    height = sum(0.6 + 0.34 * len(table) for table in tables.values())
    figure, axes = subplots(2, 8.4, height + 0.4, n_rows=len(tables))
    for k, (title, table) in enumerate(tables.items()):
        places = np.arange(len(table))[::-1]
        for ax, column in zip(axes[2 * k : 2 * k + 2], ("match_percent", "rmse"), strict=True):
            _dots(ax, table, places, column)
        axes[2 * k].set(xlabel="match rate, %", xlim=(-3, 103), title=title)
        axes[2 * k].set_yticks(places, table["model"])
        axes[2 * k + 1].set(xlabel="RMSE over (V/N)$^{1/3}$", xscale="log", xlim=(1e-5, 1))
        axes[2 * k + 1].xaxis.set_minor_formatter(NullFormatter())
        axes[2 * k + 1].set_yticks(places, [""] * len(table))
    return figure


def _dots(ax: Any, table: pd.DataFrame, places: np.ndarray, column: str) -> None:
    for y, row in zip(places, table.to_dict("records"), strict=True):
        recorded = row["model"].endswith(")")
        colour = NESF if row["model"].endswith("(ours)") else TRIVIAL if recorded else SECOND
        valid = row.get("match_percent_valid")
        if column == "match_percent" and valid is not None and valid == valid:
            ax.plot([valid, row[column]], [y, y], color=colour, linewidth=1.5)
        if row[column] == row[column]:
            face = colour if recorded else "white"
            # an RMSE of zero has no place on a logarithmic axis
            x = row[column] if column == "match_percent" else max(row[column], 1.5e-5)
            ax.plot(x, y, "o", color=colour, markerfacecolor=face, markersize=6)
    ax.grid(axis="x", alpha=0.3)
    ax.set_ylim(-0.6, len(table) - 0.4)
