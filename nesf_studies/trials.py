"""Recipes beside each other: presets, and controlled runs (`workflow/trials.yaml`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from nesf.config import PAPER, Config
from nesf.records import RecordedRun, all_runs
from nesf_io.errors import DataError
from nesf_studies.links import GIVEN, Source, from_runs
from nesf_studies.page import LABELS, RESULTS, TABLE1, number_text
from nesf_studies.paper import table
from nesf_studies.record import folders, metric_rows
from nesf_studies.style import ICSG3D, NESF, name_rows, subplots

NOTHING = 2  # σ; with few seeds a smaller shift means nothing
ERRORS = tuple(metric for metric in TABLE1 if metric != "species_error_detected_percent")


def effects(
    runs: Sequence[RecordedRun],
    dataset: str,
    reference: str,
    *,
    others: Sequence[str] = (),
    split: str = "val",
) -> pd.DataFrame:
    """Compare recorded runs with the reference from which each differs in a few settings.

    `reference`: label (or preset) of the runs that change nothing; with several seeds their spread
    is known. `others`: labels that are compared with it, in this order;
    none: those that are `reference`, a hyphen and something more. One row per label, the reference
    first: `changed`, n (seeds), minutes of one training, the mean of each of `ERRORS` (%, Å,
    degrees); `<error> shift`: its difference from the reference's mean in standard deviations of
    the reference's seeds (NaN where fewer than two seeds, or no spread).

    Raises:
        DataError: the reference is not recorded.
    """
    rows = _nesf_rows(runs, dataset, split)
    base, means = rows[rows["preset"] == reference], _means(rows)
    if base.empty:
        raise DataError(
            f"{dataset}: no run with the label {reference!r} is recorded with its {split} split"
        )
    own = [name for name in means.index if name.startswith(f"{reference}-")]
    labels = [name for name in others if name in means.index] if others else own
    made = means.loc[[reference, *labels], ["n", "minutes", *ERRORS]].rename_axis("label")
    first = {label: runs[position] for label, position in means["run"].items()}
    made.insert(0, "changed", [changed(first[reference], first[label]) for label in made.index])
    spread = base.groupby("metric")["value"].std()[list(ERRORS)]
    shifts = (made[list(ERRORS)] - made.loc[reference, list(ERRORS)]) / spread.where(spread > 0)
    shifts.loc[reference] = float("nan")
    made_by = [folders(runs, dataset, "nesf", label) for label in made.index]
    return from_runs(made.join(shifts.add_suffix(" shift")), rows=made_by)


def _nesf_rows(runs: Sequence[RecordedRun], dataset: str, split: str) -> pd.DataFrame:
    return metric_rows(runs).query("dataset == @dataset and method == 'nesf' and split == @split")


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row per preset: its first run, n, and the means of minutes and errors."""
    trained = rows.drop_duplicates("run").groupby("preset", sort=False)
    means = trained.agg(run=("run", "first"), n=("run", "size"), minutes=("minutes", "mean"))
    errors = (
        rows[rows["metric"].isin(TABLE1)]
        .groupby(["preset", "metric"])["value"]
        .mean()
        .unstack("metric")
    )
    return means.join(errors.reindex(columns=list(TABLE1)))


def changed(reference: RecordedRun, run: RecordedRun) -> str:
    """Write the settings in which a run differs from another: `local_sigma: 0.15 → 0.5; ...`."""
    rows = _differences({"was": reference.run["config"], "now": run.run["config"]}).itertuples()
    return "; ".join(f"{row.Index.partition('.')[2]}: {row.was} → {row.now}" for row in rows)


def _differences(configs: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return the settings (text) in which configs differ: a row per dotted key, a column each.

    What was added after a config was recorded is at its default in it.
    """
    default = PAPER.to_dict()
    settings = {
        name: {
            f"{section}.{key}": _text(value)
            for section in ("model", "sampling", "augmentation", "training")
            for key, value in (default[section] | config.get(section, {})).items()
        }
        for name, config in configs.items()
    }
    table = pd.DataFrame(settings).fillna("–")
    return table[table.nunique(axis=1) > 1]


def _text(value: Any) -> str:
    return (
        "–"
        if value is None
        else str(value).lower()
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def effects_table(effects: pd.DataFrame) -> pd.DataFrame:
    """Write `effects` as text: means, in brackets their shift in σ of the reference's seeds."""
    changed = effects["changed"].replace("", "nothing")
    shown = pd.DataFrame(
        {"changed": changed, "n": effects["n"], "minutes": effects["minutes"].map("{:.1f}".format)}
    )
    for error in ERRORS:
        shifts = [
            f" ({shift:+.1f}\N{NO-BREAK SPACE}σ)" if shift == shift else ""
            for shift in effects[f"{error} shift"]
        ]
        shown[LABELS[error]] = [
            number_text(error, value) + shift
            for value, shift in zip(effects[error], shifts, strict=True)
        ]
    shown = shown.rename(index=lambda label: label.removeprefix(f"{effects.index[0]}-"))
    given = {"changed": GIVEN, "n": GIVEN}
    return from_runs(shown.rename_axis(None), given, rows=effects.attrs["row sources"])


def effects_chart(effects: pd.DataFrame) -> Figure:
    """Draw the shifts of `effects` in σ of the reference's seeds: a panel an error, a row a change.

    In the grey band, of `NOTHING` to either side, dots are grey; blue: a smaller error; orange: a
    larger one. A shift that is not known has no dot.
    """
    changes = effects.index[1:]
    names = [label.removeprefix(f"{effects.index[0]}-") for label in changes]
    shifts = effects.loc[changes, [f"{error} shift" for error in ERRORS]]
    figure, axes = subplots(3, 8.1, 2 * (0.24 * len(names) + 0.9), n_rows=2)
    name_rows(axes, names)
    most = max([2.0 * NOTHING, *1.1 * shifts.abs().stack().dropna()])
    for ax, error in zip(axes, ERRORS, strict=True):
        ax.axvspan(-NOTHING, NOTHING, color="#6b7280", alpha=0.15, linewidth=0)
        ax.axvline(0, color="black", linewidth=0.9)
        for row, shift in enumerate(shifts[f"{error} shift"]):
            if pd.notna(shift):
                small, better = abs(shift) <= NOTHING, shift < 0
                colour = "#6b7280" if small else NESF if better else ICSG3D
                ax.plot(shift, row, "o", color=colour, markersize=6)
        ax.set_xlim(-most, most)
        ax.set_title(LABELS[error].rpartition(",")[0])
    for ax in axes[3:]:
        ax.set_xlabel("shift, σ")
    return figure


def config_table(configs: Mapping[str, Config]) -> pd.DataFrame:
    """Show where configurations differ: one row per key, one column per name."""
    return _differences({name: config.to_dict() for name, config in configs.items()})


def changes_table(runs: Sequence[RecordedRun], dataset: str) -> pd.DataFrame:
    """Set recorded recipes of a dataset beside each other, trials and all; validation split.

    One row per preset: n (seeds or folds), the settings that are not the same in all rows, minutes
    of one training, and the mean errors.
    """
    rows = _nesf_rows(runs, dataset, "val")
    # the search has a page of its own
    means = _means(rows[~rows["preset"].str.startswith(("trial-search-", "trial-followed-"))])
    shown = means[["n"]].join(
        _differences({name: runs[i].run["config"] for name, i in means["run"].items()}).T
    )
    shown["minutes"] = means["minutes"].map("{:.1f}".format)
    for metric in (m for m in TABLE1 if "detected" not in m):
        shown[LABELS[metric]] = [number_text(metric, value) for value in means[metric]]
    made_by: dict[str, Source] = {
        label: folders(runs, dataset, "nesf", label) for label in shown.index
    }
    return from_runs(shown.rename_axis(None), {"n": GIVEN} | made_by)


def presets_table(dataset: str, presets: Sequence[str]) -> pd.DataFrame:
    """Set recorded presets beside each other: epochs, minutes, and errors on validation."""
    runs = all_runs(RESULTS / dataset / "nesf")
    trained, errors = _nesf_rows(runs, dataset, "val").drop_duplicates("run"), table(runs, "val")
    columns = {}
    for name in presets:
        same, texts = (
            trained[trained["preset"] == name],
            errors[errors["preset"] == name].set_index("metric")["text"],
        )
        if len(same):
            about = {
                "n": str(len(same)),
                "epochs": ", ".join(f"{n:.0f}" for n in sorted(set(same["epochs"]))),
            }
            about["training, minutes"] = " ".join(f"{m:.1f}" for m in same["minutes"])
            columns[name] = about | {LABELS[k]: texts.get(k, "–") for k in LABELS if k in texts}
    made_by = {name: folders(runs, dataset, "nesf", name) for name in columns}
    return from_runs(pd.DataFrame(columns), made_by)
