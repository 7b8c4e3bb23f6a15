/** What outlives a view: the key (for the session), the theme, the view that is shown. */
import { effect, signal } from "@preact/signals";

export const VIEWS = ["try", "search", "compare", "live"] as const;
export type View = (typeof VIEWS)[number];
export type Theme = "system" | "light" | "dark";

const KEY = "emb-provider-key";
const THEME = "emb-provider-theme";

/** A browser may forbid storage; then a value lasts as long as the page. */
function stored(storage: () => Storage, name: string): string {
  try {
    return storage().getItem(name) ?? "";
  } catch {
    return "";
  }
}

function store(storage: () => Storage, name: string, value: string): void {
  try {
    if (value) storage().setItem(name, value);
    else storage().removeItem(name);
  } catch {
    // As above.
  }
}

const ofSession = () => window.sessionStorage;
const ofBrowser = () => window.localStorage;

export const key = signal(stored(ofSession, KEY));
effect(() => store(ofSession, KEY, key.value));

const kept = stored(ofBrowser, THEME);
export const theme = signal<Theme>(kept === "light" || kept === "dark" ? kept : "system");
effect(() => {
  if (theme.value === "system") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = theme.value;
  store(ofBrowser, THEME, theme.value === "system" ? "" : theme.value);
});

const systemDark = window.matchMedia("(prefers-color-scheme: dark)");
const isSystemDark = signal(systemDark.matches);
systemDark.addEventListener("change", () => (isSystemDark.value = systemDark.matches));

export function isDark(): boolean {
  return theme.value === "system" ? isSystemDark.value : theme.value === "dark";
}

function viewOf(hash: string): View {
  return VIEWS.find((each) => hash === `#${each}`) ?? "try";
}

export const view = signal<View>(viewOf(location.hash));
window.addEventListener("hashchange", () => (view.value = viewOf(location.hash)));
