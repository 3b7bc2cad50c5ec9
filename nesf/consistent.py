"""Consistent decoding: the crystal x whose latent vector E(x) is the given z, and a certificate.

The five steps decode what the fields say, and the fields cannot say all that the latent vector
holds. So the encoder is asked about the decoded crystal: its latent distance to z is minimised over
positions and lattice (`nesf.polishing`), and over elements and the number of atoms by a search
among discrete moves, best first. The latent vector stays all that the decoder is given. The
distance that is left is a certificate: it needs no truth.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from nesf.config import ReconstructionConfig
from nesf.crystals import PaddedCrystals, allowed_lattices, standard_lattice
from nesf.model import Autoencoder
from nesf.polishing import LATTICE_WEIGHTS, Candidates, FixedEncoder, polish

# Atoms beyond which a crystal is polished, but not searched for: the pairs to swap would fill memory.
MOST_SEARCHED = 64
# Of what a decoded composition may ask for: a latent vector of no crystal asks for hundreds.
MOST_ADDED, MOST_WANTED = 16, 8  # atoms; elements


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
    distance: float  # latent distance; infinite where an atom is missing or the lattice is held
    kind: str  # the move that led to it
    positions: Tensor  # [n, 3], Å
    species: Tensor  # [n]
    lattice: Tensor  # [6]
    told: int  # number of atoms that the encoder is told: more than n where some are missing

    def key(self) -> tuple[float, ...]:
        """Return what tells moves apart."""
        return (round(self.energy, 7), *sorted(self.species.tolist()))


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
            places = self.free(places)
        if len(places):
            self.add(places)
            if n > 1:
                self.move(places)
        return self.found

    def free(self, places: Tensor) -> Tensor:
        """Return the places [G, 3] that are not at an atom."""
        taken = self.state.positions
        return places[torch.cdist(places, taken).amin(1) > 0.8] if len(taken) else places  # Å

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

    def energies(self, largest: Tensor, total: Tensor, told: int, mismatch: Tensor) -> Tensor:
        """Return the energies [K] of pooled features [K, F]; told: number of atoms."""
        k = len(largest)
        numbers = torch.full((k,), told)
        latent = self.rough.of_pooled(largest, total, numbers, self.of_lattice.expand(k, -1))
        return ((latent - self.z) / self.scale).square().mean(-1) + mismatch

    def keep(
        self,
        kind: str,
        energies: Tensor,
        atoms: Callable[[int], tuple[Tensor, Tensor]],
        told: int | None = None,
    ) -> None:
        """Keep the best moves of a kind."""
        told = self.state.told if told is None else told
        top = energies.topk(min(self.config.search_top, len(energies)), largest=False)
        for energy, k in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            self.found.append(State(energy, math.inf, kind, *atoms(k), self.state.lattice, told))

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
                self.state.told,
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
            self.state.told,
            self.mismatch()[0],
        )
        self.keep("swap", energies, lambda k: (self.state.positions, species[k]))

    def remove(self) -> None:
        """Leave one atom out."""
        largest, total = (torch.stack(p) for p in zip(*map(self.without, self.single), strict=True))
        mismatch = torch.stack([self.mismatch(atom)[0] for atom in self.single])
        # of a complete crystal, the rest is complete
        told = self.state.told - (self.state.told == len(self.species))
        energies = self.energies(largest, total, told, mismatch)
        p, s = self.state.positions, self.species
        self.keep("remove", energies, lambda k: (p[~self.single[k]], s[~self.single[k]]), told)

    def add(self, places: Tensor) -> None:
        """Add an atom of an element that is there, or asked for, to one of the places [G, 3]."""
        p, s = self.state.positions, self.species
        parts = self.rough.of_positions(places.float())
        wanted = self.have > 0
        if self.target.counts is not None:
            largest_counts = self.target.counts.topk(min(MOST_WANTED, len(wanted))).values
            wanted |= (self.target.counts > 0.3) & (self.target.counts >= largest_counts[-1])
        elements = wanted.nonzero()[:, 0] if wanted.any() else torch.arange(len(self.table))
        largest, total = self.without(torch.zeros(len(s), dtype=torch.bool))
        new = (parts[:, None] + self.table[elements]).flatten(0, 1)
        told = max(self.state.told, len(s) + 1)
        energies = self.energies(
            torch.maximum(largest, new),
            total + torch.relu(new),
            told,
            self.mismatch(None, 1)[elements].repeat(len(places)),
        )

        def added(k: int) -> tuple[Tensor, Tensor]:
            place, element = divmod(k, len(elements))
            return torch.cat([p, places[place, None]]), torch.cat([s, elements[element, None]])

        self.keep("add", energies, added, told)

    def move(self, places: Tensor) -> None:
        """Move one of the atoms that are missed least to one of the places [G, 3]."""
        p, s = self.state.positions, self.species
        parts = self.rough.of_positions(places.float())
        rest = [self.without(atom) for atom in self.single]
        each, totals = (torch.stack(t) for t in zip(*rest, strict=True))
        missed = self.energies(each, totals, self.state.told, self.mismatch()[0])
        for atom in missed.topk(min(4, len(missed)), largest=False).indices.tolist():
            largest, total = rest[atom]
            new = parts + self.table[s[atom]]
            energies = self.energies(
                torch.maximum(largest, new),
                total + torch.relu(new),
                self.state.told,
                self.mismatch()[0],
            )

            def moved(k: int, atom: int = atom) -> tuple[Tensor, Tensor]:
                return torch.where(self.single[atom][:, None], places[k], p), s

            self.keep("move", energies, moved)


class Search:
    """The search for the crystal of one latent vector by discrete moves, best first.

    Atoms that the five steps missed are added first, up to the decoded number of atoms. Then, in
    each round, the best crystals that have not yet done so make their moves; the best moves are
    polished, and join the others. The lattice is held near the decoded one, and let go at the end.
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

    def completions(self, start: State) -> list[State]:
        """Return a crystal with other elements, and with atoms up to the decoded number."""
        made = self.polished([self.renamed(start)]) if len(start.species) else []
        if self.target.counts is None:
            return made
        n = int(self.target.counts.sum().round())
        if n - len(start.species) <= MOST_ADDED:
            for total in range(max(n - 1, len(start.species) + 1), n + 2):
                made += self.completed(start, total)[:2]
        return made

    def renamed(self, state: State) -> State:
        """Return a crystal with the elements that fit its positions best, changed one by one."""
        for _ in range(len(state.species)):
            moves = Moves(self.rough, state, self.target, self.config)
            moves.rename()
            moves.swap()
            best = min(moves.found, key=lambda move: move.energy)
            if best.energy >= state.energy:
                break
            state = best
        return state

    def completed(self, start: State, n: int) -> list[State]:
        """Return crystals of n atoms, made by adding atoms to one of fewer, one after another."""
        beam = [start._replace(told=n)]
        while len(beam[0].species) < n:
            moves: list[State] = []
            for state in beam:
                made = Moves(self.rough, state, self.target, self.config)
                made.add(made.free(self.places))
                moves += made.found
            if not moves:
                return []
            beam = sorted(self.polished(moves), key=lambda state: state.energy)
            beam = beam[: self.config.search_width]
        return beam

    def run(self, starts: Sequence[State]) -> State:
        """Return the most consistent crystal found from the given ones; the first is completed."""
        if not self.config.search_rounds:
            return min(starts, key=lambda state: state.distance)
        made = sorted(self.completions(starts[0]), key=lambda state: state.energy)
        waiting, seen = [*starts, *made], set[tuple[float, ...]]()
        best = min(waiting, key=lambda state: state.distance)
        for _ in range(self.config.search_rounds):
            if best.distance < self.config.certified:
                break
            moves: dict[tuple[float, ...], State] = {}
            moving = self.of_several_sizes(waiting)
            for state in moving:
                found = Moves(self.rough, state, self.target, self.config).all(self.places)
                moves |= {m.key(): m for m in found if m.key() not in seen}
            chosen = self.best_of_each_kind(list(moves.values()))
            if not chosen:
                break
            seen |= {state.key() for state in chosen}
            rest = [state for state in waiting if all(state is not m for m in moving)]
            waiting = sorted(rest + self.polished(chosen), key=lambda state: state.energy)
            best = min(best, *waiting, key=lambda state: state.distance)
        return best

    def pruned(self, state: State) -> State:
        """Return a certified crystal with one atom where two are within the suppression radius.

        An encoder that only keeps the largest features does not feel a second atom at one place. It
        may not feel a right atom either, so an atom with a place of its own stays.
        """
        while state.distance < self.config.certified and len(state.species) > 1:
            p, s = state.positions, state.species
            near = torch.cdist(p, p).fill_diagonal_(torch.inf).amin(1) < self.config.nms_radius
            rest = [torch.arange(len(p)) != int(k) for k in near.nonzero()]
            if not rest:
                break
            fewer = Candidates.of([(p[k], s[k]) for k in rest], state.lattice.expand(len(rest), -1))
            fewer, distances = self.polish(fewer, 10, LATTICE_WEIGHTS)
            i = int(distances.argmin())
            if distances[i] >= self.config.certified:
                break
            d, atoms = float(distances[i]), fewer.atoms(i)
            state = State(d, d, "remove", *atoms, fewer.lattice[i], int(fewer.told[i]))
        return state

    def of_several_sizes(self, states: list[State]) -> list[State]:
        """Return the first states, but of no number of atoms more than two."""
        counts: Counter[int] = Counter()
        chosen = []
        for state in states:
            counts[len(state.species)] += 1
            if counts[len(state.species)] <= 2:
                chosen.append(state)
        return chosen[: self.config.search_width]

    def best_of_each_kind(self, moves: list[State]) -> list[State]:
        """Return the best moves: of each kind some, and of none more than half of them."""
        ranked: dict[str, list[State]] = {}
        for move in sorted(moves, key=lambda state: state.energy):
            ranked.setdefault(move.kind, []).append(move)
        n = self.config.search_candidates
        first = [move for kind in ranked.values() for move in kind[: n // 6]]
        rest = [move for kind in ranked.values() for move in kind[n // 6 : n // 2]]
        return (first + sorted(rest, key=lambda state: state.energy))[:n]

    def polished(self, states: Sequence[State]) -> list[State]:
        """Return the best third of the states, polished."""
        self.tried += len(states)
        crystals = Candidates.of(
            [(state.positions, state.species) for state in states],
            torch.stack([state.lattice for state in states]),
            [state.told for state in states],
        )
        kinds, held = [state.kind for state in states], (self.config.search_lattice,) * 6
        for steps, share in ((3, 3), (7, 1)):
            crystals, distances = self.polish(crystals, steps, held)
            have = distances.new_zeros(len(kinds), len(self.rough.of_species))
            have.scatter_add_(1, crystals.species, crystals.mask.double())
            energies = distances + self.target.mismatch(have, self.config.composition_weight)
            kept = energies.argsort()[: max(1, len(kinds) // share)]
            crystals, energies = crystals.select(kept), energies[kept]
            kinds = [kinds[k] for k in kept.tolist()]
        whole = (crystals.mask.sum(1) == crystals.told).nonzero()[:2, 0]
        free, distances = self.polish(crystals.select(whole), 10, LATTICE_WEIGHTS)
        unknown = torch.full_like(energies, math.inf)
        return [
            State(float(e), float(d), kinds[k], *c.atoms(i), c.lattice[i], int(c.told[i]))
            for c, of, ds in (
                (crystals, range(len(kinds)), unknown),
                (free, whole.tolist(), distances),
            )
            for i, (k, e, d) in enumerate(zip(of, energies[list(of)], ds, strict=True))
        ]

    def polish(
        self, crystals: Candidates, steps: int, lattice_weights: Sequence[float]
    ) -> tuple[Candidates, Tensor]:
        """Polish candidates for the one latent vector (`nesf.polishing.polish`)."""
        c, target = len(crystals.told), self.target
        known = target.z.expand(c, -1), target.scale, target.lattice.expand(c, -1)
        return polish(self.rough, crystals, *known, steps, lattice_weights=lattice_weights)


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
        polished = Candidates(*start, lattice[part], start[2].sum(1))
        polished, distances = polish(rough, polished, *known, config.polish_steps, config.certified)
        polished, distances = polish(encoder, polished, *known, 8, 1e-12)
        for i, k in enumerate(part.tolist()):
            n_found = int(decoded.mask[k].sum())
            wanted = Target(
                target[k], scale, lattice[k], None if counts is None else counts[k], n_found
            )
            d, told = float(distances[i]), int(polished.told[i])
            state = State(d, d, "polish", *polished.atoms(i), polished.lattice[i], told)
            search = Search(rough, wanted, config)
            if (d >= config.certified or not n_found) and n_found <= MOST_SEARCHED:
                plain = Candidates(*start, lattice[part], start[2].sum(1)).atoms(i)
                first = State(d, math.inf, "start", *plain, lattice[k], told)
                state = search.run([first, state])
            if not encoder.counts:
                state = search.pruned(state)
            if state.kind != "polish":
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
