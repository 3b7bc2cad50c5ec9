"""Training of the voxel baseline: first the U-Net on the true maps, then the VAE against the frozen U-Net's activations.

Everything random in a step comes from (seed, network, epoch, step) alone, so a checkpoint needs no generator states and a run that was
killed continues as if it had not been (on a CPU with the same number of threads: bit for bit), as in `nesf.training`.
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
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from nesf.data.dataset import Dataset
from nesf.distributed import launched
from nesf.errors import ConfigError, NesfError
from nesf.files import read_json
from nesf.hardware import has_bf16, keep_freed_memory
from nesf.icsg3d.baseline import VoxelBaseline, condition_of, describe
from nesf.icsg3d.config import UNetConfig, VAEConfig, VoxelBaselineConfig
from nesf.icsg3d.networks import Networks
from nesf.icsg3d.voxels import NO_TURN, Maps, cached_maps, class_weights, network_input, random_turns, rotate, voxelise
from nesf.saved import choose_device, read_tensors
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

NETWORKS = ("unet", "vae")  # in the order in which they are trained
TERMS = {"unet": ("loss", "loss_species", "loss_binary"), "vae": ("loss", "loss_maps", "loss_perceptual", "loss_kl", "loss_angle")}
ALL_TERMS = tuple(dict.fromkeys(term for terms in TERMS.values() for term in terms))
LOG_COLUMNS = ("network", "epoch", "minutes", "learning_rate", *ALL_TERMS, *(f"val_{t}" for t in ALL_TERMS))
DECIDED = {"training.precision"}  # by the machine


def resolve(config: VoxelBaselineConfig, device: torch.device) -> VoxelBaselineConfig:
    """Replace `auto` by what this machine can do: bf16 on a GPU that has it, fp32 on a CPU (where conversions cost more than they save)."""
    precision = config.training.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and has_bf16(device) else "fp32"
    return dataclasses.replace(config, training=dataclasses.replace(config.training, precision=precision))


def train(
    dataset: Dataset,
    config: VoxelBaselineConfig | None,
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    max_minutes: float | None = None,
    maps: Path | None = None,
    progress: bool = True,
) -> TrainingResult[VoxelBaseline]:
    """Train both networks on a dataset's training split, the U-Net first.

    The condition is the same for all crystals (`nesf.icsg3d.baseline.condition_of`). Of each network the weights of the lowest validation loss are
    kept, as in the published code; without validation crystals the last ones.

    Args:
        dataset: crystals in the standard setting.
        config: a preset, changed or not. None, with `resume` only: the checkpoint's.
        out: folder for weights (`model.safetensors`, `model.json`), `log.csv` (one row a network and epoch) and checkpoint.
        seed: of the weights, the batches, the turned copies and the samples of z.
        device: `auto`, `cpu`, `cuda`, ...
        resume: go on from the checkpoint in `out`; exactly as if it had not been interrupted.
        max_minutes: stop after so long, with a checkpoint.
        maps: folder in which the voxelised crystals are kept (96 KiB a crystal) for the next training; None: they are not.
        progress: a progress bar on standard error.

    Raises:
        ConfigError, DataError: an unusable setting, or a checkpoint that does not belong to this dataset and config.
        NesfError: the loss became infinite or not a number.
    """
    out, chosen = Path(out), choose_device(device)
    if launched()[1] > 1:
        raise ConfigError("icsg3d trains in one process; start it without torchrun")
    check_start(out, (out / "checkpoint.json").exists(), resume=resume)
    if resume:
        config = resumed_config(out / "checkpoint.json", VoxelBaselineConfig, config, DECIDED)
    elif config is None:
        raise ConfigError("a config is needed to start a training; for example nesf.icsg3d.config.preset('repaired')")
    else:
        config = resolve(config, chosen)
    run = _Run(dataset, config, out, seed, chosen, maps, progress)
    if resume:
        run.restore()
    return run.fit(max_minutes, progress)


def can_resume(out: Path, dataset: Dataset, config: VoxelBaselineConfig | None, *, seed: int = 0, device: str = "auto") -> bool:
    """Whether the folder holds a checkpoint of this very training: same dataset, config and seed, with its tensors undamaged; on any device."""
    path = Path(out) / "checkpoint.json"
    if not path.exists():
        return False
    try:
        resumed_config(path, VoxelBaselineConfig, config, DECIDED)
        state = read_json(path)
        read_tensors(path.parent / state["file"], state["sha256"])
    except (NesfError, KeyError):
        return False
    return state["seed"] == seed and state["dataset"]["hash"] == dataset.hash()


class _Run:
    """The state of one training and the ways it moves."""

    def __init__(
        self, dataset: Dataset, config: VoxelBaselineConfig, out: Path, seed: int, device: torch.device, maps: Path | None, progress: bool
    ) -> None:
        self.config, self.out, self.seed, self.device = config, out, seed, device
        n = len(dataset.splits["train"])
        for network in NETWORKS:
            choices = self.choices(network)
            if choices.epochs < 1 or not 1 <= choices.batch_size <= n * self.copies(choices):
                raise ConfigError(
                    f"{network}.epochs = {choices.epochs}, {network}.batch_size = {choices.batch_size}: at least 1 epoch is expected, and batches of 1 to "
                    f"{n * self.copies(choices)}, the crystals of an epoch"
                )
        if device.type == "cpu":
            keep_freed_memory()
        else:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.manual_seed(seed)
        built = Networks(config).to(device)
        self.trained = VoxelBaseline(built, config, {"name": dataset.name, "fold": dataset.fold, "hash": dataset.hash()})
        made = {s: self.make_maps(dataset, s, maps, progress) for s in ("train", "val")}
        weights = class_weights(made["train"].species, config.voxels.n_classes)
        if config.unet.class_weights == "n_classes":
            weights = torch.full_like(weights, config.voxels.n_classes)
        self.weights = weights.to(device)
        self.maps = {s: m.to(device) for s, m in made.items()}  # fp16 and uint8 there: 96 KiB a crystal
        self.order: tuple[tuple[str, int], Tensor, Tensor] | None = None
        self.log: list[dict[str, Any]] = []
        self.minutes = 0.0
        self.best_epochs: dict[str, int] = {}
        self.best_losses: dict[str, float | None] = {}
        self.begin(NETWORKS[0])

    def make_maps(self, dataset: Dataset, split: str, folder: Path | None, progress: bool) -> Maps:
        """Maps of a split: read, or made."""
        if folder is not None and len(dataset.splits[split]):
            return cached_maps(dataset, split, self.config.voxels, folder, device=self.device, progress=progress)
        return voxelise(dataset.splits[split], self.config.voxels, device=self.device, progress=progress)

    def choices(self, network: str) -> UNetConfig | VAEConfig:
        """The section of the config that a network has."""
        return self.config.unet if network == "unet" else self.config.vae

    @staticmethod
    def copies(choices: UNetConfig | VAEConfig) -> int:
        """How often an epoch sees a crystal."""
        return 1 + choices.rotations if choices.augmentation == "all_copies" else 1

    @property
    def current(self) -> nn.Module:
        """The network that is trained now."""
        return getattr(self.trained.networks, self.network)

    def begin(self, network: str) -> None:
        """Start a network's training."""
        self.network, self.epoch, self.next_step = network, 0, 0
        choices = self.choices(network)
        for name, part in self.trained.networks.named_children():
            part.requires_grad_(name == network)
            part.eval()  # the frozen U-Net too: its batch statistics are those of its own training
        # Keras's Adam: its ε is 1e-7, torch's 1e-8.
        self.optimizer = torch.optim.Adam(self.current.parameters(), lr=choices.learning_rate, eps=1e-7, fused=True)
        n = len(self.maps["train"])
        self.steps = n * self.copies(choices) // choices.batch_size  # published code: the incomplete last batch is dropped
        generator = torch.Generator().manual_seed(derived_seed(self.seed, -1))
        turned = random_turns(n * choices.rotations, generator).view(n, choices.rotations, 3)
        self.turns = torch.cat([torch.full((n, 1, 3), NO_TURN), turned], 1)  # the crystal itself, then its copies
        self.sums = torch.zeros(len(TERMS[network]), dtype=torch.float64, device=self.device)
        self.best: dict[str, Tensor] | None = None
        self.best_loss, self.best_epoch = math.inf, -1

    def seed_for(self, *purpose: int) -> int:
        """A seed of this network's training."""
        return derived_seed(self.seed, NETWORKS.index(self.network), *purpose)

    def batch(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Which crystals a step takes, and how each is turned, [B] and [B, 3]."""
        if self.order is None or self.order[0] != (self.network, epoch):
            choices = self.choices(self.network)
            n, copies = self.turns.shape[:2]
            generator = torch.Generator().manual_seed(self.seed_for(epoch))
            if choices.augmentation == "all_copies":
                order = torch.randperm(n * copies, generator=generator)
                crystal, copy = order // copies, order % copies
            else:
                crystal = torch.randperm(n, generator=generator)
                copy = torch.randint(copies, (n,), generator=generator)
            self.order = ((self.network, epoch), crystal, self.turns[crystal, copy])
        size = self.choices(self.network).batch_size
        some = slice(step * size, (step + 1) * size)
        return self.order[1][some], self.order[2][some]

    def losses(self, split: str, crystals: Tensor, turns: Tensor | None, seed: int) -> Tensor:
        """The current network's loss and its unweighted terms, `TERMS`, for some crystals of a split.

        Args:
            split: train or val.
            crystals: [B], which.
            turns: [B, 3], how they are turned, or None.
            seed: of the sample of z.
        """
        maps, index = self.maps[split], crystals.to(self.device)
        x, species = network_input(maps.density[index], maps.lengths[index], self.config.voxels), maps.species[index]
        if turns is not None:
            x, species = rotate(x, turns), rotate(species, turns)
        x = x.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.training.precision == "bf16"):
            return self.unet_losses(x, species) if self.network == "unet" else self.vae_losses(x, maps.angles[index], seed)

    def unet_losses(self, x: Tensor, species: Tensor) -> Tensor:
        """Cross-entropy of the species, weighted by class (mean over the voxels, not over the weights), and binary cross-entropy."""
        logits, binary = self.trained.networks.unet(x)
        target = species.long()
        per_voxel = functional.cross_entropy(logits, target, reduction="none")
        loss_species = (per_voxel * self.weights[target]).mean()
        loss_binary = functional.binary_cross_entropy_with_logits(binary.float(), (species != 0).float())
        return torch.stack([loss_species + loss_binary, loss_species, loss_binary])

    def vae_losses(self, x: Tensor, angles: Tensor, seed: int) -> Tensor:
        """Squared error of the channels, perceptual loss, Kullback-Leibler divergence, and squared error of the angles where they are predicted."""
        vae, unet, choices = self.trained.networks.vae, self.trained.networks.unet, self.config.vae
        condition = condition_of(len(x), self.config, self.device)
        latent = vae.encode(x, condition, angles)
        mean, log_variance = latent.mean.float(), latent.log_variance.float()
        noise = torch.randn(mean.shape, generator=torch.Generator(self.device).manual_seed(seed), device=self.device)
        predicted, predicted_angles = vae.decode(mean + torch.exp(0.5 * log_variance) * noise, condition)
        loss_maps = functional.mse_loss(predicted, x)
        with torch.no_grad():
            wanted = unet.perceptual(x)
        loss_perceptual = torch.stack(
            [functional.mse_loss(a.float(), b.float()) for a, b in zip(unet.perceptual(predicted), wanted, strict=True)]
        ).sum()
        loss_kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
        loss = loss_maps + choices.weight_perceptual * loss_perceptual + choices.weight_kl * loss_kl
        loss_angle = functional.mse_loss(predicted_angles, angles)  # without the head that of 90°, which is logged but not trained
        if choices.angle_head:
            loss = loss + choices.weight_angle * loss_angle
        return torch.stack([loss, loss_maps, loss_perceptual, loss_kl, loss_angle])

    def step(self, epoch: int, step: int) -> None:
        """One step of the optimiser."""
        self.current.train()
        terms = self.losses("train", *self.batch(epoch, step), self.seed_for(epoch, step))
        self.optimizer.zero_grad(set_to_none=True)
        terms[0].backward()
        self.optimizer.step()
        self.sums += terms.detach().double()

    @torch.no_grad()
    def validate(self) -> Tensor:
        """The loss on the validation crystals as they are; published code: on their turned copies as well. z is sampled, always with the same draws."""
        self.current.eval()
        n, size = len(self.maps["val"]), self.choices(self.network).batch_size
        sums = torch.zeros_like(self.sums)
        for i in range(0, n, size):
            some = torch.arange(i, min(i + size, n))
            sums += self.losses("val", some, None, self.seed_for(-1, i // size)).double() * len(some)
        return sums / max(n, 1)

    def end_epoch(self, bar: Any) -> None:
        """Log the epoch, validate, remember the best weights."""
        means = (self.sums / self.steps).tolist()
        row = {"network": self.network, "epoch": self.epoch + 1, "minutes": round(self.minutes, 4)}
        row |= {"learning_rate": self.choices(self.network).learning_rate, **dict(zip(TERMS[self.network], means, strict=True))}
        values = self.validate().tolist() if len(self.maps["val"]) else []
        if not all(map(math.isfinite, (*means, *values))):
            raise NesfError(f"the loss of {self.network} is not finite in epoch {self.epoch + 1}: try a smaller {self.network}.learning_rate")
        if values:
            row |= {f"val_{name}": value for name, value in zip(TERMS[self.network], values, strict=True)}
            if values[0] < self.best_loss:
                self.best_loss, self.best_epoch = values[0], self.epoch + 1
                self.best = {k: v.detach().clone() for k, v in self.current.state_dict().items()}
        self.log.append(row)
        self.sums.zero_()
        self.epoch, self.next_step = self.epoch + 1, 0
        bar.set_postfix({"network": self.network, "loss": f"{row['loss']:.3f}", "best val": f"{self.best_loss:.3f}@{self.best_epoch}"}, refresh=False)
        bar.update(1)

    def end_network(self) -> None:
        """Keep the best weights of the network that has been trained."""
        if self.best is not None:
            self.current.load_state_dict(self.best)
        self.current.eval()
        self.best_epochs[self.network] = self.best_epoch if self.best is not None else self.epoch
        self.best_losses[self.network] = self.best_loss if math.isfinite(self.best_loss) else None

    @property
    def ended(self) -> bool:
        """Whether the current network has had all its epochs."""
        return self.epoch >= self.choices(self.network).epochs

    @property
    def finished(self) -> bool:
        """Whether both have."""
        return self.network == NETWORKS[-1] and self.ended

    def fit(self, max_minutes: float | None, progress: bool) -> TrainingResult[VoxelBaseline]:
        """Train until the last epoch, the time budget or Ctrl-C, whichever comes first."""
        begin, before, last_save = time.monotonic(), self.minutes, time.monotonic()
        bar = tqdm(
            total=sum(self.choices(network).epochs for network in NETWORKS),
            initial=len(self.log),
            unit="epoch",
            desc="training",
            disable=not progress,
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
                    if self.ended and not self.finished:
                        self.end_network()
                        self.begin(NETWORKS[NETWORKS.index(self.network) + 1])
                stop = interrupted() or (max_minutes is not None and self.minutes - before >= max_minutes)
                if stop or time.monotonic() - last_save > CHECKPOINT_SECONDS:
                    self.save()
                    last_save = time.monotonic()
                if stop:
                    break
        self.save()
        return self.finish()

    def finish(self) -> TrainingResult[VoxelBaseline]:
        """Write the weights to keep."""
        self.end_network()
        self.trained.info = {
            "epoch": self.best_epochs[self.network],
            "epochs_trained": len(self.log),
            "best_epochs": self.best_epochs,
            "best_val_losses": self.best_losses,
            "seed": self.seed,
            "minutes": round(self.minutes, 3),
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else self.device.type,
            "threads": torch.get_num_threads(),
            "finished": self.finished,
        }
        self.trained.networks.requires_grad_(True)
        self.trained.save(self.out)
        return TrainingResult(self.trained, self.out, self.log, self.finished)

    def save(self) -> None:
        """Write a checkpoint."""
        tensors = {f"model.{k}": v for k, v in self.trained.networks.state_dict().items()} | {"sums": self.sums}
        tensors |= {f"best.{k}": v for k, v in (self.best or {}).items()} | adam_tensors(self.optimizer)
        state: dict[str, Any] = {"network": self.network, "epoch": self.epoch, "step": self.next_step, "seed": self.seed, "minutes": self.minutes}
        state |= {"best_loss": self.best_loss if math.isfinite(self.best_loss) else None, "best_epoch": self.best_epoch}
        state |= {"best_epochs": self.best_epochs, "best_losses": self.best_losses, "threads": torch.get_num_threads()}
        name = f"checkpoint-{self.network}-{self.epoch:05d}-{self.next_step:05d}.safetensors"
        write_checkpoint(self.out, name, tensors, state | describe(self.config, self.trained.dataset), self.log, LOG_COLUMNS)

    def restore(self) -> None:
        """Go back to the checkpoint in `out`."""
        needed = ("network", "epoch", "step", "minutes", "best_loss", "best_epoch", "best_epochs", "best_losses", "threads")
        state, tensors = read_checkpoint(self.out, needed, seed=self.seed, dataset=self.trained.dataset)
        if state["threads"] != torch.get_num_threads() and self.device.type == "cpu":
            warnings.warn(
                f"resumed with {torch.get_num_threads()} threads instead of {state['threads']}: equal up to rounding, not bit for bit", stacklevel=3
            )
        tensors = {k: v.to(self.device) for k, v in tensors.items()}
        self.trained.networks.load_state_dict(with_prefix(tensors, "model."))
        self.begin(state["network"])
        restore_adam(self.optimizer, tensors)
        self.best, self.sums = with_prefix(tensors, "best.") or None, tensors["sums"]
        self.best_loss = math.inf if state["best_loss"] is None else state["best_loss"]
        self.best_epoch, self.epoch, self.next_step, self.minutes = state["best_epoch"], state["epoch"], state["step"], state["minutes"]
        self.best_epochs, self.best_losses, self.log = state["best_epochs"], state["best_losses"], state["log"]
