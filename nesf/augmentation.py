"""Self-made training crystals."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch.nn import functional

from nesf.config import AugmentationConfig
from nesf.crystals import PaddedCrystals
from nesf.fields import BatchRandom


def vary(
    crystals: PaddedCrystals, config: AugmentationConfig, n_species: int, draws: BatchRandom
) -> PaddedCrystals:
    """Change a share of a batch at random: lengths, positions and elements.

    Atoms keep their fractional coordinates under a change of the cell. An exchange gives all atoms
    of one element another element.
    """
    b, n = crystals.species.shape
    changed = draws.rows(torch.rand, b, 1) < config.share
    factor = 1 + config.strain * (2 * draws.rows(torch.rand, b, 3) - 1)
    factor = torch.where(changed, factor, 1.0)
    lattice = crystals.lattice * factor[..., None]
    fractional = crystals.positions @ torch.linalg.inv(crystals.lattice)
    direction = functional.normalize(draws.rows(torch.randn, b, n, 3), dim=-1)
    step = direction * (config.displacement * draws.rows(torch.rand, b, n, 1))
    positions = fractional @ lattice + step
    moved = changed[..., None] & crystals.mask[..., None]
    exchanged = draws.rows(torch.rand, b, n_species) < config.exchange
    other = draws.rows(partial(torch.randint, n_species), b, n_species)
    table = torch.where(
        exchanged & changed, other, torch.arange(n_species, device=other.device)
    )  # [B, A]
    species = torch.where(crystals.mask, table.gather(1, crystals.species), 0)
    return replace(
        crystals,
        positions=torch.where(moved, positions, crystals.positions),
        species=species,
        lengths=crystals.lengths * factor,
        lattice=lattice,
    )
