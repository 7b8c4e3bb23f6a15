/** The input of texts: one a line, or from a dropped file. */
import { useSignal } from "@preact/signals";
import { useId, useRef } from "preact/hooks";

const MOST_FILE_BYTES = 64 * 1024 * 1024;
const MOST_LINES = 100_000;

/** Texts of a field: one a line, empty lines are none. */
export function linesOf(text: string): string[] {
  return text
    .split(/\r\n|\r|\n/)
    .map((each) => each.trim())
    .filter(Boolean);
}

/** Texts of a file: lines; of JSONL the `text` of each, or the line's first string. */
function textsOfFile(name: string, content: string): string[] {
  const lines = linesOf(content.replace(/^\uFEFF/, ""));
  if (!/\.(jsonl|ndjson)$/i.test(name)) return lines;
  return lines.map((line, index) => {
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch {
      throw new Error(`${name}, line ${index + 1}: this is no JSON. Expected one object or string a line.`);
    }
    if (typeof value === "string") return value.replace(/\s+/g, " ");
    const fields = value && typeof value === "object" ? (value as Record<string, unknown>) : {};
    const text = fields["text"] ?? Object.values(fields).find((each) => typeof each === "string");
    if (typeof text !== "string" || !text.trim()) {
      throw new Error(`${name}, line ${index + 1}: found no text. Expected a string, or an object with "text".`);
    }
    return text.replace(/\s+/g, " ");
  });
}

async function readFile(file: File): Promise<string[]> {
  if (file.size > MOST_FILE_BYTES) {
    throw new Error(`${file.name} has ${(file.size / 2 ** 20).toFixed(0)} MiB; at most 64 MiB are read.`);
  }
  let content: string;
  try {
    content = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    throw new Error(`${file.name} is not text in UTF-8. Save it as UTF-8: one text a line, or JSONL.`);
  }
  const texts = textsOfFile(file.name, content);
  if (!texts.length) throw new Error(`${file.name} holds no text.`);
  if (texts.length > MOST_LINES) {
    throw new Error(
      `${file.name} has ${texts.length.toLocaleString()} texts; this page takes ${MOST_LINES.toLocaleString()}. ` +
        "For more, use emb-provider embed.",
    );
  }
  return texts;
}

export function TextsField(props: { label: string; value: string; rows?: number; onChange: (value: string) => void }) {
  const id = useId();
  const over = useSignal(false);
  const problem = useSignal("");
  const input = useRef<HTMLInputElement>(null);
  const take = async (file: File | undefined) => {
    over.value = false;
    if (!file) return;
    try {
      props.onChange((await readFile(file)).join("\n"));
      problem.value = "";
    } catch (error) {
      problem.value = (error as Error).message;
    }
  };
  const drop = (event: DragEvent) => {
    if (!event.dataTransfer?.files.length) return;
    event.preventDefault();
    void take(event.dataTransfer.files[0]);
  };
  const count = linesOf(props.value).length;
  return (
    <div
      class={`field drop ${over.value ? "over" : ""}`}
      onDragOver={(event) => {
        event.preventDefault();
        over.value = true;
      }}
      onDragLeave={() => (over.value = false)}
      onDrop={drop}
    >
      <div class="field-head">
        <label for={id}>{props.label}</label>
        <span class="hint number">
          {count.toLocaleString()} {count === 1 ? "text" : "texts"}
        </span>
      </div>
      <textarea
        id={id}
        rows={props.rows ?? 10}
        value={props.value}
        spellcheck={false}
        placeholder="One text a line"
        onInput={(event) => props.onChange(event.currentTarget.value)}
      />
      <div class="field-foot">
        <button type="button" class="link" onClick={() => input.current?.click()}>
          Open a file
        </button>
        <span class="hint">or drop one here: text or JSONL</span>
        <input
          ref={input}
          type="file"
          class="offscreen"
          tabIndex={-1}
          aria-label={`File for ${props.label}`}
          accept=".txt,.md,.jsonl,.ndjson,text/plain"
          onChange={(event) => {
            void take(event.currentTarget.files?.[0]);
            event.currentTarget.value = "";
          }}
        />
      </div>
      {problem.value && (
        <p class="problem" role="alert">
          {problem.value}
        </p>
      )}
    </div>
  );
}

export function Examples(props: { sets: readonly { name: string }[]; onChoose: (index: number) => void }) {
  return (
    <div class="examples" role="group" aria-label="Examples">
      <span class="hint">Examples</span>
      {props.sets.map((set, index) => (
        <button key={set.name} type="button" class="chip" onClick={() => props.onChoose(index)}>
          {set.name}
        </button>
      ))}
    </div>
  );
}
