"""Non-maximum suppression among particles (step 4 of Section 2.1), for all crystals of a batch at once and without a loop over particles.

The sequential rule: the particle with the lowest score becomes a centre, all within a radius of it are removed, and so on. The same
result comes in a few rounds. Particles are sorted into cells of the radius' side; among the best of those that are left, one that has the
lowest score in its own and the 26 cells around is certainly a centre, whatever happens elsewhere, and all certain centres remove what is
near them. In the end every particle belongs to the best centre near it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BEST = 4096  # particles that are decided together, or a 64th of all
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
    m = len(positions)
    order = torch.argsort(scores, stable=True)
    place, of = positions.double()[order], crystal[order]  # from here on a particle's number is its rank
    cells = _Cells(place, of, max(radius, 1e-3))
    owner = torch.full_like(order, m)  # the best centre near a particle; m: none yet
    left = torch.arange(m, device=positions.device)
    centres = []
    while len(left):
        best = left[: max(BEST, m // 64)]
        around = cells.around(best)
        certain = _centres(place, cells, best, around, radius)
        centre, around = best[certain], around[certain]
        lengths = cells.count[around]  # [k, 27]
        for part in _parts(lengths.sum(1)):
            near, which = _ranges(cells.start[around[part]].flatten(), lengths[part].flatten())
            particle, its = cells.members[near], centre[part][which // 27]
            hit = ((place[particle] - place[its]).square().sum(-1) < radius**2) | (particle == its)
            owner.scatter_reduce_(0, particle[hit], its[hit], "amin")
        left = left[owner[left] == m]
        centres.append(centre)
    winners = torch.cat(centres).sort().values if centres else left
    member_of = torch.empty_like(order)
    member_of[order] = torch.searchsorted(winners, owner)
    return Clusters(order[winners], member_of)


def _centres(place: Tensor, cells: _Cells, best: Tensor, around: Tensor, radius: float) -> Tensor:
    """Which of the best particles [K], ascending, the sequential rule makes centres: mask [K]; `around`: the cells near each [K, 27]."""
    none = len(place)
    is_centre = torch.zeros(len(best), dtype=torch.bool, device=best.device)
    waiting = torch.arange(len(best), device=best.device)
    lowest = torch.full((len(cells.count),), none, device=best.device)
    while len(waiting):
        ranks, own, near = best[waiting], cells.cell[best[waiting]], around[waiting]
        lowest.scatter_reduce_(0, own, ranks, "amin")
        certain = lowest[near].amin(1) == ranks
        lowest[own] = none
        is_centre[waiting[certain]] = True
        lowest[own[certain]] = ranks[certain]  # now: the centre in a cell; there is at most one
        seen, its = lowest[near], ranks[:, None].expand(-1, 27)
        pairs = (seen < none).nonzero(as_tuple=True)
        close = (place[seen[pairs]] - place[its[pairs]]).square().sum(-1) < radius**2
        lowest[own] = none
        stays = ~certain
        stays[pairs[0][close]] = False
        waiting = waiting[stays]
    return is_centre


class _Cells:
    """Particles sorted into cubes.

    A cell is known by one number; should two cells far apart share it, particles are compared in vain, but nothing is missed.

    Attributes:
        cell: of each particle [M].
        members: particles, cell by cell [M]; `start` and `count` [C + 1] say where; the last cell is the empty one.
    """

    STEPS = (1_018_081_009, 1_009, 1)  # far enough apart for the cells of one crystal

    def __init__(self, place: Tensor, crystal: Tensor, side: float) -> None:
        lattice = torch.floor((place - place.amin(0)) / side).long() if len(place) else place.long()
        self.steps = torch.tensor(self.STEPS, device=place.device)
        self.known, self.cell = torch.unique((lattice * self.steps).sum(-1) + crystal * 7_919_000_000_000_011, return_inverse=True)
        self.members = torch.argsort(self.cell, stable=True)
        self.count = torch.bincount(self.cell, minlength=len(self.known) + 1)
        self.start = self.count.cumsum(0) - self.count

    def around(self, particles: Tensor) -> Tensor:
        """The 27 cells in and around each particle's own [k, 27]."""
        steps = (torch.cartesian_prod(*[torch.arange(-1, 2, device=particles.device)] * 3) * self.steps).sum(-1)
        wanted = self.known[self.cell[particles]][:, None] + steps
        where = torch.searchsorted(self.known, wanted).clamp(max=len(self.known) - 1)
        return torch.where(self.known[where] == wanted, where, len(self.known))


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
