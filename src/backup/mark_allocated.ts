/**
 * Lets a job know which parts of a thin disk it has to copy.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { messageOf } from "../errors.ts";
import { QmpCommandError } from "../qmp/client.ts";
import { addAllocated } from "../vm/allocation.ts";
import { removeBitmap } from "../vm/switch_node.ts";
import type { DiskWork } from "./disk_work.ts";

const log = getLogger(["qmpbackup", "backup"]);

/**
 * Adds the bitmap of a disk's job, which holds what is allocated.
 *
 * @returns Whether it is there. Where QEMU refuses it, all of the disk is copied.
 */
export async function markAllocated(work: DiskWork): Promise<boolean> {
  const { qmp, guest, disk: { disk, granularityBytes, jobBitmap, lookJob, nodes } } = work;
  try {
    await addAllocated(qmp, {
      disk: disk.node,
      virtualSizeBytes: disk.virtualSizeBytes,
      granularityBytes,
      bitmap: jobBitmap,
      node: nodes.empty,
      job: lookJob,
    });
    guest.push(
      `remove the bitmap "${jobBitmap}" of the disk "${disk.name}"`,
      () => removeBitmap(qmp, disk.node, jobBitmap),
    );
    return true;
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
    log.debug("Disk {name}: all is copied, since QEMU does not say what is allocated: {words}", {
      name: disk.name,
      words: messageOf(error),
    });
    return false;
  }
}
