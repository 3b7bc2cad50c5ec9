// One matrix product in WebAssembly SIMD, assembled here byte by byte, so that nothing is compiled
// beforehand: Y = act(b + X W) for blocks of rows. Where the browser has no SIMD, plain JavaScript.

const I32 = 0x7f, V128 = 0x7b;
const ADD = [0xfd, 0xe4, 0x01], MUL = [0xfd, 0xe6, 0x01], PMAX = [0xfd, 0xeb, 0x01];

function unsigned(n) {
  const bytes = [];
  do {
    bytes.push((n & 127) | (n > 127 ? 128 : 0));
    n >>>= 7;
  } while (n);
  return bytes;
}

function section(id, content) {
  return [id, ...unsigned(content.length), ...content];
}

// The body of product(x, w, b, y, rows, k, panels, xStride, yStride, relu); pointers and strides in
// bytes, rows in fours, k even. W lies in panels of 8 columns, each [k, 8], so that a row of a panel
// is two vectors. Four rows times eight columns are summed in registers.
function body() {
  const names = ["x", "w", "b", "y", "rows", "k", "panels", "xs", "ys", "relu"];
  names.push("r", "yr", "wp", "end", "x0", "x1", "x2", "x3"); // more integers
  const vectors = ["w0", "w1", "s", "zero"];
  for (let i = 0; i < 4; i++) vectors.push(`a${i}`, `c${i}`);
  const index = Object.fromEntries([...names, ...vectors].map((name, i) => [name, i]));
  const get = (name) => [0x20, index[name]];
  const set = (name) => [0x21, index[name]];
  const constant = (n) => [0x41, n]; // below 64
  const plus = (name, ...more) => [...get(name), ...more.flat(), 0x6a, ...set(name)];
  const load = (name, offset) => [...get(name), 0xfd, 0x00, 2, ...unsigned(offset)];
  const splat = (name, offset) => [...get(name), 0xfd, 0x09, 2, ...unsigned(offset)];
  const store = (address, value, offset) =>
    [...get(address), ...get(value), 0xfd, 0x0b, 2, ...unsigned(offset)];
  const step = (u) => [
    ...load("wp", 32 * u), ...set("w0"), ...load("wp", 32 * u + 16), ...set("w1"),
    ...[0, 1, 2, 3].flatMap((i) => [
      ...splat(`x${i}`, 4 * u), ...set("s"),
      ...get(`a${i}`), ...get("s"), ...get("w0"), ...MUL, ...ADD, ...set(`a${i}`),
      ...get(`c${i}`), ...get("s"), ...get("w1"), ...MUL, ...ADD, ...set(`c${i}`),
    ]),
  ];
  const inner = [
    0x03, 0x40, // loop over k, two at a time
    ...step(0), ...step(1),
    ...[0, 1, 2, 3].flatMap((i) => plus(`x${i}`, constant(8))),
    ...get("wp"), 0x41, ...[0xc0, 0x00], 0x6a, 0x22, index.wp, // wp += 64
    ...get("end"), 0x47, 0x0d, 0, 0x0b,
  ];
  const rows = [
    0x03, 0x40, // loop over rows, four at a time
    ...[0, 1, 2, 3].flatMap((i) => [...load("b", 0), ...set(`a${i}`), ...load("b", 16), ...set(`c${i}`)]),
    ...get("w"), ...set("wp"),
    ...[1, 2, 3].flatMap((i) => [...get(`x${i - 1}`), ...get("xs"), 0x6a, ...set(`x${i}`)]),
    ...inner,
    ...get("relu"), 0x04, 0x40,
    ...[0, 1, 2, 3].flatMap((i) => [`a${i}`, `c${i}`].flatMap((v) => [...get(v), ...get("zero"), ...PMAX, ...set(v)])),
    0x0b,
    ...[0, 1, 2, 3].flatMap((i) => [
      ...store("yr", `a${i}`, 0), ...store("yr", `c${i}`, 16), ...plus("yr", get("ys")),
    ]),
    // x3 stands at the end of its row of k numbers: the next four rows begin one stride after its start
    ...get("x3"), ...get("xs"), 0x6a, ...get("k"), 0x41, 2, 0x74, 0x6b, ...set("x0"),
    ...plus("r", constant(4)), ...get("r"), ...get("rows"), 0x47, 0x0d, 0, 0x0b,
  ];
  const code = [
    0x03, 0x40, // loop over panels
    ...get("w"), ...get("k"), 0x41, 5, 0x74, 0x6a, ...set("end"),
    ...get("x"), ...set("x0"), ...get("y"), ...set("yr"), 0x41, 0, ...set("r"),
    ...rows,
    ...get("end"), ...set("w"), ...plus("b", constant(32)), ...plus("y", constant(32)),
    ...get("panels"), 0x41, 1, 0x6b, 0x22, index.panels, 0x0d, 0, 0x0b,
  ];
  const locals = [2, names.length - 10, I32, vectors.length, V128];
  const bytes = [...locals, ...code, 0x0b];
  return [...unsigned(bytes.length), ...bytes];
}

function assembled() {
  const type = [1, 0x60, 10, ...Array(10).fill(I32), 0];
  const memory = [1, 1, 0x6d, 1, 0x6d, 2, 0, 1]; // "m"."m", at least one page
  const exported = [1, 1, 0x70, 0, 0]; // "p"
  return new Uint8Array([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, // magic and version
    ...section(1, type), ...section(2, memory), ...section(3, [1, 0]),
    ...section(7, exported), ...section(10, [1, ...body()]),
  ]);
}

function plainProduct(memory) {
  const f = new Float32Array(memory);
  return function (x, w, b, y, rows, k, panels, xStride, yStride, relu) {
    const sums = new Float32Array(8);
    for (let p = 0; p < panels; p++)
      for (let r = 0; r < rows; r++) {
        sums.set(f.subarray(b / 4 + 8 * p, b / 4 + 8 * p + 8));
        for (let i = 0; i < k; i++) {
          const value = f[(x + r * xStride) / 4 + i];
          const row = w / 4 + (p * k + i) * 8;
          if (value !== 0) for (let j = 0; j < 8; j++) sums[j] += value * f[row + j];
        }
        const out = (y + r * yStride) / 4 + 8 * p;
        for (let j = 0; j < 8; j++) f[out + j] = relu && sums[j] < 0 ? 0 : sums[j];
      }
  };
}

// Return {buffer, product, simd} with `bytes` bytes of memory; `simd` false: without WebAssembly.
export function arena(bytes, simd = true) {
  if (simd && typeof WebAssembly === "object" && WebAssembly.validate(assembled())) {
    const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / 65536) });
    const instance = new WebAssembly.Instance(new WebAssembly.Module(assembled()), { m: { m: memory } });
    return { buffer: memory.buffer, product: instance.exports.p, simd: true };
  }
  const buffer = new ArrayBuffer(bytes);
  return { buffer, product: plainProduct(buffer), simd: false };
}
