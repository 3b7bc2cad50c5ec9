// The model in a thread of its own, so that the page never waits for it.

import { Atlas } from "./atlas.mjs";
import { CifError, readCif } from "./cif.mjs";
import { errors } from "./crystal.mjs";
import { Model } from "./engine.mjs";
import { polish } from "./polish.mjs";
import { standardLattice } from "./lattice.mjs";

const NEAREST = 5, PART = 256;
let model, atlas, latents, symbols;

const send = (message, transfer = []) => self.postMessage(message, transfer);

const tasks = {
  load({ about, numbers, atlasAbout, atlasBuffer }) {
    model = new Model(about, numbers);
    atlas = new Atlas(atlasAbout, atlasBuffer);
    symbols = about.elements.map((e) => e.symbol);
    return { simd: model.simd };
  },

  cif({ text }) {
    return { crystal: readCif(text, symbols) };
  },

  // Encode, run the five steps, then polish; each part is sent as soon as it is there.
  reconstruct({ id, crystal }) {
    const begin = performance.now(), z = model.encode([crystal]);
    const steps = model.decode(z, (from, to) => {
      const copies = [from.slice(), to.slice()];
      send({ id, part: "move", from: copies[0], to: copies[1] }, copies.map((c) => c.buffer));
    });
    const any = steps.numbers.length > 0;
    const distance = any ? model.latentDistance(model.encode([steps]), z) : NaN;
    send({ id, part: "decoded", decoded: steps, errors: errors(crystal, steps), distance, milliseconds: performance.now() - begin });
    if (any) {
      const made = polish(model, z, steps), certified = made.distance < model.decoding.certified;
      made.lattice = standardLattice(made.lengths, made.angles);
      send({ id, part: "polished", certified: certified && !!made.lattice, crystal: made, errors: errors(crystal, made), distance: made.distance });
    }
    return { nearest: nearest(z) };
  },

  // The crystal at t on the straight line between the latent vectors of two crystals.
  path({ ends, t }) {
    const z = model.encode(ends), n = z.length / 2;
    return { decoded: model.decode(Float32Array.from({ length: n }, (_, i) => (1 - t) * z[i] + t * z[n + i])) };
  },
};

// The training crystals whose latent vectors are nearest to z, by the latent distance.
function nearest(z) {
  if (!latents) {
    latents = [];
    for (let i = 0; i < atlas.n && !atlas.splits[i]; i += PART) {
      const part = [];
      for (let k = i; k < Math.min(i + PART, atlas.n) && !atlas.splits[k]; k++) part.push(atlas.crystal(k));
      const found = model.encode(part);
      for (let k = 0; k < part.length; k++) latents.push(found.subarray(k * z.length, (k + 1) * z.length));
    }
  }
  const all = latents.map((latent, index) => ({ index, distance: model.latentDistance(latent, z) }));
  return all.sort((a, b) => a.distance - b.distance).slice(0, NEAREST);
}

self.onmessage = ({ data }) => {
  try {
    send({ id: data.id, part: "done", ...tasks[data.task](data) });
  } catch (error) {
    send({ id: data.id, part: "error", text: error.message, expected: error instanceof CifError });
  }
};
