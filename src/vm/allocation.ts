/**
 * Finds which parts of a disk hold anything, so that a full backup of a thin disk copies no others.
 *
 * QEMU has no command that says so. But a job with `sync: top` first looks which clusters of the disk's image
 * are allocated, and leaves in its bitmap what it did not copy (`bitmap-mode: always`). So such a job is
 * started from the disk to a node that holds nothing, and cancelled as soon as it copies. What it had copied
 * by then is in a bitmap of that node. What the guest writes from then on is in the disk's bitmap, which is
 * enabled. What is in neither is unallocated, and reads as zeroes.
 *
 * While the job looks, what the guest is about to overwrite is read and thrown away. That can't fail a write of
 * the guest, since nothing is written: for that, the job does not copy to a file. It makes QEMU print a warning
 * about the block size of its target.
 *
 * Source: QEMU QMP Reference Manual, `blockdev-backup`, `BitmapSyncMode`. Measured on QEMU 7.2, 10.0, 11.1:
 * 0.3 s for a disk of 20 TiB with 3 MiB in it.
 *
 * @module
 */

import { delay } from "@std/async/delay";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import { endJob } from "../qmp/jobs.ts";
import { queryJobs } from "../qmp/queries.ts";
import type { Disk } from "./disks.ts";
import { removeBitmap, removeNode } from "./switch_node.ts";

/** Above this, a disk is not thin: to look would cost more than it saves. */
const MOST_ALLOCATED = 0.75;

/**
 * Whether a disk's image can tell what it holds, and holds less than it might. A raw image calls its holes
 * allocated, and what lies in a backing file is not in the image.
 */
export function isThin(
  { format, image, backing, allocatedBytes, virtualSizeBytes }: Disk,
): boolean {
  return format === "qcow2" && backing.length === 0 && image["backing-filename"] === undefined &&
    image["format-specific"]?.data?.["data-file"] === undefined &&
    allocatedBytes < virtualSizeBytes * MOST_ALLOCATED;
}

/** What to look at, and the names of what that takes. */
export interface Look {
  /** The disk's node. */
  disk: string;
  virtualSizeBytes: number;
  granularityBytes: number;
  /** Of the bitmap that is made on the disk, and of one that is gone again. */
  bitmap: string;
  /** The node that holds nothing; gone again afterwards. */
  node: string;
  job: string;
}

/** How long a look may take: what was not looked at by then counts as allocated. */
const LOOK_TIMEOUT_MS = 20_000;
const LOOK_EVERY_MS = 10;

/**
 * Makes a bitmap on a disk, in memory, which holds all that is allocated, and from now on all that the guest
 * writes.
 *
 * @throws {QmpCommandError} If QEMU refuses it; then nothing of it is left.
 * @throws {JobError} If the job does not end.
 */
export async function addAllocated(qmp: QmpClient, look: Look): Promise<void> {
  const { disk, node, bitmap: name, job } = look;
  try {
    await startLook(qmp, look);
    await untilItCopies(qmp, job);
    await endJob(qmp, job);
    const bitmaps = [{ node, name }];
    await qmp.execute("block-dirty-bitmap-merge", { node: disk, target: name, bitmaps });
    await removeNode(qmp, node);
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
    await endJob(qmp, job);
    await removeNode(qmp, node);
    await removeBitmap(qmp, disk, name);
    throw error;
  }
}

async function startLook(qmp: QmpClient, look: Look) {
  const { disk, node, bitmap: name, virtualSizeBytes: size, granularityBytes: granularity } = look;
  await qmp.execute("blockdev-add", { driver: "null-co", "node-name": node, size });
  for (const place of [node, disk]) {
    await qmp.execute("block-dirty-bitmap-add", { node: place, name, granularity });
  }
  await qmp.execute("blockdev-backup", {
    "job-id": look.job,
    device: disk,
    target: node,
    sync: "top",
    bitmap: name,
    "bitmap-mode": "always",
    // After its first chunk it waits, until it is cancelled.
    speed: 1,
    "auto-dismiss": false,
  });
}

async function untilItCopies(qmp: QmpClient, id: string) {
  const end = performance.now() + LOOK_TIMEOUT_MS;
  while (performance.now() < end) {
    const job = (await queryJobs(qmp)).find((job) => job.id === id);
    if (!job || job.status === "concluded" || job["current-progress"] > 0) return;
    await delay(LOOK_EVERY_MS);
  }
}
