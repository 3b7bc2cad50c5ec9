"""True structure fields, and the sampling of queries (Sections 1 and 2.2, Supplementary Note 6)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from nesf.config import SamplingConfig
from nesf.crystals import PaddedCrystals
from nesf.data.dataset import Box
from nesf_io.errors import ConfigError

MOST_POINTS = 1 << 22  # of one grid: they take 48 MiB, and hours in the fields


class Queries(NamedTuple):
    """Query positions."""

    positions: Tensor  # [B, Q, 3] in Å, or [M, 3] where crystals have different numbers of queries
    crystal: Tensor | None  # None, or [M]: the crystal each query belongs to


def images(crystals: PaddedCrystals) -> PaddedCrystals:
    """Move the atoms into the cell and repeat them in the 26 neighbouring cells: [B, 27 N] atoms.

    The nearest of them is the minimum image of a query in the cell, unless the cell is very
    oblique.
    """
    steps = torch.tensor(
        [-1.0, 0.0, 1.0], device=crystals.positions.device, dtype=crystals.positions.dtype
    )
    shifts = torch.cartesian_prod(steps, steps, steps) @ crystals.lattice  # [B, 27, 3]
    atoms = torch.where(
        crystals.mask[..., None], into_cell(crystals.positions, crystals.lattice), crystals.FAR
    )
    positions = (atoms[:, None] + shifts[:, :, None]).flatten(1, 2)
    return replace(
        crystals,
        positions=positions,
        species=crystals.species.repeat(1, 27),
        mask=crystals.mask.repeat(1, 27),
        n_atoms=None,
    )


def into_cell(positions: Tensor, lattice: Tensor) -> Tensor:
    """Move positions [B, n, 3] by lattice vectors into their unit cells, lattice [B, 3, 3]; Å."""
    return positions - (positions @ torch.linalg.inv(lattice)).floor() @ lattice


def nearest_index(queries: Tensor, atoms: Tensor, crystal: Tensor | None = None) -> Tensor:
    """Return the index along N, [B, Q] or [M], of the nearest of the crystal's atoms [B, N, 3].

    Queries are [B, Q, 3], or [M, 3] of the crystals [M]. By differences, because |p|² - 2pa + |a|²
    cancels in fp32.
    """
    near = atoms[:, None] if crystal is None else atoms[crystal]
    squares = sum((queries[..., None, k] - near[..., k]).square() for k in range(3))
    return squares.argmin(dim=-1)  # type: ignore[union-attr]


def nearest_atom(
    queries: Queries,
    crystals: PaddedCrystals,
    *,
    periodic: bool = False,
    max_distances: int = 1 << 24,
    search: Callable[..., Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Evaluate the true fields: vector to the nearest atom, f_p(p) = a - p, and species, f_s(p).

    Args:
        periodic: nearest among all periodic images; paper and official: among the atoms of the cell
            only.
        max_distances: largest number of query-atom distances at a time (4 bytes each, and thrice
            that for their differences).
        search: a compiled `nearest_index`, which stores no distances and so needs no limit.

    Returns:
        Vectors in Å in the shape of the queries, and species indices in that shape without its last
        axis.
    """
    p, index = queries
    if periodic:
        crystals = images(crystals)
        p = (
            into_cell(p, crystals.lattice)
            if index is None
            else into_cell(p[:, None], crystals.lattice[index])[:, 0]
        )
    find, n_atoms = search or nearest_index, crystals.positions.shape[1]
    if index is None:
        step = max(1, p.shape[1] if search else max_distances // (n_atoms * len(crystals)))
        nearest = torch.cat(
            [find(part, crystals.positions) for part in p.split(step, dim=1)], dim=1
        )  # [B, Q]
        vectors = crystals.positions.gather(1, nearest[..., None].expand(-1, -1, 3)) - p
        return vectors, crystals.species.gather(1, nearest)
    step = max(1, len(p) if search else max_distances // n_atoms)
    nearest = torch.cat(
        [
            find(q, crystals.positions, i)
            for q, i in zip(p.split(step), index.split(step), strict=True)
        ]
    )  # [M]
    return crystals.positions[index, nearest] - p, crystals.species[index, nearest]


def box_grid(
    box: Box,
    interval: float,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return a regular grid [G, 3], Å, over a dataset's bounding box (Section 2.1, step 1).

    paper: a box that «loosely» encompasses the atoms / official and here: grown by one interval,
    upper end excluded.

    Raises:
        ConfigError: more than `MOST_POINTS` points.
    """
    grid_size(box, interval)
    axes = [
        torch.arange(low - interval, high + interval, interval, device=device, dtype=dtype)
        for low, high in zip(*box, strict=True)
    ]
    return torch.cartesian_prod(*axes)


def grid_size(box: Box, interval: float) -> int:
    """Return the number of points of `box_grid`, and raise its `ConfigError`."""
    edges = [(high + interval) - (low - interval) for low, high in zip(*box, strict=True)]
    n = math.prod(math.ceil(edge / interval) for edge in edges)
    _check_count(n, interval, max(edges))
    return n


def local_grid(
    interval: float,
    extent: float,
    *,
    half_open: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return a regular grid [n³, 3], Å, in a cube around the origin (Sections 2.1 and 2.2).

    Args:
        extent: edge of the cube, Å.
        half_open: exclude the upper end, as the official code does; the grid is then not centred.

    Raises:
        ConfigError: more than `MOST_POINTS` points.
    """
    steps = extent / interval
    n = math.ceil(steps - 1e-6) if half_open else math.floor(steps + 1e-6) + 1
    _check_count(n**3, interval, extent)
    # the latter is centred, whether or not the interval divides the extent
    start = extent / 2 if half_open else (n - 1) * interval / 2
    axis = torch.arange(n, device=device, dtype=dtype) * interval - start
    return torch.cartesian_prod(axis, axis, axis)


def _check_count(n: int, interval: float, extent: float) -> None:
    """Raise `ConfigError` for a grid of n points, before it fills the memory."""
    if n > MOST_POINTS:
        raise ConfigError(
            f"an interval of {interval:g} Å makes {n} grid points over {extent:.3g} Å, more than {MOST_POINTS}; choose a larger one"
        )


class BatchRandom(NamedTuple):
    """Random numbers for one process's share of a batch, as a single process draws them."""

    generator: torch.Generator  # in the same state in every process
    before: int = 0  # number of crystals of the batch before this process's share
    # number of crystals of the whole batch; None: the share is the whole batch
    of: int | None = None

    def rows(self, draw: Callable[..., Tensor], b: int, *shape: int) -> Tensor:
        """Return the share's rows [b, *shape] of what `draw` (torch.rand, ...) gives for all."""
        whole = draw(
            (b if self.of is None else self.of, *shape),
            generator=self.generator,
            device=self.generator.device,
        )
        return whole[self.before : self.before + b]


class Sampler:
    """Sampler of the training queries: perturbed global and local grids (Section 2.2).

    With `n_position` and `n_species` of the config at 0 every grid point of every atom is used, as
    in the paper. Otherwise that number per crystal is drawn at random from the same distribution,
    which keeps shapes fixed and steps short.
    """

    def __init__(
        self, config: SamplingConfig, box: Box, device: torch.device | str = "cpu"
    ) -> None:
        self.config = config
        self.box_points = box_grid(box, config.global_interval, device)
        self.local_points = local_grid(
            config.local_interval, config.local_range, half_open=config.half_open, device=device
        )
        self.species_points = local_grid(
            config.species_interval, config.species_range, half_open=config.half_open, device=device
        )

    def n_global(self, crystals: PaddedCrystals) -> Tensor:
        """Return the number of points [B] of each crystal's full global grid."""
        if self.config.global_region == "cell":
            return self._cell_counts(crystals).prod(-1).long()
        return torch.full((len(crystals),), len(self.box_points), device=crystals.positions.device)

    def position_queries(
        self,
        crystals: PaddedCrystals,
        generator: torch.Generator | BatchRandom,
        n_global: int | None = None,
    ) -> Queries:
        """Sample queries for the position field: global and local ones.

        Args:
            generator: of random numbers; `BatchRandom` where several processes share a batch (full
                sampling: each has a generator of its own).
            n_global: sum of `n_global` over the crystals, if known; computing it on a GPU would
                make the program wait for it.
        """
        c, draws = (
            self.config,
            generator if isinstance(generator, BatchRandom) else BatchRandom(generator),
        )
        if not c.n_position:
            around, around_index = self._all_local(
                crystals, self.local_points, c.local_sigma, draws.generator
            )
            everywhere, everywhere_index = self._all_global(crystals, draws.generator, n_global)
            return Queries(
                torch.cat([everywhere, around]), torch.cat([everywhere_index, around_index])
            )
        b, n = len(crystals), c.n_position
        n_everywhere, n_around = (
            self.n_global(crystals),
            crystals.mask.sum(1) * len(self.local_points),
        )
        share = (
            (n_everywhere / (n_everywhere + n_around))[:, None]
            if c.global_share is None
            else c.global_share
        )
        is_global = draws.rows(torch.rand, b, n) < share
        if c.global_region == "cell":
            counts = self._cell_counts(crystals)[:, None].expand(b, n, 3)
            steps = draws.rows(torch.rand, b, n, 3).mul(counts).floor()
            everywhere = ((steps + 0.5) / counts) @ crystals.lattice
        else:
            everywhere = self.box_points[
                draws.rows(partial(torch.randint, len(self.box_points)), b, n)
            ]
        around = self._some_local(crystals, self.local_points, n, draws)
        sigma = torch.where(is_global, c.global_sigma, c.local_sigma)[..., None]
        noise = draws.rows(torch.randn, b, n, 3)
        return Queries(torch.where(is_global[..., None], everywhere, around) + sigma * noise, None)

    def species_queries(
        self, crystals: PaddedCrystals, generator: torch.Generator | BatchRandom
    ) -> Queries:
        """Sample queries for the species field, only local ones; as `position_queries`."""
        c, draws = (
            self.config,
            generator if isinstance(generator, BatchRandom) else BatchRandom(generator),
        )
        if not c.n_species:
            return Queries(
                *self._all_local(crystals, self.species_points, c.species_sigma, draws.generator)
            )
        around = self._some_local(crystals, self.species_points, c.n_species, draws)
        noise = draws.rows(torch.randn, *around.shape)
        return Queries(around + c.species_sigma * noise, None)

    def _cell_counts(self, crystals: PaddedCrystals) -> Tensor:
        """Return the number of grid points along each lattice vector [B, 3]."""
        return (crystals.lengths / self.config.global_interval - 1e-4).ceil().clamp(min=1)

    def _all_global(
        self, crystals: PaddedCrystals, generator: torch.Generator, n_global: int | None
    ) -> tuple[Tensor, Tensor]:
        """Return all points of the global grids [G, 3], perturbed, and the crystal of each [G]."""
        b, device = len(crystals), crystals.positions.device
        if self.config.global_region == "box":
            points = self.box_points.expand(b, -1, -1).flatten(0, 1)
            index = torch.arange(b, device=device).repeat_interleave(len(self.box_points))
        else:
            counts = self._cell_counts(crystals).long()  # [B, 3]
            each = counts.prod(-1)
            # [G], cell after cell
            index = torch.arange(b, device=device).repeat_interleave(each, output_size=n_global)
            # of a point in its cell
            number = torch.arange(len(index), device=device) - (each.cumsum(0) - each)[index]
            _nx, ny, nz = counts[index].unbind(-1)
            steps = torch.stack([number // (ny * nz), number // nz % ny, number % nz], dim=-1)
            fractional = (steps.to(crystals.lattice.dtype) + 0.5) / counts[index]
            points = (fractional[:, None] @ crystals.lattice[index])[:, 0]
        noise = torch.randn(points.shape, generator=generator, device=device)
        return points + self.config.global_sigma * noise, index

    def _all_local(
        self, crystals: PaddedCrystals, grid: Tensor, sigma: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return perturbed local grids around all atoms [G, 3] and each point's crystal [G]."""
        where = crystals.atoms()
        atoms, owner = crystals.positions.flatten(0, 1)[where], where // crystals.positions.shape[1]
        points = (atoms[:, None] + grid).flatten(0, 1)
        noise = torch.randn(points.shape, generator=generator, device=points.device)
        return points + sigma * noise, owner[:, None].expand(-1, len(grid)).flatten()

    def _some_local(
        self, crystals: PaddedCrystals, grid: Tensor, n: int, draws: BatchRandom
    ) -> Tensor:
        """Draw n points per crystal [B, n, 3] from local grids around its atoms, not perturbed."""
        b = len(crystals)
        n_atoms = crystals.mask.sum(1, keepdim=True)
        atom = draws.rows(torch.rand, b, n).mul(n_atoms).long().clamp(max=n_atoms - 1)
        centre = crystals.positions.gather(1, atom[..., None].expand(-1, -1, 3))
        return centre + grid[draws.rows(partial(torch.randint, len(grid)), b, n)]
