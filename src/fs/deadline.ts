/**
 * File operations that don't wait for ever: an NFS server that is gone, or a disk that died, lets
 * whoever asks it wait.
 *
 * @module
 */

import { delay } from "@std/async/delay";
import { dirname, join } from "@std/path";
import { Failure } from "../errors.ts";

/** A file system does not answer. What was asked of it may still happen. */
export class HangingError extends Failure {
  override name = "HangingError";
}

/** How long a file system gets while another operation that was given up has still not come back. */
const IMPATIENT_TIMEOUT_MS = 5_000;

let timeoutMs = 300_000;
const late = new Set<Promise<unknown>>();

/** Sets how long a file system may take for one operation; at first 5 minutes. */
export function setFileTimeout(ms: number): void {
  timeoutMs = ms;
}

/**
 * Runs a file operation, but does not wait for ever. One that is given up is left to the kernel, since
 * nobody can take it back; the process ends all the same.
 *
 * @param path What the operation is about.
 * @throws {HangingError} If it takes too long.
 */
export async function bounded<T>(path: string, operate: () => Promise<T>): Promise<T> {
  await refuseHanging(path);
  return await limited(path, operate());
}

/**
 * Asks a file system whether it answers at all.
 *
 * @param path A file or folder in it.
 * @throws {HangingError} If it does not.
 */
export async function refuseHanging(path: string): Promise<void> {
  await limited(path, knock(path));
}

/**
 * Asks for names that nobody knows, which no cache can answer. Deno 2.4 opens files, and asks for free
 * space, in its only thread, where no time-out runs: that a file system hangs must be known before. (One
 * that begins to hang between this and the next call, mostly less than a millisecond, still holds us.)
 */
async function knock(path: string) {
  const name = `.${crypto.randomUUID()}`;
  await Promise.allSettled([path, dirname(path)].map((folder) => Deno.lstat(join(folder, name))));
}

async function limited<T>(path: string, work: Promise<T>): Promise<T> {
  const limitMs = late.size > 0 ? Math.min(timeoutMs, IMPATIENT_TIMEOUT_MS) : timeoutMs;
  if (await endsWithin(work, limitMs)) return await work;
  return giveUp(path, work, limitMs);
}

/** Waits for something, but not longer. Returns whether it ended, well or not. */
export async function endsWithin(work: Promise<unknown>, limitMs: number): Promise<boolean> {
  const pause = new AbortController();
  const tooLong = delay(limitMs, { signal: pause.signal }).then(() => false, () => true);
  const isOver = await Promise.race([work.then(() => true, () => true), tooLong]);
  pause.abort();
  return isOver;
}

function giveUp(path: string, work: Promise<unknown>, limitMs: number): never {
  late.add(work);
  const forget = () => void late.delete(work);
  work.then(forget, forget);
  throw new HangingError(
    `The file system of "${path}" has not answered for ${
      limitMs / 1000
    } s: is its server, or its ` +
      "disk, still there",
  );
}

/** No storage that is worth a backup is slower. */
const SLOWEST_BYTES_PER_SECOND = 1 << 20;

/**
 * As `bounded()`, for what has to work through so many bytes: it is waited for as long as the file system
 * answers other questions, up to what the slowest storage would take.
 */
export async function boundedWork<T>(
  path: string,
  sizeBytes: number,
  operate: () => Promise<T>,
): Promise<T> {
  await refuseHanging(path);
  const work = operate();
  const limitMs = timeoutMs + sizeBytes / SLOWEST_BYTES_PER_SECOND * 1000;
  const end = performance.now() + limitMs;
  while (!await endsWithin(work, timeoutMs)) {
    // A timer may be a little early.
    if (performance.now() > end - 10) giveUp(path, work, limitMs);
    try {
      await refuseHanging(path);
    } catch (error) {
      // Whoever waits for it knows by now.
      work.catch(() => {});
      throw error;
    }
  }
  return await work;
}

/**
 * As `boundedWork()`, for a program that works on a file: it is ended where the file system hangs.
 *
 * @param sizeBytes How much it has to work through, if that is much.
 */
export async function boundedRun<T>(
  path: string,
  start: (signal: AbortSignal) => Promise<T>,
  sizeBytes = 0,
): Promise<T> {
  const stop = new AbortController();
  try {
    return await boundedWork(path, sizeBytes, () => start(stop.signal));
  } catch (error) {
    if (error instanceof HangingError) stop.abort(error);
    throw error;
  }
}

/** What is watched calls this whenever it has come further. */
export interface Watch {
  signal: AbortSignal;
  progress(): void;
}

/**
 * Runs something for as long as it makes progress.
 *
 * @throws What `stalled` makes, if it makes none for so long. It is not waited for then.
 */
export async function watched<T>(
  stallTimeoutMs: number,
  stalled: () => Error,
  start: (watch: Watch) => Promise<T>,
): Promise<T> {
  const stop = new AbortController();
  const { promise: never, reject } = Promise.withResolvers<never>();
  const giveUp = () => {
    const error = stalled();
    reject(error);
    stop.abort(error);
  };
  let timer = setTimeout(giveUp, stallTimeoutMs);
  const progress = () => {
    clearTimeout(timer);
    timer = setTimeout(giveUp, stallTimeoutMs);
  };
  const work = start({ signal: stop.signal, progress });
  work.catch(() => {});
  try {
    return await Promise.race([work, never]);
  } finally {
    clearTimeout(timer);
  }
}
