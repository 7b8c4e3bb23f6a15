/** Texts to vectors by the server, in parts, with progress. */
import { ApiError, call, sleep } from "./api";
import type { Output } from "./models";

export interface Sparse {
  indices: number[];
  values: number[];
}

/** One text's vector; several for `multi_vector`. */
export interface Vector {
  dense?: Float32Array;
  sparse?: Sparse;
  multi?: Float32Array[];
}

/** Milliseconds, summed over requests; `rest` is all else, the network among it. */
export interface Times {
  tokenise: number;
  queue: number;
  forward: number;
  rest: number;
}

export interface Embedded {
  vectors: Vector[];
  tokens: number;
  cached: number;
  truncated: number[];
  times: Times;
  fingerprint: string;
}

export interface EmbedOptions {
  output: Output;
  inputType?: string;
  dimensions?: number | undefined;
  truncate?: string;
  signal?: AbortSignal;
  onProgress?: (done: number) => void;
}

const PART_TEXTS = 64;
const PART_CHARACTERS = 60_000;
const MOST_TRIES = 5;

export function noTimes(): Times {
  return { tokenise: 0, queue: 0, forward: 0, rest: 0 };
}

/** Add what an answer's `server-timing` says. Returns how many inputs came from the cache. */
export function addTimes(times: Times, headers: Headers, elapsed: number): number {
  const said = new Map<string, string>();
  for (const part of (headers.get("server-timing") ?? "").split(",")) {
    const [name, value] = part.trim().split(";");
    if (name && value) said.set(name, value.replace(/^(dur|desc)=/, "").replaceAll('"', ""));
  }
  let known = 0;
  for (const name of ["tokenise", "queue", "forward"] as const) {
    const spent = Number(said.get(name) ?? 0);
    times[name] += spent;
    known += spent;
  }
  times.rest += Math.max(0, elapsed - known);
  return said.has("cache") ? Number(said.get("cache")) : -1;
}

/** Ends of parts that one request may hold. */
export function* parts(texts: readonly string[]): Generator<[number, number]> {
  let start = 0;
  let characters = 0;
  for (let end = 0; end < texts.length; end++) {
    const length = texts[end]!.length;
    if (end > start && (end - start === PART_TEXTS || characters + length > PART_CHARACTERS)) {
      yield [start, end];
      start = end;
      characters = 0;
    }
    characters += length;
  }
  if (start < texts.length) yield [start, texts.length];
}

/** The body of a request for vectors, as the page and the code that it shows send it. */
export function embedBody(model: string, texts: readonly string[], options: EmbedOptions): Record<string, unknown> {
  const body: Record<string, unknown> = { model, input: texts };
  if (options.output !== "dense") body["output_types"] = options.output;
  if (options.dimensions) body["dimensions"] = options.dimensions;
  if (options.inputType) body["input_type"] = options.inputType;
  if (options.truncate) body["truncate"] = options.truncate;
  return body;
}

interface EmbeddingsAnswer {
  data: { embedding?: string; sparse?: Sparse; multi_vector?: string[] }[];
  usage: { total_tokens: number };
  truncated?: { index: number }[];
}

export async function embed(model: string, texts: readonly string[], options: EmbedOptions): Promise<Embedded> {
  const done: Embedded = { vectors: [], tokens: 0, cached: 0, truncated: [], times: noTimes(), fingerprint: "" };
  for (const [start, end] of parts(texts)) {
    const body = { ...embedBody(model, texts.slice(start, end), options), encoding_format: "base64" };
    const isLong = texts.length > PART_TEXTS;
    const { data, headers, elapsed } = await patient<EmbeddingsAnswer>("v1/embeddings", body, options.signal, isLong);
    for (const each of data.data) done.vectors.push(vectorOf(each));
    done.tokens += data.usage.total_tokens;
    done.truncated.push(...(data.truncated ?? []).map((each) => start + each.index));
    done.fingerprint = headers.get("x-model-fingerprint") ?? "";
    const cached = addTimes(done.times, headers, elapsed);
    // The header is missing where the whole response came from the cache.
    done.cached += cached < 0 ? end - start : cached;
    options.onProgress?.(end);
  }
  return done;
}

/** As `call`; a busy server is asked again. Long jobs give way to other callers. */
export async function patient<T>(path: string, body: unknown, signal?: AbortSignal, isLong = false) {
  const headers: Record<string, string> = isLong ? { "x-priority": "bulk" } : {};
  for (let tries = 1; ; tries++) {
    try {
      return await call<T>(path, { body, signal, headers });
    } catch (error) {
      const isBusy = error instanceof ApiError && error.status === 429 && error.retryAfter > 0;
      if (!isBusy || tries === MOST_TRIES) throw error;
      await sleep(error.retryAfter * 1000, signal);
    }
  }
}

function vectorOf(each: EmbeddingsAnswer["data"][number]): Vector {
  const vector: Vector = {};
  if (each.embedding !== undefined) vector.dense = floats(each.embedding);
  if (each.sparse !== undefined) vector.sparse = each.sparse;
  if (each.multi_vector !== undefined) vector.multi = each.multi_vector.map(floats);
  return vector;
}

/** Little-endian float32, as every browser's machine has them. */
function floats(base64: string): Float32Array {
  const bytes = Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

export interface ReadToken {
  id: number;
  text: string;
  special: boolean;
  prompt: boolean;
  cut: boolean;
  vector: number | null;
}

export interface ReadTexts {
  limit: number;
  data: ReadToken[][];
}

export async function readTokens(
  model: string,
  texts: readonly string[],
  options: { inputType?: string; truncate?: string; signal?: AbortSignal },
): Promise<ReadTexts> {
  const body: Record<string, unknown> = { model, input: texts };
  if (options.inputType) body["input_type"] = options.inputType;
  if (options.truncate) body["truncate"] = options.truncate;
  return (await call<ReadTexts>("ui/tokens", { body, signal: options.signal })).data;
}

/** What token ids of a model stand for. */
export async function wordsOf(model: string, ids: readonly number[], signal?: AbortSignal): Promise<Map<number, string>> {
  const found = new Map<number, string>();
  for (let start = 0; start < ids.length; start += 1000) {
    const part = ids.slice(start, start + 1000);
    const { data } = await call<{ data: string[] }>("ui/words", { body: { model, ids: part }, signal });
    part.forEach((id, index) => found.set(id, data.data[index]!));
  }
  return found;
}
