/** The models that the server has. */
import { computed, signal } from "@preact/signals";
import { call } from "./api";
import { bytes } from "./format";

export type Output = "dense" | "sparse" | "multi_vector" | "scores";

export interface Model {
  id: string;
  root: string;
  state: string;
  problem: string | null;
  download: { bytes: number; total_bytes: number } | null;
  degraded: string | null;
  backend: string;
  device: string | null;
  dtype: string | null;
  task: string | null;
  outputs: Output[] | null;
  labels: string[] | null;
  dimensions: number | null;
  max_model_len: number | null;
  similarity: string | null;
  reads_input_type: boolean | null;
  prompts: string[] | null;
  recipe: Record<string, string> | null;
  notices: string[] | null;
  fingerprint: string | null;
  lanes: number | null;
  threads_per_lane: number | null;
  batch_tokens: number | null;
  resident_bytes: number | null;
  tuning: { state: string; tokens_per_second?: Record<string, number> } | null;
}

/** All models by their configured names; null: not known yet. */
export const models = signal<Model[] | null>(null);
export const modelsError = signal<unknown>(null);

/** What the server has, by what it is for; null: not known yet. */
export const endpoints = signal<Record<string, string> | null>(null);

export async function readEndpoints(): Promise<void> {
  try {
    endpoints.value = (await call<{ endpoints: Record<string, string> }>("", { asksKey: false })).data.endpoints;
  } catch {
    // The list of models says why.
  }
}

export async function refreshModels(asksKey = true): Promise<void> {
  try {
    const { data } = await call<{ data: Model[] }>("v1/models", { asksKey });
    models.value = data.data.filter((each) => each.id === each.root);
    modelsError.value = null;
  } catch (error) {
    modelsError.value = error;
  }
}

/** A model that is not loaded has yet to tell what it gives. */
export function gives(model: Model, output: Output): boolean {
  return model.outputs?.includes(output) ?? false;
}

export const ready = computed(() => (models.value ?? []).filter((each) => each.outputs !== null));
export const vectorModels = computed(() => ready.value.filter((each) => !gives(each, "scores")));
export const rerankers = computed(() =>
  ready.value.filter((each) => gives(each, "scores") && each.labels?.length === 1),
);
/** Those that are loading, or will load when they are asked for. */
export const pending = computed(() => (models.value ?? []).filter((each) => each.outputs === null));

const STATES: Record<string, string> = {
  waiting: "waiting: loads at its first request, or after others",
  resolving: "finding its files",
  loading: "loading weights and warming up",
};

/** What a model that is not ready does, in words. */
export function stateOf({ state, download }: Model): string {
  if (download) return `downloading: ${bytes(download.bytes)} of ${bytes(download.total_bytes)}`;
  return STATES[state] ?? state;
}

/** What its vectors are compared by. */
export function measureOf(model: Model, output: Output): string {
  if (output === "sparse") return "dot product";
  if (output === "multi_vector") return "MaxSim";
  return model.similarity === "dot" ? "dot product" : "cosine";
}

/** How a model is asked for one role's vectors: by `input_type`, by a prompt of its card, or as for all texts. */
export function inRole(model: Model, role: "query" | "document"): { name: string; inputType?: string } {
  if (model.reads_input_type) return { name: model.id, inputType: role };
  return { name: model.recipe ? `${model.id}:${role}` : model.id };
}
