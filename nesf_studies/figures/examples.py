"""Reconstruction examples (Figure 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from nesf.crystals import Crystals
from nesf_studies.figures.crystals import draw_crystal
from nesf_studies.figures.style import subplots

if TYPE_CHECKING:
    from pandas import DataFrame


def example_grid(table: DataFrame, crystals: Mapping[str, Crystals], names: Mapping[str, str], *, title: str = "") -> Figure:
    """Figure 3: a row an example, a column the true crystal or a method's reconstruction of it.

    Args:
        table: `examples` of `nesf_studies.analysis.examples`, a row per crystal and method.
        crystals: `actual` and methods to their crystals, in the order of the columns.
        names: of the columns.
        title: dataset, split, model.
    """
    rows = table.drop_duplicates("id")
    figure, axes = subplots(len(crystals), 2.2 * max(4, len(crystals)), 2.5 * len(rows), n_rows=len(rows))
    for i, row in enumerate(rows.itertuples()):
        for j, (method, batch) in enumerate(crystals.items()):
            ax = axes[i * len(crystals) + j]
            ax.set_axis_off()
            (structure,) = batch.select([batch.ids.index(row.id)]).to_structures()
            draw_crystal(ax, structure)
            ax.set_title(example_caption(table, row.id, method).replace("; ", "\n"), fontsize=8)
            if i == 0:
                ax.annotate(names[method], (0.5, 1), (0, 39), xycoords="axes fraction", textcoords="offset points", ha="center", fontweight="bold")
    figure.suptitle(title)
    return figure


def example_caption(table: DataFrame, identifier: str, method: str) -> str:
    """What stands above a crystal, in parts with semicolons between: for the true one its rank, for a method's its formula and errors."""
    row = table[(table["id"] == identifier) & ((table["method"] == method) | (method == "actual"))].iloc[0]
    if method == "actual":
        return f"{row['place']} ({row['rank']} of {row['of']}); {row['formula']}, {row['n_atoms_actual']} atoms; {row['id']}"
    if not row["n_atoms_detected"]:
        return "nothing detected"
    errors = f"position {row['position_error_actual_angstrom']:.3f} Å; species {row['species_error_actual_percent']:.0f} %"
    return f"{row['formula_detected']}, {row['n_atoms_detected']} atoms; {errors}"
