// All crystals of the explorer, from the compact file that nesf_studies/live/export.py writes.

import { standardLattice, times } from "./lattice.mjs";

export const SPLITS = ["train", "val", "test"];
export const NOT_KNOWN = 65535;

// about: {n, n_atoms, ids, low, high, margin}; buffer: cells [n, 6] f32 (Å, radians), xy [n, 2] u16,
// field u16 (1e-4 Å), decoded u16 (1e-4 Å), fractional positions [atoms, 3] u16, then bytes: counts,
// splits, space groups, numbers.
export class Atlas {
  constructor(about, buffer) {
    const { n, n_atoms: atoms } = about;
    let at = 0;
    const take = (Type, length) => {
      const found = new Type(buffer, at, length);
      at += found.byteLength;
      return found;
    };
    this.n = n;
    this.ids = about.ids.split("\n");
    this.margin = about.margin;
    this.cells = take(Float32Array, 6 * n);
    [this.xy, this.field, this.decoded] = [take(Uint16Array, 2 * n), take(Uint16Array, n), take(Uint16Array, n)];
    this.fractional = take(Uint16Array, 3 * atoms);
    [this.counts, this.splits, this.groups, this.numbers] = [take(Uint8Array, n), take(Uint8Array, n), take(Uint8Array, n), take(Uint8Array, atoms)];
    this.start = new Uint32Array(n + 1);
    for (let i = 0; i < n; i++) this.start[i + 1] = this.start[i] + this.counts[i];
  }

  crystal(i) {
    const cell = [...this.cells.subarray(6 * i, 6 * i + 6)], lengths = cell.slice(0, 3), angles = cell.slice(3);
    const lattice = standardLattice(lengths, angles), positions = [];
    for (let a = this.start[i]; a < this.start[i + 1]; a++) {
      const place = [0, 1, 2].map((x) => (this.fractional[3 * a + x] / 65535) * (1 + 2 * this.margin) - this.margin);
      positions.push(...times(place, lattice));
    }
    const numbers = [...this.numbers.subarray(this.start[i], this.start[i + 1])];
    return { id: this.ids[i], split: SPLITS[this.splits[i]], positions, numbers, lengths, angles, lattice };
  }
}
