"""Training of the voxel baseline: the U-Net, then the VAE with the frozen U-Net's activations."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional

from nesf.data.dataset import Dataset
from nesf.distributed import launched
from nesf.forms import within
from nesf.hardware import has_bf16, keep_freed_memory
from nesf.saved import bounded, choose_device, identity
from nesf.trainer import FitOptions, Trainer, TrainingResult, derived_seed
from nesf_icsg3d.baseline import VoxelBaseline, condition_of
from nesf_icsg3d.config import UNetConfig, VAEConfig, VoxelBaselineConfig
from nesf_icsg3d.networks import Latent, Networks
from nesf_icsg3d.voxels import (
    NO_TURN,
    cached_maps,
    class_weights,
    network_input,
    random_turns,
    rotate,
)
from nesf_io.errors import ConfigError

CPU = torch.device("cpu")
TERMS = {
    "unet": ("loss", "loss_species", "loss_binary"),
    "vae": ("loss", "loss_maps", "loss_perceptual", "loss_kl", "loss_angle"),
}
NETWORKS = tuple(TERMS)  # in the order in which they are trained
ALL_TERMS = tuple(dict.fromkeys(term for terms in TERMS.values() for term in terms))
LOG_COLUMNS = (
    "network",
    "epoch",
    "minutes",
    "learning_rate",
    *ALL_TERMS,
    *(f"val_{t}" for t in ALL_TERMS),
)


def for_device(config: VoxelBaselineConfig, device: torch.device) -> VoxelBaselineConfig:
    """Return the config with `auto` replaced: bf16 on a GPU that has it, else fp32.

    On a CPU conversions cost more than they save.
    """
    if config.training.precision != "auto":
        return config
    return config.with_values(
        {"training.precision": "bf16" if device.type == "cuda" and has_bf16(device) else "fp32"}
    )


def train(
    dataset: Dataset,
    config: VoxelBaselineConfig | None,
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    maps: Path | None = None,
    **options: Unpack[FitOptions],
) -> TrainingResult[VoxelBaseline]:
    """Train both networks on a dataset's training split, the U-Net first.

    Of each network the weights of the lowest validation loss are kept, as in the published code;
    without validation crystals the last ones. Arguments and errors not named here are those of
    `nesf.training.train`.

    Args:
        out: folder for weights, checkpoint and `log.csv`, one row a network and epoch.
        seed: of the weights, the batches, the turned copies and the samples of z.
        maps: folder in which the voxelised crystals are kept (96 KiB a crystal) for the next
            training; None: they are not.
    """
    out, chosen = Path(out), choose_device(device)
    if launched()[1] > 1:
        raise ConfigError("icsg3d trains in one process; start it without torchrun")
    start: VoxelBaselineConfig = VoxelTrainer.starting_config(
        out, config, resume=resume, device=chosen
    )
    if not resume:
        start = for_device(start, chosen)
    trainer = VoxelTrainer(
        dataset, start, seed, chosen, maps=maps, progress=options.get("progress", True)
    )
    if resume:
        trainer.restore(out)
    return trainer.fit(out, **options)


class VoxelTrainer(Trainer[VoxelBaseline]):
    """Training of both networks of the voxel baseline."""

    config_class = VoxelBaselineConfig
    machine_keys = frozenset({"training.precision"})
    log_columns = LOG_COLUMNS
    terms = TERMS
    model: Networks

    def __init__(
        self,
        dataset: Dataset,
        config: VoxelBaselineConfig,
        seed: int = 0,
        device: torch.device = CPU,
        *,
        maps: Path | None = None,
        progress: bool = False,
    ) -> None:
        self.config, n = config, len(dataset.splits["train"])
        self.sections: dict[str, UNetConfig | VAEConfig] = {"unet": config.unet, "vae": config.vae}
        for network, section in self.sections.items():
            if section.epochs < 1 or not 1 <= section.batch_size <= n * copies(section):
                raise ConfigError(
                    f"{network}.epochs = {section.epochs}, {network}.batch_size = {section.batch_size}: at least 1 epoch is expected, and batches of "
                    f"1 to {n * copies(section)}, the crystals of an epoch"
                )
        within("seed", seed)
        if device.type == "cpu":
            keep_freed_memory()
        else:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.manual_seed(seed)
        self.model = bounded(lambda: Networks(config)).to(device)
        trained = VoxelBaseline(self.model, config, identity(dataset))
        super().__init__(
            trained,
            {network: section.epochs for network, section in self.sections.items()},
            seed,
            device,
        )
        self.maps = {  # 96 KiB a crystal
            split: cached_maps(
                dataset, split, config.voxels, maps, device=device, progress=progress
            ).to(device)
            for split in ("train", "val")
        }
        # of the species loss
        self.weights = class_weights(self.maps["train"].species, config.voxels.n_classes)
        if config.unet.class_weights == "n_classes":
            self.weights = torch.full_like(self.weights, config.voxels.n_classes)
        self.validate_every = 1 if len(self.maps["val"]) else 0
        self.order: tuple[tuple[str, int], Tensor, Tensor] | None = None
        self.begin(NETWORKS[0])

    def begin(self, network: str) -> None:
        """Start the training of a network, the other one frozen."""
        super().begin(network)
        section, self.remedy = self.sections[network], f"a smaller {network}.learning_rate"
        for name, part in self.model.named_children():
            part.requires_grad_(name == network)
            part.eval()  # the frozen U-Net too: its batch statistics are those of its own training
        self.current = self.model.get_submodule(network)
        # Keras's Adam: its ε is 1e-7, torch's 1e-8.
        self.optimizer = torch.optim.Adam(
            self.current.parameters(), lr=section.learning_rate, eps=1e-7, fused=True
        )
        n = len(self.maps["train"])
        # published code: the incomplete last batch is dropped
        self.steps = n * copies(section) // section.batch_size
        generator = torch.Generator().manual_seed(derived_seed(self.seed, -1))
        turned = random_turns(n * section.rotations, generator).view(n, section.rotations, 3)
        # [N, 1 + rotations, 3]: the crystal itself, then its copies
        self.turns = torch.cat([torch.full((n, 1, 3), NO_TURN), turned], 1)

    def seed_for(self, *purpose: int) -> int:
        """Return a seed for the training of the current network."""
        return derived_seed(self.seed, NETWORKS.index(self.network), *purpose)

    def batch(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Return the crystals of a step, [B], and how each is turned, [B, 3]."""
        section = self.sections[self.network]
        if self.order is None or self.order[0] != (self.network, epoch):
            n, n_copies = self.turns.shape[:2]
            generator = torch.Generator().manual_seed(self.seed_for(epoch))
            if section.augmentation == "all_copies":
                order = torch.randperm(n * n_copies, generator=generator)
                crystal, copy = order // n_copies, order % n_copies
            else:
                crystal = torch.randperm(n, generator=generator)
                copy = torch.randint(n_copies, (n,), generator=generator)
            self.order = ((self.network, epoch), crystal, self.turns[crystal, copy])
        batch = slice(step * section.batch_size, (step + 1) * section.batch_size)
        return self.order[1][batch], self.order[2][batch]

    def losses(self, split: str, crystals: Tensor, turns: Tensor | None, seed: int) -> Tensor:
        """Return the current network's loss and its unweighted terms, `TERMS`.

        Args:
            crystals: [B], indices in the split.
            turns: [B, 3], how they are turned, or None.
            seed: of the sample of z.
        """
        maps, index = self.maps[split], crystals.to(self.device)
        x, species = (
            network_input(maps.density[index], maps.lengths[index], self.config.voxels),
            maps.species[index],
        )
        if turns is not None:
            x, species = rotate(x, turns), rotate(species, turns)
        x = x.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.training.precision == "bf16"
        ):
            return (
                self.unet_losses(x, species)
                if self.network == "unet"
                else self.vae_losses(x, maps.angles[index], seed)
            )

    def unet_losses(self, x: Tensor, species: Tensor) -> Tensor:
        """Return loss, cross-entropy of the species and binary cross-entropy.

        The former is weighted by class; the mean is over the voxels, not over the weights.
        """
        logits, binary = self.model.unet(x)
        target = species.long()
        per_voxel = functional.cross_entropy(logits, target, reduction="none")
        loss_species = (per_voxel * self.weights[target]).mean()
        loss_binary = functional.binary_cross_entropy_with_logits(
            binary.float(), (species != 0).float()
        )
        return torch.stack([loss_species + loss_binary, loss_species, loss_binary])

    def vae_losses(self, x: Tensor, angles: Tensor, seed: int) -> Tensor:
        """Return loss, channels' error, perceptual loss, KL divergence and angles' error."""
        vae, unet, c = self.model.vae, self.model.unet, self.config.vae
        condition = condition_of(len(x), self.config, self.device)
        mean, log_variance = (part.float() for part in vae.encode(x, condition, angles))
        noise = torch.randn(
            mean.shape, generator=torch.Generator(self.device).manual_seed(seed), device=self.device
        )
        z = Latent(mean, log_variance).sample(noise)
        predicted, predicted_angles = vae.decode(z, condition)
        loss_maps = functional.mse_loss(predicted, x)
        with torch.no_grad():
            targets = unet.perceptual(x)
        pairs = zip(unet.perceptual(predicted), targets, strict=True)
        loss_perceptual = torch.stack(
            [functional.mse_loss(a.float(), b.float()) for a, b in pairs]
        ).sum()
        loss_kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
        loss = loss_maps + c.weight_perceptual * loss_perceptual + c.weight_kl * loss_kl
        # without the head that of 90°, which is logged but not trained
        loss_angle = functional.mse_loss(predicted_angles, angles)
        if c.angle_head:
            loss = loss + c.weight_angle * loss_angle
        return torch.stack([loss, loss_maps, loss_perceptual, loss_kl, loss_angle])

    def step(self, epoch: int, step: int) -> None:
        """Take one step of the optimiser and add its losses to `sums`."""
        self.current.train()
        terms = self.losses("train", *self.batch(epoch, step), self.seed_for(epoch, step))
        self.optimizer.zero_grad(set_to_none=True)
        terms[0].backward()
        self.optimizer.step()
        self.sums += terms.detach().double()

    @torch.no_grad()
    def validate(self) -> Tensor:
        """Return the losses on the validation crystals; z is sampled, always with the same noise.

        published code: on their turned copies too / here: on the crystals as they are.
        """
        self.current.eval()
        n, size = len(self.maps["val"]), self.sections[self.network].batch_size
        sums = torch.zeros_like(self.sums)
        for i in range(0, n, size):
            crystals = torch.arange(i, min(i + size, n))
            sums += self.losses("val", crystals, None, self.seed_for(-1, i // size)).double() * len(
                crystals
            )
        self.finite((sums / n).tolist())
        return sums / n

    def finish(self, out: Path) -> TrainingResult[VoxelBaseline]:
        """Write the weights to keep."""
        self.model.requires_grad_(True)
        return super().finish(out)


def copies(section: UNetConfig | VAEConfig) -> int:
    """Return how often an epoch sees a crystal."""
    return 1 + section.rotations if section.augmentation == "all_copies" else 1


can_resume = VoxelTrainer.can_resume
