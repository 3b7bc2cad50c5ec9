"""How an analysis is recorded beside the run whose model it used.

RUN/analysis/<name>/analysis.json        parameters, command, commit, versions, device, wall time (schema/analysis.json)
RUN/analysis/<name>/<table>.csv          tables
RUN/analysis/<name>/<crystals>.safetensors   crystals
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nesf import records as results
from nesf.config import with_fields
from nesf.crystals import Crystals
from nesf.errors import DataError
from nesf.files import read_json, write_atomically
from nesf.saved import TrainedModel
from nesf_studies.analysis import analysis

if TYPE_CHECKING:
    import pandas as pd

    from nesf.data.dataset import Dataset


@dataclass(frozen=True)
class RecordedAnalysis:
    """An analysis as read from its folder; `about` is the content of `analysis.json`."""

    folder: Path
    about: Mapping[str, Any]

    def table(self, name: str) -> pd.DataFrame:
        """One of its tables."""
        return results.read_csv(self.folder / f"{name}.csv")

    def crystals(self, name: str) -> Crystals:
        """One of its batches of crystals."""
        return Crystals.load(self.folder / f"{name}.safetensors")


def run_analysis(
    name: str,
    run: Path,
    dataset: Dataset,
    assignments: Mapping[str, Any] | None = None,
    *,
    out: Path | None = None,
    device: str = "auto",
    command: str = "unknown",
    progress: bool = True,
) -> RecordedAnalysis:
    """Analyse a trained model and record it.

    Args:
        name: one of `nesf_studies.analysis.ANALYSES`.
        run: folder of the model.
        dataset: crystals that the analysis looks at; need not be those of the training.
        assignments: parameters that differ from the defaults, name to value; text is read as JSON where it is JSON.
        out: where it is recorded; None for RUN/analysis/NAME.
        device: auto, cpu, cuda, ...
        command: what is recorded.
        progress: a progress bar on standard error.

    Raises:
        ConfigError: no such analysis or parameter.
        DataError: no model in `run`, or the analysis cannot be done on this dataset.
    """
    module = analysis(name)
    parameters = with_fields(module.Parameters(), assignments or {})
    model = TrainedModel.load(run, device)
    begin = time.monotonic()
    made = module.analyse(model, dataset, parameters, progress=progress)
    folder = Path(out) if out else Path(run) / "analysis" / name
    if folder.exists():
        shutil.rmtree(folder)
    for part, value in made.items():
        if isinstance(value, Crystals):
            value.save(folder / f"{part}.safetensors")
        else:
            write_atomically(folder / f"{part}.csv", value.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    about = {
        "format": results.FORMAT,
        "analysis": name,
        "parameters": dataclasses.asdict(parameters),
        "dataset": {"name": dataset.name, "fold": dataset.fold, "hash": dataset.hash()},
        "model": {"dataset": dict(model.dataset), "preset": model.config.preset, "epoch": model.info.get("epoch")},
        "command": command,
        "commit": results.commit(),
        "wall_time_seconds": round(time.monotonic() - begin, 1),
        **results.environment(str(model.device)),
    }
    results.write_checked(folder / "analysis.json", about, "analysis")
    return RecordedAnalysis(folder, about)


def recorded_analysis(name: str, run: Path) -> RecordedAnalysis:
    """Read what `run_analysis` left.

    Raises:
        DataError: it has not been made; the message says how to.
    """
    folder = Path(run) / "analysis" / name
    if not (folder / "analysis.json").exists():
        raise DataError(f"{folder}: is not recorded; make it with `nesf analyse {name} {run}`")
    return RecordedAnalysis(folder, read_json(folder / "analysis.json"))
