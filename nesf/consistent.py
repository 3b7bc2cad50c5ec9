"""Consistent decoding: the crystal x whose latent vector E(x) is the given z, and a certificate.

The five steps decode what the fields say, and the fields cannot say all that the latent vector
holds. So the encoder is asked about the decoded crystal: its latent distance to z,

    d = mean over the components of ((E(x) - z) / σ)²,    σ: standard deviations over the training
                                                           split,

is minimised, over positions and lattice by the Levenberg-Marquardt method (`polish`), over elements
and the number of atoms by a search among discrete moves, best first (`search`). The latent vector
stays all that the decoder is given. The distance that is left is a certificate: it needs no truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nesf.config import ReconstructionConfig
from nesf.crystals import standard_lattice
from nesf.decode import allowed_lattices
from nesf.model import Encoder, scale_and_shift, scaled_lattice

# Rounding of a latent vector in fp32, in standard deviations, against the spread of the decoded
# lattice (0.05 Å, 0.06 degrees): the weights of the decoded lattice in a least-squares fit.
LATTICE_WEIGHTS = (4e-10,) * 3 + (1e-6,) * 3


class Candidates(NamedTuple):
    """C crystals, padded to N atoms, in double precision."""

    positions: Tensor  # [C, N, 3], Å; 0 where there is no atom
    species: Tensor  # [C, N], index into the vocabulary
    mask: Tensor  # [C, N]
    lattice: Tensor  # [C, 6]: lengths, Å, and angles, radians

    def select(self, which: Tensor | slice) -> Candidates:
        """Return the candidates at the given indices."""
        return Candidates(*(t[which] for t in self))

    @staticmethod
    def of(atoms: Sequence[tuple[Tensor, Tensor]], lattice: Tensor) -> Candidates:
        """Return candidates of positions [n, 3] and species [n] each, and lattices [C, 6]."""
        width = max(len(s) for _, s in atoms)
        positions = lattice.new_zeros(len(atoms), width, 3)
        species = torch.zeros(len(atoms), width, dtype=torch.long)
        mask = torch.zeros(len(atoms), width, dtype=torch.bool)
        for i, (p, s) in enumerate(atoms):
            positions[i, : len(s)], species[i, : len(s)], mask[i, : len(s)] = p, s, True
        return Candidates(positions, species, mask, lattice)

    def atoms(self, i: int) -> tuple[Tensor, Tensor]:
        """Return positions [n, 3] and species [n] of candidate i."""
        return self.positions[i][self.mask[i]], self.species[i][self.mask[i]]


class Layer(NamedTuple):
    """A linear layer, and the affine map after its ReLU; the last layer of an MLP has none."""

    weight: Tensor
    bias: Tensor
    after: tuple[Tensor, Tensor] | None


def layers_of(mlp: nn.Sequential, dtype: torch.dtype) -> list[Layer]:
    """Return an MLP in evaluation as its layers."""
    layers: list[Layer] = []
    for module in mlp:
        if isinstance(module, nn.Linear):
            one = torch.ones(module.out_features, dtype=dtype)
            weight, bias = (t.detach().to(dtype) for t in (module.weight, module.bias))
            layers.append(Layer(weight, bias, (one, 0 * one)))
        elif isinstance(module, nn.BatchNorm1d):
            scale, shift = (t.detach().to(dtype) for t in scale_and_shift(module))
            layers[-1] = layers[-1]._replace(after=(scale, shift))
    layers[-1] = layers[-1]._replace(after=None)
    return layers


def evaluate(layers: Sequence[Layer], x: Tensor) -> Tensor:
    """Evaluate an MLP at x [..., n]."""
    for weight, bias, after in layers:
        x = nn.functional.linear(x, weight, bias)
        if after is not None:
            x = torch.relu(x) * after[0] + after[1]
    return x


def derive(layers: Sequence[Layer], x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate an MLP and its derivatives along T directions dx [..., T, n]."""
    for weight, bias, after in layers:
        x, dx = nn.functional.linear(x, weight, bias), dx @ weight.T
        if after is not None:
            dx = dx * ((x > 0) * after[0]).unsqueeze(-2)
            x = torch.relu(x) * after[0] + after[1]
    return x, dx


class FixedEncoder:
    """The encoder in evaluation, with its derivatives.

    Its features of an atom are a sum of a part of the position and a part of the species, so that
    all species of an atom cost one addition each.
    """

    def __init__(self, encoder: Encoder, dtype: torch.dtype = torch.float64) -> None:
        self.position = layers_of(encoder.position, dtype)
        (mix,) = layers_of(encoder.mix, dtype)
        n = len(self.position[-1].bias)
        self.position_weight = mix.weight[:, :n]
        one_hot = torch.eye(encoder.n_species, dtype=dtype)
        species = evaluate(layers_of(encoder.species, dtype), one_hot)
        self.of_species = species @ mix.weight[:, n:].T + mix.bias  # [A, F]
        self.latent = layers_of(encoder.latent, dtype)
        self.counts = encoder.counts
        self.lattice = layers_of(encoder.lattice, dtype) if encoder.lattice else None

    def of_positions(self, positions: Tensor) -> Tensor:
        """Return the part of the position [..., F] in an atom's features."""
        return evaluate(self.position, positions) @ self.position_weight.T

    def of_lattice(self, lattice: Tensor) -> Tensor:
        """Return what the lattices [C, 6] add to the pooled features [C, L]."""
        if self.lattice is None:
            return lattice
        return evaluate(self.lattice, scaled_lattice(lattice[:, :3], lattice[:, 3:]))

    def of_pooled(self, largest: Tensor, total: Tensor, n: Tensor, lattice: Tensor) -> Tensor:
        """Return latent vectors [C, latent_size] of pooled features.

        Args:
            largest: [C, F], the largest of the atoms' features.
            total: [C, F], the sum of their positive parts.
            n: [C], the number of atoms.
            lattice: [C, L], from `of_lattice`.
        """
        parts = [largest]
        if self.counts:
            n = n[:, None].to(largest.dtype)
            parts += [total / n, n / 10]
        return evaluate(self.latent, torch.cat([*parts, lattice], dim=-1))

    def __call__(self, crystals: Candidates) -> Tensor:
        """Return latent vectors [C, latent_size]."""
        mask = crystals.mask[..., None]
        features = self.of_positions(crystals.positions) + self.of_species[crystals.species]
        largest = features.masked_fill(~mask, -torch.inf).amax(1)
        total = (torch.relu(features) * mask).sum(1)
        return self.of_pooled(
            largest, total, crystals.mask.sum(1), self.of_lattice(crystals.lattice)
        )

    def derivatives(self, crystals: Candidates) -> tuple[Tensor, Tensor]:
        """Return latent vectors [C, Z], and their derivatives [C, 3 N + 6, Z].

        By the atoms' coordinates, atom after atom, and by the lattice's lengths and angles.
        """
        c, n, _ = crystals.positions.shape
        mask, eye = crystals.mask[..., None], torch.eye(6, dtype=crystals.positions.dtype)
        x, dx = derive(self.position, crystals.positions, eye[:3, :3].expand(c, n, 3, 3))
        features = x @ self.position_weight.T + self.of_species[crystals.species]
        slopes = dx @ self.position_weight.T  # [C, N, 3, F]
        largest, where = features.masked_fill(~mask, -torch.inf).max(1)
        chosen = torch.zeros_like(features).scatter_(1, where[:, None], 1.0)
        pooled, along = [largest], [slopes * chosen[:, :, None]]
        if self.counts:
            n_atoms = mask.sum(1).to(x.dtype)
            share = ((features > 0) & mask) / n_atoms[:, None]
            pooled += [(features * share).sum(1), n_atoms / 10]
            along += [slopes * share[:, :, None], slopes.new_zeros(c, n, 3, 1)]
        lattice, d_lattice = crystals.lattice, eye.expand(c, 6, 6)
        if self.lattice is not None:
            scale = 4 * torch.cat([1 / lattice[:, :3], torch.ones_like(lattice[:, 3:])], dim=-1)
            lattice, d_lattice = derive(
                self.lattice,
                scaled_lattice(lattice[:, :3], lattice[:, 3:]),
                torch.diag_embed(scale),
            )
        of_atoms = torch.cat(along, dim=-1).flatten(1, 2)
        pad_to = nn.functional.pad
        d_input = torch.cat(
            [
                pad_to(of_atoms, (0, lattice.shape[1])),
                pad_to(d_lattice, (of_atoms.shape[2], 0)),
            ],
            dim=1,
        )
        return derive(self.latent, torch.cat([*pooled, lattice], dim=-1), d_input)


def polish(
    encoder: FixedEncoder,
    crystals: Candidates,
    z: Tensor,
    scale: Tensor,
    decoded: Tensor,
    steps: int,
    enough: float = 0.0,
) -> tuple[Candidates, Tensor]:
    """Move atoms and lattice towards the latent vectors z (Levenberg-Marquardt).

    Args:
        z: [C, Z].
        scale: [Z], standard deviations of the latent vectors.
        decoded: [C, 6], lattices that the decoder predicts; they decide where z hardly does.
        steps: largest number of steps; an atom moves by at most 0.3 Å in each.
        enough: stop where every latent distance is smaller.

    Returns:
        The crystals, and their latent distances d [C]; never larger than at the start.
    """
    c, n, _ = crystals.positions.shape
    weights = torch.tensor(LATTICE_WEIGHTS, dtype=z.dtype)
    damping = torch.full((c, 1), 1e-3, dtype=z.dtype)
    free = nn.functional.pad(crystals.mask.repeat_interleave(3, dim=1), (0, 6), value=True)

    def costs(latent: Tensor, lattice: Tensor) -> tuple[Tensor, Tensor]:
        distance = ((latent - z) / scale).square().mean(-1)
        return distance, distance + (weights * (lattice - decoded).square()).sum(-1)

    distance, cost = costs(encoder(crystals), crystals.lattice)
    for _ in range(steps):
        if distance.max() < enough:
            break
        latent, slopes = encoder.derivatives(crystals)
        slopes = slopes / scale * free[..., None]
        residual = (latent - z) / scale
        matrix = slopes @ slopes.transpose(1, 2) / z.shape[1]
        gradient = (slopes @ residual[..., None])[..., 0] / z.shape[1]
        gradient[:, 3 * n :] += weights * (crystals.lattice - decoded)
        diagonal = matrix.diagonal(dim1=1, dim2=2)  # a view
        diagonal[:, 3 * n :] += weights
        diagonal += (diagonal + 1e-6) * damping + (~free)
        step = torch.linalg.solve_ex(matrix, -gradient[..., None])[0][..., 0]
        step = step.nan_to_num(0.0)
        longest = step[:, : 3 * n].view(c, n, 3).norm(dim=-1).amax(-1, keepdim=True)
        step = step * (0.3 / longest.clamp(min=0.3))
        lattice = crystals.lattice + step[:, 3 * n :]
        lattice = torch.cat([lattice[:, :3].clamp(min=0.5), lattice[:, 3:]], dim=-1)
        tried = crystals._replace(
            positions=crystals.positions + step[:, : 3 * n].view(c, n, 3), lattice=lattice
        )
        new_distance, new_cost = costs(encoder(tried), lattice)
        better = new_cost < cost  # false for NaN
        crystals = crystals._replace(
            positions=torch.where(better[:, None, None], tried.positions, crystals.positions),
            lattice=torch.where(better[:, None], lattice, crystals.lattice),
        )
        distance, cost = (
            torch.where(better, new_distance, distance),
            torch.where(better, new_cost, cost),
        )
        damping = torch.where(better[:, None], damping / 5, damping * 5).clamp(1e-12, 1e6)
    return crystals, distance


class Move(NamedTuple):
    """A discrete change of a crystal's atoms."""

    distance: float  # latent distance after it, nothing else moved
    kind: str
    atoms: tuple[Tensor, Tensor]  # positions [n, 3] and species [n]


class Moves:
    """The discrete moves from one crystal, scored at fixed positions in single precision."""

    def __init__(
        self,
        encoder: FixedEncoder,
        atoms: tuple[Tensor, Tensor],
        lattice: Tensor,
        z: Tensor,
        scale: Tensor,
    ) -> None:
        self.encoder, self.z, self.scale = encoder, z.float(), scale.float()
        self.positions, self.species = atoms
        self.of_lattice = encoder.of_lattice(lattice[None].float())
        self.table = encoder.of_species
        self.parts = encoder.of_positions(self.positions.float())  # [n, F]
        self.features = self.parts + self.table[self.species]
        self.positive = torch.relu(self.features)
        self.found: list[Move] = []

    def distances(self, largest: Tensor, total: Tensor, n: int) -> Tensor:
        """Return the latent distances [K] of pooled features [K, F]."""
        k = len(largest)
        numbers = torch.full((k,), n)
        latent = self.encoder.of_pooled(largest, total, numbers, self.of_lattice.expand(k, -1))
        return ((latent - self.z) / self.scale).square().mean(-1)

    def without(self, atoms: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pooled features [F] without some atoms (mask [n])."""
        rest = self.features[~atoms]
        lowest = self.features.new_full((1, self.features.shape[1]), -1e4)
        return torch.cat([rest, lowest]).amax(0), torch.relu(rest).sum(0)

    def rename(self, top: int) -> None:
        """Give a group of equal atoms, or one atom, another element."""
        n = len(self.species)
        single = torch.eye(n, dtype=torch.bool)
        groups = [self.species == e for e in self.species.unique()]
        groups = [*single, *(g for g in groups if g.sum() > 1)]
        for group in groups:
            largest, total = self.without(group)
            named = self.parts[group][:, None] + self.table  # [g, A, F]
            distances = self.distances(
                torch.maximum(largest, named.amax(0)), total + torch.relu(named).sum(0), n
            )
            for a in distances.topk(min(top, len(distances)), largest=False).indices.tolist():
                if a != self.species[group][0]:
                    species = torch.where(group, a, self.species)
                    kind = "rename"
                    self.found.append(Move(float(distances[a]), kind, (self.positions, species)))

    def swap(self, top: int) -> None:
        """Let two atoms exchange their elements."""
        n = len(self.species)
        i, j = torch.triu_indices(n, n, 1)
        differ = self.species[i] != self.species[j]
        i, j = i[differ], j[differ]
        if not len(i):
            return
        species = self.species.repeat(len(i), 1)
        rows = torch.arange(len(i))
        species[rows, i], species[rows, j] = self.species[j], self.species[i]
        features = self.parts + self.table[species]
        distances = self.distances(features.amax(1), torch.relu(features).sum(1), n)
        for k in distances.topk(min(top, len(i)), largest=False).indices.tolist():
            self.found.append(Move(float(distances[k]), "swap", (self.positions, species[k])))

    def remove(self) -> None:
        """Leave one atom out."""
        n = len(self.species)
        if n == 1:
            return
        single = torch.eye(n, dtype=torch.bool)
        pooled = [self.without(atom) for atom in single]
        largest, total = (torch.stack(part) for part in zip(*pooled, strict=True))
        for atom, distance in zip(single, self.distances(largest, total, n - 1), strict=True):
            kept = self.positions[~atom], self.species[~atom]
            self.found.append(Move(float(distance), "remove", kept))

    def add(self, places: Tensor, top: int) -> None:
        """Add an atom of an element that is there, at one of the places [G, 3]."""
        if len(self.species):
            apart = torch.cdist(places, self.positions).amin(1) > 0.8  # Å
            places = places[apart]
        elements = self.species.unique() if len(self.species) else torch.arange(len(self.table))
        if not len(places):
            return
        nobody = torch.zeros(len(self.species), dtype=torch.bool)
        largest, total = self.without(nobody)
        new = (self.encoder.of_positions(places.float())[:, None] + self.table[elements]).flatten(
            0, 1
        )
        distances = self.distances(
            torch.maximum(largest, new), total + torch.relu(new), len(self.species) + 1
        )
        for k in distances.topk(min(top, len(distances)), largest=False).indices.tolist():
            place, element = divmod(k, len(elements))
            atoms = (
                torch.cat([self.positions, places[place : place + 1]]),
                torch.cat([self.species, elements[element : element + 1]]),
            )
            self.found.append(Move(float(distances[k]), "add", atoms))


class Found(NamedTuple):
    """The most consistent crystal that a search has found."""

    atoms: tuple[Tensor, Tensor]  # positions [n, 3], Å, and species [n]
    lattice: Tensor  # [6]: lengths, Å, and angles, radians
    distance: float  # latent distance
    tried: int  # number of candidates that were polished


def search(
    encoder: FixedEncoder,
    rough: FixedEncoder,
    starts: Sequence[tuple[tuple[Tensor, Tensor], Tensor]],
    z: Tensor,
    scale: Tensor,
    decoded: Tensor,
    config: ReconstructionConfig,
) -> Found:
    """Search the crystal of a latent vector z [Z] by discrete moves, best first.

    In each round the most consistent crystals that were not yet left make their moves; the best
    moves are polished, and join the others.

    Args:
        rough: the encoder in single precision, which scores moves.
        starts: atoms and lattice [6] of the crystals to start from.
        decoded: [6], the lattice that the decoder predicts.
    """
    places = grid_in_cell(decoded, config.search_interval)
    waiting = [(0.0, *start) for start in starts]
    best: tuple[float, tuple[Tensor, Tensor], Tensor] = (math.inf, *starts[0])
    seen: set[tuple[float, ...]] = set()
    tried = 0
    for _ in range(config.search_rounds):
        moves: dict[tuple[float, ...], tuple[Move, Tensor]] = {}
        for _distance, atoms, lattice in waiting[: config.search_width]:
            if not len(atoms[1]) and not len(places):
                continue
            for move in moves_of(rough, atoms, lattice, z, scale, places, config.search_top):
                key = (round(move.distance, 9), *sorted(move.atoms[1].tolist()))
                if key not in seen:
                    moves[key] = (move, lattice)
        waiting = waiting[config.search_width :]
        chosen = best_of_each_kind(list(moves.items()), config.search_candidates)
        if not chosen:
            break
        seen |= {key for key, _ in chosen}
        tried += len(chosen)
        candidates = Candidates.of(
            [move.atoms for _, (move, _) in chosen],
            torch.stack([lattice for _, (_, lattice) in chosen]),
        )
        n = len(chosen)
        some, distances = candidates, torch.zeros(n)
        for steps, share in ((3, 3), (7, 1)):
            some, distances = polish(
                encoder,
                some,
                z.expand(len(some.mask), -1),
                scale,
                decoded.expand(len(some.mask), -1),
                steps,
            )
            kept = distances.topk(max(1, len(distances) // share), largest=False).indices
            some, distances = some.select(kept), distances[kept]
        waiting += [
            (float(distances[i]), some.atoms(i), some.lattice[i]) for i in range(len(distances))
        ]
        waiting.sort(key=lambda state: state[0])
        best = min(best, waiting[0], key=lambda state: state[0])
        if best[0] < config.certified:
            break
    return Found(best[1], best[2], best[0], tried)


def moves_of(
    rough: FixedEncoder,
    atoms: tuple[Tensor, Tensor],
    lattice: Tensor,
    z: Tensor,
    scale: Tensor,
    places: Tensor,
    top: int,
) -> list[Move]:
    """Return the discrete moves from a crystal, of each kind the `top` best ones at least."""
    moves = Moves(rough, atoms, lattice, z, scale)
    if len(atoms[1]):
        moves.rename(top)
        moves.swap(top)
        moves.remove()
    moves.add(places, top)
    return moves.found


def best_of_each_kind(
    moves: list[tuple[tuple[float, ...], tuple[Move, Tensor]]], most: int
) -> list[tuple[tuple[float, ...], tuple[Move, Tensor]]]:
    """Return at most so many moves: the best ones, but of no kind more than half of them."""
    moves.sort(key=lambda entry: entry[1][0].distance)
    counts: dict[str, int] = {}
    chosen = []
    for entry in moves:
        kind = entry[1][0].kind
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] <= most // 2:
            chosen.append(entry)
    return chosen[:most]


def grid_in_cell(lattice: Tensor, interval: float) -> Tensor:
    """Return grid points [G, 3], Å, in a cell of lengths, Å, and angles, radians [6]."""
    counts = (lattice[:3] / interval).round().clamp(1, 24).long() + 1
    axes = [torch.linspace(0, 1, int(k), dtype=lattice.dtype) for k in counts]
    matrix = lattice_matrices(lattice[None])[0]
    return torch.cartesian_prod(*axes) @ matrix


def lattice_matrices(lattice: Tensor) -> Tensor:
    """Return matrices [C, 3, 3] of lattices [C, 6], as `nesf.crystals.standard_lattice`."""
    values = lattice.numpy()
    lengths, angles, _ = allowed_lattices(values[:, :3], values[:, 3:])
    return torch.as_tensor(standard_lattice(lengths, angles))
