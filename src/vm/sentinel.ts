/**
 * Sees that a disk was cut and grown again: what was cut off is zero then, and no dirty bitmap tells.
 *
 * QEMU drops from every bitmap what lies beyond a disk's end, also while the VM is off (`qemu-img resize`). So
 * each disk has a sentinel: a disabled bitmap in which only the last bit is set. Once the disk was cut the bit
 * is gone, and growing does not bring it back. It goes as well when somebody clears the disk's bitmaps.
 *
 * A cut within the part of the disk that the last bit stands for leaves the bit alone. So that part is in every
 * increment: each backup's bitmap starts with the sentinel's bit.
 *
 * The bit is set in a bitmap of a node that holds nothing (`null-co`) and merged from there: the guest's disk
 * is not touched. Pure but for `addSentinel()`. Measured on QEMU 5.2, 7.2, 10.0 and 11.1.
 *
 * @module
 */

import { Failure } from "../errors.ts";
import type { QmpArguments, QmpClient } from "../qmp/client.ts";
import { type DirtyBitmap, queryNodes } from "../qmp/queries.ts";
import type { Disk } from "./disks.ts";
import { removeNode } from "./switch_node.ts";

/** QEMU did not make a sentinel as it should be. */
export class SentinelError extends Failure {
  override name = "SentinelError";
}

/** A sentinel as a record names it. */
export interface SentinelRecord {
  bitmap: string;
  /** How much it marks for as long as the disk was not cut. */
  countBytes: number;
}

/**
 * What is wrong with a disk's sentinel, as the end of a sentence; null if the disk was not cut.
 *
 * @param bitmaps The disk's.
 */
export function sentinelProblem(
  bitmaps: DirtyBitmap[],
  { bitmap: name, countBytes }: SentinelRecord,
): string | null {
  const bitmap = bitmaps.find((bitmap) => bitmap.name === name);
  if (!bitmap) return `the bitmap "${name}", which tells whether the disk was shrunk, is gone`;
  if (bitmap.inconsistent) {
    return `the bitmap "${name}", which tells whether the disk was shrunk, is inconsistent (QEMU was killed)`;
  }
  if (bitmap.recording) {
    return `the bitmap "${name}", which tells whether the disk was shrunk, was enabled by another program`;
  }
  if (bitmap.busy) return `the bitmap "${name}" is in use by another job or export`;
  if (bitmap.countBytes === countBytes) return null;
  return "it was shrunk and grown again since the last backup, or another program has cleared its bitmaps " +
    `(the bitmap "${name}" shows it)`;
}

/**
 * The sentinel of the last backup, if it can serve the next one as well: it watches the disk's present end.
 *
 * @param last The disk's last backup in this target.
 */
export function usableSentinel(
  { bitmaps, virtualSizeBytes }: Pick<Disk, "bitmaps" | "virtualSizeBytes">,
  last: { sentinel: SentinelRecord | null; virtualSizeBytes: number } | undefined,
): SentinelRecord | null {
  if (!last?.sentinel || last.virtualSizeBytes !== virtualSizeBytes) return null;
  return sentinelProblem(bitmaps, last.sentinel) === null ? last.sentinel : null;
}

/** A sentinel to be made. */
export interface NewSentinel {
  /** The node that holds its bit first, and the name of the bitmap there. */
  node: string;
  /** The disk's node. */
  disk: string;
  virtualSizeBytes: number;
  granularityBytes: number;
  persistent: boolean;
}

/**
 * Makes a disk's sentinel.
 *
 * @param name Of the bitmap.
 * @throws {QmpCommandError} If QEMU refuses it. The node and the bitmap may be there then.
 * @throws {SentinelError} If QEMU does not do it as it should. The same.
 */
export async function addSentinel(
  qmp: QmpClient,
  name: string,
  { node, disk, virtualSizeBytes: size, granularityBytes: granularity, persistent }: NewSentinel,
): Promise<void> {
  const start = Math.floor((size - 1) / granularity) * granularity;
  const bit = { node, name: node };
  await qmp.execute("blockdev-add", { driver: "null-co", "node-name": node, size });
  await qmp.execute("block-dirty-bitmap-add", { ...bit, granularity });
  // No QMP command writes to a node.
  const write = `qemu-io ${node} "write -q ${start} ${size - start}"`;
  await qmp.execute("human-monitor-command", { "command-line": write });
  await qmp.execute("transaction", {
    actions: addFrom({ node: disk, name, granularity, persistent, disabled: true }, bit),
  });
  await removeNode(qmp, node);
  const bitmaps = (await queryNodes(qmp)).find((other) => other["node-name"] === disk);
  const problem = sentinelProblem(bitmaps?.["dirty-bitmaps"] ?? [], {
    bitmap: name,
    countBytes: granularity,
  });
  if (problem !== null) throw new SentinelError(`QEMU did not set the last bit of "${name}"`);
}

/** The actions of a transaction that add a bitmap with the bits of another one. */
export function addFrom(
  bitmap: { node: string; name: string } & QmpArguments,
  source: { node: string; name: string },
) {
  const { node, name } = bitmap;
  return [
    { type: "block-dirty-bitmap-add", data: bitmap },
    { type: "block-dirty-bitmap-merge", data: { node, target: name, bitmaps: [source] } },
  ];
}
