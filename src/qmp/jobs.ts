/**
 * Follows and ends QEMU's background jobs.
 *
 * A job ends in the state `concluded` and stays there until it is dismissed (we start ours with
 * `auto-dismiss: false`), so that its result can't be missed. One that is started with
 * `auto-finalize: false` waits in `pending` before, with its work done.
 *
 * @module
 */

import { delay } from "@std/async/delay";
import * as v from "valibot";
import { Failure } from "../errors.ts";
import { type QmpClient, QmpCommandError } from "./client.ts";
import { type Job, queryFailedJobs, queryJobs } from "./queries.ts";

/** A job did not end when told to. */
export class JobError extends Failure {
  override name = "JobError";
}

/** A job makes no progress. */
export class StalledError extends JobError {
  override name = "StalledError";
}

/** How far a job has come, and since when. */
export interface Standing {
  progress: number;
  sinceMs: number;
}

/**
 * Tells since when a job has made no progress. A job that somebody paused is left out. Pure.
 *
 * @param last What the last look said; null at the first.
 */
export function standingOf(last: Standing | null, job: Job, nowMs: number): Standing {
  const progress = job["current-progress"];
  const isWaiting = job.status === "running" && last?.progress === progress;
  return isWaiting ? last : { progress, sinceMs: nowMs };
}

const StatusChange = v.object({ id: v.string(), status: v.string() });
/** Of a job that was cancelled QEMU sends another event. */
const Completed = v.object({
  device: v.string(),
  len: v.number(),
  offset: v.number(),
  error: v.optional(v.string()),
});

/**
 * What QEMU tells of a job without being asked. Made before the job is started, it misses nothing: then a job
 * that is done within moments is not asked for at all.
 *
 * Source: QEMU QMP Reference Manual, `JOB_STATUS_CHANGE` and `BLOCK_JOB_COMPLETED`.
 */
export class JobEvents implements Disposable {
  #status = "";
  #end: v.InferOutput<typeof Completed> | null = null;
  #wake = Promise.withResolvers<void>();
  readonly #subscription: Disposable;

  constructor(readonly qmp: QmpClient, readonly id: string) {
    this.#subscription = qmp.subscribe(({ event, data }) => {
      if (event === "BLOCK_JOB_COMPLETED" && v.is(Completed, data) && data.device === id) {
        this.#end = data;
      }
      if (event !== "JOB_STATUS_CHANGE" || !v.is(StatusChange, data) || data.id !== id) return;
      this.#status = data.status;
      this.#wake.resolve();
      this.#wake = Promise.withResolvers();
    });
  }

  /** Waits for one of these states, for as long as a look may wait. Returns whether it was heard of. */
  async hears(statuses: string[], { signal, intervalMs = LOOK_EVERY_MS }: WaitOptions = {}) {
    const stop = new AbortController();
    const signals = signal ? [signal, stop.signal] : [stop.signal];
    const late = delay(intervalMs, { signal: AbortSignal.any(signals) }).then(
      () => true,
      () => true,
    );
    let isLate = false;
    while (!isLate && this.qmp.isOpen && !statuses.includes(this.#status)) {
      isLate = await Promise.race([
        late,
        this.#wake.promise.then(() => false),
        this.qmp.closed.then(() => true),
      ]);
    }
    stop.abort();
    return statuses.includes(this.#status);
  }

  /** The job as it is now, as far as was heard; null where a look would tell more. */
  get job(): Job | null {
    const job = { id: this.id, type: "backup", status: this.#status };
    if (this.#status === "pending") return { ...job, "current-progress": 0, "total-progress": 0 };
    if (this.#status !== "concluded" || !this.#end) return null;
    const { len, offset, error } = this.#end;
    return {
      ...job,
      "current-progress": offset,
      "total-progress": len,
      ...(error === undefined ? {} : { error }),
    };
  }

  [Symbol.dispose]() {
    this.#subscription[Symbol.dispose]();
  }
}

const LOOK_EVERY_MS = 500;

/** How a job is waited for. */
export interface WaitOptions {
  signal?: AbortSignal;
  intervalMs?: number;
  stallTimeoutMs?: number;
  onProgress?: (job: Job) => void;
  /** Listens since before the job was started. */
  events?: JobEvents;
}

/**
 * Waits until a job has concluded.
 *
 * Polled, since a poll also shows progress and can't miss an event; `JOB_STATUS_CHANGE` cuts the
 * wait short.
 *
 * @param onProgress Gets the job at every look.
 * @param stallTimeoutMs How long it may make no progress.
 * @returns The concluded job; its `error` says whether it failed.
 * @throws {JobError} If the job is not there (any more): somebody else dismissed it.
 * @throws {StalledError} If it makes no progress. The job is still there then.
 * @throws The signal's reason, if it is aborted meanwhile. The job runs on then.
 */
export async function waitForJob(
  qmp: QmpClient,
  id: string,
  options: WaitOptions = {},
): Promise<Job> {
  return await follow(qmp, id, ({ status }) => status === "concluded", options);
}

/**
 * As {@linkcode waitForJob}, but for a job that waits for us at the end (`auto-finalize: false`), or
 * where an error of its source has stopped it (`on-source-error: stop`).
 *
 * @returns The job: `pending`, if its work is done; `paused`, if an error has stopped it; else
 * `concluded`, with its `error`.
 */
export async function waitForWork(
  qmp: QmpClient,
  id: string,
  options: WaitOptions = {},
): Promise<Job> {
  const { events } = options;
  if (await events?.hears(["pending", "paused", "concluded"], options) && events?.job) {
    return events.job;
  }
  const isOver = async ({ status }: Job) =>
    ["pending", "concluded"].includes(status) ||
    // Somebody may have paused it, too.
    (status === "paused" && (await queryFailedJobs(qmp)).includes(id));
  return await follow(qmp, id, isOver, options);
}

/** Lets a job that is `pending` conclude (`job-finalize`). */
export async function finalizeJob(qmp: QmpClient, id: string, events?: JobEvents): Promise<Job> {
  await qmp.execute("job-finalize", { id });
  const heard = await events?.hears(["concluded"]) ? events?.job : null;
  return heard ?? await waitForJob(qmp, id);
}

/** Takes away a job that was seen concluded; whatever has become of it since, as `endJob()` does. */
export async function dismissJob(qmp: QmpClient, id: string): Promise<void> {
  try {
    await qmp.execute("job-dismiss", { id });
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
    await endJob(qmp, id);
  }
}

async function follow(
  qmp: QmpClient,
  id: string,
  isOver: (job: Job) => boolean | Promise<boolean>,
  options: WaitOptions,
): Promise<Job> {
  const { stallTimeoutMs = Infinity } = options;
  let standing: Standing | null = null;
  let wake = Promise.withResolvers<void>();
  using _ = qmp.subscribe(({ event, data }) => {
    if (event === "JOB_STATUS_CHANGE" && data.id === id) wake.resolve();
  });
  const onAbort = () => wake.resolve();
  options.signal?.addEventListener("abort", onAbort);
  qmp.closed.then(() => wake.resolve());
  try {
    while (true) {
      options.signal?.throwIfAborted();
      wake = Promise.withResolvers();
      const job = (await queryJobs(qmp)).find((job) => job.id === id);
      if (!job) {
        throw new JobError(`The job "${id}" has vanished. Check whether another client ended it`);
      }
      options.onProgress?.(job);
      if (await isOver(job)) return job;
      standing = standingOf(standing, job, performance.now());
      if (performance.now() - standing.sinceMs > stallTimeoutMs) {
        throw new StalledError(
          `The job "${id}" has made no progress for ${stallTimeoutMs / 1000} s`,
        );
      }
      const pause = new AbortController();
      await Promise.race([
        delay(options.intervalMs ?? LOOK_EVERY_MS, { signal: pause.signal }).catch(() => {}),
        wake.promise,
      ]);
      pause.abort();
    }
  } finally {
    options.signal?.removeEventListener("abort", onAbort);
  }
}

/**
 * Takes a job away, whatever state it is in: `job-cancel`, wait for `concluded`, `job-dismiss`.
 * A job that is not there is fine.
 *
 * @throws {JobError} If it does not end within `timeoutMs`.
 */
export async function endJob(qmp: QmpClient, id: string, timeoutMs = 30_000): Promise<void> {
  const find = async () => (await queryJobs(qmp)).find((job) => job.id === id);
  const job = await find();
  if (!job) return;
  if (job.status !== "concluded") {
    // A job that concludes just now refuses: then there is nothing to cancel.
    await qmp.execute("job-cancel", { id }).catch(() => {});
    try {
      await waitForJob(qmp, id, { signal: AbortSignal.timeout(timeoutMs), intervalMs: 100 });
    } catch (error) {
      if (error instanceof DOMException) {
        throw new JobError(`The job "${id}" does not end though it was cancelled`);
      }
      if (!(error instanceof JobError) || await find()) throw error;
      return;
    }
  }
  await qmp.execute("job-dismiss", { id });
}
