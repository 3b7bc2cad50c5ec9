"""Errors against the hyperparameters of the reconstruction (Figures S5 and S6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from nesf_studies.figures.style import ICSG3D, NESF, ORACLE, SECOND, subplots

if TYPE_CHECKING:
    from pandas import DataFrame

HYPERPARAMETERS = {
    "grid_interval": "global grid interval, Å",
    "iterations": "iterations",
    "score_threshold": "score threshold, Å",
    "nms_radius": "suppression radius, Å",
    "min_particles": "fewest particles of an atom",
    "species_interval": "local grid interval, Å",
    "species_range": "local grid range, Å",
}
PANELS = {
    "position_error_actual_angstrom": "position error (actual), Å",
    "species_error_actual_percent": "species error (actual), %",
    "number_of_atoms_error_percent": "number-of-atoms error, %",
}
LOGARITHMIC = ("grid_interval", "iterations", "score_threshold", "nms_radius", "min_particles")


def sensitivity_curves(curves: Mapping[str, DataFrame], *, title: str = "") -> Figure:
    """A row of panels a hyperparameter, a column an error, as in Figures S5 and S6; the default is a dashed line.

    Args:
        curves: label to the rows of `nesf_studies.analysis.sensitivity` that it shows; «true fields» in the label's colour of the oracle.
        title: dataset, split, number of crystals and model.
    """
    shown = [name for name in HYPERPARAMETERS if any((table["hyperparameter"] == name).any() for table in curves.values())]
    figure, axes = subplots(len(PANELS), 8.6, 1.0 + 1.6 * len(shown), n_rows=len(shown))
    others = iter((NESF, SECOND, ICSG3D, "#CC79A7"))
    colours = {label: ORACLE if "true fields" in label else next(others, "black") for label in curves}
    for row, name in enumerate(shown):
        for column, (error, label) in enumerate(PANELS.items()):
            ax = axes[row * len(PANELS) + column]
            for curve, table in curves.items():
                part = table[table["hyperparameter"] == name].sort_values("value")
                ax.plot(part["value"], part[error], color=colours[curve], marker="os^D"[list(curves).index(curve) % 4], markersize=4, label=curve)
                for default in part.loc[part["is_default"], "value"][:1]:
                    ax.axvline(default, color="black", linestyle="--", linewidth=0.8)
            if name in LOGARITHMIC:
                values = sorted({float(v) for table in curves.values() for v in table.loc[table["hyperparameter"] == name, "value"]})
                ax.set_xscale("log")
                few = values if len(values) < 7 else values[:: 2 if len(values) < 9 else 3]
                ax.set_xticks(few, [f"{v:g}" for v in few])
                ax.xaxis.set_minor_formatter(NullFormatter())
                ax.tick_params(axis="x", which="minor", length=0)
            ax.set_ylim(bottom=0, top=max(ax.get_ylim()[1], 1e-3))
            ax.set_xlabel(HYPERPARAMETERS[name], fontsize=9)
            ax.tick_params(labelsize=8)
            if row == 0:
                ax.set_title(label, fontsize=10)
    if len(curves) > 1:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(curves), frameon=False)
    figure.suptitle(title)
    return figure
