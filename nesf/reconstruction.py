"""From fields to atoms: the five steps of Section 2.1, without any randomness.

The steps take any pair of fields, so the ground-truth fields of a known crystal decode too (`oracle`): what that loses is lost by
the algorithm, not by a network.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nesf.checkpoints import TrainedModel
from nesf.config import ReconstructionConfig
from nesf.crystals import Crystals, PaddedCrystals, concatenate, pad, standard_lattice
from nesf.data.dataset import Box
from nesf.errors import DataError
from nesf.fields import Queries, box_grid, local_grid, nearest_atom
from nesf.files import write_atomically, write_json
from nesf.model import Autoencoder


class StructureFields(Protocol):
    """The fields and lattices of B crystals, whatever they come from."""

    def position(self, queries: Tensor, crystal: Tensor) -> Tensor:
        """Vectors to the nearest atom [M, 3], Å, at queries [M, 3] of the crystals [M]."""
        ...

    def species(self, queries: Tensor, crystal: Tensor) -> Tensor:
        """Index of the most probable species [M] at queries [M, 3] of the crystals [M]."""
        ...

    def lattice(self) -> tuple[Tensor, Tensor]:
        """Lengths [B, 3] in Å and angles [B, 3] in radians."""
        ...


@dataclass(frozen=True)
class NeuralFields:
    """The decoder's fields for latent vectors z [B, latent_size]."""

    autoencoder: Autoencoder
    z: Tensor

    def position(self, queries: Tensor, crystal: Tensor) -> Tensor:
        """See `StructureFields`."""
        return self.autoencoder.position_field(queries, self.z, crystal)

    def species(self, queries: Tensor, crystal: Tensor) -> Tensor:
        """See `StructureFields`."""
        return self.autoencoder.species_field(queries, self.z, crystal).argmax(-1)

    def lattice(self) -> tuple[Tensor, Tensor]:
        """See `StructureFields`."""
        return self.autoencoder.decode_lattice(self.z)


@dataclass(frozen=True)
class GroundTruthFields:
    """The structure fields of known crystals."""

    crystals: PaddedCrystals
    periodic: bool = False

    def position(self, queries: Tensor, crystal: Tensor) -> Tensor:
        """See `StructureFields`."""
        return nearest_atom(Queries(queries, crystal), self.crystals, periodic=self.periodic)[0]

    def species(self, queries: Tensor, crystal: Tensor) -> Tensor:
        """See `StructureFields`."""
        return nearest_atom(Queries(queries, crystal), self.crystals, periodic=self.periodic)[1]

    def lattice(self) -> tuple[Tensor, Tensor]:
        """See `StructureFields`."""
        return self.crystals.lengths, self.crystals.angles


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


def initialize_particles(box: Box, n_crystals: int, config: ReconstructionConfig, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Step 1: particles on a regular grid over the bounding box, the same for every crystal.

    Returns:
        Positions [B·G, 3] in Å and the crystal each belongs to [B·G].
    """
    grid = box_grid(box, config.grid_interval, device)
    return grid.repeat(n_crystals, 1), torch.arange(n_crystals, device=device).repeat_interleave(len(grid))


def move_particles(fields: StructureFields, particles: Tensor, crystal: Tensor, config: ReconstructionConfig) -> Tensor:
    """Step 2: p <- p + f_p(p, z), again and again.

    paper and official: every particle moves `iterations` times / here: one whose step is shorter than `converged` has arrived and stays,
    which saves most of the work.

    Returns:
        Positions [M, 3], Å.
    """
    particles = particles.clone()
    active = torch.arange(len(particles), device=particles.device)
    for _ in range(config.iterations):
        if not len(active):
            break
        steps = _in_parts(fields.position, particles[active], crystal[active], config)
        particles[active] += steps
        if config.converged:
            active = active[steps.norm(dim=-1) >= config.converged]
    return particles


def score_particles(fields: StructureFields, particles: Tensor, crystal: Tensor, config: ReconstructionConfig) -> Tensor:
    """Step 3: ‖f_p(p, z)‖, the estimated distance to the nearest atom. paper: at the final position / official: squared, of the last step taken.

    Returns:
        Scores [M], Å; particles above `score_threshold` are to be discarded.
    """
    return _in_parts(fields.position, particles, crystal, config).norm(dim=-1)


def detect_atoms(particles: np.ndarray, scores: np.ndarray, config: ReconstructionConfig) -> DetectedAtoms:
    """Step 4: non-maximum suppression among the particles of one crystal.

    The particle with the lowest score becomes an atom if at least `min_particles` particles (itself included) are within `nms_radius`;
    either way these are removed, until none is left. One pass of the loop per cluster, not per particle.

    Args:
        particles: [M, 3], Å.
        scores: [M], Å.
    """
    order = np.argsort(scores, kind="stable")
    p, s = particles[order].astype(np.float64), scores[order].astype(np.float64)
    positions, best, sizes, rejected = [], [], [], []
    while len(p):
        near = ((p - p[0]) ** 2).sum(-1) < config.nms_radius**2
        near[0] = True  # also with a radius of 0, or the loop would never end
        size = int(near.sum())
        if size >= config.min_particles:
            if config.atom_position == "cluster_mean":
                weights = np.exp(s[0] ** 2 - s[near] ** 2)
                positions.append(weights @ p[near] / weights.sum())
            else:
                positions.append(p[0])
            best.append(s[0])
            sizes.append(size)
        else:
            rejected.append(size)
        p, s = p[~near], s[~near]
    return DetectedAtoms(np.array(positions).reshape(-1, 3), np.array(best), np.array(sizes, np.int64), np.array(rejected, np.int64))


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
    particles, crystal = initialize_particles(box, len(ids), config, device)
    particles = move_particles(fields, particles, crystal, config)
    scores = score_particles(fields, particles, crystal, config)
    p, s = particles.cpu().numpy(), scores.cpu().numpy()
    per_crystal = len(p) // max(len(ids), 1)
    detected = []
    for i in range(len(ids)):
        part = slice(i * per_crystal, (i + 1) * per_crystal)
        kept = s[part] <= config.score_threshold  # a score that is not a number is discarded too
        detected.append(detect_atoms(p[part][kept], s[part][kept], config))
    atoms = torch.as_tensor(np.concatenate([d.positions for d in detected]), dtype=particles.dtype, device=device)
    owner = torch.as_tensor(np.repeat(np.arange(len(ids)), [len(d.positions) for d in detected]), device=device)
    species, votes = estimate_species(fields, atoms, owner, len(vocabulary), config)
    lengths, angles = (t.cpu().double().numpy() for t in fields.lattice())
    lattice, repaired = _lattices(lengths, angles)
    splits = np.cumsum([len(d.positions) for d in detected])[:-1]
    numbers = np.split(np.asarray(vocabulary, np.int64)[species.cpu().numpy()], splits)
    won = np.split(votes.max(-1).values.cpu().numpy() if len(votes) else np.zeros(0, np.int64), splits)
    crystals = Crystals.from_arrays(ids, [d.positions for d in detected], numbers, lattice)
    reports = [
        {
            "id": ids[i],
            "n_particles": per_crystal,
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


def _lattices(lengths: np.ndarray, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matrices [B, 3, 3] of predicted lattices, and [B] whether one had to be repaired.

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
    repaired = np.any((good_lengths != lengths) | (good_angles != angles), axis=1)
    return standard_lattice(good_lengths, good_angles), repaired


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
    size = max(1, config.max_queries // max(len(box_grid(box, config.grid_interval)), 1))
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
    return _decode_batches(lambda a, b: NeuralFields(model.autoencoder, z[a:b]), ids, model.box, model.vocabulary, config, model.device, progress)


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
    position in Å, element, score in Å, particles, votes) and `summary.json`.
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
        worst = max((a["score"] for a in report["atoms"]), default="")
        fewest = min((a["particles"] for a in report["atoms"]), default="")
        # With periodic images: near 0 where an atom and its image on the other side of the cell were both detected (CIF readers may refuse that).
        between = structure.distance_matrix[np.triu_indices(len(structure), 1)] if len(structure) > 1 else np.zeros(0)
        shortest = round(float(between.min()), 4) if len(between) else ""
        cif = f"cif/{name}" if len(structure) else ""
        rows.append([report["id"], formula, report["n_atoms"], *lattice, worst, fewest, shortest, report["lattice_repaired"], cif])
        for a in report["atoms"]:
            element = Element.from_Z(a["atomic_number"]).symbol
            atoms.append([report["id"], element, *(round(a[k], 6) for k in "xyz"), round(a["score"], 6), a["particles"], a["votes"]])
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
