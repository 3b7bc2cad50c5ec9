"""Colours, elements' colours, axes, and how a figure is written.

Fixed, colour-blind safe colours (Okabe and Ito): NeSF, ICSG3D, oracle, trivial predictors (grey),
the paper's values as hollow markers. Elements have Jmol's colours, as in the 3-D views.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase.data import chemical_symbols
from ase.data.colors import jmol_colors
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nesf.files import write_atomically

NESF, ICSG3D, ORACLE, TRIVIAL, SECOND = "#0072B2", "#D55E00", "#009E73", "#999999", "#E69F00"
DRAWN = {
    "nesf": "NeSF",
    "icsg3d": "ICSG3D",
    "icsg3d-as-published": "ICSG3D",
    "icsg3d-repaired": "ICSG3D repaired",
    "copy": "copy",
    "oracle": "oracle",
}
METHOD_COLOURS = {
    "nesf": NESF,
    "icsg3d-as-published": ICSG3D,
    "icsg3d-repaired": ICSG3D,
    "oracle": ORACLE,
    "copy": TRIVIAL,
    "constant": TRIVIAL,
}


def subplots(
    n_columns: int, width: float, height: float, n_rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """Return a figure (size in inches) and its axes, row by row, without top and right spines."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def element_colour(z: int) -> str:
    """Return Jmol's colour of an element as `#rrggbb`; pictures, 3-D views and legends share it."""
    return "#" + "".join(f"{round(255 * c):02x}" for c in jmol_colors[z])


def element_colours(numbers: Iterable[int]) -> list[str]:
    """Return Jmol's colours of atomic numbers."""
    return [element_colour(z) for z in numbers]


def element_handles(numbers: Iterable[int]) -> list[Line2D]:
    """Return legend entries of elements: a dot in the element's colour and its symbol."""
    return [
        Line2D(
            [],
            [],
            color=element_colour(z),
            label=chemical_symbols[z],
            linestyle="",
            marker="o",
            markersize=9,
            markeredgecolor="black",
        )
        for z in numbers
    ]


def draw_species(ax: Axes, species: np.ndarray, present: np.ndarray, **options: Any) -> None:
    """Draw atomic numbers [n, m] in the colours of the elements `present` (ascending), 0 white."""
    colours = ListedColormap([element_colour(z) if z else "#ffffff" for z in present])
    ax.imshow(
        np.searchsorted(present, species),
        cmap=colours,
        vmin=-0.5,
        vmax=len(present) - 0.5,
        origin="lower",
        **options,
    )


def save(figure: Figure, path: Path, data: pd.DataFrame) -> list[Path]:
    """Write a figure as SVG and PNG and its data as CSV (path without suffix); return the paths."""
    made = [Path(f"{path}{suffix}") for suffix in (".svg", ".png", ".csv")]
    for file in made[:2]:
        buffer = io.BytesIO()
        figure.savefig(
            buffer,
            format=file.suffix[1:],
            dpi=150,
            metadata={"Date": None} if file.suffix == ".svg" else None,
        )
        write_atomically(file, buffer.getvalue())
    write_atomically(made[2], data.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    return made


def name_rows(axes: Sequence[Axes], names: Sequence[str]) -> None:
    """Give panels side by side a row per name, top to bottom; the first panel shows the names."""
    for i, ax in enumerate(axes):
        ax.set(
            yticks=range(len(names)),
            ylim=(len(names) - 0.5, -0.5),
            yticklabels=names if i == 0 else [],
        )
        ax.grid(alpha=0.3)
