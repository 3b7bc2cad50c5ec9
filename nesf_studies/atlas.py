"""All crystals of a dataset on the plane of their latent vectors, for the page with the model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from sklearn.manifold import TSNE
from torch import Tensor

from nesf.crystals import Crystals, concatenate, pad
from nesf.data.dataset import SPLITS, Dataset
from nesf.decoding_fields import NeuralFields
from nesf.saved import TrainedModel
from nesf_io.errors import ConfigError
from nesf_studies.latent_space import crystal_labels

LABELS = ("id", "formula", "n_atoms", "volume", "space_group")


@dataclass(frozen=True)
class Parameters:
    """How the crystals are laid out (paper: no settings of its t-SNE)."""

    perplexity: float = 30.0  # about so many neighbours of a crystal count; scikit-learn's default
    symprec: float = 0.01  # Å, of the space group; pymatgen's default
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.perplexity > 0 or not self.symprec > 0:
            raise ConfigError(
                f"perplexity = {self.perplexity}, symprec = {self.symprec}: numbers above 0 are needed"
            )


def analyse(
    model: TrainedModel, dataset: Dataset, parameters: Parameters, *, progress: bool
) -> dict[str, pd.DataFrame | Crystals]:
    """Encode all splits, lay them out by t-SNE, and ask the fields about the atoms.

    `points`: labels, split, `tsne_1`, `tsne_2`, and `field_errors`. `crystals`: the same crystals
    in the same order, in single precision.
    """
    parts = [dataset.split(split) for split in SPLITS]
    crystals = concatenate(parts)
    z = model.encode(crystals)
    points = crystal_labels(crystals, parameters.symprec)[list(LABELS)].round({"volume": 2})
    points.insert(1, "split", [s for s, part in zip(SPLITS, parts, strict=True) for _ in part.ids])
    xy = TSNE(
        2, perplexity=parameters.perplexity, init="pca", random_state=parameters.seed, n_jobs=1
    ).fit_transform(z.cpu().numpy().astype(np.float64))
    points["tsne_1"], points["tsne_2"] = xy.round(3).T
    for name, values in field_errors(model, crystals, z).items():
        points[name] = values
    single = replace(
        crystals,
        positions=crystals.positions.astype(np.float32),
        lattice=crystals.lattice.astype(np.float32),
        properties={},
    )
    return {"points": points, "crystals": single}


@torch.no_grad()
def field_errors(model: TrainedModel, crystals: Crystals, z: Tensor) -> dict[str, np.ndarray]:
    """Return how far the fields are off at the true atoms, means over the atoms of each crystal.

    `field_distance`: ‖f_p‖, Å, which the true field has as 0; `species_missed`: percentage of atoms
    at which another species is the most probable.
    """
    fields = NeuralFields(model.autoencoder, z)
    owner = np.repeat(np.arange(len(crystals)), crystals.n_atoms)
    padded = pad(crystals, model.vocabulary, model.device)
    atoms = padded.atoms()
    queries, index = padded.positions.flatten(0, 1)[atoms], torch.as_tensor(owner).to(model.device)
    distance = fields.position(queries, index).norm(dim=-1).cpu().numpy()
    wrong = fields.species(queries, index) != padded.species.flatten()[atoms]
    missed = 100.0 * wrong.cpu().numpy()

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(owner, values, len(crystals)) / crystals.n_atoms

    return {"field_distance": mean(distance).round(4), "species_missed": mean(missed).round(1)}
