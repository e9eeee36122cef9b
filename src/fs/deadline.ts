/**
 * File operations that don't wait for ever: an NFS server that is gone, or a disk that died, does not
 * answer, and says nothing.
 *
 * @module
 */

import { dirname, join } from "@std/path";
import { Failure } from "../errors.ts";

/** A file system does not answer. What was asked of it may still happen. */
export class HangingError extends Failure {
  override name = "HangingError";
}

const IMPATIENT_TIMEOUT_MS = 5_000;

/** No storage that is worth a backup is slower. */
const SLOWEST_BYTES_PER_SECOND = 1 << 20;

/**
 * How long file systems may take to answer. A command makes one, and hands it to all that asks them for
 * something: while one of them has still not answered, the next question is given up sooner.
 */
export class Deadline {
  readonly #late = new Set<Promise<unknown>>();

  /**
   * @param timeoutMs For one operation.
   * @param impatientTimeoutMs For one while another that was given up has still not come back.
   */
  constructor(readonly timeoutMs: number, readonly impatientTimeoutMs = IMPATIENT_TIMEOUT_MS) {}

  /**
   * Runs a file operation, but does not wait for ever. One that is given up is left to the kernel, since
   * nobody can take it back; the process ends all the same.
   *
   * @param path What the operation is about.
   * @throws {HangingError} If it takes too long.
   */
  async run<T>(path: string, operate: () => Promise<T>): Promise<T> {
    await this.probe(path);
    return await this.#limited(path, operate());
  }

  /**
   * As `run()`, but the file system is not asked first whether it answers: for what may as well happen late (to
   * look, to read, to write to a new file of ours), and what Deno 2.4, too, does in a thread of its own. That
   * is all but opening, temporary files, and asking for free space.
   */
  async ask<T>(path: string, operate: () => Promise<T>): Promise<T> {
    return await this.#limited(path, operate());
  }

  /**
   * As `run()`, for what has to work through so many bytes: it is waited for as long as the file system
   * answers other questions, up to what the slowest storage would take.
   *
   * @param sizeBytes `Infinity` waits as long as the file system answers.
   */
  async runLong<T>(path: string, sizeBytes: number, operate: () => Promise<T>): Promise<T> {
    return await this.#runLong([path], sizeBytes, operate);
  }

  /**
   * As `runLong()`, for a program that works on files: it is ended where one of their file systems hangs.
   *
   * @param start Starts the program, and ends it when the signal says so.
   */
  async runProgram<T>(
    paths: readonly string[],
    sizeBytes: number,
    start: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const stop = new AbortController();
    try {
      return await this.#runLong(paths, sizeBytes, () => start(stop.signal));
    } catch (error) {
      if (error instanceof HangingError) stop.abort(error);
      throw error;
    }
  }

  async #runLong<T>(
    paths: readonly string[],
    sizeBytes: number,
    operate: () => Promise<T>,
  ): Promise<T> {
    for (const path of paths) await this.probe(path);
    const work = operate();
    const limitMs = this.timeoutMs + sizeBytes / SLOWEST_BYTES_PER_SECOND * 1000;
    const end = performance.now() + limitMs;
    while (!await endsWithin(work, this.timeoutMs)) {
      // A timer may be a little early.
      if (performance.now() > end - 10) this.#giveUp(paths[0] ?? "", work, limitMs);
      try {
        for (const path of paths) await this.probe(path);
      } catch (error) {
        // The caller gets this error instead.
        work.catch(() => {});
        throw error;
      }
    }
    return await work;
  }

  /**
   * Asks a file system whether it answers at all. Deno 2.4 opens files, and asks for free space, in its only
   * thread, where no time-out runs: that a file system hangs must be known before. (One that begins to hang
   * between this and the next call, mostly less than a millisecond, still holds us.)
   *
   * @param path A file or folder in it.
   * @throws {HangingError} If it does not.
   */
  async probe(path: string): Promise<void> {
    // A name that nobody knows: no cache can answer that.
    const name = `.${crypto.randomUUID()}`;
    const asking = [path, dirname(path)].map((folder) => Deno.lstat(join(folder, name)));
    await this.#limited(path, Promise.allSettled(asking));
  }

  async #limited<T>(path: string, work: Promise<T>): Promise<T> {
    const limitMs = this.#late.size > 0
      ? Math.min(this.timeoutMs, this.impatientTimeoutMs)
      : this.timeoutMs;
    if (await endsWithin(work, limitMs)) return await work;
    return this.#giveUp(path, work, limitMs);
  }

  #giveUp(path: string, work: Promise<unknown>, limitMs: number): never {
    this.#late.add(work);
    const forget = () => void this.#late.delete(work);
    work.then(forget, forget);
    throw new HangingError(
      `The file system of "${path}" has not answered for ${
        limitMs / 1000
      } s. Check whether its server ` +
        "or its disk is still there",
    );
  }
}

/** A timer that is to take longer ends at once. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** Waits for something, but not longer. Returns whether it ended, well or not. */
export async function endsWithin(work: Promise<unknown>, limitMs: number): Promise<boolean> {
  const { promise: tooLong, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => resolve(false), Math.min(limitMs, LONGEST_TIMER_MS));
  const isOver = await Promise.race([work.then(() => true, () => true), tooLong]);
  clearTimeout(timer);
  return isOver;
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
