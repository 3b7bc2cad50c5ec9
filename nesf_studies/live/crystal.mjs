// What is said about crystals {positions: [3 n], numbers, lengths, angles, lattice}: formula, errors of
// a reconstruction (nesf/metrics.py), and in what one lies outside the training data (nesf/domain.py).

// Reduced formula, least electronegative element first; elements: [{symbol, electronegativity}] by number.
export function formula(numbers, elements) {
  const counts = new Map();
  for (const z of numbers) counts.set(z, (counts.get(z) ?? 0) + 1);
  const gcd = (a, b) => (b ? gcd(b, a % b) : a), common = [...counts.values()].reduce(gcd, 0) || 1;
  const order = [...counts.keys()].sort((a, b) => elements[a].electronegativity - elements[b].electronegativity || a - b);
  return order.map((z) => elements[z].symbol + (counts.get(z) / common > 1 ? counts.get(z) / common : "")).join("");
}

function nearest(from, to) {
  const found = [];
  for (let i = 0; i < from.length; i += 3) {
    let best = Infinity, index = -1;
    for (let j = 0; j < to.length; j += 3) {
      const d = Math.hypot(from[i] - to[j], from[i + 1] - to[j + 1], from[i + 2] - to[j + 2]);
      if (d < best) [best, index] = [d, j / 3];
    }
    found.push({ distance: best, index });
  }
  return found;
}

// Errors of a decoded crystal against the actual one: mean distance (Å) from each actual atom to the
// nearest decoded one and the other way round, percentage of actual atoms of another element, mean
// errors of the cell in Å and degrees. Position errors are NaN where nothing was detected.
export function errors(actual, decoded) {
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const near = nearest(actual.positions, decoded.positions), back = nearest(decoded.positions, actual.positions);
  const off = (key) => mean([0, 1, 2].map((i) => Math.abs(actual[key][i] - decoded[key][i])));
  return {
    atoms: decoded.numbers.length - actual.numbers.length,
    position: decoded.numbers.length ? mean(near.map((n) => n.distance)) : NaN,
    detected: mean(back.map((n) => n.distance)),
    species: 100 * mean(near.map((n, i) => (n.index >= 0 && decoded.numbers[n.index] === actual.numbers[i] ? 0 : 1))),
    length: off("lengths"),
    angle: (off("angles") * 180) / Math.PI,
  };
}

// In words, in what a crystal lies outside the training data.
export function outside(crystal, domain, elements) {
  const found = [], n = crystal.numbers.length, [least, most] = domain.n_atoms;
  if (n > most || n < least) found.push(`${n} atoms, ${n > most ? `at most ${most}` : `at least ${least}`} in training`);
  const ranges = [["abc", crystal.lengths, domain.length, " Å", 0.05], ["αβγ", crystal.angles.map((v) => (v * 180) / Math.PI), domain.angle, "°", 0.5]];
  for (const [names, values, [low, high], unit, extra] of ranges)
    values.forEach((v, i) => {
      if (!(v >= low - extra && v <= high + extra)) found.push(`${names[i]} = ${+v.toPrecision(4)}${unit}, ${+low.toPrecision(4)} to ${+high.toPrecision(4)}${unit} in training`);
    });
  const foreign = [...new Set(crystal.numbers)].filter((z) => !domain.elements.includes(z));
  if (foreign.length) found.push(`${foreign.map((z) => elements[z].symbol).join(", ")} not in training`);
  return found;
}
