"""Analyses in RUN/analysis/<name>, and the recorded runs as data frames.

analysis.json holds parameters, command, commit, versions, device and wall time
(schema/analysis.json); tables are .csv, crystals .safetensors.
"""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import pandas as pd

from nesf import records
from nesf.config import with_fields
from nesf.crystals import Crystals
from nesf.data.dataset import Dataset
from nesf.files import write_atomically
from nesf.outputs import ANALYSIS, WriteOptions, output
from nesf.records import RecordedRun
from nesf.saved import TrainedModel
from nesf_io.errors import ConfigError, DataError
from nesf_studies import ANALYSES
from nesf_studies.reads import is_there

# of a dataset, where its split is another one
PAPERS_NAME = {"icsg3d-recovered": "icsg3d", "icsg3d-as-released": "icsg3d"}
RUN_COLUMNS = (
    "run",
    "dataset",
    "paper_dataset",
    "fold",
    "seed",
    "method",
    "shown_method",
    "preset",
    "minutes",
    "epochs",
)


@dataclass(frozen=True)
class RecordedAnalysis:
    """An analysis as read from its folder; `about` is the content of `analysis.json`."""

    folder: Path
    about: Mapping[str, Any]

    def table(self, name: str) -> pd.DataFrame:
        """Read one of its tables."""
        return records.read_csv(self.folder / f"{name}.csv")

    def crystals(self, name: str) -> Crystals:
        """Read one of its batches of crystals."""
        return Crystals.load(self.folder / f"{name}.safetensors")


def analysis(name: str) -> Any:
    """Import the module of an analysis.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in ANALYSES:
        raise ConfigError(f"analysis {name!r} does not exist; choose from {', '.join(ANALYSES)}")
    return importlib.import_module(f"nesf_studies.{name.replace('-', '_')}")


def run_analysis(
    name: str,
    run: Path,
    dataset: Dataset,
    assignments: Mapping[str, Any] | None = None,
    *,
    out: Path | None = None,
    device: str = "auto",
    command: str = "unknown",
    **options: Unpack[WriteOptions],
) -> RecordedAnalysis:
    """Analyse a trained model and record the result.

    The dataset need not be that of the training; `assignments`: parameters that differ from the
    defaults, text is read as JSON where it is JSON; `out`: None for RUN/analysis/NAME;
    `options`: `replace` an earlier one, `progress`.

    Raises:
        ConfigError: no such analysis or parameter, or `out` holds something.
        DataError: no model in `run`, or the analysis cannot be done on this dataset.
    """
    module = analysis(name)
    parameters = with_fields(module.Parameters(), assignments or {})
    model = TrainedModel.load(run, device)
    begin, progress = time.monotonic(), options.get("progress", True)
    about = {
        "parameters": dataclasses.asdict(parameters),
        "dataset": {"name": dataset.name, "fold": dataset.fold, "hash": dataset.hash()},
        "model": {
            "dataset": dict(model.dataset),
            "preset": model.config.preset,
            "epoch": model.info.get("epoch"),
        },
        "command": command,
        "device": str(model.device),
    }
    with _place(name, run, out, options) as folder:
        made = module.analyse(model, dataset, parameters, progress=progress)
        return _write(folder, out or run / "analysis" / name, name, made, about, begin)


def write_analysis(
    name: str,
    run: Path,
    made: Mapping[str, Any],
    about: Mapping[str, Any],
    begin: float,
    *,
    out: Path | None = None,
    **options: Unpack[WriteOptions],
) -> RecordedAnalysis:
    """Record what was computed elsewhere as an analysis of a run.

    Args:
        made: data frames and crystals by name.
        about: `parameters`, `dataset`, `model` and `command` of `analysis.json`, optionally
            `device` (cpu).
        begin: `time.monotonic()` when the computation began.
        out: None for RUN/analysis/NAME.

    Raises:
        ConfigError: the place holds something that is not to be replaced (`replace`).
    """
    with _place(name, run, out, options) as folder:
        return _write(folder, out or run / "analysis" / name, name, made, about, begin)


def _place(
    name: str, run: Path, out: Path | None, options: WriteOptions
) -> AbstractContextManager[Path]:
    own = "" if out else ANALYSIS
    target = out or run / "analysis" / name
    return output(target, replace=options.get("replace", False), own=own, inputs=[run])


def _write(
    folder: Path,
    target: Path,
    name: str,
    made: Mapping[str, Any],
    about: Mapping[str, Any],
    begin: float,
) -> RecordedAnalysis:
    for part, value in made.items():
        if isinstance(value, Crystals):
            value.save(folder / f"{part}.safetensors")
        else:
            write_atomically(
                folder / f"{part}.csv",
                value.to_csv(index=False, float_format="%.6g", lineterminator="\n"),
            )
    whole = {
        "format": records.FORMAT,
        "analysis": name,
        **{key: value for key, value in about.items() if key != "device"},
        "commit": records.commit(),
        "wall_time_seconds": round(time.monotonic() - begin, 1),
        **records.environment(about.get("device", "cpu")),
    }
    records.write_checked(folder / "analysis.json", whole, "analysis")
    return RecordedAnalysis(target, whole)


def recorded_analysis(name: str, run: Path) -> RecordedAnalysis:
    """Read what `run_analysis` recorded.

    Raises:
        DataError: it is not recorded; the message names the command that makes it.
    """
    folder = Path(run) / "analysis" / name
    if not is_there(folder / "analysis.json"):
        raise DataError(f"{folder}: is not recorded; make it with `nesf analyse {name} {run}`")
    return RecordedAnalysis(folder, records.read_record(folder / "analysis.json", "analysis"))


def shown_analysis(name: str, run: Path) -> RecordedAnalysis | None:
    """Read a recorded analysis and print how it was made; or print what makes it, for None."""
    try:
        record = recorded_analysis(name, run)
    except DataError as error:
        print(str(error).replace(f"{Path(__file__).resolve().parents[1]}/", ""))
        return None
    about = record.about
    print(f"made by: {about['command']}")
    print(
        f"commit {about['commit'][:12]}, {about['wall_time_seconds']:.0f} s on {about['threads']} "
        f"thread(s) of {about['device_name']}"
    )
    return record


def folders(
    runs: Iterable[RecordedRun], dataset: str, method: str = "", preset: str = ""
) -> list[Path]:
    """Return the folders of the runs of a dataset (ours, or the paper's), a method and a preset.

    Without a method or preset: of all.
    """
    return [
        run.folder
        for run in runs
        if dataset in (name := run.run["dataset"]["name"], PAPERS_NAME.get(name, name))
        and method in ("", run.run["method"])
        and preset in ("", run.run["preset"])
    ]


def run_rows(runs: Iterable[RecordedRun]) -> pd.DataFrame:
    """Return a row per recorded run: what ran, on which dataset, and what its training took.

    Columns `RUN_COLUMNS`: `run` is the position in `runs`, `paper_dataset` the paper's name of the
    dataset; `minutes` and `epochs` are those of the training, NaN where there is none.
    """
    rows = []
    for position, run in enumerate(runs):
        about, wall = run.run, run.run.get("wall_time_seconds")
        dataset, method, preset = about["dataset"]["name"], about["method"], about["preset"]
        # a predictor's time may be one number
        minutes = wall["train"] / 60 if isinstance(wall, Mapping) and "train" in wall else None
        epochs = about.get("config", {}).get("training", {}).get("epochs")
        names = (dataset, PAPERS_NAME.get(dataset, dataset), about["dataset"].get("fold"))
        rows.append(
            (
                position,
                *names,
                about.get("seed"),
                method,
                shown_method(method, preset),
                preset,
                minutes,
                epochs,
            )
        )
    return pd.DataFrame(rows, columns=list(RUN_COLUMNS)).astype({"minutes": float, "epochs": float})


def shown_method(method: str, preset: str) -> str:
    """Return a method's name in comparisons, of the voxel baseline with preset: icsg3d-repaired."""
    return f"{method}-{preset}" if method.startswith("icsg3d") else method


def metric_rows(runs: Iterable[RecordedRun]) -> pd.DataFrame:
    """Return the errors of recorded runs, a row per run, split and metric; NaN: not defined."""
    runs = list(runs)
    values = [
        (position, split, metric, value)
        for position, run in enumerate(runs)
        for split, summary in run.metrics.items()
        for metric, value in summary.items()
        if not isinstance(value, list)  # ids of materials
    ]
    rows = pd.DataFrame(values, columns=["run", "split", "metric", "value"])
    return run_rows(runs).merge(rows.astype({"value": float}), on="run")
