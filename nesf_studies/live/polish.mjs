// Atoms and cell moved until the encoder gives a latent vector (Levenberg-Marquardt), and the latent
// distance that is left: nesf/polishing.py in double precision, for one crystal, without the search
// among other numbers of atoms and elements (nesf/consistent.py).

import { scaledLattice } from "./lattice.mjs";

const LATTICE_WEIGHTS = [4e-10, 4e-10, 4e-10, 1e-6, 1e-6, 1e-6];

// Layers in evaluation with derivatives along T directions, in double precision.
class Mlp {
  constructor(model, prefix) {
    this.layers = [];
    for (let i = 0; model.tensors[`${prefix}.${i}.w`]; i++) {
      const [rows, columns] = model.tensors[`${prefix}.${i}.w`];
      const of = (part) => Float64Array.from(model.tensor(`${prefix}.${i}.${part}`));
      this.layers.push({ rows, columns, w: of("w"), b: of("b") });
    }
  }

  // x: [inputs], dx: [T, inputs] or null; returns [outputs] and [T, outputs].
  derive(x, dx) {
    const last = this.layers.length - 1;
    this.layers.forEach(({ rows, columns, w, b }, l) => {
      const product = (from, start, out) => {
        for (let i = 0; i < rows; i++) {
          const value = from[start + i];
          if (value === 0) continue;
          const row = i * columns;
          for (let j = 0; j < columns; j++) out[j] += value * w[row + j];
        }
      };
      const y = Float64Array.from(b);
      product(x, 0, y);
      if (dx) {
        const t = dx.length / rows, dy = new Float64Array(t * columns);
        for (let k = 0; k < t; k++) {
          const out = dy.subarray(k * columns, (k + 1) * columns);
          product(dx, k * rows, out);
          if (l < last) for (let j = 0; j < columns; j++) if (!(y[j] > 0)) out[j] = 0;
        }
        dx = dy;
      }
      if (l < last) for (let j = 0; j < columns; j++) if (!(y[j] > 0)) y[j] = 0;
      x = y;
    });
    return { x, dx };
  }
}

class Encoder {
  constructor(model) {
    this.counts = model.config.pooling === "max_mean_count";
    this.scaled = model.config.lattice_input === "scaled";
    for (const part of ["position", "lattice", "latent"]) this[part] = new Mlp(model, `encoder.${part}`);
    this.table = Float64Array.from(model.tensor("encoder.species"));
    this.width = model.tensors["encoder.species"][1];
  }

  // Latent vector of atoms [3 n] of species (indices) in a cell [6], and with `slopes` its derivatives
  // [3 n + 6, Z] along the atoms' coordinates and the cell.
  encode(positions, species, cell, slopes) {
    const n = species.length, f = this.width, axes = Float64Array.of(1, 0, 0, 0, 1, 0, 0, 0, 1);
    const atoms = species.map((s, a) => {
      const made = this.position.derive(positions.subarray(3 * a, 3 * a + 3), slopes ? axes : null);
      for (let j = 0; j < f; j++) made.x[j] += this.table[s * f + j];
      return made;
    });
    let diagonal = null;
    if (slopes) {
      diagonal = new Float64Array(36);
      for (let i = 0; i < 6; i++) diagonal[7 * i] = !this.scaled ? 1 : i < 3 ? 4 / cell[i] : 4;
    }
    const lattice = this.scaled
      ? this.lattice.derive(Float64Array.from(scaledLattice([...cell])), diagonal)
      : { x: cell, dx: diagonal };
    const pooled = this.counts ? 2 * f + 1 : f, size = pooled + lattice.x.length, t = 3 * n + 6;
    const input = new Float64Array(size), d = slopes ? new Float64Array(t * size) : null;
    for (let j = 0; j < f; j++) {
      let where = 0;
      atoms.forEach(({ x }, a) => x[j] > atoms[where].x[j] && (where = a));
      input[j] = atoms[where].x[j];
      atoms.forEach(({ x, dx }, a) => {
        const positive = this.counts && x[j] > 0;
        if (positive) input[f + j] += x[j] / n;
        for (let c = 0; d && c < 3; c++) {
          const row = (3 * a + c) * size;
          if (a === where) d[row + j] = dx[c * f + j];
          if (positive) d[row + f + j] = dx[c * f + j] / n;
        }
      });
    }
    if (this.counts) input[2 * f] = n / 10;
    input.set(lattice.x, pooled);
    for (let i = 0; d && i < 6; i++)
      d.set(lattice.dx.subarray(i * lattice.x.length, (i + 1) * lattice.x.length), (3 * n + i) * size + pooled);
    return this.latent.derive(input, d);
  }
}

// Solve a x = b in place by elimination with pivots; a: [n][n].
function solve(a, b) {
  const n = b.length;
  for (let i = 0; i < n; i++) {
    let pivot = i;
    for (let r = i + 1; r < n; r++) if (Math.abs(a[r][i]) > Math.abs(a[pivot][i])) pivot = r;
    [a[i], a[pivot]] = [a[pivot], a[i]];
    [b[i], b[pivot]] = [b[pivot], b[i]];
    for (let r = i + 1; r < n; r++) {
      const factor = a[r][i] / a[i][i];
      if (factor === 0) continue;
      for (let c = i; c < n; c++) a[r][c] -= factor * a[i][c];
      b[r] -= factor * b[i];
    }
  }
  for (let i = n - 1; i >= 0; i--) {
    for (let c = i + 1; c < n; c++) b[i] -= a[i][c] * b[c];
    b[i] /= a[i][i];
  }
  return b;
}

// decoded: {positions, numbers, lengths, angles} of the five steps; z: the latent vector. Returns the
// crystal with `distance`, which is never larger than at the start, and the number of `steps`.
export function polish(model, z, decoded) {
  model.inDouble ??= new Encoder(model);
  const species = decoded.numbers.map((number) => model.indexOf.get(number));
  const prior = Float64Array.of(...decoded.lengths, ...decoded.angles);
  let state = { positions: Float64Array.from(decoded.positions), cell: prior, distance: Infinity };
  let steps = 0;
  for (const [most, enough] of [[model.decoding.polish_steps, model.decoding.certified], [8, 1e-12]]) {
    const made = descend(model, { z, species, prior }, state, most, enough);
    state = made.state;
    steps += made.steps;
  }
  const cell = [...state.cell];
  return { positions: [...state.positions], numbers: decoded.numbers, lengths: cell.slice(0, 3), angles: cell.slice(3), distance: state.distance, steps };
}

function descend(model, { z, species, prior }, state, most, enough) {
  const encoder = model.inDouble, scale = model.latent_scale, n = species.length, t = 3 * n + 6, size = z.length;
  let damping = 1e-3, steps = 0;
  const cost = (latent, cell) => {
    let distance = 0, more = 0;
    for (let i = 0; i < size; i++) distance += ((latent[i] - z[i]) / scale[i]) ** 2 / size;
    for (let i = 0; i < 6; i++) more += LATTICE_WEIGHTS[i] * (cell[i] - prior[i]) ** 2;
    return { distance, total: distance + more };
  };
  let here = cost(encoder.encode(state.positions, species, state.cell, false).x, state.cell), linear = null;
  for (; steps < most && here.distance >= enough; steps++) {
    linear ??= normalEquations(encoder.encode(state.positions, species, state.cell, true), z, scale, state.cell, prior, t);
    const matrix = linear.matrix.map((row, i) => {
      const copy = Float64Array.from(row);
      copy[i] += (row[i] + 1e-6) * damping;
      return copy;
    });
    const step = solve(matrix, linear.gradient.map((v) => -v)).map((v) => (Number.isNaN(v) ? 0 : v));
    let longest = 0.3;
    for (let a = 0; a < n; a++) longest = Math.max(longest, Math.hypot(step[3 * a], step[3 * a + 1], step[3 * a + 2]));
    const positions = state.positions.map((v, i) => v + (step[i] * 0.3) / longest);
    const cell = state.cell.map((v, i) => {
      const moved = v + (step[3 * n + i] * 0.3) / longest;
      return i < 3 ? Math.max(moved, 0.5) : moved;
    });
    const there = cost(encoder.encode(positions, species, cell, false).x, cell);
    if (there.total < here.total) {
      state = { positions, cell };
      here = there;
      linear = null;
      damping = Math.max(damping / 5, 1e-12);
    } else damping = Math.min(damping * 5, 1e6);
  }
  return { state: { ...state, distance: here.distance }, steps };
}

function normalEquations({ x, dx }, z, scale, cell, prior, t) {
  const size = z.length, residual = x.map((v, i) => (v - z[i]) / scale[i]);
  for (let k = 0; k < t; k++) for (let i = 0; i < size; i++) dx[k * size + i] /= scale[i];
  const dot = (a, b, start) => {
    let sum = 0;
    for (let i = 0; i < size; i++) sum += a[start + i] * b[i];
    return sum / size;
  };
  const matrix = [], gradient = new Float64Array(t);
  for (let k = 0; k < t; k++) {
    const row = dx.subarray(k * size, (k + 1) * size);
    matrix.push(Float64Array.from({ length: t }, (_, l) => dot(dx, row, l * size)));
    gradient[k] = dot(dx, residual, k * size);
  }
  for (let i = 0; i < 6; i++) {
    gradient[t - 6 + i] += LATTICE_WEIGHTS[i] * (cell[i] - prior[i]);
    matrix[t - 6 + i][t - 6 + i] += LATTICE_WEIGHTS[i];
  }
  return { matrix, gradient };
}
