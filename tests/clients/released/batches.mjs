// OpenAI's client for Node.js runs a batch of FILE on the server at URL: its states and results, as JSON.
import fs from "node:fs";
import OpenAI, { NotFoundError } from "openai";

const [url, path] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: "any", maxRetries: 0 });
const file = await client.files.create({ file: fs.createReadStream(path), purpose: "batch" });
let batch = await client.batches.create({
  input_file_id: file.id,
  endpoint: "/v1/embeddings",
  completion_window: "24h",
});
const states = [batch.status];
const deadline = Date.now() + 200_000;
while (!["completed", "failed", "expired", "cancelled"].includes(batch.status) && Date.now() < deadline) {
  await new Promise((resolve) => setTimeout(resolve, 50));
  batch = await client.batches.retrieve(batch.id);
  if (states.at(-1) !== batch.status) states.push(batch.status);
}
const lines = async (id) => (await (await client.files.content(id)).text()).trim().split("\n").map(JSON.parse);
const listed = [];
for await (const each of client.batches.list()) listed.push(each.id);
const deleted = await client.files.delete(file.id);
const unknown = await client.files.retrieve(file.id).catch((error) => error instanceof NotFoundError);
console.log(
  JSON.stringify({
    states,
    counts: batch.request_counts,
    output: (await lines(batch.output_file_id)).map((each) => [each.custom_id, each.response.status_code]),
    errors: (await lines(batch.error_file_id)).map((each) => [each.custom_id, each.response.status_code]),
    isListed: listed.includes(batch.id),
    deleted: deleted.deleted,
    unknown,
  }),
);
