"""Colours, elements' colours, axes, and how a figure is written.

Fixed, colour-blind safe colours (Okabe and Ito): NeSF, ICSG3D, oracle, trivial predictors (grey),
the paper's values as hollow markers. Elements have Jmol's colours, as in the 3-D views, and their
symbols beside or on them, since some colours are alike to some eyes. Pages show figures as SVG: the
ink is the theme's, and text stays text.
"""

from __future__ import annotations

import hashlib
import html
import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from ase.data import chemical_symbols
from ase.data.colors import jmol_colors
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.collections import Collection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

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


SMALLEST_TEXT = 12  # px, as a page displays it
LEAST = 9.5  # points; smaller text of a figure is drawn in this size
WIDEST = 8.1  # inches: the column of a page
MANY = 400  # parts of a figure that are drawn as a picture in an SVG
# ink that does not follow the theme: text and edges on a coloured ground
DARK, LIGHT = "#010101", "#fefefe"
matplotlib.rcParams |= {
    "font.size": 11,
    "axes.titlesize": 11.5,
    "legend.fontsize": 10.5,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "nesf",
}
_FORMULA = re.compile(r"(?<![\w.\-/])((?:(?:[A-Z][a-z]?|\((?:[A-Z][a-z]?\d*)+\))\d*){2,})(?![\w/])")
_NO_FORMULA = {"PC1", "PC2"}  # principal components
_LOWERED = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def subscripts(text: str) -> str:
    """Write the numbers in chemical formulas of at least two elements as subscripts."""

    def lowered(match: re.Match[str]) -> str:
        known = all(name in chemical_symbols for name in re.findall(r"[A-Z][a-z]?", match[1]))
        return match[1].translate(_LOWERED) if known and match[1] not in _NO_FORMULA else match[1]

    return _FORMULA.sub(lowered, text)


class PageFigure(Figure):
    """A figure for pages: no text is too small, and clouds of points are pictures in an SVG.

    Thousands of shapes would make a page slow.
    """

    def draw(self, renderer: RendererBase) -> None:
        """Draw it."""
        for text in self.findobj(Text):
            text.set_fontsize(max(LEAST, text.get_fontsize()))
        clouds: list[tuple[Any, Any]] = [(c, c.get_offsets()) for c in self.findobj(Collection)]
        clouds += [(line, line.get_xydata()) for line in self.findobj(Line2D)]
        for part, places in clouds:
            if len(np.atleast_2d(places)) > MANY:
                part.set_rasterized(True)
        super().draw(renderer)


def use_svg() -> None:
    """Let a notebook show figures as SVG, from the next `%matplotlib inline` on."""
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    from matplotlib_inline.config import InlineBackend

    InlineBackend.instance(parent=shell).figure_formats = {"svg"}
    matplotlib.rcParams["figure.dpi"] = 120  # of what is a picture inside an SVG


_RAISED = str.maketrans("0123456789-−", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁻")
# text with a power, which matplotlib writes character by character
_POWER = re.compile(
    r"<!-- ([^>]*?\$[^>]*?) -->(\s*<g [^>]*>\s*<text[^>]*>\s*<tspan [^>]*>).*?</text>", re.DOTALL
)
_LINES = re.compile(r'<path d="[^"]*" ([^>]*style="fill: none[^"]*")/>(?:\s*<path d="[^"]*" \1/>)+')


def _plain_power(match: re.Match[str]) -> str:
    """Return text with simple powers as plain text of one size, other formulas as they are."""

    def raised(power: re.Match[str]) -> str:
        plain = set(power[1]) <= set("0123456789-−")
        return power[1].translate(_RAISED) if plain else f"^{power[1]}"

    text = re.sub(r"\\mathdefault\{(.*?\}?)\}(?=\$)", r"\1", match[1])
    text = re.sub(r"\^\{([^{}]*)\}", raised, text.replace(r"\times", "×")).replace("$", "")
    return match[0] if set("\\_{}") & set(text) else f"{match[2]}{text}</tspan></text>"


def _rounded(tag: re.Match[str]) -> str:
    """Return a tag with its coordinates to a tenth of a pixel."""
    number = r"(?<=[\s\",(])-?\d+\.\d{2,}(?=[\s\",)])"
    return re.sub(number, lambda m: f"{float(m[0]):.1f}", tag[0])


def inline_svg(svg: str, prefix: str, text: str) -> str:
    """Return matplotlib's SVG for a page: its ink is the theme's, its text the page's.

    Names that its parts refer to begin with `prefix`; `text` is what is read out. Its width is kept
    so large that no text is displayed smaller than `SMALLEST_TEXT`: where the page is narrower, the
    figure moves sideways in its frame.
    """
    svg = _POWER.sub(_plain_power, svg[svg.index("<svg") :])
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*xmlns(:\w+)?=\"[^\"]*\"", "", svg).replace("xlink:href", "href")
    used = set(re.findall(r"(?:url\(#|href=\"#)([\w-]+)", svg))
    svg = re.sub(
        r' id="([\w.-]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", svg
    )
    svg = re.sub(r"(url\(#|href=\"#)(?=[\w-])", rf"\g<1>{prefix}-", svg)
    svg = re.sub(r"font: ([\d.]+)px 'DejaVu Sans'[^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"; font-family: 'DejaVu Sans'[^;\"]*", "", svg)
    svg = svg.replace("#000000", "currentColor").replace("#ffffff", "var(--nesf-paper, white)")
    svg = re.sub(r">([^<>]+)</text>", lambda m: f">{subscripts(m[1])}</text>", svg)
    svg = _light(svg)
    opening, body = svg.split(">", 1)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', opening)
    assert box is not None
    width = float(box[1]) * 4 / 3  # px; the units are points
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: (?:\w+ )*([\d.]+)px", body)]
    least = float(box[1]) * SMALLEST_TEXT / min(sizes, default=SMALLEST_TEXT)
    width = max(width, least)
    return (
        f'<div class="nesf-frame"><svg class="nesf-plot" role="img" aria-label="{html.escape(text)}" {box[0]} '
        f'style="width:{width:.0f}px;max-width:100%;min-width:{least:.0f}px;height:auto">{body}</div>'
    )


def _light(svg: str) -> str:
    """Return an SVG with tenths of a point and with lines of one look in one path."""
    svg = re.sub(r"<[^>]*>", _rounded, svg)  # not the text between
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    return _LINES.sub(_one_path, svg)


def _one_path(match: re.Match[str]) -> str:
    shapes = " ".join(re.findall(r' d="([^"]*)', match[0]))
    return f'<path d="{shapes}" {match[1]}/>'


def captioned(
    figure: Figure,
    caption: str,
    *,
    table: pd.DataFrame | str | HTML | None = None,
    name: str = "",
    fold: str = "The numbers as a table",
) -> HTML:
    """Show a figure with its caption and, in a fold below it, the table of what it shows.

    In the book it is a numbered figure, and the caption is also what is read out.

    Args:
        figure: as of matplotlib.
        caption: plain text.
        table: a frame, or HTML.
        name: a label that the text refers to, as {numref}`name`.
        fold: what the fold is called.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    svg = buffer.getvalue().decode()
    label = f' data-name="{html.escape(name)}"' if name else ""
    prefix = f"f{hashlib.sha256((svg + caption).encode()).hexdigest()[:8]}"
    shown = (
        f'<div class="nesf-captioned" data-caption="{html.escape(caption)}"{label}>'
        f"{inline_svg(svg, prefix, caption)}<figcaption>{html.escape(caption)}</figcaption></div>"
    )
    return HTML(shown + ("" if table is None else folded(table, fold)))


def folded(content: pd.DataFrame | str | HTML, title: str) -> str:
    """Return a table (a frame, or HTML) in a fold, as HTML."""
    shown = content.data if isinstance(content, HTML) else content
    inside = shown if isinstance(shown, str) else shown.to_html(border=0)
    return f'<details class="nesf-fold"><summary>{html.escape(title)}</summary>{inside}</details>'


def subplots(
    n_columns: int, width: float, height: float, n_rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """Return a figure (size in inches) and its axes, row by row, without top and right spines.

    It is not wider than a page: panels of one row that have no room beside each other go on in the
    next row.
    """
    n_panels = n_columns * n_rows
    if n_rows == 1 and n_columns > 1 and width > 1.2 * WIDEST:
        n_rows = math.ceil(width / WIDEST)
        n_columns, width, height = (
            math.ceil(n_panels / n_rows),
            width * math.ceil(n_panels / n_rows) / n_panels,
            height * n_rows,
        )
    figure = PageFigure(figsize=(min(width, WIDEST), height), layout="constrained")
    axes = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    for ax in axes[n_panels:]:
        ax.remove()
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes[:n_panels]


def on_any_ground() -> dict[str, Any]:
    """Return options of a line that is seen on light and dark: dark, with a light rim."""
    return {"color": DARK, "path_effects": [withStroke(linewidth=2.6, foreground=LIGHT)]}


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


def ink_on(colour: str) -> str:
    """Return dark or light, whichever is read on a colour `#rrggbb`."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else LIGHT


class Symbol(Text):
    """An element's symbol on a disc; it is left out where the disc is too small for it."""

    radius = 0.0  # of the disc, in the units of the axes

    def draw(self, renderer: RendererBase) -> None:
        """Draw it."""
        edge, centre = np.asarray(self.get_transform().transform([(self.radius, 0), (0, 0)]))
        height: Any = renderer.points_to_pixels(float(self.get_fontsize()))
        if 2 * np.hypot(*(edge - centre)) > 1.25 * height:
            super().draw(renderer)


def draw_symbol(
    ax: Axes, place: tuple[float, float], radius: float, number: int, size: float
) -> None:
    """Write an element's symbol on a disc in its colour (size in points)."""
    symbol = Symbol(
        *place,
        chemical_symbols[number],
        color=ink_on(element_colour(number)),
        fontsize=size,
        ha="center",
        va="center_baseline",
        clip_on=True,
    )
    symbol.radius = radius
    ax.add_artist(symbol)


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


def _starts_a_row(ax: Axes, i: int) -> bool:
    place = ax.get_subplotspec()
    return i == 0 if place is None else bool(place.is_first_col())


def name_rows(axes: Sequence[Axes], names: Sequence[str]) -> None:
    """Give panels side by side a row per name, top to bottom; the leftmost show the names."""
    for i, ax in enumerate(axes):
        ax.set(
            yticks=range(len(names)),
            ylim=(len(names) - 0.5, -0.5),
            yticklabels=names if _starts_a_row(ax, i) else [],
        )
        ax.grid(alpha=0.3)
