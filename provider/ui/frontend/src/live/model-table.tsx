/** Models with their state and how they run. */
import { type Model, models, modelsError, refreshModels, stateOf } from "../models";
import { CopyButton, Problem } from "../parts";
import { speeds } from "./history";
import { bytes, count } from "../format";

const STEPS = ["waiting", "resolving", "loading", "ready"];

export function ModelTable() {
  return (
    <section class="card">
      <h2>Models</h2>
      <Problem error={modelsError.value} onRetry={() => void refreshModels()} />
      <ul class="models">
        {(models.value ?? []).map((each) => (
          <Entry key={each.id} model={each} />
        ))}
      </ul>
    </section>
  );
}

function Entry({ model }: { model: Model }) {
  const facts: [string, string | number | null | undefined][] = [
    ["Task", model.task],
    ["Backend", model.backend],
    ["Device", model.device],
    ["Dtype", model.dtype],
    ["Dimensions", model.dimensions],
    ["Most tokens", model.max_model_len],
    ["Lanes", model.lanes && `${model.lanes} × ${model.threads_per_lane} threads`],
    ["Batch", model.batch_tokens && `${model.batch_tokens.toLocaleString()} tokens`],
    ["Measured", speed(model)],
    ["Memory", model.resident_bytes && bytes(model.resident_bytes)],
  ];
  return (
    <li>
      <div class="row">
        <h3>{model.id}</h3>
        <span class={`state ${model.state}`}>{model.state}</span>
      </div>
      <Loading model={model} />
      {model.problem && model.state === "failed" && <p class="problem">{model.problem}</p>}
      {model.degraded && <p class="problem">{model.degraded}</p>}
      <dl class="facts small">
        {facts.map(
          ([name, value]) =>
            value !== null &&
            value !== undefined && (
              <div key={name}>
                <dt>{name}</dt>
                <dd class="number">{value}</dd>
              </div>
            ),
        )}
      </dl>
      <Tuning model={model} />
      {model.fingerprint && (
        <p class="hint row">
          <span>
            Fingerprint <code>{model.fingerprint}</code>
          </span>
          <CopyButton text={model.fingerprint} />
        </p>
      )}
      {model.notices?.map((each) => (
        <p key={each} class="notice">
          {each}
        </p>
      ))}
    </li>
  );
}

/** Bytes of a download; else the step that a load is at. */
function Loading({ model }: { model: Model }) {
  const step = STEPS.indexOf(model.state);
  const last = STEPS.length - 1;
  if (step < 0 || step === last) return null;
  const { download } = model;
  const share = download ? download.bytes / Math.max(1, download.total_bytes) : (step + 0.5) / last;
  return (
    <>
      <div
        class="bar"
        role="progressbar"
        aria-label={`Loading of ${model.id}`}
        aria-valuenow={Math.round(100 * share)}
        aria-valuetext={stateOf(model)}
      >
        <div style={{ width: `${100 * share}%` }} />
      </div>
      <p class="hint number">{stateOf(model)}</p>
    </>
  );
}

function speed(model: Model): string | null {
  const measured = speeds.value.get(model.id);
  return measured ? `${count(measured)} tokens/s` : null;
}

/** What was measured to choose lanes, threads and batches. */
function Tuning({ model }: { model: Model }) {
  const plans = Object.entries(model.tuning?.tokens_per_second ?? {});
  if (!model.tuning || !plans.length) return null;
  const most = Math.max(...plans.map(([, speed]) => speed));
  return (
    <details>
      <summary>Tuning ({model.tuning.state})</summary>
      <table>
        <caption class="hint">Lanes × threads and most tokens of a batch; tokens a second of each</caption>
        <tbody>
          {plans.map(([plan, speed]) => (
            <tr key={plan} class={speed === most ? "best" : ""}>
              <th scope="row">{plan}</th>
              <td class="number right">{count(speed)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </details>
  );
}
