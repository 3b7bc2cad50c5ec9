"""The loss of Eq. 2 for one batch: latent vectors, queries, their true values, and how far the fields are from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from nesf.config import Config
from nesf.crystals import PaddedCrystals
from nesf.distributed import n_processes, total
from nesf.fields import Draws, Queries, Sampler, nearest_atom
from nesf.model import Autoencoder

TERMS = ("loss", "loss_position", "loss_species", "loss_length", "loss_angle")


class Functions(NamedTuple):
    """What a step spends its time in, compiled where that pays: the two fields in training, and `nearest_index`."""

    position_field: Callable[..., Tensor]
    species_field: Callable[..., Tensor]
    nearest: Callable[..., Tensor] | None = None


def losses(
    model: Autoencoder,
    crystals: PaddedCrystals,
    sampler: Sampler,
    config: Config,
    generator: torch.Generator | Draws,
    functions: Functions | None = None,
    n_global: int | None = None,
) -> Tensor:
    """Eq. 2 and its terms for one batch.

    Args:
        generator, n_global: see `Sampler.position_queries`.
        functions: None: the model's own fields in fp32.

    Returns:
        [5]: L, L_pos (Å², mean over the components), L_spe (nats), L_len (Å²), L_ang (radians²). Where several processes share a training
        batch: this one's part of each, the sum over the processes being the loss.
    """
    f = functions or Functions(model.position_field, model.species_field)
    t, periodic = config.training, config.sampling.periodic
    precision = t.precision if functions else "fp32"
    z = model.encode(crystals)
    p, index = sampler.position_queries(crystals, generator, n_global)
    vectors, _ = nearest_atom(Queries(p, index), crystals, periodic=periodic, search=f.nearest)
    loss_position = functional.mse_loss(f.position_field(p, z, index, precision), vectors)
    p, index = sampler.species_queries(crystals, generator)
    _, species = nearest_atom(Queries(p, index), crystals, periodic=periodic, search=f.nearest)
    loss_species = functional.cross_entropy(f.species_field(p, z, index, precision).flatten(0, -2), species.flatten())
    lattice = model.decode_lattice(z)
    loss_length = functional.mse_loss(lattice.lengths, crystals.lengths)
    loss_angle = functional.mse_loss(lattice.angles, crystals.angles)
    terms = [loss_position, loss_species, loss_length, loss_angle]
    if model.training and n_processes() > 1:
        counts = torch.tensor([vectors.numel(), species.numel(), len(crystals), len(crystals)], dtype=vectors.dtype, device=vectors.device)
        terms = list((torch.stack(terms) * counts / total(counts)).unbind())
    weights = (t.weight_position, t.weight_species, t.weight_length, t.weight_angle)
    return torch.stack([sum(w * term for w, term in zip(weights, terms, strict=True)), *terms])  # type: ignore[list-item]
