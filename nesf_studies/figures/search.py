"""The hyperparameter search (Supplementary Note 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from nesf_studies.figures.style import NESF, TRIVIAL

if TYPE_CHECKING:
    from pandas import DataFrame


def search_steps(candidates: DataFrame, *, primary: str, title: str = "") -> Figure:
    """The primary error of every recorded candidate, a panel a step; the winner is blue, the paper's choice has a black ring.

    Args:
        candidates: of `nesf_studies.analysis.search`; at least one is recorded.
        primary: the column that decides, in percent.
        title: dataset, split and number of seeds.
    """
    recorded = candidates[candidates["n"] > 0]
    shown = list(dict.fromkeys(recorded["step"]))
    heights = [0.6 + 0.24 * int((recorded["step"] == step).sum()) for step in shown]
    figure = Figure(figsize=(9, sum(heights) + 0.6), layout="constrained")
    axes = figure.subplots(len(shown), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for ax, step in zip(axes, shown, strict=True):
        part = recorded[recorded["step"] == step].reset_index(drop=True)
        for y, row in part.iterrows():
            ax.plot(row[primary], y, "o", color=NESF if row["wins"] else TRIVIAL, markersize=6)
            if row["adopted"]:
                ax.plot(row[primary], y, "o", markerfacecolor="none", markeredgecolor="black", markersize=11)
        ax.set_yticks(range(len(part)), part["settings"], fontsize=8)
        ax.set_ylim(len(part) - 0.5, -0.5)
        ax.set_title(f"step {step}", loc="left", fontsize=10)
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("number-of-atoms error, % (lower is better)")
    figure.suptitle(title)
    return figure
