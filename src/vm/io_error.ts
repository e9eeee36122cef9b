/**
 * A guest that QEMU has stopped since a write of its own failed (`query-status` "io-error"): with
 * `werror=enospc`, the default, that is one to a file system without room. What our files take there
 * may be what the guest is denied.
 *
 * @module
 */

import type { QmpClient } from "../qmp/client.ts";
import { queryBlock, queryStatus } from "../qmp/queries.ts";

/** Whether the guest stands still for want of room (`query-block`, io-status "nospace"). */
export async function isOutOfSpace(qmp: QmpClient): Promise<boolean> {
  if ((await queryStatus(qmp)).status !== "io-error") return false;
  return (await queryBlock(qmp)).some((device) => device["io-status"] === "nospace");
}

/**
 * Lets it go on, when what took the room is gone: the write that failed is tried again. Should it fail
 * again, the guest stands still again.
 */
export async function resumeAfterIoError(qmp: QmpClient): Promise<void> {
  if ((await queryStatus(qmp)).status === "io-error") await qmp.execute("cont");
}
