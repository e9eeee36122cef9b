/**
 * Without a fleece, for QEMU before 7.1: a job reads from the disk itself, and the guest's writes wait for it. All
 * jobs of a run start at one moment, which is the point in time, and all end before any disk is put back: QEMU
 * 5.2 crashes when it is asked for its nodes in the moment in which a job takes its filter off a disk.
 *
 * @module
 */

import { delay } from "@std/async/delay";
import { Failure, messageOf } from "../errors.ts";
import type { BlockErrors } from "../qmp/block_errors.ts";
import type { QmpClient } from "../qmp/client.ts";
import { waitForJob } from "../qmp/jobs.ts";
import type { DiskPlan, Plan } from "../plan/plan.ts";
import { neededBytes } from "../plan/sizes.ts";
import type { SentinelRecord } from "../vm/sentinel.ts";
import { removeBitmap } from "../vm/switch_node.ts";
import { backupJobs, jobActions } from "./block_options.ts";
import { CopyJob } from "./copy_job.ts";
import type { CopyOptions, DiskCopy, Moment } from "./disk_copy.ts";
import { DiskWork, type RunSurroundings } from "./disk_work.ts";
import { ImageFile } from "./image_file.ts";
import { closeImageNode, openImageNode } from "./image_node.ts";
import { addNextBitmap } from "./next_bitmap.ts";

export class DirectCopy implements DiskCopy {
  readonly file: ImageFile;
  readonly #work: DiskWork;
  readonly #job: CopyJob;
  readonly #errors: BlockErrors;

  /** @param allEnded Called when this disk's job has ended; resolves when those of all disks have. */
  constructor(
    run: RunSurroundings,
    readonly disk: DiskPlan,
    errors: BlockErrors,
    readonly allEnded: () => Promise<void>,
  ) {
    this.#work = new DiskWork(run, disk);
    this.#errors = errors;
    this.file = new ImageFile(run.deadline, run.plan, disk, this.#work.result);
    this.#job = new CopyJob(this.#work, this.file, errors);
  }

  async openImage(): Promise<void> {
    const { file, target } = this.disk.nodes;
    await this.file.createImage(() => this.#work.refuseOpen(file, target));
    // The guest's writes would fail where the target is full.
    await this.file.reserve();
    await openImageNode(this.#work, this.file);
  }

  async prepare(warn: (sentence: string) => void): Promise<SentinelRecord | null> {
    return await addNextBitmap(this.#work, warn);
  }

  beforeMoment = () => Promise.resolve();

  atMoment(): void {
    const { qmp, guest, disk: { disk, jobBitmap } } = this.#work;
    guest.push(`remove the bitmap "${jobBitmap}"`, () => removeBitmap(qmp, disk.node, jobBitmap));
    this.#job.expect();
  }

  afterMoment = () => Promise.resolve();

  async copy(options: CopyOptions): Promise<void> {
    const { guest, plan } = this.#work;
    await this.#finishJob(options);
    await guest.unwind();
    await delay(plan.request.removeDelayMs, { signal: options.signal });
    await closeImageNode(this.#work, this.file);
    await this.file.giveBack();
    await this.file.check();
    await this.file.digest(options.signal);
  }

  async giveUp(): Promise<void> {
    await this.allEnded();
    await this.unwind();
  }

  async stop(): Promise<void> {
    if (this.#work.qmp.isOpen) await this.#job.end();
  }

  keepResult = () => this.#work.result.keep();
  unwind = () => this.#work.unwind();

  async #finishJob(options: CopyOptions): Promise<void> {
    const { qmp, guest, disk: { job } } = this.#work;
    let failure: Failure | null;
    try {
      const end = await this.#job.wait(options, (how) =>
        waitForJob(qmp, job, {
          ...how,
          onProgress: (job) => {
            this.#refuseOutgrown(job["total-progress"]);
            how.onProgress(job);
          },
        }));
      const fault = { operation: this.#errors.ofJob(job), reason: end.error ?? null };
      failure = end.error === undefined
        ? null
        : await this.#job.failure(end, fault, { isFleeced: false });
    } finally {
      await this.stop().catch(() => {}).finally(this.allEnded);
    }
    if (failure === null) return;
    await guest.unwind();
    throw failure;
  }

  /** Between the plan and the point in time the guest may have written more than was reserved for. */
  #refuseOutgrown(changedBytes: number) {
    const { disk, reserveBytes } = this.disk;
    if (neededBytes(disk, changedBytes) <= reserveBytes) return;
    throw new Failure(`The guest writes too much to "${disk.name}" just now: run again`);
  }
}

/** The point in time: all jobs start, and read what is on the disks then. */
export function startJobs(qmp: QmpClient, plan: Plan): Moment {
  return {
    take: (disks) => qmp.execute("transaction", backupJobs(plan, disks)),
    probe: (disk) => probeJob(qmp, plan, disk),
  };
}

/** Starts a job in a transaction that never comes about: its last action refuses. */
async function probeJob(qmp: QmpClient, plan: Plan, disk: DiskPlan): Promise<void> {
  const abort = { type: "abort", data: {} };
  const refusal = async (actions: unknown[]) => {
    const answer = qmp.execute("transaction", { actions: [...actions, abort] });
    return await answer.then(() => null, (error) => error);
  };
  const own = await refusal(jobActions(plan, disk));
  const always = await refusal([]);
  if (messageOf(own) === messageOf(always)) return;
  throw own;
}

/** A point that as many have to reach before any goes on. */
export function gathering(count: number): () => Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  let missing = count;
  return () => {
    if (--missing === 0) resolve();
    return promise;
  };
}
