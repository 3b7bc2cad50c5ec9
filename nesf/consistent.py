"""Consistent decoding: the crystal x whose latent vector E(x) is the given z, and a certificate.

The five steps decode what the fields say, and the fields cannot say all that the latent vector
holds. So the encoder is asked about the decoded crystal: its latent distance to z is minimised over
positions and lattice (`nesf.polishing`), and over elements and the number of atoms by a search
among discrete moves, best first. The latent vector stays all that the decoder is given. The
distance that is left is a certificate: it needs no truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from nesf.config import ReconstructionConfig
from nesf.crystals import PaddedCrystals, allowed_lattices, standard_lattice
from nesf.model import Autoencoder
from nesf.polishing import Candidates, FixedEncoder, polish

# Atoms beyond which a crystal is polished, but not searched for: the pairs to swap would fill memory.
MOST_SEARCHED = 64


class Target(NamedTuple):
    """What the latent vector of one crystal asks for."""

    z: Tensor  # [Z]
    scale: Tensor  # [Z], standard deviations of the training split's latent vectors
    lattice: Tensor  # [6], as decoded: lengths, Å, and angles, radians
    counts: Tensor | None  # [A], decoded number of atoms of each species; None: not decoded
    n_atoms: int  # that the five steps found; counts where the composition is not decoded

    def mismatch(self, have: Tensor, weight: float) -> Tensor:
        """Return the penalty [...] of numbers of atoms of each species [..., A].

        Without a decoded composition, an atom more or less than the five steps found costs little.
        """
        if self.counts is None:
            return weight / 25 * (have.sum(-1) - self.n_atoms).abs()
        return weight * (self.counts.to(have.dtype) - have).square().sum(-1)


class State(NamedTuple):
    """A crystal of the search."""

    energy: float  # what the search is ordered by
    distance: float  # latent distance
    kind: str  # the move that led to it
    positions: Tensor  # [n, 3], Å
    species: Tensor  # [n]
    lattice: Tensor  # [6]

    def key(self) -> tuple[float, ...]:
        """Return what tells states apart."""
        return (round(self.distance, 7), *sorted(self.species.tolist()))


class Moves:
    """The discrete moves from one crystal, scored at fixed positions in single precision."""

    def __init__(
        self, rough: FixedEncoder, state: State, target: Target, config: ReconstructionConfig
    ) -> None:
        self.rough, self.state, self.config = rough, state, config
        self.z, self.scale = target.z.float(), target.scale.float()
        self.of_lattice = rough.of_lattice(state.lattice[None].float())
        self.table, self.species = rough.of_species, state.species
        self.parts = rough.of_positions(state.positions.float())  # [n, F]
        self.features = self.parts + self.table[self.species]
        self.single = torch.eye(len(self.species), dtype=torch.bool)
        self.target, self.have = target, self.count(self.species)
        self.found: list[State] = []

    def all(self, places: Tensor) -> list[State]:
        """Return the best moves of each kind, unpolished; places [G, 3]: for atoms, Å."""
        n = len(self.species)
        if n:
            self.rename()
            self.swap()
        if n > 1:
            self.remove()
        if n:
            places = places[torch.cdist(places, self.state.positions).amin(1) > 0.8]  # Å
        if len(places):
            self.add(places)
        return self.found

    def count(self, species: Tensor) -> Tensor:
        """Return the numbers of atoms of each species [A]."""
        return torch.bincount(species, minlength=len(self.table)).float()

    def mismatch(self, taken: Tensor | None = None, given: int = 0) -> Tensor:
        """Return the penalty of the composition [A] after a change.

        Atoms `taken` (mask [n]) are removed, and so many atoms of each species in turn are added.
        """
        have = self.have if taken is None else self.have - self.count(self.species[taken])
        have = have + given * torch.eye(len(have))
        return self.target.mismatch(have, self.config.composition_weight)

    def energies(self, largest: Tensor, total: Tensor, n: int, mismatch: Tensor) -> Tensor:
        """Return the energies [K] of pooled features [K, F] of n atoms."""
        k = len(largest)
        numbers = torch.full((k,), n)
        latent = self.rough.of_pooled(largest, total, numbers, self.of_lattice.expand(k, -1))
        return ((latent - self.z) / self.scale).square().mean(-1) + mismatch

    def keep(
        self, kind: str, energies: Tensor, atoms: Callable[[int], tuple[Tensor, Tensor]]
    ) -> None:
        """Keep the best moves of a kind."""
        top = energies.topk(min(self.config.search_top, len(energies)), largest=False)
        for energy, k in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            self.found.append(State(energy, energy, kind, *atoms(k), self.state.lattice))

    def without(self, atoms: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pooled features [F] without some atoms (mask [n])."""
        rest = self.features[~atoms]
        lowest = self.features.new_full((1, self.features.shape[1]), -1e4)
        return torch.cat([rest, lowest]).amax(0), torch.relu(rest).sum(0)

    def rename(self) -> None:
        """Give a group of equal atoms, or one atom, another element."""
        groups = [self.species == e for e in self.species.unique()]
        energies, changed = [], [*self.single, *(g for g in groups if g.sum() > 1)]
        for group in changed:
            largest, total = self.without(group)
            named = self.parts[group][:, None] + self.table  # [g, A, F]
            of_group = self.energies(
                torch.maximum(largest, named.amax(0)),
                total + torch.relu(named).sum(0),
                len(self.species),
                self.mismatch(group, int(group.sum())),
            )
            of_group[self.species[group][0]] = torch.inf  # it has this element already
            energies.append(of_group)

        def atoms(k: int) -> tuple[Tensor, Tensor]:
            group, species = changed[k // len(self.table)], k % len(self.table)
            return self.state.positions, torch.where(group, species, self.species)

        self.keep("rename", torch.cat(energies), atoms)

    def swap(self) -> None:
        """Let two atoms exchange their elements."""
        i, j = torch.triu_indices(len(self.species), len(self.species), 1)
        differ = self.species[i] != self.species[j]
        i, j = i[differ], j[differ]
        if not len(i):
            return
        species, rows = self.species.repeat(len(i), 1), torch.arange(len(i))
        species[rows, i], species[rows, j] = self.species[j], self.species[i]
        features = self.parts + self.table[species]
        energies = self.energies(
            features.amax(1),
            torch.relu(features).sum(1),
            len(self.species),
            self.mismatch()[0],
        )
        self.keep("swap", energies, lambda k: (self.state.positions, species[k]))

    def remove(self) -> None:
        """Leave one atom out."""
        largest, total = (torch.stack(p) for p in zip(*map(self.without, self.single), strict=True))
        mismatch = torch.stack([self.mismatch(atom)[0] for atom in self.single])
        energies = self.energies(largest, total, len(self.species) - 1, mismatch)
        p, s = self.state.positions, self.species
        self.keep("remove", energies, lambda k: (p[~self.single[k]], s[~self.single[k]]))
        # an atom that can be missed may have another place
        self.spare = energies.topk(min(4, len(energies)), largest=False).indices.tolist()

    def add(self, places: Tensor) -> None:
        """Add an atom of an element that is there, or move one, to one of the places [G, 3]."""
        p, s = self.state.positions, self.species
        parts = self.rough.of_positions(places.float())
        elements = s.unique() if len(s) else torch.arange(len(self.table))
        largest, total = self.without(torch.zeros(len(s), dtype=torch.bool))
        new = (parts[:, None] + self.table[elements]).flatten(0, 1)
        energies = self.energies(
            torch.maximum(largest, new),
            total + torch.relu(new),
            len(s) + 1,
            self.mismatch(None, 1)[elements].repeat(len(places)),
        )

        def added(k: int) -> tuple[Tensor, Tensor]:
            place, element = divmod(k, len(elements))
            return torch.cat([p, places[place, None]]), torch.cat([s, elements[element, None]])

        self.keep("add", energies, added)
        for atom in self.spare if len(s) > 1 else ():
            largest, total = self.without(self.single[atom])
            new = parts + self.table[s[atom]]
            energies = self.energies(
                torch.maximum(largest, new), total + torch.relu(new), len(s), self.mismatch()[0]
            )

            def moved(k: int, atom: int = atom) -> tuple[Tensor, Tensor]:
                return torch.where(self.single[atom][:, None], places[k], p), s

            self.keep("move", energies, moved)


class Search:
    """The search for the crystal of one latent vector by discrete moves, best first.

    In each round the best crystals that have not yet done so make their moves; the best moves are
    polished, and join the others.
    """

    def __init__(
        self,
        rough: FixedEncoder,
        target: Target,
        config: ReconstructionConfig,
    ) -> None:
        self.rough, self.target, self.config = rough, target, config
        self.places = grid_in_cell(target.lattice, config.search_interval)
        self.tried = 0

    def run(self, starts: Sequence[State]) -> State:
        """Return the most consistent crystal found from the given ones."""
        best = min(starts, key=lambda state: state.distance)
        waiting, seen = list(starts), set[tuple[float, ...]]()
        for _ in range(self.config.search_rounds):
            moves: dict[tuple[float, ...], State] = {}
            for state in waiting[: self.config.search_width]:
                made = Moves(self.rough, state, self.target, self.config).all(self.places)
                moves |= {m.key(): m for m in made if m.key() not in seen}
            chosen = self.best_of_each_kind(list(moves.values()))
            if not chosen:
                break
            seen |= {state.key() for state in chosen}
            waiting = sorted(
                waiting[self.config.search_width :] + self.polished(chosen),
                key=lambda state: state.energy,
            )
            best = min(best, *waiting, key=lambda state: state.distance)
            if best.distance < self.config.certified:
                break
        return best

    def best_of_each_kind(self, moves: list[State]) -> list[State]:
        """Return the best moves, but of no kind more than half of them."""
        counts: dict[str, int] = {}
        chosen = []
        for move in sorted(moves, key=lambda state: state.energy):
            counts[move.kind] = counts.get(move.kind, 0) + 1
            if counts[move.kind] <= self.config.search_candidates // 2:
                chosen.append(move)
        return chosen[: self.config.search_candidates]

    def polished(self, states: Sequence[State]) -> list[State]:
        """Return the best third of the states, polished."""
        self.tried += len(states)
        crystals = Candidates.of(
            [(state.positions, state.species) for state in states],
            torch.stack([state.lattice for state in states]),
        )
        target, kinds = self.target, [state.kind for state in states]
        for steps, share in ((3, 3), (7, 1)):
            c = len(kinds)
            crystals, distances = polish(
                self.rough,
                crystals,
                target.z.expand(c, -1),
                target.scale,
                target.lattice.expand(c, -1),
                steps,
            )
            have = distances.new_zeros(c, len(self.rough.of_species))
            have.scatter_add_(1, crystals.species, crystals.mask.double())
            energies = distances + target.mismatch(have, self.config.composition_weight)
            kept = energies.argsort()[: max(1, c // share)]
            crystals, distances, energies = crystals.select(kept), distances[kept], energies[kept]
            kinds = [kinds[k] for k in kept.tolist()]
        return [
            State(float(e), float(d), kind, *crystals.atoms(i), crystals.lattice[i])
            for i, (e, d, kind) in enumerate(zip(energies, distances, kinds, strict=True))
        ]


def grid_in_cell(lattice: Tensor, interval: float) -> Tensor:
    """Return grid points [G, 3], Å, in a cell of lengths, Å, and angles, radians [6]."""
    counts = (lattice[:3] / interval).round().clamp(1, 24).long() + 1
    axes = [torch.linspace(0, 1, int(k), dtype=lattice.dtype) for k in counts]
    values = lattice[None].numpy()
    lengths, angles, _ = allowed_lattices(values[:, :3], values[:, 3:])
    return torch.cartesian_prod(*axes) @ torch.as_tensor(standard_lattice(lengths, angles)[0])


@dataclass(frozen=True)
class Answer:
    """The most consistent crystal of one latent vector, and its certificate."""

    positions: Tensor  # [n, 3], Å
    species: Tensor  # [n]
    lattice: Tensor  # [6]: lengths, Å, and angles, radians
    scores: list[float]  # [n], Å: ‖f_p‖ at the atoms
    certificate: dict[str, Any]

    @property
    def certified(self) -> bool:
        """Whether the encoder confirms the crystal."""
        return bool(self.certificate["certified"])


@torch.no_grad()
def correct(
    autoencoder: Autoencoder,
    z: Tensor,
    latent_scale: Sequence[float],
    decoded: PaddedCrystals,
    lattice: Tensor,
    config: ReconstructionConfig,
    progress: bool = False,
) -> list[Answer]:
    """Find for each latent vector the crystal that the encoder maps onto it.

    Works on the CPU, on 64 crystals at a time (about 100 MB for 20 atoms each), then searches for
    those that polishing alone does not confirm, one after another.

    Args:
        z: latent vectors [B, latent_size].
        latent_scale: their standard deviations over the training split; empty: not known.
        decoded: what the five steps decode, in double precision.
        lattice: [B, 6], lengths, Å, and angles, radians, as the decoder predicts them.

    Returns:
        One answer a crystal. Its certificate: `latent_distance`; `certified`, whether that is below
        `config.certified`; `candidates`, the number that was tried; of the answer, the fields' own
        opinion, `field_distance` (mean ‖f_p‖ at the atoms, Å) and `species_surprise` (mean
        −log p, nats), and `lattice_change`, the largest change of a length from the decoded one, Å.
    """
    encoder = FixedEncoder(autoencoder.encoder)
    rough = FixedEncoder(autoencoder.encoder, torch.float32)
    scale = torch.tensor(latent_scale or [1.0] * z.shape[1], dtype=torch.float64)
    target, lattice = z.cpu().double(), lattice.cpu()
    composition = autoencoder.composition_decoder
    counts = None if composition is None else composition(z).cpu().double()
    answers = []
    bar = tqdm(total=len(z), unit="crystal", desc="confirming", disable=not progress, mininterval=1)
    for part in torch.arange(len(z)).split(64):
        start = with_an_atom(decoded.select(part), counts, part)
        known = target[part], scale, lattice[part]
        polished = Candidates(*start, lattice[part])
        polished, distances = polish(rough, polished, *known, config.polish_steps, config.certified)
        polished, distances = polish(encoder, polished, *known, 8, 1e-12)
        for i, k in enumerate(part.tolist()):
            n_found = int(decoded.mask[k].sum())
            wanted = Target(
                target[k], scale, lattice[k], None if counts is None else counts[k], n_found
            )
            d = float(distances[i])
            state = State(d, d, "polish", *polished.atoms(i), polished.lattice[i])
            search = Search(rough, wanted, config)
            if (d >= config.certified or not n_found) and n_found <= MOST_SEARCHED:
                plain = Candidates(*start, lattice[part]).atoms(i)
                state = search.run([State(d, math.inf, "start", *plain, lattice[k]), state])
                state = finished(encoder, state, wanted)
            answers.append(answer(autoencoder, z[k], state, wanted, search.tried, config))
            bar.update()
    bar.close()
    return answers


def finished(encoder: FixedEncoder, state: State, target: Target) -> State:
    """Return a state of the search polished in double precision."""
    crystal = Candidates.of([(state.positions, state.species)], state.lattice[None])
    known = target.z[None], target.scale, target.lattice[None]
    crystal, distance = polish(encoder, crystal, *known, 8, 1e-12)
    p, s = crystal.atoms(0)
    return state._replace(
        distance=float(distance), positions=p, species=s, lattice=crystal.lattice[0]
    )


def with_an_atom(
    decoded: PaddedCrystals, counts: Tensor | None, part: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return positions, species and mask; a crystal without atoms gets one at the origin."""
    species, mask = decoded.species.cpu().clone(), decoded.mask.cpu().clone()
    positions = decoded.positions.cpu().masked_fill(~mask[..., None], 0.0)
    empty = ~mask.any(1)
    mask[empty, 0] = True
    if counts is not None:
        species[empty, 0] = counts[part][empty].argmax(-1)
    return positions, species, mask


def answer(
    autoencoder: Autoencoder,
    z: Tensor,
    state: State,
    target: Target,
    tried: int,
    config: ReconstructionConfig,
) -> Answer:
    """Return a state as answer, with what the fields say about it."""
    p, s = state.positions.to(z), state.species.to(z.device)
    scores = autoencoder.position_field(p[None], z[None])[0].norm(dim=-1)
    chances = autoencoder.species_field(p[None], z[None])[0].log_softmax(-1)
    certificate = {
        "certified": state.distance < config.certified,
        "latent_distance": state.distance,
        "candidates": 1 + tried,
        "field_distance": float(scores.mean()),
        "species_surprise": float(-chances.gather(1, s[:, None]).mean()),
        "lattice_change": float((state.lattice - target.lattice)[:3].abs().max()),
    }
    return Answer(state.positions, state.species, state.lattice, scores.tolist(), certificate)
