// Runs the engine of the page with the live model for tests/test_live.py: jobs as JSON on standard
// input, answers as JSON on standard output.
import fs from "node:fs";
import { Atlas } from "../nesf_studies/live/atlas.mjs";
import { readCif } from "../nesf_studies/live/cif.mjs";
import { errors, formula, outside } from "../nesf_studies/live/crystal.mjs";
import { Model } from "../nesf_studies/live/engine.mjs";
import { polish } from "../nesf_studies/live/polish.mjs";

const [task, input] = Object.entries(JSON.parse(fs.readFileSync(0, "utf8")))[0];
const numbersOf = (text) => {
  const bytes = Buffer.from(text, "base64"), padded = Buffer.alloc((bytes.length / 3) * 4);
  for (let i = 0; i < bytes.length / 3; i++) bytes.copy(padded, 4 * i + 1, 3 * i, 3 * i + 3);
  return new Float32Array(padded.buffer, padded.byteOffset, padded.length / 4);
};
const model = (simd = true) => new Model(input.about, numbersOf(input.weights), simd);

const tasks = {
  decode() {
    const made = model(), latents = made.encode(input.crystals), size = made.latent_scale.length;
    return input.crystals.map((crystal, i) => {
      const z = latents.slice(i * size, (i + 1) * size), decoded = made.decode(z);
      const again = decoded.numbers.length ? made.latentDistance(made.encode([decoded]), z) : null;
      const polished = input.polish && decoded.numbers.length ? polish(made, z, decoded) : null;
      return { z: [...z], decoded, distance: again, polished, errors: errors(crystal, decoded) };
    });
  },
  products() {
    const both = [model(true), model(false)].map((m) => [m.simd, [...m.encode(input.crystals)]]);
    return both;
  },
  cif: () => input.texts.map((text) => {
    try {
      return readCif(text, input.symbols);
    } catch (error) {
      return { error: error.message, kind: error.constructor.name };
    }
  }),
  atlas() {
    const bytes = Buffer.from(input.content, "base64");
    const atlas = new Atlas(input.header, new Uint8Array(bytes).buffer);
    return input.which.map((i) => ({ ...atlas.crystal(i), group: atlas.groups[i], decoded: atlas.decoded[i], field: atlas.field[i] }));
  },
  say: () => input.crystals.map((c) => ({ formula: formula(c.numbers, input.elements), outside: outside(c, input.domain, input.elements) })),
};
process.stdout.write(JSON.stringify(tasks[task]()));
