/** Similarities, their map, and how two of them agree. */
import type { Output } from "./models";
import type { Vector } from "./vectors";

/** Values of rows by columns, `values[row * size + column]`. */
export interface Matrix {
  size: number;
  values: Float32Array;
}

function dot(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

export function cosine(a: Float32Array, b: Float32Array): number {
  const length = Math.sqrt(dot(a, a) * dot(b, b));
  return length ? dot(a, b) / length : 0;
}

/** Both have ascending ids. */
function sparseDot(a: NonNullable<Vector["sparse"]>, b: NonNullable<Vector["sparse"]>): number {
  let sum = 0;
  for (let i = 0, j = 0; i < a.indices.length && j < b.indices.length; ) {
    const difference = a.indices[i]! - b.indices[j]!;
    if (difference === 0) sum += a.values[i++]! * b.values[j++]!;
    else if (difference < 0) i++;
    else j++;
  }
  return sum;
}

/** The sum over a query's tokens of the most similar token of a document. */
export function maxSim(query: Float32Array[], document: Float32Array[]): number {
  return query.reduce((sum, each) => sum + Math.max(...document.map((other) => dot(each, other))), 0);
}

export function similarity(a: Vector, b: Vector, output: Output, measure: string): number {
  if (output === "sparse") return sparseDot(a.sparse!, b.sparse!);
  if (output === "multi_vector") return maxSim(a.multi!, b.multi!);
  return measure === "cosine" ? cosine(a.dense!, b.dense!) : dot(a.dense!, b.dense!);
}

/** Dot products of all pairs; dense vectors are scaled to length 1 first for cosines. */
export async function similarities(
  vectors: Vector[],
  output: Output,
  measure: string,
  signal?: AbortSignal,
): Promise<Matrix> {
  const size = vectors.length;
  const values = new Float32Array(size * size);
  const isDense = output === "dense";
  const rows = isDense && measure === "cosine" ? vectors.map((each) => ({ dense: unit(each.dense!) })) : vectors;
  let paused = performance.now();
  for (let i = 0; i < size; i++) {
    // MaxSim is not symmetric.
    for (let j = output === "multi_vector" ? 0 : i; j < size; j++) {
      const value = isDense ? dot(rows[i]!.dense!, rows[j]!.dense!) : similarity(rows[i]!, rows[j]!, output, measure);
      values[i * size + j] = value;
      if (output !== "multi_vector") values[j * size + i] = value;
    }
    if (performance.now() - paused > 30) {
      await new Promise((resolve) => setTimeout(resolve));
      signal?.throwIfAborted();
      paused = performance.now();
    }
  }
  return { size, values };
}

function unit(vector: Float32Array): Float32Array {
  const length = Math.sqrt(dot(vector, vector)) || 1;
  return vector.map((each) => each / length);
}

export interface Point {
  x: number;
  y: number;
}

/** The first two principal components of what has these dot products, and the share of variance that they hold. */
export function principalMap(matrix: Matrix): { points: Point[]; share: number } {
  const { size } = matrix;
  const centred = new Float64Array(size * size);
  const means = new Float64Array(size);
  let mean = 0;
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) means[i]! += (matrix.values[i * size + j]! + matrix.values[j * size + i]!) / 2 / size;
    mean += means[i]! / size;
  }
  let trace = 0;
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) {
      const both = (matrix.values[i * size + j]! + matrix.values[j * size + i]!) / 2;
      centred[i * size + j] = both - means[i]! - means[j]! + mean;
    }
    trace += centred[i * size + i]!;
  }
  const first = largest(centred, size);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) centred[i * size + j]! -= first.value * first.vector[i]! * first.vector[j]!;
  }
  const second = largest(centred, size);
  const [a, b] = [Math.sqrt(Math.max(0, first.value)), Math.sqrt(Math.max(0, second.value))];
  const points = Array.from({ length: size }, (_, i) => ({ x: a * first.vector[i]!, y: b * second.vector[i]! }));
  return { points, share: trace > 1e-12 ? Math.min(1, (a * a + b * b) / trace) : 1 };
}

/** The largest eigenvalue of a symmetric matrix and its vector, by power iteration. */
function largest(matrix: Float64Array, size: number): { value: number; vector: Float64Array } {
  // The same start each time: the same texts give the same map.
  let vector = Float64Array.from({ length: size }, (_, i) => Math.sin(i + 1));
  let value = 0;
  for (let round = 0; round < 200; round++) {
    const next = new Float64Array(size);
    for (let i = 0; i < size; i++) {
      let sum = 0;
      for (let j = 0; j < size; j++) sum += matrix[i * size + j]! * vector[j]!;
      next[i] = sum;
    }
    const length = Math.hypot(...next);
    if (length < 1e-12) return { value: 0, vector: new Float64Array(size) };
    for (let i = 0; i < size; i++) next[i]! /= length;
    let change = 0;
    for (let i = 0; i < size; i++) change = Math.max(change, Math.abs(next[i]! - vector[i]!));
    vector = next;
    value = length;
    if (change < 1e-9) break;
  }
  return { value, vector };
}

/** Places of the `count` largest values of a row, the largest first, without the row itself. */
export function neighbours(matrix: Matrix, row: number, count: number): number[] {
  const others = Array.from({ length: matrix.size }, (_, i) => i).filter((each) => each !== row);
  const value = (each: number) => matrix.values[row * matrix.size + each]!;
  return others.sort((a, b) => value(b) - value(a) || a - b).slice(0, count);
}

/** Spearman's rank correlation of the values of all pairs. */
export function agreement(a: Matrix, b: Matrix): number {
  const [x, y]: [number[], number[]] = [[], []];
  for (let i = 0; i < a.size; i++) {
    for (let j = i + 1; j < a.size; j++) {
      x.push(a.values[i * a.size + j]!);
      y.push(b.values[i * a.size + j]!);
    }
  }
  return correlation(ranks(x), ranks(y));
}

function correlation(x: number[], y: number[]): number {
  const mean = (each: number[]) => each.reduce((sum, value) => sum + value, 0) / each.length;
  const [mx, my] = [mean(x), mean(y)];
  let [xy, xx, yy] = [0, 0, 0];
  for (let i = 0; i < x.length; i++) {
    xy += (x[i]! - mx) * (y[i]! - my);
    xx += (x[i]! - mx) ** 2;
    yy += (y[i]! - my) ** 2;
  }
  return xx && yy ? xy / Math.sqrt(xx * yy) : 1;
}

/** Ranks from 1; equal values share the mean of theirs. */
function ranks(values: number[]): number[] {
  const order = values.map((_, index) => index).sort((a, b) => values[a]! - values[b]!);
  const found = new Array<number>(values.length);
  for (let start = 0; start < order.length; ) {
    let end = start + 1;
    while (end < order.length && values[order[end]!] === values[order[start]!]) end++;
    for (let i = start; i < end; i++) found[order[i]!] = (start + end + 1) / 2;
    start = end;
  }
  return found;
}
