"""From fields to atoms: the five steps of Section 2.1, without any randomness.

The steps take any pair of fields, so the ground-truth fields of a known crystal decode too (`oracle`): what that loses is lost by
the algorithm, not by a network.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nesf.config import ReconstructionConfig
from nesf.crystals import Crystals, concatenate, pad, standard_lattice
from nesf.data.dataset import Box
from nesf.decoding_fields import GroundTruthFields, NeuralFields, StructureFields
from nesf.errors import DataError
from nesf.fields import box_grid, local_grid
from nesf.files import write_atomically, write_json
from nesf.suppression import suppress

if TYPE_CHECKING:
    from nesf.saved import TrainedModel


@dataclass(frozen=True)
class DetectedAtoms:
    """Atoms of one crystal after step 4.

    Attributes:
        positions: [N, 3], Å.
        scores: [N], Å: the lowest score in each cluster.
        particles: [N], number of particles in each cluster.
        rejected: [R], sizes of the clusters that were too small.
    """

    positions: np.ndarray
    scores: np.ndarray
    particles: np.ndarray
    rejected: np.ndarray


@dataclass(frozen=True)
class Reconstruction:
    """Decoded crystals.

    Attributes:
        crystals: as many as went in, same ids, same order; one in which nothing was detected has no atoms.
        reports: per crystal: particles, scores, votes, lattice as predicted (see `report`).
    """

    crystals: Crystals
    reports: list[dict[str, Any]] = field(repr=False)

    @property
    def nothing_detected(self) -> list[str]:
        """Ids of crystals without a detected atom."""
        return [i for i, n in zip(self.crystals.ids, self.crystals.n_atoms, strict=True) if n == 0]


class Particles(NamedTuple):
    """Particles of a batch of crystals.

    Attributes:
        positions: [M, 3], Å.
        crystal: [M], the crystal that each belongs to.
        counts: [M], how many particles of step 1 each stands for; more than one where particles that met go on as one.
        scores: [M], Å: ‖f_p‖ at the position, the estimated distance to the nearest atom; not a number where it is not known yet.
    """

    positions: Tensor
    crystal: Tensor
    counts: Tensor
    scores: Tensor

    def select(self, which: Tensor) -> Particles:
        """Those at the given indices, or where a mask is true."""
        return Particles(*(t[which] for t in self))


def initialize_particles(box: Box, n_crystals: int, config: ReconstructionConfig, device: torch.device | str = "cpu") -> Particles:
    """Step 1: particles on a regular grid over the bounding box, the same for every crystal [B·G]."""
    grid = box_grid(box, config.grid_interval, device)
    crystal = torch.arange(n_crystals, device=device).repeat_interleave(len(grid))
    positions = grid.repeat(n_crystals, 1)
    return Particles(positions, crystal, torch.ones_like(crystal), torch.full_like(positions[:, 0], torch.nan))


def move_particles(fields: StructureFields, particles: Particles, config: ReconstructionConfig) -> Particles:
    """Step 2: p <- p + f_p(p, z), again and again.

    paper and official: every particle moves `iterations` times / here: one whose step would be shorter than `converged` has arrived; it
    stays, and the step's length is its score. With `mode = "fast"` the first `rough_iterations` steps are computed roughly (later ones
    correct them), and after each step particles in the same cell of side `merge_distance` go on as one, at their mean, if it was shorter
    than `merge_step`.
    """
    fast = config.mode == "fast"
    arrived: list[Particles] = []
    for i in range(config.iterations):
        if not len(particles.positions):
            break
        rough = fast and i < config.rough_iterations
        steps = _in_parts(partial(fields.position, rough=rough) if rough else fields.position, particles.positions, particles.crystal, config)
        if config.converged and not rough:
            scores = steps.norm(dim=-1)
            stays = scores < config.converged
            arrived.append(particles._replace(scores=scores).select(stays))
            particles, steps = particles.select(~stays), steps[~stays]
        particles = particles._replace(positions=particles.positions + steps)
        if fast and config.merge_distance:
            near = steps.norm(dim=-1) < config.merge_step
            merged = merge_particles(particles.select(near), config.merge_distance)
            particles = Particles(*(torch.cat(parts) for parts in zip(merged, particles.select(~near), strict=True)))
    return Particles(*(torch.cat(parts) for parts in zip(*arrived, particles, strict=True)))


def merge_particles(particles: Particles, side: float) -> Particles:
    """Particles of a crystal that share a cell of a grid become one, at their mean position; scores become unknown."""
    cell = torch.floor(particles.positions.double() / side).long().clamp(-(1 << 15), (1 << 15) - 1) + (1 << 15)  # 16 bits; what ran away is lost
    key = particles.crystal << 48 | cell[:, 0] << 32 | cell[:, 1] << 16 | cell[:, 2]
    _, group, counts = torch.unique(key, return_inverse=True, return_counts=True)
    n, kind = len(counts), particles.positions.dtype
    total = particles.counts.new_zeros(n).index_add_(0, group, particles.counts)
    weight = (particles.counts / total[group]).to(kind)
    mean = particles.positions.new_zeros(n, 3).index_add_(0, group, particles.positions * weight[:, None])
    crystal = particles.crystal.new_zeros(n).index_copy_(0, group, particles.crystal)
    return Particles(mean, crystal, total, torch.full_like(mean[:, 0], torch.nan))


def score_particles(fields: StructureFields, particles: Particles, config: ReconstructionConfig) -> Particles:
    """Step 3: ‖f_p(p, z)‖ of those whose score is not known yet. paper: at the final position / official: squared, of the last step taken.

    Returns:
        The particles with their scores, Å; those above `score_threshold` are to be discarded.
    """
    unknown = particles.scores.isnan().nonzero()[:, 0]
    values = _in_parts(fields.position, particles.positions[unknown], particles.crystal[unknown], config).norm(dim=-1)
    return particles._replace(scores=particles.scores.index_copy(0, unknown, values.to(particles.scores.dtype)))


def detect_atoms(particles: Particles, n_crystals: int, config: ReconstructionConfig) -> list[DetectedAtoms]:
    """Steps 3 and 4: discard particles above `score_threshold`, then non-maximum suppression (`nesf.suppression`) in each crystal.

    The particle with the lowest score becomes an atom if at least `min_particles` particles (itself included) are within `nms_radius`;
    either way these are removed, until none is left.

    Args:
        particles: with their scores.
        n_crystals: B.

    Returns:
        B crystals' atoms, best score first.
    """
    particles = particles.select(particles.scores <= config.score_threshold)  # a score that is not a number is discarded too
    clusters = suppress(particles.positions, particles.scores, particles.crystal, config.nms_radius)
    centre, member_of = clusters.centre, clusters.member_of
    sizes = particles.counts.new_zeros(len(centre)).index_add_(0, member_of, particles.counts)
    positions = particles.positions[centre].double()
    if config.atom_position == "cluster_mean":
        squares = particles.scores.double().square()
        weights = torch.exp(squares[centre][member_of] - squares) * particles.counts
        sums = positions.new_zeros(len(centre), 4)
        sums.index_add_(0, member_of, torch.cat([particles.positions * weights[:, None], weights[:, None]], dim=-1))
        positions = sums[:, :3] / sums[:, 3:]
    columns = torch.cat([positions, particles.scores[centre].double()[:, None], sizes[:, None], particles.crystal[centre][:, None]], dim=-1)
    found = columns.cpu().numpy()  # one transfer
    found = found[np.argsort(found[:, 5], kind="stable")]
    detected = []
    for part in np.split(found, np.searchsorted(found[:, 5], np.arange(1, n_crystals))):
        large = part[:, 4] >= config.min_particles
        kept = part[large]
        detected.append(DetectedAtoms(kept[:, :3], kept[:, 3], kept[:, 4].astype(np.int64), part[~large, 4].astype(np.int64)))
    return detected


def estimate_species(
    fields: StructureFields, positions: Tensor, crystal: Tensor, n_species: int, config: ReconstructionConfig
) -> tuple[Tensor, Tensor]:
    """Step 5: the species that most queries on a local grid around each atom vote for; of equals the first in the vocabulary.

    Args:
        positions: detected atoms [N, 3], Å.
        crystal: [N].

    Returns:
        Species index [N] and votes [N, n_species].
    """
    grid = local_grid(config.species_interval, config.species_range, device=positions.device)
    queries, index = (positions[:, None] + grid).flatten(0, 1), crystal.repeat_interleave(len(grid))
    species = _in_parts(fields.species, queries, index, config).view(-1, len(grid))
    votes = torch.zeros(len(positions), n_species, dtype=torch.long, device=positions.device)
    votes.scatter_add_(1, species, torch.ones_like(species))
    return votes.argmax(-1), votes


def _in_parts(function: Any, queries: Tensor, crystal: Tensor, config: ReconstructionConfig) -> Tensor:
    """A field at many queries, at most `max_queries` at a time."""
    parts = [function(q, i) for q, i in zip(queries.split(config.max_queries), crystal.split(config.max_queries), strict=True)]
    return torch.cat(parts) if parts else function(queries, crystal)


@torch.no_grad()
def decode(
    fields: StructureFields, ids: Sequence[str], box: Box, vocabulary: Sequence[int], config: ReconstructionConfig, device: torch.device | str = "cpu"
) -> Reconstruction:
    """All five steps for a batch of crystals.

    Args:
        fields: their fields and lattices.
        ids: B names.
        box: bounding box common to the dataset, Å.
        vocabulary: atomic numbers along the species axis.
    """
    start = initialize_particles(box, len(ids), config, device)
    particles = score_particles(fields, move_particles(fields, start, config), config)
    return build_crystals(
        fields, detect_atoms(particles, len(ids), config), ids, vocabulary, config, device, len(start.positions) // max(len(ids), 1)
    )


@torch.no_grad()
def build_crystals(
    fields: StructureFields,
    detected: Sequence[DetectedAtoms],
    ids: Sequence[str],
    vocabulary: Sequence[int],
    config: ReconstructionConfig,
    device: torch.device | str = "cpu",
    n_particles: int = 0,
) -> Reconstruction:
    """Step 5 and the lattice: crystals from detected atoms.

    Args:
        fields: of the B crystals.
        detected: their atoms, of `detect_atoms`.
        ids: B names.
        vocabulary: atomic numbers along the species axis.
        n_particles: of step 1 in each crystal, for the reports.
    """
    atoms = torch.as_tensor(np.concatenate([d.positions for d in detected]), dtype=torch.float32, device=device)
    owner = torch.as_tensor(np.repeat(np.arange(len(ids)), [len(d.positions) for d in detected]), device=device)
    species, votes = estimate_species(fields, atoms, owner, len(vocabulary), config)
    lengths, angles = (t.cpu().double().numpy() for t in fields.lattice())
    good_lengths, good_angles, repaired = allowed_lattices(lengths, angles)
    lattice = standard_lattice(good_lengths, good_angles)
    splits = np.cumsum([len(d.positions) for d in detected])[:-1]
    numbers = np.split(np.asarray(vocabulary, np.int64)[species.cpu().numpy()], splits)
    won = np.split(votes.max(-1).values.cpu().numpy() if len(votes) else np.zeros(0, np.int64), splits)
    crystals = Crystals.from_arrays(ids, [d.positions for d in detected], numbers, lattice)
    reports = [
        {
            "id": ids[i],
            "n_particles": n_particles,
            "n_atoms": len(detected[i].positions),
            "clusters_rejected": detected[i].rejected.tolist(),
            "lengths": lengths[i].tolist(),
            "angles_degree": np.degrees(angles[i]).tolist(),
            "lattice_repaired": bool(repaired[i]),
            "atoms": [
                {"x": x, "y": y, "z": z, "atomic_number": int(n), "score": float(score), "particles": int(count), "votes": int(v)}
                for (x, y, z), n, score, count, v in zip(
                    detected[i].positions.tolist(), numbers[i], detected[i].scores, detected[i].particles, won[i], strict=True
                )
            ],
        }
        for i in range(len(ids))
    ]
    return Reconstruction(crystals, reports)


def allowed_lattices(lengths: np.ndarray, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted lattices as cells: lengths [B, 3] in Å, angles [B, 3] in radians, and [B] whether one had to be repaired.

    Where a badly trained model predicts no cell (a length near zero or below, angles that do not close), the nearest allowed length
    and 90° stand in.
    """
    good_lengths = np.clip(lengths, 0.5, None)
    good_angles = angles.copy()
    for i in range(len(angles)):
        try:
            standard_lattice(good_lengths[i : i + 1], good_angles[i : i + 1])
        except DataError:
            good_angles[i] = np.pi / 2
    return good_lengths, good_angles, np.any((good_lengths != lengths) | (good_angles != angles), axis=1)


def _decode_batches(
    make_fields: Any,
    crystals_ids: Sequence[str],
    box: Box,
    vocabulary: Sequence[int],
    config: ReconstructionConfig,
    device: torch.device,
    progress: bool,
) -> Reconstruction:
    """`decode` over batches of so many crystals that all their particles fit in one pass of a field."""
    if not len(crystals_ids):
        raise DataError("there is no crystal to reconstruct")
    most = config.max_queries * (16 if device.type == "cuda" else 1)  # a GPU wants more at a time
    size = max(1, most // max(len(box_grid(box, config.grid_interval)), 1))
    parts: list[Crystals] = []
    reports: list[dict[str, Any]] = []
    with tqdm(total=len(crystals_ids), unit="crystal", desc="reconstructing", disable=not progress, mininterval=1) as bar:
        for start in range(0, len(crystals_ids), size):
            stop = min(start + size, len(crystals_ids))
            result = decode(make_fields(start, stop), crystals_ids[start:stop], box, vocabulary, config, device)
            parts.append(result.crystals)
            reports += result.reports
            bar.update(stop - start)
    return Reconstruction(concatenate(parts), reports)


def decode_latent(
    model: TrainedModel, z: Tensor, ids: Sequence[str], config: ReconstructionConfig | None = None, *, progress: bool = False
) -> Reconstruction:
    """Crystals from latent vectors z [B, latent_size]."""
    config = config or ReconstructionConfig()
    model.autoencoder.eval()
    return _decode_batches(NeuralFields(model.autoencoder, z).of, ids, model.box, model.vocabulary, config, model.device, progress)


def reconstruct(model: TrainedModel, crystals: Crystals, config: ReconstructionConfig | None = None, *, progress: bool = False) -> Reconstruction:
    """Crystals → latent vectors → crystals: the autoencoder's whole way.

    Args:
        model: a trained model.
        crystals: B crystals in the standard setting (`Crystals.in_standard_setting`).
        config: parameters of the five steps; default: the paper's.

    Raises:
        DataError: an element outside the model's vocabulary.
    """
    model.autoencoder.eval()
    return decode_latent(model, model.encode(crystals), crystals.ids, config, progress=progress)


def oracle(
    crystals: Crystals,
    box: Box,
    vocabulary: Sequence[int],
    config: ReconstructionConfig | None = None,
    *,
    periodic: bool = False,
    progress: bool = False,
) -> Reconstruction:
    """Decode the ground-truth fields: the best that any network could reach with these parameters of the algorithm.

    Args:
        crystals: B crystals.
        box: bounding box of the dataset's training split, Å.
        vocabulary: atomic numbers along the species axis.
    """
    padded = pad(crystals, vocabulary)
    config = config or ReconstructionConfig()
    return _decode_batches(
        lambda a, b: GroundTruthFields(padded.select(torch.arange(a, b)), periodic),
        crystals.ids,
        box,
        vocabulary,
        config,
        torch.device("cpu"),
        progress,
    )


TABLE_COLUMNS = (
    "id",
    "formula",
    "n_atoms",
    "a",
    "b",
    "c",
    "alpha",
    "beta",
    "gamma",
    "worst_score",
    "fewest_particles",
    "shortest_distance",
    "lattice_repaired",
    "cif",
)


def write_reconstruction(folder: Path, reconstruction: Reconstruction, about: Mapping[str, Any]) -> None:
    """Write a reconstruction for people and for programs.

    `crystals.safetensors` (packed), `cif/<id>.cif`, `structures.csv` (one row a crystal, those without atoms too), `atoms.csv` (one row an atom:
    position in Å, element; of NeSF score in Å, particles, votes) and `summary.json`.
    """
    from pymatgen.core import Composition, Element
    from pymatgen.io.cif import CifWriter

    folder, crystals = Path(folder), reconstruction.crystals
    crystals.save(folder / "crystals.safetensors")
    rows, atoms = [], []
    taken: set[str] = set()
    for report, structure in zip(reconstruction.reports, crystals.to_structures(), strict=True):
        stem = name = "".join(c if c.isalnum() or c in "-_." else "_" for c in report["id"])
        while name.lower() in taken:  # ids a/b and a_b, or A and a where the file system does not tell them apart
            name = f"{stem}-{len(taken)}"
        taken.add(name.lower())
        name += ".cif"
        if len(structure):
            write_atomically(folder / "cif" / name, str(CifWriter(structure)))
        formula = Composition(structure.composition).reduced_formula if len(structure) else ""
        lattice = [round(v, 5) for v in (*structure.lattice.abc, *structure.lattice.angles)]
        worst = max((a["score"] for a in report["atoms"] if "score" in a), default="")
        fewest = min((a["particles"] for a in report["atoms"] if "particles" in a), default="")
        # With periodic images: near 0 where an atom and its image on the other side of the cell were both detected (CIF readers may refuse that).
        between = structure.distance_matrix[np.triu_indices(len(structure), 1)] if len(structure) > 1 else np.zeros(0)
        shortest = round(float(between.min()), 4) if len(between) else ""
        cif = f"cif/{name}" if len(structure) else ""
        rows.append([report["id"], formula, report["n_atoms"], *lattice, worst, fewest, shortest, report["lattice_repaired"], cif])
        for a in report["atoms"]:
            element = Element.from_Z(a["atomic_number"]).symbol
            found = (round(a["score"], 6), a["particles"], a["votes"]) if "score" in a else ("", "", "")  # without particles there is none
            atoms.append([report["id"], element, *(round(a[k], 6) for k in "xyz"), *found])
    write_atomically(folder / "structures.csv", _csv(TABLE_COLUMNS, rows))
    write_atomically(folder / "atoms.csv", _csv(("id", "element", "x", "y", "z", "score", "particles", "votes"), atoms))
    summary = dict(about) | {
        "n_crystals": len(crystals),
        "n_atoms": int(crystals.n_atoms.sum()),
        "nothing_detected": reconstruction.nothing_detected,
        "lattice_repaired": [r["id"] for r in reconstruction.reports if r["lattice_repaired"]],
    }
    write_json(folder / "summary.json", summary)


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()
