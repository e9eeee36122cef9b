/**
 * The guest around a rollback: it is stopped first, and reset afterwards, since its memory knows the old contents.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import type { UndoStack } from "../backup/undo.ts";
import { Failure, messageOf } from "../errors.ts";
import type { QmpClient } from "../qmp/client.ts";
import { queryStatus } from "../qmp/queries.ts";
import { startWatchdog, type Watchdog, type WatchdogOptions } from "../recovery/watchdog.ts";
import { keepStopped, pauseVm } from "../vm/pause.ts";
import { comesTrue } from "../vm/wait.ts";

const log = getLogger(["qmpbackup", "rollback"]);

/** The states in which the guest has nothing of its disks in memory. */
const WITHOUT_MEMORY = ["prelaunch", "shutdown"];

/** Whether a guest in this state (`query-status`) has to be reset. Pure. */
export function needsReset(state: string): boolean {
  return !WITHOUT_MEMORY.includes(state);
}

/** Why a guest can't be rolled back as it is, and what to do. Pure. */
export function resetWords(state: string): string {
  const what = state === "running"
    ? "The guest runs, and its memory knows the contents of its disks"
    : `The guest is in the state "${state}", and its memory knows the contents of its disks`;
  return `${what}. With --reset it is stopped now, and reset when the disks are rolled back, as by its reset ` +
    "button. Or end QEMU, start it with -S, and roll back then";
}

/** A guest that is stopped, for now. */
export interface StoppedGuest {
  /** It is not let go on, whatever becomes of us. */
  keep(): Promise<void>;
}

/** Stops the guest. Undone, it goes on if it ran; if we are killed, the watchdog sees to that. */
export async function stopGuest(
  undo: UndoStack,
  qmp: QmpClient,
  watchdogOptions: WatchdogOptions,
  isRunning: boolean,
): Promise<StoppedGuest> {
  if (!isRunning) return { keep: () => Promise.resolve() };
  const watchdog = await tryToStart(watchdogOptions);
  // Last of all. Without a word it acts.
  if (watchdog) undo.push("end the watchdog", async () => await watchdog[Symbol.asyncDispose]());
  const pause = await pauseVm(qmp);
  let isKept = false;
  undo.push("resume the guest", async () => {
    if (isKept) return;
    await pause[Symbol.asyncDispose]();
    await watchdog?.release();
  });
  return {
    keep: async () => {
      isKept = true;
      await keepStopped(qmp);
      await watchdog?.release();
    },
  };
}

async function tryToStart(options: WatchdogOptions): Promise<Watchdog | null> {
  try {
    return await startWatchdog(options);
  } catch (error) {
    log.warn(
      "The watchdog could not be started. If this run is killed before the disks are written, the guest stays " +
        "stopped until the next run ({words})",
      { words: messageOf(error) },
    );
    return null;
  }
}

const RESET_TIMEOUT_MS = 30_000;

/**
 * Resets a guest that is stopped; it stays so.
 *
 * @returns False if QEMU has ended instead, as it was told to (`-no-reboot`).
 * @throws {Failure} If QEMU does neither.
 */
export async function resetGuest(qmp: QmpClient): Promise<boolean> {
  const isReset = async () => (await queryStatus(qmp)).status === "prelaunch";
  try {
    await qmp.execute("system_reset");
    if (await comesTrue(isReset, RESET_TIMEOUT_MS)) return true;
  } catch (error) {
    if (qmp.isOpen) throw error;
    return false;
  }
  throw new Failure("QEMU does not reset the guest");
}
