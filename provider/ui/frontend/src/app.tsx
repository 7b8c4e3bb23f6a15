/** The frame around the views: navigation, theme, key. */
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { ApiError, askForKey, keyRequest, ROOT } from "./api";
import { CompareView } from "./compare";
import { LiveView } from "./live/live";
import { models, modelsError, pending, readEndpoints, refreshModels } from "./models";
import { SearchView } from "./search/search";
import { key, type Theme, theme, type View, VIEWS, view } from "./store";
import { TryView } from "./try/try";

const NAMES: Record<View, string> = { try: "Try", search: "Search", compare: "Compare", live: "Live" };
const THEMES: Record<Theme, [Theme, string]> = {
  system: ["light", "System theme"],
  light: ["dark", "Light theme"],
  dark: ["system", "Dark theme"],
};
const LOADING_POLL = 2000;

export function App() {
  useEffect(() => {
    models.value = null;
    void readEndpoints();
    void refreshModels();
  }, [key.value]);
  useEffect(() => {
    const timer = setInterval(() => {
      const isRefused = modelsError.value instanceof ApiError && [401, 403].includes(modelsError.value.status);
      if (!isRefused && (models.value === null || pending.value.length)) void refreshModels(false);
    }, LOADING_POLL);
    return () => clearInterval(timer);
  }, []);
  useEffect(() => {
    document.title = `${NAMES[view.value]} · emb-provider`;
  }, [view.value]);
  return (
    <>
      <header class="top">
        <a class="skip" href={`#${view.value}`} onClick={() => document.querySelector<HTMLElement>("main")?.focus()}>
          Skip to content
        </a>
        <span class="brand">
          <img src="./icon.svg" alt="" width="24" height="24" />
          emb-provider
        </span>
        <nav aria-label="Views">
          {VIEWS.map((each) => (
            <a key={each} href={`#${each}`} aria-current={view.value === each ? "page" : undefined}>
              {NAMES[each]}
            </a>
          ))}
        </nav>
        <div class="tools">
          <a href={new URL("docs", ROOT).href}>API</a>
          <KeyButton />
          <ThemeButton />
        </div>
      </header>
      <main id={view.value} tabIndex={-1}>
        <h1 class="offscreen">{NAMES[view.value]}</h1>
        {view.value === "try" && <TryView />}
        {view.value === "search" && <SearchView />}
        {view.value === "compare" && <CompareView />}
        {view.value === "live" && <LiveView />}
      </main>
      <KeyDialog />
    </>
  );
}

function ThemeButton() {
  const [next, label] = THEMES[theme.value];
  return (
    <button type="button" class="quiet" title={`${label}; switch`} onClick={() => (theme.value = next)}>
      <span class={`theme-sign ${theme.value}`} aria-hidden="true" />
      <span class="offscreen">{label}</span>
    </button>
  );
}

function KeyButton() {
  if (key.value) {
    return (
      <button type="button" class="quiet" onClick={() => (key.value = "")}>
        Forget key
      </button>
    );
  }
  return (
    <button type="button" class="quiet" onClick={() => void askForKey("")}>
      Key
    </button>
  );
}

function KeyDialog() {
  const dialog = useRef<HTMLDialogElement>(null);
  const text = useSignal("");
  const request = keyRequest.value;
  useEffect(() => {
    if (request) {
      text.value = "";
      dialog.current?.showModal();
    } else dialog.current?.close();
  }, [request]);
  const give = (event: Event) => {
    event.preventDefault();
    key.value = text.value.trim();
    request?.done(key.value !== "");
  };
  return (
    <dialog ref={dialog} aria-labelledby="key-title" onCancel={() => request?.done(false)}>
      <form onSubmit={give}>
        <h2 id="key-title">API key</h2>
        {request?.reason && <p>{request.reason}</p>}
        <p class="hint">It is kept in this browser tab until you close it, and sent to this server only.</p>
        <label for="key">Key</label>
        <input
          id="key"
          type="password"
          autocomplete="off"
          value={text.value}
          onInput={(event) => (text.value = event.currentTarget.value)}
        />
        <div class="actions">
          <button type="button" onClick={() => request?.done(false)}>
            Cancel
          </button>
          <button type="submit" class="primary" disabled={!text.value.trim()}>
            Use key
          </button>
        </div>
      </form>
    </dialog>
  );
}
