/** The server's metrics: from Prometheus' text to rates between two scrapes. */

export interface Sample {
  labels: Record<string, string>;
  value: number;
}
export type Scrape = Map<string, Sample[]>;

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

export function parseMetrics(text: string): Scrape {
  const scrape: Scrape = new Map();
  for (const line of text.split("\n")) {
    const found = line.startsWith("#") ? null : LINE.exec(line);
    if (!found) continue;
    const labels: Record<string, string> = {};
    for (const [, name, value] of (found[2] ?? "").matchAll(LABEL)) {
      labels[name!] = value!.replace(/\\(.)/g, (_, each: string) => (each === "n" ? "\n" : each));
    }
    const value = found[3] === "+Inf" ? Infinity : Number(found[3]);
    const samples = scrape.get(found[1]!);
    if (samples) samples.push({ labels, value });
    else scrape.set(found[1]!, [{ labels, value }]);
  }
  return scrape;
}

export function workerOf(scrape: Scrape): string {
  return scrape.get("emb_provider_requests_under_way")?.[0]?.labels["worker"] ?? "";
}

type Wanted = (labels: Record<string, string>) => boolean;

export function sum(scrape: Scrape, name: string, wanted: Wanted = () => true): number {
  return (scrape.get(name) ?? []).reduce((all, each) => (wanted(each.labels) ? all + each.value : all), 0);
}

/** Two scrapes of one worker. */
export interface Interval {
  before: Scrape;
  after: Scrape;
  seconds: number;
}

/** What counters grew by, over all workers. One that starts again counts from zero. */
export function growth(intervals: Interval[], name: string, wanted?: Wanted): number {
  return intervals.reduce((all, { before, after }) => {
    const now = sum(after, name, wanted);
    const grown = now - sum(before, name, wanted);
    return all + (grown >= 0 ? grown : now);
  }, 0);
}

export function rate(intervals: Interval[], name: string, wanted?: Wanted): number {
  return intervals.reduce((all, each) => all + growth([each], name, wanted) / each.seconds, 0);
}

/** Quantiles of what a histogram observed meanwhile, as Prometheus interpolates; null: nothing. */
export function quantiles(intervals: Interval[], name: string, shares: number[], wanted: Wanted): (number | null)[] {
  const bounds = new Map<number, number>();
  for (const { after } of intervals) {
    for (const { labels } of after.get(`${name}_bucket`) ?? []) {
      const le = labels["le"] === "+Inf" ? Infinity : Number(labels["le"]);
      if (!bounds.has(le)) bounds.set(le, 0);
    }
  }
  const all = [...bounds.keys()].sort((a, b) => a - b);
  for (const le of all) {
    const isAt: Wanted = (labels) =>
      (labels["le"] === "+Inf" ? Infinity : Number(labels["le"])) === le && wanted(labels);
    bounds.set(le, growth(intervals, `${name}_bucket`, isAt));
  }
  const total = bounds.get(Infinity) ?? 0;
  return shares.map((share) => {
    if (!total) return null;
    const rank = share * total;
    const at = all.findIndex((le) => bounds.get(le)! >= rank);
    const [upper, lower] = [all[at]!, at > 0 ? all[at - 1]! : 0];
    if (upper === Infinity) return lower;
    const below = at > 0 ? bounds.get(lower)! : 0;
    const inside = bounds.get(upper)! - below;
    return inside ? lower + ((upper - lower) * (rank - below)) / inside : upper;
  });
}
