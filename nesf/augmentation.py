"""Self-made training crystals, and near misses of crystals for the encoder's margin loss."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from nesf.config import AugmentationConfig
from nesf.crystals import PaddedCrystals
from nesf.fields import BatchRandom


def lattice_of(lengths: Tensor, angles: Tensor) -> Tensor:
    """Return lattices [B, 3, 3] as `standard_lattice`, hexagonal ones not mirrored, in torch."""
    cos, sin = torch.cos(angles), torch.sin(angles)
    cx, zero = cos[:, 1], torch.zeros_like(cos[:, 0])
    cy = (cos[:, 0] - cx * cos[:, 2]) / sin[:, 2]
    cz = (1 - cx**2 - cy**2).clamp(min=1e-6).sqrt()
    rows = [zero + 1, zero, zero, cos[:, 2], sin[:, 2], zero, cx, cy, cz]
    return torch.stack(rows, dim=-1).view(-1, 3, 3) * lengths[:, :, None]


def vary(
    crystals: PaddedCrystals, config: AugmentationConfig, n_species: int, draws: BatchRandom
) -> PaddedCrystals:
    """Change a share of a batch at random: lengths, angles, positions and elements.

    Atoms keep their fractional coordinates under a change of the cell. An exchange gives all atoms
    of one element another element.
    """
    b, n = crystals.species.shape
    changed = draws.rows(torch.rand, b, 1) < config.share
    factor = 1 + config.strain * (2 * draws.rows(torch.rand, b, 3) - 1)
    factor = torch.where(changed, factor, 1.0)
    lattice, angles = crystals.lattice * factor[..., None], crystals.angles
    if config.shear:
        bend = config.shear * (2 * draws.rows(torch.rand, b, 3) - 1) * changed
        # the change of the standard lattice, applied to the crystal's own setting
        angles = crystals.angles + bend
        lengths = crystals.lengths * factor
        lattice = lattice @ torch.linalg.solve(
            lattice_of(lengths, crystals.angles), lattice_of(lengths, angles)
        )
    fractional = crystals.positions @ torch.linalg.inv(crystals.lattice)
    step = directions(draws, b, n) * (config.displacement * draws.rows(torch.rand, b, n, 1))
    positions = fractional @ lattice + step
    moved = changed[..., None] & crystals.mask[..., None]
    every = draws.rows(torch.rand, b, 1) < config.decorate
    exchanged = (draws.rows(torch.rand, b, n_species) < config.exchange) | every
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
        angles=angles,
        lattice=lattice,
    )


def directions(draws: BatchRandom, b: int, n: int) -> Tensor:
    """Draw unit vectors [B, N, 3]."""
    return functional.normalize(draws.rows(torch.randn, b, n, 3), dim=-1)


def with_near_misses(
    crystals: PaddedCrystals, n_species: int, draws: BatchRandom
) -> PaddedCrystals:
    """Return the crystals [B] and a near miss of each [B]: 2 B crystals, padded to N + 1 atoms.

    A near miss has one atom less, more, moved by 0.3 to 1 Å, or of another element.
    """
    b = len(crystals)
    n_atoms = crystals.mask.sum(1)
    kind = draws.rows(partial(torch.randint, 4), b)
    kind = torch.where((kind == 0) & (n_atoms == 1), 1, kind)
    chosen = (draws.rows(torch.rand, b) * n_atoms).long().clamp(max=n_atoms - 1)  # an atom
    rows = torch.arange(b, device=kind.device)
    pad = functional.pad
    positions = pad(crystals.positions, (0, 0, 0, 1), value=PaddedCrystals.FAR)
    species, mask = pad(crystals.species, (0, 1)), pad(crystals.mask, (0, 1))
    less, more, moved, renamed = (kind == k for k in range(4))
    at, last, end = (rows, chosen), (rows, n_atoms - 1), (rows, n_atoms)
    # less: the last atom takes the place of the chosen one
    step = directions(draws, b, 1)[:, 0] * (0.3 + 0.7 * draws.rows(torch.rand, b, 1))
    there = torch.where(less[:, None], positions[last], positions[at] + step * moved[:, None])
    kept = torch.where(less, species[last], species[at])
    named = torch.where(renamed, draws.rows(partial(torch.randint, n_species), b), kept)
    anywhere = (draws.rows(torch.rand, b, 1, 3) @ crystals.lattice)[:, 0]
    near = (
        positions.index_put(at, there).index_put(
            end, torch.where(more[:, None], anywhere, positions[end])
        ),
        species.index_put(at, named).index_put(end, torch.where(more, kept, species[end])),
        mask.index_put(end, more).index_put(last, ~less),
    )
    positions, species, mask = (
        torch.cat(pair) for pair in zip((positions, species, mask), near, strict=True)
    )
    cells = {name: getattr(crystals, name).repeat(2, 1) for name in ("lengths", "angles")}
    lattice = crystals.lattice.repeat(2, 1, 1)
    return PaddedCrystals(positions, species, mask, lattice=lattice, **cells)
