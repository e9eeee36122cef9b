/**
 * Stops and freezes the guest for a moment. A mark is set before: if the run is killed in that moment, the watchdog
 * or a later run finds the mark, and lets the guest go on.
 *
 * @module
 */

import { Failure } from "../errors.ts";
import type { QmpClient } from "../qmp/client.ts";
import { queryStatus } from "../qmp/queries.ts";
import { readMark, removeMark, setMark } from "./marks.ts";
import { MARKS } from "./names.ts";

const { paused: PAUSED, frozen: FROZEN } = MARKS;

/**
 * Stops the guest's processors; disposing lets them go on. A guest that is stopped already stays as it is.
 *
 * @returns Whether the guest was stopped here.
 */
export async function pauseVm(qmp: QmpClient): Promise<AsyncDisposable & { stopped: boolean }> {
  if (!(await queryStatus(qmp)).running) {
    return { stopped: false, [Symbol.asyncDispose]: () => Promise.resolve() };
  }
  await setMark(qmp, PAUSED, new Date().toISOString());
  const resume = async () => {
    await resumePaused(qmp);
    await removeMark(qmp, PAUSED);
  };
  try {
    await qmp.execute("stop");
  } catch (error) {
    // It may have stopped all the same, or stop yet (a time-out).
    await resume();
    throw error;
  }
  return { stopped: true, [Symbol.asyncDispose]: resume };
}

/**
 * Since when the guest is stopped by a run of ours; null if it is not.
 *
 * @param marks The names of all marks there are.
 */
export async function findPause(qmp: QmpClient, marks: string[]): Promise<string | null> {
  return marks.includes(PAUSED) ? await readMark(qmp, PAUSED) : null;
}

/** Since when the guest's file systems may be frozen by a run of ours; null if they are not. */
export async function findFreeze(qmp: QmpClient, marks: string[]): Promise<string | null> {
  return marks.includes(FROZEN) ? await readMark(qmp, FROZEN) : null;
}

/** Lets a guest go on that a dead run has stopped. */
export async function resumeIfMarked(qmp: QmpClient): Promise<void> {
  const since = await readMark(qmp, PAUSED);
  if (since === null) return;
  await resumePaused(qmp);
  await removeMark(qmp, PAUSED);
}

/** A guest that was stopped here is to stay so, whatever becomes of us: its mark goes, and nobody resumes it. */
export async function keepStopped(qmp: QmpClient): Promise<void> {
  if (await readMark(qmp, PAUSED) !== null) await removeMark(qmp, PAUSED);
}

/** A VM in another state (shut down, suspended, panicked) did not get there through us, and stays so. */
async function resumePaused(qmp: QmpClient): Promise<void> {
  if ((await queryStatus(qmp)).status === "paused") await qmp.execute("cont");
}

/** Sets the mark before the guest's file systems are frozen. */
export async function markFrozen(qmp: QmpClient): Promise<void> {
  await setMark(qmp, FROZEN, new Date().toISOString());
}

/** Removes it when they are thawed. */
export async function clearFrozen(qmp: QmpClient): Promise<void> {
  await removeMark(qmp, FROZEN);
}

/**
 * Thaws a guest that a dead run has frozen.
 *
 * @param thaw Thaws it through its agent; null where no agent is known.
 * @throws {Failure} If it can't be thawed, with what to do.
 */
export async function thawIfMarked(
  qmp: QmpClient,
  thaw: (() => Promise<void>) | null,
): Promise<void> {
  const since = await readMark(qmp, FROZEN);
  if (since === null) return;
  if (!thaw) {
    throw new Failure(
      `The guest's file systems may still be frozen by a run that died (at ${since}): give the ` +
        "--agent-socket, or thaw them (guest-fsfreeze-thaw) and remove the mark with the QMP " +
        `command object-del, id "${FROZEN}"`,
    );
  }
  await thaw();
  await clearFrozen(qmp);
}
