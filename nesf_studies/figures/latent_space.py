"""The latent space in two dimensions, and what neighbours in it share (Figure 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LogNorm, Normalize, to_hex
from matplotlib.figure import Figure

from nesf_studies.figures.style import NESF, TRIVIAL, subplots

if TYPE_CHECKING:
    from pandas import DataFrame, Series

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


def latent_map(points: DataFrame, embedding: str = "tsne", *, title: str = "") -> Figure:
    """Crystals in two dimensions, coloured by cell volume, number of atoms, crystal system and space group (Figure 7).

    Args:
        points: `points` of `nesf_studies.analysis.latent_space`.
        embedding: pca, tsne or umap.
        title: dataset, number of crystals, model, seed.
    """
    figure, axes = subplots(2, 8.6, 8, n_rows=2)
    x, y = (points[f"{embedding}_{i}"].to_numpy(float) for i in (1, 2))
    size = float(np.clip(15000 / max(len(points), 1), 4, 16))
    scales = (("volume", "cell volume, Å³", Normalize()), ("n_atoms", "atoms in the cell", LogNorm()))
    for ax, (column, label, norm) in zip(axes, scales, strict=False):
        drawn = ax.scatter(x, y, s=size, c=points[column].to_numpy(float), cmap="viridis", norm=norm, linewidth=0)
        bar = figure.colorbar(drawn, ax=ax, location="bottom", shrink=0.8, pad=0.02, label=label)
        if column == "n_atoms":
            ticks = [n for n in (1, 2, 4, 8, 16, 28, 40) if points[column].min() <= n <= points[column].max()]
            bar.set_ticks(ticks, labels=[str(n) for n in ticks])
            bar.minorticks_off()
    order = np.random.default_rng(0).permutation(len(points))  # no class lies over the others
    systems = {name: colour for name, colour in SYSTEM_COLOURS.items() if (points["crystal_system"] == name).any()}
    groups, of = frequent_groups(points)
    for ax, classes, colours in ((axes[2], points["crystal_system"], systems), (axes[3], of, groups)):
        ax.scatter(x[order], y[order], s=size, c=classes.map(colours).to_numpy()[order].tolist(), linewidth=0)
        counts = classes.value_counts()
        handles = [ax.scatter([], [], s=30, color=colour, label=f"{name} ({counts[name]})") for name, colour in colours.items()]
        ax.legend(handles=handles, frameon=False, ncols=3, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, 0), handletextpad=0.1)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    figure.suptitle(title)
    return figure


def frequent_groups(points: DataFrame) -> tuple[dict[str, str], Series]:
    """The seven most frequent space groups with their colours, grey for all others; and the name of each crystal's class.

    Args:
        points: as for `latent_map`.
    """
    most = points["symbol"].value_counts().index[:7]  # of equals the first in the table
    colours = dict(zip(most, SYSTEM_COLOURS.values(), strict=False))
    of = points["symbol"].where(points["symbol"].isin(most), "others")
    return colours | ({"others": SYSTEM_COLOURS["unknown"]} if (of == "others").any() else {}), of


def neighbour_chart(table: DataFrame, *, title: str = "") -> Figure:
    """What the k nearest neighbours share, by the space in which they are near.

    Args:
        table: `neighbours` of `nesf_studies.analysis.latent_space`.
        title: dataset, number of crystals, model, seed.
    """
    panels = {
        "space_group": "same space group, %",
        "crystal_system": "same crystal system, %",
        "n_atoms": "same number of atoms, %",
        "volume": "difference in volume, %\n(lower is more alike)",
    }
    spaces, ks = list(dict.fromkeys(table["space"])), sorted(set(table["k"]))
    figure, axes = subplots(len(panels), 9.2, 1.1 + 0.3 * len(spaces))
    for i, (ax, (column, label)) in enumerate(zip(axes, panels.items(), strict=True)):
        for k, marker in zip(ks, _markers(len(ks)), strict=True):
            values = table[table["k"] == k].set_index("space")[column].reindex(spaces)
            colours = [NESF if space == "latent vector" else TRIVIAL for space in spaces]
            ax.scatter(values, range(len(spaces)), marker=marker, color=colours, s=36, alpha=0.85, label=f"k = {k}")
        ax.set(yticks=range(len(spaces)), ylim=(len(spaces) - 0.5, -0.5), xlabel=label)
        ax.set_yticklabels(spaces if not i else [])
        ax.set_xlim(0, max(105, ax.get_xlim()[1]) if column != "volume" else None)
        ax.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=len(ks))
    figure.suptitle(title)
    return figure


def _markers(n: int) -> list[str]:
    return [("o", "s", "^", "D", "v", "P", "X")[i % 7] for i in range(n)]


def value_colours(values: Sequence[float], *, logarithmic: bool = False) -> list[str]:
    """Colours `#rrggbb` of numbers, smallest to largest along viridis, as in `latent_map`."""
    numbers = np.asarray(values, dtype=float)
    norm = (LogNorm if logarithmic else Normalize)(numbers.min(), max(numbers.max(), numbers.min() * (1 + 1e-9) + 1e-9))
    return [to_hex(c) for c in colormaps["viridis"](norm(numbers))]
