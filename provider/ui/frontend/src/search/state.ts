/** A query against documents, by several ways of ranking at once. */
import { computed, signal } from "@preact/signals";
import type { ApiRequest } from "../code";
import { SEARCH_SETS } from "../examples";
import { Job, steps } from "../job";
import { similarity } from "../math";
import { gives, inRole, measureOf, type Model, type Output, ready, rerankers } from "../models";
import { linesOf } from "../texts";
import {
  addTimes,
  embed,
  embedBody,
  noTimes,
  parts,
  patient,
  readTokens,
  type ReadToken,
  type Times,
  type Vector,
  wordsOf,
} from "../vectors";

/** A model and one of its outputs. */
export interface Way {
  id: string;
  model: Model;
  output: Output;
}

export interface Ranking {
  way: Way;
  measure: string;
  /** By document. */
  scores: number[];
  /** Documents, the best first. */
  order: number[];
  times: Times;
  request: ApiRequest;
  /** Of sparse and token vectors: the query's first, then the documents'. */
  vectors: Vector[];
  words: Map<number, string> | null;
  tokens: ReadToken[][] | null;
}

const MOST_DETAILED = 200;
const MOST_WORDS = 2000;

export const query = signal(SEARCH_SETS[0]!.query);
export const documents = signal(SEARCH_SETS[0]!.documents.join("\n"));
export const job = new Job();
export const results = signal<{ query: string; documents: string[]; rankings: Ranking[] } | null>(null);
/** The document that is marked in all rankings. */
export const marked = signal<number | null>(null);

const OUTPUTS: Output[] = ["dense", "sparse", "multi_vector"];

export const ways = computed<Way[]>(() => [
  ...ready.value.flatMap((model) =>
    OUTPUTS.filter((output) => gives(model, output)).map((output) => ({ id: `${output} ${model.id}`, model, output })),
  ),
  ...rerankers.value.map((model) => ({ id: `scores ${model.id}`, model, output: "scores" as const })),
]);

/** Ways that were switched on or off by hand, by id. */
export const switched = signal<Record<string, boolean>>({});

/** By default one of each kind. */
export const chosen = computed<Way[]>(() => {
  const kinds = new Set<Output>();
  return ways.value.filter((each) => {
    const isFirst = !kinds.has(each.output);
    kinds.add(each.output);
    return switched.value[each.id] ?? isFirst;
  });
});

export async function run(): Promise<void> {
  const [asked, texts] = [query.value.trim(), linesOf(documents.value)];
  const wanted = chosen.value;
  if (!asked || !texts.length || !wanted.length) return;
  await job.run(texts.length * wanted.length, async (abort, advance) => {
    const rankings: Ranking[] = [];
    for (const way of wanted) {
      rankings.push(
        way.output === "scores"
          ? await rerank(way, asked, texts, abort, advance)
          : await compare(way, asked, texts, abort, advance),
      );
    }
    marked.value = rankings[0]!.order[0]!;
    results.value = { query: asked, documents: texts, rankings };
  });
}

function ordered(scores: number[]): number[] {
  return scores.map((_, index) => index).sort((a, b) => scores[b]! - scores[a]! || a - b);
}

type Advance = (by: number) => void;

async function rerank(
  way: Way,
  asked: string,
  texts: string[],
  abort: AbortSignal,
  advance: Advance,
): Promise<Ranking> {
  const scores = new Array<number>(texts.length).fill(0);
  const times = noTimes();
  const ranges = [...parts(texts)];
  const bodyOf = (from: number, to: number) => ({
    model: way.model.id,
    query: asked,
    documents: texts.slice(from, to),
    truncate: true,
  });
  for (const [start, end] of ranges) {
    const { data, headers, elapsed } = await patient<{ results: { index: number; relevance_score: number }[] }>(
      "v1/rerank",
      bodyOf(start, end),
      abort,
      ranges.length > 1,
    );
    for (const each of data.results) scores[start + each.index] = each.relevance_score;
    addTimes(times, headers, elapsed);
    advance(end - start);
  }
  const request = { path: "v1/rerank", body: bodyOf(0, ranges[0]![1]) };
  return {
    ...{ way, measure: "relevance", scores, order: ordered(scores), times, request },
    ...{ vectors: [], words: null, tokens: null },
  };
}

async function compare(
  way: Way,
  asked: string,
  texts: string[],
  abort: AbortSignal,
  advance: Advance,
): Promise<Ranking> {
  const { model, output } = way;
  const measure = measureOf(model, output);
  const common = { output, signal: abort, truncate: "END" };
  const [query, document] = [inRole(model, "query"), inRole(model, "document")];
  const ofQuery = await embed(query.name, [asked], { ...common, ...query });
  const ofTexts = await embed(document.name, texts, { ...common, ...document, onProgress: steps(advance) });
  const [asking] = ofQuery.vectors;
  const scores = ofTexts.vectors.map((each) => similarity(asking!, each, output, measure));
  const times = noTimes();
  for (const name of Object.keys(times) as (keyof Times)[]) times[name] = ofQuery.times[name] + ofTexts.times[name];
  const vectors = output === "dense" ? [] : [asking!, ...ofTexts.vectors];
  const [, end] = parts(texts).next().value!;
  const body = embedBody(document.name, texts.slice(0, end), { output, truncate: "END", ...document });
  return {
    ...{ way, measure, scores, order: ordered(scores), times, vectors },
    request: { path: "v1/embeddings", body },
    words: output === "sparse" ? await words(model.id, vectors, abort) : null,
    tokens: output === "multi_vector" ? await tokensOf(model, asked, texts, abort) : null,
  };
}

/** Words of the query's ids, then of the largest weights of documents. */
async function words(model: string, vectors: Vector[], abort: AbortSignal): Promise<Map<number, string>> {
  const ids = new Set<number>();
  for (const { sparse } of vectors.slice(0, MOST_DETAILED + 1)) {
    for (const each of heaviest(sparse!, 20)) if (ids.size < MOST_WORDS) ids.add(each.id);
  }
  const [ofQuery] = vectors;
  for (const id of ofQuery!.sparse!.indices) ids.add(id);
  return wordsOf(model, [...ids], abort);
}

export function heaviest(sparse: NonNullable<Vector["sparse"]>, count: number): { id: number; weight: number }[] {
  return sparse.indices
    .map((id, index) => ({ id, weight: sparse.values[index]! }))
    .sort((a, b) => b.weight - a.weight)
    .slice(0, count);
}

async function tokensOf(model: Model, asked: string, texts: string[], abort: AbortSignal): Promise<ReadToken[][]> {
  const cut = { truncate: "END", signal: abort };
  const [query, document] = [inRole(model, "query"), inRole(model, "document")];
  const found = [...(await readTokens(query.name, [asked], { ...cut, ...query })).data];
  for (const [start, end] of parts(texts.slice(0, MOST_DETAILED))) {
    found.push(...(await readTokens(document.name, texts.slice(start, end), { ...cut, ...document })).data);
  }
  return found;
}
