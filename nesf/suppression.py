"""Non-maximum suppression (step 4 of Section 2.1) for all crystals of a batch at once.

The sequential rule: the particle with the lowest score becomes a centre, all particles within a
radius of it are removed, and so on. The same result is found in a few rounds. Particles are sorted
into cubic cells with the radius as edge. Among the best of the remaining particles, each that has
the lowest score in its own and the 26 neighbouring cells is certainly a centre, and all these
centres remove the particles near them. In the end every particle belongs to the best centre near
it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BEST = 4096  # number of particles of a round, or a 64th of all if that is more
MAX_PAIRS = 1 << 21  # centre-particle distances at a time; bounds the memory to some 100 MB


class Clusters(NamedTuple):
    """Clusters of all crystals, lowest score first."""

    centre: Tensor  # [K], the particle at the centre of each cluster
    member_of: Tensor  # [M], the cluster of each particle


def suppress(positions: Tensor, scores: Tensor, crystal: Tensor, radius: float) -> Clusters:
    """Return the clusters that the sequential rule gives.

    Args:
        positions: [M, 3], Å.
        scores: [M]; the lowest wins, in a tie the first.
        crystal: [M]; particles of different crystals do not influence each other.
        radius: Å; a particle nearer than this to a centre belongs to its cluster, and a centre to
            its own.
    """
    m = len(positions)
    order = torch.argsort(scores, stable=True)
    place = positions.double()[order]  # from here on a particle's number is its rank by score
    cells = Cells(place, crystal[order], max(radius, 1e-3))
    owner = torch.full_like(order, m)  # the best centre near a particle; m: none yet
    left = torch.arange(m, device=positions.device)
    centres = []
    while len(left):
        best = left[: max(BEST, m // 64)]
        around = cells.around(best)
        certain = _centres(place, cells, best, around, radius)
        centre, around = best[certain], around[certain]
        lengths = cells.count[around]  # [k, 27]
        n_pairs = lengths.sum(1)
        # consecutive centres with about so many pairs
        part_of = (n_pairs.cumsum(0) - n_pairs) // MAX_PAIRS
        sizes = torch.unique_consecutive(part_of, return_counts=True)[1].tolist()
        for part, near, length in zip(
            centre.split(sizes), around.split(sizes), lengths.split(sizes), strict=True
        ):
            members, which = _ranges(cells.start[near].flatten(), length.flatten())
            particle, best_near = cells.members[members], part[which // 27]
            hit = ((place[particle] - place[best_near]).square().sum(-1) < radius**2) | (
                particle == best_near
            )
            owner.scatter_reduce_(0, particle[hit], best_near[hit], "amin")
        left = left[owner[left] == m]
        centres.append(centre)
    all_centres = torch.cat(centres).sort().values if centres else left
    member_of = torch.empty_like(order)
    member_of[order] = torch.searchsorted(all_centres, owner)
    return Clusters(order[all_centres], member_of)


def _centres(place: Tensor, cells: Cells, best: Tensor, around: Tensor, radius: float) -> Tensor:
    """Return which of the best particles [K], ascending, are centres; around: cells [K, 27]."""
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
        near_centre, own_rank = lowest[near], ranks[:, None].expand(-1, 27)
        pairs = (near_centre < none).nonzero(as_tuple=True)
        close = (place[near_centre[pairs]] - place[own_rank[pairs]]).square().sum(-1) < radius**2
        lowest[own] = none
        stays = ~certain
        stays[pairs[0][close]] = False
        waiting = waiting[stays]
    return is_centre


class Cells:
    """Particles sorted into cubic cells.

    A cell is identified by one number. If two cells far apart share it, some distances are computed
    in vain, but no pair is missed.
    """

    # of a cell's number along each axis; far enough apart for the cells of one crystal
    STEPS = (1_018_081_009, 1_009, 1)

    def __init__(self, place: Tensor, crystal: Tensor, side: float) -> None:
        lattice = torch.floor((place - place.amin(0)) / side).long() if len(place) else place.long()
        self.steps = torch.tensor(self.STEPS, device=place.device)
        number = (lattice * self.steps).sum(-1) + crystal * 7_919_000_000_000_011
        # numbers of the C cells; the cell of each particle [M]
        self.known, self.cell = torch.unique(number, return_inverse=True)
        self.members = torch.argsort(self.cell, stable=True)  # particles, cell by cell [M]
        # particles in each cell [C + 1]; the last cell is empty
        self.count = torch.bincount(self.cell, minlength=len(self.known) + 1)
        # place in `members` of each cell's first particle [C + 1]
        self.start = self.count.cumsum(0) - self.count

    def around(self, particles: Tensor) -> Tensor:
        """Return the cell of each particle and the 26 around it [k, 27]."""
        steps = (
            torch.cartesian_prod(*[torch.arange(-1, 2, device=particles.device)] * 3) * self.steps
        ).sum(-1)
        wanted = self.known[self.cell[particles]][:, None] + steps
        where = torch.searchsorted(self.known, wanted).clamp(max=len(self.known) - 1)
        return torch.where(self.known[where] == wanted, where, len(self.known))


def _ranges(start: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Return the numbers of all ranges start_i ... start_i + length_i - 1, and for each its i."""
    i = torch.arange(len(start), device=start.device).repeat_interleave(length)
    before = length.cumsum(0) - length
    return torch.arange(len(i), device=start.device) - before[i] + start[i], i
