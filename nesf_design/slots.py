"""A rival of the fields, of our own: a slot decoder on the same latent vectors.

The usual way to decode a set from one vector (DETR, Carion et al. 2020): a fixed number of learned
slots, each of which says whether it is an atom, where, and of which element; in training, the
Hungarian method assigns atoms to slots. It reads the frozen encoder's latent vectors, and the
lattice is that of the model's own lattice decoders. So it differs from the fields in nothing but
how atoms are decoded, and shows whether fields decode better. Its crystals are also a second
proposal for consistent decoding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from nesf.augmentation import vary
from nesf.config import ReconstructionConfig
from nesf.consistent import Answer, correct
from nesf.crystals import Crystals, PaddedCrystals, allowed_lattices, pad, standard_lattice
from nesf.data.dataset import Dataset
from nesf.fields import BatchRandom
from nesf.saved import TrainedModel
from nesf_io.errors import ConfigError


@dataclass(frozen=True)
class SlotConfig:
    """The slot decoder and its training."""

    n_slots: int = 20  # atoms of a crystal beyond them are lost
    width: int = 192
    layers: int = 3
    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 2e-3  # at the start of a cosine schedule
    weight_species: float = 1.0  # nats, against Å²
    weight_presence: float = 1.0  # nats, against Å²

    def __post_init__(self) -> None:
        if min(self.n_slots, self.width, self.layers, self.epochs, self.batch_size) < 1:
            raise ConfigError(
                "n_slots, width, layers, epochs and batch_size of the slot decoder must be at least 1"
            )


class Slots(nn.Module):
    """Latent vectors to slots: each sees the latent vector and the mean of all slots."""

    def __init__(self, latent_scale: Sequence[float], n_species: int, config: SlotConfig) -> None:
        super().__init__()
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(latent_scale))
        width = config.width
        self.latent = nn.Linear(len(latent_scale), width)
        self.slots = nn.Parameter(torch.randn(config.n_slots, width))
        self.mix = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(config.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.layers))
        self.out = nn.Linear(width, 4 + n_species)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return positions [B, K, 3], Å, and the logits of presence [B, K] and species [B, K, A]."""
        h = self.slots + self.latent(z / self.scale)[:, None]
        for mix, norm in zip(self.mix, self.norms, strict=True):
            h = norm(h)
            h = h + torch.relu(mix(torch.cat([h, h.mean(1, keepdim=True).expand_as(h)], dim=-1)))
        positions, presence, species = self.out(h).split([3, 1, self.out.out_features - 4], dim=-1)
        return 5 * positions, presence[..., 0], species  # 5 Å: half of a common cell


def assign(cost: Tensor, n_atoms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Assign atoms to slots by the Hungarian method, each crystal on its own.

    Args:
        cost: [B, K, N], of slot k for atom n; atoms from `n_atoms` [B] on are padding.

    Returns:
        Crystals, slots and atoms [M] of the assigned pairs; M is the smaller number in each crystal.
    """
    found = []
    costs = cost.detach().cpu().double().numpy()
    for i, n in enumerate(n_atoms.tolist()):
        slots, atoms = linear_sum_assignment(costs[i, :, :n])
        found.append(np.stack([np.full_like(slots, i), slots, atoms]))
    pairs = torch.as_tensor(np.concatenate(found, axis=1))
    return pairs[0], pairs[1], pairs[2]


def slot_losses(slots: Slots, z: Tensor, crystals: PaddedCrystals, config: SlotConfig) -> Tensor:
    """Return the loss of a batch and its terms [4]: position (Å²), species and presence (nats)."""
    positions, presence, species = slots(z)
    log_species = species.log_softmax(-1)
    named = log_species.gather(2, crystals.species[:, None].expand(-1, presence.shape[1], -1))
    apart = (positions[:, :, None] - crystals.positions[:, None]).square().sum(-1)  # [B, K, N]
    cost = apart - config.weight_species * named
    cost = cost - config.weight_presence * functional.logsigmoid(presence)[..., None]
    crystal, slot, atom = assign(cost, crystals.mask.sum(1))
    wanted = torch.zeros_like(presence)
    wanted[crystal, slot] = 1.0
    position = apart[crystal, slot, atom].mean()
    surprise = -named[crystal, slot, atom].mean()
    missed = functional.binary_cross_entropy_with_logits(presence, wanted)
    loss = position + config.weight_species * surprise + config.weight_presence * missed
    return torch.stack([loss, position, surprise, missed])


def train_slots(
    model: TrainedModel, dataset: Dataset, config: SlotConfig, *, seed: int = 0
) -> tuple[Slots, pd.DataFrame]:
    """Train a slot decoder on a model's latent vectors of the training split, on the CPU.

    The encoder stays as it is; a share of each batch is changed at random as in the model's own
    training (`nesf.augmentation`).

    Returns:
        The decoder in evaluation, and its log: per epoch the means of `slot_losses`, and
        `cpu_seconds` so far.
    """
    begin = time.process_time()
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    crystals = pad(dataset.split("train"), model.vocabulary)
    n_atoms = crystals.mask.sum(1)
    slots = Slots(
        model.latent_scale or [1.0] * model.config.model.latent_size, len(model.vocabulary), config
    )
    optimizer = torch.optim.Adam(slots.parameters(), lr=config.learning_rate)
    rows = []
    for epoch in range(config.epochs):
        order = torch.randperm(len(crystals), generator=generator)
        parts = [part for part in order.split(config.batch_size) if len(part) > 1]
        sums = torch.zeros(4)
        for step, part in enumerate(parts):
            progress = (epoch + step / len(parts)) / config.epochs
            optimizer.param_groups[0]["lr"] = (
                config.learning_rate * (1 + math.cos(math.pi * progress)) / 2
            )
            batch = crystals.select(part, int(n_atoms[part].sum()))
            augmentation = model.config.augmentation
            if augmentation.share:
                batch = vary(batch, augmentation, len(model.vocabulary), BatchRandom(generator))
            with torch.no_grad():
                z = model.autoencoder.encode(batch)
            terms = slot_losses(slots, z, batch, config)
            optimizer.zero_grad()
            terms[0].backward()
            optimizer.step()
            sums += terms.detach()
        rows.append([epoch + 1, *(sums / len(parts)).tolist(), time.process_time() - begin])
    columns = ["epoch", "loss", "position", "species", "presence", "cpu_seconds"]
    return slots.eval(), pd.DataFrame(rows, columns=columns)


@torch.no_grad()
def decode_slots(slots: Slots, model: TrainedModel, z: Tensor, ids: Sequence[str]) -> Crystals:
    """Decode latent vectors z [B, latent_size]: the slots more likely present than not."""
    positions, presence, species = slots(z)
    here, numbers = presence > 0, species.argmax(-1)
    lengths, angles = (t.double().numpy() for t in model.autoencoder.decode_lattice(z))
    good_lengths, good_angles, _ = allowed_lattices(lengths, angles)
    vocabulary = np.asarray(model.vocabulary, np.int64)
    return Crystals.from_arrays(
        ids,
        [p[h].double().numpy() for p, h in zip(positions, here, strict=True)],
        [vocabulary[s[h].numpy()] for s, h in zip(numbers, here, strict=True)],
        standard_lattice(good_lengths, good_angles),
    )


@torch.no_grad()
def confirmed(
    model: TrainedModel, z: Tensor, proposed: Crystals, config: ReconstructionConfig
) -> tuple[Crystals, np.ndarray]:
    """Make proposed crystals consistent with latent vectors z [B, latent_size].

    Returns:
        The crystals, those that are not certified as they were proposed, and which are [B].
    """
    lattice = torch.cat(model.autoencoder.decode_lattice(z), dim=-1).double()
    start = pad(proposed, model.vocabulary, dtype=torch.float64)
    found = correct(model.autoencoder, z, model.latent_scale, start, lattice, config)
    certified = np.array([answer.certified for answer in found], dtype=bool)
    return taken(proposed, found, model.vocabulary), certified


def taken(proposed: Crystals, found: Sequence[Answer], vocabulary: Sequence[int]) -> Crystals:
    """Return the certified answers in place of what was proposed."""
    numbers = np.asarray(vocabulary, np.int64)
    positions, species, lattice = [], [], proposed.lattice.copy()
    for i, answer in enumerate(found):
        atoms = proposed.atoms(i)
        if answer.certified:
            lengths, angles, _ = allowed_lattices(
                *answer.lattice.numpy().reshape(1, 2, 3).transpose(1, 0, 2)
            )
            lattice[i] = standard_lattice(lengths, angles)[0]
        positions.append(
            answer.positions.numpy() if answer.certified else proposed.positions[atoms]
        )
        species.append(
            numbers[answer.species.numpy()] if answer.certified else proposed.species[atoms]
        )
    return Crystals.from_arrays(proposed.ids, positions, species, lattice)
