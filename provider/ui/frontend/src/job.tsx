/** Work that takes a while: progress, an end by the user, an error. */
import { batch, signal } from "@preact/signals";
import type { RefObject } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { isCancelled } from "./api";
import { Problem, Progress } from "./parts";

export class Job {
  readonly isRunning = signal(false);
  readonly done = signal(0);
  readonly all = signal(0);
  readonly error = signal<unknown>(null);
  readonly wasCancelled = signal(false);
  #controller: AbortController | null = null;

  /** Do `work`; what ran before is ended. `work` calls `advance` with how much is done. */
  async run(all: number, work: (signal: AbortSignal, advance: (by: number) => void) => Promise<void>): Promise<void> {
    this.#controller?.abort();
    const controller = new AbortController();
    this.#controller = controller;
    batch(() => {
      this.isRunning.value = true;
      this.done.value = 0;
      this.all.value = all;
      this.error.value = null;
      this.wasCancelled.value = false;
    });
    try {
      await work(controller.signal, (by) => {
        if (this.#controller === controller) this.done.value = Math.min(this.all.value, this.done.value + by);
      });
    } catch (error) {
      if (this.#controller !== controller) return;
      if (isCancelled(error)) this.wasCancelled.value = true;
      else this.error.value = error;
    } finally {
      if (this.#controller === controller) this.isRunning.value = false;
    }
  }

  cancel(): void {
    this.#controller?.abort();
  }
}

/** Turns the count of one call's finished inputs into steps. */
export function steps(advance: (by: number) => void): (done: number) => void {
  let before = 0;
  return (done) => {
    advance(done - before);
    before = done;
  };
}

/** On a phone what was asked for is below the form: bring it into view. */
function useShown(job: Job): RefObject<HTMLDivElement | null> {
  const at = useRef<HTMLDivElement>(null);
  const wasRunning = useRef(false);
  const isRunning = job.isRunning.value;
  useEffect(() => {
    const isOver = wasRunning.current && !isRunning;
    wasRunning.current = isRunning;
    if (isOver && at.current!.getBoundingClientRect().top > window.innerHeight * 0.8) {
      at.current!.closest("section")!.scrollIntoView();
    }
  }, [isRunning]);
  return at;
}

export function JobState(props: { job: Job; label: string; onRetry: () => void }) {
  const { job } = props;
  return (
    <div ref={useShown(job)}>
      {job.isRunning.value && (
        <Progress label={props.label} done={job.done.value} all={job.all.value} onCancel={() => job.cancel()} />
      )}
      {job.wasCancelled.value && (
        <p class="hint" role="status">
          Cancelled after {job.done.value.toLocaleString()} of {job.all.value.toLocaleString()}.
        </p>
      )}
      <Problem error={job.error.value} onRetry={props.onRetry} />
    </div>
  );
}
