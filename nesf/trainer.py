"""What every training shares: loop, checkpoints that are written whole, interruptions, seeds."""

from __future__ import annotations

import csv
import io
import math
import re
import signal
import sys
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, NotRequired, Protocol, TypedDict, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from nesf.config import ConfigBase
from nesf.data.dataset import Dataset
from nesf.data.streaming import StreamedDataset
from nesf.distributed import from_first_rank, n_processes, rank, sum_over_ranks
from nesf.files import write_atomically, write_json
from nesf.forms import FORMAT, Identity, Range, Sha256, read_form
from nesf.outputs import CHECKPOINT, PART
from nesf.saved import (
    check_finite,
    choose_device,
    config_in,
    read_tensors,
    write_tensors,
)
from nesf_io.errors import ConfigError, DataError, NesfError

CHECKPOINT_SECONDS = 30.0  # at most so much work is lost to a kill
NO_CHECKPOINT = "this is not a whole checkpoint; start again in another folder"


class CheckpointFile(TypedDict):
    """What `checkpoint.json` holds; without `format` it is of the first version."""

    format: NotRequired[int]
    file: Annotated[str, r"checkpoint-[\w-]+\.safetensors"]
    sha256: Sha256
    config: dict[str, Any]
    dataset: Identity
    network: NotRequired[str]
    epoch: int
    step: int
    seed: int
    minutes: float
    threads: int
    best_loss: Annotated[float, Range()] | None
    best_epoch: Annotated[int, Range(-1, 2**31)]
    best_epochs: NotRequired[dict[str, int]]
    best_losses: NotRequired[dict[str, Annotated[float, Range()] | None]]
    log: list[dict[str, Any]]


class SavableModel(Protocol):
    """What a training needs of a model, beside its network."""

    dataset: Mapping[str, Any]
    info: Mapping[str, Any]

    @property
    def description(self) -> dict[str, Any]:
        """JSON metadata saved with the weights."""

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `model.json`."""


Model = TypeVar("Model", bound=SavableModel)


@dataclass(frozen=True)
class TrainingResult(Generic[Model]):
    """The outcome of a training."""

    model: Model  # of the best validation loss with early stopping, else of the last epoch
    folder: Path  # of `model.safetensors`, `model.json`, `log.csv` and the checkpoint
    log: list[dict[str, Any]]  # an entry an epoch, keys as the columns of `log.csv`
    finished: bool  # False when the time budget or Ctrl-C ended it; `resume=True` goes on


class FitOptions(TypedDict, total=False):
    """Options of `Trainer.fit`, which `train` of each method takes too."""

    max_minutes: float | None
    progress: bool


class Trainer(ABC, Generic[Model]):
    """One training in progress. Subclasses add the data, a training step and the validation.

    Networks are trained one after the other, each with its optimiser and epochs (NeSF: one
    network). All that is random in a step comes from (seed, network, epoch, step) alone. So a
    checkpoint needs no generator states, and a run that was killed continues as if it had not been
    (on a CPU with the same number of threads: bit for bit).
    """

    config_class: ClassVar[type[ConfigBase]]
    # of the config, dotted, set by data and machine: not compared with a checkpoint's
    machine_keys: ClassVar[frozenset[str]]
    log_columns: ClassVar[tuple[str, ...]]
    terms: ClassVar[Mapping[str, tuple[str, ...]]]  # names of the loss and its terms, by network
    model: nn.Module  # whose weights a checkpoint holds
    validate_every: int = 1  # epochs; 0: there are no validation crystals
    keeps_best: bool = True  # the weights of the lowest validation loss; else the last ones
    # moving average of the weights, which is then validated and kept; empty: none
    average: Mapping[str, Tensor] = {}
    current: nn.Module  # the network in training; `begin` sets it and what follows
    optimizer: torch.optim.Optimizer
    steps: int  # an epoch
    remedy: str  # where the loss is not finite

    def __init__(
        self, trained: Model, epochs: Mapping[str, int], seed: int, device: torch.device
    ) -> None:
        self.trained, self.epochs, self.seed, self.device = trained, epochs, seed, device
        self.minutes = 0.0
        self.log: list[dict[str, Any]] = []
        self.best_epochs: dict[str, int] = {}  # of the networks that have been trained
        self.best_losses: dict[str, float | None] = {}

    @abstractmethod
    def begin(self, network: str) -> None:
        """Start the training of a network."""
        self.network, self.epoch, self.next_step = network, 0, 0
        # of the epoch's losses
        self.sums = torch.zeros(len(self.terms[network]), dtype=torch.float64, device=self.device)
        self.best: Mapping[str, Tensor] = {}
        self.best_loss: float | None = None
        self.best_epoch = -1

    @abstractmethod
    def step(self, epoch: int, step: int) -> None:
        """Take one step of the optimiser and add its losses to `sums`."""

    @abstractmethod
    def validate(self) -> Tensor:
        """Return the loss and its terms on the validation crystals."""

    @property
    def finished(self) -> bool:
        """Whether all networks have had all their epochs."""
        return len(self.log) >= sum(self.epochs.values())

    @property
    def recorded_network(self) -> dict[str, Any]:
        """The current network as log and checkpoint name it; nothing where there is only one."""
        return {"network": self.network} if len(self.epochs) > 1 else {}

    def fit(
        self, out: Path, *, max_minutes: float | None = None, progress: bool = True
    ) -> TrainingResult[Model]:
        """Train until the last epoch, the time budget or Ctrl-C; write checkpoints and weights."""
        begin, before, last_save = time.monotonic(), self.minutes, time.monotonic()
        bar = tqdm(
            total=sum(self.epochs.values()),
            initial=len(self.log),
            unit="epoch",
            desc="training",
            disable=not progress or rank() > 0,
            mininterval=1 if sys.stderr.isatty() else 30,
            dynamic_ncols=True,
        )
        with interruptible() as interrupted, bar:
            while not self.finished:
                self.step(self.epoch, self.next_step)
                self.next_step += 1
                self.minutes = before + (time.monotonic() - begin) / 60
                if self.next_step == self.steps:
                    self.end_epoch(bar)
                stop = interrupted() or (
                    max_minutes is not None and self.minutes - before >= max_minutes
                )
                # all ranks stop after the same step, for which they ask each other every 20 steps
                if n_processes() > 1:
                    stop = self.next_step % 20 == 0 and bool(
                        sum_over_ranks(torch.tensor(float(stop), device=self.device)) > 0
                    )
                if stop or time.monotonic() - last_save > CHECKPOINT_SECONDS:
                    self.save(out)
                    last_save = time.monotonic()
                if stop:
                    break
        self.save(out)
        return self.finish(out)

    def end_epoch(self, bar: Any) -> None:
        """Validate, log, remember the best weights, and go on to the next epoch or network."""
        names, done = self.terms[self.network], self.epoch + 1
        rate = self.optimizer.param_groups[0]["lr"]
        row = self.recorded_network | {
            "epoch": done,
            "minutes": round(self.minutes, 4),
            "learning_rate": rate,
        }
        row |= dict(zip(names, self.finite((self.sums / self.steps).tolist()), strict=True))
        if self.validate_every and (
            done % self.validate_every == 0 or done == self.epochs[self.network]
        ):
            values = self.validate().tolist()
            row |= {f"val_{name}": value for name, value in zip(names, values, strict=True)}
            if self.keeps_best and (self.best_loss is None or values[0] < self.best_loss):
                self.best_loss, self.best_epoch, self.best = (
                    values[0],
                    done,
                    clone(self.candidate()),
                )
        self.log.append(row)
        self.sums.zero_()
        self.epoch, self.next_step = done, 0
        shown = self.recorded_network | {
            name.removeprefix("loss_"): f"{row[name]:.4g}" for name in names[:3]
        }
        if self.best_loss is not None:
            shown["best val"] = f"{self.best_loss:.4g}@{self.best_epoch}"
        bar.set_postfix(shown, refresh=False)
        bar.update(1)
        if done == self.epochs[self.network] and not self.finished:
            self.end_network()
            networks = list(self.epochs)
            self.begin(networks[networks.index(self.network) + 1])

    def finite(self, losses: list[float]) -> list[float]:
        """Return the loss and its terms; raise NesfError where one is infinite or not a number."""
        if not all(map(math.isfinite, losses)):
            of = f" of {self.network}" if self.recorded_network else ""
            raise NesfError(
                f"the loss{of} is not finite ({losses[0]}) in epoch {self.epoch + 1}: try {self.remedy}"
            )
        return losses

    def candidate(self) -> Mapping[str, Tensor]:
        """Return the weights that would be kept now: the moving average where there is one."""
        return self.average or self.current.state_dict()

    def end_network(self) -> None:
        """Give the current network the weights to keep."""
        self.current.load_state_dict(self.best or self.candidate())
        self.current.eval()
        self.best_epochs[self.network] = self.best_epoch if self.best else self.epoch
        self.best_losses[self.network] = self.best_loss

    def finish(self, out: Path) -> TrainingResult[Model]:
        """Write the weights to keep."""
        self.end_network()
        several = {"best_epochs": self.best_epochs, "best_val_losses": self.best_losses}
        self.trained.info = {
            "epoch": self.best_epochs[self.network],
            "epochs_trained": len(self.log),
            **(several if self.recorded_network else {"best_val_loss": self.best_loss}),
            "seed": self.seed,
            "minutes": round(self.minutes, 3),
            "device": torch.cuda.get_device_name()
            if self.device.type == "cuda"
            else self.device.type,
            "threads": torch.get_num_threads(),
            "finished": self.finished,
        }
        if rank() == 0:
            self.trained.save(out)
        return TrainingResult(self.trained, out, self.log, self.finished)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds beside tensors, metadata and log."""
        state: dict[str, Any] = {
            "epoch": self.epoch,
            "step": self.next_step,
            "seed": self.seed,
            "minutes": self.minutes,
        }
        state |= {"best_loss": self.best_loss, "best_epoch": self.best_epoch}
        earlier = (
            {"best_epochs": self.best_epochs, "best_losses": self.best_losses}
            if self.recorded_network
            else {}
        )
        return {**self.recorded_network, **state, **earlier, "threads": torch.get_num_threads()}

    def save(self, out: Path) -> None:
        """Write `log.csv` and a checkpoint, its JSON last, so that a kill leaves the old one."""
        if rank() > 0:
            return
        parts: dict[str, Mapping[str, Tensor]] = {
            "model": self.model.state_dict(),
            "average": self.average,
            "best": self.best,
        }
        for i, parameter in enumerate(self.optimizer.param_groups[0]["params"]):
            parts[f"adam.{i}"] = self.optimizer.state.get(parameter, {})
        tensors = {
            f"{part}.{k}": v for part, values in parts.items() for k, v in values.items()
        } | {"sums": self.sums}
        name = "-".join(
            [
                "checkpoint",
                *self.recorded_network.values(),
                f"{self.epoch:05d}",
                f"{self.next_step:05d}.safetensors",
            ]
        )
        sha256 = write_tensors(out / name, tensors)
        table = io.StringIO()
        writer = csv.DictWriter(table, self.log_columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.log)
        write_atomically(out / "log.csv", table.getvalue())
        write_json(
            out / "checkpoint.json",
            {
                "format": FORMAT,
                "file": name,
                "sha256": sha256,
                **self.state(),
                **self.trained.description,
                "log": self.log,
            },
        )
        # a kill while writing leaves the latter
        for old in (*out.glob("checkpoint-*.safetensors"), *out.glob(".*.part")):
            if old.name != name and re.fullmatch(rf"{CHECKPOINT}|{PART}", old.name):
                old.unlink()

    def restore(self, out: Path) -> None:
        """Go back to the checkpoint in a folder.

        Raises:
            DataError: it is not whole, damaged, or of another dataset.
            ConfigError: it is of another seed.
        """
        path, threads, dataset = (
            out / "checkpoint.json",
            torch.get_num_threads(),
            self.trained.dataset,
        )
        state = read_form(path, CheckpointFile, NO_CHECKPOINT)
        if state["dataset"] != dataset:
            raise DataError(
                f"{path}: was trained on {state['dataset']}, not on {dataset}; give the dataset it was trained on"
            )
        if state["seed"] != self.seed:
            raise ConfigError(
                f"{path}: was started with --seed {state['seed']}, not {self.seed}; give the same seed"
            )
        if state["threads"] != threads and self.device.type == "cpu":
            warnings.warn(
                f"resumed with {threads} threads instead of {state['threads']}: equal up to rounding, not bit for bit",
                stacklevel=3,
            )
        weights = out / state["file"]
        tensors = {k: v.to(self.device) for k, v in read_tensors(weights, state["sha256"]).items()}
        check_finite(weights, tensors)
        try:
            self._restore(state, tensors)
        except (ConfigError, KeyError, RuntimeError, ValueError) as error:
            raise DataError(
                f"{path}: does not fit this training ({' '.join(str(error).split())[:200]}); start again in another folder"
            ) from None

    def _restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take over a checkpoint's content.

        Raises:
            ConfigError, KeyError, RuntimeError, ValueError: its parts do not fit each other.
        """
        networks, self.log = list(self.epochs), state["log"]
        network = state.get("network", networks[0])
        before = sum(self.epochs[name] for name in networks[: networks.index(network)])
        self.begin(network)
        self.epoch, self.next_step = state["epoch"], state["step"]
        ended = self.epoch == self.epochs[network]
        if (
            self.epoch > self.epochs[network]
            or self.next_step >= (1 if ended else self.steps)
            or len(self.log) != before + self.epoch
            or not all({"epoch"} <= set(row) <= set(self.log_columns) for row in self.log)
        ):
            raise ConfigError(
                f"epoch {self.epoch}, step {self.next_step} and {len(self.log)} rows of the log"
            )
        averages = bool(self.average)
        self.average, self.best = with_prefix(tensors, "average."), with_prefix(tensors, "best.")
        if bool(self.average) != averages:
            raise ConfigError("its weights are averaged, or not, against its config")
        for kept in (self.average, self.best):
            if kept:
                self.current.load_state_dict(kept)  # whether they fit
        self.model.load_state_dict(with_prefix(tensors, "model."))
        restore_adam(self.optimizer, tensors)
        self.sums = self.sums.copy_(tensors["sums"])
        self.minutes, self.best_loss, self.best_epoch = (
            state[k] for k in ("minutes", "best_loss", "best_epoch")
        )
        self.best_epochs, self.best_losses = (
            state.get("best_epochs", {}),
            state.get("best_losses", {}),
        )

    @classmethod
    def starting_config(
        cls, out: Path, given: Any, *, resume: bool, planned: bool = False, device: torch.device
    ) -> Any:
        """Return the config to train with: the given one, or with `resume` that of the checkpoint.

        Raises:
            ConfigError: no config, or another one than the checkpoint's (`planned`: but for its
                epochs).
            DataError, ConfigError: a checkpoint is missing, or there already.
        """
        path = out / "checkpoint.json"
        # a later rank may see what the first one has already written
        started = bool(from_first_rank(path.exists(), device))
        if resume:
            if not started:
                raise DataError(f"{out}: no checkpoint to resume from; start without --resume")
            return cls._checkpoint_config(path, given, planned)
        if started:
            raise ConfigError(
                f"{out}: holds a training already; go on with --resume, or choose another folder"
            )
        if given is None:
            raise ConfigError(
                f"a config is needed to start a training; for example a preset of {cls.config_class.__module__}"
            )
        return given

    @classmethod
    def _checkpoint_config(cls, path: Path, given: Any, planned: bool = False) -> Any:
        saved = read_form(path, CheckpointFile, NO_CHECKPOINT)["config"]
        held_config = config_in(path, cls.config_class, saved)
        if given is None:
            return held_config
        sections = given.to_dict()
        sections.pop("preset")
        decoding = sections.pop("decoding")  # on which a training does not depend
        skipped = cls.machine_keys | ({"training.epochs"} if planned else set())
        for name, section in sections.items():
            for key, value in section.items():
                if (
                    f"{name}.{key}" not in skipped
                    and (held := saved.get(name, {}).get(key)) != value
                ):
                    raise ConfigError(
                        f"{path}: was started with {name}.{key} = {held!r}, not {value!r}; resume with the same options, or none"
                    )
        return config_in(path, cls.config_class, saved | {"decoding": decoding})

    @classmethod
    def can_resume(
        cls,
        out: Path,
        dataset: Dataset | StreamedDataset,
        config: Any,
        *,
        seed: int = 0,
        device: str = "auto",
    ) -> bool:
        """Return whether `out` holds a whole checkpoint of this dataset, config and seed."""
        path = Path(out) / "checkpoint.json"
        try:
            state = read_form(path, CheckpointFile, NO_CHECKPOINT)
            cls._checkpoint_config(path, config)
            read_tensors(path.parent / state["file"], state["sha256"])
            fits = state["seed"] == seed and state["dataset"]["hash"] == dataset.hash()
        except NesfError:
            fits = False
        return bool(from_first_rank(fits, choose_device(device)))


@torch.no_grad()
def restore_adam(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give Adam the state that a checkpoint holds, by number of the parameter.

    Moments get their parameter's order in memory (channels first or last), which a file does not
    keep and fused Adam relies on.
    """
    for i, parameter in enumerate(optimizer.param_groups[0]["params"]):
        for name, value in with_prefix(tensors, f"adam.{i}.").items():
            moment = value.shape == parameter.shape  # else the number of steps
            optimizer.state[parameter][name] = (
                torch.empty_like(parameter).copy_(value) if moment else value
            )


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, under the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def clone(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of weights that training does not change."""
    return {k: v.detach().clone() for k, v in weights.items()}


def derived_seed(seed: int, *purpose: int) -> int:
    """Return a seed from a run's seed and a purpose, which thus depends on nothing drawn before."""
    for part in purpose:
        seed = (seed * 6364136223846793005 + part + 1442695040888963407) % (1 << 63)
        seed ^= seed >> 29
    return seed


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop; a second one interrupts as usual."""
    requested = False

    def handle(number: int, _: Any) -> None:
        nonlocal requested
        requested = True
        signal.signal(number, previous[number])

    # elsewhere signals stay as they are
    in_main_thread = threading.current_thread() is threading.main_thread()
    previous: dict[int, Any] = {
        s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM) if in_main_thread
    }
    for number in previous:
        signal.signal(number, handle)
    try:
        yield lambda: requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
