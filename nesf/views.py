"""Crystals in pages and notebooks: a picture, and over it a 3-D view where the browser can draw one.

The script that draws (3Dmol.js) stands in the book, so a page asks the network for nothing. Where it cannot be loaded (a notebook opened
outside the book, a browser without WebGL) the picture stays.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from nesf.figures import draw_crystal, element_colour, with_border_images

if TYPE_CHECKING:
    from IPython.display import HTML
    from pymatgen.core import Structure

SCRIPT = "../vendor/3Dmol-min.js"  # relative to a page of the book made from notebooks/

_DRAW = """<script>(function(){
 var el=document.getElementById("%(id)s"), scene=%(scene)s;
 function draw(){
  var g=document.createElement("canvas").getContext("webgl"); if(!g||!window.$3Dmol) return;
  el.innerHTML="";
  var v=$3Dmol.createViewer(el,{backgroundColor:"white"});
  v.addModel(scene.xyz,"xyz",{assignBonds:false});
  v.setStyle({},{sphere:{scale:0.32,colorscheme:{prop:"elem",map:scene.colours}}});
  scene.edges.forEach(function(e){v.addCylinder({start:e[0],end:e[1],radius:0.03,color:"#404040",fromCap:1,toCap:1});});
  v.rotate(-90,"vx"); v.rotate(-20,"vy"); v.rotate(10,"vx"); v.zoomTo(); v.zoom(0.95*Math.min(1,el.clientWidth/el.clientHeight)); v.render();
 }
 if(window.$3Dmol) return draw();
 if(!window.__3dmol) window.__3dmol=new Promise(function(ok){
  var d=window.define, s=document.createElement("script"); window.define=undefined; // beside require.js it would not set window.$3Dmol
  s.onload=s.onerror=function(){ if(d) window.define=d; ok(); }; s.src=%(script)s; document.head.appendChild(s); });
 window.__3dmol.then(draw);
})();</script>"""


def picture(structure: Structure, *, dpi: int = 80) -> bytes:
    """The unit cell as a PNG."""
    figure = Figure(figsize=(4, 3.6), dpi=dpi)  # not pyplot's: a notebook would show it a second time
    draw_crystal(figure.add_axes((0, 0, 1, 1)), structure)
    buffer = io.BytesIO()
    figure.savefig(buffer)
    return buffer.getvalue()


def crystal_view(*structures: Structure, titles: Sequence[str] = (), script: str = SCRIPT) -> HTML:
    """Crystals beside each other as HTML: 3-D where the browser can, else pictures; below each its elements with their colours.

    Args:
        structures: what to draw, all seen from the same side; one without sites shows an empty cell.
        titles: text above each; the formula by default.
        script: where the page finds 3Dmol-min.js.
    """
    from IPython.display import HTML

    titles = titles or [_formula(s) for s in structures]
    panels = [_panel(structure, title, script) for structure, title in zip(structures, titles, strict=True)]
    return HTML(f'<div style="display:flex;flex-wrap:wrap;gap:1em">{"".join(panels)}</div>')


def reconstruction_view(actual: Structure, detected: Structure, *, script: str = SCRIPT) -> HTML:
    """A crystal before and after reconstruction.

    Args:
        actual: the crystal that went into the encoder.
        detected: what the decoder gave; without sites where nothing was detected.
        script: where the page finds 3Dmol-min.js.
    """
    titles = [f"{when}: {_formula(s)}, {len(s)} atom{'s' * (len(s) != 1)}" for when, s in (("before", actual), ("after", detected))]
    return crystal_view(actual, detected, titles=titles, script=script)


def _formula(structure: Structure) -> str:
    return structure.composition.reduced_formula if len(structure) else "nothing detected"


def _panel(structure: Structure, title: str, script: str) -> str:
    atoms = with_border_images(structure)
    xyz = [f"{symbol} {x:.4f} {y:.4f} {z:.4f}" for symbol, (x, y, z) in zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)]
    corners = [np.array(c) for c in itertools.product((0, 1), repeat=3)]
    edges = [(a, b) for a in corners for b in corners if (b - a).sum() == 1 and (b >= a).all()]
    points = [[dict(zip("xyz", np.round(c @ structure.lattice.matrix, 4).tolist(), strict=True)) for c in edge] for edge in edges]
    species = sorted({site.specie for site in structure}, key=lambda e: e.X)
    colours = {e.symbol: element_colour(e.Z) for e in species}
    scene = {"xyz": "\n".join([str(len(xyz)), "", *xyz]), "edges": points, "colours": colours}
    identifier = f"crystal-{uuid.uuid4().hex[:8]}"
    heading = html.escape(title)
    dots = "".join(
        f'<span style="display:inline-block;width:.8em;height:.8em;border-radius:50%;border:1px solid #888;background:{c};margin:0 .3em 0 .8em"></span>{e}'
        for e, c in colours.items()
    )
    image = f'<img style="max-height:100%;margin:auto;display:block" alt="unit cell, {heading}" src="data:image/png;base64,{base64.b64encode(picture(structure)).decode()}">'
    values = {"id": identifier, "scene": json.dumps(scene), "script": json.dumps(script)}
    return (
        f'<figure style="flex:1 1 160px;min-width:160px;margin:0;text-align:center"><figcaption>{heading}</figcaption>'
        f'<div id="{identifier}" style="position:relative;width:100%;height:300px">{image}</div><div>{dots}</div></figure>{_DRAW % values}'
    )
