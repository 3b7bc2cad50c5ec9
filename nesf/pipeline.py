"""The main job in stages: train → reconstruct → evaluate, each leaving its files in one run folder (layout: `nesf.records`).

RUN/model.safetensors, model.json, log.csv, checkpoint*, run.json       training
RUN/reconstruction/<split>/{crystals.safetensors, cif/, *.csv, summary.json}   reconstruction
RUN/metrics.json, materials.csv                                         evaluation
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from nesf import methods
from nesf import records as results
from nesf.config import Choices, Config, for_dataset
from nesf.crystals import Crystals
from nesf.data.dataset import Dataset
from nesf.data.streaming import StreamedDataset
from nesf.decode import Reconstruction
from nesf.distributed import n_processes, rank
from nesf.errors import ConfigError, DataError
from nesf.export import write_reconstruction
from nesf.files import read_json
from nesf.methods import Asked
from nesf.metrics import HEADLINE, Metrics, evaluate
from nesf.trainer import TrainingResult


def config_for(dataset: Dataset | StreamedDataset, config: Config) -> Config:
    """A preset as it is used for a dataset (`nesf.config.for_dataset`)."""
    return for_dataset(config, dataset.name)


def train_run(
    dataset: Dataset | StreamedDataset,
    config: Choices | None,
    folder: Path,
    *,
    method: str = "nesf",
    seed: int = 0,
    device: str = "auto",
    resume: bool | Literal["if-possible"] = False,
    minutes: float | None = None,
    max_minutes: float | None = None,
    maps: Path | None = None,
    command: str = "unknown",
    progress: bool = True,
) -> TrainingResult[Any]:
    """Train (`nesf.training.train`, or another method's) and write `run.json`.

    Args:
        method: one that is trained (`nesf.methods.TRAINED`).
        maps: folder in which a method may keep what the next training on the dataset can use again (voxelised crystals); None: nowhere.
        resume: as there; `if-possible` goes on from the folder's checkpoint if it is of this very training, and otherwise starts anew in
            place of what the folder holds: for a scheduler that runs the same command until it has succeeded.

    The other arguments are those of `nesf.training.train`; `command` is what is recorded.
    """
    commit, started, chosen = results.commit(), datetime.now(UTC).isoformat(timespec="seconds"), methods.trained(method)
    if resume == "if-possible":
        resume = chosen.can_resume(folder, dataset, config, seed=seed, device=device)
        if not resume and rank() == 0:
            discard_run(folder)
    elif resume and (folder / "checkpoint.json").exists() and (held := methods.method_of(folder, "checkpoint.json").name) != method:
        raise ConfigError(f"{folder}: holds a training of {held}, not of {method}; resume with --method {held}")
    changes: dict[str, Any] = {}
    peak_before = 0  # of sessions that this one resumes
    if resume and (folder / "run.json").exists():
        before = read_json(folder / "run.json")
        started, command = before["started"], before["command"]
        peak_before = before["peak_memory_bytes"]
        if before["commit"] != commit:
            changes["earlier_commits"] = [*before.get("earlier_commits", []), before["commit"]]
    common = {"seed": seed, "device": device, "resume": resume, "max_minutes": max_minutes, "progress": progress}
    result = chosen.train(dataset, config, folder, minutes=minutes, maps=maps, **common)
    if rank() > 0:
        return result
    if n_processes() > 1:
        changes["processes"] = n_processes()
    run = results.write_run(
        folder,
        dataset,
        method=method,
        preset=result.model.config.preset,
        seed=seed,
        command=command,
        config=result.model.config.to_dict(),
        wall_time_seconds={"train": round(60 * result.model.info["minutes"], 1)},
        device=str(result.model.device),
        finished=result.finished,
        started=started,
    )
    changes["commit"] = commit  # the code that ran is the code at the start
    changes["peak_memory_bytes"] = max(run["peak_memory_bytes"], peak_before)
    results.update_run(folder, **changes)
    return result


def discard_run(folder: Path) -> None:
    """Remove what the stages of a run have left in its folder; other files stay."""
    for pattern in ("run.json", "metrics.json", "materials.csv", "log.csv", "model.json", "model.safetensors", "checkpoint*"):
        for file in Path(folder).glob(pattern):
            file.unlink()
    shutil.rmtree(Path(folder) / "reconstruction", ignore_errors=True)


def reconstruct_run(
    folder: Path,
    dataset: Dataset,
    splits: Sequence[str] = ("val", "test"),
    *,
    config: Any = None,
    device: str = "auto",
    command: str | None = None,
    progress: bool = True,
) -> dict[str, Reconstruction]:
    """Reconstruct splits of the dataset that a run was trained on.

    Args:
        folder: the run's.
        dataset: what it was trained on.
        splits: train, val or test.
        config: of the decoding (`ReconstructionConfig`, or another method's); None for the method's own.
        device: auto, cpu, cuda, ...
        command: what is recorded, where this stage has a command of its own.
        progress: a progress bar on standard error.

    Raises:
        DataError: the folder holds no model, or the dataset is another one.
    """
    method = methods.method_of(folder)
    model = method.load(folder, device)
    config = config or method.decoding(model.config, {})
    check_dataset(model.dataset, dataset, folder)
    made = {}
    for split in splits:
        begin = time.monotonic()
        made[split] = method.reconstruct(model, dataset.split(split), config, progress)
        seconds = round(time.monotonic() - begin, 1)
        about = {"dataset": dict(model.dataset), "split": split, "reconstruction": dataclasses.asdict(config), "wall_time_seconds": seconds}
        if command:
            about |= {"command": command, "commit": results.commit()}
        write_reconstruction(folder / "reconstruction" / split, made[split], about)
    return made


def evaluate_run(
    folder: Path, dataset: Dataset, splits: Sequence[str] | None = None, *, command: str | None = None, progress: bool = True
) -> dict[str, Metrics]:
    """Score a run's reconstructions and write `metrics.json` and `materials.csv`.

    Args:
        folder: the run's.
        dataset: what it was trained on.
        splits: None for all that were reconstructed.
        command: what is recorded, where this stage has a command of its own.
        progress: a progress bar on standard error.

    Raises:
        DataError: nothing was reconstructed, or the dataset is another one.
    """
    found = sorted(p.parent.name for p in (folder / "reconstruction").glob("*/crystals.safetensors"))
    missing = sorted(set(splits or found) - set(found))
    if missing or not found:
        raise DataError(f"{folder}: no reconstruction of {missing[0] if missing else 'any split'}; run `nesf reconstruct` on it first")
    about = read_json(folder / "run.json")
    check_dataset(about["dataset"], dataset, folder)
    metrics: dict[str, Metrics] = {}
    times: dict[str, float] = {"reconstruct": 0.0, "evaluate": 0.0}
    stages: dict[str, Any] = {}
    for split in splits or found:
        begin = time.monotonic()
        part = folder / "reconstruction" / split
        metrics[split] = evaluate(dataset.split(split), Crystals.load(part / "crystals.safetensors"), progress=progress)
        made = read_json(part / "summary.json")
        times["reconstruct"] += made["wall_time_seconds"]
        if "command" in made:
            stages[f"reconstruct {split}"] = {"command": made["command"], "commit": made["commit"]}
        times["evaluate"] += time.monotonic() - begin
    results.write_metrics(folder, metrics)
    wall = about["wall_time_seconds"] if isinstance(about["wall_time_seconds"], dict) else {"train": about["wall_time_seconds"]}
    used = read_json(folder / "reconstruction" / next(iter(metrics)) / "summary.json")["reconstruction"]
    peak = max(about["peak_memory_bytes"], results.environment(about["device"])["peak_memory_bytes"])
    changes: dict[str, Any] = {"reconstruction": used, "peak_memory_bytes": peak}
    if command:
        changes["stages"] = stages | {"evaluate": {"command": command, "commit": results.commit()}}
    results.update_run(folder, wall_time_seconds=wall | {k: round(v, 1) for k, v in times.items()}, **changes)
    return metrics


def predictor_run(
    method: str,
    dataset: Dataset,
    folder: Path,
    splits: Sequence[str] = ("val", "test"),
    *,
    asked: Asked | None = None,
    decoding: Mapping[str, Any] | None = None,
    command: str = "unknown",
    progress: bool = True,
) -> dict[str, Metrics]:
    """A run of a method without training (`nesf.methods.PREDICTORS`).

    Args:
        method: `copy`, `constant` (`nesf.baselines`), `oracle` (the ground-truth fields decoded), `icsg3d-oracle` (the ground-truth maps segmented).
        dataset: whose crystals are predicted; its training split may be used.
        folder: the run's.
        splits: train, val or test.
        asked: preset, changes and label, for one that has presets.
        decoding: changed parameters of the decoding.
        command: what is recorded.
        progress: a progress bar on standard error.

    Raises:
        ConfigError: no such method or parameter.
    """
    if method not in methods.PREDICTORS:
        raise ConfigError(f"method {method!r} is not one without training; choose from {', '.join(methods.PREDICTORS)}")
    predictor, asked = methods.PREDICTORS[method], asked or Asked(dataset.name)
    config = predictor.configure(asked, decoding or {})
    begin, metrics = time.monotonic(), {}
    for split in splits:
        metrics[split] = evaluate(dataset.split(split), predictor.predict(dataset, split, config, progress), progress=progress)
    results.write_metrics(folder, metrics)
    results.write_run(
        folder,
        dataset,
        method=method,
        preset=predictor.preset_of(asked),
        seed=0,
        command=command,
        config=config,
        wall_time_seconds={"evaluate": round(time.monotonic() - begin, 1)},
    )
    return metrics


def check_dataset(recorded: Any, dataset: Dataset, folder: Path) -> None:
    """Refuse a dataset that is not the one a run was trained on.

    Raises:
        DataError: another name, fold or content.
    """
    if recorded["hash"] != dataset.hash():
        fold = "" if recorded["fold"] is None else f" fold {recorded['fold']}"
        raise DataError(
            f"{folder}: was trained on {recorded['name']}{fold} (hash {recorded['hash'][:12]}…), not on this {dataset.label} ({dataset.hash()[:12]}…)"
        )


def summary_table(metrics: dict[str, Metrics]) -> str:
    """The headline metrics of some splits as text, one row each metric."""
    keys = HEADLINE
    rows = [f"{'':40s}" + "".join(f"{split:>12s}" for split in metrics)]
    for key in (*keys, "n_nothing_detected"):
        values = [m.summary[key] for m in metrics.values()]
        rows.append(f"{key:40s}" + "".join(f"{'–' if v is None else f'{v:.4f}' if isinstance(v, float) else v:>12}" for v in values))
    return "\n".join(rows)
