"""Errors against the number of atoms in the cell (Figure 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from nesf_studies.figures.style import DRAWN, METHOD_COLOURS, NESF, subplots

if TYPE_CHECKING:
    from pandas import DataFrame

_MARKERS = {"nesf": "o", "copy": "s", "oracle": "^"}


def errors_by_atoms(tables: Mapping[str, Mapping[str, DataFrame]], errors: Mapping[str, str]) -> Figure:
    """Figure 4: a column a dataset, a row an error; medians (points) and 68 % ranges (bands, or bars where there is one class) of each method.

    Args:
        tables: title of the dataset to method to the table of `nesf_studies.analysis.errors.by_number_of_atoms`; classes that are not `shown` are left out.
        errors: error to the label of its row, with the unit.
    """
    figure, axes = subplots(len(tables), 4.6 * len(tables), 2.3 * len(errors) + 0.6, n_rows=len(errors))
    handles = {}
    for row, (error, label) in enumerate(errors.items()):
        for column, (title, methods) in enumerate(tables.items()):
            ax = axes[row * len(tables) + column]
            numbers = sorted({int(n) for table in methods.values() for n in table[table["shown"]]["n_atoms"]})
            place = {n: i for i, n in enumerate(numbers)}  # evenly spaced: the small numbers of atoms are the frequent ones
            for k, (method, table) in enumerate(methods.items()):
                part = table[(table["error"] == error) & table["shown"]].sort_values("n_atoms")
                x = np.array([place[n] for n in part["n_atoms"]]) + 0.07 * (k - (len(methods) - 1) / 2)
                colour, marker = METHOD_COLOURS.get(method, NESF), _MARKERS.get(method, "D")
                low, middle, high = (part[name].to_numpy(float) for name in ("low", "median", "high"))
                if len(part) > 1:
                    ax.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
                ax.vlines(x, low, high, color=colour, linewidth=1)
                (handles[method],) = ax.plot(x, middle, marker=marker, color=colour, markersize=5, linewidth=1, label=DRAWN.get(method, method))
            if error == "n_atoms_difference":
                ax.axhline(0, color="black", linewidth=0.6, zorder=0)
                low, high = ax.get_ylim()
                ax.set_ylim(min(low, -1.2), max(high, 1.2))
            else:
                ax.set_ylim(bottom=-0.03 * ax.get_ylim()[1])
            ax.set_xticks(range(len(numbers)), [str(n) for n in numbers])
            if len(numbers) == 1:
                ax.set_xlim(-1, 1)
            ax.grid(axis="y", alpha=0.3)
            ax.set_ylabel(label if column == 0 else "")
            if row == 0:
                ax.set_title(title, fontsize="medium")
            if row == len(errors) - 1:
                ax.set_xlabel("atoms in the cell")
    figure.legend(handles=list(handles.values()), loc="outside upper center", ncols=len(handles), frameon=False)
    return figure
