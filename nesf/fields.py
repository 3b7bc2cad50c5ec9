"""Structure fields of a known crystal, and where training asks for their values (Sections 1 and 2.2, Supplementary Note 6)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nesf.config import SamplingConfig
from nesf.crystals import PaddedCrystals
from nesf.data.dataset import Box


class Queries(NamedTuple):
    """Query positions.

    Attributes:
        positions: [B, Q, 3] in Å, or [M, 3] where crystals have different numbers of queries.
        crystal: None, or [M]: the crystal each query belongs to.
    """

    positions: Tensor
    crystal: Tensor | None


def images(crystals: PaddedCrystals) -> PaddedCrystals:
    """The crystals, their atoms in the cell, with those of the 26 neighbouring cells added: [B, 27 N] atoms.

    The nearest of them is the minimum image of a query in the cell, unless the cell is very oblique.
    """
    steps = torch.tensor([-1.0, 0.0, 1.0], device=crystals.positions.device, dtype=crystals.positions.dtype)
    shifts = torch.cartesian_prod(steps, steps, steps) @ crystals.lattice  # [B, 27, 3]
    atoms = torch.where(crystals.mask[..., None], into_cell(crystals.positions, crystals.lattice), crystals.FAR)
    positions = (atoms[:, None] + shifts[:, :, None]).flatten(1, 2)
    return PaddedCrystals(positions, crystals.species.repeat(1, 27), crystals.mask.repeat(1, 27), crystals.lengths, crystals.angles, crystals.lattice)


def into_cell(positions: Tensor, lattice: Tensor) -> Tensor:
    """Positions [B, n, 3] moved by lattice vectors into their unit cells, lattice [B, 3, 3]; Å."""
    return positions - (positions @ torch.linalg.inv(lattice)).floor() @ lattice


def nearest_atom(queries: Queries, crystals: PaddedCrystals, *, periodic: bool = False, max_distances: int = 1 << 24) -> tuple[Tensor, Tensor]:
    """The ground-truth fields: vector to the nearest atom, f_p(p) = a - p, and its species, f_s(p).

    Args:
        queries: positions in Å.
        crystals: B crystals.
        periodic: nearest among all periodic images; paper and official: among the atoms of the cell only.
        max_distances: at most so many query-atom distances at a time (4 bytes each, and thrice that for their differences).

    Returns:
        Vectors in Å with the shape of the queries, and species indices with that shape less its last axis.
    """
    p, index = queries
    if periodic:
        crystals = images(crystals)
        p = into_cell(p, crystals.lattice) if index is None else into_cell(p[:, None], crystals.lattice[index])[:, 0]
    if index is None:
        step = max(1, max_distances // (crystals.positions.shape[1] * len(crystals)))
        nearest = torch.cat([_nearest(part, crystals.positions) for part in p.split(step, dim=1)], dim=1)  # [B, Q]
        vectors = crystals.positions.gather(1, nearest[..., None].expand(-1, -1, 3)) - p
        return vectors, crystals.species.gather(1, nearest)
    step = max(1, max_distances // crystals.positions.shape[1])
    parts = [_nearest(q[:, None], crystals.positions[i])[:, 0] for q, i in zip(p.split(step), index.split(step), strict=True)]
    nearest = torch.cat(parts)  # [M]
    return crystals.positions[index, nearest] - p, crystals.species[index, nearest]


def _nearest(queries: Tensor, atoms: Tensor) -> Tensor:
    """Index [B, Q] of the nearest of the atoms [B, N, 3]; by differences, because |p|² - 2pa + |a|² cancels in fp32."""
    squares = sum((queries[:, :, None, k] - atoms[:, None, :, k]).square() for k in range(3))
    return squares.argmin(dim=-1)  # type: ignore[union-attr]


def box_grid(box: Box, interval: float, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """Regular grid over the bounding box common to a dataset, grown by one interval on each side (Section 2.1, step 1).

    paper: a box that «loosely» encompasses the atoms / official and here: grown by one interval, upper end excluded.

    Returns:
        [G, 3] in Å.
    """
    axes = [torch.arange(low - interval, high + interval, interval, device=device, dtype=dtype) for low, high in zip(*box, strict=True)]
    return torch.cartesian_prod(*axes)


def local_grid(
    interval: float, extent: float, *, half_open: bool = False, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Regular grid in a cube around the origin, to be put around an atom (Sections 2.1 and 2.2).

    Args:
        interval: Å.
        extent: edge of the cube, Å.
        half_open: leave the upper end out, as the official code does; the grid is then not centred.

    Returns:
        [n³, 3] in Å.
    """
    steps = extent / interval
    n = math.ceil(steps - 1e-6) if half_open else math.floor(steps + 1e-6) + 1
    start = extent / 2 if half_open else (n - 1) * interval / 2  # centred, also where the interval does not divide the extent
    axis = torch.arange(n, device=device, dtype=dtype) * interval - start
    return torch.cartesian_prod(axis, axis, axis)


class Sampler:
    """Draws training queries around crystals: global and local grid sampling, each with a Gaussian perturbation (Section 2.2).

    With `n_position` and `n_species` of the config at 0 every grid point of every atom is used, as in the paper; otherwise so many
    per crystal are drawn at random from the same distribution, which keeps shapes fixed and steps short.
    """

    def __init__(self, config: SamplingConfig, box: Box, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.box_points = box_grid(box, config.global_interval, device)
        self.local_points = local_grid(config.local_interval, config.local_range, half_open=config.half_open, device=device)
        self.species_points = local_grid(config.species_interval, config.species_range, half_open=config.half_open, device=device)

    def position_queries(self, crystals: PaddedCrystals, generator: torch.Generator) -> Queries:
        """Queries for the position field: global and local ones."""
        c = self.config
        if not c.n_position:
            around, around_index = self._all_local(crystals, self.local_points, c.local_sigma, generator)
            everywhere, everywhere_index = self._all_global(crystals, generator)
            return Queries(torch.cat([everywhere, around]), torch.cat([everywhere_index, around_index]))
        shape, device = (len(crystals), c.n_position), crystals.positions.device
        n_global = (
            self._cell_counts(crystals).prod(-1) if c.global_region == "cell" else torch.full((len(crystals),), len(self.box_points), device=device)
        )
        n_local = crystals.mask.sum(1) * len(self.local_points)
        share = n_global / (n_global + n_local) if c.global_share is None else torch.full_like(n_local, c.global_share, dtype=torch.float32)
        is_global = torch.rand(shape, generator=generator, device=device) < share[:, None]
        if c.global_region == "cell":
            counts = self._cell_counts(crystals)[:, None].expand(*shape, 3)
            steps = torch.rand((*shape, 3), generator=generator, device=device).mul(counts).floor()
            everywhere = ((steps + 0.5) / counts) @ crystals.lattice
        else:
            everywhere = self.box_points[torch.randint(len(self.box_points), shape, generator=generator, device=device)]
        around = self._some_local(crystals, self.local_points, c.n_position, generator)
        sigma = torch.where(is_global, c.global_sigma, c.local_sigma)[..., None]
        noise = torch.randn((*shape, 3), generator=generator, device=device)
        return Queries(torch.where(is_global[..., None], everywhere, around) + sigma * noise, None)

    def species_queries(self, crystals: PaddedCrystals, generator: torch.Generator) -> Queries:
        """Queries for the species field: local ones only."""
        c = self.config
        if not c.n_species:
            return Queries(*self._all_local(crystals, self.species_points, c.species_sigma, generator))
        around = self._some_local(crystals, self.species_points, c.n_species, generator)
        noise = torch.randn(around.shape, generator=generator, device=around.device)
        return Queries(around + c.species_sigma * noise, None)

    def _cell_counts(self, crystals: PaddedCrystals) -> Tensor:
        """Grid points along each lattice vector [B, 3], for a grid no coarser than the interval."""
        return (crystals.lengths / self.config.global_interval - 1e-4).ceil().clamp(min=1)

    def _all_global(self, crystals: PaddedCrystals, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        b, device = len(crystals), crystals.positions.device
        if self.config.global_region == "box":
            points = self.box_points.expand(b, -1, -1).flatten(0, 1)
            index = torch.arange(b, device=device).repeat_interleave(len(self.box_points))
        else:
            counts = self._cell_counts(crystals)
            axes = [torch.arange(int(n), device=device, dtype=counts.dtype) for n in counts.amax(0)]
            steps = torch.cartesian_prod(*axes)  # [G, 3], those that the largest cell needs
            inside = (steps[None] < counts[:, None]).all(-1)  # [B, G]
            points = (((steps[None] + 0.5) / counts[:, None]) @ crystals.lattice)[inside]
            index = inside.nonzero()[:, 0]
        noise = torch.randn(points.shape, generator=generator, device=device)
        return points + self.config.global_sigma * noise, index

    def _all_local(self, crystals: PaddedCrystals, grid: Tensor, sigma: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        atoms, owner = crystals.positions[crystals.mask], crystals.mask.nonzero()[:, 0]
        points = (atoms[:, None] + grid).flatten(0, 1)
        noise = torch.randn(points.shape, generator=generator, device=points.device)
        return points + sigma * noise, owner.repeat_interleave(len(grid))

    def _some_local(self, crystals: PaddedCrystals, grid: Tensor, n: int, generator: torch.Generator) -> Tensor:
        shape, device = (len(crystals), n), crystals.positions.device
        n_atoms = crystals.mask.sum(1, keepdim=True)
        atom = torch.rand(shape, generator=generator, device=device).mul(n_atoms).long().clamp(max=n_atoms - 1)
        centre = crystals.positions.gather(1, atom[..., None].expand(-1, -1, 3))
        return centre + grid[torch.randint(len(grid), shape, generator=generator, device=device)]
