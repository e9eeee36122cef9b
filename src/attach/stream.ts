/**
 * Moves the data of a backup into the overlay that a running VM was started on: QEMU's `block-stream`. The guest
 * runs on, and the images of the backup are only read. Stopped half way, what was moved stays, and the next try
 * goes on from there.
 *
 * @module
 */

import { Failure } from "../errors.ts";
import type { QmpClient } from "../qmp/client.ts";
import { endJob, waitForJob } from "../qmp/jobs.ts";

export interface StreamOptions {
  /** 0 is no limit. */
  bytesPerSecond: number;
  signal: AbortSignal;
  onProgress(doneBytes: number, totalBytes: number): void;
}

/**
 * Moves all that a node has below it into its own image.
 *
 * @param node The overlay's node.
 * @throws {Failure} If QEMU can't read or write it; the VM runs on.
 */
export async function streamIn(
  qmp: QmpClient,
  node: string,
  { bytesPerSecond, signal, onProgress }: StreamOptions,
): Promise<void> {
  const id = `restore-${crypto.randomUUID().slice(0, 8)}`;
  await qmp.execute("block-stream", {
    ...{ "job-id": id, device: node, "auto-dismiss": false },
    ...(bytesPerSecond > 0 ? { speed: bytesPerSecond } : {}),
  });
  try {
    const job = await waitForJob(qmp, id, {
      signal,
      onProgress: (job) => onProgress(job["current-progress"], job["total-progress"]),
    });
    if (job.error === undefined) return;
    throw new Failure(`The data could not be moved into "${node}": ${job.error}`);
  } finally {
    await endJob(qmp, id);
  }
}
