"""Properties predicted from latent vectors (Table S3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nesf_studies.figures.style import NESF, SECOND, TRIVIAL, subplots

if TYPE_CHECKING:
    from pandas import DataFrame

PROPERTIES = {
    "energy_above_hull": "energy above hull, eV/atom",
    "total_magnetization": "total magnetisation, µB",
    "band_gap": "band gap, eV",
    "volume_per_atom": "volume per atom, Å³",
    "n_atoms": "atoms in the cell",
}
INPUTS = {"latent vector": NESF, "composition": SECOND, "element fractions": "#CC79A7"}
LOWEST = -0.6  # R² below are drawn at the left border


def property_scores(scores: DataFrame, *, split: str = "test", paper: DataFrame | None = None, title: str = "") -> Figure:
    """R² of every regressor and input, a panel a property; hollow circles are the paper's, a grey line is the mean of training.

    Args:
        scores: of `nesf_studies.analysis.properties`.
        split: train, val or test.
        paper: rows of Table S3 of one dataset, or None.
        title: dataset, split and model.
    """
    shown = list(dict.fromkeys(scores["property"]))
    regressors = [r for r in dict.fromkeys(scores["regressor"]) if r]
    figure, axes = subplots(len(shown), 2.5 * len(shown) + 1.7, 4.0)
    of_split = scores[scores["split"] == split]
    for i, (ax, name) in enumerate(zip(axes, shown, strict=True)):
        part = of_split[of_split["property"] == name]
        mean = part.loc[part["regressor"] == "", "r2"]
        ax.axvline(float(mean.iloc[0]), color=TRIVIAL, linewidth=2)
        for row, (regressor, source) in enumerate((r, s) for r in regressors for s in INPUTS):
            for setting, marker in (("paper", "o"), ("chosen", "D")):
                cell = part[(part["regressor"] == regressor) & (part["input"] == source) & (part["setting"] == setting)]
                for r2 in cell["r2"]:
                    outside = r2 < LOWEST
                    ax.plot(max(r2, LOWEST), row, "<" if outside else marker, color=INPUTS[source], markersize=6, clip_on=False)
            if paper is not None and source == "latent vector":
                for r2 in paper.query("regressor == @regressor and property == @name and split == @split")["r2"]:
                    ax.plot(r2, row, "o", markerfacecolor="none", markeredgecolor="black", markersize=11)
        labels = [f"{r}, {s}" for r in regressors for s in INPUTS]
        ax.set(
            yticks=range(len(labels)), ylim=(len(labels) - 0.5, -0.5), xlim=(LOWEST, 1.02), xlabel="R² (1: perfect)", title=PROPERTIES.get(name, name)
        )
        ax.set_yticklabels(labels if i == 0 else [])
        ax.grid(axis="x", alpha=0.3)
        ax.title.set_fontsize(10)
    handles = [
        Line2D([], [], marker=m, color="black", linestyle="", label=t) for m, t in (("o", "the paper's settings"), ("D", "chosen on validation"))
    ]
    if paper is not None:
        handles.append(Line2D([], [], marker="o", markersize=10, markerfacecolor="none", color="black", linestyle="", label="Table S3"))
    handles.append(Line2D([], [], color=TRIVIAL, linewidth=2, label="mean of training"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(title)
    return figure


def property_parity(predictions: DataFrame, *, title: str = "") -> Figure:
    """Predicted against known values of the test crystals, a panel a property.

    Args:
        predictions: of `nesf_studies.analysis.properties`.
        title: dataset and model.
    """
    shown = list(dict.fromkeys(predictions["property"]))
    figure, axes = subplots(len(shown), max(5.0, 2.9 * len(shown) + 0.5), 3.6)
    for ax, name in zip(axes, shown, strict=True):
        part = predictions[predictions["property"] == name]
        for (source, colour), marker in zip(INPUTS.items(), "o^v", strict=True):
            ax.scatter(part["actual"], part[f"from {source}"], s=14, color=colour, marker=marker, alpha=0.6, edgecolor="none", label=f"from {source}")
        ends = np.array([part["actual"].min(), part["actual"].max()])
        ax.plot(ends, ends, color="black", linewidth=0.8)
        ax.set(xlabel=f"known {PROPERTIES.get(name, name)}", ylabel="predicted" if ax is axes[0] else "", title=f"n = {len(part)}")
        ax.title.set_fontsize(10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(title)
    return figure
