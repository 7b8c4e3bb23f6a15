/** Calls of the server that the page comes from. */
import { signal } from "@preact/signals";
import { key } from "./store";

/** Where the API is: the page is one level below. */
export const ROOT = new URL("..", document.baseURI);

/** What the server said no with; status 0: it was not reached. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly code = "",
    readonly retryAfter = 0,
    readonly requestId = "",
  ) {
    super(message);
  }
}

export interface Answer<T> {
  data: T;
  headers: Headers;
  /** Milliseconds from the request to the whole answer. */
  elapsed: number;
}

interface Options {
  method?: string;
  body?: unknown;
  signal?: AbortSignal | undefined;
  headers?: Record<string, string>;
  /** Whether the answer is text, not JSON. */
  isText?: boolean;
  /** Whether a missing key is asked for. Polling does not interrupt. */
  asksKey?: boolean;
}

/** Set while the page asks for a key: what goes on when it has one, or does without. */
export const keyRequest = signal<{ reason: string; done: (given: boolean) => void } | null>(null);
let asking: Promise<boolean> | null = null;

/** Ask for a key; one question at a time. */
export function askForKey(reason: string): Promise<boolean> {
  asking ??= new Promise<boolean>((resolve) => {
    keyRequest.value = {
      reason,
      done: (given) => {
        keyRequest.value = null;
        asking = null;
        resolve(given);
      },
    };
  });
  return asking;
}

export async function call<T>(path: string, options: Options = {}): Promise<Answer<T>> {
  for (;;) {
    const used = key.value;
    try {
      return await once<T>(path, options);
    } catch (error) {
      const isRefused = error instanceof ApiError && error.status === 401;
      if (!isRefused || options.asksKey === false) throw error;
      // Another call was given one meanwhile.
      if (key.value !== used) continue;
      // One that is wrong is not kept.
      key.value = "";
      if (!(await askForKey(error.message))) throw error;
    }
  }
}

async function once<T>(path: string, options: Options): Promise<Answer<T>> {
  const headers: Record<string, string> = { ...options.headers };
  if (/[^\t\x20-\xff]/.test(key.value)) {
    throw new ApiError(401, "The key has a character that no request can carry: copy it again.");
  }
  if (key.value) headers["authorization"] = `Bearer ${key.value}`;
  const init: RequestInit = { headers, cache: "no-store" };
  if (options.signal) init.signal = options.signal;
  if (options.body !== undefined) {
    headers["content-type"] = "application/json";
    init.body = JSON.stringify(options.body);
  }
  init.method = options.method ?? (options.body === undefined ? "GET" : "POST");
  const started = performance.now();
  let response: Response;
  let text: string;
  try {
    response = await fetch(new URL(path, ROOT), init);
    text = await response.text();
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError(0, "The server cannot be reached.");
  }
  const elapsed = performance.now() - started;
  if (!response.ok) throw refusal(response, text);
  return { data: (options.isText ? text : JSON.parse(text)) as T, headers: response.headers, elapsed };
}

function refusal(response: Response, text: string): ApiError {
  let message = `The server answered ${response.status}.`;
  let code = "";
  try {
    const { error } = JSON.parse(text) as { error?: { message?: string; code?: string | null } };
    message = error?.message ?? message;
    code = error?.code ?? "";
  } catch {
    // A proxy's own page, perhaps.
  }
  const { headers } = response;
  const wait = Number(headers.get("retry-after") ?? 0);
  return new ApiError(response.status, message, code, wait, headers.get("x-request-id") ?? "");
}

/** Whether the user ended the work. */
export function isCancelled(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}

/** What to do about an error, in a sentence; empty where its message says all. */
export function advice(error: unknown): string {
  if (!(error instanceof ApiError)) return "";
  if (error.status === 0) return "See whether it still runs and whether your network reaches it, then try again.";
  if (error.status === 401) return "Enter a key with the button at the top.";
  if (error.status === 403) return "Use another key, or ask whoever runs this server for the right.";
  if (error.code === "context_length_exceeded") return "Shorten the text, or choose to cut long texts.";
  if (error.status === 429) return `The server is busy. Try again in ${error.retryAfter || "a few"} s.`;
  if (error.status === 503) return "Wait until the model is ready (see Live), then try again.";
  if (error.status >= 500) return `The server's log has the reason, under the id ${error.requestId}.`;
  return "";
}

export function sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
