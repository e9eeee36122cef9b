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
import { Failure } from "../errors.ts";
import type { QmpClient } from "./client.ts";
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

/** How a job is waited for. */
export interface WaitOptions {
  signal?: AbortSignal;
  intervalMs?: number;
  stallTimeoutMs?: number;
  onProgress?: (job: Job) => void;
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
  const isOver = async ({ status }: Job) =>
    ["pending", "concluded"].includes(status) ||
    // Somebody may have paused it, too.
    (status === "paused" && (await queryFailedJobs(qmp)).includes(id));
  return await follow(qmp, id, isOver, options);
}

/** Lets a job that is `pending` conclude (`job-finalize`). */
export async function finalizeJob(qmp: QmpClient, id: string): Promise<Job> {
  await qmp.execute("job-finalize", { id });
  return await waitForJob(qmp, id);
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
        delay(options.intervalMs ?? 500, { signal: pause.signal }).catch(() => {}),
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
