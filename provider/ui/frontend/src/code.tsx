/** A request as curl, Python and JavaScript. */
import { signal } from "@preact/signals";
import { ROOT } from "./api";
import { CopyButton, Tabs } from "./parts";
import { key } from "./store";

export interface ApiRequest {
  path: string;
  body: Record<string, unknown>;
}

type Language = "curl" | "python" | "javascript";
const LANGUAGES = [
  ["curl", "curl"],
  ["python", "Python"],
  ["javascript", "JavaScript"],
] as const;
const chosen = signal<Language>("curl");

/** The fields that OpenAI's client has; others go by `extra_body`. */
const OPENAI_FIELDS = new Set(["model", "input", "dimensions", "encoding_format", "user"]);

const url = (path: string) => new URL(path, ROOT).href;

function curl({ path, body }: ApiRequest): string {
  const quoted = JSON.stringify(body, null, 1).replaceAll("'", "'\\''");
  const auth = key.value ? ' \\\n  -H "Authorization: Bearer $API_KEY"' : "";
  return `curl '${url(path)}' \\\n  -H 'Content-Type: application/json'${auth} \\\n  -d '${quoted}'`;
}

/** A JSON value as a literal of Python; strings are the same in both. */
function python(value: unknown, indent = ""): string {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const deeper = `${indent}    `;
  const isList = Array.isArray(value);
  const items = isList
    ? value.map((each) => python(each, deeper))
    : Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${python(each, deeper)}`);
  const [open, close] = isList ? "[]" : "{}";
  if (!items.length) return `${open}${close}`;
  return `${open}\n${items.map((each) => `${deeper}${each},\n`).join("")}${indent}${close}`;
}

function pythonCode({ path, body }: ApiRequest): string {
  if (path === "v1/embeddings") {
    const more = Object.fromEntries(Object.entries(body).filter(([name]) => !OPENAI_FIELDS.has(name)));
    const fields = Object.entries(body).filter(([name]) => OPENAI_FIELDS.has(name));
    if (Object.keys(more).length) fields.push(["extra_body", more]);
    const secret = key.value ? 'os.environ["API_KEY"]' : '"any"';
    const lines = fields.map(([name, value]) => `    ${name}=${python(value, "    ")},\n`).join("");
    return (
      `${key.value ? "import os\n\n" : ""}from openai import OpenAI\n\n` +
      `client = OpenAI(base_url=${JSON.stringify(url("v1"))}, api_key=${secret})\n` +
      `answer = client.embeddings.create(\n${lines})\nprint(answer.model_dump_json())`
    );
  }
  const headers = key.value ? ', headers={"Authorization": f"Bearer {os.environ[\'API_KEY\']}"}' : "";
  return (
    `${key.value ? "import os\n\n" : ""}import httpx\n\n` +
    `body = ${python(body)}\n` +
    `answer = httpx.post(${JSON.stringify(url(path))}, json=body${headers}).raise_for_status()\nprint(answer.text)`
  );
}

function javascript({ path, body }: ApiRequest): string {
  const auth = key.value ? ", Authorization: `Bearer ${process.env.API_KEY}`" : "";
  return (
    `const response = await fetch(${JSON.stringify(url(path))}, {\n  method: "POST",\n` +
    `  headers: { "Content-Type": "application/json"${auth} },\n` +
    `  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),\n});\n` +
    "if (!response.ok) throw new Error(await response.text());\nconsole.log(JSON.stringify(await response.json()));"
  );
}

const WRITERS: Record<Language, (request: ApiRequest) => string> = { curl, python: pythonCode, javascript };

export function Code(props: { request: ApiRequest; note?: string }) {
  const text = WRITERS[chosen.value](props.request);
  return (
    <div class="code">
      <Tabs label="Language" tabs={LANGUAGES} value={chosen.value} onChange={(value) => (chosen.value = value)}>
        <div class="code-text">
          <div class="actions">
            <CopyButton text={text} />
          </div>
          <pre tabIndex={0} aria-label="Request as code">
            {text}
          </pre>
        </div>
      </Tabs>
      {props.note && <p class="hint">{props.note}</p>}
      {key.value && <p class="hint">The key is not shown: set API_KEY in the environment.</p>}
    </div>
  );
}
