"""Training of the autoencoder (Section 4.3): loss (Eq. 2), schedule, steps of all processes."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Unpack

import torch
from torch import Tensor
from torch.nn import functional

from nesf.augmentation import vary
from nesf.config import Config, TrainingConfig
from nesf.crystals import Crystals, PaddedCrystals, pad
from nesf.data.dataset import Dataset
from nesf.data.streaming import PaddedStream, StreamedCrystals, StreamedDataset
from nesf.distributed import from_first_rank, n_processes, rank, sum_over_ranks
from nesf.fields import BatchRandom, Queries, Sampler, nearest_atom, nearest_index
from nesf.forms import within
from nesf.hardware import can_compile, has_bf16, keep_freed_memory
from nesf.model import Autoencoder
from nesf.saved import TrainedModel, choose_device, latent_scale_of, model_for
from nesf.trainer import FitOptions, Trainer, TrainingResult, clone, derived_seed
from nesf_io.errors import ConfigError, DataError

CPU = torch.device("cpu")
TERMS = ("loss", "loss_position", "loss_species", "loss_length", "loss_angle")
LOG_COLUMNS = ("epoch", "minutes", "learning_rate", *TERMS, *(f"val_{t}" for t in TERMS))


class FieldFunctions(NamedTuple):
    """Functions that a step may compile: both fields, and `nearest_index`."""

    position_field: Callable[..., Tensor]
    species_field: Callable[..., Tensor]
    nearest: Callable[..., Tensor] | None = None


def losses(
    model: Autoencoder,
    crystals: PaddedCrystals,
    sampler: Sampler,
    config: Config,
    generator: torch.Generator | BatchRandom,
    functions: FieldFunctions | None = None,
    n_global: int | None = None,
) -> Tensor:
    """Return the loss of Eq. 2 and its terms for one batch of crystals.

    Args:
        generator, n_global: see `Sampler.position_queries`.
        functions: compiled fields, in `training.precision`; None: the model's own, in fp32.

    Returns:
        [5]: L, L_pos (Å², mean over the components), L_spe (nats), L_len (Å²),
        L_ang (radians²); where several processes share a training batch, this rank's
        part of each, so that the sum over the ranks is the loss.
    """
    fields = functions or FieldFunctions(model.position_field, model.species_field)
    t, periodic = config.training, config.sampling.periodic
    precision = t.precision if functions else "fp32"
    z = model.encode(crystals)
    p, index = sampler.position_queries(crystals, generator, n_global)
    nearest = partial(nearest_atom, periodic=periodic, search=fields.nearest)
    vectors, _ = nearest(Queries(p, index), crystals)
    predicted = fields.position_field(p, z, index, precision)
    loss_position = functional.mse_loss(predicted, vectors)
    p, index = sampler.species_queries(crystals, generator)
    _, species = nearest(Queries(p, index), crystals)
    logits = fields.species_field(p, z, index, precision)
    loss_species = functional.cross_entropy(logits.flatten(0, -2), species.flatten())
    lattice = model.decode_lattice(z)
    loss_length = functional.mse_loss(lattice.lengths, crystals.lengths)
    loss_angle = functional.mse_loss(lattice.angles, crystals.angles)
    terms = torch.stack([loss_position, loss_species, loss_length, loss_angle])
    share: Tensor | float = 1.0  # of this rank, of the crystals
    # from means over this rank's part to parts of the means over the batch
    if model.training and n_processes() > 1:
        counts = torch.tensor(
            [vectors.numel(), species.numel(), len(crystals), len(crystals)],
            dtype=terms.dtype,
            device=terms.device,
        )
        shares = counts / sum_over_ranks(counts)
        terms, share = terms * shares, shares[2]
    # λ of Eq. 2
    weights = (t.weight_position, t.weight_species, t.weight_length, t.weight_angle)
    loss = sum(weight * term for weight, term in zip(weights, terms, strict=True))
    if model.composition_decoder is not None:
        counts = torch.zeros(len(z), config.model.n_species, device=z.device)
        counts.scatter_add_(1, crystals.species, crystals.mask.to(z.dtype))
        errors = (model.composition_decoder(z) - counts).square().sum(-1)
        loss = loss + t.weight_composition * share * errors.mean()
    return torch.cat([loss[None], terms])


def learning_rate(config: TrainingConfig, epoch: float) -> float:
    """Return the learning rate at an epoch, which counts from 0 with fractions.

    Section 4.3: halved every 640 epochs.
    """
    if config.schedule == "step":
        return config.learning_rate * config.step_factor ** (epoch // config.step_epochs)
    if epoch < config.warmup_epochs:
        return config.learning_rate * (epoch + 0.1) / (config.warmup_epochs + 0.1)
    progress = (epoch - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def for_device(config: Config, device: torch.device) -> Config:
    """Return the config with `auto` replaced; warn where `training.compile` is not possible."""
    t = config.training
    compiled = t.compile and can_compile(device)
    if t.compile and not compiled:
        warnings.warn(
            "no C++ compiler found (g++): training runs without torch.compile, which is slower",
            stacklevel=2,
        )
    # uncompiled conversions cost more than they save on a CPU
    pays = has_bf16(device) and (compiled or device.type == "cuda")
    precision = ("bf16" if pays else "fp32") if t.precision == "auto" else t.precision
    return config.with_values({"training.compile": compiled, "training.precision": precision})


def train(
    dataset: Dataset | StreamedDataset,
    config: Config | None,
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    minutes: float | None = None,
    **options: Unpack[FitOptions],
) -> TrainingResult[TrainedModel]:
    """Train the autoencoder on a dataset's training split.

    Args:
        dataset: in the standard setting; in memory or streamed
            (`nesf.data.streaming.open_streamed`), with equal results.
        config: None, with `resume` only: the checkpoint's. `model.n_species` is set from the
            dataset's vocabulary.
        out: folder for weights, log and checkpoint.
        seed: of the weights, the batches and the queries.
        resume: go on from the checkpoint in `out`, exactly as if it had not been interrupted.
        minutes: set `training.epochs` so that training takes about this long on this machine; a
            later run with as many epochs repeats it.
        options: `max_minutes`, stop after so long, with a checkpoint; `progress`, a progress bar on
            standard error (default: True).

    Raises:
        ConfigError, DataError: an unusable setting, or a checkpoint that does not belong to this
            dataset and config.
        NesfError: the loss became infinite or not a number.
    """
    out, chosen = Path(out), choose_device(device)
    start: Config = FieldTrainer.starting_config(
        out, config, resume=resume, planned=minutes is not None, device=chosen
    )
    if not resume:
        start = for_device(start, chosen)
        if minutes is not None:
            start = plan_epochs(dataset, start, seed, chosen, minutes)
    trainer = FieldTrainer(dataset, start, seed, chosen)
    if resume:
        trainer.restore(out)
    return trainer.fit(out, **options)


def plan_epochs(
    dataset: Dataset | StreamedDataset,
    config: Config,
    seed: int,
    device: torch.device,
    minutes: float,
) -> Config:
    """Return the config with the `training.epochs` that take about so many minutes here.

    Times a few steps of a throw-away model.
    """
    trainer = FieldTrainer(dataset, config, seed, device)
    for step in range(4):
        trainer.step(0, step % trainer.steps)  # compilation and first allocations
    times = []
    for step in range(4, 16):
        start = time.perf_counter()
        trainer.step(0, step % trainer.steps)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    start = time.perf_counter()
    trainer.validate()
    validation = (time.perf_counter() - start) / config.training.validate_every
    epoch = sorted(times)[len(times) // 2] * trainer.steps + validation
    return config.with_values(
        {"training.epochs": max(1, int(from_first_rank(60 * minutes / epoch, device)))}
    )


class FieldTrainer(Trainer[TrainedModel]):
    """Training of the autoencoder."""

    config_class = Config
    machine_keys = frozenset({"model.n_species", "training.precision", "training.compile"})
    log_columns = LOG_COLUMNS
    terms: ClassVar = {"autoencoder": TERMS}
    remedy = "a smaller training.learning_rate or training.gradient_clip=1"
    model: Autoencoder

    def __init__(
        self,
        dataset: Dataset | StreamedDataset,
        config: Config,
        seed: int = 0,
        device: torch.device = CPU,
    ) -> None:
        within("seed", seed)
        t, n_train, least = config.training, len(dataset.splits["train"]), max(2, n_processes())
        if t.epochs < 1 or t.batch_size < 2:
            raise ConfigError(
                "training.epochs must be at least 1 and training.batch_size at least 2 (batch statistics need two crystals)"
            )
        if min(n_train, t.batch_size) < least:
            raise DataError(
                f"dataset {dataset.label}: {n_train} training crystals in batches of {t.batch_size}; "
                f"at least {least} are needed, two, and one for each process"
            )
        if device.type == "cpu":
            keep_freed_memory()
        torch.manual_seed(seed)
        trained = model_for(dataset, config)
        super().__init__(trained, {"autoencoder": t.epochs}, seed, device)
        self.config, self.model = trained.config, trained.autoencoder.to(device)
        self.train_split, self.val_split = (
            padded(dataset.splits[name], trained.vocabulary, device) for name in ("train", "val")
        )
        self.validate_every, self.keeps_best = (
            t.validate_every if len(self.val_split) else 0,
            t.early_stopping,
        )
        self.sampler = Sampler(config.sampling, trained.box, device)
        self.generator = torch.Generator(device)
        # an epoch and its permutation of the crystals, on the CPU and at home
        self.order: tuple[int, Tensor, Tensor] | None = None
        # Of each crystal, on the CPU so that a step need not wait for the device; a stream counts
        # them itself.
        self.n_atoms: Tensor | None = None
        self.n_global: Tensor | None = None
        self.home = CPU  # where the crystals are that a step selects from
        if not isinstance(self.train_split, PaddedStream):
            self.home, self.n_atoms = device, torch.as_tensor(dataset.splits["train"].n_atoms)
            self.n_global = (
                self.sampler.n_global(self.train_split).cpu()
                if not config.sampling.n_position
                else None
            )
        self.average = clone(self.model.state_dict()) if t.average else {}
        self.functions = FieldFunctions(self.model.position_field, self.model.species_field)
        if t.compile:
            # then all shapes are the same in every step
            drawn = bool(config.sampling.n_position and config.sampling.n_species)
            functions = self.functions._replace(nearest=nearest_index)
            dynamic = False if drawn else None
            compiled: Any = (torch.compile(f, dynamic=dynamic) for f in functions)
            self.functions = FieldFunctions(*compiled)
        self.begin("autoencoder")

    def begin(self, network: str) -> None:
        """Start with a new optimiser."""
        super().begin(network)
        t, n = self.config.training, len(self.train_split)
        self.current = self.model
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=t.learning_rate, fused=True)
        self.steps = math.ceil(n / t.batch_size)
        if 0 < n % t.batch_size < max(2, n_processes()):
            # a single crystal has no batch statistics: it joins the last full batch
            self.steps -= 1

    @torch.no_grad()
    def end_network(self) -> None:
        """See `Trainer`; also measure the latent vectors of the training split (4096 at most)."""
        super().end_network()
        n = min(len(self.train_split), 4096)
        parts = torch.arange(n, device=self.home).split(512)
        if isinstance(self.train_split, PaddedStream):
            self.train_split.expect(part.cpu() for part in parts)
        z = torch.cat([self.model.encode(self.train_split.select(part)) for part in parts])
        self.trained.latent_scale = latent_scale_of(z)

    def batch(self, epoch: int, step: int) -> slice:
        """Return where the crystals of a step are in `order`, which seed and epoch give."""
        if self.order is None or self.order[0] != epoch:
            self.order = None  # of two orders, 8 bytes a crystal each, only one is ever in memory
            order = torch.randperm(
                len(self.train_split),
                generator=torch.Generator().manual_seed(derived_seed(self.seed, epoch)),
            )
            # once an epoch, so that a step copies nothing between CPU and device
            self.order = (epoch, order, order.to(self.home))
            if isinstance(self.train_split, PaddedStream):
                self.train_split.expect(
                    order[self.share(self.slice_of(k))] for k in range(step, self.steps)
                )
        return self.slice_of(step)

    def slice_of(self, step: int) -> slice:
        """Return where the crystals of a step are in any epoch's order."""
        size = self.config.training.batch_size
        return slice(
            step * size, (step + 1) * size if step < self.steps - 1 else len(self.train_split)
        )

    @staticmethod
    def share(batch: slice) -> slice:
        """Return this rank's share of a batch."""
        n, processes = batch.stop - batch.start, n_processes()
        return slice(
            batch.start + rank() * n // processes, batch.start + (rank() + 1) * n // processes
        )

    def step(self, epoch: int, step: int) -> None:
        """Take one step of the optimiser and add its losses to `sums`."""
        t, sampling = self.config.training, self.config.sampling
        self.model.train()
        batch = self.batch(epoch, step)
        assert self.order is not None
        own = self.share(batch)
        torch.manual_seed(derived_seed(self.seed, epoch, step, 2 * rank()))  # dropout
        shared = sampling.n_position and sampling.n_species
        self.generator.manual_seed(
            derived_seed(self.seed, epoch, step, 1 if shared else 1 + 2 * rank())
        )  # queries
        indices = self.order[1][own]
        crystals = self.train_split.select(
            self.order[2][own],
            int(self.n_atoms[indices].sum()) if self.n_atoms is not None else None,
        )
        n_global = int(self.n_global[indices].sum()) if self.n_global is not None else None
        draws = BatchRandom(self.generator, own.start - batch.start, batch.stop - batch.start)
        if self.config.augmentation.share:
            crystals = vary(crystals, self.config.augmentation, self.config.model.n_species, draws)
            n_global = None  # cells have changed
        self.optimizer.param_groups[0]["lr"] = learning_rate(t, epoch + step / self.steps)
        terms = losses(
            self.model, crystals, self.sampler, self.config, draws, self.functions, n_global
        )
        self.optimizer.zero_grad(set_to_none=True)
        terms[0].backward()
        terms = self.add_up(terms.detach())
        if t.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), t.gradient_clip)
        self.optimizer.step()
        self.sums += terms.double()
        if self.average:
            with torch.no_grad():
                for name, value in self.model.state_dict().items():
                    if value.is_floating_point():
                        self.average[name].lerp_(value, 1 - t.average)
                    else:
                        self.average[name].copy_(value)

    def add_up(self, terms: Tensor) -> Tensor:
        """Sum gradients and loss terms over all ranks, in one message, and return the terms."""
        if n_processes() == 1:
            return terms
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        message = sum_over_ranks(torch.cat([terms, *(g.flatten() for g in gradients)]))
        for gradient, summed in zip(
            gradients, message[len(terms) :].split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(summed.view_as(gradient))
        return message[: len(terms)]

    @torch.no_grad()
    def validate(self) -> Tensor:
        """Return Eq. 2 and its terms [5] on the validation split, always with the same queries."""
        weights = clone(self.model.state_dict())
        self.model.load_state_dict(self.candidate())
        self.model.eval()
        sums, n = torch.zeros_like(self.sums), len(self.val_split)
        size = self.config.training.batch_size
        own = range(rank() * size, n, n_processes() * size)  # ranks take batches in turn
        if isinstance(self.val_split, PaddedStream):
            self.val_split.expect(torch.arange(i, min(i + size, n)) for i in own)
        for i in own:
            indices = torch.arange(i, min(i + size, n), device=self.home)
            self.generator.manual_seed(derived_seed(self.seed, -1, i // size))
            sums += losses(
                self.model,
                self.val_split.select(indices),
                self.sampler,
                self.config,
                self.generator,
            ).double() * len(indices)
        self.model.load_state_dict(weights)
        return sum_over_ranks(sums) / max(n, 1)


def padded(
    crystals: Crystals | StreamedCrystals, vocabulary: tuple[int, ...], device: torch.device
) -> PaddedCrystals | PaddedStream:
    """Return a split as padded tensors, on the device or read batch by batch."""
    if isinstance(crystals, StreamedCrystals):
        return PaddedStream(crystals, vocabulary, device)
    return pad(crystals, vocabulary, device)


can_resume = FieldTrainer.can_resume
