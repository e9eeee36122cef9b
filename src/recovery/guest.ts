/**
 * Finds a guest that does not run because of a dead run.
 *
 * @module
 */

import type { QmpClient } from "../qmp/client.ts";
import { queryStatus } from "../qmp/queries.ts";
import { clearIoErrorMark, findIoErrorMark, resumeAfterIoError } from "../vm/io_error.ts";
import { markNames } from "../vm/marks.ts";
import { findFreeze, findPause, resumeIfMarked, thawIfMarked } from "../vm/pause.ts";
import type { Leftover } from "./leftover.ts";

/**
 * Finds a guest that a dead run has stopped or frozen.
 *
 * @param marks The names of all marks there are.
 * @param thaw Thaws it through its agent; null where no agent is known.
 */
export async function findHeldGuest(
  qmp: QmpClient,
  marks: string[],
  thaw: (() => Promise<void>) | null,
): Promise<Leftover[]> {
  const leftovers: Leftover[] = [];
  const paused = await findPause(qmp, marks);
  if (paused !== null) {
    const { running, status } = await queryStatus(qmp);
    const now = running ? "it runs" : `its state is ${status}`;
    leftovers.push({
      description: status === "paused"
        ? `The VM was stopped at ${paused} by a run that died: resuming it`
        : `A run that died wanted to stop the VM at ${paused}, but ${now} now: removing its mark`,
      repair: () => resumeIfMarked(qmp),
    });
  }
  const markedAt = await findIoErrorMark(qmp, marks);
  if (markedAt !== null && (await queryStatus(qmp)).status !== "io-error") {
    leftovers.push({
      description:
        `The VM had the state io-error before a run that died, at ${markedAt}: removing its mark`,
      repair: () => clearIoErrorMark(qmp),
    });
  }
  const frozen = await findFreeze(qmp, marks);
  if (frozen !== null) {
    leftovers.push({
      description:
        `The guest's file systems may still be frozen by a run that died (at ${frozen}): ` +
        "thawing them",
      repair: () => thawIfMarked(qmp, thaw),
    });
  }
  return leftovers;
}

/**
 * Finds a guest that QEMU has stopped since one of its writes failed. Files of a dead run may have taken the room,
 * and are removed by now; without a fleece, a full target fails the guest's write.
 */
export async function findIoError(qmp: QmpClient): Promise<Leftover[]> {
  if ((await queryStatus(qmp)).status !== "io-error") return [];
  const markedAt = await findIoErrorMark(qmp, await markNames(qmp));
  if (markedAt !== null) {
    return [{
      description:
        `The VM had the state io-error (at ${markedAt}) before a run that died began, and is ` +
        "left so: repair its storage, and resume it with the QMP command cont",
      repair: () => clearIoErrorMark(qmp),
    }];
  }
  return [{
    description: "Letting the VM go on: it has had the state io-error since a run that died",
    repair: () => resumeAfterIoError(qmp),
  }];
}
