/**
 * A mark in QEMU that the VM's disks are half rolled back: backups to other targets must not take them for a good
 * state either. It stays until a rollback is done, or QEMU ends.
 *
 * @module
 */

import { Failure } from "../errors.ts";
import type { QmpClient } from "../qmp/client.ts";
import { markNames, readMark, removeMark, setMark } from "./marks.ts";
import { MARKS } from "./names.ts";

/**
 * Sets it, in the place of one that is there.
 *
 * @param text Where the disks go back to.
 */
export async function setRollbackMark(qmp: QmpClient, text: string): Promise<void> {
  await removeRollbackMark(qmp);
  await setMark(qmp, MARKS.rollback, text);
}

/** Removes it, if it is there. */
export async function removeRollbackMark(qmp: QmpClient): Promise<void> {
  if ((await markNames(qmp)).includes(MARKS.rollback)) await removeMark(qmp, MARKS.rollback);
}

/**
 * What became of the VM's disks, and what to do; null where they are whole.
 *
 * @param marks The names of all marks there are.
 */
export async function rollbackWords(qmp: QmpClient, marks: string[]): Promise<string | null> {
  if (!marks.includes(MARKS.rollback)) return null;
  return `The disks of this VM may be half rolled back ${await readMark(
    qmp,
    MARKS.rollback,
  )}: run ` +
    '"restore rollback" again. If the disks were replaced since, remove the mark with the QMP command ' +
    `object-del, id "${MARKS.rollback}"`;
}

/**
 * Refuses a VM whose disks are half rolled back.
 *
 * @param marks The names of all marks there are.
 * @throws {Failure} With what to do.
 */
export async function refuseRollbackMark(qmp: QmpClient, marks: string[]): Promise<void> {
  const words = await rollbackWords(qmp, marks);
  if (words !== null) throw new Failure(words);
}
