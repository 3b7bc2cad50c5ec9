// The page: what a reader does, and what is shown of the worker's answers.

import { Atlas } from "./atlas.mjs";
import { formula, outside } from "./crystal.mjs";
import { LatentMap, colourings, legend } from "./map.mjs";
import { Camera, Scene } from "./scene.mjs";

const FRAMES = 11, STEP_MS = 260, MOST_LISTED = 12;
const root = document.getElementById("nesf-live");
const part = (name) => root.querySelector(`[data-part="${name}"]`);
const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;

function bytesOf(text) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

// Numbers are stored as the three leading bytes of fp32.
function numbersOf(bytes) {
  const words = new Uint32Array(bytes.length / 3);
  for (let i = 0; i < words.length; i++) words[i] = ((bytes[3 * i] << 8) | (bytes[3 * i + 1] << 16) | (bytes[3 * i + 2] << 24)) >>> 0;
  return new Float32Array(words.buffer);
}

// A number with as many digits as are of use; very small and large ones in powers of ten.
function digits(value) {
  if (!Number.isFinite(value)) return "–";
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5)) {
    const power = Math.floor(Math.log10(Math.abs(value)));
    return `${(value / 10 ** power).toFixed(1)}·10<sup>${power < 0 ? "−" : ""}${Math.abs(power)}</sup>`;
  }
  return String(+value.toPrecision(3));
}

const subscripts = (text) => text.replace(/\d+/g, "<sub>$&</sub>");
const atoms = (n) => `${n} atom${n === 1 ? "" : "s"}`;
const escaped = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

class Page {
  constructor(live) {
    this.about = live.about;
    this.elements = live.about.elements;
    const buffer = bytesOf(live.atlas).buffer;
    this.atlas = new Atlas(live.atlasAbout, buffer);
    this.worker = new Worker(URL.createObjectURL(new Blob([live.worker], { type: "text/javascript" })));
    this.waiting = new Map();
    this.job = 0;
    this.worker.onmessage = ({ data }) => this.waiting.get(data.id)?.(data);
    this.worker.onerror = (event) => this.say(`The model could not be started: ${event.message}`, true);
    const numbers = numbersOf(bytesOf(live.weights));
    this.ready = this.ask({ task: "load", about: live.about, numbers, atlasAbout: live.atlasAbout, atlasBuffer: buffer.slice(0) }, () => {}, [numbers.buffer]);
    this.camera = new Camera();
    this.scenes = Object.fromEntries(["input", "particles", "decoded", "hover"].map((n) => [n, new Scene(part(`view-${n}`), this.camera, this.elements)]));
    this.moves = [];
    this.clicked = null;
    this.listen();
    this.explore();
  }

  // Ask the worker; onPart gets what it sends before the answer.
  ask(message, onPart = () => {}, transfer = []) {
    const id = ++this.job;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, (data) => {
        if (data.part !== "done" && data.part !== "error") return onPart(data);
        this.waiting.delete(id);
        if (data.part === "done") resolve(data);
        else reject(new Error(data.expected ? data.text : `Something went wrong in the model: ${data.text}`));
      });
      this.worker.postMessage({ id, ...message }, transfer);
    });
  }

  say(text, wrong = false) {
    part("status").textContent = text;
    part("status").classList.toggle("nesf-wrong", wrong);
  }

  name(crystal) {
    return subscripts(formula(crystal.numbers, this.elements)) || "nothing";
  }

  listen() {
    part("file").addEventListener("change", (e) => e.target.files[0] && this.read(e.target.files[0]));
    part("random").addEventListener("click", () => {
      const tests = [...this.atlas.splits.keys()].filter((i) => this.atlas.splits[i] === 2);
      this.take(tests[Math.floor(Math.random() * tests.length)], true);
    });
    for (const kind of ["dragover", "drop"])
      root.addEventListener(kind, (e) => {
        e.preventDefault();
        if (kind === "drop" && e.dataTransfer.files[0]) this.read(e.dataTransfer.files[0]);
      });
    part("step").addEventListener("input", (e) => {
      this.pause();
      this.showStep(+e.target.value);
    });
    part("play").addEventListener("click", () => (this.timer ? this.pause() : this.play()));
    part("t").addEventListener("input", () => this.showFrame());
    part("search").addEventListener("input", (e) => this.search(e.target.value));
    new MutationObserver(() => this.redraw()).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme", "data-mode"] });
  }

  redraw() {
    for (const scene of Object.values(this.scenes)) scene.draw();
    this.map.redraw();
  }

  async read(file) {
    try {
      await this.ready;
      const { crystal } = await this.ask({ task: "cif", text: await file.text() });
      this.chosen([]);
      this.clicked = null;
      const foreign = crystal.numbers.filter((z) => !this.about.vocabulary.includes(z));
      if (foreign.length) throw new Error(`${this.elements[foreign[0]].symbol} is not among the ${this.about.vocabulary.length} elements that this model has learned, so the crystal cannot be encoded.`);
      await this.reconstruct(crystal, `${escaped(file.name)}${crystal.notes.map((n) => ` (${n})`).join("")}`);
    } catch (error) {
      this.say(`${file.name}: ${error.message}`, true);
    }
  }

  async reconstruct(crystal, title) {
    const own = (this.current = {});
    this.say("encoding and decoding …");
    part("path").hidden = true;
    part("particles-figure").hidden = false;
    part("result").innerHTML = "";
    this.pause();
    this.moves = [];
    this.rest = [];
    this.moving = true;
    const inside = outside(crystal, this.about.domain, this.elements);
    part("warning").hidden = !inside.length;
    part("warning").textContent = inside.length ? `Unlike the training data: ${inside.join("; ")}. Nothing is known about what the model makes of it.` : "";
    part("title-input").innerHTML = `input: ${this.name(crystal)}, ${atoms(crystal.numbers.length)}`;
    this.scenes.input.show(crystal);
    this.scenes.decoded.show(null, crystal);
    this.scenes.particles.show(null, crystal);
    const state = { crystal, title };
    await this.ready;
    const begin = performance.now();
    const done = await this.ask({ task: "reconstruct", crystal }, (data) => {
      if (own !== this.current) return;
      if (data.part === "move") this.addMove(data);
      else {
        this.moving = false;
        if (data.part === "decoded") state.milliseconds = performance.now() - begin;
        this.showResult(Object.assign(state, { [data.part]: data }));
      }
    });
    if (own !== this.current) return;
    this.moving = false;
    this.showResult(Object.assign(state, { nearest: done.nearest }));
  }

  addMove({ from, to }) {
    const moving = [], rest = [];
    for (let p = 0; p < from.length; p += 3) {
      const length = Math.hypot(to[p] - from[p], to[p + 1] - from[p + 1], to[p + 2] - from[p + 2]);
      (length === 0 ? rest : moving).push(p);
      if (length === 0) this.rest.push(from[p], from[p + 1], from[p + 2]);
    }
    this.moves.push({ from, to, rest: this.rest.length });
    part("step").max = String(this.moves.length);
    if (this.moves.length === 1) {
      this.showStep(0);
      if (!still) this.play();
    }
    if (still) this.showStep(this.moves.length);
  }

  // The particles after `step` steps of step 2; a fraction stands for a place between two steps.
  showStep(step) {
    const i = Math.min(Math.floor(step), this.moves.length - 1);
    if (i < 0) return;
    const { from, to } = this.moves[i], share = step - i, before = i ? this.moves[i - 1].rest : 0;
    const positions = new Float32Array(from.length + before), lengths = new Float32Array(positions.length / 3);
    for (let p = 0; p < from.length; p++) positions[p] = from[p] + share * (to[p] - from[p]);
    for (let p = 0; p < from.length / 3; p++) lengths[p] = Math.hypot(to[3 * p] - from[3 * p], to[3 * p + 1] - from[3 * p + 1], to[3 * p + 2] - from[3 * p + 2]);
    positions.set(this.rest.slice(0, before), from.length);
    this.scenes.particles.showParticles(positions, lengths);
    part("step").value = String(step);
    part("title-particles").textContent = `particles after step ${Math.round(step)} of ${this.moves.length}`;
  }

  // While the worker still computes, the last step that is known is held.
  play() {
    let last = null, step = +part("step").value >= this.moves.length ? 0 : +part("step").value;
    const tick = (now) => {
      step = Math.min(step + (now - (last ?? now)) / STEP_MS, this.moves.length);
      last = now;
      this.showStep(step);
      if (this.moving || step < this.moves.length) this.timer = requestAnimationFrame(tick);
      else this.pause();
    };
    part("play").textContent = "pause";
    this.timer = requestAnimationFrame(tick);
  }

  pause() {
    cancelAnimationFrame(this.timer);
    this.timer = null;
    part("play").textContent = "play";
  }

  showResult({ crystal, title, decoded, polished, nearest, milliseconds }) {
    const { decoded: five } = decoded, certified = polished?.certified;
    const shown = certified ? polished.crystal : five;
    part("title-decoded").innerHTML = `decoded: ${this.name(shown)}, ${atoms(shown.numbers.length)}${certified ? ", corrected" : ""}`;
    this.scenes.decoded.show(shown.lattice && shown, crystal);
    const columns = [["five steps", decoded.errors, decoded.distance, five]];
    if (polished) columns.push(["corrected", polished.errors, polished.distance, polished.crystal]);
    const row = (name, value) => `<tr><th scope="row">${name}</th>${columns.map((c) => `<td>${value(c)}</td>`).join("")}</tr>`;
    const found = ([, e, , made]) => `${made.numbers.length}${e.atoms ? ` (of ${crystal.numbers.length})` : ""}`;
    const verdict = !polished
      ? five.numbers.length ? "asking the encoder …" : "Nothing was detected."
      : certified
        ? "<strong>Certified.</strong> The encoder gives the same latent vector for the corrected crystal as for the input, so it is right, or a twin that the encoder cannot tell from the input."
        : "<strong>Not certified.</strong> Correcting positions and cell does not lead back to the latent vector, so an atom or element is probably wrong, and the five steps stand. The library also searches among other numbers of atoms and elements: <code>nesf.reconstruct(…, mode=\"consistent\")</code>.";
    const list = nearest?.map(({ index, distance }) => {
      const near = this.atlas.crystal(index);
      return `<li><button type="button" data-index="${index}">${this.name(near)}</button> ${near.id}, ${atoms(near.numbers.length)}, distance ${digits(distance)}</li>`;
    });
    part("result").innerHTML = `
      <p class="nesf-verdict ${certified ? "nesf-good" : ""}">${verdict}</p>
      <table><caption>${title}: errors against the input</caption>
        <thead><tr><td></td>${columns.map(([name]) => `<th scope="col">${name}</th>`).join("")}</tr></thead>
        <tbody>${row("number of atoms", found)}${row("position error, Å", ([, e]) => digits(e.position))}
        ${row("wrong elements, %", ([, e]) => digits(e.species))}${row("cell lengths, Å", ([, e]) => digits(e.length))}
        ${row("cell angles, °", ([, e]) => digits(e.angle))}${row("latent distance d", ([, , d]) => digits(d))}</tbody></table>
      <p>${this.recorded()}</p>
      ${list ? `<p>Nearest training crystals, by the latent distance:</p><ol>${list.join("")}</ol>` : ""}`;
    for (const button of part("result").querySelectorAll("button")) button.addEventListener("click", () => this.take(+button.dataset.index, true));
    this.say(`decoded in ${(milliseconds / 1000).toFixed(2)} s in this browser`);
    root.dataset.milliseconds = String(Math.round(milliseconds));
    root.dataset.first ??= performance.now(); // ms since the page was opened
    root.dataset.state = nearest ? "done" : "decoded";
  }

  // What the recorded run of this model says of its test split.
  recorded() {
    const { n_materials: n, certified_percent: certified, certified_wrong_percent: wrong } = this.about.recorded;
    if (certified === undefined) return "";
    return `In the <a href="${this.about.run}/run.json">recorded run of this model</a>, with that search, ${certified.toFixed(1)} % of the ${n} test crystals are certified; of these, ${wrong.toFixed(1)} % are wrong.`;
  }

  explore() {
    const choices = colourings(this.atlas), select = part("colour");
    select.innerHTML = Object.keys(choices).map((name) => `<option>${name}</option>`).join("");
    this.map = new LatentMap(part("map"), this.atlas, (i) => this.hover(i), (i) => this.take(i));
    const recolour = () => {
      this.map.colourBy(choices[select.value]);
      part("legend").innerHTML = legend(choices[select.value]);
    };
    select.addEventListener("change", recolour);
    recolour();
    this.formulas = Array.from({ length: this.atlas.n }, (_, i) => formula(this.atlas.crystal(i).numbers, this.elements));
  }

  described(i) {
    const { atlas } = this, crystal = atlas.crystal(i);
    return `${this.name(crystal)}, ${crystal.id}, ${{ train: "training", val: "validation", test: "test" }[crystal.split]}, ${atoms(crystal.numbers.length)}${atlas.groups[i] ? `, space group ${atlas.groups[i]}` : ""}`;
  }

  hover(i) {
    part("hover").innerHTML = i < 0 ? "no crystal under the pointer" : this.described(i);
    if (i >= 0) this.scenes.hover.show(this.atlas.crystal(i));
  }

  search(text) {
    const wanted = text.trim().toLowerCase();
    const found = wanted ? [...this.formulas.keys()].filter((i) => this.formulas[i].toLowerCase() === wanted || this.atlas.ids[i] === wanted) : [];
    this.map.found = found;
    this.map.draw();
    const more = found.length > MOST_LISTED ? ` and ${found.length - MOST_LISTED} more on the map` : "";
    part("found").innerHTML = !wanted ? "" : found.length
      ? found.slice(0, MOST_LISTED).map((i) => `<button type="button" data-index="${i}">${this.described(i)}</button>`).join(" ") + more
      : `no crystal of this formula`;
    for (const button of part("found").querySelectorAll("button")) button.addEventListener("click", () => this.take(+button.dataset.index));
  }

  chosen(ends) {
    this.map.ends = ends;
    this.map.draw();
  }

  // A point of the map: the first one is reconstructed, with the second one the line is walked. A crystal
  // that was not taken from the map or the search (`alone`) begins no line.
  async take(i, alone = false) {
    const walks = !alone && this.clicked !== null && this.clicked !== i, ends = walks ? [this.clicked, i] : [i];
    this.clicked = alone || walks ? null : i;
    this.chosen(ends);
    try {
      if (ends.length === 1) await this.reconstruct(this.atlas.crystal(i), this.described(i));
      else await this.walk(ends.map((e) => this.atlas.crystal(e)));
    } catch (error) {
      this.say(error.message, true);
    }
  }

  async walk(ends) {
    const own = (this.current = {});
    this.pause();
    this.frames = Array(FRAMES).fill(null);
    part("warning").hidden = true;
    part("path").hidden = false;
    part("particles-figure").hidden = true;
    part("result").innerHTML = `<p>The straight line between the latent vectors of A, ${this.name(ends[0])}, and B, ${this.name(ends[1])}; each point of it is decoded by the five steps here.</p>`;
    part("title-input").innerHTML = `A: ${this.name(ends[0])}`;
    this.largest = ends.reduce((a, b) => (Math.max(...a.lengths) > Math.max(...b.lengths) ? a : b));
    this.scenes.input.show(ends[0], this.largest);
    part("t").max = String(FRAMES - 1);
    part("t").value = "0";
    this.ends = ends;
    await this.ready;
    for (let made = 0; made < FRAMES; made++) {
      const wanted = +part("t").value, next = this.frames[wanted] ? this.frames.indexOf(null) : wanted;
      const { decoded } = await this.ask({ task: "path", ends, t: next / (FRAMES - 1) });
      if (own !== this.current) return;
      this.frames[next] = decoded;
      this.showFrame();
      this.say(`${made + 1} of ${FRAMES} points decoded`);
    }
    root.dataset.state = "walked";
  }

  showFrame() {
    const i = +part("t").value, frame = this.frames[i];
    part("t-text").innerHTML = `t = ${(i / (FRAMES - 1)).toFixed(1)}`;
    part("title-decoded").innerHTML = frame ? `decoded: ${this.name(frame)}, ${atoms(frame.numbers.length)}` : "decoding …";
    this.scenes.decoded.show(frame, this.largest);
    const far = i > (FRAMES - 1) / 2 ? 1 : 0;
    part("title-input").innerHTML = `${"AB"[far]}: ${this.name(this.ends[far])}`;
    this.scenes.input.show(this.ends[far], this.largest);
  }
}

// Weights and crystals are in scripts of their own: they are loaded when the page has been drawn, and
// also where the book is opened from disk, where nothing may be fetched.
function script(file) {
  return new Promise((resolve, reject) => {
    const element = document.createElement("script");
    element.src = file;
    element.onload = resolve;
    element.onerror = () => reject(new Error(`${file} is missing`));
    document.head.appendChild(element);
  });
}

async function begin() {
  try {
    await Promise.all(["model.js", "atlas.js"].map((name) => script(`${root.dataset.folder}/${name}`)));
    part("still").hidden = true;
    part("app").hidden = false;
    const page = new Page(globalThis.nesfLive);
    await page.ready;
    await page.take(globalThis.nesfLive.first, true);
  } catch (error) {
    part("start").textContent = `The model could not be loaded: ${error.message}.`;
  }
}

if (root) begin();
