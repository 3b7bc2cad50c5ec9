"""What a workflow has to do: the runs and analyses that its configuration asks for.

Which of them are still missing is decided by the content of what is recorded
(`nesf.runs.Run.missing`, `is_analysed`). Imports neither torch nor pandas: Snakemake reads this
whenever it looks for work.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nesf import methods
from nesf.files import read_json, write_atomically
from nesf.runs import FOLDER_NAME, Run
from nesf_io.errors import ConfigError, DataError
from nesf_studies import ANALYSES

FETCHED = ("lcs6", "ybco", "icsg3d", "icsg3d-as-released")  # `nesf data fetch` gets them
N_FOLDS = {"ybco": 20}
SPLITS = ("train", "val", "test")
RUN_NAME = re.compile(r"[\w.-]+/[\w.-]+/[\w.-]+/(seed|fold)-\d+")
RUN_KEYS = ("dataset", "method", "preset", "label", "seeds", "folds", "set", "decode", "splits")


def planned_runs(entries: Sequence[Mapping[str, Any]]) -> list[Run]:
    """Return the runs that a workflow's configuration asks for.

    Args:
        entries: one mapping each with `dataset`; optionally `method`, `preset`, `label`, `set`
            (mapping of dotted keys), `decode` (mapping: trained weights decoded in another way),
            `splits`, and `seeds` or `folds`: how many, or a list of
            numbers. Without either: seed 0, or all folds of a dataset that has folds.

    Returns:
        In the order given, each once.

    Raises:
        ConfigError: an entry that says nothing or too much; the message names it.
    """
    runs: dict[str, Run] = {}
    for entry in entries:
        try:
            found = list(_runs_of(entry))
        except ConfigError as error:
            raise ConfigError(f"run {json.dumps(entry, default=str)}: {error}") from None
        for run in found:
            if runs.setdefault(run.name, run) != run:
                raise ConfigError(
                    f"{run.name} is asked for twice, with different settings; give one of the entries a label"
                )
    return list(runs.values())


def _runs_of(entry: Mapping[str, Any]) -> Iterable[Run]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("dataset"), str):
        raise ConfigError("a mapping with a `dataset` is expected")
    if unknown := sorted(set(entry) - set(RUN_KEYS)):
        raise ConfigError(f"{unknown[0]!r} is not known; the keys are {', '.join(RUN_KEYS)}")
    dataset, label = entry["dataset"], entry.get("label")
    for text in (dataset, label):
        if text is not None and not FOLDER_NAME.fullmatch(str(text)):
            raise ConfigError(f"{text!r} names a folder: letters, digits and . _ - are expected")
    changes, decode = (
        {k: v if isinstance(v, str) else json.dumps(v) for k, v in (entry.get(key) or {}).items()}
        for key in ("set", "decode")
    )
    if (changes or decode) and not label:
        raise ConfigError("a changed preset needs a `label`, under which it is recorded")
    splits = tuple(s for s in SPLITS if s in entry.get("splits", ("val", "test")))
    if not splits or set(entry.get("splits", ())) - set(SPLITS):
        raise ConfigError(f"splits are {', '.join(SPLITS)}")
    run = Run(
        dataset,
        entry.get("method", "nesf"),
        entry.get("preset"),
        label=label,
        changes=tuple(changes.items()),
        splits=splits,
        decode=tuple(decode.items()),
    )
    run.config()  # a wrong preset or key is said now, not in a job
    kind, other = ("folds", "seeds") if dataset in N_FOLDS else ("seeds", "folds")
    if other in entry:
        raise ConfigError(
            f"{dataset} has {'folds' if kind == 'folds' else 'no folds'}; give `{kind}`"
        )
    numbers = _numbers(entry.get(kind, N_FOLDS.get(dataset, 1)), below=N_FOLDS.get(dataset))
    return (dataclasses.replace(run, **{kind.removesuffix("s"): number}) for number in numbers)


def _numbers(value: Any, below: int | None) -> list[int]:
    numbers = (
        list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value
    )
    if (
        isinstance(numbers, list)
        and numbers
        and all(isinstance(n, int) and n >= 0 and (below is None or n < below) for n in numbers)
    ):
        return numbers
    raise ConfigError(
        f"{value!r}: how many, or a list of numbers{f' from 0 to {below - 1}' if below else ' not below 0'}, is expected"
    )


def stage_key(run: Run, stage: Literal["training", "decoding"], data: Path) -> str:
    """Return what decides a stage of a run, as text; `data` is the folder of datasets."""
    content = {"run": run.name, "dataset": run.hash_in(data), "config": run.config().to_dict()}
    # a predictor decodes and scores at once
    if stage == "decoding" or run.method not in methods.TRAINED:
        content |= {"splits": run.splits, "reconstruction": run.decoding()}
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


@dataclass(frozen=True)
class PlannedAnalysis:
    """An analysis of a trained model that is asked for (`nesf analyse`).

    Attributes:
        analysis: one of `nesf_studies.ANALYSES`.
        run: the folder of the model's run below `results/`.
        changes: parameter and value (text, JSON), as for `--set`.
    """

    analysis: str
    run: str
    changes: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Its folder below `results/`."""
        return f"{self.run}/analysis/{self.analysis}"

    def options(self) -> list[str]:
        """Return the options of `nesf analyse` after the run."""
        return [word for key, value in self.changes for word in ("--set", f"{key}={value}")]

    def key(self) -> str:
        """Return what decides it, as text."""
        return (
            json.dumps({"analysis": self.name, "set": dict(self.changes)}, indent=1, sort_keys=True)
            + "\n"
        )


def planned_analyses(entries: Sequence[Mapping[str, Any]]) -> list[PlannedAnalysis]:
    """Return the analyses that a workflow's configuration asks for.

    Args:
        entries: one mapping each with `run` (folder below `results/`) and `names` (analyses),
            optionally `set` (parameters of all of them).

    Raises:
        ConfigError: an entry that says nothing, too much, or the same as another; the message names
            it.
    """
    found: dict[str, PlannedAnalysis] = {}
    for entry in entries:
        shown = json.dumps(entry, default=str)
        if (
            not isinstance(entry, Mapping)
            or not isinstance(entry.get("run"), str)
            or not isinstance(entry.get("names"), list)
        ):
            raise ConfigError(
                f"analysis {shown}: a mapping with a `run` and a list of `names` is expected"
            )
        if unknown := sorted(set(entry) - {"run", "names", "set"}):
            raise ConfigError(
                f"analysis {shown}: {unknown[0]!r} is not known; the keys are run, names, set"
            )
        if not RUN_NAME.fullmatch(entry["run"]):
            raise ConfigError(
                f"analysis {shown}: run {entry['run']!r}: DATASET/METHOD/PRESET/seed-N (or fold-K) is expected"
            )
        changes = tuple(
            (k, v if isinstance(v, str) else json.dumps(v))
            for k, v in (entry.get("set") or {}).items()
        )
        for name in entry["names"]:
            if name not in ANALYSES:
                raise ConfigError(
                    f"analysis {shown}: {name!r} does not exist; choose from {', '.join(ANALYSES)}"
                )
            planned = PlannedAnalysis(name, entry["run"], changes)
            if found.setdefault(planned.name, planned) is not planned:
                raise ConfigError(f"{planned.name} is asked for twice")
    return list(found.values())


def is_analysed(planned: PlannedAnalysis, results: Path) -> bool:
    """Tell whether an analysis is recorded as asked for, of the model that the run has."""
    folder = Path(results) / planned.run
    try:
        about, run = (
            read_json(folder / "analysis" / planned.analysis / "analysis.json"),
            read_json(folder / "run.json"),
        )
        same = (
            about["model"]["dataset"] == run["dataset"]
            and about["model"]["preset"] == run["config"]["preset"]
        )
        values = {key: about["parameters"][key] for key, _ in planned.changes}
    except (DataError, KeyError, TypeError):
        return False
    return same and all(values[key] == _value(text) for key, text in planned.changes)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def write_key(path: Path, content: str) -> Path:
    """Write a key file unless it holds the content: its date is that of the last change."""
    path = Path(path)
    try:
        same = path.read_text(encoding="utf-8") == content
    except OSError:
        same = False
    if not same:
        write_atomically(path, content)
    return path
