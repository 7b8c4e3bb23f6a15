/** The server at work: moving charts, its models, usage by key. */
import "./live.css";
import { useEffect } from "preact/hooks";
import { ApiError } from "../api";
import { endpoints, models, refreshModels } from "../models";
import { Problem, Select } from "../parts";
import { key } from "../store";
import { Batches, hasBatches, readBatches } from "./batches";
import { Chart } from "./chart";
import { bytes, count, percent, time } from "../format";
import { isPaused, onlyModel, POLL, points, poll, problem, refusals, restart, workers } from "./history";
import { ModelTable } from "./model-table";
import { UsageTable } from "./usage";

export function LiveView() {
  useEffect(() => {
    let timer = 0;
    let isOver = false;
    const next = async () => {
      if (!isPaused.peek() && document.visibilityState === "visible") {
        if (hasMetrics()) await poll();
        await refreshModels(false);
        if (hasBatches()) await readBatches();
      }
      if (!isOver) timer = window.setTimeout(() => void next(), POLL);
    };
    problem.value = null;
    restart();
    void next();
    return () => {
      isOver = true;
      clearTimeout(timer);
    };
  }, [key.value]);
  return (
    <>
      <div class="row live-head">
        <Select
          label="Model"
          value={onlyModel.value}
          options={[["", "all models"], ...(models.value ?? []).map((each) => [each.id, each.id] as const)]}
          onChange={(value) => {
            onlyModel.value = value;
            restart();
          }}
        />
        <p class="hint" role="status">
          {status()}
        </p>
        <button type="button" aria-pressed={isPaused.value} onClick={() => (isPaused.value = !isPaused.value)}>
          {isPaused.value ? "Go on" : "Pause"}
        </button>
      </div>
      {problem.value !== null && <MetricsProblem error={problem.value} />}
      <h2 class="offscreen">Charts</h2>
      <div class="charts">
        <Chart
          title="Requests a second"
          format={count}
          lines={[
            { series: "requests", label: "all" },
            { series: "refused", label: "4xx" },
            { series: "errors", label: "5xx" },
          ]}
        />
        <Chart title="Tokens a second" format={count} lines={[{ series: "tokens", label: "tokens" }]} />
        <Chart
          title="Latency"
          format={time}
          lines={[
            { series: "p50", label: "p50" },
            { series: "p95", label: "p95" },
            { series: "p99", label: "p99" },
          ]}
        />
        <Chart
          title="Where time goes"
          format={time}
          lines={[
            { series: "forward", label: "forward" },
            { series: "queued", label: "queue" },
            { series: "tokenise", label: "tokenise" },
          ]}
        />
        <Chart
          title="Queue"
          format={count}
          lines={[
            { series: "rows", label: "rows" },
            { series: "underWay", label: "requests" },
            { series: "waiting", label: "waiting" },
          ]}
        />
        <Chart title="Batch fill" format={percent} most={100} lines={[{ series: "fill", label: "of a batch's tokens" }]} />
        <Chart title="Cache hits" format={percent} most={100} lines={[{ series: "hits", label: "of inputs" }]} />
        <Chart
          title="Memory"
          format={bytes}
          lines={[
            { series: "resident", label: "process" },
            { series: "weights", label: "models" },
            { series: "cache", label: "cache" },
          ]}
        />
      </div>
      <Refusals />
      <ModelTable />
      <Batches />
      <UsageTable />
    </>
  );
}

/** Not asked for again where they are not. */
function hasMetrics(): boolean {
  const { value } = endpoints;
  const error = problem.peek();
  const isRefused = error instanceof ApiError && [401, 403, 404].includes(error.status);
  return value !== null && "metrics" in value && !isRefused;
}

function status(): string {
  if (endpoints.value && !("metrics" in endpoints.value)) return "Metrics are switched off (metrics.enabled).";
  if (isPaused.value) return "Paused.";
  const of = workers.value > 1 ? ` of ${workers.value} workers` : "";
  return points.value.length ? `Metrics${of}, every ${POLL / 1000} s.` : "Waiting for the second look at the metrics …";
}

function MetricsProblem({ error }: { error: unknown }) {
  if (error instanceof ApiError && error.status === 404) {
    return (
      <div class="problem" role="alert">
        <p>
          <strong>There are no metrics at this address.</strong>
        </p>
        <p>They are at another port (server.admin_port). The charts stay empty.</p>
      </div>
    );
  }
  return <Problem error={error} onRetry={() => void poll()} />;
}

function Refusals() {
  if (!refusals.value.length) return null;
  return (
    <section class="card">
      <h2>Refused since you opened this page</h2>
      <ul class="chips">
        {refusals.value.map(([reason, many]) => (
          <li key={reason}>
            {reason.replaceAll("_", " ")} <strong class="number">{count(many)}</strong>
          </li>
        ))}
      </ul>
    </section>
  );
}
