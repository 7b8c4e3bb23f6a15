/** The last minutes of the server's metrics, a point for each poll. */
import { signal } from "@preact/signals";
import { call } from "../api";
import { models } from "../models";
import { growth, type Interval, parseMetrics, quantiles, rate, type Scrape, sum, workerOf } from "./prometheus";

export const POLL = 2000;
const MOST_POINTS = 300;
const MOST_WORKERS = 16;

/** Names of what is drawn. */
export const SERIES = [
  ...(["requests", "errors", "refused", "tokens", "p50", "p95", "p99", "tokenise", "queued", "forward"] as const),
  ...(["rows", "underWay", "waiting", "fill", "batchRows", "hits", "resident", "weights", "cache"] as const),
] as const;
export type Series = (typeof SERIES)[number];
export type Point = Record<Series, number | null>;

export const times = signal<number[]>([]);
export const points = signal<Point[]>([]);
export const problem = signal<unknown>(null);
export const isPaused = signal(false);
/** The model that is looked at; empty: all. */
export const onlyModel = signal("");
/** Reasons of refusals and how many there were since this page looked. */
export const refusals = signal<[string, number][]>([]);
/** Workers that have answered. */
export const workers = signal(0);
export const speeds = signal<Map<string, number>>(new Map());

interface Seen {
  scrape: Scrape;
  at: number;
}
const seen = new Map<string, Seen>();
const first = new Map<string, Scrape>();

/** Scrape every worker: each connection meets the next one. */
async function scrapes(): Promise<Map<string, Seen>> {
  const found = new Map<string, Seen>();
  for (let i = 0; i < MOST_WORKERS; i++) {
    const { data } = await call<string>("metrics", { isText: true, asksKey: false });
    const scrape = parseMetrics(data);
    const worker = workerOf(scrape);
    const isAgain = found.has(worker);
    found.set(worker, { scrape, at: performance.now() });
    if (isAgain || !worker) break;
  }
  return found;
}

export async function poll(): Promise<void> {
  let found: Map<string, Seen>;
  try {
    found = await scrapes();
    problem.value = null;
  } catch (error) {
    problem.value = error;
    return;
  }
  const intervals: Interval[] = [];
  for (const [worker, { scrape, at }] of found) {
    const before = seen.get(worker);
    if (!first.has(worker)) first.set(worker, scrape);
    if (before) intervals.push({ before: before.scrape, after: scrape, seconds: Math.max(0.001, (at - before.at) / 1000) });
    seen.set(worker, { scrape, at });
  }
  workers.value = seen.size;
  const latest = [...seen.values()].map((each) => each.scrape);
  speeds.value = new Map(
    (models.value ?? []).map(({ id }) => [
      id,
      latest.reduce((all, each) => all + sum(each, "emb_provider_measured_tokens_per_second", (it) => it["model"] === id), 0),
    ]),
  );
  if (!intervals.length) return;
  times.value = [...times.value, Date.now() / 1000].slice(-MOST_POINTS);
  points.value = [...points.value, pointOf(intervals, latest)].slice(-MOST_POINTS);
  refusals.value = refusalsSince(latest);
}

export function restart(): void {
  times.value = [];
  points.value = [];
  seen.clear();
}

function pointOf(intervals: Interval[], latest: Scrape[]): Point {
  const only = onlyModel.value;
  const ofModel = (labels: Record<string, string>) => !only || labels["model"] === only;
  const runsModel = (labels: Record<string, string>) => labels["task"] !== "" && ofModel(labels);
  const gauge = (name: string, wanted = ofModel) => latest.reduce((all, each) => all + sum(each, name, wanted), 0);
  const whole = (name: string) => gauge(name, () => true);
  const ratio = (part: number, all: number) => (all > 0 ? part / all : null);
  const mean = (name: string) =>
    ratio(growth(intervals, `${name}_sum`, ofModel), growth(intervals, `${name}_count`, ofModel));
  const [p50, p95, p99] = quantiles(intervals, "emb_provider_request_seconds", [0.5, 0.95, 0.99], runsModel);
  const hits = growth(intervals, "emb_provider_cache_hits_total", ofModel);
  const misses = growth(intervals, "emb_provider_cache_misses_total", ofModel);
  const errors = (of: string) =>
    rate(intervals, "emb_provider_requests_total", (each) => runsModel(each) && (each["status"] ?? "").startsWith(of));
  const milli = (value: number | null | undefined) => (value === null || value === undefined ? null : value * 1000);
  return {
    requests: rate(intervals, "emb_provider_requests_total", runsModel),
    errors: errors("5"),
    refused: errors("4"),
    tokens: rate(intervals, "emb_provider_tokens_total", ofModel),
    p50: milli(p50),
    p95: milli(p95),
    p99: milli(p99),
    tokenise: milli(mean("emb_provider_tokenise_seconds")),
    queued: milli(mean("emb_provider_queue_seconds")),
    forward: milli(mean("emb_provider_forward_seconds")),
    rows: gauge("emb_provider_queue_rows"),
    underWay: whole("emb_provider_requests_under_way"),
    waiting: whole("emb_provider_waiting_requests"),
    fill: fillOf(intervals, only),
    batchRows: mean("emb_provider_batch_rows"),
    hits: hits + misses > 0 ? (100 * hits) / (hits + misses) : null,
    resident: whole("process_resident_memory_bytes"),
    weights: gauge("emb_provider_model_resident_bytes"),
    cache: whole("emb_provider_cache_bytes"),
  };
}

/** Tokens of batches, in percent of the most that they may hold. */
function fillOf(intervals: Interval[], only: string): number | null {
  let [tokens, room] = [0, 0];
  for (const { id, batch_tokens: most } of models.value ?? []) {
    if (!most || (only && only !== id)) continue;
    const isIt = (labels: Record<string, string>) => labels["model"] === id;
    tokens += growth(intervals, "emb_provider_batch_tokens_sum", isIt);
    room += most * growth(intervals, "emb_provider_batch_tokens_count", isIt);
  }
  return room ? (100 * tokens) / room : null;
}

function refusalsSince(latest: Scrape[]): [string, number][] {
  const counts = new Map<string, number>();
  const add = (scrape: Scrape, sign: number) => {
    for (const { labels, value } of scrape.get("emb_provider_refusals_total") ?? []) {
      const reason = labels["reason"] ?? "";
      counts.set(reason, (counts.get(reason) ?? 0) + sign * value);
    }
  };
  for (const each of latest) add(each, 1);
  for (const each of first.values()) add(each, -1);
  return [...counts].filter(([, count]) => count > 0).sort((a, b) => b[1] - a[1]);
}
