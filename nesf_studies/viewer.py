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
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from nesf_studies.figures import draw_crystal, element_colour, with_border_images

if TYPE_CHECKING:
    from IPython.display import HTML
    from pymatgen.core import Structure

SCRIPT = "../vendor/3Dmol-min.js"  # relative to a page of the book made from notebooks/

# calls draw() once 3Dmol.js is there; it is loaded once a page
_LOAD = """ if(window.$3Dmol) return draw();
 if(!window.__3dmol) window.__3dmol=new Promise(function(ok){
  var d=window.define, s=document.createElement("script"); window.define=undefined; // beside require.js it would not set window.$3Dmol
  s.onload=s.onerror=function(){ if(d) window.define=d; ok(); }; s.src=scriptFile; document.head.appendChild(s); });
 window.__3dmol.then(draw);
"""

_DRAW = """<script>(function(){
 var el=document.getElementById("%(id)s"), scriptFile=%(script)s, scene=%(scene)s;
 function draw(){
  var g=document.createElement("canvas").getContext("webgl"); if(!g||!window.$3Dmol) return;
  el.innerHTML="";
  var v=$3Dmol.createViewer(el,{backgroundColor:"white"});
  v.addModel(scene.xyz,"xyz",{assignBonds:false});
  v.setStyle({},{sphere:{scale:0.32,colorscheme:{prop:"elem",map:scene.colours}}});
  scene.edges.forEach(function(e){v.addCylinder({start:e[0],end:e[1],radius:0.03,color:"#404040",fromCap:1,toCap:1});});
  v.rotate(-90,"vx"); v.rotate(-20,"vy"); v.rotate(10,"vx"); v.zoomTo(); v.zoom(0.95*Math.min(1,el.clientWidth/el.clientHeight)); v.render();
 }
%(load)s})();</script>"""

_SLIDE = """<script>(function(){
 var el=document.getElementById("%(id)s"), scriptFile=%(script)s, frames=%(frames)s, colours=%(colours)s;
 var slider=document.getElementById("%(id)s-slider"), text=document.getElementById("%(id)s-text"), viewer=null;
 function show(i){
  text.textContent=frames[i].title;
  if(!viewer) return;
  viewer.removeAllModels(); viewer.removeAllShapes();
  viewer.addModel(frames[i].xyz,"xyz",{assignBonds:false});
  viewer.setStyle({},{sphere:{scale:0.32,colorscheme:{prop:"elem",map:colours}}});
  for(var k=0;k<8;k++) for(var j=0;j<3;j++) if(!(k>>j&1)) // the twelve edges, corner to corner
   viewer.addCylinder({start:corner(frames[i].cell,k),end:corner(frames[i].cell,k|1<<j),radius:0.03,color:"#404040",fromCap:1,toCap:1});
  viewer.render();
 }
 function corner(m,k){
  function at(x){ return (k&1)*m[0][x]+(k>>1&1)*m[1][x]+(k>>2&1)*m[2][x]; }
  return {x:at(0),y:at(1),z:at(2)};
 }
 slider.addEventListener("input",function(){ show(+slider.value); });
 function draw(){
  var g=document.createElement("canvas").getContext("webgl"); if(!g||!window.$3Dmol) return;
  el.innerHTML=""; el.style.height="300px"; viewer=$3Dmol.createViewer(el,{backgroundColor:"white"});
  show(%(largest)d); // the largest cell decides how far away the camera is
  viewer.rotate(-90,"vx"); viewer.rotate(-20,"vy"); viewer.rotate(10,"vx"); viewer.zoomTo();
  viewer.zoom(0.95*Math.min(1,el.clientWidth/el.clientHeight));
  show(+slider.value);
 }
%(load)s})();</script>"""

_CHOOSE = """<script>(function(){
 var scriptFile=%(script)s, rows=%(rows)s, choice=document.getElementById("%(id)s"), viewers=[];
 function show(){
  rows[choice.value].forEach(function(c,j){
   document.getElementById("%(id)s-title"+j).innerHTML=c.title; document.getElementById("%(id)s-legend"+j).innerHTML=c.legend;
   var el=document.getElementById("%(id)s-"+j), v=viewers[j];
   if(!v){ var i=el.querySelector("img"); i.src=c.picture; i.style.visibility=c.picture?"visible":"hidden"; return; }
   v.removeAllModels(); v.removeAllShapes();
   if(c.scene){
    v.addModel(c.scene.xyz,"xyz",{assignBonds:false});
    v.setStyle({},{sphere:{scale:0.32,colorscheme:{prop:"elem",map:c.scene.colours}}});
    c.scene.edges.forEach(function(e){v.addCylinder({start:e[0],end:e[1],radius:0.03,color:"#404040",fromCap:1,toCap:1});});
    v.setView([0,0,0,0,0,0,0,1]); v.rotate(-90,"vx"); v.rotate(-20,"vy"); v.rotate(10,"vx"); v.zoomTo();
    v.zoom(0.95*Math.min(1,el.clientWidth/el.clientHeight));
   }
   v.render();
  });
 }
 choice.addEventListener("change",show);
 function draw(){
  var g=document.createElement("canvas").getContext("webgl"); if(!g||!window.$3Dmol) return;
  var lose=g.getExtension("WEBGL_lose_context"); if(lose) lose.loseContext(); // it would count among the views that a browser allows
  rows[0].forEach(function(c,j){
   if(!rows.some(function(r){return r[j].scene;})) return;
   var el=document.getElementById("%(id)s-"+j); el.innerHTML=""; viewers[j]=$3Dmol.createViewer(el,{backgroundColor:"white"}); });
  show();
 }
%(load)s})();</script>"""

_PLAY = """<script>(function(){
 var images=%(images)s, titles=%(titles)s, timer=null;
 var image=document.getElementById("%(id)s"), text=document.getElementById("%(id)s-text");
 var slider=document.getElementById("%(id)s-slider"), button=document.getElementById("%(id)s-play");
 function show(){ image.src="data:image/png;base64,"+images[slider.value]; text.textContent=titles[slider.value]; }
 function stop(){ clearInterval(timer); timer=null; button.textContent="play"; }
 function go(){
  if(+slider.value===images.length-1) slider.value=-1;
  button.textContent="stop";
  timer=setInterval(function(){ slider.value=+slider.value+1; show(); if(+slider.value===images.length-1) stop(); },%(pause)d);
 }
 slider.addEventListener("input",function(){ stop(); show(); });
 button.addEventListener("click",function(){ if(timer) stop(); else go(); });
})();</script>"""

_POINTS = """<script>(function(){
 var svg=document.getElementById("%(id)s"), text=document.getElementById("%(id)s-text"), choice=document.getElementById("%(id)s-colour");
 var points=%(points)s, colours=%(colours)s, shown=null;
 var circles=points.map(function(p,i){
  var c=document.createElementNS("http://www.w3.org/2000/svg","circle");
  c.setAttribute("cx",p[0]); c.setAttribute("cy",p[1]); c.setAttribute("r",3.2); c.setAttribute("data-i",i); svg.appendChild(c); return c; });
 function paint(){ circles.forEach(function(c,i){ c.setAttribute("fill",colours[choice.value][i]); }); }
 svg.addEventListener("mouseover",function(e){
  var i=e.target.getAttribute("data-i"); if(i===null) return;
  if(shown){ shown.removeAttribute("stroke"); shown.setAttribute("r",3.2); }
  shown=e.target; shown.setAttribute("stroke","black"); shown.setAttribute("r",5.5); text.textContent=points[i][2]; });
 choice.addEventListener("change",paint); paint();
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


def crystal_slider(structures: Sequence[Structure], titles: Sequence[str], *, pictures: int = 5, script: str = SCRIPT) -> HTML:
    """Crystals one after the other in one 3-D view, with a slider; without 3-D a row of pictures, and the slider changes the title alone.

    Args:
        structures: at least one frame, all drawn at the same scale from the same side.
        titles: text above each frame.
        pictures: how many frames, evenly spaced, the row shows.
        script: where the page finds 3Dmol-min.js.
    """
    from IPython.display import HTML

    scenes = [_scene(s) for s in structures]
    frames = [
        {"xyz": scene["xyz"], "cell": structure.lattice.matrix.round(3).tolist(), "title": title}
        for structure, scene, title in zip(structures, scenes, titles, strict=True)
    ]
    colours = {name: colour for scene in scenes for name, colour in scene["colours"].items()}
    identifier = f"path-{uuid.uuid4().hex[:8]}"
    still = dict.fromkeys(round(i) for i in np.linspace(0, len(structures) - 1, min(pictures, len(structures))).tolist())
    row = "".join(
        f'<img style="width:{95 // len(still)}%" alt="frame {i}: {html.escape(titles[i])}" '
        f'src="data:image/png;base64,{base64.b64encode(picture(structures[i], dpi=40)).decode()}">'
        for i in still
    )
    values = {
        "id": identifier,
        "frames": json.dumps(frames, separators=(",", ":")).replace("</", "<\\/"),
        "colours": json.dumps(colours),
        "largest": max(range(len(structures)), key=lambda i: structures[i].volume),
        "script": json.dumps(script),
        "load": _LOAD,
    }
    return HTML(
        f'<figure style="margin:0;text-align:center"><figcaption id="{identifier}-text">{html.escape(titles[0])}</figcaption>'
        f'<div id="{identifier}" style="position:relative;width:100%">{row}</div>'
        f'<input id="{identifier}-slider" type="range" min="0" max="{len(frames) - 1}" value="0" autocomplete="off" style="width:80%" aria-label="frame">'
        f"<div>{_legend(colours)}</div></figure>{_SLIDE % values}"
    )


def crystal_choice(rows: Mapping[str, Sequence[Structure | None]], titles: Mapping[str, Sequence[str]], *, script: str = SCRIPT) -> HTML:
    """Crystals beside each other, of one example at a time that is chosen from a list: browsers draw only some 16 views on a page. Without 3-D: pictures.

    Args:
        rows: name of an example to its crystals, the same number in each; None where there is none to draw.
        titles: name of an example to the texts above its crystals.
        script: where the page finds 3Dmol-min.js.
    """
    from IPython.display import HTML

    identifier = f"choice-{uuid.uuid4().hex[:8]}"
    content: list[list[dict[str, Any]]] = []
    for name, structures in rows.items():
        content.append([])
        for structure, title in zip(structures, titles[name], strict=True):
            scene = _scene(structure) if structure is not None else None
            image = f"data:image/png;base64,{base64.b64encode(picture(structure, dpi=50)).decode()}" if structure is not None else ""
            legend = _legend(scene["colours"]) if scene else "–"
            content[-1].append({"title": html.escape(title), "legend": legend, "scene": scene, "picture": image})
    options = "".join(f'<option value="{i}">{html.escape(name)}</option>' for i, name in enumerate(rows))
    panels = "".join(
        f'<figure style="flex:1 1 130px;min-width:130px;margin:0;text-align:center"><figcaption id="{identifier}-title{j}" style="min-height:10em;font-size:.85em">{c["title"]}</figcaption>'
        f'<div id="{identifier}-{j}" style="position:relative;width:100%;height:300px">'
        f'<img style="max-height:100%;margin:auto;display:block{"" if c["picture"] else ";visibility:hidden"}" alt="unit cell" src="{c["picture"]}"></div>'
        f'<div id="{identifier}-legend{j}">{c["legend"]}</div></figure>'
        for j, c in enumerate(content[0])
    )
    values = {"id": identifier, "rows": json.dumps(content, separators=(",", ":")).replace("</", "<\\/"), "script": json.dumps(script), "load": _LOAD}
    return HTML(
        f'<label>example: <select id="{identifier}" autocomplete="off">{options}</select></label>'
        f'<div style="display:flex;flex-wrap:wrap;gap:1em">{panels}</div>{_CHOOSE % values}'
    )


def picture_slider(images: Sequence[bytes], titles: Sequence[str], *, seconds: float = 0.4, start: int = 0, width: int = 380) -> HTML:
    """Pictures one after the other, by a slider or played; without a script the first one.

    Args:
        images: PNG files of one size.
        titles: text above each.
        seconds: for which each is shown when played.
        start: the picture that is shown first.
        width: pixels.
    """
    from IPython.display import HTML

    identifier = f"pictures-{uuid.uuid4().hex[:8]}"
    encoded = [base64.b64encode(image).decode() for image in images]
    values = {
        "id": identifier,
        "images": json.dumps(encoded),
        "titles": json.dumps(list(titles), ensure_ascii=False).replace("</", "<\\/"),
        "pause": round(1000 * seconds),
    }
    return HTML(
        f'<figure style="margin:0;text-align:center"><figcaption id="{identifier}-text">{html.escape(titles[start])}</figcaption>'
        f'<img id="{identifier}" alt="{html.escape(titles[start])}" style="width:{width}px;max-width:100%" src="data:image/png;base64,{encoded[start]}">'
        f'<div><button id="{identifier}-play" type="button">play</button> <input id="{identifier}-slider" type="range" min="0" max="{len(images) - 1}" '
        f'value="{start}" autocomplete="off" style="width:{width * 2 // 3}px;vertical-align:middle" aria-label="picture"></div></figure>{_PLAY % values}'
    )


def points_view(
    coordinates: np.ndarray, texts: Sequence[str], colours: Mapping[str, Sequence[str]], *, legends: Mapping[str, str] | None = None, width: int = 640
) -> HTML:
    """Points of a plane that say what they are when the pointer is on them, coloured as one chooses.

    Args:
        coordinates: [n, 2], any unit.
        texts: n texts.
        colours: name of a colouring to n colours `#rrggbb`; the first is shown.
        legends: name of a colouring to what its colours mean (a line of text below).
        width: of the drawing, pixels; the height is three quarters of it.
    """
    from IPython.display import HTML

    height, margin = 3 * width // 4, 10
    low, high = coordinates.min(0), coordinates.max(0)
    unit = (coordinates - low) / np.where(high > low, high - low, 1)
    x, y = margin + unit[:, 0] * (width - 2 * margin), height - margin - unit[:, 1] * (height - 2 * margin)
    points = [[round(float(a), 1), round(float(b), 1), text] for a, b, text in zip(x, y, texts, strict=True)]
    identifier = f"points-{uuid.uuid4().hex[:8]}"
    choices = "".join(f'<option value="{html.escape(name)}">{html.escape(name)}</option>' for name in colours)
    values = {
        "id": identifier,
        "points": json.dumps(points, separators=(",", ":"), ensure_ascii=False).replace("</", "<\\/"),
        "colours": json.dumps({name: list(of) for name, of in colours.items()}, separators=(",", ":")),
    }
    meanings = "".join(f"<div>{html.escape(name)}: {legend}</div>" for name, legend in (legends or {}).items())
    return HTML(
        f'<figure style="margin:0"><label>colour: <select id="{identifier}-colour" autocomplete="off">{choices}</select></label>'
        f'<svg id="{identifier}" viewBox="0 0 {width} {height}" style="width:100%;max-width:{width}px;display:block;border:1px solid #ccc;background:white"></svg>'
        f'<div id="{identifier}-text" style="min-height:1.5em">put the pointer on a point</div><small>{meanings}</small></figure>{_POINTS % values}'
    )


def colour_legend(colours: Mapping[str, str]) -> str:
    """Names with their colours as HTML, for `points_view`."""
    return _legend({html.escape(name): colour for name, colour in colours.items()})


def _formula(structure: Structure) -> str:
    return structure.composition.reduced_formula if len(structure) else "nothing detected"


def _panel(structure: Structure, title: str, script: str) -> str:
    scene = _scene(structure)
    identifier = f"crystal-{uuid.uuid4().hex[:8]}"
    heading = html.escape(title)
    image = f'<img style="max-height:100%;margin:auto;display:block" alt="unit cell, {heading}" src="data:image/png;base64,{base64.b64encode(picture(structure)).decode()}">'
    values = {"id": identifier, "scene": json.dumps(scene), "script": json.dumps(script), "load": _LOAD}
    return (
        f'<figure style="flex:1 1 160px;min-width:160px;margin:0;text-align:center"><figcaption>{heading}</figcaption>'
        f'<div id="{identifier}" style="position:relative;width:100%;height:300px">{image}</div><div>{_legend(scene["colours"])}</div></figure>{_DRAW % values}'
    )


def _scene(structure: Structure) -> dict[str, Any]:
    """A unit cell for 3Dmol.js: its atoms as XYZ, its edges, and the colours of its elements."""
    atoms = with_border_images(structure)
    xyz = [f"{symbol} {x:.3f} {y:.3f} {z:.3f}" for symbol, (x, y, z) in zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)]
    corners = [np.array(c) for c in itertools.product((0, 1), repeat=3)]
    edges = [(a, b) for a in corners for b in corners if (b - a).sum() == 1 and (b >= a).all()]
    points = [[dict(zip("xyz", np.round(c @ structure.lattice.matrix, 3).tolist(), strict=True)) for c in edge] for edge in edges]
    species = sorted({site.specie for site in structure}, key=lambda e: e.X)
    return {"xyz": "\n".join([str(len(xyz)), "", *xyz]), "edges": points, "colours": {e.symbol: element_colour(e.Z) for e in species}}


def _legend(colours: Mapping[str, str]) -> str:
    return "".join(
        f'<span style="white-space:nowrap"><span style="display:inline-block;width:.8em;height:.8em;border-radius:50%;border:1px solid #888;background:{c};'
        f'margin:0 .3em 0 .8em"></span>{e}</span> '
        for e, c in colours.items()
    )
