"""Controlled runs: what a changed setting does, beside what another seed does (`workflow/trials.yaml`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nesf.errors import DataError
from nesf.records import RecordedRun

if TYPE_CHECKING:
    from pandas import DataFrame

ERRORS = (
    "number_of_atoms_error_percent",
    "position_error_actual_angstrom",
    "position_error_detected_angstrom",
    "species_error_actual_percent",
    "lattice_length_error_angstrom",
    "lattice_angle_error_degree",
)


def effects(runs: Sequence[RecordedRun], dataset: str, reference: str, *, others: Sequence[str] = (), split: str = "val") -> DataFrame:
    """Recorded runs beside the reference from which each differs in a few settings.

    Args:
        runs: recorded runs.
        dataset: name.
        reference: label (or preset) of the runs that change nothing; with several seeds their spread is known.
        others: labels that are compared with it; none: those that are `reference`, a hyphen and something more.
        split: train, val or test.

    Returns:
        One row per label, the reference first: `changed` («setting: value → value»; empty for the reference), n (seeds), minutes of one
        training, the mean of each of `ERRORS` (%, Å, degrees); `<error> shift`: its difference from the reference's mean in standard deviations
        of the reference's seeds (NaN where fewer than two seeds, or no spread).

    Raises:
        DataError: the reference is not recorded.
    """
    import pandas as pd

    groups: dict[str, list[RecordedRun]] = {}
    for run in runs:
        label = run.run["preset"]
        of_them = label == reference or (label in others if others else label.startswith(f"{reference}-"))
        if of_them and run.run["dataset"]["name"] == dataset and run.run["method"] == "nesf" and split in run.metrics:
            groups.setdefault(label, []).append(run)
    if reference not in groups:
        raise DataError(f"{dataset}: no run with the label {reference!r} is recorded with its {split} split")
    base = groups.pop(reference)
    table = pd.DataFrame([_row(reference, base, "", split)] + [_row(label, same, changed(base[0], same[0]), split) for label, same in groups.items()])
    for error in ERRORS:
        spread = pd.Series([run.metrics[split][error] for run in base], dtype=float).std()
        table[f"{error} shift"] = (table[error] - table[error].iloc[0]) / spread if spread > 0 else float("nan")
        table.loc[0, f"{error} shift"] = float("nan")
    return table.set_index("label")


def changed(reference: RecordedRun, run: RecordedRun) -> str:
    """The settings in which a run differs from another, without their section: «local_sigma: 0.15 → 0.5; ...»."""
    was, now = (_settings(r.run["config"]) for r in (reference, run))
    return "; ".join(f"{key.partition('.')[2]}: {_text(was.get(key))} → {_text(now[key])}" for key in now if now[key] != was.get(key))


def _row(label: str, runs: Sequence[RecordedRun], change: str, split: str) -> dict[str, Any]:
    minutes = [run.run["wall_time_seconds"]["train"] / 60 for run in runs]
    errors = {error: sum(run.metrics[split][error] for run in runs) / len(runs) for error in ERRORS}
    return {"label": label, "changed": change, "n": len(runs), "minutes": sum(minutes) / len(minutes), **errors}


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section in ("model", "sampling", "training") for key, value in config[section].items()}


def _text(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
