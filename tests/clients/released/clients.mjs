// Released JavaScript clients, each called as its users call it: `node clients.mjs CLIENT`. Jobs and answers as in run.py.

import { createInterface } from "node:readline";

const VERSION = "2024-10-21";

const CLIENTS = {
  "openai-node": async (baseURL, body) => {
    const { default: OpenAI } = await import("openai");
    return asked(new OpenAI({ baseURL, apiKey: "any" }), body);
  },
  "openai-node-azure": async (endpoint, body) => {
    const { AzureOpenAI } = await import("openai");
    return asked(new AzureOpenAI({ endpoint, apiKey: "any", apiVersion: VERSION }), body);
  },
  "openai-node-4": async (baseURL, body) => {
    const { default: OpenAI } = await import("openai-4");
    return asked(new OpenAI({ baseURL, apiKey: "any" }), body);
  },
  "openai-node-4-azure": async (endpoint, body) => {
    const { AzureOpenAI } = await import("openai-4");
    return asked(new AzureOpenAI({ endpoint, apiKey: "any", apiVersion: VERSION, deployment: body.model }), body);
  },
  "langchain-openai-js": async (baseURL, { model, input, dimensions }) => {
    const { OpenAIEmbeddings } = await import("@langchain/openai");
    const client = new OpenAIEmbeddings({ apiKey: "any", model, dimensions, configuration: { baseURL } });
    return { vectors: await client.embedDocuments(input) };
  },
  "ai-sdk-openai": async (baseURL, body) => {
    const { createOpenAI } = await import("@ai-sdk/openai");
    // One request at a time: five at once take longer than the server lets requests wait.
    return many(createOpenAI({ baseURL, apiKey: "any" }), "openai", body, { maxParallelCalls: 1 });
  },
  "ai-sdk-openai-compatible": async (baseURL, body) => {
    const { createOpenAICompatible } = await import("@ai-sdk/openai-compatible");
    return many(createOpenAICompatible({ baseURL, name: "ours" }), "ours", body);
  },
  "ai-sdk-azure": async (baseURL, body) => {
    const { createAzure } = await import("@ai-sdk/azure");
    return many(createAzure({ baseURL, apiKey: "any" }), "openai", body);
  },
  "ai-sdk-azure-deployments": async (baseURL, body) => {
    const { createAzure } = await import("@ai-sdk/azure");
    const azure = createAzure({ baseURL, apiKey: "any", useDeploymentBasedUrls: true, apiVersion: VERSION });
    return many(azure, "openai", body);
  },
  "ai-sdk-cohere": async (baseURL, { model, input }) => {
    const { createCohere } = await import("@ai-sdk/cohere");
    const options = { inputType: "search_document", truncate: "NONE" };
    return many(createCohere({ baseURL, apiKey: "any" }), "cohere", { model, input, ...options });
  },
  "cohere-js-v1": async (url, { model, input }) => {
    const { CohereClient } = await import("cohere-ai");
    return ofCohere(new CohereClient({ token: "any", environment: url }), model, input);
  },
  "cohere-js-v2": async (url, { model, input, dimensions }) => {
    const { CohereClientV2 } = await import("cohere-ai");
    return ofCohere(new CohereClientV2({ token: "any", environment: url }), model, input, dimensions);
  },
  "ollama-js": async (host, { model, input, dimensions }) => {
    const { Ollama } = await import("ollama");
    const answer = await new Ollama({ host }).embed({ model, input, dimensions, truncate: false });
    return { vectors: answer.embeddings, tokens: answer.prompt_eval_count };
  },
  "huggingface-js": async (endpointUrl, { input, dimensions }) => {
    const { InferenceClient } = await import("@huggingface/inference");
    const client = new InferenceClient("any", { endpointUrl });
    return { vectors: await client.featureExtraction({ inputs: input, dimensions }) };
  },
  "voyageai-js": async (environment, { model, input, dimensions }) => {
    const { VoyageAIClient } = await import("voyageai");
    const client = new VoyageAIClient({ apiKey: "any", environment });
    const answer = await client.embed({ model, input, truncation: false, outputDimension: dimensions });
    return { vectors: answer.data.map((each) => each.embedding), tokens: answer.usage.totalTokens };
  },
  "ai-sdk-cohere-rerank": async (baseURL, { model, query, documents, top_n }) => {
    const { createCohere } = await import("@ai-sdk/cohere");
    const { rerank } = await import("ai");
    const cohere = createCohere({ baseURL, apiKey: "any" });
    const { ranking } = await rerank({ model: cohere.reranking(model), query, documents, topN: top_n });
    return { results: ranking.map((each) => [each.originalIndex, each.score]) };
  },
  "cohere-js-v1-rerank": async (environment, { top_n, ...job }) => {
    const { CohereClient } = await import("cohere-ai");
    return ranked(await new CohereClient({ environment, token: "any" }).rerank({ ...job, topN: top_n }));
  },
  "cohere-js-v2-rerank": async (environment, { top_n, ...job }) => {
    const { CohereClientV2 } = await import("cohere-ai");
    return ranked(await new CohereClientV2({ environment, token: "any" }).rerank({ ...job, topN: top_n }));
  },
};

async function asked(client, body) {
  const { data, usage } = await client.embeddings.create(body);
  return { vectors: data.map((each) => each.embedding), tokens: usage.total_tokens };
}

async function many(provider, name, { model, input, ...options }, more = {}) {
  const { embedMany } = await import("ai");
  const { embeddings, usage } = await embedMany({
    model: provider.embeddingModel(model),
    values: input,
    providerOptions: { [name]: options },
    ...more,
  });
  return { vectors: embeddings, tokens: usage.tokens };
}

async function ofCohere(client, model, texts, outputDimension) {
  const options = { inputType: "search_document", embeddingTypes: ["float"], truncate: "NONE" };
  const { embeddings, meta } = await client.embed({ model, texts, outputDimension, ...options });
  return { vectors: embeddings.float, tokens: meta.billedUnits.inputTokens };
}

const ranked = ({ results }) => ({ results: results.map((each) => [each.index, each.relevanceScore]) });

globalThis.AI_SDK_LOG_WARNINGS = false; // they would go where the answers go
console.warn = console.info = console.error;
const client = CLIENTS[process.argv[2]];
for await (const line of createInterface({ input: process.stdin })) {
  const { url, body } = JSON.parse(line);
  const answer = await client(url, body).catch((error) => ({ error: String(error?.message ?? error) }));
  console.log(JSON.stringify(answer));
}
