// Cells: lengths (Å) and angles (radians) to and from vectors, as nesf/crystals.py does.

const HEXAGONAL = (5 * Math.PI) / 180; // largest difference from 90°, 90°, 120° in a hexagonal cell

// Rows a, b, c in Å in the setting of pymatgen's conventional standard structure; null: the angles
// close no cell.
export function standardLattice(lengths, angles) {
  const cos = angles.map((a) => (Math.abs(Math.cos(a)) < 1e-12 ? 0 : Math.cos(a)));
  const sin = Math.sin(angles[2]), cx = cos[1], cy = (cos[0] - cos[1] * cos[2]) / sin;
  const cz2 = 1 - cx * cx - cy * cy;
  if (!(cz2 > 0)) return null;
  let rows = [[1, 0, 0], [cos[2], sin, 0], [cx, cy, Math.sqrt(cz2)]];
  const right = [Math.PI / 2, Math.PI / 2, (2 * Math.PI) / 3];
  if (angles.every((a, i) => Math.abs(a - right[i]) < HEXAGONAL)) {
    const c = Math.cos(angles[2] / 2), s = Math.sin(angles[2] / 2);
    rows = rows.map(([x, y, z]) => [x * c + y * s, -x * s + y * c, z]);
  }
  return rows.map((row, i) => row.map((v) => v * lengths[i]));
}

// Repair a predicted cell that is none.
export function allowedLattice(lengths, angles) {
  const good = lengths.map((v) => Math.max(v, 0.5));
  return standardLattice(good, angles) ? { lengths: good, angles } : { lengths: good, angles: angles.map(() => Math.PI / 2) };
}

// Lengths and angles [6] as numbers of order 1.
export function scaledLattice(cell) {
  return cell.map((v, i) => 4 * (i < 3 ? Math.log(v / 5) : v - Math.PI / 2));
}

export function volume([a, b, c]) {
  return Math.abs(a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0]) + a[2] * (b[0] * c[1] - b[1] * c[0]));
}

export function inverse([a, b, c]) {
  const cross = (u, v) => [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
  const columns = [cross(b, c), cross(c, a), cross(a, b)];
  const det = a[0] * columns[0][0] + a[1] * columns[0][1] + a[2] * columns[0][2];
  return [0, 1, 2].map((i) => columns.map((column) => column[i] / det));
}

// Row vector times matrix.
export function times(v, m) {
  return [0, 1, 2].map((j) => v[0] * m[0][j] + v[1] * m[1][j] + v[2] * m[2][j]);
}

export function fractional(positions, lattice) {
  const inv = inverse(lattice), out = [];
  for (let i = 0; i < positions.length; i += 3) out.push(times(positions.slice(i, i + 3), inv));
  return out;
}
