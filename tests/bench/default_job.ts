/**
 * A backup job as one is started without a thought: a `qcow2` target, through the page cache, QEMU's own number
 * of workers and size of chunks. That is how the Python qmpbackup copies; what it waits besides is left out.
 *
 * @module
 */

import { create } from "../support/qemu_img.ts";
import type { Vm } from "../support/vm.ts";
import { flush } from "./programs.ts";

/** What a job copies; all of the disk unless a bitmap is named. */
export interface DefaultJob {
  /** The disk's node. */
  node: string;
  image: string;
  sizeBytes: number;
  bitmap?: string;
  /** More arguments of `blockdev-backup`. */
  more?: Record<string, unknown>;
}

/** Copies a disk by a job, flushed. */
export async function runDefaultJob(vm: Vm, job: DefaultJob): Promise<void> {
  const { node, image, sizeBytes, bitmap, more = {} } = job;
  await create(image, sizeBytes);
  await vm.execute("blockdev-add", {
    driver: "qcow2",
    "node-name": "plain",
    file: { driver: "file", filename: image },
  });
  const known = vm.events.length;
  await vm.execute("blockdev-backup", {
    "job-id": "plain",
    device: node,
    target: "plain",
    ...(bitmap === undefined
      ? { sync: "full" }
      : { sync: "bitmap", bitmap, "bitmap-mode": "never" }),
    ...more,
  });
  await completed(vm, known);
  await vm.execute("blockdev-del", { "node-name": "plain" });
  await flush(image);
}

/** Waits for the job, by its event. */
async function completed(vm: Vm, known: number): Promise<void> {
  while (true) {
    const end = vm.events.slice(known).find(({ event, data }) =>
      event === "BLOCK_JOB_COMPLETED" && data.device === "plain"
    );
    if (end?.data.error !== undefined) throw new Error(`The job failed: ${end.data.error}`);
    if (end) return;
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
