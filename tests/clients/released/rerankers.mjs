// Released JavaScript clients that rerank: `node rerankers.mjs CLIENT`. Jobs and answers as in rerankers.py.

import { createInterface } from "node:readline";
import { createCohere } from "@ai-sdk/cohere";
import { rerank } from "ai";
import { CohereClient, CohereClientV2 } from "cohere-ai";

const pairs = ({ results }) => results.map((each) => [each.index, each.relevanceScore]);

const CLIENTS = {
  "ai-sdk-cohere": async (url, { model, query, documents, top_n }) => {
    const cohere = createCohere({ baseURL: `${url}/v2`, apiKey: "any" });
    const { ranking } = await rerank({ model: cohere.reranking(model), query, documents, topN: top_n });
    return ranking.map((each) => [each.originalIndex, each.score]);
  },
  "cohere-js-v1": async (url, { model, query, documents, top_n }) =>
    pairs(await new CohereClient({ environment: url, token: "any" }).rerank({ model, query, documents, topN: top_n })),
  "cohere-js-v2": async (url, { model, query, documents, top_n }) =>
    pairs(await new CohereClientV2({ environment: url, token: "any" }).rerank({ model, query, documents, topN: top_n })),
};

globalThis.AI_SDK_LOG_WARNINGS = false; // they would go where the answers go
const client = CLIENTS[process.argv[2]];
for await (const line of createInterface({ input: process.stdin })) {
  const { url, body } = JSON.parse(line);
  const answer = await client(url, body).then(
    (results) => ({ results }),
    (error) => ({ error: error.message }),
  );
  console.log(JSON.stringify(answer));
}
