"""What every training has in common, whatever it trains: seeds, interruptions, and checkpoints that are either whole or not there."""

from __future__ import annotations

import csv
import io
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from nesf.config import Choices
from nesf.errors import ConfigError, DataError
from nesf.files import read_json, sha256_of, write_atomically, write_json
from nesf.saved import read_tensors

CHECKPOINT_SECONDS = 30.0  # at most so much work is lost to a kill
Model = TypeVar("Model")
Chosen = TypeVar("Chosen", bound=Choices)


@dataclass(frozen=True)
class TrainingResult(Generic[Model]):
    """What a training ended with.

    Attributes:
        model: the weights that are kept: best validation loss with early stopping, else the last.
        folder: where `model.safetensors`, `model.json`, `log.csv` and the checkpoint are.
        log: one dictionary an epoch, keys as the columns of `log.csv`.
        finished: False when the time budget or Ctrl-C ended it; `resume=True` goes on.
    """

    model: Model
    folder: Path
    log: list[dict[str, Any]]
    finished: bool


def derived_seed(seed: int, *purpose: int) -> int:
    """One number from a run's seed and a purpose, so that nothing random depends on what came before."""
    for part in purpose:
        seed = (seed * 6364136223846793005 + part + 1442695040888963407) % (1 << 63)
        seed ^= seed >> 29
    return seed


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop after the step; a second one interrupts as usual."""
    asked = False

    def handle(number: int, _: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(number, previous[number])

    previous: dict[int, Any] = {}
    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            previous[number] = signal.signal(number, handle)
    except ValueError:  # not the main thread: signals stay as they are
        pass
    try:
        yield lambda: asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def adam_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of Adam by number of the parameter, for a checkpoint."""
    parameters = optimizer.param_groups[0]["params"]
    return {f"adam.{i}.{k}": v for i, p in enumerate(parameters) for k, v in optimizer.state.get(p, {}).items()}


@torch.no_grad()
def restore_adam(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `adam_tensors`.

    Moments get their parameter's order in memory (channels first or last), which a file does not keep: fused Adam goes through both as they lie.
    """
    for i, parameter in enumerate(optimizer.param_groups[0]["params"]):
        if moments := with_prefix(tensors, f"adam.{i}."):
            optimizer.state[parameter] = {
                k: torch.empty_like(parameter).copy_(v) if v.shape == parameter.shape else v.to(parameter.device) for k, v in moments.items()
            }


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin so, without it."""
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def write_checkpoint(
    out: Path, name: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any], log: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> None:
    """Write a checkpoint and `log.csv`: tensors under a new name, then the JSON that names them; a kill in between leaves the old pair.

    Args:
        out: folder of the training.
        name: of the tensors' file, `checkpoint-….safetensors`; another one each time.
        tensors: any.
        state: everything else; `file`, `sha256` and `log` are added.
        log: one row an epoch.
        columns: of `log.csv`.
    """
    write_atomically(out / name, to_safetensors({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(log)
    write_atomically(out / "log.csv", buffer.getvalue())
    write_json(out / "checkpoint.json", {"file": name, "sha256": sha256_of(out / name), **state, "log": list(log)})
    for old in (*out.glob("checkpoint-*.safetensors"), *out.glob(".checkpoint*.part")):  # a kill while writing leaves the latter
        if old.name != name:
            old.unlink()


def read_checkpoint(out: Path, needed: Sequence[str], *, seed: int, dataset: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """State and tensors of the checkpoint in a folder, after comparing what it belongs to.

    Args:
        out: folder of the training.
        needed: keys of the state, beside those that every checkpoint has.
        seed: of the training.
        dataset: name, fold and hash.

    Raises:
        DataError: not a whole checkpoint, damaged, or of another dataset.
        ConfigError: of another seed.
    """
    path = out / "checkpoint.json"
    state = read_json(path)
    if missing := [key for key in ("file", "sha256", "seed", "dataset", "log", *needed) if key not in state]:
        raise DataError(f"{path}: is not a whole checkpoint ({missing[0]!r} is missing); start again in another folder")
    if state["dataset"] != dict(dataset):
        raise DataError(f"{path}: was trained on {state['dataset']}, not on {dict(dataset)}; give the dataset it was trained on")
    if state["seed"] != seed:
        raise ConfigError(f"{path}: was started with --seed {state['seed']}, not {seed}; give the same seed")
    return state, read_tensors(out / state["file"], state["sha256"])


def resumed_config(path: Path, kind: type[Chosen], given: Chosen | None, decided: set[str]) -> Chosen:
    """The checkpoint's config, after comparing it with the one that is given, if one is.

    Args:
        path: of `checkpoint.json`.
        kind: the class of the config.
        given: what is asked for; None for whatever the checkpoint has.
        decided: dotted keys that data and machine decide, which are not compared.

    Raises:
        DataError: not a checkpoint.
        ConfigError: another config.
    """
    saved = read_json(path).get("config")
    if not isinstance(saved, dict):
        raise DataError(f"{path}: is not a checkpoint of this program (no config in it); start again in another folder")
    wanted = given.to_dict() if given else {}
    for section, values in wanted.items():
        for key, value in values.items() if isinstance(values, dict) and section != "decoding" else ():  # a training does not depend on the decoding
            if f"{section}.{key}" not in decided and saved.get(section, {}).get(key) != value:
                raise ConfigError(
                    f"{path}: was started with {section}.{key} = {saved.get(section, {}).get(key)!r}, not {value!r}; resume with the same options, or with none"
                )
    return kind.from_dict(saved | {key: wanted[key] for key in ("decoding",) if key in wanted})


def check_start(out: Path, started: bool, *, resume: bool) -> None:
    """Refuse to start where a training is, and to resume where none is.

    Raises:
        ConfigError, DataError: the folder does not go with `resume`.
    """
    if started and not resume:
        raise ConfigError(f"{out}: holds a training already; go on with --resume, or choose another folder")
    if resume and not started:
        raise DataError(f"{out}: no checkpoint to resume from; start without --resume")
