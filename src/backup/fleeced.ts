/**
 * The usual way: a job copies the snapshot of a disk, and may take its time. What the guest overwrites meanwhile
 * is kept in the fleece.
 *
 * Source: QEMU's "Dirty Bitmaps and Incremental Backup".
 *
 * @module
 */

import { delay } from "@std/async/delay";
import type { BlockErrors } from "../qmp/block_errors.ts";
import { endJob, finalizeJob, waitForJob, waitForWork } from "../qmp/jobs.ts";
import type { Job } from "../qmp/queries.ts";
import type { DiskPlan } from "../plan/plan.ts";
import type { SentinelRecord } from "../vm/sentinel.ts";
import { backupJobs, readAgain } from "./block_options.ts";
import { refuseResized } from "./changed_disk.ts";
import { CopyJob } from "./copy_job.ts";
import type { CopyOptions, DiskCopy } from "./disk_copy.ts";
import { DiskWork, type RunSurroundings } from "./disk_work.ts";
import { ImageFile } from "./image_file.ts";
import { closeImageNode, openImageNode } from "./image_node.ts";
import { markAllocated } from "./mark_allocated.ts";
import { addNextBitmap } from "./next_bitmap.ts";
import { addSnapshot, addSwitchNode, createFleece } from "./snapshot.ts";
import { verifyImage } from "./verify_image.ts";

/** It is to fail at its first read. */
const PROBE_TIMEOUT_MS = 10_000;

export class FleecedCopy implements DiskCopy {
  readonly file: ImageFile;
  readonly #work: DiskWork;
  readonly #job: CopyJob;
  readonly #errors: BlockErrors;
  #isThin = false;

  /** @param verifySocket Where QEMU serves the snapshot for the image to be compared with; null if it is not to be. */
  constructor(
    run: RunSurroundings,
    readonly disk: DiskPlan,
    errors: BlockErrors,
    readonly verifySocket: string | null,
  ) {
    this.#work = new DiskWork(run, disk);
    this.#errors = errors;
    this.file = new ImageFile(run.deadline, run.plan, disk, this.#work.result);
    this.#job = new CopyJob(this.#work, this.file, errors, () => this.#work.refuseHanging());
  }

  async openImage(): Promise<void> {
    const { file, target } = this.disk.nodes;
    await this.file.createImage(() => this.#work.refuseOpen(file, target));
    await openImageNode(this.#work, this.file);
  }

  async prepare(warn: (sentence: string) => void): Promise<SentinelRecord | null> {
    const sentinel = await addNextBitmap(this.#work, warn);
    await createFleece(this.#work);
    this.#isThin = this.disk.isThin && await markAllocated(this.#work);
    return sentinel;
  }

  beforeMoment = () => addSwitchNode(this.#work);
  atMoment = () => {};
  afterMoment = () => addSnapshot(this.#work);

  async copy(options: CopyOptions): Promise<void> {
    const { qmp, plan, guest } = this.#work;
    refuseResized(this.disk, await options.nodes());
    this.#job.expect();
    await qmp.execute("transaction", backupJobs(plan, [{ ...this.disk, isThin: this.#isThin }]));
    await this.#finishJob(options);
    // The point in time is read once more.
    if (this.verifySocket === null) await guest.unwind();
    await delay(plan.request.removeDelayMs, { signal: options.signal });
    if (this.verifySocket !== null) await this.#job.end();
    await closeImageNode(this.#work, this.file);
    if (this.verifySocket !== null) {
      await verifyImage(this.#work, this.file, this.verifySocket, options);
      await guest.unwind();
    }
    await this.file.check();
    await this.file.digest(options.signal);
  }

  giveUp = () => this.unwind();
  stop = () => Promise.resolve();
  keepResult = () => this.#work.result.keep();
  unwind = () => this.#work.unwind();

  /** The job waits for us at its end, see `backupJobs()`: the storage is asked first. */
  async #finishJob(options: CopyOptions): Promise<void> {
    const { qmp, disk: { job }, guest } = this.#work;
    const end = await this.#job.wait(options, async (how) => {
      const end = await waitForWork(qmp, job, how);
      if (end.status !== "pending") return end;
      await this.#work.refuseHanging();
      return await finalizeJob(qmp, job, how.events);
    });
    const failure = await this.#failureOf(end);
    if (failure === null) return;
    await guest.unwind();
    throw failure;
  }

  async #failureOf(end: Job) {
    const isStopped = end.status === "paused";
    if (!isStopped && end.error === undefined) return null;
    const fault = isStopped
      ? { operation: "read" as const, reason: await this.#readError() }
      : { operation: this.#errors.ofJob(this.disk.job), reason: end.error ?? null };
    return await this.#job.failure(end, fault, { isFleeced: true });
  }

  /**
   * Why a job was stopped QEMU does not tell. So another one reads what is left, and ends with the system's words
   * at the first of it.
   *
   * @returns Null where that can't be told either.
   */
  async #readError(): Promise<string | null> {
    const { qmp, guest, disk: { probeJob } } = this.#work;
    try {
      await this.#job.end();
      guest.push(`end the job "${probeJob}"`, () => endJob(qmp, probeJob));
      await qmp.execute("blockdev-backup", readAgain(this.disk));
      const signal = AbortSignal.timeout(PROBE_TIMEOUT_MS);
      return (await waitForJob(qmp, probeJob, { signal })).error ?? null;
    } catch {
      return null;
    }
  }
}
