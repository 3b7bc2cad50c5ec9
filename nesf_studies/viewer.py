"""Crystals in pages and notebooks: pictures, and over them 3-D views where the browser can.

3Dmol.js, which draws, stands in the book, so a page asks the network for nothing; `script` says
where the page finds it. Where it cannot be loaded (a notebook opened outside the book, a browser
without WebGL) pictures stay. `crystals.js` is written into each cell, so that a cell works
anywhere.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
import textwrap
import uuid
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import HTML
from matplotlib.figure import Figure
from PIL import Image
from pymatgen.core import Structure

from nesf_studies.crystals import draw_crystal, with_border_images
from nesf_studies.style import (
    SMALLEST_TEXT,
    element_colour,
    element_handles,
    subplots,
    subscripts,
)

LIBRARY = "../vendor/3Dmol-min.js"  # relative to a page of the book made from notebooks/


def picture(structure: Structure, *, dpi: int = 80) -> bytes:
    """Return a picture of the unit cell as a PNG file."""
    # not pyplot's: a notebook would show it a second time
    figure = Figure(figsize=(4, 3.6), dpi=dpi)
    letters = SMALLEST_TEXT * 72 / dpi
    draw_crystal(figure.add_axes((0, 0, 1, 1)), structure, letters=letters)
    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer)
    # some dozens of colours are enough for discs and letters, in a third of the bytes
    Image.open(buffer).convert("RGB").quantize(64).save(small, "PNG", optimize=True)
    return small.getvalue()


def picture_of(structures: Sequence[Structure], form: str) -> bytes:
    """Return a picture of unit cells, at most four in a row, as a PNG or SVG file.

    Each has its id and formula above it, and there is one legend of the elements.
    """
    n = len(structures)
    columns = min(n, 4)
    rows = -(-n // columns)
    figure, axes = subplots(columns, 3 * columns, 3 * rows + 0.6, n_rows=rows)
    for ax, structure in itertools.zip_longest(axes, structures):
        if structure is None:
            ax.set_axis_off()
            continue
        draw_crystal(ax, structure)
        ax.set_title(textwrap.fill(title_of(structure), 26, max_lines=3, placeholder="…"))
    numbers = sorted({site.specie.Z for structure in structures for site in structure})
    figure.legend(
        handles=element_handles(numbers), loc="outside lower center", ncols=12, frameon=False
    )
    buffer = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else None
    figure.savefig(buffer, format=form, dpi=150, metadata=metadata)
    return buffer.getvalue()


def standalone(structures: Sequence[Structure]) -> str:
    """Return a page of its own with views of crystals, which asks the network for nothing.

    3Dmol.js is written into it, if this is a clone of the repository; else pictures are shown.
    """
    vendored = Path(__file__).resolve().parents[1] / "book" / "_extra" / "vendor" / "3Dmol-min.js"
    code = vendored.read_bytes() if vendored.exists() else b""
    script = f"data:text/javascript;base64,{base64.b64encode(code).decode()}"
    titles = [title_of(s) for s in structures]
    body = crystal_view(*structures, titles=titles, script=script).data
    return f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>nesf view</title></head>\n<body>{body}</body></html>\n'


def crystal_view(*structures: Structure, titles: Sequence[str] = (), script: str = LIBRARY) -> HTML:
    """Show crystals beside each other: title (by default the formula), view and elements."""
    identifier = _identifier("crystal")
    crystals = [
        _crystal(title, s)
        for title, s in zip(titles or map(_formula, structures), structures, strict=True)
    ]
    panels = "".join(
        _panel(f"{identifier}-{i}", crystal, width=160) for i, crystal in enumerate(crystals)
    )
    markup = f'<div style="display:flex;flex-wrap:wrap;gap:1em">{panels}</div>'
    return _view(markup, "crystals", identifier, script, [crystal["scene"] for crystal in crystals])


def reconstruction_view(actual: Structure, detected: Structure, *, script: str = LIBRARY) -> HTML:
    """Show a crystal before and after reconstruction; without sites where nothing was detected."""
    titles = [
        f"{when}: {_formula(s)}, {len(s)} atom{'s' * (len(s) != 1)}"
        for when, s in (("before", actual), ("after", detected))
    ]
    return crystal_view(actual, detected, titles=titles, script=script)


def crystal_slider(
    structures: Sequence[Structure], titles: Sequence[str], *, script: str = LIBRARY
) -> HTML:
    """Show crystals one after the other in one 3-D view, at the same scale, with a slider.

    Without 3-D there is a row of up to five pictures, evenly spaced, and the slider changes the
    title alone.
    """
    identifier, scenes = _identifier("path"), [_scene(s) for s in structures]
    titles = [subscripts(title) for title in titles]
    colours = {name: colour for scene in scenes for name, colour in scene["colours"].items()}
    still = dict.fromkeys(
        round(i) for i in np.linspace(0, len(structures) - 1, min(5, len(structures))).tolist()
    )
    row = "".join(
        f'<img style="width:{95 // len(still)}%" alt="frame {i}: {html.escape(titles[i])}" src="{_data_url(picture(structures[i], dpi=40))}">'
        for i in still
    )
    markup = (
        f'<figure style="margin:0;text-align:center"><figcaption id="{identifier}-text">{html.escape(titles[0])}</figcaption>'
        f'<div id="{identifier}" data-name="crystals one after the other" style="position:relative;width:100%">{row}</div>'
        f'<input id="{identifier}-slider" type="range" min="0" max="{len(scenes) - 1}" value="0" autocomplete="off" style="width:80%" aria-label="frame">'
        f"<div>{colour_legend(colours)}</div></figure>"
    )
    largest = max(range(len(structures)), key=lambda i: structures[i].volume)
    return _view(markup, "slider", identifier, script, scenes, list(titles), largest)


def captioned_view(view: HTML, caption: str) -> HTML:
    """Show a view with a caption; in the book it is a numbered figure."""
    said = html.escape(caption)
    return HTML(f'<div data-caption="{said}">{view.data}<figcaption>{said}</figcaption></div>')


def crystal_choice(
    rows: Mapping[str, Sequence[Structure | None]],
    titles: Mapping[str, Sequence[str]],
    *,
    script: str = LIBRARY,
) -> HTML:
    """Show the crystals of one example at a time, chosen from a list.

    Browsers draw only some 16 views on a page. `rows` and `titles` have the name of an example and
    its crystals (None where there is none to draw) or the texts above them, the same number in
    each.
    """
    identifier = _identifier("choice")
    content = [
        [_crystal(title, s, dpi=50) for title, s in zip(titles[name], structures, strict=True)]
        for name, structures in rows.items()
    ]
    options = "".join(
        f'<option value="{i}">{html.escape(name)}</option>' for i, name in enumerate(rows)
    )
    caption = "min-height:4em;font-size:.85em"
    panels = "".join(
        _panel(f"{identifier}-{j}", crystal, width=130, caption=caption)
        for j, crystal in enumerate(content[0])
    )
    markup = (
        f'<label>example: <select id="{identifier}" autocomplete="off">{options}</select></label>'
        f'<div style="display:flex;flex-wrap:wrap;gap:1em">{panels}</div>'
    )
    return _view(markup, "choice", identifier, script, content)


def picture_slider(images: Sequence[bytes], titles: Sequence[str], *, start: int = 0) -> HTML:
    """Show PNG files of one size one after the other, by a slider or played; else the first one."""
    identifier, encoded = (
        _identifier("pictures"),
        [base64.b64encode(image).decode() for image in images],
    )
    markup = (
        f'<figure style="margin:0;text-align:center"><figcaption id="{identifier}-text">{html.escape(titles[start])}</figcaption>'
        f'<img id="{identifier}" alt="{html.escape(titles[start])}" style="width:380px;max-width:100%" src="{_data_url(images[start])}">'
        f'<div><button id="{identifier}-play" type="button">play</button> <input id="{identifier}-slider" type="range" min="0" max="{len(images) - 1}" '
        f'value="{start}" autocomplete="off" style="width:253px;vertical-align:middle" aria-label="picture"></div></figure>'
    )
    return _view(markup, "pictures", identifier, encoded, list(titles), 400)


def points_view(
    coordinates: np.ndarray,
    texts: Sequence[str],
    colours: Mapping[str, Sequence[str]],
    *,
    legends: Mapping[str, str] | None = None,
) -> HTML:
    """Show points of a plane that say what they are under the pointer, coloured as one chooses.

    The `coordinates` [n, 2] have any unit. `colours` has the n colours `#rrggbb` of each colouring,
    the first is shown; `legends` what they mean, in HTML.
    """
    identifier, size, margin = _identifier("points"), np.array([640, 480]), 10  # pixels
    low, high = coordinates.min(0), coordinates.max(0)
    unit = (coordinates - low) / np.where(high > low, high - low, 1)
    unit[:, 1] = 1 - unit[:, 1]
    places = (margin + unit * (size - 2 * margin)).round(1).tolist()
    points = [[*place, subscripts(text)] for place, text in zip(places, texts, strict=True)]
    choices = "".join(
        f'<option value="{html.escape(name)}">{html.escape(name)}</option>' for name in colours
    )
    meanings = "".join(
        f"<div>{html.escape(name)}: {legend}</div>" for name, legend in (legends or {}).items()
    )
    markup = (
        f'<figure style="margin:0"><label>colour: <select id="{identifier}-colour" autocomplete="off">{choices}</select></label>'
        f'<svg id="{identifier}" viewBox="0 0 640 480" tabindex="0" role="application" '
        f'aria-label="{len(points)} points of a plane; the arrow keys go from one to the next" style="width:100%;max-width:640px;display:block;border:1px solid #ccc;background:white"></svg>'
        f'<div id="{identifier}-text" aria-live="polite" style="min-height:1.5em">put the pointer on a point</div><div style="font-size:.85em">{meanings}</div></figure>'
    )
    return _view(
        markup, "points", identifier, points, {name: list(of) for name, of in colours.items()}
    )


def colour_legend(colours: Mapping[str, str]) -> str:
    """Return names with their colours as a line of HTML."""
    dot = "display:inline-block;width:.8em;height:.8em;border-radius:50%;border:1px solid #888;margin:0 .3em 0 .8em"
    return "".join(
        f'<span style="white-space:nowrap"><span style="{dot};background:{colour}"></span>{html.escape(name)}</span> '
        for name, colour in colours.items()
    )


def _view(markup: str, function: str, *arguments: Any) -> HTML:
    """Return HTML with the script and a call of one of its functions, in a scope of their own."""
    lines = (
        line.strip()
        for line in resources.files("nesf_studies")
        .joinpath("crystals.js")
        .read_text(encoding="utf-8")
        .splitlines()
    )
    script = "\n".join(line for line in lines if not line.startswith("//"))
    values = ",".join(
        json.dumps(a, separators=(",", ":"), ensure_ascii=False).replace("</", "<\\/")
        for a in arguments
    )
    return HTML(f"{markup}<script>{{\n{script}\nnesfViews.{function}({values});\n}}</script>")


def _identifier(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex[:8]}"


def title_of(structure: Structure) -> str:
    """Return what stands above a crystal: its id, if it has one, and its formula."""
    name = structure.properties.get("id", "")
    return f"{name}: {_formula(structure)}" if name else _formula(structure)


def _formula(structure: Structure) -> str:
    return (
        subscripts(structure.composition.reduced_formula) if len(structure) else "nothing detected"
    )


def _data_url(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def _crystal(title: str, structure: Structure | None, dpi: int = 80) -> dict[str, Any]:
    """Return what a panel shows: title, elements, scene and picture, empty without a structure."""
    title = subscripts(title)
    if structure is None:
        return {"title": title, "legend": "–", "scene": None, "picture": ""}
    scene = _scene(structure)
    return {
        "title": title,
        "legend": colour_legend(scene["colours"]),
        "scene": scene,
        "picture": _data_url(picture(structure, dpi=dpi)),
    }


def _panel(identifier: str, crystal: Mapping[str, Any], *, width: int, caption: str = "") -> str:
    """Return the place of a `_crystal` in a row, at least `width` pixels wide."""
    heading = html.escape(crystal["title"])
    hidden = "" if crystal["picture"] else ";visibility:hidden"
    return (
        f'<figure style="flex:1 1 {width}px;min-width:{width}px;margin:0;text-align:center">'
        f'<figcaption id="{identifier}-title" style="{caption}">{heading}</figcaption><div id="{identifier}" data-name="{heading}" style="position:relative;width:100%;height:300px">'
        f'<img style="max-height:100%;margin:auto;display:block{hidden}" alt="unit cell, {heading}" src="{crystal["picture"]}"></div>'
        f'<div id="{identifier}-legend">{crystal["legend"]}</div></figure>'
    )


def _scene(structure: Structure) -> dict[str, Any]:
    """Return a unit cell for 3Dmol.js: atoms as XYZ, its vectors, and the elements' colours."""
    atoms = with_border_images(structure)
    xyz = [
        f"{symbol} {x:.3f} {y:.3f} {z:.3f}"
        for symbol, (x, y, z) in zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)
    ]
    species = sorted({site.specie for site in structure}, key=lambda e: e.X)
    cell = structure.lattice.matrix.round(3).tolist()
    return {
        "xyz": "\n".join([str(len(xyz)), "", *xyz]),
        "cell": cell,
        "colours": {e.symbol: element_colour(e.Z) for e in species},
    }
