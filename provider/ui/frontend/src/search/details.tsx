/** Why a document has its score: shared words of sparse vectors, the best tokens of token vectors. */
import { signal } from "@preact/signals";
import type { ReadToken } from "../vectors";
import { decimals } from "../parts";
import { heaviest, type Ranking } from "./state";

const SHOWN_WORDS = 12;

interface Word {
  id: number;
  weight: number;
}

function Words(props: { words: Word[]; names: Map<number, string>; label: string }) {
  const most = Math.max(...props.words.map((each) => each.weight), 0);
  return (
    <ul class="words" aria-label={props.label}>
      {props.words.map(({ id, weight }) => (
        <li key={id} title={`id ${id}, weight ${decimals(weight)}`}>
          <span class="word-weight" aria-hidden="true" style={{ width: `${(100 * weight) / (most || 1)}%` }} />
          <span class="word">{props.names.get(id) ?? `id ${id}`}</span>
          <span class="number">{weight.toFixed(2)}</span>
        </li>
      ))}
    </ul>
  );
}

/** What each shared word adds to the score, and all words of the query and of the document. */
export function SparseDetails({ ranking, document }: { ranking: Ranking; document: number }) {
  const query = ranking.vectors[0]!.sparse!;
  const own = ranking.vectors[document + 1]!.sparse!;
  const asked = new Map(query.indices.map((id, index) => [id, query.values[index]!]));
  const shared = own.indices
    .map((id, index) => ({ id, weight: (asked.get(id) ?? 0) * own.values[index]! }))
    .filter((each) => each.weight !== 0)
    .sort((a, b) => b.weight - a.weight);
  const names = ranking.words!;
  return (
    <div class="details">
      <p class="hint">Shared words, by what they add to the score</p>
      {shared.length > 0 ? (
        <Words words={shared.slice(0, 5)} names={names} label="Shared words, by what they add to the score" />
      ) : (
        <p class="hint">No word is shared.</p>
      )}
      <p class="hint">The query's weights</p>
      <Words words={heaviest(query, SHOWN_WORDS)} names={names} label="The query's words" />
      <p class="hint">The document's weights</p>
      <Words words={heaviest(own, SHOWN_WORDS)} names={names} label="The document's words" />
    </div>
  );
}

/** The query's token that is looked at, by its vector; null: all of them. */
const lookedAt = signal<number | null>(null);

/** Tokens of a document by how well they match the query's, or the one of the query's that is looked at. */
export function LateDetails({ ranking, document }: { ranking: Ranking; document: number }) {
  const tokens = ranking.tokens![document + 1];
  if (!tokens) return null;
  const [query, own] = [ranking.vectors[0]!.multi!, ranking.vectors[document + 1]!.multi!];
  const looked = lookedAt.value;
  const asking = looked === null || !query[looked] ? query : [query[looked]];
  const matches = own.map((each) => Math.max(...asking.map((other) => each.reduce((sum, x, i) => sum + x * other[i]!, 0))));
  const [low, high] = [Math.min(...matches), Math.max(...matches)];
  const strength = (vector: number) => (high > low ? (matches[vector]! - low) / (high - low) : 1);
  const best = matches.indexOf(high);
  return (
    <div class="details">
      <p class="hint">Query: choose a token to see what it matches</p>
      <p class="tokens">
        {ranking.tokens![0]!
          .filter((each) => each.vector !== null)
          .map((each) => (
            <button
              key={each.vector}
              type="button"
              class={`token ${each.special ? "special" : ""}`}
              aria-pressed={looked === each.vector}
              onClick={() => (lookedAt.value = looked === each.vector ? null : each.vector)}
            >
              {each.text}
            </button>
          ))}
      </p>
      <p class="hint">Document, by MaxSim</p>
      <p class="tokens">
        {tokens
          .filter((each) => !each.cut)
          .map((each, index) => (
            <Match key={index} token={each} strength={strength} matches={matches} best={best} />
          ))}
      </p>
    </div>
  );
}

function Match(props: { token: ReadToken; strength: (vector: number) => number; matches: number[]; best: number }) {
  const { token } = props;
  if (token.vector === null) return <span class="token none" title="has no vector">{token.text}</span>;
  const share = Math.round(100 * props.strength(token.vector));
  const value = props.matches[token.vector]!;
  return (
    <span
      class={`token match ${token.special ? "special" : ""} ${token.vector === props.best ? "best" : ""}`}
      style={{ "--strength": `${share}%` }}
      title={value.toFixed(3)}
    >
      {token.text}
    </span>
  );
}
