"""Training: the loss of Eq. 2, its schedule, checkpoints that resume exactly, and early stopping (Section 4.3).

Everything random in a step comes from (seed, epoch, step) alone, so a checkpoint needs no generator states and a run that was
killed continues as if it had not been (on a CPU with the same number of threads: bit for bit).
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from nesf.config import Config, TrainingConfig
from nesf.data.dataset import Dataset
from nesf.data.streaming import PaddedStream, StreamedDataset
from nesf.distributed import decided_by_first, n_processes, rank, total
from nesf.errors import ConfigError, DataError, NesfError
from nesf.fields import Draws, Sampler, nearest_index
from nesf.files import read_json
from nesf.hardware import can_compile, has_bf16, keep_freed_memory
from nesf.losses import TERMS, Functions, losses
from nesf.saved import TrainedModel, choose_device, describe, model_for, padded_split, read_tensors
from nesf.trainer import (
    CHECKPOINT_SECONDS,
    TrainingResult,
    adam_tensors,
    check_start,
    derived_seed,
    interruptible,
    read_checkpoint,
    restore_adam,
    resumed_config,
    with_prefix,
    write_checkpoint,
)

LOG_COLUMNS = ("epoch", "minutes", "learning_rate", *TERMS, *(f"val_{t}" for t in TERMS))


def learning_rate(config: TrainingConfig, epoch: float) -> float:
    """Learning rate at a moment of training, `epoch` counted from 0 with fractions (Section 4.3: halved every 640 epochs)."""
    if config.schedule == "step":
        return config.learning_rate * config.step_factor ** (epoch // config.step_epochs)
    if epoch < config.warmup_epochs:
        return config.learning_rate * (epoch + 0.1) / (config.warmup_epochs + 0.1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (epoch - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1)))


def resolve(config: Config, device: torch.device) -> Config:
    """Replace `auto` by what this machine can do, and say so where something asked for cannot be had."""
    t = config.training
    compiled = t.compile and can_compile(device)
    if t.compile and not compiled:
        warnings.warn("no C++ compiler found (g++): training runs without torch.compile, which is slower", stacklevel=2)
    pays = has_bf16(device) and (compiled or device.type == "cuda")  # on a CPU conversions cost more than they save unless they are compiled
    precision = ("bf16" if pays else "fp32") if t.precision == "auto" else t.precision
    return dataclasses.replace(config, training=dataclasses.replace(t, compile=compiled, precision=precision))


def train(
    dataset: Dataset | StreamedDataset,
    config: Config | None,
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    minutes: float | None = None,
    max_minutes: float | None = None,
    progress: bool = True,
) -> TrainingResult[TrainedModel]:
    """Train the autoencoder on a dataset's training split.

    Args:
        dataset: crystals in the standard setting; in memory, or read while it trains (`nesf.data.streaming.open_dataset`) with equal results.
        config: a preset, changed or not. `model.n_species` is set from the dataset's vocabulary. None, with `resume` only: the checkpoint's.
        out: folder for weights, log and checkpoint.
        seed: of the weights, the batches and the queries.
        device: `auto`, `cpu`, `cuda`, ...
        resume: go on from the checkpoint in `out`; exactly as if it had not been interrupted.
        minutes: plan the number of epochs so that training takes about this long on this machine (measured on a few steps, recorded in
            the config as `training.epochs`); a later run with that number of epochs repeats it exactly.
        max_minutes: stop after so long, with a checkpoint.
        progress: a progress bar on standard error.

    Raises:
        ConfigError, DataError: an unusable setting, or a checkpoint that does not belong to this dataset and config.
        NesfError: the loss became infinite or not a number.
    """
    out, chosen = Path(out), choose_device(device)
    started = bool(decided_by_first((out / "checkpoint.json").exists(), chosen))  # of several processes the first one may be ahead
    check_start(out, started, resume=resume)
    if resume:
        config = _resumed_config(out / "checkpoint.json", config, planned=minutes is not None)
    elif config is None:
        raise ConfigError("a config is needed to start a training; for example nesf.config.preset('cpu')")
    else:
        config = resolve(config, chosen)
        if minutes is not None:
            config = plan_epochs(dataset, config, seed, chosen, minutes)
    run = _Run(dataset, config, out, seed, chosen)
    if resume:
        run.restore()
    return run.fit(max_minutes, progress)


def can_resume(out: Path, dataset: Dataset | StreamedDataset, config: Config | None, *, seed: int = 0, device: str = "auto") -> bool:
    """Whether the folder holds a checkpoint of this very training: same dataset, config and seed, with its tensors undamaged.

    Args:
        out: folder of the training.
        dataset: what is to be trained on.
        config: None for whatever config the checkpoint has.
        seed: of the weights, the batches and the queries.
        device: of several processes the first one decides, over this device.
    """
    path = Path(out) / "checkpoint.json"

    def fits() -> bool:
        try:
            _resumed_config(path, config, planned=False)
            state = read_json(path)
            read_tensors(path.parent / state["file"], state["sha256"])
        except (NesfError, KeyError):
            return False
        return state["seed"] == seed and state["dataset"]["hash"] == dataset.hash()

    return bool(decided_by_first(path.exists() and fits(), choose_device(device)))


def _resumed_config(path: Path, given: Config | None, planned: bool) -> Config:
    """The checkpoint's config, after comparing it with the one that is given, if one is."""
    decided = {"model.n_species", "training.precision", "training.compile"} | ({"training.epochs"} if planned else set())  # by data and machine
    return resumed_config(path, Config, given, decided)


def plan_epochs(dataset: Dataset | StreamedDataset, config: Config, seed: int, device: torch.device, minutes: float) -> Config:
    """The config with `training.epochs` such that training takes about `minutes` here; times a few steps of a throw-away model."""
    run = _Run(dataset, config, None, seed, device)
    for step in range(4):
        run.step(0, step % run.steps)  # compilation and first allocations
    times = []
    for step in range(4, 16):
        start = time.perf_counter()
        run.step(0, step % run.steps)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    start = time.perf_counter()
    run.validate()
    validation = (time.perf_counter() - start) / config.training.validate_every
    epoch = sorted(times)[len(times) // 2] * run.steps + validation
    epochs = max(1, int(decided_by_first(60 * minutes / epoch, device)))
    return dataclasses.replace(config, training=dataclasses.replace(config.training, epochs=epochs))


class _Run:
    """The state of one training and the ways it moves."""

    def __init__(self, dataset: Dataset | StreamedDataset, config: Config, out: Path | None, seed: int, device: torch.device) -> None:
        if config.training.epochs < 1 or config.training.batch_size < 2:
            raise ConfigError("training.epochs must be at least 1 and training.batch_size at least 2 (batch statistics need two crystals)")
        least = max(2, n_processes())
        if min(len(dataset.splits["train"]), config.training.batch_size) < least:
            raise DataError(
                f"dataset {dataset.label}: {len(dataset.splits['train'])} training crystals in batches of {config.training.batch_size}; "
                f"at least {least} are needed, two, and one for each process"
            )
        if device.type == "cpu":
            keep_freed_memory()
        torch.manual_seed(seed)
        self.out, self.seed, self.device = out, seed, device
        self.trained = model_for(dataset, config)
        self.config = self.trained.config
        self.model = self.trained.autoencoder.to(device)
        self.train_split = padded_split(self.trained, dataset.splits["train"], device)
        self.val_split = padded_split(self.trained, dataset.splits["val"], device)
        self.sampler = Sampler(config.sampling, self.trained.box, device)
        self.generator = torch.Generator(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.training.learning_rate, fused=True)
        self.steps = math.ceil(len(self.train_split) / config.training.batch_size)
        if 0 < len(self.train_split) % config.training.batch_size < least:
            self.steps -= 1  # batch statistics of a single crystal do not exist: it joins the last full batch
        self.n_atoms: Tensor | None = None  # of each crystal, kept beside the processor that plans the steps; a stream knows a batch's itself
        self.n_global: Tensor | None = None
        self.home = torch.device("cpu")  # of the indices of a batch: where its crystals are taken from
        if not isinstance(self.train_split, PaddedStream):
            self.home, self.n_atoms = device, torch.as_tensor(dataset.splits["train"].n_atoms)
            self.n_global = self.sampler.n_global(self.train_split).cpu() if not config.sampling.n_position else None
        self.order: tuple[int, Tensor, Tensor] | None = None
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()} if config.training.average else None
        self.best: dict[str, Tensor] | None = None
        self.best_loss, self.best_epoch = math.inf, -1
        self.epoch, self.next_step, self.minutes = 0, 0, 0.0
        self.sums = torch.zeros(len(TERMS), dtype=torch.float64, device=device)
        self.log: list[dict[str, float]] = []
        functions = Functions(self.model.position_field, self.model.species_field, nearest_index)
        drawn = bool(config.sampling.n_position and config.sampling.n_species)  # then all shapes are the same in every step
        if config.training.compile:
            self.functions = Functions(*(torch.compile(f, dynamic=False if drawn else None) for f in functions))  # type: ignore[arg-type]
        else:
            self.functions = functions._replace(nearest=None)

    def batch(self, epoch: int, step: int) -> slice:
        """Where one step's crystals are in `self.order`; every crystal comes once an epoch, in an order that the seed and the epoch give."""
        if self.order is None or self.order[0] != epoch:
            self.order = None  # of two orders, 8 bytes a crystal each, only one is ever in memory
            order = torch.randperm(len(self.train_split), generator=torch.Generator().manual_seed(derived_seed(self.seed, epoch)))
            self.order = (epoch, order, order.to(self.home))  # once an epoch; a step itself moves nothing between processor and device
            if isinstance(self.train_split, PaddedStream):
                self.train_split.expect(order[self.share(self.slice_of(k))] for k in range(step, self.steps))
        return self.slice_of(step)

    def slice_of(self, step: int) -> slice:
        """Where a step's crystals are in any epoch's order."""
        size = self.config.training.batch_size
        return slice(step * size, (step + 1) * size if step < self.steps - 1 else len(self.train_split))

    @staticmethod
    def share(whole: slice) -> slice:
        """What this process takes of a batch."""
        n, processes = whole.stop - whole.start, n_processes()
        return slice(whole.start + rank() * n // processes, whole.start + (rank() + 1) * n // processes)

    def step(self, epoch: int, step: int) -> None:
        """One step of the optimiser."""
        t = self.config.training
        self.model.train()
        whole = self.batch(epoch, step)
        assert self.order is not None
        own = self.share(whole)
        torch.manual_seed(derived_seed(self.seed, epoch, step, 2 * rank()))  # dropout
        shared = self.config.sampling.n_position and self.config.sampling.n_species
        self.generator.manual_seed(derived_seed(self.seed, epoch, step, 1 if shared else 1 + 2 * rank()))  # queries
        indices = self.order[1][own]
        crystals = self.train_split.select(self.order[2][own], int(self.n_atoms[indices].sum()) if self.n_atoms is not None else None)
        n_global = int(self.n_global[indices].sum()) if self.n_global is not None else None
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(t, epoch + step / self.steps)
        draws = Draws(self.generator, own.start - whole.start, whole.stop - whole.start)
        terms = losses(self.model, crystals, self.sampler, self.config, draws, self.functions, n_global)
        self.optimizer.zero_grad(set_to_none=True)
        terms[0].backward()
        terms = self.add_up(terms.detach())
        if t.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), t.gradient_clip)
        self.optimizer.step()
        self.sums += terms.double()
        if self.average is not None:
            with torch.no_grad():
                for name, value in self.model.state_dict().items():
                    if value.is_floating_point():
                        self.average[name].lerp_(value, 1 - t.average)
                    else:
                        self.average[name].copy_(value)

    def add_up(self, terms: Tensor) -> Tensor:
        """Sum gradients and loss terms over all processes, in one message; gives the terms."""
        if n_processes() == 1:
            return terms
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        message = total(torch.cat([terms, *(g.flatten() for g in gradients)]))
        for gradient, summed in zip(gradients, message[len(terms) :].split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))
        return message[: len(terms)]

    def candidate(self) -> dict[str, Tensor]:
        """The weights that would be kept now: the moving average where there is one."""
        return self.average if self.average is not None else self.model.state_dict()

    @torch.no_grad()
    def validate(self) -> Tensor:
        """Eq. 2 and its terms on the validation split, always with the same queries."""
        current = {k: v.clone() for k, v in self.model.state_dict().items()} if self.average is not None else None
        if self.average is not None:
            self.model.load_state_dict(self.average)
        self.model.eval()
        sums, n = torch.zeros(len(TERMS), dtype=torch.float64, device=self.device), len(self.val_split)
        size = self.config.training.batch_size
        own = range(rank() * size, n, n_processes() * size)  # batches in turn
        if isinstance(self.val_split, PaddedStream):
            self.val_split.expect(torch.arange(i, min(i + size, n)) for i in own)
        for i in own:
            indices = torch.arange(i, min(i + size, n), device=self.home)
            self.generator.manual_seed(derived_seed(self.seed, -1, i // size))
            sums += losses(self.model, self.val_split.select(indices), self.sampler, self.config, self.generator).double() * len(indices)
        if current is not None:
            self.model.load_state_dict(current)
        return total(sums) / max(n, 1)

    def end_epoch(self, bar: Any) -> None:
        """Log the epoch, validate, remember the best weights."""
        t = self.config.training
        row = {"epoch": self.epoch + 1, "minutes": round(self.minutes, 4), "learning_rate": self.optimizer.param_groups[0]["lr"]}
        row |= dict(zip(TERMS, (self.sums / self.steps).tolist(), strict=True))
        if not math.isfinite(row["loss"]):
            raise NesfError(f"the loss is {row['loss']} in epoch {self.epoch + 1}: try a smaller training.learning_rate or training.gradient_clip=1")
        if len(self.val_split) and ((self.epoch + 1) % t.validate_every == 0 or self.epoch + 1 == t.epochs):
            values = self.validate().tolist()
            row |= {f"val_{name}": value for name, value in zip(TERMS, values, strict=True)}
            if t.early_stopping and values[0] < self.best_loss:
                self.best_loss, self.best_epoch = values[0], self.epoch + 1
                self.best = {k: v.detach().clone() for k, v in self.candidate().items()}
        self.log.append(row)
        self.sums.zero_()
        self.epoch, self.next_step = self.epoch + 1, 0
        shown = {"loss": f"{row['loss']:.3f}", "position": f"{row['loss_position']:.4f}", "species": f"{row['loss_species']:.3f}"}
        if math.isfinite(self.best_loss):
            shown["best val"] = f"{self.best_loss:.3f}@{self.best_epoch}"
        bar.set_postfix(shown, refresh=False)
        bar.update(1)

    def fit(self, max_minutes: float | None, progress: bool) -> TrainingResult[TrainedModel]:
        """Train until the last epoch, the time budget or Ctrl-C, whichever comes first."""
        t = self.config.training
        begin, before, last_save = time.monotonic(), self.minutes, time.monotonic()
        bar = tqdm(
            total=t.epochs,
            initial=self.epoch,
            unit="epoch",
            desc="training",
            disable=not progress or rank() > 0,
            mininterval=1 if sys.stderr.isatty() else 30,
            dynamic_ncols=True,
        )
        with interruptible() as interrupted, bar:
            while self.epoch < t.epochs:
                self.step(self.epoch, self.next_step)
                self.next_step += 1
                self.minutes = before + (time.monotonic() - begin) / 60
                if self.next_step == self.steps:
                    self.end_epoch(bar)
                stop = self.agreed(interrupted() or (max_minutes is not None and self.minutes - before >= max_minutes))
                if stop or time.monotonic() - last_save > CHECKPOINT_SECONDS:
                    self.save()
                    last_save = time.monotonic()
                if stop:
                    break
        self.save()
        return self.finish()

    def agreed(self, wish: bool) -> bool:
        """Whether all processes stop here: those that train together ask each other now and then, as soon as one wishes to."""
        if n_processes() == 1:
            return wish
        return self.next_step % 20 == 0 and bool(total(torch.tensor(float(wish), device=self.device)) > 0)

    def finish(self) -> TrainingResult[TrainedModel]:
        """Write the weights to keep."""
        assert self.out is not None
        chosen = self.best if self.best is not None else self.candidate()
        self.trained.info = {
            "epoch": self.best_epoch if self.best is not None else self.epoch,
            "epochs_trained": self.epoch,
            "best_val_loss": self.best_loss if math.isfinite(self.best_loss) else None,
            "seed": self.seed,
            "minutes": round(self.minutes, 3),
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else self.device.type,
            "threads": torch.get_num_threads(),
            "finished": self.epoch >= self.config.training.epochs,
        }
        self.model.load_state_dict(chosen)
        self.model.eval()
        if rank() == 0:
            self.trained.save(self.out)
        return TrainingResult(self.trained, self.out, self.log, self.epoch >= self.config.training.epochs)

    def save(self) -> None:
        """Write a checkpoint."""
        if rank() > 0:
            return
        assert self.out is not None
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for prefix, weights in (("average.", self.average), ("best.", self.best)):
            tensors |= {prefix + k: v for k, v in (weights or {}).items()}
        tensors |= adam_tensors(self.optimizer) | {"sums": self.sums}
        name = f"checkpoint-{self.epoch:05d}-{self.next_step:05d}.safetensors"
        best = self.best_loss if math.isfinite(self.best_loss) else None
        state: dict[str, Any] = {"epoch": self.epoch, "step": self.next_step, "seed": self.seed, "minutes": self.minutes}
        state |= {"best_loss": best, "best_epoch": self.best_epoch, "threads": torch.get_num_threads()}
        about = describe(self.config, self.trained.vocabulary, self.trained.box, self.trained.dataset)
        write_checkpoint(self.out, name, tensors, state | about, self.log, LOG_COLUMNS)

    def restore(self) -> None:
        """Go back to the checkpoint in `out`."""
        assert self.out is not None
        needed = ("epoch", "step", "minutes", "best_loss", "best_epoch", "threads")
        state, tensors = read_checkpoint(self.out, needed, seed=self.seed, dataset=self.trained.dataset)
        if state["threads"] != torch.get_num_threads() and self.device.type == "cpu":
            warnings.warn(
                f"resumed with {torch.get_num_threads()} threads instead of {state['threads']}: equal up to rounding, not bit for bit", stacklevel=3
            )
        tensors = {k: v.to(self.device) for k, v in tensors.items()}
        self.model.load_state_dict(with_prefix(tensors, "model."))
        self.average = with_prefix(tensors, "average.") or None
        self.best = with_prefix(tensors, "best.") or None
        restore_adam(self.optimizer, tensors)
        self.sums = tensors["sums"]
        self.best_loss = math.inf if state["best_loss"] is None else state["best_loss"]
        self.best_epoch, self.epoch, self.next_step, self.minutes = state["best_epoch"], state["epoch"], state["step"], state["minutes"]
        self.log = state["log"]
