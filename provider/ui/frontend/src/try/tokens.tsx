/** Each text as the model reads it. */
import { Fragment } from "preact";
import type { ReadTexts, ReadToken } from "../vectors";
import { MOST_READ } from "./state";

export function Tokens(props: { tokens: readonly ReadToken[]; limit: number }) {
  return (
    <p class="tokens">
      {props.tokens.map((token, index) => {
        const isFirstCut = token.cut && !props.tokens[index - 1]?.cut;
        return (
          <Fragment key={index}>
            {isFirstCut && <span class="cut-mark">cut here: at most {props.limit} tokens</span>}
            <span
              class={`token ${kindOf(token)} ${token.cut ? "cut" : ""} ${/^\s/.test(token.text) ? "spaced" : ""}`}
              title={`id ${token.id}${token.cut ? ", cut" : ""}`}
            >
              {token.text || "∅"}
            </span>
          </Fragment>
        );
      })}
    </p>
  );
}

function kindOf(token: ReadToken): string {
  return token.special ? "special" : token.prompt ? "prompt" : "";
}

export function TokenRows({ reading }: { reading: ReadTexts & { all: number } }) {
  const { data, limit, all } = reading;
  const hasPrompt = data.some((row) => row.some((each) => each.prompt));
  return (
    <div class="token-rows">
      <p class="legend">
        <span class="token">text</span>
        <span class="token special">special token</span>
        {hasPrompt && <span class="token prompt">prompt</span>}
        <span class="token cut">cut</span>
        <span class="hint">
          The model takes at most <span class="number">{limit.toLocaleString()}</span> tokens a text.
        </span>
      </p>
      <ol>
        {data.map((row, index) => {
          const cut = row.filter((each) => each.cut).length;
          return (
            <li key={index}>
              <span class="hint number">
                {(row.length - cut).toLocaleString()} tokens{cut > 0 && `, ${cut.toLocaleString()} cut`}
              </span>
              <Tokens tokens={row} limit={limit} />
            </li>
          );
        })}
      </ol>
      {all > MOST_READ && (
        <p class="hint">
          The first {MOST_READ} of {all.toLocaleString()} texts.
        </p>
      )}
    </div>
  );
}
