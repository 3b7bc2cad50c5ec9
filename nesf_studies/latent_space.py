"""The latent vectors in two dimensions, and what neighbours share (Section 2.5, Figure 7)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import LogNorm, Normalize, to_hex
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors

from nesf.crystals import Crystals, concatenate
from nesf.data.dataset import SPLITS, Dataset
from nesf.saved import TrainedModel
from nesf_io.errors import ConfigError, DataError
from nesf_studies.crystals import crystal_system, space_group, space_group_symbol
from nesf_studies.properties import element_fractions
from nesf_studies.sensitivity import sample
from nesf_studies.style import NESF, TRIVIAL, name_rows, subplots

PICTURES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
LABELS = ("space_group", "crystal_system", "n_atoms", "volume")  # what neighbours may share
SYSTEM_COLOURS = {  # Okabe and Ito
    "cubic": "#0072B2",
    "tetragonal": "#E69F00",
    "orthorhombic": "#009E73",
    "hexagonal": "#CC79A7",
    "trigonal": "#56B4E9",
    "monoclinic": "#D55E00",
    "triclinic": "#000000",
    "unknown": "#BBBBBB",
}


@dataclass(frozen=True)
class Parameters:
    """Which crystals are shown, and how they are embedded (paper: no settings of its t-SNE)."""

    # crystals of the training split, drawn with `seed`; validation and test are all shown; None:
    # all
    n_train: int | None = 2000
    # of t-SNE: about so many neighbours of a crystal count; scikit-learn's default
    perplexity: float = 30.0
    umap: bool = True  # UMAP beside t-SNE and PCA
    n_neighbors: int = 15  # of UMAP; its default
    min_dist: float = 0.1  # of UMAP; its default
    k: tuple[int, ...] = (1, 5, 10)  # neighbours that are looked at
    n_shuffles: int = 5  # times that labels are shuffled
    # Å, of the space group; pymatgen's default, and these are crystals as published
    symprec: float = 0.01
    seed: int = 0  # of the draw, t-SNE, UMAP and the shuffles

    def __post_init__(self) -> None:
        if not self.perplexity > 0 or not self.symprec > 0:
            raise ConfigError(
                f"perplexity = {self.perplexity}, symprec = {self.symprec}: numbers above 0 are needed"
            )
        if self.n_shuffles < 1 or self.n_neighbors < 2:
            raise ConfigError(
                f"n_shuffles = {self.n_shuffles}, n_neighbors = {self.n_neighbors}: at least 1 and 2 are needed"
            )


def analyse(
    model: TrainedModel, dataset: Dataset, parameters: Parameters, *, progress: bool
) -> dict[str, pd.DataFrame | Crystals]:
    """Encode, embed, and count what neighbours share.

    `points`: `crystal_labels`, with split and two coordinates of each embedding (pca_1, pca_2,
    tsne_1, ...). `neighbours`: `neighbour_table`.

    Raises:
        DataError: fewer crystals than the neighbours or the perplexity need.
    """
    crystals, splits = shown_crystals(dataset, parameters)
    least = (
        int(
            max(
                *parameters.k,
                parameters.perplexity,
                parameters.n_neighbors if parameters.umap else 0,
            )
        )
        + 1
    )
    if (n := len(crystals)) <= least:
        raise DataError(
            f"{dataset.label}: {n} crystals are too few; more than {least} are needed for these k, perplexity and n_neighbors"
        )
    z = model.encode(crystals).cpu().numpy().astype(np.float64)
    labels = crystal_labels(crystals, parameters.symprec)
    points = labels.round({"volume": 2})
    points.insert(1, "split", splits)
    coordinates = embeddings(z, parameters)
    for name, xy in coordinates.items():
        points[[f"{name}_1", f"{name}_2"]] = xy.round(3)
    spaces = {"latent vector": z, **descriptors(crystals)} | {
        f"{PICTURES[name]}, 2-D": xy for name, xy in coordinates.items()
    }
    return {"points": points, "neighbours": neighbour_table(spaces, labels, parameters)}


def shown_crystals(dataset: Dataset, parameters: Parameters) -> tuple[Crystals, list[str]]:
    """Return the crystals that are shown, and the split of each."""
    parts = {split: dataset.split(split) for split in SPLITS}
    if parameters.n_train is not None and parameters.n_train < len(parts["train"]):
        parts["train"] = sample(parts["train"], parameters.n_train, parameters.seed)
    return concatenate(list(parts.values())), [
        split for split, part in parts.items() for _ in part.ids
    ]


def crystal_labels(crystals: Crystals, symprec: float) -> pd.DataFrame:
    """Describe each crystal, a row each; volume in Å³, reduced formula."""
    structures = crystals.to_structures()
    groups = [space_group(structure, symprec) for structure in structures]
    return pd.DataFrame(
        {
            "id": crystals.ids,
            "formula": [structure.composition.reduced_formula for structure in structures],
            "n_atoms": crystals.n_atoms,
            "volume": [structure.volume for structure in structures],
            "space_group": groups,
            "symbol": [space_group_symbol(group) for group in groups],
            "crystal_system": [crystal_system(group) for group in groups],
        }
    )


def embeddings(z: np.ndarray, parameters: Parameters) -> dict[str, np.ndarray]:
    """Embed latent vectors [n, d] in two dimensions, each [n, 2]; t-SNE starts from PCA."""
    tsne = TSNE(
        2, perplexity=parameters.perplexity, init="pca", random_state=parameters.seed, n_jobs=1
    )
    found = {"pca": PCA(2, svd_solver="full").fit_transform(z), "tsne": tsne.fit_transform(z)}
    if parameters.umap:
        import umap  # here, for it compiles itself

        reducer = umap.UMAP(
            n_components=2,
            n_neighbors=parameters.n_neighbors,
            min_dist=parameters.min_dist,
            random_state=parameters.seed,
            n_jobs=1,
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*spectral.*|.*n_jobs.*")
            found["umap"] = reducer.fit_transform(z)
    return {name: np.asarray(xy, dtype=np.float64) for name, xy in found.items()}


def descriptors(crystals: Crystals) -> dict[str, np.ndarray]:
    """Return descriptors that need no network, each [n, d]: composition, cell, and both.

    The cell is three lengths and three angles, each scaled to unit variance. In both, either part
    is scaled to a mean squared distance from its mean of 1.
    """
    composition = element_fractions(crystals, tuple(np.unique(crystals.species)))
    cell = np.concatenate([crystals.lengths, crystals.angles], axis=1)
    spread = cell.std(0)
    cell = (cell - cell.mean(0)) / np.where(spread > 1e-6, spread, 1.0)

    def scaled(values: np.ndarray) -> np.ndarray:
        centred = values - values.mean(0)
        return centred / max(float(np.sqrt((centred**2).sum(1).mean())), 1e-12)

    return {
        "composition": composition,
        "cell": cell,
        "composition and cell": np.concatenate([scaled(composition), scaled(cell)], axis=1),
    }


def neighbour_indices(points: np.ndarray, k: int) -> np.ndarray:
    """Return the k nearest others of each point (Euclidean), nearest first, [n, k]."""
    return NearestNeighbors(n_neighbors=k).fit(points).kneighbors(return_distance=False)


def purity(neighbours: np.ndarray, labels: np.ndarray) -> float:
    """Return the share (%) of neighbours [n, k] with the label of the point itself."""
    return 100 * float((labels[neighbours] == labels[:, None]).mean())


def relative_difference(neighbours: np.ndarray, values: np.ndarray) -> float:
    """Return |v_neighbour - v| / v in percent, mean over points and neighbours."""
    return 100 * float((np.abs(values[neighbours] - values[:, None]) / values[:, None]).mean())


def neighbour_table(
    spaces: Mapping[str, np.ndarray], labels: pd.DataFrame, parameters: Parameters
) -> pd.DataFrame:
    """Measure what the k nearest neighbours share in each space, and with labels shuffled.

    Of space_group, crystal_system and n_atoms the `purity`, of volume the `relative_difference`.
    """

    def shared(nearest: np.ndarray, values: pd.DataFrame) -> dict[str, float]:
        found = {name: purity(nearest, values[name].to_numpy()) for name in LABELS[:3]}
        return found | {"volume": relative_difference(nearest, values["volume"].to_numpy(float))}

    rng = np.random.default_rng(parameters.seed)
    shuffled = [labels.iloc[rng.permutation(len(labels))] for _ in range(parameters.n_shuffles)]
    nearest = {
        space: neighbour_indices(points, max(parameters.k)) for space, points in spaces.items()
    }
    rows = [
        {"space": space, "k": k} | shared(indices[:, :k], labels)
        for space, indices in nearest.items()
        for k in parameters.k
    ]
    first = next(iter(nearest.values()))
    for k in parameters.k:
        chance = (
            pd.DataFrame([shared(first[:, :k], values) for values in shuffled]).mean().to_dict()
        )
        rows.append({"space": "labels shuffled", "k": k} | chance)
    return pd.DataFrame(rows)


def latent_map(points: pd.DataFrame, embedding: str = "tsne", *, title: str = "") -> Figure:
    """Draw `points` in an embedding (pca, tsne, umap), coloured by four labels (Figure 7)."""
    figure, axes = subplots(2, 8.6, 8, n_rows=2)
    x, y = (points[f"{embedding}_{i}"].to_numpy(float) for i in (1, 2))
    size = float(np.clip(15000 / max(len(points), 1), 4, 16))
    scales = (
        ("volume", "cell volume, Å³", Normalize()),
        ("n_atoms", "atoms in the cell", LogNorm()),
    )
    for ax, (column, label, norm) in zip(axes, scales, strict=False):
        drawn = ax.scatter(
            x, y, s=size, c=points[column].to_numpy(float), cmap="viridis", norm=norm, linewidth=0
        )
        bar = figure.colorbar(drawn, ax=ax, location="bottom", shrink=0.8, pad=0.02, label=label)
        if column == "n_atoms":
            ticks = [
                n
                for n in (1, 2, 4, 8, 16, 28, 40)
                if points[column].min() <= n <= points[column].max()
            ]
            bar.set_ticks(ticks, labels=[str(n) for n in ticks])
            bar.minorticks_off()
    order = np.random.default_rng(0).permutation(len(points))  # no class lies over the others
    systems = {
        name: colour
        for name, colour in SYSTEM_COLOURS.items()
        if (points["crystal_system"] == name).any()
    }
    groups, symbols = frequent_groups(points)
    for ax, classes, colours in (
        (axes[2], points["crystal_system"], systems),
        (axes[3], symbols, groups),
    ):
        ax.scatter(
            x[order],
            y[order],
            s=size,
            c=classes.map(colours).to_numpy()[order].tolist(),
            linewidth=0,
        )
        counts = classes.value_counts()
        handles = [
            ax.scatter([], [], s=30, color=colour, label=f"{name} ({counts[name]})")
            for name, colour in colours.items()
        ]
        ax.legend(
            handles=handles,
            frameon=False,
            ncols=3,
            fontsize="small",
            loc="upper center",
            bbox_to_anchor=(0.5, 0),
            handletextpad=0.1,
        )
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    figure.suptitle(title)
    return figure


def frequent_groups(points: pd.DataFrame) -> tuple[dict[str, str], pd.Series]:
    """Return the colours of the seven most frequent space groups and `others`, and these labels."""
    most = points["symbol"].value_counts().index[:7]  # of equals the first in the table
    colours = dict(zip(most, SYSTEM_COLOURS.values(), strict=False))
    symbols = points["symbol"].where(points["symbol"].isin(most), "others")
    return colours | (
        {"others": SYSTEM_COLOURS["unknown"]} if (symbols == "others").any() else {}
    ), symbols


def neighbour_chart(table: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw a `neighbour_table`: what neighbours share, by the space in which they are near."""
    panels = {
        "space_group": "same space\ngroup, %",
        "crystal_system": "same crystal\nsystem, %",
        "n_atoms": "same number\nof atoms, %",
        "volume": "difference in volume, %\n(lower: more alike)",
    }
    spaces, ks = list(dict.fromkeys(table["space"])), sorted(set(table["k"]))
    figure, axes = subplots(len(panels), 9.2, 1.1 + 0.3 * len(spaces))
    name_rows(axes, spaces)
    colours = [NESF if space.startswith("latent vector") else TRIVIAL for space in spaces]
    for ax, (column, label) in zip(axes, panels.items(), strict=True):
        for k, marker in zip(ks, cycle("os^DvPX"), strict=False):
            values = table[table["k"] == k].set_index("space")[column].reindex(spaces)
            ax.scatter(
                values,
                range(len(spaces)),
                marker=marker,
                color=colours,
                s=36,
                alpha=0.85,
                label=f"k = {k}",
            )
        ax.set(xlabel=label)
        ax.set_xlim(0, max(105, ax.get_xlim()[1]) if column != "volume" else None)
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        frameon=False,
        loc="outside lower center",
        ncols=len(ks),
    )
    figure.suptitle(title)
    return figure


def value_colours(values: Sequence[float], *, logarithmic: bool = False) -> list[str]:
    """Return colours `#rrggbb` of numbers along viridis, as in `latent_map`."""
    numbers = np.asarray(values, dtype=float)
    norm = (LogNorm if logarithmic else Normalize)(
        numbers.min(), max(numbers.max(), numbers.min() * (1 + 1e-9) + 1e-9)
    )
    return [to_hex(c) for c in colormaps["viridis"](norm(numbers))]
