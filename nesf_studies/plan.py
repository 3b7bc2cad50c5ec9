"""What a workflow has to do: the runs that its configuration asks for, where each is recorded, and which of its stages are still missing.

A recorded run counts as done when its content says so: dataset, config, seed and decoding are those asked for. Dates of files, which a clone or
a copy changes, do not matter. Imports neither torch nor pandas: Snakemake reads this whenever it looks for work.
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
from nesf.config import Choices
from nesf.errors import ConfigError, DataError
from nesf.files import read_json, write_atomically
from nesf.methods import Asked, Predictor, run_folder
from nesf_studies.analysis import ANALYSES

N_FOLDS = {"ybco": 20}
FETCHED = ("lcs6", "ybco", "icsg3d", "icsg3d-as-released")  # `nesf data fetch` gets them
PREDICTORS = tuple(methods.PREDICTORS)  # methods that need no training
SPLITS = ("train", "val", "test")
Missing = Literal["nothing", "decoding", "everything"]

_RUN = re.compile(r"[\w.-]+/[\w.-]+/[\w.-]+/(seed|fold)-\d+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RUN_KEYS = ("dataset", "method", "preset", "label", "seeds", "folds", "set", "splits")


@dataclass(frozen=True)
class PlannedRun:
    """A run that is asked for.

    Attributes:
        dataset: name.
        method: of `nesf.methods`: one that is trained (`nesf`, `icsg3d`), or a predictor (`copy`, `constant`, `oracle`, `icsg3d-oracle`).
        preset: of the method; `default` for a predictor without presets.
        seed: of the weights, the batches and the queries.
        fold: of a cross-validation, or None.
        label: under which a changed preset is recorded, or None.
        changes: dotted key and value (text, JSON), as for `--set`.
        splits: those that are decoded and scored.
    """

    dataset: str
    method: str = "nesf"
    preset: str = "cpu"
    seed: int = 0
    fold: int | None = None
    label: str | None = None
    changes: tuple[tuple[str, str], ...] = ()
    splits: tuple[str, ...] = ("val", "test")

    @property
    def name(self) -> str:
        """Its folder below `results/`: see `run_folder`."""
        return run_folder(Path(), self.dataset, self.method, self.label or self.preset, seed=self.seed, fold=self.fold).as_posix()

    @property
    def packed(self) -> str:
        """The folder of its dataset below the data folder."""
        return self.dataset if self.fold is None else f"{self.dataset}/fold-{self.fold}"

    @property
    def asked(self) -> Asked:
        """What is asked of the method."""
        return Asked(self.dataset, self.preset, dict(self.changes), self.label)

    def config(self) -> Choices | dict[str, Any]:
        """The config of its training; of a predictor what it records.

        Raises:
            ConfigError: there is no such preset or key.
        """
        method = methods.method(self.method)
        return dict(method.configure(self.asked, {})) if isinstance(method, Predictor) else method.config(self.asked)

    def decoding(self) -> dict[str, Any]:
        """The parameters of the decoding, as recorded; {} for a predictor, whose config says all."""
        method = methods.method(self.method)
        return {} if isinstance(method, Predictor) else methods.as_json(method.decoding(method.config(self.asked), {}))

    def options(self) -> list[str]:
        """The options of `nesf train` (of a predictor: `nesf run`) that say which run it is, after the dataset's name."""
        words = [] if self.fold is None else ["--fold", str(self.fold)]
        method = methods.method(self.method)
        if self.method != "nesf":
            words += ["--method", self.method]
        if isinstance(method, Predictor) and not method.has_presets:
            return words
        words += ([] if isinstance(method, Predictor) else ["--seed", str(self.seed)]) + ["--preset", self.preset]
        for key, value in self.changes:
            words += ["--set", f"{key}={value}"]
        return words + (["--label", self.label] if self.label else [])

    def key(self, stage: Literal["training", "decoding"], data: Path) -> str:
        """What a stage is decided by, as text: equal for equal work. `data` is the folder of packed datasets."""
        content: dict[str, Any] = {"run": self.name, "dataset": _hash_in(data, self)}
        config = self.config()
        if isinstance(config, Choices):
            content["config"] = config.to_dict()
        elif config:  # a predictor decodes and scores at once
            content |= {"splits": self.splits, **config}
        if stage == "decoding":
            content |= {"splits": self.splits, "reconstruction": self.decoding()}
        return json.dumps(content, indent=1, sort_keys=True) + "\n"


@dataclass(frozen=True)
class PlannedAnalysis:
    """An analysis of a trained model that is asked for (`nesf analyse`).

    Attributes:
        analysis: one of `nesf_studies.analysis.ANALYSES`.
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
        """The options of `nesf analyse` after the run."""
        return [word for key, value in self.changes for word in ("--set", f"{key}={value}")]

    def key(self) -> str:
        """What it is decided by, as text: equal for equal work."""
        return json.dumps({"analysis": self.name, "set": dict(self.changes)}, indent=1, sort_keys=True) + "\n"


def planned_analyses(entries: Sequence[Mapping[str, Any]]) -> list[PlannedAnalysis]:
    """The analyses of a workflow configuration.

    Args:
        entries: one mapping each with `run` (folder below `results/`) and `names` (analyses), optionally `set` (parameters of all of them).

    Raises:
        ConfigError: an entry that says nothing, too much, or the same as another; the message names it.
    """
    found: dict[str, PlannedAnalysis] = {}
    for entry in entries:
        shown = json.dumps(entry, default=str)
        if not isinstance(entry, Mapping) or not isinstance(entry.get("run"), str) or not isinstance(entry.get("names"), list):
            raise ConfigError(f"analysis {shown}: a mapping with a `run` and a list of `names` is expected")
        if unknown := sorted(set(entry) - {"run", "names", "set"}):
            raise ConfigError(f"analysis {shown}: {unknown[0]!r} is not known; the keys are run, names, set")
        if not _RUN.fullmatch(entry["run"]):
            raise ConfigError(f"analysis {shown}: run {entry['run']!r}: DATASET/METHOD/PRESET/seed-N (or fold-K) is expected")
        changes = tuple((k, v if isinstance(v, str) else json.dumps(v)) for k, v in (entry.get("set") or {}).items())
        for name in entry["names"]:
            if name not in ANALYSES:
                raise ConfigError(f"analysis {shown}: {name!r} does not exist; choose from {', '.join(ANALYSES)}")
            planned = PlannedAnalysis(name, entry["run"], changes)
            if found.setdefault(planned.name, planned) is not planned:
                raise ConfigError(f"{planned.name} is asked for twice")
    return list(found.values())


def is_analysed(planned: PlannedAnalysis, results: Path) -> bool:
    """Whether an analysis is recorded with the parameters that are asked for, of the model that the run has."""
    folder = Path(results) / planned.run
    try:
        about, run = read_json(folder / "analysis" / planned.analysis / "analysis.json"), read_json(folder / "run.json")
        same = about["model"]["dataset"] == run["dataset"] and about["model"]["preset"] == run["config"]["preset"]
        values = {key: about["parameters"][key] for key, _ in planned.changes}
    except (DataError, KeyError, TypeError):
        return False
    return same and all(values[key] == _value(text) for key, text in planned.changes)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def planned_runs(entries: Sequence[Mapping[str, Any]]) -> list[PlannedRun]:
    """The runs of a workflow configuration.

    Args:
        entries: one mapping each with `dataset`; optionally `method`, `preset`, `label`, `set` (mapping of dotted keys), `splits`, and `seeds` or
            `folds`: how many, or a list of numbers. Without either: seed 0, or all folds of a dataset that has folds.

    Returns:
        In the order given, each once.

    Raises:
        ConfigError: an entry that says nothing or too much; the message names it.
    """
    runs: dict[str, PlannedRun] = {}
    for entry in entries:
        for run in _runs_of(entry):
            if runs.setdefault(run.name, run) != run:
                raise ConfigError(f"{run.name} is asked for twice, with different settings; give one of the entries a label")
    return list(runs.values())


def _runs_of(entry: Mapping[str, Any]) -> Iterable[PlannedRun]:
    shown = json.dumps(entry, default=str)
    if not isinstance(entry, Mapping) or not isinstance(entry.get("dataset"), str):
        raise ConfigError(f"run {shown}: a mapping with a `dataset` is expected")
    if unknown := sorted(set(entry) - set(_RUN_KEYS)):
        raise ConfigError(f"run {shown}: {unknown[0]!r} is not known; the keys are {', '.join(_RUN_KEYS)}")
    dataset, name, label = entry["dataset"], entry.get("method", "nesf"), entry.get("label")
    try:
        method = methods.method(name)
    except ConfigError as error:
        raise ConfigError(f"run {shown}: {error}") from None
    for text in (dataset, label):
        if text is not None and not _NAME.fullmatch(str(text)):
            raise ConfigError(f"run {shown}: {text!r} names a folder: letters, digits and . _ - are expected")
    changes = {k: v if isinstance(v, str) else json.dumps(v) for k, v in (entry.get("set") or {}).items()}
    if changes and not label:
        raise ConfigError(f"run {shown}: a changed preset needs a `label`, under which it is recorded")
    splits = tuple(s for s in SPLITS if s in entry.get("splits", ("val", "test")))
    if not splits or set(entry.get("splits", ())) - set(SPLITS):
        raise ConfigError(f"run {shown}: splits are {', '.join(SPLITS)}")
    given = method.default_preset if isinstance(method, Predictor) and not method.has_presets else entry.get("preset", method.default_preset)
    common = PlannedRun(dataset, name, given, label=label, changes=tuple(changes.items()), splits=splits)
    common.config()  # a wrong preset or key is said now, not in a job
    if dataset in N_FOLDS:
        if "seeds" in entry:
            raise ConfigError(f"run {shown}: {dataset} has folds; give `folds`, not `seeds`")
        return [dataclasses.replace(common, fold=k) for k in _numbers(entry.get("folds", N_FOLDS[dataset]), shown, below=N_FOLDS[dataset])]
    if "folds" in entry:
        raise ConfigError(f"run {shown}: {dataset} has no folds; give `seeds`")
    return [dataclasses.replace(common, seed=k) for k in _numbers(entry.get("seeds", 1), shown)]


def _numbers(value: Any, shown: str, below: int | None = None) -> list[int]:
    numbers = list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value
    fits = isinstance(numbers, list) and numbers and all(isinstance(n, int) and n >= 0 and (below is None or n < below) for n in numbers)
    if not fits:
        raise ConfigError(
            f"run {shown}: {value!r}: how many, or a list of numbers{f' from 0 to {below - 1}' if below else ' not below 0'}, is expected"
        )
    return numbers


def missing(run: PlannedRun, results: Path, data: Path) -> Missing:
    """What of a run is not recorded as asked for.

    Args:
        run: what is asked for.
        results: folder of recorded runs.
        data: folder of packed datasets; a dataset that is in it must be the recorded one.

    Returns:
        `nothing`; `decoding` (reconstruction and scores; the training is recorded); `everything`.

    Raises:
        ConfigError: the preset or a changed key does not exist.
    """
    folder, method, asked = Path(results) / run.name, methods.method(run.method), run.config()
    try:
        recorded = read_json(folder / "run.json")
        same = bool(recorded["finished"]) and (recorded["seed"], recorded["method"]) == (run.seed, run.method)
        same = same and _hash_in(data, run) in (None, recorded["dataset"]["hash"])
        if isinstance(method, Predictor):
            assert isinstance(asked, dict)
            same = same and all(recorded["config"].get(key) == value for key, value in asked.items())
        else:
            same = same and method.comparable(method.read_config(recorded["config"])) == method.comparable(asked)
    except (DataError, ConfigError, KeyError, TypeError):
        return "everything"
    if not same:
        return "everything"
    decoded = isinstance(method, Predictor) or recorded.get("reconstruction") == run.decoding()
    try:
        decoded = decoded and set(run.splits) <= set(read_json(folder / "metrics.json")) and (folder / "materials.csv").exists()
    except DataError:
        decoded = False
    return "nothing" if decoded else "everything" if isinstance(method, Predictor) else "decoding"


def _hash_in(data: Path, run: PlannedRun) -> str | None:
    """The hash of a run's dataset as it is in the data folder; None where it is not."""
    described = Path(data) / run.packed / "dataset.json"
    return read_json(described).get("hash") if described.exists() else None


def write_key(path: Path, content: str) -> Path:
    """Write a key file unless it holds the content already, so that its date is that of the last change; returns the path."""
    path = Path(path)
    try:
        same = path.read_text(encoding="utf-8") == content
    except OSError:
        same = False
    if not same:
        write_atomically(path, content)
    return path
