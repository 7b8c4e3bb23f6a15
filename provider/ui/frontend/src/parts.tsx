/** Small parts that several views share. */
import type { ComponentChildren } from "preact";
import { useId, useRef, useState } from "preact/hooks";
import { ApiError, advice, askForKey, call, isCancelled } from "./api";
import { type Model, models, modelsError, pending, refreshModels, stateOf } from "./models";
import type { Times } from "./vectors";

export function Field(props: { label: string; hint?: string; children: (id: string) => ComponentChildren }) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{props.label}</label>
      {props.children(id)}
      {props.hint && <p class="hint">{props.hint}</p>}
    </div>
  );
}

export function Select<T extends string>(props: {
  label: string;
  value: T;
  options: readonly (readonly [T, string])[];
  onChange: (value: T) => void;
  hint?: string;
}) {
  return (
    <Field label={props.label} {...(props.hint ? { hint: props.hint } : {})}>
      {(id) => (
        <select id={id} value={props.value} onChange={(event) => props.onChange(event.currentTarget.value as T)}>
          {props.options.map(([value, label]) => (
            <option key={value} value={value} selected={value === props.value}>
              {label}
            </option>
          ))}
        </select>
      )}
    </Field>
  );
}

/** Tabs by WAI-ARIA: arrow keys move, one of them is in the tab order. */
export function Tabs<T extends string>(props: {
  label: string;
  tabs: readonly (readonly [T, string])[];
  value: T;
  onChange: (value: T) => void;
  children: ComponentChildren;
}) {
  const id = useId();
  const list = useRef<HTMLDivElement>(null);
  const move = (event: KeyboardEvent) => {
    const at = props.tabs.findIndex(([value]) => value === props.value);
    const last = props.tabs.length - 1;
    const steps: Record<string, number> = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last };
    const to = steps[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = (to + props.tabs.length) % props.tabs.length;
    props.onChange(props.tabs[next]![0]);
    (list.current?.children[next] as HTMLElement).focus();
  };
  return (
    <>
      <div class="tabs" role="tablist" aria-label={props.label} ref={list} onKeyDown={move}>
        {props.tabs.map(([value, label]) => (
          <button
            key={value}
            type="button"
            role="tab"
            id={`${id}-${value}`}
            aria-selected={value === props.value}
            aria-controls={`${id}-panel`}
            tabIndex={value === props.value ? 0 : -1}
            onClick={() => props.onChange(value)}
          >
            {label}
          </button>
        ))}
      </div>
      <div class="panel" role="tabpanel" id={`${id}-panel`} aria-labelledby={`${id}-${props.value}`}>
        {props.children}
      </div>
    </>
  );
}

export function Problem(props: { error: unknown; onRetry?: () => void }) {
  const { error } = props;
  if (!error || isCancelled(error)) return null;
  const message = error instanceof Error ? error.message : String(error);
  const needsKey = error instanceof ApiError && error.status === 401;
  const toDo = advice(error);
  return (
    <div class="problem" role="alert">
      <p>
        <strong>{message}</strong>
      </p>
      {toDo && <p>{toDo}</p>}
      {needsKey && (
        <button type="button" onClick={() => void askForKey(message).then((given) => given && props.onRetry?.())}>
          Enter a key
        </button>
      )}
      {!needsKey && props.onRetry && (
        <button type="button" onClick={props.onRetry}>
          Try again
        </button>
      )}
    </div>
  );
}

export function Progress(props: { label: string; done: number; all: number; onCancel: () => void }) {
  const share = props.all ? (100 * props.done) / props.all : 0;
  return (
    <div class="progress">
      <div class="bar" role="progressbar" aria-label={props.label} aria-valuenow={Math.round(share)}>
        <div style={{ width: `${share}%` }} />
      </div>
      <span class="number">
        {props.done.toLocaleString()} of {props.all.toLocaleString()}
      </span>
      <button type="button" onClick={props.onCancel}>
        Cancel
      </button>
    </div>
  );
}

export function Empty(props: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p class="empty-title">{props.title}</p>
      {props.children}
    </div>
  );
}

/** Copy `text`; outside of HTTPS and localhost browsers have no clipboard, but can copy what is selected. */
async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "offscreen";
    document.body.append(area);
    area.select();
    const isDone = document.execCommand("copy");
    area.remove();
    return isDone;
  }
}

export function CopyButton(props: { text: string; label?: string }) {
  const [said, say] = useState("");
  const label = props.label ?? "Copy";
  const onClick = async () => {
    say((await copy(props.text)) ? "Copied" : "Select and copy it by hand");
    setTimeout(() => say(""), 2000);
  };
  return (
    <button type="button" class="copy" onClick={() => void onClick()}>
      <span aria-live="polite">{said || label}</span>
    </button>
  );
}

/** Hand `parts` to the user as a file of JSON lines. */
export function saveFile(name: string, parts: string[]): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(parts, { type: "application/jsonl" }));
  link.download = name.replace(/[^\w.-]+/g, "-");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Instead of a view's content while there are no models that it could ask. */
export function NoModels(props: { needs: string; found: readonly Model[] }) {
  if (props.found.length) return null;
  if (modelsError.value) {
    return <Problem error={modelsError.value} onRetry={() => void refreshModels()} />;
  }
  if (models.value === null) return <Empty title="Asking the server for its models …" />;
  const failed = pending.value.filter((each) => each.state === "failed");
  const coming = pending.value.filter((each) => each.state !== "failed");
  if (coming.length) {
    const states = coming.map((each) => `${each.id} (${stateOf(each)})`).join(", ");
    return (
      <Empty title="No model is ready yet">
        <p>{states}. This page goes on by itself; a lazy model loads at its first request.</p>
        <button type="button" onClick={() => void loadLazy(coming)}>
          Load now
        </button>
      </Empty>
    );
  }
  return (
    <Empty title={`No model gives ${props.needs}`}>
      <p>
        {failed.length
          ? failed.map((each) => `${each.id} failed: ${each.problem}`).join(" ")
          : "Add one under models: in the server's configuration."}
      </p>
    </Empty>
  );
}

/** Ask lazy models for something: that loads them. */
async function loadLazy(coming: readonly Model[]): Promise<void> {
  for (const each of coming) {
    await call("ui/tokens", { body: { model: each.id, input: "a" } }).catch(() => undefined);
  }
  await refreshModels();
}

export const milliseconds = (value: number) =>
  value >= 1000 ? `${(value / 1000).toFixed(2)} s` : `${value.toFixed(value >= 10 ? 0 : 1)} ms`;

const STAGES = [
  ["tokenise", "Tokenise"],
  ["queue", "Queue"],
  ["forward", "Forward"],
  ["rest", "Rest and network"],
] as const;

/** Where the time went, as one bar. */
export function TimeSplit(props: { times: Times }) {
  const all = STAGES.reduce((sum, [name]) => sum + props.times[name], 0);
  return (
    <div class="times">
      <div class="split" aria-hidden="true">
        {STAGES.map(([name]) => (
          <div key={name} class={`stage ${name}`} style={{ width: `${(100 * props.times[name]) / (all || 1)}%` }} />
        ))}
      </div>
      <dl>
        {STAGES.map(([name, label]) => (
          <div key={name}>
            <dt>
              <span class={`dot ${name}`} aria-hidden="true" />
              {label}
            </dt>
            <dd class="number">{milliseconds(props.times[name])}</dd>
          </div>
        ))}
      </dl>
    </div>
  );
}

/** A text in one line. */
export function shortened(text: string, length = 60): string {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > length ? `${line.slice(0, length - 1)}…` : line;
}

export const decimals = (value: number) => value.toFixed(Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 2 : 3);
