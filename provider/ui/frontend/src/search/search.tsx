/** Rankings side by side. */
import "./search.css";
import { Code } from "../code";
import { signal } from "@preact/signals";
import { SEARCH_SETS } from "../examples";
import { JobState } from "../job";
import { gives, inRole, type Output, ready, rerankers } from "../models";
import { decimals, Empty, Field, milliseconds, NoModels, Select, TimeSplit } from "../parts";
import { Examples, linesOf, TextsField } from "../texts";
import { LateDetails, SparseDetails } from "./details";
import { type Ranking, type Way } from "./state";
import * as state from "./state";

const NAMES: Record<Output, string> = {
  dense: "Embedding",
  sparse: "Sparse",
  multi_vector: "Late interaction",
  scores: "Reranker",
};
const SHOWN = 50;

export function SearchView() {
  const usable = ready.value.filter((each) => !gives(each, "scores") || each.labels?.length === 1);
  return (
    <>
      <section class="card" aria-label="Input">
        <Form />
      </section>
      <section aria-label="Result">
        <NoModels needs="vectors or relevance scores" found={usable} />
        <JobState job={state.job} label="Ranking" onRetry={() => void state.run()} />
        {usable.length > 0 && <Outcome />}
      </section>
    </>
  );
}

function Form() {
  const canRun = state.chosen.value.length && state.query.value.trim() && linesOf(state.documents.value).length;
  const submit = (event: Event) => {
    event.preventDefault();
    void state.run();
  };
  const choose = (index: number) => {
    state.query.value = SEARCH_SETS[index]!.query;
    state.documents.value = SEARCH_SETS[index]!.documents.join("\n");
  };
  return (
    <form class="search-form" onSubmit={submit}>
      <div>
        <Field label="Query">
          {(id) => (
            <input
              id={id}
              type="text"
              value={state.query.value}
              onInput={(event) => (state.query.value = event.currentTarget.value)}
            />
          )}
        </Field>
        <Examples sets={SEARCH_SETS} onChoose={choose} />
        <Ways />
        <button type="submit" class="primary wide" disabled={!canRun}>
          Search
        </button>
      </div>
      <TextsField
        label="Documents"
        rows={9}
        value={state.documents.value}
        onChange={(value) => (state.documents.value = value)}
      />
    </form>
  );
}

function Ways() {
  const on = new Set(state.chosen.value.map((each) => each.id));
  const toggle = (way: Way) => {
    state.switched.value = { ...state.switched.value, [way.id]: !on.has(way.id) };
  };
  if (!state.ways.value.length) return null;
  return (
    <fieldset class="ways">
      <legend>Rank by</legend>
      {state.ways.value.map((way) => (
        <label key={way.id}>
          <input type="checkbox" checked={on.has(way.id)} onChange={() => toggle(way)} />
          <span>
            {NAMES[way.output]} <span class="hint">{way.model.id}</span>
          </span>
        </label>
      ))}
      {!rerankers.value.length && (
        <p class="hint">
          No reranker is served. Add one under models:, such as cross-encoder/ms-marco-MiniLM-L6-v2, to see it beside the
          embeddings.
        </p>
      )}
    </fieldset>
  );
}

function Outcome() {
  const results = state.results.value;
  if (!results) {
    return state.job.isRunning.value ? null : (
      <div class="card">
        <Empty title="Nothing searched yet">
          <p>Enter a query and documents, then press Search: every way of ranking gets a column.</p>
        </Empty>
      </div>
    );
  }
  return (
    <>
      <p class="hint">Choose a document to see where it stands in every ranking, and why.</p>
      <div class="rankings">
        {results.rankings.map((each) => (
          <Column key={each.way.id} ranking={each} first={results.rankings[0]!} documents={results.documents} />
        ))}
      </div>
      <Requests rankings={results.rankings} />
    </>
  );
}

const isMarked = (document: number) => state.marked.value === document;

function Column(props: { ranking: Ranking; first: Ranking; documents: string[] }) {
  const { ranking, first, documents } = props;
  const { way, scores, order, times } = ranking;
  const [low, high] = [scores[order.at(-1)!]!, scores[order[0]!]!];
  const total = times.tokenise + times.queue + times.forward + times.rest;
  return (
    <section class="card ranking" aria-label={`${NAMES[way.output]} ${way.model.id}`}>
      <h2>{NAMES[way.output]}</h2>
      <p class="hint">
        {way.model.id} · {ranking.measure} · <span class="number">{milliseconds(total)}</span>
      </p>
      <ol>
        {order.slice(0, SHOWN).map((document, rank) => (
          <li key={document}>
            <button
              type="button"
              class={`hit ${isMarked(document) ? "marked" : ""}`}
              aria-pressed={isMarked(document)}
              onClick={() => (state.marked.value = isMarked(document) ? null : document)}
            >
              <span class="rank number">{rank + 1}</span>
              <span class="hit-text">{documents[document]}</span>
              <span class="score number">
                {decimals(scores[document]!)}
                {ranking !== first && <Moved by={first.order.indexOf(document) - rank} />}
              </span>
              <span class="score-bar" aria-hidden="true">
                <span style={{ width: `${high > low ? (100 * (scores[document]! - low)) / (high - low) : 100}%` }} />
              </span>
            </button>
            {isMarked(document) && ranking.words && <SparseDetails ranking={ranking} document={document} />}
            {isMarked(document) && ranking.tokens && <LateDetails ranking={ranking} document={document} />}
          </li>
        ))}
      </ol>
      {documents.length > SHOWN && (
        <p class="hint">
          The first {SHOWN} of {documents.length.toLocaleString()}.
        </p>
      )}
      <details>
        <summary>Time</summary>
        <TimeSplit times={times} />
      </details>
    </section>
  );
}

function Moved({ by }: { by: number }) {
  if (!by) return <span class="moved">=</span>;
  return (
    <span class={`moved ${by > 0 ? "up" : "down"}`}>
      <span aria-hidden="true">{by > 0 ? "▲" : "▼"}</span>
      {Math.abs(by)}
      <span class="offscreen">{by > 0 ? " places up" : " places down"} from the first column</span>
    </span>
  );
}

const shownRequest = signal("");

function Requests({ rankings }: { rankings: Ranking[] }) {
  const found = rankings.find((each) => each.way.id === shownRequest.value) ?? rankings[0];
  if (!found) return null;
  return (
    <details class="card requests">
      <summary>The same request as code</summary>
      {rankings.length > 1 && (
        <Select
          label="Request"
          value={found.way.id}
          options={rankings.map((each) => [each.way.id, `${NAMES[each.way.output]} · ${each.way.model.id}`] as const)}
          onChange={(value) => (shownRequest.value = value)}
        />
      )}
      <Code
        request={found.request}
        {...(found.way.output === "scores"
          ? {}
          : { note: note(found.way) })}
      />
    </details>
  );
}

function note({ model }: Way): string {
  const { name, inputType } = inRole(model, "query");
  const how = inputType ? `, with input_type: ${inputType}` : name === model.id ? "" : `, by the model's name ${name}`;
  return `The query is embedded in the same way${how}.`;
}
