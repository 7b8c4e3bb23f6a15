/** What each key has used, from the server's own records. */
import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { ApiError, call } from "../api";
import { endpoints } from "../models";
import { Empty, Problem } from "../parts";
import { key } from "../store";
import { count } from "../format";

const DAYS = 7;

interface Used {
  name: string;
  requests: number;
  tokens: number;
  inputs: number;
  cached: number;
  errors: number;
  /** Tokens by day, the oldest first. */
  days: number[];
}

interface Bucket {
  results: {
    api_key_id: string | null;
    num_model_requests: number;
    input_tokens: number;
    inputs: number;
    documents: number;
    cached: number;
    errors: number;
  }[];
}

const used = signal<Used[] | null>(null);
const error = signal<unknown>(null);

/** Whether asking again could help: not where usage is not recorded, or not for this key. */
const canAsk = () => !(error.peek() instanceof ApiError && [401, 403].includes((error.peek() as ApiError).status));

async function read(): Promise<void> {
  try {
    const { data } = await call<{ data: Bucket[] }>(`v1/usage?group_by=api_key_id&limit=${DAYS}`, { asksKey: false });
    used.value = byKey(data.data);
    error.value = null;
  } catch (found) {
    used.value = null;
    error.value = found;
  }
}

function byKey(buckets: Bucket[]): Used[] {
  const found = new Map<string, Used>();
  buckets.forEach(({ results }, day) => {
    for (const each of results) {
      const name = each.api_key_id || "without a key";
      const days = new Array<number>(buckets.length).fill(0);
      const all = found.get(name) ?? { name, requests: 0, tokens: 0, inputs: 0, cached: 0, errors: 0, days };
      all.requests += each.num_model_requests;
      all.tokens += each.input_tokens;
      all.inputs += each.inputs + each.documents;
      all.cached += each.cached;
      all.errors += each.errors;
      all.days[day]! += each.input_tokens;
      found.set(name, all);
    }
  });
  return [...found.values()].sort((a, b) => b.tokens - a.tokens);
}

export function UsageTable() {
  const isRecorded = endpoints.value !== null && "usage" in endpoints.value;
  useEffect(() => {
    if (!isRecorded) return;
    void read();
    const timer = setInterval(() => canAsk() && void read(), 10_000);
    return () => clearInterval(timer);
  }, [key.value, isRecorded]);
  return (
    <section class="card">
      <h2>Usage by key</h2>
      <Content />
    </section>
  );
}

function Content() {
  const problem = error.value;
  if (endpoints.value !== null && !("usage" in endpoints.value)) {
    return (
      <Empty title="Usage is not recorded">
        <p>Set auth.usage_file to count requests and tokens by day, key and model.</p>
      </Empty>
    );
  }
  if (problem instanceof ApiError && problem.status === 403) {
    return (
      <Empty title="Usage is for admin keys">
        <p>{problem.message}</p>
      </Empty>
    );
  }
  if (problem) return <Problem error={problem} onRetry={() => void read()} />;
  if (used.value === null) return <p class="hint">Asking …</p>;
  if (!used.value.length) return <Empty title={`Nothing used in the last ${DAYS} days`} />;
  return (
    <div class="table-box" tabIndex={0} role="group" aria-label="Usage by key">
      <table>
        <thead>
          <tr>
            <th scope="col">Key</th>
            {["Requests", "Tokens", "Inputs", "Cached", "Errors"].map((each) => (
              <th key={each} scope="col" class="right">
                {each}
              </th>
            ))}
            <th scope="col">Tokens by day</th>
          </tr>
        </thead>
        <tbody>
          {used.value.map((each) => (
            <tr key={each.name}>
              <th scope="row">{each.name}</th>
              {[each.requests, each.tokens, each.inputs, each.cached, each.errors].map((value, index) => (
                <td key={index} class="number right">
                  {count(value)}
                </td>
              ))}
              <td>
                <Days days={each.days} />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      <p class="hint">The last {DAYS} days of UTC.</p>
    </div>
  );
}

function Days({ days }: { days: number[] }) {
  const most = Math.max(...days, 1);
  return (
    <svg class="days" viewBox={`0 0 ${days.length * 12} 24`} role="img" aria-label={days.map((each) => count(each)).join(", ")}>
      {days.map((each, index) => {
        const height = each ? Math.max(1, (22 * each) / most) : 0;
        return <rect key={index} x={index * 12} y={24 - height} width="9" height={height} />;
      })}
    </svg>
  );
}
