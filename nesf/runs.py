"""A run: what is asked for, where it is recorded, and its stages train → reconstruct → evaluate.

RUN/model.safetensors, model.json, log.csv, checkpoint*, run.json              training
RUN/reconstruction/<split>/{crystals.safetensors, cif/, *.csv, summary.json}   reconstruction
RUN/metrics.json, materials.csv                                                evaluation

A recorded run counts as done when its content says so: dataset, config, seed and decoding are those
asked for. Dates of files, which a clone or a copy changes, do not matter. Torch and pandas are
imported by the stages alone: the workflow reads this whenever it looks for work.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict, Unpack

from nesf import methods, outputs
from nesf.config import as_json
from nesf.files import read_json
from nesf.forms import Identity, from_values, read_form
from nesf_io.errors import ConfigError, DataError

if TYPE_CHECKING:
    from nesf.data.dataset import Dataset
    from nesf.data.streaming import StreamedDataset
    from nesf.decode import Reconstruction
    from nesf.metrics import Metrics
    from nesf.trainer import TrainingResult

FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # of a dataset or a label


class Summary(TypedDict):
    """What is read again of the `summary.json` of a reconstruction."""

    wall_time_seconds: float
    reconstruction: dict[str, Any]
    certificates: NotRequired[dict[str, Certificate]]
    command: NotRequired[str]
    commit: NotRequired[str]


class Certificate(TypedDict):
    """What consistent decoding says of one crystal."""

    certified: bool
    latent_distance: float | None
    field_distance: float | None


@dataclass(frozen=True)
class Run:
    """A run that is asked for.

    Attributes:
        dataset: name.
        method: one of `nesf.methods.METHODS`.
        preset: of the method; None for its default. A method without presets is recorded as
            `default`.
        seed: of the weights, the batches and the queries; 0 for a method that is not trained.
        fold: of a cross-validation, or None.
        label: under which a changed preset is recorded, never its own name; None for that of a
            preset as it is, and for `<preset>-changed`.
        changes: dotted key and value (text, JSON), as for `--set`.
        decode: parameter of the decoding and value, as for `--decode`: the trained weights of the
            preset, decoded in another way; recorded under the label.
        splits: those that are decoded and scored.

    Raises:
        ConfigError: no such method, or a label that cannot name a folder.
    """

    dataset: str
    method: str = "nesf"
    preset: str | None = None
    seed: int = 0
    fold: int | None = None
    label: str | None = None
    changes: tuple[tuple[str, str], ...] = ()
    splits: tuple[str, ...] = ("val", "test")
    decode: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        method = methods.method(self.method)
        if self.preset is None or not method.has_presets:
            object.__setattr__(self, "preset", method.default_preset)
        if self.method not in methods.TRAINED:
            object.__setattr__(self, "seed", 0)
        if self.label is None and self.changes and method.has_presets:
            object.__setattr__(self, "label", f"{self.preset}-changed")
        if self.label is not None and not FOLDER_NAME.fullmatch(self.label):
            raise ConfigError(
                f"--label {self.label}: letters, digits and . _ - are expected, for it names a folder"
            )
        if self.label is not None and method.has_preset(self.label, self.dataset):
            raise ConfigError(f"--label {self.label}: is the name of a preset; choose another")
        if self.decode and (self.label is None or self.changes):
            raise ConfigError(
                "another decoding of trained weights needs a label, and changes nothing else"
            )

    def planned(self, minutes: float | None) -> Run:
        """Return the run as it is recorded when its epochs are planned to take so long."""
        if minutes is None or self.label or not methods.method(self.method).has_presets:
            return self
        return dataclasses.replace(self, label=f"{self.preset}-{minutes:g}-minutes")

    @property
    def name(self) -> str:
        """Its folder below `results/`."""
        return methods.run_folder(
            Path(),
            self.dataset,
            self.method,
            self.label or str(self.preset),
            seed=self.seed,
            fold=self.fold,
        ).as_posix()

    @property
    def packed(self) -> str:
        """The folder of its dataset below the data folder."""
        return self.dataset if self.fold is None else f"{self.dataset}/fold-{self.fold}"

    def config(self) -> Any:
        """Return its config, or raise `ConfigError` where there is no such preset or key."""
        method = methods.method(self.method)
        config = method.config(self.dataset, self.preset, dict(self.changes), self.label)
        return method.with_decoding(config, dict(self.decode))

    @property
    def weights(self) -> Run:
        """The run whose weights it decodes: itself, but for another decoding."""
        return dataclasses.replace(self, label=None, decode=()) if self.decode else self

    def decoding(self) -> dict[str, Any]:
        """Return the decoding as recorded; {} for a predictor, whose config says all."""
        return as_json(self.config().decoding) if self.method in methods.TRAINED else {}

    def options(self) -> list[str]:
        """Return the options of `nesf train` (a predictor's: `nesf run`) for it."""
        words = [] if self.fold is None else ["--fold", str(self.fold)]
        method = methods.method(self.method)
        if self.method != "nesf":
            words += ["--method", self.method]
        if self.method in methods.TRAINED:
            words += ["--seed", str(self.seed)]
        if method.has_presets:
            words += ["--preset", str(self.preset)]
        for key, value in self.changes:
            words += ["--set", f"{key}={value}"]
        return words + (["--label", self.label] if self.label else [])

    def missing(self, results: Path, data: Path) -> Literal["nothing", "decoding", "everything"]:
        """Return what of the run is not recorded as asked for below `results`.

        `decoding` means reconstruction and scores, while the training is recorded. `data` is the
        folder of packed datasets: one that is in it must be the recorded one.
        """
        folder, method, asked = (
            Path(results) / self.name,
            methods.method(self.method),
            self.config(),
        )
        try:
            recorded = read_json(folder / "run.json")
            same = bool(recorded["finished"]) and (recorded["seed"], recorded["method"]) == (
                self.seed,
                self.method,
            )
            same = (
                same
                and self.hash_in(data) in (None, recorded["dataset"]["hash"])
                and method.same(recorded["config"], asked)
            )
        except (DataError, ConfigError, AttributeError, KeyError, TypeError):
            return "everything"
        if not same:
            return "everything"
        try:
            decoded = self.method not in methods.TRAINED or same_decoding(
                recorded.get("reconstruction"), asked.decoding
            )
            decoded = (
                decoded
                and set(self.splits) <= set(read_json(folder / "metrics.json"))
                and (folder / "materials.csv").exists()
            )
        except (DataError, ConfigError, TypeError):
            decoded = False
        return (
            "nothing" if decoded else "decoding" if self.method in methods.TRAINED else "everything"
        )

    def hash_in(self, data: Path) -> str | None:
        """Return the hash of its dataset in the data folder; None where it is not there."""
        described = Path(data) / self.packed / "dataset.json"
        return (
            read_form(described, Identity, "build it again")["hash"] if described.exists() else None
        )


def same_decoding(recorded: Mapping[str, Any] | None, asked: Any) -> bool:
    """Tell whether a recorded decoding is the one asked for; what it lacks has its default."""
    return recorded is not None and from_values(type(asked), recorded) == asked


def train(
    run: Run,
    dataset: Dataset | StreamedDataset,
    folder: Path,
    *,
    config: Any = None,
    resume: bool | Literal["if-possible"] = False,
    replace: bool = False,
    command: str = "unknown",
    **options: Any,
) -> TrainingResult[Any]:
    """Train and write `run.json`.

    Args:
        run: what is asked for.
        dataset: in memory, or streamed.
        folder: for weights, log, checkpoint and `run.json`.
        config: None for that of the checkpoint, with `resume` only.
        resume: as in `nesf.training.train`; `if-possible` goes on from the folder's checkpoint if
            it is of this very training, and otherwise starts anew: for a scheduler that runs the
            same command until it has succeeded.
        replace: start anew in the place of a run that the folder holds.
        command: what is recorded.
        options: `device`, `minutes`, `max_minutes`, `progress`, as in `nesf.training.train`;
            `maps`, as in `nesf_icsg3d.training.train`.

    Raises:
        ConfigError: the folder holds something, and this is neither resumed nor to be replaced.
    """
    from nesf.distributed import rank

    with outputs.locked(folder) if rank() == 0 else nullcontext():
        return _train(run, dataset, Path(folder), config, resume, replace, command, options)


def _train(
    run: Run,
    dataset: Dataset | StreamedDataset,
    folder: Path,
    config: Any,
    resume: bool | Literal["if-possible"],
    replace: bool,
    command: str,
    options: dict[str, Any],
) -> TrainingResult[Any]:
    from nesf.distributed import n_processes, rank
    from nesf.records import commit, read_record, write_run

    started = datetime.now(UTC).isoformat(timespec="seconds")
    # the code that runs is that of the start
    about: dict[str, Any] = {"command": command, "commit": commit(), "started": started}
    method = methods.trained(run.method)
    if resume == "if-possible":
        resume = method.can_resume(
            folder, dataset, config, seed=run.seed, device=options.get("device", "auto")
        )
    elif (
        resume
        and (folder / "checkpoint.json").exists()
        and (held := methods.method_of(folder, "checkpoint.json").name) != method.name
    ):
        raise ConfigError(
            f"{folder}: holds a training of {held}, not of {method.name}; resume with --method {held}"
        )
    if not resume and rank() == 0:
        outputs.set_aside(folder, replace)
    recorded = folder / "run.json"
    before = read_record(recorded, "run") if resume and recorded.exists() else {}
    result = method.train(dataset, config, folder, seed=run.seed, resume=resume, **options)
    if rank() > 0:
        return result
    about |= {key: before[key] for key in ("command", "started") if key in before}
    if before and before["commit"] != about["commit"]:
        about["earlier_commits"] = [*before.get("earlier_commits", []), before["commit"]]
    if n_processes() > 1:
        about["processes"] = n_processes()
    config = result.model.config
    about |= {
        "method": method.name,
        "preset": config.preset,
        "seed": run.seed,
        "config": config.to_dict(),
        "finished": result.finished,
    }
    about["wall_time_seconds"] = {"train": round(60 * result.model.info["minutes"], 1)}
    write_run(
        folder,
        dataset,
        about,
        device=str(result.model.device),
        peak_before=before.get("peak_memory_bytes", 0),
    )
    if result.finished:
        outputs.finished(folder)
    return result


def reconstruct(
    folder: Path,
    dataset: Dataset,
    splits: Sequence[str] = ("val", "test"),
    *,
    decode: Mapping[str, Any] | None = None,
    label: str | None = None,
    model: Any = None,
    command: str | None = None,
    **options: Unpack[outputs.WriteOptions],
) -> dict[str, Reconstruction]:
    """Reconstruct splits of the dataset that a run was trained on.

    Args:
        folder: the run's.
        dataset: what it was trained on.
        splits: train, val or test.
        decode: changed parameters of the decoding.
        label: record it as a run of this name, beside the trained one; None: in its folder.
        model: the run's model, where it is at hand; None: it is read.
        command: what is recorded, where this stage has a command of its own.
        options: `replace` an earlier reconstruction; `progress`.

    Raises:
        ConfigError: an unknown parameter of the decoding, or a split is reconstructed already.
        DataError: the folder holds no model, or the dataset is another one.
    """
    from nesf.export import write_reconstruction
    from nesf.records import commit

    replace, progress = options.get("replace", False), options.get("progress", True)
    method = methods.method_of(folder)
    model = model or method.load(folder, "auto")
    decoding = method.with_decoding(model.config, decode or {}).decoding
    check_dataset(model.dataset, dataset, folder)
    if label is not None:
        folder = record_decoding(folder, label, decoding, command or "unknown", replace)
    places = {split: Path(folder) / "reconstruction" / split for split in splits}
    for place in places.values():
        outputs.check(place, replace=replace, own=outputs.RECONSTRUCTION)
    made = {}
    for split in splits:
        begin = time.monotonic()
        made[split] = method.reconstruct(model, dataset.split(split), decoding, progress)
        seconds = round(time.monotonic() - begin, 1)
        about = {
            "dataset": dict(model.dataset),
            "split": split,
            "reconstruction": dataclasses.asdict(decoding),
            "wall_time_seconds": seconds,
        }
        if command:
            about |= {"command": command, "commit": commit()}
        with outputs.output(places[split], replace=replace, own=outputs.RECONSTRUCTION) as building:
            write_reconstruction(building, made[split], about)
    return made


def record_decoding(
    folder: Path, label: str, decoding: Any, command: str, replace: bool = False
) -> Path:
    """Write the `run.json` of another decoding of a run's weights; return its folder.

    Raises:
        ConfigError: the label cannot name a folder, or is that of the run or of another one, or
            records another decoding that is not to be replaced.
    """
    from nesf.records import commit, read_record, write_checked

    folder = Path(folder).resolve()
    out = folder.parent.parent / label / folder.name
    run = read_record(folder / "run.json", "run")
    preset = methods.method(run["method"]).has_preset(label, run["dataset"]["name"])
    if not FOLDER_NAME.fullmatch(label) or out == folder or preset:
        raise ConfigError(
            f"--label {label}: a new name of letters, digits and . _ - is expected, not that of a preset"
        )
    weights = f"{folder.parent.name}/{folder.name}"
    if out.exists() and (
        not (out / "run.json").exists()
        or read_record(out / "run.json", "run").get("weights") != weights
    ):
        raise ConfigError(f"--label {label}: {out} holds something else; choose another label")
    held = read_record(out / "run.json", "run")["config"]["decoding"] if out.exists() else None
    if held not in (None, as_json(decoding)) and not replace:
        raise ConfigError(f"--label {label}: {out} records another decoding; give --replace")
    kept = {k: v for k, v in run.items() if k not in ("stages", "reconstruction")}
    about = {
        "preset": label,
        "command": command,
        "commit": commit(),
        "weights": weights,
        "config": run["config"] | {"preset": label, "decoding": as_json(decoding)},
    }
    write_checked(out / "run.json", kept | about, "run")
    return out


def evaluate(
    folder: Path,
    dataset: Dataset,
    splits: Sequence[str] | None = None,
    *,
    command: str | None = None,
    replace: bool = False,
    progress: bool = True,
) -> dict[str, Metrics]:
    """Score a run's reconstructions (`splits` None: all) and write `metrics.json`, `materials.csv`.

    Recorded scores of other splits stay.

    Raises:
        ConfigError: a split is scored already and not to be replaced (`replace`), or its decoding
            is not that of the other splits.
        DataError: nothing was reconstructed, or the dataset is another one.
    """
    from nesf import metrics, records
    from nesf.crystals import Crystals

    found = sorted(
        p.parent.name for p in (folder / "reconstruction").glob("*/crystals.safetensors")
    )
    absent = sorted(set(splits or found) - set(found))
    if absent or not found:
        again = "`nesf reconstruct` on it"
        if not (folder / "model.json").exists():  # of a method that is not trained
            again = "`nesf run` again, with --split and --replace,"
        raise DataError(
            f"{folder}: no reconstruction of {absent[0] if absent else 'any split'}; run {again} first"
        )
    run = records.read_record(folder / "run.json", "run")
    check_dataset(run["dataset"], dataset, folder)
    begin = time.monotonic()
    parts = {split: folder / "reconstruction" / split for split in splits or found}
    again = "reconstruct the split again"
    summaries = {s: read_form(p / "summary.json", Summary, again) for s, p in parts.items()}
    keep = records.kept_scores(folder, run, summaries, replace)
    scores = {
        s: metrics.evaluate(
            dataset.split(s), Crystals.load(p / "crystals.safetensors"), progress=progress
        )
        for s, p in parts.items()
    }
    for split, summary in summaries.items():
        if "certificates" in summary:
            scores[split] = metrics.with_certificates(scores[split], summary["certificates"])
    before = (
        run["wall_time_seconds"]
        if isinstance(run["wall_time_seconds"], dict)
        else {"train": run["wall_time_seconds"]}
    )
    seconds = {
        "reconstruct": sum(made["wall_time_seconds"] for made in summaries.values()),
        "evaluate": time.monotonic() - begin,
    }
    changes: dict[str, Any] = {
        "wall_time_seconds": before | {stage: round(value, 1) for stage, value in seconds.items()},
        "reconstruction": next(iter(summaries.values()))["reconstruction"],
        "peak_memory_bytes": max(run["peak_memory_bytes"], records.peak_memory()),
    }
    if command:
        made = {
            f"reconstruct {s}": {"command": m["command"], "commit": m["commit"]}
            for s, m in summaries.items()
            if "command" in m
        }
        made["evaluate"] = {"command": command, "commit": records.commit()}
        changes["stages"] = run.get("stages", {}) | made
    with outputs.locked(folder):
        records.write_metrics(folder, scores, keep)
        records.update_run(folder, changes)
    return scores


def predict(
    run: Run,
    dataset: Dataset,
    folder: Path,
    *,
    decode: Mapping[str, Any] | None = None,
    command: str = "unknown",
    replace: bool = False,
    progress: bool = True,
) -> dict[str, Metrics]:
    """Score the predictions of a method without training, and record them.

    The training split may be used: by `copy` and `constant` (`nesf.baselines`), not by `oracle`
    (the ground-truth fields decoded) and `icsg3d-oracle` (the ground-truth maps segmented).
    `decode` changes parameters of the decoding.

    Raises:
        ConfigError: the method is trained, or has no such parameter, or the folder holds something
            that is not to be replaced (`replace`).
    """
    from nesf import metrics, records

    method = methods.method(run.method)
    if not isinstance(method, methods.Predictor):
        raise ConfigError(f"method {run.method!r} has to be trained; use `nesf train`")
    config = method.with_decoding(run.config(), decode or {})
    outputs.check(folder, replace=replace, own=outputs.RUN)
    begin, scores = time.monotonic(), {}
    for split in run.splits:
        scores[split] = metrics.evaluate(
            dataset.split(split),
            method.predict(dataset, split, config, progress),
            progress=progress,
        )
    about = {
        "method": run.method,
        "preset": run.label or run.preset,
        "seed": run.seed,
        "command": command,
        "config": config.to_dict(),
    }
    about["wall_time_seconds"] = {"evaluate": round(time.monotonic() - begin, 1)}
    with outputs.output(folder, replace=replace, own=outputs.RUN) as building:
        records.write_metrics(building, scores)
        records.write_run(building, dataset, about)
    return scores


def check_dataset(recorded: Mapping[str, Any], dataset: Dataset, folder: Path) -> None:
    """Raise `DataError` for a dataset that is not the one a run was trained on."""
    if recorded["hash"] != dataset.hash():
        fold = "" if recorded["fold"] is None else f" fold {recorded['fold']}"
        raise DataError(
            f"{folder}: was trained on {recorded['name']}{fold} (hash {recorded['hash'][:12]}…), not on this {dataset.label} ({dataset.hash()[:12]}…)"
        )
