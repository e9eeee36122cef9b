/**
 * What a run writes down *in QEMU* for other runs to see: that it is at work on the VM (`lock.ts`), and that it has
 * stopped or frozen the guest (`pause.ts`).
 *
 * A mark is a QOM object of the kind `secret`, whose text every client can read (`qom-get`). QEMU refuses a second
 * one of the same name: so it is a lock, by whatever socket the VM is reached. It ends with QEMU: so it never
 * tells of an earlier start of the VM.
 *
 * @module
 */

import type { QmpClient } from "../qmp/client.ts";
import { type QomChild, qomChildren, qomText } from "../qmp/queries.ts";

const SECRET_TEXT = "data";

/** The text of a mark; null where it is not set. */
export async function readMark(qmp: QmpClient, id: string): Promise<string | null> {
  return await qomText(qmp, `/objects/${id}`, SECRET_TEXT);
}

/** Sets a mark that is not set yet. */
export async function setMark(qmp: QmpClient, id: string, text: string): Promise<void> {
  await qmp.execute("object-add", { "qom-type": "secret", id, [SECRET_TEXT]: text });
}

/** Removes a mark that is set. */
export async function removeMark(qmp: QmpClient, id: string): Promise<void> {
  await qmp.execute("object-del", { id });
}

/** Our marks, and all else that a user has added as an object (iothreads, secrets). */
export async function queryObjects(qmp: QmpClient): Promise<QomChild[]> {
  return await qomChildren(qmp, "/objects");
}

/** The names of our marks, and of all else that QEMU has as objects. */
export async function markNames(qmp: QmpClient): Promise<string[]> {
  return (await queryObjects(qmp)).map(({ name }) => name);
}
