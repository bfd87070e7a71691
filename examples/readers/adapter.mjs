// Reads a stored adapter (docs/format.md) in JavaScript, without any package.
//   import { load } from "./adapter.mjs";
//   const adapt = load("runs/first");  const q = adapt(vector);  const d = adapt(other, "document");
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

const KEYS = { identity: [], linear: ["W"], low_rank: ["A", "B"] };

export function load(folder) {
  const config = JSON.parse(readFileSync(`${folder}/config.json`, "utf8"));
  if (config.format !== "coreframe-adapter" || config.version !== 1)
    throw new Error(`${folder}: format ${config.format} ${config.version} is not read here`);
  const file = readFileSync(`${folder}/model.safetensors`);
  const start = 8 + Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.subarray(8, start).toString());
  const tensor = (name) => {
    const { dtype, shape, data_offsets: [begin, end] } = header[name];
    const bytes = file.subarray(start + begin, start + end);
    const sha256 = createHash("sha256").update(bytes).digest("hex");
    if (dtype !== "F32" || sha256 !== (config.arrays?.[name].sha256 ?? sha256))
      throw new Error(`${folder}: the array ${name} is damaged`);
    const numbers = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    return { numbers, width: shape.at(-1) };
  };
  const sides = Object.fromEntries(["query", "document"].map((name) => {
    const { form, bias } = config.sides[name];
    return [name, Object.fromEntries([...KEYS[form], ...(bias ? ["b"] : [])].map((k) => [k, tensor(`${name}.${k}`)]))];
  }));
  return (x, name = "query") => {
    if (x.length !== config.dimensions) throw new Error(`expected ${config.dimensions} numbers, got ${x.length}`);
    const { W, A, B, b } = sides[name], { scaling } = config.sides[name];
    let y = W ? times(x, W) : Float64Array.from(x);
    if (A) y = times(times(x, A), B).map((v, i) => x[i] + scaling * v);
    if (b) y = y.map((v, i) => v + b.numbers[i]);
    const length = config.normalize ? Math.hypot(...y) : 1;
    return y.map((v) => v / (length || 1));
  };
}

function times(x, { numbers, width }) {
  const y = new Float64Array(width);
  for (let i = 0; i < x.length; i++) for (let j = 0; j < width; j++) y[j] += x[i] * numbers[i * width + j];
  return y;
}
