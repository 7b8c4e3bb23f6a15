// Released JavaScript clients, each called as its users call it: `node clients.mjs CLIENT`. Jobs and answers as in clients.py.

import { createInterface } from "node:readline";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany } from "ai";
import { CohereClientV2 } from "cohere-ai";
import OpenAI from "openai";

const CLIENTS = {
  "openai-node": async (baseURL, { model, ...rest }) => {
    const client = new OpenAI({ baseURL, apiKey: "any" });
    const { data } = await client.embeddings.create({ model, ...rest });
    return data.map((each) => each.embedding);
  },
  "ai-sdk-openai": (baseURL, body) => many(createOpenAI({ baseURL, apiKey: "any" }), "openai", body),
  "ai-sdk-openai-compatible": (baseURL, body) => many(createOpenAICompatible({ baseURL, name: "ours" }), "ours", body),
  "cohere-js-embed": async (baseUrl, { model, input, dimensions }) => {
    const client = new CohereClientV2({ token: "any", baseUrl, environment: baseUrl });
    const { embeddings } = await client.embed({
      model,
      texts: input,
      inputType: "search_document",
      embeddingTypes: ["float"],
      truncate: "NONE",
      outputDimension: dimensions,
    });
    return embeddings.float;
  },
};

async function many(provider, name, { model, input, ...options }) {
  const { embeddings } = await embedMany({
    model: provider.embeddingModel(model),
    values: input,
    providerOptions: { [name]: options },
  });
  return embeddings;
}

globalThis.AI_SDK_LOG_WARNINGS = false; // they would go where the answers go
const embed = CLIENTS[process.argv[2]];
for await (const line of createInterface({ input: process.stdin })) {
  const { url, body } = JSON.parse(line);
  const answer = await embed(url, body).then(
    (vectors) => ({ vectors }),
    (error) => ({ error: error.message }),
  );
  console.log(JSON.stringify(answer));
}
