/**
 * A guest that QEMU has stopped since one of its writes failed (`query-status` "io-error"). With `werror=enospc`,
 * the default, its file system has no room left. Our files may have taken that room: then the guest can go on when
 * they are removed.
 *
 * A guest that was stopped before our run began is not resumed by us. A mark in QEMU says so, until somebody
 * resumes it.
 *
 * @module
 */

import type { QmpClient } from "../qmp/client.ts";
import { queryBlock, queryStatus } from "../qmp/queries.ts";
import { readMark, removeMark, setMark } from "./marks.ts";
import { MARKS } from "./names.ts";

/**
 * Hears when the guest is stopped: as long as it is not, QEMU needn't be asked. If it is made before the VM's state
 * is asked for, it misses nothing.
 *
 * Source: QEMU QMP Reference Manual, `STOP`. QEMU has the new state by then.
 */
export class StopEvents implements Disposable {
  /** Whether QEMU has told of a stop. */
  heard = false;
  #wake = Promise.withResolvers<void>();
  readonly #subscription: Disposable;

  constructor(qmp: QmpClient) {
    this.#subscription = qmp.subscribe(({ event }) => {
      if (event !== "STOP") return;
      this.heard = true;
      this.#wake.resolve();
      this.#wake = Promise.withResolvers();
    });
  }

  /** Resolves when the guest is stopped the next time. */
  get next(): Promise<void> {
    return this.#wake.promise;
  }

  [Symbol.dispose]() {
    this.#subscription[Symbol.dispose]();
  }
}

/** Whether a write has failed since our run began. */
async function isStopped(qmp: QmpClient): Promise<boolean> {
  if ((await queryStatus(qmp)).status !== "io-error") return false;
  return await readMark(qmp, MARKS.ioError) === null;
}

/** Whether the guest was stopped since our run began, and has no room (`query-block`, io-status "nospace"). */
export async function isOutOfSpace(qmp: QmpClient): Promise<boolean> {
  if (!await isStopped(qmp)) return false;
  return (await queryBlock(qmp)).some((device) => device["io-status"] === "nospace");
}

/**
 * Lets the guest go on when there is room again. QEMU repeats the write that failed; if it fails again, QEMU stops
 * the guest again.
 */
export async function resumeAfterIoError(qmp: QmpClient): Promise<void> {
  if (await isStopped(qmp)) await qmp.execute("cont");
}

/**
 * Marks a guest that was stopped before our run began, until disposed or until somebody resumes it: if it is
 * stopped after that, it may be because of us.
 */
export async function markIoError(qmp: QmpClient): Promise<AsyncDisposable> {
  // There may be the mark of a dead run, which says the same.
  if (await readMark(qmp, MARKS.ioError) === null) {
    await setMark(qmp, MARKS.ioError, new Date().toISOString());
  }
  let removal: Promise<void> | null = null;
  const remove = () => removal ??= removeMark(qmp, MARKS.ioError).catch(() => {});
  const subscription = qmp.subscribe(({ event }) => {
    if (event === "RESUME") remove();
  });
  // Somebody may have resumed it just before.
  if ((await queryStatus(qmp)).status !== "io-error") await remove();
  return {
    async [Symbol.asyncDispose]() {
      subscription[Symbol.dispose]();
      // If the connection is gone, the next run finds the mark.
      if (qmp.isOpen) await remove();
    },
  };
}

/** When a guest was marked that was stopped before a run of ours began; null where none was. */
export async function findIoErrorMark(qmp: QmpClient, marks: string[]): Promise<string | null> {
  return marks.includes(MARKS.ioError) ? await readMark(qmp, MARKS.ioError) : null;
}

/** Removes the mark of a dead run. */
export async function clearIoErrorMark(qmp: QmpClient): Promise<void> {
  await removeMark(qmp, MARKS.ioError);
}
