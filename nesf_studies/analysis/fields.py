"""What the fields of a crystal say, and how atoms come out of them step by step (Figures 1 and 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from nesf.config import ReconstructionConfig
from nesf.crystals import Crystals, pad
from nesf.data.dataset import Box
from nesf.decode import estimate_species, initialize_particles, move_particles, score_particles
from nesf.decoding_fields import NeuralFields, StructureFields
from nesf.errors import DataError
from nesf.fields import Queries, local_grid, nearest_atom
from nesf.metrics import align
from nesf.saved import TrainedModel
from nesf.suppression import suppress

if TYPE_CHECKING:
    from pandas import DataFrame

MOMENTS = (0, 1, 2, 5, 64)  # iterations that are shown
DISTANCES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # Å; classes of the distance to the nearest atom


@dataclass(frozen=True)
class Steps:
    """The five steps of one crystal, with what happens to each particle.

    Attributes:
        moments: iterations to the positions [M, 3] (Å) of all particles after so many, the same particle in the same row.
        scores: [M], Å, after the last iteration.
        kept: [M], whether the score is at most `score_threshold`.
        cluster: [M], the cluster of each kept particle, the best first; −1 of the others.
        sizes: [K], particles in each cluster.
        accepted: [K], whether they are enough for an atom.
        positions: [N, 3], Å: detected atoms, the centres of the accepted clusters.
        queries: [N, Q, 3], Å: the points around each atom at which the species field is asked.
        answers: [N, Q], atomic numbers that it gives there.
        species: [N], atomic numbers that most of them name.
    """

    moments: Mapping[int, np.ndarray]
    scores: np.ndarray
    kept: np.ndarray
    cluster: np.ndarray
    sizes: np.ndarray
    accepted: np.ndarray
    positions: np.ndarray
    queries: np.ndarray
    answers: np.ndarray
    species: np.ndarray


@torch.no_grad()
def follow(
    fields: StructureFields, box: Box, vocabulary: Sequence[int], config: ReconstructionConfig | None = None, moments: Sequence[int] = MOMENTS
) -> Steps:
    """Decode one crystal and keep what is passed on the way.

    The steps are those of `nesf.decode`. No particle stops early (`converged` = 0), so that each keeps its row; where it ends differs by less than
    `converged`.

    Args:
        fields: of one crystal.
        box: bounding box of the dataset, Å.
        vocabulary: atomic numbers along the species axis.
        config: `iterations` is the last moment whatever it says; the rule for positions is the paper's.
        moments: iterations to keep, ascending.
    """
    config = replace(config or ReconstructionConfig(), converged=0.0, mode="exact", atom_position="lowest_score")
    particles = initialize_particles(box, 1, config)
    positions: dict[int, np.ndarray] = {}
    before = 0
    for moment in moments:
        particles = move_particles(fields, particles, replace(config, iterations=moment - before))
        positions[moment], before = particles.positions.numpy().copy(), moment
    scores = score_particles(fields, particles, config).scores
    kept = scores <= config.score_threshold
    inside = particles.positions[kept]
    found = suppress(inside, scores[kept], torch.zeros(len(inside), dtype=torch.long), config.nms_radius)
    sizes = torch.bincount(found.member_of, minlength=len(found.centre))
    accepted = sizes >= config.min_particles
    atoms = inside[found.centre[accepted]]
    owner = torch.zeros(len(atoms), dtype=torch.long)
    grid = local_grid(config.species_interval, config.species_range)
    queries = atoms[:, None] + grid
    answers = fields.species(queries.flatten(0, 1), owner.repeat_interleave(len(grid))).view(-1, len(grid))
    species, _ = estimate_species(fields, atoms, owner, len(vocabulary), config)
    numbers = np.asarray(vocabulary)
    cluster = np.full(len(scores), -1)
    cluster[kept.numpy()] = found.member_of.numpy()
    return Steps(
        positions,
        scores.numpy(),
        kept.numpy(),
        cluster,
        sizes.numpy(),
        accepted.numpy(),
        atoms.numpy(),
        queries.numpy(),
        numbers[answers.numpy()],
        numbers[species.numpy()],
    )


def encode_one(model: TrainedModel, crystals: Crystals) -> NeuralFields:
    """The fields that a model gives for one crystal.

    Raises:
        DataError: not exactly one crystal, or an element that the model does not know.
    """
    if len(crystals) != 1:
        raise DataError(f"fields are those of one crystal, not of {len(crystals)}; choose one with crystals.select([i])")
    return NeuralFields(model.autoencoder, model.encode(crystals))


@torch.no_grad()
def field_errors(model: TrainedModel, crystals: Crystals, others: Mapping[str, Crystals], *, n_points: int = 400, seed: int = 0) -> DataFrame:
    """How wrong the learned fields are, by the distance to the nearest atom; and the true fields of other crystals in their place.

    Queries are `n_points` per crystal, half of them uniform in the cell, half around atoms (Gaussian, σ = 0.5 Å), the same for all.

    Args:
        model: a trained model.
        crystals: B crystals.
        others: name to B crystals with the same ids, whose true fields stand in for the learned ones (copies of training crystals, say).
        n_points: of each crystal.
        seed: of the queries.

    Returns:
        One row per field and class of the distance (`DISTANCES`): `field` (`nesf` or a name of `others`), `from`, `to` (Å), `n_points`, `low`, `median`,
        `high`: length of the difference between the field and the true one (16th, 50th, 84th percentile, Å); `species`: share of the points at which both
        name the same element, %.
    """
    import pandas as pd

    padded = pad(crystals, model.vocabulary)
    queries = Queries(_random_points(crystals, n_points, seed), None)
    vectors, species = nearest_atom(queries, padded)
    distance = vectors.norm(dim=-1).flatten().numpy()
    flat, index = queries.positions.flatten(0, 1).to(model.device), torch.arange(len(crystals), device=model.device).repeat_interleave(n_points)
    learned = NeuralFields(model.autoencoder, model.encode(crystals))
    given = {"nesf": (learned.position(flat, index).cpu().view_as(vectors), learned.species(flat, index).cpu().view_as(species))}
    for name, other in others.items():
        given[name] = nearest_atom(queries, pad(align(crystals, other), model.vocabulary))
    classes = np.digitize(distance, DISTANCES) - 1
    rows = []
    for name, (its_vectors, its_species) in given.items():
        error = (its_vectors - vectors).norm(dim=-1).flatten().numpy()
        same = (its_species == species).flatten().numpy()
        for k in range(len(DISTANCES) - 1):
            inside = classes == k
            low, median, high = np.percentile(error[inside], [16, 50, 84]) if inside.any() else (np.nan,) * 3
            share = 100 * same[inside].mean() if inside.any() else np.nan
            rows.append((name, DISTANCES[k], DISTANCES[k + 1], int(inside.sum()), low, median, high, share))
    return pd.DataFrame(rows, columns=["field", "from", "to", "n_points", "low", "median", "high", "species"])


def _random_points(crystals: Crystals, n: int, seed: int) -> torch.Tensor:
    """[B, n, 3], Å."""
    random = np.random.default_rng(seed)
    points = []
    for i in range(len(crystals)):
        atoms = crystals.positions[crystals.atoms(i)]
        uniform = random.random((n - n // 2, 3)) @ crystals.lattice[i]
        around = atoms[random.integers(len(atoms), size=n // 2)] + 0.5 * random.standard_normal((n // 2, 3))
        points.append(np.concatenate([uniform, around]))
    return torch.as_tensor(np.array(points), dtype=torch.float32)


def particles_left(steps: Steps) -> DataFrame:
    """The steps in numbers: how far particles still go, how many are kept, in how many clusters, accepted and rejected."""
    import pandas as pd

    moments = list(steps.moments)
    end = steps.moments[moments[-1]]
    rows = [
        (f"after {m} iterations", len(end), f"{np.median(np.linalg.norm(steps.moments[m] - end, axis=1)):.4f} Å from the end (median)")
        for m in moments
    ]
    small = int((~steps.accepted).sum())
    in_small = int(steps.sizes[~steps.accepted].sum())
    rows.append(("kept by score", int(steps.kept.sum()), f"{(~steps.kept).sum()} dropped"))
    rows.append(
        (
            "in accepted clusters",
            int(steps.sizes[steps.accepted].sum()),
            f"{steps.accepted.sum()} clusters; {small} rejected, with {in_small} particles",
        )
    )
    return pd.DataFrame(rows, columns=["moment", "particles", "what"]).set_index("moment")
