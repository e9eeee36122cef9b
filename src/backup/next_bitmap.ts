/**
 * The bitmap that records from this backup on, and the sentinel that tells later whether the disk was cut.
 *
 * @module
 */

import { messageOf } from "../errors.ts";
import { QmpCommandError } from "../qmp/client.ts";
import { addFrom, addSentinel, SentinelError, type SentinelRecord } from "../vm/sentinel.ts";
import { removeBitmap, removeNode } from "../vm/switch_node.ts";
import type { DiskWork } from "./disk_work.ts";

/**
 * Adds them; a copy has neither.
 *
 * @param warn Gets a sentence if the sentinel can't be made.
 * @returns The sentinel; null where the disk has none.
 */
export async function addNextBitmap(
  work: DiskWork,
  warn: (sentence: string) => void,
): Promise<SentinelRecord | null> {
  const { qmp, disk: { disk, nextBitmap, granularityBytes, isNewSentinel } } = work;
  let { sentinel } = work.disk;
  if (nextBitmap === null) return sentinel;
  if (isNewSentinel && sentinel && !await makeSentinel(work, sentinel, warn)) sentinel = null;
  work.result.push(
    `remove the bitmap "${nextBitmap}" of the disk "${disk.name}"`,
    () => removeBitmap(qmp, disk.node, nextBitmap),
  );
  const bitmap = {
    node: disk.node,
    name: nextBitmap,
    granularity: granularityBytes,
    persistent: disk.holdsBitmaps,
  };
  if (sentinel) {
    const bit = { node: disk.node, name: sentinel.bitmap };
    await qmp.execute("transaction", { actions: addFrom(bitmap, bit) });
  } else {
    await qmp.execute("block-dirty-bitmap-add", bitmap);
  }
  return sentinel;
}

/**
 * A backup without one is as good, but the next run can't tell whether the disk was cut meanwhile.
 *
 * @returns Whether it was made.
 */
async function makeSentinel(
  { qmp, disk: { disk, granularityBytes, nodes }, result }: DiskWork,
  sentinel: SentinelRecord,
  warn: (sentence: string) => void,
): Promise<boolean> {
  const removeSentinel = () => removeBitmap(qmp, disk.node, sentinel.bitmap);
  const removeEnd = () => removeNode(qmp, nodes.end);
  result.push(`remove the bitmap "${sentinel.bitmap}" of the disk "${disk.name}"`, removeSentinel);
  result.push(`remove the node "${nodes.end}"`, removeEnd);
  try {
    await addSentinel(qmp, sentinel.bitmap, {
      node: nodes.end,
      disk: disk.node,
      virtualSizeBytes: disk.virtualSizeBytes,
      granularityBytes,
      persistent: disk.holdsBitmaps,
    });
    return true;
  } catch (error) {
    if (!(error instanceof QmpCommandError || error instanceof SentinelError)) throw error;
    await removeEnd();
    await removeSentinel();
    warn(
      `If the disk "${disk.name}" is shrunk and grown again, the next increment will not notice: take a ` +
        `full backup then (--level full). ${messageOf(error)}`,
    );
    return false;
  }
}
