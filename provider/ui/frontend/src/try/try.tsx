/** Texts to vectors: how similar they are, a map of them, their tokens, where the time went. */
import "./try.css";
import { Code } from "../code";
import { TEXT_SETS } from "../examples";
import { JobState } from "../job";
import { type Output, vectorModels } from "../models";
import { Empty, Field, NoModels, saveFile, Select, Tabs, TimeSplit } from "../parts";
import { Examples, linesOf, TextsField } from "../texts";
import { HeatMap } from "./heatmap";
import { TextMap } from "./map";
import * as state from "./state";
import { MOST_COMPARED, type Result } from "./state";
import { TokenRows } from "./tokens";

export const OUTPUTS: Record<Output, string> = {
  dense: "Dense vectors",
  sparse: "Sparse vectors",
  multi_vector: "Token vectors",
  scores: "Scores",
};
const TABS = [
  ["similarity", "Similarity"],
  ["map", "Map"],
  ["tokens", "Tokens"],
  ["code", "Code"],
] as const;

export function TryView() {
  return (
    <div class="two-columns">
      <section class="card" aria-label="Input">
        <Form />
      </section>
      <section class="card" aria-label="Result">
        <NoModels needs="vectors" found={vectorModels.value} />
        <JobState job={state.job} label="Embedding" onRetry={() => void state.run()} />
        {vectorModels.value.length > 0 && <Outcome />}
      </section>
    </div>
  );
}

function Form() {
  const model = state.model.value;
  const outputs = model?.outputs ?? [];
  const submit = (event: Event) => {
    event.preventDefault();
    void state.run();
  };
  return (
    <form onSubmit={submit}>
      <TextsField label="Texts" value={state.text.value} onChange={(value) => (state.text.value = value)} />
      <Examples sets={TEXT_SETS} onChoose={(index) => (state.text.value = TEXT_SETS[index]!.texts.join("\n"))} />
      <Select
        label="Model"
        value={model?.id ?? ""}
        options={vectorModels.value.map((each) => [each.id, each.id] as const)}
        onChange={(value) => (state.modelName.value = value)}
      />
      {outputs.length > 1 && (
        <Select
          label="Output"
          value={state.output.value}
          options={outputs.map((each) => [each, OUTPUTS[each]] as const)}
          onChange={(value) => (state.outputName.value = value)}
        />
      )}
      <div class="fields">
        {(model?.reads_input_type || model?.recipe) && (
          <Select
            label="Texts are"
            value={state.inputType.value}
            options={[
              ["", "neither"],
              ["query", "queries"],
              ["document", "documents"],
            ]}
            onChange={(value) => (state.inputType.value = value)}
          />
        )}
        <Select
          label="Long texts"
          value={state.truncate.value}
          options={[
            ["", "as configured"],
            ["END", "cut the end"],
            ["START", "cut the start"],
          ]}
          onChange={(value) => (state.truncate.value = value)}
        />
        {state.output.value === "dense" && (
          <Field label="Dimensions">
            {(id) => (
              <input
                id={id}
                type="number"
                inputMode="numeric"
                min={1}
                max={model?.dimensions ?? undefined}
                step={1}
                placeholder={model?.dimensions ? `all ${model.dimensions}` : "all"}
                value={state.dimensions.value}
                onInput={(event) => (state.dimensions.value = event.currentTarget.value)}
              />
            )}
          </Field>
        )}
      </div>
      <button type="submit" class="primary wide" disabled={!model || !linesOf(state.text.value).length}>
        Embed
      </button>
    </form>
  );
}

function Outcome() {
  const result = state.result.value;
  const reading = state.reading.value;
  if (!reading) {
    return state.job.isRunning.value ? null : (
      <Empty title="Nothing embedded yet">
        <p>Enter texts or choose an example, then press Embed: you see how similar they are to the model.</p>
      </Empty>
    );
  }
  const tab = state.shown.value;
  return (
    <>
      {result && <Summary result={result} />}
      <Tabs label="Result" tabs={TABS} value={tab} onChange={(value) => (state.shown.value = value)}>
        {!result && tab !== "tokens" && <Empty title="There are no vectors: the request failed" />}
        {result && tab === "similarity" && <HeatMap result={result} />}
        {result && tab === "map" && <TextMap result={result} />}
        {tab === "tokens" && <TokenRows reading={reading} />}
        {result && tab === "code" && (
          <Code
            request={result.request}
            {...(result.requests > 1
              ? { note: `The first of ${result.requests} requests: the page sends long lists in parts.` }
              : {})}
          />
        )}
        {result && result.texts.length > MOST_COMPARED && (tab === "similarity" || tab === "map") && (
          <p class="hint">
            All {result.texts.length.toLocaleString()} texts are embedded. Similarities and map show the first{" "}
            {MOST_COMPARED.toLocaleString()}.
          </p>
        )}
      </Tabs>
    </>
  );
}

function Summary({ result }: { result: Result }) {
  const facts: [string, string][] = [
    ["Texts", result.texts.length.toLocaleString()],
    ["Tokens", result.tokens.toLocaleString()],
  ];
  if (result.width) facts.push(["Dimensions", String(result.width)]);
  facts.push(["Cached", result.cached.toLocaleString()]);
  if (result.truncated.length) facts.push(["Cut", result.truncated.length.toLocaleString()]);
  return (
    <div class="summary">
      <dl class="facts">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd class="number">{value}</dd>
          </div>
        ))}
      </dl>
      <TimeSplit times={result.times} />
      <div class="row">
        <span class="hint">
          {result.model} · {OUTPUTS[result.output].toLowerCase()} · fingerprint{" "}
          <code>{result.fingerprint || "unknown"}</code>
        </span>
        <button type="button" onClick={() => save(result)}>
          Save vectors
        </button>
      </div>
    </div>
  );
}

/** As JSONL, one text a line with its vector. */
function save(result: Result): void {
  const lines = result.vectors.map((vector, index) => {
    const embedding = vector.dense ? Array.from(vector.dense) : (vector.sparse ?? vector.multi?.map((each) => [...each]));
    return `${JSON.stringify({ text: result.texts[index], embedding })}\n`;
  });
  saveFile(`${result.model}.jsonl`, lines);
}
