"""Every crystal back: errors with and without consistent decoding, its certificate, and its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from nesf.metrics import is_right
from nesf.records import RecordedRun
from nesf_studies.links import GIVEN, PAPER, Source, from_runs
from nesf_studies.page import LABELS, digits, unbroken
from nesf_studies.paper import paper_table
from nesf_studies.record import PAPERS_NAME, folders
from nesf_studies.style import NESF, SECOND, TRIVIAL, subplots
from nesf_studies.trust import wilson

# the rows of the comparison: method and preset (or label) of the recorded runs
RECIPES: Mapping[str, tuple[str, str]] = {
    "faithful, five steps": ("nesf", "cpu"),
    "faithful, consistent": ("nesf", "cpu-consistent"),
    "nesf+, five steps": ("nesf", "plus-five-steps"),
    "nesf+, consistent": ("nesf", "plus"),
    "copy": ("copy", "default"),
    "oracle": ("oracle", "default"),
}
ERRORS = (
    "number_of_atoms_error_percent",
    "position_error_actual_angstrom",
    "species_error_actual_percent",
    "lattice_length_error_angstrom",
    "lattice_angle_error_degree",
    "match_rate_percent",
)
# labels of trainings of nesf+ of several lengths
SHORT = ("trial-plus-80-epochs", "trial-plus-160-epochs", "plus")
CERTIFIED = {"certified_percent": "certified, %", "certified_wrong_percent": "of these wrong, %"}


def chosen(
    runs: Sequence[RecordedRun], dataset: str, method: str, preset: str, split: str
) -> list[RecordedRun]:
    """Return the recorded runs of a recipe that are scored on a split."""
    return [
        run
        for run in runs
        if (run.run["dataset"]["name"], run.run["method"], run.run["preset"])
        == (dataset, method, preset)
        and split in run.metrics
    ]


def errors_table(runs: Sequence[RecordedRun], dataset: str, split: str = "test") -> pd.DataFrame:
    """Return errors and certificates of a dataset, a row each of paper and `RECIPES`; text.

    Mean ± standard deviation over n seeds or folds. A recipe that is not recorded has no row.
    `seconds`: of decoding a crystal, mean over the runs.
    """
    published = paper_table().query("method == 'nesf' and split == @split")
    published = published[published["dataset"] == PAPERS_NAME.get(dataset, dataset)]
    texts = published.set_index("metric")["text"]
    rows = {"paper": {LABELS[e]: unbroken(texts.get(e, "–")) for e in ERRORS}} if len(texts) else {}
    for name, (method, preset) in RECIPES.items():
        if not (found := chosen(runs, dataset, method, preset, split)):
            continue
        row = {LABELS[e]: _mean(e, [run.metrics[split][e] for run in found]) for e in ERRORS}
        for key, label in CERTIFIED.items():
            row[label] = _mean(key, [run.metrics[split].get(key) for run in found])
        times = [seconds_a_crystal(run) for run in found]
        row["seconds"] = f"{np.mean(times):.2f}" if method == "nesf" else "–"
        rows[name] = row | {"n": str(len(found))}
    columns = [*(LABELS[e] for e in ERRORS), *CERTIFIED.values(), "seconds", "n"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).fillna("–")
    made_by: dict[str, Source] = {
        n: folders(runs, dataset, *RECIPES[n]) for n in rows if n in RECIPES
    }
    return from_runs(table, {"n": GIVEN, "paper": PAPER} | made_by)


def _mean(metric: str, values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    # lattices are decoded to more digits here than the paper gives
    decimals = 4 if metric.endswith("angstrom") else 3 if metric.endswith("degree") else 2
    spread = f" ± {np.std(known, ddof=1):.{decimals}f}" if len(known) > 1 else ""
    return unbroken(f"{np.mean(known):.{decimals}f}{spread}")


def seconds_a_crystal(run: RecordedRun) -> float:
    """Return the time of decoding a crystal, over the splits that a run has recorded; NaN: none."""
    wall = run.run["wall_time_seconds"]
    if not isinstance(wall, Mapping) or "reconstruct" not in wall:
        return float("nan")
    n = sum(summary["n_materials"] for summary in run.metrics.values())
    return float(wall["reconstruct"]) / n


def certified_materials(
    runs: Sequence[RecordedRun], dataset: str, preset: str, split: str
) -> pd.DataFrame:
    """Return the materials of consistently decoded runs, with `run` and `right` (`is_right`).

    `attrs["folders"]`: of the runs.
    """
    found = chosen(runs, dataset, "nesf", preset, split)
    parts = [run.materials().assign(run=run.folder.name) for run in found]
    parts = [part[part["split"] == split] for part in parts if "certified" in part]
    if not parts:
        return pd.DataFrame()
    materials = pd.concat(parts, ignore_index=True)
    materials.attrs["folders"] = [run.folder for run in found]
    return materials.assign(right=is_right(materials))


def reliability(materials: pd.DataFrame) -> pd.DataFrame:
    """Return how many crystals are right in each decade of the latent distance.

    Returns:
        A row a decade, from small to large: `decade` (10^k to 10^(k+1); the first holds all that
        are smaller than 10^-12), `n`, `right`, `share`, and the bounds `low` and `high` of its 95 %
        interval (Wilson).
    """
    decades = np.floor(np.log10(materials["latent_distance"].clip(lower=1e-13))).clip(lower=-13)
    groups = materials.groupby(decades.astype(int))["right"]
    table = groups.agg(n="size", right="sum").rename_axis("decade").reset_index()
    share = table["right"] / table["n"]
    bounds = [wilson(s, n, z=1.96) for s, n in zip(share, table["n"], strict=True)]
    return table.assign(
        share=share, low=[max(b[0], 0.0) for b in bounds], high=[b[1] for b in bounds]
    )


def reliability_chart(tables: Mapping[str, pd.DataFrame], threshold: float) -> Figure:
    """Draw the share of right crystals over the latent distance, a panel a title (`reliability`).

    The dashed line is the threshold below which a crystal is certified.
    """
    figure, axes = subplots(len(tables), 4.3 * len(tables), 3.2)
    for ax, (title, table) in zip(axes, tables.items(), strict=True):
        middle = 10.0 ** (table["decade"] + 0.5)
        errors = [table["share"] - table["low"], table["high"] - table["share"]]
        ax.errorbar(middle, 100 * table["share"], yerr=[100 * e for e in errors], fmt="none")
        sizes = 12 + 60 * np.sqrt(table["n"] / table["n"].max())
        ax.scatter(middle, 100 * table["share"], s=sizes, color=NESF, zorder=3)
        ax.axvline(threshold, color=TRIVIAL, linestyle="--")
        for x, row in zip(middle, table.itertuples(), strict=True):
            above = row.share < 0.5
            ax.annotate(
                str(row.n),
                (x, 100 * row.share),
                xytext=(0, 9 if above else -16),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        ax.set(xscale="log", xlabel="latent distance", ylim=(-8, 108), title=title)
    axes[0].set_ylabel("right crystals, %")
    return figure


def not_certified(materials: pd.DataFrame) -> pd.DataFrame:
    """Return the crystals that are not certified in any of the runs, most often first.

    Columns: `formula`, `n_atoms` (true), `five steps` (atoms found, in each run where it is not
    certified), `runs` (in how many it is not certified), `smallest distance`.
    """
    lost = materials[~materials["certified"].astype(bool)]
    groups = lost.groupby("id", sort=False)
    table = pd.DataFrame(
        {
            "formula": groups["formula"].first(),
            "n_atoms": groups["n_atoms_actual"].first(),
            "five steps": groups["n_atoms_detected"].agg(lambda n: ", ".join(map(str, n))),
            "runs": groups.size(),
            "smallest distance": groups["latent_distance"].min().map("{:.1e}".format),
        }
    )
    return table.sort_values(["runs", "n_atoms"], ascending=False, kind="stable")


def times_table(record: Mapping[str, Any]) -> pd.DataFrame:
    """Show a recorded benchmark of consistent decoding (`python -m benchmarks.consistent`)."""
    rows = {
        row["case"]: {
            "seconds a crystal": f"{row['seconds_per_crystal']:.2f}",
            "of a processor": f"{row['processor_seconds_per_crystal']:.2f}",
            "certified": f"{row['certified']} of {row['crystals']}" if row["certified"] else "–",
        }
        for row in record["decoding"]
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def cost_points(
    runs: Sequence[RecordedRun], dataset: str, labels: Sequence[str], split: str
) -> pd.DataFrame:
    """Return what trainings of several lengths cost, and the errors that they reach.

    A row a label, shortest training first: `label`, `epochs`, `minutes` of training (of one core,
    mean over the runs), n, and the mean of each of `ERRORS`.
    """
    rows = []
    for label in labels:
        if found := chosen(runs, dataset, "nesf", label, split):
            minutes = np.mean([run.run["wall_time_seconds"]["train"] / 60 for run in found])
            errors = {e: np.mean([run.metrics[split][e] for run in found]) for e in ERRORS}
            epochs = found[0].run["config"]["training"]["epochs"]
            rows.append(
                {"label": label, "epochs": epochs, "minutes": minutes, "n": len(found)} | errors
            )
    table = pd.DataFrame(rows, columns=["label", "epochs", "minutes", "n", *ERRORS])
    return table.sort_values("minutes").reset_index(drop=True)


def beats_the_paper(points: pd.DataFrame, dataset: str) -> pd.Series:
    """Return which rows of `cost_points` are below the paper's test errors in every column."""
    paper = paper_table().query("method == 'nesf' and split == 'test' and dataset == @dataset")
    means = paper.set_index("metric")["mean"]
    errors = [e for e in ERRORS if e in means.index]
    ours = pd.DataFrame({e: points[e].round(digits(e)) for e in errors})
    return (ours <= means[errors]).all(axis=1)


def shortest_that_beats_the_paper(runs: Sequence[RecordedRun], dataset: str) -> pd.Series | None:
    """Return the row of `cost_points` of the shortest training of nesf+ below the paper, if any."""
    points = cost_points(runs, dataset, SHORT, "test")
    better = points[beats_the_paper(points, dataset)] if len(points) else points
    return better.iloc[0] if len(better) else None


def cost_chart(points: Mapping[str, pd.DataFrame], dataset: str) -> Figure:
    """Draw errors over minutes of training on one core, a line a title; dashed: the paper's."""
    paper = paper_table().query("method == 'nesf' and split == 'test' and dataset == @dataset")
    means = paper.set_index("metric")["mean"]
    figure, axes = subplots(3, 8.6, 5.4, n_rows=2)
    for ax, error in zip(axes, ERRORS, strict=True):
        for (title, table), colour in zip(points.items(), (NESF, SECOND, TRIVIAL), strict=False):
            ax.plot(table["minutes"], table[error], "o-", color=colour, label=title)
        if error in means.index:
            ax.axhline(means[error], color="black", linestyle="--", linewidth=1, label="paper")
        ax.set(title=LABELS[error].replace(" (higher is better)", ""), xscale="log")
        ax.set_ylim(bottom=0 if error != "match_rate_percent" else None)
        ax.set_xlabel("minutes of one core")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_locator(NullLocator())
    axes[0].legend(frameon=False)
    return figure
