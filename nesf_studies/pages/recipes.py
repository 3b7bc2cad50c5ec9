"""Tables of recipes: presets, trials, and what a changed setting does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nesf.config import Config
from nesf.records import RecordedRun, all_runs
from nesf_studies.analysis.trials import ERRORS
from nesf_studies.pages.common import LABELS, RESULTS, TABLE1, number_text
from nesf_studies.paper import table

if TYPE_CHECKING:
    from pandas import DataFrame


def config_table(configs: Mapping[str, Config]) -> DataFrame:
    """Where configurations differ: one row per key, one column per name."""
    import pandas as pd

    flat = {
        name: {
            f"{section}.{key}": str(value)
            for section, values in config.to_dict().items()
            if isinstance(values, dict)
            for key, value in values.items()
        }
        for name, config in configs.items()
    }
    table = pd.DataFrame(flat)
    return table[table.nunique(axis=1) > 1]


def changes_table(runs: Sequence[RecordedRun], dataset: str, *, split: str = "val") -> DataFrame:
    """Recorded recipes of a dataset beside each other: the settings in which they differ, and what came of them.

    Args:
        runs: recorded runs; those of method nesf on the dataset with the split are shown, trials and all.
        dataset: name.
        split: train, val or test.

    Returns:
        One row per preset: n (seeds or folds), the settings that are not the same in all rows, minutes of one training, and the mean errors.
    """
    import pandas as pd

    groups: dict[str, list[RecordedRun]] = {}
    for run in runs:
        searched = run.run["preset"].startswith(("trial-search-", "trial-followed-"))  # they have a page of their own
        if run.run["dataset"]["name"] == dataset and run.run["method"] == "nesf" and split in run.metrics and not searched:
            groups.setdefault(run.run["preset"], []).append(run)
    settings = {
        name: {
            f"{section}.{key}": "–" if value is None else str(value)
            for section in ("model", "sampling", "training")
            for key, value in same[0].run["config"][section].items()
        }
        for name, same in groups.items()
    }
    differing = {key for row in settings.values() for key in row if len({other.get(key) for other in settings.values()}) > 1}
    errors = {metric: LABELS[metric] for metric in TABLE1 if "detected" not in metric}
    rows = {}
    for name, same in groups.items():
        minutes = [run.run["wall_time_seconds"]["train"] / 60 for run in same]
        row = {"n": len(same)} | {key: value for key, value in settings[name].items() if key in differing}
        row["minutes"] = f"{sum(minutes) / len(minutes):.1f}"
        for metric, label in errors.items():
            values = [run.metrics[split][metric] for run in same if run.metrics[split][metric] is not None]
            row[label] = number_text(metric, sum(values) / len(values) if values else None)
        rows[name] = row
    return pd.DataFrame(rows).T if rows else pd.DataFrame()


def presets_table(dataset: str, presets: Sequence[str], *, split: str = "val") -> DataFrame:
    """Recorded presets beside each other: epochs, minutes of training and errors, mean ± standard deviation over n seeds or folds."""
    import pandas as pd

    runs = [r for r in all_runs(RESULTS / dataset / "nesf") if r.run["preset"] in presets and split in r.metrics]
    errors = table(runs, split)
    columns = {}
    for name in presets:
        same, shown = [r.run for r in runs if r.run["preset"] == name], errors[errors["preset"] == name].set_index("metric")["text"]
        if not same:
            continue
        minutes = [r["wall_time_seconds"]["train"] / 60 for r in same]
        column = {"n": str(len(same)), "epochs": ", ".join(sorted({str(r["config"]["training"]["epochs"]) for r in same}))}
        column["training, minutes"] = " ".join(f"{m:.1f}" for m in minutes)
        columns[name] = column | {LABELS[k]: shown.get(k, "–") for k in LABELS if k in shown.index}
    return pd.DataFrame(columns)


def effects_table(effects: DataFrame) -> DataFrame:
    """What `nesf_studies.analysis.trials.effects` gives, to be read: means, in brackets their shift in standard deviations σ of the reference's seeds."""
    import pandas as pd

    changed = effects["changed"].replace("", "nothing")
    shown = pd.DataFrame({"changed": changed, "n": effects["n"], "minutes": effects["minutes"].map("{:.1f}".format)})
    for error in ERRORS:
        shifts = [f" ({shift:+.1f}\N{NO-BREAK SPACE}σ)" if shift == shift else "" for shift in effects[f"{error} shift"]]
        shown[LABELS[error]] = [number_text(error, value) + shift for value, shift in zip(effects[error], shifts, strict=True)]
    reference = str(effects.index[0])
    return shown.rename(index=lambda label: label.removeprefix(f"{reference}-")).rename_axis(None)
