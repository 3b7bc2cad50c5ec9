"""The latent vectors of a dataset in two dimensions, and what neighbours in it share (Section 2.5, Figure 7)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nesf.crystals import Crystals, concatenate
from nesf.data.dataset import SPLITS, Dataset
from nesf.errors import ConfigError, DataError
from nesf.saved import TrainedModel
from nesf_studies.analysis.symmetry import crystal_system, space_group, symbol

if TYPE_CHECKING:
    from pandas import DataFrame

PICTURES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
LABELS = ("space_group", "crystal_system", "n_atoms", "volume")  # what neighbours may share


@dataclass(frozen=True)
class Parameters:
    """Which crystals are shown, and how they are brought to two dimensions. The paper gives no setting of its t-SNE."""

    n_train: int | None = 2000  # crystals of the training split, drawn with `seed`; validation and test are all shown; None: all
    perplexity: float = 30.0  # of t-SNE: about so many neighbours of a crystal count; scikit-learn's default
    umap: bool = True  # UMAP beside t-SNE and PCA
    n_neighbors: int = 15  # of UMAP; its default
    min_dist: float = 0.1  # of UMAP; its default
    k: tuple[int, ...] = (1, 5, 10)  # neighbours that are looked at
    n_shuffles: int = 5  # times that labels are shuffled
    symprec: float = 0.01  # Å, of the space group; pymatgen's default, and these are crystals as published
    seed: int = 0  # of the draw, t-SNE, UMAP and the shuffles

    def __post_init__(self) -> None:
        if not self.perplexity > 0 or not self.symprec > 0:
            raise ConfigError(f"perplexity = {self.perplexity}, symprec = {self.symprec}: numbers above 0 are needed")
        if self.n_shuffles < 1 or self.n_neighbors < 2:
            raise ConfigError(f"n_shuffles = {self.n_shuffles}, n_neighbors = {self.n_neighbors}: at least 1 and 2 are needed")


def analyse(model: TrainedModel, dataset: Dataset, parameters: Parameters, *, progress: bool) -> dict[str, DataFrame | Crystals]:
    """Encode, embed, and count what neighbours share.

    Returns:
        `points`: a row per crystal: id, split, formula, n_atoms, volume (Å³), space_group, symbol, crystal_system, and two coordinates of
        each embedding (pca_1, pca_2, tsne_1, ...). `neighbours`: see `neighbour_table`.

    Raises:
        DataError: fewer crystals than the neighbours or the perplexity need.
    """
    crystals, splits = chosen(dataset, parameters)
    least = int(max(*parameters.k, parameters.perplexity, parameters.n_neighbors if parameters.umap else 0)) + 1
    if len(crystals) <= least:
        raise DataError(
            f"{dataset.label}: {len(crystals)} crystals are too few; more than {least} are needed for these k, perplexity and n_neighbors"
        )
    z = model.encode(crystals).cpu().numpy().astype(np.float64)
    labels = described(crystals, parameters.symprec)
    points = labels.assign(split=splits)
    coordinates = embeddings(z, parameters)
    for name, xy in coordinates.items():
        points[[f"{name}_1", f"{name}_2"]] = xy.round(3)
    spaces = {"latent vector": z, **descriptors(crystals)} | {f"{PICTURES[name]}, 2-D": xy for name, xy in coordinates.items()}
    first = ["id", "split"]
    points = points[first + [c for c in points.columns if c not in first]]
    return {"points": points.round({"volume": 2}), "neighbours": neighbour_table(spaces, labels, parameters)}


def chosen(dataset: Dataset, parameters: Parameters) -> tuple[Crystals, list[str]]:
    """The crystals that are shown, and the split of each."""
    parts, splits = [], []
    for split in SPLITS:
        part = dataset.split(split)
        if split == "train" and parameters.n_train is not None and parameters.n_train < len(part):
            draw = np.random.default_rng(parameters.seed).choice(len(part), parameters.n_train, replace=False)
            part = part.select(np.sort(draw))
        parts.append(part)
        splits += [split] * len(part)
    return concatenate(parts), splits


def described(crystals: Crystals, symprec: float) -> DataFrame:
    """A row per crystal: id, formula (reduced), n_atoms, volume (Å³), space_group, symbol, crystal_system."""
    import pandas as pd

    rows = []
    for identifier, structure in zip(crystals.ids, crystals.to_structures(), strict=True):
        group = space_group(structure, symprec)
        rows.append(
            {
                "id": identifier,
                "formula": structure.composition.reduced_formula,
                "n_atoms": len(structure),
                "volume": structure.volume,
                "space_group": group,
                "symbol": symbol(group),
                "crystal_system": crystal_system(group),
            }
        )
    return pd.DataFrame(rows)


def embeddings(z: np.ndarray, parameters: Parameters) -> dict[str, np.ndarray]:
    """Latent vectors [n, d] in two dimensions: `pca`, `tsne` (started from PCA), `umap` if asked for; each [n, 2]."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    found = {"pca": PCA(2, svd_solver="full").fit_transform(z)}
    found["tsne"] = TSNE(2, perplexity=parameters.perplexity, init="pca", random_state=parameters.seed, n_jobs=1).fit_transform(z)
    if parameters.umap:
        import umap  # here, for it compiles itself

        reducer = umap.UMAP(n_components=2, n_neighbors=parameters.n_neighbors, min_dist=parameters.min_dist, random_state=parameters.seed, n_jobs=1)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*spectral.*|.*n_jobs.*")
            found["umap"] = np.asarray(reducer.fit_transform(z))
    return {name: np.asarray(xy, dtype=np.float64) for name, xy in found.items()}


def descriptors(crystals: Crystals) -> dict[str, np.ndarray]:
    """What costs no network: the composition (share of each element), the cell (three lengths, three angles, each scaled to unit variance), and both.

    Returns:
        Name to [n, d]; both, as each spreads: scaled to a mean squared distance from the mean of 1.
    """
    numbers = np.unique(crystals.species)
    owner = np.repeat(np.arange(len(crystals)), crystals.n_atoms)
    composition = np.zeros((len(crystals), len(numbers)))
    np.add.at(composition, (owner, np.searchsorted(numbers, crystals.species)), 1)
    composition /= composition.sum(1, keepdims=True)
    cell = np.concatenate([crystals.lengths, crystals.angles], axis=1)
    spread = cell.std(0)
    cell = (cell - cell.mean(0)) / np.where(spread > 1e-6, spread, 1.0)

    def scaled(values: np.ndarray) -> np.ndarray:
        centred = values - values.mean(0)
        return centred / max(float(np.sqrt((centred**2).sum(1).mean())), 1e-12)

    return {"composition": composition, "cell": cell, "composition and cell": np.concatenate([scaled(composition), scaled(cell)], axis=1)}


def neighbour_indices(points: np.ndarray, k: int) -> np.ndarray:
    """The k nearest others of each point (Euclid), nearest first, [n, k]."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=k).fit(points).kneighbors(return_distance=False)


def purity(neighbours: np.ndarray, labels: np.ndarray) -> float:
    """The share (%) of neighbours [n, k] with the same label as the point itself, mean over points."""
    return 100 * float((labels[neighbours] == labels[:, None]).mean())


def relative_difference(neighbours: np.ndarray, values: np.ndarray) -> float:
    """|v_neighbour - v| / v in percent, mean over points and neighbours."""
    return 100 * float((np.abs(values[neighbours] - values[:, None]) / values[:, None]).mean())


def neighbour_table(spaces: Mapping[str, np.ndarray], labels: DataFrame, parameters: Parameters) -> DataFrame:
    """What the k nearest neighbours share, space by space; labels shuffled (mean of `n_shuffles`) are what chance gives.

    Returns:
        space, k, space_group, crystal_system, n_atoms (purity, %), volume (mean relative difference, %; lower is more alike).
    """
    import pandas as pd

    def shared(nearest: np.ndarray, of: DataFrame) -> dict[str, float]:
        found = {name: purity(nearest, of[name].to_numpy()) for name in LABELS[:3]}
        return found | {"volume": relative_difference(nearest, of["volume"].to_numpy(float))}

    largest = max(parameters.k)
    rng = np.random.default_rng(parameters.seed)
    rows = []
    for space, points in spaces.items():
        nearest = neighbour_indices(points, largest)
        rows += [{"space": space, "k": k} | shared(nearest[:, :k], labels) for k in parameters.k]
    nearest = neighbour_indices(next(iter(spaces.values())), largest)
    shuffled = [labels.iloc[rng.permutation(len(labels))] for _ in range(parameters.n_shuffles)]
    for k in parameters.k:
        values = pd.DataFrame([shared(nearest[:, :k], of) for of in shuffled]).mean().to_dict()
        rows.append({"space": "labels shuffled", "k": k} | values)
    return pd.DataFrame(rows)
