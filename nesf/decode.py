"""Decoding, from fields to atoms: the five steps of Section 2.1, without any randomness.

The steps take any pair of fields. Decoding the true fields of a known crystal (`oracle`) shows the
errors of the algorithm without a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nesf.config import ReconstructionConfig
from nesf.consistent import correct
from nesf.crystals import Crystals, allowed_lattices, concatenate, pad, standard_lattice
from nesf.data.dataset import Box, box_between
from nesf.decoding_fields import GroundTruthFields, NeuralFields, StructureFields
from nesf.fields import box_grid, grid_size, local_grid
from nesf.suppression import suppress
from nesf_io.errors import DataError

if TYPE_CHECKING:
    from nesf.saved import TrainedModel


CELL_MARGIN = 0.3  # Å; particles around a decoded cell start so far beyond its corners


@dataclass(frozen=True)
class DetectedAtoms:
    """Atoms of one crystal after step 4."""

    positions: np.ndarray  # [N, 3], Å
    scores: np.ndarray  # [N], Å: the lowest score in each cluster
    particles: np.ndarray  # [N], number of particles in each cluster
    rejected: np.ndarray  # [R], sizes of the clusters that were too small


@dataclass(frozen=True)
class Reconstruction:
    """Decoded crystals.

    Attributes:
        crystals: the ids of the input, in its order; one in which nothing was detected has no
            atoms.
        reports: per crystal: particles, scores, votes, lattice as predicted (see `build_crystals`).
    """

    crystals: Crystals
    reports: list[dict[str, Any]] = field(repr=False)

    @property
    def nothing_detected(self) -> list[str]:
        """Ids of the crystals without a detected atom."""
        return [i for i, n in zip(self.crystals.ids, self.crystals.n_atoms, strict=True) if n == 0]

    @property
    def verdict(self) -> str:
        """How many crystals the encoder does not confirm, in words; empty without certificates."""
        certified = [r["certificate"]["certified"] for r in self.reports if "certificate" in r]
        return f", {certified.count(False)} not certified" if certified else ""


class Particles(NamedTuple):
    """Particles of a batch of crystals."""

    positions: Tensor  # [M, 3], Å
    crystal: Tensor  # [M], the crystal that each belongs to
    counts: Tensor  # [M], how many particles of step 1 were merged into each; 1 without merging
    # [M], Å: ‖f_p‖ at the position, the estimated distance to the nearest atom; NaN where it is not
    # known yet
    scores: Tensor

    def select(self, which: Tensor) -> Particles:
        """Return the particles at the given indices, or where a mask is true."""
        return Particles(*(t[which] for t in self))

    @staticmethod
    def join(parts: Sequence[Particles]) -> Particles:
        """Return the particles of all parts, in order."""
        return Particles(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


@torch.no_grad()
def start_boxes(
    fields: StructureFields, n_crystals: int, box: Box, config: ReconstructionConfig
) -> list[Box]:
    """Return the box, Å, of each crystal that `initialize_particles` fills.

    paper and official: that of the dataset / `particles = "cell"`: around the corners of the
    crystal's decoded cell and `CELL_MARGIN` beyond them, but not beyond the dataset's.
    """
    if config.particles == "box":
        return [box] * n_crystals
    lengths, angles = (t.cpu().double().numpy() for t in fields.lattice())
    lengths, angles, _ = allowed_lattices(lengths, angles)
    corners = np.array(list(np.ndindex(2, 2, 2))) @ standard_lattice(lengths, angles)  # [B, 8, 3]
    # `box_grid` adds an interval on each side
    margin = CELL_MARGIN - config.grid_interval
    low, high = np.array(box)
    lowest = np.clip(corners.min(1) - margin, low, high)
    highest = np.clip(corners.max(1) + margin, lowest, np.maximum(high, lowest))
    return [box_between(*ends) for ends in zip(lowest, highest, strict=True)]


def initialize_particles(
    boxes: Sequence[Box], config: ReconstructionConfig, device: torch.device | str = "cpu"
) -> Particles:
    """Step 1: place particles on a regular grid over each crystal's box, all crystals' in a row."""
    made = {box: box_grid(box, config.grid_interval, device) for box in set(boxes)}
    grids = [made[box] for box in boxes]
    sizes = torch.tensor([len(grid) for grid in grids], device=device)
    crystal = torch.arange(len(boxes), device=device).repeat_interleave(sizes)
    positions = torch.cat(grids)
    return Particles(
        positions, crystal, torch.ones_like(crystal), torch.full_like(positions[:, 0], torch.nan)
    )


def move_particles(
    fields: StructureFields, particles: Particles, config: ReconstructionConfig
) -> Particles:
    """Step 2: move the particles, p <- p + f_p(p, z), `iterations` times.

    paper and official: every particle moves every time / here: a particle whose next step would be
    shorter than `converged` stays, and the length of that step is its score. In the mode `fast` the
    first `rough_iterations` steps are computed in bf16 (later steps correct them), and after each
    step particles that moved less than `merge_step` and share a cell of edge `merge_distance` are
    merged into one at their mean.
    """
    fast = config.mode != "exact"
    converged: list[Particles] = []
    for i in range(config.iterations):
        if not len(particles.positions):
            break
        rough = fast and i < config.rough_iterations
        steps = _in_parts(
            partial(fields.position, rough=rough) if rough else fields.position,
            particles.positions,
            particles.crystal,
            config,
        )
        if config.converged and not rough:
            scores = steps.norm(dim=-1)
            stays = scores < config.converged
            converged.append(particles._replace(scores=scores).select(stays))
            particles, steps = particles.select(~stays), steps[~stays]
        particles = particles._replace(positions=particles.positions + steps)
        if fast and config.merge_distance:
            slow = steps.norm(dim=-1) < config.merge_step
            particles = Particles.join(
                [
                    merge_particles(particles.select(slow), config.merge_distance),
                    particles.select(~slow),
                ]
            )
    return Particles.join([*converged, particles])


def merge_particles(particles: Particles, side: float) -> Particles:
    """Merge particles of a crystal that share a cubic cell of edge `side`, Å, at their mean."""
    # 16 bits an axis: particles beyond the range (655 Å with a side of 0.02 Å) share its outermost
    # cells, but they are lost anyway.
    cell = torch.floor(particles.positions.double() / side).long().clamp(
        -(1 << 15), (1 << 15) - 1
    ) + (1 << 15)
    key = particles.crystal << 48 | cell[:, 0] << 32 | cell[:, 1] << 16 | cell[:, 2]
    _, group, counts = torch.unique(key, return_inverse=True, return_counts=True)
    n = len(counts)
    total = particles.counts.new_zeros(n).index_add_(0, group, particles.counts)
    weight = (particles.counts / total[group]).to(particles.positions.dtype)
    mean = particles.positions.new_zeros(n, 3).index_add_(
        0, group, particles.positions * weight[:, None]
    )
    crystal = particles.crystal.new_zeros(n).index_copy_(0, group, particles.crystal)
    return Particles(mean, crystal, total, torch.full_like(mean[:, 0], torch.nan))


def score_particles(
    fields: StructureFields, particles: Particles, config: ReconstructionConfig
) -> Particles:
    """Step 3: compute the score ‖f_p(p, z)‖, Å, of the particles that have none yet.

    paper: at the final position / official: squared, of the last step taken / here: as paper.
    """
    unknown = particles.scores.isnan().nonzero()[:, 0]
    values = _in_parts(
        fields.position, particles.positions[unknown], particles.crystal[unknown], config
    ).norm(dim=-1)
    return particles._replace(
        scores=particles.scores.index_copy(0, unknown, values.to(particles.scores.dtype))
    )


def detect_atoms(
    particles: Particles, n_crystals: int, config: ReconstructionConfig
) -> list[DetectedAtoms]:
    """Steps 3 and 4: discard particles above `score_threshold`, then suppress non-maxima.

    The particle with the lowest score becomes an atom if at least `min_particles` particles (itself
    included) are within `nms_radius`. In either case these particles are removed; this is repeated
    until none is left (`nesf.suppression`).

    Returns:
        The atoms of each crystal, lowest score first.
    """
    particles = particles.select(particles.scores <= config.score_threshold)  # false for NaN
    clusters = suppress(particles.positions, particles.scores, particles.crystal, config.nms_radius)
    centre, member_of = clusters.centre, clusters.member_of
    sizes = particles.counts.new_zeros(len(centre)).index_add_(0, member_of, particles.counts)
    positions = particles.positions[centre].double()
    if config.atom_position == "cluster_mean":
        squares = particles.scores.double().square()
        weights = torch.exp(squares[centre][member_of] - squares) * particles.counts
        sums = positions.new_zeros(len(centre), 4)
        sums.index_add_(
            0,
            member_of,
            torch.cat([particles.positions * weights[:, None], weights[:, None]], dim=-1),
        )
        positions = sums[:, :3] / sums[:, 3:]
    columns = torch.cat(
        [
            positions,
            particles.scores[centre].double()[:, None],
            sizes[:, None],
            particles.crystal[centre][:, None],
        ],
        dim=-1,
    )
    rows = columns.cpu().numpy()  # in one transfer
    rows = rows[np.argsort(rows[:, 5], kind="stable")]
    detected = []
    for part in np.split(rows, np.searchsorted(rows[:, 5], np.arange(1, n_crystals))):
        large = part[:, 4] >= config.min_particles
        kept = part[large]
        detected.append(
            DetectedAtoms(
                kept[:, :3],
                kept[:, 3],
                kept[:, 4].astype(np.int64),
                part[~large, 4].astype(np.int64),
            )
        )
    return detected


def estimate_species(
    fields: StructureFields,
    positions: Tensor,
    crystal: Tensor,
    n_species: int,
    config: ReconstructionConfig,
) -> tuple[Tensor, Tensor]:
    """Step 5: let queries around each atom vote for its species; in a tie the first one wins.

    Returns:
        Species index [N] and votes [N, n_species] of the atoms at positions [N, 3], Å, of the
        crystals [N].
    """
    grid = local_grid(config.species_interval, config.species_range, device=positions.device)
    queries, index = (positions[:, None] + grid).flatten(0, 1), crystal.repeat_interleave(len(grid))
    species = _in_parts(fields.species, queries, index, config).view(-1, len(grid))
    votes = species.new_zeros(len(positions), n_species).scatter_add_(
        1, species, torch.ones_like(species)
    )
    return votes.argmax(-1), votes


def _in_parts(
    function: Callable[[Tensor, Tensor], Tensor],
    queries: Tensor,
    crystal: Tensor,
    config: ReconstructionConfig,
) -> Tensor:
    """Evaluate a field at many queries, at most `max_queries` at a time."""
    parts = zip(queries.split(config.max_queries), crystal.split(config.max_queries), strict=True)
    return torch.cat([function(q, i) for q, i in parts])


@torch.no_grad()
def decode(
    fields: StructureFields,
    ids: Sequence[str],
    box: Box,
    vocabulary: Sequence[int],
    config: ReconstructionConfig,
    device: torch.device | str = "cpu",
) -> Reconstruction:
    """Run all five steps for a batch of crystals.

    Args:
        box: bounding box common to the dataset, Å.
        vocabulary: atomic numbers along the species axis.
    """
    start = initialize_particles(start_boxes(fields, len(ids), box, config), config, device)
    n_particles = torch.bincount(start.crystal, minlength=len(ids)).tolist()
    particles = score_particles(fields, move_particles(fields, start, config), config)
    return build_crystals(
        fields,
        detect_atoms(particles, len(ids), config),
        ids,
        vocabulary,
        config,
        device,
        n_particles,
    )


@torch.no_grad()
def build_crystals(
    fields: StructureFields,
    detected: Sequence[DetectedAtoms],
    ids: Sequence[str],
    vocabulary: Sequence[int],
    config: ReconstructionConfig,
    device: torch.device | str = "cpu",
    n_particles: Sequence[int] = (),
) -> Reconstruction:
    """Make crystals of detected atoms: step 5 and the lattice; arguments as of `decode`.

    Args:
        detected: the crystals' atoms, from `detect_atoms`.
        n_particles: number of particles of step 1 in each crystal, for the reports.
    """
    n_atoms = [len(d.positions) for d in detected]
    atoms = torch.as_tensor(
        np.concatenate([d.positions for d in detected]), dtype=torch.float32, device=device
    )
    owner = torch.as_tensor(np.repeat(np.arange(len(ids)), n_atoms), device=device)
    species, votes = estimate_species(fields, atoms, owner, len(vocabulary), config)
    lengths, angles = (t.cpu().double().numpy() for t in fields.lattice())
    good_lengths, good_angles, repaired = allowed_lattices(lengths, angles)
    lattice = standard_lattice(good_lengths, good_angles)
    splits = np.cumsum(n_atoms)[:-1]
    numbers = np.split(np.asarray(vocabulary, np.int64)[species.cpu().numpy()], splits)
    winning_votes = np.split(votes.amax(-1).cpu().numpy(), splits)
    crystals = Crystals.from_arrays(ids, [d.positions for d in detected], numbers, lattice)
    reports = [
        {
            "id": ids[i],
            "n_particles": n_particles[i] if n_particles else 0,
            "n_atoms": n_atoms[i],
            "clusters_rejected": d.rejected.tolist(),
            "lengths": lengths[i].tolist(),
            "angles_degree": np.degrees(angles[i]).tolist(),
            "lattice_repaired": bool(repaired[i]),
            "atoms": [
                {
                    "x": x,
                    "y": y,
                    "z": z,
                    "atomic_number": int(number),
                    "score": float(score),
                    "particles": int(count),
                    "votes": int(vote),
                }
                for (x, y, z), number, score, count, vote in zip(
                    d.positions.tolist(),
                    numbers[i],
                    d.scores,
                    d.particles,
                    winning_votes[i],
                    strict=True,
                )
            ],
        }
        for i, d in enumerate(detected)
    ]
    return Reconstruction(crystals, reports)


def _batches(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Return where batches of consecutive crystals begin and end, each of at most `most` particles.

    A crystal of more is a batch of its own; sizes: of each crystal.
    """
    start, total = 0, 0
    for i, size in enumerate(sizes):
        if i > start and total + size > most:
            yield start, i
            start, total = i, 0
        total += size
    yield start, len(sizes)


def _decode_batches(
    fields_of: Callable[[int, int], StructureFields],
    ids: Sequence[str],
    box: Box,
    vocabulary: Sequence[int],
    config: ReconstructionConfig,
    device: torch.device,
    progress: bool,
) -> Reconstruction:
    """Decode in batches whose particles fit in one pass; `fields_of(start, stop)`: their fields."""
    if not len(ids):
        raise DataError("there is no crystal to reconstruct")
    most = config.max_queries * (16 if device.type == "cuda" else 1)  # a GPU needs larger batches
    boxes = start_boxes(fields_of(0, len(ids)), len(ids), box, config)
    results = []
    with tqdm(
        total=len(ids), unit="crystal", desc="reconstructing", disable=not progress, mininterval=1
    ) as bar:
        for start, stop in _batches([grid_size(b, config.grid_interval) for b in boxes], most):
            results.append(
                decode(fields_of(start, stop), ids[start:stop], box, vocabulary, config, device)
            )
            bar.update(stop - start)
    return Reconstruction(
        concatenate([r.crystals for r in results]),
        [report for r in results for report in r.reports],
    )


def decode_latent(
    model: TrainedModel,
    z: Tensor,
    ids: Sequence[str],
    config: ReconstructionConfig | None = None,
    *,
    progress: bool = False,
) -> Reconstruction:
    """Decode latent vectors z [B, latent_size]; config: by default that of the model's preset."""
    model.autoencoder.eval()
    fields = NeuralFields(model.autoencoder, z)
    config = config or model.config.decoding
    decoded = _decode_batches(
        fields.of, ids, model.box, model.vocabulary, config, model.device, progress
    )
    return (
        _made_consistent(model, z, decoded, config, progress)
        if config.mode == "consistent"
        else decoded
    )


def _made_consistent(
    model: TrainedModel,
    z: Tensor,
    decoded: Reconstruction,
    config: ReconstructionConfig,
    progress: bool,
) -> Reconstruction:
    """Replace decoded crystals by those that the encoder confirms, where there are such."""
    crystals, reports = decoded.crystals, []
    start = pad(crystals, model.vocabulary, dtype=torch.float64)
    cells = torch.tensor(
        [r["lengths"] + np.radians(r["angles_degree"]).tolist() for r in decoded.reports]
    )
    found = correct(
        model.autoencoder, z, model.latent_scale, start, cells.double(), config, progress
    )
    vocabulary = np.asarray(model.vocabulary, np.int64)
    positions, numbers, lattice = [], [], crystals.lattice.copy()
    for i, (answer, report) in enumerate(zip(found, decoded.reports, strict=True)):
        report = report | {"certificate": answer.certificate}
        if answer.certified:
            lengths, angles, repaired = allowed_lattices(
                *answer.lattice.numpy().reshape(1, 2, 3).transpose(1, 0, 2)
            )
            lattice[i] = standard_lattice(lengths, angles)[0]
            positions.append(answer.positions.numpy())
            numbers.append(vocabulary[answer.species.numpy()])
            report |= {
                "n_atoms": len(numbers[-1]),
                "lengths": answer.lattice[:3].tolist(),
                "angles_degree": np.degrees(answer.lattice[3:].numpy()).tolist(),
                "lattice_repaired": bool(repaired[0]),
                "atoms": [
                    {"x": x, "y": y, "z": z, "atomic_number": int(number), "score": score}
                    for (x, y, z), number, score in zip(
                        positions[-1].tolist(), numbers[-1], answer.scores, strict=True
                    )
                ],
            }
        else:
            atoms = crystals.atoms(i)
            positions.append(crystals.positions[atoms])
            numbers.append(crystals.species[atoms])
        reports.append(report)
    return Reconstruction(Crystals.from_arrays(crystals.ids, positions, numbers, lattice), reports)


def reconstruct(
    model: TrainedModel,
    crystals: Crystals,
    config: ReconstructionConfig | None = None,
    *,
    progress: bool = False,
) -> Reconstruction:
    """Encode crystals in the standard setting and decode their latent vectors (`decode_latent`).

    Raises:
        DataError: an element outside the model's vocabulary.
    """
    model.autoencoder.eval()
    return decode_latent(model, model.encode(crystals), crystals.ids, config, progress=progress)


def latent_path(model: TrainedModel, ends: Crystals, t: np.ndarray) -> Tensor:
    """Return z(t) = (1 - t) z_src + t z_dst, [n, latent_size], for t [n] from 0 to 1 (Section 4.5)."""
    source, destination = model.encode(ends)
    weight = torch.as_tensor(t, dtype=source.dtype, device=source.device)[:, None]
    return (1 - weight) * source + weight * destination


def oracle(
    crystals: Crystals,
    box: Box,
    vocabulary: Sequence[int],
    config: ReconstructionConfig | None = None,
    *,
    periodic: bool = False,
    progress: bool = False,
) -> Reconstruction:
    """Decode the true fields of crystals: the best that any network could reach.

    Args:
        box: bounding box of the dataset's training split, Å.
        vocabulary: atomic numbers along the species axis.
        config: parameters of the five steps; by default the paper's.
        periodic: decode the fields of the crystals with their periodic images.
    """
    fields = GroundTruthFields(pad(crystals, vocabulary), periodic)
    return _decode_batches(
        fields.of,
        crystals.ids,
        box,
        vocabulary,
        config or ReconstructionConfig(),
        torch.device("cpu"),
        progress,
    )
