/**
 * Follows and ends QEMU's background jobs.
 *
 * A job ends in the state `concluded` and stays there until it is dismissed (we start ours with
 * `auto-dismiss: false`), so that its result can't be missed.
 *
 * @module
 */

import { delay } from "@std/async/delay";
import { Failure } from "../errors.ts";
import type { QmpClient } from "./client.ts";
import { type Job, queryJobs } from "./queries.ts";

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
 * Looks since when a job has stood still. A job that somebody paused does not count as one. Pure.
 *
 * @param last What the last look said; null at the first.
 */
export function standingOf(last: Standing | null, job: Job, nowMs: number): Standing {
  const progress = job["current-progress"];
  const isWaiting = job.status === "running" && last?.progress === progress;
  return isWaiting ? last : { progress, sinceMs: nowMs };
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
  options: {
    signal?: AbortSignal;
    intervalMs?: number;
    stallTimeoutMs?: number;
    onProgress?: (job: Job) => void;
  } = {},
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
      if (!job) throw new JobError(`The job "${id}" has vanished: did another client end it`);
      options.onProgress?.(job);
      if (job.status === "concluded") return job;
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
