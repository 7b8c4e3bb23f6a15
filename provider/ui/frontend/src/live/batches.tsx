/** Batches of requests: how far each is, and its end by the user. */
import { signal } from "@preact/signals";
import { ApiError, call } from "../api";
import { count, duration } from "../format";
import { endpoints } from "../models";
import { Empty, Problem, saveFile } from "../parts";

const MOST = 20;
const RUNNING = ["validating", "in_progress", "finalizing", "cancelling"];

interface Batch {
  id: string;
  endpoint: string;
  status: string;
  created_at: number;
  output_file_id: string | null;
  error_file_id: string | null;
  errors: { data: { message: string; line: number | null }[] } | null;
  request_counts: { total: number; completed: number; failed: number };
  pause: { message: string } | null;
}

const batches = signal<Batch[] | null>(null);
const problem = signal<unknown>(null);
/** How far a batch was when it was first seen running: its rate is since then. */
const first = new Map<string, { done: number; at: number }>();
/** The batch whose end was asked for and not yet confirmed. */
const asked = signal("");

export const hasBatches = () => endpoints.value !== null && "batches" in endpoints.value;

const doneOf = ({ request_counts: { completed, failed } }: Batch) => completed + failed;

export async function readBatches(): Promise<void> {
  try {
    const { data } = await call<{ data: Batch[] }>(`v1/batches?limit=${MOST}`, { asksKey: false });
    for (const each of data.data) {
      const isNew = each.status === "in_progress" && !first.has(each.id);
      if (isNew) first.set(each.id, { done: doneOf(each), at: performance.now() });
    }
    batches.value = data.data;
    problem.value = null;
  } catch (error) {
    problem.value = error;
  }
}

async function cancel(batch: Batch): Promise<void> {
  asked.value = "";
  try {
    await call(`v1/batches/${batch.id}/cancel`, { method: "POST" });
  } catch (error) {
    // It may have ended meanwhile; the list says so.
    if (!(error instanceof ApiError && error.code === "invalid_status")) problem.value = error;
  }
  await readBatches();
}

async function save(file: string, name: string): Promise<void> {
  try {
    saveFile(name, [(await call<string>(`v1/files/${file}/content`, { isText: true })).data]);
  } catch (error) {
    problem.value = error;
  }
}

export function Batches() {
  return (
    <section class="card" aria-labelledby="batches-title">
      <h2 id="batches-title">Batches</h2>
      <Content />
    </section>
  );
}

function Content() {
  if (endpoints.value !== null && !hasBatches()) {
    return (
      <Empty title="Batches are off">
        <p>Set jobs.folder to have files of requests answered in the background.</p>
      </Empty>
    );
  }
  return (
    <>
      <Problem error={problem.value} onRetry={() => void readBatches()} />
      {batches.value === null && !problem.value && <p class="hint">Asking …</p>}
      {batches.value?.length === 0 && (
        <Empty title="No batches yet">
          <p>
            Upload a file of requests to /v1/files and name it to /v1/batches, or run{" "}
            <code>emb-provider batch submit</code>.
          </p>
        </Empty>
      )}
      {batches.value !== null && batches.value.length > 0 && (
        <ul class="batches">
          {batches.value.map((each) => (
            <Entry key={each.id} batch={each} />
          ))}
        </ul>
      )}
      {batches.value?.length === MOST && <p class="hint">The newest {MOST}.</p>}
    </>
  );
}

function Entry({ batch }: { batch: Batch }) {
  const { total, completed, failed } = batch.request_counts;
  const isRunning = RUNNING.includes(batch.status);
  const words = [batch.endpoint, `since ${new Date(batch.created_at * 1000).toLocaleString()}`, ...pace(batch)];
  if (failed) words.push(`${failed.toLocaleString()} failed`);
  const share = (part: number) => `${total ? (100 * part) / total : 0}%`;
  return (
    <li>
      <div class="row">
        <h3>{batch.id}</h3>
        <span class={`state ${batch.status}`}>{batch.status.replaceAll("_", " ")}</span>
      </div>
      <div class="progress">
        <div
          class="bar"
          role="progressbar"
          aria-label={`Requests of ${batch.id}`}
          aria-valuenow={completed + failed}
          aria-valuemax={Math.max(total, 1)}
        >
          <div style={{ width: share(completed) }} />
          <div class="bad" style={{ width: share(failed) }} />
        </div>
        <span class="number">
          {(completed + failed).toLocaleString()} of {total ? total.toLocaleString() : "?"}
        </span>
      </div>
      <p class="hint">{words.join(" · ")}</p>
      {isRunning && batch.pause && <p class="notice">Paused: {batch.pause.message}</p>}
      {batch.errors?.data.slice(0, 3).map(({ line, message }) => (
        <p key={`${line} ${message}`} class="problem">
          {line !== null && `Line ${line}: `}
          {message}
        </p>
      ))}
      <Actions batch={batch} isRunning={isRunning} />
    </li>
  );
}

/** Requests a second, and the time that is left at this rate. */
function pace(batch: Batch): string[] {
  const since = first.get(batch.id);
  const seconds = since ? (performance.now() - since.at) / 1000 : 0;
  const rate = since && seconds > 1 ? (doneOf(batch) - since.done) / seconds : 0;
  if (batch.status !== "in_progress" || !rate) return [];
  const left = (batch.request_counts.total - doneOf(batch)) / rate;
  return [`${count(rate)} requests/s`, `about ${duration(left)} left`];
}

function Actions({ batch, isRunning }: { batch: Batch; isRunning: boolean }) {
  const { id, output_file_id: output, error_file_id: errors } = batch;
  if (isRunning) {
    if (batch.status === "cancelling" || batch.status === "finalizing") return null;
    if (asked.value !== id) {
      return (
        <div class="buttons">
          <button type="button" onClick={() => (asked.value = id)}>
            Cancel
          </button>
        </div>
      );
    }
    return (
      <div class="buttons" role="alert">
        <span>Results so far are kept; the rest is not answered.</span>
        <button type="button" class="danger" onClick={() => void cancel(batch)}>
          Cancel the batch
        </button>
        <button type="button" onClick={() => (asked.value = "")}>
          Go on with it
        </button>
      </div>
    );
  }
  if (!output && !errors) return null;
  return (
    <div class="buttons">
      {output && (
        <button type="button" onClick={() => void save(output, `${id}_output.jsonl`)}>
          Save results
        </button>
      )}
      {errors && (
        <button type="button" onClick={() => void save(errors, `${id}_errors.jsonl`)}>
          Save errors
        </button>
      )}
    </div>
  );
}
