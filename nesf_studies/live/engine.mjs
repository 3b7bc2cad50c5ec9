// The autoencoder and the five steps of its decoding (nesf/model.py, nesf/decode.py), for one crystal
// at a time, in single precision like there. Lengths in Å, angles in radians.

import { arena } from "./gemm.mjs";
import { allowedLattice, scaledLattice, standardLattice } from "./lattice.mjs";

const BLOCK = 64; // rows of a matrix product; its input and output stay in a processor's cache
const up = (n, multiple) => Math.ceil(n / multiple) * multiple;

// about: {config, vocabulary, box, latent_scale, domain, tensors: {name: [rows, columns, offset]}},
// numbers: Float32Array of all tensors. An MLP is a list of layers W [in, out] and b [out], with a
// ReLU between; every batch normalisation is folded in (nesf_studies/live/export.py).
export class Model {
  constructor(about, numbers, simd = true) {
    Object.assign(this, about);
    this.numbers = numbers;
    const names = Object.keys(about.tensors);
    const layerNames = names.filter((n) => n.endsWith(".w"));
    let floats = 0, widest = 8;
    for (const name of layerNames) {
      const [rows, columns] = about.tensors[name];
      floats += up(rows, 2) * up(columns, 8) + up(columns, 8);
      widest = Math.max(widest, up(rows, 2), up(columns, 8));
    }
    const { buffer, product, simd: isSimd } = arena(4 * (floats + 2 * BLOCK * widest), simd);
    this.f = new Float32Array(buffer);
    this.product = product;
    this.simd = isSimd;
    this.x = 0;
    this.y = BLOCK * widest;
    this.free = 2 * BLOCK * widest;
    this.layers = Object.fromEntries(layerNames.map((n) => [n.slice(0, -2), this.placed(n.slice(0, -2))]));
    this.indexOf = new Map(about.vocabulary.map((z, i) => [z, i]));
    const part = (prefix) => this.mlp(prefix);
    this.encoder = { position: part("encoder.position"), lattice: part("encoder.lattice"), latent: part("encoder.latent") };
    this.fields = { position: this.field("position_field"), species: this.field("species_field") };
    this.lengthDecoder = part("length_decoder");
    this.angleDecoder = part("angle_decoder");
  }

  tensor(name) {
    const [rows, columns, offset] = this.tensors[name];
    return this.numbers.subarray(offset, offset + rows * columns);
  }

  // Copy a layer into the memory of the product, in panels of 8 columns.
  placed(name) {
    const [rows, columns] = this.tensors[`${name}.w`];
    const k = up(rows, 2), n = up(columns, 8), w = this.free, b = w + k * n;
    this.free = b + n;
    const weights = this.tensor(`${name}.w`);
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < columns; j++)
        this.f[w + ((j >> 3) * k + i) * 8 + (j & 7)] = weights[i * columns + j];
    if (this.tensors[`${name}.b`]) this.f.set(this.tensor(`${name}.b`), b);
    return { w, b, k, n, rows, columns };
  }

  mlp(prefix) {
    const found = [];
    while (this.layers[`${prefix}.${found.length}`]) found.push(this.layers[`${prefix}.${found.length}`]);
    return found;
  }

  // A field: its layers, and for each the part of the bias that does not depend on z.
  field(prefix) {
    const layers = this.mlp(prefix);
    return { layers, latent: [this.layers[`${prefix}.latent`]], own: layers.map((l) => this.f.slice(l.b, l.b + l.n)) };
  }

  // Evaluate an MLP at m rows of numbers; returns [m, outputs].
  evaluate(layers, input, m) {
    const { f } = this, nIn = layers[0].rows, nOut = layers.at(-1).columns;
    const out = new Float32Array(m * nOut);
    for (let start = 0; start < m; start += BLOCK) {
      const rows = Math.min(BLOCK, m - start), padded = up(rows, 4);
      let from = this.x, to = this.y, stride = layers[0].k;
      f.fill(0, from, from + padded * stride);
      for (let r = 0; r < rows; r++)
        for (let i = 0; i < nIn; i++) f[from + r * stride + i] = input[(start + r) * nIn + i];
      layers.forEach((layer, l) => {
        const next = layers[l + 1], width = next ? Math.max(next.k, layer.n) : layer.n;
        this.product(4 * from, 4 * layer.w, 4 * layer.b, 4 * to, padded, layer.k, layer.n / 8, 4 * stride, 4 * width, next ? 1 : 0);
        if (next && next.rows > layer.columns) // a field: each layer reads the input again
          for (let r = 0; r < rows; r++) {
            const at = to + r * width + layer.columns;
            for (let i = 0; i < nIn; i++) f[at + i] = input[(start + r) * nIn + i];
            f[at + nIn] = 0;
          }
        stride = width;
        [from, to] = [to, from];
      });
      for (let r = 0; r < rows; r++)
        for (let i = 0; i < nOut; i++) out[(start + r) * nOut + i] = f[from + r * stride + i];
    }
    return out;
  }

  // Return latent vectors [B, latent size] of crystals {positions: [3 n], numbers: [n], lengths, angles}.
  encode(crystals) {
    const total = crystals.reduce((sum, c) => sum + c.numbers.length, 0);
    const positions = new Float32Array(3 * total);
    let at = 0;
    for (const c of crystals) {
      positions.set(c.positions, at);
      at += c.positions.length;
    }
    const features = this.evaluate(this.encoder.position, positions, total);
    const table = this.tensor("encoder.species");
    const width = features.length / total, counts = this.config.pooling === "max_mean_count";
    const cells = crystals.map((c) => [...c.lengths, ...c.angles]);
    const scaled = this.encoder.lattice.length > 0;
    const lattices = scaled
      ? this.evaluate(this.encoder.lattice, cells.flatMap(scaledLattice), crystals.length)
      : Float32Array.from(cells.flat());
    const nLattice = lattices.length / crystals.length, nPooled = (counts ? 2 * width + 1 : width) + nLattice;
    const pooled = new Float32Array(crystals.length * nPooled);
    at = 0;
    crystals.forEach((c, i) => {
      const out = pooled.subarray(i * nPooled, (i + 1) * nPooled), n = c.numbers.length;
      out.fill(-Infinity, 0, width);
      for (const z of c.numbers) {
        const species = this.indexOf.get(z) * width;
        for (let j = 0; j < width; j++) {
          const value = features[at * width + j] + table[species + j];
          if (value > out[j]) out[j] = value;
          if (counts && value > 0) out[width + j] += value / n;
        }
        at++;
      }
      if (counts) out[2 * width] = n / 10;
      out.set(lattices.subarray(i * nLattice, (i + 1) * nLattice), nPooled - nLattice);
    });
    return this.evaluate(this.encoder.latent, pooled, crystals.length);
  }

  // Mean over the components of ((a - b) / σ)², σ of the training split (nesf/polishing.py).
  latentDistance(a, b) {
    let sum = 0;
    for (let i = 0; i < a.length; i++) sum += ((a[i] - b[i]) / this.latent_scale[i]) ** 2;
    return sum / a.length;
  }

  // Set the crystal whose fields are evaluated: the latent vector only moves the layers' biases.
  condition(z) {
    for (const { layers, latent, own } of Object.values(this.fields)) {
      const projected = this.evaluate(latent, z, 1);
      let at = 0;
      layers.forEach((layer, l) => {
        this.f.set(own[l], layer.b);
        if (at >= projected.length) return;
        for (let j = 0; j < layer.columns; j++) this.f[layer.b + j] += projected[at + j];
        at += layer.columns;
      });
    }
  }

  // Vectors to the nearest atoms [3 m] at positions [3 m], of the crystal of `condition`.
  positionField(positions) {
    return this.evaluate(this.fields.position.layers, positions, positions.length / 3);
  }

  // The most probable species [m] at positions [3 m], as indices; the first one in a tie.
  speciesField(positions) {
    const m = positions.length / 3, n = this.vocabulary.length;
    const logits = this.evaluate(this.fields.species.layers, positions, m);
    return Uint8Array.from({ length: m }, (_, i) => {
      let best = 0;
      for (let j = 1; j < n; j++) if (logits[i * n + j] > logits[i * n + best]) best = j;
      return best;
    });
  }

  lattice(z) {
    let lengths = [...this.evaluate(this.lengthDecoder, z, 1)], angles = [...this.evaluate(this.angleDecoder, z, 1)];
    if (this.config.lattice_output === "bounded") {
      lengths = lengths.map((v) => 5 * Math.exp(3 * Math.tanh(v / 3)));
      angles = angles.map((v) => (Math.PI / 2) * (1 + Math.tanh(v)));
    }
    return { lengths, angles };
  }

  // The five steps. `onMove(from, to, i)`: called with the positions of the moving particles before
  // and after the i-th step. Returns {positions, numbers, scores, particles, votes, lengths, angles,
  // lattice, nParticles}.
  decode(z, onMove = () => {}) {
    const settings = this.decoding;
    this.condition(z);
    const start = boxGrid(this.box, settings.grid_interval);
    const particles = this.moved(start, settings, onMove);
    const unknown = [];
    particles.scores.forEach((s, i) => Number.isNaN(s) && unknown.push(i));
    const places = new Float32Array(3 * unknown.length);
    unknown.forEach((i, k) => places.set(particles.positions.subarray(3 * i, 3 * i + 3), 3 * k));
    const steps = this.positionField(places);
    unknown.forEach((i, k) => (particles.scores[i] = norm(steps, k)));
    const atoms = detected(particles, settings);
    const { species, votes } = this.voted(atoms.positions, settings);
    const raw = this.lattice(z), { lengths, angles } = allowedLattice(raw.lengths, raw.angles);
    const numbers = Array.from(species, (s) => this.vocabulary[s]);
    return { ...atoms, numbers, votes, lengths, angles, lattice: standardLattice(lengths, angles), nParticles: start.length / 3 };
  }

  // Step 2, fast: every step in single precision; particles that meet are merged.
  moved(start, settings, onMove) {
    let positions = start, counts = new Int32Array(start.length / 3).fill(1);
    const done = [];
    for (let i = 0; i < settings.iterations && counts.length; i++) {
      const steps = this.positionField(positions), moving = new Group(), slow = new Group(), stays = new Group();
      const after = new Float32Array(positions.length);
      for (let p = 0; p < counts.length; p++) {
        const length = norm(steps, p), rests = length < settings.converged;
        for (let x = 0; x < 3; x++) after[3 * p + x] = positions[3 * p + x] + (rests ? 0 : steps[3 * p + x]);
        (rests ? stays : length < settings.merge_step ? slow : moving).add(after, p, counts[p], length);
      }
      onMove(positions, after, i);
      done.push(stays.arrays());
      const merged = mergedParticles(slow.arrays(), settings.merge_distance), rest = moving.arrays();
      positions = joined(merged.positions, rest.positions, Float32Array);
      counts = joined(merged.counts, rest.counts, Int32Array);
    }
    const last = { positions, counts, scores: new Float32Array(counts.length).fill(NaN) };
    return [...done, last].reduce((a, b) => ({
      positions: joined(a.positions, b.positions, Float32Array),
      counts: joined(a.counts, b.counts, Int32Array),
      scores: joined(a.scores, b.scores, Float32Array),
    }));
  }

  // Step 5: queries around each atom vote for its species; in a tie the first one wins.
  voted(positions, settings) {
    const grid = localGrid(settings.species_interval, settings.species_range);
    const n = grid.length / 3, atoms = positions.length / 3, queries = new Float32Array(atoms * grid.length);
    for (let a = 0; a < atoms; a++)
      for (let g = 0; g < grid.length; g++) queries[a * grid.length + g] = Math.fround(positions[3 * a + (g % 3)]) + grid[g];
    const winners = this.speciesField(queries), species = [], votes = [];
    for (let a = 0; a < atoms; a++) {
      const tally = new Int32Array(this.vocabulary.length);
      for (let g = 0; g < n; g++) tally[winners[a * n + g]]++;
      species.push(tally.indexOf(Math.max(...tally)));
      votes.push(Math.max(...tally) / n);
    }
    return { species, votes };
  }
}

function norm(v, i) {
  return Math.fround(Math.hypot(v[3 * i], v[3 * i + 1], v[3 * i + 2]));
}

function joined(a, b, Type) {
  const out = new Type(a.length + b.length);
  out.set(a);
  out.set(b, a.length);
  return out;
}

class Group {
  constructor() {
    this.positions = [];
    this.counts = [];
    this.scores = [];
  }

  add(positions, p, count, score) {
    this.positions.push(positions[3 * p], positions[3 * p + 1], positions[3 * p + 2]);
    this.counts.push(count);
    this.scores.push(score);
  }

  arrays() {
    return {
      positions: Float32Array.from(this.positions),
      counts: Int32Array.from(this.counts),
      scores: Float32Array.from(this.scores),
    };
  }
}

// Step 1: a regular grid over the box of the dataset, grown by one interval, upper end excluded.
export function boxGrid([low, high], interval) {
  const axes = [0, 1, 2].map((x) => {
    const start = low[x] - interval, n = Math.ceil((high[x] + interval - start) / interval);
    return Float32Array.from({ length: n }, (_, i) => start + i * interval);
  });
  return product(axes);
}

// Step 5: a regular grid in a cube around the origin.
export function localGrid(interval, extent) {
  const n = Math.floor(extent / interval + 1e-6) + 1;
  const axis = Float32Array.from({ length: n }, (_, i) => i * interval - ((n - 1) * interval) / 2);
  return product([axis, axis, axis]);
}

function product([a, b, c]) {
  const out = new Float32Array(3 * a.length * b.length * c.length);
  let at = 0;
  for (const x of a) for (const y of b) for (const z of c) {
    out.set([x, y, z], at);
    at += 3;
  }
  return out;
}

// Particles that share a cubic cell of edge `side` become one at their mean, in the order of the cells.
function mergedParticles({ positions, counts }, side) {
  const cells = new Map();
  const clamp = (v) => Math.min(32767, Math.max(-32768, Math.floor(v / side))) + 32768;
  for (let p = 0; p < counts.length; p++) {
    const key = (clamp(positions[3 * p]) * 65536 + clamp(positions[3 * p + 1])) * 65536 + clamp(positions[3 * p + 2]);
    if (cells.has(key)) cells.get(key).push(p);
    else cells.set(key, [p]);
  }
  const keys = [...cells.keys()].sort((a, b) => a - b);
  const means = new Float32Array(3 * keys.length), totals = new Int32Array(keys.length);
  keys.forEach((key, k) => {
    for (const p of cells.get(key)) totals[k] += counts[p];
    for (const p of cells.get(key))
      for (let x = 0; x < 3; x++) means[3 * k + x] += positions[3 * p + x] * Math.fround(counts[p] / totals[k]);
  });
  return { positions: means, counts: totals };
}

// Steps 3 and 4: leave out particles above the threshold, then suppress non-maxima: the lowest score
// becomes an atom if enough particles are within the radius, and these are removed.
export function detected({ positions, counts, scores }, settings) {
  const order = Array.from(scores.keys()).filter((i) => scores[i] <= settings.score_threshold);
  order.sort((a, b) => scores[a] - scores[b] || a - b);
  const taken = new Uint8Array(scores.length), atoms = { positions: [], scores: [], particles: [], rejected: 0 };
  for (const centre of order) {
    if (taken[centre]) continue;
    const place = positions.subarray(3 * centre, 3 * centre + 3);
    let size = 0;
    for (const p of order) {
      if (taken[p]) continue;
      const d = (positions[3 * p] - place[0]) ** 2 + (positions[3 * p + 1] - place[1]) ** 2 + (positions[3 * p + 2] - place[2]) ** 2;
      if (d < settings.nms_radius ** 2 || p === centre) {
        taken[p] = 1;
        size += counts[p];
      }
    }
    if (size < settings.min_particles) {
      atoms.rejected++;
      continue;
    }
    atoms.positions.push(...place);
    atoms.scores.push(scores[centre]);
    atoms.particles.push(size);
  }
  return atoms;
}
