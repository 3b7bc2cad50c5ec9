"""Non-maximum suppression among particles (step 4 of Section 2.1), for all crystals of a batch at once and without a loop over particles.

The sequential rule: the particle with the lowest score becomes a centre, all within a radius of it are removed, and so on. The same
result comes in a few rounds: particles are sorted into cells of the radius' side, and one that has the lowest score in its own and
the 26 cells around is certainly a centre, whatever happens elsewhere. In the end every particle belongs to the best centre near it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MAX_PAIRS = 1 << 21  # centre-particle distances at a time: bounds the memory to some 100 MB


class Clusters(NamedTuple):
    """Clusters of all crystals, best score first.

    Attributes:
        centre: [K], the particle that each cluster is centred on.
        member_of: [M], the cluster of each particle.
    """

    centre: Tensor
    member_of: Tensor


def suppress(positions: Tensor, scores: Tensor, crystal: Tensor, radius: float) -> Clusters:
    """Non-maximum suppression.

    Args:
        positions: [M, 3], Å.
        scores: [M]; the lowest wins, of equals the first.
        crystal: [M]; particles of different crystals do not see each other.
        radius: Å; a particle nearer than this to a centre belongs to its cluster, and a centre to its own.

    Returns:
        The clusters, as the sequential rule gives them.
    """
    m, device = len(positions), positions.device
    none = m  # a rank that no particle has
    positions = positions.double()
    order = torch.argsort(scores, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(m, device=device)
    cells, cell, neighbours = _cells(positions, crystal, max(radius, 1e-3))
    by_cell = torch.argsort(cell)
    count = torch.bincount(cell, minlength=cells)
    start = count.cumsum(0) - count
    waiting = rank.clone()  # `none` once a particle has been removed
    best = torch.full((m,), none, device=device)  # rank of the best centre near a particle
    while True:
        lowest = torch.full((cells + 1,), none, device=device).scatter_reduce_(0, cell, waiting, "amin")
        sure = (lowest[:-1] < none) & (lowest[:-1] == lowest[neighbours].amin(1))
        if not sure.any():
            break
        ranks = lowest[:-1][sure]
        centres = order[ranks]
        around = neighbours[sure]  # [k, 27]
        known = around < cells
        lengths = torch.where(known, count[around.clamp(max=cells - 1)], 0)  # [k, 27]
        for part in _parts(lengths.sum(1)):
            near, of = _ranges(start[around[part].clamp(max=cells - 1)].flatten(), lengths[part].flatten())
            particle, its = by_cell[near], of // 27
            centre = centres[part][its]
            hit = ((positions[particle] - positions[centre]).square().sum(-1) < radius**2) | (particle == centre)
            particle = particle[hit]
            best.scatter_reduce_(0, particle, ranks[part][its[hit]], "amin")
            waiting[particle] = none
    winners = torch.unique(best)  # ranks of centres, ascending
    return Clusters(order[winners], torch.searchsorted(winners, best))


def _cells(positions: Tensor, crystal: Tensor, side: float) -> tuple[int, Tensor, Tensor]:
    """Number of occupied cells C, the cell of each particle [M], and the 27 cells in and around each cell [C, 27] (C: not occupied).

    A cell is known by one number; should two cells far apart share it, particles are compared in vain, but nothing is missed.
    """
    a, b, c = 1_000_003, 1_009, 1  # far enough apart for cells of one crystal, whose particles are within some 100 cells of each other
    lattice = torch.floor((positions - positions.amin(0)) / side).long() if len(positions) else positions.long()
    key = ((lattice[:, 0] * a + lattice[:, 1]) * b + lattice[:, 2]) * c + crystal * 7_919_000_000_011
    known, cell = torch.unique(key, return_inverse=True)
    steps = torch.cartesian_prod(*[torch.arange(-1, 2, device=positions.device)] * 3)
    wanted = known[:, None] + ((steps[:, 0] * a + steps[:, 1]) * b + steps[:, 2]) * c
    where = torch.searchsorted(known, wanted).clamp(max=max(len(known) - 1, 0))
    return len(known), cell, torch.where(known[where] == wanted, where, len(known))


def _parts(sizes: Tensor) -> list[slice]:
    """Slices of consecutive entries whose sizes sum to at most `MAX_PAIRS`, or which are one entry."""
    parts, begin, filled = [], 0, 0
    for i, size in enumerate(sizes.tolist()):
        if i > begin and filled + size > MAX_PAIRS:
            parts.append(slice(begin, i))
            begin, filled = i, 0
        filled += size
    parts.append(slice(begin, len(sizes)))
    return parts


def _ranges(start: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """All numbers of the ranges start_i ... start_i + length_i - 1, and the i that each is of."""
    of = torch.arange(len(start), device=start.device).repeat_interleave(length)
    before = length.cumsum(0) - length
    return torch.arange(len(of), device=start.device) - before[of] + start[of], of
