/** Two models on the same texts: how far their vectors, similarities and neighbours agree. */
import "./compare.css";
import { computed, signal } from "@preact/signals";
import { TEXT_SETS } from "./examples";
import { Job, JobState, steps } from "./job";
import { agreement, cosine, type Matrix, neighbours, similarities } from "./math";
import { inRole, measureOf, type Model, type Output, vectorModels } from "./models";
import { decimals, Empty, NoModels, Select, shortened } from "./parts";
import { Examples, linesOf, TextsField } from "./texts";
import { embed } from "./vectors";

const MOST_TEXTS = 500;
const MOST_NEIGHBOURS = 5;
const MOST_POINTS = 2000;
const SIDE = 320;
const LEFT = 60;

interface Change {
  text: number;
  before: number[];
  after: number[];
  kept: number;
}

interface Comparison {
  names: [string, string];
  measures: [string, string];
  texts: string[];
  matrices: [Matrix, Matrix];
  /** Between both vectors of each text; null where their widths differ or they are not dense. */
  cosines: number[] | null;
  agreement: number;
  neighbours: number;
  changes: Change[];
}

const text = signal(TEXT_SETS[0]!.texts.join("\n"));
const names = signal<[string, string]>(["", ""]);
const job = new Job();
const result = signal<Comparison | null>(null);

const chosen = computed<[Model | undefined, Model | undefined]>(() => {
  const found = vectorModels.value;
  const named = (name: string) => found.find((each) => each.id === name);
  const first = named(names.value[0]) ?? found[0];
  return [first, named(names.value[1]) ?? found.find((each) => each !== first)];
});

const mainOutput = (model: Model): Output => model.outputs![0]!;

async function run(): Promise<void> {
  const texts = linesOf(text.value).slice(0, MOST_TEXTS);
  const [a, b] = chosen.value;
  if (!a || !b || texts.length < 2) return;
  await job.run(2 * texts.length, async (abort, advance) => {
    const embedded = [];
    const matrices: Matrix[] = [];
    for (const each of [a, b]) {
      const output = mainOutput(each);
      const { name, ...role } = inRole(each, "document");
      const asked = { ...role, output, signal: abort, truncate: "END", onProgress: steps(advance) };
      const done = await embed(name, texts, asked);
      embedded.push(done.vectors);
      matrices.push(await similarities(done.vectors, output, measureOf(each, output), abort));
    }
    const [first, second] = matrices as [Matrix, Matrix];
    const [x, y] = [embedded[0]!, embedded[1]!];
    const areAlike = x[0]?.dense !== undefined && x[0].dense.length === y[0]?.dense?.length;
    const count = Math.min(MOST_NEIGHBOURS, texts.length - 1);
    const changes = texts.map((_, index) => {
      const [before, after] = [neighbours(first, index, count), neighbours(second, index, count)];
      return { text: index, before, after, kept: before.filter((each) => after.includes(each)).length };
    });
    result.value = {
      names: [a.id, b.id],
      measures: [measureOf(a, mainOutput(a)), measureOf(b, mainOutput(b))],
      texts,
      matrices: [first, second],
      cosines: areAlike ? x.map((each, index) => cosine(each.dense!, y[index]!.dense!)) : null,
      agreement: agreement(first, second),
      neighbours: count,
      changes: changes.sort((p, q) => p.kept - q.kept),
    };
  });
}

export function CompareView() {
  const found = vectorModels.value;
  return (
    <div class="two-columns">
      <section class="card" aria-label="Input">
        <Form />
      </section>
      <section class="card" aria-label="Result">
        <NoModels needs="vectors" found={found} />
        <JobState job={job} label="Comparing" onRetry={() => void run()} />
        {found.length === 1 && (
          <Empty title="There is only one model to look at">
            <p>
              Add another under models:, or the same one with another dtype or backend and a name of its own, to see where
              they differ.
            </p>
            <pre tabIndex={0} aria-label="Example of a configuration">
              {`models:\n  - name: ${found[0]!.id}-bf16\n    repo: ${found[0]!.id}\n    dtype: bfloat16`}
            </pre>
          </Empty>
        )}
        {found.length > 1 && <Outcome />}
      </section>
    </div>
  );
}

function Form() {
  const [a, b] = chosen.value;
  const options = vectorModels.value.map((each) => [each.id, each.id] as const);
  const count = linesOf(text.value).length;
  const submit = (event: Event) => {
    event.preventDefault();
    void run();
  };
  return (
    <form onSubmit={submit}>
      <TextsField label="Texts" value={text.value} onChange={(value) => (text.value = value)} />
      <Examples sets={TEXT_SETS} onChoose={(index) => (text.value = TEXT_SETS[index]!.texts.join("\n"))} />
      <Select
        label="First model"
        value={a?.id ?? ""}
        options={options}
        onChange={(value) => (names.value = [value, b && b.id !== value ? b.id : ""])}
      />
      <Select
        label="Second model"
        value={b?.id ?? ""}
        options={options.filter(([id]) => id !== a?.id)}
        onChange={(value) => (names.value = [a?.id ?? "", value])}
      />
      <button type="submit" class="primary wide" disabled={!a || !b || count < 2}>
        Compare
      </button>
      {count > MOST_TEXTS && <p class="hint">The first {MOST_TEXTS} texts are compared.</p>}
      {count < 2 && <p class="hint">Two texts or more are needed.</p>}
    </form>
  );
}

function Outcome() {
  const found = result.value;
  if (!found) {
    return job.isRunning.value ? null : (
      <Empty title="Nothing compared yet">
        <p>Choose two models and press Compare: you see whether they rank the same texts as neighbours.</p>
      </Empty>
    );
  }
  const { cosines, changes, texts } = found;
  const kept = changes.reduce((sum, each) => sum + each.kept, 0) / (changes.length * found.neighbours);
  const facts: [string, string, string][] = [
    ["Order of pairs", found.agreement.toFixed(4), "Spearman's correlation of all similarities"],
    ["Neighbours kept", `${(100 * kept).toFixed(1)} %`, `of the ${found.neighbours} nearest of each text`],
  ];
  if (cosines) {
    const mean = cosines.reduce((sum, each) => sum + each, 0) / cosines.length;
    facts.push(["Least cosine", Math.min(...cosines).toFixed(6), "between both vectors of a text"]);
    facts.push(["Mean cosine", mean.toFixed(6), "over all texts"]);
  }
  return (
    <>
      <dl class="facts wide">
        {facts.map(([name, value, hint]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd class="number">{value}</dd>
            <dd class="hint">{hint}</dd>
          </div>
        ))}
      </dl>
      {!cosines && (
        <p class="hint">The vectors have different spaces: only similarities and neighbours can be compared.</p>
      )}
      <h2>Similarities of all pairs</h2>
      <Scatter found={found} />
      <h2>Nearest neighbours</h2>
      <Changes found={found} texts={texts} />
    </>
  );
}

/** A point for each pair of texts: on a line where both models agree. */
function Scatter({ found }: { found: Comparison }) {
  const [a, b] = found.matrices;
  const points: [number, number][] = [];
  const pairs = (a.size * (a.size - 1)) / 2;
  const step = Math.max(1, Math.ceil(pairs / MOST_POINTS));
  let count = 0;
  for (let i = 0; i < a.size; i++) {
    for (let j = i + 1; j < a.size; j++) {
      if (count++ % step === 0) points.push([a.values[i * a.size + j]!, b.values[i * b.size + j]!]);
    }
  }
  const axis = (index: 0 | 1) => {
    const all = points.map((each) => each[index]);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    return { low, high, at: (value: number) => (high > low ? (value - low) / (high - low) : 0.5) };
  };
  const [x, y] = [axis(0), axis(1)];
  const inner = SIDE - LEFT - 30;
  return (
    <svg
      class="scatter"
      viewBox={`0 0 ${SIDE} ${SIDE}`}
      role="img"
      aria-label={`Similarities by ${found.names[0]} across, by ${found.names[1]} up; correlation ${found.agreement.toFixed(3)}`}
    >
      <path d={`M${LEFT} 10 V${SIDE - 40} H${SIDE - 10}`} />
      {points.map(([p, q], index) => (
        <circle key={index} cx={LEFT + 10 + inner * x.at(p)} cy={SIDE - 50 - (SIDE - 70) * y.at(q)} r="3" />
      ))}
      <text x={(SIDE + LEFT) / 2} y={SIDE - 6} text-anchor="middle">
        {shortened(found.names[0], 40)}
      </text>
      <text x="12" y={(SIDE - 30) / 2} text-anchor="middle" transform={`rotate(-90 12 ${(SIDE - 30) / 2})`}>
        {shortened(found.names[1], 40)}
      </text>
      <text x={LEFT + 6} y={SIDE - 26}>
        {decimals(x.low)}
      </text>
      <text x={SIDE - 10} y={SIDE - 26} text-anchor="end">
        {decimals(x.high)}
      </text>
      <text x={LEFT - 6} y={SIDE - 46} text-anchor="end">
        {decimals(y.low)}
      </text>
      <text x={LEFT - 6} y="20" text-anchor="end">
        {decimals(y.high)}
      </text>
    </svg>
  );
}

const SHOWN_CHANGES = 30;

function Changes({ found, texts }: { found: Comparison; texts: string[] }) {
  const changed = found.changes.filter((each) => each.kept < found.neighbours);
  if (!changed.length) return <p>Every text has the same {found.neighbours} nearest neighbours in both.</p>;
  const list = (model: string, places: number[], others: number[]) => (
    <div>
      <p class="hint">by {model}</p>
      <ol>
        {places.map((place) => (
          <li key={place} class={others.includes(place) ? "" : "different"}>
            {shortened(texts[place]!, 60)}
            {!others.includes(place) && <span class="badge">only here</span>}
          </li>
        ))}
      </ol>
    </div>
  );
  return (
    <>
      <p class="hint">
        {changed.length} of {texts.length} texts have other neighbours
        {changed.length > SHOWN_CHANGES && `; the ${SHOWN_CHANGES} most changed are shown`}.
      </p>
      <ul class="changes">
        {changed.slice(0, SHOWN_CHANGES).map((each) => (
          <li key={each.text}>
            <h3>{shortened(texts[each.text]!, 80)}</h3>
            {list(found.names[0], each.before, each.after)}
            {list(found.names[1], each.after, each.before)}
          </li>
        ))}
      </ul>
    </>
  );
}
