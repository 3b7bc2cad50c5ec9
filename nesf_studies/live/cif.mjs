// A reader for simple CIFs: one ordered crystal, with its symmetry operators written out as x,y,z.
// Anything else is refused in one sentence.

import { standardLattice, times } from "./lattice.mjs";

const SAME = 0.05; // Å; images of an atom nearer than this are one
const MOST_ATOMS = 500;

export class CifError extends Error {}

function refuse(text) {
  throw new CifError(text);
}

// Values of the first data block that has atoms: tags in lower case to text or, in a loop, a list.
function blocks(text) {
  const tokens = tokenised(text), found = [];
  let block = null;
  for (let i = 0; i < tokens.length; ) {
    const { word, quoted } = tokens[i];
    const lower = word.toLowerCase();
    if (!quoted && lower.startsWith("data_")) {
      found.push((block = new Map()));
      i++;
    } else if (!block) refuse("This is no CIF: it has no line that begins with data_.");
    else if (!quoted && lower === "loop_") {
      const tags = [];
      for (i++; i < tokens.length && !tokens[i].quoted && tokens[i].word.startsWith("_"); i++) tags.push(tokens[i].word.toLowerCase());
      const values = [];
      const ends = (t) => !t.quoted && /^(_|loop_|data_)/i.test(t.word);
      for (; i < tokens.length && !ends(tokens[i]); i++) values.push(tokens[i].word);
      if (!tags.length || values.length % tags.length) refuse(`The loop of ${tags[0] ?? "no tag"} has ${values.length} values for ${tags.length} columns.`);
      tags.forEach((tag, j) => block.set(tag, values.filter((_, k) => k % tags.length === j)));
    } else if (!quoted && word.startsWith("_")) {
      block.set(lower, [tokens[i + 1]?.word ?? ""]);
      i += 2;
    } else i++;
  }
  return found;
}

function tokenised(text) {
  const tokens = [];
  const lines = text.replace(/^\uFEFF/, "").split(/\r\n|\r|\n/);
  for (let i = 0; i < lines.length; i++) {
    if (lines[i].startsWith(";")) {
      const parts = [lines[i].slice(1)];
      for (i++; i < lines.length && !lines[i].startsWith(";"); i++) parts.push(lines[i]);
      tokens.push({ word: parts.join("\n"), quoted: true });
      continue;
    }
    const pattern = /\s*(?:(#.*)|'((?:[^']|'(?=\S))*)'(?=\s|$)|"((?:[^"]|"(?=\S))*)"(?=\s|$)|(\S+))/y;
    for (let match; (match = pattern.exec(lines[i])); ) {
      if (match[1] !== undefined) break;
      const quoted = match[4] === undefined;
      tokens.push({ word: match[2] ?? match[3] ?? match[4], quoted });
    }
  }
  return tokens;
}

function number(value, what) {
  const read = Number(String(value).replace(/\(\d+\)$/, ""));
  if (value === undefined || value === "" || !Number.isFinite(read)) refuse(`${what} is ${value ?? "missing"}, where a number is expected.`);
  return read;
}

// x,-y+1/2,z as a function of a fractional position.
function operator(text) {
  const parts = text.replace(/\s/g, "").toLowerCase().split(",");
  if (parts.length !== 3) refuse(`The symmetry operator “${text}” has no three parts.`);
  const rows = parts.map((part) => {
    const row = [0, 0, 0, 0];
    const rest = part.replace(/([+-]?)(?:(\d+(?:\.\d*)?|\.\d+)(?:\/(\d+))?\*?)?([xyz])|([+-]?)(\d+(?:\.\d*)?|\.\d+)(?:\/(\d+))?/g, (_, sign, top, bottom, axis, s, t, b) => {
      const negative = (axis ? sign : s) === "-" ? -1 : 1;
      if (axis) row["xyz".indexOf(axis)] += (negative * (top ? +top : 1)) / (bottom ? +bottom : 1);
      else row[3] += (negative * +t) / (b ? +b : 1);
      return "";
    });
    if (rest || !part) refuse(`The symmetry operator “${text}” cannot be read.`);
    return row;
  });
  return (p) => rows.map((r) => r[0] * p[0] + r[1] * p[1] + r[2] * p[2] + r[3]);
}

function operators(block) {
  const tags = ["_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz", "_space_group_symop.operation_xyz"];
  for (const tag of tags) if (block.has(tag)) return block.get(tag).map(operator);
  const group = ["_space_group_it_number", "_symmetry_int_tables_number"].map((t) => block.get(t)?.[0]).find((v) => v && v !== "?");
  const name = ["_symmetry_space_group_name_h-m", "_space_group_name_h-m_alt"].map((t) => block.get(t)?.[0]).find((v) => v && v !== "?");
  const isP1 = group ? +group === 1 : !name || name.replace(/\s/g, "").toUpperCase() === "P1";
  if (!isP1) refuse(`The space group is ${name ?? group}, but its operators are not written out (_space_group_symop_operation_xyz); save the file in P1 or with its operators.`);
  return [(p) => p];
}

function element(text, symbols) {
  const name = /^[A-Za-z]+/.exec(text ?? "")?.[0] ?? "";
  const two = name[0]?.toUpperCase() + (name[1] ?? "").toLowerCase(), one = name[0]?.toUpperCase();
  if (["D", "T"].includes(name.toUpperCase())) return 1;
  for (const symbol of [two, one]) if (symbols.indexOf(symbol) > 0) return symbols.indexOf(symbol);
  return refuse(`“${text}” is no element.`);
}

const snapped = (v) => (Math.abs(v * 6 - Math.round(v * 6)) < 6e-4 ? Math.round(v * 6) / 6 : v);

// Return {name, positions: [3 n], numbers, lengths, angles, lattice, notes} in the standard setting, the
// atoms wrapped into the cell as `nesf.read_structures` does. symbols: those of the elements, by number.
export function readCif(text, symbols) {
  if (text.length > 2e6) refuse("The file is larger than 2 MB.");
  const all = blocks(text), withAtoms = all.filter((b) => b.has("_atom_site_fract_x"));
  if (!withAtoms.length) refuse("The file has no atoms: _atom_site_fract_x is missing.");
  const block = withAtoms[0], notes = [];
  if (withAtoms.length > 1) notes.push(`${withAtoms.length} crystals in the file; the first is shown`);
  const cell = (names, unit) => names.map((n) => number(block.get(`_cell_${unit}_${n}`)?.[0], `_cell_${unit}_${n}`));
  const lengths = cell(["a", "b", "c"], "length");
  const angles = cell(["alpha", "beta", "gamma"], "angle").map((v) => (v * Math.PI) / 180);
  const lattice = standardLattice(lengths, angles);
  if (!lattice || lengths.some((v) => v <= 0) || angles.some((v) => v <= 0 || v >= Math.PI)) refuse("The lengths and angles of the cell close no cell.");
  const labels = block.get("_atom_site_type_symbol") ?? block.get("_atom_site_label");
  if (!labels) refuse("The atoms have no element: _atom_site_type_symbol is missing.");
  const occupancy = block.get("_atom_site_occupancy") ?? [];
  if (occupancy.some((v) => !["?", "."].includes(v) && Math.abs(number(v, "_atom_site_occupancy") - 1) > 1e-3)) refuse("A site is partly occupied; the model knows ordered crystals only.");
  const moves = operators(block), atoms = [];
  labels.forEach((label, i) => {
    const z = element(label, symbols);
    const site = ["x", "y", "z"].map((x) => snapped(number(block.get(`_atom_site_fract_${x}`)?.[i], `_atom_site_fract_${x}`)));
    for (const move of moves) {
      const place = move(site).map((v) => v - Math.floor(v + 1e-6));
      const near = atoms.find((a) => distance(a.place, place, lattice) < SAME);
      if (near && near.z !== z) refuse(`${symbols[near.z]} and ${symbols[z]} are at one place; the model knows ordered crystals only.`);
      if (!near) atoms.push({ place, z });
      if (atoms.length > MOST_ATOMS) refuse(`The cell has more than ${MOST_ATOMS} atoms.`);
    }
  });
  return { positions: atoms.flatMap((a) => times(a.place, lattice)), numbers: atoms.map((a) => a.z), lengths, angles, lattice, notes };
}

function distance(a, b, lattice) {
  return Math.hypot(...times(a.map((v, i) => v - b[i] - Math.round(v - b[i])), lattice));
}

