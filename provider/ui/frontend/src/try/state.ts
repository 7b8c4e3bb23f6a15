/** What the view "Try" holds while other views are shown. */
import { batch, computed, signal } from "@preact/signals";
import { ApiError, isCancelled } from "../api";
import type { ApiRequest } from "../code";
import { TEXT_SETS } from "../examples";
import { Job, steps } from "../job";
import { type Matrix, principalMap, similarities } from "../math";
import { gives, inRole, measureOf, type Model, type Output, vectorModels } from "../models";
import { linesOf } from "../texts";
import { type Embedded, embed, embedBody, type EmbedOptions, parts, type ReadTexts, readTokens } from "../vectors";

/** More texts than these are embedded, but neither compared nor drawn. */
export const MOST_COMPARED = 1000;
export const MOST_READ = 100;

export const text = signal(TEXT_SETS[0]!.texts.join("\n"));
export const modelName = signal("");
export const outputName = signal<Output>("dense");
export const dimensions = signal("");
export const inputType = signal<"" | "query" | "document">("");
export const truncate = signal<"" | "END" | "START">("");
export const shown = signal<"similarity" | "map" | "tokens" | "code">("similarity");
export const job = new Job();

export interface Result extends Embedded {
  model: string;
  output: Output;
  measure: string;
  texts: string[];
  matrix: Matrix;
  map: ReturnType<typeof principalMap>;
  request: ApiRequest;
  requests: number;
  width: number;
}
export const result = signal<Result | null>(null);
/** How the model reads the texts of the last run, one that failed too: it shows what is too long. */
export const reading = signal<(ReadTexts & { all: number }) | null>(null);

/** The chosen model, or the first where none is chosen yet. */
export const model = computed<Model | undefined>(() => {
  const found = vectorModels.value;
  return found.find((each) => each.id === modelName.value) ?? found.find((each) => gives(each, "dense")) ?? found[0];
});

export const output = computed<Output>(() => {
  const outputs = model.value?.outputs ?? [];
  return outputs.includes(outputName.value) ? outputName.value : (outputs[0] ?? "dense");
});

/** The fields that a request has, by the choices; dimensions are those of dense vectors. */
export const options = computed<EmbedOptions & { name: string }>(() => {
  const asked: EmbedOptions & { name: string } = { name: model.value?.id ?? "", output: output.value };
  if (inputType.value && model.value) Object.assign(asked, inRole(model.value, inputType.value));
  if (truncate.value) asked.truncate = truncate.value;
  if (output.value === "dense" && dimensions.value) asked.dimensions = Number(dimensions.value);
  return asked;
});

function widthOf(embedded: Embedded): number {
  const [first] = embedded.vectors;
  return first?.dense?.length ?? first?.multi?.[0]?.length ?? 0;
}

export async function run(): Promise<void> {
  const texts = linesOf(text.value);
  const chosen = model.value;
  if (!chosen || !texts.length) return;
  const { name, ...asked } = options.value;
  const measure = measureOf(chosen, asked.output);
  await job.run(texts.length, async (abort, advance) => {
    const { inputType: role, truncate: end } = asked;
    const readOptions = { signal: abort, ...(role ? { inputType: role } : {}), ...(end ? { truncate: end } : {}) };
    const read = { ...(await readTokens(name, texts.slice(0, MOST_READ), readOptions)), all: texts.length };
    try {
      const embedded = await embed(name, texts, { ...asked, signal: abort, onProgress: steps(advance) });
      const matrix = await similarities(embedded.vectors.slice(0, MOST_COMPARED), asked.output, measure, abort);
      const ranges = [...parts(texts)];
      const request = { path: "v1/embeddings", body: embedBody(name, texts.slice(0, ranges[0]![1]), asked) };
      const map = principalMap(matrix);
      batch(() => {
        reading.value = read;
        result.value = {
          ...{ ...embedded, model: name, output: asked.output, measure, texts, matrix, map, request },
          ...{ requests: ranges.length, width: widthOf(embedded) },
        };
      });
    } catch (error) {
      if (!isCancelled(error)) {
        batch(() => {
          reading.value = read;
          result.value = null;
          if (error instanceof ApiError && error.code === "context_length_exceeded") shown.value = "tokens";
        });
      }
      throw error;
    }
  });
}
