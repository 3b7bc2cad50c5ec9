// The explorer: all crystals as points on a plane, coloured by one of several properties. The pointer
// or the arrow keys choose a point, a click or Enter takes it.

import { NOT_KNOWN, SPLITS } from "./atlas.mjs";
import { colour } from "./scene.mjs";
import { volume } from "./lattice.mjs";

const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];
const CLASSES = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#777777", "#BBBBBB"];
const SYSTEMS = ["cubic", "tetragonal", "orthorhombic", "hexagonal", "trigonal", "monoclinic", "triclinic", "unknown"];
const FROM = [[195, 0], [75, 1], [16, 2], [168, 3], [143, 4], [3, 5], [1, 6], [0, 7]]; // space group to system
const MARGIN = 14, REACH = 14; // pixels

function system(group) {
  if (group >= 75 && group < 143) return 1;
  return [...FROM].sort((a, b) => b[0] - a[0]).find(([first]) => group >= first)[1];
}

const ratio = (value) => Math.max(0, Math.min(1, value));

// Of each colouring: its label, the value of a crystal (null: not known), and how it is shown.
export function colourings(atlas) {
  const volumes = Float64Array.from({ length: atlas.n }, (_, i) => volume(atlas.crystal(i).lattice));
  const of = (values) => (i) => (values[i] === NOT_KNOWN ? null : values[i] / 1e4);
  const scale = (low, high, unit, get, logarithmic = false) => {
    const f = logarithmic ? Math.log : (v) => v;
    return { get, low, high, unit, place: (v) => ratio((f(v) - f(low)) / (f(high) - f(low))) };
  };
  const extremes = (values) => [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  return {
    "volume of the cell": scale(...extremes(volumes).map(Math.round), "Å³", (i) => volumes[i]),
    "number of atoms": scale(...extremes(atlas.counts), "atoms", (i) => atlas.counts[i], true),
    "space group (crystal system)": { names: SYSTEMS, get: (i) => system(atlas.groups[i]) },
    "error: position field at the true atoms": scale(0.001, 1, "Å", of(atlas.field), true),
    "error: decoded atoms (validation, test)": scale(0.001, 1, "Å", of(atlas.decoded), true),
    "split": { names: SPLITS, get: (i) => atlas.splits[i] },
  };
}

export class LatentMap {
  // onPoint(i): the point under the pointer or cursor, -1 for none; onTake(i): clicked.
  constructor(canvas, atlas, onPoint, onTake) {
    Object.assign(this, { canvas, atlas, onPoint, onTake, at: -1, found: [], ends: [] });
    canvas.addEventListener("pointermove", (e) => this.point(this.near(e.offsetX, e.offsetY)));
    canvas.addEventListener("click", (e) => {
      const i = this.near(e.offsetX, e.offsetY);
      if (i >= 0) {
        this.point(i);
        onTake(i);
      }
    });
    canvas.addEventListener("keydown", (e) => {
      const to = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
      if (to) {
        e.preventDefault();
        this.point(this.towards(...to));
      } else if ((e.key === "Enter" || e.key === " ") && this.at >= 0) {
        e.preventDefault();
        onTake(this.at);
      }
    });
    new ResizeObserver(() => this.redraw()).observe(canvas);
  }

  colourBy(colouring) {
    this.colouring = colouring;
    this.redraw();
  }

  place(i) {
    const { clientWidth: w, clientHeight: h } = this.canvas, { xy } = this.atlas;
    return [MARGIN + (xy[2 * i] / 65535) * (w - 2 * MARGIN), h - MARGIN - (xy[2 * i + 1] / 65535) * (h - 2 * MARGIN)];
  }

  near(x, y) {
    let best = REACH ** 2, index = -1;
    for (let i = 0; i < this.atlas.n; i++) {
      const [px, py] = this.place(i), d = (px - x) ** 2 + (py - y) ** 2;
      if (d < best) [best, index] = [d, i];
    }
    return index;
  }

  // The nearest point in a direction: distance, with what is off the direction counted three times.
  towards(dx, dy) {
    const [x, y] = this.at < 0 ? [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2] : this.place(this.at);
    let best = Infinity, index = this.at;
    for (let i = 0; i < this.atlas.n; i++) {
      const [px, py] = this.place(i), along = (px - x) * dx + (py - y) * dy;
      const across = Math.abs((px - x) * dy) + Math.abs((py - y) * dx);
      if (along > 0.5 && along + 3 * across < best) [best, index] = [along + 3 * across, i];
    }
    return index;
  }

  point(i) {
    if (i === this.at) return;
    this.at = i;
    this.draw();
    this.onPoint(i);
  }

  // Draw all points once; `draw` puts them under the marks.
  redraw() {
    const { canvas, atlas, colouring } = this, scale = window.devicePixelRatio || 1;
    if (!canvas.clientWidth || !canvas.clientHeight || !colouring) return;
    const picture = (this.picture = document.createElement("canvas"));
    picture.width = canvas.clientWidth * scale;
    picture.height = canvas.clientHeight * scale;
    const g = picture.getContext("2d"), empty = colour("--pst-color-border", "#bbb");
    g.scale(scale, scale);
    const shade = (value) => {
      if (value === null) return empty;
      if (colouring.names) return colouring.names === SPLITS ? CLASSES[[7, 1, 0][value]] : CLASSES[value];
      return VIRIDIS[Math.round(colouring.place(value) * (VIRIDIS.length - 1))];
    };
    const order = Array.from({ length: atlas.n }, (_, i) => i);
    const values = order.map(colouring.get); // what is not known lies below
    order.sort((a, b) => (values[a] !== null) - (values[b] !== null));
    for (const i of order) {
      const [x, y] = this.place(i);
      g.fillStyle = shade(values[i]);
      g.fillRect(x - 1.5, y - 1.5, 3, 3);
    }
    this.draw();
  }

  draw() {
    const { canvas, picture } = this;
    if (!picture?.width || !picture.height) return;
    canvas.width = picture.width;
    canvas.height = picture.height;
    const g = canvas.getContext("2d");
    g.drawImage(picture, 0, 0);
    g.scale(window.devicePixelRatio || 1, window.devicePixelRatio || 1);
    const text = colour("--pst-color-text-base", "#222");
    const ring = (i, radius, width, shade) => {
      g.beginPath();
      g.arc(...this.place(i), radius, 0, 7);
      g.lineWidth = width;
      g.strokeStyle = shade;
      g.stroke();
    };
    for (const i of this.found) ring(i, 5, 2, colour("--pst-color-danger", "#c00"));
    if (this.ends.length === 2) {
      g.beginPath();
      g.moveTo(...this.place(this.ends[0]));
      g.lineTo(...this.place(this.ends[1]));
      g.setLineDash([5, 4]);
      g.strokeStyle = text;
      g.stroke();
      g.setLineDash([]);
    }
    this.ends.forEach((i, k) => {
      ring(i, 6, 2.5, text);
      const [x, y] = this.place(i);
      g.fillStyle = text;
      g.font = "600 14px system-ui, sans-serif";
      g.fillText("AB"[k], x + 9, y - 6);
    });
    if (this.at >= 0) ring(this.at, 7, 2, text);
  }
}

export function legend(colouring) {
  if (colouring.names) {
    const used = colouring.names === SPLITS ? [7, 1, 0] : [...colouring.names.keys()];
    return colouring.names.map((name, i) => `<span class="nesf-key"><i style="background:${CLASSES[used[i]]}"></i>${name}</span>`).join(" ");
  }
  return `${colouring.low} <span class="nesf-bar" style="background:linear-gradient(90deg,${VIRIDIS})"></span> ${colouring.high} ${colouring.unit}${colouring.unit === "Å" ? "; grey: not decoded" : ""}`;
}
