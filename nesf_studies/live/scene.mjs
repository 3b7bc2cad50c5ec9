// Crystals and particles on a canvas: one camera for all scenes, turned by the pointer or the arrow
// keys. The wheel and vertical swipes stay with the page.

import { fractional, times } from "./lattice.mjs";

const ON_FACE = 0.3; // Å: atoms this near a face are repeated on the opposite one

export const colour = (name, fallback) => getComputedStyle(document.documentElement).getPropertyValue(name).trim() || fallback;

function readable(hex) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#000" : "#fff";
}

export class Camera {
  constructor() {
    this.yaw = -0.45;
    this.pitch = 0.28;
    this.scenes = [];
  }

  turn(yaw, pitch) {
    this.yaw += yaw;
    this.pitch = Math.max(-1.57, Math.min(1.57, this.pitch + pitch));
    for (const scene of this.scenes) scene.draw();
  }
}

export class Scene {
  constructor(canvas, camera, elements) {
    Object.assign(this, { canvas, camera, elements, crystal: null, particles: null });
    camera.scenes.push(this);
    canvas.tabIndex = 0;
    canvas.style.touchAction = "pan-y";
    let last = null;
    canvas.addEventListener("pointerdown", (e) => {
      last = e;
      canvas.setPointerCapture(e.pointerId);
    });
    canvas.addEventListener("pointermove", (e) => {
      if (!last) return;
      camera.turn((e.clientX - last.clientX) * 0.01, (e.clientY - last.clientY) * 0.01);
      last = e;
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (last = null));
    canvas.addEventListener("keydown", (e) => {
      const turn = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] }[e.key];
      if (!turn) return;
      e.preventDefault();
      camera.turn(...turn);
    });
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  // crystal: null for an empty scene; frame: the crystal that decides centre and scale.
  show(crystal, frame = crystal) {
    this.crystal = crystal;
    this.frame = frame;
    this.atoms = crystal ? withImages(crystal) : [];
    this.draw();
  }

  // Positions [3 n] and how far each still moves in this step [n], Å.
  showParticles(positions, lengths) {
    this.particles = positions && { positions, lengths };
    this.draw();
  }

  draw() {
    const { canvas } = this, ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width) return;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const g = canvas.getContext("2d");
    g.scale(ratio, ratio);
    if (!this.frame) return;
    const centre = times([0.5, 0.5, 0.5], this.frame.lattice);
    const reach = Math.hypot(...times([1, 1, 1], this.frame.lattice).map((v, i) => v - centre[i])) + 0.9;
    const scale = Math.min(width, height) / 2 / Math.max(reach, 2.5);
    const { yaw, pitch } = this.camera, [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    // z upwards, seen from the front
    const project = (x, y, z) => {
      const [dx, dy, dz] = [x - centre[0], y - centre[1], z - centre[2]];
      const right = cy * dx - sy * dy, away = sy * dx + cy * dy;
      return [width / 2 + scale * right, height / 2 - scale * (cp * dz + sp * away), cp * away - sp * dz];
    };
    this.cell(g, project, (this.crystal ?? this.frame).lattice);
    if (this.particles) this.dots(g, project);
    const atoms = this.atoms.map((a) => ({ z: a.z, at: project(...a.place) })).sort((a, b) => b.at[2] - a.at[2]);
    for (const { z, at } of atoms) this.ball(g, at, this.elements[z], scale);
  }

  cell(g, project, lattice) {
    g.strokeStyle = colour("--pst-color-text-muted", "#666");
    g.lineWidth = 1;
    const corner = (k) => project(...times([k & 1, (k >> 1) & 1, (k >> 2) & 1], lattice));
    for (let k = 0; k < 8; k++)
      for (const bit of [1, 2, 4]) {
        if (k & bit) continue;
        const [a, b] = [corner(k), corner(k | bit)];
        g.beginPath();
        g.moveTo(a[0], a[1]);
        g.lineTo(b[0], b[1]);
        g.stroke();
      }
  }

  ball(g, [x, y], { symbol, colour: fill, radius }, scale) {
    const r = Math.max(8, 0.45 * radius * scale), shade = g.createRadialGradient(x - r / 3, y - r / 3, r / 6, x, y, r);
    shade.addColorStop(0, "#fff");
    shade.addColorStop(0.35, fill);
    shade.addColorStop(1, fill);
    g.beginPath();
    g.arc(x, y, r, 0, 7);
    g.fillStyle = shade;
    g.fill();
    g.strokeStyle = "#333";
    g.stroke();
    g.fillStyle = readable(fill);
    g.font = `600 ${Math.max(12, Math.min(15, r))}px system-ui, sans-serif`;
    g.textAlign = "center";
    g.textBaseline = "middle";
    g.fillText(symbol, x, y + 1);
  }

  dots(g, project) {
    const { positions, lengths } = this.particles, [near, far] = [colour("--pst-color-primary", "#0a7d91"), colour("--pst-color-text-muted", "#888")];
    for (let p = 0; p < lengths.length; p++) {
      const [x, y] = project(positions[3 * p], positions[3 * p + 1], positions[3 * p + 2]);
      const rests = lengths[p] < 0.05;
      g.globalAlpha = rests ? 0.9 : 0.35;
      g.fillStyle = rests ? near : far;
      const size = rests ? 5 : 1.6;
      g.fillRect(x - size / 2, y - size / 2, size, size);
    }
    g.globalAlpha = 1;
  }
}

// Atoms with their images on opposite faces, edges and corners.
function withImages(crystal) {
  const found = [];
  fractional(crystal.positions, crystal.lattice).forEach((f, i) => {
    const shifts = f.map((v, x) => {
      const border = ON_FACE / Math.hypot(...crystal.lattice[x]);
      return [0, ...(Math.abs(v) < border ? [1] : []), ...(Math.abs(v - 1) < border ? [-1] : [])];
    });
    for (const a of shifts[0]) for (const b of shifts[1]) for (const c of shifts[2])
      found.push({ z: crystal.numbers[i], place: times([f[0] + a, f[1] + b, f[2] + c], crystal.lattice) });
  });
  return found;
}
