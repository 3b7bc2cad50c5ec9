"""Colours, elements' colours, axes, and how a figure is written.

Fixed, colour-blind safe colours (Okabe and Ito): NeSF, ICSG3D, oracle, trivial predictors (grey), the paper's values as hollow markers.
Elements have Jmol's colours, as in the 3-D views.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nesf.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


NESF, ICSG3D, ORACLE, TRIVIAL, SECOND = "#0072B2", "#D55E00", "#009E73", "#999999", "#E69F00"
DRAWN = {
    "nesf": "NeSF",
    "icsg3d": "ICSG3D",
    "icsg3d-as-published": "ICSG3D",
    "icsg3d-repaired": "ICSG3D repaired",
    "copy": "copy",
    "oracle": "oracle",
}
METHOD_COLOURS = {"nesf": NESF, "icsg3d-as-published": ICSG3D, "icsg3d-repaired": ICSG3D, "oracle": ORACLE, "copy": TRIVIAL, "constant": TRIVIAL}


def subplots(n_columns: int, width: float, height: float, n_rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of a size in inches with axes in rows, in the house's style; row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def element_colour(z: int) -> str:
    """Jmol's colour of an element as `#rrggbb`; pictures, 3-D views and legends share it."""
    from ase.data.colors import jmol_colors

    return "#" + "".join(f"{round(255 * c):02x}" for c in jmol_colors[z])


def element_colours(numbers: np.ndarray | Sequence[int]) -> list[str]:
    """Jmol's colours of atomic numbers."""
    return [element_colour(int(z)) for z in numbers]


def element_handles(numbers: np.ndarray | Sequence[int]) -> list[Line2D]:
    """Legend entries of elements: a dot in the element's colour and its symbol."""
    from pymatgen.core import Element

    style = {"linestyle": "", "marker": "o", "markersize": 9, "markeredgecolor": "black"}
    return [Line2D([], [], color=element_colour(int(z)), label=Element.from_Z(int(z)).symbol, **style) for z in numbers]  # type: ignore[arg-type]


def save(figure: Figure, path: Path, data: DataFrame) -> list[Path]:
    """Write a figure as SVG and PNG and what it shows as CSV, beside each other; returns the three paths.

    Args:
        figure: the figure.
        path: without suffix.
        data: what it shows.
    """
    made = [Path(f"{path}{suffix}") for suffix in (".svg", ".png", ".csv")]
    for file in made[:2]:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=file.suffix[1:], dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
        write_atomically(file, buffer.getvalue())
    write_atomically(made[2], data.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    return made
